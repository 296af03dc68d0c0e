# SPDX-License-Identifier: AGPL-3.0-or-later
"""src/common/times.py: one form of times, and what callers may write."""

from __future__ import annotations

import datetime

import pytest

from common.times import orthanc_time, parse_day, parse_orthanc_time, parse_time, utc, utc_or_none

MOMENT = datetime.datetime(2026, 1, 31, 13, 0, tzinfo=datetime.UTC)


def test_a_time_is_written_in_utc_with_milliseconds_and_z() -> None:
    assert utc(0) == "1970-01-01T00:00:00.000Z"
    assert utc(MOMENT.timestamp() + 0.0625) == "2026-01-31T13:00:00.062Z"
    assert utc_or_none(None) is None
    assert utc_or_none(1) == "1970-01-01T00:00:01.000Z"
    now = parse_time(utc())
    assert now is not None
    assert abs((now - datetime.datetime.now(datetime.UTC)).total_seconds()) < 5


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T13:00:00Z",
        "2026-01-31T13:00:00.000Z",
        "2026-01-31T14:00:00+01:00",
        "2026-01-31T14:00:00 01:00",
        "2026-01-31T13:00",
        "2026-01-31 13:00:00",
    ],
)
def test_a_time_is_read_in_the_forms_that_people_write(text: str) -> None:
    assert parse_time(text) == MOMENT


@pytest.mark.parametrize("text", ["20260131", "2026-01-31"])
def test_a_day_is_its_first_moment(text: str) -> None:
    assert parse_time(text) == MOMENT.replace(hour=0)


@pytest.mark.parametrize(
    "text", ["", "x", "2026", "20260231", "2026-02-31", "2026.01.31", "9999-12-31T23:59:59-23:59", None, 20260131, []]
)
def test_what_is_no_time_is_none(text: object) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "1999.12.31",
        "1999",
        "20000231",
        "2000013",
        " 20000131",
        "\uff12\uff10260131",
        None,
        20000131,
    ],
)
def test_what_is_no_day_of_dicom_is_none(text: object) -> None:
    assert parse_day(text) is None


def test_orthancs_own_times_are_utc() -> None:
    assert parse_orthanc_time("20260131T130000") == MOMENT
    assert orthanc_time(MOMENT) == "20260131T130000"
    assert parse_orthanc_time("20260131") is None
    assert parse_orthanc_time(None) is None
