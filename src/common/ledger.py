# SPDX-License-Identifier: AGPL-3.0-or-later
"""Work that must not be lost: one SQLite file a script, written before anything is done."""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from common.retry import RetryPolicy
from common.state import StateLock, make_private, must_be_same, open_private

SEND = "send"  # the task of a row, where its script has no other
WORK_TABLES = f"""
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS work(
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, data TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0,
    task TEXT NOT NULL DEFAULT '{SEND}', added REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS work_by_state ON work(state, task, queue, id);
CREATE INDEX IF NOT EXISTS work_by_subject ON work(subject, task, queue, state, id);
CREATE INDEX IF NOT EXISTS work_by_job ON work(job) WHERE job IS NOT NULL;
CREATE INDEX IF NOT EXISTS work_finished ON work(updated) WHERE state IN ('done','gone');
CREATE INDEX IF NOT EXISTS work_unfinished ON work(created) WHERE state IN ('waiting','sending');
CREATE TABLE IF NOT EXISTS work_counts(
    task TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY(task, queue, state)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS work_added AFTER INSERT ON work BEGIN
    INSERT INTO work_counts VALUES(new.task, new.queue, new.state, 1)
    ON CONFLICT(task, queue, state) DO UPDATE SET n=work_counts.n+1;
END;
CREATE TRIGGER IF NOT EXISTS work_removed AFTER DELETE ON work BEGIN
    UPDATE work_counts SET n=n-1 WHERE task=old.task AND queue=old.queue AND state=old.state;
END;
CREATE TRIGGER IF NOT EXISTS work_moved AFTER UPDATE OF task, queue, state ON work
WHEN new.task<>old.task OR new.queue<>old.queue OR new.state<>old.state BEGIN
    UPDATE work_counts SET n=n-1 WHERE task=old.task AND queue=old.queue AND state=old.state;
    INSERT INTO work_counts VALUES(new.task, new.queue, new.state, 1)
    ON CONFLICT(task, queue, state) DO UPDATE SET n=work_counts.n+1;
END;
INSERT INTO work_counts SELECT task, queue, state, COUNT(*) FROM work
WHERE NOT EXISTS (SELECT 1 FROM work_counts) GROUP BY task, queue, state;
"""
VERSION = 3  # of the tables above; in the first one a row's task was a name of its queue that nobody else had
# Before a script's own statements give the rows of a file of the first version their tasks. The tables above, made after
# these, count the rows again.
ADD_TASKS = f"""
ALTER TABLE work ADD COLUMN task TEXT NOT NULL DEFAULT '{SEND}';
DROP INDEX IF EXISTS work_by_state;
DROP INDEX IF EXISTS work_by_subject;
DROP TRIGGER IF EXISTS work_added;
DROP TRIGGER IF EXISTS work_removed;
DROP TRIGGER IF EXISTS work_moved;
DROP TABLE IF EXISTS work_counts;
"""
# In the second one, no row said when it was added: `created` is when the time began after which it is given up.
ADD_ADDED = "ALTER TABLE work ADD COLUMN added REAL NOT NULL DEFAULT 0; UPDATE work SET added=created;"
# Finished and unfinished states: `waiting` for its next attempt, `sending`; `done`, `gone` (what it was about was deleted),
# `dead` (given up, until a person retries or drops it).
STATES = ("waiting", "sending", "done", "gone", "dead")
BUSY_SECONDS = 0.25  # that a statement waits for another program's lock; a route waits no longer
FORGOTTEN_AT_ONCE = 500  # finished rows that one transaction deletes
# Of the write-ahead file. A full disk needs this much room for each script until all go on.
WAL_PAGES, WAL_BYTES = 256, 1 << 20
# Between the time that has passed and what the clock says, from which on somebody has set it.
CLOCK_WAS_SET_SECONDS = 60.0
NO_OLDER = """
UPDATE work SET created=CASE WHEN created+?<? THEN created+? ELSE ? END WHERE state IN ('waiting','sending')
"""
ADD_ROW = """
INSERT INTO work(queue, subject, state, attempts, next_attempt, error, job, data, created, updated, priority, task, added)
VALUES(?,?,'waiting',0,0,'',NULL,?,?,?,?,?,?) RETURNING id
"""
FORGET_FINISHED = """
DELETE FROM work WHERE id IN (
    SELECT id FROM work INDEXED BY work_finished WHERE state IN ('done','gone') AND updated<? ORDER BY updated LIMIT ?)
"""


class Statements(Protocol):
    """What executes statements, inside a transaction: a connection of sqlite3, or to PostgreSQL."""

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """Execute one statement; what it returns gives rows, and has `rowcount`."""

    def executemany(self, sql: str, rows: Any, /) -> Any:
        """Execute one statement for each of these rows."""


class Ledger:
    """One SQLite file of rows of work, for any number of threads.

    A committed row survives the death of the process; with `durability` "full" that of the power too. `is_new` means that
    the file was made now, `quarantined_to` where a corrupt one was moved to. As long as it is open, no other process can
    open it.

    Parameters
    ----------
    tables : SQL that makes more tables than those of rows of work, where they are not there.
    first_tasks : SQL that gives the rows of a file of the first version their tasks. Until then all have the task `send`.
    key : what a person sets to choose another folder, for errors.

    Raises
    ------
    StateBusyError : another process has it open.
    OSError, sqlite3.Error : it can't be made or opened (the folder, its rights, a full disk, a version newer than ours). It may
        be another time: see `Worker`.
    """

    is_shared = False
    """Whether it is in a database that several servers share."""

    def __init__(
        self,
        path: Path,
        tables: str = "",
        *,
        durability: str = "normal",
        version: int = VERSION,
        key: str = "StatePath",
        first_tasks: str = "",
    ) -> None:
        self.path, self._lock = path, threading.RLock()
        self.quarantined_to: Path | None = None
        self.is_new = False
        self._file, self._seen_changes, self._tidied_changes = -1, -1, -1
        self._first_tasks, self._clock_ahead = first_tasks, time.time() - time.monotonic()
        self._held = StateLock(path, key)
        try:
            try:
                self._open(tables, durability, version, key)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # locked, full, not allowed: nothing is wrong with the content
                self._move_aside()
                self._open(tables, durability, version, key)
        except BaseException:
            self._held.close()
            raise

    @property
    def name(self) -> str:
        """The name of its script, for the log."""
        return self.path.stem

    @property
    def where(self) -> str:
        """What a line of the log calls it."""
        return str(self.path)

    @property
    def changes(self) -> int:
        """A number that rises with each row that is changed through this one."""
        return self._db.total_changes

    def reader(self) -> Any:
        """Return a connection that only reads, for one thread at a time: it waits for no writer."""
        connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        connection.execute("PRAGMA cache_size=-2000")
        return connection

    def _open(self, tables: str, durability: str, version: int, key: str) -> None:
        for suffix in ("-wal", "-shm"):
            make_private(Path(f"{self.path}{suffix}"))
        # Stays open: it shows whether the file is still the one at its path. SQLite gives its -wal and -shm the same mode.
        self._file = open_private(self.path, key=key)
        self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=BUSY_SECONDS)
        try:
            self._db.row_factory = sqlite3.Row
            # To its end: on Python 3.14 a cursor can outlive its line in an HTTP thread of Orthanc (a stack of 100 KB), and as
            # long as this one is under way, nothing can be committed.
            self._db.execute("PRAGMA journal_mode=WAL").fetchall()
            self._db.execute(f"PRAGMA synchronous={durability}")
            self._db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}").fetchall()
            self._db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}").fetchall()
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            self.is_new = found == 0
            if found > version:
                raise sqlite3.OperationalError(
                    f"{self.path} is of version {found}, made by a newer script than this one"
                )
            if complaint := [row[0] for row in self._db.execute("PRAGMA quick_check(1)") if row[0] != "ok"]:
                raise sqlite3.DatabaseError(complaint[0])
            sql = f"{self._migration()} {WORK_TABLES} {tables} PRAGMA user_version={version};"
            self._db.executescript(f"BEGIN IMMEDIATE; {sql} COMMIT;")
        except BaseException:
            self._close_files()
            raise

    def _migration(self) -> str:
        """Return what brings a file of an older version up to date; "" for a new one, and for one that is."""
        columns = {row["name"] for row in self._db.execute("PRAGMA table_info(work)")}
        tasks = f"{ADD_TASKS} {self._first_tasks}" if columns and "task" not in columns else ""
        return f"{tasks} {ADD_ADDED}" if columns and "added" not in columns else tasks

    def _close_files(self) -> None:
        self._db.close()
        # After SQLite has closed its own: closing this one ends every lock that the process has on the file.
        os.close(self._file)
        self._file = -1

    def _move_aside(self) -> None:
        self.quarantined_to = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
        self.path.replace(self.quarantined_to)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                self._close_files()
            self._held.close()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self._close_files()

    def check(self) -> None:
        """Raise StateGoneError if the file, or its lock, was deleted or replaced: nothing can be written down then."""
        with self._lock:
            must_be_same(self._file, self.path)
        self._held.check()

    def tidy(self) -> None:
        """Empty the write-ahead file, if nothing was written since the last call: on a full disk that room helps others."""
        self._follow_clock()
        changes = self._db.total_changes
        if changes == self._seen_changes != self._tidied_changes:
            self.checkpoint()
            self._tidied_changes = changes
        self._seen_changes = changes

    def _follow_clock(self) -> None:
        """Let what is unfinished be no older than it was where somebody has set the clock: it would be given up for that."""
        ahead = time.time() - time.monotonic()
        if abs(ahead - self._clock_ahead) > CLOCK_WAS_SET_SECONDS:
            later, now = max(0.0, ahead - self._clock_ahead), time.time()
            self.run(NO_OLDER, later, now, later, now)
            self._clock_ahead = ahead

    def checkpoint(self) -> None:
        """Bring the write-ahead file into the ledger and empty it."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Statements]:
        """Write all that is written inside, or nothing of it. May be nested."""
        with self._lock:
            self._must_be_open()
            if self._db.in_transaction:
                yield self._db
                return
            must_be_same(self._file, self.path)
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.rollback()  # a COMMIT that failed leaves its transaction open
                raise

    def _must_be_open(self) -> None:
        # A request came just before Orthanc's end: no bug, and sqlite3.ProgrammingError would look like one.
        if self._file < 0:
            raise sqlite3.OperationalError(f"{self.path} is closed")

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock:
            self._must_be_open()
            return [dict(row) for row in self._db.execute(sql, parameters)]

    def run(self, sql: str, *parameters: Any) -> int:
        """Execute one statement, committed on return; gives the number of rows changed."""
        with self.transaction() as db:
            return int(db.execute(sql, parameters).rowcount)

    def get_value(self, name: str, default: int = 0) -> int:
        """Return a number of the table `state`, or the default."""
        return next((int(row["value"]) for row in self.rows("SELECT value FROM state WHERE name=?", name)), default)

    def set_value(self, name: str, value: int) -> None:
        """Keep a number in the table `state`."""
        self.run("INSERT INTO state VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value", name, value)

    def add(self, queue: str, resource: str, data: Mapping[str, Any], priority: int = 0, task: str = SEND) -> int:
        """Add a row about a resource, `waiting` and due now, before those of a lower priority; return its id."""
        with self.transaction() as db:
            now = time.time()
            values = (queue, resource, json.dumps(data), now, now, priority, task, now)
            return int(db.execute(ADD_ROW, values).fetchall()[0][0])

    def due(self, queue: str, limit: int, longest: float, task: str = SEND) -> list[dict[str, Any]]:
        """Return the next rows of a task and queue, of each resource only the oldest unfinished one, so that order holds.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self.rows(
            "SELECT * FROM work w WHERE task=? AND queue=? AND state='waiting' AND (next_attempt<=? OR next_attempt>?) "
            "AND NOT EXISTS (SELECT 1 FROM work o WHERE o.subject=w.subject AND o.task=w.task AND o.queue=w.queue "
            "AND o.state IN ('waiting','sending') AND o.id<w.id) ORDER BY priority DESC, id LIMIT ?",
            *(task, queue, time.time(), time.time() + longest, limit),
        )

    def start(self, row: int) -> None:
        """Say that this attempt begins: before it does."""
        self.run("UPDATE work SET state='sending',attempts=attempts+1,job=NULL,updated=? WHERE id=?", time.time(), row)

    def end(self, row: int, state: str) -> None:
        self.run("UPDATE work SET state=?,error='',updated=? WHERE id=?", state, time.time(), row)

    def fail(self, row: int, error: str, retry: RetryPolicy, *, give_up: bool = False) -> str:
        """Let a row wait for its next attempt, or be `dead` if that took too long, or is of no use; return its state."""
        with self.transaction():
            self._follow_clock()
            found = self.rows("SELECT attempts, created FROM work WHERE id=?", row)[0]
            now = time.time()
            state = "dead" if give_up or now - found["created"] > retry.give_up_hours * 3600 else "waiting"
            sql = "UPDATE work SET state=?,error=?,next_attempt=?,updated=? WHERE id=?"
            self.run(sql, state, error, now + retry.delay(found["attempts"]), now, row)
            return state

    def totals(self) -> dict[str, int]:
        """Return the number of rows in each state, kept as they change: what is finished costs nothing."""
        found = {row["state"]: row["n"] for row in self.rows("SELECT state, SUM(n) n FROM work_counts GROUP BY state")}
        return {state: found.get(state, 0) for state in STATES}

    def queues(self, state: str, task: str = SEND) -> dict[str, int]:
        """Return the queues that have rows of a task in a state, with their number."""
        sql = "SELECT queue, n FROM work_counts WHERE task=? AND state=? AND n>0 ORDER BY queue"
        rows = self.rows(sql, task, state)
        return {row["queue"]: row["n"] for row in rows}

    def forget_finished(self, days: float) -> bool:
        """Delete the oldest rows that ended so many days ago, few at a time; return whether there may be more."""
        return self.run(FORGET_FINISHED, time.time() - days * 86400, FORGOTTEN_AT_ONCE) == FORGOTTEN_AT_ONCE
