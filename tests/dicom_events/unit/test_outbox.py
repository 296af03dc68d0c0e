# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events without a server: of what waits, no more is read than fits, and none where it can't be written down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dicom_events.unit.test_guards import Waiting
from tests.fakes import Clock


@pytest.fixture
def made(source: Any, clock: Clock, tmp_path: Path) -> Iterator[Waiting]:
    waiting = Waiting(source, tmp_path / "x.sqlite")
    yield waiting
    waiting.close()


def test_large_events_are_read_few_at_a_time(made: Waiting, monkeypatch: pytest.MonkeyPatch, source: Any) -> None:
    monkeypatch.setattr(source("dicom_events.outbox"), "PAGE_BYTES", 100)
    made.add("a", "b", "c", data="x" * 51)
    assert made.read() == ["a", "b"]
    made.outbox.settle("b", 2, 2)
    assert made.read() == ["c"]


def test_what_can_not_be_settled_is_not_published(made: Waiting) -> None:
    """It would be published again and again, after each start."""
    made.add("a")
    made.outbox.ledger.path.unlink()
    with pytest.raises(OSError, match="was deleted or replaced while it was in use"):
        made.read()


def test_what_was_written_down_wakes_those_whom_it_concerns(made: Waiting) -> None:
    woken: list[str] = []
    made.outbox.on_complete.append(lambda: woken.append("complete"))
    made.outbox.on_incomplete.append(lambda: woken.append("incomplete"))
    made.add("a")
    assert woken == ["complete"]
    [row] = made.add("b", data=None)
    assert woken == ["complete", "incomplete"]
    made.outbox.complete(row, "b", "{}")
    assert woken == ["complete", "incomplete", "complete"]
    with made.outbox.transaction():
        pass
    assert len(woken) == 3


def test_how_much_waits_is_what_is_not_settled_and_what_was_refused(made: Waiting, clock: Clock) -> None:
    assert made.outbox.backlog("b") == (0, None)
    began = clock.now
    made.add("a")
    clock.advance(5)
    made.add("b", "c")
    assert made.outbox.backlog("b") == (3, began)
    made.park(1, "a")
    made.outbox.settle("b", 2, 1)
    assert made.outbox.backlog("b") == (2, began)
    made.outbox.letters.delivered("b", 1)
    assert made.outbox.backlog("b") == (1, began + 5)
    made.park(3, "c", "dead")
    made.outbox.settle("b", 3, 0)
    assert made.outbox.backlog("b") == (0, None)
