# SPDX-License-Identifier: AGPL-3.0-or-later
"""A destination that Orthanc does not know for a moment: what arrives meanwhile waits for it, and is sent when it is back."""

from __future__ import annotations

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, NODES, Forwarding


def forget(forwarding: Forwarding, name: str) -> None:
    del forwarding.rest.known[name]
    forwarding.script.change("UPDATED_MODALITIES")


def know(forwarding: Forwarding, name: str) -> None:
    forwarding.rest.answers["POST", f"/modalities/{name}/echo"] = {}
    forwarding.rest.known[name] = NODES[name]
    forwarding.script.change("UPDATED_MODALITIES")


@pytest.mark.parametrize("by_rule", [False, True])
def test_what_arrives_waits_for_a_listed_destination_that_orthanc_does_not_know(
    forwarding: Forwarding, by_rule: bool
) -> None:
    rules = [{"Name": "mine", "Destinations": ["PACS", "VNA"]}]
    forwarding.start(**({"Rules": rules, "Destinations": []} if by_rule else {"Destinations": ["PACS", "VNA"]}))
    forwarding.turn()
    forget(forwarding, "VNA")
    forwarding.rest.receive("a1", "i1")
    forwarding.rest.become_stable("a1")
    forwarding.receive("b2", "i2")
    forwarding.end("PACS-1")  # until the first job has ended, PACS gets no second one
    eventually(lambda: forwarding.sent("PACS") == [["i1"], ["i2"]])
    assert forwarding.sent("VNA") == []
    waiting = forwarding.deliveries("?destination=VNA")
    assert [(row["State"], row["Resource"]) for row in waiting] == [("waiting", "a1"), ("waiting", "b2")]
    assert waiting[0]["Error"] == "Orthanc does not know VNA now; known are: PACS"
    assert (waiting[0]["Attempts"], waiting[1]["Attempts"]) == (1, 0)  # one is tried, now and then
    shown = forwarding.script.get(f"{NAME}/destinations")["VNA"]
    assert (shown["Away"], shown["Error"]) == (True, "Orthanc does not know VNA now")
    assert shown["Totals"]["waiting"] == 2
    know(forwarding, "VNA")
    forwarding.turn()
    forwarding.end(eventually(lambda: next((job for job in forwarding.rest.jobs if job.startswith("VNA")), "")))
    eventually(lambda: sorted(forwarding.sent("VNA")) == [["i1"], ["i2"]])


def test_after_days_it_is_sent_as_soon_as_orthanc_knows_the_destination_again(forwarding: Forwarding) -> None:
    """Also to a node that answers no C-ECHO: by a trial."""
    forwarding.start(Destinations=["VNA"])
    forwarding.turn()
    forget(forwarding, "VNA")
    forwarding.receive("a1", "i1")
    for _ in range(20):
        forwarding.turn(3000)
    assert forwarding.sent("VNA") == []
    assert forwarding.states() == ["waiting"]
    forwarding.rest.answers["POST", "/modalities/VNA/echo"] = forwarding.rest.error(500)
    forwarding.rest.known["VNA"] = NODES["VNA"]
    forwarding.script.change("UPDATED_MODALITIES")
    forwarding.receive("b2", "i2")
    eventually(lambda: forwarding.sent("VNA") != [])


def test_without_a_list_what_is_not_known_is_no_destination(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=None)
    forwarding.turn()
    forget(forwarding, "VNA")
    forwarding.receive("a1", "i1")
    assert {row["Destination"] for row in forwarding.deliveries()} == {"PACS"}


def test_what_came_from_a_node_does_not_wait_for_it_while_it_is_unknown(forwarding: Forwarding) -> None:
    forwarding.start(Destinations=["PACS", "VNA"])
    forwarding.turn()
    forget(forwarding, "VNA")
    forwarding.receive("a1", "i1", RemoteAET="VNA")
    assert [row["Destination"] for row in forwarding.deliveries()] == ["PACS"]


def test_rules_test_says_what_waits(forwarding: Forwarding) -> None:
    study = "11111111-22222222-33333333-44444444-55555555"
    forwarding.start(Destinations=["PACS", "LATE"])
    forwarding.receive(study, "i1")
    [rule] = forwarding.script.post(f"{NAME}/rules/test", {"Resource": study}).json()["Rules"]
    assert rule["Destinations"] == {"PACS": 1, "LATE": 1}
    assert rule["Why"] == "matches; what is for LATE waits until Orthanc knows it"
