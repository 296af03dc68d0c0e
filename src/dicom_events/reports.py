# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc's callbacks report: each as one line of the journal; before that is open, the lines are kept in memory."""

from __future__ import annotations

import abc
import json
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import orthanc

from .applier import STORED
from .changes import CHANGES
from .events import LEVELS, identifiers_of_file, quoted
from .images import Identities, Tags
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
MOST_EARLY_BYTES = 64 << 20  # of lines of instances: those beyond are found in /changes


class Reports(abc.ABC):
    """Makes a line of each report, in well under a millisecond."""

    def __init__(self, events: EventSettings, tags: Mapping[str, Tags]) -> None:
        self._tags, self._asks_for_tags = tags, any(tags.values())
        self._identities = Identities(self._asks_for_tags)
        self._heeded = {name for name, (setting, _) in CHANGES.items() if getattr(events, setting)}
        self._heeded |= {"DELETED", *(name for name in CHANGES if name.startswith("STABLE_"))}

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        """Note that an instance was stored (or was here already). What its text says, is found out later."""
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
        known = {level for level, resource in parents if self.is_touched(resource)}
        return any(self._tags[level] and level not in known for level in LEVELS[:3])

    def on_change(self, name: str, level: int, resource: str) -> None:
        """Note one of `KNOWN_CHANGES`."""
        if name in self._heeded:
            report = (name, time.time(), time.monotonic(), LEVELS[level] if 0 <= level < 4 else "", resource)
            self._write_down(json.dumps(report), keep=True)

    @abc.abstractmethod
    def is_touched(self, resource: str) -> bool:
        """Return whether an instance of a resource came since it was stable."""

    @abc.abstractmethod
    def _write_down(self, text: str, *, keep: bool = False) -> None:
        """Take a line. `keep`: nothing else knows of it; instances are found in /changes."""


class EarlyReports(Reports):
    """Keeps lines, in their order, until the outbox is open."""

    def __init__(self, events: EventSettings, tags: Mapping[str, Tags]) -> None:
        super().__init__(events, tags)
        self._lines: deque[tuple[str, bool]] = deque(maxlen=KEPT_CHANGES)
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def is_touched(self, resource: str) -> bool:
        return False

    def _write_down(self, text: str, *, keep: bool = False) -> None:
        if not keep:
            if self._bytes + len(text) > MOST_EARLY_BYTES:
                return
            self._bytes += len(text)
        self._lines.append((text, keep))

    def take(self) -> tuple[str, bool]:
        """Return the oldest line, and whether nothing else knows of it; it is not kept any more."""
        text, keep = self._lines.popleft()
        self._bytes -= 0 if keep else len(text)
        return text, keep


def _metadata(dicom: Any, name: str) -> str:
    try:
        return dicom.GetInstanceMetadata(name) or ""
    except orthanc.OrthancException:
        return ""
