# SPDX-License-Identifier: AGPL-3.0-or-later
"""RabbitMQ: a durable topic exchange, persistent messages, many unconfirmed at a time."""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]

from ..broker_settings import RabbitConfig
from ..events import Event, Form
from . import Broker, BrokerAwayError, BrokerUnusableError, Outcome, Submitted, failure

CONNECT_WITHIN = 10.0  # seconds
CLOSE_WITHIN = 0.5
PRECONDITION_FAILED = 406  # AMQP 0-9-1, 1.2: what RabbitMQ says to a message that is too large


class Rabbit(Broker):
    """One connection whose loop runs in the publisher's thread, while that waits for confirmations."""

    most_under_way = 2000

    def __init__(self, form: Form, config: RabbitConfig, say: Callable[[str, str], None]) -> None:
        super().__init__(form)
        self._config, self._say = config, say
        self._loop = IOLoop()
        self._connection: Any = None
        self._channel: Any = None
        self._unconfirmed: OrderedDict[int, Submitted] = OrderedDict()
        self._alone: deque[Submitted] = deque()  # to be sent one by one: one of them made the server close the channel
        self._outcomes: list[Outcome] = []
        self._next_tag, self._stop_waiting = 1, False
        self._lost: str | None = None
        self._ready = self._blocked = False
        self._returned = 0

    # Connecting

    def open(self) -> None:
        urls, errors = [self._config.url, *self._config.more_urls], []
        self._loop.activate_poller()
        for url in urls:
            self._lost, self._ready = None, False
            try:
                parameters = self._parameters(url)
            except (ssl.SSLError, OSError, ValueError, IndexError) as error:
                raise BrokerUnusableError(
                    f"RabbitConfig.URL, CACertificate, Certificate or CertificateKey can't be used: {error}"
                ) from None
            self._connection = pika.SelectConnection(
                parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=lambda _connection, error: self._on_lost(error),
                on_close_callback=lambda _connection, error: self._on_lost(error),
                custom_ioloop=self._loop,
            )
            until = time.monotonic() + CONNECT_WITHIN
            while not self._ready and self._lost is None and time.monotonic() < until:
                self._run(until - time.monotonic(), lambda: self._ready or self._lost is not None)
            if self._ready:
                return
            errors.append(self._lost or f"no answer within {CONNECT_WITHIN:.0f} s")
        raise BrokerAwayError("; ".join(errors))

    def _parameters(self, url: str) -> pika.URLParameters:
        parameters = pika.URLParameters(url)
        if "heartbeat=" not in url:
            parameters.heartbeat = self._config.heartbeat
        parameters.socket_timeout = parameters.stack_timeout = CONNECT_WITHIN
        if parameters.ssl_options is not None:
            context = ssl.create_default_context(cafile=self._config.ca_certificate)
            if self._config.certificate:
                context.load_cert_chain(self._config.certificate, self._config.certificate_key)
            parameters.ssl_options = pika.SSLOptions(context, parameters.host)
        return parameters

    def _on_open(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(lambda *_: self._on_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._on_blocked(False))
        self._open_channel()

    def _open_channel(self) -> None:
        self._connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel, self._next_tag = channel, 1
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirmation, callback=self._declare)

    def _declare(self, _frame: Any) -> None:
        kind: dict[str, Any] = (
            {"passive": True} if self._config.passive else {"exchange_type": "topic", "durable": True}
        )
        self._channel.exchange_declare(self._config.exchange, callback=self._on_declared, **kind)

    def _on_declared(self, _frame: Any) -> None:
        self._ready = True

    # Publishing

    def message(self, event: Event) -> tuple[bytes, pika.BasicProperties]:
        """Content and properties."""
        found = self.form.message(event, "cloudEvents_")
        headers: dict[str, Any] = dict(found.headers)
        if headers:  # AMQP has a type of its own for a time
            headers["cloudEvents_time"] = event.milliseconds
        return found.body, pika.BasicProperties(
            content_type=found.mime,
            headers=headers or None,
            delivery_mode=2,
            message_id=event.id[:255],
            type=event.type[:255],
            timestamp=int(event.time),
        )

    def submit(self, event: Event, message: tuple[bytes, pika.BasicProperties]) -> None:
        if self._alone or not self._ready:
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

    def collect(self, seconds: float) -> list[Outcome]:
        self._run(seconds, lambda: bool(self._outcomes) or self._lost is not None)
        if self._lost is not None:
            raise BrokerAwayError(self._lost)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _run(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Run the loop until there is enough, or `wake` is called, or the time is over; once at least."""
        timer = self._loop.call_later(seconds, self._on_time)
        self._stop_waiting = False
        while True:
            self._loop.poll()
            self._loop.process_timeouts()
            if enough() or self._stop_waiting:
                break
        self._loop.remove_timeout(timer)

    def _on_time(self) -> None:
        self._stop_waiting = True

    def wake(self) -> None:
        self._loop.add_callback_threadsafe(self._on_time)

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
                self._outcomes.append(Outcome(found[0].row, error))
        self._send_next_alone()

    # What goes wrong

    def _on_return(self, _channel: Any, method: Any, _properties: Any, _body: Any) -> None:
        self._returned += 1
        if self._returned == 1:
            self._say(
                "warning",
                f"dicom_events: nobody has a queue for {method.routing_key} at the exchange {self._config.exchange}: such "
                "events are counted as Returned in the status, and are not kept",
            )

    def _on_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        self._say(
            "warning",
            f"dicom_events: RabbitMQ {'takes nothing, it lacks memory or disk' if blocked else 'takes events again'}",
        )

    def _on_lost(self, error: Any) -> None:
        while inner := getattr(error, "exceptions", None) or getattr(error, "exception", None):
            error = inner[-1] if isinstance(inner, tuple) else inner  # pika says what failed, its cause says why
        self._lost = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)

    def _on_channel_closed(self, _channel: Any, reason: Any) -> None:
        code = getattr(reason, "reply_code", 0)
        if code != PRECONDITION_FAILED or not self._ready:
            self._on_lost(reason)
            return
        self._ready = False
        waiting = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        if len(waiting) == 1:
            self._outcomes.append(Outcome(waiting[0][0].row, str(reason), final=True))
        else:
            self._alone.extendleft(reversed(waiting))
        self._loop.call_later(0, self._reopen)

    def _reopen(self) -> None:
        if self._lost is None:
            self._connection.channel(on_open_callback=self._on_channel_again)

    def _on_channel_again(self, channel: Any) -> None:
        self._on_channel(channel)
        self._ready = True
        self._send_next_alone()

    def _send_next_alone(self) -> None:
        while self._alone and not self._unconfirmed and self._ready:  # more than one, if it can't be sent
            self._publish(*self._alone.popleft())

    def details(self) -> dict[str, Any]:
        return {"Returned": self._returned, "Blocked": self._blocked}

    def close(self) -> None:
        if (
            self._connection
            and not (self._connection.is_closed or self._connection.is_closing)
            and self._connection.is_open
        ):
            self._connection.close()
            self._run(CLOSE_WITHIN, lambda: self._connection.is_closed)
        self._loop.deactivate_poller()
        self._loop.close()


def make(form: Form, config: RabbitConfig, _folder: Path, say: Callable[[str, str], None]) -> Rabbit:
    return Rabbit(form, config, say)
