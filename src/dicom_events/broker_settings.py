# SPDX-License-Identifier: AGPL-3.0-or-later
"""The settings of each kind of broker, and those that all of them have."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, ClassVar

from common.outside import proxy_or_null
from common.path_segments import has_dot_segments
from common.settings import empty_values
from common.wildcards import matches_pattern

from .events import KINDS_OF_EVENTS
from .fields import path_or_null, switch, whole_text
from .settings import FORMATS

TYPES = ("rabbitmq", "sqs-sns", "nats", "kafka", "webhook", "file", "log")
RETURNING = ("rabbitmq",)  # those that give back what nobody has a queue for


WITHOUT_PASSWORD = "a URL without an empty user or password (is the environment variable of this one set?)"  # noqa: S105


def _lacks_password(url: str) -> bool:
    """Return whether there is a place for user or password, and nothing in it, as an unset variable leaves it."""
    found = urllib.parse.urlsplit(url)
    return "@" in found.netloc and (not found.username or found.password == "")


def _url(*schemes: str) -> Any:
    allowed = (
        " or ".join(f"{scheme}://HOST…" for scheme in schemes) + ", in passwords % and two digits for / ? # [ ] @ :"
    )

    def check(value: str | tuple[str, ...]) -> str | None:
        urls = (value,) if isinstance(value, str) else value
        if not all(map(is_one, urls)):
            return allowed
        if any(has_dot_segments(urllib.parse.urlsplit(url).path) for url in urls):
            return "a URL whose path has no part . or .."
        return WITHOUT_PASSWORD if any(map(_lacks_password, urls)) else None

    def is_one(url: str) -> bool:
        try:
            found = urllib.parse.urlsplit(url)
            return bool(found.scheme in schemes and found.hostname and found.port != 0 and re.fullmatch("[!-~]+", url))
        except ValueError:  # the port, or brackets
            return False

    return check


def _ca_certificate(scheme: str) -> Any:
    field = path_or_null(f"File of certificates to trust over `{scheme}` (PEM); null: the system's.")
    return dataclasses.field(default=None, metadata={**field.metadata, "key": "CACertificate"})


def _headers(headers: dict[str, Any]) -> str | None:
    """Check headers: one with a line break would be two, and a complaint of it would show the value."""
    if complaint := empty_values(headers):
        return complaint
    fits = all(
        re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII)
        and isinstance(value, str)
        and re.fullmatch("[ -~]*", value)
        for name, value in headers.items()
    )
    return None if fits else "names and texts of one line, in ASCII"


@dataclasses.dataclass(frozen=True)
class RabbitConfig:
    """A topic exchange of a RabbitMQ server; the routing key is the type."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "Heartbeat": "the script decides that itself now (30 s, or what the URL says: amqp://…/?heartbeat=10)",
    }

    url: str = dataclasses.field(
        default="",
        metadata={"key": "URL", "secret": True, "check": _url("amqp", "amqps"), "help": "`amqp://USER:PASSWORD@HOST/`"},
    )
    more_urls: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "MoreURLs",
            "secret": True,
            "check": _url("amqp", "amqps"),
            "help": "Other nodes of the same cluster, asked in turn.",
        },
    )
    exchange: str = dataclasses.field(
        default="orthanc",
        metadata={
            **whole_text(r"[^\0-\x1f]{1,60}|[!-~]{1,255}", "a name of at most 255 bytes"),
            "help": "Name of the exchange, a durable one of the kind topic.",
        },
    )
    passive: bool = switch(
        False, "True: the exchange must be there, as the user of `URL` may not make one. False: it is made."
    )
    ca_certificate: str | None = _ca_certificate("amqps")
    certificate: str | None = path_or_null("File of Orthanc's own certificate (PEM), if the server asks for one.")
    certificate_key: str | None = path_or_null("File of the key of `Certificate` (PEM); null: it is in the same file.")


@dataclasses.dataclass(frozen=True)
class SNSConfig:
    """A topic of Amazon SNS; credentials are found the AWS way (environment, ~/.aws, the machine's role)."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "Region": "the region is that of TopicArn now; where that names none, that of AWS_DEFAULT_REGION",
    }

    topic_arn: str = dataclasses.field(
        default="",
        metadata={
            **whole_text(
                r"arn:[!-9;-~]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]+",
                "arn:aws:sns:REGION:ACCOUNT:NAME, REGION as eu-west-1, ACCOUNT of twelve digits",
            ),
            "help": "`arn:aws:sns:REGION:ACCOUNT:NAME`; standard topics keep no order, `….fifo` do.",
        },
    )
    endpoint_url: str | None = dataclasses.field(
        default=None,
        metadata={
            "key": "EndpointURL",
            "check": _url("http", "https"),
            "help": "Address of another service that speaks SNS; null: Amazon's.",
        },
    )


@dataclasses.dataclass(frozen=True)
class NatsConfig:
    """A stream of NATS JetStream; the subject is `Prefix` and the type."""

    url: str = dataclasses.field(
        default="",
        metadata={
            "key": "URL",
            "secret": True,
            "check": _url("nats", "tls"),
            "help": "`nats://USER:PASSWORD@HOST:4222`",
        },
    )
    more_urls: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "MoreURLs",
            "secret": True,
            "check": _url("nats", "tls"),
            "help": "Other nodes of the cluster.",
        },
    )
    stream: str = dataclasses.field(
        default="ORTHANC",
        metadata={
            **whole_text(r"[^\0-\x1f\s.*>/\\]+", "a name without dots and spaces"),
            "help": "Name of the stream. It is made if it is not there; else it must take the subjects below `Prefix`.",
        },
    )
    prefix: str = dataclasses.field(
        default="orthanc.",
        metadata={
            **whole_text(r"([\w-]+\.)+", "words that each end with a dot"),
            "help": "What subjects begin with.",
        },
    )
    passive: bool = switch(
        False, "True: the stream must be there, as the user of `URL` may not make one. False: it is made."
    )
    ca_certificate: str | None = _ca_certificate("tls")
    credentials_file: str | None = path_or_null("File of credentials that `nsc` made; null: those of `URL`.")


@dataclasses.dataclass(frozen=True)
class KafkaConfig:
    """A topic of Kafka; the key is the study."""

    bootstrap_servers: str = dataclasses.field(
        default="",
        metadata={
            **whole_text(r"[\w.:\[\]-]+(,[\w.:\[\]-]+)*", "HOST:PORT,HOST:PORT"),
            "help": "`HOST:PORT`, several with commas.",
        },
    )
    topic: str = dataclasses.field(
        default="orthanc",
        metadata={**whole_text("[A-Za-z0-9._-]{1,249}", "a name of A-Z a-z 0-9 . _ -"), "help": "Name of the topic."},
    )
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={
            "secret": True,
            "check": empty_values,
            "help": "Settings of librdkafka for authentication and TLS (`sasl.password`, `ssl.ca.location`).",
        },
    )


@dataclasses.dataclass(frozen=True)
class WebhookConfig:
    """A server that takes each event as the body of a POST."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "Connections": "the script decides that itself now (4 POSTs at a time, of one series one)",
    }

    url: str = dataclasses.field(
        default="",
        metadata={
            "key": "URL",
            "secret": True,
            "check": _url("http", "https"),
            "help": "Where events are posted. Redirects are not followed.",
        },
    )
    secret: str = dataclasses.field(
        default="",
        metadata={"secret": True, "help": "Key with which each event is signed (HMAC-SHA256); empty: not signed."},
    )
    headers: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"secret": True, "check": _headers, "help": "More headers, by name (`Authorization`)."},
    )
    timeout: float = dataclasses.field(
        default=10,
        metadata={"minimum": 0.1, "maximum": 3600, "help": "Seconds to connect, and for a silence; twice that in all."},
    )
    ca_certificate: str | None = _ca_certificate("https")
    proxy: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": proxy_or_null,
            "help": "`http://[USER:PASSWORD@]HOST:PORT`; null: none, whatever the environment says.",
        },
    )


@dataclasses.dataclass(frozen=True)
class FileConfig:
    """A file of lines, one JSON object each."""

    path: str | None = path_or_null("Null: `dicom_events.jsonl` beside the outbox (a relative path starts there too).")
    max_megabytes: float = dataclasses.field(
        default=100,
        metadata={"minimum": 0.001, "help": "Megabytes after which the file becomes `….1`, and that one `….2`."},
    )
    keep: int = dataclasses.field(
        default=10,
        metadata={
            "minimum": 1,
            "maximum": 1000,
            "help": "Full files that are kept. `MaxMegabytes` times this is the room on disk.",
        },
    )


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """Orthanc's own log."""


CONFIGS: dict[str, tuple[str, type[Any]]] = {
    "rabbitmq": ("RabbitConfig", RabbitConfig),
    "sqs-sns": ("SNSConfig", SNSConfig),
    "nats": ("NatsConfig", NatsConfig),
    "kafka": ("KafkaConfig", KafkaConfig),
    "webhook": ("WebhookConfig", WebhookConfig),
    "file": ("FileConfig", FileConfig),
    "log": ("LogConfig", LogConfig),
}


def _patterns(values: tuple[str, ...]) -> str | None:
    """Check patterns: one below `dicom.` or `orthanc.` that matches nothing would silently publish nothing."""
    for value in values:
        ours = value.startswith(("dicom.", "orthanc."))
        if not re.fullmatch(r"[\w.*?-]+", value) or (
            ours and not any(matches_pattern(kind, value) for kind in KINDS_OF_EVENTS)
        ):
            return f"types with * and ?, as {', '.join(KINDS_OF_EVENTS)}"
    return None


@dataclasses.dataclass(frozen=True)
class BrokerSettings:
    """What each broker has, whatever its type."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "Tries": "the script decides that itself now (what the broker refuses is tried 5 times, then it is a dead letter)",
    }

    type: str = dataclasses.field(default="", metadata={"choices": TYPES, "help": "Kind of the broker."})
    name: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                "Name to which what waits is bound; null: `broker`. For `Broker` only: in `Brokers` the key is "
                "the name."
            )
        },
    )
    events: tuple[str, ...] = dataclasses.field(
        default=("*",), metadata={"check": _patterns, "help": "Types of events that it gets, as `dicom.study.*`."}
    )
    format: str | None = dataclasses.field(
        default=None, metadata={"choices": FORMATS, "help": "`Format` of this broker; null: that of the section."}
    )
    unroutable: str | None = dataclasses.field(
        default=None,
        metadata={
            "choices": ("drop", "keep"),
            "help": (
                "`rabbitmq` only: `keep` or `drop` what nobody has a queue for; null: keep it for "
                "`UnroutableGraceSeconds`, then drop it."
            ),
        },
    )
    unroutable_grace_seconds: float = dataclasses.field(
        default=60,
        metadata={
            "minimum": 0,
            "help": "`rabbitmq` only: seconds from the begin of a connection in which consumers have time to come back.",
        },
    )
