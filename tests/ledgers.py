# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ledgers of a test's own, on both back ends: a file of SQLite, and tables in a real PostgreSQL that the session has."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from tests.postgres import PostgresServer

NUMBERS = itertools.count(1)
MakeLedger = Callable[..., Any]


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests of a session that ask for it. What one makes there, it removes."""
    with contextlib.closing(PostgresServer()) as server:
        yield server.start()


@pytest.fixture
def database(shared_postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database of the test's own, with a user whose password is a secret."""
    name = f"test{next(NUMBERS)}"
    with psycopg.connect(shared_postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield shared_postgres.url.replace("/postgres", f"/{name}").replace("orthanc@", "orthanc:pa55Word@")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def make_ledger(
    request: pytest.FixtureRequest, source: Callable[[str], ModuleType], tmp_path: Path
) -> Iterator[MakeLedger]:
    """Open a ledger: `make_ledger("x", tables)`. Another one of the same name is the same, once the first is closed."""
    made: list[Any] = []

    def make(name: str = "x", tables: str = "", **more: Any) -> Any:
        if request.param == "sqlite":
            made.append(source("common.ledger").Ledger(tmp_path / f"{name}.sqlite", tables, **more))
        else:
            where = source("common.database").Database(request.getfixturevalue("database"), "A")
            made.append(source("common.postgres_ledger").PostgresLedger(where, name, tables, **more))
        return made[-1]

    if request.param == "postgresql":
        request.getfixturevalue("database")  # to be removed after the ledgers
    yield make
    for ledger in made:
        ledger.close()
