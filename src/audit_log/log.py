# SPDX-License-Identifier: AGPL-3.0-or-later
"""The log: files that are only appended to, whose lines are chained by their MACs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.append_only import AppendOnly
from common.state import StateLock, make_private
from common.times import utc

from .lines import entries_of, log_files, mac_of, parse_line
from .search import LogIndex


class Log:
    """The files of a folder, to append to: by one process only. `index` finds their lines.

    Raises
    ------
    OSError : the folder or its files can't be written, or another process has them.
    """

    def __init__(self, folder: Path, key: bytes, max_bytes: int, *, sync: bool, setting: str = "StatePath") -> None:
        self.folder, self._key, self._max_bytes, self._sync = folder, key, max_bytes, sync
        self.number, self.mac, self.index = 0, "", LogIndex(folder)
        self._file: AppendOnly | None = None
        self._lock = StateLock(folder, setting, folder / "lock")
        try:
            if files := log_files(folder):
                for path in files:
                    make_private(path)
                self._open(files[-1])
                self._continue_from(files)
            else:
                self._begin_file()
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        # Half a line stays: cut off, it would look as if somebody had changed the file.
        file = AppendOnly(path, synced=self._sync, keep_torn=True)
        if self._file:
            self._file.close()
        self._file = file

    def _begin_file(self) -> None:
        self._open(self.folder / f"audit-{self.number + 1:012}.jsonl")

    def _continue_from(self, files: Sequence[Path]) -> None:
        """Continue after the last whole line; if a crash has cut one, write a line that says so."""
        broken = b""
        for path in reversed(files):
            lines = path.read_bytes().split(b"\n")
            for raw in reversed(lines):
                if line := parse_line(raw):
                    self.number, self.mac = line.content["Number"], line.mac
                    break
                broken = broken or raw
            if self.number:
                break
        if broken:
            # `Previous`: the cut line may be the first of its file, and the files before may be dropped for their age.
            entry = {"Event": "recovered", "Broken": hashlib.sha256(broken).hexdigest(), "Previous": self.mac}
            self.append([{"At": utc(), **entry}])

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write lines; all of them, or none. Raises OSError: a full disk, or the file was deleted, for example."""
        assert self._file
        self._file.check()
        self._lock.check()
        if self._file.size >= self._max_bytes:
            self._begin_file()
        if self.number and not self._file.size:  # begun now, or before a full disk or a kill: nothing was written to it
            entries = [{"At": utc(), "Event": "continued", "Previous": self.mac}, *entries]
        number, mac, data = self.number, self.mac, []
        for number, entry in enumerate(entries, start=self.number + 1):
            text = json.dumps({"Number": number, **entry}).encode()[:-1]
            mac = mac_of(self._key, mac, text)
            data.append(b'%s, "Mac": "%s"}\n' % (text, mac.encode()))
        try:
            self._file.append(b"".join(data))
        except OSError:
            self.index.forget_newest()  # it may have seen lines that were cut off again
            raise
        self.number, self.mac = number, mac

    def drop_before(self, at: str) -> None:
        """Delete the files whose lines are all older; a line says up to which, so that `verify` misses none."""
        for path, following in list(zip(log_files(self.folder), log_files(self.folder)[1:], strict=False)):
            if (first := next(entries_of(following), None)) is None or first["At"] >= at:
                return
            if any(entry["At"] >= at for entry in entries_of(path)):
                return  # the clock was behind when the next file began
            self.append([{"At": utc(), "Event": "dropped", "File": path.name, "UpTo": first["Number"] - 1}])
            path.unlink()

    def close(self) -> None:
        """Write no more, and let another process write."""
        if self._file:
            self._file.close()
            self._file = None
        self._lock.close()
