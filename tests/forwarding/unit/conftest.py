# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests of forwarding/ without a server share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script
from tests.forwarding.unit.fake_forwarding import Forwarding


@pytest.fixture
def forwarding(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Forwarding:
    return Forwarding(start, rest, clock, orthanc_standin)


# What is sent
