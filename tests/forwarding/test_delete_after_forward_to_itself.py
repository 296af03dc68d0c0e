# SPDX-License-Identifier: AGPL-3.0-or-later
"""DeleteAfterForward keeps the only copy where a destination is this very server: it has all that it was sent."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
NODES, PEERS = (script_with(ROOT / f"auto_forward_{kind}.py", QUICK) for kind in ("modality", "peer"))
DELETES: dict[str, Any] = {"DeleteAfterForward": True}


def stays(server: OrthancServer, why: str) -> None:
    server.store_scu(make_study(instances=2))
    server.wait_for_log(why)
    assert len(server.get("/instances")) == 2


@pytest.mark.parametrize("proof", ["C-FIND", "StorageCommitment", "StorageCommitmentOnly"])
@pytest.mark.parametrize(
    ("aet", "host", "why"),
    [
        ("HERE", "127.0.0.1", "has the AE title of this server, HERE"),
        ("OTHER", "localhost", "SELF leads back to this server"),
    ],
)
def test_a_node_that_leads_back_here_proves_nothing(
    start_orthanc: StartOrthanc, proof: str, aet: str, host: str, why: str
) -> None:
    section = {**DELETES, "DestinationOptions": {"SELF": {"Proof": proof}}}
    here = start_orthanc(NODES, {"AutoForwardModality": section, "DicomAlwaysAllowFind": True}, aet="HERE", start=False)
    here.configuration["DicomModalities"] = {"SELF": [aet, host, here.dicom_port]}
    here.start()
    stays(here, why)


def test_a_node_whose_images_are_to_be_retrieved_from_here_proves_nothing(start_orthanc: StartOrthanc) -> None:
    """As behind the published port of a container, whose address is none of ours: another server of our name stands for it."""
    there = start_orthanc(None, {"DicomAlwaysAllowFind": True}, aet="HERE")
    section = {**DELETES, "DestinationOptions": {"SELF": {"Proof": "C-FIND"}}}
    node = ["OTHER", "127.0.0.1", there.dicom_port]
    here = start_orthanc(NODES, {"AutoForwardModality": section, "DicomModalities": {"SELF": node}}, aet="HERE")
    stays(here, "is to be retrieved from HERE, as this server is called")


def test_a_peer_that_leads_back_here_proves_nothing(start_orthanc: StartOrthanc) -> None:
    here = start_orthanc(PEERS, {"AutoForwardPeer": DELETES}, aet="HERE", start=False)
    here.configuration["OrthancPeers"] = {"SELF": here.as_peer()}
    here.start()
    stays(here, "SELF leads back to this server, or shares its database: 2 of 2 files are the same")


def test_a_peer_with_files_of_its_own_proves_what_it_has(start_orthanc: StartOrthanc) -> None:
    there = start_orthanc(aet="THERE")
    here = start_orthanc(PEERS, {"AutoForwardPeer": DELETES, "OrthancPeers": {"THERE": there.as_peer()}}, aet="HERE")
    here.store_scu(make_study(instances=2))
    here.wait_until(lambda: here.get("/instances") == [], what="delete")
    assert len(there.get("/instances")) == 2


def test_only_an_address_of_this_machine_is_this_machine(orthanc_standin: StandIn) -> None:
    script = orthanc_standin.load(NODES)
    assert script.is_this_machine("localhost")
    assert script.is_this_machine(socket.gethostbyname(socket.gethostname()))
    assert not script.is_this_machine("192.0.2.1")


def test_nothing_is_deleted_before_a_listed_destination_has_it_that_orthanc_does_not_know_yet(
    start_orthanc: StartOrthanc,
) -> None:
    there = start_orthanc(None, {"DicomAlwaysAllowFind": True}, aet="THERE")
    options = {name: {"Proof": "C-FIND"} for name in ("THERE", "LATE")}
    section = {**DELETES, "Destinations": ["THERE", "LATE"], "DestinationOptions": options}
    here = start_orthanc(
        NODES, {"AutoForwardModality": section, "DicomModalities": {"THERE": there.as_modality()}}, aet="HERE"
    )
    here.store_scu(make_study(instances=2))
    here.wait_until(lambda: len(there.get("/instances")) == 2, what="forward")
    here.wait_for_log("did not reach LATE (attempt 1): Orthanc does not know LATE now")
    assert len(here.get("/instances")) == 2
    late = start_orthanc(None, {"DicomAlwaysAllowFind": True}, aet="LATE")
    here.put("/modalities/LATE", late.as_modality())
    here.wait_until(lambda: here.get("/instances") == [], what="delete")
    assert len(late.get("/instances")) == 2
