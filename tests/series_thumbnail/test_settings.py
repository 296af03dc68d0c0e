# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: configurations, without Pillow, and with other scripts beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from tests.scripts import combine_scripts
from tests.series_thumbnail.helpers import NAMED, ROOT, SCRIPT, chosen, let_the_second_pass, thumbnail, wait_until_kept


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        ({"UserMetadata": {"Mine": 2001}}, 'UserMetadata: 2001 is "Mine" here'),
        ({"UserContentType": {"Mine": 4301}}, 'UserContentType: 4301 is "Mine" here'),
        ({"SeriesThumbnail": {"Size": 5000}}, "SeriesThumbnail.Size: found 5000, allowed: a whole number"),
        ({"HttpThreadsCount": 4}, "HttpThreadsCount is 4, allowed: at least 5"),
    ],
)
def test_what_is_misconfigured_is_one_error_and_orthanc_runs(
    start_orthanc: StartOrthanc, configuration: dict[str, Any], complaint: str
) -> None:
    server = start_orthanc(SCRIPT, configuration)
    series = server.store(make_study())[0]["ParentSeries"]
    answer = server.request("GET", f"/series/{series}/thumbnail")
    assert answer.status_code == 503
    assert complaint in answer.json()["Message"]
    assert server.log.count(complaint) == 1
    assert re.search(f"^E.*{re.escape(complaint)}", server.log, re.MULTILINE)
    server.wait_until_stable()
    server.restart()  # whatever was to be written is
    assert set(server.get(f"/series/{series}/metadata")) <= {"LastUpdate", "RemoteAET", "MainDicomTagsSignature"}
    assert server.get(f"/series/{series}/attachments") == []


def test_where_users_must_log_in_and_revisions_are_checked_pictures_are_drawn_and_replaced(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(
        SCRIPT,
        {
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"user": "secret"},
            "CheckRevisions": True,
        },
    )
    files = make_study(patient_id="REVISED", instances=5)
    stored = server.store(files[:1])
    series = stored[0]["ParentSeries"]
    wait_until_kept(server, series)
    stored += server.store(files[1:])
    server.wait_until(lambda: chosen(server, series) == stored[2]["ID"])
    server.wait_until(lambda: server.get("/series-thumbnail/status")["Background"] == 0)
    assert server.request("GET", f"/series/{series}/thumbnail", auth=None).status_code == 401
    assert "could not keep" not in server.log


def test_without_pillow_images_are_drawn_and_icons_name_what_is_missing(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    (tmp_path / "PIL.py").write_text("raise ImportError('No module named PIL')\n")  # the script's folder comes first
    shutil.copy(SCRIPT, tmp_path)
    server = start_orthanc(tmp_path / SCRIPT.name)
    image = server.store(make_study())[0]["ParentSeries"]
    assert max(thumbnail(server, "series", image).size) == 128
    report = server.store(next(path for path in pydicom_files() if path.name == "test-SR.dcm"))[0]["ParentSeries"]
    answer = server.request("GET", f"/series/{report}/thumbnail")
    assert answer.status_code == 503
    assert "apt install python3-pil," in answer.json()["Message"]


def test_it_works_combined_with_other_scripts(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    others = [ROOT / "purge_old_studies.py", ROOT / "auto_forward_modality.py"]
    combined = combine_scripts(*others, SCRIPT, to=tmp_path / "combined.py")
    server = start_orthanc(combined, NAMED)
    stored = server.store(make_study(instances=3))
    wait_until_kept(server, stored[0]["ParentSeries"])
    assert chosen(server, stored[0]["ParentSeries"]) == stored[1]["ID"]
    assert max(thumbnail(server, "studies", stored[0]["ParentStudy"]).size) == 128
    server.delete(f"/studies/{stored[0]['ParentStudy']}")
    path = f"/series/{stored[0]['ParentSeries']}/thumbnail"
    let_the_second_pass()
    assert server.request("GET", path).status_code == 404
