# SPDX-License-Identifier: AGPL-3.0-or-later
"""event_dispatcher.py without a server: handlers that would run nothing, or that end what all share."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import event_dispatcher
from event_dispatcher import register_event_handlers
from testing.standin import OrthancApiHandler

orthanc = OrthancApiHandler()
NEW_STUDY, STABLE_STUDY, STUDY = (
    orthanc.ChangeType.NEW_STUDY,
    orthanc.ChangeType.STABLE_STUDY,
    orthanc.ResourceType.STUDY,
)


@pytest.fixture(autouse=True)
def as_if_just_loaded() -> None:
    event_dispatcher.SDK.open()  # type: ignore[attr-defined]  # a test before this one has stopped its Orthanc


class Yields:
    def __call__(self, *_: Any) -> Iterator[int]:
        yield 1


class YieldsLater:
    async def __call__(self, *_: Any) -> AsyncIterator[int]:
        yield 1


class Waits:
    async def __call__(self, *_: Any) -> str:
        await asyncio.sleep(0)
        return "waited"


@pytest.mark.parametrize("wrong", [Yields(), YieldsLater()])
def test_a_partial_of_an_object_that_would_generate_is_refused_when_it_is_registered(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"handlers: found \w+, a generator function"):
        register_event_handlers({NEW_STUDY: functools.partial(wrong, 1)}, orthanc)


def test_a_partial_of_an_object_that_is_a_coroutine_runs_on_the_loop() -> None:
    register_event_handlers({NEW_STUDY: functools.partial(Waits(), 1)}, orthanc, None, "any")
    assert orthanc.on_change(NEW_STUDY, STUDY, "1") == ["waited"]


async def returns_a_coroutine(*_: Any) -> Any:
    return asyncio.sleep(0)


async def returns_a_generator(*_: Any) -> Any:
    return Yields()()


async def returns_an_asynchronous_generator(*_: Any) -> Any:
    return YieldsLater()()


@pytest.mark.parametrize("wrong", [returns_a_coroutine, returns_a_generator, returns_an_asynchronous_generator])
def test_a_coroutine_that_returns_what_nobody_runs_has_failed(wrong: Any) -> None:
    register_event_handlers({NEW_STUDY: wrong}, orthanc, None, "any")
    (error,) = orthanc.on_change(NEW_STUDY, STUDY, "1")
    assert "which nobody runs" in str(error)


async def exits(*_: Any) -> None:
    class Silent(SystemExit):
        def __repr__(self) -> str:
            raise ValueError("no text")

    async def leave() -> None:
        raise Silent

    await asyncio.wait([asyncio.ensure_future(leave())])


def test_a_loop_that_ends_with_what_has_no_text_begins_again() -> None:
    async def runs(*_: Any) -> str:
        return "ran"

    register_event_handlers({NEW_STUDY: exits, STABLE_STUDY: runs}, orthanc, None, "any")
    orthanc.on_change(NEW_STUDY, STUDY, "1")
    assert orthanc.on_change(STABLE_STUDY, STUDY, "1") == ["ran"]
