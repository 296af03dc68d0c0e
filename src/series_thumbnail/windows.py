# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which grey values of an image are black and white, where Orthanc's `/rendered` does not know it by itself.

Orthanc (1.10.1 to 1.13.0) knows the window and the rescaling of the image and of the functional groups of a frame, not those
that all frames share. Without a window it shows 0 to 255, which leaves images of 16 bits black or white.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .selection import numbers

FLOATS = {"FloatPixelData": "F;32F", "DoubleFloatPixelData": "F;64F"}  # DICOM PS3.3 C.7.6.24 and C.7.6.25
MAX_SAMPLES = 65_536  # values of an image that its range is taken from
DARKEST, BRIGHTEST = 0.01, 0.99  # of the values, in order: what is black and what is white


@dataclasses.dataclass(frozen=True)
class Greys:
    """What an image's grey values are, which Orthanc does not always know.

    `by_orthanc`: whether it has a window that Orthanc knows; `window`: another one, the stored values of black and white, None:
    those of the pixels themselves; `slope` and `intercept`: how Orthanc rescales stored values; `padding`: lowest and highest
    stored value that is no part of the image; `form`: how Pillow names values that Orthanc can't render (more than 16 bits),
    else empty.
    """

    by_orthanc: bool
    window: tuple[float, float] | None
    slope: float
    intercept: float
    padding: tuple[float, float] | None
    is_inverted: bool
    form: str

    def as_orthanc_counts(self, low: float, high: float) -> tuple[float, float]:
        """Return center and width of a window from stored values."""
        low, high = sorted((low * self.slope + self.intercept, high * self.slope + self.intercept))
        return (low + high) / 2, high - low


def greys_of(tags: Mapping[str, Any], frame: int) -> Greys | None:
    """Return what the grey values of a frame are; None for colours."""
    photometric = str(tags.get("PhotometricInterpretation", ""))
    if not photometric.startswith("MONOCHROME"):
        return None
    form = _form(tags)
    own = window_of(tags)
    shared = nth_item(tags, "SharedFunctionalGroupsSequence", 0)
    of_frame = nth_item(tags, "PerFrameFunctionalGroupsSequence", frame)
    orthanc_values = _rescaling(of_frame) or _plain_rescaling(tags)
    slope, intercept = _rescaling(shared) or orthanc_values
    window = own or _group_window(shared) or _group_window(of_frame)
    by_orthanc = own is not None and not form
    stored = ((window[0] - intercept) / slope, (window[1] - intercept) / slope) if window and not by_orthanc else None
    return Greys(by_orthanc, stored, *orthanc_values, _padding(tags), photometric == "MONOCHROME1", form)


def window_of(tags: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the lowest and the highest value of the first window; a width below 1 is none (DICOM PS3.3 C.11.2.1.2)."""
    center, width = first_number(tags, "WindowCenter"), first_number(tags, "WindowWidth")
    if center is None or width is None or width < 1:
        return None
    return center - width / 2, center + width / 2


def own_range(values: Sequence[float], padding: tuple[float, float] | None) -> tuple[float, float]:
    """Return the values of black and white: of all but the rarest, and without padding."""
    finite = sorted(filter(math.isfinite, values[:: max(1, len(values) // MAX_SAMPLES) | 1]))
    shown = [value for value in finite if not padding or not padding[0] <= value <= padding[1]] or finite or [0.0]
    low, high = shown[int(len(shown) * DARKEST)], shown[int(len(shown) * BRIGHTEST)]
    if low == high:
        low, high = shown[0], shown[-1]
    return (low, high) if low < high else (low - 128, low + 128)


def nth_item(tags: Mapping[str, Any], sequence: str, index: int) -> Mapping[str, Any]:
    """Return an item of a sequence; an empty one where there is none."""
    items = tags.get(sequence)
    item = items[index] if isinstance(items, list) and index < len(items) else None
    return item if isinstance(item, Mapping) else {}


def first_number(tags: Mapping[str, Any], name: str) -> float | None:
    """Return the first value of an attribute, if it is a number."""
    found = numbers(str(tags.get(name)).partition("\\")[0], 1)
    return found[0] if found else None


def _form(tags: Mapping[str, Any]) -> str:
    for name, form in FLOATS.items():
        if name in tags:
            return form
    bits = first_number(tags, "BitsAllocated") or 16
    if bits <= 16:
        return ""
    return f"F;{bits:.0f}{'S' if first_number(tags, 'PixelRepresentation') == 1 else ''}"


def _group_window(group: Mapping[str, Any]) -> tuple[float, float] | None:
    return window_of(nth_item(group, "FrameVOILUTSequence", 0))


def _rescaling(group: Mapping[str, Any]) -> tuple[float, float] | None:
    values = nth_item(group, "PixelValueTransformationSequence", 0)
    return _plain_rescaling(values) if "RescaleSlope" in values else None


def _plain_rescaling(tags: Mapping[str, Any]) -> tuple[float, float]:
    return first_number(tags, "RescaleSlope") or 1.0, first_number(tags, "RescaleIntercept") or 0.0


def _padding(tags: Mapping[str, Any]) -> tuple[float, float] | None:
    value, limit = first_number(tags, "PixelPaddingValue"), first_number(tags, "PixelPaddingRangeLimit")
    if value is None:
        return None
    limit = value if limit is None else limit
    return min(value, limit), max(value, limit)
