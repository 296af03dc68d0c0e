# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/jobs.py and dispatcher.py: what rejects a second association gets one at a time, for an hour."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, Forwarding

REJECTED = 'DicomAssociation - connecting to AET "PACS": DUL Association Rejected'


def shown(forwarding: Forwarding) -> dict[str, Any]:
    found: dict[str, Any] = forwarding.script.get(f"{NAME}/destinations")["PACS"]
    return found


@pytest.fixture
def narrowed(forwarding: Forwarding) -> Forwarding:
    """Three studies are being sent; the association of the second is rejected while the first one's runs."""
    forwarding.start(MaxPerDestination=3)
    for number in (1, 2, 3):
        forwarding.receive(f"a{number}", f"i{number}")
    forwarding.rest.jobs["PACS-1"]["State"] = "Running"
    forwarding.end("PACS-2", why=REJECTED)
    eventually(lambda: forwarding.states() == ["sending", "waiting", "waiting"])
    return forwarding


def test_it_is_no_failure_and_what_was_submitted_ahead_is_taken_back(narrowed: Forwarding) -> None:
    assert [row["Attempts"] for row in narrowed.deliveries()] == [1, 0, 0]
    assert narrowed.rest.asked("POST", "/jobs/PACS-3/cancel") == [b""]
    assert narrowed.rest.asked("POST", "/modalities/PACS/echo") == []
    found = shown(narrowed)
    assert (found["Away"], found["Error"]) == (False, "")
    assert found["OneAtATimeUntil"] is not None
    narrowed.standin.assert_logged("PACS rejected an association while it had another one", "warning")


def test_from_then_on_it_gets_one_job_at_a_time_also_after_a_restart(narrowed: Forwarding) -> None:
    narrowed.turn()
    assert len(narrowed.sent()) == 3
    narrowed.end("PACS-1")
    eventually(lambda: narrowed.sent()[3:] == [["i2"]])
    narrowed.start(MaxPerDestination=3)
    narrowed.turn()
    assert shown(narrowed)["OneAtATimeUntil"] is not None
    assert len(narrowed.sent()) == 4
    narrowed.end("PACS-4")
    eventually(lambda: narrowed.sent()[4:] == [["i3"]])


def test_after_an_hour_more_are_tried_again(narrowed: Forwarding) -> None:
    narrowed.turn(3500)
    assert len(narrowed.sent()) == 3
    narrowed.turn(200)
    assert narrowed.sent()[3:] == [["i2"], ["i3"]]
    assert shown(narrowed)["OneAtATimeUntil"] is None
    narrowed.end("PACS-4", why=REJECTED)
    eventually(lambda: shown(narrowed)["OneAtATimeUntil"] is not None)
    warnings = [text for level, text in narrowed.standin.logs if level == "warning" and "rejected" in text]
    assert len(warnings) == 1  # the next ones are no news


@pytest.mark.parametrize("state", [None, "Pending", "Failure"])
def test_a_rejection_without_another_association_is_a_failure(forwarding: Forwarding, state: str | None) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1")
    if state:
        forwarding.receive("b2", "i2")
        forwarding.rest.jobs["PACS-2"]["State"] = state
    forwarding.end("PACS-1", why=REJECTED)
    eventually(lambda: forwarding.states()[0] == "waiting")
    assert forwarding.deliveries()[0]["Attempts"] == 1
    assert shown(forwarding)["OneAtATimeUntil"] is None
