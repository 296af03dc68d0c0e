# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/times.py: edit that, never this file.
"""Times: ISO 8601 in UTC with milliseconds and `Z` wherever a script writes one; days as DICOM writes them."""

import datetime
import re
import time


def utc(seconds: float | None = None) -> str:
    """Return a time as `2026-01-31T13:00:00.000Z`: that of `seconds` since 1970, or now."""
    moment = datetime.datetime.fromtimestamp(time.time() if seconds is None else seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_or_none(seconds: float | None) -> str | None:
    """Return `utc(seconds)`, or None for what has not happened."""
    return None if seconds is None else utc(seconds)


def parse_day(text: object) -> datetime.date | None:
    """Return the day of a DA value (YYYYMMDD, DICOM PS3.5 6.2), or None: `1999.12.31`, `1999`, `20000231` are no days."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{8}", text):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None


def parse_time(text: object) -> datetime.datetime | None:
    """Return a time in UTC from `20260131`, `2026-01-31`, or `2026-01-31T13:00:00[.000]` with a zone; None for anything else.

    A day is its first moment in UTC. A time without a zone is taken as UTC. A `+` that a query turned into a space counts.
    """
    if day := parse_day(text):
        return datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    if not isinstance(text, str) or not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        found = datetime.datetime.fromisoformat(re.sub(r" (?=[0-9]{2}:?[0-9]{2}$)", "+", text))
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None


def parse_orthanc_time(text: object) -> datetime.datetime | None:
    """Return the time of what Orthanc writes into `Date`, `LastUpdate`, `ReceptionDate`: `20260131T130000`, in UTC."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None


def orthanc_time(moment: datetime.datetime) -> str:
    """Return a time as Orthanc writes it, to be compared with its own: `20260131T130000`."""
    return moment.astimezone(datetime.UTC).strftime("%Y%m%dT%H%M%S")
