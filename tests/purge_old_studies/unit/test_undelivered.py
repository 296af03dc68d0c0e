# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: what another script has not delivered stays, and one that can't say keeps all."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
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


@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_one_that_can_not_say_keeps_all(purging: Purging, status: int) -> None:
    purging.rest.answers[OWED] = purging.rest.error(status, "it waits for its state")
    purging.start()
    [reason] = purge(purging).json()["Undelivered"]
    assert reason == "auto_forward_peer can't say whether it has delivered it: it waits for its state"
    assert purging.deleted() == []


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
    module: Any = importlib.import_module("purge_old_studies.undelivered")
    loopback: Any = importlib.import_module("common.loopback")
    answers = [purging.rest.error(503), purging.rest.error(0), purging.rest.error(503), {"Owed": []}]
    purging.rest.answers[OWED] = lambda *_: answers.pop(0) if len(answers) > 1 else answers[0]
    module.Undelivered(loopback.Loopback({}), keeps=True).wait_for_answers(threading.Event())
    assert len(answers) == 1


def test_where_it_is_not_wanted_nobody_is_asked(purging: Purging) -> None:
    purging.rest.answers[OWED] = {"Owed": ["a1"]}
    purging.start(KeepUndelivered=False)
    assert purge(purging).json()["Deleted"] == 2
    assert purging.rest.asked(*OWED) == []
