# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section CMoveInterceptor of the configuration."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from common.outside import proxy_or_null
from common.path_segments import has_dot_segments
from common.retry import Retry
from common.settings import SettingsError, durability_field, empty_values, is_nearly, not_empty, state_path_field

from .move_request import IDENTIFIER_FIELDS, LEVELS
from .templates import RESULTS, placeholders, texts_of, wrong_template

SECTION = "CMoveInterceptor"
MOVES = ("move", "notify", "fetch")
MIN_IMAGES_FOR_SECOND_ASSOCIATION = 100  # fewer are sent as fast by one
FIRST_NOTIFICATION_DELAY_SECONDS = 10.0  # until the second attempt


def _url(template: str) -> str | None:
    """Return what is allowed as a URL, unless this is: nothing of a request reaches into scheme, host or port."""
    parts = urllib.parse.urlsplit(template)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[{}@\s]", parts.netloc):
        return "http:// or https://, a host without placeholders or credentials, a path"
    if not re.fullmatch(r"[!-~]+", template) or parts.fragment:
        return "a URL of printable ASCII characters, without a fragment"
    if has_dot_segments(parts.path):
        return "a URL whose path has no part . or .."
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
        default="GET", metadata={"choices": ("GET", "POST"), "help": "HTTP method. For both, write two entries."}
    )
    body: Any = dataclasses.field(
        default=None,
        metadata={
            "check": _body,
            "secret": True,
            "help": "JSON of a POST, placeholders in its texts; null: all fields of the request.",
        },
    )
    headers: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"check": _headers, "secret": True, "help": "More HTTP headers, by name."}
    )
    username: str = dataclasses.field(default="", metadata={"check": _name, "help": "User for basic authentication."})
    password: str = dataclasses.field(
        default="", metadata={"secret": True, "help": "Password for basic authentication."}
    )
    token: str = dataclasses.field(default="", metadata={"secret": True, "help": "Token for bearer authentication."})
    verify_tls: bool = dataclasses.field(
        default=True,
        metadata={
            "help": "Check the service's certificate. To trust one of your own, set `CaFile` rather than false here."
        },
    )
    ca_file: str | None = dataclasses.field(
        default=None, metadata={"help": "Certificates to trust (PEM); null: those of the system."}
    )
    certificate_file: str | None = dataclasses.field(
        default=None, metadata={"help": "Client certificate, with its key or `KeyFile` (PEM)."}
    )
    key_file: str | None = dataclasses.field(default=None, metadata={"help": "Key of the client certificate."})
    proxy: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": proxy_or_null,
            "secret": True,
            "help": "`http://[USER:PASSWORD@]HOST:PORT`; null: none, whatever the environment says.",
        },
    )
    timeout: float = dataclasses.field(
        default=10,
        metadata={
            "minimum": 0.1,
            "maximum": 300,
            "help": "Seconds to connect, and for a silence; twice that in all. Of a `Required` one at most 5 in all.",
        },
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

    mode: str = dataclasses.field(
        default="move", metadata={"choices": MOVES, "help": "What is done with the requests that match."}
    )
    levels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": _levels, "help": "PATIENT, STUDY, SERIES, INSTANCE; without the key: all."}
    )
    target_aets: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "TargetAETs",
            "check": not_empty,
            "help": "AE titles of destinations, with `*` and `?`; without the key: all.",
        },
    )
    originator_aets: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "OriginatorAETs",
            "check": not_empty,
            "help": "AE titles of those who ask, with `*` and `?`; without the key: all.",
        },
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
        default=60,
        metadata={
            "minimum": 1,
            "maximum": 3600,
            "help": (
                "Time limit for all that one request fetches; who asks waits as long. More for an archive that is slow."
            ),
        },
    )
    keep: bool = dataclasses.field(
        default=True, metadata={"help": "False: what was fetched is deleted after the move."}
    )


@dataclasses.dataclass(frozen=True)
class NotificationRetry(Retry):
    """When a notification that failed is sent again: sooner than other work, for it is small."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "First": "the script decides that itself now (it tries again after 10 s, then after twice as long each time)",
        "Longest": "the script decides that itself now (an hour)",
    }
    first: ClassVar[float] = FIRST_NOTIFICATION_DELAY_SECONDS

    give_up_hours: float = dataclasses.field(
        default=72,
        metadata={
            "minimum": 0,
            "help": (
                "Hours for which it is tried again; then it is `dead`. Choose more than the longest outage that you expect."
            ),
        },
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `CMoveInterceptor`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "TcpNoDelay": "DICOM goes at full speed now, unless Orthanc's environment has another value of TCP_NODELAY",
    }

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
            "help": f"Associations at a time for a move of {MIN_IMAGES_FOR_SECOND_ASSOCIATION} images or more. "
            "1 if destinations take one at a time.",
        },
    )
    retry: NotificationRetry = dataclasses.field(
        default=NotificationRetry(), metadata={"help": "For how long a notification that failed is sent again."}
    )
    state_path: str | None = state_path_field()
    durability: str = durability_field()
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that requests and delivered notifications stay in the list."}
    )
    keep_orphaned_days: float = dataclasses.field(
        default=30,
        metadata={
            "minimum": 0,
            "help": (
                "Days (of running) for which notifications are kept whose service is not in `Notify` any more; "
                "0: for ever."
            ),
        },
    )


def name_of(service: Service) -> str:
    """Return the name to which what waits for a service is bound."""
    return service.name or f"{service.method} {urllib.parse.urlsplit(service.url).netloc.lower()}"


def calls_services(settings: Settings) -> bool:
    """Return whether services or peers are called over HTTP."""
    fetches = "fetch" in (settings.mode, *(rule.mode for rule in settings.rules))
    return bool(settings.notify) or (fetches and any(source.startswith("peer:") for source in settings.fetch.sources))


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
