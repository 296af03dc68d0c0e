# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/reported.py: edit that, never this file.
"""Lines of the journals of servers that stand by, until the one that works has applied them."""

from __future__ import annotations

REPORTED_TABLE = """
CREATE TABLE IF NOT EXISTS reported(id INTEGER PRIMARY KEY AUTOINCREMENT, server TEXT NOT NULL, line TEXT NOT NULL);
"""


def place_name(server: str) -> str:
    """Return how the place is called up to which a server's journal is handed over or applied."""
    return f"journal {server}"
