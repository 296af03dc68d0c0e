# SPDX-License-Identifier: AGPL-3.0-or-later
"""common.owed: of which studies the unfinished rows of a ledger are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.fakes import FakeOrthanc

BULK = ("POST", "/tools/bulk-content")


class Owed:
    """A ledger with the table, and an Orthanc with the study a1."""

    def __init__(self, source: Callable[[str], ModuleType], rest: FakeOrthanc, path: Path) -> None:
        self.rest, self._path, self._owed = rest, path, source("common.owed")
        self._ledgers, self._loopback = source("common.ledger"), source("common.loopback").Loopback({})
        rest.receive("a1", "1")
        self.open(self._owed.owed_tables())

    def open(self, tables: str) -> None:
        self.ledger = self._ledgers.Ledger(self._path, tables)
        self.owing = self._owed.Owing(self.ledger, self._loopback)

    def update(self) -> None:
        """The ledger is of a version that had no such table, and is opened by this one."""
        for name in ("owed_from_the_first", "owed_until_the_end", "owed_once_more", "owed_no_more"):
            self.ledger.run(f"DROP TRIGGER {name}")
        self.ledger.run("DROP TABLE owed")
        self.ledger.close()
        self.open(self._owed.owed_tables())


@pytest.fixture
def owed(source: Any, rest: FakeOrthanc, tmp_path: Path) -> Any:
    found = Owed(source, rest, tmp_path / "x.sqlite")
    yield found
    found.ledger.close()


@pytest.mark.parametrize(
    ("level", "resource", "asks"), [("Study", "a1", False), ("Patient", "a1-9a", False), ("Series", "a1-5e", True)]
)
def test_what_waited_before_an_update_is_owed_and_a_row_of_a_study_or_patient_names_it(
    owed: Owed, level: str, resource: str, asks: bool
) -> None:
    owed.ledger.add("PACS", resource, {"Level": level}, task="send")
    owed.update()
    assert owed.owing.of(["a1", "a1-9a"]) == {"a1-9a" if level == "Patient" else "a1"}
    assert bool(owed.rest.asked(*BULK)) is asks


def test_an_image_that_is_being_overwritten_is_owed(owed: Owed) -> None:
    owed.ledger.add("PACS", "1", {"Level": "Instance"}, task="send")
    looks: list[Any] = []

    def away_for_a_moment(_path: str, body: Any) -> Any:
        looks.append(body)
        return owed.rest._content(body) if len(looks) > 1 else []

    owed.rest.answers[BULK] = away_for_a_moment
    assert owed.owing.of(["a1"]) == {"a1"}
    assert owed.owing.of(["a1"]) == {"a1"}  # nor was it forgotten


def test_what_was_deleted_is_looked_for_twice_and_then_forgotten(owed: Owed) -> None:
    owed.ledger.add("PACS", "2", {"Level": "Instance"}, task="send")
    for _ in range(2):
        assert owed.owing.of(["a1"]) == set()
    assert len(owed.rest.asked(*BULK)) == 2
