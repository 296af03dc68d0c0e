# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc tells, written down before the callback returns."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orthanc

from ._contained import one_line
from .events import LEVELS, ORIGINS, about, identifiers_of_file, identifiers_of_json, orthanc_identifier
from .outbox import Outbox, new_id
from .settings import EventSettings

ROUTES = {"Patient": "patients", "Study": "studies", "Series": "series", "Instance": "instances"}
# To read a file, the plugin copies all of it: 0.3 ms for 512 KB, where Orthanc's JSON of an image takes 0.05; yet of a
# structure set 240 ms, where the copy takes 1.5. So the JSON is for larger files of these, which hold little but pixels.
SMALL = 64 << 10  # bytes
IMAGES = {
    f"1.2.840.10008.5.1.4.1.1.{each}"  # DICOM PS3.4 B.5
    for each in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "4", "6.1", "7", "12.1", "12.2", "20", "128")
}
KNOWN_SERIES = 10_000
KEPT_CHANGES = 100_000  # that could not be written, and are tried again
UPSERT = """
INSERT INTO resource VALUES(?,?,?,?,?,?,0,1,NULL,0,NULL) ON CONFLICT(id) DO UPDATE SET
dicom=excluded.dicom, parent=excluded.parent, tags=COALESCE(excluded.tags, tags), origin=excluded.origin, unstable=1, due=NULL,
announced=announced AND deleted IS NULL, received=CASE WHEN deleted IS NULL THEN received ELSE 0 END, deleted=NULL
"""
# The events of OnChange: the setting that switches each, and its type.
CHANGES = {
    **{f"STABLE_{level.upper()}": (f"stable_{level.lower()}", f"dicom.{level.lower()}.stable") for level in LEVELS[:3]},
    **{f"NEW_{level.upper()}": (f"new_{level.lower()}", f"dicom.{level.lower()}.new") for level in LEVELS[:3]},
    "UPDATED_METADATA": ("updated_metadata", "metadata-updated"),
    "UPDATED_ATTACHMENT": ("updated_attachment", "attachment-updated"),
    "JOB_SUCCESS": ("job_success", "orthanc.job.succeeded"),
    "JOB_FAILURE": ("job_failure", "orthanc.job.failed"),
    "ORTHANC_STARTED": ("orthanc_started", "orthanc.started"),
    "ORTHANC_STOPPED": ("orthanc_stopped", "orthanc.stopped"),
    "UPDATED_MODALITIES": ("updated_modalities", "orthanc.modalities.updated"),
    "UPDATED_PEERS": ("updated_peers", "orthanc.peers.updated"),
}
KNOWN_CHANGES = {int(getattr(orthanc.ChangeType, name)): name for name in (*CHANGES, "DELETED")}


class Tags:
    """The tags that were asked for, as Orthanc's JSON names them (`gggg,eeee`)."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {self._number(name): name for name in names}

    @staticmethod
    def _number(name: str) -> str:
        """Raises `ValueError` for what Orthanc's dictionary does not know."""
        try:
            found = orthanc.LookupDictionary(name)
        except (orthanc.OrthancException, TypeError):  # which one depends on the plugin
            raise ValueError(name) from None
        return f"{found['Group']:04x},{found['Element']:04x}"

    def __bool__(self) -> bool:
        return bool(self._names)

    def of(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Those that are there; sequences and binary ones are not published."""
        return {name: found[tag] for tag, name in self._names.items() if isinstance(found.get(tag), str)}


@dataclasses.dataclass(frozen=True)
class Kept:
    """DICOM's and Orthanc's identifiers from the patient down, as far as they are known; of the first instance the rest."""

    dicom_ids: tuple[str | None, ...]
    orthanc_ids: tuple[str, ...]
    tags: dict[str, Any] | None = None
    origin: dict[str, str] | None = None

    @property
    def complete(self) -> bool:
        return None not in self.dicom_ids and len(self.orthanc_ids) == len(self.dicom_ids)

    @property
    def key(self) -> str:
        """What its events are in order with: of an instance its series."""
        return self.orthanc_ids[-2] if len(self.orthanc_ids) == 4 else self.orthanc_ids[-1]


class Intake:
    """Writes rows of the outbox: in OnStoredInstance and OnChange, well under a millisecond each.

    What an event needs to know of a series, study or patient is taken from the instances as they arrive and kept: with
    a large archive, Orthanc reads a single resource in milliseconds.
    """

    def __init__(
        self, outbox: Outbox, events: EventSettings, tags: Mapping[str, Tags], stable_age: float, reconcile: bool
    ) -> None:
        self.outbox, self.events, self._tags, self._reconcile = outbox, events, tags, reconcile
        self._settling = stable_age / 2
        self._touched: dict[str, float] = {}
        self._series: OrderedDict[tuple[str, ...], tuple[str, ...]] = OrderedDict()
        self._next_event: dict[str, float] = {}
        self._unwritten: deque[Callable[[], None]] = deque(maxlen=KEPT_CHANGES)
        self._writing = threading.RLock()
        self._complaint = ""

    # Instances

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        """One instance was stored (or was here already)."""
        origin = int(dicom.GetInstanceOrigin())
        dicom_ids, orthanc_ids, found = self._identify(dicom, instance)
        source = {
            "kind": ORIGINS.get(origin, "UNKNOWN"),
            "aet": dicom.GetInstanceRemoteAet() or "",
            "ip": _metadata(dicom, "RemoteIP"),
        }
        received = _metadata(dicom, "ReceptionDate")
        self._guarded(lambda: self.stored(dicom_ids, orthanc_ids, source, received, found))

    def _identify(self, dicom: Any, instance: str) -> tuple[tuple[str, ...], tuple[str, ...], Mapping[str, Any]]:
        """DICOM's and Orthanc's identifiers from the patient down, and the tags where some are asked for."""
        read = dicom.GetInstanceSize() < SMALL or _metadata(dicom, "SopClassUid") not in IMAGES
        values = identifiers_of_file(dicom.GetInstanceData()) if read else None
        known = self._orthanc_ids(values) if values else ()
        if values and known[-1] == instance and not self._wants_tags(known):
            return values, known, {}
        text = dicom.GetInstanceAdvancedJson(orthanc.DicomToJsonFormat.SHORT, orthanc.DicomToJsonFlags.NONE, 1024)
        values = identifiers_of_json(text)
        known = self._orthanc_ids(values) if values else ()
        if values and known[-1] == instance and not self._wants_tags(known):
            return values, known, {}
        found = json.loads(text)
        values = tuple(
            str(found.get(tag) or "").strip("\0 ") for tag in ("0010,0020", "0020,000d", "0020,000e", "0008,0018")
        )
        known = self._orthanc_ids(values)
        # Where the sums differ, Orthanc reads the identifiers in another way: the parents are looked up later.
        return (values, known, found) if known[-1] == instance else (values, (instance,), found)

    def _orthanc_ids(self, values: tuple[str, ...]) -> tuple[str, ...]:
        parents = self._series.get(values[:3])
        if parents is None:
            parents = self._series[values[:3]] = tuple(orthanc_identifier(values[:n]) for n in (1, 2, 3))
            while len(self._series) > KNOWN_SERIES:
                self._series.popitem(last=False)
        return (*parents, orthanc_identifier(values))

    def _wants_tags(self, orthanc_ids: tuple[str, ...]) -> bool:
        return bool(self._tags["Instance"]) or any(
            self._tags[level] and resource not in self._touched
            for level, resource in zip(LEVELS, orthanc_ids[:3], strict=False)
        )

    def stored(
        self,
        dicom_ids: tuple[str, ...],
        orthanc_ids: tuple[str, ...],
        origin: Mapping[str, str],
        received: str,
        found: Mapping[str, Any],
        due: float | None = None,
    ) -> None:
        """Write one instance down, with its parents. `due`: its Stable… events may never come, make them up then."""
        with self.outbox.ledger.lock:  # what becomes stable meanwhile, becomes so after this
            if due is None and self._is_ordinary(orthanc_ids, origin):
                self._tell_one_more(dicom_ids, orthanc_ids, origin, received, found)
                return
        instance, now = orthanc_ids[-1], time.time()
        touched = dict(zip(LEVELS, orthanc_ids[:-1], strict=False))
        with self.outbox.transaction() as db:
            for depth, (level, resource) in enumerate(touched.items()):
                if resource not in self._touched or due is not None:
                    tags = json.dumps(self._tags[level].of(found)) if self._tags[level] and found else None
                    parent = orthanc_ids[depth - 1] if depth else None
                    db.execute(UPSERT, (resource, level, dicom_ids[depth], parent, tags, json.dumps(origin)))
                    if due is not None:
                        db.execute("UPDATE resource SET due=? WHERE id=?", (due, resource))
            if self.events.stored_instance and origin["kind"] not in self.events.stored_instance_skip_origin:
                self._tell_stored(db, dicom_ids, orthanc_ids, origin, received, found, now)
            if self._reconcile and due is None:
                db.execute("INSERT OR REPLACE INTO recent VALUES(?,?)", (instance, now))
            if self.events.deleted_instance and len(orthanc_ids) == 4:
                db.execute("INSERT OR REPLACE INTO instance VALUES(?,?,?)", (instance, dicom_ids[3], orthanc_ids[2]))
        if due is None:
            self._touched.update(dict.fromkeys(touched.values(), time.monotonic()))

    def _tell_one_more(
        self,
        dicom_ids: tuple[str, ...],
        orthanc_ids: tuple[str, ...],
        origin: Mapping[str, str],
        received: str,
        found: Mapping[str, Any],
    ) -> None:
        instance = orthanc_ids[3]
        tags = self._tags["Instance"].of(found) if self._tags["Instance"] else None
        data = json.dumps(about("Instance", orthanc_ids, dicom_ids, origin=origin, tags=tags))[:-1]
        parts = (f'{data}, "counts": {{"instances": ', "}}")
        dicom = dicom_ids[3] if self.events.deleted_instance else None
        uid = f"{instance}.{received}"
        self.outbox.add_stored(uid, orthanc_ids[2], instance, parts, keep=self._reconcile, dicom=dicom)
        self._touched.update(dict.fromkeys(orthanc_ids[:3], time.monotonic()))

    def _is_ordinary(self, orthanc_ids: tuple[str, ...], origin: Mapping[str, str]) -> bool:
        """Whether it is one more image of a series that is kept already, and is told at once."""
        events = self.events
        return (
            all(each in self._touched for each in orthanc_ids[:-1])
            and len(orthanc_ids) == 4
            and events.stored_instance
            and not events.stored_instance_throttle_ms
            and origin["kind"] not in events.stored_instance_skip_origin
        )

    def _tell_stored(
        self,
        db: sqlite3.Connection,
        dicom_ids: tuple[str, ...],
        orthanc_ids: tuple[str, ...],
        origin: Mapping[str, str],
        received: str,
        found: Mapping[str, Any],
        now: float,
    ) -> None:
        instance, key = orthanc_ids[-1], orthanc_ids[-2] if len(orthanc_ids) == 4 else orthanc_ids[-1]
        count = db.execute("UPDATE resource SET received=received+1 WHERE id=? RETURNING received", (key,)).fetchone()
        tags = self._tags["Instance"].of(found) if self._tags["Instance"] else None
        data = about(
            "Instance", orthanc_ids, dicom_ids, origin=origin, counts={"instances": count[0] if count else 1}, tags=tags
        )
        # The same at every repeat, also when it is told again from what Orthanc has (replay, or after a crash).
        uid, text = f"{instance}.{received}", json.dumps(data)
        interval = self.events.stored_instance_throttle_ms / 1000
        if len(orthanc_ids) < 4:
            self.outbox.add(uid, "dicom.instance.stored", key, f"instances/{instance}", None, now)
        elif not interval or self._next_event.get(key, 0) <= time.monotonic():
            if interval:
                self._next_event[key] = time.monotonic() + interval
                db.execute("DELETE FROM held WHERE series=?", (key,))
            self.outbox.add(uid, "dicom.instance.stored", key, f"instances/{instance}", text, now)
        else:
            wait = self._next_event[key] - time.monotonic()
            self.outbox.pending += 1
            held = (key, now + wait, uid, f"instances/{instance}", now, text)
            db.execute(
                "INSERT INTO held VALUES(?,?,?,?,?,?) ON CONFLICT DO UPDATE SET id=excluded.id, subject=excluded.subject, "
                "created=excluded.created, data=excluded.data",
                held,
            )

    def release(self, series: str | None = None) -> float | None:
        """Tell the last of the throttled instances whose interval is over, or of one series; the next time it is needed."""
        condition, value = ("series=?", series) if series else ("due<=?", time.time())
        with self.outbox.transaction() as db:
            for row in self.outbox.ledger.rows(f"SELECT * FROM held WHERE {condition}", value):
                self.outbox.add(
                    row["id"], "dicom.instance.stored", row["series"], row["subject"], row["data"], row["created"]
                )
                db.execute("DELETE FROM held WHERE series=?", (row["series"],))
                self._next_event[row["series"]] = time.monotonic() + self.events.stored_instance_throttle_ms / 1000
        if not series:
            now = time.monotonic()
            self._next_event = {key: when for key, when in list(self._next_event.items()) if when > now}
        return next(iter(self.outbox.ledger.rows("SELECT MIN(due) due FROM held")), {}).get("due")

    def tags_of(self, level: str) -> Tags:
        """Those asked for in the events of a level."""
        return self._tags[level]

    # Changes

    def on_change(self, name: str, level: int, resource: str) -> None:
        """One of `KNOWN_CHANGES` has happened."""
        self._guarded(lambda: self._changed(name, LEVELS[level] if 0 <= level < 4 else "", resource), keep=True)

    def _changed(self, name: str, level: str, resource: str) -> None:
        with self.outbox.transaction():
            if name == "DELETED":
                self.deleted(level, resource)
            elif name.startswith("STABLE_"):
                self.stable(level, resource)
            elif name.startswith("NEW_"):
                self.announce(level, resource)
            elif getattr(self.events, CHANGES[name][0]):
                self._told(name, level, resource)

    def _told(self, name: str, level: str, resource: str) -> None:
        kind = CHANGES[name][1]
        if name in ("UPDATED_METADATA", "UPDATED_ATTACHMENT"):
            self._incomplete(f"dicom.{level.lower()}.{kind}", level, resource)
        elif name.startswith("JOB_"):
            self.outbox.add(new_id(), kind, resource, f"jobs/{resource}", None)
        else:
            self.outbox.add(new_id(), kind, "orthanc", kind.split(".")[1], "{}")

    def _incomplete(self, kind: str, level: str, resource: str) -> None:
        self.outbox.add(new_id(), kind, self._key(level, resource), f"{ROUTES[level]}/{resource}", None)

    def _key(self, level: str, resource: str) -> str:
        if level != "Instance":
            return resource
        found = self.outbox.ledger.rows("SELECT series FROM instance WHERE id=?", resource)
        return str(found[0]["series"]) if found else resource

    def stable(self, level: str, resource: str, *, made_up: bool = False) -> None:
        """A series, study or patient is stable: all of its instances are told before."""
        if level == "Series":
            self.release(resource)
        last = self._touched.get(resource, 0.0)
        # An instance that came after Orthanc said so begins anew, and gets its own event later.
        anew = not made_up and time.monotonic() - last < self._settling
        if not anew:
            self._touched.pop(resource, None)
            self.outbox.ledger.run("UPDATE resource SET unstable=0, due=NULL WHERE id=?", resource)
        if getattr(self.events, f"stable_{level.lower()}"):
            self._incomplete(f"dicom.{level.lower()}.stable", level, resource)

    def announce(self, level: str, resource: str) -> None:
        """A series, study or patient is new: said once."""
        if not getattr(self.events, f"new_{level.lower()}"):
            return
        with self.outbox.transaction() as db:
            db.execute(
                "INSERT INTO resource VALUES(?,?,NULL,NULL,NULL,NULL,0,0,NULL,1,NULL) ON CONFLICT(id) DO UPDATE SET announced=1",
                (resource, level),
            )
            self._incomplete(f"dicom.{level.lower()}.new", level, resource)

    def deleted(self, level: str, resource: str) -> None:
        """A resource is gone; its DICOM identifiers are those that were kept since it was stored."""
        kept = self.kept(level, resource)
        with self.outbox.transaction() as db:
            if level == "Series":
                self.release(resource)
            if getattr(self.events, f"deleted_{level.lower()}"):
                self.outbox.add(
                    *(new_id(), f"dicom.{level.lower()}.deleted", kept.key, f"{ROUTES[level]}/{resource}"),
                    json.dumps(about(level, kept.orthanc_ids, kept.dicom_ids)),
                )
            db.execute("DELETE FROM instance WHERE id=?", (resource,))
            # OnChange may come after the same resource was stored anew: it is marked, and goes when it stays away.
            db.execute("UPDATE resource SET deleted=?, unstable=0, due=NULL WHERE id=?", (time.time(), resource))
        self._touched.pop(resource, None)

    def kept(self, level: str, resource: str) -> Kept:
        """What is known of a resource without asking Orthanc."""
        dicom_ids: list[str | None] = []
        orthanc_ids = [resource]
        row: Mapping[str, Any] = {}
        above: str | None = resource
        if level == "Instance":
            found = self.outbox.ledger.rows("SELECT dicom, series FROM instance WHERE id=?", resource)
            dicom_ids, above = [found[0]["dicom"] if found else None], found[0]["series"] if found else None
            orthanc_ids = [above, resource] if above else [resource]
        while above and (rows := self.outbox.ledger.rows("SELECT * FROM resource WHERE id=?", above)):
            row = row or rows[0]
            dicom_ids.insert(0, rows[0]["dicom"])
            above = rows[0]["parent"]
            if above:
                orthanc_ids.insert(0, above)
        missing = LEVELS.index(level) + 1 - len(dicom_ids)
        texts = [row.get(name) for name in ("tags", "origin")]
        return Kept((*[None] * missing, *dicom_ids), tuple(orthanc_ids), *(text and json.loads(text) for text in texts))

    # What could not be written

    def _guarded(self, write: Callable[[], None], *, keep: bool = False) -> None:
        """A disk that is full refuses no image. Instances are found again by the feed, changes are kept to be tried again."""
        try:
            if self._unwritten:
                self.write_what_was_kept()
            write()
        except (sqlite3.Error, OSError) as error:
            if keep:
                self._unwritten.append(write)
            self.complain(f"dicom_events can't write to {self.outbox.path}, and goes on when it can: {one_line(error)}")
        else:
            self._complaint = ""

    def write_what_was_kept(self) -> None:
        with self._writing:
            while self._unwritten:
                self._unwritten[0]()
                self._unwritten.popleft()

    def complain(self, text: str) -> None:
        if text != self._complaint:
            orthanc.LogError(text)
        self._complaint = text


def _metadata(dicom: Any, name: str) -> str:
    try:
        return dicom.GetInstanceMetadata(name) or ""
    except orthanc.OrthancException:
        return ""
