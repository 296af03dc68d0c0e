# SPDX-License-Identifier: AGPL-3.0-or-later
"""One image that can't be copied holds up no other, and nothing is held back for a number or a defined term."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.anonymize_series.helpers import HIDDEN, OPEN, SCRIPT, anonymize, read


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    recipes = {
        "open": OPEN,
        "whole": {**OPEN, "Whole": True},
        "private": {**OPEN, "KeepPrivateTags": True},
        "refused": {**OPEN, "DicomVersion": "2030z"},
    }
    return start_orthanc_for_module(
        SCRIPT,
        {"AnonymizeSeries": {"Secret": HIDDEN, "Recipes": recipes}, "StableAge": 3600, "MaximumStorageCacheSize": 0},
    )


def damage(server: OrthancServer, content: bytes, at: slice) -> None:
    """Overwrite a part of a stored file, as a disk may."""
    folder = Path(server.configuration["StorageDirectory"])
    [path] = [each for each in folder.glob("*/*/*") if each.read_bytes() == content]
    damaged = bytearray(content)
    damaged[at] = b"\xff" * len(damaged[at])
    path.write_bytes(damaged)


def damaged_series(server: OrthancServer, patient: str, at: slice) -> tuple[str, list[str]]:
    """A series of three images, of which the middle one can't be read any more."""
    files = make_study(patient_id=patient, instances=3)
    stored = [each for file in files for each in server.store(file)]
    damage(server, files[1], at)
    return stored[0]["ParentSeries"], [each["ID"] for each in stored]


def held(server: OrthancServer, instance: str) -> list[str]:
    items = server.get("/anonymize-series/held", limit="1000")["Items"]
    return [each["Reason"] for each in items if each["Instance"] == instance]


HEADER, MIDDLE, ALL = slice(140, 200), slice(400, 460), slice(0, None)


@pytest.mark.parametrize("at", [HEADER, MIDDLE, ALL], ids=["header", "middle", "all"])
def test_what_can_not_be_copied_is_held_back_at_once_and_the_rest_goes(server: OrthancServer, at: slice) -> None:
    series, instances = damaged_series(server, f"DAMAGED {at.start}", at)
    job = anonymize(server, series, "open")
    assert (job["State"], job["HeldBack"], len(job["Copies"]), job["Attempts"]) == ("partly", 1, 2, 1), job
    [reason] = held(server, instances[1])
    # 1.13.0 compares the MD5 of each file that it reads.
    begins = ("Orthanc can't anonymize it: ", "pydicom can't read or write it: ", "Orthanc can't read it: ")
    assert reason.startswith(begins)


def test_a_recipe_that_orthanc_refuses_holds_no_image_back(server: OrthancServer) -> None:
    stored = server.store(make_study(patient_id="RECIPE"))[0]
    job = server.post(f"/anonymize-series/{stored['ParentSeries']}", {"Recipe": "refused"})["ID"]
    found = server.wait_until(lambda: (row := server.get(f"/anonymize-series/jobs/{job}"))["Error"] and row)
    assert (found["State"], found["HeldBack"], found["Copies"]) == ("waiting", 0, None)
    assert "anonymize" in found["Error"]
    assert held(server, stored["ID"]) == []


def test_a_recipe_may_ask_for_a_series_as_a_whole_or_not_at_all(server: OrthancServer) -> None:
    series, instances = damaged_series(server, "WHOLE", ALL)
    job = anonymize(server, series, "whole")
    assert (job["State"], job["HeldBack"], job["Copies"]) == ("partly", 1, [])
    assert len(held(server, instances[1])) == 1
    server.assert_logged(f"all of {series} is held back from whole, whose Whole is true", "warning")
    assert server.get(f"/series/{series}/study")["PatientMainDicomTags"]["PatientID"] == "WHOLE"
    job = anonymize(server, server.store(make_study(patient_id="ALL WELL", instances=3))[0]["ParentSeries"], "whole")
    assert (job["State"], len(job["Copies"])) == ("done", 3)


def test_counters_and_defined_terms_are_no_identity(server: OrthancServer) -> None:
    def change(dataset: Dataset) -> None:
        dataset.PatientName, dataset.BodyPartExamined = "Brain^Head", "BRAIN"
        dataset.StudyID, dataset.AccessionNumber = "1234", "4711"
        dataset.InstanceNumber, dataset.AcquisitionNumber, dataset.SeriesNumber = "1234", "4711", "1234"
        dataset.NumberOfTemporalPositions = "4711"

    stored = server.store(make_study(patient_id="NUMBERS", change=change))[0]
    job = anonymize(server, stored["ParentSeries"], "open")
    assert (job["State"], job["HeldBack"]) == ("done", 0), held(server, stored["ID"])
    copy = read(server, job["Copies"][0])
    assert (str(copy.InstanceNumber), copy.BodyPartExamined) == ("1234", "BRAIN")


@pytest.mark.parametrize(("vr", "value"), [("IS", "47114711"), ("CS", "KEPTNAME"), ("LO", "about Keptname")])
def test_a_private_number_or_term_that_is_an_identity_is_held_back(server: OrthancServer, vr: str, value: str) -> None:
    def change(dataset: Dataset) -> None:
        dataset.PatientName, dataset.AccessionNumber = "Keptname^A", "47114711"
        dataset.private_block(0x0029, "OURS", create=True).add_new(1, vr, value)

    stored = server.store(make_study(patient_id=f"PRIVATE {vr}", change=change))[0]
    job = anonymize(server, stored["ParentSeries"], "private")
    assert (job["State"], job["HeldBack"]) == ("partly", 1)
    assert "of the original" in held(server, stored["ID"])[0]
