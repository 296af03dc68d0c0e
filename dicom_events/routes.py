# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/routes.py: edit that, never this file.
"""The routes: the status, dead letters, orphaned brokers, and replay."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from ._common.catch_up import CATCH_UP_PARAMETERS
from ._common.http_threads import HttpTurns
from ._common.json_text import decoded
from ._common.loopback import LoopbackError
from ._common.parameters import PAGE_PARAMETERS, Moment, Text, row_number, takes
from ._common.route_list import answers
from ._common.routes import Answer, Refused, Request, one_line
from ._common.times import utc

from .pipeline import Pipeline

STUDY = "an Orthanc identifier or a StudyInstanceUID"


class Routes:
    """Handlers of requests. `pipeline` returns what is running, or raises `Refused`; who asks Orthanc has one of the `turns`."""

    def __init__(self, pipeline: Callable[[], Pipeline], turns: HttpTurns) -> None:
        self._pipeline, self._turns = pipeline, turns

    def get_status(self, _request: Request) -> dict[str, Any]:
        """The outbox, and each broker: backlog, seconds that the oldest event waits, rate, totals, last error."""
        return self._pipeline().status()

    # Dead letters

    @takes({**PAGE_PARAMETERS, "broker": Text()})
    def get_dead_letters(self, request: Request) -> dict[str, Any]:
        """A page of what brokers did not take, oldest first: `since` (the last ID), `limit`, `broker`."""
        since, limit = request.parameters.get("since", 0), request.parameters.get("limit", 100)
        broker = self._checked(request.parameters.get("broker"))
        letters = self._pipeline().outbox.letters
        total, rows = letters.count_dead(broker), letters.dead_page(broker, since, limit + 1)
        items = [_shown(row) for row in rows[:limit]]
        return {"Total": total, "Items": items, "Next": items[-1]["ID"] if len(rows) > limit else None}

    def get_dead_letter(self, request: Request) -> dict[str, Any]:
        """One of them, with its data."""
        row = self._letter(request)
        return {**_shown(row), "Data": _decoded(row["data"]) if row["data"] else None}

    def drop_dead_letter(self, request: Request) -> dict[str, Any]:
        """Forget it."""
        row = self._letter(request)
        self._pipeline().outbox.letters.drop_dead(row["id"])
        return _shown(row)

    def retry_one(self, request: Request) -> dict[str, Any]:
        """Try it again now."""
        row = self._letter(request)
        self._pipeline().retry_letters(letter=row["id"])
        return _shown(row)

    @takes({"Broker": Text()})
    def retry_all(self, request: Request) -> dict[str, Any]:
        """Try all of them again, or those of one: `{"Broker": …}`."""
        return {"Retried": self._pipeline().retry_letters(self._checked(request.parameters.get("Broker")))}

    def _letter(self, request: Request) -> dict[str, Any]:
        row = self._pipeline().outbox.letters.dead(row_number(request.groups[0]))
        if not row:
            raise Refused(404, f"There is no dead letter {request.groups[0][:20]}")
        return row

    def _checked(self, broker: str | None) -> str | None:
        """Return the name of a broker that has a place, or None. Raises `Refused` for another name."""
        names = self._pipeline().broker_names()
        if broker is not None and broker not in names:
            raise Refused(400, f"The broker is {one_line(broker)!r}, allowed: {', '.join(names)}")
        return broker

    # Brokers

    @answers(409)
    def drop_broker(self, request: Request) -> dict[str, Any]:
        """Drop what waits for a broker that is not configured any more: backlog, dead letters and its place."""
        pipeline, given = self._pipeline(), request.groups[0]
        outbox = pipeline.outbox
        orphans, configured = outbox.places.orphans.names(), [each.name for each in pipeline.publishers]
        # Whether a path arrives decoded depends on the web server.
        name = next((each for each in (given, urllib.parse.unquote(given)) if each in (*orphans, *configured)), None)
        if name is None:
            raise Refused(404, f"There is no broker {one_line(given)}; orphaned are: {', '.join(orphans) or 'none'}")
        if name in configured:
            raise Refused(409, f"The broker {name} is configured: take it out of the configuration first")
        status = outbox.orphan_status(name, *orphans[name])
        outbox.places.drop(name)
        return {"Broker": name, **status, "State": "dropped"}

    # Replay

    @takes({"Study": Text(STUDY, "[0-9a-f.-]{1,64}"), "From": Moment(), "To": Moment()})
    @answers(202, 404)
    def replay(self, request: Request) -> Answer:
        """Publish again from what Orthanc has: `{"Study": …}`, or `{"From": …, "To": …}`; 202 with how many studies.

        `Study` is an Orthanc identifier or a StudyInstanceUID; `From` and `To` are days (2026-01-31, from 0:00 UTC) or times
        (2026-01-31T13:00:00Z), `To` not included, between which the study last changed.
        """
        replay = self._pipeline().maintainer.replay
        with self._turns.turn():
            studies = self._wanted_studies(request.parameters)
        replay.start(studies)
        return Answer({"Studies": len(studies)}, 202)

    @takes(CATCH_UP_PARAMETERS)
    def catch_up(self, request: Request) -> Answer:
        """Publish what was received since a time and before the outbox was made: `{"Since": …}`; a dry run first.

        `Since` is a day or a time with its zone. With `"DryRun": false` it begins, 202; else it is counted only.
        """
        pipeline = self._pipeline()
        with self._turns.turn():
            return pipeline.maintainer.catch_up.ask(request)

    def catch_up_state(self, _request: Request) -> dict[str, Any]:
        """Return whether a catch-up is under way, and how many changes are left to read."""
        return self._pipeline().maintainer.catch_up.state()

    def _wanted_studies(self, wanted: Mapping[str, Any]) -> list[str]:
        if wanted.keys() == {"Study"}:
            return self._find_study(wanted["Study"])
        if wanted.keys() != {"From", "To"}:
            raise Refused(400, "Give either Study, or From and To")
        if wanted["From"] >= wanted["To"]:
            raise Refused(400, "From must be before To")
        return self._pipeline().maintainer.replay.changed_between(wanted["From"], wanted["To"])

    def _find_study(self, study: str) -> list[str]:
        replay = self._pipeline().maintainer.replay
        if "-" in study:
            try:
                return replay.with_identifier(study)
            except LoopbackError as error:
                raise Refused(404 if error.status == 404 else 503, f"There is no study {study}: {error}") from None
        found = replay.with_uid(study)
        if not found:
            raise Refused(404, f"There is no study {study}")
        return found


HANDLERS: dict[str, dict[str, Callable[[Routes, Request], Any]]] = {
    "/dicom-events/dead-letters": {"GET": Routes.get_dead_letters},
    "/dicom-events/dead-letters/retry": {"POST": Routes.retry_all},
    "/dicom-events/dead-letters/([0-9]+)": {"GET": Routes.get_dead_letter, "DELETE": Routes.drop_dead_letter},
    "/dicom-events/dead-letters/([0-9]+)/retry": {"POST": Routes.retry_one},
    "/dicom-events/brokers/(.+)": {"DELETE": Routes.drop_broker},
    "/dicom-events/replay": {"POST": Routes.replay},
    "/dicom-events/catch-up": {"GET": Routes.catch_up_state, "POST": Routes.catch_up},
}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": row["id"],
        "Broker": row["broker"],
        "Event": row["uid"],
        "Type": row["type"],
        "Subject": row["subject"],
        "Time": utc(row["created"]),
        "Attempts": row["attempts"],
        "Error": row["error"],
        "Since": utc(row["updated"]),
    }


def _decoded(data: str) -> Any:
    """Return the data of an event; as text, where the first version took what is nested too deep for a thread of Orthanc's."""
    try:
        return decoded(data)
    except ValueError:
        return data
