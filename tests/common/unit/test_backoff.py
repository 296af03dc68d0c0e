# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/backoff.py: each pause is twice the last one, up to the longest."""

from __future__ import annotations

from typing import Any


def test_pauses_double_up_to_the_longest_and_begin_again_after_a_success(source: Any) -> None:
    pauses = source("common.backoff").Pauses(1.5, 10)
    assert [pauses.next() for _ in range(5)] == [1.5, 3, 6, 10, 10]
    for _ in range(2000):
        assert pauses.next() == 10
    pauses.reset()
    assert pauses.next() == 1.5
