# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc's callbacks report, until it is written: instances that were stored, and series that were deleted."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from .dicom_file import Layout, scan
from .entries import PIXELS_GROUP, Wanted
from .values import ITEM, Reading

MAX_COPIED_BYTES = 8_000_000  # of an instance; a larger one is not copied while it is stored, but read afterwards
MAX_REPORTS = 50_000  # that wait to be written, and series whose entries are remembered
LAYOUTS = 8  # of files, that are recognised without looking through them


class Report(NamedTuple):
    """An instance that was stored, with the values that are new to its series; None: it must be read.

    Without an instance, a series that was deleted.
    """

    instance: str
    series: str
    values: dict[str, Any] | None


class StoredInstances:
    """Takes the tags that are new to each series out of what is stored; called by Orthanc's threads, so it is quick."""

    def __init__(self, wanted: Wanted, reading: Reading) -> None:
        self._wanted, self._reading = wanted, reading
        self._reports: collections.deque[Report] = collections.deque()
        self._seen: dict[str, set[str]] = {}  # by series: the entries that were taken since the start
        self._layouts: tuple[Layout, ...] = ()  # of the last files that were looked through

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, dicom: Any, instance: str) -> bool:
        """Take what an instance has; return False if there is no room: then the log of changes has it."""
        if len(self._reports) > MAX_REPORTS:
            return False
        series, values = "", None
        if dicom.GetInstanceSize() <= MAX_COPIED_BYTES:
            with contextlib.suppress(ValueError, struct.error, RecursionError):
                series, values = self._take(dicom)
        self._reports.append(Report(instance, series, values))
        return True

    def add_deleted(self, series: str) -> None:
        """Take that a series was deleted."""
        self._seen.pop(series, None)
        self._reports.append(Report("", series, None))

    def write_first(self, limit: int, write: Callable[[list[Report]], None]) -> None:
        """Let `write` commit the oldest reports, and forget them then."""
        batch = [self._reports[index] for index in range(min(limit, len(self._reports)))]
        write(batch)
        for _ in batch:
            self._reports.popleft()

    def _take(self, dicom: Any) -> tuple[str, dict[str, Any]]:
        data = dicom.GetInstanceData()
        # Most images are laid out like one before, of a series that lacks nothing they have.
        series = next((found for layout in self._layouts if (found := layout.series_of(data))), "")
        if not (perhaps := self._wanted.perhaps_in(data, self._seen.get(series, ()))):
            return series, {}
        scanned = scan(data, self._wanted, lambda series: perhaps <= self._seen.get(series, set()))
        if scanned.layout and not series:
            self._layouts = (scanned.layout, *self._layouts[: LAYOUTS - 1])
        seen = self._seen.get(scanned.series, set())
        if not (new := scanned.present.keys() - seen):
            return scanned.series, {}
        has_values = any(not self._wanted.entries[key].exists_only for key in new)
        tags = json.loads(dicom.GetInstanceJson()) if has_values else {}
        values = {}
        for key in new:
            number, content = scanned.present[key]
            if self._wanted.entries[key].group > PIXELS_GROUP and content.startswith(ITEM):
                raise ValueError("a sequence behind the pixels, which Orthanc leaves out here")
            values[key] = self._reading.value_of(
                self._wanted.entries[key],
                tags.get(number, {}),
                functools.partial(bytes, content),
                scanned.character_set,
            )
        if len(self._seen) > MAX_REPORTS:
            self._seen.clear()
        self._seen.setdefault(scanned.series, set()).update(new)
        return scanned.series, values
