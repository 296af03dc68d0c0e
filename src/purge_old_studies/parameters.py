# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parameters of requests, checked for name and type."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from common.answers import Refused, Request, decoded, one_line

PARAMETERS = {
    "since": "text", "older-than": "text", "by": "text", "Query": "object", "Labels": "list", "LabelsConstraint": "text",
    "limit": "number", "undated": "undated", "keep-received-days": "days",
    "dry-run": "flag", "force": "flag", "async": "flag", "format": "text",
}  # fmt: skip
MAX_DAYS = 99_999
ALLOWED = {
    "text": "a text",
    "object": 'an object of DICOM keywords and texts, e.g. {"ModalitiesInStudy": "CR"}',
    "list": "labels",
    "number": "a whole number from 1 on",
    "days": "a whole number of days",
    "flag": "true or false",
    "undated": "true, false or received",
}


def parameters(request: Request) -> dict[str, Any]:
    """The parameters of a request, checked for name and type. Raises `Refused` (400)."""
    found = _from_query(request.query) if request.method == "GET" else request.json()
    _check_names(found)
    for name, value in found.items():
        kind = PARAMETERS[name]
        fits = {
            "text": isinstance(value, str),
            "object": isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
            "list": isinstance(value, list) and all(isinstance(text, str) and text for text in value) and value,
            "number": isinstance(value, int) and not isinstance(value, bool) and value >= 1,
            "days": isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_DAYS,
            "flag": isinstance(value, bool),
            "undated": isinstance(value, bool) or value == "received",
        }[kind]
        if not fits:
            raise Refused(400, f"{name} is {shown(value)}, allowed: {ALLOWED[kind]}")
    return found


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name, PARAMETERS, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(PARAMETERS)}"
            raise Refused(400, f"Unknown parameter {shown(name)}; {hint}")


def _from_query(query: Mapping[str, str]) -> dict[str, Any]:
    """The texts of a query as the values that they stand for; what is no such value stays a text, and is refused later."""
    _check_names(query)
    found: dict[str, Any] = {}
    for name, text in query.items():
        kind, value = PARAMETERS[name], text
        found[name] = value
        if kind in ("flag", "undated") and text in ("true", "false"):
            found[name] = text == "true"
        elif kind in ("number", "days") and re.fullmatch(r"[0-9]{1,9}", text):
            found[name] = int(text)
        elif kind == "list":
            found[name] = text.split(",")
        elif kind == "object":
            with contextlib.suppress(ValueError):
                found[name] = decoded(text)
    return found


def shown(value: object) -> str:
    text = one_line(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def wants_json(found: Mapping[str, Any], request: Request) -> bool:
    """Whether `format`, else `Accept`, asks for JSON."""
    chosen = found.get("format")
    if chosen not in (None, "json", "text"):
        raise Refused(400, f"format is {shown(chosen)}, allowed: json, text")
    return chosen == "json" or (chosen is None and "application/json" in request.headers.get("accept", ""))


def refuse_links(request: Request) -> None:
    """A GET deletes here: what a browser asks for on behalf of another page, or ahead of time, is refused (403)."""
    headers = request.headers
    if request.method != "GET" or not headers.get("user-agent", "").startswith("Mozilla/"):
        return
    typed = headers.get("sec-fetch-site") in ("none", "same-origin")
    early = "prefetch" in headers.get("sec-purpose", headers.get("purpose", ""))
    if early or not typed:
        query = urllib.parse.urlencode(request.query)
        address = re.sub("[^!-&(-~]", "", f"http://{headers.get('host', '127.0.0.1:8042')}{request.uri}?{query}")
        raise Refused(403, f"A browser must not delete by a link. In a terminal: curl -u USER '{address}'")


def paging(query: Mapping[str, str], allowed: tuple[str, ...]) -> tuple[int, int, int | None]:
    """`since`, `limit` and `purge` of a list. Raises `Refused` (400)."""
    for name, value in query.items():
        if name not in allowed:
            raise Refused(400, f"Unknown parameter {shown(name)}; allowed: {', '.join(allowed)}")
        if whole_number(value) < 0 or (name == "limit" and not 1 <= int(value) <= 1000):
            raise Refused(
                400, f"{name} is {shown(value)}, allowed: a whole number{' from 1 to 1000' * (name == 'limit')}"
            )
    return int(query.get("since", 0)), int(query.get("limit", 100)), int(query["purge"]) if "purge" in query else None


def whole_number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else -1
