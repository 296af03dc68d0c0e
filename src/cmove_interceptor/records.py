# SPDX-License-Identifier: AGPL-3.0-or-later
"""The record of requests in the ledger, and what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from common.ledger import FORGOTTEN_AT_ONCE, Ledger
from common.orphans import ORPHAN_TABLES

from .move import Move, Part
from .move_request import Fields
from .slots import PAUSED_TABLE

TABLES = f"""
{ORPHAN_TABLES}
{PAUSED_TABLE}
CREATE TABLE IF NOT EXISTS requests(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, fields TEXT NOT NULL,
    mode TEXT NOT NULL, state TEXT NOT NULL, result TEXT NOT NULL, created REAL NOT NULL, ended REAL);
CREATE INDEX IF NOT EXISTS requests_by_state ON requests(state);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests(created);
"""
FORGET_REQUESTS = "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE created<? ORDER BY created LIMIT ?)"


class Records:
    """The table of requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, name: str, fields: Fields, mode: str) -> Move:
        """Write a request down, and return it as a move."""
        values = (name, json.dumps(fields), mode, time.time())
        with self._ledger.transaction() as db:
            cursor = db.execute("INSERT INTO requests VALUES(NULL,?,?,?,'moving','{}',?,NULL)", values)
            return Move(int(cursor.lastrowid or 0), name, fields, mode)

    def note(self, move: Move) -> None:
        """Write down what came of a move up to now."""
        self._ledger.run("UPDATE requests SET result=? WHERE id=?", json.dumps(move.result()), move.number)

    def end(self, move: Move, state: str) -> None:
        """Write down how a move ended."""
        sql = "UPDATE requests SET state=?,result=?,ended=? WHERE id=?"
        self._ledger.run(sql, state, json.dumps(move.result()), time.time(), move.number)

    def interrupted(self) -> list[dict[str, Any]]:
        """Return the rows of moves that have not ended."""
        return self._ledger.rows("SELECT * FROM requests WHERE state='moving'")

    def forget(self, days: float) -> bool:
        """Delete some of the requests that are so many days old; return whether there may be more."""
        before = time.time() - days * 86400
        return self._ledger.run(FORGET_REQUESTS, before, FORGOTTEN_AT_ONCE) == FORGOTTEN_AT_ONCE

    def totals(self) -> dict[str, int]:
        """Return the number of requests in each state."""
        rows = self._ledger.rows("SELECT state, COUNT(*) n FROM requests GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def count(self, state: str | None) -> int:
        """Return the number of requests, of all or in a state."""
        return sum(number for each, number in self.totals().items() if state in (None, each))

    def page(self, since: int, limit: int, state: str | None, before: int | None = None) -> list[dict[str, Any]]:
        """Return at most so many requests, of all or in a state: after a number oldest first, `before` one newest first."""
        where, values = ("", ()) if state is None else ("AND state=?", (state,))
        if before is None:
            sql = f"SELECT * FROM requests WHERE id>? {where} ORDER BY id LIMIT ?"
            return self._ledger.rows(sql, since, *values, limit)
        sql = f"SELECT * FROM requests WHERE id>? AND id<? {where} ORDER BY id DESC LIMIT ?"
        return self._ledger.rows(sql, since, before, *values, limit)


def interrupted_move(row: Mapping[str, Any]) -> Move:
    """Return the move of a row of `Records.interrupted`: its caller is gone, and nobody knows how many images were sent."""
    move = Move(row["id"], row["name"], json.loads(row["fields"]), row["mode"])
    result = json.loads(row["result"])
    move.parts, move.total = [Part((), 0, job) for job in result.get("Jobs", [])], result.get("Instances", 0)
    move.followed, move.error = False, "Orthanc ended during the move"
    return move
