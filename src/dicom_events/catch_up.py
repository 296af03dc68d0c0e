# SPDX-License-Identifier: AGPL-3.0-or-later
"""Catching up: what was received before the outbox was made, since a time that a person names, is published."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

from common.catch_up import COUNTED_CHANGES, ChangeLogReader, Span, series_of, since_of
from common.loopback import Loopback
from common.routes import Answer, Refused, Request
from common.times import utc

from .applier import Applier
from .missed import KNOWN_TYPES, MissedEvents

MOST_WAITING = 5000  # events of a broker, until which more are added: the outbox has a bound, and must drop none
TRIES = 10  # turns, about a second each, in which Orthanc can't say what an instance is
CAUGHT_UP_SINCE = "caught_up_since"


class CatchUp:
    """Reads the log of changes before the outbox was made, a page a turn, and makes up what should have been published.

    What came after that is the outbox's own: its callbacks reported it, or it finds it. So nothing is published twice.

    Parameters
    ----------
    brokers : the names of those that are configured.
    """

    def __init__(
        self,
        applier: Applier,
        loopback: Loopback,
        missed: MissedEvents,
        brokers: Sequence[str],
        complain: Callable[[str], None],
    ) -> None:
        self._outbox, self._loopback, self._missed = applier.outbox, loopback, missed
        self._brokers, self._complain = brokers, complain
        self._log = ChangeLogReader(applier.outbox.ledger, loopback.get)
        self._tries = 0

    def turn(self) -> bool:
        """Publish what a page has, unless much waits; return whether there is more that can be done now."""
        span = self._log.left
        if span is None or any(self._outbox.backlog(name)[0] > MOST_WAITING for name in self._brokers):
            return False
        page = self._log.read(span)
        for change in page.changes:
            if change["ChangeType"] in KNOWN_TYPES and not self._make_up(change["ResourceType"], change["ID"]):
                return False
            self._log.note(Span(change["Seq"], span.end))
        self._log.note(page.rest)
        return bool(page.rest.changes)

    def _make_up(self, level: str, resource: str) -> bool:
        """Make up the event of a change; return False if Orthanc can't say now what it is about."""
        if level != "Instance":  # no matter whether it is kept as announced: as all that was here before this outbox is
            self._missed.make_up_new(level, resource)
        elif not self._missed.make_up_instance(resource):
            self._tries += 1
            if self._tries < TRIES:
                return False
            self._complain(f"dicom_events: the catch-up leaves out instance {resource}, which Orthanc can't read")
        self._tries = 0
        return True

    def state(self) -> dict[str, Any]:
        """Return whether one is under way, and how many changes are left to read."""
        return self._log.state()

    def ask(self, request: Request) -> Answer:
        """Begin, or count, what a person asks for."""
        since = since_of(request.parameters)
        span, is_dry = self._span(since), request.parameters.get("DryRun", True)
        about = {"Since": utc(since.timestamp()), "Changes": span.changes, "DryRun": is_dry}
        if is_dry:
            return Answer({**about, **self._count(span), "Brokers": list(self._brokers)})
        with self._outbox.ledger.transaction():
            self._log.begin(span)
            earlier = self._outbox.ledger.get_value(CAUGHT_UP_SINCE, 2**62)
            self._outbox.ledger.set_value(CAUGHT_UP_SINCE, min(earlier, int(since.timestamp())))
        return Answer(about, 202)

    def _span(self, since: datetime.datetime) -> Span:
        """Return what the log has from a time on, until what the outbox has itself, or was caught up before, begins."""
        made = self._outbox.ledger.get_value("made")
        if not made:
            raise Refused(
                409, "This outbox was made by an older version, and does not know when; POST …/replay publishes"
            )
        own = min(made, self._outbox.ledger.get_value(CAUGHT_UP_SINCE, 2**62))
        place = self._log.find(since).place
        return Span(place, max(place, self._log.find(datetime.datetime.fromtimestamp(own, datetime.UTC)).place))

    def _count(self, span: Span) -> dict[str, Any]:
        studies, instances, last = set[str](), set[str](), span.place + COUNTED_CHANGES
        while span.changes and span.place < last:
            page = self._log.read(span)
            for series in series_of(self._loopback, page.instances):
                studies.add(series["ParentStudy"])
                instances.update({*page.instances}.intersection(series["Instances"]))
            span = page.rest
        return {"Studies": len(studies), "Instances": len(instances), "Complete": not span.changes}
