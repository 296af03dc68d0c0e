# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/settings.py: edit that, never this file.
"""The section `DicomEvents`: what is published, and where to."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import urllib.parse
from typing import Any

from ._common.answers import one_line
from ._common.settings import S, SettingsError, key_of, read_settings, wrong_keys

from .events import KINDS_OF_EVENTS, ORIGINS

SECTION = "DicomEvents"
TYPES = ("rabbitmq", "sqs-sns", "nats", "kafka", "webhook", "file", "log")
FORMATS = ("structured", "binary", "plain")
BROKER = "broker"  # the name of `Broker`, whatever its type, unless it has one
BUILTIN = "file"  # of what is used where no broker is configured


def _switch(default: bool, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


def _origins(values: tuple[str, ...]) -> str | None:
    return None if set(values) <= set(ORIGINS.values()) else f"a list of {', '.join(ORIGINS.values())}"


def _tags(text: str) -> Any:
    def check(names: tuple[str, ...]) -> str | None:
        return None if all(re.fullmatch(r"[\w ,.-]+", name) for name in names) else "keywords, or gggg,eeee"

    return dataclasses.field(default=(), metadata={"check": check, "help": text})


def _pattern(pattern: str, allowed: str) -> Any:
    """A `check`: all of the text matches."""
    return {"check": lambda value: None if re.fullmatch(pattern, value) else allowed}


def _path(text: str) -> Any:
    return dataclasses.field(default=None, metadata={**_pattern(r"[^\0-\x1f]+", "a path"), "help": text})


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """`Events`: which happen to be told."""

    stable_series: bool = _switch(True, "`dicom.series.stable`")
    stable_study: bool = _switch(True, "`dicom.study.stable`")
    stable_patient: bool = _switch(True, "`dicom.patient.stable`")
    deleted_series: bool = _switch(True, "`dicom.series.deleted`")
    deleted_study: bool = _switch(True, "`dicom.study.deleted`")
    deleted_patient: bool = _switch(True, "`dicom.patient.deleted`")
    deleted_instance: bool = _switch(False, "`dicom.instance.deleted`; keeps a row for each instance")
    stored_instance: bool = _switch(True, "`dicom.instance.stored`")
    stored_instance_throttle_ms: int = dataclasses.field(
        default=0,
        metadata={"minimum": 0, "help": "Milliseconds between two events of one series; 0: one each instance."},
    )
    stored_instance_skip_origin: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": _origins, "help": "Origins whose instances are not told."}
    )
    stored_instance_publish_tags: tuple[str, ...] = _tags("Tags of the instance, by keyword or as `gggg,eeee`.")
    stable_series_publish_tags: tuple[str, ...] = _tags("Tags of the first instance that arrived of the series.")
    stable_study_publish_tags: tuple[str, ...] = _tags("Tags of the first instance that arrived of the study.")
    stable_patient_publish_tags: tuple[str, ...] = _tags("Tags of the first instance that arrived of the patient.")
    new_patient: bool = _switch(False, "`dicom.patient.new`")
    new_study: bool = _switch(False, "`dicom.study.new`")
    new_series: bool = _switch(False, "`dicom.series.new`")
    updated_metadata: bool = _switch(False, "`dicom.….metadata-updated`: also what other scripts write")
    updated_attachment: bool = _switch(False, "`dicom.….attachment-updated`: also what other scripts write")
    job_success: bool = _switch(False, "`orthanc.job.succeeded`")
    job_failure: bool = _switch(False, "`orthanc.job.failed`")
    orthanc_started: bool = _switch(False, "`orthanc.started`")
    orthanc_stopped: bool = _switch(False, "`orthanc.stopped`; it leaves when Orthanc is back")
    updated_modalities: bool = _switch(False, "`orthanc.modalities.updated`")
    updated_peers: bool = _switch(False, "`orthanc.peers.updated`")


@dataclasses.dataclass(frozen=True)
class OutboxSettings:
    """`Outbox`: how much may wait, and what happens beyond."""

    max_megabytes: int = dataclasses.field(
        default=10_000, metadata={"minimum": 1, "help": "Most that may wait on disk."}
    )
    max_age_days: float = dataclasses.field(
        default=0, metadata={"minimum": 0, "help": "What waits longer is dropped; 0: nothing is too old."}
    )
    when_full: str = dataclasses.field(
        default="drop-oldest",
        metadata={"choices": ("drop-oldest", "refuse"), "help": "Drop the oldest events, or take no new ones."},
    )
    keep_orphaned_days: float = dataclasses.field(
        default=30,
        metadata={
            "minimum": 0,
            "help": "Days, of running, that the place of a broker is kept that is gone; 0: for ever.",
        },
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `DicomEvents`."""

    events: EventSettings = dataclasses.field(default=EventSettings(), metadata={"help": "Which events there are."})
    broker: dict[str, Any] | None = dataclasses.field(
        default=None, metadata={"secret": True, "help": "Where they go; none at all: to a `file`."}
    )
    brokers: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"secret": True, "help": "More of them: a name for each, and what `Broker` has."}
    )
    format: str = dataclasses.field(
        default="structured",
        metadata={
            "choices": FORMATS,
            "help": "CloudEvents in one JSON object or in the protocol's headers, or flat JSON.",
        },
    )
    source: str | None = dataclasses.field(
        default=None,
        metadata={
            **_pattern("[!-~]+", "a URI or its path"),
            "help": "`source` of each event; null: `/orthanc/` and Orthanc's `Name`.",
        },
    )
    outbox: OutboxSettings = dataclasses.field(default=OutboxSettings(), metadata={"help": "The bounds of what waits."})
    reconcile: bool = dataclasses.field(
        default=True, metadata={"help": "False in all but one of several Orthancs that share a database."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the outbox also survives the loss of power."},
    )
    state_path: str | None = _path("Folder of the outbox; null: `IndexDirectory`, else `StorageDirectory`.")


def _url(*schemes: str) -> Any:
    allowed = (
        " or ".join(f"{scheme}://HOST…" for scheme in schemes) + ", in passwords % and two digits for / ? # [ ] @ :"
    )

    def check(value: str | tuple[str, ...]) -> str | None:
        return None if all(map(is_one, (value,) if isinstance(value, str) else value)) else allowed

    def is_one(url: str) -> bool:
        try:
            found = urllib.parse.urlsplit(url)
            return bool(found.scheme in schemes and found.hostname and found.port != 0 and re.fullmatch("[!-~]+", url))
        except ValueError:  # the port, or brackets
            return False

    return check


def _ca_certificate(scheme: str) -> Any:
    field = _path(f"Whom to trust over `{scheme}`; null: the system's.")
    return dataclasses.field(default=None, metadata={**field.metadata, "key": "CACertificate"})


def _headers(headers: dict[str, Any]) -> str | None:
    """One with a line break would be two; http.client's complaint of it would show the value."""
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
            **_pattern(r"[^\0-\x1f]{1,60}|[!-~]{1,255}", "a name of at most 255 bytes"),
            "help": "Its name; durable, of the kind topic.",
        },
    )
    passive: bool = _switch(False, "True: the exchange must be there; it is not declared.")
    heartbeat: int = dataclasses.field(
        default=30, metadata={"minimum": 1, "maximum": 3600, "help": "Seconds between two heartbeats."}
    )
    ca_certificate: str | None = _ca_certificate("amqps")
    certificate: str | None = _path("Ours, for the server (PEM).")
    certificate_key: str | None = _path("Its key (PEM); null: it is in the same file.")


@dataclasses.dataclass(frozen=True)
class SNSConfig:
    """A topic of Amazon SNS; credentials are found the AWS way (environment, ~/.aws, the machine's role)."""

    topic_arn: str = dataclasses.field(
        default="",
        metadata={
            **_pattern(r"arn:[!-9;-~]+:sns:[a-z0-9-]*:[0-9]*:[A-Za-z0-9_.-]+", "arn:aws:sns:REGION:ACCOUNT:NAME"),
            "help": "`arn:aws:sns:REGION:ACCOUNT:NAME`; standard topics keep no order, `….fifo` do.",
        },
    )
    endpoint_url: str | None = dataclasses.field(
        default=None,
        metadata={"key": "EndpointURL", "check": _url("http", "https"), "help": "Another service that speaks SNS."},
    )
    region: str | None = dataclasses.field(
        default=None,
        metadata={**_pattern("[a-z0-9-]{1,63}", "a region, as eu-west-1"), "help": "Null: that of the topic."},
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
            **_pattern(r"[^\0-\x1f\s.*>/\\]+", "a name without dots and spaces"),
            "help": "Made if it is not there; else it must take our subjects.",
        },
    )
    prefix: str = dataclasses.field(
        default="orthanc.",
        metadata={
            **_pattern(r"([\w-]+\.)+", "words that each end with a dot"),
            "help": "What subjects begin with.",
        },
    )
    passive: bool = _switch(False, "True: the stream must be there; it is not made.")
    ca_certificate: str | None = _ca_certificate("tls")
    credentials_file: str | None = _path("A file that `nsc` made.")


@dataclasses.dataclass(frozen=True)
class KafkaConfig:
    """A topic of Kafka; the key is the study."""

    bootstrap_servers: str = dataclasses.field(
        default="",
        metadata={
            **_pattern(r"[\w.:\[\]-]+(,[\w.:\[\]-]+)*", "HOST:PORT,HOST:PORT"),
            "help": "`HOST:PORT`, several with commas.",
        },
    )
    topic: str = dataclasses.field(
        default="orthanc",
        metadata={**_pattern("[A-Za-z0-9._-]{1,249}", "a name of A-Z a-z 0-9 . _ -"), "help": "Its name."},
    )
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"secret": True, "help": "More of librdkafka's own (`sasl.password`, `ssl.ca.location`)."},
    )


@dataclasses.dataclass(frozen=True)
class WebhookConfig:
    """A server that takes each event as the body of a POST."""

    url: str = dataclasses.field(
        default="",
        metadata={"key": "URL", "secret": True, "check": _url("http", "https"), "help": "Never followed elsewhere."},
    )
    secret: str = dataclasses.field(
        default="", metadata={"secret": True, "help": "Key of the signature (HMAC-SHA256); none: not signed."}
    )
    headers: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"secret": True, "check": _headers, "help": "More headers (`Authorization`)."}
    )
    timeout: float = dataclasses.field(
        default=10, metadata={"minimum": 0.1, "maximum": 3600, "help": "Seconds for one answer."}
    )
    connections: int = dataclasses.field(default=4, metadata={"minimum": 1, "maximum": 64, "help": "POSTs at a time."})
    ca_certificate: str | None = _ca_certificate("https")


@dataclasses.dataclass(frozen=True)
class FileConfig:
    """A file of lines, one JSON object each."""

    path: str | None = _path("Null: `dicom_events.jsonl` beside the outbox (a relative path starts there too).")
    max_megabytes: float = dataclasses.field(
        default=100, metadata={"minimum": 0.001, "help": "A file of this size becomes `….1`, that one `….2`."}
    )
    keep: int = dataclasses.field(
        default=10, metadata={"minimum": 1, "maximum": 1000, "help": "How many of these there are at most."}
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
    """A pattern below `dicom.` or `orthanc.` has to match something: it would silently publish nothing."""
    for value in values:
        ours = value.startswith(("dicom.", "orthanc."))
        if not re.fullmatch(r"[\w.*?-]+", value) or (ours and not fnmatch.filter(KINDS_OF_EVENTS, value)):
            return f"types with * and ?, as {', '.join(KINDS_OF_EVENTS)}"
    return None


@dataclasses.dataclass(frozen=True)
class BrokerSettings:
    """What each broker has, whatever its type."""

    type: str = dataclasses.field(default="", metadata={"choices": TYPES, "help": "Which kind it is."})
    name: str | None = dataclasses.field(
        default=None, metadata={"help": "Of `Broker` alone; null: `broker`. What waits is bound to it."}
    )
    events: tuple[str, ...] = dataclasses.field(
        default=("*",), metadata={"check": _patterns, "help": "Types that go there, as `dicom.study.*`."}
    )
    format: str | None = dataclasses.field(
        default=None, metadata={"choices": FORMATS, "help": "Another `Format` than that of the section."}
    )
    tries: int = dataclasses.field(
        default=5,
        metadata={"minimum": 1, "help": "How often what it refuses is tried, before it goes to the dead letters."},
    )


@dataclasses.dataclass(frozen=True)
class Named:
    """One broker: its settings, those of its type, or the `complaint` that puts it off.

    `named` : False of the file that is used where nobody configured a broker. `bound` : False where the name can't be one:
    nothing waits for it. `former` : what the first version called it, if that was something else.
    """

    name: str
    settings: BrokerSettings = BrokerSettings()
    config: Any = None
    complaint: str = ""
    named: bool = True
    bound: bool = True
    former: str = ""


def read_brokers(settings: Settings) -> list[Named]:
    """Each broker of the section; one that is wrong puts only itself off, and keeps its place."""
    found = list[Named]()
    if settings.broker is not None:
        found.append(_named_broker(settings.broker))
    for name, content in settings.brokers.items():
        found.append(_one_of_brokers(name, content))
    if not found:
        return [Named(BUILTIN, BrokerSettings("file"), FileConfig(), named=False)]
    names = [each.name for each in found]
    twice = f"{SECTION}: two brokers are named"
    return [
        dataclasses.replace(each, complaint=f"{twice} {each.name}, allowed: a name of its own for each (Broker.Name)")
        if each.name in names[:place] + names[place + 1 :]
        else each
        for place, each in enumerate(found)
        if each.name not in names[:place]
    ]


def _named_broker(content: Any) -> Named:
    path, given, kind = f"{SECTION}.Broker", None, None
    if isinstance(content, dict):
        given, kind = content.get("Name"), content.get("Type")
    name = BROKER if given is None else given
    former = kind if kind in TYPES else BROKER
    if complaint := _complaint_of_name(name):
        return Named(path, complaint=f"{path}.Name: {complaint}", bound=False)
    return _read_named(path, name, content, former)


def _one_of_brokers(name: str, content: Any) -> Named:
    if complaint := _complaint_of_name(name):
        return Named(f"{SECTION}.Brokers.{json.dumps(name)}", complaint=f"{SECTION}.Brokers: {complaint}", bound=False)
    path = f"{SECTION}.Brokers.{name}"
    if isinstance(content, dict) and "Name" in content:
        return Named(name, complaint=f"{path}.Name: found one, allowed: none, its name is its key in Brokers")
    return _read_named(path, name, content)


def _complaint_of_name(name: Any) -> str | None:
    fits = isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() and one_line(name) == name
    shown = json.dumps(name if isinstance(name, str) and len(name) <= 200 else type(name).__name__)
    return None if fits else f"found the name {shown}, allowed: a text of one line, at most 200 characters"


def _read_named(path: str, name: str, content: Any, former: str = "") -> Named:
    try:
        return Named(name, *_read_broker(path, content), former=former)
    except SettingsError as error:
        kind = content.get("Type") if isinstance(content, dict) else None
        return Named(name, BrokerSettings(kind if kind in TYPES else ""), complaint=str(error), former=former)


def _read_broker(path: str, content: Any) -> tuple[BrokerSettings, Any]:
    keys = [key for key, _ in CONFIGS.values()]
    known = [*map(key_of, dataclasses.fields(BrokerSettings)), *keys]
    if isinstance(content, dict) and (complaint := wrong_keys(path, content, known)):
        raise SettingsError(complaint)
    if not isinstance(content, dict) or "Type" not in content:
        raise SettingsError(f"{path}.Type: not there, allowed: one of {', '.join(TYPES)}")
    general = _read(BrokerSettings, path, {key: value for key, value in content.items() if key not in keys})
    key, cls = CONFIGS[general.type]
    if others := sorted(content.keys() & set(keys) - {key}):
        raise SettingsError(f"{path}: found {others[0]}, allowed: {key}, for its Type is {general.type}")
    if not isinstance(content.get(key, {}), dict):  # it may be a secret: not shown
        raise SettingsError(f"{path}.{key}: allowed: an object of keys and values")
    config = _read(cls, f"{path}.{key}", content.get(key, {}))
    for field in dataclasses.fields(cls):
        # What has no useful default has to be there.
        value = getattr(config, field.name)
        if field.default == "" and value == "" and "check" in field.metadata:
            name = field.metadata.get("key") or "".join(word.capitalize() for word in field.name.split("_"))
            raise SettingsError(f"{path}.{key}.{name}: not there, allowed: {field.metadata['check']('')}")
    return general, config


def _read(cls: type[S], path: str, content: Any) -> S:
    return read_settings(cls, path, {path: content})
