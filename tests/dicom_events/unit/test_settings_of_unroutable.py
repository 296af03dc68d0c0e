# SPDX-License-Identifier: AGPL-3.0-or-later
"""The keys about what nobody has a queue for, and the days and times of a replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc, Script, eventually

RABBIT = {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://h/"}}


@pytest.mark.parametrize(
    ("broker", "complaint"),
    [
        ({**RABBIT, "Unroutable": "keep", "UnroutableGraceSeconds": 0}, ""),
        ({**RABBIT, "Unroutable": None}, ""),
        ({**RABBIT, "Unroutable": "hold"}, 'DicomEvents.Broker.Unroutable: found "hold", allowed: '),
        ({**RABBIT, "UnroutableGraceSeconds": -1}, "DicomEvents.Broker.UnroutableGraceSeconds: found -1, allowed: "),
        ({"Type": "file", "Unroutable": "drop"}, "found Unroutable, allowed: only with Type rabbitmq"),
        ({"Type": "log", "UnroutableGraceSeconds": 5}, "found UnroutableGraceSeconds, allowed: only with Type"),
    ],
)
def test_the_keys_are_checked_and_are_of_the_brokers_that_return_events(
    source: Any, broker: dict[str, Any], complaint: str
) -> None:
    [named] = source("dicom_events.named").read_brokers(source("dicom_events.settings").Settings(broker=broker))
    assert complaint in named.complaint
    assert bool(complaint) == bool(named.complaint)


def test_a_message_that_comes_back_is_the_one_that_is_confirmed_next(source: Any) -> None:
    config = source("dicom_events.broker_settings").RabbitConfig(url="amqp://h/")
    rabbit = source("dicom_events.brokers.rabbitmq").Rabbit(None, config, None)
    event = source("dicom_events.events").Event
    for tag in (1, 2, 3):
        rabbit._unconfirmed[tag] = event(10 + tag, f"id-{tag}", "org.test", "k", "s", 0.0, "{}"), None
    rabbit._on_return(None, None, SimpleNamespace(message_id="id-2"), b"")
    rabbit._on_confirmation(SimpleNamespace(method=SimpleNamespace(NAME="Basic.Ack", delivery_tag=3, multiple=True)))
    assert [(each.row, each.unroutable) for each in rabbit._outcomes] == [(11, False), (12, True), (13, False)]
    rabbit._connection.close()


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("20260131", "20260201"),
        ("2026-01-31", "2026-02-01"),
        ("2026-01-31T01:00:00+01:00", "2026-02-01T00:00:00.000Z"),
    ],
)
def test_a_replay_takes_days_and_times(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, first: str, last: str
) -> None:
    script = start("dicom_events", {"DicomEvents": {"Broker": {"Type": "log"}}})
    service: Any = vars(script.module)["_service"]
    eventually(lambda: service._pipeline)
    asked: list[Any] = []

    def changed_between(*between: datetime) -> list[str]:
        asked.extend(each.astimezone(UTC) for each in between)
        return ["s"]

    service._pipeline.maintainer.replay = SimpleNamespace(
        changed_between=changed_between, start=lambda _: None, join=lambda _: None
    )
    answer = orthanc_standin.http("POST", "/dicom-events/replay", body=json.dumps({"From": first, "To": last}))
    assert (answer.status, answer.json()) == (202, {"Studies": 1})
    assert asked == [datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)]
    script.change("ORTHANC_STOPPED")
    service._pipeline.close()
