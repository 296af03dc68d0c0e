# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tags of an instance say about drawing it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from common.identifiers import orthanc_identifier

from .selection import numbers
from .settings import MAX_SIZE

# What is no image, by SOP Class UID (DICOM PS3.6 A): of the entries that a UID begins with, the longest counts.
NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.104.": "document",
    "1.2.840.10008.5.1.4.1.1.88.": "report",
    "1.2.840.10008.5.1.4.1.1.9.": "waveform",
    "1.2.840.10008.5.1.4.1.1.4.2": "waveform",  # MR spectroscopy
    "1.2.840.10008.5.1.4.1.1.66.": "segmentation",  # and registrations, fiducials, surfaces, tracts
    "1.2.840.10008.5.1.4.1.1.66": "other",  # raw data
    "1.2.840.10008.5.1.4.1.1.67": "other",  # real world value mapping
    "1.2.840.10008.5.1.4.1.1.11.": "presentation",
    "1.2.840.10008.5.1.4.1.1.481.": "plan",
    "1.2.840.10008.5.1.4.1.1.481.1": "",  # RT image
    "1.2.840.10008.5.1.4.1.1.481.2": "",  # RT dose
    "1.2.840.10008.5.1.4.1.1.481.3": "segmentation",  # RT structure set
    "1.2.840.10008.5.1.4.34.": "plan",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """What an instance's tags say about drawing it: `kind` is empty for an image, `frame` None where there is but one."""

    series: str  # Orthanc's identifier, if the PatientID is ASCII
    kind: str
    frame: int | None
    rows: int
    columns: int
    aspect: float  # height of a pixel by its width


def source_of(tags: Mapping[str, Any]) -> Source:
    """Return what the tags of an instance say, as Orthanc's `simplified-tags` gives them."""
    uid = str(tags.get("SOPClassUID", ""))
    known = [prefix for prefix in NO_IMAGES if uid == prefix or (prefix.endswith(".") and uid.startswith(prefix))]
    rows, columns = ((numbers(tags.get(name), 1) or (0,))[0] for name in ("Rows", "Columns"))
    kind = NO_IMAGES[max(known, key=len)] if known else ""
    if not kind and (rows < 1 or columns < 1):
        kind = "other"
    frames = int(min((numbers(tags.get("NumberOfFrames"), 1) or (1,))[0], 1e9))
    uids = (str(tags.get(name) or "") for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    series = orthanc_identifier(*uids)
    return Source(series, kind, frames // 2 if frames > 1 else None, int(rows), int(columns), pixel_aspect(tags))


def pixel_aspect(tags: Mapping[str, Any]) -> float:
    """Return the height of a pixel by its width; 1 where the tags say nothing sensible."""
    for found in (
        tags.get("PixelSpacing"),
        first_item(first_item(tags, "SharedFunctionalGroupsSequence"), "PixelMeasuresSequence").get("PixelSpacing"),
        tags.get("ImagerPixelSpacing"),
        tags.get("NominalScannedPixelSpacing"),
        tags.get("PixelAspectRatio"),
    ):
        pair = numbers(found, 2)
        if pair and min(pair) > 0 and 0.05 < pair[0] / pair[1] < 20:
            return pair[0] / pair[1]
    return 1.0


def first_item(tags: Mapping[str, Any], sequence: str) -> Mapping[str, Any]:
    """Return the first item of a sequence; an empty one where there is none."""
    items = tags.get(sequence)
    return items[0] if isinstance(items, list) and items else {}


def fitted(rows: int, columns: int, aspect: float, size: int) -> tuple[int, int, int]:
    """Return width and height of a picture whose longer side is `size`, and the longer side of square pixels to make it of."""
    height, width = rows * aspect, float(columns)
    scale = size / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    enough = max(target[0] / columns, target[1] / rows) * max(rows, columns)
    return *target, min(4 * MAX_SIZE, math.ceil(enough))
