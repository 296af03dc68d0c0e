# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files of lines that are only appended to: what is appended is there whole, or not at all."""

import contextlib
import errno
import os
from pathlib import Path

from common.state import NO_LINK_NO_TEXT, must_be_same, open_private

SYNC = getattr(os, "fdatasync", os.fsync)  # macOS and Windows have no fdatasync
CHUNK_BYTES = 65536  # of a last line that is looked for backwards


class AppendOnly:
    """A file to which one process appends lines, one thread at a time.

    What a crash or a full disk left of a last line is cut off when it is opened. Only its owner may read it, and it is never
    opened through a link.

    Parameters
    ----------
    synced : what is appended survives the loss of power too.
    keep_torn : end the last line instead of cutting it off, where it is evidence.
    empty : whatever it holds is of no use any more.
    is_ours : False, where a person may have set its mode, put a link in its place, or have other programs that rotate it.

    Raises
    ------
    OSError : it can't be made or opened.
    """

    def __init__(
        self, path: Path, *, synced: bool = False, keep_torn: bool = False, empty: bool = False, is_ours: bool = True
    ) -> None:
        self.path, self._synced, self._is_ours = path, synced, is_ours
        flags = os.O_TRUNC if empty else 0
        if is_ours:
            self._file = open_private(path, flags)
        else:
            binary = NO_LINK_NO_TEXT & ~getattr(os, "O_NOFOLLOW", 0)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | binary | flags, 0o600)
        try:
            self._end = os.lseek(self._file, 0, os.SEEK_END)
            if (whole := _end_of_whole_lines(self._file, self._end)) < self._end:
                if keep_torn:
                    self.append(b"\n")
                else:
                    os.ftruncate(self._file, whole)
                    self._end = whole
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The bytes of its whole lines."""
        return self._end if self._is_ours else os.fstat(self._file).st_size

    def check(self) -> None:
        """Raise StateGoneError if the file was deleted or replaced: what is written now would be lost."""
        must_be_same(self._file, self.path)

    def is_at_its_path(self) -> bool:
        """Return whether it is still what its path leads to, where other programs may rotate or delete it."""
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False

    def append(self, lines: bytes) -> None:
        """Append whole lines, all or none. Raises OSError: the disk is full, the file was deleted, or the like."""
        if self._is_ours:
            self.check()
        there = os.fstat(self._file).st_size
        place = there if not self._is_ours else min(self._end, there)
        if there > place:
            os.ftruncate(self._file, place)  # what a failure left that could not be cut off then
        try:
            if _write_at(self._file, lines, place) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            if self._synced:
                SYNC(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, place)
            raise
        self._end = place + len(lines)

    def read(self, size: int, place: int) -> bytes:
        """Return at most so many bytes from a place on."""
        return os.pread(self._file, size, place)

    def move(self, path: Path) -> None:
        """Put it in the place of another file, in one step."""
        self.path.replace(path)
        self.path = path

    def sync(self) -> None:
        """Wait until all of it survives the loss of power."""
        os.fsync(self._file)

    def close(self) -> None:
        """Write no more."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)


def _end_of_whole_lines(descriptor: int, size: int) -> int:
    """Return where the last whole line of a file of this size ends."""
    position = size
    while position > 0:
        start = max(0, position - CHUNK_BYTES)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _write_at(descriptor: int, data: bytes, place: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, place)
    os.lseek(descriptor, place, os.SEEK_SET)  # Windows
    return os.write(descriptor, data)
