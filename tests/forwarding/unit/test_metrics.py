# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/metrics.py: which destinations are away, and for how long; how much goes out."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.fakes import Clock

Source = Callable[[str], ModuleType]


class Rows:
    """A ledger of numbers."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}

    def totals(self) -> dict[str, int]:
        return {"waiting": sum(self.waiting.values()), "done": 2}

    def queues(self, state: str) -> dict[str, int]:
        assert state == "waiting"
        return self.waiting

    def rows(self, *_: Any) -> list[Any]:
        return []


def health(name: str, seconds: float) -> Any:
    return SimpleNamespace(name=name, away=seconds > 0, away_seconds=lambda: seconds)


def test_a_destination_is_away_while_something_waits_for_it(source: Source) -> None:
    rows = Rows()
    every = [health("A", 100.0), health("B", 900.0), health("C", 0.0)]
    destinations = SimpleNamespace(all_health=lambda: every, missing=["D"])
    metrics = source("forwarding.metrics").Metrics(rows, destinations)

    def away() -> tuple[float, float]:
        found = metrics.measure()
        return found["destinations_away"], found["destinations_away_seconds"]

    assert away() == (0, 0.0)  # B may be gone for good: nobody misses it
    rows.waiting = {"A": 1, "C": 1}
    assert away() == (1, 100.0)
    rows.waiting = {"A": 1, "B": 2}
    assert away() == (2, 900.0)
    rows.waiting = {"D": 2}  # the configuration names it, and Orthanc does not know it
    assert away() == (1, 0.0)


def test_the_rate_is_of_what_was_delivered_since_the_measurement_before(source: Source, clock: Clock) -> None:
    metrics = source("forwarding.metrics").Metrics(Rows(), SimpleNamespace(all_health=list, missing=[]))
    metrics.add_delivered(10)
    clock.ticks += 5
    assert metrics.measure()["instances_per_second"] == pytest.approx(2.0)
    clock.ticks += 5
    assert metrics.measure()["instances_per_second"] == 0


def test_how_long_one_is_away_begins_at_its_first_failure(source: Source, clock: Clock) -> None:
    made = source("forwarding.destinations").Destination(
        "A", lambda _: None, SimpleNamespace(set=lambda: None), 1.0, 60.0
    )
    assert made.away_seconds() == 0
    made.failed("refused")
    clock.ticks += 60
    made.failed("refused again")
    clock.ticks += 60
    assert made.away_seconds() == pytest.approx(120)
    made.succeeded()
    assert made.away_seconds() == 0
