# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: a destination of `OnlyIfAt` that does not answer, or not in time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.elsewhere_helpers import AT_PACS, Elsewhere
from tests.purge_old_studies.unit.elsewhere_helpers import purging as purging  # a fixture
from tests.purge_old_studies.unit.test_guards import NAME, purge


def test_a_study_that_makes_a_proof_impossible_keeps_no_other(purging: Elsewhere) -> None:
    def refuse(_name: str, studies: list[str]) -> None:
        if "b2" in studies:
            raise ValueError("it has their UIDs, but of another patient")

    purging.has("PACS", ["a1", "b2", "c3"])
    purging.before = refuse
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 2
    assert purging.deleted() == ["a1-1", "a1-2", "c3-1", "c3-2"]
    assert purging.why() == {"b2": "PACS has not proved to have it: it has their UIDs, but of another patient"}


@pytest.mark.parametrize("kind", ["refuses", "cannot be reached"])
def test_a_destination_that_does_not_answer_is_left_alone_by_this_purge_and_asked_by_the_next(
    purging: Elsewhere, kind: str
) -> None:
    for number in range(4, 9):
        purging.add(f"d{number}")

    def fail(*_: Any) -> None:
        raise purging.rest.error(500, "no route to PACS") if kind == "refuses" else ConnectionRefusedError("PACS")

    purging.before = fail
    purging.has("PACS", purging.found)
    purging.start()
    answer = purge(purging, **AT_PACS).json()
    assert (answer["Deleted"], len(answer["Kept"])) == (0, 8)
    assert len(purging.questions) == 3
    assert set(purging.why().values()) <= {
        f"PACS has not proved to have it: {text}{again}"
        for text in ("no route to PACS", "PACS")
        for again in ("", " (this purge does not ask it again)")
    }
    purging.before = lambda *_: None
    assert purge(purging, **AT_PACS).json() == {"Deleted": 8, "Since": "20000101"}


def test_one_that_fails_now_and_then_is_asked_on(purging: Elsewhere) -> None:
    for study in ("d4", "e5", "f6", "g7"):
        purging.add(study)

    def fail(_name: str, studies: list[str]) -> None:
        if {"b2", "d4", "f6"} & {*studies}:
            raise purging.rest.error(500, "an odd study")

    purging.before = fail
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 4
    assert purging.why() == dict.fromkeys(("b2", "d4", "f6"), "PACS has not proved to have it: an odd study")


def test_a_report_that_does_not_come_in_time_keeps_all_and_is_waited_for_once(
    purging: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", purging.clock.advance)
    purging.before = lambda *_: "not yet" if purging.proofs[-1] != "C-FIND" else None
    purging.has("PACS", purging.found)
    purging.start()
    before = purging.clock.ticks
    assert purge(purging, **AT_PACS).json()["Deleted"] == 0
    assert 300 <= purging.clock.ticks - before < 310
    assert set(purging.why().values()) == {
        "PACS has not proved to have it: it has sent no report of storage commitment within 300 s "
        "(this purge does not ask it again)"
    }


def test_a_report_that_comes_is_waited_for(purging: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", purging.clock.advance)
    purging.before = lambda *_: "not yet" if 1 < len(purging.questions) < 10 else None
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 3


def test_a_purge_that_is_cancelled_while_it_waits_for_a_report_deletes_nothing_and_ends(
    purging: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    purging.before = lambda *_: "not yet" if purging.proofs[-1] != "C-FIND" else None
    purging.has("PACS", purging.found)
    purging.start()
    number = purge(purging, **AT_PACS, **{"async": True}).json()["ID"]
    eventually(lambda: purging.questions)
    purging.script.post(f"{NAME}/jobs/{number}/cancel", {})
    eventually(lambda: purging.purges()[0]["Ended"])
    [job] = purging.purges()
    assert (job["State"], job["Deleted"], job["Kept"], job["Remaining"]) == ("cancelled", 0, 0, 3)


def test_while_this_orthanc_itself_does_not_answer_the_purge_waits(purging: Elsewhere) -> None:
    system, silent = purging.rest.answers["GET", "/system"], purging.rest.error(0, "Orthanc does not answer")
    failures = [1, 1]

    def fail(*_: Any) -> None:
        if failures:
            failures.pop()
            purging.rest.answers["GET", "/system"] = silent
            raise purging.rest.error(0, "Orthanc does not answer")

    def answer_again(*_: Any) -> Any:
        purging.rest.answers["GET", "/system"] = system
        return ["PACS"]

    purging.before = fail
    purging.rest.answers["GET", "/modalities"] = answer_again
    purging.has("PACS", purging.found)
    purging.start()
    assert purge(purging, **AT_PACS).json()["Deleted"] == 3
    purging.standin.assert_logged("purge 1 waits: Orthanc does not answer", "error")


def test_a_destination_that_holds_up_this_orthanc_s_answer_is_one_that_does_not_answer(purging: Elsewhere) -> None:
    def fail(*_: Any) -> None:
        raise purging.rest.error(0, "Orthanc does not answer POST /modalities/PACS/query: timed out")

    purging.before = fail
    purging.start()
    assert len(purge(purging, **AT_PACS).json()["Kept"]) == 3
    assert len(purging.questions) == 3
