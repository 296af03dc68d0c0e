# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/archive.py: the instances of a resource, which may have been deleted meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeOrthanc


@pytest.mark.parametrize("answer", [["i1", "i2"], [{"ID": "i1"}, {"ID": "i2"}]])
def test_the_instances_are_named_by_whatever_version(source: Any, rest: FakeOrthanc, answer: list[Any]) -> None:
    rest.answers["GET", "/series/s/instances?expand=false"] = answer
    loopback = source("common.loopback").Loopback({})
    assert source("common.archive").instances_of(loopback, "Series", "s") == ["i1", "i2"]


def test_what_was_deleted_has_none_and_an_instance_is_its_own(source: Any, rest: FakeOrthanc) -> None:
    loopback, archive = source("common.loopback").Loopback({}), source("common.archive")
    assert archive.instances_of(loopback, "Study", "gone") == []
    assert archive.instances_of(loopback, "Instance", "i1") == ["i1"]


def test_where_orthanc_does_not_answer_nothing_is_said(source: Any, rest: FakeOrthanc) -> None:
    module = source("common.loopback")
    rest.answers["GET", "/studies/a1/instances"] = rest.error(0)
    with pytest.raises(module.LoopbackError):
        source("common.archive").instances_of(module.Loopback({}), "Study", "a1")


@pytest.mark.parametrize(("level", "here"), [("Instance", True), ("Study", False)])
def test_what_a_person_sent_whole_and_is_refused_holds_no_other_row_up(
    source: Any, rest: FakeOrthanc, tmp_path: Path, level: str, *, here: bool
) -> None:
    """An instance that was sent by its own name, and a study that is deleted meanwhile."""
    ledger = source("common.ledger").Ledger(tmp_path / "x.sqlite")
    row = ledger.add("PACS", "a1", {"Level": level, "Instances": None, "Suspect": True})
    other = ledger.add("PACS", "b2", {"Level": "Study", "Instances": ["i9"]})
    for each in (row, other):
        ledger.start(each)
        ledger.fail(each, "refused", source("common.retry").Retry())
    bisection = source("forwarding.bisection").Bisection(ledger, source("common.loopback").Loopback({}))
    bisection.retry_failed("PACS", was_silent=False)
    first, second = ledger.rows("SELECT * FROM work ORDER BY id")
    assert second["next_attempt"] == 0
    assert bool(json.loads(first["data"]).get("Refused")) is here
