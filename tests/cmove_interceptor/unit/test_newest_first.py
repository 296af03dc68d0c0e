# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor/records.py: requests are read from the newest on, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

Source = Callable[[str], ModuleType]


def test_requests_are_read_oldest_first_after_one_and_newest_first_before_one(source: Source, tmp_path: Path) -> None:
    module = source("cmove_interceptor.records")
    records = module.Records(source("common.ledger").Ledger(tmp_path / "moves.sqlite", module.TABLES))
    moves = [records.add(f"m{number}", {"TargetAET": "A"}, "own") for number in range(1, 7)]
    records.end(moves[1], "failed")
    records.end(moves[4], "failed")

    def read(*asked: object) -> list[int]:
        return [row["id"] for row in records.page(*asked)]

    assert read(0, 3, None) == [1, 2, 3]
    assert read(0, 3, None, 99) == [6, 5, 4]
    assert read(0, 3, None, 4) == [3, 2, 1]
    assert read(2, 9, None, 5) == [4, 3]
    assert read(0, 9, "failed", 99) == [5, 2]
    assert read(0, 9, "failed", 5) == [2]
