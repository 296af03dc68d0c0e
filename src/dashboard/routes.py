# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes `/dashboard…`."""

from __future__ import annotations

from typing import Any

from common.parameters import WholeNumber, takes
from common.route_list import answers
from common.routes import Answer, Refused, Request, register_route
from common.status import ListedScript, register_status

from .files import FILE_HEADERS, FILES, FILES_HASH, PAGE, PAGE_HEADERS
from .service import Dashboard
from .settings import NAME


class Routes:
    """Handlers of `/dashboard…`."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    def register(self, refusal: str | None) -> ListedScript:
        """Register the routes, which answer 503 with a `refusal` (the configuration is wrong); return the script's entry."""
        worker = self._dashboard.worker

        def unavailable() -> str | None:
            return refusal or worker.why_not()

        def misconfigured_only() -> str | None:
            return refusal

        script = register_status(
            NAME, lambda: self._dashboard.condition(refusal), self.status, unavailable, routes=f"/{NAME}/routes"
        )
        register_route(f"/{NAME}", {"GET": self.page}, misconfigured_only)
        register_route(f"/{NAME}/files/([^/]+)/(.+)", {"GET": self.file}, misconfigured_only)
        register_route(f"/{NAME}/summary", {"GET": self.summary}, unavailable)
        register_route(f"/{NAME}/flow", {"GET": self.flow}, unavailable)
        register_route(f"/{NAME}/may-act", {"POST": self.may_act}, misconfigured_only)
        return script

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, whether it shows buttons, and how many minutes of the last day it has."""
        return {
            "Totals": {"minutes": len(self._dashboard.minutes.since(0)["Minute"])},
            "Actions": self._dashboard.settings.actions,
        }

    @answers(media=("text/html",))
    def page(self, _request: Request) -> Answer:
        """Return the page: open it in a browser."""
        return Answer(PAGE, mime="text/html; charset=utf-8", headers=PAGE_HEADERS)

    @answers(media=("text/javascript", "text/css", "image/svg+xml", "text/plain"))
    def file(self, request: Request) -> Answer:
        """Return a file of the page: its code, its style, a library."""
        version, name = request.groups
        if version != FILES_HASH or name not in FILES:
            raise Refused(404, "There is no such file of the page; load the page again")
        mime, text = FILES[name]
        return Answer(text, mime=mime, headers=FILE_HEADERS)

    def summary(self, _request: Request) -> dict[str, Any]:
        """Return the first view as JSON: what flows, what is stuck, destinations, scripts, and what needs a person."""
        return self._dashboard.summary()

    @takes({"since": WholeNumber()})
    def flow(self, request: Request) -> dict[str, Any]:
        """Return each minute of the last day, or those from `since` on (minutes since 1970), as columns."""
        return self._dashboard.minutes.since(request.parameters.get("since", 0))

    def may_act(self, _request: Request) -> dict[str, Any]:
        """Do nothing: 200 for who may act by the page's buttons, else 403."""
        if not self._dashboard.settings.actions:
            raise Refused(403, 'The page only shows ("Dashboard": {"Actions": false})')
        return {"Actions": True}
