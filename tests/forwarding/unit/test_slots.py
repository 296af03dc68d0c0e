# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/slots.py, in the script for DICOM nodes: how many jobs a destination has in Orthanc at a time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NODES, Forwarding

FOUR = {"ConcurrentJobs": 4}
AHEAD = 3


def receive(forwarding: Forwarding, number: int) -> None:
    """So many studies arrive and become stable."""
    for each in range(number):
        forwarding.rest.receive(f"a{each}", f"i{each}")
        forwarding.rest.become_stable(f"a{each}")
    forwarding.turn()
    forwarding.turn()


def open_jobs(forwarding: Forwarding, name: str = "PACS") -> int:
    """How many jobs of a destination have not ended."""
    return sum(job["State"] == "Pending" for key, job in forwarding.rest.jobs.items() if key.startswith(name))


def end_one(forwarding: Forwarding, after: float = 0.0, why: str = "", name: str = "PACS") -> None:
    """A job of a destination ends, so many seconds after it was submitted."""
    forwarding.clock.advance(after)
    job = next(key for key, job in forwarding.rest.jobs.items() if key.startswith(name) and job["State"] == "Pending")
    forwarding.end(job, why=why)
    forwarding.turn(0)
    forwarding.turn(0)


@pytest.mark.parametrize(
    ("section", "jobs"),
    [
        ({"MaxPerDestination": 1}, 1),
        ({"MaxPerDestination": 1, "DestinationOptions": {"PACS": {"MaxJobs": 3}}}, 3),
        # Orthanc itself lets no more run than that: those ahead wait.
        ({"MaxPerDestination": 4}, 4 + AHEAD),
        ({}, 4 + AHEAD),
    ],
)
def test_what_is_submitted_ahead_is_no_more_than_the_bound_lets_run(
    forwarding: Forwarding, section: dict[str, Any], jobs: int
) -> None:
    forwarding.start(FOUR, **section)
    receive(forwarding, 10)
    assert open_jobs(forwarding) == jobs
    end_one(forwarding)
    assert open_jobs(forwarding) == jobs
    assert len(forwarding.sent()) == jobs + 1


@pytest.mark.parametrize(
    ("seconds", "jobs"),
    [
        (0.1, 4 + AHEAD),
        (2.0, 4),
        (30.0, 3),
    ],  # short: ahead; longer: no slot is lost by waiting; long: one for the others
)
def test_among_several_destinations_one_has_all_slots_only_as_long_as_its_jobs_soon_give_them_back(
    forwarding: Forwarding, seconds: float, jobs: int
) -> None:
    forwarding.start(FOUR, Destinations=["PACS", "VNA"], Rules=[{"Name": "one", "Destinations": ["PACS"]}])
    receive(forwarding, 20)
    assert open_jobs(forwarding) == 3  # nothing is known of it yet
    for _ in range(4):
        end_one(forwarding, seconds)
    assert open_jobs(forwarding) == jobs


def test_eight_destinations_share_the_slots_and_none_of_them_holds_two_before_it_has_shown_that_it_is_quick(
    forwarding: Forwarding,
) -> None:
    names = [f"N{number}" for number in range(8)]
    forwarding.rest.known = {name: {**NODES["PACS"], "AET": name} for name in names}
    forwarding.start(FOUR, Destinations=None)
    receive(forwarding, 5)
    assert [open_jobs(forwarding, name) for name in names] == [1] * 8


def test_a_destination_that_failed_although_it_answers_gets_one_job_at_a_time_until_one_succeeds(
    forwarding: Forwarding,
) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start(FOUR, Retry={"GiveUpHours": 1})
    receive(forwarding, 10)
    while open_jobs(forwarding):
        end_one(forwarding, why="it broke off")
        if len(forwarding.sent()) > 8:
            break
    forwarding.turn(10)
    eventually(lambda: open_jobs(forwarding) == 1)
    forwarding.turn(10)
    assert open_jobs(forwarding) == 1
    end_one(forwarding)
    eventually(lambda: open_jobs(forwarding) > 1)
