# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pages of the audit log: the same lines as by reading all of it, whatever was asked for, and without reading all of it."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EVENTS = ("received", "sent", "deleted", 'a "quoted" one', "grün")
MAC = "0" * 64
HALF_A_LINE = '{"Number": 7777, "At": "2024'


@pytest.fixture
def search(source: Callable[[str], ModuleType]) -> Any:
    line_index: Any = source("common.line_index")
    line_index.BLOCK_LINES, line_index.READ_BYTES = 7, 900
    return source("audit_log.search")


def text_of(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def made(chance: random.Random, number: int) -> dict[str, Any]:
    """A line of a clock that is set back now and then."""
    minute = number + (0 if chance.random() < 0.9 else chance.randint(-40, 40))
    entry: dict[str, Any] = {"Number": number, "At": f"2024-01-{1 + minute // 60:02}T00:{minute % 60:02}:00.000Z"}
    entry["Event"] = chance.choice(EVENTS)
    if chance.random() < 0.7:
        entry |= {"Patient": f"P{number // 25}", "Study": f"s{number // 9}", "StudyInstanceUID": f"1.2.{number // 9}"}
    if chance.random() < 0.2:
        entry["Path"] = '"Study": "s3", "Event": "sent"'  # a text that looks like a key
    if chance.random() < 0.1:
        entry["More"] = {"Study": "s4", "Patient": 7}
    return {**entry, "Mac": MAC}


def write(folder: Path, entries: list[dict[str, Any]], per_file: int) -> None:
    for first in range(0, len(entries), per_file):
        part = entries[first : first + per_file]
        text = "".join(map(text_of, part))
        (folder / f"audit-{part[0]['Number']:012}.jsonl").write_text(text)


def plainly(entries: list[dict[str, Any]], asked: Any, after: int, limit: int) -> dict[str, Any]:
    """What a page has to hold, by looking at each line."""
    fitting = [entry for entry in entries if asked.includes(entry)]
    later = [entry for entry in fitting if entry["Number"] > after]
    more = len(later) > limit
    return {"Total": len(fitting), "Items": later[:limit], "Next": later[limit - 1]["Number"] if more else None}


def filters(search: Any, chance: random.Random) -> Iterator[Any]:
    times = ["", *(f"2024-01-0{1 + minute // 60}T00:{minute % 60:02}:00.000Z" for minute in range(3, 180, 11)), "2025"]
    choices = [
        ("", "P2", "P3", "P99"),
        ("", "s3", "s4", "1.2.8", "s99", "P2"),
        ("", *EVENTS, "never"),
        times,
        ["", *times[1:]],
    ]
    everything = list(itertools.product(*choices))
    yield from (search.LineFilter(*each) for each in chance.sample(everything, 400))


def test_any_filter_and_page_gives_what_reading_each_line_gives(search: Any, tmp_path: Path) -> None:
    chance = random.Random(5)
    entries = [made(chance, number) for number in range(1, 181)]
    write(tmp_path, entries, 61)
    index = search.LogIndex(tmp_path)
    for asked in filters(search, chance):
        after, limit = chance.choice([0, 0, 6, 7, 60, 61, 150, 180]), chance.choice([1, 5, 100, 1000])
        assert index.page(asked, after, limit) == plainly(entries, asked, after, limit), asked


def test_a_log_that_grows_begins_files_and_loses_the_oldest_is_read_on(search: Any, tmp_path: Path) -> None:
    chance, index, entries = random.Random(6), search.LogIndex(tmp_path), list[dict[str, Any]]()
    everything = search.LineFilter("", "", "", "", "")
    for first in range(1, 150, 10):
        part = [made(chance, number) for number in range(first, first + 10)]
        entries += part
        name = tmp_path / f"audit-{first - (first - 1) % 30:012}.jsonl"
        with name.open("a") as file:
            file.write("".join(map(text_of, part)) + HALF_A_LINE)  # the next one is being written
        assert index.page(everything, 0, 1000) == plainly(entries, everything, 0, 1000)
        with name.open("r+") as file:
            file.truncate(name.stat().st_size - len(HALF_A_LINE))
    (tmp_path / "audit-000000000001.jsonl").unlink()
    assert index.page(everything, 0, 1000) == plainly(entries[30:], everything, 0, 1000)
    assert len(index._indexes) == 4


def test_a_file_that_is_deleted_while_a_page_is_read_has_no_lines(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [made(random.Random(7), number) for number in range(1, 61)]
    write(tmp_path, entries, 30)
    files, index = search.log_files(tmp_path), search.LogIndex(tmp_path)
    assert index.page(search.LineFilter("", "", "", "", ""), 0, 5)["Total"] == 60
    files[0].unlink()
    monkeypatch.setattr(search, "log_files", lambda _folder: files)
    assert [each["Number"] for each in index.page(search.LineFilter("", "", "", "", ""), 0, 1)["Items"]] == [31]


def test_lines_that_were_cut_off_again_are_forgotten(search: Any, tmp_path: Path) -> None:
    """As after a full disk: the same place holds other lines then."""
    entries = [made(random.Random(8), number) for number in range(1, 11)]
    write(tmp_path, entries, 100)
    index, everything = search.LogIndex(tmp_path), search.LineFilter("", "", "", "", "")
    index.page(everything, 0, 1)
    others = [*entries[:5], *({**entry, "Event": "an event that came instead"} for entry in entries[5:])]
    (tmp_path / "audit-000000000001.jsonl").write_text("".join(map(text_of, others)))
    index.forget_newest()
    assert index.page(everything, 0, 1000)["Items"] == others
    assert index.page(search.LineFilter("", "", "an event that came instead", "", ""), 0, 1000)["Total"] == 5


def test_what_is_no_line_is_left_out(search: Any, tmp_path: Path) -> None:
    entries = [made(random.Random(9), number) for number in range(1, 4)]
    lines = [text_of(entry) for entry in entries]
    odd = ["\n", "nonsense\n", lines[1].replace(MAC, MAC[1:]), "\0" * 300 + "\n", '{"Number": 3}\n']
    (tmp_path / "audit-000000000001.jsonl").write_text("".join([lines[0], *odd, *lines[1:]]))
    page = search.LogIndex(tmp_path).page(search.LineFilter("", "", "", "", ""), 0, 10)
    assert (page["Total"], page["Items"]) == (3, entries)


@pytest.mark.parametrize(
    ("asked", "after", "read"),
    [
        (("", "", "", "", ""), 40_000, 2),
        (("", "", "rare", "", ""), 0, 1),
        (("", "s700", "", "", ""), 0, 9),
        (("", "", "received", "2024-01-05T00:00:00.000Z", "2024-01-07T00:00:00.000Z"), 0, 6),
    ],
    ids=["a late page", "an event", "a study", "a span of time"],
)
def test_a_page_is_found_without_reading_the_log(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], after: int, read: int
) -> None:
    search.LineIndex.__init__.__globals__["BLOCK_LINES"] = 200
    entries = [
        {
            "Number": number,
            "At": f"2024-01-{1 + number // 6000:02}T{number % 6000 // 250:02}:00:00.000Z",
            "Event": "rare" if number == 33_333 else "received",
            "Study": f"s{number // 30}",
            "Mac": MAC,
        }
        for number in range(1, 50_001)
    ]
    write(tmp_path, entries, 20_000)
    index = search.LogIndex(tmp_path)
    while index.read_ahead():
        pass
    seen, lines = list[int](), search.LineIndex.lines

    def noted(self: Any, block: Any) -> Any:
        seen.append(block.first)
        return lines(self, block)

    monkeypatch.setattr(search.LineIndex, "lines", noted)
    given = search.LineFilter(*asked)
    assert index.page(given, after, 100) == plainly(entries, given, after, 100)
    assert 1 <= len(seen) <= read


def test_it_is_read_ahead_a_part_at_a_time(search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [made(random.Random(10), number) for number in range(1, 400)], 150)
    monkeypatch.setattr(search, "READ_AHEAD_BYTES", 5000)
    index = search.LogIndex(tmp_path)
    assert sum(1 for _ in iter(index.read_ahead, False)) > 10
