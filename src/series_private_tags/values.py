# SPDX-License-Identifier: AGPL-3.0-or-later
"""The values of private tags: as they are stored, and as the metadata of a series holds them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from common.json_text import decoded

from .dicom_file import MAX_SEQUENCE_DEPTH
from .entries import Entry, Wanted

# Python's names of the character sets that a single value of SpecificCharacterSet names (DICOM PS3.3 C.12.1.1.2).
CHARACTER_SETS = {
    **{f"ISO_IR {number}": codec for number, codec in {
        100: "latin-1", 101: "iso8859-2", 109: "iso8859-3", 110: "iso8859-4", 144: "iso8859-5", 127: "iso8859-6",
        126: "iso8859-7", 138: "iso8859-8", 148: "iso8859-9", 203: "iso8859-15", 166: "tis-620", 13: "shift_jis", 192: "utf-8",
    }.items()},
    "GB18030": "gb18030", "GBK": "gbk", "ISO 2022 IR 87": "iso2022_jp", "ISO 2022 IR 149": "euc_kr",
}  # fmt: skip
# Python's names of what `DefaultEncoding` of Orthanc can be, but for "Ascii".
DEFAULT_ENCODINGS = {
    "Utf8": "utf-8", "Latin1": "latin-1", "Latin2": "iso8859-2", "Latin3": "iso8859-3", "Latin4": "iso8859-4",
    "Latin5": "iso8859-9", "Latin9": "iso8859-15", "Cyrillic": "iso8859-5", "Windows1251": "cp1251", "Arabic": "iso8859-6",
    "Greek": "iso8859-7", "Hebrew": "iso8859-8", "Thai": "tis-620", "Japanese": "shift_jis", "Chinese": "gb18030",
    "JapaneseKanji": "iso2022_jp", "Korean": "euc_kr", "SimplifiedChinese": "gbk",
}  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")  # all but tab and ends of lines and pages
ITEM = b"\xfe\xff\x00\xe0"  # how the content of a sequence begins


def private_elements(tags: Mapping[str, Any], wanted: Wanted, content: Callable[[str], bytes]) -> dict[str, str]:
    """Return the numbers of the entries in an instance as Orthanc gives it (`/tags`), by their keys.

    `content` gives the bytes of a creator of VR UN, of which Orthanc gives no value.
    """
    creators: dict[tuple[int, int], str] = {}
    found: dict[str, str] = {}
    for tag in sorted(tags):
        group, element = (int(part, 16) for part in tag.split(","))
        if group in wanted.groups:
            if 0x10 <= element <= 0xFF:
                value = tags[tag].get("Value")
                creator = content(tag).decode("ascii", "replace") if value is None else str(value)
                creators[group, element] = creator.strip(" \0")
            for entry in wanted.of(group, element, creators):
                found.setdefault(entry.key, tag)
    return found


def plain(tag: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value of Orthanc's `/tags` as `/simplified-tags` has it: a text, None, or a list of objects by names."""
    value = tag.get("Value")
    if tag.get("Type") != "Sequence" or not isinstance(value, list):
        return CONTROL.sub("\ufffd", value) if depth and isinstance(value, str) else value
    if depth > MAX_SEQUENCE_DEPTH:
        return "nested too deep"
    return [{name_of(number, each): plain(each, depth + 1) for number, each in item.items()} for item in value]


def name_of(number: str, tag: Mapping[str, Any]) -> str:
    """Return the name of a tag, or its number where the name says nothing."""
    name = str(tag.get("Name", ""))
    return number if name in ("", "PrivateCreator") or name.startswith("Unknown") else name


def from_bytes(content: bytes, character_set: str, default_encoding: str = "Latin1") -> str:
    """Return the text of bytes that Orthanc could not read where they are text, else their length and SHA-256.

    Text of an instance that declares no character set is read as Orthanc reads it where it knows the VR: in `DefaultEncoding`.
    """
    declared = character_set.split("\\")[-1].strip()
    codec = CHARACTER_SETS.get(declared, "ascii") if declared else DEFAULT_ENCODINGS.get(default_encoding, "ascii")
    with contextlib.suppress(UnicodeDecodeError):
        text = content.rstrip(b"\0 ").decode(codec)
        if not CONTROL.search(text):
            return text
    return f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"


def limited(value: Any, most: int) -> Any:
    """Return the value, or the first `most` characters of its text and a mark."""
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= most else f"{text[:most]}… (cut, of {len(text)} characters)"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How values are read: at most so many characters, and how Orthanc reads text that declares no character set."""

    maximum_length: int
    default_encoding: str = "Latin1"

    def value_of(self, entry: Entry, tag: Mapping[str, Any], content: Callable[[], bytes], character_set: str) -> Any:
        """Return what is stored of an element: `tag` is Orthanc's, `content` gives its bytes where that is no text."""
        if entry.exists_only:
            return "EXISTS"
        value = plain(tag)
        if value is None or (isinstance(value, str) and CONTROL.search(value)):
            value = from_bytes(content(), character_set, self.default_encoding)
        return limited(value, self.maximum_length)


def decoded_values(text: str | None) -> dict[str, Any]:
    """Return the values in the text of the metadata; none, if this script did not write it."""
    text = text or "{}"
    decode = json.loads if text.count("{") + text.count("[") < 100 else decoded  # the stack is small
    with contextlib.suppress(ValueError):
        if isinstance(found := decode(text), dict):
            return found
    return {}
