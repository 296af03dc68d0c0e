# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files that are no Python: pages, JavaScript, icons."""

import sys
from pathlib import Path


def embedded(name: str) -> str:
    """Return the text of a file beside the module that calls this; `src/build.py` writes the text itself in its place."""
    return (Path(sys._getframe(1).f_code.co_filename).parent / name).read_text()
