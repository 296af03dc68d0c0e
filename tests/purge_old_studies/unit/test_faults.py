# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: what goes wrong in the middle deletes nothing more, and holds nothing up."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually
from tests.purge_old_studies.unit.test_guards import NAME, RULE, Purging, purge


@pytest.fixture
def purging(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Purging:
    return Purging(start, rest, clock, orthanc_standin)


def test_a_pattern_with_many_stars_is_judged_at_once(source: Callable[[str], ModuleType]) -> None:
    """Whatever takes long there holds the interpreter, and with it every store."""
    matches = source("purge_old_studies.studies").matches
    began = time.perf_counter()
    assert not matches("a" * 64, "*a" * 6 + "*b")
    assert time.perf_counter() - began < 0.5
    assert matches(" Doe^Jane ", "x\\ D*^J?n* ")
    assert not matches("doe^jane", "D*")


@pytest.mark.parametrize(
    ("named", "kept"),
    [({"Keep": 5000}, ("Keep", "1024")), ({}, ("5000", "1024")), (None, ("5000", "1024"))],
)
def test_metadata_that_keep_a_study_are_called_as_orthanc_calls_them(
    source: Callable[[str], ModuleType], named: Any, kept: tuple[str, ...]
) -> None:
    section = {"KeepMetadata": ["5000", "01024"]}
    settings = source("purge_old_studies.settings")
    found = settings.read_configuration({"PurgeOldStudies": section, "UserMetadata": named})
    assert found.keep_metadata == kept


def test_a_purge_that_was_refused_does_not_go_on_at_the_next_start(
    purging: Purging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    purging.add("a1")
    purging.start()
    monkeypatch.setattr(importlib.import_module("purge_old_studies.history").History, "add", full)
    assert purge(purging, **{"async": True}).status == 503
    purging.start()
    assert purging.purges() == []
    assert purging.deleted() == []
    assert purge(purging).json()["Deleted"] == 1


def test_what_comes_in_while_a_large_study_goes_in_pieces_is_kept(purging: Purging) -> None:
    def content(path: str, body: Any) -> Any:
        if body["Level"] == "Series":
            return [{"ParentStudy": each, "Instances": ["1"] * 1001, "MainDicomTags": {}} for each in body["Resources"]]
        return purging._content(path, body)

    def begun(*_: Any) -> Any:
        purging.found["a1"] = {**purging.found["a1"], "LastUpdate": "20260301T022800"}
        return {"Series": []}

    purging.add("a1")
    purging.rest.answers["POST", "/tools/bulk-content"] = content
    purging.rest.answers["GET", "/studies/a1"] = begun
    purging.start()
    assert purge(purging).json()["Kept"] == ["a1"]
    assert purging.deleted() == []


def test_an_error_in_one_run_of_a_rule_ends_no_other(purging: Purging) -> None:
    errors = [RuntimeError("can't start new thread")]

    def found(*_: Any) -> Any:
        if errors:
            raise errors.pop()
        return [*purging.found]

    purging.add("a1")
    purging.rest.answers["POST", "/tools/find"] = found
    purging.start(Rules=[RULE])
    purging.looked()
    purging.clock.advance(180)
    eventually(lambda: any("rule old was not run" in text for _, text in purging.standin.logs))
    purging.looked()
    assert purging.deleted() == []
    purging.clock.advance(86400)
    eventually(purging.purges)
    purging.looked()
    assert purging.deleted() == ["a1"]


def test_lines_that_a_disk_has_spoilt_hide_no_other(source: Callable[[str], ModuleType], tmp_path: Path) -> None:
    path = tmp_path / "purge_old_studies.jsonl"
    lines = [json.dumps({"Purge": number, "Event": "started"}).encode() for number in (1, 2)]
    path.write_bytes(b"\n".join((lines[0], b"\0\0\0", b"[]", lines[1], b"")))
    page = source("purge_old_studies.history").History(path, durable=False).page(0, 10, None)
    assert [(item["Number"], item["Purge"]) for item in page["Items"]] == [(1, 1), (4, 2)]
    assert page["Total"] == 2


def test_what_ended_long_ago_is_forgotten_while_it_runs(purging: Purging) -> None:
    purging.add("a1")
    purging.start()
    assert purge(purging).json()["Deleted"] == 1
    purging.clock.advance(29 * 86400)
    assert len(purging.purges()) == 1
    purging.clock.advance(2 * 86400)
    eventually(lambda: not purging.purges())
    assert len(purging.script.get(f"{NAME}/history")["Items"]) == 3  # for ever
