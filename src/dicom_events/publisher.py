# SPDX-License-Identifier: AGPL-3.0-or-later
"""One thread for each broker: takes events from the outbox in order, and settles what the broker confirmed."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import random
import re
import sqlite3
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from common.answers import one_line

from .brokers import Broker, BrokerAwayError, BrokerUnusableError, Outcome, failure
from .events import Event
from .named import Named
from .outbox import Outbox

WINDOW = 4000  # events in memory
WINDOW_BYTES = 32 << 20
PAGE = 1000
LINGER = 0.02  # seconds in which events come together, so that not each wakes a thread
SETTLE = 0.2  # seconds between two writings of the cursor
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds without a broker
IDLE = 1.0
SAY_DEAD_EVERY = 60.0  # seconds


class Publisher:
    """Publishes to one broker: at least once, one unconfirmed event of each key at a time, so that order holds."""

    def __init__(
        self,
        named: Named,
        outbox: Outbox,
        make: Callable[[], Broker],
        say: Callable[[str, str], None],
        secrets: Sequence[str],
    ) -> None:
        self.name, self.settings, self.complaint = named.name, named.settings, named.complaint
        self.type, self._bound = named.settings.type, named.bound
        self._outbox, self._make, self._say, self._secrets = outbox, make, say, [each for each in secrets if each]
        self._broker: Broker | None = None
        self._reader: sqlite3.Connection | None = None
        self._stopping, self._idle, self._asked_again, self._opening = threading.Event(), True, False, False
        self.connected, self.last_error, self._away_since = False, "", 0.0
        self._rate, self._rated_at = 0.0, time.monotonic()
        self._unsaid, self._say_dead_at = 0, 0.0  # events that went to the dead letters
        self._forget()
        self._thread = threading.Thread(target=self._run, name=f"dicom_events {self.name}", daemon=True)

    def start(self) -> None:
        if self.complaint:
            return
        self._outbox.publishers.append(self.wake)
        self._thread.start()

    def wake(self) -> None:
        if self._idle and (broker := self._broker):
            self._idle = False
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # it is closing: it looks again by itself
                broker.wake()

    def look_again(self) -> None:
        """Letters are to be tried now."""
        self._asked_again = True
        self._idle = True
        self.wake()

    def stop(self) -> None:
        self._stopping.set()
        if broker := self._broker:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                broker.wake()

    def join(self, until: float) -> None:
        # One that is still connecting has nothing to settle, and may take long.
        while self._thread.is_alive() and not self._opening and (left := until - time.monotonic()) > 0:
            self._thread.join(min(left, 0.1))

    @functools.cached_property
    def _patterns(self) -> re.Pattern[str]:
        return re.compile("|".join(fnmatch.translate(pattern) for pattern in self.settings.events))

    @property
    def rate(self) -> float:
        """Events a second, over the last ten or so."""
        return float(self._rate * 0.5 ** ((time.monotonic() - self._rated_at) / 7))

    def status(self) -> dict[str, Any]:
        if not self._bound:
            return {"Type": self.type, "State": "misconfigured", "Backlog": 0, "LastError": self.complaint}
        totals = self._outbox.totals(self.name)
        if self.complaint:
            return {"Type": self.type, "State": "misconfigured", **totals, "LastError": self.complaint}
        return {
            "Type": self.type,
            "State": "connected" if self.connected else "away",
            **totals,
            "Rate": round(self.rate, 1),
            "LastError": self.last_error or None,
            **(self._broker.details() if self._broker else {}),
        }

    # The thread

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                self._connect()
                while not self._stopping.is_set():
                    self._turn()
                    if self.connected:
                        pause = FIRST_PAUSE
            except BrokerUnusableError as error:
                self.complaint = self._hidden(error)
                self._say("error", f"dicom_events: broker {self.name} is off: {self.complaint}")
                self._outbox.publishers.remove(self.wake)
                break
            except (BrokerAwayError, sqlite3.Error, OSError) as error:
                self._lost(self._hidden(error))
            except Exception:  # noqa: BLE001 - one broker's fault ends no other's work
                self._lost(self._hidden(traceback.format_exc()))
            self._disconnect()
            self._stopping.wait(pause * random.uniform(0.5, 1))
            pause = min(LONGEST_PAUSE, pause * 2)
        self._disconnect()

    def _connect(self) -> None:
        self._reader = self._outbox.reader()
        self._forget()
        self._position = self._written = self._outbox.cursor(self.name)
        self._parked = self._outbox.parked(self.name)
        self._broker = self._make()
        self._opening = True
        try:
            self._broker.open()
        finally:
            self._opening = False

    def _forget(self) -> None:
        self._order: deque[int] = deque()  # rows in the window, oldest first
        self._bytes = 0  # of the data of those that are not settled
        self._settled: set[int] = set()
        self._ready: deque[Event] = deque()
        self._behind: dict[str, deque[Event]] = {}  # of each key that is under way, what follows
        self._under_way: dict[int, Event] = {}
        self._letters: dict[int, int] = {}  # row and attempts of those that are under way again
        self._confirmed, self._settle_at, self._look_at_letters = 0, 0.0, 0.0

    def _disconnect(self) -> None:
        broker, self._broker, self.connected = self._broker, None, False
        if self._reader:
            with contextlib.suppress(sqlite3.Error):  # what is not settled is published again
                self._settle()
            self._reader.close()
            self._reader = None
        if broker:
            try:
                broker.close()
            except Exception as error:  # noqa: BLE001 - it is gone either way
                self.last_error = self._hidden(error)

    def _lost(self, why: str) -> None:
        if not self._away_since and not self._stopping.is_set():
            self._away_since = time.monotonic()
            self._say("error", f"dicom_events: broker {self.name} is away, what happens meanwhile is kept: {why}")
        self.last_error = why

    def _back(self) -> None:
        if not self.connected:
            self.connected = True
            if self._away_since:
                seconds, self._away_since = time.monotonic() - self._away_since, 0.0
                self._say("warning", f"dicom_events: broker {self.name} is back after {seconds:.0f} s")

    def _hidden(self, error: object) -> str:
        text = str(error) or repr(error)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return one_line(text)[:2000]

    def _turn(self) -> None:
        broker = self._broker
        assert broker
        self._idle = False
        self._fill()
        self._take_letters()
        while self._ready and len(self._under_way) < broker.most_under_way:
            self._submit(broker, self._ready.popleft())
        busy = bool(self._under_way)
        if not busy and not self._order:
            self._settle()
            self._idle = True
            if self._read_some():  # something came after we looked and before we said that we sleep
                return
        outcomes = broker.collect(IDLE if not busy else 0.2)
        self._back()
        for outcome in outcomes:
            self._take(outcome)
        if time.monotonic() >= self._settle_at:
            self._settle()
        if not busy and not self._stopping.is_set():
            self._stopping.wait(LINGER)

    def _submit(self, broker: Broker, event: Event) -> None:
        """Hand one event over. One that can't be formed, or that the client does not take, holds up no other."""
        self._under_way[event.row] = event
        try:
            broker.submit(event, broker.message(event))
        except BrokerAwayError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._take(failure(event, error))

    def _fill(self) -> None:
        while len(self._order) < WINDOW - PAGE // 2 and self._bytes < WINDOW_BYTES and self._read_some():
            pass

    def _read_some(self) -> int:
        assert self._reader
        if self._outbox.newest <= self._position:
            return 0
        in_order = self._broker is not None and self._broker.in_order
        events = self._outbox.read(self._reader, self._position, PAGE)
        parked = [(event.row, event.key) for event in events if event.key in self._parked and self._is_mine(event)]
        if parked:
            self._outbox.park(self.name, parked, "", "waiting", 0)
        behind_letters = {row for row, _ in parked}
        for event in events:
            self._position = event.row
            if event.row in behind_letters or not self._is_mine(event):
                continue
            self._order.append(event.row)
            self._bytes += len(event.data)
            if event.key in self._behind and not in_order:
                self._behind[event.key].append(event)
            else:
                self._behind[event.key] = deque()
                self._ready.append(event)
        return len(events)

    def _is_mine(self, event: Event) -> bool:
        return self._patterns.match(event.type) is not None

    def _take_letters(self) -> None:
        if self._asked_again:
            self._asked_again, self._look_at_letters = False, 0.0
            self._parked = self._outbox.parked(self.name)
        if not self._parked or time.monotonic() < self._look_at_letters:
            return
        self._look_at_letters = time.monotonic() + 0.5
        for event, attempts in self._outbox.due(self.name, 200):
            if event.row not in self._letters and event.key not in self._behind:
                self._letters[event.row] = attempts
                self._ready.append(event)

    def _take(self, outcome: Outcome) -> None:
        event = self._under_way.pop(outcome.row)
        if event.row in self._letters:
            self._take_letter(event, outcome)
            return
        self._bytes -= len(event.data)
        following = self._behind.pop(event.key, None)
        if outcome.error is None:
            self._confirmed += 1
            if following:
                self._behind[event.key] = following
                self._ready.append(following.popleft())
        else:
            self._refused(event, outcome, 1)
            if event.key in self._parked and following:
                self._outbox.park(self.name, [(each.row, each.key) for each in following], "", "waiting", 0)
                self._settled.update(each.row for each in following)
                self._bytes -= sum(len(each.data) for each in following)
            elif following:
                self._behind[event.key] = following
                self._ready.append(following.popleft())
        self._settled.add(event.row)
        self._advance()

    def _take_letter(self, event: Event, outcome: Outcome) -> None:
        attempts = self._letters.pop(event.row) + 1
        if outcome.error is None:
            self._outbox.delivered(self.name, event.row)
            self._count(1)
        else:
            self._refused(event, outcome, attempts)
        self._parked = self._outbox.parked(self.name)
        self._look_at_letters = 0.0 if outcome.error is None else self._look_at_letters

    def _refused(self, event: Event, outcome: Outcome, attempts: int) -> None:
        error = self._hidden(outcome.error)
        self.last_error = error
        dead = outcome.final or attempts >= self.settings.tries
        self._outbox.park(self.name, [(event.row, event.key)], error, "dead" if dead else "waiting", attempts)
        if dead:
            self._say_dead(event, error)
        else:
            self._parked.add(event.key)

    def _say_dead(self, event: Event, error: str) -> None:
        """Say it, at most once a minute: when a server refuses all, the log is not flooded."""
        self._unsaid += 1
        if time.monotonic() < self._say_dead_at:
            return
        others = f", and {self._unsaid - 1} others since the last such line" if self._unsaid > 1 else ""
        self._say(
            "error",
            f"dicom_events: broker {self.name} does not take {event.type[:300]} {event.id}{others}; see the dead letters "
            f"(GET /dicom-events/dead-letters): {error}",
        )
        self._unsaid, self._say_dead_at = 0, time.monotonic() + SAY_DEAD_EVERY

    def _advance(self) -> None:
        while self._order and self._order[0] in self._settled:
            self._settled.discard(self._order.popleft())

    def _settle(self) -> None:
        self._settle_at = time.monotonic() + SETTLE
        cursor = self._order[0] - 1 if self._order else self._position
        if self._confirmed or cursor > self._written:
            self._outbox.settle(self.name, cursor, self._confirmed)
            self._count(self._confirmed)
            self._written, self._confirmed = cursor, 0

    def _count(self, number: int) -> None:
        self._rate, self._rated_at = self.rate + number / 10, time.monotonic()
