# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of all tests, with and without a server.

Those that start Orthanc come from `testing.pytest_plugin` (pyproject.toml), as they would for a user's own tests.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.fakes import clock as clock
from tests.fakes import rest as rest
from tests.fakes import source as source
from tests.fakes import source_for_module as source_for_module
from tests.fakes import start as start
from tests.ledgers import database as database
from tests.ledgers import make_ledger as make_ledger
from tests.ledgers import shared_postgres as shared_postgres

# The machines are shared: how long an example takes says nothing. In CI the same examples each time.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("ci", settings.get_profile("shared"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: all else is done beside it, and nobody waits for it at the end."""
    items.sort(key=lambda item: "torture" not in item.path.parts)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key in one PEM file, made out to this machine's own address, as Orthanc wants it."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "-",
        "-addext",
    ]
    made = subprocess.run(
        [*command, "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True, text=True
    )
    path.write_text(made.stdout)
    return path


@pytest.fixture
def start_briefly(start_orthanc: StartOrthanc) -> Iterator[StartOrthanc]:
    """As `start_orthanc`, where how a server ends is not the matter: it is killed, since stopping takes 3.5 s."""
    servers: list[OrthancServer] = []

    def start(*arguments: Any, **more: Any) -> OrthancServer:
        servers.append(start_orthanc(*arguments, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
