# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/whole_series.py, in the script for DICOM nodes: a job names a series only where that sends what its row holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import eventually
from tests.forwarding.unit.fake_forwarding import NAME, Forwarding

MANY = [f"i{number:02}" for number in range(60)]
SERIES = "a1-5e"


def answer_stores(forwarding: Forwarding, act: Callable[[], object] = lambda: None) -> None:
    """As Orthanc: a job sends what is there when it is submitted. Before that, something happens."""
    submit = forwarding.rest._answer

    def answer(path: str, body: Any) -> Any:
        act()
        del forwarding.rest.answers["POST", path]
        found = submit("POST", path, body)
        forwarding.rest.answers["POST", path] = answer
        holds = {SERIES: forwarding.rest.studies["a1"]}
        content = forwarding.rest.jobs[found["ID"]]["Content"]
        content["InstancesCount"] = len({one for each in body["Resources"] for one in holds.get(each, [each])})
        return found

    forwarding.rest.answers["POST", "/modalities/PACS/store"] = answer


def test_a_row_that_holds_a_whole_series_names_it_and_keeps_its_instances(forwarding: Forwarding) -> None:
    forwarding.start()
    answer_stores(forwarding)
    forwarding.receive("a1", *MANY)
    assert forwarding.sent() == [[SERIES]]
    forwarding.end("PACS-1")
    eventually(lambda: forwarding.states() == ["done"])
    [row] = forwarding.deliveries()
    assert forwarding.script.get(f"{NAME}/deliveries/{row['ID']}")["InstanceIDs"] == MANY


def test_a_series_of_which_the_row_does_not_hold_all_is_not_named(forwarding: Forwarding) -> None:
    forwarding.clock.advance(-3600)
    forwarding.rest.receive("a1", "old")  # was here before
    forwarding.rest.become_stable("a1")
    forwarding.clock.advance(3600)
    forwarding.start()
    answer_stores(forwarding)
    forwarding.turn()
    forwarding.receive("a1", *MANY)
    assert forwarding.sent() == [MANY]


def test_series_that_are_whole_are_named_beside_the_instances_of_others(forwarding: Forwarding) -> None:
    rest = forwarding.rest
    rest.answers["POST", "/tools/bulk-content"] = lambda _, body: (
        [{"ID": "s1", "Instances": MANY[:40]}, {"ID": "s2", "Instances": [*MANY[40:], "another"]}]
        if body.get("Level") == "Series"
        else rest._content(body)
    )
    forwarding.start()
    forwarding.receive("a1", *MANY)
    assert forwarding.sent() == [sorted(["s1", *MANY[40:]])]


def test_a_few_instances_are_named_without_a_question(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.receive("a1", *MANY[:49])
    assert forwarding.sent() == [MANY[:49]]
    assert not [body for body in forwarding.rest.asked("POST", "/tools/bulk-content") if body.get("Level") == "Series"]


def test_where_orthanc_looks_up_each_instance_series_are_named_sooner(forwarding: Forwarding) -> None:
    forwarding.standin.returns["CheckVersionAdvanced"] = True
    forwarding.start()
    answer_stores(forwarding)
    forwarding.receive("a1", *MANY[:10])
    assert forwarding.sent() == [[SERIES]]


@pytest.mark.parametrize(
    "section",
    [
        {"SkipModified": True},
        {"Rules": [{"Name": "mine", "Origin": {"RemoteAET": ["CT*"]}}]},
        {"Rules": [{"Name": "mine", "Matcher": "m.py:f"}]},
    ],
)
def test_where_single_instances_may_be_left_out_no_series_is_named(
    forwarding: Forwarding, tmp_path: Any, section: dict[str, Any]
) -> None:
    (tmp_path / "m.py").write_text("def f(_):\n    return 'PACS'\n")
    forwarding.start(**section)
    answer_stores(forwarding)
    forwarding.receive("a1", *MANY, RemoteAET="CT1")
    assert forwarding.sent() == [MANY]


def test_what_comes_into_the_series_before_its_job_is_submitted_is_not_sent_with_it(forwarding: Forwarding) -> None:
    forwarding.start()
    late = ["late"]

    def receive_late() -> None:
        while late:
            forwarding.rest.receive("a1", late.pop(), RemoteAET="PACS")

    answer_stores(forwarding, receive_late)
    forwarding.receive("a1", *MANY)
    assert forwarding.sent() == [[SERIES], MANY]
    assert len(forwarding.rest.asked("POST", "/jobs/PACS-1/cancel")) == 1
    [row] = forwarding.deliveries()
    assert (row["State"], row["Job"]) == ("sending", "PACS-2")


@pytest.mark.parametrize(("number", "jobs"), [(60, 1), (61, 2)])  # 61: it sends more than the row holds
def test_a_job_of_a_series_that_was_not_answered_is_found_if_it_sends_no_more_than_its_row(
    forwarding: Forwarding, number: int, jobs: int
) -> None:
    forwarding.start()
    forwarding.turn()

    def answer(path: str, body: Any) -> Any:
        del forwarding.rest.answers["POST", path]
        forwarding.rest._answer("POST", path, body)
        forwarding.rest.jobs["PACS-1"]["Content"]["InstancesCount"] = number
        return forwarding.rest.error(0, "no answer")

    forwarding.rest.answers["POST", "/modalities/PACS/store"] = answer
    forwarding.receive("a1", *MANY)
    forwarding.turn(10)
    forwarding.turn(10)
    assert forwarding.sent() == [[SERIES]] * jobs
    [row] = forwarding.deliveries()
    assert row["State"] == "sending"


@pytest.mark.parametrize("why", ["Peer aborted Association (or never connected)", "connecting to AET: timeout"])
def test_what_the_broken_job_of_a_series_has_sent_is_not_guessed_and_what_goes_again_is_named_each(
    forwarding: Forwarding, why: str
) -> None:
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    forwarding.start()
    answer_stores(forwarding)
    forwarding.receive("a1", *MANY)
    # Orthanc sends a series in another order than that of the row.
    forwarding.rest.jobs["PACS-1"] |= {"Progress": 50}
    forwarding.end("PACS-1", why=why)
    for _ in range(6):
        forwarding.turn(120)
        for job in [key for key, job in forwarding.rest.jobs.items() if job["State"] == "Pending"]:
            forwarding.end(job)
    eventually(lambda: set(forwarding.states()) == {"done"})
    first, *again = forwarding.sent()
    assert first == [SERIES]
    assert sorted(one for named in again for one in named) == MANY
