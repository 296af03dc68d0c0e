# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is deleted or recycled here before it was delivered: a WARNING with the number of instances, and a count."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

SCRIPT = script_with(Path(__file__).parents[2] / "auto_forward_modality.py", QUICK)
ROUTE = "/auto-forward-modality"
AWAY = {"DicomModalities": {"PACS": ["PACS", "127.0.0.1", 1]}, "AutoForwardModality": {}}


def rows(server: OrthancServer, state: str) -> int:
    return int(server.get(f"{ROUTE}/deliveries", state=state)["Total"])


def gone(server: OrthancServer) -> int:
    return int(server.get(f"{ROUTE}/status")["InstancesGone"])


def said(server: OrthancServer) -> int:
    """How many instances were deleted early, as the log says: of those that had been read, and of the others, each once."""
    text = r"(\d+) instances were deleted here before they were stable: no rule was applied to them"
    return sum(map(int, re.findall(text, server.log)))


def test_what_orthanc_recycles_before_it_is_delivered_is_a_warning_and_counted(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {**AWAY, "MaximumPatientCount": 2, "StableAge": 1})
    assert server.log.count("Orthanc recycles the oldest patients (MaximumPatientCount 2)") == 1
    [first, *_] = server.store(make_study(patient_id="P1", instances=3))
    server.wait_until(lambda: rows(server, "waiting"), what="wait for the node")
    for patient in ("P2", "P3"):
        server.store(make_study(patient_id=patient))
    server.wait_until(lambda: rows(server, "gone") == 1, what="notice that the first patient was recycled")
    text = f"3 instances of study {first['ParentStudy']} were deleted here before PACS got them"
    server.assert_logged(text, "warning")
    assert server.log.count(text) == 1
    assert gone(server) == 3
    server.kill()
    server.start()
    server.wait_until(lambda: server.request("GET", f"{ROUTE}/status").ok, what="start again")
    assert gone(server) == 3


@pytest.mark.parametrize("seconds", [0, 6.5], ids=["before it was read", "before it was stable"])
def test_what_is_recycled_before_it_is_stable_is_a_warning_and_counted(
    start_briefly: StartOrthanc, seconds: float
) -> None:
    server = start_briefly(SCRIPT, {**AWAY, "MaximumPatientCount": 1, "StableAge": 8})
    server.store(make_study(patient_id="P1", instances=3))
    time.sleep(seconds)  # the log of changes is read each five
    server.store(make_study(patient_id="P2", instances=2))
    server.wait_until(lambda: gone(server) == 3, what="count what was recycled")
    server.wait_until(lambda: said(server) == 3, what="say so")
    server.wait_until(lambda: rows(server, "waiting") == 1, what="route what is still there")
    assert gone(server) == 3


def test_a_part_that_is_deleted_is_counted_once_and_the_rest_arrives(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="PACS", start=False)
    server = start_orthanc(SCRIPT, {"DicomModalities": {"PACS": node.as_modality()}, "AutoForwardModality": {}})
    stored = server.store(make_study(instances=4))
    server.wait_until(lambda: rows(server, "waiting"), what="wait for the node")
    server.delete(f"/instances/{stored[0]['ID']}")
    server.wait_until(lambda: gone(server) == 1, what="count the one that was deleted")
    node.start()
    server.wait_until(lambda: rows(server, "done") == 1, what="send the rest")
    assert len(node.get("/instances")) == 3
    assert gone(server) == 1


def test_what_was_delivered_may_be_deleted_without_a_word(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="PACS")
    server = start_orthanc(SCRIPT, {"DicomModalities": {"PACS": node.as_modality()}, "AutoForwardModality": {}})
    assert "recycles" not in server.log
    server.store(make_study(instances=2))
    server.wait_until(lambda: rows(server, "done") == 1, what="deliver it")
    server.delete(f"/studies/{server.get('/studies')[0]}")
    time.sleep(6)
    assert gone(server) == 0
