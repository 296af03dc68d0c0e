# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc reports: journaled before the callback returns, and brought into the outbox by a thread."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.routes import one_line

from .applier import STORED, Applier
from .changes import CHANGES
from .events import LEVELS, identifiers_of_file, quoted
from .images import Identities, Tags
from .journal import Journal
from .outbox import Outbox
from .recorder import Recorder
from .settings import EventSettings

# To read a file, the plugin copies all of it: 0.3 ms for 512 KB, where Orthanc's JSON of an image takes 0.05; yet of a
# structure set 240 ms, where the copy takes 1.5. So the JSON is for larger files of these, which hold little but pixels.
SMALL_BYTES = 64 << 10
IMAGES = {
    f"1.2.840.10008.5.1.4.1.1.{each}"  # DICOM PS3.4 B.5
    for each in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "4", "6.1", "7", "12.1", "12.2", "20", "128"),
        # Photographs and videos, which may have gigabytes; documents.
        *("77.1.1", "77.1.1.1", "77.1.2", "77.1.2.1", "77.1.4", "77.1.4.1", "77.1.5.1", "77.1.5.2", "104.1", "104.2"),
    )
}
KEPT_CHANGES = 100_000  # that could not be written, and are tried again
# Seconds in which lines come together, so that not each is a transaction; the longer ones while many come.
LINGER_SECONDS, LONG_LINGER_SECONDS, MANY_LINES = 0.02, 0.2, 5
IDLE_SECONDS = 1.0


class Intake:
    """Appends what Orthanc reports to the journal, in well under a millisecond; a thread of its own has it applied."""

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
        self.outbox, self.journal = outbox, journal
        self._tags, self._complain, self._asks_for_tags = tags, complain, any(tags.values())
        self._identities = Identities(self._asks_for_tags)
        self.recorder = Recorder(outbox, events, tags, stable_age, reconcile)
        self.applier = Applier(outbox, journal, self.recorder, self._identities, complain)
        self._heeded = {name for name, (setting, _) in CHANGES.items() if getattr(events, setting)}
        self._heeded |= {"DELETED", *(name for name in CHANGES if name.startswith("STABLE_"))}
        self._unwritten: deque[bytes] = deque(maxlen=KEPT_CHANGES)
        self._writing = threading.RLock()
        self._journal_complaint = self._complaint = ""
        self._woken, self._wake, self._stopping = False, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="dicom_events intake", daemon=True)

    # What Orthanc calls

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        """Journal that an instance was stored (or was here already). What its text says, the thread finds out."""
        when, clock, values, text = time.time(), time.monotonic(), None, ""
        if dicom.GetInstanceSize() < SMALL_BYTES or _metadata(dicom, "SopClassUid") not in IMAGES:
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
        if not self._asks_for_tags or self._tags["Instance"]:
            return self._asks_for_tags
        parents = zip(LEVELS, self._identities.parents(values), strict=False)
        known = {level for level, resource in parents if self.recorder.is_touched(resource)}
        return any(self._tags[level] and level not in known for level in LEVELS[:3])

    def on_change(self, name: str, level: int, resource: str) -> None:
        """Journal one of `KNOWN_CHANGES`."""
        if name in self._heeded:
            report = (name, time.time(), time.monotonic(), LEVELS[level] if 0 <= level < 4 else "", resource)
            self._write_down(json.dumps(report), keep=True)

    def _write_down(self, text: str, *, keep: bool = False) -> None:
        """Append a line. A disk that is full refuses no image: those are found in /changes, and changes are kept (`keep`)."""
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
            stopping = self._stopping.is_set()  # then once more: what was reported last
            self._woken = False
            number, wait = 0, IDLE_SECONDS
            try:
                number = self.bring_up_to_date()
                if held := None if stopping else self.applier.release():
                    wait = min(IDLE_SECONDS, max(0.0, held - time.time()))
            except (sqlite3.Error, OSError):
                pass  # what was held back waits for the next turn
            except Exception:  # noqa: BLE001 - the thread that serves all never ends
                self._log_once(f"dicom_events met an error, please report it:\n{traceback.format_exc()}")
            if stopping:
                return
            # A moment to let more come together, then as soon as there is some.
            linger = LONG_LINGER_SECONDS if number >= MANY_LINES else LINGER_SECONDS
            self._stopping.wait(IDLE_SECONDS if self._complaint else linger)
            self._wake.wait(wait)
            self._wake.clear()

    def _log_once(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            self._complain(text)

    def bring_up_to_date(self) -> int:
        """Apply all that is journaled, if that is possible; return how many lines it was."""
        try:
            if self._complaint:  # before anything is written: it needs room itself, and gives more than that
                self.outbox.retention.make_room()
            if self._unwritten:
                with contextlib.suppress(OSError):  # that is said already
                    self._write_what_was_kept()
                    self._journal_complaint = ""
            number = self.applier.apply()
        except (sqlite3.Error, OSError) as error:
            self._log_once(
                f"dicom_events can't write to {self.outbox.path}, and goes on when it can: {one_line(error)}"
            )
            return 0
        self._complaint = ""
        return number

    @property
    def problem(self) -> str:
        """What can't be written now."""
        return self._journal_complaint or self._complaint


def _metadata(dicom: Any, name: str) -> str:
    try:
        return dicom.GetInstanceMetadata(name) or ""
    except orthanc.OrthancException:
        return ""
