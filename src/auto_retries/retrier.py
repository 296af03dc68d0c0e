# SPDX-License-Identifier: AGPL-3.0-or-later
"""The callback and the thread that run jobs again."""

import os
import time
from collections.abc import Mapping
from typing import Any

import orthanc

from auto_retries.attempts import Attempts
from auto_retries.failures import Failures
from auto_retries.forward_scripts import ASK_EVERY_SECONDS
from auto_retries.freshness import Freshness
from auto_retries.jobs import read_job
from auto_retries.known_destinations import KnownDestinations
from auto_retries.recipes import resources_sent
from auto_retries.settings import NAME, Settings
from auto_retries.watched import WATCHED_TABLE, Watched
from auto_retries.watcher import Watcher
from common.dicomweb import dicomweb_servers_route
from common.http_threads import HttpTurns
from common.inbox import Inbox
from common.ledger import Ledger
from common.loopback import Loopback
from common.owed import Owing, owed_tables, places_of
from common.routes import Refused
from common.state import state_folder
from common.work import NEXT_ATTEMPT_INDEX, Work, data_index
from common.worker import Worker
from forwarding.peers import Peers

# Between two turns of the thread, which an event cuts short: while a row waits, and when nothing does.
BUSY_TURN_SECONDS, IDLE_TURN_SECONDS = 1.0, 5.0
KEEP_FINISHED_DAYS = 30.0  # in the list
LOOK_EVERY_SECONDS = 30.0  # at all jobs: one that is canceled before it began gives no event
EVENTS = (
    *("ORTHANC_STARTED", "ORTHANC_STOPPED", "JOB_SUBMITTED", "JOB_SUCCESS", "JOB_FAILURE"),
    *("UPDATED_MODALITIES", "UPDATED_PEERS"),
)


class Retrier:
    """Watches the jobs of others, and runs those again that fail.

    OnChange writes events down while Orthanc still knows the job; one thread, woken by it, does the rest.

    Parameters
    ----------
    configuration : Orthanc's.

    Attributes
    ----------
    ledger, work, watched, failures : the state, from when it is open: once `worker.why_not()` is None.
    """

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self.settings, self._configuration = settings, configuration
        self._loopback = Loopback(configuration)
        self._destinations = KnownDestinations(dicomweb_servers_route(configuration))
        self._turns = HttpTurns(configuration)
        self._peers = Peers(configuration, self._loopback)
        self.worker = Worker(NAME, self._open, self._turn)
        self._inbox: Inbox[tuple[str, str, dict[str, Any] | None]] = Inbox(lambda event: self._watcher.on_event(*event))
        self._next_look = 0.0
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in EVENTS}

    def on_change(self, change: int, _level: int, resource: str) -> None:
        """Write down what happens to a job, and wake the thread; returns at once."""
        event = self._events.get(change, "")
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self.worker.stop()
        elif event.startswith("UPDATED"):
            self._destinations.on_updated()
        elif event and not self.worker.is_off:
            # A job that fails at once is soon gone (JobsHistorySize): this is the only time to read it. It can also be
            # submitted before ORTHANC_STARTED.
            self._inbox.add((event, resource, None if event == "JOB_SUCCESS" else read_job(resource)))
            self.worker.wake.set()

    def _open(self) -> Ledger:
        if not self._loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        path = state_folder(self.settings.state_path, self._configuration, "auto_retries") / "auto_retries.sqlite"
        tables = owed_tables() + WATCHED_TABLE + data_index("Digest") + NEXT_ATTEMPT_INDEX
        self.ledger = Ledger(path, tables, durability=self.settings.durability)
        if self.ledger.quarantined_to:
            orthanc.LogWarning(
                f"{NAME}: the ledger {path} was corrupt and is kept as {self.ledger.quarantined_to}; "
                "what waited there is not run again"
            )
        if self._configuration.get("JobsHistorySize", 10) == 0:
            orthanc.LogWarning(
                f"{NAME}: with JobsHistorySize 0 a job that fails within a millisecond can't be read any more, "
                "and one that was canceled looks as if it had failed"
            )
        self.work, self.watched = Work(self.ledger), Watched(self.ledger)
        self._owing = Owing(self.ledger, self._loopback, resources_sent)
        self.failures = Failures(self.ledger, self.settings.retry, self.worker.trouble)
        self._watcher = Watcher(
            *(self.settings.types, self.ledger, self.watched, self.failures, self._loopback, self._destinations)
        )
        overwrites = bool(self._configuration.get("OverwriteInstances"))
        freshness = Freshness(self._loopback, self._destinations, overwrites=overwrites)
        self._attempts = Attempts(
            *(self.ledger, self.watched, self.failures, self._loopback, self._destinations, self._peers),
            *(freshness, self.worker.stopping),
        )
        self._inbox.open()
        return self.ledger

    def owed(self, resources: set[str]) -> set[str]:
        """Return which of these studies and patients a job sends that failed and waits, or was given up, or that may fail yet."""
        if not self._watcher.has_begun:
            raise Refused(503, f"{NAME} has not looked yet at what happened to jobs while Orthanc was down")
        with self._turns.turn():  # it may ask Orthanc
            # First, for a watched job that fails becomes a row.
            watched = self.watched.resources()
            places = places_of(self._loopback, watched - resources).values()
            return watched | {study or patient for study, patient in places} | self._owing.of(resources)

    def measure(self) -> dict[str, float]:
        """Return its metrics: the number of rows in each state."""
        return {**self.ledger.totals()}

    def _turn(self) -> float:
        self._inbox.flush()
        if lost := self._inbox.lost:
            self._inbox.lost -= lost
            orthanc.LogError(
                f"{NAME}: {lost} events of jobs came while the ledger could not be written, and there was no room for more: "
                "what failed then is not run again"
            )
        if not self._watcher.has_begun or time.monotonic() >= self._next_look:
            self._watcher.look()
            self.ledger.forget_finished(KEEP_FINISHED_DAYS)
            self._next_look = time.monotonic() + LOOK_EVERY_SECONDS
        is_asking = self._watcher.settle_ended(self.worker.stopping)
        self._attempts.run_due(self._max_concurrent(), self.settings.retry.longest)
        if is_asking:
            return ASK_EVERY_SECONDS
        return BUSY_TURN_SECONDS if self.ledger.queues("waiting") else IDLE_TURN_SECONDS

    def _max_concurrent(self) -> int:
        """Return how many attempts may run at a time: a slot is left to the jobs of others."""
        slots = int(self._configuration.get("ConcurrentJobs", 2)) or os.cpu_count() or 1
        return max(1, slots - 1)
