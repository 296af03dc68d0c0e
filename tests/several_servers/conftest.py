# SPDX-License-Identifier: AGPL-3.0-or-later
"""Several Orthancs on one PostgreSQL and one storage folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.postgres import PostgresServer

StartCluster = Callable[..., list[OrthancServer]]


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that ends after the Orthancs of the test."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def start_cluster(postgres: PostgresServer, start_orthanc: StartOrthanc, tmp_path: Path) -> StartCluster:
    """Start so many Orthancs more on the test's database: `start_cluster(2, script, configuration)`.

    In values of the configuration, `${HOSTNAME}` is the name of each: `A`, `B`, …
    """
    names = iter("ABCDEFGH")

    def start(number: int, script: Path | None, configuration: dict[str, Any]) -> list[OrthancServer]:
        found = []
        for _ in range(number):
            name = next(names)
            whole = {**postgres.as_index(tmp_path / "storage"), **configuration}
            # One after the other: the first makes the tables.
            found.append(start_orthanc(script, whole, aet=name, environment={"HOSTNAME": name}))
        return found

    return start
