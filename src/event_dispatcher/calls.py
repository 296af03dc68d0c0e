# SPDX-License-Identifier: AGPL-3.0-or-later
"""One handler's turn with one event."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Iterable
from typing import Any

from event_dispatcher.events import ChangeEvent, Handler, is_coroutine, name_of
from event_dispatcher.gate import SDK
from event_dispatcher.logs import LOG


class Call:
    """One handler's turn with one event. What it raises is logged.

    Hundreds of thousands may wait while a handler hangs: one has no future (1.6 KB) unless somebody needs its result.
    """

    __slots__ = (
        "began",
        "event",
        "future",
        "handler",
        "has_failed",
        "is_canceled",
        "is_coroutine",
        "is_over",
        "session",
    )

    def __init__(self, handler: Handler, event: ChangeEvent, sessions: tuple[Any, Any]) -> None:
        self.handler, self.event = handler, event
        self.is_coroutine = is_coroutine(handler)
        self.session = sessions[self.is_coroutine]
        self.future: concurrent.futures.Future[Any] | None = None
        self.began = 0.0  # time.monotonic() when it had its turn
        self.is_canceled = False  # by us, for Orthanc stops
        self.is_over = self.has_failed = False

    def want_future(self) -> concurrent.futures.Future[Any]:
        """Return what gets the handler's result or its error; to be asked for before its turn."""
        if self.future is None:
            self.future = concurrent.futures.Future()
        return self.future

    def run(self) -> None:
        if not self._begin():
            return
        try:
            result = self.handler(self.event, self.session)
            self._refuse_unfinished(result)
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a handler's end is not the thread's
            self.fail(error)
        else:
            self._succeed(result)

    async def run_on_loop(self) -> None:
        if not self._begin():
            return
        try:
            result = await self.handler(self.event, self.session)
            self._refuse_unfinished(result)
        except BaseException as error:  # noqa: BLE001 - as above; canceled when Orthanc stops
            self.fail(error)
        else:
            self._succeed(result)

    def _begin(self) -> bool:
        self.is_over = self.future is not None and not self.future.set_running_or_notify_cancel()
        return not self.is_over

    def _refuse_unfinished(self, result: Any) -> None:
        """Raise TypeError where a handler returned what would have to be run by somebody else."""
        if inspect.iscoroutine(result):
            result.close()
            if self.is_coroutine:
                raise TypeError(f"{name_of(self.handler)} returned a coroutine, which nobody runs: await it")
            raise TypeError(f"{name_of(self.handler)} returned a coroutine: register the coroutine function itself")
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise TypeError(f"{name_of(self.handler)} returned a generator, which nobody runs: return a value")

    def _succeed(self, result: Any) -> None:
        self.is_over = True
        if self.future:
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended."""
        if self.is_over:
            return
        self.is_over = True
        if self.is_canceled:  # which is said once for all
            error = asyncio.CancelledError()
        else:
            self.has_failed = True
            more = error if SDK.is_open else None  # after Orthanc has stopped, whatever it does fails
            LOG.error("%s failed on %s: %r", name_of(self.handler), self.event, error, exc_info=more)
            if isinstance(error, asyncio.CancelledError):  # it, or another handler, canceled it
                error = RuntimeError("canceled")
        if self.future:
            self.future.set_exception(error)

    def drop(self) -> None:
        """End without a turn."""
        self.is_over = True
        if self.future and self.future.cancel():
            self.future.set_running_or_notify_cancel()  # else concurrent.futures.wait still waits


def names_of_handlers(calls: Iterable[Call]) -> str:
    """Return the names of the handlers of these, each once."""
    return ", ".join(sorted({name_of(call.handler) for call in calls}))
