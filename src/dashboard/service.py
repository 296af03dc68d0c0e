# SPDX-License-Identifier: AGPL-3.0-or-later
"""The thread that looks at this Orthanc: each minute for the chart, every other second while somebody has the page open."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Any

import orthanc

from common.http_threads import HttpTurns
from common.ledger import Ledger
from common.loopback import Loopback
from common.routes import Refused
from common.state import state_folder, storage_folder
from common.status import RUNNING, Condition, condition_of
from common.worker import STOPS_WITHIN, Worker, first_line

from .flow import Flow
from .gathering import Gatherer
from .minutes import KEEP_MINUTES, MINUTE_TABLES, Minute, Minutes, Sinces
from .notify import NOTICE_TABLES
from .notifying import Notifier
from .senders import Sender
from .settings import NAME, Settings
from .summary import summary_of, things_of

FRESH_SECONDS = 2.0  # an answer may be so old
WATCHED_SECONDS = 15.0  # after a request, it is looked at again and again for so long
UNWATCHED_SECONDS = 30.0  # between two looks when nobody has the page open
ANSWER_WITHIN_SECONDS = 5.0  # that a request waits for a fresh answer


class Dashboard:
    """Looks at this Orthanc, keeps what it saw in memory, and each minute in its state.

    Attributes
    ----------
    minutes : the last day, once `worker.why_not()` is None.
    """

    minutes: Minutes

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], senders: Mapping[str, Sender]) -> None:
        self.settings, self._configuration = settings, configuration
        self._loopback, self._senders = Loopback(configuration), senders
        self._notifier: Notifier | None = None
        self._turns = HttpTurns(configuration, "summaries")
        self.worker = Worker(NAME, self._open, self._turn)
        self._flow = Flow()
        self._ended = collections.deque[Minute](maxlen=KEEP_MINUTES)  # that are to be written
        self._changed = threading.Condition()
        self._summary: dict[str, Any] | None = None
        self._seen_at = self._asked_at = -3600.0  # monotonic

    def on_change(self, change: int, _level: int, _resource: str) -> None:
        """Count what comes in; start and stop the thread."""
        if change == orthanc.ChangeType.NEW_INSTANCE:
            self._flow.on_instance()
        elif change == orthanc.ChangeType.ORTHANC_STARTED:
            self.worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            deadline = time.monotonic() + STOPS_WITHIN
            self.worker.end()
            if self._notifier:  # while the ledger is open: it keeps what was sent
                self._notifier.stop()
            self.worker.stop(deadline - time.monotonic())

    def condition(self, refusal: str | None) -> Condition:
        """Return whether the script works, and whether people can be notified."""
        found = condition_of(self.worker, refusal)
        if found.state != RUNNING or found.reason or self._notifier is None:
            return found
        return dataclasses.replace(found, reason=self._notifier.problem())

    def summary(self) -> dict[str, Any]:
        """Return the summary, at most 2 s old. All who ask at once get the same one.

        Raises
        ------
        Refused : too many ask at a time, or Orthanc and its scripts do not answer (503).
        """
        self._asked_at = time.monotonic()
        if self._is_fresh():
            assert self._summary is not None
            return self._summary
        with self._turns.turn():  # it waits for the thread, which needs HTTP threads of Orthanc
            self.worker.wake.set()
            with self._changed:
                self._changed.wait_for(self._is_fresh, ANSWER_WITHIN_SECONDS)
        if self._summary is None or time.monotonic() - self._seen_at > UNWATCHED_SECONDS:
            why = first_line(self.worker.trouble.text) or "it was not answered in time"
            raise Refused(503, f"Orthanc's scripts could not be looked at: {why}")
        return self._summary

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._seen_at < FRESH_SECONDS

    # The thread

    def _open(self) -> Ledger:
        if not self._loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        path = state_folder(self.settings.state_path, self._configuration, "dashboard") / "dashboard.sqlite"
        ledger = Ledger(path, MINUTE_TABLES + NOTICE_TABLES, durability=self.settings.durability)
        if ledger.quarantined_to:
            orthanc.LogWarning(
                f"{NAME}: {path} was corrupt and is kept as {ledger.quarantined_to}; the chart begins anew"
            )
        try:
            self.minutes, self._sinces = Minutes(ledger), Sinces(ledger)
            self._gatherer = Gatherer(self._loopback, NAME, storage_folder(self._configuration))
            if self.settings.notify:
                self._notifier = Notifier(self.settings.notify, self._senders, self._configuration, ledger)
                self._notifier.start()
        except BaseException:
            ledger.close()  # the next try opens it again
            raise
        return ledger

    def _turn(self) -> float:
        now = time.monotonic()
        is_watched = now - self._asked_at < WATCHED_SECONDS
        every = FRESH_SECONDS if is_watched else UNWATCHED_SECONDS
        if now - self._seen_at >= every:
            self._look()
        if minute := self._flow.ended_minute():
            self._ended.append(minute)
        while self._ended:
            self.minutes.add(self._ended[0])
            self._ended.popleft()
        return FRESH_SECONDS if is_watched else min(UNWATCHED_SECONDS, 60 - time.time() % 60)

    def _look(self) -> None:
        found = self._gatherer.gather()
        self._flow.look(found)
        self._sinces.update(things_of(found))
        with self._changed:
            self._summary, self._seen_at = summary_of(found, self._flow, self._sinces), time.monotonic()
            self._changed.notify_all()
        if self._notifier:
            self._notifier.look(self._summary)
