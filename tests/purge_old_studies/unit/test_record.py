# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: the record is read by an index, and the status tells how each rule fares."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.purge_old_studies.unit.test_guards import NAME, RULE, Purging, purging  # noqa: F401 - a fixture


def line(number: int, purge: int | None) -> dict[str, Any]:
    return {
        "Time": "2026-03-01T02:30:00Z",
        "Purge": purge,
        "Event": "deleted",
        "ID": f"{number}",
        "PatientID": "P" * 40,
    }


@pytest.fixture
def history(source: Callable[[str], ModuleType], tmp_path: Path) -> Any:
    line_index: Any = source("common.line_index")
    line_index.BLOCK_LINES, line_index.READ_BYTES = 7, 1000
    made = source("purge_old_studies.history").History(tmp_path / "history.jsonl", durable=False)
    yield made
    made.close()


def pages(history: Any, limit: int, purge: int | None) -> list[dict[str, Any]]:
    """All lines, page after page."""
    found, since = list[dict[str, Any]](), 0
    while True:
        page = history.page(since, limit, purge)
        found += page["Items"]
        if (since := page["Next"]) is None:
            assert page["Total"] == len(found)
            return found


@pytest.mark.parametrize("purge", [None, 1, 2, 77])
def test_the_pages_of_the_record_have_each_line_once(history: Any, purge: int | None) -> None:
    lines = [line(number, 1 + number // 30 if number % 9 else None) for number in range(1, 100)]
    for start in range(0, 99, 13):  # it is read while it grows
        history.add(lines[start : start + 13])
        history.page(0, 1, None)
    wanted = [
        {"Number": number, **each} for number, each in enumerate(lines, 1) if purge is None or each["Purge"] == purge
    ]
    for limit in (1, 3, 7, 8, 100):
        assert pages(history, limit, purge) == wanted
    assert [each["ID"] for each in history.lines_of(2)] == [each["ID"] for each in lines if each["Purge"] == 2]


def test_what_a_disk_has_spoilt_is_not_shown_and_a_file_that_was_moved_away_is_read_anew(
    history: Any, tmp_path: Path
) -> None:
    file = tmp_path / "history.jsonl"
    history.add([line(1, 1)])
    with file.open("ab") as spoilt:
        spoilt.write(b"\0\0\0\n[3]\n" + json.dumps(line(4, 1)).encode() + b"\n" + b'{"Time": "", "Purge": 1, ')
    assert [each["Number"] for each in history.page(0, 10, 1)["Items"]] == [1, 4]
    assert history.page(0, 10, None)["Total"] == 2
    with file.open("ab") as spoilt:
        spoilt.write(b'"ID": "5"}\n')
    assert [each["Number"] for each in history.page(0, 10, 1)["Items"]] == [1, 4, 5]
    assert history.page(0, 10, 1)["Total"] == 3
    file.write_text(json.dumps(line(9, 5)) + "\n")
    assert [each["ID"] for each in history.page(0, 10, None)["Items"]] == ["9"]
    assert history.page(0, 10, None)["Total"] == 1


def test_lines_that_a_full_disk_cut_off_again_are_not_in_the_index(
    history: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, append_only = tmp_path / "history.jsonl", importlib.import_module("common.append_only")
    history.add([line(1, 1)])

    def full(_file: int, data: bytes, _place: int) -> int:
        with file.open("ab") as spoilt:
            spoilt.write(data[:-5])
        assert history.page(0, 10, None)["Total"] == 2  # somebody looks in this moment
        return len(data) - 5

    with monkeypatch.context() as patch:
        patch.setattr(append_only, "_write_at", full)
        with pytest.raises(OSError, match="No space"):
            history.add([line(2, 1), line(3, 1)])
    history.add([line(4000, 2), line(5, 1)])
    assert [each["ID"] for each in history.page(0, 10, None)["Items"]] == ["1", "4000", "5"]
    assert [each["ID"] for each in history.lines_of(2)] == ["4000"]
    assert history.page(0, 10, 1)["Total"] == 2


def test_a_page_is_read_without_what_is_before_it(
    history: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.add([line(number, 1) for number in range(5000)])
    history.read_ahead()
    decoded = list[object]()
    loads = json.loads

    def counted(text: bytes) -> Any:
        decoded.append(text)
        return loads(text)

    monkeypatch.setattr(json, "loads", counted)
    assert [each["Number"] for each in history.page(4900, 10, None)["Items"]] == list(range(4901, 4911))
    assert len(decoded) == 11
    monkeypatch.undo()
    file = tmp_path / "history.jsonl"
    with file.open("r+b") as spoilt:  # not read once more: what is before it may be anything
        spoilt.write(b"x" * 100_000)
    assert history.page(4900, 10, None)["Total"] == 5000


def test_pages_are_read_while_others_write(history: Any) -> None:
    writer = threading.Thread(target=lambda: [history.add([line(number, 1)]) for number in range(300)])
    writer.start()
    while writer.is_alive():
        found = history.page(0, 1000, None)
        assert [each["ID"] for each in found["Items"]] == [f"{number}" for number in range(len(found["Items"]))]
        time.sleep(0.001)
    writer.join()
    assert history.page(0, 1, None)["Total"] == 300


def rule_of(purging: Purging) -> dict[str, Any]:  # noqa: F811 - the type, not the fixture
    [rule] = purging.script.get(f"{NAME}/status")["Rules"]
    return dict(rule)


def test_the_status_tells_the_next_run_of_a_rule_and_how_the_last_one_went(purging: Purging) -> None:  # noqa: F811
    purging.add("a1")
    purging.start(Rules=[RULE])
    purging.looked()
    said = rule_of(purging)
    assert said.pop("Conditions")["OlderThan"] == "7y"
    assert said == {"Name": "old", "Next": "2026-03-01T02:30:00Z", "Last": None}
    purging.clock.advance(180)
    purging.looked()
    found = rule_of(purging)
    assert found["Next"] == "2026-03-02T02:30:00Z"
    totals = {"Deleted": 1, "Gone": 0, "Kept": 0, "Failed": 0, "Remaining": 0}
    assert found["Last"] == {"Time": "2026-03-01T02:31:00Z", "Purge": 1, "State": "done", **totals}
    purging.start(Rules=[RULE])  # after a restart too
    purging.looked()
    assert rule_of(purging) == found


def test_the_status_tells_why_a_rule_did_not_run(purging: Purging) -> None:  # noqa: F811
    for number in range(3):
        purging.add(f"a{number}")
    purging.start(Rules=[RULE], MaxStudies=2)
    purging.looked()
    purging.clock.advance(180)
    purging.looked()
    last = rule_of(purging)["Last"]
    assert (last["Purge"], last["State"]) == (None, "not run")
    assert "more than MaxStudies (2)" in last["Reason"]
    purging.clock.jump(900)
    purging.looked()
    purging.clock.jump(86400 * 3)
    purging.looked()
    assert rule_of(purging)["Next"] is None  # while the clock is doubted
