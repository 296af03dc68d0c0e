# SPDX-License-Identifier: AGPL-3.0-or-later
"""Speaks for all scripts of a combined file: `GET /scripts`, and `GET /scripts/health` for a probe."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from combine.runtime.log import Log
from combine.runtime.script import Script


class ScriptList:
    """What `/scripts` says: of a script that gave its own entries those, of another one what the runtime knows."""

    def __init__(self, scripts: list[Script], log: Log) -> None:
        self.scripts, self.log = scripts, log
        self.routes: dict[str, Callable[..., None]] = {
            "/scripts": self.answer_scripts,
            "/scripts/health": self.answer_health,
        }

    def entries(self) -> list[dict[str, Any]]:
        return [entry for script in self.scripts for entry in self.entries_of(script)]

    def entries_of(self, script: Script) -> list[dict[str, Any]]:
        try:
            if found := [entry for ask in script.entries for entry in ask()]:
                return found
        except Exception as error:  # noqa: BLE001 (one that can't say how it is never silences the others)
            return [known(script, f"it can't say how it is: {self.log.describe(error)}")]
        return [known(script, None if script.state == "loaded" else f"{script.state} to load: {script.error}")]

    def answer_scripts(self, output: Any, uri: str, **request: Any) -> None:
        """Answer `GET /scripts`."""
        if is_get(output, request):
            output.AnswerBuffer(json.dumps(self.entries(), indent=2) + "\n", "application/json")

    def answer_health(self, output: Any, uri: str, **request: Any) -> None:
        """Answer `GET /scripts/health`: 200, or 503 with the scripts that somebody has to look at."""
        if not is_get(output, request):
            return
        found = self.entries()
        unhealthy = [entry for entry in found if not entry["Healthy"]]
        fields = {"Healthy": not unhealthy, "Scripts": len(found), "Unhealthy": unhealthy}
        if not unhealthy:
            output.AnswerBuffer(json.dumps(fields, indent=2) + "\n", "application/json")
            return
        message = "; ".join(f"{entry['Name']}: {entry['Reason']}" for entry in unhealthy)
        error = {"HttpError": "Service Unavailable", "HttpStatus": 503, "Message": message, "Method": "GET", "Uri": uri}
        send_503(output, json.dumps({**fields, **error}, indent=2) + "\n")


def known(script: Script, reason: str | None) -> dict[str, Any]:
    """Return the entry of a script of which the runtime knows no more than whether it has loaded."""
    return {
        "Name": script.module,
        "State": "idle" if reason else "running",
        "Reason": reason,
        "Version": script.version,
        "Healthy": reason is None,
        "Routes": None,
        "Status": None,
    }


def is_get(output: Any, request: dict[str, Any]) -> bool:
    """Return whether a request is a GET; to another method it is answered which one is allowed."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
    return bool(request["method"] == "GET")


def send_503(output: Any, body: str) -> None:
    """Send a body with the status 503: plugin 4.0 and 4.1 want its length in bytes as a third argument."""
    try:
        output.SendHttpStatus(503, body)  # from plugin 4.2, which adds a Content-Type by itself
    except TypeError:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(503, body, len(body.encode()))
