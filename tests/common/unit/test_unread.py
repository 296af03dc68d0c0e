# SPDX-License-Identifier: AGPL-3.0-or-later
"""common.unread: what arrived counts all the time until it is read, also in the moment in which reading begins."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

CHANGE = {"ChangeType": "NewInstance", "ID": "1"}


class Watched(set[str]):
    """A set that looks around before it changes as a whole."""

    look: Callable[[], None] = staticmethod(lambda: None)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.look()
        self.update(other)
        return self

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        self.look()
        self.difference_update(other)
        return self


def test_what_arrived_is_there_at_each_moment_in_which_reading_begins(source: Callable[[str], ModuleType]) -> None:
    unread = source("common.unread").Unread()
    seen: list[list[str]] = []
    unread._new, unread._before = Watched(), Watched()
    unread._new.look = unread._before.look = lambda: seen.append(unread.now())
    unread.add("1")
    unread.begin_reading()
    assert seen == [["1"], ["1"]]
    assert unread.now() == ["1"]
    unread.on_change_entry(CHANGE)
    assert unread.now() == []


def test_what_arrived_is_seen_where_reading_begins_while_one_looks(source: Callable[[str], ModuleType]) -> None:
    class Interrupted(source("common.unread").Unread):  # type: ignore[misc]
        looked_at = -9

        def __getattribute__(self, name: str) -> Any:
            if name in ("_new", "_before"):
                self.looked_at += 1
                if self.looked_at == 2:
                    self.begin_reading()
            return super().__getattribute__(name)

    unread = Interrupted()
    unread.add("1")
    unread.looked_at = 0
    assert unread.now() == ["1"]


def test_it_is_bounded(source: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    module = source("common.unread")
    monkeypatch.setattr(module, "MOST_REPORTS", 2)
    unread = module.Unread()
    for number in range(5):
        unread.add(str(number))
    assert sorted(unread.now()) == ["0", "1"]


def test_what_is_not_in_the_log_is_forgotten_when_it_was_read(source: Callable[[str], ModuleType]) -> None:
    unread = source("common.unread").Unread()
    unread.add("1")
    unread.add("2")
    unread.begin_reading()
    unread.add("3")
    unread.on_change_entry(CHANGE)
    assert unread.never_read() == {"2"}
    assert unread.now() == ["3"]
