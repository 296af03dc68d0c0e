# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sending copies to where a recipe says: as jobs of Orthanc's, which are looked at until they end."""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anonymize_series.archive import Archive
from anonymize_series.attempts import Attempts
from anonymize_series.patient_register import Register
from anonymize_series.settings import Recipe
from common.jobs import UNFINISHED_JOBS, get_job
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.work import Which, Work
from forwarding.peers import Peers

FORGOTTEN_JOB = {"State": "Failure", "ErrorDescription": "Orthanc has forgotten the job"}


class Sending:
    """Submits copies, and ends the rows whose job has ended."""

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        loopback: Loopback,
        peers: Peers,
        ledger: Ledger,
        register: Register,
        attempts: Attempts,
    ) -> None:
        self._recipes, self._loopback, self._peers = recipes, loopback, peers
        self._ledger, self._register, self._attempts = ledger, register, attempts
        self._work, self._archive = Work(ledger), Archive(loopback)

    def submit(self, row: Mapping[str, Any], data: Mapping[str, Any], recipe: Recipe) -> None:
        """Submit the copies of a row to where the recipe says; a row without any, or a recipe that says nothing, is done."""
        route = store_route(recipe)
        if not data["Copies"] or route is None:
            self._ledger.end(row["id"], "done")
            return
        if recipe.peer is not None:
            why = self._peers.why_not(recipe.peer)
            self._attempts.go_on()
            if why:  # to Orthanc, any answer would be a success
                self._attempts.fail(row, why)
                return
        try:
            job = self._loopback.post(route, {"Resources": data["Copies"], "Synchronous": False})
        except LoopbackError as error:
            if error.status == 404:
                # A copy was deleted, or there is no such destination: make the copies again.
                self._work.change(row["id"], data={key: value for key, value in data.items() if key != "Copies"})
            raise
        self._work.change(row["id"], job=job.get("ID") or Path(job["Path"]).name)

    def look_at_jobs(self) -> None:
        """End the rows whose job has ended."""
        for row in self._work.find(Which(states=("sending",))):
            if row["job"] is None:
                continue
            data, job = json.loads(row["data"]), get_job(self._loopback, row["job"]) or FORGOTTEN_JOB
            if job["State"] in UNFINISHED_JOBS:
                continue
            if why := why_not_all(job, data["Copies"]):
                self._attempts.fail(row, f"the job of sending failed: {why}")
            else:
                self._on_arrived(row, data)

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
        return str(next((reason for reason in reasons if reason), job["State"]))
    sent, failed = int(content.get("InstancesCount", len(copies))), int(content.get("FailedInstancesCount", 0))
    if sent - failed < len(set(copies)):
        return f"it sent {sent - failed} of {len(set(copies))} copies"
    return ""


def store_route(recipe: Recipe) -> str | None:
    """Return the route that sends copies to where a recipe says; None if they stay here."""
    for base, name in (("/modalities/{}/store", recipe.modality), ("/peers/{}/store", recipe.peer),
                       ("/dicom-web/servers/{}/stow", recipe.stow)):  # fmt: skip
        if name is not None:
            return base.format(urllib.parse.quote(name, safe=""))
    return None
