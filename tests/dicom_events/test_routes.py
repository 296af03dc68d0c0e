# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events on a real Orthanc: what its routes replay, show and refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dicom_events.helpers import SCRIPT, check, events, of_type, wait_for


def test_the_status_tells_backlog_rate_and_last_error_of_each_broker(shared: OrthancServer) -> None:
    status = shared.wait_until(
        lambda: (s := shared.get("/dicom-events/status")) and not s["Brokers"]["file"]["Backlog"] and s
    )
    assert status["State"] == "running"
    broker = status["Brokers"]["file"]
    assert (broker["State"], broker["Backlog"], broker["OldestSeconds"], broker["LastError"]) == (
        "connected",
        0,
        None,
        None,
    )
    assert broker["Published"] == len(events(shared))
    assert broker["Rate"] > 0


def test_a_study_is_told_again_on_demand_with_the_same_ids(start_orthanc: StartOrthanc) -> None:
    started = datetime.now(UTC) - timedelta(seconds=2)
    server = start_orthanc(SCRIPT)
    server.store(make_study(patient_id="A", instances=3))
    server.store(make_study(patient_id="B", instances=3))
    wait_for(server, "dicom.patient.stable", 2)
    first = {event["id"]: event for event in of_type(events(server), "dicom.instance.stored")}
    study = server.get("/studies?expand")[0]
    for name in (study["ID"], study["MainDicomTags"]["StudyInstanceUID"]):
        assert server.post("/dicom-events/replay", {"Study": name}) == {"Studies": 1}
    wait_for(server, "dicom.patient.stable", 4)
    hour = timedelta(hours=1)
    between = {"From": started.isoformat(), "To": (started + hour).isoformat()}
    assert server.post("/dicom-events/replay", between) == {"Studies": 2}
    assert server.post("/dicom-events/replay", {"From": (started + hour).isoformat(), "To": (started + 2 * hour).isoformat()}) == {"Studies": 0}  # fmt: skip # noqa: E501
    wait_for(server, "dicom.patient.stable", 6)
    found = of_type(events(server), "dicom.instance.stored")
    assert len(found) == 6 + 2 * 3 + 6
    assert {event["id"] for event in found} == first.keys()
    for event in found:
        check(event)
        assert event["data"]["orthanc"] == first[event["id"]]["data"]["orthanc"]
        assert event["data"]["origin"] == first[event["id"]]["data"]["origin"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "about"),
    [
        ("POST", "replay", {}, 400, "Study"),
        ("POST", "replay", {"Study": "x y"}, 400, "Study"),
        ("POST", "replay", {"Study": "1.2.3"}, 404, "1.2.3"),
        ("POST", "replay", {"Study": "b9c08539-26f93bde-c81ab0d7-bffaf2cb-a4d0bdd0"}, 404, "b9c08539"),
        ("POST", "replay", {"Study": "1.2.3", "From": "2026-01-01T00:00:00Z"}, 400, "either"),
        ("POST", "replay", {"From": "2026-01-01T00:00:00", "To": "2026-01-02"}, 400, "zone"),
        ("POST", "replay", {"From": "2026-01-02T00:00:00Z", "To": "2026-01-01T00:00:00Z"}, 400, "before"),
        ("POST", "replay", {"Since": 1}, 400, "Since"),
        ("GET", "dead-letters?limit=0x10", None, 400, "limit"),
        ("GET", "dead-letters?broker=nobody", None, 400, "nobody"),
        ("GET", "dead-letters/1", None, 404, "1"),
        ("POST", "dead-letters/1/retry", {}, 404, "1"),
        ("POST", "dead-letters/retry", {"Broker": "nobody"}, 400, "nobody"),
        ("DELETE", "status", None, 405, ""),
    ],
)
def test_a_mistake_of_the_caller_is_told_and_nothing_happens(
    shared: OrthancServer, method: str, path: str, body: Any, status: int, about: str
) -> None:
    answer = shared.request(method, f"/dicom-events/{path}", json=body)
    assert answer.status_code == status
    assert status == 405 or about in answer.json()["Message"]


def test_a_page_of_a_stranger_replays_nothing(shared: OrthancServer) -> None:
    answer = shared.request("POST", "/dicom-events/replay", json={}, headers={"Origin": "http://elsewhere"})
    assert answer.status_code == 403
