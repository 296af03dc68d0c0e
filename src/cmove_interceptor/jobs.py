# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's jobs that send: submits them, and learns how far they are and how they ended."""

from __future__ import annotations

import contextlib
import os
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from common.loopback import Loopback, LoopbackError
from common.routes import one_line

from .move_request import Fields, MoveFailed

JOB_LOOK_SECONDS = 0.1  # between looks at a job that sends
END_EVENT_SECONDS = 5.0  # until a job that is not listed any more counts as failed, unless its end was reported
PRIORITY = 100  # of the jobs that move: a caller waits for them, for those of forwarders nobody does
ENDED_JOBS_IN_MEMORY = 1000

Destination: TypeAlias = tuple[str, Mapping[str, Any]]  # the name and the entry of one of DicomModalities


class JobEnds:
    """The ends of Orthanc's jobs, as OnChange reports them: also of those forgotten at once (`JobsHistorySize` 0)."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, bool] = OrderedDict()
        self._changed = threading.Condition()

    def end(self, job: str, *, well: bool) -> None:
        """Take the end of a job."""
        with self._changed:
            self._ended[job] = well
            while len(self._ended) > ENDED_JOBS_IN_MEMORY:
                self._ended.popitem(last=False)
            self._changed.notify_all()

    def wait(self, jobs: Sequence[str], seconds: float) -> dict[str, bool]:
        """Return those of the jobs that have ended, and whether well, as soon as there is one; none when the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: any(job in self._ended for job in jobs), seconds)
            return {job: self._ended[job] for job in jobs if job in self._ended}


class StoreJobs:
    """Lets jobs of Orthanc send, as its own C-MOVE does. `stopping` is set when Orthanc ends."""

    def __init__(self, loopback: Loopback, ends: JobEnds, configuration: Mapping[str, Any]) -> None:
        self._loopback, self._ends = loopback, ends
        self.synchronous = bool(configuration.get("SynchronousCMove", True))
        self.concurrent_jobs = int(configuration.get("ConcurrentJobs", 2)) or os.cpu_count() or 1
        self._strict = bool(configuration.get("StrictAetComparison", False))
        self.stopping = threading.Event()

    def destination(self, aet: str) -> Destination:
        """Return the name and the entry of `DicomModalities` with this AE title. Raises `MoveFailed`."""
        for name, entry in sorted(self._loopback.get("/modalities?expand").items()):
            if entry["AET"] == aet or (not self._strict and entry["AET"].lower() == aet.lower()):
                return name, entry
        raise MoveFailed(f"no modality has the AE title {one_line(aet)!r}")

    def submit(self, fields: Fields, destination: Destination, resources: Sequence[str]) -> str:
        """Let a job send resources to the destination; return its identifier."""
        name, entry = destination
        body: dict[str, Any] = {"Resources": resources, "Synchronous": False, "Permissive": False, "Priority": PRIORITY}
        if int(fields["OriginatorID"]):
            body |= {"MoveOriginatorAet": fields["OriginatorAET"], "MoveOriginatorID": int(fields["OriginatorID"])}
        if entry.get("LocalAet"):
            body["LocalAet"] = entry["LocalAet"]
        return str(self._loopback.post(f"/modalities/{urllib.parse.quote(name, safe='')}/store", body)["ID"])

    def size(self, job: str) -> int:
        """Return how many images a job sends."""
        return int(self._loopback.get(f"/jobs/{job}")["Content"]["InstancesCount"])

    def wait(self, jobs: Sequence[str], pause: float = JOB_LOOK_SECONDS) -> list[str]:
        """Return those of the jobs that have ended, as soon as there is one; after the pause all of them, to look at."""
        return list(self._ends.wait(jobs, pause)) or list(jobs)

    def look(self, job: str) -> tuple[int, bool | None, str]:
        """Return the percentage of a job that is sent, whether it ended well (None: it has not ended), and why not."""
        if self._ends.wait([job], 0).get(job):
            return 100, True, ""
        try:
            state = self._loopback.get(f"/jobs/{job}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            well = self._ends.wait([job], END_EVENT_SECONDS).get(job, False)
            return 100 * well, well, "" if well else "the job is not known any more"
        if state["State"] == "Success":
            return 100, True, ""
        failed = state["State"] in ("Failure", "Paused")
        return (
            state["Progress"],
            False if failed else None,
            state.get("ErrorDetails") or state["ErrorDescription"],
        )

    def cancel(self, *jobs: str) -> None:
        """Cancel jobs; those that are not known any more, or have ended, stay as they are."""
        for job in jobs:
            with contextlib.suppress(LoopbackError):
                self._loopback.post(f"/jobs/{job}/cancel", {})
