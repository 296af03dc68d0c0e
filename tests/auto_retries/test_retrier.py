# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries.py on a real Orthanc: jobs that failed are run again until what they send has arrived."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from tests.auto_retries.helpers import (
    QUICK,
    SCRIPT,
    failed,
    instances,
    jobs,
    knowing,
    make_orthanc_forget_its_jobs,
    send,
    states,
    store_old_study,
    store_study,
)

ENDED = {"Success", "Failure"}


@contextlib.contextmanager
def never_answering(port: int) -> Iterator[None]:
    """A node that accepts connections on this port, and says nothing."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(100)
        yield


@pytest.mark.parametrize("route", ["modalities", "peers"])
def test_what_somebody_sent_to_a_destination_that_is_down_arrives_when_it_is_back(
    start_orthanc: StartOrthanc, route: str
) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination))
    job = send(source, store_old_study(source, instances=3), "DEST", route)
    [item] = failed(source)
    assert (item["State"], item["FirstJob"], item["Destination"]) == ("waiting", job, "DEST")
    source.wait_until(lambda: jobs(source)[0]["Attempts"] > 2, what="try in vain")
    destination.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(destination) == instances(source)
    # Orthanc still knew it: resubmitted, it keeps what its content does not show.
    assert jobs(source)[0]["Job"] == job
    assert [each["Job"] for each in source.get(f"/auto-retries/jobs/{item['ID']}")["History"]][:2] == [job, job]


@pytest.mark.parametrize(
    ("route", "options", "shown"),
    [
        (
            "modalities",
            {"MoveOriginatorAet": "ASKER", "MoveOriginatorID": 7, "LocalAet": "OTHER", "Priority": 5},
            {"MoveOriginatorAET": "ASKER", "MoveOriginatorID": 7, "LocalAet": "OTHER"},
        ),
        ("peers", {"Compress": True, "Transcode": "1.2.840.10008.1.2", "Priority": 5}, {"Compress": True}),
    ],
)
def test_a_job_that_orthanc_has_forgotten_is_submitted_anew_with_its_options_and_is_no_new_job_of_somebody(
    start_orthanc: StartOrthanc, route: str, options: dict[str, Any], shown: dict[str, Any]
) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, {**knowing(destination), "JobsHistorySize": 1})
    first = send(source, store_study(source, instances=2), "DEST", route, **options)
    failed(source)
    make_orthanc_forget_its_jobs(source)
    assert first not in source.get("/jobs")
    source.wait_until(lambda: jobs(source)[0]["Attempts"] > 2, what="try in vain")
    destination.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(destination) == instances(source)
    [item] = jobs(source, job=first)
    assert item["Job"] != first
    again = source.get(f"/jobs/{item['Job']}")
    assert again["Priority"] == 5
    assert {key: again["Content"].get(key) for key in shown} == shown


def test_without_any_history_the_content_taken_at_submission_is_enough(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, {**knowing(destination), "JobsHistorySize": 0, "DicomScuTimeout": 1})
    with never_answering(destination.dicom_port):
        send(source, store_study(source), "DEST")
        [item] = failed(source)
    assert "has forgotten why" in item["Error"]
    destination.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(destination) == instances(source)
    assert source.log.count("with JobsHistorySize 0") == 1


def test_it_arrives_across_kill_and_restart(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination))
    send(source, store_study(source, patient_id="A", instances=2), "DEST")
    send(source, store_study(source, patient_id="B", instances=2), "DEST", "peers")
    failed(source, 2)
    source.kill()
    source.start()
    source.wait_until(lambda: all(item["Attempts"] > 1 for item in jobs(source)), what="try after the kill")
    source.restart()
    destination.start()
    source.wait_until(lambda: states(source) == ["done", "done"], what="run both again")
    assert instances(destination) == instances(source)


def test_a_job_that_was_running_when_orthanc_was_killed_is_not_lost(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    # SaveJobs false: Orthanc itself knows nothing of it any more.
    source = start_orthanc(SCRIPT, {**knowing(destination), "SaveJobs": False})
    with never_answering(destination.dicom_port):
        send(source, store_study(source), "DEST", Timeout=20)
        source.wait_until(lambda: source.get("/auto-retries/status")["Watched"] == 1, what="watch it")
        source.kill()
    destination.start()
    source.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(destination) == instances(source)


def test_a_retry_whose_submission_a_kill_cut_off_from_its_note_is_found_and_not_sent_twice(
    start_orthanc: StartOrthanc,
) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, {**knowing(destination), "JobsHistorySize": 1, "DicomScuTimeout": 6})
    first = send(source, store_study(source), "DEST")
    failed(source)
    make_orthanc_forget_its_jobs(source)
    with never_answering(destination.dicom_port):
        source.wait_until(lambda: states(source) == ["sending"] and jobs(source)[0]["Job"] != first, what="send anew")
        second = jobs(source)[0]["Job"]
        time.sleep(0.5)  # Orthanc saves its jobs now and then
        source.kill()
        # As if the kill had come before the answer to the POST was written down, and before the event was.
        [ledger] = source.folder.rglob("auto_retries.sqlite")
        with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as db:
            assert db.execute("UPDATE work SET job=NULL WHERE state='sending'").rowcount == 1
            db.execute("DELETE FROM watched")
        source.start()
        source.wait_until(lambda: jobs(source)[0]["Job"] == second, what="find the job that goes on")
        stores = [job["ID"] for job in source.get("/jobs?expand") if job["Type"] == "DicomModalityStore"]
        assert stores == [second]
    destination.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(destination) == instances(source)


def test_what_a_person_canceled_is_not_run_again(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, {**knowing(destination), "DicomScuTimeout": 4})
    study = store_study(source)
    with never_answering(destination.dicom_port):
        send(source, study, "DEST", LocalAet="A")
        send(source, study, "DEST", LocalAet="B")
        canceled = send(source, study, "DEST", LocalAet="C")
        assert source.get(f"/jobs/{canceled}")["State"] == "Pending"  # both slots are taken
        source.post(f"/jobs/{canceled}/cancel")
        failed(source, 2)
    destination.start()
    source.wait_until(lambda: states(source) == ["done", "done"], what="run the others again")
    assert canceled not in {item["FirstJob"] for item in jobs(source)}


def test_a_retry_that_a_person_cancels_waits_for_a_person(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, {**knowing(destination)})
    study = store_study(source, instances=400)
    send(source, study, "DEST", "peers")
    [item] = failed(source)
    destination.start()
    source.wait_until(lambda: len(instances(destination)) > 5, what="send a part")
    source.post(f"/jobs/{jobs(source)[0]['Job']}/cancel")
    source.wait_until(lambda: states(source) == ["dead"], what="take note of the cancellation")
    assert len(instances(destination)) < 400
    assert jobs(source)[0]["Error"] == "it was canceled"
    source.post(f"/auto-retries/jobs/{item['ID']}/retry")
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(destination) == instances(source)


def test_what_was_deleted_meanwhile_ends_as_gone_and_the_rest_arrives(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination))
    images = [each["ID"] for each in source.store(make_study(patient_id="PART", instances=3))]
    whole = store_study(source, patient_id="WHOLE", instances=3)
    replaced = make_study(patient_id="REPLACED", instances=4)
    wrong = source.store(replaced[:3])[0]
    gone = store_old_study(source, patient_id="GONE")
    send(source, gone, "DEST")
    source.post("/modalities/DEST/store", {"Resources": images, "Synchronous": False})
    send(source, whole, "DEST", "peers")
    send(source, wrong["ParentStudy"], "DEST")
    failed(source, 4)
    source.delete(f"/studies/{gone}")
    source.delete(f"/instances/{images[0]}")
    source.delete(f"/instances/{source.get(f'/studies/{whole}/instances')[0]['ID']}")
    source.delete(f"/instances/{wrong['ID']}")  # as many as before, and not the same
    source.store(replaced[3])
    destination.start()
    source.wait_until(lambda: sorted(states(source)) == ["done", "done", "done", "gone"], what="settle all")
    assert instances(destination) == instances(source)
    assert len(instances(source)) == 7


def test_after_its_hours_it_is_dead(start_orthanc: StartOrthanc, storescp: StoreScp) -> None:
    storescp.stop()
    source = start_orthanc(SCRIPT, knowing(storescp, Retry={**QUICK, "GiveUpHours": 2 / 3600}))
    send(source, store_study(source), storescp.aet)
    source.wait_until(lambda: states(source) == ["dead"], what="give up")
    assert 1 < jobs(source)[0]["Attempts"] < 6


def test_what_a_person_sends_five_times_goes_again_once(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination, Retry={"First": 4}))
    study = store_study(source)
    sent = [send(source, study, "DEST") for _ in range(5)]
    source.wait_until(lambda: source.get("/auto-retries/status")["Watched"] == 0, what="settle all")
    [item] = jobs(source)
    assert item["FirstJob"] in sent  # two run at a time: which fails first is theirs


def test_a_person_who_resubmits_is_not_followed_by_another_run(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination, Retry={"First": 3600, "Longest": 7200}))
    sent = send(source, store_study(source), "DEST")
    failed(source)
    destination.start()
    source.post(f"/jobs/{sent}/resubmit")
    source.wait_until(lambda: states(source) == ["done"], what="see that it has succeeded")
    assert jobs(source)[0]["Attempts"] == 1


def test_a_destination_that_never_answers_neither_takes_all_slots_nor_holds_others_up(
    start_orthanc: StartOrthanc,
) -> None:
    hanging, destination = start_orthanc(aet="HANGS", start=False), start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, {**knowing(hanging, destination), "DicomScuTimeout": 1})
    study = store_study(source)
    with never_answering(hanging.dicom_port):
        for number in range(6):
            send(source, study, "HANGS", LocalAet=f"A{number}")
        failed(source, 6)
        send(source, study, "DEST")
        failed(source, 7)
        destination.start()

        def finished() -> bool:
            running = [job for job in source.get("/jobs?expand") if job["State"] not in ENDED]
            assert len(running) <= 1  # of two slots
            return "done" in states(source)

        source.wait_until(finished, what="send to the node that answers", timeout=10)
    assert instances(destination) == instances(source)


def test_a_ledger_that_is_lost_or_corrupt_runs_nothing_by_itself(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination))
    study = store_study(source)
    send(source, study, "DEST")
    failed(source)
    source.stop()
    [ledger] = source.folder.rglob("auto_retries.sqlite")
    assert ledger.stat().st_mode & 0o777 == 0o600
    ledger.write_bytes(bytes(range(256)) * 64)
    source.start()
    source.wait_until(lambda: source.log.count("was corrupt and is kept as") == 1, what="warn once")
    destination.start()
    send(source, study, "DEST", "peers")
    destination.wait_until(lambda: instances(destination) == instances(source), what="receive the new one")
    assert jobs(source) == []
