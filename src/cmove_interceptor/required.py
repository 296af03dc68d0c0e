# SPDX-License-Identifier: AGPL-3.0-or-later
"""Asks the services that must agree before a move begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.routes import one_line

from .caller import Caller, NotDeliveredError

REQUIRED_AT_A_TIME = 2  # moves that wait for a service: each holds one of Orthanc's few DICOM threads
LONGEST_ANSWER_SECONDS = 5.0  # that a move waits for a required service
TURN_SECONDS = 1.0  # that a move waits until fewer than `REQUIRED_AT_A_TIME` are under way


class RequiredServices:
    """The services without whose agreement nothing moves."""

    def __init__(self, callers: Sequence[Caller]) -> None:
        self._callers = callers
        self._turns = threading.BoundedSemaphore(REQUIRED_AT_A_TIME)

    def ask(self, values: Mapping[str, Any]) -> None:
        """Ask one after the other. Raises `NotDeliveredError` for the first that does not agree."""
        for caller in self._callers:
            self._ask(caller, caller.prepared(values))

    def _ask(self, caller: Caller, prepared: Mapping[str, Any]) -> None:
        # In a thread of its own: to look up a name may take longer than any time limit.
        if not self._turns.acquire(timeout=TURN_SECONDS):
            raise NotDeliveredError(f"{caller.target}: {REQUIRED_AT_A_TIME} others wait for a required service already")
        seconds = min(caller.service.timeout, LONGEST_ANSWER_SECONDS)
        outcome: list[str | None] = []
        done, deadline = threading.Event(), time.monotonic() + seconds

        def send() -> None:
            try:
                caller.send(prepared, seconds, seconds)
                outcome.append(None)
            except Exception as error:  # noqa: BLE001 - whatever it is: the service did not agree
                outcome.append(one_line(error))
            finally:
                self._turns.release()
                done.set()

        threading.Thread(target=send, name="cmove-required", daemon=True).start()
        # Its own time limit may be the first to end.
        if not done.wait(seconds) or (outcome[0] is not None and time.monotonic() >= deadline):
            raise NotDeliveredError(f"{caller.target} did not answer within {seconds:g} s")
        if outcome[0] is not None:
            raise NotDeliveredError(f"{caller.target}: {outcome[0]}")
