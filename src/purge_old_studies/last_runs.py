# SPDX-License-Identifier: AGPL-3.0-or-later
"""When each rule ran last, and how it went: purges are forgotten after a while, this is not."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from typing import Any

from common.ledger import Ledger

from .clock import utc_time

LAST_RUNS_TABLE = """
CREATE TABLE IF NOT EXISTS last_runs(rule TEXT PRIMARY KEY, time REAL NOT NULL, purge INTEGER, outcome TEXT NOT NULL)
    WITHOUT ROWID;
"""


class LastRuns:
    """The last run of each rule."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def began(self, rule: str, purge: int) -> None:
        """Write down that a purge of a rule has begun: inside the transaction that adds it."""
        self._put(rule, purge, {"State": "running"})

    def ended(self, rule: str, purge: int, **outcome: Any) -> None:
        """Write down how a purge of a rule ended, if that is still its last one."""
        sql = "UPDATE last_runs SET outcome=? WHERE rule=? AND purge=?"
        self._ledger.run(sql, json.dumps(outcome), rule, purge)

    def not_run(self, rule: str, reason: str) -> None:
        """Write down why a rule did not run at its time; what can't be written down is in the log."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self._put(rule, None, {"State": "not run", "Reason": reason})

    def of(self, rule: str) -> dict[str, Any] | None:
        """Return the last run of a rule as the status shows it, or None."""
        for row in self._ledger.rows("SELECT * FROM last_runs WHERE rule=?", rule):
            return {"Time": utc_time(row["time"]), "Purge": row["purge"], **json.loads(row["outcome"])}
        return None

    def _put(self, rule: str, purge: int | None, outcome: Any) -> None:
        sql = "INSERT OR REPLACE INTO last_runs VALUES(?,?,?,?)"
        self._ledger.run(sql, rule, time.time(), purge, json.dumps(outcome))
