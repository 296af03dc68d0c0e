# SPDX-License-Identifier: AGPL-3.0-or-later
"""A purge by `OnlyIfAt` without a server, and the destinations that it asks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script
from tests.purge_old_studies.unit.test_guards import LONG_AGO, NAME, Purging
from tests.purge_old_studies.unit.test_space import RULE as ROOM
from tests.purge_old_studies.unit.test_space import Filling

AT_PACS = {"only-if-at": ["PACS"]}
REMOTE = {"PACS": "modality", "VNA": "modality", "research": "peer"}
BY_SPACE = {**ROOM, "AtMost": 2, "OnlyIfAt": ["PACS"]}


class Elsewhere(Purging):
    """A purge whose studies have two instances each, and destinations that have what `there` says."""

    def __init__(self, start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, standin: StandIn) -> None:
        super().__init__(start, rest, clock, standin)
        self.instances: dict[str, list[str]] = {}
        self.there: dict[str, set[str]] = {name: set() for name in REMOTE}
        self.questions: list[tuple[str, list[str]]] = []
        self.before: Callable[[str, list[str]], Any] = lambda *_: None  # raises, or returns None for "not known yet"
        self.proofs: list[str] = []
        names = {kind: [name for name, each in REMOTE.items() if each == kind] for kind in ("modality", "peer")}
        rest.answers |= {("GET", "/modalities"): names["modality"], ("GET", "/peers"): names["peer"]}

    def add(self, study: str, date: str = "19990101", received: str = LONG_AGO) -> None:
        super().add(study, date, received)
        self.instances[study] = [f"{study}-{number}" for number in (1, 2)]

    def has(self, name: str, studies: Iterable[str]) -> None:
        self.there[name] |= {instance for study in studies for instance in self.instances[study]}

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        super().start(configuration, **section)
        module: Any = importlib.import_module("purge_old_studies.elsewhere")
        module.Elsewhere.prove = lambda _, *given: self._prove(*given)

    def _prove(self, destination: Any, instances: Any, asked: dict[str, Any], proof: str) -> set[str] | None:
        assert REMOTE[destination.name] == destination.kind
        for one in instances.values():
            assert one["Place"]["StudyInstanceUID"]
            assert one["FileUuid"]
        studies = sorted({key.partition("-")[0] for key in instances})
        self.questions.append((destination.name, studies))
        self.proofs.append(proof)
        assert proof != "StorageCommitmentOnly" or len(instances) <= 100
        if self.before(destination.name, studies) == "not yet":
            return None
        return {*instances} & self.there[destination.name]

    def _content(self, path: str, body: Any) -> Any:
        level, resources = body.get("Level"), body["Resources"]
        if level == "Series":
            there = [study for study in resources if study in self.found]
            uids = {"SeriesInstanceUID": "1.2"}
            return [
                {"ID": f"{one}-5e", "ParentStudy": one, "Instances": self.instances[one], "MainDicomTags": uids}
                for one in there
            ]
        if level is None:
            return [
                {"ID": key, "ParentSeries": f"{key.partition('-')[0]}-5e", "MainDicomTags": {}, "FileUuid": f"f{key}"}
                for key in resources
            ]
        return super()._content(path, body)

    def _delete(self, _path: str, body: Any) -> Any:
        for study in [*self.instances]:
            left = [one for one in self.instances[study] if one not in body["Resources"]]
            if study in body["Resources"] or not left:
                del self.instances[study], self.found[study]
            else:
                self.instances[study] = left
        return {}

    def why(self, number: int = 1) -> dict[str, str]:
        """Why studies of a purge were not deleted."""
        found = self.script.get(f"{NAME}/jobs/{number}")["NotDeleted"]
        return {each["ID"]: each["Reason"] for each in found}


@pytest.fixture
def purging(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Elsewhere:
    found = Elsewhere(start, rest, clock, orthanc_standin)
    for study in ("a1", "b2", "c3"):
        found.add(study)
    return found


@pytest.fixture
def filling(purging: Elsewhere) -> Filling:
    """Of fourteen studies of a gigabyte, the oldest three are nowhere else."""
    purging.found.clear()
    purging.instances.clear()
    found = Filling(purging)
    found.add(*range(101, 115))
    purging.has("PACS", [study for study in purging.found if study > "a103"])
    return found
