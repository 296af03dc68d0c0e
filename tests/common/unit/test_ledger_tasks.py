# SPDX-License-Identifier: AGPL-3.0-or-later
"""The task of a row of work is a column of its own; a ledger of the first version, which had none, gets it.

`tests/data/ledger_version_1.sql` has the tables of such a ledger, as its script made them.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
VERSION_1 = (ROOT / "tests" / "data" / "ledger_version_1.sql").read_text()
Row = tuple[str, str, Mapping[str, Any]]
TO_ROUTE = {"Level": "Study", "UID": "", "Last": True, "Instances": {"i1": [7, -1, ""]}, "Origins": []}
TO_SEND = {"Level": "Study", "Instances": ["i1"]}
TO_DELETE = {"Level": "Study", "Instances": None, "Destinations": ["PACS"]}
# Queue, state and data of rows that a forwarder has had, and the task and queue that each has now.
FORWARDED: list[tuple[Row, tuple[str, str]]] = [
    (("", "waiting", TO_ROUTE), ("route", "")),
    (("", "dead", TO_ROUTE), ("route", "")),
    (("PACS", "waiting", TO_SEND), ("send", "PACS")),
    (("PACS", "sending", TO_SEND), ("send", "PACS")),
    (("VNA", "done", {"Level": "Study", "Instances": None}), ("send", "VNA")),
    (("VNA", "gone", TO_SEND), ("send", "VNA")),
    (("VNA", "dead", TO_SEND), ("send", "VNA")),
    (("/delete", "waiting", TO_DELETE), ("delete", "")),
    (("/delete", "done", TO_DELETE), ("delete", "")),
    (("/delete", "waiting", TO_SEND), ("send", "/delete")),  # somebody calls a destination so
    (("", "waiting", TO_SEND), ("send", "")),
]


def make_version_1(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
        now = time.time()
        for number, (queue, state, data) in enumerate(rows, 1):
            values = (number, queue, f"s{number}", state, number % 3, now, "was away", f"j{number}", json.dumps(data))
            db.execute("INSERT INTO work VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", (*values, now - 100, now - 50, number % 2))
            db.execute("INSERT INTO jobs VALUES(?,?)", (f"j{number}", number))
        db.commit()


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("work", "jobs")}


def shape(path: Path) -> dict[str, str]:
    """The tables, indexes and triggers of the rows of work, as SQLite has them: a column that was added is at the end."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name<>'work'").fetchall()
        columns = str(db.execute("PRAGMA table_info(work)").fetchall())
    return {name: re.sub(r"\s+", " ", sql) for name, sql in found} | {"columns": columns}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "script.sqlite"


@pytest.fixture
def first_tasks(source: Any) -> str:
    return str(source("forwarding.tasks").FIRST_TASKS)


def assert_counts_are_right(ledger: Any) -> None:
    counted = ledger.rows("SELECT task, queue, state, COUNT(*) n FROM work GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")
    assert ledger.rows("SELECT * FROM work_counts WHERE n<>0 ORDER BY 1, 2, 3") == counted


def test_a_ledger_without_tasks_gets_them_and_loses_nothing(source: Any, path: Path, first_tasks: str) -> None:
    make_version_1(path, [row for row, _ in FORWARDED])
    before = content(path)
    ledger = source("common.ledger").Ledger(path, first_tasks=first_tasks)
    assert not ledger.is_new
    assert [(row["task"], row["queue"]) for row in ledger.rows("SELECT * FROM work ORDER BY id")] == [
        expected for _, expected in FORWARDED
    ]
    assert_counts_are_right(ledger)
    ledger.close()
    after = content(path)
    assert [(row[0], *row[2:-2]) for row in after["work"]] == [(row[0], *row[2:]) for row in before["work"]]
    assert after["jobs"] == before["jobs"]


def test_a_ledger_that_got_its_tasks_is_like_a_new_one(source: Any, path: Path, first_tasks: str) -> None:
    make_version_1(path, [row for row, _ in FORWARDED])
    new = path.with_name("new.sqlite")
    tables = source("forwarding.engine").ENGINE_TABLES
    work = source("common.work")
    tables += work.data_index("Digest") + work.NEXT_ATTEMPT_INDEX
    for each in (path, new, path):  # the second time there is nothing to do
        source("common.ledger").Ledger(each, tables, first_tasks=first_tasks).close()
    assert shape(path) == shape(new)


def test_counts_follow_what_is_done_with_the_rows_of_a_ledger_that_got_its_tasks(
    source: Any, path: Path, first_tasks: str
) -> None:
    make_version_1(path, [row for row, _ in FORWARDED])
    ledger = source("common.ledger").Ledger(path, first_tasks=first_tasks)
    work = source("common.work")
    ledger.start(3)
    ledger.end(4, "done")
    work.Work(ledger).remove(1)
    work.Work(ledger).change(2, task="send", queue="PACS")
    ledger.add("PACS", "new", {})
    assert_counts_are_right(ledger)


def test_a_ledger_whose_rows_do_not_say_when_they_were_added_is_like_a_new_one(source: Any, path: Path) -> None:
    """One of the second version."""
    piece, tables = source("common.ledger"), source("forwarding.engine").ENGINE_TABLES
    ledger = piece.Ledger(path, tables)
    row = ledger.add("PACS", "s1", TO_SEND)
    created = source("common.work").Work(ledger).get(row)["created"]
    ledger.run("DROP INDEX work_by_added")
    ledger.run("ALTER TABLE work DROP COLUMN added")
    ledger.run("PRAGMA user_version=2")
    ledger.close()
    for _ in range(2):
        ledger = piece.Ledger(path, tables)
        assert [each["added"] for each in ledger.rows("SELECT added FROM work")] == [created]
        ledger.close()
    piece.Ledger(path.with_name("new.sqlite"), tables).close()
    assert shape(path) == shape(path.with_name("new.sqlite"))


def test_a_script_of_before_refuses_a_ledger_with_tasks(source: Any, path: Path) -> None:
    piece = source("common.ledger")
    piece.Ledger(path).close()
    with pytest.raises(sqlite3.OperationalError, match="version 3, made by a newer script"):
        piece.Ledger(path, version=1)


@pytest.mark.parametrize("name", ["", "/delete", "route", "delete", "send"])
def test_a_destination_may_be_called_like_a_task(source: Any, path: Path, name: str) -> None:
    ledger = source("common.ledger").Ledger(path)
    tasks, work = source("forwarding.tasks"), source("common.work").Work(ledger)
    routed = ledger.add(tasks.NO_DESTINATION, "s", TO_ROUTE, task=tasks.ROUTE)
    deleted = ledger.add(tasks.NO_DESTINATION, "s", TO_DELETE, task=tasks.DELETE)
    sent = ledger.add(name, "s", TO_SEND)

    def due(queue: str, *task: str) -> list[int]:
        return [row["id"] for row in ledger.due(queue, 9, 100, *task)]

    assert due(name) == [sent]
    assert due(tasks.NO_DESTINATION, tasks.ROUTE) == [routed]
    assert due(tasks.NO_DESTINATION, tasks.DELETE) == [deleted]
    assert ledger.queues("waiting") == {name: 1}
    assert work.unfinished_listing("Instances") == {name: 1}
    assert work.totals_by_queue() == {name: {"waiting": 1, "sending": 0, "done": 0, "gone": 0, "dead": 0}}
    assert work.explain_waiting(name, "wrong", 0) == sent
    for row in (routed, deleted, sent):
        ledger.end(row, "done")
    work.reopen_done(name, 0)
    states = {row["id"]: row["state"] for row in ledger.rows("SELECT id, state FROM work")}
    assert states == {routed: "done", deleted: "done", sent: "waiting"}


def test_what_the_anonymizer_has_to_do_has_its_task_and_only_recipes_are_queues(source: Any, path: Path) -> None:
    rows: list[Row] = [("", "waiting", {}), ("(re-identify)", "dead", {}), ("ai", "sending", {}), ("ai", "done", {})]
    make_version_1(path, rows)
    tasks = source("anonymize_series.tasks")
    ledger = source("common.ledger").Ledger(path, first_tasks=tasks.FIRST_TASKS)
    found = ledger.rows("SELECT * FROM work ORDER BY id")
    assert [(row["task"], row["queue"]) for row in found] == [
        *[("route", ""), ("re-identify", ""), ("anonymize", "ai"), ("anonymize", "ai")]
    ]
    assert [tasks.recipe_or_task(row) for row in found] == [queue for queue, _, _ in rows]
    assert_counts_are_right(ledger)


KILLED = """
    import os, signal, sqlite3, sys, types
    sys.modules["orthanc"] = types.ModuleType("orthanc")
    sys.path.insert(0, "src")
    from pathlib import Path
    path, left = Path(sys.argv[1]), [int(sys.argv[2])]

    def connect(*arguments, _connect=sqlite3.connect, **more):
        def count(statement):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        found = _connect(*arguments, **more)
        found.set_trace_callback(count)
        return found

    sqlite3.connect = connect
    from common.ledger import Ledger
    from forwarding.tasks import FIRST_TASKS
    Ledger(path, first_tasks=FIRST_TASKS).close()
"""


def migrate_until(path: Path, statement: int) -> bool:
    """Open the ledger in a process that is killed before its nth statement; return whether it was."""
    program = textwrap.dedent(KILLED)
    child = subprocess.run([sys.executable, "-c", program, str(path), str(statement)], cwd=ROOT, check=False)
    assert child.returncode in (0, -signal.SIGKILL)
    return child.returncode != 0


def test_a_ledger_can_be_opened_whenever_its_migration_was_killed(source: Any, path: Path, first_tasks: str) -> None:
    make_version_1(path, [row for row, _ in FORWARDED])
    before = path.read_bytes()
    rows, statement = content(path), 1
    while migrate_until(path, statement):
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)  # the last statement is the commit
        assert content(path) == rows
        ledger = source("common.ledger").Ledger(path, first_tasks=first_tasks)
        found = ledger.rows("SELECT * FROM work ORDER BY id")
        assert [(row["task"], row["queue"]) for row in found] == [expected for _, expected in FORWARDED]
        assert_counts_are_right(ledger)
        ledger.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        path.write_bytes(before)
        statement += 1
    assert statement > 20


def steps_of_a_turn(ledger: Any, work: Any) -> int:
    """The work of SQLite's machine for what a forwarder asks in a turn, and a step of expiry."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    ledger._db.set_progress_handler(count, 10)
    for task in ("route", "delete"):
        ledger.due("", 500, 3600, task)
    ledger.queues("sending")
    for queue in ledger.queues("waiting"):
        ledger.due(queue, 5, 3600)
        work.explain_waiting(queue, "away", 0)
        work.next_of(queue, 5, 3600)
    which = sys.modules["common.work"].Which
    work.find(which(states=("sending",)))
    work.find(which(task="send", queue="NODE", states=("sending",)))
    work.find(which(task="send", queue="NODE", states=("waiting",), tried=True))
    work.find(which(task="send", resource="study7", queue="NODE", states=("waiting",), data={"Level": "Study"}))
    work.find(which(task="delete", resource="study7", states=("waiting", "dead")))
    work.has(which(resources=["study7", "study8"], not_task="delete", states=("waiting", "sending", "dead")))
    work.make_due(which(task="delete", resource="study7", tried=False))
    work.unfinished_listing("Instances")
    work.oldest_unfinished("delete")
    work.totals_by_queue()
    ledger.totals()
    ledger.forget_finished(30)
    ledger._db.set_progress_handler(None, 0)
    return steps


def test_a_turn_costs_the_same_whatever_number_of_rows_has_finished(source: Any, path: Path) -> None:
    insert = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) "
        "INSERT INTO work SELECT NULL,?,'study'||i,'done',1,0,'',NULL,'{}',?,?,0,?,0 FROM n"
    )
    costs = []
    for finished in (300, 300_000):
        ledger = source("common.ledger").Ledger(path.with_name(f"{finished}.sqlite"))
        for task, queue in (("send", "NODE"), ("delete", "")):
            ledger.run(insert, finished // 2, queue, time.time(), time.time(), task)
        for number in range(10):
            ledger.add("NODE", f"waits{number}", TO_SEND)
            ledger.add("", f"waits{number}", TO_ROUTE, task="route")
        costs.append(steps_of_a_turn(ledger, source("common.work").Work(ledger)))
        ledger.close()
    assert costs[1] < 1.2 * costs[0] + 10
