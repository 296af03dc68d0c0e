# SPDX-License-Identifier: AGPL-3.0-or-later
"""What schemathesis leaves out (`test_openapi.py`): a path that fits no route of ours is answered by Orthanc, without a type."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Return whether the path of a request fits the pattern of its route."""
    declared = case.operation.definition.raw.get("parameters", ())
    schemas = {each["name"]: each["schema"] for each in declared if each["in"] == "path"}
    return all(fits(schemas[name], str(value)) for name, value in (case.path_parameters or {}).items())


def fits(schema: dict[str, Any], value: str) -> bool:
    """Return whether Orthanc takes a value, as it is in a path or decoded, for what is in the braces."""
    decoded = urllib.parse.unquote(value)
    if "enum" in schema:
        return decoded in schema["enum"]
    return re.fullmatch(schema["pattern"].strip("^$"), decoded) is not None and decoded not in (".", "..")
