# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/changes.py: the place in the log, what is still to be read beyond it, and what moves when levels change."""

from __future__ import annotations

import json

import pytest

from tests.common.unit.test_changes import STABLE_AGE, Reading
from tests.common.unit.test_changes import reading as reading  # a fixture
from tests.fakes import Clock, FakeOrthanc


def arrived(reading: Reading) -> list[tuple[str, str, int]]:
    rows = reading.ledger.rows("SELECT level, instance, seq FROM arrived ORDER BY level, instance")
    return [(row["level"], row["instance"], row["seq"]) for row in rows]


def test_a_place_at_the_very_beginning_is_kept(reading: Reading, rest: FakeOrthanc, clock: Clock) -> None:
    """Of an archive that was empty when the ledger began: however late the next start is, all since then is new."""
    reading.open()
    assert reading.ledger.get_value("cursor", -1) == 0
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    clock.advance(86400)
    module = reading._source("common.changes")
    module.LOADED, module.LOADED_STEADY = clock.now, clock.ticks
    reading.open().poll()
    assert reading.taken() == [("a1", ["i1"])]


def test_only_a_place_that_is_set_back_is_said_with_what_lies_beyond_it(reading: Reading, rest: FakeOrthanc) -> None:
    places: list[int] = []
    feed = reading.open()
    rest.receive("a1", "i1", "i2", "i3")
    feed.poll()
    for changes, said in ((3, []), (2, [2])):
        rest.changes = rest.changes[:changes]
        feed = reading.open(begin=False)
        feed._set_back = places.append
        feed.begin()
        assert places == said
    # Numbers beyond it are from before: what comes now has lower ones, and is handed over with them.
    assert arrived(reading) == [("Study", "i1", 1), ("Study", "i2", 2), ("Study", "i3", 0)]


def test_the_log_is_read_once_however_often_it_is_polled_and_never_back(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    feed.poll()
    feed.poll()
    assert (reading.told, reading.ledger.get_value("cursor")) == ([1], 1)
    rest.answers["GET", "/changes"] = {"Changes": [], "Last": 0, "Done": True}  # 1.10.1 answers so at its end
    feed.poll()
    assert reading.ledger.get_value("cursor") == 1


def test_what_is_heard_has_a_number_that_is_none_of_the_log_and_differs_each_time(reading: Reading) -> None:
    feed = reading.open(reconcile=False)
    feed.on_event("NewInstance", "i1")
    [(_, _, first)] = arrived(reading)
    feed.on_event("NewInstance", "i1")
    [(_, _, second)] = arrived(reading)
    assert second < first < 0
    module = reading._source("common.changes")
    reading.ledger.run("UPDATE arrived SET resource='a1'")
    assert module.arrived_since(reading.ledger, 0) == []


def test_what_arrived_after_a_number_is_told_in_its_order(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open(parents=lambda one: {"Study": "a1"} if one != "i3" else None)
    rest.receive("a1", "i1", "i2", "i3", "i4")
    feed.poll()
    found = reading._source("common.changes").arrived_since(reading.ledger, 1)
    assert found == [
        {"level": "Study", "resource": "a1", "instance": one, "seq": seq} for one, seq in (("i2", 2), ("i4", 4))
    ]


def test_what_the_feed_has_still_to_read_is_known_at_every_place(reading: Reading, rest: FakeOrthanc) -> None:
    module = reading._source("common.changes")
    feed = reading.open()
    loopback = reading._source("common.loopback").Loopback({})
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    assert module.still_to_read(reading.ledger, loopback) == {"i1"}  # its place is 0
    assert module.is_arriving(reading.ledger, loopback, ["i1", "x"])
    assert not module.is_arriving(reading.ledger, loopback, ["x"])
    feed.poll()
    assert module.still_to_read(reading.ledger, loopback) == set()
    assert not module.is_arriving(reading.ledger, loopback, ["i1"])
    rest.receive("b2", *(f"n{number}" for number in range(module.PAGE + 1)))
    assert module.still_to_read(reading.ledger, loopback) is None  # more than a page: nobody knows
    assert module.is_arriving(reading.ledger, loopback, ["x"])
    feed.poll()
    assert module.is_arriving(reading.ledger, loopback, ["n7"])
    assert module.not_handed_over(reading.ledger, "Study", ["n7", "i1"]) == {"n7"}
    assert module.not_handed_over(reading.ledger, "Series", ["n7"]) == set()


def test_without_the_log_nothing_of_it_is_still_to_be_read(reading: Reading, rest: FakeOrthanc) -> None:
    module = reading._source("common.changes")
    reading.open(reconcile=False)
    rest.receive("a1", "i1")
    rest.requests.clear()
    assert module.still_to_read(reading.ledger, reading._source("common.loopback").Loopback({})) == set()
    assert rest.requests == []


def test_what_arrived_at_a_level_that_nobody_asks_for_any_more_is_handed_over_at_ours(
    reading: Reading, rest: FakeOrthanc
) -> None:
    reading.open("Study", "Series").poll()
    rest.receive("a1", "i1", "i2")
    reading.open("Study", "Series").poll()
    feed = reading.open("Patient", "Study")
    assert arrived(reading) == [
        (level, one, seq) for level in ("Patient", "Study") for one, seq in (("i1", 1), ("i2", 2))
    ]
    rest.become_stable("a1")
    feed.poll()
    assert reading.taken() == [("a1", ["i1", "i2"])]


def test_rows_about_levels_that_nobody_asks_for_any_more_are_taken_back_and_no_others(reading: Reading) -> None:
    feed = reading.open("Series")
    rows = {
        (level, task): reading.ledger.add("q", "x", {"Level": level, "Instances": [f"{level} {task}"]}, task=task)
        for level in ("Study", "Series")
        for task in ("route", "send")
    }
    feed.take_back("route")
    left = {row["id"] for row in reading.ledger.rows("SELECT id FROM work")}
    assert left == {*rows.values()} - {rows["Study", "route"]}
    assert arrived(reading) == [("Series", "Study route", 0)]


def test_while_more_comes_now_and_then_it_is_asked_for_again_only_when_it_may_be_quiet(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    def asked() -> int:
        return sum(path.startswith("/studies/a1/instances") for _, path, _ in rest.requests)

    feed = reading.open(parents=lambda _: {"Study": "a1"})
    rest.receive("a1", "i1")
    feed.poll()
    clock.advance(STABLE_AGE)
    rest.receive("a1", "i2")
    feed.poll()
    clock.advance(3)  # the first is overdue, the second is not
    for _ in range(3):
        feed.poll()
    assert (reading.taken(), asked()) == ([], 1)
    clock.advance(STABLE_AGE)
    feed.poll()
    assert (reading.taken(), asked()) == ([("a1", ["i1", "i2"])], 2)
    assert arrived(reading) == []
    assert feed._look_again == {}


def test_what_was_deleted_before_it_was_handed_over_is_told_with_its_number(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    deleted: list[tuple[str, int]] = []
    feed = reading.open()
    feed._deleted = lambda instance, seq: deleted.append((instance, seq))
    rest.receive("a1", "i1", "i2")
    feed.poll()
    rest.studies["a1"] = ["i2"]
    rest.studies.pop("a1")
    clock.advance(STABLE_AGE + 3)
    feed.poll()
    assert sorted(deleted) == [("i1", 1), ("i2", 2)]
    assert arrived(reading) == []


def test_an_orthanc_that_fails_to_tell_a_parent_makes_nothing_forgotten(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    feed.poll()
    clock.advance(STABLE_AGE + 3)
    rest.answers["GET", "/instances/i1/study"] = rest.error(500)
    with pytest.raises(type(rest.error(500))):
        feed.poll()
    assert arrived(reading) == [("Study", "i1", 1)]


def test_what_is_quiet_for_exactly_the_age_and_the_grace_still_waits(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    feed.poll()
    clock.advance(STABLE_AGE + 2)
    feed.poll()
    assert reading.taken() == []
    clock.advance(0.5)
    feed.poll()  # asks what it belongs to
    feed.poll()
    assert reading.taken() == [("a1", ["i1"])]


def test_resources_that_arrive_are_named_once_and_those_of_unknown_parents_each(
    reading: Reading, rest: FakeOrthanc
) -> None:
    feed = reading.open(parents=lambda one: {"Study": "a1"} if one != "i3" else None)
    rest.receive("a1", "i1", "i2", "i3")
    feed.poll()
    module = reading._source("common.changes")
    assert sorted(map(json.dumps, module.arriving_resources(reading.ledger))) == [
        '["Study", "a1", "i1"]',
        '["Study", null, "i3"]',
    ]
    condition = module.still_arrives("work.subject")
    for one in ("i1", "x"):
        reading.ledger.add("q", one, {})
    assert reading.ledger.rows(f"SELECT subject FROM work WHERE {condition}") == [{"subject": "i1"}]
