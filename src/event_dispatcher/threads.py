# SPDX-License-Identifier: AGPL-3.0-or-later
"""Threads that keep no process from ending: those of `concurrent.futures` are waited for, even if they hang."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class DaemonThreads(Generic[T]):
    """Runs `run(item)` for each item that is submitted, in their order, on up to `most` threads."""

    def __init__(self, most: int, run: Callable[[T], object], name: str) -> None:
        self._most, self._run, self._name = most, run, name
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._changed = threading.Lock()
        self._started = 0

    def submit(self, item: T) -> None:
        self._items.put(item)
        with self._changed:
            if self._started < self._most:
                self._started += 1
                name = f"{self._name} {self._started}"
                threading.Thread(target=self._run_all, name=name, daemon=True).start()

    def close(self) -> None:
        """End each thread as soon as it has done what was submitted; wait for none."""
        with self._changed:
            for _ in range(self._started):
                self._items.put(None)

    def _run_all(self) -> None:
        while (item := self._items.get()) is not None:
            self._run(item)


def leave_pools() -> None:
    """Keep Python from waiting, when it ends, for daemon threads of a `ThreadPoolExecutor` that a handler has made.

    CPython 3.11 to 3.14 joins them all, also one that hangs, and offers no other way: Orthanc would never end.
    """
    joined_at_exit = getattr(concurrent.futures.thread, "_threads_queues", {})
    for thread in list(joined_at_exit):
        if thread.daemon:  # as all threads are that a handler's thread starts
            joined_at_exit.pop(thread, None)


class DaemonPool(concurrent.futures.ThreadPoolExecutor):
    """What an event loop runs `asyncio.to_thread` and the look-up of host names on."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._daemons: DaemonThreads[Callable[[], None]] = DaemonThreads(
            most, lambda work: work(), "event_dispatcher pool"
        )

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **named)
            except BaseException as error:  # noqa: BLE001 - it is the future's
                future.set_exception(error)
            else:
                future.set_result(result)

        self._daemons.submit(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._daemons.close()
