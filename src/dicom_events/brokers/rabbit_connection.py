# SPDX-License-Identifier: AGPL-3.0-or-later
"""A connection to RabbitMQ whose loop runs in the publisher's thread, while that waits for confirmations."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import pika  # type: ignore[import-untyped]
from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]

from ..broker_settings import RabbitConfig
from . import BrokerAwayError, BrokerUnusableError

CONNECT_WITHIN_SECONDS = 10.0
CLOSE_WITHIN_SECONDS = 0.5
SAY_BLOCKED_EVERY_SECONDS = 60.0
HEARTBEAT_SECONDS = 30  # between two, unless the URL says another number


class RabbitConnection:
    """One connection. `on_channel` is called with each channel that is open; it sets `is_ready` when that can be used."""

    def __init__(
        self, config: RabbitConfig, say: Callable[[str, str], None], on_channel: Callable[[Any], None]
    ) -> None:
        self._config, self._say, self._on_channel = config, say, on_channel
        self._loop = IOLoop()
        self._connection: Any = None
        self._stop_waiting = False
        self.lost: str | None = None
        """Why it is lost, or None."""
        self.is_ready = self.is_blocked = self._says_blocked = False
        self._say_blocked_at = 0.0

    def open(self) -> None:
        """Connect to the first node that answers. Raises `BrokerAwayError`, or `BrokerUnusableError`."""
        urls, errors = [self._config.url, *self._config.more_urls], []
        self._loop.activate_poller()
        for url in urls:
            self.lost, self.is_ready = None, False
            try:
                parameters = self._parameters(url)
            except (ssl.SSLError, OSError, ValueError, IndexError) as error:
                raise BrokerUnusableError(
                    f"RabbitConfig.URL, CACertificate, Certificate or CertificateKey can't be used: {error}"
                ) from None
            self._connection = pika.SelectConnection(
                parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=lambda _connection, error: self.on_lost(error),
                on_close_callback=lambda _connection, error: self.on_lost(error),
                custom_ioloop=self._loop,
            )
            until = time.monotonic() + CONNECT_WITHIN_SECONDS
            while not self.is_ready and self.lost is None and time.monotonic() < until:
                self.run(until - time.monotonic(), lambda: self.is_ready or self.lost is not None)
            if self.is_ready:
                return
            errors.append(self.lost or f"no answer within {CONNECT_WITHIN_SECONDS:.0f} s")
        raise BrokerAwayError("; ".join(errors))

    def _parameters(self, url: str) -> pika.URLParameters:
        parameters = pika.URLParameters(url)
        if "heartbeat=" not in url:
            parameters.heartbeat = HEARTBEAT_SECONDS
        parameters.socket_timeout = parameters.stack_timeout = CONNECT_WITHIN_SECONDS
        if parameters.ssl_options is not None:
            context = ssl.create_default_context(cafile=self._config.ca_certificate)
            if self._config.certificate:
                context.load_cert_chain(self._config.certificate, self._config.certificate_key)
            parameters.ssl_options = pika.SSLOptions(context, parameters.host)
        return parameters

    def _on_open(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(lambda *_: self._on_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._on_blocked(False))
        self._connection.channel(on_open_callback=self._on_channel)

    def reopen_channel(self, on_channel: Callable[[Any], None]) -> None:
        """Open another channel, as soon as the loop runs again."""
        self.is_ready = False

        def reopen() -> None:
            if self.lost is None:
                self._connection.channel(on_open_callback=on_channel)

        self._loop.call_later(0, reopen)

    def _on_blocked(self, blocked: bool) -> None:
        """Log when it begins, at most once a minute, and when it is over: a server at its limit goes to and fro."""
        self.is_blocked = blocked
        if blocked and time.monotonic() >= self._say_blocked_at:
            self._says_blocked, self._say_blocked_at = True, time.monotonic() + SAY_BLOCKED_EVERY_SECONDS
            self._say("warning", "dicom_events: RabbitMQ takes nothing, it lacks memory or disk")
        elif not blocked and self._says_blocked:
            self._says_blocked = False
            self._say("warning", "dicom_events: RabbitMQ takes events again")

    def on_lost(self, error: Any) -> None:
        """Note why the connection can't be used any more."""
        while inner := getattr(error, "exceptions", None) or getattr(error, "exception", None):
            error = inner[-1] if isinstance(inner, tuple) else inner  # pika says what failed, its cause says why
        self.lost = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)

    def run(self, seconds: float, enough: Callable[[], bool]) -> None:
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
        """End a `run`; called by any thread."""
        self._loop.add_callback_threadsafe(self._on_time)

    def close(self) -> None:
        """Close the connection, within a moment, and the loop."""
        connection = self._connection
        if connection and not (connection.is_closed or connection.is_closing) and connection.is_open:
            connection.close()
            self.run(CLOSE_WITHIN_SECONDS, lambda: bool(connection.is_closed))
        self._loop.deactivate_poller()
        self._loop.close()
