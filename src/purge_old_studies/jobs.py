# SPDX-License-Identifier: AGPL-3.0-or-later
"""The purges in the ledger, to look at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from common.ledger import FORGOTTEN_AT_ONCE, Ledger
from common.routes import Refused

from .clock import CLOCK_TABLES, utc_time
from .last_runs import LAST_RUNS_TABLE
from .purge import UNFINISHED

LISTED = 1000  # studies that an answer names at most
TABLES = f"""{CLOCK_TABLES}{LAST_RUNS_TABLE}
CREATE TABLE IF NOT EXISTS purges(id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, continues INTEGER NOT NULL,
    asked TEXT NOT NULL, conditions TEXT NOT NULL, created REAL NOT NULL, ended REAL);
CREATE TABLE IF NOT EXISTS studies(purge INTEGER NOT NULL, number INTEGER NOT NULL, study TEXT NOT NULL,
    facts TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY(purge, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS studies_by_state ON studies(purge, state);
CREATE TABLE IF NOT EXISTS runs(rule TEXT NOT NULL, day TEXT NOT NULL, PRIMARY KEY(rule, day));
CREATE INDEX IF NOT EXISTS purges_by_end ON purges(ended);
CREATE TABLE IF NOT EXISTS undelivered(purge INTEGER NOT NULL, reason TEXT NOT NULL, studies INTEGER NOT NULL,
    PRIMARY KEY(purge, reason)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS undelivered_goes AFTER DELETE ON purges BEGIN
    DELETE FROM undelivered WHERE purge=old.id;
END;
"""
# Of what ended before some time: first the studies of each purge, few at a time, then the purge.
FORGET_STUDIES = """
DELETE FROM studies WHERE (purge, number) IN (
    SELECT s.purge, s.number FROM purges p JOIN studies s ON s.purge=p.id WHERE p.ended<? LIMIT ?)
"""
FORGET_PURGES = """
DELETE FROM purges WHERE id IN (
    SELECT id FROM purges p WHERE ended<? AND NOT EXISTS (SELECT 1 FROM studies WHERE purge=p.id) ORDER BY ended LIMIT ?)
"""
FINISHED = ("deleted", "gone", "kept", "failed")


class Jobs:
    """What the ledger knows of each purge."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def row(self, number: int) -> dict[str, Any]:
        """Return the row of a purge. Raises `Refused` (404)."""
        rows = self._ledger.rows("SELECT * FROM purges WHERE id=?", number)
        if not rows:
            raise Refused(404, "There is no such purge; /purge-old-studies/jobs lists them")
        found: dict[str, Any] = rows[0]
        return found

    def as_json(self, row: Mapping[str, Any], rate: float = 0.0) -> dict[str, Any]:
        """Return a purge as the routes show it."""
        sql = "SELECT state, COUNT(*) n FROM studies WHERE purge=? GROUP BY state"
        counts = Counter({each["state"]: each["n"] for each in self._ledger.rows(sql, row["id"])})
        total, remaining = counts.total(), sum(counts[state] for state in UNFINISHED)
        return {
            "ID": row["id"],
            "State": row["state"],
            "Asynchronous": bool(row["continues"]),
            "Progress": 100 if not total else (total - remaining) * 100 // total,
            "Studies": total,
            **{state.capitalize(): counts[state] for state in FINISHED},
            "Remaining": remaining,
            "Undelivered": self.undelivered(row["id"]),
            "Rate": round(rate, 1),
            "Conditions": json.loads(row["conditions"]),
            "Created": utc_time(row["created"]),
            "Ended": utc_time(row["ended"]),
            **json.loads(row["asked"]),
        }

    def undelivered(self, number: int) -> dict[str, int]:
        """Return how many studies were not chosen for a purge because they are not delivered, by the reason."""
        rows = self._ledger.rows("SELECT reason, studies FROM undelivered WHERE purge=?", number)
        return {row["reason"]: row["studies"] for row in rows}

    def studies(self, number: int, *states: str) -> list[dict[str, Any]]:
        """Return the first studies of a purge in some states."""
        marks = ",".join("?" * len(states))
        sql = f"SELECT * FROM studies WHERE purge=? AND state IN ({marks}) ORDER BY number LIMIT {LISTED}"
        rows = self._ledger.rows(sql, number, *states)
        return [{"ID": row["study"], "State": row["state"], "Reason": row["reason"]} for row in rows]

    def page(self, since: int, limit: int) -> tuple[list[dict[str, Any]], int, bool]:
        """Return the rows after a number, how many purges there are in all, and whether more follow."""
        rows = self._ledger.rows("SELECT * FROM purges WHERE id>? ORDER BY id LIMIT ?", since, limit + 1)
        total = self._ledger.rows("SELECT COUNT(*) n FROM purges")[0]["n"]
        return rows[:limit], total, len(rows) > limit

    def unfinished(self) -> list[dict[str, Any]]:
        """Return the rows of purges that a stop or a kill left behind."""
        found: list[dict[str, Any]] = self._ledger.rows(
            "SELECT * FROM purges WHERE state IN ('running','cancelled') AND ended IS NULL"
        )
        return found

    def totals(self) -> dict[str, Any]:
        """Return how many purges there are in each state, and how many studies they deleted."""
        counts = self._ledger.rows("SELECT state, COUNT(*) n FROM purges GROUP BY state")
        deleted = self._ledger.rows("SELECT COUNT(*) n FROM studies WHERE state='deleted'")[0]["n"]
        return {"Purges": {row["state"]: row["n"] for row in counts}, "Deleted": deleted}

    def deleted_by_rules(self, rules: Sequence[str], since: float) -> int:
        """Return how many studies the purges of these rules have deleted that ended after a time."""
        found: int = self._ledger.rows(
            "SELECT COUNT(*) n FROM purges p JOIN studies s ON s.purge=p.id AND s.state='deleted' "
            "WHERE p.ended>? AND json_extract(p.asked, '$.Rule') IN (SELECT value FROM json_each(?))",
            since,
            json.dumps(rules),
        )[0]["n"]
        return found

    def forget_some(self, before: float) -> bool:
        """Forget some of what ended before a time; return whether there may be more of it."""
        some: int = self._ledger.run(FORGET_STUDIES, before, FORGOTTEN_AT_ONCE)
        if some < FORGOTTEN_AT_ONCE:
            some += self._ledger.run(FORGET_PURGES, before, FORGOTTEN_AT_ONCE)
        return some >= FORGOTTEN_AT_ONCE
