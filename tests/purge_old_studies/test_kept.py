# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: what is protected or too much at once is kept, and what is misconfigured purges nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.standin import StandIn
from tests.purge_old_studies.helpers import SCRIPT, dates_left, fill


@pytest.mark.parametrize("metadata", ["Keep", "5000"])
def test_protected_patients_labels_and_metadata_keep_a_study(
    start_briefly: StartOrthanc, orthanc_version: tuple[int, ...], metadata: str
) -> None:
    labels = orthanc_version >= (1, 12, 0)
    server = start_briefly(
        SCRIPT,
        {"UserMetadata": {"Keep": 5000}, "PurgeOldStudies": {"KeepLabels": ["teaching"], "KeepMetadata": [metadata]}},
    )
    fill(server, ["20010101"] * 5)
    studies = {study["PatientMainDicomTags"]["PatientID"]: study for study in server.get("/studies?expand")}
    server.put(f"/patients/{studies['P0']['ParentPatient']}/protected", "1")
    server.put(f"/studies/{studies['P1']['ID']}/metadata/Keep", "whatever")
    if labels:
        server.put(f"/studies/{studies['P2']['ID']}/labels/teaching")
        server.put(f"/studies/{studies['P3']['ID']}/labels/old")
    assert server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "force": True}).startswith(
        "Purged 2 " if labels else "Purged 3 "
    )
    left = {study["PatientMainDicomTags"]["PatientID"] for study in server.get("/studies?expand")}
    assert left == ({"P0", "P1", "P2"} if labels else {"P0", "P1"})


PATIENTS = ["A1", "a1", "A*", "A?", "A 1", " B", "Müller", "", "C" * 64, *(f"D{number}" for number in range(40))]


@pytest.mark.parametrize("keeps", ["A1", "a1", "A*", "A?", "A 1", " B", "Müller", "", "C" * 64, "D7"])
def test_whoever_is_protected_is_kept_whatever_the_patient_id_and_nobody_else(
    start_briefly: StartOrthanc, keeps: str
) -> None:
    server = start_briefly(SCRIPT)
    patients = {
        patient: server.store(make_study(patient_id=patient, study_date="20010101"))[0]["ParentPatient"]
        for patient in PATIENTS
    }
    assert len(set(patients.values())) == len(PATIENTS)
    server.put(f"/patients/{patients[keeps]}/protected", "1")
    answer = server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "force": True})
    assert answer.startswith(f"Purged {len(PATIENTS) - 1} ")
    assert server.get("/patients") == [patients[keeps]]


def test_labels_choose_where_orthanc_has_them_and_are_a_400_where_not(
    start_briefly: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    server = start_briefly(SCRIPT)
    fill(server, ["20010101"] * 4)
    asked: dict[str, Any] = {"since": "20200101", "Labels": ["a", "b"]}
    if orthanc_version < (1, 12, 0):
        assert server.request("POST", "/purge-old-studies", json=asked).status_code == 400
        return
    for study, labels in zip(sorted(server.get("/studies")), ("", "a", "b", "ab"), strict=True):
        for label in labels:
            server.put(f"/studies/{study}/labels/{label}")
    counts = {
        constraint: server.post(
            "/purge-old-studies", {**asked, "LabelsConstraint": constraint, "dry-run": True, "format": "json"}
        )["Studies"]
        for constraint in ("All", "Any", "None")
    }
    assert counts == {"All": 1, "Any": 3, "None": 1}
    assert server.get("/purge-old-studies", since="20200101", Labels="a,b").startswith("Purged 1 ")


def test_more_than_max_studies_or_max_percent_is_refused_without_force(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {"PurgeOldStudies": {"MaxStudies": 3, "MaxPercent": 50}})
    fill(server, ["20010101", "20010102", "20010103", "20010104", "20240101", "20240102"])

    def ask(**more: Any) -> tuple[int, str]:
        answer = server.request("POST", "/purge-old-studies", json={"since": "20010104", "dry-run": False, **more})
        return answer.status_code, answer.text

    assert ask()[0] == 403
    assert "MaxStudies (3)" in ask()[1]
    assert ask(limit=3) == (200, "Purged 3 studies dated on or before 20010104\n")
    assert ask() == (200, "Purged 1 study dated on or before 20010104\n")
    server.post("/purge-old-studies", {"since": "20240101", "dry-run": False})  # one of two: not more than half
    assert (
        "MaxPercent (50)"
        in server.request("POST", "/purge-old-studies", json={"since": "20240102", "dry-run": False}).text
    )
    assert len(server.get("/studies")) == 1
    assert server.post("/purge-old-studies", {"since": "20240102", "dry-run": False, "force": True}).startswith(
        "Purged 1 "
    )
    assert {"refused"} < {line["Event"] for line in server.get("/purge-old-studies/history")["Items"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"PurgeOldStudies": {"MaxStudy": 3}},
        {"PurgeOldStudies": {"MaxPercent": 101}},
        {"PurgeOldStudies": {"MaxPercent": "5"}},
        {"PurgeOldStudies": {"KeepLabels": "teaching"}},
        {"PurgeOldStudies": {"KeepLabels": ["teaching cases"]}},
        {"PurgeOldStudies": {"KeepMetadata": ["NoSuchMetadata"]}},
        {"PurgeOldStudies": []},
        {"PurgeOldStudy": {"MaxStudies": 3}},
        {"purgeoldstudies": {"MaxStudies": 3}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "2:30"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7", "At": "02:30"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Modality": "CT"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Query": {"Modality": "CT"}}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Days": ["Sonntag"]}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30", "Undated": "yes"}]}},
        {"PurgeOldStudies": {"Rules": [{"Name": "a", "OlderThan": "7y", "At": "02:30"}] * 2}},
    ],
    ids=json.dumps,
)
def test_a_configuration_that_is_wrong_anywhere_purges_nothing(orthanc_standin: StandIn, wrong: dict[str, Any]) -> None:
    orthanc_standin.configuration = wrong
    orthanc_standin.load(SCRIPT)
    answer = orthanc_standin.http("GET", "/purge-old-studies?since=19000101")
    assert answer.status == 503
    assert next(iter(wrong)) in answer.json()["Message"]
    assert any(level == "error" for level, _ in orthanc_standin.logs), orthanc_standin.logs


def test_a_wrong_configuration_leaves_orthanc_running_and_is_told(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"PurgeOldStudies": {"MaxStudy": 3}})
    fill(server, ["19990101"])
    answer = server.request("GET", "/purge-old-studies", params={"since": "20200101"})
    assert answer.status_code == 503
    assert "did you mean MaxStudies?" in answer.json()["Message"]
    assert "did you mean MaxStudies?" in server.log
    assert dates_left(server) == ["19990101"]
