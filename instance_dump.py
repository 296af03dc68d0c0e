# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/instance_dump.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Shows one instance as pydicom sees it: GET /pydicom/{instance id}.

A text as pydicom prints it, with names for the private tags that pydicom or Orthanc's `Dictionary` knows, or DICOM JSON
(PS3.18 F), by `Accept` or `?format=`. Pixel data is left out, long values are shortened. Needs no configuration:

    curl http://127.0.0.1:8042/pydicom/{instance id}
    curl http://127.0.0.1:8042/pydicom/{instance id}?format=json

Needs pydicom, 2.3 or newer: apt install python3-pydicom, or as docs/install.md says. More: docs/instance_dump.md.
"""

from __future__ import annotations

if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)

import contextlib
import dataclasses
import datetime
import difflib
import functools
import hashlib
import http
import http.client
import io
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

try:
    import pydicom
    import pydicom.datadict
    import pydicom.filewriter
except ImportError:
    pydicom = None

import orthanc


# ---- src/common/accept.py: Content negotiation by `Accept` (RFC 9110, 12.5.1).


def preferred_type(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the MIME type of `offered` that a client likes best, the first of equals; None if it takes none of them.

    No header, or an empty one, takes everything. The most specific range that names a type decides about it; a quality
    that can't be read is 0.
    """
    ranges: dict[str, float] = {}
    for part in (accept or "*/*").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        ranges[name] = float(quality) if re.fullmatch(r"[01](\.[0-9]{0,3})?", quality) else 0.0

    def quality_of(mime: str) -> float:
        candidates = (mime, f"{mime.partition('/')[0]}/*", "*/*")
        return next((ranges[each] for each in candidates if each in ranges), 0.0)

    best = max(offered, key=quality_of)
    return best if quality_of(best) > 0 else None


# ---- src/common/identifiers.py: Orthanc's identifiers, which follow from those of DICOM, and its levels.


# From the whole patient down to one image, and how Orthanc's routes call them.
PLURAL = {"Patient": "patients", "Study": "studies", "Series": "series", "Instance": "instances"}
UID_TAG_OF = {
    "Patient": "PatientID",
    "Study": "StudyInstanceUID",
    "Series": "SeriesInstanceUID",
    "Instance": "SOPInstanceUID",
}


def orthanc_identifier(*values: str) -> str:
    """Return Orthanc's identifier of what has this PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID.

    As many as the level has, from the patient down. It is their SHA-1, in five groups of eight hexadecimal digits (Orthanc
    1.10.1 to 1.13.0). Checked for plain ASCII values; Orthanc strips spaces and hashes other values in its own encoding.
    """
    digest = hashlib.sha1("|".join(value.strip(" \0") for value in values).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:16]}-{digest[16:24]}-{digest[24:32]}-{digest[32:]}"


def is_orthanc_identifier(text: str) -> bool:
    """Return whether a text has the form of Orthanc's identifiers: no other text may become part of a path."""
    return re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{8}){4}", text) is not None


# ---- src/common/quirks.py: What a version of Orthanc, of its plugin or of Python needs and others don't: each with the version and the reason.


# What Orthanc calls must live as long as the process: 1.12.7 and later crash at shutdown otherwise.
KEPT_ALIVE: list[Any] = []
# Whether values of a GET arrive percent-decoded depends on the web server that Orthanc was built with (Debian 12's and
# 13's hand them over raw, forky's decoded), not on a version that could be asked for. So a route asks itself, once.
PROBE = "arrives-decoded"  # a parameter that only we send
ARRIVAL: list[bool] = []  # whether they arrive decoded, when it is known


def import_for_small_stacks() -> None:
    """Import what http.client imports at its first connection, for which the stack of Orthanc's HTTP threads is too small.

    Python 3.14 needs more than the 100 KB of such a thread to import it.
    """
    import encodings.idna  # noqa: F401


def answer_probe(output: Any, query: Mapping[str, str | None]) -> bool:
    """Answer how the value of `PROBE` has arrived, if that is what a GET asks; return whether it was."""
    if query.keys() != {PROBE}:
        return False
    output.AnswerBuffer(b"A" if query[PROBE] == "A" else b"%41", "text/plain")
    return True


def values_arrive_decoded(uri: str, get: Callable[[str], Any]) -> bool:
    """Return whether values of a GET arrive percent-decoded; ask one of our routes with `get` if it is not known yet."""
    if not ARRIVAL:
        ARRIVAL.append(get(f"{urllib.parse.quote(uri)}?{PROBE}=%41") == b"A")
    return ARRIVAL[0]


def send_status(output: Any, status: int, body: str) -> None:
    """Send a status with a body of JSON: plugin 4.0 and 4.1 want its length in bytes as a third argument."""
    try:
        output.SendHttpStatus(status, body)  # from plugin 4.2, which adds a Content-Type by itself
    except TypeError:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(status, body, len(body.encode()))


def folder_on_command_line(parent: Path) -> Path | None:
    """Return the folder in `parent` that the command line of this process names, if it names one.

    Where the configuration is a folder given without a slash at its end, `GetConfigurationPath()` is its parent (1.10.1 and
    later). Only Linux has `/proc`: elsewhere there is no folder to find.
    """
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    folders = (Path(os.fsdecode(word)) for word in words if word)
    return next((each.absolute() for each in folders if each.is_dir() and each.absolute().parent == parent), None)


# ---- src/common/loopback.py: This Orthanc's own REST API over HTTP: unlike a call through the SDK it does not hold the GIL, and with it every store.


import_for_small_stacks()

TIMEOUT = 60.0  # seconds; of one request
KEEP_ALIVE_SECONDS = 0.5  # Orthanc closes a connection after a second without a request ("KeepAliveTimeout")
_open_connections = threading.local()  # of this thread: `connections`, a set of those that it keeps open
IDEMPOTENT_POSTS = ("/tools/find", "/tools/bulk-content", "/tools/bulk-delete")  # may be sent a second time


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
        self.find_is_unlimited = not (configuration.get("LimitFindResults") or configuration.get("LimitFindInstances"))
        self._mutual = bool(configuration.get("SslVerifyPeers"))
        self._local = threading.local()
        self._token = ""

    @functools.cached_property
    def has_extended_find(self) -> bool:
        """Whether /tools/find gives all of what `ResponseContent` names, from Orthanc 1.12.5. Raises `LoopbackError`."""
        return self.find_is_unlimited and bool(self.get("/system").get("Capabilities", {}).get("HasExtendedFind"))

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
        headers, content = self.request_raw(method, path, body)
        return json.loads(content) if _is_json(headers) and content else content

    def request_raw(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """Send a request as `request` does, with headers of one's own; return those of the answer, and its bytes as they came."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._token = self._token or orthanc.GenerateRestApiAuthorizationToken()
        # A kept connection may be closed by Orthanc just now: what is the same twice is asked once more.
        attempts = 2 if method != "POST" or path in IDEMPOTENT_POSTS else 1
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
        elif time.monotonic() - self._local.used > KEEP_ALIVE_SECONDS:
            connection.close()
        if connection.sock is None:  # it is opened now
            _open_connections.connections = {*getattr(_open_connections, "connections", ()), connection}
        self._local.used = time.monotonic()
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        context = self.tls()
        if context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=context)

    def tls(self) -> ssl.SSLContext | None:
        """Return what to trust here, and to show; None: plain HTTP."""
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
    for connection in getattr(_open_connections, "connections", ()):
        connection.close()
    _open_connections.connections = set()


def _is_json(headers: http.client.HTTPMessage) -> bool:
    return headers.get_content_type() == "application/json"


# ---- src/common/packages.py: Python packages that a script needs: whether one is missing or too old, and what a person does about it.


def package_problem(package: str, least: str, found: str | None, debian: str = "") -> str | None:
    """Return what is wrong with an installed package, and the remedy; None if it is there and new enough.

    Parameters
    ----------
    package : its name for pip.
    least : the oldest version that works, as `2.3`.
    found : the version that is installed, None if none is.
    debian : its name for apt, if Debian 12's version is new enough.

    >>> package_problem("httpx", "0.23", "0.28.1") is None
    True
    """
    if found is not None and _numbers(found) >= _numbers(least):
        return None
    state = f"found {found}" if found else "found none"
    by_apt = f"apt install {debian}, or " if debian else ""
    return (
        f"it needs the Python package {package}, {least} or newer ({state}). Install it: {by_apt}a virtual environment "
        'as in docs/install.md, "Packages" (the Dockerfile installs it); then restart Orthanc'
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


# ---- src/common/json_text.py: JSON from outside, decoded at a cost in proportion to its length, whatever it holds.


# Orthanc's HTTP threads have a stack of 100 KB: JSON nested 550 deep would end the whole server.
MAX_JSON_DEPTH = 50
QUOTE = ord('"')
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
NO_STRUCTURE = bytes({*range(256)} - {QUOTE, *STEPS})


def decoded(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises
    ------
    ValueError : it is none (not in UTF-8, NaN, infinite), it is nested more than `MAX_JSON_DEPTH` deep, names something
        twice, or holds half of a surrogate pair, which is no character.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = text.encode()
    except UnicodeError:
        raise ValueError("it is not in UTF-8") from None
    if is_too_deep(content):
        raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} deep")
    found = json.loads(text, object_pairs_hook=_named_once, parse_constant=_refuse_constant)
    if "\\u" in text:
        _refuse_half_characters(found)
    return found


def is_too_deep(content: bytes) -> bool:
    """Return whether the decoder would go down more than `MAX_JSON_DEPTH` lists and objects, before or after it finds an error.

    Three passes in C leave nothing but brackets and quotes; then one loop counts, with a handful of numbers. What is
    written in a text nests nothing. A backslash outside a text ends the decoder, so all others are in pairs, or escape.
    """
    content = content.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, NO_STRUCTURE)
    depth, inside = 0, False
    for byte in content.replace(b'""', b""):  # two quotes side by side change nothing for what follows
        if byte == QUOTE:
            inside = not inside
        elif not inside:
            depth += STEPS[byte]
            if depth > MAX_JSON_DEPTH:
                return True
            if depth <= 0:  # all that was opened is closed: the decoder ends here
                return False
    return False


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_half_characters(found: Any) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has half of a surrogate pair, which is no character") from None


# ---- src/common/times.py: Times: ISO 8601 in UTC with milliseconds and `Z` wherever a script writes one; days as DICOM writes them.


def utc(seconds: float | None = None) -> str:
    """Return a time as `2026-01-31T13:00:00.000Z`: that of `seconds` since 1970, or now."""
    moment = datetime.datetime.fromtimestamp(time.time() if seconds is None else seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_or_none(seconds: float | None) -> str | None:
    """Return `utc(seconds)`, or None for what has not happened."""
    return None if seconds is None else utc(seconds)


def parse_day(text: object) -> datetime.date | None:
    """Return the day of a DA value (YYYYMMDD, DICOM PS3.5 6.2), or None: `1999.12.31`, `1999`, `20000231` are no days."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{8}", text):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None


def parse_time(text: object) -> datetime.datetime | None:
    """Return a time in UTC from `20260131`, `2026-01-31`, or `2026-01-31T13:00:00[.000]` with a zone; None for anything else.

    A day is its first moment in UTC. A time without a zone is taken as UTC. A `+` that a query turned into a space counts.
    """
    if day := parse_day(text):
        return datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    if not isinstance(text, str) or not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        found = datetime.datetime.fromisoformat(re.sub(r" (?=[0-9]{2}:?[0-9]{2}$)", "+", text))
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None


def parse_orthanc_time(text: object) -> datetime.datetime | None:
    """Return the time of what Orthanc writes into `Date`, `LastUpdate`, `ReceptionDate`: `20260131T130000`, in UTC."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None


def orthanc_time(moment: datetime.datetime) -> str:
    """Return a time as Orthanc writes it, to be compared with its own: `20260131T130000`."""
    return moment.astimezone(datetime.UTC).strftime("%Y%m%dT%H%M%S")


# ---- src/common/parameters.py: The parameters of routes: each handler says what it takes; `register_route` has names and types checked before it is called.


MOST_ROWS = 1000  # of a page
LARGEST_NUMBER = 2**62  # SQLite's integers are a little larger

H = TypeVar("H", bound=Callable[..., Any])


class ParameterError(ValueError):
    """A parameter that can't be; the text names it, what was found, and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text that is not empty; `pattern` is what all of it has to match, `allowed` says that in words."""

    allowed: str = "a text"
    pattern: str = ".+"
    longest: int = 1000

    def from_body(self, value: Any) -> Any:
        """Return the value of a parameter in a JSON body. Raises ValueError: it is not allowed."""
        if not isinstance(value, str) or len(value) > self.longest or not re.fullmatch(self.pattern, value, re.DOTALL):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        """Return the value that a text in a query means. Raises ValueError: it is not allowed."""
        return self.from_body(text)


@dataclasses.dataclass(frozen=True)
class OneOf(Text):
    """One of some texts."""

    choices: tuple[str, ...] = ()

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(", ".join(self.choices))
        return value


@dataclasses.dataclass(frozen=True)
class WholeNumber(Text):
    """A whole number with bounds."""

    least: int = 0
    most: int = LARGEST_NUMBER

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise ValueError(f"a whole number from {self.least} to {self.most}")
        return value

    def from_query(self, text: str) -> Any:
        return self.from_body(int(text) if re.fullmatch("[0-9]{1,19}", text) else text)


@dataclasses.dataclass(frozen=True)
class Flag(Text):
    """True or false; in a query also its name alone, where `bare`."""

    bare: bool = False
    allowed: str = "true or false"

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        if text == "" and self.bare:
            return True
        return self.from_body({"true": True, "false": False}.get(text, text))


@dataclasses.dataclass(frozen=True)
class Texts(Text):
    """A list of texts, separated by commas in a query. An empty list is refused: it means nothing, never everything."""

    allowed: str = "a list of at least one text"

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        return self.from_body(text.split(","))


@dataclasses.dataclass(frozen=True)
class TextsByName(Text):
    """An object of names and texts, as JSON in a query too. An empty one is refused."""

    allowed: str = "an object of at least one name and text"

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, dict) or not value or not all(isinstance(each, str) for each in value.values()):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        try:
            return self.from_body(decoded(text))
        except ValueError:
            raise ValueError(self.allowed) from None


@dataclasses.dataclass(frozen=True)
class Day(Text):
    """A day of the calendar; handlers get a `datetime.date`."""

    allowed: str = "a day of the calendar as YYYYMMDD"

    def from_body(self, value: Any) -> Any:
        if (day := parse_day(value)) is None:
            raise ValueError(self.allowed)
        return day


@dataclasses.dataclass(frozen=True)
class Moment(Text):
    """A day, from its first moment in UTC, or a time with its zone; handlers get a `datetime.datetime`."""

    allowed: str = "a day (20260131, 2026-01-31) or a time with its zone (2026-01-31T13:00:00Z)"

    def from_body(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) <= len("2026-01-31") and (day := parse_time(value)):
            return day
        try:
            found = datetime.datetime.fromisoformat(value.replace(" ", "+"))  # what + becomes in a query
            found.astimezone(datetime.timezone.utc)  # noqa: UP017 - OverflowError: in the first or the last year
        except (AttributeError, ValueError, OverflowError):
            raise ValueError(self.allowed) from None
        if found.tzinfo is None:
            raise ValueError(self.allowed)
        return found


IDENTIFIER = Text("an identifier of Orthanc", r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
PAGE_PARAMETERS: Mapping[str, Text] = {"since": WholeNumber(), "limit": WholeNumber(least=1, most=MOST_ROWS)}


def takes(parameters: Mapping[str, Text], *, get_acts: bool = False) -> Callable[[H], H]:
    """Say which parameters a handler takes, by name: a GET in its query, a POST or PUT in its body. Without it, none.

    They come as `request.parameters`, those that were given. `get_acts`: a GET to it deletes, or sends, or changes what
    others see, so that no link may do it (`common.cross_site`).
    """

    def mark(handler: H) -> H:
        vars(handler)["parameters"], vars(handler)["get_acts"] = parameters, get_acts
        return handler

    return mark


def parameters_of(handler: Callable[..., Any]) -> Mapping[str, Text]:
    """Return what a handler takes, by name."""
    found: Mapping[str, Text] = getattr(handler, "parameters", {})
    return found


def acts_on_get(handler: Callable[..., Any]) -> bool:
    """Return whether a GET to a handler changes anything."""
    return bool(getattr(handler, "get_acts", False))


def read_parameters(taken: Mapping[str, Text], given: Mapping[str, Any], *, from_query: bool) -> dict[str, Any]:
    """Return what was given as handlers want it.

    Raises
    ------
    ParameterError : a name is not known, or a value not allowed.
    """
    found = {}
    for name, value in given.items():
        if name not in taken:
            near = difflib.get_close_matches(name[:40], taken, 1, 0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ParameterError(f"Unknown parameter {shown_value(name)}; {hint}allowed: {', '.join(taken) or 'none'}")
        try:
            found[name] = taken[name].from_query(value) if from_query else taken[name].from_body(value)
        except ValueError as error:
            raise ParameterError(f"{name} is {shown_value(value)}, allowed: {error}") from None
    return found


def shown_value(value: Any) -> str:
    """Return a value of a request as one line of an answer or of the log may hold it."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def row_number(text: str) -> int:
    """Return the number of a row in a path; -1, which no row has, if there can't be such a row."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


# ---- src/common/cross_site.py: Who may act: people on this server's own pages, and programs; no page of another site, and nothing that loads links by itself.


# What a person's command line, or a library in a person's program, calls itself. Many libraries say nothing at all.
PROGRAM = re.compile(
    r"(curl|libcurl|wget2?|httpie|xh|aria2|lwp-request|libwww-perl|python-requests|python-httpx|python-urllib3?"
    r"|python/[0-9.]+ aiohttp|aiohttp|httpx|go-http-client|resty|go-resty|java|java-http-client|apache-httpclient"
    r"|apache-httpasyncclient|okhttp|jersey|ktor-client|axios|got|node|node-fetch|undici|deno|bun|superagent|node-superagent"
    r"|postmanruntime|insomnia|bruno|hoppscotch|thunder client|powershell|restsharp|guzzlehttp|php-curl-class|ruby|faraday"
    r"|rest-client|httparty|reqwest|ureq|hyper|dart|luasocket|luasocket [0-9.]+|libcurl-agent|rcurl|httr2?|matlab)"
    r"([/ (].*)?"
    r"|mozilla/5\.0 \([^()]*\) (windows)?powershell/[0-9.]+",
    re.IGNORECASE,
)
ROBOT = re.compile(
    r"bot\b|bot/|crawl|spider|slurp|preview|externalhit|externalagent|lighthouse|headless|pagespeed|prerender|compatible;"
    r"|google-|googleother|feedfetcher|mediapartners|scan|monitor|whatsapp|skype|embed",
    re.IGNORECASE,
)
AHEAD_OF_TIME = ("sec-purpose", "purpose", "x-purpose", "x-moz")  # prefetching, prerendering, previewing
MEDIA = re.compile(r"\b(image|video|audio|font)/|^text/css", re.IGNORECASE)
BROWSER = re.compile("(mozilla|opera)/", re.IGNORECASE)
OWN_PAGES = ("same-origin", "none")  # a page of this server; what a person typed, or chose from the bookmarks
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")  # what any page can send unasked


def why_refused(method: str, headers: Mapping[str, str], *, has_body: bool) -> tuple[int, str] | None:
    """Return why a request that acts is refused, as a status and a reason; None: it was sent on purpose.

    A GET is what any page, mail or chat can make a browser send, or what is loaded ahead of time: it is accepted for a
    program that says what it is (or nothing), and for a browser that says that this server's own page or a person asked.
    Browsers say so over HTTPS and on localhost; over plain HTTP they can't be distinguished from one that another page leads.
    """
    if sign := _sign_of_another_site(method, headers):
        return 403, sign
    if method == "GET":
        return (403, sign) if (sign := _sign_of_a_link(headers)) else None
    mime = headers.get("content-type", "").partition(";")[0].strip().lower()
    if _is_browser(headers) and (mime in FORMS or (has_body and mime != "application/json")):
        return 415, "From a browser the body must be application/json"
    return None


def _sign_of_another_site(method: str, headers: Mapping[str, str]) -> str:
    site, origin, referer = (headers.get(name) for name in ("sec-fetch-site", "origin", "referer"))
    if site is not None and site.strip().lower() not in OWN_PAGES:
        return f"This comes from another site's page (Sec-Fetch-Site: {site[:40]})"
    if site is not None and site.strip().lower() == "same-origin" and method != "GET":
        return ""  # the browser's own word, also behind a proxy that puts another Host in
    if origin is not None and not _is_ours(origin, headers):
        return f"This comes from another site's page (Origin: {origin[:100]})"
    if referer is not None and not _is_ours(referer, headers) and (origin is None or method == "GET"):
        return f"This comes from another site's page (Referer: {referer[:100]})"
    return ""


def _is_ours(address: str, headers: Mapping[str, str]) -> bool:
    """Return whether an address is of this server, as whoever asked calls it. Addresses that are none are not."""
    named = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    hosts = {_without_port(host.strip().lower()) for host in named} - {""}
    scheme, _, rest = address.strip().lower().partition("://")
    return scheme in ("http", "https") and _without_port(re.split(r"[/?#\\]", rest, maxsplit=1)[0]) in hosts


def _without_port(host: str) -> str:
    """Return a host without the port that its scheme has anyway."""
    return re.sub(r":(80|443)?\Z", "", host)


def _sign_of_a_link(headers: Mapping[str, str]) -> str:
    """Return what shows that a GET was not asked for by a person or a person's program; empty: nothing does."""
    agent = headers.get("user-agent", "")
    accept, destination = headers.get("accept", ""), headers.get("sec-fetch-dest", "document").strip().lower()
    if ahead := next((name for name in AHEAD_OF_TIME if name in headers), None):
        return f"This is loaded ahead of time, or as a preview ({ahead}: {headers[ahead][:40]})"
    if "range" in headers:
        return "This asks for a part of a file, as a player of media does (Range)"
    if destination not in ("document", "empty") or (MEDIA.search(accept) and "text/html" not in accept.lower()):
        return "This asks for a picture, a sound, or a part of a page (Accept, Sec-Fetch-Dest)"
    if ROBOT.search(agent):
        return f"This comes from a robot or a preview (User-Agent: {agent[:100]})"
    if "sec-fetch-site" in headers or not agent.strip() or PROGRAM.fullmatch(agent.strip()):
        return ""
    if BROWSER.match(agent):
        return "A browser that does not say that a person asked for it (Sec-Fetch-Site) must not act by a link"
    return f"Who asks for this is not known as a command line or a library of HTTP (User-Agent: {agent[:100]})"


def _is_browser(headers: Mapping[str, str]) -> bool:
    agent = headers.get("user-agent", "")
    return BROWSER.match(agent) is not None and PROGRAM.fullmatch(agent) is None


def as_command(headers: Mapping[str, str], path: str) -> str:
    """Return the command line that does on purpose what a GET asked for, for a person; `path` is encoded as in a URL."""
    address = f"http://{headers.get('host', '127.0.0.1:8042')}{path}"
    return f"curl -u USER '{re.sub('[^!-&(-~]', '', address)}'"  # no character of it ends the quotes


# ---- src/common/routes.py: Routes that answer alike on every version of the plugin, and who may act through them.


LARGEST_BODY = 1 << 20  # bytes


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
    """One request: `query` are the decoded values of a GET, `body` the bytes of a POST or PUT; `headers` in lower case.

    `parameters` are what its handler takes (`common.parameters`), of whichever it came in.
    """

    method: str
    uri: str
    groups: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the body as an object; an empty body is an empty one. Raises `Refused` (400) for anything else."""
        try:
            found = decoded(self.body or b"{}")
        except ValueError as error:
            raise Refused(400, f"The body is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise Refused(400, "The body must be a JSON object of parameters")
        return found


Handler = Callable[[Request], Any]
ROUTES: dict[str, Mapping[str, Handler]] = {}  # what register_route() registered, for the documentation


def one_line(text: object) -> str:
    """Return text from outside as a single line: no line of a log and no header is ever made up by a sender."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(text)).strip()


def register_route(
    pattern: str,
    handlers: Mapping[str, Handler],
    unavailable: Callable[[], str | None],
    shortcut: Callable[[Any, str, Mapping[str, Any]], bool] | None = None,
) -> None:
    """Register a route: one handler for each method, 405 for the others, 503 while `unavailable` gives a reason.

    503 also where a handler raises sqlite3.OperationalError or OSError: its state is locked, full, read-only or gone.

    A handler returns what becomes JSON, a `str`, `bytes` or an `Answer`, or raises `Refused`. Errors have the shape of
    Orthanc's own. First it is checked whether who sends it may act (`common.cross_site`), by the headers alone; then the
    body's size, then the parameters that the handler `takes` (`common.parameters`).
    `shortcut` gets a GET that changes nothing as Orthanc gave it, before all that; it returns whether it has answered.
    """

    def callback(output: Any, uri: str, /, **raw: Any) -> None:
        method, headers = raw["method"], raw.get("headers", {})
        if method not in handlers:
            output.SendMethodNotAllowed(",".join(handlers))
            return
        handler = handlers[method]
        acts = method != "GET" or acts_on_get(handler)
        if shortcut is not None and not acts and shortcut(output, uri, raw):
            return
        try:
            if acts:
                _refuse_unless_on_purpose(method, uri, headers, raw)
            if reason := unavailable():
                raise Refused(503, reason)
            if len(body := raw.get("body", b"")) > LARGEST_BODY:
                raise Refused(413, f"The body has {len(body)} bytes, allowed: {LARGEST_BODY}")
            if answer_probe(output, raw.get("get", {})):
                return
            request = Request(method, uri, raw.get("groups", ()), _decoded_query(uri, raw), headers, body)
            answer = handler(_with_parameters(request, handler))
            _send(output, answer if isinstance(answer, Answer) else Answer(answer))
        except Refused as refused:
            _send_error(output, refused, method, uri)
        except LoopbackError as error:
            _send_error(output, Refused(503, f"Orthanc does not answer now: {error}"), method, uri)
        except (sqlite3.OperationalError, OSError) as error:  # locked, full, read-only, taken away: not for ever
            _send_error(output, Refused(503, f"The script's state can't be used now: {error}"), method, uri)
        except Exception:  # noqa: BLE001 - the caller gets a 500, the log says why, Orthanc continues
            orthanc.LogError(f"{method} {one_line(uri)} failed, please report this:\n{traceback.format_exc()}")
            _send_error(output, Refused(500, "An error in the script; Orthanc's log tells which"), method, uri)
        finally:
            close_connections()

    KEPT_ALIVE.append(callback)
    ROUTES[pattern] = handlers
    orthanc.RegisterRestCallback(pattern, callback)


def _refuse_unless_on_purpose(method: str, uri: str, headers: Mapping[str, str], raw: Mapping[str, Any]) -> None:
    if found := why_refused(method, headers, has_body=bool(raw.get("body"))):
        status, reason = found
        if method == "GET":
            reason += f". In a terminal: {as_command(headers, f'{uri}?{_encoded_query(raw)}')}"
        raise Refused(status, reason)


def _encoded_query(raw: Mapping[str, Any]) -> str:
    """Return a query as a URL has it. For a stranger nothing is asked or decoded: what is not known yet came as it was."""
    as_it_was = "" if ARRIVAL == [True] else "%+"
    pairs = raw.get("get", {}).items()
    return "&".join(
        f"{name}={urllib.parse.quote(value or '', as_it_was + ',:/', errors='replace')}" for name, value in pairs
    )


def _decoded_query(uri: str, raw: Mapping[str, Any]) -> dict[str, str]:
    query = {name: value or "" for name, value in raw.get("get", {}).items()}
    if not any("%" in value or "+" in value for value in query.values()) or _arrives_decoded(uri):
        return query
    try:
        return {name: urllib.parse.unquote_plus(value, errors="strict") for name, value in query.items()}
    except UnicodeError:
        raise Refused(400, "A parameter is not in UTF-8") from None


def _with_parameters(request: Request, handler: Handler) -> Request:
    """Check what a request carries against what its handler takes. Raises `Refused` (400)."""
    is_get = request.method == "GET"
    given: Mapping[str, Any] = request.query if is_get else request.json()
    try:
        found = read_parameters(parameters_of(handler), given, from_query=is_get)
    except ParameterError as error:
        raise Refused(400, str(error)) from None
    return dataclasses.replace(request, parameters=found)


def warn_if_open(name: str, configuration: Mapping[str, Any]) -> None:
    """Say once, at start, that anybody on the network may use this script's routes, as they may Orthanc's own."""
    if configuration.get("RemoteAccessAllowed") and configuration.get("AuthenticationEnabled") is False:
        orthanc.LogWarning(
            f"{name}: whoever reaches this server may use its routes, as all of Orthanc's (AuthenticationEnabled is false)"
        )


def _arrives_decoded(uri: str) -> bool:
    try:
        return values_arrive_decoded(uri, lambda path: Loopback(json.loads(orthanc.GetConfiguration())).get(path))
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
        send_status(output, answer.status, content.decode())


def _send_error(output: Any, refused: Refused, method: str, uri: str) -> None:
    content = {
        **refused.details,
        "HttpError": http.HTTPStatus(refused.status).phrase,
        "HttpStatus": refused.status,
        "Message": one_line(refused.message),
        "Method": method,
        "Uri": uri,
    }
    send_status(output, refused.status, json.dumps(content, indent=2) + "\n")


# ---- src/common/version.py: The version of the collection, the same for all scripts; it is written here and nowhere else.


__version__ = "0.2.0"


# ---- src/instance_dump.py


MAX_VALUE_CHARACTERS = 256  # of a value in the text
MAX_INLINE_BYTES = 1024  # or characters, of a value in JSON; of a longer one it has only the address
MAX_FILE_BYTES = 512 << 20  # of a file that is read
FILES_IN_MEMORY = threading.BoundedSemaphore(2)
# PS3.18 F.2.2, table F.2.3-1
MAY_BE_BULK = frozenset(
    {"DS", "FL", "FD", "IS", "LT", "OB", "OD", "OF", "OL", "OV", "OW"}
    | {"SL", "SS", "ST", "SV", "UC", "UL", "UN", "US", "UT", "UV"}
)
BYTES = re.compile("O[BDFLVW]|UN")  # VRs whose values pydicom gives as bytes, also "US or OW"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a UI, which pydicom prints as it is
PIXELS = 0x7FE0  # the group of pixel data
FORMATS = {"text": "text/plain", "json": "application/json", "dicom+json": "application/dicom+json"}
PROBLEM = package_problem("pydicom", "2.3", pydicom and pydicom.__version__, "python3-pydicom")
REFUSAL = PROBLEM and f"instance_dump stays idle: {PROBLEM}"


# What is shown


def readable(content: bytes) -> Any:
    """Return the data set of a file, in which each element can be read: one that breaks its VR is OB, and shows its bytes.

    Raises whatever pydicom raises: it can't read the file at all.
    """
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    for each in (dataset.file_meta, dataset):
        _make_readable(each)
    return dataset


def _make_readable(dataset: Any) -> None:
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag).value
        try:
            if (element := dataset[tag]).VR == "SQ":
                for item in element.value:
                    _make_readable(item)
                continue
            broken = "\n" in str(element) or (isinstance(element.value, bytes) and not BYTES.search(element.VR))
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - whatever is wrong with a value, the others are shown
            broken = True
        if broken:  # of UN pydicom would guess the VR that it does not have
            dataset[tag] = pydicom.DataElement(tag, "OB", raw if isinstance(raw, bytes) else b"")


def as_text(dataset: Any) -> str:
    """Return what pydicom prints; a line that is too long ends with how long it was."""
    return "".join(f"{_shortened(line)}\n" for line in str(dataset).split("\n"))


def _shortened(line: str) -> str:
    head, mark, value = UNPRINTABLE.sub("\ufffd", line).partition(": ")
    return f"{head}{mark}{value[:MAX_VALUE_CHARACTERS]}" + (
        f"… (cut, of {len(value)} characters)" if len(value) > MAX_VALUE_CHARACTERS else ""
    )


def as_json(dataset: Any, address: str) -> dict[str, Any]:
    """Return DICOM JSON (PS3.18 F) without the file meta information; large values by their address in Orthanc's REST API."""
    found = {}
    for element in dataset:
        group, number = element.tag.group, element.tag.element
        found[f"{group:04X}{number:04X}"] = _element(element, f"{address}/{group:04x}-{number:04x}")
    return found


def _element(element: Any, address: str) -> dict[str, Any]:
    if element.VR == "SQ":
        items = [as_json(item, f"{address}/{number}") for number, item in enumerate(element.value)]
        return {"vr": "SQ", **({"Value": items} if items else {})}
    try:
        found: dict[str, Any] = element.to_json_dict(
            lambda _: address, 0 if element.tag.group == PIXELS else MAX_INLINE_BYTES
        )
    except Exception:  # noqa: BLE001 - a DS that is no number, say: JSON has strings, too (PS3.18 F.2.3)
        texts = [str(element.value)] if isinstance(element.value, str | bytes) else [str(v) for v in element.value]
        found = {"vr": str(element.VR), "Value": texts}
    found["vr"] = found["vr"].partition(" or ")[
        0
    ]  # "OB or OW" where the file does not say which, and nothing else in it
    if "Value" in found:
        found["Value"] = [_number(value) for value in found["Value"]]
        if element.VR in MAY_BE_BULK and len(json.dumps(found["Value"])) > MAX_INLINE_BYTES:
            return {"vr": found["vr"], "BulkDataURI": address}
    return found


def _number(value: Any) -> Any:
    """Return a value of JSON, which has no NaN and no infinity: DICOM writes them as texts (PS3.18 F.2.3)."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# What is asked for


def chosen_format(given: Mapping[str, Any], accept: str) -> str:
    """Return a key of FORMATS, by `?format=`, else by Accept. Raises `Refused`: 406."""
    if "format" in given:
        return str(given["format"])
    mime = preferred_type(accept, tuple(FORMATS.values()))
    if mime is None:
        raise Refused(406, f"Accept is {one_line(accept)[:100]!r}, here is: {', '.join(FORMATS.values())}")
    return next(name for name, each in FORMATS.items() if each == mime)


def named_private_tags(dictionary: Mapping[str, Any]) -> Iterator[tuple[str, int, tuple[str, str, str]]]:
    """Yield creator, tag, and (VR, multiplicity, name) of each private tag in Orthanc's `Dictionary`, as pydicom needs them."""
    for tag, value in dictionary.items():
        number = re.fullmatch("([0-9a-fA-F]{4})[,-]([0-9a-fA-F]{4})", tag)
        if number and isinstance(value, list) and len(value) > 4 and int(number[1], 16) % 2:
            low, high = value[2:4]
            multiplicity = str(low) if low == high else f"{low}-{high or 'n'}"
            yield str(value[4]), int(number[1] + number[2], 16), (str(value[0]), multiplicity, str(value[1]))


class Dump:
    """Handler of the route."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._loopback = Loopback(configuration)
        # Each request takes a second of Orthanc's HTTP threads, to read the file: all at once would wait for each other.
        self._callers = threading.BoundedSemaphore(max(1, int(configuration.get("HttpThreadsCount", 50)) // 3))

    @takes({"format": OneOf(choices=tuple(FORMATS))})
    def get(self, request: Request) -> Answer:
        """The instance as pydicom prints it, or as DICOM JSON: `?format=text`, `json`, `dicom+json`, else by `Accept`."""
        chosen = chosen_format(request.parameters, request.headers.get("accept", ""))
        instance = request.groups[0]
        if not is_orthanc_identifier(instance):
            raise Refused(404, f"There is no instance {one_line(instance)[:60]!r}")
        if not self._callers.acquire(blocking=False):
            raise Refused(503, "Too many requests at a time; try again")
        try:
            with FILES_IN_MEMORY:
                return _in_a_thread(functools.partial(shown, self._read(instance), instance, chosen))
        finally:
            self._callers.release()

    def _read(self, instance: str) -> bytes:
        try:
            if (size := int(self._loopback.get(f"/instances/{instance}")["FileSize"])) > MAX_FILE_BYTES:
                raise Refused(413, f"The file has {size} bytes, allowed: {MAX_FILE_BYTES}")
            return self._loopback.request_raw("GET", f"/instances/{instance}/file")[1]
        except LoopbackError as error:
            if error.status == 404:
                raise Refused(404, f"There is no instance {instance!r}") from None
            raise Refused(503, f"Orthanc does not give the file: {error}") from None


def shown(content: bytes, instance: str, chosen: str) -> Answer:
    """Return the answer. Raises `Refused` (415): pydicom can't read it."""
    try:
        dataset = readable(content)
        if chosen == "text":
            body = as_text(dataset)
        else:  # the address is relative, so that it is right behind a proxy too
            with contextlib.suppress(Exception):
                pydicom.filewriter.correct_ambiguous_vr(dataset, dataset.original_encoding[1])
            body = json.dumps(as_json(dataset, f"../instances/{instance}/content"), indent=2, allow_nan=False) + "\n"
    except Exception as error:  # noqa: BLE001 - pydicom raises whatever comes up
        raise Refused(415, f"pydicom can't read this instance: {type(error).__name__}") from None
    mime = FORMATS[chosen] + ("; charset=utf-8" if chosen == "text" else "")
    # Values come from anybody: no browser may take them for a page.
    return Answer(body.encode("utf-8", "replace"), mime=mime, headers={"X-Content-Type-Options": "nosniff"})


def _in_a_thread(work: Callable[[], Answer]) -> Answer:
    """Return what `work` returns in a thread of its own: Orthanc's have too small a stack for nested sequences."""
    outcome: list[Answer | Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised again below
            outcome.append(error)

    thread = threading.Thread(target=run, name="instance-dump", daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def register() -> None:
    """Add the private tags that Orthanc knows to pydicom's dictionary, and register the route."""
    configuration = json.loads(orthanc.GetConfiguration())
    if REFUSAL:
        orthanc.LogError(REFUSAL)
    else:
        for creator, tag, entry in named_private_tags(configuration.get("Dictionary") or {}):
            pydicom.datadict.add_private_dict_entry(creator, tag, entry[0], entry[2], entry[1])
    dump = Dump(configuration)
    register_route("/pydicom/([^/]+)", {"GET": dump.get}, lambda: REFUSAL)


register()
