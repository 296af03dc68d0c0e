# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: what is shown where the middle can't be drawn, and images of unusual proportions."""

from __future__ import annotations

import re
import struct

import pydicom
import pydicom.encaps
import pydicom.uid
import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study
from testing.server import OrthancServer
from tests.series_thumbnail.helpers import thumbnail
from tests.series_thumbnail.test_pictures import is_icon

KNOWN, UNKNOWN = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77"  # of one length


def with_unknown_syntax(file: bytes) -> bytes:
    assert file.count(KNOWN) == 1
    return file.replace(KNOWN, UNKNOWN)


def encapsulate(dataset: Dataset) -> None:
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def test_beside_images_of_an_unknown_transfer_syntax_the_nearest_other_is_shown(gallery: OrthancServer) -> None:
    files = make_study(patient_id="UNKNOWN SYNTAX", instances=5)
    stored = gallery.store([*files[:2], with_unknown_syntax(files[2]), *files[3:]])
    series = stored[0]["ParentSeries"]
    picture = thumbnail(gallery, "series", series)
    assert not is_icon(picture)
    assert not is_icon(thumbnail(gallery, "studies", stored[0]["ParentStudy"]))


def test_an_instance_of_an_unknown_transfer_syntax_gives_the_icon_and_one_line_in_the_log(
    gallery: OrthancServer,
) -> None:
    files = make_study(patient_id="UNKNOWN ONLY", instances=2, change=encapsulate)
    for stored in gallery.store([with_unknown_syntax(file) for file in files]):
        for level, key in (("instances", "ID"), ("series", "ParentSeries"), ("studies", "ParentStudy")):
            assert is_icon(thumbnail(gallery, level, stored[key]))
    assert len(re.findall(r"transfer syntax (1\.2\.840\.10008\.1\.2\.77|unknown): an icon", gallery.log)) == 1
    assert gallery.request("GET", f"/instances/{'-'.join(['01234567'] * 5)}/thumbnail").status_code == 404


def test_a_study_shows_its_first_images_however_many_series_are_none(gallery: OrthancServer) -> None:
    def change(dataset: Dataset) -> None:
        if dataset.SeriesNumber <= 9:
            dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
            del dataset.PixelData, dataset.Rows, dataset.Columns

    stored = gallery.store(make_study(patient_id="NINE REPORTS", series=10, change=change))
    assert not is_icon(thumbnail(gallery, "studies", stored[0]["ParentStudy"]))


def test_beside_a_damaged_middle_frame_another_is_shown(gallery: OrthancServer) -> None:
    def change(dataset: Dataset) -> None:
        plane = bytes([127, *range(128)]) * 32  # RLE: runs of 128 literal bytes, 4096 in all
        frame = struct.pack("<16I", 1, 64, *[0] * 14) + plane
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.WindowCenter, dataset.WindowWidth = "64", "128"
        dataset.NumberOfFrames = 5
        dataset.PixelData = pydicom.encaps.encapsulate([frame, frame, b"\xff" * 70, b"\xff" * 70, frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True

    stored = gallery.store(make_study(patient_id="DAMAGED", rows=64, columns=64, change=change))[0]
    assert not is_icon(thumbnail(gallery, "instances", stored["ID"]))


def test_the_spacing_of_the_frame_gives_the_proportions(gallery: OrthancServer) -> None:
    def change(dataset: Dataset) -> None:
        if "PixelSpacing" in dataset:
            del dataset.PixelSpacing
        measures, frame = Dataset(), Dataset()
        measures.PixelSpacing = [2, 1]
        frame.PixelMeasuresSequence = [measures]
        dataset.NumberOfFrames = 2
        dataset.PerFrameFunctionalGroupsSequence = [Dataset(), frame]
        dataset.PixelData = 2 * dataset.PixelData

    stored = gallery.store(make_study(patient_id="FRAME SPACING", rows=64, columns=64, change=change))[0]
    assert thumbnail(gallery, "series", stored["ParentSeries"]).size == (64, 128)


@pytest.mark.parametrize(("rows", "columns", "size"), [(1, 200, (32, 1)), (200, 1, (1, 32)), (3, 1000, (32, 1))])
def test_strips_are_drawn(gallery: OrthancServer, rows: int, columns: int, size: tuple[int, int]) -> None:
    stored = gallery.store(make_study(patient_id=f"STRIP {rows}", rows=rows, columns=columns))[0]
    assert thumbnail(gallery, "series", stored["ParentSeries"], size=32).size == size
