# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether what a destination took is there: asked of it, beside the work of sending."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from common.answers import one_line

ASK_TOGETHER = 100  # instances from which on no further row joins a question

# Of a destination, and identifiers of instances: which of them it has. Raises anything where it can't tell.
Has = Callable[[str, Collection[str]], set[str]]


class Verified(NamedTuple):
    """What came of a row: the instances that are missing there, or why it could not be asked."""

    row: int
    asked: tuple[str, ...]
    missing: tuple[str, ...]
    error: str


class Verifier:
    """Asks each destination in a thread of its own, as long as there is something to ask; `answers` wait for the worker."""

    def __init__(self, has: Has, wake: threading.Event) -> None:
        self.answers: deque[Verified] = deque()
        self._has, self._wake, self._lock = has, wake, threading.Lock()
        self._rows: dict[int, str] = {}  # that were added and not taken out, with their destinations
        self._waiting: dict[str, dict[int, tuple[str, ...]]] = {}
        self._asking: set[str] = set()  # destinations that have a thread

    def add(self, destination: str, row: int, instances: Iterable[str]) -> None:
        """Ask for a row; one that is being asked for is not asked for again."""
        with self._lock:
            if row in self._rows:
                return
            self._rows[row] = destination
            self._waiting.setdefault(destination, {})[row] = tuple(instances)
            if destination not in self._asking:
                self._asking.add(destination)
                threading.Thread(target=self._ask, args=(destination,), name=f"asks {destination}", daemon=True).start()

    def is_under_way(self, row: int) -> bool:
        return row in self._rows

    def number(self, destination: str) -> int:
        """Rows of a destination that are being asked for: their jobs have ended."""
        with self._lock:
            return sum(each == destination for each in self._rows.values())

    def first(self) -> Verified | None:
        """Return the next answer, which stays until it is taken: what it means is written down first."""
        return self.answers[0] if self.answers else None

    def take(self) -> Verified | None:
        """The next answer."""
        if not self.answers:
            return None
        answer = self.answers.popleft()
        with self._lock:
            self._rows.pop(answer.row, None)
        return answer

    def _ask(self, destination: str) -> None:
        while rows := self._next(destination):
            wanted, error, there = sorted({one for some in rows.values() for one in some}), "", set[str]()
            try:
                there = self._has(destination, wanted)
            except Exception as found:  # noqa: BLE001 - whatever it is, it is no proof
                error = one_line(found) or repr(found)
            for row, some in rows.items():
                missing = () if error else tuple(one for one in some if one not in there)
                self.answers.append(Verified(row, some, missing, error))
            self._wake.set()

    def _next(self, destination: str) -> dict[int, tuple[str, ...]]:
        """Rows for one question; without any, the thread ends."""
        with self._lock:
            waiting, rows, number = self._waiting[destination], dict[int, tuple[str, ...]](), 0
            while waiting and number < ASK_TOGETHER:
                row = next(iter(waiting))
                rows[row] = waiting.pop(row)
                number += len(rows[row])
            if not rows:
                self._asking.discard(destination)
            return rows
