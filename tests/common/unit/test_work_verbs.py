# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/work.py: the verbs that forwarders use on rows of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes import Clock
from tests.ledgers import MakeLedger


class Rows:
    """A ledger with its rows; a state given to `add` is the row's."""

    def __init__(self, source: Any, ledger: Any) -> None:
        self.ledger = ledger
        module = source("common.work")
        self.which, self.work = module.Which, module.Work(self.ledger)

    def add(self, queue: str, resource: str, state: str = "waiting", task: str = "send", **data: Any) -> int:
        row: int = self.ledger.add(queue, resource, data, task=task)
        if state == "sending":
            self.ledger.start(row)
        elif state != "waiting":
            self.ledger.end(row, state)
        return row

    def found(self, **conditions: Any) -> list[int]:
        return [row["id"] for row in self.work.find(self.which(**conditions))]


@pytest.fixture
def rows(source: Any, clock: Clock, make_ledger: MakeLedger) -> Rows:
    return Rows(source, make_ledger())


def test_rows_are_found_by_each_condition_and_by_all_of_them_together(rows: Rows) -> None:
    one = rows.add("PACS", "a1", Level="Study")
    two = rows.add("VNA", "a1", "sending", Level="Series")
    three = rows.add("PACS", "i1", "dead", Level="Instance", Of="a1")
    rows.work.change(two, job="j2")
    assert rows.found() == [one, two, three]
    assert rows.found(queue="PACS") == [one, three]
    rows.work.change(two, task="delete")
    assert rows.found(not_task="send") == rows.found(task="delete") == [two]
    assert rows.found(resource="a1", states=("sending", "dead")) == [two]
    assert rows.found(resources=["i1", "i2"]) == [three]
    assert rows.found(ids=[one, three], states=("waiting",)) == [one]
    assert rows.found(ids=[]) == rows.found(states=()) == []
    assert rows.found(job="j2") == [two]
    assert rows.found(data={"Level": "Study"}) == [one]
    assert rows.found(about="a1") == [one, two, three]
    assert (rows.found(tried=True), rows.found(tried=False)) == ([two], [one, three])
    assert rows.work.has(rows.which(about="a1"))
    assert not rows.work.has(rows.which(about="b2"))
    assert rows.work.count(rows.which(about="a1", queue="PACS")) == 2


def test_a_page_begins_after_a_row(rows: Rows) -> None:
    added = [rows.add("PACS", f"a{number}") for number in range(4)]
    rows.add("VNA", "a1")
    page = rows.work.page(rows.which(queue="PACS"), added[0], 2)
    assert [row["id"] for row in page] == added[1:3]


def test_rows_are_found_by_when_they_were_added_whatever_became_of_them(rows: Rows, clock: Clock) -> None:
    """A retry, a clock that was set back: neither changes it."""
    begin, added = clock.now, []
    for number in range(6):
        added.append(rows.add("PACS", f"a{number}", "dead" if number == 2 else "done"))
        clock.advance(60)
    rows.work.retry(rows.which(ids=[added[2]]))
    clock.advance(-3600)
    late = rows.add("PACS", "a9")
    some = {"added_since": begin + 60, "added_before": begin + 240}
    assert rows.found(**some) == added[1:4]
    assert rows.found(**some, queue="PACS", states=("done",)) == [added[1], added[3]]
    assert rows.found(**some, about="a3") == [added[3]]
    assert rows.found(added_before=begin) == [late]
    assert rows.work.count(rows.which(**some)) == 3
    pages = [
        rows.work.page(rows.which(**some), since, 2, before)
        for since, before in ((0, None), (added[2], None), (0, added[3]))
    ]
    assert [[row["id"] for row in page] for page in pages] == [added[1:3], [added[3]], [added[2], added[1]]]


def test_a_page_of_a_day_costs_the_same_whatever_the_ledger_holds(source: Any, tmp_path: Path) -> None:
    """The steps of SQLite's machine: of a day with a thousand rows, first and last."""
    rows = Rows(source, source("common.ledger").Ledger(tmp_path / "x.sqlite"))
    rows.ledger.run(source("common.work").ADDED_INDEX)
    sql = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) "
        "INSERT INTO work SELECT NULL,'PACS','study'||i,CASE WHEN i%100=0 THEN 'dead' ELSE 'done' END,1,0,'',NULL,'{}',"
        "1e9,1e9,0,'send',? FROM n"
    )

    def steps(**conditions: Any) -> int:
        counted, which = [0], rows.which(task="send", queue="PACS", **conditions)

        def count() -> int:
            counted[0] += 1
            return 0

        rows.ledger._db.set_progress_handler(count, 10)
        for before in (None, 2**53):
            assert len(rows.work.page(which, 0, 10, before)) == 10
        assert rows.work.count(which) >= 10
        rows.ledger._db.set_progress_handler(None, 0)
        return counted[0]

    days = [1_000_000.0 + 86_400 * number for number in range(100)]
    for day in days[:2]:
        rows.ledger.run(sql, 1000, day)
    wanted = {"added_since": days[1], "added_before": days[1] + 86_400}
    before = [steps(**wanted), steps(**wanted, states=("dead",))]
    for day in days[2:]:
        rows.ledger.run(sql, 1000, day)
    after = [steps(**wanted), steps(**wanted, states=("dead",))]
    assert all(many < 1.2 * few + 10 for few, many in zip(before, after, strict=True))


def test_what_is_sent_is_not_removed_where_only_what_waits_may_be(rows: Rows) -> None:
    row, other = rows.add("PACS", "a1", "sending"), rows.add("PACS", "b2")
    assert not rows.work.remove(row, ("waiting", "dead"))
    assert rows.work.remove(other, ("waiting", "dead"))
    assert not rows.work.remove(other)
    assert rows.found() == [row]


@pytest.mark.parametrize("state", ["waiting", "dead"])
def test_a_retry_begins_the_time_until_it_is_given_up_again(rows: Rows, clock: Clock, state: str) -> None:
    row = rows.add("PACS", "a1", "sending")
    rows.ledger.end(row, state)
    clock.advance(1000)
    assert rows.work.retry(rows.which(ids=[row])) == 1
    found = rows.work.get(row)
    assert (found["state"], found["attempts"], found["next_attempt"], found["created"]) == ("waiting", 0, 0, clock.now)


@pytest.mark.parametrize("state", ["sending", "done", "gone"])
def test_what_is_sent_or_has_ended_is_not_retried_or_made_due(rows: Rows, state: str) -> None:
    row = rows.add("PACS", "a1", state)
    assert rows.work.retry(rows.which(ids=[row])) == rows.work.make_due(rows.which(ids=[row])) == 0
    assert rows.work.get(row)["state"] == state


def test_what_is_taken_back_was_no_attempt_and_what_waits_again_was_one(rows: Rows) -> None:
    one, two = rows.add("PACS", "a1", "sending"), rows.add("PACS", "b2", "sending")
    rows.work.change(one, job="j1")
    rows.work.take_back(one)
    rows.work.wait_again(two)
    assert [(row["state"], row["attempts"], row["job"]) for row in rows.work.find(rows.which())] == [
        ("waiting", 0, None),
        ("waiting", 1, None),
    ]


def test_data_that_somebody_has_changed_are_not_replaced(rows: Rows) -> None:
    row = rows.work.get(rows.add("PACS", "a1", Level="Study"))
    rows.work.change(row["id"], data={"Level": "Study", "Noted": 2})
    assert not rows.work.replace_data(row, {"Level": "Study", "Asked": 1})
    assert rows.work.replace_data(rows.work.get(row["id"]), {"Level": "Series"})
    assert rows.found(data={"Level": "Series"}) == [row["id"]]


def test_what_is_done_since_then_waits_again_and_what_was_done_before_does_not(rows: Rows, clock: Clock) -> None:
    rows.add("PACS", "a1", "done")
    clock.advance(10)
    since = clock.now
    late, _ = rows.add("PACS", "b2", "done"), rows.add("VNA", "b2", "done")
    rows.work.reopen_done("PACS", since)
    assert rows.found(states=("waiting",)) == [late]


def test_a_reason_is_given_to_what_waits_after_the_last_that_has_it(rows: Rows) -> None:
    rows.add("PACS", "a1")
    last = rows.work.explain_waiting("PACS", "wrong", 0)
    rows.work.change(last, next_attempt=5.0)
    rows.add("PACS", "b2"), rows.add("VNA", "b2")
    rows.ledger.run("UPDATE work SET error='' WHERE id=?", last)
    assert rows.work.explain_waiting("PACS", "wrong", last) == last + 1
    assert [row["error"] for row in rows.work.find(rows.which())] == ["", "wrong", ""]
    assert rows.work.explain_waiting("VNA", "wrong", 99) == 99


def test_totals_are_counted_by_queue_and_the_age_without_one_of_them(rows: Rows, clock: Clock) -> None:
    added = clock.now
    rows.add("PACS", "a1", task="delete")
    clock.advance(5)
    rows.add("PACS", "a1"), rows.add("PACS", "b2", "done")
    assert rows.work.totals_by_queue()["PACS"] == {"waiting": 1, "sending": 0, "done": 1, "gone": 0, "dead": 0}
    assert rows.work.oldest_unfinished("delete") == added + 5
    assert rows.work.oldest_unfinished("send") == added


@pytest.mark.parametrize(
    "named", [{"ids": [1]}, {"ids": [1, 2]}, {"resources": ["a1"]}, {"resources": ["a1", "b2"], "not_task": "delete"}]
)
def test_named_rows_are_looked_up_one_by_one_however_many_wait(
    source: Any, tmp_path: Path, named: dict[str, Any]
) -> None:
    """By SQLite, which is to be told; PostgreSQL knows how many rows there are."""
    rows = Rows(source, source("common.ledger").Ledger(tmp_path / "x.sqlite"))
    condition, values = rows.which(**named, states=("waiting", "sending", "dead")).condition()
    plan = rows.ledger.rows(f"EXPLAIN QUERY PLAN SELECT 1 FROM work WHERE {condition} LIMIT 1", *values)
    assert "work_by_subject" in plan[0]["detail"] or "PRIMARY KEY" in plan[0]["detail"]
