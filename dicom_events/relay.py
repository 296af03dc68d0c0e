# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/relay.py: edit that, never this file.
"""What a server that stands by reports: journaled as always, and handed through PostgreSQL to the one that works."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ._common.database import Database
from ._common.postgres import Session, new_process
from ._common.routes import one_line

from .images import Tags
from .journal import Journal
from .journaling import Journaling
from .reported import place_name
from .settings import EventSettings

HANDS_OVER_EVERY_SECONDS = 0.2
AFTER_FAULT_SECONDS = 2.0
NOTE_PLACE = "INSERT INTO state VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value"


class Relay(Journaling):
    """The journal of a server that stands by, and a thread that hands its lines over, each once and in their order.

    Raises
    ------
    OSError, sqlite3.Error : the journal can't be opened, or PostgreSQL be reached; nothing is left open then.
    """

    def __init__(
        self,
        database: Database,
        path: Path,
        events: EventSettings,
        tags: Mapping[str, Tags],
        complain: Callable[[str], None],
        *,
        full: bool,
    ) -> None:
        self._database, self._process = database, new_process()
        self._session = Session(database, "dicom_events", self._process)
        try:
            found = self._session.execute(
                "SELECT value FROM state WHERE name=?", (place_name(database.server),)
            ).fetchall()
            journal = Journal(path, found[0][0] if found else None, full=full)
        except BaseException:
            self._session.close()
            raise
        super().__init__(events, tags, journal, complain)
        self._stopping, self._relay_complaint = threading.Event(), ""
        self._thread = threading.Thread(target=self._work, name="dicom_events relay", daemon=True)
        self._thread.start()

    def is_touched(self, resource: str) -> bool:
        return False

    def close(self, seconds: float) -> bool:
        """End, and close the journal, from which whoever opens it next goes on; return whether the thread has ended."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        self._session.close()
        self.journal.close()
        return True

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._woken = False
            try:
                with contextlib.suppress(OSError):  # that is said already
                    self.write_what_was_kept()
                self._hand_over()
                self._relay_complaint, wait = "", HANDS_OVER_EVERY_SECONDS
            except (sqlite3.Error, OSError) as error:
                text = f"dicom_events hands over what it reports when this is over: {one_line(error)}"
                if text != self._relay_complaint and not self._stopping.is_set():
                    self._relay_complaint = text
                    self._complain(text)
                wait = AFTER_FAULT_SECONDS
            self._stopping.wait(wait)
            self._wake.wait(AFTER_FAULT_SECONDS)
            self._wake.clear()

    def _hand_over(self) -> None:
        if self._session.is_broken:
            self._session.close()
            self._session = Session(self._database, "dicom_events", self._process)
        server = self._database.server
        self._session.execute("SELECT 1")  # a sign of life
        while not self._stopping.is_set() and (lines := self.journal.read()):
            place = self.journal.after(lines)
            with self._session.transaction() as db:
                db.executemany(
                    "INSERT INTO reported(server, line) VALUES(?,?)",
                    [(server, line.decode()) for line in lines],
                )
                db.execute(NOTE_PLACE, (place_name(server), place))
            self.journal.advance(place)
