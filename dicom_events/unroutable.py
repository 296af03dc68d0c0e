# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/unroutable.py: edit that, never this file.
"""What nobody has a queue for: kept on disk and published again, or given up, while events of other types are published."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque

from ._common.backoff import Backoff

from .broker_settings import BrokerSettings
from .events import Event
from .health import Health
from .letters import UNROUTABLE, Letters

RETRY = Backoff(first=1.0, longest=15.0)  # seconds until one event of a type is published again
KEYS_AT_ONCE = 200  # whose kept events are published again at a time


@dataclasses.dataclass
class Absence:
    """A type for which nobody has a queue: how often that was found, and when it is looked at again (`time.monotonic()`)."""

    found: int = 0
    look_at: float = 0.0


class Unroutable:
    """The events of one broker that nobody has a queue for, as long as one connection lasts. One thread uses it.

    What is kept is a letter. It leaves when its key is *tried*: the letters of this key are published again in their order,
    of each type until one comes back. So events of one series are in order, whatever finds a queue again. A key is tried

    - for its type, after 1 s, 2 s, 4 s … (one event of each type);
    - before the next event of this key is published: that might have a queue since;
    - when an event of any type has found a queue that had none before: then all keys are.
    """

    def __init__(self, letters: Letters, name: str, settings: BrokerSettings, health: Health) -> None:
        self._letters, self._name, self._health = letters, name, health
        grace = time.monotonic() + settings.unroutable_grace_seconds
        self._keeps_until = {"keep": math.inf, "drop": 0.0}.get(settings.unroutable or "", grace)
        self.keys = letters.keys(name, UNROUTABLE)
        """The keys of which something is kept."""
        self.given_up = 0
        """Events that were given up and are not counted on disk yet."""
        self._absences = {kind: Absence() for kind in letters.unroutable_types(name)}
        self._again: deque[str] = deque()  # keys to be tried
        self._tried: set[int] = set()  # rows that are under way
        self._came_back: dict[str, set[str]] = {}  # of each key that is tried, the types that nobody has a queue for

    @property
    def keeps(self) -> bool:
        """Whether what comes back is kept now."""
        return time.monotonic() < self._keeps_until

    @property
    def is_due(self) -> bool:
        """Whether keys wait to be tried."""
        return bool(self._again)

    # Events that were not kept before

    def holds(self, event: Event) -> bool:
        """Return whether an event is to be kept without being published, as its type is known to have no queue."""
        return event.type in self._absences and self.keeps

    def keep(self, event: Event) -> None:
        """Keep an event."""
        self._letters.park(self._name, [(event.row, event.key)], event.type, UNROUTABLE, 0)
        self.keys.add(event.key)

    def on_returned(self, event: Event, *, is_letter: bool = False) -> None:
        """Keep an event that has come back, or give it up. `is_letter`: a broker had refused it before."""
        if self.keeps:
            self._note_absence(event.type)
            self.keep(event)
            if not is_letter:  # what else is kept of this key is tried now
                self._came_back.setdefault(event.key, set()).add(event.type)
        elif is_letter:
            self._give_up(event)
        else:
            self.given_up += 1
            self._health.on_given_up(event.type)

    def on_routed(self, kind: str) -> None:
        """Note that somebody has a queue for a type. If nobody had: what else is kept may have one too."""
        if self._absences.pop(kind, None):
            self._again = deque(self.keys)

    # Kept ones

    def keys_to_try(self) -> list[str]:
        """Return the keys that are to be tried now."""
        if self._absences and not self.keeps:  # a last time
            self._absences.clear()
            self._again = deque(self.keys)
        found = [self._again.popleft() for _ in range(min(len(self._again), KEYS_AT_ONCE))]
        for kind, absence in list(self._absences.items()):
            if absence.look_at <= time.monotonic():
                if key := self._letters.first_unroutable_key(self._name, kind):
                    found.append(key)
                else:
                    del self._absences[kind]
        return list(dict.fromkeys(found))

    def next_of(self, key: str) -> Event | None:
        """Return the next kept event of a key that is tried; None: that is over."""
        came_back = self._came_back.setdefault(key, set())
        if event := self._letters.next_unroutable(self._name, key, sorted(came_back)):
            self._tried.add(event.row)
            return event
        if not self._came_back.pop(key):
            self.keys.discard(key)
            if not self.keys:
                self._health.on_nothing_kept()
        return None

    def is_tried(self, row: int) -> bool:
        """Return whether this row is a kept event that is published again."""
        return row in self._tried

    def on_outcome(self, event: Event, *, is_returned: bool) -> None:
        """Take what became of a kept event: it came back again, or it is kept no more."""
        self._tried.discard(event.row)
        if not is_returned:
            self.on_routed(event.type)
        elif self.keeps:
            self._came_back[event.key].add(event.type)
            self._note_absence(event.type)
        else:
            self._give_up(event)

    def wait_behind_letter(self, key: str) -> None:
        """Let what is kept of a key wait behind an event of it that the broker has refused."""
        self._letters.let_unroutable_wait(self._name, key)
        self._came_back.pop(key, None)
        self.keys.discard(key)

    def _note_absence(self, kind: str) -> None:
        absence, now = self._absences.setdefault(kind, Absence()), time.monotonic()
        if absence.look_at <= now:
            absence.found += 1
        absence.look_at = now + RETRY.delay(absence.found)
        self._health.on_kept(kind)

    def _give_up(self, event: Event) -> None:
        self._letters.give_up(self._name, event.row)
        self._health.on_given_up(event.type)
