# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc grants once, and which routes take the same path."""

from __future__ import annotations

import re

# What Orthanc grants once and the runtime shares out, with the plugin's own words for it in its error messages.
SHARED = {
    "RegisterOnChangeCallback": "Python on-changes callback",
    "RegisterOnStoredInstanceCallback": "Python on-stored-instance callback",
    "RegisterIncomingHttpRequestFilter": "Python incoming-http-request filter",
    "RegisterIncomingCStoreInstanceFilter": "Python incoming CStore instance filter",
    "RegisterReceivedInstanceCallback": "Python received instance callback",
}


def single_owner(register: str) -> str:
    """Name what only one script can own: ``RegisterMoveCallback2`` and ``RegisterMoveCallback`` are one ``Move``."""
    return re.sub(r"^Register|(Callback)?\d*$", "", register)


def matches(pattern: str, path: str) -> bool:
    """Tell whether the route `pattern` takes `path`, as far as Python's regular expressions read it as Orthanc's do."""
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error:
        return False


def example(pattern: str) -> str:
    """Write a path that the route `pattern` takes, of the plain kind: groups, classes, repetitions."""

    def repeat(text: str, times: str | None) -> str:
        return text * int((re.findall(r"\d+", times or "") or ["1"])[0])

    path = re.sub(
        r"\[([^\]\\]+|\\.)+?\](\{[\d,]+\}|[*+?])?", lambda m: repeat("x" if m[0][1] == "^" else m[0][1], m[2]), pattern
    )
    path = re.sub(r"\\d", "1", re.sub(r"\\w|\.(?=[*+?])", "x", path))
    before = ""
    while path != before:
        before, path = (
            path,
            re.sub(r"\((?:\?:|\?P?<\w+>)?([^()|]*)[^()]*\)(\{[\d,]+\})?", lambda m: repeat(m[1], m[2]), path),
        )
    return re.sub(r"[*+?]|\\(.)", lambda m: m[1] or "", path).strip("^$")


def collide(first: str, second: str) -> bool:
    """Return whether two routes take one path: the same pattern, or the only path that one matches is the other's."""
    return first == second or any(
        matches(a, example(a)) and matches(b, example(a)) for a, b in ((first, second), (second, first))
    )
