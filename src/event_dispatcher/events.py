# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events, and what a handler is."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[Any, Any], Any]  # gets an event and a session; plain, or a coroutine function


class Name(int):
    """A value of one of Orthanc's enumerations: equal to its number, printed as its name."""

    def __new__(cls, value: int, name: str) -> Name:
        made = super().__new__(cls, value)
        made.name = name
        return made

    name: str

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


@dataclasses.dataclass(frozen=True, slots=True)
class ChangeEvent:
    """What happened (`orthanc.ChangeType`), to what (`orthanc.ResourceType`, Orthanc's identifier; empty where to none)."""

    change_type: int
    resource_type: int = 4  # orthanc.ResourceType.NONE
    resource_id: str = ""


def pipeline(*steps: Handler) -> Handler:
    """Return one handler of several: each gets what the one before returned, the first the event; all get the session.

    With a coroutine among them the whole is one, on the event loop, where no step may block.
    """

    def run(value: Any, session: Any) -> Any:
        for step in steps:
            value = step(value, session)
        return value

    async def run_on_loop(value: Any, session: Any) -> Any:
        for step in steps:
            value = step(value, session)
            if inspect.isawaitable(value):
                value = await value
        return value

    for step in steps:
        check_handler(step)
    whole: Handler = run_on_loop if any(map(is_coroutine, steps)) else run
    whole.__qualname__ = f"pipeline({', '.join(map(name_of, steps))})"
    return whole


def is_coroutine(handler: Handler) -> bool:
    function = _without_arguments(handler)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _without_arguments(handler: Handler) -> Handler:
    """Return what a `functools.partial` calls, which may be an object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


def check_handler(handler: Any) -> None:
    """Raise ValueError for what can't be a handler: what nobody can call, and what does nothing when it is called."""
    if not callable(handler):
        raise ValueError(f"handlers: found {handler!r}, allowed: a function or a coroutine function")
    function = _without_arguments(handler)
    both = (function, type(function).__call__)
    if any(map(inspect.isgeneratorfunction, both)) or any(map(inspect.isasyncgenfunction, both)):
        raise ValueError(
            f"handlers: found {name_of(handler)}, a generator function (it has a yield), which runs nothing when it is called;"
            " allowed: a function or a coroutine function"
        )


def name_of(handler: Handler) -> str:
    """Return how logs, and the rows of `at_least_once`, call a handler."""
    if isinstance(handler, functools.partial):
        return name_of(handler.func)
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))


def names_of(enumeration: Any) -> dict[int, Name]:
    """Return the names of `orthanc.ChangeType` or `orthanc.ResourceType`, by value."""
    return {value: Name(value, name) for name, value in vars(enumeration).items() if isinstance(value, int)}
