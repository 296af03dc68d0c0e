# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/openapi.json is what a server with all scripts has, and each answer is as it says, whatever is asked."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from docs.openapi import FILE, document, words_of
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer
from tests.every_script.all_scripts import combined, configuration
from tests.scripts import ROOT

IS_LONG = "OPENAPI_LONG" in os.environ  # each bound of each parameter, and more at random (`make test-all`)
PHASES, EXAMPLES = ("examples,coverage,fuzzing", 20) if IS_LONG else ("examples,fuzzing", 1)
SECONDS = 1200 if IS_LONG else 150  # that it may take; alone on two cores it takes a tenth
FOR_ALL = ("/scripts", "/scripts/health")  # of the runtime of a combined file
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
SETTINGS = """
workers = 1
continue-on-failure = true
request-timeout = 60
headers = {{ User-Agent = "curl/8" }}  # a program in a person's hands: what it asks for is done
warnings = false
hooks = "tests.every_script.openapi_hooks"

[cache]
enabled = false

[generation]
deterministic = true
database = "none"
max-examples = {examples}
no-shrink = true
with-security-parameters = false

[phases.stateful]
enabled = false

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreScp]:
    scp = StoreScp(tmp_path_factory.mktemp("openapi") / "storescp")
    yield scp
    scp.close()


@pytest.fixture(scope="module")
def everything(
    start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory, node: StoreScp
) -> OrthancServer:
    """All scripts combined, and some studies. The last test of this module deletes and sends them."""
    server = start_orthanc_for_module(combined(tmp_path_factory.mktemp("combined")), configuration(node.as_modality()))
    for number in range(3):
        server.store(make_study(patient_id=f"P{number}", study_date="20200101", instances=2))
    return server


def test_it_is_valid_and_what_the_scripts_give() -> None:
    found = json.loads(FILE.read_text())
    validate(found)
    assert found == document()


def test_it_has_every_route_that_the_server_has_and_no_other(everything: OrthancServer) -> None:
    routes = [route for script in everything.get("/scripts") for route in everything.get(script["Routes"])]
    registered = {f"{route['Method']} {words_of(route['Path'])}" for route in routes}
    registered |= {f"GET {path}" for path in FOR_ALL if everything.request("GET", path).status_code in (200, 503)}
    described = {
        f"{method.upper()} {words_of(path)}"
        for path, operations in json.loads(FILE.read_text())["paths"].items()
        for method in operations
    }
    assert described == registered


def test_each_operation_says_what_it_does() -> None:
    operations = [each for path in document()["paths"].values() for each in path.values()]
    assert [each["operationId"] for each in operations if not each["summary"]] == []
    assert len({each["operationId"] for each in operations}) == len(operations)


def with_examples(described: dict[str, Any], server: OrthancServer) -> dict[str, Any]:
    """Return the document with identifiers of what is here as examples: else all would be 404."""
    found = copy.deepcopy(described)
    here = [server.get(f"/{level}")[0] for level in ("studies", "series", "instances", "patients")]
    for operation in (each for path in found["paths"].values() for each in path.values()):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path" and "enum" not in parameter["schema"]:
                is_number = parameter["schema"]["pattern"] == "^[0-9]+$"
                parameter["schema"]["examples"] = ["1"] if is_number else here
    return found


@pytest.mark.timeout(SECONDS + 60)
def test_whatever_is_asked_the_answer_is_as_it_says(everything: OrthancServer, tmp_path: Path) -> None:
    asked = tmp_path / "openapi.json"
    asked.write_text(json.dumps(with_examples(json.loads(FILE.read_text()), everything)))
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS.format(examples=EXAMPLES))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", str(asked)]
    command += ["--url", f"http://127.0.0.1:{everything.http_port}", "--checks", ",".join(CHECKS), "--phases", PHASES]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    everything.assert_not_logged("please report")
    everything.assert_not_logged("Traceback")
    assert everything.running
