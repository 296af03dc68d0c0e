# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shared pieces that this package contains."""

from __future__ import annotations

import contextlib
import dataclasses
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orthanc

# <<<cog
# import common.contain
# common.contain.emit("settings", "loopback", "answers", "ledger")
# >>>
# fmt: off
# Shared pieces, the same in several scripts. Don't edit them here: edit common/, then run `make sync`.

# common/settings.py, SHA-256 36d766f4033f198474700c185afcc98583373bf73df6c3e42c7b33df9fdd8ab6
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
        warnings.append(f"{path}.{_printable(key)} is not a known key and is ignored; {known}")
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
        shown = {"secret": limits.get("secret")}
        value: Any = [_read_value(arguments[0], shown, f"{path}[{i}]", item, warnings) for i, item in enumerate(found)]
        value, fits, allowed = tuple(value) if origin is tuple else value, True, ""
    elif hint is Any:
        value, fits, allowed = found, True, ""
    elif origin is dict:
        value, fits, allowed = found, isinstance(found, dict), "an object of keys and values"
        if fits and dataclasses.is_dataclass(arguments[1]):
            paths = {key: f"{path}.{_printable(key)}" for key in found}
            value = {key: _read_value(arguments[1], {}, paths[key], each, warnings) for key, each in found.items()}
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


def _printable(key: str) -> str:
    """A key as it may stand in a line of the log."""
    return key if key.isprintable() else json.dumps(key)[1:-1]


def _as_text(found: Any, limits: Mapping[str, Any] | None = None) -> str:
    if limits and limits.get("secret"):
        return "a value that is not shown here"
    text = json.dumps(found)
    if "://" in text and "@" in text:  # the wrong place for a URL with a password
        return "a value that is not shown here"
    return text if len(text) <= 60 else text[:57] + "..."

# common/loopback.py, SHA-256 30d0ef475634e1d5421941451a851a7a002a74d123fbd04be4ce7778356a556d
# This Orthanc's own REST API over HTTP: unlike a call through the SDK it does not hold the GIL, and with it every store.

TIMEOUT = 60.0  # seconds; of one request
# Orthanc closes a kept connection after a second without a request ("KeepAliveTimeout").
KEEP = 0.5
HERE = threading.local()  # of this thread: `connections`, a set of those that it keeps open
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
        self.host = "127.0.0.1" if {"127.0.0.1", "0.0.0.0"} & set(addresses) else str(addresses[0])  # noqa: S104
        self.port = int(configuration.get("HttpPort", 8042))
        self._certificate = configuration.get("SslCertificate", "") if configuration.get("SslEnabled") else None
        # These cut each answer of /tools/find too, whatever its Limit (measured on 1.10.1, 1.12.7 and 1.13.0); no list.
        self.finds_all = not (configuration.get("LimitFindResults") or configuration.get("LimitFindInstances"))
        self._mutual = bool(configuration.get("SslVerifyPeers"))
        self._local = threading.local()
        self._token = ""

    @functools.cached_property
    def finds_more(self) -> bool:
        """Whether /tools/find gives all of what `ResponseContent` names, from Orthanc 1.12.5. Raises `LoopbackError`."""
        return self.finds_all and bool(self.get("/system").get("Capabilities", {}).get("HasExtendedFind"))

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
        if connection.sock is None:  # it is opened now
            HERE.connections = {*getattr(HERE, "connections", ()), connection}
        self._local.used = time.monotonic()
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        context = self.tls()
        if context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=context)

    def tls(self) -> ssl.SSLContext | None:
        """What to trust here, and to show; None: plain HTTP."""
        if self._certificate is None:
            return None
        # The server's own certificate is the one to trust here, whatever name it is made out to.
        context = ssl.create_default_context(cafile=self._certificate)
        context.check_hostname = False
        if self._mutual:
            context.load_cert_chain(self._certificate)
        return context


def close_connections() -> None:
    """Close what this thread keeps open; if it is one of Orthanc's HTTP threads, it would keep another one waiting."""
    for connection in getattr(HERE, "connections", ()):
        connection.close()
    HERE.connections = set()


def _is_json(headers: http.client.HTTPMessage) -> bool:
    return headers.get_content_type() == "application/json"

# common/answers.py, SHA-256 2e9f978083a17cbb4b36a8eb188b5cf127fe7962a1f371f1896b28496b89fb99
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
        finally:
            close_connections()

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


@functools.lru_cache(1000)
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

# common/ledger.py, SHA-256 4af139e7b5ba8f9aaa1a44b9bb4ce918189bd1bcb8dedb692cd8800b8c622d01
# Work that must not be lost: one SQLite file a script, written before anything is done.

WORK_TABLES = """
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS work(
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, data TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS work_by_state ON work(state, queue, id);
CREATE INDEX IF NOT EXISTS work_by_subject ON work(subject, queue, state, id);
CREATE INDEX IF NOT EXISTS work_by_job ON work(job) WHERE job IS NOT NULL;
"""
# Finished and unfinished states: `waiting` for its next attempt, `sending`; `done`, `gone` (what it was about was deleted),
# `dead` (given up, until a person retries or drops it).
STATES = ("waiting", "sending", "done", "gone", "dead")


def configuration_folder() -> Path:
    """The folder in which Orthanc's relative paths begin.

    Where the configuration is given as a folder without a slash at its end, `GetConfigurationPath()` names its parent, so
    the command line has to tell.
    """
    base = Path(orthanc.GetConfigurationPath()).absolute()
    if base.is_file():
        base = base.parent
    else:
        words = [Path(os.fsdecode(word)) for word in Path("/proc/self/cmdline").read_bytes().split(b"\0") if word]
        base = next((word.absolute() for word in words if word.is_dir() and word.absolute().parent == base), base)
    return base


def state_folder(state_path: str | None, configuration: Mapping[str, Any]) -> Path:
    """Where a script keeps its ledger: `StatePath`, else `IndexDirectory`, else `StorageDirectory`."""
    default = configuration.get("IndexDirectory") or configuration.get("StorageDirectory") or "OrthancStorage"
    return configuration_folder() / (state_path or default)


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
        self.fresh = False
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
            # To its end: on Python 3.14 a cursor can outlive its line in an HTTP thread of Orthanc (a stack of 100 KB), and as
            # long as this one is under way, nothing can be committed.
            self._db.execute("PRAGMA journal_mode=WAL").fetchall()
            self._db.execute(f"PRAGMA synchronous={durability}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            self.fresh = found == 0
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
        self.moved = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
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

    def add(self, queue: str, subject: str, data: Mapping[str, Any], priority: int = 0) -> int:
        """A new row, `waiting` and due now, before those of a lower priority; gives its id."""
        with self.transaction() as db:
            now = time.time()
            values = (queue, subject, json.dumps(data), now, now, priority)
            sql = "INSERT INTO work VALUES(NULL,?,?,'waiting',0,0,'',NULL,?,?,?,?)"
            return int(db.execute(sql, values).lastrowid or 0)

    def due(self, queue: str, limit: int, longest: float) -> list[dict[str, Any]]:
        """The next rows of a queue, of each subject only the oldest unfinished one, so that order holds.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self.rows(
            "SELECT * FROM work w WHERE queue=? AND state='waiting' AND (next_attempt<=? OR next_attempt>?) AND NOT EXISTS "
            "(SELECT 1 FROM work o WHERE o.subject=w.subject AND o.queue=w.queue AND o.state IN ('waiting','sending') "
            "AND o.id<w.id) ORDER BY priority DESC, id LIMIT ?",
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
# fmt: on
# <<<end>>>
