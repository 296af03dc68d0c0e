# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notices a destination whose answers come 40 ms late, each one: TCP's delayed acknowledgement, which a setting ends.

Its answer is written in two parts (DCMTK does so without TCP_NODELAY). The second waits until the first is acknowledged, which
our kernel delays by 40 ms. So each image takes that long, whatever its size, and so does a C-ECHO. A node that needs the time
for each image answers a C-ECHO sooner; over a long way, where each answer takes 40 ms, a C-ECHO takes several times as long.
"""

import threading
import time

import orthanc

from common.jobs import get_job
from forwarding.context import Context
from forwarding.whole_series import count_of

DELAYED_ECHO_SECONDS = (0.038, 0.050)  # measured: 0.044; with TCP_NODELAY 0.002
# Measured: 0.044, and up to 0.14 for the job that has waited for others (Orthanc counts that); then a C-ECHO decides.
DELAYED_IMAGE_SECONDS = (0.038, 0.200)
FEWEST_IMAGES = 10  # of a job that says something: its association takes time too
JOBS_UNTIL_ECHO = 3  # with that pace, and none that was quicker
ECHOES = 10  # the fastest counts: a busy node answers one of them soon, a delayed acknowledgement none


class Pace:
    """The pace of one destination's jobs. `slow` says what is wrong with it, as long as it is."""

    def __init__(self, context: Context, name: str) -> None:
        self.slow: str | None = None
        self._context, self._name = context, name
        self._number, self._needed, self._is_said = 0, JOBS_UNTIL_ECHO, False
        self._thread = threading.Thread()

    def note_job(self, job: str, seconds: float) -> None:
        """Take a job that has succeeded so long after it was submitted; it may have waited for others first."""
        is_quick = seconds < FEWEST_IMAGES * DELAYED_IMAGE_SECONDS[0]
        if is_quick and not self._number and not self.slow:
            return  # without a question to Orthanc
        found = get_job(self._context.loopback, job)
        if found is None or count_of(found) < FEWEST_IMAGES:
            return
        for_each = float(found.get("EffectiveRuntime", 0)) / count_of(found)
        if for_each < DELAYED_IMAGE_SECONDS[0]:
            self._number, self.slow = 0, None
        elif for_each <= DELAYED_IMAGE_SECONDS[1]:
            self._number += 1
        if self._number >= self._needed and not self.slow and not self._thread.is_alive():
            self._thread = threading.Thread(target=self._ask, name=f"times {self._name}", daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        self._number, self._needed = 0, 2 * self._needed  # if it is not that, it is asked ever more rarely
        try:
            fastest = min(self._time_echo() for _ in range(ECHOES))
        except Exception:  # noqa: BLE001 - it knows no C-ECHO, or is away: then nothing is said
            return
        if DELAYED_ECHO_SECONDS[0] <= fastest <= DELAYED_ECHO_SECONDS[1]:
            self.slow = (
                f"{self._name} answers each image 40 ms late, and a C-ECHO too: {self._context.transport.if_delayed}"
            )
            if not self._is_said and not self._context.stopping.is_set():
                self._is_said = True
                orthanc.LogWarning(f"{self._context.name}: {self.slow}")

    def _time_echo(self) -> float:
        begin = time.perf_counter()
        self._context.transport.probe(self._context.loopback, self._name)
        return time.perf_counter() - begin


class Paces:
    """The paces of all destinations."""

    def __init__(self, context: Context) -> None:
        self._context, self._by_name = context, dict[str, Pace]()

    def note_job(self, destination: str, job: str, seconds: float) -> None:
        """Take a job that has succeeded so long after it was submitted."""
        if self._context.transport.if_delayed:
            self._by_name.setdefault(destination, Pace(self._context, destination)).note_job(job, seconds)

    def slow_of(self, destination: str) -> str | None:
        """Return what is wrong with the pace of a destination, and what to do; None: nothing."""
        pace = self._by_name.get(destination)
        return pace.slow if pace else None
