# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the lines of an append-only file are: a page of them is read without what is before it."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

BLOCK_LINES = 200  # that are read to find one of them
READ_BYTES = 1 << 18  # at a time, of what was appended; others get the interpreter in between


class Summary(Protocol):
    """What is kept of the lines of a block, so that it need not be read."""

    def add(self, line: bytes) -> None:
        """Take in a whole line, with its end."""


SummaryT = TypeVar("SummaryT", bound=Summary)


class LineBlock(NamedTuple, Generic[SummaryT]):
    """Some lines that follow each other: the number of the first, how many, where they begin, and what is in them."""

    first: int
    length: int
    place: int
    summary: SummaryT


class LineIndex(Generic[SummaryT]):
    """An index of a file of lines, in memory: what was appended since the last look is read once.

    Parameters
    ----------
    summary : makes the summary of a block that begins.
    """

    def __init__(self, path: Path, summary: Callable[[], SummaryT]) -> None:
        self._path, self._summary, self._lock = path, summary, threading.Lock()
        self._file: tuple[int, int] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._blocks: list[tuple[int, SummaryT]] = []  # where each begins, and what is in it
        self._number = self._end = 0  # lines, and bytes, that are in the index

    def forget(self) -> None:
        """Read the file from its beginning at the next look: lines at its end were cut off."""
        with self._lock:
            self._file = None

    def update(self, most: float = float("inf")) -> bool:
        """Take in what was appended, at most so many bytes of it or a little more; return whether that was all.

        Raises
        ------
        OSError : the file can't be read.
        """
        with self._lock, self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if self._file != (found.st_dev, found.st_ino) or found.st_size < self._end:  # moved away, or cut
                self._file = found.st_dev, found.st_ino
                self._begin_anew()
            begun = file.seek(self._end)
            while lines := file.readlines(READ_BYTES):
                for line in lines:
                    if not line.endswith(b"\n"):
                        return True  # it is growing
                    self._add(line)
                if self._end - begun >= most:
                    return False
            return True

    def _add(self, line: bytes) -> None:
        if self._number % BLOCK_LINES == 0:
            self._blocks.append((self._end, self._summary()))
        self._blocks[-1][1].add(line)
        self._number += 1
        self._end += len(line)

    def blocks(self) -> list[LineBlock[SummaryT]]:
        """Return the blocks that are in the index. The summary of the last one grows with it."""
        with self._lock:
            size, last = BLOCK_LINES, self._number
            return [
                LineBlock(number * size + 1, min(size, last - number * size), place, summary)
                for number, (place, summary) in enumerate(self._blocks)
            ]

    def lines(self, block: LineBlock[SummaryT]) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of a block, with their numbers. Raises OSError: the file can't be read."""
        with self._path.open("rb") as file:
            file.seek(block.place)
            yield from enumerate(itertools.islice(file, block.length), block.first)
