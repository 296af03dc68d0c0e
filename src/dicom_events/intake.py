# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc reports: journaled before the callback returns, and brought into the outbox by a thread."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from common.routes import one_line

from .applier import Applier
from .images import Tags
from .journal import Journal
from .journaling import Journaling
from .outbox import Outbox
from .recorder import Recorder
from .settings import EventSettings

# Seconds in which lines come together, so that not each is a transaction; the longer ones while many come.
LINGER_SECONDS, LONG_LINGER_SECONDS, MANY_LINES = 0.02, 0.2, 5
IDLE_SECONDS = 1.0


class Intake(Journaling):
    """Appends what Orthanc reports to the journal, in well under a millisecond; a thread of its own has it applied."""

    def __init__(
        self,
        outbox: Outbox,
        journal: Journal,
        events: EventSettings,
        tags: Mapping[str, Tags],
        stable_age: float,
        reconcile: bool,
        complain: Callable[[str], None],
    ) -> None:
        super().__init__(events, tags, journal, complain)
        self.outbox = outbox
        self.recorder = Recorder(outbox, events, tags, stable_age, reconcile)
        self.applier = Applier(outbox, journal, self.recorder, self._identities, complain)
        self._complaint, self._stopping = "", threading.Event()
        self._thread = threading.Thread(target=self._work, name="dicom_events intake", daemon=True)

    # What Orthanc calls

    def is_touched(self, resource: str) -> bool:
        return self.recorder.is_touched(resource)

    # The thread

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def join(self, until: float) -> None:
        self._thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while True:
            stopping = self._stopping.is_set()  # then once more: what was reported last
            self._woken = False
            number, wait = 0, IDLE_SECONDS
            try:
                number = self.bring_up_to_date()
                if held := None if stopping else self.applier.release():
                    wait = min(IDLE_SECONDS, max(0.0, held - time.time()))
            except (sqlite3.Error, OSError):
                pass  # what was held back waits for the next turn
            except Exception:  # noqa: BLE001 - the thread that serves all never ends
                self._log_once(f"dicom_events met an error, please report it:\n{traceback.format_exc()}")
            if stopping:
                return
            # A moment to let more come together, then as soon as there is some.
            linger = LONG_LINGER_SECONDS if number >= MANY_LINES else LINGER_SECONDS
            self._stopping.wait(IDLE_SECONDS if self._complaint else linger)
            self._wake.wait(wait)
            self._wake.clear()

    def _log_once(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            self._complain(text)

    def bring_up_to_date(self) -> int:
        """Apply all that is journaled, if that is possible; return how many lines it was."""
        try:
            if self._complaint:  # before anything is written: it needs room itself, and gives more than that
                self.outbox.retention.make_room()
            if self._unwritten:
                with contextlib.suppress(OSError):  # that is said already
                    self.write_what_was_kept()
                    self._journal_complaint = ""
            number = self.applier.apply()
        except (sqlite3.Error, OSError) as error:
            self._log_once(
                f"dicom_events can't write to {self.outbox.where}, and goes on when it can: {one_line(error)}"
            )
            return 0
        self._complaint = ""
        return number

    @property
    def problem(self) -> str:
        """What can't be written now."""
        return self._journal_complaint or self._complaint
