# SPDX-License-Identifier: AGPL-3.0-or-later
"""Catching up: what was received since a time, and is not in the ledger, goes where the rules say."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orthanc

from common.catch_up import COUNTED_CHANGES, LogAgain, Span, series_of, since_of
from common.changes import not_handed_over
from common.http_threads import in_a_thread
from common.ledger import SEND
from common.loopback import Loopback
from common.owed import place_of
from common.routes import Answer, Request
from common.times import parse_orthanc_time, utc
from common.work import Which, Work
from forwarding.archive import family_of
from forwarding.context import Context
from forwarding.routing import Batch
from forwarding.rules import LEVELS
from forwarding.sent_instances import SentInstances
from forwarding.tasks import BACKFILL_PRIORITY, NO_DESTINATION, ROUTE

Left = Callable[[str, set[str]], set[str]]


class NotInLedger:
    """Says what of a resource a destination was not given, as far as the ledger remembers."""

    def __init__(self, context: Context, sent: SentInstances) -> None:
        self._ledger, self._work, self._loopback, self._sent = (
            context.ledger,
            Work(context.ledger),
            context.loopback,
            sent,
        )

    def of(self, batch: Batch, received: float) -> Left:
        """Return a function of a destination and of instances: those that it was not given, and that don't come by themselves.

        `received` (Unix time) is when the last of them came: what was sent whole after that had them.
        """
        family, some = family_of(self._loopback, batch.resource), set(batch.instances or ())
        routing = [json.loads(row["data"]) for row in self._work.find(Which(task=ROUTE, resource=batch.resource))]
        to_come = not_handed_over(self._ledger, batch.level, some)
        to_come |= {one for data in routing if "CatchUp" not in data for one in data["Instances"]}
        whole = {
            row["queue"]
            for row in self._work.find(Which(task=SEND, resources=family))
            if row["state"] != "gone" and row["created"] > received and json.loads(row["data"])["Instances"] is None
        }

        def left(destination: str, instances: set[str]) -> set[str]:
            if destination in whole:
                return set()
            return instances - to_come - self._sent.given(destination, family, instances)

        return left


class CatchUp:
    """Reads the log of changes once more, a page a turn, and adds a row for each resource that is to be routed.

    Parameters
    ----------
    shares_of : returns what the rules would send where of a row's data and resource, without what is in the ledger: the number
        of instances by destination.
    """

    def __init__(self, context: Context, shares_of: Callable[[Mapping[str, Any], str], Mapping[str, int]]) -> None:
        self._name, self._ledger, self._loopback = context.name, context.ledger, context.loopback
        self._wake, self._stopping, self._shares_of = context.wake, context.stopping, shares_of
        self._levels = [level for level in LEVELS if any(rule.level == level for rule in context.rules)]
        self._log = LogAgain(context.ledger, context.loopback.get)
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
        left = self._log.left
        return {"UnderWay": left is not None, "ChangesLeft": left.changes if left else 0}

    def _count(self, span: Span) -> dict[str, Any]:
        studies, seen, by_destination = set[str](), set[str](), dict[str, int]()
        last = span.place + COUNTED_CHANGES
        while span.changes and span.place < last and not self._stopping.is_set():
            page = self._log.read(span)
            for resource, data in self._rows_for(page.changes, [one for one in page.instances if one not in seen]):
                shares = self._shares_of(data, resource)
                studies.update([data.get("Study", resource)])
                seen.update(data["Instances"])
                for destination, number in shares.items():
                    by_destination[destination] = by_destination.get(destination, 0) + number
            span = page.rest
        counted = {"Studies": len(studies), "Instances": len(seen), "Destinations": by_destination}
        return {**counted, "Complete": not span.changes}


def _patients_of(loopback: Loopback, studies: set[str]) -> dict[str, str]:
    body = {"Resources": sorted(studies), "Level": "Study", "Short": True, "Metadata": False}
    found = loopback.post("/tools/bulk-content", body) if studies else []
    return {each["ID"]: each["ParentPatient"] for each in found}
