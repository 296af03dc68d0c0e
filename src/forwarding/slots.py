# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many jobs a destination may have in Orthanc: no more than its bound lets run, and a slot is left for the others."""

import dataclasses

from forwarding.destinations import Destination

# Jobs more than run at a time, for all destinations together: no slot is empty until the end of a short job is known here.
# Orthanc starts all that `ConcurrentJobs` lets run, whatever their destination.
JOBS_SUBMITTED_AHEAD = 3
SHORT_JOB_SECONDS = 1.0  # up to which a destination gets jobs ahead; after a longer job an empty slot is no loss
LONG_JOB_SECONDS = 10.0  # from which on a destination may not have all slots: what comes for another would wait so long


@dataclasses.dataclass(frozen=True)
class Slots:
    """Orthanc's job slots.

    Attributes
    ----------
    concurrent : how many there are (`ConcurrentJobs`).
    sharing : the number of destinations for which something is sent, or could be.
    is_shared : there is more than one destination, also if only one has work now.
    """

    concurrent: int
    sharing: int
    is_shared: bool

    def jobs_of(self, health: Destination, bound: int | None) -> int:
        """Return how many jobs a destination may have in Orthanc at a time, at most `bound` (`MaxJobs`, `MaxPerDestination`)."""
        if health.is_doubtful:
            return 1  # it may hold its slot until a timeout, again and again
        if self.is_shared and health.seconds_of_job >= LONG_JOB_SECONDS:
            jobs = max(1, min(self.concurrent // self.sharing, self.concurrent - 1))
        else:
            is_short = not self.is_shared or health.seconds_of_job < SHORT_JOB_SECONDS
            ahead = JOBS_SUBMITTED_AHEAD if is_short else 0
            jobs = -(-(self.concurrent + ahead) // self.sharing)  # rounded up
        return jobs if bound is None or bound >= self.concurrent else min(bound, jobs)
