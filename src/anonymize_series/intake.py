# SPDX-License-Identifier: AGPL-3.0-or-later
"""What has become stable: a row of work for each recipe that the rules name, or one to take it back."""

from collections.abc import Mapping
from typing import Any

from anonymize_series.archive import Archive
from anonymize_series.patient_register import Register
from anonymize_series.settings import Settings
from anonymize_series.tasks import ANONYMIZE, NO_RECIPE, RE_IDENTIFY, ROUTE
from common.aets import AeTitles
from common.arrivals import Arrivals
from common.identifiers import UID_TAG_OF
from common.ledger import Ledger
from common.owed import place_of
from common.work import Work
from forwarding.routing import Batch, Router
from forwarding.rules import has_origin

Origins = Mapping[str, Mapping[str, str]]  # of instances: Orthanc's metadata by name


class Intake:
    """Applies the rules to what has become stable. Never takes a copy, or a result that was taken back, for an original."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        register: Register,
        archive: Archive,
        router: Router,
        aets: AeTitles,
        arrivals: Arrivals,
    ) -> None:
        self._settings, self._ledger, self._register = settings, ledger, register
        self._archive, self._router, self._aets, self._arrivals = archive, router, aets, arrivals
        self._work = Work(ledger)

    def on_stable(self, level: str, resource: str, instances: Mapping[str, int]) -> None:
        """Write down, in the feed's transaction, what is to be looked at."""
        arrivals = {each: arrival for each in instances if (arrival := self._arrivals.get(each))}
        parents = next((arrival.parents for arrival in arrivals.values() if arrival.parents), {})
        data = {
            "Level": level,
            **place_of(level, resource, parents),
            "Instances": list(instances),
            # Of a patient it is asked for later: Orthanc finds a PatientID by the spaces too that it was sent with.
            "UID": "" if level == "Patient" else next((arrival.uids[level] for arrival in arrivals.values()), ""),
            "Origins": {each: dict(arrival.origin) for each, arrival in arrivals.items()},
        }
        self._ledger.add(NO_RECIPE, resource, data, task=ROUTE)

    def route(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Find out what is to be done with what has become stable, and put rows for that in the place of this one."""
        resource, level = row["subject"], data["Level"]
        origins = self._origins_of(level, resource, data)
        results = self._results(level, origins)
        task = RE_IDENTIFY if results else ANONYMIZE
        new = [(NO_RECIPE, results, 0)] if results else self._recipes(level, resource, data["UID"], origins)
        place = {key: data[key] for key in ("Study", "Patient") if key in data}
        with self._ledger.transaction():
            for recipe, instances, priority in new:
                about = {"Level": level, **place, "Instances": instances}
                self._ledger.add(recipe, resource, about, priority, task)
            self._work.remove(row["id"])
        for each in data["Instances"]:
            self._arrivals.forget(each)

    def _origins_of(self, level: str, resource: str, data: Mapping[str, Any]) -> Origins:
        """Return the instances that are still there, in their order, each with its origin."""
        origins = dict(data["Origins"])
        still = set(self._archive.instances(level, resource))
        # A row of an older version has no SOP class in its origins.
        if unknown := [
            each for each in data["Instances"] if each in still and "SopClassUid" not in origins.get(each, ())
        ]:
            origins |= self._archive.metadata(unknown)
        return {each: origins[each] for each in data["Instances"] if each in still and each in origins}

    def _recipes(self, level: str, resource: str, uid: str, origins: Origins) -> list[tuple[str, list[str], int]]:
        """Return the recipes that the rules name, each with its instances and the rule's priority."""
        originals = tuple(each for each in origins if not self._register.is_copy(each))
        if not originals:
            return []
        if not uid and any(rule.query for rule in self._settings.rules):
            uid = self._archive.tag(level, resource, UID_TAG_OF[level])
        batch = Batch(level, resource, uid, originals, {each: origins[each] for each in originals})
        new: list[tuple[str, list[str], int]] = []
        for verdict in self._router.verdicts(batch, list(self._settings.recipes), list(self._settings.recipes)):
            instances = list(originals if verdict.instances is None else verdict.instances)
            new += [(recipe, instances, verdict.rule.priority) for recipe in verdict.destinations if instances]
        return new

    def _results(self, level: str, origins: Origins) -> list[str]:
        """Return those that came back for a copy, from where results come from."""
        if self._settings.results is None or level != "Series":
            return []
        found = [each for each, origin in origins.items() if has_origin(self._settings.results, origin, self._aets)]
        if not found:
            return []
        return found if self._register.study_of_copy(self._archive.study_uid(found[0])) else []
