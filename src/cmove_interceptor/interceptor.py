# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc calls: a move from its beginning to its end, and the script's own."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import orthanc

from common.aets import AeTitles
from common.inbox import Inbox
from common.jobs import JobEnds
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.outside import import_requests
from common.routes import one_line
from common.state import state_folder
from common.status import Condition, condition_of
from common.worker import Worker

from .archive import Archive
from .fetcher import Fetcher
from .jobs import StoreJobs
from .modes import mode_of
from .move import Move
from .move_request import MoveFailed, described, read_fields
from .notifier import Notifier
from .planning import Planner
from .records import TABLES, Records, interrupted_move
from .sending import Sender
from .settings import Settings, calls_services
from .slots import RESUME_LOOK_SECONDS, JobSlots
from .under_way import MovesUnderWay

FORGET_EVERY_SECONDS = 60.0
ENDS = ("done", "submitted", "failed", "abandoned", "interrupted")  # of moves
SILENT_SECONDS = 30.0  # for which many callers wait for a word of the move


class Interceptor:
    """The script's callbacks.

    Attributes
    ----------
    refusal : why it stays idle until the configuration is corrected, or None.
    records : the requests, once the worker has opened the ledger.
    slots : what of other jobs is paused for moves.
    """

    records: Records

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], refusal: str | None) -> None:
        self.refusal = refusal
        self._settings, self._configuration, self._aets = settings, configuration, AeTitles(configuration)
        loopback = Loopback(configuration)
        if not refusal and not loopback.enabled:
            self.refusal = 'cmove_interceptor stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
        self.notifier, self._job_ends, self._archive = Notifier(settings), JobEnds(), Archive(loopback)
        self._under_way = MovesUnderWay(self._archive)
        self._jobs = StoreJobs(loopback, self._job_ends, configuration)
        self.slots = JobSlots(loopback, self._jobs.concurrent_jobs, lambda: self._worker.wake.set())
        planner = Planner(self._archive, settings.associations)
        self._sender = Sender(
            self._jobs, self.slots, planner, settings.associations, lambda move: self.records.note(move)
        )
        self._fetcher = Fetcher(loopback, self._archive, self._jobs, self.slots, settings.fetch, configuration)
        self._worker = Worker("cmove_interceptor", self._open, self._turn)
        self._interrupted, self._ended = list[dict[str, Any]](), Counter[str]()
        self._ends: Inbox[tuple[Move, str]] = Inbox(self._write_end)  # of moves, until they are written down

    # From start to stop

    def on_change(self, change: int, _level: int, resource: str) -> None:
        if change in (orthanc.ChangeType.JOB_SUCCESS, orthanc.ChangeType.JOB_FAILURE):
            self._job_ends.end(resource, well=change == orthanc.ChangeType.JOB_SUCCESS)
        elif change == orthanc.ChangeType.ORTHANC_STARTED:
            self._worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._jobs.stopping.set()
            self._fetcher.stop()
            deadline = time.monotonic() + 2
            self._worker.end(2)
            self.notifier.stop(deadline)
            self._worker.stop(deadline - time.monotonic())

    def unavailable(self) -> str | None:
        """Return why nothing works, or None."""
        return self.refusal or self._worker.why_not()

    def condition(self) -> Condition:
        """Return whether the script works."""
        return condition_of(self._worker, self.refusal)

    def measure(self) -> dict[str, float]:
        """Return the metrics: moves that ended since the start, and notifications, by state."""
        moves = {f"moves_{state}": self._ended[state] for state in ENDS}
        return {**moves, **{f"notifications_{state}": number for state, number in self.notifier.totals().items()}}

    def _open(self) -> Ledger:
        if calls_services(self._settings):  # here, where there is room for it, not at the first call
            try:
                import_requests()
            except ImportError as error:
                raise ValueError(str(error)) from None
        folder = state_folder(self._settings.state_path, self._configuration, "cmove_interceptor")
        ledger = self._ledger = Ledger(
            folder / "cmove_interceptor.sqlite", TABLES, durability=self._settings.durability
        )
        try:
            self.records = Records(ledger)
            self._interrupted = self.records.interrupted()
            self.slots.open(ledger)
            self.notifier.start(ledger)
            self._ends.open()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _turn(self) -> float:
        """Resume what was paused for moves, end what was interrupted, and forget some of what ended `KeepDoneDays` ago.

        Return the seconds until the next turn.
        """
        # First, for it needs no room on the disk.
        is_paused = self.slots.give_back()
        self._ends.flush()
        while self._interrupted:
            self._end_interrupted(interrupted_move(self._interrupted[0]))
            self._interrupted.pop(0)
        days = self._settings.keep_done_days
        more = self._ledger.forget_finished(days)
        more |= self.records.forget(days)
        if is_paused:
            return RESUME_LOOK_SECONDS
        return 0.1 if more else FORGET_EVERY_SECONDS

    def _end_interrupted(self, move: Move) -> None:
        """End a move during which Orthanc was killed."""
        if move.parts and not self._jobs.synchronous:
            self._end(move, "submitted")
            return
        self._jobs.cancel(*move.jobs)  # Orthanc's own move would have ended there, a job continues
        self._end(move, "interrupted")

    # A move, by the callbacks of plugin 4.2 and later

    def create(self, **request: Any) -> Move:
        """Begin a move. What is raised here, the caller gets as 0xC000: unable to process."""
        fields = read_fields(request)
        orthanc.LogWarning(f"cmove_interceptor: C-MOVE of {described(fields)}")
        if reason := self.unavailable():
            raise MoveFailed(reason)
        mode = mode_of(fields, self._settings, self._aets)
        move = self._under_way.add(self.records.add(str(uuid.uuid4()), fields, mode))
        try:
            self.notifier.required.ask(move.values())
            self.notifier.queue("before", move.values())
            self._begin(move)
        except Exception as error:
            self._jobs.cancel(*move.jobs)
            self._remove_fetched(move)
            move.error = one_line(error)
            self._end(move, "failed")
            orthanc.LogError(f"cmove_interceptor: C-MOVE to {one_line(fields['TargetAET'])!r} failed: {move.error}")
            raise
        return move

    def _begin(self, move: Move) -> None:
        if move.mode == "notify":
            return
        if move.mode == "fetch":
            self._under_way.note(move, self._fetcher.complete(move.fields))
        if self._jobs.stopping.is_set():  # a job that begins now corrupts the memory of Orthanc 1.13.0 as it ends
            raise MoveFailed("Orthanc is stopping")
        resources = self._archive.resources(move.fields)
        if not resources:
            raise MoveFailed("nothing here is what the request means")
        self._sender.begin(move, resources)

    def size(self, move: Move) -> int:
        """Return how often Orthanc is to call `apply`."""
        return move.total

    def apply(self, move: Move) -> None:
        """Wait until one more image is sent; what is raised here ends the move with 0xB000: not all arrived."""
        move.applied += 1
        self._sender.follow(move, move.applied)

    def free(self, move: Move) -> None:
        """End a move: all was sent, it failed, or the caller has gone."""
        errors = [part.error for part in move.parts if part.ended is False]
        if not move.parts or (self._jobs.synchronous and move.applied >= move.total == move.sent):
            state = "done"
        elif not self._jobs.synchronous:
            state, move.followed = "submitted", False
        elif errors:
            state, move.error = "failed", errors[0]
        else:
            self._jobs.cancel(*move.jobs)
            state, move.error = "abandoned", "the caller went away"
        if state != "submitted":
            self._remove_fetched(move)
        self._end(move, state)

    def _remove_fetched(self, move: Move) -> None:
        """Delete what was fetched for a move, unless it is to be kept."""
        if move.fetched and not self._settings.fetch.keep:
            try:
                self._under_way.delete_fetched(move, self._fetcher.remove)
            except LoopbackError as error:  # the move has its end all the same
                orthanc.LogError(f"cmove_interceptor: what was fetched could not be deleted: {one_line(error)}")

    def _end(self, move: Move, state: str) -> None:
        """Write down how a move ended; on a full disk the worker does it, as soon as there is room."""
        self._under_way.end(move)
        if not self._ends.add((move, state)):
            self._worker.wake.set()
        with contextlib.suppress(LoopbackError, sqlite3.Error, OSError):  # where the worker does not come to it
            self.slots.give_back()

    def _write_end(self, end: tuple[Move, str]) -> None:
        move, state = end
        with self._ledger.transaction():  # killed in between, nobody would be notified
            self.records.end(move, state)
            self.notifier.queue("after", {**move.values(), **move.result(), "State": state})
        self._ended[state] += 1

    # The same for plugin 4.0 and 4.1, which know success and 0xB000 only, and one sub-operation

    def move_synchronously(self, **request: Any) -> None:
        """Do a move from beginning to end."""
        with warn_if_silent(request.get("TargetAET")):
            move = self.create(**request)
            try:
                for _ in range(move.total):
                    self.apply(move)
            finally:
                self.free(move)


@contextlib.contextmanager
def warn_if_silent(target: object) -> Iterator[None]:
    """Warn if what is done inside, of which the caller hears nothing, took long."""
    begun = time.monotonic()
    try:
        yield
    finally:
        if (seconds := time.monotonic() - begun) > SILENT_SECONDS:
            orthanc.LogWarning(
                f"cmove_interceptor: the C-MOVE to {one_line(target)!r} took {seconds:.0f} s, and the caller heard nothing "
                "meanwhile, for Orthanc's Python plugin can send pending responses from 4.2 on only. Callers that give up before "
                "need a longer timeout, or Orthanc a newer plugin"
            )
