# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/named.py: edit that, never this file.
"""The brokers of the section, each with its name: what waits for one is bound to that."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from typing import Any

from ._common.routes import one_line
from ._common.settings import S, SettingsError, key_of, read_settings, removed_keys, wrong_keys

from .broker_settings import CONFIGS, RETURNING, TYPES, BrokerSettings, FileConfig
from .settings import SECTION, Settings

BROKER = "broker"  # the name of `Broker`, whatever its type, unless it has one
SECRET_OPTIONS = re.compile(r"password|secret|pem|\.config", re.IGNORECASE)  # of librdkafka
BUILTIN = "file"  # of what is used where no broker is configured


@dataclasses.dataclass(frozen=True)
class Named:
    """One broker: its settings, those of its type, or the `complaint` that puts it off.

    `named` : False of the file that is used where nobody configured a broker. `bound` : False where the name can't be one:
    nothing waits for it. `former` : what the first version called it, if that was something else.
    """

    name: str
    settings: BrokerSettings = dataclasses.field(default_factory=BrokerSettings)
    config: Any = None
    complaint: str = ""
    named: bool = True
    bound: bool = True
    former: str = ""


def read_brokers(settings: Settings) -> list[Named]:
    """Return each broker of the section; one that is wrong puts only itself off, and keeps its place."""
    found = list[Named]()
    if settings.broker is not None:
        found.append(_named_broker(settings.broker))
    for name, content in settings.brokers.items():
        found.append(_one_of_brokers(name, content))
    if not found:
        return [Named(BUILTIN, BrokerSettings("file"), FileConfig(), named=False)]
    names = [each.name for each in found]
    twice = f"{SECTION}: two brokers are named"
    return [
        dataclasses.replace(each, complaint=f"{twice} {each.name}, allowed: a name of its own for each (Broker.Name)")
        if each.name in names[:place] + names[place + 1 :]
        else each
        for place, each in enumerate(found)
        if each.name not in names[:place]
    ]


def _named_broker(content: Any) -> Named:
    path, given, kind = f"{SECTION}.Broker", None, None
    if isinstance(content, dict):
        given, kind = content.get("Name"), content.get("Type")
    name = BROKER if given is None else given
    former = kind if kind in TYPES else BROKER
    if complaint := _complaint_of_name(name):
        return Named(path, complaint=f"{path}.Name: {complaint}", bound=False)
    return _read_named(path, name, content, former)


def _one_of_brokers(name: str, content: Any) -> Named:
    if complaint := _complaint_of_name(name):
        return Named(f"{SECTION}.Brokers.{_shown_name(name)}", complaint=f"{SECTION}.Brokers: {complaint}", bound=False)
    path = f"{SECTION}.Brokers.{name}"
    if isinstance(content, dict) and "Name" in content:
        return Named(name, complaint=f"{path}.Name: found one, allowed: none, its name is its key in Brokers")
    return _read_named(path, name, content)


def _complaint_of_name(name: Any) -> str | None:
    fits = isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() and one_line(name) == name
    fits = fits and not _is_url(name)
    allowed = "a text of one line, at most 200 characters, and no URL with a user"
    return None if fits else f"found the name {_shown_name(name)}, allowed: {allowed}"


def _is_url(name: str) -> bool:
    """Return whether a name is a URL in the wrong place, with a password perhaps: names are shown everywhere."""
    return "://" in name and "@" in name


def _shown_name(name: Any) -> str:
    if isinstance(name, str) and _is_url(name):
        return "(a value that is not shown here)"
    return json.dumps(name if isinstance(name, str) and len(name) <= 200 else type(name).__name__)


def _read_named(path: str, name: str, content: Any, former: str = "") -> Named:
    try:
        return Named(name, *_read_broker(path, content), former=former)
    except SettingsError as error:
        kind = content.get("Type") if isinstance(content, dict) else None
        return Named(name, BrokerSettings(kind if kind in TYPES else ""), complaint=str(error), former=former)


def _read_broker(path: str, content: Any) -> tuple[BrokerSettings, Any]:
    keys = [key for key, _ in CONFIGS.values()]
    known = [*map(key_of, dataclasses.fields(BrokerSettings)), *keys]
    if isinstance(content, dict) and (complaint := wrong_keys(path, content, known, removed_keys(BrokerSettings))):
        raise SettingsError(complaint)
    if not isinstance(content, dict) or "Type" not in content:
        raise SettingsError(f"{path}.Type: not there, allowed: one of {', '.join(TYPES)}")
    general = _read(BrokerSettings, path, {key: value for key, value in content.items() if key not in keys})
    key, cls = CONFIGS[general.type]
    if others := sorted(content.keys() & set(keys) - {key}):
        raise SettingsError(f"{path}: found {others[0]}, allowed: {key}, for its Type is {general.type}")
    if general.type not in RETURNING and (others := sorted(content.keys() & {"Unroutable", "UnroutableGraceSeconds"})):
        raise SettingsError(f"{path}: found {others[0]}, allowed: only with Type {', '.join(RETURNING)}")
    if not isinstance(content.get(key, {}), dict):  # it may be a secret: not shown
        raise SettingsError(f"{path}.{key}: allowed: an object of keys and values")
    config = _read(cls, f"{path}.{key}", content.get(key, {}))
    for field in dataclasses.fields(cls):
        # What has no useful default has to be there.
        value = getattr(config, field.name)
        if field.default == "" and value == "" and "check" in field.metadata:
            name = field.metadata.get("key") or "".join(word.capitalize() for word in field.name.split("_"))
            raise SettingsError(f"{path}.{key}.{name}: not there, allowed: {field.metadata['check']('')}")
    return general, config


def _read(cls: type[S], path: str, content: Any) -> S:
    return read_settings(cls, path, {path: content})


def secrets_of(named: Named) -> list[str]:
    """Return what must not be shown, should an error quote it: passwords of URLs, and whole secrets."""
    config = named.config
    urls = [getattr(config, "url", ""), *getattr(config, "more_urls", ()), getattr(config, "proxy", None) or ""]
    addresses = [urllib.parse.urlsplit(url) for url in urls if url]
    passwords = [each.password or each.username or "" for each in addresses]  # alone, a user is a token of NATS
    others = [getattr(config, "secret", ""), *map(str, getattr(config, "headers", {}).values())]
    options = [str(value) for key, value in getattr(config, "options", {}).items() if SECRET_OPTIONS.search(key)]
    return [*urls, *passwords, *map(urllib.parse.unquote, passwords), *others, *options]
