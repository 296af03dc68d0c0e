# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gathers lines and writes them together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from common.expiry import Expiry
from common.times import utc

from .coalescer import EventCoalescer
from .log import Log

DROP_EVERY_SECONDS = 3600.0  # between two looks for files older than `KeepDays`


class LineWriter:
    """Keeps lines in memory until the log has them. For one thread.

    Attributes
    ----------
    lines : what waits to be written.
    wrote_at : when (monotonic) lines were written last.
    """

    def __init__(self, log: Log, keep_days: float | None, expiry: Expiry) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self._log, self._keep_days, self._expiry = log, keep_days, expiry
        self._coalescer = EventCoalescer()
        self._next_drop, self.wrote_at = 0.0, time.monotonic()

    def add(self, at: str, event: str, place: Mapping[str, str] | None = None, **more: Any) -> None:
        """Add a line."""
        self.lines.append({"At": at, "Event": event, **(place or {}), **more})

    def add_or_count(self, key: tuple[Any, ...], entry: dict[str, Any]) -> bool:
        """Add a line unless one of its kind, `key`, was added just now; return whether it was added."""
        if line := self._coalescer.note(key, entry):
            self.lines.append(line)
        return line is not None

    def counts(self, key: tuple[Any, ...]) -> bool:
        """Return whether events of this kind are being counted: its first line has been added."""
        return key in self._coalescer

    def add_counts(self, everything: bool = False) -> None:
        """Add the lines of what was counted and has become quiet."""
        self.lines += self._coalescer.ended(everything)

    def write(self) -> None:
        """Write all lines, and delete files that are too old. Raises OSError, sqlite3.Error; nothing is lost then."""
        if self.lines:
            self._log.append(self.lines)
            self.lines, self.wrote_at = [], time.monotonic()
        if self._keep_days and time.monotonic() > self._next_drop:
            self._next_drop = time.monotonic() + DROP_EVERY_SECONDS
            if self._expiry.may_delete():
                self._log.drop_before(utc(max(0.0, time.time() - self._keep_days * 86400)))
