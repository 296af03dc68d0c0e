# SPDX-License-Identifier: AGPL-3.0-or-later
"""The record of what was purged, and of who asked for it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.append_only import AppendOnly
from common.line_index import LineIndex
from common.requester import user_of
from common.routes import one_line

# A whole line, and its purge. What a disk has spoilt is none.
LINE = re.compile(rb'\{.*?"Purge": (\d+|null)[,}].*\n\Z')


class CountByPurge(Counter[bytes]):
    """How many lines of a block there are of each purge."""

    def add(self, line: bytes) -> None:
        """Count a line."""
        if found := LINE.match(line):
            self[found[1]] += 1


class History:
    """The record of what was purged: a file of JSON lines, to which is only ever added. A line is there whole, or not at all."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path, self._lock = path, threading.Lock()
        # What was being written when the power failed is cut off: the ledger knows it, and it is written again.
        self._file = AppendOnly(path, synced=durable)
        self._index = LineIndex(path, CountByPurge)

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines, all or none. Raises OSError: the disk is full, or the like."""
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with self._lock:
            try:
                self._file.append(text)
            except OSError:
                self._index.forget()  # it may have seen lines that were cut off again
                raise

    def read_ahead(self) -> None:
        """Read what is there, so that nobody waits for it who asks for a page."""
        self._index.update()

    def lines_of(self, purge: int) -> Iterator[dict[str, Any]]:
        """Yield the lines of a purge; not one that a disk has spoilt: what can be read is shown, and a purge can end."""
        self._index.update()
        return (line for _, line in self._lines(0, purge))

    def page(self, since: int, limit: int, purge: int | None) -> dict[str, Any]:
        """Return the lines after number `since`, of all purges or of one."""
        self._index.update()
        found = [{"Number": number, **line} for number, line in itertools.islice(self._lines(since, purge), limit + 1)]
        items, key = found[:limit], _key(purge)
        counts = [block.summary for block in self._index.blocks()]
        total = sum(count.total() if key is None else count[key] for count in counts)
        return {"Total": total, "Items": items, "Next": items[-1]["Number"] if len(found) > limit else None}

    def _lines(self, since: int, purge: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
        key = _key(purge)
        for block in self._index.blocks():
            if since >= block.first + block.length - 1 or (key is not None and key not in block.summary):
                continue
            for number, line in self._index.lines(block):
                of_it = LINE.match(line) if number > since else None
                if of_it and key in (None, of_it[1]):
                    with contextlib.suppress(ValueError):
                        if isinstance(found := json.loads(line), dict):
                            yield number, found

    def close(self) -> None:
        self._file.close()


def _key(purge: int | None) -> bytes | None:
    return None if purge is None else str(purge).encode()


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
