# SPDX-License-Identifier: AGPL-3.0-or-later
"""Delivers the notifications that wait for one service, at least once."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import orthanc

from common.ledger import Ledger
from common.retry import Retry
from common.routes import one_line
from common.work import Which, Work
from common.worker import Trouble

from .caller import Caller, NotDeliveredError

LOOK_SECONDS = 2.0  # between looks for notifications that are due
ROWS_PER_LOOK = 100


class Delivery:
    """The thread that delivers to one service what is due, from the ledger's queue of its name."""

    def __init__(self, caller: Caller, ledger: Ledger, retry: Retry) -> None:
        self._caller, self._ledger, self._retry = caller, ledger, retry
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._has_unsettled = False  # rows whose attempt has ended, which could not be written down
        self._thread = threading.Thread(target=self._work, name=f"cmove-notify {caller.name}", daemon=True)

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once for what is due."""
        self._wake.set()

    def end(self) -> None:
        """End after the notification that is under way; return at once."""
        self._stopping.set()
        self._wake.set()

    def join(self, deadline: float) -> None:
        """Wait for the end until a time of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    # The thread

    def _work(self) -> None:
        trouble = Trouble("cmove_interceptor (notifications)")
        while not self._stopping.is_set():
            try:
                if not self._deliver():
                    self._wake.wait(LOOK_SECONDS)
                    self._wake.clear()
                if not self._stopping.is_set():
                    trouble.is_over()
            except (sqlite3.Error, OSError) as error:
                self._has_unsettled = True
                if not self._stopping.is_set():
                    trouble.begins(f"cmove_interceptor delivers when this is over: {one_line(error)}", one_line(error))
                self._stopping.wait(LOOK_SECONDS)
            except Exception:  # noqa: BLE001 - the next notification is not lost for it
                orthanc.LogError(f"cmove_interceptor can't deliver, please report this:\n{traceback.format_exc()}")
                self._stopping.wait(LOOK_SECONDS)

    def _deliver(self) -> bool:
        """Deliver what is due; return whether there was something."""
        if self._has_unsettled:
            self._send_unsettled_again()
        due = self._ledger.due(self._caller.name, ROWS_PER_LOOK, self._retry.longest)
        for row in due:
            if self._stopping.is_set():
                break
            self._ledger.start(row["id"])
            try:
                self._caller.send(self._prepared(json.loads(row["data"])), self._caller.service.timeout)
            except NotDeliveredError as error:
                if self._stopping.is_set():  # it may have been ended here: it is sent at the next start
                    break
                self._fail(row, one_line(error))
            except Exception as error:  # noqa: BLE001 - of this notification alone: the next one is sent
                self._fail(row, f"it can't be sent: {type(error).__name__}: {one_line(error)}")
            else:
                self._ledger.end(row["id"], "done")
        return bool(due)

    def _send_unsettled_again(self) -> None:
        """Let all be due of which nobody knows how it ended: at least once. None is under way, for this thread alone sends."""
        work = Work(self._ledger)
        for row in work.find(Which(queue=self._caller.name, states=("sending",))):
            work.wait_again(row["id"])
        self._has_unsettled = False

    def _prepared(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return what a row says, for the service as it is configured now; the first version wrote down what it would send."""
        return data if "Url" in data else self._caller.prepared(data["Values"])

    def _fail(self, row: Mapping[str, Any], error: str) -> None:
        state = self._ledger.fail(row["id"], error, self._retry)
        if row["attempts"] == 0 or state == "dead":
            after = "given up" if state == "dead" else "it goes again"
            name = self._caller.name
            orthanc.LogWarning(f"cmove_interceptor: a notification did not reach {name}: {error}; {after}")
