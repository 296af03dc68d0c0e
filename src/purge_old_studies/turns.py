# SPDX-License-Identifier: AGPL-3.0-or-later
"""The interpreter left to others: what a purge computes holds no store up."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

TURN = 0.0001  # seconds that a thread may keep the interpreter when others want it
T = TypeVar("T")


def gently(items: Iterable[T]) -> Iterator[T]:
    """The same items, with the processor and the interpreter left to others now and then.

    Linux lets a thread that has just woken keep its processor for milliseconds, also from a request that waits for it.
    """
    for number, item in enumerate(items, 1):
        yield item
        os.sched_yield()
        if number % 50 == 0:
            time.sleep(0)  # before Python 3.12 the line above keeps the interpreter


def used_up(items: list[T]) -> Iterator[T]:
    """The items of a list, each forgotten before the next: freeing all at once would keep the interpreter from others."""
    items.reverse()
    while items:
        yield items.pop()


def each_of(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array: decoding all at once would keep the interpreter from others for milliseconds."""
    text, decoder, at = content.decode(), json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        found, at = decoder.raw_decode(text, at)
        yield found


@contextlib.contextmanager
def in_short_turns() -> Iterator[None]:
    """Python's threads take turns fifty times as often: the routes of others wait less for what is computed here."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
