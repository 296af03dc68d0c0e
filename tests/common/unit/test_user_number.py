# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/user_number.py: the number of our metadata is ours alone, and its name is the user's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def module(source: Callable[[str], ModuleType]) -> Any:
    return source("common.user_number")


@pytest.mark.parametrize("section", [None, {}, {"Other": 1025}, {"Other": [1025, "text/plain"]}])
def test_without_a_name_it_is_the_number_and_a_line_tells_what_to_add(module: Any, section: Any) -> None:
    name, hint = module.user_number({"UserMetadata": section}, "UserMetadata", "Ours", 2000)
    assert name == "2000"
    assert hint == 'add "UserMetadata": {"Ours": 2000} to the configuration: then 2000 has its name'


@pytest.mark.parametrize("number", [2000, 3000, [3000, "image/jpeg"]])
def test_a_name_of_the_configuration_counts_whatever_its_number(module: Any, number: Any) -> None:
    assert module.user_number({"U": {"Ours": number}}, "U", "Ours", 2000) == ("Ours", None)


@pytest.mark.parametrize("number", [2000, [2000, "image/jpeg"]])
def test_a_number_that_is_somebody_elses_is_refused_by_name(
    module: Any, source: Callable[[str], ModuleType], number: Any
) -> None:
    with pytest.raises(source("common.settings").SettingsError, match='U: 2000 is "Theirs" here, and would be "Ours"'):
        module.user_number({"U": {"Theirs": number}}, "U", "Ours", 2000)
