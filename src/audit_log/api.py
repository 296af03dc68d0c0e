# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes: the lines, the newest of them, and the status."""

from __future__ import annotations

import dataclasses
from typing import Any

from common.parameters import Text, WholeNumber, takes
from common.routes import Request
from common.times import parse_time, utc

from .recorder import Recorder
from .search import LineFilter


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
        given = request.parameters
        return self._recorder.log.index.page(LineFilter.of(given), given.get("after", 0), given.get("limit", 100))
