# SPDX-License-Identifier: AGPL-3.0-or-later
"""A study as Orthanc's index has it, and whether the conditions name it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
from collections.abc import Mapping
from typing import Any

from common.times import parse_day
from common.wildcards import matches_any

from .conditions import Conditions

IDENTIFIERS = ("PatientID", "StudyInstanceUID", "AccessionNumber", "StudyDate")


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as the index has it.

    `tags` are those of its patient too, `received` is its LastUpdate (UTC): Orthanc writes it when an instance comes in, and when
    metadata or labels change. `arrived` is that time put right (`Clock.arrival`), "" if it is not known.
    """

    id: str
    patient: str
    tags: Mapping[str, str]
    received: str
    arrived: str
    labels: frozenset[str]
    metadata: frozenset[str]
    instances: int = 0  # 0: not counted

    def day(self, by: str) -> datetime.date | None:
        """Return the day that counts; None if there is none that a calendar knows."""
        if by == "StudyDate":
            return _day(self.tags.get("StudyDate", ""))
        with contextlib.suppress(ValueError, OverflowError, OSError):
            moment = datetime.datetime.strptime(self.arrived, "%Y%m%dT%H%M%S").replace(tzinfo=datetime.timezone.utc)  # noqa: UP017
            return moment.astimezone().date()
        return None


@functools.lru_cache(10_000)
def _day(text: str) -> datetime.date | None:
    return parse_day(text)


def is_meant(study: Study, asked: Conditions) -> bool:
    """Return whether the conditions name this study, and it did not come in too lately for them."""
    return fits(study, asked) and not came_lately(study, asked)


def came_lately(study: Study, asked: Conditions) -> bool:
    """Return whether something of this study came in after `received_until`, or may have."""
    return bool(asked.received_until) and not "" < study.arrived <= asked.received_until


def fits(study: Study, asked: Conditions) -> bool:
    """Return whether the conditions name this study, whenever it came in.

    What Orthanc found is judged here once more: it compares dates as text (an empty one, `1999`, `1999.12.31` and `19991301` are
    before 20000101 to it) and names without regard to case.
    """
    day = study.day(asked.by)
    if day is None and asked.undated == "received":
        day = study.day("received")
    elif day is None and asked.undated:
        day = datetime.date.min
    if day is None or day > asked.last:
        return False
    held = [label in study.labels for label in asked.labels]
    by_labels = {"All": all(held), "Any": not held or any(held), "None": not any(held)}[asked.labels_constraint]
    return by_labels and all(
        tag == "ModalitiesInStudy" or matches(study.tags.get(tag, ""), value) for tag, value in asked.query.items()
    )


def matches(found: str, wanted: str) -> bool:
    """Single value, list and wild card matching (DICOM PS3.4 C.2.2.2), with regard to case."""
    return matches_any(found.strip(), map(str.strip, wanted.split("\\")))


def identifiers(study: Study) -> dict[str, str]:
    return {"ID": study.id, **{tag: study.tags.get(tag, "") for tag in IDENTIFIERS}}


def facts(study: Study) -> dict[str, Any]:
    """Return what is written down of a study that is to be deleted."""
    return {**identifiers(study), "LastUpdate": study.received, "Instances": study.instances}
