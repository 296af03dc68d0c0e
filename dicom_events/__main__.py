# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/__main__.py: edit that, never this file.
"""Prints in a terminal what `__init__.py` prints there: `python3 dicom_events --help`."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("__init__.py")), run_name="__main__")
