# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a purge answers: a sentence with the number."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

DAY = datetime.date(2000, 1, 1)


@pytest.mark.parametrize(
    ("number", "more", "expected"),
    [
        (12, {}, "12 studies dated on or before 20000101"),
        (1, {}, "1 study dated on or before 20000101"),
        (0, {}, "0 studies dated on or before 20000101"),
        (2, {"by": "received"}, "2 studies received on or before 20000101"),
        (2, {"by": "received", "undated": True}, "2 studies received on or before 20000101"),
        (2, {"undated": True}, "2 studies dated on or before 20000101, or without a date"),
        (2, {"undated": "received"}, "2 studies dated on or before 20000101, or without a date and received by then"),
    ],
)
def test_the_answer_says_how_many_of_which_went(
    source: Callable[[str], ModuleType], number: int, more: dict[str, Any], expected: str
) -> None:
    conditions = source("purge_old_studies.conditions").Conditions
    assert conditions(DAY, **more).in_words(number) == expected
