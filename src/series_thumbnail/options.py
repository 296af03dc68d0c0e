# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a request asks for: size, type and quality of the picture."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from common.accept import preferred_type
from common.parameters import Flag, OneOf, WholeNumber
from common.routes import Refused, one_line

from .settings import DEFAULT_QUALITY, JPEG, MAX_SIZE, MIN_SIZE, PNG, Settings


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """How a picture is to be: pixels of the longer side, MIME type, and quality (of JPEG)."""

    size: int
    mime: str
    quality: int


PARAMETERS = {
    "size": WholeNumber(least=MIN_SIZE, most=MAX_SIZE),
    "format": OneOf(choices=("jpeg", "png")),
    "quality": WholeNumber(least=1, most=100),
    "icon": Flag(),
}


@functools.lru_cache(maxsize=256)
def wanted(parameters: tuple[tuple[str, Any], ...], accept: str, settings: Settings) -> tuple[RenderOptions, bool]:
    """Return the picture that a request asks for, and whether an icon will do. Raises `Refused`: 406."""
    given = dict(parameters)
    size, quality = given.get("size", settings.size), given.get("quality", DEFAULT_QUALITY)
    mime = {"jpeg": JPEG, "png": PNG}[given["format"]] if "format" in given else preferred_type(accept, (JPEG, PNG))
    if mime is None:
        raise Refused(406, f"Accept is {one_line(accept)[:80]!r}, available: {JPEG}, {PNG}")
    return RenderOptions(size, mime, quality if mime == JPEG else 0), given.get("icon", True)
