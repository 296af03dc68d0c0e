# SPDX-License-Identifier: AGPL-3.0-or-later
"""The second look passes over what can't tell, goes on behind it, and finds names and dates down to the shortest."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study

SECRET = "a secret of more than thirty-two characters"  # noqa: S105
INSTITUTION, PIXEL_DATA = 0x00080080, 0x7FE00010
KEPT: frozenset[int] = frozenset()


def original(**tags: Any) -> Dataset:
    [made_file] = make_study(patient_id="HOSP-4711", PatientName="Doe^Jane^Mary", BurnedInAnnotation="NO")
    dataset = pydicom.dcmread(io.BytesIO(made_file))
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture(scope="module")
def anonymizer(source_for_module: Any) -> Any:
    """The module of a name."""
    return lambda name: source_for_module(f"anonymize_series.{name}")


@pytest.fixture(scope="module")
def checks(anonymizer: Any) -> Any:
    return anonymizer("checks")


def passed_over() -> Iterator[tuple[str, Dataset, Any]]:
    """Elements that the second look does not search as texts, in front of anything else."""
    for name, tag, vr, value in (
        ("a term", 0x00080060, "CS", "CT"),
        ("a number", 0x00080010, "IS", "5"),
        ("a UID", 0x00080018, "UI", "2.25.1"),
        ("a time", 0x00080032, "TM", "101010"),
        ("our method", 0x00120063, "LO", "ours"),
        ("a dummy", 0x00080020, "DA", "19000101"),
        ("pixels", 0x7FE00008, "OF", b"1234"),
    ):
        copy = Dataset()
        copy.add_new(tag, vr, value)
        yield name, copy, tag


@pytest.mark.parametrize("name", [name for name, *_ in passed_over()])
def test_what_can_not_tell_ends_the_look_at_nothing_else(checks: Any, name: str) -> None:
    [copy] = [copy for each, copy, _ in passed_over() if each == name]
    assert checks.what_remains(copy, original(), KEPT) is None
    if name == "pixels":
        copy.add_new(PIXEL_DATA, "OW", b"xxHOSP-4711xx ")
    else:
        copy.StudyComments = "see HOSP-4711"
    assert checks.what_remains(copy, original(), KEPT) is not None


def test_what_is_kept_ends_neither_the_look_at_the_copy_nor_that_at_the_original(checks: Any) -> None:
    copy = Dataset()
    copy.InstitutionName = "General"
    copy.StudyComments = "see HOSP-4711"
    assert checks.what_remains(copy, original(InstitutionName="General"), frozenset({INSTITUTION})) == (
        "StudyComments holds the PatientID of the original"
    )


def test_the_name_of_a_kept_name_is_not_looked_for_and_those_of_others_are(checks: Any) -> None:
    copy = Dataset()
    copy.StudyComments = "by Li"
    named = original(OperatorsName="Kim^Li", PatientName="Abcdef^Li")
    assert checks.what_remains(copy, named, KEPT) is not None
    assert checks.what_remains(copy, named, frozenset({0x00100010})) is None
    copy.StudyComments = "by Li Kim"
    assert checks.what_remains(copy, named, frozenset({0x00100010})) is not None


@pytest.mark.parametrize(
    ("text", "found"), [("see K7X-", True), ("see K7X", False), ("xK7X-x", True), ("see 1970", False)]
)
def test_an_identifier_of_four_characters_is_looked_for_everywhere_and_a_shorter_one_is_not(
    checks: Any, text: str, found: bool
) -> None:
    copy = Dataset()
    copy.StudyComments = text
    for identifier in ("K7X-", "K7X"):
        said = checks.what_remains(copy, original(PatientID=identifier), KEPT)
        assert (said is not None) is (found and identifier == "K7X-")


@pytest.mark.parametrize(("identifier", "found"), [("HOSP-471", True), ("HOSP-47", False)])
def test_an_identifier_of_eight_bytes_is_looked_for_in_pixels_and_a_shorter_one_is_not(
    checks: Any, identifier: str, found: bool
) -> None:
    copy = Dataset()
    copy.add_new(PIXEL_DATA, "OB", f"xx{identifier}xx ".encode())
    assert (checks.what_remains(copy, original(PatientID=identifier), KEPT) is not None) is found


def test_a_value_of_a_number_is_compared_whole_and_no_part_of_it(checks: Any) -> None:
    copy = Dataset()
    copy.add_new(0x00181411, "DS", "4711")
    assert checks.what_remains(copy, original(PatientID="4711"), KEPT) == (
        "ExposureIndex has the value of PatientID of the original"
    )
    assert checks.what_remains(copy, original(PatientID="47111"), KEPT) is None
    copy.add_new(0x00181411, "DS", "47111")
    assert checks.what_remains(copy, original(PatientID="4711"), KEPT) is None


def test_a_pseudonym_may_hold_a_part_of_something_and_not_the_whole(checks: Any) -> None:
    copy = Dataset()
    copy.PatientID = "ANON-JANE"
    assert checks.what_remains(copy, original(), KEPT) is None
    copy.PatientID = "JANE"
    assert checks.what_remains(copy, original(), KEPT) is not None


def test_a_uid_of_an_instance_may_be_nowhere_and_one_of_a_kind_may(checks: Any) -> None:
    before = original()
    copy = Dataset()
    copy.SOPClassUID = before.SOPClassUID
    assert checks.what_remains(copy, before, KEPT) is None
    copy.StudyComments = f"of {before.StudyInstanceUID}"
    assert checks.what_remains(copy, before, KEPT) is not None
    copy.StudyComments = ""
    copy.FrameOfReferenceUID = before.SeriesInstanceUID
    assert checks.what_remains(copy, before, KEPT) is not None


def test_the_day_of_a_date_with_a_time_is_found_as_people_write_it(checks: Any) -> None:
    copy = Dataset()
    for text in ("on 31.12.2001", "20011231", "Dec 31, 2001"):
        copy.StudyComments = text
        assert checks.what_remains(copy, original(AcquisitionDateTime="20011231235959.5"), KEPT) is not None
    copy.StudyComments = "on 31.12.2002"
    assert checks.what_remains(copy, original(AcquisitionDateTime="20011231235959.5"), KEPT) is None


def test_comments_are_compared_with_those_of_the_same_tag_alone(checks: Any) -> None:
    copy = Dataset()
    copy.StudyComments = "left"
    assert (
        checks.what_remains(copy, original(StudyComments="left "), KEPT)
        == "StudyComments has the value of the original"
    )
    assert checks.what_remains(copy, original(ImageComments="left"), KEPT) is None


def test_a_dummy_or_an_empty_value_is_that_of_nobody(checks: Any) -> None:
    copy = Dataset()
    copy.StudyComments = ""
    assert checks.what_remains(copy, original(StudyComments="", PatientID=""), KEPT) is None


# Whether it is an image


def test_an_image_has_rows_and_pixels_of_one_of_three_kinds(checks: Any) -> None:
    def held(*tags: tuple[int, str, Any]) -> Any:
        dataset = Dataset()
        for tag in tags:
            dataset.add_new(*tag)
        return checks.why_held(dataset, checks.Recipe())

    rows = (0x00280010, "US", 4)
    for tag, vr in ((0x7FE00008, "OF"), (0x7FE00009, "OD"), (0x7FE00010, "OW")):
        assert held(rows, (tag, vr, bytes(8))) is None
        assert held((tag, vr, bytes(8))) is not None
    assert held(rows) is not None
    assert held(rows, (0x7FE00001, "OV", bytes(8))) is not None


@pytest.mark.parametrize("burned", ["YES", "", None, "NO"])
def test_what_is_no_image_is_not_asked_what_it_shows(checks: Any, burned: str | None) -> None:
    report = Dataset()
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    if burned is not None:
        report.BurnedInAnnotation = burned
    assert checks.why_held(report, checks.Recipe(allow_non_images=True)) is None


# Names and dates


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Longname^Other^Bo", "by BO", True),  # the middle name
        ("Longname^Other^^Bo", "by BO", False),  # a prefix
        ("X^Longname", "X ray", False),  # one letter is a word like others
        ("Li^Kim", "Li", True),
        ("Wang^XiaoDong=王^东", "病人王东", True),
        ("Wang^XiaoDong=王", "王子", False),
        ("Abcd^Efgh", "abcd", True),
    ],
)
def test_of_a_name_what_is_not_there_by_chance_is_found(checks: Any, name: str, text: str, found: bool) -> None:
    copy = Dataset()
    copy.SpecificCharacterSet = "ISO_IR 192"
    copy.SeriesDescription = text
    before = original(SpecificCharacterSet="ISO_IR 192", PatientName=name)
    assert (checks.what_remains(copy, before, KEPT) is not None) is found


def test_a_name_is_its_parts_and_itself(anonymizer: Any) -> None:
    parts = anonymizer("written_forms").parts_of_name("Smith-Jones^Al")
    assert {*parts} == {"Smith-Jones^Al", "Smith-Jones", "Al", "Smith", "Jones"}


def test_a_date_is_written_in_these_ways(anonymizer: Any) -> None:
    forms = anonymizer("written_forms").forms_of_date
    assert {*forms("20010203")} == {
        *("2001-02-03", "2001.02.03", "2001/02/03", "03-02-2001", "03.02.2001", "03/02/2001"),
        *("02-03-2001", "02.03.2001", "02/03/2001", "03 feb 2001", "03-feb-2001", "feb 03, 2001", "feb 03 2001"),
        *(
            "03. feb 2001",
            "2001-2-3",
            "2001.2.3",
            "2001/2/3",
            "3-2-2001",
            "3.2.2001",
            "3/2/2001",
            "2-3-2001",
            "2.3.2001",
        ),
        *("2/3/2001", "3 feb 2001", "3-feb-2001", "feb 3, 2001", "feb 3 2001", "3. feb 2001"),
    }
    assert "31. dec 2001" in forms("20011231")
    assert [[*forms(text)] for text in ("2001", "20011301", "20010031", "2001-2-3", "")] == [[]] * 5
    assert {*forms("20010203101010")} == {*forms("20010203")}


# A copy


def made(anonymizer: Any, before: Dataset, **recipe: Any) -> Any:
    copies = anonymizer("copies")
    buffer = io.BytesIO()
    before.save_as(buffer, enforce_file_format=True)
    return copies.de_identified(buffer.getvalue(), before, copies.Recipe(**recipe), copies.Pseudonyms(SECRET, "A-"))


def test_overlays_go_and_what_is_beside_them_stays(anonymizer: Any) -> None:
    """An overlay may show a name."""
    before = original()
    for group in (0x6000, 0x6002, 0x60FE):
        before.add_new(group << 16 | 0x0010, "US", 8)
        before.add_new(group << 16 | 0x3000, "OW", bytes(8))
    copy = pydicom.dcmread(io.BytesIO(made(anonymizer, before).content))
    assert [element.tag for element in copy if element.tag.group & 0xFF00 == 0x6000] == []
    assert copy.PixelData == before.PixelData
    assert copy.Rows == before.Rows


def test_a_copy_has_new_uids_one_patient_and_the_identifier_that_follows_from_them(anonymizer: Any) -> None:
    before = original()
    found = made(anonymizer, before)
    copy = pydicom.dcmread(io.BytesIO(found.content))
    assert copy.PatientID == copy.PatientName == found.patient
    assert found.patient.startswith("A-")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert found.uids[str(before[keyword].value)] == str(copy[keyword].value) != str(before[keyword].value)
    assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID
    identifiers = (found.patient, copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.SOPInstanceUID)
    assert found.instance == anonymizer("copies").orthanc_identifier(*map(str, identifiers))
    assert made(anonymizer, original(StudyComments="x")).patient == found.patient


def test_a_copy_that_still_tells_is_a_reason_and_no_copy(anonymizer: Any) -> None:
    before = original()
    before.private_block(0x29, "ACME", create=True).add_new(0x10, "UN", b"xx HOSP-4711")
    said = made(anonymizer, before)
    assert isinstance(said, str)
    assert said.endswith("holds the PatientID of the original")
