# SPDX-License-Identifier: AGPL-3.0-or-later
"""The engine of the forwarders: what became stable goes to each destination, as rows of the ledger and jobs of Orthanc."""

import calendar
import dataclasses
import datetime
import json
import sqlite3
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orthanc

from common.answers import Answer, Refused, Request, one_line, serve
from common.days import parse_day
from common.feed import FEED_TABLES, Feed
from common.ledger import STATES, Ledger, state_folder
from common.loopback import Loopback, LoopbackError

TICK = 5.0  # seconds between looks at changes and jobs when no event wakes us
AFTER_ERROR = 2.0  # seconds until the next try when Orthanc or the ledger can't be reached
KEEP_EARLY_ENDS = 60.0  # seconds; the end event of a job can come before the answer to the POST that submitted it
UNFINISHED = ("Pending", "Running", "Paused", "Retry")  # states of a job that may still send
DAY = 86400.0  # seconds


@dataclasses.dataclass(frozen=True)
class Kind:
    """What differs between DICOM nodes and peers."""

    route: str  # Orthanc's: "modalities" or "peers"
    changed: str  # the name of the event that says that they changed
    job_type: str
    is_for: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]  # whether a job's content names this destination


class Forwarder:
    """Sends what the feed hands over, so that it arrives although Orthanc is killed and destinations are away.

    Each (study, destination) is a row of the ledger before anything is sent. An attempt is an asynchronous job, whose end
    settles the row; a failed one goes again with backoff. One thread does all that, woken by `on_change`.

    Parameters
    ----------
    name : of the script, with dashes: of its routes, its thread and its ledger.
    settings : with `destinations`, `retry` (`first`, `longest`, `give_up_hours`), `max_per_destination`, `reconcile`,
        `durability`, `state_path`, `keep_done_days`.
    configuration : Orthanc's.
    """

    def __init__(self, name: str, kind: Kind, settings: Any, configuration: Mapping[str, Any]) -> None:
        self.unavailable: str | None = f"{name} has not started yet"
        self._name, self._kind, self._settings, self._configuration = name, kind, settings, configuration
        self._loopback = Loopback(configuration)
        self._known: dict[str, Mapping[str, Any]] | None = None
        self._ended: deque[tuple[str, bool]] = deque()
        self._early_ends: dict[str, tuple[bool, float]] = {}
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._complaint = ""
        self._next_look_at_jobs = 0.0
        names = (
            "ORTHANC_STARTED",
            "ORTHANC_STOPPED",
            "NEW_INSTANCE",
            "STABLE_STUDY",
            "JOB_SUCCESS",
            "JOB_FAILURE",
            kind.changed,
        )
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in names}

    # What Orthanc tells: return at once

    def on_change(self, change: int, _level: int, resource: str) -> None:
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self._start()
        elif event == "ORTHANC_STOPPED":
            self._stop()
        elif event is None or self.unavailable is not None:
            return
        elif event == "NEW_INSTANCE":
            self._feed.hear("NewInstance", resource)
        else:
            if event == "STABLE_STUDY":
                self._feed.hear("StableStudy", resource)
            elif event == self._kind.changed:
                self._known = None
            else:
                self._ended.append((resource, event == "JOB_SUCCESS"))
            self._wake.set()

    def _start(self) -> None:
        if not self._loopback.enabled:
            self.unavailable = f'{self._name} stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
            orthanc.LogError(self.unavailable)
            return
        path = state_folder(self._settings.state_path, self._configuration) / f"{self._name.replace('-', '_')}.sqlite"
        try:
            self._ledger = Ledger(path, FEED_TABLES, durability=self._settings.durability)
        except (OSError, sqlite3.Error) as error:
            self.unavailable = f"{self._name} stays idle: its ledger {path} can't be opened: {error}"
            orthanc.LogError(self.unavailable)
            return
        if self._ledger.fresh:
            orthanc.LogWarning(_about_new_ledger(self._name, self._ledger))
        stable_age = float(self._configuration.get("StableAge", 60))
        self._feed = Feed(self._ledger, self._loopback, self._settled, ("Study",), stable_age, self._settings.reconcile)
        self.unavailable = None
        self._thread.start()

    def _stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2)

    # The one thread

    def _work(self) -> None:
        begun = False
        while not self._stopping.is_set():
            try:
                if not begun:
                    self._feed.begin()
                    begun = True
                self._feed.poll()
                self._settle_ended_jobs()
                self._look_at_jobs()
                self._submit()
                self._complaint = ""
                wait = TICK
            except (LoopbackError, sqlite3.Error, OSError) as error:
                self._complain(f"{self._name} goes on when this is over: {one_line(error)}")
                wait = AFTER_ERROR
            except Exception:  # noqa: BLE001 - one bad study never ends the thread that serves all
                self._complain(f"{self._name} met an error, please report it:\n{traceback.format_exc()}")
                wait = TICK
            self._wake.wait(wait)
            self._wake.clear()

    def _complain(self, text: str) -> None:
        if text != self._complaint and not self._stopping.is_set():
            orthanc.LogError(text)
        self._complaint = text

    def _settled(self, _level: str, study: str, instances: Mapping[str, int]) -> None:
        """A study is stable: in the feed's transaction, a row for each destination with the instances that are new."""
        for destination in self.destinations():
            self._add(study, destination, sorted(instances))

    def _add(self, study: str, destination: str, instances: list[str] | None) -> None:
        # What waits for the same destination goes with it; None stands for the whole study.
        waiting = self._ledger.rows(
            "SELECT id, data FROM work WHERE subject=? AND queue=? AND state='waiting' LIMIT 1", study, destination
        )
        if not waiting:
            self._ledger.add(destination, study, {"Instances": instances})
            return
        before = json.loads(waiting[0]["data"])["Instances"]
        merged = None if before is None or instances is None else sorted({*before, *instances})
        self._ledger.run("UPDATE work SET data=? WHERE id=?", json.dumps({"Instances": merged}), waiting[0]["id"])

    # Destinations

    def known(self) -> dict[str, Mapping[str, Any]]:
        """The destinations that Orthanc knows now, from its configuration and its database, with their settings."""
        if self._known is None:
            self._known = self._loopback.get(f"/{self._kind.route}?expand")
            if unknown := [name for name in self._settings.destinations if name not in self._known]:
                orthanc.LogError(
                    f"{self._name}: Destinations names {', '.join(unknown)}, which Orthanc does not know; "
                    f"known are: {', '.join(self._known) or 'none'}. The others are served."
                )
        return self._known

    def destinations(self) -> list[str]:
        """The destinations to serve: those listed that Orthanc knows, or all that it knows."""
        known = self.known()
        return [name for name in self._settings.destinations if name in known] or (
            [] if self._settings.destinations else list(known)
        )

    # Jobs

    def _submit(self) -> None:
        concurrent = int(self._configuration.get("ConcurrentJobs", 2)) or 1
        shared = concurrent if len(self.destinations()) <= 1 else max(1, concurrent - 1)
        slots = self._settings.max_per_destination or shared
        sending = self._ledger.rows("SELECT queue, COUNT(*) n FROM work WHERE state='sending' GROUP BY queue")
        busy = {row["queue"]: row["n"] for row in sending}
        for queue in self._ledger.rows("SELECT DISTINCT queue FROM work WHERE state='waiting'"):
            name = queue["queue"]
            for row in self._ledger.due(name, max(0, slots - busy.get(name, 0)), self._settings.retry.longest):
                if self._stopping.is_set():
                    return
                self._attempt(row)

    def _attempt(self, row: dict[str, Any]) -> None:
        self._ledger.start(row["id"])
        row["attempts"] += 1
        if row["queue"] not in self.known():
            self._fail(
                row, f"Orthanc does not know {row['queue']} any more; known are: {', '.join(self.known()) or 'none'}"
            )
            return
        instances = json.loads(row["data"])["Instances"]
        try:
            job = self._post_job(row, [row["subject"]] if instances is None else instances)
        except LoopbackError as error:
            if error.status == 0:
                raise  # whether there is a job now, only Orthanc knows: _look_at_jobs asks
            self._fail(row, str(error))
            return
        if job is None:
            self._ledger.end(row["id"], "gone")
            orthanc.LogInfo(f"{self._name}: study {row['subject']} was deleted before {row['queue']} got it")
            return
        self._ledger.run("UPDATE work SET job=? WHERE id=?", job, row["id"])
        if early := self._early_ends.pop(job, None):
            self._settle({**row, "job": job}, early[0])

    def _post_job(self, row: Mapping[str, Any], resources: list[str]) -> str | None:
        """Submit the job and give its identifier; without what was deleted meanwhile, and None if that was all."""
        path, body = f"/{self._kind.route}/{row['queue']}/store", {"Resources": resources, "Synchronous": False}
        try:
            return str(self._loopback.post(path, body)["ID"])
        except LoopbackError as error:
            if error.status != 404:
                raise
            here = self._still_here(resources)
            if len(here) == len(resources):
                raise  # then it is not the resources that were not found
        return self._post_job(row, here) if here else None

    def _still_here(self, resources: list[str]) -> list[str]:
        here: set[str] = set()
        for start in range(0, len(resources), 500):
            body = {"Resources": resources[start : start + 500], "Short": True}
            here |= {found["ID"] for found in self._loopback.post("/tools/bulk-content", body)}
        return [resource for resource in resources if resource in here]

    def _settle_ended_jobs(self) -> None:
        while self._ended:
            job, success = self._ended[0]
            if rows := self._ledger.rows("SELECT * FROM work WHERE job=? AND state='sending'", job):
                self._settle(rows[0], success)
            else:
                self._early_ends[job] = success, time.monotonic()
            self._ended.popleft()
        oldest = time.monotonic() - KEEP_EARLY_ENDS
        self._early_ends = {job: end for job, end in self._early_ends.items() if end[1] > oldest}

    def _settle(self, row: Mapping[str, Any], success: bool) -> None:
        if success:
            self._ledger.end(row["id"], "done")
            orthanc.LogInfo(f"{self._name}: {row['queue']} has study {row['subject']} (attempt {row['attempts']})")
            return
        try:
            job = self._loopback.get(f"/jobs/{row['job']}")
            self._fail(row, job.get("ErrorDetails") or job.get("ErrorDescription") or "the job failed")
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._fail(row, "the job failed, and Orthanc has forgotten why (JobsHistorySize)")

    def _fail(self, row: Mapping[str, Any], error: str) -> None:
        retry = self._settings.retry
        hours = retry.give_up_hours
        state = self._ledger.fail(
            row["id"], one_line(error), first=retry.first, longest=retry.longest, give_up_after=hours * 3600
        )
        text = f"{self._name}: study {row['subject']} did not reach {row['queue']} (attempt {row['attempts']}): {one_line(error)}"
        if state == "dead":
            orthanc.LogError(
                f"{text}. Given up after {hours:g} hours; POST /{self._name}/deliveries/{row['id']}/retry tries again"
            )
        elif row["attempts"] == 1:
            orthanc.LogWarning(f"{text}. It will be tried again")
        else:
            orthanc.LogInfo(text)

    def _look_at_jobs(self) -> None:
        """Settle the rows whose job ended unseen, and find the job of those that were interrupted while submitting it.

        Orthanc goes on with unfinished jobs after a restart: not to know them would send everything twice.
        """
        if time.monotonic() < self._next_look_at_jobs:
            return
        rows = self._ledger.rows("SELECT * FROM work WHERE state='sending'")
        jobs = self._loopback.get("/jobs?expand") if rows else []
        by_id, taken = {job["ID"]: job for job in jobs}, {row["job"] for row in rows}
        for row in rows:
            job = (
                by_id.get(row["job"])
                if row["job"]
                else self._job_of(row, [job for job in jobs if job["ID"] not in taken])
            )
            if job is None:
                # Its end was missed while Orthanc was down, or it was never submitted: once more is harmless, lost is not.
                self._ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE id=?", row["id"])
                continue
            taken.add(job["ID"])
            self._ledger.run("UPDATE work SET job=? WHERE id=?", job["ID"], row["id"])
            if job["State"] not in UNFINISHED:
                self._settle({**row, "job": job["ID"]}, job["State"] == "Success")
        self._ledger.forget_finished(self._settings.keep_done_days)
        self._next_look_at_jobs = time.monotonic() + TICK

    def _job_of(self, row: Mapping[str, Any], jobs: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        destination = self.known().get(row["queue"])
        instances = json.loads(row["data"])["Instances"]
        resources = {row["subject"]} if instances is None else set(instances)
        for job in jobs:
            content = job.get("Content", {})
            same = destination and job["Type"] == self._kind.job_type and self._kind.is_for(content, destination)
            if same and job["State"] in UNFINISHED and set(content.get("ParentResources", ())) == resources:
                return job
        return None

    # Routes

    def register(self, refusal: str | None = None) -> None:
        """Register the routes; with a `refusal` (the configuration is wrong) they all answer 503 with it."""

        def unavailable() -> str | None:
            return refusal or self.unavailable

        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "status": {"GET": self.get_status},
            "deliveries": {"GET": self.get_deliveries},
            "deliveries/([0-9]+)": {"GET": self.get_delivery, "DELETE": self.drop_delivery},
            "deliveries/([0-9]+)/retry": {"POST": self.retry_delivery},
            "backfill": {"POST": self.backfill},
        }
        for path, handlers in routes.items():
            serve(f"/{self._name}/{path}", handlers, unavailable)

    def get_status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, the destinations it serves, the number of rows in each state, the last error."""
        return {
            "State": "running",
            "Destinations": self.destinations(),
            "Totals": self._ledger.totals(),
            "LastError": self._complaint,
        }

    def get_deliveries(self, request: Request) -> dict[str, Any]:
        """A page of rows, oldest first: `since` (the last row's id), `limit`, and filters by column."""
        columns = {"state": "state", "destination": "queue", "study": "subject", "job": "job"}
        _only(request.query, {*columns, "since", "limit"})
        since, limit = _number(request.query, "since", 0, 2**62), _number(request.query, "limit", 100, 1000)
        if (state := request.query.get("state")) is not None and state not in STATES:
            raise Refused(400, f"state is {one_line(state)!r}, allowed: {', '.join(STATES)}")
        chosen = {column: request.query[name] for name, column in columns.items() if name in request.query}
        where = " AND ".join(["1", *(f"{column}=?" for column in chosen)])
        total = self._ledger.rows(f"SELECT COUNT(*) n FROM work WHERE {where}", *chosen.values())[0]["n"]
        sql = f"SELECT * FROM work WHERE {where} AND id>? ORDER BY id LIMIT ?"
        rows = self._ledger.rows(sql, *chosen.values(), since, limit + 1)
        items = [_shown(row) for row in rows[:limit]]
        return {
            "Total": total,
            "Totals": self._ledger.totals(),
            "Items": items,
            "Next": items[-1]["ID"] if len(rows) > limit else None,
        }

    def get_delivery(self, request: Request) -> dict[str, Any]:
        """One row."""
        return _shown(self._row(request))

    def drop_delivery(self, request: Request) -> dict[str, Any]:
        """Forget a row that is dead or waits; one that is being sent can't be called back."""
        row = self._row(request)
        if not self._ledger.run("DELETE FROM work WHERE id=? AND state<>'sending'", row["id"]):
            raise Refused(409, f"Delivery {row['id']} is being sent; drop it when its job has ended")
        return _shown(row)

    def retry_delivery(self, request: Request) -> dict[str, Any]:
        """Try a row that is dead, or waits, again now, with the whole time until it is given up."""
        row = self._row(request)
        sql = "UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=? WHERE id=? AND state IN ('dead','waiting')"
        if not self._ledger.run(sql, time.time(), row["id"]):
            raise Refused(409, f"Delivery {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        self._wake.set()
        return _shown(self._row(request))

    def _row(self, request: Request) -> dict[str, Any]:
        rows = self._ledger.rows("SELECT * FROM work WHERE id=?", int(request.groups[0][:18]))
        if not rows:
            raise Refused(404, f"There is no delivery {request.groups[0]}")
        return rows[0]

    def backfill(self, request: Request) -> Answer:
        """Send what the archive holds already: whole studies by StudyDate, `From` to `To`, both included; 202 with how many.

        `Destination` (one name, else all), `DryRun` (only count).
        """
        wanted = request.json()
        _only(wanted, {"From", "To", "Destination", "DryRun"})
        first, last = parse_day(wanted.get("From")), parse_day(wanted.get("To"))
        if first is None or last is None or first > last:
            raise Refused(400, "From and To must be days as YYYYMMDD, From not after To")
        chosen, dry = wanted.get("Destination"), wanted.get("DryRun", False)
        if chosen is not None and chosen not in self.destinations():
            raise Refused(
                400, f"Destination is {one_line(chosen)!r}, allowed: {', '.join(self.destinations()) or 'none'}"
            )
        if not isinstance(dry, bool):
            raise Refused(400, "DryRun must be true or false")
        studies = [study for window in _months(first, last) for study in self._studies_of(*window)]
        targets = [chosen] if chosen is not None else self.destinations()
        if not dry:
            for study in studies:
                with self._ledger.transaction():
                    for destination in targets:
                        self._add(study, destination, None)
            self._wake.set()
        content = {
            "Studies": len(studies),
            "Destinations": targets,
            "Deliveries": len(studies) * len(targets),
            "DryRun": dry,
        }
        return Answer(content, 200 if dry else 202)

    def _studies_of(self, first: datetime.date, last: datetime.date) -> list[str]:
        query = {"Level": "Study", "Expand": True, "Query": {"StudyDate": f"{first:%Y%m%d}-{last:%Y%m%d}"}}
        found = self._loopback.post("/tools/find", query)
        # Orthanc compares dates as text: look at each.
        days = {study["ID"]: parse_day(study["MainDicomTags"].get("StudyDate")) for study in found}
        return [study for study, day in days.items() if day and first <= day <= last]


def _months(first: datetime.date, last: datetime.date) -> Iterator[tuple[datetime.date, datetime.date]]:
    """The parts of a range that lie in one month: what one question asks of the archive stays small."""
    while first <= last:
        end = first.replace(day=calendar.monthrange(first.year, first.month)[1])
        yield first, min(end, last)
        first = end + datetime.timedelta(days=1)


def _about_new_ledger(name: str, ledger: Ledger) -> str:
    why = f"was corrupt and is kept as {ledger.moved}" if ledger.moved else "is new"
    return (
        f"{name}: the ledger {ledger.path} {why}; what arrives from now on is forwarded, "
        f"nothing that the archive holds already (POST /{name}/backfill does that)"
    )


def _only(given: Mapping[str, Any], allowed: set[str]) -> None:
    if unknown := sorted(given.keys() - allowed):
        raise Refused(400, f"Unknown parameter {one_line(', '.join(unknown))}; allowed: {', '.join(sorted(allowed))}")


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) > most:
        raise Refused(400, f"{name} is {one_line(text)!r}, allowed: a whole number up to {most}")
    return int(text)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    instances = json.loads(row["data"])["Instances"]
    return {
        "ID": row["id"],
        "Study": row["subject"],
        "Destination": row["queue"],
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": _utc(row["next_attempt"]) if row["state"] == "waiting" else None,
        "Error": row["error"],
        "Job": row["job"],
        "Instances": None if instances is None else len(instances),
        "Created": _utc(row["created"]),
        "Updated": _utc(row["updated"]),
    }


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
