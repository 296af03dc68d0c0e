# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's jobs, asked over loopback, and how they end: also those that Orthanc has forgotten (`JobsHistorySize`)."""

import enum
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from common.loopback import Loopback, LoopbackError
from common.urls import without_secrets

UNFINISHED_JOBS = ("Pending", "Running", "Paused", "Retry")  # states of a job that may still succeed
CANCELED_JOB = 37  # Orthanc's error code
END_EVENT_SECONDS = 5.0  # in which the end of a job that Orthanc has forgotten is reported, if this process was there
ENDED_JOBS_IN_MEMORY = 1000
FORGOTTEN_REASON = "the job failed, and Orthanc has forgotten why (JobsHistorySize)"


class Ending(enum.StrEnum):
    """How far a job has come. `FORGOTTEN` ended somehow: look at what it should have done, or do it again."""

    RUNNING = "running"
    SUCCESS = "Success"
    FAILURE = "Failure"
    CANCELED = "canceled"
    FORGOTTEN = "forgotten"


def get_job(loopback: Loopback, job: str) -> dict[str, Any] | None:
    """Return a job, or None if Orthanc has forgotten it. Raises `LoopbackError` if Orthanc can't answer now."""
    try:
        found: dict[str, Any] = loopback.get(f"/jobs/{job}")
    except LoopbackError as error:
        if error.status != 404:
            raise
        return None
    return found


def ending_of(job: Mapping[str, Any] | None, reported: bool | None = None) -> tuple[Ending, str]:
    """Return how a job has ended, and why it did not succeed.

    Parameters
    ----------
    job : as Orthanc shows it; None, if Orthanc has forgotten it.
    reported : whether an event has said that it ended well, or not; None, if there was no event.
    """
    if reported or (reported is None and job and job["State"] == "Success"):
        return Ending.SUCCESS, ""
    if job is None:
        return (Ending.FORGOTTEN, "") if reported is None else (Ending.FAILURE, FORGOTTEN_REASON)
    if reported is None and job["State"] in UNFINISHED_JOBS:
        return Ending.RUNNING, ""
    content = job.get("Content") or {}  # where a job of the DICOMweb plugin says why
    reasons = [each for key in ("Description", "Details") if (each := content.get(f"FunctionError{key}"))]
    why = ": ".join(reasons) or job.get("ErrorDetails") or job.get("ErrorDescription") or "the job failed"
    return Ending.CANCELED if job.get("ErrorCode") == CANCELED_JOB else Ending.FAILURE, without_secrets(str(why))


def url_of_peer(content: Mapping[str, Any]) -> str:
    """Return the URL of the peer that a job's content names, "" if it names none.

    Orthanc gives a list of URL and user; of a peer with a timeout, headers or a certificate an object.
    """
    peer = content.get("Peer") or ""
    if isinstance(peer, Mapping):
        return str(peer.get("Url", ""))
    return str(peer[0] if isinstance(peer, list) else peer)


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

    def get(self, job: str) -> bool | None:
        """Return whether a job has ended well; None: no end was reported of late."""
        with self._changed:
            return self._ended.get(job)

    def wait(self, jobs: Sequence[str], seconds: float) -> dict[str, bool]:
        """Return those of the jobs that have ended, and whether well, as soon as there is one; none when the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: any(job in self._ended for job in jobs), seconds)
            return {job: self._ended[job] for job in jobs if job in self._ended}
