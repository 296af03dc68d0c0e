# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail without a server: pictures in memory have a bound, and none is given that was replaced."""

from __future__ import annotations

import math
from typing import Any

import pytest

OVERHEAD = 2000


class Pictures:
    """A cache with room for so many pictures of 1000 bytes."""

    def __init__(self, source: Any, room: int) -> None:
        self._pictures, options = source("series_thumbnail.pictures"), source("series_thumbnail.options")
        self.small, self.large = (options.RenderOptions(size, "image/png", 0) for size in (64, 128))
        self.cache = source("series_thumbnail.cache").Cache(room * (1000 + OVERHEAD))

    def picture(self) -> Any:
        found = self._pictures.Picture.__new__(self._pictures.Picture)
        found.content, found.request_keys, found.checked, found.archive = bytes(1000), [], 5.0, object()
        return found

    def put(self, name: str, options: Any = None) -> Any:
        picture = self.picture()
        self.cache.put(name, options or self.small, picture)
        return picture


@pytest.fixture
def pictures(source: Any) -> Pictures:
    return Pictures(source, 3)


def test_the_least_used_are_dropped_first_when_there_is_no_room(pictures: Pictures) -> None:
    first, second, third = (pictures.put(name) for name in "abc")
    pictures.cache.put("a", pictures.small, first)  # used again
    assert (pictures.cache.pictures, pictures.cache.bytes) == (3, 9000)
    pictures.put("d")
    kept = {name: pictures.cache.get(name, pictures.small) for name in "abc"}
    assert kept == {"a": first, "b": None, "c": third}
    assert second.checked == -math.inf
    assert (pictures.cache.pictures, pictures.cache.bytes) == (3, 9000)


def test_a_picture_that_was_replaced_or_dropped_is_believed_by_nobody(pictures: Pictures) -> None:
    old, new = pictures.put("a"), pictures.put("a")
    assert (old.checked, old.archive) == (-math.inf, None)
    assert pictures.cache.get("a", pictures.small) is new
    assert (pictures.cache.pictures, pictures.cache.bytes) == (1, 3000)
    pictures.cache.drop("a")
    assert (new.checked, new.archive) == (-math.inf, None)
    assert pictures.cache.get("a", pictures.small) is None
    assert (pictures.cache.pictures, pictures.cache.bytes) == (0, 0)


def test_a_request_is_answered_at_once_only_by_the_picture_that_is_there_now(pictures: Pictures) -> None:
    cache, old = pictures.cache, pictures.put("a")
    cache.learn(("uri", None, ()), "a", pictures.small, old)
    assert cache.answers == {("uri", None, ()): old}
    new = pictures.put("a")
    assert cache.answers == {}
    cache.learn(("another", None, ()), "a", pictures.small, old)  # it was replaced meanwhile
    assert cache.answers == {}
    for number in range(20):
        cache.learn((f"uri{number}", None, ()), "a", pictures.small, new)
    assert len(cache.answers) == 8
    cache.drop("a")
    assert cache.answers == {}
