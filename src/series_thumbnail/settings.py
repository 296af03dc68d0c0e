# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `SeriesThumbnail` of the configuration."""

from __future__ import annotations

import dataclasses

SECTION = "SeriesThumbnail"
CHOSEN, CHOSEN_NUMBER = "ThumbnailInstanceID", 2001  # of UserMetadata
KEPT, KEPT_NUMBER = "SeriesThumbnail", 4301  # of UserContentType
MIN_SIZE, MAX_SIZE = 16, 1024  # pixels of the longer side
JPEG, PNG = "image/jpeg", "image/png"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `SeriesThumbnail`."""

    size: int = dataclasses.field(
        default=128,
        metadata={"minimum": MIN_SIZE, "maximum": MAX_SIZE, "help": "Pixels of the longer side, without `?size=`."},
    )
    quality: int = dataclasses.field(
        default=80, metadata={"minimum": 1, "maximum": 100, "help": "Of JPEG, without `?quality=`."}
    )
    make_ahead: bool = dataclasses.field(
        default=True, metadata={"help": "Draw each series when it becomes stable; false: when somebody asks for it."}
    )
    cache_megabytes: float = dataclasses.field(
        default=64, metadata={"minimum": 0, "help": "Most memory for pictures that are asked for often."}
    )
    threads: int = dataclasses.field(
        default=4,
        metadata={"minimum": 1, "maximum": 32, "help": "Pictures that are drawn at a time for those who ask."},
    )
    explorer: bool = dataclasses.field(default=True, metadata={"help": "Show the pictures in Orthanc Explorer."})
