# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/keeper.py: edit that, never this file.
"""What is done beside the callbacks: events are completed, what was missed is found, what is settled goes."""

from __future__ import annotations

import datetime
import json
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ._common.answers import one_line
from ._common.loopback import Loopback, LoopbackError
from ._common.place import place_in_log

from .events import IDENTIFIERS, LEVELS, about
from .intake import ROUTES, Image, Intake, Kept
from .outbox import new_id

PAGE = 1000  # changes, or resources, a request
MISSED_AFTER = 5.0  # seconds after which an instance that /changes names and no callback told was missed
MOST_SUSPECTS = 10_000  # in memory; after weeks without this script there may be millions
PARENTS_WITHIN = 2.0  # seconds that a New… event waits for the instance that it came with
TICK = TIDY = 1.0  # seconds
LOOK = 2.0  # seconds between two looks at what was missed
FORGET = 60.0  # seconds
FORGOTTEN_AFTER = 86400.0  # seconds that identifiers of what was deleted are kept
COUNTS = {"CountInstances": "instances", "CountSeries": "series", "CountStudies": "studies"}
KNOWN_TYPES = {"NewInstance", "NewSeries", "NewStudy", "NewPatient"}

Say = Callable[[str], None]


class Stopped(Exception):  # noqa: N818 - no fault
    """Orthanc ends."""


class Keeper:
    """One thread that keeps the outbox, and one that looks, once at start, for what went while Orthanc was down."""

    def __init__(
        self,
        intake: Intake,
        loopback: Loopback,
        reconcile: bool,
        complain: Say,
    ) -> None:
        self._intake, self._outbox, self._loopback = intake, intake.outbox, loopback
        self._reconcile, self._complain = reconcile, complain
        self._suspects: dict[str, tuple[int, float, Mapping[str, Any]]] = {}
        self._read_to = self._followed_at = self._newest_at_start = 0
        self._caught_up = threading.Event()
        self._next_tidy = self._next_look = self._next_forget = 0.0
        self._complaint = ""
        self.problem = ""
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name="dicom_events keeper", daemon=True),
            threading.Thread(target=self._compare_all, name="dicom_events compare", daemon=True),
        ]

    def start(self) -> None:
        self._outbox.keepers.append(self._wake.set)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def join(self, until: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    # The thread

    def _work(self) -> None:
        begun = False
        while not self._stopping.is_set():
            try:
                if not begun:
                    self._begin()
                    begun = True
                self._turn()
                self.problem = self._complaint = ""
            except Stopped:
                return
            except (LoopbackError, sqlite3.Error, OSError) as error:
                self._meet(f"dicom_events goes on when this is over: {one_line(error)}")
                self._outbox.make_room()
            except Exception:  # noqa: BLE001 - one bad resource never ends the thread that serves all
                self._meet(f"dicom_events met an error, please report it:\n{traceback.format_exc()}")
            # A moment to let more come together, then as soon as there is work.
            self._stopping.wait(0.02)
            self._wake.wait(TICK)
            self._wake.clear()

    def _meet(self, text: str) -> None:
        self.problem = one_line(text)
        if text != self._complaint and not self._stopping.is_set():
            self._complain(text)
        self._complaint = text

    def _begin(self) -> None:
        if self._reconcile:
            newest = self._newest_at_start = int(self._ask("/changes?last")["Last"])
            place = self._outbox.ledger.number("cursor", -1)
            if place < 0:
                place = self._place_of_new(newest)
            self._read_to = place_in_log(place, newest, "dicom_events")
            self._outbox.ledger.set_number("cursor", self._read_to)

    def _place_of_new(self, newest: int) -> int:
        """Where a new outbox begins: at what came since Orthanc, or this script, was started; a page at most."""
        begin = max(0, newest - PAGE)
        made = datetime.datetime.fromtimestamp(self._outbox.ledger.number("made", 2**32), datetime.UTC)
        text = made.strftime("%Y%m%dT%H%M%S")  # as Orthanc writes the UTC of a change
        earlier = [
            each["Seq"] for each in self._ask(f"/changes?since={begin}&limit={PAGE}")["Changes"] if each["Date"] < text
        ]
        return int(max(earlier, default=begin))

    def _turn(self) -> None:
        while self._complete():
            pass
        now = time.monotonic()
        if now >= self._next_tidy:
            self._outbox.ledger.check()
            self._next_tidy = now + TIDY
            if lost := self._outbox.tidy():
                self._complain(f"dicom_events: {lost}")
        if now >= self._next_look:
            self._next_look = now + LOOK
            if self._reconcile:
                self._follow()
            self._make_up_stable()
        if now >= self._next_forget:
            self._next_forget = now + FORGET
            self._forget()

    def _ask(self, path: str) -> Any:
        if self._stopping.is_set():
            raise Stopped
        return self._loopback.get(path)

    # Completing events

    def _complete(self) -> bool:
        rows = self._outbox.incomplete(200)
        for row in rows:
            route, _, resource = row["subject"].partition("/")
            if route == "jobs":
                key, data = row["key"], self._job(resource)
            else:
                level = next(level for level, name in ROUTES.items() if name == route)
                found = self._resource(row, level, resource)
                if found is None:
                    return False
                key, data = found
            self._outbox.complete(row["row"], key, json.dumps(data))
        return len(rows) == 200

    def _job(self, job: str) -> dict[str, Any]:
        found = self._maybe(f"/jobs/{job}") or {}  # it may be forgotten already (JobsHistorySize)
        names = {"Type": "type", "State": "state", "ErrorCode": "errorCode", "ErrorDescription": "error"}
        return {"job": job, **{name: found[key] for key, name in names.items() if key in found}}

    def _resource(self, row: Mapping[str, Any], level: str, resource: str) -> tuple[str, dict[str, Any]] | None:
        """Key and data of an event about a resource; None: its first instance is being written down, ask again."""
        what = row["type"].rpartition(".")[2]
        if what == "stored":
            return self._stored(row["key"], resource)
        kept = self._intake.kept(level, resource)
        if not kept.complete:
            if what == "new" and time.time() - row["created"] < PARENTS_WITHIN:
                return None
            kept = self._look_up(level, resource) or kept
        if what != "stable":
            return kept.key, about(level, kept.orthanc_ids, kept.dicom_ids, origin=kept.origin)
        wanted, tags = self._intake.tags_of(level), kept.tags
        if wanted and tags is None:
            tags = wanted.of(self._tags_of_first(level, resource))
        data = about(
            *(level, kept.orthanc_ids, kept.dicom_ids),
            origin=kept.origin,
            counts=self._counts(level, resource),
            tags=tags if wanted else None,
        )
        return kept.key, data

    def _stored(self, series: str, instance: str) -> tuple[str, dict[str, Any]]:
        """An image that is told from what Orthanc has."""
        kept = self._intake.kept("Series", series)
        if kept.complete:
            uid = (self._maybe(f"/instances/{instance}") or {}).get("MainDicomTags", {}).get("SOPInstanceUID")
            kept = Kept((*kept.dicom_ids, uid), (*kept.orthanc_ids, instance))
        else:
            kept = self._look_up("Instance", instance) or Kept((None,) * 4, (instance,))
        wanted = self._intake.tags_of("Instance")
        data = about(
            *("Instance", kept.orthanc_ids, kept.dicom_ids),
            origin=_origin(self._metadata(instance)),
            counts=self._counts("Series", kept.key),
            tags=wanted.of(self._maybe(f"/instances/{instance}/tags?short") or {}) if wanted else None,
        )
        return kept.key, data

    def _maybe(self, path: str) -> Any:
        """What Orthanc answers, or None: the resource is gone, or broken, and its event must not hold up all others."""
        try:
            return self._ask(path)
        except LoopbackError as error:
            if error.status == 0:
                raise
            return None

    def _metadata(self, instance: str) -> dict[str, str]:
        return dict(self._maybe(f"/instances/{instance}/metadata?expand") or {})

    def _counts(self, level: str, resource: str) -> dict[str, int] | None:
        """How much a series, study or patient has; None: it is gone, to which 1.13.0 answers with zeros and 200."""
        found = self._maybe(f"/{ROUTES[level]}/{resource}/statistics") or {}
        if not found.get("CountInstances"):
            return None
        return {name: int(found[key]) for key, name in COUNTS.items() if key in found}

    def _look_up(self, level: str, resource: str) -> Kept | None:
        """The identifiers of what was here before us, from Orthanc; None if it is deleted meanwhile."""
        found: dict[str, str] = {}
        above, names = resource, [resource]
        for depth in range(LEVELS.index(level), -1, -1):
            answer = self._maybe(f"/{ROUTES[LEVELS[depth]]}/{above}")
            if answer is None:
                return None
            found |= answer.get("MainDicomTags", {})
            if depth:
                above = answer[f"Parent{LEVELS[depth - 1]}"]
                names.insert(0, above)
        return Kept(tuple(found.get(name, "") for name in IDENTIFIERS[: LEVELS.index(level) + 1]), tuple(names))

    def _tags_of_first(self, level: str, resource: str) -> dict[str, Any]:
        instances = self._maybe(f"/{ROUTES[level]}/{resource}/instances?expand=false") or []
        if not instances:
            return {}
        first = instances[0] if isinstance(instances[0], str) else instances[0]["ID"]  # 1.10.1 knows no expand=false
        return dict(self._maybe(f"/instances/{first}/tags?short") or {})

    # What was missed

    def _follow(self) -> None:
        """Read on in /changes: what no callback told within a while is told now.

        A callback that is under way, when Orthanc is killed, leaves an image without an event; a full disk does too.
        """
        while True:
            page = self._ask(f"/changes?since={self._read_to}&limit={PAGE}")
            self._intake.apply()  # what a callback has told is told
            changes = [change for change in page["Changes"] if change["ChangeType"] in KNOWN_TYPES]
            told = self._outbox.take_told([change["ID"] for change in changes if change["ChangeType"] == "NewInstance"])
            for change in changes:
                if change["ID"] not in told:
                    self._suspects[change["ID"]] = (change["Seq"], time.monotonic(), change)
            self._read_to = max(self._read_to, int(page["Last"]))
            if page["Done"] or len(self._suspects) >= MOST_SUSPECTS:
                break
        self._settle_suspects()
        place = min((seq - 1 for seq, _, _ in self._suspects.values()), default=self._read_to)
        if place != self._followed_at:
            self._outbox.ledger.set_number("cursor", place)
            self._followed_at = place
        if place >= self._newest_at_start:
            self._caught_up.set()

    def _settle_suspects(self) -> None:
        late, until = time.monotonic() - MISSED_AFTER, time.monotonic() + TICK
        told = self._outbox.take_told(
            [name for name, (_, _, change) in self._suspects.items() if change["ChangeType"] == "NewInstance"]
        )
        for name, (_, seen, change) in list(self._suspects.items()):
            level = change["ResourceType"]
            if name in told or (level != "Instance" and self._is_announced(level, name)):
                del self._suspects[name]
            elif seen < late and time.monotonic() < until:  # other events wait meanwhile
                if level == "Instance":
                    self._make_up_instance(name)
                else:
                    with self._intake.up_to_date():
                        self._intake.announce(level, name, time.time())
                del self._suspects[name]

    def _is_announced(self, level: str, resource: str) -> bool:
        if not getattr(self._intake.events, f"new_{level.lower()}"):
            return True
        return bool(self._outbox.ledger.rows("SELECT 1 FROM resource WHERE id=? AND announced", resource))

    def _make_up_instance(self, instance: str) -> None:
        found, kept = self._maybe(f"/instances/{instance}/tags?short"), self._look_up("Instance", instance)
        if found is None or kept is None:
            return  # deleted meanwhile
        metadata = self._metadata(instance)
        values, received = tuple(each or "" for each in kept.dicom_ids), metadata.get("ReceptionDate", "")
        now = time.time()
        image = Image(now, time.monotonic(), values, kept.orthanc_ids, found, _origin(metadata), received)
        with self._intake.up_to_date():
            self._intake.stored(image, due=now + self._intake.quiet_after)

    def _forget(self) -> None:
        self._outbox.forget_told(time.time() - 600)
        self._outbox.ledger.run("DELETE FROM resource WHERE deleted<?", time.time() - FORGOTTEN_AFTER)

    def _make_up_stable(self) -> None:
        self._intake.apply()
        late = "SELECT id, level FROM resource WHERE unstable AND due<? AND deleted IS NULL LIMIT 100"
        while rows := self._outbox.ledger.rows(late, time.time()):
            for row in sorted(rows, key=lambda row: -LEVELS.index(row["level"])):
                if self._is_here(row["level"], row["id"]):
                    with self._intake.up_to_date():
                        self._intake.stable(row["level"], row["id"], time.time())
                else:
                    with self._intake.up_to_date():
                        self._intake.deleted(row["level"], row["id"], time.time())

    def _is_here(self, level: str, resource: str) -> bool:
        path = f"/{ROUTES[level]}/{resource}" + ("" if level == "Instance" else "/statistics")
        try:
            return bool(self._ask(path).get("CountInstances", level == "Instance"))
        except LoopbackError as error:
            if error.status != 404:
                raise  # only what is certain is told
            return False

    # What went, and what was here before us

    def _compare_all(self) -> None:
        if not self._reconcile:
            return
        events = self._intake.events
        levels = [level for level in reversed(LEVELS) if getattr(events, f"deleted_{level.lower()}")]
        loopback_fails = 0
        # What was missed is told first: here it would be taken for what was there before us.
        while not self._caught_up.wait(TICK) and not self._stopping.is_set():
            pass
        while levels and not self._stopping.is_set():
            try:
                self._compare(levels[0])
                levels.pop(0)
            except Stopped:
                return
            except (LoopbackError, sqlite3.Error, OSError) as error:
                loopback_fails += 1
                if loopback_fails == 1:
                    self._complain(f"dicom_events compares again what is here with what it keeps: {one_line(error)}")
                self._stopping.wait(10)
            except Exception:  # noqa: BLE001 - the others are compared all the same
                self._complain(f"dicom_events met an error, please report it:\n{traceback.format_exc()}")
                levels.pop(0)

    def _compare(self, level: str) -> None:
        """Tell what went while Orthanc was down, and keep the identifiers of what was here before us."""
        table = "instance" if level == "Instance" else "resource"
        where = "1" if level == "Instance" else f"level='{level}' AND deleted IS NULL"
        reader = self._outbox.reader()
        reader.execute("CREATE TEMP TABLE missing(id TEXT PRIMARY KEY) WITHOUT ROWID")
        reader.execute(f"INSERT INTO missing SELECT id FROM {table} WHERE {where}")
        since = 0
        while here := self._ask(f"/{ROUTES[level]}?since={since}&limit={PAGE}"):
            self._intake.apply()
            reader.executemany("DELETE FROM missing WHERE id=?", [(each,) for each in here])
            marks = ",".join("?" * len(here))
            known = {row[0] for row in reader.execute(f"SELECT id FROM {table} WHERE id IN ({marks})", here)}
            if set(here) - known:
                self._keep(level, since, set(here) - known)
            since += len(here)
            self._stopping.wait(0.01)
        for (resource,) in reader.execute("SELECT id FROM missing").fetchall():
            # It may have been skipped while others were deleted, or have gone and come since: ask for it alone.
            if not self._is_here(level, resource):
                with self._intake.up_to_date():
                    if self._is_kept(table, resource):
                        self._intake.deleted(level, resource, time.time())
        reader.close()

    def _is_kept(self, table: str, resource: str) -> bool:
        condition = "" if table == "instance" else "AND deleted IS NULL"
        return bool(self._outbox.ledger.rows(f"SELECT 1 FROM {table} WHERE id=? {condition}", resource))

    def _keep(self, level: str, since: int, wanted: set[str]) -> None:
        depth = LEVELS.index(level)
        for each in self._ask(f"/{ROUTES[level]}?since={since}&limit={PAGE}&expand"):
            if each["ID"] not in wanted:
                continue
            parent = each.get(f"Parent{LEVELS[depth - 1]}") if depth else None
            uid = each.get("MainDicomTags", {}).get(IDENTIFIERS[depth], "")
            with self._outbox.ledger.transaction() as db:
                if level == "Instance":
                    db.execute("INSERT OR IGNORE INTO instance VALUES(?,?,?)", (each["ID"], uid, parent))
                else:
                    row = (each["ID"], level, uid, parent)
                    db.execute("INSERT OR IGNORE INTO resource VALUES(?,?,?,?,NULL,NULL,0,0,NULL,1,NULL)", row)

    # Telling again

    def replay(self, study: str) -> int:
        """Tell a study again, from what Orthanc has: its images, then its series, itself and its patient; how many events."""
        self._intake.apply()
        before = self._outbox.pending
        series = [
            each if isinstance(each, str) else each["ID"] for each in self._ask(f"/studies/{study}/series?expand=false")
        ]
        for each in series:
            self._replay_series(each)
        parent = self._ask(f"/studies/{study}")["ParentPatient"]
        events = self._intake.events
        with self._outbox.transaction():
            for level, resource in (*(("Series", each) for each in series), ("Study", study), ("Patient", parent)):
                if getattr(events, f"stable_{level.lower()}"):
                    self._outbox.add(
                        new_id(), f"dicom.{level.lower()}.stable", resource, f"{ROUTES[level]}/{resource}", None
                    )
        return self._outbox.pending - before

    def _replay_series(self, series: str) -> None:
        events = self._intake.events
        if not events.stored_instance:
            return
        instances = self._ask(f"/series/{series}/instances?expand=false")
        for instance in (each if isinstance(each, str) else each["ID"] for each in instances):
            received = self._metadata(instance).get("ReceptionDate", "")
            with self._outbox.transaction():
                self._outbox.add(
                    f"{instance}.{received}", "dicom.instance.stored", series, f"instances/{instance}", None
                )


def _origin(metadata: Mapping[str, str]) -> dict[str, str]:
    kinds = {
        "DicomProtocol": "DICOM_PROTOCOL",
        "RestApi": "REST_API",
        "Plugins": "PLUGIN",
        "Lua": "LUA",
        "WebDav": "WEB_DAV",
    }
    return {
        "kind": kinds.get(metadata.get("Origin", ""), "UNKNOWN"),
        "aet": metadata.get("RemoteAET", ""),
        "ip": metadata.get("RemoteIP", ""),
    }
