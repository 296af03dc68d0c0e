# SPDX-License-Identifier: AGPL-3.0-or-later
"""The anonymizer killed between the submission of a job and the note of it: Orthanc goes on with the job, and one is enough."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.anonymize_series.test_forgotten_jobs import SCRIPT, SECRET, work

SECONDS_UNTIL_SAVED = 3  # Orthanc writes its jobs down now and then


def jobs_of(server: OrthancServer, copies: list[str]) -> list[dict[str, Any]]:
    jobs = server.get("/jobs?expand")
    return [job for job in jobs if sorted(job["Content"].get("ParentResources", ())) == sorted(copies)]


@pytest.mark.parametrize("recipe", [{"Modality": "node"}, {"Peer": "peer"}])
def test_a_job_that_was_never_noted_is_found_again(start_orthanc: StartOrthanc, recipe: dict[str, Any]) -> None:
    there = start_orthanc(None, aet="THERE")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        modalities = {
            "node": there.as_modality(),
            "silent": {"AET": "SILENT", "Host": "127.0.0.1", "Port": silent.getsockname()[1], "Timeout": 300},
        }
        configuration = {
            "AnonymizeSeries": {"Secret": SECRET, "Recipes": {"out": recipe}},
            **{"DicomModalities": modalities, "OrthancPeers": {"peer": there.as_peer()}},
            **{"ConcurrentJobs": 1, "StableAge": 3600},
        }
        here = start_orthanc(SCRIPT, configuration)
        [stored] = here.store(make_study(BurnedInAnnotation="NO"))
        # The only job that runs waits for an answer.
        body = {"Resources": [stored["ID"]], "Synchronous": False, "Priority": 100}
        here.post("/modalities/silent/store", body)
        here.post(f"/anonymize-series/{stored['ParentStudy']}", {"Recipe": "out"})
        here.wait_until(lambda: work(here)[0]["State"] == "sending" and len(here.get("/jobs")) == 2, what="submit")
        copies = [each for each in here.get("/instances") if each != stored["ID"]]
        [job] = jobs_of(here, copies)
        time.sleep(SECONDS_UNTIL_SAVED)
        here.kill()
        with contextlib.closing(sqlite3.connect(here.folder / "storage" / "anonymize_series.sqlite")) as db, db:
            assert db.execute("UPDATE work SET job=NULL WHERE state='sending' AND job=?", (job["ID"],)).rowcount == 1
        here.start()
        here.wait_until(lambda: work(here)[0]["Attempts"] == 2, what="go on")
        here.wait_until(lambda: work(here)[0]["State"] == "sending", what="find the job")
    here.wait_until(lambda: work(here)[0]["State"] == "done", what="send", timeout=60)
    assert [each["ID"] for each in jobs_of(here, copies)] == [job["ID"]]
    assert len(there.get("/instances")) == len(copies)
