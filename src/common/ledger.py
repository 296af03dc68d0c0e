# SPDX-License-Identifier: AGPL-3.0-or-later
"""Work that must not be lost: one SQLite file a script, written before anything is done."""

import contextlib
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orthanc

WORK_TABLES = """
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS work(
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, data TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS work_by_state ON work(state, queue, id);
CREATE INDEX IF NOT EXISTS work_by_subject ON work(subject, queue, state, id);
CREATE INDEX IF NOT EXISTS work_by_job ON work(job) WHERE job IS NOT NULL;
"""
# Finished and unfinished states: `waiting` for its next attempt, `sending`; `done`, `gone` (what it was about was deleted),
# `dead` (given up, until a person retries or drops it).
STATES = ("waiting", "sending", "done", "gone", "dead")


def configuration_folder() -> Path:
    """The folder in which Orthanc's relative paths begin.

    Where the configuration is given as a folder without a slash at its end, `GetConfigurationPath()` names its parent, so
    the command line has to tell.
    """
    base = Path(orthanc.GetConfigurationPath()).absolute()
    if base.is_file():
        base = base.parent
    else:
        words = [Path(os.fsdecode(word)) for word in Path("/proc/self/cmdline").read_bytes().split(b"\0") if word]
        base = next((word.absolute() for word in words if word.is_dir() and word.absolute().parent == base), base)
    return base


def state_folder(state_path: str | None, configuration: Mapping[str, Any]) -> Path:
    """Where a script keeps its ledger: `StatePath`, else `IndexDirectory`, else `StorageDirectory`."""
    default = configuration.get("IndexDirectory") or configuration.get("StorageDirectory") or "OrthancStorage"
    return configuration_folder() / (state_path or default)


class Ledger:
    """One SQLite file of rows of work, for any number of threads.

    A committed row survives the death of the process; with `durability` "full" that of the power too. `fresh` tells that
    the file was made now, `moved` where a corrupt one was moved to.

    Raises
    ------
    OSError, sqlite3.Error : the file can't be made or opened (the folder, its rights, a version that is newer than ours).
    """

    def __init__(self, path: Path, tables: str = "", *, durability: str = "normal", version: int = 1) -> None:
        self.path, self._lock = path, threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.moved: Path | None = None
        self.fresh = False
        try:
            self._open(tables, durability, version)
        except sqlite3.DatabaseError as error:
            if isinstance(
                error, sqlite3.OperationalError
            ):  # locked, full, not allowed: nothing is wrong with the content
                raise
            self._move_aside()
            self._open(tables, durability, version)

    def _open(self, tables: str, durability: str, version: int) -> None:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its -wal and -shm the same mode
        self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        try:
            self._db.row_factory = sqlite3.Row
            # To its end: on Python 3.14 a cursor can outlive its line in an HTTP thread of Orthanc (a stack of 100 KB), and as
            # long as this one is under way, nothing can be committed.
            self._db.execute("PRAGMA journal_mode=WAL").fetchall()
            self._db.execute(f"PRAGMA synchronous={durability}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            self.fresh = found == 0
            if found > version:
                raise sqlite3.OperationalError(
                    f"{self.path} is of version {found}, made by a newer script than this one"
                )
            if complaint := [row[0] for row in self._db.execute("PRAGMA quick_check(1)") if row[0] != "ok"]:
                raise sqlite3.DatabaseError(complaint[0])
            self._db.executescript(f"BEGIN; {WORK_TABLES} {tables} PRAGMA user_version={version}; COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def _move_aside(self) -> None:
        self.moved = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
        self.path.replace(self.moved)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside is there after it, or nothing of it. May be nested."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.rollback()
                raise
            self._db.execute("COMMIT")

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, parameters)]

    def run(self, sql: str, *parameters: Any) -> int:
        """Execute one statement, committed on return; gives the number of rows changed."""
        with self.transaction() as db:
            return db.execute(sql, parameters).rowcount

    def number(self, name: str, default: int = 0) -> int:
        return next((int(row["value"]) for row in self.rows("SELECT value FROM state WHERE name=?", name)), default)

    def set_number(self, name: str, value: int) -> None:
        self.run("INSERT INTO state VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value", name, value)

    def add(self, queue: str, subject: str, data: Mapping[str, Any], priority: int = 0) -> int:
        """A new row, `waiting` and due now, before those of a lower priority; gives its id."""
        with self.transaction() as db:
            now = time.time()
            values = (queue, subject, json.dumps(data), now, now, priority)
            sql = "INSERT INTO work VALUES(NULL,?,?,'waiting',0,0,'',NULL,?,?,?,?)"
            return int(db.execute(sql, values).lastrowid or 0)

    def due(self, queue: str, limit: int, longest: float) -> list[dict[str, Any]]:
        """The next rows of a queue, of each subject only the oldest unfinished one, so that order holds.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self.rows(
            "SELECT * FROM work w WHERE queue=? AND state='waiting' AND (next_attempt<=? OR next_attempt>?) AND NOT EXISTS "
            "(SELECT 1 FROM work o WHERE o.subject=w.subject AND o.queue=w.queue AND o.state IN ('waiting','sending') "
            "AND o.id<w.id) ORDER BY priority DESC, id LIMIT ?",
            *(queue, time.time(), time.time() + longest, limit),
        )

    def start(self, row: int) -> None:
        """Say that this attempt begins: before it does."""
        self.run("UPDATE work SET state='sending',attempts=attempts+1,job=NULL,updated=? WHERE id=?", time.time(), row)

    def end(self, row: int, state: str) -> None:
        self.run("UPDATE work SET state=?,error='',updated=? WHERE id=?", state, time.time(), row)

    def fail(self, row: int, error: str, *, first: float, longest: float, give_up_after: float) -> str:
        """Wait for the next attempt, twice as long as the last time and up to half of it less; or `dead`, if it took too long."""
        with self.transaction():
            found = self.rows("SELECT attempts, created FROM work WHERE id=?", row)[0]
            now, delay = (
                time.time(),
                min(longest, first * 2.0 ** min(found["attempts"] - 1, 40)) * random.uniform(0.5, 1),
            )
            state = "dead" if now - found["created"] > give_up_after else "waiting"
            sql = "UPDATE work SET state=?,error=?,next_attempt=?,updated=? WHERE id=?"
            self.run(sql, state, error, now + delay, now, row)
            return state

    def totals(self) -> dict[str, int]:
        found = {row["state"]: row["n"] for row in self.rows("SELECT state, COUNT(*) n FROM work GROUP BY state")}
        return {state: found.get(state, 0) for state in STATES}

    def forget_finished(self, days: float) -> None:
        self.run("DELETE FROM work WHERE state IN ('done','gone') AND updated<?", time.time() - days * 86400)
