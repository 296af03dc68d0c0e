# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/destinations.py: when a destination may be sent to."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from tests.fakes import Clock, eventually

FIRST, LONGEST = 30.0, 200.0


class Probing:
    """A destination whose probe fails with `error`, or answers."""

    def __init__(self, source: Any) -> None:
        self.error: Exception | None = OSError("no\nanswer")
        self.probes, self.wake = 0, threading.Event()
        module = source("forwarding.destinations")
        self.destination = module.Destination("PACS", self._probe, self.wake, FIRST, LONGEST)

    def _probe(self, name: str) -> None:
        assert name == "PACS"
        self.probes += 1
        if self.error:
            raise self.error

    def look(self) -> bool:
        """Look, and wait for the probe if there was one."""
        before = self.probes
        self.wake.clear()
        self.destination.look()
        if self.destination._probing is not None:  # a thread may be alive when threading.enumerate() has it no longer
            self.destination._probing.join(10)
        return self.probes > before


@pytest.fixture
def probing(source: Any, clock: Clock) -> Probing:
    return Probing(source)


def test_one_that_is_well_may_be_sent_to_and_is_not_probed(probing: Probing) -> None:
    assert probing.destination.may_send()
    assert not probing.look()
    assert probing.destination.shown() == {"Away": False, "Misconfigured": False, "Error": ""}


def test_after_a_failure_nothing_is_sent_and_it_is_probed_at_once(probing: Probing) -> None:
    probing.destination.failed("refused")
    assert probing.destination.shown() == {"Away": True, "Misconfigured": False, "Error": "refused"}
    assert not probing.destination.may_send()
    assert probing.look()
    assert probing.destination.error == "no answer"
    assert probing.destination.was_silent
    assert probing.wake.is_set()


def test_probes_of_a_dead_node_slow_down_up_to_one_a_minute(probing: Probing, clock: Clock) -> None:
    probing.destination.failed("refused")
    at = []
    for _ in range(400):
        if probing.look():
            at.append(clock.ticks)
        clock.advance(1)
    gaps = [after - before for before, after in itertools.pairwise(at)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]


def test_a_further_failure_does_not_hurry_the_probes(probing: Probing, clock: Clock) -> None:
    probing.destination.failed("refused")
    for _ in range(5):
        probing.look()
        clock.advance(20)
    probing.look()
    probing.destination.failed("refused")
    clock.advance(1)
    assert not probing.look()


def test_one_probe_at_a_time(probing: Probing, clock: Clock) -> None:
    going_on, counted = threading.Event(), []

    def probe(_name: str) -> None:
        counted.append(1)
        while not going_on.is_set():
            going_on.wait(0.01)

    destination = type(probing.destination)("slow", probe, probing.wake, FIRST, LONGEST)
    destination.failed("refused")
    for _ in range(5):
        destination.look()
        clock.advance(100)
    eventually(lambda: counted)
    going_on.set()
    assert len(counted) == 1
    eventually(lambda: destination.answered)


def test_an_answer_tells_the_worker_who_decides(probing: Probing) -> None:
    probing.error = None
    probing.destination.failed("refused")
    probing.look()
    assert probing.destination.answered
    assert not probing.destination.was_silent
    assert probing.wake.is_set()
    assert probing.destination.away  # until the worker says that it is not
    probing.destination.succeeded()
    assert probing.destination.may_send()
    assert probing.destination.shown() == {"Away": False, "Misconfigured": False, "Error": ""}


def test_a_new_failure_after_an_answer_needs_a_new_answer(probing: Probing) -> None:
    probing.error = None
    probing.destination.failed("refused")
    probing.look()
    probing.destination.failed("refused again")
    assert not probing.destination.answered


def test_one_job_is_tried_although_no_probe_answers_ever_more_rarely(probing: Probing, clock: Clock) -> None:
    probing.destination.failed("refused")
    at = []
    for _ in range(800):
        if probing.destination.may_send():
            at.append(clock.ticks)
            probing.destination.sent()
        clock.advance(1)
    assert [after - before for before, after in zip([1000.0, *at], at, strict=False)] == [30, 60, 120, 200, 200]


def test_a_failure_after_it_was_well_begins_with_the_short_delays(probing: Probing, clock: Clock) -> None:
    probing.destination.failed("refused")
    for _ in range(8):
        probing.look()
        clock.advance(60)
    probing.destination.succeeded()
    probing.destination.failed("refused")
    assert probing.look()
    clock.advance(1)
    assert probing.look()


def test_one_that_answers_probes_and_takes_nothing_gets_a_trial_a_minute(
    probing: Probing, source: Any, clock: Clock
) -> None:
    limit = source("forwarding.destinations").FAILURES_UNTIL_TRIALS
    probing.error = None
    for number in range(1, limit + 1):
        probing.destination.failed("refused")
        clock.advance(61)
        assert probing.look()
        assert probing.destination.answered
        probing.destination.probe_answered()
        assert probing.destination.away == (number == limit)
    assert probing.destination.away
    trials = []
    for _ in range(600):
        if probing.destination.may_send():
            probing.destination.sent()
            trials.append(clock.ticks)
            probing.destination.failed("refused")
        clock.advance(1)
    gaps = [after - before for before, after in itertools.pairwise(trials)]
    assert {*gaps[1:]} == {60}
    assert 30 <= gaps[0] <= 60
    probing.destination.succeeded()
    probing.destination.failed("refused")
    clock.advance(61)
    probing.look()
    probing.destination.probe_answered()
    assert not probing.destination.away


def test_one_that_was_silent_in_between_begins_again(probing: Probing, source: Any, clock: Clock) -> None:
    for _ in range(source("forwarding.destinations").FAILURES_UNTIL_TRIALS):
        probing.destination.failed("no route")
    assert probing.look()  # no answer
    probing.error = None
    clock.advance(61)
    assert probing.look()
    probing.destination.probe_answered()
    assert not probing.destination.away


@pytest.mark.parametrize(
    ("why", "out_of_reach"),
    [
        ('DicomAssociation - connecting to AET "PACS": TCP Initialization Error: Connection refused', True),
        ('DicomAssociation - connecting to AET "PACS": Peer aborted Association (or never connected)', True),
        ("Cannot connect to the peer", True),
        ('DicomAssociation - C-STORE to AET "PACS": Peer aborted Association (or never connected)', False),
        ("DIMSE status 0xA700", False),
    ],
)
def test_who_breaks_off_in_the_middle_was_reached(source: Any, why: str, out_of_reach: bool) -> None:
    assert source("forwarding.failures").was_out_of_reach(why) is out_of_reach


def test_a_probe_that_fails_after_a_job_has_succeeded_makes_it_silent_for_nobody(probing: Probing) -> None:
    """Nothing probes a destination that is well, so nothing would end that silence."""
    probing.destination.failed("broke off")
    probing.destination.succeeded()
    probing.destination._ask()  # it was under way since the failure
    assert probing.destination.silent_seconds() == -1
    probing.destination.failed("broke off again")
    assert probing.destination.silent_seconds() == -1  # until a probe fails from now on
    assert probing.look()
    assert probing.destination.silent_seconds() >= 0
