# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/retry.py: edit that, never this file.
"""When what failed is tried again: exponential back-off with jitter, and an end."""

import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Retry:
    """When what failed is tried again."""

    first: float = dataclasses.field(default=30, metadata={"minimum": 1, "help": "Seconds until the second attempt."})
    longest: float = dataclasses.field(
        default=3600, metadata={"minimum": 1, "help": "Most seconds between two attempts."}
    )
    give_up_hours: float = dataclasses.field(
        default=72, metadata={"minimum": 0, "help": "Hours after which it is `dead`."}
    )

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next attempt after `attempts` failed ones: doubled each time, up to half of it less."""
        return min(self.longest, self.first * 2.0 ** min(attempts - 1, 40)) * random.uniform(0.5, 1)
