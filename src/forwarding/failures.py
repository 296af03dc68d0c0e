# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a failed job of Orthanc says of what it has sent, and of why it failed."""

import re
from collections.abc import Mapping
from typing import Any

from forwarding.uids import shown_uid

# "Duplicate SOP Instance" (PS3.7 C.5.7). 1.12.7 and later count it as success themselves.
DUPLICATE = "DIMSE status 0x0111"
REJECTED = "Association Rejected"
NOT_SUPPORTED = "DIMSE status 0x0122"  # "SOP class not supported" (PS3.7 C.5.6)
NOT_NEGOTIATED = (
    "No valid presentation context was negotiated"  # for an image that is sent alone, in its own syntax only
)
# What Orthanc says where a node accepts no presentation context for an image: 1.10.1 says "to one of [ ]" of a SOP class, too.
NOT_ACCEPTED = re.compile(
    rf"Cannot transcode .*to one of \[(.*?)\]|has not accepted any TransferSyntax|{NOT_SUPPORTED}|{NOT_NEGOTIATED}"
)
TOLD_EXACTLY = 100  # instances of a job up to which its progress, in whole per cent, says which one failed


def was_out_of_reach(why: str) -> bool:
    """Return whether a job failed before anything was sent: then the destination has nothing against the content.

    DCMTK says "Peer aborted Association (or never connected)" of a peer that breaks off in the middle, too. Of a password that
    is wrong Orthanc says "Bad credentials".
    """
    return any(word in why.lower().replace("(or never connected)", "") for word in ("connect", "bad credentials"))


def is_duplicate(why: str) -> bool:
    """Return whether a node refused an instance because it has it already."""
    return DUPLICATE in why


def is_rejected(why: str) -> bool:
    """Return whether a node rejected the association of a job (A-ASSOCIATE-RJ; Orthanc does not say for which reason)."""
    return REJECTED in why


def is_not_accepted(why: str) -> bool:
    """Return whether a node can't take an image: it accepts neither its SOP class nor a transfer syntax that Orthanc can make."""
    return NOT_ACCEPTED.search(why) is not None


def explain_not_accepted(name: str, sop_class: str, syntax: str, why: str) -> str:
    """Return what a node can't take, in DICOM's words, from what was asked for and what Orthanc says."""
    asked = f"{shown_uid(sop_class)} in {shown_uid(syntax) or 'an unknown transfer syntax'}"
    if NOT_SUPPORTED in why:
        return f"{name} does not support the SOP class of {asked} (0x0122)"
    if NOT_NEGOTIATED in why:
        return (
            f"{name} accepts no presentation context for {asked}; an image that is changed on the way is sent in this transfer "
            "syntax only (Transcode of the rule's Modify chooses another)"
        )
    found = NOT_ACCEPTED.search(why)
    if found and (accepted := (found[1] or "").split()):
        only = ", ".join(map(shown_uid, accepted))
        return f"{name} accepts no presentation context for {asked}, only for {only}, which Orthanc can't make of it"
    return f"{name} accepts no presentation context for the SOP class of {asked}"


def sent_before_failure(job: Mapping[str, Any] | None, number: int) -> tuple[int, int]:
    """Return how many instances a failed job has sent well, at least and at most, of `number`, in the order it was given.

    Orthanc rounds its progress to the nearest per cent. Nothing is known of a job that Orthanc has forgotten, nor of one that
    was not given all (some were deleted).
    """
    if job is None or job.get("Content", {}).get("InstancesCount") != number:
        return 0, number
    twice = 2 * int(job.get("Progress", 0))
    return max(0, -(-number * (twice - 1) // 200)), min(number - 1, number * (twice + 1) // 200)
