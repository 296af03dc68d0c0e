# SPDX-License-Identifier: AGPL-3.0-or-later
"""Helpers: handlers themselves, hence steps of a pipeline. With the session of a coroutine, await them."""

from __future__ import annotations

import functools
import http.client
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, overload

import httpx

from common.identifiers import PLURAL
from event_dispatcher.events import ChangeEvent

Subject = TypeVar("Subject", contravariant=True)  # an event, or an identifier
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Found = TypeVar("Found", covariant=True)
Asking: TypeAlias = Generator[str, httpx.Response, Result]  # yields paths, is sent the answers, returns its result


class Helper(Protocol[Subject, Arguments, Found]):
    """A plain function with a plain session, a coroutine function with an asynchronous one."""

    @overload
    def __call__(
        self, event: Subject, session: httpx.AsyncClient, *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Coroutine[Any, Any, Found]: ...

    @overload
    def __call__(
        self, event: Subject, session: Any, *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Found: ...


def for_both_sessions(
    ask: Callable[Concatenate[Subject, Arguments], Asking[Result]],
) -> Helper[Subject, Arguments, Result]:
    """Make a helper of a generator that yields paths of Orthanc's REST API and is sent the answers.

    @for_both_sessions
    def study_of(event: ChangeEvent) -> Asking[str]:
        series = yield f"/series/{event.resource_id}"
        series.raise_for_status()
        return series.json()["ParentStudy"]
    """

    @functools.wraps(ask)
    def helper(event: Subject, session: Any, *arguments: Arguments.args, **named: Arguments.kwargs) -> Any:
        asking = ask(event, *arguments, **named)
        return _answer_later(asking, session) if isinstance(session, httpx.AsyncClient) else _answer(asking, session)

    return helper


def _answer(asking: Asking[Any], session: Any) -> Any:
    try:
        path = next(asking)
        while True:
            path = asking.send(session.get(path))
    except StopIteration as end:
        return end.value


async def _answer_later(asking: Asking[Any], session: Any) -> Any:
    try:
        path = next(asking)
        while True:
            path = asking.send(await session.get(path))
    except StopIteration as end:
        return end.value


@for_both_sessions
def first_instance(event: ChangeEvent | str) -> Asking[str]:
    """Return Orthanc's identifier of the first instance (as Orthanc lists them) of a series, which `event` is, or is about.

    path = f"/instances/{first_instance(event, session)}/preview"
    """
    series = _checked((yield f"/series/{_identifier(event)}")).json()
    return str(series["Instances"][0])


@for_both_sessions
def first_instance_metadata(event: ChangeEvent | str, name: str) -> Asking[str | None]:
    """Return a metadata of the first instance of a series, None if it has none.

    if first_instance_metadata(event, session, "RemoteAET") == "CT1": ...
    """
    series = _checked((yield f"/series/{_identifier(event)}")).json()
    found = yield f"/instances/{series['Instances'][0]}/metadata/{name}"
    return None if found.status_code == http.HTTPStatus.NOT_FOUND else _checked(found).text


@for_both_sessions
def first_instance_tags(event: ChangeEvent | str) -> Asking[dict[str, Any]]:
    """Return the tags of the first instance of a series, by keyword, as Orthanc's `simplified-tags`.

    modality = first_instance_tags(event, session).get("Modality")
    """
    series = _checked((yield f"/series/{_identifier(event)}")).json()
    tags = yield f"/instances/{series['Instances'][0]}/simplified-tags"
    found: dict[str, Any] = _checked(tags).json()
    return found


@for_both_sessions
def parents(event: ChangeEvent) -> Asking[dict[str, str]]:
    """Return Orthanc's identifiers of what an event is about and of all above it, by level.

    study = parents(event, session)["Study"]  # of {"Series": "…", "Study": "…", "Patient": "…"}
    """
    levels = ("Patient", "Study", "Series", "Instance")
    found, identifier = {}, event.resource_id
    for level in reversed(levels[: event.resource_type + 1]):
        found[level] = identifier
        if level != "Patient":
            above = levels[levels.index(level) - 1]
            resource = _checked((yield f"/{PLURAL.get(level, 'instances')}/{identifier}")).json()
            identifier = resource[f"Parent{above}"]
    return found


def _checked(answer: httpx.Response) -> httpx.Response:
    answer.raise_for_status()  # which gives the answer back from httpx 0.25 on only
    return answer


def _identifier(event: ChangeEvent | str) -> str:
    return str(getattr(event, "resource_id", event))
