# SPDX-License-Identifier: AGPL-3.0-or-later
"""Room for jobs that a caller waits for: what is paused, that it is written down before, and what is resumed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/cmove-interceptor"


class Engine:
    """Orthanc's jobs, two at a time, and what makes room among them."""

    def __init__(self, source: Any, rest: FakeOrthanc, clock: Clock, standin: StandIn, folder: Path) -> None:
        standin.returns["GetConfigurationPath"] = str(folder / "orthanc.json")
        self.rest, self.clock, self.standin, self._source, self._folder = rest, clock, standin, source, folder
        self.events: list[tuple[str, str]] = []
        self.orthanc: Any = standin.module
        self.ledger: Any = None
        self.start()

    def start(self, before: Callable[[], object] = lambda: None) -> None:
        """Begin, or after a kill begin again; `before` the ledger is open, something happens."""
        module = self._source("cmove_interceptor.slots")
        if self.ledger:
            self.ledger.close()
        self.ledger = self._source("common.ledger").Ledger(self._folder / "slots.sqlite", module.PAUSED_TABLE)
        self.slots = module.JobSlots(self._source("common.loopback").Loopback({}), 2, lambda: None)
        before()
        self.slots.open(self.ledger)

    def run(self, name: str, state: str = "Running", kind: str = "DicomModalityStore", priority: int = 0) -> None:
        self.rest.jobs[name] = {"ID": name, "State": state, "Type": kind, "Priority": priority, "Content": {}}
        for action in ("pause", "resume"):
            self.standin.answers["POST", f"/jobs/{name}/{action}"] = lambda _, action=action: self._act(name, action)

    def _act(self, name: str, action: str) -> Any:
        self.events.append((action, name))
        job = self.rest.jobs[name]
        if action == "resume" and job["State"] != "Paused":
            raise self.orthanc.OrthancException(17, "Unknown resource")
        if action == "pause":
            assert name in self.written() or name in self.by_person, "it was not written down before"
        job["State"] = {"pause": self.pausing, "resume": "Pending"}[action]
        return {}

    pausing = "Paused"  # "Running": the image under way is not sent yet
    by_person: tuple[str, ...] = ()

    def written(self) -> list[str]:
        return [row["job"] for row in self.ledger.rows("SELECT job FROM paused_jobs ORDER BY job")]

    def make_room(self, job: str = "move") -> None:
        self.rest.jobs.setdefault(job, {"ID": job, "State": "Pending", "Type": "DicomModalityStore", "Priority": 100})
        self.slots.make_room(job)
        self.clock.advance(0.11)

    def end(self, job: str = "move") -> None:
        self.rest.jobs[job]["State"] = "Success"

    def person(self, action: str, job: str) -> int:
        self.by_person = (job,)
        self.standin.registered["RegisterRestCallback"] = []
        self.orthanc.RegisterRestCallback("/jobs/([^/]+)/(pause|resume)", self.slots.answer_person)
        answer = self.standin.http("POST", f"/jobs/{job}/{action}")
        self.by_person = ()
        assert answer.status is not None
        return answer.status


@pytest.fixture
def engine(source: Any, rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn, tmp_path: Path) -> Iterator[Engine]:
    found = Engine(source, rest, clock, orthanc_standin, tmp_path)
    yield found
    found.ledger.close()


def test_a_job_is_written_down_and_then_paused_and_resumed_when_the_move_has_ended(engine: Engine) -> None:
    engine.run("a", priority=1)
    engine.run("b")
    engine.make_room()
    assert engine.events == [("pause", "b")]
    assert engine.slots.give_back() is True
    assert engine.slots.held() == ["b"]
    engine.end()
    assert engine.slots.give_back() is False
    assert engine.events == [("pause", "b"), ("resume", "b")]


@pytest.mark.parametrize(
    "job",
    [
        {"kind": "Archive"}, {"kind": "DicomMoveScu"}, {"kind": "ResourceModification"}, {"priority": 100}, {"priority": 200},
        {"state": "Pending"}, {"state": "Paused"}, {"state": "Retry"},
    ],
)  # fmt: skip
def test_only_running_jobs_that_send_and_have_a_lower_priority_are_paused(engine: Engine, job: dict[str, Any]) -> None:
    engine.run("a", **job)
    engine.run("b", kind="Archive")
    engine.run("c", kind="Archive")
    engine.make_room()
    assert engine.events == []


@pytest.mark.parametrize("kind", ["DicomModalityStore", "OrthancPeerStore", "DicomWebStowClient"])
def test_jobs_that_send_are_paused(engine: Engine, kind: str) -> None:
    engine.run("a", kind="Archive")
    engine.run("b", kind=kind)
    engine.make_room()
    assert engine.events == [("pause", "b")]


def test_nothing_is_paused_where_orthanc_has_a_place_left(engine: Engine) -> None:
    engine.run("a")
    engine.make_room()
    assert engine.events == []


def test_a_second_one_is_paused_only_if_the_first_does_not_give_its_place_back(engine: Engine) -> None:
    engine.pausing = "Running"
    engine.run("a")
    engine.run("b", priority=1)
    engine.slots.make_room("move")
    engine.slots.make_room("move")
    assert engine.events == [("pause", "a")]
    engine.clock.advance(0.11)
    engine.make_room()
    assert engine.events == [("pause", "a"), ("pause", "b")]
    engine.make_room()
    assert len(engine.events) == 2


def test_of_two_that_are_paused_for_one_move_the_one_that_can_goes_on_at_once(engine: Engine) -> None:
    engine.pausing = "Running"
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.make_room()
    engine.rest.jobs["b"]["State"] = "Paused"  # the node of the other one does not answer
    assert engine.slots.give_back() is True
    assert engine.events[2:] == [("resume", "b")]
    engine.end()
    assert engine.slots.give_back() is True
    assert engine.slots.held() == ["a"]
    engine.rest.jobs["a"]["State"] = "Paused"
    assert engine.slots.give_back() is False
    assert engine.events[3:] == [("resume", "a")]


def test_what_is_paused_goes_on_where_a_place_is_free_although_the_move_has_not_ended(engine: Engine) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.rest.jobs["move"]["State"] = "Running"
    engine.clock.advance(2)
    assert engine.slots.give_back() is True  # b and the move need both
    engine.rest.jobs["b"]["State"] = "Success"
    engine.clock.advance(0.5)
    assert engine.slots.give_back() is True  # counted a moment ago
    engine.clock.advance(0.5)
    assert engine.slots.give_back() is False
    assert engine.events == [("pause", "a"), ("resume", "a")]


def test_a_place_is_not_free_while_a_job_waits_for_it(engine: Engine) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.rest.jobs["b"]["State"] = "Retry"
    assert engine.slots.give_back() is True


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_one_that_does_not_go_on_is_resumed_once_more_unless_it_was_cancelled(
    engine: Engine, is_cancelled: bool
) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.end()
    resume = engine.standin.answers["POST", "/jobs/a/resume"]
    engine.standin.answers["POST", "/jobs/a/resume"] = engine.orthanc.OrthancException(1, "Internal error")
    assert engine.slots.give_back() is True
    engine.standin.answers["POST", "/jobs/a/resume"] = resume
    if is_cancelled:
        engine.rest.jobs["a"]["State"] = "Failure"
    assert engine.slots.give_back() is False
    assert (("resume", "a") in engine.events) is not is_cancelled


def test_what_goes_on_is_remembered_until_orthanc_has_written_that_down(engine: Engine) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.end()
    engine.slots.give_back()
    assert engine.written() == ["a"]
    engine.clock.advance(31)
    engine.slots.give_back()
    assert engine.written() == []


@pytest.mark.parametrize(
    ("state", "resumed"), [("Paused", True), ("Running", False), ("Pending", False), (None, False)]
)
def test_after_a_kill_what_is_paused_goes_on(engine: Engine, state: str | None, resumed: bool) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.start()
    if state:
        engine.rest.jobs["a"]["State"] = state
    else:
        del engine.rest.jobs["a"]
    assert engine.slots.give_back() is False
    assert (("resume", "a") in engine.events) is resumed


def test_a_job_that_was_resumed_may_be_paused_again(engine: Engine) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.end()
    engine.slots.give_back()
    engine.rest.jobs["a"]["State"] = "Running"
    engine.make_room("next")
    assert engine.events == [("pause", "a"), ("resume", "a"), ("pause", "a")]
    assert engine.slots.held() == ["a"]


def test_a_job_that_a_person_pauses_after_us_stays_paused_also_over_a_kill(engine: Engine) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    assert engine.person("pause", "a") == 200
    assert (engine.slots.held(), engine.written()) == ([], [])
    engine.end()
    assert engine.slots.give_back() is False
    engine.start()
    assert engine.slots.give_back() is False
    assert ("resume", "a") not in engine.events


def test_a_job_that_a_person_pauses_before_the_ledger_is_open_stays_paused(engine: Engine) -> None:
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    engine.start(before=lambda: engine.person("pause", "a"))
    assert engine.slots.give_back() is False
    assert engine.events == [("pause", "a"), ("pause", "a")]
    assert engine.written() == []


def test_a_job_whose_pause_by_a_person_has_not_begun_is_not_paused_by_us(engine: Engine) -> None:
    engine.pausing = "Running"
    engine.run("a")
    engine.run("b", kind="Archive")
    assert engine.person("pause", "a") == 200
    engine.make_room()
    assert engine.events == [("pause", "a")]
    engine.rest.jobs["a"]["State"] = "Paused"
    assert engine.person("resume", "a") == 200
    engine.rest.jobs["a"]["State"] = "Running"
    engine.make_room()
    assert engine.events == [("pause", "a"), ("resume", "a"), ("pause", "a")]


def test_a_job_that_a_person_resumes_is_left_alone_but_not_before_its_pause_has_begun(engine: Engine) -> None:
    engine.pausing = "Running"
    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    assert engine.person("resume", "a") == 400
    assert engine.slots.held() == ["a"]
    engine.rest.jobs["a"]["State"] = "Paused"
    assert engine.person("resume", "a") == 200
    assert engine.slots.held() == []


def test_what_can_not_be_written_down_is_not_paused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    engine.run("a")
    engine.run("b")
    monkeypatch.setattr(engine.ledger, "run", full)
    engine.make_room()
    assert engine.events == []
    assert engine.slots.held() == []


def test_a_person_pauses_although_the_disk_is_full_and_the_job_stays_theirs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    engine.run("a")
    engine.run("b", priority=1)
    engine.make_room()
    with monkeypatch.context() as patched:
        patched.setattr(engine.ledger, "run", full)
        assert engine.person("pause", "a") == 200
    engine.slots.give_back()
    assert engine.written() == []


def test_long_lists_of_jobs_are_not_read_all_the_time(engine: Engine) -> None:
    engine.run("a", kind="Archive")
    engine.run("b", kind="Archive")

    def list_slowly(*_: Any) -> Any:
        engine.clock.advance(0.5)
        return list(engine.rest.jobs.values())

    engine.rest.answers["GET", "/jobs"] = list_slowly
    for _ in range(40):
        engine.make_room()
    assert len(engine.rest.asked("GET", "/jobs")) == 1


def test_in_mode_notify_no_job_is_looked_at(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn
) -> None:
    script = start("cmove_interceptor", {"CMoveInterceptor": {"Mode": "notify"}})
    [callback, *_] = orthanc_standin.registered["RegisterMoveCallback"][-1]
    callback(Level="STUDY", StudyInstanceUID="1.2", TargetAET="PACS", OriginatorAET="A", SourceAET="B")
    eventually(lambda: script.get(f"{NAME}/requests")["Items"][0]["State"] == "done")
    assert rest.asked("GET", "/jobs") == []
    assert script.get(f"{NAME}/status")["PausedJobs"] == []


class NeverStopping:
    def is_set(self) -> bool:
        return False


class Waiting:
    """Jobs of which the first ones run, one after the other sends its image; the others wait."""

    synchronous, concurrent_jobs, stopping = True, 2, NeverStopping()

    def __init__(self, look: Any, runs: int) -> None:
        self._look, self.runs, self.submitted = look, runs, 0

    def destination(self, _aet: str) -> Any:
        return "PACS", {}

    def submit(self, *_: Any) -> str:
        self.submitted += 1
        return f"job {self.submitted}"

    def wait(self, jobs: list[str], _pause: float) -> list[str]:
        return jobs

    def look(self, job: str) -> Any:
        waits = int(job.split()[1]) > self.runs
        return self._look(0 if waits else 50, None, waits=waits)


@pytest.mark.parametrize(("runs", "asked"), [(0, {"job 1", "job 2"}), (1, {"job 2"}), (2, set())])
def test_room_is_made_for_so_many_associations_and_not_for_the_part_that_only_waits_in_line(
    start: Callable[..., Script], source: Any, runs: int, asked: set[str]
) -> None:
    start("cmove_interceptor")
    jobs = Waiting(source("cmove_interceptor.jobs").Look, runs)
    made: set[str] = set()

    class Slots:
        def make_room(self, job: str) -> None:
            made.add(job)
            if len(made) >= len(asked):
                jobs.runs = 9

    sender = source("cmove_interceptor.sending").Sender(jobs, Slots(), None, 2, lambda _: None)
    move = source("cmove_interceptor.move").Move(1, "name", {"TargetAET": "PACS"}, "move")
    part = source("cmove_interceptor.move").Part
    move.parts = [part(["a"], 100, f"job {number}") for number in (1, 2, 3)]
    jobs.submitted, move.total = 3, 300
    sender.follow(move, 50 if runs else 150)
    assert made == asked


def test_what_waited_for_a_part_that_has_just_ended_needs_no_room(start: Callable[..., Script], source: Any) -> None:
    start("cmove_interceptor")
    found, made = source("cmove_interceptor.jobs").Look, list[str]()

    class Ending(Waiting):
        def wait(self, _jobs: list[str], _pause: float) -> list[str]:
            return ["job 1"]

        def look(self, _job: str) -> Any:
            return found(100, True)

    class Slots:
        def make_room(self, job: str) -> None:
            made.append(job)

    sender = source("cmove_interceptor.sending").Sender(Ending(found, 2), Slots(), None, 2, lambda _: None)
    move = source("cmove_interceptor.move").Move(1, "name", {"TargetAET": "PACS"}, "move")
    move.parts = [source("cmove_interceptor.move").Part(["a"], 100, f"job {number}") for number in (1, 2, 3)]
    move.parts[2].waits = True
    sender.follow(move, 100)
    assert made == []


def test_room_is_made_for_a_job_that_fetches(start: Callable[..., Script], source: Any) -> None:
    start("cmove_interceptor")
    found = source("cmove_interceptor.jobs").Look
    made: list[str] = []

    class Slots:
        def make_room(self, job: str) -> None:
            made.append(job)

    class Jobs:
        stopping, states = NeverStopping(), [found(0, None, waits=True), found(100, True)]

        def wait(self, _jobs: list[str]) -> None:
            pass

        def look(self, _job: str) -> Any:
            return self.states.pop(0)

    settings = source("cmove_interceptor.settings").Fetch()
    fetcher = source("cmove_interceptor.fetcher").Fetcher(None, None, Jobs(), Slots(), settings, {})
    fetcher._wait_for("job", float("inf"))
    assert made == ["job"]
