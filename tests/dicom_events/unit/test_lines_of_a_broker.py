# SPDX-License-Identifier: AGPL-3.0-or-later
"""A broker that is away is one line of the log when it goes and one when it is back, however it fails meanwhile."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import Clock, eventually


class Publishing:
    """A publisher whose broker takes what it is given, and answers only when `answers` is set."""

    def __init__(self, source: Callable[[str], Any], path: Path) -> None:
        brokers: Any = source("dicom_events.brokers")
        base: Any = brokers.Broker
        named = source("dicom_events.named").Named("b")
        self.said, self.answers, self.connections = list[str](), threading.Event(), 0
        self.outbox = source("dicom_events.outbox").Outbox(
            path, durability="normal", most=10**9, oldest=0, refuse=False
        )
        self.outbox.begin([named])
        publishing = self

        class Silent(base):  # type: ignore[misc]
            def open(self) -> None:
                publishing.connections += 1
                self.asked = 0

            def collect(self, seconds: float) -> list[Any]:
                self.asked += 1
                waiting: list[Any] = self._waiting
                if publishing.answers.is_set() and waiting:
                    self._waiting: list[Any] = []
                    return [brokers.Outcome(event.row) for event, _ in waiting]
                if waiting and self.asked > 2:
                    raise brokers.BrokerAwayError("no answer")
                return []

        form = source("dicom_events.events").Form("structured", "/orthanc")
        publisher = source("dicom_events.publisher").Publisher
        self.publisher = publisher(named, self.outbox, lambda: Silent(form), lambda _, text: self.said.append(text), [])

    def add(self) -> None:
        with self.outbox.transaction():
            self.outbox.add("uid", "org.test", "key", "key", "{}")

    def lines(self) -> list[str]:
        return [line.partition("b is ")[2].split()[0].strip(",") for line in self.said]


@pytest.fixture
def publishing(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publishing]:
    backoff = source("common.backoff").Backoff
    monkeypatch.setattr(source("dicom_events.publisher"), "RECONNECT", backoff(0.001, 0.001))
    made = Publishing(source, tmp_path / "x.sqlite")
    yield made
    made.publisher.stop()
    made.publisher._thread.join(10)
    made.outbox.close()


def test_a_broker_that_takes_requests_and_answers_none_is_away_until_it_answers(publishing: Publishing) -> None:
    publishing.add()
    publishing.publisher.start()
    eventually(lambda: publishing.connections > 20)
    assert publishing.lines() == ["away"]
    assert publishing.publisher.status()["State"] == "away"
    publishing.answers.set()
    eventually(lambda: not publishing.publisher.status()["Backlog"])
    assert publishing.lines() == ["away", "back"]
    assert publishing.publisher.status()["State"] == "connected"


def test_a_broker_that_comes_and_goes_is_a_few_lines_and_the_last_of_them_is_true(source: Any, clock: Clock) -> None:
    said: list[str] = []
    health = source("dicom_events.health").Health("b", lambda _, text: said.append(text), [])
    for _ in range(500):
        health.on_connected()
        clock.advance(0.1)
        health.is_connected = False
        health.on_disconnected("refused", is_ending=False)
        clock.advance(0.5)
    assert len(said) == 10  # five times away and back
    clock.advance(600)
    health.on_disconnected("refused", is_ending=False)
    assert "is away" in said[-1]
    health.on_connected()
    assert "is back" in said[-1]
    for _ in range(20):
        health.is_connected = False
        health.on_disconnected("refused", is_ending=False)
        health.on_connected()
    assert "is back" in said[-1]


@pytest.mark.parametrize("library", ["pika.adapters", "nats", "botocore.x", "urllib3.connectionpool", "asyncio"])
def test_what_a_library_logs_in_our_threads_goes_nowhere_and_in_others_as_ever(
    source: Any, library: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = source("dicom_events.quiet")
    for name in quiet.LIBRARIES:
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    quiet.quiet_libraries()
    log = logging.getLogger(library)
    for name in ("dicom_events rabbit", "event_dispatcher"):
        thread = threading.Thread(target=log.warning, args=("in %s", name), name=name)
        thread.start()
        thread.join()
    assert [record.getMessage() for record in caplog.records] == ["in event_dispatcher"]


def test_a_task_that_a_hung_nats_server_left_behind_is_logged_by_nobody(
    source: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Python tells of it when memory is tidied, in whatever thread that is."""
    loop = source("dicom_events.brokers.jetstream").Loop()

    async def hang() -> None:
        await asyncio.sleep(1000)

    loop.create_task(hang())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    gc.collect()
    assert caplog.records == []
