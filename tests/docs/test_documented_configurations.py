# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc starts with each configuration that a page shows, and the script runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from testing.pytest_plugin import StartOrthanc

ROOT = Path(__file__).parents[2]
SCRIPTS_FOLDER = "/etc/orthanc/scripts/"


def configurations() -> list[Any]:
    """Return the first JSON block of each page that names a script of ours: what a reader copies."""
    found = []
    for page in sorted(ROOT.glob("docs/*.md")):
        blocks = re.findall(r"```json\n(\{.*?)```", page.read_text(), re.S)
        for block in [each for each in blocks if SCRIPTS_FOLDER in each][:1]:
            configuration = json.loads(block)
            if (ROOT / configuration["PythonScript"].removeprefix(SCRIPTS_FOLDER)).exists():
                found.append(pytest.param(configuration, id=page.stem))
    return found


@pytest.mark.parametrize("configuration", configurations())
def test_orthanc_starts_with_it_and_the_script_finds_no_error(
    start_orthanc: StartOrthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: dict[str, Any]
) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", json.dumps(configuration)):
        monkeypatch.setenv(variable, "0123456789abcdef" * 4)
    if "Path" in configuration.get("AuditLog", {}):
        configuration = {**configuration, "AuditLog": {**configuration["AuditLog"], "Path": str(tmp_path / "log")}}
    script = ROOT / configuration["PythonScript"].removeprefix(SCRIPTS_FOLDER)
    rest = {key: value for key, value in configuration.items() if key != "PythonScript"}
    server = start_orthanc(script, rest)
    assert server.get("/system")["ApiVersion"]
    # The broker of the example is on no machine of ours.
    errors = [text for level, text in server.log_lines() if level == "error" and "is away, what happens" not in text]
    assert errors == []
