# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/ledger.py: exactly when a row is due, given up or forgotten, and what a file beside the ledger can't do to it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes import Clock

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(scope="module")
def module(source_for_module: Any) -> Any:
    return source_for_module("common.ledger")


@pytest.fixture
def ledger(module: Any, clock: Clock, path: Path) -> Any:
    return module.Ledger(path)


def after(seconds: float, give_up_hours: float = 72) -> Any:
    return SimpleNamespace(delay=lambda _: seconds, give_up_hours=give_up_hours)


def row_of(ledger: Any, row: int) -> dict[str, Any]:
    [found] = ledger.rows("SELECT * FROM work WHERE id=?", row)
    return dict(found)


def due(ledger: Any, longest: float = 100) -> list[int]:
    return [row["id"] for row in ledger.due("q", 9, longest)]


def test_a_row_is_given_up_after_its_hours_and_not_before(ledger: Any, clock: Clock) -> None:
    row = ledger.add("q", "s", {})
    clock.advance(72 * HOUR)
    assert ledger.fail(row, "away", after(1)) == "waiting"
    clock.advance(1)
    assert ledger.fail(row, "away", after(1)) == "dead"
    assert row_of(ledger, row)["updated"] == clock.now


def test_a_row_that_failed_is_due_when_its_delay_is_over_and_not_before(ledger: Any, clock: Clock) -> None:
    row = ledger.add("q", "s", {})
    assert due(ledger) == [row]
    ledger.fail(row, "away", after(50))
    clock.advance(49)
    assert due(ledger) == []
    clock.advance(1)
    assert due(ledger) == [row]


def test_an_attempt_further_away_than_the_longest_delay_is_due(ledger: Any, clock: Clock) -> None:
    row = ledger.add("q", "s", {})
    ledger.fail(row, "away", after(100))
    assert (due(ledger, longest=100), due(ledger, longest=99)) == ([], [row])


def test_rows_of_a_higher_priority_come_first_and_no_more_than_asked_for(ledger: Any) -> None:
    rows = [ledger.add("q", f"s{number}", {}, priority) for number, priority in enumerate((0, 5, 0, 5))]
    assert due(ledger) == [rows[1], rows[3], rows[0], rows[2]]
    assert [row["id"] for row in ledger.due("q", 3, 100)] == [rows[1], rows[3], rows[0]]
    assert row_of(ledger, ledger.add("q", "t", {}))["priority"] == 0


def test_a_new_row_waits_has_had_no_attempt_and_is_the_first_or_the_next(ledger: Any, clock: Clock) -> None:
    assert [ledger.add("q", "s", {"a": 1}), ledger.add("q", "s", {})] == [1, 2]
    assert row_of(ledger, 1) == {
        "id": 1, "queue": "q", "subject": "s", "state": "waiting", "attempts": 0, "next_attempt": 0.0, "error": "",
        "job": None, "data": '{"a": 1}', "created": clock.now, "updated": clock.now, "priority": 0, "task": "send",
    }  # fmt: skip


def test_an_attempt_counts_when_it_begins(ledger: Any, clock: Clock) -> None:
    row = ledger.add("q", "s", {})
    ledger.run("UPDATE work SET job='j' WHERE id=?", row)
    clock.advance(5)
    ledger.start(row)
    found = row_of(ledger, row)
    assert (found["state"], found["attempts"], found["job"], found["updated"]) == ("sending", 1, None, clock.now)
    ledger.end(row, "done")
    assert (row_of(ledger, row)["state"], row_of(ledger, row)["error"]) == ("done", "")


def test_a_number_that_was_never_kept_is_the_default(ledger: Any) -> None:
    assert (ledger.get_value("n"), ledger.get_value("n", -1)) == (0, -1)
    ledger.set_value("n", 5)
    ledger.set_value("n", 6)
    assert (ledger.get_value("n"), ledger.get_value("m", 3)) == (6, 3)


def test_a_statement_tells_how_many_rows_it_changed(ledger: Any) -> None:
    for subject in "abc":
        ledger.add("q", subject, {})
    assert ledger.run("UPDATE work SET error='x' WHERE subject<>'a'") == 2


def test_what_has_finished_goes_after_its_days_to_the_second(ledger: Any, clock: Clock) -> None:
    row = ledger.add("q", "s", {})
    ledger.end(row, "done")
    clock.advance(2 * DAY)
    assert ledger.forget_finished(2) is False
    assert ledger.totals()["done"] == 1
    clock.advance(1)
    assert ledger.forget_finished(2) is False
    assert ledger.totals()["done"] == 0


def test_queues_without_rows_in_a_state_are_not_named(ledger: Any) -> None:
    row = ledger.add("q", "s", {})
    ledger.add("r", "s", {}, task="delete")
    assert ledger.queues("waiting") == {"q": 1}
    assert ledger.queues("waiting", "delete") == {"r": 1}
    ledger.end(row, "done")
    assert (ledger.queues("waiting"), ledger.queues("done")) == ({}, {"q": 1})


def test_a_clock_that_goes_a_little_wrong_changes_no_age(ledger: Any, clock: Clock) -> None:
    row, began = ledger.add("q", "s", {}), clock.now
    clock.jump(60)
    ledger.tidy()
    assert row_of(ledger, row)["created"] == began
    clock.jump(1)
    ledger.tidy()
    assert row_of(ledger, row)["created"] == began + 61


def test_what_a_corrupt_ledger_left_beside_it_does_not_come_into_the_new_one(
    module: Any, path: Path, clock: Clock
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 900)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).write_bytes(b"\x37\x7f\x06\x82" + bytes(60))
    ledger = module.Ledger(path)
    assert ledger.quarantined_to == path.with_name(f"{path.name}.corrupt-{int(clock.now)}")
    assert ledger.totals() == dict.fromkeys(module.STATES, 0)
    assert ledger.is_new


def test_a_page_that_is_damaged_shows_when_it_is_opened(module: Any, path: Path) -> None:
    ledger = module.Ledger(path)
    ledger.set_value("n", 1)
    ledger.close()
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    with contextlib.closing(sqlite3.connect(path)) as db:
        [[root]] = db.execute("SELECT rootpage FROM sqlite_master WHERE name='state'").fetchall()
    content[(root - 1) * size : root * size] = b"\x0d" + b"\xff" * (size - 1)
    path.write_bytes(content)
    again = module.Ledger(path)
    assert again.quarantined_to
    assert again.quarantined_to.read_bytes() == bytes(content)
    assert again.get_value("n") == 0


def test_the_ledger_of_the_same_version_is_opened_and_says_which_it_is(module: Any, path: Path) -> None:
    module.Ledger(path).close()
    ledger = module.Ledger(path)
    assert ledger.rows("PRAGMA user_version") == [{"user_version": 2}]
    assert (ledger.is_new, ledger.quarantined_to) == (False, None)
    assert ledger.rows("PRAGMA synchronous") == [{"synchronous": 1}]
    ledger.close()
    assert module.Ledger(path, durability="full").rows("PRAGMA synchronous") == [{"synchronous": 2}]


def test_a_write_to_a_ledger_that_is_closed_or_taken_away_is_no_success(module: Any, path: Path) -> None:
    ledger = module.Ledger(path)
    ledger.close()
    with pytest.raises(sqlite3.OperationalError, match="is closed"):
        ledger.checkpoint()
    other = module.Ledger(path)
    path.unlink()
    with pytest.raises(OSError, match="was deleted or replaced"), other.transaction():
        pytest.fail("it began")
