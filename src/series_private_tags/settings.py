# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `SeriesMainPrivateDicomTags` of the configuration."""

from __future__ import annotations

import dataclasses

from common.settings import durability_field, reconcile_field, state_path_field

SECTION = "SeriesMainPrivateDicomTags"
METADATA, METADATA_NUMBER = "SeriesPrivateTags", 2000  # of UserMetadata


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `SeriesMainPrivateDicomTags`: an object of these keys, or only the list that is `Tags`."""

    tags: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "help": 'Names from `Dictionary`, `"gggg,eeee"`, `"gggg,eeee:Creator"`; `!!` before it: only `"EXISTS"` is stored.'
        },
    )
    maximum_length: int = dataclasses.field(
        default=4096,
        metadata={
            "minimum": 16,
            "help": (
                "Characters of a value that are stored; a longer one is cut off and marked. More takes more "
                "room in Orthanc's index."
            ),
        },
    )
    catch_up: bool = dataclasses.field(
        default=True,
        metadata={
            "help": (
                "Also read a file of each series that was here before the script, or before a tag was named. "
                "False: only what comes."
            )
        },
    )
    reconcile: bool = reconcile_field("all but one of several Orthancs on one database")
    durability: str = durability_field()
    state_path: str | None = state_path_field()
