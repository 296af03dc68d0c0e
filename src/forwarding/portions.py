# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows that hold more than fits into one request are cut: each part is sent, and sent again, alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.archive import instances_of
from common.changes import PAGE
from common.identifiers import PLURAL
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.work import Work


class Portions:
    """Cuts rows by the size of their files.

    Parameters
    ----------
    largest : bytes that one request may have; a larger instance is sent alone.
    """

    def __init__(self, ledger: Ledger, loopback: Loopback, largest: int) -> None:
        self._ledger, self._work, self._loopback, self._largest = ledger, Work(ledger), loopback, largest

    def cut(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row that is `sending` with no more than fits; the rest waits in a row of its own until this one has ended.

        Raises
        ------
        LoopbackError : Orthanc does not say how large it is.
        """
        data = json.loads(row["data"])
        if self._fits_whole(data, row["subject"]):
            return row
        instances = data["Instances"]
        if instances is None:
            instances = instances_of(self._loopback, data["Level"], row["subject"])
        number = self._number_that_fit(instances)
        if number >= len(instances):
            return row
        data.pop("Gone", None)
        first, rest = ({**data, "Instances": some} for some in (instances[:number], instances[number:]))
        with self._ledger.transaction():
            self._work.change(row["id"], data=first)
            self._ledger.add(row["queue"], row["subject"], rest, row["priority"])
        return {**row, "data": json.dumps(first)}

    def _fits_whole(self, data: Mapping[str, Any], resource: str) -> bool:
        """Return whether all of a resource fits: one question, whatever it holds, and most do."""
        if data["Level"] == "Instance":  # with what was sent and was not there, several instances are under one
            return len(data["Instances"] or (resource,)) == 1
        try:
            found = self._loopback.get(f"/{PLURAL[data['Level']]}/{resource}/statistics")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return True  # it was deleted, which the job finds out
        return int(found["UncompressedSize"]) <= self._largest

    def _number_that_fit(self, instances: Sequence[str]) -> int:
        """Return how many of them, one at least, fit into one request."""
        size = 0
        for start in range(0, len(instances), PAGE):
            some = instances[start : start + PAGE]
            body = {"Resources": some, "Metadata": False}
            sizes: dict[str, int] = {
                one["ID"]: int(one["FileSize"]) for one in self._loopback.post("/tools/bulk-content", body)
            }
            for number, instance in enumerate(some, start):
                size += sizes.get(instance, 0)
                if size > self._largest and number:
                    return number
        return len(instances)
