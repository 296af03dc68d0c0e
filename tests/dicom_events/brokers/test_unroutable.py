# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with a real RabbitMQ whose consumers' queues go with their connection, as it restarts."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.brokers import RabbitServer
from tests.dicom_events.brokers.helpers import RabbitConsumer, brokers_of, over_rabbit
from tests.dicom_events.helpers import SCRIPT, of_type

COMES_BACK_AFTER_SECONDS = 3.0  # longer than Orthanc needs
RESTARTS = 2
SERIES, IMAGES = 6 * RESTARTS, 60 * RESTARTS


class ExclusiveConsumer(threading.Thread):
    """A consumer whose queue is exclusive and deleted with its connection; it comes back later than Orthanc does."""

    def __init__(self, url: str, exchange: str) -> None:
        super().__init__(daemon=True)
        self._url, self._exchange, self._over = url, exchange, threading.Event()
        self.is_bound, self.events = threading.Event(), list[dict[str, Any]]()
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                self._consume()
            self.is_bound.clear()
            self._over.wait(COMES_BACK_AFTER_SECONDS)

    def _consume(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            channel.exchange_declare(self._exchange, "topic", durable=True)
            queue = channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
            channel.queue_bind(queue, self._exchange, "#")
            self.is_bound.set()
            for method, _properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.2):
                if method is not None:
                    self.events.append(json.loads(body))
                if self._over.is_set():
                    return

    def close(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def restarting(tmp_path: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path / "rabbit")
    try:
        yield server.start()
    finally:
        server.close()


def test_over_restarts_of_the_broker_nothing_is_lost_that_is_kept_and_what_is_not_is_counted(
    start_orthanc: StartOrthanc, restarting: RabbitServer
) -> None:
    typed = RabbitConsumer(restarting, "typed", "dicom.series.stable")
    consumer = ExclusiveConsumer(restarting.url, "kept")
    assert consumer.is_bound.wait(20)
    brokers = {
        "kept": over_rabbit(restarting, "kept", Unroutable="keep", Events=["dicom.instance.*", "dicom.s*"]),
        "typed": over_rabbit(restarting, "typed", Unroutable="keep", Events=["dicom.instance.*", "dicom.series.*"]),
        "dropped": over_rabbit(restarting, "dropped", Unroutable="drop", Events=["dicom.instance.stored"]),
        "grace": over_rabbit(restarting, "grace", UnroutableGraceSeconds=4, Events=["dicom.instance.stored"]),
    }
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Brokers": brokers}, "StableAge": 1})
    for number in range(RESTARTS):
        server.store(make_study(series=2, instances=10, seed=number))
        wait_for_studies(server, consumer, 3 * number + 1)  # what is in its queue goes with the broker
        restarting.stop()
        server.store(make_study(series=2, instances=10, seed=10 + number))
        server.wait_until(lambda: brokers_of(server)["kept"]["State"] == "away")
        restarting.start()
        server.wait_until(lambda: brokers_of(server)["kept"]["State"] == "connected", 60)
        server.store(make_study(series=2, instances=10, seed=20 + number))
        wait_for_studies(server, consumer, 3 * number + 3)
    consumer.close()
    found = brokers_of(server)
    assert (found["kept"]["Returned"], found["kept"]["Unroutable"]) == (0, 0)
    check_order(consumer.events, server.get("/series"))
    assert {event["subject"] for event in of_type(consumer.events, "dicom.study.stable")} == {
        f"studies/{study}" for study in server.get("/studies")
    }
    # What nobody has a queue for holds up no other type of the same series, and comes in order once somebody has.
    assert len(typed.read(SERIES)) == SERIES
    assert brokers_of(server)["typed"]["Unroutable"] == IMAGES
    RabbitConsumer(restarting, "typed")
    both = typed.read(SERIES + IMAGES)
    for series in server.get("/series"):
        mine = [
            event for event in of_type(both, "dicom.instance.stored") if event["data"]["orthanc"]["series"] == series
        ]
        assert [event["data"]["counts"]["instances"] for event in mine] == list(range(1, 11))
    # What was given up is a total, over connections and restarts.
    server.wait_until(lambda: brokers_of(server)["grace"]["Returned"] == IMAGES, 30)
    assert brokers_of(server)["dropped"]["Returned"] == IMAGES
    server.restart()
    server.wait_until(lambda: brokers_of(server)["dropped"]["State"] == "connected")
    server.store(make_study(instances=5, seed=99))
    server.wait_until(lambda: brokers_of(server)["dropped"]["Returned"] == IMAGES + 5)
    assert brokers_of(server)["grace"]["Returned"] == IMAGES
    server.wait_until(lambda: brokers_of(server)["grace"]["Returned"] == IMAGES + 5, 30)
    assert server.log.count("nobody has a queue for dicom.instance.stored at the broker dropped") == 2  # one a process


def wait_for_studies(server: OrthancServer, consumer: ExclusiveConsumer, number: int) -> None:
    """Wait until the consumer has been told that so many studies are stable, and nothing waits for it."""

    def has_all() -> bool:
        found = {event["subject"] for event in of_type(consumer.events, "dicom.study.stable")}
        return len(found) == number and not brokers_of(server)["kept"]["Backlog"]

    server.wait_until(has_all, 90, f"{number} stable studies")


def check_order(events: list[dict[str, Any]], all_series: list[str]) -> None:
    """Each series has its images in order, each the first time that it came, and then that it is stable."""
    assert len(all_series) == SERIES
    for series in all_series:
        mine = [event for event in events if event["data"]["orthanc"].get("series") == series]
        stored = list(dict.fromkeys(event["id"] for event in of_type(mine, "dicom.instance.stored")))
        by_id = {event["id"]: event["data"]["counts"]["instances"] for event in of_type(mine, "dicom.instance.stored")}
        assert [by_id[each] for each in stored] == list(range(1, 11))
        kinds = [event["type"] for event in mine]
        assert "dicom.instance.stored" not in kinds[kinds.index("dicom.series.stable") :]


def test_a_queue_of_one_second_later_gets_what_came_before_it(
    start_orthanc: StartOrthanc, rabbit: RabbitServer
) -> None:
    """Without a word in the configuration: the consumer starts after Orthanc."""
    server = start_orthanc(SCRIPT, {"DicomEvents": {"Broker": over_rabbit(rabbit, "later still")}, "StableAge": 3600})
    server.store(make_study(instances=5))
    server.wait_until(lambda: brokers_of(server)["broker"].get("Unroutable") == 5)
    time.sleep(1)
    consumer = RabbitConsumer(rabbit, "later still")
    assert [event["data"]["counts"]["instances"] for event in consumer.read(5)] == [1, 2, 3, 4, 5]
    assert "State" in server.wait_until(lambda: (found := brokers_of(server)["broker"])["Backlog"] == 0 and found)
    server.wait_for_log("no event waits any more for a queue")
