# SPDX-License-Identifier: AGPL-3.0-or-later
"""What arrived and is to be routed: rows of the ledger, from the feed and, with trigger Stored, before it is stable."""

import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

import orthanc

from common.arrivals import Arrivals
from common.changes import Feed, arrived_since, not_handed_over
from common.inbox import Inbox
from common.owed import arriving, place_of
from common.unread import Unread
from common.work import Which, Work
from forwarding.archive import still_here
from forwarding.context import Context
from forwarding.gone import Gone
from forwarding.rules import LEVELS
from forwarding.sent_instances import SentInstances
from forwarding.tasks import NO_DESTINATION, ROUTE

GATHER_SECONDS = 0.2  # in which what arrives becomes one batch (trigger Stored)


class Reports:
    """What Orthanc's callbacks report, until the thread reads it: also before the ledger is open.

    Parameters
    ----------
    overwrites : the same instance can come again with the content that it has, or another.
    at_once : what arrives is read at once (trigger Stored, ProtectUndelivered), not when it is stable.
    reconcile : it is read in the log of changes.
    remembered : the levels of what is remembered until it is deleted.
    """

    def __init__(
        self,
        wake: threading.Event,
        *,
        overwrites: bool,
        at_once: bool,
        reconcile: bool,
        remembered: Collection[str] = (),
    ) -> None:
        self.arrivals = Arrivals(digests=overwrites)
        self.has_changes = threading.Event()
        """Something is to be read in the log of changes."""
        self.forget()
        self._write: Callable[[str, str], None] = lambda _change, _resource: None
        self._wake, self._at_once, self._reconcile = wake, at_once, reconcile
        levels = {*remembered, "Instance"} if overwrites else remembered
        self._remembered = {int(getattr(orthanc.ResourceType, level.upper())) for level in levels}

    def forget(self) -> None:
        """Forget what was reported: another server has done it, or the log of changes and Orthanc's jobs have it."""
        self.unread = Unread()
        self.ended_jobs: deque[tuple[str, bool]] = deque()
        self.deleted: deque[str] = deque()
        self.inbox: Inbox[tuple[str, str]] = Inbox(lambda report: self._write(*report))

    def open(self, write: Callable[[str, str], None]) -> None:
        """Write what is reported of instances and stable resources, from now on."""
        self._write = write
        self.inbox.open()

    def on_event(self, event: str, level: int, resource: str) -> None:
        """Take an event of Orthanc's."""
        if event.startswith("JOB_"):
            self.ended_jobs.append((resource, event == "JOB_SUCCESS"))
            self._wake.set()
        elif event == "DELETED":
            if level in self._remembered:
                self.deleted.append(resource)
        elif event == "NEW_INSTANCE":
            if self._reconcile:
                self.unread.add(resource)
            self.inbox.add(("NewInstance", resource))
            if self._at_once:
                self._read_soon()
        else:
            self.inbox.add((f"Stable{event.removeprefix('STABLE_').capitalize()}", resource))
            self._read_soon()

    def _read_soon(self) -> None:
        self.has_changes.set()
        self._wake.set()


class Intake:
    """Adds a row, which says what is to be routed, for each resource of which something has arrived."""

    def __init__(self, context: Context, reports: Reports, sent: SentInstances, gone: Gone) -> None:
        self._ledger, self._work, self._stopping = context.ledger, Work(context.ledger), context.stopping
        self._loopback, self._gone = context.loopback, gone
        arrivals, self._unread = reports.arrivals, reports.unread
        self._arrivals, self._sent = arrivals, sent
        self.patients: set[str] = set()
        """Of whom something has arrived, for ProtectUndelivered."""
        self._protects, self._reconcile = context.settings.protect_undelivered, context.settings.reconcile
        self.has_read = False
        """Whether it has read what arrived before Orthanc started."""
        self._deleted_early = 0  # instances, since the last time that this was said
        self._at_once = context.settings.trigger == "Stored"
        self._levels = [level for level in LEVELS if any(rule.level == level for rule in context.rules)]
        stable_age = float(context.configuration.get("StableAge", 60))
        self.feed = Feed(
            *(context.ledger, context.loopback, self._on_stable, self._levels, stable_age, context.settings.reconcile),
            *(arrivals.parents, self._on_change_entry, self._forget_numbers, self._count_deleted),
        )

    def begin(self) -> None:
        """Take the place in the log of changes; let what is to be routed at a level that no rule has any more arrive again."""
        self.feed.begin()
        self.feed.take_back(ROUTE)

    def read(self) -> None:
        """Add the rows for what has come since the last time."""
        if self._at_once or self._protects:
            self._stopping.wait(GATHER_SECONDS)
        self._unread.begin_reading()
        self.feed.poll()
        self._count_never_read()
        if self._at_once:
            self._add_unstable()
        self.has_read = True

    def arriving(self) -> set[str]:
        """Return the studies, and patients as a whole, of which something has arrived and is not routed yet."""
        if not self._levels:
            return set()
        return arriving(self._ledger, self._loopback, self._arrivals.parents, self._unread.now())

    def _on_change_entry(self, change: Mapping[str, Any]) -> None:
        self._unread.on_change_entry(change)
        self._note_patient(change["ChangeType"], change["ID"])

    def on_event(self, change: str, resource: str) -> None:
        """Take what OnChange reports, also where the log of changes is not read."""
        self.feed.on_event(change, resource)
        if not self._reconcile:
            self._note_patient(change, resource)

    def _note_patient(self, change: str, instance: str) -> None:
        if self._protects and change == "NewInstance" and (found := self._arrivals.parents(instance)):
            self.patients.add(found["Patient"])

    def _count_deleted(self, _instance: str, seq: int) -> None:
        """Count, in the feed's transaction, what was deleted before it was stable, unless it was routed before that."""
        if not (self._at_once and 0 < seq <= self._ledger.get_value("taken")):
            self._deleted_early += 1

    def _count_never_read(self) -> None:
        """Count what was deleted before the log of changes was read: it is not there any more."""
        left = self._unread.never_read()
        if left and self._levels:
            left -= not_handed_over(self._ledger, self._levels[0], left)  # the event came after its entry was read
            self._deleted_early += len(left.difference(still_here(self._loopback, [*left])))
        if number := self._deleted_early:
            self._gone.note(
                number, f"{number} instances were deleted here before they were stable: no rule was applied to them"
            )
            self._deleted_early = 0

    def _on_stable(self, level: str, resource: str, instances: Mapping[str, int]) -> None:
        """Add a row in the feed's transaction."""
        self._add_to_route(level, resource, instances, last=True)

    def _add_unstable(self) -> None:
        """Add a row for each resource of which something arrived since the last time, before it is stable."""
        since = self._ledger.get_value("taken")
        groups: dict[tuple[str, str], dict[str, int]] = {}
        for row in arrived_since(self._ledger, since):
            groups.setdefault((row["level"], row["resource"]), {})[row["instance"]] = row["seq"]
            since = row["seq"]
        if groups:
            with self._ledger.transaction():
                for (level, resource), instances in groups.items():
                    self._add_to_route(level, resource, instances, last=False)
                self._ledger.set_value("taken", since)

    def _add_to_route(self, level: str, resource: str, instances: Mapping[str, int], last: bool) -> None:
        origins: list[Mapping[str, str]] = []
        parents = next(filter(None, map(self._arrivals.parents, instances)), {})
        place = place_of(level, resource, parents)
        data: dict[str, Any] = {"Level": level, **place, "UID": "", "Last": last, "Instances": {}}
        for instance, seq in instances.items():
            arrival = self._arrivals.get(instance)
            number = -1
            if arrival:
                # Of a patient it is asked for later: Orthanc finds a PatientID by the spaces too that it was sent with.
                data["UID"] = "" if level == "Patient" else arrival.uids[level]
                if arrival.origin not in origins:
                    origins.append(arrival.origin)
                number = origins.index(arrival.origin)
            data["Instances"][instance] = [seq, number, arrival.digest if arrival else ""]
        self._ledger.add(NO_DESTINATION, resource, {**data, "Origins": origins}, task=ROUTE)

    def _forget_numbers(self, place: int) -> None:
        """Forget numbers from before Orthanc's log of changes was set back: what comes from now on must not look like known.

        What is still to be routed loses its number, and is sent even if it was given already: twice is harmless, lost is not.
        """
        self._sent.forget_numbers(place)
        self._ledger.set_value("taken", min(place, self._ledger.get_value("taken")))
        for row in self._work.find(Which(task=ROUTE, states=("waiting", "dead"))):
            data = json.loads(row["data"])
            about = {one: [0 if seq > place else seq, *more] for one, (seq, *more) in data["Instances"].items()}
            self._work.change(row["id"], data={**data, "Instances": about})
