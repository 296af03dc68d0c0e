# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which instance of a series is shown: the middle one, by position, then Instance Number, then time of arrival."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def numbers(text: object, count: int) -> tuple[float, ...] | None:
    """Return the `count` numbers of a DS or IS value, or None if it holds others, or something else."""
    try:
        found = tuple(float(part) for part in str(text).split("\\"))
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def positions(instances: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return where each lies along the normal of its slice, in mm (DICOM PS3.3 C.7.6.2.1.1); None: not all are parallel."""
    tags = [instance["MainDicomTags"] for instance in instances]
    first_text = tags[0].get("ImageOrientationPatient") if tags else None
    first = numbers(first_text, 6)
    if first is None:
        return None
    a, b, c, d, e, f = first
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    if math.hypot(*normal) < 0.1:
        return None
    along = []
    for each in tags:
        text = each.get("ImageOrientationPatient")
        orientation = first if text == first_text else numbers(text, 6)
        position = numbers(each.get("ImagePositionPatient"), 3)
        if position is None or orientation is None or math.dist(first, orientation) > 0.01:
            return None
        along.append(round(sum(x * y for x, y in zip(position, normal, strict=True)), 3))
    return along


def in_order(instances: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the identifiers of the instances of a series by position, then Instance Number, then as given (by arrival)."""
    along = positions(instances) or [0.0] * len(instances)
    number = [numbers(instance["MainDicomTags"].get("InstanceNumber"), 1) or (math.inf,) for instance in instances]
    return [instances[i]["ID"] for i in sorted(range(len(instances)), key=lambda i: (along[i], number[i]))]


def is_ordered(instances: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether position or Instance Number say where each belongs; if not, the time of arrival must."""
    return all(numbers(each["MainDicomTags"].get("InstanceNumber"), 1) for each in instances) or (
        positions(instances) is not None
    )


def from_the_middle(items: Sequence[str]) -> Iterator[str]:
    """Yield the middle one, and then outwards: of seven, the fourth, fifth, third, sixth, …"""
    middle = len(items) // 2
    for distance in range(middle + 1):
        for index in {middle + distance: 0, middle - distance: 0}:
            if index < len(items):
                yield items[index]
