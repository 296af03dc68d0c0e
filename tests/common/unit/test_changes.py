# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/changes.py: what became stable is handed over once, with what is new of it, whatever came between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc
from tests.ledgers import MakeLedger

STABLE_AGE = 60.0


class Reading:
    """A feed on a file, which the next process opens again; `handed` is what it gave."""

    def __init__(self, source: Any, make_ledger: MakeLedger) -> None:
        self._source, self._make_ledger = source, make_ledger
        self.handed: list[tuple[str, str, dict[str, int]]] = []
        self.told: list[int] = []
        self.ledger: Any = None
        self.settle: Callable[..., None] = lambda *found: self.handed.append(found)

    def open(self, *levels: str, reconcile: bool = True, begin: bool = True, parents: Any = None) -> Any:
        if self.ledger:
            self.ledger.close()
        module = self._source("common.changes")
        self.ledger = self._make_ledger("x", module.FEED_TABLES)
        loopback = self._source("common.loopback").Loopback({})
        feed = module.Feed(
            *(self.ledger, loopback, lambda *found: self.settle(*found), levels or ("Study",), STABLE_AGE, reconcile),
            parents or (lambda _: None),
            lambda change: self.told.append(change["Seq"]),
        )
        if begin:
            feed.begin()
        return feed

    def taken(self) -> list[tuple[str, list[str]]]:
        """What was handed over since the last time: resources and instances."""
        found = [(resource, sorted(instances)) for _, resource, instances in self.handed]
        self.handed.clear()
        return found


@pytest.fixture
def reading(source: Any, rest: FakeOrthanc, clock: Clock, make_ledger: MakeLedger) -> Reading:
    return Reading(source, make_ledger)


def test_a_stable_study_is_handed_over_once_with_its_instances(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open()
    rest.receive("a1", "i1", "i2")
    rest.receive("b2", "i3")
    feed.poll()
    assert reading.taken() == []
    rest.become_stable("a1")
    feed.poll()
    feed.poll()
    assert reading.handed == [("Study", "a1", {"i1": 1, "i2": 2})]
    assert reading.told == [1, 2, 3, 4]


def test_what_comes_later_is_handed_over_alone(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    feed.poll()
    rest.receive("a1", "i2")
    rest.become_stable("a1")
    feed.poll()
    assert reading.taken() == [("a1", ["i1"]), ("a1", ["i2"])]


def test_an_instance_that_came_after_the_study_was_stable_waits_for_the_next_time(
    reading: Reading, rest: FakeOrthanc
) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    rest.receive("a1", "i2")  # on the same page of the log
    feed.poll()
    assert reading.taken() == [("a1", ["i1"])]
    rest.become_stable("a1")
    feed.poll()
    assert reading.taken() == [("a1", ["i2"])]


def test_the_same_instance_again_is_new(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open()
    for _ in range(2):
        rest.receive("a1", "i1")
        rest.become_stable("a1")
        feed.poll()
    assert [instances for *_, instances in reading.handed] == [{"i1": 1}, {"i1": 3}]


def test_a_study_that_became_stable_with_nothing_new_is_no_news(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open()
    rest.studies["a1"] = ["i1"]
    rest.become_stable("a1")
    feed.poll()
    assert reading.taken() == []


def test_more_changes_than_a_page_are_all_read(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open()
    rest.receive("a1", *(f"i{number}" for number in range(1200)))
    rest.become_stable("a1")
    feed.poll()
    [(_, instances)] = reading.taken()
    assert len(instances) == 1200
    assert reading.told == list(range(1, 1202))


def test_parents_that_are_known_are_not_asked_for(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open(parents=lambda _: {"Study": "a1", "Series": "a1-5e"})
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    feed.poll()
    assert reading.taken() == [("a1", ["i1"])]
    assert {path.partition("?")[0] for _, path, _ in rest.requests} == {"/changes"}


# What a restart or a kill came between


def test_a_study_whose_stability_a_restart_swallowed_is_handed_over_when_it_has_been_quiet(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    reading.open().poll()
    rest.receive("a1", "i1")
    feed = reading.open()
    feed.poll()
    clock.advance(STABLE_AGE)
    feed.poll()
    assert reading.taken() == []  # Orthanc may still say it
    clock.advance(3)
    feed.poll()
    feed.poll()
    assert reading.taken() == [("a1", ["i1"])]


def test_as_long_as_more_comes_it_is_not_quiet(reading: Reading, rest: FakeOrthanc, clock: Clock) -> None:
    feed = reading.open(parents=lambda _: {"Study": "a1"})
    rest.receive("a1", "i1")
    feed.poll()
    clock.advance(STABLE_AGE)
    rest.receive("a1", "i2")
    feed.poll()
    clock.advance(STABLE_AGE)
    feed.poll()
    assert reading.taken() == []
    clock.advance(3)
    feed.poll()
    assert reading.taken() == [("a1", ["i1", "i2"])]


def test_what_was_deleted_before_it_was_stable_is_not_handed_over_and_asked_for_once(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    feed.poll()
    rest.studies.clear()
    clock.advance(STABLE_AGE + 3)
    feed.poll()
    before = len(rest.requests)
    feed.poll()
    assert reading.taken() == []
    assert [path for _, path, _ in rest.requests[before:] if "instances" in path] == []


def test_killed_in_the_hand_over_it_is_handed_over_again_and_the_place_is_kept(
    reading: Reading, rest: FakeOrthanc
) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    rest.become_stable("a1")

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    reading.settle, kept = fail, reading.settle
    with pytest.raises(OSError, match="disk"):
        feed.poll()
    reading.settle = kept
    reading.open().poll()
    assert reading.taken() == [("a1", ["i1"])]


def test_while_orthanc_does_not_answer_nothing_is_lost(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open()
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    rest.answers["GET", "/studies/a1/instances"] = rest.error(0)
    with pytest.raises(Exception, match="because of the test"):
        feed.poll()
    del rest.answers["GET", "/studies/a1/instances"]
    feed.poll()
    assert reading.taken() == [("a1", ["i1"])]


def test_a_clock_that_was_ahead_makes_nothing_wait(reading: Reading, rest: FakeOrthanc, clock: Clock) -> None:
    clock.jump(5e8)
    feed = reading.open()
    rest.receive("a1", "i1")
    feed.poll()
    clock.jump(-5e8)
    feed = reading.open()
    clock.advance(STABLE_AGE + 3)
    feed.poll()  # finds its study
    feed.poll()
    assert reading.taken() == [("a1", ["i1"])]


# The place in the log


def test_what_the_archive_held_before_a_new_ledger_is_not_news(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    clock.advance(-3600)
    rest.receive("a1", *(f"i{number}" for number in range(700)))
    rest.become_stable("a1")
    clock.advance(3600)
    feed = reading.open(begin=False)
    rest.receive("b2", "new")  # before the script came to ask
    rest.become_stable("b2")
    feed.begin()
    feed.poll()
    assert reading.taken() == [("b2", ["new"])]


def test_what_the_archive_held_is_not_news_where_the_clock_is_behind(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    """A machine without a battery begins in 1970; what is dated later can't have come since."""
    rest.receive("a1", *(f"i{number}" for number in range(700)))
    rest.become_stable("a1")
    clock.jump(-1.6e9)
    feed = reading.open(begin=False)
    clock.advance(3)
    rest.receive("b2", "new")
    rest.become_stable("b2")
    feed.begin()
    feed.poll()
    assert reading.taken() == [("b2", ["new"])]


def test_what_the_archive_held_is_not_news_where_the_clock_is_set_while_it_begins(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    rest.receive("a1", *(f"i{number}" for number in range(700)))
    rest.become_stable("a1")
    clock.advance(3600)
    clock.jump(-1.6e9)
    feed = reading.open(begin=False)
    clock.advance(3)
    rest.receive("b2", "before")
    rest.become_stable("b2")
    clock.jump(1.6e9)
    clock.advance(3)
    rest.receive("c3", "after")
    rest.become_stable("c3")
    feed.begin()
    feed.poll()
    assert reading.taken() == [("b2", ["before"]), ("c3", ["after"])]


def test_a_clock_that_falls_back_after_a_ledger_began_loses_nothing(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    clock.advance(-3600)
    rest.receive("a1", "old")
    rest.become_stable("a1")
    clock.advance(3600)
    reading.open(begin=False)  # killed before it took its place
    clock.jump(-86400)
    module = reading._source("common.changes")
    module.LOADED, module.LOADED_STEADY = clock.now, clock.ticks
    feed = reading.open(begin=False)
    clock.advance(3)
    rest.receive("b2", "new")
    rest.become_stable("b2")
    feed.begin()
    feed.poll()
    assert reading.taken() == [("b2", ["new"])]


@pytest.mark.parametrize("was_read_once", [False, True])
def test_who_begins_to_read_the_log_again_begins_with_what_comes_from_now_on(
    reading: Reading, rest: FakeOrthanc, clock: Clock, was_read_once: bool
) -> None:
    """`Reconcile` was false for a year: all of that time has been sent, by this server or by another one."""
    module = reading._source("common.changes")
    if was_read_once:
        reading.open().poll()
    feed = reading.open(reconcile=False)
    rest.receive("a1", "i1")
    feed.on_event("NewInstance", "i1")
    feed.on_event("StableStudy", "a1")
    rest.become_stable("a1")
    feed.poll()
    rest.receive("b2", "of another server")
    rest.become_stable("b2")
    assert reading.taken() == [("a1", ["i1"])]
    clock.advance(3600)
    module.LOADED, module.LOADED_STEADY = clock.now, clock.ticks  # Orthanc is started anew
    feed = reading.open(begin=False)
    rest.receive("c3", "new")
    rest.become_stable("c3")
    feed.begin()
    feed.poll()
    assert reading.taken() == [("c3", ["new"])]


def test_a_kept_place_is_gone_on_from(reading: Reading, rest: FakeOrthanc, orthanc_standin: StandIn) -> None:
    reading.open().poll()
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    reading.open().poll()
    assert reading.taken() == [("a1", ["i1"])]
    orthanc_standin.assert_not_logged()


def test_a_place_beyond_the_newest_change_is_set_back_and_a_line_says_so(
    reading: Reading, rest: FakeOrthanc, orthanc_standin: StandIn
) -> None:
    """The index was restored from a backup: numbers that were read already come a second time, for others."""
    feed = reading.open()
    rest.receive("a1", *(f"i{number}" for number in range(10)))
    rest.become_stable("a1")
    feed.poll()
    reading.handed.clear()
    rest.changes = rest.changes[:4]
    feed = reading.open()
    orthanc_standin.assert_logged("log of changes ends at 4", "warning")
    orthanc_standin.assert_logged("up to 11", "warning")
    rest.receive("b2", "new")
    rest.become_stable("b2")
    feed.poll()
    assert reading.taken() == [("b2", ["new"])]


# With Reconcile false


def test_without_the_log_what_was_heard_is_handed_over_once(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open(reconcile=False)
    rest.receive("a1", "i1", "i2")
    rest.receive("b2", "i3")  # another server's
    for instance in ("i1", "i2"):
        feed.on_event("NewInstance", instance)
    feed.on_event("StableSeries", "a1-5e")  # no level of ours
    feed.on_event("StableStudy", "a1")
    feed.poll()
    feed.poll()
    assert reading.taken() == [("a1", ["i1", "i2"])]
    assert not [path for _, path, _ in rest.requests if path.startswith("/changes")]


def test_without_the_log_what_was_heard_survives_a_kill(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open(reconcile=False)
    rest.receive("a1", "i1")
    feed.on_event("NewInstance", "i1")
    feed.on_event("StableStudy", "a1")
    reading.open(reconcile=False).poll()
    assert reading.taken() == [("a1", ["i1"])]


def test_with_the_log_what_is_heard_besides_counts_for_nothing(
    reading: Reading, rest: FakeOrthanc, clock: Clock
) -> None:
    feed = reading.open()
    rest.studies["a1"] = ["i1"]
    feed.on_event("NewInstance", "i1")
    feed.on_event("StableStudy", "a1")
    for _ in range(2):
        feed.poll()
        clock.advance(STABLE_AGE + 3)
    feed.poll()
    assert reading.taken() == []


def test_each_level_is_handed_over_for_itself(reading: Reading, rest: FakeOrthanc) -> None:
    feed = reading.open("Study", "Series")
    rest.receive("a1", "i1")
    rest.become_stable("a1")
    rest.changes.append(
        {**rest.changes[-1], "Seq": 3, "ChangeType": "StableSeries", "ResourceType": "Series", "ID": "a1-5e"}
    )
    feed.poll()
    assert [(level, resource) for level, resource, _ in reading.handed] == [("Study", "a1"), ("Series", "a1-5e")]
