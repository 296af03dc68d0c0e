# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags.py: configurations, and other scripts beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.scripts import combine_scripts
from tests.series_private_tags.helpers import DICTIONARY, EXPECTED, LISTED, ROOT, SCRIPT, study, wait_for


def test_without_its_name_in_user_metadata_the_number_2000_is_used_and_the_line_logged(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(SCRIPT, {"SeriesMainPrivateDicomTags": {"Tags": ["0031,1001"], "MaximumLength": 16}})
    series = server.store(study())[0]["ParentSeries"]
    wait_for(server, series, {"0031,1001": "by its number"})
    kept = server.get(f"/series/{series}/metadata/2000")
    assert "by its number" in str(kept)
    assert 'add "UserMetadata": {"SeriesPrivateTags": 2000}' in server.log


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        (
            {"SeriesMainPrivateDicomTags": ["0031,1001"], "UserMetadata": {"Mine": 2000}},
            'UserMetadata: 2000 is "Mine" here',
        ),
        ({"SeriesMainPrivateDicomTags": ["Faktor"], "Dictionary": DICTIONARY}, "did you mean 'Factor'?"),
        ({"SeriesMainPrivateDicomTags": "Factor"}, "SeriesMainPrivateDicomTags: found"),
        ({}, '"SeriesMainPrivateDicomTags" names no tags'),
    ],
)
def test_what_is_misconfigured_is_one_line_and_orthanc_runs(
    start_orthanc: StartOrthanc, configuration: dict[str, Any], complaint: str
) -> None:
    server = start_orthanc(SCRIPT, configuration)
    series = server.store(study())[0]["ParentSeries"]
    answer = server.request("GET", "/with-private-tags/series")
    assert answer.status_code == 503
    assert complaint in answer.json()["Message"]
    assert server.log.count(complaint) == 1
    level = "W" if "names no tags" in complaint else "E"
    assert re.search(f"^{level}.*{re.escape(complaint)}", server.log, re.MULTILINE)
    server.restart()  # whatever was to be written is
    assert set(server.get(f"/series/{series}/metadata")) <= {"LastUpdate", "RemoteAET", "MainDicomTagsSignature"}


def test_where_users_must_log_in_and_revisions_are_checked_tags_are_kept_and_completed(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(
        SCRIPT,
        {**LISTED, "AuthenticationEnabled": True, "RegisteredUsers": {"user": "secret"}, "CheckRevisions": True},
    )
    full = study(patient_id="R", instances=2)

    def only_factor(dataset: Dataset) -> None:
        dataset.private_block(0x29, "ACME", create=True).add_new(0x10, "DS", "7")

    series = server.store(make_study(patient_id="R", instances=2, change=only_factor)[0])[0]["ParentSeries"]
    wait_for(server, series, {"Factor": "7"})
    server.store(full[1])
    wait_for(server, series, {**EXPECTED, "Factor": "7"})


def test_it_works_combined_with_other_scripts(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    others = [ROOT / "purge_old_studies.py", ROOT / "series_thumbnail.py"]
    combined = combine_scripts(*others, SCRIPT, to=tmp_path / "combined.py")
    server = start_orthanc(combined, LISTED)
    stored = server.store(study(instances=3))[0]
    wait_for(server, stored["ParentSeries"], EXPECTED)
    assert server.request("GET", f"/series/{stored['ParentSeries']}/thumbnail").status_code == 200
