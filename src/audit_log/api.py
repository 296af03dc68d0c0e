# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes: the lines, the newest of them, and the status."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from common.parameters import Text, WholeNumber, takes
from common.routes import Request
from common.times import parse_time, utc

from .lines import entries_between
from .recorder import Recorder


@dataclasses.dataclass(frozen=True)
class TimeOfLine(Text):
    """A day or a time; handlers get it in UTC, as lines have it."""

    allowed: str = "YYYYMMDD, or a time as 2024-01-31T12:00:00Z"

    def from_body(self, value: Any) -> Any:
        if (found := parse_time(value)) is None:
            raise ValueError(self.allowed)
        return utc(found.timestamp())


LINE_PARAMETERS: dict[str, Text] = {
    **dict.fromkeys(("patient", "study", "event"), Text()),
    **dict.fromkeys(("since", "until"), TimeOfLine()),
    "after": WholeNumber(),
    "limit": WholeNumber(least=1, most=1000),
}


@dataclasses.dataclass(frozen=True)
class LineFilter:
    """Which lines a request asks for; an empty text fits all."""

    patient: str
    study: str
    event: str
    since: str
    until: str

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> LineFilter:
        """Return the filter that parameters describe."""
        return cls(*(given.get(field.name, "") for field in dataclasses.fields(cls)))

    def needles(self) -> list[bytes]:
        """Return texts that each line holds."""
        return [json.dumps(value).encode() for value in (self.patient, self.study, self.event) if value]

    def includes(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a line is asked for."""
        return (
            self.patient in ("", entry.get("Patient"))
            and self.study in ("", entry.get("Study"), entry.get("StudyInstanceUID"))
            and self.event in ("", entry["Event"])
            and self.since <= entry["At"]
            and (not self.until or entry["At"] < self.until)
        )


class Routes:
    """Answers requests about the log."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs and watches requests, how many lines there are, and what waits to be written."""
        recorder = self._recorder
        found: dict[str, Any] = {
            "Lines": recorder.log.number,
            "WatchesRequests": recorder.watches_requests,
            "Waiting": recorder.waiting(),
        }
        if sender := recorder.sender:
            found["Syslog"] = {"To": sender.url, "Sent": sender.sent, "Owed": sender.owed()}
        return found

    def newest(self, _request: Request) -> dict[str, Any]:
        """Return the number and MAC of the newest line: kept elsewhere, it shows later whether the log was cut."""
        return {"Number": self._recorder.log.number, "Mac": self._recorder.log.mac}

    @takes(LINE_PARAMETERS)
    def page(self, request: Request) -> dict[str, Any]:
        """Return the lines, oldest first: `?patient=`, `?study=`, `?event=`, `?since=`, `?until=`, `?after=`, `?limit=`."""
        asked, after = LineFilter.of(request.parameters), request.parameters.get("after", 0)
        limit = request.parameters.get("limit", 100)
        total = 0
        items: list[dict[str, Any]] = []
        for entry in entries_between(self._recorder.folder, asked.since, asked.until, asked.needles()):
            if asked.includes(entry):
                total += 1
                if entry["Number"] > after and len(items) <= limit:
                    items.append(entry)
        more = len(items) > limit
        return {"Total": total, "Items": items[:limit], "Next": items[limit - 1]["Number"] if more else None}
