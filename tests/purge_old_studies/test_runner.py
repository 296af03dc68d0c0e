# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py: what happens while a purge runs: changes, failures, kills, and other requests."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from testing.dicom import make_study, orthanc_identifier, uid
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.purge_old_studies.helpers import SCRIPT, changed, dates_left, deleted_in_history, ended, fill, job


def hold(server: OrthancServer) -> Callable[[], None]:
    """Deletions wait from now on, until what this returns is called."""
    (server.folder / "hold").touch()
    return (server.folder / "hold").unlink


def start_held(server: OrthancServer, **asked: Any) -> tuple[int, Callable[[], None]]:
    """An asynchronous purge that waits in its first deletion."""
    go_on = hold(server)
    answer = server.request(
        "POST", "/purge-old-studies", json={"since": "20200101", "dry-run": False, "async": True, **asked}
    )
    assert answer.status_code == 202
    server.wait_until((server.folder / "held").exists, what="begin to delete")
    return answer.json()["ID"], go_on


def test_a_study_that_fails_is_reported_and_the_others_go(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT)
    fill(server, ["20010101"] * 30)
    bad = server.get("/studies")[7]
    server.kill()
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "index")) as index:
        index.execute(
            f"CREATE TRIGGER refuses BEFORE DELETE ON Resources WHEN OLD.publicId='{bad}' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        index.commit()
    server.start()
    answer = server.request("GET", "/purge-old-studies", params={"since": "20200101"})
    found = answer.json()
    assert (answer.status_code, found["Deleted"], found["Failed"], found["Kept"]) == (500, 29, [bad], [])
    assert server.get("/studies") == [bad]
    assert job(server, found["Purge"])["NotDeleted"][0]["ID"] == bad
    assert [line["Event"] for line in server.get("/purge-old-studies/history")["Items"] if line.get("ID") == bad] == [
        "failed"
    ]


def test_what_changes_between_choice_and_deletion_is_kept(
    start_briefly: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    server = start_briefly(
        changed(WINDOW=1, STALE=0),
        {"PurgeOldStudies": {"KeepLabels": ["teaching"]}, "UserMetadata": {"Keep": 5000}},
    )
    fill(server, [f"2001010{number}" for number in range(1, 8)])
    ids = [
        study["ID"]
        for study in sorted(server.get("/studies?expand"), key=lambda study: str(study["MainDicomTags"]["StudyDate"]))
    ]
    patients = {study["ID"]: study["ParentPatient"] for study in server.get("/studies?expand")}
    seconds = time.time() + 1
    server.wait_until(lambda: time.time() > seconds, what="a second: LastUpdate knows no smaller time")
    number, go_on = start_held(server)
    kept = [ids[1], ids[2]]
    server.put(f"/patients/{patients[ids[1]]}/protected", "1")
    server.store(make_study(patient_id="P2", study_date="20010103", instances=3))
    if orthanc_version >= (1, 12, 0):
        server.put(f"/studies/{ids[4]}/labels/teaching")
        kept.append(ids[4])
    go_on()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], found["Kept"]) == ("partly", 7 - len(kept), len(kept))
    assert sorted(server.get("/studies")) == sorted(kept)
    assert sorted(each["ID"] for each in found["NotDeleted"]) == sorted(kept)


def test_a_study_that_somebody_else_deleted_meanwhile_counts_as_gone(start_briefly: StartOrthanc) -> None:
    server = start_briefly(changed(WINDOW=1, STALE=0))
    fill(server, ["20010101", "20010102", "20010103"])
    number, go_on = start_held(server)
    # Deletions wait, Orthanc's own routes don't.
    server.delete(f"/studies/{orthanc_identifier('P1', str(uid(0, 'P1')))}")
    go_on()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], found["Gone"]) == ("done", 2, 1)
    assert server.get("/studies") == []


def test_one_purge_at_a_time_and_it_can_be_looked_at_and_cancelled(start_briefly: StartOrthanc) -> None:
    server = start_briefly(changed(BATCH=10, WINDOW=5))
    fill(server, ["20010101"] * 20)
    number, go_on = start_held(server)
    refused = server.request("GET", "/purge-old-studies", params={"since": "20200101"})
    assert (refused.status_code, f"purge {number} is going on" in refused.json()["Message"]) == (409, True)
    assert server.get("/purge-old-studies", **{"since": "20200101", "dry-run": "true"}).startswith("DryRun: True")
    found = job(server, number)
    assert (found["State"], found["Progress"], found["Remaining"], found["Studies"]) == ("running", 0, 20, 20)
    assert server.get("/purge-old-studies/status")["Purge"] == number
    assert server.post(f"/purge-old-studies/jobs/{number}/cancel")["State"] == "cancelled"
    go_on()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], found["Remaining"]) == ("cancelled", 5, 15)
    assert server.request("POST", f"/purge-old-studies/jobs/{number}/cancel").status_code == 409
    assert len(server.get("/studies")) == 15
    server.kill()
    server.start()
    assert job(server, number)["State"] == "cancelled"
    assert server.get("/purge-old-studies", since="20200101").startswith("Purged 15 ")


@pytest.mark.parametrize("continues", [True, False], ids=["async", "sync"])
def test_killed_half_way_an_asynchronous_purge_goes_on_and_the_history_is_complete(
    start_briefly: StartOrthanc, continues: bool
) -> None:
    server = start_briefly(SCRIPT)
    fill(server, ["20010101"] * 300)
    before = set(server.get("/studies"))
    if continues:
        server.post("/purge-old-studies", {"since": "20200101", "dry-run": False, "async": True})
    else:
        caller = threading.Thread(
            target=lambda: _ignore_errors(lambda: server.get("/purge-old-studies", since="20200101"))
        )
        caller.start()
    server.wait_until(lambda: len(server.get("/studies")) < 250, what="delete some")
    server.kill()
    server.start()
    found = ended(server, 1)
    left = set(server.get("/studies"))
    if continues:
        assert (found["State"], found["Deleted"], left) == ("done", 300, set())
    else:
        caller.join()
        assert found["State"] == "interrupted"
        assert 0 < len(left) < 250
    assert deleted_in_history(server) == sorted(before - left)
    assert found["Deleted"] == 300 - len(left)


def _ignore_errors(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        call()


def test_killed_while_a_batch_is_deleted_nothing_is_missing_from_the_history_and_nothing_stands_there_twice(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(changed())
    fill(server, ["20010101"] * 10)
    before = server.get("/studies")
    number, go_on = start_held(server)  # marked as being deleted, and not deleted yet
    server.kill()
    # As if the batch had been deleted before the kill: three with a line in the history, one with half a line, the rest without.
    go_on()
    (server.folder / "hold").touch()
    with (server.folder / "storage" / "purge_old_studies.jsonl").open("a") as history:
        for study in before[:3]:
            history.write(
                json.dumps({"Time": "2024-01-01T00:00:00Z", "Purge": number, "Event": "deleted", "ID": study}) + "\n"
            )
        history.write('{"Time": "2024-01-01T00:00:00Z", "Purge": 1, "Ev')
    other = start_briefly(
        None, {"StorageDirectory": str(server.folder / "storage"), "IndexDirectory": str(server.folder / "storage")}
    )
    for study in before[:8]:
        other.delete(f"/studies/{study}")
    other.kill()
    (server.folder / "hold").unlink()
    server.start()
    found = ended(server, number)
    assert found["Deleted"] == 10, found
    assert deleted_in_history(server) == sorted(before)


def test_stopped_half_way_it_ends_well_and_goes_on_at_the_next_start(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(changed(WINDOW=5))
    fill(server, ["20010101"] * 40)
    number, go_on = start_held(server)
    server.wait_until_stable()
    server.terminate()
    go_on()
    assert server.finish() == 0
    server.start()
    assert ended(server, number)["Deleted"] == 40
    assert len(deleted_in_history(server)) == 40


SIZES = """
def _slowly(delete):
    def slowly(self, studies, who):
        with (Path(orthanc.GetConfigurationPath()).parent / "sizes").open("a") as sizes:
            sizes.write(f"{len(studies)} ")
        time.sleep(0.02 * len(studies))
        return delete(self, studies, who)

    return slowly


Archive.delete = _slowly(Archive.delete)
"""


@pytest.mark.parametrize(
    ("constants", "sizes"),
    [
        ({"BATCH": 16, "BATCH_SECONDS": 0.04}, [8, 4, 2, 1]),
        ({"BATCH": 2, "BATCH_SECONDS": 60}, [1, 2, 4, 8]),
        ({"BATCH": 2, "BATCH_SECONDS": 60, "PIECE": 8}, [1, 2, 4, 4]),
    ],
    ids=["slow", "quick", "no more than a piece"],
)
def test_a_request_deletes_as_much_as_it_can_in_its_time_so_that_others_wait_no_longer(
    start_briefly: StartOrthanc, constants: dict[str, float], sizes: list[int]
) -> None:
    server = start_briefly(changed(**constants) + SIZES)
    fill(server, ["20010101"] * 33)
    assert server.get("/purge-old-studies", since="20200101", format="json")["Deleted"] == 33
    found = [int(size) for size in (server.folder / "sizes").read_text().split()]
    assert (found[:4], sum(found)) == (sizes, 33)
    if constants["BATCH"] > 2:
        assert set(found[4:]) == {1}


QUESTIONS = """
def _told(exchange):
    def told(self, method, path, body=None, headers=None):
        if path == "/tools/find":
            with (Path(orthanc.GetConfigurationPath()).parent / "questions").open("a") as questions:
                print(json.dumps(body), file=questions)
        return exchange(self, method, path, body, headers)

    return told


Loopback.request_raw = _told(Loopback.request_raw)
"""


def test_what_reads_through_the_archive_once_more_is_asked_when_studies_are_chosen_and_not_at_each_look(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(changed(WINDOW=4, STUDIES_PAGE=10) + QUESTIONS)
    fill(server, ["20010101"] * 22)
    assert server.get("/purge-old-studies", since="20200101", format="json")["Deleted"] == 22
    if not server.get("/system").get("Capabilities", {}).get("HasExtendedFind"):
        return  # these count as they look, study by study, whatever the archive has
    questions = [json.loads(line) for line in (server.folder / "questions").read_text().splitlines()]
    pages = [question["Since"] for question in questions if question.get("RequestedTags")]
    looks = [question for question in questions if "StudyInstanceUID" in question["Query"]]
    assert pages == [0, 10, 20]
    assert looks
    assert not any("RequestedTags" in look for look in looks)


def test_a_study_that_was_never_counted_goes_alone(script: ModuleType) -> None:
    # Written down by an older version of the script (no Instances), or by an Orthanc that counts later (0), before an upgrade.
    def together(*facts: dict[str, int]) -> int:
        instances = (script._instances({"facts": each}, None) for each in facts)
        return int(script.batch_length(instances, script.PIECE))

    assert together({"Instances": 3}, {"Instances": 4}, {"Instances": 5}) == 3
    for unknown in ({}, {"Instances": 0}):
        assert together(unknown, {"Instances": 4}) == 1
        assert together({"Instances": 4}, unknown) == 1


def test_a_large_study_goes_in_pieces_and_is_not_left_half(start_briefly: StartOrthanc) -> None:
    server = start_briefly(changed(PIECE=5))
    server.store(make_study(patient_id="LARGE", instances=12, series=2, study_date="20010101"))
    fill(server, ["20010102"])
    number, go_on = start_held(server)
    server.kill()
    go_on()
    server.start()
    found = ended(server, number)
    assert (found["State"], found["Deleted"], server.get("/instances")) == ("done", 2, [])


def test_killed_while_a_large_study_goes_in_pieces_an_interrupted_purge_finishes_that_and_takes_no_other(
    start_briefly: StartOrthanc,
) -> None:
    server = start_briefly(changed(PIECE=5))
    server.store(make_study(patient_id="LARGE", instances=12, study_date="20010101"))
    fill(server, ["20010102"])
    go_on = hold(server)
    caller = threading.Thread(target=lambda: _ignore_errors(lambda: server.get("/purge-old-studies", since="20200101")))
    caller.start()
    server.wait_until((server.folder / "held").exists, what="begin to delete")
    server.kill()
    caller.join()
    go_on()
    server.start()
    found = ended(server, 1)
    assert (found["State"], found["Deleted"], dates_left(server)) == ("interrupted", 1, ["20010102"])
