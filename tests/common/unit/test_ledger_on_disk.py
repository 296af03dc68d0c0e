# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/ledger.py and state.py: locks, failing commits, and what the ledger's statements cost."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def full_rows(ledger: Any, number: int, state: str = "done") -> None:
    sql = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) "
        "INSERT INTO work SELECT NULL,'q','s'||i,?,1,0,'',NULL,'{}',i,i,0,'send',i FROM n"
    )
    ledger.run(sql, number, state)


@pytest.fixture
def lock(path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    """Locks the ledger as another program would; the caller closes it."""
    held: list[sqlite3.Connection] = []

    def take() -> sqlite3.Connection:
        path.parent.mkdir(exist_ok=True)
        held.append(sqlite3.connect(path, isolation_level=None))
        held[0].execute("BEGIN EXCLUSIVE")
        return held[0]

    yield take
    for each in held:
        each.close()


def test_a_ledger_that_is_locked_says_so_soon_and_opens_when_it_is_free(
    common: Any, path: Path, lock: Callable[[], sqlite3.Connection]
) -> None:
    holder = lock()
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        common.ledger.Ledger(path)
    assert time.monotonic() - began < 1
    holder.close()
    common.ledger.Ledger(path).add("q", "s", {})


def test_a_commit_that_fails_leaves_no_transaction_in_which_all_later_ones_would_be_lost(
    common: Any, path: Path
) -> None:
    ledger = common.ledger.Ledger(path)
    ledger.rows("PRAGMA foreign_keys=1")
    ledger.run("CREATE TABLE parent(id INTEGER PRIMARY KEY)")
    ledger.run("CREATE TABLE child(id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError):  # raised by COMMIT alone, which leaves the transaction open
        ledger.run("INSERT INTO child VALUES(1)")
    ledger.add("q", "s", {})
    ledger.close()
    assert common.ledger.Ledger(path).totals()["waiting"] == 1


def test_the_write_ahead_file_is_bounded_and_emptied_when_idle(common: Any, path: Path) -> None:
    ledger = common.ledger.Ledger(path)
    wal = path.with_name(f"{path.name}-wal")
    for _ in range(300):
        ledger.add("q", "s", {"x": "x" * 9000})
    assert 0 < wal.stat().st_size < 2 * common.ledger.WAL_BYTES
    ledger.tidy()
    assert wal.stat().st_size > 0  # something was written since the last call
    ledger.tidy()
    assert wal.stat().st_size == 0


def plans(ledger: Any, sql: str, *values: object) -> str:
    rows = ledger.rows(f"EXPLAIN QUERY PLAN {sql}", *values)
    return "; ".join(row["detail"] for row in rows)


def test_expiry_and_totals_never_look_at_rows_that_stay(common: Any, path: Path) -> None:
    ledger = common.ledger.Ledger(path)
    found = plans(ledger, common.ledger.FORGET_FINISHED, 0, 1)
    assert "SEARCH work USING INDEX work_finished (updated<?)" in found
    assert "SCAN" not in found
    assert "TEMP B-TREE" not in found


def test_finished_rows_go_few_at_a_time_and_the_oldest_first(common: Any, path: Path) -> None:
    ledger = common.ledger.Ledger(path)
    full_rows(ledger, 1200)
    assert ledger.forget_finished(1)
    assert ledger.rows("SELECT MIN(id) first, COUNT(*) n FROM work") == [{"first": 501, "n": 700}]
    assert ledger.forget_finished(1)
    assert not ledger.forget_finished(1)
    assert sum(ledger.totals().values()) == 0


def test_counts_follow_every_change_and_are_made_for_a_ledger_that_has_none(common: Any, path: Path) -> None:
    ledger = common.ledger.Ledger(path)
    rows = [ledger.add(queue, "s", {}) for queue in "aab"]
    ledger.start(rows[0])
    ledger.end(rows[1], "done")
    ledger.run("UPDATE work SET queue='c' WHERE id=?", rows[2])
    ledger.run("UPDATE work SET subject='t', state=state")
    expected = {"waiting": 1, "sending": 1, "done": 1, "gone": 0, "dead": 0}
    assert ledger.totals() == expected
    assert (ledger.queues("waiting"), ledger.queues("sending")) == ({"c": 1}, {"a": 1})

    def delete_all_and_fail() -> None:
        with ledger.transaction():
            ledger.run("DELETE FROM work")
            raise KeyError

    with pytest.raises(KeyError):
        delete_all_and_fail()
    assert ledger.totals() == expected
    for name in ("work_added", "work_removed", "work_moved"):
        ledger.run(f"DROP TRIGGER {name}")
    ledger.run("DROP TABLE work_counts")
    ledger.close()
    again = common.ledger.Ledger(path)
    assert again.totals() == expected
    again.run("DELETE FROM work WHERE state<>'done'")
    assert again.totals() == {**dict.fromkeys(expected, 0), "done": 1}


def test_after_one_large_write_the_write_ahead_file_is_small_again(common: Any, path: Path) -> None:
    ledger = common.ledger.Ledger(path)
    wal = path.with_name(f"{path.name}-wal")
    with ledger.transaction():
        for _ in range(600):
            ledger.add("q", "s", {"x": "x" * 9000})
    assert wal.stat().st_size > 4 * common.ledger.WAL_BYTES
    for _ in range(3):
        ledger.add("q", "s", {})
    assert wal.stat().st_size <= common.ledger.WAL_BYTES
