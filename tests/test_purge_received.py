# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: what came in lately is kept, and what is posted is a dry run unless it says otherwise."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study, orthanc_identifier, uid
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn

SCRIPT = Path(__file__).parent.parent / "purge_old_studies.py"


def patients(server: OrthancServer) -> set[str]:
    return {study["PatientMainDicomTags"]["PatientID"] for study in server.get("/studies?expand")}


def set_last_update(server: OrthancServer, received: dict[str, datetime.timedelta | None]) -> None:
    """Let studies of some patients have come in so long ago; None: nobody knows when."""
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "index")) as index:
        for patient, ago in received.items():
            study = orthanc_identifier(patient, str(uid(0, patient)))
            where = "type=7 AND id=(SELECT internalId FROM Resources WHERE publicId=?)"  # 7 is LastUpdate
            if ago is None:
                changed = index.execute(f"DELETE FROM Metadata WHERE {where}", (study,)).rowcount
            else:
                moment = datetime.datetime.now(datetime.timezone.utc) - ago  # noqa: UP017
                values = (f"{moment:%Y%m%dT%H%M%S}", study)
                changed = index.execute(f"UPDATE Metadata SET value=? WHERE {where}", values).rowcount
            assert changed == 1
        index.commit()


def days(number: float) -> datetime.timedelta:
    return datetime.timedelta(days=number)


def rules_in(first: int, last: int, step: int) -> list[dict[str, Any]]:
    now = datetime.datetime.now()  # noqa: DTZ005
    moments = [now + datetime.timedelta(seconds=seconds) for seconds in range(first, last, step)]
    return [{"Name": f"{at:%H%M%S}", "OlderThan": "7y", "At": f"{at:%H:%M:%S}"} for at in moments]


@pytest.mark.parametrize(("keeps", "stay"), [({}, {"TODAY", "6 DAYS", "UNKNOWN"}), ({"KeepReceivedDays": 0}, set())])
def test_a_rule_takes_nothing_that_came_in_lately(
    start_briefly: StartOrthanc, keeps: dict[str, int], stay: set[str]
) -> None:
    server = start_briefly(SCRIPT)
    for patient in ("TODAY", "6 DAYS", "8 DAYS", "GROWN", "UNKNOWN"):
        server.store(make_study(patient_id=patient, study_date="20010101"))
    server.kill()
    set_last_update(server, {"6 DAYS": days(6), "8 DAYS": days(8), "GROWN": days(400), "UNKNOWN": None})
    server.start()
    server.store(make_study(patient_id="GROWN", study_date="20010101", instances=2))  # one more image came in today
    server.kill()
    server.configuration["PurgeOldStudies"] = {"Rules": rules_in(3, 60, 5), **keeps}
    server.start()
    server.wait_until(
        lambda: any(job["Ended"] for job in server.get("/purge-old-studies/jobs")["Items"]), what="run the rule"
    )
    assert patients(server) == (stay | {"GROWN"} if stay else set())
    assert ("1 studies stay, since Orthanc does not know when they came in" in server.log) == bool(stay)


def test_a_dry_run_names_how_much_of_it_came_in_lately_and_a_request_keeps_that_if_it_is_told_to(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(SCRIPT)
    for patient in ("TODAY", "6 DAYS", "8 DAYS", "UNKNOWN"):
        server.store(make_study(patient_id=patient, study_date="20010101"))
    server.kill()
    set_last_update(server, {"6 DAYS": days(6), "8 DAYS": days(8), "UNKNOWN": None})
    server.start()
    found = server.get("/purge-old-studies", **{"since": "20200101", "dry-run": "true", "format": "json"})
    assert (found["Studies"], found["ReceivedWithin7Days"]) == (4, 2)
    kept = {"since": "20200101", "keep-received-days": "7", "format": "json"}
    found = server.get("/purge-old-studies", **kept, **{"dry-run": "true"})
    assert (found["Studies"], found["ReceivedWithin7Days"]) == (1, 0)
    assert server.get("/purge-old-studies", **kept)["Deleted"] == 1
    assert patients(server) == {"TODAY", "6 DAYS", "UNKNOWN"}
    assert server.get("/purge-old-studies", since="20200101") == 3  # a request takes what it says


def test_a_rule_by_arrival_that_is_younger_than_what_is_kept_is_refused(orthanc_standin: StandIn) -> None:
    rules = [{"Name": "a", "OlderThan": "3d", "At": "02:30", "By": "received"}]
    orthanc_standin.configuration = {"PurgeOldStudies": {"Rules": rules}}
    orthanc_standin.load(SCRIPT)
    message = orthanc_standin.http("GET", "/purge-old-studies?since=19000101").json()["Message"]
    assert "Rules[0].OlderThan" in message
    assert "KeepReceivedDays (7 days)" in message


def test_what_is_posted_is_a_dry_run_unless_it_says_otherwise(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    server.store(make_study(patient_id="OLD", study_date="20010101"))
    for query in ("", "?dry-run=false", "?dry-run=true"):
        for more in ({}, {"dry-run": True}, {"async": True}, {"force": True}, {"async": True, "force": True}):
            asked = {"since": "20200101", **more}
            answer = server.request("POST", f"/purge-old-studies{query}", json={**asked, "format": "json"})
            assert (answer.status_code, answer.json()["DryRun"], answer.json()["Studies"]) == (200, True, 1)
            assert '"dry-run": false' in answer.json()["Note"]
            assert '"dry-run": false' in server.request("POST", f"/purge-old-studies{query}", json=asked).text
    assert patients(server) == {"OLD"}
    assert server.get("/purge-old-studies/jobs")["Total"] == 0


@pytest.mark.parametrize("continues", [False, True])
def test_what_is_posted_deletes_if_it_says_so_and_a_get_as_ever(start_briefly: StartOrthanc, continues: bool) -> None:
    server = start_briefly(SCRIPT)
    server.store(make_study(patient_id="OLD", study_date="20010101"))
    asked = {"since": "20200101", "dry-run": False, "async": continues}
    assert server.request("POST", "/purge-old-studies", json=asked).status_code == (202 if continues else 200)
    server.wait_until(lambda: not server.get("/studies"), what="delete it")
    server.wait_until(lambda: server.get("/purge-old-studies/status")["Purge"] is None, what="end the purge")
    server.store(make_study(patient_id="OLD", study_date="20010101"))
    assert server.get("/purge-old-studies", since="20200101") == 1
