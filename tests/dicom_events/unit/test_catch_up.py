# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a catch-up publishes: what came before the outbox was made, no more than the outbox can take, and once."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn

MADE = datetime.datetime(2026, 1, 31, 13, tzinfo=datetime.UTC)


def at(minutes: int) -> datetime.datetime:
    return MADE + datetime.timedelta(minutes=minutes)


class Catching:
    """An archive that got the image `i0` at `at(0)`, `i1` a minute later, and so on; and an outbox that was made at `MADE`."""

    def __init__(self, source: Callable[[str], ModuleType], path: Path, first: int, images: int) -> None:
        self.ledger = source("common.ledger").Ledger(path)
        self.ledger.set_value("made", int(MADE.timestamp()))
        self.dates = [at(first + number) for number in range(images)]
        self.published, self.broken, self.waiting, self.complaints = list[str](), set[str](), 0, list[str]()
        outbox = SimpleNamespace(ledger=self.ledger, backlog=lambda _name: (self.waiting, None))
        missed = SimpleNamespace(
            make_up_instance=self._make_up, make_up_new=lambda level, _: self.published.append(level)
        )
        loopback = SimpleNamespace(get=self._get, post=lambda *_: [])
        module = source("dicom_events.catch_up")
        self.most, self.tries = module.MOST_WAITING, module.TRIES
        self.catch_up = module.CatchUp(
            SimpleNamespace(outbox=outbox), loopback, missed, ["broker"], self.complaints.append
        )

    def _make_up(self, instance: str) -> bool:
        if instance not in self.broken:
            self.published.append(instance)
        return instance not in self.broken

    def _get(self, path: str) -> Any:
        if "last" in path:
            return {"Last": len(self.dates)}
        since, limit = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
        entry = {"ChangeType": "NewInstance", "ResourceType": "Instance"}
        page = [
            {**entry, "Seq": number + 1, "ID": f"i{number}", "Date": date.strftime("%Y%m%dT%H%M%S")}
            for number, date in enumerate(self.dates)
        ][since : since + limit]
        return {"Changes": page, "Last": since + len(page), "Done": since + len(page) == len(self.dates)}

    def ask(self, since: datetime.datetime, *, dry: bool = False) -> Any:
        return self.catch_up.ask(SimpleNamespace(parameters={"Since": since, "DryRun": dry})).content


@pytest.fixture
def catching(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, tmp_path: Path
) -> Callable[[int, int], Catching]:
    return lambda first, images: Catching(source, tmp_path / "x.sqlite", first, images)


def test_only_what_came_since_and_before_the_outbox_was_made(catching: Callable[[int, int], Catching]) -> None:
    it = catching(-10, 20)
    assert it.ask(at(-5), dry=True)["Changes"] == 5
    assert (it.catch_up.turn(), it.published) == (False, [])
    assert it.ask(at(-5))["Changes"] == 5
    assert it.catch_up.state() == {"UnderWay": True, "ChangesLeft": 5}
    it.catch_up.turn()
    assert it.published == ["i5", "i6", "i7", "i8", "i9"]
    assert it.catch_up.state() == {"UnderWay": False, "ChangesLeft": 0}
    assert it.ask(at(-5))["Changes"] == 0, "once"
    assert it.ask(at(-7))["Changes"] == 2, "and what is left before"
    it.catch_up.turn()
    assert it.published[5:] == ["i3", "i4"]
    assert it.ask(at(1))["Changes"] == 0


def test_it_waits_while_much_waits_for_a_broker(catching: Callable[[int, int], Catching]) -> None:
    it = catching(-10, 10)
    it.ask(at(-5))
    it.waiting = it.most + 1
    assert (it.catch_up.turn(), it.published) == (False, [])
    it.waiting = it.most
    it.catch_up.turn()
    assert len(it.published) == 5


def test_an_image_that_can_not_be_read_is_tried_again_then_left_out_with_a_line(
    catching: Callable[[int, int], Catching],
) -> None:
    it = catching(-10, 10)
    it.broken = {"i7"}
    it.ask(at(-5))
    for _ in range(it.tries - 1):
        assert it.catch_up.turn() is False
        assert (it.published, it.complaints) == (["i5", "i6"], [])
    it.catch_up.turn()
    assert it.published == ["i5", "i6", "i8", "i9"]
    assert it.complaints == ["dicom_events: the catch-up leaves out instance i7, which Orthanc can't read"]


def test_an_outbox_that_does_not_know_when_it_was_made_refuses(
    catching: Callable[[int, int], Catching], source: Callable[[str], ModuleType]
) -> None:
    it = catching(-10, 10)
    it.ledger.set_value("made", 0)
    with pytest.raises(source("common.routes").Refused, match="made by an older version"):
        it.ask(at(-5))
