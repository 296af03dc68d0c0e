# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with scripts of a user's own, combined with others, and with the plugin's threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.dicom_events.helpers import NEVER_STABLE, OWN, ROOT, SCRIPT, events, of_type, wait_for
from tests.scripts import combine_scripts


@pytest.fixture
def combined(tmp_path: Path) -> Callable[[Path], Path]:
    def with_package(own: Path) -> Path:
        own.write_text(OWN)
        return combine_scripts(own, SCRIPT.parent, to=tmp_path / "combined.py")

    return with_package


@pytest.mark.parametrize("where", ["alone", "beside", "elsewhere"])
def test_a_handler_of_a_users_own_publishes_through_the_same_outbox(
    start_orthanc: StartOrthanc, combined: Callable[[Path], Path], tmp_path: Path, where: str
) -> None:
    if where == "alone":  # one script that imports the package which lies beside it
        (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
        script = tmp_path / "own.py"
        script.write_text(OWN)
    elif where == "beside":
        (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
        script = combined(tmp_path / "own.py")
    else:
        script = combined(tmp_path / "own.py")
    server = start_orthanc(script, NEVER_STABLE)
    own = {"type": "org.hospital.report", "data": {"report": 1}, "subject": "reports/1"}
    uid = server.post("/hello", own)
    event = wait_for(server, "org.hospital.report")[0]
    assert (event["id"], event["data"], event["subject"]) == (uid, {"report": 1}, "reports/1")
    assert "not below dicom." in server.post("/hello", {**own, "type": "dicom.study.stable"})
    assert "a text of one line" in server.post("/hello", {**own, "subject": "a\nb"})


def test_combined_with_another_script_both_work(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    server = start_orthanc(combine_scripts(ROOT / "purge_old_studies.py", SCRIPT.parent, to=tmp_path / "combined.py"))
    server.store(make_study(study_date="19990101"))
    wait_for(server, "dicom.patient.stable")
    assert server.get("/purge-old-studies", since="20000101", format="json")["Deleted"] == 1
    wait_for(server, "dicom.patient.deleted")


@pytest.fixture(params=[False, True])
def threads(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Older plugins ignore the key: then both are the same."""
    return {"Python": {"AllowThreads": request.param}}


def test_with_and_without_threads_all_is_told_and_the_server_ends_well(
    start_orthanc: StartOrthanc, threads: dict[str, Any]
) -> None:
    settings = {"Brokers": {"a": {"Type": "file"}, "b": {"Type": "log", "Events": ["dicom.patient.*"]}}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **threads})
    server.store_scu(make_study(series=4, instances=50, rows=8, columns=8))
    wait_for(server, "dicom.patient.stable")
    assert len(of_type(events(server), "dicom.instance.stored")) == 200
    assert server.stop() == 0
