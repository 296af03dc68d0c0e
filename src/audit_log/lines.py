# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lines of a log, and the files that hold them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SEARCH_BLOCK_BYTES = 1 << 22  # that are searched at a time
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


def entries_since(folder: Path, since: str, needles: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log from a time on; files that end before it are not read."""
    files = log_files(folder)
    for path, following in zip(files, [*files[1:], None], strict=True):
        if since and following and (first := next(entries_of(following), None)) and first["At"] < since:
            continue
        yield from entries_of(path, needles)
