# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes `/auto-retries/…`."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from auto_retries.retrier import Retrier
from auto_retries.settings import NAME
from common.ledger import STATES
from common.owed import register_owed
from common.pages import page_answer
from common.parameters import PAGE_PARAMETERS, OneOf, Text, row_number, takes
from common.route_list import answers
from common.routes import Refused, Request, register_route
from common.status import ListedScript, condition_of, register_status
from common.times import utc
from common.work import Which, next_attempt_of

NOT_UNDER_WAY = tuple(state for state in STATES if state != "sending")


class Routes:
    """Handlers of `/auto-retries/…`."""

    def __init__(self, retrier: Retrier) -> None:
        self._retrier = retrier

    def register(self, refusal: str | None) -> ListedScript:
        """Register the routes, which answer 503 with a `refusal` (the configuration is wrong); return the script's entry."""
        worker = self._retrier.worker

        def unavailable() -> str | None:
            return refusal or worker.why_not()

        name = NAME.replace("-", "_")
        script = register_status(name, lambda: condition_of(worker, refusal), self.status, unavailable)
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "jobs": {"GET": self.list_jobs},
            "jobs/([0-9]+)": {"GET": self.get_job, "DELETE": self.drop_job},
            "jobs/([0-9]+)/retry": {"POST": self.retry_job},
            "jobs/retry": {"POST": self.retry_jobs},
        }
        for path, handlers in routes.items():
            register_route(f"/{NAME}/{path}", handlers, unavailable)
        register_owed(NAME, self._retrier.owed, unavailable)
        return script

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, how many jobs are in each state, watched, missed, and the types it watches."""
        return {
            "Totals": self._retrier.ledger.totals(),
            "Types": list(self._retrier.settings.types),
            "Watched": self._retrier.watched.count(),
            "Missed": self._retrier.failures.missed,
        }

    @takes({**PAGE_PARAMETERS, "state": OneOf(choices=STATES), "destination": Text(), "job": Text()})
    def list_jobs(self, request: Request) -> dict[str, Any]:
        """Return a page of the jobs that failed, oldest first: `since`, `limit`, and filters."""
        filters, work = request.parameters, self._retrier.work
        states = (filters["state"],) if "state" in filters else None
        which = Which(states=states, queue=filters.get("destination"), job_or_resource=filters.get("job"))
        return page_answer(filters, work.count(which), lambda since, limit: work.page(which, since, limit), _shown)

    def get_job(self, request: Request) -> dict[str, Any]:
        """Return one job: what is submitted, and its last attempts."""
        row = self._row(request)
        data = json.loads(row["data"])
        return {**_shown(row), "Body": data["Body"], "History": data.get("History", [])}

    @answers(409)
    def drop_job(self, request: Request) -> dict[str, Any]:
        """Don't run it again; what is running now is Orthanc's (`/jobs/{id}/cancel`)."""
        row = self._row(request)
        if not self._retrier.work.remove(row["id"], NOT_UNDER_WAY):
            raise Refused(409, f"Job {row['id']} is running as {row['job']}; cancel that, then drop this")
        return _shown(row)

    @answers(409)
    def retry_job(self, request: Request) -> dict[str, Any]:
        """Run one that is dead, or waits, again now, with the whole time until it is given up."""
        row = self._row(request)
        if not self._retry(Which(ids=[row["id"]])):
            raise Refused(409, f"Job {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        return _shown(self._row(request))

    @takes({"Destination": Text()})
    def retry_jobs(self, request: Request) -> dict[str, Any]:
        """Run all dead ones of a `Destination` again now; without one, all."""
        return {"Retried": self._retry(Which(states=("dead",), queue=request.parameters.get("Destination")))}

    def _retry(self, which: Which) -> int:
        retried = self._retrier.work.retry(which)
        self._retrier.worker.wake.set()
        return retried

    def _row(self, request: Request) -> dict[str, Any]:
        row = self._retrier.work.get(row_number(request.groups[0]))
        if row is None:
            raise Refused(404, f"There is no job {request.groups[0][:20]} here")
        return row


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": row["id"],
        "Type": json.loads(row["data"])["Type"],
        "Destination": row["queue"],
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": next_attempt_of(row),
        "Error": row["error"],
        "Job": row["job"],
        "FirstJob": row["subject"],
        "Created": utc(row["created"]),
        "Updated": utc(row["updated"]),
    }
