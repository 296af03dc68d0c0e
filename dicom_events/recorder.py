# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/recorder.py: edit that, never this file.
"""What becomes of each thing that has happened: events, and what is kept of resources. All inside a transaction."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping

from ._common.identifiers import PLURAL

from .changes import CHANGES
from .events import LEVELS, about
from .images import Image, Tags
from .outbox import Outbox, new_id
from .resources import Resources
from .settings import EventSettings
from .throttle import StoredEvent, Throttle

GRACE_SECONDS = 2.0  # beyond StableAge, after which a Stable… event that a restart has lost is made up


class Recorder:
    """Writes events and what is kept into the outbox; one thread at a time calls it.

    What an event needs to know of a series, study or patient is taken from the instances as they arrive and kept: with
    a large archive, Orthanc reads a single resource in milliseconds.
    """

    def __init__(
        self, outbox: Outbox, events: EventSettings, tags: Mapping[str, Tags], stable_age: float, reconcile: bool
    ) -> None:
        self._outbox, self.events, self.tags, self._reconcile = outbox, events, tags, reconcile
        self.resources = Resources(outbox.ledger)
        self._throttle = Throttle(outbox.ledger, events.stored_instance_throttle_ms)
        self._settling_seconds, self.quiet_seconds = stable_age / 2, stable_age + GRACE_SECONDS
        self._touched: dict[str, float] = {}  # when (monotonic) the last instance of each unstable resource came
        self._received: dict[str, int] = {}  # images of each series, of the transaction that is open
        self._instances: list[tuple[str, str, str]] = []
        self._former_is_applied = False
        self.is_shared = outbox.ledger.is_shared

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Open one; if it fails, nothing was recorded."""
        before = self._touched.copy(), self._throttle.next_event.copy()
        self._received, self._instances = {}, []
        try:
            with self._outbox.transaction():
                yield
                self.flush()
        except BaseException:
            self._touched, self._throttle.next_event = before
            raise

    def flush(self) -> None:
        """Write what many images share, or what is cheaper together: at the end, and before what asks for it."""
        if self._received or self._instances:
            self.resources.write(self._received, self._instances)
            self._received, self._instances = {}, []

    def take_over(self) -> None:
        """Note that all is applied that a former process reported: its Stable… events may never come.

        Orthanc keeps stability in memory.
        """
        self.resources.make_unstable_due(time.time() + self.quiet_seconds)
        self._touched.clear()
        self._throttle.next_event.clear()
        self.release()
        self._former_is_applied = True

    def is_touched(self, resource: str) -> bool:
        """Return whether an instance of it came since it was stable."""
        return resource in self._touched

    # Instances

    def stored(self, image: Image, due: float | None = None) -> None:
        """Record one instance, with its parents. `due`: its Stable… events may never come, make them up then."""
        _, clock, dicom_ids, orthanc_ids, _, origin, _ = image
        parents = orthanc_ids[:-1]
        # The server that got it may end before it is stable.
        due_of_stable = time.time() + self.quiet_seconds if due is None and self.is_shared else due
        for depth, resource in enumerate(parents):
            if resource not in self._touched or due is not None:
                self._keep(depth, image, due_of_stable)
        if self.events.stored_instance and origin["kind"] not in self.events.stored_instance_skip_origin:
            self._publish_stored(image)
        if self._reconcile and due is None:
            self._outbox.acknowledged.add(orthanc_ids[-1])
        if self.events.deleted_instance and len(orthanc_ids) == 4:
            self._instances.append((orthanc_ids[3], dicom_ids[3], orthanc_ids[2]))
        if due is None:
            for resource in parents:
                self._touched[resource] = clock

    def _keep(self, depth: int, image: Image, due: float | None) -> None:
        level, parent = LEVELS[depth], image.orthanc_ids[depth - 1] if depth else None
        wanted = self.tags[level]
        tags = json.dumps(wanted.of(image.tags)) if wanted and image.tags is not None else None
        resource, uid = image.orthanc_ids[depth], image.dicom_ids[depth]
        self.resources.keep(level, resource, uid, parent, tags, json.dumps(image.origin), due)

    def _publish_stored(self, image: Image) -> None:
        when, clock, dicom_ids, orthanc_ids, found, origin, received = image
        instance, key = orthanc_ids[-1], orthanc_ids[-2] if len(orthanc_ids) == 4 else orthanc_ids[-1]
        if key not in self._received:
            self._received[key] = self.resources.received(key)
        self._received[key] += 1
        # The same at every repeat, also when it is published again from what Orthanc has (replay, or after a crash).
        uid, subject, data = f"{instance}.{received}", f"instances/{instance}", None
        if len(orthanc_ids) == 4:
            tags = self.tags["Instance"].of(found or {}) if self.tags["Instance"] else None
            counts = {"instances": self._received[key]}
            data = json.dumps(about("Instance", orthanc_ids, dicom_ids, origin=origin, counts=counts, tags=tags))
            may_follow_former = not self._former_is_applied and self._received[key] > 1
            if self.events.stored_instance_throttle_ms and self._throttle.holds(
                key, clock, StoredEvent(uid, subject, when, data), may_follow_former=may_follow_former
            ):
                return
        self._outbox.add(uid, "dicom.instance.stored", key, subject, data, when)

    def release(self, series: str | None = None) -> float | None:
        """Publish the last of the throttled instances whose interval is over, or that of one series.

        Return the next time when this is needed, or None.
        """
        if not self.events.stored_instance_throttle_ms and self._former_is_applied:
            return None
        with self._outbox.transaction():
            for key, held in self._throttle.take(series):
                self._outbox.add(held.uid, "dicom.instance.stored", key, held.subject, held.data, held.when)
        return self._throttle.next_due()

    # Changes

    def changed(self, name: str, level: str, resource: str, when: float, clock: float) -> None:
        """Record one of `KNOWN_CHANGES`; `when` and `clock` are UTC and monotonic."""
        self.flush()
        if name == "DELETED":
            if not (self.is_shared and self.resources.is_deleted(resource)):  # the comparison came first
                self.deleted(level, resource, when)
        elif name.startswith("STABLE_"):
            if not self.is_shared or self._is_stable_everywhere(resource, clock):
                self.stable(level, resource, when, clock)
        elif name.startswith("NEW_"):
            if not (self.is_shared and self.resources.is_announced(resource)):  # it was made up meanwhile
                self.announce(level, resource, when)
        else:
            self._publish_other(name, level, resource, when)

    def _publish_other(self, name: str, level: str, resource: str, when: float) -> None:
        kind = CHANGES[name][1]
        if name in ("UPDATED_METADATA", "UPDATED_ATTACHMENT"):
            self._publish_incomplete(f"dicom.{level.lower()}.{kind}", level, resource, when)
        elif name.startswith("JOB_"):
            self._outbox.add(new_id(), kind, resource, f"jobs/{resource}", None, when)
        else:
            self._outbox.add(new_id(), kind, "orthanc", kind.split(".")[1], "{}", when)

    def _publish_incomplete(self, kind: str, level: str, resource: str, when: float) -> None:
        key = self.resources.key_of(level, resource)
        self._outbox.add(new_id(), kind, key, f"{PLURAL[level]}/{resource}", None, when)

    def stable(self, level: str, resource: str, when: float, clock: float | None = None) -> None:
        """Record that a series, study or patient is stable, after all of its instances. No `clock`: this is made up."""
        if level == "Series":
            self.release(resource)
        last = self._touched.get(resource, 0.0)
        # After an instance that came when Orthanc had said so, it is unstable again, and gets its own event later.
        is_unstable_again = clock is not None and clock - last < self._settling_seconds
        if not is_unstable_again:
            self._touched.pop(resource, None)
            self.resources.become_stable(resource)
        if getattr(self.events, f"stable_{level.lower()}"):
            self._publish_incomplete(f"dicom.{level.lower()}.stable", level, resource, when)

    def _is_stable_everywhere(self, resource: str, clock: float) -> bool:
        """Return whether the last image of a resource is old enough, whichever server got it, and none said so before.

        Each of several servers that got a part of a study says that it is stable.
        """
        return self.resources.is_unstable(resource) and not self.came_lately(resource, clock, self._settling_seconds)

    def came_lately(self, resource: str, clock: float, seconds: float | None = None) -> bool:
        """Return whether an image of a resource came so lately (else within StableAge) that its Stable… event is to wait."""
        seconds = self.quiet_seconds - GRACE_SECONDS if seconds is None else seconds
        return clock - self._touched.get(resource, clock - seconds) < seconds

    def announce(self, level: str, resource: str, when: float) -> None:
        """Record that a series, study or patient is new: published once."""
        if not getattr(self.events, f"new_{level.lower()}"):
            return
        with self._outbox.transaction():
            self.resources.announce(level, resource)
            self._publish_incomplete(f"dicom.{level.lower()}.new", level, resource, when)

    def deleted(self, level: str, resource: str, when: float) -> None:
        """Record that a resource is deleted; its DICOM identifiers are those that were kept since it was stored."""
        kept = self.resources.kept(level, resource)
        with self._outbox.transaction():
            if level == "Series":
                self.release(resource)
            if getattr(self.events, f"deleted_{level.lower()}"):
                self._outbox.add(
                    *(new_id(), f"dicom.{level.lower()}.deleted", kept.key, f"{PLURAL[level]}/{resource}"),
                    json.dumps(about(level, kept.orthanc_ids, kept.dicom_ids)),
                    when,
                )
            self.resources.delete(resource, when)
        self._touched.pop(resource, None)
