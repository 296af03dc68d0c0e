# SPDX-License-Identifier: AGPL-3.0-or-later
"""However much waits, a look costs little; and nobody is told that an event is kept which is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script

Source = Callable[[str], ModuleType]
MANY, TURNS = 20_000, 5


def outbox_of(source: Source, path: Path, **more: Any) -> Any:
    found = source("dicom_events.outbox").Outbox(
        path, **{"durability": "normal", "most": 10**9, "oldest": 0, "refuse": False, **more}
    )
    found.begin([source("dicom_events.named").Named("b")])
    return found


def fill(outbox: Any, number: int, **more: Any) -> None:
    with outbox.transaction():
        for row in range(number):
            outbox.add(f"u{row}", "org.test", f"k{row}", "s", "{}", **more)


def steps(outbox: Any, work: Callable[[], object]) -> int:
    """Return in thousands how many steps SQLite takes for it."""
    found = [0]

    def count() -> None:
        found[0] += 1

    outbox.ledger._db.set_progress_handler(count, 1000)
    work()
    outbox.ledger._db.set_progress_handler(None, 0)
    return found[0]


def test_what_has_a_letter_is_not_looked_at_each_time(source: Source, tmp_path: Path) -> None:
    outbox = outbox_of(source, tmp_path / "x.sqlite")
    fill(outbox, MANY)
    outbox.letters.park("b", [(row, f"k{row - 1}") for row in range(1, MANY + 1)], "refused", "dead", 5)
    outbox.settle("b", MANY, 0)
    outbox.retention.tidy()

    def turn() -> None:
        fill(outbox, 1)
        outbox.settle("b", outbox.newest, 1)
        outbox.retention.tidy()

    assert steps(outbox, turn) < 5
    assert outbox.ledger.rows("SELECT COUNT(*) n FROM event")[0]["n"] == MANY
    # A letter that goes takes its event along, whichever way it goes.
    outbox.letters.drop_dead(outbox.ledger.rows("SELECT id FROM letter WHERE event=9")[0]["id"])
    turn()
    assert outbox.ledger.rows("SELECT row FROM event WHERE row=9") == []
    outbox.letters.delivered("b", 7)
    turn()
    assert outbox.ledger.rows("SELECT row FROM event WHERE row<11 ORDER BY row")[-3:] == [
        {"row": 6},
        {"row": 8},
        {"row": 10},
    ]
    outbox.begin([source("dicom_events.named").Named("c")])
    outbox.places.drop("b")
    outbox.retention.tidy()
    assert outbox.ledger.rows("SELECT COUNT(*) n FROM event")[0]["n"] == 0
    outbox.close()


def test_what_is_too_old_is_found_without_a_look_at_the_others(source: Source, tmp_path: Path) -> None:
    outbox = outbox_of(source, tmp_path / "x.sqlite", oldest=86400)
    now = time.time()
    fill(outbox, MANY, when=now)
    fill(outbox, 3, when=now - 2 * 86400)
    assert "3 events were dropped" in outbox.retention.tidy()
    assert steps(outbox, outbox.retention.tidy) < 5
    assert outbox.ledger.rows("SELECT COUNT(*) n FROM event")[0]["n"] == MANY
    outbox.close()


def test_one_letter_that_is_delivered_does_not_cost_a_look_at_all(source: Source, clock: Clock, tmp_path: Path) -> None:
    outbox = outbox_of(source, tmp_path / "x.sqlite")
    fill(outbox, MANY)
    outbox.letters.park("b", [(row, f"k{row - 1}") for row in range(1, MANY + 1)], "", "waiting", 0)
    health = source("dicom_events.health").Health("b", lambda *_: None, [])
    settings = source("dicom_events.broker_settings").BrokerSettings()
    delivery = source("dicom_events.delivery").Delivery(outbox, "b", settings, False, health)
    delivery.take_letters(now=False)
    taken = [delivery.next_event(100) for _ in range(TURNS)]
    outcome = source("dicom_events.brokers").Outcome

    def settle() -> None:
        for event in taken:
            delivery.on_outcome(outcome(event.row))

    assert steps(outbox, settle) < 5
    assert len(delivery._parked) == MANY - TURNS
    delivery.close()
    outbox.close()


def test_no_letter_is_sent_that_can_not_be_settled(source: Source, clock: Clock, tmp_path: Path) -> None:
    outbox = outbox_of(source, tmp_path / "x.sqlite")
    fill(outbox, 1)
    outbox.letters.park("b", [(1, "k0")], "refused", "waiting", 0)
    health = source("dicom_events.health").Health("b", lambda *_: None, [])
    settings = source("dicom_events.broker_settings").BrokerSettings()
    delivery = source("dicom_events.delivery").Delivery(outbox, "b", settings, False, health)
    (tmp_path / "x.sqlite").rename(tmp_path / "away")
    with pytest.raises(OSError, match="deleted or replaced"):
        delivery.take_letters(now=True)
    assert delivery.next_event(100) is None
    delivery.close()
    outbox.close()


def test_who_publishes_is_told_when_a_full_outbox_takes_nothing(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn
) -> None:
    script = start("dicom_events", {"DicomEvents": {"Outbox": {"WhenFull": "refuse"}}})
    publish: Any = vars(script.module)["publish"]
    assert publish("org.test", {}, "s")
    pipeline = vars(script.module)["_service"]._pipeline
    pipeline.outbox.retention.size = lambda: 10**15  # what tidies up looks again, at any time
    pipeline.outbox.retention.is_full = True
    with pytest.raises(RuntimeError, match="the outbox is full"):
        publish("org.test", {}, "s")


def test_a_replay_waits_while_much_is_to_be_completed(source: Source, tmp_path: Path) -> None:
    outbox = outbox_of(source, tmp_path / "x.sqlite")
    replay = source("dicom_events.replay")
    most = 0

    def pause(_seconds: float) -> None:  # the other thread completes some
        nonlocal most
        found = outbox.incomplete(10_000)
        most = max(most, len(found))
        for row in found[:10]:
            outbox.complete(row["row"], row["key"], "{}")

    archive = SimpleNamespace(
        get=lambda path: [f"i{number}" for number in range(500)], metadata=lambda _: {}, pause=pause
    )
    events = SimpleNamespace(stored_instance=True)
    applier = SimpleNamespace(outbox=outbox, recorder=SimpleNamespace(events=events))
    replay.Replay(applier, archive, SimpleNamespace(), pytest.fail)._publish_instances("s1")
    assert outbox.newest == 500
    assert most == replay.MOST_INCOMPLETE
    outbox.close()


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_file_of_events_that_is_taken_away_is_made_anew(source: Source, tmp_path: Path, how: str) -> None:
    events = source("dicom_events.events")
    config = source("dicom_events.broker_settings").FileConfig()
    broker = source("dicom_events.brokers.lines").make(
        events.Form("structured", "/o"), config, tmp_path, lambda *_: None
    )
    broker.open()
    path = tmp_path / "dicom_events.jsonl"
    for number in (1, 2):
        event = events.Event(number, f"u{number}", "org.test", "k", "s", 1.5, "{}")
        broker.submit(event, broker.message(event))
        assert [outcome.error for outcome in broker.collect(0)] == [None]
        assert f'"u{number}"' in path.read_text()
        if how == "deleted":
            path.unlink()
        else:
            path.rename(tmp_path / "dicom_events.jsonl-20260101")
    broker.close()
