# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/route_list.py: edit that, never this file.
"""What a script's routes are, for people: in the answer of `GET /<script>`, and in the tables of docs/."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# The groups of the patterns of our routes, as a person writes them.
SHOWN_GROUPS = {
    "([0-9]+)": "{id}",
    "([^/]+)": "{id}",
    "([0-9a-f-]+)": "{id}",
    "(.+)": "{name}",
    "(.*)": "{…}",
}


def answers(*statuses: int, media: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Say what a handler answers besides what all do: for docs/openapi.json, against which its answers are tested.

    Parameters
    ----------
    statuses : its own; where one of them is below 300, 200 only if it is named.
    media : the types of what it returns, if that is not JSON alone.
    """

    def mark(handler: F) -> F:
        vars(handler)["statuses"], vars(handler)["media"] = statuses, media
        return handler

    return mark


def shown_path(pattern: str) -> str:
    """Return the pattern of a route as a path: `/auto-retries/jobs/{id}`."""
    for group, shown in SHOWN_GROUPS.items():
        pattern = pattern.replace(group, shown)
    return pattern


def listed(routes: Mapping[str, Mapping[str, Callable[..., Any]]]) -> list[dict[str, Any]]:
    """Return each route: method, path, the names of its parameters, and the first line of its handler's docstring."""
    return [
        {
            "Method": method,
            "Path": shown_path(pattern),
            "Parameters": [*getattr(handler, "parameters", {})],
            "Does": (handler.__doc__ or "").strip().partition("\n")[0],
        }
        for pattern, handlers in routes.items()
        for method, handler in handlers.items()
    ]
