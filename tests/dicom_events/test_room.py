# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events takes little room beside its events: what SQLite writes ahead is bounded, and empty when nothing goes on."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.standin import StandIn
from tests.privileges import AS_ROOT

SCRIPT = Path(__file__).parents[2] / "dicom_events" / "__init__.py"
MOST = 48 << 20  # bytes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run([*AS_ROOT, "umount", "--lazy", folder], check=True)


@pytest.fixture
def outbox(small_disk: Path) -> Iterator[Any]:
    """An outbox on the small file system, without a server."""
    with StandIn().installed():
        made = importlib.import_module("dicom_events.outbox").Outbox(
            small_disk / "dicom_events.sqlite", durability="normal", most=1 << 30, oldest=0, refuse=False
        )
        yield made
        made.close()
    for name in [each for each in sys.modules if each.partition(".")[0] == "dicom_events"]:
        del sys.modules[name]


def fill(disk: Path, left: int) -> Path:
    """Fill a file system until so many bytes are left; return the file that takes the room."""
    filler = disk / "filler"
    with filler.open("wb", 0) as file:
        try:
            while file.write(b"x" * 65536):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - left))
    return filler


def test_many_small_transactions_need_little_room(outbox: Any, small_disk: Path) -> None:
    with outbox.transaction():
        for number in range(400):
            outbox.add(f"e{number}", "org.example", f"k{number}", "subject", None)
    outbox.retention.make_room()
    fill(small_disk, 800 << 10)
    for row in outbox.incomplete(400):  # each writes two pages and more ahead: 3 MB
        outbox.complete(row["row"], row["key"], '{"text": "some data"}')
    assert not outbox.incomplete(1)


def test_what_is_written_ahead_is_bounded_and_empty_in_the_end(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    section = {"StatePath": str(tmp_path / "state"), "Broker": {"Type": "file"}}
    server = start_orthanc(SCRIPT, {"DicomEvents": section})
    log, most = tmp_path / "state" / "dicom_events.sqlite-wal", 0
    for patient in range(400):
        server.store(make_study(patient_id=f"P{patient}", instances=3))
        most = max(most, log.stat().st_size)
    assert most < MOST
    server.wait_until(lambda: server.get("/dicom-events/status")["Brokers"]["broker"]["Backlog"] == 0, what="publish")
    server.wait_until(lambda: log.stat().st_size == 0, what="empty the log")


def test_a_full_disk_that_gets_a_little_room_is_enough_to_go_on(start_orthanc: StartOrthanc, small_disk: Path) -> None:
    section = {"StatePath": str(small_disk), "Broker": {"Type": "file"}}
    server = start_orthanc(SCRIPT, {"DicomEvents": section})
    for patient in range(100):
        server.store(make_study(patient_id=f"P{patient}", instances=3))
    filler = fill(small_disk, 512 << 10)
    for patient in range(100, 140):
        server.store(make_study(patient_id=f"P{patient}", instances=3))
    with filler.open("r+b") as opened:
        opened.truncate(max(0, filler.stat().st_size - (1 << 20)))

    def stored() -> int:
        lines = (small_disk / "dicom_events.jsonl").read_text().splitlines()
        return len({line for line in lines if '"dicom.instance.stored"' in line})

    server.wait_until(lambda: stored() >= 420, timeout=60, what="publish all")
