# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notifies services: those that must agree at once, the others from the ledger, each in a thread of its own."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Mapping
from typing import Any

import orthanc

from common.ledger import Ledger
from common.orphans import LOOK_EVERY, Orphans
from common.routes import one_line
from common.times import utc
from common.work import Which, Work

from .caller import Caller, origin_of
from .delivery import Delivery
from .required import RequiredServices
from .settings import Settings

CLOSES_WITHIN_SECONDS = 0.5  # that a delivery ends in when its connection is closed
UNDELIVERED = ("waiting", "sending", "dead")  # states of rows of work


class Notifier:
    """Writes down what services are to be notified of, and delivers it. Queues of the ledger have the names of services."""

    def __init__(self, settings: Settings) -> None:
        self._retry, self._keep_days = settings.retry, settings.keep_orphaned_days
        self._callers = [Caller(service) for service in settings.notify]
        self._queued = {caller.name: caller for caller in self._callers if not caller.service.required}
        self.required = RequiredServices([caller for caller in self._callers if caller.service.required])
        self._deliveries: dict[str, Delivery] = {}
        self._stopping = threading.Event()
        self._orphan_thread = threading.Thread(target=self._keep_orphans, name="cmove-orphans", daemon=True)

    def start(self, ledger: Ledger) -> None:
        """Begin to deliver what the ledger has."""
        self._ledger, self._work, self.orphans = ledger, Work(ledger), Orphans(ledger, self._keep_days)
        bind_by_name(ledger, self._callers)
        for row in self._work.find(Which(states=("sending",))):  # killed meanwhile: at least once
            self._work.wait_again(row["id"])
        self.orphans.begin(self._undelivered().keys() - self._queued.keys())
        if self.orphans.names():
            self._report_orphans()
            self._orphan_thread.start()
        self._deliveries = {name: Delivery(caller, ledger, self._retry) for name, caller in self._queued.items()}
        for delivery in self._deliveries.values():
            delivery.start()

    def stop(self, deadline: float) -> None:
        """End all threads, and wait for them until a time of the monotonic clock."""
        self._stopping.set()
        for delivery in self._deliveries.values():
            delivery.end()
        for delivery in self._deliveries.values():
            delivery.join(deadline - CLOSES_WITHIN_SECONDS)
        for caller in self._callers:
            caller.close()
        for delivery in self._deliveries.values():
            delivery.join(deadline)
        if self._orphan_thread.is_alive():
            self._orphan_thread.join(max(0.0, deadline - time.monotonic()))

    def queue(self, when: str, values: Mapping[str, Any]) -> None:
        """Write a notification down for each service that has this `When`; each is delivered as soon as its service listens."""
        for name, caller in self._queued.items():
            if caller.service.when == when:
                self._ledger.add(name, str(values["RequestID"]), {"Values": values})
                self._deliveries[name].wake()

    # To look at, and to drop

    def totals(self) -> dict[str, int]:
        """Return the number of notifications in each state."""
        return self._ledger.totals()

    def of_request(self, name: str) -> list[dict[str, Any]]:
        """Return what services were notified of a request, or will be."""
        return [
            {"Service": row["queue"], "State": row["state"], "Attempts": row["attempts"], "Error": row["error"]}
            for row in self._work.find(Which(resource=name))
        ]

    def services(self) -> dict[str, dict[str, Any]]:
        """Return what waits for each service by its name, those that are not configured any more included."""
        found = self._undelivered()
        states: dict[str, dict[str, Any]] = {name: {"State": "configured"} for name in self._queued}
        for name, (since, left) in self.orphans.names().items():
            states[name] = {"State": "orphaned", "OrphanedSince": utc(since), "DaysLeft": left}
        for name, state in states.items():
            counts = found.get(name, dict.fromkeys(UNDELIVERED, 0))
            state |= {"Waiting": counts["waiting"] + counts["sending"], "Dead": counts["dead"]}
        return states

    def _undelivered(self) -> dict[str, dict[str, int]]:
        """Return the queues for which something waits or is dead, with the number of rows in each state."""
        found = self._work.totals_by_queue()
        return {queue: counts for queue, counts in found.items() if any(counts[state] for state in UNDELIVERED)}

    def drop(self, name: str) -> None:
        """Delete what waits for a service that is not configured any more."""
        with self._ledger.transaction():
            self._work.remove_all(Which(queue=name, states=UNDELIVERED))
            self.orphans.forget(name)

    # What waits for a service that is not configured any more

    def _report_orphans(self) -> None:
        states = self.services()
        shown = ", ".join(f"{one_line(name)} ({states[name]['Waiting']})" for name in self.orphans.names())
        orthanc.LogWarning(
            f"cmove_interceptor: no entry of Notify has the name of what notifications wait for: {shown}. They are kept until "
            "there is one, or DELETE /cmove-interceptor/services/NAME, or KeepOrphanedDays"
        )

    def _keep_orphans(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            with contextlib.suppress(sqlite3.Error, OSError):  # the disk is full, the folder away: later
                for name in self.orphans.expired():
                    self.drop(name)
                    orthanc.LogWarning(
                        f"cmove_interceptor: what waited for {one_line(name)} was kept for KeepOrphanedDays, and is dropped now"
                    )


def bind_by_name(ledger: Ledger, callers: list[Caller]) -> None:
    """Bind what the first version wrote down, by position and URL, to the service that this is now.

    Which is the one at that position, if its method and host are the same; else the only one at that URL. What is for none is
    an orphan under its URL: nothing is sent to another host.
    """
    work = Work(ledger)
    queued = [caller for caller in callers if not caller.service.required]
    with ledger.transaction():
        rows = [row for row in work.find(Which(resource_glob="[0-9]* *")) if row["subject"].split(" ")[0].isdigit()]
        positions = {(row["queue"], int(row["subject"].split(" ")[0])) for row in rows}
        for row in rows:
            target, (position, _, subject) = row["queue"], row["subject"].partition(" ")
            at = callers[int(position)] if int(position) < len(callers) else None
            there = [each for each in queued if each.target == target]
            name = target
            if at is not None and at in queued and origin_of(at.target) == origin_of(target):
                name = at.name
            elif len(there) == 1 and [each for each, _ in positions].count(target) == 1:
                name = there[0].name
            work.change(row["id"], queue=name, subject=subject)
