# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which instance was given to which destination already, so that nothing is sent twice for nothing."""

from collections import deque
from collections.abc import Iterable

from common.ledger import Ledger
from common.loopback import Loopback
from forwarding.archive import still_here

# Which instance, at which Seq and with which content, was given to a destination: while its study is not stable yet
# (trigger Stored), and as long as it is here where the same instance can come again (OverwriteInstances).
GIVEN_TABLE = """
CREATE TABLE IF NOT EXISTS given(
    destination TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY(instance, destination)) WITHOUT ROWID;
"""


class SentInstances:
    """The instances that destinations were given.

    Parameters
    ----------
    remembers : something may come to a destination twice; else nothing is written down.
    overwrites : the same instance can come again with another content: it is remembered as long as it is here.
    deleted : identifiers of instances that were deleted, as callbacks report them.
    """

    def __init__(
        self, ledger: Ledger, loopback: Loopback, *, remembers: bool, overwrites: bool, deleted: deque[str]
    ) -> None:
        self._ledger, self._loopback, self._deleted = ledger, loopback, deleted
        self._remembers, self._overwrites = remembers, overwrites

    def add(self, destination: str, instance: str, seq: int, digest: str) -> bool:
        """Note that a destination gets an instance; return False if it was given the same already."""
        if not self._remembers:
            return True
        sql = "SELECT * FROM given WHERE instance=? AND destination=?"
        given = self._ledger.rows(sql, instance, destination)
        if given and (given[0]["seq"] >= seq > 0 or (digest and given[0]["digest"] == digest)):
            return False
        self._ledger.run("INSERT OR REPLACE INTO given VALUES(?,?,?,?)", destination, instance, seq, digest)
        return True

    def forget_stable(self, instances: Iterable[str]) -> None:
        """Forget what has been routed for the last time, unless the same instance can come again."""
        if not self._overwrites:
            self._forget(instances)

    def forget_deleted(self) -> None:
        """Forget what was deleted; to overwrite an instance, Orthanc deletes it for a moment."""
        deleted = list(self._deleted)
        here = set(still_here(self._loopback, deleted))
        self._forget(each for each in deleted if each not in here)
        for _ in deleted:
            self._deleted.popleft()

    def forget_numbers(self, place: int) -> None:
        """Forget the numbers beyond a place in the log of changes, which what comes from now on gets again."""
        self._ledger.run("UPDATE given SET seq=? WHERE seq>?", place, place)

    def _forget(self, instances: Iterable[str]) -> None:
        with self._ledger.transaction() as db:
            db.executemany("DELETE FROM given WHERE instance=?", [(each,) for each in instances])
