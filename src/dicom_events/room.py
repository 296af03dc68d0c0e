# SPDX-License-Identifier: AGPL-3.0-or-later
"""The room that the outbox takes: bytes of its file, whose write-ahead log is kept short, or of rows in PostgreSQL."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from pathlib import Path

from common.ledger import BUSY_SECONDS, Ledger

CHECKPOINT_BYTES = 1 << 20  # of the write-ahead log that are worth moving into the file
# Of the room that is left, the share that the log may take: the file grows by up to as much when its content moves there.
SHARE_OF_ROOM = 4
# Of it above which writers are held up to empty it, which is little once its content has moved.
TRUNCATE_BYTES = 8 << 20
ROW_BYTES = 300  # that a row in PostgreSQL takes beside its data, about
# In proportion to the newest: what was deleted keeps its room in PostgreSQL's files, and is used again.
SIZE_IN_TABLES = """
SELECT (SELECT COUNT(*) FROM event) n, (SELECT AVG(length(data)) FROM
    (SELECT data FROM event WHERE data IS NOT NULL ORDER BY row DESC LIMIT 1000) newest) each_bytes
"""


class Room:
    """The room of an outbox in PostgreSQL, and what one in a file does besides."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def size(self) -> int:
        """Return how many bytes hold something."""
        [found] = self._ledger.rows(SIZE_IN_TABLES)
        return int(found["n"] * (float(found["each_bytes"] or 0) + ROW_BYTES))

    def checkpoint(self) -> None:
        """Keep the write-ahead log short. Called after each transaction of many."""

    def empty_log(self) -> None:
        """Empty the write-ahead log, while nothing is going on."""

    def make_room(self) -> None:
        """Empty the write-ahead log: a full disk may have no other room, for us and for others."""

    def close(self) -> None:
        """Close what it has open."""


class RoomInFile(Room):
    """The room of an outbox in a file of SQLite's. `checkpointer`: a connection of its own."""

    def __init__(self, ledger: Ledger, checkpointer: sqlite3.Connection) -> None:
        super().__init__(ledger)
        self._log, self._checkpointer = Path(f"{ledger.path}-wal"), checkpointer
        self._checkpointing = threading.Lock()
        # Checkpoints wait for the disk: after a transaction, when its lock is free again.
        ledger.rows("PRAGMA wal_autocheckpoint=0")
        checkpointer.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}").fetchall()

    def size(self) -> int:
        """Return how many bytes of the file hold something."""
        values = [
            next(iter(self._ledger.rows(f"PRAGMA {name}")[0].values()))
            for name in ("page_count", "freelist_count", "page_size")
        ]
        return int((values[0] - values[1]) * values[2])

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file if it is long, for the room that is left.

        A disk that has become full with a long log has no room for its content in the file. What can't be moved now stays in
        the log; who writes next says why.
        """
        with contextlib.suppress(sqlite3.Error, OSError):
            size = self._log.stat().st_size if self._log.exists() else 0
            if size <= min(CHECKPOINT_BYTES, shutil.disk_usage(self._log.parent).free // SHARE_OF_ROOM):
                return
            if not self._checkpointing.acquire(blocking=False):
                return  # another thread does so
            try:
                self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if size > TRUNCATE_BYTES:
                    self.empty_log()
            finally:
                self._checkpointing.release()

    def empty_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size:
            self._checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def make_room(self) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):
            self.empty_log()

    def close(self) -> None:
        self._checkpointer.close()
