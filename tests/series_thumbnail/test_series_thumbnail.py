# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: what it decides, without a server; and what a real Orthanc answers with real DICOM."""

from __future__ import annotations

import array
import importlib
import io
import itertools
import math
import re
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Page, sync_playwright
from pydicom.dataset import Dataset

from testing.dicom import make_study, pydicom_files, uid
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, python_plugin
from testing.standin import StandIn
from tests.raw_http import Client, request

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "series_thumbnail.py"
NAMED = {"UserMetadata": {"ThumbnailInstanceID": 2345}, "UserContentType": {"SeriesThumbnail": 4455}}
UNDECODABLE = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")  # JPEG 2000, with Orthanc's own decoder


@pytest.fixture
def script() -> Iterator[ModuleType]:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        try:
            yield importlib.import_module("series_thumbnail")
        finally:
            sys.path.remove(str(ROOT))
            sys.modules.pop("series_thumbnail", None)


def slices(*tags: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ID": str(number), "MainDicomTags": each} for number, each in enumerate(tags)]


# What it decides


def test_the_order_is_that_of_positions_along_the_normal_whatever_the_numbers_say(script: ModuleType) -> None:
    oblique = "0.8\\0.6\\0\\0\\0\\-1"  # the normal is (-0.6, 0.8, 0)
    found = slices(
        *(
            {
                "ImageOrientationPatient": oblique,
                "ImagePositionPatient": f"{-0.6 * at + 5}\\{0.8 * at}\\{7 * at}",
                "InstanceNumber": str(number),
            }
            for number, at in enumerate((3, -10, 2.5, 100, 0))
        )
    )
    assert script.in_order(found) == ["1", "4", "2", "0", "3"]


@pytest.mark.parametrize(
    ("tags", "order"),
    [
        ([{"InstanceNumber": "9"}, {"InstanceNumber": "10"}, {"InstanceNumber": "-1"}], "201"),
        ([{}, {"InstanceNumber": ""}, {"InstanceNumber": "one"}], "012"),
        ([{"InstanceNumber": "2"}, {}, {"InstanceNumber": "1"}], "201"),
        # Not parallel, not all with a position, not numbers, a normal of nothing: then no position counts.
        ([{"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\9", "InstanceNumber": "1"},
          {"ImageOrientationPatient": "0\\1\\0\\0\\0\\1", "ImagePositionPatient": "0\\0\\1", "InstanceNumber": "2"}], "01"),
        ([{"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\9", "InstanceNumber": "1"},
          {"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "InstanceNumber": "2"}], "01"),
        ([{"ImageOrientationPatient": "1\\0\\0\\1\\0\\0", "ImagePositionPatient": "0\\0\\9", "InstanceNumber": "1"},
          {"ImageOrientationPatient": "1\\0\\0\\1\\0\\0", "ImagePositionPatient": "0\\0\\1", "InstanceNumber": "2"}], "01"),
        ([{"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\nan", "InstanceNumber": "2"},
          {"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\1e999", "InstanceNumber": "1"}], "10"),
    ],
)  # fmt: skip
def test_without_positions_instance_numbers_order_and_then_arrival(
    script: ModuleType, tags: list[dict[str, str]], order: str
) -> None:
    assert "".join(script.in_order(slices(*tags))) == order


@given(st.integers(0, 60))
def test_each_instance_is_tried_once_from_the_middle_outwards(count: int) -> None:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        from_the_middle = importlib.import_module("series_thumbnail").from_the_middle
        sys.path.remove(str(ROOT))
    items = [str(number) for number in range(count)]
    found = list(from_the_middle(items))
    assert sorted(found) == sorted(items)
    assert not items or found[0] == items[count // 2]
    distances = [abs(int(each) - count // 2) for each in found]
    assert distances == sorted(distances)


@pytest.mark.parametrize(
    ("accept", "mime"),
    [("*/*", "image/jpeg"), ("image/png", "image/png"), ("image/*", "image/jpeg"), ("text/html, image/png;q=0.2", "image/png"),
     ("image/jpeg;q=0.1,image/png;q=0.9", "image/png"), ("image/jpeg;q=0, */*", "image/png"), ("text/html", None),
     ("image/jpeg;q=0,image/png;q=0", None), ("", "image/jpeg"), ("image/PNG ; Q=1", "image/png"), ("*/*;q=much", None)],
)  # fmt: skip
def test_accept_chooses_between_jpeg_and_png(script: ModuleType, accept: str, mime: str | None) -> None:
    assert script.preferred_type(accept, (script.JPEG, script.PNG)) == mime


def test_pixels_that_are_no_squares_are_shown_in_their_true_proportions(script: ModuleType) -> None:
    aspect = script.pixel_aspect
    assert aspect({"PixelSpacing": "2\\1"}) == 2
    assert aspect({"PixelAspectRatio": "1\\4"}) == 0.25
    measures = [{"PixelMeasuresSequence": [{"PixelSpacing": "3\\1"}]}]
    assert aspect({"SharedFunctionalGroupsSequence": measures, "PixelAspectRatio": "1\\1"}) == 3
    assert [
        aspect({"PixelSpacing": text}) for text in ("", "0\\1", "1", "a\\b", "1\\1\\1", "-1\\1", "1000\\1", "nan\\1")
    ] == [1] * 8
    assert script.fitted(64, 64, 2.0, 128) == (64, 128, 128)
    assert script.fitted(10000, 1, 1.0, 128)[:2] == (1, 128)


def test_a_note_goes_into_a_picture_and_out_again_and_the_picture_stays_one(script: ModuleType) -> None:
    look = script.RenderOptions(64, "image/jpeg", 80)
    icon = script.draw_icon("plan", look)
    noted = script.with_note(icon, "made of this")
    assert script.without_note(noted) == (icon, "made of this")
    assert script.without_note(icon) == (icon, "")
    assert Image.open(io.BytesIO(noted)).size == (64, 64)


def test_memory_holds_no_more_than_it_may_and_the_least_used_goes_first(script: ModuleType) -> None:
    cache = script.Cache(10 * (script.PICTURE_OVERHEAD_BYTES + 1000))
    look = script.RenderOptions(128, "image/jpeg", 80)
    pictures = {str(number): script.make_picture(bytes(1000), look, str(number)) for number in range(30)}
    for name, picture in pictures.items():
        cache.put(name, look, picture)
        cache.learn((f"/{name}", None, ()), name, look, picture)
        cache.put("0", look, cache.get("0", look))
    assert (cache.pictures, cache.bytes) == (10, 10 * (script.PICTURE_OVERHEAD_BYTES + 1000))
    assert [name for name in pictures if cache.get(name, look)] == ["0", *map(str, range(21, 30))]
    assert {picture.instance for picture in cache.answers.values()} == {"0", *map(str, range(21, 30))}
    for name in pictures:
        cache.drop(name)
    assert (cache.pictures, cache.bytes, cache.answers) == (0, 0, {})
    assert all(picture.checked == -math.inf for picture in pictures.values())


# On a real Orthanc


def picture_of(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def thumbnail(server: OrthancServer, level: str, resource: str, **params: Any) -> Image.Image:
    answer = server.request("GET", f"/{level}/{resource}/thumbnail", params=params)
    assert answer.status_code == 200, answer.text
    image = picture_of(answer.content)
    assert answer.headers["Content-Type"] == f"image/{str(image.format).lower()}"
    return image


def is_icon(image: Image.Image) -> bool:
    """Whether it is one of the script's icons: they alone have their ground in the corner."""
    corner = image.convert("RGB").getpixel((1, 1))
    return isinstance(corner, tuple) and max(abs(a - b) for a, b in zip(corner, (44, 52, 64), strict=True)) < 6


def test_limits_of_c_find_do_not_move_the_middle(start_briefly: StartOrthanc) -> None:
    server = start_briefly(SCRIPT, {"LimitFindResults": 1, "LimitFindInstances": 1})
    stored = server.store(make_study(instances=9, rows=16, columns=16))
    assert chosen(server, stored[0]["ParentSeries"]) == stored[4]["ID"]


def chosen(server: OrthancServer, series: str) -> str:
    """The instance that was chosen, once it is written."""
    path = f"/series/{series}/metadata/{next(iter(server.configuration.get('UserMetadata', {'2001': 0})))}"

    def name() -> str:
        server.request("GET", f"/series/{series}/thumbnail")  # one that is changing is drawn, and not yet kept
        answer = server.request("GET", path)
        return answer.text if answer.ok else ""

    return str(server.wait_until(name))


def wait_until_kept(server: OrthancServer, series: str) -> None:
    number = 4455 if "UserContentType" in server.configuration else 4301

    def is_kept() -> bool:
        if server.configuration["StableAge"] > 60:  # nobody draws it ahead
            server.request("GET", f"/series/{series}/thumbnail")
        return server.request("GET", f"/series/{series}/attachments/{number}/data").ok

    server.wait_until(is_kept)


def let_the_second_pass() -> None:
    """In which an old picture may be given: who asks from now on gets the new one, however busy this machine is."""
    time.sleep(1.01)


@pytest.fixture(scope="module")
def gallery(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """All that pydicom carries, and no configuration at all; nothing becomes stable."""
    server = start_orthanc_for_module(SCRIPT, {"StableAge": 3600})
    server.store(pydicom_files())
    return server


@pytest.fixture(scope="module")
def ward(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """What is kept has its names, and series become stable."""
    return start_orthanc_for_module(SCRIPT, {**NAMED, "OverwriteInstances": True})


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
    if isinstance(dataset.WindowCenter, pydicom.multival.MultiValue):
        dataset.WindowCenter, dataset.WindowWidth = dataset.WindowCenter[0], dataset.WindowWidth[0]
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
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
    if "WindowCenter" not in dataset or dataset.WindowCenter is None:
        dataset.WindowCenter, dataset.WindowWidth = "1000", "2000"
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


# Kept, once, and never old


def test_a_series_is_drawn_once_when_it_is_stable_and_outlives_a_restart(ward: OrthancServer) -> None:
    stored = ward.store(make_study(patient_id="ONCE", instances=3))
    series = stored[0]["ParentSeries"]
    wait_until_kept(ward, series)  # nobody has asked for it
    assert chosen(ward, series) == stored[1]["ID"]
    before = ward.request("GET", f"/series/{series}/thumbnail")
    ward.restart()
    after = ward.request("GET", f"/series/{series}/thumbnail")
    assert (after.content, after.headers["ETag"]) == (before.content, before.headers["ETag"])
    assert ward.get("/series-thumbnail/status")["Drawn"] == 0
    kept = ward.get(f"/series/{series}/attachments/4455/data")
    assert max(picture_of(kept).size) == 128


def test_later_instances_that_move_the_middle_give_another_picture(ward: OrthancServer) -> None:
    files = make_study(patient_id="GROWS", instances=9)
    stored = ward.store(files[:3])
    series = stored[0]["ParentSeries"]
    wait_until_kept(ward, series)
    assert chosen(ward, series) == stored[1]["ID"]
    first = ward.request("GET", f"/series/{series}/thumbnail").content
    stored += ward.store(files[3:])
    let_the_second_pass()
    assert ward.request("GET", f"/series/{series}/thumbnail").content != first
    ward.wait_until(lambda: chosen(ward, series) == stored[4]["ID"])


def test_an_image_that_replaces_the_one_shown_is_shown(ward: OrthancServer) -> None:
    dark, bright = (
        make_study(patient_id="AGAIN", instances=3, PixelData=bytes([0, level]) * 4096) for level in (30, 220)
    )
    series = ward.store(dark)[0]["ParentSeries"]

    def shown(level: int) -> bool:
        value = thumbnail(ward, "series", series).getpixel((64, 64))
        return isinstance(value, int | float) and abs(value - level) < 3

    assert shown(30)
    wait_until_kept(ward, series)
    ward.store(bright[1])
    let_the_second_pass()
    assert shown(220)
    ward.wait_until_stable()
    ward.restart()
    assert shown(220)


def test_what_is_deleted_is_gone_from_memory_too(ward: OrthancServer) -> None:
    stored = ward.store(make_study(patient_id="GONE"))[0]
    paths = [f"/{level}/{stored[key]}/thumbnail" for level, key in
             (("series", "ParentSeries"), ("studies", "ParentStudy"), ("instances", "ID"))]  # fmt: skip
    assert {ward.request("GET", path).status_code for path in paths} == {200}
    ward.delete(f"/patients/{stored['ParentPatient']}")
    let_the_second_pass()
    assert [ward.request("GET", path).status_code for path in paths] == [404] * 3


def test_when_events_never_come_an_old_picture_is_given_for_one_second_at_most(start_orthanc: StartOrthanc) -> None:
    deaf = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import orthanc
real = orthanc.RegisterOnChangeCallback
kept = []
def register(callback):
    kept.append(lambda change, *of: callback(change, *of) if change in (orthanc.ChangeType.ORTHANC_STARTED,
                                                                        orthanc.ChangeType.ORTHANC_STOPPED) else None)
    real(kept[0])
orthanc.RegisterOnChangeCallback = register
import series_thumbnail
"""
    server = start_orthanc(deaf, {"StableAge": 3600})
    files = make_study(patient_id="DEAF", instances=5)
    stored = server.store(files[:1])
    series = stored[0]["ParentSeries"]
    first = server.request("GET", f"/series/{series}/thumbnail").content
    stored += server.store(files[1:])
    let_the_second_pass()
    assert server.request("GET", f"/series/{series}/thumbnail").content != first
    server.wait_until(lambda: chosen(server, series) == stored[2]["ID"])
    server.delete(f"/instances/{stored[2]['ID']}")  # the one that is shown
    server.wait_until(
        lambda: server.request("GET", f"/series/{series}/thumbnail").ok and chosen(server, series) == stored[3]["ID"]
    )
    paths = [f"/{level}/{stored[0][key]}/thumbnail" for level, key in
             (("series", "ParentSeries"), ("studies", "ParentStudy"), ("instances", "ID"))]  # fmt: skip
    assert [server.request("GET", path).status_code for path in paths] == [200] * 3
    server.delete(f"/series/{series}")
    let_the_second_pass()
    assert [server.request("GET", path).status_code for path in paths] == [404] * 3


ASKED = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import orthanc, series_thumbnail
exchange, asked = series_thumbnail.Loopback.request_raw, []
def counted(self, method, path, *more, **named):
    asked.append(path)
    return exchange(self, method, path, *more, **named)
series_thumbnail.Loopback.request_raw = counted
def give(output, uri, **request):
    series_thumbnail.QUICK_SECONDS = float(request["get"].get("quick", series_thumbnail.QUICK_SECONDS))
    output.AnswerBuffer(json.dumps(asked), "application/json")
    asked.clear()
orthanc.RegisterRestCallback("/asked", give)
"""


def test_while_nothing_is_stored_or_deleted_one_question_a_second_is_asked_for_all_pictures(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(ASKED, {"StableAge": 3600})
    series = [server.store(make_study(patient_id=f"P{n}", instances=2))[0]["ParentSeries"] for n in range(8)]

    def ask_each() -> list[str]:
        for each in series:
            assert server.request("GET", f"/series/{each}/thumbnail").ok
        asked: list[str] = server.get("/asked")
        return asked

    def asks_a_second_later(expected: set[str]) -> bool:
        let_the_second_pass()
        return set(ask_each()) == expected

    server.request("GET", "/asked?quick=60")
    # Not at once: what is drawn is kept, and that changes the archive too.
    server.wait_until(lambda: asks_a_second_later({"/statistics", "/changes?last"}))
    # One is deleted here and one as large is stored there: as many as before, yet not the same.
    counts = server.get("/statistics")
    server.delete(f"/instances/{server.get(f'/series/{series[0]}')['Instances'][0]}")
    server.store(make_study(patient_id="P1", instances=3)[2:])
    assert server.get("/statistics") == counts
    let_the_second_pass()
    assert f"/series/{series[0]}/statistics" in ask_each()
    # An archive so large that counting it takes long is left alone.
    server.request("GET", "/asked?quick=0")
    server.wait_until(lambda: asks_a_second_later({f"/series/{each}/statistics" for each in series}))


# Orthanc Explorer, in a real browser

SHOTS = ROOT / "build" / "screenshots"
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
LOADED = "[...document.querySelectorAll('.ui-page-active img.series-thumbnail')].filter(each => each.naturalWidth > 0).length"


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened
        browser.close()
    assert errors == []


def text_of(page: Page, address: str, expected: str) -> str:
    """What a person can read on a page of Orthanc Explorer, once it says what is expected; without Orthanc's own button
    for the attachment, which is there when the picture has been kept."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_function(
        "text => (document.querySelector('.ui-page-active')?.innerText || '').includes(text)", arg=expected
    )
    lines = page.inner_text(".ui-page-active").splitlines()
    return "\n".join(line for line in lines if line.strip() and "4301" not in line)


def test_orthanc_explorer_shows_the_pictures_on_pages_and_in_lists(
    start_orthanc: StartOrthanc, page: Page, orthanc_version: tuple[int, ...]
) -> None:
    configurations: list[tuple[Path | None, dict[str, Any]]] = [
        (SCRIPT, {}), (SCRIPT, {"SeriesThumbnail": {"Explorer": False}}), (None, {})]  # fmt: skip
    servers = [start_orthanc(script, {**more, "StableAge": 3600}) for script, more in configurations]
    report = next(path for path in pydicom_files() if path.name == "test-SR.dcm")
    for server in servers:
        stored = server.store(make_study(patient_id="EXPLORED", series=3, instances=2))
        server.store(report)
    study, series = stored[0]["ParentStudy"], stored[0]["ParentSeries"]
    SHOTS.mkdir(parents=True, exist_ok=True)
    for name, hash_, expected, pictures in (
        ("studies", "find-studies", "Generated study", 2),
        ("study", f"study?uuid={study}", "Series 3", 1 + 3),
        ("series", f"series?uuid={series}", "Instance: 2", 1 + 1 + 2),
    ):
        texts = []
        for server in servers:
            texts.append(text_of(page, f"{server.url}/app/explorer.html#{hash_}", expected))
            shown = pictures if server is servers[0] else 0
            page.wait_for_function(f"{LOADED} == {shown}")
            assert page.locator(".ui-page-active img.series-thumbnail").count() == shown
            if server is servers[0]:
                page.screenshot(path=SHOTS / f"{name}-{'.'.join(map(str, orthanc_version))}.png")
        assert texts[0] == texts[1] == texts[2]  # nothing else has changed
    page.click("#list-instances a")  # pictures stand in no link's way
    page.wait_for_function("location.hash.startsWith('#instance?uuid=')")


# HTTP


def test_a_picture_that_the_caller_has_is_not_sent_again(gallery: OrthancServer) -> None:
    path = f"/series/{gallery.get('/series')[0]}/thumbnail"
    for _ in range(3):  # drawn, from memory, and in the same words
        first = gallery.request("GET", path)
        assert first.headers["Cache-Control"] == "private, no-cache"
        for known in (first.headers["ETag"], f'"other", W/{first.headers["ETag"]}', "*"):
            again = gallery.request("GET", path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        assert gallery.request("GET", path, headers={"If-None-Match": '"other"'}).content == first.content


def test_format_comes_by_parameter_and_by_accept(gallery: OrthancServer) -> None:
    path = f"/series/{gallery.get('/series')[0]}/thumbnail"
    assert gallery.request("GET", path, headers={"Accept": "image/png"}).headers["Content-Type"] == "image/png"
    assert (
        gallery.request("GET", f"{path}?format=jpeg", headers={"Accept": "image/png"}).headers["Content-Type"]
        == "image/jpeg"
    )
    assert gallery.request("GET", path, headers={"Accept": "text/html"}).status_code == 406
    small, large = (len(gallery.request("GET", f"{path}?quality={quality}&size=256").content) for quality in (5, 95))
    assert small < large


@pytest.mark.parametrize(
    "query",
    ["size=15", "size=1025", "size=", "size=1e2", "size=-5", "size=%D9%A3%D9%A2", "size=128%0A", "format=gif", "format=",
     "quality=0", "quality=101", "quality=x", "icon=", "icon=no", "Size=128", "width=128", "size=99999999999999999999"],
)  # fmt: skip
def test_a_parameter_that_is_wrong_is_a_400_that_says_what_is_allowed(gallery: OrthancServer, query: str) -> None:
    answer = gallery.request("GET", f"/series/{gallery.get('/series')[0]}/thumbnail?{query}")
    assert answer.status_code == 400
    assert "allowed" in answer.json()["Message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_405(gallery: OrthancServer, method: str) -> None:
    answer = gallery.request(method, f"/series/{gallery.get('/series')[0]}/thumbnail")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


WORDS = st.text(string.printable.replace("/", "").replace("?", "").replace("#", "") + "é٣", min_size=1, max_size=50)


@settings(max_examples=150)
@given(
    level=st.sampled_from(["series", "studies", "instances"]),
    resource=WORDS | st.from_regex("[0-9a-f]{8}(-[0-9a-f]{8}){4}", fullmatch=True),
    query=st.dictionaries(st.sampled_from(["size", "format", "quality", "icon"]) | WORDS, WORDS, max_size=3),
    accept=st.text(string.ascii_letters + "/*;=,.q01 ", max_size=30).map(str.strip),
)
@example("series", "..", {}, "*/*")
@example("series", "00000000-00000000-00000000-00000000-00000000", {"size": "200"}, "*/*")
def test_whatever_is_asked_the_answer_is_a_4xx_with_a_message_never_a_500(
    gallery: OrthancServer, level: str, resource: str, query: dict[str, str], accept: str
) -> None:
    import urllib.parse

    path = f"/{level}/{urllib.parse.quote(resource, safe='')}/thumbnail?{urllib.parse.urlencode(query)}"
    answer = gallery.request("GET", path, headers={"Accept": accept})
    assert answer.status_code in (400, 404, 406)
    if answer.status_code != 404:
        assert answer.json()["Message"]


# Configurations


def test_without_any_configuration_it_works_and_says_which_lines_to_add(gallery: OrthancServer) -> None:
    stored = gallery.store(make_study(patient_id="NONE"))[0]
    thumbnail(gallery, "series", stored["ParentSeries"])
    wait_until_kept(gallery, stored["ParentSeries"])
    chosen = f"/series/{stored['ParentSeries']}/metadata/2001"
    gallery.wait_until(lambda: gallery.request("GET", chosen).ok, what="keep what was chosen")
    assert gallery.get(chosen) == stored["ID"]
    assert 'add "UserMetadata": {"ThumbnailInstanceID": 2001}' in gallery.log
    assert 'add "UserContentType": {"SeriesThumbnail": 4301}' in gallery.log


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        ({"UserMetadata": {"Mine": 2001}}, 'UserMetadata: 2001 is "Mine" here'),
        ({"UserContentType": {"Mine": 4301}}, 'UserContentType: 4301 is "Mine" here'),
        ({"SeriesThumbnail": {"Size": 5000}}, "SeriesThumbnail.Size: found 5000, allowed: a whole number"),
        ({"HttpThreadsCount": 4}, "HttpThreadsCount is 4, allowed: at least 5"),
    ],
)
def test_what_is_misconfigured_is_one_error_and_orthanc_runs(
    start_orthanc: StartOrthanc, configuration: dict[str, Any], complaint: str
) -> None:
    server = start_orthanc(SCRIPT, configuration)
    series = server.store(make_study())[0]["ParentSeries"]
    answer = server.request("GET", f"/series/{series}/thumbnail")
    assert answer.status_code == 503
    assert complaint in answer.json()["Message"]
    assert server.log.count(complaint) == 1
    assert re.search(f"^E.*{re.escape(complaint)}", server.log, re.MULTILINE)
    server.wait_until_stable()
    server.restart()  # whatever was to be written is
    assert set(server.get(f"/series/{series}/metadata")) <= {"LastUpdate", "RemoteAET", "MainDicomTagsSignature"}
    assert server.get(f"/series/{series}/attachments") == []


def test_where_users_must_log_in_and_revisions_are_checked_pictures_are_drawn_and_replaced(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(
        SCRIPT,
        {
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"user": "secret"},
            "CheckRevisions": True,
        },
    )
    files = make_study(patient_id="REVISED", instances=5)
    stored = server.store(files[:1])
    series = stored[0]["ParentSeries"]
    wait_until_kept(server, series)
    stored += server.store(files[1:])
    server.wait_until(lambda: chosen(server, series) == stored[2]["ID"])
    server.wait_until(lambda: server.get("/series-thumbnail/status")["Background"] == 0)
    assert server.request("GET", f"/series/{series}/thumbnail", auth=None).status_code == 401
    assert "could not keep" not in server.log


def test_without_pillow_images_are_drawn_and_icons_name_what_is_missing(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    (tmp_path / "PIL.py").write_text("raise ImportError('No module named PIL')\n")  # the script's folder comes first
    shutil.copy(SCRIPT, tmp_path)
    server = start_orthanc(tmp_path / SCRIPT.name)
    image = server.store(make_study())[0]["ParentSeries"]
    assert max(thumbnail(server, "series", image).size) == 128
    report = server.store(next(path for path in pydicom_files() if path.name == "test-SR.dcm"))[0]["ParentSeries"]
    answer = server.request("GET", f"/series/{report}/thumbnail")
    assert answer.status_code == 503
    assert "apt install python3-pil," in answer.json()["Message"]


def test_more_callers_than_orthanc_has_threads_all_get_their_picture(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, {"HttpThreadsCount": 8, "StableAge": 3600})
    series = server.store(make_study(rows=512, columns=512))[0]["ParentSeries"]

    def patient_caller(size: int) -> int:
        path = f"/series/{series}/thumbnail?size={size}"

        def answer() -> int | None:
            found = server.request("GET", path)
            assert found.status_code in (200, 503), found.text
            return max(picture_of(found.content).size) if found.ok else None

        return int(server.wait_until(answer, timeout=60))

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(patient_caller, range(100, 220))) == list(range(100, 220))


# A route that tells how often it was called on this thread, and whether connections of earlier calls are closed.
COUNTING = """
_mine, _loopback = threading.local(), Loopback(json.loads(orthanc.GetConfiguration()))

def _count(request):
    _mine.calls = getattr(_mine, "calls", 0) + 1
    closed = [connection.sock is None for connection in vars(_loopback._local).values() if hasattr(connection, "sock")]
    _loopback.get("/system")
    return [_mine.calls, closed]

register_route("/count", {"GET": _count}, lambda: None)
"""


def test_a_thread_that_answers_from_memory_keeps_neither_its_state_nor_a_connection(
    start_orthanc: StartOrthanc,
) -> None:
    server = start_orthanc(SCRIPT.read_text() + COUNTING, {"StableAge": 3600})
    series = server.store(make_study())[0]["ParentSeries"]
    with requests.Session() as session:  # one connection, which is one thread of Orthanc's
        session.trust_env = False
        assert [session.get(f"{server.url}/series/{series}/thumbnail").status_code for _ in range(3)] == [200] * 3
        found = [session.get(f"{server.url}/count").json() for _ in range(3)]
    assert (
        found == [[1, []]] * 3
    )  # the plugin makes and destroys the state for each callback; to keep it crashes 1.13.0
    assert server.stop() == 0


def test_a_byte_in_a_header_that_is_no_utf8_never_harms_what_is_asked_next(start_orthanc: StartOrthanc) -> None:
    """The plugin leaves an error set when it can't make a text of it: the next callback of the thread must not meet it."""
    server = start_orthanc(SCRIPT, {"StableAge": 3600})
    path = f"/series/{server.store(make_study())[0]['ParentSeries']}/thumbnail"
    client = Client(server)  # one connection, which is one thread of Orthanc's
    for _ in range(50):
        assert client.send(request("GET", path))[0] == 200
        client.send(request("GET", path, [(b"X-Odd", b"caf\xe9")]))  # plugin 4.0 answers 500 by itself
        assert client.send(request("GET", "/series-thumbnail/status"))[0] == 200
    client.close()
    assert server.stop() == 0


def test_it_works_combined_with_other_scripts(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    combined = tmp_path / "combined.py"
    others = [ROOT / "purge_old_studies.py", ROOT / "auto_forward_modality.py"]
    subprocess.run([sys.executable, ROOT / "combine.py", *others, SCRIPT, "-o", combined], check=True)
    server = start_orthanc(combined, NAMED)
    stored = server.store(make_study(instances=3))
    wait_until_kept(server, stored[0]["ParentSeries"])
    assert chosen(server, stored[0]["ParentSeries"]) == stored[1]["ID"]
    assert max(thumbnail(server, "studies", stored[0]["ParentStudy"]).size) == 128
    server.delete(f"/studies/{stored[0]['ParentStudy']}")
    path = f"/series/{stored[0]['ParentSeries']}/thumbnail"
    let_the_second_pass()
    assert server.request("GET", path).status_code == 404
