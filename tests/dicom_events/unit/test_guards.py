# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events without a server: what waits for a broker is neither lost, stranded nor out of order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study
from tests.fakes import Clock


class Waiting:
    """An outbox with the broker `b`."""

    def __init__(self, source: Callable[[str], ModuleType], path: Path, **more: Any) -> None:
        outbox = source("dicom_events.outbox")
        self.outbox = outbox.Outbox(
            path, **{"durability": "normal", "most": 10**9, "oldest": 0, "refuse": False, **more}
        )
        self.reader = self.outbox.reader()
        self._named = source("dicom_events.named").Named
        self.begin("b")

    def begin(self, *names: str) -> None:
        self.outbox.begin([self._named(name) for name in names])

    def add(self, *keys: str, data: str | None = "{}") -> list[int]:
        with self.outbox.transaction():
            for key in keys:
                self.outbox.add(f"uid-{key}", "org.test", key, key, data)
        return list(range(self.outbox.newest - len(keys) + 1, self.outbox.newest + 1))

    def read(self) -> list[str]:
        return [event.key for event in self.outbox.read(self.reader, self.outbox.cursor("b"), 100)]

    def due(self) -> list[str]:
        return [event.key for event, _ in self.outbox.letters.due("b", 100)]

    def park(self, row: int, key: str, state: str = "waiting", attempts: int = 1) -> None:
        self.outbox.letters.park("b", [(row, key)], "refused", state, attempts)

    def close(self) -> None:
        self.reader.close()
        self.outbox.close()


@pytest.fixture
def made(source: Any, clock: Clock, tmp_path: Path) -> Iterator[Waiting]:
    waiting = Waiting(source, tmp_path / "x.sqlite")
    yield waiting
    waiting.close()


# Letters


def test_what_a_broker_refused_is_due_after_its_delay(made: Waiting, clock: Clock) -> None:
    [row] = made.add("k")
    made.park(row, "k", attempts=5)
    assert made.due() == []
    clock.advance(17)  # at most 16, and up to half of it less
    assert made.due() == ["k"]


def test_a_letter_that_was_put_off_before_the_clock_jumped_back_is_due(made: Waiting, clock: Clock) -> None:
    clock.jump(5e8)
    [row] = made.add("k")
    made.park(row, "k")
    clock.jump(-5e8)
    assert made.due() == ["k"]


def test_a_dead_letter_is_not_tried_again_and_stays_after_a_clock_that_jumped_back(made: Waiting, clock: Clock) -> None:
    clock.jump(5e8)
    [row] = made.add("k")
    made.park(row, "k", "dead", 9)
    clock.jump(-5e8)
    assert made.due() == []
    made.outbox.settle("b", row, 0)
    made.outbox.retention.tidy()
    assert made.outbox.ledger.rows("SELECT COUNT(*) n FROM event")[0]["n"] == 1


def test_of_one_order_only_the_first_letter_is_due_and_others_wait_behind_it(made: Waiting, clock: Clock) -> None:
    rows = made.add("k", "k", "other")
    for row, key in zip(rows, ("k", "k", "other"), strict=True):
        made.park(row, key)
    clock.advance(10)
    assert made.due() == ["k", "other"]
    assert made.outbox.letters.keys("b") == {"k", "other"}
    made.outbox.letters.delivered("b", rows[0])
    assert made.due() == ["k", "other"]


def test_refused_again_it_waits_longer_and_is_one_letter(made: Waiting, clock: Clock) -> None:
    [row] = made.add("k")
    for attempts in (1, 2, 3):
        made.park(row, "k", attempts=attempts)
    clock.advance(1.9)
    assert made.due() == []
    clock.advance(3)
    assert [attempts for _, attempts in made.outbox.letters.due("b", 9)] == [3]


# The order


def test_nothing_beyond_an_incomplete_event_is_read(made: Waiting) -> None:
    made.add("a")
    [row] = made.add("b", data=None)
    made.add("c")
    assert made.read() == ["a"]
    made.outbox.complete(row, "b", "{}")
    assert made.read() == ["a", "b", "c"]


def test_a_transaction_that_fails_numbers_nothing(made: Waiting) -> None:
    def add() -> None:
        with made.outbox.transaction():
            made.outbox.add("u", "t", "k", "s", "{}")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        add()
    assert made.add("k") == [1]
    assert made.read() == ["k"]


def test_what_is_settled_is_removed_and_no_number_is_given_again(source: Any, made: Waiting, tmp_path: Path) -> None:
    [*_, last] = made.add("a", "b", "c")
    made.outbox.settle("b", last, 3)
    assert made.outbox.retention.tidy() is None
    assert made.outbox.ledger.rows("SELECT COUNT(*) n FROM event")[0]["n"] == 0
    made.close()
    again = Waiting(source, tmp_path / "x.sqlite")
    assert again.add("d") == [last + 1]
    assert again.read() == ["d"]
    again.close()


def test_what_a_letter_or_a_slower_broker_needs_stays(made: Waiting) -> None:
    made.begin("b", "slow")
    rows = made.add("a", "b")
    made.park(rows[0], "a")
    made.outbox.settle("b", rows[1], 1)
    made.outbox.retention.tidy()
    assert made.outbox.backlog("slow")[0] == 2
    made.outbox.settle("slow", rows[1], 2)
    made.outbox.retention.tidy()
    assert [row["row"] for row in made.outbox.ledger.rows("SELECT row FROM event")] == [rows[0]]


def test_a_further_broker_begins_with_what_happens_from_now_on(made: Waiting) -> None:
    made.add("a")
    made.begin("b", "new")
    made.add("c")
    after = made.outbox.cursor("new")
    assert [event.key for event in made.outbox.read(made.reader, after, 9)] == ["c"]
    assert made.read() == ["a", "c"]


def test_a_full_outbox_that_refuses_keeps_what_it_has_and_counts_the_others(
    source: Any, clock: Clock, tmp_path: Path
) -> None:
    full = Waiting(source, tmp_path / "full.sqlite", most=1, refuse=True)
    full.add("a")
    full.outbox.retention.tidy()
    full.add("b", "c")
    assert full.read() == ["a"]
    assert full.outbox.retention.tidy() == "2 events were refused: the outbox is full (DicomEvents.Outbox)"
    full.close()


def test_a_full_outbox_drops_the_oldest_and_says_so(source: Any, clock: Clock, tmp_path: Path) -> None:
    full = Waiting(source, tmp_path / "full.sqlite", most=1)
    full.add("a")
    assert "1 events were dropped unpublished" in full.outbox.retention.tidy()
    assert full.read() == []
    full.close()


def test_an_instance_that_was_told_is_known_once_also_after_a_restart(
    source: Any, made: Waiting, tmp_path: Path
) -> None:
    with made.outbox.transaction():
        made.outbox.acknowledged.add("i1")
        made.outbox.acknowledged.add("i2")
    made.close()
    again = Waiting(source, tmp_path / "x.sqlite")
    assert again.outbox.acknowledged.take(["i1", "i3"]) == {"i1"}
    assert again.outbox.acknowledged.take(["i1", "i2"]) == {"i2"}
    again.close()


# Identifiers and forms


def test_identifiers_are_those_of_the_file(source: Any, clock: Clock) -> None:
    events = source("dicom_events.events")
    [content] = make_study(patient_id="P1 ")
    found = events.identifiers_of_file(content)
    assert found[0] == "P1"
    assert found[1] in content.decode("latin-1")
    [odd] = make_study(patient_id="Müller")
    assert events.identifiers_of_file(odd) is None
    assert events.identifiers_of_file(content[:200]) is None


def test_an_item_of_a_sequence_is_not_taken_for_the_image(source: Any, clock: Clock) -> None:
    def refer(dataset: Any) -> None:
        dataset.add_new(0x00081140, "SQ", [Dataset()])
        dataset[0x00081140].value[0].SeriesInstanceUID = "9.9.9"
        dataset[0x00081140].value.is_undefined_length = True

    events = source("dicom_events.events")
    [content] = make_study(change=refer)
    found = events.identifiers_of_file(content)
    assert found is None or "9.9.9" not in found


def test_a_structured_event_is_json_whatever_is_in_it(source: Any, clock: Clock) -> None:
    events = source("dicom_events.events")
    event = events.Event(7, 'u"1', "org.test", "k", "sub\nject\\", 1.5, '{"a": "é"}')
    body = json.loads(events.Form("structured", '/orthanc/"x"').body(event))
    assert body == {
        "specversion": "1.0",
        "id": 'u"1',
        "source": '/orthanc/"x"',
        "type": "org.test",
        "subject": "sub\nject\\",
        "time": "1970-01-01T00:00:01.500Z",
        "datacontenttype": "application/json",
        "data": {"a": "é"},
    }
    assert event.study == "k"


# The journal


@pytest.mark.parametrize("full", [False, True])
def test_a_torn_line_is_cut_and_what_is_applied_is_not_read_again(source: Any, tmp_path: Path, full: bool) -> None:
    journal = source("dicom_events.journal").Journal
    made = journal(tmp_path / "x.journal", 0, full=full)
    made.append(b"a")
    place = made.after(made.read())
    made.append(b"b")
    made.close()
    with (tmp_path / "x.journal").open("ab") as file:
        file.write(b"torn")
    made = journal(tmp_path / "x.journal", place, full=full)
    made.append(b"c")  # of this process: not in one with what another left
    assert made.read() == [b"b"]
    made.advance(made.after([b"b"]))
    assert made.read() == [b"c"]
    made.close()


def test_a_journal_is_not_begun_anew_before_all_of_it_is_applied(source: Any, tmp_path: Path) -> None:
    made = source("dicom_events.journal").Journal(tmp_path / "x.journal", 0, full=False)
    made.append(b"a")
    made.start_empty_file()
    assert made.read() == [b"a"]
    made.advance(made.after([b"a"]))
    before = made.place
    made.start_empty_file()
    assert made.read() == []
    assert made.place > before  # a place only rises
    made.close()
