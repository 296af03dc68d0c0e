# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/shared.py: edit that, never this file.
"""Where several servers share the outbox: whether this one works or stands by."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ._common.database import Database
from ._common.ledger import Ledger
from ._common.postgres_ledger import PostgresLedger
from ._common.routes import one_line
from ._common.state import StateError, StateLock

from .images import Tags
from .relay import Relay
from .settings import EventSettings

RELAY_ENDS_WITHIN_SECONDS = 1.0


class SharedOutbox:
    """Who works, and the relay of a server that stands by. One thread opens; `lost` wakes it."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self.lost = threading.Event()
        """Another server has taken over."""
        self.worked_by = ""
        """The server that works, while this one stands by."""
        self.relay: Relay | None = None
        self._lock: StateLock | None = None
        self._ending_relay: Relay | None = None

    def own_journal(self, folder: Path) -> Path:
        """Return the path of this server's journal, which no other process may have. Raises OSError: one has it."""
        path = folder / "dicom_events.journal"
        self._lock = self._lock or StateLock(path)
        return path

    def works(self, ledger: Ledger) -> None:
        """Note that this server works from now on."""
        self.lost.clear()
        self.worked_by = ""
        if isinstance(ledger, PostgresLedger):
            ledger.on_lost = self.lost.set

    def stand_by(
        self,
        worked_by: str,
        database: Database,
        folder: Path,
        events: EventSettings,
        tags: Mapping[str, Tags],
        *,
        full: bool,
    ) -> Relay | None:
        """Note who works; return a relay, unless there is one, or none can be begun now."""
        self.worked_by = worked_by
        if self.relay:
            return None
        try:
            return Relay(
                database, self.own_journal(folder), events, tags, lambda text: self._say("error", text), full=full
            )
        except (sqlite3.Error, OSError) as error:
            self._say("error", f"dicom_events keeps what it reports in memory until this is over: {one_line(error)}")
            return None

    def leave_relay(self) -> None:
        """Report nothing more to the relay."""
        self._ending_relay, self.relay = self._ending_relay or self.relay, None

    def end_relay(self) -> None:
        """End the relay that was left: the journal is opened by what works. Raises OSError: it has not ended yet."""
        if self._ending_relay and not self._ending_relay.close(RELAY_ENDS_WITHIN_SECONDS):
            raise StateError("the journal is still handed over to the server that worked before")
        self._ending_relay = None
