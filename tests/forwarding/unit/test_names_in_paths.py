# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever a destination is called, its name is one part of each path: it chooses no other route of Orthanc's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import FakeOrthanc

NAME, PART = "A/../B?x=1", "A%2F..%2FB%3Fx%3D1"


@pytest.fixture
def loopback(source: Any, rest: FakeOrthanc) -> Any:
    rest.answers |= {
        ("POST", f"/modalities/{PART}/echo"): {},
        ("POST", f"/modalities/{PART}/query"): {"ID": "q"},
        ("GET", "/queries/q/answers?expand&simplify"): [],
        ("DELETE", "/queries/q"): {},
        ("POST", f"/modalities/{PART}/storage-commitment"): {"ID": "t"},
        ("GET", f"/peers/{PART}/system"): {},
    }
    return source("common.loopback").Loopback({})


def test_of_a_node_that_is_probed_or_asked_for_a_proof(source: Any, loopback: Any, rest: FakeOrthanc) -> None:
    source("auto_forward_modality").probe(loopback, NAME)
    proof = source("forwarding.node_proof")
    assert proof.find(loopback, NAME, "Study", {}) == []
    assert proof.committed_to(loopback, NAME, {}, {}) is None
    assert [path for _, path, _ in rest.requests if "/modalities/" in path] == [
        f"/modalities/{PART}/{what}" for what in ("echo", "query", "storage-commitment")
    ]


def test_of_a_node_that_the_purge_probes(source: Any, loopback: Any, rest: FakeOrthanc) -> None:
    elsewhere = source("purge_old_studies.elsewhere")
    elsewhere.Elsewhere({}, loopback)._probe(elsewhere.Destination("modality", NAME))
    assert [path for _, path, _ in rest.requests if "/modalities/" in path] == [f"/modalities/{PART}/echo"]


def test_of_a_peer_that_is_probed(source: Any, loopback: Any, rest: FakeOrthanc) -> None:
    source("auto_forward_peer").probe(loopback, NAME)
    assert [path for _, path, _ in rest.requests] == [f"/peers/{PART}/system"]
