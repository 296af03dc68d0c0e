# SPDX-License-Identifier: AGPL-3.0-or-later
"""An image that has every attribute of PS3.15 Table E.1-1, and what the Basic Profile asks of a copy of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from docs.basic_profile import NAMES
from testing.dicom import make_study, uid

MARK = "MARK"  # what each text begins with
DATE, TIME, BYTES = "19770707", "070707", b"MARKMARK"
LAST_OF_THE_TABLE = ((0x50003000, "OW"), (0x60003000, "OW"), (0x60004000, "LT"))  # 50xx,xxxx; 60xx,3000; 60xx,4000
MADE_BY_THE_SCRIPT = ("PatientID", "PatientName", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def vr_of(tag: int) -> str:
    """Return the VR of an attribute, also of those that pydicom does not know yet."""
    if keyword_for_tag(tag):
        return str(dictionary_VR(tag)).split(" or ")[0]
    return {"Sequence": "SQ", "DateTime": "DT"}.get(NAMES[tag].split()[-1], "LO")


def marked(tag: int, vr: str) -> Any:
    """Return a value of an original: another one for each attribute, where that matters."""
    values: dict[str, Any] = {
        **{"DA": DATE, "DT": DATE + TIME, "TM": TIME, "AS": "077Y", "UI": uid(tag), "CS": MARK, "UR": f"urn:{MARK}"},
        **dict.fromkeys(("DS", "IS"), "7707"),
        **dict.fromkeys(("FD", "FL", "SL", "SS", "UL", "US"), 7707),
        **dict.fromkeys(("OB", "OW", "UN", "OF", "OD", "OL"), BYTES),
    }
    if vr == "SQ":
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = f"{MARK}1", f"{MARK}2", f"{MARK} of a code"
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid("referenced")
        return [item]
    return values.get(vr, f"{MARK}{tag:08X}")


def add_all(dataset: Dataset, actions: dict[int, str]) -> None:
    """Add every attribute that a file can have: groups 0 and 2 are of messages and files."""
    for tag in [tag for tag in actions if tag >> 16 > 2]:
        if keyword_for_tag(tag) not in MADE_BY_THE_SCRIPT:
            dataset.add_new(tag, vr_of(tag), marked(tag, vr_of(tag)))


def image_with_all(actions: dict[int, str], **tags: Any) -> bytes:
    """Return an image that has all attributes, once more in an item, and in an item of that."""

    def change(dataset: Dataset) -> None:
        dataset.PatientName, dataset.PatientID = f"{MARK}NAME^{MARK}GIVEN", f"{MARK}-4711"
        inner, outer = Dataset(), Dataset()
        add_all(inner, actions)
        add_all(outer, actions)
        for item in (inner, outer):
            item.PatientName, item.PatientID = dataset.PatientName, dataset.PatientID
        outer.AnatomicRegionModifierSequence = [inner]
        dataset.AnatomicRegionSequence = [outer]
        add_all(dataset, actions)
        for place in (dataset, outer, inner):
            place.private_block(0x29, "ACME", create=True).add_new(0x10, "LO", MARK)
        for tag, vr in LAST_OF_THE_TABLE:
            dataset.add_new(tag, vr, marked(tag, vr))
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    return make_study(BurnedInAnnotation="NO", change=change)[0]


def wrong_with(copy: Dataset, original: Dataset, actions: dict[int, str]) -> list[str]:
    """Return what a copy has that the profile does not allow, by the letters of the table; [] if there is nothing."""
    found = []
    for place, ours, before in places(copy, original):
        for tag, action in actions.items():
            keyword = keyword_for_tag(tag)
            if tag not in before or (place == "" and keyword in MADE_BY_THE_SCRIPT):
                continue
            if complaint := wrong_with_one(ours.get(tag), before[tag], action):
                found.append(f"{place}{keyword or NAMES[tag]} ({action}): {complaint}")
    return found


def wrong_with_one(ours: Any, before: Any, action: str) -> str | None:
    """Return what is wrong with one element of a copy; None if nothing is."""
    if ours is None:
        return None if action.startswith("X") else "it is missing"
    if action == "X":
        return "it is there"
    if action == "X/Z/U*":
        return None if ours.value[0].ReferencedSOPInstanceUID != uid("referenced") else "its UIDs are the original's"
    if ours.is_empty:
        return None if "Z" in action else "it is empty"
    if "D" not in action and action != "U":
        return "it has a value"
    if ours.VR == "SQ":
        return "an item is the original's" if MARK in str(ours.value[0].get("CodeMeaning", "")) else None
    return "it has the original's value" if ours.value == before.value else None


def places(copy: Dataset, original: Dataset) -> Iterator[tuple[str, Dataset, Dataset]]:
    """Yield the data set and the two items, each with its original."""
    yield "", copy, original
    for sequence in ("AnatomicRegionSequence", "AnatomicRegionModifierSequence"):
        copy, original = copy[sequence].value[0], original[sequence].value[0]
        yield f"{sequence}/", copy, original


def read(content: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(content))
