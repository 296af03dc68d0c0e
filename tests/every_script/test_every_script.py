# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is promised of each script, alone and of all of them combined."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.scripts import PACKAGES, ROOT, SCRIPTS, combine_scripts

LATER = 2.0  # seconds that a script may keep Orthanc from ending

DOES_NOTHING = """
import orthanc

def on_change(change, level, resource):
    pass

orthanc.RegisterOnChangeCallback(on_change)
"""


def seconds_to_end(server: OrthancServer) -> float:
    """Store a study, wait until nothing is under way, end it; fails unless the exit status is 0."""
    server.store(make_study(instances=2))
    server.wait_until_stable()
    jobs_ended = {"Success", "Failure"}
    server.wait_until(
        lambda: all(job["State"] in jobs_ended for job in server.get("/jobs?expand")), what="end all jobs"
    )
    begin = time.monotonic()
    server.terminate()
    assert server.finish() == 0
    return time.monotonic() - begin


@pytest.fixture(scope="session")
def all_combined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("combined") / "combined.py"
    return combine_scripts(*SCRIPTS, *PACKAGES, to=path)


@pytest.mark.parametrize("name", [*(path.name for path in SCRIPTS), *(path.name for path in PACKAGES), "all combined"])
def test_it_loads_without_an_error_and_ends_with_status_0_hardly_later_than_a_script_that_does_nothing(
    start_orthanc: StartOrthanc, all_combined: Path, name: str
) -> None:
    path = all_combined if name == "all combined" else ROOT / name
    ours = start_orthanc(path / "__init__.py" if path.is_dir() else path)
    nothing = start_orthanc(DOES_NOTHING)
    errors = [line for line in ours.log.splitlines() if line.startswith("E")]
    assert errors == []
    assert seconds_to_end(ours) <= seconds_to_end(nothing) + LATER


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_importing_it_does_nothing_but_register(path: Path) -> None:
    """On the oldest plugin and the newest: no thread, no file, no network before ORTHANC_STARTED."""
    program = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from testing.standin import StandIn
opened = []
sys.addaudithook(lambda event, arguments: opened.append((event, arguments[0])) if event in ("socket.connect", "sqlite3.connect")
    or event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+") else None)
for version in ("4.0", "7.1"):
    standin = StandIn(version)
    with standin.installed():
        opened.clear()
        standin.load({str(path)!r})
        assert threading.active_count() == 1, threading.enumerate()
        assert not [each for each in opened if "__pycache__" not in str(each[1])], opened
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
