# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rules applied to what arrived: a row for each destination that gets something of it."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.arrivals import Arrivals
from common.changes import PAGE
from common.identifiers import PLURAL, UID_TAG_OF
from common.loopback import LoopbackError
from common.work import Which, Work
from common.worker import repr_of
from forwarding.context import Context
from forwarding.deletion import Deleter
from forwarding.destinations import Destinations
from forwarding.routing import Batch, Router
from forwarding.rows import Rows
from forwarding.sent_instances import SentInstances
from forwarding.tasks import NO_DESTINATION, ROUTE, name_of

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
        arrivals: Arrivals,
        deleter: Deleter | None,
    ) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._settings, self._transport, self._stopping = context.settings, context.transport, context.stopping
        self._router, self._rows, self._destinations = router, rows, destinations
        self._sent, self._arrivals, self._deleter = sent, arrivals, deleter
        self._has_queries = any(rule.query for rule in context.rules)

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
            verdicts = self._router.verdicts(batch, list(self._destinations.known()), self._destinations.wanted())
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._end_gone(row, len(data["Instances"]))
            return
        with self._ledger.transaction():
            if not self._work.remove(row["id"]):
                return  # a person has just dropped it
            sent_to: set[str] = set()
            for verdict in verdicts:
                for destination in verdict.destinations:
                    wanted = verdict.instances if verdict.instances is not None else tuple(batch.instances or ())
                    new = self._new_for(destination, wanted, data["Instances"], batch.origins)
                    if new:
                        about = batch.level, batch.resource, destination
                        self._rows.add(*about, new, verdict.rule.priority, _parents_in(data))
                        sent_to.add(destination)
            if self._deleter and sent_to:
                left_out = {name for verdict in verdicts for name in verdict.unknown}
                self._deleter.note(batch.level, batch.resource, sent_to | left_out)
            if data["Last"]:
                self._sent.forget_stable(data["Instances"])
        if data["Last"]:
            for instance in data["Instances"]:
                self._arrivals.forget(instance)
            if self._deleter:
                self._deleter.delivered(batch.resource)

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
        unknown = [one for one in instances if one not in origins]
        for start in range(0, len(unknown), PAGE):
            body = {"Resources": unknown[start : start + PAGE], "Metadata": True}
            origins |= {
                found["ID"]: found.get("Metadata", {}) for found in self._loopback.post("/tools/bulk-content", body)
            }
        return Batch(level, resource, uid, instances, origins)

    def _new_for(
        self,
        destination: str,
        wanted: Iterable[str],
        about: Mapping[str, Sequence[Any]],
        origins: Mapping[str, Mapping[str, str]],
    ) -> list[str]:
        """Return what this destination shall get, and note it: not what came from it, nor what it was given already."""
        settings, found = self._destinations.known()[destination], []
        for instance in wanted:
            origin = origins.get(instance, {})
            copy = "ModifiedFrom" in origin or "AnonymizedFrom" in origin
            if self._transport.came_from(origin, settings) or (copy and self._settings.skip_modified):
                continue
            seq, _, digest = about[instance]
            if self._sent.add(destination, instance, seq, digest):
                found.append(instance)
        return found


def _parents_in(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the study and the patient of what is to be routed, as far as they are known."""
    return {level: data[level] for level in ("Study", "Patient") if level in data}
