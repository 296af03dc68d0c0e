# SPDX-License-Identifier: AGPL-3.0-or-later
"""What this Orthanc has, asked over loopback."""

from collections.abc import Sequence

from common.changes import PAGE
from common.identifiers import PLURAL
from common.loopback import Loopback


def still_here(loopback: Loopback, resources: Sequence[str]) -> list[str]:
    """Return those of these resources that were not deleted, in their order."""
    here: set[str] = set()
    for start in range(0, len(resources), PAGE):
        body = {"Resources": resources[start : start + PAGE], "Short": True}
        here |= {found["ID"] for found in loopback.post("/tools/bulk-content", body)}
    return [resource for resource in resources if resource in here]


def instances_of(loopback: Loopback, level: str, resource: str) -> list[str]:
    """Return the identifiers of a resource's instances."""
    found = loopback.get(f"/{PLURAL[level]}/{resource}/instances?expand=false")
    return [one if isinstance(one, str) else one["ID"] for one in found]  # 1.10.1 knows no expand=false
