# SPDX-License-Identifier: AGPL-3.0-or-later
"""The record of what was purged, and of who asked for it."""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.append_only import AppendOnly
from common.requester import user_of
from common.routes import one_line


class History:
    """The record of what was purged: a file of JSON lines, to which is only ever added. A line is there whole, or not at all."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path, self._lock = path, threading.Lock()
        # What was being written when the power failed is cut off: the ledger knows it, and it is written again.
        self._file = AppendOnly(path, synced=durable)

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines, all or none. Raises OSError: the disk is full, or the like."""
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with self._lock:
            self._file.append(text)

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each line with its number; not one that a disk has spoilt: what can be read is shown, and a purge can end."""
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                with contextlib.suppress(ValueError):
                    if line.endswith(b"\n") and isinstance(
                        found := json.loads(line), dict
                    ):  # the last one may be growing
                        yield number, found

    def page(self, since: int, limit: int, purge: int | None) -> dict[str, Any]:
        """Return the lines after number `since`, of all purges or of one."""
        found: list[dict[str, Any]] = []
        total, more = 0, False
        for number, line in self.lines():
            if purge is not None and line.get("Purge") != purge:
                continue
            total += 1
            if number > since and not (more := more or len(found) == limit):
                found.append({"Number": number, **line})
        return {"Total": total, "Items": found, "Next": found[-1]["Number"] if more else None}

    def close(self) -> None:
        self._file.close()


def now_utc() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: UP017


def who_asks(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return who is behind a request: its user, and where a proxy says that it comes from.

    The plugin does not give a script the address of a caller.
    """
    found: dict[str, Any] = {"User": user_of(headers.get("authorization", "")) or None}
    if forwarded := headers.get("x-forwarded-for") or headers.get("x-real-ip"):
        found["ForwardedFor"] = one_line(forwarded)[:200]
    return found
