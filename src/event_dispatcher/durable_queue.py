# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events that are on disk until their handlers have ended without an error."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.changes import FEED_TABLES, Feed
from common.ledger import Ledger
from common.loopback import Loopback
from common.routes import Request
from common.settings import settings_of_all_scripts
from common.state import state_folder
from common.status import Condition, condition_of, register_status
from common.work import Which, Work
from common.worker import Worker
from event_dispatcher.at_least_once import AtLeastOnce
from event_dispatcher.event_writer import CLOSE_SECONDS, EventWriter
from event_dispatcher.events import ChangeEvent, Handler
from event_dispatcher.handover import HandOver, Run
from event_dispatcher.logs import LOG
from event_dispatcher.subscriptions import Subscriptions

LOOK_EVERY_SECONDS = 1.0  # at /changes, unless OnChange reports something
LOOK_LINGER_SECONDS = 0.05  # between two looks while OnChange reports much
IN_CHANGES = re.compile("(NEW|STABLE|UPDATED)_(PATIENT|STUDY|SERIES|INSTANCE|ATTACHMENT|METADATA)")


class DurableQueue:
    """Keeps events in a ledger, one row for each handler, and hands them over until they are handled."""

    def __init__(self, kept: AtLeastOnce, handlers: Mapping[int, Sequence[Handler]], run: Run, orthanc: Any) -> None:
        self._kept = kept
        self._configuration = json.loads(orthanc.GetConfiguration())
        settings_of_all_scripts(self._configuration)
        self._loopback = Loopback(self._configuration)
        kept.check()
        if not self._loopback.enabled:
            raise ValueError('at_least_once needs "HttpServerEnabled": true: it reads /changes')
        self._subscriptions = Subscriptions(handlers)
        self._ledger: Ledger | None = None
        self._feed: Feed | None = None
        self._worker = Worker(kept.name, self._open, self._turn)
        self._wake, self._stopping = self._worker.wake, self._worker.stopping
        self._writer = EventWriter(kept.name, self._commit, self._finish)
        levels = {name.capitalize(): int(value) for name, value in vars(orthanc.ResourceType).items() if name.isupper()}
        self._hand_over = HandOver(kept, self._subscriptions, levels, run, self._wake.set, self._stopping)
        self._looked_at, self._look_at = 0.0, 0.0  # time.monotonic() of the last and the next look at /changes
        self._begun = False

    # What OnChange reports: return at once

    def takes(self, event: ChangeEvent) -> bool:
        """Return whether this event is kept; it is handled from the ledger then."""
        change = str(event.change_type)
        in_changes = IN_CHANGES.fullmatch(change) is not None
        if in_changes and self._kept.reconcile:
            if change not in self._subscriptions:
                return False  # it is read within a second, which is soon enough for what becomes stable later
            self._look_at = min(self._look_at, self._looked_at + LOOK_LINGER_SECONDS)
        elif change.startswith("STABLE_") or change == "NEW_INSTANCE" or change in self._subscriptions:
            self._writer.add(event)
        self._wake.set()
        return change in self._subscriptions

    # What is written

    def _commit(self, events: Sequence[ChangeEvent]) -> None:
        assert self._ledger
        with self._ledger.transaction():
            for event in events:
                self._on_event(event)
        self._wake.set()

    def _on_event(self, event: ChangeEvent) -> None:
        change, level = str(event.change_type), str(event.resource_type).capitalize()
        if self._feed and (change.startswith("STABLE_") or change == "NEW_INSTANCE"):
            self._feed.on_event(in_camel_case(change), event.resource_id)
        if not change.startswith("STABLE_"):
            self._add(change, level, event.resource_id)

    def _on_change_entry(self, entry: Mapping[str, Any]) -> None:
        """Take an entry of /changes."""
        for name in self._subscriptions.changes():
            if in_camel_case(name) == entry["ChangeType"] and not name.startswith("STABLE_"):
                self._add(name, entry["ResourceType"], entry["ID"])

    def _on_stable(self, level: str, resource: str, _instances: Mapping[str, int]) -> None:
        self._add(f"STABLE_{level.upper()}", level, resource)

    def _add(self, change: str, level: str, resource: str) -> None:
        assert self._ledger
        for queue_name in self._subscriptions.queues_of(change):
            self._ledger.add(queue_name, resource or change, {"Change": change, "Level": level, "Resource": resource})

    def _finish(self) -> None:
        self._worker.end(CLOSE_SECONDS / 2)
        if self._ledger:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._hand_over.settle(self._ledger)
            self._ledger.close()

    # From ORTHANC_STARTED to ORTHANC_STOPPED

    def start(self) -> None:
        self._worker.start()

    def _open(self) -> Ledger:
        path = state_folder(self._kept.folder, self._configuration, self._kept.name) / f"{self._kept.name}.sqlite"
        ledger = Ledger(path, FEED_TABLES, durability=self._kept.durability, key="AtLeastOnce.folder")
        work = Work(ledger)
        try:
            with ledger.transaction():
                for row in work.find(Which(states=["sending"])):
                    work.wait_again(row["id"])
        except BaseException:
            ledger.close()
            raise
        if ledger.quarantined_to:
            LOG.warning(
                "the ledger %s was corrupt and is kept as %s; what waited there is not handled",
                path,
                ledger.quarantined_to,
            )
        queues = {name for name, totals in work.totals_by_queue().items() if any(totals.values())}
        if unknown := sorted(queues - self._subscriptions.handlers.keys()):
            LOG.warning("events in %s wait for handlers that are not registered any more: %s", path, ", ".join(unknown))
        stable = [name for name in self._subscriptions.changes() if name.startswith("STABLE_")]
        levels = [name.removeprefix("STABLE_").capitalize() for name in stable]
        self._feed = Feed(
            ledger,
            self._loopback,
            self._on_stable,
            levels,
            float(self._configuration.get("StableAge", 60)),
            self._kept.reconcile,
            on_change_entry=self._on_change_entry,
        )
        self._ledger = ledger
        self._writer.start()
        return ledger

    def stop(self) -> None:
        """Hand over nothing more."""
        if self._writer.has_unwritten():  # stopped as soon as started: it is to be written down all the same
            self._worker.wait_for_first_try(CLOSE_SECONDS)
        self._worker.end(0.0)

    def close(self) -> None:
        """End, after the handlers: what they did is written down; the rest is handed over after the next start."""
        self._writer.close()

    def register_status(self) -> None:
        """Register `/event-dispatcher/NAME/status`, and `/scripts` and `/scripts/health` (`common.status`)."""
        name = self._kept.name
        base = f"/event-dispatcher/{name}"
        register_status(name, self.condition, self._report, self._worker.why_not, base=base, routes=None)

    def condition(self) -> Condition:
        """Return whether its ledger can be used."""
        return condition_of(self._worker)

    def totals(self) -> dict[str, int]:
        """Return the number of events, for each handler one, in each state."""
        assert self._ledger
        return self._ledger.totals()

    def _report(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, and how many events, for each handler one, are in each state."""
        return {"Totals": self.totals()}

    def retry_dead(self) -> int:
        """Let what was given up be handled again; return how many rows."""
        if not self._ledger:
            return 0
        number = Work(self._ledger).retry(Which(states=["dead"]))
        self._wake.set()
        return number

    # The one thread

    def _turn(self) -> float:
        assert self._ledger
        assert self._feed
        if not self._begun:
            self._feed.begin()
            self._begun = True
        self._hand_over.settle(self._ledger)
        if self._stopping.is_set():
            self._look_at = time.monotonic() + LOOK_EVERY_SECONDS
        else:
            if time.monotonic() >= self._look_at:
                self._looked_at = time.monotonic()
                self._look_at = self._looked_at + LOOK_EVERY_SECONDS
                self._feed.poll()
            self._hand_over.hand_over(self._ledger)
        return max(0.0, self._look_at - time.monotonic())


def in_camel_case(name: str) -> str:
    """Return how /changes calls it: `STABLE_STUDY` is `StableStudy`."""
    return "".join(word.capitalize() for word in name.split("_"))
