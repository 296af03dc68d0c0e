# SPDX-License-Identifier: AGPL-3.0-or-later
"""An image that Orthanc can't anonymize: for good, it is held back; for now, it is tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.anonymize_series.unit.test_guards import NAME, Anonymizing
from tests.fakes import Clock, FakeOrthanc, Script, eventually


@pytest.mark.parametrize("status", [400, 415, 501])
def test_what_orthanc_can_never_anonymize_is_held_back_at_the_first_attempt(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, status: int
) -> None:
    made = Anonymizing(start, rest)
    rest.answers["POST", "/instances/1/anonymize"] = rest.error(status, "Bad file format")
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["State"] == "partly")
    assert (made.work(number)["HeldBack"], made.work(number)["Attempts"]) == (1, 1)
    [held] = made.script.get(f"{NAME}/held")["Items"]
    assert held["Reason"] == "Orthanc can't anonymize it: Bad file format"


def test_an_error_that_may_pass_is_tried_again_before_it_holds_an_image_back(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = Anonymizing(start, rest)
    rest.answers["POST", "/instances/1/anonymize"] = rest.error(500, "no room on the disk")
    number = made.anonymize("here")
    for attempt in (1, 2):
        eventually(lambda: made.work(number)["Attempts"] == attempt)  # noqa: B023 - it is called here
        eventually(lambda: made.work(number)["State"] == "waiting")
        assert made.script.get(f"{NAME}/held")["Items"] == []
        clock.advance(86400)
        made.script.change("STABLE_SERIES", "another")
    eventually(lambda: made.work(number)["State"] == "partly")
    assert made.work(number)["Attempts"] == 3


def test_while_orthanc_is_too_busy_nothing_is_held_back(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = Anonymizing(start, rest)
    rest.answers["POST", "/instances/1/anonymize"] = rest.error(503, "busy")
    number = made.anonymize("here")
    for attempt in range(1, 6):
        eventually(lambda: made.work(number)["Attempts"] == attempt)  # noqa: B023 - it is called here
        eventually(lambda: made.work(number)["State"] == "waiting")
        clock.advance(3600)
        made.script.change("STABLE_SERIES", "another")
    assert made.script.get(f"{NAME}/held")["Items"] == []


def failing(rest: FakeOrthanc, code: int) -> None:
    error: Any = rest.error(500, "of this code")
    error.code = code
    rest.answers["POST", "/instances/1/anonymize"] = error


@pytest.mark.parametrize("code", [2, 15, 20, 23, 24])
def test_an_error_of_orthanc_that_is_about_the_file_holds_it_back_at_once(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, code: int
) -> None:
    made = Anonymizing(start, rest)
    failing(rest, code)
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["State"] == "partly")
    assert (made.work(number)["HeldBack"], made.work(number)["Attempts"]) == (1, 1)


@pytest.mark.parametrize("code", [4, 11, 14, 16, 19, 31, 32, 2006])
def test_an_error_of_orthanc_that_is_about_the_server_never_holds_an_image_back(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, code: int
) -> None:
    made = Anonymizing(start, rest)
    failing(rest, code)
    number = made.anonymize("here")
    for attempt in range(1, 6):
        eventually(lambda: made.work(number)["Attempts"] == attempt)  # noqa: B023 - it is called here
        eventually(lambda: made.work(number)["State"] == "waiting")
        clock.advance(3600)
        made.script.change("STABLE_SERIES", "another")
    assert made.script.get(f"{NAME}/held")["Items"] == []


def test_a_lack_of_memory_holds_no_image_back(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Anonymizing(start, rest)

    def read(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("pydicom.dcmread", read)
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["Attempts"] == 1)
    eventually(lambda: made.work(number)["State"] == "waiting")
    assert made.script.get(f"{NAME}/held")["Items"] == []


def test_where_orthanc_can_not_say_whose_fault_a_refusal_is_nothing_is_held_back(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made, answers = Anonymizing(start, rest), [rest.error(400, "Bad request"), rest.error(503, "busy")]

    def refuse(*_: Any) -> Any:
        raise answers[sum(path.endswith("/anonymize") for _, path, _ in rest.requests) % 2 - 1]

    rest.answers["POST", "/instances/1/anonymize"] = refuse
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["Error"])
    assert (made.work(number)["State"], made.work(number)["Error"]) == ("waiting", "busy")
    assert made.script.get(f"{NAME}/held")["Items"] == []


def test_what_goes_whole_is_looked_at_again_if_one_image_is_held_back_in_between(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = Anonymizing(start, rest)
    good = rest.answers["POST", "/instances/1/anonymize"]

    def answer(*_: Any) -> Any:
        if sum(path.endswith("/anonymize") for _, path, _ in rest.requests) < 2:
            return good
        raise rest.error(400, "Bad file format")

    rest.answers["POST", "/instances/1/anonymize"] = answer
    number = made.anonymize("whole")
    eventually(lambda: made.work(number)["Error"])
    assert made.work(number)["State"] == "waiting"
    clock.advance(3600)
    made.script.change("STABLE_SERIES", "another")
    eventually(lambda: made.work(number)["State"] == "partly")
    assert (made.work(number)["Copies"], made.stored()) == ([], [])
