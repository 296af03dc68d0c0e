# SPDX-License-Identifier: AGPL-3.0-or-later
"""A failed job does not name the instances that were refused: it is bisected until those are in rows of their own."""

import json
from collections.abc import Mapping
from typing import Any

from common.archive import instances_of
from common.ledger import SEND, Ledger
from common.loopback import Loopback
from common.work import Which, Work

MANY_REFUSED = 16  # instances of a study that a destination refused one by one, until the rest is left together


class Bisection:
    """Parts the rows that failed although their destination answers."""

    def __init__(self, ledger: Ledger, loopback: Loopback) -> None:
        self._ledger, self._work, self._loopback = ledger, Work(ledger), loopback

    def retry_failed(self, destination: str, was_silent: bool) -> None:
        """Let all be due that failed at a destination that answers again, in halves what failed although it was there.

        What failed more than once although it was there waits for its time: else it would be sent again and again.

        Parameters
        ----------
        was_silent : it did not answer a probe since it failed: then that was the reason.
        """
        due: list[int] = []
        for row in self._work.find(Which(task=SEND, queue=destination, states=("waiting",), tried=True)):
            data = json.loads(row["data"])
            # What failed although the destination is there: it refuses the content.
            if data.pop("Suspect", None) and not was_silent and self._is_worth_halving(row, data):
                self._halve(row, data)
            elif not data.get("Refused") and (was_silent or row["attempts"] <= 1):
                due.append(row["id"])
        self._work.make_due(Which(ids=due))

    def _is_worth_halving(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        """Return False for what is alone in its row, and where many are and none was accepted: then it refuses all."""
        if data.get("Refused"):
            return False
        parts = Which(task=SEND, queue=row["queue"], states=("waiting", "dead"), data={"Of": row["subject"]})
        arrived = Which(task=SEND, queue=row["queue"], resource=row["subject"], states=("done",))
        return self._work.count(parts) < MANY_REFUSED or self._work.has(arrived)

    def _halve(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        instances = data["Instances"]
        if instances is None:  # asked before the transaction, for which callbacks and routes wait
            instances = instances_of(self._loopback, data["Level"], row["subject"])
        with self._ledger.transaction():
            if not self._work.replace_data(row, data):
                return  # a person has dropped it, or more of the study has joined it
            data.pop("Gone", None)
            if len(instances) > 1:
                middle = len(instances) // 2
                self._work.change(row["id"], data={**data, "Instances": instances[:middle]}, next_attempt=0)
                rest = {**data, "Instances": instances[middle:]}
                self._ledger.add(row["queue"], row["subject"], rest, row["priority"])
            elif instances:
                # Its own subject: the rest of the study does not wait for it.
                alone = {**data, "Refused": True, "Of": row["subject"], "OfLevel": data["Level"], "Level": "Instance"}
                self._work.change(row["id"], data={**alone, "Instances": instances}, subject=instances[0])
