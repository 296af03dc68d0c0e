# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a job names: whole series instead of each of their instances, where a row holds all that they have."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import orthanc

from common.jobs import get_job
from common.loopback import Loopback
from forwarding.rules import Rule
from forwarding.settings import ForwardingSettings

# A row with fewer instances names them. From 1.12.11 on, Orthanc reads its whole index for each instance that a job names (1.6 ms
# with 3,000 studies, so 315 ms for 200 instances instead of 9); to ask and to name series costs it twice. Before, a job is
# only written down after each image with all that it names: 6 µs for each, 15 ms for 50 images.
INSTANCES_UNTIL_SERIES = 50
INSTANCES_UNTIL_SERIES_1_12_11 = 10
# Of a rule: these say the same of all instances of a series. What else a rule has may leave out some.
SAME_FOR_A_SERIES = {"name", "level", "destinations", "query", "priority"}


class WholeSeries:
    """Finds the series that a row holds wholly.

    A job that names a series sends what is there when it is submitted, also what came a moment ago. So nothing is named wholly
    where single instances may be left out, and a job that has got more than its row is not let run.
    """

    def __init__(self, loopback: Loopback, settings: ForwardingSettings) -> None:
        self._loopback = loopback
        self._leaves_out = settings.skip_modified or not all(map(_takes_whole_series, settings.rules or ()))
        is_slow = orthanc.CheckVersionAdvanced(1, 12, 11)
        self._fewest = INSTANCES_UNTIL_SERIES_1_12_11 if is_slow else INSTANCES_UNTIL_SERIES

    def is_worth_it(self, instances: Collection[str]) -> bool:
        """Return whether series may be named, and so many instances are worth the question which."""
        return not self._leaves_out and len(instances) >= self._fewest

    def name_for(self, resource: str, instances: Collection[str]) -> list[str]:
        """Return what a job has to name to send these instances of a resource: series that they are all of, and the others."""
        if not self.is_worth_it(instances):
            return [*instances]
        left, whole = dict.fromkeys(instances), list[str]()
        body = {"Resources": [resource], "Level": "Series", "Short": True, "Metadata": False}
        for series in self._loopback.post("/tools/bulk-content", body):
            if left.keys() >= {*series["Instances"]}:
                whole.append(series["ID"])
                for instance in series["Instances"]:
                    del left[instance]
        return [*whole, *left]

    def has_more(self, job: str, instances: Collection[str]) -> bool:
        """Return whether a job sends more than these instances: some came since its series were looked at."""
        found = get_job(self._loopback, job)
        return found is not None and count_of(found) > len(instances)


def count_of(job: Mapping[str, Any]) -> int:
    """Return how many instances a job sends."""
    return int(job.get("Content", {}).get("InstancesCount", 0))


def _takes_whole_series(rule: Rule) -> bool:
    default = Rule()
    names = {field.name for field in dataclasses.fields(Rule)} - SAME_FOR_A_SERIES
    return all(getattr(rule, name) == getattr(default, name) for name in names)
