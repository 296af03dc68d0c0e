# SPDX-License-Identifier: AGPL-3.0-or-later
"""PS3.15 Table E.1-1 without a server: what Orthanc's anonymization leaves, and what it removes although an IOD requires it."""

from __future__ import annotations

import copy as copying
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study, uid
from tests.anonymize_series.profile_image import DATE, image_with_all, read, wrong_with

SECRET = "a secret of more than thirty-two characters"  # noqa: S105
STORAGE = "1.2.840.10008.5.1.4.1.1."
CT, PET, DIGITAL_X_RAY, ENHANCED_CT, US, RT_PLAN = (
    STORAGE + each for each in ("2", "128", "1.1", "2.1", "6.1", "481.5")
)
EMPTY = "empty"


@pytest.fixture
def profile(source: Callable[[str], ModuleType]) -> Any:
    return source("anonymize_series.basic_profile")


@pytest.fixture
def copies(source: Callable[[str], ModuleType]) -> Any:
    return source("anonymize_series.copies")


def original(sop_class: str = CT, **tags: Any) -> Dataset:
    dataset = pydicom.dcmread(io.BytesIO(make_study(**tags)[0]))
    dataset.SOPClassUID = sop_class
    return dataset


def written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_the_table_is_whole(profile: Any) -> None:
    """As many attributes as the edition has, besides groups 50xx and 60xx and the private ones; some whose action is known."""
    assert len(profile.ACTIONS) == 652
    assert set(profile.ACTIONS.values()) == {"D", "Z", "X", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*"}
    known = {0x00100030: "Z", 0x00101010: "X", 0x00080080: "X/Z/D", 0x0008103E: "X", 0x00200052: "U", 0x00080023: "Z/D"}
    assert {tag: profile.action_of(tag) for tag in known} == known
    assert [profile.action_of(tag) for tag in (0x50103000, 0x60043000, 0x60040010, 0x00280010)] == [
        "X",
        "X",
        None,
        None,
    ]


@pytest.mark.parametrize("sop_class", [CT, PET, ENHANCED_CT])
def test_the_script_does_all_of_the_profile_if_orthanc_does_nothing(profile: Any, copies: Any, sop_class: str) -> None:
    before = read(image_with_all(profile.ACTIONS, SOPClassUID=sop_class))
    made = copies.de_identified(written(before), before, copies.Recipe(), copies.Pseudonyms(SECRET, ""))
    copy = read(made.content)
    assert wrong_with(copy, before, profile.ACTIONS) == []
    assert DATE not in str(copy)


@pytest.mark.parametrize(
    ("sop_class", "keyword", "expected"),
    [
        (CT, "SeriesDate", None),
        (PET, "SeriesDate", "19000101"),
        (CT, "AcquisitionDate", None),
        (PET, "AcquisitionDate", EMPTY),
        (CT, "ContentDate", EMPTY),
        (ENHANCED_CT, "ContentDate", "19000101"),
        (ENHANCED_CT, "DeviceSerialNumber", "-"),
        (CT, "DeviceSerialNumber", None),
        (US, "AcquisitionDateTime", "19000101000000"),
        (RT_PLAN, "OperatorsName", EMPTY),
        (CT, "PatientSexNeutered", EMPTY),
        ("1.2.3.4", "OperatorsName", "-"),
    ],
)
@pytest.mark.parametrize("removed", [True, False])
def test_what_an_iod_requires_is_there_and_what_it_does_not_is_removed(
    profile: Any, sop_class: str, keyword: str, expected: str | None, removed: bool
) -> None:
    before = original(sop_class)
    setattr(before, keyword, {"Date": DATE}.get(keyword[-4:], f"{DATE}1200" if keyword.endswith("DateTime") else "X"))
    copy = copying.deepcopy(before)
    if removed:  # as Orthanc does
        delattr(copy, keyword)
    profile.apply_profile(copy, before, profile.Recipe())
    element = copy.get(pydicom.datadict.tag_for_keyword(keyword))
    found = None if element is None else EMPTY if element.is_empty else str(element.value)
    assert found == expected


def test_a_sequence_that_is_required_refers_to_other_images_and_tells_nothing(profile: Any, copies: Any) -> None:
    before, item = original(DIGITAL_X_RAY), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.3", uid("step")
    item.add_new(0x00080054, "AE", "ROOM7")
    before.ReferencedPerformedProcedureStepSequence = [item, copying.deepcopy(item)]
    made = copying.deepcopy(before)
    del made.ReferencedPerformedProcedureStepSequence
    made = copies.de_identified(written(made), before, copies.Recipe(), copies.Pseudonyms(SECRET, ""))
    [step] = read(made.content).ReferencedPerformedProcedureStepSequence
    assert step.ReferencedSOPClassUID == item.ReferencedSOPClassUID
    assert step.ReferencedSOPInstanceUID == made.uids[uid("step")] != uid("step")
    assert "RetrieveAETitle" not in step


def test_what_was_empty_stays_empty_and_what_was_not_there_does_not_come(profile: Any) -> None:
    before = original(PET, SeriesDate="")
    copy = copying.deepcopy(before)
    profile.apply_profile(copy, before, profile.Recipe())
    assert copy["SeriesDate"].is_empty
    assert "AcquisitionDateTime" not in copy


def test_what_a_recipe_keeps_stays_what_it_replaces_stays_once_what_it_removes_does_not_return(profile: Any) -> None:
    before, item = original(PET, InstitutionName="General", StationName="CT7", PatientAge="042Y"), Dataset()
    item.InstitutionName, item.PatientAge = "General", "042Y"
    before.AnatomicRegionSequence = [item]
    copy = copying.deepcopy(before)
    copy.InstitutionName = "Somewhere"
    del copy.SeriesDate
    recipe = profile.Recipe(keep=("PatientAge",), replace={"InstitutionName": "Somewhere"}, remove=("SeriesDate",))
    profile.apply_profile(copy, before, recipe)
    [inner] = copy.AnatomicRegionSequence
    assert (copy.PatientAge, inner.PatientAge) == ("042Y", "042Y")
    assert (copy.InstitutionName, inner.InstitutionName) == ("Somewhere", "-")
    assert "SeriesDate" not in copy
    assert "StationName" not in copy


@pytest.mark.parametrize("tags", [{"patient_id": "1900"}, {"PatientBirthDate": "19000101"}, {"StudyID": "000000"}])
def test_a_dummy_holds_nothing_back(profile: Any, copies: Any, tags: dict[str, str]) -> None:
    before = original(PET, **tags)
    assert isinstance(
        copies.de_identified(written(before), before, copies.Recipe(), copies.Pseudonyms(SECRET, "")), copies.Copy
    )


@pytest.mark.parametrize("method", [None, "Orthanc 1.10.1", ["one", "two"]])
def test_the_copy_says_by_which_edition_it_was_made(profile: Any, method: Any) -> None:
    before = original()
    copy = copying.deepcopy(before)
    if method:
        copy.DeidentificationMethod = method
    profile.apply_profile(copy, before, profile.Recipe())
    found = copy["DeidentificationMethod"].value
    last = found if isinstance(found, str) else found[-1]
    assert last == "anonymize_series, DICOM PS3.15 2026c Table E.1-1"
    assert len(last) <= 64
    assert 1 + len([method] if isinstance(method, str) else method or []) == copy["DeidentificationMethod"].VM
