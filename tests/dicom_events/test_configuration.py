# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events on a real Orthanc: what each broker gets by its settings, and settings that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.dicom_events.helpers import NEVER_STABLE, SCRIPT, events, wait_for


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
