# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `Dashboard` of the configuration."""

from __future__ import annotations

import dataclasses

from common.settings import durability_field, state_path_field

from .notify_settings import NotifySettings

SECTION = "Dashboard"
NAME = "dashboard"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `Dashboard`."""

    actions: bool = dataclasses.field(
        default=True,
        metadata={
            "help": "Show buttons to those who may use them (retry, drop, pause, send again, …). False: the page only shows."
        },
    )
    explorer: bool = dataclasses.field(default=True, metadata={"help": "Link the page from Orthanc Explorer."})
    notify: NotifySettings | None = dataclasses.field(
        default=None,
        metadata={"help": "Who is notified, by a mail or a POST, when something needs a person (below); null: nobody."},
    )
    durability: str = durability_field("what was counted each minute survives")
    state_path: str | None = state_path_field("the figures of the last day")
