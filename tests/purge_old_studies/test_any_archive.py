# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: exactly the right studies go, whatever the archive and the request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st
from pydicom import Dataset

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.purge_old_studies.helpers import DATES, LIMITS, SCRIPT, changed

EXAMPLES = int(os.environ.get("PURGE_EXAMPLES", "400"))
STUDIES = st.lists(
    st.tuples(
        st.sampled_from(["19981231", "19991231", "20000101", "20000102", "20240101", *DATES[5:], None]),
        st.sampled_from(["CT", "MR"]),
        st.sampled_from(["a", "A", "b", "B C", "x*", "é"]),
        st.sampled_from(["", "", "", "protected", "metadata", "label"]),
    ),
    max_size=5,
)
ASKED = st.fixed_dictionaries(
    {"since": st.sampled_from(["19981231", "20000101", "20230101"]), "dry-run": st.sampled_from([False, False, True, None])},
    optional={
        "limit": st.integers(1, 3),
        "undated": st.sampled_from([True, False, "received"]),
        "by": st.sampled_from(["StudyDate", "received"]),
        "force": st.booleans(),
        "Query": st.sampled_from([{"PatientID": "A"}, {"PatientID": "?"}, {"PatientID": "A\\b"}, {"PatientID": "é"},
                                  {"ModalitiesInStudy": "MR"},
                                  {"PatientID": "x?", "ModalitiesInStudy": "CT"}]),
    },
)  # fmt: skip


@pytest.mark.parametrize("part", [0, 1, 2])
def test_exactly_the_right_studies_go_whatever_the_archive_and_the_request(
    start_orthanc_for_module: StartOrthanc, orthanc_version: tuple[int, ...], part: int
) -> None:
    server = start_orthanc_for_module(
        changed(STUDIES_PAGE=2, WINDOW=2, BATCH=1) if part else SCRIPT,
        {"UserMetadata": {"Keep": 5000}, "StableAge": 600, **(LIMITS if part == 2 else {}),
         "PurgeOldStudies": {"KeepLabels": ["keep"], "KeepMetadata": ["Keep"], "MaxStudies": 3, "MaxPercent": 80}},
    )  # fmt: skip

    @given(archive=STUDIES, asked=ASKED)
    @example(
        archive=[("19981231", "CT", "é", "")],  # Orthanc's index has no such letter, and a wildcard misses it there
        asked={"since": "19981231", "dry-run": False, "Query": {"PatientID": "?"}, "force": True},
    )
    @settings(max_examples=EXAMPLES // 3, deadline=None, database=None)
    @seed(part)
    def check(archive: list[tuple[str | None, str, str, str]], asked: dict[str, Any]) -> None:
        for study in server.get("/studies"):
            server.delete(f"/studies/{study}")
        studies = store_archive(server, archive, labels=orthanc_version >= (1, 12, 0))
        for study in server.get("/studies?expand"):
            studies[study["ID"]]["received"] = study["LastUpdate"]
        expected, status = model(studies, asked)
        given = {name: value for name, value in asked.items() if value is not None}
        answer = server.request("POST", "/purge-old-studies", json={**given, "format": "json"})
        left = set(server.get("/studies"))
        assert (answer.status_code, left) == (status, set(studies) - set(expected)), answer.text

    check()


def remove_study_date(dataset: Dataset) -> None:
    del dataset.StudyDate


def store_archive(
    server: OrthancServer, archive: list[tuple[str | None, str, str, str]], *, labels: bool
) -> dict[str, dict[str, Any]]:
    studies = {}
    for number, (date, modality, patient, kept) in enumerate(archive):
        without = remove_study_date if date is None else None
        content = make_study(patient_id=patient, study_date=date or "", modality=modality, seed=number, change=without)
        stored = server.store(content)[0]
        study = {
            "date": date,
            "modality": modality,
            "patient": patient,
            "kept": bool(kept) and (kept != "label" or labels),
        }
        studies[stored["ParentStudy"]] = study
        if kept == "protected":
            server.put(f"/patients/{stored['ParentPatient']}/protected", "1")
            study["protects"] = True
        elif kept == "metadata":
            server.put(f"/studies/{stored['ParentStudy']}/metadata/Keep", "1")
        elif kept == "label" and labels:
            server.put(f"/studies/{stored['ParentStudy']}/labels/keep")
    protected = {study["patient"] for study in studies.values() if study.get("protects")}
    for study in studies.values():
        study["kept"] = study["kept"] or study["patient"] in protected
    return studies


def model(studies: dict[str, dict[str, Any]], asked: dict[str, Any]) -> tuple[list[str], int]:
    """What goes, and the status, in the plainest words; everything was received today, and `since` is before."""
    queries: dict[str | None, Callable[[dict[str, Any]], bool]] = {
        None: lambda study: True,
        '{"PatientID": "A"}': lambda study: study["patient"] == "A",
        '{"PatientID": "?"}': lambda study: len(study["patient"]) == 1,
        '{"PatientID": "A\\\\b"}': lambda study: study["patient"] in ("A", "b"),
        '{"ModalitiesInStudy": "MR"}': lambda study: study["modality"] == "MR",
        '{"PatientID": "\\u00e9"}': lambda study: study["patient"] == "é",
        '{"PatientID": "x?", "ModalitiesInStudy": "CT"}': lambda study: (
            study["patient"] == "x*" and study["modality"] == "CT"
        ),
    }
    query = queries[json.dumps(asked["Query"]) if "Query" in asked else None]
    by_date = asked.get("by", "StudyDate") == "StudyDate"
    real = {"19981231", "19991231", "20000101", "20000102", "20240101"}

    def goes(study: dict[str, Any]) -> bool:
        if not by_date or study["kept"] or not query(study):
            return False
        return study["date"] <= asked["since"] if study["date"] in real else asked.get("undated") is True

    going = [name for name, study in studies.items() if goes(study)]
    day = {name: studies[name]["date"] if studies[name]["date"] in real else "9" for name in going}
    going.sort(key=lambda name: (day[name], studies[name]["received"], name))
    going = going[: asked.get("limit")]
    if asked.get("dry-run") is not False:
        return [], 200
    too_many = len(going) > 3 or len(going) * 100 > 80 * len(studies)
    return ([], 403) if too_many and not asked.get("force") else (going, 200)
