# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the script adds to Orthanc's metrics."""

from __future__ import annotations

from .archive import Archive
from .clock import Clock
from .disk import Disk
from .runner import Runner
from .space import SpaceRules


class Measures:
    """Reads its numbers from memory, and asks the file system how much room there is."""

    def __init__(self, runner: Runner, clock: Clock, space: SpaceRules, disk: Disk, archive: Archive) -> None:
        self._runner, self._clock, self._space, self._disk = runner, clock, space, disk
        self._index = archive.index

    def measure(self) -> dict[str, float]:
        """Return the metrics; of the disk none where a plugin keeps Orthanc's files elsewhere."""
        current, ended = self._runner.current, self._runner.last_totals
        found: dict[str, float] = {
            "remaining": current.left if current else ended.get("Remaining", 0),
            **{state.lower(): ended.get(state, 0) for state in ("Deleted", "Gone", "Kept", "Failed")},
            "clock_doubted": bool(self._clock.read().doubt),
            "rules_stuck": self._space.stuck,
        }
        room = None if self._index.is_elsewhere else self._disk.room()
        return {**found, "room_bytes": room[0], "disk_used_percent": room[1]} if room else found
