# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/ledger.py: work on disk before it is done, on a real file."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn
from tests.ledgers import MakeLedger

NEVER = 1e9


@pytest.fixture
def piece(orthanc_standin: StandIn) -> Iterator[ModuleType]:
    yield importlib.import_module("common.ledger")
    for name in [name for name in sys.modules if name.startswith("common.")]:
        del sys.modules[name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "script.sqlite"


@pytest.fixture
def both(piece: ModuleType, make_ledger: MakeLedger) -> MakeLedger:
    """Opens the test's ledger, with each of the back ends."""
    return make_ledger


def fail(ledger: Any, row: int, give_up_hours: float = NEVER, **more: bool) -> str:
    backoff = importlib.import_module("common.backoff").Backoff(10, 100)
    retry = types.SimpleNamespace(delay=backoff.delay, give_up_hours=give_up_hours)
    return str(ledger.fail(row, "away", retry, **more))


def test_a_new_ledger_says_so_and_only_its_owner_may_read_it(piece: ModuleType, path: Path) -> None:
    ledger = piece.Ledger(path)
    ledger.add("q", "s", {})
    assert ledger.is_new
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    ledger.close()
    assert not piece.Ledger(path).is_new


@pytest.mark.parametrize("content", [bytes(range(256)) * 40, b"SQLite format 3\0" + b"\xff" * 9000])
def test_a_corrupt_file_is_moved_aside_and_a_new_one_made(piece: ModuleType, path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    ledger = piece.Ledger(path)
    assert ledger.is_new
    assert ledger.quarantined_to.read_bytes() == content
    assert ledger.add("q", "s", {}) == 1


def test_a_ledger_of_a_newer_script_is_refused_and_left_alone(piece: ModuleType, path: Path) -> None:
    piece.Ledger(path, version=2).close()
    before = path.read_bytes()
    with pytest.raises(sqlite3.OperationalError, match="made by a newer script"):
        piece.Ledger(path, version=1)
    assert path.read_bytes() == before


def test_what_was_added_survives_kill_9(path: Path) -> None:
    program = textwrap.dedent(f"""
        import sys, time, types
        sys.modules["orthanc"] = types.ModuleType("orthanc")
        from pathlib import Path
        from common.ledger import Ledger
        ledger = Ledger(Path({str(path)!r}))
        while True:
            print(ledger.add("q", "s", {{}}), flush=True)
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3] / "src"
    )
    assert child.stdout
    said = [int(child.stdout.readline()) for _ in range(50)]
    os.kill(child.pid, signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split()]
    child.stdout.close()
    child.wait()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        assert {row[0] for row in db.execute("SELECT id FROM work")} >= set(said)


def test_a_row_waits_longer_after_each_failure_and_is_dead_after_its_time(piece: ModuleType, both: Any) -> None:
    ledger = both()
    row = ledger.add("q", "s", {})
    for longest_wait in (10, 20, 40, 80, 100, 100):
        ledger.start(row)
        assert fail(ledger, row) == "waiting"
        [found] = ledger.rows("SELECT * FROM work")
        assert longest_wait / 2 - 1 <= found["next_attempt"] - time.time() <= longest_wait
        assert found["error"] == "away"
    assert ledger.due("q", 9, 100) == []
    assert fail(ledger, row, give_up_hours=-1) == "dead"


def test_what_is_given_up_at_once_is_dead_whatever_the_clock_says(
    piece: ModuleType, both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = both()
    row = ledger.add("q", "s", {})
    now = time.time()
    monkeypatch.setattr(piece.time, "time", lambda: now - 5e8)
    ledger.start(row)
    assert fail(ledger, row, give_up=True) == "dead"


def test_a_clock_that_jumped_back_strands_nothing(
    piece: ModuleType, both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = both()
    row = ledger.add("q", "s", {})
    now = time.time()
    monkeypatch.setattr(piece.time, "time", lambda: now + 5e8)
    ledger.start(row)
    fail(ledger, row)
    monkeypatch.setattr(piece.time, "time", lambda: now)
    assert [found["id"] for found in ledger.due("q", 9, 100)] == [row]


def test_of_one_subject_only_the_oldest_unfinished_row_is_due_and_other_queues_do_not_wait(
    piece: ModuleType, both: Any
) -> None:
    ledger = both()
    first, _second, other = ledger.add("q", "s", {}), ledger.add("q", "s", {}), ledger.add("q", "t", {})
    elsewhere = ledger.add("r", "s", {})
    assert [row["id"] for row in ledger.due("q", 9, 100)] == [first, other]
    ledger.start(first)
    assert [row["id"] for row in ledger.due("q", 9, 100)] == [other]
    assert [row["id"] for row in ledger.due("r", 9, 100)] == [elsewhere]
    ledger.end(first, "done")
    assert [row["id"] for row in ledger.due("q", 9, 100)] == [_second, other]


def test_a_transaction_is_all_or_nothing_also_nested_and_from_several_threads(piece: ModuleType, both: Any) -> None:
    ledger = both()

    def add_two() -> None:
        with ledger.transaction():
            ledger.add("q", "s", {"n": 1})
            ledger.add("q", "s", {"n": 2})

    threads = [threading.Thread(target=add_two) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = [json.loads(row["data"])["n"] for row in ledger.rows("SELECT data FROM work ORDER BY id")]
    assert order == [1, 2] * 20

    def add_one_and_fail() -> None:
        with ledger.transaction():
            ledger.add("q", "s", {})
            ledger.run("INSERT INTO state VALUES('x', NULL)")

    with pytest.raises(sqlite3.IntegrityError):
        add_one_and_fail()
    assert ledger.totals() == {"waiting": 40, "sending": 0, "done": 0, "gone": 0, "dead": 0}


def test_finished_rows_go_after_their_days_and_no_others(piece: ModuleType, both: Any) -> None:
    ledger = both()
    for state in piece.STATES:
        ledger.end(ledger.add("q", state, {}), state)
    ledger.run("UPDATE work SET updated=updated-86400*10")
    ledger.forget_finished(11)
    assert sum(ledger.totals().values()) == 5
    ledger.forget_finished(9)
    assert ledger.totals() == {"waiting": 1, "sending": 1, "done": 0, "gone": 0, "dead": 1}


def test_it_opens_and_works_where_cursors_outlive_their_lines(
    piece: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Python 3.14 in an HTTP thread of Orthanc, whose small stack makes it put off what is to be freed."""
    kept: list[sqlite3.Cursor] = []

    class Keeping(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            kept.append(super().execute(*arguments))
            return kept[-1]

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Keeping))
    ledger = piece.Ledger(path)
    row = ledger.add("queue", "subject", {})
    ledger.start(row)
    assert fail(ledger, row) == "waiting"
    ledger.set_value("n", 1)
    assert ledger.get_value("n") == 1
    ledger.close()


def test_what_was_closed_at_orthancs_end_is_no_bug_of_the_route_that_comes_too_late(piece: Any, path: Path) -> None:
    ledger = piece.Ledger(path)
    ledger.close()
    with pytest.raises(sqlite3.OperationalError, match=r"sqlite is closed"):
        ledger.totals()
    with pytest.raises(sqlite3.OperationalError, match=r"sqlite is closed"):
        ledger.add("q", "r", {})
