# SPDX-License-Identifier: AGPL-3.0-or-later
"""What docs/testing.md shows runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from _pytest.fixtures import FixtureFunctionDefinition

from testing import pytest_plugin
from testing.standin import StandIn

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()


def test_the_example_of_the_page_passes_and_every_part_of_it_matters(tmp_path: Path) -> None:
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
    assert set(files) == {"count_studies.py", "test_count_studies.py"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    command = re.search(r"^    python (-m pytest .*)$", PAGE, re.MULTILINE)
    assert command
    run = [sys.executable, *command[1].split()]
    ended = subprocess.run(run, cwd=tmp_path, env=_with_this_repository(), capture_output=True, text=True, check=False)
    assert "3 passed" in ended.stdout, ended.stdout
    script = tmp_path / "count_studies.py"
    script.write_text(files["count_studies.py"].replace("STABLE_STUDY", "STABLE_SERIES"))
    run += ["-k", "only_studies or all_it_does"]
    ended = subprocess.run(run, cwd=tmp_path, env=_with_this_repository(), capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout


def _with_this_repository() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_page_names_all_fixtures_and_all_that_the_stand_in_can_do() -> None:
    fixtures = {name for name, value in vars(pytest_plugin).items() if isinstance(value, FixtureFunctionDefinition)}
    assert {"start_orthanc", "orthanc_standin"} < fixtures
    methods = {name for name in vars(StandIn) if not name.startswith("_")} - {"installed", "refuse"}  # the fixture's
    functions = {"make_study", "pydicom_files", "orthanc_identifier", "wait_until", "log_lines"}
    assert {name for name in fixtures | methods | functions if not re.search(rf"`{name}\b", PAGE)} == set()
