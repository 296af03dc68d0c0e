# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/outbox.py: edit that, never this file.
"""What has happened and is still to be published: one SQLite file, or tables in PostgreSQL.

An event is a row; rows are in the order in which they happened. Each broker has a cursor: all up to it is settled there.
What a broker refused for a reason of its own leaves that order as a letter. A row is deleted when every broker is past it,
orphaned ones included, and no letter needs it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ._common.ledger import Ledger, Statements

from .acknowledged import ACKNOWLEDGED_TABLES, AcknowledgedInstances
from .backlogs import Backlogs
from .events import Event
from .letters import EVENT_COLUMNS, LETTER_TABLES, Letters
from .named import Named
from .places import PLACE_TABLES, Places
from .reported import REPORTED_TABLE, place_name
from .resources import RESOURCE_TABLES
from .retention import Bounds, Retention
from .room import Room, RoomInFile
from .throttle import THROTTLE_TABLES

VERSION = 3  # the first one would delete the places of orphans, the second can't count rows of work
EVENT_TABLES = """
CREATE TABLE IF NOT EXISTS event(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL, subject TEXT NOT NULL,
    created REAL NOT NULL, data TEXT);
CREATE INDEX IF NOT EXISTS event_incomplete ON event(row) WHERE data IS NULL;
"""
TABLES = PLACE_TABLES + EVENT_TABLES + LETTER_TABLES + RESOURCE_TABLES + ACKNOWLEDGED_TABLES + THROTTLE_TABLES
SHARED_TABLES = TABLES + REPORTED_TABLE
LOADED = time.time()  # before Orthanc takes an image: one that waits for its callback may be older than a new outbox
PAGE_BYTES = 8 << 20  # of data, read together


class Outbox(Backlogs):
    """The events that wait, for any number of threads.

    Parameters
    ----------
    where : the file, made with mode 0600, of which a corrupt one is moved aside; or the ledger, open.
    server : the name of this one, where several share the outbox: its journal is its own.
    durability : "normal", or "full" to survive the loss of power too.
    most : bytes that may wait; `oldest` : seconds, 0 for ever; `refuse` : take no more when full, instead of dropping the oldest.
    keep_orphaned : days that the place of a broker is kept that is not configured any more, 0 for ever.

    Raises
    ------
    OSError, sqlite3.Error : the file can't be made or opened.
    """

    def __init__(
        self,
        where: Path | Ledger,
        *,
        durability: str,
        most: int,
        oldest: float,
        refuse: bool,
        keep_orphaned: float = 0,
        server: str = "",
    ) -> None:
        self.ledger = (
            where if isinstance(where, Ledger) else Ledger(where, TABLES, durability=durability, version=VERSION)
        )
        self._place_name = place_name(server) if server else "journal"
        with contextlib.ExitStack() as opened:  # is closed where anything fails: the next try opens it
            opened.callback(self.ledger.close)
            if self.ledger.is_shared:
                self._room = Room(self.ledger)
            else:
                checkpointer = opened.enter_context(contextlib.closing(self.reader()))
                self._room = RoomInFile(self.ledger, checkpointer)
            self._prepare(Bounds(most, oldest, refuse), keep_orphaned)
            opened.pop_all()

    def _prepare(self, bounds: Bounds, keep_orphaned: float) -> None:
        self.places, self.letters = Places(self.ledger, keep_orphaned), Letters(self.ledger)
        if self.ledger.is_new:
            self.ledger.set_value("made", int(LOADED))
        [last] = self.ledger.rows(
            "SELECT (SELECT MAX(row) FROM event) written, (SELECT MAX(cursor) FROM broker) settled"
        )
        self._newest = max(last["written"] or 0, last["settled"] or 0)
        self.added = self.pending = 0
        self.on_complete: list[Callable[[], None]] = []  # called after events that can leave
        self.on_incomplete: list[Callable[[], None]] = []  # called after those that are to be completed before
        self.retention = Retention(self.ledger, self.places, self.letters, bounds, self._room)
        self._adding = threading.RLock()
        self._rows: list[tuple[Any, ...]] | None = None  # events of the transaction that is open
        self.acknowledged = AcknowledgedInstances(self.ledger, self._adding)

    @property
    def where(self) -> str:
        """What a line of the log calls it."""
        return self.ledger.where

    @property
    def newest(self) -> int:
        """The number of the last event that was written."""
        return self._newest

    def reader(self) -> Any:
        """Return what only reads, for one thread at a time."""
        return self.ledger.reader()

    def close(self) -> None:
        """Close the file; the next process may open it."""
        self._room.close()
        self.ledger.close()

    # Writing

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Statements]:
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
        place = self.ledger.get_value(self._place_name, -1 if self.ledger.is_shared else 0)
        return None if self.ledger.is_new or place < 0 else place

    def set_place(self, place: int) -> None:
        """Note, inside the transaction that applied it, up to where the journal is applied."""
        self.ledger.set_value(self._place_name, place)

    # Brokers

    def begin(self, brokers: Sequence[Named]) -> list[str]:
        """Take the brokers that there are now; return what has to be said of it."""
        return self.places.begin(brokers, self._newest)

    def settle(self, broker: str, cursor: int, published: int, returned: int = 0) -> None:
        """Note that all up to `cursor` is settled for this broker: `published` were confirmed, `returned` were given up."""
        with self.ledger.transaction() as db:
            sql = "UPDATE broker SET cursor=?, published=published+? WHERE name=?"
            db.execute(sql, (cursor, published, broker))
            if returned:
                self.letters.count_returned(broker, returned)

    def read(self, reader: Any, after: int, limit: int) -> list[Event]:
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


def new_id() -> str:
    """Return a name that no other event has."""
    return os.urandom(16).hex()
