# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes events down in a thread: a disk or a lock may take seconds, and OnChange returns at once."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence

from event_dispatcher.events import ChangeEvent
from event_dispatcher.logs import LOG

WRITE_AGAIN_SECONDS = 2.0  # until what could not be written down is written again
CLOSE_SECONDS = 1.0  # for what is written down when Orthanc stops
EVENTS_PER_COMMIT = 500


class EventWriter:
    """Keeps events in memory until they are committed.

    Parameters
    ----------
    name : of the ledger, for the log.
    commit : writes events in one transaction.
    finish : is called by the thread when all is written, or can't be.
    """

    def __init__(self, name: str, commit: Callable[[Sequence[ChangeEvent]], None], finish: Callable[[], None]) -> None:
        self._name, self._commit, self._finish = name, commit, finish
        self._unwritten: collections.deque[ChangeEvent] = collections.deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="event_dispatcher writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, event: ChangeEvent) -> None:
        """Take an event; return at once."""
        self._unwritten.append(event)
        self._wake.set()

    def has_unwritten(self) -> bool:
        """Return whether events wait to be written."""
        return bool(self._unwritten)

    def close(self) -> None:
        """Write what is left and end; a disk that hangs is left behind after a second."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        if self._unwritten:
            LOG.error("%s: %d events could not be written down, and are lost", self._name, len(self._unwritten))

    def _work(self) -> None:
        complaint = ""
        while not self._closing.is_set() or self._unwritten:
            self._wake.wait()
            self._wake.clear()
            try:
                self._write()
                complaint = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it never ends the thread that serves all
                if str(error) != complaint:
                    complaint = str(error)
                    LOG.error("%s: events can't be written down, and are kept in memory: %s", self._name, error)
                if self._closing.wait(WRITE_AGAIN_SECONDS):
                    break
                self._wake.set()
        self._finish()

    def _write(self) -> None:
        while self._unwritten:
            # By index: a deque to which OnChange adds meanwhile can't be walked through.
            some = [self._unwritten[index] for index in range(min(len(self._unwritten), EVENTS_PER_COMMIT))]
            self._commit(some)
            for _ in some:
                self._unwritten.popleft()
