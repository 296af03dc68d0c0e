# SPDX-License-Identifier: AGPL-3.0-or-later
"""A database that a test opens is closed by it: Python 3.13 and later warn, and a warning is an error here."""

from __future__ import annotations

import re
from pathlib import Path

# As a context manager, a connection only commits.
LEFT_OPEN = re.compile(r"^ *with sqlite3\.connect\(.*|.*(?<!\w)sqlite3\.connect\([^\n]*\)\.execute.*", re.M)


def test_no_test_leaves_a_database_open() -> None:
    found = {
        str(path): lines
        for path in Path(__file__).parents[1].rglob("*.py")
        if (lines := LEFT_OPEN.findall(path.read_text()))
    }
    assert found == {}
