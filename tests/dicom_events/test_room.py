# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events takes little room beside its events: what SQLite writes ahead is bounded, and empty when nothing goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
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
    filler = small_disk / "filler"
    with filler.open("wb", 0) as file:
        try:
            while file.write(b"x" * 65536):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - (512 << 10)))
    for patient in range(100, 140):
        server.store(make_study(patient_id=f"P{patient}", instances=3))
    with filler.open("r+b") as opened:
        opened.truncate(max(0, filler.stat().st_size - (1 << 20)))

    def stored() -> int:
        lines = (small_disk / "dicom_events.jsonl").read_text().splitlines()
        return len({line for line in lines if '"dicom.instance.stored"' in line})

    server.wait_until(lambda: stored() >= 420, timeout=60, what="publish all")
