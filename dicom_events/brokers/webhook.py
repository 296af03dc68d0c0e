# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/brokers/webhook.py: edit that, never this file.
"""A webhook: each event is the body of a POST, signed, to one address that nothing can change."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import requests  # noqa: F401 - for who makes brokers to see whether it is there; `Outside` is what uses it

from .._common.outside import Outside, OutsideError

from ..broker_settings import WebhookConfig
from ..events import Event, Form
from . import BrokerAwayError, BrokerUnusableError, Outcome, Submitted, ThreadedBroker

FINAL = {400, 409, 410, 413, 414, 415, 422, 431}  # this event will never be taken
# Nothing is taken now, or not from us: all wait. A redirect would lead elsewhere than the configuration says.
AWAY = {301, 302, 303, 307, 308, 401, 403, 404, 405, 407, 408, 425, 429, 502, 503, 504}
POSTS_AT_A_TIME = 4  # each over a connection of its own
LARGEST_ANSWER = 65536  # bytes that are read, so that the connection can be kept; only the status counts


class Webhook(ThreadedBroker):
    """A few threads, each with a POST at a time."""

    def __init__(self, form: Form, config: WebhookConfig) -> None:
        super().__init__(form)
        self._config = config
        self.most_under_way = self.threads = POSTS_AT_A_TIME
        address = urllib.parse.urlsplit(config.url)
        self._user = f"{address.username or ''}:{address.password or ''}" if "@" in address.netloc else ""
        self._path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._outside: Outside | None = None

    def open(self) -> None:
        config = self._config
        try:
            self._outside = Outside(
                config.url, ca_file=config.ca_certificate, proxy=config.proxy, connections=POSTS_AT_A_TIME
            )
        except OSError as error:  # ssl.SSLError is one
            raise BrokerUnusableError(f"CACertificate {config.ca_certificate} can't be read: {error}") from None
        self.start_threads()

    def close(self) -> None:
        super().close()
        if self._outside:
            self._outside.close()

    def call(self, events: list[Submitted]) -> list[Outcome]:
        return [self._post(*each) for each in events]

    def _post(self, event: Event, message: tuple[bytes, dict[str, str]]) -> Outcome:
        assert self._outside  # it was opened
        content, headers = message
        try:
            answer = self._outside.request(
                "POST",
                self._path,
                headers={**headers, **self._signature(content)},
                body=content,
                timeout=self._config.timeout,
                largest=LARGEST_ANSWER,
            )
        except OutsideError as error:
            raise BrokerAwayError(str(error)) from None
        if 200 <= answer.status < 300:
            return Outcome(event.row)
        said = f"HTTP {answer.status} {answer.reason}"
        if answer.status in AWAY:
            raise BrokerAwayError(said)
        return Outcome(event.row, said, final=answer.status in FINAL)

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
