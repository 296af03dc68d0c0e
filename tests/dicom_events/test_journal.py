# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events' journal: nothing that a callback has told is lost or told twice, whenever the process dies."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study, orthanc_identifier
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.dicom_events.helpers import NEVER_STABLE, ROOT, SCRIPT, events, of_type, rows, wait_for

# -- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> Iterator[Any]:
    """The package's modules, by name, on a stand-in."""
    with StandIn().installed():
        yield lambda name: importlib.import_module(f"dicom_events.{name}")
    for name in [each for each in sys.modules if each.partition(".")[0] == "dicom_events"]:
        del sys.modules[name]


@pytest.fixture
def journal(package: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens it, as the next process would."""
    opened: list[Any] = []

    def open_journal(applied: int | None = 0, *, full: bool = False) -> Any:
        opened.append(package("journal").Journal(tmp_path / "x.journal", applied, full=full))
        return opened[-1]

    yield open_journal
    for each in opened:
        each.close()


def test_what_is_appended_is_read_in_order_until_it_is_applied(journal: Callable[..., Any], tmp_path: Path) -> None:
    made = journal()
    for line in (b"a", b"b"):
        made.append(line)
    assert (tmp_path / "x.journal").stat().st_mode & 0o777 == 0o600
    assert made.read() == made.read() == [b"a", b"b"]
    made.advance(made.after([b"a"]))
    assert made.read() == [b"b"]


@pytest.mark.parametrize("full", [False, True])
def test_a_journal_found_again_gives_what_lies_beyond_the_place_and_no_torn_line(
    journal: Callable[..., Any], tmp_path: Path, full: bool
) -> None:
    made = journal(full=full)
    made.append(b"a")
    place = made.after(made.read())
    made.append(b"b")
    with (tmp_path / "x.journal").open("ab") as file:
        file.write(b"torn by kill -9")
    again = journal(place, full=full)
    again.append(b"c")  # of this process: not in one with what another left
    assert again.read() == [b"b"]
    again.advance(again.after([b"b"]))
    assert again.place == again.former
    assert again.read() == [b"c"]


def test_killed_between_a_new_file_and_its_first_place_each_line_is_applied_once(journal: Callable[..., Any]) -> None:
    made = journal()
    made.append(b"a")
    place = made.after(made.read())
    made.advance(place)
    made.start_empty_file()
    made.append(b"b")
    assert journal(place).read() == [b"b"]  # the outbox knows the old file alone
    last = made.after(made.read())
    assert journal(last).read() == []


def test_killed_before_the_new_file_takes_its_place_nothing_is_applied_again(
    journal: Callable[..., Any], tmp_path: Path
) -> None:
    made = journal()
    made.append(b"a")
    place = made.after(made.read())
    (tmp_path / "x.journal.new").write_text('{"generation": 7}\n')
    again = journal(place)
    assert again.read() == []
    again.append(b"b")
    assert journal(place).read() == [b"b"]


def test_a_journal_is_not_begun_anew_before_all_of_it_is_applied(
    journal: Callable[..., Any], package: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package("journal"), "LARGE_BYTES", 100)
    made = journal()
    for number in range(50):
        made.append(b"%050d" % number)
    lines = made.read()
    made.advance(made.after(lines[:20]))
    assert made.read() == lines[20:]
    made.advance(made.after(lines[20:]))
    assert made.read() == []
    assert (tmp_path / "x.journal").stat().st_size < 100
    made.append(b"more")
    assert made.read() == [b"more"]


def test_what_a_former_outbox_left_is_no_business_of_a_new_one(journal: Callable[..., Any]) -> None:
    journal().append(b"a")
    assert journal(None).read() == []


def test_a_line_that_is_cut_short_is_refused_and_written_over(
    journal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = journal()
    made.append(b"a")
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, line, place: whole(file, line[:20], place))
    with pytest.raises(OSError, match="No space"):
        made.append(b"x" * 50)
    assert journal(0).read() == [b"a"]  # killed now
    monkeypatch.setattr(os, "pwrite", whole)
    made = journal(0)
    monkeypatch.setattr(os, "pwrite", lambda file, line, place: whole(file, line[:20], place))
    with pytest.raises(OSError, match="No space"):
        made.append(b"x" * 50)
    monkeypatch.setattr(os, "pwrite", whole)
    made.append(b"b")
    assert (tmp_path / "x.journal").read_bytes().count(b"\n") == 3
    assert journal(0).read() == [b"a", b"b"]


# -- what becomes of its lines --------------------------------------------------------------------------------------


@pytest.fixture
def intake(package: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens all anew, as the next process would; nothing runs, so what is applied is applied by `apply`."""
    opened: list[Any] = []

    def close_all() -> None:
        for each in opened:
            each.journal.close()
            each.outbox.close()

    def open_all(throttle: int = 0) -> Any:
        close_all()
        settings, taken = package("settings"), package("intake")
        outbox = package("outbox").Outbox(
            tmp_path / "x.sqlite", durability="normal", most=10**9, oldest=0, refuse=False
        )
        outbox.begin([package("named").Named("file")])
        journal = package("journal").Journal(tmp_path / "x.journal", outbox.place, full=False)
        chosen = settings.EventSettings(deleted_instance=True, stored_instance_throttle_ms=throttle)
        tags = {level: package("images").Tags([]) for level in package("events").LEVELS}
        said: list[str] = []
        made = taken.Intake(outbox, journal, chosen, tags, 60.0, True, said.append)
        made.said = said
        opened[:] = [made]
        return made

    yield open_all
    close_all()


IDS = ("PATIENT", "1.2", "1.2.3")


def tell(intake: Any, number: int, received: str = "20260101T000000") -> str:
    uids = (*IDS, f"1.2.3.{number}")
    instance = orthanc_identifier(*uids)
    line = ["STORED_INSTANCE", time.time(), time.monotonic(), instance, uids, 2, "CT1", "127.0.0.1", received]
    intake._write_down(json.dumps(line) + "\t")
    return instance


def told(intake: Any) -> list[tuple[str, str, Any]]:
    found = intake.outbox.ledger.rows("SELECT row, id, type, data FROM event ORDER BY row")
    assert [row["row"] for row in found] == list(range(1, len(found) + 1))
    return [(row["id"], row["type"], row["data"] and json.loads(row["data"])) for row in found]


def test_what_is_journaled_and_not_applied_is_applied_once_at_the_next_start(intake: Callable[..., Any]) -> None:
    first = intake()
    one = tell(first, 1)
    first.applier.apply()
    two, three = tell(first, 2), tell(first, 3)
    for _ in range(2):  # killed, and killed once more
        again = intake()
        again.applier.apply()
        found = told(again)
        assert [uid for uid, _, _ in found] == [f"{each}.20260101T000000" for each in (one, two, three)]
        assert [data["counts"]["instances"] for _, _, data in found] == [1, 2, 3]
        # Its Stable… events may never come: they are made up in time.
        due = again.outbox.ledger.rows("SELECT due FROM resource WHERE unstable")
        assert len(due) == 3
        assert all(row["due"] > time.time() for row in due)
    assert again.outbox.acknowledged.take([one, two, three]) == {one, two, three}  # the feed tells none of them again


def test_stored_stable_and_deleted_keep_their_order_in_one_transaction(intake: Callable[..., Any]) -> None:
    made = intake()
    made.bring_up_to_date()
    series = orthanc_identifier(*IDS)
    instance = tell(made, 1)
    made.on_change("STABLE_SERIES", 2, series)
    tell(made, 2)
    made.on_change("DELETED", 3, instance)
    made.on_change("DELETED", 2, series)
    tell(made, 3)
    assert made.applier.apply() == 6
    found = told(made)
    kinds = [kind.removeprefix("dicom.") for _, kind, _ in found]
    assert kinds == [
        *("instance.stored", "series.stable", "instance.stored"),
        *("instance.deleted", "series.deleted", "instance.stored"),
    ]
    assert found[3][2]["dicom"]["SOPInstanceUID"] == "1.2.3.1"
    assert found[5][2]["counts"]["instances"] == 1  # of a series that came anew


def test_an_outbox_that_can_not_be_written_loses_nothing_and_numbers_nothing_twice(
    intake: Callable[..., Any], tmp_path: Path
) -> None:
    made = intake()
    tell(made, 1)
    made.bring_up_to_date()
    made.outbox.ledger.rows("PRAGMA busy_timeout=10")
    with contextlib.closing(sqlite3.connect(tmp_path / "x.sqlite", isolation_level=None)) as other, other:
        other.execute("BEGIN IMMEDIATE")
        tell(made, 2)
        for _ in range(3):
            assert made.bring_up_to_date() == 0
        assert "locked" in made.problem
        assert len(made.said) == 1
        other.execute("COMMIT")
    tell(made, 3)
    assert made.bring_up_to_date() == 2
    assert made.problem == ""
    assert [data["counts"]["instances"] for _, _, data in told(made)] == [1, 2, 3]


def test_a_line_that_is_no_use_is_left_out_and_told_and_holds_up_no_other(intake: Callable[..., Any]) -> None:
    made = intake()
    tell(made, 1)
    made._write_down('["STABLE_SERIES", 1.0')
    tell(made, 2)
    made.applier.apply()
    assert [data["counts"]["instances"] for _, _, data in told(made)] == [1, 2]
    assert len(made.said) == 1
    made.applier.apply()
    assert len(told(made)) == 2


def test_a_change_that_finds_no_room_is_kept_and_comes_in_its_order(
    intake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = intake()
    made.bring_up_to_date()
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, line, place: whole(file, line[:7], place))
    lost = tell(made, 1)  # the feed finds it
    made.on_change("STABLE_SERIES", 2, "a")
    made.on_change("DELETED", 2, "a")
    assert len(made.said) == 1
    assert made.problem
    monkeypatch.setattr(os, "pwrite", whole)
    made.on_change("STABLE_SERIES", 2, "b")
    made.applier.apply()
    found = made.outbox.ledger.rows("SELECT type, subject FROM event ORDER BY row")
    assert [(row["type"], row["subject"]) for row in found] == [
        *(
            ("dicom.series.stable", "series/a"),
            ("dicom.series.deleted", "series/a"),
            ("dicom.series.stable", "series/b"),
        ),
    ]
    assert made.problem == ""
    assert made.outbox.acknowledged.take([lost]) == set()


def test_an_image_after_the_word_that_its_series_is_stable_keeps_it_unstable_however_late_it_is_applied(
    intake: Callable[..., Any],
) -> None:
    made = intake()
    made.bring_up_to_date()
    series = orthanc_identifier(*IDS)
    uids = (*IDS, "1.2.3.1")
    for clock, seconds in ((1000.0, 1), (1059.0, 61)):  # stable 60 s after the first: within StableAge/2 of the second
        line = ["STORED_INSTANCE", time.time(), clock, orthanc_identifier(*uids), uids, 2, "", "", f"{seconds}"]
        made._write_down(json.dumps(line) + "\t")
    made._write_down(json.dumps(["STABLE_SERIES", time.time(), 1060.0, "Series", series]))
    made.applier.apply()
    assert made.outbox.ledger.rows("SELECT unstable FROM resource WHERE id=?", series)[0]["unstable"] == 1
    made._write_down(json.dumps(["STABLE_SERIES", time.time(), 1119.0, "Series", series]))
    made.applier.apply()
    assert made.outbox.ledger.rows("SELECT unstable FROM resource WHERE id=?", series)[0]["unstable"] == 0


def test_an_outbox_of_the_former_version_goes_on(intake: Callable[..., Any], tmp_path: Path) -> None:
    made = intake()
    tell(made, 1)
    made.applier.apply()
    made.outbox.ledger.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "x.sqlite")) as db, db:
        db.execute("CREATE TABLE recent(instance TEXT PRIMARY KEY, seen REAL NOT NULL) WITHOUT ROWID")
        db.execute("INSERT INTO recent VALUES('an-instance', 1)")
        db.execute("DELETE FROM state WHERE name='journal'")
    (tmp_path / "x.journal").unlink()
    again = intake()
    assert again.applier.apply() == 0
    assert again.outbox.acknowledged.take(["an-instance", "another"]) == {"an-instance"}
    tell(again, 2)
    again.applier.apply()
    assert [data["counts"]["instances"] for _, _, data in told(again)] == [1, 2]


def test_throttled_what_a_former_process_left_is_held_back_like_what_it_applied(intake: Callable[..., Any]) -> None:
    made = intake(60_000)
    made.bring_up_to_date()
    tell(made, 1)
    made.applier.apply()
    for number in (2, 3, 4):
        tell(made, number)
    again = intake(60_000)
    again.applier.apply()
    assert [data["counts"]["instances"] for _, _, data in told(again)] == [1]
    with again.applier.up_to_date():
        again.recorder.stable("Series", orthanc_identifier(*IDS), time.time())
    assert [data and data["counts"]["instances"] for _, _, data in told(again)] == [1, 4, None]


def test_what_throttling_held_back_is_told_when_it_is_switched_off(intake: Callable[..., Any]) -> None:
    made = intake()
    later = time.time() + 3600
    made.outbox.ledger.run(
        "INSERT INTO held VALUES(?,?,?,?,?,?)", "a-series", later, "an-id", "instances/x", 1.0, '{"kept": true}'
    )
    again = intake()
    again.applier.apply()
    assert told(again) == [("an-id", "dicom.instance.stored", {"kept": True})]


# -- on a real server -----------------------------------------------------------------------------------------------

NOT_APPLIED = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import dicom_events.applier
import dicom_events.intake
dicom_events.intake.Intake.start = lambda self: None  # no thread: it is killed before it comes to that
if os.path.exists({{flag!r}}):
    dicom_events.applier.Applier.apply = lambda self: 0
import dicom_events
"""


def test_killed_before_anything_is_applied_each_image_is_told_once_and_becomes_stable(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    script = tmp_path / "script.py"
    script.write_text(NOT_APPLIED.format(flag=str(flag)))
    server = start_orthanc(script, {"StableAge": 2})
    server.store(make_study(instances=5))
    server.kill()
    assert rows(server, "SELECT COUNT(*) FROM event") == [(0,)]
    path = server.folder / "storage" / "dicom_events.journal"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b'["STORED_INSTANCE",torn')
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport dicom_events")
    server.start()
    wait_for(server, "dicom.patient.stable")
    time.sleep(3)  # the feed has read on meanwhile
    stored = of_type(events(server), "dicom.instance.stored")
    archive = {each["ID"]: each for each in server.get("/instances?expand")}
    assert sorted(event["data"]["id"] for event in stored) == sorted(archive)
    assert [event["data"]["counts"]["instances"] for event in stored] == [1, 2, 3, 4, 5]
    assert len(of_type(events(server), "dicom.series.stable")) == 1


FULL = f"""
import os, signal, sys, threading, time
import resource
sys.path.insert(0, {str(ROOT)!r})
import dicom_events.intake
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import orthanc
whole = os.pwrite
def limited(file, line, place):
    return whole(file, line[:10] if os.path.exists({{flag!r}}) else line, place)
os.pwrite = limited
import dicom_events
"""


def test_a_journal_without_room_refuses_no_image_and_all_is_told_when_there_is_some(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    flag = tmp_path / "full"
    server = start_orthanc(FULL.format(flag=str(flag)), {"StableAge": 3})
    server.store(make_study(patient_id="BEFORE"))
    wait_for(server, "dicom.instance.stored")
    flag.touch()
    assert [each["Status"] for each in server.store(make_study(patient_id="FULL", instances=3))] == ["Success"] * 3
    server.wait_for_log("can't write to")
    flag.unlink()
    wait_for(server, "dicom.instance.stored", 4)
    wait_for(server, "dicom.patient.stable", 2)
    assert len(of_type(events(server), "dicom.instance.stored")) == 4
    log = (server.folder / "orthanc.log").read_text()
    assert log.count("can't write to") == 1


def test_the_journal_is_begun_anew_while_images_come_and_none_is_missing(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import dicom_events.journal
dicom_events.journal.LARGE_BYTES = 20000
import dicom_events
"""
    server = start_orthanc(script, NEVER_STABLE)
    server.store_scu(make_study(instances=400, rows=8, columns=8))
    found = wait_for(server, "dicom.instance.stored", 400)
    assert [event["data"]["counts"]["instances"] for event in found] == list(range(1, 401))
    header = (server.folder / "storage" / "dicom_events.journal").read_bytes().partition(b"\n")[0]
    assert json.loads(header)["generation"] > 2
    assert server.get("/dicom-events/status")["Brokers"]["file"]["Backlog"] == 0
    assert server.stop() == 0


def test_what_is_told_last_is_in_the_outbox_when_the_server_has_stopped(start_orthanc: StartOrthanc) -> None:
    server: OrthancServer = start_orthanc(SCRIPT, {"DicomEvents": {"Events": {"OrthancStopped": True}}, **NEVER_STABLE})
    server.store(make_study(instances=3))
    assert server.stop() == 0
    found = rows(server, "SELECT value FROM state WHERE name='journal'")[0][0]
    assert found & ((1 << 40) - 1) == (server.folder / "storage" / "dicom_events.journal").stat().st_size
    server.start()
    wait_for(server, "orthanc.stopped")
    assert len(of_type(events(server), "dicom.instance.stored")) == 3
