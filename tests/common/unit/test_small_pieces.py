# SPDX-License-Identifier: AGPL-3.0-or-later
"""Small pieces of src/common: wildcards, Accept, back-off."""

from __future__ import annotations

import pytest

from common.accept import preferred_type
from common.retry import Retry
from common.wildcards import matches_any, matches_pattern

TEXT, JSON = "text/plain", "application/json"


@pytest.mark.parametrize(
    ("value", "pattern", "fits"),
    [
        ("CT1", "CT*", True),
        ("CT1", "CT?", True),
        ("CT12", "CT?", False),
        ("CT", "ct", False),
        ("[CT]", "[CT]", True),
        ("C", "[CT]", False),
        ("a\nb", "a*b", True),
        ("", "*", True),
        ("", "", True),
        ("a.c", "a.c", True),
        ("abc", "a.c", False),
        ("a" * 60, "*a" * 30 + "b", False),  # linear, where a regular expression would not end
    ],
)
def test_only_star_and_question_mark_are_wild(value: str, pattern: str, fits: bool) -> None:
    assert matches_pattern(value, pattern) is fits
    assert matches_any(value, ["nothing", pattern]) is fits


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("application/json", JSON),
        ("text/*;q=0.5, application/json", JSON),
        ("text/plain;q=0.5, */*;q=0.4", TEXT),
        ("application/*, text/plain;q=0", JSON),
        ("image/png", None),
        ("*/*;q=0", None),
        ("text/plain;q=rubbish, application/json;q=0.1", JSON),
    ],
)
def test_the_most_specific_range_decides_what_a_client_gets(accept: str | None, chosen: str | None) -> None:
    assert preferred_type(accept, (TEXT, JSON)) == chosen


def test_the_delay_doubles_up_to_the_longest_with_jitter() -> None:
    retry = Retry(first=10, longest=100)
    for attempts, most in ((1, 10), (2, 20), (4, 80), (5, 100), (1000, 100)):
        delays = [retry.delay(attempts) for _ in range(50)]
        assert most / 2 <= min(delays) <= max(delays) <= most
        assert len(set(delays)) > 1
