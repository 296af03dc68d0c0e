# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures in memory."""

from __future__ import annotations

import collections
import math
import threading

from .options import RenderOptions
from .pictures import Picture, RequestKey

PICTURE_OVERHEAD_BYTES = 2000  # of memory that a picture takes besides its content
MAX_REQUEST_KEYS = 8  # ways to ask for one picture that are recognised at once


class Cache:
    """Pictures in memory, by resource and options, at most `max_bytes`; the least used are dropped first."""

    def __init__(self, max_bytes: float) -> None:
        self._max_bytes, self.bytes, self.pictures = max_bytes, 0, 0
        self._entries: collections.OrderedDict[str, dict[RenderOptions, Picture]] = collections.OrderedDict()
        self.answers: dict[RequestKey, Picture] = {}  # what was asked before, in the same words
        self._lock = threading.Lock()

    def get(self, resource: str, options: RenderOptions) -> Picture | None:
        """Return a picture, if it is in memory."""
        found = self._entries.get(resource)  # without the lock: one look-up of a dict is safe
        return found.get(options) if found else None

    def put(self, resource: str, options: RenderOptions, picture: Picture) -> None:
        """Add or replace it; or only mark it as used."""
        with self._lock:
            pictures = self._entries.setdefault(resource, {})
            self._entries.move_to_end(resource)
            if options in pictures and pictures[options] is not picture:
                self._retire(pictures[options])
            elif options in pictures:
                self._count(picture, -1)
            pictures[options] = picture
            self._count(picture, 1)
            while self.bytes > self._max_bytes and self._entries:
                self._forget(next(iter(self._entries)))

    def learn(self, request_key: RequestKey, resource: str, options: RenderOptions, picture: Picture) -> None:
        """Remember which picture answers this request, as long as it is here."""
        with self._lock:
            known = self._entries.get(resource, {}).get(options) is picture and request_key not in picture.request_keys
            if known and len(picture.request_keys) < MAX_REQUEST_KEYS:
                picture.request_keys.append(request_key)
                self.answers[request_key] = picture

    def drop(self, resource: str) -> None:
        """Forget the pictures of a resource."""
        with self._lock:
            self._forget(resource)

    def _forget(self, resource: str) -> None:
        for picture in self._entries.pop(resource, {}).values():
            self._retire(picture)

    def _retire(self, picture: Picture) -> None:
        self._count(picture, -1)
        picture.checked, picture.archive = -math.inf, None
        for request_key in picture.request_keys:
            self.answers.pop(request_key, None)

    def _count(self, picture: Picture, sign: int) -> None:
        self.bytes += sign * (len(picture.content) + PICTURE_OVERHEAD_BYTES)
        self.pictures += sign
