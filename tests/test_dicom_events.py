# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events on a real Orthanc, with the brokers that need nothing: `file` and `log`."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pydicom
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from testing.dicom import make_study, orthanc_identifier, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "dicom_events" / "__init__.py"
SCHEMA = json.loads((ROOT / "docs" / "dicom_events.schema.json").read_text())
ALL_EVENTS = dict.fromkeys(
    [
        *(f"{what}{level}" for what in ("New", "Stable", "Deleted") for level in ("Patient", "Study", "Series")),
        *("DeletedInstance", "StoredInstance", "UpdatedMetadata", "UpdatedAttachment", "JobSuccess", "JobFailure"),
        *("OrthancStarted", "OrthancStopped", "UpdatedModalities", "UpdatedPeers"),
    ],
    True,
)
# Long enough that nothing becomes stable while the script of these tests runs.
NEVER_STABLE = {"StableAge": 3600}


def events(server: OrthancServer, name: str = "dicom_events.jsonl") -> list[dict[str, Any]]:
    """All that the `file` broker has written, in order; a line that is being written is left out."""
    folder = server.folder / "storage"
    files = [*sorted(folder.glob(f"{name}.*"), key=lambda path: -int(path.suffix[1:])), folder / name]
    text = "".join(path.read_text() for path in files if path.exists())
    return [json.loads(line) for line in text.split("\n")[:-1]]


def of_type(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in found if event.get("type", event.get("identity")) == kind]


def wait_for(server: OrthancServer, kind: str, number: int = 1, timeout: float = 30) -> list[dict[str, Any]]:
    def enough() -> list[dict[str, Any]]:
        found = of_type(events(server), kind)
        return found if len(found) >= number else []

    return list(server.wait_until(enough, timeout, f"{number} events {kind}"))


def check(event: dict[str, Any]) -> None:
    """A CloudEvent by the package's own reading, with data as the schema says."""
    assert isinstance(JSONFormat().read(None, json.dumps(event)), CloudEvent)
    validator(event["type"]).validate(event["data"])


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{kind}"})


@pytest.fixture(scope="module")
def shared(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """One server with every event on and a tag asked for, for all who only store, look and delete."""
    return start_orthanc_for_module(
        SCRIPT,
        {
            "DicomEvents": {
                "Events": {
                    **ALL_EVENTS,
                    "StoredInstancePublishTags": ["InstanceNumber", "0008,0060"],
                    "StableSeriesPublishTags": ["Modality", "BodyPartExamined"],
                    "StableStudyPublishTags": ["StudyDate"],
                    "StablePatientPublishTags": ["PatientName"],
                },
                "Source": "/hospital/orthanc",
            }
        },
    )


# -- what is told ---------------------------------------------------------------------------------------------------


def test_an_image_is_told_with_identifiers_parents_origin_count_and_the_tags_asked_for(shared: OrthancServer) -> None:
    study = make_study(patient_id="STORED", instances=2, seed="stored", PatientName="Doe^Jane")
    shared.store_scu(study, aet="CT1")
    dataset = pydicom.dcmread(io.BytesIO(study[1]))
    uids = [
        str(dataset[name].value) for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    ]
    ids = [orthanc_identifier(*uids[:n]) for n in range(1, 5)]

    def told() -> Any:
        return next((event for event in events(shared) if event["subject"] == f"instances/{ids[3]}"), None)

    event = shared.wait_until(told, what="the event of the second image")
    check(event)
    assert (event["type"], event["source"]) == ("dicom.instance.stored", "/hospital/orthanc")
    assert event["data"] == {
        "level": "Instance",
        "id": ids[3],
        "orthanc": dict(zip(("patient", "study", "series", "instance"), ids, strict=True)),
        "dicom": dict(zip(("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), uids, strict=True)),
        "origin": {"kind": "DICOM_PROTOCOL", "aet": "CT1", "ip": "127.0.0.1"},
        "counts": {"instances": 2},
        "tags": {"InstanceNumber": "2", "0008,0060": "CT"},
    }


def test_what_becomes_stable_is_told_with_counts_and_tags_and_no_name_unless_asked(shared: OrthancServer) -> None:
    shared.store(make_study(patient_id="STABLE", series=2, instances=3, seed="stable", PatientName="Doe^John"))
    patient = orthanc_identifier("STABLE")

    def told() -> dict[str, Any]:
        mine = [event for event in events(shared) if event["data"].get("orthanc", {}).get("patient") == patient]
        found = {event["type"]: event for event in mine}
        return found if "dicom.patient.stable" in found else {}

    found = shared.wait_until(told, what="the patient is stable")
    for event in found.values():
        check(event)
        assert ("Doe^John" in json.dumps(event)) == (event["type"] == "dicom.patient.stable")
    assert found["dicom.series.stable"]["data"]["counts"] == {"instances": 3}
    assert found["dicom.study.stable"]["data"]["counts"] == {"instances": 6, "series": 2}
    assert found["dicom.patient.stable"]["data"]["counts"] == {"instances": 6, "series": 2, "studies": 1}
    assert found["dicom.series.stable"]["data"]["tags"] == {"Modality": "CT"}  # it has no BodyPartExamined
    assert found["dicom.study.stable"]["data"]["tags"] == {"StudyDate": "20240101"}
    assert found["dicom.study.stable"]["data"]["origin"]["kind"] == "REST_API"
    assert {"dicom.patient.new", "dicom.study.new", "dicom.series.new"} <= found.keys()


def test_what_is_deleted_is_told_with_the_dicom_identifiers_that_it_had(shared: OrthancServer) -> None:
    shared.store(make_study(patient_id="GONE", instances=2, seed="gone"))
    study = next(each for each in shared.get("/studies?expand") if each["PatientMainDicomTags"]["PatientID"] == "GONE")
    shared.delete(f"/studies/{study['ID']}")

    def told() -> list[dict[str, Any]]:
        mine = [event for event in events(shared) if event["data"].get("dicom", {}).get("PatientID") == "GONE"]
        gone = [event for event in mine if event["type"].endswith("deleted")]
        return gone if len(gone) == 5 else []

    mine = shared.wait_until(told, what="all that went is told")
    levels = ["instance", "instance", "series", "study", "patient"]
    # Orthanc 1.10.1 tells of the patient before the study.
    assert sorted(event["type"] for event in mine) == sorted(f"dicom.{level}.deleted" for level in levels)
    for event in mine:
        check(event)
        assert None not in event["data"]["dicom"].values()
        assert None not in event["data"]["orthanc"].values()
    assert (
        of_type(mine, "dicom.series.deleted")[0]["data"]["dicom"]["StudyInstanceUID"]
        == study["MainDicomTags"]["StudyInstanceUID"]
    )


def test_updates_jobs_and_the_server_itself_are_told_when_switched_on(shared: OrthancServer) -> None:
    shared.store(make_study(patient_id="OTHERS", seed="others"))
    series = shared.get("/series")[0]
    shared.put(f"/series/{series}/metadata/1024", "x")
    shared.put(f"/series/{series}/attachments/1025", "x")
    shared.put("/modalities/nobody", {"AET": "NOBODY", "Host": "127.0.0.1", "Port": 1})
    shared.put("/peers/nobody", {"Url": "http://127.0.0.1:1/"})
    shared.post("/tools/create-archive", {"Resources": [series], "Asynchronous": True})
    failing = {"Resources": [series], "Asynchronous": True}
    shared.request("POST", "/peers/nobody/store", json=failing)
    for kind in (
        *("dicom.series.metadata-updated", "dicom.series.attachment-updated", "orthanc.modalities.updated"),
        *("orthanc.peers.updated", "orthanc.job.succeeded", "orthanc.job.failed", "orthanc.started"),
    ):
        check(wait_for(shared, kind)[-1])
    assert of_type(events(shared), "orthanc.job.succeeded")[-1]["data"]["type"] == "Archive"


def test_every_real_file_is_told_with_the_identifiers_that_orthanc_gave_it(shared: OrthancServer) -> None:
    """Big and little endian, deflated, implicit, undefined lengths, other alphabets: the sums are Orthanc's own."""
    stored = [
        answer.json()["ID"]
        for path in pydicom_files()
        if (answer := shared.request("POST", "/instances", data=path.read_bytes())).ok
    ]
    assert len(stored) > 100

    def told() -> dict[str, Any]:
        found = {event["data"]["id"]: event for event in of_type(events(shared), "dicom.instance.stored")}
        return found if set(stored) <= found.keys() else {}

    found = shared.wait_until(told, what="all are told")
    for instance in set(stored):
        check(found[instance])
        for level in ("patient", "study", "series"):
            assert found[instance]["data"]["orthanc"][level] == shared.get(f"/instances/{instance}/{level}")["ID"]


def test_large_images_are_told_with_their_own_identifiers_and_not_those_of_others_within(
    start_orthanc: StartOrthanc,
) -> None:
    def refer(dataset: pydicom.Dataset) -> None:
        other = pydicom.Dataset()
        other.SeriesInstanceUID, other.StudyInstanceUID, other.PatientID = "1.2.3", "1.2.4", "OTHER"
        dataset.ReferencedSeriesSequence = pydicom.Sequence([other])

    server = start_orthanc(SCRIPT, {"DicomEvents": {"Events": {"StoredInstance": True}}})
    stored = []
    for patient, change in (("PLAIN", None), ("REFERS", refer), ('A"B', None), ("A/B", refer), ("  SPACES ", None)):
        stored += server.store(make_study(patient_id=patient, instances=2, rows=256, columns=256, change=change))
    found = {
        event["data"]["id"]: event["data"] for event in wait_for(server, "dicom.instance.stored", number=len(stored))
    }
    assert len(found) == 10
    for instance, data in found.items():
        for level in ("patient", "study", "series"):
            assert data["orthanc"][level] == server.get(f"/instances/{instance}/{level}")["ID"]
        tags = server.get(f"/instances/{instance}/simplified-tags")
        assert {name: value.strip() for name, value in data["dicom"].items()} == {
            name: tags[name].strip() for name in data["dicom"]
        }


def test_events_of_one_series_are_in_order_and_ids_are_all_different(shared: OrthancServer) -> None:
    found = events(shared)
    # The same image, sent twice in one second, has the same id.
    assert len({event["id"] for event in found}) == len(
        {(event["id"], event["type"], event["subject"]) for event in found}
    )
    for series in {event["data"]["orthanc"]["series"] for event in of_type(found, "dicom.instance.stored")}:
        mine = [event["data"]["counts"]["instances"] for event in of_type(found, "dicom.instance.stored")
                if event["data"]["orthanc"]["series"] == series]  # fmt: skip
        assert mine == sorted(mine)


def test_the_status_tells_backlog_rate_and_last_error_of_each_broker(shared: OrthancServer) -> None:
    status = shared.wait_until(
        lambda: (s := shared.get("/dicom-events/status")) and not s["Brokers"]["file"]["Backlog"] and s
    )
    assert status["State"] == "running"
    broker = status["Brokers"]["file"]
    assert (broker["State"], broker["Backlog"], broker["OldestSeconds"], broker["LastError"]) == (
        "connected",
        0,
        None,
        None,
    )
    assert broker["Published"] == len(events(shared))
    assert broker["Rate"] > 0


# -- settings -------------------------------------------------------------------------------------------------------


def test_without_a_section_the_first_list_is_told_but_no_deleted_image(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    server.store(make_study(instances=2))
    wait_for(server, "dicom.patient.stable")
    server.delete(f"/patients/{server.get('/patients')[0]}")
    wait_for(server, "dicom.patient.deleted")
    kinds = [event["type"].removeprefix("dicom.") for event in events(server)]
    stable, deleted = (
        [f"{level}.stable" for level in ("series", "study", "patient")],
        [f"{level}.deleted" for level in ("series", "study", "patient")],
    )
    assert sorted(kinds) == sorted(["instance.stored"] * 2 + stable + deleted)
    assert kinds.index("series.stable") > 1


def test_plain_events_are_flat_and_a_filter_sends_each_broker_its_own(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(
        SCRIPT,
        {
            "DicomEvents": {
                "Format": "plain",
                "Events": {"StableSeriesPublishTags": ["Modality"]},
                "Broker": {"Type": "file", "Events": ["dicom.series.*"]},
                "Brokers": {
                    "stored": {"Type": "file", "Events": ["dicom.instance.stored"], "Format": "structured",
                               "FileConfig": {"Path": "stored.jsonl"}},
                    "shown": {"Type": "log", "Events": ["dicom.study.stable"]},
                },
            }
        },
    )  # fmt: skip
    server.store_scu(make_study(instances=3), aet="CT1")
    event = server.wait_until(lambda: events(server))[0]
    series = server.get("/series?expand")[0]
    study = server.get(f"/studies/{series['ParentStudy']}")
    event.pop("eventID"), event.pop("time")
    assert event == {
        "identity": "dicom.series.stable",
        "ID": series["ID"],
        "seriesID": series["ID"],
        "studyID": study["ID"],
        "patientID": study["ParentPatient"],
        "PatientID": "PATIENT",
        "StudyInstanceUID": study["MainDicomTags"]["StudyInstanceUID"],
        "SeriesInstanceUID": series["MainDicomTags"]["SeriesInstanceUID"],
        "origin": "DICOM_PROTOCOL",
        "remoteAET": "CT1",
        "remoteIP": "127.0.0.1",
        "instanceCount": 3,
        "Modality": "CT",
    }
    assert [each["type"] for each in events(server, "stored.jsonl")] == ["dicom.instance.stored"] * 3
    assert '"identity": "dicom.study.stable"' in server.wait_for_log("event {")
    brokers = server.get("/dicom-events/status")["Brokers"]
    assert [brokers[name]["Published"] for name in ("broker", "stored", "shown")] == [1, 3, 1]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"Events": {"StableSeries": "yes"}}, 'Events.StableSeries: found "yes", allowed: true or false'),
        ({"Events": {"StoredInstanceThrottleMs": -1}}, "ThrottleMs: found -1, allowed: a whole number, at least 0"),
        (
            {"Events": {"StoredInstanceSkipOrigin": ["DICOM"]}},
            'SkipOrigin: found ["DICOM"], allowed: a list of UNKN',
        ),
        (
            {"Events": {"StableStudyPublishTags": ["PatientNam"]}},
            'StableStudyPublishTags: found "PatientNam", allowed: key',
        ),
        ({"Format": "xml"}, 'DicomEvents.Format: found "xml", allowed: one of "structured", "binary", "plain"'),
        ({"Outbox": {"WhenFull": "explode"}}, 'DicomEvents.Outbox.WhenFull: found "explode", allowed: one of'),
    ],
)
def test_a_wrong_value_leaves_the_script_idle_and_orthanc_running(
    start_orthanc: StartOrthanc, section: dict[str, Any], line: str
) -> None:
    server = start_orthanc(SCRIPT, {"DicomEvents": section, **NEVER_STABLE})
    assert line in server.wait_for_log("is idle until this is corrected")
    answer = server.request("GET", "/dicom-events/status")
    assert (answer.status_code, line in answer.json()["Message"]) == (503, True)
    assert server.store(make_study())[0]["Status"] == "Success"
    assert not (server.folder / "storage" / "dicom_events.sqlite").exists()


def test_a_wrong_broker_puts_itself_off_naming_the_key_and_the_others_go_on(start_orthanc: StartOrthanc) -> None:
    wrong = {
        "none": ({}, "DicomEvents.Brokers.none.Type: not there, allowed: one of rabbitmq"),
        "kind": ({"Type": "rabbit"}, 'DicomEvents.Brokers.kind.Type: found "rabbit", allowed: one of "rabbitmq"'),
        "url": ({"Type": "rabbitmq"}, "DicomEvents.Brokers.url.RabbitConfig.URL: not there, allowed: amqp://HOST"),
        "secret": ({"Type": "rabbitmq", "RabbitConfig": {"URL": "http://me:pa55word@host"}},
                   "DicomEvents.Brokers.secret.RabbitConfig.URL: found a value that is not shown here, allowed: amqp://"),
        "arn": ({"Type": "sqs-sns", "SNSConfig": {"TopicArn": "x"}}, 'SNSConfig.TopicArn: found "x", allowed: arn:aws:sns:'),
        "filter": ({"Type": "log", "Events": ["dicom.study.stabel"]}, "DicomEvents.Brokers.filter.Events: found"),
        "key": ({"Type": "file", "Evnts": []}, "DicomEvents.Brokers.key.Evnts is not a known key (did you mean Events?)"),
        "folder": ({"Type": "file", "FileConfig": {"Path": "/proc/nowhere/events"}}, "broker folder is away"),
    }  # fmt: skip
    brokers = {name: content for name, (content, _) in wrong.items()}
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": {"Type": "file"}, "Brokers": brokers}, **NEVER_STABLE})
    server.store(make_study())
    wait_for(server, "dicom.instance.stored")
    log = server.wait_for_log("broker folder is away")
    for _, line in wrong.values():
        assert line in log
    status = server.get("/dicom-events/status")["Brokers"]
    assert [status[name]["State"] for name in wrong] == ["misconfigured"] * 7 + ["away"]
    assert "pa55word" not in log + json.dumps(status)
    # What it missed waits for it, until it is corrected.
    assert status["url"]["Backlog"] == 1


# -- throttling -----------------------------------------------------------------------------------------------------


def test_throttled_a_series_tells_its_first_at_once_and_its_last_with_the_count(start_orthanc: StartOrthanc) -> None:
    settings = {"Events": {"StoredInstanceThrottleMs": 700}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **NEVER_STABLE})
    study = make_study(series=2, instances=20)
    server.store(itertools.chain.from_iterable(zip(study[:20], study[20:], strict=True)))

    def told() -> list[dict[str, Any]]:
        found = of_type(events(server), "dicom.instance.stored")
        last = {event["data"]["orthanc"]["series"]: event["data"]["counts"]["instances"] for event in found}
        return found if list(last.values()) == [20, 20] else []

    found = server.wait_until(told, what="the last of both series")
    for series in server.get("/series"):
        mine = [event for event in found if event["data"]["orthanc"]["series"] == series]
        counts = [event["data"]["counts"]["instances"] for event in mine]
        assert counts[0] == 1
        assert counts == sorted(set(counts))
        assert len(counts) < 10


def test_what_throttling_holds_back_survives_kill_9(start_orthanc: StartOrthanc) -> None:
    settings = {"Events": {"StoredInstanceThrottleMs": 3000}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **NEVER_STABLE})
    server.store(make_study(instances=5))
    wait_for(server, "dicom.instance.stored")
    server.kill()
    server.start()
    found = wait_for(server, "dicom.instance.stored", 2)
    assert [event["data"]["counts"]["instances"] for event in found] == [1, 5]


def test_the_last_throttled_image_is_told_before_its_series_is_stable(start_orthanc: StartOrthanc) -> None:
    settings = {"Events": {"StoredInstanceThrottleMs": 3_600_000}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings})
    server.store(make_study(instances=5))
    wait_for(server, "dicom.series.stable")
    found = [event for event in events(server) if event["type"] in ("dicom.instance.stored", "dicom.series.stable")]
    assert [event["data"]["counts"]["instances"] for event in found] == [1, 5, 5]


def test_images_of_an_origin_to_skip_are_not_told_but_their_series_is(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Events": {"StoredInstanceSkipOrigin": ["REST_API"]}}})
    server.store(make_study(instances=2, seed=1))
    server.store_scu(make_study(instances=1, seed=2))
    wait_for(server, "dicom.series.stable", 2)
    assert [event["data"]["origin"]["kind"] for event in of_type(events(server), "dicom.instance.stored")] == [
        "DICOM_PROTOCOL"
    ]


# -- nothing is lost ------------------------------------------------------------------------------------------------


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


def rows(server: OrthancServer, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(server.folder / "storage" / "dicom_events.sqlite")) as db, db:
        return list(db.execute(sql))


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


# -- who asks -------------------------------------------------------------------------------------------------------


def test_a_study_is_told_again_on_demand_with_the_same_ids(start_orthanc: StartOrthanc) -> None:
    started = datetime.now(UTC) - timedelta(seconds=2)
    server = start_orthanc(SCRIPT)
    server.store(make_study(patient_id="A", instances=3))
    server.store(make_study(patient_id="B", instances=3))
    wait_for(server, "dicom.patient.stable", 2)
    first = {event["id"]: event for event in of_type(events(server), "dicom.instance.stored")}
    study = server.get("/studies?expand")[0]
    for name in (study["ID"], study["MainDicomTags"]["StudyInstanceUID"]):
        assert server.post("/dicom-events/replay", {"Study": name}) == {"Studies": 1}
    wait_for(server, "dicom.patient.stable", 4)
    hour = timedelta(hours=1)
    between = {"From": started.isoformat(), "To": (started + hour).isoformat()}
    assert server.post("/dicom-events/replay", between) == {"Studies": 2}
    assert server.post("/dicom-events/replay", {"From": (started + hour).isoformat(), "To": (started + 2 * hour).isoformat()}) == {"Studies": 0}  # fmt: skip # noqa: E501
    wait_for(server, "dicom.patient.stable", 6)
    found = of_type(events(server), "dicom.instance.stored")
    assert len(found) == 6 + 2 * 3 + 6
    assert {event["id"] for event in found} == first.keys()
    for event in found:
        check(event)
        assert event["data"]["orthanc"] == first[event["id"]]["data"]["orthanc"]
        assert event["data"]["origin"] == first[event["id"]]["data"]["origin"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "about"),
    [
        ("POST", "replay", {}, 400, "Study"),
        ("POST", "replay", {"Study": "x y"}, 400, "Study"),
        ("POST", "replay", {"Study": "1.2.3"}, 404, "1.2.3"),
        ("POST", "replay", {"Study": "b9c08539-26f93bde-c81ab0d7-bffaf2cb-a4d0bdd0"}, 404, "b9c08539"),
        ("POST", "replay", {"Study": "1.2.3", "From": "2026-01-01T00:00:00Z"}, 400, "either"),
        ("POST", "replay", {"From": "2026-01-01", "To": "2026-01-02"}, 400, "zone"),
        ("POST", "replay", {"From": "2026-01-02T00:00:00Z", "To": "2026-01-01T00:00:00Z"}, 400, "before"),
        ("POST", "replay", {"Since": 1}, 400, "Since"),
        ("GET", "dead-letters?limit=0x10", None, 400, "limit"),
        ("GET", "dead-letters?broker=nobody", None, 400, "nobody"),
        ("GET", "dead-letters/1", None, 404, "1"),
        ("POST", "dead-letters/1/retry", {}, 404, "1"),
        ("POST", "dead-letters/retry", {"Broker": "nobody"}, 400, "nobody"),
        ("DELETE", "status", None, 405, ""),
    ],
)
def test_a_mistake_of_the_caller_is_told_and_nothing_happens(
    shared: OrthancServer, method: str, path: str, body: Any, status: int, about: str
) -> None:
    answer = shared.request(method, f"/dicom-events/{path}", json=body)
    assert answer.status_code == status
    assert status == 405 or about in answer.json()["Message"]


def test_a_page_of_a_stranger_replays_nothing(shared: OrthancServer) -> None:
    answer = shared.request("POST", "/dicom-events/replay", json={}, headers={"Origin": "http://elsewhere"})
    assert answer.status_code == 403


# -- scripts of a user's own ----------------------------------------------------------------------------------------

OWN = """
import json
import dicom_events
import orthanc

def hello(output, uri, **request):
    try:
        uid = dicom_events.publish(**json.loads(request["body"]))
        output.AnswerBuffer(json.dumps(uid), "application/json")
    except ValueError as error:
        output.AnswerBuffer(json.dumps(str(error)), "application/json")

orthanc.RegisterRestCallback("/hello", hello)
"""


@pytest.fixture
def combined(tmp_path: Path) -> Callable[[Path], Path]:
    def combine(own: Path) -> Path:
        own.write_text(OWN)
        target = tmp_path / "combined.py"
        command: list[str | Path] = [sys.executable, ROOT / "combine.py", own, SCRIPT.parent, "-o", target]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return target

    return combine


@pytest.mark.parametrize("where", ["alone", "beside", "elsewhere"])
def test_a_handler_of_a_users_own_publishes_through_the_same_outbox(
    start_orthanc: StartOrthanc, combined: Callable[[Path], Path], tmp_path: Path, where: str
) -> None:
    if where == "alone":  # one script that imports the package which lies beside it
        (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
        script = tmp_path / "own.py"
        script.write_text(OWN)
    elif where == "beside":
        (tmp_path / "dicom_events").symlink_to(SCRIPT.parent)
        script = combined(tmp_path / "own.py")
    else:
        script = combined(tmp_path / "own.py")
    server = start_orthanc(script, NEVER_STABLE)
    own = {"type": "org.hospital.report", "data": {"report": 1}, "subject": "reports/1"}
    uid = server.post("/hello", own)
    event = wait_for(server, "org.hospital.report")[0]
    assert (event["id"], event["data"], event["subject"]) == (uid, {"report": 1}, "reports/1")
    assert "not below dicom." in server.post("/hello", {**own, "type": "dicom.study.stable"})
    assert "a text of one line" in server.post("/hello", {**own, "subject": "a\nb"})


def test_combined_with_another_script_both_work(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    target = tmp_path / "combined.py"
    command: list[str | Path] = [
        sys.executable,
        ROOT / "combine.py",
        ROOT / "purge_old_studies.py",
        SCRIPT.parent,
        "-o",
        target,
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    server = start_orthanc(target)
    server.store(make_study(study_date="19990101"))
    wait_for(server, "dicom.patient.stable")
    assert server.get("/purge-old-studies", since="20000101") == 1
    wait_for(server, "dicom.patient.deleted")


# -- AllowThreads, where it exists ----------------------------------------------------------------------------------


@pytest.fixture(params=[False, True])
def threads(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Older plugins ignore the key: then both are the same."""
    return {"Python": {"AllowThreads": request.param}}


def test_with_and_without_threads_all_is_told_and_the_server_ends_well(
    start_orthanc: StartOrthanc, threads: dict[str, Any]
) -> None:
    settings = {"Brokers": {"a": {"Type": "file"}, "b": {"Type": "log", "Events": ["dicom.patient.*"]}}}
    server = start_orthanc(SCRIPT, {"DicomEvents": settings, **threads})
    server.store_scu(make_study(series=4, instances=50, rows=8, columns=8))
    wait_for(server, "dicom.patient.stable")
    assert len(of_type(events(server), "dicom.instance.stored")) == 200
    assert server.stop() == 0
