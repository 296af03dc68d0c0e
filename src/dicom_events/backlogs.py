# SPDX-License-Identifier: AGPL-3.0-or-later
"""How far each broker is, and what waits for it."""

from __future__ import annotations

import time
from typing import Any

from common.ledger import Ledger
from common.times import utc

from .broker_settings import RETURNING
from .letters import Letters
from .places import Places


class Backlogs:
    """What the status says of the brokers of an outbox."""

    ledger: Ledger
    places: Places
    letters: Letters

    def cursor(self, broker: str) -> int:
        """Return the row up to which all is settled for a broker."""
        return int(self.ledger.rows("SELECT cursor FROM broker WHERE name=?", broker)[0]["cursor"])

    def backlog(self, broker: str) -> tuple[int, float | None]:
        """Return how many events a broker has before it, and since when the oldest of them waits.

        Rows are numbered without gaps: a million is not counted one by one.
        """
        row = self.ledger.rows(
            "SELECT b.cursor, (SELECT MAX(row) FROM event) newest, (SELECT COUNT(*) FROM letter WHERE broker=b.name AND "
            "state<>'dead' AND event<=b.cursor) waiting, (SELECT MIN(event) FROM letter WHERE broker=b.name AND "
            "state<>'dead') letter, (SELECT MIN(row) FROM event WHERE row>b.cursor) next FROM broker b WHERE name=?",
            broker,
        )[0]
        first = min((each for each in (row["letter"], row["next"]) if each is not None), default=None)
        oldest = self.ledger.rows("SELECT created FROM event WHERE row=?", first) if first is not None else []
        return max(0, (row["newest"] or 0) - row["cursor"]) + row["waiting"], oldest[0]["created"] if oldest else None

    def totals(self, broker: str) -> dict[str, Any]:
        """Return what the status says of a broker's place, whether or not it is configured."""
        backlog, oldest = self.backlog(broker)
        is_returning = self.places.type_of(broker) in RETURNING
        return {
            "Backlog": backlog,
            "OldestSeconds": None if oldest is None else round(max(0.0, time.time() - oldest), 3),
            "Published": self.ledger.rows("SELECT published FROM broker WHERE name=?", broker)[0]["published"],
            "DeadLetters": self.letters.count_dead(broker),
            **(self.letters.unroutable_totals(broker) if is_returning else {}),
        }

    def orphan_status(self, name: str, since: float, days_left: float | None) -> dict[str, Any]:
        """Return the status of a broker that is not configured any more."""
        found = {"Type": self.places.type_of(name), "State": "orphaned", **self.totals(name)}
        return {**found, "OrphanedSince": utc(since), "DaysLeft": days_left}
