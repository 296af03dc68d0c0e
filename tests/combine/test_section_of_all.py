# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py --config and the section `Scripts`, which all scripts of ours read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.combine.helpers import run, write

ROOT = Path(__file__).parents[2]
OURS = [ROOT / "purge_old_studies.py", ROOT / "audit_log.py"]
THEIRS = "import orthanc\n"


def said(folder: Path, scripts: list[Path], configuration: dict[str, Any]) -> str:
    whole = {"PythonScript": "/etc/orthanc/scripts/combined.py", **configuration}
    [path] = write(folder, {"orthanc.json": json.dumps(whole)})
    return run(*scripts, "--config", path).stderr.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({}, ""),
        ({"Scripts": {"Loopback": {"Url": "http://127.0.0.1:8043"}}}, ""),
        ({"Scripts": {"Lopback": {}}}, "Scripts has no key Lopback; did you mean Loopback?\n"),
        ({"Scripts": {"Loopback": {"Uri": "x"}}}, "Scripts.Loopback has no key Uri; did you mean Url?\n"),
        ({"Scripts": {"Loopback": {"Url": 8043}}}, "Scripts.Loopback.Url must be str or None, not int\n"),
        ({"Script": {}}, "Script is no section; did you mean Scripts?\n"),
    ],
)
def test_what_is_wrong_in_it_is_said_once(tmp_path: Path, configuration: dict[str, Any], expected: str) -> None:
    assert said(tmp_path, OURS, configuration) == expected


def test_scripts_of_others_may_have_a_section_of_that_name(tmp_path: Path) -> None:
    [theirs] = write(tmp_path, {"theirs.py": THEIRS})
    assert said(tmp_path, [theirs], {"Scripts": {"Mine": 1}, "Script": {}}) == ""
