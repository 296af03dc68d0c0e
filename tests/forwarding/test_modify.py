# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/, on real Orthancs: what a rule changes on the way arrives changed, and never as it is in the archive."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from testing.awkward import AwkwardNode
from testing.dicom import make_study, pydicom_files
from testing.nodes import HttpAnswer, HttpNode, HttpRequest, pass_on_to
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.waiting import wait_until
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parents[2]
SCRIPTS = {kind: script_with(ROOT / f"auto_forward_{kind}.py", QUICK) for kind in ("modality", "peer")}
SMALL: dict[str, Any] = {"rows": 8, "columns": 8}
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
PREFIX = {"Replace": {"PatientID": "SITE-{PatientID}"}}


def section(kind: str, where: dict[str, Any], modify: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A configuration with one rule, which changes all that goes to DEST."""
    names = {"modality": "DicomModalities", "peer": "OrthancPeers"}[kind]
    rules = [{"Name": "changed", "Destinations": ["DEST"], "Modify": modify}]
    return {names: where, f"AutoForward{kind.capitalize()}": {"Rules": rules, **more}}


def destination_of(kind: str, server: Any) -> dict[str, Any]:
    return {"DEST": server.as_modality() if kind == "modality" else server.as_peer()}


def deliveries(server: OrthancServer, kind: str = "modality") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.get(f"/auto-forward-{kind}/deliveries")["Items"]
    return items


def wait_until_done(server: OrthancServer, instances: int, kind: str = "modality") -> None:
    def all_done() -> bool:
        rows = deliveries(server, kind)
        return {row["State"] for row in rows} == {"done"} and sum(row["Instances"] for row in rows) == instances

    server.wait_until(all_done, timeout=60, what="deliver all")


def images(server: OrthancServer) -> dict[str, Dataset]:
    """What a server holds, by SOP Instance UID."""
    found = [server.request("GET", f"/instances/{one}/file").content for one in server.get("/instances")]
    return {str(each.SOPInstanceUID): each for each in (pydicom.dcmread(io.BytesIO(one)) for one in found)}


def pixels(server: OrthancServer) -> dict[str, bytes]:
    """What each image shows, by SOP Instance UID."""
    uids = {one: server.get(f"/instances/{one}")["MainDicomTags"]["SOPInstanceUID"] for one in server.get("/instances")}
    return {uid: server.request("GET", f"/instances/{one}/image-uint16").content for one, uid in uids.items()}


def files_of(server: OrthancServer) -> dict[str, bytes]:
    return {one: server.request("GET", f"/instances/{one}/file").content for one in sorted(server.get("/instances"))}


@pytest.mark.parametrize("kind", ["modality", "peer"])
def test_what_a_rule_changes_arrives_changed_and_the_archive_keeps_it_as_it_is(
    start_orthanc: StartOrthanc, kind: str
) -> None:
    def add(dataset: Dataset) -> None:
        dataset.PatientName = "Müller^Jürgen"
        dataset.RequestAttributesSequence = [Dataset()]
        dataset.RequestAttributesSequence[0].ScheduledProcedureStepID = "7"

    modify = {
        "Replace": {"PatientID": "SITE-{PatientID}", "InstitutionName": "Central {0008,0060}",
                    "PatientComments": "{PatientName}"},
        "Remove": ["ReferringPhysicianName", "0040,0275"],
        "Transcode": "JPEGLosslessSV1",
    }  # fmt: skip
    destination = start_orthanc(None, {}, aet="DEST")
    source = start_orthanc(SCRIPTS[kind], section(kind, destination_of(kind, destination), modify))
    source.store(make_study(instances=3, series=2, ReferringPhysicianName="Refers", change=add, **SMALL))
    source.store(next(path for path in pydicom_files() if path.name == "CT_small.dcm"))
    here, changes = files_of(source), source.get("/changes?last")
    wait_until_done(source, 7, kind)
    sent, originals = images(destination), images(source)
    assert sent.keys() == originals.keys()
    for uid, image in sent.items():
        original = originals[uid]
        assert image.PatientID == f"SITE-{original.PatientID}"
        assert image.InstitutionName == "Central CT"
        assert str(image.PatientComments) == str(original.PatientName)
        assert image.PatientName == original.PatientName
        assert "ReferringPhysicianName" not in image
        assert "RequestAttributesSequence" not in image
        assert image.file_meta.TransferSyntaxUID == JPEG_LOSSLESS
        assert image.StudyInstanceUID == original.StudyInstanceUID
        assert image.SeriesInstanceUID == original.SeriesInstanceUID
    assert pixels(destination) == pixels(source)
    assert files_of(source) == here
    assert len(source.get("/patients")) == 2
    assert source.get("/changes?last")["Last"] == changes["Last"] + len(
        [one for one in source.get(f"/changes?since={changes['Last']}")["Changes"] if "Stable" in one["ChangeType"]]
    )
    assert source.get("/jobs") == []
    row = deliveries(source, kind)[0]
    assert source.get(f"/auto-forward-{kind}/deliveries/{row['ID']}")["Modify"] == {
        **modify,
        "Transcode": JPEG_LOSSLESS,
    }
    # What a person is told before, and what is refused: it would leave as it is.
    study = originals[next(iter(originals))]
    named = source.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": str(study.StudyInstanceUID)}})
    found = source.post(f"/auto-forward-{kind}/rules/test", {"Resource": named[0]})["Rules"][0]
    assert found["Modify"]["Replace"]["PatientID"] == f"SITE-{study.PatientID}"
    for route, body in (("send", {"Resource": named[0]}), ("backfill", {"From": "19000101", "To": "20990101"})):
        for wrong in ({}, {"Rule": "nobody"}):
            answer = source.request("POST", f"/auto-forward-{kind}/{route}", json={**body, **wrong})
            assert answer.status_code == 400, answer.text
            assert "Rule is" in answer.json()["Message"]
    source.post(f"/auto-forward-{kind}/backfill", {"From": "19000101", "To": "20990101", "Rule": "changed"})
    source.wait_until(lambda: [row["State"] for row in deliveries(source, kind)] == ["done"] * 4, what="send again")
    assert images(destination).keys() == sent.keys()
    assert {image.PatientID[:5] for image in images(destination).values()} == {"SITE-"}


@pytest.mark.parametrize("kind", ["modality", "peer"])
def test_two_rules_to_one_destination_never_share_a_delivery(start_orthanc: StartOrthanc, kind: str) -> None:
    """Of one study some images came by DICOM, others over HTTP: three rules say what is changed in which."""
    destination = start_orthanc(None, {}, aet="DEST")
    rules = [
        {"Name": "dicom", "Origin": {"Method": ["DicomProtocol"]}, "Modify": {"Replace": {"PatientID": "D-{PatientID}"}}},
        {"Name": "mr", "SOPClasses": ["MRImageStorage"], "Modify": {"Replace": {"PatientID": "M-{PatientID}"}}},
        {"Name": "as it is", "Destinations": ["DEST"]},
    ]  # fmt: skip
    configuration = section(kind, destination_of(kind, destination), None)
    configuration[f"AutoForward{kind.capitalize()}"] = {"Rules": rules, "Destinations": ["DEST"]}
    source = start_orthanc(SCRIPTS[kind], configuration)
    source.post(f"/auto-forward-{kind}/destinations/DEST/pause")
    study = {"StudyInstanceUID": "1.2.3", **SMALL}
    source.store_scu(make_study(instances=2, seed=1, **study))
    source.store(make_study(instances=2, seed=2, modality="MR", SeriesInstanceUID="1.2.3.2", **study))
    source.store(make_study(instances=2, seed=3, SeriesInstanceUID="1.2.3.3", **study))
    source.wait_until(
        lambda: sum(row["Instances"] for row in deliveries(source, kind)) == 6, what="add all rows", timeout=30
    )
    assert len(deliveries(source, kind)) == 3
    source.post(f"/auto-forward-{kind}/destinations/DEST/resume")
    wait_until_done(source, 6, kind)
    patients = sorted(str(image.PatientID) for image in images(destination).values())
    assert patients == ["D-PATIENT"] * 2 + ["M-PATIENT"] * 2 + ["PATIENT"] * 2


@pytest.mark.parametrize("kind", ["modality", "peer"])
def test_a_destination_that_comes_back_gets_all_of_it_changed(start_orthanc: StartOrthanc, kind: str) -> None:
    destination = start_orthanc(None, {}, aet="DEST")
    source = start_orthanc(SCRIPTS[kind], section(kind, destination_of(kind, destination), PREFIX))
    destination.stop()
    source.store(make_study(instances=4, **SMALL))
    source.wait_until(
        lambda: [row["Attempts"] > 0 for row in deliveries(source, kind)] == [True], what="try", timeout=30
    )
    source.kill()
    destination.start()
    source.start()
    wait_until_done(source, 4, kind)
    assert {str(image.PatientID) for image in images(destination).values()} == {"SITE-PATIENT"}


def test_after_a_kill_all_of_it_arrives_changed_and_in_as_many_associations_as_are_allowed(
    start_orthanc: StartOrthanc,
) -> None:
    """Beside a job of Orthanc's own for the same series, which a restart goes on with: it is not taken for ours."""
    with AwkwardNode("DEST", seconds_per_image=0.15) as node, AwkwardNode("OTHER", seconds_per_image=0.1) as other:
        nodes = {"DEST": node.as_modality(), "OTHER": other.as_modality()}
        source = start_orthanc(SCRIPTS["modality"], section("modality", nodes, PREFIX, MaxPerDestination=1))
        for patient in range(3):
            source.store(make_study(patient_id=f"P{patient}", instances=6, **SMALL))
        series = source.get("/series")
        source.post("/modalities/OTHER/store", {"Resources": series, "Synchronous": False})
        source.wait_until(lambda: len(node.received) >= 4, what="send some", timeout=30)
        source.kill()
        wait_until(lambda: node.at_once == 0)
        source.start()
        wait_until_done(source, 18)
        assert {image.PatientID for image in node.taken} == {"SITE-P0", "SITE-P1", "SITE-P2"}
        assert len({image.SOPInstanceUID for image in node.taken}) == 18
        assert len(node.received) <= 18 + 6  # at most what was sent of one study is sent again
        assert node.most_at_once == 1


def test_what_is_changed_and_what_is_not_share_the_associations_of_a_destination(start_orthanc: StartOrthanc) -> None:
    with AwkwardNode("DEST", seconds_per_image=0.1) as node:
        rules = [
            {"Name": "changed", "Query": {"PatientID": "C*"}, "Destinations": ["DEST"], "Modify": PREFIX},
            {"Name": "as it is", "Destinations": ["DEST"]},
        ]
        configuration = {"DicomModalities": {"DEST": node.as_modality()}, "ConcurrentJobs": 2}
        source = start_orthanc(SCRIPTS["modality"], {**configuration, "AutoForwardModality": {"Rules": rules}})
        source.post("/auto-forward-modality/destinations/DEST/pause")
        for number in range(6):
            source.store(make_study(patient_id=f"C{number}", instances=3, **SMALL))
            source.store(make_study(patient_id=f"P{number}", instances=3, **SMALL))
        source.wait_until(lambda: len(deliveries(source)) == 12, what="add all rows", timeout=30)
        source.post("/auto-forward-modality/destinations/DEST/resume")
        wait_until_done(source, 36)
        assert sorted({str(image.PatientID) for image in node.taken}) == [
            *(f"P{number}" for number in range(6)),
            *(f"SITE-C{number}" for number in range(6)),
        ]
        assert node.most_at_once == 2


def test_a_retry_begins_behind_what_was_acknowledged_and_what_a_node_has_is_delivered(
    start_orthanc: StartOrthanc,
) -> None:
    with AwkwardNode("DEST", duplicates_0111=True) as node:
        source = start_orthanc(SCRIPTS["modality"], section("modality", {"DEST": node.as_modality()}, PREFIX))
        study = make_study(instances=9, **SMALL)

        def breaks_off(_: Dataset) -> bool:
            node.breaks_off_after = 0 if len(node.taken) == 3 else None
            return False

        node.filters = breaks_off
        source.store(study)
        source.wait_until(lambda: len(deliveries(source)) >= 2, what="divide what has failed", timeout=30)
        node.breaks_off_after, node.filters = None, lambda _: False
        wait_until_done(source, 9)
        sent = [image for image, _ in node.received]
        assert len(sent) == len(set(sent)) == len(node.taken) == 9
        before = len(node.received)
        source.post("/auto-forward-modality/send", {"Resource": source.get("/studies")[0], "Rule": "changed"})
        source.wait_until(
            lambda: {row["State"] for row in deliveries(source)} == {"done"} and len(node.received) == before + 9,
            what="deliver what it has",
            timeout=30,
        )


def test_what_a_node_can_not_take_says_so_and_another_syntax_arrives(start_orthanc: StartOrthanc) -> None:
    with AwkwardNode("DEST", rejects_transfer_syntaxes=["ExplicitVRLittleEndian"]) as node:
        source = start_orthanc(SCRIPTS["modality"], section("modality", {"DEST": node.as_modality()}, PREFIX))
        source.store(make_study(instances=2, **SMALL))
        source.wait_until(
            lambda: [row["Error"] != "" for row in deliveries(source)] == [True], what="be refused", timeout=30
        )
        [row] = deliveries(source)
        assert "accepts no presentation context for CTImageStorage" in row["Error"]
        assert "Transcode" in row["Error"]
        assert (row["State"], row["Instances"]) == ("waiting", 2)
        source.stop()
        rule = source.configuration["AutoForwardModality"]["Rules"][0]
        rule["Modify"] = {**PREFIX, "Transcode": "ImplicitVRLittleEndian"}
        source.start()
        # What waits is sent as the rule was then.
        source.store(make_study(patient_id="NEW", instances=2, **SMALL))
        source.wait_until(lambda: len(node.taken) == 2, what="arrive", timeout=30)
        assert {str(image.PatientID) for image in node.taken} == {"SITE-NEW"}


@pytest.mark.parametrize("kind", ["modality", "peer"])
def test_an_image_that_can_not_be_changed_stays_and_holds_up_no_other(start_orthanc: StartOrthanc, kind: str) -> None:
    """One has nothing to make the new value of; of another Orthanc makes an empty value, since its character set has no 日."""

    def odd(dataset: Dataset) -> None:
        if dataset.InstanceNumber == 2:
            dataset.StudyID = ""
        if dataset.InstanceNumber == 3:
            dataset.SpecificCharacterSet = "ISO_IR 100"

    modify = {"Replace": {"PatientID": "SITE-{PatientID}", "StudyDescription": "{StudyID} 日本"}}
    destination = start_orthanc(None, {}, aet="DEST")
    source = start_orthanc(SCRIPTS[kind], section(kind, destination_of(kind, destination), modify))
    source.store(make_study(instances=4, change=odd, **SMALL))

    def settled() -> bool:
        return sorted((row["State"], row["Instances"]) for row in deliveries(source, kind)) == [
            ("done", 2),
            ("waiting", 2),
        ]

    source.wait_until(settled, what="send what can be changed", timeout=30)
    assert sorted(int(image.InstanceNumber) for image in images(destination).values()) == [1, 4]
    assert {str(image.StudyDescription) for image in images(destination).values()} == {"1 日本"}
    [row] = [row for row in deliveries(source, kind) if row["State"] == "waiting"]
    assert row["Error"] == (
        "it can't be changed on the way, and is not sent: the image has no StudyID, of which StudyDescription is to be made"
    )
    assert not source.get(f"/auto-forward-{kind}/destinations")["DEST"]["Away"]


def test_a_peer_that_drops_refuses_or_is_something_else_is_tried_again(start_orthanc: StartOrthanc) -> None:
    destination = start_orthanc(None, {}, aet="DEST")
    well = pass_on_to(destination.url)
    answer = HttpAnswer()

    def respond(request: HttpRequest) -> HttpAnswer:
        return answer if answer.body and request.path == "/instances" else well(request)

    with HttpNode(respond) as proxy:
        source = start_orthanc(SCRIPTS["peer"], section("peer", {"DEST": proxy.as_peer()}, PREFIX))
        answers = {
            "has not kept it (FilteredOut)": HttpAnswer(200, b'{"Status": "FilteredOut"}'),
            "does not answer as an Orthanc": HttpAnswer(200, b"<html>"),
            "answers 507 to POST /instances: no space": HttpAnswer(507, b'{"Details": "no space"}'),
            "redirects to": HttpAnswer(301, b"moved", {"Location": "https://pacs.example/instances"}),
        }
        source.post("/auto-forward-peer/destinations/DEST/pause")
        source.store(make_study(**SMALL))
        source.wait_until(lambda: deliveries(source, "peer"), what="add a row", timeout=30)
        source.post("/auto-forward-peer/destinations/DEST/resume")
        for reason, answer in answers.items():  # noqa: B007 - `respond` reads it
            source.wait_until(lambda: reason in deliveries(source, "peer")[0]["Error"], what=reason, timeout=30)  # noqa: B023
        assert destination.get("/instances") == []
        answer = HttpAnswer()
        wait_until_done(source, 1, "peer")
        assert {each.path for each in proxy.asked if each.method == "POST"} == {"/instances"}


def test_what_came_before_its_rule_matched_is_changed_as_that_rule_says(start_orthanc: StartOrthanc) -> None:
    """The CT came first, and no rule matched. With the MR two match: one for the CT, which it changes, one for the rest."""
    destination = start_orthanc(None, {}, aet="DEST")
    both = {"Query": {"ModalitiesInStudy": "MR"}, "Destinations": ["DEST"]}
    rules = [{"Name": "ct", **both, "SOPClasses": ["CTImageStorage"], "Modify": PREFIX}, {"Name": "as it is", **both}]
    configuration = {**section("modality", destination_of("modality", destination), None), "StableAge": 1}
    source = start_orthanc(SCRIPTS["modality"], {**configuration, "AutoForwardModality": {"Rules": rules}})
    study = {"StudyInstanceUID": "1.2.3", **SMALL}
    source.store(make_study(instances=2, **study))
    source.wait_until_stable()
    source.store(make_study(instances=1, modality="MR", SeriesInstanceUID="1.2.3.2", **study))
    wait_until_done(source, 3)
    found = sorted((image.Modality, image.PatientID) for image in images(destination).values())
    assert found == [("CT", "SITE-PATIENT")] * 2 + [("MR", "PATIENT")]
