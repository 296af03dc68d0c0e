# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log.py in a combined file, on a real Orthanc: routes of other scripts, their requests, and who purged a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.audit_log.test_audit_log import KEY, USERS, lines, wait_for_line
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
OURS = [ROOT / f"{name}.py" for name in ("audit_log", "purge_old_studies", "series_thumbnail", "instance_dump")]


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory) -> OrthancServer:
    folder = tmp_path_factory.mktemp("combined")
    configuration: dict[str, Any] = {
        "AuditLog": {"Key": KEY, "WatchRequests": True, "Path": "log"},
        "AuthenticationEnabled": True,
        "RegisteredUsers": USERS,
        "PurgeOldStudies": {"MaxPercent": 100, "KeepReceivedDays": 0},
        "StableAge": 3600,
    }
    return start_orthanc_for_module(combine_scripts(*OURS, to=folder / "all.py"), configuration)


def test_our_own_routes_that_show_images_are_in_the_log(server: OrthancServer) -> None:
    stored = server.store(make_study(patient_id="SHOWN"))[0]
    bob = {"auth": ("bob", "builder")}
    for route in (f"/instances/{stored['ID']}/thumbnail", f"/pydicom/{stored['ID']}"):
        assert server.request("GET", route, **bob).ok
        line = wait_for_line(server, Event="retrieve-attempt", Route=route)
        assert (line["User"], line["Patient"], line["Study"]) == ("bob", "SHOWN", stored["ParentStudy"])


def test_what_another_script_reads_is_in_the_log_with_its_name_and_what_the_log_reads_is_not(
    server: OrthancServer,
) -> None:
    stored = server.store(make_study(patient_id="READ"))[0]
    server.request("GET", f"/series/{stored['ParentSeries']}/thumbnail", auth=("bob", "builder"))
    line = wait_for_line(server, Event="retrieve-attempt", Script="series_thumbnail", Patient="READ")
    assert (line["Route"].split("/")[1], "User" in line) == ("instances", False)
    server.get("/audit-log")
    assert not [each for each in lines(server) if each.get("Script") == "audit_log" or each.get("User") == "(Bearer)"]


def test_a_purged_study_has_a_line_that_says_who_asked(server: OrthancServer) -> None:
    patient = "OLD"
    study = server.store(make_study(patient_id=patient, study_date="19990101"))[0]["ParentStudy"]
    asked = {"since": "19991231", "dry-run": "false"}
    answer = server.request("GET", "/purge-old-studies", params=asked, auth=("bob", "builder"))
    assert answer.ok, answer.text
    line = wait_for_line(server, Event="deleted", Level="Study", Resource=study)
    assert line["By"]["Script"] == "purge_old_studies"
    assert line["By"]["AskedBy"]["User"] == "bob"
    assert line["Patient"] == patient
    assert wait_for_line(server, Event="deleted", Level="Patient", Patient=patient)["By"] == line["By"]
    attempt = wait_for_line(server, Event="delete-attempt", Route="/purge-old-studies", User="bob")
    assert attempt["Query"] == asked
    mine = {"Script": "purge_old_studies", "AskedBy": line["By"]["AskedBy"]}
    assert wait_for_line(server, Event="post-attempt", Route="/tools/bulk-delete", **mine)
