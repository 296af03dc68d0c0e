# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py: moves do what they do with Orthanc alone, and are listed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer, dcmtk_program
from tests.cmove_interceptor.helpers import (
    KEYS,
    SCRIPT,
    SUCCESS,
    UNABLE,
    WARNING,
    Destination,
    Service,
    c_move,
    configuration,
    has_counts,
    identifiers,
    last,
)
from tests.scripts import combine_scripts


@pytest.fixture(scope="module")
def pair(
    start_orthanc_for_module: StartOrthanc, shared_destination: Destination
) -> tuple[OrthancServer, OrthancServer]:
    """An Orthanc without the script and one with it, with the same images and destination."""
    plain = start_orthanc_for_module(None, configuration(shared_destination))
    ours = start_orthanc_for_module(SCRIPT, configuration(shared_destination))
    studies = [
        *make_study(patient_id="P1", instances=3, series=2, AccessionNumber="A1"),
        *make_study(patient_id="P1", seed=2, AccessionNumber="A2", modality="MR"),
        *make_study(patient_id="p2", instances=2, AccessionNumber="a3"),
        *make_study(patient_id="U1", AccessionNumber="1.2.3.4", StudyInstanceUID="1.2.9"),
        *make_study(patient_id="U2", AccessionNumber="A9", StudyInstanceUID="1.2.3.4"),
    ]
    for server in (plain, ours):
        server.store(studies)
        server.store(pydicom_files()[:80])
        server.wait_until_stable()
    return plain, ours


def compare(pair: tuple[OrthancServer, OrthancServer], destination: Destination, level: str, **keys: str) -> list[Any]:
    """Both moves: the same arrives byte for byte, and the caller is told the same, or as much as the plugin allows."""
    answers, arrived = [], []
    for server in pair:
        answers.append(c_move(server, level, **keys))
        arrived.append(destination.take())
    assert arrived[1] == arrived[0]
    plain, ours = answers[0][-1], answers[1][-1]
    if has_counts(pair[1]) and plain.status == UNABLE and arrived[0]:
        assert (ours.status, ours.failed) == (WARNING, 1)  # truer: some did arrive
    elif has_counts(pair[1]):
        assert answers[1] == answers[0]
    else:
        assert ours.status == {SUCCESS: SUCCESS, UNABLE: WARNING}[plain.status]
    return arrived[0]


@pytest.mark.parametrize("level", list(KEYS))
def test_at_each_level_the_same_arrives_byte_for_byte_and_the_caller_is_told_the_same(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination, level: str
) -> None:
    uids = identifiers(pair[0], "P1")
    arrived = compare(pair, shared_destination, level, **{KEYS[level]: uids[level][0]})
    assert len(arrived) == {"PATIENT": 7, "IMAGE": 1}.get(level, len(arrived)) > 0
    assert {(originator, message) for _, _, originator, message in arrived} == {("MOVER", 77)}
    if level != "PATIENT":
        several = "\\".join(uids[level])
        assert len(compare(pair, shared_destination, level, **{KEYS[level]: several})) == 7


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("STUDY", {"AccessionNumber": "A1"}, 6),
        ("STUDY", {"AccessionNumber": "A1\\A2"}, 7),
        ("STUDY", {"AccessionNumber": "A3"}, 2),
        ("STUDY", {"AccessionNumber": "1.2.3.4"}, 1),
        ("STUDY", {"StudyInstanceUID": "1.2.3.4"}, 1),
        ("STUDY", {"AccessionNumber": "A2", "StudyInstanceUID": "1.2.3.4"}, 1),
        ("STUDY", {"AccessionNumber": "*"}, 0),
        ("STUDY", {"StudyInstanceUID": "9.9.9"}, 0),
        ("STUDY", {"StudyInstanceUID": "9.9.9\\1.2.3.4"}, 1),
        ("STUDY", {"PatientID": "P1"}, 0),
        ("PATIENT", {"PatientID": "P2"}, 2),
        ("PATIENT", {"PatientID": "p1\\P2"}, 9),
        ("PATIENT", {"PatientID": "P"}, 0),
        ("SERIES", {"StudyInstanceUID": "1.2.3.4"}, 0),
        ("IMAGE", {"SOPInstanceUID": "1.2.3.4"}, 0),
    ],
)
def test_what_a_request_means_is_looked_up_as_orthanc_does(
    pair: tuple[OrthancServer, OrthancServer],
    shared_destination: Destination,
    level: str,
    keys: dict[str, str],
    count: int,
) -> None:
    assert len(compare(pair, shared_destination, level, **keys)) == count


def test_real_images_of_every_kind_arrive_the_same(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination
) -> None:
    patients = {study["PatientMainDicomTags"].get("PatientID", "") for study in pair[0].get("/studies?expand")} - {
        "",
        "P1",
    }
    assert len(patients) > 8
    for patient in sorted(patients):
        compare(pair, shared_destination, "PATIENT", PatientID=patient)


def test_an_unknown_destination_fails_as_with_orthanc(pair: tuple[OrthancServer, OrthancServer]) -> None:
    for target in ("NOBODY", "DEST2"):
        plain, ours = (c_move(server, "PATIENT", target, PatientID="P1") for server in pair)
        assert plain[-1].status == UNABLE
        assert ours[-1].status == (UNABLE if has_counts(pair[1]) else WARNING)
    assert last(pair[1])["State"] == "failed"
    assert "DEST2" in last(pair[1])["Error"]


def test_a_destination_is_found_without_regard_to_case_as_with_orthanc(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination
) -> None:
    answers = [c_move(server, "PATIENT", "dest", PatientID="P2")[-1].status for server in pair]
    assert answers[0] == answers[1]
    assert len(shared_destination.take()) in (0, 4)


def test_movescu_and_storescp_see_no_difference(start_briefly: StartOrthanc, tmp_path: Path) -> None:
    nodes = [StoreScp(tmp_path / name, "SCP") for name in ("plain", "ours")]
    servers = [start_briefly(script, configuration(node)) for script, node in zip((None, SCRIPT), nodes, strict=True)]
    images = make_study(instances=4)
    said = []
    for server in servers:
        server.store(images)
        uid = server.get("/studies?expand")[0]["MainDicomTags"]["StudyInstanceUID"]
        command = [
            dcmtk_program("movescu"),
            "-v",
            "-S",
            "-aet",
            "MOVER",
            "-aec",
            server.aet,
            "-aem",
            "SCP",
            "-k",
            "QueryRetrieveLevel=STUDY",
        ]
        ended = subprocess.run(
            [*command, "-k", f"StudyInstanceUID={uid}", "127.0.0.1", str(server.dicom_port)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said.append(re.findall(r"Received.*Response.*", ended.stdout + ended.stderr))
    contents = [{path.name: path.read_bytes() for path in node.files()} for node in nodes]
    for node in nodes:
        node.close()
    assert len(contents[0]) == 4
    assert contents[0] == contents[1]
    if has_counts(servers[1]):
        assert said[0] == said[1]


def test_without_synchronous_cmove_the_caller_is_answered_before_all_is_sent(
    start_briefly: StartOrthanc, destination: Destination
) -> None:
    server = start_briefly(SCRIPT, configuration(destination, SynchronousCMove=False))
    server.store(make_study(instances=10, patient_id="P1"))
    destination.takes.clear()
    answer = c_move(server, "PATIENT", PatientID="P1")[-1]
    assert answer.status == SUCCESS
    assert destination.received == []
    found = last(server)
    assert (found["State"], found["Instances"], found["Completed"]) == ("submitted", 10, None)  # nobody counts
    destination.takes.set()
    server.wait_until(lambda: len(destination.received) == 10, what="send all")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "since=x", "days=1"])
def test_a_list_is_asked_for_properly_or_it_is_a_400(pair: tuple[OrthancServer, OrthancServer], query: str) -> None:
    assert pair[1].request("GET", f"/cmove-interceptor/requests?{query}").status_code == 400


def test_requests_are_listed_oldest_first_in_pages(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination
) -> None:
    server = pair[1]
    route, before = "/cmove-interceptor/requests", server.get("/cmove-interceptor/requests", limit=1000)["Items"]
    for patient in ("P1", "P2", "U1"):
        c_move(server, "PATIENT", PatientID=patient)
    shared_destination.take()
    since = before[-1]["ID"] if before else 0
    page = server.get(route, limit=2, since=since)
    assert [item["Request"]["PatientID"] for item in page["Items"]] == ["P1", "P2"]
    assert page["Total"] == len(before) + 3
    more = server.get(route, limit=1, since=page["Next"], state=page["Items"][0]["State"])
    assert [item["Request"]["PatientID"] for item in more["Items"]] == ["U1"]
    assert more["Next"] is None
    assert server.get(route, limit=1)["Items"][0]["ID"] == 1


def test_combined_with_others_it_does_the_same(
    start_orthanc: StartOrthanc, destination: Destination, service: Service, tmp_path: Path
) -> None:
    others = [SCRIPT.with_name("purge_old_studies.py")]
    combined = combine_scripts(SCRIPT, *others, to=tmp_path / "combined.py")
    server = start_orthanc(combined, configuration(destination, {"Notify": [{"Url": f"{service.url}/{{PatientID}}"}]}))
    server.store(make_study(patient_id="P1", instances=5))
    answer = c_move(server, "PATIENT", PatientID="P1")[-1]
    assert answer.status == SUCCESS
    if has_counts(server):
        assert answer.completed == 5
    server.wait_until(lambda: len(service.requests) == 1, what="tell")
    assert len(destination.received) == 5


def test_allowing_threads_changes_nothing(start_orthanc: StartOrthanc, destination: Destination) -> None:
    server = start_orthanc(SCRIPT, configuration(destination, Python={"AllowThreads": True}))
    server.store(make_study(patient_id="P1", instances=5))
    assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
    assert len(destination.received) == 5
