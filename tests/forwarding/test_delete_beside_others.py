# SPDX-License-Identifier: AGPL-3.0-or-later
"""DeleteAfterForward beside other scripts of the same Orthanc: what they still have to do with a study keeps it here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
NODES, PEERS = "/auto-forward-modality", "/auto-forward-peer"
DELETES: dict[str, Any] = {"DeleteAfterForward": True, "DestinationOptions": {"PACS": {"Proof": "C-FIND"}}}


def combined(folder: Path, *others: str) -> Path:
    """The forwarder to nodes, which looks often, and other scripts, as one."""
    quick = script_with(ROOT / "auto_forward_modality.py", QUICK)
    path = folder / "combined.py"
    scripts = [quick, *(ROOT / f"{name}.py" for name in others)]
    subprocess.run([sys.executable, ROOT / "combine.py", *scripts, "-o", path], check=True)
    return path


def rows(server: OrthancServer, name: str, task: str) -> list[dict[str, Any]]:
    return [row for row in server.get(f"{name}/deliveries")["Items"] if row["Task"] == task]


def test_what_another_forwarder_still_has_to_send_stays_until_it_has_done_so(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    pacs = start_orthanc(aet="PACS", configuration={"DicomAlwaysAllowFind": True})
    peer = start_orthanc(aet="PEER", start=False)
    sections = {
        "AutoForwardModality": DELETES,
        "AutoForwardPeer": {},
    }
    nodes = {"DicomModalities": {"PACS": pacs.as_modality()}, "OrthancPeers": {"PEER": peer.as_peer()}}
    server = start_orthanc(combined(tmp_path, "auto_forward_peer"), {**nodes, **sections, "StableAge": 1}, aet="HERE")
    server.store(make_study(instances=2))
    server.wait_until(lambda: len(pacs.get("/instances")) == 2, what="send to the node")
    server.wait_until(lambda: not server.get("/instances") or rows(server, NODES, "delete")[0]["Error"], what="look")
    assert rows(server, NODES, "delete")[0]["Error"] == "auto_forward_peer has not delivered it"
    assert len(server.get("/instances")) == 2
    peer.start()
    server.wait_until(lambda: not server.get("/instances"), 90, what="delete")
    assert len(peer.get("/instances")) == 2


def test_two_that_both_delete_do_not_wait_for_each_other(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    pacs = start_orthanc(aet="PACS", configuration={"DicomAlwaysAllowFind": True})
    peer = start_orthanc(aet="PEER")
    nodes = {"DicomModalities": {"PACS": pacs.as_modality()}, "OrthancPeers": {"PEER": peer.as_peer()}}
    sections = {"AutoForwardModality": DELETES, "AutoForwardPeer": {"DeleteAfterForward": True}}
    server = start_orthanc(combined(tmp_path, "auto_forward_peer"), {**nodes, **sections, "StableAge": 1}, aet="HERE")
    server.store(make_study(instances=2))
    server.wait_until(lambda: not server.get("/instances"), 90, what="delete")
    assert len(pacs.get("/instances")) == len(peer.get("/instances")) == 2


def test_what_the_anonymizer_has_not_done_stays(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    pacs = start_orthanc(aet="PACS", configuration={"DicomAlwaysAllowFind": True})
    nodes = {"DicomModalities": {"PACS": pacs.as_modality(), "RESEARCH": ["RESEARCH", "127.0.0.1", 1]}}
    forwarding = {**DELETES, "Destinations": ["PACS"], "Rules": [{"Name": "originals", "Query": {"PatientID": "P1"}}]}
    anonymizing = {
        "Secret": "0123456789abcdef" * 2,
        "Recipes": {"out": {"Modality": "RESEARCH", "AllowBurnedIn": True}},
        "Rules": [{"Name": "all", "Query": {"PatientID": "P1"}, "Destinations": ["out"]}],
    }
    sections = {"AutoForwardModality": forwarding, "AnonymizeSeries": anonymizing, "StableAge": 1}
    server = start_orthanc(combined(tmp_path, "anonymize_series"), {**nodes, **sections}, aet="HERE")
    server.store(make_study(patient_id="P1", instances=2))
    server.wait_until(lambda: len(pacs.get("/instances")) == 2, what="send the originals")
    server.wait_until(lambda: server.get("/anonymize-series/status")["Totals"]["waiting"], what="fail to send copies")
    server.wait_until(lambda: len(server.get("/studies")) < 2 or rows(server, NODES, "delete")[0]["Error"], what="look")
    assert rows(server, NODES, "delete")[0]["Error"] == "anonymize_series has not delivered it"
    assert len(server.get("/studies")) == 2
