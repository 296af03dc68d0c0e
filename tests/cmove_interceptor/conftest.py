# SPDX-License-Identifier: AGPL-3.0-or-later
"""A destination and a service for each test, or for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cmove_interceptor.helpers import Destination, Service


@pytest.fixture
def destination() -> Iterator[Destination]:
    node = Destination("DEST")
    yield node
    node.close()


@pytest.fixture(scope="module")
def shared_destination() -> Iterator[Destination]:
    node = Destination("DEST")
    yield node
    node.close()


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.close()
