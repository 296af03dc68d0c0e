# SPDX-License-Identifier: AGPL-3.0-or-later
"""What no callback has reported: none of it is given up because Orthanc can't answer now, and memory has a bound."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.fakes import Clock


class Missed:
    """The images `i0`, `i1`, … that nobody has reported, and what is published of them; `errors` by path."""

    def __init__(self, source: Callable[[str], ModuleType], images: int) -> None:
        self._source, self.images = source, images
        self.errors: dict[str, int] = {}
        self.published: list[Any] = []
        archive = source("dicom_events.archive").Archive(SimpleNamespace(get=self._get), threading.Event())
        outbox = SimpleNamespace(
            acknowledged=SimpleNamespace(take=lambda _: set()),
            ledger=SimpleNamespace(set_value=lambda *_: None, get_value=lambda *_: 0),
        )
        self._recorder = SimpleNamespace(
            events=SimpleNamespace(new_series=False, new_study=False, new_patient=False),
            stored=lambda image, due: self.published.append(image),
            quiet_seconds=1.0,
        )
        applier = SimpleNamespace(outbox=outbox, recorder=self._recorder, apply=lambda: 0, up_to_date=self._up_to_date)
        self.missed = source("dicom_events.missed").MissedEvents(applier, archive)

    @contextlib.contextmanager
    def _up_to_date(self) -> Iterator[Any]:
        yield self._recorder

    def _get(self, path: str) -> Any:
        route, _, query = path.partition("?")
        if status := next((status for part, status in self.errors.items() if part in route), 0):
            raise self._source("common.loopback").LoopbackError(status, path)
        if route == "/changes":
            since = int(query.split("=")[1].split("&")[0])
            last = min(since + 1000, self.images)
            new = {"ChangeType": "NewInstance", "ResourceType": "Instance"}
            page = [{**new, "Seq": number + 1, "ID": f"i{number}"} for number in range(since, last)]
            return {"Changes": page, "Last": last, "Done": last == self.images}
        parents = {"instances": "ParentSeries", "series": "ParentStudy", "studies": "ParentPatient"}
        _, kind, name, *more = route.split("/")
        return {} if more else {"ID": name, "MainDicomTags": {}, parents.get(kind, ""): name}

    def look(self) -> list[str]:
        self.missed.follow()
        return [image.orthanc_ids[-1] for image in self.published]


def test_an_image_that_was_missed_is_published_once(source: Any, clock: Clock) -> None:
    made = Missed(source, 1)
    assert made.look() == []  # its callback may still come
    clock.advance(6)
    assert made.look() == made.look() == ["i0"]


@pytest.mark.parametrize("part", ["/instances/i0", "/series/"])
def test_an_image_of_which_orthanc_can_not_say_now_what_it_is_waits(source: Any, clock: Clock, part: str) -> None:
    made = Missed(source, 2)
    made.look()
    clock.advance(6)
    made.errors[part] = 500
    assert "i0" not in made.look()
    made.errors.clear()
    assert sorted(made.look()) == ["i0", "i1"]


def test_a_file_that_can_not_be_read_takes_nothing_but_the_tags(source: Any, clock: Clock) -> None:
    made = Missed(source, 1)
    made.look()
    clock.advance(6)
    made.errors["/tags"] = 500
    assert made.look() == ["i0"]


def test_an_image_that_was_deleted_meanwhile_is_not_waited_for(source: Any, clock: Clock) -> None:
    made = Missed(source, 1)
    made.look()
    clock.advance(6)
    made.errors["/instances/i0"] = 404
    assert made.look() == []
    made.errors.clear()
    assert made.look() == []


def test_however_many_were_missed_few_are_in_memory(source: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source("dicom_events.missed"), "MOST_SUSPECTS", 2000)
    made = Missed(source, 50_000)
    for _ in range(20):
        made.look()
    assert len(made.missed._suspects) == 2000
