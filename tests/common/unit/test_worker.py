# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/worker.py: a worker opens its state until it can, and takes turn after turn."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from testing.waiting import wait_until
from tests.common.unit.helpers import HOLDS, end, program


class Script:
    """A worker whose opening and turns fail as a test says."""

    def __init__(self, common: Any, path: Path) -> None:
        self.common, self.path = common, path
        self.fault: Exception | None = None
        self.turns = self.losses = 0
        self.worker = common.worker.Worker("script", self.open_state, self.turn, lose=self.lose)

    def lose(self) -> None:
        self.losses += 1

    def open_state(self) -> Any:
        if self.fault:
            raise self.fault.with_traceback(None)
        return self.common.ledger.Ledger(self.path)

    def turn(self) -> float:
        if self.fault:
            raise self.fault.with_traceback(None)
        self.turns += 1
        return 60.0


@pytest.fixture
def script(common: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    for name in ("FIRST_RETRY", "LONGEST_RETRY", "AFTER_FAULT", "AFTER_BUG", "LOOK_AT_STATE", "STANDBY_SECONDS"):
        monkeypatch.setattr(common.worker, name, 0.02)
    made = Script(common, path)
    yield made
    assert made.worker.stop()


def logged(standin: StandIn) -> list[tuple[str, str]]:
    return [(level, text) for level, text in standin.logs if level in ("error", "warning")]


def test_a_worker_opens_its_state_until_it_can_and_says_so_once(script: Script, orthanc_standin: StandIn) -> None:
    script.fault = sqlite3.OperationalError("database or disk is full")
    assert script.worker.unavailable == "script has not started yet"
    script.worker.start()
    why = "script is idle until this is over: database or disk is full"
    assert script.worker.why_not() == why
    time.sleep(0.2)
    script.fault = None
    wait_until(lambda: script.turns > 1, timeout=5)
    assert script.worker.why_not() is None
    assert logged(orthanc_standin) == [
        ("error", why),
        ("warning", "script goes on, this is over: database or disk is full"),
    ]


def test_a_state_that_another_process_has_is_a_warning_and_is_taken_over(
    script: Script, orthanc_standin: StandIn, path: Path
) -> None:
    first = program(HOLDS, path)
    assert first.stdout
    assert first.stdout.readline() == "open\n"
    script.worker.start()
    assert "another process uses" in str(script.worker.why_not())
    end(first)
    wait_until(lambda: script.turns > 0, timeout=5)
    [(first_level, text), (second_level, over)] = logged(orthanc_standin)
    assert (first_level, second_level) == ("warning", "warning")
    assert str(path) in text
    assert "StatePath" in text
    assert over.startswith("script goes on, this is over: another process uses")


def test_a_configuration_that_is_wrong_turns_it_off(script: Script, orthanc_standin: StandIn) -> None:
    script.fault = ValueError("Matcher: no such file")
    script.worker.start()
    assert script.worker.why_not() == "script stays idle: Matcher: no such file"
    assert script.worker.is_off
    script.fault = None
    time.sleep(0.2)
    assert script.turns == 0
    assert logged(orthanc_standin) == [("error", "script stays idle: Matcher: no such file")]


@pytest.mark.parametrize("is_open", [False, True])
def test_an_error_moves_no_cursor_of_a_terminal_that_shows_the_log(
    script: Script, orthanc_standin: StandIn, is_open: bool
) -> None:
    if is_open:
        script.worker.start()
        wait_until(lambda: script.turns > 0, timeout=5)
    script.fault = OSError("\x1b[2J\x9b2Jno\nE0101 forged")
    if not is_open:
        script.worker.start()
    wait_until(lambda: logged(orthanc_standin), timeout=5)
    [(_, text)] = logged(orthanc_standin)
    assert text.endswith(
        "when this is over: [2J 2Jno E0101 forged" if is_open else "until this is over: [2J 2Jno E0101 forged"
    )
    script.fault = None


def test_a_traceback_is_in_the_log_once_and_no_answer_has_it(script: Script, orthanc_standin: StandIn) -> None:
    script.fault = KeyError("bug")
    script.worker.start()
    assert script.worker.why_not() == "script is idle until this is over: an error, please report it:"
    script.fault = None
    wait_until(lambda: len(logged(orthanc_standin)) == 2, timeout=5)
    [(_, text), (_, over)] = logged(orthanc_standin)
    assert "Traceback" in text
    assert over == "script goes on, this is over: an error, please report it:"


@pytest.mark.parametrize("fault", [sqlite3.OperationalError("database is locked"), OSError("no"), KeyError("bug")])
def test_a_turn_that_fails_is_taken_again_and_said_once(
    script: Script, orthanc_standin: StandIn, fault: Exception
) -> None:
    script.worker.start()
    wait_until(lambda: script.turns > 0, timeout=5)
    script.fault = fault
    wait_until(lambda: logged(orthanc_standin), timeout=5)
    assert script.worker.why_not() is None  # routes that only read still answer
    time.sleep(0.1)
    script.fault, before = None, script.turns
    wait_until(lambda: script.turns > before, timeout=5)
    assert [level for level, _ in logged(orthanc_standin)] == ["error", "warning"]


def test_it_is_idle_while_its_state_is_away_and_goes_on_when_the_very_same_is_back(
    script: Script, orthanc_standin: StandIn, path: Path
) -> None:
    script.worker.start()
    wait_until(lambda: script.turns > 0, timeout=5)
    path.parent.rename(path.parent.with_name("away"))
    wait_until(lambda: script.worker.unavailable, timeout=5)
    assert "was deleted or replaced while it was in use; restart Orthanc" in str(script.worker.why_not())
    path.parent.mkdir()
    time.sleep(0.1)
    path.write_bytes(path.parent.with_name("away").joinpath(path.name).read_bytes())  # another, though it looks alike
    time.sleep(0.1)
    before = script.turns
    time.sleep(0.1)
    assert script.turns == before
    shutil.rmtree(path.parent)
    path.parent.with_name("away").rename(path.parent)
    wait_until(lambda: script.turns > before, timeout=5)
    assert script.worker.why_not() is None
    assert [level for level, _ in logged(orthanc_standin)] == ["error", "warning"]


def test_the_state_is_free_when_a_worker_has_stopped(script: Script, common: Any, path: Path) -> None:
    script.worker.start()
    wait_until(lambda: script.turns > 0, timeout=5)
    assert script.worker.stop()
    assert script.worker.why_not() == "script has stopped"
    common.ledger.Ledger(path).close()


def test_who_loses_the_state_to_another_server_stands_by_and_goes_on_when_that_one_ends(
    script: Script, orthanc_standin: StandIn
) -> None:
    script.worker.start()
    wait_until(lambda: script.turns > 0, timeout=5)
    script.fault = script.common.state.StateLostError("server B has taken over the work: this one stands by", "B")
    script.worker.wake.set()
    wait_until(lambda: script.worker.worked_by == "B", timeout=5)
    assert "server B has taken over" in str(script.worker.why_not())
    wait_until(lambda: script.losses, timeout=5)
    script.fault = script.common.state.StandsByError("server B has the work", "B")
    before = script.turns
    time.sleep(0.2)
    assert (script.turns, script.losses) == (before, 1)
    script.fault = None
    wait_until(lambda: script.turns > before, timeout=5)
    assert (script.worker.worked_by, script.worker.why_not()) == (None, None)
    assert {level for level, _ in logged(orthanc_standin)} == {"warning"}


def test_a_server_that_stands_by_is_healthy_and_no_probe_ends_it(script: Script, common: Any) -> None:
    script.fault = common.state.StandsByError("server B has the work", "B")
    script.worker.start()
    wait_until(lambda: script.worker.worked_by, timeout=5)
    found = common.status.condition_of(script.worker, server="A")
    assert (found.state, found.is_healthy, found.server, found.worked_by) == ("standby", True, "A", "B")
