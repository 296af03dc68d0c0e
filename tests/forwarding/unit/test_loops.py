# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/loops.py: what came from a destination itself is known by AE title and address, counted, and not sent back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testing.dicom import orthanc_identifier
from tests.fakes import Clock, eventually
from tests.forwarding.unit.fake_forwarding import NAME, STUDY, Forwarding

A1 = orthanc_identifier("A", "1.2")


class Names:
    """What DNS answers: `hosts` by name; a name that is not there is not known."""

    def __init__(self) -> None:
        self.hosts = {"pacs": ["10.0.0.1", "::ffff:10.0.0.2"], "vna": ["fe80::1%eth0"]}
        self.asked: list[tuple[str, str]] = []  # names, and the threads that asked
        self.answers = threading.Event()
        self.answers.set()

    def getaddrinfo(self, host: str, *_: Any, **__: Any) -> list[Any]:
        self.asked.append((host, threading.current_thread().name))
        while not self.answers.is_set():
            self.answers.wait(0.01)
        if host not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.hosts[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, source: Callable[[str], Any]) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(source("forwarding.addresses").socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.answers.set()


def status(forwarding: Forwarding) -> Any:
    return forwarding.script.get(f"{NAME}/status")


@pytest.mark.parametrize(
    ("address", "sent"),
    [("10.0.0.1", False), ("10.0.0.2", False), ("::ffff:10.0.0.1", False), ("10.0.0.9", True), ("", False)],
)
def test_it_came_from_a_node_if_ae_title_and_address_say_so(
    forwarding: Forwarding, names: Names, address: str, sent: bool
) -> None:
    forwarding.start(Destinations=["PACS", "VNA"])
    forwarding.receive("a1", "i1", RemoteAET="PACS", RemoteIP=address)
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([["i1"]] if sent else [], [["i1"]])
    assert status(forwarding)["NotSentBack"] == ({} if sent else {"PACS": 1})
    line = (
        "what has the AE title of PACS, but comes from 10.0.0.9 and not from pacs (10.0.0.1, 10.0.0.2), is sent to PACS"
    )
    assert (line in str(forwarding.standin.logs)) == sent


def test_the_address_alone_says_nothing(forwarding: Forwarding, names: Names) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1", RemoteAET="CT1", RemoteIP="10.0.0.1")
    assert forwarding.sent() == [["i1"]]
    assert names.asked == []


def test_the_name_of_an_interface_is_no_part_of_an_address(forwarding: Forwarding, names: Names) -> None:
    forwarding.start(Destinations=["VNA"])
    forwarding.receive("a1", "i1", RemoteAET="VNA", RemoteIP="fe80::1%eno1")
    assert forwarding.sent("VNA") == []


def test_where_the_address_is_not_known_the_ae_title_decides(forwarding: Forwarding, names: Names) -> None:
    names.hosts.clear()
    forwarding.start()
    forwarding.receive("a1", "i1", RemoteAET="PACS", RemoteIP="10.0.0.9")
    assert forwarding.sent() == []
    forwarding.standin.assert_logged(
        "no address of pacs is known: what has the AE title of PACS counts as from there", "warning"
    )


def test_an_option_that_names_another_host_counts_too(forwarding: Forwarding, names: Names) -> None:
    forwarding.standin.returns["CheckVersionAdvanced"] = 1
    forwarding.start(DestinationOptions={"PACS": {"Options": {"Host": "vna"}}})
    names.hosts["vna"] = ["10.0.0.7"]
    for number, address in enumerate(["10.0.0.1", "10.0.0.7", "10.0.0.9"]):
        forwarding.receive(f"a{number}", f"i{number}", RemoteAET="PACS", RemoteIP=address)
    assert forwarding.sent() == [["i2"]]


def test_what_is_not_sent_back_is_counted_over_restarts_and_said_once(forwarding: Forwarding, names: Names) -> None:
    forwarding.start(Destinations=["PACS", "VNA"])
    line = "what came from PACS itself is not sent back to it; the status counts it (NotSentBack)"
    for number in range(3):
        forwarding.receive(f"a{number}", f"i{number}", f"j{number}", RemoteAET="PACS", RemoteIP="10.0.0.1")
    assert status(forwarding)["NotSentBack"] == {"PACS": 6}
    assert [line in text for _, text in forwarding.standin.logs].count(True) == 1
    forwarding.start(Destinations=["PACS", "VNA"])
    eventually(lambda: forwarding.standin.http("GET", f"{NAME}/status").status == 200)
    assert status(forwarding)["NotSentBack"] == {"PACS": 6}


def test_what_two_rules_would_send_back_counts_once(forwarding: Forwarding, names: Names) -> None:
    forwarding.start(Rules=[{"Name": "one"}, {"Name": "two"}], RuleMode="all")
    forwarding.receive("a1", "i1", RemoteAET="PACS", RemoteIP="10.0.0.1")
    assert forwarding.sent() == []
    assert status(forwarding)["NotSentBack"] == {"PACS": 1}


def test_what_is_looked_at_before_it_is_stable_and_then_counts_once(forwarding: Forwarding, names: Names) -> None:
    forwarding.start(Trigger="Stored")
    origin = {"RemoteAET": "PACS", "RemoteIP": "10.0.0.1"}
    dicom = forwarding.standin.object(
        "DicomInstance",
        GetInstanceAdvancedJson=json.dumps({"0010,0020": "P", "0020,000d": "1.2", "0020,000e": "1.2.3"}),
        HasInstanceMetadata=lambda name: int(name in origin),
        GetInstanceMetadata=lambda name: origin[name],
    )
    forwarding.standin.callback("RegisterOnStoredInstanceCallback")(dicom, "i1")
    forwarding.rest.receive(STUDY, "i1")
    forwarding.turn()
    assert len(names.asked) == 1
    forwarding.rest.become_stable(STUDY)
    forwarding.turn()
    assert forwarding.sent() == []
    assert status(forwarding)["NotSentBack"] == {"PACS": 1}


def test_rules_test_says_what_came_from_a_destination_itself(forwarding: Forwarding, names: Names) -> None:
    forwarding.start(Destinations=["PACS", "VNA"])
    forwarding.receive(A1, "i1", "i2", "i3", RemoteAET="PACS", RemoteIP="10.0.0.1")
    forwarding.rest.metadata["i3"] = {"RemoteAET": "PACS", "RemoteIP": "10.0.0.9"}
    [rule] = forwarding.script.post(f"{NAME}/rules/test", {"Resource": A1}).json()["Rules"]
    assert rule["Destinations"] == {"PACS": 1, "VNA": 3}
    assert rule["Why"] == "matches; 2 of 3 came from PACS itself"


# Looking up


def test_addresses_are_remembered_for_a_while_and_asked_for_in_a_thread_of_their_own(
    forwarding: Forwarding, names: Names, clock: Clock
) -> None:
    forwarding.start()
    for number in range(3):
        forwarding.receive(f"a{number}", f"i{number}", RemoteAET="PACS", RemoteIP="10.0.0.1")
    assert names.asked == [("pacs", "looks up pacs")]
    names.hosts["pacs"] = ["10.0.0.9"]
    clock.advance(301)
    forwarding.receive("b1", "i9", RemoteAET="PACS", RemoteIP="10.0.0.1")
    assert len(names.asked) == 2
    assert forwarding.sent() == [["i9"]]


def test_while_dns_is_away_the_last_addresses_count(forwarding: Forwarding, names: Names, clock: Clock) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1", RemoteAET="PACS", RemoteIP="10.0.0.1")
    names.hosts.clear()
    clock.advance(301)
    forwarding.receive("a2", "i2", RemoteAET="PACS", RemoteIP="10.0.0.9")
    assert forwarding.sent() == [["i2"]]
    asked = len(names.asked)
    clock.advance(30)
    forwarding.receive("a3", "i3", RemoteAET="PACS", RemoteIP="10.0.0.9")
    assert len(names.asked) == asked
    clock.advance(31)
    forwarding.receive("a4", "i4", RemoteAET="PACS", RemoteIP="10.0.0.9")
    assert len(names.asked) == asked + 1


def test_dns_that_does_not_answer_does_not_hold_up_a_stop_and_nothing_is_decided_without_it(
    forwarding: Forwarding, names: Names
) -> None:
    forwarding.start()
    forwarding.turn()
    forwarding.rest.receive("a1", "i1", RemoteAET="PACS", RemoteIP="10.0.0.9")
    forwarding.rest.become_stable("a1")
    names.answers.clear()
    forwarding.clock.advance(2)
    forwarding.script.change("STABLE_STUDY", "a1")
    eventually(lambda: names.asked)
    begun = time.perf_counter()
    forwarding.script.change("ORTHANC_STOPPED")
    assert time.perf_counter() - begun < 1
    forwarding.standin.assert_not_logged("no address of pacs")
    names.answers.set()
    forwarding.start()
    forwarding.turn()
    assert forwarding.sent() == [["i1"]]


def test_dns_that_does_not_answer_holds_up_neither_callbacks_nor_routes(forwarding: Forwarding, names: Names) -> None:
    forwarding.start(Destinations=["PACS", "VNA"])
    forwarding.turn()
    forwarding.rest.receive(A1, "i1", RemoteAET="PACS", RemoteIP="10.0.0.1")
    forwarding.rest.become_stable(A1)
    names.answers.clear()
    forwarding.clock.advance(2)
    forwarding.script.change("STABLE_STUDY", A1)
    eventually(lambda: names.asked)
    begun = time.perf_counter()
    forwarding.script.change("STABLE_STUDY", A1)
    forwarding.script.change("NEW_INSTANCE", "i1", "INSTANCE")
    assert status(forwarding)["State"] == "running"
    assert time.perf_counter() - begun < 1
    answer = forwarding.script.post(f"{NAME}/rules/test", {"Resource": A1})
    assert answer.json()["Rules"][0]["Why"] == "matches; 1 of 1 came from PACS itself"
    assert time.perf_counter() - begun < 5
    names.answers.set()
    eventually(lambda: forwarding.sent("VNA") == [["i1"]])
    assert len(names.asked) == 1
