# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/status.py: the state of a script in each situation, what its status says then, and what a probe gets."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn
from tests.unit.fakes import Clock, eventually

COMMON = {"State", "Reason", "Version", "LastError", "Totals"}


class Script:
    """A script with a worker, whose state can be opened, and whose turn ends, as a test says."""

    def __init__(self, source: Callable[[str], ModuleType], standin: StandIn, folder: Path) -> None:
        self.standin, self.folder = standin, folder
        self.status, self.state, self.ledger = (source(f"common.{name}") for name in ("status", "state", "ledger"))
        self.fault: Exception | None = None
        self.fault_of_turn: Exception | None = None
        self.worker = source("common.worker").Worker("my_script", self._open, self._turn)
        self.refusal: str | None = None

    def _open(self) -> Any:
        if self.fault:
            raise self.fault
        return self.ledger.Ledger(self.folder / "my_script.sqlite")

    def _turn(self) -> float:
        if self.fault_of_turn:
            raise self.fault_of_turn
        return 0.001

    def register(self, **more: Any) -> None:
        def look() -> Any:
            return self.status.refused(self.refusal) if self.refusal else self.status.condition_of(self.worker)

        self.status.register_status("my_script", look, self.report, **more)

    def report(self, _request: Any) -> dict[str, Any]:
        """Return what it has done."""
        return {"Totals": {"done": 3}, "Own": True}

    def get(self, path: str) -> tuple[int, Any]:
        answer = self.standin.http("GET", path)
        return answer.status, answer.json()


@pytest.fixture
def script(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, tmp_path: Path, clock: Clock
) -> Iterator[Script]:
    made = Script(source, orthanc_standin, tmp_path)
    yield made
    made.worker.stop()


def test_a_script_that_runs_says_so_with_its_totals_and_its_own_fields(script: Script) -> None:
    script.register()
    script.worker.start()
    eventually(lambda: script.get("/my-script/status")[0] == 200)
    status, found = script.get("/my-script/status")
    version = script.status.__version__
    common = {"State": "running", "Reason": None, "Version": version, "LastError": None, "Totals": {"done": 3}}
    assert (status, found) == (200, {**common, "Own": True})
    assert script.get("/scripts") == (
        200,
        [
            {
                **{"Name": "my_script", "State": "running", "Reason": None, "Version": version, "Healthy": True},
                **{"Routes": "/my-script", "Status": "/my-script/status"},
            }
        ],
    )
    assert script.get("/scripts/health") == (200, {"Healthy": True, "Scripts": 1, "Unhealthy": []})


def check_not_running(script: Script, state: str, reason: str, last_error: Any) -> None:
    """The status and the probe answer 503 in the shape of Orthanc's errors, with the same reason."""
    status, found = script.get("/my-script/status")
    assert status == 503
    assert found.keys() == COMMON | {"HttpError", "HttpStatus", "Message", "Method", "Uri"}
    assert (found["State"], found["Reason"], found["Message"]) == (state, reason, reason)
    assert (found["LastError"], found["Totals"]) == (last_error, {})
    status, found = script.get("/scripts/health")
    assert (status, found["Message"], found["Healthy"]) == (503, f"my_script: {reason}", False)
    assert [each["State"] for each in found["Unhealthy"]] == [state]


def test_before_it_has_started_and_after_it_has_stopped_it_is_idle(script: Script) -> None:
    script.register()
    check_not_running(script, "idle", "my_script has not started yet", None)
    script.worker.start()
    eventually(lambda: script.worker.unavailable is None)
    script.worker.stop()
    check_not_running(script, "idle", "my_script has stopped", None)


def test_with_a_wrong_section_it_is_misconfigured(script: Script) -> None:
    script.refusal = "MyScript.X is not a known key (did you mean Y?). my_script is idle until this is corrected."
    script.register()
    loaded = script.status.utc(script.status.LOADED_AT)
    check_not_running(script, "misconfigured", script.refusal, {"Text": script.refusal, "Time": loaded})


def test_what_is_wrong_with_the_configuration_may_show_when_the_state_is_opened(script: Script) -> None:
    script.register()
    script.fault = ValueError("a Matcher is not there")
    script.worker.start()
    eventually(lambda: script.worker.is_off)
    reason = "my_script stays idle: a Matcher is not there"
    check_not_running(script, "misconfigured", reason, {"Text": reason, "Time": "2023-11-14T22:13:20.000Z"})


def test_while_another_process_has_its_state_it_waits_then_runs_and_remembers(script: Script) -> None:
    script.register()
    script.fault = script.state.StateBusyError("another process uses it")
    script.worker.start()
    eventually(lambda: script.worker.is_waiting)
    reason = "my_script is idle until this is over: another process uses it"
    last = {"Text": reason, "Time": "2023-11-14T22:13:20.000Z"}
    check_not_running(script, "waiting", reason, last)
    script.fault = None
    eventually(lambda: script.worker.unavailable is None)
    status, found = script.get("/my-script/status")
    assert (status, found["State"], found["Reason"], found["LastError"]) == (200, "running", None, last)
    assert script.get("/scripts/health")[0] == 200


def test_while_its_state_can_not_be_opened_it_is_idle(script: Script) -> None:
    script.register()
    script.fault = OSError("no space")
    script.worker.start()
    eventually(lambda: script.worker.trouble.text)
    reason = "my_script is idle until this is over: no space"
    check_not_running(script, "idle", reason, {"Text": reason, "Time": "2023-11-14T22:13:20.000Z"})


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError("no space"), "my_script goes on when this is over: no space"),
        (RuntimeError("of patient Doe"), "my_script met an error, please report it:"),
    ],
)
def test_what_goes_wrong_while_it_runs_is_a_reason_for_the_probe_without_a_traceback(
    script: Script, fault: Exception, reason: str
) -> None:
    script.register()
    script.fault_of_turn = fault
    script.worker.start()
    eventually(lambda: script.worker.trouble.text)
    last = {"Text": reason, "Time": "2023-11-14T22:13:20.000Z"}
    status, found = script.get("/my-script/status")
    assert (status, found["State"], found["Reason"], found["LastError"]) == (200, "running", reason, last)
    assert found["Totals"] == {"done": 3}
    status, found = script.get("/scripts/health")
    assert (status, found["Message"]) == (503, f"my_script: {reason}")
    script.fault_of_turn = None
    eventually(lambda: not script.worker.trouble.text)
    found = script.get("/my-script/status")[1]
    assert (found["Reason"], found["LastError"]) == (None, last)
    assert script.get("/scripts/health")[0] == 200


def test_a_state_that_was_taken_away_makes_it_idle(script: Script, clock: Clock) -> None:
    script.register()
    script.worker.start()
    eventually(lambda: script.worker.unavailable is None)
    (script.folder / "my_script.sqlite").rename(script.folder / "away")
    eventually(lambda: clock.advance(6) or script.worker.unavailable)
    assert script.get("/my-script/status")[1]["State"] == "idle"
    assert "was deleted or replaced" in script.get("/scripts/health")[1]["Message"]


def test_totals_that_can_not_be_read_now_are_a_503_with_the_same_fields(script: Script) -> None:
    script.register()
    script.worker.start()
    eventually(lambda: script.worker.unavailable is None)

    def locked(_request: Any) -> Any:
        raise sqlite3.OperationalError("database is locked")

    script.status.register_status("other", lambda: script.status.Condition("running"), locked)
    status, found = script.get("/other/status")
    assert (status, found["State"], found["Totals"]) == (503, "idle", {})
    assert found["Reason"] == "The script's state can't be used now: database is locked"


def test_a_probe_reads_no_totals_and_waits_for_nothing(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a probe must be cheap")

    monkeypatch.setattr(script, "report", never)
    script.register(wait=never)
    script.worker.start()
    eventually(lambda: script.get("/scripts/health")[0] == 200)
    assert script.get("/scripts")[0] == 200


def test_a_script_for_which_nothing_is_configured_is_idle_and_healthy(script: Script) -> None:
    status = script.status
    status.register_status("my_script", lambda: status.unused("there is no section MyScript"), script.report)
    code, found = script.get("/my-script/status")
    assert (code, found["State"], found["Reason"]) == (503, "idle", "there is no section MyScript")
    assert script.get("/scripts/health")[0] == 200


def test_several_of_one_script_are_all_listed_and_each_counts(script: Script) -> None:
    script.register()
    look = lambda: script.status.Condition("running")  # noqa: E731
    script.status.register_status("other", look, script.report, base="/some/other", routes=None)
    found = script.get("/scripts")[1]
    assert [(each["Name"], each["Routes"], each["Status"]) for each in found] == [
        ("my_script", "/my-script", "/my-script/status"),
        ("other", None, "/some/other/status"),
    ]
    status, found = script.get("/scripts/health")
    assert (status, found["Scripts"], [each["Name"] for each in found["Unhealthy"]]) == (503, 2, ["my_script"])
    patterns = [pattern for pattern, _ in script.standin.registered["RegisterRestCallback"]]
    assert len(patterns) == len(set(patterns))


def test_in_a_combined_file_the_runtime_takes_its_entries_and_it_registers_no_route_for_all(
    script: Script, source: Callable[[str], ModuleType]
) -> None:
    taken: list[Callable[[], list[dict[str, Any]]]] = []
    setattr(script.standin.module, script.status.HAND_OVER, taken.append)
    script.register()
    assert [each["Name"] for each in taken[0]()] == ["my_script"]
    patterns = [pattern for pattern, _ in script.standin.registered["RegisterRestCallback"]]
    assert patterns == ["/my-script/status", "/my-script"]


def test_its_routes_are_listed_with_parameters_and_what_each_does(
    script: Script, source: Callable[[str], ModuleType]
) -> None:
    routes, parameters = source("common.routes"), source("common.parameters")

    @parameters.takes(parameters.PAGE_PARAMETERS)
    def jobs(_request: Any) -> None:
        """Return a page of jobs.

        More of it.
        """

    routes.register_route("/my-script/jobs/([0-9]+)", {"GET": jobs, "DELETE": lambda _request: None}, lambda: "idle")
    script.register()
    found = script.get("/my-script")
    assert found[0] == 200
    expected = {"Method": "GET", "Path": "/my-script/jobs/{id}", "Parameters": ["since", "limit"]}
    assert found[1][0] == {**expected, "Does": "Return a page of jobs."}
    assert [(each["Method"], each["Path"]) for each in found[1][1:]] == [
        ("DELETE", "/my-script/jobs/{id}"),
        ("GET", "/my-script/status"),
        ("GET", "/my-script"),
        ("GET", "/scripts"),
        ("GET", "/scripts/health"),
    ]
    assert all(each["Does"] for each in found[1][2:])


@pytest.mark.parametrize(("style", "other"), [("dry-run", "DryRun"), ("LabelsConstraint", "labels-constraint")])
def test_the_name_of_a_parameter_may_be_in_either_style_but_not_twice(
    source: Callable[[str], ModuleType], style: str, other: str
) -> None:
    parameters = source("common.parameters")
    taken = {style: parameters.Text()}
    for from_query in (True, False):
        for name in (style, other):
            assert parameters.read_parameters(taken, {name: "x"}, from_query=from_query) == {style: "x"}
    with pytest.raises(parameters.ParameterError, match=f"{style} is given twice, also as {other}"):
        parameters.read_parameters(taken, {style: "x", other: "y"}, from_query=False)
    for wrong in (style.upper(), style.replace("-", "_") + "_", other.upper()):
        with pytest.raises(parameters.ParameterError, match="Unknown parameter"):
            parameters.read_parameters(taken, {wrong: "x"}, from_query=False)
