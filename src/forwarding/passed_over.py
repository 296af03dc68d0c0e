# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which destinations did not get all of what came before, since no rule chose them: one may do so when more of it comes."""

import json
from collections.abc import Collection, Iterable

from common.ledger import Ledger
from forwarding.rules import Rule

PASSED_OVER_TABLE = """
CREATE TABLE IF NOT EXISTS passed_over(resource TEXT PRIMARY KEY, destinations TEXT NOT NULL) WITHOUT ROWID;
"""
UPSERT_PASSED_OVER = """
INSERT INTO passed_over VALUES(?,?) ON CONFLICT(resource) DO UPDATE SET destinations=excluded.destinations
"""


def changing_levels(rules: Iterable[Rule]) -> set[str]:
    """Return the levels at which what a rule says of a resource may be another when more of it has come."""
    return {rule.level for rule in rules if rule.query or rule.matcher}


class PassedOver:
    """The destinations that were passed over, by resource: as long as it is here."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def of(self, resource: str) -> set[str]:
        """Return the destinations that have not been given all of a resource."""
        rows = self._ledger.rows("SELECT destinations FROM passed_over WHERE resource=?", resource)
        return set(json.loads(rows[0]["destinations"])) if rows else set()

    def note(self, resource: str, destinations: Collection[str]) -> None:
        """Write down which they are now."""
        if destinations:
            names = json.dumps(sorted(destinations))
            self._ledger.run(UPSERT_PASSED_OVER, resource, names)
        else:
            self._ledger.run("DELETE FROM passed_over WHERE resource=?", resource)

    def forget_deleted(self, resources: Iterable[str]) -> None:
        """Forget resources that were deleted."""
        with self._ledger.transaction() as db:
            db.executemany("DELETE FROM passed_over WHERE resource=?", [(each,) for each in resources])
