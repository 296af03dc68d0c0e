# SPDX-License-Identifier: AGPL-3.0-or-later
"""When what failed is tried again: exponential back-off with jitter, and an end."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Protocol

from common.backoff import Backoff

FIRST_DELAY_SECONDS = 30.0  # until the second attempt
LONGEST_DELAY_SECONDS = 3600.0  # between two attempts


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

    REMOVED: ClassVar[Mapping[str, str]] = {
        "First": "the script decides that itself now (it tries again after 30 s, then after twice as long each time)",
        "Longest": "the script decides that itself now (an hour)",
    }
    first: ClassVar[float] = FIRST_DELAY_SECONDS
    longest: ClassVar[float] = LONGEST_DELAY_SECONDS

    give_up_hours: float = dataclasses.field(
        default=72,
        metadata={
            "minimum": 0,
            "help": (
                "Hours for which it is tried again; then it is `dead` until a person retries it. Choose more "
                "than the longest outage that you expect."
            ),
        },
    )

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next attempt after `attempts` failed ones: doubled each time, up to half of it less."""
        return Backoff(self.first, self.longest).delay(attempts)
