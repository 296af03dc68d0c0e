# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/brokers/webhook.py: edit that, never this file.
"""A webhook: each event is the body of a POST, signed, to one address that nothing can change."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from ..broker_settings import WebhookConfig
from ..events import Event, Form
from . import BrokerAwayError, BrokerUnusableError, Outcome, Submitted, ThreadedBroker

FINAL = {400, 409, 410, 413, 414, 415, 422, 431}  # this event will never be taken
# Nothing is taken now, or not from us: all wait. A redirect would lead elsewhere than the configuration says.
AWAY = {301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 408, 425, 429, 502, 503, 504}
POSTS_AT_A_TIME = 4  # each over a connection of its own
IDLE_CONNECTION_SECONDS = 4.0  # after which a kept connection is not trusted any more


class Webhook(ThreadedBroker):
    """A few threads, each with a connection of its own."""

    away = (OSError, http.client.HTTPException)

    def __init__(self, form: Form, config: WebhookConfig) -> None:
        super().__init__(form)
        self._config = config
        self.most_under_way = self.threads = POSTS_AT_A_TIME
        address = urllib.parse.urlsplit(config.url)
        self._user = f"{address.username or ''}:{address.password or ''}" if "@" in address.netloc else ""
        self._https, self._host, self._port = address.scheme.lower() == "https", address.hostname or "", address.port
        self._path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._context: ssl.SSLContext | None = None
        self._local = threading.local()

    def open(self) -> None:
        if self._https:
            try:
                self._context = ssl.create_default_context(cafile=self._config.ca_certificate)
            except (OSError, ssl.SSLError) as error:
                raise BrokerUnusableError(
                    f"CACertificate {self._config.ca_certificate} can't be read: {error}"
                ) from None
        self.start_threads()

    def call(self, events: list[Submitted]) -> list[Outcome]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        elif time.monotonic() - self._local.used > IDLE_CONNECTION_SECONDS:
            connection.close()
        outcomes = [self._post(connection, *each) for each in events]
        self._local.used = time.monotonic()
        return outcomes

    def end_call(self) -> None:
        if connection := getattr(self._local, "connection", None):
            connection.close()
            self._local.connection = None

    def _connect(self) -> http.client.HTTPConnection:
        if self._https:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._config.timeout, context=self._context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._config.timeout)

    def _post(
        self, connection: http.client.HTTPConnection, event: Event, message: tuple[bytes, dict[str, str]]
    ) -> Outcome:
        if connection.sock is None:
            try:
                connection.connect()
            except Exception as error:  # noqa: BLE001 - also a name that is none (UnicodeError): no event is at fault
                raise BrokerAwayError(f"{type(error).__name__}: {error}") from None
        content, headers = message
        connection.request("POST", self._path, content, {**headers, **self._signature(content)})
        response = connection.getresponse()
        response.read(65536)
        if not response.isclosed():
            connection.close()
        if 200 <= response.status < 300:
            return Outcome(event.row)
        said = f"HTTP {response.status} {response.reason}"
        if response.status in AWAY:
            raise BrokerAwayError(said)
        return Outcome(event.row, said, final=response.status in FINAL)

    def message(self, event: Event) -> tuple[bytes, dict[str, str]]:
        own = {str(name): str(value) for name, value in self._config.headers.items()}
        own |= {"User-Agent": "orthanc-dicom-events"}
        if self._user:
            user = base64.b64encode(urllib.parse.unquote_to_bytes(self._user)).decode()
            own = {"Authorization": f"Basic {user}", **own}
        message = self.form.message(event)
        return message.body, {**own, "Content-Type": message.mime, **message.headers}

    def _signature(self, content: bytes) -> dict[str, str]:
        """Return the signature over the time and the body, so that what was overheard can't be sent again later."""
        if not self._config.secret:
            return {}
        now = str(int(time.time()))
        digest = hmac.new(self._config.secret.encode(), now.encode() + b"." + content, hashlib.sha256).hexdigest()
        return {"X-DicomEvents-Timestamp": now, "X-DicomEvents-Signature": f"sha256={digest}"}


def make(form: Form, config: WebhookConfig, _folder: Path, _say: Callable[[str, str], None]) -> Webhook:
    return Webhook(form, config)
