# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/failures.py and jobs.py: what a failed job has sent already is delivered, and only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, STUDY, Forwarding

DUPLICATE = 'C-STORE SCU to AET "PACS" has failed with DIMSE status 0x0111'
BROKEN = "Peer aborted Association (or never connected)"


def fail(forwarding: Forwarding, job: str, why: str, progress: int, count: int | None = None) -> None:
    """A job fails at this progress; it was given so many instances, where Orthanc says that."""
    content = forwarding.rest.jobs[job].setdefault("Content", {})
    if count is not None:
        content["InstancesCount"] = count
    forwarding.rest.jobs[job]["Progress"] = progress
    forwarding.end(job, why=why)


def rows(forwarding: Forwarding) -> list[tuple[str, int | None]]:
    return [(row["State"], row["Instances"]) for row in forwarding.deliveries()]


@pytest.mark.parametrize("number", [1, 2, 7, 50, 99, 100, 101, 130, 200, 201, 500, 1999])
def test_the_progress_of_a_job_bounds_what_it_has_sent_and_up_to_a_hundred_says_it(
    source: Callable[[str], Any], number: int
) -> None:
    failures: Any = source("forwarding.failures")
    for sent in range(number):
        job = {"Progress": int(100 * sent / number + 0.5), "Content": {"InstancesCount": number}}
        least, most = failures.sent_before_failure(job, number)
        assert least <= sent <= most
        assert number > failures.TOLD_EXACTLY or least == most
    assert failures.sent_before_failure(None, number) == (0, number)
    assert failures.sent_before_failure({"Progress": 50, "Content": {"InstancesCount": number + 1}}, number)[0] == 0


def test_what_a_broken_association_has_delivered_is_not_sent_again(forwarding: Forwarding) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3", "i4")
    fail(forwarding, "PACS-1", BROKEN, 50, 4)
    eventually(lambda: ("done", 2) in rows(forwarding))
    forwarding.turn()
    forwarding.turn()
    assert forwarding.sent() == [["i1", "i2", "i3", "i4"], ["i3", "i4"]]
    forwarding.end("PACS-2")
    eventually(lambda: rows(forwarding) == [("done", 2), ("done", 2)])
    history = [forwarding.script.get(f"{NAME}/deliveries/{row['ID']}") for row in forwarding.deliveries()]
    assert sorted(one for row in history for one in row["InstanceIDs"]) == ["i1", "i2", "i3", "i4"]


@pytest.mark.parametrize("count", [None, 3])
def test_where_the_job_does_not_tell_all_is_sent_again(forwarding: Forwarding, count: int | None) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3", "i4")
    fail(forwarding, "PACS-1", BROKEN, 50, count)
    eventually(lambda: rows(forwarding) == [("waiting", 4)])
    forwarding.turn(60)
    assert forwarding.sent()[1:] == [["i1", "i2", "i3", "i4"]]


def test_each_attempt_that_got_further_is_followed_by_the_next_at_once(forwarding: Forwarding) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3", "i4")
    for number, left in ((1, 4), (2, 3), (3, 2)):
        fail(forwarding, f"PACS-{number}", BROKEN, round(100 / left), left)
        eventually(lambda: rows(forwarding).count(("done", 1)) == number)  # noqa: B023 - it is called here
        forwarding.turn()
        forwarding.turn()
    assert [len(job) for job in forwarding.sent()] == [4, 3, 2, 1]


def test_a_duplicate_is_delivered_and_what_comes_behind_it_is_sent_at_once(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3")
    fail(forwarding, "PACS-1", DUPLICATE, 33, 3)
    eventually(lambda: forwarding.sent() == [["i1", "i2", "i3"], ["i3"]])
    fail(forwarding, "PACS-2", DUPLICATE, 0, 1)
    eventually(lambda: rows(forwarding) == [("done", 1), ("done", 2)])
    assert forwarding.rest.asked("POST", "/modalities/PACS/echo") == []
    forwarding.standin.assert_not_logged("did not reach")


def test_a_whole_study_with_a_duplicate_is_named_before_anything_of_it_counts(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.turn()
    forwarding.rest.receive(STUDY, "i1", "i2", "i3")
    forwarding.script.post(f"{NAME}/send", {"Resource": STUDY})
    eventually(lambda: forwarding.sent() == [[STUDY]])
    fail(forwarding, "PACS-1", DUPLICATE, 33, 3)
    eventually(lambda: forwarding.sent()[1:] == [["i1", "i2", "i3"]])


def test_a_job_that_names_a_series_does_not_tell_in_which_order(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3", "i4")
    forwarding.rest.jobs["PACS-1"]["Content"]["ParentResources"] = ["a1-5e"]
    fail(forwarding, "PACS-1", BROKEN, 50, 4)
    eventually(lambda: rows(forwarding) == [("waiting", 4)])


def test_a_duplicate_where_the_job_does_not_tell_is_no_reason_to_try_without_end(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", "i1", "i2", "i3")
    forwarding.rest.jobs["PACS-1"]["Content"]["ParentResources"] = ["i1", "i2"]  # i3 was deleted
    fail(forwarding, "PACS-1", DUPLICATE, 33, 2)
    eventually(lambda: rows(forwarding) == [("waiting", 3)])
    forwarding.turn()
    assert len(forwarding.sent()) == 1
