# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the lines of an append-only file are: a page of them is read without what is before it."""

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK_LINES = 200  # that are read to find one of them
READ_BYTES = 1 << 18  # at a time, of what was appended; others get the interpreter in between


class LineBlock(NamedTuple):
    """Some lines that follow each other: where they begin, and how many there are of each key."""

    place: int
    keys: Counter[bytes]


class LineIndex:
    """An index of a file of lines, in memory: what was appended since the last look is read once.

    Parameters
    ----------
    line : matches a whole line; its first group is the key by which it is counted. What it does not match is no line of ours.
    """

    def __init__(self, path: Path, line: re.Pattern[bytes]) -> None:
        self._path, self._line, self._lock = path, line, threading.Lock()
        self._file: tuple[int, int] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._blocks: list[LineBlock] = []
        self._number = self._end = 0  # lines, and bytes, that are in the index
        self._totals: Counter[bytes] = Counter()

    def forget(self) -> None:
        """Read the file from its beginning at the next look: lines at its end were cut off."""
        with self._lock:
            self._file = None

    def update(self) -> None:
        """Take in what was appended. Raises OSError: the file can't be read."""
        with self._lock, self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if self._file != (found.st_dev, found.st_ino) or found.st_size < self._end:  # moved away, or cut
                self._file = found.st_dev, found.st_ino
                self._begin_anew()
            file.seek(self._end)
            while lines := file.readlines(READ_BYTES):
                for line in lines:
                    if not line.endswith(b"\n"):
                        return  # it is growing
                    self._add(line)

    def _add(self, line: bytes) -> None:
        if self._number % BLOCK_LINES == 0:
            self._blocks.append(LineBlock(self._end, Counter()))
        if found := self._line.match(line):
            self._blocks[-1].keys[found[1]] += 1
            self._totals[found[1]] += 1
        self._number += 1
        self._end += len(line)

    def total(self, key: bytes | None = None) -> int:
        """Return how many lines there are, of all keys or of one."""
        with self._lock:
            return self._totals.total() if key is None else self._totals[key]

    def lines(self, since: int = 0, key: bytes | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the lines after the one of a number, with their numbers, of all keys or of one."""
        with self._lock:
            first, last = since // BLOCK_LINES, self._number
            places = [
                (number, block.place)
                for number, block in enumerate(self._blocks[first:], first)
                if key is None or key in block.keys
            ]
        with self._path.open("rb") as file:
            for block, place in places:
                file.seek(place)
                numbers = range(block * BLOCK_LINES + 1, min((block + 1) * BLOCK_LINES, last) + 1)
                for number, line in zip(numbers, file, strict=False):
                    found = self._line.match(line) if number > since else None
                    if found and key in (None, found[1]):
                        yield number, line
