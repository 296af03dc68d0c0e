# SPDX-License-Identifier: AGPL-3.0-or-later
"""An image whose file Orthanc can't read any more: it is neither left out without a word, nor does it hold up the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.anonymize_series.helpers import SCRIPT, section


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(SCRIPT, {**section(), "StableAge": 3600, "MaximumStorageCacheSize": 0})


def lose(server: OrthancServer, content: bytes) -> None:
    folder = Path(server.configuration["StorageDirectory"])
    [path] = [each for each in folder.glob("*/*/*") if each.read_bytes() == content]
    path.unlink()


def attempted(server: OrthancServer, work: int, attempts: int) -> dict[str, Any]:
    """Return the job after so many attempts, between which nobody waits."""

    def made() -> dict[str, Any] | None:
        job: dict[str, Any] = server.get(f"/anonymize-series/jobs/{work}")
        if job["State"] == "waiting" and 0 < job["Attempts"] < attempts:
            server.post(f"/anonymize-series/jobs/{work}/retry", {})
        return job if job["Attempts"] >= attempts and job["State"] not in ("sending", "pending") else None

    return dict(server.wait_until(made, 60, f"{attempts} attempts"))


def test_an_image_whose_file_is_missing_is_held_back_and_the_rest_goes(server: OrthancServer) -> None:
    files = make_study(patient_id="ONE MISSING", instances=3)
    stored = [each for file in files for each in server.store(file)]
    lose(server, files[1])
    work = server.post(f"/anonymize-series/{stored[0]['ParentSeries']}", {"Recipe": "open"})["ID"]
    job = attempted(server, work, 3)
    assert (job["State"], job["HeldBack"], len(job["Copies"])) == ("partly", 1, 2), job
    [held] = server.get("/anonymize-series/held")["Items"]
    assert (held["Instance"], held["Reason"].startswith("Orthanc can't read it: ")) == (stored[1]["ID"], True)


def test_while_orthanc_can_read_none_of_a_series_it_is_tried_again(server: OrthancServer) -> None:
    files = make_study(patient_id="DISK AWAY", instances=2)
    stored = [each for file in files for each in server.store(file)]
    for file in files:
        lose(server, file)
    held = server.get("/anonymize-series/held")["Total"]
    work = server.post(f"/anonymize-series/{stored[0]['ParentSeries']}", {"Recipe": "open"})["ID"]
    job = attempted(server, work, 5)
    assert (job["State"], job["Copies"]) == ("waiting", None), job
    assert server.get("/anonymize-series/held")["Total"] == held
