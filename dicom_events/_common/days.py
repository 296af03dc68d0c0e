# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/days.py: edit that, never this file.
"""Days as DICOM writes them."""

import datetime
import re


def parse_day(text: object) -> datetime.date | None:
    """The day of a DA value (YYYYMMDD, DICOM PS3.5 6.2), or None: `1999.12.31`, `1999` and `20000231` are no days."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{8}", text):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None
