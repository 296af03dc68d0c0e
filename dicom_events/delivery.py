# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/delivery.py: edit that, never this file.
"""Which event a broker gets next, and what becomes of it: at least once, of each key one at a time, so that order holds."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections import deque
from collections.abc import Callable

from ._common.wildcards import matches_any

from .broker_settings import BrokerSettings
from .brokers import Outcome
from .events import Event
from .health import Health
from .outbox import Outbox
from .unroutable import Unroutable

WINDOW_EVENTS = 4000  # in memory
WINDOW_BYTES = 32 << 20
PAGE_EVENTS = 1000
PAGES_AT_ONCE = 10
SETTLE_EVERY_SECONDS = 0.2  # the cursor is written
LETTERS_EVERY_SECONDS = 0.5  # letters are looked for
LETTERS_AT_ONCE = 200
TRIES_OF_REFUSED = 5  # then it is a dead letter
KNOWN_TYPES = 1000  # whose match with the patterns is remembered


class Selection:
    """Which event of one broker is next, from when it is connected until it is not. One thread uses it.

    `in_order`: the broker takes several events of one key at a time.
    """

    def __init__(
        self,
        outbox: Outbox,
        name: str,
        settings: BrokerSettings,
        in_order: bool,
        health: Health,
    ) -> None:
        self._outbox, self._name, self._settings = outbox, name, settings
        self._in_order, self._health = in_order, health
        patterns = settings.events
        self._is_mine: Callable[[str], bool] = functools.lru_cache(KNOWN_TYPES)(
            lambda kind: matches_any(kind, patterns)
        )
        self._position = self._written = outbox.cursor(name)
        self._order: deque[int] = deque()  # rows in the window, oldest first
        self._bytes = 0  # of the data of those that are not settled
        self._settled: set[int] = set()
        self._ready: deque[Event] = deque()
        self._queued_by_key: dict[str, deque[Event]] = {}  # of each key that is under way, what follows
        self._under_way: dict[int, Event] = {}
        self._parked = outbox.letters.keys(name)
        self._letters: dict[int, int] = {}  # row and attempts of those that are under way again
        self._confirmed, self._settle_at, self._look_at_letters = 0, 0.0, 0.0
        self._unroutable = Unroutable(outbox.letters, name, settings, health)
        self._reader = outbox.reader()

    @property
    def is_busy(self) -> bool:
        """Whether an event is under way."""
        return bool(self._under_way)

    @property
    def has_all(self) -> bool:
        """Whether nothing waits that was read."""
        return not self._under_way and not self._order

    def fill(self) -> None:
        """Read events until the window is full, there are no more, or it is time to look what became of others."""
        for _ in range(PAGES_AT_ONCE):
            if (
                len(self._order) >= WINDOW_EVENTS - PAGE_EVENTS // 2
                or self._bytes >= WINDOW_BYTES
                or not self.read_page()
            ):
                return

    def read_page(self) -> int:
        """Read some events; return how many."""
        if self._outbox.newest <= self._position:
            return 0
        events = self._outbox.read(self._reader, self._position, PAGE_EVENTS)
        mine = [event for event in events if self._is_mine(event.type)]
        parked = [(event.row, event.key) for event in mine if event.key in self._parked]
        if parked:
            self._outbox.letters.park(self._name, parked, "", "waiting", 0)
        behind_letters = {row for row, _ in parked}
        with self._outbox.ledger.transaction() if self._unroutable.keys else contextlib.nullcontext():
            for event in mine:
                if event.row not in behind_letters:
                    self._take(event)
        if events:
            self._position = events[-1].row
        return len(events)

    def _take(self, event: Event) -> None:
        self._order.append(event.row)
        self._bytes += len(event.data)
        if event.key in self._queued_by_key and not self._in_order:
            self._queued_by_key[event.key].append(event)
            return
        self._queued_by_key[event.key] = deque([event])
        if event.key in self._unroutable.keys and not self._unroutable.holds(event):
            self._try_kept(event.key)
        else:
            self._go_on(event.key)

    def _try_kept(self, key: str) -> None:
        """Let the next of what is kept of a key be sent, or, after the last, what follows."""
        if event := self._unroutable.next_of(key):
            self._ready.append(event)
        else:
            self._go_on(key)

    def _go_on(self, key: str) -> None:
        """Let the next event of a key be sent; what nobody has a queue for is kept instead."""
        following = self._queued_by_key.get(key)
        while following:
            event = following.popleft()
            if not self._unroutable.holds(event):
                self._ready.append(event)
                return
            self._unroutable.keep(event)
            self._leave(event)
        self._queued_by_key.pop(key, None)

    def take_letters(self, *, now: bool) -> None:
        """Let the letters be tried whose time has come; `now`: a person wants all of them to be."""
        if now:
            self._look_at_letters = 0.0
            self._parked = self._outbox.letters.keys(self._name)
        if not (self._parked or self._unroutable.keys) or time.monotonic() < self._look_at_letters:
            return
        self._look_at_letters = time.monotonic() + LETTERS_EVERY_SECONDS
        self._outbox.ledger.check()  # what can't be settled is not sent
        for event, attempts in self._outbox.letters.due(self._name, LETTERS_AT_ONCE):
            if event.row not in self._letters and event.key not in self._queued_by_key:
                self._letters[event.row] = attempts
                self._ready.append(event)
        for key in self._unroutable.keys_to_try():
            if key in self._parked:
                self._unroutable.wait_behind_letter(key)
            elif key not in self._queued_by_key:  # else it is tried after what is under way
                self._queued_by_key[key] = deque()
                self._try_kept(key)

    def next_event(self, most_under_way: int) -> Event | None:
        """Return the next event, which is under way then; None: there is none, or enough are under way."""
        if not self._ready or len(self._under_way) >= most_under_way:
            return None
        event = self._ready.popleft()
        self._under_way[event.row] = event
        return event

    def _leave(self, event: Event) -> None:
        """Take an event of the window as settled."""
        self._bytes -= len(event.data)
        self._settled.add(event.row)
        while self._order and self._order[0] in self._settled:
            self._settled.discard(self._order.popleft())


class Delivery(Selection):
    """The events of one broker: which is next, and what becomes of it."""

    def on_outcome(self, outcome: Outcome) -> None:
        """Take what became of an event that was under way."""
        event = self._under_way.pop(outcome.row)
        if self._unroutable.is_tried(event.row):
            self._on_outcome_of_kept(event, outcome)
            return
        if event.row in self._letters:
            self._on_outcome_of_letter(event, outcome)
            return
        if outcome.error is None:
            self._confirmed += 1
            self._unroutable.on_routed(event.type)
        elif outcome.unroutable:
            self._unroutable.on_returned(event)
        else:
            self._on_refused(event, outcome, 1)
            self._park_what_follows(event.key)
        self._leave(event)
        if event.key in self._unroutable.keys:
            self._try_kept(event.key)
        else:
            self._go_on(event.key)

    def _park_what_follows(self, key: str) -> None:
        """Let what follows an event that was refused wait behind it, unless that is dead."""
        if key not in self._parked:
            return
        following = self._queued_by_key.pop(key, None) or ()
        if following:
            self._outbox.letters.park(self._name, [(each.row, each.key) for each in following], "", "waiting", 0)
        for each in following:
            self._leave(each)
        if key in self._unroutable.keys:
            self._unroutable.wait_behind_letter(key)

    def _on_outcome_of_kept(self, event: Event, outcome: Outcome) -> None:
        if outcome.error is None:
            self._outbox.letters.delivered(self._name, event.row)
            self._health.count(1)
        elif not outcome.unroutable:
            self._on_refused(event, outcome, 1)
        self._unroutable.on_outcome(event, is_returned=outcome.unroutable)
        if self._unroutable.is_due and len(self._ready) < LETTERS_AT_ONCE:
            self._look_at_letters = 0.0
        self._park_what_follows(event.key)
        self._try_kept(event.key)

    def _on_outcome_of_letter(self, event: Event, outcome: Outcome) -> None:
        attempts = self._letters.pop(event.row) + 1
        if outcome.error is None:
            self._outbox.letters.delivered(self._name, event.row)
            self._health.count(1)
            self._unroutable.on_routed(event.type)
        elif outcome.unroutable:
            self._unroutable.on_returned(event, is_letter=True)
        else:
            self._on_refused(event, outcome, attempts)
        if not self._outbox.letters.is_waiting(self._name, event.key):  # of this one alone: there may be very many
            self._parked.discard(event.key)
        self._look_at_letters = 0.0 if outcome.error is None else self._look_at_letters

    def _on_refused(self, event: Event, outcome: Outcome, attempts: int) -> None:
        error = self._health.hidden(outcome.error)
        self._health.last_error = error
        is_dead = outcome.final or attempts >= TRIES_OF_REFUSED
        state = "dead" if is_dead else "waiting"
        self._outbox.letters.park(self._name, [(event.row, event.key)], error, state, attempts)
        if is_dead:
            self._health.on_dead_letter(event, error)
        else:
            self._parked.add(event.key)

    def settle(self, *, now: bool) -> None:
        """Write the cursor, if it has moved and was not written just before; `now`: in any case."""
        if not now and time.monotonic() < self._settle_at:
            return
        self._settle_at = time.monotonic() + SETTLE_EVERY_SECONDS
        cursor = self._order[0] - 1 if self._order else self._position
        if self._confirmed or cursor > self._written:
            self._outbox.settle(self._name, cursor, self._confirmed, self._unroutable.given_up)
            self._unroutable.given_up = 0
            self._health.count(self._confirmed)
            self._written, self._confirmed = cursor, 0

    def close(self) -> None:
        """Settle what can be settled: the rest is published again."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self.settle(now=True)
        self._reader.close()
