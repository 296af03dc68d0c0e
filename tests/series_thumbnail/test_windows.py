# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: images without a window of their own are recognisable, whatever their numbers are."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from PIL import Image, ImageStat
from pydicom.dataset import Dataset

from testing.dicom import make_study
from testing.server import OrthancServer
from tests.series_thumbnail.helpers import thumbnail

SIDE = 64
SLOPE = [x for _ in range(SIDE) for x in range(SIDE)]  # darker on the left, brighter on the right


def assert_slope(image: Image.Image, *, inverted: bool = False) -> None:
    row = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()[SIDE * SIDE // 2 :]
    found = [row[x] for x in (4, 16, 32, 48, 59)]
    expected = [255 * x / SIDE for x in (4, 16, 32, 48, 59)]
    if inverted:
        expected = [255 - each for each in expected]
    assert all(abs(a - b) < 14 for a, b in zip(found, expected, strict=True)), (found, expected)


def without_window(dataset: Dataset) -> None:
    for name in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        if name in dataset:
            delattr(dataset, name)


def real_thumbnail(server: OrthancServer, name: str) -> Image.Image:
    """The thumbnail of one of pydicom's files, stored as it is; several of them are the same instance."""
    path = Path(pydicom.data.__file__).parent / "test_files" / name
    server.delete(f"/instances/{server.store(path)[0]['ID']}")
    return thumbnail(server, "instances", server.store(path)[0]["ID"], format="png")


def stored_thumbnail(server: OrthancServer, name: str, change: Callable[[Dataset], None]) -> Image.Image:
    stored = server.store(make_study(patient_id=f"WINDOW {name}", rows=SIDE, columns=SIDE, change=change))[0]
    return thumbnail(server, "series", stored["ParentSeries"], format="png")


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "JPEG-lossy.dcm", "JPGExtended.dcm", "rtdose.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm",
     "rtdose_1frame.dcm", "rtdose_expb_1frame.dcm"],
)  # fmt: skip
def test_real_files_without_a_window_are_neither_black_nor_white(gallery: OrthancServer, name: str) -> None:
    image = real_thumbnail(gallery, name)
    assert ImageStat.Stat(image).stddev[0] > 15
    values = image.tobytes()
    assert min(values) < 40
    assert max(values) > 215


def test_an_rt_dose_looks_the_same_in_every_encoding(gallery: OrthancServer) -> None:
    names = ("rtdose.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm")
    assert len({real_thumbnail(gallery, name).tobytes() for name in names}) == 1


FORMATS: dict[str, tuple[str, float, float, int]] = {  # how a value is packed, its step, the lowest, bits
    "unsigned": ("<H", 500, 1000, 16),
    "signed": ("<h", 100, -3000, 16),
    "8 bits": ("<B", 0.5, 3, 8),
    "32 bits": ("<I", 5e6, 7e8, 32),
    "32 bits, signed": ("<i", 5e6, -2e8, 32),
    "float": ("<f", 0.01, -0.3, 32),
    "double float": ("<d", 0.0001, 0.1, 64),
}


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("kind", FORMATS)
def test_without_a_window_the_pixels_own_range_is_shown(gallery: OrthancServer, kind: str, photometric: str) -> None:
    code, step, lowest, bits = FORMATS[kind]
    is_float = "float" in kind
    pixels = b"".join(struct.pack(code, lowest + x * step if is_float else int(lowest + x * step)) for x in SLOPE)

    def change(dataset: Dataset) -> None:
        without_window(dataset)
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
        dataset.PixelRepresentation = int("signed" in kind and kind != "unsigned")
        dataset.PixelData = pixels
        if is_float:
            for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
                delattr(dataset, name)
            setattr(dataset, "FloatPixelData" if bits == 32 else "DoubleFloatPixelData", pixels)

    image = stored_thumbnail(gallery, f"{kind} {photometric}", change)
    if kind == "8 bits":
        assert min(image.tobytes()) < 3
        assert max(image.tobytes()) > 252
    else:
        assert_slope(image, inverted=photometric == "MONOCHROME1")


@pytest.mark.parametrize(("slope", "intercept"), [("0.001", "-5"), ("-2", "100"), ("3", "-1024")])
def test_rescaled_values_have_their_own_range(gallery: OrthancServer, slope: str, intercept: str) -> None:
    def change(dataset: Dataset) -> None:
        without_window(dataset)
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.PixelData = b"".join(struct.pack("<H", 5 * x) for x in SLOPE)

    assert_slope(stored_thumbnail(gallery, f"rescaled {slope}", change), inverted=slope.startswith("-"))


@pytest.mark.parametrize(("center", "width"), [("100", "0"), ("100", "0.5"), ("", ""), ("100", "-5")])
def test_a_width_below_1_is_no_window(gallery: OrthancServer, center: str, width: str) -> None:
    def change(dataset: Dataset) -> None:
        without_window(dataset)
        dataset.WindowCenter, dataset.WindowWidth = center, width
        dataset.PixelData = b"".join(struct.pack("<H", 40 * x) for x in SLOPE)

    assert_slope(stored_thumbnail(gallery, f"width {width!r} {center}", change))


@pytest.mark.parametrize("limit", [None, 60010, 59990])
def test_padding_is_left_out_of_the_range(gallery: OrthancServer, limit: int | None) -> None:
    def change(dataset: Dataset) -> None:
        without_window(dataset)
        dataset.add_new("PixelPaddingValue", "US", 60000)
        if limit:
            dataset.add_new("PixelPaddingRangeLimit", "US", limit)
        filler = 60000 if limit is None else (60000 + limit) // 2
        padding = struct.pack("<H", filler) * SIDE * 16
        dataset.PixelData = padding + b"".join(struct.pack("<H", 10 * x) for x in SLOPE[16 * SIDE :])

    image = stored_thumbnail(gallery, f"padding {limit}", change)
    assert_slope(image.crop((0, 40, *image.size)))


@pytest.mark.parametrize("where", ["shared", "frame", "shared and frame"])
def test_the_window_of_the_functional_groups_counts(gallery: OrthancServer, where: str) -> None:
    """The window is 1000 to 1640 in rescaled values, so 0 to 64 in stored ones."""

    def change(dataset: Dataset) -> None:
        without_window(dataset)
        window, values = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = "1320", "640"
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "10", "1000", "US"
        shared, frame = Dataset(), Dataset()
        (shared if "shared" in where else frame).FrameVOILUTSequence = [window]
        (shared if where == "shared" else frame).PixelValueTransformationSequence = [values]
        dataset.NumberOfFrames = 2
        dataset.SharedFunctionalGroupsSequence = [shared]
        dataset.PerFrameFunctionalGroupsSequence = [Dataset(), frame]
        outliers = struct.pack("<H", 60000) * 6 * SIDE  # that would spoil the range
        slope = b"".join(struct.pack("<H", x) for x in SLOPE[6 * SIDE :])
        dataset.PixelData = 2 * (outliers + slope)

    assert_slope(stored_thumbnail(gallery, f"groups {where}", change))


def test_an_image_with_a_window_is_shown_with_it(gallery: OrthancServer) -> None:
    def change(dataset: Dataset) -> None:
        without_window(dataset)
        dataset.WindowCenter, dataset.WindowWidth = ["32", "1000"], ["64", "2000"]
        dataset.PixelData = b"".join(struct.pack("<H", x if i > 2000 else 50000) for i, x in enumerate(SLOPE))

    image = stored_thumbnail(gallery, "its own", change)
    assert_slope(image.crop((0, 100, *image.size)))


def test_thin_lines_do_not_vanish_where_an_image_is_made_smaller(gallery: OrthancServer) -> None:
    lines = [
        40 + 60 * number + number % 4 for number in range(8)
    ]  # one pixel wide; of four pixels one is drawn by Orthanc
    row = [1000 if x in lines else 0 for x in range(512)]

    def change(dataset: Dataset) -> None:
        dataset.PixelData = struct.pack("<512H", *row) * 512
        dataset.WindowCenter, dataset.WindowWidth = "500", "1000"

    files = make_study(patient_id="LINES", rows=512, columns=512, change=change)
    image = thumbnail(gallery, "series", gallery.store(files)[0]["ParentSeries"], format="png")
    drawn = image.convert("L").tobytes()[64 * 128 :][:128]
    assert [drawn[line // 4] for line in lines] == [64] * 8
    assert sum(drawn) == 8 * 64
