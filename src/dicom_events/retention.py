# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long events stay in the outbox: until every broker is past them, or until the outbox is beyond its bounds."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from common.expiry import Expiry
from common.ledger import Ledger

from .letters import Letters
from .places import Places

ROWS_PER_TRANSACTION = 1000  # that are deleted: whoever else writes waits for one such transaction at most
CHECKPOINT_BYTES = 1 << 20  # of the write-ahead log that are worth moving into the file
# Of the room that is left, the share that the log may take: the file grows by up to as much when its content moves there.
SHARE_OF_ROOM = 4
# Of it above which writers are held up to empty it, which is little once its content has moved.
TRUNCATE_BYTES = 8 << 20
# Only where `MaxAgeDays` is set: it costs each event a little, and without it each look would read the whole outbox.
INDEX_BY_TIME = "CREATE INDEX IF NOT EXISTS event_by_time ON event(created)"
OLD = f"SELECT row FROM event INDEXED BY event_by_time WHERE created<? ORDER BY created LIMIT {ROWS_PER_TRANSACTION}"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How much may wait.

    `most_bytes` of the file, `oldest_seconds` of an event (0: for ever); `refuse`: take no more when full, instead of dropping
    the oldest.
    """

    most_bytes: int
    oldest_seconds: float
    refuse: bool


class Retention:
    """Deletes events that nobody needs any more, and those beyond the bounds. `checkpointer`: a connection of its own."""

    def __init__(
        self, ledger: Ledger, places: Places, letters: Letters, bounds: Bounds, checkpointer: sqlite3.Connection
    ) -> None:
        self._ledger, self._places, self._letters, self._bounds = ledger, places, letters, bounds
        self._checkpointer, self._expiry = checkpointer, Expiry(ledger, "dicom_events")
        ledger.run(INDEX_BY_TIME if bounds.oldest_seconds else "DROP INDEX IF EXISTS event_by_time")
        self._swept_to = self._drops_seen = 0  # the row up to which what is left has a letter; places that were dropped
        self._tidied_at_changes = -1  # how many rows had been changed when it was tidy
        self._counting, self._checkpointing = threading.Lock(), threading.Lock()
        self.is_full = False
        self.refused = 0
        """Events that were refused since the last `tidy`."""

    def refuses(self) -> bool:
        """Return whether an event is refused now, and count it then."""
        if not (self.is_full and self._bounds.refuse):
            return False
        with self._counting:
            self.refused += 1
        return True

    def tidy(self) -> str | None:
        """Remove what is settled and what is beyond the bounds; return a line for the log if anything was lost."""
        expired = self._places.drop_expired()
        found = self._ledger.rows("SELECT MIN(cursor) lowest, total_changes() changes FROM broker")[0]
        if found["changes"] == self._tidied_at_changes:
            self._empty_log()  # nothing is going on
            if not self._bounds.oldest_seconds and not self.refused:
                return None
        self._sweep(found["lowest"] or 0)
        lost = self._drop()
        self.checkpoint()
        self._tidied_at_changes = found["changes"]
        if expired:
            kept = f"what waited for {', '.join(expired)} was kept for KeepOrphanedDays, and is dropped now"
            return f"{kept}; {lost}" if lost else kept
        return lost

    def _sweep(self, lowest: int) -> None:
        """Delete what all brokers have. What has a letter is looked at again only when that is gone: there may be very many."""
        drops = self._places.dropped
        self._swept_to = 0 if drops != self._drops_seen else min(self._swept_to, self._letters.take_freed() - 1)
        self._drops_seen = drops
        settled = "row>? AND row<=? AND data IS NOT NULL AND NOT EXISTS (SELECT 1 FROM letter WHERE event=row)"
        while self._delete(settled, self._swept_to, lowest) == ROWS_PER_TRANSACTION:
            pass
        self._swept_to = lowest

    def _delete(self, condition: str, *parameters: Any) -> int:
        oldest = f"SELECT row FROM event WHERE {condition} ORDER BY row LIMIT {ROWS_PER_TRANSACTION}"
        return self._ledger.run(f"DELETE FROM event WHERE row IN ({oldest})", *parameters)

    def _drop(self) -> str | None:
        dropped = 0
        if self._bounds.oldest_seconds and self._expiry.may_delete():
            horizon = time.time() - self._bounds.oldest_seconds
            while number := self._ledger.run(f"DELETE FROM event WHERE row IN ({OLD})", horizon):
                dropped += number
        # Once full, until a twentieth is free again: not a line in the log for each event.
        limit = self._bounds.most_bytes * (0.95 if self.is_full and self._bounds.refuse else 1)
        if self.size() > limit:
            dropped += self._delete_until_there_is_room(*self._only_for_orphans())
        self.is_full = self.size() > limit
        if self.is_full and not self._bounds.refuse:
            dropped += self._delete_until_there_is_room("1")
        if dropped:
            self._letters.remove_without_event()
            self._ledger.set_value("dropped", self._ledger.get_value("dropped") + dropped)
            return f"{dropped} events were dropped unpublished: the outbox is beyond its bounds (DicomEvents.Outbox)"
        with self._counting:
            refused, self.refused = self.refused, 0
        if refused:
            self._ledger.set_value("refused", self._ledger.get_value("refused") + refused)
            return f"{refused} events were refused: the outbox is full (DicomEvents.Outbox)"
        return None

    def _delete_until_there_is_room(self, condition: str, *parameters: Any) -> int:
        dropped = 0
        while self.size() > self._bounds.most_bytes * 0.95 and (number := self._delete(condition, *parameters)):
            dropped += number
        return dropped

    def _only_for_orphans(self) -> tuple[str, int]:
        """Return the SQL condition of what waits for orphaned brokers alone: to drop it costs no configured one anything."""
        gone = "SELECT name FROM orphan"
        lowest = self._ledger.rows(f"SELECT MIN(cursor) lowest FROM broker WHERE name NOT IN ({gone})")[0]["lowest"]
        letters = f"SELECT 1 FROM letter WHERE event=row AND broker NOT IN ({gone})"
        return f"row<=? AND data IS NOT NULL AND NOT EXISTS ({letters})", lowest or 0

    def size(self) -> int:
        """Return how many bytes of the file hold something."""
        values = [
            next(iter(self._ledger.rows(f"PRAGMA {name}")[0].values()))
            for name in ("page_count", "freelist_count", "page_size")
        ]
        return int((values[0] - values[1]) * values[2])

    def status(self) -> dict[str, Any]:
        """Return what the status says of the outbox as a whole."""
        return {
            "Bytes": self.size(),
            "Full": self.is_full,
            "Dropped": self._ledger.get_value("dropped"),
            "Refused": self._ledger.get_value("refused") + self.refused,
        }

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file if it is long, for the room that is left.

        Called after each transaction of many: a disk that has become full with a long log has no room for its content in the
        file. What can't be moved now stays in the log; who writes next says why.
        """
        log = Path(f"{self._ledger.path}-wal")
        with contextlib.suppress(sqlite3.Error, OSError):
            size = log.stat().st_size if log.exists() else 0
            if size <= min(CHECKPOINT_BYTES, shutil.disk_usage(log.parent).free // SHARE_OF_ROOM):
                return
            if not self._checkpointing.acquire(blocking=False):
                return  # another thread does so
            try:
                self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if size > TRUNCATE_BYTES:
                    self._empty_log()
            finally:
                self._checkpointing.release()

    def _empty_log(self) -> None:
        log = Path(f"{self._ledger.path}-wal")
        if log.exists() and log.stat().st_size:
            self._checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def make_room(self) -> None:
        """Empty the write-ahead log: a full disk may have no other room, for us and for others."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self._empty_log()
