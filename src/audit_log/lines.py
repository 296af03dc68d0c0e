# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lines of a log, and the files that hold them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


def entries_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        yield from (line.content for raw in file if raw.endswith(b"\n") and (line := parse_line(raw)))
