# SPDX-License-Identifier: AGPL-3.0-or-later
"""`StoredInstanceThrottleMs`: of each series one event an interval, and the last one in any case."""

from __future__ import annotations

import time
from typing import NamedTuple

from common.ledger import Ledger

THROTTLE_TABLES = """
CREATE TABLE IF NOT EXISTS held(
    series TEXT PRIMARY KEY, due REAL NOT NULL, id TEXT, subject TEXT, created REAL, data TEXT) WITHOUT ROWID;
"""
FOR_EVER = 2.0**62  # later than any time


class StoredEvent(NamedTuple):
    """An event of a stored instance."""

    uid: str
    subject: str
    when: float
    data: str


class Throttle:
    """Holds back the last event of each series until its interval is over. `milliseconds` 0: none is held back."""

    def __init__(self, ledger: Ledger, milliseconds: int) -> None:
        self._ledger, self.interval = ledger, milliseconds / 1000
        self.next_event: dict[str, float] = {}
        """Of each series, the time (monotonic) from which one may be published again."""

    def holds(self, series: str, clock: float, event: StoredEvent, *, may_follow_former: bool) -> bool:
        """Return whether an event waits, until its series may publish one again or the next takes its place.

        `may_follow_former`: the event before may be of a former process, which alone knew when that was.
        """
        wait = min(self.interval, self.next_event.get(series, 0.0) - clock)
        if may_follow_former and series not in self.next_event:
            wait = self.interval
        with self._ledger.transaction() as db:
            if wait <= 0:
                self.next_event[series] = clock + self.interval
                db.execute("DELETE FROM held WHERE series=?", (series,))
                return False
            db.execute(
                "INSERT INTO held VALUES(?,?,?,?,?,?) ON CONFLICT(series) DO UPDATE SET id=excluded.id, "
                "subject=excluded.subject, created=excluded.created, data=excluded.data",
                (series, event.when + wait, event.uid, event.subject, event.when, event.data),
            )
            return True

    def take(self, series: str | None = None) -> list[tuple[str, StoredEvent]]:
        """Remove and return those whose interval is over, or that of one series, each with its series."""
        # What is not throttled any more waits for nothing.
        condition, value = ("series=?", series) if series else ("due<=?", time.time() if self.interval else FOR_EVER)
        with self._ledger.transaction() as db:
            rows = self._ledger.rows(f"SELECT * FROM held WHERE {condition}", value)
            for row in rows:
                db.execute("DELETE FROM held WHERE series=?", (row["series"],))
                self.next_event[row["series"]] = time.monotonic() + self.interval
        if not series:
            now = time.monotonic()
            self.next_event = {key: when for key, when in self.next_event.items() if when > now}
        return [(row["series"], StoredEvent(row["id"], row["subject"], row["created"], row["data"])) for row in rows]

    def next_due(self) -> float | None:
        """Return the time of the next event that is to be taken, or None."""
        found: float | None = self._ledger.rows("SELECT MIN(due) due FROM held")[0]["due"]
        return found
