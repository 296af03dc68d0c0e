# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/bisection.py: nobody waits for what it asks, and what a person does meanwhile counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeOrthanc


class Halving:
    """One study that was refused as a whole."""

    def __init__(self, source: Any, rest: FakeOrthanc, folder: Path) -> None:
        self.rest = rest
        rest.studies["a1"] = ["i1", "i2", "i3"]
        self.ledger = source("common.ledger").Ledger(folder / "x.sqlite")
        self.work = source("common.work").Work(self.ledger)
        self.row = self.ledger.add("PACS", "a1", {"Level": "Study", "Instances": None, "Suspect": True})
        self.work.change(self.row, attempts=1, next_attempt=2e9)
        self.bisection = source("forwarding.bisection").Bisection(self.ledger, source("common.loopback").Loopback({}))

    def asked(self, then: Callable[[], object]) -> None:
        """Do this while the archive is asked what the study has."""

        def answer(_path: str, _body: Any) -> list[str]:
            then()
            return ["i1", "i2", "i3"]

        self.rest.answers["GET", "/studies/a1/instances"] = answer

    def rows(self) -> list[tuple[str, str]]:
        return [(row["subject"], row["data"]) for row in self.ledger.rows("SELECT subject, data FROM work ORDER BY id")]


@pytest.fixture
def halving(source: Any, rest: FakeOrthanc, tmp_path: Path) -> Iterator[Halving]:
    made = Halving(source, rest, tmp_path)
    yield made
    made.ledger.close()


def test_a_row_is_halved_and_nobody_waits_for_the_question(halving: Halving) -> None:
    seen: list[bool] = []
    halving.asked(lambda: seen.append(halving.ledger._db.in_transaction))
    halving.bisection.retry_failed("PACS", was_silent=False)
    assert [data for _, data in halving.rows()] == [
        '{"Level": "Study", "Instances": ["i1"]}',
        '{"Level": "Study", "Instances": ["i2", "i3"]}',
    ]
    assert {row["next_attempt"] for row in halving.ledger.rows("SELECT next_attempt FROM work")} == {0}
    assert seen == [False]


def test_what_a_person_drops_meanwhile_is_not_sent_in_part(halving: Halving) -> None:
    halving.asked(lambda: halving.work.remove(halving.row))
    halving.bisection.retry_failed("PACS", was_silent=False)
    assert halving.rows() == []


def test_what_joins_it_meanwhile_is_not_lost(halving: Halving) -> None:
    more = {"Level": "Study", "Instances": None}
    halving.asked(lambda: halving.work.change(halving.row, data=more))
    halving.bisection.retry_failed("PACS", was_silent=False)
    assert halving.rows() == [("a1", '{"Level": "Study", "Instances": null}')]


def test_after_a_silence_all_that_was_tried_is_due(halving: Halving) -> None:
    other = halving.ledger.add("PACS", "b2", {"Level": "Study", "Instances": ["x"]})
    halving.work.change(other, attempts=5, next_attempt=2e9)
    halving.bisection.retry_failed("PACS", was_silent=True)
    assert {row["next_attempt"] for row in halving.ledger.rows("SELECT next_attempt FROM work")} == {0}
