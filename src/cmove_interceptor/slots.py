# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes room for jobs that a caller waits for: pauses jobs that send for nobody, and resumes them after."""

from __future__ import annotations

import contextlib
import dataclasses
import http
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.jobs import get_job
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError

PAUSED_TABLE = "CREATE TABLE IF NOT EXISTS paused_jobs(job TEXT PRIMARY KEY) WITHOUT ROWID;"
STORE_JOBS = ("DicomModalityStore", "OrthancPeerStore", "DicomWebStowClient")  # that go on where they were paused
ON_THEIR_WAY = ("Pending", "Running", "Retry")
PRIORITY = 100  # of the jobs that move: a caller waits for them, for those of forwarders nobody does
# In which a job gives its slot back. If it does not, it sends a slow image, and another one is paused too.
PAUSE_EVERY_SECONDS = 0.1
LISTING_SHARE = 10  # listing jobs takes at most one part in so many of the time, however many wait in Orthanc
RESUME_LOOK_SECONDS = 0.1  # between looks at whether what is paused may go on
COUNT_EVERY_SECONDS = 1.0  # of the places that nobody uses
# Orthanc writes its jobs down every 10 s: killed before, it would find one that was resumed paused again.
REMEMBER_RESUMED_SECONDS = 30.0


@dataclasses.dataclass
class PausedJob:
    """A job of the table.

    Attributes
    ----------
    is_asked : whether this process asked for its pause, which begins only when the image under way is sent.
    resumed : when it was resumed, by the monotonic clock; None: it is to be resumed.
    """

    is_asked: bool
    resumed: float | None = None


class JobSlots:
    """The few jobs that Orthanc runs at a time (`ConcurrentJobs`).

    A job is written down before it is paused, so that it is resumed after a kill, too. What a person pauses, the person resumes:
    Orthanc does not say who paused a job, so its routes for that lead through here (`answer_person`).

    Parameters
    ----------
    on_pause : called when something was paused: from then on `give_back` has to be called.
    """

    def __init__(self, loopback: Loopback, concurrent_jobs: int, on_pause: Callable[[], None]) -> None:
        self._loopback, self._concurrent_jobs, self._on_pause = loopback, concurrent_jobs, on_pause
        self._ledger: Ledger | None = None
        # Of what follows; no request is made while it is held but those in this process, which Orthanc answers at once.
        self._lock = threading.Lock()
        self._paused: dict[str, PausedJob] = {}
        self._served: set[str] = set()  # for which something was paused, as long as they have not ended
        self._of_persons: set[str] = set()  # paused by one; Orthanc shows it only when the image under way is sent
        self._next_pause = self._next_count = -math.inf

    def open(self, ledger: Ledger) -> None:
        """Begin with what a process before has left paused."""
        with self._lock:
            self._ledger = ledger
            for row in ledger.rows("SELECT job FROM paused_jobs"):
                if row["job"] not in self._of_persons:  # paused by one before the ledger was open
                    self._paused.setdefault(row["job"], PausedJob(is_asked=False))

    def held(self) -> list[str]:
        """Return the jobs that are paused for a move."""
        with self._lock:
            return [job for job, each in self._paused.items() if each.resumed is None]

    def make_room(self, job: str) -> None:
        """Pause a running job that sends and has a lower priority, for one that waits; call it again as long as that waits."""
        with self._lock:
            if (begun := time.monotonic()) < self._next_pause:
                return
            self._next_pause = begun + PAUSE_EVERY_SECONDS
        with contextlib.suppress(LoopbackError, sqlite3.Error, OSError):  # what can't be written down is not paused
            jobs = self._loopback.get("/jobs?expand")
            self._next_pause = max(self._next_pause, begun + LISTING_SHARE * (time.monotonic() - begun))
            with self._lock:
                self._of_persons &= {each["ID"] for each in jobs}
            running = sorted((each for each in jobs if each["State"] == "Running"), key=lambda each: each["Priority"])
            if len(running) >= self._concurrent_jobs:
                any(self._pause(each["ID"], job) for each in running if may_be_paused(each))

    def _pause(self, job: str, served: str) -> bool:
        """Pause a job for another; return False if it is paused already, by a person or for a move."""
        assert self._ledger
        with self._lock:
            known = self._paused.get(job)
            if job in self._of_persons or (known and known.resumed is None):
                return False
            self._ledger.run("INSERT OR IGNORE INTO paused_jobs VALUES(?)", job)
            self._paused[job] = PausedJob(is_asked=True)
            self._served.add(served)
            with contextlib.suppress(orthanc.OrthancException):  # it has ended just now
                orthanc.RestApiPost(f"/jobs/{job}/pause", "{}")
        orthanc.LogInfo(f"cmove_interceptor: the job {job} is paused for a move that waits for its place")
        self._on_pause()
        return True

    def give_back(self) -> bool:
        """Resume what is paused for nobody any more; return whether something is paused still.

        Raises
        ------
        LoopbackError : Orthanc can't be asked.
        sqlite3.Error : what has gone on long ago can't be deleted now; all is resumed.
        """
        if held := self.held():
            with self._lock:
                served = list(self._served)
            ended = {job for job in served if not self._is_on_its_way(job)}
            free = self._count_free()
            with self._lock:
                self._served -= ended
                surplus = max(len(held) - len(self._served), free)
            for job in held:
                if surplus > 0 and self._resume(job):
                    surplus -= 1
        self._forget_resumed()
        return bool(self.held())

    def _is_on_its_way(self, job: str) -> bool:
        found = get_job(self._loopback, job)
        return found is not None and found["State"] in ON_THEIR_WAY

    def _count_free(self) -> int:
        """Return how many places no job uses or waits for; 0 where that was counted a moment ago."""
        if (begun := time.monotonic()) < self._next_count:
            return 0
        busy = sum(each["State"] in ON_THEIR_WAY for each in self._loopback.get("/jobs?expand"))
        self._next_count = begun + max(COUNT_EVERY_SECONDS, LISTING_SHARE * (time.monotonic() - begun))
        return self._concurrent_jobs - busy

    def _resume(self, job: str) -> bool:
        """Let a job go on; return whether it does, or has ended."""
        found = get_job(self._loopback, job)
        with self._lock:
            known = self._paused.get(job)
            if known is None or known.resumed is not None:
                return True  # a person has decided about it meanwhile
            if found and found["State"] == "Running" and known.is_asked:
                return False  # its pause has not begun
            if found and found["State"] == "Paused":
                try:
                    orthanc.RestApiPost(f"/jobs/{job}/resume", "{}")
                except orthanc.OrthancException:
                    return False  # the next look shows whether it was cancelled just now
            known.resumed = time.monotonic()
        return True

    def _forget_resumed(self) -> None:
        assert self._ledger
        now = time.monotonic()
        with self._lock:
            for job, each in list(self._paused.items()):
                if each.resumed is not None and now - each.resumed > REMEMBER_RESUMED_SECONDS:
                    del self._paused[job]
            for row in self._ledger.rows("SELECT job FROM paused_jobs"):
                if row["job"] not in self._paused:
                    self._ledger.run("DELETE FROM paused_jobs WHERE job=?", row["job"])

    # What persons pause and resume

    def answer_person(self, output: Any, _uri: str, /, **request: Any) -> None:
        """Answer `POST /jobs/{id}/pause` and `/resume` as Orthanc does, and leave the job to the person from then on."""
        if request["method"] != "POST":
            output.SendMethodNotAllowed("POST")
            return
        job, action = request["groups"]
        try:
            output.AnswerBuffer(self._act_for_person(job, action), "application/json")
        except orthanc.OrthancException:  # an unknown job, or one that is not paused
            output.SendHttpStatusCode(int(http.HTTPStatus.BAD_REQUEST))

    def _act_for_person(self, job: str, action: str) -> bytes:
        with self._lock:
            if action == "pause":
                self._leave(job)
                self._of_persons.add(job)
                return bytes(orthanc.RestApiPost(f"/jobs/{job}/pause", "{}"))
            # One whose pause has not begun can't be resumed: it stays with us.
            answer = bytes(orthanc.RestApiPost(f"/jobs/{job}/resume", "{}"))
            self._of_persons.discard(job)
            self._leave(job)
            return answer

    def _leave(self, job: str) -> None:
        """Forget a job. Where that can't be written down, `give_back` does it later."""
        if self._paused.pop(job, None) and self._ledger:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._ledger.run("DELETE FROM paused_jobs WHERE job=?", job)


def may_be_paused(job: Mapping[str, Any]) -> bool:
    """Return whether a running job sends for nobody who waits, and goes on where it was when it is resumed."""
    return job["Type"] in STORE_JOBS and job["Priority"] < PRIORITY
