# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/peers.py: what its errors say has no secret in it, and what it knows of peers ends when they change."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import FakeOrthanc


def peers_of(source: Any, rest: FakeOrthanc, peer: dict[str, Any]) -> Any:
    headers = {"HttpHeaders": [*peer["HttpHeaders"]]} if "HttpHeaders" in peer else {}
    rest.known = {"research": {"Url": peer["Url"], **headers}}
    loopback = source("common.loopback").Loopback({})
    return source("forwarding.peers").Peers({"OrthancPeers": {"research": peer}}, loopback)


@pytest.mark.parametrize(
    "peer",
    [
        {
            "Url": "http://127.0.0.1:1/",
            "HttpHeaders": {"Authorization": "Bearer hidden\n"},
        },  # of a file, with its last line
        {"Url": "http://127.0.0.1:1/", "HttpHeaders": {"Authorization": "Bearer hidden\u2019"}},
        {"Url": "http://127.0.0.1:1/", "HttpHeaders": {"X-hidden\n": "x"}},
        {"Url": "http://alice:hid/den@127.0.0.1/"},
        {"Url": "http://alice:hidden@127.0.0.1:1 /"},
        {"Url": "http://127.0.0.1:1/hid den/"},
    ],
)
def test_no_error_shows_a_header_or_a_part_of_the_address(source: Any, rest: FakeOrthanc, peer: dict[str, Any]) -> None:
    peers = peers_of(source, rest, peer)
    for ask in (peers.check, lambda name: peers.instances_of(name, ["i1"])):
        with pytest.raises(ValueError, match="one of its HttpHeaders can't be sent") as caught:
            ask("research")
        assert "hid" not in str(caught.value)
        assert caught.value.__cause__ is None
    assert "hid" not in peers.why_not("research")


def test_what_is_known_of_a_peer_ends_when_it_changes(source: Any, rest: FakeOrthanc) -> None:
    peers = peers_of(source, rest, {"Url": "http://127.0.0.1:1/"})
    asked: list[str] = []
    peers.check = asked.append
    for _ in range(2):
        assert peers.why_not("research") == ""
    assert len(asked) == 1
    rest.known = {"research": {"Url": "http://127.0.0.1:2/"}}
    peers.why_not("research")
    assert len(asked) == 2


def test_a_peer_that_changes_while_it_is_asked_is_asked_again(source: Any, rest: FakeOrthanc) -> None:
    peers = peers_of(source, rest, {"Url": "http://127.0.0.1:1/"})
    asked: list[str] = []

    def check(name: str) -> None:
        asked.append(name)
        rest.known = {"research": {"Url": "http://127.0.0.1:2/"}}

    peers.check = check
    for _ in range(3):
        peers.why_not("research")
    assert len(asked) == 2


def test_a_peer_that_orthanc_does_not_know_is_none(source: Any, rest: FakeOrthanc) -> None:
    peers = peers_of(source, rest, {"Url": "http://127.0.0.1:1/"})
    rest.known = {}
    assert peers.why_not("research") == "research can't be asked who it is: Orthanc does not know research"
