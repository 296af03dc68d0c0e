# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether destinations have proved to have what is to be deleted here."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from common.work import Which, Work
from forwarding.tasks import DELETE
from forwarding.transports import Prove

Content = Mapping[str, Mapping[str, Any]]  # instances as `/tools/bulk-content` gives them, by identifier


class Proofs:
    """Asks destinations for proofs.

    Parameters
    ----------
    prove : asks one destination.
    content : gives what a resource has at a level.
    """

    def __init__(self, prove: Prove, work: Work, content: Callable[[str, str], Content]) -> None:
        self._prove, self._work, self._content = prove, work, content

    def all_have(self, data: dict[str, Any], instances: Content) -> bool:
        """Return whether each destination, or what it went to instead, has proved to have each; False: it is not known yet."""
        pending = False
        for destination in data["Destinations"]:
            missing = self._missing_at(destination, data, instances)
            pending = pending or missing is None
            if missing:
                raise ValueError(f"{destination} has not proved to have {len(missing)} of {len(instances)} instances")
        return not pending

    def _missing_at(self, destination: str, data: dict[str, Any], instances: Content) -> Content | None:
        """Return the instances that neither a destination nor what it went to instead has proved to have; None: not known yet."""
        missing, asked = instances, data.setdefault("Asked", {})
        for name in (*data.get("Instead", {}).get(destination, ()), destination):
            if missing:
                proved = self._prove(name, missing, asked)
                if proved is None:
                    return None
                missing = {key: one for key, one in missing.items() if key not in proved}
        return missing

    def others_have(self, row: Mapping[str, Any], data: dict[str, Any], family: list[str], instances: Content) -> bool:
        """Return whether what rules of other levels have sent of it is proved, too; False: it is not known yet."""
        pending = False
        for other in self._work.find(Which(task=DELETE, resources=family, states=("waiting", "dead"))):
            if other["id"] != row["id"]:
                asked = data.setdefault("AskedOf", {}).setdefault(other["subject"], {})
                part = self._content(other["subject"], "Instance").keys() & instances.keys()
                about = {**json.loads(other["data"]), "Asked": asked}
                pending = not self.all_have(about, {one: instances[one] for one in part}) or pending
        return not pending
