# SPDX-License-Identifier: AGPL-3.0-or-later
"""The keys of `Notify`: who is notified when something needs a person, and how."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import urllib.parse

from common.outside import proxy_or_null
from common.settings import not_empty

ADDRESS = re.compile(r"[^@\s<>,;:\"\\()\[\]\x00-\x1f\x7f]+@[^@\s<>,;:\"\\()\x00-\x1f\x7f]+")
PORTS = {"starttls": 587, "tls": 465, "none": 25}


def wrong_url(url: str) -> str | None:
    """Return what is allowed as the address of a webhook, unless this is."""
    with contextlib.suppress(ValueError):  # the port, or brackets
        parts = urllib.parse.urlsplit(url)
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and url.isascii()
            and url.isprintable()
        ):
            return None if " " not in url and not parts.fragment else "a URL without spaces and #"
    return "https://HOST/PATH or http://HOST/PATH"


def wrong_mail_host(host: str | None) -> str | None:
    """Return what is allowed as the name of a mail server, unless this is."""
    fits = host is None or re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", host)
    return None if fits else "the name or the address of a mail server, alone"


def wrong_address(address: str | None) -> str | None:
    """Return what is allowed as an e-mail address, unless this is."""
    fits = address is None or (len(address) <= 254 and address.isascii() and ADDRESS.fullmatch(address))
    return None if fits else "an e-mail address as radiology@hospital.example"


def wrong_addresses(addresses: tuple[str, ...]) -> str | None:
    """Return what is allowed as a list of e-mail addresses, unless this is."""
    return not_empty(addresses) or next(filter(None, map(wrong_address, addresses)), None)


def _ca_certificate() -> str | None:
    text = "PEM file of whom to trust; null: the authorities of the system."
    found: str | None = dataclasses.field(default=None, metadata={"key": "CACertificate", "help": text})
    return found


def _timeout() -> float:
    text = "Seconds to connect, and for a silence."
    found: float = dataclasses.field(default=10, metadata={"minimum": 0.1, "maximum": 300, "help": text})
    return found


@dataclasses.dataclass(frozen=True)
class WebhookTarget:
    """A server that gets a POST."""

    url: str = dataclasses.field(
        default="",
        metadata={
            "key": "URL",
            "secret": True,
            "check": wrong_url,
            "help": "Where to post to; needed. No redirect is followed.",
        },
    )
    secret: str | None = dataclasses.field(
        default=None,
        metadata={"secret": True, "help": "Key that each POST is signed with (HMAC-SHA256); null: not signed."},
    )
    ca_certificate: str | None = _ca_certificate()
    proxy: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": proxy_or_null,
            "help": "`http://[USER:PASSWORD@]HOST:PORT`; null: none, whatever the environment says.",
        },
    )
    timeout: float = _timeout()


@dataclasses.dataclass(frozen=True)
class MailTarget:
    """People who get an e-mail."""

    host: str | None = dataclasses.field(
        default=None, metadata={"check": wrong_mail_host, "help": "Name of the mail server; needed."}
    )
    port: int | None = dataclasses.field(
        default=None,
        metadata={"minimum": 1, "maximum": 65535, "help": "Its port; null: 587, with `tls` 465, with `none` 25."},
    )
    security: str = dataclasses.field(
        default="starttls",
        metadata={
            "choices": ("starttls", "tls", "none"),
            "help": "`starttls`: TLS after the first words, or nothing is sent. `tls`: from the first byte. `none`: in clear.",
        },
    )
    user: str | None = dataclasses.field(default=None, metadata={"help": "Who logs in there; null: nobody."})
    password: str | None = dataclasses.field(
        default=None, metadata={"secret": True, "help": "The password, as `${SMTP_PASSWORD}`."}
    )
    sender: str | None = dataclasses.field(
        default=None, metadata={"key": "From", "check": wrong_address, "help": "Address of the sender; needed."}
    )
    recipients: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": wrong_addresses, "help": "Addresses of those who get the mail; needed."}
    )
    ca_certificate: str | None = _ca_certificate()
    timeout: float = _timeout()

    def port_number(self) -> int:
        """Return the port, or the one that the security has."""
        return self.port or PORTS[self.security]


@dataclasses.dataclass(frozen=True)
class NotifySettings:
    """Who is notified, and when."""

    after_minutes: float = dataclasses.field(
        default=15,
        metadata={"minimum": 0, "help": "Minutes that a destination has to be away before somebody is notified."},
    )
    disk_above: float | None = dataclasses.field(
        default=90,
        metadata={
            "minimum": 1,
            "maximum": 99.9,
            "help": "Percent of the file system of Orthanc's files above which somebody is notified; null: never.",
        },
    )
    webhook: WebhookTarget | None = dataclasses.field(
        default=None, metadata={"help": "A server that gets a POST (below)."}
    )
    mail: MailTarget | None = dataclasses.field(default=None, metadata={"help": "People who get an e-mail (below)."})

    def complaint(self) -> str | None:
        """Return which key is missing, or has no effect, or does harm; None: all is well."""
        mail = self.mail
        if mail is None and self.webhook is None:
            return "Mail or Notify.Webhook is needed: else nobody is notified"
        if self.webhook is not None and not self.webhook.url:
            return "Webhook.URL is needed, allowed: https://HOST/PATH"
        if mail is None:
            return None
        for key, value in (("Host", mail.host), ("From", mail.sender), ("Recipients", mail.recipients)):
            if not value:
                return f"Mail.{key} is needed"
        if (mail.user is None) != (mail.password is None):
            missing = "Password" if mail.password is None else "User"
            return f"Mail.{missing} is needed, allowed: both User and Password, or neither"
        if mail.password is not None and mail.security == "none":
            return 'Mail.Security: found "none" with a Password, allowed: "starttls" or "tls", which hide it'
        return None
