# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: what another script has not delivered stays, and one that can't say keeps all."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script
from tests.purge_old_studies.unit.test_guards import NAME, Purging, purge

OWED = ("POST", "/auto-forward-peer/owed")


@pytest.fixture
def purging(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Purging:
    found = Purging(start, rest, clock, orthanc_standin)
    for study in ("a1", "b2"):
        found.add(study)
    return found


@pytest.mark.parametrize("owed", ["a1", "a1-9a"], ids=["study", "patient"])
def test_what_is_owed_stays_and_the_answer_says_so(purging: Purging, owed: str) -> None:
    purging.rest.answers[OWED] = {"Owed": [owed]}
    purging.start()
    reasons = {"auto_forward_peer has not delivered it": 1}
    assert purge(purging).json() == {"Deleted": 1, "Since": "20000101", "Undelivered": reasons}
    assert purging.deleted() == ["b2"]
    [job] = purging.purges()
    assert (job["State"], job["Undelivered"]) == ("done", reasons)
    [line] = [each for each in purging.script.get(f"{NAME}/history")["Items"] if each["Event"] == "started"]
    assert (line["Studies"], line["Undelivered"]) == (1, reasons)


def test_what_becomes_owed_after_the_choice_stays(purging: Purging) -> None:
    answers = [{"Owed": []}, {"Owed": ["a1"]}]
    purging.rest.answers[OWED] = lambda *_: answers.pop(0) if len(answers) > 1 else answers[0]
    purging.start()
    assert purge(purging).json()["Kept"] == ["a1"]
    assert purging.deleted() == ["b2"]


@pytest.mark.parametrize("seconds", [1.0, 0.0])
def test_what_receives_something_while_the_others_are_asked_stays_where_that_takes_long(
    purging: Purging, seconds: float
) -> None:
    def answer(*_: Any) -> Any:
        if len(purging.rest.asked(*OWED)) > 1:
            purging.clock.advance(seconds)
            purging.found["a1"] = {**purging.found["a1"], "LastUpdate": "20260301T022800"}
        return {"Owed": []}

    purging.rest.answers[OWED] = answer
    purging.start()
    answered = purge(purging).json()
    if seconds:
        assert answered["Kept"] == ["a1"]
        assert purging.deleted() == ["b2"]
    else:
        assert purging.deleted() == ["a1", "b2"]  # what was looked at a moment ago is not looked at again


def test_the_rest_of_one_that_was_begun_stays_if_it_receives_something_while_the_others_are_asked(source: Any) -> None:
    studies = source("purge_old_studies.studies")
    came = ["20000101T000000", "20260301T022800"]

    def again(*_: Any) -> dict[str, Any]:
        return {"a1": studies.Study("a1", "a1-9a", {}, came.pop(0), None, frozenset(), frozenset(), 1)}

    nobody = SimpleNamespace(why_kept=lambda *_: {})
    archive = SimpleNamespace(again=again, why_undelivered=lambda _: {}, proving=lambda _: nobody)
    written: list[Any] = []
    ledger, history = SimpleNamespace(run=lambda *_: None), SimpleNamespace(add=written.extend)
    purge_of_before = source("purge_old_studies.purge").Purge(1, None, ledger, history, archive, {})
    facts = {"StudyInstanceUID": "1.2", "LastUpdate": "20000101T000000"}
    purge_of_before._finish_pieces({"study": "a1", "number": 1, "state": "pieces", "facts": facts})
    [line] = written
    assert (line["Event"], line["Reason"]) == ("kept", "it has received something since it was chosen")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it has waited."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_one_that_can_not_say_for_a_moment_is_asked_once_more(purging: Purging, pauses: list[float]) -> None:
    answers = [purging.rest.error(503, "it has still to read what arrived"), {"Owed": []}]
    purging.rest.answers[OWED] = lambda *_: answers.pop(0) if len(answers) > 1 else answers[0]
    purging.start()
    assert purge(purging).json() == {"Deleted": 2, "Since": "20000101"}
    assert pauses == [2.0]


def test_one_that_can_not_say_for_long_is_waited_for_once_until_it_can(purging: Purging, pauses: list[float]) -> None:
    purging.rest.answers[OWED] = purging.rest.error(503, "it stays idle")
    purging.start()
    for _ in range(2):
        assert purge(purging).json()["Deleted"] == 0
    assert pauses == [2.0]
    purging.rest.answers[OWED] = {"Owed": ["a1"]}
    assert purge(purging).json()["Deleted"] == 1
    purging.rest.answers[OWED] = purging.rest.error(503, "it stays idle")
    assert purge(purging).json()["Deleted"] == 0
    assert pauses == [2.0, 2.0]


@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_one_that_can_not_say_keeps_all(purging: Purging, pauses: list[float], status: int) -> None:
    purging.rest.answers[OWED] = purging.rest.error(status, "it waits for its state")
    purging.start()
    [reason] = purge(purging).json()["Undelivered"]
    assert reason == "auto_forward_peer can't say whether it has delivered it: it waits for its state"
    assert purging.deleted() == []
    assert bool(pauses) is (status == 503)


def test_one_that_is_loaded_and_has_no_such_route_keeps_all(purging: Purging) -> None:
    purging.rest.answers["GET", "/scripts"] = [{"Name": "auto_forward_peer"}]
    purging.start()
    assert purge(purging).json()["Deleted"] == 0
    assert purging.deleted() == []


def test_one_that_is_not_there_owes_nothing_and_is_asked_once(purging: Purging) -> None:
    purging.start()
    assert purge(purging).json() == {"Deleted": 2, "Since": "20000101"}
    purging.add("c3")
    assert purge(purging).json()["Deleted"] == 1
    assert len(purging.rest.asked(*OWED)) == 1


def test_after_a_start_of_orthanc_a_purge_that_goes_on_waits_for_the_others(purging: Purging) -> None:
    purging.start()
    module: Any = importlib.import_module("common.undelivered")
    loopback: Any = importlib.import_module("common.loopback")
    answers = [purging.rest.error(503), purging.rest.error(0), purging.rest.error(503), {"Owed": []}]
    purging.rest.answers[OWED] = lambda *_: answers.pop(0) if len(answers) > 1 else answers[0]
    module.Undelivered(loopback.Loopback({})).wait_for_answers(threading.Event())
    assert len(answers) == 1


def test_where_it_is_not_wanted_nobody_is_asked(purging: Purging) -> None:
    purging.rest.answers[OWED] = {"Owed": ["a1"]}
    purging.start(KeepUndelivered=False)
    assert purge(purging).json()["Deleted"] == 2
    assert purging.rest.asked(*OWED) == []
