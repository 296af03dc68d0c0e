# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/ledger.py: what waits is not given up because somebody has set the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes import Clock

HOURS = 3600.0


@pytest.fixture
def ledger(source: Any, clock: Clock, tmp_path: Path) -> Any:
    return source("common.ledger").Ledger(tmp_path / "x.sqlite")


@pytest.fixture
def retry(source: Any) -> Any:
    return source("common.retry").Retry()  # 72 hours


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_a_clock_that_was_wrong_at_the_start_gives_nothing_up(
    ledger: Any, retry: Any, clock: Clock, is_looked_at: bool
) -> None:
    """As after a power failure: a machine begins in 1970, and its destinations are not there yet."""
    row = ledger.add("PACS", "a1", {})
    clock.jump(5e8)
    if is_looked_at:
        ledger.tidy()
    assert ledger.fail(row, "away", retry) == "waiting"
    clock.advance(71 * HOURS)
    assert ledger.fail(row, "away", retry) == "waiting"
    clock.advance(2 * HOURS)
    assert ledger.fail(row, "away", retry) == "dead"


def test_a_clock_that_was_ahead_does_not_keep_it_for_ever(ledger: Any, retry: Any, clock: Clock) -> None:
    before = ledger.add("PACS", "a1", {})
    clock.jump(5e8)
    ledger.tidy()
    after = ledger.add("PACS", "b2", {})
    clock.jump(-5e8)
    ledger.tidy()
    clock.advance(71 * HOURS)
    assert [ledger.fail(row, "away", retry) for row in (before, after)] == ["waiting"] * 2
    clock.advance(2 * HOURS)
    assert [ledger.fail(row, "away", retry) for row in (before, after)] == ["dead"] * 2


def test_what_came_after_it_was_set_is_not_from_the_future(ledger: Any, retry: Any, clock: Clock) -> None:
    clock.jump(5e8)
    row = ledger.add("PACS", "a1", {})
    ledger.tidy()
    clock.advance(73 * HOURS)
    assert ledger.fail(row, "away", retry) == "dead"


def test_time_that_passes_counts(ledger: Any, retry: Any, clock: Clock) -> None:
    row = ledger.add("PACS", "a1", {})
    for _ in range(73):
        clock.advance(HOURS)
        ledger.tidy()
    assert ledger.fail(row, "away", retry) == "dead"
