# SPDX-License-Identifier: AGPL-3.0-or-later
"""Proof that a DICOM node has instances: by Storage Commitment, by C-FIND, or by both."""

import functools
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from common.aets import ANY_CASE
from common.loopback import Loopback, LoopbackError
from forwarding.patient_proof import is_this_machine, proved_by_patient

# How a node proves what it has; the first one is the default.
NODE_PROOFS = ("StorageCommitment", "C-FIND", "StorageCommitmentOnly")
COMMITTED_WITHIN = 3600.0  # seconds in which a node has to report what it committed itself to


def proved_by_node(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], asked: dict[str, Any], proof: str
) -> set[str] | None:
    """Return which instances a node has, of these patients; None: it has not reported yet.

    Storage Commitment (DICOM PS3.4 J) names no patient: a node that has the same UIDs under another one, and has dropped what
    it was sent, commits itself all the same. So C-FIND is asked too, unless `proof` is "StorageCommitmentOnly".
    """
    ours = raise_if_here(loopback, name)
    if proof == "C-FIND":
        return found_by_patient(loopback, name, instances, ours)
    committed = committed_to(loopback, name, instances, asked)
    if committed is None or proof == "StorageCommitmentOnly":
        return committed
    try:
        return committed & found_by_patient(loopback, name, instances, ours)
    except LoopbackError as error:
        if error.status == 0:
            raise
        raise ValueError(
            f"{name} can't be asked by C-FIND of which patient it has what it committed to: {error}"
        ) from error


def raise_if_here(loopback: Loopback, name: str) -> str:
    """Return our own AE title. Raises ValueError if a node leads back to this server, which has all that it was sent."""
    system, node = loopback.get("/system"), loopback.get("/modalities?expand").get(name)
    if node is None:
        raise ValueError(f"Orthanc does not know {name}")
    if ANY_CASE.same(node["AET"], system["DicomAet"]):
        raise ValueError(
            f"{name} has the AE title of this server, {node['AET']}, so what it says may be said by this one"
        )
    if int(node["Port"]) == system["DicomPort"] and is_this_machine(node["Host"]):
        raise ValueError(f"{name} leads back to this server ({node['Host']}:{node['Port']})")
    return str(system["DicomAet"])


def committed_to(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], asked: dict[str, Any]
) -> set[str] | None:
    """Return the instances whose SOP Instance UIDs a node has committed itself to; None: it has not reported yet."""
    by_uid = {one["MainDicomTags"].get("SOPInstanceUID"): key for key, one in instances.items()}
    if name not in asked:
        path = f"/modalities/{urllib.parse.quote(name, safe='')}/storage-commitment"
        asked[name] = [loopback.post(path, {"Resources": [*instances]})["ID"], time.time()]
        return None
    transaction, since = asked[name]
    _raise_if_asked_here(loopback, name, transaction)
    try:
        report = loopback.get(f"/storage-commitment/{transaction}")
    except LoopbackError as error:
        if error.status != 404:
            raise
        del asked[name]  # Orthanc keeps them in memory, and a hundred at most: ask again
        return None
    if report["Status"] == "Pending" and abs(time.time() - since) < COMMITTED_WITHIN:
        return None
    if report["Status"] == "Pending":
        raise ValueError(f"{name} has sent no report of storage commitment within {COMMITTED_WITHIN:g} s")
    return {by_uid[one["SOPInstanceUID"]] for one in report["Success"] if one["SOPInstanceUID"] in by_uid}


def _raise_if_asked_here(loopback: Loopback, name: str, transaction: str) -> None:
    """Raise ValueError if it is this server that was asked to commit itself, as through a port forward: it has a job of it."""
    for job in loopback.get("/jobs?expand"):
        if job.get("Type") == "StorageCommitmentScp" and job["Content"].get("TransactionUid") == transaction:
            raise ValueError(f"{name} leads back to this server, which was asked itself to commit to what it has")


def found_by_patient(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], ours: str = ""
) -> set[str]:
    """Return which of these instances a node says it has, in their series, their study and of their patient.

    `ours` is the AE title of this server: what can be retrieved from here is no proof.

    Raises
    ------
    ValueError : it has some of another patient, or does not say of which; or it means those that this server has.
    """
    return proved_by_patient(loopback, name, instances, functools.partial(find, loopback, name), ours)


def find(loopback: Loopback, name: str, level: str, query: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what a node answers to C-FIND."""
    path = f"/modalities/{urllib.parse.quote(name, safe='')}/query"
    number = loopback.post(path, {"Level": level, "Query": dict(query)})["ID"]
    try:
        answers: list[dict[str, str]] = loopback.get(f"/queries/{number}/answers?expand&simplify")
    finally:
        loopback.request("DELETE", f"/queries/{number}")
    return answers
