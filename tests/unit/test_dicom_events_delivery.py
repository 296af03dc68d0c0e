# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which event a broker gets next: order holds for each key, whatever is refused and whenever the process ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.fakes import Clock


class Broker:
    """One delivery, and what it says of it."""

    def __init__(self, source: Callable[[str], ModuleType], path: Path, **settings: Any) -> None:
        self._source, self.said = source, list[str]()
        self.settings = source("dicom_events.broker_settings").BrokerSettings(**settings)
        self.outbox = source("dicom_events.outbox").Outbox(
            path, durability="normal", most=10**9, oldest=0, refuse=False
        )
        self.outbox.begin([source("dicom_events.named").Named("b")])
        self.connect()

    def connect(self, in_order: bool = False) -> None:
        health = self._source("dicom_events.health").Health("b", lambda _, text: self.said.append(text), ["pa55"])
        delivery = self._source("dicom_events.delivery").Delivery
        self.delivery = delivery(self.outbox, "b", self.settings, in_order, health)

    def add(self, *keys: str, kind: str = "org.test") -> None:
        with self.outbox.transaction():
            for key in keys:
                self.outbox.add(f"uid-{key}", kind, key, key, "{}")

    def take(self) -> list[int]:
        """Fill, and return the rows that may be sent now."""
        self.delivery.fill()
        self.delivery.take_letters(now=False)
        return [event.row for event in iter(lambda: self.delivery.next_event(100), None)]

    def end(self, row: int, error: str | None = None, final: bool = False) -> None:
        self.delivery.on_outcome(self._source("dicom_events.brokers").Outcome(row, error, final))


@pytest.fixture
def broker(source: Any, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setattr(source("dicom_events.delivery"), "TRIES_OF_REFUSED", 2)
    made = Broker(source, tmp_path / "x.sqlite")
    yield made
    made.delivery.close()
    made.outbox.close()


def test_of_each_key_one_event_is_under_way(broker: Broker) -> None:
    broker.add("a", "a", "b")
    assert broker.take() == [1, 3]
    broker.end(1)
    assert broker.take() == [2]


def test_a_broker_that_keeps_order_gets_several_of_one_key(broker: Broker) -> None:
    broker.delivery.close()
    broker.connect(in_order=True)
    broker.add("a", "a", "b")
    assert broker.take() == [1, 2, 3]


def test_the_cursor_is_before_the_oldest_event_that_is_not_settled(broker: Broker) -> None:
    broker.add("a", "b", "c")
    broker.take()
    for row in (2, 3):
        broker.end(row)
    broker.delivery.settle(now=True)
    assert broker.outbox.cursor("b") == 0
    broker.end(1)
    broker.delivery.settle(now=True)
    assert broker.outbox.cursor("b") == 3


def test_what_is_not_settled_when_the_broker_is_lost_is_sent_again(broker: Broker) -> None:
    broker.add("a", "b")
    broker.take()
    broker.end(1)
    broker.delivery.close()
    broker.connect()
    assert broker.take() == [2]


def test_behind_a_refused_event_its_key_waits_and_no_other(broker: Broker, clock: Clock) -> None:
    broker.add("a", "a", "b")
    broker.take()
    broker.end(1, "refused, pa55")
    broker.add("a", "b")
    assert broker.take() == []
    broker.end(3)
    assert broker.take() == [5]
    clock.advance(2)
    assert broker.take() == [1]  # the letter; 2 and 4 wait behind it
    broker.end(1)
    assert broker.take() == [2]
    broker.end(2)
    assert broker.take() == [4]


def test_after_its_tries_an_event_is_dead_and_the_next_of_its_key_is_sent(broker: Broker, clock: Clock) -> None:
    broker.add("a", "a")
    broker.take()
    broker.end(1, "refused, pa55")
    clock.advance(2)
    assert broker.take() == [1]
    broker.end(1, "refused, pa55")
    assert broker.outbox.letters.count_dead("b") == 1
    clock.advance(1)
    assert broker.take() == [2]
    assert "refused, ***" in broker.said[-1]


def test_a_refusal_that_is_final_is_dead_at_once(broker: Broker) -> None:
    broker.add("a", "a")
    broker.take()
    broker.end(1, "too large", final=True)
    assert broker.take() == [2]
    assert broker.outbox.letters.count_dead() == 1
    assert broker.outbox.letters.retry_dead() == 1
    broker.end(2)
    broker.delivery.take_letters(now=True)
    assert broker.take() == [1]


def test_events_of_other_types_are_passed_over(source: Any, clock: Clock, tmp_path: Path) -> None:
    made = Broker(source, tmp_path / "y.sqlite", events=("dicom.study.*",))
    made.add("a", kind="dicom.series.new")
    made.add("b", kind="dicom.study.new")
    made.add("c", kind="dicom.series.new")
    assert made.take() == [2]
    made.end(2)
    made.delivery.settle(now=True)
    assert made.outbox.cursor("b") == 3
    made.delivery.close()
    made.outbox.close()
