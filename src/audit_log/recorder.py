# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc calls, and the one thread that writes down what it reported."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.arrivals import Arrivals
from common.expiry import Expiry
from common.inbox import Inbox
from common.ledger import Ledger
from common.loopback import Loopback
from common.own_requests import OwnRequest
from common.state import configuration_folder, state_folder
from common.times import utc
from common.worker import Worker

from .dicom_audit import AuditMessages
from .events import EventLines
from .log import Log
from .missed import MissedLines
from .places import PLACE_TABLES, Places
from .repository import RepositorySender
from .settings import SECTION, Settings, read_or_make_key
from .syslog import SyslogReceiver
from .watching import RequestWatcher
from .writer import LineWriter

GATHERING_SECONDS = 0.2  # in which events are gathered, to be written together
TURN_SECONDS = 5.0  # between two looks for what has become quiet
READ_AHEAD_PAUSE_SECONDS = 0.05  # between two parts of what was written before the start: others get the interpreter
LINES_PER_WRITE = 500
MAX_FILE_BYTES = 64_000_000  # then a new file begins


class Recorder:
    """Takes what Orthanc reports into memory; the thread makes lines of it and writes them.

    Attributes
    ----------
    log : the log, once the worker has opened it.
    watches_requests : whether requests are written down.
    sender : sends lines to the audit repository, if there is one and the worker has opened the log.
    """

    log: Log
    sender: RepositorySender | None = None

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self._settings, self._configuration = settings, configuration
        self._loopback, self._arrivals = Loopback(configuration), Arrivals(digests=False)
        # Never opened: making a line may ask Orthanc, which no callback does.
        self._inbox = Inbox[Callable[[], None]](self._make_lines)
        self.worker = Worker("audit_log", self._open, self._turn, self._finish)
        self.watches_requests = False
        self._watcher = RequestWatcher(configuration, lambda: self._loopback._token)
        self._started_at, self._has_finished = "", False
        change = orthanc.ChangeType
        self._job_ends = {int(change.JOB_SUCCESS): True, int(change.JOB_FAILURE): False}

    # What Orthanc calls: return at once

    def on_request(self, uri: str, **request: Any) -> bool:
        """Let every request through: the filter of requests only looks."""
        if seen := self._watcher.seen(uri, request):
            self._add(lambda: self._events.on_request(seen))
        return True

    def on_own_request(self, script: str, request: OwnRequest) -> None:
        """Take what another script of a combined file asks Orthanc for."""
        if seen := self._watcher.seen_of_script(script, request):
            is_written = self._settings.watch_requests is not False
            self._add(lambda: self._events.on_request(seen, is_written=is_written))

    def on_stored(self, dicom: orthanc.DicomInstance, instance: str) -> None:
        self._arrivals.stored(dicom, instance)
        arrival = self._arrivals.get(instance)
        self._arrivals.forget(instance)  # it waits with the event, however many do
        if arrival:
            at = utc()
            self._add(lambda: self._events.on_stored(at, instance, arrival))

    def on_change(self, change: int, level: int, resource: str) -> None:
        at = utc()
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            self._started_at = at
            self.worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self.worker.end()
            if self.sender:  # while the ledger is open: it keeps how far lines were sent
                self.sender.stop()
            self.worker.stop()
            if not self._has_finished and self._inbox:  # the state never opened, or the thread takes too long
                orthanc.LogError(f"audit_log ends, and {len(self._inbox)} events are not written")
        elif change == orthanc.ChangeType.DELETED:
            self._add(lambda: self._events.on_deleted(at, level, resource))
        elif change in self._job_ends:
            success = self._job_ends[change]
            try:
                job = json.loads(orthanc.RestApiGet(f"/jobs/{resource}"))  # it may be forgotten soon
            except orthanc.OrthancException:
                job = {"ID": resource, "Type": "", "Content": {}}
            self._add(lambda: self._events.on_job_end(at, job, success))

    def _add(self, event: Callable[[], None]) -> None:
        self._inbox.add(event)
        if not self.worker.wake.is_set():
            self.worker.wake.set()

    # The thread

    def _open(self) -> Ledger:
        settings = self._settings
        folder = state_folder(settings.state_path, self._configuration, "audit_log")
        ledger = Ledger(folder / "audit_log.sqlite", PLACE_TABLES, durability=settings.durability)
        try:
            key = settings.key or read_or_make_key(folder / "audit_log.key")
            files = configuration_folder() / settings.path if settings.path else folder / "audit-log"
            self.log = Log(
                *(files, key.encode(), MAX_FILE_BYTES),
                sync=settings.durability == "full",
                setting="Path" if settings.path else "StatePath",
            )
            try:
                self.sender = self._make_sender(ledger) if settings.to else None
            except BaseException:
                self.log.close()
                raise
        except BaseException:
            ledger.close()
            raise
        if settings.key is None:
            orthanc.LogWarning(
                f"{SECTION}.Key is not set: whoever can read {folder / 'audit_log.key'} can write a log that looks right"
            )
        self._writer = LineWriter(self.log, settings.keep_days, Expiry(ledger, "audit_log"))
        self._places = Places(ledger, self._loopback)
        self._events = EventLines(self._places, self._writer)
        self._missed = self._make_missed(ledger)
        self._writer.add(self._started_at, "started")
        if self.sender:
            self.sender.start()
        return ledger

    def _make_missed(self, ledger: Ledger) -> MissedLines | None:
        if self._settings.reconcile and self._loopback.enabled:
            return MissedLines(ledger, self._loopback, self._places, self._writer)
        ledger.run("DELETE FROM state WHERE name='cursor'")  # whoever reads the log of changes later begins then
        return None

    def _make_sender(self, ledger: Ledger) -> RepositorySender:
        asked, configuration, host = self._settings.syslog, self._configuration, socket.gethostname()
        aet = str(configuration.get("DicomAet") or "ORTHANC")
        messages = AuditMessages(asked.audit_source or str(configuration.get("Name") or "") or aet, aet, host)
        return RepositorySender(SyslogReceiver(asked, configuration_folder()), messages, host, self.log, ledger)

    def _turn(self) -> float:
        if self._inbox:
            self.worker.stopping.wait(GATHERING_SECONDS)
        self._inbox.flush()
        self._writer.add_counts()
        self._write()
        if self._find_missed() or self._places.learn_some():
            return 0.0
        return READ_AHEAD_PAUSE_SECONDS if self.log.index.read_ahead() else TURN_SECONDS

    def _find_missed(self) -> bool:
        """Write some of what the process before has not written; return whether there is more."""
        if not self._missed:
            return False
        has_more = self._missed.find_some()
        self._write()
        self._missed.note()
        return has_more

    def _finish(self) -> None:
        """Write what there is when Orthanc ends."""
        self._has_finished = True  # whatever is left, this says so
        try:
            self._inbox.flush()
            self._writer.add_counts(everything=True)
            self._writer.add(utc(), "stopped")
            self._write()
            if self._missed:
                self._missed.note(at_end=True)
        except (sqlite3.Error, OSError) as error:
            orthanc.LogError(f"audit_log could not write its last {self.waiting()} lines: {error}")
        finally:
            self.log.close()

    def _make_lines(self, event: Callable[[], None]) -> None:
        """Make the lines of an event; one that can't be made now, for a full disk for example, is made later."""
        if len(self._writer.lines) >= LINES_PER_WRITE:
            self._write()
        try:
            event()
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # noqa: BLE001 - one odd event never keeps the others from the log
            text = f"audit_log met an error, please report it:\n{traceback.format_exc()}"
            self.worker.trouble.begins(text, "an odd event")

    def _write(self) -> None:
        if lost := self._inbox.lost:
            self._writer.add(utc(), "lost", Count=lost)
            self._inbox.lost -= lost
        self._writer.write()
        self._places.forget_deleted()
        if self.sender and self.sender.owed():
            self.sender.notify()

    def waiting(self) -> int:
        """Return how many events and lines are not written yet."""
        return len(self._inbox) + len(self._writer.lines)

    def measure(self) -> dict[str, float]:
        """Return its metrics."""
        return {
            "lines": self.log.number,
            "waiting": self.waiting(),
            "last_written_seconds": time.monotonic() - self._writer.wrote_at,
            "syslog_owed": self.sender.owed() if self.sender else 0,
        }
