# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries.py on a real Orthanc, with jobs that a REST client submits to real destinations."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer, start_process
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "auto_retries.py"
SCRIPT = script_with(BUILT, QUICK)
NEVER_BY_ITSELF = script_with(BUILT, {"FIRST_DELAY_SECONDS": 3600.0, "LONGEST_DELAY_SECONDS": 7200.0})
ENDED = {"Success", "Failure"}


def knowing(*destinations: OrthancServer | StoreScp, **section: Any) -> dict[str, Any]:
    """The configuration of an Orthanc that knows these, as nodes and as peers."""
    return {
        "DicomModalities": {each.aet: each.as_modality() for each in destinations},
        "OrthancPeers": {each.aet: each.as_peer() for each in destinations if isinstance(each, OrthancServer)},
        "AutoRetries": section,
    }


def store_study(server: OrthancServer, **options: Any) -> str:
    """Store a generated study and give its identifier."""
    return str(server.store(make_study(**options))[0]["ParentStudy"])


def store_old_study(server: OrthancServer, **options: Any) -> str:
    """Store a study, and let a whole second pass: from then on it can be told that nothing came after a job."""
    study = store_study(server, **options)
    came = server.get(f"/studies/{study}")["LastUpdate"]
    server.wait_until(lambda: f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}" > came, what="let a second pass")
    return study


def send(server: OrthancServer, resource: str, to: str, route: str = "modalities", **options: Any) -> str:
    """Submit a store job, as a REST client does, and give its identifier."""
    body = {"Resources": [resource], "Synchronous": False, **options}
    return str(server.post(f"/{route}/{to}/store", body)["ID"])


def get(server: OrthancServer, path: str, **filters: Any) -> Any:
    """GET from a script, which may start a moment after Orthanc does."""
    server.wait_until(lambda: server.request("GET", path, params=filters).status_code != 503, what=f"start for {path}")
    return server.get(path, **filters)


def jobs(server: OrthancServer, **filters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = get(server, "/auto-retries/jobs", **filters)["Items"]
    return items


def states(server: OrthancServer) -> list[str]:
    return [item["State"] for item in jobs(server)]


def instances(server: OrthancServer) -> set[str]:
    return set(server.get("/instances"))


def failed(server: OrthancServer, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many jobs have failed, and give them."""
    server.wait_until(lambda: len(jobs(server)) == count, what=f"take {count} failed jobs")
    return jobs(server)


def has_succeeded(server: OrthancServer, job: str) -> bool:
    return bool(server.get(f"/jobs/{job}")["State"] == "Success")


def make_orthanc_forget_its_jobs(server: OrthancServer) -> None:
    """Run jobs of another type until the history (`JobsHistorySize` 1) holds nothing else."""
    study = server.get("/studies")[0]
    for _ in range(2):
        archive = server.post(f"/studies/{study}/archive", {"Asynchronous": True})["ID"]
        server.wait_until(functools.partial(has_succeeded, server, archive), what="make an archive")


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


def test_when_its_time_is_over_it_is_dead_until_a_person_retries_or_drops_it(
    start_orthanc: StartOrthanc, storescp: StoreScp
) -> None:
    storescp.stop()
    refusing = start_process([storescp._program, "--refuse", str(storescp.port)], log=storescp.folder / "refusing.log")
    source = start_orthanc(SCRIPT, knowing(storescp, Retry={"GiveUpHours": 2 / 3600}))
    for patient in "ABC":
        send(source, store_study(source, patient_id=patient), storescp.aet)
    source.wait_until(lambda: states(source) == ["dead"] * 3, what="give up")
    assert all(1 < item["Attempts"] < 6 for item in jobs(source))
    first, second, third = (item["ID"] for item in jobs(source))
    assert source.log.count(f"Given up; POST /auto-retries/jobs/{first}/retry runs it again") == 1
    refusing.kill()
    refusing.wait()
    storescp.start()
    source.post(f"/auto-retries/jobs/{first}/retry")
    source.delete(f"/auto-retries/jobs/{second}")
    source.wait_until(lambda: states(source) == ["done", "dead"], what="run the first again")
    assert source.post("/auto-retries/jobs/retry", {"Destination": "ELSEWHERE"}) == {"Retried": 0}
    assert source.post("/auto-retries/jobs/retry", {"Destination": storescp.aet}) == {"Retried": 1}
    source.wait_until(lambda: states(source) == ["done", "done"], what="run the third again")
    assert len(list(storescp.folder.glob("CT*"))) == 2
    assert source.request("POST", f"/auto-retries/jobs/{third}/retry").status_code == 409
    metrics = source.get("/tools/metrics-prometheus")
    assert "auto_retries_done 2" in metrics
    assert "auto_retries_dead 0" in metrics


def test_after_its_hours_it_is_dead(start_orthanc: StartOrthanc, storescp: StoreScp) -> None:
    storescp.stop()
    source = start_orthanc(SCRIPT, knowing(storescp, Retry={"GiveUpHours": 2 / 3600}))
    send(source, store_study(source), storescp.aet)
    source.wait_until(lambda: states(source) == ["dead"], what="give up")
    assert 1 < jobs(source)[0]["Attempts"] < 6


def test_the_jobs_of_a_forward_script_are_left_alone(
    start_orthanc: StartOrthanc, storescp: StoreScp, tmp_path: Path
) -> None:
    combined, forwarder = tmp_path / "combined.py", script_with(ROOT / "auto_forward_modality.py", QUICK)
    subprocess.run([sys.executable, ROOT / "combine.py", SCRIPT, forwarder, "-o", combined], check=True)
    other = start_orthanc(aet="OTHER", start=False)
    section = {"Destinations": [storescp.aet]}
    storescp.stop()
    source = start_orthanc(combined, {**knowing(storescp, other), "AutoForwardModality": section})
    study = store_study(source, patient_id="FORWARDED")

    def deliveries() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = get(source, "/auto-forward-modality/deliveries")["Items"]
        return items

    def failures() -> int:
        return sum(job["State"] == "Failure" for job in source.get("/jobs?expand"))

    source.wait_until(failures, what="forward in vain")
    sent = send(source, study, "OTHER")
    [item] = failed(source)
    assert item["FirstJob"] == sent
    source.kill()
    source.start()
    source.wait_until(failures, what="fail again after the kill")
    storescp.start()
    other.start()
    source.wait_until(lambda: [each["State"] for each in deliveries()] == ["done"], what="forward")
    source.wait_until(lambda: states(source) == ["done"], what="run the other's job again")
    assert [each["FirstJob"] for each in jobs(source)] == [sent]
    assert len(list(storescp.folder.glob("CT*"))) == 1


def test_a_c_move_is_run_again(start_orthanc: StartOrthanc) -> None:
    archive = start_orthanc(aet="ARCHIVE")
    source = start_orthanc(SCRIPT, knowing(archive))
    archive.configuration["DicomModalities"] = {"ORTHANC": source.as_modality()}
    archive.restart()
    store_study(archive, patient_id="P", instances=2)
    query = source.post("/modalities/ARCHIVE/query", {"Level": "Study", "Query": {"PatientID": "P"}})["ID"]
    archive.stop()
    source.post(f"/queries/{query}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": False})
    [item] = failed(source)
    assert item["Type"] == "DicomMoveScu"
    archive.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert instances(source) == instances(archive)


def test_a_c_move_that_orthanc_has_forgotten_goes_anew_or_says_why_not(
    start_orthanc: StartOrthanc, orthanc_version: tuple[int, ...]
) -> None:
    archive = start_orthanc(aet="ARCHIVE")
    source = start_orthanc(SCRIPT, {**knowing(archive), "JobsHistorySize": 1})
    archive.configuration["DicomModalities"] = {"ORTHANC": source.as_modality()}
    archive.restart()
    moved = make_study(patient_id="P", instances=2)
    archive.store(moved)
    query = source.post("/modalities/ARCHIVE/query", {"Level": "Study", "Query": {"PatientID": "P"}})["ID"]
    archive.stop()
    store_study(source, patient_id="LOCAL")
    source.post(f"/queries/{query}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": False})
    [item] = failed(source)
    make_orthanc_forget_its_jobs(source)
    archive.start()
    if orthanc_version < (1, 11):  # 1.10.1 does not show where to
        source.wait_until(lambda: states(source) == ["dead"], what="give up")
        assert "not enough to submit it anew" in jobs(source)[0]["Error"]
    else:
        source.wait_until(lambda: states(source) == ["done"], what="run it again")
        assert jobs(source)[0]["Job"] != item["FirstJob"]
        assert instances(archive) < instances(source)


def test_a_c_get_goes_anew_where_orthanc_has_it(start_orthanc: StartOrthanc, orthanc_version: tuple[int, ...]) -> None:
    archive = start_orthanc(aet="ARCHIVE", configuration={"DicomAlwaysAllowGet": True})
    source = start_orthanc(SCRIPT, {**knowing(archive, Types=["DicomGetScu"]), "JobsHistorySize": 1})
    images = make_study(patient_id="P", instances=2)
    archive.store(images)
    wanted = {"StudyInstanceUID": archive.get("/studies?expand")[0]["MainDicomTags"]["StudyInstanceUID"]}
    body = {"Level": "Study", "Resources": [wanted], "Synchronous": False}
    store_study(source, patient_id="LOCAL")
    archive.stop()
    answer = source.request("POST", "/modalities/ARCHIVE/get", json=body)
    assert (answer.status_code == 404) == (orthanc_version < (1, 12, 7))
    if answer.ok:
        [item] = failed(source)
        make_orthanc_forget_its_jobs(source)
        archive.start()
        source.wait_until(lambda: states(source) == ["done"], what="run it again")
        assert jobs(source)[0]["Job"] != item["FirstJob"]
        assert instances(archive) < instances(source)


def test_only_the_types_of_the_configuration_are_run_again(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(SCRIPT, knowing(destination, Types=["OrthancPeerStore"]))
    study = store_study(source)
    other = send(source, study, "DEST")
    source.wait_until(lambda: source.get(f"/jobs/{other}")["State"] == "Failure", what="fail")
    sent = send(source, study, "DEST", "peers")
    assert [item["FirstJob"] for item in failed(source)] == [sent]
    destination.start()
    source.wait_until(lambda: states(source) == ["done"], what="run it again")
    assert source.get(f"/jobs/{other}")["State"] == "Failure"


def test_a_corrected_address_is_used_although_orthanc_still_knows_the_job(start_orthanc: StartOrthanc) -> None:
    wrong, right = start_orthanc(aet="DEST", start=False), start_orthanc(aet="DEST")
    source = start_orthanc(SCRIPT, knowing(wrong))
    study = store_study(source)
    send(source, study, "DEST")
    send(source, study, "DEST", "peers")
    failed(source, 2)
    source.put("/modalities/DEST", right.as_modality())
    source.put("/peers/DEST", right.as_peer())
    source.wait_until(lambda: states(source) == ["done", "done"], what="use the corrected address")
    assert instances(right) == instances(source)


def test_of_two_nodes_with_one_aet_it_is_the_same_again_or_none(start_orthanc: StartOrthanc) -> None:
    meant, other = start_orthanc(aet="TWIN", start=False), start_orthanc(aet="TWIN")
    nodes = {"MEANT": meant.as_modality(), "OTHER": other.as_modality()}
    configuration = {**knowing(), "DicomModalities": nodes, "JobsHistorySize": 1}
    source = start_orthanc(SCRIPT, configuration)
    study = store_old_study(source)
    send(source, study, "MEANT")
    [item] = failed(source)
    make_orthanc_forget_its_jobs(source)
    source.wait_until(lambda: "lead to different places" in jobs(source)[0]["Error"], what="see that it can't tell")
    assert item["Destination"] == "MEANT or OTHER"
    source.delete(f"/auto-retries/jobs/{item['ID']}")
    send(source, study, "MEANT")
    source.wait_until(lambda: states(source) == ["waiting"], what="take the second")
    meant.start()
    source.wait_until(lambda: states(source) == ["done"], what="resubmit what Orthanc knows")
    assert instances(meant) == instances(source)
    assert instances(other) == set()


def test_what_a_person_sends_five_times_goes_again_once(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(BUILT, knowing(destination))
    study = store_study(source)
    sent = [send(source, study, "DEST") for _ in range(5)]
    source.wait_until(lambda: source.get("/auto-retries/status")["Watched"] == 0, what="settle all")
    [item] = jobs(source)
    assert item["FirstJob"] in sent  # two run at a time: which fails first is theirs


def test_a_person_who_resubmits_is_not_followed_by_another_run(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(aet="DEST", start=False)
    source = start_orthanc(NEVER_BY_ITSELF, knowing(destination))
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


@pytest.fixture(scope="module")
def idle_retrier(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    server = start_orthanc_for_module(SCRIPT)
    get(server, "/auto-retries/status")
    return server


@pytest.mark.parametrize(
    ("query", "named"),
    [("state=asleep", "state"), ("limit=1001", "limit"), ("since=-1", "since"), ("sate=done", "sate")],
)
def test_a_wrong_parameter_is_a_400_that_names_it(idle_retrier: OrthancServer, query: str, named: str) -> None:
    answer = idle_retrier.request("GET", f"/auto-retries/jobs?{query}")
    assert answer.status_code == 400
    assert named in answer.json()["Message"]


@pytest.mark.parametrize(
    ("body", "named"), [("[]", "object"), ('{"Node": "A"}', "Node"), ('{"Destination": 1}', "text")]
)
def test_a_wrong_request_to_retry_all_is_a_400_that_names_it(
    idle_retrier: OrthancServer, body: str, named: str
) -> None:
    answer = idle_retrier.request("POST", "/auto-retries/jobs/retry", data=body)
    assert answer.status_code == 400
    assert named in answer.json()["Message"]


def test_unknown_jobs_are_404_wrong_methods_405_and_strangers_403(idle_retrier: OrthancServer) -> None:
    assert idle_retrier.request("GET", "/auto-retries/jobs/99999999999999999999").status_code == 404
    assert idle_retrier.request("POST", "/auto-retries/jobs/7/retry").status_code == 404
    answer = idle_retrier.request("PUT", "/auto-retries/jobs", data="{}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    evil = {"Origin": "https://evil.example"}
    assert idle_retrier.request("POST", "/auto-retries/jobs/retry", headers=evil).status_code == 403
    assert idle_retrier.request("DELETE", "/auto-retries/jobs/1", headers=evil).status_code == 403


def test_the_list_is_paged_and_filtered(start_orthanc: StartOrthanc, storescp: StoreScp) -> None:
    storescp.stop()
    source = start_orthanc(NEVER_BY_ITSELF, knowing(storescp))
    sent = [send(source, store_study(source, patient_id=patient), storescp.aet) for patient in "ABC"]
    failed(source, 3)
    page = source.get("/auto-retries/jobs", limit=2, state="waiting", destination=storescp.aet)
    assert (page["Total"], len(page["Items"])) == (3, 2)
    rest = source.get("/auto-retries/jobs", limit=2, since=page["Next"])
    assert (len(rest["Items"]), rest["Next"]) == (1, None)
    assert [item["FirstJob"] for item in jobs(source, job=sent[1])] == [sent[1]]
    assert jobs(source, state="dead") == []


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (
            {"Retry": {"GiveUpHours": "soon"}},
            'AutoRetries.Retry.GiveUpHours: found "soon", allowed: a number, at least 0',
        ),
        ({"Types": "DicomModalityStore"}, 'AutoRetries.Types: found "DicomModalityStore", allowed: a list'),
    ],
)
def test_a_wrong_value_leaves_the_script_idle_and_orthanc_running(
    start_orthanc: StartOrthanc, section: dict[str, Any], line: str
) -> None:
    source = start_orthanc(SCRIPT, {"AutoRetries": section})
    assert sum(line in each for each in source.log.splitlines() if each.startswith("E")) == 1
    answer = source.request("GET", "/auto-retries/status")
    assert (answer.status_code, line in json.loads(answer.text)["Message"]) == (503, True)
