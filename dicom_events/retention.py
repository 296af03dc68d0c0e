# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/retention.py: edit that, never this file.
"""How long events stay in the outbox: until every broker is past them, or until the outbox is beyond its bounds."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

from ._common.expiry import Expiry
from ._common.ledger import Ledger

from .letters import Letters
from .places import Places
from .room import Room

ROWS_PER_TRANSACTION = 1000  # that are deleted: whoever else writes waits for one such transaction at most
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
    """Deletes events that nobody needs any more, and those beyond the bounds."""

    def __init__(self, ledger: Ledger, places: Places, letters: Letters, bounds: Bounds, room: Room) -> None:
        self._ledger, self._places, self._letters, self._bounds = ledger, places, letters, bounds
        self._room, self._expiry = room, Expiry(ledger, "dicom_events")
        self.size, self.checkpoint, self.make_room = room.size, room.checkpoint, room.make_room
        ledger.run(INDEX_BY_TIME if bounds.oldest_seconds else "DROP INDEX IF EXISTS event_by_time")
        self._swept_to = self._drops_seen = 0  # the row up to which what is left has a letter; places that were dropped
        self._tidied_at_changes = -1  # how many rows had been changed when it was tidy
        self._counting = threading.Lock()
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
        lowest, changes = self._ledger.rows("SELECT MIN(cursor) lowest FROM broker")[0]["lowest"], self._ledger.changes
        if changes == self._tidied_at_changes:
            self._room.empty_log()  # nothing is going on
            if not self._bounds.oldest_seconds and not self.refused:
                return None
        self._sweep(lowest or 0)
        lost = self._drop()
        self.checkpoint()
        self._tidied_at_changes = changes
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
            dropped += self._delete_until_there_is_room("1=1")
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

    def status(self) -> dict[str, Any]:
        """Return what the status says of the outbox as a whole."""
        return {
            "Bytes": self.size(),
            "Full": self.is_full,
            "Dropped": self._ledger.get_value("dropped"),
            "Refused": self._ledger.get_value("refused") + self.refused,
        }
