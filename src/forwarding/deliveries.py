# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of the forwarders: what was sent where and what came of it, and what a person may do about it."""

import calendar
import datetime
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.answers import Answer, Refused, Request, one_line, serve
from common.days import parse_day
from common.feed import PLURALS
from common.ledger import STATES
from common.loopback import LoopbackError
from common.parameters import IDENTIFIER, PAGE_PARAMETERS, Day, Flag, OneOf, Text, Texts, row_number, takes
from common.worker import repr_of
from forwarding.deletion import TO_DELETE
from forwarding.forwarder import TO_ROUTE, Forwarder
from forwarding.routing import Batch

FILTERS = {
    "state": "state=?",
    "destination": "queue=?",
    "job": "id IN (SELECT delivery FROM jobs WHERE job=?)",
    "resource": "subject=?",
    "study": "(subject=?1 OR json_extract(data, '$.Of')=?1)",
}


RESOURCE = {"Resource": IDENTIFIER, "Level": OneOf(choices=tuple(PLURALS))}


class Deliveries:
    """Handlers of `/<name>/…` over a forwarder and its ledger."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def register(self, refusal: str | None) -> None:
        """Register the routes; with a `refusal` (the configuration is wrong) they all answer 503 with it."""
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "status": {"GET": self.status},
            "deliveries": {"GET": self.page},
            "deliveries/retry": {"POST": self.retry_all},
            "deliveries/([0-9]+)": {"GET": self.one, "DELETE": self.drop},
            "deliveries/([0-9]+)/retry": {"POST": self.retry},
            "destinations": {"GET": self.destinations},
            "destinations/([^/]+)/(pause|resume)": {"POST": self.pause},
            "rules": {"GET": self.rules},
            "rules/test": {"POST": self.test},
            "send": {"POST": self.send},
            "backfill": {"POST": self.backfill},
        }
        for path, handlers in routes.items():
            serve(f"/{self._forwarder.name}/{path}", handlers, lambda: refusal or self._forwarder.worker.why_not())

    # To look at

    def status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, the number of rows in each state, the last error."""
        ledger = self._forwarder.ledger
        return {"State": "running", "Totals": ledger.totals(), "LastError": self._forwarder.worker.trouble.text}

    @takes({**PAGE_PARAMETERS, **dict.fromkeys(FILTERS, Text()), "state": OneOf(choices=STATES)})
    def page(self, request: Request) -> dict[str, Any]:
        """A page of rows, oldest first: `since` (the last row's id), `limit`, and filters by column."""
        query, ledger = request.parameters, self._forwarder.ledger
        since, limit = query.get("since", 0), query.get("limit", 100)
        chosen = {name: query[name] for name in FILTERS if name in query}
        where = " AND ".join(["1", *(FILTERS[name].replace("?1", "?") for name in chosen)])
        values = [value for name, value in chosen.items() for _ in range(2 if name == "study" else 1)]
        total = ledger.rows(f"SELECT COUNT(*) n FROM work WHERE {where}", *values)[0]["n"]
        rows = ledger.rows(f"SELECT * FROM work WHERE {where} AND id>? ORDER BY id LIMIT ?", *values, since, limit + 1)
        items = [_shown(row) for row in rows[:limit]]
        last = items[-1]["ID"] if len(rows) > limit else None
        return {"Total": total, "Totals": ledger.totals(), "Items": items, "Next": last}

    def one(self, request: Request) -> dict[str, Any]:
        """One row, with its failed attempts and its instances."""
        row = self._row(request)
        data = json.loads(row["data"])
        instances = data["Instances"]
        return {
            **_shown(row),
            "History": data.get("History", []),
            "InstanceIDs": None if instances is None else [*instances],
        }

    def destinations(self, _request: Request) -> dict[str, Any]:
        """The destinations that rules may name, whether each is away, paused, outside its hours, and what waits for it."""
        forwarder = self._forwarder
        sql = "SELECT queue, state, COUNT(*) n FROM work GROUP BY queue, state"
        counts: dict[str, dict[str, int]] = {}
        for row in forwarder.ledger.rows(sql):
            counts.setdefault(row["queue"], {})[row["state"]] = row["n"]
        return {
            name: {
                **forwarder.destination(name).shown(),
                "Paused": forwarder.is_paused(name),
                "Open": forwarder.is_open(name),
                "Totals": {state: counts.get(name, {}).get(state, 0) for state in STATES},
            }
            for name in forwarder.known()
        }

    def rules(self, _request: Request) -> dict[str, Any]:
        """The rules in their order, and whether the first that matches decides or all count."""
        return {
            "RuleMode": self._forwarder.settings.rule_mode,
            "Rules": [_rule(rule) for rule in self._forwarder.rules],
        }

    @takes(RESOURCE)
    def test(self, request: Request) -> dict[str, Any]:
        """What would happen to a resource and why, sending nothing: `{"Resource": …, "Level": "Study"}`."""
        level, resource = self._resource(request.parameters)
        path = f"/{PLURALS[level]}/{resource}/instances?expand=false"
        found = [one if isinstance(one, str) else one["ID"] for one in self._forwarder.loopback.get(path)]
        data = {"Level": level, "UID": "", "Instances": {one: [0, -1, ""] for one in found}, "Origins": []}
        batch: Batch = self._forwarder.batch_of(data, resource)
        known, every = list(self._forwarder.known()), self._forwarder.wanted()
        try:
            verdicts = self._forwarder.router.verdicts(batch, known, every)
        except LoopbackError:
            raise
        except Exception as error:
            raise Refused(422, f"A Matcher failed: {repr_of(error)}") from error
        return {
            "Level": level,
            "Resource": resource,
            "Instances": len(found),
            "Rules": [
                {
                    "Name": verdict.rule.name,
                    "Destinations": {
                        name: self._count(name, verdict.instances, batch) for name in verdict.destinations
                    },
                    "Why": verdict.why,
                }
                for verdict in verdicts
            ],
        }

    def _count(self, name: str, instances: tuple[str, ...] | None, batch: Batch) -> int:
        """How many would go there: not what came from it."""
        settings = self._forwarder.known()[name]
        return sum(not self._forwarder.kind.came_from(batch.origins.get(one, {}), settings) for one in instances or ())

    # To act on

    def drop(self, request: Request) -> dict[str, Any]:
        """Forget a row that is dead or waits; one that is being sent can't be called back."""
        row = self._row(request)
        if not self._forwarder.ledger.run("DELETE FROM work WHERE id=? AND state<>'sending'", row["id"]):
            raise Refused(409, f"Delivery {row['id']} is being sent; drop it when its job has ended")
        return _shown(row)

    def retry(self, request: Request) -> dict[str, Any]:
        """Try a row that is dead, or waits, again now, with the whole time until it is given up."""
        row = self._row(request)
        if not self._again("id=?", row["id"]):
            raise Refused(409, f"Delivery {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        return _shown(self._row(request))

    @takes({"Destination": Text()})
    def retry_all(self, request: Request) -> dict[str, Any]:
        """Try all dead rows of a destination again: `{"Destination": …}`."""
        name = self._destination(request.parameters.get("Destination"))
        return {"Retried": self._again("state='dead' AND queue=?", name)}

    def _again(self, which: str, value: Any) -> int:
        sql = "UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=? WHERE state IN ('dead','waiting') AND "
        count = self._forwarder.ledger.run(sql + which, time.time(), value)
        self._forwarder.wake.set()
        return count

    def pause(self, request: Request) -> dict[str, Any]:
        """Hold back, or go on with, all that waits for a destination; also over restarts."""
        name, action = self._destination(request.groups[0]), request.groups[1]
        self._forwarder.ledger.set_number(f"paused {name}", int(action == "pause"))
        if action == "resume":
            self._forwarder.resume(name)
        self._forwarder.wake.set()
        return {"Destination": name, "Paused": action == "pause"}

    @takes({**RESOURCE, "Destinations": Texts()})
    def send(self, request: Request) -> Answer:
        """Send a resource now, rules or not: `{"Resource": …, "Level": "Study", "Destinations": […]}`; 202 with the rows.

        Without `Destinations`, to those of the section.
        """
        level, resource = self._resource(request.parameters)
        given = request.parameters.get("Destinations")
        names = self._forwarder.destinations() if given is None else [self._destination(name) for name in given]
        if not names:
            raise Refused(400, "Destinations is missing, and there is none that everything goes to")
        with self._forwarder.ledger.transaction():
            rows = [self._forwarder.add(level, resource, name, None) for name in names]
        self._forwarder.wake.set()
        return Answer({"Deliveries": rows}, 202)

    @takes({"From": Day(), "To": Day(), "Destination": Text(), "DryRun": Flag()})
    def backfill(self, request: Request) -> Answer:
        """Send what the archive holds already: whole studies by StudyDate, `From` to `To`, both included; 202 with how many.

        `Destination` (one name, else all), `DryRun` (only count).
        """
        wanted = request.parameters
        first, last, dry = wanted.get("From"), wanted.get("To"), wanted.get("DryRun", False)
        if first is None or last is None or first > last:
            raise Refused(400, "From and To must be days as YYYYMMDD, From not after To")
        named = "Destination" in wanted
        targets = [self._destination(wanted["Destination"])] if named else self._forwarder.destinations()
        windows = _months(first, last) if self._forwarder.loopback.finds_all else [(first, last)]
        studies = [study for window in windows for study in self._studies_of(*window)]
        if not dry:
            for study in studies:
                with self._forwarder.ledger.transaction():
                    for destination in targets:
                        self._forwarder.add("Study", study, destination, None, -1)  # what arrives goes first
            self._forwarder.wake.set()
        number = len(studies) * len(targets)
        content = {"Studies": len(studies), "Destinations": targets, "Deliveries": number, "DryRun": dry}
        return Answer(content, 200 if dry else 202)

    def _studies_of(self, first: datetime.date, last: datetime.date) -> list[str]:
        query = {"Level": "Study", "Expand": True, "Query": {"StudyDate": f"{first:%Y%m%d}-{last:%Y%m%d}"}}
        loopback = self._forwarder.loopback
        found = loopback.post("/tools/find", query) if loopback.finds_all else self._all_studies()
        # Orthanc compares dates as text: look at each.
        days = ((study["ID"], parse_day(study["MainDicomTags"].get("StudyDate"))) for study in found)
        return [study for study, day in days if day and first <= day <= last]

    def _all_studies(self) -> Iterator[dict[str, Any]]:
        since = 0
        while page := self._forwarder.loopback.get(f"/studies?expand&since={since}&limit=500"):
            yield from page
            since += len(page)

    # What callers name

    def _row(self, request: Request) -> dict[str, Any]:
        number = request.groups[0]
        rows = self._forwarder.ledger.rows("SELECT * FROM work WHERE id=?", row_number(number))
        if not rows:
            raise Refused(404, f"There is no delivery {number[:20]}")
        return rows[0]

    def _destination(self, name: str | None) -> str:
        if name is None or name not in self._forwarder.known():
            raise Refused(
                400, f"Destination is {one_line(name)!r}, allowed: {', '.join(self._forwarder.known()) or 'none'}"
            )
        return str(name)

    def _resource(self, wanted: Mapping[str, Any]) -> tuple[str, str]:
        level, resource = wanted.get("Level", "Study"), wanted.get("Resource")
        if resource is None:
            raise Refused(400, f"Resource is missing, allowed: {IDENTIFIER.allowed}")
        try:
            self._forwarder.loopback.get(f"/{PLURALS[level]}/{resource}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            raise Refused(404, f"There is no {level} {resource}") from None
        return level, resource


def _months(first: datetime.date, last: datetime.date) -> Iterator[tuple[datetime.date, datetime.date]]:
    """The parts of a range that lie in one month: what one question asks of the archive stays small."""
    while first <= last:
        end = first.replace(day=calendar.monthrange(first.year, first.month)[1])
        yield first, min(end, last)
        first = end + datetime.timedelta(days=1)


def _rule(rule: Any) -> dict[str, Any]:
    return {
        "Name": rule.name,
        "Level": rule.level,
        "Destinations": None if rule.destinations is None else [*rule.destinations],
        "Query": rule.query,
        "Origin": {key: [*value] for key, value in vars(rule.origin).items() if value},
        "Matcher": rule.matcher,
        "Priority": rule.priority,
    }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    data = json.loads(row["data"])
    level, instances = data["Level"], data["Instances"]
    study = row["subject"] if level == "Study" else data.get("Of") if data.get("OfLevel") == "Study" else None
    return {
        "ID": row["id"],
        "Level": level,
        "Resource": row["subject"],
        "Study": study,
        "Task": {TO_ROUTE: "route", TO_DELETE: "delete"}.get(row["queue"], "send"),
        "Destination": None if row["queue"] in (TO_ROUTE, TO_DELETE) else row["queue"],
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": _utc(row["next_attempt"]) if row["state"] == "waiting" else None,
        "Error": row["error"],
        "Job": row["job"],
        "Instances": None if instances is None else len(instances),
        "Created": _utc(row["created"]),
        "Updated": _utc(row["updated"]),
    }


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
