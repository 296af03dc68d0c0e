# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a forwarder adds to Orthanc's metrics (`/tools/metrics-prometheus`)."""

import time
from typing import Any

from common.ledger import Ledger
from common.times import utc_or_none
from common.work import Work
from forwarding.destinations import Destinations
from forwarding.tasks import DELETE


class Metrics:
    """Rows by state, age of the oldest unfinished one, instances a second, and destinations that are away.

    Of a resource that a person sent whole, how many instances it had is not known here: it counts as one.
    """

    def __init__(self, ledger: Ledger, destinations: Destinations) -> None:
        self._ledger, self._work, self._destinations = ledger, Work(ledger), destinations
        self._delivered = {"Deliveries": 0, "Instances": 0}
        self._counted, self._since = 0, time.monotonic()  # of the measurement before

    def add_delivered(self, instances: int) -> None:
        """Count a delivery and the instances in it, that a destination has got."""
        self._delivered["Deliveries"] += 1
        self._delivered["Instances"] += instances

    def flow(self) -> dict[str, Any]:
        """Return what was delivered since the start, and since when the oldest waits that is neither delivered nor given up."""
        return {"Delivered": {**self._delivered}, "WaitingSince": utc_or_none(self._work.oldest_unfinished(DELETE))}

    def measure(self) -> dict[str, float]:
        """Return all metrics; the rate is since the call before."""
        oldest = self._work.oldest_unfinished(DELETE)
        delivered, now = self._delivered["Instances"], time.monotonic()
        rate = (delivered - self._counted) / max(0.001, now - self._since)
        self._counted, self._since = delivered, now
        # One that is away, and for which nothing waits, may be gone for good.
        waited_for, missing = self._ledger.queues("waiting"), self._destinations.missing
        away = {each.name: each.away_seconds() for each in self._destinations.all_health() if each.away}
        away = {name: away.get(name, 0.0) for name in waited_for if name in away or name in missing}
        return {
            **self._ledger.totals(),
            "lag_seconds": 0.0 if oldest is None else max(0.0, time.time() - oldest),
            "instances_per_second": rate,
            "destinations_away": len(away),
            "destinations_away_seconds": max(away.values(), default=0.0),
        }
