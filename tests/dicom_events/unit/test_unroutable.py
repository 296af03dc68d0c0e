# SPDX-License-Identifier: AGPL-3.0-or-later
"""What nobody has a queue for: kept in order, tried again without holding up other types, or given up and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dicom_events.unit.test_delivery import Broker
from tests.fakes import Clock

A, B = "org.a", "org.b"


class Queues(Broker):
    """A broker at which somebody has queues for some types; `sent` are the rows that reached one."""

    def __init__(self, source: Any, path: Path, **settings: Any) -> None:
        self.bound, self.sent, self.published = set[str](), list[int](), list[int]()
        super().__init__(source, path, **settings)
        self.outbox.begin([source("dicom_events.named").Named("b", source("dicom_events.broker_settings").BrokerSettings("rabbitmq"))])  # fmt: skip # noqa: E501

    def events(self, *events: tuple[str, str]) -> None:
        for kind, key in events:
            self.add(key, kind=kind)

    def turn(self) -> None:
        """Publish until nothing is left to be published now."""
        outcome = self._source("dicom_events.brokers").Outcome
        self.delivery.fill()
        while True:
            self.delivery.take_letters(now=False)
            batch = list(iter(lambda: self.delivery.next_event(100), None))
            if not batch:
                break
            for event in batch:
                self.published.append(event.row)
                if event.type in self.bound:
                    self.sent.append(event.row)
                    self.delivery.on_outcome(outcome(event.row))
                else:
                    self.delivery.on_outcome(outcome(event.row, "nobody has a queue", unroutable=True))
        self.delivery.settle(now=True)

    def reconnect(self) -> None:
        self.delivery.close()
        self.connect()

    @property
    def totals(self) -> tuple[int, int, int, int]:
        found = self.outbox.totals("b")
        return found["Published"], found["Returned"], found["Unroutable"], found["Backlog"]


@pytest.fixture
def queues(source: Any, clock: Clock, tmp_path: Path) -> Iterator[Queues]:
    made = Queues(source, tmp_path / "x.sqlite", unroutable="keep")
    yield made
    made.delivery.close()
    made.outbox.close()


def test_what_nobody_has_a_queue_for_is_kept_and_holds_up_no_other_type(queues: Queues, clock: Clock) -> None:
    queues.bound = {B}
    queues.events((A, "s"), (B, "s"), (A, "s"), (B, "s"))
    queues.turn()
    assert queues.sent == [2, 4]
    assert queues.totals == (2, 0, 2, 2)
    queues.outbox.retention.tidy()
    queues.bound = {A, B}
    clock.advance(20)
    queues.turn()
    assert queues.sent == [2, 4, 1, 3]
    assert queues.totals == (4, 0, 0, 0)


def test_when_a_queue_is_back_each_series_gets_all_in_order_whatever_type_finds_it_first(
    queues: Queues, clock: Clock
) -> None:
    queues.events((A, "s"), (B, "s"), (A, "t"), (A, "s"), (B, "t"))
    queues.turn()
    assert queues.sent == []
    queues.bound = {A, B}
    queues.events((B, "t"), ("org.new", "s"))
    queues.bound.add("org.new")
    clock.advance(20)
    queues.turn()
    assert [row for row in queues.sent if row in (1, 2, 4, 7)] == [1, 2, 4, 7]
    assert [row for row in queues.sent if row in (3, 5, 6)] == [3, 5, 6]
    assert queues.totals[2:] == (0, 0)


def test_before_an_event_of_another_type_what_is_kept_of_its_series_is_tried(queues: Queues) -> None:
    """The queue is back, and no look was due: the event must not overtake what was kept before it."""
    queues.events((A, "s"), (A, "other"))
    queues.turn()
    queues.bound = {A, B}
    queues.events((B, "s"))
    queues.turn()
    assert queues.sent == [1, 3, 2]


def test_a_type_without_a_queue_is_looked_at_with_one_event_and_ever_later(queues: Queues, clock: Clock) -> None:
    queues.events(*((A, f"s{n % 7}") for n in range(50)))
    queues.turn()
    assert queues.totals == (0, 0, 50, 50)
    del queues.published[:]
    for _ in range(120):
        clock.advance(1)
        queues.turn()
    assert len(set(queues.published)) == 1
    assert 8 <= len(queues.published) <= 30
    queues.events(*((A, f"s{n % 7}") for n in range(50)))
    queues.turn()
    assert queues.totals == (0, 0, 100, 100)
    assert len(queues.published) <= 30
    queues.bound = {A}
    clock.advance(15)
    queues.turn()
    assert sorted(queues.sent) == list(range(1, 101))
    for key in range(7):
        mine = [row for row in queues.sent if (row - 1) % 50 % 7 == key]
        assert mine == sorted(mine)


def test_what_is_kept_survives_a_lost_connection_and_is_tried_at_once(queues: Queues, clock: Clock) -> None:
    queues.events((A, "s"), (B, "s"))
    queues.turn()
    queues.bound = {A, B}
    queues.reconnect()
    queues.events((A, "s"))
    queues.turn()
    assert queues.sent == [1, 2, 3]


def test_without_a_word_it_is_kept_for_the_first_minute_of_a_connection_then_given_up_and_counted(
    source: Any, clock: Clock, tmp_path: Path
) -> None:
    queues = Queues(source, tmp_path / "y.sqlite")
    queues.events((A, "s"), (A, "t"), (B, "t"))
    queues.turn()
    for _ in range(58):
        clock.advance(1)
        queues.turn()
    assert queues.totals == (0, 0, 3, 3)
    queues.bound = {B}
    clock.advance(3)
    queues.turn()
    assert queues.totals == (1, 2, 0, 0)
    queues.events((A, "s"))
    queues.turn()
    assert queues.totals == (1, 3, 0, 0)
    assert sum("not kept" in line for line in queues.said) == 1
    queues.reconnect()
    queues.events((A, "s"))
    queues.turn()
    assert queues.totals == (1, 3, 1, 1)
    queues.delivery.close()
    queues.outbox.close()
    again = Queues(source, tmp_path / "y.sqlite", unroutable="drop")
    again.turn()
    assert again.totals == (1, 4, 0, 0)
    again.delivery.close()
    again.outbox.close()


def test_what_is_kept_waits_behind_an_event_of_its_series_that_the_broker_refuses(queues: Queues, clock: Clock) -> None:
    queues.events((A, "s"), (A, "s"))
    queues.turn()
    queues.bound = {A}
    clock.advance(2)
    [row] = queues.take()
    queues.events((A, "s"))
    queues.end(row, "refused")
    queues.turn()
    assert queues.sent == []
    clock.advance(3)
    queues.turn()
    clock.advance(3)
    queues.turn()
    assert queues.sent == [1, 2, 3]


def test_it_is_logged_when_events_begin_to_be_kept_and_when_none_is_any_more(queues: Queues, clock: Clock) -> None:
    for _ in range(3):
        queues.bound.clear()
        queues.events((A, "s"), (B, "t"))
        queues.turn()
        clock.advance(20)
        queues.turn()
        queues.bound |= {A, B}
        clock.advance(20)
        queues.turn()
    assert [line.partition(" at ")[0] for line in queues.said] == [
        f"dicom_events: nobody has a queue for {A}",
        "dicom_events: no event waits any more for a queue",
    ]
