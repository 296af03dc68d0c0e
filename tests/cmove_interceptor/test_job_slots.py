# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py: a move does not wait for Orthanc's other jobs, and these go on after it, over a kill too."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.cmove_interceptor.helpers import SCRIPT, SUCCESS, Destination, c_move, configuration, last
from tests.constants import script_with

IMAGES = 40  # of each forward: 8 s


@pytest.fixture
def slow() -> Iterator[AwkwardNode]:
    with AwkwardNode("SLOW", seconds_per_image=0.2) as node:
        yield node


@pytest.fixture
def server(destination: Destination, slow: AwkwardNode, start_briefly: StartOrthanc) -> OrthancServer:
    """An Orthanc that runs two jobs at a time, with one image of P1, and two studies that take long to send."""
    return start_with_work(start_briefly, destination, slow, SCRIPT)


def start_with_work(start: StartOrthanc, destination: Destination, slow: AwkwardNode, script: Path) -> OrthancServer:
    modalities = {"dest": destination.as_modality(), "slow": slow.as_modality()}
    server = start(script, configuration(destination, DicomModalities=modalities))
    server.store(make_study(patient_id="P1"))
    for number in range(2):
        server.store(make_study(patient_id=f"LONG{number}", instances=IMAGES))
    return server


def forward(server: OrthancServer, patient: str) -> str:
    """Let a job that nobody waits for send a patient's study to the slow node."""
    study = server.post("/tools/find", {"Level": "Study", "Query": {"PatientID": patient}})
    return str(server.post("/modalities/slow/store", {"Resources": study, "Synchronous": False})["ID"])


def forward_both(server: OrthancServer) -> list[str]:
    jobs = [forward(server, f"LONG{number}") for number in range(2)]
    server.wait_until(lambda: states(server, jobs) == ["Running"] * 2, what="run both")
    return jobs


def states(server: OrthancServer, jobs: list[str]) -> list[str]:
    return [str(server.get(f"/jobs/{job}")["State"]) for job in jobs]


def assert_both_arrive_once(server: OrthancServer, slow: AwkwardNode, jobs: list[str]) -> None:
    server.wait_until(lambda: states(server, jobs) == ["Success"] * 2, timeout=60, what="end the forwards")
    arrived = Counter(image for image, _ in slow.received)
    assert len(arrived) == 2 * IMAGES
    assert set(arrived.values()) == {1}


def move_that_hangs(server: OrthancServer, destination: Destination, pool: ThreadPoolExecutor, jobs: list[str]) -> Any:
    """Begin a move whose destination does not answer, and wait until a job is paused for it."""
    destination.takes.clear()
    answers = pool.submit(c_move, server, "PATIENT", PatientID="P1")
    server.wait_until(lambda: "Paused" in states(server, jobs), what="pause one of the jobs")
    return answers


def let_orthanc_write_its_jobs_down(server: OrthancServer) -> None:
    """It does so when a job is submitted; else every ten seconds."""
    forward(server, "P1")
    time.sleep(1)


def test_a_move_does_not_wait_for_other_jobs_and_they_go_on_after_it(
    server: OrthancServer, destination: Destination, slow: AwkwardNode
) -> None:
    jobs, took = forward_both(server), []
    for _ in range(3):
        begin = time.monotonic()
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
        took.append(time.monotonic() - begin)
    assert "Success" not in states(server, jobs)
    assert min(took) < 1
    assert len(destination.received) == 3
    server.wait_until(lambda: "Paused" not in states(server, jobs), timeout=2, what="resume what was paused")
    assert_both_arrive_once(server, slow, jobs)
    assert server.get("/cmove-interceptor/status")["PausedJobs"] == []


def test_many_images_are_sent_by_two_associations_although_both_places_are_taken(
    server: OrthancServer, destination: Destination, slow: AwkwardNode
) -> None:
    server.store(make_study(patient_id="P2", instances=75, series=2))
    jobs = forward_both(server)
    destination.pause = 0.01
    assert c_move(server, "PATIENT", PatientID="P2")[-1].status == SUCCESS
    assert "Success" not in states(server, jobs)
    assert (len(destination.received), destination.most_at_once) == (150, 2)
    assert_both_arrive_once(server, slow, jobs)


def test_a_job_that_a_node_holds_up_is_not_waited_for(
    server: OrthancServer, destination: Destination, slow: AwkwardNode
) -> None:
    """A pause begins when the image under way is sent: of two jobs, the one that may give its place back does."""
    with AwkwardNode("HANGS", never_answers=True) as hangs:
        server.put("/modalities/hangs", hangs.as_modality())
        study = server.post("/tools/find", {"Level": "Study", "Query": {"PatientID": "LONG0"}})
        held = server.post("/modalities/hangs/store", {"Resources": study, "Synchronous": False, "Priority": -1})["ID"]
        other = forward(server, "LONG1")
        server.wait_until(lambda: states(server, [held, other]) == ["Running"] * 2, what="run both")
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
        assert states(server, [held]) == ["Running"]
        assert "Success" not in states(server, [other])
        hangs.never_answers = False
        server.wait_until(lambda: states(server, [held, other]) == ["Success"] * 2, timeout=60, what="end the forwards")
    assert len(hangs.received) == len(set(hangs.received)) == IMAGES


def test_what_is_paused_for_a_move_goes_on_after_a_kill(
    server: OrthancServer, destination: Destination, slow: AwkwardNode
) -> None:
    jobs = forward_both(server)
    with ThreadPoolExecutor(1) as pool:
        answers = move_that_hangs(server, destination, pool, jobs)
        let_orthanc_write_its_jobs_down(server)
        server.kill()
        answers.exception()
    destination.takes.set()
    server.start()
    server.wait_until(lambda: states(server, jobs) == ["Success"] * 2, timeout=60, what="end the forwards")
    assert len({image for image, _ in slow.received}) == 2 * IMAGES + 1
    assert last(server)["State"] == "interrupted"


def test_what_was_resumed_just_before_a_kill_goes_on_after_it(
    destination: Destination, slow: AwkwardNode, start_briefly: StartOrthanc
) -> None:
    """Orthanc writes jobs down when one ends, and else every ten seconds: here as the move ends, and the other is paused yet."""
    server = start_with_work(start_briefly, destination, slow, script_with(SCRIPT, {"RESUME_LOOK_SECONDS": 1}))
    jobs = forward_both(server)
    with ThreadPoolExecutor(1) as pool:
        answers = move_that_hangs(server, destination, pool, jobs)
        destination.takes.set()
        assert answers.result()[-1].status == SUCCESS
    server.wait_until(lambda: not server.get("/cmove-interceptor/status")["PausedJobs"], what="resume the job")
    server.kill()
    server.start()
    server.wait_until(lambda: states(server, jobs) == ["Success"] * 2, timeout=60, what="end the forwards")


@pytest.mark.parametrize("when", ["before", "while an image is sent", "after us"])
def test_a_job_that_a_person_pauses_is_never_resumed_by_us(
    server: OrthancServer, destination: Destination, slow: AwkwardNode, when: str
) -> None:
    jobs = forward_both(server)
    if when == "after us":
        with ThreadPoolExecutor(1) as pool:
            answers = move_that_hangs(server, destination, pool, jobs)
            job = jobs[states(server, jobs).index("Paused")]
            assert server.post(f"/jobs/{job}/pause", {}) == {}
            destination.takes.set()
            assert answers.result()[-1].status == SUCCESS
    else:
        job = jobs[0]
        slow.seconds_per_image = 0.2 if when == "before" else 1.0
        assert server.post(f"/jobs/{job}/pause", {}) == {}
        if when == "before":
            server.wait_until(lambda: states(server, [job]) == ["Paused"], what="pause")
            forward(server, "P1")
        assert c_move(server, "PATIENT", PatientID="P1")[-1].status == SUCCESS
        slow.seconds_per_image = 0
    time.sleep(1.5)
    assert states(server, [job]) == ["Paused"]
    [other] = [each for each in jobs if each != job]
    server.wait_until(lambda: states(server, [other]) == ["Success"], timeout=60, what="end the other forward")
    assert states(server, [job]) == ["Paused"]
    assert server.post(f"/jobs/{job}/resume", {}) == {}
    server.wait_until(lambda: states(server, jobs) == ["Success"] * 2, timeout=60, what="end the forwards")


def test_requests_to_pause_and_resume_are_answered_as_orthanc_does(
    server: OrthancServer, start_briefly: StartOrthanc, destination: Destination, slow: AwkwardNode
) -> None:
    plain = start_briefly(None, configuration(destination, DicomModalities={"slow": slow.as_modality()}))
    plain.store(make_study(patient_id="LONG0", instances=IMAGES))
    theirs, ours = answers_to_a_person(plain), answers_to_a_person(server)
    assert ours == theirs
    assert [status for status, _ in ours] == [400, 400, 400, 200, 200, 200]


def answers_to_a_person(server: OrthancServer) -> list[tuple[int, bytes]]:
    job = forward(server, "LONG0")
    paths = ["unknown/pause", "unknown/resume", f"{job}/resume", f"{job}/pause", f"{job}/pause"]
    answers = [server.request("POST", f"/jobs/{path}") for path in paths]
    server.wait_until(lambda: states(server, [job]) == ["Paused"], what="pause")
    answers.append(server.request("POST", f"/jobs/{job}/resume"))
    return [(answer.status_code, answer.content) for answer in answers]
