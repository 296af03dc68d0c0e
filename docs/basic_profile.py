# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of docs/basic_profile.md: what PS3.15 Table E.1-1 asks of each attribute, and what a copy has of it. cog runs it."""

from __future__ import annotations

import types
from collections.abc import Iterator

from pydicom.datadict import dictionary_description, dictionary_VR, keyword_for_tag
from pydicom.uid import UID

from docs.tables import _loaded, _out

# What pydicom 3.0 does not know yet.
NAMES = {
    0x00081301: "Principal Diagnosis Code Sequence",
    0x00081302: "Primary Diagnosis Code Sequence",
    0x00081303: "Secondary Diagnoses Code Sequence",
    0x00081304: "Histological Diagnoses Code Sequence",
    0x00100011: "Person Names to Use Sequence",
    0x00100012: "Name to Use",
    0x00100013: "Name to Use Comment",
    0x00100014: "Third Person Pronouns Sequence",
    0x00100015: "Pronoun Code Sequence",
    0x00100016: "Pronoun Comment",
    0x00100041: "Gender Identity Sequence",
    0x00100042: "Sex Parameters for Clinical Use Category Comment",
    0x00100043: "Sex Parameters for Clinical Use Category Sequence",
    0x00100044: "Gender Identity Code Sequence",
    0x00100045: "Gender Identity Comment",
    0x00100046: "Sex Parameters for Clinical Use Category Code Sequence",
    0x00100047: "Sex Parameters for Clinical Use Category Reference",
    0x00102162: "Ethnic Groups",
    0x0040A034: "Effective Start DateTime",
    0x0040A035: "Effective Stop DateTime",
    0x0040B034: "Annotation DateTime",
    0x0040B036: "Segment Definition DateTime",
    0x0040B03B: "Montage Name",
    0x0040B03F: "Montage Channel Label",
    0x0040E012: "Display URI",
}

# The options of the profile, by what `Keep` has to name (PS3.15 E.3.5 and E.3.6; columns of Table E.1-1 of 2024b).
PATIENT_CHARACTERISTICS = (
    *("Allergies", "EthnicGroup", "PatientAge", "PatientSex", "PatientSexNeutered", "PatientSize", "PatientState"),
    *("PatientWeight", "PregnancyStatus", "PreMedication", "SelectorASValue", "SmokingStatus", "SpecialNeeds"),
)
DATES_OF_OTHER_VRS = ("CertifiedTimestamp", "FrameOriginTimestamp", "TimezoneOffsetFromUTC")
NO_DATES_OF_THE_OPTION = ("GPSTimeStamp", "PatientBirthDate", "PatientBirthTime")
WORDS = {"D": "a dummy", "Z": "empty", "X": "nothing", "U": "another UID", "X/Z/U*": "items with other UIDs"}
PATIENT = "the pseudonym; in items of sequences: {}"
GRAPHICS = (
    "| Curve Data | `50xx,xxxx` | X | nothing | |",
    "| Overlay Comments | `60xx,4000` | X | nothing | |",
    "| Overlay Data | `60xx,3000` | X | nothing | |",
    "| Private Attributes | odd groups | X | nothing | private tags |",
)


def attributes() -> None:
    """Write the table of all attributes."""
    with _loaded("anonymize_series.py") as script:
        rows = sorted(_row(script, tag, action) for tag, action in script.ACTIONS.items())
    head = ("| Attribute | Tag | Basic Profile | A copy has | Option |", "|---|---|---|---|---|")
    _out(*head, *sorted([*rows, *GRAPHICS]))


def dummies() -> None:
    """Write the table of dummies by VR."""
    with _loaded("anonymize_series.py") as script:
        by_value: dict[str, list[str]] = {}
        for vr, value in script.DUMMIES.items():
            by_value.setdefault("eight bytes of 0" if isinstance(value, bytes) else f"`{value}`", []).append(vr)
    rows = (f"| {', '.join(vrs)} | {value} |" for value, vrs in by_value.items())
    _out("| VR | Dummy |", "|---|---|", *rows)


def classes() -> None:
    """Write the list of SOP classes of which the table says what they require."""
    with _loaded("anonymize_series.py") as script:
        names = sorted(UID(uid).name for uid in script.REQUIRED_BY_CLASS)
    _out(", ".join(names).replace(" Storage", "") + ".")


def characteristics() -> None:
    """Write the attributes of the patient characteristics, as `Keep` names them."""
    _out(", ".join(f"`{keyword}`" for keyword in PATIENT_CHARACTERISTICS) + ".")


def _row(script: types.ModuleType, tag: int, action: str) -> str:
    name = dictionary_description(tag) if keyword_for_tag(tag) else NAMES[tag]
    number = f"{tag >> 16:04x},{tag & 0xFFFF:04x}"
    return f"| {name} | `{number}` | {action} | {'; '.join(_has(script, tag, action))} | {option_of(tag)} |"


def _has(script: types.ModuleType, tag: int, action: str) -> Iterator[str]:
    if tag in script.PATIENT:
        yield PATIENT.format(WORDS[script.one_action(tag, None)])
        return
    if action in WORDS:
        yield WORDS[action]
        return
    first, elsewhere = action[0], script.one_action(tag, None)
    yield WORDS[first]
    by_action: dict[str, list[str]] = {}
    for uid in script.REQUIRED_BY_CLASS:
        if (one := script.one_action(tag, uid)) != first:
            by_action.setdefault(one, []).append(UID(uid).name.removesuffix(" Storage").replace(" Storage - ", " "))
    for one, names in by_action.items():
        is_all = len(names) == len(script.REQUIRED_BY_CLASS)
        yield f"{WORDS[one]} in {'all of these SOP classes' if is_all else ', '.join(sorted(names))}"
    yield f"{WORDS[elsewhere]} elsewhere"


def option_of(tag: int) -> str:
    """Return which option of the profile keeps an attribute."""
    keyword = keyword_for_tag(tag)
    if keyword in PATIENT_CHARACTERISTICS:
        return "patient characteristics"
    is_date = bool(keyword) and dictionary_VR(tag) in ("DA", "DT", "TM") and keyword not in NO_DATES_OF_THE_OPTION
    return "dates" if is_date or keyword in DATES_OF_OTHER_VRS else ""
