# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes on the way (`Modify` of a rule), applied: what is replaced and removed in an image, and in which syntax it is sent.

Orthanc changes each image (`/instances/{id}/modify`), and stores nothing. Nothing is trusted: what it answers is read, and is
sent only if all that was asked for is there.
"""

import dataclasses
import json
import string
from collections.abc import Iterator, Mapping
from typing import Any

import orthanc

from common.loopback import Loopback
from forwarding.dicom_header import SPECIFIC_CHARACTER_SET, read_header
from forwarding.modify import Modify

# Numbers of the SDK (OrthancPluginValueRepresentation). Only text can be replaced.
TEXT_VRS = {
    **{1: "AE", 2: "AS", 4: "CS", 5: "DA", 6: "DS", 7: "DT", 10: "IS", 11: "LO", 12: "LT", 16: "PN", 17: "SH"},
    **{21: "ST", 22: "TM", 27: "UT"},
}
UI = 23
MOST_CHARACTERS = {"AE": 16, "CS": 16, "LO": 64, "PN": 64, "SH": 16}  # of one value (PS3.5 6.2)
PATIENT_ID_TAG = 0x00100020
KEPT_UIDS = {"SOPInstanceUID": 0x00080018, "StudyInstanceUID": 0x0020000D, "SeriesInstanceUID": 0x0020000E}
SOP_CLASS_UID = 0x00080016


class UnchangedError(ValueError):
    """An image can't be changed as a rule says. It is not sent."""


@dataclasses.dataclass(frozen=True)
class Tag:
    """A tag as a person names it, its number, and its VR as the SDK numbers it."""

    name: str
    number: int
    vr: int

    @property
    def text(self) -> str:
        """Return its number as Orthanc writes it: `0010,0020`."""
        return f"{self.number >> 16:04x},{self.number & 0xFFFF:04x}"

    @property
    def is_fixed(self) -> bool:
        """Return whether it may not be changed: what the image is called, how it is written, and what only its vendor knows."""
        group = self.number >> 16
        fixed = {*KEPT_UIDS.values(), SOP_CLASS_UID, SPECIFIC_CHARACTER_SET}
        return self.number in fixed or group % 2 == 1 or group <= 0x0002


def find_tag(name: str) -> Tag | None:
    """Return a tag by DICOM's keyword or its number; None: Orthanc does not know it."""
    try:
        found: Mapping[str, int] = orthanc.LookupDictionary(name)
    except Exception:  # noqa: BLE001 - TypeError or OrthancException, by the version of the plugin
        return None
    return Tag(name, found["Group"] << 16 | found["Element"], found.get("ValueRepresentation", 0))


def parts_of(template: str) -> Iterator[tuple[str, Tag | None]]:
    """Yield the texts of a template, each with the tag whose value comes after it. Raises ValueError: it is none."""
    for text, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            yield text, None
            continue
        tag = find_tag(name)
        if tag is None or form or conversion or tag.vr not in (*TEXT_VRS, UI):
            raise ValueError("in braces the keyword or number of a tag that holds text")
        yield text, tag


def wrong_with_modify(modify: Modify) -> str | None:
    """Return what is wrong with a rule's `Modify` beyond its types, by its key; None if all is well."""
    if not (modify.replace or modify.remove or modify.transcode):
        return "Modify: found nothing in it, allowed: at least one of Replace, Remove, Transcode"
    seen = set[int]()
    for key, names in (("Replace", [*modify.replace]), ("Remove", modify.remove)):
        for name in names:
            tag = find_tag(name)
            if tag is None:
                allowed = "public tags that Orthanc knows, by DICOM's keyword or gggg,eeee"
                return f"Modify.{key}: found {json.dumps(name)}, allowed: {allowed}"
            if tag.is_fixed or (key == "Remove" and tag.number == PATIENT_ID_TAG):
                allowed = "public tags that neither identify an image nor say how it is written"
                return f"Modify.{key}: found {name}, allowed: {allowed}"
            if tag.number in seen:
                return (
                    f"Modify.{key}: found {name}, which is there twice, allowed: each tag once, in Replace or in Remove"
                )
            seen.add(tag.number)
            if key == "Replace" and (complaint := _wrong_with_replacement(tag, modify.replace[name])):
                return f"Modify.Replace.{name}: found {json.dumps(modify.replace[name])}, allowed: {complaint}"
    return None


def _wrong_with_replacement(tag: Tag, value: Any) -> str | None:
    """Return what is allowed for a tag, or None if this is."""
    if tag.vr not in TEXT_VRS:
        return "nothing, this tag holds no text"
    if not isinstance(value, str) or not value.strip():
        return "a text that is not empty (is the environment variable set?); Remove takes a tag out"
    if not value.isprintable() or value.startswith("data:"):
        return "a text of one line"
    try:
        parts = [*parts_of(value)]
    except ValueError as error:
        return (
            f"a text, {error}"
            if "in braces" in str(error)
            else "a text; a brace that means itself is doubled: {{ or }}"
        )
    return _too_long(tag, "".join(text for text, _ in parts))


def _too_long(tag: Tag, value: str) -> str | None:
    most = MOST_CHARACTERS.get(TEXT_VRS[tag.vr])
    parts = value.split("=" if TEXT_VRS[tag.vr] == "PN" else "\\")
    return f"at most {most} characters, as DICOM has it" if most and any(len(part) > most for part in parts) else None


@dataclasses.dataclass(frozen=True)
class Changes:
    """What a row keeps of its rule's `Modify`, ready to be applied."""

    replace: tuple[tuple[Tag, tuple[tuple[str, Tag | None], ...]], ...]
    remove: tuple[Tag, ...]
    transcode: str | None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Changes":
        """Return them by what a row keeps. Raises UnchangedError: Orthanc does not know a tag any more."""

        def tag_of(name: str) -> Tag:
            if (tag := find_tag(name)) is None:
                raise UnchangedError(f"Orthanc does not know the tag {name} of Modify")
            return tag

        try:
            replace = tuple((tag_of(name), tuple(parts_of(value))) for name, value in kept["Replace"].items())
        except ValueError as error:
            raise UnchangedError(str(error)) from error
        return cls(replace, tuple(map(tag_of, kept["Remove"])), kept["Transcode"])

    def values(self, tags: Mapping[str, Any]) -> dict[Tag, str]:
        """Return the new values for an image, whose own are given by number. Raises UnchangedError."""
        found = {}
        for tag, parts in self.replace:
            value = ""
            for text, source in parts:
                value += text
                if source:
                    value += self._value_of(tags, source, tag)
            if complaint := _too_long(tag, value):
                raise UnchangedError(f"{tag.name} would become too long: {complaint}")
            found[tag] = value
        return found

    def _value_of(self, tags: Mapping[str, Any], source: Tag, tag: Tag) -> str:
        value = tags.get(source.text)
        if not isinstance(value, str) or not value.strip(" \0"):
            raise UnchangedError(f"the image has no {source.name}, of which {tag.name} is to be made")
        return value.strip(" \0")

    def apply(self, loopback: Loopback, instance: str) -> bytes:
        """Return the changed file of an instance.

        Raises
        ------
        UnchangedError : it can't be changed, or is not what was asked for.
        LoopbackError : Orthanc refuses it, or does not answer.
        """
        tags = loopback.get(f"/instances/{instance}/tags?short")
        values = self.values(tags)
        body = {
            "Replace": {tag.text: value for tag, value in values.items()},
            "Remove": [tag.text for tag in self.remove],
            "Keep": [*KEPT_UIDS],
            "Force": True,  # Orthanc asks for it where UIDs are kept
            **({"Transcode": self.transcode} if self.transcode else {}),
        }
        _, content = loopback.request_raw("POST", f"/instances/{instance}/modify", body)
        self._check(content, tags, values)
        return content

    def _check(self, content: bytes, tags: Mapping[str, Any], values: Mapping[Tag, str]) -> None:
        """Raise UnchangedError unless a file is what was asked for."""
        wanted = {*KEPT_UIDS.values(), *(tag.number for tag in (*values, *self.remove))}
        try:
            header = read_header(content, wanted)
            for name, number in KEPT_UIDS.items():
                if header.text(number) != str(tags.get(Tag(name, number, UI).text)).strip(" \0"):
                    raise UnchangedError(f"Orthanc has changed its {name}")
            for tag, value in values.items():
                if header.text(tag.number) != value.strip(" \0"):
                    raise UnchangedError(f"Orthanc has not made its {tag.name} what was asked for")
        except UnicodeDecodeError:
            raise UnchangedError(
                "its character set can't be read here, so what Orthanc made of it can't be checked"
            ) from None
        except UnchangedError:
            raise
        except ValueError as error:
            raise UnchangedError(f"what Orthanc made of it can't be read: {error}") from None
        if left := [tag.name for tag in self.remove if tag.number in header.values]:
            raise UnchangedError(f"Orthanc has not removed its {left[0]}")
        if self.transcode and header.syntax != self.transcode:
            raise UnchangedError(f"Orthanc has made {header.syntax} of it instead of {self.transcode}")
