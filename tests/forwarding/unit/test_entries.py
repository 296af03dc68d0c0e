# SPDX-License-Identifier: AGPL-3.0-or-later
"""The forwarders' own modules without a server: what each kind of destination is asked, and what it can't be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import Clock, FakeOrthanc, Script

Start = Callable[..., Script]


@pytest.fixture(autouse=True)
def at_rest(clock: Clock, rest: FakeOrthanc) -> None:
    """Nothing happens in the archive."""


def test_images_can_not_be_modified_on_their_way_to_a_dicomweb_server(start: Start) -> None:
    """The plugin sends what is stored: a rule that replaces a name would be broken in silence."""
    rule = {"Name": "r", "Destinations": ["cloud"], "Modify": {"Replace": {"PatientName": "X"}}}
    script = start("auto_forward_dicomweb", {"AutoForwardDicomweb": {"Rules": [rule]}})
    found = script.post("/auto-forward-dicomweb/rules/test", {"Resource": "x"})
    assert (found.status, "Rules[0].Modify: found an object, allowed: null" in found.text) == (503, True)
    plain = {"Name": "r", "Destinations": ["cloud"]}
    again = start("auto_forward_dicomweb", {"AutoForwardDicomweb": {"Rules": [plain]}})
    assert "Modify" not in again.post("/auto-forward-dicomweb/rules/test", {"Resource": "x"}).text


@pytest.mark.parametrize("name", ["auto_forward_dicomweb", "auto_forward_peer"])
def test_a_destination_is_verified_where_that_was_chosen_and_a_node_never(start: Start, name: str) -> None:
    options = start(name).module.DestinationOptions
    assert [options(verify=each).is_verified for each in (True, False)] == [True, False]
    assert options().is_verified is False


def test_where_an_image_came_from_is_known_of_nodes_alone(start: Start) -> None:
    for name in ("auto_forward_peer", "auto_forward_dicomweb"):
        assert start(name).module.came_from({"RemoteAET": "PACS", "RemoteIP": "10.0.0.7"}, {"AET": "PACS"}) is False
    came_from = start("auto_forward_modality").module.came_from
    assert came_from({"RemoteAET": "PACS"}, {"AET": "pacs "})
    assert not came_from({}, {"AET": "PACS"})


def test_no_name_of_a_node_reaches_another_route(start: Start, rest: FakeOrthanc, source: Any) -> None:
    module, loopback = start("auto_forward_modality").module, source("common.loopback").Loopback({})
    rest.requests.clear()
    rest.answers |= {("POST", path): {} for path in ("/modalities/a%2F..%2Fb/store-straight", "/modalities/a%20b/echo")}
    module.deliver(loopback, "a/../b", b"file")
    module.probe(loopback, "a b")
    paths = [path for method, path, _ in rest.requests if method == "POST"]
    assert paths == ["/modalities/a%2F..%2Fb/store-straight", "/modalities/a%20b/echo"]


class Peers:
    """What Orthanc tells of its peers: of some, not how they are asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error, self.asked = error, list[str]()

    def settings(self, name: str) -> dict[str, str]:
        self.asked.append(f"settings of {name}")
        if self._error:
            raise self._error
        return {}

    def check(self, name: str) -> None:
        self.asked.append(f"check {name}")


def test_a_peer_that_only_orthanc_can_ask_can_not_be_verified(start: Start, source: Any) -> None:
    module = start("auto_forward_peer").module
    verified = module.Settings(destination_options={"research": module.DestinationOptions(verify=True)})
    peers = Peers(module.OnlyOrthancCanAskError("no password"))
    with pytest.raises(module.MisconfiguredError, match="no password, and Verify can't be done without"):
        module.check(verified, peers, "research")
    for settings in (module.Settings(), module.Settings(destination_options={"research": module.DestinationOptions()})):
        peers = Peers(module.OnlyOrthancCanAskError("no password"))
        module.check(settings, peers, "research")
        assert peers.asked == ["check research"]
    peers = Peers()
    module.check(verified, peers, "research")
    assert peers.asked == ["settings of research", "check research"]
