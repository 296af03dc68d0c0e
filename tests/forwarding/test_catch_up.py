# SPDX-License-Identifier: AGPL-3.0-or-later
"""`POST /NAME/catch-up`: a new ledger is told where to begin, by the time of reception; nothing is done twice."""

from __future__ import annotations

import datetime
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
SCRIPT = script_with(BUILT, QUICK)
ROUTE = "/auto-forward-modality"
ONLY_P = {"Rules": [{"Name": "only P", "Query": {"PatientID": "P*"}, "Destinations": ["NODE"]}]}


def now() -> str:
    """A time of which Orthanc dates what came before and what comes after in other seconds."""
    time.sleep(1.1)
    found = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(0.1)
    return found


def forget(server: OrthancServer) -> None:
    """The server dies, and its state with it."""
    server.kill()
    found = list(server.folder.rglob("auto_forward_modality.sqlite*"))
    assert found
    for path in found:
        path.unlink()
    server.start()


def ask(server: OrthancServer, since: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = server.post(f"{ROUTE}/catch-up", {"Since": since, **more})
    return answer


def uid_of(instance: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(instance), stop_before_pixels=True).SOPInstanceUID)


def uids(node: AwkwardNode) -> list[str]:
    return sorted(uid for uid, _ in node.received)


@pytest.fixture
def node() -> Iterator[AwkwardNode]:
    with AwkwardNode("NODE") as found:
        yield found


@pytest.mark.parametrize("reconcile", [True, False])
def test_a_new_ledger_gets_what_was_received_since_and_nothing_twice(
    start_orthanc: StartOrthanc, node: AwkwardNode, reconcile: bool
) -> None:
    section = {**ONLY_P, "Reconcile": reconcile}
    # Else Orthanc itself runs jobs again after the kill whose end it had not written down yet.
    configuration = {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": section, "SaveJobs": False}
    server = start_orthanc(SCRIPT, configuration)
    server.store(make_study(patient_id="P-old", instances=2))
    server.wait_until(lambda: len(node.received) == 2)
    since = now()
    missed = [make_study(patient_id=f"P{number}", series=2, instances=2) for number in range(2)]
    for study in missed:
        server.store(study)
    server.store(make_study(patient_id="Q"))  # no rule wants it
    server.wait_until(lambda: len(node.received) == 10)
    server.wait_until_stable()
    forget(server)
    node.received.clear()
    new = make_study(patient_id="P-new", instances=3)
    server.store(new)  # comes by itself
    server.wait_until(lambda: len(node.received) == 3)

    counted = ask(server, since)
    assert counted["DryRun"] is True
    assert (counted["Studies"], counted["Instances"], counted["Complete"]) == (4, 12, True)
    assert counted["Destinations"] == {"NODE": 8}, "without what the ledger knows, and what no rule wants"
    assert len(node.received) == 3

    assert ask(server, since, DryRun=False)["DryRun"] is False
    server.wait_until(lambda: len(node.received) == 11)
    server.wait_until(lambda: not server.get(f"{ROUTE}/catch-up")["UnderWay"])
    expected = sorted(uid_of(each) for study in (*missed, new) for each in study)
    assert uids(node) == expected
    assert sum(ask(server, since)["Destinations"].values()) == 0
    ask(server, since, DryRun=False)
    server.wait_until(lambda: not server.get(f"{ROUTE}/catch-up")["UnderWay"])
    time.sleep(1.5)
    assert uids(node) == expected
    server.restart()
    time.sleep(1.5)
    assert uids(node) == expected
    server.assert_logged("somebody asked to catch up since", level="warning")


def test_a_catch_up_goes_on_after_kill_9(start_orthanc: StartOrthanc, node: AwkwardNode) -> None:
    script = script_with(BUILT, {**QUICK, "CATCH_UP_PAGE": 20})
    server = start_orthanc(script, {"DicomModalities": {"NODE": node.as_modality()}})
    since = now()
    studies = [make_study(patient_id=f"P{number}") for number in range(60)]
    for study in studies:
        server.store(study)
    server.wait_until(lambda: len(node.received) == 60, timeout=60)
    server.wait_until_stable()
    forget(server)
    node.received.clear()
    assert ask(server, since, DryRun=False)["Changes"] >= 60 * 7
    kills = 0
    while server.get(f"{ROUTE}/catch-up")["UnderWay"] and kills < 3:
        server.kill()
        kills += 1
        server.start()
    assert kills >= 1
    wanted = {uid_of(each) for study in studies for each in study}
    server.wait_until(lambda: {*uids(node)} == wanted, timeout=60)
    server.wait_until(lambda: not server.get(f"{ROUTE}/catch-up")["UnderWay"])


@pytest.fixture
def answer(start_orthanc: StartOrthanc) -> Callable[[dict[str, Any]], tuple[int, str]]:
    server = start_orthanc(SCRIPT)

    def answer(body: dict[str, Any]) -> tuple[int, str]:
        found = server.request("POST", f"{ROUTE}/catch-up", json=body)
        return found.status_code, found.text

    return answer


def test_what_can_not_be_asked_is_a_400_and_nothing_begins(answer: Callable[[dict[str, Any]], tuple[int, str]]) -> None:
    for body, says in (
        ({}, "Since is missing"),
        ({"Since": "yesterday"}, "a time with its zone"),
        ({"Since": "2026-01-31T13:00:00"}, "a time with its zone"),
        ({"Since": "2026-01-31", "DryRun": 0}, "true or false"),
        ({"Since": "2026-01-31", "Destination": "NODE"}, "Unknown parameter"),
    ):
        status, text = answer(body)
        assert (status, says in text) == (400, True), text
    today = datetime.datetime.now(datetime.UTC).date()
    for body in ({"Since": "2999-01-01"}, {"Since": f"{today + datetime.timedelta(2)}", "DryRun": False}):
        status, text = answer(body)
        assert (status, "a time yet to come; allowed: up to now" in text) == (400, True), text
    assert answer({"Since": f"{today}"})[0] == 200
