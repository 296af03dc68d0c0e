# SPDX-License-Identifier: AGPL-3.0-or-later
"""Frames of encapsulated pixel data: what a decoder does not need is overwritten with zeros; each length and offset stays."""

import itertools
import re
import struct
from collections.abc import Sequence

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", 0xDA, 0xD9
# Frame headers, tables, scans, restart intervals, heights (ITU-T T.81 Table B.1) and parameters of JPEG-LS (T.87 C.1.1).
JPEG_DECODED = frozenset((*range(0xC0, 0xD0), *range(0xDA, 0xE0), 0xF7, 0xF8))
JPEG_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))  # TEM, RST0 to RST7
# Of application segments: what decides how the image is decoded, with so many bytes of it. JFIF's thumbnail is behind those;
# Adobe's, that of JPEG-LS (mrfx) and SPIFF's (T.84 F.2) tell the colours.
JPEG_KEPT = ((0xE0, b"JFIF\0", 12), (0xEE, b"Adobe", 12), (0xE8, b"mrfx", 5), (0xE8, b"SPIFF\0", 30))
JPEG_MARKER_IN_SCAN = re.compile(
    rb"\xff[\x80-\xcf\xd8-\xfe]"
)  # no stuffed byte, fill byte or restart (T.81 F.1.2.3, T.87 A.1)

JPEG_2000_START = b"\xff\x4f\xff\x51"
JPEG_2000_COMMENT, JPEG_2000_TILE, JPEG_2000_DATA, JPEG_2000_END = 0xFF64, 0xFF90, 0xFF93, 0xFFD9  # ITU-T T.800 A.2
JPEG_2000_FIRST_END = re.compile(
    rb"(?<!\xff\x91\x00\x04)\xff\xd9"
)  # not the number of a packet; packets hold no other (B.10.1)
JP2_START = b"\0\0\0\x0cjP  "
JP2_DECODED = (b"jP  ", b"ftyp", b"jp2h")  # T.800 I.5; others hold XML, UUIDs, rights

RLE_HEADER_BYTES, RLE_MOST_SEGMENTS = 64, 15  # DICOM PS3.5 G.5


class PixelsError(Exception):
    """Pixel data is not as it says, so that nobody can tell what of it is a pixel. The text has nothing of the file."""


def blank(frame: bytearray, start: int, end: int) -> None:
    """Overwrite a part of a frame with zeros."""
    if end > start:
        frame[start:end] = bytes(end - start)


def blank_jpeg(frame: bytearray) -> None:
    """Blank comments, application segments, thumbnails, and what is behind the end (ITU-T T.81 B.1.1; JPEG-LS as well)."""
    at = 2
    while True:
        if frame[at] != 0xFF:
            raise PixelsError("a JPEG frame has no marker where one should be")
        while frame[at + 1] == 0xFF:  # fill bytes
            at += 1
        code, start = frame[at + 1], at + 4
        if code == JPEG_END:
            return blank(frame, at + 2, len(frame))
        if code in JPEG_WITHOUT_LENGTH:
            at += 2
            continue
        at += 2 + _length_at(frame, at + 2)
        blank(frame, start + _kept_of_jpeg(code, bytes(frame[start : start + 16]), at - start), at)
        if code == JPEG_SCAN:
            if not (marker := JPEG_MARKER_IN_SCAN.search(frame, at)):
                return None  # it is cut
            at = marker.start()


def _kept_of_jpeg(code: int, content: bytes, length: int) -> int:
    """Return how many bytes of a segment stay."""
    if code in JPEG_DECODED:
        return length
    return next((kept for one, name, kept in JPEG_KEPT if code == one and content.startswith(name)), 0)


def blank_jpeg_2000(frame: bytearray) -> None:
    """Blank comments, boxes that say nothing of the image, and what is behind the end."""
    if not frame.startswith(JP2_START):
        return _blank_codestream(frame, 0, len(frame))
    at = 0
    while at + 8 <= len(frame):
        (length, kind), header = struct.unpack_from(">I4s", frame, at), 8
        if length == 1:
            (length,), header = struct.unpack_from(">Q", frame, at + 8), 16
        end = at + length if length else len(frame)  # the last box may go to the end
        if not at + header <= end <= len(frame):
            raise PixelsError("a box of a JPEG 2000 frame is longer than the frame")
        if kind == b"jp2c":  # what it needs is in front of it (T.800 I.2.2)
            _blank_codestream(frame, at + header, end)
            return blank(frame, end, len(frame))
        if kind not in JP2_DECODED:
            frame[at + 4 : at + 8] = b"free"
            blank(frame, at + header, end)
        at = end
    raise PixelsError("a JP2 file has no codestream")


def _blank_codestream(frame: bytearray, at: int, end: int) -> None:
    """Blank the comments of a codestream, in the headers of its tiles too, and what is behind it."""
    tile_end, at = end, at + 2
    while at + 2 <= end:
        (code,) = struct.unpack_from(">H", frame, at)
        if code == JPEG_2000_END:
            return blank(frame, at + 2, end)
        if code == JPEG_2000_DATA:
            if tile_end < at + 2:
                raise PixelsError("a tile of a JPEG 2000 frame is shorter than its header")
            at = tile_end
            continue
        if not 0xFF4F < code < 0xFF93:
            if not any(frame[at:end]):
                return None  # it has no end, but padding
            raise PixelsError("a JPEG 2000 frame has no marker where one should be")
        start, length = at, 2 + _length_at(frame, at + 2)
        if code == JPEG_2000_TILE:
            (tile_length,) = struct.unpack_from(">I", frame, at + 6)
            if tile_length:
                tile_end = at + tile_length
            else:  # it goes to the end
                found = JPEG_2000_FIRST_END.search(frame, at + length, end)
                tile_end = found.start() if found else end
        at += length
        if code == JPEG_2000_COMMENT:
            blank(frame, start + 4, at)
    return None  # it is cut


def blank_rle(frame: bytearray, segment_bytes: int, allowed: Sequence[bytes]) -> None:
    """Blank what is behind the pixels of each segment, and between segments (PS3.5 G.3 to G.5).

    Parameters
    ----------
    segment_bytes : of a segment when it is unpacked, one byte of each pixel.
    allowed : of each byte of a sample, the highest first: the values that it may have.
    """
    count, *offsets = struct.unpack_from(f"<{1 + RLE_MOST_SEGMENTS}I", frame)
    offsets = [*offsets[:count], len(frame)]
    if not 1 <= count <= RLE_MOST_SEGMENTS or offsets != sorted(offsets) or offsets[0] < RLE_HEADER_BYTES:
        raise PixelsError("the segments of an RLE frame are not where its header says")
    blank(frame, 4 * (1 + count), offsets[0])
    for number, (start, end) in enumerate(itertools.pairwise(offsets)):
        blank(frame, _end_of_packed(frame, (start, end), segment_bytes, allowed[number % len(allowed)]), end)


def _end_of_packed(frame: bytearray, segment: tuple[int, int], unpacked: int, allowed: bytes) -> int:
    """Return where the bytes end that give so many when they are unpacked (PackBits); each must be an allowed one."""
    at, end = segment
    while unpacked > 0 and at < end:
        code, start = frame[at], at + 1
        if code < 128:
            at, unpacked = start + code + 1, unpacked - 1 - code
        elif code > 128:
            at, unpacked = start + 1, unpacked - 257 + code
        else:
            at = start
        if frame[start:at].translate(None, allowed):
            raise PixelsError("unused bits of compressed pixels hold something")
    return min(at, end)


def _length_at(frame: bytearray, at: int) -> int:
    """Return the length of a segment of JPEG or JPEG 2000, that of the length itself included."""
    (length,) = struct.unpack_from(">H", frame, at)
    if length < 2 or at + length > len(frame):
        raise PixelsError("a segment of a frame is longer than the frame")
    return int(length)
