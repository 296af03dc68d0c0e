# SPDX-License-Identifier: AGPL-3.0-or-later
"""The private tags that the configuration names, and how they are recognised in a file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from common.settings import SettingsError

from .settings import SECTION

MAX_SEARCHED_BYTES = 65_536  # of a file that is searched for marks; a longer one is looked through at once
PIXELS_GROUP = 0x7FE0
EXPLICIT_BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tag to look for: of a private creator in whatever block it has reserved, else of exactly this number."""

    key: str
    exists_only: bool
    group: int
    element: int
    creator: str | None

    @property
    def text(self) -> str:
        """Return all of it as text: what has the same text need not be looked for again."""
        return f"{self.key}|{self.exists_only}|{self.group:04x},{self.element:04x}|{self.creator}"


def parse_entry(text: str, dictionary: Mapping[str, Any]) -> Entry:
    """Return the entry that an item of the list names, by Orthanc's `Dictionary`. Raises `SettingsError`."""
    key = text.removeprefix("!!")
    known_tags = {tag: value for tag, value in dictionary.items() if isinstance(value, list)}
    named = {str(value[1]): tag for tag, value in known_tags.items() if len(value) > 1}
    if key in named:
        number = named[key]
        creator = _creator_of(known_tags[number])
    elif match := re.fullmatch(r"([0-9A-Fa-f]{4},[0-9A-Fa-fx]{2}[0-9A-Fa-f]{2})(?::(.+))?", key):
        number = match[1].replace("x", "1", 1).replace("x", "0", 1)
        value: Any = next((value for tag, value in dictionary.items() if tag.lower() == number.lower()), [])
        creator = match[2] or _creator_of(value)
    else:
        near = difflib.get_close_matches(key, named, 1, 0.5)
        known = f"did you mean {near[0]!r}?" if near else f"Dictionary has: {', '.join(named) or 'nothing'}"
        raise SettingsError(
            f'{SECTION}: found {json.dumps(text)}, allowed: a name from Dictionary, "gggg,eeee", "gggg,eeee:Creator"; {known}'
        )
    group, element = (int(part, 16) for part in re.split("[,-]", number)[:2])
    if group % 2 == 0:
        raise SettingsError(
            f"{SECTION}: found {json.dumps(text)}, {group:04x},{element:04x}; allowed: private tags, whose group is odd"
        )
    return Entry(key, text.startswith("!!"), group, element, creator.strip() if creator else None)


def _creator_of(value: Any) -> str | None:
    """Return the private creator in a line of `Dictionary`: VR, name, least and most values, creator."""
    return str(value[4]) if isinstance(value, list) and len(value) > 4 else None


class Wanted:
    """The entries of the list, ready to be recognised in a DICOM file (private blocks: DICOM PS3.5 7.8)."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = {entry.key: entry for entry in entries}
        self.groups = frozenset(entry.group for entry in entries)
        self.last_group = max([0x20, *self.groups])
        self.behind_pixels = frozenset(group for group in self.groups if group > PIXELS_GROUP)
        self._exact = {(entry.group, entry.element): entry for entry in entries if entry.creator is None}
        # What every file that has the entry contains: the name of its creator, else its number.
        self._marks = {
            entry.key: (entry.creator or "").encode() or struct.pack("<HH", entry.group, entry.element)
            for entry in entries
        }
        self._of_creator = {
            (entry.group, entry.creator, entry.element & 0xFF): entry for entry in entries if entry.creator
        }

    def perhaps_in(self, data: bytes, seen: Collection[str]) -> set[str]:
        """Return the entries that may be in a file, without those seen: takes a microsecond, and rules out most files."""
        if len(seen) == len(self.entries):
            return set()
        head = data[132:1024]
        if len(data) > MAX_SEARCHED_BYTES or EXPLICIT_BIG_ENDIAN.encode() in head or DEFLATED.encode() in head:
            return self.entries.keys() - seen
        return {key for key, mark in self._marks.items() if key not in seen and mark in data}

    def of(self, group: int, element: int, creators: Mapping[tuple[int, int], str]) -> list[Entry]:
        """Return the entries that this element is, given the creators of the blocks so far."""
        creator = creators.get((group, element >> 8), "")
        found = self._exact.get((group, element)), self._of_creator.get((group, creator, element & 0xFF))
        return [entry for entry in found if entry is not None]
