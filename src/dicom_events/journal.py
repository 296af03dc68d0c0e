# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc reports, in that order: one file, to which a callback appends a line before it returns.

A line costs one call of the operating system, and waits for nothing but another line; bringing it into the outbox is done
later, many at a time. A place is a number that only rises: the generation of the file in its high bits, the position in it
in the low ones. The outbox holds the place up to which all is applied, written in the transaction that applied it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

from common.append_only import AppendOnly

LARGE_BYTES = 4 << 20  # from which an empty file is started, once all of it is applied
CHUNK_BYTES = 256 << 10  # that are applied together
GENERATION_SHIFT = 40  # bits of a place below its generation


class Journal:
    """Appended to by any thread; read by one at a time, which says what is applied.

    Parameters
    ----------
    path : of the file, made with mode 0600.
    applied : the place up to which the outbox has it all; None: whatever the file holds is of no use any more.
    full : each line also survives the loss of power.

    Raises
    ------
    OSError : the file can't be made or opened.
    """

    def __init__(self, path: Path, applied: int | None, *, full: bool) -> None:
        self.path, self._full = path, full
        self._lock = threading.Lock()
        self._file = AppendOnly(path, synced=full)
        header = b"" if applied is None else self._file.read(100, 0).partition(b"\n")[0] + b"\n"
        self._generation = _generation(header)
        self._end = self._file.size if self._generation else 0
        # All of a file of an older generation than that of the place is applied, nothing of a newer one.
        start = (applied or 0) - (self._generation << GENERATION_SHIFT)
        self._read_to = min(self._end, max(len(header), start))
        self._newest = max(self._generation, (applied or 0) >> GENERATION_SHIFT)
        self.start_empty_file()
        self.former = (self._generation << GENERATION_SHIFT) + self._end
        """The place at which what a former process wrote ends, if any of it is still to be applied."""

    @property
    def place(self) -> int:
        """Up to here all is applied."""
        return (self._generation << GENERATION_SHIFT) + self._read_to

    def append(self, line: bytes) -> None:
        """Write one line; it is the operating system's when this returns. Raises `OSError`: nothing is written."""
        line += b"\n"
        with self._lock:
            self._file.append(line)
            self._end = self._file.size

    def read(self) -> list[bytes]:
        """Return the next lines that are not applied, those of a former process alone."""
        base = self._generation << GENERATION_SHIFT
        end = self.former - base if self.place < self.former else self._end
        size = CHUNK_BYTES
        while True:
            found = self._file.read(min(size, end - self._read_to), self._read_to)
            lines = found.split(b"\n")[:-1]
            if lines or len(found) < size:
                return lines
            size *= 2  # one line that is longer

    def after(self, lines: list[bytes]) -> int:
        """Return the place behind these, which are the next ones."""
        return self.place + sum(map(len, lines)) + len(lines)

    def advance(self, place: int) -> None:
        """Note that the outbox has all up to there, and knows this place."""
        self._read_to = place - (self._generation << GENERATION_SHIFT)
        if self._read_to >= LARGE_BYTES:
            with contextlib.suppress(OSError):  # no room for another: this one is used on
                self.start_empty_file()

    def start_empty_file(self) -> None:
        """Start an empty file, if all of this one is applied.

        The new one replaces the old in one step, with its generation in it, and no line can come in between. Killed
        before that step, the old one is found, all of it below the place that the outbox knows: nothing is applied
        again. Killed after it, the new one is found, all of it beyond that place: each of its lines is applied, whether
        or not the outbox knew of this generation.
        """
        with self._lock:
            if self._read_to < self._end:
                return
            header = json.dumps({"generation": self._newest + 1}).encode() + b"\n"
            new = self.path.with_name(f"{self.path.name}.new")
            file = AppendOnly(new, synced=self._full, empty=True)
            try:
                file.append(header)
                file.move(self.path)
            except BaseException:
                file.close()
                raise
            self._file.close()
            self._file, self._newest, self._end, self._read_to = file, self._newest + 1, len(header), len(header)
            self._generation = self._newest
            if self._full:
                _sync_folder(self.path.parent)

    def close(self) -> None:
        self._file.close()


def _generation(header: bytes) -> int:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(header)["generation"])
    return 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
