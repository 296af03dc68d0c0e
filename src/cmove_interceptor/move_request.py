# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a C-MOVE asks for: its fields as the plugin gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from common.identifiers import UID_TAG_OF
from common.routes import one_line

FIELDS = (
    "Level", "PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
    "OriginatorAET", "OriginatorID", "SourceAET", "TargetAET",
)  # fmt: skip
IDENTIFIER_FIELDS = FIELDS[1:6]
LEVELS = {"PATIENT": "Patient", "STUDY": "Study", "SERIES": "Series", "INSTANCE": "Instance"}  # Orthanc's names of them

Fields: TypeAlias = Mapping[str, str]


class MoveFailed(Exception):  # noqa: N818 - the move failed, not the script
    """The move can't be done, or ended badly."""


def read_fields(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of what the plugin hands over, each a text."""
    fields = {name: str(request.get(name) or "") for name in FIELDS}
    fields["OriginatorID"] = str(request.get("OriginatorID") or 0)
    return fields


def described(fields: Fields) -> str:
    """Return a request as the log has it: identifiers, in one line whatever they hold."""
    return ", ".join(f"{name} {one_line(fields[name])!r}" for name in FIELDS if fields[name] not in ("", "0"))


def identifying_tag(fields: Fields) -> tuple[str, str]:
    """Return the tag by which a request names what it means, and its text. Raises `MoveFailed` if it is not there.

    As with Orthanc, at the study level an AccessionNumber takes precedence over the StudyInstanceUID, and the patients without
    a PatientID are those with an empty one.
    """
    tag = UID_TAG_OF[LEVELS[fields["Level"]]]
    if fields["Level"] == "STUDY" and fields["AccessionNumber"]:
        tag = "AccessionNumber"
    if not fields[tag] and fields["Level"] != "PATIENT":
        raise MoveFailed(f"a C-MOVE at the level {fields['Level']} needs {tag}")
    return tag, fields[tag]


def parent_identifiers(fields: Fields) -> dict[str, str]:
    """Return the identifiers above the level of a request, which a hierarchical query needs (DICOM PS3.4 C.4.1.3.1)."""
    level = LEVELS[fields["Level"]]
    above = list(UID_TAG_OF.values())[: list(UID_TAG_OF).index(level)]
    return {name: fields[name] for name in above if fields[name]}
