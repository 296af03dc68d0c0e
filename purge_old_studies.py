# SPDX-License-Identifier: AGPL-3.0-or-later
"""Deletes studies by their age: GET /purge-old-studies?since=20000101 deletes every study dated on or before that day.

It answers 200 with how many went, as text, or as JSON (`format=json`, or `Accept: application/json`). A study whose
StudyDate is missing or no valid day stays. A day that is missing, malformed, impossible or yet to come: 400, and nothing
is deleted. A link in a web page can't call it; from a terminal:

    curl -u user:password 'http://127.0.0.1:8042/purge-old-studies?since=20000101'

Needs no configuration, and nothing but Python's standard library.
"""

from __future__ import annotations

import dataclasses
import datetime
import encodings.idna  # noqa: F401
import functools
import http
import http.client
import json
import re
import ssl
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

__version__ = "0.1.0"

SECTION = "PurgeOldStudies"
BATCH = 25  # studies a request: others are served in between


def day_of(query: Mapping[str, str], today: datetime.date) -> datetime.date:
    """The day that `since` names. Raises `Refused` (400): anything but one valid day up to today."""
    if unknown := sorted(query.keys() - {"since", "format"}):
        raise Refused(400, f"Unknown parameter {one_line(', '.join(unknown))}; allowed: since, format")
    if "since" not in query:
        raise Refused(400, "since is missing: the last day (YYYYMMDD) whose studies are to be deleted")
    day = parse_day(query["since"])
    if day is None:
        raise Refused(400, f"since is {one_line(query['since'])!r}, allowed: a day of the calendar as YYYYMMDD")
    if day > today:
        raise Refused(400, f"since is {day:%Y%m%d}, a day yet to come; allowed: up to today, {today:%Y%m%d}")
    return day


def dated_until(studies: list[dict[str, Any]], last: datetime.date) -> list[str]:
    """The Orthanc identifiers of those whose StudyDate is a valid day, on or before `last`; the oldest first.

    Orthanc compares dates as text: to it an empty date, `1999`, `1999.12.31` and `19991301` are before 20000101 too.
    """
    days = {study["ID"]: parse_day(study.get("MainDicomTags", {}).get("StudyDate")) for study in studies}
    dated = sorted((day, study) for study, day in days.items() if day is not None)
    return [study for day, study in dated if day <= last]


def refuse_links(request: Request) -> None:
    """A GET deletes here: what a browser asks for on behalf of another page, or ahead of time, is refused (403)."""
    headers = request.headers
    if not headers.get("user-agent", "").startswith("Mozilla/"):
        return
    typed = headers.get("sec-fetch-site") in ("none", "same-origin")
    early = "prefetch" in headers.get("sec-purpose", headers.get("purpose", ""))
    if early or not typed:
        address = f"http://{headers.get('host', '127.0.0.1:8042')}{request.uri}?since={request.query.get('since', '')}"
        raise Refused(
            403,
            f"A browser must not delete by a link. In a terminal: curl -u USER '{re.sub('[^!-&(-~]', '', address)}'",
        )


def wants_json(request: Request) -> bool:
    """Whether `format`, else `Accept`, asks for JSON."""
    chosen = request.query.get("format")
    if chosen not in (None, "json", "text"):
        raise Refused(400, f"format is {one_line(chosen)!r}, allowed: json, text")
    return chosen == "json" or (chosen is None and "application/json" in request.headers.get("accept", ""))


class Purge:
    """Finds and deletes, over loopback HTTP: through the SDK it would hold every store up."""

    def __init__(self, loopback: Any) -> None:
        self._loopback = loopback

    def get(self, request: Request) -> Any:
        """Answer `GET /purge-old-studies`."""
        as_json = wants_json(request)
        day = day_of(request.query, datetime.date.today())  # noqa: DTZ011 - days are the server's local ones
        refuse_links(request)
        find = {"Level": "Study", "Expand": True, "Query": {"StudyDate": f"-{day:%Y%m%d}"}}
        studies = dated_until(self._loopback.post("/tools/find", find), day)
        failed = [
            study for start in range(0, len(studies), BATCH) for study in self._delete(studies[start : start + BATCH])
        ]
        deleted = len(studies) - len(failed)
        orthanc.LogWarning(
            f"purge_old_studies deleted {deleted} studies dated until {day:%Y%m%d}, {len(failed)} failed"
        )
        if failed:
            raise Refused(500, f"{len(failed)} studies could not be deleted", Deleted=deleted, Failed=failed)
        return {"Deleted": deleted, "Since": f"{day:%Y%m%d}"} if as_json else f"{deleted}\n"

    def _delete(self, studies: list[str]) -> list[str]:
        """Delete some studies and give those that are still there."""
        try:
            self._loopback.post("/tools/bulk-delete", {"Resources": studies})
            return []
        except LoopbackError:
            return [study for study in studies if not self._is_gone(study)]

    def _is_gone(self, study: str) -> bool:
        try:
            self._loopback.request("DELETE", f"/studies/{study}")
        except LoopbackError as error:
            return error.status == 404  # somebody else was quicker
        return True


def register() -> None:
    """Register the route."""
    configuration = json.loads(orthanc.GetConfiguration())
    warn_if_open("purge_old_studies", configuration)
    serve("/purge-old-studies", {"GET": Purge(Loopback(configuration)).get}, lambda: None)


# <<<cog
# import common.contain
# common.contain.emit("loopback", "answers", "days")
# >>>
# fmt: off
# Shared pieces, the same in several scripts. Don't edit them here: edit common/, then run `make sync`.

# common/loopback.py, SHA-256 52c715025268a7183f4628c47d346414c79d3115886e21ed669a7bca929e81a4
# This Orthanc's own REST API over HTTP: unlike a call through the SDK it does not hold the GIL, and with it every store.

TIMEOUT = 60.0  # seconds; of one request
# Orthanc closes a kept connection after a second without a request ("KeepAliveTimeout").
KEEP = 0.5


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
        connection = self._connection()
        try:
            connection.request(method, path, data, {**(headers or {}), "Authorization": self._token})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise LoopbackError(0, f"Orthanc does not answer {method} {path.partition('?')[0]}: {error!r}") from None
        self._local.used = time.monotonic()
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

# common/answers.py, SHA-256 fc3ceac21f0f1d2b8f7879799bb60f9fd8c4db09fb2a5efafccd0cae8eff671f
# Routes that answer alike on every version of the plugin, and who may act through them.

# A parameter that only we send, to learn how parameters arrive.
PROBE = "arrives-decoded"
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
            found = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refused(400, f"The body is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise Refused(400, "The body must be a JSON object of parameters")
        return found


Handler = Callable[[Request], Any]
ROUTES: dict[str, Mapping[str, Handler]] = {}  # what serve() registered, for the documentation


def one_line(text: object) -> str:
    """Text from outside as a single line: no line of a log and no header is ever made up by a sender."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(text)).strip()


def serve(pattern: str, handlers: Mapping[str, Handler], unavailable: Callable[[], str | None]) -> None:
    """Register a route: one handler for each method, 405 for the others, 503 while `unavailable` gives a reason.

    A handler returns what becomes JSON, a `str`, `bytes` or an `Answer`, or raises `Refused`. Errors have the shape of
    Orthanc's own. Where the callers of the methods come from is checked first (`refuse_strangers`).
    """

    def callback(output: Any, uri: str, /, **raw: Any) -> None:
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
# fmt: on
# <<<end>>>

register()
