# SPDX-License-Identifier: AGPL-3.0-or-later
"""`POST /dicom-events/catch-up`: a new outbox publishes what was received before it was made, under the same identifiers."""

from __future__ import annotations

import collections
import time
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import script_with
from tests.dicom_events.helpers import SCRIPT, check, events, of_type, wait_for

EVENTS = {"StoredInstance": True, "NewStudy": True, "StableStudy": True, "StableSeries": False, "StablePatient": False}
STORED, STABLE, NEW = "dicom.instance.stored", "dicom.study.stable", "dicom.study.new"


def now() -> str:
    """A time of which Orthanc dates what came before and what comes after in other seconds."""
    time.sleep(1.1)
    found = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(0.1)
    return found


def forget(server: OrthancServer) -> list[dict[str, Any]]:
    """The server dies, and its state with it; return what it has published."""
    server.kill()
    published = events(server)
    for path in server.folder.rglob("dicom_events*"):
        path.unlink()
    time.sleep(1.1)  # a new outbox is made in another second
    server.start()
    return published


def ask(server: OrthancServer, since: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = server.post("/dicom-events/catch-up", {"Since": since, **more})
    return answer


def is_done(server: OrthancServer) -> bool:
    return not server.get("/dicom-events/catch-up")["UnderWay"]


def subjects(found: list[dict[str, Any]], kind: str) -> list[str]:
    return sorted(each["subject"] for each in of_type(found, kind))


@pytest.mark.parametrize("reconcile", [True, False])
def test_a_new_outbox_publishes_what_came_since_each_once_under_the_same_identifier(
    start_orthanc: StartOrthanc, reconcile: bool
) -> None:
    configuration = {"DicomEvents": {"Events": EVENTS, "Reconcile": reconcile}}
    server = start_orthanc(SCRIPT, configuration)
    server.store(make_study(patient_id="old"))
    old = wait_for(server, STABLE)[0]["subject"]
    since = now()
    for number in range(2):
        server.store(make_study(patient_id=f"P{number}", series=2, instances=2))
    wait_for(server, STABLE, 3)
    first = forget(server)
    first = [each for each in first if each["time"] >= since.removesuffix("Z")]
    server.store(make_study(patient_id="new"))
    wait_for(server, STABLE)
    before = events(server)

    counted = ask(server, since)
    assert (counted["Studies"], counted["Instances"], counted["Complete"]) == (2, 8, True)
    assert (counted["DryRun"], counted["Brokers"]) == (True, ["file"])
    assert events(server) == before, "a dry run publishes nothing"

    ask(server, since, DryRun=False)
    wait_for(server, STABLE, 3)
    server.wait_until(lambda: is_done(server))
    time.sleep(2)
    found = events(server)[len(before) :]
    for each in found:
        check(each)
    assert {each["id"] for each in of_type(found, STORED)} == {each["id"] for each in of_type(first, STORED)}
    for kind in (STORED, STABLE, NEW):
        assert subjects(found, kind) == subjects(first, kind)
    assert old not in subjects(found, STABLE)

    assert ask(server, since)["Changes"] == 0, "once"
    server.restart()
    time.sleep(2)
    for kind in (STORED, STABLE, NEW):
        assert of_type(events(server)[len(before) :], kind) == of_type(found, kind)


def test_a_catch_up_goes_on_after_kill_9(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(script_with(SCRIPT, {"CATCH_UP_PAGE": 20}), {"DicomEvents": {"Events": EVENTS}})
    since = now()
    for number in range(40):
        server.store(make_study(patient_id=f"P{number}"))
    wait_for(server, STABLE, 40)
    first = forget(server)
    assert ask(server, since, DryRun=False)["Changes"] >= 40 * 7
    kills = 0
    while not is_done(server) and kills < 3:
        server.kill()
        kills += 1
        server.start()
    assert kills >= 1
    wait_for(server, STABLE, 40)
    server.wait_until(lambda: is_done(server))
    times = collections.Counter(each["id"] for each in of_type(events(server), STORED))
    assert times.keys() == {each["id"] for each in of_type(first, STORED)}
    assert subjects(events(server), STABLE) == subjects(first, STABLE)


def test_what_can_not_be_asked_is_a_400(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    for body, says in (
        ({}, "Since is missing"),
        ({"Since": "2026-01-31T13:00:00"}, "a time with its zone"),
        ({"Since": "2026-01-31", "Study": "x"}, "Unknown parameter"),
        ({"Since": "2999-01-01"}, "a time yet to come"),
    ):
        answer = server.request("POST", "/dicom-events/catch-up", json=body)
        assert (answer.status_code, says in answer.text) == (400, True), answer.text
    assert ask(server, time.strftime("%Y-%m-%d", time.gmtime()))["Changes"] == 0
