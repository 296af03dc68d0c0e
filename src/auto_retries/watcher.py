# SPDX-License-Identifier: AGPL-3.0-or-later
"""Watching jobs: what events report, and what is found where there was no event."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from auto_retries.failures import Failures
from auto_retries.forward_scripts import ForwardScripts
from auto_retries.jobs import ending_of_failed
from auto_retries.known_destinations import KnownDestinations
from auto_retries.recipes import STOW, description
from auto_retries.watched import Watched
from common.jobs import UNFINISHED_JOBS, Ending, ending_of
from common.ledger import Ledger
from common.loopback import Loopback
from common.work import Which, Work

ABSENT_SECONDS = 300.0  # that a job is unknown to Orthanc, without an event, until it counts as canceled
UNANSWERED_SECONDS = 10.0  # until an attempt whose submission was not answered counts as failed


class Watcher:
    """Finds out which jobs begin and end, and what is to be done about those that ended.

    Attributes
    ----------
    has_begun : whether it has looked at all jobs since Orthanc started.
    """

    def __init__(
        self,
        types: Sequence[str],
        ledger: Ledger,
        watched: Watched,
        failures: Failures,
        loopback: Loopback,
        destinations: KnownDestinations,
    ) -> None:
        self._types, self._ledger, self._work = types, ledger, Work(ledger)
        self._watched, self._failures = watched, failures
        self._loopback, self._destinations = loopback, destinations
        self._scripts = ForwardScripts(loopback, watched)
        self._absent: dict[str, float] = {}  # since when a job is unknown to Orthanc
        self.has_begun = False

    # What events report

    def on_event(self, event: str, job: str, found: Mapping[str, Any] | None) -> None:
        """Write an event down: `JOB_SUBMITTED`, `JOB_SUCCESS` or `JOB_FAILURE`, and what Orthanc showed of the job then."""
        if event == "JOB_SUBMITTED":
            self._on_submitted(job, found)
            return
        state, error = ending_of_failed(found) if event == "JOB_FAILURE" else ("Success", "")
        with self._ledger.transaction():
            self._describe(found)
            if self._watched.end(job, state, error) or self._watched.is_ignored(job):
                return
            if found and found["Type"] in self._types:
                # Submitted before this script came, or resubmitted by a person.
                self._watched.add(job, description(found, self._destinations.of))
            elif found or (event == "JOB_SUCCESS" and not self._failures.may_own(job)):
                return
            else:
                self._watched.add(job, None)
            self._watched.end(job, state, error)

    def _on_submitted(self, job: str, found: Mapping[str, Any] | None) -> None:
        if found and found["Type"] in self._types:
            self._watched.add(job, description(found, self._destinations.of))
        elif found:
            self._watched.ignore(job)

    def _describe(self, found: Mapping[str, Any] | None) -> None:
        if found and found["Type"] == STOW and STOW in self._types:
            self._watched.describe(found["ID"], description(found, self._destinations.of))

    # What gave no event

    def look(self) -> None:
        """Find the ends that gave no event: during a restart, or canceled before they began."""
        sending = self._work.find(Which(states=("sending",)))
        for row in sending:
            if row["job"]:
                self._watched.add(row["job"], json.loads(row["data"]))
        running = self._watched.running()
        found = self._loopback.get("/jobs?expand") if running or not self.has_begun else []
        jobs = {job["ID"]: job for job in found}
        if not self.has_begun:
            for job in jobs.values():
                if job["State"] in UNFINISHED_JOBS and job["Type"] in self._types:
                    self._watched.add(job["ID"], description(job, self._destinations.of))
        for name in running:
            self._look_at(name, jobs.get(name))
        self._absent = {name: since for name, since in self._absent.items() if name in running and name not in jobs}
        for row in sending:
            self._look_at_unanswered(row)
        self.has_begun = True

    def _look_at(self, name: str, job: Mapping[str, Any] | None) -> None:
        if job is not None:
            self._describe(job)
            ending, _ = ending_of(job)
            if ending is Ending.SUCCESS:
                self._watched.end(name, ending, "")
            elif ending is not Ending.RUNNING:
                self._watched.end(name, *ending_of_failed(job))
        elif not self.has_begun:
            # Run again what may have arrived: once more is harmless, lost is not.
            self._watched.end(name, "Failure", "its end was missed while Orthanc was down")
        elif time.monotonic() - self._absent.setdefault(name, time.monotonic()) > ABSENT_SECONDS:
            self._watched.end(name, "canceled", "it is gone without having failed: canceled before it began")

    def _look_at_unanswered(self, row: Mapping[str, Any]) -> None:
        """Find by its content what an attempt submitted that Orthanc was killed in, or did not answer."""
        if row["job"] or (self.has_begun and abs(time.time() - row["updated"]) < UNANSWERED_SECONDS):
            return
        jobs = self._watched.doing(json.loads(row["data"])["Digest"])
        if unknown := [job for job in jobs if not self._work.has(Which(job=job))]:
            self._work.change(row["id"], job=unknown[0])
        elif not self.has_begun:
            self._work.wait_again(row["id"])
        else:
            self._failures.fail(row, "Orthanc did not answer when it was submitted")

    # What ended

    def settle_ended(self, stopping: threading.Event) -> bool:
        """Deal with the jobs that ended; return whether a forward script is to be asked again soon."""
        self._scripts.leave_theirs()
        is_asking = False
        for ended in self._watched.ended():
            if stopping.is_set():
                break
            if row := self._failures.row_of(ended):
                with self._ledger.transaction():
                    self._failures.end(row, ended)
                    self._watched.forget(ended["job"])
            elif ended["state"] != "Failure" or (is_theirs := self._scripts.own(ended)):
                self._watched.forget(ended["job"])
            elif is_theirs is None:
                is_asking = True
            else:
                with self._ledger.transaction():
                    self._failures.add(ended)
                    self._watched.forget(ended["job"])
        return is_asking
