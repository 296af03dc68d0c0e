# SPDX-License-Identifier: AGPL-3.0-or-later
"""Exponential back-off with jitter."""

import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Backoff:
    """How long to wait after a failure: `first` seconds, then twice as long each time, up to `longest`."""

    first: float
    longest: float

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next attempt after `attempts` failed ones, by chance up to half of them less."""
        return min(self.longest, self.first * 2.0 ** min(attempts - 1, 40)) * random.uniform(0.5, 1)
