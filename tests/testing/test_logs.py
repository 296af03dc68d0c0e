# SPDX-License-Identifier: AGPL-3.0-or-later
"""Logs and waiting: what is found in a log, and what a failed assertion says."""

from __future__ import annotations

import pytest

from testing.logs import assert_logged, assert_not_logged, orthanc_lines
from testing.pytest_plugin import StartOrthanc
from testing.standin import OrthancApiHandler, StandIn
from testing.waiting import wait_until

LOGS = """
import orthanc

def on_change(change, level, resource):
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        orthanc.LogInfo("an info")
        orthanc.LogWarning("a warning of 10:15]")
        raise ValueError("went wrong")

orthanc.RegisterOnChangeCallback(on_change)
"""


def test_a_real_log_is_read_as_levels_and_texts_with_tracebacks_in_one_piece(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(LOGS, verbose=True)
    server.wait_for_log('raise ValueError("went wrong")')
    server.assert_logged("an info", level="info")
    server.assert_logged("a warning of 10:15]", level="warning")
    server.assert_not_logged("a warning", level="error")
    server.assert_logged("Orthanc has started")
    (error,) = [text for level, text in server.log_lines() if level == "error"]
    assert error.startswith("Error in the Python on-change callback, traceback:\n<class 'ValueError'>\nwent wrong\n")
    assert 'raise ValueError("went wrong")' in error
    assert {level for level, _ in server.log_lines()} == {"info", "warning", "error"}
    with pytest.raises(AssertionError, match=r"something at level error was logged:\n(.|\n)*went wrong"):
        server.assert_not_logged(level="error")


def test_the_lines_of_all_versions_are_understood() -> None:
    old = "W1121 14:20:38.218448 main.cpp:2017] Orthanc version: 1.10.1"
    new = "E1121 14:20:38.218448             MAIN python:/OnChangeCallback.cpp:208] (plugins) Error\nTraceback"
    assert orthanc_lines(f"begin\n{old}\n{new}") == [
        ("", "begin"),
        ("warning", "Orthanc version: 1.10.1"),
        ("error", "Error\nTraceback"),
    ]


def test_a_failed_assertion_shows_what_was_logged_instead() -> None:
    standin = StandIn()
    standin.module.LogWarning("study b is stable")
    standin.assert_logged("is stable")
    with pytest.raises(AssertionError, match=r"'is stable' at level error was not logged.*\nwarning study b is stable"):
        standin.assert_logged("is stable", level="error")
    with pytest.raises(AssertionError, match=r"'stable' was logged:\nwarning study b is stable"):
        standin.assert_not_logged("stable")
    with pytest.raises(ValueError, match="level: found 'warn', allowed: error, warning, info, trace"):
        assert_logged([], "x", "warn")
    assert_not_logged([], level="error")


def test_waiting_gives_the_value_and_names_what_did_not_come() -> None:
    numbers = iter([0, 0, 3])
    assert wait_until(lambda: next(numbers)) == 3
    with pytest.raises(TimeoutError, match=r"^0\.01 s were not enough for: the study$"):
        wait_until(lambda: False, timeout=0.01, what="the study")


def test_the_handed_over_stand_in_is_the_module_and_may_be_shared_by_tests() -> None:
    orthanc = OrthancApiHandler(configuration={"Name": "X"})
    assert orthanc.GetConfiguration() == '{"Name": "X"}'
    assert orthanc.GenerateRestApiAuthorizationToken()
    for answer in ("first", "second"):
        orthanc.RegisterOnChangeCallback(lambda *event, answer=answer: (answer, *event))
    kinds = orthanc.ChangeType, orthanc.ResourceType
    assert orthanc.on_change(kinds[0].NEW_STUDY, kinds[1].STUDY, "b") == ("second", 6, 1, "b")
    assert orthanc.on_change(kinds[0].ORTHANC_STARTED) == ("second", 10, 4, "")
    with pytest.raises(AssertionError, match=r"999 is no orthanc\.ChangeType"):
        orthanc.on_change(999)
    with pytest.raises(AttributeError):
        _ = orthanc.NoSuchFunction
