# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever fails, no connection to the outbox stays open: it would hold the file, and its place on the disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Source = Callable[[str], ModuleType]


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1").fetchall()
    except sqlite3.ProgrammingError:
        return True
    return False


def new_outbox(source: Source, path: Path) -> Any:
    return source("dicom_events.outbox").Outbox(path, durability="normal", most=10**9, oldest=0, refuse=False)


def test_a_comparison_that_ends_early_closes_its_connection(source: Source, tmp_path: Path) -> None:
    outbox = new_outbox(source, tmp_path / "x.sqlite")
    readers: list[sqlite3.Connection] = []
    stopped = source("dicom_events.archive").StoppedError

    def reader() -> sqlite3.Connection:
        readers.append(outbox.reader())
        return readers[-1]

    def stop(_path: str) -> Any:
        raise stopped

    events = SimpleNamespace(deleted_instance=True, deleted_series=False, deleted_study=False, deleted_patient=False)
    applier = SimpleNamespace(recorder=SimpleNamespace(events=events), outbox=SimpleNamespace(reader=reader))
    caught_up = threading.Event()
    caught_up.set()
    comparison = source("dicom_events.comparison").Comparison(
        applier, SimpleNamespace(get=stop), caught_up, threading.Event(), pytest.fail
    )
    comparison.run()
    outbox.close()
    assert [is_closed(each) for each in readers] == [True]


def test_an_outbox_that_can_not_be_made_ready_is_closed(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = source("dicom_events.outbox")
    ledgers: list[Any] = []

    def fail(outbox: Any) -> Any:
        ledgers.append(outbox.ledger)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(module.Outbox, "reader", fail)
        with pytest.raises(sqlite3.OperationalError, match="disk"):
            new_outbox(source, tmp_path / "x.sqlite")
    assert [is_closed(each._db) for each in ledgers] == [True]
    new_outbox(source, tmp_path / "x.sqlite").close()
