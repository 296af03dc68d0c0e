# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the tests run combine.py, and write what it combines."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

module: Any = importlib.import_module("combine")  # the built file, which is one module
COMBINE = Path(__file__).parents[2] / "combine.py"
PLUGIN = "7.1"


def run(*words: Path | str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMBINE, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def write(folder: Path, files: dict[str, str | bytes]) -> list[Path]:
    """Write files into `folder`, by their paths in it."""
    paths = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths.append(path)
    return paths


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stderr.count("\n"), result.stdout) == (2, 1, ""), result.stderr
    return result.stderr


# The sample of the Orthanc Book that everybody has: a REST route that shows an instance as pydicom prints it.
PYDICOM_SAMPLE = """import orthanc


def decode(output, uri, **request):
    output.AnswerBuffer(request["groups"][0], "text/plain")


orthanc.RegisterRestCallback("/pydicom/(.*)", decode)
"""
