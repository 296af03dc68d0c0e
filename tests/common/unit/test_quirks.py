# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/quirks.py: each trick is still needed, and nothing needs Linux that has no reason to."""

from __future__ import annotations

import concurrent.futures.thread
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn

Source = Callable[[str], ModuleType]
API = Path(__file__).parents[3] / "testing" / "api"
SUPPORTED = [json.loads(path.read_text()) for path in API.glob("*.json")]
POSIX_ONLY = ("O_NOFOLLOW", "fchmod", "fdatasync", "pread", "pwrite", "register_at_fork", "sched_yield")


def test_the_oldest_plugin_still_wants_the_length_of_a_status_body() -> None:
    calls = [each["classes"]["RestOutput"]["SendHttpStatus"]["arguments"] for each in SUPPORTED]
    assert 3 in calls, "send_status needs no second way any more"


def test_versions_still_differ_in_whether_values_of_a_get_arrive_decoded() -> None:
    assert {each["decodes"] for each in SUPPORTED} == {True, False}, "no probe is needed any more"


@pytest.mark.parametrize("takes_length", [True, False])
def test_a_status_is_sent_as_the_plugin_takes_it(source: Source, *, takes_length: bool) -> None:
    sent: list[tuple[Any, ...]] = []

    def send(*arguments: Any) -> None:
        if len(arguments) != (3 if takes_length else 2):
            raise TypeError("Bad types for the arguments")
        sent.append(arguments)

    output = SimpleNamespace(SendHttpStatus=send, SetHttpHeader=lambda *_: None)
    source("common.quirks").send_status(output, 409, "é")
    assert sent == [(409, "é", 2) if takes_length else (409, "é")]


def test_http_client_still_imports_late_what_it_needs() -> None:
    text = "import http.client, sys; print('encodings.idna' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n", "import_for_small_stacks is not needed any more"


def test_python_still_waits_at_its_end_for_threads_in_a_list_of_its_own() -> None:
    assert hasattr(concurrent.futures.thread, "_threads_queues")


def test_a_folder_on_the_command_line_is_found_by_its_parent(
    source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"\0".join([b"Orthanc", b"--x", os.fsencode(folder), b""]))
    find = source("common.quirks").folder_on_command_line
    assert find(tmp_path) == folder
    assert find(tmp_path.parent) is None


def test_where_there_is_no_proc_the_folder_is_the_one_that_orthanc_names(
    source: Source, monkeypatch: pytest.MonkeyPatch, orthanc_standin: StandIn, tmp_path: Path
) -> None:
    def missing(_: Path) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_bytes", missing)
    state = source("common.state")
    monkeypatch.setattr(state.orthanc, "GetConfigurationPath", lambda: str(tmp_path))
    assert state.configuration_folder() == tmp_path


@pytest.mark.parametrize(("content", "ends"), [(b"", True), (b"a\n", True), (b"a", False), (b"a\nb", False)])
def test_a_file_ends_with_a_line_or_does_not(source: Source, tmp_path: Path, content: bytes, *, ends: bool) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        assert source("common.state").ends_with_line(descriptor) is ends
        os.write(descriptor, b"c")
        assert path.read_bytes() == content + b"c"
    finally:
        os.close(descriptor)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is locked as on Windows, where `fcntl` and half of `os` are not there."""
    for name in POSIX_ONLY:
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # can't be imported
    found: list[int] = []
    msvcrt = SimpleNamespace(LK_NBLCK=2, locking=lambda descriptor, *_: found.append(descriptor))
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    return found


def test_the_ledger_needs_nothing_of_posix(locked: list[int], source: Source, tmp_path: Path) -> None:
    ledger = source("common.ledger").Ledger(tmp_path / "x.sqlite")
    ledger.set_value("n", 1)
    assert ledger.get_value("n") == 1
    assert locked
    ledger.close()


def test_the_audit_log_needs_nothing_of_posix(locked: list[int], source: Source, tmp_path: Path) -> None:
    for _ in range(2):  # the second one looks how the first has ended
        log = source("audit_log.log").Log(tmp_path / "log", b"key", 10_000, sync=True)
        log.append([{"Event": "test"}])
        log.close()
    assert len(locked) == 2
    assert [len(path.read_text().splitlines()) for path in (tmp_path / "log").glob("*.jsonl")] == [2]


def test_the_history_of_purges_needs_nothing_of_posix(locked: list[int], source: Source, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"Event": "deleted"}\n{"Eve')
    source("purge_old_studies.history").History(path, durable=True).add([{"Event": "again"}])
    assert path.read_text() == '{"Event": "deleted"}\n{"Event": "again"}\n'
    assert not locked
