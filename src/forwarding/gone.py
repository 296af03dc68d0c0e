# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was deleted here before it was delivered: a WARNING each time, and a count."""

from collections.abc import Mapping
from typing import Any

import orthanc

from common.ledger import Ledger
from forwarding.settings import ForwardingSettings

COUNT = "instances gone"  # in the table `state`


class Gone:
    """Counts the instances that were deleted here before a destination got them, over restarts too."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self._name, self._ledger = name, ledger

    @property
    def instances(self) -> int:
        """Return how many it were since the ledger began; an instance counts for each destination that did not get it."""
        return self._ledger.get_value(COUNT)

    def note(self, number: int, text: str) -> None:
        """Count instances, in the transaction that writes down what they were of, and say so."""
        with self._ledger.transaction():
            self._ledger.set_value(COUNT, self.instances + number)
        orthanc.LogWarning(f"{self._name}: {text}")


def recycling_of(configuration: Mapping[str, Any]) -> str:
    """Return the limits by which Orthanc deletes the oldest patients, or "" where it never does."""
    if configuration.get("MaximumStorageMode") == "Reject" and orthanc.CheckVersionAdvanced(1, 11, 2):
        return ""  # older ones ignore it without a word
    limits = {key: configuration.get(key) for key in ("MaximumStorageSize", "MaximumPatientCount")}
    return " and ".join(f"{key} {limit}" for key, limit in limits.items() if limit)


def about_recycling(limits: str, settings: ForwardingSettings) -> str:
    """Return what recycling means for what is not delivered."""
    if settings.protect_undelivered:
        return (
            f"Orthanc recycles the oldest patients ({limits}), except those of whom something is not delivered "
            "(ProtectUndelivered); if all are protected, it takes no more images"
        )
    return (
        f"Orthanc recycles the oldest patients ({limits}), also those of whom something is not delivered; "
        '"ProtectUndelivered": true protects them until it is'
    )
