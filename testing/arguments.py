# SPDX-License-Identifier: AGPL-3.0-or-later
"""What goes into a call of the plugin, and what a stand-in gives back."""

from __future__ import annotations

import builtins
import concurrent.futures
import json
import urllib.parse
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "bytes": (bytes,), "int": (int,), "float": (float, int)}


def check_arguments(signature: dict[str, Any], arguments: tuple[Any, ...]) -> None:
    """Raise what the real function raises on another number or other types of arguments."""
    wrong, kinds = signature["wrong"], signature["types"]
    if wrong is None:
        return
    if len(arguments) != signature["arguments"]:
        raise_as(wrong)
    for value, allowed in zip(arguments, kinds or (), strict=False):
        anything = len(allowed) == len(KINDS)
        if not anything and not isinstance(value, tuple(each for kind in allowed for each in KINDS[kind])):
            raise_as(wrong)


def raise_as(error: list[str]) -> None:
    """Raise a built-in exception that was seen at the real plugin: [type, message]."""
    raise getattr(builtins, error[0])(error[1])


def given(prepared: Any, *arguments: Any) -> Any:
    """A prepared value; or raise it, if it is an exception; or what it gives, if it is a function."""
    if isinstance(prepared, BaseException):
        raise prepared
    return prepared(*arguments) if callable(prepared) else prepared


def outcome(future: Any, within: float = 60) -> Any:
    """The result of a future, or the error it ended with; of anything else, that itself."""
    if not isinstance(future, concurrent.futures.Future):
        return future
    if not concurrent.futures.wait([future], within).done:
        raise AssertionError(f"a handler has not ended within {within:g} s")
    return concurrent.futures.CancelledError() if future.cancelled() else future.exception() or future.result()


def as_bytes(value: Any) -> bytes:
    """A body: bytes as they are, a text in UTF-8, all else as JSON."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def query_arguments(query: str, more: dict[str, str], *, decodes: bool) -> dict[str, str]:
    """Return what a handler gets of a query, and of `more` values behind it; `decodes` tells whether this version does."""
    sent = [part.partition("=")[::2] for part in query.split("&") if part]
    sent += [(urllib.parse.quote(name), urllib.parse.quote(value)) for name, value in more.items()]
    if decodes:
        sent = [(urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(value)) for name, value in sent]
    return dict(sent)
