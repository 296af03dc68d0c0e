# SPDX-License-Identifier: AGPL-3.0-or-later
"""Templates of URLs and bodies: `{StudyInstanceUID}` and the like become what a request says."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.path_segments import harmless_segment

from .move_request import FIELDS

RESULTS = ("State", "Instances", "Completed", "Error")  # what a notification after the move may say besides


def wrong_template(template: str) -> str | None:
    """Return what is allowed, if a template has a placeholder that is not known."""
    unknown = [name for name in placeholders(template) if name not in (*FIELDS, *RESULTS, "RequestID")]
    return f"placeholders {', '.join(('RequestID', *FIELDS))}; after the move {', '.join(RESULTS)}" if unknown else None


def placeholders(template: str) -> list[str]:
    """Return the names of the placeholders; a brace that belongs to none counts as one, with no name that is known."""
    return [
        found[1] or found[2] or "?"
        for found in re.finditer(r"\{([A-Za-z]+)\}|\{\{|\}\}|([{}])", template)
        if found[1] or found[2]
    ]


def texts_of(body: Any) -> Iterator[str]:
    """Yield all texts of a JSON value, but no names of objects."""
    if isinstance(body, str):
        yield body
    elif isinstance(body, dict):
        for each in body.values():
            yield from texts_of(each)
    elif isinstance(body, list):
        for each in body:
            yield from texts_of(each)


def filled_url(template: str, values: Mapping[str, Any]) -> str:
    """Return a URL with the values in it, each percent-encoded: no value makes a parameter, a folder, or a way out of one."""

    def encode(text: str) -> str:
        return urllib.parse.quote(text, safe="", errors="replace")

    head, mark, query = template.partition("?")
    path = "/".join(_filled_segment(segment, values, encode) for segment in head.split("/"))
    return path + mark + _filled(query, values, encode)


def filled_body(body: Any, values: Mapping[str, Any]) -> Any:
    """Return a JSON value with the values in its texts."""
    if isinstance(body, str):
        return _filled(body, values, str)
    if isinstance(body, dict):
        return {name: filled_body(each, values) for name, each in body.items()}
    return [filled_body(each, values) for each in body] if isinstance(body, list) else body


def _filled(template: str, values: Mapping[str, Any], encode: Callable[[str], str]) -> str:
    def value(found: re.Match[str]) -> str:
        text = values.get(found[1])
        return {"{{": "{", "}}": "}"}.get(found[0]) or encode("" if text is None else str(text))

    return re.sub(r"\{\{|\}\}|\{([A-Za-z]+)\}", value, template)


def _filled_segment(template: str, values: Mapping[str, Any], encode: Callable[[str], str]) -> str:
    """Return a part of a path with the values in it; what has none, as the host and an empty part, stays as it is."""
    return harmless_segment(_filled(template, values, encode)) if placeholders(template) else template
