# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page of results says what was measured, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import goals
from benchmarks.__main__ import BENCHMARKS, KEPT, PAGE, page
from benchmarks.goals import KEPT_IN, Figure


def test_the_page_is_what_the_command_makes_of_what_it_measured() -> None:
    assert PAGE.read_text() == page(json.loads(KEPT.read_text()))


def test_each_benchmark_is_one_of_make_bench() -> None:
    programs = {path.stem for path in Path(goals.__file__).parent.glob("[a-z]*.py")}
    # contestants is a part of forward, as make bench-forward runs it.
    assert {name.replace("-", "_") for name in BENCHMARKS} == programs - {"goals", "load", "contestants"}


@pytest.mark.parametrize(
    ("figure", "short_by"),
    [
        (Figure("more is better", 0.95, least=0.95), 0),
        (Figure("more is better", 0.76, least=0.95), 0.2),
        (Figure("less is better", 1.3, most=1.3), 0),
        (Figure("less is better", 1.95, most=1.3), 0.5),
        (Figure("none", 0, most=0), 0),
        (Figure("none", 3, most=0), 1),
    ],
)
def test_a_figure_says_by_how_much_it_falls_short(figure: Figure, short_by: float) -> None:
    assert figure.short_by == pytest.approx(short_by)


def test_what_a_benchmark_says_is_printed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEPT_IN, str(tmp_path / "goals"))
    goals.least("rate of a backlog", 0.9, 0.95)
    goals.most("a page", 12.5, 20, "ms")
    assert capsys.readouterr().out == (
        "  = rate of a backlog: 0.9 (at least 0.95)   MISSED by 5%\n  = a page: 12.5 ms (at most 20 ms)\n"
    )
    kept = [Figure(**json.loads(line)) for line in (tmp_path / "goals").read_text().splitlines()]
    assert kept == [Figure("rate of a backlog", 0.9, least=0.95), Figure("a page", 12.5, most=20, unit="ms")]


def test_a_benchmark_that_broke_off_is_on_the_page() -> None:
    result = {
        "Command": "make bench-x",
        "Date": "2026-01-31",
        "Seconds": 3,
        "Status": 1,
        "Figures": [],
        "Printed": "Boom",
    }
    assert "| the benchmark itself | ended with 1 | 0 | | `make bench-x` |" in page({"x": {**result, "On": {}}})
