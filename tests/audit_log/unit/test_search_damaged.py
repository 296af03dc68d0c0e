# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pages of an audit log in which a disk has spoilt some bits: those lines that can be read, and as many as `Total` says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.audit_log.unit.test_search import MAC, made, plainly, text_of
from tests.audit_log.unit.test_search import search as search  # a fixture

FILTERS = [
    ("", "", "", "", ""),
    ("P1", "", "", "", ""),
    ("", "s3", "", "", ""),
    ("", "", "sent", "", ""),
    ("", "", "", "2024-01-01T00:10", "2024-01-01T00:30"),
]


def page_of(search: Any, folder: Path, content: bytes, *asked: Any) -> Any:
    (folder / "audit-000000000001.jsonl").write_bytes(content)
    return search.LogIndex(folder).page(*asked)


@pytest.mark.parametrize(
    "damaged",
    [
        text_of({"Number": 2, "Bt": "2024-01-01T00:02:00.000Z", "Event": "sent", "Mac": MAC}),
        text_of({"Number": 2, "At": 20240101, "Event": "sent", "Mac": MAC}),
        text_of(made(random.Random(1), 2)).replace('"Event": "', '"Event": "\x01'),
    ],
    ids=["no time", "a time that is none", "no JSON"],
)
def test_a_line_that_can_not_be_read_is_neither_shown_nor_counted(search: Any, tmp_path: Path, damaged: str) -> None:
    others = [made(random.Random(2), number) for number in (1, 3)]
    content = (text_of(others[0]) + damaged + text_of(others[1])).encode()
    everything = search.LineFilter("", "", "", "", "")
    for after, limit in ((0, 1), (0, 10), (3, 10)):
        assert page_of(search, tmp_path, content, everything, after, limit) == plainly(others, everything, after, limit)


def test_whatever_bits_are_spoilt_a_page_is_what_reading_each_line_gives(search: Any, tmp_path: Path) -> None:
    for seed in range(30):
        chance = random.Random(seed)
        content = bytearray("".join(text_of(made(chance, number)) for number in range(1, 41)).encode())
        for _ in range(3):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        lines = [json.loads(raw) for raw in bytes(content).splitlines(keepends=True) if _is_whole(search, raw)]
        for given in FILTERS:
            asked, after = search.LineFilter(*given), chance.choice([0, 10, 39, 99])
            found = page_of(search, tmp_path, bytes(content), asked, after, 5)
            assert found == plainly(lines, asked, after, 5), (seed, given, after)


def _is_whole(search: Any, raw: bytes) -> bool:
    line = search.parse_line(raw)
    return line is not None and isinstance(line.content.get("At"), str)
