# SPDX-License-Identifier: AGPL-3.0-or-later
"""What this Orthanc has, asked over loopback."""

from collections.abc import Mapping, Sequence

from common.changes import PAGE
from common.loopback import Loopback
from forwarding.rules import LEVELS


def still_here(loopback: Loopback, resources: Sequence[str]) -> list[str]:
    """Return those of these resources that were not deleted, in their order."""
    here: set[str] = set()
    for start in range(0, len(resources), PAGE):
        body = {"Resources": resources[start : start + PAGE], "Short": True}
        here |= {found["ID"] for found in loopback.post("/tools/bulk-content", body)}
    return [resource for resource in resources if resource in here]


def metadata_of(loopback: Loopback, instances: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Return the metadata of those of these instances that were not deleted."""
    return {
        found["ID"]: found.get("Metadata", {})
        for start in range(0, len(instances), PAGE)
        for found in loopback.post(
            "/tools/bulk-content", {"Resources": instances[start : start + PAGE], "Metadata": True}
        )
    }


def family_of(loopback: Loopback, resource: str) -> set[str]:
    """Return the patients, studies and series that a resource is, belongs to, or holds."""
    found = {resource}
    for level in LEVELS:
        body = {"Resources": [resource], "Level": level, "Short": True, "Metadata": False}
        found |= {each["ID"] for each in loopback.post("/tools/bulk-content", body)}
    return found
