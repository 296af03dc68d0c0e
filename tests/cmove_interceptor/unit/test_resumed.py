# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was paused for a move goes on at its end, also where the script's thread does not come to that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.cmove_interceptor.unit.test_guards import Moving
from tests.fakes import Clock, FakeOrthanc, Script


@pytest.fixture
def moving(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Moving:
    return Moving(start, rest, clock, orthanc_standin)


@pytest.mark.parametrize("ends", ["", "Cannot connect"], ids=["well", "badly"])
def test_at_the_end_of_a_move_what_was_paused_for_it_goes_on_although_the_state_is_gone(
    moving: Moving, source: Any, ends: str
) -> None:
    moving.start()
    moving.states()  # the ledger is open
    callbacks = source("common.quirks").KEPT_ALIVE
    interceptor = next(each.__self__ for each in callbacks if hasattr(getattr(each, "__self__", 0), "slots"))

    def gone() -> None:
        raise source("common.state").StateGoneError("the state was taken away")

    interceptor._worker._look_at_state = gone
    moving.rest.jobs["x"] = {"ID": "x", "State": "Paused", "Type": "DicomModalityStore", "Priority": 0, "Content": {}}
    interceptor.slots._paused["x"] = source("cmove_interceptor.slots").PausedJob(is_asked=True)
    interceptor.slots._served.add("j1")
    resumed: list[Any] = []

    def resume(body: Any) -> Any:
        resumed.append(body)
        return {}

    moving.standin.answers["POST", "/jobs/x/resume"] = resume
    if ends:
        moving.ends = [ends] * 9
        with pytest.raises(Exception, match=ends):
            moving.move()
    else:
        moving.move()
    assert len(resumed) == 1
