# SPDX-License-Identifier: AGPL-3.0-or-later
"""The promise that an event is on disk until its handlers have ended without an error."""

from __future__ import annotations

import dataclasses
import re

from common.backoff import Backoff


@dataclasses.dataclass(frozen=True)
class AtLeastOnce:
    """How events are kept until each of their handlers has ended without an error.

    What Orthanc lists in /changes (new, stable, updated) is read from there, so that a killed server misses nothing; jobs
    and deletions are kept from the moment they reach the script. Events of one resource stay in order, for each handler.

    Parameters
    ----------
    name : of the ledger, NAME.sqlite; each script has one of its own.
    first, longest : seconds until a handler that failed is tried again, and most seconds between two tries.
    give_up_hours : after which its event is given up (`Dispatcher.retry_dead`).
    under_way : events of one handler that are handed to the executor at a time.
    reconcile : False: /changes is not read: with several Orthancs on one database it lists what happens in all of them.
    folder : of the ledger, instead of `Scripts.StatePath`, or that of the index.
    durability : "full": the ledger also survives the loss of power.
    """

    name: str
    first: float = 10.0
    longest: float = 3600.0
    give_up_hours: float = 72.0
    under_way: int = 100
    reconcile: bool = True
    folder: str | None = None
    durability: str = "normal"

    def delay(self, attempts: int) -> float:
        """Return the seconds until a handler is tried again that has failed so often."""
        return Backoff(self.first, self.longest).delay(attempts)

    def check(self) -> None:
        """Raise ValueError for a name or a durability that can't be."""
        if self.durability not in ("normal", "full"):
            raise ValueError(f"AtLeastOnce.durability: found {self.durability!r}, allowed: normal, full")
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"at_least_once: found {self.name!r}, allowed: letters, digits, _ and -")
