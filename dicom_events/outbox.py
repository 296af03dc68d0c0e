# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/outbox.py: edit that, never this file.
"""What has happened and is still to be published: one SQLite file.

An event is a row; rows are in the order in which they happened. Each broker has a cursor: all up to it is settled there.
What a broker refused for a reason of its own leaves that order as a letter. A row is deleted when every broker is past it,
orphaned ones included, and no letter needs it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ._common.ledger import BUSY_SECONDS, Ledger
from ._common.times import utc

from .acknowledged import ACKNOWLEDGED_TABLES, AcknowledgedInstances
from .broker_settings import RETURNING
from .events import Event
from .letters import EVENT_COLUMNS, LETTER_TABLES, Letters
from .named import Named
from .places import PLACE_TABLES, Places
from .resources import RESOURCE_TABLES
from .retention import Bounds, Retention
from .throttle import THROTTLE_TABLES

VERSION = 3  # the first one would delete the places of orphans, the second can't count rows of work
EVENT_TABLES = """
CREATE TABLE IF NOT EXISTS event(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL, subject TEXT NOT NULL,
    created REAL NOT NULL, data TEXT);
CREATE INDEX IF NOT EXISTS event_incomplete ON event(row) WHERE data IS NULL;
"""
TABLES = PLACE_TABLES + EVENT_TABLES + LETTER_TABLES + RESOURCE_TABLES + ACKNOWLEDGED_TABLES + THROTTLE_TABLES
LOADED = time.time()  # before Orthanc takes an image: one that waits for its callback may be older than a new outbox
PAGE_BYTES = 8 << 20  # of data, read together


class Outbox:
    """The events that wait, for any number of threads.

    Parameters
    ----------
    path : of the file, made with mode 0600; a corrupt one is moved aside.
    durability : "normal", or "full" to survive the loss of power too.
    most : bytes that may wait; `oldest` : seconds, 0 for ever; `refuse` : take no more when full, instead of dropping the oldest.
    keep_orphaned : days that the place of a broker is kept that is not configured any more, 0 for ever.

    Raises
    ------
    OSError, sqlite3.Error : the file can't be made or opened.
    """

    def __init__(
        self, path: Path, *, durability: str, most: int, oldest: float, refuse: bool, keep_orphaned: float = 0
    ) -> None:
        self.ledger = Ledger(path, TABLES, durability=durability, version=VERSION)
        with contextlib.ExitStack() as opened:  # is closed where anything fails: the next try opens it
            opened.callback(self.ledger.close)
            self._checkpointer = opened.enter_context(contextlib.closing(self.reader()))
            self._prepare(Bounds(most, oldest, refuse), keep_orphaned)
            opened.pop_all()

    def _prepare(self, bounds: Bounds, keep_orphaned: float) -> None:
        self.places, self.letters = Places(self.ledger, keep_orphaned), Letters(self.ledger)
        if self.ledger.is_new:
            self.ledger.set_value("made", int(LOADED))
        # Checkpoints wait for the disk: after a transaction, when its lock is free again (`Retention.checkpoint`).
        self.ledger.rows("PRAGMA wal_autocheckpoint=0")
        newest = self.ledger.rows(
            "SELECT MAX(COALESCE((SELECT MAX(row) FROM event), 0), COALESCE((SELECT MAX(cursor) FROM broker), 0)) newest"
        )
        self._newest = int(newest[0]["newest"])
        self.added = self.pending = 0
        self.on_complete: list[Callable[[], None]] = []  # called after events that can leave
        self.on_incomplete: list[Callable[[], None]] = []  # called after those that are to be completed before
        self._checkpointer.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}").fetchall()
        self.retention = Retention(self.ledger, self.places, self.letters, bounds, self._checkpointer)
        self._adding = threading.RLock()
        self._rows: list[tuple[Any, ...]] | None = None  # events of the transaction that is open
        self.acknowledged = AcknowledgedInstances(self.ledger, self._adding)

    @property
    def path(self) -> Path:
        return self.ledger.path

    @property
    def newest(self) -> int:
        """The number of the last event that was written."""
        return self._newest

    def reader(self) -> sqlite3.Connection:
        """Return a connection that only reads, for one thread at a time: it waits for no writer."""
        connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        connection.execute("PRAGMA cache_size=-2000")
        return connection

    def close(self) -> None:
        """Close the file; the next process may open it."""
        self._checkpointer.close()
        self.ledger.close()

    # Writing

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open one: all that is written inside is on disk after it, or nothing; then those whom it concerns are woken.

        May be nested.
        """
        with self._adding:
            if self._rows is not None:
                with self.ledger.transaction() as db:
                    yield db
                return
            rows: list[tuple[Any, ...]] = []
            self._rows = rows
            self.acknowledged.begin()
            before = self._newest, self.added, self.pending
            try:
                with self.ledger.transaction() as db:
                    yield db
                    db.executemany("INSERT INTO event VALUES(?,?,?,?,?,?,?)", rows)
                    self.acknowledged.write(db)
            except BaseException:
                self._newest, self.added, self.pending = before
                raise
            finally:
                self._rows = None
            self.acknowledged.committed()
            _, added, pending = before
            wakes = [
                *(self.on_complete if self.added != added else ()),
                *(self.on_incomplete if self.pending != pending else ()),
            ]
        for wake in wakes:
            wake()
        self.retention.checkpoint()

    def add(self, uid: str, kind: str, key: str, subject: str, data: str | None, when: float | None = None) -> bool:
        """Write an event down, inside a transaction; `data` None: it is completed later, and later ones wait for it.

        Return False if the outbox is full and takes none.
        """
        if self.retention.refuses():
            return False
        assert self._rows is not None
        if data is None:
            self.pending += 1
        else:
            self.added += 1
        self._newest += 1  # never a number again that a cursor has passed, though all rows are gone
        self._rows.append((self._newest, uid, kind, key, subject, when or time.time(), data))
        return True

    def incomplete(self, limit: int) -> list[dict[str, Any]]:
        """Return the oldest events without data."""
        return self.ledger.rows("SELECT * FROM event WHERE data IS NULL ORDER BY row LIMIT ?", limit)

    def complete(self, row: int, key: str, data: str) -> None:
        """Give an event its data: it may leave."""
        with self.transaction() as db:
            self.added += 1
            db.execute("UPDATE event SET key=?, data=? WHERE row=?", (key, data, row))

    @property
    def place(self) -> int | None:
        """Up to where the journal is applied; None: this outbox is new, and what the journal holds was another's."""
        return None if self.ledger.is_new else self.ledger.get_value("journal")

    def set_place(self, place: int) -> None:
        """Note, inside the transaction that applied it, up to where the journal is applied."""
        self.ledger.set_value("journal", place)

    # Brokers

    def begin(self, brokers: Sequence[Named]) -> list[str]:
        """Take the brokers that there are now; return what has to be said of it."""
        return self.places.begin(brokers, self._newest)

    def cursor(self, broker: str) -> int:
        """Return the row up to which all is settled for a broker."""
        return int(self.ledger.rows("SELECT cursor FROM broker WHERE name=?", broker)[0]["cursor"])

    def settle(self, broker: str, cursor: int, published: int, returned: int = 0) -> None:
        """Note that all up to `cursor` is settled for this broker: `published` were confirmed, `returned` were given up."""
        with self.ledger.transaction() as db:
            sql = "UPDATE broker SET cursor=?, published=published+? WHERE name=?"
            db.execute(sql, (cursor, published, broker))
            if returned:
                self.letters.count_returned(broker, returned)

    def read(self, reader: sqlite3.Connection, after: int, limit: int) -> list[Event]:
        """Return the next events in order, none beyond one that is not complete; fewer where they are large."""
        self.ledger.check()  # what can't be settled is not published
        barrier = "COALESCE((SELECT MIN(row) FROM event WHERE data IS NULL), 9223372036854775807)"
        sql = f"SELECT {EVENT_COLUMNS} FROM event e WHERE row>? AND row<{barrier} ORDER BY row LIMIT ?"
        events, size = list[Event](), 0
        with contextlib.closing(reader.execute(sql, (after, limit))) as found:
            for row in found:
                events.append(Event(*row))
                size += len(events[-1].data)
                if size > PAGE_BYTES:
                    break
        return events

    def backlog(self, broker: str) -> tuple[int, float | None]:
        """Return how many events a broker has before it, and since when the oldest of them waits.

        Rows are numbered without gaps: a million is not counted one by one.
        """
        row = self.ledger.rows(
            "SELECT b.cursor, (SELECT MAX(row) FROM event) newest, (SELECT COUNT(*) FROM letter WHERE broker=b.name AND "
            "state<>'dead' AND event<=b.cursor) waiting, (SELECT MIN(event) FROM letter WHERE broker=b.name AND "
            "state<>'dead') letter, (SELECT MIN(row) FROM event WHERE row>b.cursor) next FROM broker b WHERE name=?",
            broker,
        )[0]
        first = min((each for each in (row["letter"], row["next"]) if each is not None), default=None)
        oldest = self.ledger.rows("SELECT created FROM event WHERE row=?", first) if first is not None else []
        return max(0, (row["newest"] or 0) - row["cursor"]) + row["waiting"], oldest[0]["created"] if oldest else None

    def totals(self, broker: str) -> dict[str, Any]:
        """Return what the status says of a broker's place, whether or not it is configured."""
        backlog, oldest = self.backlog(broker)
        is_returning = self.places.type_of(broker) in RETURNING
        return {
            "Backlog": backlog,
            "OldestSeconds": None if oldest is None else round(max(0.0, time.time() - oldest), 3),
            "Published": self.ledger.rows("SELECT published FROM broker WHERE name=?", broker)[0]["published"],
            "DeadLetters": self.letters.count_dead(broker),
            **(self.letters.unroutable_totals(broker) if is_returning else {}),
        }

    def orphan_status(self, name: str, since: float, days_left: float | None) -> dict[str, Any]:
        """Return the status of a broker that is not configured any more."""
        found = {"Type": self.places.type_of(name), "State": "orphaned", **self.totals(name)}
        return {**found, "OrphanedSince": utc(since), "DaysLeft": days_left}


def new_id() -> str:
    """Return a name that no other event has."""
    return os.urandom(16).hex()
