# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is to be done with a row of a forwarder's ledger, and how a row is named in the log."""

import json
from collections.abc import Mapping
from typing import Any

# Tasks beside SEND, whose rows have the name of their destination as queue. These are for no one destination.
ROUTE = "route"  # what no rule has been applied to yet
DELETE = "delete"  # what is to be deleted here when every destination has proved to have it
NO_DESTINATION = ""
BACKFILL_PRIORITY = -1  # of what a person asks for: what arrives is sent first
# Of a ledger whose rows had no task, but a queue that no destination was called. The data say what is none of ours.
FIRST_TASKS = f"""
UPDATE work SET task='{ROUTE}' WHERE queue='' AND json_type(data, '$.Instances')='object';
UPDATE work SET task='{DELETE}', queue='{NO_DESTINATION}'
WHERE queue='/delete' AND json_type(data, '$.Destinations')='array';
"""


def is_changed(row: Mapping[str, Any]) -> bool:
    """Return whether the images of a row are changed on the way (`Modify` of its rule)."""
    return "Modify" in json.loads(row["data"])


def name_of(row: Mapping[str, Any]) -> str:
    """Return a row's level and resource, for the log."""
    data = json.loads(row["data"])
    if data["Level"] == "Instance" and len(data["Instances"] or ()) > 1:
        return f"{len(data['Instances'])} instances of {data['OfLevel'].lower()} {data['Of']}"
    return f"{data['Level'].lower()} {row['subject']}"
