# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a forwarder adds to Orthanc's metrics (`/tools/metrics-prometheus`)."""

import time
from typing import Any

import orthanc

from common.ledger import Ledger
from common.times import utc_or_none
from common.work import Work
from forwarding.tasks import DELETE


class Metrics:
    """Rows by state, age of the oldest unfinished one, instances a second.

    Of a resource that a person sent whole, how many instances it had is not known here: it counts as one.
    """

    def __init__(self, name: str, ledger: Ledger) -> None:
        self._name, self._ledger, self._work = name.replace("-", "_"), ledger, Work(ledger)
        self._delivered, self._since = 0, time.monotonic()
        self._since_start = {"Deliveries": 0, "Instances": 0}

    def add_delivered(self, instances: int) -> None:
        """Count a delivery and the instances in it, that a destination has got."""
        self._delivered += instances
        self._since_start["Deliveries"] += 1
        self._since_start["Instances"] += instances

    def flow(self) -> dict[str, Any]:
        """Return what was delivered since the start, and since when the oldest waits that is neither delivered nor given up."""
        return {"Delivered": {**self._since_start}, "WaitingSince": utc_or_none(self._work.oldest_unfinished(DELETE))}

    def report(self) -> None:
        """Set all metrics, and count from now on."""
        for state, number in self._ledger.totals().items():
            self._set(state, float(number))
        oldest = self._work.oldest_unfinished(DELETE)
        self._set("lag_seconds", 0.0 if oldest is None else max(0.0, time.time() - oldest))
        self._set("instances_per_second", self._delivered / max(0.001, time.monotonic() - self._since))
        self._delivered, self._since = 0, time.monotonic()

    def _set(self, what: str, value: float) -> None:
        orthanc.SetMetricsValue(f"{self._name}_{what}", value, orthanc.MetricsType.DEFAULT)
