# SPDX-License-Identifier: AGPL-3.0-or-later
"""Jobs as Orthanc shows them in a callback, and how they ended."""

import json
from collections.abc import Mapping
from typing import Any

import orthanc

from common.jobs import Ending, ending_of

INTERNAL_ERROR = -1  # Orthanc's error code that a store job gives which misses an instance


def read_job(job: str) -> dict[str, Any] | None:
    """Return a job, in a callback; None if Orthanc has forgotten it."""
    try:
        found: dict[str, Any] = json.loads(orthanc.RestApiGet(f"/jobs/{job}"))
    except orthanc.OrthancException:
        return None
    return found


def ending_of_failed(job: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return state and error of a job that did not succeed; None is one that Orthanc has forgotten."""
    ending, why = ending_of(job, reported=False)
    return ending, "it was canceled" if ending is Ending.CANCELED else why
