# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests of forwarding/ without a server share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script
from tests.forwarding.unit.fake_forwarding import Forwarding

# Modules whose tests keep their state in PostgreSQL too; with FORWARDING_DATABASE=1 in the environment, all do so alone.
ON_BOTH = ("test_forwarder", "test_deliveries", "test_jobs", "test_protection", "test_sent_parts")
# Tests that look into the file, or take it away.
OF_FILES = (
    "test_without_a_ledger_it_stays_idle_and_orthanc_runs",
    "test_it_is_on_the_disk_before_it_is_done",
    "test_what_was_planned_when_it_was_killed_is_given_back",
    "test_another_forwarder_that_can_never_say_is_in_the_log_once_and_there_is_no_end_of_looks",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "forwarding" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        kinds = ["sqlite", "postgresql"] if module in ON_BOTH else ["sqlite"]
        kinds = ["postgresql"] if os.environ.get("FORWARDING_DATABASE") else kinds
        metafunc.parametrize(
            "forwarding", ["sqlite"] if metafunc.function.__name__ in OF_FILES else kinds, indirect=True
        )


@pytest.fixture
def forwarding(
    request: pytest.FixtureRequest,
    start: Callable[..., Script],
    rest: FakeOrthanc,
    clock: Clock,
    orthanc_standin: StandIn,
) -> Forwarding:
    where = request.getfixturevalue("database") if request.param == "postgresql" else None
    return Forwarding(start, rest, clock, orthanc_standin, where)


# What is sent
