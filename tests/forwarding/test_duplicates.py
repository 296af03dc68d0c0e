# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/, on real Orthancs: what a node has already is delivered, and is not sent again after a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, send_by_cstore

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
ROUTE = "/auto-forward-modality"
SMALL: dict[str, Any] = {"rows": 8, "columns": 8}


def deliveries(server: OrthancServer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.get(f"{ROUTE}/deliveries")["Items"]
    return items


def wait_until_done(server: OrthancServer, instances: int) -> None:
    """Nothing waits for the 30 s after which what failed is tried again by itself."""

    def all_done() -> bool:
        rows = deliveries(server)
        return {row["State"] for row in rows} == {"done"} and sum(row["Instances"] for row in rows) == instances

    server.wait_until(all_done, timeout=25, what="deliver all")


def start(start_orthanc: StartOrthanc, node: AwkwardNode, **configuration: Any) -> OrthancServer:
    return start_orthanc(BUILT, {"DicomModalities": {"PACS": node.as_modality()}, **configuration})


def test_after_a_broken_association_the_retry_begins_behind_what_was_acknowledged(start_orthanc: StartOrthanc) -> None:
    """So few images that the job names each: that of a series does not tell which it has sent."""
    with AwkwardNode("PACS", breaks_off_after=4, duplicates_0111=True) as node:
        server = start(start_orthanc, node)
        server.store(make_study(instances=9, **SMALL))
        wait_until_done(server, 9)
        sent = [image for image, _ in node.received]
        assert len(sent) == len(set(sent)) == len(node.taken) == 9
        assert sorted(row["Instances"] for row in deliveries(server)) == [1, 4, 4]
        assert max(row["Attempts"] for row in deliveries(server)) <= 3


def test_a_study_that_a_person_sends_whole_is_named_after_a_break_and_then_goes_on(start_orthanc: StartOrthanc) -> None:
    with AwkwardNode("PACS", breaks_off_after=7, duplicates_0111=True) as node:
        server = start(start_orthanc, node, AutoForwardModality={"Rules": []})
        server.store(make_study(instances=20, **SMALL))
        server.post(f"{ROUTE}/send", {"Resource": server.get("/studies")[0]})
        wait_until_done(server, 20)
        assert len(node.taken) == 20


@pytest.mark.parametrize("instances", [1, 3, 130])
def test_what_a_node_has_already_is_delivered(start_orthanc: StartOrthanc, instances: int) -> None:
    study = make_study(instances=instances, **SMALL)
    with AwkwardNode("PACS") as node:
        send_by_cstore([*study[:2], *study[64:66], *study[129:]], port=node.port)
        node.duplicates_0111 = True
        had = len(node.taken)
        server = start(start_orthanc, node)
        server.store(study)
        wait_until_done(server, instances)
        assert len(node.taken) == instances
        assert (
            len(node.received) <= 2 * had + instances
        )  # what was acknowledged is not sent again with each that it had
        server.assert_not_logged("did not reach")
