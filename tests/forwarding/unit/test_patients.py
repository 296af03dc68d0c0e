# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/routing.py: rules of level Patient, by PatientIDs that Orthanc can't be asked for as they are."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import FakeOrthanc


@pytest.mark.parametrize(
    ("patient", "wanted", "matches"),
    [
        (" P1", " P1", True),
        (" P1", "P1", True),  # to DICOM, spaces in front mean nothing
        ("P1", " P1", False),
        ("A\\B", "A\\B", True),
        ("A\\B", "A", False),
        ("A", "A\\B", True),
        ("müller", "MÜL*", True),
        ("STARS", "STAR*", True),
        ("S", "STAR*", False),
    ],
)
def test_a_patient_is_compared_as_orthanc_means_it(
    source: Any, rest: FakeOrthanc, patient: str, wanted: str, matches: bool
) -> None:
    module, rules = source("forwarding.routing"), source("forwarding.rules")
    rest.answers["POST", "/tools/find"] = ["another", "p1"]
    router = module.Router(
        source("common.loopback").Loopback({}),
        [rules.Rule(name="r", level="Patient", query={"PatientID": wanted, "PatientSex": "F"})],
        True,
        {},
    )
    batch = module.Batch("Patient", "p1", patient, ("i1",), {"i1": {}})
    [verdict] = router.verdicts(batch, ("PACS",), ("PACS",))
    assert verdict.matched is matches
    asked = [{"Level": "Patient", "Query": {"PatientID": patient.replace("\\", "?"), "PatientSex": "F"}}]
    assert rest.asked("POST", "/tools/find") == (asked if matches else [])
