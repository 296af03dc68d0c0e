# SPDX-License-Identifier: AGPL-3.0-or-later
"""When what failed is tried again: exponential back-off with jitter, and an end."""

import dataclasses
from typing import Protocol

from common.backoff import Backoff


class RetryPolicy(Protocol):
    """What decides when work that failed is tried again, and for how long: a section `Retry`, or the like."""

    @property
    def give_up_hours(self) -> float:
        """Hours after which it is given up."""

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next attempt after so many that failed."""


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
        return Backoff(self.first, self.longest).delay(attempts)
