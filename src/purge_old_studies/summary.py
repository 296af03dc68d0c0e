# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a dry run answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .archive import WINDOW
from .conditions import Conditions, received_until
from .index import Index
from .studies import Study, identifiers

LATELY_DAYS = 7  # what came in within these is named


def summary(index: Index, studies: Sequence[Study], asked: Conditions, now: float) -> dict[str, Any]:
    """Return what a dry run answers: what would go, and how much of that came in lately, before `now` (a POSIX time)."""
    lately = received_until(LATELY_DAYS, now)
    years = Counter(str(day.year) if (day := study.day(asked.by)) else "undated" for study in studies)
    modalities: Counter[str] = Counter()
    size = 0
    for start in range(0, len(studies), WINDOW):
        window = {study.id: study for study in studies[start : start + WINDOW]}
        of_each: dict[str, set[str]] = {}
        for series in index.children("Series", window.values(), ["MainDicomTags", "Parent"]):
            of_each.setdefault(series["ParentStudy"], set()).add(series["MainDicomTags"].get("Modality", "") or "none")
        modalities.update(modality for study, found in of_each.items() if study in window for modality in found)
        size += sum(index.sizes_of(window.values()).values())
    ends = [identifiers(study) for study in studies[:: max(1, len(studies) - 1)][:2]]
    return {
        "DryRun": True,
        "Since": f"{asked.last:%Y%m%d}",
        "Studies": len(studies),
        **({"OnlyIfAt": list(asked.only_if_at)} if asked.only_if_at else {}),
        f"ReceivedWithin{LATELY_DAYS}Days": sum(study.arrived > lately for study in studies),
        "Bytes": size,
        "Years": dict(sorted(years.items())),
        "Modalities": dict(sorted(modalities.items())),
        "First": ends[0] if ends else None,
        "Last": ends[-1] if ends else None,
    }
