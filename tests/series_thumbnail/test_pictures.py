# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: the pictures of real DICOM, compared with references that are drawn here."""

from __future__ import annotations

import array
import io
import itertools
import re
import time
from types import ModuleType
from typing import Any

import pydicom
import pytest
from PIL import Image, ImageChops, ImageStat
from pydicom.dataset import Dataset

from testing.dicom import make_study, pydicom_files, uid
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, python_plugin
from tests.series_thumbnail.helpers import SCRIPT, chosen, let_the_second_pass, picture_of, thumbnail

UNDECODABLE = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")  # JPEG 2000, with Orthanc's own decoder


def is_icon(image: Image.Image) -> bool:
    """Whether it is one of the script's icons: they alone have their ground in the corner."""
    corner = image.convert("RGB").getpixel((1, 1))
    return isinstance(corner, tuple) and max(abs(a - b) for a, b in zip(corner, (44, 52, 64), strict=True)) < 6


def test_limits_of_c_find_do_not_move_the_middle(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {"LimitFindResults": 1, "LimitFindInstances": 1})
    stored = server.store(make_study(instances=9, rows=16, columns=16))
    assert chosen(server, stored[0]["ParentSeries"]) == stored[4]["ID"]


def test_every_file_of_pydicom_gives_a_picture_of_the_size_asked_or_an_icon(gallery: OrthancServer) -> None:
    kinds: dict[bool, int] = {True: 0, False: 0}
    for level in ("series", "studies", "instances"):
        for size, format_ in ((128, "jpeg"), (50, "png")):
            for resource in gallery.get(f"/{level}"):
                image = thumbnail(gallery, level, resource, size=size, format=format_)
                assert max(image.size) == size
                assert (image.format, image.mode in ("L", "RGB")) == (format_.upper(), True)
                kinds[is_icon(image)] += 1
    assert kinds[False] > 180
    assert kinds[True] > 80
    log = gallery.log
    assert "please report" not in log
    assert "Traceback" not in log
    for syntax in UNDECODABLE:  # once each, however many there are
        assert len(re.findall(rf"transfer syntax {re.escape(syntax)}: an icon is shown", log)) == 1


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [("1.2.840.10008.5.1.4.1.1.88.33", "report"), ("1.2.840.10008.5.1.4.1.1.481.5", "plan"),
     ("1.2.840.10008.5.1.4.1.1.9.1.1", "waveform"), ("1.2.840.10008.5.1.4.1.1.66.4", "segmentation"),
     ("1.2.840.10008.5.1.4.1.1.104.1", "document"), ("1.2.840.10008.5.1.4.1.1.481.3", "segmentation"),
     ("1.2.840.10008.5.1.4.1.1.11.1", "presentation"), ("1.2.840.10008.5.1.4.1.1.66", "other")],
)  # fmt: skip
def test_what_is_no_image_gives_the_icon_of_its_kind_or_404(
    gallery: OrthancServer, script: ModuleType, sop_class: str, kind: str
) -> None:
    def no_image(dataset: Dataset) -> None:
        dataset.SOPClassUID = sop_class
        if not sop_class.endswith("66.4"):
            del dataset.PixelData, dataset.Rows, dataset.Columns

    stored = gallery.store(make_study(patient_id=f"KIND{sop_class}", change=no_image))[0]
    answer = gallery.request("GET", f"/series/{stored['ParentSeries']}/thumbnail")
    assert answer.content == script.draw_icon(kind, script.RenderOptions(128, "image/jpeg", 80))
    for level, key in (("series", "ParentSeries"), ("studies", "ParentStudy"), ("instances", "ID")):
        assert gallery.request("GET", f"/{level}/{stored[key]}/thumbnail?icon=false").status_code == 404
        assert gallery.request("GET", f"/{level}/{stored[key]}/thumbnail?icon=true").status_code == 200


# Reference pictures, drawn here from the pixels without Orthanc


def unpacked_rle(frame: bytes, weights: int) -> bytes:
    """The pixels of an RLE frame (DICOM PS3.5 Annex G) of `weights` bytes a sample: its segments put together again."""
    starts = [int.from_bytes(frame[4 * i : 4 * i + 4], "little") for i in range(1, 1 + frame[0])] + [len(frame)]
    planes = []
    for start, end in itertools.pairwise(starts):
        plane, at = bytearray(), start
        while at < end - 1:
            control = frame[at]
            if control < 128:
                plane += frame[at + 1 : at + 2 + control]
                at += 2 + control
            elif control > 128:
                plane += frame[at + 1 : at + 2] * (257 - control)
                at += 2
            else:
                at += 1
        planes.append(bytes(plane))
    size = min(map(len, planes))
    samples = [planes[i : i + weights][::-1] for i in range(0, len(planes), weights)]
    return bytes(plane[i] for i in range(size) for sample in samples for plane in sample)


def reference(dataset: Dataset, content: bytes) -> Image.Image:
    """The image as a viewer shows it: window (PS3.3 C.11.2.1.2), inverted for MONOCHROME1, colours by the palette."""
    columns, rows = dataset.Columns, dataset.Rows
    if dataset.PhotometricInterpretation == "RGB":
        return Image.frombytes("RGB", (columns, rows), content[: 3 * columns * rows])
    signed, wide = dataset.PixelRepresentation, dataset.BitsAllocated == 16
    values = array.array(("h" if signed else "H") if wide else ("b" if signed else "B"), content)[: columns * rows]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        tables = [dataset[f"{colour}PaletteColorLookupTableData"].value for colour in ("Red", "Green", "Blue")]
        entries, first, bits = dataset.RedPaletteColorLookupTableDescriptor
        step = 2 if bits == 16 or len(tables[0]) >= 2 * (entries or 65536) else 1
        at = [min(max(value - first, 0), len(tables[0]) // step - 1) * step + step - 1 for value in values]
        return Image.frombytes("RGB", (columns, rows), bytes(table[i] for i in at for table in tables))
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    if dataset.get("WindowCenter") is None:  # the values of the image itself
        ordered = sorted(values)
        low, high = (ordered[len(ordered) * part // 100] * slope + intercept for part in (1, 99))
        width = high - low
    else:
        center, width = (
            float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
            for value in (dataset.WindowCenter, dataset.WindowWidth)
        )
        low = center - width / 2
    shown = bytes(min(255, max(0, round(255 * (value * slope + intercept - low) / width))) for value in values)
    image = Image.frombytes("L", (columns, rows), shown)
    return ImageChops.invert(image) if dataset.PhotometricInterpretation == "MONOCHROME1" else image


def assert_looks_as(found: Image.Image, expected: Image.Image) -> None:
    assert found.mode == expected.mode
    if expected.width < 64:
        expected = expected.resize(found.size, Image.Resampling.NEAREST)
    # How Orthanc makes an image smaller is its own: what both are in the large is compared.
    coarse, wanted = (each.resize((16, 16), Image.Resampling.BOX) for each in (found, expected))
    difference = max(ImageStat.Stat(ImageChops.difference(coarse, wanted)).mean)
    opposite = max(ImageStat.Stat(ImageChops.difference(ImageChops.invert(coarse), wanted)).mean)
    assert difference < 8, difference
    assert opposite > 4 * difference + 8, (difference, opposite)


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MONOCHROME1",
     "EIGHT BITS", "examples_rgb_color.dcm", "SC_rgb_rle.dcm", "SC_rgb_small_odd.dcm", "examples_palette.dcm",
     "examples_overlay.dcm"],
)  # fmt: skip
def test_a_thumbnail_looks_as_the_reference_picture(gallery: OrthancServer, name: str) -> None:
    if name.isupper() and "." not in name:
        depth: dict[str, Any] = {
            "BitsAllocated": 8,
            "BitsStored": 8,
            "HighBit": 7,
            "WindowCenter": "100",
            "WindowWidth": "150",
        }
        pixels = bytes((x * y // 20) % 256 for x in range(64) for y in range(64))
        depth["PhotometricInterpretation"] = "MONOCHROME1" if name == "MONOCHROME1" else "MONOCHROME2"
        dataset = pydicom.dcmread(io.BytesIO(make_study(**depth, PixelData=pixels)[0]))
    else:
        dataset = pydicom.dcmread(next(path for path in pydicom_files() if path.name == name))
    dataset.PatientID, dataset.SOPInstanceUID = "REFERENCE", uid("reference", name)
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = uid("series", name), uid("study", name)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    content, syntax = dataset.PixelData, str(dataset.file_meta.TransferSyntaxUID)
    if syntax == "1.2.840.10008.1.2.5":
        frame = next(pydicom.encaps.generate_frames(content, number_of_frames=1))
        content = unpacked_rle(frame, dataset.BitsAllocated // 8)
    elif syntax == "1.2.840.10008.1.2.2":
        content = b"".join(dataset.PixelData[i : i + 2][::-1] for i in range(0, len(dataset.PixelData), 2))
    if dataset.get("PlanarConfiguration") == 1:
        size = dataset.Rows * dataset.Columns
        content = bytes(content[plane * size + i] for i in range(size) for plane in range(3))
    stored = gallery.store(dataset)[0]
    found = thumbnail(gallery, "series", stored["ParentSeries"], size=64, format="png")
    expected = reference(dataset, content)
    assert_looks_as(found, expected)


def test_jpeg_2000_is_the_icon_of_an_image_while_orthanc_can_not_decode_it(
    gallery: OrthancServer, script: ModuleType
) -> None:
    dataset = pydicom.dcmread(next(path for path in pydicom_files() if path.name == "examples_jpeg2k.dcm"))
    dataset.SeriesInstanceUID = uid("JPEG 2000")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid("an image")
    series = gallery.store(dataset)[0]["ParentSeries"]
    icon = script.draw_icon("image", script.RenderOptions(128, "image/jpeg", 80))
    assert gallery.request("GET", f"/series/{series}/thumbnail").content == icon


def test_jpeg_2000_is_shown_where_a_plugin_decodes_it(start_orthanc: StartOrthanc) -> None:
    plugins = [python_plugin(), python_plugin().with_name("libOrthancGdcm.so")]
    server = start_orthanc(SCRIPT, {"Plugins": [str(plugin) for plugin in plugins], "StableAge": 3600})
    colour, magnetic, same = (
        pydicom.dcmread(next(path for path in pydicom_files() if path.name == name))
        for name in ("SC_rgb_gdcm_KY.dcm", "MR_small_jp2klossless.dcm", "MR_small.dcm")
    )
    frame = next(pydicom.encaps.generate_frames(colour.PixelData, number_of_frames=1))
    for dataset, expected in ((colour, picture_of(frame)), (magnetic, reference(same, same.PixelData))):
        series = server.store(dataset)[0]["ParentSeries"]
        assert_looks_as(thumbnail(server, "series", series, size=64, format="png"), expected)
    assert "an icon is shown" not in server.log


def test_of_several_frames_the_middle_one_is_shown(gallery: OrthancServer) -> None:
    frames = b"".join(bytes([0, level]) * 64 * 64 for level in (10, 60, 200, 90, 30))
    stored = gallery.store(make_study(patient_id="FRAMES", NumberOfFrames=5, PixelData=frames))[0]
    for level, key in (("series", "ParentSeries"), ("studies", "ParentStudy"), ("instances", "ID")):
        value = thumbnail(gallery, level, stored[key]).getpixel((64, 64))
        assert isinstance(value, int | float)
        assert abs(value - 200) < 3


def test_a_picture_keeps_the_proportions_of_the_image(gallery: OrthancServer) -> None:
    for rows, columns, spacing, size in ((64, 64, "2\\1", (64, 128)), (32, 64, "1\\1", (128, 64)), (32, 64, "2\\1", (128, 128)),
                                         (40, 40, "1\\3", (128, 43))):  # fmt: skip
        files = make_study(
            patient_id=f"P{rows}{spacing}", seed=columns, rows=rows, columns=columns, PixelSpacing=spacing
        )
        assert thumbnail(gallery, "series", gallery.store(files)[0]["ParentSeries"]).size == size


@pytest.mark.parametrize("order", ["position", "number", "arrival"])
def test_the_middle_is_found_by_position_then_number_then_arrival(gallery: OrthancServer, order: str) -> None:
    def change(dataset: Dataset) -> None:
        number = int(dataset.InstanceNumber)
        if order == "position":
            dataset.InstanceNumber = str(number * 7 % 10)  # says nothing of the order
            dataset.ImagePositionPatient = [0, 0, -number]
        else:
            del dataset.ImagePositionPatient
        if order == "arrival":
            del dataset.InstanceNumber

    files = make_study(patient_id=f"ORDER {order}", instances=9, change=change)
    if order == "arrival":
        stored = gallery.store(files[:4])  # the time of arrival has a second's resolution
        time.sleep(1.01 - time.time() % 1)
        stored += gallery.store(files[4])
        time.sleep(1.01 - time.time() % 1)
        stored += gallery.store(files[5:])
    else:
        stored = [each for number in (3, 8, 4, 1, 0, 7, 5, 2, 6) for each in gallery.store(files[number])]
        stored.sort(key=lambda each: files.index(gallery.get(f"/instances/{each['ID']}/file")))
    series = stored[0]["ParentSeries"]
    thumbnail(gallery, "series", series)
    assert chosen(gallery, series) == stored[4]["ID"]


def test_a_study_shows_its_first_series_of_images(gallery: OrthancServer) -> None:
    def change(dataset: Dataset) -> None:
        if dataset.SeriesNumber in (1, 2):
            dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
            del dataset.PixelData, dataset.Rows, dataset.Columns
        else:
            dataset.PixelData = bytes([0, 40 * dataset.SeriesNumber]) * 64 * 64

    stored = gallery.store(make_study(patient_id="STUDY", series=5, change=change))
    study = stored[0]["ParentStudy"]
    value = thumbnail(gallery, "studies", study).getpixel((5, 5))
    assert isinstance(value, int | float)
    assert abs(value - 120) < 3
    for each in stored[2:]:
        gallery.delete(f"/series/{each['ParentSeries']}")
    let_the_second_pass()
    assert is_icon(thumbnail(gallery, "studies", study))
