# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/, on real Orthancs: what a node can't take is said in DICOM's words, tried rarely, and left out by rules."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from testing.awkward import AwkwardNode
from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
SCRIPT = script_with(BUILT, QUICK)  # what fails is tried again within two seconds
ROUTE = "/auto-forward-modality"
CT, MR = "CTImageStorage (1.2.840.10008.5.1.4.1.1.2)", "MRImageStorage (1.2.840.10008.5.1.4.1.1.4)"
EXPLICIT = "ExplicitVRLittleEndian (1.2.840.10008.1.2.1)"


def start(start_orthanc: StartOrthanc, node: AwkwardNode, **section: Any) -> OrthancServer:
    configuration = {"DicomModalities": {"PACS": node.as_modality()}, "AutoForwardModality": section}
    return start_orthanc(SCRIPT, configuration)


def store_mixed(server: OrthancServer) -> None:
    """One study of 5 CT and 4 MR images."""
    common: dict[str, Any] = {"patient_id": "P1", "StudyInstanceUID": "1.2.3", "rows": 8, "columns": 8}
    ct = make_study(**common, modality="CT", SeriesInstanceUID="1.2.3.1", instances=5)
    mr = make_study(**common, modality="MR", SeriesInstanceUID="1.2.3.2", instances=4)
    server.store([file for pair in zip(ct, [*mr, b""], strict=True) for file in pair if file])


def deliveries(server: OrthancServer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.get(f"{ROUTE}/deliveries")["Items"]
    return items


def test_a_sop_class_that_a_node_does_not_take_waits_apart_for_a_day_and_the_rest_arrives(
    start_orthanc: StartOrthanc,
) -> None:
    with AwkwardNode("PACS", rejects_sop_classes=["CTImageStorage"]) as node:
        server = start(start_orthanc, node)
        store_mixed(server)
        server.wait_until(lambda: len(node.taken) == 4, what="send the MR images")
        server.wait_until(lambda: {row["State"] for row in deliveries(server)} == {"done", "waiting"}, what="settle")
        before = deliveries(server)
        [row] = [each for each in before if each["State"] == "waiting"]
        assert (row["Instances"], row["Study"]) == (5, server.get("/studies")[0])
        assert row["Error"] == f"PACS accepts no presentation context for the SOP class of {CT} in {EXPLICIT}"
        due = datetime.datetime.fromisoformat(row["NextAttempt"]) - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(hours=23) < due <= datetime.timedelta(hours=24)
        shown = server.get(f"{ROUTE}/destinations")["PACS"]
        assert (shown["Away"], shown["Error"]) == (False, "")
        server.wait_for_log(f"5 instances of study {row['Study']} did not reach PACS")
        server.restart()
        server.store(make_study(patient_id="P2", modality="MR"))
        server.wait_until(lambda: len(node.taken) == 5, what="send the next")
        assert [each for each in deliveries(server) if each["State"] == "waiting"] == [row]
        node.rejects_sop_classes = []
        server.post(f"{ROUTE}/deliveries/{row['ID']}/retry", {})
        server.wait_until(lambda: len(node.taken) == 10, what="send what a person retries")


def test_a_transfer_syntax_that_a_node_does_not_take_is_said_with_those_that_it_does(
    start_orthanc: StartOrthanc,
) -> None:
    with AwkwardNode("PACS", rejects_transfer_syntaxes=["JPEG2000Lossless"]) as node:
        server = start(start_orthanc, node)
        server.store([next(path for path in pydicom_files() if b"1.2.840.10008.1.2.4.90" in path.read_bytes()[:1000])])
        server.wait_until(lambda: [row for row in deliveries(server) if row["Error"]], what="fail")
        [row] = deliveries(server)
        assert "in JPEG2000Lossless (1.2.840.10008.1.2.4.90), only for ImplicitVRLittleEndian" in row["Error"]
        assert row["State"] == "waiting"


def test_rules_choose_by_sop_class_and_transfer_syntax(start_orthanc: StartOrthanc) -> None:
    with AwkwardNode("PACS") as pacs, AwkwardNode("VNA") as vna:
        rules: list[dict[str, Any]] = [
            {"Name": "no mr", "SOPClasses": ["!MRImageStorage"], "Destinations": ["PACS"]},
            {"Name": "plain", "TransferSyntaxes": ["1.2.840.10008.1.2.1"], "Destinations": ["VNA"]},
        ]
        nodes = {"PACS": pacs.as_modality(), "VNA": vna.as_modality()}
        server = start_orthanc(SCRIPT, {"DicomModalities": nodes, "AutoForwardModality": {"Rules": rules}})
        store_mixed(server)
        server.wait_until(lambda: (len(pacs.taken), len(vna.taken)) == (5, 4), what="send each to its node")
        assert {str(each.Modality) for each in pacs.taken} == {"CT"}
        assert {str(each.Modality) for each in vna.taken} == {"MR"}
        study = server.get("/studies")[0]
        report = server.post(f"{ROUTE}/rules/test", {"Resource": study})["Rules"]
        assert [rule["Destinations"] for rule in report] == [{"PACS": 5}, {"VNA": 4}]
