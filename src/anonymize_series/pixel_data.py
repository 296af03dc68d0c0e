# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pixel data holds pixels only: what else it can hold is blanked, as far as the image stays as it is."""

import functools
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from anonymize_series.codestreams import (
    JP2_START,
    JPEG_2000_START,
    JPEG_START,
    PixelsError,
    blank_jpeg,
    blank_jpeg_2000,
    blank_rle,
)
from anonymize_series.elements import elements_of, text_of
from anonymize_series.unused_bits import UnusedBits, number_of

PIXEL_DATA = 0x7FE00010
PIXELS = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))  # floats and doubles are pixels too
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.([56]\d|70|80|81)")  # JPEG-LS too
JPEG_2000 = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(9[0-3]|20[1-3])")  # with its second part, and High-Throughput
# Video and JPEG XL have too many places for texts: the second look searches their bytes.
ONLY_SEARCHED = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(10\d(\.1)?|11[0-2])")
ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)  # of encapsulated pixel data, always little endian (PS3.5 A.4)
BLOCK_BYTES = 1 << 20  # a multiple of each size of pixel; so few, because such an operation holds the interpreter


def clean_pixels(copy: Any, original: Any, kept: frozenset[int]) -> str | None:
    """Blank in a copy what is no pixel, in its pixel data and in that of its sequences; return why it can't be done.

    What is `kept` stays as it is.
    """
    syntax = str(copy.file_meta.TransferSyntaxUID)
    for path, holder, element in list(elements_of(copy)):
        if element.tag not in PIXELS or int(element.tag) in kept or not element.value:
            continue
        overlays = overlays_in_pixels(original) if path == (PIXEL_DATA,) else []
        try:
            if element.is_undefined_length:
                content = _clean_frames(holder, element.value, syntax, overlays)
            elif len(path) == 1 and _is_compressed(syntax):  # an icon need not be
                raise PixelsError("it is not in frames, as its transfer syntax says")
            else:
                content = _clean_native(holder, element, syntax, overlays)
        except PixelsError as error:
            return f"{element.keyword} may hold something that is no pixel: {error}"
        except (ArithmeticError, IndexError, TypeError, ValueError, struct.error) as error:  # its text may have a value
            return f"{element.keyword} may hold something that is no pixel: {type(error).__name__}"
        if content != element.value:
            holder[element.tag].value = content
    return None


def overlays_in_pixels(dataset: Any) -> list[int]:
    """Return the bits of pixels that hold overlays, as it was done once (PS3.3 C.9.2 of 2001)."""
    groups = [group for group in range(0x6000, 0x6020, 2) if (group, 0x3000) not in dataset]
    elements = [(dataset.get((group, 0x0102)), dataset.get((group, 0x0100))) for group in groups]
    positions = [(int(at.value or 0), bits and bits.value) for at, bits in elements if at is not None]
    return [at for at, bits in positions if at or (bits or 1) != 1]  # others have bit 0 of 1, and no data


def _is_compressed(syntax: str) -> bool:
    return syntax == RLE or any(kind.fullmatch(syntax) for kind in (JPEG, JPEG_2000, ONLY_SEARCHED))


# Encapsulated


def _clean_frames(holder: Any, value: bytes, syntax: str, overlays: list[int]) -> bytes:
    if overlays:
        raise PixelsError("it has overlays in unused bits, and is compressed")
    if ONLY_SEARCHED.fullmatch(syntax):
        return value
    starts_frame, blank_frame = _codec_of(holder, syntax)
    table, *fragments = _fragments(value)
    cleaned, offsets = bytearray(value), list[int]()
    for parts in _frames(value, fragments, _frames_of(holder), starts_frame):
        offsets.append(parts[0].start - 8 - table.stop)
        before = b"".join(value[part] for part in parts)
        frame = bytearray(before)
        blank_frame(frame)
        if frame == before:
            continue
        at = 0
        for part in parts:
            length = part.stop - part.start
            cleaned[part] = frame[at : at + length]
            at += length
    if table.stop > table.start and value[table] != struct.pack(f"<{len(offsets)}I", *offsets):
        return struct.pack("<HHI", *ITEM, 0) + cleaned[table.stop :]  # no table, rather than one that may hold anything
    return bytes(cleaned)


def _frames(
    value: bytes, fragments: list[slice], expected: int, starts_frame: Callable[[bytes], bool]
) -> list[list[slice]]:
    """Return the fragments of each frame."""
    if expected == 1:
        frames = [fragments] if fragments else []
    elif len(fragments) == expected:
        frames = [[fragment] for fragment in fragments]
    else:
        frames = []
        for fragment in fragments:
            if not frames or starts_frame(value[fragment.start : fragment.start + 8]):
                frames.append([])
            frames[-1].append(fragment)
    if len(frames) != expected:
        raise PixelsError(f"it has {len(frames)} frames instead of {expected}")
    if not all(starts_frame(value[first.start : first.start + 8]) for first, *_ in frames):
        raise PixelsError("a frame does not begin as its transfer syntax says")
    return frames


def _codec_of(holder: Any, syntax: str) -> tuple[Callable[[bytes], bool], Callable[[bytearray], None]]:
    """Return what tells the first fragment of a frame, and what blanks a frame."""
    if JPEG.fullmatch(syntax):
        return lambda start: start.startswith(JPEG_START), blank_jpeg
    if JPEG_2000.fullmatch(syntax):
        return lambda start: start.startswith((JPEG_2000_START, JP2_START)), blank_jpeg_2000
    if syntax == RLE:  # a frame is one fragment (PS3.5 A.4.2)
        pixels, allowed = number_of(holder, "Rows") * number_of(holder, "Columns"), UnusedBits(holder).allowed_bytes()
        return lambda start: True, functools.partial(blank_rle, segment_bytes=pixels, allowed=allowed)
    raise PixelsError(f"its transfer syntax is {syntax}")


def _fragments(value: bytes) -> Iterator[slice]:
    """Yield where the content of each item is; the first is the table of offsets."""
    at = 0
    while at < len(value):
        *tag, length = struct.unpack_from("<HHI", value, at)
        if tuple(tag) != ITEM or at + 8 + length > len(value):
            raise PixelsError("it does not consist of items")
        yield slice(at + 8, at + 8 + length)
        at += 8 + length


# Native


def _clean_native(holder: Any, element: Any, syntax: str, overlays: list[int]) -> bytes:
    value: bytes = element.value
    allocated, samples = number_of(holder, "BitsAllocated"), number_of(holder, "SamplesPerPixel", 1)
    bits = number_of(holder, "Rows") * number_of(holder, "Columns") * samples * allocated
    if text_of(holder, "PhotometricInterpretation") == "YBR_FULL_422" and len(value) < bits * _frames_of(holder) // 8:
        bits = bits // 3 * 2  # two pixels share their colour (PS3.3 C.7.6.3.1.2); some files say so and don't
    size = (bits * _frames_of(holder) + 7) // 8
    tail = value[size:]
    if any(tail):
        if len(tail) * 8 >= bits:
            raise PixelsError("it is longer than its frames, by a frame or more")
        value = value[: size + size % 2]
    unused = UnusedBits(holder, "big" if syntax == BIG_ENDIAN else "little", overlays)
    if element.tag != PIXEL_DATA or not unused.mask:
        return value
    blocks = [value[start : start + BLOCK_BYTES] for start in range(0, len(value), BLOCK_BYTES)]
    return b"".join(map(unused.blanked, blocks))


def _frames_of(holder: Any) -> int:
    return number_of(holder, "NumberOfFrames", 1)
