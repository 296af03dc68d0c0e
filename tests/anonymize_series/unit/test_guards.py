# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series without a server: what still tells who the patient is never leaves."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study, orthanc_identifier
from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/anonymize-series"
SECRET = "a secret of more than thirty-two characters"  # noqa: S105
KEPT: frozenset[int] = frozenset()
NODE = {"Modality": "PACS", "DeleteCopy": True}


def original(**tags: Any) -> Dataset:
    values: dict[str, Any] = {
        "patient_id": "HOSP-4711",
        "PatientName": "Doe^Jane^Mary",
        "BurnedInAnnotation": "NO",
        **tags,
    }
    return pydicom.dcmread(io.BytesIO(make_study(**values)[0]))


@pytest.fixture
def script(source: Callable[[str], ModuleType]) -> Any:
    return source("anonymize_series.checks")


# The second look


def test_a_copy_without_anything_of_the_original_is_fine(script: Any) -> None:
    copy = Dataset()
    copy.PatientID, copy.Manufacturer, copy.SeriesDescription = "ANON-BCDF", "Generated", "Head"
    copy.private_block(0x29, "ACME", create=True).add_new(0x10, "OB", b"\x00\x01 nothing to see")
    assert script.what_remains(copy, original(), KEPT) is None


@pytest.mark.parametrize("vr", ["OB", "OW", "UN"])
@pytest.mark.parametrize("text", [b"HOSP-4711", b"hosp-4711", b"Doe^Jane^Mary", b"jane", b"19700101"])
def test_the_second_look_searches_the_bytes_of_private_and_unknown_elements(script: Any, vr: str, text: bytes) -> None:
    copy = Dataset()
    content = b"\x00\x17" + text + b"\xff" * (8 - len(text) % 2)
    copy.private_block(0x29, "ACME", create=True).add_new(0x10, vr, content)
    found = script.what_remains(copy, original(), KEPT)
    assert found is not None
    assert "of the original" in found
    assert text.decode() not in found


def test_the_second_look_searches_the_bytes_of_an_unknown_public_element_and_of_items(script: Any) -> None:
    unknown, nested, item = Dataset(), Dataset(), Dataset()
    unknown.add_new(0x00091002, "UN", b"xx HOSP-4711")
    item.add_new(0x00291010, "UN", b"HOSP-4711!")
    nested.add_new(0x00081140, "SQ", [item])
    assert script.what_remains(unknown, original(), KEPT)
    assert script.what_remains(nested, original(), KEPT)


@pytest.mark.parametrize("text", ["Müller", "MÜLLER", "jörg"])
@pytest.mark.parametrize("codec", ["latin-1", "utf-8"])
def test_the_second_look_reads_bytes_as_the_original_writes_its_texts(script: Any, text: str, codec: str) -> None:
    copy = Dataset()
    copy.private_block(0x29, "ACME", create=True).add_new(0x10, "UN", b"\x00\xe9 " + text.encode(codec) + b"\xff")
    before = original()
    before.SpecificCharacterSet, before.PatientName = "ISO_IR 100", "Müller^Jörg"
    found = script.what_remains(copy, before, KEPT)
    assert found is not None
    assert "holds the PatientName of the original" in found


def test_an_identifier_in_what_says_how_a_copy_was_made_is_chance_unless_the_original_said_it(script: Any) -> None:
    copy = Dataset()
    copy.DeidentificationMethod = ["Orthanc 1.10.1 - PS 3.15-2021b", "anonymize_series, DICOM PS3.15 2026c"]
    assert script.what_remains(copy, original(StudyID="3.15"), KEPT) is None
    copy.DeidentificationMethod = "by Doe^Jane^Mary"
    for before in ("by Doe^Jane^Mary", "another\\by Doe^Jane^Mary"):
        assert script.what_remains(copy, original(DeidentificationMethod=before), KEPT) is not None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"HOSP-4711!", "PatientID"),
        (b"\xffhosp-4711\xff", "PatientID"),
        (b"19700101", "PatientBirthDate"),
        (b"01.01.1970", "PatientBirthDate"),
        (b"Doe^Jane^Mary ", "PatientName"),
        (b"Jane", None),
        (b"1970", None),
    ],
)
def test_pixels_are_searched_for_what_is_not_there_by_chance(script: Any, text: bytes, what: str | None) -> None:
    copy = Dataset()
    copy.add_new(0x7FE00010, "OW", text)
    found = script.what_remains(copy, original(), KEPT)
    assert found == (what and f"PixelData holds the {what} of the original")
    assert script.what_remains(copy, original(), frozenset({0x7FE00010})) is None


def test_what_the_recipe_keeps_is_not_searched(script: Any) -> None:
    copy = Dataset()
    copy.InstitutionName = "General"
    assert (
        script.what_remains(copy, original(InstitutionName="General"), KEPT)
        == "InstitutionName has the value of the original"
    )
    assert script.what_remains(copy, original(InstitutionName="General"), frozenset({0x00080080})) is None


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("DeviceSerialNumber", "hosp-4711"),
        ("StudyComments", "of JANE"),
        ("PatientID", "HOSP-4711"),
    ],
)
def test_no_text_of_the_copy_holds_an_identifier_of_the_original(script: Any, keyword: str, text: str) -> None:
    copy = Dataset()
    setattr(copy, keyword, text)
    found = script.what_remains(copy, original(), KEPT)
    assert found is not None
    assert keyword in found


# Pixels


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
        ({"BurnedInAnnotation": "yes "}, "BurnedInAnnotation is YES"),
        ({"RecognizableVisualFeatures": "YES"}, "RecognizableVisualFeatures is YES"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "BurnedInAnnotation": ""}, "often show names, or faces"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "BurnedInAnnotation": ""}, "often show names, or faces"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4", "BurnedInAnnotation": ""}, "often show names, or faces"),
        ({}, None),
        ({"BurnedInAnnotation": ""}, None),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "BurnedInAnnotation": "NO"}, None),
    ],
)
def test_what_may_show_a_name_or_a_face_is_held_back(script: Any, tags: dict[str, str], why: str | None) -> None:
    found = script.why_held(original(**tags), script.Recipe())
    assert (found is None) if why is None else (why in found)
    assert script.why_held(original(**tags), script.Recipe(allow_burned_in=True)) is None


def test_what_is_no_image_is_held_back(script: Any) -> None:
    report = original()
    del report.PixelData
    assert script.why_held(report, script.Recipe()) == "it is no image, and may hold names as text"
    assert script.why_held(report, script.Recipe(allow_non_images=True)) is None


# From the archive to a destination


class Anonymizing:
    """A study `a1` with the instance `1`, and what Orthanc's anonymization makes of it."""

    def __init__(
        self, start: Callable[..., Script], rest: FakeOrthanc, change: Callable[[Dataset], Any] | None = None
    ) -> None:
        self.rest = rest
        self.original = original()
        rest.studies["a1"] = ["1"]
        files = {"1": self._file(self.original)}
        rest.answers["GET", "/instances/1/file"] = files["1"]
        made = original()
        made.PatientName = made.PatientID = "anonymized"
        made.PatientBirthDate = made.StudyDate = made.SeriesDate = made.ContentDate = ""
        made.StudyID = "x"
        if change:
            change(made)
        rest.answers["POST", "/instances/1/anonymize"] = self._file(made)
        rest.answers["POST", "/instances"] = {"ID": "c0"}
        rest.answers["DELETE", "/instances"] = {}
        recipes = {"there": NODE, "here": {}, "whole": {"Whole": True}}
        self.script = start("anonymize_series", {"AnonymizeSeries": {"Secret": SECRET, "Recipes": recipes}})

    @staticmethod
    def _file(dataset: Dataset) -> bytes:
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    def anonymize(self, recipe: str) -> Any:
        answer = self.script.post(f"{NAME}/a1", {"Recipe": recipe})
        assert answer.status == 200, answer.text
        return answer.json()["ID"]

    def work(self, number: int) -> Any:
        return self.script.get(f"{NAME}/jobs/{number}")

    def stored(self) -> list[Dataset]:
        return [pydicom.dcmread(io.BytesIO(content)) for content in self.rest.asked("POST", "/instances")]

    def deleted(self) -> list[str]:
        return [path for method, path, _ in self.rest.requests if method == "DELETE"]


def test_a_copy_gets_pseudonyms_and_uids_of_its_own(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = Anonymizing(start, rest)
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["State"] == "done")
    [copy] = made.stored()
    assert str(copy.PatientID).startswith("ANON-")
    assert copy.PatientID == copy.PatientName
    uids = {copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.SOPInstanceUID, copy.FrameOfReferenceUID}
    assert all(str(each).startswith("2.25.") for each in uids)
    assert len(uids) == 4
    identifiers = (copy.PatientID, copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.SOPInstanceUID)
    assert made.work(number)["Copies"] == [orthanc_identifier(*map(str, identifiers))]
    again = made.anonymize("here")
    eventually(lambda: made.work(again)["State"] == "done")
    assert made.work(again)["Copies"] == made.work(number)["Copies"]


def test_a_copy_that_still_tells_is_held_back_and_never_stored_or_sent(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn
) -> None:
    def tell(dataset: Dataset) -> None:
        dataset.private_block(0x29, "ACME", create=True).add_new(0x10, "UN", b"xx HOSP-4711")

    made = Anonymizing(start, rest, tell)
    number = made.anonymize("there")
    eventually(lambda: made.work(number)["State"] == "partly")
    assert (made.work(number)["HeldBack"], made.work(number)["Copies"]) == (1, [])
    assert made.stored() == []
    assert rest.asked("POST", "/modalities/PACS/store") == []
    [held] = made.script.get(f"{NAME}/held")["Items"]
    assert "of the original" in held["Reason"]
    assert "4711" not in str(orthanc_standin.logs)


@pytest.mark.parametrize("state", ["Success", "Failure"])
def test_a_copy_is_deleted_when_it_has_arrived_and_nothing_else_ever(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, state: str
) -> None:
    made = Anonymizing(start, rest)
    number = made.anonymize("there")
    eventually(lambda: rest.jobs)
    [copy] = made.work(number)["Copies"]
    assert made.deleted() == []
    rest.jobs["PACS-1"] |= {"State": state, "ErrorDescription": "away"}
    made.script.change("JOB_SUCCESS", "PACS-1")
    eventually(lambda: made.work(number)["State"] == ("done" if state == "Success" else "waiting"))
    assert made.deleted() == ([f"/instances/{copy}"] if state == "Success" else [])


def test_a_copy_that_comes_back_is_not_anonymized_once_more(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = Anonymizing(start, rest)
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["State"] == "done")
    rest.answers["GET", "/instances/1/file"] = rest.asked("POST", "/instances")[0]
    again = made.anonymize("here")
    eventually(lambda: made.work(again)["State"] == "done")
    assert made.work(again)["Copies"] == []
    assert len(made.stored()) == 1


def test_nobody_is_told_whose_a_copy_is_unless_that_is_configured(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn
) -> None:
    Anonymizing(start, rest)
    assert orthanc_standin.http("GET", f"{NAME}/register?patient=HOSP-4711").status == 403
    assert orthanc_standin.http("POST", f"{NAME}/a1/re-identify").status == 403


# Several recipes: their copies of one image have the same identifiers


def test_copies_of_another_recipe_are_not_replaced_while_they_are_sent(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = Anonymizing(start, rest)
    there = made.anonymize("there")
    eventually(lambda: rest.jobs)
    here = made.anonymize("here")
    eventually(lambda: "recipe there is sending its copies of the same images" in made.work(here)["Error"])
    assert made.work(here)["State"] == "waiting"
    assert len(made.stored()) == 1
    rest.jobs["PACS-1"]["State"] = "Success"
    made.script.change("JOB_SUCCESS", "PACS-1")
    eventually(lambda: made.work(there)["State"] == "done")
    clock.advance(60)
    made.script.change("JOB_SUCCESS", "whatever")
    eventually(lambda: made.work(here)["State"] == "done")
    assert len(made.stored()) == 2


@pytest.mark.parametrize("state", ["waiting", "dead"])
def test_a_recipe_whose_copies_were_replaced_makes_them_again_before_it_sends(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, state: str
) -> None:
    made = Anonymizing(start, rest)
    there = made.anonymize("there")
    eventually(lambda: rest.jobs)
    clock.advance(73 * 3600 if state == "dead" else 1)
    rest.jobs["PACS-1"] |= {"State": "Failure", "ErrorDescription": "away"}
    made.script.change("JOB_FAILURE", "PACS-1")
    eventually(lambda: made.work(there)["State"] == state)
    assert made.work(there)["Copies"]
    here = made.anonymize("here")
    eventually(lambda: made.work(here)["State"] == "done")
    assert made.work(there)["Copies"] is None
    assert made.script.post(f"{NAME}/jobs/{there}/retry").status == 200
    eventually(lambda: len(rest.asked("POST", "/modalities/PACS/store")) == 2)
    assert len(made.stored()) == 3


@pytest.mark.parametrize("same", [True, False])
def test_a_copy_that_is_here_already_is_replaced_unless_it_is_the_same(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, same: bool
) -> None:
    def store(path: str, body: bytes) -> Any:
        here = path in kept
        kept.setdefault(path, body if same else b"made by other settings")
        return {"ID": "c0", "Status": "AlreadyStored" if here else "Success"}

    kept: dict[str, bytes] = {}
    made = Anonymizing(start, rest)
    rest.answers["POST", "/instances"] = store
    first = made.anonymize("here")
    eventually(lambda: made.work(first)["State"] == "done")
    [copy] = made.work(first)["Copies"]
    rest.answers["GET", f"/instances/{copy}/file"] = kept["/instances"]
    rest.answers["DELETE", f"/instances/{copy}"] = {}
    again = made.anonymize("here")
    eventually(lambda: made.work(again)["State"] == "done")
    assert made.deleted() == ([] if same else [f"/instances/{copy}"])
    assert len(made.stored()) == (2 if same else 3)


def test_what_is_done_is_forgotten_after_its_days_while_it_runs(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    made = Anonymizing(start, rest)
    number = made.anonymize("here")
    eventually(lambda: made.work(number)["State"] == "done")
    clock.advance(29 * 86400)
    made.script.change("JOB_SUCCESS", "whatever")
    assert made.work(number)["State"] == "done"
    clock.advance(2 * 86400)
    made.script.change("JOB_SUCCESS", "whatever")
    eventually(lambda: made.script.get(f"{NAME}/jobs")["Total"] == 0)
    assert made.script.get(f"{NAME}/status")["Copies"] == 1  # the register keeps it
