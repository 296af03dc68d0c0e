# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which instance was given to which destination already, so that nothing is sent twice for nothing."""

import json
from collections.abc import Collection, Iterable

from common.changes import still_arrives
from common.ledger import SEND, Ledger
from common.work import Which, WorkView, unfinished_keys
from forwarding.tasks import ROUTE

# Which instance, at which Seq and with which content, was given to a destination: until it is routed for the last time at
# every level (trigger Stored, rules of several levels), and as long as it is here where the same instance can come again
# (OverwriteInstances).
GIVEN_TABLE = """
CREATE TABLE IF NOT EXISTS given(
    destination TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY(instance, destination)) WITHOUT ROWID;
"""
GIVE = """
INSERT INTO given VALUES(?,?,?,?) ON CONFLICT(instance, destination) DO UPDATE SET seq=excluded.seq, digest=excluded.digest
"""
FORGET_ROUTED = (
    f"DELETE FROM given WHERE NOT {still_arrives('given.instance')} "
    f"AND instance NOT IN ({unfinished_keys('Instances', ROUTE)})"
)


class SentInstances:
    """The instances that destinations were given.

    Parameters
    ----------
    remembers : something may come to a destination twice; else nothing is written down.
    overwrites : the same instance can come again with the content that it has: it is remembered as long as it is here.
    """

    def __init__(self, ledger: Ledger, *, remembers: bool, overwrites: bool) -> None:
        self._ledger, self._remembers, self._overwrites = ledger, remembers, overwrites

    def add(self, destination: str, instance: str, seq: int, digest: str) -> bool:
        """Note that a destination gets an instance; return False if it was given the same already.

        Numbers of the log of changes rise. A negative one is of one arrival (Reconcile is false), 0 says nothing.
        """
        if not self._remembers:
            return True
        sql = "SELECT * FROM given WHERE instance=? AND destination=?"
        for given in self._ledger.rows(sql, instance, destination):
            if given["seq"] >= seq > 0 or given["seq"] == seq < 0 or (digest and given["digest"] == digest):
                return False
        self._ledger.run(GIVE, destination, instance, seq, digest)
        return True

    def given(self, destination: str, resources: Collection[str], instances: Collection[str]) -> set[str]:
        """Return which of these instances, of these resources, a destination was given, as far as that is remembered.

        A delivery that has ended is remembered for `KeepDoneDays`.
        """
        states = ("waiting", "sending", "done", "dead")
        rows = WorkView(self._ledger).find(Which(task=SEND, resources=[*resources, *instances], states=states))
        # What went to an alternate instead does not go to the destination too.
        about = [(row["queue"], json.loads(row["data"])) for row in rows]
        mine = [data for queue, data in about if destination in (queue, *data.get("MovedFrom", ()))]
        found = {one for data in mine for one in data["Instances"] or ()}
        sql = "SELECT instance FROM given WHERE destination=? AND instance IN (SELECT value FROM json_each(?))"
        found |= {row["instance"] for row in self._ledger.rows(sql, destination, json.dumps([*instances]))}
        return found.intersection(instances)

    def forget_routed(self) -> None:
        """Forget what no level has still to route, unless the same instance can come again."""
        if self._remembers and not self._overwrites:
            self._ledger.run(FORGET_ROUTED)

    def forget_deleted(self, instances: Iterable[str]) -> None:
        """Forget instances that were deleted."""
        with self._ledger.transaction() as db:
            db.executemany("DELETE FROM given WHERE instance=?", [(each,) for each in instances])

    def forget_numbers(self, place: int) -> None:
        """Forget the numbers beyond a place in the log of changes, which what comes from now on gets again."""
        self._ledger.run("UPDATE given SET seq=? WHERE seq>?", place, place)
