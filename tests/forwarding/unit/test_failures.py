# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/, in the script for DICOM nodes: what becomes of jobs that fail, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, Forwarding


def test_a_failed_job_goes_again_later_and_then_it_has_arrived(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1", why="Cannot connect")
    eventually(lambda: forwarding.states() == ["waiting"])
    [row] = forwarding.deliveries()
    assert (row["Attempts"], row["Error"]) == (1, "Cannot connect")
    assert row["NextAttempt"] > row["Updated"]
    forwarding.turn(10)
    assert forwarding.sent() == [["i1"]]
    forwarding.turn(60)
    assert forwarding.sent() == [["i1"]] * 2
    forwarding.end("PACS-2")
    eventually(lambda: forwarding.states() == ["done"])
    forwarding.standin.assert_logged(
        "did not reach PACS (attempt 1): Cannot connect. It will be tried again", "warning"
    )


def test_jobs_that_wait_for_a_node_that_failed_are_called_back_and_that_is_no_attempt(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.receive("b2", "i2")
    forwarding.receive("c3", "i3")
    forwarding.rest.jobs["PACS-3"]["State"] = "Running"  # too late for that one
    forwarding.end("PACS-1", why="Cannot connect")
    eventually(lambda: forwarding.states() == ["waiting", "waiting", "sending"])
    assert [row["Attempts"] for row in forwarding.deliveries()] == [1, 0, 1]
    assert forwarding.rest.asked("POST", "/jobs/PACS-2/cancel") == [b""]
    assert forwarding.rest.asked("POST", "/jobs/PACS-3/cancel") == []
    assert (forwarding.deliveries()[1]["Job"], forwarding.deliveries()[1]["NextAttempt"]) == (None, None)
    forwarding.script.change("JOB_FAILURE", "PACS-2")  # the end of what was canceled
    forwarding.turn()
    assert [row["Attempts"] for row in forwarding.deliveries()] == [1, 0, 1]


def test_a_node_that_answers_again_gets_at_once_what_waits_for_it(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1", why="Cannot connect")
    forwarding.turn()
    assert forwarding.rest.asked("POST", "/modalities/PACS/echo")
    assert forwarding.sent() == [["i1"]]
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.turn(2)
    forwarding.turn(2)
    assert forwarding.sent() == [["i1"]] * 2


def test_after_its_hours_it_is_dead_until_a_person_retries(forwarding: Forwarding) -> None:
    forwarding.start(Retry={"GiveUpHours": 1})
    forwarding.receive("a1", "i1")
    forwarding.clock.advance(3700)
    forwarding.end("PACS-1", why="refused")
    eventually(lambda: forwarding.states() == ["dead"])
    [row] = forwarding.deliveries()
    forwarding.standin.assert_logged(f"Given up after 1 hours; POST {NAME}/deliveries/{row['ID']}/retry", "error")
    forwarding.turn(9000)
    assert forwarding.sent() == [["i1"]]
    assert forwarding.script.post(f"{NAME}/deliveries/{row['ID']}/retry").status == 200
    forwarding.turn()
    assert forwarding.sent() == [["i1"]] * 2


def test_an_instance_that_a_node_refuses_stands_alone_and_the_rest_arrives(forwarding: Forwarding) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}  # it is there: it minds the content
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3", "bad")
    ended: set[str] = set()
    for _ in range(20):
        for job in forwarding.rest.jobs.keys() - ended:
            ended.add(job)
            bad = "bad" in forwarding.rest.jobs[job]["Content"]["ParentResources"]
            forwarding.end(job, why="DIMSE status 0xA700" if bad else "")
        forwarding.turn()
    rows = forwarding.deliveries()
    assert [(row["Level"], row["Resource"]) for row in rows if row["State"] == "waiting"] == [("Instance", "bad")]
    assert {row["Study"] for row in rows} == {"a1"}
    arrived = {each for body in forwarding.rest.jobs.values() if body["State"] == "Success"
               for each in body["Content"]["ParentResources"]}  # fmt: skip
    assert arrived == {"i1", "i2", "i3"}


def refuse_all(forwarding: Forwarding, why: Callable[[list[str]], str]) -> list[str]:
    """Let each job to a node that is there fail; give the warnings about it."""
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3")
    ended: set[str] = set()
    for _ in range(20):
        for job in forwarding.rest.jobs.keys() - ended:
            ended.add(job)
            forwarding.end(job, why=why(forwarding.rest.jobs[job]["Content"]["ParentResources"]))
        forwarding.turn()
    assert sorted(row["Resource"] for row in forwarding.deliveries()) == ["i1", "i2", "i3"]  # each alone
    return [text for level, text in forwarding.standin.logs if level == "warning" and "did not reach" in text]


def test_images_of_one_study_that_are_refused_for_one_reason_are_one_line(forwarding: Forwarding) -> None:
    assert refuse_all(forwarding, lambda _: "DIMSE status 0xA700") == [
        "auto-forward-modality: study a1 did not reach PACS (attempt 1): DIMSE status 0xA700. It will be tried again"
    ]


def test_what_is_refused_for_another_reason_than_the_whole_is_a_line_of_its_own(forwarding: Forwarding) -> None:
    reasons = refuse_all(forwarding, lambda images: f"DIMSE status {'0xC000' if images == ['i3'] else '0xA700'}")
    assert [line.partition("DIMSE status ")[2][:6] for line in reasons] == ["0xA700", "0xC000"]


def test_the_status_has_the_newest_failure_also_when_it_is_over(forwarding: Forwarding) -> None:
    def last() -> Any:
        return forwarding.script.get(f"{NAME}/status")["LastError"]

    forwarding.start(Destinations=["PACS", "VNA"])
    assert last() is None
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1", why="DIMSE status 0xA700")
    eventually(lambda: forwarding.states() == ["waiting", "sending"])
    first = eventually(last)
    assert first["Text"] == "auto-forward-modality: study a1 did not reach PACS (attempt 1): DIMSE status 0xA700"
    forwarding.clock.advance(30)
    forwarding.end("VNA-2", why="Association rejected")
    eventually(lambda: last() != first)
    assert last()["Text"] == "auto-forward-modality: study a1 did not reach VNA (attempt 1): Association rejected"
    assert last()["Time"] > first["Time"]
    status = forwarding.script.get(f"{NAME}/status")
    assert (status["State"], status["Reason"]) == ("running", None)
    assert forwarding.script.get("/scripts/health")["Healthy"]  # what is away makes no script unhealthy


def test_a_node_that_answers_and_breaks_off_each_association_is_not_tried_again_and_again(
    forwarding: Forwarding,
) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    forwarding.receive("a1", "i1", "i2")
    ended: set[str] = set()
    for _ in range(100):
        for job in forwarding.rest.jobs.keys() - ended:
            ended.add(job)
            forwarding.end(job, why='connecting to AET "PACS": Peer aborted Association (or never connected)')
        forwarding.turn()
    assert forwarding.sent()[:2] == [["i1", "i2"]] * 2  # the second time at once: it answers
    assert 3 <= len(ended) <= 5  # after some 30 and 60 s
    assert forwarding.states() == ["waiting"]
