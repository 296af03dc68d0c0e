# SPDX-License-Identifier: AGPL-3.0-or-later
"""`Scripts.Database`: the state of the scripts in PostgreSQL. One server at a time works, the others stand by."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.waiting import wait_until
from tests.postgres import PostgresServer
from tests.several_servers.conftest import StartCluster

ROOT = Path(__file__).parents[2]
FORWARDER = ROOT / "auto_forward_modality.py"
STATUS = "/auto-forward-modality/status"
TAKES_OVER_WITHIN = 10.0  # seconds


@pytest.fixture
def node() -> Iterator[AwkwardNode]:
    with AwkwardNode("NODE") as found:
        yield found


def shared(postgres: PostgresServer) -> dict[str, Any]:
    return {"Database": postgres.url.replace("orthanc@", "orthanc:pa55Word@"), "Server": "${HOSTNAME}"}


def configuration(node: AwkwardNode, postgres: PostgresServer) -> dict[str, Any]:
    return {
        "DicomModalities": {"NODE": node.as_modality()},
        "Scripts": shared(postgres),
        "AutoForwardModality": {"Destinations": ["NODE"]},
    }


def status_of(server: OrthancServer, path: str = STATUS) -> dict[str, Any]:
    found: dict[str, Any] = server.request("GET", path).json()
    return found


def sop_instance_uids(server: OrthancServer) -> list[str]:
    return sorted(each["MainDicomTags"]["SOPInstanceUID"] for each in server.get("/instances?expand"))


def has_all(node: AwkwardNode, server: OrthancServer) -> bool:
    return {uid for uid, _ in node.received} >= set(sop_instance_uids(server))


def store_until_taken(server: OrthancServer, *files: bytes) -> None:
    """Store as a modality does: Orthanc answers 503 now and then while two servers store at once."""
    for file in files:
        wait_until(lambda: server.request("POST", "/instances", data=file).ok, 30, "it is taken")  # noqa: B023


@contextlib.contextmanager
def cut_again_and_again(postgres: PostgresServer) -> Iterator[list[int]]:
    """End the connections of scripts each second; yields how many, each time."""
    ending, cut = threading.Event(), list[int]()

    def run() -> None:
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'orthanc-scripts%'"
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            while not ending.wait(1):
                cut.append(len(connection.execute(sql).fetchall()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield cut
    finally:
        ending.set()
        thread.join()


def test_what_all_received_arrives_once_and_each_says_who_works(
    start_cluster: StartCluster, postgres: PostgresServer, node: AwkwardNode
) -> None:
    first, second = start_cluster(2, FORWARDER, configuration(node, postgres))
    for number in range(4):
        store_until_taken(first, *make_study(patient_id=f"A{number}", instances=3))
        store_until_taken(second, *make_study(patient_id=f"B{number}", instances=3))
        split = make_study(patient_id=f"AB{number}", instances=6)
        store_until_taken(first, *split[::2])
        store_until_taken(second, *split[1::2])
    everything = sop_instance_uids(first)
    assert len(everything) == 48
    first.wait_until(lambda: len(node.received) >= 48, timeout=60)
    time.sleep(5)  # for what should not come
    assert sorted(uid for uid, _ in node.received) == everything
    working, standing_by = status_of(first), status_of(second)
    assert (working["State"], working["Server"], working["WorkedBy"]) == ("running", "A", "A")
    assert (standing_by["State"], standing_by["Server"], standing_by["WorkedBy"]) == ("standby", "B", "A")
    assert "server A has the work" in second.request("GET", "/auto-forward-modality/deliveries").json()["Message"]
    assert second.get("/scripts/health")["Healthy"], "a probe must not end it"
    for server in (first, second):
        server.assert_not_logged("pa55Word")
        server.assert_not_logged(level="error")


def test_another_server_goes_on_within_ten_seconds_when_one_is_killed(
    start_cluster: StartCluster, postgres: PostgresServer, node: AwkwardNode
) -> None:
    first, second = start_cluster(2, FORWARDER, configuration(node, postgres))
    node.seconds_per_image = 0.1
    for number in range(6):
        store_until_taken(first, *make_study(patient_id=f"A{number}", instances=3))
        store_until_taken(second, *make_study(patient_id=f"B{number}", instances=3))
    first.wait_until(lambda: len(node.received) >= 5, timeout=60)
    first.kill()
    wait_until(lambda: status_of(second)["State"] == "running", TAKES_OVER_WITHIN, "the other server works")
    second.wait_until(lambda: has_all(node, second), timeout=60)
    repeats = Counter(uid for uid, _ in node.received).total() - len(sop_instance_uids(second))
    print(f"repeats after a kill: {repeats}")  # noqa: T201
    assert repeats <= 12, "at most what was under way"
    [third] = start_cluster(1, FORWARDER, configuration(node, postgres))
    assert status_of(third)["WorkedBy"] == "B"
    second.kill()  # what the first got is never said to be stable


def test_connections_that_are_cut_again_and_again_lose_nothing(
    start_cluster: StartCluster, postgres: PostgresServer, node: AwkwardNode
) -> None:
    first, second = start_cluster(2, FORWARDER, configuration(node, postgres))
    with cut_again_and_again(postgres) as cut:
        for number in range(10):
            store_until_taken(first, *make_study(patient_id=f"A{number}", instances=2))
            store_until_taken(second, *make_study(patient_id=f"B{number}", instances=2))
            time.sleep(1)
    assert sum(cut) >= 5
    first.wait_until(lambda: has_all(node, first), timeout=90)
    states = sorted(status_of(each)["State"] for each in (first, second))
    assert states == ["running", "standby"]


def test_a_database_that_is_away_refuses_nothing_to_a_sender_and_nothing_is_lost(
    start_orthanc: StartOrthanc, postgres: PostgresServer, node: AwkwardNode
) -> None:
    """Orthanc's own index is a file here: what it takes does not depend on PostgreSQL."""
    server = start_orthanc(FORWARDER, configuration(node, postgres), environment={"HOSTNAME": "A"})
    server.store(make_study(patient_id="before"))
    server.wait_until(lambda: len(node.received) == 1)
    postgres.stop()
    server.store(make_study(patient_id="meanwhile", instances=3))
    server.wait_until(lambda: status_of(server)["Reason"], timeout=30)
    time.sleep(8)
    postgres.start()
    server.wait_until(lambda: len(node.received) >= 4, timeout=60)
    server.wait_until(lambda: status_of(server)["Reason"] is None, timeout=30)
    assert sorted(uid for uid, _ in node.received) == sop_instance_uids(server)
    server.assert_logged("goes on, this is over: PostgreSQL")
    said = [text for level, text in server.log_lines() if level == "error" and "PostgreSQL" in text]
    assert 1 <= len(said) <= 4, said


EVENTS = {"StoredInstance": True, "StableStudy": True, "NewStudy": True, "DeletedStudy": True}
EVENTS_STATUS = "/dicom-events/status"


def events_configuration(postgres: PostgresServer, state: Path) -> dict[str, Any]:
    """The journal, and the file that stands for a broker, are each server's own."""
    return {
        "Scripts": {"StatePath": f"{state}/${{HOSTNAME}}", **shared(postgres)},
        "DicomEvents": {"Events": EVENTS},
    }


def published(state: Path, kind: str) -> list[dict[str, Any]]:
    """What all servers have published of a type."""
    lines = [line for path in state.glob("*/dicom_events.jsonl") for line in path.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def subjects(state: Path, kind: str) -> Counter[str]:
    return Counter(each["subject"] for each in published(state, kind))


def test_each_event_is_published_once_whichever_server_it_happened_on(
    start_cluster: StartCluster, postgres: PostgresServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first, second = start_cluster(2, ROOT / "dicom_events" / "__init__.py", events_configuration(postgres, state))
    for number in range(3):
        store_until_taken(first, *make_study(patient_id=f"A{number}", instances=3))
        store_until_taken(second, *make_study(patient_id=f"B{number}", instances=3))
        split = make_study(patient_id=f"AB{number}", instances=4)
        store_until_taken(first, *split[::2])
        store_until_taken(second, *split[1::2])
    instances = {f"instances/{each}" for each in first.get("/instances")}
    studies = {f"studies/{each}" for each in first.get("/studies")}
    assert (len(instances), len(studies)) == (30, 9)
    first.wait_until(lambda: subjects(state, "dicom.instance.stored").keys() >= instances, timeout=60)
    first.wait_until(lambda: subjects(state, "dicom.study.stable").keys() >= studies, timeout=60)
    time.sleep(8)  # for what should not come
    assert subjects(state, "dicom.instance.stored") == Counter(instances)
    assert subjects(state, "dicom.study.new") == Counter(studies)
    assert subjects(state, "dicom.study.stable") == Counter(studies), "also of a study that was split"
    assert not (state / "B" / "dicom_events.jsonl").exists()
    gone = second.get("/studies")[0]
    second.delete(f"/studies/{gone}")
    first.wait_until(lambda: subjects(state, "dicom.study.deleted") == Counter([f"studies/{gone}"]), timeout=30)
    working, standing_by = status_of(first, EVENTS_STATUS), status_of(second, EVENTS_STATUS)
    assert (working["State"], working["WorkedBy"]) == ("running", "A")
    assert (standing_by["State"], standing_by["WorkedBy"]) == ("standby", "A")
    for server in (first, second):
        server.assert_not_logged("pa55Word")
        server.assert_not_logged(level="error")


def test_another_server_publishes_on_when_one_is_killed(
    start_cluster: StartCluster, postgres: PostgresServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first, second = start_cluster(2, ROOT / "dicom_events" / "__init__.py", events_configuration(postgres, state))
    for number in range(4):
        store_until_taken(first, *make_study(patient_id=f"A{number}", instances=3))
        store_until_taken(second, *make_study(patient_id=f"B{number}", instances=3))
    first.kill()
    store_until_taken(second, *make_study(patient_id="after", instances=3))
    wait_until(lambda: status_of(second, EVENTS_STATUS)["State"] == "running", TAKES_OVER_WITHIN, "the other works")
    instances = {f"instances/{each}" for each in second.get("/instances")}
    studies = {f"studies/{each}" for each in second.get("/studies")}
    second.wait_until(lambda: subjects(state, "dicom.instance.stored").keys() >= instances, timeout=60)
    second.wait_until(lambda: subjects(state, "dicom.study.stable").keys() >= studies, timeout=60)
    stored = published(state, "dicom.instance.stored")
    assert len({each["id"] for each in stored}) == len(instances), "a repeat has the same id"
    print(f"repeats after a kill: {len(stored) - len(instances)}")  # noqa: T201
    second.kill()  # what the first got is never said to be stable
