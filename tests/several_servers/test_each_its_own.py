# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several Orthancs on one PostgreSQL: each does what it received itself (`Reconcile` false in each), or one does it for all."""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.server import OrthancServer
from tests.scripts import ROOT, combine_scripts
from tests.several_servers.conftest import StartCluster

STORED, STABLE = "dicom.instance.stored", "dicom.study.stable"


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("combined") / "combined.py"
    return combine_scripts(ROOT / "auto_forward_modality.py", ROOT / "dicom_events", to=path)


@pytest.fixture
def node() -> Iterator[AwkwardNode]:
    with AwkwardNode("NODE") as found:
        yield found


def configuration(node: AwkwardNode, state: Path, *, reconcile: bool = False) -> dict[str, Any]:
    return {
        "DicomModalities": {"NODE": node.as_modality()},
        "Scripts": {"StatePath": f"{state}/${{HOSTNAME}}"},
        "AutoForwardModality": {"Destinations": ["NODE"], "Reconcile": reconcile},
        "DicomEvents": {"Events": {"StoredInstance": True, "StableStudy": True}, "Reconcile": reconcile},
    }


def published(state: Path, kind: str) -> list[dict[str, Any]]:
    """What all servers have published."""
    lines = [line for path in state.glob("*/dicom_events.jsonl") for line in path.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def sop_instance_uids(server: OrthancServer) -> list[str]:
    return sorted(each["MainDicomTags"]["SOPInstanceUID"] for each in server.get("/instances?expand"))


def test_what_each_received_arrives_once_and_is_published_once(
    start_cluster: StartCluster, combined: Path, node: AwkwardNode, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first, second = start_cluster(2, combined, configuration(node, state))
    for number in range(4):
        first.store(make_study(patient_id=f"A{number}", instances=3))
        second.store(make_study(patient_id=f"B{number}", instances=3))
        split = make_study(patient_id=f"AB{number}", instances=6)
        first.store(split[::2])
        second.store(split[1::2])
    everything = sop_instance_uids(first)
    assert len(everything) == 48
    assert everything == sop_instance_uids(second), "one archive"
    first.wait_until(lambda: len(node.received) >= 48 and len(published(state, STORED)) >= 48, timeout=60)
    first.wait_until(lambda: len(published(state, STABLE)) >= 16, timeout=60)
    time.sleep(5)  # for what should not come
    assert sorted(uid for uid, _ in node.received) == everything
    stored = published(state, STORED)
    assert sorted(each["subject"] for each in stored) == sorted(f"instances/{one}" for one in first.get("/instances"))
    assert len({each["id"] for each in stored}) == 48
    stable = collections.Counter(each["subject"] for each in published(state, STABLE))
    assert sorted(stable.values()) == [1] * 8 + [2] * 4, "a study that was split is stable on both"
    assert {path.name for path in state.iterdir()} == {"A", "B"}


def test_one_does_it_for_all(start_cluster: StartCluster, combined: Path, node: AwkwardNode, tmp_path: Path) -> None:
    state = tmp_path / "state"
    [first] = start_cluster(1, combined, configuration(node, state, reconcile=True))
    [second] = start_cluster(1, None, {})
    for number in range(3):
        second.store(make_study(patient_id=f"B{number}", instances=3))
        split = make_study(patient_id=f"AB{number}", instances=4)
        first.store(split[::2])
        second.store(split[1::2])
    everything = sop_instance_uids(first)
    assert len(everything) == 21
    first.wait_until(lambda: len(node.received) >= 21 and len(published(state, STORED)) >= 21, timeout=60)
    time.sleep(8)  # for what should not come
    assert sorted(uid for uid, _ in node.received) == everything
    stored = published(state, STORED)
    assert sorted(each["subject"] for each in stored) == sorted(f"instances/{one}" for one in first.get("/instances"))


def test_a_new_server_takes_over_what_one_that_died_with_its_state_had_not_delivered(
    start_cluster: StartCluster, combined: Path, node: AwkwardNode, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first, second = start_cluster(2, combined, configuration(node, state))
    first.store(make_study(patient_id="before"))
    first.wait_until(lambda: len(node.received) == 1)
    time.sleep(1.1)
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    second.post("/auto-forward-modality/destinations/NODE/pause", {})
    second.store(make_study(patient_id="owed", instances=3))
    second.wait_until(lambda: second.get("/auto-forward-modality/status")["Totals"]["waiting"] == 1)
    second.kill()  # it never comes back, nor does its folder
    [third] = start_cluster(1, combined, configuration(node, state))
    counted = third.post("/auto-forward-modality/catch-up", {"Since": since})
    assert (counted["Instances"], counted["Destinations"]) == (3, {"NODE": 3})
    third.post("/auto-forward-modality/catch-up", {"Since": since, "DryRun": False})
    third.wait_until(lambda: len(node.received) == 4, timeout=30)
    third.wait_until(lambda: not third.get("/auto-forward-modality/catch-up")["UnderWay"])
    time.sleep(3)
    assert sorted(uid for uid, _ in node.received) == sop_instance_uids(third)
    again = third.post("/auto-forward-modality/catch-up", {"Since": since})
    assert sum(again["Destinations"].values()) == 0
