# SPDX-License-Identifier: AGPL-3.0-or-later
"""When what failed is tried again: exponential back-off, for work with jitter and an end."""

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
        return doubled(self.first, self.longest, attempts) * random.uniform(0.5, 1)


class Backoff:
    """The pauses of one thread that tries one thing until it succeeds. Only one tries: without jitter.

    Parameters
    ----------
    first, longest : seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest, self._failed = first, longest, 0

    def next(self) -> float:
        """Count a try that has failed, and return the seconds until the next one: twice those of the last time."""
        self._failed += 1
        return doubled(self._first, self._longest, self._failed)

    def reset(self) -> None:
        """Begin again with the first pause: it has succeeded."""
        self._failed = 0


def doubled(first: float, longest: float, attempts: int) -> float:
    """Return the seconds after so many failed attempts: the first ones, doubled each time, up to the longest."""
    return min(longest, first * 2.0 ** min(attempts - 1, 40))
