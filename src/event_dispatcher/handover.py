# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hands rows of the ledger to their handlers, and writes down how these ended."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import functools
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from common.ledger import Ledger
from common.work import Work
from common.worker import repr_of
from event_dispatcher.at_least_once import AtLeastOnce
from event_dispatcher.events import Handler
from event_dispatcher.logs import LOG
from event_dispatcher.subscriptions import Subscriptions

# Runs a handler on an event: the numbers of its change type and its resource type, and Orthanc's identifier.
Run = Callable[[Handler, tuple[int, int, str]], concurrent.futures.Future[Any]]


class HandOver:
    """At most `AtLeastOnce.under_way` rows of a queue are with the executor.

    Parameters
    ----------
    levels : the numbers of `orthanc.ResourceType`, by names such as `Study`.
    on_end : is called when a handler has ended: `settle` has something to do.
    stopping : when it is set, nothing more is handed over.
    """

    def __init__(
        self,
        kept: AtLeastOnce,
        subscriptions: Subscriptions,
        levels: Mapping[str, int],
        run: Run,
        on_end: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self._kept, self._subscriptions, self._levels, self._run = kept, subscriptions, levels, run
        self._on_end, self._stopping = on_end, stopping
        self._ended: collections.deque[tuple[int, concurrent.futures.Future[Any]]] = collections.deque()
        self._settling = threading.Lock()
        self._under_way: collections.Counter[str] = collections.Counter()

    def settle(self, ledger: Ledger) -> None:
        """Write down how handlers ended."""
        with self._settling:
            while self._ended:
                row, future = self._ended[0]
                if not future.cancelled() and not isinstance(future.exception(), asyncio.CancelledError):
                    self._settle_one(ledger, row, future.exception())
                self._ended.popleft()

    def _settle_one(self, ledger: Ledger, row: int, error: BaseException | None) -> None:
        work = Work(ledger)
        found = work.get(row)
        assert found
        if error is None:
            work.remove(row)
        else:
            if ledger.fail(row, repr_of(error), self._kept) == "dead":
                LOG.error("%s is given up on %s after %g h", found["queue"], found["data"], self._kept.give_up_hours)
        self._under_way[found["queue"]] -= 1

    def hand_over(self, ledger: Ledger) -> None:
        """Give the executor the rows that are due, of each queue as many as there is room for."""
        for queue_name, handler in self._subscriptions.handlers.items():
            room = self._kept.under_way - self._under_way[queue_name]
            # Not for each that ended: of many that wait, finding the next ones takes time.
            if room >= max(1, self._kept.under_way // 2):
                self._hand_over_queue(ledger, queue_name, handler, room)

    def _hand_over_queue(self, ledger: Ledger, queue_name: str, handler: Handler, room: int) -> None:
        rows = ledger.due(queue_name, room, self._kept.longest)
        with ledger.transaction():
            for row in rows:
                ledger.start(row["id"])
        for row in rows:
            if self._stopping.is_set():
                return
            event = json.loads(row["data"])
            level = self._levels.get(event["Level"], self._levels["None"])
            self._under_way[queue_name] += 1
            future = self._run(handler, (self._subscriptions.number_of(event["Change"]), level, event["Resource"]))
            future.add_done_callback(functools.partial(self._note_end, row["id"]))

    def _note_end(self, row: int, future: concurrent.futures.Future[Any]) -> None:
        self._ended.append((row, future))
        self._on_end()
