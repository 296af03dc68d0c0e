# SPDX-License-Identifier: AGPL-3.0-or-later
"""What callbacks report, until it is written down: also before the state is open, or while it can't be written."""

import collections
import sqlite3
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

MOST_REPORTS = 200_000  # in memory, while nothing can be written; what comes then is counted

Report = TypeVar("Report")


class Inbox(Generic[Report]):
    """Reports in their order. Each is written at once if it can be, and forgotten only when that is committed.

    Parameters
    ----------
    write : commits one report, or raises sqlite3.Error or OSError; then it is written later, by `flush`.
    """

    def __init__(self, write: Callable[[Report], None]) -> None:
        self._write, self._waiting = write, collections.deque[Report]()
        self._writing, self._is_open = threading.Lock(), False
        self.lost = 0

    def open(self) -> None:
        """Begin to write: from now on there is something to write to. Reports that came before wait for `flush`."""
        self._is_open = True

    def add(self, report: Report) -> bool:
        """Take a report, in a callback; return whether it is written."""
        if len(self._waiting) >= MOST_REPORTS:
            self.lost += 1
            return False
        waited = bool(self._waiting)
        self._waiting.append(report)
        if waited or not self._is_open or not self._writing.acquire(blocking=False):
            return False  # those before it have failed, or are being written: `flush` does it
        try:
            self._write_all()
        except (sqlite3.Error, OSError):
            return False
        finally:
            self._writing.release()
        return True

    def flush(self) -> None:
        """Write what waits. Raises what `write` raises; nothing is lost then."""
        with self._writing:
            self._write_all()

    def _write_all(self) -> None:
        while self._waiting:
            try:
                self._write(self._waiting[0])
            except (sqlite3.Error, OSError):
                raise
            except Exception:
                self._waiting.popleft()  # an odd one never keeps the others from being written
                raise
            self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._waiting)
