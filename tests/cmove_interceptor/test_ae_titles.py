# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py on a real Orthanc: its rules name AE titles as Orthanc knows them."""

from __future__ import annotations

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.cmove_interceptor.helpers import SCRIPT, SUCCESS, Destination, c_move, configuration


@pytest.mark.parametrize("strict", [False, True])
def test_the_case_of_an_ae_title_in_a_rule_counts_only_where_orthanc_is_strict(
    start_orthanc: StartOrthanc, destination: Destination, strict: bool
) -> None:
    section = {"Rules": [{"Mode": "notify", "OriginatorAETs": ["ASKER"], "TargetAETs": ["DEST"]}]}
    server = start_orthanc(SCRIPT, configuration(destination, section, StrictAetComparison=strict))
    server.store(make_study(patient_id="P1"))
    assert c_move(server, "PATIENT", aet="asker", PatientID="P1")[-1].status == SUCCESS
    assert len(destination.received) == strict
    assert c_move(server, "PATIENT", aet="ASKER", PatientID="P1")[-1].status == SUCCESS
    assert len(destination.received) == strict
