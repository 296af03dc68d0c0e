# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries.py on a real Orthanc: its routes and its settings."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer, start_process
from tests.auto_retries.helpers import NEVER_BY_ITSELF, SCRIPT, failed, get, jobs, knowing, send, states, store_study


def test_when_its_time_is_over_it_is_dead_until_a_person_retries_or_drops_it(
    start_orthanc: StartOrthanc, storescp: StoreScp
) -> None:
    storescp.stop()
    refusing = start_process([storescp._program, "--refuse", str(storescp.port)], log=storescp.folder / "refusing.log")
    source = start_orthanc(SCRIPT, knowing(storescp, Retry={"GiveUpHours": 2 / 3600}))
    for patient in "ABC":
        send(source, store_study(source, patient_id=patient), storescp.aet)
    source.wait_until(lambda: states(source) == ["dead"] * 3, what="give up")
    assert all(1 < item["Attempts"] < 6 for item in jobs(source))
    first, second, third = (item["ID"] for item in jobs(source))
    assert source.log.count(f"Given up; POST /auto-retries/jobs/{first}/retry runs it again") == 1
    last = source.get("/auto-retries/status")["LastError"]
    assert f"DicomModalityStore to {storescp.aet} (job " in last["Text"]
    assert re.search(r" failed \(attempt [0-9]+\): \S", last["Text"])
    refusing.kill()
    refusing.wait()
    storescp.start()
    source.post(f"/auto-retries/jobs/{first}/retry")
    source.delete(f"/auto-retries/jobs/{second}")
    source.wait_until(lambda: states(source) == ["done", "dead"], what="run the first again")
    assert source.post("/auto-retries/jobs/retry", {"Destination": "ELSEWHERE"}) == {"Retried": 0}
    assert source.post("/auto-retries/jobs/retry", {"Destination": storescp.aet}) == {"Retried": 1}
    source.wait_until(lambda: states(source) == ["done", "done"], what="run the third again")
    assert len(list(storescp.folder.glob("CT*"))) == 2
    assert source.request("POST", f"/auto-retries/jobs/{third}/retry").status_code == 409

    def metrics() -> str:
        return str(source.get("/tools/metrics-prometheus"))

    source.wait_until(lambda: "auto_retries_done 2" in metrics(), what="measure")
    assert "auto_retries_dead 0" in metrics()


@pytest.fixture(scope="module")
def idle_retrier(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    server = start_orthanc_for_module(SCRIPT)
    get(server, "/auto-retries/status")
    return server


@pytest.mark.parametrize(
    ("query", "named"),
    [("state=asleep", "state"), ("limit=1001", "limit"), ("since=-1", "since"), ("sate=done", "sate")],
)
def test_a_wrong_parameter_is_a_400_that_names_it(idle_retrier: OrthancServer, query: str, named: str) -> None:
    answer = idle_retrier.request("GET", f"/auto-retries/jobs?{query}")
    assert answer.status_code == 400
    assert named in answer.json()["Message"]


@pytest.mark.parametrize(
    ("body", "named"), [("[]", "object"), ('{"Node": "A"}', "Node"), ('{"Destination": 1}', "text")]
)
def test_a_wrong_request_to_retry_all_is_a_400_that_names_it(
    idle_retrier: OrthancServer, body: str, named: str
) -> None:
    answer = idle_retrier.request("POST", "/auto-retries/jobs/retry", data=body)
    assert answer.status_code == 400
    assert named in answer.json()["Message"]


def test_unknown_jobs_are_404_wrong_methods_405_and_strangers_403(idle_retrier: OrthancServer) -> None:
    assert idle_retrier.request("GET", "/auto-retries/jobs/99999999999999999999").status_code == 404
    assert idle_retrier.request("POST", "/auto-retries/jobs/7/retry").status_code == 404
    answer = idle_retrier.request("PUT", "/auto-retries/jobs", data="{}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    evil = {"Origin": "https://evil.example"}
    assert idle_retrier.request("POST", "/auto-retries/jobs/retry", headers=evil).status_code == 403
    assert idle_retrier.request("DELETE", "/auto-retries/jobs/1", headers=evil).status_code == 403


def test_the_list_is_paged_and_filtered(start_orthanc: StartOrthanc, storescp: StoreScp) -> None:
    storescp.stop()
    source = start_orthanc(NEVER_BY_ITSELF, knowing(storescp))
    sent = [send(source, store_study(source, patient_id=patient), storescp.aet) for patient in "ABC"]
    failed(source, 3)
    page = source.get("/auto-retries/jobs", limit=2, state="waiting", destination=storescp.aet)
    assert (page["Total"], len(page["Items"])) == (3, 2)
    rest = source.get("/auto-retries/jobs", limit=2, since=page["Next"])
    assert (len(rest["Items"]), rest["Next"]) == (1, None)
    assert [item["FirstJob"] for item in jobs(source, job=sent[1])] == [sent[1]]
    assert jobs(source, state="dead") == []


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (
            {"Retry": {"GiveUpHours": "soon"}},
            'AutoRetries.Retry.GiveUpHours: found "soon", allowed: a number, at least 0',
        ),
        ({"Types": "DicomModalityStore"}, 'AutoRetries.Types: found "DicomModalityStore", allowed: a list'),
    ],
)
def test_a_wrong_value_leaves_the_script_idle_and_orthanc_running(
    start_orthanc: StartOrthanc, section: dict[str, Any], line: str
) -> None:
    source = start_orthanc(SCRIPT, {"AutoRetries": section})
    assert sum(line in each for each in source.log.splitlines() if each.startswith("E")) == 1
    answer = source.request("GET", "/auto-retries/status")
    assert (answer.status_code, line in json.loads(answer.text)["Message"]) == (503, True)
