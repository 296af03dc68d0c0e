# SPDX-License-Identifier: AGPL-3.0-or-later
"""One handler's turn with one event."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from typing import Any

from event_dispatcher.events import ChangeEvent, Handler, is_coroutine, name_of
from event_dispatcher.gate import SDK
from event_dispatcher.logs import LOG


class Call:
    """One handler's turn with one event; `future` gets its result or its error, which is logged."""

    def __init__(self, handler: Handler, event: ChangeEvent, sessions: tuple[Any, Any]) -> None:
        self.handler, self.event = handler, event
        self.is_coroutine = is_coroutine(handler)
        self.session = sessions[self.is_coroutine]
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.task: asyncio.Task[Any] | None = None
        self.is_canceled = False  # by us, for Orthanc stops

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.handler(self.event, self.session)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(f"{name_of(self.handler)} returned a coroutine: register the coroutine function itself")
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a handler's end is not the thread's
            self._fail(error)
        else:
            self.future.set_result(result)

    async def run_on_loop(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        self.task = asyncio.current_task()
        try:
            result = await self.handler(self.event, self.session)
        except BaseException as error:  # noqa: BLE001 - as above; canceled when Orthanc stops
            self._fail(error)
        else:
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if self.is_canceled:  # which is said once for all
            self.future.set_exception(asyncio.CancelledError())
            return
        more = error if SDK.is_open else None  # after Orthanc has stopped, whatever it does fails
        LOG.error("%s failed on %s: %r", name_of(self.handler), self.event, error, exc_info=more)
        own = isinstance(error, asyncio.CancelledError)  # it canceled itself
        self.future.set_exception(RuntimeError("canceled") if own else error)
