# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events on a real Orthanc: nothing is lost, with a broker that is away, a kill, or a full outbox."""

from __future__ import annotations

import contextlib
import json
import sqlite3

from testing.dicom import make_study, orthanc_identifier
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dicom_events.helpers import NEVER_STABLE, ROOT, SCRIPT, check, events, of_type, rows, wait_for


def test_what_a_restart_swallowed_becomes_stable_all_the_same_once(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"StableAge": 2})
    server.store(make_study(patient_id="KILLED", series=2, instances=2))
    wait_for(server, "dicom.instance.stored", 4)
    server.kill()
    server.start()
    server.store(make_study(patient_id="OTHER"))
    wait_for(server, "dicom.patient.stable", 2)
    stable = [event for event in events(server) if event["type"].endswith("stable")]
    assert len(stable) == len({event["subject"] for event in stable}) == (2 + 1 + 1) + 3
    assert of_type(stable, "dicom.study.stable")[0]["data"]["counts"]["instances"] in (1, 4)


def test_an_image_whose_callback_never_came_is_found_in_the_changes(start_orthanc: StartOrthanc) -> None:
    """What kill -9 leaves between Orthanc's commit and ours: made here by forgetting what was written."""
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Events": {"NewSeries": True}}})
    server.store(make_study(patient_id="BEFORE"))
    wait_for(server, "dicom.patient.stable")
    settled = server.wait_until(lambda: not rows(server, "SELECT * FROM told"), what="the feed has read on")
    assert settled
    cursor = rows(server, "SELECT value FROM state WHERE name='cursor'")[0][0]
    server.store(make_study(patient_id="MISSED", instances=2))
    wait_for(server, "dicom.instance.stored", 3)
    wait_for(server, "dicom.series.new", 2)
    server.kill()
    before = events(server)
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "dicom_events.sqlite")) as db, db:
        for table in ("told", "event"):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM resource WHERE dicom='MISSED' OR parent IS NOT NULL")
        db.execute("UPDATE state SET value=? WHERE name='cursor'", (cursor,))
    server.start()
    wait_for(server, "dicom.instance.stored", 5)
    wait_for(server, "dicom.series.new", 3)
    wait_for(server, "dicom.patient.stable", 2)
    again = events(server)[len(before) :]
    repeats = {event["id"] for event in again} & {event["id"] for event in before}
    assert len(repeats) == len(of_type(again, "dicom.instance.stored")) == 2  # the same identifiers
    for event in again:
        check(event)


def test_a_new_outbox_misses_no_image_that_comes_before_it_knows_its_place(start_orthanc: StartOrthanc) -> None:
    """Its callback returned, or kill -9 came in it and the place was not yet written down: both are found in /changes."""
    server = start_orthanc(STARTS_LATE, {"DicomEvents": {"Events": {"NewSeries": True}}}, environment={"TZ": "UTC+11"})
    server.store(make_study(patient_id="EARLY"))
    wait_for(server, "dicom.patient.stable")
    assert server.wait_until(lambda: not rows(server, "SELECT * FROM told"), what="the feed has found it")
    server.kill()
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "dicom_events.sqlite")) as db, db:
        for table in ("told", "event", "resource"):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM state WHERE name='cursor'")
    server.start()
    server.store(make_study(patient_id="LATER"))
    found = wait_for(server, "dicom.instance.stored", 3)
    assert [event["data"]["dicom"]["PatientID"] for event in found].count("EARLY") == 2
    assert len({event["id"] for event in found}) == 2


# ORTHANC_STARTED reaches dicom_events when an image has been stored, and the first image a second after Orthanc has
# dated its change: on a busy machine both do so by themselves.
STARTS_LATE = f"""
import sys, threading, time
import orthanc

stored = threading.Event()
real_change, real_stored = orthanc.RegisterOnChangeCallback, orthanc.RegisterOnStoredInstanceCallback

def register_on_change(function):
    def on_change(change, level, resource):
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            stored.wait(60)
        function(change, level, resource)
    real_change(on_change)

def register_on_stored_instance(function):
    def on_stored_instance(dicom, instance):
        if not stored.is_set():
            time.sleep(1.1)
        function(dicom, instance)
        stored.set()
    real_stored(on_stored_instance)

orthanc.RegisterOnChangeCallback, orthanc.RegisterOnStoredInstanceCallback = register_on_change, register_on_stored_instance
sys.path.insert(0, {str(ROOT)!r})
import dicom_events
"""


def test_a_new_outbox_tells_nothing_that_the_archive_holds_already(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(None, environment={"TZ": "UTC-14"})  # whatever the server's own time is
    server.store(make_study(patient_id="OLD"))
    server.wait_until_stable()
    server.stop()
    server.configuration.update(server._plugin(SCRIPT))
    server.start()
    assert "what happens from now on is published" in server.wait_for_log("is new")
    server.store(make_study(patient_id="NEW"))
    wait_for(server, "dicom.patient.stable")
    assert {event["data"]["dicom"]["PatientID"] for event in events(server)} == {"NEW"}
    # Yet what was there before is known when it goes.
    server.delete(f"/patients/{orthanc_identifier('OLD')}")
    for event in wait_for(server, "dicom.patient.deleted"):
        assert event["data"]["dicom"] == {"PatientID": "OLD"}
    assert None not in of_type(events(server), "dicom.series.deleted")[0]["data"]["dicom"].values()


def test_what_was_deleted_while_the_script_was_away_is_told_when_it_is_back(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Events": {"DeletedInstance": True}}})
    server.store(make_study(patient_id="STAYS"))
    server.store(make_study(patient_id="GOES", instances=2))
    wait_for(server, "dicom.patient.stable", 2)
    server.stop()
    with_script = {key: server.configuration[key] for key in ("Plugins", "PythonScript")}
    server.configuration["Plugins"] = []
    server.start()
    server.delete(f"/patients/{orthanc_identifier('GOES')}")
    server.stop()
    server.configuration.update(with_script)
    server.start()
    wait_for(server, "dicom.patient.deleted")
    gone = [event for event in events(server) if event["type"].endswith("deleted")]
    assert [event["type"].split(".")[1] for event in gone] == ["instance"] * 2 + ["series", "study", "patient"]
    assert {event["data"]["dicom"]["PatientID"] for event in gone} == {"GOES"}


def test_a_broker_that_is_away_holds_up_no_other_and_gets_all_when_it_is_back(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, start=False)
    blocked = server.folder / "away"
    blocked.write_text("a file where a folder should be")
    config = {"Type": "file", "FileConfig": {"Path": str(blocked / "events.jsonl")}}
    server.configuration["DicomEvents"] = {"Broker": {"Type": "file"}, "Brokers": {"away": config}}
    server.start()
    server.store(make_study(instances=10))
    wait_for(server, "dicom.patient.stable")
    assert server.get("/dicom-events/status")["Brokers"]["away"]["Backlog"] == 13
    blocked.unlink()
    server.wait_for_log("broker away is back")
    server.wait_until(lambda: server.get("/dicom-events/status")["Brokers"]["away"]["Backlog"] == 0)
    assert [json.loads(line)["id"] for line in (blocked / "events.jsonl").read_text().splitlines()] == [
        event["id"] for event in events(server)
    ]


def test_a_corrupt_outbox_is_moved_aside_and_the_server_starts(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, start=False, configuration=NEVER_STABLE)
    (server.folder / "storage").mkdir()
    (server.folder / "storage" / "dicom_events.sqlite").write_bytes(b"no database" * 1000)
    server.start()
    server.wait_for_log("was corrupt and is kept as")
    server.store(make_study())
    wait_for(server, "dicom.instance.stored")


def test_a_torn_line_is_cut_off_and_files_are_rotated_without_losing_one(start_orthanc: StartOrthanc) -> None:
    broker = {"Type": "file", "FileConfig": {"MaxMegabytes": 0.005, "Keep": 50}}
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": broker}, **NEVER_STABLE})
    server.store(make_study(instances=30))
    wait_for(server, "dicom.instance.stored", 30)
    server.kill()
    path = server.folder / "storage" / "dicom_events.jsonl"
    with path.open("a") as file:
        file.write('{"specversion": "1.0", "id": "torn')
    assert path.stat().st_mode & 0o777 == 0o600
    server.start()
    server.store(make_study(seed=2, instances=5))
    found = {event["id"] for event in wait_for(server, "dicom.instance.stored", 35)}
    assert len(found) == 35
    assert len(list(path.parent.glob("dicom_events.jsonl.*"))) > 5


def test_a_file_that_somebody_deletes_is_made_anew_and_no_later_event_is_missing(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, NEVER_STABLE)
    server.store(make_study(seed=1))
    wait_for(server, "dicom.instance.stored")
    (server.folder / "storage" / "dicom_events.jsonl").unlink()
    [stored] = server.store(make_study(seed=2))
    [event] = wait_for(server, "dicom.instance.stored")
    assert event["data"]["id"] == stored["ID"]


def test_a_full_outbox_drops_the_oldest_and_says_so(start_orthanc: StartOrthanc) -> None:
    settings = {"Broker": {"Type": "rabbitmq"}, "Outbox": {"MaxMegabytes": 1}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **NEVER_STABLE})
    fill(server, 1_500)
    assert "events were dropped unpublished" in server.wait_for_log("the outbox is beyond its bounds")
    box = server.get("/dicom-events/status")["Outbox"]
    assert box["Dropped"] > 0
    assert server.wait_until(lambda: server.get("/dicom-events/status")["Outbox"]["Bytes"] <= 1_000_000)
    assert rows(server, "SELECT COUNT(*), MAX(row) FROM event")[0][0] == 1_500 - box["Dropped"]


def test_a_full_outbox_that_refuses_keeps_the_oldest_and_counts_the_others(start_orthanc: StartOrthanc) -> None:
    settings = {"Broker": {"Type": "rabbitmq"}, "Outbox": {"MaxMegabytes": 1, "WhenFull": "refuse"}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **NEVER_STABLE})
    fill(server, 1_500)
    server.wait_until(lambda: server.get("/dicom-events/status")["Outbox"]["Full"])
    fill(server, 5, seed=1)
    assert "events were refused: the outbox is full" in server.wait_for_log("events were refused")
    box = server.get("/dicom-events/status")["Outbox"]
    assert box["Dropped"] == 0
    assert rows(server, "SELECT COUNT(*), MIN(row) FROM event")[0] == (1_505 - box["Refused"], 1)


def fill(server: OrthancServer, number: int, seed: int = 0) -> None:
    """Small images, quickly: without pixels there is little to store."""
    server.store_scu(make_study(seed=seed, instances=number, rows=1, columns=1))
