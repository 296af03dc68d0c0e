# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/ without a server: from when on the time counts until a delivery is given up, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/auto-forward-modality"


class Waiting:
    """The script with one destination, which gives up after half an hour, and one study that waits for it."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock) -> None:
        self._start, self.rest, self.clock = start, rest, clock

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        whole = {"Destinations": ["PACS"], "Retry": {"GiveUpHours": 0.5}, **section}
        self.script = self._start("auto_forward_modality", {"AutoForwardModality": whole, **(configuration or {})})
        self.script.get(f"{NAME}/status")

    def receive(self) -> None:
        self.rest.receive("a1", "i1")
        self.rest.become_stable("a1")
        self.script.change("STABLE_STUDY", "a1")
        eventually(self.rows)

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.script.get(f"{NAME}/deliveries?destination=PACS")["Items"]
        return found

    def fail(self) -> None:
        """The one attempt begins, and fails."""
        job = eventually(lambda: next(iter(self.rest.jobs), ""))
        eventually(lambda: self.rows()[0]["Job"] == job)
        self.rest.jobs[job] |= {"State": "Failure", "ErrorDescription": "refused"}
        self.script.change("JOB_FAILURE", job)
        eventually(lambda: self.rows()[0]["State"] != "sending")


@pytest.fixture
def waiting(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Waiting:
    return Waiting(start, rest, clock)


def test_what_waited_for_the_hours_of_a_destination_is_not_given_up_at_its_first_failure(waiting: Waiting) -> None:
    # The clock of the tests says 22:13.
    waiting.start(DestinationOptions={"PACS": {"Windows": [{"From": "23:00", "To": "06:00"}]}})
    waiting.receive()
    waiting.clock.advance(3600)
    waiting.script.change("STABLE_STUDY", "a1")
    waiting.fail()
    assert waiting.rows()[0]["State"] == "waiting"


def test_what_was_paused_is_not_given_up_at_its_first_failure(waiting: Waiting) -> None:
    waiting.start()
    waiting.script.post(f"{NAME}/destinations/PACS/pause")
    waiting.receive()
    for _ in range(3):
        before = len(waiting.rest.requests)
        waiting.script.change("STABLE_STUDY", "a1")  # wakes it
        eventually(lambda: len(waiting.rest.requests) > before)  # noqa: B023 - it is called here
    waiting.clock.advance(3600)
    waiting.script.post(f"{NAME}/destinations/PACS/resume")
    waiting.fail()
    assert waiting.rows()[0]["State"] == "waiting"


def test_what_was_tried_in_vain_for_that_time_is_given_up_all_the_same(waiting: Waiting) -> None:
    waiting.start()
    waiting.receive()
    waiting.clock.advance(3600)
    waiting.fail()
    assert waiting.rows()[0]["State"] == "dead"


@pytest.mark.parametrize(("name", "kept"), [("auto_forward_modality", []), ("auto_forward_peer", ["lately"])])
def test_what_a_peer_took_is_kept_until_it_was_checked_again(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, source: Any, name: str, kept: list[str]
) -> None:
    """What it took and did not keep can be sent again then, whatever `KeepDoneDays` says."""
    rest.known = {}
    script = start(name, {"".join(map(str.capitalize, name.split("_"))): {"KeepDoneDays": 0}})
    script.get(f"/{name.replace('_', '-')}/status")
    callbacks = source("common.quirks").KEPT_ALIVE
    ledger = next(each.__self__.engine.ledger for each in callbacks if hasattr(getattr(each, "__self__", 0), "engine"))
    with ledger.transaction():
        for resource, seconds in (("lately", 600), ("long ago", 7200)):
            row = ledger.add("PACS", resource, {"Level": "Study", "Instances": None})
            ledger.end(row, "done")
            ledger.run("UPDATE work SET updated=updated-? WHERE id=?", seconds, row)

    def reads() -> int:
        return sum(path.startswith("/changes?since") for _, path, _ in rest.requests)

    for _ in range(3):  # the first may find a look under way, which did not see the rows
        clock.advance(10)
        before = reads()
        script.change("STABLE_STUDY", "a1")
        eventually(lambda: reads() > before)  # noqa: B023 - it is called here
    eventually(lambda: "long ago" not in [row["subject"] for row in ledger.rows("SELECT subject FROM work")])
    assert [row["subject"] for row in ledger.rows("SELECT subject FROM work")] == kept


def test_the_log_says_what_came_while_nothing_could_be_written(
    waiting: Waiting, orthanc_standin: StandIn, source: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(source("common.inbox"), "MOST_REPORTS", 3)
    (tmp_path / "db").write_text("a file where the folder should be")
    whole = {"Destinations": ["PACS"], "Reconcile": False}
    waiting.script = waiting._start("auto_forward_modality", {"AutoForwardModality": whole})
    for number in range(5):
        waiting.script.change("NEW_INSTANCE", f"i{number}", "INSTANCE")
    (tmp_path / "db").unlink()
    eventually(lambda: any("2 events came while the ledger" in text for _, text in orthanc_standin.logs))
