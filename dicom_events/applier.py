# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/applier.py: edit that, never this file.
"""Brings the lines of the journal into the outbox, many in one transaction."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .events import ORIGINS
from .images import Identities, Image
from .journal import Journal
from .outbox import Outbox
from .recorder import Recorder

STORED = "STORED_INSTANCE"
REPORTED_AT_ONCE = 500  # lines of other servers that are applied together


class Applier:
    """Applies each line of the journal once, in order. One thread at a time does so; the others wait for it."""

    def __init__(
        self,
        outbox: Outbox,
        journal: Journal,
        recorder: Recorder,
        identities: Identities,
        complain: Callable[[str], None],
    ) -> None:
        self.outbox, self.recorder = outbox, recorder
        self._journal, self._identities, self._complain = journal, identities, complain
        self._applying = threading.RLock()
        self._former_is_applied = False

    def apply(self) -> int:
        """Bring all that is journaled into the outbox, in order, each line once; return how many it was.

        Raises
        ------
        sqlite3.Error, OSError : the outbox can't be written; what is not applied stays in the journal.
        """
        number = 0
        with self._applying:
            while lines := self._journal.read():
                self._apply(lines)
                number += len(lines)
                self._take_over()
            self._take_over()
            if self.outbox.ledger.is_shared:
                number += self._apply_reported()
        return number

    def _apply_reported(self) -> int:
        """Bring into the outbox what servers that stand by have handed over, each line once; return how many it was."""
        number = 0
        while rows := self.outbox.ledger.rows("SELECT id, line FROM reported ORDER BY id LIMIT ?", REPORTED_AT_ONCE):
            self._apply_rows(rows)
            number += len(rows)
        return number

    def _apply_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        # By their ids: one with a lower id may be committed later than these.
        gone = "DELETE FROM reported WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each(?))"
        ids = json.dumps([row["id"] for row in rows])
        try:
            with self.recorder.transaction():
                for row in rows:
                    report, _, text = row["line"].partition("\t")
                    name, when, _clock, *rest = json.loads(report)
                    # The other server's steady clock says nothing here.
                    clock = time.monotonic() - max(0.0, time.time() - when)
                    self._record(text, name, when, clock, *rest)
                self.outbox.ledger.run(gone, ids)
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # noqa: BLE001 - one bad line never holds up all others
            if len(rows) > 1:
                for row in rows:
                    self._apply_rows([row])
                return
            self._complain(
                f"dicom_events leaves out a line of another server's journal, please report it:\n{traceback.format_exc()}"
            )
            self.outbox.ledger.run(gone, ids)

    @contextlib.contextmanager
    def up_to_date(self) -> Iterator[Recorder]:
        """Open a transaction for what is made up: after all that was reported before, and nothing comes in between."""
        with self._applying:
            self.apply()
            with self.recorder.transaction():
                yield self.recorder

    def release(self) -> float | None:
        """Publish the throttled instances whose interval is over; return the next time when this is needed, or None."""
        with self._applying:
            return self.recorder.release()

    def _take_over(self) -> None:
        if not self._former_is_applied and self._journal.place >= self._journal.former:
            self.recorder.take_over()
            self._former_is_applied = True
            with contextlib.suppress(OSError):
                self._journal.start_empty_file()

    def _apply(self, lines: list[bytes]) -> None:
        place = self._journal.after(lines)
        try:
            with self.recorder.transaction():
                for line in lines:
                    report, _, text = line.decode().partition("\t")
                    self._record(text, *json.loads(report))
                self.outbox.set_place(place)
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # noqa: BLE001 - one bad line never holds up all others
            if len(lines) > 1:
                for line in lines:
                    self._apply([line])
                return
            self._complain(
                f"dicom_events leaves out a line of its journal, please report it:\n{traceback.format_exc()}"
            )
            self.outbox.set_place(place)
        self._journal.advance(place)

    def _record(self, text: str, name: str, when: float, clock: float, *report: Any) -> None:
        if name != STORED:
            level, resource = report
            self.recorder.changed(name, level, resource, when, clock)
            return
        instance, values, kind, aet, ip, received = report
        origin = {"kind": ORIGINS.get(kind, "UNKNOWN"), "aet": aet, "ip": ip}
        identifiers = self._identities.find(instance, values, text)
        self.recorder.stored(Image(when, clock, *identifiers, origin, received))
