# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/postgres.py: edit that, never this file.
"""One connection to PostgreSQL that has the right to a script's state as long as it lasts.

The right is an advisory lock of the connection that writes: who has lost the connection can write nothing, and PostgreSQL
gives the right to another server. So nobody writes beside the one who has it.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from typing import Any

from .database import Database
from .packages import package_problem
from .postgres_sql import for_postgres
from .state import StandsByError, StateError, StateLostError

LEAST_PSYCOPG = "3.1"
BEATS_SECONDS = 5.0  # between two signs of life of who has the right
# Without one for so long, PostgreSQL ends the connection: of a server that hangs, and of one that it can't reach.
SILENT_MILLISECONDS, UNREACHABLE_MILLISECONDS = 20_000, 10_000
CONNECTS_AGAIN_SECONDS = 1.0  # after a failure, in which nobody else waits for the next one
# What may stand in the URL, and else is this. The client's side of a connection that was cut.
CONNECTION_OPTIONS = {
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": str(UNREACHABLE_MILLISECONDS),
    "client_encoding": "UTF8",
}
# The server's side. Where it is older than 14, a server that hangs keeps the right until it ends.
SESSION_SETTINGS = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": str(UNREACHABLE_MILLISECONDS),
    "idle_session_timeout": str(SILENT_MILLISECONDS),
    "idle_in_transaction_session_timeout": str(SILENT_MILLISECONDS),
    "lock_timeout": "5000",
}
KEEP_WHAT_IS_WRITTEN = """
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name='synchronous_commit' AND setting='off'
"""
HOLDER_TABLE = """
CREATE TABLE IF NOT EXISTS holder(
    one INTEGER PRIMARY KEY CHECK (one=1), server TEXT NOT NULL, process TEXT NOT NULL, since DOUBLE PRECISION NOT NULL)
"""
TAKE_RIGHT = """
INSERT INTO holder VALUES(1,?,?,?) ON CONFLICT(one) DO UPDATE SET server=excluded.server, process=excluded.process,
since=excluded.since
"""


class NamedRow(tuple[Any, ...]):
    """A row with its columns by place and by name, as `sqlite3.NamedRow`."""

    _names: dict[str, int]

    def keys(self) -> list[str]:
        return list(self._names)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._names[key] if isinstance(key, str) else key)


@functools.lru_cache(maxsize=1000)
def _row_with(columns: tuple[str, ...]) -> type[NamedRow]:
    """Return the class of the rows with these columns."""
    return type("NamedRow", (NamedRow,), {"_names": {name: place for place, name in enumerate(columns)}})


class QueryResult:
    """What a statement gives: its rows, and how many it has changed."""

    def __init__(self, cursor: Any) -> None:
        self.rowcount: int = cursor.rowcount
        self.status: str = cursor.statusmessage or ""
        self._rows: list[NamedRow] = []
        if cursor.description:
            make = _row_with(tuple(column.name for column in cursor.description))
            self._rows = [make(row) for row in cursor.fetchall()]

    def fetchall(self) -> list[NamedRow]:
        return self._rows

    def close(self) -> None:
        """Do nothing: all is read."""

    def __iter__(self) -> Iterator[NamedRow]:
        return iter(self._rows)


class Session:
    """A connection, and the statements that are executed in it; one thread at a time.

    Parameters
    ----------
    name : of the script, with underscores: of its lock, and of the schema of its tables.
    process : the name of this process, another one after each start.

    Raises
    ------
    ValueError : the package for PostgreSQL is missing, or the URL is none.
    sqlite3.OperationalError : it can't be reached, or refuses.
    """

    def __init__(self, database: Database, name: str, process: str) -> None:
        self._name, self._process, self._server = name, process, database.server
        self.schema = f"orthanc_scripts_{name}"
        self._psycopg = _psycopg()
        with self._errors():
            self._connection = self._psycopg.connect(**self._options(database), autocommit=True)
        self.where = f"{self._connection.info.host}/{self._connection.info.dbname}"
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _options(self, database: Database) -> dict[str, Any]:
        try:
            given = self._psycopg.conninfo.conninfo_to_dict(database.url)
        except self._psycopg.Error:  # its text has the URL, with the password
            raise ValueError(
                "Scripts.Database: found a value that is not shown here, allowed: "
                "postgresql://USER:PASSWORD@HOST/DATABASE (%XX for each character of a password that a URL can't hold)"
            ) from None
        return {"application_name": f"orthanc-scripts {self._process}", **CONNECTION_OPTIONS, **given}

    def _prepare(self) -> None:
        adapters = self._connection.adapters
        adapters.register_dumper(str, self._psycopg.types.string.StrDumper)
        adapters.register_loader("numeric", _number_loader(self._psycopg))
        version = self._connection.info.server_version
        for name, value in SESSION_SETTINGS.items():
            if name == "idle_session_timeout" and version < 140000:
                continue
            self.execute("SELECT set_config(?,?,false)", (name, value))
        # Where it is off for all, what counts as written is lost if PostgreSQL crashes a moment later.
        self.execute(KEEP_WHAT_IS_WRITTEN)
        self.execute("SELECT set_config('search_path',?,false)", (f"{self.schema}, pg_catalog",))

    # Statements

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> QueryResult:
        """Execute one statement of a ledger."""
        with self._errors():
            return QueryResult(self._connection.execute(for_postgres(sql), _adapted(parameters)))

    def execute_as_it_is(self, sql: str) -> None:
        """Execute one statement that is PostgreSQL's already."""
        with self._errors():
            self._connection.execute(sql, ())

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Execute one statement for each of these rows."""
        if many := [_adapted(row) for row in rows]:
            with self._errors(), self._connection.cursor() as cursor:
                cursor.executemany(for_postgres(sql), many)

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Session"]:
        """Write all that is written inside, or nothing of it."""
        self.execute("BEGIN")
        with self.rest_of_transaction():
            yield self

    @contextlib.contextmanager
    def rest_of_transaction(self) -> Iterator[None]:
        """End the transaction that was begun."""
        try:
            yield
            # Where a statement has failed, and somebody went on nevertheless, a COMMIT takes all back without an error.
            if (done := self.execute("COMMIT").status) != "COMMIT":
                raise sqlite3.OperationalError(f"PostgreSQL has not written it: {done}")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.execute("ROLLBACK")
            raise

    @property
    def is_broken(self) -> bool:
        """Whether the connection is of no use any more."""
        return bool(self._connection.closed or self._connection.broken)

    def close(self) -> None:
        """End the connection, and with it the right."""
        with contextlib.suppress(self._psycopg.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what went wrong as what callers know: errors of sqlite3. Their texts have no URL."""
        try:
            yield
        except (self._psycopg.IntegrityError, self._psycopg.DataError) as error:
            raise sqlite3.IntegrityError(f"PostgreSQL: {_first_line_of(error)}") from None
        except self._psycopg.Error as error:
            raise sqlite3.OperationalError(f"PostgreSQL: {_first_line_of(error)}") from None

    # The right

    def take(self, *, again: bool = False) -> None:
        """Take the right to the state.

        Parameters
        ----------
        again : this process had it, in a connection that was cut.

        Raises
        ------
        StandsByError : another server has it.
        StateLostError : another server has it, or has had it, since this one lost it.
        """
        key = int.from_bytes(hashlib.blake2b(self.schema.encode(), digest_size=8).digest(), "big", signed=True)
        if again:  # PostgreSQL may not know yet that the connection was cut
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=? AND pid<>pg_backend_pid()",
                (f"orthanc-scripts {self._process}",),
            )
        has_it = self.execute("SELECT pg_try_advisory_lock(?)", (key,)).fetchall()[0][0]
        holder, process = self._holder()
        if again and process != self._process:
            raise StateLostError(f"server {holder} has taken over the work of {self._name}: this one stands by", holder)
        if not has_it and process == self._process:
            raise sqlite3.OperationalError("PostgreSQL: it still holds the lock of the connection that was cut")
        if not has_it:
            text = f"server {holder} has the work of {self._name}: this one stands by, and goes on when that one ends"
            raise StandsByError(text, holder)
        if not again:
            self._make_schema()
            self.execute(TAKE_RIGHT, (self._server, self._process, time.time()))

    def _holder(self) -> tuple[str, str]:
        """Return the name and the process of who took the right last."""
        if not self.execute("SELECT to_regclass(?)", (f"{self.schema}.holder",)).fetchall()[0][0]:
            return "unknown", ""
        rows = self.execute("SELECT server, process FROM holder").fetchall()
        return (rows[0][0], rows[0][1]) if rows else ("unknown", "")

    def _make_schema(self) -> None:
        if not self.execute("SELECT to_regnamespace(?)", (self.schema,)).fetchall()[0][0]:
            self.execute_as_it_is(f"CREATE SCHEMA {self.schema}")
        self.execute_as_it_is(HOLDER_TABLE)


def new_process() -> str:
    """Return a name that no other process has."""
    return os.urandom(8).hex()


def _psycopg() -> Any:
    """Import psycopg, in a thread of the script's own."""
    try:
        found: str | None = importlib.metadata.version("psycopg")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if problem := package_problem("psycopg[binary]", LEAST_PSYCOPG, found, "python3-psycopg"):
        raise ValueError(f"Scripts.Database is set: {problem}")
    try:
        import psycopg
        import psycopg.conninfo
        import psycopg.types.numeric
        import psycopg.types.string
    except ImportError as error:  # its own library of PostgreSQL is missing
        raise StateError(f"Scripts.Database is set, and psycopg can't be loaded: {_first_line_of(error)}") from None
    return psycopg


def _number_loader(psycopg: Any) -> Any:
    """Return what makes Python's numbers of sums: whole ones of whole ones."""

    class NumberLoader(psycopg.adapt.Loader):  # type: ignore[misc]
        def load(self, data: Any) -> float:
            text = bytes(data).decode()
            return float(text) if "." in text else int(text)

    return NumberLoader


def _adapted(values: Iterable[Any]) -> list[Any]:
    """Return values as SQLite would take them: true and false are numbers. PostgreSQL's texts can't hold a NUL."""
    return [
        int(value) if isinstance(value, bool) else value.replace("\0", "�") if isinstance(value, str) else value
        for value in values
    ]


def _first_line_of(error: object) -> str:
    return str(error).strip().partition("\n")[0]
