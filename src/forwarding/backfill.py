# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sends what the archive holds already, when a person asks for it: whole studies by StudyDate."""

import calendar
import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.loopback import Loopback
from common.times import parse_day
from forwarding.engine import Engine
from forwarding.tasks import BACKFILL_PRIORITY

STUDIES_PER_PAGE = 500
MANY_STUDIES = range(1900, 2100)  # years that are asked for month by month: who asks for all says 00010101 to 99991231


def studies_between(loopback: Loopback, first: datetime.date, last: datetime.date) -> list[str]:
    """Return the studies whose StudyDate is from `first` to `last`, both included."""
    windows = _months(first, last) if loopback.find_is_unlimited else [(first, last)]
    return [study for window in windows for study in _studies_of(loopback, *window)]


def send_studies(
    engine: Engine, studies: Sequence[str], destinations: Sequence[str], modify: Mapping[str, Any] | None = None
) -> None:
    """Add a row for each study and destination; `modify` is what is changed on the way."""
    for study in studies:
        with engine.ledger.transaction():
            for destination in destinations:
                engine.rows.add("Study", study, destination, None, BACKFILL_PRIORITY, modify=modify)


def _studies_of(loopback: Loopback, first: datetime.date, last: datetime.date) -> list[str]:
    query = {"Level": "Study", "Expand": True, "Query": {"StudyDate": f"{_as_dicom(first)}-{_as_dicom(last)}"}}
    found = loopback.post("/tools/find", query) if loopback.find_is_unlimited else _all_studies(loopback)
    # Orthanc compares dates as text: look at each.
    days = ((study["ID"], parse_day(study["MainDicomTags"].get("StudyDate"))) for study in found)
    return [study for study, day in days if day and first <= day <= last]


def _all_studies(loopback: Loopback) -> Iterator[dict[str, Any]]:
    since = 0
    while page := loopback.get(f"/studies?expand&since={since}&limit={STUDIES_PER_PAGE}"):
        yield from page
        since += len(page)


def _months(first: datetime.date, last: datetime.date) -> Iterator[tuple[datetime.date, datetime.date]]:
    """Yield the parts of a range that lie in one month: what one question asks of the archive stays small."""
    while True:
        if first.year < MANY_STUDIES.start:
            end = datetime.date(MANY_STUDIES.start - 1, 12, 31)
        elif first.year >= MANY_STUDIES.stop:
            end = datetime.date.max
        else:
            end = first.replace(day=calendar.monthrange(first.year, first.month)[1])
        yield first, min(end, last)
        if end >= last:  # there is no day after the last one of the calendar
            return
        first = end + datetime.timedelta(days=1)


def _as_dicom(day: datetime.date) -> str:
    """Return a day as YYYYMMDD: `strftime` does not pad a year before 1000 everywhere."""
    return day.isoformat().replace("-", "")
