# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: a rule that was taken out of the configuration, or narrowed, deletes nothing more after a restart."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc

SCRIPT = Path(__file__).parents[2] / "purge_old_studies.py"
RULE: dict[str, Any] = {"Name": "old", "OlderThan": "7y", "At": "02:30"}


@pytest.mark.parametrize(
    ("rules", "goes_on"),
    [
        ([RULE], True),
        ([{**RULE, "At": "03:30"}], True),
        ([{**RULE, "OlderThan": "1y"}], True),
        ([], False),
        ([{**RULE, "Name": "another"}], False),
        ([{**RULE, "OlderThan": "30y"}], False),
        ([{**RULE, "Query": {"ModalitiesInStudy": "MR"}}], False),
    ],
)
def test_what_a_kill_left_of_a_rule_goes_on_only_if_the_rule_still_says_so(
    start_orthanc: StartOrthanc, rules: list[dict[str, Any]], goes_on: bool
) -> None:
    server = start_orthanc(SCRIPT, {"PurgeOldStudies": {"Rules": [RULE]}})
    for patient in "AB":
        server.store(make_study(patient_id=patient, study_date="20010101"))
    server.wait_until(lambda: server.get("/purge-old-studies/status")["State"] == "running", what="start")
    studies = server.get("/studies?expand")
    server.kill()
    conditions = {
        **{"last": "20150101", "by": "StudyDate", "query": {}, "labels": [], "labels_constraint": "All"},
        **{"limit": None, "undated": False, "received_until": ""},
    }
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "purge_old_studies.sqlite")) as ledger:
        values = (json.dumps({"User": None, "Rule": "old"}), json.dumps(conditions), time.time())
        ledger.execute("INSERT INTO purges VALUES(1,'running',1,?,?,?,NULL)", values)
        for number, study in enumerate(studies):
            facts = {"LastUpdate": study["LastUpdate"], "Instances": 1, **study["MainDicomTags"]}
            ledger.execute("INSERT INTO studies VALUES(1,?,?,?,'waiting','')", (number, study["ID"], json.dumps(facts)))
        ledger.commit()
    server.configuration["PurgeOldStudies"] = {"Rules": rules}
    server.start()
    found = server.wait_until(
        lambda: (job := server.get("/purge-old-studies/jobs/1"))["Ended"] and job, what="end the purge"
    )
    if goes_on:
        assert (found["State"], server.get("/studies")) == ("done", [])
    else:
        assert (found["State"], len(server.get("/studies"))) == ("interrupted", 2)
        assert "its rule old is not in the configuration any more, or says something else" in server.log
