# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs coroutines on an event loop that survives whatever a handler does to it."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time
from collections.abc import Callable

from common.worker import repr_of
from event_dispatcher.calls import Call, names_of_handlers
from event_dispatcher.logs import LOG
from event_dispatcher.threads import DaemonPool

BLOCKED_SECONDS = 10.0  # after which a loop that begins nothing more is reported
POOL_THREADS = 32  # for asyncio.to_thread, as many as asyncio has at most


class EventLoop:
    """An event loop in a thread of its own, with up to `most` coroutines at a time; the others wait in a list.

    A handler may cancel all tasks, stop the loop or end it with SystemExit: that is logged, and the loop begins again.
    `begin` returns whether a call still has its turn, `ended` is called at its end.
    """

    def __init__(self, most: int, begin: Callable[[Call], bool], ended: Callable[[Call], None]) -> None:
        self._most, self._begin, self._ended = most, begin, ended
        self._waiting: collections.deque[Call] = collections.deque()
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._lock = threading.Lock()
        self._asked: float | None = None  # time.monotonic() when it was asked to begin more, until it does
        self._is_reported = self._is_closing = False
        self._loop = self._make()
        self._thread = threading.Thread(target=self._keep_running, name="event_dispatcher loop", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        self._waiting.append(call)
        self._ask()

    def cancel(self, calls: list[Call]) -> None:
        """Cancel these, without a line in the log for each."""
        for call in calls:
            call.is_canceled = True
        self._call(lambda: [task.cancel() for task, call in list(self._tasks.items()) if call.is_canceled])

    def responds(self, within: float) -> bool:
        """Return whether no handler blocks the loop; `within` in seconds."""
        answered = threading.Event()
        self._call(answered.set)
        return answered.wait(within)

    def close(self) -> None:
        """End the loop, and wait a moment for it."""
        self._is_closing = True
        self._call(self._loop.stop)
        self._thread.join(0.2)

    # From any thread

    def _make(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_default_executor(DaemonPool(POOL_THREADS))
        return loop

    def _call(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: another one is made
            self._loop.call_soon_threadsafe(function)

    def _ask(self) -> None:
        with self._lock:
            if self._asked is None:
                self._asked = time.monotonic()
                self._call(self._begin_more)
                return
            is_late = time.monotonic() - self._asked > BLOCKED_SECONDS and not self._is_reported
            self._is_reported = self._is_reported or is_late
        if is_late:
            LOG.warning(
                "a coroutine has blocked the event loop for more than %g s (time.sleep, requests, …), and all others wait:"
                " one of %s",
                *(BLOCKED_SECONDS, names_of_handlers(list(self._tasks.values())) or "those that have ended"),
            )

    # In its thread

    def _begin_more(self) -> None:
        with self._lock:
            self._asked, self._is_reported = None, False
        while self._waiting and len(self._tasks) < self._most:
            call = self._waiting.popleft()
            if self._begin(call):
                task = self._loop.create_task(call.run_on_loop())
                self._tasks[task] = call
                task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        call = self._tasks.pop(task)
        call.fail(asyncio.CancelledError())  # unless it has ended: it was canceled before it could begin
        self._ended(call)
        self._begin_more()

    def _keep_running(self) -> None:
        while not self._is_closing:
            asyncio.set_event_loop(self._loop)
            how, pause = "stopped the event loop", 0.0
            try:
                self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - SystemExit of a task that a handler made
                how, pause = f"ended the event loop with {repr_of(error)}", 1.0
            if not self._is_closing:
                running = names_of_handlers(self._tasks.values()) or "handlers that have ended"
                LOG.error("a handler %s, which begins again; running: %s", how, running)
                time.sleep(pause)  # one that fails at once must not fill the log
                if self._loop.is_closed():
                    self._replace()
        self._clean_up()

    def _replace(self) -> None:
        """Use a new loop; what ran on the one that a handler closed has failed."""
        lost, self._tasks = list(self._tasks.values()), {}
        with self._lock:
            self._loop, self._asked = self._make(), None
        for call in lost:
            call.fail(RuntimeError("a handler closed the event loop"))
            self._ended(call)
        self._ask()

    def _clean_up(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
