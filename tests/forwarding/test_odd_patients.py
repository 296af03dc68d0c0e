# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules of level Patient: a patient is the one that Orthanc means, whatever its PatientID looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
ODD = (
    *(" LEADS", "  SPACES  ", "IN  SIDE", "A\\B", " C\\D ", "\\", "STAR*", "QUEST?ION", "100%_X", "O'N\"EIL"),
    *("[ab]", "A=B^C", ""),
)
ODD_LETTERS = ("MÜLLER", " É", "Иванов")  # of these, Orthanc is asked for their studies
# Patients that a careless comparison takes for one of those: Orthanc has them as others.
OTHERS = ("LEADS", "SPACES", "A", "B", "C\\D", "STARS", "QUESTSION", "1000_X", "a", "NOBODY")


def start(start_orthanc: StartOrthanc, rules: list[dict[str, Any]]) -> tuple[OrthancServer, OrthancServer]:
    node = start_orthanc(aet="NODE")
    configuration = {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {"Rules": rules}}
    return node, start_orthanc(BUILT, configuration)


def patients(server: OrthancServer) -> list[str]:
    return sorted(patient["MainDicomTags"].get("PatientID", "") for patient in server.get("/patients?expand"))


@pytest.mark.parametrize("forms", [ODD, ODD_LETTERS], ids=["ascii", "letters"])
def test_a_patient_with_an_odd_identifier_is_asked_for_and_no_other(
    start_orthanc: StartOrthanc, forms: tuple[str, ...]
) -> None:
    rules = [{"Name": "women", "Level": "Patient", "Query": {"PatientSex": "F"}, "Destinations": ["NODE"]}]
    node, source = start(start_orthanc, rules)
    for patient in OTHERS:
        source.store(make_study(patient_id=patient, PatientSex="M"))
    odd = {source.store(make_study(patient_id=patient, PatientSex="F"))[0]["ParentPatient"] for patient in forms}
    assert len(source.get("/patients")) == len(odd) + len(OTHERS) == len(forms) + len(OTHERS)
    source.wait_until(lambda: len(node.get("/patients")) >= len(odd), what="send the odd ones", timeout=20)
    source.wait_until_stable()
    assert set(node.get("/patients")) == odd


def test_an_odd_identifier_can_be_what_a_query_wants(start_orthanc: StartOrthanc) -> None:
    wanted = [
        one.rstrip() for one in (*ODD, *ODD_LETTERS) if one.strip("\\")
    ]  # a Query by the others would want everything
    rules: list[dict[str, Any]] = [
        {"Name": repr(one), "Level": "Patient", "Query": {"PatientID": one.lower()}, "Destinations": ["NODE"]}
        for one in wanted
    ]
    rules[-1]["Query"]["PatientID"] = "ИВА*\\1.2"
    node, source = start(start_orthanc, rules)
    source.store([file for patient in (*ODD, *ODD_LETTERS, "NOBODY", "AA") for file in make_study(patient_id=patient)])
    source.wait_until(lambda: len(node.get("/patients")) >= len(wanted), what="send the wanted ones", timeout=20)
    source.wait_until_stable()
    assert patients(node) == sorted(wanted)
