# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/fields.py: edit that, never this file.
"""Fields of settings: a default, what is allowed, and the line of the table in the documentation."""

from __future__ import annotations

import dataclasses
import re
from typing import Any


def switch(default: bool, text: str) -> Any:
    """Return a field that is true or false."""
    return dataclasses.field(default=default, metadata={"help": text})


def whole_text(pattern: str, allowed: str) -> Any:
    """Return a `check`: all of the text matches."""
    return {"check": lambda value: None if re.fullmatch(pattern, value) else allowed}


def path_or_null(text: str) -> Any:
    """Return a field that is a path, or null."""
    return dataclasses.field(default=None, metadata={**whole_text(r"[^\0-\x1f]+", "a path"), "help": text})
