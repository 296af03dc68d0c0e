# SPDX-License-Identifier: AGPL-3.0-or-later
"""RabbitMQ: a durable topic exchange, persistent messages, many unconfirmed at a time."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]

from ..broker_settings import RabbitConfig
from ..events import Event, Form
from . import Broker, BrokerAwayError, Outcome, Submitted, failure
from .rabbit_connection import RabbitConnection

PRECONDITION_FAILED = 406  # AMQP 0-9-1, 1.2: what RabbitMQ says to a message that is too large


class Rabbit(Broker):
    """Publishes over one channel at a time; a message for which the server closes it is sent alone over the next one."""

    most_under_way = 2000

    def __init__(self, form: Form, config: RabbitConfig, say: Callable[[str, str], None]) -> None:
        super().__init__(form)
        self._config, self._say = config, say
        self._connection = RabbitConnection(config, say, self._on_channel)
        self._channel: Any = None
        self._unconfirmed: OrderedDict[int, Submitted] = OrderedDict()
        self._alone: deque[Submitted] = deque()  # to be sent one by one: one of them made the server close the channel
        self._outcomes: list[Outcome] = []
        self._next_tag = 1
        self._returned: set[str] = set()  # of messages that have come back, and are not confirmed yet

    def open(self) -> None:
        self._connection.open()

    def close(self) -> None:
        self._connection.close()

    def wake(self) -> None:
        self._connection.wake()

    def details(self) -> dict[str, Any]:
        return {"Blocked": self._connection.is_blocked}

    # Publishing

    def message(self, event: Event) -> tuple[bytes, pika.BasicProperties]:
        """Return content and properties."""
        found = self.form.message(event, "cloudEvents_")
        headers: dict[str, Any] = dict(found.headers)
        if headers:  # AMQP has a type of its own for a time
            headers["cloudEvents_time"] = event.milliseconds
        return found.body, pika.BasicProperties(
            content_type=found.mime,
            headers=headers or None,
            delivery_mode=2,
            message_id=_message_id(event),
            type=event.type[:255],
            timestamp=int(event.time),
        )

    def submit(self, event: Event, message: tuple[bytes, pika.BasicProperties]) -> None:
        if self._alone or not self._connection.is_ready:
            self._alone.append((event, message))
        else:
            self._publish(event, message)

    def _publish(self, event: Event, message: tuple[bytes, pika.BasicProperties]) -> None:
        """Publish; what can't be written as AMQP has it (a routing key that is too long) is the failure of this event."""
        try:
            self._channel.basic_publish(self._config.exchange, event.type, *message, mandatory=True)
        except Exception as error:  # noqa: BLE001 - pika checks what it is given by assertions, struct and codecs
            if not self._channel.is_open:
                raise BrokerAwayError(f"{type(error).__name__}: {error}") from None
            self._outcomes.append(failure(event, error))
            return
        self._unconfirmed[self._next_tag] = event, message
        self._next_tag += 1

    def _send_next_alone(self) -> None:
        while self._alone and not self._unconfirmed and self._connection.is_ready:  # more than one, if it can't be sent
            self._publish(*self._alone.popleft())

    def collect(self, seconds: float) -> list[Outcome]:
        self._connection.run(seconds, lambda: bool(self._outcomes) or self._connection.lost is not None)
        if self._connection.lost is not None:
            raise BrokerAwayError(self._connection.lost)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    # What pika calls

    def _on_channel(self, channel: Any) -> None:
        self._channel, self._next_tag = channel, 1
        self._returned.clear()
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirmation, callback=self._declare)

    def _on_channel_again(self, channel: Any) -> None:
        self._on_channel(channel)
        self._connection.is_ready = True
        self._send_next_alone()

    def _declare(self, _frame: Any) -> None:
        kind: dict[str, Any] = (
            {"passive": True} if self._config.passive else {"exchange_type": "topic", "durable": True}
        )
        self._channel.exchange_declare(self._config.exchange, callback=self._on_declared, **kind)

    def _on_declared(self, _frame: Any) -> None:
        self._connection.is_ready = True

    def _on_confirmation(self, frame: Any) -> None:
        method = frame.method
        if method.multiple:
            tags = []
            for tag in self._unconfirmed:
                if tag > method.delivery_tag:
                    break
                tags.append(tag)
        else:
            tags = [method.delivery_tag]
        error = None if method.NAME == "Basic.Ack" else "RabbitMQ could not keep it (basic.nack)"
        for tag in tags:
            if found := self._unconfirmed.pop(tag, None):
                self._outcomes.append(self._outcome(found[0], error))
        self._send_next_alone()

    def _outcome(self, event: Event, error: str | None) -> Outcome:
        if _message_id(event) not in self._returned:
            return Outcome(event.row, error)
        self._returned.discard(_message_id(event))
        return Outcome(event.row, f"nobody has a queue for {event.type}", unroutable=True)

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: Any) -> None:
        # It comes before the confirmation of the same message, without its number. Of one id one message is under way, as
        # of one key.
        self._returned.add(properties.message_id)

    def _on_channel_closed(self, _channel: Any, reason: Any) -> None:
        code = getattr(reason, "reply_code", 0)
        if code != PRECONDITION_FAILED or not self._connection.is_ready:
            self._connection.on_lost(reason)
            return
        waiting = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        if len(waiting) == 1:
            self._outcomes.append(Outcome(waiting[0][0].row, str(reason), final=True))
        else:
            self._alone.extendleft(reversed(waiting))
        self._connection.reopen_channel(self._on_channel_again)


def _message_id(event: Event) -> str:
    return event.id[:255]


def make(form: Form, config: RabbitConfig, _folder: Path, say: Callable[[str, str], None]) -> Rabbit:
    return Rabbit(form, config, say)
