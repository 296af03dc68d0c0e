# SPDX-License-Identifier: AGPL-3.0-or-later
"""A destination that Orthanc does not know for a moment, on real Orthancs: nothing that arrives meanwhile is lost to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.nodes import DicomNode
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
NODES, PEERS = (script_with(ROOT / f"auto_forward_{kind}.py", QUICK) for kind in ("modality", "peer"))
ROUTE = "/auto-forward-modality"


def states(server: OrthancServer, destination: str, name: str = ROUTE) -> list[str]:
    return [row["State"] for row in server.get(f"{name}/deliveries", destination=destination)["Items"]]


@pytest.mark.parametrize("by_rule", [False, True])
def test_what_arrives_while_a_destination_is_deleted_and_added_again_reaches_it(
    start_orthanc: StartOrthanc, by_rule: bool
) -> None:
    names = ["PACS", "VNA"]
    rules = [{"Name": "mine", "Destinations": names}]
    section: dict[str, Any] = {"Destinations": [], "Rules": rules} if by_rule else {"Destinations": names}
    with DicomNode("PACS") as pacs, DicomNode("VNA") as vna:
        nodes = {"PACS": pacs.as_modality(), "VNA": vna.as_modality()}
        server = start_orthanc(NODES, {"DicomModalities": nodes, "AutoForwardModality": section})
        server.delete("/modalities/VNA")
        server.wait_for_log("Destinations names VNA, which Orthanc does not know")
        for number in range(3):
            server.store(make_study(patient_id=f"P{number}", instances=2))
        server.wait_until(lambda: len(pacs.taken) == 6, what="forward to the other")
        server.wait_until(lambda: len(states(server, "VNA")) == 3, what="note what waits")
        assert (set(states(server, "VNA")), vna.taken) == ({"waiting"}, [])
        server.put("/modalities/VNA", vna.as_modality())
        server.wait_until(lambda: states(server, "VNA") == ["done"] * 3, what="forward", timeout=15)
        assert sorted(one.PatientID for one in vna.taken) == sorted([f"P{number}" for number in range(3)] * 2)
        assert len(pacs.taken) == 6


def test_after_a_start_with_a_mistyped_name_and_a_kill_it_reaches_the_destination(start_orthanc: StartOrthanc) -> None:
    with DicomNode("PACS") as pacs:
        section = {"Destinations": ["PACS"]}
        configuration = {"DicomModalities": {"PASC": pacs.as_modality()}, "AutoForwardModality": section}
        server = start_orthanc(NODES, configuration)
        server.store(make_study(instances=2))
        server.wait_until(lambda: states(server, "PACS") == ["waiting"], what="note what waits")
        server.kill()
        server.configuration["DicomModalities"] = {"PACS": pacs.as_modality()}
        server.start()
        server.wait_until(lambda: states(server, "PACS") == ["done"], what="forward")
        assert len(pacs.taken) == 2


def test_a_peer_that_is_unknown_for_a_moment_gets_it_too(start_orthanc: StartOrthanc) -> None:
    there = start_orthanc(aet="THERE")
    server = start_orthanc(PEERS, {"AutoForwardPeer": {"Destinations": ["THERE"]}}, aet="HERE")
    server.store(make_study(instances=2))
    name = "/auto-forward-peer"
    server.wait_until(lambda: states(server, "THERE", name) == ["waiting"], what="note what waits")
    [row] = server.get(f"{name}/deliveries")["Items"]
    server.wait_until(lambda: server.get(f"{name}/deliveries/{row['ID']}")["Error"], what="say why")
    assert "Orthanc does not know THERE" in server.get(f"{name}/deliveries/{row['ID']}")["Error"]
    server.put("/peers/THERE", {"Url": there.url})
    server.wait_until(lambda: states(server, "THERE", name) == ["done"], what="forward", timeout=15)
    assert len(there.get("/instances")) == 2
