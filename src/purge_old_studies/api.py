# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of the script."""

from __future__ import annotations

import dataclasses
import functools
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import orthanc

from common.http_threads import HttpTurns
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.parameters import PAGE_PARAMETERS, WholeNumber, row_number, takes
from common.route_list import answers
from common.routes import Answer, Refused, Request, one_line
from common.state import state_folder, storage_folder
from common.status import RUNNING, Condition, condition_of
from common.undelivered import in_words
from common.worker import STOPS_WITHIN, Worker

from .archive import Archive
from .clock import DAY_SECONDS, Clock, Reading, local_day, utc_time
from .conditions import Conditions, conditions, received_until
from .disk import Disk
from .elsewhere import Elsewhere
from .guards import warn_of_guards
from .history import History, now_utc, who_asks
from .jobs import TABLES, Jobs
from .measures import Measures
from .parameters import PARAMETERS, wants_json
from .rules import RuleViews
from .runner import Runner
from .schedule import Schedule
from .settings import Settings
from .space import SpaceRules
from .summary import summary

KEEP_FINISHED_DAYS = 30.0  # in the list
FORGET_EVERY = 60.0  # seconds


class Purges:
    """The script's routes, from its start to its stop."""

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], refusal: str | None) -> None:
        self._settings, self._configuration, self._refusal = settings, configuration, refusal
        self._loopback = Loopback(configuration)
        if not refusal and not self._loopback.enabled:
            self._refusal = 'purge_old_studies stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
        self.turns = HttpTurns(configuration, "dry runs")
        self.elsewhere = Elsewhere(configuration, self._loopback)
        self._worker = Worker("purge_old_studies", self._open, self._forget_old)
        self._runner: Runner | None = None

    # From start to stop

    def on_change(self, change: int, _level: int, _resource: str) -> None:
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            if self._refusal:
                orthanc.LogError(self._refusal)
            else:
                self._worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            deadline = time.monotonic() + STOPS_WITHIN
            if self._runner:
                self._runner.stop()
            self._worker.stop(deadline - time.monotonic())

    def unavailable(self) -> str | None:
        """Return why nothing can be purged, or None."""
        return self._refusal or self._worker.why_not()

    def condition(self) -> Condition:
        """Return whether the script works; a clock that is doubted holds up its rules."""
        found = condition_of(self._worker, self._refusal)
        if found.state != RUNNING or found.reason:
            return found
        return dataclasses.replace(found, reason=self._clock.read().doubt or None)

    def _open(self) -> Ledger:
        folder = state_folder(self._settings.state_path, self._configuration, "purge_old_studies")
        ledger = Ledger(folder / "purge_old_studies.sqlite", TABLES, durability=self._settings.durability)
        try:
            self._ledger, self._clock, self._jobs = ledger, Clock(ledger), Jobs(ledger)
            self._history = History(folder / "purge_old_studies.jsonl", durable=self._settings.durability == "full")
            self._archive = Archive(self._loopback, self._settings, self._clock, self.elsewhere)
            runner = Runner(self._settings, ledger, self._history, self._archive)
            schedule = Schedule(self._settings, ledger, self._clock, self._archive, runner)
            disk = Disk(self._loopback, storage_folder(self._configuration))
            space = SpaceRules(self._settings, self._jobs, self._clock, self._archive, runner, disk)
            self._rules = RuleViews(self._settings, self._clock, self._archive, runner.last_runs, schedule, space)
            self.measures = Measures(runner, self._clock, space, disk, self._archive)
            runner.start()
        except BaseException:
            ledger.close()  # the next try opens it
            raise
        self._runner = runner
        runner.thread(schedule.run, "purge-schedule")
        runner.thread(self._history.read_ahead, "purge-history")
        runner.thread(space.run, "purge-space")
        runner.thread(lambda: warn_of_guards(self._settings, self._archive), "purge-guards")
        return ledger

    def _forget_old(self) -> float:
        """Forget some of what ended long ago; return the seconds until more of it may go."""
        before = self._clock.read().earliest - KEEP_FINISHED_DAYS * DAY_SECONDS
        return 0.1 if self._jobs.forget_some(before) else FORGET_EVERY

    # A purge, from request to end

    @takes(PARAMETERS, get_acts=True)
    @answers(200, 202, 403, 409, 500, media=("text/plain", "application/json"))
    def purge(self, request: Request) -> Any:
        """Delete the studies that the parameters name, or show which those are (`dry-run`)."""
        found = request.parameters
        as_json = wants_json(found, request)
        reading = self._clock.read()
        asked = self._conditions(found, reading)
        self.elsewhere.check_asked(asked.only_if_at, self.turns)
        if found.get("dry-run", request.method == "POST"):
            content = self._dry_run(asked, reading, force=bool(found.get("force")))
            if request.method == "POST":
                content["Note"] = 'Nothing was deleted. The same with "dry-run": false deletes'
            return content if as_json else "".join(f"{name}: {_shown(value)}\n" for name, value in content.items())
        runner = self._running()
        if not runner.busy.acquire(blocking=False):
            current = f"purge {purge.number}" if (purge := runner.current) else "another purge"
            raise Refused(409, f"One purge at a time, and {current} is going on: see /purge-old-studies/jobs")
        who = {**who_asks(request.headers), "Rule": None}
        purge = runner.begin(asked, who, force=bool(found.get("force")), continues=bool(found.get("async")))
        if found.get("async"):
            return Answer({"ID": purge.number, "Path": f"/purge-old-studies/jobs/{purge.number}"}, 202)
        purge.done.wait()
        return self._answer(purge.number, asked, as_json=as_json)

    def _running(self) -> Runner:
        assert self._runner  # `unavailable` has said so
        return self._runner

    def _conditions(self, found: Mapping[str, Any], reading: Reading) -> Conditions:
        """Return which studies are meant. What depends on a clock that is doubted is refused (409), also a dry run."""
        has_labels = "Labels" not in found or self._archive.index.has_labels
        keeps = found.get("keep-received-days", 0)
        try:
            asked = conditions(found, local_day(reading.earliest), has_labels=has_labels)
        except Refused as refused:
            doubt = f". {reading.doubt}" if reading.doubt else ""
            raise Refused(refused.status, f"{refused.message}{doubt}") from None
        if reading.doubt and ("older-than" in found or keeps):
            raise Refused(409, f"{reading.doubt}. A purge by since=YYYYMMDD alone needs no clock")
        return dataclasses.replace(asked, received_until=received_until(keeps, reading.now))

    def _dry_run(self, asked: Conditions, reading: Reading, *, force: bool) -> dict[str, Any]:
        try:
            with self.turns.turn():
                choice = self._archive.chosen(asked)
                content = summary(self._archive.index, choice.studies, asked, reading.earliest)
            if choice.undelivered:
                content["Undelivered"] = dict(choice.undelivered)
            if not force and (refusal := self._running().too_many(content["Studies"])):
                content["Refused"] = f"{refusal}; force=true does it nevertheless"
            return content
        except LoopbackError as error:
            raise Refused(503, f"Orthanc does not tell which studies these are: {error}") from None

    def _answer(self, number: int, asked: Conditions, *, as_json: bool) -> Any:
        row = self._jobs.row(number)
        found = self._job(row)
        if row["state"] == "done":
            content = {"Deleted": found["Deleted"], "Since": f"{asked.last:%Y%m%d}"}
            if undelivered := found["Undelivered"]:
                content["Undelivered"] = undelivered
            stay = "".join(f"; {in_words(count, reason)}" for reason, count in undelivered.items())
            return content if as_json else f"Purged {asked.in_words(found['Deleted'])}{stay}\n"
        left = found["Kept"] + found["Failed"] + found["Remaining"]
        text = f"{found['Deleted']} studies went, {left} did not ({row['state']}): see /purge-old-studies/jobs/{number}"
        states = {name: self._jobs.studies(number, *of) for name, of in (("Failed", ("failed",)), ("Kept", ("kept",)))}
        details = {name: [each["ID"] for each in studies] for name, studies in states.items()}
        raise Refused(500, text, Purge=number, Deleted=found["Deleted"], Remaining=found["Remaining"], **details)

    # What there is to look at

    @takes(PAGE_PARAMETERS)
    def jobs(self, request: Request) -> Any:
        """A page of purges, the first one first: `since` (the last one's id) and `limit`."""
        since, limit = request.parameters.get("since", 0), request.parameters.get("limit", 100)
        rows, total, more = self._jobs.page(since, limit)
        items = [self._job(row) for row in rows]
        return {"Total": total, "Items": items, "Next": items[-1]["ID"] if more else None}

    def _job(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self._jobs.as_json(row, self._running().rate(row["id"]))

    def job(self, request: Request) -> Any:
        """One purge: its state, what was deleted, what is left, the rate, and why studies were not deleted."""
        row = self._jobs.row(row_number(request.groups[0]))
        return {**self._job(row), "NotDeleted": self._jobs.studies(row["id"], "kept", "failed")}

    @answers(409)
    def cancel(self, request: Request) -> Any:
        """Let a purge that is going on stop after what it is deleting at the moment."""
        row = self._jobs.row(row_number(request.groups[0]))
        purge = self._running().current
        if purge is None or purge.number != row["id"]:
            raise Refused(409, f"Purge {row['id']} is not going on any more: it is {row['state']}")
        # Written down first: a kill in this moment must not let it go on at the next start.
        self._ledger.run("UPDATE purges SET state='cancelled' WHERE id=? AND ended IS NULL", row["id"])
        purge.cancelled = True
        return self._job(self._jobs.row(row["id"]))

    @takes({**PAGE_PARAMETERS, "purge": WholeNumber()})
    def history(self, request: Request) -> Any:
        """A page of the record, oldest line first: `since` (the last line's number), `limit`, and `purge` for one."""
        found = request.parameters
        return self._history.page(found.get("since", 0), found.get("limit", 100), found.get("purge"))

    def status(self, _request: Request) -> Any:
        """Whether it runs, what is going on, its totals, and of each rule the next run, the last one, and how that went."""
        current, totals = self._running().current, self._jobs.totals()
        return {
            "Totals": totals["Purges"],
            "Purge": current.number if current else None,
            "Deleted": totals["Deleted"],
            "Rules": self._rules.status(),
            "Clock": self._clock.read().as_json(),
        }

    @answers(409)
    def dry_run_of_rule(self, request: Request) -> Any:
        """What a rule would delete if it ran now, and why: a dry run."""
        return self._rules.dry_run(request, self.turns, functools.partial(self._dry_run, force=False))

    def confirm_clock(self, request: Request) -> Any:
        """Believe the clock as it is now, although it is not what was to be expected: rules run again."""
        line = {"Time": now_utc(), "Purge": None, "Event": "clock confirmed", **who_asks(request.headers)}
        try:
            self._history.add([{**line, "Expected": utc_time(self._clock.read().expected)}])
            return self._clock.confirm().as_json()
        except (OSError, sqlite3.Error) as error:
            raise Refused(503, f"That can't be recorded, so the clock is doubted as before: {error}") from None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {one_line(each)}" for name, each in value.items())
    return one_line("none" if value is None else value)
