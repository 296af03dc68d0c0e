# SPDX-License-Identifier: AGPL-3.0-or-later
"""How people are notified: a POST to a server, or an e-mail."""

from __future__ import annotations

import base64
import contextlib
import email.message
import email.utils
import hashlib
import hmac
import json
import smtplib
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from common.outside import Outside, OutsideError, UnsendableError
from common.routes import one_line

from .notify import Message
from .notify_settings import MailTarget, NotifySettings, WebhookTarget
from .settings import SECTION

LARGEST_ANSWER = 65536  # bytes that are read, so that the connection ends well; only the status counts


class NotSentError(Exception):
    """A message was not sent, as far as is known; the text has no secret."""


class Sender(Protocol):
    """What sends a message."""

    def send(self, message: Message, server: str) -> None:
        """Send a message of an Orthanc with this name, or raise `NotSentError`."""

    def close(self) -> None:
        """End what is under way."""


class WebhookSender:
    """Posts to one address, at a fixed host, without redirects, with TLS verified. Raises OSError: a file can't be read."""

    def __init__(self, target: WebhookTarget, folder: Path) -> None:
        self._target, address = target, urllib.parse.urlsplit(target.url)
        ca_file = str(folder / target.ca_certificate) if target.ca_certificate else None
        self._outside = Outside(target.url, ca_file=ca_file, proxy=target.proxy, connections=1)
        self._path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._user = f"{address.username or ''}:{address.password or ''}" if "@" in address.netloc else ""

    def send(self, message: Message, server: str) -> None:
        text = "\n".join([f"Orthanc {server}: {message.subject}", *message.lines])
        content = {"Orthanc": server, "Begun": [*message.begun], "Over": [*message.over], "text": text}
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "orthanc-dashboard", **self._signature(body)}
        headers["Idempotency-Key"] = message.identifier
        if self._user:
            user = base64.b64encode(urllib.parse.unquote_to_bytes(self._user)).decode()
            headers["Authorization"] = f"Basic {user}"
        try:
            answer = self._outside.request(
                "POST", self._path, headers=headers, body=body, timeout=self._target.timeout, largest=LARGEST_ANSWER
            )
        except (OutsideError, UnsendableError) as error:
            raise NotSentError(one_line(error)) from None
        if not 200 <= answer.status < 300:
            raise NotSentError(f"HTTP {answer.status} {one_line(answer.reason)}")

    def _signature(self, body: bytes) -> Mapping[str, str]:
        """Return the signature over the time and the body, so that what was overheard can't be sent again later."""
        if not self._target.secret:
            return {}
        now = str(int(time.time()))
        digest = hmac.new(self._target.secret.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"X-Dashboard-Timestamp": now, "X-Dashboard-Signature": f"sha256={digest}"}

    def close(self) -> None:
        self._outside.close()


class MailSender:
    """Writes a mail to some people. Raises OSError: the certificates of the authorities can't be read."""

    def __init__(self, target: MailTarget, folder: Path) -> None:
        self._target = target
        ca_file = str(folder / target.ca_certificate) if target.ca_certificate else None
        self._context = ssl.create_default_context(cafile=ca_file) if target.security != "none" else None
        self._client: smtplib.SMTP | None = None

    def send(self, message: Message, server: str) -> None:
        content, target = self._mail(message, server), self._target
        try:
            with self._connected() as client:
                if target.security == "starttls":
                    # It raises where the server offers none: nothing is sent in clear.
                    client.starttls(context=self._context)
                if target.user and target.password:
                    client.login(target.user, target.password)
                refused = client.send_message(content, target.sender, list(target.recipients))
        except smtplib.SMTPAuthenticationError as error:  # its text may quote what was sent
            raise NotSentError(f"the mail server refuses User and Password (code {error.smtp_code})") from None
        except smtplib.SMTPResponseException as error:
            raise NotSentError(f"the mail server answers {error.smtp_code} {_text_of(error.smtp_error)}") from None
        except smtplib.SMTPRecipientsRefused as error:
            raise NotSentError(f"the mail server takes nothing for {_refusals(error.recipients)}") from None
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            where = f"{target.host}, port {target.port_number()}"
            raise NotSentError(one_line(f"{where}: {type(error).__name__}: {error}")[:300]) from None
        if refused:  # the others have it: to send it again would not help this one
            raise PartlySentError(f"the mail server takes nothing for {_refusals(refused)}")

    @contextlib.contextmanager
    def _connected(self) -> Any:
        target = self._target
        assert target.host
        if target.security == "tls":
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                target.host, target.port_number(), timeout=target.timeout, context=self._context
            )
        else:
            client = smtplib.SMTP(target.host, target.port_number(), timeout=target.timeout)
        self._client = client
        try:
            yield client
        finally:
            self._client = None
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()
            client.close()

    def _mail(self, message: Message, server: str) -> email.message.EmailMessage:
        found = email.message.EmailMessage()
        found["Subject"] = f"Orthanc {one_line(server)[:100]}: {message.subject}"
        found["From"], found["To"] = self._target.sender, ", ".join(self._target.recipients)
        found["Date"] = email.utils.localtime()
        assert self._target.sender
        found["Message-ID"] = f"<{message.identifier}.orthanc-dashboard@{self._target.sender.rpartition('@')[2]}>"
        found["Auto-Submitted"] = "auto-generated"  # no absence note answers it (RFC 3834)
        found.set_content("\n".join([*message.lines, "", f"Orthanc {one_line(server)}: /dashboard shows more.", ""]))
        return found

    def close(self) -> None:
        client = self._client
        if client is not None and client.sock is not None:
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)  # what waits for the server returns


def senders_of(settings: NotifySettings, folder: Path) -> dict[str, Sender]:
    """Return what sends, by its name. Raises OSError: certificates can't be read; its text names the key.

    `folder` is the one that paths of the configuration begin in.
    """
    found: dict[str, Sender] = {}
    if settings.webhook:
        with _named("Webhook", settings.webhook, folder):
            found["webhook"] = WebhookSender(settings.webhook, folder)
    if settings.mail:
        with _named("Mail", settings.mail, folder):
            found["mail"] = MailSender(settings.mail, folder)
    return found


@contextlib.contextmanager
def _named(key: str, target: MailTarget | WebhookTarget, folder: Path) -> Iterator[None]:
    """Name the key and the file where certificates can't be read: OpenSSL names neither."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        path = folder / target.ca_certificate if target.ca_certificate else "the authorities of the system"
        raise OSError(
            f"{SECTION}.Notify.{key}.CACertificate: {path} can't be read ({error}), allowed: a PEM file"
        ) from None


class PartlySentError(Exception):
    """A message was sent, and some of those whom it is for don't get it."""


def _text_of(error: bytes | str) -> str:
    return one_line(error.decode("utf-8", "replace") if isinstance(error, bytes) else error)[:200]


def _refusals(recipients: Mapping[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{one_line(address)}: {code} {_text_of(text)}" for address, (code, text) in recipients.items())[
        :300
    ]
