# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/opening.py: edit that, never this file.
"""The thread that opens the outbox, and, where another server takes it, stands by and opens it again."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import traceback
from typing import Any

import orthanc

from ._common.backoff import Pauses
from ._common.database import Database
from ._common.loopback import Loopback
from ._common.routes import one_line
from ._common.state import StandsByError, StateBusyError, state_folder
from ._common.worker import FIRST_RETRY, LONGEST_RETRY, STANDBY_SECONDS, STARTS_WITHIN, Trouble, first_line

from .images import Tags
from .named import Named
from .pipeline import STOP_WITHIN_SECONDS, Pipeline
from .reports import EarlyReports
from .settings import Settings
from .shared import SharedOutbox

OPENS_WITHIN_SECONDS = (
    10.0  # that the end of Orthanc waits for an outbox that is just being opened, if events are in memory
)
LOOK_SECONDS = 0.5  # until it is looked again whether another server has taken over
EARLY_AT_ONCE = 20  # lines that are journaled while callbacks wait


class Opener:
    """Opens the pipeline, as long as that takes; what is reported until then is in memory, or handed over."""

    def __init__(self) -> None:
        self._configuration: dict[str, Any] = json.loads(orthanc.GetConfiguration())
        self._settings, self._brokers = Settings(), list[Named]()
        self._tags: dict[str, Tags] = {}
        self._loopback = Loopback(self._configuration)
        self._unavailable: str | None = None  # why the script is idle until Orthanc is restarted
        self._closed: str | None = None  # why the outbox can't be opened now
        self._opening, self._handing_over = threading.Lock(), threading.Lock()
        self._is_tried = False  # whether the outbox is open, or can't be opened now
        self._decision = threading.Condition()
        self._saying, self._stopped = threading.Lock(), False
        self._is_waiting = False  # for another process that has the outbox
        self._last_error: tuple[str, float] | None = None  # and when, in seconds since 1970
        self._pipeline: Pipeline | None = None
        self._trouble, self._ending = Trouble("dicom_events"), threading.Event()
        self._opener: threading.Thread | None = None
        self._early = EarlyReports(self._settings.events, self._tags)  # before the outbox is open
        self._database: Database | None = None  # where the outbox is, if several servers share it
        self._shared = SharedOutbox(self._say)
        self._has_started = self._is_running = False

    def _start(self, *, has_started: bool = False) -> None:
        with self._opening:
            self._has_started = self._has_started or has_started
            if self._pipeline and self._has_started and not self._is_running and not self._ending.is_set():
                self._is_running = True
                self._pipeline.start()

    def _stop_opening(self) -> None:
        """End the thread that opens; give it the time that it needs, if what happened meanwhile is in memory only."""
        self._ending.set()
        if self._opener:
            self._opener.join(OPENS_WITHIN_SECONDS if len(self._early) else STOP_WITHIN_SECONDS)

    def _open(self) -> Pipeline | None:
        """Return the pipeline; begin to open it, if nobody has, and wait for the first try. No callback waits here."""
        if self._pipeline is None and self._unavailable is None:
            self._begin_to_open()
            with self._decision:
                self._decision.wait_for(lambda: self._is_tried, STARTS_WITHIN)
        return self._pipeline

    def _begin_to_open(self) -> None:
        """Open the outbox in a thread: a large one takes long, and a callback that waits for it holds up every store."""
        with self._opening:
            if self._opener is None:
                self._opener = threading.Thread(target=self._open_until_it_is, name="dicom_events opens", daemon=True)
                self._opener.start()

    def _open_until_it_is(self) -> None:
        """Open the outbox; again, when another server has taken it, and that one has ended."""
        while self._open_once() and self._database and not self._ending.is_set():
            while not self._shared.lost.is_set():
                if self._ending.wait(LOOK_SECONDS):
                    return
            self._stand_by()

    def _stand_by(self) -> None:
        """Leave the work to the server that has taken it: what is reported from now on is in memory, then in the journal."""
        with self._handing_over:
            pipeline, self._pipeline = self._pipeline, None
            self._early = EarlyReports(self._settings.events, self._tags)
        assert pipeline
        with self._opening:
            was_running, self._is_running = self._is_running, False
        if was_running:
            pipeline.stop()
        pipeline.close()

    def _open_once(self) -> bool:
        """Open the outbox when it can be opened: what is reported until then is in memory; return whether it is open."""
        pauses = Pauses(FIRST_RETRY, LONGEST_RETRY)
        while (pipeline := self._try_to_open()) is None:
            self._decide()
            if self._ending.wait(STANDBY_SECONDS if self._shared.worked_by else pauses.next()):
                return False
        pipeline.intake.take_early(self._early, EARLY_AT_ONCE)
        with self._handing_over:  # the last few, while none is added
            pipeline.intake.take_early(self._early)
            self._pipeline = pipeline
        self._decide()
        self._start()
        return True

    def _decide(self) -> None:
        with self._decision:
            self._is_tried = True
            self._decision.notify_all()

    def _try_to_open(self) -> Pipeline | None:
        try:
            if self._database:
                self._shared.own_journal(state_folder(self._settings.state_path, self._configuration))
            pipeline = Pipeline(
                *(self._settings, self._brokers, self._tags, self._configuration, self._loopback, self._say),
                *(self._database, self._end_relay),
            )
            self._shared.works(pipeline.outbox.ledger)
        except StandsByError as error:
            self._on_not_opened(one_line(error), is_busy=True)
            self._begin_relay(error.worked_by)
            return None
        except (OSError, sqlite3.Error) as error:
            self._on_not_opened(one_line(error), is_busy=isinstance(error, StateBusyError))
            return None
        except Exception:  # noqa: BLE001 - whatever it is, it may be over the next time
            self._on_not_opened(f"an error, please report it:\n{traceback.format_exc()}")
            return None
        self._closed, self._is_waiting = None, False
        if not self._ending.is_set():
            self._trouble.is_over()
        return pipeline

    def _begin_relay(self, worked_by: str) -> None:
        """Hand over what is reported here to the server that works."""
        assert self._database
        folder = state_folder(self._settings.state_path, self._configuration)
        events, full = self._settings.events, self._settings.durability == "full"
        relay = self._shared.stand_by(worked_by, self._database, folder, events, self._tags, full=full)
        if relay:  # a new one
            relay.take_early(self._early, EARLY_AT_ONCE)
            with self._handing_over:
                relay.take_early(self._early)
                self._shared.relay = relay

    def _end_relay(self) -> None:
        """Let the journal be opened by what works: what is reported meanwhile is in memory."""
        with self._handing_over:
            self._shared.leave_relay()
        self._shared.end_relay()

    def _on_not_opened(self, why: str, *, is_busy: bool = False) -> None:
        text = f"dicom_events is idle until this is over: {why}"
        self._closed, self._is_waiting = first_line(text), is_busy
        if not self._ending.is_set():
            self._trouble.begins(text, why, orthanc.LogWarning if is_busy else orthanc.LogError)
            self._last_error = self._trouble.last

    def _say(self, level: str, text: str) -> None:
        with self._saying:
            if level == "error":
                self._last_error = one_line(first_line(text)), time.time()
            if not self._stopped:
                (orthanc.LogError if level == "error" else orthanc.LogWarning)(text)
