# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs handlers away from Orthanc's own threads."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Sequence

from event_dispatcher.calls import Call, names_of_handlers
from event_dispatcher.events import name_of
from event_dispatcher.logs import LOG
from event_dispatcher.loop import EventLoop
from event_dispatcher.threads import DaemonThreads, leave_pools


class Executor:
    """Runs handlers away from Orthanc's own threads: blocking ones on threads, coroutines together on one event loop.

    Parameters
    ----------
    threads : blocking handlers at a time. With one, the default, they run in the order of the events.
    coroutines : at a time.
    in_order : one event after the other: the next begins when all handlers of the one before have ended.
    waiting : when so many handlers wait for their turn, a warning names those that keep them waiting; another one follows
        each time that the number has doubled. All are kept in memory, about 400 bytes each.
    stop_within : seconds that handlers have to end when Orthanc stops; what had no turn by then has none.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        coroutines: int = 100,
        in_order: bool = False,
        waiting: int = 10_000,
        stop_within: float = 2.0,
    ) -> None:
        for name, value in (("threads", threads), ("coroutines", coroutines), ("waiting", waiting)):
            if value < 1:
                raise ValueError(f"{name}: found {value}, allowed: at least 1")
        self.stop_within = stop_within
        self._most_threads, self._most_coroutines = 1 if in_order else threads, coroutines
        self._in_order = in_order
        self._changed = threading.Condition()
        self._waiting: set[Call] = set()
        self._running: set[Call] = set()
        self._many, self._warn_at = waiting, waiting
        self._is_closed = False
        self.failed = 0  # calls that ended with an error
        self._threads: DaemonThreads[Sequence[Call]] | None = None
        self._loop: EventLoop | None = None

    @property
    def is_crowded(self) -> bool:
        return len(self._waiting) >= self._many

    def counts(self) -> dict[str, int]:
        """Return how many handlers wait for their turn, how many run, and how many have failed since the start."""
        return {"queued": len(self._waiting), "running": len(self._running), "failed": self.failed}

    def submit(self, calls: Sequence[Call]) -> None:
        """Give the handlers of one event their turn; return at once, however many wait."""
        with self._changed:
            is_closed = self._is_closed
            if not is_closed:
                self._waiting.update(calls)
            number = len(self._waiting)
            warn = number >= self._warn_at
            if warn:
                self._warn_at = 2 * number
        if is_closed:
            for call in calls:
                call.drop()
            return
        if warn:
            self._warn(number)
        if self._in_order:
            self._on_thread(calls)
            return
        for call in calls:
            if call.is_coroutine:
                self._on_loop(call)
            else:
                self._on_thread((call,))

    def _warn(self, number: int) -> None:
        with self._changed:
            oldest = sorted(self._running, key=lambda call: call.began)[:5]
        now = time.monotonic()
        behind = ", ".join(f"{name_of(call.handler)} (for {now - call.began:.0f} s)" for call in oldest)
        LOG.warning("%d handlers wait for their turn, in memory, behind %s", number, behind or "none that runs")

    # A turn

    def _begin(self, call: Call) -> bool:
        """Return whether a call has its turn: not if Orthanc stopped while it waited."""
        with self._changed:
            if call not in self._waiting:
                return False
            self._waiting.discard(call)
            self._running.add(call)
            call.began = time.monotonic()
            caught_up = self._warn_at > self._many and len(self._waiting) <= self._many // 2
            if caught_up:
                self._warn_at = self._many
        if caught_up:
            LOG.warning("handlers have caught up: %d wait for their turn", self._many // 2)
        return True

    def _end(self, call: Call) -> None:
        with self._changed:
            self._running.discard(call)
            self.failed += call.has_failed
            self._changed.notify_all()

    def _run_together(self, calls: Sequence[Call]) -> None:
        coroutines = [call for call in calls if call.is_coroutine and not call.is_over]
        ends = [call.want_future() for call in coroutines]
        for call in coroutines:
            self._on_loop(call)
        for call in calls:
            if not call.is_coroutine and self._begin(call):
                call.run()
                self._end(call)
        if ends:
            concurrent.futures.wait(ends)

    def _on_thread(self, calls: Sequence[Call]) -> None:
        with self._changed:
            if self._threads is None:
                self._threads = DaemonThreads(self._most_threads, self._run_together, "event_dispatcher")
            threads = self._threads
        threads.submit(calls)

    def _on_loop(self, call: Call) -> None:
        with self._changed:
            if self._loop is None:
                self._loop = EventLoop(self._most_coroutines, self._begin, self._end)
            loop = self._loop
        loop.submit(call)

    # The end

    def drain(self, until: float) -> None:
        """Wait for all handlers, until that time (`time.monotonic()`); those that have not begun then never do."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._running), max(0.0, until - time.monotonic()))
            dropped, running = list(self._waiting), list(self._running)
            self._waiting.clear()
        if not dropped and not running:
            return
        names = names_of_handlers([*dropped, *running])
        message = "Orthanc stops: %d handlers had no turn, %d are still running: %s"
        LOG.warning(message, len(dropped), len(running), names)
        for call in dropped:
            call.drop()
        self._leave(running)

    def _leave(self, running: Sequence[Call]) -> None:
        """Cancel coroutines, which may clean up; and see that what hangs keeps nobody else from running."""
        coroutines = {call for call in running if call.is_coroutine}
        if coroutines and self._loop:
            self._loop.cancel(list(coroutines))
            with self._changed:
                self._changed.wait_for(lambda: not coroutines & self._running, self.stop_within / 6)
            if not self._loop.responds(0.1):
                self._loop = None
        with self._changed:
            self._running.clear()
            threads, self._threads = self._threads, None
        if threads:
            threads.close()
        leave_pools()

    def close(self) -> None:
        """End the threads; what is submitted from now on has no turn."""
        self._is_closed = True
        if self._threads:
            self._threads.close()
        if self._loop:
            self._loop.close()
