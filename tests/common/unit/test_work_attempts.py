# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows of work: how attempts begin and end, how rows are found, and pages of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.fakes import Clock
from tests.ledgers import MakeLedger

Source = Callable[[str], ModuleType]


@pytest.fixture
def ledger(source: Source, make_ledger: MakeLedger, clock: Clock) -> Any:
    work = source("common.work")
    return make_ledger("a", work.data_index("Digest") + work.NEXT_ATTEMPT_INDEX)


@pytest.fixture
def work(source: Source, ledger: Any) -> Any:
    return source("common.work").Work(ledger)


def test_an_attempt_is_claimed_once(ledger: Any, work: Any) -> None:
    row = ledger.add("PACS", "a", {})
    assert work.claim(row, "j1")
    assert not work.claim(row, "j2")
    assert [work.get(row)[name] for name in ("state", "attempts", "job")] == ["sending", 1, "j1"]


def test_a_row_that_was_removed_is_not_claimed(ledger: Any, work: Any) -> None:
    row = ledger.add("PACS", "a", {})
    assert work.remove(row, ("waiting",))
    assert not work.claim(row)


def test_what_is_given_up_is_dead_and_says_why(ledger: Any, work: Any) -> None:
    row = ledger.add("PACS", "a", {})
    work.give_up(row, "it was canceled")
    assert (work.get(row)["state"], work.get(row)["error"]) == ("dead", "it was canceled")


@pytest.mark.parametrize(("state", "found"), [("waiting", True), ("sending", True), ("done", False), ("dead", False)])
def test_unfinished_rows_are_found_by_what_they_do(ledger: Any, work: Any, state: str, found: bool) -> None:
    row = ledger.add("PACS", "a", {"Digest": "d"})
    ledger.run("UPDATE work SET state=? WHERE id=?", state, row)
    assert bool(work.unfinished_with("Digest", "d")) is found
    assert work.unfinished_with("Digest", "e") is None


def test_rows_by_their_digest_and_by_their_next_attempt_are_found_by_an_index(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = source("common.work")
    tables = module.data_index("Digest") + module.NEXT_ATTEMPT_INDEX
    ledger = source("common.ledger").Ledger(tmp_path / "a.sqlite", tables)
    work = module.Work(ledger)
    rows, plans = ledger.rows, []
    monkeypatch.setattr(ledger, "rows", lambda sql, *values: plans.append(rows(f"EXPLAIN QUERY PLAN {sql}", *values)))
    with pytest.raises(TypeError):  # this ledger returns nothing
        work.unfinished_with("Digest", "d")
    work.next_of("PACS", 10, 60)
    assert "USING INDEX work_by_digest" in plans[0][0]["detail"]
    assert "USING INDEX work_by_next" in plans[1][0]["detail"]


def test_the_rows_that_are_due_longest_come_first(ledger: Any, work: Any, clock: Clock) -> None:
    rows = [ledger.add("PACS", name, {}) for name in "abcd"]
    for row, wait in zip(rows, (-10, -20, 30, 3600), strict=True):
        work.change(row, next_attempt=clock.now + wait)
    assert [row["id"] for row in work.next_of("PACS", 10, 60)] == [rows[1], rows[0], rows[3]]
    assert [row["id"] for row in work.next_of("PACS", 1, 60)] == [rows[1]]
    assert work.next_of("other", 10, 60) == []


@pytest.mark.parametrize(("parameters", "ids", "following"), [
    ({}, [1, 2, 3, 4, 5], None), ({"limit": 2}, [1, 2], 2), ({"limit": 2, "since": 2}, [3, 4], 4),
    ({"limit": 2, "since": 3}, [4, 5], None), ({"since": 5}, [], None),
])  # fmt: skip
def test_pages_are_oldest_first_and_say_where_the_next_one_begins(
    source: Source, ledger: Any, work: Any, parameters: dict[str, int], ids: list[int], following: int | None
) -> None:
    for name in "abcde":
        ledger.add("PACS", name, {})
    which = source("common.work").Which()
    answer = source("common.pages").page_answer(
        parameters,
        work.count(which),
        lambda since, limit: work.page(which, since, limit),
        lambda row: {"ID": row["id"]},
    )
    assert answer == {"Total": 5, "Items": [{"ID": each} for each in ids], "Next": following}


def test_a_row_is_found_by_its_subject_and_by_the_job_of_its_attempt(source: Source, ledger: Any, work: Any) -> None:
    row = ledger.add("PACS", "j1", {})
    work.claim(row, "j2")
    which = source("common.work").Which
    assert [work.count(which(job_or_resource=job)) for job in ("j1", "j2", "j3")] == [1, 1, 0]
