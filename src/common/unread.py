# SPDX-License-Identifier: AGPL-3.0-or-later
"""Instances that Orthanc has reported as new, and that were not read in its log of changes yet."""

from collections.abc import Mapping
from typing import Any

from common.inbox import MOST_REPORTS


class Unread:
    """What arrived since the log of changes was read last: a deletion takes an instance out of the log before it is read."""

    def __init__(self) -> None:
        self._new, self._before = set[str](), set[str]()

    def add(self, instance: str) -> None:
        """Note a new instance, in a callback; so many at most, while the log of changes can't be read."""
        if len(self._new) < MOST_REPORTS:
            self._new.add(instance)

    def begin_reading(self) -> None:
        """Say that the log is read from now on, up to its end."""
        # In this order, so that `now` sees each of them all the time.
        new = set(self._new)
        self._before |= new
        self._new -= new

    def on_change_entry(self, change: Mapping[str, Any]) -> None:
        """Take an entry of the log of changes."""
        if change["ChangeType"] == "NewInstance":
            self._before.discard(change["ID"])
            self._new.discard(change["ID"])

    def never_read(self) -> set[str]:
        """Return what is not in the log that was read to its end, and forget it; or its event came after its entry."""
        before, self._before = self._before, set()
        return before

    def now(self) -> list[str]:
        """Return what arrived and was not read yet."""
        return [*{*self._new, *self._before}]  # in this order, for they go from the former to the latter
