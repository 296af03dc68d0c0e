# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/service.py: edit that, never this file.
"""The parts put together: what Orthanc calls, and the routes."""

from __future__ import annotations

import datetime
import json
import re
import sqlite3
import threading
import time
import types
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orthanc

from ._common.answers import KEPT_ALIVE, Answer, Refused, Request, one_line, serve, warn_if_open
from ._common.json_text import decoded
from ._common.loopback import Loopback, LoopbackError
from ._common.parameters import PAGE_PARAMETERS, Moment, Text, row_number, takes
from ._common.settings import SettingsError, read_settings
from ._common.state import StateBusyError, state_folder
from ._common.worker import FIRST_RETRY, LONGEST_RETRY, Trouble

from .brokers import maker
from .events import utc
from .intake import KEPT_CHANGES, KNOWN_CHANGES, Intake, Tags
from .journal import Journal
from .keeper import Keeper
from .named import Named, read_brokers
from .outbox import Outbox, new_id
from .own import json_of_event
from .publisher import Publisher
from .settings import SECTION, Settings

SECRET_OPTIONS = re.compile(r"password|secret|pem|\.config", re.IGNORECASE)  # of librdkafka
STOP_WITHIN = 0.4  # seconds until threads are left behind
STUDY = "an Orthanc identifier or a StudyInstanceUID"
TAG_KEYS = {
    "Instance": "stored_instance_publish_tags",
    "Series": "stable_series_publish_tags",
    "Study": "stable_study_publish_tags",
    "Patient": "stable_patient_publish_tags",
}


class Service:
    """The script: one outbox, one keeper, a publisher for each broker."""

    def __init__(self) -> None:
        self._configuration: dict[str, Any] = json.loads(orthanc.GetConfiguration())
        self._settings, self._brokers = Settings(), list[Named]()
        self._unavailable: str | None = None
        self._loopback = Loopback(self._configuration)
        self._opening, self._saying, self._stopped = threading.RLock(), threading.Lock(), False
        self._intake: Intake | None = None
        self._closed: str | None = None  # why the outbox can't be opened now
        self._trouble, self._ending = Trouble("dicom_events"), threading.Event()
        self._opener: threading.Thread | None = None
        self._early: deque[tuple[str, int, str]] = deque(maxlen=KEPT_CHANGES)  # changes before the outbox is open
        self._has_started = False
        self._keeper: Keeper | None = None
        self._publishers: list[Publisher] = []
        self._tags: dict[str, Tags] = {}
        self._replays: list[threading.Thread] = []

    # Registering

    def register(self) -> None:
        """Read the settings, register the routes, and the callbacks if there is something to do."""
        try:
            self._settings = read_settings(Settings, SECTION, self._configuration)
            self._tags = {level: self._read_tags(key) for level, key in TAG_KEYS.items()}
            self._brokers = read_brokers(self._settings)
        except SettingsError as error:
            self._be_idle(f"{error}. dicom_events is idle until this is corrected.")
        if self._unavailable is None and not self._loopback.enabled:
            self._be_idle('dicom_events stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        for path, handlers in ROUTES.items():
            bound = {method: types.MethodType(handler, self) for method, handler in handlers.items()}
            serve(path, bound, lambda: self._unavailable or self._closed)
        if self._unavailable is None:
            warn_if_open("dicom_events", self._configuration)
            for named in self._brokers:
                if named.complaint:
                    orthanc.LogError(f"{named.complaint}. This broker is off until this is corrected.")
            KEPT_ALIVE.extend((self.on_change, self.on_stored_instance))
            orthanc.RegisterOnChangeCallback(self.on_change)
            orthanc.RegisterOnStoredInstanceCallback(self.on_stored_instance)

    def _read_tags(self, key: str) -> Tags:
        try:
            return Tags(getattr(self._settings.events, key))
        except ValueError as error:
            name = "".join(word.capitalize() for word in key.split("_"))
            raise SettingsError(
                f"{SECTION}.Events.{name}: found {json.dumps(str(error))}, allowed: keywords that Orthanc knows, or gggg,eeee"
            ) from None

    def _be_idle(self, reason: str) -> None:
        orthanc.LogError(reason)
        self._unavailable = reason

    # What Orthanc calls

    def on_change(self, change: int, level: int, resource: str) -> None:
        if change not in KNOWN_CHANGES:  # three in four that come with an image
            return
        name = KNOWN_CHANGES[change]
        if name == "ORTHANC_STOPPED":
            self._ending.set()
            if self._opener:
                self._opener.join(STOP_WITHIN)
        intake = self._open()
        if intake is None:
            with self._opening:  # it may be opened just now
                if (intake := self._intake) is None:
                    self._early.append((name, level, resource))
                    self._has_started = self._has_started or name == "ORTHANC_STARTED"
        if intake is not None:
            if name == "ORTHANC_STARTED":
                self._start(intake)
            intake.on_change(name, level, resource)
            if name == "ORTHANC_STOPPED":
                self._stop(intake)

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        if intake := self._open():
            intake.on_stored_instance(dicom, instance)

    def publish(self, kind: str, data: Any, subject: str) -> str:
        """Write an event of a user's own down; it is on disk when this returns, its `id`.

        Raises
        ------
        ValueError : the type, the subject or the data is something that no broker takes (`own.py`).
        RuntimeError : this script is idle, or the outbox can't be written.
        """
        text, uid = json_of_event(kind, data, subject), new_id()
        if not (intake := self._open()):
            raise RuntimeError(self._unavailable or self._closed)
        try:
            with intake.outbox.transaction():
                intake.outbox.add(uid, kind, subject, subject, text)
        except (sqlite3.Error, OSError) as error:
            raise RuntimeError(f"the event could not be written down: {error}") from error
        return uid

    def _open(self) -> Intake | None:
        """The intake; its file is opened when the first event comes, which may be before ORTHANC_STARTED."""
        if self._intake is None and self._unavailable is None and self._opener is None:
            with self._opening:
                if self._intake is None and self._opener is None and not self._try_to_open():
                    self._opener = threading.Thread(target=self._open_later, name="dicom_events opens", daemon=True)
                    self._opener.start()
        return self._intake

    def _open_later(self) -> None:
        """Open the outbox when it can be opened: what was missed of instances, the keeper finds; changes were kept."""
        delay = FIRST_RETRY
        while not self._ending.wait(delay):
            delay = min(LONGEST_RETRY, delay * 2)
            with self._opening:
                if not self._try_to_open():
                    continue
                assert self._intake
                if self._has_started:
                    self._start(self._intake)
                while self._early:
                    self._intake.on_change(*self._early.popleft())
                return

    def _try_to_open(self) -> bool:
        try:
            self._intake = self._open_outbox()
        except (OSError, sqlite3.Error) as error:
            why = one_line(error)
            self._closed = f"dicom_events is idle until this is over: {why}"
            if not self._ending.is_set():
                log = orthanc.LogWarning if isinstance(error, StateBusyError) else orthanc.LogError
                self._trouble.begins(self._closed, why, log)
            return False
        self._closed = None
        self._trouble.is_over()
        return True

    def _open_outbox(self) -> Intake:
        settings, bounds = self._settings, self._settings.outbox
        path = state_folder(settings.state_path, self._configuration) / "dicom_events.sqlite"
        outbox = Outbox(
            path,
            durability=settings.durability,
            most=bounds.max_megabytes * 1_000_000,
            oldest=bounds.max_age_days * 86400,
            refuse=bounds.when_full == "refuse",
            keep_orphaned=bounds.keep_orphaned_days,
        )
        try:
            return self._intake_of(outbox, path)
        except BaseException:
            self._publishers.clear()
            outbox.ledger.close()  # the next try opens it
            raise

    def _intake_of(self, outbox: Outbox, path: Path) -> Intake:
        settings = self._settings
        said = outbox.begin(self._brokers)
        journal = Journal(path.with_suffix(".journal"), outbox.place, full=settings.durability == "full")
        if outbox.ledger.fresh:
            moved = outbox.ledger.moved
            why = f"was corrupt and is kept as {moved}" if moved else "is new"
            orthanc.LogWarning(
                f"dicom_events: the outbox {path} {why}; what happens from now on is published, nothing that the archive "
                "holds already (POST /dicom-events/replay does that)"
            )
        for line in [*said, *_said_of_orphans(outbox)]:
            orthanc.LogWarning(f"dicom_events: {line}")
        stable_age = float(self._configuration.get("StableAge", 60))
        intake = Intake(
            *(outbox, journal, settings.events, self._tags, stable_age, settings.reconcile),
            lambda text: self._say("error", text),
        )
        intake.bring_up_to_date()  # what the process before this one has left
        source = settings.source or f"/orthanc/{urllib.parse.quote(str(self._configuration.get('Name', 'MyOrthanc')))}"
        for named in self._brokers:
            make = maker(named, source, settings.format, path.parent, self._say)
            self._publishers.append(Publisher(named, outbox, make, self._say, _secrets(named)))
        self._keeper = Keeper(intake, self._loopback, settings.reconcile, lambda text: self._say("error", text))
        return intake

    def _start(self, intake: Intake) -> None:
        assert self._keeper
        intake.start()
        self._keeper.start()
        for publisher in self._publishers:
            publisher.start()

    def _stop(self, intake: Intake) -> None:
        """End the threads; what a hanging broker holds is left behind: the rows are on disk."""
        assert self._keeper
        until = time.monotonic() + STOP_WITHIN
        working: list[Intake | Publisher | Keeper] = [intake, *self._publishers, self._keeper]
        for each in working:
            each.stop()
        for each in working:
            each.join(until)
        for thread in self._replays:
            thread.join(max(0.0, until - time.monotonic()))
        with self._saying:
            self._stopped = True  # an SDK call after ORTHANC_STOPPED would crash Orthanc

    def _say(self, level: str, text: str) -> None:
        with self._saying:
            if not self._stopped:
                (orthanc.LogError if level == "error" else orthanc.LogWarning)(text)

    # Routes

    def _outbox(self) -> Outbox:
        if not (intake := self._open()):
            raise Refused(503, self._unavailable or self._closed or "dicom_events has not started")
        return intake.outbox

    def get_status(self, _request: Request) -> dict[str, Any]:
        """The outbox, and each broker: backlog, seconds that the oldest event waits, rate, totals, last error."""
        outbox = self._outbox()
        assert self._intake
        self._intake.bring_up_to_date()  # what waits is counted in the outbox
        return {
            "State": "running",
            "Outbox": {
                "Bytes": outbox.size(),
                "Full": outbox.full,
                "Dropped": outbox.ledger.number("dropped"),
                "Refused": outbox.ledger.number("refused") + outbox.refused,
            },
            "Brokers": {publisher.name: publisher.status() for publisher in self._publishers}
            | {name: _orphan(outbox, name, *kept) for name, kept in outbox.places.orphans.names().items()},
            "LastError": self._intake.problem or (self._keeper.problem if self._keeper else "") or None,
        }

    @takes({**PAGE_PARAMETERS, "broker": Text()})
    def get_dead_letters(self, request: Request) -> dict[str, Any]:
        """A page of what brokers did not take, oldest first: `since` (the last ID), `limit`, `broker`."""
        since, limit = request.parameters.get("since", 0), request.parameters.get("limit", 100)
        where, values = _of_broker(request.parameters.get("broker"), self._names())
        ledger = self._outbox().ledger
        total = ledger.rows(f"SELECT COUNT(*) n FROM letter l WHERE {where}", *values)[0]["n"]
        rows = ledger.rows(f"{LETTERS} WHERE {where} AND l.id>? ORDER BY l.id LIMIT ?", *values, since, limit + 1)
        items = [_shown(row) for row in rows[:limit]]
        return {"Total": total, "Items": items, "Next": items[-1]["ID"] if len(rows) > limit else None}

    def get_dead_letter(self, request: Request) -> dict[str, Any]:
        """One of them, with its data."""
        row = self._letter(request)
        return {**_shown(row), "Data": _decoded(row["data"]) if row["data"] else None}

    def drop_dead_letter(self, request: Request) -> dict[str, Any]:
        """Forget it."""
        row = self._letter(request)
        self._outbox().ledger.run("DELETE FROM letter WHERE id=? AND state='dead'", row["id"])
        return _shown(row)

    def retry_one(self, request: Request) -> dict[str, Any]:
        """Try it again now."""
        row = self._letter(request)
        self._retry("l.state='dead' AND l.id=?", [row["id"]])
        return _shown(row)

    @takes({"Broker": Text()})
    def retry_all(self, request: Request) -> dict[str, Any]:
        """Try all of them again, or those of one: `{"Broker": …}`."""
        return {"Retried": self._retry(*_of_broker(request.parameters.get("Broker"), self._names()))}

    def _retry(self, where: str, values: Sequence[Any]) -> int:
        number = self._outbox().ledger.run(
            f"UPDATE letter AS l SET state='waiting', attempts=0, next_attempt=0, updated=? WHERE {where}",
            *(time.time(), *values),
        )
        for publisher in self._publishers:
            publisher.look_again()
        return number

    def _letter(self, request: Request) -> dict[str, Any]:
        rows = self._outbox().ledger.rows(f"{LETTERS} WHERE l.state='dead' AND l.id=?", row_number(request.groups[0]))
        if not rows:
            raise Refused(404, f"There is no dead letter {request.groups[0][:20]}")
        return rows[0]

    def _names(self) -> list[str]:
        return [*(named.name for named in self._brokers), *self._outbox().places.orphans.names()]

    def drop_broker(self, request: Request) -> dict[str, Any]:
        """Drop what waits for a broker that is not configured any more: backlog, dead letters and its place."""
        outbox, given = self._outbox(), request.groups[0]
        orphans, configured = outbox.places.orphans.names(), [named.name for named in self._brokers]
        # Whether a path arrives decoded depends on the web server.
        name = next((each for each in (given, urllib.parse.unquote(given)) if each in (*orphans, *configured)), None)
        if name is None:
            raise Refused(404, f"There is no broker {one_line(given)}; orphaned are: {', '.join(orphans) or 'none'}")
        if name in configured:
            raise Refused(409, f"The broker {name} is configured: take it out of the configuration first")
        status = _orphan(outbox, name, *orphans[name])
        outbox.places.drop(name)
        return {"Broker": name, **status, "State": "dropped"}

    @takes({"Study": Text(STUDY, "[0-9a-f.-]{1,64}"), "From": Moment(), "To": Moment()})
    def replay(self, request: Request) -> Answer:
        """Publish again from what Orthanc has: `{"Study": …}`, or `{"From": …, "To": …}`; 202 with how many studies.

        `Study` is an Orthanc identifier or a StudyInstanceUID; `From` and `To` are times (2026-01-31T13:00:00Z, `To` not
        included) between which the study last changed.
        """
        self._outbox()
        wanted = request.parameters
        if "Study" in wanted and len(wanted) == 1:
            studies = self._find_study(wanted["Study"])
        elif wanted.keys() == {"From", "To"}:
            first, last = wanted["From"], wanted["To"]
            if first >= last:
                raise Refused(400, "From must be before To")
            studies = self._studies_between(first, last)
        else:
            raise Refused(400, "Give either Study, or From and To")
        thread = threading.Thread(target=self._replay, args=(studies,), name="dicom_events replay", daemon=True)
        self._replays = [each for each in self._replays if each.is_alive()] + [thread]
        thread.start()
        return Answer({"Studies": len(studies)}, 202)

    def _find_study(self, study: str) -> list[str]:
        if "-" in study:
            try:
                return [self._loopback.get(f"/studies/{study}")["ID"]]
            except LoopbackError as error:
                raise Refused(404 if error.status == 404 else 503, f"There is no study {study}: {error}") from None
        found = self._loopback.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study}})
        if not found:
            raise Refused(404, f"There is no study {study}")
        return list(found)

    def _studies_between(self, first: datetime.datetime, last: datetime.datetime) -> list[str]:
        # LastUpdate is the server's local time or UTC, as Orthanc was built; it writes UTC since 1.4, without saying so.
        low, high = (each.astimezone(datetime.UTC).strftime("%Y%m%dT%H%M%S") for each in (first, last))
        chosen, since = [], 0
        while page := self._loopback.get(f"/studies?expand&since={since}&limit=500"):
            chosen += [(each["LastUpdate"], each["ID"]) for each in page if low <= each.get("LastUpdate", "") < high]
            since += len(page)
        return [study for _, study in sorted(chosen)]

    def _replay(self, studies: list[str]) -> None:
        assert self._keeper
        for study in studies:
            try:
                self._keeper.replay(study)
            except LoopbackError as error:
                if error.status != 404:
                    self._say("error", f"dicom_events: the replay ended at study {study}: {one_line(error)}")
                    return
            except Exception as error:  # noqa: BLE001 - the end of the server, or a full disk
                self._say("error", f"dicom_events: the replay ended at study {study}: {one_line(repr(error))}")
                return


ROUTES: dict[str, dict[str, Callable[[Service, Request], Any]]] = {
    "/dicom-events/status": {"GET": Service.get_status},
    "/dicom-events/dead-letters": {"GET": Service.get_dead_letters},
    "/dicom-events/dead-letters/retry": {"POST": Service.retry_all},
    "/dicom-events/dead-letters/([0-9]+)": {"GET": Service.get_dead_letter, "DELETE": Service.drop_dead_letter},
    "/dicom-events/dead-letters/([0-9]+)/retry": {"POST": Service.retry_one},
    "/dicom-events/brokers/(.+)": {"DELETE": Service.drop_broker},
    "/dicom-events/replay": {"POST": Service.replay},
}
LETTERS = "SELECT l.*, e.id uid, e.type, e.subject, e.created, e.data FROM letter l JOIN event e ON e.row=l.event"


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": row["id"],
        "Broker": row["broker"],
        "Event": row["uid"],
        "Type": row["type"],
        "Subject": row["subject"],
        "Time": utc(row["created"]),
        "Attempts": row["attempts"],
        "Error": row["error"],
        "Since": utc(row["updated"]),
    }


def _decoded(data: str) -> Any:
    """The data of an event; as text, where the first version took what is nested too deep for a thread of Orthanc's."""
    try:
        return decoded(data)
    except ValueError:
        return data


def _orphan(outbox: Outbox, name: str, since: float, days_left: float | None) -> dict[str, Any]:
    """The status of a broker that is not configured any more."""
    found = {"Type": outbox.places.type_of(name), "State": "orphaned", **outbox.totals(name)}
    return {**found, "OrphanedSince": utc(since), "DaysLeft": days_left}


def _said_of_orphans(outbox: Outbox) -> list[str]:
    """One line of the log for all of them."""
    orphans = outbox.places.orphans.names()
    if not orphans:
        return []
    shown = ", ".join(f"{name} ({outbox.backlog(name)[0]} events)" for name in orphans)
    days = min((left for _, left in orphans.values() if left is not None), default=None)
    return [
        f"no broker is configured under the name of what waits for: {shown}. It is kept until there is one, or "
        f"DELETE /dicom-events/brokers/NAME{'' if days is None else f', or for {days:g} days more'}"
    ]


def _of_broker(broker: str | None, names: Sequence[str]) -> tuple[str, list[Any]]:
    if broker is None:
        return "l.state='dead'", []
    if broker not in names:
        raise Refused(400, f"The broker is {one_line(broker)!r}, allowed: {', '.join(names)}")
    return "l.state='dead' AND l.broker=?", [broker]


def _secrets(named: Named) -> list[str]:
    """What must not be shown, should an error quote it: passwords of URLs, and whole secrets."""
    config = named.config
    urls = [getattr(config, "url", ""), *getattr(config, "more_urls", ())]
    addresses = [urllib.parse.urlsplit(url) for url in urls if url]
    passwords = [each.password or each.username or "" for each in addresses]  # alone, a user is a token of NATS
    others = [getattr(config, "secret", ""), *map(str, getattr(config, "headers", {}).values())]
    options = [str(value) for key, value in getattr(config, "options", {}).items() if SECRET_OPTIONS.search(key)]
    return [*urls, *passwords, *map(urllib.parse.unquote, passwords), *others, *options]
