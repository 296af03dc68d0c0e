# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py on a small disk: studies arrive, the oldest go, and a kill in the middle loses nothing of the record.

The long form: `PURGE_SPACE_STUDIES=500 PURGE_SPACE_MINUTES=30 .venv/bin/python -m pytest tests/purge_old_studies/test_space.py`
"""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testing.dicom import make_study, orthanc_identifier, uid
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.privileges import AS_ROOT
from tests.purge_old_studies.helpers import SCRIPT

STUDIES = int(os.environ.get("PURGE_SPACE_STUDIES", "50"))
MINUTES = float(os.environ.get("PURGE_SPACE_MINUTES", "0.06"))
AT_ONCE = 15  # studies at the beginning
MOST = 18  # more are above the level, with the six that stay
LOOK_SECONDS = 1.0
SLACK_SECONDS = 8.0  # for the purge itself, on a busy machine
ABOVE, DOWN_TO = 50, 40  # percent of 24 megabytes, in which a study has half of one
FIRST_DAY = datetime.date(2000, 1, 1)
LONGEST_SECONDS = MINUTES * 60 + 120


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", "size=24m,mode=777", "tmpfs", folder], check=True)
    yield folder
    subprocess.run([*AS_ROOT, "umount", "--lazy", folder], check=True)


def percent(folder: Path) -> float:
    found = os.statvfs(folder)
    return 100 * (found.f_blocks - found.f_bfree) / found.f_blocks


def watch(folder: Path, until: threading.Event, down: threading.Event, spans: list[float]) -> None:
    """Note for how many seconds the disk was above the level, each time; an Orthanc that is down frees nothing."""
    since = None
    while not until.wait(0.02):
        above, now = percent(folder) > ABOVE and not down.is_set(), time.monotonic()
        if above:
            since = since or now
        elif since:
            spans.append(now - since)
            since = None
    if since:
        spans.append(time.monotonic() - since)


def store(server: OrthancServer, patient: str, date: datetime.date | str) -> str:
    """Store a study of 512 KB, as often as that takes; return its identifier."""
    [image] = make_study(patient_id=patient, study_date=date if isinstance(date, str) else f"{date:%Y%m%d}",
                         rows=512, columns=512)  # fmt: skip
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(requests.RequestException, AssertionError):
            server.store([image])
            return orthanc_identifier(patient, str(uid(0, patient)))
        assert time.monotonic() < end, "it can't be stored"
        time.sleep(0.1)


@pytest.mark.timeout(LONGEST_SECONDS)
def test_on_a_small_disk_the_oldest_studies_make_room_for_the_new_ones(
    start_orthanc: StartOrthanc, small_disk: Path, tmp_path: Path
) -> None:
    rule = {
        "Name": "keep room", "WhenDiskAbove": f"{ABOVE}%", "DownTo": f"{DOWN_TO}%", "OlderThan": "1y", "OldestBy": "StudyDate",
    }  # fmt: skip
    section = {"DiskLookSeconds": LOOK_SECONDS, "KeepReceivedDays": 0, "Rules": [rule]}
    directories = {"StorageDirectory": str(small_disk), "IndexDirectory": str(tmp_path / "index")}
    server = start_orthanc(SCRIPT, {"PurgeOldStudies": section, **directories, "StableAge": 3600})
    young = [store(server, f"YOUNG{number}", f"{datetime.date.today():%Y%m%d}") for number in range(3)]  # noqa: DTZ011
    protected = [store(server, f"KEPT{number}", "19990101") for number in range(3)]
    for patient in {server.get(f"/studies/{study}")["ParentPatient"] for study in protected}:
        server.put(f"/patients/{patient}/protected", "1")
    spans, arrived, killed = list[float](), list[str](), False
    until, down = threading.Event(), threading.Event()
    watcher = threading.Thread(target=watch, args=(small_disk, until, down, spans))
    watcher.start()
    try:
        for number in range(STUDIES):
            arrived.append(store(server, f"P{number:04d}", FIRST_DAY + datetime.timedelta(number)))
            if number >= AT_ONCE:
                time.sleep(MINUTES * 60 / (STUDIES - AT_ONCE))
            if not killed and number >= AT_ONCE and arrived[0] not in server.get("/studies"):
                down.set()
                server.kill()  # in the middle: it has just begun to delete
                server.start()
                server.wait_until(lambda: server.get("/purge-old-studies/status")["State"] == "running", what="start")
                down.clear()
                killed = True
        server.wait_until(lambda: percent(small_disk) <= ABOVE, what="free room")
    finally:
        until.set()
        watcher.join()
    assert killed
    server.wait_until(lambda: server.get("/purge-old-studies/status")["Purge"] is None, what="end the purge")
    path = "/purge-old-studies/rules/keep%20room/dry-run"
    server.wait_until(lambda: f"not above {ABOVE}%" in server.get(path)["Why"], what="free what it began to")
    assert max(spans) < LOOK_SECONDS + SLACK_SECONDS
    left = set(server.get("/studies"))
    assert {*young, *protected} <= left
    gone = [study for study in arrived if study not in left]
    assert gone == arrived[: len(gone)]  # the oldest, and no other
    assert len(gone) >= STUDIES - MOST
    lines = [line for page in pages(server) for line in page]
    assert Counter(line["ID"] for line in lines if line["Event"] == "deleted") == Counter(gone)
    deleted = [line for line in lines if line["Event"] == "deleted"]
    assert all(line["Rule"] == "keep room" and f"above {ABOVE}%" in line["Because"] for line in deleted)
    [shown] = server.get("/purge-old-studies/status")["Rules"]
    assert float(shown["Disk"]["Used"].rstrip("%")) <= ABOVE
    found = server.get(path)
    assert (found["DryRun"], found["Studies"]) == (True, 0)


def pages(server: OrthancServer) -> Iterator[list[dict[str, str]]]:
    since: int | None = 0
    while since is not None:
        page = server.get("/purge-old-studies/history", since=since, limit=50)
        yield page["Items"]
        since = page["Next"]
