# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs handlers away from Orthanc's own threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from event_dispatcher.calls import Call
from event_dispatcher.events import name_of
from event_dispatcher.logs import LOG


class Executor:
    """Runs handlers away from Orthanc's own threads: blocking ones on threads, coroutines together on one event loop.

    Parameters
    ----------
    threads : blocking handlers at a time. With one, the default, they run in the order of the events.
    coroutines : at a time.
    in_order : one event after the other: the next begins when all handlers of the one before have ended.
    waiting : handlers that may run or wait for their turn. When there are as many, Orthanc keeps its next events itself until
        there is room (they wait in its memory, and when it stops, it hands them over first).
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
        self._most_threads, self._most_coroutines, self._most_waiting = threads, coroutines, waiting
        self._in_order = in_order
        self._calls: set[Call] = set()  # under way, or waiting for their turn
        self._changed = threading.Condition()
        self._crowded, self._is_closed = False, False
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None

    def submit(self, calls: Sequence[Call]) -> None:
        """Give the handlers of one event their turn; waits while too many wait already."""
        with self._changed:
            if len(self._calls) >= self._most_waiting:
                self._say_that_it_is_crowded()
                self._changed.wait_for(lambda: len(self._calls) < self._most_waiting)
            if not self._is_closed:
                self._calls.update(calls)
        if self._is_closed:
            for call in calls:
                call.future.cancel()
            return
        for call in calls:
            call.future.add_done_callback(functools.partial(self._ended, call))
        if self._in_order:
            self._on_thread(lambda: self._run_together(calls))
        else:
            for call in calls:
                if call.is_coroutine:
                    self._on_loop(call)
                else:
                    self._on_thread(call.run)

    def _say_that_it_is_crowded(self) -> None:
        if not self._crowded:
            self._crowded = True
            LOG.warning("%d handlers wait for their turn: Orthanc's next events wait too", len(self._calls))

    def _ended(self, call: Call, _future: concurrent.futures.Future[Any]) -> None:
        with self._changed:
            self._calls.discard(call)
            self._crowded = self._crowded and len(self._calls) > self._most_waiting // 2
            self._changed.notify_all()

    def _run_together(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.is_coroutine:
                self._on_loop(call)
        for call in calls:
            if not call.is_coroutine:
                call.run()
        concurrent.futures.wait([call.future for call in calls])

    def _on_thread(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        with self._changed:
            if self._threads < (1 if self._in_order else self._most_threads):
                self._threads += 1
                # Daemons: those of concurrent.futures keep a process from ending while one hangs.
                threading.Thread(
                    target=_run_all, args=(self._work,), name=f"event_dispatcher {self._threads}", daemon=True
                ).start()

    def _on_loop(self, call: Call) -> None:
        with self._changed:
            if self._loop is None:
                ready = threading.Event()
                self._loop_thread = threading.Thread(
                    target=lambda: asyncio.run(self._keep_loop(ready)), name="event_dispatcher loop", daemon=True
                )
                self._loop_thread.start()
                ready.wait()
        assert self._loop
        asyncio.run_coroutine_threadsafe(self._take_turn(call), self._loop)

    async def _keep_loop(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns, self._closing = asyncio.Semaphore(self._most_coroutines), asyncio.Event()
        ready.set()
        await self._closing.wait()  # asyncio.run then cancels what is left

    async def _take_turn(self, call: Call) -> None:
        async with self._turns:
            await call.run_on_loop()

    def drain(self, until: float) -> None:
        """Wait for all handlers, until that time (`time.monotonic()`); those that have not begun then never do."""
        with self._changed:
            self._changed.wait_for(lambda: not self._calls, max(0.0, until - time.monotonic()))
            left = list(self._calls)
        if not left:
            return
        dropped = sum(call.future.cancel() for call in left)
        running = [call for call in left if not call.future.done()]
        names = ", ".join(sorted({name_of(call.handler) for call in left}))
        LOG.warning("Orthanc stops: %d handlers had no turn, %d are still running: %s", dropped, len(running), names)
        canceled = [call for call in running if call.task]
        for call in canceled:
            call.is_canceled = True
            if call.task and self._loop:
                self._loop.call_soon_threadsafe(call.task.cancel)
        concurrent.futures.wait([call.future for call in canceled], self.stop_within / 6)  # they may clean up
        with self._changed:
            self._calls.clear()
            self._work, self._threads = queue.SimpleQueue(), 0  # a thread that hangs keeps nobody else from running

    def close(self) -> None:
        """End the threads; what is submitted from now on has no turn."""
        self._is_closed = True
        for _ in range(self._threads):
            self._work.put(None)
        if self._loop and self._loop_thread:
            self._loop.call_soon_threadsafe(self._closing.set)
            self._loop_thread.join(0.2)


def _run_all(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (each := work.get()) is not None:
        each()
