# SPDX-License-Identifier: AGPL-3.0-or-later
"""ProtectUndelivered: Orthanc recycles nobody of whom something is not delivered, and each patient gets back its state."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
SCRIPT = script_with(ROOT / "auto_forward_modality.py", QUICK)
ROUTE = "/auto-forward-modality"


def configured(node: OrthancServer, **more: Any) -> dict[str, Any]:
    return {
        "DicomModalities": {"PACS": node.as_modality()},
        "AutoForwardModality": {"ProtectUndelivered": True},
        "StableAge": 1,
        **more,
    }


def store(server: OrthancServer, patient: str) -> str:
    return str(server.store(make_study(patient_id=patient, instances=2))[0]["ParentPatient"])


def is_protected(server: OrthancServer, patient: str) -> bool:
    return server.request("GET", f"/patients/{patient}/protected").text.strip() == "1"


def protect(server: OrthancServer, patient: str, *, protected: bool = True) -> None:
    server.put(f"/patients/{patient}/protected", str(int(protected)))


def wait_for(server: OrthancServer, patients: list[str], *, protected: bool) -> None:
    def all_are() -> bool:
        return all(is_protected(server, patient) == protected for patient in patients)

    server.wait_until(all_are, 60, f"{'protect' if protected else 'give back'} {len(patients)} patients")


def rows(server: OrthancServer, state: str) -> int:
    return int(server.get(f"{ROUTE}/deliveries", state=state)["Total"])


def test_who_waits_is_not_recycled_and_is_so_again_after_the_delivery(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="PACS", start=False)
    server = start_orthanc(SCRIPT, configured(node, MaximumPatientCount=2))
    server.assert_logged("except those of whom something is not delivered (ProtectUndelivered)", "warning")
    first = store(server, "P1")
    wait_for(server, [first], protected=True)
    server.wait_until(lambda: rows(server, "waiting"), what="wait for the node")
    for other in ("P2", "P3"):  # the second is protected too late for the third to have room, or not: both are right
        server.request("POST", "/instances", data=make_study(patient_id=other)[0])
    assert first in server.get("/patients")
    node.start()
    server.wait_until(lambda: not rows(server, "waiting") and rows(server, "done"), what="deliver")
    wait_for(server, server.get("/patients"), protected=False)
    assert server.get(f"{ROUTE}/status")["Totals"]["gone"] == 0


def test_a_person_who_protects_or_unprotects_has_the_last_word(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="PACS", start=False)
    server = start_orthanc(
        SCRIPT, {**configured(node), "AutoForwardModality": {"Rules": [], "ProtectUndelivered": True}}
    )
    kept, freed = store(server, "KEPT"), store(server, "FREED")
    protect(server, kept)
    for patient in (kept, freed):
        server.post(f"{ROUTE}/send", {"Resource": patient, "Level": "Patient", "Destinations": ["PACS"]})
    wait_for(server, [kept, freed], protected=True)
    protect(server, freed, protected=False)
    server.kill()
    server.start()
    server.post(f"{ROUTE}/send", {"Resource": server.get(f"/patients/{freed}")["Studies"][0], "Destinations": ["PACS"]})
    time.sleep(6)
    assert not is_protected(server, freed)
    node.start()
    server.wait_until(lambda: rows(server, "done") == 3, what="deliver")
    time.sleep(12)
    assert is_protected(server, kept)
    assert not is_protected(server, freed)


@pytest.mark.parametrize("switched_off", [False, True], ids=["still on", "switched off"])
def test_after_kills_nobody_is_left_protected(start_orthanc: StartOrthanc, switched_off: bool) -> None:
    node = start_orthanc(aet="PACS", start=False)
    server = start_orthanc(SCRIPT, configured(node))
    patients = []
    for round_ in range(3):
        patients += [store(server, f"P{round_}{number}") for number in range(10)]
        time.sleep(0.3 * round_)
        server.kill()
        server.start()
    if switched_off:
        wait_for(server, patients, protected=True)
        server.stop()
        server.configuration["AutoForwardModality"] = {}
        server.start()
    else:
        node.start()
        server.wait_until(lambda: rows(server, "done") >= 30 and not rows(server, "waiting"), 60, "deliver")
    wait_for(server, patients, protected=False)


def test_what_is_deleted_after_forwarding_is_not_held_up_by_the_protection(start_orthanc: StartOrthanc) -> None:
    node = start_orthanc(aet="PACS")
    section = {
        "ProtectUndelivered": True,
        "DeleteAfterForward": True,
        "DestinationOptions": {"PACS": {"Proof": "C-FIND"}},
    }
    script = script_with(ROOT / "auto_forward_modality.py", {**QUICK, "BLOCKED_SECONDS": 2.0})
    here = start_orthanc(script, {**configured(node), "AutoForwardModality": section}, aet="HERE")
    node.configuration["DicomModalities"] = {"HERE": here.as_modality()}
    node.restart()
    store(here, "P1")
    here.wait_until(lambda: here.get("/patients") == [], 60, "delete what was delivered")
    assert len(node.get("/instances")) == 2


def test_two_forwarders_give_a_patient_back_when_the_second_has_delivered(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    node, peer = start_orthanc(aet="PACS"), start_orthanc(aet="PEER", start=False)
    both = [script_with(ROOT / f"auto_forward_{kind}.py", QUICK) for kind in ("modality", "peer")]
    path = combine_scripts(*both, to=tmp_path / "combined.py")
    on: dict[str, Any] = {"ProtectUndelivered": True}
    peers = {"OrthancPeers": {"PEER": peer.as_peer()}, "AutoForwardPeer": on}
    server = start_orthanc(path, {**configured(node), **peers})
    patient = store(server, "P1")
    server.wait_until(lambda: rows(server, "done") == 1, what="deliver to the node")
    time.sleep(16)
    assert is_protected(server, patient)
    peer.start()
    wait_for(server, [patient], protected=False)
    assert len(peer.get("/instances")) == 2
