# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/wildcards.py: edit that, never this file.
"""Patterns with `*` and `?`, as DICOM matches them (PS3.4 C.2.2.2.4): every other character is itself, `[` too."""

from collections.abc import Iterable


def matches_pattern(value: str, pattern: str) -> bool:
    """Return whether the whole `value` fits a pattern; takes at most len(value) * len(pattern) steps."""
    at, position = 0, 0  # in the pattern, in the value
    star, resume = -1, 0  # the last `*`, and where in the value what it matches ends
    while position < len(value):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", value[position]):
            at, position = at + 1, position + 1
        elif star >= 0:  # the last `*` matches one character more
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")


def matches_any(value: str, patterns: Iterable[str]) -> bool:
    """Return whether the whole `value` fits one of the patterns."""
    return any(matches_pattern(value, pattern) for pattern in patterns)
