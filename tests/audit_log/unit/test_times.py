# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lines are found by their time, whatever the clock did, and files without such lines are not read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def lines(source: Callable[[str], Any]) -> Any:
    return source("audit_log.lines")


def write_file(folder: Path, first: int, *days: str) -> Path:
    path = folder / f"audit-{first:012}.jsonl"
    content = [
        json.dumps({"Number": number, "At": f"2024-01-{day}T00:00:00Z", "Mac": "0" * 64}) + "\n"
        for number, day in enumerate(days, first)
    ]
    path.write_text("".join(content))
    return path


def numbers(lines: Any, folder: Path, since: str = "", until: str = "") -> list[int]:
    return [entry["Number"] for entry in lines.entries_between(folder, since, until, [])]


def test_a_file_is_read_although_the_next_began_while_the_clock_was_behind(lines: Any, tmp_path: Path) -> None:
    write_file(tmp_path, 1, "10", "20", "11")
    write_file(tmp_path, 4, "12", "21")
    assert 2 in numbers(lines, tmp_path, since="2024-01-15")


def test_complete_files_of_another_time_are_not_read(lines: Any, tmp_path: Path) -> None:
    write_file(tmp_path, 1, "01")
    write_file(tmp_path, 2, "10")
    write_file(tmp_path, 3, "20")
    write_file(tmp_path, 4, "30")  # it grows: always read
    assert numbers(lines, tmp_path, "2024-01-05", "2024-01-15") == [2, 4]
    assert numbers(lines, tmp_path) == [1, 2, 3, 4]


def test_a_file_that_is_deleted_meanwhile_has_no_lines(
    lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write_file(tmp_path, 1, "10"), write_file(tmp_path, 2, "10")]
    files[0].unlink()
    monkeypatch.setattr(lines, "log_files", lambda _folder: files)
    assert numbers(lines, tmp_path, since="2024-01-05") == [2]
