# SPDX-License-Identifier: AGPL-3.0-or-later
"""`POST /NAME/owed`: with which studies, and patients as a whole, a script is not done, whatever its rows are about."""

from __future__ import annotations

import importlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually
from tests.forwarding.unit.fake_forwarding import NAME, STUDY, Forwarding
from tests.forwarding.unit.test_restored_index import Restoring

NOT_YET = 503
ALL = ["a1", "b2", "a1-9a", "b2-9a", STUDY]


def owed(forwarding: Forwarding) -> Any:
    answer = forwarding.script.post(f"{NAME}/owed", {"Resources": ALL})
    return answer.json()["Owed"] if answer.status == 200 else answer.status


@pytest.fixture
def paused(forwarding: Forwarding) -> Forwarding:
    """Whatever is to be sent waits."""
    forwarding.start()
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    return forwarding


def test_a_study_is_owed_from_its_arrival_until_it_is_delivered(forwarding: Forwarding) -> None:
    forwarding.start()
    eventually(lambda: owed(forwarding) == [])  # as soon as it has read what there is
    forwarding.rest.receive("a1", "1")
    forwarding.turn()
    assert owed(forwarding) == ["a1"]  # not stable yet
    forwarding.rest.become_stable("a1")
    forwarding.turn()
    assert owed(forwarding) == ["a1"]  # being sent
    forwarding.end([*forwarding.rest.jobs][-1])
    forwarding.turn()
    assert forwarding.states() == ["done"]
    assert owed(forwarding) == []


@pytest.mark.parametrize("section", [{"Destinations": []}, {"Rules": [{"Destinations": []}]}], ids=str)
def test_what_arrives_where_nobody_gets_anything_is_not_owed(forwarding: Forwarding, section: dict[str, Any]) -> None:
    forwarding.start(**section)
    forwarding.rest.receive("a1", "1")
    forwarding.turn()
    assert owed(forwarding) == []


def test_what_was_given_up_is_owed_until_a_person_drops_it(paused: Forwarding) -> None:
    paused.receive("a1", "1")
    [row] = paused.deliveries()
    assert owed(paused) == ["a1"]
    assert paused.standin.http("DELETE", f"{NAME}/deliveries/{row['ID']}").status == 200
    assert owed(paused) == []


def test_of_a_series_its_study_is_owed(forwarding: Forwarding) -> None:
    forwarding.start(Rules=[{"Level": "Series"}])
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    forwarding.rest.receive("a1", "1")
    forwarding.rest._log("StableSeries", "Series", "a1-5e")
    forwarding.script.change("STABLE_SERIES", "a1-5e")
    assert [row["Level"] for row in eventually(forwarding.deliveries)] == ["Series"]
    eventually(lambda: owed(forwarding) != NOT_YET)  # it has read all that there is
    assert owed(forwarding) == ["a1"]


def test_of_a_patient_the_patient_is_owed_as_a_whole(forwarding: Forwarding) -> None:
    forwarding.start(Rules=[{"Level": "Patient"}])
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    forwarding.rest.receive("a1", "1")
    forwarding.rest._log("StablePatient", "Patient", "a1-9a")
    forwarding.script.change("STABLE_PATIENT", "a1-9a")
    assert [row["Level"] for row in eventually(forwarding.deliveries)] == ["Patient"]
    eventually(lambda: owed(forwarding) != NOT_YET)  # it has read all that there is
    assert owed(forwarding) == ["a1-9a"]


def test_what_orthanc_has_reported_and_the_script_has_not_read_yet_is_owed(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn
) -> None:
    restoring = Restoring(start, rest, clock, orthanc_standin)
    restoring.start()
    restoring.turn()
    rest.answers["GET", "/changes"] = {"Changes": [], "Last": 0, "Done": True}  # as before it came
    restoring.store("i0")
    restoring.script.change("NEW_INSTANCE", "i0")
    assert owed(restoring) == [STUDY]


def test_what_orthanc_has_stored_and_not_reported_yet_is_owed(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn
) -> None:
    restoring = Restoring(start, rest, clock, orthanc_standin)
    restoring.start()
    restoring.turn()
    change = {"Seq": 9, "ChangeType": "NewInstance", "ResourceType": "Instance", "ID": "i0", "Date": "20240101T000000"}
    restoring.store("i0")
    rest.changes.clear()
    read = threading.current_thread()

    def answer(_path: str, _body: Any) -> Any:  # the thread of the script has not looked again yet
        mine = threading.current_thread() is read
        return {"Changes": [change] if mine else [], "Last": 9 if mine else 0, "Done": True}

    rest.answers["GET", "/changes"] = answer
    assert owed(restoring) == [STUDY]


def test_while_there_is_more_to_read_in_the_log_of_changes_it_can_not_say(forwarding: Forwarding) -> None:
    forwarding.start()
    eventually(lambda: owed(forwarding) == [])
    read = threading.current_thread()
    forwarding.rest.answers["GET", "/changes"] = lambda *_: {
        "Changes": [],
        "Last": 0,
        "Done": threading.current_thread() is not read,
    }
    answer = forwarding.script.post(f"{NAME}/owed", {"Resources": ALL})
    assert (answer.status, answer.json()["Message"]) == (
        NOT_YET,
        "auto_forward_modality has still to read what arrived",
    )


@pytest.mark.parametrize("reconcile", [True, False])
def test_where_the_log_of_changes_is_not_read_nobody_asks_for_it(forwarding: Forwarding, reconcile: bool) -> None:
    forwarding.start(Reconcile=reconcile)
    eventually(lambda: owed(forwarding) == [])
    asked = [path for _, path, _ in forwarding.rest.requests if path.startswith("/changes?since")]
    assert bool(asked) is reconcile


def test_what_was_reported_while_the_ledger_could_not_be_written_is_owed(
    forwarding: Forwarding, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarding.start(Reconcile=False)
    eventually(lambda: owed(forwarding) == [])
    forwarding.rest.receive("a1", "1")
    full = [True]
    ledger = importlib.import_module("common.ledger").Ledger
    transaction = ledger.transaction

    def transaction_unless_full(self: Any) -> Any:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        return transaction(self)

    monkeypatch.setattr(ledger, "transaction", transaction_unless_full)
    forwarding.script.change("NEW_INSTANCE", "1")
    assert owed(forwarding) == NOT_YET
    full.clear()
    assert owed(forwarding) == ["a1"]


def test_nothing_is_said_before_it_has_read_what_arrived_while_it_was_down(forwarding: Forwarding) -> None:
    forwarding.rest.answers["GET", "/changes"] = forwarding.rest.error(500)
    forwarding.start()
    assert owed(forwarding) == NOT_YET


def test_a_list_is_needed(forwarding: Forwarding) -> None:
    forwarding.start()
    answer = forwarding.script.post(f"{NAME}/owed")
    assert (answer.status, answer.json()["Message"][:20]) == (400, "Resources is missing")


def test_one_that_is_unused_owes_nothing(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, tmp_path: Path
) -> None:
    script = start("anonymize_series")
    answer = script.post("/anonymize-series/owed", {"Resources": ALL})
    assert (answer.status, answer.json()) == (200, {"Owed": []})
