# SPDX-License-Identifier: AGPL-3.0-or-later
"""Jobs as Orthanc shows them in a callback, and how they ended."""

import json
from collections.abc import Mapping
from typing import Any

import orthanc

CANCELED_JOB, INTERNAL_ERROR = 37, -1  # Orthanc's error codes; -1 is what a store job says that misses an instance


def read_job(job: str) -> dict[str, Any] | None:
    """Return a job, in a callback; None if Orthanc has forgotten it."""
    try:
        found: dict[str, Any] = json.loads(orthanc.RestApiGet(f"/jobs/{job}"))
    except orthanc.OrthancException:
        return None
    return found


def ending(job: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return state and error of a job that did not succeed; None is one that Orthanc has forgotten."""
    if job is None:
        return "Failure", "the job failed, and Orthanc has forgotten why (JobsHistorySize)"
    if job["ErrorCode"] == CANCELED_JOB:
        return "canceled", "it was canceled"
    return "Failure", job.get("ErrorDetails") or job.get("ErrorDescription") or "the job failed"
