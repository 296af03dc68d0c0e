# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/identifiers.py: an identifier is the one that a real Orthanc gives."""

from __future__ import annotations

import pytest

from common.identifiers import orthanc_identifier
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc


@pytest.mark.parametrize("patient", ["PATIENT", "  IN FRONT", "BEHIND  ", "A\\B"])
def test_an_identifier_is_the_one_that_orthanc_gives(start_orthanc: StartOrthanc, patient: str) -> None:
    server = start_orthanc("import orthanc\n")
    server.store(make_study(patient_id=patient))
    for level in ("patients", "studies", "series", "instances"):
        (found,) = server.get(f"/{level}?expand")
        uids = server.get(f"/instances/{server.get('/instances')[0]}/simplified-tags")
        names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        depth = ("patients", "studies", "series", "instances").index(level) + 1
        assert orthanc_identifier(*(uids[name] for name in names[:depth])) == found["ID"]
