# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of the script and its rules: one purge at a time."""

from __future__ import annotations

import datetime
import json
import sqlite3
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.answers import Answer, Refused, Request, one_line
from common.ledger import Ledger, state_folder
from common.loopback import Loopback, LoopbackError
from common.parameters import PAGE_PARAMETERS, WholeNumber, row_number, takes

from .archive import Archive
from .conditions import Conditions, conditions
from .history import History, now_utc, who_asks
from .parameters import PARAMETERS, wants_json
from .purge import UNFINISHED, Purge
from .schedule import is_due, seconds_until
from .settings import Rule, Settings, rule_conditions
from .studies import Study, facts

LISTED = 1000  # studies that an answer names at most
AFTER_ERROR = 2.0  # seconds until the next try when Orthanc does not answer
CLOCK_JUMP = 600.0  # seconds; a clock set further ahead than this starts no rule
TABLES = """
CREATE TABLE IF NOT EXISTS purges(id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, continues INTEGER NOT NULL,
    asked TEXT NOT NULL, conditions TEXT NOT NULL, created REAL NOT NULL, ended REAL);
CREATE TABLE IF NOT EXISTS studies(purge INTEGER NOT NULL, number INTEGER NOT NULL, study TEXT NOT NULL,
    facts TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY(purge, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS studies_by_state ON studies(purge, state);
CREATE TABLE IF NOT EXISTS runs(rule TEXT NOT NULL, day TEXT NOT NULL, PRIMARY KEY(rule, day));
"""
FINISHED = ("deleted", "gone", "kept", "failed")


class Purges:
    """The script's routes and its rules: one purge at a time, remembered until it has ended."""

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], refusal: str | None, version: str) -> None:
        self._settings, self._configuration, self._refusal = settings, configuration, refusal
        self._version = version
        loopback = Loopback(configuration)
        if not refusal and not loopback.enabled:
            self._refusal = 'purge_old_studies stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
        self._loopback, self._archive = loopback, Archive(loopback, settings)
        self._opening, self._busy = threading.Lock(), threading.Lock()
        self._opened = False
        self._stopping = threading.Event()
        self._current: Purge | None = None
        self._threads: list[threading.Thread] = []

    # From start to stop

    def on_change(self, change: int, _level: int, _resource: str) -> None:
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            if reason := self.unavailable():
                orthanc.LogError(reason)
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._stop()

    def unavailable(self) -> str | None:
        """Why nothing can be purged, or None. What is needed is opened here, at the start or with the first request."""
        with self._opening:
            if self._refusal is None and not self._opened:
                try:
                    self._open()
                    self._opened = True
                except (OSError, sqlite3.Error) as error:
                    return f"purge_old_studies: its ledger or history can't be opened: {error}"
        return self._refusal

    def _open(self) -> None:
        folder = state_folder(self._settings.state_path, self._configuration)
        durability = self._settings.durability
        self._ledger = Ledger(folder / "purge_old_studies.sqlite", TABLES, durability=durability)
        self._history = History(folder / "purge_old_studies.jsonl", durable=durability == "full")
        with self._ledger.transaction() as db:
            before = time.time() - self._settings.keep_done_days * 86400
            db.execute("DELETE FROM studies WHERE purge IN (SELECT id FROM purges WHERE ended<?)", (before,))
            db.execute("DELETE FROM purges WHERE ended<?", (before,))
        unfinished = self._ledger.rows("SELECT * FROM purges WHERE state IN ('running','cancelled') AND ended IS NULL")
        if unfinished:
            self._busy.acquire()
            self._thread(lambda: self._go_on(unfinished), "purge-goes-on")
        if self._settings.rules:
            self._thread(self._schedule, "purge-schedule")

    def _thread(self, target: Callable[[], object], name: str) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=target, name=name, daemon=True))
        self._threads[-1].start()

    def _stop(self) -> None:
        self._stopping.set()
        if purge := self._current:
            purge.stopping = True
        deadline = time.monotonic() + 2
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # A purge, from request to end

    @takes(PARAMETERS, get_acts=True)
    def purge(self, request: Request) -> Any:
        """Delete the studies that the parameters name, or tell which that would be (`dry-run`)."""
        found = request.parameters
        as_json = wants_json(found, request)
        asked = conditions(found, _today(), has_labels="Labels" not in found or self._archive.has_labels)
        if found.get("dry-run"):
            summary = self._dry_run(asked)
            return summary if as_json else "".join(f"{name}: {_in_words(value)}\n" for name, value in summary.items())
        if not self._busy.acquire(blocking=False):
            current = f"purge {self._current.number}" if self._current else "another purge"
            raise Refused(409, f"One purge at a time, and {current} is going on: see /purge-old-studies/jobs")
        who = {**who_asks(request.headers), "Rule": None}
        purge = self._begin(asked, who, force=bool(found.get("force")), continues=bool(found.get("async")))
        if found.get("async"):
            return Answer({"ID": purge.number, "Path": f"/purge-old-studies/jobs/{purge.number}"}, 202)
        purge.done.wait()
        return self._answer(purge.number, asked, as_json=as_json)

    def _dry_run(self, asked: Conditions) -> dict[str, Any]:
        try:
            return self._archive.summary(self._archive.chosen(asked), asked)
        except LoopbackError as error:
            raise Refused(503, f"Orthanc does not tell which studies these are: {error}") from None

    def _begin(self, asked: Conditions, who: Mapping[str, Any], *, force: bool, continues: bool) -> Purge:
        """Choose, write down, and start; called with `_busy`, which is released when all is done or something raises."""
        try:
            if self._stopping.is_set():
                raise Refused(503, "Orthanc is stopping")
            studies = self._archive.chosen(asked)
            if not force and (refusal := self._too_many(len(studies))):
                self._tell("refused", None, who, Reason=refusal, Conditions=asked.as_json())
                raise Refused(403, f"{refusal}; force=true does it nevertheless")
            number = self._write_down(asked, who, studies, continues=continues)
            purge = self._current = Purge(number, asked, self._ledger, self._history, self._archive, who)
            self._thread(lambda: self._run_one(purge), f"purge-{number}")
            return purge
        except LoopbackError as error:
            self._busy.release()
            raise Refused(503, f"Orthanc does not tell which studies these are: {error}") from None
        except BaseException:
            self._busy.release()
            raise

    def _tell(self, event: str, number: int | None, who: Mapping[str, Any], **more: Any) -> None:
        self._history.add([{"Time": now_utc(), "Purge": number, "Event": event, **more, **who}])

    def _too_many(self, count: int) -> str | None:
        most, percent = self._settings.max_studies, self._settings.max_percent
        if most and count > most:
            return f"{count} studies would go, more than MaxStudies ({most})"
        if percent and count * 100 > percent * (total := self._archive.count()):
            return f"{count} of {total} studies would go, more than MaxPercent ({percent:g})"
        return None

    def _write_down(self, asked: Conditions, who: Any, studies: list[Study], *, continues: bool) -> int:
        """Write down what is to go; the purge's number."""
        with self._ledger.transaction() as db:
            sql = "INSERT INTO purges VALUES(NULL,'running',?,?,?,?,NULL)"
            values = (continues, json.dumps(who), json.dumps(asked.as_json()), time.time())
            number = int(db.execute(sql, values).lastrowid or 0)
            rows = ((number, index, study.id, json.dumps(facts(study))) for index, study in enumerate(studies))
            db.executemany("INSERT INTO studies VALUES(?,?,?,?,'waiting','')", rows)
        self._tell("started", number, who, Studies=len(studies), Conditions=asked.as_json())
        return number

    def _run_one(self, purge: Purge) -> None:
        try:
            self._run(purge)
        finally:
            self._current = None
            self._busy.release()
            purge.done.set()

    def _run(self, purge: Purge) -> None:
        try:
            state = self._patiently(purge)
        except Exception:  # noqa: BLE001 - whatever it was: nothing more is deleted, and it is told
            state = "interrupted"
            orthanc.LogError(f"purge_old_studies: purge {purge.number} was interrupted:\n{traceback.format_exc()}")
        row = self._row(purge.number)
        if state == "interrupted" and self._stopping.is_set() and row["continues"]:
            return  # the next start goes on
        try:
            purge.complete_record()  # where something was raised: a batch that went meanwhile
            self._end(purge.number, state)
        except (OSError, sqlite3.Error, LoopbackError, orthanc.OrthancException) as error:
            # It counts as going on: the next start completes its record.
            what = f"the end of purge {purge.number} can't be written down"
            orthanc.LogError(f"purge_old_studies: {what}: {one_line(error)}")

    def _patiently(self, purge: Purge) -> str:
        """Run a purge; where Orthanc did not answer, from where it stopped, ten times in all."""
        for _ in range(9):
            try:
                return purge.run()
            except LoopbackError as error:
                orthanc.LogError(f"purge_old_studies: purge {purge.number} waits: {one_line(error)}")
                if self._stopping.wait(AFTER_ERROR):
                    return "interrupted"
        return purge.run()

    def _end(self, number: int, state: str) -> None:
        found = self._job(self._row(number))
        totals = {name: found[name] for name in ("Deleted", "Gone", "Kept", "Failed", "Remaining")}
        who = json.loads(self._row(number)["asked"])
        for name, count in totals.items():
            orthanc.SetMetricsValue(f"purge_old_studies_{name.lower()}", float(count), orthanc.MetricsType.DEFAULT)
        self._tell("ended", number, who, State=state, **totals)
        self._ledger.run("UPDATE purges SET state=?,ended=? WHERE id=?", state, time.time(), number)
        orthanc.LogWarning(
            f"purge_old_studies: purge {number} is {state}: " + ", ".join(f"{k} {v}" for k, v in totals.items())
        )

    def _go_on(self, rows: list[dict[str, Any]]) -> None:
        """After a restart: what was asynchronous or a rule's goes on; of all others the record is completed, and no more."""
        try:
            for row in rows:
                asked = Conditions.from_json(row["conditions"])
                purge = Purge(row["id"], asked, self._ledger, self._history, self._archive, json.loads(row["asked"]))
                purge.cancelled = row["state"] == "cancelled"
                purge.stopping = self._stopping.is_set()
                self._current = purge
                if row["continues"] or purge.cancelled:
                    self._run(purge)
                else:
                    purge.complete_record()
                    self._end(row["id"], "interrupted")
        except Exception:  # noqa: BLE001 - what is not ended now is looked at again at the next start
            orthanc.LogError(f"purge_old_studies can't go on now:\n{traceback.format_exc()}")
        finally:
            self._current = None
            self._busy.release()

    def _answer(self, number: int, asked: Conditions, *, as_json: bool) -> Any:
        row = self._row(number)
        found = self._job(row)
        if row["state"] == "done":
            return (
                {"Deleted": found["Deleted"], "Since": f"{asked.last:%Y%m%d}"} if as_json else f"{found['Deleted']}\n"
            )
        left = found["Kept"] + found["Failed"] + found["Remaining"]
        message = (
            f"{found['Deleted']} studies went, {left} did not ({row['state']}): see /purge-old-studies/jobs/{number}"
        )
        states = {name: self._studies(number, *of) for name, of in (("Failed", ("failed",)), ("Kept", ("kept",)))}
        details = {name: [each["ID"] for each in studies] for name, studies in states.items()}
        raise Refused(500, message, Purge=number, Deleted=found["Deleted"], Remaining=found["Remaining"], **details)

    # What there is to look at

    def _row(self, number: int) -> dict[str, Any]:
        rows = self._ledger.rows("SELECT * FROM purges WHERE id=?", number)
        if not rows:
            raise Refused(404, "There is no such purge; /purge-old-studies/jobs lists them")
        return rows[0]

    def _job(self, row: Mapping[str, Any]) -> dict[str, Any]:
        sql = "SELECT state, COUNT(*) n FROM studies WHERE purge=? GROUP BY state"
        counts = Counter({each["state"]: each["n"] for each in self._ledger.rows(sql, row["id"])})
        total, remaining = counts.total(), sum(counts[state] for state in UNFINISHED)
        purge = self._current
        rate = purge.rate if purge and purge.number == row["id"] else 0.0
        return {
            "ID": row["id"],
            "State": row["state"],
            "Asynchronous": bool(row["continues"]),
            "Progress": 100 if not total else (total - remaining) * 100 // total,
            "Studies": total,
            **{state.capitalize(): counts[state] for state in FINISHED},
            "Remaining": remaining,
            "Rate": round(rate, 1),
            "Conditions": json.loads(row["conditions"]),
            "Created": _utc(row["created"]),
            "Ended": _utc(row["ended"]),
            **json.loads(row["asked"]),
        }

    def _studies(self, number: int, *states: str) -> list[dict[str, Any]]:
        marks = ",".join("?" * len(states))
        sql = f"SELECT * FROM studies WHERE purge=? AND state IN ({marks}) ORDER BY number LIMIT {LISTED}"
        rows = self._ledger.rows(sql, number, *states)
        return [{"ID": row["study"], "State": row["state"], "Reason": row["reason"]} for row in rows]

    @takes(PAGE_PARAMETERS)
    def jobs(self, request: Request) -> Any:
        """A page of purges, the first one first: `since` (the last one's id) and `limit`."""
        since, limit = request.parameters.get("since", 0), request.parameters.get("limit", 100)
        rows = self._ledger.rows("SELECT * FROM purges WHERE id>? ORDER BY id LIMIT ?", since, limit + 1)
        total = self._ledger.rows("SELECT COUNT(*) n FROM purges")[0]["n"]
        items = [self._job(row) for row in rows[:limit]]
        return {"Total": total, "Items": items, "Next": items[-1]["ID"] if len(rows) > limit else None}

    def job(self, request: Request) -> Any:
        """One purge: its state, what went, what is left, the rate, and why studies did not go."""
        row = self._row(row_number(request.groups[0]))
        return {**self._job(row), "NotDeleted": self._studies(row["id"], "kept", "failed")}

    def cancel(self, request: Request) -> Any:
        """Let a purge that is going on stop after what it is deleting at the moment."""
        row = self._row(row_number(request.groups[0]))
        purge = self._current
        if purge is None or purge.number != row["id"]:
            raise Refused(409, f"Purge {row['id']} is not going on any more: it is {row['state']}")
        # Written down first: a kill in this moment must not let it go on at the next start.
        self._ledger.run("UPDATE purges SET state='cancelled' WHERE id=? AND ended IS NULL", row["id"])
        purge.cancelled = True
        return self._job(self._row(row["id"]))

    @takes({**PAGE_PARAMETERS, "purge": WholeNumber()})
    def history(self, request: Request) -> Any:
        """A page of the record, oldest line first: `since` (the last line's number), `limit`, and `purge` for one."""
        found = request.parameters
        return self._history.page(found.get("since", 0), found.get("limit", 100), found.get("purge"))

    def status(self, _request: Request) -> Any:
        """Whether it runs, what is going on, and its totals."""
        counts = self._ledger.rows("SELECT state, COUNT(*) n FROM purges GROUP BY state")
        current = self._current
        deleted = self._ledger.rows("SELECT COUNT(*) n FROM studies WHERE state='deleted'")[0]["n"]
        return {
            "State": "purging" if current else "running",
            "Purge": current.number if current else None,
            "Purges": {row["state"]: row["n"] for row in counts},
            "Deleted": deleted,
            "Rules": [rule.name for rule in self._settings.rules],
            "Version": self._version,
        }

    # Rules

    def _schedule(self) -> None:
        """Run each rule when its time passes while this runs: what was missed while down waits for its next time."""
        before, ticks, clock = datetime.datetime.now(), time.monotonic(), time.time()  # noqa: DTZ005 - local times
        while not self._stopping.wait(min(20.0, max(0.05, seconds_until(self._settings.rules, before)))):
            now, ahead = datetime.datetime.now(), (time.time() - clock) - (time.monotonic() - ticks)  # noqa: DTZ005
            due = [rule for rule in self._settings.rules if is_due(rule, before, now)]
            if due and ahead > CLOCK_JUMP:
                # Every age is counted from this clock; a machine that has slept is the same: the run was missed.
                names = ", ".join(rule.name for rule in due)
                orthanc.LogError(f"purge_old_studies: the clock went {ahead:.0f} s ahead; not run this time: {names}")
                due = []
            before, ticks, clock = now, time.monotonic(), time.time()
            for rule in due:
                self._run_rule(rule, now.date())

    def _run_rule(self, rule: Rule, today: datetime.date) -> None:
        if not self._ledger.run("INSERT OR IGNORE INTO runs VALUES(?,?)", rule.name, f"{today:%Y%m%d}"):
            return  # it ran on this day already: the clock was set back, or the hour comes twice
        while not self._busy.acquire(timeout=1):
            if self._stopping.is_set():
                return
        try:
            asked = rule_conditions(rule, today, has_labels=not rule.labels or self._archive.has_labels)
        except Refused as refused:
            self._busy.release()
            orthanc.LogError(f"purge_old_studies: rule {rule.name} does not run: {refused.message}")
            return
        try:
            self._begin(asked, {"User": None, "Rule": rule.name}, force=False, continues=True).done.wait()
        except Refused as refused:
            orthanc.LogError(f"purge_old_studies: rule {rule.name} does not run this time: {refused.message}")
        except (LoopbackError, OSError, sqlite3.Error, orthanc.OrthancException) as error:
            orthanc.LogError(f"purge_old_studies: rule {rule.name} does not run this time: {one_line(error)}")


def _today() -> datetime.date:
    return datetime.date.today()  # noqa: DTZ011 - days are the server's local ones


def _utc(seconds: float | None) -> str | None:
    moment = None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)  # noqa: UP017
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one_line(each)}" for name, each in value.items())
    return one_line("none" if value is None else value)
