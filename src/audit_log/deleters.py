# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who has asked for what is being deleted: Orthanc reports what is gone, and not whose request it was."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

REMEMBERED_SECONDS = 300.0  # after the request; it may have been refused, and a large study takes its time
MOST_REMEMBERED = 50_000


class Deleters:
    """Remembers the latest request to delete each resource. For one thread."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def note(self, resources: Iterable[str], who: Mapping[str, Any]) -> None:
        """Remember that somebody asks to delete resources."""
        now = time.monotonic()
        for resource in resources:
            self._requests.pop(resource, None)  # the newest ones are last
            self._requests[resource] = now, who
        while self._requests:
            oldest = next(iter(self._requests))
            if len(self._requests) <= MOST_REMEMBERED and self._requests[oldest][0] > now - REMEMBERED_SECONDS:
                return
            del self._requests[oldest]

    def of(self, *identifiers: str) -> Mapping[str, Any]:
        """Return who asked to delete the first of these resources of which that is known; {} if nobody did."""
        for resource in identifiers:
            at, who = self._requests.get(resource, (0.0, {}))
            if who and at > time.monotonic() - REMEMBERED_SECONDS:
                return who
        return {}
