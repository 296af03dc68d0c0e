# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Basic Application Level Confidentiality Profile (PS3.15 E): what Orthanc's own anonymization leaves is done here."""

from typing import Any

import pydicom
import pydicom.datadict

from anonymize_series.profile_table import PROFILE, PROFILE_EDITION, REQUIRED
from anonymize_series.settings import Recipe, tag_number

METHOD = f"anonymize_series, DICOM PS3.15 {PROFILE_EDITION} Table E.1-1"  # DeidentificationMethod, besides Orthanc's
ROOT_OF_STORAGE = "1.2.840.10008.5.1.4.1.1."
ACTIONS = {
    int(group + element, 16): action
    for action, group, *elements in map(str.split, PROFILE.split("\n")[1:-1])
    for element in elements
}
# What an attribute with several actions gets in the data set of an image of this SOP class; others of them the first action.
REQUIRED_BY_CLASS = {
    ROOT_OF_STORAGE + sop_class: {
        **dict.fromkeys(dummies.split(), "D"),
        **dict.fromkeys([*emptied.split(), "PatientSexNeutered"], "Z"),
    }
    for classes, dummies, emptied in REQUIRED
    for sop_class in classes.split()
}
PATIENT = frozenset((0x00100010, 0x00100020))  # of the data set itself: it gets the pseudonym
# Valid values of each VR that say nothing (PS3.5 6.2), so short that they hold no part of a name.
DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), "-"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), bytes(8)),
    **{"AS": "000Y", "AT": 0, "CS": "OTHER", "DA": "19000101", "DT": "19000101000000", "TM": "000000"},
}


def action_of(tag: int) -> str | None:
    """Return the action of the Basic Profile for an attribute, as the table has it; None if it has none."""
    group, element = tag >> 16, tag & 0xFFFF
    is_graphic = group & 0xFF01 == 0x5000 or (group & 0xFF01 == 0x6000 and element in (0x3000, 0x4000))
    return "X" if is_graphic else ACTIONS.get(tag)


def one_action(tag: int, sop_class: str | None) -> str | None:
    """Return the one of several actions that leaves a file valid, by the SOP class; None of that: in an item of a sequence.

    Where it is not known what the IOD requires: the one that any IOD allows.
    """
    action = action_of(tag)
    if action is None or "/" not in action:
        return action
    if action == "X/Z/U*":
        return "U"  # what it refers to stays, under other UIDs
    required = REQUIRED_BY_CLASS.get(sop_class or "")
    if required is None:
        return "D" if "D" in action else "Z"
    return required.get(pydicom.datadict.keyword_for_tag(tag), action[0])


def is_dummy(element: Any) -> bool:
    """Return whether an element has the value that the profile's dummies have: the same in every copy."""
    return bool(element.value == DUMMIES.get(element.VR))


def apply_profile(copy: Any, original: Any, recipe: Recipe) -> None:
    """Do with each attribute of a copy what the profile asks, except what the recipe keeps, replaces or removes.

    What Orthanc has removed or emptied but an IOD requires comes back, as a dummy or empty.
    """
    kept, replaced, removed = (
        frozenset(map(tag_number, tags)) for tags in (recipe.keep, recipe.replace, recipe.remove)
    )
    protection = Protection(kept, removed)
    protection.protect(copy, original, str(original.get("SOPClassUID", "")), replaced | PATIENT)
    methods = copy.get("DeidentificationMethod") or []
    if pydicom.datadict.tag_for_keyword("DeidentificationMethod") not in kept | replaced | removed:
        copy.DeidentificationMethod = [*([methods] if isinstance(methods, str) else methods), METHOD]


class Protection:
    """Protects data sets and the items of their sequences, but for what is `kept`; what is `removed` does not come back."""

    def __init__(self, kept: frozenset[int | None], removed: frozenset[int | None]) -> None:
        self._kept, self._removed = kept, removed

    def protect(
        self, copy: Any, original: Any, sop_class: str | None = None, others: frozenset[int | None] = frozenset()
    ) -> None:
        """Protect a data set, of which that is the original; the attributes `others` are left as they are."""
        for tag in {*copy.keys(), *original.keys()}:
            action = None if int(tag) in self._kept | others else one_action(int(tag), sop_class)
            if action == "X":
                copy.pop(tag, None)
            elif action in ("D", "Z"):
                if int(tag) not in self._removed:
                    source = (original if tag in original else copy)[tag]
                    copy.add_new(tag, source.VR, self._dummy(source) if action == "D" else empty(source.VR))
            elif tag in copy and copy[tag].VR == "SQ":
                before = list(original[tag].value or ()) if tag in original else []
                for number, item in enumerate(copy[tag].value or ()):
                    self.protect(item, before[number] if number < len(before) else pydicom.Dataset())

    def _dummy(self, source: Any) -> Any:
        """Return the value that takes the place of another; what was empty stays empty."""
        if source.is_empty:
            return empty(source.VR)
        if source.VR == "SQ":
            return [self._dummy_item(source.value[0])]
        return source.value if source.VR == "UI" else DUMMIES.get(source.VR)  # UIDs are replaced afterwards

    def _dummy_item(self, item: Any) -> Any:
        """Return an item of the same form; defined terms are as they were."""
        made = pydicom.Dataset()
        for element in item:
            if not element.tag.is_private and (element.VR in DUMMIES or element.VR in ("SQ", "UI")):
                made.add_new(element.tag, element.VR, element.value if element.VR == "CS" else self._dummy(element))
        self.protect(made, item)
        return made


def empty(vr: str) -> Any:
    """Return the empty value of a VR."""
    return [] if vr == "SQ" else None
