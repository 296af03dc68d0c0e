# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a panel says whose script is not there: a command that can be run as it is, and that drops no script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect

from testing.pytest_plugin import StartOrthanc
from tests.dashboard.helpers import ROOT, Watched, combine


def test_a_panel_without_its_script_says_how_to_add_it(
    start_orthanc: StartOrthanc, seen: Watched, tmp_path: Path
) -> None:
    """The command has what is there already; it is run here. Of `dicom_events`, which is a folder, too."""
    server = start_orthanc(combine(tmp_path / "all.py", ROOT / "dashboard.py", ROOT / "auto_retries.py"))
    for panel, file in (("events", "dicom_events"), ("destinations", "auto_forward_modality.py")):
        main = seen.open(server.url, panel).locator("main")
        command = main.get_by_text("python3 combine.py").inner_text().split()
        assert sorted(command[2:-2]) == sorted(["dashboard.py", "auto_retries.py", file])
        made = tmp_path / f"{panel}.py"
        subprocess.run([sys.executable, *command[1:-1], str(made)], cwd=ROOT, check=True)
        assert made.exists()
    expect(main).to_contain_text("without one, a forwarder sends each study to every destination")
