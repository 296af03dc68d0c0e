# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/openapi.json: all routes of all scripts as OpenAPI 3.1, from what the scripts register (`make build`).

python -m docs.openapi            writes it
python -m docs.openapi --check    exits with 1 if it is not what the scripts give
"""

from __future__ import annotations

import http
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.route_list import SHOWN_GROUPS, shown_path
from common.version import __version__
from testing.standin import StandIn

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs/openapi.json"
NO_ROUTES = {"combine.py", "event_dispatcher.py"}  # a program, and a library for scripts of a user's own
JSON = "application/json"
PLAIN = "text/plain"  # what plugins from 4.2 on call each answer whose status is not 200

DESCRIPTION = """The routes of all scripts. A server has those of the scripts that it loads; `GET /scripts` lists them.
Names in a query have lower case and dashes (`dry-run`), those in a body CamelCase (`DryRun`).
An unknown parameter is an error."""
MEANINGS = {
    200: "Done, or what was asked for.",
    202: "Begun, or written down: it is done later.",
    304: "As before (`If-None-Match`).",
    400: "A parameter is unknown, missing, or not allowed; the message names it.",
    401: "Orthanc itself: no user, or a wrong password.",
    403: "Not allowed: a page of another site, a link, or the configuration.",
    404: "There is no such thing.",
    405: "Another route has this path, without this method.",
    406: "No type that `Accept` names is available.",
    409: "Not now: its state, or the clock, is against it.",
    413: "The body, or the file, is too large.",
    415: "A type that can't be read.",
    422: "A matcher of the configuration failed.",
    500: "Not all studies could be deleted; the answer lists which.",
    503: "The script is not configured, waits, or has no room for one more request now; the message says why.",
}
ERROR = {
    "type": "object",
    "description": "An error, in the shape of Orthanc's own; a script may add fields.",
    "required": ["HttpError", "HttpStatus", "Message", "Method", "Uri"],
    "properties": {
        "HttpError": {"type": "string"},
        "HttpStatus": {"type": "integer"},
        "Message": {"type": "string"},
        "Method": {"type": "string"},
        "Uri": {"type": "string"},
    },
}


def _text(kind: Any) -> dict[str, Any]:
    pattern = {} if kind.pattern == ".+" else {"pattern": f"^({kind.pattern})$"}
    return {"type": "string", "minLength": 1, "maxLength": kind.longest, **pattern}


# By the name of the class: each built script has its own copy of it.
SCHEMAS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Text": _text,
    "OneOf": lambda kind: {"type": "string", "enum": list(kind.choices)},
    "WholeNumber": lambda kind: {"type": "integer", "minimum": kind.least, "maximum": kind.most},
    "Flag": lambda _: {"type": "boolean"},
    "Texts": lambda _: {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    "TextsByName": lambda _: {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
    "Day": lambda _: {"type": "string", "pattern": "^[0-9]{8}$"},
    "Moment": lambda _: {"type": "string", "minLength": 8},
    "TimeOfLine": lambda _: {"type": "string", "minLength": 8},
    "Undated": lambda _: {"enum": [True, False, "received"]},
}


def document() -> dict[str, Any]:
    """Return the whole document."""
    paths: dict[str, dict[str, Any]] = {}
    tags = []
    for script in scripts():
        tags.append({"name": script.parent.name if script.name == "__init__.py" else script.name})
        for pattern, handlers in registered(script):
            path, in_path = path_of(pattern)
            for method, handler in handlers.items():
                operation = _operation(method, pattern, handler, in_path, tags[-1]["name"])
                paths.setdefault(path, {}).setdefault(method.lower(), operation)  # /scripts is of each
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Scripts for Orthanc",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        },
        "servers": [{"url": "http://127.0.0.1:8042"}],
        "security": [{}, {"user": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "responses": {str(status): _common_response(status) for status in MEANINGS if status != http.HTTPStatus.OK},
            "securitySchemes": {"user": {"type": "http", "scheme": "basic", "description": "`RegisteredUsers`"}},
        },
    }


def scripts() -> list[Path]:
    """Return the built scripts that have routes."""
    found = [path for path in sorted(ROOT.glob("*.py")) if path.name not in NO_ROUTES]
    return found + sorted(path for path in ROOT.glob("*/__init__.py") if (path.parent / "_common").is_dir())


def registered(script: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each pattern that a script registers, with its handlers by method."""
    standin = StandIn("7.1")
    with standin.installed():
        yield from standin.load(script).ROUTES.items()
    for name in [each for each in sys.modules if each.partition(".")[0] == script.parent.name]:
        del sys.modules[name]  # the modules of a package hold the stand-in


def path_of(pattern: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the pattern of a route as a path of OpenAPI, and the schemas of what is in its braces, by name."""
    found: dict[str, dict[str, Any]] = {}

    def named(group: re.Match[str]) -> str:
        words = group[1].split("|") if re.fullmatch("[a-z|]+", group[1]) else []
        name = "action" if words else SHOWN_GROUPS[group[0]].strip("{}")
        found[name] = {"type": "string", "enum": words} if words else {"type": "string", "pattern": f"^{group[1]}$"}
        return f"{{{name}}}"

    path = re.sub(r"\(([^()]*)\)", named, pattern)
    assert words_of(path) == words_of(shown_path(pattern))
    return path, found


def words_of(path: str) -> str:
    """Return a path in which each part that is not always the same is a `*`."""
    return re.sub(r"\{[^{}]*\}|\([^()]*\)", "*", path)


def _operation(method: str, pattern: str, handler: Any, in_path: Mapping[str, Any], tag: str) -> dict[str, Any]:
    summary, _, more = (handler.__doc__ or "").strip().partition("\n")
    taken = getattr(handler, "parameters", {})
    in_query = method == "GET"
    parameters = [{"name": name, "in": "path", "required": True, "schema": each} for name, each in in_path.items()]
    parameters += [_query(name, kind) for name, kind in taken.items() if in_query]
    has_body = method in ("POST", "PUT")
    return {
        "operationId": f"{method} {words_of(pattern)}",
        "summary": summary,
        **({"description": text} if (text := re.sub(r"\s+", " ", more).strip()) else {}),
        "tags": [tag],
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _body(taken)} if has_body else {}),
        "responses": {str(status): _response(status, handler) for status in _statuses(method, pattern, handler)},
    }


def _query(name: str, kind: Any) -> dict[str, Any]:
    schema = {**SCHEMAS[type(kind).__name__](kind), "description": kind.allowed}
    found: dict[str, Any] = {"name": name, "in": "query"}
    if schema.get("type") == "object":
        return {**found, "content": {JSON: {"schema": schema}}}
    if schema.get("type") == "array":
        return {**found, "style": "form", "explode": False, "schema": schema}
    return {**found, **({"allowEmptyValue": True} if getattr(kind, "bare", False) else {}), "schema": schema}


def _body(taken: Mapping[str, Any]) -> dict[str, Any]:
    properties = {
        name: {**SCHEMAS[type(kind).__name__](kind), "description": kind.allowed} for name, kind in taken.items()
    }
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"required": False, "content": {JSON: {"schema": schema}}}


def _statuses(method: str, pattern: str, handler: Any) -> list[int]:
    """Return what `register_route` and the handler may answer, and what Orthanc does before."""
    own = set(getattr(handler, "statuses", ()))
    acts = method != "GET" or getattr(handler, "get_acts", False)
    found = own | {401, 503} | (set() if any(status < 300 for status in own) else {200})
    found |= {400} if method != "DELETE" else set()  # the plugin hands neither its query nor its body over
    found |= {403} if acts else set()
    found |= {415} if acts and method != "GET" else set()
    found |= {413} if method in ("POST", "PUT") else set()
    return sorted(found | ({404, 405} if "(" in pattern else set()))


def _response(status: int, handler: Any) -> dict[str, Any]:
    if status == http.HTTPStatus.OK:
        content: dict[str, Any] = {mime: {} for mime in getattr(handler, "media", ()) or (JSON,)}
        return {"description": MEANINGS[status], "content": content}
    return {"$ref": f"#/components/responses/{status}"}


def _common_response(status: int) -> dict[str, Any]:
    if status in (http.HTTPStatus.NOT_MODIFIED, http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.METHOD_NOT_ALLOWED):
        return {"description": MEANINGS[status]}
    schema = {"schema": {"$ref": "#/components/schemas/Error"}} if status >= http.HTTPStatus.BAD_REQUEST else {}
    return {"description": MEANINGS[status], "content": {JSON: schema, PLAIN: schema}}


def main() -> str | None:
    """Write the file, or return why it is not right."""
    text = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] != ["--check"]:
        FILE.write_text(text)
        return None
    return None if FILE.read_text() == text else "docs/openapi.json is not what the scripts give: make build"


if __name__ == "__main__":
    sys.exit(main())
