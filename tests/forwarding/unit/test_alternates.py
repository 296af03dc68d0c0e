# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/ without a server: when what waits for a destination goes to an alternate, and when it stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, Forwarding


def be_silent(forwarding: Forwarding, **section: Any) -> None:
    """PACS does not answer from now on; one study waits for it, and VNA is its alternate after ten minutes."""
    forwarding.start(Alternates={"PACS": ["VNA"]}, AlternatesAfterMinutes=10, **section)
    forwarding.receive("a1", "i1")
    forwarding.end("PACS-1", why="Cannot connect")
    eventually(lambda: forwarding.states() == ["waiting"])
    forwarding.turn(2)
    eventually(lambda: forwarding.rest.asked("POST", "/modalities/PACS/echo"))
    forwarding.rest.answers["POST", "/modalities/VNA/echo"] = {}


def let_pass(forwarding: Forwarding, seconds: float) -> None:
    forwarding.turn(seconds)
    for _ in range(3):
        forwarding.turn(1)


def test_what_waits_goes_to_the_alternate_after_its_time_and_not_before(forwarding: Forwarding) -> None:
    be_silent(forwarding)
    let_pass(forwarding, 500)
    assert forwarding.sent("VNA") == []
    for job in [job for job in forwarding.rest.jobs if job.startswith("PACS")][1:]:
        forwarding.end(job, why="Cannot connect")  # a trial
    eventually(lambda: forwarding.states() == ["waiting"])
    let_pass(forwarding, 200)
    assert forwarding.sent("VNA") == [["i1"]]
    [row] = forwarding.deliveries()
    assert (row["Destination"], row["State"]) == ("VNA", "sending")
    history = forwarding.script.get(f"{NAME}/deliveries/{row['ID']}")["History"]
    assert "PACS has not answered for" in history[-1]["Error"]
    forwarding.standin.assert_logged("1 deliveries go to VNA instead", "warning")


@pytest.mark.parametrize("why", ["the alternate does not answer", "a person has paused the destination"])
def test_what_waits_stays_where(forwarding: Forwarding, why: str) -> None:
    be_silent(forwarding)
    if why.startswith("the alternate"):
        del forwarding.rest.answers["POST", "/modalities/VNA/echo"]
    else:
        forwarding.script.post(f"{NAME}/destinations/PACS/pause", {})
    let_pass(forwarding, 700)
    assert forwarding.sent("VNA") == []
    assert forwarding.deliveries()[0]["Destination"] == "PACS"


@pytest.mark.parametrize("others", [{}, {"RemoteAET": "SCANNER"}])
def test_what_came_from_the_alternate_is_not_sent_back_to_it_and_goes_to_the_next(
    forwarding: Forwarding, others: dict[str, str]
) -> None:
    """It would count as delivered, and be nowhere but where it was."""
    forwarding.rest.known["THIRD"] = {"AET": "THIRD", "Host": "third", "Port": 104}
    forwarding.start(Alternates={"PACS": ["VNA", "THIRD"]}, AlternatesAfterMinutes=10)
    forwarding.rest.receive("a1", "i1", RemoteAET="VNA")
    forwarding.receive("a1", "i2", **(others or {"RemoteAET": "VNA"}))
    forwarding.end("PACS-1", why="Cannot connect")
    eventually(lambda: forwarding.states() == ["waiting"])
    forwarding.turn(2)
    forwarding.rest.answers["POST", "/modalities/VNA/echo"] = {}
    let_pass(forwarding, 700)
    assert forwarding.sent("VNA") == []
    assert forwarding.deliveries()[0]["Destination"] == "PACS"
    forwarding.standin.assert_logged("came from VNA is not sent back to VNA instead", "warning")
    forwarding.rest.answers["POST", "/modalities/THIRD/echo"] = {}
    for job in [job for job in forwarding.rest.jobs if job.startswith("PACS")][1:]:
        forwarding.end(job, why="Cannot connect")  # a trial
    eventually(lambda: forwarding.states() == ["waiting"])
    let_pass(forwarding, 20)
    let_pass(forwarding, 20)  # it has answered
    eventually(lambda: forwarding.sent("THIRD") == [["i1", "i2"]])


def test_what_has_other_alternates_does_not_join_a_row(forwarding: Forwarding) -> None:
    rules = [
        {"Name": "reports", "Origin": {"RemoteAET": ["R"]}, "Alternates": {"PACS": ["VNA"]}},
        {"Name": "rest"},
    ]
    forwarding.start(Rules=rules)
    forwarding.script.post(f"{NAME}/destinations/PACS/pause", {})
    forwarding.rest.receive("a1", "i1", RemoteAET="R")
    forwarding.rest.receive("a1", "i2", RemoteAET="S")
    forwarding.rest.become_stable("a1")
    forwarding.turn()
    assert sorted(row["Instances"] for row in forwarding.deliveries()) == [1, 1]
    forwarding.receive("a1", "i3", RemoteAET="S")
    assert sorted(row["Instances"] for row in forwarding.deliveries()) == [1, 2]


@pytest.mark.parametrize(
    ("data", "answering", "expected"),
    [
        ({}, {"B", "C"}, "B"),
        ({}, {"C"}, "C"),
        ({}, set(), None),
        ({"Alternates": ["C"]}, {"B", "C"}, "C"),
        ({"Sent": True}, {"B", "C"}, None),
    ],
)
def test_the_first_alternate_that_answers_gets_what_the_destination_has_not_taken(
    source: Any, data: dict[str, Any], answering: set[str], expected: str | None
) -> None:
    row = {"queue": "A", "data": json.dumps(data)}
    assert source("forwarding.alternates").target_of(row, {"A": ["B", "C"]}, answering) == expected


def test_a_proof_is_asked_of_the_alternate_first_and_of_the_destination_for_the_rest(source: Any) -> None:
    has = {"B": {"i1"}, "A": {"i2"}}
    asked: list[tuple[str, list[str]]] = []

    def prove(name: str, instances: dict[str, Any], _: Any) -> set[str]:
        asked.append((name, [*instances]))
        return has[name]

    proofs = source("forwarding.proofs").Proofs(prove, None, None)
    data = {"Destinations": ["A"], "Instead": {"A": ["B"]}}
    assert proofs.all_have(data, {"i1": {}, "i2": {}})
    assert asked == [("B", ["i1", "i2"]), ("A", ["i2"])]
    has["A"] = set()
    with pytest.raises(ValueError, match="A has not proved to have 1 of 2 instances"):
        proofs.all_have(data, {"i1": {}, "i2": {}})
