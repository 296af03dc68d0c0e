# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events: an outbox in PostgreSQL, and what servers that stand by hand over to the one that works."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn
from testing.waiting import wait_until

Source = Callable[[str], ModuleType]
STUDY = "11111111-11111111-11111111-11111111-11111111"


class Cluster:
    """Outboxes and relays of several servers, each with its journal."""

    def __init__(self, source: Source, url: str, folder: Path) -> None:
        self._source, self._url, self._folder = source, url, folder
        self.complaints: list[str] = []
        self._closing = contextlib.ExitStack()

    def _at(self, server: str) -> Any:
        (self._folder / server).mkdir(exist_ok=True)
        return self._source("common.database").Database(self._url, server)

    def outbox(self, server: str) -> Any:
        module = self._source("dicom_events.outbox")
        ledger = self._source("common.postgres_ledger").PostgresLedger(
            self._at(server), "dicom_events", module.SHARED_TABLES, version=module.VERSION
        )
        found = module.Outbox(ledger, durability="normal", most=10**9, oldest=86400, refuse=False, server=server)
        self._closing.callback(found.close)
        return found

    def recorder(self, outbox: Any, stable_age: float = 60.0, **events: bool) -> Any:
        settings = self._source("dicom_events.settings").EventSettings(**{"stable_study": True, **events})
        tags = {
            level: self._source("dicom_events.images").Tags(()) for level in ("Instance", "Series", "Study", "Patient")
        }
        return self._source("dicom_events.recorder").Recorder(outbox, settings, tags, stable_age, True)

    def applier(self, outbox: Any, server: str, recorder: Any) -> Any:
        path = self._folder / server / "dicom_events.journal"
        journal = self._source("dicom_events.journal").Journal(path, outbox.place, full=False)
        self._closing.callback(journal.close)
        identities = self._source("dicom_events.images").Identities(False)
        return self._source("dicom_events.applier").Applier(
            outbox, journal, recorder, identities, self.complaints.append
        )

    def relay(self, server: str) -> Any:
        settings = self._source("dicom_events.settings").EventSettings(stable_study=True, new_study=True)
        tags = {
            level: self._source("dicom_events.images").Tags(()) for level in ("Instance", "Series", "Study", "Patient")
        }
        found = self._source("dicom_events.relay").Relay(
            *(self._at(server), self._folder / server / "dicom_events.journal", settings, tags),
            self.complaints.append,
            full=False,
        )
        self._closing.callback(found.close, 5)
        return found

    def close(self) -> None:
        self._closing.close()


@pytest.fixture
def cluster(source: Source, database: str, tmp_path: Path, orthanc_standin: StandIn) -> Iterator[Cluster]:
    with contextlib.closing(Cluster(source, database, tmp_path)) as found:
        yield found


def types(outbox: Any) -> list[str]:
    return [row["type"] for row in outbox.ledger.rows("SELECT type FROM event ORDER BY row")]


def stable(resource: str = STUDY) -> str:
    return json.dumps(("STABLE_STUDY", time.time(), time.monotonic(), "Study", resource))


def test_what_a_server_that_stands_by_reports_is_published_by_the_one_that_works(cluster: Cluster) -> None:
    outbox = cluster.outbox("A")
    applier = cluster.applier(outbox, "A", cluster.recorder(outbox))
    relay = cluster.relay("B")
    relay._write_down(stable(), keep=True)
    wait_until(applier.apply, 20, "it is handed over")
    assert types(outbox) == ["dicom.study.stable"]
    assert outbox.ledger.rows("SELECT 1 FROM reported") == []
    assert not cluster.complaints


def test_a_line_is_handed_over_once_also_by_a_server_that_works_later(cluster: Cluster) -> None:
    outbox = cluster.outbox("A")
    relay = cluster.relay("B")
    relay._write_down(stable(), keep=True)
    wait_until(lambda: outbox.ledger.rows("SELECT 1 FROM reported"), 20, "it is handed over")
    assert relay.close(10)
    outbox.close()
    again = cluster.outbox("B")
    assert cluster.applier(again, "B", cluster.recorder(again)).apply() == 1
    assert types(again) == ["dicom.study.stable"]


def test_each_of_several_servers_says_that_a_study_is_stable_and_it_is_published_once(cluster: Cluster) -> None:
    outbox = cluster.outbox("A")
    recorder = cluster.recorder(outbox)
    applier = cluster.applier(outbox, "A", recorder)
    with recorder.transaction():
        recorder.resources.keep("Study", STUDY, "1.2", None, None, "{}", None)
        recorder._touched[STUDY] = time.monotonic() - 10  # another server's part came lately
        recorder.changed("STABLE_STUDY", "Study", STUDY, time.time(), time.monotonic())
    assert types(outbox) == []
    with recorder.transaction():
        for _ in range(2):
            recorder.changed("STABLE_STUDY", "Study", STUDY, time.time(), time.monotonic() + 60)
    assert types(outbox) == ["dicom.study.stable"]
    assert applier.apply() == 0


def test_the_outbox_keeps_its_bounds_in_postgresql(cluster: Cluster) -> None:
    outbox = cluster.outbox("A")
    outbox.begin([])
    with outbox.transaction():
        for number in range(10):
            outbox.add(f"e{number}", "t", "k", "s", "x" * 1000, when=1.0 if number < 4 else None)
    assert 10_000 < outbox.retention.size() < 20_000
    with contextlib.closing(outbox.reader()) as reader:
        assert len(outbox.read(reader, 0, 100)) == 10
    outbox.retention.tidy()
    assert len(types(outbox)) <= 6


def test_what_was_deleted_while_nobody_looked_is_found_in_postgresql(cluster: Cluster, source: Source) -> None:
    outbox = cluster.outbox("A")
    recorder = cluster.recorder(outbox)
    for resource in ("a", "b"):
        recorder.resources.keep_former("Study", resource, "1", None)
    for _ in range(2):
        with contextlib.closing(outbox.reader()) as reader:
            unseen = source("dicom_events.resources").Unseen(reader, "Study")
            assert unseen.see(["a", "c"]) == {"c"}
            assert unseen.left() == ["b"]


def test_what_another_server_has_still_to_report_as_new_is_not_taken_for_what_was_here_before(cluster: Cluster) -> None:
    outbox = cluster.outbox("A")
    recorder = cluster.recorder(outbox, new_study=True)
    recorder.resources.keep_former("Study", STUDY, "1.2", None)  # the comparison came first
    for _ in range(2):  # and a line that comes when it was made up makes no second event
        with recorder.transaction():
            recorder.changed("NEW_STUDY", "Study", STUDY, time.time(), time.monotonic())
    assert types(outbox) == ["dicom.study.new"]
