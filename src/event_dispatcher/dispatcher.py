# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's OnChange: each event is handed to its handlers."""

from __future__ import annotations

import concurrent.futures
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from common.status import RUNNING, Condition
from event_dispatcher.at_least_once import AtLeastOnce
from event_dispatcher.calls import Call
from event_dispatcher.durable_queue import DurableQueue
from event_dispatcher.events import ChangeEvent, Handler, names_of
from event_dispatcher.executor import Executor
from event_dispatcher.gate import SDK
from event_dispatcher.logs import LOG


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
        self._handlers, self._sessions, self.executor = handlers, sessions, executor
        self._change_types, self._resource_types = names_of(orthanc.ChangeType), names_of(orthanc.ResourceType)
        self._started, self._stopped = orthanc.ChangeType.ORTHANC_STARTED, orthanc.ChangeType.ORTHANC_STOPPED
        self._none = orthanc.ResourceType.NONE
        promised = {key: several for key, several in handlers.items() if key not in (self._started, self._stopped)}
        self.ledger_name = at_least_once.name if at_least_once else None
        self.durable_queue = DurableQueue(at_least_once, promised, self._run_kept, orthanc) if at_least_once else None

    def on_change(self, change_type: int, resource_type: int, resource_id: str) -> list[concurrent.futures.Future[Any]]:
        """Hand an event over, and return at once, with what will be each handler's result: a test waits for these.

        While very many wait (`Executor.is_crowded`), there are none of these.
        """
        event = self._event(change_type, resource_type, resource_id)
        if change_type == self._started and self.durable_queue:
            self.durable_queue.start()
        if self.durable_queue and self.durable_queue.takes(event):
            return []
        calls = self._calls(event)
        futures = [] if self.executor.is_crowded else [call.want_future() for call in calls]
        self._run(calls)
        return futures

    def stop(self, begun: float) -> list[concurrent.futures.Future[Any]]:
        """Let handlers end, then those of ORTHANC_STOPPED; afterwards nothing of ours calls Orthanc any more.

        `begun` (`time.monotonic()`) is when the stop began: handlers of all registrations have their time together.
        """
        seconds = self.executor.stop_within
        if self.durable_queue:
            self.durable_queue.stop()
        self.executor.drain(begun + seconds * 2 / 3)
        calls = self._calls(self._event(self._stopped, self._none, ""))
        futures = [call.want_future() for call in calls]
        self._run(calls)
        self.executor.drain(max(begun + seconds, time.monotonic() + seconds / 3))
        self.executor.close()
        if self.durable_queue:
            self.durable_queue.close()
        return futures

    def register_status(self) -> None:
        """Register the routes that say how the ledger is, where there is one."""
        if self.durable_queue:
            self.durable_queue.register_status()

    def retry_dead(self) -> int:
        """Let events that were given up be handled again (with `at_least_once`); return how many there are."""
        return self.durable_queue.retry_dead() if self.durable_queue else 0

    def _event(self, change_type: int, resource_type: int, resource_id: str) -> ChangeEvent:
        return ChangeEvent(
            self._change_types.get(change_type, change_type),
            self._resource_types.get(resource_type, resource_type),
            resource_id or "",
        )

    def _calls(self, event: ChangeEvent) -> list[Call]:
        return [Call(handler, event, self._sessions) for handler in self._handlers.get(event.change_type, ())]

    def _run(self, calls: Sequence[Call]) -> None:
        if calls:
            self.executor.submit(calls)

    def _run_kept(self, handler: Handler, event: tuple[int, int, str]) -> concurrent.futures.Future[Any]:
        call = Call(handler, self._event(*event), self._sessions)
        future = call.want_future()
        self._run([call])
        return future


class OnChange:
    """Orthanc's one OnChange callback, for each `register_event_handlers` of a script."""

    def __init__(self, orthanc: Any) -> None:
        self.orthanc = orthanc
        self._stopped = orthanc.ChangeType.ORTHANC_STOPPED
        self._dispatchers: list[Dispatcher] = []

    def add(self, dispatcher: Dispatcher) -> None:
        """Let a dispatcher get events too, after the others.

        Raises
        ------
        ValueError : another one has its ledger.
        """
        if dispatcher.ledger_name in {each.ledger_name for each in self._dispatchers} - {None}:
            found = repr(dispatcher.ledger_name)
            raise ValueError(f"at_least_once: found {found} a second time, allowed: a name of its own for each")
        self._dispatchers = [*self._dispatchers, dispatcher]

    def look(self) -> Condition:
        """Return whether all ledgers can be used: the first one that can't, else what goes wrong with one."""
        unhealthy = [found for each in self._queues() if not (found := each.condition()).is_healthy]
        return next(iter(sorted(unhealthy, key=lambda each: each.state == RUNNING)), Condition(RUNNING))

    def measure(self) -> dict[str, float]:
        """Return the metrics: of all registrations together."""
        found = Counter(dead=0)
        for executor in {each.executor for each in self._dispatchers}:
            found.update(executor.counts())
        for queue in self._queues():
            totals = queue.totals()
            found.update(queued=totals["waiting"], dead=totals["dead"])
        return {**found}

    def _queues(self) -> list[DurableQueue]:
        return [each.durable_queue for each in self._dispatchers if each.durable_queue]

    def __call__(self, change_type: int, resource_type: int, resource_id: str) -> list[concurrent.futures.Future[Any]]:
        begun = time.monotonic()
        futures: list[concurrent.futures.Future[Any]] = []
        for each in self._dispatchers:
            try:
                if change_type == self._stopped:
                    futures += each.stop(begun)
                else:
                    futures += each.on_change(change_type, resource_type, resource_id)
            except Exception:  # noqa: BLE001 - one never keeps the others from hearing of it
                LOG.exception("an error in event_dispatcher, please report it")
        if change_type == self._stopped:
            SDK.close()
        return futures
