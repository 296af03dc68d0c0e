# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was logged: Orthanc's log as pairs of level and text, and assertions that name what they miss."""

from __future__ import annotations

import re
from collections.abc import Sequence

# I1121 14:20:38.218448 PluginsManager.cpp:161] (plugins) The text          (1.12: "MAIN python:/File.cpp:161] …")
LINE = re.compile(r"([EWIT])\d{4} [\d:.]+ +[^]]*:\d+\] (?:\([a-z]+\) )?(.*)")
LEVELS = {"E": "error", "W": "warning", "I": "info", "T": "trace"}

Logged = Sequence[tuple[str, str]]


def orthanc_lines(log: str) -> list[tuple[str, str]]:
    """The log of an Orthanc as (level, text); lines that are not Orthanc's own, as of a traceback, belong to the one before."""
    found: list[tuple[str, str]] = []
    for line in log.splitlines():
        if own := LINE.fullmatch(line):
            found.append((LEVELS[own[1]], own[2]))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        else:
            found.append(("", line))
    return found


def assert_logged(logged: Logged, text: str, level: str | None = None) -> None:
    """Fail unless `text` was logged, at `level` ("error", "warning", "info") where one is given."""
    if not _of(logged, text, level):
        raise AssertionError(f"{_wanted(text, level)} was not logged; this was:\n{_as_text(logged)}")


def assert_not_logged(logged: Logged, text: str = "", level: str | None = None) -> None:
    """Fail if `text` was logged, or anything at all of `level`."""
    if found := _of(logged, text, level):
        raise AssertionError(f"{_wanted(text, level)} was logged:\n{_as_text(found)}")


def _of(logged: Logged, text: str, level: str | None) -> Logged:
    if level not in (None, *LEVELS.values()):
        raise ValueError(f"level: found {level!r}, allowed: {', '.join(LEVELS.values())}")
    return [each for each in logged if text in each[1] and level in (None, each[0])]


def _wanted(text: str, level: str | None) -> str:
    return f"{text!r}{f' at level {level}' if level else ''}" if text else f"something at level {level}"


def _as_text(logged: Logged) -> str:
    return "\n".join(f"{level or '-':8}{text}" for level, text in logged[-40:]) or "nothing"
