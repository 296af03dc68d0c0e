# SPDX-License-Identifier: AGPL-3.0-or-later
"""Catching up: what was received since a time, and is not in the ledger, goes where the rules say."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import orthanc

from common.catch_up import COUNTED_CHANGES, ChangeLogReader, Span, series_of, since_of
from common.http_threads import in_a_thread
from common.loopback import Loopback
from common.owed import place_of
from common.routes import Answer, Request
from common.times import parse_orthanc_time, utc
from forwarding.assignment import Assignment
from forwarding.context import Context
from forwarding.not_in_ledger import NotInLedger
from forwarding.routing import Share
from forwarding.rules import LEVELS
from forwarding.tasks import BACKFILL_PRIORITY, NO_DESTINATION, ROUTE


class CatchUp:
    """Reads the log of changes once more, a page a turn, and adds a row for each resource that is to be routed.

    Parameters
    ----------
    assignment : says what the rules would send where.
    """

    def __init__(self, context: Context, assignment: Assignment, not_in_ledger: NotInLedger) -> None:
        self._name, self._ledger, self._loopback = context.name, context.ledger, context.loopback
        self._wake, self._stopping = context.wake, context.stopping
        self._assignment, self._not_in_ledger = assignment, not_in_ledger
        self._levels = [level for level in LEVELS if any(rule.level == level for rule in context.rules)]
        self._log = ChangeLogReader(context.ledger, context.loopback.get)
        self.is_under_way = self._log.left is not None
        """Whether there is more to read."""

    def read(self) -> None:
        """Read a page, if somebody has asked for it; the rows and the place are written together."""
        if (span := self._log.left) is None:
            self.is_under_way = False
            return
        page = self._log.read(span)
        rows = self._rows_for(page.changes, page.instances)
        with self._ledger.transaction():
            for resource, data in rows:
                self._ledger.add(NO_DESTINATION, resource, data, BACKFILL_PRIORITY, task=ROUTE)
            self._log.note(page.rest)
        self.is_under_way = bool(page.rest.changes)
        if not self.is_under_way:
            orthanc.LogWarning(f"{self._name}: the catch-up has read all that was received up to when it was asked for")

    def _rows_for(self, changes: Iterable[Mapping[str, Any]], instances: list[str]) -> list[tuple[str, dict[str, Any]]]:
        """Return resource and data of a row for each resource of some instances that are here still."""
        wanted, dates = set(instances), [parse_orthanc_time(each["Date"]) for each in changes]
        received = max((date.timestamp() for date in dates if date), default=time.time())
        found: dict[tuple[str, str], tuple[dict[str, str], list[str]]] = {}
        series = series_of(self._loopback, instances)
        patients = _patients_of(self._loopback, {each["ParentStudy"] for each in series})
        for each in series:
            study = each["ParentStudy"]
            above = {"Series": each["ID"], "Study": study, "Patient": patients.get(study, "")}
            for level in self._levels:
                if above[level]:
                    some = found.setdefault((level, above[level]), (above, []))[1]
                    some += sorted(wanted.intersection(each["Instances"]))
        return [
            (
                resource,
                {
                    **{"Level": level, **place_of(level, resource, above), "UID": "", "Last": True},
                    **{"Instances": {one: [0, -1, ""] for one in some}, "Origins": [], "CatchUp": received},
                },
            )
            for (level, resource), (above, some) in found.items()
        ]

    # Routes

    def ask(self, request: Request) -> Answer:
        """Begin, or count, what a person asks for."""
        since = since_of(request.parameters)
        span, is_dry = self._log.find(since), request.parameters.get("DryRun", True)
        about = {"Since": utc(since.timestamp()), "Changes": span.changes, "DryRun": is_dry}
        if is_dry:
            # A matcher is a user's code, and may need any stack.
            return Answer({**about, **in_a_thread(lambda: self._count(span), f"{self._name} catch-up")})
        self._log.begin(span)
        self.is_under_way = True
        orthanc.LogWarning(f"{self._name}: somebody asked to catch up since {utc(since.timestamp())}")
        self._wake.set()
        return Answer(about, 202)

    def state(self) -> dict[str, Any]:
        """Return whether one is under way, and how many changes are left to read."""
        return self._log.state()

    def _count(self, span: Span) -> dict[str, Any]:
        studies, seen, by_destination = set[str](), set[str](), dict[str, int]()
        last = span.place + COUNTED_CHANGES
        while span.changes and span.place < last and not self._stopping.is_set():
            page = self._log.read(span)
            for resource, data in self._rows_for(page.changes, [one for one in page.instances if one not in seen]):
                studies.update([data.get("Study", resource)])
                seen.update(data["Instances"])
                for share in self._shares(data, resource):
                    before = by_destination.get(share.destination, 0)
                    by_destination[share.destination] = before + len(share.instances)
            span = page.rest
        counted = {"Studies": len(studies), "Instances": len(seen), "Destinations": by_destination}
        return {**counted, "Complete": not span.changes}

    def _shares(self, data: Mapping[str, Any], resource: str) -> list[Share]:
        batch = self._assignment.batch_of(data, resource)
        shares = self._assignment.shares(batch, self._assignment.verdicts(batch))
        return self._not_in_ledger.of(batch, shares, data["CatchUp"])


def _patients_of(loopback: Loopback, studies: set[str]) -> dict[str, str]:
    body = {"Resources": sorted(studies), "Level": "Study", "Short": True, "Metadata": False}
    found = loopback.post("/tools/bulk-content", body) if studies else []
    return {each["ID"]: each["ParentPatient"] for each in found}
