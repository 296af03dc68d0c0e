# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section CMoveInterceptor of the configuration."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from common.retry import Retry
from common.settings import SettingsError, empty_values, is_nearly, not_empty

from .move_request import IDENTIFIER_FIELDS, LEVELS
from .templates import RESULTS, placeholders, texts_of, wrong_template

SECTION = "CMoveInterceptor"
MOVES = ("move", "notify", "fetch")
MIN_IMAGES_FOR_SECOND_ASSOCIATION = 100  # fewer are sent as fast by one


def _url(template: str) -> str | None:
    """Return what is allowed as a URL, unless this is: nothing of a request reaches into scheme, host or port."""
    parts = urllib.parse.urlsplit(template)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[{}@\s]", parts.netloc):
        return "http:// or https://, a host without placeholders or credentials, a path"
    if not re.fullmatch(r"[!-~]+", template) or parts.fragment:
        return "a URL of printable ASCII characters, without a fragment"
    return wrong_template(template)


def _name(name: str | None) -> str | None:
    fits = name is None or (0 < len(name) <= 200 and name.isprintable() and name.strip() == name)
    return None if fits else "a text of one line, at most 200 characters"


def _body(body: Any) -> str | None:
    return next((complaint for text in texts_of(body) if (complaint := wrong_template(text))), None)


def _headers(headers: Mapping[str, Any]) -> str | None:
    if complaint := empty_values(headers):
        return complaint
    plain = all(
        isinstance(value, str) and re.fullmatch(r"[!-~]([ -~]*[!-~])?", value) and re.fullmatch(r"[A-Za-z0-9-]+", name)
        for name, value in headers.items()
    )
    return None if plain else "names of headers and texts of printable ASCII characters"


def _sources(texts: Sequence[str]) -> str | None:
    known = all(re.fullmatch(r"(modality|peer):.+", text) for text in texts)
    return None if known else "modality:NAME or peer:NAME"


def _levels(texts: Sequence[str]) -> str | None:
    return None if texts and set(texts) <= set(LEVELS) else ", ".join(LEVELS)


@dataclasses.dataclass(frozen=True)
class Service:
    """One entry of `Notify`."""

    url: str = dataclasses.field(
        default="",
        metadata={
            "check": _url,
            "secret": True,
            "help": "Where to; path and query may have placeholders such as `{StudyInstanceUID}`.",
        },
    )
    name: str | None = dataclasses.field(
        default=None,
        metadata={"check": _name, "help": "What waits is bound to it; null: method and host, as `GET ris.example`."},
    )
    method: str = dataclasses.field(
        default="GET", metadata={"choices": ("GET", "POST"), "help": "Two entries for both."}
    )
    body: Any = dataclasses.field(
        default=None,
        metadata={
            "check": _body,
            "help": "JSON of a POST, placeholders in its texts; null: all fields of the request.",
        },
    )
    headers: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"check": _headers, "secret": True, "help": "Headers to send besides."}
    )
    username: str = dataclasses.field(default="", metadata={"check": _name, "help": "For basic authentication."})
    password: str = dataclasses.field(default="", metadata={"secret": True, "help": "For basic authentication."})
    token: str = dataclasses.field(default="", metadata={"secret": True, "help": "For bearer authentication."})
    verify_tls: bool = dataclasses.field(
        default=True, metadata={"help": "Whether the service's certificate is verified."}
    )
    ca_file: str | None = dataclasses.field(
        default=None, metadata={"help": "Certificates to trust (PEM); null: those of the system."}
    )
    certificate_file: str | None = dataclasses.field(
        default=None, metadata={"help": "Client certificate, with its key or `KeyFile` (PEM)."}
    )
    key_file: str | None = dataclasses.field(default=None, metadata={"help": "Key of the client certificate."})
    timeout: float = dataclasses.field(
        default=10, metadata={"minimum": 0.1, "maximum": 300, "help": "Seconds; of a `Required` one at most 5."}
    )
    when: str = dataclasses.field(
        default="before",
        metadata={"choices": ("before", "after"), "help": "Before the move, or after it with the result."},
    )
    required: bool = dataclasses.field(
        default=False, metadata={"help": "The move fails if this service refuses or can't be reached; only before."}
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of `Rules`: another `Mode` for some requests. The first that fits counts."""

    mode: str = dataclasses.field(default="move", metadata={"choices": MOVES, "help": "What is done with those."})
    levels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": _levels, "help": "PATIENT, STUDY, SERIES, INSTANCE; not there: all."}
    )
    target_aets: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "TargetAETs",
            "check": not_empty,
            "help": "Destinations; `*` and `?` match any text, any character; not there: all.",
        },
    )
    originator_aets: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"key": "OriginatorAETs", "check": not_empty, "help": "Who asks; likewise."}
    )
    identifiers: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"check": not_empty, "help": 'Patterns of identifiers: `{"PatientID": "RESEARCH*"}`.'},
    )


@dataclasses.dataclass(frozen=True)
class Fetch:
    """How `fetch` works."""

    sources: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={"key": "From", "check": _sources, "help": "`modality:NAME` and `peer:NAME`, asked in this order."},
    )
    seconds: float = dataclasses.field(
        default=60, metadata={"minimum": 1, "maximum": 3600, "help": "Time limit for all that one request fetches."}
    )
    keep: bool = dataclasses.field(
        default=True, metadata={"help": "False: what was fetched is deleted after the move."}
    )


@dataclasses.dataclass(frozen=True)
class NotificationRetry(Retry):
    """When a notification that failed is sent again: sooner than other work, for it is small."""

    first: float = dataclasses.field(default=10, metadata={"minimum": 0.1, "help": "Seconds until the second attempt."})


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `CMoveInterceptor`."""

    mode: str = dataclasses.field(
        default="move",
        metadata={
            "choices": MOVES,
            "help": "`move`: as Orthanc; `notify`: send nothing; `fetch`: get what is missing, then move.",
        },
    )
    rules: tuple[Rule, ...] = dataclasses.field(default=(), metadata={"help": "Other modes for some requests (below)."})
    notify: tuple[Service, ...] = dataclasses.field(
        default=(), metadata={"help": "Services to notify (below); none: only the log has each request."}
    )
    fetch: Fetch = dataclasses.field(default=Fetch(), metadata={"help": "From where `fetch` gets what is missing."})
    associations: int = dataclasses.field(
        default=2,
        metadata={
            "minimum": 1,
            "maximum": 8,
            "help": f"How many at a time send what has {MIN_IMAGES_FOR_SECOND_ASSOCIATION} images or more.",
        },
    )
    retry: NotificationRetry = dataclasses.field(
        default=NotificationRetry(), metadata={"help": "When a notification that failed is sent again."}
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the ledger also survives the loss of power."},
    )
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that requests and delivered notifications stay in the list."}
    )
    keep_orphaned_days: float = dataclasses.field(
        default=30,
        metadata={
            "minimum": 0,
            "help": "Days, of running, that what waits for a service that is gone is kept; 0: for ever.",
        },
    )
    tcp_no_delay: bool = dataclasses.field(
        default=True, metadata={"help": "Send and receive at full speed: without, C-STORE is up to 70 times slower."}
    )


def name_of(service: Service) -> str:
    """Return the name to which what waits for a service is bound."""
    return service.name or f"{service.method} {urllib.parse.urlsplit(service.url).netloc.lower()}"


def check_settings(settings: Settings) -> None:
    """Check what the types don't say. Raises `SettingsError`."""
    positions: dict[str, int] = {}
    for number, service in enumerate(settings.notify):
        path = f"{SECTION}.Notify[{number}]"
        if not service.url:
            raise SettingsError(f"{path}.Url is missing")
        name = name_of(service)
        if not service.required and positions.setdefault(name, number) != number:
            raise SettingsError(
                f"{path}: found the name {json.dumps(name)} of Notify[{positions[name]}] again, allowed: a Name of its own for "
                "each, since what waits is bound to it"
            )
        _check_service(service, path)
    for number, rule in enumerate(settings.rules):
        if unknown := [name for name in rule.identifiers if name not in IDENTIFIER_FIELDS]:
            allowed = ", ".join(IDENTIFIER_FIELDS)
            raise SettingsError(f"{SECTION}.Rules[{number}].Identifiers: found {unknown[0]}, allowed: {allowed}")
    if "fetch" in (settings.mode, *(rule.mode for rule in settings.rules)) and not settings.fetch.sources:
        raise SettingsError(f"{SECTION}.Fetch.From is missing: whom to ask for what is not here")


def _check_service(service: Service, path: str) -> None:
    if service.required and service.when == "after":
        raise SettingsError(f'{path}.Required: found true with "When": "after", allowed: only before the move')
    if service.body is not None and service.method == "GET":
        raise SettingsError(f'{path}.Body: found one, allowed: only with "Method": "POST"')
    used = {name for text in (service.url, *texts_of(service.body)) for name in placeholders(text)}
    if service.when == "before" and used & set(RESULTS):
        raise SettingsError(f'{path}: {", ".join(sorted(used & set(RESULTS)))} are known only with "When": "after"')
    if service.username and service.token:
        raise SettingsError(f"{path}: found Username and Token, allowed: one of them")


def holds_moves_back(found: Any) -> bool:
    """Return whether a section that has no effect seems to hold moves back: by a `Required` service, or by the mode `notify`.

    Its words may be mistyped: what looks like one of the two counts.
    """
    if isinstance(found, dict):
        return any(
            (is_nearly(key, "Required") and value is not False) or holds_moves_back(value)
            for key, value in found.items()
        )
    if isinstance(found, list):
        return any(map(holds_moves_back, found))
    return isinstance(found, str) and is_nearly(found, "notify")
