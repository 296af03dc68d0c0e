# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's OnChange: each event goes to its handlers."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Mapping, Sequence
from typing import Any

from event_dispatcher.at_least_once import AtLeastOnce, Keeper
from event_dispatcher.calls import Call
from event_dispatcher.events import ChangeEvent, Handler, names_of
from event_dispatcher.executor import Executor
from event_dispatcher.gate import SDK


class Dispatcher:
    """Hands each event to its handlers; `register_event_handlers` makes it."""

    def __init__(
        self,
        handlers: Mapping[int, Sequence[Handler]],
        orthanc: Any,
        sessions: tuple[Any, Any],
        executor: Executor,
        at_least_once: AtLeastOnce | None,
    ) -> None:
        self._handlers, self._sessions, self._executor = handlers, sessions, executor
        self._change_types, self._resource_types = names_of(orthanc.ChangeType), names_of(orthanc.ResourceType)
        self._started, self._stopped = orthanc.ChangeType.ORTHANC_STARTED, orthanc.ChangeType.ORTHANC_STOPPED
        promised = {key: several for key, several in handlers.items() if key not in (self._started, self._stopped)}
        self._keeper = Keeper(at_least_once, promised, self._run_kept, orthanc) if at_least_once else None

    def on_change(self, change_type: int, resource_type: int, resource_id: str) -> list[concurrent.futures.Future[Any]]:
        """Orthanc's callback. It returns at once, with what will be each handler's result: a test waits for these."""
        event = self._event(change_type, resource_type, resource_id)
        if change_type == self._stopped:
            return self._stop(event)
        if change_type == self._started and self._keeper:
            self._keeper.start()
        if self._keeper and self._keeper.takes(event):
            return []
        return self._run(
            [Call(handler, event, self._sessions) for handler in self._handlers.get(event.change_type, ())]
        )

    def retry_dead(self) -> int:
        """With `at_least_once`: let events that were given up be handled again; how many there are."""
        return self._keeper.retry_dead() if self._keeper else 0

    def _event(self, change_type: int, resource_type: int, resource_id: str) -> ChangeEvent:
        return ChangeEvent(
            self._change_types.get(change_type, change_type),
            self._resource_types.get(resource_type, resource_type),
            resource_id or "",
        )

    def _run(self, calls: Sequence[Call]) -> list[concurrent.futures.Future[Any]]:
        if calls:
            self._executor.submit(calls)
        return [call.future for call in calls]

    def _run_kept(self, handler: Handler, event: tuple[int, int, str]) -> concurrent.futures.Future[Any]:
        return self._run([Call(handler, self._event(*event), self._sessions)])[0]

    def _stop(self, event: ChangeEvent) -> list[concurrent.futures.Future[Any]]:
        """Let handlers end, then those of ORTHANC_STOPPED; afterwards nothing of ours calls Orthanc any more."""
        seconds = self._executor.stop_within
        until = time.monotonic() + seconds
        if self._keeper:
            self._keeper.stop()
        self._executor.drain(until - seconds / 3)
        futures = self._run([Call(each, event, self._sessions) for each in self._handlers.get(event.change_type, ())])
        self._executor.drain(until)
        self._executor.close()
        if self._keeper:
            self._keeper.close()
        SDK.close()
        return futures
