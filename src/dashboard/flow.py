# SPDX-License-Identifier: AGPL-3.0-or-later
"""Counts what comes in and what goes out."""

from __future__ import annotations

import collections
import time
from typing import Any

from common.times import parse_time

from .gathering import Gathered
from .minutes import Minute

RATE_SECONDS = 60.0  # over which "now" is measured


class Counter:
    """How much came of something that only grows, since the last minute was written, and in the last 60 s."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._unwritten = 0.0
        self._recent: collections.deque[tuple[float, float]] = collections.deque()

    def read(self, value: float) -> None:
        """Take a new reading. One that is smaller than the last is no loss: finished rows are forgotten after a while."""
        more = 0.0 if self._last is None else max(0.0, value - self._last)
        self._last = value
        self._unwritten += more
        if more:
            self._recent.append((time.monotonic(), more))

    def take(self) -> int:
        """Return what came since the last call."""
        taken, self._unwritten = self._unwritten, 0.0
        return int(taken)

    def rate(self) -> int:
        """Return what came in the last 60 s."""
        begin = time.monotonic() - RATE_SECONDS
        while self._recent and self._recent[0][0] < begin:
            self._recent.popleft()
        return int(sum(more for _, more in self._recent))


class Flow:
    """Instances received and forwarded, and what waits: now, and minute by minute."""

    def __init__(self) -> None:
        self._arrived = 0
        self._received = Counter()
        self._received.read(0)
        # Of each script and of each destination: one that does not answer for a moment is not read, and nothing is counted twice.
        self._forwarded: collections.defaultdict[str, Counter] = collections.defaultdict(Counter)
        self._done: collections.defaultdict[str, Counter] = collections.defaultdict(Counter)
        self._now: dict[str, Any] = {"Waiting": 0, "Sending": 0, "Failed": 0, "LagSeconds": 0.0}
        self._archive = 0
        self._minute: int | None = None

    def on_instance(self) -> None:
        """Count an instance that came in: OnChange calls it, from one thread."""
        self._arrived += 1

    def look(self, found: Gathered) -> None:
        """Take new readings."""
        self._received.read(self._arrived)
        self._archive = int(found.statistics.get("TotalDiskSize", 0))
        for script, status in found.statuses.items():
            if "Delivered" in status:
                self._forwarded[script].read(status["Delivered"]["Instances"])
        for script, destinations in found.destinations.items():
            for name, entry in destinations.items():
                self._done[f"{script}:{name}"].read(entry.get("Totals", {}).get("done", 0))
        every = [entry["Totals"] for each in found.destinations.values() for entry in each.values()]
        waits = [parse_time(status.get("WaitingSince")) for status in found.statuses.values()]
        oldest = min((each.timestamp() for each in waits if each), default=None)
        self._now = {
            "Waiting": sum(each.get("waiting", 0) for each in every),
            "Sending": sum(each.get("sending", 0) for each in every),
            "Failed": sum(each.get("dead", 0) for each in every),
            "LagSeconds": 0.0 if oldest is None else round(max(0.0, time.time() - oldest), 1),
        }

    def delivered_to(self, script: str, name: str) -> int:
        """Return how many deliveries a destination has got in the last 60 s."""
        return self._done[f"{script}:{name}"].rate()

    def now(self) -> dict[str, Any]:
        """Return the figures of now; received and forwarded are instances of the last 60 s."""
        forwarded = sum(each.rate() for each in self._forwarded.values())
        return {"Received": self._received.rate(), "Forwarded": forwarded, **self._now}

    def ended_minute(self) -> Minute | None:
        """Return the minute that has ended since the last call, or None."""
        current = int(time.time() // 60)
        if self._minute is None:
            self._minute = current
        if current == self._minute:
            return None
        ended, self._minute, now = self._minute, current, self._now
        forwarded = sum(each.take() for each in self._forwarded.values())
        return Minute(
            ended, self._received.take(), forwarded, now["Waiting"], now["Failed"], now["LagSeconds"], self._archive
        )
