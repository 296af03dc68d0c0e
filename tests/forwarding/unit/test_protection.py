# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding: ProtectUndelivered writes down what it protects before it does, and gives back what it found."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import orthanc_identifier
from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script
from tests.forwarding.unit.fake_forwarding import NAME, Forwarding
from tests.forwarding.unit.test_restored_index import Restoring

PATIENT = "a1-9a"
PATH = f"/patients/{PATIENT}/protected"


@pytest.fixture
def protecting(forwarding: Forwarding) -> Forwarding:
    forwarding.start({"StableAge": 1}, ProtectUndelivered=True)
    return forwarding


def deliver(forwarding: Forwarding) -> None:
    forwarding.end([*forwarding.rest.jobs][-1])
    for _ in range(3):
        forwarding.turn(20)


def put(forwarding: Forwarding) -> list[Any]:
    return forwarding.rest.asked("PUT", PATH)


def test_a_patient_is_protected_as_long_as_something_waits_or_is_sent(protecting: Forwarding) -> None:
    protecting.receive("a1", "1")
    protecting.turn(20)
    assert protecting.rest.protected == {PATIENT}
    deliver(protecting)
    assert protecting.rest.protected == set()
    assert put(protecting) == [b"1", b"0"]


@pytest.mark.parametrize("destinations", [["PACS"], []], ids=["somebody", "nobody"])
def test_a_patient_is_protected_from_its_arrival_on_if_somebody_gets_what_arrives(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn, destinations: list[str]
) -> None:
    restoring = Restoring(start, rest, clock, orthanc_standin)
    restoring.start({"StableAge": 60}, Destinations=destinations, ProtectUndelivered=True)
    restoring.turn()
    restoring.store("i0")
    restoring.turn()
    assert restoring.deliveries() == []
    assert rest.protected == ({orthanc_identifier("P")} if destinations else set())


def test_it_is_on_the_disk_before_it_is_done(protecting: Forwarding, tmp_path: Path) -> None:
    found = []

    def note(_path: str, _body: Any) -> Any:
        with contextlib.closing(sqlite3.connect(tmp_path / "db" / "auto_forward_modality.sqlite")) as db:
            found.append(db.execute("SELECT patient, state FROM protected").fetchall())
        return {}

    protecting.rest.answers["PUT", PATH] = note
    protecting.receive("a1", "1")
    protecting.turn(20)
    assert found == [[(PATIENT, "planned")]]


def test_what_was_planned_when_it_was_killed_is_given_back(protecting: Forwarding, tmp_path: Path) -> None:
    protecting.receive("a1", "1")
    protecting.turn(20)
    protecting.script.change("ORTHANC_STOPPED")
    with contextlib.closing(sqlite3.connect(tmp_path / "db" / "auto_forward_modality.sqlite")) as db, db:
        db.execute("UPDATE protected SET state='planned'")
        db.execute("UPDATE work SET state='done'")
    protecting.start({"StableAge": 1}, ProtectUndelivered=True)
    protecting.turn(20)
    protecting.turn(20)
    assert protecting.rest.protected == set()


def test_who_was_protected_by_a_person_stays_so(protecting: Forwarding) -> None:
    protecting.rest.protected = {PATIENT}
    protecting.receive("a1", "1")
    protecting.turn(20)
    deliver(protecting)
    assert protecting.rest.protected == {PATIENT}
    assert put(protecting) == []


def test_whom_a_person_unprotects_is_not_protected_again_for_more_of_the_same(protecting: Forwarding) -> None:
    protecting.receive("a1", "1")
    protecting.turn(20)
    protecting.rest.protected.clear()
    protecting.receive("a1", "2")
    protecting.turn(20)
    protecting.turn(20)
    assert protecting.rest.protected == set()
    deliver(protecting)
    assert put(protecting) == [b"1"]


def test_switched_off_it_gives_all_back(protecting: Forwarding) -> None:
    protecting.receive("a1", "1")
    protecting.turn(20)
    assert protecting.rest.protected == {PATIENT}
    protecting.start({"StableAge": 1})
    protecting.turn(20)
    assert protecting.states() == ["sending"]
    assert protecting.rest.protected == set()


def other_forwarder(forwarding: Forwarding, answer: Any) -> None:
    forwarding.rest.answers["POST", "/auto-forward-peer/protected"] = answer


def test_another_forwarder_that_needs_it_gives_it_back(protecting: Forwarding) -> None:
    other_forwarder(protecting, {"Protected": []})
    protecting.receive("a1", "1")
    protecting.turn(20)
    other_forwarder(protecting, {"Protected": [PATIENT]})
    deliver(protecting)
    assert protecting.rest.protected == {PATIENT}
    assert put(protecting) == [b"1"]


def test_of_two_that_leave_it_to_each_other_in_the_same_moment_one_gives_it_back(protecting: Forwarding) -> None:
    answers = [{"Protected": [PATIENT]}, {"Protected": []}]  # it asked us between these, and forgot the patient then
    other_forwarder(protecting, {"Protected": []})
    protecting.receive("a1", "1")
    protecting.turn(20)
    other_forwarder(protecting, lambda *_: answers.pop(0) if len(answers) > 1 else answers[0])
    deliver(protecting)
    assert protecting.rest.protected == set()


def test_while_it_leaves_a_patient_to_another_it_does_not_say_that_it_holds_the_patient(protecting: Forwarding) -> None:
    held = list[Any]()

    def answer(*_: Any) -> Any:
        held.append(protecting.script.post(f"{NAME}/protected", {"Patients": [PATIENT]}).json()["Protected"])
        return {"Protected": [PATIENT]}

    other_forwarder(protecting, {"Protected": []})
    protecting.receive("a1", "1")
    protecting.turn(20)
    other_forwarder(protecting, answer)
    deliver(protecting)
    assert held == [[PATIENT], []]
    assert put(protecting) == [b"1"]  # the other one gives it back


def test_another_forwarder_that_can_not_say_is_asked_again(protecting: Forwarding) -> None:
    other_forwarder(protecting, {"Protected": []})
    protecting.receive("a1", "1")
    protecting.turn(20)
    other_forwarder(protecting, protecting.rest.error(503))
    deliver(protecting)
    assert protecting.rest.protected == {PATIENT}
    other_forwarder(protecting, {"Protected": []})
    protecting.turn(20)
    assert protecting.rest.protected == set()


def test_another_forwarder_that_can_never_say_is_in_the_log_once_and_there_is_no_end_of_looks(
    protecting: Forwarding, tmp_path: Path
) -> None:
    other_forwarder(protecting, {"Protected": []})
    protecting.turn(20)
    with contextlib.closing(sqlite3.connect(tmp_path / "db" / "auto_forward_modality.sqlite")) as db, db:
        db.executemany("INSERT INTO protected VALUES(?,'ours',0)", [(f"p{number}",) for number in range(100)])
    other_forwarder(protecting, protecting.rest.error(503, "it stays idle: Destinations"))
    for _ in range(3):
        protecting.turn(20)
    asked = len(protecting.rest.asked("POST", "/auto-forward-peer/protected"))
    for _ in range(3):
        protecting.turn(0)
    assert len(protecting.rest.asked("POST", "/auto-forward-peer/protected")) == asked
    why = "while another forwarder can't say what it needs: it stays idle: Destinations"
    [line] = [text for _, text in protecting.standin.logs if why in text]
    assert line.startswith("auto-forward-modality: no protection of a patient is given back")
    other_forwarder(protecting, {"Protected": []})
    protecting.turn(20)
    assert any("goes on, this is over: no protection" in text for _, text in protecting.standin.logs)


def test_a_patient_whom_another_forwarder_protects_is_ours_too(protecting: Forwarding) -> None:
    other_forwarder(protecting, {"Protected": [PATIENT]})
    protecting.rest.protected = {PATIENT}
    protecting.receive("a1", "1")
    protecting.turn(20)
    answer = protecting.script.post(f"{NAME}/protected", {"Patients": [PATIENT, "b2-9a"]})
    assert answer.json() == {"Protected": [PATIENT]}
    other_forwarder(protecting, {"Protected": []})  # it has delivered first
    deliver(protecting)
    assert protecting.rest.protected == set()


def test_a_patient_whom_another_forwarder_gives_back_just_now_is_ours(protecting: Forwarding) -> None:
    other_forwarder(protecting, {"Protected": [PATIENT]})

    def give_back(*_: Any) -> int:
        del protecting.rest.answers["GET", PATH]
        other_forwarder(protecting, {"Protected": []})
        return 1  # as it was when it was asked

    protecting.rest.answers["GET", PATH] = give_back
    protecting.receive("a1", "1")
    protecting.turn(20)
    assert protecting.rest.protected == {PATIENT}
    deliver(protecting)
    assert protecting.rest.protected == set()


def test_a_patient_whom_another_forwarder_begins_to_protect_just_now_is_ours_too(protecting: Forwarding) -> None:
    other_forwarder(protecting, {"Protected": []})

    def protect(*_: Any) -> int:
        protecting.rest.protected = {PATIENT}
        other_forwarder(protecting, {"Protected": [PATIENT]})
        return 1

    protecting.rest.answers["GET", PATH] = protect
    protecting.receive("a1", "1")
    protecting.turn(20)
    answer = protecting.script.post(f"{NAME}/protected", {"Patients": [PATIENT]})
    assert answer.json() == {"Protected": [PATIENT]}


def test_what_is_to_be_deleted_waits_for_the_end_of_a_protection_by_a_script(protecting: Forwarding) -> None:
    protecting.start({"StableAge": 1}, ProtectUndelivered=True, DeleteAfterForward=True)
    protecting.rest.protected = {PATIENT}
    other_forwarder(protecting, {"Protected": [PATIENT]})
    protecting.receive("a1", "1")
    deliver(protecting)
    [row] = [each for each in protecting.deliveries() if each["Task"] == "delete"]
    assert row["State"] == "waiting"
