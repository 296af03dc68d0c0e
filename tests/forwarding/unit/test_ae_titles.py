# SPDX-License-Identifier: AGPL-3.0-or-later
"""AE titles in forwarding/ compare as Orthanc compares them: without regard to case, unless it is strict."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import FakeOrthanc
from tests.forwarding.unit.fake_forwarding import Forwarding

STRICT = {"StrictAetComparison": True}


@pytest.mark.parametrize("strict", [False, True])
def test_what_came_from_a_node_is_known_by_its_ae_title(forwarding: Forwarding, strict: bool) -> None:
    forwarding.start(STRICT if strict else {}, Destinations=["PACS", "VNA"])
    forwarding.receive("a1", "i1", RemoteAET="Pacs")
    assert (forwarding.sent("PACS"), forwarding.sent("VNA")) == ([["i1"]] if strict else [], [["i1"]])


@pytest.mark.parametrize("key", ["RemoteAET", "CalledAET"])
@pytest.mark.parametrize("strict", [False, True])
def test_an_origin_names_ae_titles(forwarding: Forwarding, key: str, strict: bool) -> None:
    rule = {"Name": "mine", "Origin": {key: ["Ward*"]}}
    forwarding.start(STRICT if strict else {}, Rules=[rule])
    forwarding.receive("a1", "i1", **{key: "WARD7"})
    assert forwarding.sent() == ([] if strict else [["i1"]])
    forwarding.receive("b2", "i2", **{key: "Ward7"})
    assert forwarding.sent()[-1] == ["i2"]


def test_methods_and_users_are_no_ae_titles(forwarding: Forwarding) -> None:
    forwarding.start(Rules=[{"Name": "mine", "Origin": {"User": ["alice"]}}])
    forwarding.receive("a1", "i1", HttpUsername="ALICE")
    assert forwarding.sent() == []


@pytest.mark.parametrize(("aet", "why"), [("ours", "has the AE title of this server"), ("theirs", "")])
def test_a_node_with_our_ae_title_proves_nothing(source: Any, rest: FakeOrthanc, aet: str, why: str) -> None:
    """Whether Orthanc is strict or not: this only keeps more here."""
    module = source("forwarding.node_proof")
    loopback = source("common.loopback").Loopback({})
    rest.answers["GET", "/system"] = {"DicomAet": "OURS", "DicomPort": 4242}
    rest.known["PACS"] = {"AET": aet, "Host": "192.0.2.1", "Port": 104}
    if why:
        with pytest.raises(ValueError, match=why):
            module.raise_if_here(loopback, "PACS")
    else:
        assert module.raise_if_here(loopback, "PACS") == "OURS"
