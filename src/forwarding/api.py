# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of the forwarders: what was sent where and what came of it, and what a person may do about it."""

import dataclasses
import functools
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from common.archive import instances_of
from common.catch_up import CATCH_UP_PARAMETERS
from common.http_threads import in_a_thread
from common.identifiers import PLURAL
from common.ledger import SEND, STATES
from common.loopback import LoopbackError
from common.owed import register_owed
from common.pages import page_answer
from common.parameters import (
    IDENTIFIER,
    PAGE_PARAMETERS,
    Day,
    Flag,
    Moment,
    OneOf,
    Text,
    Texts,
    WholeNumber,
    row_number,
    takes,
)
from common.route_list import answers
from common.routes import Answer, Refused, Request, one_line, register_route
from common.status import RUNNING, Condition, ListedScript, condition_of, register_status, unused
from common.times import utc_or_none
from common.work import Which
from common.worker import repr_of
from forwarding.backfill import send_studies, studies_between
from forwarding.forwarder import Forwarder
from forwarding.image_changes import Changes, UnchangedError
from forwarding.loops import LOOK_UP_IN_ROUTE_SECONDS
from forwarding.routing import Batch, Verdict
from forwarding.rules import LEVELS, ForwardingRule
from forwarding.settings import may_get_changed
from forwarding.shown import shown_row, shown_rule

FILTERS = ("state", "destination", "job", "resource", "study")
RESOURCE = {"Resource": IDENTIFIER, "Level": OneOf(choices=LEVELS)}


def register_routes(forwarder: Forwarder, refusal: str | None, *, is_unused: bool = False) -> ListedScript:
    """Register the routes, and return the script's entry.

    With a `refusal` (the configuration is wrong, or there is none) they all answer 503 with it.
    """
    named, worker = Named(forwarder), forwarder.worker
    rows, places = DeliveryRoutes(forwarder, named), DestinationRoutes(forwarder, named)

    def unavailable() -> str | None:
        return refusal or worker.why_not()

    name = forwarder.name.replace("-", "_")

    def look() -> Condition:
        found = unused(refusal) if refusal and is_unused else condition_of(worker, refusal, forwarder.server)
        if found.state == RUNNING and found.reason is None and (unknown := forwarder.engine.destinations.unknown):
            found = dataclasses.replace(found, reason=unknown)  # nothing is sent there
        return found

    script = register_status(name, look, rows.status, unavailable)
    bounded = forwarder.turns.bound  # those that ask Orthanc each time
    routes: dict[str, dict[str, Callable[[Request], Any]]] = {
        "deliveries": {"GET": rows.page},
        "deliveries/retry": {"POST": rows.retry_all},
        "deliveries/([0-9]+)": {"GET": rows.one, "DELETE": rows.drop},
        "deliveries/([0-9]+)/retry": {"POST": rows.retry},
        "destinations": {"GET": places.destinations},
        "destinations/([^/]+)/(pause|resume)": {"POST": places.pause},
        "rules": {"GET": places.rules},
        "rules/test": {"POST": bounded(places.test)},
        "send": {"POST": bounded(rows.send)},
        "backfill": {"POST": bounded(rows.backfill)},
        "catch-up": {"GET": rows.catch_up_state, "POST": bounded(rows.catch_up)},
    }
    for path, handlers in routes.items():
        register_route(f"/{forwarder.name}/{path}", handlers, unavailable)

    def owed(resources: set[str]) -> set[str]:
        with forwarder.turns.turn():  # it may ask Orthanc
            return forwarder.engine.owed(resources)

    @takes({"Patients": Texts()})
    def protected(request: Request) -> dict[str, list[str]]:
        """Return which of these patients it protects (`ProtectUndelivered`): `{"Patients": […]}`."""
        patients = request.parameters.get("Patients", [])
        return {"Protected": [] if refusal else sorted(forwarder.engine.protection.held(patients))}

    idle = bool(refusal) and is_unused
    register_route(f"/{forwarder.name}/protected", {"POST": protected}, (lambda: None) if idle else unavailable)
    register_owed(forwarder.name, owed, unavailable, is_unused=idle)
    return script


class Named:
    """What callers name: rows, destinations, resources."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def row(self, request: Request) -> dict[str, Any]:
        """Return the row whose id is in the path."""
        number = request.groups[0]
        row = self._forwarder.engine.work.get(row_number(number))
        if row is None:
            raise Refused(404, f"There is no delivery {number[:20]}")
        return row

    def destination(self, name: str | None) -> str:
        """Return the name of a destination that Orthanc knows."""
        known = self._forwarder.engine.destinations.known()
        if name is None or name not in known:
            raise Refused(400, f"Destination is {one_line(name)!r}, allowed: {', '.join(known) or 'none'}")
        return str(name)

    def resource(self, wanted: Mapping[str, Any]) -> tuple[str, str]:
        """Return level and identifier of a resource that is here."""
        level, resource = wanted.get("Level", "Study"), wanted.get("Resource")
        if resource is None:
            raise Refused(400, f"Resource is missing, allowed: {IDENTIFIER.allowed}")
        try:
            self._forwarder.loopback.get(f"/{PLURAL[level]}/{resource}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            raise Refused(404, f"There is no {level} {resource}") from None
        return level, resource

    def modify(self, rule: str | None, destinations: Iterable[str]) -> dict[str, Any] | None:
        """Return what is changed on the way of what a person sends: what the rule changes that is named.

        Where a rule changes what goes to a destination, nothing goes there as it is because somebody has forgotten that.
        """
        rules = self._forwarder.rules
        if rule is not None:
            found = [each.changes for each in rules if each.name == rule]
            if not found or any(each != found[0] for each in found):
                raise Refused(
                    400, f"Rule is {one_line(rule)!r}, allowed: {', '.join(one.name for one in rules)} (each name once)"
                )
            return found[0]
        for name in destinations:
            for each in rules:
                if may_get_changed(each, name, self._forwarder.settings):
                    why = f"Rule is missing: {one_line(each.name)!r} changes what goes to {one_line(name)}"
                    raise Refused(400, f"{why}; allowed: the name of the rule whose Modify applies, or of one without")
        return None


class DeliveryRoutes:
    """Handlers of what is about rows of the ledger: to look at them, and to add, retry and drop them."""

    def __init__(self, forwarder: Forwarder, named: Named) -> None:
        self._forwarder, self._named = forwarder, named

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, the rows in each state, what was delivered, not sent back to whom, and deleted undelivered."""
        engine = self._forwarder.engine
        gone, own = engine.rows.gone.instances, engine.assignment.loops.totals()
        return {"Totals": engine.ledger.totals(), **engine.rows.flow(), "NotSentBack": own, "InstancesGone": gone}

    @takes(
        {
            **{**PAGE_PARAMETERS, "before": WholeNumber(), **dict.fromkeys(FILTERS, Text())},
            **{"state": OneOf(choices=STATES), "from": Moment(), "to": Moment()},
        }
    )
    def page(self, request: Request) -> dict[str, Any]:
        """Return a page of rows, oldest first after the id `since`, newest first `before` one: `limit`, and filters by column.

        `from` and `to` are days or times, `to` not included, between which a row was `Created`.
        """
        query, engine = request.parameters, self._forwarder.engine
        first, end = (query[name].timestamp() if name in query else None for name in ("from", "to"))
        if first is not None and end is not None and first >= end:
            raise Refused(400, "from must be before to")
        which = Which(
            states=[query["state"]] if "state" in query else None,
            task=SEND if "destination" in query else None,
            queue=query.get("destination"),
            ids=engine.jobs.rows_of(query["job"]) if "job" in query else None,
            resource=query.get("resource"),
            about=query.get("study"),
            added_since=first,
            added_before=end,
        )
        total, totals = engine.work.count(which), engine.ledger.totals()
        before = query.get("before")
        page = page_answer(query, total, lambda since, limit: engine.work.page(which, since, limit, before), shown_row)
        return {"Total": total, "Totals": totals, **page}

    def one(self, request: Request) -> dict[str, Any]:
        """Return one row, with its failed attempts, its instances, and what is changed in them on the way."""
        row = self._named.row(request)
        data = json.loads(row["data"])
        instances = data["Instances"]
        return {
            **shown_row(row),
            "History": data.get("History", []),
            "InstanceIDs": None if instances is None else [*instances],
            "Modify": data.get("Modify"),
        }

    @answers(409)
    def drop(self, request: Request) -> dict[str, Any]:
        """Forget a row that is dead or waits; one that is being sent can't be called back."""
        row = self._named.row(request)
        if not self._forwarder.engine.work.remove(row["id"], [state for state in STATES if state != "sending"]):
            raise Refused(409, f"Delivery {row['id']} is being sent; drop it when its job has ended")
        return shown_row(row)

    @answers(409)
    def retry(self, request: Request) -> dict[str, Any]:
        """Try a row that is dead, or waits, again now, with the whole time until it is given up."""
        row = self._named.row(request)
        if not self._retry(Which(ids=[row["id"]])):
            raise Refused(409, f"Delivery {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        return shown_row(self._named.row(request))

    @takes({"Destination": Text()})
    def retry_all(self, request: Request) -> dict[str, Any]:
        """Try all dead rows of a destination again: `{"Destination": …}`."""
        name = self._named.destination(request.parameters.get("Destination"))
        return {"Retried": self._retry(Which(task=SEND, queue=name, states=("dead",)))}

    def _retry(self, which: Which) -> int:
        count = self._forwarder.engine.work.retry(which)
        self._forwarder.wake.set()
        return count

    @takes({**RESOURCE, "Destinations": Texts(), "Rule": Text()})
    @answers(202, 404)
    def send(self, request: Request) -> Answer:
        """Send a resource now, rules or not: `{"Resource": …, "Level": "Study", "Destinations": […]}`; 202 with the rows.

        Without `Destinations`, to those of the section. `Rule` names the one whose `Modify` applies.
        """
        engine = self._forwarder.engine
        level, resource = self._named.resource(request.parameters)
        given = request.parameters.get("Destinations")
        names = engine.destinations.listed() if given is None else [self._named.destination(name) for name in given]
        if not names:
            raise Refused(400, "Destinations is missing, and there is none that everything goes to")
        modify = self._named.modify(request.parameters.get("Rule"), names)
        with engine.ledger.transaction():
            rows = [engine.rows.add(level, resource, name, None, modify=modify) for name in names]
        self._forwarder.wake.set()
        return Answer({"Deliveries": rows}, 202)

    @takes({"From": Day(), "To": Day(), "Destination": Text(), "Rule": Text(), "DryRun": Flag()})
    @answers(200, 202)
    def backfill(self, request: Request) -> Answer:
        """Send what the archive holds already: whole studies by StudyDate, `From` to `To`, both included; 202 with how many.

        `Destination` (one name, else all), `Rule` (the one whose `Modify` applies), `DryRun` (only count).
        """
        wanted, engine = request.parameters, self._forwarder.engine
        first, last, dry = wanted.get("From"), wanted.get("To"), wanted.get("DryRun", False)
        if first is None or last is None or first > last:
            raise Refused(400, "From and To must be days as YYYYMMDD, From not after To")
        named = "Destination" in wanted
        targets = [self._named.destination(wanted["Destination"])] if named else engine.destinations.listed()
        modify = self._named.modify(wanted.get("Rule"), targets)
        studies = studies_between(self._forwarder.loopback, first, last)
        if not dry:
            send_studies(engine, studies, targets, modify)
            self._forwarder.wake.set()
        number = len(studies) * len(targets)
        content = {"Studies": len(studies), "Destinations": targets, "Deliveries": number, "DryRun": dry}
        return Answer(content, 200 if dry else 202)

    @takes(CATCH_UP_PARAMETERS)
    def catch_up(self, request: Request) -> Answer:
        """Send what was received since a time, and is not in the ledger, where the rules say: `{"Since": …}`; a dry run first.

        `Since` is a day or a time with its zone. With `"DryRun": false` it begins, 202; else it is counted only.
        """
        return self._forwarder.engine.catch_up.ask(request)

    def catch_up_state(self, _request: Request) -> dict[str, Any]:
        """Return whether a catch-up is under way, and how many changes are left to read."""
        return self._forwarder.engine.catch_up.state()


class DestinationRoutes:
    """Handlers of what is about destinations, and about the rules that choose them."""

    def __init__(self, forwarder: Forwarder, named: Named) -> None:
        self._forwarder, self._named = forwarder, named

    def destinations(self, _request: Request) -> dict[str, Any]:
        """Return the destinations that rules may name, whether each is away, paused, closed, slow, and what waits for it."""
        engine = self._forwarder.engine
        destinations, totals = engine.destinations, engine.work.totals_by_queue()
        return {
            name: {
                **destinations.shown(name),
                "Paused": destinations.is_paused(name),
                "Open": destinations.is_open(name),
                "OneAtATimeUntil": utc_or_none(destinations.narrow_until(name)),
                "Slow": engine.jobs.paces.slow_of(name),
                "Totals": totals.get(name) or dict.fromkeys(STATES, 0),
            }
            for name in [*destinations.known(), *destinations.missing]
        }

    def pause(self, request: Request) -> dict[str, Any]:
        """Hold back, or go on with, all that waits for a destination; also over restarts."""
        name, action = self._named.destination(request.groups[0]), request.groups[1]
        self._forwarder.engine.destinations.pause(name, action == "pause")
        self._forwarder.wake.set()
        return {"Destination": name, "Paused": action == "pause"}

    def rules(self, _request: Request) -> dict[str, Any]:
        """Return the rules in their order, and whether the first that matches decides or all count."""
        return {
            "RuleMode": self._forwarder.settings.rule_mode,
            "Rules": [shown_rule(rule) for rule in self._forwarder.rules],
        }

    @takes(RESOURCE)
    @answers(404, 422)
    def test(self, request: Request) -> dict[str, Any]:
        """Return what would happen to a resource and why, sending nothing: `{"Resource": …, "Level": "Study"}`."""
        engine = self._forwarder.engine
        level, resource = self._named.resource(request.parameters)
        found = instances_of(self._forwarder.loopback, level, resource)
        data = {"Level": level, "UID": "", "Instances": {one: [0, -1, ""] for one in found}, "Origins": []}
        batch = engine.assignment.batch_of(data, resource)
        try:
            # A matcher is a user's code, and may need any stack.
            verdicts = in_a_thread(functools.partial(engine.assignment.verdicts, batch), "rules/test")
        except LoopbackError:
            raise
        except Exception as error:
            raise Refused(422, f"A Matcher failed: {repr_of(error)}") from error
        rules = [self._tested(verdict, batch) for verdict in verdicts]
        return {"Level": level, "Resource": resource, "Instances": len(found), "Rules": rules}

    def _tested(self, verdict: Verdict, batch: Batch) -> dict[str, Any]:
        """Return how many instances a rule would send where: not those that came from there."""
        assignment, wanted = self._forwarder.engine.assignment, verdict.instances or ()
        own = {
            name: assignment.own_of(name, wanted, batch.origins, LOOK_UP_IN_ROUTE_SECONDS)
            for name in verdict.destinations
        }
        itself = [f"{len(found)} of {len(wanted)} came from {name} itself" for name, found in own.items() if found]
        return {
            "Name": verdict.rule.name,
            "Destinations": {
                name: len(assignment.may_go(verdict, found, batch.origins)) for name, found in own.items()
            },
            **self._changes(verdict),
            "Why": "; ".join([verdict.why, *itself]),
        }

    def _changes(self, verdict: Verdict) -> dict[str, Any]:
        """Return what a rule changes on the way, if it does, with the new values of one instance, or why it can't."""
        found = typing.cast("ForwardingRule", verdict.rule).changes
        if found is None or not verdict.destinations or not verdict.instances:
            return {}
        try:
            tags = self._forwarder.loopback.get(f"/instances/{verdict.instances[0]}/tags?short")
            found["Replace"] = {tag.name: value for tag, value in Changes.of(found).values(tags).items()}
        except UnchangedError as error:
            found["Error"] = str(error)
        return {"Modify": found}
