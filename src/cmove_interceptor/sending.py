# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sends the parts of a move, and follows how many images were sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from common.loopback import LoopbackError
from common.routes import one_line

from .jobs import JOB_LOOK_SECONDS, StoreJobs
from .move import Move, Part
from .move_request import MoveFailed
from .planning import Planner
from .slots import JobSlots

FIRST_LOOK_SECONDS = 0.005  # until the first look at a job that sends
# Until what was refused beside another association is sent again: that one may still be open.
RESEND_DELAYS_SECONDS = (0.0, 0.1, 0.5, 2.0)


class Sender:
    """Sends by jobs of Orthanc, with at most so many associations at a time.

    Parameters
    ----------
    note : writes down which jobs a move has, after each that was submitted.
    """

    def __init__(
        self, jobs: StoreJobs, slots: JobSlots, planner: Planner, associations: int, note: Callable[[Move], None]
    ) -> None:
        self._jobs, self._slots, self._planner, self._associations = jobs, slots, planner, associations
        self._note = note

    def begin(self, move: Move, resources: Sequence[str]) -> None:
        """Send until the first image has arrived. Raises `MoveFailed`, `LoopbackError`."""
        move.destination = self._jobs.destination(move.fields["TargetAET"])
        if self._jobs.synchronous:
            move.parts = self._planner.parts(move.fields["Level"], resources)
        else:
            move.parts = [Part(resources, 0)]
        # Where nothing can be sent, the caller gets what Orthanc alone would say, and no second association is tried.
        self._submit(move, move.parts[0])
        move.parts[0].total = move.parts[0].total or self._jobs.size(move.jobs[0])
        move.total = sum(part.total for part in move.parts)
        self.follow(move, 1, FIRST_LOOK_SECONDS)
        self._submit_more(move)

    def follow(self, move: Move, count: int, pause: float = JOB_LOOK_SECONDS) -> None:
        """Wait until so many images are sent. Raises `MoveFailed` if they can't be."""
        if not move.parts or not self._jobs.synchronous:
            return
        while move.sent < count:
            self._submit_more(move)
            if not (running := [part for part in move.parts if part.is_running]):
                raise MoveFailed(next(part.error for part in move.parts if part.ended is False))
            seen = self._jobs.wait([part.job for part in running], pause)
            for part in (part for part in running if part.job in seen):
                if self._jobs.stopping.is_set():
                    raise MoveFailed("Orthanc is stopping")
                self._look(move, part)
            self._make_room(move, seen)
            pause = min(2 * pause, JOB_LOOK_SECONDS)

    def _look(self, move: Move, part: Part) -> None:
        percent, part.ended, part.error, part.waits = self._jobs.look(part.job)
        part.sent = part.total if part.ended else max(part.sent, least_sent(percent, part.total))
        # A destination may take one association at a time: what another got nothing through is sent after it.
        if part.ended is False and not part.sent and move.sent and part.refused < len(RESEND_DELAYS_SECONDS):
            part.job, part.ended, part.refused, move.one_by_one = "", None, part.refused + 1, True

    def _make_room(self, move: Move, seen: Sequence[str]) -> None:
        """Let other jobs make room for those of a move that wait, but for the one more that `_submit_more` lets wait.

        Where one has just ended, `seen` are not those that waited before: they have its place.
        """
        running = [part for part in move.parts if part.is_running]
        waiting = [part for part in running if part.waits and part.job in seen]
        for part in waiting[: max(0, self._associations - len(running) + len(waiting))]:
            self._slots.make_room(part.job)

    def _submit_more(self, move: Move) -> None:
        """Begin as many parts as may run, unless one has failed.

        Where Orthanc itself runs no more jobs at a time, one more waits there: else a job that nobody waits for would take the
        place of each part that ends.
        """
        if any(part.ended is False for part in move.parts):
            return
        one_waits = self._jobs.concurrent_jobs <= self._associations
        most = 1 if move.one_by_one or not move.sent else self._associations + one_waits
        for part in move.parts:
            if not part.job and sum(other.is_running for other in move.parts) < most:
                if part.refused:
                    self._jobs.stopping.wait(RESEND_DELAYS_SECONDS[part.refused - 1])
                try:
                    self._submit(move, part)
                except (MoveFailed, LoopbackError) as error:  # an image is gone, or the modality
                    part.ended, part.error = False, f"some of it can't be sent, was it deleted? {one_line(error)}"
                    return

    def _submit(self, move: Move, part: Part) -> None:
        part.job = self._jobs.submit(move.fields, move.destination, part.resources)
        self._note(move)


def least_sent(percent: int, total: int) -> int:
    """Return the least number of images of which Orthanc, rounding, says that so many percent are sent.

    Up to 100 images it is the very number.
    """
    return math.ceil((percent - 0.5) * total / 100)
