# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which handlers an event is kept for, and the queue of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from event_dispatcher.events import Handler, name_of


class Subscriptions:
    """The handlers of each change type. The queue of a handler bears its name, for a restart must find it."""

    def __init__(self, handlers: Mapping[int, Sequence[Handler]]) -> None:
        self.handlers: dict[str, Handler] = {}
        """Of each queue."""
        self._changes: dict[str, tuple[int, list[str]]] = {}  # of each change type by name: its number, and the queues
        for change, several in handlers.items():
            self._changes[str(change)] = int(change), [self._queue_of(handler) for handler in several]

    def _queue_of(self, handler: Handler) -> str:
        """Return the name of a handler's queue; of several handlers of one name, the second is `name#2`."""
        name = name_of(handler)
        for number in range(1, len(self.handlers) + 2):
            queue_name = name if number == 1 else f"{name}#{number}"
            if self.handlers.setdefault(queue_name, handler) is handler:
                return queue_name
        raise AssertionError

    def __contains__(self, change: str) -> bool:
        return change in self._changes

    def queues_of(self, change: str) -> list[str]:
        """Return the queues into which such an event is put."""
        return self._changes.get(change, (0, []))[1]

    def number_of(self, change: str) -> int:
        """Return Orthanc's number of a change type; -1 where no handler is registered for it any more."""
        return self._changes.get(change, (-1, []))[0]

    def changes(self) -> list[str]:
        """Return the change types with handlers."""
        return list(self._changes)
