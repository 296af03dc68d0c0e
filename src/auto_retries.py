# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs jobs again that failed and that others submitted: REST clients, Orthanc Explorer, other scripts.

A study that a person sends to a PACS that is down arrives when the PACS is back: the job's content is written down as long
as Orthanc knows it, and the job goes again, ever more rarely, across restarts and `kill -9`, for three days. Then it is `dead`
until a person retries it. The jobs of the forward scripts, and those that somebody canceled, are left alone.

Needs no configuration. The types of jobs that it cares for, and for how long:

    "AutoRetries": {"Types": ["DicomModalityStore", "OrthancPeerStore"], "Retry": {"First": 60, "GiveUpHours": 24}}

To look at and to act on, with curl:

    GET  /auto-retries/status
    GET  /auto-retries/jobs?state=dead              also destination=, job=, since=, limit=
    POST /auto-retries/jobs/{id}/retry              and GET and DELETE /auto-retries/jobs/{id}
    POST /auto-retries/jobs/retry                   {"Destination": "PACS"}: all dead ones of it

Needs nothing but Python's standard library. All keys, and what a job does not tell: docs/auto_retries.md.
"""

from __future__ import annotations

import dataclasses
import datetime
import encodings.idna  # noqa: F401
import hashlib
import itertools
import json
import os
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.answers import KEPT_ALIVE, Refused, Request, one_line, serve, warn_if_open
from common.inbox import Inbox
from common.ledger import STATES, Ledger
from common.loopback import Loopback, LoopbackError
from common.parameters import PAGE_PARAMETERS, OneOf, Text, row_number, takes
from common.settings import SettingsError, read_settings
from common.state import state_folder
from common.worker import Worker
from forwarding.peers import Peers

__version__ = "0.1.0"

SECTION = "AutoRetries"
NAME = "auto-retries"
TICK = 5.0  # seconds between looks at the ledger when nothing waits and no event wakes us; 1 while something waits
LOOK = 30.0  # seconds between looks at all jobs: one that is canceled before it began gives no event
ABSENT = 300.0  # seconds that a job is unknown to Orthanc, without an event, until it counts as canceled
NO_ANSWER = 10.0  # seconds until an attempt whose submission was not answered counts as failed
# A forwarder knows its job from the answer to its POST on, which can come after the end of the job, and forgets it when it
# sends again, half a second later at the earliest. So it is asked often, for a while.
ASK_EVERY, ASK_FOR = 0.4, 3.0  # seconds
ASK_FOR_AN_IDLE_ONE = 60.0  # seconds; it answers 503 while it starts, and for ever if its configuration is wrong
ASK_FROM = 1.0  # seconds after its submission
FORWARDERS = {"auto-forward-modality": "DicomModalityStore", "auto-forward-peer": "OrthancPeerStore"}
NOT_INSTALLED = "not installed"
UNFINISHED = ("Pending", "Running", "Paused", "Retry")  # states of a job that may still succeed
CANCELED_JOB, INTERNAL_ERROR = 37, -1  # Orthanc's error codes; -1 is what a store job says that misses an instance
KEPT_HISTORY = 20  # attempts that a row remembers

# A job is watched from its submission to its end: `running`, `Success`, `Failure` or `canceled`.
TABLES = """
CREATE TABLE IF NOT EXISTS watched(job TEXT PRIMARY KEY, state TEXT NOT NULL, error TEXT NOT NULL, data TEXT NOT NULL,
    seen REAL NOT NULL, ended REAL);
CREATE INDEX IF NOT EXISTS watched_ended ON watched(ended) WHERE ended IS NOT NULL;
CREATE INDEX IF NOT EXISTS work_by_digest ON work(json_extract(data, '$.Digest'), state);
CREATE INDEX IF NOT EXISTS work_by_next ON work(state, queue, next_attempt);
"""


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a job that failed goes again."""

    first: float = dataclasses.field(default=30, metadata={"minimum": 1, "help": "Seconds until it is run again."})
    longest: float = dataclasses.field(
        default=3600, metadata={"minimum": 1, "help": "Most seconds between two attempts."}
    )
    give_up_hours: float = dataclasses.field(
        default=72, metadata={"minimum": 0, "help": "Hours after its first failure from which it is `dead`."}
    )
    max_attempts: int = dataclasses.field(
        default=100, metadata={"minimum": 1, "help": "Attempts after which it is `dead`, the first failure included."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AutoRetries`."""

    types: tuple[str, ...] = dataclasses.field(
        default=("DicomModalityStore", "OrthancPeerStore", "DicomMoveScu"),
        metadata={"help": "Types of jobs that are run again, as `/jobs/{id}` names them."},
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "When a failed job goes again."})
    max_concurrent: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "help": "Retries at a time; null: one less than `ConcurrentJobs`."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the ledger also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that jobs that were run again with success stay in the list."}
    )


# What a job tells of itself


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a job of one type is submitted anew."""

    route: str  # of its destination: "modalities" or "peers"
    command: str
    target: Callable[[Mapping[str, Any]], str]  # of a job's content: what it says of its destination
    body: Callable[[Mapping[str, Any]], dict[str, Any] | None]  # of a job's content; None if that does not suffice


def _aet(content: Mapping[str, Any]) -> str:
    return str(content.get("RemoteAet", ""))


def _url(content: Mapping[str, Any]) -> str:
    return str((content.get("Peer") or [""])[0])


def _modality_store(content: Mapping[str, Any]) -> dict[str, Any] | None:
    resources = content.get("ParentResources")
    options = {"LocalAet": "LocalAet", "MoveOriginatorAET": "MoveOriginatorAet", "MoveOriginatorID": "MoveOriginatorID"}
    body = {"Resources": resources, **{theirs: content[key] for key, theirs in options.items() if key in content}}
    if content.get("StorageCommitmentTransactionUID"):
        body["StorageCommitment"] = True
    return body if resources else None


def _peer_store(content: Mapping[str, Any]) -> dict[str, Any] | None:
    resources = content.get("ParentResources")
    options = {key: content[key] for key in ("Compress", "Transcode") if key in content}
    return {"Resources": resources, **options} if resources else None


def _retrieve(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """DicomMoveScu and DicomGetScu: a job may hold queries of several levels, a request can't."""
    level_tag, queries = "0008,0052", content.get("Query") or []
    levels = {query.get(level_tag) for query in queries}
    if len(levels) != 1 or None in levels:
        return None
    resources = [{tag: value for tag, value in query.items() if tag != level_tag and value} for query in queries]
    options = {key: content[key] for key in ("TargetAet", "LocalAet") if key in content}
    return {"Level": levels.pop(), "Resources": resources, **options}


def _move(content: Mapping[str, Any]) -> dict[str, Any] | None:
    # Orthanc 1.10.1 does not show where to, and its /modalities/{id}/move would wait for the end.
    return _retrieve(content) if content.get("TargetAet") else None


RECIPES = {
    "DicomModalityStore": Recipe("modalities", "store", _aet, _modality_store),
    "OrthancPeerStore": Recipe("peers", "store", _url, _peer_store),
    "DicomMoveScu": Recipe("modalities", "move", _aet, _move),
    "DicomGetScu": Recipe("modalities", "get", _aet, _retrieve),
}


def address(entry: Mapping[str, Any]) -> str:
    """Where an entry of /modalities?expand or /peers?expand leads to."""
    if "Url" in entry:
        return f"{entry['Url']} {entry.get('Username') or ''}"
    return f"{entry['AET']} {entry['Host']}:{entry['Port']}"


def description(job: Mapping[str, Any], known: Callable[[str], Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What is kept of a job: all that submitting it anew takes.

    `known` gives the destinations of a route. `Names` are the destinations that the job can mean now, for its content names
    an AET or a URL, and `Addresses` where they lead to, so that a later correction of the configuration shows. `Digest` is the
    same for two jobs that would do the same.
    """
    recipe = RECIPES.get(job["Type"])
    kept = {"Type": job["Type"], "Priority": job.get("Priority", 0), "Target": "", "Names": [], "Addresses": []}
    if recipe is None:
        return {**kept, "Body": None, "Digest": job["ID"]}
    target, body = recipe.target(job["Content"]), recipe.body(job["Content"])
    fitting = {name: entry for name, entry in known(recipe.route).items() if is_target(entry, target)}
    same = job["ID"] if body is None else json.dumps([job["Type"], target, body], sort_keys=True)
    kept |= {"Names": sorted(fitting), "Addresses": sorted(map(address, fitting.values()))}
    return {**kept, "Target": target, "Body": body, "Digest": hashlib.sha256(same.encode()).hexdigest()}


def is_target(entry: Mapping[str, Any], target: str) -> bool:
    """Whether an entry of /modalities?expand or /peers?expand has this AET, or this URL."""
    return str(entry.get("Url", entry.get("AET"))).rstrip("/") == target.rstrip("/")


def destination_of(data: Mapping[str, Any]) -> str:
    """How lists and logs call the destination of a job."""
    return one_line(" or ".join(data["Names"]) or data["Target"] or data["Type"])


class Unclear(Exception):  # noqa: N818 - it is a finding
    """A job can't be submitted anew: `for_ever`, or until the configuration changes."""

    def __init__(self, text: str, *, for_ever: bool = False) -> None:
        super().__init__(text)
        self.for_ever = for_ever


def name_of(data: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of the destination to submit to. Raises `Unclear`: better late than to another node."""
    names = [name for name in data["Names"] if name in known]
    names = names or [name for name, entry in known.items() if is_target(entry, data["Target"])]
    if not names:
        raise Unclear(f"Orthanc does not know {destination_of(data)}; known are: {', '.join(known) or 'none'}")
    if len({address(known[name]) for name in names}) > 1:
        raise Unclear(f"{' and '.join(names)} lead to different places, and the job does not tell which was meant")
    return str(names[0])


# The work


FILTERS = {"state": ["state"], "destination": ["queue"], "job": ["job", "subject"]}  # parameters and their columns


class Retrier:
    """Watches the jobs of others, and runs those again that fail.

    OnChange writes down what it hears, while Orthanc still knows the job; one thread, woken by it, does the rest.

    Parameters
    ----------
    configuration : Orthanc's.
    """

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self._settings, self._configuration = settings, configuration
        self._loopback = Loopback(configuration)
        self._peers = Peers(configuration, self._loopback)
        self.worker = Worker(NAME, self._open, self._turn)
        self._known: dict[str, dict[str, dict[str, Any]]] = {}
        self._inbox: Inbox[tuple[str, str, dict[str, Any] | None]] = Inbox(lambda report: self._note(*report))
        self._others: deque[str] = deque(maxlen=1000)  # jobs that others care for, and of types that are not ours
        self._not_installed: set[str] = set()  # forward scripts
        self._asked: dict[str, set[str]] = {}  # of which running jobs a forward script was asked
        self._absent: dict[str, float] = {}
        self._served: dict[str, float] = {}
        self._missed, self._next_look = 0, 0.0
        self._asking, self._moved, self._begun = False, False, False
        names = (
            *("ORTHANC_STARTED", "ORTHANC_STOPPED", "JOB_SUBMITTED", "JOB_SUCCESS", "JOB_FAILURE"),
            *("UPDATED_MODALITIES", "UPDATED_PEERS"),
        )
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in names}

    # What Orthanc tells: return at once

    def on_change(self, change: int, _level: int, resource: str) -> None:
        event = self._events.get(change, "")
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self.worker.stop()
        elif event.startswith("UPDATED"):
            self._known = {}
        elif event and not self.worker.is_off:
            # A job that fails at once is soon gone (JobsHistorySize): this is the only time to read it. It can also be
            # submitted before ORTHANC_STARTED.
            self._inbox.add((event, resource, None if event == "JOB_SUCCESS" else _read_job(resource)))
            self.worker.wake.set()

    def _open(self) -> Ledger:
        if not self._loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        path = state_folder(self._settings.state_path, self._configuration) / "auto_retries.sqlite"
        self._ledger = Ledger(path, TABLES, durability=self._settings.durability)
        if self._ledger.moved:
            orthanc.LogWarning(
                f"{NAME}: the ledger {path} was corrupt and is kept as {self._ledger.moved}; what waited there is not run again"
            )
        if self._configuration.get("JobsHistorySize", 10) == 0:
            orthanc.LogWarning(
                f"{NAME}: with JobsHistorySize 0 a job that fails within a millisecond can't be read any more, "
                "and one that was canceled looks as if it had failed"
            )
        self._inbox.open()
        return self._ledger

    def _note(self, event: str, job: str, found: Mapping[str, Any] | None) -> None:
        if event == "JOB_SUBMITTED":
            if found and found["Type"] in self._settings.types:
                self._watch(job, description(found, self._destinations))
            elif found:
                self._others.append(job)
            return
        state, error = _ending(found) if event == "JOB_FAILURE" else ("Success", "")
        with self._ledger.transaction():
            if self._end_watch(job, state, error) or job in self._others:
                return
            if found and found["Type"] in self._settings.types:
                # Submitted before this script came, or resubmitted by a person.
                self._watch(job, description(found, self._destinations))
            elif found or (event == "JOB_SUCCESS" and not self._may_be_ours(job)):
                return
            else:
                self._watch(job, None)
            self._end_watch(job, state, error)

    def _watch(self, job: str, data: Mapping[str, Any] | None) -> None:
        sql = "INSERT OR IGNORE INTO watched VALUES(?,'running','',?,?,NULL)"
        self._ledger.run(sql, job, json.dumps(data), time.time())

    def _end_watch(self, job: str, state: str, error: str) -> int:
        sql = "UPDATE watched SET state=?, error=?, ended=? WHERE job=? AND ended IS NULL"
        return self._ledger.run(sql, state, error, time.time(), job)

    def _may_be_ours(self, job: str) -> bool:
        # The answer to our POST, which names the job, may still be on its way.
        sql = "SELECT 1 FROM work WHERE job=? OR (state='sending' AND job IS NULL) LIMIT 1"
        return bool(self._ledger.rows(sql, job))

    def _destinations(self, route: str) -> dict[str, dict[str, Any]]:
        """The nodes or peers that Orthanc knows now, with their settings."""
        if route not in self._known:
            self._known[route] = json.loads(orthanc.RestApiGet(f"/{route}?expand"))
        return self._known[route]

    # The one thread

    def _turn(self) -> float:
        self._inbox.flush()
        if not self._begun or time.monotonic() >= self._next_look:
            self._look()
        self._leave_forwarded()
        self._settle_ended()
        self._run_due()
        if self._moved:
            self._measure()
        return ASK_EVERY if self._asking else 1.0 if self._ledger.queues("waiting") else TICK

    # Jobs that ended

    def _look(self) -> None:
        """Find the ends that gave no event: during a restart, or canceled before they began."""
        sending = self._ledger.rows("SELECT * FROM work WHERE state='sending'")
        for row in sending:
            if row["job"]:
                self._watch(row["job"], json.loads(row["data"]))
        watched = {row["job"] for row in self._ledger.rows("SELECT job FROM watched WHERE ended IS NULL")}
        jobs = {job["ID"]: job for job in self._loopback.get("/jobs?expand")} if watched or not self._begun else {}
        if not self._begun:
            for job in jobs.values():
                if job["State"] in UNFINISHED and job["Type"] in self._settings.types:
                    self._watch(job["ID"], description(job, self._destinations))
        for name in watched:
            if name not in jobs:
                self._end_absent(name)
            elif jobs[name]["State"] == "Success":
                self._end_watch(name, "Success", "")
            elif jobs[name]["State"] not in UNFINISHED:
                self._end_watch(name, *_ending(jobs[name]))
        self._absent = {name: since for name, since in self._absent.items() if name in watched and name not in jobs}
        self._find_interrupted(sending)
        self._ledger.forget_finished(self._settings.keep_done_days)
        self._measure()
        self._begun, self._next_look = True, time.monotonic() + LOOK

    def _end_absent(self, job: str) -> None:
        if not self._begun:
            # Run again what may have arrived: once more is harmless, lost is not.
            self._end_watch(job, "Failure", "its end was missed while Orthanc was down")
        elif time.monotonic() - self._absent.setdefault(job, time.monotonic()) > ABSENT:
            self._end_watch(job, "canceled", "it is gone without having failed: canceled before it began")

    def _find_interrupted(self, sending: list[dict[str, Any]]) -> None:
        """Attempts that Orthanc was killed in, or did not answer: what they submitted is found by its content."""
        for row in sending:
            if row["job"] or (self._begun and abs(time.time() - row["updated"]) < NO_ANSWER):
                continue
            digest = json.loads(row["data"])["Digest"]
            sql = (
                "SELECT job FROM watched w WHERE json_extract(data, '$.Digest')=? "
                "AND NOT EXISTS (SELECT 1 FROM work o WHERE o.job=w.job) LIMIT 1"
            )
            if found := self._ledger.rows(sql, digest):
                self._ledger.run("UPDATE work SET job=? WHERE id=?", found[0]["job"], row["id"])
            elif not self._begun:
                self._ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE id=?", row["id"])
            else:
                self._fail(row, "Orthanc did not answer when it was submitted")

    def _settle_ended(self) -> None:
        self._asking = False
        for ended in self._ledger.rows("SELECT * FROM watched WHERE ended IS NOT NULL ORDER BY ended"):
            if self.worker.stopping.is_set():
                return
            if row := self._row_of(ended):
                with self._ledger.transaction():
                    self._settle(row, ended)
                    self._forget(ended)
            elif ended["state"] != "Failure" or (theirs := self._is_forwarded(ended)):
                self._forget(ended)
            elif theirs is None:
                self._asking = True
            else:
                with self._ledger.transaction():
                    self._take(ended)
                    self._forget(ended)

    def _forget(self, ended: Mapping[str, Any]) -> None:
        self._ledger.run("DELETE FROM watched WHERE job=?", ended["job"])

    def _row_of(self, ended: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row that this job is an attempt of, also one whose submission was not answered."""
        digest = (json.loads(ended["data"]) or {}).get("Digest")
        sql = (
            "SELECT * FROM work WHERE job=?1 OR (job IS NULL AND state='sending' "
            "AND json_extract(data, '$.Digest')=?2) ORDER BY job IS NULL LIMIT 1"
        )
        found = self._ledger.rows(sql, ended["job"], digest)
        return {**found[0], "job": ended["job"]} if found else None

    def _settle(self, row: Mapping[str, Any], ended: Mapping[str, Any]) -> None:
        label = self._label(row)
        if ended["state"] == "Success":
            self._ledger.end(row["id"], "done")
            orthanc.LogInfo(f"{label} has succeeded (attempt {row['attempts']})")
        elif ended["state"] == "canceled":
            sql = "UPDATE work SET state='dead', error=?, updated=? WHERE id=?"
            self._ledger.run(sql, ended["error"], time.time(), row["id"])
            orthanc.LogInfo(f"{label}: {ended['error']}; it is not run again")
        elif row["state"] == "sending":
            self._fail(row, ended["error"])
        self._moved = True

    def _is_forwarded(self, ended: Mapping[str, Any]) -> bool | None:
        """Whether a forward script cares for this job; None: ask again soon."""
        data = json.loads(ended["data"])
        answers = [
            self._ask(script, ended["job"])
            for script in FORWARDERS
            if data is None or FORWARDERS[script] == data["Type"]
        ]
        if True in answers:
            return True
        patience = ASK_FOR_AN_IDLE_ONE if None in answers else ASK_FOR
        return None if set(answers) - {NOT_INSTALLED} and abs(time.time() - ended["ended"]) < patience else False

    def _leave_forwarded(self) -> None:
        """Forget the jobs of forward scripts while they run: after a kill, a script may not know its own any more."""
        for script, kind in FORWARDERS.items():
            sql = "SELECT job FROM watched WHERE ended IS NULL AND seen<? AND json_extract(data, '$.Type')=?"
            running = {row["job"] for row in self._ledger.rows(sql, time.time() - ASK_FROM, kind)}
            for job in () if script in self._not_installed else running - self._asked.get(script, set()):
                if self._ask(script, job) is True:
                    self._others.append(job)
                    self._ledger.run("DELETE FROM watched WHERE job=? AND ended IS NULL", job)
            self._asked[script] = running

    def _ask(self, script: str, job: str) -> bool | str | None:
        """Whether this forward script knows this job, or is not installed; None: it can't answer now."""
        if script in self._not_installed:
            return NOT_INSTALLED
        try:
            return bool(self._loopback.get(f"/{script}/deliveries?job={job}&limit=1")["Total"])
        except LoopbackError as error:
            if error.status == 0:
                raise
            if error.status == 404:
                self._not_installed.add(script)
            return NOT_INSTALLED if error.status == 404 else None

    def _take(self, ended: Mapping[str, Any]) -> None:
        """A job of somebody else failed: from now on it is ours."""
        data = json.loads(ended["data"])
        if data is None:
            self._missed += 1
            orthanc.LogWarning(
                f"{NAME}: job {ended['job']} failed and was forgotten by Orthanc before it could be read, so that it "
                "can't be run again; a larger JobsHistorySize helps"
            )
            return
        sql = "SELECT id FROM work WHERE json_extract(data, '$.Digest')=? AND state IN ('waiting','sending') LIMIT 1"
        if same := self._ledger.rows(sql, data["Digest"]):
            orthanc.LogInfo(f"{NAME}: job {ended['job']} failed, and would do the same as {same[0]['id']}, which waits")
            return
        row = self._ledger.add(destination_of(data), ended["job"], data)
        sql = "UPDATE work SET job=?, attempts=1, created=? WHERE id=?"
        self._ledger.run(sql, ended["job"], ended["ended"], row)
        self._fail(self._ledger.rows("SELECT * FROM work WHERE id=?", row)[0], ended["error"])

    def _fail(self, row: Mapping[str, Any], error: str, *, for_ever: bool = False) -> None:
        retry, data = self._settings.retry, json.loads(row["data"])
        entry = {"Time": _utc(time.time()), "Job": row["job"], "Error": one_line(error)}
        data["History"] = [*data.get("History", []), entry][-KEPT_HISTORY:]
        enough = for_ever or row["attempts"] >= retry.max_attempts
        with self._ledger.transaction():
            self._ledger.run("UPDATE work SET data=? WHERE id=?", json.dumps(data), row["id"])
            give_up_after = -1e9 if enough else retry.give_up_hours * 3600
            delays = {"first": retry.first, "longest": retry.longest, "give_up_after": give_up_after}
            state = self._ledger.fail(row["id"], one_line(error), **delays)
        text = f"{self._label(row)} failed (attempt {row['attempts']}): {one_line(error)}"
        if state == "dead":
            orthanc.LogError(f"{text}. Given up; POST /{NAME}/jobs/{row['id']}/retry runs it again")
        elif row["attempts"] == 1:
            orthanc.LogWarning(f"{text}. It will be run again: GET /{NAME}/jobs/{row['id']}")
        else:
            orthanc.LogInfo(text)
        self._moved = True

    def _label(self, row: Mapping[str, Any]) -> str:
        return f"{NAME}: {json.loads(row['data'])['Type']} to {row['queue']} (job {row['subject']})"

    def _measure(self) -> None:
        self._moved = False
        for state, count in self._ledger.totals().items():
            orthanc.SetMetricsValue(f"auto_retries_{state}", float(count), orthanc.MetricsType.DEFAULT)

    # Jobs that go again

    def _run_due(self) -> None:
        concurrent = int(self._configuration.get("ConcurrentJobs", 2)) or os.cpu_count() or 1
        most = self._settings.max_concurrent or max(1, concurrent - 1)
        free = most - sum(self._ledger.queues("sending").values())
        for row in self._due(free) if free > 0 else ():
            if self.worker.stopping.is_set():
                return
            self._served[row["queue"]] = time.monotonic()
            self._attempt(row)

    def _due(self, most: int) -> list[dict[str, Any]]:
        """The next rows, of each destination in turn, so that a dead one does not hold the others up."""
        now, longest = time.time(), self._settings.retry.longest
        queues = sorted(self._ledger.queues("waiting"), key=lambda queue: self._served.get(queue, 0.0))
        # A next attempt further away than the longest delay comes from a clock that has jumped back.
        sql = (
            "SELECT * FROM work WHERE state='waiting' AND queue=? AND (next_attempt<=? OR next_attempt>?) "
            "ORDER BY next_attempt, id LIMIT ?"
        )
        each = [self._ledger.rows(sql, queue, now, now + longest, most) for queue in queues]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*each))
        return [row for row in turns if row is not None][:most]

    def _attempt(self, row: dict[str, Any]) -> None:
        """Run a job again: by Orthanc's own resubmission, which keeps all of it, else anew."""
        data = json.loads(row["data"])
        job = self._job(row["job"]) if row["job"] else None
        if job and job["State"] in UNFINISHED:  # a person was quicker
            self._begin_attempt(row, row["job"])
            self._watch(row["job"], data)
            return
        if job and job["State"] == "Success":
            self._ledger.end(row["id"], "done")
            return
        body, recipe = data["Body"], RECIPES.get(data["Type"])
        here = self._still_here(body["Resources"]) if body and recipe and recipe.command == "store" else None
        if here == []:
            self._ledger.end(row["id"], "gone")
            orthanc.LogInfo(f"{self._label(row)}: what it was to send was deleted")
            return
        if data["Type"] == "OrthancPeerStore" and not self._is_for_orthanc(row, data):
            return
        if job and self._may_resubmit(job, data, here):
            self._resubmit(row, data)
        else:
            self._submit(row, data, recipe, here)

    def _is_for_orthanc(self, row: dict[str, Any], data: Mapping[str, Any]) -> bool:
        """Whether the peer is an Orthanc; if not, the attempt has failed: to Orthanc any answer would be a success."""
        try:
            why = self._peers.why_not(name_of(data, self._destinations("peers")))
        except Unclear:
            return True  # it is said when it is submitted
        if why and not self.worker.stopping.is_set() and self._begin_attempt(row, row["job"]):
            self._fail(row, why)
        return not why

    def _may_resubmit(self, job: Mapping[str, Any], data: Mapping[str, Any], here: list[dict[str, Any]] | None) -> bool:
        """Whether the job as Orthanc knows it is still what is wanted: it sends the same instances to the same address."""
        recipe = RECIPES.get(data["Type"])
        if recipe is None:
            return True
        known = self._destinations(recipe.route)
        now = sorted(address(known[name]) for name in data["Names"] if name in known)
        unchanged = here is None or self._is_unchanged(job, here)
        return unchanged and now == data["Addresses"] and job["ErrorCode"] != INTERNAL_ERROR

    def _is_unchanged(self, job: Mapping[str, Any], here: list[dict[str, Any]]) -> bool:
        """Whether a store job would send what is here: 1.13.0 sends, from its cache, also what was deleted since.

        Nothing came since the job was made, and there are as many instances: then nothing was deleted either.
        """
        count = 0
        for resource in here:
            if resource["Type"] == "Instance":
                if self._configuration.get("OverwriteInstances"):
                    return False  # nothing tells whether it is another one now
                count += 1
            elif resource.get("LastUpdate", "9") < job["CreationTime"][:15]:  # both are UTC, the first in whole seconds
                route = {"Patient": "patients", "Study": "studies", "Series": "series"}[resource["Type"]]
                count += int(self._loopback.get(f"/{route}/{resource['ID']}/statistics")["CountInstances"])
            else:
                return False
        return bool(count == job["Content"].get("InstancesCount"))

    def _begin_attempt(self, row: dict[str, Any], job: str | None) -> bool:
        """Say that this attempt begins, before it does; not if a person has just dropped the row."""
        row["attempts"] += 1
        sql = "UPDATE work SET state='sending', attempts=attempts+1, job=?, updated=? WHERE id=? AND state='waiting'"
        return bool(self._ledger.run(sql, job, time.time(), row["id"]))

    def _resubmit(self, row: dict[str, Any], data: Mapping[str, Any]) -> None:
        # Orthanc refuses to resubmit what is no failed job: whatever happens in between, it never runs twice.
        with self._ledger.transaction():
            self._forget(row)
            self._watch(row["job"], data)
            if not self._begin_attempt(row, row["job"]):
                return
        try:
            self._loopback.post(f"/jobs/{row['job']}/resubmit", {})
        except LoopbackError as error:
            if error.status == 0:
                raise  # _look finds what became of it
            with self._ledger.transaction():
                self._forget(row)
                self._fail(row, str(error))

    def _submit(
        self, row: dict[str, Any], data: Mapping[str, Any], recipe: Recipe | None, here: list[dict[str, Any]] | None
    ) -> None:
        if not self._begin_attempt(row, None):
            return
        try:
            if recipe is None or data["Body"] is None:
                why = "Orthanc has forgotten the job (JobsHistorySize), and what it showed of it is not enough to submit it anew"
                raise Unclear(why, for_ever=True)
            name = name_of(data, self._destinations(recipe.route))
            body = {**data["Body"], "Synchronous": False, "Priority": data["Priority"]}
            if here is not None:
                body["Resources"] = [resource["ID"] for resource in here]
            path = f"/{recipe.route}/{urllib.parse.quote(name, safe='')}/{recipe.command}"
            job = str(self._loopback.post(path, body)["ID"])
        except Unclear as error:
            self._fail(row, str(error), for_ever=error.for_ever)
            return
        except LoopbackError as error:
            if error.status == 0:
                raise  # whether there is a job now, only Orthanc knows: _find_interrupted looks
            self._fail(row, str(error))
            return
        with self._ledger.transaction():
            self._ledger.run("UPDATE work SET job=? WHERE id=?", job, row["id"])
            self._watch(job, data)

    def _job(self, job: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._loopback.get(f"/jobs/{job}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return None
        return found

    def _still_here(self, resources: list[str]) -> list[dict[str, Any]]:
        here: dict[str, dict[str, Any]] = {}
        for start in range(0, len(resources), 500):
            found = self._loopback.post("/tools/bulk-content", {"Resources": resources[start : start + 500]})
            here |= {resource["ID"]: resource for resource in found}
        return [here[resource] for resource in resources if resource in here]

    # Routes

    def register(self, refusal: str | None = None) -> None:
        """Register the routes; with a `refusal` (the configuration is wrong) they all answer 503 with it."""
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "status": {"GET": self.get_status},
            "jobs": {"GET": self.get_jobs},
            "jobs/([0-9]+)": {"GET": self.get_job, "DELETE": self.drop_job},
            "jobs/([0-9]+)/retry": {"POST": self.retry_job},
            "jobs/retry": {"POST": self.retry_jobs},
        }
        for path, handlers in routes.items():
            serve(f"/{NAME}/{path}", handlers, lambda: refusal or self.worker.why_not())

    def get_status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, the types it cares for, how many jobs are in each state, watched, and missed; the last error."""
        watched = self._ledger.rows("SELECT COUNT(*) n FROM watched")[0]["n"]
        return {
            "State": "running",
            "Types": list(self._settings.types),
            "Totals": self._ledger.totals(),
            "Watched": watched,
            "Missed": self._missed,
            "LastError": self.worker.trouble.text,
        }

    @takes({**PAGE_PARAMETERS, **dict.fromkeys(FILTERS, Text()), "state": OneOf(choices=STATES)})
    def get_jobs(self, request: Request) -> dict[str, Any]:
        """A page of the jobs that failed, oldest first: `since`, `limit`, and filters."""
        asked, where, values = request.parameters, "1", []
        since, limit = asked.get("since", 0), asked.get("limit", 100)
        for name in FILTERS.keys() & asked.keys():
            where += f" AND ({' OR '.join(f'{column}=?' for column in FILTERS[name])})"
            values += [asked[name]] * len(FILTERS[name])
        total = self._ledger.rows(f"SELECT COUNT(*) n FROM work WHERE {where}", *values)[0]["n"]
        rows = self._ledger.rows(
            f"SELECT * FROM work WHERE {where} AND id>? ORDER BY id LIMIT ?", *values, since, limit + 1
        )
        items = [_shown(row) for row in rows[:limit]]
        return {"Total": total, "Items": items, "Next": items[-1]["ID"] if len(rows) > limit else None}

    def get_job(self, request: Request) -> dict[str, Any]:
        """One job: what is submitted, and its last attempts."""
        row = self._row(request)
        data = json.loads(row["data"])
        return {**_shown(row), "Body": data["Body"], "History": data.get("History", [])}

    def drop_job(self, request: Request) -> dict[str, Any]:
        """Don't run it again; what is running now is Orthanc's (`/jobs/{id}/cancel`)."""
        row = self._row(request)
        if not self._ledger.run("DELETE FROM work WHERE id=? AND state<>'sending'", row["id"]):
            raise Refused(409, f"Job {row['id']} is running as {row['job']}; cancel that, then drop this")
        return _shown(row)

    def retry_job(self, request: Request) -> dict[str, Any]:
        """Run one that is dead, or waits, again now, with all attempts and the whole time."""
        row = self._row(request)
        if not self._revive("id=? AND state IN ('dead','waiting')", row["id"]):
            raise Refused(409, f"Job {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        return _shown(self._row(request))

    @takes({"Destination": Text()})
    def retry_jobs(self, request: Request) -> dict[str, Any]:
        """Run all dead ones of a `Destination` again now; without one, all."""
        chosen = request.parameters.get("Destination")
        where = "state='dead'" + (" AND queue=?" if chosen is not None else "")
        return {"Retried": self._revive(where, *([] if chosen is None else [chosen]))}

    def _revive(self, where: str, *values: Any) -> int:
        sql = f"UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=? WHERE {where}"
        revived = self._ledger.run(sql, time.time(), *values)
        self._moved = True
        self.worker.wake.set()
        return revived

    def _row(self, request: Request) -> dict[str, Any]:
        rows = self._ledger.rows("SELECT * FROM work WHERE id=?", row_number(request.groups[0]))
        if not rows:
            raise Refused(404, f"There is no job {request.groups[0][:20]} here")
        return rows[0]


def _read_job(job: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(orthanc.RestApiGet(f"/jobs/{job}"))
    except orthanc.OrthancException:
        return None
    return found


def _ending(job: Mapping[str, Any] | None) -> tuple[str, str]:
    """State and error of a job that did not succeed; None stands for one that Orthanc has forgotten."""
    if job is None:
        return "Failure", "the job failed, and Orthanc has forgotten why (JobsHistorySize)"
    if job["ErrorCode"] == CANCELED_JOB:
        return "canceled", "it was canceled"
    return "Failure", job.get("ErrorDetails") or job.get("ErrorDescription") or "the job failed"


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": row["id"],
        "Type": json.loads(row["data"])["Type"],
        "Destination": row["queue"],
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": _utc(row["next_attempt"]) if row["state"] == "waiting" else None,
        "Error": row["error"],
        "Job": row["job"],
        "FirstJob": row["subject"],
        "Created": _utc(row["created"]),
        "Updated": _utc(row["updated"]),
    }


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
    except SettingsError as error:
        refusal = f"{error}. auto_retries is idle until this is corrected."
        orthanc.LogError(refusal)
    retrier = Retrier(settings, configuration)
    retrier.register(refusal)
    if refusal is None:
        warn_if_open("auto_retries", configuration)
        KEPT_ALIVE.append(retrier.on_change)
        orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-1])


register()
