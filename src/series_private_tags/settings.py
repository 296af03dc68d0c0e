# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `SeriesMainPrivateDicomTags` of the configuration."""

from __future__ import annotations

import dataclasses

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
        metadata={"minimum": 16, "help": "Characters of a value that are stored; of a longer one, so many and a mark."},
    )
    catch_up: bool = dataclasses.field(
        default=True, metadata={"help": "Look at what the archive held before the script, or before a tag was named."}
    )
    reconcile: bool = dataclasses.field(
        default=True, metadata={"help": "False in all but one of several Orthancs that share a database."}
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: the ledger also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )
