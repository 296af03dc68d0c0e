# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kafka, by librdkafka: idempotent, acknowledged by all replicas, one partition for each study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from ..broker_settings import KafkaConfig
from ..events import Event, Form
from . import Broker, BrokerAwayError, BrokerUnusableError, Outcome

CONNECT_WITHIN_SECONDS = 10.0
DELIVER_WITHIN_SECONDS = 30.0  # until the producer gives up; then all begins again
FINAL = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
}


class Kafka(Broker):
    """A producer; its answers come in `poll`, which the publisher's thread calls."""

    most_under_way = 2000

    def __init__(self, form: Form, config: KafkaConfig) -> None:
        super().__init__(form)
        self._config = config
        self._producer: Any = None
        self._outcomes: list[Outcome] = []
        self._lost: str | None = None
        self._under_way = 0

    def open(self) -> None:
        settings = {
            "client.id": "orthanc",
            "linger.ms": 5,
            "message.timeout.ms": int(DELIVER_WITHIN_SECONDS * 1000),
            "log_level": 0,
            **self._config.options,
            "bootstrap.servers": self._config.bootstrap_servers,
            "enable.idempotence": True,
            "acks": "all",
            "error_cb": self._on_error,
        }
        try:
            self._producer = Producer(settings)
            self._producer.list_topics(self._config.topic, timeout=CONNECT_WITHIN_SECONDS)
        except KafkaException as error:
            if self._producer is None:
                raise BrokerUnusableError(f"Options: {error.args[0].str()}") from None
            raise BrokerAwayError(error.args[0].str()) from None
        except (TypeError, ValueError) as error:
            raise BrokerUnusableError(f"Options: {error}") from None
        self._lost = None

    def _on_error(self, error: Any) -> None:
        if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._lost = error.str()

    def message(self, event: Event) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        """Return content, key and headers."""
        found = self.form.message(event, "ce_")
        headers = {"content-type": found.mime, **found.headers}
        return found.body, event.study.encode(), [(name, value.encode()) for name, value in headers.items()]

    def submit(self, event: Event, message: tuple[bytes, bytes, list[tuple[str, bytes]]]) -> None:
        content, key, headers = message

        def on_delivery(error: Any, _message: Any) -> None:
            self._under_way -= 1
            if error is None:
                self._outcomes.append(Outcome(event.row))
            elif error.code() in FINAL:
                self._outcomes.append(Outcome(event.row, error.str(), final=True))
            else:
                self._lost = error.str()

        try:
            self._producer.produce(
                self._config.topic,
                content,
                key=key,
                headers=headers,
                timestamp=int(event.time * 1000),
                on_delivery=on_delivery,
            )
            self._under_way += 1
        except BufferError:
            self._lost = "librdkafka's queue is full"
        except KafkaException as error:
            if error.args[0].code() not in FINAL:
                raise BrokerAwayError(error.args[0].str()) from None
            self._outcomes.append(Outcome(event.row, error.args[0].str(), final=True))

    def collect(self, seconds: float) -> list[Outcome]:
        if self._under_way and not self._outcomes:
            self._producer.poll(seconds)
        elif not self._outcomes:
            self._producer.poll(0)
            self._woken.wait(seconds)
            self._woken.clear()
        outcomes, self._outcomes = self._outcomes, []
        if self._lost and not outcomes:
            raise BrokerAwayError(self._lost)
        return outcomes

    def close(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer.poll(0)


def make(form: Form, config: KafkaConfig, _folder: Path, _say: Callable[[str, str], None]) -> Kafka:
    return Kafka(form, config)
