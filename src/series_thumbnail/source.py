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
from .windows import Greys, greys_of, nth_item

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
class Frame:
    """One frame of an image: `number`, None where there is but one; `aspect`, height of a pixel by its width; its greys."""

    number: int | None
    aspect: float
    greys: Greys | None

    @property
    def path(self) -> str:
        return "" if self.number is None else f"/frames/{self.number}"


@dataclasses.dataclass(frozen=True)
class Source:
    """What an instance's tags say about drawing it: `kind` is empty for an image; `frames`, which to try, in this order."""

    series: str  # Orthanc's identifier, if the PatientID is ASCII
    kind: str
    frames: tuple[Frame, ...]
    rows: int
    columns: int


# Of an instance that Orthanc can't read: its transfer syntax is unknown to it.
UNREADABLE = Source("", "image", (), 0, 0)


def source_of(tags: Mapping[str, Any]) -> Source:
    """Return what the tags of an instance say, as Orthanc's `simplified-tags` gives them."""
    uid = str(tags.get("SOPClassUID", ""))
    known = [prefix for prefix in NO_IMAGES if uid == prefix or (prefix.endswith(".") and uid.startswith(prefix))]
    rows, columns = ((numbers(tags.get(name), 1) or (0,))[0] for name in ("Rows", "Columns"))
    kind = NO_IMAGES[max(known, key=len)] if known else ""
    if not kind and (rows < 1 or columns < 1):
        kind = "other"
    uids = (str(tags.get(name) or "") for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    frames = () if kind else tuple(_frame(tags, number) for number in _frames_to_try(tags))
    return Source(orthanc_identifier(*uids), kind, frames, int(rows), int(columns))


def _frames_to_try(tags: Mapping[str, Any]) -> list[int | None]:
    """Return the middle frame, its neighbours, and two before them: a file that was cut short still has these."""
    frames = int(min((numbers(tags.get("NumberOfFrames"), 1) or (1,))[0], 1e9))
    if frames <= 1:
        return [None]
    middle = frames // 2
    return [number for number in dict.fromkeys((middle, middle + 1, middle - 1, middle // 2, 0)) if number < frames]


def _frame(tags: Mapping[str, Any], number: int | None) -> Frame:
    return Frame(number, pixel_aspect(tags, number or 0), greys_of(tags, number or 0))


def pixel_aspect(tags: Mapping[str, Any], frame: int = 0) -> float:
    """Return the height of a pixel by its width; 1 where the tags say nothing sensible."""
    for found in (
        tags.get("PixelSpacing"),
        _measures(tags, "SharedFunctionalGroupsSequence", 0),
        _measures(tags, "PerFrameFunctionalGroupsSequence", frame),
        tags.get("ImagerPixelSpacing"),
        tags.get("NominalScannedPixelSpacing"),
        tags.get("PixelAspectRatio"),
    ):
        pair = numbers(found, 2)
        if pair and min(pair) > 0 and 0.05 < pair[0] / pair[1] < 20:
            return pair[0] / pair[1]
    return 1.0


def _measures(tags: Mapping[str, Any], sequence: str, index: int) -> object:
    return nth_item(nth_item(tags, sequence, index), "PixelMeasuresSequence", 0).get("PixelSpacing")


def fitted(rows: int, columns: int, aspect: float, size: int) -> tuple[int, int, int]:
    """Return width and height of a picture whose longer side is `size`, and the longer side of square pixels to make it of."""
    height, width = rows * aspect, float(columns)
    scale = size / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    enough = max(target[0] / columns, target[1] / rows) * max(rows, columns)
    return *target, min(4 * MAX_SIZE, math.ceil(enough))
