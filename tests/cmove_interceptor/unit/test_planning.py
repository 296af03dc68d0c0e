# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor without a server: however a move is cut into parts, each of its images is sent, and once."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest


class Archive:
    """A study of series with so many images each."""

    def __init__(self, *counts: int, names: bool = True) -> None:
        self._names = names
        self.held = {f"s{number}": [f"s{number}-{one}" for one in range(count)] for number, count in enumerate(counts)}

    def series(self, _level: str, resource: str) -> dict[str, list[str]]:
        return {name: ids for name, ids in self.held.items() if resource in ("study", name)}

    def may_name_images(self, _count: int) -> bool:
        return self._names

    def images(self, resources: list[str]) -> list[str]:
        return [one for each in resources for one in self.held.get(each, [each])]


@pytest.fixture(scope="module")
def planning(source_for_module: Any) -> Any:
    return source_for_module("cmove_interceptor.planning")


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("associations", [1, 2, 3, 8])
def test_each_image_is_in_one_part_and_once(planning: Any, associations: int, names: bool) -> None:
    chance = random.Random(associations)
    for counts in [(1,), (400,), (2000,), (64, 65), (500, 1), *(chance.choices(range(1, 700), k=9) for _ in range(9))]:
        archive = Archive(*counts, names=names)
        parts = planning.Planner(archive, associations).parts("STUDY", ["study"])
        resources = list(itertools.chain.from_iterable(part.resources for part in parts))
        if resources != ["study"]:
            sent = Counter(archive.images(resources))
            assert sent == Counter(itertools.chain.from_iterable(archive.held.values()))
            assert [part.total for part in parts] == [len(archive.images([*part.resources])) for part in parts]
            assert names or not any("-" in each for each in resources)


def test_few_images_or_single_ones_are_sent_by_one_association(planning: Any) -> None:
    few = planning.MIN_IMAGES_FOR_SECOND_ASSOCIATION - 1
    [part] = planning.Planner(Archive(few), 2).parts("STUDY", ["study"])
    assert (part.resources, part.total) == (["study"], few)
    assert len(planning.Planner(Archive(few + 1), 2).parts("STUDY", ["study"])) > 1
    for level, associations in (("INSTANCE", 2), ("STUDY", 1)):
        [part] = planning.Planner(Archive(5000), associations).parts(level, ["study"])
        assert (part.resources, part.total) == (["study"], 0)


def test_parts_have_about_as_many_images_each(planning: Any) -> None:
    parts = planning.Planner(Archive(300, 200, 100, 100, 100), 2).parts("STUDY", ["study"])
    assert sorted(part.total for part in parts) == [400, 400]
