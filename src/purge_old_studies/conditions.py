# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which studies are to go, as it was asked for."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

from common.routes import Refused
from common.times import parse_day
from forwarding.node_proof import NODE_PROOFS

from .clock import DAY_SECONDS, orthanc_time_of
from .parameters import shown

# What may narrow a purge: the tags that Orthanc keeps of each study in its index, on every version. Others it reads from
# the files, or silently never matches.
QUERY_TAGS = (
    "AccessionNumber", "InstitutionName", "ModalitiesInStudy", "PatientBirthDate", "PatientID",
    "PatientName", "PatientSex", "ReferringPhysicianName", "RequestedProcedureDescription", "RequestingPhysician",
    "StudyDescription", "StudyID", "StudyInstanceUID", "StudyTime",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Which studies go: those up to the day `last`, of these matching `query` and `labels`, the `limit` oldest.

    What of them is not proved to be at each destination of `only_if_at` stays; `proof` is how a DICOM node proves it.

    Where `received_until` is given (Orthanc's LastUpdate, UTC), what came in later stays, and what came in nobody knows when.
    """

    last: datetime.date
    by: str = "StudyDate"
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    labels_constraint: str = "All"
    limit: int | None = None
    undated: bool | str = False
    received_until: str = ""
    only_if_at: tuple[str, ...] = ()
    proof: str = NODE_PROOFS[0]

    def as_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        elsewhere = {"only_if_at": list(found.pop("only_if_at")), "proof": found.pop("proof")}
        found |= {"last": f"{self.last:%Y%m%d}", "labels": list(self.labels)}
        return {**found, **(elsewhere if self.only_if_at else {})}

    def in_words(self, number: int) -> str:
        """Return so many studies of these, as `12 studies dated on or before 20000101`."""
        studies = f"{number} {'study' if number == 1 else 'studies'}"
        text = f"{studies} {'dated' if self.by == 'StudyDate' else 'received'} on or before {self.last:%Y%m%d}"
        also = {True: ", or without a date", "received": ", or without a date and received by then"}
        return text + (also.get(self.undated, "") if self.by == "StudyDate" else "")

    @classmethod
    def from_json(cls, text: str) -> Conditions:
        found = json.loads(text)
        last = typing.cast("datetime.date", parse_day(found["last"]))
        lists = {name: tuple(found.get(name, ())) for name in ("labels", "only_if_at")}
        return cls(**{**found, "last": last, **lists})


def conditions(found: Mapping[str, Any], today: datetime.date, *, has_labels: bool = True) -> Conditions:
    """Return which studies are meant. Raises `Refused` (400), saying what is wrong and what is allowed."""
    by, constraint = found.get("by", "StudyDate"), found.get("LabelsConstraint", "All")
    if "LabelsConstraint" in found and "Labels" not in found:
        raise Refused(400, "LabelsConstraint needs Labels")
    if "proof" in found and "only-if-at" not in found:
        raise Refused(400, "proof needs only-if-at")
    if "Labels" in found and not has_labels:
        raise Refused(400, "Labels: this Orthanc has none, they came with 1.12.0")
    for label in found.get("Labels", ()):
        if not is_label(label):
            raise Refused(400, f"Labels: {shown(label)} can't be one, allowed: letters, digits, - and _")
    _check_query(found.get("Query", {}))
    return Conditions(
        _last_day(found, today),
        by,
        found.get("Query", {}),
        tuple(found.get("Labels", ())),
        constraint,
        found.get("limit"),
        found.get("undated", False),
        only_if_at=tuple(found.get("only-if-at", ())),
        proof=found.get("proof", NODE_PROOFS[0]),
    )


def received_until(days: float, now: float) -> str:
    """Return until when a study must have come in that is to go, as Orthanc writes LastUpdate; "" for 0 days: at any time."""
    return orthanc_time_of(now - days * DAY_SECONDS) if days else ""


def is_label(text: str) -> bool:
    """Return whether Orthanc can have such a label: a misspelt one would restrict nothing, or protect nothing."""
    return re.fullmatch("[A-Za-z0-9_-]{1,64}", text) is not None


def _last_day(found: Mapping[str, Any], today: datetime.date) -> datetime.date:
    if ("since" in found) == ("older-than" in found):
        which = "is missing" if "since" not in found else "and older-than stand both there"
        raise Refused(
            400, f"since {which}: give the last day (since=YYYYMMDD) or the age (older-than=7y) of what is to go"
        )
    if "older-than" in found:
        day = day_back(found["older-than"], today)
        if day is None:
            raise Refused(400, f"older-than is {shown(found['older-than'])}, allowed: an age such as 90d, 18m or 7y")
        return day
    day = parse_day(found["since"])
    if day is None:
        raise Refused(400, f"since is {shown(found['since'])}, allowed: a day of the calendar as YYYYMMDD")
    if day > today:
        raise Refused(400, f"since is {day:%Y%m%d}, a day yet to come; allowed: up to today, {today:%Y%m%d}")
    return day


def day_back(age: str, today: datetime.date) -> datetime.date | None:
    """Return the day that is so many days, calendar months or years before `today`; None if that is no age or no day.

    Where a month has no such day, its last one: a month before 31 March is 28 or 29 February.
    """
    if not (found := re.fullmatch(r"([1-9][0-9]{0,4})([dmy])", age, re.ASCII)):
        return None
    number, unit = int(found[1]), found[2]
    if unit == "d":
        return today - datetime.timedelta(number) if number < today.toordinal() else None
    months = today.year * 12 + today.month - 1 - number * (12 if unit == "y" else 1)
    year, month = months // 12, months % 12 + 1
    if year < 1:
        return None
    after = datetime.date(year + month // 12, month % 12 + 1, 1)
    return min(after - datetime.timedelta(1), datetime.date(year, month, 1) + datetime.timedelta(today.day - 1))


def _check_query(query: Mapping[str, str]) -> None:
    """Refuse what would match more than it says, and what can match nothing."""
    for tag, value in query.items():
        if tag in ("StudyDate", "0008,0020", "0008-0020"):
            raise Refused(400, "Query: days are given by since or older-than, not by StudyDate")
        if tag not in QUERY_TAGS:
            near = difflib.get_close_matches(tag, QUERY_TAGS, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(QUERY_TAGS)}"
            raise Refused(400, f"Query: {shown(tag)} is not kept of each study; {hint}")
        if any(not part.strip("* ") for part in value.split("\\")):
            raise Refused(400, f"Query: {tag} {shown(value)} would match every study; leave it out")
        if not value.isprintable():
            raise Refused(400, f"Query: {tag} has characters that no value of DICOM has here")
        if tag == "ModalitiesInStudy" and re.search(r"[*?]", value):
            raise Refused(400, "Query: ModalitiesInStudy takes no wildcards; several stand side by side: CT\\MR")
        if "\\" in value and re.search(r"[*?]", value):
            raise Refused(400, f"Query: {tag} is a list, which takes no wildcards")
        if tag in ("StudyTime", "PatientBirthDate") and "-" in value:
            raise Refused(400, f"Query: {tag} takes no range; to Orthanc an empty value would lie in it")
