# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lines of a log, and the files that hold them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SEARCH_BLOCK_BYTES = 1 << 22  # that are searched at a time
TIMES_BLOCK_BYTES = 1 << 18  # that are searched for times at once; others get the interpreter in between
TIME = re.compile(rb'"At": "([0-9TZ:.+-]+)"')
MAC = re.compile(rb', "Mac": "([0-9a-f]{64})"\}$')


def mac_of(key: bytes, previous: str, text: bytes) -> str:
    """Return the HMAC-SHA256 of a line without its end, and of the MAC of the line before ("" for the first of all)."""
    return hmac.new(key, previous.encode() + b"\n" + text, hashlib.sha256).hexdigest()


def log_files(folder: Path) -> list[Path]:
    """Return the files of a log, oldest first: each is called by the number of its first line."""
    return sorted(folder.glob("audit-*.jsonl"))


class Line(NamedTuple):
    """One line of a file: its text without the MAC, its content, its MAC."""

    text: bytes
    content: dict[str, Any]
    mac: str


def parse_line(raw: bytes) -> Line | None:
    """Return a line, or None if it is none."""
    if not (found := MAC.search(raw)):
        return None
    try:
        content = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("Number"), int):
        return None
    return Line(raw[: found.start()], content, found[1].decode())


def entries_of(path: Path, needles: Sequence[bytes] = ()) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file that hold all of these texts."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        rest = b""
        while block := file.read(SEARCH_BLOCK_BYTES):
            whole, mark, rest = (rest + block).rpartition(b"\n")
            if mark and all(needle in whole for needle in needles):
                for raw in whole.split(b"\n"):
                    if all(needle in raw for needle in needles) and (line := parse_line(raw)):
                        yield line.content


@functools.lru_cache(maxsize=4096)
def _times_in(path: Path, _size: int, _changed_ns: int) -> tuple[str, str]:
    """Return the earliest and the latest time in a file that is complete; ("", "") if there is none.

    The first line doesn't tell: the clock may have been set back. A time inside a line counts too; more is read then, not less.
    """
    earliest = latest = b""
    with path.open("rb") as file:
        while lines := file.readlines(TIMES_BLOCK_BYTES):
            if found := TIME.findall(b"".join(lines)):
                earliest, latest = min(earliest or found[0], *found), max(latest, *found)
    return earliest.decode(), latest.decode()


def _may_hold(path: Path, since: str, until: str) -> bool:
    """Return whether a complete file has lines of a span of time; an empty text is no limit."""
    try:
        found = path.stat()
        earliest, latest = _times_in(path, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:  # too old, and deleted meanwhile
        return False
    return since <= latest and (not until or earliest < until)


def entries_between(folder: Path, since: str, until: str, needles: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the files that may hold a span of time; other files are read once, for their times."""
    files = log_files(folder)
    for path in files:
        if not (since or until) or path == files[-1] or _may_hold(path, since, until):
            yield from entries_of(path, needles)
