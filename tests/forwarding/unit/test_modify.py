# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/image_changes.py and changed.py, in the script for DICOM nodes: whatever fails, no image leaves as it is here."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from testing.dicom import make_study
from testing.standin import StandIn
from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, STUDY, Forwarding

VRS = {"AE": 1, "AS": 2, "CS": 4, "DA": 5, "DS": 6, "DT": 7, "IS": 10, "LO": 11, "LT": 12, "PN": 16, "SH": 17, "ST": 21}
VRS |= {"TM": 22, "UT": 27, "UI": 23, "SQ": 19, "US": 26}
[ORIGINAL] = make_study(patient_id="P", instances=1, rows=4, columns=4)
MODIFY = {"Replace": {"PatientID": "SITE-{PatientID}"}, "Remove": ["StudyID"]}
STRAIGHT = "/modalities/PACS/store-straight"


def look_up(name: str) -> dict[str, int]:
    """As Orthanc's dictionary."""
    tag = tag_for_keyword(name) if name.isidentifier() and not name.isdigit() else int(name.replace(",", ""), 16)
    if tag is None or (tag >> 16) % 2:
        raise TypeError(f"Unknown DICOM tag: {name}")
    return {"Group": tag >> 16, "Element": tag & 0xFFFF, "ValueRepresentation": VRS[dictionary_VR(tag)]}


def tags_of(content: bytes) -> dict[str, Any]:
    dataset = pydicom.dcmread(io.BytesIO(content))
    return {f"{one.tag.group:04x},{one.tag.element:04x}": str(one.value) for one in dataset if one.VR != "OW"}


def changed_by(change: Callable[[Any], object], content: bytes = ORIGINAL) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    change(dataset)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def as_asked(dataset: Any) -> None:
    dataset.PatientID = "SITE-P"
    del dataset.StudyID


RIGHT = changed_by(as_asked)


class Changing:
    """The script with one rule that changes what goes to PACS, and one image."""

    def __init__(self, forwarding: Forwarding) -> None:
        self.forwarding, self.rest = forwarding, forwarding.rest
        forwarding.standin.returns["LookupDictionary"] = look_up
        for instance in ("i1", "i2", "i3"):
            self.rest.answers["GET", f"/instances/{instance}/tags?short"] = tags_of(ORIGINAL)
            self.rest.answers["POST", f"/instances/{instance}/modify"] = RIGHT
        self.rest.answers["POST", STRAIGHT] = {}

    def start(self, modify: dict[str, Any] | None = None, **section: Any) -> None:
        rule = {"Name": "changed", "Destinations": ["PACS"], "Modify": modify or MODIFY}
        self.forwarding.start(Rules=[rule], **section)
        self.forwarding.turn()

    def straight(self) -> list[bytes]:
        return self.rest.asked("POST", STRAIGHT)

    def settle(self, *states: str) -> None:
        def settled() -> bool:
            self.forwarding.turn(0)
            return sorted(self.forwarding.states()) == sorted(states)

        eventually(settled)


@pytest.fixture
def changing(forwarding: Forwarding) -> Changing:
    return Changing(forwarding)


def test_an_image_is_changed_by_orthanc_with_its_uids_and_sent_alone(changing: Changing) -> None:
    changing.start()
    changing.forwarding.receive("a1", "i1")
    changing.settle("done")
    [asked] = changing.rest.asked("POST", "/instances/i1/modify")
    assert asked == {
        "Replace": {"0010,0020": "SITE-P"},
        "Remove": ["0020,0010"],
        "Keep": ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"],
        "Force": True,
    }
    assert changing.straight() == [RIGHT]
    assert changing.forwarding.sent() == []


FAULTS: dict[str, bytes] = {
    "no DICOM": b"<html>" * 100,
    "nothing": b"",
    "as it is": ORIGINAL,
    "cut": RIGHT[:-1],
    "cut in its head": RIGHT[:300],
    "cut in its meta information": RIGHT[:140],
    "another patient": changed_by(lambda one: setattr(one, "PatientID", "SITE-Q"), RIGHT),
    "the patient as a part": changed_by(lambda one: setattr(one, "PatientID", "SITE-PP"), RIGHT),
    "no patient": changed_by(lambda one: delattr(one, "PatientID"), RIGHT),
    "not removed": changed_by(lambda one: setattr(one, "StudyID", ""), RIGHT),
    "another image": changed_by(lambda one: setattr(one, "SOPInstanceUID", "1.2"), RIGHT),
    "another series": changed_by(lambda one: setattr(one, "SeriesInstanceUID", "1.2"), RIGHT),
    "another study": changed_by(lambda one: setattr(one, "StudyInstanceUID", "1.2"), RIGHT),
}


@pytest.mark.parametrize("fault", [*FAULTS, 400, 404, 500, 503])
def test_what_is_not_what_was_asked_for_is_not_sent(changing: Changing, fault: str | int) -> None:
    wrong = changing.rest.error(fault) if isinstance(fault, int) else FAULTS[fault]
    changing.rest.answers["POST", "/instances/i2/modify"] = wrong
    changing.start()
    changing.forwarding.receive("a1", "i1", "i2", "i3")
    changing.settle("done", "waiting")
    assert changing.straight() == [RIGHT, RIGHT]
    assert changing.forwarding.sent() == []
    [row] = changing.forwarding.deliveries("?state=waiting")
    assert row["Error"].startswith("it can't be changed on the way, and is not sent: ")
    assert (row["Level"], row["Resource"], row["Instances"]) == ("Instance", "i2", 1)
    assert not changing.forwarding.script.get(f"{NAME}/destinations")["PACS"]["Away"]
    changing.rest.answers["POST", "/instances/i2/modify"] = RIGHT
    changing.forwarding.turn(60)
    changing.settle("done", "done")
    assert changing.straight() == [RIGHT] * 3


def test_another_transfer_syntax_than_was_asked_for_is_not_sent(changing: Changing) -> None:
    changing.start({**MODIFY, "Transcode": "ImplicitVRLittleEndian"})
    changing.forwarding.receive("a1", "i1")
    changing.settle("waiting")
    assert changing.straight() == []
    [row] = changing.forwarding.deliveries()
    assert "has made 1.2.840.10008.1.2.1 of it instead of 1.2.840.10008.1.2" in row["Error"]


@pytest.mark.parametrize("value", ["", " ", None, "x" * 60])
def test_a_new_value_that_has_nothing_in_it_or_is_too_long_is_not_made(changing: Changing, value: str | None) -> None:
    changing.rest.answers["GET", "/instances/i1/tags?short"] = {**tags_of(ORIGINAL), "0010,0020": value}
    changing.start()
    changing.forwarding.receive("a1", "i1")
    changing.settle("waiting")
    assert changing.rest.asked("POST", "/instances/i1/modify") == []
    assert changing.straight() == []


def test_what_was_deleted_meanwhile_is_left_out_and_counted(changing: Changing) -> None:
    def delete(_path: str, _body: Any) -> Any:
        changing.rest.studies["a1"] = ["i1", "i3"]
        return changing.rest.error(404)

    changing.rest.answers["GET", "/instances/i2/tags?short"] = delete
    changing.start()
    changing.forwarding.receive("a1", "i1", "i2", "i3")
    changing.settle("done")
    assert changing.straight() == [RIGHT, RIGHT]
    assert changing.forwarding.script.get(f"{NAME}/status")["InstancesGone"] == 1


def test_after_a_restart_no_job_of_the_same_images_is_taken_for_it(changing: Changing) -> None:
    """The first attempt never ends, as after a kill. Meanwhile a job of somebody else sends the same image as it is."""
    hangs, begun = threading.Event(), threading.Event()

    def hang(_path: str, _body: Any) -> Any:
        begun.set()
        hangs.wait()
        return changing.rest.error(0)

    changing.rest.answers["POST", STRAIGHT] = hang
    changing.start()
    changing.forwarding.receive("a1", "i1")
    eventually(begun.is_set)
    content = {"RemoteAet": "PACS", "ParentResources": ["i1"], "InstancesCount": 1}
    changing.rest.jobs["x"] = {"ID": "x", "Type": "DicomModalityStore", "State": "Running", "Content": content}
    changing.rest.answers["POST", STRAIGHT] = {}
    changing.start()
    changing.settle("done")
    hangs.set()
    assert changing.straight() == [RIGHT, RIGHT]
    assert [row["Job"] for row in changing.forwarding.deliveries()] == [None]


def test_what_waits_is_changed_as_its_rule_said_when_it_came(changing: Changing) -> None:
    changing.start()
    changing.forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    changing.forwarding.receive("a1", "i1")
    changing.start({"Replace": {"PatientID": "OTHER"}})
    changing.rest.answers["POST", "/instances/i2/modify"] = changed_by(lambda one: setattr(one, "PatientID", "OTHER"))
    changing.forwarding.receive("a1", "i2")
    assert len(changing.forwarding.deliveries()) == 2
    changing.forwarding.script.post(f"{NAME}/destinations/PACS/resume")
    changing.settle("done", "done")
    asked = [changing.rest.asked("POST", f"/instances/{one}/modify")[0]["Replace"] for one in ("i1", "i2")]
    assert asked == [{"0010,0020": "SITE-P"}, {"0010,0020": "OTHER"}]


def test_a_long_row_gives_way_and_goes_on_behind_what_was_sent(changing: Changing) -> None:
    changed = changing.forwarding.rest
    names = [f"j{number}" for number in range(120)]
    for name in names:
        changed.answers["GET", f"/instances/{name}/tags?short"] = tags_of(ORIGINAL)
        changed.answers["POST", f"/instances/{name}/modify"] = RIGHT
    changing.start()
    changing.forwarding.receive("a1", *names)
    changing.settle("done", "done", "done")
    assert sorted(row["Instances"] for row in changing.forwarding.deliveries()) == [20, 50, 50]
    assert len(changing.straight()) == 120


def test_nothing_goes_as_it_is_because_a_person_has_forgotten_the_rule(changing: Changing) -> None:
    changing.start()
    changing.rest.studies[STUDY] = ["i1"]
    post = changing.forwarding.script.post
    for body in ({}, {"Rule": "nobody"}):
        answer = post(f"{NAME}/send", {"Resource": STUDY, "Destinations": ["PACS"], **body})
        assert (answer.status, "Rule is" in answer.json()["Message"]) == (400, True)
    assert post(f"{NAME}/send", {"Resource": STUDY, "Destinations": ["VNA"]}).status == 202
    assert post(f"{NAME}/send", {"Resource": STUDY, "Destinations": ["PACS"], "Rule": "changed"}).status == 202
    changing.settle("done", "sending")
    assert changing.forwarding.sent() == []
    assert changing.straight() == [RIGHT]


# The configuration

WRONG: list[tuple[Any, str]] = [
    ({}, "at least one of"),
    ({"Replace": {}}, "at least one of"),
    ({"Replace": {"NoSuchTag": "x"}}, "Orthanc knows"),
    ({"Remove": ["NoSuchTag"]}, "Orthanc knows"),
    ({"Remove": []}, "at least one entry"),
    ({"Remove": ["0009,1001"]}, "Orthanc knows"),
    ({"Remove": ["PatientID"]}, "neither identify"),
    ({"Remove": ["StudyInstanceUID"]}, "neither identify"),
    ({"Replace": {"SOPInstanceUID": "1.2"}}, "neither identify"),
    ({"Replace": {"0020,000d": "1.2"}}, "neither identify"),
    ({"Replace": {"SpecificCharacterSet": "ISO_IR 100"}}, "neither identify"),
    ({"Replace": {"TransferSyntaxUID": "1.2"}}, "neither identify"),
    ({"Replace": {"Rows": "5"}}, "holds no text"),
    ({"Replace": {"RequestAttributesSequence": "5"}}, "holds no text"),
    ({"Replace": {"PatientID": ""}}, "environment variable"),
    ({"Replace": {"PatientID": 5}}, "a text"),
    ({"Replace": {"PatientID": "a\nb"}}, "a text of one line"),
    ({"Replace": {"PatientID": "data:application/octet-stream;base64,QQ=="}}, "a text of one line"),
    ({"Replace": {"PatientID": "SITE-{PatientID"}}, "a brace that means itself"),
    ({"Replace": {"PatientID": "SITE-{}"}}, "in braces"),
    ({"Replace": {"PatientID": "SITE-{Nobody}"}}, "in braces"),
    ({"Replace": {"PatientID": "SITE-{Rows}"}}, "in braces"),
    ({"Replace": {"PatientID": "{PatientID!r}"}}, "in braces"),
    ({"Replace": {"PatientID": "x" * 65}}, "at most 64 characters"),
    ({"Replace": {"PatientID": "a", "0010,0020": "b"}}, "each tag once"),
    ({"Replace": {"StudyID": "a"}, "Remove": ["StudyID"]}, "each tag once"),
    ({"Transcode": "JPEGBaseline8Bit"}, "ImplicitVRLittleEndian"),
    ({"Transcode": "1.2.840.10008.1.2.4.80"}, "ImplicitVRLittleEndian"),
    ({"Transcode": ""}, "environment variable"),
    ({"Keep": ["SOPInstanceUID"]}, "not a known key"),
]


def error_of(start: ModuleType, standin: StandIn, section: dict[str, Any], name: str) -> str:
    standin.logs.clear()
    standin.registered.clear()
    standin.returns |= {"LookupDictionary": look_up, "CheckVersionAdvanced": 0}
    standin.configuration = {"".join(map(str.capitalize, name.split("_"))): section}
    start.register()
    [line] = [text for level, text in standin.logs if level == "error"]
    return line


@pytest.mark.parametrize(("modify", "allowed"), WRONG)
def test_a_change_that_can_not_be_is_one_line(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, modify: Any, allowed: str
) -> None:
    script = source("auto_forward_modality")
    line = error_of(script, orthanc_standin, {"Rules": [{"Modify": modify}]}, "auto_forward_modality")
    assert line.startswith("AutoForwardModality.Rules[0].Modify")
    assert allowed in line


@pytest.mark.parametrize(
    ("name", "section", "allowed"),
    [
        ("auto_forward_dicomweb", {}, "on the way to DICOMweb servers nothing can be changed"),
        ("auto_forward_modality", {"DeleteAfterForward": True}, "allowed with DeleteAfterForward: null"),
        ("auto_forward_peer", {"DeleteAfterForward": True}, "allowed with DeleteAfterForward: null"),
        ("auto_forward_modality", {"DestinationOptions": {"A": {"Options": {"Timeout": 5}}}}, "other destinations than A"),
        (
            "auto_forward_peer",
            {"Destinations": ["B"], "Alternates": {"B": ["A"]}, "DestinationOptions": {"A": {"Options": {"Compress": True}}}},
            "other destinations than A",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_together_is_one_line(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, name: str, section: dict[str, Any], allowed: str
) -> None:
    line = error_of(source(name), orthanc_standin, {**section, "Rules": [{"Modify": MODIFY}]}, name)
    assert f".Rules[0].Modify: found an object, allowed{'' if 'with' in allowed else ': '}" in line
    assert allowed in line
