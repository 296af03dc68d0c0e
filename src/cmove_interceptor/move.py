# SPDX-License-Identifier: AGPL-3.0-or-later
"""One request on its way, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .fetcher import Fetched
from .jobs import Destination
from .move_request import Fields


class Part:
    """What one job sends of a move, by an association of its own; `refused`: how often it was."""

    def __init__(self, resources: Sequence[str], total: int, job: str = "") -> None:
        self.resources, self.total, self.job = resources, total, job
        self.sent = self.refused = 0
        self.ended: bool | None = None
        self.waits = False  # for its job's place among those that Orthanc runs at a time
        self.error = ""

    @property
    def is_running(self) -> bool:
        return bool(self.job) and self.ended is None


class Move:
    """One request on its way: what `create` returns, `apply` follows and `free` ends."""

    def __init__(self, number: int, name: str, fields: Fields, mode: str) -> None:
        self.number, self.name, self.fields, self.mode = number, name, fields, mode
        self.destination: Destination = "", {}
        self.parts: list[Part] = []
        self.total = self.applied = 0
        self.one_by_one = False  # the destination has refused an association beside another
        self.followed = True  # False: nobody knows how many of its images were sent
        self.error = ""
        self.fetched: Fetched | None = None

    @property
    def sent(self) -> int:
        """How many images were sent."""
        return sum(part.sent for part in self.parts)

    @property
    def jobs(self) -> list[str]:
        """The jobs that were submitted."""
        return [part.job for part in self.parts if part.job]

    def values(self) -> dict[str, Any]:
        """Return what services are notified of."""
        return {"RequestID": self.name, **self.fields}

    def result(self) -> dict[str, Any]:
        """Return what came of it up to now."""
        completed = self.sent if self.followed else None
        return {"Jobs": self.jobs, "Instances": self.total, "Completed": completed, "Error": self.error}
