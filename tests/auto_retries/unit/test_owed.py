# SPDX-License-Identifier: AGPL-3.0-or-later
"""`POST /auto-retries/owed`: what the jobs send that are watched, from their submission on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.auto_retries.unit.test_guards import NAME, Retries
from tests.fakes import Clock, FakeOrthanc, Script, eventually

SERVICE_UNAVAILABLE = 503


@pytest.fixture
def retries(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Retries:
    found = Retries(start, rest, clock, orthanc_standin)
    found.start()
    eventually(lambda: owed(found) == [])  # as soon as it has looked at the jobs
    return found


def owed(retries: Retries) -> Any:
    answer = retries.script.post(f"{NAME}/owed", {"Resources": ["a1", "a1-9a", "b2"]})
    return answer.json()["Owed"] if answer.status == 200 else answer.status


@pytest.mark.parametrize("resource", ["1", "a1-5e", "a1", "a1-9a"], ids=["instance", "series", "study", "patient"])
def test_of_a_job_that_runs_what_it_sends_is_owed(retries: Retries, resource: str) -> None:
    retries.submit("j1", resource)
    assert owed(retries) == ["a1-9a" if resource == "a1-9a" else "a1"]


def test_a_job_that_fails_while_it_is_asked_is_owed(
    retries: Retries, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    owing = source("common.owed").Owing
    of = owing.of

    def of_and_fail(*arguments: Any) -> Any:
        found = of(*arguments)
        retries.fail("j1")
        eventually(retries.rows)  # it is not watched any more
        return found

    retries.submit("j1", "a1")
    monkeypatch.setattr(owing, "of", of_and_fail)
    assert owed(retries) == ["a1"]


def test_where_orthanc_can_not_say_whose_the_images_of_a_job_are_it_says_so(retries: Retries) -> None:
    retries.submit("j1", "1")
    retries.rest.answers["POST", "/tools/bulk-content"] = retries.rest.error(500)
    assert owed(retries) == SERVICE_UNAVAILABLE
