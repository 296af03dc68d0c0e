# SPDX-License-Identifier: AGPL-3.0-or-later
"""No turn of a script's loop looks at what is finished: by the plans of all statements that it executes on a real Orthanc."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.constants import script_with

ROOT = Path(__file__).parent.parent
SECRET = "0123456789abcdef" * 2
TRACED = """
import json, sqlite3

def connect(*arguments, _connect=sqlite3.connect, **more):
    def note(statement):
        with open({log!r}, "a") as file:
            file.write(json.dumps(statement) + "\\n")

    found = _connect(*arguments, **more)
    found.set_trace_callback(note)
    return found

sqlite3.connect = connect
with open({script!r}) as file:
    exec(compile(file.read(), {script!r}, "exec"))
"""
NODE = {"DicomModalities": {"AWAY": ["AWAY", "127.0.0.1", 1]}}
RULES = {"Secret": SECRET, "Recipes": {"all": {}}, "Rules": [{"Destinations": ["all"]}]}
# Tables that hold what is finished, and what statements call them.
KEEPS_FINISHED = re.compile(r"^SCAN (work|w|o|jobs|requests|purges|p|studies|s)\b")


@pytest.mark.parametrize(
    ("name", "configuration"),
    [
        ("auto_forward_modality", NODE),
        ("auto_retries", {**NODE, "AutoRetries": {}}),
        ("anonymize_series", {"AnonymizeSeries": RULES}),
        ("purge_old_studies", {}),
        ("cmove_interceptor", {}),
    ],
)
def test_no_turn_scans_what_is_finished(
    start_briefly: StartOrthanc, tmp_path: Path, name: str, configuration: dict[str, object]
) -> None:
    log = tmp_path / "statements"
    path = ROOT / f"{name}.py"
    if name == "auto_forward_modality":
        path = script_with(path, {"FIRST_DELAY_SECONDS": 1.0})
    script = TRACED.format(log=str(log), script=str(path))
    server = start_briefly(script, {"StableAge": 1, "AutoForwardModality": {}, **configuration})
    route = f"/{name.replace('_', '-')}/status"
    server.wait_until(lambda: server.request("GET", route).status_code == 200, what="start")
    opened = len(log.read_text().splitlines())
    server.store(make_study())
    study = server.get("/studies")[0]
    if name == "auto_retries":
        server.post("/modalities/AWAY/store", {"Resources": [study], "Synchronous": False})
    time.sleep(12)  # two turns without an event, and more with some
    server.kill()
    statements = {json.loads(line) for line in log.read_text().splitlines()[opened:]}
    assert len(statements) > 3
    db = sqlite3.connect(server.folder / "storage" / f"{name}.sqlite")
    scans = {}
    for statement in statements:
        if statement.upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {statement}"):
                if KEEPS_FINISHED.match(detail):
                    scans[statement] = detail
    db.close()
    assert scans == {}
