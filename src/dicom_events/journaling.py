# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc reports goes into the journal before the callback returns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping

from common.routes import one_line

from .images import Tags
from .journal import Journal
from .reports import KEPT_CHANGES, EarlyReports, Reports
from .settings import EventSettings


class Journaling(Reports):
    """Appends what Orthanc reports to the journal, in well under a millisecond, and wakes a thread."""

    def __init__(
        self,
        events: EventSettings,
        tags: Mapping[str, Tags],
        journal: Journal,
        complain: Callable[[str], None],
    ) -> None:
        super().__init__(events, tags)
        self.journal, self._complain = journal, complain
        self._unwritten: deque[bytes] = deque(maxlen=KEPT_CHANGES)
        self._writing = threading.RLock()
        self._journal_complaint = ""
        self._woken, self._wake = False, threading.Event()

    def take_early(self, early: EarlyReports, most: int = 0) -> None:
        """Journal what came before there was a journal, until `most` lines of it are left."""
        while len(early) > most:
            text, keep = early.take()
            self._write_down(text, keep=keep)

    def _write_down(self, text: str, *, keep: bool = False) -> None:
        """Append a line. A disk that is full refuses no image: those are found in /changes, and changes are kept (`keep`)."""
        line = text.replace("\n", "").encode()  # it is JSON, where they mean nothing
        try:
            if self._unwritten:
                self.write_what_was_kept()
            self.journal.append(line)
        except OSError as error:
            if keep:
                self._unwritten.append(line)
            text = f"dicom_events can't write to {self.journal.path}, and goes on when it can: {one_line(error)}"
            if text != self._journal_complaint:
                self._journal_complaint = text
                self._complain(text)
            return
        self._journal_complaint = ""
        if not self._woken:
            self._woken = True
            self._wake.set()

    def write_what_was_kept(self) -> None:
        """Write what could not be written before. Raises `OSError`: it can't be yet."""
        with self._writing:
            while self._unwritten:
                self.journal.append(self._unwritten[0])
                self._unwritten.popleft()
