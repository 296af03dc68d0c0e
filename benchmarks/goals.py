# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a benchmark is measured by: each figure with its goal, printed in one form, and kept for `make bench`."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

KEPT_IN = "BENCH_GOALS"  # the environment variable that names the file to which each line is added, as JSON


@dataclasses.dataclass(frozen=True)
class Figure:
    """One that was measured, and what it should be: `least` or `most`, both in `unit` ("" for a ratio)."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def short_by(self) -> float:
        """By which part of the goal it falls short; 0 where it does not."""
        if self.least is not None:
            return max(0.0, 1 - self.value / self.least)
        return max(0.0, self.value / self.most - 1) if self.most else float(self.value > (self.most or 0))

    @property
    def goal(self) -> str:
        """The goal as text."""
        side, number = ("at least", self.least) if self.least is not None else ("at most", self.most)
        return f"{side} {_number(number or 0)}{self._unit}"

    @property
    def measured(self) -> str:
        """The value as text."""
        return f"{_number(self.value)}{self._unit}"

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


def least(what: str, value: float, goal: float, unit: str = "") -> None:
    """Say what was measured, where more is better."""
    _say(Figure(what, value, least=goal, unit=unit))


def most(what: str, value: float, goal: float, unit: str = "") -> None:
    """Say what was measured, where less is better."""
    _say(Figure(what, value, most=goal, unit=unit))


def _say(figure: Figure) -> None:
    missed = f"   MISSED by {figure.short_by:.0%}" if figure.short_by else ""
    print(f"  = {figure.what}: {figure.measured} ({figure.goal}){missed}", flush=True)
    if path := os.environ.get(KEPT_IN):
        with Path(path).open("a") as file:
            file.write(json.dumps(dataclasses.asdict(figure)) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
