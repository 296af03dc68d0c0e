# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/acknowledged.py: edit that, never this file.
"""Instances that a callback has reported, until /changes has named them too: what it names beyond these was missed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

from ._common.ledger import Ledger, Statements

ACKNOWLEDGED_TABLES = """
CREATE TABLE IF NOT EXISTS told(batch INTEGER PRIMARY KEY, instances TEXT NOT NULL, seen REAL NOT NULL);
"""


class AcknowledgedInstances:
    """The instances are in memory too; on disk each transaction is one row, a batch: a row for each would be slow.

    `lock` is held by whoever has a transaction of the outbox open.
    """

    def __init__(self, ledger: Ledger, lock: threading.RLock) -> None:
        self._ledger, self._lock = ledger, lock
        self._new: list[str] = []  # of the transaction that is open
        self._new_batch = 0
        self._batch_of: dict[str, int] = {}
        self._left: Counter[int] = Counter()  # how many of each batch /changes has not named
        self._read()

    # A transaction of the outbox

    def begin(self) -> None:
        """Begin a transaction."""
        self._new, self._new_batch = [], 0

    def add(self, instance: str) -> None:
        """Take one, inside a transaction: /changes will name it."""
        self._new.append(instance)

    def write(self, db: Statements) -> None:
        """Write those of this transaction, at its end."""
        if self._new:
            values = (" ".join(self._new), time.time())
            sql = "INSERT INTO told(instances, seen) VALUES(?,?) RETURNING batch"
            self._new_batch = int(db.execute(sql, values).fetchall()[0][0])

    def committed(self) -> None:
        """Keep those of the transaction, which is on disk."""
        if self._new_batch:
            self._keep(self._new_batch, self._new)

    # What /changes names

    def take(self, instances: Sequence[str]) -> set[str]:
        """Return those of them that were reported; they are not needed again."""
        with self._lock:
            found = {each: self._batch_of[each] for each in instances if each in self._batch_of}
            left = self._left - Counter(found.values())
            with self._ledger.transaction() as db:
                gone = [(batch,) for batch in self._left.keys() - left.keys()]
                db.executemany("DELETE FROM told WHERE batch=?", gone)
            self._left = left
            for each in found:
                del self._batch_of[each]
        return set(found)

    def forget(self, before: float) -> None:
        """Forget old ones: an instance that was here already is reported by a callback, and never by /changes."""
        with self._lock:
            if old := {row["batch"] for row in self._ledger.rows("SELECT batch FROM told WHERE seen<?", before)}:
                self._ledger.run("DELETE FROM told WHERE seen<?", before)
                self._batch_of = {each: batch for each, batch in self._batch_of.items() if batch not in old}
                self._left = Counter(self._batch_of.values())

    def _keep(self, batch: int, instances: Sequence[str]) -> None:
        different = set(instances)
        for each in different & self._batch_of.keys():  # sent again
            self._left[self._batch_of[each]] -= 1
        self._batch_of.update(dict.fromkeys(different, batch))
        self._left[batch] += len(different)

    def _read(self) -> None:
        with self._ledger.transaction() as db:
            # Of an older version, with a row for each.
            if not self._ledger.is_shared and self._ledger.rows("SELECT 1 FROM sqlite_master WHERE name='recent'"):
                db.execute("INSERT INTO told SELECT NULL, instance, seen FROM recent")
                db.execute("DROP TABLE recent")
        for row in self._ledger.rows("SELECT batch, instances FROM told"):
            self._keep(row["batch"], row["instances"].split())
