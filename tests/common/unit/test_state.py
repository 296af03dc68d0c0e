# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/state.py, worker.py, inbox.py and what the ledger makes of them: on real files and real processes."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn
from testing.waiting import wait_until

SRC = Path(__file__).parents[3] / "src"


@pytest.fixture
def common(orthanc_standin: StandIn) -> Iterator[Any]:
    names = ("state", "ledger", "worker", "inbox", "routes")
    yield SimpleNamespace(**{name: importlib.import_module(f"common.{name}") for name in names})
    for name in [name for name in sys.modules if name.startswith("common.")]:
        del sys.modules[name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "script.sqlite"


def program(text: str, *arguments: object, **more: Any) -> subprocess.Popen[str]:
    """Start a program that has the ledger."""
    head = (
        "import sys, os, time, types\nsys.modules['orthanc'] = types.ModuleType('orthanc')\nfrom pathlib import Path\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(text), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=SRC,
        **more,
    )


HOLDS = """
    from common.ledger import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    print("open", flush=True)
    time.sleep(60)
"""


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()


def full_rows(ledger: Any, number: int, state: str = "done") -> None:
    sql = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) "
        "INSERT INTO work SELECT NULL,'q','s'||i,?,1,0,'',NULL,'{}',i,i,0 FROM n"
    )
    ledger.run(sql, number, state)


# Where it lies


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({}, "OrthancStorage"),
        ({"StorageDirectory": "db"}, "db"),
        ({"StorageDirectory": "db", "IndexDirectory": "/abs"}, "/abs"),
    ],
)
def test_it_lies_with_orthancs_own_index(
    common: Any, orthanc_standin: StandIn, tmp_path: Path, configuration: dict[str, str], expected: str
) -> None:
    (tmp_path / "orthanc.json").write_text("{}")
    orthanc_standin.returns["GetConfigurationPath"] = str(tmp_path / "orthanc.json")
    assert common.state.state_folder(None, configuration) == tmp_path / expected
    assert common.state.state_folder("mine", configuration) == tmp_path / "mine"


# One process


def test_a_second_process_is_kept_out_until_the_first_ends_also_by_kill_9(common: Any, path: Path) -> None:
    first = program(HOLDS, path)
    assert first.stdout
    assert first.stdout.readline() == "open\n"
    with pytest.raises(common.state.StateBusyError, match=rf"another process uses {path};.*set StatePath of each"):
        common.ledger.Ledger(path)
    os.kill(first.pid, signal.SIGKILL)
    end(first)
    common.ledger.Ledger(path).close()


def test_in_one_process_too_a_state_is_opened_once_and_again_when_it_is_closed(common: Any, path: Path) -> None:
    ledger = common.ledger.Ledger(path)
    with pytest.raises(common.state.StateBusyError):
        common.ledger.Ledger(path)
    ledger.add("q", "s", {})
    ledger.close()
    ledger.close()
    assert common.ledger.Ledger(path).totals()["waiting"] == 1


@pytest.mark.parametrize(
    "child",
    [
        "import subprocess; subprocess.Popen(['sleep', '60'], close_fds=False, stdout=2)",
        "if os.fork() == 0: os.close(1); time.sleep(60)",
    ],
)
def test_children_do_not_inherit_the_lock(common: Any, path: Path, child: str) -> None:
    text = f"from common.ledger import Ledger\nledger = Ledger(Path(sys.argv[1]))\n{child}\nprint('open', flush=True)"
    parent = program(text, path, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        assert parent.stdout
        assert parent.stdout.readline() == "open\n"
        parent.wait()
        common.ledger.Ledger(path).close()
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # its group outlives it
        end(parent)


# Modes and links


def test_files_that_others_could_read_are_made_private(common: Any, path: Path) -> None:
    first = common.ledger.Ledger(path)
    first.add("q", "s", {})
    files = {file.name for file in path.parent.iterdir()}
    assert files == {"script.sqlite", "script.sqlite-wal", "script.sqlite-shm", "script.sqlite.lock"}
    for file in path.parent.iterdir():
        file.chmod(0o666)
    copy = path.parent.with_name("copy")  # as after kill -9, with a write-ahead file
    shutil.copytree(path.parent, copy)
    second = common.ledger.Ledger(copy / path.name)
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in copy.iterdir()} == dict.fromkeys(files, 0o600)
    assert second.totals()["waiting"] == 1


@pytest.mark.parametrize("name", ["script.sqlite", "script.sqlite-wal", "script.sqlite-shm", "script.sqlite.lock"])
def test_a_symbolic_link_in_place_of_a_state_file_is_refused_and_its_target_left_alone(
    common: Any, path: Path, tmp_path: Path, name: str
) -> None:
    path.parent.mkdir()
    target = tmp_path / "target"
    for content in (None, b"somebody else's"):
        if content:
            target.write_bytes(content)
            target.chmod(0o644)
        (path.parent / name).unlink(missing_ok=True)
        (path.parent / name).symlink_to(target)
        with pytest.raises(common.state.StateError, match=f"{name} is a symbolic link, which is not allowed"):
            common.ledger.Ledger(path)
        assert target.exists() == bool(content)
    assert target.read_bytes() == b"somebody else's"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    (path.parent / name).unlink()
    common.ledger.Ledger(path).close()


def test_what_is_no_file_is_refused(common: Any, path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(common.state.StateError, match=r"script\.sqlite is no file"):
        common.ledger.Ledger(path)


def test_a_folder_that_can_not_be_made_names_the_key(common: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(common.state.StateError, match=r"can't be made \(.*\); set AtLeastOnce.folder to a folder"):
        common.ledger.Ledger(tmp_path / "file" / "state" / "x.sqlite", key="AtLeastOnce.folder")
    (tmp_path / "x.sqlite").mkdir()
    with pytest.raises(
        common.state.StateError, match=r"can't be written \(Is a directory\); set StatePath to a folder"
    ):
        common.ledger.Ledger(tmp_path / "x.sqlite")


def test_a_failed_opening_leaves_nothing_open(common: Any, path: Path) -> None:
    path.parent.mkdir()
    (path.parent / f"{path.name}-wal").symlink_to("/nowhere")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(common.state.StateError):
            common.ledger.Ledger(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Taken away


@pytest.mark.parametrize(
    "take_away",
    [
        lambda path: path.unlink(),
        lambda path: shutil.rmtree(path.parent),
        lambda path: path.parent.rename(path.parent.with_name("away")),
        lambda path: shutil.copy(path, path.with_name("copy")) and path.with_name("copy").rename(path),
    ],
    ids=["file deleted", "folder deleted", "folder renamed", "file replaced"],
)
def test_nothing_is_written_to_a_state_that_was_taken_away(
    common: Any, path: Path, take_away: Callable[[Path], None]
) -> None:
    ledger = common.ledger.Ledger(path)
    ledger.check()
    take_away(path)
    with pytest.raises(common.state.StateGoneError, match="was deleted or replaced while it was in use"):
        ledger.add("q", "s", {})
    with pytest.raises(common.state.StateGoneError):
        ledger.check()
    ledger.close()


def test_a_lock_that_was_taken_away_is_noticed_for_it_keeps_nobody_out(common: Any, path: Path) -> None:
    ledger = common.ledger.Ledger(path)
    path.with_name(f"{path.name}.lock").unlink()
    with pytest.raises(common.state.StateGoneError, match=r"script\.sqlite\.lock was deleted or replaced"):
        ledger.check()


# Locked and full


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


# What it costs


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


# The worker


class Script:
    """A worker whose opening and turns fail as a test says."""

    def __init__(self, common: Any, path: Path) -> None:
        self.common, self.path = common, path
        self.fault: Exception | None = None
        self.turns = 0
        self.worker = common.worker.Worker("script", self.open_state, self.turn)

    def open_state(self) -> Any:
        if self.fault:
            raise type(self.fault)(*self.fault.args)
        return self.common.ledger.Ledger(self.path)

    def turn(self) -> float:
        if self.fault:
            raise type(self.fault)(*self.fault.args)
        self.turns += 1
        return 60.0


@pytest.fixture
def script(common: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    for name in ("FIRST_RETRY", "LONGEST_RETRY", "AFTER_FAULT", "AFTER_BUG", "LOOK_AT_STATE"):
        monkeypatch.setattr(common.worker, name, 0.02)
    made = Script(common, path)
    yield made
    assert made.worker.stop()


def logged(standin: StandIn) -> list[tuple[str, str]]:
    return [(level, text) for level, text in standin.logs if level in ("error", "warning")]


def test_a_worker_opens_its_state_until_it_can_and_says_so_once(script: Script, orthanc_standin: StandIn) -> None:
    script.fault = sqlite3.OperationalError("database or disk is full")
    assert script.worker.unavailable == "script has not started yet"
    script.worker.start()
    why = "script is idle until this is over: database or disk is full"
    assert script.worker.why_not() == why
    time.sleep(0.2)
    script.fault = None
    wait_until(lambda: script.turns > 1, timeout=5)
    assert script.worker.why_not() is None
    assert logged(orthanc_standin) == [
        ("error", why),
        ("warning", "script goes on, this is over: database or disk is full"),
    ]


def test_a_state_that_another_process_has_is_a_warning_and_is_taken_over(
    script: Script, orthanc_standin: StandIn, path: Path
) -> None:
    first = program(HOLDS, path)
    assert first.stdout
    assert first.stdout.readline() == "open\n"
    script.worker.start()
    assert "another process uses" in str(script.worker.why_not())
    end(first)
    wait_until(lambda: script.turns > 0, timeout=5)
    [(first_level, text), (second_level, over)] = logged(orthanc_standin)
    assert (first_level, second_level) == ("warning", "warning")
    assert str(path) in text
    assert "StatePath" in text
    assert over.startswith("script goes on, this is over: another process uses")


def test_a_configuration_that_is_wrong_turns_it_off(script: Script, orthanc_standin: StandIn) -> None:
    script.fault = ValueError("Matcher: no such file")
    script.worker.start()
    assert script.worker.why_not() == "script stays idle: Matcher: no such file"
    assert script.worker.is_off
    script.fault = None
    time.sleep(0.2)
    assert script.turns == 0
    assert logged(orthanc_standin) == [("error", "script stays idle: Matcher: no such file")]


@pytest.mark.parametrize("fault", [sqlite3.OperationalError("database is locked"), OSError("no"), KeyError("bug")])
def test_a_turn_that_fails_is_taken_again_and_said_once(
    script: Script, orthanc_standin: StandIn, fault: Exception
) -> None:
    script.worker.start()
    wait_until(lambda: script.turns > 0, timeout=5)
    script.fault = fault
    wait_until(lambda: logged(orthanc_standin), timeout=5)
    assert script.worker.why_not() is None  # routes that only read still answer
    time.sleep(0.1)
    script.fault, before = None, script.turns
    wait_until(lambda: script.turns > before, timeout=5)
    assert [level for level, _ in logged(orthanc_standin)] == ["error", "warning"]


def test_it_is_idle_while_its_state_is_away_and_goes_on_when_the_very_same_is_back(
    script: Script, orthanc_standin: StandIn, path: Path
) -> None:
    script.worker.start()
    wait_until(lambda: script.turns > 0, timeout=5)
    path.parent.rename(path.parent.with_name("away"))
    wait_until(lambda: script.worker.unavailable, timeout=5)
    assert "was deleted or replaced while it was in use; restart Orthanc" in str(script.worker.why_not())
    path.parent.mkdir()
    time.sleep(0.1)
    path.write_bytes(path.parent.with_name("away").joinpath(path.name).read_bytes())  # another, though it looks alike
    time.sleep(0.1)
    before = script.turns
    time.sleep(0.1)
    assert script.turns == before
    shutil.rmtree(path.parent)
    path.parent.with_name("away").rename(path.parent)
    wait_until(lambda: script.turns > before, timeout=5)
    assert script.worker.why_not() is None
    assert [level for level, _ in logged(orthanc_standin)] == ["error", "warning"]


def test_the_state_is_free_when_a_worker_has_stopped(script: Script, common: Any, path: Path) -> None:
    script.worker.start()
    wait_until(lambda: script.turns > 0, timeout=5)
    assert script.worker.stop()
    assert script.worker.why_not() == "script has stopped"
    common.ledger.Ledger(path).close()


# What callbacks report


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


# Routes


@pytest.mark.parametrize(
    "fault", [sqlite3.OperationalError("database is locked"), OSError(28, "No space left on device")]
)
def test_a_route_whose_state_can_not_be_used_answers_503_with_the_reason(
    common: Any, orthanc_standin: StandIn, fault: Exception
) -> None:
    def handler(_request: Any) -> None:
        raise fault

    common.routes.register_route("/x", {"GET": handler}, lambda: None)
    answer = orthanc_standin.http("GET", "/x")
    assert answer.status == 503
    assert str(fault) in answer.json()["Message"]
