# SPDX-License-Identifier: AGPL-3.0-or-later
"""What has happened and is still to be published: one SQLite file.

An event is a row; rows are in the order in which they happened. Each broker has a cursor: all up to it is settled there.
What a broker refused for a reason of its own leaves that order as a letter: tried again, then dead until a person acts.
A row goes when every broker is past it, orphaned ones included, and no letter needs it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.expiry import Expiry
from common.ledger import Ledger

from .events import Event
from .places import PLACE_TABLES, Places
from .settings import Named

VERSION = 2  # the first one would delete the places of orphans
TABLES = f"""
{PLACE_TABLES}
CREATE TABLE IF NOT EXISTS event(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL, subject TEXT NOT NULL,
    created REAL NOT NULL, data TEXT);
CREATE INDEX IF NOT EXISTS event_incomplete ON event(row) WHERE data IS NULL;
CREATE TABLE IF NOT EXISTS letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT, broker TEXT NOT NULL, event INTEGER NOT NULL, key TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, updated REAL NOT NULL,
    UNIQUE(broker, event));
CREATE INDEX IF NOT EXISTS letter_by_key ON letter(broker, state, key, event);
CREATE INDEX IF NOT EXISTS letter_by_event ON letter(event);
CREATE TABLE IF NOT EXISTS resource(
    id TEXT PRIMARY KEY, level TEXT NOT NULL, dicom TEXT, parent TEXT, tags TEXT, origin TEXT, received INTEGER NOT NULL,
    unstable INTEGER NOT NULL, due REAL, announced INTEGER NOT NULL, deleted REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS resource_unstable ON resource(due) WHERE unstable;
CREATE INDEX IF NOT EXISTS resource_deleted ON resource(deleted) WHERE deleted IS NOT NULL;
CREATE TABLE IF NOT EXISTS instance(id TEXT PRIMARY KEY, dicom TEXT, series TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told(batch INTEGER PRIMARY KEY, instances TEXT NOT NULL, seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS held(
    series TEXT PRIMARY KEY, due REAL NOT NULL, id TEXT, subject TEXT, created REAL, data TEXT) WITHOUT ROWID;
"""
LOADED = time.time()  # before Orthanc takes an image: one that waits for its callback may be older than a new outbox
PAGE_BYTES = 8 << 20  # of data, read together
CHUNK = 1000  # rows deleted in one transaction: whoever else writes waits for one at most
CHECKPOINT = 1 << 20  # bytes of the write-ahead log that are worth moving into the file
TRUNCATE = (
    8 << 20
)  # bytes of it above which writers are held up to empty it, which is little once its content has moved
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds until what a broker refused is tried again
COLUMNS = "e.row, e.id, e.type, e.key, e.subject, e.created, e.data"


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
        self.places = Places(self.ledger, keep_orphaned)
        if self.ledger.fresh:
            self.ledger.set_number("made", int(LOADED))
        # Checkpoints wait for the disk: always in a thread of their own (`tidy`).
        self.ledger.rows("PRAGMA wal_autocheckpoint=0")
        newest = self.ledger.rows(
            "SELECT MAX(COALESCE((SELECT MAX(row) FROM event), 0), COALESCE((SELECT MAX(cursor) FROM broker), 0)) newest"
        )
        self._newest = int(newest[0]["newest"])
        self._tidied = -1  # how many rows had been changed then
        self._most, self._oldest, self._refuse = most, oldest, refuse
        self._expiry = Expiry(self.ledger, "dicom_events")
        self.full = False
        self.refused = 0
        self.added = self.pending = 0
        self.publishers: list[Callable[[], None]] = []  # woken by events that can leave
        self.keepers: list[Callable[[], None]] = []  # woken by those that need something before
        self._checkpointer = self.reader()
        self._counted = threading.Lock()
        self._adding = threading.RLock()
        self._rows: list[tuple[Any, ...]] | None = None  # events of the transaction that is open
        self._telling: list[str] = []  # instances of it
        self._told: dict[str, int] = {}  # the batch of each instance that the feed has not met
        self._left: Counter[int] = Counter()  # how many of each batch these are
        self._read_told()

    @property
    def path(self) -> Path:
        return self.ledger.path

    @property
    def newest(self) -> int:
        """The number of the last event that was written."""
        return self._newest

    def reader(self) -> sqlite3.Connection:
        """A connection that only reads, for one thread at a time: it waits for no writer."""
        connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        connection.execute("PRAGMA cache_size=-2000")
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside is on disk after it, or nothing; then those whom it concerns are woken. May be nested."""
        with self._adding:
            if self._rows is not None:
                with self.ledger.transaction() as db:
                    yield db
                return
            rows: list[tuple[Any, ...]] = []
            self._rows, self._telling = rows, []
            before = self._newest, self.added, self.pending
            try:
                with self.ledger.transaction() as db:
                    yield db
                    db.executemany("INSERT INTO event VALUES(?,?,?,?,?,?,?)", rows)
                    batch = self._write_told(db)
            except BaseException:
                self._newest, self.added, self.pending = before
                raise
            finally:
                self._rows = None
            if batch:
                self._keep_told(batch, self._telling)
            _, added, pending = before
            wakes = [
                *(self.publishers if self.added != added else ()),
                *(self.keepers if self.pending != pending else ()),
            ]
        for wake in wakes:
            wake()

    def add(self, uid: str, kind: str, key: str, subject: str, data: str | None, when: float | None = None) -> None:
        """Write an event down, inside a transaction; `data` None: it is completed later, and later ones wait for it."""
        if self.full and self._refuse:
            with self._counted:
                self.refused += 1
            return
        assert self._rows is not None
        if data is None:
            self.pending += 1
        else:
            self.added += 1
        self._newest += 1  # never a number again that a cursor has passed, though all rows are gone
        self._rows.append((self._newest, uid, kind, key, subject, when or time.time(), data))

    def incomplete(self, limit: int) -> list[dict[str, Any]]:
        return self.ledger.rows("SELECT * FROM event WHERE data IS NULL ORDER BY row LIMIT ?", limit)

    def complete(self, row: int, key: str, data: str) -> None:
        with self.transaction() as db:
            self.added += 1
            db.execute("UPDATE event SET key=?, data=? WHERE row=?", (key, data, row))

    @property
    def place(self) -> int | None:
        """Up to where the journal is applied; None: this outbox is new, and what the journal holds was another's."""
        return None if self.ledger.fresh else self.ledger.number("journal")

    def set_place(self, place: int) -> None:
        self.ledger.set_number("journal", place)

    # Instances that are told, until the feed has met them: a row for each transaction, not for each of them

    def add_told(self, instance: str) -> None:
        """Inside a transaction: the feed will look for it."""
        self._telling.append(instance)

    def take_told(self, instances: Sequence[str]) -> set[str]:
        """Those of them that were told; they are not needed again."""
        with self._adding:
            found = {each: self._told[each] for each in instances if each in self._told}
            left = self._left - Counter(found.values())
            with self.ledger.transaction() as db:
                db.executemany(
                    "DELETE FROM told WHERE batch=?", [(batch,) for batch in self._left.keys() - left.keys()]
                )
            self._left = left
            for each in found:
                del self._told[each]
        return set(found)

    def forget_told(self, before: float) -> None:
        """An instance that was here already is told by a callback, and never by /changes."""
        with self._adding:
            if old := {row["batch"] for row in self.ledger.rows("SELECT batch FROM told WHERE seen<?", before)}:
                self.ledger.run("DELETE FROM told WHERE seen<?", before)
                self._told = {instance: batch for instance, batch in self._told.items() if batch not in old}
                self._left = Counter(self._told.values())

    def _write_told(self, db: sqlite3.Connection) -> int:
        if not self._telling:
            return 0
        return db.execute("INSERT INTO told VALUES(NULL,?,?)", (" ".join(self._telling), time.time())).lastrowid or 0

    def _keep_told(self, batch: int, instances: Sequence[str]) -> None:
        different = set(instances)
        for each in different & self._told.keys():  # sent again
            self._left[self._told[each]] -= 1
        self._told.update(dict.fromkeys(different, batch))
        self._left[batch] += len(different)

    def _read_told(self) -> None:
        with self.ledger.transaction() as db:
            # Of an older version, with a row for each.
            if self.ledger.rows("SELECT 1 FROM sqlite_master WHERE name='recent'"):
                db.execute("INSERT INTO told SELECT NULL, instance, seen FROM recent")
                db.execute("DROP TABLE recent")
        for row in self.ledger.rows("SELECT batch, instances FROM told"):
            self._keep_told(row["batch"], row["instances"].split())

    # Brokers

    def begin(self, brokers: Sequence[Named]) -> list[str]:
        """Take the brokers that there are now; gives what has to be said of it."""
        return self.places.begin(brokers, self._newest)

    def cursor(self, broker: str) -> int:
        return int(self.ledger.rows("SELECT cursor FROM broker WHERE name=?", broker)[0]["cursor"])

    def settle(self, broker: str, cursor: int, published: int) -> None:
        """All up to `cursor` is settled for this broker; `published` more of it were confirmed."""
        self.ledger.run("UPDATE broker SET cursor=?, published=published+? WHERE name=?", cursor, published, broker)

    def read(self, reader: sqlite3.Connection, after: int, limit: int) -> list[Event]:
        """The next events in order, none beyond one that is not complete; fewer where they are large."""
        self.ledger.check()  # what can't be settled is not published
        barrier = "COALESCE((SELECT MIN(row) FROM event WHERE data IS NULL), 9223372036854775807)"
        sql = f"SELECT {COLUMNS} FROM event e WHERE row>? AND row<{barrier} ORDER BY row LIMIT ?"
        events, size = list[Event](), 0
        with contextlib.closing(reader.execute(sql, (after, limit))) as found:
            for row in found:
                events.append(Event(*row))
                size += len(events[-1].data)
                if size > PAGE_BYTES:
                    break
        return events

    # Letters

    def park(self, broker: str, events: Sequence[tuple[int, str]], error: str, state: str, attempts: int) -> None:
        """Take events (row, key) out of the order of a broker, to be tried again (`waiting`) or not (`dead`)."""
        now = time.time()
        with self.ledger.transaction() as db:
            db.executemany(
                "INSERT INTO letter(broker,event,key,state,attempts,next_attempt,error,updated) VALUES(?,?,?,?,?,?,?,?) "
                "ON CONFLICT(broker,event) DO UPDATE SET state=excluded.state, attempts=excluded.attempts, "
                "next_attempt=excluded.next_attempt, error=excluded.error, updated=excluded.updated",
                [(broker, row, key, state, attempts, now + _delay(attempts), error, now) for row, key in events],
            )
            if state == "dead":
                db.execute("UPDATE broker SET dead=dead+? WHERE name=?", (len(events), broker))

    def parked(self, broker: str) -> set[str]:
        """The keys with a letter that waits: what comes later in their order waits behind it."""
        found = self.ledger.rows("SELECT DISTINCT key FROM letter WHERE broker=? AND state='waiting'", broker)
        return {row["key"] for row in found}

    def due(self, broker: str, limit: int) -> list[tuple[Event, int]]:
        """The letters whose time has come, of each key only the first, with their attempts so far."""
        now = time.time()
        found = self.ledger.rows(
            f"SELECT {COLUMNS}, l.attempts FROM letter l "
            "JOIN event e ON e.row=l.event WHERE l.broker=? AND l.state='waiting' AND (l.next_attempt<=? OR l.next_attempt>?) "
            "AND NOT EXISTS (SELECT 1 FROM letter o WHERE o.broker=l.broker AND o.state='waiting' AND o.key=l.key "
            "AND o.event<l.event) LIMIT ?",
            *(broker, now, now + 2 * LONGEST_DELAY, limit),  # further away than any delay: the clock has jumped back
        )
        return [(Event(*list(row.values())[:7]), row["attempts"]) for row in found]

    def delivered(self, broker: str, row: int) -> None:
        with self.ledger.transaction() as db:
            db.execute("DELETE FROM letter WHERE broker=? AND event=?", (broker, row))
            db.execute("UPDATE broker SET published=published+1 WHERE name=?", (broker,))

    # What is kept

    def tidy(self) -> str | None:
        """Remove what is settled and what is beyond the bounds; a line for the log if anything was lost."""
        expired = self.places.drop_expired()
        found = self.ledger.rows("SELECT MIN(cursor) lowest, total_changes() changes FROM broker")[0]
        if found["changes"] == self._tidied:
            self._empty_log()  # nothing is going on
            if not self._oldest and not self.refused:
                return None
        settled = "row<=? AND data IS NOT NULL AND NOT EXISTS (SELECT 1 FROM letter WHERE event=row)"
        while self._delete(settled, found["lowest"] or 0) == CHUNK:
            pass
        lost = self._drop()
        self._checkpoint()
        self._tidied = found["changes"]
        if expired:
            kept = f"what waited for {', '.join(expired)} was kept for KeepOrphanedDays, and is dropped now"
            return f"{kept}; {lost}" if lost else kept
        return lost

    def _delete(self, condition: str, *parameters: Any) -> int:
        sql = f"DELETE FROM event WHERE row IN (SELECT row FROM event WHERE {condition} ORDER BY row LIMIT {CHUNK})"
        return self.ledger.run(sql, *parameters)

    def _drop(self) -> str | None:
        dropped = 0
        if self._oldest and self._expiry.may_delete():
            horizon = time.time() - self._oldest
            while number := self._delete("created<?", horizon):
                dropped += number
        # Once full, until a twentieth is free again: not a line in the log for each event.
        limit = self._most * (0.95 if self.full and self._refuse else 1)
        if self.size() > limit:
            dropped += self._delete_until_there_is_room(*self._only_for_orphans())
        self.full = self.size() > limit
        if self.full and not self._refuse:
            dropped += self._delete_until_there_is_room("1")
        if dropped:
            self.ledger.run("DELETE FROM letter WHERE event NOT IN (SELECT row FROM event)")
            self.ledger.set_number("dropped", self.ledger.number("dropped") + dropped)
            return f"{dropped} events were dropped unpublished: the outbox is beyond its bounds (DicomEvents.Outbox)"
        with self._counted:
            refused, self.refused = self.refused, 0
        if refused:
            self.ledger.set_number("refused", self.ledger.number("refused") + refused)
            return f"{refused} events were refused: the outbox is full (DicomEvents.Outbox)"
        return None

    def _delete_until_there_is_room(self, condition: str, *parameters: Any) -> int:
        dropped = 0
        while self.size() > self._most * 0.95 and (number := self._delete(condition, *parameters)):
            dropped += number
        return dropped

    def _only_for_orphans(self) -> tuple[str, int]:
        """What waits for brokers that are not configured any more, and for no other: it never costs those that are."""
        gone = "SELECT name FROM orphan"
        lowest = self.ledger.rows(f"SELECT MIN(cursor) lowest FROM broker WHERE name NOT IN ({gone})")[0]["lowest"]
        letters = f"SELECT 1 FROM letter WHERE event=row AND broker NOT IN ({gone})"
        return f"row<=? AND data IS NOT NULL AND NOT EXISTS ({letters})", lowest or 0

    def size(self) -> int:
        """Bytes of the file that hold something."""
        values = [
            next(iter(self.ledger.rows(f"PRAGMA {name}")[0].values()))
            for name in ("page_count", "freelist_count", "page_size")
        ]
        return int((values[0] - values[1]) * values[2])

    def _checkpoint(self) -> None:
        log = Path(f"{self.path}-wal")
        size = log.stat().st_size if log.exists() else 0
        if size > CHECKPOINT:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if size > TRUNCATE:
            self._empty_log()

    def _empty_log(self) -> None:
        log = Path(f"{self.path}-wal")
        if log.exists() and log.stat().st_size:
            self._checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def make_room(self) -> None:
        """Empty the write-ahead log: a full disk may have no other room, for us and for others."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self._empty_log()

    def backlog(self, broker: str) -> tuple[int, float | None]:
        """How many events a broker has before it, and since when the oldest of them waits.

        Rows are numbered without gaps: a million is not counted one by one.
        """
        row = self.ledger.rows(
            "SELECT b.cursor, (SELECT MAX(row) FROM event) newest, (SELECT COUNT(*) FROM letter WHERE broker=b.name AND "
            "state='waiting' AND event<=b.cursor) waiting, (SELECT MIN(event) FROM letter WHERE broker=b.name AND "
            "state='waiting') letter, (SELECT MIN(row) FROM event WHERE row>b.cursor) next FROM broker b WHERE name=?",
            broker,
        )[0]
        first = min((each for each in (row["letter"], row["next"]) if each is not None), default=None)
        oldest = self.ledger.rows("SELECT created FROM event WHERE row=?", first) if first is not None else []
        return max(0, (row["newest"] or 0) - row["cursor"]) + row["waiting"], oldest[0]["created"] if oldest else None

    def totals(self, broker: str) -> dict[str, Any]:
        """What the status says of a broker's place, whether or not it is configured."""
        backlog, oldest = self.backlog(broker)
        published = self.ledger.rows("SELECT published FROM broker WHERE name=?", broker)[0]["published"]
        dead = "SELECT COUNT(*) n FROM letter WHERE broker=? AND state='dead'"
        return {
            "Backlog": backlog,
            "OldestSeconds": None if oldest is None else round(max(0.0, time.time() - oldest), 3),
            "Published": published,
            "DeadLetters": self.ledger.rows(dead, broker)[0]["n"],
        }


def new_id() -> str:
    """A name that no other event has."""
    return os.urandom(16).hex()


def _delay(attempts: int) -> float:
    return (
        float(min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempts - 1, 40)) * random.uniform(0.5, 1))
        if attempts
        else 0.0
    )
