# SPDX-License-Identifier: AGPL-3.0-or-later
"""Routes that answer alike on every version of the plugin, and who may act through them."""

import dataclasses
import functools
import http
import json
import re
import sqlite3
import traceback
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.loopback import Loopback, LoopbackError, close_connections

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

    503 also where a handler raises sqlite3.OperationalError or OSError: its state is locked, full, read-only or gone.

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
        except (sqlite3.OperationalError, OSError) as error:  # locked, full, read-only, taken away: not for ever
            _send_error(output, Refused(503, f"The script's state can't be used now: {error}"), method, uri)
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
