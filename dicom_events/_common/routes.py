# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/routes.py: edit that, never this file.
"""Routes that answer alike on every version of the plugin, and who may act through them."""

import dataclasses
import http
import json
import re
import sqlite3
import traceback
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from .cross_site import as_command, why_refused
from .json_text import decoded
from .loopback import Loopback, LoopbackError, close_connections
from .parameters import ParameterError, acts_on_get, parameters_of, read_parameters
from .quirks import ARRIVAL, answer_probe, kept_alive, send_status, values_arrive_decoded

LARGEST_BODY = 1 << 20  # bytes
# Controls (also those of 8 bits: a terminal takes U+009B for ESC [), other ends of lines, and halves of characters.
NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


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


RouteHandler = Callable[[Request], Any]
ROUTES: dict[str, Mapping[str, RouteHandler]] = {}  # what register_route() registered, for the documentation


def one_line(text: object) -> str:
    """Return text from outside as a single line: no line of a log and no header is ever made up by a sender."""
    return NOT_IN_A_LINE.sub(" ", str(text)).strip()


def register_route(
    pattern: str,
    handlers: Mapping[str, RouteHandler],
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

    ROUTES[pattern] = handlers
    orthanc.RegisterRestCallback(pattern, kept_alive(callback))


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


def _with_parameters(request: Request, handler: RouteHandler) -> Request:
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
