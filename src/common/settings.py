# SPDX-License-Identifier: AGPL-3.0-or-later
"""One section of Orthanc's configuration, read into a frozen dataclass."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

S = TypeVar("S")

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class SettingsError(ValueError):
    """A value that a section can't have; the text names section, key, what was found and what is allowed."""


def not_empty(values: Any) -> str | None:
    """A `check` of lists: an empty one means nothing, never everything, and where nothing makes no sense it is refused."""
    return None if values else "at least one entry (to set no condition, leave the key out)"


def key_of(field: dataclasses.Field[Any]) -> str:
    """The key of a field as a person writes it: `max_per_destination` is `MaxPerDestination`."""
    return str(field.metadata.get("key") or "".join(word.capitalize() for word in field.name.split("_")))


def read_settings(cls: type[S], section: str, configuration: Mapping[str, Any]) -> tuple[S, list[str]]:
    """Read the section of a configuration into `cls`.

    Parameters
    ----------
    cls : a dataclass whose fields all have defaults. `metadata` of a field may hold `key` (if the name is not the field's in
        CamelCase), `minimum` and `maximum` (of a number), `choices`, `check` (a function that returns what is allowed, or
        nothing if the value is fine) and `secret` (the value is never shown).
    section : the section's name; dots lead into nested objects.
    configuration : what `orthanc.GetConfiguration()` holds, decoded.

    Returns
    -------
    The settings, and a warning for each key that is not known. A section that is not there gives the defaults.

    Raises
    ------
    SettingsError : a value is of the wrong type or not allowed.
    """
    warnings: list[str] = []
    found = configuration.get(section)
    return (cls() if found is None else _read_object(cls, section, found, warnings)), warnings


def _read_object(cls: type[S], path: str, found: Any, warnings: list[str]) -> S:
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: found {_as_text(found)}, allowed: an object of keys and values")
    fields = {key_of(field): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in found.keys() - fields.keys():
        near = difflib.get_close_matches(key, fields, 1, 0.5)
        known = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
        warnings.append(f"{path}.{_printable(key)} is not a known key and is ignored; {known}")
    hints = typing.get_type_hints(cls)
    values = {
        field.name: _read_value(hints[field.name], field.metadata, f"{path}.{key}", found[key], warnings)
        for key, field in fields.items()
        if key in found
    }
    return cls(**values)


def _read_value(hint: Any, limits: Mapping[str, Any], path: str, found: Any, warnings: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if found is None and type(None) in arguments:
            return None
        hint = next(argument for argument in arguments if argument is not type(None))
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _read_object(typing.cast("type[Any]", hint), path, found, warnings)
    if origin in (list, tuple):
        if not isinstance(found, list):
            raise SettingsError(f"{path}: found {_as_text(found, limits)}, allowed: a list")
        shown = {"secret": limits.get("secret")}
        value: Any = [_read_value(arguments[0], shown, f"{path}[{i}]", item, warnings) for i, item in enumerate(found)]
        value, fits, allowed = tuple(value) if origin is tuple else value, True, ""
    elif hint is Any:
        value, fits, allowed = found, True, ""
    elif origin is dict:
        value, fits, allowed = found, isinstance(found, dict), "an object of keys and values"
        if fits and dataclasses.is_dataclass(arguments[1]):
            paths = {key: f"{path}.{_printable(key)}" for key in found}
            value = {key: _read_value(arguments[1], {}, paths[key], each, warnings) for key, each in found.items()}
    else:
        # JSON has one kind of number, and true is no number although Python says so.
        fits = isinstance(found, (int, float) if hint is float else hint) and (hint is bool) == isinstance(found, bool)
        value, allowed = (float(found) if fits and hint is float else found), KINDS[hint]
    if fits and "choices" in limits:
        fits, allowed = value in limits["choices"], "one of " + ", ".join(map(json.dumps, limits["choices"]))
    if "minimum" in limits:
        fits, allowed = fits and value >= limits["minimum"], f"{allowed}, at least {limits['minimum']}"
    if "maximum" in limits:
        fits, allowed = fits and value <= limits["maximum"], f"{allowed}, at most {limits['maximum']}"
    if fits and "check" in limits and (complaint := limits["check"](value)):
        fits, allowed = False, complaint
    if not fits:
        raise SettingsError(f"{path}: found {_as_text(found, limits)}, allowed: {allowed}")
    return value


def _printable(key: str) -> str:
    """A key as it may stand in a line of the log."""
    return key if key.isprintable() else json.dumps(key)[1:-1]


def _as_text(found: Any, limits: Mapping[str, Any] | None = None) -> str:
    if limits and limits.get("secret"):
        return "a value that is not shown here"
    text = json.dumps(found)
    if "://" in text and "@" in text:  # the wrong place for a URL with a password
        return "a value that is not shown here"
    return text if len(text) <= 60 else text[:57] + "..."
