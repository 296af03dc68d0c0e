# SPDX-License-Identifier: AGPL-3.0-or-later
"""A file that Orthanc does not find (a plugin for storage may answer 404): the image was deleted, or its file is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.anonymize_series.unit.test_guards import NAME, Anonymizing
from tests.fakes import Clock, FakeOrthanc, Script, eventually


def with_a_second(start: Callable[..., Script], rest: FakeOrthanc) -> Anonymizing:
    made = Anonymizing(start, rest)
    rest.studies["a1"] = ["1", "2"]
    return made


def test_an_image_that_is_there_without_its_file_is_not_taken_for_deleted(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = with_a_second(start, rest)
    rest.answers["GET", "/instances/2"] = {"ID": "2", "MainDicomTags": {}}
    number = made.anonymize("here")
    for attempt in (1, 2):
        eventually(lambda: made.work(number)["Attempts"] == attempt)  # noqa: B023 - it is called here
        eventually(lambda: made.work(number)["State"] == "waiting")
        clock.advance(86400)
        made.script.change("STABLE_SERIES", "another")
    eventually(lambda: made.work(number)["State"] == "partly")
    assert (made.work(number)["HeldBack"], len(made.work(number)["Copies"])) == (1, 1)
    [held] = made.script.get(f"{NAME}/held")["Items"]
    assert (held["Instance"], held["Reason"]) == ("2", "Orthanc can't read it: the file of instance 2 is missing")


def test_an_image_that_was_deleted_is_left_out(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock) -> None:
    made = with_a_second(start, rest)
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["State"] == "done")
    assert (made.work(number)["HeldBack"], len(made.work(number)["Copies"])) == (0, 1)


def test_a_file_that_orthanc_finds_corrupted_is_held_back_at_once(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = with_a_second(start, rest)
    error: Any = rest.error(500, "Corrupted file")
    error.code = 20
    rest.answers["GET", "/instances/2/file"] = error
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["State"] == "partly")
    assert (made.work(number)["HeldBack"], made.work(number)["Attempts"]) == (1, 1)
    [held] = made.script.get(f"{NAME}/held")["Items"]
    assert (held["Instance"], held["Reason"]) == ("2", "Orthanc can't read it: Corrupted file")


def test_while_orthanc_finds_all_files_corrupted_that_may_pass(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = with_a_second(start, rest)
    for instance in "12":
        error: Any = rest.error(500, "Corrupted file")
        error.code = 20
        rest.answers["GET", f"/instances/{instance}/file"] = error
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["Error"])
    assert made.work(number)["State"] == "waiting"
    assert made.script.get(f"{NAME}/held")["Items"] == []
