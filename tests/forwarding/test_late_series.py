# SPDX-License-Identifier: AGPL-3.0-or-later
"""A rule that begins to match with a late series, and rules of two levels: each image arrives, once, on a real Orthanc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
ROUTE = "/auto-forward-modality"
PT = {"Name": "pt", "Query": {"ModalitiesInStudy": "MR"}, "Destinations": ["PACS"]}


@pytest.fixture
def pacs() -> Iterator[AwkwardNode]:
    with AwkwardNode("PACS") as node:
        yield node


@pytest.fixture
def other() -> Iterator[AwkwardNode]:
    with AwkwardNode("OTHER") as node:
        yield node


def start(start_orthanc: StartOrthanc, *nodes: AwkwardNode, **section: Any) -> OrthancServer:
    modalities = {node.aet: node.as_modality() for node in nodes}
    return start_orthanc(BUILT, {"DicomModalities": modalities, "AutoForwardModality": section})


def store_series(server: OrthancServer, modality: str, instances: int) -> str:
    """Store a series of a study, and give the identifier of the study."""
    files = make_study(
        modality=modality, instances=instances, StudyInstanceUID="1.2.3", SeriesInstanceUID=f"1.2.3.{ord(modality[0])}"
    )
    study: str = server.store(files)[0]["ParentStudy"]
    return study


def modalities(node: AwkwardNode) -> Counter[str | None]:
    """How many images of each modality were sent, repeats too."""
    received = list(node.received)
    by_uid = {dataset.SOPInstanceUID: dataset.Modality for dataset in node.taken}
    return Counter(by_uid.get(uid) for uid, _ in received)  # None: it is being taken


@pytest.mark.parametrize("mode", ["first", "all"])
def test_a_rule_that_begins_to_match_with_a_late_series_sends_the_study_although_orthanc_was_killed(
    start_orthanc: StartOrthanc, pacs: AwkwardNode, other: AwkwardNode, mode: str
) -> None:
    everything = {"Name": "all", "Destinations": ["OTHER"]}
    server = start(start_orthanc, pacs, other, RuleMode=mode, Rules=[PT, everything])
    study = store_series(server, "CT", 3)
    server.wait_until(lambda: modalities(other) == {"CT": 3}, what="send what no other rule wants")
    server.wait_until(lambda: server.get(f"{ROUTE}/status")["Totals"]["done"] == 1, what="know that it has arrived")
    assert pacs.received == []
    server.kill()
    server.start()
    store_series(server, "MR", 2)
    server.wait_until(lambda: len(pacs.received) >= 5, what="send the study")
    said = server.post(f"{ROUTE}/rules/test", {"Resource": study})["Rules"][0]
    assert said == {"Name": "pt", "Destinations": {"PACS": 5}, "Why": "matches"}
    store_series(server, "US", 1)
    server.wait_until(lambda: len(pacs.received) >= 6, what="send the last series")
    server.wait_until(lambda: server.get(f"{ROUTE}/status")["Totals"]["sending"] == 0, what="know that it has arrived")
    assert modalities(pacs) == {"CT": 3, "MR": 2, "US": 1}
    # Some Orthancs repeat a job that had just ended when they were killed.
    assert set(modalities(other)) == ({"CT"} if mode == "first" else {"CT", "MR", "US"})


@pytest.mark.parametrize("mode", ["first", "all"])
@pytest.mark.parametrize("section", [{}, {"Trigger": "Stored"}, {"Reconcile": False}], ids=str)
def test_rules_of_two_levels_send_each_image_once(
    start_orthanc: StartOrthanc, pacs: AwkwardNode, mode: str, section: dict[str, Any]
) -> None:
    rules = [
        {"Name": "studies", "Destinations": ["PACS"]},
        {"Name": "series", "Level": "Series", "Destinations": ["PACS"]},
    ]
    server = start(start_orthanc, pacs, RuleMode=mode, Rules=rules, KeepDoneDays=0, **section)
    server.store(make_study(patient_id="ONE", series=3, instances=2))
    server.wait_until_stable()
    server.wait_until(lambda: len(pacs.received) >= 6, what="send the study")
    server.store(make_study(patient_id="TWO"))  # when this is through, so is what came before
    server.wait_until_stable()
    server.wait_until(lambda: len(pacs.received) >= 7, what="send the other study")
    server.store(make_study(patient_id="THREE"))
    server.wait_until(lambda: "THREE" in [dataset.PatientID for dataset in pacs.taken], what="send the last")
    assert Counter(uid for uid, _ in pacs.received).most_common(1)[0][1] == 1
    assert len(pacs.taken) == 8
