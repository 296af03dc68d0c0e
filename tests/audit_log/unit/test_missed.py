# SPDX-License-Identifier: AGPL-3.0-or-later
"""audit_log without a server: what happened just before Orthanc was killed has its line after the next start."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.audit_log.unit.test_guards import KEY, lines
from tests.fakes import Clock, FakeOrthanc, Script, eventually

RECEIVED = {"Origin": "DicomProtocol", "RemoteAET": "CT", "RemoteIP": "10.0.0.1"}


@pytest.fixture
def archive(rest: FakeOrthanc) -> FakeOrthanc:
    """A small archive whose studies have tags, and that lists them."""

    def described(study: str) -> dict[str, Any]:
        return {
            "ID": study,
            "Type": "Study",
            "ParentPatient": f"{study}-9a",
            "Series": [f"{study}-5e"],
            "MainDicomTags": {"StudyInstanceUID": f"1.{study}"},
            "PatientMainDicomTags": {"PatientID": f"P-{study}"},
        }

    def content(_path: str, body: Any) -> list[dict[str, Any]]:
        found = rest._content(body)
        return [described(each["ID"]) if each["ID"] in rest.studies else each for each in found]

    def studies(path: str, _body: Any) -> list[Any]:
        since = int(path.partition("since=")[2].partition("&")[0])
        return [described(each) if "expand" in path else each for each in [*rest.studies][since:]]

    rest.answers["POST", "/tools/bulk-content"] = content
    rest.answers["GET", "/studies"] = studies
    return rest


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[[str], list[Any]]:
    """Read the script's ledger: the first column of a statement."""

    def read(sql: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(tmp_path / "db" / "audit_log.sqlite")) as db, db:
            return [row[0] for row in db.execute(sql)]

    return read


@pytest.fixture
def run(
    start: Callable[..., Script], archive: FakeOrthanc, clock: Clock, ledger: Callable[[str], list[Any]]
) -> Callable[..., Script]:
    """Start the script, and wait until it knows the place of each study."""

    def begin(**section: Any) -> Script:
        found = start("audit_log", {"AuditLog": {"Key": KEY, **section}})
        eventually(lambda: lines(found, "started"))
        wake(found)
        eventually(lambda: ledger("SELECT value FROM state WHERE name='looked_through'") == [-1])
        return found

    return begin


def wake(audit: Script) -> None:
    """Let the thread take a turn, and wait for its line."""
    before = len(lines(audit, "deleted"))
    audit.change("DELETED", "none", "STUDY")
    eventually(lambda: len(lines(audit, "deleted")) > before)


def crash(audit: Script, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen, and end: nothing is written any more, as after a kill, or on a full disk."""

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(importlib.import_module("common.append_only").AppendOnly, "append", refuse)
        happens()
        audit.change("ORTHANC_STOPPED")


def test_what_came_in_just_before_a_kill_has_its_line_after_the_start(
    run: Callable[..., Script], archive: FakeOrthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.receive("a1", "i1")
    first = run()
    crash(first, monkeypatch, lambda: archive.receive("b2", "i2", "i3", **RECEIVED))
    audit = run()
    [found] = eventually(lambda: lines(audit, "received"))
    assert (found["Study"], found["Patient"], found["StudyInstanceUID"]) == ("b2", "P-b2", "1.b2")
    assert (found["Count"], found["From"], found["Found"]) == (2, RECEIVED, "at start")


def test_what_was_deleted_just_before_a_kill_has_its_line_after_the_start(
    run: Callable[..., Script], archive: FakeOrthanc, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.receive("a1", "i1")
    archive.receive("b2", "i2")

    def deletes() -> None:
        del archive.studies["b2"]
        audit.change("DELETED", "b2", "STUDY")

    audit = run()
    crash(audit, monkeypatch, deletes)
    audit = run()
    clock.advance(10)
    wake(audit)
    [found] = eventually(lambda: [each for each in lines(audit, "deleted") if each["Resource"] != "none"])
    assert (found["Study"], found["Patient"], found["Level"], found["Found"]) == ("b2", "P-b2", "Study", "at start")


def test_after_an_end_that_wrote_everything_nothing_is_found(
    run: Callable[..., Script], archive: FakeOrthanc, clock: Clock
) -> None:
    archive.receive("a1", "i1")
    run()
    del archive.studies["a1"]  # whoever deletes it while nobody writes down what happens
    audit = run()
    clock.advance(10)
    wake(audit)
    wake(audit)
    assert [each for each in lines(audit, "deleted") if each["Resource"] != "none"] == []
    assert lines(audit, "received") == []


def test_a_new_ledger_begins_with_what_comes_from_now_on(run: Callable[..., Script], archive: FakeOrthanc) -> None:
    archive.receive("a1", "i1")
    audit = run()
    wake(audit)
    assert lines(audit, "received") == []


def test_without_reconcile_the_log_of_changes_is_not_read(
    run: Callable[..., Script], archive: FakeOrthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.receive("a1", "i1")
    crash(run(), monkeypatch, lambda: archive.receive("b2", "i2"))
    archive.requests.clear()
    audit = run(Reconcile=False)
    wake(audit)
    assert lines(audit, "received") == []
    assert archive.asked("GET", "/changes") == []


def test_a_study_whose_deletion_is_reported_meanwhile_has_one_line(
    run: Callable[..., Script], archive: FakeOrthanc, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.receive("b2", "i2")
    crash(run(), monkeypatch, lambda: None)
    del archive.studies["b2"]
    audit = run()
    wake(audit)  # it has been seen that it is gone
    audit.change("DELETED", "b2", "STUDY")
    clock.advance(10)
    wake(audit)
    wake(audit)
    assert len([each for each in lines(audit, "deleted") if each["Resource"] == "b2"]) == 1


def test_places_of_what_was_deleted_are_kept_until_the_lines_are_written(
    run: Callable[..., Script],
    archive: FakeOrthanc,
    ledger: Callable[[str], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive.receive("b2", "i2")
    audit = run()
    crash(audit, monkeypatch, lambda: audit.change("DELETED", "b2", "STUDY"))
    assert ledger("SELECT uid FROM places WHERE resource='b2'") == ["1.b2"]
