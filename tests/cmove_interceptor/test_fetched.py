# SPDX-License-Identifier: AGPL-3.0-or-later
"""What cmove_interceptor.py fetches first, of real Orthancs: all of it, and nothing that came from elsewhere is deleted."""

from __future__ import annotations

import concurrent.futures

import pytest

from testing.dicom import make_study
from testing.nodes import HttpAnswer, HttpNode, HttpRequest, pass_on_to
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.cmove_interceptor.helpers import SCRIPT, SUCCESS, Destination, c_move, configuration


@pytest.fixture
def far(start_briefly: StartOrthanc) -> OrthancServer:
    return start_briefly(None, {"DicomAlwaysAllowMove": True, "DicomAlwaysAllowFind": True}, aet="FAR")


@pytest.mark.parametrize("source", ["modality", "peer"])
def test_of_two_studies_with_one_accession_number_both_are_moved(
    start_briefly: StartOrthanc, far: OrthancServer, destination: Destination, source: str
) -> None:
    for seed, number in enumerate((4, 2)):
        far.store(make_study(seed=seed, instances=number, AccessionNumber="A1"))
    section = {"Mode": "fetch", "Fetch": {"From": [f"{source}:far"], "Keep": False}}
    modalities = {"dest": destination.as_modality(), "far": far.as_modality()}
    more = {"DicomModalities": modalities, "OrthancPeers": {"far": far.as_peer()}}
    server = start_briefly(SCRIPT, {**configuration(destination, section), **more})
    far.put("/modalities/near", server.as_modality())
    assert c_move(server, "STUDY", AccessionNumber="A1")[-1].status == SUCCESS
    assert len(destination.received) == 6
    assert server.get("/instances") == []


def test_what_a_scanner_sends_while_its_study_is_fetched_is_not_deleted(
    start_briefly: StartOrthanc, far: OrthancServer, destination: Destination
) -> None:
    *known, new = make_study(patient_id="P1", instances=4)
    far.store(known)
    plain = pass_on_to(far.url)

    def scan_meanwhile(request: HttpRequest) -> HttpAnswer:
        if request.path.endswith("/file") and len(node.requests("GET", request.path)) == 1:
            server.store_scu(new, aet="CT1")
        return plain(request)

    with HttpNode(scan_meanwhile) as node:
        section = {"Mode": "fetch", "Fetch": {"From": ["peer:far"], "Keep": False}}
        server = start_briefly(SCRIPT, configuration(destination, section, OrthancPeers={"far": node.as_peer()}))
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    assert len(destination.received) == 4
    [instance] = server.get("/instances")  # the only copy
    assert server.get(f"/instances/{instance}/metadata/RemoteAET") == "CT1"


def test_of_two_moves_of_one_study_the_first_that_ends_leaves_the_other_what_it_sends(
    start_briefly: StartOrthanc, far: OrthancServer, destination: Destination
) -> None:
    """A caller who waits for long asks again."""
    far.store(make_study(patient_id="P1", instances=6))
    section = {"Mode": "fetch", "Fetch": {"From": ["peer:far"], "Keep": False}}
    server = start_briefly(SCRIPT, configuration(destination, section, OrthancPeers={"far": far.as_peer()}))
    destination.pause = 0.4
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(c_move, server, "PATIENT", PatientID="P1")
        server.wait_until(lambda: len(destination.received) >= 2, what="send some")
        second = pool.submit(c_move, server, "PATIENT", PatientID="P1")
        assert [move.result()[-1].status for move in (first, second)] == [SUCCESS, SUCCESS]
    assert len(destination.received) == 12
    assert server.get("/instances") == []
