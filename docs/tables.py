# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of docs/: keys from a script's `Settings`, routes from what it registers. cog runs it (`make build`)."""

import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.route_list import listed
from common.settings import KINDS, key_of
from testing.standin import StandIn

ROOT = Path(__file__).parent.parent


def keys(script: str, section: str = "Settings") -> None:
    """Write the table of the keys of a script's section, nested ones by their path; or those of another dataclass of it."""
    with _loaded(script) as module:
        _out("| Key | Default | Allowed | Meaning |", "|---|---|---|---|", *_rows(getattr(module, section), ""))


def routes(script: str) -> None:
    """Write the table of the routes of a script: method, path, parameters, and the first line of the handler's docstring."""
    lines = []
    with _loaded(script) as module:
        for route in listed(module.ROUTES):
            taken = ", ".join(f"`{name}`" for name in route["Parameters"])
            lines.append(f"| `{route['Method']} {route['Path']}` | {taken} | {route['Does']} |")
    _out("| Route | Parameters | What it does |", "|---|---|---|", *lines)


@contextlib.contextmanager
def _loaded(script: str) -> Iterator[types.ModuleType]:
    """Load a script on a stand-in, which is there as long as it is looked at: types are looked up in modules, by name."""
    standin = StandIn("7.1")
    with standin.installed():
        yield standin.load(ROOT / script)


def _rows(settings: Any, path: str) -> Iterator[str]:
    hints = typing.get_type_hints(settings)
    defaults = settings()
    for field in dataclasses.fields(settings):
        hint, key, meaning = hints[field.name], f"{path}{key_of(field)}", field.metadata.get("help", "")
        if dataclasses.is_dataclass(hint):
            yield f"| `{key}` | | an object | {meaning} |"
            yield from _rows(hint, f"{key}.")
            continue
        default, check = getattr(defaults, field.name), field.metadata.get("check")
        # A list or object that may not be empty has no default that can be written.
        shown = (
            ""
            if isinstance(default, (tuple, dict)) and check and check(default)
            else f"`{json.dumps(default, default=list)}`"
        )
        yield f"| `{key}` | {shown} | {_allowed(hint, field.metadata)} | {meaning} |"


def _allowed(hint: Any, limits: typing.Mapping[str, Any]) -> str:
    arguments = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    optional = type(None) in typing.get_args(hint)
    if optional:
        hint = arguments[0]
    if "allowed" in limits:
        text = limits["allowed"]
    elif "choices" in limits:
        text = ", ".join(f"`{json.dumps(choice)}`" for choice in limits["choices"])
    elif typing.get_origin(hint) in (list, tuple):
        inner = typing.get_args(hint)[0]
        text = (
            "a list of objects" if dataclasses.is_dataclass(inner) else f"a list, each {KINDS.get(inner, 'an object')}"
        )
    else:
        text = KINDS.get(hint, "an object")
    for bound, word in (("minimum", "at least"), ("maximum", "at most")):
        text += f", {word} {limits[bound]}" if bound in limits else ""
    return f"{text}, or null" if optional else text


def _out(*lines: str) -> None:
    import cog

    cog.outl("\n".join(lines))
