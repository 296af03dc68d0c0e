# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/inbox.py: what callbacks report is written in order, and no callback waits for it."""

from __future__ import annotations

import sqlite3
import threading
import time
from typing import Any

import pytest


def test_reports_are_written_in_their_order_and_forgotten_only_when_they_are(common: Any) -> None:
    written: list[int] = []
    fault: list[Exception] = []

    def write(report: int) -> None:
        if fault:
            raise fault[0]
        written.append(report)

    inbox = common.inbox.Inbox(write)
    assert not inbox.add(1)  # nothing is open yet
    inbox.open()
    assert not inbox.add(2)  # after the first
    inbox.flush()
    assert inbox.add(3)
    fault.append(sqlite3.OperationalError("database or disk is full"))
    assert not inbox.add(4)
    assert not inbox.add(5)
    with pytest.raises(sqlite3.OperationalError):
        inbox.flush()
    assert (written, len(inbox)) == ([1, 2, 3], 2)
    fault.clear()
    inbox.flush()
    assert (written, len(inbox), inbox.lost) == ([1, 2, 3, 4, 5], 0, 0)


def test_a_callback_never_waits_for_reports_that_are_being_written(common: Any) -> None:
    go_on, writing = threading.Event(), threading.Event()

    def write(_report: int) -> None:
        writing.set()
        assert go_on.wait(5)

    inbox = common.inbox.Inbox(write)
    inbox.add(1)
    inbox.open()
    thread = threading.Thread(target=inbox.flush)
    thread.start()
    assert writing.wait(5)
    began = time.monotonic()
    inbox.add(2)
    assert time.monotonic() - began < 1
    go_on.set()
    thread.join()
    inbox.flush()
    assert len(inbox) == 0


def test_an_odd_report_keeps_no_other_back_and_memory_is_bounded(common: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []

    def write(report: int) -> None:
        written.append(1 / report)

    inbox = common.inbox.Inbox(write)
    monkeypatch.setattr(common.inbox, "MOST_REPORTS", 3)
    for report in (0, 1, 2, 4):
        inbox.add(report)
    with pytest.raises(ZeroDivisionError):
        inbox.flush()
    inbox.flush()
    assert (written, inbox.lost) == ([1, 0.5], 1)
