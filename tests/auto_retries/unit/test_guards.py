# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_retries without a server: what goes again, as what, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/auto-retries"
NODE = {"AET": "PACS", "Host": "pacs", "Port": 104}


class Retries:
    """The script, and an Orthanc whose jobs fail."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, standin: StandIn) -> None:
        self._start, self.rest, self.clock, self.standin = start, rest, clock, standin
        rest.studies["a1"] = ["1", "2"]
        standin.answers["GET", "/modalities?expand"] = lambda _: rest.known
        standin.answers["GET", "/peers?expand"] = {}
        rest.known = {"PACS": NODE}

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        self.script = self._start("auto_retries", {"AutoRetries": section, **(configuration or {})})
        self.script.get(f"{NAME}/status")  # answers when the ledger is open: what comes from now on is written at once

    def submit(self, job: str, *resources: str, **more: Any) -> None:
        """Somebody submits a job."""
        content = {"RemoteAet": "PACS", "ParentResources": list(resources), "InstancesCount": len(resources)}
        self.rest.jobs[job] = {
            "ID": job, "Type": "DicomModalityStore", "State": "Running", "Content": content, "ErrorCode": 0,
            "CreationTime": "20240101T120000.000000", "Priority": 3, **more}  # fmt: skip
        self.standin.answers["GET", f"/jobs/{job}"] = lambda _: self.rest.jobs[job]
        self.script.change("JOB_SUBMITTED", job)

    def fail(self, job: str, code: int = 9, why: str = "Cannot connect") -> None:
        self.rest.jobs[job] |= {"State": "Failure", "ErrorCode": code, "ErrorDescription": why}
        self.script.change("JOB_FAILURE", job)

    def succeed(self, job: str) -> None:
        self.rest.jobs[job]["State"] = "Success"
        self.script.change("JOB_SUCCESS", job)

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.script.get(f"{NAME}/jobs")["Items"]
        return found

    def submitted_anew(self) -> list[Any]:
        return self.rest.asked("POST", "/modalities/PACS/store")

    def resubmitted(self, job: str) -> int:
        return len(self.rest.asked("POST", f"/jobs/{job}/resubmit"))

    def wait(self, seconds: float = 40) -> None:
        """Let time pass until the thread has looked twice."""
        self.clock.advance(seconds)
        for _ in range(2):
            self.turn()

    def turn(self) -> None:
        """Let a job of another type fail, which the thread looks at in its next turn."""
        before = self.script.get(f"{NAME}/status")["Missed"]
        name = f"unknown-{before}"
        self.standin.answers["GET", f"/jobs/{name}"] = self.standin.module.OrthancException(17, "Unknown resource")
        self.script.change("JOB_FAILURE", name)
        eventually(lambda: self.script.get(f"{NAME}/status")["Missed"] > before)


@pytest.fixture
def retries(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Retries:
    return Retries(start, rest, clock, orthanc_standin)


def test_a_job_of_somebody_that_fails_is_resubmitted_later(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1", "2")
    retries.fail("j1")
    [row] = eventually(retries.rows)
    assert (row["State"], row["Attempts"], row["Error"], row["Destination"]) == ("waiting", 1, "Cannot connect", "PACS")
    retries.wait(5)
    assert retries.resubmitted("j1") == 0
    retries.wait(40)
    assert retries.resubmitted("j1") == 1
    assert retries.submitted_anew() == []
    retries.succeed("j1")
    eventually(lambda: retries.rows()[0]["State"] == "done")


def test_the_status_has_the_newest_failure_and_what_is_due_now_has_no_time(retries: Retries) -> None:
    retries.start()
    assert retries.script.get(f"{NAME}/status")["LastError"] is None
    retries.submit("j1", "1", "2")
    retries.fail("j1")
    [row] = eventually(retries.rows)
    assert row["NextAttempt"] > row["Updated"]
    last = retries.script.get(f"{NAME}/status")["LastError"]
    assert last["Text"] == "auto-retries: DicomModalityStore to PACS (job j1) failed (attempt 1): Cannot connect"
    answer = retries.script.post(f"{NAME}/jobs/{row['ID']}/retry")
    assert (answer.status, answer.json()["NextAttempt"]) == (200, None)


@pytest.mark.parametrize("overwrites", [True, "Always", "IfChanged"])
def test_where_an_image_may_be_another_by_now_the_failed_job_is_not_resubmitted(
    retries: Retries, overwrites: Any
) -> None:
    """A job of 1.13.0 sends what it had read before: nothing tells whether that is still the image that is here."""
    retries.start({"OverwriteInstances": overwrites})
    retries.submit("j1", "1", "2")
    retries.fail("j1")
    eventually(retries.rows)
    retries.wait(40)
    assert retries.resubmitted("j1") == 0
    assert retries.submitted_anew() == [{"Resources": ["1", "2"], "Synchronous": False, "Priority": 3}]


def test_where_an_image_was_deleted_the_rest_is_submitted_anew(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1", "2")
    retries.fail("j1")
    eventually(retries.rows)
    retries.rest.studies["a1"] = ["2"]
    retries.wait(40)
    assert retries.resubmitted("j1") == 0
    assert [body["Resources"] for body in retries.submitted_anew()] == [["2"]]


def test_where_all_was_deleted_it_is_gone(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(retries.rows)
    retries.rest.studies.clear()
    retries.wait(40)
    assert [row["State"] for row in retries.rows()] == ["gone"]
    assert (retries.resubmitted("j1"), retries.submitted_anew()) == (0, [])


@pytest.mark.parametrize(("update", "count", "again"), [("20231231T000000", 2, True), ("20240101T120000", 2, False),
                                                       ("20231231T000000", 3, False)])  # fmt: skip
def test_a_study_that_has_grown_or_shrunk_is_submitted_anew(
    retries: Retries, update: str, count: int, again: bool
) -> None:
    retries.start()
    study = {"ID": "a1", "Type": "Study", "LastUpdate": update}
    retries.rest.answers["POST", "/tools/bulk-content"] = [study]
    retries.rest.answers["GET", "/studies/a1/statistics"] = {"CountInstances": str(count)}
    retries.submit("j1", "a1")
    retries.rest.jobs["j1"]["Content"]["InstancesCount"] = 2
    retries.fail("j1")
    eventually(retries.rows)
    retries.wait(40)
    assert (retries.resubmitted("j1"), len(retries.submitted_anew())) == ((1, 0) if again else (0, 1))


def test_a_corrected_address_is_used_although_orthanc_still_knows_the_job(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(retries.rows)
    retries.rest.known = {"PACS": {**NODE, "Port": 11112}}
    retries.script.change("UPDATED_MODALITIES")
    retries.wait(40)
    assert (retries.resubmitted("j1"), len(retries.submitted_anew())) == (0, 1)


def test_of_two_nodes_with_one_aet_that_lead_to_different_places_none_gets_it(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(retries.rows)
    retries.rest.known = {"one": {**NODE, "Port": 1}, "two": {**NODE, "Port": 2}}
    retries.script.change("UPDATED_MODALITIES")
    retries.wait(40)
    [row] = retries.rows()
    assert "lead to different places" in row["Error"]
    assert (retries.resubmitted("j1"), retries.submitted_anew()) == (0, [])


def test_what_orthanc_has_forgotten_goes_by_what_was_written_down_at_submission(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(retries.rows)
    del retries.rest.jobs["j1"]
    retries.wait(40)
    assert [body["Resources"] for body in retries.submitted_anew()] == [["1"]]


def test_what_a_person_canceled_is_not_run_again(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1", code=37, why="Job was canceled")
    retries.wait(100)
    assert retries.rows() == []
    assert (retries.resubmitted("j1"), retries.submitted_anew()) == (0, [])


def test_the_jobs_of_a_forward_script_are_left_alone(retries: Retries) -> None:
    retries.rest.answers["GET", "/auto-forward-modality/deliveries"] = {"Total": 1}
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(lambda: retries.script.get(f"{NAME}/status")["Watched"] == 0)
    assert retries.rest.asked("GET", "/auto-forward-modality/deliveries")
    assert retries.rows() == []


def test_a_forward_script_that_starts_is_waited_for(retries: Retries) -> None:
    retries.rest.answers["GET", "/auto-forward-modality/deliveries"] = retries.rest.error(503)
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    retries.clock.advance(10)
    asked = len(retries.rest.requests)
    eventually(lambda: len(retries.rest.requests) > asked + 2)
    assert retries.rows() == []
    retries.clock.advance(60)
    [_] = eventually(retries.rows)


def test_other_types_of_jobs_are_left_alone(retries: Retries) -> None:
    retries.start(Types=["OrthancPeerStore"])
    retries.submit("j1", "1")
    retries.fail("j1")
    retries.wait(100)
    assert retries.rows() == []


def test_what_would_do_the_same_goes_again_once(retries: Retries) -> None:
    retries.start()
    for job in ("j1", "j2"):
        retries.submit(job, "1")
        retries.fail(job)
    eventually(retries.rows)
    retries.turn()
    assert [row["FirstJob"] for row in retries.rows()] == ["j1"]


def test_when_its_time_is_over_it_is_dead_until_a_person_retries(retries: Retries) -> None:
    retries.start(Retry={"GiveUpHours": 35 / 3600})
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(retries.rows)
    retries.wait(40)
    retries.fail("j1")
    [row] = eventually(lambda: [row for row in retries.rows() if row["State"] == "dead"])
    retries.standin.assert_logged(f"Given up; POST {NAME}/jobs/{row['ID']}/retry runs it again", "error")
    retries.wait(9000)
    assert retries.resubmitted("j1") == 1
    assert retries.script.post(f"{NAME}/jobs/{row['ID']}/retry").status == 200
    eventually(lambda: retries.resubmitted("j1") == 2)


def test_a_clock_that_jumped_back_strands_nothing(retries: Retries) -> None:
    retries.clock.jump(5e8)
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(retries.rows)
    retries.clock.jump(-5e8)
    retries.wait(1)
    assert retries.resubmitted("j1") == 1


def test_no_more_retries_at_a_time_than_leave_a_slot_to_others(retries: Retries) -> None:
    retries.start({"ConcurrentJobs": 3})
    for number in range(4):
        retries.rest.studies[f"b{number}"] = [f"x{number}"]
        retries.submit(f"j{number}", f"x{number}")
        retries.fail(f"j{number}")
    eventually(lambda: len(retries.rows()) == 4)
    retries.wait(40)
    retries.turn()
    assert [row["State"] for row in retries.rows()].count("sending") == 2


def test_killed_while_it_was_submitted_the_job_is_found_by_what_it_does(retries: Retries) -> None:
    retries.start()
    retries.submit("j1", "1")
    retries.fail("j1")
    eventually(retries.rows)
    del retries.rest.jobs["j1"]

    def answer(path: str, body: Any) -> Any:
        content = {"RemoteAet": "PACS", "ParentResources": body["Resources"], "InstancesCount": 1}
        retries.rest.jobs["j2"] = {"ID": "j2", "Type": "DicomModalityStore", "State": "Running", "Content": content,
                                   "ErrorCode": 0, "Priority": 3}  # fmt: skip
        return retries.rest.error(0, "killed")

    retries.rest.answers["POST", "/modalities/PACS/store"] = answer
    retries.clock.advance(40)
    eventually(lambda: retries.submitted_anew())
    retries.start()
    eventually(lambda: retries.rows()[0]["Job"] == "j2")
    retries.wait(100)
    assert len(retries.submitted_anew()) == 1
