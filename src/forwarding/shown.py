# SPDX-License-Identifier: AGPL-3.0-or-later
"""How routes of the forwarders show rules, and rows of the ledger."""

import json
from collections.abc import Mapping
from typing import Any

from common.ledger import SEND
from common.times import utc
from common.work import next_attempt_of
from forwarding.rules import ForwardingRule


def shown_rule(rule: ForwardingRule) -> dict[str, Any]:
    """Return a rule, as routes show it."""
    return {
        "Name": rule.name,
        "Level": rule.level,
        "Destinations": None if rule.destinations is None else [*rule.destinations],
        "Query": rule.query,
        "Origin": {key: [*value] for key, value in vars(rule.origin).items() if value},
        "SOPClasses": [*rule.sop_classes],
        "TransferSyntaxes": [*rule.transfer_syntaxes],
        "Matcher": rule.matcher,
        "Modify": rule.changes,
        "Priority": rule.priority,
    }


def shown_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row, as routes show it: `Created` is when it was added, whatever became of it."""
    data = json.loads(row["data"])
    level, instances = data["Level"], data["Instances"]
    study = row["subject"] if level == "Study" else data.get("Of") if data.get("OfLevel") == "Study" else None
    return {
        "ID": row["id"],
        "Level": level,
        "Resource": row["subject"],
        "Study": study,
        "Task": row["task"],
        "Destination": row["queue"] if row["task"] == SEND else None,
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": next_attempt_of(row),
        "Error": row["error"],
        "Job": row["job"],
        "Instances": None if instances is None else len(instances),
        "Created": utc(row["added"]),
        "Updated": utc(row["updated"]),
    }
