# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series.py: what its copies tell of patients, looked at by pydicom."""

from __future__ import annotations

import contextlib
import io
import re
import sqlite3
import warnings
from types import ModuleType
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.anonymize_series.helpers import HIDDEN, SCRIPT, anonymize, ended, has_same_pixels, read, section, told_again


def load() -> ModuleType:
    standin = StandIn("7.1", section())
    with standin.installed():
        return standin.load(SCRIPT)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load()


def register_of(server: OrthancServer, sql: str) -> list[tuple[str, ...]]:
    path = f"file:{server.configuration['IndexDirectory']}/anonymize_series.sqlite?mode=ro"
    with contextlib.closing(sqlite3.connect(path, uri=True)) as register:
        return register.execute(sql).fetchall()


def test_no_copy_of_pydicoms_files_tells_who_the_patient_is(archive: OrthancServer) -> None:
    originals = archive.get("/instances")
    studies = archive.get("/studies")
    assert len(originals) > 80
    work = [archive.post(f"/anonymize-series/{study}", {"Recipe": "open"})["ID"] for study in studies]
    for each in work:
        assert ended(archive, each)["State"] in ("done", "partly"), archive.get(f"/anonymize-series/jobs/{each}")
    rows = register_of(archive, "SELECT instance, original FROM copies WHERE recipe='open'")
    held = {each["Instance"]: each["Reason"] for each in archive.get("/anonymize-series/held", limit=1000)["Items"]}
    assert {original for _, original in rows} | set(held) == set(originals)
    assert set(archive.get("/instances")) == set(originals) | {copy for copy, _ in rows}
    assert len(held) < 6, held
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for instance, original in rows:
            copy = read(archive, instance)
            before = read(archive, original)
            assert told_again(before, copy) == [], original
            assert copy.PatientIdentityRemoved == "YES"
            # Of two images with the same UIDs (rtdose….dcm: Orthanc sees some where the VR is UN) the first is there.
            if "PixelData" in before and [each for each, _ in rows].count(instance) == 1:
                assert has_same_pixels(archive, instance, original), original
                assert copy.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID


def test_images_that_may_show_a_name_and_what_is_no_image_are_held_back_with_a_reason(archive: OrthancServer) -> None:
    kinds = {
        "BURNED": ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
        "FACE": ({"RecognizableVisualFeatures": "YES"}, "RecognizableVisualFeatures is YES"),
        "SECONDARY": ({"modality": "OT"}, "does not say NO"),
        "ULTRASOUND": ({"modality": "US"}, "does not say NO"),
        "CLEAN": ({"modality": "OT", "BurnedInAnnotation": "NO"}, None),
        "PLAIN": ({}, None),
    }
    for patient, (tags, reason) in kinds.items():
        stored = archive.store(make_study(patient_id=patient, **tags))[0]  # type: ignore[arg-type]
        done = anonymize(archive, stored["ParentSeries"], "strict")
        assert done["HeldBack"] == (reason is not None)
        assert len(done["Copies"]) == (reason is None)
        held = [each for each in held_back(archive) if each["Instance"] == stored["ID"]]
        assert [reason in each["Reason"] for each in held] == ([True] if reason else []), patient
    report = next(path for path in pydicom_files() if path.name == "test-SR.dcm")
    study = archive.store(report)[0]["ParentStudy"]
    assert anonymize(archive, study, "strict")["Copies"] == []
    assert any("it is no image" in each["Reason"] for each in held_back(archive))


def held_back(server: OrthancServer) -> list[dict[str, Any]]:
    found, since = [], 0
    while since is not None:
        page = server.get("/anonymize-series/held", since=since)
        found += page["Items"]
        since = page["Next"]
    return found


def tell_tales(dataset: Dataset) -> None:
    """Names and identifiers where a profile does not look for them."""
    item = Dataset()
    item.PersonName, item.PatientID, item.FrameOfReferenceUID = "Doe^Jane", "HOSP-4711", dataset.FrameOfReferenceUID
    dataset.ReferencedStudySequence = [item]
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dataset.ReferencedImageSequence = [reference]
    dataset.private_block(0x29, "ACME", create=True).add_new(0x10, "LO", "Jane Doe")
    dataset.add_new(0x60003000, "OW", b"\0" * 512)


def test_series_of_one_patient_that_come_apart_stay_together_and_refer_to_each_other(archive: OrthancServer) -> None:
    files = make_study(patient_id="HOSP-4711", PatientName="Doe^Jane", series=2, instances=2, change=tell_tales)
    done = []
    for part in (files[:2], files[2:]):
        series = archive.store(part)[0]["ParentSeries"]
        done.append(anonymize(archive, series, "strict"))
    copies = [read(archive, each) for work in done for each in work["Copies"]]
    assert len(copies) == 4
    assert len({each.StudyInstanceUID for each in copies}) == 1
    assert len({each.SeriesInstanceUID for each in copies}) == 2
    assert len({each.PatientID for each in copies}) == 1
    assert len({each.FrameOfReferenceUID for each in copies}) == 1
    for each in copies:
        assert each.ReferencedImageSequence[0].ReferencedSOPInstanceUID == each.SOPInstanceUID
        assert str(each.SOPInstanceUID).startswith("2.25.")
        assert not [element for element in each if element.tag.is_private or element.tag.group == 0x6000]
    # The same again gives the same again.
    assert anonymize(archive, archive.store(files[0])[0]["ParentSeries"], "strict")["Copies"] == done[0]["Copies"]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("SeriesDescription", "of Jane"),
        ("ImageComments", "hosp-4711"),
        ("ProtocolName", "study of 20240101"),
        ("Manufacturer", "DOE"),
    ],
)
def test_a_copy_that_still_tells_is_held_back(script: ModuleType, where: str, text: str) -> None:
    original = pydicom.dcmread(io.BytesIO(make_study(patient_id="HOSP-4711", PatientName="Doe^Jane^Mary")[0]))
    copy = Dataset()
    setattr(copy, where, text)
    found = script.what_remains(copy, original, frozenset())
    assert where in found
    assert text not in found


def test_what_is_kept_and_replaced_and_removed_is_as_the_recipe_says(start_orthanc: StartOrthanc) -> None:
    recipe = {
        "Keep": ["StudyDescription", "StudyDate", "0008,0070"],
        "Replace": {"InstitutionName": "Somewhere"},
        "Remove": ["KVP"],
        "KeepPrivateTags": True,
    }
    server = start_orthanc(SCRIPT, section(Recipes={"mine": recipe}, PseudonymPrefix="STUDY7-"))
    files = make_study(
        change=lambda dataset: dataset.private_block(0x29, "ACME", create=True).add_new(0x10, "LO", "grey")
    )
    study = server.store(files)[0]["ParentStudy"]
    done = ended(server, server.post(f"/anonymize-series/{study}")["ID"])  # the only recipe
    copy = read(server, done["Copies"][0])
    assert (copy.StudyDescription, copy.StudyDate, copy.Manufacturer) == ("Generated study", "20240101", "Generated")
    assert (copy.InstitutionName, copy.get("KVP"), copy[0x00291010].value) == ("Somewhere", None, "grey")
    assert re.fullmatch("STUDY7-[B-Z]{16}", copy.PatientID)
    assert copy.get("ContentDate", "") == ""


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_one_recipe_keeps_is_not_in_the_copies_of_another(start_orthanc: StartOrthanc, overwrite: bool) -> None:
    """Copies of one image have the same UIDs, whatever the recipe, and Orthanc keeps the first, or the last."""
    recipes = {"kept": {"Keep": ["StudyDescription"]}, "strict": {}}
    server = start_orthanc(SCRIPT, {**section(Recipes=recipes), "OverwriteInstances": overwrite})
    study = server.store(make_study(instances=2))[0]["ParentStudy"]
    for recipe, expected in (("kept", "Generated study"), ("strict", ""), ("kept", "Generated study")):
        done = anonymize(server, study, recipe)
        assert [read(server, copy).get("StudyDescription", "") for copy in done["Copies"]] == [expected] * 2
    assert len(server.get("/instances")) == 4


@given(st.text(), st.text())
def test_pseudonyms_are_uids_that_are_valid_the_same_and_others_for_others(one: str, other: str) -> None:
    make = SHARED.Pseudonyms(HIDDEN, "")
    elsewhere = SHARED.Pseudonyms(HIDDEN + "!", "")
    assert pydicom.uid.UID(make.uid(one)).is_valid
    assert (make.uid(one) == make.uid(other)) == (one == other)
    assert make.uid(one) != make.uid(one, "result")
    assert make.uid(one) != elsewhere.uid(one)
    assert make.patient(one, "1") != elsewhere.patient(one, "1")
    assert (make.patient(one, "1") == make.patient(one, "2")) == bool(one)


SHARED = load()
