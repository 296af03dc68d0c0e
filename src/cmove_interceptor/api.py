# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes: requests, services, and the status."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from common.pages import page_answer
from common.parameters import PAGE_PARAMETERS, Text, WholeNumber, takes
from common.route_list import answers
from common.routes import Refused, Request, one_line
from common.times import utc, utc_or_none

from .interceptor import Interceptor


class Routes:
    """Answers requests about moves and notifications."""

    def __init__(self, interceptor: Interceptor, mode: str) -> None:
        self._interceptor, self._mode = interceptor, mode

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, how many requests and notifications there are in each state."""
        notifier = self._interceptor.notifier
        return {
            "Totals": self._interceptor.records.totals(),
            "Mode": self._mode,
            "PausedJobs": self._interceptor.slots.held(),
            "Notifications": notifier.totals(),
            "Services": notifier.services(),
        }

    @takes({**PAGE_PARAMETERS, "before": WholeNumber(), "state": Text()})
    def requests(self, request: Request) -> dict[str, Any]:
        """Return requests and what came of them, oldest first after `since`, newest first `before` an id: `limit`, `state`."""
        records, state = self._interceptor.records, request.parameters.get("state")
        before = request.parameters.get("before")
        return page_answer(
            request.parameters,
            records.count(state),
            lambda since, limit: records.page(since, limit, state, before),
            self._item,
        )

    def _item(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "ID": row["id"],
            "RequestID": row["name"],
            "Request": json.loads(row["fields"]),
            "Mode": row["mode"],
            "State": row["state"],
            **json.loads(row["result"]),
            "Notifications": self._interceptor.notifier.of_request(row["name"]),
            "Created": utc(row["created"]),
            "Ended": utc_or_none(row["ended"]),
        }

    @answers(409)
    def drop_service(self, request: Request) -> dict[str, Any]:
        """Drop what waits for a service that is not configured any more."""
        notifier = self._interceptor.notifier
        given, services = request.groups[0], notifier.services()
        # Whether a path arrives decoded depends on the web server.
        name = next((each for each in (given, urllib.parse.unquote(given)) if each in services), None)
        if name is None:
            orphaned = ", ".join(notifier.orphans.names()) or "none"
            raise Refused(404, f"There is no service {one_line(given)}; orphaned are: {orphaned}")
        if services[name]["State"] != "orphaned":
            raise Refused(409, f"The service {name} is configured: take it out of the configuration first")
        notifier.drop(name)
        return {"Service": name, **services[name], "State": "dropped"}
