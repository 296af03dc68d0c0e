# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/cmove_interceptor/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Notifies services of each C-MOVE that Orthanc receives, and does the move as Orthanc itself would have done.

Whoever listens to C-MOVE replaces Orthanc's own, so this script does both: notifications by HTTP (before or after the
move, waited for or delivered later, at least once), and the move, or none, or one of what is first fetched from elsewhere.

    "CMoveInterceptor": {"Notify": [{"Url": "https://ris.example/moves?study={StudyInstanceUID}&to={TargetAET}"}]}

Without the section each request is an entry in the log, and is moved. The routes:

    GET /cmove-interceptor/status
    GET /cmove-interceptor/requests                       recent ones, with what came of them
    DELETE /cmove-interceptor/services/{name}             what waits for a service that is not configured any more

To call services and peers it needs requests, 2.28 or newer: apt install python3-requests, or as docs/install.md says; else
nothing but Python's standard library. All keys: docs/cmove_interceptor.md.
"""

from __future__ import annotations

if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)

import base64
import collections
import contextlib
import dataclasses
import datetime
import difflib
import enum
import errno
import functools
import hashlib
import http
import http.client
import http.cookiejar
import importlib.metadata
import importlib.util
import ipaddress
import itertools
import json
import logging
import math
import os
import random
import re
import socket
import sqlite3
import ssl
import stat
import threading
import time
import traceback
import types
import typing
import urllib.parse
import urllib.request
import uuid
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, TypedDict, Unpack

import orthanc


# ---- src/common/own_requests.py: What scripts ask their own Orthanc for, told to those of a combined file that keep a record: filters are not shown it.


REPORT, LISTEN = (
    "report_request",
    "listen_to_requests",
)  # what the runtime of a combined file adds to a script's `orthanc`
ASKED_BY = "X-Asked-By"  # the header by which a script says for whom it sends a request


class OwnRequest(NamedTuple):
    """A request that a script is about to send.

    Attributes
    ----------
    path : with its query.
    resources : what a bulk request names.
    asked_by : who asked the script for it, as far as that is known.
    """

    method: str
    path: str
    resources: Sequence[str] = ()
    asked_by: Mapping[str, Any] = {}


def asked_by(who: Mapping[str, Any]) -> dict[str, str]:
    """Return the header that says who asked for a request; what is None is left out."""
    return {ASKED_BY: json.dumps({name: value for name, value in who.items() if value is not None})}


def report_request(method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
    """Tell who listens that this script is about to send a request to its own Orthanc."""
    if (report := getattr(orthanc, REPORT, None)) is None:
        return  # the script is alone
    resources = body.get("Resources", ()) if isinstance(body, Mapping) else ()
    report(tuple(OwnRequest(method, path, resources, json.loads((headers or {}).get(ASKED_BY, "{}")))))


def listen_to_requests(listener: Callable[[str, OwnRequest], None]) -> None:
    """Call a function with the name of each other script of a combined file, and what it asks Orthanc for: at once."""
    if (listen := getattr(orthanc, LISTEN, None)) is not None:
        listen(functools.partial(_hand_on, listener))  # each script has a class OwnRequest of its own


def _hand_on(listener: Callable[[str, OwnRequest], None], script: str, fields: tuple[Any, ...]) -> None:
    listener(script, OwnRequest(*fields))


# ---- src/common/pinned_tls.py: TLS to the one who has a certificate of which we have the file, whatever else that certificate says.


# Of several, the first is the server's own, as OpenSSL reads such a file; the others are of those who issued it.
CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----(.+?)-----END", re.DOTALL)


@functools.cache  # a file that is renewed while Orthanc runs is not the certificate that it shows
def pinned_tls(file: Path, *, is_shown: bool) -> ssl.SSLContext:
    """Return the context of a client that trusts a server which has the first certificate of a PEM file, and no other.

    Names, dates, issuers and extensions don't count: they say who may be trusted by somebody who has not the certificate
    itself, and each version of Python reads them with another strictness.

    Parameters
    ----------
    is_shown : whether the client also shows that certificate as its own; the file has its private key then.

    Raises
    ------
    OSError, ValueError : the file can't be read, or has no certificate or no key.
    """
    found = CERTIFICATE.search(file.read_bytes())
    if found is None:
        raise ValueError(f"{file} has no certificate")
    context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.pinned = base64.b64decode(found[1])
    if is_shown:
        context.load_cert_chain(file, password="")  # without one, OpenSSL would ask a person on the terminal
    return context


def _must_be_pinned(context: Any, certificate: bytes | None) -> None:
    if certificate != context.pinned:
        raise ssl.SSLCertVerificationError(1, "the server has another certificate than the one in SslCertificate")


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _must_be_pinned(self.context, self.getpeercert(binary_form=True))


class _PinnedObject(ssl.SSLObject):
    """TLS of coroutines."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _must_be_pinned(self.context, self.getpeercert(binary_form=True))


class _PinnedContext(ssl.SSLContext):
    sslsocket_class, sslobject_class = _PinnedSocket, _PinnedObject
    pinned: bytes


# ---- src/common/quirks.py: What a version of Orthanc, of its plugin or of Python needs and others don't: each with the version and the reason.


KEPT_ALIVE: list[Any] = []  # what Orthanc calls (`kept_alive`)
KeptT = TypeVar("KeptT", bound=Callable[..., Any])
# Whether values of a GET arrive percent-decoded depends on the web server that Orthanc was built with (Debian 12's and
# 13's hand them over raw, forky's decoded), not on a version that could be asked for. So a route asks itself, once.
PROBE = "arrives-decoded"  # a parameter that only we send
ARRIVAL: list[bool] = []  # whether they arrive decoded, when it is known


def kept_alive(callback: KeptT) -> KeptT:
    """Return what Orthanc is to call, and keep it as long as the process lives: 1.12.7 and later crash at shutdown otherwise.

    Register what this returns: a method is another object each time that it is named.
    """
    KEPT_ALIVE.append(callback)
    return callback


def import_for_small_stacks() -> None:
    """Import what http.client imports at its first connection, for which the stack of Orthanc's HTTP threads is too small.

    Python 3.14 needs more than the 100 KB of such a thread to import it.
    """
    import encodings.idna  # noqa: F401


def answer_probe(output: Any, query: Mapping[str, str | None]) -> bool:
    """Answer how the value of `PROBE` has arrived, if that is what a GET asks; return whether it was."""
    if query.keys() != {PROBE}:
        return False
    output.AnswerBuffer(b"A" if query[PROBE] == "A" else b"%41", "text/plain")
    return True


def values_arrive_decoded(uri: str, get: Callable[[str], Any]) -> bool:
    """Return whether values of a GET arrive percent-decoded; ask one of our routes with `get` if it is not known yet."""
    if not ARRIVAL:
        ARRIVAL.append(get(f"{urllib.parse.quote(uri)}?{PROBE}=%41") == b"A")
    return ARRIVAL[0]


def send_status(output: Any, status: int, body: str) -> None:
    """Send a status with a body of JSON: plugin 4.0 and 4.1 want its length in bytes as a third argument."""
    try:
        output.SendHttpStatus(status, body)  # from plugin 4.2, which adds a Content-Type by itself
    except TypeError:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(status, body, len(body.encode()))


def folder_on_command_line(parent: Path) -> Path | None:
    """Return the folder in `parent` that the command line of this process names, if it names one.

    Where the configuration is a folder given without a slash at its end, `GetConfigurationPath()` is its parent (1.10.1 and
    later). Only Linux has `/proc`: elsewhere there is no folder to find.
    """
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    folders = (Path(os.fsdecode(word)) for word in words if word)
    return next((each.absolute() for each in folders if each.is_dir() and each.absolute().parent == parent), None)


# ---- src/common/environment.py: Values of the configuration that come from environment variables: from which, and whether those are set.


VARIABLE = re.compile(r"\$\{([^:{}]*)(?::-([^{}]*))?\}")
QUOTED_DEFAULT = re.compile(
    r"""\$\{([^:{}]*):-(?:"([^"]*)"|'([^']*)')\}"""
)  # Orthanc takes ${NAME:-"x"} for ${NAME:-x}
TEXT_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)  # or a text, which is left as it is
# A text, a variable outside of texts (of a number, say), or a comma that ends a list: no JSON, but Orthanc takes them.
LOOSE = re.compile(rf'"(?:\\.|[^"\\])*"|{VARIABLE.pattern}|,(?=\s*[}}\]])')
NUMBER_AS_TEXT = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")


class FromEnvironment(str):
    """A text of the configuration in which Orthanc has put environment variables.

    Attributes
    ----------
    names : of the variables.
    unset : those of them that are not set and have no default.
    """

    names: tuple[str, ...]
    unset: tuple[str, ...]

    def __new__(cls, text: str, names: tuple[str, ...], unset: tuple[str, ...] = ()) -> "FromEnvironment":
        """Return a text that knows its variables."""
        made = super().__new__(cls, text)
        made.names, made.unset = names, unset
        return made

    @property
    def value(self) -> Any:
        """The number, true or false that it is as JSON, else the plain text: Orthanc has made texts of all."""
        text = str(self)
        return json.loads(text) if text in ("true", "false") or NUMBER_AS_TEXT.fullmatch(text) else text

    @property
    def variables(self) -> str:
        """What a line of the log calls them: those that are not set, if there are any."""
        names = self.unset or self.names
        return f"the environment variable{'s' if len(names) > 1 else ''} {', '.join(names)}"


def with_variables(section: str, found: Any) -> Any:
    """Return a section with a `FromEnvironment` for each text that came from variables, as Orthanc's files have it.

    Where the files can't be read as they were when Orthanc started, texts stay as they are.
    """
    return found if found is None else marked(found, _written_now().get(section))


def marked(found: Any, written: Any) -> Any:
    """Return what Orthanc has read with a `FromEnvironment` for each text for which variables were written."""
    if isinstance(found, dict) and isinstance(written, dict):
        return {key: marked(each, written.get(key)) for key, each in found.items()}
    if isinstance(found, list) and isinstance(written, list) and len(found) == len(written):
        return [marked(each, one) for each, one in zip(found, written, strict=True)]
    if type(found) is str and isinstance(written, str) and _with_values(written) == found:
        variables = [*VARIABLE.finditer(written)]
        names = tuple(dict.fromkeys(each[1] for each in variables))
        unset = {each[1] for each in variables if each[2] is None and each[1] not in os.environ}
        return FromEnvironment(found, names, tuple(name for name in names if name in unset)) if names else found
    return found


def as_written(text: str) -> Mapping[str, Any]:
    """Return a file of the configuration as it is written, with the variables in its texts; nothing if it can't be read so."""
    text = QUOTED_DEFAULT.sub(lambda match: f"${{{match[1]}:-{match[2] or match[3] or ''}}}", text)
    text = TEXT_OR_COMMENT.sub(lambda match: match[0] if match[0][0] == '"' else " ", text)
    try:
        found = json.loads(LOOSE.sub(_as_json, text))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _with_values(written: str) -> str:
    return VARIABLE.sub(lambda match: os.environ.get(match[1], match[2] or ""), written)


def _as_json(match: re.Match[str]) -> str:
    return {'"': match[0], "$": "null", ",": ""}[match[0][0]]


def _written_now() -> Mapping[str, Any]:
    whole: dict[str, Any] = {}
    try:
        import orthanc

        base = Path(orthanc.GetConfigurationPath()).absolute()
        paths = [base]
        if not base.is_file():
            folder = folder_on_command_line(base) or base
            paths = [path for path in folder.iterdir() if path.suffix.lower() == ".json"]
        for path in paths:
            whole.update(as_written(path.read_text(encoding="utf-8-sig")))
    except Exception:  # noqa: BLE001 - no Orthanc at all (a program, a test), or its files are gone: what it has read holds
        return {}
    return whole


# ---- src/common/settings.py: One section of Orthanc's configuration, read into a frozen dataclass.


S = TypeVar("S")

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class SettingsError(ValueError):
    """A value or a key that a section can't have; the text names section, key, what was found and what is allowed."""


def not_empty(values: Any) -> str | None:
    """Refuse an empty list (a `check`): it means nothing, never everything, and here nothing makes no sense."""
    return None if values else "at least one entry (to set no condition, leave the key out)"


def empty_values(values: Mapping[str, Any]) -> str | None:
    """Refuse an empty text, and one that ends with a space: `Bearer ${TOKEN}` does where that variable is not set."""
    empty = [name for name, value in values.items() if isinstance(value, str) and (not value or value[-1] == " ")]
    what = ", ".join(map(_printable, empty))
    return (
        f"texts that are not empty and don't end with a space ({what}: is the environment variable set?)"
        if empty
        else None
    )


def durability_field(survives: str = "the ledger survives", waits: str = "each step waits") -> Any:
    """Return the field `Durability` of a script with state: whether that survives the loss of power too."""
    text = f"`normal`: {survives} a crash. `full`: also the loss of power, but {waits} for the disk."
    return dataclasses.field(default="normal", metadata={"choices": ("normal", "full"), "help": text})


def reconcile_field(several: str = "each of several Orthancs on one database that load this script") -> Any:
    """Return the field `Reconcile` of a script that follows Orthanc's list of changes; in `several` it is to be false."""
    text = f"Look in Orthanc's list of changes for what a crash cut off. False in {several}."
    return dataclasses.field(default=True, metadata={"help": text})


def state_path_field(state: str = "the ledger") -> Any:
    """Return the field `StatePath` of a script with state: the folder of it."""
    text = f"Folder of {state}; null: `Scripts.StatePath`, else `IndexDirectory`, else `StorageDirectory`."
    return dataclasses.field(default=None, metadata={"help": text})


def key_of(field: dataclasses.Field[Any]) -> str:
    """Return the key of a field as a person writes it: `max_per_destination` is `MaxPerDestination`."""
    return str(field.metadata.get("key") or "".join(word.capitalize() for word in field.name.split("_")))


def read_settings(cls: type[S], section: str, configuration: Mapping[str, Any]) -> S:
    """Read the section of a configuration into `cls`. A section that is not there gives the defaults.

    Parameters
    ----------
    cls : a dataclass whose fields all have defaults. `metadata` of a field may hold `key` (if the name is not the field's in
        CamelCase), `minimum` and `maximum` (of a number), `choices`, `check` (a function that returns what is allowed, or
        nothing if the value is fine) and `secret` (the value is never shown). Of a free value also `texts` (keys, all others of
        which may be numbers, true or false) and `read_later` (by itself). A class variable `REMOVED` names the keys that the
        object had once, each with what happens now.
    section : the section's name.
    configuration : what `orthanc.GetConfiguration()` holds, decoded.

    Raises
    ------
    SettingsError : a value is of the wrong type or not allowed, a key is not known or is gone, or the configuration has a
        section whose name is nearly this one: what is mistyped has no effect, and without it a script would do more than
        somebody wanted. The same holds for the section `Scripts`.
    """
    settings_of_all_scripts(configuration)
    return _read_section(cls, section, configuration)


def _read_section(cls: type[S], section: str, configuration: Mapping[str, Any]) -> S:
    check_section_name(section, configuration)
    found = with_variables(section, configuration.get(section))
    if complaint := "; ".join(_wrong_keys_below(cls, section, found)):
        raise SettingsError(complaint)
    return cls() if found is None else _read_object(cls, section, found)


def not_on_this_machine(url: str) -> str | None:
    """Refuse an address that another machine may have (a `check`): whoever answers there gets a token that opens everything."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_here = ipaddress.ip_address(parts.hostname or "").is_loopback and bool(parts.port)
    except ValueError:
        is_here = False
    if is_here and "@" not in parts.netloc and url.removesuffix("/") == f"http://{parts.netloc}":
        return None
    return "http:// with a loopback address of this machine and a port, as http://127.0.0.1:8043 or http://[::1]:8043"


@dataclasses.dataclass(frozen=True)
class LoopbackSettings:
    """How scripts reach their own Orthanc."""

    url: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": not_on_this_machine,
            "allowed": "`http://`, a loopback address (127.0.0.1, [::1]) and a port",
            "help": "Where scripts ask their own Orthanc; null: where `HttpPort` and `SslEnabled` say.",
        },
    )


def not_of_postgres(url: str) -> str | None:
    """Refuse what is no URL of a PostgreSQL (a `check`)."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_one = parts.scheme in ("postgresql", "postgres") and bool(parts.path.strip("/")) and parts.port != 0
        # Of a password that is not written in %XX, a part would be taken for a host, which errors name.
        is_one = is_one and parts.netloc.count("@") <= 1 and "@" not in parts.path + parts.query and not parts.fragment
    except ValueError:
        is_one = False
    return None if is_one else "postgresql://USER:PASSWORD@HOST/DATABASE, with options as ?sslmode=verify-full"


def not_one_word(name: str) -> str | None:
    """Refuse a name that a line of the log can't hold (a `check`)."""
    return (
        None if name.isprintable() and len(name) <= 100 and " " not in name else "1 to 100 characters without a space"
    )


@dataclasses.dataclass(frozen=True)
class ScriptsSettings:
    """The section `Scripts`, which is for all scripts."""

    state_path: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Folder of the state of all scripts, but of one with a `StatePath` of its own; null: `IndexDirectory`, else "
            "`StorageDirectory`."
        },
    )
    database: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": not_of_postgres,
            "allowed": "`postgresql://USER:PASSWORD@HOST/DATABASE`",
            "help": "PostgreSQL in which several servers share the state of their scripts, but of one with a `StatePath` of its "
            "own; null: files. See [scale.md](scale.md).",
        },
    )
    server: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": not_one_word,
            "allowed": "1 to 100 characters without a space",
            "help": "Name of this server among those that share `Database`; null: the name of the machine.",
        },
    )
    loopback: LoopbackSettings = dataclasses.field(
        default=LoopbackSettings(), metadata={"help": "How scripts reach their own Orthanc."}
    )


def settings_of_all_scripts(configuration: Mapping[str, Any]) -> ScriptsSettings:
    """Return the section `Scripts` of a configuration. Raises `SettingsError`, as `read_settings` does, which looks at it too."""
    return _read_section(ScriptsSettings, "Scripts", configuration)


def check_section_name(section: str, configuration: Mapping[str, Any]) -> None:
    """Raise `SettingsError` if the configuration has a section whose name is nearly this one."""
    if near := [key for key in configuration if key != section and is_nearly(key, section)]:
        raise SettingsError(f"{_printable(near[0])} is not a known section (did you mean {section}?)")


def is_nearly(text: str, known: str) -> bool:
    """Return whether a name is another one mistyped: in upper and lower case, separators, or two letters (of five, one)."""
    text, known = (re.sub(r"[\W_]", "", each).lower() for each in (text, known))
    most = max(2, len(known) // 5)
    return abs(len(text) - len(known)) <= most and _distance(text, known) <= most


def _distance(text: str, known: str) -> int:
    """Return how many letters to add, leave out, replace or swap with the next make one text of the other."""
    before: list[int] = []
    last = list(range(len(known) + 1))
    for i, letter in enumerate(text):
        row = [i + 1]
        for j, other in enumerate(known):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (letter != other)))
            if i and j and letter == known[j - 1] and other == text[i - 1]:
                row[-1] = min(row[-1], before[j - 1] + 1)
        before, last = last, row
    return last[-1]


def removed_keys(cls: type[Any]) -> dict[str, str]:
    """Return the keys that a dataclass and those that it is made from had once, each with what happens now."""
    return {key: now for base in reversed(cls.__mro__) for key, now in vars(base).get("REMOVED", {}).items()}


def wrong_keys(
    path: str,
    found: Iterable[str],
    known: Iterable[str],
    removed: Mapping[str, str] = types.MappingProxyType({}),
    below: Mapping[str, str] = types.MappingProxyType({}),
) -> str | None:
    """Return what is wrong with the keys of an object: each that is not known, with the nearest known one.

    Parameters
    ----------
    removed : keys that were known once, each with what happens now.
    below : keys of the objects in this one, in lower case, each with its path from here: `Retry.GiveUpHours`.
    """
    by_lower = {key.lower(): key for key in known}
    known, complaints = set(by_lower.values()), []
    for key in [key for key in found if key not in known]:
        if key in removed:
            complaints.append(f"{path}.{key} is gone: {removed[key]}")
            continue
        complaints.append(f"{path}.{_printable(key)} is not a known key ({_meant(key.lower(), by_lower, below)})")
    return "; ".join(complaints) or None


def _meant(key: str, known: Mapping[str, str], below: Mapping[str, str]) -> str:
    """Return which key somebody may have meant, all in lower case; if none is near, what is allowed."""
    allowed = f"allowed: {', '.join(known.values()) or 'none'}"
    if re.match(r"[\W_]|comment", key):  # JSON has no comments, hence this habit; Orthanc's has
        return f"{allowed}; write a comment as // ..."
    parts = [each for each in known if len(key) > 4 and each.endswith(key)]
    near = difflib.get_close_matches(key, known, 1, 0.8) or parts or difflib.get_close_matches(key, known, 1, 0.6)
    meant = below.get(key) or next((known[each] for each in near), None)  # below 0.6, Modality would be Priority
    return f"did you mean {meant}?" if meant else allowed


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {key_of(field): field for field in dataclasses.fields(cls)}


def _wrong_keys_below(hint: Any, path: str, found: Any) -> Iterator[str]:
    """Yield what is wrong with keys, at every depth: who upgrades has to correct all of them, and restarts once."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _wrong_keys_below(argument, path, found)
    elif isinstance(found, list) and origin in (list, tuple):
        for number, item in enumerate(found):
            yield from _wrong_keys_below(arguments[0], f"{path}[{number}]", item)
    elif isinstance(found, dict) and origin is dict:
        for key, item in found.items():
            yield from _wrong_keys_below(arguments[1], f"{path}.{_printable(key)}", item)
    elif isinstance(found, dict) and dataclasses.is_dataclass(hint):
        cls = typing.cast("type[Any]", hint)
        fields, hints = _fields(cls), typing.get_type_hints(cls)
        below = {
            key_of(inner).lower(): f"{key}.{key_of(inner)}"
            for key, field in fields.items()
            if dataclasses.is_dataclass(hints[field.name])
            for inner in dataclasses.fields(hints[field.name])
        }
        if complaint := wrong_keys(path, found, fields, removed_keys(cls), below):
            yield complaint
        for key in [key for key in fields if key in found]:
            yield from _wrong_keys_below(hints[fields[key].name], f"{path}.{key}", found[key])


def _read_object(cls: type[S], path: str, found: Any) -> S:
    if not isinstance(found, dict):
        raise _wrong(path, found, "an object of keys and values", {"secret": found and _may_hold_secrets(cls)})
    fields, hints = _fields(cls), typing.get_type_hints(cls)
    values = {
        field.name: _read_value(hints[field.name], field.metadata, f"{path}.{key}", found[key])
        for key, field in fields.items()
        if key in found
    }
    return cls(**values)


def _read_value(hint: Any, limits: Mapping[str, Any], path: str, found: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    optional = origin in (typing.Union, types.UnionType)
    if optional:
        if found is None and type(None) in arguments:
            return None
        hint = next(argument for argument in arguments if argument is not type(None))
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _read_object(typing.cast("type[Any]", hint), path, found)
    value, fits, allowed = _typed(hint, limits, path, found)
    if fits and "choices" in limits:
        fits, allowed = value in limits["choices"], "one of " + ", ".join(map(json.dumps, limits["choices"]))
    if "minimum" in limits:
        fits, allowed = fits and value >= limits["minimum"], f"{allowed}, at least {limits['minimum']}"
    if "maximum" in limits:
        fits, allowed = fits and value <= limits["maximum"], f"{allowed}, at most {limits['maximum']}"
    if fits and "check" in limits and (complaint := limits["check"](value)):
        fits, allowed = False, complaint
    if fits and value == "" and (optional or limits.get("secret")):  # it would count as not given, without a word
        fits, allowed = False, "a text; to give none, leave the key out"
    if isinstance(found, FromEnvironment) and found.unset:  # also where it is a part of the text: a path, a URL
        fits = False
    if not fits:
        raise _wrong(path, found, allowed, limits)
    return value


def _typed(hint: Any, limits: Mapping[str, Any], path: str, found: Any) -> tuple[Any, bool, str]:
    """Return a value as its type has it, whether it fits, and what is allowed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple):
        if not isinstance(found, list):
            raise _wrong(path, found, "a list", {"secret": limits.get("secret") or _may_hold_secrets(hint)})
        shown = {"secret": limits.get("secret")}
        items = [_read_value(arguments[0], shown, f"{path}[{i}]", item) for i, item in enumerate(found)]
        return tuple(items) if origin is tuple else items, True, ""
    if hint is Any:
        return _free(limits, path, found), True, ""
    if origin is dict:
        if not isinstance(found, dict) or not dataclasses.is_dataclass(arguments[1]):
            return _free(limits, path, found), isinstance(found, dict), "an object of keys and values"
        paths = {key: f"{path}.{_printable(key)}" for key in found}
        return {key: _read_value(arguments[1], {}, paths[key], each) for key, each in found.items()}, True, ""
    if isinstance(found, FromEnvironment):
        found = str(found) if hint is str else found.value
    # JSON has one kind of number, and true is no number although Python says so.
    fits = isinstance(found, (int, float) if hint is float else hint) and (hint is bool) == isinstance(found, bool)
    return (float(found) if fits and hint is float else found), fits, KINDS[hint]


def _free(limits: Mapping[str, Any], path: str, found: Any, *, may_be_number: bool = False) -> Any:
    """Return a value whose keys and types the settings don't name, with plain texts for those from variables."""
    if limits.get("read_later"):
        return found
    if isinstance(found, list):
        return [_free(limits, f"{path}[{i}]", each) for i, each in enumerate(found)]
    if isinstance(found, dict):
        texts = limits.get("texts", found)
        return {
            key: _free(limits, f"{path}.{_printable(key)}", each, may_be_number=key not in texts)
            for key, each in found.items()
        }
    if not isinstance(found, FromEnvironment):
        return found
    if found.unset:
        raise _wrong(path, found, "a value, or one with a default, as ${NAME:-default}", limits)
    return found.value if may_be_number or limits.get("texts") == () else str(found)


def _may_hold_secrets(hint: Any) -> bool:
    """Return whether what somebody gave in the place of such a value may have a secret in it: in brackets too many, say."""
    if not dataclasses.is_dataclass(hint):
        return any(map(_may_hold_secrets, typing.get_args(hint)))
    hints = typing.get_type_hints(hint)
    return any(
        field.metadata.get("secret") or _may_hold_secrets(hints[field.name]) for field in dataclasses.fields(hint)
    )


def _printable(key: str) -> str:
    """Return a key as a line of the log may hold it."""
    key = key if key.isprintable() else json.dumps(key)[1:-1]
    return key if len(key) <= 60 else key[:57] + "..."


def _wrong(path: str, found: Any, allowed: str, limits: Mapping[str, Any] | None = None) -> SettingsError:
    if isinstance(found, FromEnvironment):
        if found.unset or not found:
            are = f"{'are' if len(found.unset or found.names) > 1 else 'is'} {'not set' if found.unset else 'empty'}"
            return SettingsError(f"{path}: {found.variables} {are}, allowed: {allowed}")
        return SettingsError(f"{path}: found {_as_text(found, limits)} from {found.variables}, allowed: {allowed}")
    if found == "":  # where Orthanc's files don't show the variable, an unset one is empty
        return SettingsError(f"{path} is empty (is its environment variable set?), allowed: {allowed}")
    return SettingsError(f"{path}: found {_as_text(found, limits)}, allowed: {allowed}")


def _as_text(found: Any, limits: Mapping[str, Any] | None = None) -> str:
    if limits and limits.get("secret"):
        return "a value that is not shown here"
    text = json.dumps(found)
    if "://" in text and "@" in text:  # the wrong place for a URL with a password
        return "a value that is not shown here"
    return text if len(text) <= 60 else text[:57] + "..."


# ---- src/common/state.py: Where a script's state lies, and how its files are opened: by one process, private to it, never through a link.


# Neither a link is followed (Windows has no such flag) nor the end of a line translated (only Windows does that).
NO_LINK_NO_TEXT = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
KEPT_IN_FILES = set[str]()  # scripts of which that was said
OTHERS = 0o077  # the bits of a mode that let somebody else in
# What a file system answers that has no locks at all. ENOLCK is not among them: there a server of locks is away for now.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP)


class StateError(OSError):
    """A state file can't be used now; the text names the file, and the key that chooses another folder."""


class StateBusyError(StateError):
    """Another process has the state. It ends, or it should have another folder."""


class StandsByError(StateBusyError):
    """Another server has the right to the state, and this one waits until that one ends. `worked_by` is its name."""

    def __init__(self, text: str, worked_by: str) -> None:
        super().__init__(text)
        self.worked_by = worked_by


class StateLostError(StandsByError):
    """Another server has taken the state while this one could not reach it: what was under way here counts no more."""


class StateGoneError(StateError):
    """The state was deleted or replaced while it was in use: what is written now would be lost."""


def configuration_folder() -> Path:
    """Return the folder in which Orthanc's relative paths begin."""
    base = Path(orthanc.GetConfigurationPath()).absolute()
    return base.parent if base.is_file() else folder_on_command_line(base) or base


def state_folder(state_path: str | None, configuration: Mapping[str, Any], script: str = "") -> Path:
    """Return where a script keeps its state: its `StatePath`, that of all scripts, `IndexDirectory`, or `StorageDirectory`.

    `script` : the name of one that keeps it nowhere else; a line of the log says so, once, where `Scripts.Database` is set.
    """
    of_all = settings_of_all_scripts(configuration)
    if script and of_all.database and not state_path and script not in KEPT_IN_FILES:
        KEPT_IN_FILES.add(script)
        orthanc.LogWarning(
            f"{script}: its state is in files of this server, not in Scripts.Database (docs/scale.md says what follows from that)"
        )
    state_path = state_path or of_all.state_path
    index = state_path or configuration.get("IndexDirectory")
    return configuration_folder() / index if index else storage_folder(configuration)


def storage_folder(configuration: Mapping[str, Any]) -> Path:
    """Return the folder of Orthanc's files, if no plugin keeps them elsewhere."""
    return configuration_folder() / (configuration.get("StorageDirectory") or "OrthancStorage")  # Orthanc's default


def make_folder(folder: Path, key: str = "StatePath") -> None:
    """Make the folder of state files, if it is not there.

    Raises
    ------
    StateError : it can't be made; `key` is what a person sets to choose another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{folder} can't be made ({error.strerror})"
        raise StateError(f"{why}; set {key} to a folder that can be written") from None


def open_private(path: Path, flags: int = 0, key: str = "StatePath") -> int:
    """Open a state file for reading and writing, make it if it is not there, and return its descriptor.

    Only its owner may read it then: it is made with mode 0600, and set to that when it is wider.

    Parameters
    ----------
    flags : more of `os.O_…`, e.g. `os.O_APPEND`.
    key : what a person sets to choose another folder.

    Raises
    ------
    StateError : it can't be opened, is a symbolic link, or no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK_NO_TEXT | flags, 0o600)
    except OSError as error:
        _refuse_link(path)
        why = f"{path} can't be written ({error.strerror})"
        raise StateError(f"{why}; set {key} to a folder that can be written") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StateError(f"{path} is no file, and the state must be one")
        make_private(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_private(path: Path) -> None:
    """Let only the owner read a state file, if it is there.

    Raises
    ------
    StateError : it is a symbolic link.
    """
    _refuse_link(path)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IMODE(path.stat().st_mode) & OTHERS:
            try:
                path.chmod(0o600)
            except OSError as error:  # it is somebody else's, who lets us write: Kubernetes does that with `fsGroup`
                orthanc.LogWarning(f"{path} can be read by others, and its mode can't be changed: {error.strerror}")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StateError(f"{path} is a symbolic link, which is not allowed in place of a state file")


def must_be_same(descriptor: int, path: Path) -> None:
    """Raise StateGoneError unless the file at a path is the one that we have open."""
    try:
        same = os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            raise
        same = False
    if not same:
        raise StateGoneError(f"{path} was deleted or replaced while it was in use; restart Orthanc")


class StateLock:
    """The right of one process to a state file: a lock on `<path>.lock`, which the kernel ends with the process.

    Children don't inherit it.

    Parameters
    ----------
    path : of the state file, or of a folder of them.
    key : what a person sets to choose another folder.
    file : that is locked, where it has another name.

    Raises
    ------
    StateBusyError : somebody has it already.
    StateError : the file can't be made or opened.
    """

    def __init__(self, path: Path, key: str = "StatePath", file: Path | None = None) -> None:
        self.path, self._descriptor = file or path.with_name(f"{path.name}.lock"), -1
        make_folder(self.path.parent, key)
        self._descriptor = open_private(self.path, key=key)
        try:
            self._take(path, key)
        except BaseException:
            self.close()
            raise
        LOCKS_HELD.add(self)

    def _take(self, path: Path, key: str) -> None:
        try:
            lock_file(self._descriptor)
        except OSError as error:
            if error.errno in NO_LOCKS:
                orthanc.LogWarning(
                    f"{path} is on a file system without locks: make sure that one Orthanc alone uses it"
                )
            elif error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise StateBusyError(
                    f"another process uses {path}; this one waits until that one ends. "
                    f"If both are to run, set {key} of each to a folder of its own"
                ) from None
            else:
                raise

    def check(self) -> None:
        """Raise StateGoneError if somebody has deleted or replaced the file: then the lock keeps nobody out."""
        must_be_same(self._descriptor, self.path)

    def close(self) -> None:
        """Let somebody else have it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def lock_file(descriptor: int) -> None:
    """Lock an open file for this process alone, or raise OSError at once if somebody has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOCKS_HELD: weakref.WeakSet[StateLock] = weakref.WeakSet()


def _drop_locks_in_child() -> None:
    for lock in list(LOCKS_HELD):
        lock.close()


# What is started as another program loses our files by itself (O_CLOEXEC); a mere fork keeps them, and the lock with them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_locks_in_child)


# ---- src/common/urls.py: URLs in texts that Orthanc gives.


# Both take time in proportion to the text only, whatever it is.
USER = re.compile(r"(?<=://)[^\s/]*@")  # a password may hold an @: the last one before the path ends it
QUERY = re.compile(r"(://[^\s?]*)(?:\?\S*)?")


def without_secrets(text: str) -> str:
    """Return a text of Orthanc's without users, passwords and queries of the URLs in it.

    From 1.13.0 on, errors of requests to peers and DICOMweb servers name the whole URL, as the configuration has it.
    """
    return QUERY.sub(r"\1", USER.sub("", text))


# ---- src/common/loopback.py: This Orthanc's own REST API over HTTP: unlike a call through the SDK it does not hold the GIL, and with it every store.


import_for_small_stacks()

TIMEOUT = 60.0  # seconds; of one request
KEEP_ALIVE_SECONDS = 0.5  # Orthanc closes a connection after a second without a request ("KeepAliveTimeout")
_open_connections = threading.local()  # of this thread: `connections`, a set of those that it keeps open
IDEMPOTENT_POSTS = (
    "/tools/find",
    "/tools/bulk-content",
    "/tools/bulk-delete",
    "/owed",
    "/protected",
)  # ends of what may be sent twice


class LoopbackError(Exception):
    """Orthanc answered with an error (`status`, and `code`: its `OrthancStatus`), or did not answer (`status` 0)."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Loopback:
    """A client of this Orthanc: one kept connection a thread, authorized by the plugin's own token."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self.enabled = bool(configuration.get("HttpServerEnabled", True))
        addresses = configuration.get("HttpBindAddresses") or ["127.0.0.1"]
        self.host = "127.0.0.1" if {"127.0.0.1", "0.0.0.0"} & set(addresses) else str(addresses[0])  # noqa: S104
        self.port = int(configuration.get("HttpPort", 8042))
        self._certificate: str | None = None  # that Orthanc shows over HTTPS
        if url := _own_url(configuration):
            self.host, self.port = url.hostname or "", url.port or 0
        elif configuration.get("SslEnabled"):
            self._certificate = configuration.get("SslCertificate", "certificate.pem")  # Orthanc's own default
        # These cut each answer of /tools/find too, whatever its Limit (measured on 1.10.1, 1.12.7 and 1.13.0); no list.
        self.find_is_unlimited = not (configuration.get("LimitFindResults") or configuration.get("LimitFindInstances"))
        self._mutual = bool(configuration.get("SslVerifyPeers"))
        self._local = threading.local()
        self._token = ""
        with contextlib.suppress(LoopbackError):  # who asks is told
            self.tls()  # now: Orthanc shows the certificate that was there at its start

    @functools.cached_property
    def has_extended_find(self) -> bool:
        """Whether /tools/find gives all of what `ResponseContent` names, from Orthanc 1.12.5. Raises `LoopbackError`."""
        return self.find_is_unlimited and bool(self.get("/system").get("Capabilities", {}).get("HasExtendedFind"))

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request, `body` as JSON unless it is bytes; return the answer, decoded if it is JSON, else its bytes.

        Raises
        ------
        LoopbackError : the status is 400 or more, or there is no answer.
        """
        headers, content = self.request_raw(method, path, body)
        return json.loads(content) if _is_json(headers) and content else content

    def request_raw(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """Send a request as `request` does, with headers of one's own; return those of the answer, and its bytes as they came."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        report_request(method, path, body, headers)
        self._token = self._token or orthanc.GenerateRestApiAuthorizationToken()
        # A kept connection may be closed by Orthanc just now, on a busy machine soon after the look at how old it is: what is
        # the same twice is asked once more, and what is not gets a connection of its own.
        attempts = 2 if method != "POST" or path.endswith(IDEMPOTENT_POSTS) else 1
        while True:
            connection = self._connection(is_fresh=attempts == 1)
            try:
                connection.request(method, path, data, {**(headers or {}), "Authorization": self._token})
                response = connection.getresponse()
                content = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                attempts -= 1
                if not attempts or isinstance(error, TimeoutError):
                    what = f"Orthanc does not answer {method} {path.partition('?')[0]}: {error!r}"
                    raise LoopbackError(0, what) from None
        self._local.used = time.monotonic()
        if response.status in (304, 401):
            connection.close()  # 1.12.7 drops it without a word
        if response.status >= 400:
            said = _said_by_orthanc(content)
            reason = without_secrets(str(said.get("Details") or said.get("Message") or response.reason))
            raise LoopbackError(
                response.status, f"{method} {path.partition('?')[0]}: {reason}", said.get("OrthancStatus")
            )
        return response.headers, content

    def wait_longer(self, seconds: float) -> None:
        """Let this thread wait so long for each answer, from its next connection on."""
        self._local.timeout = seconds

    def close(self) -> None:
        """Close the connection of this thread."""
        if connection := getattr(self._local, "connection", None):
            connection.close()

    def _connection(self, *, is_fresh: bool) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        elif is_fresh or time.monotonic() - self._local.used > KEEP_ALIVE_SECONDS:
            connection.close()
        if connection.sock is None:  # it is opened now
            _open_connections.connections = {*getattr(_open_connections, "connections", ()), connection}
        self._local.used = time.monotonic()
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        context, timeout = self.tls(), getattr(self._local, "timeout", TIMEOUT)
        if context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=context)

    def tls(self) -> ssl.SSLContext | None:
        """Return what to trust here, and to show; None: plain HTTP. Raises `LoopbackError`: the certificate can't be read."""
        if self._certificate is None:
            return None
        file = Path(self._certificate)
        try:
            return pinned_tls(file if file.is_absolute() else configuration_folder() / file, is_shown=self._mutual)
        except (OSError, ValueError) as error:
            raise LoopbackError(0, f"Orthanc's SslCertificate can't be used: {error}") from None


def _own_url(configuration: Mapping[str, Any]) -> urllib.parse.SplitResult | None:
    try:
        url = settings_of_all_scripts(configuration).loopback.url
    except SettingsError:  # the script has said so, and asks nothing
        return None
    return None if url is None else urllib.parse.urlsplit(url)


def close_connections() -> None:
    """Close what this thread keeps open; if it is one of Orthanc's HTTP threads, it would keep another one waiting."""
    for connection in getattr(_open_connections, "connections", ()):
        connection.close()
    _open_connections.connections = set()


def _said_by_orthanc(content: bytes) -> dict[str, Any]:
    """Return what an answer with an error says: Orthanc describes it in JSON, with the type text/plain or none."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_json(headers: http.client.HTTPMessage) -> bool:
    return headers.get_content_type() == "application/json"


# ---- src/common/route_list.py: What a script's routes are, for people: in the answer of `GET /<script>`, and in the tables of docs/.


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


# ---- src/common/cross_site.py: Who may act: people on this server's own pages, and programs; no page of another site, and nothing that loads links by itself.


# What a person's command line, or a library in a person's program, calls itself. Many libraries say nothing at all.
PROGRAM = re.compile(
    r"(curl|libcurl|wget2?|httpie|xh|aria2|lwp-request|libwww-perl|python-requests|python-httpx|python-urllib3?"
    r"|python/[0-9.]+ aiohttp|aiohttp|httpx|go-http-client|resty|go-resty|java|java-http-client|apache-httpclient"
    r"|apache-httpasyncclient|okhttp|jersey|ktor-client|axios|got|node|node-fetch|undici|deno|bun|superagent|node-superagent"
    r"|postmanruntime|insomnia|bruno|hoppscotch|thunder client|powershell|restsharp|guzzlehttp|php-curl-class|ruby|faraday"
    r"|rest-client|httparty|reqwest|ureq|hyper|dart|luasocket|luasocket [0-9.]+|libcurl-agent|rcurl|httr2?|matlab)"
    r"([/ (].*)?"
    r"|mozilla/5\.0 \([^()]*\) (windows)?powershell/[0-9.]+",
    re.IGNORECASE,
)
ROBOT = re.compile(
    r"bot\b|bot/|crawl|spider|slurp|preview|externalhit|externalagent|lighthouse|headless|pagespeed|prerender|compatible;"
    r"|google-|googleother|feedfetcher|mediapartners|scan|monitor|whatsapp|skype|embed",
    re.IGNORECASE,
)
AHEAD_OF_TIME = ("sec-purpose", "purpose", "x-purpose", "x-moz")  # prefetching, prerendering, previewing
MEDIA = re.compile(r"\b(image|video|audio|font)/|^text/css", re.IGNORECASE)
BROWSER = re.compile("(mozilla|opera)/", re.IGNORECASE)
OWN_PAGES = ("same-origin", "none")  # a page of this server; what a person typed, or chose from the bookmarks
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")  # what any page can send unasked


def why_refused(method: str, headers: Mapping[str, str], *, has_body: bool) -> tuple[int, str] | None:
    """Return why a request that acts is refused, as a status and a reason; None: it was sent on purpose.

    A GET is what any page, mail or chat can make a browser send, or what is loaded ahead of time: it is accepted for a
    program that says what it is (or nothing), and for a browser that says that this server's own page or a person asked.
    Browsers say so over HTTPS and on localhost; over plain HTTP they can't be distinguished from one that another page leads.
    """
    if sign := _sign_of_another_site(method, headers):
        return 403, sign
    if method == "GET":
        return (403, sign) if (sign := _sign_of_a_link(headers)) else None
    mime = headers.get("content-type", "").partition(";")[0].strip().lower()
    if _is_browser(headers) and (mime in FORMS or (has_body and mime != "application/json")):
        return 415, "From a browser the body must be application/json"
    return None


def _sign_of_another_site(method: str, headers: Mapping[str, str]) -> str:
    site, origin, referer = (headers.get(name) for name in ("sec-fetch-site", "origin", "referer"))
    if site is not None and site.strip().lower() not in OWN_PAGES:
        return f"This comes from another site's page (Sec-Fetch-Site: {site[:40]})"
    if site is not None and site.strip().lower() == "same-origin" and method != "GET":
        return ""  # the browser's own word, also behind a proxy that puts another Host in
    if origin is not None and not _is_ours(origin, headers):
        return f"This comes from another site's page (Origin: {origin[:100]})"
    if referer is not None and not _is_ours(referer, headers) and (origin is None or method == "GET"):
        return f"This comes from another site's page (Referer: {referer[:100]})"
    return ""


def _is_ours(address: str, headers: Mapping[str, str]) -> bool:
    """Return whether an address is of this server, as whoever asked calls it. Addresses that are none are not."""
    named = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    hosts = {_without_port(host.strip().lower()) for host in named} - {""}
    scheme, _, rest = address.strip().lower().partition("://")
    return scheme in ("http", "https") and _without_port(re.split(r"[/?#\\]", rest, maxsplit=1)[0]) in hosts


def _without_port(host: str) -> str:
    """Return a host without the port that its scheme has anyway."""
    return re.sub(r":(80|443)?\Z", "", host)


def _sign_of_a_link(headers: Mapping[str, str]) -> str:
    """Return what shows that a GET was not asked for by a person or a person's program; empty: nothing does."""
    agent = headers.get("user-agent", "")
    accept, destination = headers.get("accept", ""), headers.get("sec-fetch-dest", "document").strip().lower()
    if ahead := next((name for name in AHEAD_OF_TIME if name in headers), None):
        return f"This is loaded ahead of time, or as a preview ({ahead}: {headers[ahead][:40]})"
    if "range" in headers:
        return "This asks for a part of a file, as a player of media does (Range)"
    if destination not in ("document", "empty") or (MEDIA.search(accept) and "text/html" not in accept.lower()):
        return "This asks for a picture, a sound, or a part of a page (Accept, Sec-Fetch-Dest)"
    if ROBOT.search(agent):
        return f"This comes from a robot or a preview (User-Agent: {agent[:100]})"
    if "sec-fetch-site" in headers or not agent.strip() or PROGRAM.fullmatch(agent.strip()):
        return ""
    if BROWSER.match(agent):
        return "A browser that does not say that a person asked for it (Sec-Fetch-Site) must not act by a link"
    return f"Who asks for this is not known as a command line or a library of HTTP (User-Agent: {agent[:100]})"


def _is_browser(headers: Mapping[str, str]) -> bool:
    agent = headers.get("user-agent", "")
    return BROWSER.match(agent) is not None and PROGRAM.fullmatch(agent) is None


def as_command(headers: Mapping[str, str], path: str) -> str:
    """Return the command line that does on purpose what a GET asked for, for a person; `path` is encoded as in a URL."""
    address = f"http://{headers.get('host', '127.0.0.1:8042')}{path}"
    return f"curl -u USER '{re.sub('[^!-&(-~]', '', address)}'"  # no character of it ends the quotes


# ---- src/common/json_text.py: JSON from outside, decoded at a cost in proportion to its length, whatever it holds.


# Orthanc's HTTP threads have a stack of 100 KB: JSON nested 550 deep would end the whole server.
MAX_JSON_DEPTH = 50
QUOTE = ord('"')
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
NO_STRUCTURE = bytes({*range(256)} - {QUOTE, *STEPS})


def decoded(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises
    ------
    ValueError : it is none (not in UTF-8, NaN, infinite), it is nested more than `MAX_JSON_DEPTH` deep, names something
        twice, or holds half of a surrogate pair, which is no character.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = text.encode()
    except UnicodeError:
        raise ValueError("it is not in UTF-8") from None
    if is_too_deep(content):
        raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} deep")
    found = json.loads(text, object_pairs_hook=_named_once, parse_constant=_refuse_constant)
    if "\\u" in text:
        _refuse_half_characters(found)
    return found


def is_too_deep(content: bytes) -> bool:
    """Return whether the decoder would go down more than `MAX_JSON_DEPTH` lists and objects, before or after it finds an error.

    Three passes in C leave nothing but brackets and quotes; then one loop counts, with a handful of numbers. What is
    written in a text nests nothing. A backslash outside a text ends the decoder, so all others are in pairs, or escape.
    """
    content = content.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, NO_STRUCTURE)
    depth, inside = 0, False
    for byte in content.replace(b'""', b""):  # two quotes side by side change nothing for what follows
        if byte == QUOTE:
            inside = not inside
        elif not inside:
            depth += STEPS[byte]
            if depth > MAX_JSON_DEPTH:
                return True
            if depth <= 0:  # all that was opened is closed: the decoder ends here
                return False
    return False


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_half_characters(found: Any) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has half of a surrogate pair, which is no character") from None


# ---- src/common/times.py: Times: ISO 8601 in UTC with milliseconds and `Z` wherever a script writes one; days as DICOM writes them.


def utc(seconds: float | None = None) -> str:
    """Return a time as `2026-01-31T13:00:00.000Z`: that of `seconds` since 1970, or now."""
    moment = datetime.datetime.fromtimestamp(time.time() if seconds is None else seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_or_none(seconds: float | None) -> str | None:
    """Return `utc(seconds)`, or None for what has not happened."""
    return None if seconds is None else utc(seconds)


def parse_day(text: object) -> datetime.date | None:
    """Return the day of a DA value (YYYYMMDD, DICOM PS3.5 6.2), or None: `1999.12.31`, `1999`, `20000231` are no days."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{8}", text):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None


def parse_time(text: object) -> datetime.datetime | None:
    """Return a time in UTC from `20260131`, `2026-01-31`, or `2026-01-31T13:00:00[.000]` with a zone; None for anything else.

    A day is its first moment in UTC. A time without a zone is taken as UTC. A `+` that a query turned into a space counts.
    """
    if day := parse_day(text):
        return datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    if not isinstance(text, str) or not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        found = datetime.datetime.fromisoformat(re.sub(r" (?=[0-9]{2}:?[0-9]{2}$)", "+", text))
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None


def parse_orthanc_time(text: object) -> datetime.datetime | None:
    """Return the time of what Orthanc writes into `Date`, `LastUpdate`, `ReceptionDate`: `20260131T130000`, in UTC."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None


def orthanc_time(moment: datetime.datetime) -> str:
    """Return a time as Orthanc writes it, to be compared with its own: `20260131T130000`."""
    return moment.astimezone(datetime.UTC).strftime("%Y%m%dT%H%M%S")


# ---- src/common/parameters.py: The parameters of routes: each handler says what it takes; `register_route` has names and types checked before it is called.


MOST_ROWS = 1000  # of a page
LARGEST_NUMBER = 2**62  # SQLite's integers are a little larger

H = TypeVar("H", bound=Callable[..., Any])


class ParameterError(ValueError):
    """A parameter that can't be; the text names it, what was found, and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text that is not empty; `pattern` is what all of it has to match, `allowed` says that in words."""

    allowed: str = "a text"
    pattern: str = ".+"
    longest: int = 1000

    def from_body(self, value: Any) -> Any:
        """Return the value of a parameter in a JSON body. Raises ValueError: it is not allowed."""
        if not isinstance(value, str) or len(value) > self.longest or not re.fullmatch(self.pattern, value, re.DOTALL):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        """Return the value that a text in a query means. Raises ValueError: it is not allowed."""
        return self.from_body(text)


@dataclasses.dataclass(frozen=True)
class OneOf(Text):
    """One of some texts."""

    choices: tuple[str, ...] = ()

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(", ".join(self.choices))
        return value


@dataclasses.dataclass(frozen=True)
class WholeNumber(Text):
    """A whole number with bounds."""

    least: int = 0
    most: int = LARGEST_NUMBER

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise ValueError(f"a whole number from {self.least} to {self.most}")
        return value

    def from_query(self, text: str) -> Any:
        return self.from_body(int(text) if re.fullmatch("[0-9]{1,19}", text) else text)


@dataclasses.dataclass(frozen=True)
class Flag(Text):
    """True or false; in a query also its name alone, where `bare`."""

    bare: bool = False
    allowed: str = "true or false"

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        if text == "" and self.bare:
            return True
        return self.from_body({"true": True, "false": False}.get(text, text))


@dataclasses.dataclass(frozen=True)
class Texts(Text):
    """A list of texts, separated by commas in a query. An empty list is refused: it means nothing, never everything."""

    allowed: str = "a list of at least one text"

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        return self.from_body(text.split(","))


@dataclasses.dataclass(frozen=True)
class TextsByName(Text):
    """An object of names and texts, as JSON in a query too. An empty one is refused."""

    allowed: str = "an object of at least one name and text"

    def from_body(self, value: Any) -> Any:
        if not isinstance(value, dict) or not value or not all(isinstance(each, str) for each in value.values()):
            raise ValueError(self.allowed)
        return value

    def from_query(self, text: str) -> Any:
        try:
            return self.from_body(decoded(text))
        except ValueError:
            raise ValueError(self.allowed) from None


@dataclasses.dataclass(frozen=True)
class Day(Text):
    """A day of the calendar; handlers get a `datetime.date`."""

    allowed: str = "a day of the calendar as YYYYMMDD"

    def from_body(self, value: Any) -> Any:
        if (day := parse_day(value)) is None:
            raise ValueError(self.allowed)
        return day


@dataclasses.dataclass(frozen=True)
class Moment(Text):
    """A day, from its first moment in UTC, or a time with its zone; handlers get a `datetime.datetime`."""

    allowed: str = "a day (20260131, 2026-01-31) or a time with its zone (2026-01-31T13:00:00Z)"

    def from_body(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) <= len("2026-01-31") and (day := parse_time(value)):
            return day
        try:
            found = datetime.datetime.fromisoformat(value.replace(" ", "+"))  # what + becomes in a query
            found.astimezone(datetime.timezone.utc)  # noqa: UP017 - OverflowError: in the first or the last year
        except (AttributeError, ValueError, OverflowError):
            raise ValueError(self.allowed) from None
        if found.tzinfo is None:
            raise ValueError(self.allowed)
        return found


IDENTIFIER = Text("an identifier of Orthanc", r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
PAGE_PARAMETERS: Mapping[str, Text] = {"since": WholeNumber(), "limit": WholeNumber(least=1, most=MOST_ROWS)}


def takes(parameters: Mapping[str, Text], *, get_acts: bool = False) -> Callable[[H], H]:
    """Say which parameters a handler takes, by name: a GET in its query, a POST or PUT in its body. Without it, none.

    They come as `request.parameters`, those that were given. `get_acts`: a GET to it deletes, or sends, or changes what
    others see, so that no link may do it (`common.cross_site`).
    """

    def mark(handler: H) -> H:
        vars(handler)["parameters"], vars(handler)["get_acts"] = parameters, get_acts
        return handler

    return mark


def parameters_of(handler: Callable[..., Any]) -> Mapping[str, Text]:
    """Return what a handler takes, by name."""
    found: Mapping[str, Text] = getattr(handler, "parameters", {})
    return found


def acts_on_get(handler: Callable[..., Any]) -> bool:
    """Return whether a GET to a handler changes anything."""
    return bool(getattr(handler, "get_acts", False))


def read_parameters(taken: Mapping[str, Text], given: Mapping[str, Any], *, from_query: bool) -> dict[str, Any]:
    """Return what was given as handlers want it.

    Names have one style: `dry-run` in a query, `DryRun` in a body. One that is declared in the other style is taken in both.

    Raises
    ------
    ParameterError : a name is not known, or a value not allowed.
    """
    found: dict[str, Any] = {}
    for given_name, value in given.items():
        name = given_name if given_name in taken else _as_taken(given_name, taken, from_query)
        if name in found:
            raise ParameterError(f"{name} is given twice, also as {in_other_style(name)}")
        if name not in taken:
            near = difflib.get_close_matches(name[:40], taken, 1, 0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ParameterError(f"Unknown parameter {shown_value(name)}; {hint}allowed: {', '.join(taken) or 'none'}")
        try:
            found[name] = taken[name].from_query(value) if from_query else taken[name].from_body(value)
        except ValueError as error:
            raise ParameterError(f"{given_name} is {shown_value(value)}, allowed: {error}") from None
    return found


def in_other_style(name: str) -> str:
    """Return a name as bodies have it (`DryRun`) for one as queries have it (`dry-run`), and the other way round."""
    if name[:1].isupper():
        return re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()
    return "".join(word.capitalize() for word in name.split("-"))


def _as_taken(name: str, taken: Iterable[str], from_query: bool) -> str:
    """Return the declared name of a parameter that is written here as the rule says, else the name as it is.

    `Since` in a query stays unknown: what is mistyped there must not delete.
    """
    if name[:1].isupper() == from_query:
        return name
    return next((each for each in taken if in_other_style(each) == name), name)


def shown_value(value: Any) -> str:
    """Return a value of a request as one line of an answer or of the log may hold it."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def row_number(text: str) -> int:
    """Return the number of a row in a path; -1, which no row has, if there can't be such a row."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


# ---- src/common/routes.py: Routes that answer alike on every version of the plugin, and who may act through them.


LARGEST_BODY = 1 << 20  # bytes
# Controls (also those of 8 bits: a terminal takes U+009B for ESC [), other ends of lines, and halves of characters.
NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """An answer other than the one asked for: the caller's mistake (4xx), or a script that can't work now (503)."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.details = status, message, details


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a handler returns where a plain value (JSON), `str` or `bytes` with status 200 is not enough."""

    content: Any
    status: int = 200
    mime: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Request:
    """One request: `query` are the decoded values of a GET, `body` the bytes of a POST or PUT; `headers` in lower case.

    `parameters` are what its handler takes (`common.parameters`), of whichever it came in.
    """

    method: str
    uri: str
    groups: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the body as an object; an empty body is an empty one. Raises `Refused` (400) for anything else."""
        try:
            found = decoded(self.body or b"{}")
        except ValueError as error:
            raise Refused(400, f"The body is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise Refused(400, "The body must be a JSON object of parameters")
        return found


RouteHandler = Callable[[Request], Any]
ROUTES: dict[str, Mapping[str, RouteHandler]] = {}  # what register_route() registered, for the documentation


def one_line(text: object) -> str:
    """Return text from outside as a single line: no line of a log and no header is ever made up by a sender."""
    return NOT_IN_A_LINE.sub(" ", str(text)).strip()


def register_route(
    pattern: str,
    handlers: Mapping[str, RouteHandler],
    unavailable: Callable[[], str | None],
    shortcut: Callable[[Any, str, Mapping[str, Any]], bool] | None = None,
) -> None:
    """Register a route: one handler for each method, 405 for the others, 503 while `unavailable` gives a reason.

    503 also where a handler raises sqlite3.OperationalError or OSError: its state is locked, full, read-only or gone.

    A handler returns what becomes JSON, a `str`, `bytes` or an `Answer`, or raises `Refused`. Errors have the shape of
    Orthanc's own. First it is checked whether who sends it may act (`common.cross_site`), by the headers alone; then the
    body's size, then the parameters that the handler `takes` (`common.parameters`).
    `shortcut` gets a GET that changes nothing as Orthanc gave it, before all that; it returns whether it has answered.
    """

    def callback(output: Any, uri: str, /, **raw: Any) -> None:
        method, headers = raw["method"], raw.get("headers", {})
        if method not in handlers:
            output.SendMethodNotAllowed(",".join(handlers))
            return
        handler = handlers[method]
        acts = method != "GET" or acts_on_get(handler)
        if shortcut is not None and not acts and shortcut(output, uri, raw):
            return
        try:
            if acts:
                _refuse_unless_on_purpose(method, uri, headers, raw)
            if reason := unavailable():
                raise Refused(503, reason)
            if len(body := raw.get("body", b"")) > LARGEST_BODY:
                raise Refused(413, f"The body has {len(body)} bytes, allowed: {LARGEST_BODY}")
            if answer_probe(output, raw.get("get", {})):
                return
            request = Request(method, uri, raw.get("groups", ()), _decoded_query(uri, raw), headers, body)
            answer = handler(_with_parameters(request, handler))
            _send(output, answer if isinstance(answer, Answer) else Answer(answer))
        except Refused as refused:
            _send_error(output, refused, method, uri)
        except LoopbackError as error:
            _send_error(output, Refused(503, f"Orthanc does not answer now: {error}"), method, uri)
        except (sqlite3.OperationalError, OSError) as error:  # locked, full, read-only, taken away: not for ever
            _send_error(output, Refused(503, f"The script's state can't be used now: {error}"), method, uri)
        except Exception:  # noqa: BLE001 - the caller gets a 500, the log says why, Orthanc continues
            orthanc.LogError(f"{method} {one_line(uri)} failed, please report this:\n{traceback.format_exc()}")
            _send_error(output, Refused(500, "An error in the script; Orthanc's log tells which"), method, uri)
        finally:
            close_connections()

    ROUTES[pattern] = handlers
    orthanc.RegisterRestCallback(pattern, kept_alive(callback))


def _refuse_unless_on_purpose(method: str, uri: str, headers: Mapping[str, str], raw: Mapping[str, Any]) -> None:
    if found := why_refused(method, headers, has_body=bool(raw.get("body"))):
        status, reason = found
        if method == "GET":
            reason += f". In a terminal: {as_command(headers, f'{uri}?{_encoded_query(raw)}')}"
        raise Refused(status, reason)


def _encoded_query(raw: Mapping[str, Any]) -> str:
    """Return a query as a URL has it. For a stranger nothing is asked or decoded: what is not known yet came as it was."""
    as_it_was = "" if ARRIVAL == [True] else "%+"
    pairs = raw.get("get", {}).items()
    return "&".join(
        f"{name}={urllib.parse.quote(value or '', as_it_was + ',:/', errors='replace')}" for name, value in pairs
    )


def _decoded_query(uri: str, raw: Mapping[str, Any]) -> dict[str, str]:
    query = {name: value or "" for name, value in raw.get("get", {}).items()}
    if not any("%" in value or "+" in value for value in query.values()) or _arrives_decoded(uri):
        return query
    try:
        return {name: urllib.parse.unquote_plus(value, errors="strict") for name, value in query.items()}
    except UnicodeError:
        raise Refused(400, "A parameter is not in UTF-8") from None


def _with_parameters(request: Request, handler: RouteHandler) -> Request:
    """Check what a request carries against what its handler takes. Raises `Refused` (400)."""
    is_get = request.method == "GET"
    given: Mapping[str, Any] = request.query if is_get else request.json()
    try:
        found = read_parameters(parameters_of(handler), given, from_query=is_get)
    except ParameterError as error:
        raise Refused(400, str(error)) from None
    return dataclasses.replace(request, parameters=found)


def warn_if_open(name: str, configuration: Mapping[str, Any]) -> None:
    """Say once, at start, that anybody on the network may use this script's routes, as they may Orthanc's own."""
    if configuration.get("RemoteAccessAllowed") and configuration.get("AuthenticationEnabled") is False:
        orthanc.LogWarning(
            f"{name}: whoever reaches this server may use its routes, as all of Orthanc's (AuthenticationEnabled is false)"
        )


def _arrives_decoded(uri: str) -> bool:
    try:
        return values_arrive_decoded(uri, lambda path: Loopback(json.loads(orthanc.GetConfiguration())).get(path))
    except LoopbackError:
        return False


def _send(output: Any, answer: Answer) -> None:
    content, mime = answer.content, answer.mime
    if isinstance(content, str):
        content, mime = content.encode(), mime or "text/plain; charset=utf-8"
    elif not isinstance(content, bytes):
        content, mime = json.dumps(content, indent=2).encode() + b"\n", mime or "application/json"
    for name, value in answer.headers.items():
        output.SetHttpHeader(one_line(name), one_line(value))
    if answer.status == http.HTTPStatus.OK:
        output.AnswerBuffer(content, mime)
    else:
        send_status(output, answer.status, content.decode())


def _send_error(output: Any, refused: Refused, method: str, uri: str) -> None:
    content = {
        **refused.details,
        "HttpError": http.HTTPStatus(refused.status).phrase,
        "HttpStatus": refused.status,
        "Message": one_line(refused.message),
        "Method": method,
        "Uri": uri,
    }
    send_status(output, refused.status, json.dumps(content, indent=2) + "\n")


# ---- src/common/version.py: The version of the collection, the same for all scripts; it is written here and nowhere else.


__version__ = "0.2.0"


# ---- src/common/backoff.py: Exponential back-off: with jitter for work, of which there may be much; without for a thread that tries one thing.


@dataclasses.dataclass(frozen=True)
class Backoff:
    """How long to wait after a failure: `first` seconds, then twice as long each time, up to `longest`."""

    first: float
    longest: float

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next attempt after `attempts` failed ones, by chance up to half of them less."""
        return doubled(self.first, self.longest, attempts) * random.uniform(0.5, 1)


class Pauses:
    """The pauses of one thread that tries one thing until it succeeds: `first` seconds, doubled up to `longest`."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest, self._failed = first, longest, 0

    def next(self) -> float:
        """Count a try that has failed, and return the seconds until the next one."""
        self._failed += 1
        return doubled(self._first, self._longest, self._failed)

    def reset(self) -> None:
        """Begin again with the first pause: it has succeeded."""
        self._failed = 0


def doubled(first: float, longest: float, attempts: int) -> float:
    """Return the seconds after so many failed attempts: the first ones, doubled each time, up to the longest."""
    return min(longest, first * 2.0 ** min(attempts - 1, 40))


# ---- src/common/retry.py: When what failed is tried again: exponential back-off with jitter, and an end.


FIRST_DELAY_SECONDS = 30.0  # until the second attempt
LONGEST_DELAY_SECONDS = 3600.0  # between two attempts


class RetryPolicy(Protocol):
    """What decides when work that failed is tried again, and for how long: a section `Retry`, or the like."""

    @property
    def give_up_hours(self) -> float:
        """Hours after which it is given up."""

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next attempt after so many that failed."""


@dataclasses.dataclass(frozen=True)
class Retry:
    """When what failed is tried again."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "First": "the script decides that itself now (it tries again after 30 s, then after twice as long each time)",
        "Longest": "the script decides that itself now (an hour)",
    }
    first: ClassVar[float] = FIRST_DELAY_SECONDS
    longest: ClassVar[float] = LONGEST_DELAY_SECONDS

    give_up_hours: float = dataclasses.field(
        default=72,
        metadata={
            "minimum": 0,
            "help": (
                "Hours for which it is tried again; then it is `dead` until a person retries it. Choose more "
                "than the longest outage that you expect."
            ),
        },
    )

    def delay(self, attempts: int) -> float:
        """Return the seconds until the next attempt after `attempts` failed ones: doubled each time, up to half of it less."""
        return Backoff(self.first, self.longest).delay(attempts)


# ---- src/common/ledger.py: Work that must not be lost: one SQLite file a script, written before anything is done.


SEND = "send"  # the task of a row, where its script has no other
WORK_TABLES = f"""
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS work(
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, data TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0,
    task TEXT NOT NULL DEFAULT '{SEND}', added REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS work_by_state ON work(state, task, queue, id);
CREATE INDEX IF NOT EXISTS work_by_subject ON work(subject, task, queue, state, id);
CREATE INDEX IF NOT EXISTS work_by_job ON work(job) WHERE job IS NOT NULL;
CREATE INDEX IF NOT EXISTS work_finished ON work(updated) WHERE state IN ('done','gone');
CREATE INDEX IF NOT EXISTS work_unfinished ON work(created) WHERE state IN ('waiting','sending');
CREATE TABLE IF NOT EXISTS work_counts(
    task TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY(task, queue, state)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS work_added AFTER INSERT ON work BEGIN
    INSERT INTO work_counts VALUES(new.task, new.queue, new.state, 1)
    ON CONFLICT(task, queue, state) DO UPDATE SET n=work_counts.n+1;
END;
CREATE TRIGGER IF NOT EXISTS work_removed AFTER DELETE ON work BEGIN
    UPDATE work_counts SET n=n-1 WHERE task=old.task AND queue=old.queue AND state=old.state;
END;
CREATE TRIGGER IF NOT EXISTS work_moved AFTER UPDATE OF task, queue, state ON work
WHEN new.task<>old.task OR new.queue<>old.queue OR new.state<>old.state BEGIN
    UPDATE work_counts SET n=n-1 WHERE task=old.task AND queue=old.queue AND state=old.state;
    INSERT INTO work_counts VALUES(new.task, new.queue, new.state, 1)
    ON CONFLICT(task, queue, state) DO UPDATE SET n=work_counts.n+1;
END;
INSERT INTO work_counts SELECT task, queue, state, COUNT(*) FROM work
WHERE NOT EXISTS (SELECT 1 FROM work_counts) GROUP BY task, queue, state;
"""
VERSION = 3  # of the tables above; in the first one a row's task was a name of its queue that nobody else had
# Before a script's own statements give the rows of a file of the first version their tasks. The tables above, made after
# these, count the rows again.
ADD_TASKS = f"""
ALTER TABLE work ADD COLUMN task TEXT NOT NULL DEFAULT '{SEND}';
DROP INDEX IF EXISTS work_by_state;
DROP INDEX IF EXISTS work_by_subject;
DROP TRIGGER IF EXISTS work_added;
DROP TRIGGER IF EXISTS work_removed;
DROP TRIGGER IF EXISTS work_moved;
DROP TABLE IF EXISTS work_counts;
"""
# In the second one, no row said when it was added: `created` is when the time began after which it is given up.
ADD_ADDED = "ALTER TABLE work ADD COLUMN added REAL NOT NULL DEFAULT 0; UPDATE work SET added=created;"
# Finished and unfinished states: `waiting` for its next attempt, `sending`; `done`, `gone` (what it was about was deleted),
# `dead` (given up, until a person retries or drops it).
STATES = ("waiting", "sending", "done", "gone", "dead")
BUSY_SECONDS = 0.25  # that a statement waits for another program's lock; a route waits no longer
FORGOTTEN_AT_ONCE = 500  # finished rows that one transaction deletes
# Of the write-ahead file. A full disk needs this much room for each script until all go on.
WAL_PAGES, WAL_BYTES = 256, 1 << 20
# Between the time that has passed and what the clock says, from which on somebody has set it.
CLOCK_WAS_SET_SECONDS = 60.0
NO_OLDER = """
UPDATE work SET created=CASE WHEN created+?<? THEN created+? ELSE ? END WHERE state IN ('waiting','sending')
"""
ADD_ROW = """
INSERT INTO work(queue, subject, state, attempts, next_attempt, error, job, data, created, updated, priority, task, added)
VALUES(?,?,'waiting',0,0,'',NULL,?,?,?,?,?,?) RETURNING id
"""
FORGET_FINISHED = """
DELETE FROM work WHERE id IN (
    SELECT id FROM work INDEXED BY work_finished WHERE state IN ('done','gone') AND updated<? ORDER BY updated LIMIT ?)
"""


class Statements(Protocol):
    """What executes statements, inside a transaction: a connection of sqlite3, or to PostgreSQL."""

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """Execute one statement; what it returns gives rows, and has `rowcount`."""

    def executemany(self, sql: str, rows: Any, /) -> Any:
        """Execute one statement for each of these rows."""


class Ledger:
    """One SQLite file of rows of work, for any number of threads.

    A committed row survives the death of the process; with `durability` "full" that of the power too. `is_new` means that
    the file was made now, `quarantined_to` where a corrupt one was moved to. As long as it is open, no other process can
    open it.

    Parameters
    ----------
    tables : SQL that makes more tables than those of rows of work, where they are not there.
    first_tasks : SQL that gives the rows of a file of the first version their tasks. Until then all have the task `send`.
    key : what a person sets to choose another folder, for errors.

    Raises
    ------
    StateBusyError : another process has it open.
    OSError, sqlite3.Error : it can't be made or opened (the folder, its rights, a full disk, a version newer than ours). It may
        be another time: see `Worker`.
    """

    is_shared = False
    """Whether it is in a database that several servers share."""

    def __init__(
        self,
        path: Path,
        tables: str = "",
        *,
        durability: str = "normal",
        version: int = VERSION,
        key: str = "StatePath",
        first_tasks: str = "",
    ) -> None:
        self.path, self._lock = path, threading.RLock()
        self.quarantined_to: Path | None = None
        self.is_new = False
        self._file, self._seen_changes, self._tidied_changes = -1, -1, -1
        self._first_tasks, self._clock_ahead = first_tasks, time.time() - time.monotonic()
        self._held = StateLock(path, key)
        try:
            try:
                self._open(tables, durability, version, key)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # locked, full, not allowed: nothing is wrong with the content
                self._move_aside()
                self._open(tables, durability, version, key)
        except BaseException:
            self._held.close()
            raise

    @property
    def name(self) -> str:
        """The name of its script, for the log."""
        return self.path.stem

    @property
    def where(self) -> str:
        """What a line of the log calls it."""
        return str(self.path)

    @property
    def changes(self) -> int:
        """A number that rises with each row that is changed through this one."""
        return self._db.total_changes

    def reader(self) -> Any:
        """Return a connection that only reads, for one thread at a time: it waits for no writer."""
        connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        connection.execute("PRAGMA cache_size=-2000")
        return connection

    def _open(self, tables: str, durability: str, version: int, key: str) -> None:
        for suffix in ("-wal", "-shm"):
            make_private(Path(f"{self.path}{suffix}"))
        # Stays open: it shows whether the file is still the one at its path. SQLite gives its -wal and -shm the same mode.
        self._file = open_private(self.path, key=key)
        self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=BUSY_SECONDS)
        try:
            self._db.row_factory = sqlite3.Row
            # To its end: on Python 3.14 a cursor can outlive its line in an HTTP thread of Orthanc (a stack of 100 KB), and as
            # long as this one is under way, nothing can be committed.
            self._db.execute("PRAGMA journal_mode=WAL").fetchall()
            self._db.execute(f"PRAGMA synchronous={durability}")
            self._db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}").fetchall()
            self._db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}").fetchall()
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            self.is_new = found == 0
            if found > version:
                raise sqlite3.OperationalError(
                    f"{self.path} is of version {found}, made by a newer script than this one"
                )
            if complaint := [row[0] for row in self._db.execute("PRAGMA quick_check(1)") if row[0] != "ok"]:
                raise sqlite3.DatabaseError(complaint[0])
            sql = f"{self._migration()} {WORK_TABLES} {tables} PRAGMA user_version={version};"
            self._db.executescript(f"BEGIN IMMEDIATE; {sql} COMMIT;")
        except BaseException:
            self._close_files()
            raise

    def _migration(self) -> str:
        """Return what brings a file of an older version up to date; "" for a new one, and for one that is."""
        columns = {row["name"] for row in self._db.execute("PRAGMA table_info(work)")}
        tasks = f"{ADD_TASKS} {self._first_tasks}" if columns and "task" not in columns else ""
        return f"{tasks} {ADD_ADDED}" if columns and "added" not in columns else tasks

    def _close_files(self) -> None:
        self._db.close()
        # After SQLite has closed its own: closing this one ends every lock that the process has on the file.
        os.close(self._file)
        self._file = -1

    def _move_aside(self) -> None:
        self.quarantined_to = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
        self.path.replace(self.quarantined_to)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                self._close_files()
            self._held.close()

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self._close_files()

    def check(self) -> None:
        """Raise StateGoneError if the file, or its lock, was deleted or replaced: nothing can be written down then."""
        with self._lock:
            must_be_same(self._file, self.path)
        self._held.check()

    def tidy(self) -> None:
        """Empty the write-ahead file, if nothing was written since the last call: on a full disk that room helps others."""
        self._follow_clock()
        changes = self._db.total_changes
        if changes == self._seen_changes != self._tidied_changes:
            self.checkpoint()
            self._tidied_changes = changes
        self._seen_changes = changes

    def _follow_clock(self) -> None:
        """Let what is unfinished be no older than it was where somebody has set the clock: it would be given up for that."""
        ahead = time.time() - time.monotonic()
        if abs(ahead - self._clock_ahead) > CLOCK_WAS_SET_SECONDS:
            later, now = max(0.0, ahead - self._clock_ahead), time.time()
            self.run(NO_OLDER, later, now, later, now)
            self._clock_ahead = ahead

    def checkpoint(self) -> None:
        """Bring the write-ahead file into the ledger and empty it."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Statements]:
        """Write all that is written inside, or nothing of it. May be nested."""
        with self._lock:
            self._must_be_open()
            if self._db.in_transaction:
                yield self._db
                return
            must_be_same(self._file, self.path)
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.rollback()  # a COMMIT that failed leaves its transaction open
                raise

    def _must_be_open(self) -> None:
        # A request came just before Orthanc's end: no bug, and sqlite3.ProgrammingError would look like one.
        if self._file < 0:
            raise sqlite3.OperationalError(f"{self.path} is closed")

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock:
            self._must_be_open()
            return [dict(row) for row in self._db.execute(sql, parameters)]

    def run(self, sql: str, *parameters: Any) -> int:
        """Execute one statement, committed on return; gives the number of rows changed."""
        with self.transaction() as db:
            return int(db.execute(sql, parameters).rowcount)

    def get_value(self, name: str, default: int = 0) -> int:
        """Return a number of the table `state`, or the default."""
        return next((int(row["value"]) for row in self.rows("SELECT value FROM state WHERE name=?", name)), default)

    def set_value(self, name: str, value: int) -> None:
        """Keep a number in the table `state`."""
        self.run("INSERT INTO state VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value", name, value)

    def add(self, queue: str, resource: str, data: Mapping[str, Any], priority: int = 0, task: str = SEND) -> int:
        """Add a row about a resource, `waiting` and due now, before those of a lower priority; return its id."""
        with self.transaction() as db:
            now = time.time()
            values = (queue, resource, json.dumps(data), now, now, priority, task, now)
            return int(db.execute(ADD_ROW, values).fetchall()[0][0])

    def due(self, queue: str, limit: int, longest: float, task: str = SEND) -> list[dict[str, Any]]:
        """Return the next rows of a task and queue, of each resource only the oldest unfinished one, so that order holds.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self.rows(
            "SELECT * FROM work w WHERE task=? AND queue=? AND state='waiting' AND (next_attempt<=? OR next_attempt>?) "
            "AND NOT EXISTS (SELECT 1 FROM work o WHERE o.subject=w.subject AND o.task=w.task AND o.queue=w.queue "
            "AND o.state IN ('waiting','sending') AND o.id<w.id) ORDER BY priority DESC, id LIMIT ?",
            *(task, queue, time.time(), time.time() + longest, limit),
        )

    def start(self, row: int) -> None:
        """Say that this attempt begins: before it does."""
        self.run("UPDATE work SET state='sending',attempts=attempts+1,job=NULL,updated=? WHERE id=?", time.time(), row)

    def end(self, row: int, state: str) -> None:
        self.run("UPDATE work SET state=?,error='',updated=? WHERE id=?", state, time.time(), row)

    def fail(self, row: int, error: str, retry: RetryPolicy, *, give_up: bool = False) -> str:
        """Let a row wait for its next attempt, or be `dead` if that took too long, or is of no use; return its state."""
        with self.transaction():
            self._follow_clock()
            found = self.rows("SELECT attempts, created FROM work WHERE id=?", row)[0]
            now = time.time()
            state = "dead" if give_up or now - found["created"] > retry.give_up_hours * 3600 else "waiting"
            sql = "UPDATE work SET state=?,error=?,next_attempt=?,updated=? WHERE id=?"
            self.run(sql, state, error, now + retry.delay(found["attempts"]), now, row)
            return state

    def totals(self) -> dict[str, int]:
        """Return the number of rows in each state, kept as they change: what is finished costs nothing."""
        found = {row["state"]: row["n"] for row in self.rows("SELECT state, SUM(n) n FROM work_counts GROUP BY state")}
        return {state: found.get(state, 0) for state in STATES}

    def queues(self, state: str, task: str = SEND) -> dict[str, int]:
        """Return the queues that have rows of a task in a state, with their number."""
        sql = "SELECT queue, n FROM work_counts WHERE task=? AND state=? AND n>0 ORDER BY queue"
        rows = self.rows(sql, task, state)
        return {row["queue"]: row["n"] for row in rows}

    def forget_finished(self, days: float) -> bool:
        """Delete the oldest rows that ended so many days ago, few at a time; return whether there may be more."""
        return self.run(FORGET_FINISHED, time.time() - days * 86400, FORGOTTEN_AT_ONCE) == FORGOTTEN_AT_ONCE


# ---- src/common/worker.py: The one thread of a script: it opens the script's state, however long that takes, then works until Orthanc ends.


FIRST_RETRY, LONGEST_RETRY = 1.0, 10.0  # seconds until the state is tried again
STANDBY_SECONDS = 2.0  # until a server that stands by looks again whether the work is free
AFTER_FAULT, AFTER_BUG = 2.0, 5.0  # seconds until the next turn, after a fault outside and one of ours
LOOK_AT_STATE = 5.0  # seconds between two looks at whether the state is still there
STARTS_WITHIN = 5.0  # seconds that a request waits for the script
STOPS_WITHIN = 2.0  # seconds that the end of Orthanc waits for the thread


def repr_of(error: BaseException) -> str:
    """Return `repr(error)` as UTF-8 has it: what a user's own code raises may fail at that too, and must hold up nothing."""
    try:
        return repr(error).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - whatever a class does there
        return f"{type(error).__name__} (which can't be shown)"


def first_line(text: str) -> str:
    """Return a line of the log without the traceback that may follow it: what a person is told who asks."""
    return text.partition("\n")[0]


class Trouble:
    """What keeps a script from its work: one line of the log when it begins, and one when it is over."""

    def __init__(self, name: str) -> None:
        self._name, self._why = name, ""
        self.text = ""
        """The line of the log as long as it lasts, else ""."""
        self.last: tuple[str, float] | None = None
        """The first line of what went wrong last, and when (seconds since 1970), also when it is over."""

    def begins(self, text: str, why: str, log: Callable[[str], None] | None = None) -> None:
        """Say so, unless it is what was said last. `why` is the part whose first line is repeated when it is over."""
        if text != self.text:
            (log or orthanc.LogError)(text)
            self.last = first_line(text), time.time()
        self.text, self._why = text, first_line(why)

    def note(self, text: str) -> None:
        """Remember a failure that was logged and does not keep the script from its work."""
        self.last = text, time.time()

    def is_over(self) -> None:
        """Say so, if there was any."""
        if self.text:
            orthanc.LogWarning(f"{self._name} goes on, this is over: {self._why}")
        self.text = self._why = ""


class Worker:
    """Opens a script's state until it can, then takes turn after turn, until `stop`.

    Parameters
    ----------
    name : of the script: of the thread, and in the log.
    open_state : opens the ledger and returns it. Called again, after 1 to 10 s, as long as it raises OSError or sqlite3.Error,
        with nothing left open; a ValueError (the configuration is wrong) turns the script off.
    turn : does what there is to do, and returns the seconds until the next turn, unless `wake` is set before. Whatever it
        raises is said once, and it is called again after 2 s. What it has not committed, it must find again then.
    finish : does what is to be done after the last turn, before the state is closed.
    lose : ends what `open_state` has begun: another server has taken the state, which is opened again when that one ends.

    Examples
    --------
    >>> worker = Worker("auto_retries", self._open, self._turn)  # doctest: +SKIP
    >>> worker.start()  # at ORTHANC_STARTED
    >>> register_route("/auto-retries/status", {"GET": self.get_status}, worker.why_not)
    >>> worker.stop()  # at ORTHANC_STOPPED
    """

    def __init__(
        self,
        name: str,
        open_state: Callable[[], Ledger],
        turn: Callable[[], float],
        finish: Callable[[], None] = lambda: None,
        lose: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self._open_state, self._turn, self._finish, self._lose = name, open_state, turn, finish, lose
        self.wake, self.stopping = threading.Event(), threading.Event()
        self.trouble = Trouble(name)
        self.unavailable: str | None = f"{name} has not started yet"
        """Why nothing can be asked of the script, or None: not started, idle until something is over, off, stopped."""
        self.is_off = False
        """Whether it stays idle until the configuration is corrected and Orthanc restarted: events are of no use to it."""
        self.is_waiting = False
        """Whether it can't open its state because another process has it."""
        self.worked_by: str | None = None
        """The server that works, while this one stands by."""
        self._ledger: Ledger | None = None
        self._is_decided, self._decision = False, threading.Condition()  # whether the state was opened, or can't be now
        self._next_look = 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def end(self, seconds: float = STOPS_WITHIN) -> bool:
        """End after the turn that is under way; return whether it has ended within this time. The state stays open."""
        self.stopping.set()
        self.wake.set()
        if self._thread.is_alive():
            self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def stop(self, seconds: float = STOPS_WITHIN) -> bool:
        """End, and close the state; return whether the thread has ended within this time."""
        if not self.end(seconds):
            return False
        self.unavailable = f"{self.name} has stopped"
        if self._ledger:
            self._ledger.close()  # the process that waits for it may go on while this one still ends
        return True

    def why_not(self) -> str | None:
        """Return why the routes can't answer, or None; Orthanc answers requests a moment before it says that it has started."""
        self.wait_for_first_try(STARTS_WITHIN)
        return self.unavailable

    def wait_for_first_try(self, seconds: float) -> None:
        """Wait until it was tried once to open the state, at most so long."""
        with self._decision:
            self._decision.wait_for(lambda: self._is_decided, seconds)

    def turn_off(self, reason: str) -> None:
        """Stay idle for this reason until the configuration is corrected."""
        self.unavailable, self.is_off = reason, True
        self.trouble.note(reason)
        orthanc.LogError(reason)
        self.stopping.set()
        self._decide()

    def _decide(self) -> None:
        with self._decision:
            self._is_decided = True
            self._decision.notify_all()

    # The thread

    def _work(self) -> None:
        while not self.stopping.is_set():
            pauses = Pauses(FIRST_RETRY, LONGEST_RETRY)
            while not self.stopping.is_set() and not self._opens():
                self.stopping.wait(STANDBY_SECONDS if self.worked_by else pauses.next())
            while not self.stopping.is_set() and not self.worked_by:
                self.wake.clear()
                wait = self._take_turn()
                self.wake.wait(min(wait, LOOK_AT_STATE))
        if self._ledger and not self.worked_by:
            self._finish()

    def _stand_by(self, error: StateLostError) -> None:
        """Leave the work to the server that has taken it."""
        assert self._ledger
        why = one_line(error)
        self.unavailable, self.is_waiting, self.worked_by = (
            f"{self.name} is idle until this is over: {why}",
            True,
            error.worked_by,
        )
        self.trouble.begins(self.unavailable, why, orthanc.LogWarning)
        self._ledger.close()
        self._lose()

    def _opens(self) -> bool:
        """Try to open the state; return whether it is open."""
        log, waits, worked_by = orthanc.LogError, False, None
        try:
            self._ledger = self._open_state()
            self.trouble.is_over()
            self.unavailable, self.is_waiting, self.worked_by = None, False, None
            self._decide()
            return True
        except ValueError as error:
            self.turn_off(f"{self.name} stays idle: {one_line(error)}")
            return False
        except (OSError, sqlite3.Error) as error:
            why = one_line(error)
            waits = isinstance(error, StateBusyError)
            worked_by = error.worked_by if isinstance(error, StandsByError) else None
            log = orthanc.LogWarning if waits else log
        except Exception:  # noqa: BLE001 - whatever it is, it may be over the next time
            why = f"an error, please report it:\n{traceback.format_exc()}"
        text = f"{self.name} is idle until this is over: {why}"
        self.unavailable, self.is_waiting = first_line(text), waits
        self.worked_by = worked_by
        self._decide()
        self.trouble.begins(text, why, log)
        return False

    def _take_turn(self) -> float:
        try:
            if self.trouble.text:  # before anything is written: it needs room itself, and gives more than that
                self._make_room()
            self._look_at_state()
            wait = self._turn()
            if not self.stopping.is_set():
                self.trouble.is_over()
            return wait
        except StateLostError as error:
            self._stand_by(error)
            return 0.0
        except StateGoneError as error:
            why = one_line(error)
            self.unavailable = f"{self.name} is idle: {why}"
            text, wait = self.unavailable, AFTER_FAULT
        except (LoopbackError, sqlite3.Error, OSError) as error:
            why, wait = one_line(error), AFTER_FAULT
            text = f"{self.name} goes on when this is over: {why}"
        except Exception:  # noqa: BLE001 - one odd study never ends the thread that serves all
            why, wait = "an error", AFTER_BUG
            text = f"{self.name} met an error, please report it:\n{traceback.format_exc()}"
        if not self.stopping.is_set():  # a call of Orthanc's after it has stopped would crash it
            self.trouble.begins(text, why)
        return wait

    def _look_at_state(self) -> None:
        """Raise StateGoneError if the state was taken away; if it came back, it is the very same."""
        assert self._ledger
        now = time.monotonic()
        if now >= self._next_look or self.unavailable:
            self._ledger.check()
            self.unavailable = None
            self._ledger.tidy()
            self._next_look = now + LOOK_AT_STATE

    def _make_room(self) -> None:
        """Empty the write-ahead file: a full disk may have no other room for what is to be written."""
        assert self._ledger
        with contextlib.suppress(sqlite3.Error, OSError):
            self._ledger.checkpoint()


# ---- src/common/status.py: The status of a script, the same fields for all, and the routes that speak for all scripts: `/scripts`, `/scripts/health`.


RUNNING, IDLE, MISCONFIGURED, WAITING, STANDBY = "running", "idle", "misconfigured", "waiting", "standby"
LOADED_AT = time.time()
# What the runtime of a combined file (combine.py) puts into a script's `orthanc`: it answers `/scripts` for all of them.
HAND_OVER = "add_script_entries"


@dataclasses.dataclass(frozen=True)
class Condition:
    """Whether a script works.

    Attributes
    ----------
    state : "running"; "standby", while another server works; "misconfigured", until the configuration is corrected; "waiting",
        for another process that has its state;
        "idle": it has not started, has stopped, can't open its state, or there is nothing that it should do.
    reason : one line: why it does not run, or what goes wrong just now.
    last_error : text and time (seconds since 1970) of what went wrong last, also when it is over.
    is_unused : idle because nothing is configured for it, which is no fault.
    server, worked_by : the names of this server and of the one that works, where several share the state.
    """

    state: str
    reason: str | None = None
    last_error: tuple[str, float] | None = None
    is_unused: bool = False
    server: str | None = None
    worked_by: str | None = None

    @property
    def is_healthy(self) -> bool:
        """Return whether nobody has to look at it."""
        return self.is_unused or self.state == STANDBY or (self.state == RUNNING and self.reason is None)


def misconfigured(refusal: str) -> Condition:
    """Return the condition of a script that stays idle until its configuration is corrected."""
    return Condition(MISCONFIGURED, refusal, (refusal, LOADED_AT))


def unused(why: str) -> Condition:
    """Return the condition of a script for which nothing is configured."""
    return Condition(IDLE, why, is_unused=True)


def condition_of(worker: Worker, refusal: str | None = None, server: str | None = None) -> Condition:
    """Return the condition of a script that works in a `Worker`; waits for nothing.

    With a `refusal` (the configuration is wrong) it is never started. `server` : the name of this one, where several share
    the state.
    """
    if refusal:
        return misconfigured(refusal)
    last, worked_by = worker.trouble.last, worker.worked_by
    if worked_by:
        return Condition(STANDBY, first_line(worker.unavailable or ""), None, server=server, worked_by=worked_by)
    if reason := worker.unavailable:
        state = MISCONFIGURED if worker.is_off else WAITING if worker.is_waiting else IDLE
        return Condition(state, first_line(reason), last, server=server)
    return Condition(RUNNING, first_line(worker.trouble.text) or None, last, server=server, worked_by=server)


@dataclasses.dataclass(frozen=True)
class ListedScript:
    """A script as `/scripts` lists it: its name, its condition, and where its routes and its status are."""

    name: str
    look: Callable[[], Condition]
    routes: str | None
    status: str

    def entry(self) -> dict[str, Any]:
        """Return what `/scripts` says of it."""
        found = self.look()
        return {
            "Name": self.name,
            "State": found.state,
            "Reason": found.reason,
            "Version": __version__,
            "Healthy": found.is_healthy,
            "Routes": self.routes,
            "Status": self.status,
        }


LISTED_SCRIPTS: list[ListedScript] = []  # one, or as many as a script of a user's own has


def register_status(
    name: str,
    look: Callable[[], Condition],
    report: Callable[[Request], Mapping[str, Any]],
    wait: Callable[[], object] = lambda: None,
    *,
    base: str = "",
    routes: str | None = "",
    also: str = "",
) -> ListedScript:
    """Register `/NAME/status`, `/NAME` (the script's routes) and, alone, `/scripts` and `/scripts/health`; return its entry.

    Parameters
    ----------
    name : of the script, with `_`.
    look : returns its condition, and waits for nothing: probes ask for it every few seconds.
    report : returns `Totals` (numbers by state) and the script's own fields; called only while it runs. Its docstring is that
        of the route.
    wait : is called before the status is looked at: a request may come a moment before Orthanc says that it has started.
    base : what its routes begin with, if not `/NAME` with `-`.
    routes : the path of the list of routes, where `base` does something else; None: there is none.
    also : another path of the status, which is known outside.

    Examples
    --------
    >>> register_status("auto_retries", lambda: condition_of(worker), routes.status, worker.why_not)  # doctest: +SKIP
    """
    base = base or f"/{name.replace('_', '-')}"
    script = ListedScript(name, look, base if routes == "" else routes, f"{base}/status")

    def status(request: Request) -> dict[str, Any]:
        wait()
        return _status_answer(look(), lambda: report(request))

    status.__doc__ = report.__doc__
    for path in filter(None, (script.status, also)):
        register_route(path, {"GET": status}, _never)
    if script.routes:
        register_route(script.routes, {"GET": list_routes}, _never)
    if not LISTED_SCRIPTS:
        _speak_for_all()
    LISTED_SCRIPTS.append(script)
    return script


def _status_answer(found: Condition, report: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return the status of a script that runs. Raises `Refused` (503) with the same fields for one that does not."""
    if found.state == RUNNING:
        try:
            own = report()
        except (sqlite3.OperationalError, OSError) as error:  # locked, full, read-only, taken away: not for ever
            reason = f"The script's state can't be used now: {one_line(error)}"
            found = dataclasses.replace(found, state=IDLE, reason=reason)
        else:
            return {**_common_fields(found), **own}
    raise Refused(503, found.reason or found.state, **_common_fields(found))


def _common_fields(found: Condition) -> dict[str, Any]:
    """Return what each status has."""
    last = found.last_error
    return {
        **({"Server": found.server, "WorkedBy": found.worked_by} if found.server else {}),
        "State": found.state,
        "Reason": found.reason,
        "Version": __version__,
        "LastError": last and {"Text": last[0], "Time": utc(last[1])},
        "Totals": {},
    }


def _never() -> None:
    """Return no reason: these routes always answer."""


def list_routes(_request: Request) -> list[dict[str, Any]]:
    """Return the script's routes: method, path, parameters, and what each does."""
    return listed(ROUTES)


def list_scripts(_request: Request) -> list[dict[str, Any]]:
    """Return all scripts of this Orthanc: state, reason, version, and where the routes and the status of each are."""
    return entries()


def health(_request: Request) -> dict[str, Any]:
    """Return 200 if all scripts run and nothing is wrong, else 503 with those that don't and why: for a probe."""
    found = entries()
    unhealthy = [each for each in found if not each["Healthy"]]
    fields = {"Healthy": not unhealthy, "Scripts": len(found), "Unhealthy": unhealthy}
    if unhealthy:
        raise Refused(503, "; ".join(f"{each['Name']}: {each['Reason']}" for each in unhealthy), **fields)
    return fields


def entries() -> list[dict[str, Any]]:
    """Return what `/scripts` says of this script."""
    return [script.entry() for script in LISTED_SCRIPTS]


def _speak_for_all() -> None:
    """Register `/scripts` and `/scripts/health`; in a combined file its runtime has them, and asks each script."""
    if hand_over := getattr(orthanc, HAND_OVER, None):
        hand_over(entries)
        return
    register_route("/scripts", {"GET": list_scripts}, _never)
    register_route("/scripts/health", {"GET": health}, _never)


# ---- src/common/metrics.py: What a script adds to Orthanc's metrics (`/tools/metrics-prometheus`): whether it works, and its numbers.


MEASURED_AFTER_SECONDS = 1.0  # from the start of Orthanc to the first values
MEASURED_EVERY_SECONDS = 5.0
MEASURED_WITHIN_SECONDS = 1.0  # that the end of Orthanc waits for values that are being read
OnChangeCallback = Callable[[int, int, str], object]
Measure = Callable[[], Mapping[str, float]]


class MetricsReporter:
    """Sets the metrics of a script every few seconds, from a thread of its own, until `stop`.

    Each value is set again even if it has not changed: Orthanc writes the time of each beside it, and Prometheus drops what
    is older than five minutes. (Values that are set before ORTHANC_STARTED are lost, and a call after ORTHANC_STOPPED would
    crash Orthanc.)

    Parameters
    ----------
    name : of the script, with `_`.
    look : returns its condition, from memory.
    measure : returns its numbers; called only while it runs. Statements on its ledger must cost the same however much that holds.
    """

    def __init__(self, name: str, look: Callable[[], Condition], measure: Measure) -> None:
        self._name, self._look, self._measure = name, look, measure
        self._calling, self._stopping = threading.Lock(), threading.Event()
        self._complaint = ""
        self._thread = threading.Thread(target=self._work, name=f"{name} metrics", daemon=True)

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def stop(self) -> None:
        """End: no call of Orthanc's begins after this."""
        self._stopping.set()
        with self._calling:
            pass  # the one that is under way has ended
        if self._thread.is_alive():
            self._thread.join(MEASURED_WITHIN_SECONDS)

    def around(self, on_change: OnChangeCallback) -> OnChangeCallback:
        """Return a callback for OnChange that starts and stops this, and calls another one."""
        started, stopped = int(orthanc.ChangeType.ORTHANC_STARTED), int(orthanc.ChangeType.ORTHANC_STOPPED)

        def start_and_stop(change: int, level: int, resource: str) -> object:
            if change == started:
                self.start()
            elif change == stopped:
                self.stop()
            return on_change(change, level, resource)

        return start_and_stop

    def _work(self) -> None:
        seconds = MEASURED_AFTER_SECONDS
        while not self._stopping.wait(seconds):
            seconds = MEASURED_EVERY_SECONDS
            try:
                self.report()
            except Exception:  # noqa: BLE001 - one odd number never ends the thread
                self._log_once(f"{self._name} can't be measured, please report it:\n{traceback.format_exc()}")

    def report(self) -> None:
        """Set all values once."""
        found = self._look()
        self._set("idle", found.state not in (RUNNING, STANDBY) and not found.is_unused)
        self._set("unhealthy", not found.is_healthy)
        if found.state == RUNNING:
            # Where the state can't be read now, the values before stay: `unhealthy` says that something is wrong.
            with contextlib.suppress(sqlite3.Error, OSError, LoopbackError):
                for what, value in self._measure().items():
                    self._set(what, value)

    def _set(self, what: str, value: float) -> None:
        with self._calling:
            if not self._stopping.is_set():
                orthanc.SetMetricsValue(f"{self._name}_{what}", float(value), orthanc.MetricsType.DEFAULT)

    def _log_once(self, text: str) -> None:
        with self._calling:
            if text != self._complaint and not self._stopping.is_set():
                orthanc.LogError(text)
        self._complaint = text


def ignore_change(_change: int, _level: int, _resource: str) -> None:
    """Do nothing when something changes: a script that refuses its configuration reports just that."""


def listen_to_changes(
    script: ListedScript, on_change: OnChangeCallback = ignore_change, measure: Measure = dict[str, float]
) -> None:
    """Register the callback for OnChange of a script, which reports its metrics too.

    Examples
    --------
    >>> script = register_status("auto_retries", look, routes.status)  # doctest: +SKIP
    >>> listen_to_changes(script, retrier.on_change, retrier.measure)
    """
    reporter = MetricsReporter(script.name, script.look, measure)
    orthanc.RegisterOnChangeCallback(kept_alive(reporter.around(kept_alive(on_change))))


# ---- src/common/packages.py: Python packages that a script needs: whether one is missing or too old, and what a person does about it.


def package_problem(package: str, least: str, found: str | None, debian: str = "") -> str | None:
    """Return what is wrong with an installed package, and the remedy; None if it is there and new enough.

    Parameters
    ----------
    package : its name for pip.
    least : the oldest version that works, as `2.3`.
    found : the version that is installed, None if none is.
    debian : its name for apt, if Debian 12's version is new enough.

    >>> package_problem("httpx", "0.23", "0.28.1") is None
    True
    """
    if found is not None and _numbers(found) >= _numbers(least):
        return None
    state = f"found {found}" if found else "found none"
    by_apt = f"apt install {debian}, or " if debian else ""
    return (
        f"it needs the Python package {package}, {least} or newer ({state}). Install it: {by_apt}a virtual environment "
        'as in docs/install.md, "Packages" (the Dockerfile installs it); then restart Orthanc'
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


# ---- src/common/outside.py: Services of others, called over HTTP by the package requests: one host each, no redirects, bounded in time and size.


REQUESTS = ("requests", "2.28", "python3-requests")  # for pip, the oldest version that works (Debian 12's), for apt
IDLE_CONNECTION_SECONDS = (
    4.0  # after which a kept connection is not trusted any more: many servers close theirs after 5
)
CONNECTIONS_KEPT = 4  # of calls at the same time
LOGGERS = ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry")  # what they log has URLs in it
THREAD = threading.local()  # .call: what the thread asks now, if it asks


class OutsideError(Exception):
    """There is no answer: the service can't be reached, is not who it should be, or took too long."""


class UnsendableError(Exception):
    """A request that can't be sent to anybody, because of what is in it."""


@dataclasses.dataclass(frozen=True)
class OutsideAnswer:
    """What a service answered; `problem` is why `body` is not all of it, or ""."""

    status: int
    reason: str
    body: bytes
    problem: str = ""


def proxy_or_null(proxy: str | None) -> str | None:
    """Return what is allowed as a proxy in a configuration, unless this is."""
    with contextlib.suppress(ValueError):  # the port, or brackets
        parts = urllib.parse.urlsplit(proxy or "")
        if proxy is None or (parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/")):
            return None
    return "http://HOST:PORT, with USER:PASSWORD@ before the host if it wants them, or null"


def requests_problem() -> str | None:
    """Return why requests can't be used, and the remedy, without importing it; None if it can."""
    package, least, debian = REQUESTS
    if importlib.util.find_spec(package) is None:
        return package_problem(package, least, None, debian)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # it works without its metadata too
        return package_problem(package, least, importlib.metadata.version(package), debian)
    return None


def import_requests() -> None:
    """Import requests. OutsideCall it in a thread of the script's own: for those of Orthanc's web server it may be too large.

    Raises
    ------
    ImportError : it is missing, too old or broken.
    """
    package, least, debian = REQUESTS
    try:
        import requests
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(package_problem(package, least, None, debian)) from None
    if problem := package_problem(package, least, requests.__version__, debian):
        raise ImportError(problem)


class Outside:
    """One service: a session, and the calls that are under way. Any thread may call; several may at a time.

    Parameters
    ----------
    url : scheme, host and port; what else is in it is not used.
    ca_file : whom to trust (PEM); None: the authorities of the system.
    certificate_file, key_file, key_password : the client certificate (PEM), its key if that is in another file.
    proxy : `http://[USER:PASSWORD@]HOST:PORT`; None: none.
    connections : how many are kept for the next calls.

    Raises
    ------
    OSError : a file of certificates can't be read (ssl.SSLError is one).
    """

    def __init__(
        self,
        url: str,
        *,
        verify_tls: bool = True,
        ca_file: str | None = None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        key_password: str = "",
        proxy: str | None = None,
        connections: int = CONNECTIONS_KEPT,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        self._origin = f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2]}"
        self._host, self._verify_tls, self._proxy, self._connections = parts.hostname, verify_tls, proxy, connections
        self._context: ssl.SSLContext | None = None
        if parts.scheme.lower() == "https":
            self._context = context = ssl.create_default_context(cafile=ca_file)
            if not verify_tls:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate_file:
                # With a password OpenSSL does not ask for one at a terminal that nobody sits at.
                context.load_cert_chain(certificate_file, key_file, key_password)
        self._lock = threading.Lock()
        self._session: Any = None
        self._under_way: set[OutsideCall] = set()
        self._used, self._is_closed = 0.0, False

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        timeout: float,
        body: bytes | None = None,
        total: float | None = None,
        largest: int = 0,
    ) -> OutsideAnswer:
        """Send a request, and return the answer, whatever its status: a redirect is not followed.

        Parameters
        ----------
        target : path and query, percent-encoded. It is sent as it is.
        timeout : seconds to connect, and that the service may be silent.
        total : seconds for all of it, however slowly the service answers; None: twice `timeout`. (A name that has several
            addresses, each of which has to be waited for, may take longer.)
        largest : bytes of the answer's body that are read, 0 for a caller who looks at the status only.

        Raises
        ------
        UnsendableError : this request can't be sent.
        OutsideError : there is no answer.
        """
        total = 2 * timeout if total is None else total
        call = OutsideCall()
        clock = threading.Timer(total, call.end, [f"it took longer than {total:g} s"])
        clock.daemon = True
        session = self._begin(call)
        try:
            prepared = self._prepare(session, method, target, headers, body)
            THREAD.call = call
            clock.start()
            silent = min(timeout, total + 1)  # the clock is to end what takes too long: so it is told
            response = session.send(prepared, stream=True, timeout=silent, allow_redirects=False)
            with contextlib.closing(response):
                if call.ended:  # headers that break off are no error of http.client's
                    raise OutsideError(call.ended)
                content, problem = read_answer(response, largest, call)
            return OutsideAnswer(response.status_code, str(response.reason or ""), content, problem)
        except (UnsendableError, OutsideError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is: what requests and urllib3 raise quotes the URL
            raise OutsideError(call.ended or why_unanswered(error)) from None
        finally:
            THREAD.call = None
            clock.cancel()
            self._end(call)

    def close(self) -> None:
        """End all calls that are under way, each with an `OutsideError`, and take no more."""
        with self._lock:
            self._is_closed = True
            calls, session = list(self._under_way), self._session
        for call in calls:
            call.end("it was ended here")
        if session is not None:
            session.close()

    def _begin(self, call: OutsideCall) -> Any:
        with self._lock:
            if self._is_closed:
                raise OutsideError("it was ended here")
            if self._session is None:
                self._session = self._open()
            elif not self._under_way and time.monotonic() - self._used > IDLE_CONNECTION_SECONDS:
                self._session.close()  # its connections; it opens others
            self._under_way.add(call)
            return self._session

    def _end(self, call: OutsideCall) -> None:
        call.forget_socket()
        with self._lock:
            self._under_way.discard(call)
            self._used = time.monotonic()

    def _open(self) -> Any:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(is_none_of_ours)
        if not self._verify_tls:  # so it was configured; urllib3 would warn of it
            warnings.filterwarnings(
                "ignore", f"Unverified HTTPS request is being made to host '{re.escape(str(self._host))}'"
            )
        session = make_session(self._context, self._connections)
        session.trust_env = False  # no proxy of the environment, no .netrc, no other authorities
        session.verify = self._verify_tls
        session.proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else {}
        session.headers.clear()
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))  # none is kept
        return session

    def _prepare(self, session: Any, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Any:
        import requests

        # An answer that is sent as it is has the size that it seems to have.
        sent = {"Accept-Encoding": "identity", **{name: value.strip() for name, value in headers.items()}}
        try:
            for value in sent.values():
                value.encode("latin-1")
            prepared = session.prepare_request(requests.Request(method, "http://outside/", sent, data=body))
        except (requests.RequestException, ValueError) as error:
            raise UnsendableError(f"a header or the body can't be sent ({type(error).__name__})") from None
        # As it is: requests makes `..` of `%2E%2E`, and a way out of its folder of a value that has it.
        prepared.url = self._origin + target
        return prepared


class OutsideCall:
    """One request that is under way. To end it, its connection is shut down: whoever reads from it reads no more.

    The timeout of a socket alone is not enough: it begins again with each byte.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.ended = ""
        """Why it was ended, or ""."""

    def use_socket(self, connected: socket.socket) -> None:
        """Take the socket of the connection by which it is sent."""
        with self._lock:
            self._socket = connected
        if self.ended:
            self.end(self.ended)

    def forget_socket(self) -> None:
        """Leave the connection to the next call."""
        with self._lock:
            self._socket = None

    def end(self, why: str) -> None:
        """End it, from another thread."""
        with self._lock:
            self.ended = self.ended or why
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # of TLS, too, only the socket


def make_session(context: ssl.SSLContext | None, connections: int) -> Any:
    """Return a session of requests that trusts as `context` says, follows no redirect, and gives each `OutsideCall` its socket.

    The classes are made here, because those that they are made from are imported late.
    """
    import requests
    import requests.adapters
    import urllib3
    import urllib3.connection
    import urllib3.connectionpool

    if context is not None and urllib3.__version__.startswith("1."):  # type: ignore[attr-defined]
        # It gives OpenSSL no name where the host is an address, and compares the certificate with both itself.
        context.check_hostname = False

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            give_socket(self.sock)

        def request(self, *arguments: Any, **named: Any) -> None:
            give_socket(self.sock)
            super().request(*arguments, **named)

    class EncryptedConnection(Connection, urllib3.connection.HTTPSConnection):
        pass

    class Pool(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = Connection

    class EncryptedPool(urllib3.connectionpool.HTTPSConnectionPool):
        ConnectionCls = EncryptedConnection

    pools = {"http": Pool, "https": EncryptedPool}

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
            super().init_poolmanager(*arguments, **named, ssl_context=context)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: Any, **named: Any) -> Any:
            manager = super().proxy_manager_for(proxy, **named, ssl_context=context)
            manager.pool_classes_by_scheme = pools
            return manager

        def cert_verify(self, *_: Any) -> None:
            """Leave the context as it is: requests would add authorities of its own."""

    class Session(requests.Session):
        def get_redirect_target(self, *_: Any) -> None:
            """Return nowhere. `allow_redirects=False` is not enough: it reads the body of a redirect, however large."""

    session = Session()
    adapter = Adapter(pool_connections=1, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def give_socket(connected: socket.socket | None) -> None:
    """Let the call of this thread know by which connection it is sent."""
    call = getattr(THREAD, "call", None)
    if call is not None and connected is not None:
        call.use_socket(connected)


def is_none_of_ours(_record: logging.LogRecord) -> bool:
    """Return whether a record of urllib3's may be logged: not while this thread calls, for it has the URL."""
    return getattr(THREAD, "call", None) is None


def read_answer(response: Any, largest: int, call: OutsideCall) -> tuple[bytes, str]:
    """Return the body, or its beginning and why it is not all of it."""
    declared = response.headers.get("Content-Length", "")
    if not largest and declared != "0":
        return b"", "it was not read"
    try:
        body: bytes = response.raw.read(largest + 1, decode_content=False)
    except Exception as error:  # noqa: BLE001 - as above; the status is known all the same
        return b"", call.ended or why_unanswered(error)
    if len(body) > largest:
        return body[:largest], f"it has more than {largest} bytes"
    if call.ended:  # without a length a body ends where its connection ends
        return body, call.ended
    if declared.isdecimal() and "Transfer-Encoding" not in response.headers and len(body) < int(declared):
        return body, f"it ended after {len(body)} of {declared} bytes"  # urllib3 1.26 does not look
    return body, ""


def why_unanswered(error: BaseException) -> str:
    """Return what has happened: the first error below those of requests and urllib3, whose texts have the URL in them."""
    found = [error]
    for each in found:
        kind = type(each)
        if kind.__module__.partition(".")[0] not in ("requests", "urllib3") or kind.__name__ == "CertificateError":
            return text_without_secrets(each)
        below = (each.__cause__, each.__context__, *each.args, getattr(each, "reason", None))
        found += [one for one in below if isinstance(one, BaseException) and not any(one is other for other in found)]
    return type(error).__name__


def text_without_secrets(error: BaseException) -> str:
    """Return name and text of an error, or its name where the text may quote what was sent."""
    name = type(error).__name__
    if name == "CertificateError":  # of urllib3 1.26: has the names of host and certificate
        return f"{name}: {error}"
    if isinstance(error, UnicodeError):
        return "UnicodeError: the host has a name that can't be looked up"
    if isinstance(error, OSError | http.client.HTTPException) and not isinstance(error, http.client.InvalidURL):
        return " ".join(f"{name}: {error}".split())[:300]
    return name


# ---- src/common/pages.py: Pages of lists: oldest first, each with the place where the next one begins.


ITEMS_PER_PAGE = 100  # unless a request names its limit

Row = Mapping[str, Any]


def page_answer(
    parameters: Mapping[str, Any],
    total: int,
    read: Callable[[int, int], Sequence[Row]],
    shown: Callable[[Row], dict[str, Any]],
) -> dict[str, Any]:
    """Return the page of a list that a request asks for by `since` and `limit` (`PAGE_PARAMETERS`).

    Parameters
    ----------
    total : the number of rows of the whole list.
    read : returns at most so many rows (its second argument) after the one with this number (its first), oldest first.
    shown : returns a row as the answer has it, its number as `ID`.
    """
    since, limit = parameters.get("since", 0), parameters.get("limit", ITEMS_PER_PAGE)
    rows = read(since, limit + 1)
    items = [shown(row) for row in rows[:limit]]
    return {"Total": total, "Items": items, "Next": items[-1]["ID"] if len(rows) > limit else None}


# ---- src/common/wildcards.py: Patterns with `*` and `?`, as DICOM matches them (PS3.4 C.2.2.2.4): every other character is itself, `[` too.


def matches_pattern(value: str, pattern: str) -> bool:
    """Return whether the whole `value` fits a pattern; takes at most len(value) * len(pattern) steps."""
    at, position = 0, 0  # in the pattern, in the value
    star, resume = -1, 0  # the last `*`, and where in the value what it matches ends
    while position < len(value):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", value[position]):
            at, position = at + 1, position + 1
        elif star >= 0:  # the last `*` matches one character more
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")


def matches_any(value: str, patterns: Iterable[str]) -> bool:
    """Return whether the whole `value` fits one of the patterns."""
    return any(matches_pattern(value, pattern) for pattern in patterns)


# ---- src/common/aets.py: AE titles compared as Orthanc compares them: without regard to case, unless it is configured with `StrictAetComparison`.


class AeTitles:
    """Compares AE titles as this Orthanc does; `configuration` is Orthanc's."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._is_strict = bool(configuration.get("StrictAetComparison", False))

    def key(self, aet: str) -> str:
        """Return what is equal for two AE titles that are the same to Orthanc."""
        aet = aet.strip(" ")
        return aet if self._is_strict else aet.lower()

    def same(self, one: str, other: str) -> bool:
        """Return whether two AE titles are the same to Orthanc."""
        return self.key(one) == self.key(other)

    def matches_any(self, aet: str, patterns: Iterable[str]) -> bool:
        """Return whether an AE title fits one of the patterns (`*`, `?`)."""
        return matches_any(self.key(aet), map(self.key, patterns))


ANY_CASE = AeTitles({})  # as Orthanc compares them unless it is configured otherwise


# ---- src/common/inbox.py: What callbacks report, until it is written down: also before the state is open, or while it can't be written.


MOST_REPORTS = 200_000  # in memory, while nothing can be written; what comes then is counted

Report = TypeVar("Report")


class Inbox(Generic[Report]):
    """Reports in their order. Each is written at once if it can be, and forgotten only when that is committed.

    Parameters
    ----------
    write : commits one report, or raises sqlite3.Error or OSError; then it is written later, by `flush`.
    """

    def __init__(self, write: Callable[[Report], None]) -> None:
        self._write, self._waiting = write, collections.deque[Report]()
        self._writing, self._is_open = threading.Lock(), False
        self.lost = 0

    def open(self) -> None:
        """Begin to write: from now on there is something to write to. Reports that came before wait for `flush`."""
        self._is_open = True

    def add(self, report: Report) -> bool:
        """Take a report, in a callback; return whether it is written."""
        if len(self._waiting) >= MOST_REPORTS:
            self.lost += 1
            return False
        waited = bool(self._waiting)
        self._waiting.append(report)
        if waited or not self._is_open or not self._writing.acquire(blocking=False):
            return False  # those before it have failed, or are being written: `flush` does it
        try:
            self._write_all()
        except (sqlite3.Error, OSError):
            return False
        finally:
            self._writing.release()
        return True

    def flush(self) -> None:
        """Write what waits. Raises what `write` raises; nothing is lost then."""
        with self._writing:
            self._write_all()

    def _write_all(self) -> None:
        while self._waiting:
            try:
                self._write(self._waiting[0])
            except (sqlite3.Error, OSError):
                raise
            except Exception:
                self._waiting.popleft()  # an odd one never keeps the others from being written
                raise
            self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._waiting)


# ---- src/common/jobs.py: Orthanc's jobs, asked over loopback, and how they end: also those that Orthanc has forgotten (`JobsHistorySize`).


UNFINISHED_JOBS = ("Pending", "Running", "Paused", "Retry")  # states of a job that may still succeed
CANCELED_JOB = 37  # Orthanc's error code
END_EVENT_SECONDS = 5.0  # in which the end of a job that Orthanc has forgotten is reported, if this process was there
ENDED_JOBS_IN_MEMORY = 1000
FORGOTTEN_REASON = "the job failed, and Orthanc has forgotten why (JobsHistorySize)"


class Ending(enum.StrEnum):
    """How far a job has come. `FORGOTTEN` ended somehow: look at what it should have done, or do it again."""

    RUNNING = "running"
    SUCCESS = "Success"
    FAILURE = "Failure"
    CANCELED = "canceled"
    FORGOTTEN = "forgotten"


def get_job(loopback: Loopback, job: str) -> dict[str, Any] | None:
    """Return a job, or None if Orthanc has forgotten it. Raises `LoopbackError` if Orthanc can't answer now."""
    try:
        found: dict[str, Any] = loopback.get(f"/jobs/{job}")
    except LoopbackError as error:
        if error.status != 404:
            raise
        return None
    return found


def ending_of(job: Mapping[str, Any] | None, reported: bool | None = None) -> tuple[Ending, str]:
    """Return how a job has ended, and why it did not succeed.

    Parameters
    ----------
    job : as Orthanc shows it; None, if Orthanc has forgotten it.
    reported : whether an event has said that it ended well, or not; None, if there was no event.
    """
    if reported or (reported is None and job and job["State"] == "Success"):
        return Ending.SUCCESS, ""
    if job is None:
        return (Ending.FORGOTTEN, "") if reported is None else (Ending.FAILURE, FORGOTTEN_REASON)
    if reported is None and job["State"] in UNFINISHED_JOBS:
        return Ending.RUNNING, ""
    content = job.get("Content") or {}  # where a job of the DICOMweb plugin says why
    reasons = [each for key in ("Description", "Details") if (each := content.get(f"FunctionError{key}"))]
    why = ": ".join(reasons) or job.get("ErrorDetails") or job.get("ErrorDescription") or "the job failed"
    return Ending.CANCELED if job.get("ErrorCode") == CANCELED_JOB else Ending.FAILURE, without_secrets(str(why))


def url_of_peer(content: Mapping[str, Any]) -> str:
    """Return the URL of the peer that a job's content names, "" if it names none.

    Orthanc gives a list of URL and user; of a peer with a timeout, headers or a certificate an object.
    """
    peer = content.get("Peer") or ""
    if isinstance(peer, Mapping):
        return str(peer.get("Url", ""))
    return str(peer[0] if isinstance(peer, list) else peer)


class JobEnds:
    """The ends of Orthanc's jobs, as OnChange reports them: also of those forgotten at once (`JobsHistorySize` 0)."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, bool] = OrderedDict()
        self._changed = threading.Condition()

    def end(self, job: str, *, well: bool) -> None:
        """Take the end of a job."""
        with self._changed:
            self._ended[job] = well
            while len(self._ended) > ENDED_JOBS_IN_MEMORY:
                self._ended.popitem(last=False)
            self._changed.notify_all()

    def get(self, job: str) -> bool | None:
        """Return whether a job has ended well; None: no end was reported of late."""
        with self._changed:
            return self._ended.get(job)

    def wait(self, jobs: Sequence[str], seconds: float) -> dict[str, bool]:
        """Return those of the jobs that have ended, and whether well, as soon as there is one; none when the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: any(job in self._ended for job in jobs), seconds)
            return {job: self._ended[job] for job in jobs if job in self._ended}


# ---- src/common/identifiers.py: Orthanc's identifiers, which follow from those of DICOM, and its levels.


# From the whole patient down to one image, and how Orthanc's routes call them.
PLURAL = {"Patient": "patients", "Study": "studies", "Series": "series", "Instance": "instances"}
UID_TAG_OF = {
    "Patient": "PatientID",
    "Study": "StudyInstanceUID",
    "Series": "SeriesInstanceUID",
    "Instance": "SOPInstanceUID",
}


def orthanc_identifier(*values: str) -> str:
    """Return Orthanc's identifier of what has this PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID.

    As many as the level has, from the patient down. It is their SHA-1, in five groups of eight hexadecimal digits (Orthanc
    1.10.1 to 1.13.0). Checked for plain ASCII values; others Orthanc hashes in its own encoding. It strips what is behind a
    value, and what is in front of a UID: " P1" and "P1" are two patients.
    """
    patient, *uids = values
    text = "|".join((patient.rstrip(" \0"), *(uid.strip(" \0") for uid in uids)))
    digest = hashlib.sha1(text.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:16]}-{digest[16:24]}-{digest[24:32]}-{digest[32:]}"


def is_orthanc_identifier(text: str) -> bool:
    """Return whether a text has the form of Orthanc's identifiers: no other text may become part of a path."""
    return re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{8}){4}", text) is not None


# ---- src/common/path_segments.py: The parts of a path between slashes: none that comes from a value, or is in a template, climbs out of its place.


SEPARATOR = r"/|\\|%2F|%5C"  # also encoded: many servers decode before they split


def has_dot_segments(path: str) -> bool:
    """Return whether a path has a part `.` or `..`, in whatever way it is written."""
    parts = re.split(SEPARATOR, path, flags=re.IGNORECASE)
    return any(urllib.parse.unquote(part) in (".", "..") for part in parts)


def harmless_segment(segment: str) -> str:
    """Return one part of a path, percent-encoded, in which dots that would climb and NUL became `_`, and so did nothing at all.

    >>> harmless_segment("..%2Fa"), harmless_segment(""), harmless_segment("1.2.3")
    ('__%2Fa', '_', '1.2.3')
    """
    dots = rf"(?:(?<=%2F)|(?<=%5C)|^)\.{{1,2}}(?={SEPARATOR}|$)"
    found = re.sub(dots, lambda each: "_" * len(each[0]), segment.replace("%00", "_"), flags=re.IGNORECASE)
    return found or "_"


def fits_in_path(uid: str) -> bool:
    """Return whether a UID is one part of a path as it is; real ones that are no UIDs by the letter are, too."""
    return re.fullmatch(r"\.*[\w-][\w.-]*", uid, re.ASCII) is not None


# ---- src/common/orphans.py: What waits for a name that the configuration has no more: it is kept, and forgotten after days.


ORPHAN_TABLES = """
CREATE TABLE IF NOT EXISTS orphan(name TEXT PRIMARY KEY, since REAL NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID;
"""
LOOK_EVERY = 10.0  # seconds between two looks at how long they are kept
DAY = 86400.0  # seconds


class Orphans:
    """The names of a ledger that nobody has now. Its owner has `ORPHAN_TABLES` among the tables of the ledger.

    A name counts the seconds in which the script runs without it, not the time of the clock: a clock that is wrong, or a
    server that is off for long, forgets nothing. `days` : how many, 0 for ever.
    """

    def __init__(self, ledger: Ledger, days: float) -> None:
        self._ledger, self._days = ledger, days
        self._looked = time.monotonic()

    def begin(self, names: Iterable[str]) -> None:
        """Take the names that nobody has at this start; the others have an owner again."""
        names = sorted(names)
        with self._ledger.transaction() as db:
            db.executemany(
                "INSERT INTO orphan VALUES(?,?,0) ON CONFLICT DO NOTHING", [(name, time.time()) for name in names]
            )
            db.execute("DELETE FROM orphan WHERE name NOT IN (SELECT value FROM json_each(?))", (json.dumps(names),))

    def names(self) -> dict[str, tuple[float, float | None]]:
        """Return each one with the time since when it is one, and the days until it is forgotten (None: never)."""
        rows = self._ledger.rows("SELECT * FROM orphan ORDER BY name")
        return {row["name"]: (row["since"], self._left(row["seconds"])) for row in rows}

    def _left(self, seconds: float) -> float | None:
        return round(max(0.0, self._days - seconds / DAY), 2) if self._days else None

    def expired(self) -> list[str]:
        """Count the time since the last call, and return the names that were kept for long enough. Call it often."""
        now = time.monotonic()
        passed = now - self._looked
        if passed < LOOK_EVERY:
            return []
        self._looked = now
        if not self._ledger.rows("SELECT 1 FROM orphan LIMIT 1"):
            return []
        self._ledger.run("UPDATE orphan SET seconds=seconds+?", passed)
        if not self._days:
            return []
        return [row["name"] for row in self._ledger.rows("SELECT name FROM orphan WHERE seconds>=?", self._days * DAY)]

    def forget(self, name: str) -> None:
        """Drop what waited for it."""
        self._ledger.run("DELETE FROM orphan WHERE name=?", name)


# ---- src/common/work.py: Verbs on the ledger's rows of work: find, count, change, retry, take back, remove.


LAST_ROW = 2**63 - 1  # no row has a higher id
OLDEST_UNFINISHED = """
SELECT created FROM work INDEXED BY work_unfinished WHERE state IN ('waiting','sending') AND task<>? ORDER BY created LIMIT 1
"""
NEXT_ATTEMPT_INDEX = "CREATE INDEX IF NOT EXISTS work_by_next ON work(state, queue, next_attempt);"  # for `next_of`
# For `Which.added_since`: with the columns that pages are filtered by, so that no row is read to leave it out.
ADDED_INDEX = "CREATE INDEX IF NOT EXISTS work_by_added ON work(added, state, task, queue);"


def data_index(key: str) -> str:
    """Return the SQL of an index that finds rows by a key of their data (`unfinished_with`)."""
    return f"CREATE INDEX IF NOT EXISTS work_by_{key.lower()} ON work(json_extract(data, '$.{key}'), state);"


def unfinished_keys(key: str, task: str) -> str:
    """Return the SQL of a query for the keys of an object in the data of unfinished rows of a task."""
    states = "'waiting','sending','dead'"
    return f"SELECT key FROM work, json_each(work.data, '$.{key}') WHERE state IN ({states}) AND task='{task}'"


@dataclasses.dataclass(frozen=True)
class Which:
    """Which rows: those for which all the given conditions hold. The column of a row's resource is called `subject`.

    Attributes
    ----------
    ids, resources : it is one of these.
    task, queue, resource, job : it is this one.
    resource_glob : its resource fits this pattern of SQLite's GLOB.
    not_task : it is another task.
    states : it is in one of these states.
    data : its data has these values, by key.
    about : this is its resource, or what its data calls `Of`: the resource of which its own is a part.
    tried : it was attempted before, or it was not.
    job_or_resource : its last attempt is this job, or it is about it.
    added_since, added_before : it was added then or later, or before, as Unix times (`ADDED_INDEX`).
    """

    ids: Collection[int] | None = None
    task: str | None = None
    not_task: str | None = None
    queue: str | None = None
    resource: str | None = None
    resource_glob: str | None = None
    resources: Collection[str] | None = None
    states: Collection[str] | None = None
    job: str | None = None
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    about: str | None = None
    tried: bool | None = None
    job_or_resource: str | None = None
    added_since: float | None = None
    added_before: float | None = None

    @property
    def is_by_time(self) -> bool:
        """Whether its rows are found by when they were added: nothing names some of them."""
        is_dated = (self.added_since, self.added_before) != (None, None)
        named = (self.ids, self.resource, self.resources, self.about, self.job, self.job_or_resource)
        return is_dated and all(each is None for each in named)

    def condition(self) -> tuple[str, list[Any]]:
        """Return the condition as SQL, and its values."""
        parts, values = ["1=1"], list[Any]()
        # What is added keeps SQLite from an index whose rows are many, as it can't know.
        as_text, added = ("||''", "added") if self.is_by_time else ("", "+added")
        named = {f"task{as_text}": self.task, f"queue{as_text}": self.queue, "subject": self.resource, "job": self.job}
        for column, wanted in named.items():
            if wanted is not None:
                parts.append(f"{column}=?")
                values.append(wanted)
        by_state = f"state{as_text}"
        for column, value, several in (
            ("id", "CAST(value AS BIGINT)", self.ids),
            ("subject", "value", self.resources),
        ):
            if several is not None and len(several) == 1:
                parts.append(f"{column}=?")
                values += several
            elif several is not None:
                parts.append(f"{column} IN (SELECT {value} FROM json_each(?))")
                values.append(json.dumps([*several]))
                by_state = (
                    "state||''"  # SQLite would look at all rows in these states, as it can't know how few are named
                )
        if self.states is not None:
            parts.append(f"{by_state} IN ({','.join('?' * len(self.states))})" if self.states else "1=0")
            values += self.states
        for key, value in self.data.items():
            parts.append("json_extract(data, '$.' || ?)=?")
            values += [key, value]
        if self.tried is not None:
            parts.append("attempts>0" if self.tried else "attempts=0")
        for condition, text in (
            ("subject GLOB ?", self.resource_glob),
            ("task<>?", self.not_task),
            ("(subject=? OR json_extract(data, '$.Of')=?)", self.about),
            ("(job=? OR subject=?)", self.job_or_resource),
            (f"{added}>=?", self.added_since),
            (f"{added}<?", self.added_before),
        ):
            if text is not None:
                parts.append(condition)
                values += [text] * condition.count("?")
        return " AND ".join(parts), values


class Columns(TypedDict, total=False):
    """What may be changed of a row."""

    task: str
    queue: str
    subject: str
    attempts: int
    next_attempt: float
    job: str
    data: Mapping[str, Any]
    created: float
    error: str


def next_attempt_of(row: Mapping[str, Any]) -> str | None:
    """Return when a row that waits is due; None: it does not wait, or it is due as soon as its destination takes something."""
    return utc(row["next_attempt"]) if row["state"] == "waiting" and row["next_attempt"] else None


class WorkView:
    """The rows of one ledger, to look at."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, row: int) -> dict[str, Any] | None:
        """Return a row by its id, or None."""
        return next(iter(self._ledger.rows("SELECT * FROM work WHERE id=?", row)), None)

    def find(self, which: Which) -> list[dict[str, Any]]:
        """Return rows, the oldest first."""
        condition, values = which.condition()
        return self._ledger.rows(f"SELECT * FROM work WHERE {condition} ORDER BY id", *values)

    def has(self, which: Which) -> bool:
        """Return whether there is such a row."""
        condition, values = which.condition()
        return bool(self._ledger.rows(f"SELECT 1 FROM work WHERE {condition} LIMIT 1", *values))

    def count(self, which: Which) -> int:
        """Return the number of rows."""
        condition, values = which.condition()
        return int(self._ledger.rows(f"SELECT COUNT(*) n FROM work WHERE {condition}", *values)[0]["n"])

    def page(self, which: Which, since: int, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Return at most `limit` rows after the row `since`, the oldest first; those `before` another row, the newest first."""
        condition, values = which.condition()
        number, order = "+id" if which.is_by_time else "id", "id" if before is None else "id DESC"
        # Rows are read when it is known which ones.
        named = f"SELECT id FROM work WHERE {condition} AND {number}>? AND {number}<? ORDER BY {order} LIMIT ?"
        sql = f"SELECT * FROM work WHERE id IN ({named}) ORDER BY {order}"
        return self._ledger.rows(sql, *values, since, LAST_ROW if before is None else before, limit)

    def totals_by_queue(self, task: str = SEND) -> dict[str, dict[str, int]]:
        """Return the number of rows of a task in each state, by queue."""
        found: dict[str, dict[str, int]] = {}
        for row in self._ledger.rows("SELECT queue, state, n FROM work_counts WHERE task=?", task):
            found.setdefault(row["queue"], dict.fromkeys(STATES, 0))[row["state"]] = row["n"]
        return found

    def oldest_unfinished(self, not_task: str) -> float | None:
        """Return when the oldest unfinished row of another task was added, as Unix time; None if there is none."""
        return next((row["created"] for row in self._ledger.rows(OLDEST_UNFINISHED, not_task)), None)

    def unfinished_with(self, key: str, value: str) -> dict[str, Any] | None:
        """Return a row that waits or is sent whose data has this value at a key, found by its `data_index`; or None."""
        condition = f"json_extract(data, '$.{key}')=? AND state IN ('waiting','sending')"
        return next(iter(self._ledger.rows(f"SELECT * FROM work WHERE {condition} LIMIT 1", value)), None)

    def unfinished_listing(self, key: str, task: str = SEND) -> dict[str, int]:
        """Return, by queue, the number of rows of a task that wait or are sent and whose data has a list at a key."""
        condition = f"json_type(data, '$.{key}')='array' AND state IN ('waiting','sending') AND task=?"
        sql = f"SELECT queue, COUNT(*) n FROM work WHERE {condition} GROUP BY queue"
        return {row["queue"]: row["n"] for row in self._ledger.rows(sql, task)}

    def next_of(self, queue: str, limit: int, longest: float) -> list[dict[str, Any]]:
        """Return the rows of a queue that are due to be sent, the longest due first, in whatever order they were added.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self._ledger.rows(
            "SELECT * FROM work WHERE state='waiting' AND task=? AND queue=? AND (next_attempt<=? OR next_attempt>?) "
            "ORDER BY next_attempt, id LIMIT ?",
            *(SEND, queue, time.time(), time.time() + longest, limit),
        )


class Work(WorkView):
    """The rows of one ledger. Each call is a transaction, or part of the one that is under way."""

    def claim(self, row: int, job: str | None = None) -> bool:
        """Begin an attempt, before it is made; return False if the row does not wait any more: a person has removed it."""
        sql = "UPDATE work SET state='sending', attempts=attempts+1, job=?, updated=? WHERE id=? AND state='waiting'"
        return bool(self._ledger.run(sql, job, time.time(), row))

    def give_up(self, row: int, error: str) -> None:
        """Make a row `dead`, for this reason."""
        self._ledger.run("UPDATE work SET state='dead', error=?, updated=? WHERE id=?", error, time.time(), row)

    def change(self, row: int, **columns: Unpack[Columns]) -> None:
        """Set columns of a row."""
        names = ", ".join(f"{name}=?" for name in columns)
        values = [json.dumps(value) if name == "data" else value for name, value in columns.items()]
        self._ledger.run(f"UPDATE work SET {names} WHERE id=?", *values, row)

    def replace_data(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        """Set the data of a row, unless somebody has changed them since it was read; return whether it is done."""
        sql = "UPDATE work SET data=? WHERE id=? AND data=?"
        return bool(self._ledger.run(sql, json.dumps(data), row["id"], row["data"]))

    def add_attempt(self, row: int) -> None:
        """Count one attempt more."""
        self._ledger.run("UPDATE work SET attempts=attempts+1 WHERE id=?", row)

    def touch(self, row: int) -> None:
        """Say that a row is worked on now."""
        self._ledger.run("UPDATE work SET updated=? WHERE id=?", time.time(), row)

    def make_due(self, which: Which) -> int:
        """Let rows that wait be due now; return their number."""
        condition, values = which.condition()
        return self._ledger.run(f"UPDATE work SET next_attempt=0 WHERE state='waiting' AND {condition}", *values)

    def wait_again(self, row: int) -> None:
        """Let a row be due again, whose attempt has come to nothing; it counts as one."""
        self._ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE id=?", row)

    def take_back(self, row: int) -> None:
        """Let a row be due again, as if the attempt had not been made."""
        sql = "UPDATE work SET state='waiting', attempts=attempts-1, next_attempt=0, job=NULL WHERE id=?"
        self._ledger.run(sql, row)

    def retry(self, which: Which) -> int:
        """Let rows that are dead or wait be due now, with the whole time until they are given up; return their number."""
        condition, values = which.condition()
        sql = "UPDATE work SET state='waiting', attempts=0, next_attempt=0, created=? WHERE state IN ('dead','waiting')"
        return self._ledger.run(f"{sql} AND {condition}", time.time(), *values)

    def reopen_done(self, queue: str, since: float) -> None:
        """Let rows be due again that count as sent since a Unix time, with the whole time until they are given up."""
        sql = "UPDATE work SET state='waiting', next_attempt=0, job=NULL, created=?"
        where = "task=? AND queue=? AND state='done' AND updated>=?"
        self._ledger.run(f"{sql} WHERE {where}", time.time(), SEND, queue, since)

    def give_whole_time(self, queue: str) -> None:
        """Let the time until they are given up begin now for rows that wait to be sent there, and were not tried yet."""
        sql = "UPDATE work SET created=? WHERE state='waiting' AND task=? AND queue=? AND attempts=0"
        self._ledger.run(sql, time.time(), SEND, queue)

    def explain_waiting(self, queue: str, error: str, after: int) -> int:
        """Give the reason to the rows that wait to be sent there, those after this id; return the id of the last of all rows."""
        waits = "state='waiting' AND task=? AND queue=?"
        last = self._ledger.rows(f"SELECT MAX(id) last FROM work WHERE {waits}", SEND, queue)[0]["last"] or 0
        if last > after:
            self._ledger.run(f"UPDATE work SET error=? WHERE {waits} AND id>?", error, SEND, queue, after)
        return max(after, int(last))

    def remove(self, row: int, states: Collection[str] = STATES) -> bool:
        """Delete a row, if it is in one of these states; return whether it was."""
        condition, values = Which(ids=[row], states=states).condition()
        return bool(self._ledger.run(f"DELETE FROM work WHERE {condition}", *values))

    def remove_all(self, which: Which) -> int:
        """Delete rows; return their number."""
        condition, values = which.condition()
        return self._ledger.run(f"DELETE FROM work WHERE {condition}", *values)


# ---- src/cmove_interceptor/move_request.py: What a C-MOVE asks for: its fields as the plugin gives them.


FIELDS = (
    "Level", "PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
    "OriginatorAET", "OriginatorID", "SourceAET", "TargetAET",
)  # fmt: skip
IDENTIFIER_FIELDS = FIELDS[1:6]
LEVELS = {"PATIENT": "Patient", "STUDY": "Study", "SERIES": "Series", "INSTANCE": "Instance"}  # Orthanc's names of them

Fields: TypeAlias = Mapping[str, str]


class MoveFailed(Exception):  # noqa: N818 - the move failed, not the script
    """The move can't be done, or ended badly."""


def read_fields(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of what the plugin hands over, each a text."""
    fields = {name: str(request.get(name) or "") for name in FIELDS}
    fields["OriginatorID"] = str(request.get("OriginatorID") or 0)
    return fields


def described(fields: Fields) -> str:
    """Return a request as the log has it: identifiers, in one line whatever they hold."""
    return ", ".join(f"{name} {one_line(fields[name])!r}" for name in FIELDS if fields[name] not in ("", "0"))


def identifying_tag(fields: Fields) -> tuple[str, str]:
    """Return the tag by which a request names what it means, and its text. Raises `MoveFailed` if it is not there.

    As with Orthanc, at the study level an AccessionNumber takes precedence over the StudyInstanceUID, and the patients without
    a PatientID are those with an empty one.
    """
    tag = UID_TAG_OF[LEVELS[fields["Level"]]]
    if fields["Level"] == "STUDY" and fields["AccessionNumber"]:
        tag = "AccessionNumber"
    if not fields[tag] and fields["Level"] != "PATIENT":
        raise MoveFailed(f"a C-MOVE at the level {fields['Level']} needs {tag}")
    return tag, fields[tag]


def parent_identifiers(fields: Fields) -> dict[str, str]:
    """Return the identifiers above the level of a request, which a hierarchical query needs (DICOM PS3.4 C.4.1.3.1)."""
    level = LEVELS[fields["Level"]]
    above = list(UID_TAG_OF.values())[: list(UID_TAG_OF).index(level)]
    return {name: fields[name] for name in above if fields[name]}


# ---- src/cmove_interceptor/archive.py: What is here of what a request means.


SLOW_NAMES_API_VERSION = 30  # of 1.12.11: from then on SQLite reads the whole index for each image that a job names
INSTANCES_PER_QUESTION = 100
# Naming images pays up to so many images in the archive, and so many more for each image of the series.
MAX_IMAGES_TO_NAME, MAX_IMAGES_PER_NAME = 2000, 4


class Archive:
    """This Orthanc's resources."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback

    def resources(self, fields: Fields) -> list[str]:
        """Return the Orthanc identifiers that a request means, as Orthanc looks them up; none if nothing is here.

        The identifier in a request may be a list. Raises `MoveFailed` if what the level needs is missing.
        """
        tag, text = identifying_tag(fields)
        found: list[str] = []
        for token in text.split("\\"):
            if token.strip() or fields["Level"] == "PATIENT":  # the patients without a PatientID
                found += self._lookup(LEVELS[fields["Level"]], tag, token if token.strip() else "")
        return list(dict.fromkeys(found))

    def _lookup(self, level: str, tag: str, token: str) -> list[str]:
        # Wildcards are characters like others here. In a search they would read the whole archive, and so would nothing.
        if not token or re.search(r"[*?]", token):
            entries = self._loopback.request("POST", "/tools/lookup", token.encode())
            return [entry["ID"] for entry in entries if entry["Type"] == level]
        # /tools/lookup is not enough: on 1.10.1 it knows no AccessionNumber, and no version says which tag matched.
        find = {"Level": level, "Query": {tag: token}, "Expand": True}
        return [
            each["ID"]
            for each in self._loopback.post("/tools/find", find)
            if normalized(each["MainDicomTags"].get(tag, "")) == normalized(token)
        ]

    def instances(self, fields: Fields) -> list[str]:
        """Return the instances that a request means, of those that are here."""
        if fields["Level"] == "INSTANCE":
            return self.resources(fields)
        return [instance["ID"] for instance in self._images_of(fields)]

    def sop_instance_uids(self, fields: Fields) -> set[str]:
        """Return the SOP Instance UIDs of what a request means that is here, of a patient, study or series."""
        return {
            str(instance["MainDicomTags"].get("SOPInstanceUID", "")).strip() for instance in self._images_of(fields)
        }

    def _images_of(self, fields: Fields) -> Iterator[dict[str, Any]]:
        route = PLURAL[LEVELS[fields["Level"]]]
        for resource in self.resources(fields):
            yield from self._loopback.get(f"/{route}/{resource}/instances?expand")

    def series(self, level: str, resource: str) -> dict[str, list[str]]:
        """Return the series of a patient or study, or the series itself, each with its images."""
        # A quarter of the time: without it, reading one resource costs in proportion to the archive there.
        if self._loopback.has_extended_find:
            find = {"Query": {}, f"Parent{LEVELS[level]}": resource}
            if level == "SERIES":
                return {resource: self._loopback.post("/tools/find", {**find, "Level": "Instance"})}
            found = self._loopback.post("/tools/find", {**find, "Level": "Series", "ResponseContent": ["Children"]})
        elif level == "SERIES":
            found = [self._loopback.get(f"/series/{resource}")]
        else:
            found = self._loopback.get(f"/{PLURAL[LEVELS[level]]}/{resource}/series")
        return {each["ID"]: each["Instances"] for each in found}

    def may_name_images(self, count: int) -> bool:
        """Return whether a job should name the images of a series of so many, as one that sends a piece of it does.

        Not where looking the names up takes longer than what the second association saves, which only Orthanc's own
        SQLite was seen to do.
        """
        if self._system.get("DatabaseBackendPlugin") or self._system["ApiVersion"] < SLOW_NAMES_API_VERSION:
            return True
        images = self._loopback.get("/statistics")["CountInstances"]
        return bool(images <= MAX_IMAGES_TO_NAME + MAX_IMAGES_PER_NAME * count)

    @functools.cached_property
    def _system(self) -> dict[str, Any]:
        return dict(self._loopback.get("/system"))

    def store(self, dicom: bytes) -> bool:
        """Store an instance; return whether it was not here before."""
        answer = self._loopback.request("POST", "/instances", dicom)
        return isinstance(answer, dict) and answer.get("Status") == "Success"

    def senders(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the AE titles that have sent instances; "" where one did not come by DICOM."""
        found = {}
        for start in range(0, len(instances), INSTANCES_PER_QUESTION):
            body = {"Resources": instances[start : start + INSTANCES_PER_QUESTION], "Metadata": True}
            for each in self._loopback.post("/tools/bulk-content", body):
                found[each["ID"]] = each.get("Metadata", {}).get("RemoteAET", "").strip()
        return found

    def remove(self, instances: Sequence[str]) -> None:
        """Delete instances."""
        self._loopback.post("/tools/bulk-delete", {"Resources": list(instances)})


def normalized(value: str) -> str:
    """Return an identifier as Orthanc compares it: without spaces around, regard to case, and what is not ASCII."""
    return value.encode("ascii", "ignore").decode().strip().upper()


# ---- src/cmove_interceptor/comparison.py: Compares what a modality has with what is here: by SOP Instance UIDs, or by numbers where it does not give those.


COUNT_TAGS = {
    "Patient": "NumberOfPatientRelatedInstances",
    "Study": "NumberOfStudyRelatedInstances",
    "Series": "NumberOfSeriesRelatedInstances",
}


class UnansweredError(Exception):
    """A modality does not say what it has at a level."""


class Comparison:
    """Answers of one modality to C-FIND, compared with what is here.

    Parameters
    ----------
    check_time : raises if too much time has passed; called before each C-FIND.
    said : the modalities of which the log has that they give no SOP Instance UIDs.
    """

    def __init__(
        self, loopback: Loopback, archive: Archive, name: str, check_time: Callable[[], None], said: set[str]
    ) -> None:
        self._loopback, self._archive, self._name = loopback, archive, name
        self._check_time, self._said = check_time, said
        self._gives_uids = True

    def has_more(self, fields: Fields, answer: Mapping[str, Any]) -> bool:
        """Return whether the modality has images of an answer, which means these fields, that are not here."""
        level = LEVELS[fields["Level"]]
        if level == "Instance":
            return not self._archive.instances(fields)
        here = self._archive.sop_instance_uids(fields)
        number = _number(answer, level)
        if not here or (number is not None and number > len(here)):
            return True
        series = self._series(level, {**fields, **{tag: text for tag, text in answer.items() if text}})
        if not series:
            return number is None
        return any(self._series_has_more(each, here) for each in series)

    def _series(self, level: str, answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the series of an answer; none if the modality does not say."""
        if level == "Series":
            return [answer]
        try:
            studies = [answer] if level == "Study" else self._find("Study", {"PatientID": answer["PatientID"]})
            uids = [study["StudyInstanceUID"] for study in studies]
            return [
                {**series, "StudyInstanceUID": uid}
                for uid in uids
                for series in self._find("Series", {"StudyInstanceUID": uid}, COUNT_TAGS["Series"])
            ]
        except UnansweredError as error:
            self._say(error)
            return []

    def _series_has_more(self, series: Mapping[str, Any], here: set[str]) -> bool:
        if self._gives_uids:
            try:
                wanted = {name: series[name] for name in ("StudyInstanceUID", "SeriesInstanceUID")}
                return not {str(each["SOPInstanceUID"]).strip() for each in self._find("Instance", wanted)} <= here
            except UnansweredError as error:
                self._say(error)
                self._gives_uids = False  # nor will it give those of the next series
        number = _number(series, "Series")
        one = {"Level": "SERIES", "SeriesInstanceUID": series["SeriesInstanceUID"]}
        return number is None or number > len(self._archive.sop_instance_uids(one))

    def _find(self, level: str, wanted: Mapping[str, str], *more: str) -> list[Mapping[str, Any]]:
        """Return the answers to a C-FIND for what is there: some, and each with the UID of its level.

        Raises
        ------
        UnansweredError : there are none.
        """
        self._check_time()
        tag, name = UID_TAG_OF[level], urllib.parse.quote(self._name, safe="")
        query = {**dict.fromkeys((tag, *more), ""), **wanted}
        try:
            if not all(wanted.values()):
                raise UnansweredError(
                    f"it gives no {' and '.join(wanted)}"
                )  # without one, all that it has would be meant
            found = self._loopback.post(f"/modalities/{name}/query", {"Level": level, "Query": query})["ID"]
            answers = self._loopback.get(f"/queries/{found}/answers?expand&simplify")
            self._loopback.request("DELETE", f"/queries/{found}")
        except LoopbackError as error:
            raise UnansweredError(str(error)) from None
        # One that does not look at a key answers with all that it has.
        meant = [each for each in answers if all(is_about(each, *one) for one in wanted.items()) and each.get(tag)]
        if not meant:
            raise UnansweredError(f"it gives no {tag}")
        return meant

    def _say(self, why: UnansweredError) -> None:
        if self._name not in self._said:
            self._said.add(self._name)
            orthanc.LogWarning(
                f"cmove_interceptor: modality:{one_line(self._name)} does not answer C-FIND down to the level IMAGE "
                f"({one_line(why)}): what is here is compared with its numbers of images, and is fetched if it gives none"
            )


def _number(answer: Mapping[str, Any], level: str) -> int | None:
    """Return how many images an answer says that there are, or None."""
    text = str(answer.get(COUNT_TAGS[level]) or "").strip()
    return int(text) if text.isdecimal() else None


def is_about(answer: Mapping[str, Any], tag: str, text: str) -> bool:
    """Return whether an answer to C-FIND has the identifier that was asked for, or does not say."""
    found = normalized(str(answer.get(tag) or ""))
    return found in ("", normalized(text))


# ---- src/cmove_interceptor/slots.py: Makes room for jobs that a caller waits for: pauses jobs that send for nobody, and resumes them after.


PAUSED_TABLE = "CREATE TABLE IF NOT EXISTS paused_jobs(job TEXT PRIMARY KEY) WITHOUT ROWID;"
STORE_JOBS = ("DicomModalityStore", "OrthancPeerStore", "DicomWebStowClient")  # that go on where they were paused
ON_THEIR_WAY = ("Pending", "Running", "Retry")
PRIORITY = 100  # of the jobs that move: a caller waits for them, for those of forwarders nobody does
# In which a job gives its slot back. If it does not, it sends a slow image, and another one is paused too.
PAUSE_EVERY_SECONDS = 0.1
LISTING_SHARE = 10  # listing jobs takes at most one part in so many of the time, however many wait in Orthanc
RESUME_LOOK_SECONDS = 0.1  # between looks at whether what is paused may go on
COUNT_EVERY_SECONDS = 1.0  # of the places that nobody uses
# Orthanc writes its jobs down every 10 s: killed before, it would find one that was resumed paused again.
REMEMBER_RESUMED_SECONDS = 30.0


@dataclasses.dataclass
class PausedJob:
    """A job of the table.

    Attributes
    ----------
    is_asked : whether this process asked for its pause, which begins only when the image under way is sent.
    resumed : when it was resumed, by the monotonic clock; None: it is to be resumed.
    """

    is_asked: bool
    resumed: float | None = None


class JobSlots:
    """The few jobs that Orthanc runs at a time (`ConcurrentJobs`).

    A job is written down before it is paused, so that it is resumed after a kill, too. What a person pauses, the person resumes:
    Orthanc does not say who paused a job, so its routes for that lead through here (`answer_person`).

    Parameters
    ----------
    on_pause : called when something was paused: from then on `give_back` has to be called.
    """

    def __init__(self, loopback: Loopback, concurrent_jobs: int, on_pause: Callable[[], None]) -> None:
        self._loopback, self._concurrent_jobs, self._on_pause = loopback, concurrent_jobs, on_pause
        self._ledger: Ledger | None = None
        # Of what follows; no request is made while it is held but those in this process, which Orthanc answers at once.
        self._lock = threading.Lock()
        self._paused: dict[str, PausedJob] = {}
        self._served: set[str] = set()  # for which something was paused, as long as they have not ended
        self._of_persons: set[str] = set()  # paused by one; Orthanc shows it only when the image under way is sent
        self._next_pause = self._next_count = -math.inf

    def open(self, ledger: Ledger) -> None:
        """Begin with what a process before has left paused."""
        with self._lock:
            self._ledger = ledger
            for row in ledger.rows("SELECT job FROM paused_jobs"):
                if row["job"] not in self._of_persons:  # paused by one before the ledger was open
                    self._paused.setdefault(row["job"], PausedJob(is_asked=False))

    def held(self) -> list[str]:
        """Return the jobs that are paused for a move."""
        with self._lock:
            return [job for job, each in self._paused.items() if each.resumed is None]

    def make_room(self, job: str) -> None:
        """Pause a running job that sends and has a lower priority, for one that waits; call it again as long as that waits."""
        with self._lock:
            if (begun := time.monotonic()) < self._next_pause:
                return
            self._next_pause = begun + PAUSE_EVERY_SECONDS
        with contextlib.suppress(LoopbackError, sqlite3.Error, OSError):  # what can't be written down is not paused
            jobs = self._loopback.get("/jobs?expand")
            self._next_pause = max(self._next_pause, begun + LISTING_SHARE * (time.monotonic() - begun))
            with self._lock:
                self._of_persons &= {each["ID"] for each in jobs}
            running = sorted((each for each in jobs if each["State"] == "Running"), key=lambda each: each["Priority"])
            if len(running) >= self._concurrent_jobs:
                any(self._pause(each["ID"], job) for each in running if may_be_paused(each))

    def _pause(self, job: str, served: str) -> bool:
        """Pause a job for another; return False if it is paused already, by a person or for a move."""
        assert self._ledger
        with self._lock:
            known = self._paused.get(job)
            if job in self._of_persons or (known and known.resumed is None):
                return False
            self._ledger.run("INSERT OR IGNORE INTO paused_jobs VALUES(?)", job)
            self._paused[job] = PausedJob(is_asked=True)
            self._served.add(served)
            with contextlib.suppress(orthanc.OrthancException):  # it has ended just now
                orthanc.RestApiPost(f"/jobs/{job}/pause", "{}")
        orthanc.LogInfo(f"cmove_interceptor: the job {job} is paused for a move that waits for its place")
        self._on_pause()
        return True

    def give_back(self) -> bool:
        """Resume what is paused for nobody any more; return whether something is paused still.

        Raises
        ------
        LoopbackError : Orthanc can't be asked.
        sqlite3.Error : what has gone on long ago can't be deleted now; all is resumed.
        """
        if held := self.held():
            with self._lock:
                served = list(self._served)
            ended = {job for job in served if not self._is_on_its_way(job)}
            free = self._count_free()
            with self._lock:
                self._served -= ended
                surplus = max(len(held) - len(self._served), free)
            for job in held:
                if surplus > 0 and self._resume(job):
                    surplus -= 1
        self._forget_resumed()
        return bool(self.held())

    def _is_on_its_way(self, job: str) -> bool:
        found = get_job(self._loopback, job)
        return found is not None and found["State"] in ON_THEIR_WAY

    def _count_free(self) -> int:
        """Return how many places no job uses or waits for; 0 where that was counted a moment ago."""
        if (begun := time.monotonic()) < self._next_count:
            return 0
        busy = sum(each["State"] in ON_THEIR_WAY for each in self._loopback.get("/jobs?expand"))
        self._next_count = begun + max(COUNT_EVERY_SECONDS, LISTING_SHARE * (time.monotonic() - begun))
        return self._concurrent_jobs - busy

    def _resume(self, job: str) -> bool:
        """Let a job go on; return whether it does, or has ended."""
        found = get_job(self._loopback, job)
        with self._lock:
            known = self._paused.get(job)
            if known is None or known.resumed is not None:
                return True  # a person has decided about it meanwhile
            if found and found["State"] == "Running" and known.is_asked:
                return False  # its pause has not begun
            if found and found["State"] == "Paused":
                try:
                    orthanc.RestApiPost(f"/jobs/{job}/resume", "{}")
                except orthanc.OrthancException:
                    return False  # the next look shows whether it was cancelled just now
            known.resumed = time.monotonic()
        return True

    def _forget_resumed(self) -> None:
        assert self._ledger
        now = time.monotonic()
        with self._lock:
            for job, each in list(self._paused.items()):
                if each.resumed is not None and now - each.resumed > REMEMBER_RESUMED_SECONDS:
                    del self._paused[job]
            for row in self._ledger.rows("SELECT job FROM paused_jobs"):
                if row["job"] not in self._paused:
                    self._ledger.run("DELETE FROM paused_jobs WHERE job=?", row["job"])

    # What persons pause and resume

    def answer_person(self, output: Any, _uri: str, /, **request: Any) -> None:
        """Answer `POST /jobs/{id}/pause` and `/resume` as Orthanc does, and leave the job to the person from then on."""
        if request["method"] != "POST":
            output.SendMethodNotAllowed("POST")
            return
        job, action = request["groups"]
        try:
            output.AnswerBuffer(self._act_for_person(job, action), "application/json")
        except orthanc.OrthancException:  # an unknown job, or one that is not paused
            output.SendHttpStatusCode(int(http.HTTPStatus.BAD_REQUEST))

    def _act_for_person(self, job: str, action: str) -> bytes:
        with self._lock:
            if action == "pause":
                self._leave(job)
                self._of_persons.add(job)
                return bytes(orthanc.RestApiPost(f"/jobs/{job}/pause", "{}"))
            # One whose pause has not begun can't be resumed: it stays with us.
            answer = bytes(orthanc.RestApiPost(f"/jobs/{job}/resume", "{}"))
            self._of_persons.discard(job)
            self._leave(job)
            return answer

    def _leave(self, job: str) -> None:
        """Forget a job. Where that can't be written down, `give_back` does it later."""
        if self._paused.pop(job, None) and self._ledger:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._ledger.run("DELETE FROM paused_jobs WHERE job=?", job)


def may_be_paused(job: Mapping[str, Any]) -> bool:
    """Return whether a running job sends for nobody who waits, and goes on where it was when it is resumed."""
    return job["Type"] in STORE_JOBS and job["Priority"] < PRIORITY


# ---- src/cmove_interceptor/jobs.py: Orthanc's jobs that send: submits them, and learns how far they are and how they ended.


JOB_LOOK_SECONDS = 0.1  # between looks at a job that sends

Destination: TypeAlias = tuple[str, Mapping[str, Any]]  # the name and the entry of one of DicomModalities


class Look(NamedTuple):
    """How far a job is: per cent sent; whether it ended well (None: it has not), why not; whether it waits for its place."""

    percent: int
    ended: bool | None
    error: str = ""
    waits: bool = False


class StoreJobs:
    """Lets jobs of Orthanc send, as its own C-MOVE does. `stopping` is set when Orthanc ends."""

    def __init__(self, loopback: Loopback, ends: JobEnds, configuration: Mapping[str, Any]) -> None:
        self._loopback, self._ends = loopback, ends
        self.synchronous = bool(configuration.get("SynchronousCMove", True))
        self.concurrent_jobs = int(configuration.get("ConcurrentJobs", 2)) or os.cpu_count() or 1
        self._aets = AeTitles(configuration)
        self.stopping = threading.Event()

    def destination(self, aet: str) -> Destination:
        """Return the name and the entry of `DicomModalities` with this AE title. Raises `MoveFailed`."""
        for name, entry in sorted(self._loopback.get("/modalities?expand").items()):
            if self._aets.same(entry["AET"], aet):
                return name, entry
        raise MoveFailed(f"no modality has the AE title {one_line(aet)!r}")

    def submit(self, fields: Fields, destination: Destination, resources: Sequence[str]) -> str:
        """Let a job send resources to the destination; return its identifier."""
        name, entry = destination
        body: dict[str, Any] = {"Resources": resources, "Synchronous": False, "Permissive": False, "Priority": PRIORITY}
        if int(fields["OriginatorID"]):
            body |= {"MoveOriginatorAet": fields["OriginatorAET"], "MoveOriginatorID": int(fields["OriginatorID"])}
        if entry.get("LocalAet"):
            body["LocalAet"] = entry["LocalAet"]
        return str(self._loopback.post(f"/modalities/{urllib.parse.quote(name, safe='')}/store", body)["ID"])

    def size(self, job: str) -> int:
        """Return how many images a job sends."""
        return int(self._loopback.get(f"/jobs/{job}")["Content"]["InstancesCount"])

    def wait(self, jobs: Sequence[str], pause: float = JOB_LOOK_SECONDS) -> list[str]:
        """Return those of the jobs that have ended, as soon as there is one; after the pause all of them, to look at."""
        return list(self._ends.wait(jobs, pause)) or list(jobs)

    def look(self, job: str) -> Look:
        """Return how far a job is."""
        if self._ends.get(job):
            return Look(100, True)
        if (state := get_job(self._loopback, job)) is None:
            # The caller waits: what did not report its end is a failure to it, and it asks again.
            well = self._ends.wait([job], END_EVENT_SECONDS).get(job, False)
            return Look(100 * well, well, "" if well else "the job is not known any more")
        ending, why = ending_of(state)
        if ending is Ending.SUCCESS:
            return Look(100, True)
        if ending is Ending.RUNNING and state["State"] != "Paused":
            return Look(state["Progress"], None, waits=state["State"] == "Pending")
        return Look(state["Progress"], False, why or state["ErrorDescription"])

    def cancel(self, *jobs: str) -> None:
        """Cancel jobs; those that are not known any more, or have ended, stay as they are."""
        for job in jobs:
            with contextlib.suppress(LoopbackError):
                self._loopback.post(f"/jobs/{job}/cancel", {})


# ---- src/cmove_interceptor/templates.py: Templates of URLs and bodies: `{StudyInstanceUID}` and the like become what a request says.


RESULTS = ("State", "Instances", "Completed", "Error")  # what a notification after the move may say besides


def wrong_template(template: str) -> str | None:
    """Return what is allowed, if a template has a placeholder that is not known."""
    unknown = [name for name in placeholders(template) if name not in (*FIELDS, *RESULTS, "RequestID")]
    return f"placeholders {', '.join(('RequestID', *FIELDS))}; after the move {', '.join(RESULTS)}" if unknown else None


def placeholders(template: str) -> list[str]:
    """Return the names of the placeholders; a brace that belongs to none counts as one, with no name that is known."""
    return [
        found[1] or found[2] or "?"
        for found in re.finditer(r"\{([A-Za-z]+)\}|\{\{|\}\}|([{}])", template)
        if found[1] or found[2]
    ]


def texts_of(body: Any) -> Iterator[str]:
    """Yield all texts of a JSON value, but no names of objects."""
    if isinstance(body, str):
        yield body
    elif isinstance(body, dict):
        for each in body.values():
            yield from texts_of(each)
    elif isinstance(body, list):
        for each in body:
            yield from texts_of(each)


def filled_url(template: str, values: Mapping[str, Any]) -> str:
    """Return a URL with the values in it, each percent-encoded: no value makes a parameter, a folder, or a way out of one."""

    def encode(text: str) -> str:
        return urllib.parse.quote(text, safe="", errors="replace")

    head, mark, query = template.partition("?")
    path = "/".join(_filled_segment(segment, values, encode) for segment in head.split("/"))
    return path + mark + _filled(query, values, encode)


def filled_body(body: Any, values: Mapping[str, Any]) -> Any:
    """Return a JSON value with the values in its texts."""
    if isinstance(body, str):
        return _filled(body, values, str)
    if isinstance(body, dict):
        return {name: filled_body(each, values) for name, each in body.items()}
    return [filled_body(each, values) for each in body] if isinstance(body, list) else body


def _filled(template: str, values: Mapping[str, Any], encode: Callable[[str], str]) -> str:
    def value(found: re.Match[str]) -> str:
        text = values.get(found[1])
        return {"{{": "{", "}}": "}"}.get(found[0]) or encode("" if text is None else str(text))

    return re.sub(r"\{\{|\}\}|\{([A-Za-z]+)\}", value, template)


def _filled_segment(template: str, values: Mapping[str, Any], encode: Callable[[str], str]) -> str:
    """Return a part of a path with the values in it; what has none, as the host and an empty part, stays as it is."""
    return harmless_segment(_filled(template, values, encode)) if placeholders(template) else template


# ---- src/cmove_interceptor/settings.py: The section CMoveInterceptor of the configuration.


SECTION = "CMoveInterceptor"
MOVES = ("move", "notify", "fetch")
MIN_IMAGES_FOR_SECOND_ASSOCIATION = 100  # fewer are sent as fast by one
FIRST_NOTIFICATION_DELAY_SECONDS = 10.0  # until the second attempt


def _url(template: str) -> str | None:
    """Return what is allowed as a URL, unless this is: nothing of a request reaches into scheme, host or port."""
    parts = urllib.parse.urlsplit(template)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[{}@\s]", parts.netloc):
        return "http:// or https://, a host without placeholders or credentials, a path"
    if not re.fullmatch(r"[!-~]+", template) or parts.fragment:
        return "a URL of printable ASCII characters, without a fragment"
    if has_dot_segments(parts.path):
        return "a URL whose path has no part . or .."
    return wrong_template(template)


def _name(name: str | None) -> str | None:
    fits = name is None or (0 < len(name) <= 200 and name.isprintable() and name.strip() == name)
    return None if fits else "a text of one line, at most 200 characters"


def _body(body: Any) -> str | None:
    return next((complaint for text in texts_of(body) if (complaint := wrong_template(text))), None)


def _headers(headers: Mapping[str, Any]) -> str | None:
    if complaint := empty_values(headers):
        return complaint
    plain = all(
        isinstance(value, str) and re.fullmatch(r"[!-~]([ -~]*[!-~])?", value) and re.fullmatch(r"[A-Za-z0-9-]+", name)
        for name, value in headers.items()
    )
    return None if plain else "names of headers and texts of printable ASCII characters"


def _sources(texts: Sequence[str]) -> str | None:
    known = all(re.fullmatch(r"(modality|peer):.+", text) for text in texts)
    return None if known else "modality:NAME or peer:NAME"


def _levels(texts: Sequence[str]) -> str | None:
    return None if texts and set(texts) <= set(LEVELS) else ", ".join(LEVELS)


@dataclasses.dataclass(frozen=True)
class Service:
    """One entry of `Notify`."""

    url: str = dataclasses.field(
        default="",
        metadata={
            "check": _url,
            "secret": True,
            "help": "Where to; path and query may have placeholders such as `{StudyInstanceUID}`.",
        },
    )
    name: str | None = dataclasses.field(
        default=None,
        metadata={"check": _name, "help": "What waits is bound to it; null: method and host, as `GET ris.example`."},
    )
    method: str = dataclasses.field(
        default="GET", metadata={"choices": ("GET", "POST"), "help": "HTTP method. For both, write two entries."}
    )
    body: Any = dataclasses.field(
        default=None,
        metadata={
            "check": _body,
            "secret": True,
            "help": "JSON of a POST, placeholders in its texts; null: all fields of the request.",
        },
    )
    headers: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"check": _headers, "secret": True, "help": "More HTTP headers, by name."}
    )
    username: str = dataclasses.field(default="", metadata={"check": _name, "help": "User for basic authentication."})
    password: str = dataclasses.field(
        default="", metadata={"secret": True, "help": "Password for basic authentication."}
    )
    token: str = dataclasses.field(default="", metadata={"secret": True, "help": "Token for bearer authentication."})
    verify_tls: bool = dataclasses.field(
        default=True,
        metadata={
            "help": "Check the service's certificate. To trust one of your own, set `CaFile` rather than false here."
        },
    )
    ca_file: str | None = dataclasses.field(
        default=None, metadata={"help": "Certificates to trust (PEM); null: those of the system."}
    )
    certificate_file: str | None = dataclasses.field(
        default=None, metadata={"help": "Client certificate, with its key or `KeyFile` (PEM)."}
    )
    key_file: str | None = dataclasses.field(default=None, metadata={"help": "Key of the client certificate."})
    proxy: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": proxy_or_null,
            "secret": True,
            "help": "`http://[USER:PASSWORD@]HOST:PORT`; null: none, whatever the environment says.",
        },
    )
    timeout: float = dataclasses.field(
        default=10,
        metadata={
            "minimum": 0.1,
            "maximum": 300,
            "help": "Seconds to connect, and for a silence; twice that in all. Of a `Required` one at most 5 in all.",
        },
    )
    when: str = dataclasses.field(
        default="before",
        metadata={"choices": ("before", "after"), "help": "Before the move, or after it with the result."},
    )
    required: bool = dataclasses.field(
        default=False, metadata={"help": "The move fails if this service refuses or can't be reached; only before."}
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of `Rules`: another `Mode` for some requests. The first that fits counts."""

    mode: str = dataclasses.field(
        default="move", metadata={"choices": MOVES, "help": "What is done with the requests that match."}
    )
    levels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": _levels, "help": "PATIENT, STUDY, SERIES, INSTANCE; without the key: all."}
    )
    target_aets: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "TargetAETs",
            "check": not_empty,
            "help": "AE titles of destinations, with `*` and `?`; without the key: all.",
        },
    )
    originator_aets: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "OriginatorAETs",
            "check": not_empty,
            "help": "AE titles of those who ask, with `*` and `?`; without the key: all.",
        },
    )
    identifiers: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"check": not_empty, "help": 'Patterns of identifiers: `{"PatientID": "RESEARCH*"}`.'},
    )


@dataclasses.dataclass(frozen=True)
class Fetch:
    """How `fetch` works."""

    sources: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={"key": "From", "check": _sources, "help": "`modality:NAME` and `peer:NAME`, asked in this order."},
    )
    seconds: float = dataclasses.field(
        default=60,
        metadata={
            "minimum": 1,
            "maximum": 3600,
            "help": (
                "Time limit for all that one request fetches; who asks waits as long. More for an archive that is slow."
            ),
        },
    )
    keep: bool = dataclasses.field(
        default=True, metadata={"help": "False: what was fetched is deleted after the move."}
    )


@dataclasses.dataclass(frozen=True)
class NotificationRetry(Retry):
    """When a notification that failed is sent again: sooner than other work, for it is small."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "First": "the script decides that itself now (it tries again after 10 s, then after twice as long each time)",
        "Longest": "the script decides that itself now (an hour)",
    }
    first: ClassVar[float] = FIRST_NOTIFICATION_DELAY_SECONDS

    give_up_hours: float = dataclasses.field(
        default=72,
        metadata={
            "minimum": 0,
            "help": (
                "Hours for which it is tried again; then it is `dead`. Choose more than the longest outage that you expect."
            ),
        },
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `CMoveInterceptor`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "TcpNoDelay": "DICOM goes at full speed now, unless Orthanc's environment has another value of TCP_NODELAY",
    }

    mode: str = dataclasses.field(
        default="move",
        metadata={
            "choices": MOVES,
            "help": "`move`: as Orthanc; `notify`: send nothing; `fetch`: get what is missing, then move.",
        },
    )
    rules: tuple[Rule, ...] = dataclasses.field(default=(), metadata={"help": "Other modes for some requests (below)."})
    notify: tuple[Service, ...] = dataclasses.field(
        default=(), metadata={"help": "Services to notify (below); none: only the log has each request."}
    )
    fetch: Fetch = dataclasses.field(default=Fetch(), metadata={"help": "From where `fetch` gets what is missing."})
    associations: int = dataclasses.field(
        default=2,
        metadata={
            "minimum": 1,
            "maximum": 8,
            "help": f"Associations at a time for a move of {MIN_IMAGES_FOR_SECOND_ASSOCIATION} images or more. "
            "1 if destinations take one at a time.",
        },
    )
    retry: NotificationRetry = dataclasses.field(
        default=NotificationRetry(), metadata={"help": "For how long a notification that failed is sent again."}
    )
    state_path: str | None = state_path_field()
    durability: str = durability_field()
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that requests and delivered notifications stay in the list."}
    )
    keep_orphaned_days: float = dataclasses.field(
        default=30,
        metadata={
            "minimum": 0,
            "help": (
                "Days (of running) for which notifications are kept whose service is not in `Notify` any more; "
                "0: for ever."
            ),
        },
    )


def name_of(service: Service) -> str:
    """Return the name to which what waits for a service is bound."""
    return service.name or f"{service.method} {urllib.parse.urlsplit(service.url).netloc.lower()}"


def calls_services(settings: Settings) -> bool:
    """Return whether services or peers are called over HTTP."""
    fetches = "fetch" in (settings.mode, *(rule.mode for rule in settings.rules))
    return bool(settings.notify) or (fetches and any(source.startswith("peer:") for source in settings.fetch.sources))


def check_settings(settings: Settings) -> None:
    """Check what the types don't say. Raises `SettingsError`."""
    positions: dict[str, int] = {}
    for number, service in enumerate(settings.notify):
        path = f"{SECTION}.Notify[{number}]"
        if not service.url:
            raise SettingsError(f"{path}.Url is missing")
        name = name_of(service)
        if not service.required and positions.setdefault(name, number) != number:
            raise SettingsError(
                f"{path}: found the name {json.dumps(name)} of Notify[{positions[name]}] again, allowed: a Name of its own for "
                "each, since what waits is bound to it"
            )
        _check_service(service, path)
    for number, rule in enumerate(settings.rules):
        if unknown := [name for name in rule.identifiers if name not in IDENTIFIER_FIELDS]:
            allowed = ", ".join(IDENTIFIER_FIELDS)
            raise SettingsError(f"{SECTION}.Rules[{number}].Identifiers: found {unknown[0]}, allowed: {allowed}")
    if "fetch" in (settings.mode, *(rule.mode for rule in settings.rules)) and not settings.fetch.sources:
        raise SettingsError(f"{SECTION}.Fetch.From is missing: whom to ask for what is not here")


def _check_service(service: Service, path: str) -> None:
    if service.required and service.when == "after":
        raise SettingsError(f'{path}.Required: found true with "When": "after", allowed: only before the move')
    if service.body is not None and service.method == "GET":
        raise SettingsError(f'{path}.Body: found one, allowed: only with "Method": "POST"')
    used = {name for text in (service.url, *texts_of(service.body)) for name in placeholders(text)}
    if service.when == "before" and used & set(RESULTS):
        raise SettingsError(f'{path}: {", ".join(sorted(used & set(RESULTS)))} are known only with "When": "after"')
    if service.username and service.token:
        raise SettingsError(f"{path}: found Username and Token, allowed: one of them")


def holds_moves_back(found: Any) -> bool:
    """Return whether a section that has no effect seems to hold moves back: by a `Required` service, or by the mode `notify`.

    Its words may be mistyped: what looks like one of the two counts.
    """
    if isinstance(found, dict):
        return any(
            (is_nearly(key, "Required") and value is not False) or holds_moves_back(value)
            for key, value in found.items()
        )
    if isinstance(found, list):
        return any(map(holds_moves_back, found))
    return isinstance(found, str) and is_nearly(found, "notify")


# ---- src/cmove_interceptor/service_http.py: What a service is called with: its connection, and the headers of each request.


def outside_of(service: Service) -> Outside:
    """Return the connection to a service. Raises OSError: a file of certificates can't be read."""
    return Outside(
        service.url,
        verify_tls=service.verify_tls,
        ca_file=service.ca_file,
        certificate_file=service.certificate_file,
        key_file=service.key_file,
        proxy=service.proxy,
    )


def headers_for(service: Service) -> dict[str, str]:
    """Return the headers of each request to a service: who we are, and what is configured."""
    headers = {"User-Agent": f"cmove_interceptor/{__version__}"}
    if service.method == "POST":
        headers["Content-Type"] = "application/json"
    if service.username:
        pair = f"{service.username}:{service.password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif service.token:
        headers["Authorization"] = f"Bearer {service.token}"
    return {**headers, **service.headers}


# ---- src/cmove_interceptor/peer.py: Another Orthanc, asked over HTTP.


PEER_TIMEOUT_SECONDS = 30.0  # that it may be silent
LARGEST_PEER_ANSWER = 2 * 1024**3  # bytes: an image is held in memory until it is stored


class Peer:
    """Another Orthanc, as `OrthancPeers` of the configuration has it. Raises `MoveFailed`: it is not there."""

    def __init__(self, configuration: Mapping[str, Any], name: str) -> None:
        entry = configuration.get("OrthancPeers", {}).get(name)
        if entry is None:
            raise MoveFailed(f"{name} is not in OrthancPeers")
        if isinstance(entry, list):
            entry = dict(zip(("Url", "Username", "Password"), entry, strict=False))
        url = urllib.parse.urlsplit(entry["Url"])
        self._folder = url.path.rstrip("/")
        self._service = Service(
            url=entry["Url"],
            username=entry.get("Username", ""),
            password=entry.get("Password", ""),
            headers=entry.get("HttpHeaders", {}),
            verify_tls=bool(configuration.get("HttpsVerifyPeers", True)),
            ca_file=configuration.get("HttpsCACertificates") or None,
            certificate_file=entry.get("CertificateFile"),
            key_file=entry.get("CertificateKeyFile"),
            proxy=_proxy_to(url.hostname or "", configuration),
        )
        try:
            self._outside = outside_of(self._service)
        except OSError as error:
            raise MoveFailed(f"a certificate can't be read: {error}") from None

    def ask(self, method: str, path: str, deadline: float, body: Any = None) -> list[Any]:
        """Return the list that it answers with. Raises `MoveFailed`."""
        try:
            found = json.loads(self.request(method, path, deadline, body))
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise MoveFailed(f"{method} {path} was not answered as Orthanc does")
        return found

    def request(self, method: str, path: str, deadline: float, body: Any = None) -> bytes:
        """Return the bytes that it answers with before a time of the monotonic clock. Raises `MoveFailed`."""
        try:
            answer = self._outside.request(
                method,
                self._folder + path,
                headers=headers_for(self._service),
                body=None if body is None else json.dumps(body).encode(),
                timeout=PEER_TIMEOUT_SECONDS,
                total=max(0.1, deadline - time.monotonic()),
                largest=LARGEST_PEER_ANSWER,
            )
        except OutsideError as error:
            raise MoveFailed(f"it does not answer: {error}") from None
        if answer.status != http.HTTPStatus.OK:
            raise MoveFailed(f"{method} {path} was answered {answer.status}")
        if answer.problem:
            raise MoveFailed(f"{method} {path} was not answered whole: {answer.problem}")
        return answer.body

    def close(self) -> None:
        """End what is being asked, and ask no more."""
        self._outside.close()


def _proxy_to(host: str, configuration: Mapping[str, Any]) -> str | None:
    """Return the proxy by which Orthanc itself reaches a host: `HttpProxy`, unless the environment says not for this one."""
    proxy = str(configuration.get("HttpProxy") or "")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


# ---- src/cmove_interceptor/fetcher.py: Gets what a request means and is not here, or only in part, from other modalities and peers.


FETCHES_AT_A_TIME = 2


@dataclasses.dataclass(frozen=True)
class Fetched:
    """The instances of a request that came while it was fetched, and those of them that were copied from a peer."""

    came: list[str]
    copied: set[str]


class Fetcher:
    """Asks the sources of `Fetch.From` one after the other."""

    def __init__(
        self,
        loopback: Loopback,
        archive: Archive,
        jobs: StoreJobs,
        slots: JobSlots,
        settings: Fetch,
        configuration: Mapping[str, Any],
    ) -> None:
        self._loopback, self._archive, self._jobs, self._slots = loopback, archive, jobs, slots
        self._settings, self._configuration = settings, configuration
        self._aet, self._aets = str(configuration.get("DicomAet", "ORTHANC")), AeTitles(configuration)
        self._turns = threading.BoundedSemaphore(FETCHES_AT_A_TIME)
        self._peers: dict[str, Peer] = {}
        self._peers_lock = threading.Lock()
        self._said: set[str] = set()

    def stop(self) -> None:
        """End what is being fetched from peers."""
        with self._peers_lock:
            for peer in self._peers.values():
                peer.close()

    def complete(self, fields: Fields) -> Fetched:
        """Fetch what is missing; return what came. Raises `MoveFailed` when too many fetch already."""
        tag, text = identifying_tag(fields)
        if re.search(r"[*?]", text) or not text.strip():
            what = "has a wildcard" if text.strip() else "is empty"
            raise MoveFailed(f"{tag} {what}: elsewhere it would mean more than the request does")
        if not self._turns.acquire(blocking=False):
            # Who waits here holds one of Orthanc's few DICOM threads, too.
            raise MoveFailed(f"{FETCHES_AT_A_TIME} other requests are being fetched already")
        try:
            deadline = time.monotonic() + self._settings.seconds
            before, copied = set(self._archive.instances(fields)), set[str]()
            for token in filter(str.strip, text.split("\\")):
                self._fetch({**fields, tag: token}, tag, deadline, copied)
            return Fetched(sorted(set(self._archive.instances(fields)) - before), copied)
        finally:
            self._turns.release()

    def remove(self, fetched: Fetched) -> None:
        """Delete what was fetched. What somebody else has sent meanwhile stays: it may be the only copy."""
        if not fetched.came:
            return
        sources = (source.partition(":") for source in self._settings.sources)
        names = {name for kind, _, name in sources if kind == "modality"}
        known = self._loopback.get("/modalities?expand") if names else {}
        aets = {self._aets.key(known[name]["AET"].strip()) for name in names & known.keys()}
        senders = self._archive.senders([each for each in fetched.came if each not in fetched.copied])
        mine = [
            each for each in fetched.came if each in fetched.copied or self._aets.key(senders.get(each, "")) in aets
        ]
        if mine:
            self._archive.remove(mine)

    def _fetch(self, fields: Fields, tag: str, deadline: float, copied: set[str]) -> None:
        """Ask one source after the other until as much is here as the fullest of them has."""
        for source in self._settings.sources:
            kind, _, name = source.partition(":")
            try:
                if kind == "modality":
                    had_some = self._from_modality(name, fields, tag, deadline)
                else:
                    had_some = self._from_peer(name, fields, tag, deadline, copied)
                if had_some:
                    return
            except (LoopbackError, MoveFailed) as error:
                orthanc.LogWarning(f"cmove_interceptor: {one_line(source)} did not help: {one_line(error)}")

    def _from_modality(self, name: str, fields: Fields, tag: str, deadline: float) -> bool:
        """Retrieve from a modality what it has more of than we have; return whether it had anything."""
        comparison = Comparison(self._loopback, self._archive, name, lambda: self._check_time(deadline), self._said)
        level, name = LEVELS[fields["Level"]], urllib.parse.quote(name, safe="")
        count = COUNT_TAGS.get(level)
        query = {**parent_identifiers(fields), tag: fields[tag], **({count: ""} if count else {})}
        found = self._loopback.post(f"/modalities/{name}/query", {"Level": level, "Query": query})
        answers = self._loopback.get(f"/queries/{found['ID']}/answers?expand&simplify")
        # One that does not look at a key answers with all that it has.
        meant = {number: each for number, each in enumerate(answers) if is_about(each, tag, fields[tag])}
        try:
            for number, answer in meant.items():
                if comparison.has_more(fields_of(answer, fields, tag), answer):
                    job = self._loopback.post(
                        f"/queries/{found['ID']}/answers/{number}/retrieve",
                        {"TargetAet": self._aet, "Synchronous": False, "Priority": PRIORITY},
                    )["ID"]
                    self._wait_for(job, deadline)
        finally:
            self._loopback.request("DELETE", f"/queries/{found['ID']}")
        return bool(meant)

    def _wait_for(self, job: str, deadline: float) -> None:
        """Wait for the end of a job. Raises `MoveFailed` if it failed, or took too long."""
        ended: bool | None = None
        while ended is None:
            try:
                self._check_time(deadline)
            except MoveFailed:
                self._jobs.cancel(job)
                raise
            self._jobs.wait([job])
            _, ended, error, waits = self._jobs.look(job)
            if waits:
                self._slots.make_room(job)
        if not ended:
            raise MoveFailed(error)

    def _from_peer(self, name: str, fields: Fields, tag: str, deadline: float, copied: set[str]) -> bool:
        """Copy from a peer the instances that it has and we have not into `copied`; return whether it had anything."""
        with self._peers_lock:
            if name not in self._peers:
                self._peers[name] = Peer(self._configuration, name)
            peer = self._peers[name]
        level = LEVELS[fields["Level"]]
        found = peer.ask("POST", "/tools/find", deadline, {"Level": level, "Query": {tag: fields[tag]}})
        here = set(self._archive.instances(fields)) if found else set()
        if level == "Instance":
            there = found
        else:
            lists = (peer.ask("GET", f"/{PLURAL[level]}/{each}/instances", deadline) for each in found)
            there = [instance["ID"] for instances in lists for instance in instances]
        for instance in there:
            if instance not in here:  # the same image has the same identifier everywhere
                self._check_time(deadline)
                if self._archive.store(peer.request("GET", f"/instances/{instance}/file", deadline)):
                    copied.add(instance)
        return bool(found)

    def _check_time(self, deadline: float) -> None:
        if time.monotonic() > deadline or self._jobs.stopping.is_set():
            raise MoveFailed(f"it was not fetched within {self._settings.seconds:g} s")


def fields_of(answer: Mapping[str, Any], fields: Fields, tag: str) -> Fields:
    """Return a request for what an answer to C-FIND means: several studies may have one AccessionNumber."""
    uid = answer.get("StudyInstanceUID")
    return {**fields, "AccessionNumber": "", "StudyInstanceUID": uid} if tag == "AccessionNumber" and uid else fields


# ---- src/cmove_interceptor/modes.py: What is done with a request: the mode of the first rule that fits, else the script's.


def mode_of(fields: Fields, settings: Settings, aets: AeTitles = ANY_CASE) -> str:
    """Return what is done with a request."""
    return next((rule.mode for rule in settings.rules if _fits(rule, fields, aets)), settings.mode)


def _fits(rule: Rule, fields: Fields, aets: AeTitles) -> bool:
    return (
        (not rule.levels or fields["Level"] in rule.levels)
        and (not rule.target_aets or aets.matches_any(fields["TargetAET"], rule.target_aets))
        and (not rule.originator_aets or aets.matches_any(fields["OriginatorAET"], rule.originator_aets))
        and all(
            # Of a list each must fit: a request is not what one of its identifiers is.
            all(matches_pattern(value, pattern) for value in fields[name].split("\\"))
            for name, pattern in rule.identifiers.items()
        )
    )


# ---- src/cmove_interceptor/move.py: One request on its way, and its parts.


class Part:
    """What one job sends of a move, by an association of its own; `refused`: how often it was."""

    def __init__(self, resources: Sequence[str], total: int, job: str = "") -> None:
        self.resources, self.total, self.job = resources, total, job
        self.sent = self.refused = 0
        self.ended: bool | None = None
        self.waits = False  # for its job's place among those that Orthanc runs at a time
        self.error = ""

    @property
    def is_running(self) -> bool:
        return bool(self.job) and self.ended is None


class Move:
    """One request on its way: what `create` returns, `apply` follows and `free` ends."""

    def __init__(self, number: int, name: str, fields: Fields, mode: str) -> None:
        self.number, self.name, self.fields, self.mode = number, name, fields, mode
        self.destination: Destination = "", {}
        self.parts: list[Part] = []
        self.total = self.applied = 0
        self.one_by_one = False  # the destination has refused an association beside another
        self.followed = True  # False: nobody knows how many of its images were sent
        self.error = ""
        self.fetched: Fetched | None = None

    @property
    def sent(self) -> int:
        """How many images were sent."""
        return sum(part.sent for part in self.parts)

    @property
    def jobs(self) -> list[str]:
        """The jobs that were submitted."""
        return [part.job for part in self.parts if part.job]

    def values(self) -> dict[str, Any]:
        """Return what services are notified of."""
        return {"RequestID": self.name, **self.fields}

    def result(self) -> dict[str, Any]:
        """Return what came of it up to now."""
        completed = self.sent if self.followed else None
        return {"Jobs": self.jobs, "Instances": self.total, "Completed": completed, "Error": self.error}


# ---- src/cmove_interceptor/caller.py: Sends notifications to one service.


class NotDeliveredError(Exception):
    """The service refused, or did not answer."""


class Caller:
    """Sends the requests to one service."""

    def __init__(self, service: Service) -> None:
        self.service, self.name = service, name_of(service)
        self._outside = outside_of(service)

    @property
    def target(self) -> str:
        """The service as logs call it: method and URL, without what might be secret in it."""
        parts = urllib.parse.urlsplit(self.service.url)
        return f"{self.service.method} {parts.scheme}://{parts.netloc}{parts.path}"

    def prepared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what will be sent of a request, without what is secret."""
        body = None
        if self.service.method == "POST":
            body = dict(values) if self.service.body is None else filled_body(self.service.body, values)
        return {"Url": filled_url(self.service.url, values), "Body": body, "RequestID": values["RequestID"]}

    def send(self, prepared: Mapping[str, Any], timeout: float, total: float | None = None) -> None:
        """Send it. Redirects are not followed: the configuration says where to. Raises `NotDeliveredError`.

        `timeout`, `total` : seconds, as `Outside.request` takes them.
        """
        url = urllib.parse.urlsplit(prepared["Url"])
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        body = None if self.service.method == "GET" else json.dumps(prepared["Body"]).encode()
        headers = {"Idempotency-Key": prepared["RequestID"], **headers_for(self.service)}
        try:
            answer = self._outside.request(
                self.service.method, target, headers=headers, body=body, timeout=timeout, total=total
            )
        except OutsideError as error:
            raise NotDeliveredError(str(error)) from None
        if not 200 <= answer.status < 300:
            raise NotDeliveredError(f"it answered {answer.status}")

    def close(self) -> None:
        """End what is being sent, and send no more."""
        self._outside.close()


def origin_of(target: str) -> str:
    """Return the method, scheme, host and port of a `Caller.target`."""
    return "/".join(target.split("/")[:3])


# ---- src/cmove_interceptor/delivery.py: Delivers the notifications that wait for one service, at least once.


LOOK_SECONDS = 2.0  # between looks for notifications that are due
ROWS_PER_LOOK = 100


class Delivery:
    """The thread that delivers to one service what is due, from the ledger's queue of its name."""

    def __init__(self, caller: Caller, ledger: Ledger, retry: Retry) -> None:
        self._caller, self._ledger, self._retry = caller, ledger, retry
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._has_unsettled = False  # rows whose attempt has ended, which could not be written down
        self._thread = threading.Thread(target=self._work, name=f"cmove-notify {caller.name}", daemon=True)

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once for what is due."""
        self._wake.set()

    def end(self) -> None:
        """End after the notification that is under way; return at once."""
        self._stopping.set()
        self._wake.set()

    def join(self, deadline: float) -> None:
        """Wait for the end until a time of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    # The thread

    def _work(self) -> None:
        trouble = Trouble("cmove_interceptor (notifications)")
        while not self._stopping.is_set():
            try:
                if not self._deliver():
                    self._wake.wait(LOOK_SECONDS)
                    self._wake.clear()
                if not self._stopping.is_set():
                    trouble.is_over()
            except (sqlite3.Error, OSError) as error:
                self._has_unsettled = True
                if not self._stopping.is_set():
                    trouble.begins(f"cmove_interceptor delivers when this is over: {one_line(error)}", one_line(error))
                self._stopping.wait(LOOK_SECONDS)
            except Exception:  # noqa: BLE001 - the next notification is not lost for it
                orthanc.LogError(f"cmove_interceptor can't deliver, please report this:\n{traceback.format_exc()}")
                self._stopping.wait(LOOK_SECONDS)

    def _deliver(self) -> bool:
        """Deliver what is due; return whether there was something."""
        if self._has_unsettled:
            self._send_unsettled_again()
        due = self._ledger.due(self._caller.name, ROWS_PER_LOOK, self._retry.longest)
        for row in due:
            if self._stopping.is_set():
                break
            self._ledger.start(row["id"])
            try:
                self._caller.send(self._prepared(json.loads(row["data"])), self._caller.service.timeout)
            except NotDeliveredError as error:
                if self._stopping.is_set():  # it may have been ended here: it is sent at the next start
                    break
                self._fail(row, one_line(error))
            except Exception as error:  # noqa: BLE001 - of this notification alone: the next one is sent
                self._fail(row, f"it can't be sent: {type(error).__name__}: {one_line(error)}")
            else:
                self._ledger.end(row["id"], "done")
        return bool(due)

    def _send_unsettled_again(self) -> None:
        """Let all be due of which nobody knows how it ended: at least once. None is under way, for this thread alone sends."""
        work = Work(self._ledger)
        for row in work.find(Which(queue=self._caller.name, states=("sending",))):
            work.wait_again(row["id"])
        self._has_unsettled = False

    def _prepared(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return what a row says, for the service as it is configured now; the first version wrote down what it would send."""
        return data if "Url" in data else self._caller.prepared(data["Values"])

    def _fail(self, row: Mapping[str, Any], error: str) -> None:
        state = self._ledger.fail(row["id"], error, self._retry)
        if row["attempts"] == 0 or state == "dead":
            after = "given up" if state == "dead" else "it goes again"
            name = self._caller.name
            orthanc.LogWarning(f"cmove_interceptor: a notification did not reach {name}: {error}; {after}")


# ---- src/cmove_interceptor/required.py: Asks the services that must agree before a move begins.


REQUIRED_AT_A_TIME = 2  # moves that wait for a service: each holds one of Orthanc's few DICOM threads
LONGEST_ANSWER_SECONDS = 5.0  # that a move waits for a required service
TURN_SECONDS = 1.0  # that a move waits until fewer than `REQUIRED_AT_A_TIME` are under way


class RequiredServices:
    """The services without whose agreement nothing moves."""

    def __init__(self, callers: Sequence[Caller]) -> None:
        self._callers = callers
        self._turns = threading.BoundedSemaphore(REQUIRED_AT_A_TIME)

    def ask(self, values: Mapping[str, Any]) -> None:
        """Ask one after the other. Raises `NotDeliveredError` for the first that does not agree."""
        for caller in self._callers:
            self._ask(caller, caller.prepared(values))

    def _ask(self, caller: Caller, prepared: Mapping[str, Any]) -> None:
        # In a thread of its own: to look up a name may take longer than any time limit.
        if not self._turns.acquire(timeout=TURN_SECONDS):
            raise NotDeliveredError(f"{caller.target}: {REQUIRED_AT_A_TIME} others wait for a required service already")
        seconds = min(caller.service.timeout, LONGEST_ANSWER_SECONDS)
        outcome: list[str | None] = []
        done, deadline = threading.Event(), time.monotonic() + seconds

        def send() -> None:
            try:
                caller.send(prepared, seconds, seconds)
                outcome.append(None)
            except Exception as error:  # noqa: BLE001 - whatever it is: the service did not agree
                outcome.append(one_line(error))
            finally:
                self._turns.release()
                done.set()

        threading.Thread(target=send, name="cmove-required", daemon=True).start()
        # Its own time limit may be the first to end.
        if not done.wait(seconds) or (outcome[0] is not None and time.monotonic() >= deadline):
            raise NotDeliveredError(f"{caller.target} did not answer within {seconds:g} s")
        if outcome[0] is not None:
            raise NotDeliveredError(f"{caller.target}: {outcome[0]}")


# ---- src/cmove_interceptor/notifier.py: Notifies services: those that must agree at once, the others from the ledger, each in a thread of its own.


CLOSES_WITHIN_SECONDS = 0.5  # that a delivery ends in when its connection is closed
UNDELIVERED = ("waiting", "sending", "dead")  # states of rows of work


class Notifier:
    """Writes down what services are to be notified of, and delivers it. Queues of the ledger have the names of services."""

    def __init__(self, settings: Settings) -> None:
        self._retry, self._keep_days = settings.retry, settings.keep_orphaned_days
        self._callers = [Caller(service) for service in settings.notify]
        self._queued = {caller.name: caller for caller in self._callers if not caller.service.required}
        self.required = RequiredServices([caller for caller in self._callers if caller.service.required])
        self._deliveries: dict[str, Delivery] = {}
        self._stopping = threading.Event()
        self._orphan_thread = threading.Thread(target=self._keep_orphans, name="cmove-orphans", daemon=True)

    def start(self, ledger: Ledger) -> None:
        """Begin to deliver what the ledger has."""
        self._ledger, self._work, self.orphans = ledger, Work(ledger), Orphans(ledger, self._keep_days)
        bind_by_name(ledger, self._callers)
        for row in self._work.find(Which(states=("sending",))):  # killed meanwhile: at least once
            self._work.wait_again(row["id"])
        self.orphans.begin(self._undelivered().keys() - self._queued.keys())
        if self.orphans.names():
            self._report_orphans()
            self._orphan_thread.start()
        self._deliveries = {name: Delivery(caller, ledger, self._retry) for name, caller in self._queued.items()}
        for delivery in self._deliveries.values():
            delivery.start()

    def stop(self, deadline: float) -> None:
        """End all threads, and wait for them until a time of the monotonic clock."""
        self._stopping.set()
        for delivery in self._deliveries.values():
            delivery.end()
        for delivery in self._deliveries.values():
            delivery.join(deadline - CLOSES_WITHIN_SECONDS)
        for caller in self._callers:
            caller.close()
        for delivery in self._deliveries.values():
            delivery.join(deadline)
        if self._orphan_thread.is_alive():
            self._orphan_thread.join(max(0.0, deadline - time.monotonic()))

    def queue(self, when: str, values: Mapping[str, Any]) -> None:
        """Write a notification down for each service that has this `When`; each is delivered as soon as its service listens."""
        for name, caller in self._queued.items():
            if caller.service.when == when:
                self._ledger.add(name, str(values["RequestID"]), {"Values": values})
                self._deliveries[name].wake()

    # To look at, and to drop

    def totals(self) -> dict[str, int]:
        """Return the number of notifications in each state."""
        return self._ledger.totals()

    def of_request(self, name: str) -> list[dict[str, Any]]:
        """Return what services were notified of a request, or will be."""
        return [
            {"Service": row["queue"], "State": row["state"], "Attempts": row["attempts"], "Error": row["error"]}
            for row in self._work.find(Which(resource=name))
        ]

    def services(self) -> dict[str, dict[str, Any]]:
        """Return what waits for each service by its name, those that are not configured any more included."""
        found = self._undelivered()
        states: dict[str, dict[str, Any]] = {name: {"State": "configured"} for name in self._queued}
        for name, (since, left) in self.orphans.names().items():
            states[name] = {"State": "orphaned", "OrphanedSince": utc(since), "DaysLeft": left}
        for name, state in states.items():
            counts = found.get(name, dict.fromkeys(UNDELIVERED, 0))
            state |= {"Waiting": counts["waiting"] + counts["sending"], "Dead": counts["dead"]}
        return states

    def _undelivered(self) -> dict[str, dict[str, int]]:
        """Return the queues for which something waits or is dead, with the number of rows in each state."""
        found = self._work.totals_by_queue()
        return {queue: counts for queue, counts in found.items() if any(counts[state] for state in UNDELIVERED)}

    def drop(self, name: str) -> None:
        """Delete what waits for a service that is not configured any more."""
        with self._ledger.transaction():
            self._work.remove_all(Which(queue=name, states=UNDELIVERED))
            self.orphans.forget(name)

    # What waits for a service that is not configured any more

    def _report_orphans(self) -> None:
        states = self.services()
        shown = ", ".join(f"{one_line(name)} ({states[name]['Waiting']})" for name in self.orphans.names())
        orthanc.LogWarning(
            f"cmove_interceptor: no entry of Notify has the name of what notifications wait for: {shown}. They are kept until "
            "there is one, or DELETE /cmove-interceptor/services/NAME, or KeepOrphanedDays"
        )

    def _keep_orphans(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            with contextlib.suppress(sqlite3.Error, OSError):  # the disk is full, the folder away: later
                for name in self.orphans.expired():
                    self.drop(name)
                    orthanc.LogWarning(
                        f"cmove_interceptor: what waited for {one_line(name)} was kept for KeepOrphanedDays, and is dropped now"
                    )


def bind_by_name(ledger: Ledger, callers: list[Caller]) -> None:
    """Bind what the first version wrote down, by position and URL, to the service that this is now.

    Which is the one at that position, if its method and host are the same; else the only one at that URL. What is for none is
    an orphan under its URL: nothing is sent to another host.
    """
    work = Work(ledger)
    queued = [caller for caller in callers if not caller.service.required]
    with ledger.transaction():
        rows = [row for row in work.find(Which(resource_glob="[0-9]* *")) if row["subject"].split(" ")[0].isdigit()]
        positions = {(row["queue"], int(row["subject"].split(" ")[0])) for row in rows}
        for row in rows:
            target, (position, _, subject) = row["queue"], row["subject"].partition(" ")
            at = callers[int(position)] if int(position) < len(callers) else None
            there = [each for each in queued if each.target == target]
            name = target
            if at is not None and at in queued and origin_of(at.target) == origin_of(target):
                name = at.name
            elif len(there) == 1 and [each for each, _ in positions].count(target) == 1:
                name = there[0].name
            work.change(row["id"], queue=name, subject=subject)


# ---- src/cmove_interceptor/planning.py: Cuts a move into parts: what is sent by which association.


PIECE_SIZE = 64  # images of a job that sends some of a series: after each, Orthanc writes down the names of all
RAMP_UP_SIZES = (16, 32)  # images of the first pieces of a series, and backwards of the last


class Planner:
    """Cuts moves into parts for so many associations at a time."""

    def __init__(self, archive: Archive, associations: int) -> None:
        self._archive, self._associations = archive, associations

    def parts(self, level: str, resources: Sequence[str]) -> list[Part]:
        """Return what each job sends; the number of images is 0 where it is not known.

        One sends all; or, where images are many, there is one for each association, with whole series. Only a series that is
        more than what one association should send is sent in pieces, if naming its images costs little.
        """
        if level == "INSTANCE" or self._associations == 1:
            return [Part(resources, 0)]
        series = {each: ids for resource in resources for each, ids in self._archive.series(level, resource).items()}
        total = sum(map(len, series.values()))
        if total < MIN_IMAGES_FOR_SECOND_ASSOCIATION:
            return [Part(resources, total)]
        shares: list[list[str]] = [[] for _ in range(self._associations)]
        pieces: list[Part] = []
        for each in sorted(series, key=lambda each: -len(series[each])):  # the longest first, where there is least
            count = len(series[each])
            if count <= max(total / self._associations, PIECE_SIZE) or not self._archive.may_name_images(count):
                min(shares, key=lambda share: sum(len(series[other]) for other in share)).append(each)
            else:
                cuts = itertools.pairwise(itertools.accumulate(piece_sizes(count), initial=0))
                pieces += [Part(series[each][start:end], end - start) for start, end in cuts]
        return [Part(share, sum(len(series[each]) for each in share)) for share in shares if share] + pieces


def piece_sizes(count: int) -> list[int]:
    """Return in which pieces a series of so many images is sent, none above `PIECE_SIZE`.

    The first are small, so that the second association begins soon, and the last, so that both end together.
    """
    ramp = RAMP_UP_SIZES if count > 4 * sum(RAMP_UP_SIZES) else ()
    inner = count - 2 * sum(ramp)
    number = math.ceil(inner / PIECE_SIZE)
    cuts = itertools.pairwise(inner * cut // number for cut in range(number + 1))
    return [*ramp, *(end - start for start, end in cuts), *reversed(ramp)]


# ---- src/cmove_interceptor/records.py: The record of requests in the ledger, and what came of them.


TABLES = f"""
{ORPHAN_TABLES}
{PAUSED_TABLE}
CREATE TABLE IF NOT EXISTS requests(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, fields TEXT NOT NULL,
    mode TEXT NOT NULL, state TEXT NOT NULL, result TEXT NOT NULL, created REAL NOT NULL, ended REAL);
CREATE INDEX IF NOT EXISTS requests_by_state ON requests(state);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests(created);
"""
FORGET_REQUESTS = "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE created<? ORDER BY created LIMIT ?)"


class Records:
    """The table of requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, name: str, fields: Fields, mode: str) -> Move:
        """Write a request down, and return it as a move."""
        values = (name, json.dumps(fields), mode, time.time())
        with self._ledger.transaction() as db:
            cursor = db.execute("INSERT INTO requests VALUES(NULL,?,?,?,'moving','{}',?,NULL)", values)
            return Move(int(cursor.lastrowid or 0), name, fields, mode)

    def note(self, move: Move) -> None:
        """Write down what came of a move up to now."""
        self._ledger.run("UPDATE requests SET result=? WHERE id=?", json.dumps(move.result()), move.number)

    def end(self, move: Move, state: str) -> None:
        """Write down how a move ended."""
        sql = "UPDATE requests SET state=?,result=?,ended=? WHERE id=?"
        self._ledger.run(sql, state, json.dumps(move.result()), time.time(), move.number)

    def interrupted(self) -> list[dict[str, Any]]:
        """Return the rows of moves that have not ended."""
        return self._ledger.rows("SELECT * FROM requests WHERE state='moving'")

    def forget(self, days: float) -> bool:
        """Delete some of the requests that are so many days old; return whether there may be more."""
        before = time.time() - days * 86400
        return self._ledger.run(FORGET_REQUESTS, before, FORGOTTEN_AT_ONCE) == FORGOTTEN_AT_ONCE

    def totals(self) -> dict[str, int]:
        """Return the number of requests in each state."""
        rows = self._ledger.rows("SELECT state, COUNT(*) n FROM requests GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def count(self, state: str | None) -> int:
        """Return the number of requests, of all or in a state."""
        return sum(number for each, number in self.totals().items() if state in (None, each))

    def page(self, since: int, limit: int, state: str | None, before: int | None = None) -> list[dict[str, Any]]:
        """Return at most so many requests, of all or in a state: after a number oldest first, `before` one newest first."""
        where, values = ("", ()) if state is None else ("AND state=?", (state,))
        if before is None:
            sql = f"SELECT * FROM requests WHERE id>? {where} ORDER BY id LIMIT ?"
            return self._ledger.rows(sql, since, *values, limit)
        sql = f"SELECT * FROM requests WHERE id>? AND id<? {where} ORDER BY id DESC LIMIT ?"
        return self._ledger.rows(sql, since, before, *values, limit)


def interrupted_move(row: Mapping[str, Any]) -> Move:
    """Return the move of a row of `Records.interrupted`: its caller is gone, and nobody knows how many images were sent."""
    move = Move(row["id"], row["name"], json.loads(row["fields"]), row["mode"])
    result = json.loads(row["result"])
    move.parts, move.total = [Part((), 0, job) for job in result.get("Jobs", [])], result.get("Instances", 0)
    move.followed, move.error = False, "Orthanc ended during the move"
    return move


# ---- src/cmove_interceptor/sending.py: Sends the parts of a move, and follows how many images were sent.


FIRST_LOOK_SECONDS = 0.005  # until the first look at a job that sends
# Until what was refused beside another association is sent again: that one may still be open.
RESEND_DELAYS_SECONDS = (0.0, 0.1, 0.5, 2.0)


class Sender:
    """Sends by jobs of Orthanc, with at most so many associations at a time.

    Parameters
    ----------
    note : writes down which jobs a move has, after each that was submitted.
    """

    def __init__(
        self, jobs: StoreJobs, slots: JobSlots, planner: Planner, associations: int, note: Callable[[Move], None]
    ) -> None:
        self._jobs, self._slots, self._planner, self._associations = jobs, slots, planner, associations
        self._note = note

    def begin(self, move: Move, resources: Sequence[str]) -> None:
        """Send until the first image has arrived. Raises `MoveFailed`, `LoopbackError`."""
        move.destination = self._jobs.destination(move.fields["TargetAET"])
        if self._jobs.synchronous:
            move.parts = self._planner.parts(move.fields["Level"], resources)
        else:
            move.parts = [Part(resources, 0)]
        # Where nothing can be sent, the caller gets what Orthanc alone would say, and no second association is tried.
        self._submit(move, move.parts[0])
        move.parts[0].total = move.parts[0].total or self._jobs.size(move.jobs[0])
        move.total = sum(part.total for part in move.parts)
        self.follow(move, 1, FIRST_LOOK_SECONDS)
        self._submit_more(move)

    def follow(self, move: Move, count: int, pause: float = JOB_LOOK_SECONDS) -> None:
        """Wait until so many images are sent. Raises `MoveFailed` if they can't be."""
        if not move.parts or not self._jobs.synchronous:
            return
        while move.sent < count:
            self._submit_more(move)
            if not (running := [part for part in move.parts if part.is_running]):
                raise MoveFailed(next(part.error for part in move.parts if part.ended is False))
            seen = self._jobs.wait([part.job for part in running], pause)
            for part in (part for part in running if part.job in seen):
                if self._jobs.stopping.is_set():
                    raise MoveFailed("Orthanc is stopping")
                self._look(move, part)
            self._make_room(move, seen)
            pause = min(2 * pause, JOB_LOOK_SECONDS)

    def _look(self, move: Move, part: Part) -> None:
        percent, part.ended, part.error, part.waits = self._jobs.look(part.job)
        part.sent = part.total if part.ended else max(part.sent, least_sent(percent, part.total))
        # A destination may take one association at a time: what another got nothing through is sent after it.
        if part.ended is False and not part.sent and move.sent and part.refused < len(RESEND_DELAYS_SECONDS):
            part.job, part.ended, part.refused, move.one_by_one = "", None, part.refused + 1, True

    def _make_room(self, move: Move, seen: Sequence[str]) -> None:
        """Let other jobs make room for those of a move that wait, but for the one more that `_submit_more` lets wait.

        Where one has just ended, `seen` are not those that waited before: they have its place.
        """
        running = [part for part in move.parts if part.is_running]
        waiting = [part for part in running if part.waits and part.job in seen]
        for part in waiting[: max(0, self._associations - len(running) + len(waiting))]:
            self._slots.make_room(part.job)

    def _submit_more(self, move: Move) -> None:
        """Begin as many parts as may run, unless one has failed.

        Where Orthanc itself runs no more jobs at a time, one more waits there: else a job that nobody waits for would take the
        place of each part that ends.
        """
        if any(part.ended is False for part in move.parts):
            return
        one_waits = self._jobs.concurrent_jobs <= self._associations
        most = 1 if move.one_by_one or not move.sent else self._associations + one_waits
        for part in move.parts:
            if not part.job and sum(other.is_running for other in move.parts) < most:
                if part.refused:
                    self._jobs.stopping.wait(RESEND_DELAYS_SECONDS[part.refused - 1])
                try:
                    self._submit(move, part)
                except (MoveFailed, LoopbackError) as error:  # an image is gone, or the modality
                    part.ended, part.error = False, f"some of it can't be sent, was it deleted? {one_line(error)}"
                    return

    def _submit(self, move: Move, part: Part) -> None:
        part.job = self._jobs.submit(move.fields, move.destination, part.resources)
        self._note(move)


def least_sent(percent: int, total: int) -> int:
    """Return the least number of images of which Orthanc, rounding, says that so many percent are sent.

    Up to 100 images it is the very number.
    """
    return math.ceil((percent - 0.5) * total / 100)


# ---- src/cmove_interceptor/under_way.py: The moves that are under way: what was fetched for one of them, another one may still have to send.


class MovesUnderWay:
    """Knows which moves are under way, from before they look at what is here until they have sent it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = threading.Lock()  # of the list, and of what moves have fetched
        self._deleting = threading.Lock()  # who begins meanwhile would count on what is going
        self._moves: list[Move] = []

    def add(self, move: Move) -> Move:
        """Note that a move begins, and return it; wait until what others have fetched is deleted, if it is being deleted."""
        with self._deleting, self._lock:
            self._moves.append(move)
        return move

    def end(self, move: Move) -> None:
        """Note that a move has ended; again changes nothing."""
        with self._lock:
            self._moves = [each for each in self._moves if each is not move]

    def note(self, move: Move, fetched: Fetched) -> None:
        """Note what was fetched for a move, besides what another one has left to it."""
        with self._lock:
            move.fetched = _together(move.fetched, fetched)

    def delete_fetched(self, move: Move, delete: Callable[[Fetched], None]) -> None:
        """Delete what was fetched for a move, which ends, except what another one means: that deletes it at its end.

        Raises
        ------
        LoopbackError : Orthanc does not answer.
        """
        self.end(move)
        with self._deleting:
            with self._lock:
                others = [*self._moves]
            for other in others:
                self._leave_to(other, move, {*self._archive.instances(other.fields)} if move.fetched else set())
            if move.fetched:
                delete(move.fetched)

    def _leave_to(self, other: Move, move: Move, meant: set[str]) -> None:
        with self._lock:
            if move.fetched and other in self._moves:  # else it has deleted already
                came, copied = {*move.fetched.came}, move.fetched.copied
                other.fetched = _together(other.fetched, Fetched(sorted(came & meant), copied & meant))
                move.fetched = Fetched(sorted(came - meant), copied - meant)


def _together(one: Fetched | None, other: Fetched) -> Fetched:
    return other if one is None else Fetched(sorted({*one.came, *other.came}), one.copied | other.copied)


# ---- src/cmove_interceptor/interceptor.py: What Orthanc calls: a move from its beginning to its end, and the script's own.


FORGET_EVERY_SECONDS = 60.0
ENDS = ("done", "submitted", "failed", "abandoned", "interrupted")  # of moves
SILENT_SECONDS = 30.0  # for which many callers wait for a word of the move


class Interceptor:
    """The script's callbacks.

    Attributes
    ----------
    refusal : why it stays idle until the configuration is corrected, or None.
    records : the requests, once the worker has opened the ledger.
    slots : what of other jobs is paused for moves.
    """

    records: Records

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], refusal: str | None) -> None:
        self.refusal = refusal
        self._settings, self._configuration, self._aets = settings, configuration, AeTitles(configuration)
        loopback = Loopback(configuration)
        if not refusal and not loopback.enabled:
            self.refusal = 'cmove_interceptor stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
        self.notifier, self._job_ends, self._archive = Notifier(settings), JobEnds(), Archive(loopback)
        self._under_way = MovesUnderWay(self._archive)
        self._jobs = StoreJobs(loopback, self._job_ends, configuration)
        self.slots = JobSlots(loopback, self._jobs.concurrent_jobs, lambda: self._worker.wake.set())
        planner = Planner(self._archive, settings.associations)
        self._sender = Sender(
            self._jobs, self.slots, planner, settings.associations, lambda move: self.records.note(move)
        )
        self._fetcher = Fetcher(loopback, self._archive, self._jobs, self.slots, settings.fetch, configuration)
        self._worker = Worker("cmove_interceptor", self._open, self._turn)
        self._interrupted, self._ended = list[dict[str, Any]](), Counter[str]()
        self._ends: Inbox[tuple[Move, str]] = Inbox(self._write_end)  # of moves, until they are written down

    # From start to stop

    def on_change(self, change: int, _level: int, resource: str) -> None:
        if change in (orthanc.ChangeType.JOB_SUCCESS, orthanc.ChangeType.JOB_FAILURE):
            self._job_ends.end(resource, well=change == orthanc.ChangeType.JOB_SUCCESS)
        elif change == orthanc.ChangeType.ORTHANC_STARTED:
            self._worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._jobs.stopping.set()
            self._fetcher.stop()
            deadline = time.monotonic() + 2
            self._worker.end(2)
            self.notifier.stop(deadline)
            self._worker.stop(deadline - time.monotonic())

    def unavailable(self) -> str | None:
        """Return why nothing works, or None."""
        return self.refusal or self._worker.why_not()

    def condition(self) -> Condition:
        """Return whether the script works."""
        return condition_of(self._worker, self.refusal)

    def measure(self) -> dict[str, float]:
        """Return the metrics: moves that ended since the start, and notifications, by state."""
        moves = {f"moves_{state}": self._ended[state] for state in ENDS}
        return {**moves, **{f"notifications_{state}": number for state, number in self.notifier.totals().items()}}

    def _open(self) -> Ledger:
        if calls_services(self._settings):  # here, where there is room for it, not at the first call
            try:
                import_requests()
            except ImportError as error:
                raise ValueError(str(error)) from None
        folder = state_folder(self._settings.state_path, self._configuration, "cmove_interceptor")
        ledger = self._ledger = Ledger(
            folder / "cmove_interceptor.sqlite", TABLES, durability=self._settings.durability
        )
        try:
            self.records = Records(ledger)
            self._interrupted = self.records.interrupted()
            self.slots.open(ledger)
            self.notifier.start(ledger)
            self._ends.open()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _turn(self) -> float:
        """Resume what was paused for moves, end what was interrupted, and forget some of what ended `KeepDoneDays` ago.

        Return the seconds until the next turn.
        """
        # First, for it needs no room on the disk.
        is_paused = self.slots.give_back()
        self._ends.flush()
        while self._interrupted:
            self._end_interrupted(interrupted_move(self._interrupted[0]))
            self._interrupted.pop(0)
        days = self._settings.keep_done_days
        more = self._ledger.forget_finished(days)
        more |= self.records.forget(days)
        if is_paused:
            return RESUME_LOOK_SECONDS
        return 0.1 if more else FORGET_EVERY_SECONDS

    def _end_interrupted(self, move: Move) -> None:
        """End a move during which Orthanc was killed."""
        if move.parts and not self._jobs.synchronous:
            self._end(move, "submitted")
            return
        self._jobs.cancel(*move.jobs)  # Orthanc's own move would have ended there, a job continues
        self._end(move, "interrupted")

    # A move, by the callbacks of plugin 4.2 and later

    def create(self, **request: Any) -> Move:
        """Begin a move. What is raised here, the caller gets as 0xC000: unable to process."""
        fields = read_fields(request)
        orthanc.LogWarning(f"cmove_interceptor: C-MOVE of {described(fields)}")
        if reason := self.unavailable():
            raise MoveFailed(reason)
        mode = mode_of(fields, self._settings, self._aets)
        move = self._under_way.add(self.records.add(str(uuid.uuid4()), fields, mode))
        try:
            self.notifier.required.ask(move.values())
            self.notifier.queue("before", move.values())
            self._begin(move)
        except Exception as error:
            self._jobs.cancel(*move.jobs)
            self._remove_fetched(move)
            move.error = one_line(error)
            self._end(move, "failed")
            orthanc.LogError(f"cmove_interceptor: C-MOVE to {one_line(fields['TargetAET'])!r} failed: {move.error}")
            raise
        return move

    def _begin(self, move: Move) -> None:
        if move.mode == "notify":
            return
        if move.mode == "fetch":
            self._under_way.note(move, self._fetcher.complete(move.fields))
        if self._jobs.stopping.is_set():  # a job that begins now corrupts the memory of Orthanc 1.13.0 as it ends
            raise MoveFailed("Orthanc is stopping")
        resources = self._archive.resources(move.fields)
        if not resources:
            raise MoveFailed("nothing here is what the request means")
        self._sender.begin(move, resources)

    def size(self, move: Move) -> int:
        """Return how often Orthanc is to call `apply`."""
        return move.total

    def apply(self, move: Move) -> None:
        """Wait until one more image is sent; what is raised here ends the move with 0xB000: not all arrived."""
        move.applied += 1
        self._sender.follow(move, move.applied)

    def free(self, move: Move) -> None:
        """End a move: all was sent, it failed, or the caller has gone."""
        errors = [part.error for part in move.parts if part.ended is False]
        if not move.parts or (self._jobs.synchronous and move.applied >= move.total == move.sent):
            state = "done"
        elif not self._jobs.synchronous:
            state, move.followed = "submitted", False
        elif errors:
            state, move.error = "failed", errors[0]
        else:
            self._jobs.cancel(*move.jobs)
            state, move.error = "abandoned", "the caller went away"
        if state != "submitted":
            self._remove_fetched(move)
        self._end(move, state)

    def _remove_fetched(self, move: Move) -> None:
        """Delete what was fetched for a move, unless it is to be kept."""
        if move.fetched and not self._settings.fetch.keep:
            try:
                self._under_way.delete_fetched(move, self._fetcher.remove)
            except LoopbackError as error:  # the move has its end all the same
                orthanc.LogError(f"cmove_interceptor: what was fetched could not be deleted: {one_line(error)}")

    def _end(self, move: Move, state: str) -> None:
        """Write down how a move ended; on a full disk the worker does it, as soon as there is room."""
        self._under_way.end(move)
        if not self._ends.add((move, state)):
            self._worker.wake.set()
        with contextlib.suppress(LoopbackError, sqlite3.Error, OSError):  # where the worker does not come to it
            self.slots.give_back()

    def _write_end(self, end: tuple[Move, str]) -> None:
        move, state = end
        with self._ledger.transaction():  # killed in between, nobody would be notified
            self.records.end(move, state)
            self.notifier.queue("after", {**move.values(), **move.result(), "State": state})
        self._ended[state] += 1

    # The same for plugin 4.0 and 4.1, which know success and 0xB000 only, and one sub-operation

    def move_synchronously(self, **request: Any) -> None:
        """Do a move from beginning to end."""
        with warn_if_silent(request.get("TargetAET")):
            move = self.create(**request)
            try:
                for _ in range(move.total):
                    self.apply(move)
            finally:
                self.free(move)


@contextlib.contextmanager
def warn_if_silent(target: object) -> Iterator[None]:
    """Warn if what is done inside, of which the caller hears nothing, took long."""
    begun = time.monotonic()
    try:
        yield
    finally:
        if (seconds := time.monotonic() - begun) > SILENT_SECONDS:
            orthanc.LogWarning(
                f"cmove_interceptor: the C-MOVE to {one_line(target)!r} took {seconds:.0f} s, and the caller heard nothing "
                "meanwhile, for Orthanc's Python plugin can send pending responses from 4.2 on only. Callers that give up before "
                "need a longer timeout, or Orthanc a newer plugin"
            )


# ---- src/cmove_interceptor/api.py: The routes: requests, services, and the status.


class Routes:
    """Answers requests about moves and notifications."""

    def __init__(self, interceptor: Interceptor, mode: str) -> None:
        self._interceptor, self._mode = interceptor, mode

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, how many requests and notifications there are in each state."""
        notifier = self._interceptor.notifier
        return {
            "Totals": self._interceptor.records.totals(),
            "Mode": self._mode,
            "PausedJobs": self._interceptor.slots.held(),
            "Notifications": notifier.totals(),
            "Services": notifier.services(),
        }

    @takes({**PAGE_PARAMETERS, "before": WholeNumber(), "state": Text()})
    def requests(self, request: Request) -> dict[str, Any]:
        """Return requests and what came of them, oldest first after `since`, newest first `before` an id: `limit`, `state`."""
        records, state = self._interceptor.records, request.parameters.get("state")
        before = request.parameters.get("before")
        return page_answer(
            request.parameters,
            records.count(state),
            lambda since, limit: records.page(since, limit, state, before),
            self._item,
        )

    def _item(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "ID": row["id"],
            "RequestID": row["name"],
            "Request": json.loads(row["fields"]),
            "Mode": row["mode"],
            "State": row["state"],
            **json.loads(row["result"]),
            "Notifications": self._interceptor.notifier.of_request(row["name"]),
            "Created": utc(row["created"]),
            "Ended": utc_or_none(row["ended"]),
        }

    @answers(409)
    def drop_service(self, request: Request) -> dict[str, Any]:
        """Drop what waits for a service that is not configured any more."""
        notifier = self._interceptor.notifier
        given, services = request.groups[0], notifier.services()
        # Whether a path arrives decoded depends on the web server.
        name = next((each for each in (given, urllib.parse.unquote(given)) if each in services), None)
        if name is None:
            orphaned = ", ".join(notifier.orphans.names()) or "none"
            raise Refused(404, f"There is no service {one_line(given)}; orphaned are: {orphaned}")
        if services[name]["State"] != "orphaned":
            raise Refused(409, f"The service {name} is configured: take it out of the configuration first")
        notifier.drop(name)
        return {"Service": name, **services[name], "State": "dropped"}


# ---- src/cmove_interceptor/__init__.py


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        check_settings(settings)
        if calls_services(settings) and (problem := requests_problem()):
            raise SettingsError(f"cmove_interceptor stays idle: {problem}")
        interceptor = Interceptor(settings, configuration, None)
    except (SettingsError, OSError) as error:  # OSError: a certificate can't be read (ssl.SSLError is one)
        holds = holds_moves_back([found for key, found in configuration.items() if is_nearly(key, SECTION)])
        does = "refuses every C-MOVE" if holds else "moves as Orthanc does and tells nobody"
        refusal = f"{error}. cmove_interceptor {does} until this is corrected."
        orthanc.LogError(refusal)
        return _listen(Interceptor(Settings(), configuration, refusal), Settings(), refuse=holds)
    os.environ.setdefault("TCP_NODELAY", "1")  # DCMTK reads it at each connection, in both directions
    warn_if_open("cmove_interceptor", configuration)
    if interceptor.refusal:
        orthanc.LogError(interceptor.refusal)
    return _listen(interceptor, settings, refuse=holds_moves_back(configuration.get(SECTION)))


def _listen(interceptor: Interceptor, settings: Settings, *, refuse: bool = False) -> None:
    """Register routes and callbacks; with `refuse`, those for C-MOVE too where the script is idle, which refuse it."""
    routes = Routes(interceptor, settings.mode)
    script = register_status("cmove_interceptor", interceptor.condition, routes.status, interceptor.unavailable)
    register_route("/cmove-interceptor/requests", {"GET": routes.requests}, interceptor.unavailable)
    register_route("/cmove-interceptor/services/(.+)", {"DELETE": routes.drop_service}, interceptor.unavailable)
    if interceptor.refusal:
        listen_to_changes(script)
    if interceptor.refusal and not refuse:
        return  # not registering leaves Orthanc's own C-MOVE in place
    if not interceptor.refusal:
        listen_to_changes(script, interceptor.on_change, interceptor.measure)
        orthanc.RegisterRestCallback("/jobs/([^/]+)/(pause|resume)", kept_alive(interceptor.slots.answer_person))
    # RegisterMoveCallback3 (plugin 7.0) also has the caller's address; statuses and counts are no truer with it.
    if hasattr(orthanc, "RegisterMoveCallback2"):
        orthanc.RegisterMoveCallback2(
            kept_alive(interceptor.create),
            kept_alive(interceptor.size),
            kept_alive(interceptor.apply),
            kept_alive(interceptor.free),
        )
    else:
        orthanc.RegisterMoveCallback(kept_alive(interceptor.move_synchronously))


register()
