# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/settings.py: what the line about an unknown key says to a person who has to correct it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from common.settings import SettingsError, read_settings


@dataclasses.dataclass(frozen=True)
class Retry:
    give_up_hours: float = 72


@dataclasses.dataclass(frozen=True)
class Settings:
    alternates: dict[str, Any] = dataclasses.field(default_factory=dict)
    alternates_after_minutes: float = 15
    destinations: tuple[str, ...] = ()
    max_per_destination: int = 0
    priority: int = 0
    retry: Retry = dataclasses.field(default=Retry())


ALL = "allowed: Alternates, AlternatesAfterMinutes, Destinations, MaxPerDestination, Priority, Retry"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("AfterMinutes", "did you mean AlternatesAfterMinutes?"),
        ("GiveUpHours", "did you mean Retry.GiveUpHours?"),
        ("giveuphours", "did you mean Retry.GiveUpHours?"),
        ("Modality", ALL),
        (
            "_comment",
            ALL + "; write a comment as // ...",
        ),
        (
            "//",
            ALL + "; write a comment as // ...",
        ),
        ("Destination", "did you mean Destinations?"),
        ("Priorty", "did you mean Priority?"),
    ],
)
def test_the_line_about_an_unknown_key_says_what_may_have_been_meant(key: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(Settings, "Our", {"Our": {key: 1}})
    assert str(caught.value) == f"Our.{key} is not a known key ({meant})"
