# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/jobs.py: how a job ended; and what the anonymizer does about one that Orthanc has forgotten."""

from __future__ import annotations

import json
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc

FAILED = {"State": "Failure", "ErrorCode": 9, "ErrorDescription": "Cannot connect", "ErrorDetails": ""}
UNFINISHED = ("Pending", "Running", "Paused", "Retry")


@pytest.mark.parametrize(
    ("job", "reported", "ending", "why"),
    [
        *[({"State": state, "ErrorCode": 0}, None, "running", "") for state in UNFINISHED],
        ({"State": "Success"}, None, "Success", ""),
        (FAILED, None, "Failure", "Cannot connect"),
        ({**FAILED, "ErrorDetails": "A700"}, None, "Failure", "A700"),
        ({"State": "Failure"}, None, "Failure", "the job failed"),
        ({**FAILED, "ErrorCode": 37}, None, "canceled", "Cannot connect"),
        (None, None, "forgotten", ""),
        (None, True, "Success", ""),
        (None, False, "Failure", "the job failed, and Orthanc has forgotten why (JobsHistorySize)"),
        # What Orthanc shows may be of before, or of after somebody has resubmitted it: it has ended once.
        ({"State": "Running"}, True, "Success", ""),
        ({**FAILED, "State": "Running"}, False, "Failure", "Cannot connect"),
        (FAILED, False, "Failure", "Cannot connect"),
    ],
)
def test_how_a_job_ended(source: Any, job: Any, reported: bool | None, ending: str, why: str) -> None:
    assert source("common.jobs").ending_of(job, reported) == (ending, why)


@pytest.mark.parametrize(
    ("peer", "url"),
    [
        (["http://x:8042/", "user"], "http://x:8042/"),
        ({"Url": "http://x:8042/", "HttpHeaders": {"X-Token": "t"}, "Timeout": 5}, "http://x:8042/"),
        ("x", "x"),
        ([], ""),
        (None, ""),
    ],
)
def test_the_url_of_a_peer_is_in_a_list_or_in_an_object(source: Any, peer: Any, url: str) -> None:
    assert source("common.jobs").url_of_peer({"Peer": peer}) == url
    assert source("common.jobs").url_of_peer({}) == ""


def test_ends_are_kept_of_late_and_waited_for(source: Any) -> None:
    module = source("common.jobs")
    ends = module.JobEnds()
    ends.end("a", well=True)
    ends.end("b", well=False)
    assert (ends.get("a"), ends.get("b"), ends.get("c")) == (True, False, None)
    assert ends.wait(["b", "c"], 0) == {"b": False}
    assert ends.wait(["c"], 0) == {}
    threading.Timer(0.02, lambda: ends.end("c", well=True)).start()
    assert ends.wait(["c"], 10) == {"c": True}
    for number in range(module.ENDED_JOBS_IN_MEMORY):
        ends.end(str(number), well=True)
    assert ends.get("a") is None


class Sent:
    """A row whose copies a job sends, of which Orthanc knows nothing any more; `there` is what the destination has."""

    def __init__(self, source: Any, rest: FakeOrthanc, folder: Path, clock: Clock, recipe: Mapping[str, Any]) -> None:
        self.clock, self.there = clock, set[str]()
        sending, attempts = source("anonymize_series.sending"), source("anonymize_series.attempts")
        self.ledger = source("common.ledger").Ledger(folder / "x.sqlite")
        work, retry = source("common.work").Work(self.ledger), source("common.retry").Retry()
        self.ends, loopback = source("common.jobs").JobEnds(), source("common.loopback").Loopback({})
        peers = types.SimpleNamespace(copies_of=self._copies_of, why_not=lambda _: "")
        register = types.SimpleNamespace(is_copy=lambda _: True)
        made = attempts.Attempts(self.ledger, work, retry, threading.Event(), source("common.worker").Trouble("x"))
        recipes = {"out": source("anonymize_series.settings").Recipe(**recipe)}
        self._sending = sending.Sending(
            recipes, loopback, peers, self.ledger, register, made, self.ends, "dicom-web/servers"
        )
        rest.receive("c0de", "c1", "c2")
        data = {"Level": "Study", "Instances": ["i1", "i2"], "Copies": ["c1", "c2"]}
        self.id = self.ledger.add("out", "a1", data, task="anonymize")
        self.ledger.start(self.id)
        work.change(self.id, job="j1")

    def _copies_of(self, _name: str, instances: Mapping[str, Any]) -> set[str]:
        if not self.there:
            raise ValueError("it is away")
        return self.there & instances.keys()

    def look(self, after: float = 0) -> dict[str, Any]:
        """Look, and once more after some time; return the row."""
        self._sending.look_at_jobs()
        self.clock.advance(after)
        self._sending.look_at_jobs()
        [row] = self.ledger.rows("SELECT * FROM work")
        return dict(row)


@pytest.fixture
def sent(source: Any, rest: FakeOrthanc, tmp_path: Path, clock: Clock, request: pytest.FixtureRequest) -> Sent:
    return Sent(source, rest, tmp_path, clock, getattr(request, "param", {"peer": "P", "delete_copy": True}))


NODE, PEER = {"modality": "NODE"}, {"peer": "P", "delete_copy": True}


@pytest.mark.parametrize("sent", [NODE, PEER], indirect=True)
def test_a_job_that_is_forgotten_and_was_reported_as_a_success_has_delivered(sent: Sent) -> None:
    sent.ends.end("j1", well=True)
    assert sent.look()["state"] == "done"


@pytest.mark.parametrize("sent", [NODE, PEER], indirect=True)
def test_a_job_that_is_forgotten_and_was_reported_as_a_failure_has_failed(sent: Sent) -> None:
    sent.ends.end("j1", well=False)
    row = sent.look()
    assert row["state"] == "waiting"
    assert "Orthanc has forgotten why" in row["error"]


@pytest.mark.parametrize("sent", [NODE, PEER], indirect=True)
def test_the_report_of_the_end_may_come_after_the_job_is_forgotten(sent: Sent) -> None:
    assert sent.look()["state"] == "sending"
    sent.ends.end("j1", well=True)
    assert sent.look()["state"] == "done"


def test_a_job_that_ends_while_it_is_asked_for_has_not_failed(sent: Sent, rest: FakeOrthanc) -> None:
    def shown_too_early(_path: str, _body: Any) -> Any:
        sent.ends.end("j1", well=True)
        return {"State": "Running", "ErrorCode": 0, "ErrorDescription": "Success"}

    rest.answers["GET", "/jobs/j1"] = shown_too_early
    row = sent.look()
    assert (row["state"], row["error"]) == ("done", "")


def test_what_a_peer_has_is_done_although_nobody_reported_the_end(sent: Sent, rest: FakeOrthanc) -> None:
    sent.there = {"c1", "c2"}
    assert sent.look(6)["state"] == "done"
    assert rest.asked("DELETE", "/instances/c1")


@pytest.mark.parametrize("there", [{"c1"}, set()])
def test_what_a_peer_lacks_or_can_not_be_asked_for_is_sent_again(
    sent: Sent, there: set[str], rest: FakeOrthanc
) -> None:
    sent.there = there
    row = sent.look(6)
    assert (row["state"], row["error"], row["next_attempt"]) == ("waiting", "", 0)
    assert "Copies" in json.loads(row["data"])
    assert not rest.asked("DELETE", "/instances/c1")


def test_what_is_not_here_any_more_is_not_known_to_be_there(sent: Sent, rest: FakeOrthanc) -> None:
    rest.studies["c0de"] = ["c1"]
    sent.there = {"c1"}
    assert sent.look(6)["state"] == "waiting"


@pytest.mark.parametrize("sent", [NODE], indirect=True)
def test_what_nobody_can_be_asked_for_is_sent_again(sent: Sent, orthanc_standin: StandIn) -> None:
    row = sent.look(6)
    assert (row["state"], row["error"], row["next_attempt"]) == ("waiting", "", 0)
