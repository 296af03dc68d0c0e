# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/postgres_ledger.py: edit that, never this file.
"""A ledger in PostgreSQL, which several servers share: one at a time works with it, the others stand by."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .database import Database
from .ledger import VERSION, WORK_TABLES, Ledger, Statements
from .postgres import BEATS_SECONDS, CONNECTS_AGAIN_SECONDS, Session, new_process
from .postgres_sql import JSON_FUNCTIONS, tables_for_postgres
from .state import StateLostError

VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS ledger_version(one INTEGER PRIMARY KEY CHECK (one=1), version INTEGER NOT NULL)"
)
CLOSES_WITHIN_SECONDS = 1.0
NOTE_VERSION = "INSERT INTO ledger_version VALUES(1,?) ON CONFLICT(one) DO UPDATE SET version=excluded.version"


class ReadThrough:
    """Reads by the one connection that a ledger has, for which other threads wait meanwhile."""

    def __init__(self, ledger: "PostgresLedger") -> None:
        self._ledger = ledger

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> Any:
        """Execute one statement; its rows are all read."""
        return self._ledger.execute(sql, *parameters)

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Execute one statement for each of these rows."""
        with self._ledger.transaction() as db:
            db.executemany(sql, rows)

    def close(self) -> None:
        """Do nothing: the connection is the ledger's."""


class PostgresLedger(Ledger):
    """The rows of a script in PostgreSQL, with the verbs of a `Ledger`, for any number of threads of the one server that works.

    A connection that was cut is made again by whoever needs it next. If another server has worked meanwhile, every verb
    raises `StateLostError` from then on.

    Parameters
    ----------
    name : of the script, with underscores.
    tables : as a `Ledger` takes them: SQLite's, and translated.

    Raises
    ------
    StandsByError : another server works.
    ValueError : psycopg is missing or too old.
    sqlite3.Error : the database can't be reached or refuses, or its tables were made by a newer script.
    """

    is_shared = True

    def __init__(self, database: Database, name: str, tables: str = "", *, version: int = VERSION) -> None:
        self._database, self._name, self._process = database, name, new_process()
        self._lock, self.quarantined_to = threading.RLock(), None
        self.path = Path(f"{name}.postgresql")  # of no file: its stem is the script's name
        self._clock_ahead = time.time() - time.monotonic()
        self._closed = threading.Event()
        self._lost: StateLostError | None = None
        self._next_connection, self._last_error = 0.0, ""
        self._transaction: Session | None = None
        self._changes = 0
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, in whichever thread finds out, when another server has taken over."""
        self._session = Session(database, name, self._process)
        try:
            self._session.take()
            with self.transaction():
                self.is_new = self._make_tables(tables, version)
        except BaseException:
            self._session.close()
            raise
        threading.Thread(target=self._give_signs_of_life, name=f"{name} database", daemon=True).start()

    @property
    def where(self) -> str:
        """What a line of the log calls it."""
        return f"{self._session.schema} in PostgreSQL ({self._session.where})"

    @property
    def changes(self) -> int:
        """A number that rises with each transaction."""
        return self._changes

    def reader(self) -> Any:
        """Return what reads by this connection."""
        return ReadThrough(self)

    def _make_tables(self, tables: str, version: int) -> bool:
        """Make what is not there, and return whether all of it is new."""
        session = self._session
        session.execute_as_it_is(VERSION_TABLE)
        found = session.execute("SELECT version FROM ledger_version").fetchall()
        if found and found[0][0] > version:
            raise sqlite3.OperationalError(
                f"{self.where} is of version {found[0][0]}, made by a newer script than this one"
            )
        for statement in (*JSON_FUNCTIONS, *tables_for_postgres(f"{WORK_TABLES} {tables}")):
            session.execute_as_it_is(statement)
        session.execute(NOTE_VERSION, (version,))
        return not found

    def close(self) -> None:
        self._closed.set()
        has_it = self._lock.acquire(timeout=CLOSES_WITHIN_SECONDS)  # another thread may wait for PostgreSQL
        self._session.close()
        if has_it:
            self._lock.release()

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self.close()

    # The connection

    def _give_signs_of_life(self) -> None:
        """Show PostgreSQL that this process is there, and find out soon that the connection was cut."""
        while not self._closed.wait(BEATS_SECONDS):
            with contextlib.suppress(sqlite3.Error, OSError):
                self.check()

    def check(self) -> None:
        """Raise where nothing can be written down now; `StateLostError`: another server works."""
        self.rows("SELECT 1")

    def tidy(self) -> None:
        """Do what the ledger needs now and then."""
        self._follow_clock()

    def checkpoint(self) -> None:
        """Do nothing: PostgreSQL does that itself."""

    def _must_be_open(self) -> None:
        if self._lost:
            raise StateLostError(str(self._lost), self._lost.worked_by)
        if self._closed.is_set():
            raise sqlite3.OperationalError(f"{self.where} is closed")

    def _connect_again(self) -> None:
        """Make a new connection in the place of one that was cut, and take the right again."""
        if time.monotonic() < self._next_connection:
            raise sqlite3.OperationalError(self._last_error)
        self._session.close()
        session: Session | None = None
        try:
            session = Session(self._database, self._name, self._process)
            session.take(again=True)
        except BaseException as error:
            if session:
                session.close()
            self._next_connection, self._last_error = time.monotonic() + CONNECTS_AGAIN_SECONDS, str(error)
            if isinstance(error, StateLostError):
                self._lost = error
                self.on_lost()
            raise
        self._session = session
        if self._closed.is_set():
            session.close()

    def _begin(self, sql: str, *parameters: Any) -> Any:
        """Execute the first statement of something: once more, in a new connection, if the one that there was is cut."""
        self._must_be_open()
        if not self._session.is_broken:
            try:
                return self._session.execute(sql, parameters)
            except sqlite3.OperationalError:
                if not self._session.is_broken:
                    raise
        self._connect_again()
        return self._session.execute(sql, parameters)

    # Statements

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Statements]:
        """Write all that is written inside, or nothing of it. May be nested."""
        with self._lock:
            if self._transaction:
                yield self._transaction
                return
            self._begin("BEGIN")
            session = self._transaction = self._session
            try:
                with session.rest_of_transaction():
                    yield session
                self._changes += 1
            finally:
                self._transaction = None

    def execute(self, sql: str, *parameters: Any) -> Any:
        """Execute one statement that changes nothing: it may be executed twice."""
        with self._lock:
            return self._transaction.execute(sql, parameters) if self._transaction else self._begin(sql, *parameters)

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        return [dict(zip(row.keys(), row, strict=True)) for row in self.execute(sql, *parameters)]
