# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/metrics.py: whether a script works, and its numbers, again and again; nothing after Orthanc has stopped."""

from __future__ import annotations

import importlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import eventually

RUNS = {"idle": 0.0, "unhealthy": 0.0}


class Reported:
    """A reporter whose script is as a test says."""

    def __init__(self, metrics: Any, standin: StandIn) -> None:
        self.status, self._standin = importlib.import_module("common.status"), standin
        self.condition = self.status.Condition("running")
        self.numbers: dict[str, float] = {"lines": 3}
        self.fault: Exception | None = None
        self.reporter = metrics.MetricsReporter("mine", lambda: self.condition, self.measure)

    def measure(self) -> dict[str, float]:
        if self.fault:
            raise type(self.fault)(*self.fault.args)  # anew, with a traceback of its own
        return self.numbers

    def sent(self) -> list[tuple[str, float]]:
        calls = [arguments for name, arguments in self._standin.calls if name == "SetMetricsValue"]
        return [(str(name).removeprefix("mine_"), value) for name, value, _ in calls]


@pytest.fixture
def reported(common: Any, orthanc_standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reported]:
    orthanc_standin.returns["SetMetricsValue"] = None
    metrics = importlib.import_module("common.metrics")
    monkeypatch.setattr(metrics, "MEASURED_AFTER_SECONDS", 0.01)
    monkeypatch.setattr(metrics, "MEASURED_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(metrics, "MEASURED_WITHIN_SECONDS", 0.01)
    made = Reported(metrics, orthanc_standin)
    yield made
    made.reporter.stop()


def test_one_that_runs_has_its_numbers(reported: Reported) -> None:
    reported.reporter.report()
    assert dict(reported.sent()) == {**RUNS, "lines": 3.0}
    assert all(isinstance(value, float) for _, value in reported.sent())


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (("misconfigured", "it is wrong"), {"idle": 1, "unhealthy": 1}),
        (("waiting", "another process has it"), {"idle": 1, "unhealthy": 1}),
        (("idle", "nothing is configured", None, True), {"idle": 0, "unhealthy": 0}),
        (("running", "the disk is full"), {"idle": 0, "unhealthy": 1, "lines": 3}),
    ],
)
def test_one_that_does_not_run_says_so_unless_nothing_is_configured(
    reported: Reported, how: tuple[Any, ...], expected: dict[str, float]
) -> None:
    reported.condition = reported.status.Condition(*how)
    reported.reporter.report()
    assert dict(reported.sent()) == expected


def test_values_that_have_not_changed_are_set_again(reported: Reported) -> None:
    """Prometheus drops what is older than five minutes, and Orthanc writes the time of each value beside it."""
    reported.reporter.start()
    eventually(lambda: reported.sent().count(("lines", 3.0)) > 2)


def test_a_ledger_that_can_not_be_read_now_is_no_bug_and_anything_else_is_said_once(
    reported: Reported, orthanc_standin: StandIn
) -> None:
    reported.fault = sqlite3.OperationalError("database is locked")
    reported.reporter.report()
    assert dict(reported.sent()) == RUNS
    orthanc_standin.assert_not_logged()
    reported.fault = KeyError("odd")
    reported.reporter.start()
    eventually(lambda: len(reported.sent()) > 20)
    assert [text.splitlines()[0] for _, text in orthanc_standin.logs] == ["mine can't be measured, please report it:"]
    reported.fault = None
    eventually(lambda: ("lines", 3.0) in reported.sent())


def test_nothing_is_set_after_the_stop_which_waits_for_what_is_under_way(
    reported: Reported, orthanc_standin: StandIn
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def set_value(*_: Any) -> None:
        inside.set()
        go_on.wait(5)

    orthanc_standin.returns["SetMetricsValue"] = set_value
    reported.reporter.start()
    assert inside.wait(5)
    stopping = threading.Thread(target=reported.reporter.stop)
    stopping.start()
    stopping.join(0.1)
    assert stopping.is_alive()
    go_on.set()
    stopping.join(5)
    number = len(reported.sent())
    reported.reporter.report()
    assert len(reported.sent()) == number


def test_the_callback_starts_and_stops_it_and_hands_all_on(reported: Reported, orthanc_standin: StandIn) -> None:
    seen: list[tuple[Any, ...]] = []
    change: Any = orthanc_standin.module.ChangeType

    def listen(*event: Any) -> str:
        seen.append(event)
        return "result"

    on_change = reported.reporter.around(listen)
    assert on_change(change.NEW_STUDY, 1, "a") == "result"
    assert reported.sent() == []
    on_change(change.ORTHANC_STARTED, 4, "")
    eventually(reported.sent)
    on_change(change.ORTHANC_STOPPED, 4, "")
    number = len(reported.sent())
    reported.reporter.report()
    assert len(reported.sent()) == number
    assert [event[0] for event in seen] == [change.NEW_STUDY, change.ORTHANC_STARTED, change.ORTHANC_STOPPED]
