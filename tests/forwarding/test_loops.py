# SPDX-License-Identifier: AGPL-3.0-or-later
"""What came from a destination itself is not sent back, on a real Orthanc: the AE title alone does not say where it came from.

Nodes of one name with addresses of their own: 127.0.0.2 and others are addresses of this machine, too.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from testing.dicom import make_study
from testing.nodes import DicomNode
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

SCRIPT = script_with(Path(__file__).parents[2] / "auto_forward_modality.py", QUICK)
ROUTE = "/auto-forward-modality"


def send_from(address: str, server: OrthancServer, files: list[bytes], aet: str = "ORTHANC") -> None:
    """C-STORE from one of this machine's addresses."""
    entity = AE(ae_title=aet)
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", server.dicom_port, ae_title=server.aet, bind_address=(address, 0))
    assert association.is_established
    for file in files:
        assert association.send_c_store(pydicom.dcmread(io.BytesIO(file))).Status == 0
    association.release()


def states(server: OrthancServer) -> set[str]:
    return {row["State"] for row in server.get(f"{ROUTE}/deliveries")["Items"]}


def rule_of(server: OrthancServer, patient: str) -> dict[str, Any]:
    """What `rules/test` says of a patient's study."""
    [study] = server.post("/tools/find", {"Level": "Study", "Query": {"PatientID": patient}})
    [rule] = server.post(f"{ROUTE}/rules/test", {"Resource": study})["Rules"]
    return dict(rule)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("trigger", ["Stable", "Stored"])
def test_in_a_chain_of_nodes_of_one_name_it_goes_on_and_not_back(
    start_orthanc: StartOrthanc, host: str, trigger: str
) -> None:
    with DicomNode("ORTHANC") as last:
        configuration: dict[str, Any] = {
            "DicomModalities": {"last": ["ORTHANC", host, last.as_modality()[2]]},
            "AutoForwardModality": {"Destinations": ["last"], "Trigger": trigger},
        }
        server = start_orthanc(SCRIPT, configuration)
        send_from("127.0.0.1", server, make_study(patient_id="BACK", instances=3))
        send_from("127.0.0.2", server, make_study(patient_id="ON", instances=2))
        server.wait_until(lambda: len(last.taken) == 2, what="forward")
        server.wait_until(lambda: server.get(f"{ROUTE}/status")["NotSentBack"] == {"last": 3}, what="count")
        server.wait_until_stable()
        server.wait_until(lambda: states(server) == {"done"}, what="end")
        assert [one.PatientID for one in last.taken] == ["ON", "ON"]
        line = "what came from last itself is not sent back to it; the status counts it (NotSentBack)"
        server.assert_logged(line, level="warning")
        assert server.log.count(line) == 1
        server.assert_logged("what has the AE title of last, but comes from 127.0.0.2 and not from", level="warning")
        back, on = rule_of(server, "BACK"), rule_of(server, "ON")
        assert (back["Destinations"], back["Why"]) == ({"last": 0}, "matches; 3 of 3 came from last itself")
        assert (on["Destinations"], on["Why"]) == ({"last": 2}, "matches")


def test_another_name_at_the_address_of_a_destination_is_no_reason(start_orthanc: StartOrthanc) -> None:
    with DicomNode("PACS") as pacs:
        section: dict[str, Any] = {"DicomModalities": {"PACS": pacs.as_modality()}, "AutoForwardModality": {}}
        server = start_orthanc(SCRIPT, section)
        send_from("127.0.0.1", server, make_study(instances=2), aet="CT1")
        server.wait_until(lambda: len(pacs.taken) == 2, what="forward")
        assert server.get(f"{ROUTE}/status")["NotSentBack"] == {}
