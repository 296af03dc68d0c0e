# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is to be done with a row of the ledger, and what a person sees of that."""

from collections.abc import Mapping
from typing import Any

from anonymize_series.settings import RE_IDENTIFY_NAME

# The queue of a row to be anonymized has the name of its recipe; the others have none.
ROUTE, ANONYMIZE, RE_IDENTIFY = "route", "anonymize", "re-identify"
NO_RECIPE = ""
FIRST_TASKS = f"""
UPDATE work SET task=CASE queue WHEN '' THEN '{ROUTE}' WHEN '{RE_IDENTIFY_NAME}' THEN '{RE_IDENTIFY}' ELSE '{ANONYMIZE}' END,
    queue=CASE queue WHEN '{RE_IDENTIFY_NAME}' THEN '{NO_RECIPE}' ELSE queue END;
"""  # of a ledger whose rows had no task, but a queue that no recipe was called


def recipe_or_task(row: Mapping[str, Any]) -> str:
    """Return what the routes and the log call it: the recipe, or what is done instead; "" while the rules are applied."""
    return str({ROUTE: "", RE_IDENTIFY: RE_IDENTIFY_NAME}.get(row["task"], row["queue"]))
