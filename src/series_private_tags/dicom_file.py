# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the head of a DICOM file holds: its series, and the private tags that are looked for."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from common.identifiers import orthanc_identifier

from .entries import DEFLATED, EXPLICIT_BIG_ENDIAN, Wanted

LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)  # PS3.5 7.1.2
IMPLICIT = "1.2.840.10008.1.2"
MAX_SEQUENCE_DEPTH = 30  # sequences in sequences
UNDEFINED = 0xFFFFFFFF
SPECIFIC_CHARACTER_SET, SERIES_INSTANCE_UID = 0x00080005, 0x0020000E
IDENTIFIERS = (0x00100020, 0x0020000D, SERIES_INSTANCE_UID)  # PatientID, StudyInstanceUID
PUBLIC = frozenset({SPECIFIC_CHARACTER_SET, *IDENTIFIERS})
EXPLICIT_HEAD, LENGTH = struct.Struct("<HH2sH"), struct.Struct("<I")


def elements(
    data: bytes, position: int, implicit: bool, wanted: Wanted, passed: list[slice]
) -> Iterator[tuple[int, int, int]]:
    """Yield tag, start and end of the value of each element of a data set in Little Endian that is looked for.

    Add the bytes that say where the next element begins to `passed`. Raises ValueError, struct.error: it is cut or broken.
    """
    groups, last_group, size = wanted.groups, wanted.last_group, len(data)
    while position + 8 <= size:
        group, element, vr, length = EXPLICIT_HEAD.unpack_from(data, position)
        if group > last_group:
            return
        start = position + 8
        if implicit:
            (length,) = LENGTH.unpack_from(data, position + 4)
        elif vr in LONG_VRS:
            (length,) = LENGTH.unpack_from(data, start)
            start += 4
        begin, position = position, start + length
        if length == UNDEFINED:
            position = end_of_sequence(data, start, implicit or vr == b"UN")
        passed.append(slice(begin, position if length == UNDEFINED else start))
        if position > size:
            raise ValueError("an element ends beyond the file")
        tag = group << 16 | element
        if tag in PUBLIC and vr == b"UN" and not implicit:
            raise ValueError("Orthanc gives the series of a file with identifiers of VR UN another name")
        if tag in PUBLIC or group in groups:
            yield tag, start, position


def end_of_sequence(data: bytes, position: int, implicit: bool, depth: int = 0) -> int:
    """Return where a sequence of undefined length ends, its delimiter included (DICOM PS3.5 7.5)."""
    if depth > MAX_SEQUENCE_DEPTH:
        raise ValueError("sequences are nested too deep")
    while True:
        group, element = struct.unpack_from("<HH", data, position)
        (length,) = LENGTH.unpack_from(data, position + 4)
        position += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return position
        if (group, element) != (0xFFFE, 0xE000):
            raise ValueError("a sequence holds what is no item")
        position = position + length if length != UNDEFINED else end_of_item(data, position, implicit, depth)


def end_of_item(data: bytes, position: int, implicit: bool, depth: int) -> int:
    """Return where an item of undefined length ends, its delimiter included."""
    while True:
        group, element, vr, length = EXPLICIT_HEAD.unpack_from(data, position)
        start = position + 8
        if (group, element) == (0xFFFE, 0xE00D):
            return start
        if implicit:
            (length,) = LENGTH.unpack_from(data, position + 4)
        elif vr in LONG_VRS:
            (length,) = LENGTH.unpack_from(data, start)
            start += 4
        position = (
            start + length if length != UNDEFINED else end_of_sequence(data, start, implicit or vr == b"UN", depth + 1)
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a file has its tags up to SeriesInstanceUID; a file with the same `heads` there has all of them in the same places.

    The reason: its first element is as long as that one's, so its second begins at the same place, and so on.
    """

    passed: tuple[slice, ...]
    heads: bytes
    identifiers: tuple[slice, ...]

    @classmethod
    def of(cls, data: bytes, passed: Sequence[slice], identifiers: Iterable[slice]) -> Layout:
        return cls(tuple(passed), b"".join(map(data.__getitem__, passed)), tuple(identifiers))

    def series_of(self, data: bytes) -> str | None:
        """Return the Orthanc identifier of the series of a file, or None: it is laid out differently, or not all is ASCII."""
        if b"".join(map(data.__getitem__, self.passed)) != self.heads:
            return None
        try:
            return orthanc_identifier(*(text_of(data[each]) for each in self.identifiers))
        except UnicodeDecodeError:
            return None


@dataclasses.dataclass
class Scanned:
    """What a file holds: the Orthanc identifier of its series, and number and bytes of each entry that is there."""

    series: str
    character_set: str
    present: dict[str, tuple[str, bytes]]
    layout: Layout | None = None


def scan(data: bytes, wanted: Wanted, is_complete: Callable[[str], bool]) -> Scanned:
    """Look through the head of a Part 10 file; only up to SeriesInstanceUID, if `is_complete` says that its series needs no more.

    Raises ValueError, struct.error: this can't be read here (Big Endian, deflated, broken, a PatientID of VR UN or not ASCII).
    """
    syntax, place, start = syntax_of(data)
    passed = [slice(128, 144), place]  # with the length of the file meta information
    public = dict.fromkeys(PUBLIC, slice(0))
    creators: dict[tuple[int, int], str] = {}
    scanned = Scanned("", "", {})
    for tag, begin, end in elements(data, start, syntax == IMPLICIT, wanted, passed):
        if tag not in PUBLIC:
            note(scanned, wanted, creators, tag >> 16, tag & 0xFFFF, data[begin:end])
            continue
        public[tag] = slice(begin, end)
        if tag == SERIES_INSTANCE_UID:
            scanned.layout = Layout.of(data, passed, (public[each] for each in IDENTIFIERS))
            scanned.series = scanned.layout.series_of(data) or ""
            if is_complete(scanned.series):
                break
    if not scanned.series:
        raise ValueError("no SeriesInstanceUID")
    scanned.character_set = text_of(data[public[SPECIFIC_CHARACTER_SET]])
    return scanned


def text_of(content: bytes) -> str:
    """Return a value that is ASCII, without its padding. Raises ValueError."""
    return content.decode("ascii").strip(" \0")


def syntax_of(data: bytes) -> tuple[str, slice, int]:
    """Return the transfer syntax of a Part 10 file, its place, and where the data set starts (PS3.10 7.1). Raises as `scan`."""
    if data[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("no file meta information")
    end = 144 + LENGTH.unpack_from(data, 140)[0]
    if (found := data.find(b"\x02\x00\x10\x00UI", 144, end)) < 0:
        raise ValueError("no transfer syntax")
    place = slice(found, found + 8 + int.from_bytes(data[found + 6 : found + 8], "little"))
    syntax = text_of(data[place][8:])
    if syntax in (EXPLICIT_BIG_ENDIAN, DEFLATED):
        raise ValueError(f"transfer syntax {syntax}")
    return syntax, place, end


def note(
    scanned: Scanned, wanted: Wanted, creators: dict[tuple[int, int], str], group: int, element: int, content: bytes
) -> None:
    """Remember a private creator, or an element that is wanted; of two blocks of one creator, the first."""
    if 0x10 <= element <= 0xFF:
        creators[group, element] = content.decode("ascii", "replace").strip(" \0")
    for entry in wanted.of(group, element, creators):
        scanned.present.setdefault(entry.key, (f"{group:04x},{element:04x}", content))
