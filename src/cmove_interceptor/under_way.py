# SPDX-License-Identifier: AGPL-3.0-or-later
"""The moves that are under way: what was fetched for one of them, another one may still have to send."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .archive import Archive
from .fetcher import Fetched
from .move import Move


class MovesUnderWay:
    """Knows which moves are under way, from before they look at what is here until they have sent it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Lock()  # of the list, and of what moves have fetched
        self._deleting = threading.Lock()  # who begins meanwhile would count on what is going
        self._moves: list[Move] = []

    def add(self, move: Move) -> Move:
        """Note that a move begins, and return it; wait until what others have fetched is deleted, if it is being deleted."""
        with self._deleting, self._lock:
            self._moves.append(move)
        return move

    def end(self, move: Move) -> None:
        """Note that a move has ended; again changes nothing."""
        with self._lock:
            self._moves = [each for each in self._moves if each is not move]

    def note(self, move: Move, fetched: Fetched) -> None:
        """Note what was fetched for a move, besides what another one has left to it."""
        with self._lock:
            move.fetched = _together(move.fetched, fetched)

    def delete_fetched(self, move: Move, delete: Callable[[Fetched], None]) -> None:
        """Delete what was fetched for a move, which ends, except what another one means: that deletes it at its end.

        Raises
        ------
        LoopbackError : Orthanc does not answer.
        """
        self.end(move)
        with self._deleting:
            with self._lock:
                others = [*self._moves]
            for other in others:
                self._leave_to(other, move, {*self._archive.instances(other.fields)} if move.fetched else set())
            if move.fetched:
                delete(move.fetched)

    def _leave_to(self, other: Move, move: Move, meant: set[str]) -> None:
        with self._lock:
            if move.fetched and other in self._moves:  # else it has deleted already
                came, copied = {*move.fetched.came}, move.fetched.copied
                other.fetched = _together(other.fetched, Fetched(sorted(came & meant), copied & meant))
                move.fetched = Fetched(sorted(came - meant), copied - meant)


def _together(one: Fetched | None, other: Fetched) -> Fetched:
    return other if one is None else Fetched(sorted({*one.came, *other.came}), one.copied | other.copied)
