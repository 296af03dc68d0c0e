# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tells services of each C-MOVE that Orthanc receives, and does the move as Orthanc itself would have done.

Whoever listens to C-MOVE replaces Orthanc's own, so this script does both: notifications by HTTP (before or after the
move, waited for or delivered later, at least once), and the move, or none, or one of what is first fetched from elsewhere.

    "CMoveInterceptor": {"Notify": [{"Url": "https://ris.example/moves?study={StudyInstanceUID}&to={TargetAET}"}]}

Without the section each request is an entry in the log, and is moved. To look at:

    GET /cmove-interceptor/status
    GET /cmove-interceptor/requests                       recent ones, with what came of them
    DELETE /cmove-interceptor/services/{name}             what waits for a service that is not configured any more

Needs nothing but Python's standard library. All keys: docs/cmove_interceptor.md.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import encodings.idna  # noqa: F401
import functools
import http
import http.client
import itertools
import json
import math
import os
import re
import sqlite3
import ssl
import threading
import time
import traceback
import urllib.parse
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import orthanc

from common.answers import KEPT_ALIVE, Refused, Request, one_line, serve, warn_if_open
from common.ledger import FORGOTTEN_AT_ONCE, Ledger
from common.loopback import Loopback, LoopbackError
from common.orphans import LOOK_EVERY, ORPHAN_TABLES, Orphans
from common.parameters import PAGE_PARAMETERS, Text, takes
from common.settings import SettingsError, is_nearly, not_empty, read_settings
from common.state import state_folder
from common.worker import Trouble, Worker

__version__ = "0.1.0"

SECTION = "CMoveInterceptor"
FIELDS = (
    "Level", "PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
    "OriginatorAET", "OriginatorID", "SourceAET", "TargetAET",
)  # fmt: skip
RESULTS = ("State", "Instances", "Completed", "Error")  # what a notification after the move may say besides
MOVES = ("move", "notify", "fetch")
UNIQUE = {"PATIENT": "PatientID", "SERIES": "SeriesInstanceUID", "INSTANCE": "SOPInstanceUID"}
TYPES = {"PATIENT": "Patient", "STUDY": "Study", "SERIES": "Series", "INSTANCE": "Instance"}
PATHS = {"PATIENT": "patients", "STUDY": "studies", "SERIES": "series", "INSTANCE": "instances"}
PEER_SECONDS = 30.0  # of one request to a peer
REQUIRED_AT_A_TIME = 2  # each holds one of Orthanc's few DICOM threads
REQUIRED_SECONDS = 5.0
REQUIRED_TURN = 1.0  # seconds that a move waits until fewer than that are under way
FETCHES_AT_A_TIME = 2
FIRST_LOOK, LOOK = 0.005, 0.1  # seconds until looking at a job that sends, and between looks
END_EVENT = 5.0  # seconds until a job that is not listed any more counts as failed, unless its end was heard of
MANY = 100  # images for which a second association is worth its while
PIECE = 64  # images of a job that sends some of a series: after each, Orthanc writes down the names of all
RAMP = (16, 32)  # images of the first pieces of a series, and backwards of the last
SLOW_NAMES = 30  # from this API version (1.12.11) SQLite reads the whole index for each image that a job names:
FEW, FEW_EACH = 2000, 4  # which pays up to so many images in the archive, and so many more for each of the series
AGAIN = (0.0, 0.1, 0.5, 2.0)  # seconds until what was refused beside another goes again: that one may still be open
PRIORITY = 100  # of the jobs that move: a caller waits for them, for those of forwarders nobody does
REMEMBERED_JOBS = 1000
TICK = 2.0  # seconds between looks for notifications that are due
UNDELIVERED = "state IN ('waiting','sending','dead')"
TABLES = f"""
{ORPHAN_TABLES}
CREATE TABLE IF NOT EXISTS requests(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, fields TEXT NOT NULL,
    mode TEXT NOT NULL, state TEXT NOT NULL, result TEXT NOT NULL, created REAL NOT NULL, ended REAL);
CREATE INDEX IF NOT EXISTS requests_by_state ON requests(state);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests(created);
"""
FORGET_EVERY = 60.0  # seconds
FORGET_REQUESTS = "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE created<? ORDER BY created LIMIT ?)"

T = TypeVar("T")


def _url(template: str) -> str | None:
    """What is allowed as a URL, unless this is: nothing of a request reaches into scheme, host or port."""
    parts = urllib.parse.urlsplit(template)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[{}@\s]", parts.netloc):
        return "http:// or https://, a host without placeholders or credentials, a path"
    if not re.fullmatch(r"[!-~]+", template) or parts.fragment:
        return "a URL of printable ASCII characters, without a fragment"
    return _template(template)


def _name(name: str | None) -> str | None:
    fits = name is None or (0 < len(name) <= 200 and name.isprintable() and name.strip() == name)
    return None if fits else "a text of one line, at most 200 characters"


def _template(template: str) -> str | None:
    unknown = [name for name in _names(template) if name not in (*FIELDS, *RESULTS, "RequestID")]
    return f"placeholders {', '.join(('RequestID', *FIELDS))}; after the move {', '.join(RESULTS)}" if unknown else None


def _body(body: Any) -> str | None:
    return next((complaint for text in _texts(body) if (complaint := _template(text))), None)


def _headers(headers: Mapping[str, Any]) -> str | None:
    plain = all(
        isinstance(value, str) and re.fullmatch(r"[!-~]([ -~]*[!-~])?", value) and re.fullmatch(r"[A-Za-z0-9-]+", name)
        for name, value in headers.items()
    )
    return None if plain else "names of headers and texts of printable ASCII characters"


def _sources(texts: Sequence[str]) -> str | None:
    known = all(re.fullmatch(r"(modality|peer):.+", text) for text in texts)
    return None if known else "modality:NAME or peer:NAME"


def _levels(texts: Sequence[str]) -> str | None:
    return None if texts and set(texts) <= set(TYPES) else ", ".join(TYPES)


@dataclasses.dataclass(frozen=True)
class Service:
    """One entry of `Notify`."""

    url: str = dataclasses.field(
        default="",
        metadata={
            "check": _url,
            "secret": True,
            "help": "Where to; `{StudyInstanceUID}` and the like stand in path and query.",
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
    username: str = dataclasses.field(default="", metadata={"help": "For basic authentication."})
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
            "help": "Destinations; `*` and `?` stand for any text, any character; not there: all.",
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
class Retry:
    """When a notification that failed goes again."""

    first: float = dataclasses.field(default=10, metadata={"minimum": 0.1, "help": "Seconds until the second attempt."})
    longest: float = dataclasses.field(
        default=3600, metadata={"minimum": 1, "help": "Most seconds between two attempts."}
    )
    give_up_hours: float = dataclasses.field(
        default=72, metadata={"minimum": 0, "help": "Hours after which it is `dead`."}
    )


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
        default=(), metadata={"help": "Whom to tell (below); none: the log."}
    )
    fetch: Fetch = dataclasses.field(default=Fetch(), metadata={"help": "From where `fetch` gets what is missing."})
    associations: int = dataclasses.field(
        default=2,
        metadata={
            "minimum": 1,
            "maximum": 8,
            "help": f"How many at a time send what has {MANY} images or more.",
        },
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "When a notification that failed goes again."})
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
            "help": "Days, of running, that what waits for a service is kept that is gone; 0: for ever.",
        },
    )
    tcp_no_delay: bool = dataclasses.field(
        default=True, metadata={"help": "Send and receive at full speed: without, C-STORE is up to 70 times slower."}
    )


# Requests and templates


def mode_of(fields: Mapping[str, str], settings: Settings) -> str:
    """What is done with a request."""
    return next((rule.mode for rule in settings.rules if _fits(rule, fields)), settings.mode)


def _fits(rule: Rule, fields: Mapping[str, str]) -> bool:
    return (
        (not rule.levels or fields["Level"] in rule.levels)
        and _any_like(rule.target_aets, fields["TargetAET"])
        and _any_like(rule.originator_aets, fields["OriginatorAET"])
        and all(
            # Of a list each must fit: a request is not what one of its identifiers is.
            all(_any_like((pattern,), value) for value in fields[name].split("\\"))
            for name, pattern in rule.identifiers.items()
        )
    )


def _any_like(patterns: Sequence[str], value: str) -> bool:
    wild = {"*": ".*", "?": "."}
    return not patterns or any(
        re.fullmatch("".join(wild.get(character) or re.escape(character) for character in pattern), value, re.DOTALL)
        for pattern in patterns
    )


def _names(template: str) -> list[str]:
    """The names of the placeholders; a brace that belongs to none counts as one, with no name that is known."""
    return [
        found[1] or found[2] or "?"
        for found in re.finditer(r"\{([A-Za-z]+)\}|\{\{|\}\}|([{}])", template)
        if found[1] or found[2]
    ]


def _filled(template: str, values: Mapping[str, Any], encode: Callable[[str], str]) -> str:
    def value(found: re.Match[str]) -> str:
        text = values.get(found[1])
        return {"{{": "{", "}}": "}"}.get(found[0]) or encode("" if text is None else str(text))

    return re.sub(r"\{\{|\}\}|\{([A-Za-z]+)\}", value, template)


def _texts(body: Any) -> Iterator[str]:
    if isinstance(body, str):
        yield body
    elif isinstance(body, dict):
        for each in body.values():
            yield from _texts(each)
    elif isinstance(body, list):
        for each in body:
            yield from _texts(each)


def filled_url(template: str, values: Mapping[str, Any]) -> str:
    """A URL with the values in it, each percent-encoded: no value makes up a parameter, a folder, or a way out of one."""

    def encode(text: str) -> str:
        return urllib.parse.quote(text, safe="", errors="replace")

    head, mark, query = template.partition("?")
    path = "/".join(_without_dots(_filled(segment, values, encode), segment) for segment in head.split("/"))
    return path + mark + _filled(query, values, encode)


def _without_dots(segment: str, template: str) -> str:
    """`..` that comes from a value climbs nowhere."""
    return segment.replace(".", "%2E") if segment != template and segment in (".", "..") else segment


def filled_body(body: Any, values: Mapping[str, Any]) -> Any:
    """JSON with the values in its texts."""
    if isinstance(body, str):
        return _filled(body, values, str)
    if isinstance(body, dict):
        return {name: filled_body(each, values) for name, each in body.items()}
    return [filled_body(each, values) for each in body] if isinstance(body, list) else body


def described(fields: Mapping[str, str]) -> str:
    """A request as the log tells it: identifiers, in one line whatever they hold."""
    return ", ".join(f"{name} {one_line(fields[name])!r}" for name in FIELDS if fields[name] not in ("", "0"))


# Telling services


class NotDeliveredError(Exception):
    """The service refused, or did not answer."""


class Caller:
    """Sends the requests to one service."""

    def __init__(self, service: Service) -> None:
        self.service, self.name = service, service.name or default_name(service.method, service.url)
        self._context = _tls(service) if service.url.startswith("https:") else None

    def prepared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What will be sent of a request, without what is secret."""
        body = None
        if self.service.method == "POST":
            body = dict(values) if self.service.body is None else filled_body(self.service.body, values)
        return {"Url": filled_url(self.service.url, values), "Body": body, "RequestID": values["RequestID"]}

    def send(self, prepared: Mapping[str, Any], timeout: float) -> None:
        """Send it. Redirects are not followed: where to is in the configuration. Raises `NotDeliveredError`."""
        url = urllib.parse.urlsplit(prepared["Url"])
        body = None if self.service.method == "GET" else json.dumps(prepared["Body"]).encode()
        connection = _connection(url.hostname or "", url.port, timeout, self._context)
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            headers = {"Idempotency-Key": prepared["RequestID"], **_headers_of(self.service)}
            connection.request(self.service.method, target, body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise NotDeliveredError(f"{type(error).__name__}: {one_line(error)}") from None
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise NotDeliveredError(f"it answered {status}")


def _connection(
    host: str, port: int | None, timeout: float, secure: ssl.SSLContext | None
) -> http.client.HTTPConnection:
    if secure is None:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=secure)


def _headers_of(service: Service) -> dict[str, str]:
    """The headers of each request to a service: who we are, and what is configured."""
    headers = {"User-Agent": f"cmove_interceptor/{__version__}"}
    if service.method == "POST":
        headers["Content-Type"] = "application/json"
    if service.username:
        pair = f"{service.username}:{service.password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif service.token:
        headers["Authorization"] = f"Bearer {service.token}"
    return {**headers, **service.headers}


def _tls(service: Service) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=service.ca_file)
    if not service.verify_tls:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if service.certificate_file:
        context.load_cert_chain(service.certificate_file, service.key_file)
    return context


class Notifier:
    """Tells services: those that are `Required` at once, the others from the ledger, each service by a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._retry, self._keep_days = settings.retry, settings.keep_orphaned_days
        self.callers = [Caller(service) for service in settings.notify]
        self.telling = {caller.name: caller for caller in self.callers if not caller.service.required}
        self._turns = threading.BoundedSemaphore(REQUIRED_AT_A_TIME)
        self._wake = {name: threading.Event() for name in self.telling}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, ledger: Any) -> None:
        self._ledger, self.orphans = ledger, Orphans(ledger, self._keep_days)
        self._bind_by_name()
        ledger.run("UPDATE work SET state='waiting' WHERE state='sending'")  # killed meanwhile: at least once
        found = {row["queue"] for row in ledger.rows(f"SELECT DISTINCT queue FROM work WHERE {UNDELIVERED}")}
        self.orphans.begin(found - self.telling.keys())
        if self.orphans.names():
            self._tell_of_orphans()
            self._begin_thread(self._keep_orphans)
        for name in self.telling:
            self._begin_thread(self._work, name)

    def _begin_thread(self, target: Callable[..., None], *arguments: str) -> None:
        thread = threading.Thread(target=target, args=arguments, name=f"cmove-notify {arguments}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _bind_by_name(self) -> None:
        """Bind what the first version wrote down, by position and URL, to the service that this is now.

        Which is the one at that position, if its method and host are the same; else the only one at that URL. What is
        for none is an orphan under its URL: nothing goes to another host.
        """
        rows = self._ledger.rows(
            "SELECT DISTINCT queue, CAST(subject AS INTEGER) position FROM work WHERE subject GLOB '[0-9]* *'"
        )
        with self._ledger.transaction() as db:
            for row in rows:
                place, position = row["queue"], row["position"]
                at = self.callers[position] if position < len(self.callers) else None
                there = [each for each in self.telling.values() if _place(each) == place]
                name = place
                if at and at.name in self.telling and _origin(_place(at)) == _origin(place):
                    name = at.name
                elif len(there) == 1 and [each["queue"] for each in rows].count(place) == 1:
                    name = there[0].name
                db.execute(
                    "UPDATE work SET queue=?, subject=substr(subject, instr(subject, ' ')+1) WHERE queue=? AND subject GLOB ?",
                    (name, place, f"{position} *"),
                )

    def _tell_of_orphans(self) -> None:
        states = self.services()
        shown = ", ".join(f"{one_line(name)} ({states[name]['Waiting']})" for name in self.orphans.names())
        orthanc.LogWarning(
            f"cmove_interceptor: no entry of Notify has the name of what notifications wait for: {shown}. They are kept until "
            "there is one, or DELETE /cmove-interceptor/services/NAME, or KeepOrphanedDays"
        )

    def _keep_orphans(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            with contextlib.suppress(sqlite3.Error, OSError):  # the disk is full, the folder away: later
                for name in self.orphans.expired():
                    self.drop(name)
                    orthanc.LogWarning(
                        f"cmove_interceptor: what waited for {one_line(name)} was kept for KeepOrphanedDays, and is dropped now"
                    )

    def drop(self, name: str) -> None:
        """Forget what waits for a service that is not configured any more."""
        with self._ledger.transaction() as db:
            db.execute(f"DELETE FROM work WHERE queue=? AND {UNDELIVERED}", (name,))
            self.orphans.forget(name)

    def services(self) -> dict[str, dict[str, Any]]:
        """What waits for each service by its name, those that are not configured any more included."""
        found: dict[str, Counter[str]] = {}
        rows = self._ledger.rows(f"SELECT queue, state, COUNT(*) n FROM work WHERE {UNDELIVERED} GROUP BY queue, state")
        for row in rows:
            found.setdefault(row["queue"], Counter())[row["state"]] += row["n"]
        states: dict[str, dict[str, Any]] = {name: {"State": "configured"} for name in self.telling}
        for name, (since, left) in self.orphans.names().items():
            states[name] = {"State": "orphaned", "OrphanedSince": _utc(since), "DaysLeft": left}
        for name, state in states.items():
            counts = found.get(name, Counter())
            state |= {"Waiting": counts["waiting"] + counts["sending"], "Dead": counts["dead"]}
        return states

    def stop(self, deadline: float) -> None:
        self._stopping.set()
        for wake in self._wake.values():
            wake.set()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def require(self, values: Mapping[str, Any]) -> None:
        """Ask the services that must agree. Raises `NotDeliveredError` for the first that does not."""
        for caller in self.callers:
            if caller.service.required:
                self._ask(caller, caller.prepared(values))

    def _ask(self, caller: Caller, prepared: Mapping[str, Any]) -> None:
        # In a thread of its own: a timeout of a socket starts anew with each byte that a service drips.
        if not self._turns.acquire(timeout=REQUIRED_TURN):
            raise NotDeliveredError(
                f"{_place(caller)}: {REQUIRED_AT_A_TIME} others wait for a required service already"
            )
        seconds = min(caller.service.timeout, REQUIRED_SECONDS)
        outcome: list[str | None] = []
        done, deadline = threading.Event(), time.monotonic() + seconds

        def ask() -> None:
            try:
                caller.send(prepared, seconds)
                outcome.append(None)
            except Exception as error:  # noqa: BLE001 - whatever it is: the service did not agree
                outcome.append(one_line(error))
            finally:
                self._turns.release()
                done.set()

        threading.Thread(target=ask, name="cmove-required", daemon=True).start()
        # The timeout of its socket may be the first to end.
        if not done.wait(seconds) or (outcome[0] is not None and time.monotonic() >= deadline):
            raise NotDeliveredError(f"{_place(caller)} did not answer within {seconds:g} s")
        if outcome[0] is not None:
            raise NotDeliveredError(f"{_place(caller)}: {outcome[0]}")

    def tell(self, when: str, values: Mapping[str, Any]) -> None:
        """Write down what services are to be told; they are told as soon as they listen."""
        for name, caller in self.telling.items():
            if caller.service.when == when:
                self._ledger.add(name, str(values["RequestID"]), {"Values": values})
                self._wake[name].set()

    def _work(self, name: str) -> None:
        caller, wake, trouble = self.telling[name], self._wake[name], Trouble("cmove_interceptor (notifications)")
        while not self._stopping.is_set():
            try:
                if self._deliver(caller):
                    self._measure()
                else:
                    wake.wait(TICK)
                    wake.clear()
                if not self._stopping.is_set():
                    trouble.is_over()
            except (sqlite3.Error, OSError) as error:
                if not self._stopping.is_set():
                    trouble.begins(f"cmove_interceptor delivers when this is over: {one_line(error)}", one_line(error))
                self._stopping.wait(TICK)
            except Exception:  # noqa: BLE001 - the next notification is not lost for it
                orthanc.LogError(f"cmove_interceptor can't deliver, please report this:\n{traceback.format_exc()}")
                self._stopping.wait(TICK)

    def _measure(self) -> None:
        """Tell Orthanc's metrics how many notifications are in which state."""
        for state, count in self._ledger.totals().items():
            if not self._stopping.is_set():
                orthanc.SetMetricsValue(
                    f"cmove_interceptor_notifications_{state}", float(count), orthanc.MetricsType.DEFAULT
                )

    def _deliver(self, caller: Caller) -> bool:
        """Deliver what is due to a service; whether there was something."""
        due = self._ledger.due(caller.name, 100, self._retry.longest)
        for row in due:
            if self._stopping.is_set():
                break
            self._ledger.start(row["id"])
            try:
                caller.send(self._prepared(caller, json.loads(row["data"])), caller.service.timeout)
            except NotDeliveredError as error:
                self._fail(row, caller.name, str(error))
            except Exception as error:  # noqa: BLE001 - of this notification alone: the next one goes
                self._fail(row, caller.name, f"it can't be sent: {type(error).__name__}: {one_line(error)}")
            else:
                self._ledger.end(row["id"], "done")
        return bool(due)

    @staticmethod
    def _prepared(caller: Caller, data: dict[str, Any]) -> dict[str, Any]:
        """What a row says, for the service as it is configured now; the first version wrote down what it would send."""
        return data if "Url" in data else caller.prepared(data["Values"])

    def _fail(self, row: Mapping[str, Any], place: str, error: str) -> None:
        retry = self._retry
        state = self._ledger.fail(
            row["id"], error, first=retry.first, longest=retry.longest, give_up_after=retry.give_up_hours * 3600
        )
        if row["attempts"] == 0 or state == "dead":
            after = "given up" if state == "dead" else "it goes again"
            orthanc.LogWarning(f"cmove_interceptor: a notification did not reach {place}: {error}; {after}")


def _place(caller: Caller) -> str:
    """A service as logs call it: its URL without what might be secret in it."""
    parts = urllib.parse.urlsplit(caller.service.url)
    return f"{caller.service.method} {parts.scheme}://{parts.netloc}{parts.path}"


def _origin(place: str) -> str:
    """Method, scheme, host and port of such a text."""
    return "/".join(place.split("/")[:3])


def default_name(method: str, url: str) -> str:
    """The name of a service that has none of its own."""
    return f"{method} {urllib.parse.urlsplit(url).netloc.lower()}"


# Moving


class Jobs:
    """The ends of Orthanc's jobs, as OnChange tells them: also of those that are forgotten at once (`JobsHistorySize` 0)."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, bool] = OrderedDict()
        self._changed = threading.Condition()

    def end(self, job: str, *, well: bool) -> None:
        with self._changed:
            self._ended[job] = well
            while len(self._ended) > REMEMBERED_JOBS:
                self._ended.popitem(last=False)
            self._changed.notify_all()

    def wait(self, jobs: Sequence[str], seconds: float) -> dict[str, bool]:
        """Those of the jobs that have ended, and whether well, as soon as there is one; none when the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: any(job in self._ended for job in jobs), seconds)
            return {job: self._ended[job] for job in jobs if job in self._ended}


class Failed(Exception):  # noqa: N818 - the move failed, not the script
    """The move can't be done, or ended badly."""


Destination: TypeAlias = tuple[str, Mapping[str, Any]]  # the name and the entry of one of DicomModalities


class Mover:
    """Sends what a request asks for, as Orthanc's own C-MOVE does."""

    def __init__(self, loopback: Any, jobs: Jobs, configuration: Mapping[str, Any]) -> None:
        self._loopback, self._jobs = loopback, jobs
        self.synchronous = bool(configuration.get("SynchronousCMove", True))
        self.concurrent_jobs = int(configuration.get("ConcurrentJobs", 2)) or os.cpu_count() or 1
        self._strict = bool(configuration.get("StrictAetComparison", False))
        self.stopping = threading.Event()

    def resources(self, fields: Mapping[str, str]) -> list[str]:
        """The Orthanc identifiers that a request means, as Orthanc looks them up; none if nothing is here.

        At the study level an AccessionNumber goes before the StudyInstanceUID; each may be a list. Raises `Failed` if what
        the level needs is missing.
        """
        tag, text = _key(fields)
        found: list[str] = []
        for token in text.split("\\"):
            if token.strip():
                found += self._lookup(TYPES[fields["Level"]], tag, token)
        return list(dict.fromkeys(found))

    def _lookup(self, level: str, tag: str, token: str) -> list[str]:
        if re.search(r"[*?]", token):  # characters like others here; in a search they would read the whole archive
            entries = self._loopback.request("POST", "/tools/lookup", token.encode())
            return [entry["ID"] for entry in entries if entry["Type"] == level]
        # Not that one for all: on 1.10.1 it knows no AccessionNumber, and elsewhere not by which tag it found something.
        find = {"Level": level, "Query": {tag: token}, "Expand": True}
        return [
            each["ID"]
            for each in self._loopback.post("/tools/find", find)
            if _normalized(each["MainDicomTags"].get(tag, "")) == _normalized(token)
        ]

    def destination(self, aet: str) -> Destination:
        """The name and the entry of `DicomModalities` with this AE title. Raises `Failed`."""
        for name, entry in sorted(self._loopback.get("/modalities?expand").items()):
            if entry["AET"] == aet or (not self._strict and entry["AET"].lower() == aet.lower()):
                return name, entry
        raise Failed(f"no modality has the AE title {one_line(aet)!r}")

    def series(self, level: str, resource: str) -> dict[str, list[str]]:
        """The series of a patient or study, or the series itself, each with its images."""
        if (
            self._loopback.finds_more
        ):  # a quarter of the time: reading one resource costs in proportion to the archive there
            find = {"Query": {}, f"Parent{TYPES[level]}": resource}
            if level == "SERIES":
                return {resource: self._loopback.post("/tools/find", {**find, "Level": "Instance"})}
            found = self._loopback.post("/tools/find", {**find, "Level": "Series", "ResponseContent": ["Children"]})
        elif level == "SERIES":
            found = [self._loopback.get(f"/series/{resource}")]
        else:
            found = self._loopback.get(f"/{PATHS[level]}/{resource}/series")
        return {each["ID"]: each["Instances"] for each in found}

    def names_images(self, count: int) -> bool:
        """Whether a series of so many images should go in pieces, whose jobs name images, and not by one that names it.

        Not where looking the names up takes longer than what the second association saves, which only Orthanc's own
        SQLite was seen to do.
        """
        if self._system.get("DatabaseBackendPlugin") or self._system["ApiVersion"] < SLOW_NAMES:
            return True
        return bool(self._loopback.get("/statistics")["CountInstances"] <= FEW + FEW_EACH * count)

    @functools.cached_property
    def _system(self) -> dict[str, Any]:
        return dict(self._loopback.get("/system"))

    def submit(self, fields: Mapping[str, str], destination: Destination, resources: Sequence[str]) -> str:
        """Let a job of Orthanc send resources to the destination; its identifier."""
        name, entry = destination
        body: dict[str, Any] = {"Resources": resources, "Synchronous": False, "Permissive": False, "Priority": PRIORITY}
        if int(fields["OriginatorID"]):
            body |= {"MoveOriginatorAet": fields["OriginatorAET"], "MoveOriginatorID": int(fields["OriginatorID"])}
        if entry.get("LocalAet"):
            body["LocalAet"] = entry["LocalAet"]
        return str(self._loopback.post(f"/modalities/{urllib.parse.quote(name, safe='')}/store", body)["ID"])

    def size(self, job: str) -> int:
        return int(self._loopback.get(f"/jobs/{job}")["Content"]["InstancesCount"])

    def wait(self, jobs: Sequence[str], pause: float = LOOK) -> list[str]:
        """Those of the jobs that have ended, as soon as there is one; after the pause all of them, to look at."""
        return list(self._jobs.wait(jobs, pause)) or list(jobs)

    def look(self, job: str) -> tuple[int, bool | None, str]:
        """The percentage of a job that is sent, whether it ended well (None: it goes on), and why not."""
        if self._jobs.wait([job], 0).get(job):
            return 100, True, ""
        try:
            state = self._loopback.get(f"/jobs/{job}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            well = self._jobs.wait([job], END_EVENT).get(job, False)
            return 100 * well, well, "" if well else "the job is not known any more"
        if state["State"] == "Success":
            return 100, True, ""
        failed = state["State"] in ("Failure", "Paused")
        return (
            state["Progress"],
            False if failed else None,
            state.get("ErrorDetails") or state["ErrorDescription"],
        )

    def cancel(self, *jobs: str) -> None:
        for job in jobs:
            with contextlib.suppress(LoopbackError):
                self._loopback.post(f"/jobs/{job}/cancel", {})

    def remove(self, instances: Sequence[str]) -> None:
        self._loopback.post("/tools/bulk-delete", {"Resources": list(instances)})


def least_sent(percent: int, total: int) -> int:
    """The least number of images of which Orthanc, rounding, says that so many percent are sent: up to 100 the very number."""
    return math.ceil((percent - 0.5) * total / 100)


def piece_sizes(count: int) -> list[int]:
    """In which pieces a series of so many images goes, none above `PIECE`.

    The first are small, so that the second association begins soon, and the last, so that both end together.
    """
    ramp = RAMP if count > 4 * sum(RAMP) else ()
    inner = count - 2 * sum(ramp)
    number = math.ceil(inner / PIECE)
    cuts = itertools.pairwise(inner * cut // number for cut in range(number + 1))
    return [*ramp, *(end - start for start, end in cuts), *reversed(ramp)]


def _normalized(value: str) -> str:
    """An identifier as Orthanc compares it: without spaces around, regard to case, and what is not ASCII."""
    return value.encode("ascii", "ignore").decode().strip().upper()


def _key(fields: Mapping[str, str]) -> tuple[str, str]:
    """The tag that tells what a request means, and its text. Raises `Failed` if it is not there."""
    if fields["Level"] == "STUDY":
        tag = "AccessionNumber" if fields["AccessionNumber"] else "StudyInstanceUID"
    else:
        tag = UNIQUE[fields["Level"]]
    if not fields[tag]:
        raise Failed(f"a C-MOVE at the level {fields['Level']} needs {tag}")
    return tag, fields[tag]


class Part:
    """What one job sends of a move, by an association of its own; `refused`: how often it was."""

    def __init__(self, resources: Sequence[str], total: int, job: str = "") -> None:
        self.resources, self.total, self.job = resources, total, job
        self.sent = self.refused = 0
        self.ended: bool | None = None
        self.error = ""

    @property
    def is_running(self) -> bool:
        return bool(self.job) and self.ended is None


class Move:
    """One request on its way: what `create` returns, `apply` follows and `free` ends."""

    def __init__(self, number: int, name: str, fields: Mapping[str, str], mode: str) -> None:
        self.number, self.name, self.fields, self.mode = number, name, fields, mode
        self.destination: Destination = "", {}
        self.parts: list[Part] = []
        self.total = self.applied = 0
        self.one_by_one = False  # the destination has refused an association beside another
        self.followed = True  # False: nobody knows how many of its images were sent
        self.error = ""
        self.fetched: list[str] = []

    @property
    def sent(self) -> int:
        return sum(part.sent for part in self.parts)

    @property
    def jobs(self) -> list[str]:
        return [part.job for part in self.parts if part.job]


class Interceptor:
    """The script's callbacks and routes."""

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], refusal: str | None) -> None:
        self.refusal = refusal
        self._settings, self._configuration = settings, configuration
        self._loopback = Loopback(configuration)
        if not refusal and not self._loopback.enabled:
            self.refusal = 'cmove_interceptor stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
        self._notifier, self._jobs = Notifier(settings), Jobs()
        self._mover = Mover(self._loopback, self._jobs, configuration)
        self._fetcher = Fetcher(self._loopback, self._mover, settings.fetch, configuration)
        self._worker = Worker("cmove_interceptor", self._open, self._turn)
        self._interrupted: list[dict[str, Any]] = []
        self._ended: Counter[str] = Counter()

    # From start to stop

    def on_change(self, change: int, _level: int, resource: str) -> None:
        if change in (orthanc.ChangeType.JOB_SUCCESS, orthanc.ChangeType.JOB_FAILURE):
            self._jobs.end(resource, well=change == orthanc.ChangeType.JOB_SUCCESS)
        elif change == orthanc.ChangeType.ORTHANC_STARTED:
            if self.refusal:
                orthanc.LogError(self.refusal)
            else:
                self._worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._mover.stopping.set()
            deadline = time.monotonic() + 2
            self._worker.end(2)
            self._notifier.stop(deadline)
            self._worker.stop(deadline - time.monotonic())

    def unavailable(self) -> str | None:
        """Return why nothing works, or None."""
        return self.refusal or self._worker.why_not()

    def _open(self) -> Ledger:
        folder = state_folder(self._settings.state_path, self._configuration)
        self._ledger = Ledger(folder / "cmove_interceptor.sqlite", TABLES, durability=self._settings.durability)
        try:
            self._interrupted = self._ledger.rows("SELECT * FROM requests WHERE state='moving'")
            self._notifier.start(self._ledger)
        except BaseException:
            self._ledger.close()
            raise
        return self._ledger

    def _turn(self) -> float:
        """End what was interrupted, and forget some of what ended `KeepDoneDays` ago; return the seconds until more may go."""
        while self._interrupted:
            self._end_interrupted(self._interrupted[0])
            self._interrupted.pop(0)
        days = self._settings.keep_done_days
        more = self._ledger.forget_finished(days)
        before = time.time() - days * 86400
        more |= self._ledger.run(FORGET_REQUESTS, before, FORGOTTEN_AT_ONCE) == FORGOTTEN_AT_ONCE
        return 0.1 if more else FORGET_EVERY

    def _end_interrupted(self, row: Mapping[str, Any]) -> None:
        """End a move during which Orthanc was killed: its caller is gone, and nobody knows how many images were sent."""
        move = Move(row["id"], row["name"], json.loads(row["fields"]), row["mode"])
        found = json.loads(row["result"])
        move.parts, move.total = [Part((), 0, job) for job in found.get("Jobs", [])], found.get("Instances", 0)
        move.followed, move.error = False, "Orthanc ended during the move"
        if move.parts and not self._mover.synchronous:
            return self._finish(move, "submitted")
        self._mover.cancel(*move.jobs)  # Orthanc's own move would have ended there, a job goes on
        return self._finish(move, "interrupted")

    # A move, by the callbacks of plugin 4.2 and later

    def create(self, **request: Any) -> Move:
        """Begin a move. What is raised here, the caller gets as 0xC000: unable to process."""
        fields = {name: str(request.get(name) or "") for name in FIELDS}
        fields["OriginatorID"] = str(request.get("OriginatorID") or 0)
        orthanc.LogWarning(f"cmove_interceptor: C-MOVE of {described(fields)}")
        if reason := self.unavailable():
            raise Failed(reason)
        mode = mode_of(fields, self._settings)
        name = str(uuid.uuid4())
        number = self._write_down(name, fields, mode)
        move = Move(number, name, fields, mode)
        try:
            self._notifier.require(self._values(move))
            self._notifier.tell("before", self._values(move))
            return self._begin(move)
        except Exception as error:
            self._mover.cancel(*move.jobs)
            move.error = one_line(error)
            self._finish(move, "failed")
            orthanc.LogError(f"cmove_interceptor: C-MOVE to {one_line(fields['TargetAET'])!r} failed: {move.error}")
            raise

    def _begin(self, move: Move) -> Move:
        if move.mode == "notify":
            return move
        if move.mode == "fetch":
            move.fetched = self._fetcher.complete(move.fields)
        resources = self._mover.resources(move.fields)
        if not resources:
            raise Failed("nothing here is what the request means")
        move.destination = self._mover.destination(move.fields["TargetAET"])
        move.parts = self._parts(move.fields["Level"], resources)
        # Where nothing can be sent, the caller gets what Orthanc alone would say, and no second association is tried.
        self._send(move, move.parts[0])
        move.parts[0].total = move.parts[0].total or self._mover.size(move.jobs[0])
        move.total = sum(part.total for part in move.parts)
        self._follow(move, 1, FIRST_LOOK)
        self._send_more(move)
        return move

    def _parts(self, level: str, resources: Sequence[str]) -> list[Part]:
        """What each job sends; the number of images is 0 where it is not known.

        One sends all; or, where images are many, there is one for each association, with whole series. Only a series that is
        more than what one association should send goes in pieces, if naming its images costs little.
        """
        at_once = self._settings.associations
        if level == "INSTANCE" or at_once == 1 or not self._mover.synchronous:
            return [Part(resources, 0)]
        series = {each: ids for resource in resources for each, ids in self._mover.series(level, resource).items()}
        total = sum(map(len, series.values()))
        if total < MANY:
            return [Part(resources, total)]
        shares: list[list[str]] = [[] for _ in range(at_once)]
        pieces: list[Part] = []
        for each in sorted(series, key=lambda each: -len(series[each])):  # the longest first, where there is least
            if (count := len(series[each])) <= max(total / at_once, PIECE) or not self._mover.names_images(count):
                min(shares, key=lambda share: sum(len(series[other]) for other in share)).append(each)
            else:
                cuts = itertools.pairwise(itertools.accumulate(piece_sizes(count), initial=0))
                pieces += [Part(series[each][start:end], end - start) for start, end in cuts]
        return [Part(share, sum(len(series[each]) for each in share)) for share in shares if share] + pieces

    def size(self, move: Move) -> int:
        return move.total

    def apply(self, move: Move) -> None:
        """Wait until one more image is sent; what is raised here ends the move with 0xB000: not all arrived."""
        move.applied += 1
        self._follow(move, move.applied)

    def _follow(self, move: Move, count: int, pause: float = LOOK) -> None:
        """Wait until so many images are sent. Raises `Failed` if they can't be."""
        if not move.parts or not self._mover.synchronous:
            return
        while move.sent < count:
            self._send_more(move)
            if not (running := [part for part in move.parts if part.is_running]):
                raise Failed(next(part.error for part in move.parts if part.ended is False))
            seen = self._mover.wait([part.job for part in running], pause)
            for part in (part for part in running if part.job in seen):
                if self._mover.stopping.is_set():
                    raise Failed("Orthanc is stopping")
                percent, part.ended, part.error = self._mover.look(part.job)
                part.sent = part.total if part.ended else max(part.sent, least_sent(percent, part.total))
                # A destination may take one association at a time: what another got nothing through goes after it.
                if part.ended is False and not part.sent and move.sent and part.refused < len(AGAIN):
                    part.job, part.ended, part.refused, move.one_by_one = "", None, part.refused + 1, True
            pause = min(2 * pause, LOOK)

    def _send_more(self, move: Move) -> None:
        """Begin as many parts as may run, unless one has failed.

        Where Orthanc itself runs no more jobs at a time, one more waits there: else a job that nobody waits for would take the
        place of each part that ends.
        """
        if any(part.ended is False for part in move.parts):
            return
        at_once = self._settings.associations
        most = 1 if move.one_by_one or not move.sent else at_once + (self._mover.concurrent_jobs <= at_once)
        for part in move.parts:
            if not part.job and sum(other.is_running for other in move.parts) < most:
                if part.refused:
                    self._mover.stopping.wait(AGAIN[part.refused - 1])
                try:
                    self._send(move, part)
                except (Failed, LoopbackError) as error:  # an image is gone, or the modality
                    part.ended, part.error = False, f"some of it can't be sent, was it deleted? {one_line(error)}"
                    return

    def _send(self, move: Move, part: Part) -> None:
        part.job = self._mover.submit(move.fields, move.destination, part.resources)
        self._note(move)

    def free(self, move: Move) -> None:
        """The end of a move: all was sent, it failed, or the caller has gone."""
        errors = [part.error for part in move.parts if part.ended is False]
        if not move.parts or (self._mover.synchronous and move.applied >= move.total == move.sent):
            state = "done"
        elif not self._mover.synchronous:
            state, move.followed = "submitted", False
        elif errors:
            state, move.error = "failed", errors[0]
        else:
            self._mover.cancel(*move.jobs)
            state, move.error = "abandoned", "the caller went away"
        if move.fetched and not self._settings.fetch.keep and state != "submitted":
            self._mover.remove(move.fetched)
        self._finish(move, state)

    # The same for plugin 4.0 and 4.1, which know success and 0xB000 only, and one sub-operation

    def whole(self, **request: Any) -> None:
        """Do a move from beginning to end."""
        move = self.create(**request)
        try:
            for _ in range(move.total):
                self.apply(move)
        finally:
            self.free(move)

    # What is written down

    def _write_down(self, name: str, fields: Mapping[str, str], mode: str) -> int:
        with self._ledger.transaction() as db:
            values = (name, json.dumps(fields), mode, time.time())
            return int(
                db.execute("INSERT INTO requests VALUES(NULL,?,?,?,'moving','{}',?,NULL)", values).lastrowid or 0
            )

    def _note(self, move: Move) -> None:
        if move.parts:
            self._ledger.run("UPDATE requests SET result=? WHERE id=?", json.dumps(self._result(move)), move.number)

    def _result(self, move: Move) -> dict[str, Any]:
        completed = move.sent if move.followed else None
        return {"Jobs": move.jobs, "Instances": move.total, "Completed": completed, "Error": move.error}

    def _finish(self, move: Move, state: str) -> None:
        with self._ledger.transaction():  # killed in between, nobody would be told
            sql = "UPDATE requests SET state=?,result=?,ended=? WHERE id=?"
            self._ledger.run(sql, state, json.dumps(self._result(move)), time.time(), move.number)
            self._notifier.tell("after", {**self._values(move), **self._result(move), "State": state})
            self._ended[state] += 1
        count = float(self._ended[state])
        orthanc.SetMetricsValue(f"cmove_interceptor_moves_{state}", count, orthanc.MetricsType.DEFAULT)

    def _values(self, move: Move) -> dict[str, Any]:
        return {"RequestID": move.name, **move.fields}

    # What there is to look at

    def status(self, _request: Request) -> Any:
        """Whether it runs, how many requests and notifications there are in each state."""
        rows = self._ledger.rows("SELECT state, COUNT(*) n FROM requests GROUP BY state")
        return {
            "State": "running",
            "Mode": self._settings.mode,
            "Requests": {row["state"]: row["n"] for row in rows},
            "Notifications": self._ledger.totals(),
            "Services": self._notifier.services(),
            "Version": __version__,
        }

    @takes({**PAGE_PARAMETERS, "state": Text()})
    def requests(self, request: Request) -> Any:
        """A page of requests, newest first, with what came of them: `since` (the last one's id), `limit`, `state`."""
        query = request.parameters
        since, limit = query.get("since", 2**62), query.get("limit", 100)
        where, values = ("AND state=?", (query["state"],)) if "state" in query else ("", ())
        rows = self._ledger.rows(
            f"SELECT * FROM requests WHERE id<? {where} ORDER BY id DESC LIMIT ?",
            *(since, *values, limit + 1),
        )
        total = self._ledger.rows(f"SELECT COUNT(*) n FROM requests WHERE 1 {where}", *values)[0]["n"]
        items = [self._item(row) for row in rows[:limit]]
        return {"Total": total, "Items": items, "Next": items[-1]["ID"] if len(rows) > limit else None}

    def drop_service(self, request: Request) -> Any:
        """Drop what waits for a service that is not configured any more."""
        given, services = request.groups[0], self._notifier.services()
        # Whether a path arrives decoded depends on the web server.
        name = next((each for each in (given, urllib.parse.unquote(given)) if each in services), None)
        if name is None:
            orphaned = ", ".join(self._notifier.orphans.names()) or "none"
            raise Refused(404, f"There is no service {one_line(given)}; orphaned are: {orphaned}")
        if services[name]["State"] != "orphaned":
            raise Refused(409, f"The service {name} is configured: take it out of the configuration first")
        self._notifier.drop(name)
        return {"Service": name, **services[name], "State": "dropped"}

    def _item(self, row: Mapping[str, Any]) -> dict[str, Any]:
        told = [
            {"Service": each["queue"], "State": each["state"], "Attempts": each["attempts"], "Error": each["error"]}
            for each in self._ledger.rows("SELECT * FROM work WHERE subject=? ORDER BY id", row["name"])
        ]
        return {
            "ID": row["id"],
            "RequestID": row["name"],
            "Request": json.loads(row["fields"]),
            "Mode": row["mode"],
            "State": row["state"],
            **json.loads(row["result"]),
            "Notifications": told,
            "Created": _utc(row["created"]),
            "Ended": _utc(row["ended"]),
        }


def _utc(seconds: float | None) -> str | None:
    moment = None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)  # noqa: UP017
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


# Fetching


class Fetcher:
    """Gets what a request means and is not here, or only in part, from other modalities and peers."""

    def __init__(self, loopback: Any, mover: Mover, settings: Fetch, configuration: Mapping[str, Any]) -> None:
        self._loopback, self._mover, self._settings = loopback, mover, settings
        self._configuration = configuration
        self._aet = str(configuration.get("DicomAet", "ORTHANC"))
        self._turns = threading.BoundedSemaphore(FETCHES_AT_A_TIME)

    def complete(self, fields: Mapping[str, str]) -> list[str]:
        """Fetch what is missing; the instances that came. Raises `Failed` when too many fetch already."""
        tag, text = _key(fields)
        if re.search(r"[*?]", text):
            raise Failed(f"{tag} has a wildcard: elsewhere it would mean more than the request does")
        if not self._turns.acquire(blocking=False):
            # Who waits here holds one of Orthanc's few DICOM threads, too.
            raise Failed(f"{FETCHES_AT_A_TIME} other requests are being fetched already")
        try:
            deadline = time.monotonic() + self._settings.seconds
            before = set(self._instances(fields))
            for token in text.split("\\"):
                self._fetch({**fields, tag: token}, tag, token, deadline)
            return sorted(set(self._instances(fields)) - before)
        finally:
            self._turns.release()

    def _instances(self, fields: Mapping[str, str]) -> list[str]:
        if fields["Level"] == "INSTANCE":
            return self._mover.resources(fields)
        route = PATHS[fields["Level"]]
        return [
            instance["ID"]
            for resource in self._mover.resources(fields)
            for instance in self._loopback.get(f"/{route}/{resource}/instances?expand")
        ]

    def _fetch(self, fields: Mapping[str, str], tag: str, token: str, deadline: float) -> None:
        """Ask one source after the other until as much is here as the fullest of them has."""
        for source in self._settings.sources:
            kind, _, name = source.partition(":")
            try:
                ask = self._from_modality if kind == "modality" else self._from_peer
                if ask(name, fields, tag, token, deadline):
                    return
            except (LoopbackError, Failed) as error:
                orthanc.LogWarning(f"cmove_interceptor: {one_line(source)} did not help: {one_line(error)}")

    def _from_modality(self, name: str, fields: Mapping[str, str], tag: str, token: str, deadline: float) -> bool:
        """Retrieve from a modality what it has more of than we have; whether it had anything."""
        level, name = TYPES[fields["Level"]], urllib.parse.quote(name, safe="")
        count = {"Patient": "NumberOfPatientRelatedInstances", "Study": "NumberOfStudyRelatedInstances",
                 "Series": "NumberOfSeriesRelatedInstances"}.get(level)  # fmt: skip
        query = {**_parents(fields), tag: token, **({count: ""} if count else {})}
        found = self._loopback.post(f"/modalities/{name}/query", {"Level": level, "Query": query})
        answers = self._loopback.get(f"/queries/{found['ID']}/answers?expand&simplify")
        try:
            for number, answer in enumerate(answers):
                there = answer.get(count, "") if count else "1"
                here = len(self._instances(fields))
                if not here or (str(there).isdigit() and int(there) > here):
                    job = self._loopback.post(
                        f"/queries/{found['ID']}/answers/{number}/retrieve",
                        {"TargetAet": self._aet, "Synchronous": False},
                    )["ID"]
                    self._follow(job, deadline)
        finally:
            self._loopback.request("DELETE", f"/queries/{found['ID']}")
        return bool(answers)

    def _follow(self, job: str, deadline: float) -> None:
        ended: bool | None = None
        while ended is None:
            if time.monotonic() > deadline or self._mover.stopping.is_set():
                self._mover.cancel(job)
                raise Failed(f"it was not fetched within {self._settings.seconds:g} s")
            self._mover.wait([job])
            _, ended, error = self._mover.look(job)
        if not ended:
            raise Failed(error)

    def _from_peer(self, name: str, fields: Mapping[str, str], tag: str, token: str, deadline: float) -> bool:
        """Copy from a peer the instances that it has and we have not; whether it had anything."""
        peer = Peer(self._configuration, name)
        level, route = TYPES[fields["Level"]], PATHS[fields["Level"]]
        found = peer.ask("POST", "/tools/find", {"Level": level, "Query": {tag: token}})
        here = set(self._instances(fields)) if found else set()
        there = found if level == "Instance" else [
            instance["ID"] for each in found for instance in peer.ask("GET", f"/{route}/{each}/instances")
        ]  # fmt: skip
        for instance in there:
            if instance not in here:  # the same image has the same identifier everywhere
                if time.monotonic() > deadline or self._mover.stopping.is_set():
                    raise Failed(f"it was not fetched within {self._settings.seconds:g} s")
                self._loopback.request("POST", "/instances", peer.request("GET", f"/instances/{instance}/file"))
        return bool(found)


class Peer:
    """Another Orthanc, as `OrthancPeers` of the configuration has it."""

    def __init__(self, configuration: Mapping[str, Any], name: str) -> None:
        entry = configuration.get("OrthancPeers", {}).get(name)
        if entry is None:
            raise Failed(f"{name} is not in OrthancPeers")
        if isinstance(entry, list):
            entry = dict(zip(("Url", "Username", "Password"), entry, strict=False))
        self._url = urllib.parse.urlsplit(entry["Url"])
        self._service = Service(
            username=entry.get("Username", ""),
            password=entry.get("Password", ""),
            headers=entry.get("HttpHeaders", {}),
            verify_tls=bool(configuration.get("HttpsVerifyPeers", True)),
            ca_file=configuration.get("HttpsCACertificates") or None,
            certificate_file=entry.get("CertificateFile"),
            key_file=entry.get("CertificateKeyFile"),
        )

    def ask(self, method: str, path: str, body: Any = None) -> list[Any]:
        """A list that it answers with. Raises `Failed`."""
        try:
            found = json.loads(self.request(method, path, body))
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise Failed(f"{method} {path} was not answered as Orthanc does")
        return found

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        url, data = self._url, None if body is None else json.dumps(body).encode()
        secure = _tls(self._service) if url.scheme == "https" else None
        connection = _connection(url.hostname or "", url.port, PEER_SECONDS, secure)
        try:
            connection.request(method, url.path.rstrip("/") + path, data, _headers_of(self._service))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"it does not answer: {type(error).__name__}") from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise Failed(f"{method} {path} was answered {response.status}")
        return content


def _parents(fields: Mapping[str, str]) -> dict[str, str]:
    """The identifiers above the level of a request, which a hierarchical query needs (DICOM PS3.4 C.4.1.3.1)."""
    above = {"PATIENT": (), "STUDY": ("PatientID",), "SERIES": ("PatientID", "StudyInstanceUID"),
             "INSTANCE": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")}[fields["Level"]]  # fmt: skip
    return {name: fields[name] for name in above if fields[name]}


def check_settings(settings: Settings, configuration: Mapping[str, Any]) -> None:
    """What the types don't say. Raises `SettingsError`."""
    names: dict[str, int] = {}
    for number, service in enumerate(settings.notify):
        path = f"{SECTION}.Notify[{number}]"
        if not service.url:
            raise SettingsError(f"{path}.Url is missing")
        name = service.name or default_name(service.method, service.url)
        if not service.required and names.setdefault(name, number) != number:
            raise SettingsError(
                f"{path}: found the name {json.dumps(name)} of Notify[{names[name]}] again, allowed: a Name of its own for "
                "each, since what waits is bound to it"
            )
        if service.required and service.when == "after":
            raise SettingsError(f'{path}.Required: found true with "When": "after", allowed: only before the move')
        if service.body is not None and service.method == "GET":
            raise SettingsError(f'{path}.Body: found one, allowed: only with "Method": "POST"')
        used = {name for text in (service.url, *_texts(service.body)) for name in _names(text)}
        if service.when == "before" and used & set(RESULTS):
            raise SettingsError(f'{path}: {", ".join(sorted(used & set(RESULTS)))} are known only with "When": "after"')
        if service.username and service.token:
            raise SettingsError(f"{path}: found Username and Token, allowed: one of them")
    for number, rule in enumerate(settings.rules):
        if unknown := [name for name in rule.identifiers if name not in FIELDS[1:6]]:
            allowed = ", ".join(FIELDS[1:6])
            raise SettingsError(f"{SECTION}.Rules[{number}].Identifiers: found {unknown[0]}, allowed: {allowed}")
    if (
        settings.mode == "fetch" or any(rule.mode == "fetch" for rule in settings.rules)
    ) and not settings.fetch.sources:
        raise SettingsError(f"{SECTION}.Fetch.From is missing: whom to ask for what is not here")


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        check_settings(settings, configuration)
        interceptor = Interceptor(settings, configuration, None)
    except (SettingsError, OSError) as error:  # OSError: a certificate can't be read (ssl.SSLError is one)
        holds = holds_moves_back([found for key, found in configuration.items() if is_nearly(key, SECTION)])
        does = "refuses every C-MOVE" if holds else "moves as Orthanc does and tells nobody"
        refusal = f"{error}. cmove_interceptor {does} until this is corrected."
        orthanc.LogError(refusal)
        return _serve(Interceptor(Settings(), configuration, refusal), refuse=holds)
    if settings.tcp_no_delay:
        os.environ["TCP_NODELAY"] = "1"  # DCMTK reads it at each connection, in both directions
    warn_if_open("cmove_interceptor", configuration)
    if interceptor.refusal:
        orthanc.LogError(interceptor.refusal)
    return _serve(interceptor, refuse=holds_moves_back(configuration.get(SECTION)))


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


def _serve(interceptor: Interceptor, *, refuse: bool = False) -> None:
    serve("/cmove-interceptor/status", {"GET": interceptor.status}, interceptor.unavailable)
    serve("/cmove-interceptor/requests", {"GET": interceptor.requests}, interceptor.unavailable)
    serve("/cmove-interceptor/services/(.+)", {"DELETE": interceptor.drop_service}, interceptor.unavailable)
    if interceptor.refusal and not refuse:
        return  # not registering leaves Orthanc's own C-MOVE in place
    KEPT_ALIVE.append(interceptor)
    if not interceptor.refusal:
        KEPT_ALIVE.append(interceptor.on_change)
        orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-1])
    # RegisterMoveCallback3 (plugin 7.0) tells the caller's address besides; statuses and counts are no truer with it.
    if hasattr(orthanc, "RegisterMoveCallback2"):
        callbacks = (interceptor.create, interceptor.size, interceptor.apply, interceptor.free)
        KEPT_ALIVE.extend(callbacks)
        orthanc.RegisterMoveCallback2(*callbacks)
    else:
        KEPT_ALIVE.append(interceptor.whole)
        orthanc.RegisterMoveCallback(interceptor.whole)


register()
