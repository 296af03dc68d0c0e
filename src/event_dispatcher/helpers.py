# SPDX-License-Identifier: AGPL-3.0-or-later
"""Helpers: handlers themselves, hence steps of a pipeline. With the session of a coroutine, await them."""

from __future__ import annotations

import functools
import http.client
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import httpx

from common.feed import PLURALS
from event_dispatcher.events import ChangeEvent

Asking: TypeAlias = Generator[str, httpx.Response, Any]  # yields paths, is sent the answers, returns its result


def for_both_sessions(ask: Callable[..., Asking]) -> Callable[..., Any]:
    """Make a helper of a generator: a plain function with a plain session, a coroutine with an asynchronous one."""

    @functools.wraps(ask)
    def helper(event: Any, session: Any, *arguments: Any) -> Any:
        asking = ask(event, *arguments)
        return _answer_later(asking, session) if isinstance(session, httpx.AsyncClient) else _answer(asking, session)

    return helper


def _answer(asking: Asking, session: Any) -> Any:
    try:
        path = next(asking)
        while True:
            path = asking.send(session.get(path))
    except StopIteration as end:
        return end.value


async def _answer_later(asking: Asking, session: Any) -> Any:
    try:
        path = next(asking)
        while True:
            path = asking.send(await session.get(path))
    except StopIteration as end:
        return end.value


@for_both_sessions
def first_instance(event: Any) -> Asking:
    """Orthanc's identifier of the first instance (as Orthanc lists them) of the series of an event, or of an identifier."""
    series = (yield f"/series/{_identifier(event)}").raise_for_status().json()
    return series["Instances"][0]


@for_both_sessions
def first_instance_metadata(event: Any, name: str) -> Asking:
    """A metadata, as `RemoteAET`, of the first instance of a series; None if it has none."""
    series = (yield f"/series/{_identifier(event)}").raise_for_status().json()
    found = yield f"/instances/{series['Instances'][0]}/metadata/{name}"
    return None if found.status_code == http.HTTPStatus.NOT_FOUND else found.raise_for_status().text


@for_both_sessions
def first_instance_tags(event: Any) -> Asking:
    """The tags of the first instance of a series, by keyword, as Orthanc's `simplified-tags`."""
    series = (yield f"/series/{_identifier(event)}").raise_for_status().json()
    tags = yield f"/instances/{series['Instances'][0]}/simplified-tags"
    return tags.raise_for_status().json()


@for_both_sessions
def parents(event: ChangeEvent) -> Asking:
    """Orthanc's identifiers of what an event is about and of all above it: `{"Series": …, "Study": …, "Patient": …}`."""
    levels = ("Patient", "Study", "Series", "Instance")
    found, identifier = {}, event.resource_id
    for level in reversed(levels[: event.resource_type + 1]):
        found[level] = identifier
        if level != "Patient":
            above = levels[levels.index(level) - 1]
            resource = (yield f"/{PLURALS.get(level, 'instances')}/{identifier}").raise_for_status().json()
            identifier = resource[f"Parent{above}"]
    return found


def _identifier(event: Any) -> str:
    return str(getattr(event, "resource_id", event))
