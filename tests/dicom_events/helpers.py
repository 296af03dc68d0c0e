# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests of dicom_events/ read of its files, its routes and its outbox."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from pathlib import Path
from typing import Any

import jsonschema
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from testing.server import OrthancServer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "dicom_events" / "__init__.py"
SCHEMA = json.loads((ROOT / "docs" / "dicom_events.schema.json").read_text())
ALL_EVENTS = dict.fromkeys(
    [
        *(f"{what}{level}" for what in ("New", "Stable", "Deleted") for level in ("Patient", "Study", "Series")),
        *("DeletedInstance", "StoredInstance", "UpdatedMetadata", "UpdatedAttachment", "JobSuccess", "JobFailure"),
        *("OrthancStarted", "OrthancStopped", "UpdatedModalities", "UpdatedPeers"),
    ],
    True,
)
# Long enough that nothing becomes stable while the script of these tests runs.
NEVER_STABLE = {"StableAge": 3600}


def events(server: OrthancServer, name: str = "dicom_events.jsonl") -> list[dict[str, Any]]:
    """All that the `file` broker has written, in order; a line that is being written is left out."""
    folder = server.folder / "storage"
    files = [*sorted(folder.glob(f"{name}.*"), key=lambda path: -int(path.suffix[1:])), folder / name]
    text = "".join(path.read_text() for path in files if path.exists())
    return [json.loads(line) for line in text.split("\n")[:-1]]


def of_type(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in found if event.get("type", event.get("identity")) == kind]


def wait_for(server: OrthancServer, kind: str, number: int = 1, timeout: float = 30) -> list[dict[str, Any]]:
    def enough() -> list[dict[str, Any]]:
        found = of_type(events(server), kind)
        return found if len(found) >= number else []

    return list(server.wait_until(enough, timeout, f"{number} events {kind}"))


def check(event: dict[str, Any]) -> None:
    """A CloudEvent by the package's own reading, with data as the schema says."""
    assert isinstance(JSONFormat().read(None, json.dumps(event)), CloudEvent)
    validator(event["type"]).validate(event["data"])


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{kind}"})


def rows(server: OrthancServer, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "dicom_events.sqlite")) as db, db:
        return list(db.execute(sql))


OWN = """
import json
import dicom_events
import orthanc

def hello(output, uri, **request):
    try:
        uid = dicom_events.publish(**json.loads(request["body"]))
        output.AnswerBuffer(json.dumps(uid), "application/json")
    except ValueError as error:
        output.AnswerBuffer(json.dumps(str(error)), "application/json")

orthanc.RegisterRestCallback("/hello", hello)
"""
