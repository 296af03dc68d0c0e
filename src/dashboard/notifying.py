# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notifies people, each channel in a thread of its own: a mail server that is away holds up nothing else."""

from __future__ import annotations

import sqlite3
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.backoff import Pauses
from common.file_system import file_system_of
from common.ledger import Ledger
from common.outside import import_requests
from common.routes import one_line
from common.state import storage_folder
from common.worker import Trouble, first_line

from .notify import Need, Notices, needs_of, unknown_now
from .notify_settings import NotifySettings
from .senders import NotSentError, PartlySentError, Sender

BETWEEN_MESSAGES_SECONDS = 60.0  # of one channel
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 15.0, 1800.0  # until a server that is away is tried again
LOOK_SECONDS = 30.0  # between two looks, if nobody says that there is something
ENDS_WITHIN_SECONDS = 1.0
SERVER_DISK = "disk:server"


class Channel:
    """One way to people: a thread that sends what its notices have, at most one message a minute."""

    def __init__(self, name: str, sender: Sender, notices: Notices, server: str) -> None:
        self.name, self._sender, self._notices, self._server = name, sender, notices, server
        self.trouble = Trouble("dashboard")
        self._pauses = Pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"dashboard notifies by {name}", daemon=True)

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to send."""
        self._wake.set()

    def stop(self) -> None:
        """End, within a second: what was not sent is sent after the next start."""
        self._stopping.set()
        self._wake.set()
        self._sender.close()
        if self._thread.is_alive():
            self._thread.join(ENDS_WITHIN_SECONDS)

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            wait = self._send()
            if wait:
                self._stopping.wait(wait)  # whatever is new, it is gathered
            else:
                self._wake.wait(LOOK_SECONDS)

    def _send(self) -> float:
        """Send what there is, if it is time; return the seconds until the next try, 0 if there is nothing to send."""
        try:
            early = self._notices.last_sent(self.name) + BETWEEN_MESSAGES_SECONDS - time.time()
            if 0 < early <= BETWEEN_MESSAGES_SECONDS:  # a clock that was set back is no reason to wait for long
                return early if self._notices.has_pending(self.name) else 0.0
            if (message := self._notices.message(self.name)) is None:
                return 0.0
            try:
                self._sender.send(message, self._server)
            except PartlySentError as error:
                self._log(str(error))
            else:
                self._is_over()
            self._notices.sent(self.name, message)
            self._pauses.reset()
            return BETWEEN_MESSAGES_SECONDS if self._notices.has_pending(self.name) else 0.0
        except (NotSentError, sqlite3.Error, OSError) as error:
            self._log(one_line(error))
        except Exception:  # noqa: BLE001 - one odd message never ends the thread
            self._log(f"an error, please report it:\n{traceback.format_exc()}")
        return self._pauses.next()

    def _log(self, why: str) -> None:
        if not self._stopping.is_set():
            self.trouble.begins(f"dashboard can't notify by {self.name}, and tries again: {why}", why)

    def _is_over(self) -> None:
        if not self._stopping.is_set():
            self.trouble.is_over()


class Notifier:
    """Decides who has to know what, and starts and stops the channels.

    Raises
    ------
    ValueError : the package requests is needed and missing.
    """

    def __init__(
        self, settings: NotifySettings, senders: Mapping[str, Sender], configuration: Mapping[str, Any], ledger: Ledger
    ) -> None:
        if settings.webhook:
            try:
                import_requests()  # here, where there is room for it
            except ImportError as error:
                raise ValueError(str(error)) from None
        self._settings, server = settings, str(configuration.get("Name") or configuration.get("DicomAet") or "ORTHANC")
        self._notices = Notices(ledger, [*senders])
        self._channels = [Channel(name, sender, self._notices, server) for name, sender in senders.items()]
        self._storage = storage_folder(configuration)

    def start(self) -> None:
        """Begin to send what is left from before."""
        for channel in self._channels:
            channel.start()

    def stop(self) -> None:
        """End."""
        for channel in self._channels:
            channel.stop()

    def look(self, summary: Mapping[str, Any]) -> None:
        """Take a summary: what is new, and what is over, is written down before it is sent."""
        if not self._channels:
            return
        known = self._notices.known()
        needs = needs_of(summary, self._settings.after_minutes, known)
        needs |= disk_need(used_percent(self._storage), self._settings.disk_above, known)
        if self._notices.look(needs, unknown_now(summary, known)):
            for channel in self._channels:
                channel.wake()

    def problem(self) -> str | None:
        """Return why people can't be notified just now, or None."""
        return "; ".join(filter(None, (first_line(channel.trouble.text) for channel in self._channels))) or None


def used_percent(storage: Path) -> float | None:
    """Return how full the file system of Orthanc's files is; None: that is not known."""
    try:
        return file_system_of(storage).used_percent
    except OSError:
        return None


def disk_need(used: float | None, above: float | None, known: set[str]) -> dict[str, Need]:
    """Return the need of more room, if there is one; it is over two percent below the level where it began."""
    if used is None or above is None:
        return {}
    level = above - 2 if SERVER_DISK in known else above
    text = f"The disk is {used:.0f}% full, above {above:g}%"
    return {SERVER_DISK: Need(text, 1, time.time())} if used > level else {}
