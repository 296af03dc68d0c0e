# SPDX-License-Identifier: AGPL-3.0-or-later
"""The anonymizer where Orthanc forgets a job as soon as it has ended: how it ended is found out all the same."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer

SCRIPT = Path(__file__).parents[2] / "anonymize_series.py"
SECRET = "a secret for the tests, which nobody knows"  # noqa: S105
AT_ONCE = 6


def start(start_orthanc: StartOrthanc, there: OrthancServer, recipe: dict[str, Any], history: int) -> OrthancServer:
    section = {"Secret": SECRET, "Recipes": {"out": {**recipe, "DeleteCopy": True}}}
    destinations = {"DicomModalities": {"node": there.as_modality()}, "OrthancPeers": {"peer": there.as_peer()}}
    configuration = {"JobsHistorySize": history, "AnonymizeSeries": section, "StableAge": 60, **destinations}
    return start_orthanc(SCRIPT, configuration)


def work(server: OrthancServer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.get("/anonymize-series/jobs")["Items"]
    return items


@pytest.mark.parametrize("history", [0, 1])
@pytest.mark.parametrize("recipe", [{"Modality": "node"}, {"Peer": "peer"}])
def test_several_at_once_arrive_in_one_attempt_each(
    start_orthanc: StartOrthanc, recipe: dict[str, Any], history: int
) -> None:
    there = start_orthanc(None, aet="THERE")
    here = start(start_orthanc, there, recipe, history)
    for number in range(AT_ONCE):
        here.store(make_study(patient_id=f"P{number}", instances=2, BurnedInAnnotation="NO"))
    for study in here.get("/studies"):
        here.post(f"/anonymize-series/{study}", {"Recipe": "out"})
    here.wait_until(
        lambda: all(item["State"] == "done" or item["Error"] for item in work(here)), what="send all", timeout=40
    )
    assert [(item["State"], item["Attempts"], item["Error"]) for item in work(here)] == [("done", 1, "")] * AT_ONCE
    assert len(there.get("/instances")) == 2 * AT_ONCE
    assert len(here.get("/instances")) == 2 * AT_ONCE  # the copies are deleted
    here.assert_not_logged("failed for")


@pytest.mark.parametrize("recipe", [{"Modality": "node"}, {"Peer": "peer"}])
def test_what_ended_while_orthanc_was_killed_is_looked_for_or_sent_again(
    start_orthanc: StartOrthanc, recipe: dict[str, Any]
) -> None:
    there = start_orthanc(None, aet="THERE")
    here = start(start_orthanc, there, recipe, 0)
    here.store(make_study(instances=2, BurnedInAnnotation="NO"))
    there.stop()
    here.post(f"/anonymize-series/{here.get('/studies')[0]}", {"Recipe": "out"})
    here.wait_until(lambda: work(here)[0]["Error"], what="fail once")
    row = work(here)[0]["ID"]
    here.kill()
    there.start()
    # As if Orthanc had been killed while its job ran, and had forgotten it: its end was never reported.
    ledger = here.folder / "storage" / "anonymize_series.sqlite"
    set_sending(ledger, row)
    here.start()
    ended = here.wait_until(lambda: work(here)[0]["State"] == "done" and work(here)[0], what="send again", timeout=30)
    assert ended["Error"] == ""
    assert len(there.get("/instances")) == 2
    assert len(here.get("/instances")) == 2


def set_sending(ledger: Path, row: int) -> None:
    with contextlib.closing(sqlite3.connect(ledger)) as db, db:
        db.execute("UPDATE work SET state='sending', job='0b7b9d3c-0000-4000-8000-000000000000' WHERE id=?", (row,))
    db.close()
