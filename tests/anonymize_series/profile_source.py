# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes the data of src/anonymize_series/profile_table.py from two packages that hold tables of the standard (facts, no code).

    pip download --no-deps dicom-anonymizer==2.1.0 highdicom==0.28.2      (BSD-3-Clause; MIT), then unpack both in a folder
    python -m tests.anonymize_series.profile_source FOLDER                prints PROFILE, and what REQUIRED lacks

dicom-anonymizer has Table E.1-1 of PS3.15 2026c. Its table of 2024b is the same, attribute by attribute, as the one that
innolitics/dicom-standard (MIT) reads from the text of 2024b. highdicom has the attributes of each IOD of PS3.3 with their types.
"""

from __future__ import annotations

import json
import runpy
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydicom.datadict import keyword_for_tag

EDITION = "2026c"
STORAGE = "1.2.840.10008.5.1.4.1.1."
# Of each type of an attribute in an IOD (PS3.5 7.4).
ACTION_OF_TYPE = {"1": "D", "1C": "D", "2": "Z", "2C": "Z"}


def profile(folder: Path) -> dict[int, str]:
    """Return the action of each attribute, but for the groups 50xx and 60xx, and private ones."""
    path = folder / f"dicomanonymizer/dicom_anonymization_databases/dicomfields_{EDITION}.py"
    tables = {name: tags for name, tags in runpy.run_path(str(path)).items() if name.endswith("_TAGS")}
    del tables["ALL_TAGS"]
    return {
        tag[0] << 16 | tag[1]: name.removesuffix("_TAGS").replace("U_STAR", "U*").replace("_", "/")
        for name, tags in tables.items()
        for tag in tags
        if len(tag) == 2  # those of four numbers are the groups
    }


def lines(actions: Mapping[int, str]) -> Iterator[str]:
    """Yield the lines of PROFILE."""
    groups = defaultdict(list)
    for tag, action in sorted(actions.items()):
        groups[action, f"{tag >> 16:04X}"].append(f"{tag & 0xFFFF:04X}")
    for action in ("D", "Z", "X", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*"):
        for (which, group), elements in groups.items():
            if which == action:
                start = f"{action} {group} "
                yield from textwrap.wrap(start + " ".join(elements), 118, subsequent_indent=start)


def required(folder: Path, actions: Mapping[int, str]) -> dict[str, dict[str, str]]:
    """Return by SOP class of storage: of the attributes with several actions, what the IOD requires of each."""
    data: dict[str, Any] = {
        name: json.loads((folder / f"highdicom/_standard/{name}_map.json").read_text())
        for name in ("sop_class_iod", "iod_module", "module_attribute")
    }
    several = {keyword_for_tag(tag): action for tag, action in actions.items() if "/" in action and "*" not in action}
    found: dict[str, dict[str, str]] = {}
    for sop_class, iod in data["sop_class_iod"].items():
        needs = found.setdefault(sop_class.removeprefix(STORAGE), {})
        for module in data["iod_module"].get(iod, []):
            for each in data["module_attribute"].get(module["key"], []):
                action, keyword = ACTION_OF_TYPE.get(each["type"]), each["keyword"]
                if action and not each["path"] and keyword in several and needs.get(keyword) != "D":
                    needs[keyword] = action if "D" in several[keyword] else "Z"
    return found


def main(folder: Path) -> None:
    """Print the lines of PROFILE, and the difference between REQUIRED and the IODs."""
    table = runpy.run_path(str(Path(__file__).parents[2] / "src/anonymize_series/profile_table.py"))
    actions = profile(folder)
    made = "\n".join(lines(actions))
    print(made, "", f"PROFILE is the same: {table['PROFILE'].strip() == made}", sep="\n")
    iods = required(folder, actions)
    for classes, dummies, emptied in table["REQUIRED"]:
        ours = {**dict.fromkeys(dummies.split(), "D"), **dict.fromkeys(emptied.split(), "Z"), "PatientSexNeutered": "Z"}
        for sop_class in classes.split():
            # Of these, the first action is enough; an empty element of a PatientID gets the pseudonym.
            theirs = {
                keyword: action
                for keyword, action in iods[sop_class].items()
                if not (action == "Z" and keyword in ("ContentDate", "ContentTime", "ContrastBolusAgent", "PatientID"))
            }
            if theirs != ours:
                print(f"REQUIRED of {sop_class} differs: {theirs}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
