# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of built scripts in which constants have other values: a test need not wait as long as a user does."""

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path

# Of a forwarder, anonymize_series.py and auto_retries.py: what failed is tried again after 1 s, then each 2 s.
QUICK = {"FIRST_DELAY_SECONDS": 1.0, "LONGEST_DELAY_SECONDS": 2.0}


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="constants-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def script_with(script: Path, constants: dict[str, float]) -> Path:
    """Return a copy of a script, or of the package whose `__init__.py` it is, in which constants have these values.

    Raises ValueError for a name that the script does not give a value exactly once.
    """
    folder = Path(tempfile.mkdtemp(dir=_folder()))
    if script.name == "__init__.py":
        package = shutil.copytree(
            script.parent, folder / script.parent.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        copy, files = package / script.name, sorted(package.rglob("*.py"))
    else:
        copy = folder / script.name
        shutil.copyfile(script, copy)
        files = [copy]
    for name, value in constants.items():
        line = re.compile(rf"^{name} = [^#\n]*", re.M)
        places = [file for file in files for _ in line.findall(file.read_text())]
        if len(places) != 1:
            raise ValueError(f"{script} gives {name} a value {len(places)} times")
        places[0].write_text(line.sub(f"{name} = {value}  ", places[0].read_text()))
    return copy
