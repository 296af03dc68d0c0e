# SPDX-License-Identifier: AGPL-3.0-or-later
"""The built scripts, and files into which combine.py has put some of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NO_SCRIPTS = {"combine.py", "event_dispatcher.py"}  # a program, and a library for scripts of a user's own
SCRIPTS = [path for path in sorted(ROOT.glob("*.py")) if path.name not in NO_SCRIPTS]
PACKAGES = sorted(path.parent for path in ROOT.glob("*/__init__.py") if (path.parent / "_common").is_dir())
FILES = [*SCRIPTS, *(package / "__init__.py" for package in PACKAGES)]


def combine_scripts(*words: Path | str, to: Path, warns: bool = False) -> Path:
    """Combine scripts and return the file; `words` may have options too. `warns` : it has something to say."""
    command = [sys.executable, ROOT / "combine.py", *words, "-o", to]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert bool(result.stderr) == warns, result.stderr
    return to
