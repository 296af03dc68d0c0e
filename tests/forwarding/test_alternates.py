# SPDX-License-Identifier: AGPL-3.0-or-later
"""`Alternates`: when a destination does not answer, what waits for it goes to the first of its alternates that does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.nodes import DicomNode
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
NODES, PEERS = (
    script_with(
        ROOT / f"auto_forward_{kind}.py", {**QUICK, "ALTERNATES_LOOK_SECONDS": 0.5, "ANSWER_COUNTS_SECONDS": 2.0}
    )
    for kind in ("modality", "peer")
)
SOON = {"AlternatesAfterMinutes": 0.05}


def section_of(server: OrthancServer) -> str:
    return "auto-forward-peer" if "OrthancPeers" in server.configuration else "auto-forward-modality"


def rows(server: OrthancServer, task: str = "send") -> list[dict[str, Any]]:
    return [row for row in server.get(f"/{section_of(server)}/deliveries")["Items"] if row["Task"] == task]


def where(server: OrthancServer) -> Counter[tuple[str, str]]:
    return Counter((row["Destination"], row["State"]) for row in rows(server))


@pytest.mark.parametrize("kind", ["modality", "peer"])
def test_what_waits_for_a_silent_destination_goes_to_the_first_alternate_that_answers(
    start_orthanc: StartOrthanc, kind: str
) -> None:
    first, second, third = (start_orthanc(aet=aet) for aet in ("FIRST", "SECOND", "THIRD"))
    several = (first, second, third)
    section = {"Destinations": ["FIRST"], "Alternates": {"FIRST": ["SECOND", "THIRD"]}, **SOON}
    configuration: dict[str, Any] = (
        {"DicomModalities": {each.aet: each.as_modality() for each in several}, "AutoForwardModality": section}
        if kind == "modality"
        else {"OrthancPeers": {each.aet: each.as_peer() for each in several}, "AutoForwardPeer": section}
    )
    source = start_orthanc(NODES if kind == "modality" else PEERS, configuration)
    source.store(make_study(patient_id="BEFORE"))
    source.wait_until(lambda: where(source) == {("FIRST", "done"): 1}, what="deliver to the first")
    first.stop()
    second.stop()
    for number in range(3):
        source.store(make_study(patient_id=f"P{number}", instances=2))
    source.wait_until(
        lambda: where(source) == {("FIRST", "done"): 1, ("THIRD", "done"): 3}, what="deliver to the third instead"
    )
    assert len(third.get("/instances")) == 6
    one = source.get(f"/{section_of(source)}/deliveries/{rows(source)[-1]['ID']}")
    assert any("it goes to THIRD instead" in entry["Error"] for entry in one["History"])
    source.wait_for_log("deliveries go to THIRD instead")
    # When it is there again, it gets what arrives from then on, and nothing that went elsewhere.
    first.start()
    source.wait_until(
        lambda: not source.get(f"/{section_of(source)}/destinations")["FIRST"]["Away"], what="see it again"
    )
    source.store(make_study(patient_id="AFTER"))
    source.wait_until(lambda: where(source)["FIRST", "done"] == 2, what="deliver to the first again")
    assert len(first.get("/patients")) == 2
    assert len(third.get("/patients")) == 3


def test_a_destination_that_answers_and_refuses_keeps_what_is_its_own(start_orthanc: StartOrthanc) -> None:
    """A refusal of one image is no reason to send it to somebody else."""
    with DicomNode("REFUSES", refuses=lambda _: True) as node:
        other = start_orthanc(aet="OTHER")
        modalities = {"REFUSES": node.as_modality(), "OTHER": other.as_modality()}
        section = {"Destinations": ["REFUSES"], "Alternates": {"REFUSES": ["OTHER"]}, "AlternatesAfterMinutes": 0}
        source = start_orthanc(NODES, {"DicomModalities": modalities, "AutoForwardModality": section})
        source.store(make_study())
        source.wait_until(lambda: any(row["Attempts"] > 2 for row in rows(source)), what="be refused again and again")
        assert {row["Destination"] for row in rows(source)} == {"REFUSES"}
        assert other.get("/instances") == []


def test_a_rules_alternates_are_for_what_it_matches(start_orthanc: StartOrthanc) -> None:
    other = start_orthanc(aet="OTHER")
    away = start_orthanc(aet="AWAY", start=False)
    rules = [
        {"Name": "mr", "Query": {"ModalitiesInStudy": "MR"}, "Alternates": {"AWAY": ["OTHER"]}},
        {"Name": "rest"},
    ]
    section = {"Destinations": ["AWAY"], "Rules": rules, **SOON}
    modalities = {each.aet: each.as_modality() for each in (other, away)}
    source = start_orthanc(NODES, {"DicomModalities": modalities, "AutoForwardModality": section})
    source.store(make_study(patient_id="CT", Modality="CT"))
    source.store(make_study(patient_id="MR", Modality="MR"))
    source.wait_until(lambda: where(source)["OTHER", "done"] == 1, what="deliver the MR to the other")
    assert where(source) == {("OTHER", "done"): 1, ("AWAY", "waiting"): 1}
    # After a restart what waits for an alternate, which no rule names as a destination, is not held.
    other.stop()
    source.store(make_study(patient_id="MR2", Modality="MR"))
    source.post("/auto-forward-modality/send", {"Resource": source.get("/studies")[0], "Destinations": ["OTHER"]})
    source.restart()
    assert "OTHER, which the configuration names no more" not in source.log


def test_the_alternate_proves_what_it_got_instead_before_anything_is_deleted(start_orthanc: StartOrthanc) -> None:
    other = start_orthanc(aet="OTHER", start=False)
    source = start_orthanc(NODES, aet="HERE", start=False)
    away = start_orthanc(aet="AWAY", start=False)
    other.configuration["DicomModalities"] = {"HERE": source.as_modality()}
    section = {
        "Destinations": ["AWAY"], "Alternates": {"AWAY": ["OTHER"]}, "DeleteAfterForward": True, **SOON,
        "DestinationOptions": {"OTHER": {"Proof": "C-FIND"}},
    }  # fmt: skip
    source.configuration |= {
        "DicomModalities": {each.aet: each.as_modality() for each in (other, away)},
        "AutoForwardModality": section,
    }
    other.start()
    source.start()
    source.store(make_study(instances=3))
    source.wait_until(lambda: [row["State"] for row in rows(source, "delete")] == ["done"], what="delete")
    assert source.get("/instances") == []
    assert len(other.get("/instances")) == 3


@pytest.mark.parametrize("wrong", [{"PACS": ["PACS"]}, {"PACS": []}, {"PACS": "B"}, {"PACS": [""]}])
def test_alternates_that_are_none_are_refused(start_orthanc: StartOrthanc, wrong: dict[str, Any]) -> None:
    source = start_orthanc(NODES, {"AutoForwardModality": {"Destinations": [], "Alternates": wrong}})
    source.wait_for_log('allowed: a list of other destinations for each, as {"PACS": ["PACS-B"]}')
    assert source.request("GET", "/auto-forward-modality/deliveries").status_code == 503


def test_what_came_from_the_alternate_waits_for_its_destination(start_orthanc: StartOrthanc) -> None:
    """Sent back, it would count as delivered, and be nowhere but where it was."""
    pacs, sender = start_orthanc(aet="PACS", start=False), start_orthanc(aet="SENDER", start=False)
    section = {"Destinations": ["PACS"], "Alternates": {"PACS": ["SENDER"]}, **SOON}
    nodes = {each.aet: each.as_modality() for each in (pacs, sender)}
    here = start_orthanc(NODES, {"DicomModalities": nodes, "AutoForwardModality": section}, aet="HERE")
    sender.configuration["DicomModalities"] = {"HERE": here.as_modality()}
    sender.start()
    sender.store(make_study(instances=2))
    sender.post("/modalities/HERE/store", {"Resources": sender.get("/studies"), "Synchronous": True})
    here.store(make_study(patient_id="OTHER"))
    here.wait_for_log("came from SENDER is not sent back to SENDER instead")
    here.wait_until(lambda: where(here)["SENDER", "done"] == 1, what="deliver the other study to the alternate")
    assert where(here)["PACS", "waiting"] == 1
    pacs.start()
    here.wait_until(lambda: where(here)["PACS", "done"] == 1, 60, what="deliver when PACS answers")
    assert len(pacs.get("/instances")) == 2
