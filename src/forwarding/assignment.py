# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rules applied to what arrived: a row for each destination that gets something of it."""

import json
import time
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from common.archive import instances_of
from common.arrivals import Arrivals
from common.changes import PAGE, not_handed_over
from common.identifiers import PLURAL, UID_TAG_OF
from common.loopback import LoopbackError
from common.work import Which, Work
from common.worker import repr_of
from forwarding.archive import family_of, metadata_of
from forwarding.context import Context
from forwarding.deletion import Deleter
from forwarding.destinations import Destinations
from forwarding.loops import LOOK_UP_SECONDS, Loops
from forwarding.not_in_ledger import NotInLedger
from forwarding.passed_over import PassedOver, changing_levels
from forwarding.routing import Batch, Router, Share, Verdict
from forwarding.rows import Rows
from forwarding.rules import ForwardingRule
from forwarding.sent_instances import SentInstances
from forwarding.tasks import BACKFILL_PRIORITY, NO_DESTINATION, ROUTE, name_of

ROUTE_AGAIN_SECONDS = 30.0  # after a failure, which is this server's or a matcher's own: nobody outside is bothered


class Assignment:
    """Takes the rows that are to be routed, asks the rules, and adds the rows that are to be sent."""

    def __init__(
        self,
        context: Context,
        router: Router,
        rows: Rows,
        destinations: Destinations,
        sent: SentInstances,
        passed_over: PassedOver,
        arrivals: Arrivals,
        deleter: Deleter | None,
    ) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._settings, self._stopping = context.settings, context.stopping
        self._router, self._rows, self._destinations = router, rows, destinations
        self._sent, self._passed_over, self._arrivals, self._deleter = sent, passed_over, arrivals, deleter
        self.loops, self._not_in_ledger = Loops(context, destinations), NotInLedger(context, sent)
        self._changing_levels = changing_levels(context.rules)
        self._has_queries = any(rule.query for rule in context.rules)
        self._has_kinds = any(rule.sop_classes or rule.transfer_syntaxes for rule in context.rules)

    def route(self) -> None:
        """Route all that is due.

        Raises
        ------
        LoopbackError : Orthanc does not answer; what is left is routed the next time.
        """
        while rows := self._ledger.due(NO_DESTINATION, PAGE, self._settings.retry.longest, ROUTE):
            for row in rows:
                if self._stopping.is_set():
                    return
                try:
                    self._route_one(row)
                except LoopbackError as error:
                    if error.status == 0:
                        raise
                    self._fail(row, str(error))
                except Exception as error:  # noqa: BLE001 - a matcher is a user's code
                    self._fail(row, repr_of(error))

    def _fail(self, row: Mapping[str, Any], why: str) -> None:
        with self._ledger.transaction():
            if not self._work.has(Which(ids=[row["id"]])):
                return  # a person has just dropped it
            self._work.add_attempt(row["id"])
            self._rows.fail({**row, "attempts": row["attempts"] + 1}, f"the rules can't be applied: {why}")
            self._work.change(row["id"], next_attempt=time.time() + ROUTE_AGAIN_SECONDS)

    def _route_one(self, row: Mapping[str, Any]) -> None:
        data = json.loads(row["data"])
        try:
            batch = self.batch_of(data, row["subject"])
            verdicts = self.verdicts(batch)
            shares = self.shares(batch, verdicts)
            wanted = {share.destination for share in shares if share.instances}
            if "CatchUp" in data:
                shares = self._not_in_ledger.of(batch, shares, data["CatchUp"])
            earlier, passed_over = self._earlier(batch, verdicts) if data["Last"] else ([], None)
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._end_gone(row, len(data["Instances"]))
            return
        with self._ledger.transaction():
            if self._stopping.is_set() or not self._work.remove(row["id"]):
                return  # nobody waited for DNS; or a person has just dropped it
            sent_to = wanted | self._add_rows(batch, shares, data, earlier)
            if passed_over is not None:
                self._passed_over.note(batch.resource, passed_over)
            if self._deleter and sent_to:
                left_out = {name for verdict in verdicts for name in verdict.unknown}
                self._deleter.note(batch.level, batch.resource, sent_to | left_out)
            if data["Last"]:
                self.loops.count(_own_in(shares))
        if data["Last"]:
            for instance in data["Instances"]:
                self._arrivals.forget(instance)
            if self._deleter:
                self._deleter.delivered(batch.resource)

    def shares(self, batch: Batch, verdicts: Iterable[Verdict]) -> list[Share]:
        """Return what goes where: each instance once to a destination, by the rule with the highest priority."""
        had: dict[str, set[str]] = {}
        found = []
        for verdict in sorted(verdicts, key=lambda each: -each.rule.priority):
            rule = typing.cast("ForwardingRule", verdict.rule)  # the router gives back those it was given
            for name in verdict.destinations:
                own = self.own_of(name, verdict.instances or (), batch.origins)
                some = self.may_go(verdict, own, batch.origins)
                found.append(Share(name, rule, some - had.setdefault(name, set()), own))
                had[name] |= some
        return found

    def _add_rows(
        self,
        batch: Batch,
        shares: Collection[Share],
        data: Mapping[str, Any],
        earlier: Collection[Share],
    ) -> set[str]:
        """Add the rows of what is sent; return the destinations that get some of it, or were given it already."""
        add, about, parents = self._sent.add, data["Instances"], _parents_in(data)
        below = BACKFILL_PRIORITY if "CatchUp" in data else 0  # what arrives is sent first
        new = [
            share._replace(instances={one for one in share.instances if add(share.destination, one, *about[one][::2])})
            for share in shares
        ]
        # What came earlier goes by its own rule, which may change it or not; it joins what goes by the same.
        for name, rule, instances, _ in (*new, *earlier):
            if instances:
                more = (rule.priority + below, parents, rule.alternates.get(name, ()), rule.changes)
                self._rows.add(batch.level, batch.resource, name, sorted(instances), *more)
        return {share.destination for share in (*shares, *earlier) if share.instances}

    def _end_gone(self, row: Mapping[str, Any], number: int) -> None:
        """Remove a row of what was deleted before a rule was applied to it."""
        with self._ledger.transaction():
            if self._work.remove(row["id"]):
                text = f"{number} instances of {name_of(row)} were deleted here before a rule was applied to them"
                self._rows.gone.note(number, text)

    def batch_of(self, data: Mapping[str, Any], resource: str) -> Batch:
        """Return what is to be routed, as rules see it; what a restart made us forget is read from Orthanc."""
        level, instances = data["Level"], tuple(data["Instances"])
        uid = data["UID"]
        if not uid and self._has_queries:
            content = self._loopback.get(f"/{PLURAL[level]}/{resource}")
            uid = content["MainDicomTags"].get(UID_TAG_OF[level], "")
        origins = {one: data["Origins"][number] for one, (_, number, _) in data["Instances"].items() if number >= 0}
        unknown = [
            one for one in instances if one not in origins or (self._has_kinds and "SopClassUid" not in origins[one])
        ]
        origins |= metadata_of(self._loopback, unknown)
        return Batch(level, resource, uid, instances, origins)

    def verdicts(self, batch: Batch) -> list[Verdict]:
        """Return what each rule says of a batch."""
        return self._router.verdicts(batch, list(self._destinations.known()), self._destinations.wanted())

    def own_of(
        self,
        destination: str,
        instances: Iterable[str],
        origins: Mapping[str, Mapping[str, str]],
        wait: float = LOOK_UP_SECONDS,
    ) -> set[str]:
        """Return which of these instances came from a destination; waits so many seconds for the addresses of its host."""
        return self.loops.came_from(destination, origins, wait).intersection(instances)

    def may_go(self, verdict: Verdict, own: Collection[str], origins: Mapping[str, Mapping[str, str]]) -> set[str]:
        """Return what a rule sends to a destination, from which `own` came: with SkipModified no copies."""
        instances = set(verdict.instances or ()).difference(own)
        if not self._settings.skip_modified:
            return instances
        return {one for one in instances if not {"ModifiedFrom", "AnonymizedFrom"} & origins.get(one, {}).keys()}

    def _earlier(self, batch: Batch, verdicts: list[Verdict]) -> tuple[list[Share], set[str] | None]:
        """Return what came before a batch for destinations that are chosen now and were passed over then; and who is now.

        None: nobody can be, as the rules of this level always say the same of a resource.
        """
        if batch.level not in self._changing_levels:
            return [], None
        before, left_out = self._passed_over.of(batch.resource), self._left_out(batch, verdicts)
        again = before.intersection(name for verdict in verdicts for name in verdict.destinations)
        here = set(instances_of(self._loopback, batch.level, batch.resource)) if again else set[str]()
        old = here and here - self._to_come(batch, here)
        if not old:
            return [], before | left_out
        data = {"Level": batch.level, "UID": batch.uid, "Origins": [], "Instances": {one: [0, -1, ""] for one in here}}
        whole = self.batch_of(data, batch.resource)
        verdicts, family = self.verdicts(whole), family_of(self._loopback, batch.resource)
        found = []
        for share in self.shares(whole, verdicts):
            if share.destination in again and (some := old & share.instances):
                left = some - self._sent.given(share.destination, family, some)
                found.append(share._replace(instances=left))
        return found, (before | left_out) - again | (self._left_out(whole, verdicts) & again)

    def _to_come(self, batch: Batch, instances: Iterable[str]) -> set[str]:
        """Return what is still to be routed of a resource, this batch too: it comes by itself."""
        rows = self._work.find(Which(task=ROUTE, resource=batch.resource))
        waiting = {one for row in rows for one in json.loads(row["data"])["Instances"]}
        return waiting | not_handed_over(self._ledger, batch.level, instances)

    def _left_out(self, batch: Batch, verdicts: list[Verdict]) -> set[str]:
        """Return the destinations that don't get all that they may want of a batch when more of the resource has come."""
        got: dict[str, set[str]] = {}
        for verdict in verdicts:
            for name in (*verdict.destinations, *verdict.unknown):
                got.setdefault(name, set()).update(verdict.instances or ())
        possible = self._router.possible(batch, list(self._destinations.known()), self._destinations.wanted())
        return {name for name, instances in possible.items() if not instances <= got.get(name, set())}


def _parents_in(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the study and the patient of what is to be routed, as far as they are known."""
    return {level: data[level] for level in ("Study", "Patient") if level in data}


def _own_in(shares: Iterable[Share]) -> dict[str, set[str]]:
    """Return what came from each destination itself."""
    own: dict[str, set[str]] = {}
    for share in shares:
        own.setdefault(share.destination, set()).update(share.own)
    return own
