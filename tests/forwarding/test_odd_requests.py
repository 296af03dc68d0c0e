# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forwarders on real Orthancs: requests that come at a time, matchers that need room, patients with odd names."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.constants import QUICK, script_with

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
ROUTE = "/auto-forward-modality"


def test_many_requests_at_a_time_do_not_hold_orthanc_up(start_orthanc: StartOrthanc) -> None:
    """Each asks Orthanc: if all its HTTP threads did, they would wait for each other for a minute."""
    source = start_orthanc(BUILT, {"HttpThreadsCount": 6, "DicomModalities": {"NODE": ["NODE", "127.0.0.1", 1]}})
    source.store(make_study())
    [study] = source.get("/studies")
    source.post(f"{ROUTE}/destinations/NODE/pause")
    wanted = {"Resource": study, "Destinations": ["NODE"]}

    def send(_: int) -> int:
        return requests.post(f"{source.url}{ROUTE}/send", json=wanted, timeout=60).status_code

    begin = time.monotonic()
    with ThreadPoolExecutor(24) as pool:
        answers = set(pool.map(send, range(48)))
    assert time.monotonic() - begin < 20
    assert 202 in answers
    assert answers <= {202, 503}
    assert source.get(f"{ROUTE}/deliveries")["Total"] == 1


def test_a_matcher_that_needs_more_than_the_stack_of_an_http_thread_can_be_tested(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    (tmp_path / "deep.py").write_text(
        "import json\ndef choose(_):\n    json.loads('[' * 900 + ']' * 900)\n    return 'NODE'\n"
    )
    source = start_orthanc(
        BUILT,
        {
            "DicomModalities": {"NODE": ["NODE", "127.0.0.1", 1]},
            "AutoForwardModality": {"Rules": [{"Name": "deep", "Matcher": f"{tmp_path}/deep.py:choose"}]},
        },
    )
    source.store(make_study())
    [study] = source.get("/studies")
    answer = source.request("POST", f"{ROUTE}/rules/test", json={"Resource": study}).json()
    assert answer["Rules"] == [{"Name": "deep", "Destinations": {"NODE": 1}, "Why": "matches"}]


@pytest.mark.parametrize("patient_id", [" P1", "P1 ", "P 1"])
def test_a_patient_is_found_by_a_rule_whatever_spaces_the_identifier_has(
    start_orthanc: StartOrthanc, patient_id: str
) -> None:
    node = start_orthanc(aet="NODE")
    rule = {"Name": "patients", "Level": "Patient", "Query": {"PatientID": "P*", "PatientSex": "F"}}
    source = start_orthanc(
        script_with(BUILT, QUICK),
        {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {"Rules": [rule]}},
    )
    source.store(make_study(patient_id=patient_id, PatientSex="F"))
    source.wait_until(lambda: len(node.get("/instances")) == 1, what="deliver")
