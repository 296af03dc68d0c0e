# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of the script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.identifiers import is_orthanc_identifier
from common.loopback import LoopbackError
from common.parameters import takes
from common.route_list import answers
from common.routes import Answer, Refused, Request, one_line

from .archive import Archive
from .cache import Cache
from .drawing import PICTURE_TIMEOUT_SECONDS, DrawingPool
from .options import PARAMETERS, RenderOptions, wanted
from .pictures import Picture, is_known
from .renderer import Renderer
from .settings import JPEG, PNG, Settings


class Routes:
    """Answers with pictures, most of them from memory."""

    def __init__(
        self, settings: Settings, pool: DrawingPool, cache: Cache, archive: Archive, renderer: Renderer
    ) -> None:
        self._settings, self._pool, self._cache = settings, pool, cache
        self._archive, self._renderer = archive, renderer
        self._answered = self._icons = 0  # since the start

    @takes(PARAMETERS)
    @answers(200, 304, 406, media=(JPEG, PNG))
    def of_series(self, request: Request) -> Answer:
        """The middle image of a series, else an icon; `?size=`, `?format=jpeg` or `png`, `?quality=`, `?icon=false`."""
        return self._answer("series", request)

    @takes(PARAMETERS)
    @answers(200, 304, 406, media=(JPEG, PNG))
    def of_study(self, request: Request) -> Answer:
        """The middle image of a study's first series of images, else an icon; parameters as for a series."""
        return self._answer("studies", request)

    @takes(PARAMETERS)
    @answers(200, 304, 406, media=(JPEG, PNG))
    def of_instance(self, request: Request) -> Answer:
        """One instance, of several frames the middle one, else an icon; parameters as for a series."""
        return self._answer("instances", request)

    def status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, how many pictures are in memory, were drawn since the start, are waited for, and wait to be kept."""
        return {
            "InMemory": {"Pictures": self._cache.pictures, "Bytes": self._cache.bytes},
            "Drawn": self._renderer.drawn,
            "Waiting": self._pool.waiting,
            "Background": len(self._pool.background),
        }

    def measure(self) -> dict[str, float]:
        """Return its metrics."""
        return {
            "answered": self._answered,
            "icons": self._icons,
            "drawn": self._renderer.drawn,
            "waiting": self._pool.waiting,
            "background": len(self._pool.background),
            "memory_bytes": self._cache.bytes,
        }

    def _count(self, picture: Picture) -> None:
        self._answered += 1
        self._icons += picture.is_icon

    def answer_from_cache(self, output: Any, uri: str, raw: Mapping[str, Any]) -> bool:
        """Answer what was asked before, in the same words: most requests, in a fifth of the time; return whether it could."""
        if raw["method"] != "GET":
            return False
        headers = raw["headers"]
        picture = self._cache.answers.get((uri, headers.get("accept"), tuple(raw["get"].items())))
        if picture is None or not self._archive.is_believed(picture):
            return False
        self._count(picture)
        output.SetHttpHeader("ETag", picture.etag)
        output.SetHttpHeader("Cache-Control", "private, no-cache")
        if is_known(picture, headers.get("if-none-match")):
            output.SendHttpStatusCode(304)
        else:
            output.AnswerBuffer(picture.content, picture.mime)
        return True

    def _answer(self, level: str, request: Request) -> Answer:
        options, icon_will_do = wanted(
            tuple(request.parameters.items()), request.headers.get("accept", "*/*"), self._settings
        )
        picture = self._picture(level, request.groups[0], options)
        if picture.is_icon and not icon_will_do:
            raise Refused(404, "There is no image to draw, only an icon; icon=false refuses icons")
        self._count(picture)
        # What the same words get from now on; not where icon=false has decided.
        if icon_will_do:
            request_key = request.uri, request.headers.get("accept"), tuple(request.query.items())
            self._cache.learn(request_key, request.groups[0], options, picture)
        # Each use asks whether it is still right, and every format has an ETag of its own: Vary would add nothing.
        headers = {"ETag": picture.etag, "Cache-Control": "private, no-cache"}
        if is_known(picture, request.headers.get("if-none-match")):
            return Answer(b"", 304, headers=headers)
        return Answer(picture.content, mime=picture.mime, headers=headers)

    def _picture(self, level: str, resource: str, options: RenderOptions) -> Picture:
        picture = self._cache.get(resource, options)
        if picture is not None and self._archive.is_believed(picture):
            return picture
        if not is_orthanc_identifier(resource):
            raise Refused(404, f"There is no {one_line(resource)[:60]!r} among the {level}")
        try:
            return self._pool.get(level, resource, options)
        except LoopbackError as error:
            if error.status in (400, 404):  # 400 of 1.10.1: it is here at another level
                raise Refused(404, f"There is no {resource!r} among the {level}") from None
            raise Refused(503, f"Orthanc could not give what the picture is made of: {one_line(error)}") from None
        except TimeoutError:
            raise Refused(503, f"The picture took longer than {PICTURE_TIMEOUT_SECONDS:.0f} s; try again") from None
