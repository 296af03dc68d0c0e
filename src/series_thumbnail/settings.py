# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `SeriesThumbnail` of the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

SECTION = "SeriesThumbnail"
CHOSEN, CHOSEN_NUMBER = "ThumbnailInstanceID", 2001  # of UserMetadata
KEPT, KEPT_NUMBER = "SeriesThumbnail", 4301  # of UserContentType
MIN_SIZE, MAX_SIZE = 16, 1024  # pixels of the longer side
JPEG, PNG = "image/jpeg", "image/png"
DEFAULT_QUALITY = 80  # of JPEG


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `SeriesThumbnail`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "Quality": "a picture has the quality 80, unless a request asks for another one by ?quality=",
        "CacheMegabytes": "the script decides that itself now (pictures that are asked for often take at most 64 MB of memory)",
        "Threads": "the script decides that itself now (it draws 4 pictures at a time)",
    }

    size: int = dataclasses.field(
        default=128,
        metadata={
            "minimum": MIN_SIZE,
            "maximum": MAX_SIZE,
            "help": "Pixels of the longer side of a picture, without `?size=`.",
        },
    )
    make_ahead: bool = dataclasses.field(
        default=True,
        metadata={
            "help": (
                "Draw each series when it becomes stable, so that the first answer is quick. False: when somebody asks."
            )
        },
    )
    explorer: bool = dataclasses.field(default=True, metadata={"help": "Show the pictures in Orthanc Explorer."})
