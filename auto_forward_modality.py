# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forwards each study that becomes stable to DICOM nodes (C-STORE), so that it arrives.

What is sent is written down first: a restart, `kill -9`, or a node that is away for days loses nothing. Failed
deliveries go again, ever more rarely, for three days. What the archive held before this script came is never sent by itself.

A smallest configuration (without the section, every node in `DicomModalities` gets every study):

    "DicomModalities": {"PACS": ["PACS", "192.168.1.10", 104]},
    "AutoForwardModality": {"Destinations": ["PACS"]}

To look at and to act on, with curl:

    GET  /auto-forward-modality/status
    GET  /auto-forward-modality/deliveries?state=dead        also destination=, study=, job=, since=, limit=
    POST /auto-forward-modality/deliveries/{id}/retry        and DELETE /auto-forward-modality/deliveries/{id}
    POST /auto-forward-modality/backfill                     {"From": "20240101", "To": "20240131", "DryRun": true}

Needs nothing but Python's standard library. All keys: docs/auto_forward_modality.md.
"""

from __future__ import annotations

import calendar
import contextlib
import dataclasses
import datetime
import difflib
import encodings.idna  # noqa: F401
import functools
import http
import http.client
import json
import os
import random
import re
import sqlite3
import ssl
import threading
import time
import traceback
import types
import typing
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orthanc

__version__ = "0.1.0"

SECTION = "AutoForwardModality"


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a delivery that failed goes again."""

    first: float = dataclasses.field(default=30, metadata={"minimum": 1, "help": "Seconds until the second attempt."})
    longest: float = dataclasses.field(
        default=3600, metadata={"minimum": 1, "help": "Most seconds between two attempts."}
    )
    give_up_hours: float = dataclasses.field(
        default=72, metadata={"minimum": 0, "help": "Hours after which it is `dead`."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AutoForwardModality`."""

    destinations: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "Names from `DicomModalities`; none: every node that Orthanc knows, also later."}
    )
    trigger: str = dataclasses.field(
        default="Stable", metadata={"choices": ("Stable",), "help": "Send a study when it is stable (`StableAge`)."}
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "When a failed delivery goes again."})
    max_per_destination: int | None = dataclasses.field(
        default=None,
        metadata={
            "minimum": 1,
            "help": "Jobs at a time for one destination; null: all of `ConcurrentJobs` for a single one, else one less.",
        },
    )
    reconcile: bool = dataclasses.field(
        default=True, metadata={"help": "False in all but one of several Orthancs that share a database."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the ledger also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that finished deliveries stay in the list."}
    )
    tcp_no_delay: bool = dataclasses.field(
        default=True, metadata={"help": "Send and receive at full speed: without, C-STORE is up to 70 times slower."}
    )


def is_for(content: Mapping[str, Any], destination: Mapping[str, Any]) -> bool:
    """Whether the content of a DicomModalityStore job names this entry of `DicomModalities`."""
    return bool(content.get("RemoteAet") == destination["AET"])


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings, warnings = read_settings(Settings, SECTION, configuration)
        for warning in warnings:
            orthanc.LogWarning(warning)
    except SettingsError as error:
        refusal = f"{error}. auto_forward_modality is idle until this is corrected."
        orthanc.LogError(refusal)
    kind = Kind("modalities", "UPDATED_MODALITIES", "DicomModalityStore", is_for)
    forwarder = Forwarder("auto-forward-modality", kind, settings, configuration)
    forwarder.register(refusal)
    if refusal is None:
        warn_if_open("auto_forward_modality", configuration)
        if settings.tcp_no_delay:
            os.environ["TCP_NODELAY"] = "1"  # DCMTK reads it at each connection, in both directions
        KEPT_ALIVE.append(forwarder.on_change)
        orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-1])


# <<<cog
# import common.contain
# common.contain.emit("settings", "loopback", "answers", "ledger", "feed", "days", "forwarding")
# >>>
# fmt: off
# Shared pieces, the same in several scripts. Don't edit them here: edit common/, then run `make sync`.

# common/settings.py, SHA-256 eaa42ef13120da254bfc2ba9dbb43af9f7ae43b9eeb8c8cd796a107b00d962ff
# One section of Orthanc's configuration, read into a frozen dataclass.

S = TypeVar("S")

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class SettingsError(ValueError):
    """A value that a section can't have; the text names section, key, what was found and what is allowed."""


def key_of(field: dataclasses.Field[Any]) -> str:
    """The key of a field as a person writes it: `max_per_destination` is `MaxPerDestination`."""
    return str(field.metadata.get("key") or "".join(word.capitalize() for word in field.name.split("_")))


def read_settings(cls: type[S], section: str, configuration: Mapping[str, Any]) -> tuple[S, list[str]]:
    """Read the section of a configuration into `cls`.

    Parameters
    ----------
    cls : a dataclass whose fields all have defaults. `metadata` of a field may hold `key` (if the name is not the field's in
        CamelCase), `minimum` and `maximum` (of a number), `choices`, `check` (a function that returns what is allowed, or
        nothing if the value is fine) and `secret` (the value is never shown).
    section : the section's name; dots lead into nested objects.
    configuration : what `orthanc.GetConfiguration()` holds, decoded.

    Returns
    -------
    The settings, and a warning for each key that is not known. A section that is not there gives the defaults.

    Raises
    ------
    SettingsError : a value is of the wrong type or not allowed.
    """
    warnings: list[str] = []
    found = configuration.get(section)
    return (cls() if found is None else _read_object(cls, section, found, warnings)), warnings


def _read_object(cls: type[S], path: str, found: Any, warnings: list[str]) -> S:
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: found {_as_text(found)}, allowed: an object of keys and values")
    fields = {key_of(field): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in found.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, 1, 0.5)
        known = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
        warnings.append(f"{path}.{key} is not a known key and is ignored; {known}")
    hints = typing.get_type_hints(cls)
    values = {
        field.name: _read_value(hints[field.name], field.metadata, f"{path}.{key}", found[key], warnings)
        for key, field in fields.items()
        if key in found
    }
    return cls(**values)


def _read_value(hint: Any, limits: Mapping[str, Any], path: str, found: Any, warnings: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if found is None and type(None) in arguments:
            return None
        hint = next(argument for argument in arguments if argument is not type(None))
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _read_object(typing.cast("type[Any]", hint), path, found, warnings)
    if origin in (list, tuple):
        if not isinstance(found, list):
            raise SettingsError(f"{path}: found {_as_text(found, limits)}, allowed: a list")
        items = [_read_value(arguments[0], limits, f"{path}[{i}]", item, warnings) for i, item in enumerate(found)]
        return tuple(items) if origin is tuple else items
    if hint is Any:
        value, fits, allowed = found, True, ""
    elif origin is dict:
        value, fits, allowed = found, isinstance(found, dict), "an object of keys and values"
    else:
        # JSON has one kind of number, and true is no number although Python says so.
        fits = isinstance(found, (int, float) if hint is float else hint) and (hint is bool) == isinstance(found, bool)
        value, allowed = (float(found) if fits and hint is float else found), KINDS[hint]
    if fits and "choices" in limits:
        fits, allowed = value in limits["choices"], "one of " + ", ".join(map(json.dumps, limits["choices"]))
    if "minimum" in limits:
        fits, allowed = fits and value >= limits["minimum"], f"{allowed}, at least {limits['minimum']}"
    if "maximum" in limits:
        fits, allowed = fits and value <= limits["maximum"], f"{allowed}, at most {limits['maximum']}"
    if fits and "check" in limits and (complaint := limits["check"](value)):
        fits, allowed = False, complaint
    if not fits:
        raise SettingsError(f"{path}: found {_as_text(found, limits)}, allowed: {allowed}")
    return value


def _as_text(found: Any, limits: Mapping[str, Any] | None = None) -> str:
    if limits and limits.get("secret"):
        return "a value that is not shown here"
    text = json.dumps(found)
    return text if len(text) <= 60 else text[:57] + "..."

# common/loopback.py, SHA-256 ea9d20fe98c5de20dd8b35872843264e4bfea7f119e72d95813f5169a15db39c
# This Orthanc's own REST API over HTTP: unlike a call through the SDK it does not hold the GIL, and with it every store.

TIMEOUT = 60.0  # seconds; of one request
# Orthanc closes a kept connection after a second without a request ("KeepAliveTimeout").
KEEP = 0.5
HARMLESS_TWICE = ("/tools/find", "/tools/bulk-content", "/tools/bulk-delete")


class LoopbackError(Exception):
    """Orthanc answered with an error (`status`), or did not answer (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Loopback:
    """A client of this Orthanc: one kept connection a thread, authorized by the plugin's own token."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self.enabled = bool(configuration.get("HttpServerEnabled", True))
        addresses = configuration.get("HttpBindAddresses") or ["127.0.0.1"]
        self._host = "127.0.0.1" if {"127.0.0.1", "0.0.0.0"} & set(addresses) else addresses[0]  # noqa: S104
        self._port = int(configuration.get("HttpPort", 8042))
        self._certificate = configuration.get("SslCertificate", "") if configuration.get("SslEnabled") else None
        self._mutual = bool(configuration.get("SslVerifyPeers"))
        self._local = threading.local()
        self._token = ""

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request, `body` as JSON unless it is bytes; return the answer, decoded if it is JSON, else its bytes.

        Raises
        ------
        LoopbackError : the status is 400 or more, or there is no answer.
        """
        headers, content = self.exchange(method, path, body)
        return json.loads(content) if _is_json(headers) and content else content

    def exchange(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """As `request`, with headers of one's own; return those of the answer, and its bytes as they came."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._token = self._token or orthanc.GenerateRestApiAuthorizationToken()
        # A kept connection may be closed by Orthanc just now: what is the same twice is asked once more.
        attempts = 2 if method != "POST" or path in HARMLESS_TWICE else 1
        while True:
            connection = self._connection()
            try:
                connection.request(method, path, data, {**(headers or {}), "Authorization": self._token})
                response = connection.getresponse()
                content = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                attempts -= 1
                if not attempts or isinstance(error, TimeoutError):
                    what = f"Orthanc does not answer {method} {path.partition('?')[0]}: {error!r}"
                    raise LoopbackError(0, what) from None
        self._local.used = time.monotonic()
        if response.status in (304, 401):
            connection.close()  # 1.12.7 drops it without a word
        if response.status >= 400:
            found = json.loads(content) if _is_json(response.headers) and content else {}
            reason = found.get("Details") or found.get("Message") or response.reason
            raise LoopbackError(response.status, f"{method} {path.partition('?')[0]}: {reason}")
        return response.headers, content

    def close(self) -> None:
        """Close the connection of this thread."""
        if connection := getattr(self._local, "connection", None):
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        elif time.monotonic() - self._local.used > KEEP:
            connection.close()
        self._local.used = time.monotonic()
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        if self._certificate is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        # The server's own certificate is the one to trust here, whatever name it is made out to.
        context = ssl.create_default_context(cafile=self._certificate)
        context.check_hostname = False
        if self._mutual:
            context.load_cert_chain(self._certificate)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=context)


def _is_json(headers: http.client.HTTPMessage) -> bool:
    return headers.get_content_type() == "application/json"

# common/answers.py, SHA-256 00c9847af15f456b6c3c84f62a70843e08ee3637a4f51bfeb0a0c28cd0ca6f39
# Routes that answer alike on every version of the plugin, and who may act through them.

# A parameter that only we send, to learn how parameters arrive.
PROBE = "arrives-decoded"
# Orthanc's HTTP threads have a stack of 100 KB: JSON nested 550 deep would end the whole server.
DEEPEST = 50
# What Orthanc calls must live as long as the process: 1.12.7 and later crash at shutdown otherwise.
KEPT_ALIVE: list[Any] = []


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """An answer other than the one asked for: the caller's mistake (4xx), or a script that can't work now (503)."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.details = status, message, details


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a handler returns where a plain value (JSON), `str` or `bytes` with status 200 is not enough."""

    content: Any
    status: int = 200
    mime: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Request:
    """One request: `query` are the decoded values of a GET, `body` the bytes of a POST or PUT; `headers` in lower case."""

    method: str
    uri: str
    groups: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object; an empty body is an empty one. Raises `Refused` (400) for anything else."""
        try:
            found = decoded(self.body or b"{}")
        except ValueError as error:
            raise Refused(400, f"The body is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise Refused(400, "The body must be a JSON object of parameters")
        return found


Handler = Callable[[Request], Any]
ROUTES: dict[str, Mapping[str, Handler]] = {}  # what serve() registered, for the documentation


def decoded(text: str | bytes) -> Any:
    """JSON from outside, decoded. Raises ValueError if it is none, nested more than `DEEPEST` deep, or names something twice."""
    depth, content = 0, text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[][{}]', content, re.DOTALL):  # what stands in a text nests nothing
        depth += (token[0] in b"[{") - (token[0] in b"]}")
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
    return json.loads(content, object_pairs_hook=_named_once)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def one_line(text: object) -> str:
    """Text from outside as a single line: no line of a log and no header is ever made up by a sender."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(text)).strip()


def serve(
    pattern: str,
    handlers: Mapping[str, Handler],
    unavailable: Callable[[], str | None],
    shortcut: Callable[[Any, str, Mapping[str, Any]], bool] | None = None,
) -> None:
    """Register a route: one handler for each method, 405 for the others, 503 while `unavailable` gives a reason.

    A handler returns what becomes JSON, a `str`, `bytes` or an `Answer`, or raises `Refused`. Errors have the shape of
    Orthanc's own. Where the callers of the methods come from is checked first (`refuse_strangers`).
    `shortcut` gets what Orthanc gave, before all that; it returns whether it has answered.
    """

    def callback(output: Any, uri: str, /, **raw: Any) -> None:
        if shortcut is not None and shortcut(output, uri, raw):
            return
        method = raw["method"]
        if method not in handlers:
            output.SendMethodNotAllowed(",".join(handlers))
            return
        try:
            if reason := unavailable():
                raise Refused(503, reason)
            query = raw.get("get", {})
            if query.keys() == {PROBE}:
                output.AnswerBuffer(query[PROBE].encode(), "text/plain")
                return
            if any("%" in value or "+" in value for value in query.values()) and not _arrives_decoded(uri):
                query = {name: urllib.parse.unquote_plus(value) for name, value in query.items()}
            request = Request(method, uri, raw.get("groups", ()), query, raw.get("headers", {}), raw.get("body", b""))
            refuse_strangers(request)
            answer = handlers[method](request)
            _send(output, answer if isinstance(answer, Answer) else Answer(answer))
        except Refused as refused:
            _send_error(output, refused, method, uri)
        except Exception:  # noqa: BLE001 - the caller gets a 500, the log tells why, Orthanc goes on
            orthanc.LogError(f"{method} {one_line(uri)} failed, please report this:\n{traceback.format_exc()}")
            _send_error(output, Refused(500, "An error in the script; Orthanc's log tells which"), method, uri)

    KEPT_ALIVE.append(callback)
    ROUTES[pattern] = handlers
    orthanc.RegisterRestCallback(pattern, callback)


def warn_if_open(name: str, configuration: Mapping[str, Any]) -> None:
    """Say once, at start, that anybody on the network may use this script's routes, as they may Orthanc's own."""
    if configuration.get("RemoteAccessAllowed") and configuration.get("AuthenticationEnabled") is False:
        orthanc.LogWarning(
            f"{name}: whoever reaches this server may use its routes, as all of Orthanc's (AuthenticationEnabled is false)"
        )


def refuse_strangers(request: Request) -> None:
    """A browser led by another site's page changes nothing; curl, scripts and other programs are not browsers.

    Raises `Refused`: 403 for a POST, PUT or DELETE from another origin, 415 for a body from a browser that is not JSON
    (what an HTML form of any page can send without being asked for permission).
    """
    if request.method == "GET":
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")} - {None}
    if site not in (None, "same-origin", "none") or (
        site is None and origin is not None and urllib.parse.urlsplit(origin).netloc not in hosts
    ):
        raise Refused(
            403, f"This comes from another site's page ({one_line(origin or site)}), which may not do this here"
        )
    browser = request.headers.get("user-agent", "").startswith("Mozilla/")
    mime = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if browser and request.body and mime != "application/json":
        raise Refused(415, "From a browser the body must be application/json")


@functools.cache
def _arrives_decoded(uri: str) -> bool:
    # Whether values of a GET arrive percent-decoded depends on the web server that Orthanc was built with (Debian 12's and
    # 13's hand them over raw, forky's decoded), not on a version that could be asked for. So ask this very route.
    try:
        return bool(
            Loopback(json.loads(orthanc.GetConfiguration())).get(f"{urllib.parse.quote(uri)}?{PROBE}=%41") == b"A"
        )
    except LoopbackError:
        return False


def _send(output: Any, answer: Answer) -> None:
    content, mime = answer.content, answer.mime
    if isinstance(content, str):
        content, mime = content.encode(), mime or "text/plain; charset=utf-8"
    elif not isinstance(content, bytes):
        content, mime = json.dumps(content, indent=2).encode() + b"\n", mime or "application/json"
    for name, value in answer.headers.items():
        output.SetHttpHeader(one_line(name), one_line(value))
    if answer.status == http.HTTPStatus.OK:
        output.AnswerBuffer(content, mime)
    else:
        _send_status(output, answer.status, content.decode())


def _send_error(output: Any, refused: Refused, method: str, uri: str) -> None:
    content = {
        **refused.details,
        "HttpError": http.HTTPStatus(refused.status).phrase,
        "HttpStatus": refused.status,
        "Message": one_line(refused.message),
        "Method": method,
        "Uri": uri,
    }
    _send_status(output, refused.status, json.dumps(content, indent=2) + "\n")


def _send_status(output: Any, status: int, body: str) -> None:
    try:
        output.SendHttpStatus(status, body)  # from plugin 4.2, which adds a Content-Type by itself
    except TypeError:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(status, body, len(body.encode()))  # plugin 4.0 and 4.1 want the length in bytes

# common/ledger.py, SHA-256 d0d632bb6ee3b4c83628775e2a4e87ece750e0adf7a488c36a26837cdcaecf61
# Work that must not be lost: one SQLite file a script, written before anything is done.

WORK_TABLES = """
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS work(
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, data TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL);
CREATE INDEX IF NOT EXISTS work_by_state ON work(state, queue, id);
CREATE INDEX IF NOT EXISTS work_by_subject ON work(subject, queue, state, id);
CREATE INDEX IF NOT EXISTS work_by_job ON work(job) WHERE job IS NOT NULL;
"""
# Finished and unfinished states: `waiting` for its next attempt, `sending`; `done`, `gone` (what it was about was deleted),
# `dead` (given up, until a person retries or drops it).
STATES = ("waiting", "sending", "done", "gone", "dead")


def state_folder(state_path: str | None, configuration: Mapping[str, Any]) -> Path:
    """Where a script keeps its ledger: `StatePath`, else `IndexDirectory`, else `StorageDirectory`.

    A relative path starts, as Orthanc's own, in the folder of the configuration: where that is given as a folder
    without a slash at its end, `GetConfigurationPath()` names its parent, so the command line has to tell.
    """
    base = Path(orthanc.GetConfigurationPath()).absolute()
    if base.is_file():
        base = base.parent
    else:
        words = [Path(os.fsdecode(word)) for word in Path("/proc/self/cmdline").read_bytes().split(b"\0") if word]
        base = next((word.absolute() for word in words if word.is_dir() and word.absolute().parent == base), base)
    chosen = (
        state_path or configuration.get("IndexDirectory") or configuration.get("StorageDirectory") or "OrthancStorage"
    )
    return base / chosen


class Ledger:
    """One SQLite file of rows of work, for any number of threads.

    A committed row survives the death of the process; with `durability` "full" that of the power too. `fresh` tells that
    the file was made now, `moved` where a corrupt one was moved to.

    Raises
    ------
    OSError, sqlite3.Error : the file can't be made or opened (the folder, its rights, a version that is newer than ours).
    """

    def __init__(self, path: Path, tables: str = "", *, durability: str = "normal", version: int = 1) -> None:
        self.path, self._lock = path, threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.moved: Path | None = None
        self.fresh = not path.exists() or path.stat().st_size == 0
        try:
            self._open(tables, durability, version)
        except sqlite3.DatabaseError as error:
            if isinstance(
                error, sqlite3.OperationalError
            ):  # locked, full, not allowed: nothing is wrong with the content
                raise
            self._move_aside()
            self._open(tables, durability, version)

    def _open(self, tables: str, durability: str, version: int) -> None:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its -wal and -shm the same mode
        self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        try:
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={durability}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found > version:
                raise sqlite3.OperationalError(
                    f"{self.path} is of version {found}, made by a newer script than this one"
                )
            if complaint := [row[0] for row in self._db.execute("PRAGMA quick_check(1)") if row[0] != "ok"]:
                raise sqlite3.DatabaseError(complaint[0])
            self._db.executescript(f"BEGIN; {WORK_TABLES} {tables} PRAGMA user_version={version}; COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def _move_aside(self) -> None:
        self.fresh, self.moved = True, self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
        self.path.replace(self.moved)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside is there after it, or nothing of it. May be nested."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.rollback()
                raise
            self._db.execute("COMMIT")

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, parameters)]

    def run(self, sql: str, *parameters: Any) -> int:
        """Execute one statement, committed on return; gives the number of rows changed."""
        with self.transaction() as db:
            return db.execute(sql, parameters).rowcount

    def number(self, name: str, default: int = 0) -> int:
        return next((int(row["value"]) for row in self.rows("SELECT value FROM state WHERE name=?", name)), default)

    def set_number(self, name: str, value: int) -> None:
        self.run("INSERT INTO state VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value", name, value)

    def add(self, queue: str, subject: str, data: Mapping[str, Any]) -> int:
        """A new row, `waiting` and due now; gives its id."""
        with self.transaction() as db:
            now = time.time()
            values = (queue, subject, json.dumps(data), now, now)
            sql = "INSERT INTO work VALUES(NULL,?,?,'waiting',0,0,'',NULL,?,?,?)"
            return int(db.execute(sql, values).lastrowid or 0)

    def due(self, queue: str, limit: int, longest: float) -> list[dict[str, Any]]:
        """The next rows of a queue, of each subject only the oldest unfinished one, so that order holds.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self.rows(
            "SELECT * FROM work w WHERE queue=? AND state='waiting' AND (next_attempt<=? OR next_attempt>?) AND NOT EXISTS "
            "(SELECT 1 FROM work o WHERE o.subject=w.subject AND o.queue=w.queue AND o.state IN ('waiting','sending') "
            "AND o.id<w.id) ORDER BY id LIMIT ?",
            *(queue, time.time(), time.time() + longest, limit),
        )

    def start(self, row: int) -> None:
        """Say that this attempt begins: before it does."""
        self.run("UPDATE work SET state='sending',attempts=attempts+1,job=NULL,updated=? WHERE id=?", time.time(), row)

    def end(self, row: int, state: str) -> None:
        self.run("UPDATE work SET state=?,error='',updated=? WHERE id=?", state, time.time(), row)

    def fail(self, row: int, error: str, *, first: float, longest: float, give_up_after: float) -> str:
        """Wait for the next attempt, twice as long as the last time and up to half of it less; or `dead`, if it took too long."""
        with self.transaction():
            found = self.rows("SELECT attempts, created FROM work WHERE id=?", row)[0]
            now, delay = (
                time.time(),
                min(longest, first * 2.0 ** min(found["attempts"] - 1, 40)) * random.uniform(0.5, 1),
            )
            state = "dead" if now - found["created"] > give_up_after else "waiting"
            sql = "UPDATE work SET state=?,error=?,next_attempt=?,updated=? WHERE id=?"
            self.run(sql, state, error, now + delay, now, row)
            return state

    def totals(self) -> dict[str, int]:
        found = {row["state"]: row["n"] for row in self.rows("SELECT state, COUNT(*) n FROM work GROUP BY state")}
        return {state: found.get(state, 0) for state in STATES}

    def forget_finished(self, days: float) -> None:
        self.run("DELETE FROM work WHERE state IN ('done','gone') AND updated<?", time.time() - days * 86400)

# common/feed.py, SHA-256 82361e0ef2839414dcfc5b9ccad7794e9dd12974cf644a18494974560d44a8b6
# What became stable, once each, also when a restart swallowed it: Orthanc's log of changes, read from a kept place.

FEED_TABLES = """
CREATE TABLE IF NOT EXISTS arrived(
    level TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, seen REAL NOT NULL, resource TEXT,
    PRIMARY KEY(level, instance)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS arrived_by_resource ON arrived(level, resource, seen);
CREATE TABLE IF NOT EXISTS heard(level TEXT NOT NULL, resource TEXT NOT NULL, PRIMARY KEY(level, resource)) WITHOUT ROWID;
"""
PAGE = 500  # changes a request
GRACE = 2.0  # seconds beyond StableAge after which Orthanc's own Stable… event is not waited for any more
PLURALS = {"Patient": "patients", "Study": "studies", "Series": "series"}

# level, Orthanc identifier of what is stable, and its instances that arrived since it was last handed over, each with
# the Seq of its last NewInstance.
Settled = Callable[[str, str, dict[str, int]], None]


class Feed:
    """Hands over what became stable at the levels asked for, with the instances that are new since the last time.

    Each NewInstance is kept in the ledger until the Stable… entry of its parent; one whose parent has been quiet for
    `stable_age` and got none (Orthanc keeps stability in memory: a restart loses it) is handed over all the same.
    With `reconcile` false the log of changes, which Orthancs on one database share, is left alone: only what this
    process was told through `hear` counts.
    """

    def __init__(
        self,
        ledger: Ledger,
        loopback: Loopback,
        settled: Settled,
        levels: Sequence[str],
        stable_age: float,
        reconcile: bool,
    ) -> None:
        self._ledger, self._loopback, self._settled, self._levels = ledger, loopback, settled, tuple(levels)
        self._quiet_after, self._reconcile = stable_age + GRACE, reconcile
        self._look_again: dict[tuple[str, str], float] = {}

    def begin(self) -> None:
        """Take the place in the log; of a ledger without one, the newest entry: what the archive holds already is not new."""
        if self._reconcile:
            newest = self._loopback.get("/changes?last")["Last"]
            # A place beyond the newest entry belongs to another archive, or to a log that was emptied.
            self._ledger.set_number("cursor", min(newest, self._ledger.number("cursor", newest)))
        # A clock that was ahead when these were seen must not make them wait for it.
        self._ledger.run("UPDATE arrived SET seen=? WHERE seen>?", time.time(), time.time())

    def hear(self, change: str, resource: str) -> None:
        """What OnChange tells, where the log of changes is not read: NewInstance and the Stable… of our levels."""
        if not self._reconcile and change == "NewInstance":
            self._arrive([(level, resource, 0, time.time()) for level in self._levels])
        elif not self._reconcile and change.removeprefix("Stable") in self._levels:
            self._ledger.run("INSERT OR IGNORE INTO heard VALUES(?,?)", change.removeprefix("Stable"), resource)

    def poll(self) -> None:
        """Hand over all that has become stable since the last time, each in one transaction with what remembers it.

        Raises
        ------
        LoopbackError, sqlite3.Error : nothing is lost; poll again later.
        """
        while self._reconcile and self._read_page():
            pass
        for row in self._ledger.rows("SELECT * FROM heard"):
            instances = self._instances_of(row["level"], row["resource"])
            with self._ledger.transaction():
                self._hand_over(row["level"], row["resource"], instances, None)
                self._ledger.run("DELETE FROM heard WHERE level=? AND resource=?", row["level"], row["resource"])
        for level in self._levels:
            self._hand_over_what_is_overdue(level)

    def _read_page(self) -> bool:
        since = self._ledger.number("cursor")
        page = self._loopback.get(f"/changes?since={since}&limit={PAGE}")
        changes: list[Mapping[str, Any]] = page["Changes"]
        stable = [change for change in changes if change["ChangeType"].removeprefix("Stable") in self._levels]
        instances = {change["ID"]: self._instances_of(change["ResourceType"], change["ID"]) for change in stable}
        new = [change for change in changes if change["ChangeType"] == "NewInstance"]
        with self._ledger.transaction():
            self._arrive(
                [(level, change["ID"], change["Seq"], time.time()) for change in new for level in self._levels]
            )
            for change in stable:
                self._hand_over(change["ResourceType"], change["ID"], instances[change["ID"]], change["Seq"])
            self._ledger.set_number("cursor", max(since, page["Last"]))
        return not page["Done"]

    def _arrive(self, rows: list[tuple[str, str, int, float]]) -> None:
        # The same instance again (OverwriteInstances) has arrived anew.
        sql = "INSERT INTO arrived VALUES(?,?,?,?,NULL) ON CONFLICT DO UPDATE SET seq=excluded.seq, seen=excluded.seen"
        with self._ledger.transaction() as db:
            db.executemany(sql, rows)

    def _instances_of(self, level: str, resource: str) -> list[str]:
        try:
            found = self._loopback.get(f"/{PLURALS[level]}/{resource}/instances?expand=false")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return []  # deleted meanwhile
        return [each if isinstance(each, str) else each["ID"] for each in found]  # 1.10.1 knows no expand=false

    def _hand_over(self, level: str, resource: str, instances: Sequence[str], before: int | None) -> None:
        new: dict[str, int] = {}
        for start in range(0, len(instances), PAGE):
            some = instances[start : start + PAGE]
            marks = f"level=? AND instance IN ({','.join('?' * len(some))}) AND seq<?"
            limit = 2**62 if before is None else before
            rows = self._ledger.rows(f"SELECT instance, seq FROM arrived WHERE {marks}", level, *some, limit)
            new |= {row["instance"]: row["seq"] for row in rows}
            self._ledger.run(f"DELETE FROM arrived WHERE {marks}", level, *some, limit)
        if new:
            self._settled(level, resource, new)

    def _hand_over_what_is_overdue(self, level: str) -> None:
        horizon = time.time() - self._quiet_after
        while late := self._ledger.rows(
            "SELECT instance FROM arrived WHERE level=? AND resource IS NULL AND seen<? LIMIT 1", level, horizon
        ):
            self._find_parent(level, late[0]["instance"])
        for row in self._ledger.rows(
            "SELECT resource FROM arrived WHERE level=? AND resource IS NOT NULL GROUP BY resource HAVING MIN(seen)<?",
            *(level, horizon),
        ):
            self._hand_over_if_quiet(level, row["resource"])

    def _find_parent(self, level: str, instance: str) -> None:
        try:
            parent = self._loopback.get(f"/instances/{instance}/{level.lower()}")["ID"]
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._ledger.run("DELETE FROM arrived WHERE instance=?", instance)  # deleted before it was stable
        else:
            self._label(level, parent, [instance, *self._instances_of(level, parent)])

    def _label(self, level: str, resource: str, instances: Sequence[str]) -> None:
        with self._ledger.transaction() as db:
            rows = [(resource, level, each) for each in instances]
            db.executemany("UPDATE arrived SET resource=? WHERE level=? AND instance=?", rows)

    def _hand_over_if_quiet(self, level: str, resource: str) -> None:
        if time.time() < self._look_again.get((level, resource), 0):
            return
        instances = self._instances_of(level, resource)
        self._label(level, resource, instances)
        last = self._ledger.rows("SELECT MAX(seen) seen FROM arrived WHERE level=? AND resource=?", level, resource)[0]
        self._look_again[level, resource] = last["seen"] + self._quiet_after
        if self._look_again[level, resource] < time.time():
            with self._ledger.transaction():
                self._hand_over(level, resource, instances, None)
                self._ledger.run("DELETE FROM arrived WHERE level=? AND resource=?", level, resource)
            del self._look_again[level, resource]

# common/days.py, SHA-256 fad68c4242558f1e820dc71ae6d13f380e8d8e4bd50748f65e04f69cdc63ecf3
# Days as DICOM writes them.

def parse_day(text: object) -> datetime.date | None:
    """The day of a DA value (YYYYMMDD, DICOM PS3.5 6.2), or None: `1999.12.31`, `1999` and `20000231` are no days."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{8}", text):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None

# common/forwarding.py, SHA-256 133967b928958e86ac362f6a5fb0817587b0aa25613c764fd6ad0376c3380ce7
# The engine of the forwarders: what became stable goes to each destination, as rows of the ledger and jobs of Orthanc.

TICK = 5.0  # seconds between looks at changes and jobs when no event wakes us
AFTER_ERROR = 2.0  # seconds until the next try when Orthanc or the ledger can't be reached
KEEP_EARLY_ENDS = 60.0  # seconds; the end event of a job can come before the answer to the POST that submitted it
UNFINISHED = ("Pending", "Running", "Paused", "Retry")  # states of a job that may still send
DAY = 86400.0  # seconds


@dataclasses.dataclass(frozen=True)
class Kind:
    """What differs between DICOM nodes and peers."""

    route: str  # Orthanc's: "modalities" or "peers"
    changed: str  # the name of the event that says that they changed
    job_type: str
    is_for: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]  # whether a job's content names this destination


class Forwarder:
    """Sends what the feed hands over, so that it arrives although Orthanc is killed and destinations are away.

    Each (study, destination) is a row of the ledger before anything is sent. An attempt is an asynchronous job, whose end
    settles the row; a failed one goes again with backoff. One thread does all that, woken by `on_change`.

    Parameters
    ----------
    name : of the script, with dashes: of its routes, its thread and its ledger.
    settings : with `destinations`, `retry` (`first`, `longest`, `give_up_hours`), `max_per_destination`, `reconcile`,
        `durability`, `state_path`, `keep_done_days`.
    configuration : Orthanc's.
    """

    def __init__(self, name: str, kind: Kind, settings: Any, configuration: Mapping[str, Any]) -> None:
        self.unavailable: str | None = f"{name} has not started yet"
        self._name, self._kind, self._settings, self._configuration = name, kind, settings, configuration
        self._loopback = Loopback(configuration)
        self._known: dict[str, Mapping[str, Any]] | None = None
        self._ended: deque[tuple[str, bool]] = deque()
        self._early_ends: dict[str, tuple[bool, float]] = {}
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._complaint = ""
        self._next_look_at_jobs = 0.0
        names = (
            "ORTHANC_STARTED",
            "ORTHANC_STOPPED",
            "NEW_INSTANCE",
            "STABLE_STUDY",
            "JOB_SUCCESS",
            "JOB_FAILURE",
            kind.changed,
        )
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in names}

    # What Orthanc tells: return at once

    def on_change(self, change: int, _level: int, resource: str) -> None:
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self._start()
        elif event == "ORTHANC_STOPPED":
            self._stop()
        elif event is None or self.unavailable is not None:
            return
        elif event == "NEW_INSTANCE":
            self._feed.hear("NewInstance", resource)
        else:
            if event == "STABLE_STUDY":
                self._feed.hear("StableStudy", resource)
            elif event == self._kind.changed:
                self._known = None
            else:
                self._ended.append((resource, event == "JOB_SUCCESS"))
            self._wake.set()

    def _start(self) -> None:
        if not self._loopback.enabled:
            self.unavailable = f'{self._name} stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
            orthanc.LogError(self.unavailable)
            return
        path = state_folder(self._settings.state_path, self._configuration) / f"{self._name.replace('-', '_')}.sqlite"
        try:
            self._ledger = Ledger(path, FEED_TABLES, durability=self._settings.durability)
        except (OSError, sqlite3.Error) as error:
            self.unavailable = f"{self._name} stays idle: its ledger {path} can't be opened: {error}"
            orthanc.LogError(self.unavailable)
            return
        if self._ledger.fresh:
            orthanc.LogWarning(_about_new_ledger(self._name, self._ledger))
        stable_age = float(self._configuration.get("StableAge", 60))
        self._feed = Feed(self._ledger, self._loopback, self._settled, ("Study",), stable_age, self._settings.reconcile)
        self.unavailable = None
        self._thread.start()

    def _stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2)

    # The one thread

    def _work(self) -> None:
        begun = False
        while not self._stopping.is_set():
            try:
                if not begun:
                    self._feed.begin()
                    begun = True
                self._feed.poll()
                self._settle_ended_jobs()
                self._look_at_jobs()
                self._submit()
                self._complaint = ""
                wait = TICK
            except (LoopbackError, sqlite3.Error, OSError) as error:
                self._complain(f"{self._name} goes on when this is over: {one_line(error)}")
                wait = AFTER_ERROR
            except Exception:  # noqa: BLE001 - one bad study never ends the thread that serves all
                self._complain(f"{self._name} met an error, please report it:\n{traceback.format_exc()}")
                wait = TICK
            self._wake.wait(wait)
            self._wake.clear()

    def _complain(self, text: str) -> None:
        if text != self._complaint and not self._stopping.is_set():
            orthanc.LogError(text)
        self._complaint = text

    def _settled(self, _level: str, study: str, instances: Mapping[str, int]) -> None:
        """A study is stable: in the feed's transaction, a row for each destination with the instances that are new."""
        for destination in self.destinations():
            self._add(study, destination, sorted(instances))

    def _add(self, study: str, destination: str, instances: list[str] | None) -> None:
        # What waits for the same destination goes with it; None stands for the whole study.
        waiting = self._ledger.rows(
            "SELECT id, data FROM work WHERE subject=? AND queue=? AND state='waiting' LIMIT 1", study, destination
        )
        if not waiting:
            self._ledger.add(destination, study, {"Instances": instances})
            return
        before = json.loads(waiting[0]["data"])["Instances"]
        merged = None if before is None or instances is None else sorted({*before, *instances})
        self._ledger.run("UPDATE work SET data=? WHERE id=?", json.dumps({"Instances": merged}), waiting[0]["id"])

    # Destinations

    def known(self) -> dict[str, Mapping[str, Any]]:
        """The destinations that Orthanc knows now, from its configuration and its database, with their settings."""
        if self._known is None:
            self._known = self._loopback.get(f"/{self._kind.route}?expand")
            if unknown := [name for name in self._settings.destinations if name not in self._known]:
                orthanc.LogError(
                    f"{self._name}: Destinations names {', '.join(unknown)}, which Orthanc does not know; "
                    f"known are: {', '.join(self._known) or 'none'}. The others are served."
                )
        return self._known

    def destinations(self) -> list[str]:
        """The destinations to serve: those listed that Orthanc knows, or all that it knows."""
        known = self.known()
        return [name for name in self._settings.destinations if name in known] or (
            [] if self._settings.destinations else list(known)
        )

    # Jobs

    def _submit(self) -> None:
        concurrent = int(self._configuration.get("ConcurrentJobs", 2)) or 1
        shared = concurrent if len(self.destinations()) <= 1 else max(1, concurrent - 1)
        slots = self._settings.max_per_destination or shared
        sending = self._ledger.rows("SELECT queue, COUNT(*) n FROM work WHERE state='sending' GROUP BY queue")
        busy = {row["queue"]: row["n"] for row in sending}
        for queue in self._ledger.rows("SELECT DISTINCT queue FROM work WHERE state='waiting'"):
            name = queue["queue"]
            for row in self._ledger.due(name, max(0, slots - busy.get(name, 0)), self._settings.retry.longest):
                if self._stopping.is_set():
                    return
                self._attempt(row)

    def _attempt(self, row: dict[str, Any]) -> None:
        self._ledger.start(row["id"])
        row["attempts"] += 1
        if row["queue"] not in self.known():
            self._fail(
                row, f"Orthanc does not know {row['queue']} any more; known are: {', '.join(self.known()) or 'none'}"
            )
            return
        instances = json.loads(row["data"])["Instances"]
        try:
            job = self._post_job(row, [row["subject"]] if instances is None else instances)
        except LoopbackError as error:
            if error.status == 0:
                raise  # whether there is a job now, only Orthanc knows: _look_at_jobs asks
            self._fail(row, str(error))
            return
        if job is None:
            self._ledger.end(row["id"], "gone")
            orthanc.LogInfo(f"{self._name}: study {row['subject']} was deleted before {row['queue']} got it")
            return
        self._ledger.run("UPDATE work SET job=? WHERE id=?", job, row["id"])
        if early := self._early_ends.pop(job, None):
            self._settle({**row, "job": job}, early[0])

    def _post_job(self, row: Mapping[str, Any], resources: list[str]) -> str | None:
        """Submit the job and give its identifier; without what was deleted meanwhile, and None if that was all."""
        path, body = f"/{self._kind.route}/{row['queue']}/store", {"Resources": resources, "Synchronous": False}
        try:
            return str(self._loopback.post(path, body)["ID"])
        except LoopbackError as error:
            if error.status != 404:
                raise
            here = self._still_here(resources)
            if len(here) == len(resources):
                raise  # then it is not the resources that were not found
        return self._post_job(row, here) if here else None

    def _still_here(self, resources: list[str]) -> list[str]:
        here: set[str] = set()
        for start in range(0, len(resources), 500):
            body = {"Resources": resources[start : start + 500], "Short": True}
            here |= {found["ID"] for found in self._loopback.post("/tools/bulk-content", body)}
        return [resource for resource in resources if resource in here]

    def _settle_ended_jobs(self) -> None:
        while self._ended:
            job, success = self._ended[0]
            if rows := self._ledger.rows("SELECT * FROM work WHERE job=? AND state='sending'", job):
                self._settle(rows[0], success)
            else:
                self._early_ends[job] = success, time.monotonic()
            self._ended.popleft()
        oldest = time.monotonic() - KEEP_EARLY_ENDS
        self._early_ends = {job: end for job, end in self._early_ends.items() if end[1] > oldest}

    def _settle(self, row: Mapping[str, Any], success: bool) -> None:
        if success:
            self._ledger.end(row["id"], "done")
            orthanc.LogInfo(f"{self._name}: {row['queue']} has study {row['subject']} (attempt {row['attempts']})")
            return
        try:
            job = self._loopback.get(f"/jobs/{row['job']}")
            self._fail(row, job.get("ErrorDetails") or job.get("ErrorDescription") or "the job failed")
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._fail(row, "the job failed, and Orthanc has forgotten why (JobsHistorySize)")

    def _fail(self, row: Mapping[str, Any], error: str) -> None:
        retry = self._settings.retry
        hours = retry.give_up_hours
        state = self._ledger.fail(
            row["id"], one_line(error), first=retry.first, longest=retry.longest, give_up_after=hours * 3600
        )
        text = f"{self._name}: study {row['subject']} did not reach {row['queue']} (attempt {row['attempts']}): {one_line(error)}"
        if state == "dead":
            orthanc.LogError(
                f"{text}. Given up after {hours:g} hours; POST /{self._name}/deliveries/{row['id']}/retry tries again"
            )
        elif row["attempts"] == 1:
            orthanc.LogWarning(f"{text}. It will be tried again")
        else:
            orthanc.LogInfo(text)

    def _look_at_jobs(self) -> None:
        """Settle the rows whose job ended unseen, and find the job of those that were interrupted while submitting it.

        Orthanc goes on with unfinished jobs after a restart: not to know them would send everything twice.
        """
        if time.monotonic() < self._next_look_at_jobs:
            return
        rows = self._ledger.rows("SELECT * FROM work WHERE state='sending'")
        jobs = self._loopback.get("/jobs?expand") if rows else []
        by_id, taken = {job["ID"]: job for job in jobs}, {row["job"] for row in rows}
        for row in rows:
            job = (
                by_id.get(row["job"])
                if row["job"]
                else self._job_of(row, [job for job in jobs if job["ID"] not in taken])
            )
            if job is None:
                # Its end was missed while Orthanc was down, or it was never submitted: once more is harmless, lost is not.
                self._ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE id=?", row["id"])
                continue
            taken.add(job["ID"])
            self._ledger.run("UPDATE work SET job=? WHERE id=?", job["ID"], row["id"])
            if job["State"] not in UNFINISHED:
                self._settle({**row, "job": job["ID"]}, job["State"] == "Success")
        self._ledger.forget_finished(self._settings.keep_done_days)
        self._next_look_at_jobs = time.monotonic() + TICK

    def _job_of(self, row: Mapping[str, Any], jobs: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        destination = self.known().get(row["queue"])
        instances = json.loads(row["data"])["Instances"]
        resources = {row["subject"]} if instances is None else set(instances)
        for job in jobs:
            content = job.get("Content", {})
            same = destination and job["Type"] == self._kind.job_type and self._kind.is_for(content, destination)
            if same and job["State"] in UNFINISHED and set(content.get("ParentResources", ())) == resources:
                return job
        return None

    # Routes

    def register(self, refusal: str | None = None) -> None:
        """Register the routes; with a `refusal` (the configuration is wrong) they all answer 503 with it."""

        def unavailable() -> str | None:
            return refusal or self.unavailable

        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "status": {"GET": self.get_status},
            "deliveries": {"GET": self.get_deliveries},
            "deliveries/([0-9]+)": {"GET": self.get_delivery, "DELETE": self.drop_delivery},
            "deliveries/([0-9]+)/retry": {"POST": self.retry_delivery},
            "backfill": {"POST": self.backfill},
        }
        for path, handlers in routes.items():
            serve(f"/{self._name}/{path}", handlers, unavailable)

    def get_status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, the destinations it serves, the number of rows in each state, the last error."""
        return {
            "State": "running",
            "Destinations": self.destinations(),
            "Totals": self._ledger.totals(),
            "LastError": self._complaint,
        }

    def get_deliveries(self, request: Request) -> dict[str, Any]:
        """A page of rows, oldest first: `since` (the last row's id), `limit`, and filters by column."""
        columns = {"state": "state", "destination": "queue", "study": "subject", "job": "job"}
        _only(request.query, {*columns, "since", "limit"})
        since, limit = _number(request.query, "since", 0, 2**62), _number(request.query, "limit", 100, 1000)
        if (state := request.query.get("state")) is not None and state not in STATES:
            raise Refused(400, f"state is {one_line(state)!r}, allowed: {', '.join(STATES)}")
        chosen = {column: request.query[name] for name, column in columns.items() if name in request.query}
        where = " AND ".join(["1", *(f"{column}=?" for column in chosen)])
        total = self._ledger.rows(f"SELECT COUNT(*) n FROM work WHERE {where}", *chosen.values())[0]["n"]
        sql = f"SELECT * FROM work WHERE {where} AND id>? ORDER BY id LIMIT ?"
        rows = self._ledger.rows(sql, *chosen.values(), since, limit + 1)
        items = [_shown(row) for row in rows[:limit]]
        return {
            "Total": total,
            "Totals": self._ledger.totals(),
            "Items": items,
            "Next": items[-1]["ID"] if len(rows) > limit else None,
        }

    def get_delivery(self, request: Request) -> dict[str, Any]:
        """One row."""
        return _shown(self._row(request))

    def drop_delivery(self, request: Request) -> dict[str, Any]:
        """Forget a row that is dead or waits; one that is being sent can't be called back."""
        row = self._row(request)
        if not self._ledger.run("DELETE FROM work WHERE id=? AND state<>'sending'", row["id"]):
            raise Refused(409, f"Delivery {row['id']} is being sent; drop it when its job has ended")
        return _shown(row)

    def retry_delivery(self, request: Request) -> dict[str, Any]:
        """Try a row that is dead, or waits, again now, with the whole time until it is given up."""
        row = self._row(request)
        sql = "UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=? WHERE id=? AND state IN ('dead','waiting')"
        if not self._ledger.run(sql, time.time(), row["id"]):
            raise Refused(409, f"Delivery {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        self._wake.set()
        return _shown(self._row(request))

    def _row(self, request: Request) -> dict[str, Any]:
        rows = self._ledger.rows("SELECT * FROM work WHERE id=?", int(request.groups[0][:18]))
        if not rows:
            raise Refused(404, f"There is no delivery {request.groups[0]}")
        return rows[0]

    def backfill(self, request: Request) -> Answer:
        """Send what the archive holds already: whole studies by StudyDate, `From` to `To`, both included; 202 with how many.

        `Destination` (one name, else all), `DryRun` (only count).
        """
        wanted = request.json()
        _only(wanted, {"From", "To", "Destination", "DryRun"})
        first, last = parse_day(wanted.get("From")), parse_day(wanted.get("To"))
        if first is None or last is None or first > last:
            raise Refused(400, "From and To must be days as YYYYMMDD, From not after To")
        chosen, dry = wanted.get("Destination"), wanted.get("DryRun", False)
        if chosen is not None and chosen not in self.destinations():
            raise Refused(
                400, f"Destination is {one_line(chosen)!r}, allowed: {', '.join(self.destinations()) or 'none'}"
            )
        if not isinstance(dry, bool):
            raise Refused(400, "DryRun must be true or false")
        studies = [study for window in _months(first, last) for study in self._studies_of(*window)]
        targets = [chosen] if chosen is not None else self.destinations()
        if not dry:
            for study in studies:
                with self._ledger.transaction():
                    for destination in targets:
                        self._add(study, destination, None)
            self._wake.set()
        content = {
            "Studies": len(studies),
            "Destinations": targets,
            "Deliveries": len(studies) * len(targets),
            "DryRun": dry,
        }
        return Answer(content, 200 if dry else 202)

    def _studies_of(self, first: datetime.date, last: datetime.date) -> list[str]:
        query = {"Level": "Study", "Expand": True, "Query": {"StudyDate": f"{first:%Y%m%d}-{last:%Y%m%d}"}}
        found = self._loopback.post("/tools/find", query)
        # Orthanc compares dates as text: look at each.
        days = {study["ID"]: parse_day(study["MainDicomTags"].get("StudyDate")) for study in found}
        return [study for study, day in days.items() if day and first <= day <= last]


def _months(first: datetime.date, last: datetime.date) -> Iterator[tuple[datetime.date, datetime.date]]:
    """The parts of a range that lie in one month: what one question asks of the archive stays small."""
    while first <= last:
        end = first.replace(day=calendar.monthrange(first.year, first.month)[1])
        yield first, min(end, last)
        first = end + datetime.timedelta(days=1)


def _about_new_ledger(name: str, ledger: Ledger) -> str:
    why = f"was corrupt and is kept as {ledger.moved}" if ledger.moved else "is new"
    return (
        f"{name}: the ledger {ledger.path} {why}; what arrives from now on is forwarded, "
        f"nothing that the archive holds already (POST /{name}/backfill does that)"
    )


def _only(given: Mapping[str, Any], allowed: set[str]) -> None:
    if unknown := sorted(given.keys() - allowed):
        raise Refused(400, f"Unknown parameter {one_line(', '.join(unknown))}; allowed: {', '.join(sorted(allowed))}")


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) > most:
        raise Refused(400, f"{name} is {one_line(text)!r}, allowed: a whole number up to {most}")
    return int(text)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    instances = json.loads(row["data"])["Instances"]
    return {
        "ID": row["id"],
        "Study": row["subject"],
        "Destination": row["queue"],
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": _utc(row["next_attempt"]) if row["state"] == "waiting" else None,
        "Error": row["error"],
        "Job": row["job"],
        "Instances": None if instances is None else len(instances),
        "Created": _utc(row["created"]),
        "Updated": _utc(row["updated"]),
    }


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
# fmt: on
# <<<end>>>

register()
