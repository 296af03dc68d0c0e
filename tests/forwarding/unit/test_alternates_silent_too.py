# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/alternates.py: what waits for an alternate that has fallen silent too goes on, or back."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.forwarding.unit.fake_forwarding import Forwarding
from tests.forwarding.unit.test_alternates import be_silent, let_pass

OF_SECTION = {"A": ["B", "C"], "B": ["D"]}


@pytest.mark.parametrize(
    ("data", "answering", "expected"),
    [
        ({}, {"A"}, None),  # its own: it was to go there
        ({}, {"D"}, "D"),
        ({"MovedFrom": ["A"]}, {"A", "C", "D"}, "A"),
        ({"MovedFrom": ["A"]}, {"B", "C", "D"}, "D"),
        ({"MovedFrom": ["A"]}, {"B", "C"}, "C"),
        ({"MovedFrom": ["A"]}, {"B"}, None),
        ({"MovedFrom": ["A"], "Alternates": ["B"]}, {"C"}, None),  # of a rule
        ({"MovedFrom": ["A"], "Sent": True}, {"A"}, None),
        ({"MovedFrom": ["A", "C"]}, {"A"}, "A"),
    ],
)
def test_it_goes_back_before_it_goes_on(
    source: Any, data: dict[str, Any], answering: set[str], expected: str | None
) -> None:
    row = {"queue": "B", "data": json.dumps(data)}
    assert source("forwarding.alternates").target_of(row, OF_SECTION, answering) == expected


def test_where_something_may_go_is_asked_of_alternates_too(source: Any) -> None:
    found = source("forwarding.alternates").ways_by_name(OF_SECTION, {"A": ["E"]})
    assert found == {
        "A": ["B", "C", "E"], "B": ["A", "C", "D"], "C": ["A", "B"], "D": ["B"], "E": ["A"],
    }  # fmt: skip


def fail_trials(forwarding: Forwarding, name: str) -> None:
    """Whatever is sent there ends as if nobody were there, and time passes, three times."""
    forwarding.rest.answers.pop(("POST", f"/modalities/{name}/echo"), None)
    for _ in range(3):
        for job, about in [*forwarding.rest.jobs.items()]:
            if job.startswith(name) and about["State"] == "Pending":
                forwarding.end(job, why="Cannot connect")
        let_pass(forwarding, 400)


def sends(forwarding: Forwarding) -> list[tuple[str, str]]:
    return [(row["Destination"], row["State"]) for row in forwarding.deliveries() if row["Task"] == "send"]


def test_when_both_fall_silent_and_the_first_comes_back_it_gets_what_waits(forwarding: Forwarding) -> None:
    be_silent(forwarding)
    fail_trials(forwarding, "PACS")
    assert sends(forwarding) == [("VNA", "sending")]
    fail_trials(forwarding, "VNA")
    assert [name for name, _ in sends(forwarding)] == ["VNA"]
    forwarding.rest.answers["POST", "/modalities/PACS/echo"] = {}
    fail_trials(forwarding, "VNA")
    assert sends(forwarding) == [("PACS", "sending")]


def test_whoever_got_it_in_the_end_may_prove_it_instead_of_the_first(forwarding: Forwarding, tmp_path: Path) -> None:
    forwarding.rest.known["THIRD"] = {"AET": "THIRD", "Host": "third", "Port": 104}
    forwarding.start(Alternates={"PACS": ["VNA"], "VNA": ["THIRD"]}, AlternatesAfterMinutes=10, DeleteAfterForward=True)
    forwarding.receive("a1", "i1")
    forwarding.rest.answers["POST", "/modalities/VNA/echo"] = {}
    fail_trials(forwarding, "PACS")
    assert sends(forwarding) == [("VNA", "sending")]
    forwarding.rest.answers["POST", "/modalities/THIRD/echo"] = {}
    fail_trials(forwarding, "VNA")
    assert sends(forwarding) == [("THIRD", "sending")]
    with contextlib.closing(sqlite3.connect(tmp_path / "db" / "auto_forward_modality.sqlite")) as db:
        [(data,)] = db.execute("SELECT data FROM work WHERE task='delete'").fetchall()
    assert json.loads(data)["Instead"]["PACS"] == ["VNA", "THIRD"]
