# SPDX-License-Identifier: AGPL-3.0-or-later
"""What no callback has reported is found in /changes; Stable… events that a restart has lost are made up.

A callback that is under way, when Orthanc is killed, leaves an image without an event; a full disk does too.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from common.loopback import LoopbackError
from common.place import place_in_log
from common.times import orthanc_time

from .applier import Applier
from .archive import Archive, origin_in
from .events import LEVELS
from .images import Image

CHANGES_PER_PAGE = 1000
MISSED_AFTER_SECONDS = 5.0  # after which an instance that /changes names and no callback reported was missed
MOST_SUSPECTS = 10_000  # in memory; after weeks without this script there may be millions
SETTLE_SECONDS = 1.0  # for what was missed, while other events wait
OVERDUE_AT_ONCE = 100
KNOWN_TYPES = {"NewInstance", "NewSeries", "NewStudy", "NewPatient"}


class Suspect(NamedTuple):
    """An entry of /changes that no callback has reported yet."""

    sequence: int
    seen: float
    """`time.monotonic()` when it was read."""
    level: str


class MissedEvents:
    """Follows /changes behind the callbacks, and publishes what they have not reported within some seconds."""

    def __init__(self, applier: Applier, archive: Archive) -> None:
        self._applier, self._outbox, self._recorder = applier, applier.outbox, applier.recorder
        self._archive = archive
        self._suspects: dict[str, Suspect] = {}
        self._read_to = self._followed_to = self._newest_at_start = 0
        self.caught_up = threading.Event()
        """Set when all is published that happened before this start."""

    def begin(self) -> None:
        """Find the place in /changes at which to read on."""
        newest = self._newest_at_start = int(self._archive.get("/changes?last")["Last"])
        place = self._outbox.ledger.get_value("cursor", -1)
        if place < 0:
            place = self._place_of_new(newest)
        self._read_to = place_in_log(place, newest, "dicom_events")
        self._outbox.ledger.set_value("cursor", self._read_to)

    def _place_of_new(self, newest: int) -> int:
        """Return where a new outbox begins: at what came since Orthanc, or this script, was started; a page at most."""
        begin = max(0, newest - CHANGES_PER_PAGE)
        made = datetime.datetime.fromtimestamp(self._outbox.ledger.get_value("made", 2**32), datetime.UTC)
        page = self._archive.get(f"/changes?since={begin}&limit={CHANGES_PER_PAGE}")["Changes"]
        return int(max((each["Seq"] for each in page if each["Date"] < orthanc_time(made)), default=begin))

    def follow(self) -> None:
        """Read on in /changes, and publish what no callback has reported within a while."""
        while len(self._suspects) < MOST_SUSPECTS:
            page = self._archive.get(f"/changes?since={self._read_to}&limit={CHANGES_PER_PAGE}")
            self._applier.apply()  # what a callback has reported is acknowledged
            self._on_change_entries([each for each in page["Changes"] if each["ChangeType"] in KNOWN_TYPES])
            self._read_to = max(self._read_to, int(page["Last"]))
            if page["Done"]:
                break
        self._settle_suspects()
        place = min((each.sequence - 1 for each in self._suspects.values()), default=self._read_to)
        if place != self._followed_to:
            self._outbox.ledger.set_value("cursor", place)
            self._followed_to = place
        if place >= self._newest_at_start:
            self.caught_up.set()

    def _on_change_entries(self, changes: list[Mapping[str, Any]]) -> None:
        instances = [change["ID"] for change in changes if change["ChangeType"] == "NewInstance"]
        acknowledged = self._outbox.acknowledged.take(instances)
        for change in changes:
            if change["ID"] not in acknowledged:
                self._suspects[change["ID"]] = Suspect(change["Seq"], time.monotonic(), change["ResourceType"])

    def _settle_suspects(self) -> None:
        late, until = time.monotonic() - MISSED_AFTER_SECONDS, time.monotonic() + SETTLE_SECONDS
        instances = [name for name, suspect in self._suspects.items() if suspect.level == "Instance"]
        acknowledged = self._outbox.acknowledged.take(instances)
        for name, suspect in list(self._suspects.items()):
            if name in acknowledged or (suspect.level != "Instance" and self._is_announced(suspect.level, name)):
                del self._suspects[name]
            elif suspect.seen < late and time.monotonic() < until:  # other events wait meanwhile
                if suspect.level != "Instance":
                    self.make_up_new(suspect.level, name)
                elif not self.make_up_instance(name):
                    continue
                del self._suspects[name]

    def _is_announced(self, level: str, resource: str) -> bool:
        if not getattr(self._recorder.events, f"new_{level.lower()}"):
            return True
        return self._recorder.resources.is_announced(resource)

    def make_up_new(self, level: str, resource: str) -> None:
        """Publish that a series, study or patient is new."""
        with self._applier.up_to_date() as recorder:
            recorder.announce(level, resource, time.time())

    def make_up_instance(self, instance: str) -> bool:
        """Publish an instance that was missed; return False if Orthanc can't say now what it is: it is asked again."""
        kept = self._archive.look_up("Instance", instance)
        if kept is None:
            return self._is_deleted(instance)
        found = self._archive.tags(instance)  # None: its file can't be read, for which the event does not wait
        metadata = self._archive.metadata(instance)
        values, received = tuple(each or "" for each in kept.dicom_ids), metadata.get("ReceptionDate", "")
        now = time.time()
        image = Image(now, time.monotonic(), values, kept.orthanc_ids, found, origin_in(metadata), received)
        with self._applier.up_to_date() as recorder:
            recorder.stored(image, due=now + recorder.quiet_seconds)
        return True

    def _is_deleted(self, instance: str) -> bool:
        try:
            return not self._archive.exists("Instance", instance)
        except LoopbackError as error:
            if error.status == 0:
                raise
            return False

    def make_up_stable(self) -> None:
        """Publish the Stable… events that should have come, or the deletion of what is deleted meanwhile."""
        self._applier.apply()
        while rows := self._recorder.resources.overdue(time.time(), OVERDUE_AT_ONCE):
            for row in sorted(rows, key=lambda row: -LEVELS.index(row["level"])):
                is_here = self._archive.exists(row["level"], row["id"])
                with self._applier.up_to_date() as recorder:
                    if is_here and recorder.is_shared and recorder.came_lately(row["id"], time.monotonic()):
                        recorder.resources.set_due(row["id"], time.time() + recorder.quiet_seconds)
                    elif is_here:
                        recorder.stable(row["level"], row["id"], time.time())
                    else:
                        recorder.deleted(row["level"], row["id"], time.time())
