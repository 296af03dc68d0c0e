# SPDX-License-Identifier: AGPL-3.0-or-later
"""What left a broker's order: what it refused for a reason of its own, tried again, then dead; what nobody has a queue for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

from common.backoff import Backoff
from common.ledger import Ledger

from .events import Event

UNROUTABLE = "unroutable"  # the state of what nobody has a queue for; the `error` is its type
LETTER_TABLES = f"""
CREATE TABLE IF NOT EXISTS letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT, broker TEXT NOT NULL, event INTEGER NOT NULL, key TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, updated REAL NOT NULL,
    UNIQUE(broker, event));
CREATE INDEX IF NOT EXISTS letter_by_key ON letter(broker, state, key, event);
CREATE INDEX IF NOT EXISTS letter_by_event ON letter(event);
CREATE INDEX IF NOT EXISTS letter_unroutable ON letter(broker, error, event) WHERE state='{UNROUTABLE}';
CREATE TABLE IF NOT EXISTS returned(broker TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
"""
IS_UNROUTABLE = f"state='{UNROUTABLE}'"  # as the index has it
NO_ROW = 2**62  # beyond all
RETRY = Backoff(first=1.0, longest=60.0)  # seconds until what a broker refused is tried again
EVENT_COLUMNS = "e.row, e.id, e.type, e.key, e.subject, e.created, e.data"
DEAD = (
    "SELECT l.*, e.id uid, e.type, e.subject, e.created, e.data FROM letter l JOIN event e ON e.row=l.event "
    "WHERE l.state='dead'"
)


class UnroutableLetters:
    """Those that nobody has a queue for, of all brokers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._freeing, self._freed_from = threading.Lock(), NO_ROW

    def take_freed(self) -> int:
        """Return the lowest row that has lost a letter since the last call; `NO_ROW` if none has."""
        with self._freeing:
            row, self._freed_from = self._freed_from, NO_ROW
        return row

    def _free(self, row: int) -> None:
        with self._freeing:
            self._freed_from = min(self._freed_from, row)

    def unroutable_types(self, broker: str) -> list[str]:
        """Return the types of them."""
        found = self._ledger.rows(f"SELECT DISTINCT error FROM letter WHERE broker=? AND {IS_UNROUTABLE}", broker)
        return [row["error"] for row in found]

    def first_unroutable_key(self, broker: str, kind: str) -> str | None:
        """Return the key of the oldest one of a type."""
        sql = f"SELECT key FROM letter WHERE broker=? AND error=? AND {IS_UNROUTABLE} ORDER BY event LIMIT 1"
        return next((row["key"] for row in self._ledger.rows(sql, broker, kind)), None)

    def next_unroutable(self, broker: str, key: str, without: Sequence[str]) -> Event | None:
        """Return the oldest one of a key that is of no type in `without`."""
        found = self._ledger.rows(
            f"SELECT {EVENT_COLUMNS} FROM letter l JOIN event e ON e.row=l.event WHERE l.broker=? AND l.state=? AND l.key=? "
            "AND l.error NOT IN (SELECT value FROM json_each(?)) ORDER BY l.event LIMIT 1",
            *(broker, UNROUTABLE, key, json.dumps([*without])),
        )
        return Event(*found[0].values()) if found else None

    def let_unroutable_wait(self, broker: str, key: str) -> None:
        """Let those of a key wait behind a letter of it, in their order."""
        sql = "UPDATE letter SET state='waiting', error='', next_attempt=0 WHERE broker=? AND state=? AND key=?"
        self._ledger.run(sql, broker, UNROUTABLE, key)

    def give_up(self, broker: str, row: int) -> None:
        """Remove a letter that nobody has a queue for, and count its event as returned."""
        with self._ledger.transaction() as db:
            db.execute("DELETE FROM letter WHERE broker=? AND event=?", (broker, row))
            self.count_returned(broker, 1)
            self._free(row)

    def count_returned(self, broker: str, number: int) -> None:
        """Count events that were given up, as nobody had a queue for them."""
        sql = "INSERT INTO returned VALUES(?,?) ON CONFLICT(broker) DO UPDATE SET n=returned.n+excluded.n"
        self._ledger.run(sql, broker, number)

    def unroutable_totals(self, broker: str) -> dict[str, int]:
        """Return how many were given up since there is this broker, and how many are kept now."""
        returned = self._ledger.rows("SELECT n FROM returned WHERE broker=?", broker)
        kept = self._ledger.rows("SELECT COUNT(*) n FROM letter WHERE broker=? AND state=?", broker, UNROUTABLE)
        return {"Returned": returned[0]["n"] if returned else 0, "Unroutable": kept[0]["n"]}


class Letters(UnroutableLetters):
    """The letters of all brokers: `waiting` for the next attempt, `unroutable`, or `dead` until a person acts."""

    def park(self, broker: str, events: Sequence[tuple[int, str]], error: str, state: str, attempts: int) -> None:
        """Take events (row, key) out of the order of a broker, to be tried again (`waiting`) or not (`dead`)."""
        now = time.time()
        with self._ledger.transaction() as db:
            db.executemany(
                "INSERT INTO letter(broker,event,key,state,attempts,next_attempt,error,updated) VALUES(?,?,?,?,?,?,?,?) "
                "ON CONFLICT(broker,event) DO UPDATE SET state=excluded.state, attempts=excluded.attempts, "
                "next_attempt=excluded.next_attempt, error=excluded.error, updated=excluded.updated",
                [(broker, row, key, state, attempts, now + _delay(attempts), error, now) for row, key in events],
            )
            if state == "dead":
                db.execute("UPDATE broker SET dead=dead+? WHERE name=?", (len(events), broker))

    def keys(self, broker: str, state: str = "waiting") -> set[str]:
        """Return the keys with a letter in a state. What comes later than one that waits, in its order, waits behind it."""
        found = self._ledger.rows("SELECT DISTINCT key FROM letter WHERE broker=? AND state=?", broker, state)
        return {row["key"] for row in found}

    def is_waiting(self, broker: str, key: str) -> bool:
        """Return whether a letter of this key waits."""
        sql = "SELECT 1 FROM letter WHERE broker=? AND state='waiting' AND key=? LIMIT 1"
        return bool(self._ledger.rows(sql, broker, key))

    def due(self, broker: str, limit: int) -> list[tuple[Event, int]]:
        """Return the letters whose time has come, of each key only the first, with their attempts so far."""
        now = time.time()
        found = self._ledger.rows(
            f"SELECT {EVENT_COLUMNS}, l.attempts FROM letter l "
            "JOIN event e ON e.row=l.event WHERE l.broker=? AND l.state='waiting' AND (l.next_attempt<=? OR l.next_attempt>?) "
            "AND NOT EXISTS (SELECT 1 FROM letter o WHERE o.broker=l.broker AND o.state='waiting' AND o.key=l.key "
            "AND o.event<l.event) LIMIT ?",
            *(broker, now, now + 2 * RETRY.longest, limit),  # further away than any delay: the clock has jumped back
        )
        return [(Event(*list(row.values())[:7]), row["attempts"]) for row in found]

    def delivered(self, broker: str, row: int) -> None:
        """Remove the letter of an event that the broker has taken."""
        with self._ledger.transaction() as db:
            db.execute("DELETE FROM letter WHERE broker=? AND event=?", (broker, row))
            db.execute("UPDATE broker SET published=published+1 WHERE name=?", (broker,))
            self._free(row)

    def remove_without_event(self) -> None:
        """Remove the letters whose events were dropped."""
        self._ledger.run("DELETE FROM letter WHERE event NOT IN (SELECT row FROM event)")

    # Dead letters, of one broker or of all

    def count_dead(self, broker: str | None = None) -> int:
        """Return how many there are."""
        where, values = _of_broker(broker)
        sql = f"SELECT COUNT(*) n FROM letter l WHERE l.state='dead'{where}"
        return int(self._ledger.rows(sql, *values)[0]["n"])

    def dead_page(self, broker: str | None, since: int, limit: int) -> list[dict[str, Any]]:
        """Return up to `limit` of them with their events, oldest first, after the one whose id is `since`."""
        where, values = _of_broker(broker)
        return self._ledger.rows(f"{DEAD}{where} AND l.id>? ORDER BY l.id LIMIT ?", *values, since, limit)

    def dead(self, letter: int) -> dict[str, Any] | None:
        """Return one with its event, or None."""
        return next(iter(self._ledger.rows(f"{DEAD} AND l.id=?", letter)), None)

    def drop_dead(self, letter: int) -> None:
        """Forget one."""
        with self._ledger.transaction() as db:
            for (row,) in db.execute("SELECT event FROM letter WHERE id=?", (letter,)).fetchall():
                self._free(row)
            db.execute("DELETE FROM letter WHERE id=? AND state='dead'", (letter,))

    def retry_dead(self, broker: str | None = None, letter: int | None = None) -> int:
        """Let all, those of one broker, or one of them be tried again now; return how many."""
        where, values = _of_broker(broker)
        if letter is not None:
            where, values = f"{where} AND l.id=?", [*values, letter]
        sql = "UPDATE letter AS l SET state='waiting', attempts=0, next_attempt=0, updated=? WHERE l.state='dead'"
        return self._ledger.run(f"{sql}{where}", time.time(), *values)


def _of_broker(broker: str | None) -> tuple[str, list[Any]]:
    return ("", []) if broker is None else (" AND l.broker=?", [broker])


def _delay(attempts: int) -> float:
    return RETRY.delay(attempts) if attempts else 0.0
