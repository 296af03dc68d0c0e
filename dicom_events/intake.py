# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/intake.py: edit that, never this file.
"""What Orthanc tells: journaled before the callback returns, and brought into the outbox by a thread."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orthanc

from ._common.answers import one_line

from .events import LEVELS, ORIGINS, about, identifiers_of_file, identifiers_of_json, orthanc_identifier, quoted
from .journal import Journal
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
GRACE = 2.0  # seconds beyond StableAge after which a Stable… event that a restart swallowed is made up
# Seconds in which lines come together, so that not each is a transaction; the longer ones while many come.
LINGER, LONG_LINGER, MANY = 0.02, 0.2, 5
IDLE = 1.0  # seconds
STORED = "STORED_INSTANCE"
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


class Image(NamedTuple):
    """What is told of a stored instance. Identifiers are from the patient down; `tags` None: not known."""

    time: float
    clock: float
    """When its callback was called: UTC, and monotonic."""
    dicom_ids: Sequence[str]
    orthanc_ids: Sequence[str]
    tags: Mapping[str, Any] | None
    origin: Mapping[str, str]
    received: str


class Intake:
    """Appends what Orthanc tells to the journal, in well under a millisecond, and a thread of its own makes events of it.

    What an event needs to know of a series, study or patient is taken from the instances as they arrive and kept: with
    a large archive, Orthanc reads a single resource in milliseconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        journal: Journal,
        events: EventSettings,
        tags: Mapping[str, Tags],
        stable_age: float,
        reconcile: bool,
        complain: Callable[[str], None],
    ) -> None:
        self.outbox, self.journal, self.events = outbox, journal, events
        self._tags, self._reconcile, self._complain = tags, reconcile, complain
        self._settling, self.quiet_after = stable_age / 2, stable_age + GRACE
        self._heeded = {name for name, (setting, _) in CHANGES.items() if getattr(events, setting)}
        self._heeded |= {"DELETED", *(name for name in CHANGES if name.startswith("STABLE_"))}
        self._asked = any(tags.values())
        self._series: OrderedDict[tuple[str, ...], tuple[str, ...]] = OrderedDict()
        self._unwritten: deque[bytes] = deque(maxlen=KEPT_CHANGES)
        self._writing = threading.RLock()
        self._journal_complaint = self._complaint = ""
        # Of the thread, or of whoever holds the lock.
        self._applying = threading.RLock()
        self._touched: dict[str, float] = {}
        self._next_event: dict[str, float] = {}
        self._received: dict[str, int] = {}  # images of each series, of the transaction that is open
        self._instances: list[tuple[str, str, str]] = []
        self._former_is_applied = False
        self._woken, self._wake, self._stopping = False, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="dicom_events intake", daemon=True)

    # What Orthanc calls

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        """One instance was stored (or was here already). What is found out from its text is found out by the thread."""
        when, clock, values, text = time.time(), time.monotonic(), None, ""
        if dicom.GetInstanceSize() < SMALL or _metadata(dicom, "SopClassUid") not in IMAGES:
            values = identifiers_of_file(dicom.GetInstanceData())
        if values is None or self._wants_tags(values):
            text = dicom.GetInstanceAdvancedJson(orthanc.DicomToJsonFormat.SHORT, orthanc.DicomToJsonFlags.NONE, 1024)
        aet, ip, received = (
            dicom.GetInstanceRemoteAet() or "",
            _metadata(dicom, "RemoteIP"),
            _metadata(dicom, "ReceptionDate"),
        )
        # By hand: nothing here is cheap, the caches are full of pixels.
        self._write_down(
            f'["{STORED}",{when},{clock},"{instance}",{json.dumps(values) if values else "null"},'
            f"{int(dicom.GetInstanceOrigin())},{quoted(aet)},{quoted(ip)},{quoted(received)}]\t{text}"
        )

    def _wants_tags(self, values: tuple[str, ...]) -> bool:
        # What the thread has not met yet counts as new: a few images more than the first carry tags.
        if not self._asked or self._tags["Instance"]:
            return self._asked
        parents = zip(LEVELS, self._series.get(values[:3], ()), strict=False)
        known = {level for level, resource in parents if resource in self._touched}
        return any(self._tags[level] and level not in known for level in LEVELS[:3])

    def on_change(self, name: str, level: int, resource: str) -> None:
        """One of `KNOWN_CHANGES` has happened."""
        if name in self._heeded:
            told = (name, time.time(), time.monotonic(), LEVELS[level] if 0 <= level < 4 else "", resource)
            self._write_down(json.dumps(told), keep=True)

    def _write_down(self, text: str, *, keep: bool = False) -> None:
        """A disk that is full refuses no image. Instances are found again by the feed, changes are kept to be tried again."""
        line = text.replace("\n", "").encode()  # it is JSON, where they mean nothing
        try:
            if self._unwritten:
                self._write_what_was_kept()
            self.journal.append(line)
        except OSError as error:
            if keep:
                self._unwritten.append(line)
            text = f"dicom_events can't write to {self.journal.path}, and goes on when it can: {one_line(error)}"
            if text != self._journal_complaint:
                self._journal_complaint = text
                self._complain(text)
            return
        self._journal_complaint = ""
        if not self._woken:
            self._woken = True
            self._wake.set()

    def _write_what_was_kept(self) -> None:
        with self._writing:
            while self._unwritten:
                self.journal.append(self._unwritten[0])
                self._unwritten.popleft()

    # The thread

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def join(self, until: float) -> None:
        self._thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while True:
            stopping = self._stopping.is_set()  # then once more: what was told last
            self._woken = False
            number, wait = 0, IDLE
            try:
                number = self.bring_up_to_date()
                if held := None if stopping else self.release():
                    wait = min(IDLE, max(0.0, held - time.time()))
            except (sqlite3.Error, OSError):
                pass  # what was held back waits for the next turn
            except Exception:  # noqa: BLE001 - the thread that serves all never ends
                self._meet(f"dicom_events met an error, please report it:\n{traceback.format_exc()}")
            if stopping:
                return
            # A moment to let more come together, then as soon as there is some.
            self._stopping.wait(IDLE if self._complaint else LONG_LINGER if number >= MANY else LINGER)
            self._wake.wait(wait)
            self._wake.clear()

    def _meet(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            self._complain(text)

    def bring_up_to_date(self) -> int:
        """Apply all that is journaled, if that is possible; how many lines it was."""
        try:
            if self._unwritten:
                with contextlib.suppress(OSError):  # that is said already
                    self._write_what_was_kept()
                    self._journal_complaint = ""
            number = self.apply()
        except (sqlite3.Error, OSError) as error:
            self._meet(f"dicom_events can't write to {self.outbox.path}, and goes on when it can: {one_line(error)}")
            self.outbox.make_room()
            return 0
        self._complaint = ""
        return number

    @property
    def problem(self) -> str:
        """What can't be written now."""
        return self._journal_complaint or self._complaint

    def apply(self) -> int:
        """Bring all that is journaled into the outbox, in order, each line once; how many it was.

        Raises
        ------
        sqlite3.Error, OSError : the outbox can't be written; what is not applied stays in the journal.
        """
        number = 0
        with self._applying:
            while lines := self.journal.read():
                self._apply(lines)
                number += len(lines)
                self._take_over()
            self._take_over()
        return number

    def _take_over(self) -> None:
        """All that a former process told is applied. Stability is kept in memory: its Stable… events may never come."""
        if not self._former_is_applied and self.journal.place >= self.journal.former:
            due = time.time() + self.quiet_after
            self.outbox.ledger.run("UPDATE resource SET due=? WHERE unstable AND deleted IS NULL", due)
            self._touched.clear()
            self._next_event.clear()
            self.release()
            self._former_is_applied = True
            with contextlib.suppress(OSError):
                self.journal.begin_anew()

    def _apply(self, lines: list[bytes]) -> None:
        place = self.journal.after(lines)
        try:
            with self._transaction():
                for line in lines:
                    told, _, text = line.decode().partition("\t")
                    self._take(text, *json.loads(told))
                self.outbox.set_place(place)
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # noqa: BLE001 - one bad line never holds up all others
            if len(lines) > 1:
                for line in lines:
                    self._apply([line])
                return
            self._complain(
                f"dicom_events leaves out a line of its journal, please report it:\n{traceback.format_exc()}"
            )
            self.outbox.set_place(place)
        self.journal.advance(place)

    @contextlib.contextmanager
    def up_to_date(self) -> Iterator[None]:
        """A transaction of what is made up: after all that was told before, and nothing that is told comes in between."""
        with self._applying:
            self.apply()
            with self._transaction():
                yield

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self._touched.copy(), self._next_event.copy()
        self._received, self._instances = {}, []
        try:
            with self.outbox.transaction():
                yield
                self._flush()
        except BaseException:
            self._touched, self._next_event = before
            raise

    def _flush(self) -> None:
        """Write what many images share, or what is cheaper together: at the end, and before what asks for it."""
        if self._received or self._instances:
            with self.outbox.transaction() as db:
                db.executemany(
                    "UPDATE resource SET received=? WHERE id=?", [(n, key) for key, n in self._received.items()]
                )
                db.executemany("INSERT OR REPLACE INTO instance VALUES(?,?,?)", self._instances)
            self._received, self._instances = {}, []

    def _take(self, text: str, name: str, when: float, clock: float, *told: Any) -> None:
        if name == STORED:
            instance, values, kind, aet, ip, received = told
            origin = {"kind": ORIGINS.get(kind, "UNKNOWN"), "aet": aet, "ip": ip}
            self.stored(Image(when, clock, *self._identify(instance, values, text), origin, received))
            return
        self._flush()
        level, resource = told
        if name == "DELETED":
            self.deleted(level, resource, when)
        elif name.startswith("STABLE_"):
            self.stable(level, resource, when, clock)
        elif name.startswith("NEW_"):
            self.announce(level, resource, when)
        else:
            self._told(name, level, resource, when)

    def _identify(
        self, instance: str, values: Sequence[str] | None, text: str
    ) -> tuple[Sequence[str], Sequence[str], Mapping[str, Any] | None]:
        """DICOM's and Orthanc's identifiers from the patient down, and the tags where some are asked for."""
        for each in (values, identifiers_of_json(text)) if not (text and self._asked) else ():
            if each and (known := self._orthanc_ids(tuple(each)))[-1] == instance:
                return each, known, None
        if not text:
            return (), (instance,), None
        tags = json.loads(text)
        names = ("0010,0020", "0020,000d", "0020,000e", "0008,0018")
        values = tuple(str(tags.get(name) or "").strip("\0 ") for name in names)
        known = self._orthanc_ids(values)
        # Where the sums differ, Orthanc reads the identifiers in another way: the parents are looked up later.
        return values, known if known[-1] == instance else (instance,), tags

    def _orthanc_ids(self, values: tuple[str, ...]) -> tuple[str, ...]:
        parents = self._series.get(values[:3])
        if parents is None:
            parents = self._series[values[:3]] = tuple(orthanc_identifier(values[:n]) for n in (1, 2, 3))
            while len(self._series) > KNOWN_SERIES:
                self._series.popitem(last=False)
        return (*parents, orthanc_identifier(values))

    # What becomes of it: all inside a transaction

    def stored(self, image: Image, due: float | None = None) -> None:
        """One instance, with its parents. `due`: its Stable… events may never come, make them up then."""
        _, clock, dicom_ids, orthanc_ids, _, origin, _ = image
        parents = orthanc_ids[:-1]
        for depth, resource in enumerate(parents):
            if resource not in self._touched or due is not None:
                self._keep(depth, image, due)
        if self.events.stored_instance and origin["kind"] not in self.events.stored_instance_skip_origin:
            self._tell_stored(image)
        if self._reconcile and due is None:
            self.outbox.add_told(orthanc_ids[-1])
        if self.events.deleted_instance and len(orthanc_ids) == 4:
            self._instances.append((orthanc_ids[3], dicom_ids[3], orthanc_ids[2]))
        if due is None:
            for resource in parents:
                self._touched[resource] = clock

    def _keep(self, depth: int, image: Image, due: float | None) -> None:
        level, resource, parent = (
            LEVELS[depth],
            image.orthanc_ids[depth],
            image.orthanc_ids[depth - 1] if depth else None,
        )
        wanted = self._tags[level]
        tags = json.dumps(wanted.of(image.tags)) if wanted and image.tags is not None else None
        with self.outbox.transaction() as db:
            db.execute(UPSERT, (resource, level, image.dicom_ids[depth], parent, tags, json.dumps(image.origin)))
            if due is not None:
                db.execute("UPDATE resource SET due=? WHERE id=?", (due, resource))

    def _tell_stored(self, image: Image) -> None:
        when, clock, dicom_ids, orthanc_ids, found, origin, received = image
        instance, key = orthanc_ids[-1], orthanc_ids[-2] if len(orthanc_ids) == 4 else orthanc_ids[-1]
        if key not in self._received:
            rows = self.outbox.ledger.rows("SELECT received FROM resource WHERE id=?", key)
            self._received[key] = rows[0]["received"] if rows else 0
        self._received[key] += 1
        # The same at every repeat, also when it is told again from what Orthanc has (replay, or after a crash).
        uid, subject, data = f"{instance}.{received}", f"instances/{instance}", None
        if len(orthanc_ids) == 4:
            tags = self._tags["Instance"].of(found or {}) if self._tags["Instance"] else None
            counts = {"instances": self._received[key]}
            data = json.dumps(about("Instance", orthanc_ids, dicom_ids, origin=origin, counts=counts, tags=tags))
            if self.events.stored_instance_throttle_ms and self._hold(key, clock, (uid, subject, when, data)):
                return
        self.outbox.add(uid, "dicom.instance.stored", key, subject, data, when)

    def _hold(self, series: str, clock: float, event: tuple[str, str, float, str]) -> bool:
        """Whether this one waits, until its series may tell one again or the next takes its place."""
        interval = self.events.stored_instance_throttle_ms / 1000
        wait = min(interval, self._next_event.get(series, 0.0) - clock)
        if not self._former_is_applied and self._received[series] > 1 and series not in self._next_event:
            wait = interval  # when the one before was told, only the former process knew
        with self.outbox.transaction() as db:
            if wait <= 0:
                self._next_event[series] = clock + interval
                db.execute("DELETE FROM held WHERE series=?", (series,))
                return False
            db.execute(
                "INSERT INTO held VALUES(?,?,?,?,?,?) ON CONFLICT DO UPDATE SET id=excluded.id, subject=excluded.subject, "
                "created=excluded.created, data=excluded.data",
                (series, event[2] + wait, *event),
            )
            return True

    def release(self, series: str | None = None) -> float | None:
        """Tell the last of the throttled instances whose interval is over, or of one series; the next time it is needed."""
        throttled = self.events.stored_instance_throttle_ms
        if not throttled and self._former_is_applied:
            return None
        # What is not throttled any more waits for nothing.
        condition, value = ("series=?", series) if series else ("due<=?", time.time() if throttled else 2.0**62)
        with self._applying, self.outbox.transaction() as db:
            for row in self.outbox.ledger.rows(f"SELECT * FROM held WHERE {condition}", value):
                self.outbox.add(
                    row["id"], "dicom.instance.stored", row["series"], row["subject"], row["data"], row["created"]
                )
                db.execute("DELETE FROM held WHERE series=?", (row["series"],))
                self._next_event[row["series"]] = time.monotonic() + throttled / 1000
            if not series:
                now = time.monotonic()
                self._next_event = {key: when for key, when in self._next_event.items() if when > now}
        return next(iter(self.outbox.ledger.rows("SELECT MIN(due) due FROM held")), {}).get("due")

    def tags_of(self, level: str) -> Tags:
        """Those asked for in the events of a level."""
        return self._tags[level]

    def _told(self, name: str, level: str, resource: str, when: float) -> None:
        kind = CHANGES[name][1]
        if name in ("UPDATED_METADATA", "UPDATED_ATTACHMENT"):
            self._incomplete(f"dicom.{level.lower()}.{kind}", level, resource, when)
        elif name.startswith("JOB_"):
            self.outbox.add(new_id(), kind, resource, f"jobs/{resource}", None, when)
        else:
            self.outbox.add(new_id(), kind, "orthanc", kind.split(".")[1], "{}", when)

    def _incomplete(self, kind: str, level: str, resource: str, when: float) -> None:
        self.outbox.add(new_id(), kind, self._key(level, resource), f"{ROUTES[level]}/{resource}", None, when)

    def _key(self, level: str, resource: str) -> str:
        if level != "Instance":
            return resource
        found = self.outbox.ledger.rows("SELECT series FROM instance WHERE id=?", resource)
        return str(found[0]["series"]) if found else resource

    def stable(self, level: str, resource: str, when: float, clock: float | None = None) -> None:
        """A series, study or patient is stable: all of its instances are told before. No `clock`: this is made up."""
        if level == "Series":
            self.release(resource)
        last = self._touched.get(resource, 0.0)
        # An instance that came after Orthanc said so begins anew, and gets its own event later.
        anew = clock is not None and clock - last < self._settling
        if not anew:
            self._touched.pop(resource, None)
            self.outbox.ledger.run("UPDATE resource SET unstable=0, due=NULL WHERE id=?", resource)
        if getattr(self.events, f"stable_{level.lower()}"):
            self._incomplete(f"dicom.{level.lower()}.stable", level, resource, when)

    def announce(self, level: str, resource: str, when: float) -> None:
        """A series, study or patient is new: said once."""
        if not getattr(self.events, f"new_{level.lower()}"):
            return
        with self.outbox.transaction() as db:
            db.execute(
                "INSERT INTO resource VALUES(?,?,NULL,NULL,NULL,NULL,0,0,NULL,1,NULL) ON CONFLICT(id) DO UPDATE SET announced=1",
                (resource, level),
            )
            self._incomplete(f"dicom.{level.lower()}.new", level, resource, when)

    def deleted(self, level: str, resource: str, when: float) -> None:
        """A resource is gone; its DICOM identifiers are those that were kept since it was stored."""
        kept = self.kept(level, resource)
        with self.outbox.transaction() as db:
            if level == "Series":
                self.release(resource)
            if getattr(self.events, f"deleted_{level.lower()}"):
                self.outbox.add(
                    *(new_id(), f"dicom.{level.lower()}.deleted", kept.key, f"{ROUTES[level]}/{resource}"),
                    json.dumps(about(level, kept.orthanc_ids, kept.dicom_ids)),
                    when,
                )
            db.execute("DELETE FROM instance WHERE id=?", (resource,))
            # OnChange may come after the same resource was stored anew: it is marked, and goes when it stays away.
            db.execute("UPDATE resource SET deleted=?, unstable=0, due=NULL WHERE id=?", (when, resource))
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


def _metadata(dicom: Any, name: str) -> str:
    try:
        return dicom.GetInstanceMetadata(name) or ""
    except orthanc.OrthancException:
        return ""
