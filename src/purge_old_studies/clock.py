# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the clock of this server can be believed: every age is counted from it."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import orthanc

from common.ledger import Ledger
from common.routes import one_line

DAY_SECONDS = 86400.0
MAX_AHEAD_SECONDS = DAY_SECONDS  # a clock further ahead of the time to be expected is doubted,
MAX_AHEAD_AT_START_SECONDS = 30 * DAY_SECONDS  # but at a start nobody knows how long the server was off
MAX_BEHIND_SECONDS = DAY_SECONDS
RECORD_SECONDS = 3600.0  # from one record of the time to the next
FIRST_POSSIBLE_TIME = 1704067200.0  # 2024-01-01: this script is younger
ORTHANC_TIME = "%Y%m%dT%H%M%S"  # of LastUpdate, in UTC
CLOCK_TABLES = """
CREATE TABLE IF NOT EXISTS behind(first TEXT NOT NULL, last TEXT NOT NULL, until TEXT NOT NULL, open INTEGER NOT NULL);
"""
SPANS = "SELECT rowid, * FROM behind"


@dataclasses.dataclass(frozen=True)
class Reading:
    """The clock at one moment: what it says and what is to be expected (POSIX times), and why it is doubted, or ""."""

    now: float
    expected: float
    doubt: str = ""

    @property
    def earliest(self) -> float:
        """The time by which nothing seems older than it is."""
        return min(self.now, self.expected) if self.doubt else self.now

    def as_json(self) -> dict[str, Any]:
        return {
            "State": "doubted" if self.doubt else "right",
            "Now": utc_time(self.now),
            "Expected": utc_time(self.expected),
            "Message": self.doubt or None,
        }


class Clock:
    """The clock of this server, compared with the newest time that the ledger has plus the time since.

    A time that is doubted is never recorded. So a clock that fell back to 1970 is believed again once it is set right. What
    comes in while the clock is behind bears a date of long ago; `arrival` knows better.

    Parameters
    ----------
    ledger : where the time is recorded; its tables hold `CLOCK_TABLES`.
    wall, steady : the clock, and the seconds that go by whatever the clock is set to.
    """

    def __init__(
        self, ledger: Ledger, wall: Callable[[], float] = time.time, steady: Callable[[], float] | None = None
    ) -> None:
        self._ledger, self._wall, self._steady = ledger, wall, steady or steady_seconds
        self._lock = threading.Lock()
        recorded = ledger.get_value("clock")
        self._time, self._since = float(recorded or FIRST_POSSIBLE_TIME), self._steady()
        self._max_ahead = MAX_AHEAD_AT_START_SECONDS if recorded else math.inf
        self._recorded = self._complained = -math.inf  # when, by the steady clock
        self._doubted = self._unrecorded = False
        self._behind: list[dict[str, Any]] = ledger.rows(SPANS)

    def read(self) -> Reading:
        """Return what the clock says now, and whether that can be; writes nothing, and so waits for nobody."""
        with self._lock:
            now, steady = self._wall(), self._steady()
            expected = self._time + steady - self._since
            if -MAX_BEHIND_SECONDS <= now - expected <= self._max_ahead:
                self._believe(now, steady)
                return Reading(now, expected)
            self._doubted = True
            doubt = _doubt(now, expected)
            if steady - self._complained >= DAY_SECONDS:
                self._complained = steady
                orthanc.LogError(f"purge_old_studies: {doubt}")
            return Reading(now, expected, doubt)

    def record(self) -> Reading:
        """Read the clock, and write down what must be known at the next start. For one thread, now and then.

        Where the ledger can't be written (a full disk), the next call tries again; said once.
        """
        reading = self.read()
        try:
            if not reading.doubt:
                self._record_time(reading.now)
            elif reading.now < reading.expected:
                self._record_behind(reading)
            self._unrecorded = False
        except (OSError, sqlite3.Error) as error:
            if not self._unrecorded:
                orthanc.LogError(f"purge_old_studies: the time can't be recorded: {one_line(error)}")
            self._unrecorded = True
        return reading

    def confirm(self) -> Reading:
        """Believe the clock as it is now, since a person says so.

        Raises
        ------
        sqlite3.Error : that can't be recorded; it is doubted as before.
        """
        now, steady = self._wall(), self._steady()
        with self._ledger.transaction():
            self._ledger.set_value("clock", int(now))
            self._ledger.run("DELETE FROM behind WHERE open=1")  # it was right all the time
        self._behind = self._ledger.rows(SPANS)
        with self._lock:
            self._believe(now, steady)
        return Reading(now, now)

    def arrival(self, received: str) -> str:
        """Return when something came in, as far as it is known: what came in while the clock was behind, came when that ended.

        `received` and the result are Orthanc's LastUpdate, "" if there is none that could be one.
        """
        if not re.fullmatch("[0-9]{8}T[0-9]{6}", received):
            return ""
        untils = [str(span["until"]) for span in self._behind if span["first"] <= received <= span["last"]]
        return max(received, *untils) if untils else received

    def _believe(self, now: float, steady: float) -> None:
        self._time, self._since, self._max_ahead = now, steady, MAX_AHEAD_SECONDS
        if self._doubted:
            self._doubted, self._complained = False, -math.inf
            orthanc.LogWarning(f"purge_old_studies: the clock is believed again: {utc_time(now)}")

    def _record_time(self, now: float) -> None:
        ended = any(span["open"] for span in self._behind)
        if not ended and self._steady() - self._recorded < RECORD_SECONDS:
            return
        with self._ledger.transaction():
            self._ledger.set_value("clock", int(now))
            self._ledger.run("UPDATE behind SET until=?, open=0 WHERE open=1", orthanc_time_of(now))
        self._behind, self._recorded = self._ledger.rows(SPANS), self._steady()

    def _record_behind(self, reading: Reading) -> None:
        """Write down what the clock says while it is behind, with a day before and after."""
        text, soon, last = (orthanc_time_of(reading.now + ahead) for ahead in (0, DAY_SECONDS / 2, DAY_SECONDS))
        known = next((span for span in self._behind if span["open"] and span["first"] <= text <= span["last"]), None)
        until = orthanc_time_of(reading.expected)
        if known is None:
            first = orthanc_time_of(reading.now - DAY_SECONDS)
            self._ledger.run("INSERT INTO behind VALUES(?,?,?,1)", first, last, until)
        elif soon > known["last"]:
            self._ledger.run("UPDATE behind SET last=?, until=? WHERE rowid=?", last, until, known["rowid"])
        else:
            return
        self._behind = self._ledger.rows(SPANS)


def _doubt(now: float, expected: float) -> str:
    days = abs(now - expected) / DAY_SECONDS
    return (
        f"The clock says {utc_time(now)}, {days:.0f} days {'ahead of' if now > expected else 'behind'} the time to be expected, "
        f"{utc_time(expected)}: no rule runs and nothing goes by its age until it is set right. If it is right, confirm it by "
        "POST /purge-old-studies/confirm-clock"
    )


def steady_seconds() -> float:
    """Return seconds that go on whatever the clock is set to, on Linux also while the machine sleeps."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


def utc_time(seconds: float | None) -> str | None:
    """Return a POSIX time as ISO 8601."""
    moment = None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)  # noqa: UP017
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def orthanc_time_of(seconds: float) -> str:
    """Return a POSIX time as Orthanc writes LastUpdate."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=max(0.0, seconds))  # noqa: DTZ001 - it is UTC
    return moment.strftime(ORTHANC_TIME)


def local_day(seconds: float) -> datetime.date:
    """Return the server's local day at a POSIX time."""
    return datetime.datetime.fromtimestamp(seconds).date()  # noqa: DTZ006 - days are the server's local ones
