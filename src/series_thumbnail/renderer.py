# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draws instances, by Orthanc's own rendering."""

from __future__ import annotations

import array
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import orthanc

from common.loopback import Loopback, LoopbackError
from common.packages import package_problem
from common.routes import Refused, one_line

from .icons import draw_icon
from .options import RenderOptions
from .pictures import Picture, make_picture
from .pixels import (
    Drawing,
    has_pillow,
    image_of_pam,
    image_of_values,
    is_flat,
    native_frame,
    resized,
    samples,
    shown,
    values_of_npy,
)
from .source import UNREADABLE, Frame, Source, fitted, source_of
from .windows import FLOATS, MAX_SAMPLES, Greys, own_range

MAX_TRIES = 8  # instances looked at, from the middle outwards, until one can be drawn
MAX_UNDECODABLE_TRIES = 2  # of these, images that Orthanc could not decode: such files may be large
AVERAGED = (
    4  # times the size of a picture is what Orthanc is asked for, at most: where it shrinks, it leaves pixels out
)
PAM = "image/x-portable-arbitrarymap"  # which Orthanc makes and Python reads quickest
MAX_SOURCES_IN_MEMORY = 20_000  # instances whose tags need not be read again for another picture
Drawn = TypeVar("Drawn", bytes, Drawing | None)


class Renderer:
    """Draws over loopback HTTP: through the SDK it would hold the GIL, and with it every store."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback, self._has_pillow = loopback, has_pillow()
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
            source = self._read(instance)
            if len(self._sources) >= MAX_SOURCES_IN_MEMORY:
                self._sources.clear()
            self._sources[instance] = source
        return source

    def _read(self, instance: str) -> Source:
        try:
            return source_of(self._loopback.get(f"/instances/{instance}/simplified-tags"))
        except LoopbackError as error:
            if error.status == 0:
                raise
            self._loopback.get(f"/instances/{instance}")  # raises if there is none
        self._log_undecodable(instance)
        return UNREADABLE

    def _render(self, instance: str, source: Source, options: RenderOptions) -> bytes | None:
        """Return a picture of the first frame that can be drawn; None if there is none."""
        for frame in source.frames:
            try:
                if content := self._draw(instance, source, frame, options):
                    return content
            except LoopbackError as error:
                if error.status == 0:
                    raise
            except (KeyError, ValueError):  # what Orthanc gives is no image: too short, or of another kind
                continue
        self._log_undecodable(instance)
        return None

    def _draw(self, instance: str, source: Source, frame: Frame, options: RenderOptions) -> bytes | None:
        """Return a frame in its window, or in its own range if the window leaves nothing to be seen. Raises `LoopbackError`."""
        drawing, greys = self._draw_greys(instance, source, frame, frame.greys, options), frame.greys
        has_window = greys and (greys.window or greys.by_orthanc) and self._has_pillow
        if drawing and greys and has_window and is_flat(drawing):
            greys = dataclasses.replace(greys, window=None, by_orthanc=False)
            better = self._draw_greys(instance, source, frame, greys, options)
            drawing = better if better and not is_flat(better) else drawing
        return drawing.content if drawing else None

    def _draw_greys(
        self, instance: str, source: Source, frame: Frame, greys: Greys | None, options: RenderOptions
    ) -> Drawing | None:
        """Return a frame as Orthanc renders it; drawn here if Orthanc can't."""
        window = ""
        if greys and greys.form:
            return self._with_pillow(self._draw_values, instance, source, frame, greys, options)
        if greys and not greys.by_orthanc:
            low, high = greys.window or self._own_range(instance, frame, greys)
            center, width = greys.as_orthanc_counts(low, high)
            if width < 1:  # which Orthanc takes for 1
                return self._with_pillow(self._draw_values, instance, source, frame, greys, options)
            window = f"&window-center={center:.6f}&window-width={width:.6f}"
        return self._draw_rendered(instance, source, frame, options, window)

    def _draw_rendered(
        self, instance: str, source: Source, frame: Frame, options: RenderOptions, window: str
    ) -> Drawing | None:
        width, height, box = fitted(source.rows, source.columns, frame.aspect, options.size)
        path = f"/instances/{instance}{frame.path}/rendered"
        longest = max(source.rows, source.columns)
        is_strip = min(source.rows, source.columns) * options.size < longest  # of which Orthanc would leave nothing
        is_plain = abs(math.log(frame.aspect)) <= 0.01 and not is_strip
        if is_plain and (longest <= options.size or not self._has_pillow):
            side = options.size
            path = f"{path}?width={side}&height={side}&quality={options.quality or 85}{window}"
            _, content = self._loopback.request_raw("GET", path, headers={"Accept": options.mime})
            return Drawing(content) if content.startswith((b"\xff\xd8\xff", b"\x89PNG")) else None
        box = max(box, min(AVERAGED * options.size, longest))
        path = f"{path}?width={box}&height={box}{window}"
        _, content = self._loopback.request_raw("GET", path, headers={"Accept": PAM})
        return self._with_pillow(lambda: resized(image_of_pam(content), width, height, options))

    def _own_range(self, instance: str, frame: Frame, greys: Greys) -> tuple[float, float]:
        _, content = self._loopback.request_raw("GET", f"/instances/{instance}{frame.path}/numpy?rescale=false")
        return own_range(values_of_npy(content) or (), greys.padding)

    def _draw_values(
        self, instance: str, source: Source, frame: Frame, greys: Greys, options: RenderOptions
    ) -> Drawing | None:
        """Return a picture of what Orthanc can't render: values of more than 16 bits, and those in a range below 1."""
        data, form = self._values(instance, source, frame, greys)
        image = image_of_values(data, source.rows, source.columns, form)
        if image is None:
            return None
        low, high = greys.window or own_range(samples(image, MAX_SAMPLES), greys.padding)
        if greys.slope < 0:
            low, high = high, low
        width, height, _ = fitted(source.rows, source.columns, frame.aspect, options.size)
        return resized(shown(image, low, high, greys.is_inverted), width, height, options)

    def _values(self, instance: str, source: Source, frame: Frame, greys: Greys) -> tuple[bytes, str]:
        path = f"/instances/{instance}"
        if greys.form in FLOATS.values():
            values = source.rows * source.columns * (4 if greys.form == FLOATS["FloatPixelData"] else 8)
            tag = "7fe0-0008" if greys.form == FLOATS["FloatPixelData"] else "7fe0-0009"
            _, content = self._loopback.request_raw("GET", f"{path}/content/{tag}")
            start = (frame.number or 0) * values
            return content[start : start + values], greys.form
        if not greys.form:
            _, content = self._loopback.request_raw("GET", f"{path}{frame.path}/numpy?rescale=false")
            return array.array("f", values_of_npy(content) or ()).tobytes(), "F;32F"
        syntax = self._syntax(instance)
        _, content = self._loopback.request_raw("GET", f"{path}/frames/{frame.number or 0}/raw")
        return native_frame(content, syntax, greys.form)

    def _log_undecodable(self, instance: str) -> None:
        self.forget(instance)
        syntax = self._syntax(instance)
        if syntax not in self._undecodable:
            self._undecodable.add(syntax)
            orthanc.LogWarning(
                f"series_thumbnail: Orthanc can't decode instance {instance}, transfer syntax {syntax}: an icon is shown. "
                "This is said once for each transfer syntax; a plugin that decodes it (orthanc-gdcm) may help"
            )

    def _syntax(self, instance: str) -> str:
        """Return the transfer syntax; one that Orthanc does not know is in the header of the file only."""
        path = f"/instances/{instance}"
        try:
            return one_line(self._loopback.request("GET", f"{path}/metadata/TransferSyntax").decode())
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._loopback.get(path)  # raises if there is no such instance
        try:
            return one_line(self._loopback.get(f"{path}/header")["0002,0010"]["Value"])
        except (LoopbackError, KeyError):
            return "unknown"

    def _with_pillow(self, draw: Callable[..., Drawn], *arguments: Any) -> Drawn:
        try:
            return draw(*arguments)
        except ImportError as error:
            raise Refused(
                503,
                f"series_thumbnail can't draw this picture ({error}): {package_problem('pillow', '9.4', None, 'python3-pil')}",
            ) from None
