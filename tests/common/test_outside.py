# SPDX-License-Identifier: AGPL-3.0-or-later
"""Scripts that call services of others, on a real Orthanc: without the package that needs, and while a service hangs."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.cmove_interceptor.conftest import destination, service
from tests.cmove_interceptor.helpers import SCRIPT, SUCCESS, Destination, Service, c_move, configuration, last

__all__ = ["destination", "service"]  # fixtures
MISSING = {"PYTHONPATH": "/nowhere"}


@pytest.fixture
def hanging() -> Iterator[str]:
    """A service that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_without_its_package_orthanc_moves_by_itself_and_one_line_says_what_to_install(
    start_briefly: StartOrthanc, destination: Destination, service: Service
) -> None:
    section = {"Notify": [{"Url": f"{service.url}/{{PatientID}}"}]}
    server = start_briefly(SCRIPT, configuration(destination, section), environment=MISSING)
    line = (
        "cmove_interceptor stays idle: it needs the Python package requests, 2.28 or newer (found none). Install it: "
    )
    assert server.wait_for_log(line).count(line) == 1
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    assert len(destination.received) == 1
    answer = server.request("GET", "/cmove-interceptor/status")
    assert answer.status_code == 503
    assert line in json.loads(answer.text)["Message"]
    assert service.requests == []
    assert "Traceback" not in server.log


def test_who_calls_nobody_runs_in_the_stock_container(start_briefly: StartOrthanc, destination: Destination) -> None:
    section = {"Rules": [{"Mode": "notify", "TargetAETs": ["NOBODY"]}]}
    server = start_briefly(SCRIPT, configuration(destination, section), environment=MISSING)
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    assert last(server)["State"] == "done"


def seconds_to_stop(server: OrthancServer) -> float:
    begin = time.monotonic()
    assert server.stop() == 0
    return time.monotonic() - begin


def test_orthanc_ends_in_time_while_services_and_a_peer_hang(
    start_orthanc: StartOrthanc, destination: Destination, hanging: str
) -> None:
    plain = start_orthanc(None, configuration(destination))
    url = f"{hanging}/{{PatientID}}"
    section = {
        "Mode": "fetch",
        "Fetch": {"From": ["peer:far"], "Seconds": 600},
        "Notify": [{"Url": url, "Timeout": 300}, {"Name": "after", "Url": url, "When": "after", "Timeout": 300}],
    }
    server = start_orthanc(SCRIPT, configuration(destination, section, OrthancPeers={"far": [hanging]}))
    server.store(make_study(patient_id="P1"))
    with ThreadPoolExecutor(1) as pool:
        move = pool.submit(c_move, server, "PATIENT", PatientID="P1")
        status = "/cmove-interceptor/status"
        server.wait_until(lambda: server.get(status)["Notifications"]["sending"] == 1, what="begin to notify")
        server.wait_until(lambda: server.get(status)["Totals"].get("moving") == 1, what="begin to fetch")
        without = seconds_to_stop(plain)
        assert seconds_to_stop(server) < without + 4
        move.exception()  # whatever it is that the caller sees
    assert "did not reach" not in server.log
    assert "Traceback" not in server.log
