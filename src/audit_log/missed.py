# SPDX-License-Identifier: AGPL-3.0-or-later
"""What no line says because Orthanc was killed, or nothing could be written, when it happened: found at the next start."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.identifiers import orthanc_identifier
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.place import place_in_log
from common.times import parse_orthanc_time, utc

from .places import Place, Places, place_of_study
from .writer import LineWriter

CHANGES_PER_REQUEST = 500
STUDIES_PER_LIST = 1000
SETTLE_SECONDS = 2.0  # after which a callback has reported what Orthanc has done
FOUND = "at start"
SENDER = ("Origin", "RemoteAET", "CalledAET", "RemoteIP", "HttpUsername")  # metadata of an instance


class MissedLines:
    """Adds lines about what the process before did not write down.

    What arrived is in Orthanc's log of changes, after the place up to which all was written (`note`). What was deleted is not
    in the archive any more, and has a place. Each line has `Found`; what came in the last seconds may have one already.
    """

    def __init__(self, ledger: Ledger, loopback: Loopback, places: Places, writer: LineWriter) -> None:
        self._ledger, self._loopback, self._places, self._writer = ledger, loopback, places, writer
        self._place = self._kept = self._end = -1
        self._compares = bool(ledger.get_value("is_running"))  # it has not ended: what was deleted may have no line
        self._gone: list[Place] = []
        self._settles_at = 0.0
        self._seen = -1, 0.0

    def _begin(self) -> None:
        self._kept = self._ledger.get_value("cursor", -1)
        newest = self._newest()
        place = newest if self._kept < 0 else place_in_log(self._kept, newest, "audit_log")
        with self._ledger.transaction():
            self._ledger.set_value("cursor", place)
            self._ledger.set_value("is_running", 1)
        self._place = self._kept = place
        self._end, self._seen = newest, (newest, time.monotonic())

    def _newest(self) -> int:
        return int(self._loopback.get("/changes?last")["Last"])

    def find_some(self) -> bool:
        """Add lines of some of what was missed; return whether there is more.

        Raises
        ------
        LoopbackError : Orthanc can't answer now; called again, it goes on.
        """
        if self._end < 0:
            self._begin()
        if self._place < self._end:
            self._add_arrivals()
            return True
        if self._compares:
            self._gone, self._settles_at = self._find_gone(), time.monotonic() + SETTLE_SECONDS
            self._compares = False
        if self._gone and time.monotonic() >= self._settles_at:
            for place in self._gone:
                self._add_deleted(place)
            self._gone = []
        return False

    def note(self, *, at_end: bool = False) -> None:
        """Remember up to which place all is written, once that is so.

        Raises
        ------
        LoopbackError : Orthanc can't answer now; not `at_end`, when nothing is asked.
        """
        if self._end < 0:
            return
        if self._place >= self._end:
            newest, at = self._seen
            if at_end or time.monotonic() > at + SETTLE_SECONDS:
                self._place = max(self._place, newest)
                self._seen = (newest if at_end else self._newest()), time.monotonic()
        if self._place != self._kept:
            self._ledger.set_value("cursor", self._place)
            self._kept = self._place
        if at_end and not self._compares and not self._gone:
            self._ledger.set_value("is_running", 0)

    # What arrived

    def _add_arrivals(self) -> None:
        page = self._loopback.get(f"/changes?since={self._place}&limit={CHANGES_PER_REQUEST}")
        changes = [each for each in page["Changes"] if each["Seq"] <= self._end]
        new = {each["ID"]: each["Date"] for each in changes if each["ChangeType"] == "NewInstance"}
        if new:
            self._add_received(new)
        self._place = self._end if page["Done"] else min(self._end, int(page["Last"]))

    def _add_received(self, dates: Mapping[str, str]) -> None:
        """Add a line for each study of some instances that are here; `dates` : when Orthanc noted each."""
        instances: dict[str, list[str]] = {}
        for series in self._content([*dates], Level="Series", Short=True, Metadata=False):
            instances.setdefault(series["ParentStudy"], []).extend(dates.keys() & {*series["Instances"]})
        firsts = {min(each, key=dates.__getitem__): study for study, each in instances.items() if each}
        senders = {firsts[each["ID"]]: each.get("Metadata", {}) for each in self._content([*firsts], Short=True)}
        for study in self._content([*senders], Metadata=False):
            place, metadata, mine = place_of_study(study), senders[study["ID"]], instances[study["ID"]]
            for resource in (study["ID"], study["ParentPatient"], *study["Series"]):
                self._places.keep(resource, place)
            sender = {name: metadata[name] for name in SENDER if metadata.get(name)}
            first = parse_orthanc_time(min(dates[each] for each in mine))
            since = utc(first.timestamp()) if first else utc()
            more: dict[str, Any] = {"From": sender, "Since": since, "Count": len(mine), "Found": FOUND}
            self._writer.add(utc(), "received", place, **more)

    def _content(self, resources: Sequence[str], **more: Any) -> list[dict[str, Any]]:
        """Return what Orthanc says of those of some resources that are here."""
        if not resources:
            return []
        found: list[dict[str, Any]] = self._loopback.post("/tools/bulk-content", {"Resources": resources, **more})
        return found

    # What was deleted

    def _find_gone(self) -> list[Place]:
        here, since = set[str](), 0
        while page := self._loopback.get(f"/studies?since={since}&limit={STUDIES_PER_LIST}"):
            here.update(page)
            since += len(page)
        return [place for place in self._places.studies() if place["Study"] not in here and self._is_gone(place)]

    def _is_gone(self, place: Place) -> bool:
        """Return whether a study is not here: the list may have skipped it, while others were deleted."""
        try:
            self._loopback.get(f"/studies/{place['Study']}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return True
        return False

    def _add_deleted(self, place: Place) -> None:
        if not self._places.is_kept(place["Study"]):
            return  # its event came meanwhile
        self._writer.add(utc(), "deleted", place, Level="Study", Resource=place["Study"], Found=FOUND)
        for resource in self._places.of_study(place):
            if resource != orthanc_identifier(place["Patient"]):
                self._places.forget(resource)
