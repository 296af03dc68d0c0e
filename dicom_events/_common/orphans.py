# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/orphans.py: edit that, never this file.
"""What waits for a name that the configuration has no more: it is kept, and forgotten after days."""

import json
import time
from collections.abc import Iterable

from .ledger import Ledger

ORPHAN_TABLES = """
CREATE TABLE IF NOT EXISTS orphan(name TEXT PRIMARY KEY, since REAL NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID;
"""
LOOK_EVERY = 10.0  # seconds between two looks at how long they are kept
DAY = 86400.0  # seconds


class Orphans:
    """The names of a ledger that nobody has now. Its owner has `ORPHAN_TABLES` among the tables of the ledger.

    A name counts the seconds in which the script runs without it, not the time of the clock: a clock that is wrong, or a
    server that is off for long, forgets nothing. `days` : how many, 0 for ever.
    """

    def __init__(self, ledger: Ledger, days: float) -> None:
        self._ledger, self._days = ledger, days
        self._looked = time.monotonic()

    def begin(self, names: Iterable[str]) -> None:
        """Take the names that nobody has at this start; the others have an owner again."""
        names = sorted(names)
        with self._ledger.transaction() as db:
            db.executemany(
                "INSERT INTO orphan VALUES(?,?,0) ON CONFLICT DO NOTHING", [(name, time.time()) for name in names]
            )
            db.execute("DELETE FROM orphan WHERE name NOT IN (SELECT value FROM json_each(?))", (json.dumps(names),))

    def names(self) -> dict[str, tuple[float, float | None]]:
        """Return each one with the time since when it is one, and the days until it is forgotten (None: never)."""
        rows = self._ledger.rows("SELECT * FROM orphan ORDER BY name")
        return {row["name"]: (row["since"], self._left(row["seconds"])) for row in rows}

    def _left(self, seconds: float) -> float | None:
        return round(max(0.0, self._days - seconds / DAY), 2) if self._days else None

    def expired(self) -> list[str]:
        """Count the time since the last call, and return the names that were kept for long enough. Call it often."""
        now = time.monotonic()
        passed = now - self._looked
        if passed < LOOK_EVERY:
            return []
        self._looked = now
        if not self._ledger.rows("SELECT 1 FROM orphan LIMIT 1"):
            return []
        self._ledger.run("UPDATE orphan SET seconds=seconds+?", passed)
        if not self._days:
            return []
        return [row["name"] for row in self._ledger.rows("SELECT name FROM orphan WHERE seconds>=?", self._days * DAY)]

    def forget(self, name: str) -> None:
        """Drop what waited for it."""
        self._ledger.run("DELETE FROM orphan WHERE name=?", name)
