# SPDX-License-Identifier: AGPL-3.0-or-later
"""What differs between the ways to send: to DICOM nodes, to peers, and to DICOMweb servers."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from common.loopback import Loopback

# Of a destination, and instances as `/tools/bulk-content` gives them, by identifier: which of them it has now; None: not
# known yet. What was asked may be noted in the dictionary. Raises ValueError, OSError or LoopbackError where it can't know.
Prove = Callable[[str, Mapping[str, Mapping[str, Any]], dict[str, Any]], set[str] | None]
# Of a destination, identifiers of instances, and of series and studies that are wholly among them: which instances it has.
# Raises anything where it can't know.
Has = Callable[[str, Collection[str], Collection[str]], set[str]]


@dataclasses.dataclass(frozen=True)
class Transport:
    """What differs between DICOM nodes, peers and DICOMweb servers."""

    route: str
    """Orthanc's: "modalities", "peers", or the one of the DICOMweb plugin."""
    changed: str | None
    """The name of the event that says that they changed; None: no event does, and they are asked for now and then."""
    job_type: str
    is_for: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    """Return whether a job's content names this destination."""
    came_from: Callable[[Mapping[str, str], Mapping[str, Any]], bool]
    """Return whether an instance came from this destination."""
    probe: Callable[[Loopback, str], Any]
    """Raise unless the destination answers."""
    prove: Callable[[Loopback, str, Mapping[str, Mapping[str, Any]], dict[str, Any]], set[str] | None]
    """Return which instances a destination has, as `Prove`."""
    check: Callable[[str], None] | None = None
    """Raise MisconfiguredError if what answers there is something else."""
    has: Has | None = None
    """For the option Verify: return which instances it has."""
    if_delayed: str = ""
    """What is said of a destination whose answers TCP delays (`Pace`); empty: that is not looked at."""
    asks_after_failure: bool = False
    """A job that failed does not say what has arrived all the same: `has` does."""
    verb: str = "store"
    """Of Orthanc's call that submits a job: `/{route}/{name}/{verb}`."""
    largest_request: int | None = None
    """Bytes of instances in one job, unless one alone has more; None: any number."""
    deliver: Callable[[Loopback, str, bytes], Any] | None = None
    """Send one image, given as its file, to a destination: what is changed on the way. Raise LoopbackError, OSError or ValueError
    unless it has it. None: nothing can be changed on the way."""
    missing: Callable[[Loopback], str | None] | None = None
    """Return why nothing can be sent in this way from here at all, or None."""
