# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events on a real Orthanc: what each event says."""

from __future__ import annotations

import io
import json
from typing import Any

import pydicom

from testing.dicom import make_study, orthanc_identifier, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dicom_events.helpers import SCRIPT, check, events, of_type, wait_for


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
