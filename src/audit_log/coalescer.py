# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many events of one kind become two lines: the first of them, and how many they were."""

from __future__ import annotations

import time
from typing import Any

from common.times import utc

QUIET_SECONDS = 10.0  # without another event of its kind, until the count is written
LONGEST_COUNT_SECONDS = 600.0  # after which the count is written although more events come


class EventCoalescer:
    """Lets the first event of a kind through at once, and counts the others until there were none for a while."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], tuple[dict[str, Any], int, float, float]] = {}

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._open

    def note(self, key: tuple[Any, ...], entry: dict[str, Any]) -> dict[str, Any] | None:
        """Return the line to write now, or None: the event is counted."""
        first, count, began, _ = self._open.get(key, (entry, 0, time.monotonic(), 0.0))
        self._open[key] = first, count + 1, began, time.monotonic()
        return None if count else entry

    def ended(self, everything: bool = False) -> list[dict[str, Any]]:
        """Return the lines with the counts of what has become quiet, and begin to count that again."""
        found = []
        for key, (entry, count, began, last) in list(self._open.items()):
            if everything or time.monotonic() > min(last + QUIET_SECONDS, began + LONGEST_COUNT_SECONDS):
                del self._open[key]
                if count > 1:
                    found.append({**entry, "At": utc(), "Since": entry["At"], "Count": count})
        return found
