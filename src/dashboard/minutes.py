# SPDX-License-Identifier: AGPL-3.0-or-later
"""What flowed in each minute of the last day, and since when things are as they are: the script's state."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from common.ledger import Ledger
from common.times import utc

KEEP_MINUTES = 1500  # a day, and an hour for who looks back a whole day
MINUTE_TABLES = """
CREATE TABLE IF NOT EXISTS minutes(
    minute INTEGER PRIMARY KEY, received INTEGER NOT NULL, forwarded INTEGER NOT NULL, waiting INTEGER NOT NULL,
    failed INTEGER NOT NULL, lag REAL NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS states(thing TEXT PRIMARY KEY, state TEXT NOT NULL, since REAL NOT NULL) WITHOUT ROWID;
"""


class Minute(NamedTuple):
    """What flowed in a minute: instances received and forwarded; at its end, deliveries that waited and that were given up.

    `minute` is its begin in minutes since 1970, `lag` the age in seconds of the oldest delivery that waited, `archive`
    the bytes that Orthanc held.
    """

    minute: int
    received: int
    forwarded: int
    waiting: int
    failed: int
    lag: float
    archive: int


class Minutes:
    """The rows of the last day."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, row: Minute) -> None:
        """Write a minute down, and forget what is older than a day. What was counted in it before a restart is added."""
        sql = (
            "INSERT INTO minutes VALUES(?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET received=received+excluded.received, "
            "forwarded=forwarded+excluded.forwarded, waiting=excluded.waiting, failed=excluded.failed, "
            "lag=excluded.lag, bytes=excluded.bytes"
        )
        with self._ledger.transaction():
            self._ledger.run(sql, *row)
            self._ledger.run("DELETE FROM minutes WHERE minute<=?", row.minute - KEEP_MINUTES)

    def since(self, minute: int) -> dict[str, list[Any]]:
        """Return the minutes from this one on, oldest first, as columns."""
        rows = self._ledger.rows("SELECT * FROM minutes WHERE minute>=? ORDER BY minute", minute)
        return {
            "Minute": [row["minute"] for row in rows],
            "Received": [row["received"] for row in rows],
            "Forwarded": [row["forwarded"] for row in rows],
            "Waiting": [row["waiting"] for row in rows],
            "Failed": [row["failed"] for row in rows],
            "LagSeconds": [row["lag"] for row in rows],
            "Bytes": [row["bytes"] for row in rows],
        }


class Sinces:
    """Since when each thing is in its state, as far as this script has looked; over restarts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        rows = ledger.rows("SELECT * FROM states")
        self._known: dict[str, tuple[str, float]] = {row["thing"]: (row["state"], row["since"]) for row in rows}

    def update(self, states: Mapping[str, str]) -> None:
        """Note the state of all things that there are now; what is not there any more is forgotten."""
        now = time.time()
        changed = {thing: state for thing, state in states.items() if self._known.get(thing, ("",))[0] != state}
        gone = self._known.keys() - states.keys()
        if changed or gone:
            self._write(changed, gone, now)
            for thing in gone:
                del self._known[thing]
            self._known |= {thing: (state, now) for thing, state in changed.items()}

    def _write(self, changed: Mapping[str, str], gone: Iterable[str], now: float) -> None:
        with self._ledger.transaction():
            for thing, state in changed.items():
                self._ledger.run("INSERT OR REPLACE INTO states VALUES(?,?,?)", thing, state, now)
            for thing in gone:
                self._ledger.run("DELETE FROM states WHERE thing=?", thing)

    def of(self, thing: str) -> str | None:
        """Return since when a thing is as it is, or None."""
        known = self._known.get(thing)
        return None if known is None else utc(known[1])
