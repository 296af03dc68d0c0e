# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is sent when: to destinations that are well, in their hours, a few jobs at a time."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import orthanc

from common.work import Work
from forwarding.bisection import Bisection
from forwarding.changed import ChangedDeliveries
from forwarding.context import Context
from forwarding.destinations import Destination, Destinations
from forwarding.identity import Misconfigured
from forwarding.jobs import Jobs
from forwarding.rows import LONGEST_WAIT_SECONDS, Rows
from forwarding.slots import Slots
from forwarding.tasks import is_changed
from forwarding.verification import Verification


class Dispatcher:
    """Looks at each destination, and submits as many of its rows as it may get now."""

    def __init__(
        self,
        context: Context,
        destinations: Destinations,
        misconfigured: Misconfigured,
        rows: Rows,
        jobs: Jobs,
        changed: ChangedDeliveries,
        verification: Verification,
        bisection: Bisection,
    ) -> None:
        self._name, self._ledger, self._settings = context.name, context.ledger, context.settings
        self._stopping, self._trouble, self._work = context.stopping, context.trouble, Work(context.ledger)
        # Nothing was to be sent there, by their hours or a person's word, at the last look.
        self._closed = {name for name, each in context.settings.destination_options.items() if each.windows}
        self._destinations, self._misconfigured, self._rows, self._jobs = destinations, misconfigured, rows, jobs
        self._changed, self._verification, self._bisection = changed, verification, bisection
        self._concurrent = int(context.configuration.get("ConcurrentJobs", 2)) or 1

    def look_at_destinations(self) -> None:
        """Take what probes and checks have found, and start those that are due."""
        for health in self._destinations.all_health():
            self._look_who_it_is(health)
            if health.away and health.answered and health.identity.is_right():
                health.probe_answered()
                self._bisection.retry_failed(health.name, health.was_silent)
            health.look()

    def _look_who_it_is(self, health: Destination) -> None:
        changed = self._misconfigured.note(health.name, health.identity)
        if changed:
            text = f"{self._name} sends nothing to {health.name}, until this is corrected: {health.identity.wrong}"
            orthanc.LogError(text)
            self._trouble.note(text)
            self._jobs.cancel_pending(health.name)
        elif changed is False:
            self._work.give_whole_time(health.name)
            orthanc.LogWarning(f"{self._name}: {health.name} is what it should be again, and what waits for it is sent")

    def submit(self) -> None:
        """Submit what is due to each destination that may be sent to now."""
        busy, waiting = self._ledger.queues("sending"), self._ledger.queues("waiting")
        slots = self._slots_for(busy, waiting)
        for name in waiting:
            health = self._destinations.health_of(name)
            if self._is_held_back(name):
                self._closed.add(name)
                continue
            if name in self._closed:  # what waited for that was not tried in vain
                self._work.give_whole_time(name)
                self._closed.discard(name)
            if not health.may_send():
                continue
            if not health.identity.is_right():
                self._fail_silent(health)
                continue
            options = self._settings.destination_options.get(name)
            bound = (options and options.max_jobs) or self._settings.max_per_destination
            sending = busy.get(name, 0) - self._verification.number(name)
            free = slots.jobs_of(health, bound) - sending
            if self._destinations.narrow_until(name):
                free = min(free, 1 - sending)
            # What is changed on the way goes by no job, which would wait for a slot: nothing is submitted ahead beside it.
            at_once = (bound or self._concurrent) - sending
            for row in self._ledger.due(name, max(0, free), LONGEST_WAIT_SECONDS):
                if self._stopping.is_set():
                    return
                if at_once <= 0 and (is_changed(row) or self._changed.number(name)):
                    break
                at_once -= 1
                health.sent()
                self._attempt(row, options.options if options else {})

    def _slots_for(self, busy: Collection[str], waiting: Collection[str]) -> Slots:
        """Return Orthanc's job slots, and how many destinations share them now."""
        sharing = {
            name for name in waiting if not self._is_held_back(name) and not self._destinations.health_of(name).away
        }
        others = {*self._destinations.may_get(), *busy, *waiting}
        return Slots(self._concurrent, max(1, len(sharing.union(busy))), is_shared=len(others) > 1)

    def _is_held_back(self, name: str) -> bool:
        return self._destinations.is_paused(name) or not self._destinations.is_open(name)

    def _fail_silent(self, health: Destination) -> None:
        """Count an attempt that has failed, without a job, where it could not be asked who it is."""
        silent = health.identity.silent
        if health.identity.wrong or not silent:
            return  # it waits until that is corrected, or is being asked
        health.sent()
        for due in self._ledger.due(health.name, 1, LONGEST_WAIT_SECONDS):
            if row := self._begin(due["id"]):
                self._rows.fail(row, f"{health.name} can't be asked who it is: {silent}")
        health.failed(silent)

    def _begin(self, row: int) -> dict[str, Any] | None:
        """Write down that an attempt begins, and return the row as it is now; None if a person has just dropped it.

        More may have joined it since it was read, while the jobs before it were submitted.
        """
        with self._ledger.transaction():
            return self._work.get(row) if self._work.claim(row) else None

    def _attempt(self, due: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        row = self._begin(due["id"])
        if row is None:
            return
        try:
            self._destinations.must_know(row["queue"])
        except ValueError as error:
            self._rows.fail(row, str(error))
            self._destinations.health_of(row["queue"]).failed(str(error))
            return
        if json.loads(row["data"]).get("Sent") and self._verification.begin(row):
            return  # it was sent, and could only not be asked
        if is_changed(row):
            self._changed.submit(row)
        else:
            self._jobs.submit(row, options)
