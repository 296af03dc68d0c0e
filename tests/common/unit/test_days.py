# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/times.py and common/embedded.py."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20240229", datetime.date(2024, 2, 29)),
        ("00010101", datetime.date(1, 1, 1)),
        ("99991231", datetime.date(9999, 12, 31)),
    ],
)
def test_a_da_value_is_a_day(source: Callable[[str], ModuleType], text: str, day: datetime.date) -> None:
    assert source("common.times").parse_day(text) == day


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1999", "1999.12.31", "1999-12-31", "20000231", "20230229", "20001301", "00000101", "20000100"),
        *(
            "200001011",
            "2000010",
            " 20000101",
            "20000101 ",
            "20000101\n",
            "2000 101",
            "+2000101",
            "\uff12\uff10\uff10\uff100101",
        ),
        *(None, 20000101, b"20000101", datetime.date(2000, 1, 1), ["20000101"]),
    ],
)
def test_nothing_else_is(source: Callable[[str], ModuleType], text: Any) -> None:
    assert source("common.times").parse_day(text) is None


def test_a_file_beside_the_module_is_read(source: Callable[[str], ModuleType], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>é</p>\n")
    code = "from common.embedded import embedded\nPAGE = embedded('page.html')\n"
    namespace: dict[str, Any] = {}
    exec(compile(code, str(tmp_path / "module.py"), "exec"), namespace)  # noqa: S102
    assert namespace["PAGE"] == "<p>é</p>\n"
    with pytest.raises(FileNotFoundError):
        exec(compile(code, str(tmp_path / "other" / "module.py"), "exec"), namespace)  # noqa: S102
