# SPDX-License-Identifier: AGPL-3.0-or-later
"""What of a catch-up a destination was not given yet, as far as the ledger remembers."""

import json
from collections.abc import Iterable

from common.changes import not_handed_over
from common.ledger import SEND
from common.work import Which, Work
from forwarding.archive import family_of
from forwarding.context import Context
from forwarding.routing import Batch, Share
from forwarding.sent_instances import SentInstances
from forwarding.tasks import ROUTE


class NotInLedger:
    """Leaves out of a catch-up what the ledger knows of."""

    def __init__(self, context: Context, sent: SentInstances) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._sent = sent

    def of(self, batch: Batch, shares: Iterable[Share], received: float) -> list[Share]:
        """Return what goes where, without what a destination was given, and without what comes by itself.

        `received` (Unix time) is when the last of it came: what was sent whole after that had it.
        """
        family, some = family_of(self._loopback, batch.resource), set(batch.instances or ())
        routing = [json.loads(row["data"]) for row in self._work.find(Which(task=ROUTE, resource=batch.resource))]
        to_come = not_handed_over(self._ledger, batch.level, some)
        to_come |= {one for data in routing if "CatchUp" not in data for one in data["Instances"]}
        whole = {
            row["queue"]
            for row in self._work.find(Which(task=SEND, resources=family))
            if row["state"] != "gone" and row["created"] > received and json.loads(row["data"])["Instances"] is None
        }

        def left(destination: str, instances: set[str]) -> set[str]:
            if destination in whole:
                return set()
            return instances - to_come - self._sent.given(destination, family, instances)

        return [share._replace(instances=left(share.destination, share.instances)) for share in shares]
