# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes `/anonymize-series/…`."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from anonymize_series.anonymizer import Anonymizer
from anonymize_series.archive import Archive
from anonymize_series.patient_register import STUDY_CONDITIONS
from anonymize_series.settings import NAME, SECTION, names_of
from anonymize_series.tasks import ANONYMIZE, NO_RECIPE, RE_IDENTIFY, ROUTE, recipe_or_task
from common.ledger import STATES
from common.loopback import LoopbackError
from common.owed import register_owed
from common.pages import page_answer
from common.parameters import PAGE_PARAMETERS, OneOf, Text, WholeNumber, row_number, takes
from common.route_list import answers
from common.routes import Refused, Request, register_route
from common.status import Condition, ListedScript, condition_of, register_status, unused
from common.times import utc
from common.work import Which

NOT_UNDER_WAY = tuple(state for state in STATES if state != "sending")


class Routes:
    """Handlers of `/anonymize-series/…`."""

    def __init__(self, anonymizer: Anonymizer) -> None:
        self._anonymizer, self._archive = anonymizer, Archive(anonymizer.loopback)

    def register(self, refusal: str | None, *, is_unused: bool) -> ListedScript:
        """Register the routes, and return the script's entry.

        With a `refusal` (the configuration is wrong, or `is_unused`) they answer 503 with it.
        """
        worker = self._anonymizer.worker

        def unavailable() -> str | None:
            return refusal or worker.why_not()

        def look() -> Condition:
            return unused(refusal) if refusal and is_unused else condition_of(worker, refusal)

        script = register_status(NAME.replace("-", "_"), look, self.status, unavailable)
        identifier = "([0-9a-f-]+)"
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "jobs": {"GET": self.list_work},
            "jobs/([0-9]+)": {"GET": self.get_work, "DELETE": self.drop},
            "jobs/([0-9]+)/retry": {"POST": self.retry},
            "held": {"GET": self.held},
            "register": {"GET": self.studies},
            identifier: {"POST": self.anonymize},
            f"{identifier}/re-identify": {"POST": self.re_identify},
        }
        for pattern, handlers in routes.items():
            register_route(f"/{NAME}/{pattern}", handlers, unavailable)
        register_owed(NAME, self._anonymizer.owed, unavailable, is_unused=bool(refusal) and is_unused)
        return script

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, and how much work is in which state, held back, and in the register."""
        counts = self._anonymizer.register.counts()
        return {
            "Totals": self._anonymizer.ledger.totals(),
            **{name.capitalize(): number for name, number in counts.items()},
            "Recipes": list(self._anonymizer.settings.recipes),
        }

    @takes({**PAGE_PARAMETERS, "before": WholeNumber(), "state": OneOf(choices=STATES)})
    def list_work(self, request: Request) -> dict[str, Any]:
        """Return what was, is or will be done, oldest first after the id `since`, newest first `before` one: `limit`, `state`."""
        work, state, before = self._anonymizer.work, request.parameters.get("state"), request.parameters.get("before")
        which = Which(states=(state,)) if state else Which(not_task=ROUTE)
        return page_answer(
            request.parameters, work.count(which), lambda since, limit: work.page(which, since, limit, before), _shown
        )

    def get_work(self, request: Request) -> dict[str, Any]:
        """Return one piece of work: its state, what was made, its last error."""
        return _shown(self._row(request))

    @answers(409)
    def drop(self, request: Request) -> dict[str, Any]:
        """Give a piece of work up that waits or is dead."""
        row = self._row(request)
        if not self._anonymizer.work.remove(row["id"], NOT_UNDER_WAY):
            raise Refused(409, "It is being done just now")
        return {}

    @answers(409)
    def retry(self, request: Request) -> dict[str, Any]:
        """Try a piece of work again that is dead or waits."""
        row, work = self._row(request), self._anonymizer.work
        with self._anonymizer.ledger.transaction():
            if not work.retry(Which(ids=[row["id"]])):
                raise Refused(409, f"It is {row['state']}")
            work.change(row["id"], attempts=row["attempts"])  # if it fails again, it waits as long as before
        self._anonymizer.worker.wake.set()
        return {}

    @takes(PAGE_PARAMETERS)
    def held(self, request: Request) -> dict[str, Any]:
        """Return the instances that were held back, each with the reason: `?since=`, `?limit=`."""
        register = self._anonymizer.register
        return page_answer(request.parameters, register.counts()["held"], register.held, _shown_held)

    @takes(dict.fromkeys(STUDY_CONDITIONS, Text()))
    @answers(403)
    def studies(self, request: Request) -> dict[str, Any]:
        """Return which copy is whose, both ways (with `ReIdentify`): `?patient=`, `?study=`, `?pseudonym=` of either."""
        self._must_re_identify()
        if len(request.parameters) != 1:
            raise Refused(400, "allowed: one of patient, study, pseudonym")
        [(name, value)] = request.parameters.items()
        items = [
            {
                "PatientID": row["patient"],
                "Pseudonym": row["patient_pseudonym"],
                "StudyInstanceUID": row["original"],
                "PseudonymStudyInstanceUID": row["pseudonym"],
            }
            for row in self._anonymizer.register.studies(name, value)
        ]
        return {"Total": len(items), "Items": items, "Next": None}

    @takes({"Recipe": Text()})
    def anonymize(self, request: Request) -> dict[str, Any]:
        """De-identify a study or a series by a `Recipe`, whatever the rules say; return the work."""
        recipes = self._anonymizer.settings.recipes
        recipe = request.parameters.get("Recipe", next(iter(recipes)) if len(recipes) == 1 else None)
        if recipe not in recipes:
            raise Refused(400, f"Recipe is {json.dumps(recipe)[:60]}, allowed: {names_of(recipes)}")
        with self._anonymizer.turns.turn():
            found = self._found(request)
        return self._add(ANONYMIZE, recipe, *found)

    @answers(403, 409)
    def re_identify(self, request: Request) -> dict[str, Any]:
        """Take a result (a study, series or instance) back to the original study; return the work."""
        self._must_re_identify()
        with self._anonymizer.turns.turn():
            resource, level, instances = self._found(request)
            study_uid = self._archive.study_uid(instances[0])
        if self._anonymizer.register.study_of_copy(study_uid) is None:
            raise Refused(409, "The register knows no original of its study")
        return self._add(RE_IDENTIFY, NO_RECIPE, resource, level, instances)

    def _must_re_identify(self) -> None:
        if not self._anonymizer.settings.re_identify:
            raise Refused(403, f"{SECTION}.ReIdentify is false: nobody is told whose a copy is")

    def _found(self, request: Request) -> tuple[str, str, list[str]]:
        """Return the resource of a request, its level and its instances. Raises `Refused`: there is no such one."""
        resource = request.groups[0]
        try:
            level = self._archive.level_of(resource)
            instances = self._archive.instances(level, resource) if level else []
        except LoopbackError as error:
            raise Refused(503, f"Orthanc does not answer: {error}") from None
        if not level or not instances:
            raise Refused(404, f"There is no study, series or instance {resource}")
        return resource, level, instances

    def _add(self, task: str, recipe: str, resource: str, level: str, instances: list[str]) -> dict[str, Any]:
        row = self._anonymizer.ledger.add(recipe, resource, {"Level": level, "Instances": instances}, 1, task)
        self._anonymizer.worker.wake.set()
        return {"ID": row, "Path": f"/{NAME}/jobs/{row}", "Instances": len(instances)}

    def _row(self, request: Request) -> dict[str, Any]:
        row = self._anonymizer.work.get(row_number(request.groups[0]))
        if row is None:
            raise Refused(404, f"There is no work {request.groups[0][:20]}")
        return row


def _shown_held(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": row["number"],
        "Instance": row["instance"],
        "Recipe": row["recipe"],
        "Reason": row["reason"],
        "At": utc(row["at"]),
    }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    data = json.loads(row["data"])
    return {
        "ID": row["id"],
        "What": recipe_or_task(row),
        "Resource": row["subject"],
        "State": "partly" if row["state"] == "done" and data.get("HeldBack") else row["state"],
        "Attempts": row["attempts"],
        "Instances": len(data["Instances"]),
        "Copies": data.get("Copies"),
        "HeldBack": data.get("HeldBack", 0),
        "Error": row["error"],
        "Created": utc(row["created"]),
        "Updated": utc(row["updated"]),
    }
