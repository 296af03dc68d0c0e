# SPDX-License-Identifier: AGPL-3.0-or-later
"""Generated DICOM is valid, as asked for, and the same each time; Orthanc agrees with our identifiers."""

from __future__ import annotations

import io
import shutil
import subprocess
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study, orthanc_identifier, part10_files, pydicom_files, uid
from testing.pytest_plugin import StartOrthanc


def read(content: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def test_orthanc_gives_the_identifiers_that_we_compute(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc()
    for answer, content in zip(server.store(files := make_study(series=2, instances=2)), files, strict=True):
        dataset = read(content)
        values = [
            dataset[tag].value for tag in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        ]
        levels = ("ParentPatient", "ParentStudy", "ParentSeries", "ID")
        assert [answer[level] for level in levels] == [orthanc_identifier(*values[: n + 1]) for n in range(4)]
        assert server.request("GET", f"/instances/{answer['ID']}/preview").status_code == 200


@pytest.mark.parametrize("modality", ["CT", "MR", "CR", "US", "OT"])
def test_generated_files_are_read_by_pydicom_and_dcmtk_without_a_complaint(modality: str, tmp_path: Path) -> None:
    [content] = make_study(modality=modality, patient_id="É1", rows=3, columns=5)
    dataset = read(content)
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.pixel_array.shape == (3, 5) if shutil.which("numpy") else len(dataset.PixelData) == 30
    again = next(part10_files(dataset))
    assert read(again) == dataset
    (tmp_path / "x.dcm").write_bytes(content)
    dump = subprocess.run(["dcmdump", "+E", tmp_path / "x.dcm"], capture_output=True, text=True, check=True)
    assert "É1" in dump.stdout
    assert not dump.stderr


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_study() -> None:
    assert make_study(series=2, instances=3) == make_study(series=2, instances=3)
    one, other = read(make_study(seed=1)[0]), read(make_study(seed=2)[0])
    for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert one[tag].value != other[tag].value


def test_every_image_differs_in_pixels_and_identifiers() -> None:
    datasets = [read(content) for content in make_study(series=3, instances=4)]
    assert len({dataset.PixelData for dataset in datasets}) == 12
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 12
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 3
    assert [dataset.InstanceNumber for dataset in datasets[:4]] == [1, 2, 3, 4]


def test_any_element_can_be_given_by_keyword_or_changed_by_a_function() -> None:
    [content] = make_study(AccessionNumber="A1", StudyInstanceUID="1.2.3", PatientName="", InstitutionName="Clinic")
    dataset = read(content)
    assert (dataset.AccessionNumber, dataset.StudyInstanceUID, dataset.PatientName) == ("A1", "1.2.3", "")
    assert dataset.InstitutionName == "Clinic"

    def private(dataset: Dataset) -> None:
        dataset.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "value")
        del dataset.StudyDate

    [content] = make_study(change=private)
    assert read(content)[0x0011, 0x1001].value == "value"
    assert "StudyDate" not in read(content)


def test_what_is_no_modality_or_no_keyword_is_said() -> None:
    with pytest.raises(ValueError, match="modality 'XX': one of CT, MR"):
        make_study(modality="XX")
    with pytest.raises(ValueError, match="'Nonsense' is no DICOM keyword"):
        make_study(Nonsense="x")


def test_uids_are_valid_and_all_of_one_length() -> None:
    for number in range(1000):
        assert pydicom.uid.UID(uid(number)).is_valid
        assert len(uid(number)) == 44
        assert int(uid(number)[5:]) < 2**128


def test_thousands_of_images_take_seconds() -> None:
    began = time.perf_counter()
    assert sum(len(make_study(seed=number, instances=10)) for number in range(200)) == 2000
    assert time.perf_counter() - began < 5  # 0.2 on an idle machine


def test_the_files_of_pydicom_are_many_different_and_real() -> None:
    files = pydicom_files()
    assert len(files) > 100
    datasets = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    assert {"CT", "MR", "RTPLAN", "RTDOSE", "ECG", "SR"} <= {dataset.get("Modality", "") for dataset in datasets}
    assert len({dataset.StudyInstanceUID for dataset in datasets}) > 20
