# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/postgres_ledger.py on a real PostgreSQL: one server works, the others stand by, nothing is written beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import psycopg
import pytest

from testing.waiting import wait_until
from tests.common.unit.helpers import end, program
from tests.postgres import PostgresServer

Source = Callable[[str], ModuleType]
WORKS = """
    from common.database import Database
    from common.postgres import SESSION_SETTINGS
    from common.postgres_ledger import PostgresLedger
    if sys.argv[3:]:
        SESSION_SETTINGS["idle_session_timeout"] = sys.argv[3]
    ledger = PostgresLedger(Database(sys.argv[1], sys.argv[2]), "x")
    print(ledger.add("q", "s", {}), flush=True)
    time.sleep(60)
"""


class Servers:
    """Servers that share a database, each with its name."""

    def __init__(self, source: Source, url: str) -> None:
        self._source, self.url, self.state = source, url, source("common.state")
        self._opened: list[Any] = []

    def open(self, server: str, name: str = "x", **more: Any) -> Any:
        where = self._source("common.database").Database(self.url, server)
        self._opened.append(self._source("common.postgres_ledger").PostgresLedger(where, name, **more))
        return self._opened[-1]

    def opens(self, server: str) -> Any:
        """Return its ledger, or None while it stands by."""
        with contextlib.suppress(self.state.StandsByError):
            return self.open(server)
        return None

    def cut(self) -> None:
        """End all connections of ledgers, as a restart of PostgreSQL does."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'orthanc-scripts%'"
            )

    def close(self) -> None:
        for each in self._opened:
            each.close()


@pytest.fixture
def servers(source: Source, database: str) -> Iterator[Servers]:
    with contextlib.closing(Servers(source, database)) as found:
        yield found


@pytest.fixture
def working_process(database: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*more: object) -> subprocess.Popen[str]:
        started.append(program(WORKS, database, "A", *more))
        assert started[-1].stdout
        assert started[-1].stdout.readline() == "1\n"
        return started[-1]

    yield start
    for each in started:
        end(each)


def test_a_second_server_stands_by_and_names_the_first_until_that_one_ends(servers: Servers) -> None:
    first = servers.open("A")
    row = first.add("q", "s", {"Of": "x"})
    with pytest.raises(servers.state.StandsByError, match="server A has the work of x") as error:
        servers.open("B")
    assert error.value.worked_by == "A"
    first.close()
    second = servers.open("B")
    assert not second.is_new
    assert [each["id"] for each in second.due("q", 9, 100)] == [row]


def test_another_server_takes_over_from_one_that_was_killed(
    servers: Servers, working_process: Callable[..., subprocess.Popen[str]]
) -> None:
    process = working_process()
    assert servers.opens("B") is None
    process.kill()
    wait_until(lambda: servers.opens("B"), 30, "B takes over")


def test_another_server_takes_over_from_one_that_hangs(
    servers: Servers, working_process: Callable[..., subprocess.Popen[str]]
) -> None:
    """PostgreSQL ends the connection of whoever gives no sign of life; 20 s in real life."""
    process = working_process(500)
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: servers.opens("B"), 30, "B takes over")


def test_a_connection_that_was_cut_is_made_again_by_whoever_needs_it(servers: Servers) -> None:
    ledger = servers.open("A")
    servers.cut()
    row = ledger.add("q", "s", {})
    servers.cut()
    assert [each["id"] for each in ledger.rows("SELECT id FROM work")] == [row]
    assert servers.opens("B") is None, "it works still"


def test_a_transaction_that_was_cut_has_written_nothing(servers: Servers) -> None:
    ledger = servers.open("A")
    kept = ledger.add("q", "kept", {})

    def write() -> None:
        with ledger.transaction():
            ledger.add("q", "lost", {})
            servers.cut()
            ledger.add("q", "lost too", {})

    with pytest.raises(sqlite3.OperationalError, match="PostgreSQL"):
        write()
    assert [each["id"] for each in ledger.rows("SELECT id FROM work")] == [kept]


def test_a_statement_that_failed_lets_nothing_of_its_transaction_count(servers: Servers) -> None:
    """PostgreSQL takes a COMMIT for a ROLLBACK then, without an error."""
    ledger = servers.open("A")

    def write() -> None:
        with ledger.transaction() as db:
            ledger.add("q", "s", {})
            with contextlib.suppress(sqlite3.Error):
                db.execute("SELECT 1/0")

    with pytest.raises(sqlite3.OperationalError, match="has not written"):
        write()
    assert ledger.rows("SELECT id FROM work") == []


def test_who_lost_the_work_to_another_server_writes_nothing_any_more(
    servers: Servers, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source("common.postgres_ledger").PostgresLedger, "_give_signs_of_life", lambda _: None)
    first = servers.open("A")
    first._session.close()  # the network is gone
    second = wait_until(lambda: servers.opens("B"), 30, "B takes over")
    for _ in range(2):
        with pytest.raises(servers.state.StateLostError, match="server B has taken over the work of x"):
            first.add("q", "s", {})
    second.close()
    with pytest.raises(servers.state.StateLostError):  # B may have done anything meanwhile
        first.add("q", "s", {})
    assert servers.open("C").rows("SELECT id FROM work") == []


def test_a_script_that_is_older_than_the_tables_refuses_them(servers: Servers) -> None:
    servers.open("A", version=9).close()
    with pytest.raises(sqlite3.OperationalError, match="of version 9, made by a newer script"):
        servers.open("A", version=8)


def test_no_error_shows_the_password(source: Source, database: str) -> None:
    where = source("common.database").Database(
        database.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1").replace("@", "@", 1), "A"
    )
    assert "pa55" not in repr(where)
    for url in (
        database.replace("/test", "/nothing"),
        database + "?sslmode=%zz",
        database + "?nothing=1",
        database + "?port=1",
    ):
        with pytest.raises((sqlite3.OperationalError, ValueError)) as error:
            source("common.postgres_ledger").PostgresLedger(source("common.database").Database(url, "A"), "x")
        assert "pa55" not in str(error.value)


def test_a_missing_package_is_named_with_the_remedy(
    source: Source, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise source("importlib.metadata").PackageNotFoundError(name)

    monkeypatch.setattr(source("common.postgres").importlib.metadata, "version", missing)
    with pytest.raises(
        ValueError, match=r"Scripts.Database is set: it needs the Python package psycopg\[binary\], 3.1 or newer"
    ):
        source("common.postgres_ledger").PostgresLedger(source("common.database").Database(database, "A"), "x")


def test_a_database_that_was_away_is_used_again(source: Source) -> None:
    with contextlib.closing(PostgresServer()) as server:
        server.start()
        where = source("common.database").Database(server.url, "A")
        with contextlib.closing(source("common.postgres_ledger").PostgresLedger(where, "x")) as ledger:
            row = ledger.add("q", "s", {})
            server.stop()
            for _ in range(2):
                with pytest.raises(sqlite3.OperationalError, match="PostgreSQL"):
                    ledger.add("q", "t", {})
            server.start()

            def found() -> Any:
                with contextlib.suppress(sqlite3.OperationalError):
                    return ledger.rows("SELECT id FROM work")

            assert wait_until(found, 60, "it is used again") == [{"id": row}]


def test_what_sqlite_takes_postgresql_takes(servers: Servers) -> None:
    ledger = servers.open("A", tables="CREATE TABLE IF NOT EXISTS t(n INTEGER, x REAL, name TEXT);")
    ledger.run("INSERT INTO t VALUES(?,?,?)", True, 2**0.5, "a\0b")
    ledger.run("INSERT INTO t VALUES(?,?,?)", -(2**62), 1, None)
    found = ledger.rows("SELECT n, x, name FROM t ORDER BY n")
    assert found == [{"n": -(2**62), "x": 1.0, "name": None}, {"n": 1, "x": 2**0.5, "name": "a�b"}]
    assert ledger.rows("SELECT SUM(n) n FROM t WHERE n>?", 0) == [{"n": 1}]
    assert isinstance(ledger.rows("SELECT SUM(n) n FROM t")[0]["n"], int)
