# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a DICOM file says at its top level, and whether it is whole: read to its end, without any package."""

import dataclasses
import struct
import zlib
from collections.abc import Collection, Iterator

IMPLICIT, DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
META_LENGTH, META_SYNTAX = 0x00020000, 0x00020010
SPECIFIC_CHARACTER_SET = 0x00080005
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)  # PS3.5 7.1.2
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DEEPEST = 30  # sequences in sequences
# Defined terms of SpecificCharacterSet (PS3.3 C.12.1.1.2) that need no escapes, and Python's names of them.
ENCODINGS = {
    **{"": "ascii", "ISO_IR 6": "ascii", "ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk"},
    **{"ISO_IR 100": "latin_1", "ISO_IR 101": "iso8859_2", "ISO_IR 109": "iso8859_3", "ISO_IR 110": "iso8859_4"},
    **{"ISO_IR 144": "iso8859_5", "ISO_IR 127": "iso8859_6", "ISO_IR 126": "iso8859_7", "ISO_IR 138": "iso8859_8"},
    **{"ISO_IR 148": "iso8859_9", "ISO_IR 203": "iso8859_15", "ISO_IR 166": "iso8859_11"},
}


@dataclasses.dataclass(frozen=True)
class Header:
    """The transfer syntax of a file, and the bytes of those of its elements that were asked for, by tag."""

    syntax: str
    values: dict[int, bytes]

    def text(self, tag: int) -> str | None:
        """Return a value as text, without its padding; None: it is not there. Raises ValueError: it can't be decoded here."""
        if (value := self.values.get(tag)) is None:
            return None
        if value.isascii():
            return value.decode("ascii").strip(" \0")
        charset = self.values.get(SPECIFIC_CHARACTER_SET, b"").decode("ascii", "replace").strip(" \0")
        return value.decode(ENCODINGS.get(charset, "ascii")).strip(" \0")


@dataclasses.dataclass(frozen=True)
class _Encoding:
    order: str  # of the bytes, as `struct` names it
    is_implicit: bool

    def head(self, data: bytes, position: int) -> tuple[int, int, int, bool]:
        """Return tag, start and length of the value of an element, and whether what is in it has implicit VRs."""
        group, element = struct.unpack_from(f"{self.order}HH", data, position)
        tag, position = group << 16 | element, position + 4
        if self.is_implicit or group == 0xFFFE:
            (length,) = struct.unpack_from(f"{self.order}I", data, position)
            return tag, position + 4, length, self.is_implicit
        vr = data[position : position + 2]
        if vr in LONG_VRS:
            (length,) = struct.unpack_from(f"{self.order}I", data, position + 4)
            return tag, position + 8, length, vr == b"UN"
        (length,) = struct.unpack_from(f"{self.order}H", data, position + 2)
        return tag, position + 4, length, False


def read_header(data: bytes, wanted: Collection[int]) -> Header:
    """Return what a Part 10 file says (PS3.10 7.1), with the elements of its top level that are wanted.

    Raises
    ------
    ValueError : it is no such file, or it is cut.
    """
    if data[128:132] != b"DICM":
        raise ValueError("it is no DICOM file")
    try:
        return _read(data, wanted)
    except (struct.error, zlib.error):
        raise ValueError("it is cut, or no DICOM") from None


def _read(data: bytes, wanted: Collection[int]) -> Header:
    explicit = _Encoding("<", is_implicit=False)
    tag, start, length, _ = explicit.head(data, 132)
    if tag != META_LENGTH or length != 4:
        raise ValueError("it has no file meta information")
    begin = start + length + struct.unpack_from("<I", data, start)[0]
    meta = dict[int, bytes]()
    for each, first, last in _elements(data[:begin], 132, explicit):
        meta[each] = data[first:last]
    syntax = meta.get(META_SYNTAX, b"").decode("ascii", "replace").strip(" \0")
    if not syntax:
        raise ValueError("it does not say in which transfer syntax it is")
    encoding = _Encoding(">" if syntax == BIG_ENDIAN else "<", is_implicit=syntax == IMPLICIT)
    if syntax == DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data, begin = inflater.decompress(data[begin:]), 0
        if not inflater.eof:
            raise ValueError("it is cut")
    values = {
        each: data[first:last]
        for each, first, last in _elements(data, begin, encoding)
        if each in wanted or each == SPECIFIC_CHARACTER_SET
    }
    return Header(syntax, values)


def _elements(data: bytes, position: int, encoding: _Encoding) -> Iterator[tuple[int, int, int]]:
    """Yield tag, start and end of each element, up to the end of the data. Raises ValueError, struct.error: they are cut."""
    while position < len(data):
        tag, start, length, is_implicit = encoding.head(data, position)
        position = start + length if length != UNDEFINED else _end_of_sequence(data, start, encoding, is_implicit)
        if position > len(data):
            raise ValueError("it is cut")
        yield tag, start, position


def _end_of_sequence(data: bytes, position: int, outer: _Encoding, is_implicit: bool, depth: int = 0) -> int:
    """Return where a sequence of undefined length, or of fragments, ends, its delimiter included (PS3.5 7.5, A.4)."""
    if depth > DEEPEST:
        raise ValueError("its sequences are nested too deep")
    encoding = _Encoding("<" if is_implicit else outer.order, is_implicit)
    while True:
        tag, position, length, _ = encoding.head(data, position)
        if tag == SEQUENCE_END:
            return position
        if tag != ITEM:
            raise ValueError("one of its sequences holds what is no item")
        position = position + length if length != UNDEFINED else _end_of_item(data, position, encoding, depth)
        if position > len(data):
            raise ValueError("it is cut")


def _end_of_item(data: bytes, position: int, encoding: _Encoding, depth: int) -> int:
    """Return where an item of undefined length ends, its delimiter included."""
    while True:
        tag, position, length, is_implicit = encoding.head(data, position)
        if tag == ITEM_END:
            return position
        if length != UNDEFINED:
            position += length
        else:
            position = _end_of_sequence(data, position, encoding, is_implicit, depth + 1)
