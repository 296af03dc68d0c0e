# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/state.py: where state lies, who has it, and what happens when it is taken away."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.common.unit.helpers import HOLDS, end, program


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
