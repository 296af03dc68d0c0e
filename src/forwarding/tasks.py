# SPDX-License-Identifier: AGPL-3.0-or-later
"""What kind of work a row of a forwarder's ledger is, and how a row is named in the log."""

import json
from collections.abc import Mapping
from typing import Any

# A row's queue is the name of the destination that it is to be sent to, or one of these, as no destination is called.
TO_ROUTE = ""  # what no rule has been applied to yet
TO_DELETE = "/delete"  # what is to be deleted here when every destination has proved to have it


def task_of(row: Mapping[str, Any]) -> str:
    """Return `route`, `send` or `delete`."""
    return {TO_ROUTE: "route", TO_DELETE: "delete"}.get(row["queue"], "send")


def name_of(row: Mapping[str, Any]) -> str:
    """Return a row's level and resource, for the log."""
    return f"{json.loads(row['data'])['Level'].lower()} {row['subject']}"
