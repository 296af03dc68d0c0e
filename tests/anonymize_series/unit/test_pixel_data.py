# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pixel data without a server: what is no pixel is blanked, and each pixel stays as it is; else the image is held back."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments, generate_frames

from tests.anonymize_series import hiding_places as hiding
from tests.anonymize_series.hiding_places import FOUND, JPEG_2000, JPEG_BASELINE, JPEG_LS, RLE
from tests.anonymize_series.unit.test_guards import original

NATIVE, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NONE_KEPT: frozenset[int] = frozenset()


@pytest.fixture
def module(source: Callable[[str], ModuleType]) -> Any:
    return source("anonymize_series.pixel_data")


def image(value: bytes, syntax: str = NATIVE, **values: Any) -> Dataset:
    """An image of 4 x 2 pixels of 16 bits, 12 of which are stored, if no value says otherwise."""
    defaults: dict[str, Any] = {"Rows": 2, "Columns": 4, "SamplesPerPixel": 1, "BitsAllocated": 16, "BitsStored": 12,
                                "HighBit": 11, "PixelRepresentation": 0}  # fmt: skip
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    for keyword, each in (defaults | values).items():
        setattr(dataset, keyword, each)
    dataset.add_new(0x7FE00010, "OW", value)
    dataset["PixelData"].is_undefined_length = syntax not in (NATIVE, BIG_ENDIAN)
    return dataset


def cleaned(module: Any, dataset: Dataset, before: Dataset | None = None) -> Any:
    """The pixel data without what is no pixel; or the reason why it is held back."""
    return module.clean_pixels(dataset, before or dataset, NONE_KEPT) or dataset.PixelData


def words(*pixels: int, form: str = "<") -> bytes:
    return struct.pack(f"{form}{len(pixels)}H", *pixels)


PIXELS = (0, 1, 0x7FF, 0x800, 0xFFF, 0xABC, 0x123, 0x456)
PLAIN = words(*PIXELS)


# Native: the tail


def test_what_is_behind_the_last_pixel_is_cut(module: Any) -> None:
    assert cleaned(module, image(PLAIN + b"Doe^Jane")) == PLAIN


@pytest.mark.parametrize("tail", [b"", bytes(2), bytes(64)])
def test_padding_with_zeros_stays(module: Any, tail: bytes) -> None:
    assert cleaned(module, image(PLAIN + tail)) == PLAIN + tail


def test_what_may_be_another_frame_is_held_back(module: Any) -> None:
    assert "longer than its frames" in cleaned(module, image(PLAIN + PLAIN))
    assert cleaned(module, image(PLAIN + PLAIN, NumberOfFrames="2")) == PLAIN + PLAIN
    assert cleaned(module, image(PLAIN)) == PLAIN


def test_pixels_that_share_their_colours_take_two_thirds(module: Any) -> None:
    colours: dict[str, Any] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SamplesPerPixel": 3}
    shared: dict[str, Any] = {**colours, "PhotometricInterpretation": "YBR_FULL_422"}
    assert cleaned(module, image(bytes(range(16)) + b"Doe", **shared)) == bytes(range(16))
    assert cleaned(module, image(bytes(range(24)), **shared)) == bytes(range(24))  # some say so and don't
    assert cleaned(module, image(bytes(range(24)) + b"Doe", **colours)) == bytes(range(24))


def test_an_odd_pixel_keeps_its_padding(module: Any) -> None:
    one: dict[str, Any] = {"Rows": 1, "Columns": 3, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    assert cleaned(module, image(b"abc\0", **one)) == b"abc\0"
    assert cleaned(module, image(b"abc\0D", **one)) == b"abc\0"


def test_pixels_of_sequences_and_floats_are_looked_at_too(module: Any) -> None:
    outer = image(PLAIN)
    outer.IconImageSequence = [image(PLAIN + b"Doe^Jane")]
    assert module.clean_pixels(outer, outer, NONE_KEPT) is None
    assert outer.IconImageSequence[0].PixelData == PLAIN
    floats = image(b"")
    floats.BitsAllocated = 32
    floats.add_new(0x7FE00008, "OF", bytes(range(32)) + b"Doe^Jane")
    assert module.clean_pixels(floats, floats, NONE_KEPT) is None
    assert floats.FloatPixelData == bytes(range(32))


def test_pixel_data_that_the_recipe_keeps_stays_as_it_is(module: Any) -> None:
    dataset = image(PLAIN + b"Doe^Jane")
    assert module.clean_pixels(dataset, dataset, frozenset({0x7FE00010})) is None
    assert dataset.PixelData == PLAIN + b"Doe^Jane"


# Native: unused bits


@pytest.mark.parametrize(("syntax", "form"), [(NATIVE, "<"), (BIG_ENDIAN, ">")])
def test_unused_bits_are_cleared(module: Any, syntax: str, form: str) -> None:
    value = words(*(pixel | 0xA000 for pixel in PIXELS), form=form)
    assert cleaned(module, image(value, syntax)) == words(*PIXELS, form=form)


def test_unused_bits_below_the_pixels_are_cleared(module: Any) -> None:
    value = words(*(pixel << 4 | 5 for pixel in PIXELS))
    assert cleaned(module, image(value, HighBit=15)) == words(*(pixel << 4 for pixel in PIXELS))


def test_a_large_image_is_cleared_in_blocks(module: Any) -> None:
    count = 3 * module.BLOCK_BYTES // 4
    value = words(0x8001) * count
    assert cleaned(module, image(value, Rows=1, Columns=count)) == words(1) * count


def test_a_signed_pixel_keeps_its_value(module: Any) -> None:
    value = words(*(pixel | 0x5000 for pixel in PIXELS))
    extended = words(*(pixel | 0xF000 if pixel & 0x800 else pixel for pixel in PIXELS))
    assert cleaned(module, image(value, PixelRepresentation=1)) == extended


@pytest.mark.parametrize("extended", [True, False, None], ids=["extended", "not extended", "some"])
def test_a_signed_image_stays_as_it_is_whether_its_sign_is_repeated_or_not(module: Any, extended: bool | None) -> None:
    values = [
        pixel | 0xF000 if pixel & 0x800 and (extended or (extended is None and number % 2)) else pixel
        for number, pixel in enumerate(PIXELS)
    ]
    assert cleaned(module, image(words(*values), PixelRepresentation=1)) == words(*values)


def test_a_sign_that_is_repeated_in_part_is_none(module: Any) -> None:
    values = [0x5FFF, 0x9ABC, 0x0001, 0x0002, 0x0003, 0x0004, 0x0005, 0x0006]
    assert cleaned(module, image(words(*values), PixelRepresentation=1)) == words(0xFFFF, 0xFABC, *values[2:])


def overlay(bit: int, **more: Any) -> Dataset:
    dataset = original()
    dataset.add_new(0x60000102, "US", bit)
    for tag, vr, value in more.values():
        dataset.add_new(tag, vr, value)
    return dataset


def test_an_overlay_that_looks_like_a_sign_goes(module: Any) -> None:
    """In bit 15 of 15 signed bits: a negative pixel may have it or not."""
    values = [0x4000, 0xC000, 0x4001, 0xC001, 0, 1, 2, 3]
    dataset = image(words(*values), BitsStored=15, HighBit=14, PixelRepresentation=1)
    assert cleaned(module, dataset, overlay(15)) == words(0xC000, 0xC000, 0xC001, 0xC001, 0, 1, 2, 3)


def test_an_overlay_in_bits_of_pixels_is_held_back_and_one_of_its_own_is_not(module: Any) -> None:
    assert "an overlay is in bits of its pixels" in cleaned(module, image(PLAIN), overlay(3))
    own = overlay(3, data=(0x60003000, "OW", b"\0\0"))
    assert cleaned(module, image(PLAIN), own) == PLAIN
    assert cleaned(module, image(PLAIN), overlay(0)) == PLAIN  # without data


@pytest.mark.parametrize(("keyword", "value"), [("PixelPaddingValue", 63536), ("LargestImagePixelValue", 4096)])
def test_bits_that_pixels_use_whatever_bits_stored_says_are_held_back(module: Any, keyword: str, value: int) -> None:
    dataset = image(words(0xF830, *PIXELS[1:]))
    setattr(dataset, keyword, value)
    assert "pixels use the bits" in cleaned(module, dataset)
    dataset.PixelData = PLAIN
    assert cleaned(module, dataset) == PLAIN


@pytest.mark.parametrize(
    "values",
    [{"BitsStored": 17}, {"HighBit": 9}, {"BitsAllocated": 12, "BitsStored": 10, "HighBit": 9}, {"Rows": None},
     {"BitsStored": 0}],
)  # fmt: skip
def test_unusual_bits_are_held_back(module: Any, values: dict[str, Any]) -> None:
    assert "PixelData may hold something that is no pixel" in cleaned(module, image(PLAIN, **values))


def test_all_bits_used_and_pixels_of_one_bit_stay(module: Any) -> None:
    assert cleaned(module, image(PLAIN, BitsStored=16, HighBit=15)) == PLAIN
    one: dict[str, Any] = {"Rows": 9, "Columns": 7, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    assert cleaned(module, image(b"\xff" * 8 + b"Do", **one)) == b"\xff" * 8  # 63 bits


# Encapsulated


BYTES: dict[str, Any] = {"Rows": 64, "Columns": 64, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}


def compressed(frame: bytes, syntax: str, **values: Any) -> Dataset:
    return image(encapsulate([frame]), syntax, **BYTES | values)


def pictures(value: bytes, frames: int = 1) -> list[bytes]:
    return [Image.open(io.BytesIO(frame)).tobytes() for frame in generate_frames(value, number_of_frames=frames)]


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        *((JPEG_BASELINE, hiding.jpeg(code)) for code in (0xFE, *range(0xE0, 0xF0))),
        (JPEG_BASELINE, hiding.jpeg(0xE1, b"Exif\0\0" + FOUND * 2000)),
        (JPEG_BASELINE, hiding.jpeg(0xE0, b"JFIF\0\1\1\1\0\x48\0\x48\1\1" + FOUND)),
        (JPEG_BASELINE, hiding.encoded("JPEG", progressive=True) + FOUND),
        (JPEG_BASELINE, hiding.encoded("JPEG", progressive=True, comment=FOUND)),
        (JPEG_2000, hiding.jpeg_2000()),
        (JPEG_2000, hiding.jp2()),
        (JPEG_2000, hiding.encoded("JPEG2000", no_jp2=True) + FOUND + b"\xff\xd9"),
        (JPEG_2000, hiding.encoded("JPEG2000") + FOUND),
        (JPEG_2000, hiding.encoded("JPEG2000", no_jp2=True, tile_size=(16, 16), comment=FOUND)),
        ("1.2.840.10008.1.2.4.201", hiding.jpeg_2000()),
    ],
)  # fmt: skip
def test_what_a_codestream_says_besides_is_blanked_and_its_picture_stays(
    module: Any, syntax: str, frame: bytes
) -> None:
    dataset = compressed(frame, syntax)
    before = dataset.PixelData
    assert FOUND in before
    after = cleaned(module, dataset)
    assert FOUND not in after
    assert (len(after), pictures(after)) == (len(before), pictures(before))
    assert cleaned(module, dataset) == after


def test_what_decides_how_a_jpeg_looks_stays(module: Any) -> None:
    rgb = io.BytesIO()
    Image.merge("RGB", [hiding.picture(), hiding.picture().transpose(Image.Transpose.ROTATE_90), hiding.picture()]).save(
        rgb, "JPEG", keep_rgb=True  # Adobe's segment says that
    )  # fmt: skip
    cmyk = io.BytesIO()
    hiding.picture().convert("CMYK").save(cmyk, "JPEG")
    for buffer in (rgb, cmyk):
        value = encapsulate([buffer.getvalue()])
        assert cleaned(module, image(value, JPEG_BASELINE, **BYTES)) == value
        assert b"Adobe" in value


@pytest.mark.parametrize("name", [b"mrfx\3", b"SPIFF\0" + bytes(range(24))])
def test_what_decides_how_a_jpeg_ls_looks_stays(module: Any, name: bytes) -> None:
    dataset = image(b"")
    hiding.put_in_jpeg_ls(dataset)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    with_name = encapsulate([frame[:2] + hiding.segment(0xE8, name) + frame[2:]])
    after = cleaned(module, image(with_name, JPEG_LS, **BYTES))
    assert FOUND not in after
    assert hiding.segment(0xE8, name) in after


def codestream(module: Any) -> bytes:
    """Return one without the encoder's comment."""
    after = cleaned(module, compressed(hiding.encoded("JPEG2000", no_jp2=True), JPEG_2000))
    frame: bytes = next(generate_frames(after, number_of_frames=1))
    return frame[: frame.index(b"\xff\xd9") + 2]


def test_the_last_tile_of_a_jpeg_2000_may_go_to_its_end(module: Any) -> None:
    """Where its length is 0 (T.800 A.4.2); bytes behind the end may look like another one."""
    frame = bytearray(codestream(module))
    at = frame.index(b"\xff\x90\0\x0a") + 6
    frame[at : at + 4] = bytes(4)
    plain = bytes(frame)
    after = cleaned(module, compressed(plain + FOUND + b"\xff\xd9", JPEG_2000))
    assert next(generate_frames(after, number_of_frames=1)).rstrip(b"\0") == plain


@pytest.mark.parametrize("tail", [b"", b"\0", bytes(6)])
def test_a_jpeg_2000_may_lack_its_end(module: Any, tail: bytes) -> None:
    frame = codestream(module)
    value = encapsulate([frame.removesuffix(b"\xff\xd9") + tail])
    assert cleaned(module, image(value, JPEG_2000, **BYTES)) == value
    assert "no marker" in cleaned(module, compressed(frame.removesuffix(b"\xff\xd9") + FOUND, JPEG_2000))


def test_fragments_offsets_and_lengths_stay(module: Any) -> None:
    frames = [hiding.jpeg(0xFE), hiding.encoded("JPEG"), hiding.jpeg(0xE5)]
    for value in (
        encapsulate(frames),
        encapsulate(frames, has_bot=False),
        encapsulate(frames, fragments_per_frame=5),
        encapsulate(frames, fragments_per_frame=5, has_bot=False),
    ):
        after = cleaned(module, image(value, JPEG_BASELINE, **BYTES, NumberOfFrames="3"))
        assert FOUND not in after
        assert value[: value.index(b"\xff\xd8")] == after[: value.index(b"\xff\xd8")]  # with the table of offsets
        assert [len(each) for each in generate_fragments(after)] == [len(each) for each in generate_fragments(value)]
        assert pictures(after, 3) == pictures(value, 3)
    value, offsets, lengths = encapsulate_extended(frames)
    dataset = image(value, JPEG_BASELINE, **BYTES, NumberOfFrames="3")
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    after = cleaned(module, dataset)
    found = generate_frames(after, number_of_frames=3, extended_offsets=(offsets, lengths))
    assert [Image.open(io.BytesIO(frame)).tobytes() for frame in found] == pictures(value, 3)


def test_a_table_of_offsets_that_is_none_goes(module: Any) -> None:
    dataset = image(b"", JPEG_BASELINE, **BYTES)
    hiding.put_in_offsets(dataset)
    before = dataset.PixelData
    after = cleaned(module, dataset)
    assert after[:8] == b"\xfe\xff\0\xe0\0\0\0\0"
    assert pictures(after) == pictures(before)


@pytest.mark.parametrize(
    ("values", "why"),
    [({"NumberOfFrames": "2"}, "1 frames instead of 2"), ({}, None)],
)
def test_other_frames_than_it_says_are_held_back(module: Any, values: dict[str, str], why: str | None) -> None:
    found = cleaned(module, compressed(hiding.encoded("JPEG"), JPEG_BASELINE, **values))
    assert why in found if why else isinstance(found, bytes)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG_BASELINE, FOUND),
        (JPEG_BASELINE, b"Do\xff\xd9"),
        (JPEG_2000, FOUND),
        (JPEG_BASELINE, b"\xff\xd8\xff\xfe\xff\xff" + FOUND),
        (JPEG_BASELINE, b"\xff\xd8\xff\xdb\0\4\0\0" + FOUND),
        (JPEG_2000, b"\xff\x4f\xff\x51\0\4\0\0" + FOUND),
        (JPEG_2000, b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\1\0xml " + FOUND),
        (JPEG_2000, b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x22xml " + FOUND),
        (RLE, FOUND),
        (RLE, FOUND * 8),
        ("1.2.840.10008.1.2.8.1", FOUND),
    ],
)
def test_frames_that_are_not_as_their_syntax_says_are_held_back(module: Any, syntax: str, frame: bytes) -> None:
    found = cleaned(module, compressed(frame, syntax))
    assert isinstance(found, str)
    assert found.startswith("PixelData may hold something that is no pixel: ")
    assert "Hidenberg" not in found


def test_compressed_pixels_without_frames_are_held_back(module: Any) -> None:
    dataset = compressed(hiding.jpeg(0xFE), JPEG_BASELINE)
    dataset["PixelData"].is_undefined_length = False
    assert "not in frames" in cleaned(module, dataset)


def test_an_overlay_in_compressed_pixels_is_held_back(module: Any) -> None:
    assert "overlays in unused bits" in cleaned(module, compressed(hiding.encoded("JPEG"), JPEG_BASELINE), overlay(12))


# RLE


def rle_of(*planes: bytes, gap: bytes = b"", tail: bytes = b"") -> bytes:
    """A frame of a segment for each plane."""
    segments = [hiding.rle(plane)[64:] + gap for plane in planes]
    offsets = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    header = (len(planes), *offsets, *[0] * (15 - len(planes)))
    return struct.pack("<16I", *header) + b"".join(segments) + tail


HIGH, LOW = bytes(pixel >> 8 for pixel in PIXELS), bytes(pixel & 0xFF for pixel in PIXELS)


@pytest.mark.parametrize("where", ["gap", "tail"])
def test_what_is_behind_the_pixels_of_a_segment_is_blanked(module: Any, where: str) -> None:
    frame = rle_of(HIGH, LOW, **{where: FOUND})
    after = cleaned(module, image(encapsulate([frame]), RLE))
    assert after == encapsulate([frame.replace(FOUND, bytes(len(FOUND)))])


def test_what_is_in_the_header_of_rle_is_blanked(module: Any) -> None:
    frame = bytearray(rle_of(HIGH, LOW))
    frame[30:56] = FOUND
    assert cleaned(module, image(encapsulate([bytes(frame)]), RLE)) == encapsulate([rle_of(HIGH, LOW)])


@pytest.mark.parametrize(
    ("high", "signed", "fine"),
    [(0x0F, 0, True), (0x1F, 0, False), (0xF8, 1, True), (0x08, 1, True), (0xF7, 1, False), (0x78, 1, False)],
)
def test_unused_bits_of_rle_are_held_back_if_they_are_used(module: Any, high: int, signed: int, fine: bool) -> None:
    value = encapsulate([rle_of(HIGH[:-1] + bytes((high,)), LOW)])
    found = cleaned(module, image(value, RLE, PixelRepresentation=signed))
    assert found == value if fine else "unused bits of compressed pixels hold something" in found


# The second look


@pytest.mark.parametrize("codec", ["latin-1", "utf-8"])
@pytest.mark.parametrize("text", ["Müllerström", "MÜLLERSTRÖM", "müllerström"])
def test_pixel_data_is_searched_as_the_original_writes_its_texts(source: Any, text: str, codec: str) -> None:
    before, copy = original(), Dataset()
    before.SpecificCharacterSet, before.PatientName = "ISO_IR 100", "Müllerström^Jörgen"
    copy.add_new(0x7FE00010, "OB", b"\xff\xd8\xff" + text.encode(codec) + b"\xff")
    found = source("anonymize_series.checks").what_remains(copy, before, NONE_KEPT)
    assert found == "PixelData holds the PatientName of the original"
