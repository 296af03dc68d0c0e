# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's jobs that send: submits them, and learns how far they are and how they ended."""

from __future__ import annotations

import contextlib
import os
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from common.aets import AeTitles
from common.jobs import END_EVENT_SECONDS, Ending, JobEnds, ending_of, get_job
from common.loopback import Loopback, LoopbackError
from common.routes import one_line

from .move_request import Fields, MoveFailed
from .slots import PRIORITY

JOB_LOOK_SECONDS = 0.1  # between looks at a job that sends

Destination: TypeAlias = tuple[str, Mapping[str, Any]]  # the name and the entry of one of DicomModalities


class Look(NamedTuple):
    """How far a job is: per cent sent; whether it ended well (None: it has not), why not; whether it waits for its place."""

    percent: int
    ended: bool | None
    error: str = ""
    waits: bool = False


class StoreJobs:
    """Lets jobs of Orthanc send, as its own C-MOVE does. `stopping` is set when Orthanc ends."""

    def __init__(self, loopback: Loopback, ends: JobEnds, configuration: Mapping[str, Any]) -> None:
        self._loopback, self._ends = loopback, ends
        self.synchronous = bool(configuration.get("SynchronousCMove", True))
        self.concurrent_jobs = int(configuration.get("ConcurrentJobs", 2)) or os.cpu_count() or 1
        self._aets = AeTitles(configuration)
        self.stopping = threading.Event()

    def destination(self, aet: str) -> Destination:
        """Return the name and the entry of `DicomModalities` with this AE title. Raises `MoveFailed`."""
        for name, entry in sorted(self._loopback.get("/modalities?expand").items()):
            if self._aets.same(entry["AET"], aet):
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

    def look(self, job: str) -> Look:
        """Return how far a job is."""
        if self._ends.get(job):
            return Look(100, True)
        if (state := get_job(self._loopback, job)) is None:
            # The caller waits: what did not report its end is a failure to it, and it asks again.
            well = self._ends.wait([job], END_EVENT_SECONDS).get(job, False)
            return Look(100 * well, well, "" if well else "the job is not known any more")
        ending, why = ending_of(state)
        if ending is Ending.SUCCESS:
            return Look(100, True)
        if ending is Ending.RUNNING and state["State"] != "Paused":
            return Look(state["Progress"], None, waits=state["State"] == "Pending")
        return Look(state["Progress"], False, why or state["ErrorDescription"])

    def cancel(self, *jobs: str) -> None:
        """Cancel jobs; those that are not known any more, or have ended, stay as they are."""
        for job in jobs:
            with contextlib.suppress(LoopbackError):
                self._loopback.post(f"/jobs/{job}/cancel", {})
