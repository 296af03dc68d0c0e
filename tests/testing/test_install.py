# SPDX-License-Identifier: AGPL-3.0-or-later
"""testing/ outside this repository: installed from its folder, it brings its fixtures; the tutorial runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with `pip install ./testing` in it; what it needs besides is in our own environment."""
    home = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "testing", home / "testing", ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        *offline,
        "--target",
        str(home / "site"),
        str(home / "testing"),
    ]
    subprocess.run(command, check=True, cwd=home)
    return home / "site"


def run_pytest(folder: Path, site: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def written(page: str, folder: Path, names: set[str]) -> None:
    """The files that a page of documentation shows, in an empty folder, with event_dispatcher.py."""
    files = dict(FILE.findall((ROOT / "docs" / page).read_text()))
    assert set(files) == names
    for name, content in files.items():
        (folder / name).write_text(content)
    shutil.copy(ROOT / "event_dispatcher.py", folder)


TUTORIAL = {"handlers.py", "test_handlers.py", "series_check.py", "test_series_check.py", "test_kill.py"}


def test_the_tutorial_works_as_it_stands(installed: Path, tmp_path: Path) -> None:
    written("tutorial.md", tmp_path, TUTORIAL)
    assert "4 passed" in (said := run_pytest(tmp_path, installed)), said


def test_the_tests_of_the_tutorial_notice_a_broken_handler(installed: Path, tmp_path: Path) -> None:
    written("tutorial.md", tmp_path, TUTORIAL)
    handlers = tmp_path / "handlers.py"
    handlers.write_text(handlers.read_text().replace('if tags.get("SeriesDescription")', "if tags"))
    assert "1 failed, 1 passed" in (said := run_pytest(tmp_path, installed, "test_handlers.py")), said


def test_the_unit_test_of_the_page_of_event_dispatcher_passes(installed: Path, tmp_path: Path) -> None:
    written("event_dispatcher.md", tmp_path, {"hello.py", "test_hello.py", "helpers.py"})
    assert "1 passed" in (said := run_pytest(tmp_path, installed)), said
    assert (installed / "testing/api/4.0.json").exists()
    assert (installed / "testing/stubs/orthanc.pyi").exists()


def test_the_plugin_may_also_be_named_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(orthanc_standin):\n    assert orthanc_standin.logs == []\n")
    assert "1 passed" in (said := run_pytest(tmp_path, installed, "-p", "testing.pytest_plugin")), said
    assert "1 passed" in (said := run_pytest(tmp_path, ROOT, "-p", "testing.pytest_plugin")), said
