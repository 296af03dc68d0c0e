# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a job as Orthanc knows it would still do what is wanted."""

from collections.abc import Mapping, Sequence
from typing import Any

from auto_retries.jobs import INTERNAL_ERROR
from auto_retries.known_destinations import KnownDestinations
from auto_retries.recipes import RECIPES, STOW, address, has_read
from common.identifiers import PLURAL
from common.loopback import Loopback

RESOURCES_PER_LOOKUP = 500


class Freshness:
    """Compares what a job was made for with what is here, and with where its destination is now.

    Parameters
    ----------
    overwrites : whether an instance may be replaced by another one with the same identifier (OverwriteInstances).
    """

    def __init__(self, loopback: Loopback, destinations: KnownDestinations, *, overwrites: bool) -> None:
        self._loopback, self._destinations, self._overwrites = loopback, destinations, overwrites

    def still_here(self, resources: Sequence[str]) -> list[dict[str, Any]]:
        """Return what Orthanc shows of those resources that were not deleted, in their order."""
        here: dict[str, dict[str, Any]] = {}
        for start in range(0, len(resources), RESOURCES_PER_LOOKUP):
            body = {"Resources": resources[start : start + RESOURCES_PER_LOOKUP]}
            here |= {found["ID"]: found for found in self._loopback.post("/tools/bulk-content", body)}
        return [here[resource] for resource in resources if resource in here]

    def may_resubmit(
        self, job: Mapping[str, Any], data: Mapping[str, Any], here: Sequence[Mapping[str, Any]] | None
    ) -> bool:
        """Return whether the job is still what is wanted: it sends the same instances to the same address."""
        recipe = RECIPES.get(data["Type"])
        if recipe is None:
            return True
        if data["Type"] == STOW:  # on 1.10.1 there is no other way; where nothing was read yet, all is sent
            return data["Body"] is None and not has_read(job)
        known = self._destinations.of(recipe.route)
        addresses = sorted(address(known[name]) for name in data["Names"] if name in known)
        is_unchanged = here is None or self._is_unchanged(job, here)
        return is_unchanged and addresses == data["Addresses"] and job["ErrorCode"] != INTERNAL_ERROR

    def _is_unchanged(self, job: Mapping[str, Any], here: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether a store job would send what is here: 1.13.0 sends, from its cache, also what was deleted since.

        Nothing came since the job was made, and there are as many instances: then nothing was deleted either.
        """
        count = 0
        for resource in here:
            if resource["Type"] == "Instance":
                if self._overwrites:
                    return False  # nothing shows whether it is another one now
                count += 1
            elif resource.get("LastUpdate", "9") < job["CreationTime"][:15]:  # both are UTC, the first in whole seconds
                path = f"/{PLURAL[resource['Type']]}/{resource['ID']}/statistics"
                count += int(self._loopback.get(path)["CountInstances"])
            else:
                return False
        return bool(count == job["Content"].get("InstancesCount"))
