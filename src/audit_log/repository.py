# SPDX-License-Identifier: AGPL-3.0-or-later
"""The thread that sends lines to an audit repository: from the files, so that nothing else has to be kept."""

from __future__ import annotations

import re
import sqlite3
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orthanc

from common.backoff import Pauses
from common.ledger import Ledger
from common.routes import one_line
from common.worker import Trouble

from .dicom_audit import AuditMessages
from .lines import log_files, parse_line
from .log import Log
from .syslog import SyslogReceiver, syslog_message

SENT = "syslog_sent"  # of the ledger's numbers: the number of the last line that was sent
LINES_PER_BATCH = 50
LOOK_SECONDS = 60.0  # between two looks, where nobody says that there is something new
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds until a repository that is away is tried again
STOPS_WITHIN_SECONDS = 1.0  # in which the last lines go out when Orthanc ends
NUMBER = re.compile(rb'\{"Number": ([0-9]+),')


class LogReader:
    """Reads the lines of a log in their order, whole ones only, and remembers where it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._place = Path(), 0

    def after(self, number: int, newest: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return lines with numbers above `number`, up to `newest`, and how many before them are gone with their file."""
        files = [(int(path.stem.removeprefix("audit-")), path) for path in log_files(self._folder)]
        gone = max(0, files[0][0] - number - 1) if files else 0
        number += gone
        for position, (first, path) in enumerate(files):
            following = files[position + 1][0] if position + 1 < len(files) else newest + 1
            if following <= number + 1:
                continue
            try:
                found = self._read(path, number, newest, limit)
            except FileNotFoundError:
                return [], gone  # dropped for its age just now: the next look counts it
            if found:
                return found, gone
            gone += max(0, following - max(first, number + 1)) if following <= newest else 0
        return [], gone

    def _read(self, path: Path, number: int, newest: int, limit: int) -> list[dict[str, Any]]:
        if path != self._path:
            self._path, self._place = path, 0
        found: list[dict[str, Any]] = []
        with path.open("rb") as file:
            file.seek(self._place)
            place = self._place
            while len(found) < limit and (raw := file.readline()).endswith(b"\n"):
                head = NUMBER.match(raw)
                if head and int(head[1]) > newest:
                    break  # it is being written, and may yet be taken back
                if head and int(head[1]) <= number:
                    self._place = place + len(raw)  # that far it is sent
                elif head and (line := parse_line(raw[:-1])):
                    found.append(line.content)
                place += len(raw)
        return found


class RepositorySender:
    """Sends each line that a message fits, in order; those that were sent before a kill came, and not noted, go twice.

    Attributes
    ----------
    sent : the number of the last line that was sent, or that fits no message.
    trouble : why nothing can be sent now.
    """

    def __init__(self, receiver: SyslogReceiver, messages: AuditMessages, host: str, log: Log, ledger: Ledger) -> None:
        self._receiver, self._messages, self._host = receiver, messages, host
        self._log, self._ledger = log, ledger
        self._reader = LogReader(log.folder)
        self.trouble = Trouble("audit_log")
        self._odd = Trouble("audit_log")
        self._pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self._wake, self._stopping, self._is_cut = threading.Event(), threading.Event(), False
        self._noted = self.sent = self._first_place()
        self._thread = threading.Thread(target=self._work, name="audit_log to syslog", daemon=True)

    @property
    def url(self) -> str:
        """Where lines go."""
        return self._receiver.url

    def owed(self) -> int:
        """Return how many lines wait."""
        return max(0, self._log.number - self.sent)

    def _first_place(self) -> int:
        """Return the number to go on after: of a log that was never sent, or is another one now, only what comes is sent."""
        found, newest = self._ledger.get_value(SENT, -1), self._log.number
        if 0 <= found <= newest:
            return found
        if newest:
            orthanc.LogWarning(
                f"audit_log sends its lines to {self.url} from number {newest + 1} on; the older ones stay in the files"
            )
        self._ledger.set_value(SENT, newest)
        return newest

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def notify(self) -> None:
        """Say that there are new lines."""
        self._wake.set()

    def stop(self) -> None:
        """Send what there is, for a second at most, and end."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOPS_WITHIN_SECONDS)
        self._is_cut = True
        if self._thread.is_alive():
            self._receiver.cut()
            self._thread.join(STOPS_WITHIN_SECONDS / 4)

    # The thread

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.is_set()
            if is_last and self.trouble.text:
                return
            self._wake.clear()
            if self._sends_all():
                self._wake.wait(0 if self._stopping.is_set() else LOOK_SECONDS)
            else:
                self._stopping.wait(self._pauses.next())

    def _sends_all(self) -> bool:
        """Send all that there is; return whether that went well."""
        try:
            while not self._is_cut and self._sends_some():
                pass
            self._note()
            if not self._stopping.is_set():
                self.trouble.is_over()
        except (OSError, ValueError, sqlite3.Error) as error:
            why = one_line(error)
        except Exception:  # noqa: BLE001 - whatever it is, the next try may go well
            why = f"an error, please report it:\n{traceback.format_exc()}"
        else:
            return True
        if not self.trouble.text and not self._stopping.is_set():  # one line, however the reason changes
            self.trouble.begins(f"audit_log can't send to {self.url}, lines wait in the files: {why}", why)
        return False

    def _sends_some(self) -> bool:
        lines, gone = self._reader.after(self.sent, self._log.number, LINES_PER_BATCH)
        if gone:
            if not self._stopping.is_set():
                orthanc.LogWarning(
                    f"audit_log: {gone} lines were gone from the files before they were sent to {self.url}"
                )
            self.sent += gone
        if not lines:
            return False
        if messages := self._messages_of(lines):
            self._receiver.send(messages)
            if not self._stopping.is_set():
                self.trouble.is_over()
            self._pauses.reset()
        self.sent = lines[-1]["Number"]
        self._note()
        return True

    def _note(self) -> None:
        """Keep the place; if that fails, what was sent is at least not sent again as long as Orthanc runs."""
        if self._noted != self.sent:
            self._ledger.set_value(SENT, self.sent)
            self._noted = self.sent

    def _messages_of(self, lines: Sequence[dict[str, Any]]) -> list[bytes]:
        found = []
        for line in lines:
            try:
                text = self._messages.of(line)
            except Exception:  # noqa: BLE001 - one odd line never keeps the others back
                text = None
                if not self._stopping.is_set():
                    self._odd.begins(
                        f"audit_log met an error, please report it:\n{traceback.format_exc()}", "an odd line"
                    )
            if text is not None:
                found.append(syslog_message(line["At"], self._host, text))
        return found
