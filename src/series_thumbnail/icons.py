# SPDX-License-Identifier: AGPL-3.0-or-later
"""Icons of what is no image, in a square of 100; needs Pillow, as does what changes proportions."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from .options import RenderOptions
from .settings import JPEG


def _circle(x: float, y: float, radius: float) -> Sequence[float]:
    turns = [math.tau * step / 32 for step in range(33)]
    return [value for turn in turns for value in (x + radius * math.cos(turn), y + radius * math.sin(turn))]


SHEET = [60, 14, 26, 14, 26, 86, 74, 86, 74, 28, 60, 14, 60, 28, 74, 28]
FRAME = [16, 22, 84, 22, 84, 78, 16, 78, 16, 20]
GLYPHS: dict[str, Sequence[Sequence[float]]] = {
    "document": [SHEET, *([36, y, 64, y] for y in (42, 54, 66))],
    "report": [SHEET, *([46, y, 64, y] for y in (44, 58, 72)), *([34, y, 39, y] for y in (44, 58, 72))],
    "waveform": [[8, 54, 28, 54, 34, 46, 40, 54, 46, 54, 51, 18, 58, 82, 63, 54, 72, 54, 78, 44, 84, 54, 92, 54]],
    "segmentation": [_circle(50, 50, 34), [38, 32, 58, 30, 68, 46, 60, 66, 42, 68, 32, 50, 39, 31]],
    "plan": [
        _circle(50, 50, 26),
        _circle(50, 50, 8),
        [50, 10, 50, 36],
        [50, 64, 50, 90],
        [10, 50, 36, 50],
        [64, 50, 90, 50],
    ],
    "presentation": [FRAME, [30, 66, 62, 38], [46, 37, 63, 37, 63, 54]],
    "image": [FRAME, _circle(36, 40, 6), [17, 72, 42, 52, 54, 62, 66, 46, 83, 64]],
    "other": [SHEET],
}


def draw_icon(kind: str, options: RenderOptions) -> bytes:
    """Return the icon of a kind as a square picture. Raises `ImportError` without Pillow."""
    from PIL import Image, ImageDraw

    side = 4 * options.size  # drawn large and made small: smooth lines
    image = Image.new("RGB", (side, side), (44, 52, 64))
    draw = ImageDraw.Draw(image)
    for line in GLYPHS[kind]:
        draw.line([value * side / 100 for value in line], (200, 210, 222), max(1, side // 28), "curve")
    return encoded(image.resize((options.size, options.size), Image.Resampling.LANCZOS), options)


def encoded(image: Any, options: RenderOptions) -> bytes:
    """Return an image of Pillow as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if options.mime == JPEG else "PNG", quality=options.quality or 85)
    return buffer.getvalue()
