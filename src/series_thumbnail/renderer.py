# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draws instances, by Orthanc's own rendering."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import orthanc

from common.loopback import Loopback, LoopbackError
from common.packages import package_problem
from common.routes import Refused, one_line

from .icons import draw_icon, stretched
from .options import RenderOptions
from .pictures import Picture, make_picture
from .settings import PNG
from .source import Source, fitted, source_of

MAX_TRIES = 8  # instances looked at, from the middle outwards, until one can be drawn
MAX_UNDECODABLE_TRIES = 2  # of these, images that Orthanc could not decode: such files may be large
MAX_SOURCES_IN_MEMORY = 20_000  # instances whose tags need not be read again for another picture


class Renderer:
    """Draws over loopback HTTP: through the SDK it would hold the GIL, and with it every store."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback
        self._undecodable: set[str] = set()  # transfer syntaxes that were logged
        self._sources: dict[str, Source] = {}
        self.drawn = 0

    def draw_first(self, instances: Iterator[str], options: RenderOptions) -> Picture:
        """Return the picture of the first instance that can be drawn, else the icon of the very first."""
        icon, failures = None, 0
        for _, instance in zip(range(MAX_TRIES), instances, strict=False):
            source = self.source(instance)
            content = None if source.kind else self._render(instance, source, options)
            if content is not None:
                self.drawn += 1
                return make_picture(content, options, instance)
            icon = icon or (source.kind or "image", instance)
            failures += not source.kind
            if failures == MAX_UNDECODABLE_TRIES:
                break
        if icon is None:
            raise Refused(404, "There is no instance any more")
        return make_picture(self._with_pillow(draw_icon, icon[0], options), options, icon[1], is_icon=True)

    def forget(self, instance: str) -> None:
        """Forget the tags of an instance: it was deleted, or stored again."""
        self._sources.pop(instance, None)

    def source(self, instance: str) -> Source:
        """Return what the tags of an instance say about drawing it."""
        source = self._sources.get(instance)
        if source is None:
            source = source_of(self._loopback.get(f"/instances/{instance}/simplified-tags"))
            if len(self._sources) >= MAX_SOURCES_IN_MEMORY:
                self._sources.clear()
            self._sources[instance] = source
        return source

    def _render(self, instance: str, source: Source, options: RenderOptions) -> bytes | None:
        """Return the image as Orthanc renders it, windowed; None if Orthanc can't."""
        stretch = abs(math.log(source.aspect)) > 0.01
        width, height, box = fitted(source.rows, source.columns, source.aspect, options.size)
        frame = "" if source.frame is None else f"/frames/{source.frame}"
        side, mime = (box, PNG) if stretch else (options.size, options.mime)
        path = f"/instances/{instance}{frame}/rendered?width={side}&height={side}&quality={options.quality or 85}"
        try:
            _, content = self._loopback.request_raw("GET", path, headers={"Accept": mime})
        except LoopbackError as error:
            if error.status == 0:
                raise
            content = b""
        if not content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            self._log_undecodable(instance)
            return None
        return self._with_pillow(stretched, content, width, height, options) if stretch else content

    def _log_undecodable(self, instance: str) -> None:
        self.forget(instance)
        syntax = self._loopback.request("GET", f"/instances/{instance}/metadata/TransferSyntax")
        syntax = one_line(syntax.decode() if isinstance(syntax, bytes) else syntax)
        if syntax not in self._undecodable:
            self._undecodable.add(syntax)
            orthanc.LogWarning(
                f"series_thumbnail: Orthanc can't decode instance {instance}, transfer syntax {syntax}: an icon is shown. "
                "This is said once for each transfer syntax; a plugin that decodes it (orthanc-gdcm) may help"
            )

    def _with_pillow(self, draw: Callable[..., bytes], *arguments: Any) -> bytes:
        try:
            return draw(*arguments)
        except ImportError as error:
            raise Refused(
                503,
                f"series_thumbnail can't draw this picture ({error}): {package_problem('pillow', '9.4', None, 'python3-pil')}",
            ) from None
