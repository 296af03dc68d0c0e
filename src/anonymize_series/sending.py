# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sending copies to where a recipe says: as jobs of Orthanc's, which are looked at until they end."""

import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orthanc

from anonymize_series.archive import Archive
from anonymize_series.attempts import Attempts
from anonymize_series.patient_register import Register
from anonymize_series.settings import NAME, Recipe
from common.jobs import END_EVENT_SECONDS, UNFINISHED_JOBS, Ending, JobEnds, ending_of, get_job, url_of_peer
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.urls import without_secrets
from common.work import Which, Work
from forwarding.peers import Peers

# Where the destinations are listed, what tells them apart in a job, and the type of the job.
PEER_JOBS, MODALITY_JOBS = ("peers", "Url", "OrthancPeerStore"), ("modalities", "AET", "DicomModalityStore")


class Sending:
    """Submits copies, and ends the rows whose job has ended.

    Parameters
    ----------
    servers : the route of the servers of Orthanc's DICOMweb plugin.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        loopback: Loopback,
        peers: Peers,
        ledger: Ledger,
        register: Register,
        attempts: Attempts,
        ends: JobEnds,
        servers: str,
    ) -> None:
        self._recipes, self._loopback, self._peers = recipes, loopback, peers
        self._ledger, self._register, self._attempts, self._ends = ledger, register, attempts, ends
        self._servers = servers
        self._work, self._archive = Work(ledger), Archive(loopback)
        self._forgotten: dict[str, float] = {}  # since when (monotonic) Orthanc does not know a job any more

    def submit(self, row: Mapping[str, Any], data: Mapping[str, Any], recipe: Recipe) -> None:
        """Submit the copies of a row to where the recipe says; a row without any, or a recipe that says nothing, is done."""
        route = store_route(recipe, self._servers)
        if not data["Copies"] or route is None:
            self._ledger.end(row["id"], "done")
            return
        if recipe.peer is not None:
            why = self._peers.why_not(recipe.peer)
            self._attempts.go_on()
            if why:  # to Orthanc, any answer would be a success
                self._attempts.fail(row, why)
                return
        if row["attempts"] > 1 and (lost := self._lost_job(recipe, data["Copies"])):
            self._work.change(row["id"], job=lost)
            return
        try:
            job = self._loopback.post(route, {"Resources": data["Copies"], "Synchronous": False})
        except LoopbackError as error:
            if error.status == 404:
                # A copy was deleted, or there is no such destination: make the copies again.
                self._work.change(row["id"], data={key: value for key, value in data.items() if key != "Copies"})
            raise
        self._work.change(row["id"], job=job.get("ID") or Path(job["Path"]).name)

    def _lost_job(self, recipe: Recipe, copies: Sequence[str]) -> str | None:
        """Return the unfinished job that sends these copies there, and whose row does not know it.

        Orthanc was killed, or did not answer, before the row was written; it goes on with such jobs after a restart. A job does
        not name its destination: it has the AE title or the URL, which only this one may have. Jobs of the DICOMweb plugin end
        with the process.
        """
        if recipe.stow is not None:
            return None
        kind, key, job_type = PEER_JOBS if recipe.peer is not None else MODALITY_JOBS
        known = self._loopback.get(f"/{kind}?expand")
        taken = {row["job"] for row in self._work.find(Which(states=("sending",)))}
        for job in self._loopback.get("/jobs?expand"):
            content = job.get("Content") or {}
            address = url_of_peer(content) if recipe.peer is not None else content.get("RemoteAet")
            if (
                job["Type"] == job_type
                and job["State"] in UNFINISHED_JOBS
                and job["ID"] not in taken
                and sorted(content.get("ParentResources", ())) == sorted(copies)
                and [name for name, entry in known.items() if entry[key] == address] == [recipe.peer or recipe.modality]
            ):
                return str(job["ID"])
        return None

    def look_at_jobs(self) -> None:
        """End the rows whose job has ended."""
        for row in self._work.find(Which(states=("sending",))):
            if row["job"] is None:
                continue
            data, reported = json.loads(row["data"]), self._ends.get(row["job"])
            job = get_job(self._loopback, row["job"])  # after that: what has ended is shown as it ended
            ending, why = ending_of(job, reported)
            if ending is Ending.RUNNING:
                continue
            if ending is Ending.FORGOTTEN:
                self._on_forgotten(row, data)
                continue
            if job and job["State"] not in UNFINISHED_JOBS:
                why = why_not_all(job, data["Copies"])
            if why:
                self._attempts.fail(row, f"the job of sending failed: {why}")
            else:
                self._on_arrived(row, data)

    def _on_forgotten(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Look for what a job should have sent that ended somehow; send it again if it is not known to be there.

        Twice is harmless: it has the same identifiers.
        """
        since = self._forgotten.setdefault(row["job"], time.monotonic())
        if time.monotonic() - since < END_EVENT_SECONDS:
            return  # its end may still be reported
        self._forgotten.pop(row["job"])
        label = f"{NAME}: Orthanc has forgotten how job {row['job']} ended (JobsHistorySize)"
        if self._all_there(self._recipes.get(row["queue"], Recipe()), data["Copies"]):
            orthanc.LogInfo(f"{label}; {row['queue']} has what it was to send")
            self._on_arrived(row, data)
        else:
            orthanc.LogInfo(f"{label}; what it was to send is sent again")
            self._work.wait_again(row["id"])

    def _all_there(self, recipe: Recipe, copies: Sequence[str]) -> bool:
        """Return whether the destination says that it has these copies, in files of its own; only a peer can be asked."""
        if recipe.peer is None:
            return False
        found = self._loopback.post("/tools/bulk-content", {"Resources": list(copies), "Metadata": True})
        here = {each["ID"]: each for each in found}
        try:
            return here.keys() == set(copies) == self._peers.copies_of(recipe.peer, here)
        except (LoopbackError, ValueError, OSError, http.client.HTTPException) as error:
            if isinstance(error, LoopbackError) and error.status == 0:
                raise
            return False

    def _on_arrived(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        if self._recipes.get(row["queue"], Recipe()).delete_copy:
            for instance in data["Copies"]:
                # Never anything but a copy that the register knows.
                if self._register.is_copy(instance):
                    self._ledger.check()  # what can't be recorded is not done
                    self._archive.delete(instance)
        self._ledger.end(row["id"], "done")


def why_not_all(job: Mapping[str, Any], copies: Sequence[str]) -> str:
    """Return why a job that has ended has not delivered all copies, or "" if it has.

    The DICOMweb plugin reads what a STOW-RS answer lists (PS3.18 10.5.3): unless ReferencedSOPSequence has as many items as
    were sent and FailedSOPSequence none, its job fails, and only its content says why.
    """
    content = job.get("Content") or {}
    if job["State"] != "Success":
        reasons = (content.get("FunctionErrorDetails"), job.get("ErrorDetails"), job.get("ErrorDescription"))
        return without_secrets(str(next((reason for reason in reasons if reason), job["State"])))
    sent, failed = int(content.get("InstancesCount", len(copies))), int(content.get("FailedInstancesCount", 0))
    if sent - failed < len(set(copies)):
        return f"it sent {sent - failed} of {len(set(copies))} copies"
    return ""


def store_route(recipe: Recipe, servers: str) -> str | None:
    """Return the route that sends copies to where a recipe says; None if they stay here."""
    for route, name, verb in (
        ("modalities", recipe.modality, "store"),
        ("peers", recipe.peer, "store"),
        (servers, recipe.stow, "stow"),
    ):
        if name is not None:
            return f"/{route}/{urllib.parse.quote(name, safe='')}/{verb}"
    return None
