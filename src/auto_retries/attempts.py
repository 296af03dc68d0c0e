# SPDX-License-Identifier: AGPL-3.0-or-later
"""Attempts: jobs that failed are run again."""

import itertools
import json
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import orthanc

from auto_retries.failures import Failures, label_of
from auto_retries.freshness import Freshness
from auto_retries.known_destinations import KnownDestinations
from auto_retries.recipes import RECIPES, STOW, Recipe, Unclear, may_lie, name_of
from auto_retries.watched import Watched
from common.jobs import Ending, ending_of, get_job
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.work import Work
from forwarding.peers import Peers


class Attempts:
    """Runs jobs again: by Orthanc's own resubmission, which keeps all of the job, else from what the job showed."""

    def __init__(
        self,
        ledger: Ledger,
        watched: Watched,
        failures: Failures,
        loopback: Loopback,
        destinations: KnownDestinations,
        peers: Peers,
        freshness: Freshness,
        stopping: threading.Event,
    ) -> None:
        self._ledger, self._work, self._watched, self._failures = ledger, Work(ledger), watched, failures
        self._loopback, self._destinations, self._peers = loopback, destinations, peers
        self._freshness, self._stopping = freshness, stopping
        self._last_attempt: dict[str, float] = {}  # by destination, on the monotonic clock

    def run_due(self, max_concurrent: int, longest_delay: float) -> None:
        """Begin the attempts that are due, as long as no more than so many run at a time."""
        free = max_concurrent - sum(self._ledger.queues("sending").values())
        for row in self._due(free, longest_delay) if free > 0 else ():
            if self._stopping.is_set():
                return
            self._last_attempt[row["queue"]] = time.monotonic()
            self._attempt(row)

    def _due(self, limit: int, longest_delay: float) -> list[dict[str, Any]]:
        """Return the next rows, of each destination in turn, so that a dead one does not hold the others up."""
        queues = sorted(self._ledger.queues("waiting"), key=lambda queue: self._last_attempt.get(queue, 0.0))
        rows = [self._work.next_of(queue, limit, longest_delay) for queue in queues]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*rows))
        return [row for row in turns if row is not None][:limit]

    def _attempt(self, row: dict[str, Any]) -> None:
        data = json.loads(row["data"])
        job = get_job(self._loopback, row["job"]) if row["job"] else None
        ending, _ = ending_of(job)
        if ending is Ending.RUNNING and not may_lie(data):  # a person was quicker
            self._begin(row, row["job"])
            self._watched.add(row["job"], data)
            return
        if ending is Ending.SUCCESS and not may_lie(data):
            self._ledger.end(row["id"], "done")
            return
        body, recipe = data["Body"], RECIPES.get(data["Type"])
        is_store = body and recipe and recipe.command in ("store", "stow")
        here = self._freshness.still_here(body["Resources"]) if is_store else None
        if here == []:
            self._ledger.end(row["id"], "gone")
            orthanc.LogInfo(f"{label_of(row)}: what it was to send was deleted")
            return
        if data["Type"] == "OrthancPeerStore" and not self._is_for_orthanc(row, data):
            return
        if job and self._freshness.may_resubmit(job, data, here):
            self._resubmit(row, data)
        else:
            self._submit(row, data, recipe, here)

    def _begin(self, row: dict[str, Any], job: str | None) -> bool:
        """Write down that an attempt begins, before it does; return False if a person has just removed the row."""
        row["attempts"] += 1
        return self._work.claim(row["id"], job)

    def _is_for_orthanc(self, row: dict[str, Any], data: Mapping[str, Any]) -> bool:
        """Return whether the peer is an Orthanc; if not, the attempt has failed: to Orthanc any answer would be a success."""
        try:
            why = self._peers.why_not(name_of(data, self._destinations.of("peers")))
        except Unclear:
            return True  # `_submit` reports it
        if self._stopping.is_set():  # it took its time: no job may begin now
            return False
        if why and self._begin(row, row["job"]):
            self._failures.fail(row, why)
        return not why

    def _resubmit(self, row: dict[str, Any], data: Mapping[str, Any]) -> None:
        # Orthanc refuses to resubmit what is no failed job: whatever happens in between, it never runs twice.
        with self._ledger.transaction():
            self._watched.forget(row["job"])
            self._watched.add(row["job"], data)
            if not self._begin(row, row["job"]):
                return
        try:
            self._loopback.post(f"/jobs/{row['job']}/resubmit", {})
        except LoopbackError as error:
            if error.status == 0:
                raise  # `Watcher.look` finds what became of it
            with self._ledger.transaction():
                self._watched.forget(row["job"])
                self._failures.fail(row, str(error))

    def _submit(
        self, row: dict[str, Any], data: Mapping[str, Any], recipe: Recipe | None, here: list[dict[str, Any]] | None
    ) -> None:
        if not self._begin(row, None):
            return
        try:
            path, body = self._request(data, recipe, here)
            job = str(self._loopback.post(path, body)["ID"])
        except Unclear as error:
            self._failures.fail(row, str(error), for_ever=error.for_ever)
            return
        except LoopbackError as error:
            if error.status == 0:
                raise  # whether there is a job now, only Orthanc knows: `Watcher.look` finds it
            self._failures.fail(row, str(error))
            return
        with self._ledger.transaction():
            self._work.change(row["id"], job=job)
            self._watched.add(job, data)

    def _request(
        self, data: Mapping[str, Any], recipe: Recipe | None, here: list[dict[str, Any]] | None
    ) -> tuple[str, dict[str, Any]]:
        """Return the path and the body that submit a job again. Raises `Unclear`."""
        if recipe is None or data["Body"] is None:
            why = "Orthanc has forgotten the job (JobsHistorySize), and what it showed of it is not enough to submit it anew"
            if data["Type"] == STOW:
                why = (
                    "the DICOMweb plugin has not shown what the job sends (the one of Orthanc 1.10.1 never does), and "
                    "resubmitted it would leave out what it has read before: send it again"
                )
            raise Unclear(why, for_ever=True)
        name = name_of(data, self._destinations.of(recipe.route))
        body = {**data["Body"], "Synchronous": False, "Priority": data["Priority"]}
        if here is not None:
            body["Resources"] = [resource["ID"] for resource in here]
        return f"/{self._destinations.path(recipe.route)}/{urllib.parse.quote(name, safe='')}/{recipe.command}", body
