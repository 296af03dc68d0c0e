# SPDX-License-Identifier: AGPL-3.0-or-later
"""AE titles in the rules and loops of a forwarder compare as Orthanc compares them, on real Orthancs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.nodes import DicomNode
from testing.pytest_plugin import StartOrthanc
from tests.constants import QUICK, script_with

SCRIPT = script_with(Path(__file__).parents[2] / "auto_forward_modality.py", QUICK)
ROUTE = "/auto-forward-modality"


@pytest.mark.parametrize("strict", [False, True])
def test_the_case_of_an_ae_title_counts_only_where_orthanc_is_strict(start_orthanc: StartOrthanc, strict: bool) -> None:
    """Orthanc itself takes `ward7` and `WARD7` for one node where it is not strict."""
    with DicomNode("PACS") as pacs, DicomNode("VNA") as vna:
        rules: list[dict[str, Any]] = [
            {
                "Name": "of the ward",
                "Origin": {"RemoteAET": ["WARD*"], "CalledAET": ["HERE"]},
                "Destinations": ["PACS"],
            },
            {"Name": "rest", "Destinations": ["PACS", "VNA"]},
        ]
        server = start_orthanc(
            SCRIPT,
            {
                "DicomModalities": {"PACS": pacs.as_modality(), "VNA": vna.as_modality()},
                "StrictAetComparison": strict,
                "AutoForwardModality": {"Rules": rules},
            },
            aet="HERE",
        )
        server.store_scu(make_study(patient_id="WARD"), aet="ward7", called="here")
        server.store_scu(make_study(patient_id="OWN"), aet="pacs")
        server.wait_until_stable()
        server.store_scu(make_study(patient_id="LAST"), aet="CT1")
        server.wait_until(lambda: "LAST" in [one.PatientID for one in vna.taken], what="forward the last")
        server.wait_until(lambda: "LAST" in [one.PatientID for one in pacs.taken], what="forward the last")
        assert {one.PatientID for one in vna.taken} == {"LAST", "OWN"} | ({"WARD"} if strict else set())
        assert {one.PatientID for one in pacs.taken} == {"LAST", "WARD"} | ({"OWN"} if strict else set())
