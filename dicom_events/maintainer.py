# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/maintainer.py: edit that, never this file.
"""What is done beside the callbacks: events are completed, what was missed is found, what is settled is deleted."""

from __future__ import annotations

import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from ._common.loopback import Loopback, LoopbackError
from ._common.routes import one_line
from ._common.worker import first_line

from .applier import Applier
from .archive import Archive, StoppedError
from .catch_up import CatchUp
from .comparison import Comparison
from .completion import Completer
from .missed import MissedEvents
from .replay import Replay

IDLE_SECONDS = 1.0
LINGER_SECONDS = 0.02  # in which more events come together
TIDY_EVERY_SECONDS = 1.0
LOOK_EVERY_SECONDS = 2.0  # for what was missed
FORGET_EVERY_SECONDS = 60.0
DELETED_KEPT_SECONDS = 86400.0  # for which identifiers of what was deleted are kept
ACKNOWLEDGED_KEPT_SECONDS = 600.0


class OutboxMaintainer:
    """One thread that maintains the outbox, and one that looks, once at start, for what was deleted while Orthanc was down."""

    def __init__(
        self,
        applier: Applier,
        loopback: Loopback,
        reconcile: bool,
        complain: Callable[[str], None],
        brokers: Sequence[str] = (),
    ) -> None:
        self._outbox, self._recorder, self._reconcile, self._complain = (
            *(applier.outbox, applier.recorder),
            *(reconcile, complain),
        )
        self._stopping, self._wake = threading.Event(), threading.Event()
        archive = Archive(loopback, self._stopping)
        self._completer = Completer(applier.outbox, applier.recorder, archive)
        self._missed = MissedEvents(applier, archive)
        self.replay = Replay(applier, archive, loopback, complain)
        self.catch_up = CatchUp(applier, loopback, self._missed, brokers, complain)
        self._next_tidy = self._next_look = self._next_forget = 0.0
        self._complaint = ""
        self.problem = ""
        """What keeps the thread from its work, or ""."""
        self._threads = [threading.Thread(target=self._work, name="dicom_events maintainer", daemon=True)]
        if reconcile:
            comparison = Comparison(applier, archive, self._missed.caught_up, self._stopping, complain)
            self._threads.append(threading.Thread(target=comparison.run, name="dicom_events compare", daemon=True))

    def start(self) -> None:
        self._outbox.on_incomplete.append(self._wake.set)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def join(self, until: float) -> None:
        """Wait for the threads, until that time (`time.monotonic()`)."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.replay.join(until)

    def _work(self) -> None:
        begun = not self._reconcile
        while not self._stopping.is_set():
            try:
                if not begun:
                    self._missed.begin()
                    begun = True
                if self._complaint:  # before anything is written: it needs room itself, and gives more than that
                    self._outbox.retention.make_room()
                self._turn()
                self.problem = self._complaint = ""
            except StoppedError:
                return
            except (LoopbackError, sqlite3.Error, OSError) as error:
                self._log_once(f"dicom_events goes on when this is over: {one_line(error)}")
            except Exception:  # noqa: BLE001 - one bad resource never ends the thread that serves all
                self._log_once(f"dicom_events met an error, please report it:\n{traceback.format_exc()}")
            # A moment to let more come together, then as soon as there is work.
            self._stopping.wait(LINGER_SECONDS)
            self._wake.wait(IDLE_SECONDS)
            self._wake.clear()

    def _log_once(self, text: str) -> None:
        self.problem = first_line(text)
        if text != self._complaint and not self._stopping.is_set():
            self._complain(text)
        self._complaint = text

    def _turn(self) -> None:
        while self._completer.complete():
            pass
        now = time.monotonic()
        if now >= self._next_tidy:
            self._outbox.ledger.check()
            self._next_tidy = now + TIDY_EVERY_SECONDS
            if lost := self._outbox.retention.tidy():
                self._complain(f"dicom_events: {lost}")
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_SECONDS
            if self._reconcile:
                self._missed.follow()
            self._missed.make_up_stable()
        if self.catch_up.turn():
            self._wake.set()
        if now >= self._next_forget:
            self._next_forget = now + FORGET_EVERY_SECONDS
            self._outbox.acknowledged.forget(time.time() - ACKNOWLEDGED_KEPT_SECONDS)
            self._recorder.resources.forget_deleted(time.time() - DELETED_KEPT_SECONDS)
