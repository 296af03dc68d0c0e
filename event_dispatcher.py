# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/event_dispatcher/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""A library for a script of your own: when this happens in Orthanc, run these functions.

    import logging

    import orthanc
    from event_dispatcher import create_session, register_event_handlers

    def hello(event, session):
        logging.warning("%s: this is Orthanc %s", event, session.get("/system").json()["Version"])

    register_event_handlers({orthanc.ChangeType.ORTHANC_STARTED: hello}, orthanc, create_session(orthanc))

Put this file beside your script, which Orthanc loads. Handlers may be plain functions, coroutines, or a `pipeline` of them;
they run on threads and an event loop of their own, so that Orthanc never waits for them. What one raises is logged with its
name. With `at_least_once="my_script"` an event is on disk until its handlers have ended without an error.

It registers nothing by itself, and needs the package httpx, 0.23 or newer (apt install python3-httpx, or as docs/install.md
says). All of it, and how to test your handlers without a server: docs/event_dispatcher.md.
"""

from __future__ import annotations

if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)

import asyncio
import base64
import collections
import concurrent.futures
import concurrent.futures.thread
import contextlib
import dataclasses
import datetime
import difflib
import errno
import functools
import hashlib
import http
import http.client
import inspect
import ipaddress
import json
import logging
import os
import queue
import random
import re
import sqlite3
import ssl
import stat
import sys
import threading
import time
import traceback
import types
import typing
import urllib.parse
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    TypedDict,
    Unpack,
    overload,
)

try:
    import orthanc
except ImportError:  # a test without a server, which gives `register_event_handlers` a stand-in
    orthanc = None  # type: ignore[assignment]

try:
    import httpx
except ImportError:
    raise ImportError(
        "event_dispatcher.py needs the Python package httpx, 0.23 or newer (found none). Install it: apt install python3-httpx, "
        'or a virtual environment as in docs/install.md, "Packages" (the Dockerfile installs it); then restart Orthanc'
    ) from None


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


# ---- src/common/archive.py: What this Orthanc has, asked over loopback, where anything may have been deleted meanwhile.


def instances_of(loopback: Loopback, level: str, resource: str) -> list[str]:
    """Return the identifiers of a resource's instances; of an instance its own; none if the resource was deleted.

    Raises
    ------
    LoopbackError : Orthanc can't answer now.
    """
    if level == "Instance":
        return [resource]
    try:
        return identifiers_in(loopback.get(f"/{PLURAL[level]}/{resource}/instances?expand=false"))
    except LoopbackError as error:
        if error.status != 404:
            raise
        return []


def identifiers_in(listed: Iterable[Any]) -> list[str]:
    """Return the identifiers in a list of resources: 1.10.1 knows no `expand=false`, and gives objects."""
    return [each if isinstance(each, str) else each["ID"] for each in listed]


# ---- src/common/place.py: The place in Orthanc's log of changes up to which a script has read it.


def place_in_log(kept: int, newest: int, reader: str) -> int:
    """Return the place to read on from: `kept`, but never beyond the `newest` change that there is.

    A place beyond it belongs to another archive, to a log that was emptied, or to an index that was restored from a backup:
    waiting there would miss all that comes until the log has grown as long again. A line of the log says so.
    """
    if kept > newest:
        orthanc.LogWarning(
            f"{reader}: Orthanc's log of changes ends at {newest}, and was read up to {kept} before; was the index "
            f"restored from a backup? It is read on from {newest}"
        )
    return min(kept, newest)


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


# ---- src/common/changes.py: What became stable, once each, also when a restart missed it: Orthanc's log of changes, read from a kept place.


PAGE = 500  # changes a request
GRACE = 2.0  # seconds beyond StableAge after which Orthanc's own Stable… event is not waited for any more
LOADED, LOADED_STEADY = time.time(), time.monotonic()  # when the script was loaded: before Orthanc received anything
# A ledger knows from its first moment on since when what arrives is new: a kill a moment later loses nothing.
FEED_TABLES = f"""
CREATE TABLE IF NOT EXISTS arrived(
    level TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, seen REAL NOT NULL, resource TEXT,
    PRIMARY KEY(level, instance)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS arrived_by_resource ON arrived(level, resource, seen);
CREATE TABLE IF NOT EXISTS heard(level TEXT NOT NULL, resource TEXT NOT NULL, PRIMARY KEY(level, resource)) WITHOUT ROWID;
INSERT INTO state SELECT 'began', {int(LOADED)} WHERE NOT EXISTS (SELECT 1 FROM state WHERE name='cursor')
ON CONFLICT DO NOTHING;
"""
LEVELS_WITH_INSTANCES = ("Patient", "Study", "Series")

# level, Orthanc identifier of what is stable, and its instances that arrived since it was last handed over, each with
# the Seq of its last NewInstance.
Settled = Callable[[str, str, dict[str, int]], None]
# Of an instance: the Orthanc identifiers of its parents by level, if they are known without asking Orthanc.
Parents = Callable[[str], Mapping[str, str] | None]


class Feed:
    """Hands over what became stable at the levels asked for, with the instances that are new since the last time.

    Each NewInstance is kept in the ledger until the Stable… entry of its parent; one whose parent has been quiet for
    `stable_age` and got none (Orthanc keeps stability in memory: a restart loses it) is handed over all the same.
    With `reconcile` false the log of changes, which Orthancs on one database share, is not read: only what this process
    gets through `on_event` counts. `on_change_entry` gets each entry of the log, once, in the transaction that remembers
    it. `set_back` gets the place in the log when that is set back to it (an index restored from a backup), in the same
    transaction: numbers (Seq) beyond it are from before, and what comes from now on has lower ones. `deleted` gets each
    instance that was deleted before it was handed over, with its Seq, in the transaction that forgets it.
    """

    def __init__(
        self,
        ledger: Ledger,
        loopback: Loopback,
        settled: Settled,
        levels: Sequence[str],
        stable_age: float,
        reconcile: bool,
        parents: Parents = lambda _instance: None,
        on_change_entry: Callable[[Mapping[str, Any]], None] = lambda _change: None,
        set_back: Callable[[int], None] = lambda _place: None,
        deleted: Callable[[str, int], None] = lambda _instance, _seq: None,
    ) -> None:
        self._ledger, self._loopback, self._settled, self._levels = ledger, loopback, settled, tuple(levels)
        self._quiet_after, self._reconcile, self._parents = stable_age + GRACE, reconcile, parents
        self._on_change_entry, self._set_back, self._deleted = on_change_entry, set_back, deleted
        self._look_again: dict[tuple[str, str], float] = {}

    def begin(self) -> None:
        """Take the place in the log; of a ledger without one, where this process began: what was there before is not new."""
        if self._reconcile:
            newest = self._loopback.get("/changes?last")["Last"]
            kept = self._ledger.get_value("cursor", -1)
            place = place_in_log(kept, newest, self._ledger.name) if kept >= 0 else self._last_before_us(newest)
            with self._ledger.transaction():
                if place < kept:
                    self._ledger.run("UPDATE arrived SET seq=0 WHERE seq>?", place)
                    self._set_back(place)
                self._ledger.set_value("cursor", place)
        else:
            with self._ledger.transaction():  # a place that grows old: who reads the log later begins then
                self._ledger.run("DELETE FROM state WHERE name='cursor'")
                self._ledger.set_value("began", 0)
        self._move_to_our_levels()
        # A clock that was ahead when these were seen must not make them wait for it.
        self._ledger.run("UPDATE arrived SET seen=? WHERE seen>?", time.time(), time.time())

    def _move_to_our_levels(self) -> None:
        """Let what arrived at levels that nobody asks for any more be handed over at ours: the configuration has changed."""
        levels = json.dumps(self._levels or LEVELS_WITH_INSTANCES)
        elsewhere = "FROM arrived WHERE level NOT IN (SELECT value FROM json_each(?))"
        with self._ledger.transaction():
            left = self._ledger.rows(f"SELECT instance, MAX(seq) seq {elsewhere} GROUP BY instance", levels)
            self._arrive_again({row["instance"]: row["seq"] for row in left})
            self._ledger.run(f"DELETE {elsewhere}", levels)

    def take_back(self, task: str) -> None:
        """Let what rows of a task are about, at levels that nobody asks for any more, be handed over at ours in their place."""
        for row in Work(self._ledger).find(Which(task=task, states=("waiting", "dead"))):
            data = json.loads(row["data"])
            if data["Level"] not in (self._levels or LEVELS_WITH_INSTANCES):
                with self._ledger.transaction():
                    self._arrive_again(dict.fromkeys(data["Instances"], 0))
                    Work(self._ledger).remove(row["id"])

    def _arrive_again(self, instances: Mapping[str, int]) -> None:
        rows = [(level, one, seq, time.time()) for one, seq in instances.items() for level in self._levels]
        with self._ledger.transaction() as db:
            db.executemany("INSERT INTO arrived VALUES(?,?,?,?,NULL) ON CONFLICT DO NOTHING", rows)

    def _last_before_us(self, newest: int) -> int:
        """Return the last change from before the ledger began: Orthanc receives, and may be killed, before we come to ask."""
        spans = _spans_since(self._ledger.get_value("began") or int(LOADED))
        while newest > 0:
            since = max(0, newest - PAGE)
            changes = self._loopback.get(f"/changes?since={since}&limit={PAGE}")["Changes"]
            if older := [
                change["Seq"] for change in changes if not any(first <= change["Date"] <= last for first, last in spans)
            ]:
                return int(max(older))
            newest = since
        return 0

    def on_event(self, change: str, resource: str) -> None:
        """Take what OnChange reports, where the log of changes is not read: NewInstance and the Stable… of our levels."""
        if not self._reconcile and change == "NewInstance":
            # No number of the log of changes, but one that tells this arrival from another of the same instance.
            self._arrive([(resource, -time.time_ns())])
        elif not self._reconcile and change.removeprefix("Stable") in self._levels:
            sql = "INSERT INTO heard VALUES(?,?) ON CONFLICT DO NOTHING"
            self._ledger.run(sql, change.removeprefix("Stable"), resource)

    def poll(self) -> None:
        """Hand over all that has become stable since the last time, each in one transaction with what remembers it.

        Raises
        ------
        LoopbackError, sqlite3.Error : nothing is lost; poll again later.
        """
        while self._reconcile and self._read_page():
            pass
        for row in self._ledger.rows("SELECT * FROM heard"):
            instances = instances_of(self._loopback, row["level"], row["resource"])
            with self._ledger.transaction():
                self._hand_over(row["level"], row["resource"], instances, None)
                self._ledger.run("DELETE FROM heard WHERE level=? AND resource=?", row["level"], row["resource"])
        for level in self._levels:
            self._hand_over_what_is_overdue(level)

    def _read_page(self) -> bool:
        since = self._ledger.get_value("cursor")
        page = self._loopback.get(f"/changes?since={since}&limit={PAGE}")
        changes: list[Mapping[str, Any]] = page["Changes"]
        self._arrive([(change["ID"], change["Seq"]) for change in changes if change["ChangeType"] == "NewInstance"])
        stable = [change for change in changes if change["ChangeType"].removeprefix("Stable") in self._levels]
        instances = {change["ID"]: self._new_instances_of(change["ResourceType"], change["ID"]) for change in stable}
        with self._ledger.transaction():
            for change in changes:
                self._on_change_entry(change)
            for change in stable:
                self._hand_over(change["ResourceType"], change["ID"], instances[change["ID"]], change["Seq"])
            self._ledger.set_value("cursor", max(since, page["Last"]))
        return not page["Done"]

    def _arrive(self, instances: list[tuple[str, int]]) -> None:
        now, rows = time.time(), []
        for instance, seq in instances:
            parents = self._parents(instance) or {}
            rows += [(level, instance, seq, now, parents.get(level)) for level in self._levels]
        # The same instance again (OverwriteInstances) has arrived once more; a page that is read again changes nothing.
        sql = (
            "INSERT INTO arrived VALUES(?,?,?,?,?) ON CONFLICT(level, instance) DO UPDATE SET seq=excluded.seq, "
            "seen=excluded.seen, resource=COALESCE(excluded.resource, arrived.resource)"
        )
        with self._ledger.transaction() as db:
            db.executemany(sql, rows)

    def _new_instances_of(self, level: str, resource: str) -> list[str]:
        """Return its instances that arrived; ask Orthanc only if there are some whose parents we don't know."""
        if self._ledger.rows("SELECT 1 FROM arrived WHERE level=? AND resource IS NULL LIMIT 1", level):
            return instances_of(self._loopback, level, resource)
        sql = "SELECT instance FROM arrived WHERE level=? AND resource=?"
        return [row["instance"] for row in self._ledger.rows(sql, level, resource)]

    def _hand_over(self, level: str, resource: str, instances: Sequence[str], before: int | None) -> None:
        new: dict[str, int] = {}
        for start in range(0, len(instances), PAGE):
            some = instances[start : start + PAGE]
            marks = f"level=? AND instance IN ({','.join('?' * len(some))}) AND seq<?"
            limit = 2**62 if before is None else before
            rows = self._ledger.rows(f"SELECT instance, seq FROM arrived WHERE {marks}", level, *some, limit)
            new |= {row["instance"]: row["seq"] for row in rows}
            self._ledger.run(f"DELETE FROM arrived WHERE {marks}", level, *some, limit)
        if new:
            self._settled(level, resource, new)

    def _hand_over_what_is_overdue(self, level: str) -> None:
        late = "SELECT DISTINCT resource FROM arrived WHERE level=? AND resource IS NOT NULL AND seen<?"
        for row in self._ledger.rows(late, level, time.time() - self._quiet_after):
            self._hand_over_if_quiet(level, row["resource"])
        orphan = "SELECT instance, seq FROM arrived WHERE level=? AND resource IS NULL AND seen<? LIMIT 1"
        while rows := self._ledger.rows(orphan, level, time.time() - self._quiet_after):
            self._find_parent(level, **rows[0])

    def _hand_over_if_quiet(self, level: str, resource: str) -> None:
        if time.time() < self._look_again.get((level, resource), 0):
            return
        instances = instances_of(self._loopback, level, resource)
        self._label(level, resource, instances)
        mine = "FROM arrived WHERE level=? AND resource=?"
        last = self._ledger.rows(f"SELECT MAX(seen) seen {mine}", level, resource)[0]["seen"]
        if last + self._quiet_after > time.time():
            self._look_again[level, resource] = last + self._quiet_after
            return
        self._look_again.pop((level, resource), None)
        with self._ledger.transaction():
            self._hand_over(level, resource, instances, None)
            # What is left was deleted, or its parent is another: ask for each.
            self._ledger.run(f"UPDATE arrived SET resource=NULL {mine.removeprefix('FROM arrived')}", level, resource)

    def _find_parent(self, level: str, instance: str, seq: int) -> None:
        try:
            parent = self._loopback.get(f"/instances/{instance}/{level.lower()}")["ID"]
        except LoopbackError as error:
            if error.status != 404:
                raise
            with self._ledger.transaction():  # deleted before it was stable
                self._ledger.run("DELETE FROM arrived WHERE instance=?", instance)
                self._deleted(instance, seq)
        else:
            self._label(level, parent, [instance, *instances_of(self._loopback, level, parent)])

    def _label(self, level: str, resource: str, instances: Sequence[str]) -> None:
        with self._ledger.transaction() as db:
            rows = [(resource, level, each) for each in instances]
            db.executemany("UPDATE arrived SET resource=? WHERE level=? AND instance=?", rows)


def _spans_since(began: int) -> list[tuple[str, str]]:
    """Return from when to when a ledger has been there since it began, as Orthanc dates changes.

    Two spans, if the clock was set since this process began it. What is dated later than now is from before: the clock has
    fallen back since then.
    """
    now, passed = time.time(), time.monotonic() - LOADED_STEADY
    if began != int(LOADED) and began <= now:
        spans = [(float(began), now)]
    elif abs(now - LOADED - passed) > CLOCK_WAS_SET_SECONDS:
        spans = [(LOADED, LOADED + passed), (now - passed, now)]
    else:
        spans = [(min(LOADED, now - passed), now)]
    return [(_as_dated(first), _as_dated(last + CLOCK_WAS_SET_SECONDS)) for first, last in spans]


def _as_dated(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))


def arrived_since(ledger: Ledger, seq: int) -> list[dict[str, Any]]:
    """Return what arrived after a number of the log of changes and is not handed over yet: level, resource, instance, seq."""
    sql = "SELECT level, resource, instance, seq FROM arrived WHERE seq>? AND resource IS NOT NULL ORDER BY seq"
    return ledger.rows(sql, seq)


def not_handed_over(ledger: Ledger, level: str, instances: Iterable[str]) -> set[str]:
    """Return those of these instances that came (again), and are not handed over yet with what they belong to."""
    arrived = "SELECT instance FROM arrived WHERE level=? AND instance IN (SELECT value FROM json_each(?))"
    return {row["instance"] for row in ledger.rows(arrived, level, json.dumps([*instances]))}


def still_arrives(instance: str) -> str:
    """Return the SQL of a condition: what this column names has arrived, and is not handed over at each level yet."""
    levels = ",".join(f"'{level}'" for level in LEVELS_WITH_INSTANCES)
    return f"EXISTS (SELECT 1 FROM arrived WHERE level IN ({levels}) AND arrived.instance={instance})"


def arriving_resources(ledger: Ledger) -> list[tuple[str, str | None, str]]:
    """Return level, resource and one instance of each resource that arrives; None: which resource it is, is not known yet."""
    sql = (
        "SELECT level, resource, MIN(instance) instance FROM arrived WHERE resource IS NOT NULL GROUP BY level, resource "
        "UNION ALL SELECT level, resource, instance FROM arrived WHERE resource IS NULL"
    )
    return [(row["level"], row["resource"], row["instance"]) for row in ledger.rows(sql)]


def still_to_read(ledger: Ledger, loopback: Loopback) -> set[str] | None:
    """Return the new instances of the log of changes that the feed has still to read; None: more than a page of changes.

    Orthanc says through OnChange what it has stored, but may be seconds behind.

    Raises
    ------
    LoopbackError : Orthanc can't answer now.
    """
    cursor = ledger.get_value("cursor", -1)
    if cursor < 0:
        return set()  # Reconcile is false: there is only what OnChange says
    page = loopback.get(f"/changes?since={cursor}&limit={PAGE}")
    new = {change["ID"] for change in page["Changes"] if change["ChangeType"] == "NewInstance"}
    return new if page["Done"] else None


def is_arriving(ledger: Ledger, loopback: Loopback, instances: Iterable[str]) -> bool:
    """Return whether any of these came (again) and is not handed over yet; also where the feed has still to read of it."""
    arrived = "SELECT 1 FROM arrived WHERE level=? AND instance IN (SELECT value FROM json_each(?)) LIMIT 1"
    wanted = set(instances)
    some = json.dumps(sorted(wanted))
    if any(ledger.rows(arrived, level, some) for level in LEVELS_WITH_INSTANCES):
        return True
    unread = still_to_read(ledger, loopback)
    return unread is None or not unread.isdisjoint(wanted)


# ---- src/event_dispatcher/at_least_once.py: The promise that an event is on disk until its handlers have ended without an error.


@dataclasses.dataclass(frozen=True)
class AtLeastOnce:
    """How events are kept until each of their handlers has ended without an error.

    What Orthanc lists in /changes (new, stable, updated) is read from there, so that a killed server misses nothing; jobs
    and deletions are kept from the moment they reach the script. Events of one resource stay in order, for each handler.

    Parameters
    ----------
    name : of the ledger, NAME.sqlite; each script has one of its own.
    first, longest : seconds until a handler that failed is tried again, and most seconds between two tries.
    give_up_hours : after which its event is given up (`Dispatcher.retry_dead`).
    under_way : events of one handler that are handed to the executor at a time.
    reconcile : False: /changes is not read: with several Orthancs on one database it lists what happens in all of them.
    folder : of the ledger, instead of `Scripts.StatePath`, or that of the index.
    durability : "full": the ledger also survives the loss of power.
    """

    name: str
    first: float = 10.0
    longest: float = 3600.0
    give_up_hours: float = 72.0
    under_way: int = 100
    reconcile: bool = True
    folder: str | None = None
    durability: str = "normal"

    def delay(self, attempts: int) -> float:
        """Return the seconds until a handler is tried again that has failed so often."""
        return Backoff(self.first, self.longest).delay(attempts)

    def check(self) -> None:
        """Raise ValueError for a name or a durability that can't be."""
        if self.durability not in ("normal", "full"):
            raise ValueError(f"AtLeastOnce.durability: found {self.durability!r}, allowed: normal, full")
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"at_least_once: found {self.name!r}, allowed: letters, digits, _ and -")


# ---- src/event_dispatcher/events.py: Events, and what a handler is.


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


# ---- src/event_dispatcher/gate.py: Calls of the plugin: none is under way when Orthanc has stopped.


class StoppedError(Exception):
    """Orthanc has stopped: a call now would abort it."""


class Gate:
    """Lets our calls of the plugin through until Orthanc stops: one under way after ORTHANC_STOPPED aborts the server."""

    def __init__(self) -> None:
        self._changed, self._inside, self.is_open = threading.Condition(), 0, True

    def open(self) -> None:
        self.is_open = True

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        with self._changed:
            if not self.is_open:
                raise StoppedError("Orthanc has stopped")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wait until all are out."""
        with self._changed:
            self.is_open = False
            self._changed.wait_for(lambda: not self._inside)


SDK = Gate()


# ---- src/event_dispatcher/logs.py: Python's `logging` in Orthanc's log, or on standard error.


LOG = logging.getLogger("event_dispatcher")


def orthanc_logging(orthanc: Any, level: int = logging.INFO) -> None:
    """Let Python's `logging` go to Orthanc's own log, with its levels (INFO shows with `--verbose`)."""
    _install(OrthancLog(orthanc), level)


def python_logging(_orthanc: Any, level: int = logging.INFO) -> None:
    """Let Python's `logging` go to standard error, with date and level."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s [%(filename)s:%(lineno)d] "))
    _install(handler, level)


def _install(handler: logging.Handler, level: int) -> None:
    # One for all scripts of a process, however often this is called.
    handler.set_name(LOG.name)
    root = logging.getLogger()
    for each in [each for each in root.handlers if each.get_name() == LOG.name]:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level)
    for noisy in ("httpx", "httpcore"):  # a line for each request, with what was asked for
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


# What moves a terminal's cursor, breaks a line, or turns the direction of the text: an attacker would forge lines by it.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


def in_one_line(text: str) -> str:
    """Return a text that is one line for each reader of the log, and can be written (half a surrogate can't)."""
    return CONTROLS.sub(" ", text).encode("utf-8", "backslashreplace").decode()


class PlainFormatter(logging.Formatter):
    """Writes each message as one line, and tracebacks indented, without escapes: nothing of it looks like another line.

    `fmt` is what comes before the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [self.formatMessage(record) + record.message]
        if record.exc_info:
            lines += "".join(traceback.format_exception(*record.exc_info)).splitlines()
        if record.stack_info:
            lines += record.stack_info.splitlines()
        return "\n  ".join(map(in_one_line, lines))


class OrthancLog(logging.Handler):
    """Writes records to Orthanc's log."""

    def __init__(self, orthanc: Any) -> None:
        super().__init__()
        self._orthanc = orthanc
        self.setFormatter(PlainFormatter("[%(filename)s:%(lineno)d] "))

    def emit(self, record: logging.LogRecord) -> None:
        error, warning = record.levelno >= logging.ERROR, record.levelno >= logging.WARNING
        write = self._orthanc.LogError if error else self._orthanc.LogWarning if warning else self._orthanc.LogInfo
        try:
            text = self.format(record)
            try:
                with SDK.calling():
                    write(text)
            except StoppedError:
                sys.stderr.write(f"{text}\n")
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


# ---- src/event_dispatcher/calls.py: One handler's turn with one event.


class Call:
    """One handler's turn with one event. What it raises is logged.

    Hundreds of thousands may wait while a handler hangs: one has no future (1.6 KB) unless somebody needs its result.
    """

    __slots__ = (
        "began",
        "event",
        "future",
        "handler",
        "has_failed",
        "is_canceled",
        "is_coroutine",
        "is_over",
        "session",
    )

    def __init__(self, handler: Handler, event: ChangeEvent, sessions: tuple[Any, Any]) -> None:
        self.handler, self.event = handler, event
        self.is_coroutine = is_coroutine(handler)
        self.session = sessions[self.is_coroutine]
        self.future: concurrent.futures.Future[Any] | None = None
        self.began = 0.0  # time.monotonic() when it had its turn
        self.is_canceled = False  # by us, for Orthanc stops
        self.is_over = self.has_failed = False

    def want_future(self) -> concurrent.futures.Future[Any]:
        """Return what gets the handler's result or its error; to be asked for before its turn."""
        if self.future is None:
            self.future = concurrent.futures.Future()
        return self.future

    def run(self) -> None:
        if not self._begin():
            return
        try:
            result = self.handler(self.event, self.session)
            self._refuse_unfinished(result)
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a handler's end is not the thread's
            self.fail(error)
        else:
            self._succeed(result)

    async def run_on_loop(self) -> None:
        if not self._begin():
            return
        try:
            result = await self.handler(self.event, self.session)
            self._refuse_unfinished(result)
        except BaseException as error:  # noqa: BLE001 - as above; canceled when Orthanc stops
            self.fail(error)
        else:
            self._succeed(result)

    def _begin(self) -> bool:
        self.is_over = self.future is not None and not self.future.set_running_or_notify_cancel()
        return not self.is_over

    def _refuse_unfinished(self, result: Any) -> None:
        """Raise TypeError where a handler returned what would have to be run by somebody else."""
        if inspect.iscoroutine(result):
            result.close()
            if self.is_coroutine:
                raise TypeError(f"{name_of(self.handler)} returned a coroutine, which nobody runs: await it")
            raise TypeError(f"{name_of(self.handler)} returned a coroutine: register the coroutine function itself")
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise TypeError(f"{name_of(self.handler)} returned a generator, which nobody runs: return a value")

    def _succeed(self, result: Any) -> None:
        self.is_over = True
        if self.future:
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended."""
        if self.is_over:
            return
        self.is_over = True
        if self.is_canceled:  # which is said once for all
            error = asyncio.CancelledError()
        else:
            self.has_failed = True
            more = error if SDK.is_open else None  # after Orthanc has stopped, whatever it does fails
            LOG.error("%s failed on %s: %r", name_of(self.handler), self.event, error, exc_info=more)
            if isinstance(error, asyncio.CancelledError):  # it, or another handler, canceled it
                error = RuntimeError("canceled")
        if self.future:
            self.future.set_exception(error)

    def drop(self) -> None:
        """End without a turn."""
        self.is_over = True
        if self.future and self.future.cancel():
            self.future.set_running_or_notify_cancel()  # else concurrent.futures.wait still waits


def names_of_handlers(calls: Iterable[Call]) -> str:
    """Return the names of the handlers of these, each once."""
    return ", ".join(sorted({name_of(call.handler) for call in calls}))


# ---- src/event_dispatcher/event_writer.py: Writes events down in a thread: a disk or a lock may take seconds, and OnChange returns at once.


WRITE_AGAIN_SECONDS = 2.0  # until what could not be written down is written again
CLOSE_SECONDS = 1.0  # for what is written down when Orthanc stops
EVENTS_PER_COMMIT = 500


class EventWriter:
    """Keeps events in memory until they are committed.

    Parameters
    ----------
    name : of the ledger, for the log.
    commit : writes events in one transaction.
    finish : is called by the thread when all is written, or can't be.
    """

    def __init__(self, name: str, commit: Callable[[Sequence[ChangeEvent]], None], finish: Callable[[], None]) -> None:
        self._name, self._commit, self._finish = name, commit, finish
        self._unwritten: collections.deque[ChangeEvent] = collections.deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="event_dispatcher writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, event: ChangeEvent) -> None:
        """Take an event; return at once."""
        self._unwritten.append(event)
        self._wake.set()

    def has_unwritten(self) -> bool:
        """Return whether events wait to be written."""
        return bool(self._unwritten)

    def close(self) -> None:
        """Write what is left and end; a disk that hangs is left behind after a second."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        if self._unwritten:
            LOG.error("%s: %d events could not be written down, and are lost", self._name, len(self._unwritten))

    def _work(self) -> None:
        complaint = ""
        while not self._closing.is_set() or self._unwritten:
            self._wake.wait()
            self._wake.clear()
            try:
                self._write()
                complaint = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it never ends the thread that serves all
                if str(error) != complaint:
                    complaint = str(error)
                    LOG.error("%s: events can't be written down, and are kept in memory: %s", self._name, error)
                if self._closing.wait(WRITE_AGAIN_SECONDS):
                    break
                self._wake.set()
        self._finish()

    def _write(self) -> None:
        while self._unwritten:
            # By index: a deque to which OnChange adds meanwhile can't be walked through.
            some = [self._unwritten[index] for index in range(min(len(self._unwritten), EVENTS_PER_COMMIT))]
            self._commit(some)
            for _ in some:
                self._unwritten.popleft()


# ---- src/event_dispatcher/subscriptions.py: Which handlers an event is kept for, and the queue of each.


class Subscriptions:
    """The handlers of each change type. The queue of a handler bears its name, for a restart must find it."""

    def __init__(self, handlers: Mapping[int, Sequence[Handler]]) -> None:
        self.handlers: dict[str, Handler] = {}
        """Of each queue."""
        self._changes: dict[str, tuple[int, list[str]]] = {}  # of each change type by name: its number, and the queues
        for change, several in handlers.items():
            self._changes[str(change)] = int(change), [self._queue_of(handler) for handler in several]

    def _queue_of(self, handler: Handler) -> str:
        """Return the name of a handler's queue; of several handlers of one name, the second is `name#2`."""
        name = name_of(handler)
        for number in range(1, len(self.handlers) + 2):
            queue_name = name if number == 1 else f"{name}#{number}"
            if self.handlers.setdefault(queue_name, handler) is handler:
                return queue_name
        raise AssertionError

    def __contains__(self, change: str) -> bool:
        return change in self._changes

    def queues_of(self, change: str) -> list[str]:
        """Return the queues into which such an event is put."""
        return self._changes.get(change, (0, []))[1]

    def number_of(self, change: str) -> int:
        """Return Orthanc's number of a change type; -1 where no handler is registered for it any more."""
        return self._changes.get(change, (-1, []))[0]

    def changes(self) -> list[str]:
        """Return the change types with handlers."""
        return list(self._changes)


# ---- src/event_dispatcher/handover.py: Hands rows of the ledger to their handlers, and writes down how these ended.


# Runs a handler on an event: the numbers of its change type and its resource type, and Orthanc's identifier.
Run = Callable[[Handler, tuple[int, int, str]], concurrent.futures.Future[Any]]


class HandOver:
    """At most `AtLeastOnce.under_way` rows of a queue are with the executor.

    Parameters
    ----------
    levels : the numbers of `orthanc.ResourceType`, by names such as `Study`.
    on_end : is called when a handler has ended: `settle` has something to do.
    stopping : when it is set, nothing more is handed over.
    """

    def __init__(
        self,
        kept: AtLeastOnce,
        subscriptions: Subscriptions,
        levels: Mapping[str, int],
        run: Run,
        on_end: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self._kept, self._subscriptions, self._levels, self._run = kept, subscriptions, levels, run
        self._on_end, self._stopping = on_end, stopping
        self._ended: collections.deque[tuple[int, concurrent.futures.Future[Any]]] = collections.deque()
        self._settling = threading.Lock()
        self._under_way: collections.Counter[str] = collections.Counter()

    def settle(self, ledger: Ledger) -> None:
        """Write down how handlers ended."""
        with self._settling:
            while self._ended:
                row, future = self._ended[0]
                if not future.cancelled() and not isinstance(future.exception(), asyncio.CancelledError):
                    self._settle_one(ledger, row, future.exception())
                self._ended.popleft()

    def _settle_one(self, ledger: Ledger, row: int, error: BaseException | None) -> None:
        work = Work(ledger)
        found = work.get(row)
        assert found
        if error is None:
            work.remove(row)
        else:
            if ledger.fail(row, repr_of(error), self._kept) == "dead":
                LOG.error("%s is given up on %s after %g h", found["queue"], found["data"], self._kept.give_up_hours)
        self._under_way[found["queue"]] -= 1

    def hand_over(self, ledger: Ledger) -> None:
        """Give the executor the rows that are due, of each queue as many as there is room for."""
        for queue_name, handler in self._subscriptions.handlers.items():
            room = self._kept.under_way - self._under_way[queue_name]
            # Not for each that ended: of many that wait, finding the next ones takes time.
            if room >= max(1, self._kept.under_way // 2):
                self._hand_over_queue(ledger, queue_name, handler, room)

    def _hand_over_queue(self, ledger: Ledger, queue_name: str, handler: Handler, room: int) -> None:
        rows = ledger.due(queue_name, room, self._kept.longest)
        with ledger.transaction():
            for row in rows:
                ledger.start(row["id"])
        for row in rows:
            if self._stopping.is_set():
                return
            event = json.loads(row["data"])
            level = self._levels.get(event["Level"], self._levels["None"])
            self._under_way[queue_name] += 1
            future = self._run(handler, (self._subscriptions.number_of(event["Change"]), level, event["Resource"]))
            future.add_done_callback(functools.partial(self._note_end, row["id"]))

    def _note_end(self, row: int, future: concurrent.futures.Future[Any]) -> None:
        self._ended.append((row, future))
        self._on_end()


# ---- src/event_dispatcher/durable_queue.py: Events that are on disk until their handlers have ended without an error.


LOOK_EVERY_SECONDS = 1.0  # at /changes, unless OnChange reports something
LOOK_LINGER_SECONDS = 0.05  # between two looks while OnChange reports much
IN_CHANGES = re.compile("(NEW|STABLE|UPDATED)_(PATIENT|STUDY|SERIES|INSTANCE|ATTACHMENT|METADATA)")


class DurableQueue:
    """Keeps events in a ledger, one row for each handler, and hands them over until they are handled."""

    def __init__(self, kept: AtLeastOnce, handlers: Mapping[int, Sequence[Handler]], run: Run, orthanc: Any) -> None:
        self._kept = kept
        self._configuration = json.loads(orthanc.GetConfiguration())
        settings_of_all_scripts(self._configuration)
        self._loopback = Loopback(self._configuration)
        kept.check()
        if not self._loopback.enabled:
            raise ValueError('at_least_once needs "HttpServerEnabled": true: it reads /changes')
        self._subscriptions = Subscriptions(handlers)
        self._ledger: Ledger | None = None
        self._feed: Feed | None = None
        self._worker = Worker(kept.name, self._open, self._turn)
        self._wake, self._stopping = self._worker.wake, self._worker.stopping
        self._writer = EventWriter(kept.name, self._commit, self._finish)
        levels = {name.capitalize(): int(value) for name, value in vars(orthanc.ResourceType).items() if name.isupper()}
        self._hand_over = HandOver(kept, self._subscriptions, levels, run, self._wake.set, self._stopping)
        self._looked_at, self._look_at = 0.0, 0.0  # time.monotonic() of the last and the next look at /changes
        self._begun = False

    # What OnChange reports: return at once

    def takes(self, event: ChangeEvent) -> bool:
        """Return whether this event is kept; it is handled from the ledger then."""
        change = str(event.change_type)
        in_changes = IN_CHANGES.fullmatch(change) is not None
        if in_changes and self._kept.reconcile:
            if change not in self._subscriptions:
                return False  # it is read within a second, which is soon enough for what becomes stable later
            self._look_at = min(self._look_at, self._looked_at + LOOK_LINGER_SECONDS)
        elif change.startswith("STABLE_") or change == "NEW_INSTANCE" or change in self._subscriptions:
            self._writer.add(event)
        self._wake.set()
        return change in self._subscriptions

    # What is written

    def _commit(self, events: Sequence[ChangeEvent]) -> None:
        assert self._ledger
        with self._ledger.transaction():
            for event in events:
                self._on_event(event)
        self._wake.set()

    def _on_event(self, event: ChangeEvent) -> None:
        change, level = str(event.change_type), str(event.resource_type).capitalize()
        if self._feed and (change.startswith("STABLE_") or change == "NEW_INSTANCE"):
            self._feed.on_event(in_camel_case(change), event.resource_id)
        if not change.startswith("STABLE_"):
            self._add(change, level, event.resource_id)

    def _on_change_entry(self, entry: Mapping[str, Any]) -> None:
        """Take an entry of /changes."""
        for name in self._subscriptions.changes():
            if in_camel_case(name) == entry["ChangeType"] and not name.startswith("STABLE_"):
                self._add(name, entry["ResourceType"], entry["ID"])

    def _on_stable(self, level: str, resource: str, _instances: Mapping[str, int]) -> None:
        self._add(f"STABLE_{level.upper()}", level, resource)

    def _add(self, change: str, level: str, resource: str) -> None:
        assert self._ledger
        for queue_name in self._subscriptions.queues_of(change):
            self._ledger.add(queue_name, resource or change, {"Change": change, "Level": level, "Resource": resource})

    def _finish(self) -> None:
        self._worker.end(CLOSE_SECONDS / 2)
        if self._ledger:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._hand_over.settle(self._ledger)
            self._ledger.close()

    # From ORTHANC_STARTED to ORTHANC_STOPPED

    def start(self) -> None:
        self._worker.start()

    def _open(self) -> Ledger:
        path = state_folder(self._kept.folder, self._configuration, self._kept.name) / f"{self._kept.name}.sqlite"
        ledger = Ledger(path, FEED_TABLES, durability=self._kept.durability, key="AtLeastOnce.folder")
        work = Work(ledger)
        try:
            with ledger.transaction():
                for row in work.find(Which(states=["sending"])):
                    work.wait_again(row["id"])
        except BaseException:
            ledger.close()
            raise
        if ledger.quarantined_to:
            LOG.warning(
                "the ledger %s was corrupt and is kept as %s; what waited there is not handled",
                path,
                ledger.quarantined_to,
            )
        queues = {name for name, totals in work.totals_by_queue().items() if any(totals.values())}
        if unknown := sorted(queues - self._subscriptions.handlers.keys()):
            LOG.warning("events in %s wait for handlers that are not registered any more: %s", path, ", ".join(unknown))
        stable = [name for name in self._subscriptions.changes() if name.startswith("STABLE_")]
        levels = [name.removeprefix("STABLE_").capitalize() for name in stable]
        self._feed = Feed(
            ledger,
            self._loopback,
            self._on_stable,
            levels,
            float(self._configuration.get("StableAge", 60)),
            self._kept.reconcile,
            on_change_entry=self._on_change_entry,
        )
        self._ledger = ledger
        self._writer.start()
        return ledger

    def stop(self) -> None:
        """Hand over nothing more."""
        if self._writer.has_unwritten():  # stopped as soon as started: it is to be written down all the same
            self._worker.wait_for_first_try(CLOSE_SECONDS)
        self._worker.end(0.0)

    def close(self) -> None:
        """End, after the handlers: what they did is written down; the rest is handed over after the next start."""
        self._writer.close()

    def register_status(self) -> None:
        """Register `/event-dispatcher/NAME/status`, and `/scripts` and `/scripts/health` (`common.status`)."""
        name = self._kept.name
        base = f"/event-dispatcher/{name}"
        register_status(name, self.condition, self._report, self._worker.why_not, base=base, routes=None)

    def condition(self) -> Condition:
        """Return whether its ledger can be used."""
        return condition_of(self._worker)

    def totals(self) -> dict[str, int]:
        """Return the number of events, for each handler one, in each state."""
        assert self._ledger
        return self._ledger.totals()

    def _report(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, and how many events, for each handler one, are in each state."""
        return {"Totals": self.totals()}

    def retry_dead(self) -> int:
        """Let what was given up be handled again; return how many rows."""
        if not self._ledger:
            return 0
        number = Work(self._ledger).retry(Which(states=["dead"]))
        self._wake.set()
        return number

    # The one thread

    def _turn(self) -> float:
        assert self._ledger
        assert self._feed
        if not self._begun:
            self._feed.begin()
            self._begun = True
        self._hand_over.settle(self._ledger)
        if self._stopping.is_set():
            self._look_at = time.monotonic() + LOOK_EVERY_SECONDS
        else:
            if time.monotonic() >= self._look_at:
                self._looked_at = time.monotonic()
                self._look_at = self._looked_at + LOOK_EVERY_SECONDS
                self._feed.poll()
            self._hand_over.hand_over(self._ledger)
        return max(0.0, self._look_at - time.monotonic())


def in_camel_case(name: str) -> str:
    """Return how /changes calls it: `STABLE_STUDY` is `StableStudy`."""
    return "".join(word.capitalize() for word in name.split("_"))


# ---- src/event_dispatcher/threads.py: Threads that keep no process from ending: those of `concurrent.futures` are waited for, even if they hang.


T = TypeVar("T")


class DaemonThreads(Generic[T]):
    """Runs `run(item)` for each item that is submitted, in their order, on up to `most` threads."""

    def __init__(self, most: int, run: Callable[[T], object], name: str) -> None:
        self._most, self._run, self._name = most, run, name
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._changed = threading.Lock()
        self._started = 0

    def submit(self, item: T) -> None:
        self._items.put(item)
        with self._changed:
            if self._started < self._most:
                self._started += 1
                name = f"{self._name} {self._started}"
                threading.Thread(target=self._run_all, name=name, daemon=True).start()

    def close(self) -> None:
        """End each thread as soon as it has done what was submitted; wait for none."""
        with self._changed:
            for _ in range(self._started):
                self._items.put(None)

    def _run_all(self) -> None:
        while (item := self._items.get()) is not None:
            self._run(item)


def leave_pools() -> None:
    """Keep Python from waiting, when it ends, for daemon threads of a `ThreadPoolExecutor` that a handler has made.

    CPython 3.11 to 3.14 joins them all, also one that hangs, and offers no other way: Orthanc would never end.
    """
    joined_at_exit = getattr(concurrent.futures.thread, "_threads_queues", {})
    for thread in list(joined_at_exit):
        if thread.daemon:  # as all threads are that a handler's thread starts
            joined_at_exit.pop(thread, None)


class DaemonPool(concurrent.futures.ThreadPoolExecutor):
    """What an event loop runs `asyncio.to_thread` and the look-up of host names on."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._daemons: DaemonThreads[Callable[[], None]] = DaemonThreads(
            most, lambda work: work(), "event_dispatcher pool"
        )

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **named)
            except BaseException as error:  # noqa: BLE001 - it is the future's
                future.set_exception(error)
            else:
                future.set_result(result)

        self._daemons.submit(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._daemons.close()


# ---- src/event_dispatcher/loop.py: Runs coroutines on an event loop that survives whatever a handler does to it.


BLOCKED_SECONDS = 10.0  # after which a loop that begins nothing more is reported
POOL_THREADS = 32  # for asyncio.to_thread, as many as asyncio has at most


class EventLoop:
    """An event loop in a thread of its own, with up to `most` coroutines at a time; the others wait in a list.

    A handler may cancel all tasks, stop the loop or end it with SystemExit: that is logged, and the loop begins again.
    `begin` returns whether a call still has its turn, `ended` is called at its end.
    """

    def __init__(self, most: int, begin: Callable[[Call], bool], ended: Callable[[Call], None]) -> None:
        self._most, self._begin, self._ended = most, begin, ended
        self._waiting: collections.deque[Call] = collections.deque()
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._lock = threading.Lock()
        self._asked: float | None = None  # time.monotonic() when it was asked to begin more, until it does
        self._is_reported = self._is_closing = False
        self._loop = self._make()
        self._thread = threading.Thread(target=self._keep_running, name="event_dispatcher loop", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        self._waiting.append(call)
        self._ask()

    def cancel(self, calls: list[Call]) -> None:
        """Cancel these, without a line in the log for each."""
        for call in calls:
            call.is_canceled = True
        self._call(lambda: [task.cancel() for task, call in list(self._tasks.items()) if call.is_canceled])

    def responds(self, within: float) -> bool:
        """Return whether no handler blocks the loop; `within` in seconds."""
        answered = threading.Event()
        self._call(answered.set)
        return answered.wait(within)

    def close(self) -> None:
        """End the loop, and wait a moment for it."""
        self._is_closing = True
        self._call(self._loop.stop)
        self._thread.join(0.2)

    # From any thread

    def _make(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_default_executor(DaemonPool(POOL_THREADS))
        return loop

    def _call(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: another one is made
            self._loop.call_soon_threadsafe(function)

    def _ask(self) -> None:
        with self._lock:
            if self._asked is None:
                self._asked = time.monotonic()
                self._call(self._begin_more)
                return
            is_late = time.monotonic() - self._asked > BLOCKED_SECONDS and not self._is_reported
            self._is_reported = self._is_reported or is_late
        if is_late:
            LOG.warning(
                "a coroutine has blocked the event loop for more than %g s (time.sleep, requests, …), and all others wait:"
                " one of %s",
                *(BLOCKED_SECONDS, names_of_handlers(list(self._tasks.values())) or "those that have ended"),
            )

    # In its thread

    def _begin_more(self) -> None:
        with self._lock:
            self._asked, self._is_reported = None, False
        while self._waiting and len(self._tasks) < self._most:
            call = self._waiting.popleft()
            if self._begin(call):
                task = self._loop.create_task(call.run_on_loop())
                self._tasks[task] = call
                task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        call = self._tasks.pop(task)
        call.fail(asyncio.CancelledError())  # unless it has ended: it was canceled before it could begin
        self._ended(call)
        self._begin_more()

    def _keep_running(self) -> None:
        while not self._is_closing:
            asyncio.set_event_loop(self._loop)
            how, pause = "stopped the event loop", 0.0
            try:
                self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - SystemExit of a task that a handler made
                how, pause = f"ended the event loop with {repr_of(error)}", 1.0
            if not self._is_closing:
                running = names_of_handlers(self._tasks.values()) or "handlers that have ended"
                LOG.error("a handler %s, which begins again; running: %s", how, running)
                time.sleep(pause)  # one that fails at once must not fill the log
                if self._loop.is_closed():
                    self._replace()
        self._clean_up()

    def _replace(self) -> None:
        """Use a new loop; what ran on the one that a handler closed has failed."""
        lost, self._tasks = list(self._tasks.values()), {}
        with self._lock:
            self._loop, self._asked = self._make(), None
        for call in lost:
            call.fail(RuntimeError("a handler closed the event loop"))
            self._ended(call)
        self._ask()

    def _clean_up(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


# ---- src/event_dispatcher/executor.py: Runs handlers away from Orthanc's own threads.


class Executor:
    """Runs handlers away from Orthanc's own threads: blocking ones on threads, coroutines together on one event loop.

    Parameters
    ----------
    threads : blocking handlers at a time. With one, the default, they run in the order of the events.
    coroutines : at a time.
    in_order : one event after the other: the next begins when all handlers of the one before have ended.
    waiting : when so many handlers wait for their turn, a warning names those that keep them waiting; another one follows
        each time that the number has doubled. All are kept in memory, about 400 bytes each.
    stop_within : seconds that handlers have to end when Orthanc stops; what had no turn by then has none.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        coroutines: int = 100,
        in_order: bool = False,
        waiting: int = 10_000,
        stop_within: float = 2.0,
    ) -> None:
        for name, value in (("threads", threads), ("coroutines", coroutines), ("waiting", waiting)):
            if value < 1:
                raise ValueError(f"{name}: found {value}, allowed: at least 1")
        self.stop_within = stop_within
        self._most_threads, self._most_coroutines = 1 if in_order else threads, coroutines
        self._in_order = in_order
        self._changed = threading.Condition()
        self._waiting: set[Call] = set()
        self._running: set[Call] = set()
        self._many, self._warn_at = waiting, waiting
        self._is_closed = False
        self.failed = 0  # calls that ended with an error
        self._threads: DaemonThreads[Sequence[Call]] | None = None
        self._loop: EventLoop | None = None

    @property
    def is_crowded(self) -> bool:
        return len(self._waiting) >= self._many

    def counts(self) -> dict[str, int]:
        """Return how many handlers wait for their turn, how many run, and how many have failed since the start."""
        return {"queued": len(self._waiting), "running": len(self._running), "failed": self.failed}

    def submit(self, calls: Sequence[Call]) -> None:
        """Give the handlers of one event their turn; return at once, however many wait."""
        with self._changed:
            is_closed = self._is_closed
            if not is_closed:
                self._waiting.update(calls)
            number = len(self._waiting)
            warn = number >= self._warn_at
            if warn:
                self._warn_at = 2 * number
        if is_closed:
            for call in calls:
                call.drop()
            return
        if warn:
            self._warn(number)
        if self._in_order:
            self._on_thread(calls)
            return
        for call in calls:
            if call.is_coroutine:
                self._on_loop(call)
            else:
                self._on_thread((call,))

    def _warn(self, number: int) -> None:
        with self._changed:
            oldest = sorted(self._running, key=lambda call: call.began)[:5]
        now = time.monotonic()
        behind = ", ".join(f"{name_of(call.handler)} (for {now - call.began:.0f} s)" for call in oldest)
        LOG.warning("%d handlers wait for their turn, in memory, behind %s", number, behind or "none that runs")

    # A turn

    def _begin(self, call: Call) -> bool:
        """Return whether a call has its turn: not if Orthanc stopped while it waited."""
        with self._changed:
            if call not in self._waiting:
                return False
            self._waiting.discard(call)
            self._running.add(call)
            call.began = time.monotonic()
            caught_up = self._warn_at > self._many and len(self._waiting) <= self._many // 2
            if caught_up:
                self._warn_at = self._many
        if caught_up:
            LOG.warning("handlers have caught up: %d wait for their turn", self._many // 2)
        return True

    def _end(self, call: Call) -> None:
        with self._changed:
            self._running.discard(call)
            self.failed += call.has_failed
            self._changed.notify_all()

    def _run_together(self, calls: Sequence[Call]) -> None:
        coroutines = [call for call in calls if call.is_coroutine and not call.is_over]
        ends = [call.want_future() for call in coroutines]
        for call in coroutines:
            self._on_loop(call)
        for call in calls:
            if not call.is_coroutine and self._begin(call):
                call.run()
                self._end(call)
        if ends:
            concurrent.futures.wait(ends)

    def _on_thread(self, calls: Sequence[Call]) -> None:
        with self._changed:
            if self._threads is None:
                self._threads = DaemonThreads(self._most_threads, self._run_together, "event_dispatcher")
            threads = self._threads
        threads.submit(calls)

    def _on_loop(self, call: Call) -> None:
        with self._changed:
            if self._loop is None:
                self._loop = EventLoop(self._most_coroutines, self._begin, self._end)
            loop = self._loop
        loop.submit(call)

    # The end

    def drain(self, until: float) -> None:
        """Wait for all handlers, until that time (`time.monotonic()`); those that have not begun then never do."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._running), max(0.0, until - time.monotonic()))
            dropped, running = list(self._waiting), list(self._running)
            self._waiting.clear()
        if not dropped and not running:
            return
        names = names_of_handlers([*dropped, *running])
        message = "Orthanc stops: %d handlers had no turn, %d are still running: %s"
        LOG.warning(message, len(dropped), len(running), names)
        for call in dropped:
            call.drop()
        self._leave(running)

    def _leave(self, running: Sequence[Call]) -> None:
        """Cancel coroutines, which may clean up; and see that what hangs keeps nobody else from running."""
        coroutines = {call for call in running if call.is_coroutine}
        if coroutines and self._loop:
            self._loop.cancel(list(coroutines))
            with self._changed:
                self._changed.wait_for(lambda: not coroutines & self._running, self.stop_within / 6)
            if not self._loop.responds(0.1):
                self._loop = None
        with self._changed:
            self._running.clear()
            threads, self._threads = self._threads, None
        if threads:
            threads.close()
        leave_pools()

    def close(self) -> None:
        """End the threads; what is submitted from now on has no turn."""
        self._is_closed = True
        if self._threads:
            self._threads.close()
        if self._loop:
            self._loop.close()


# ---- src/event_dispatcher/dispatcher.py: Orthanc's OnChange: each event is handed to its handlers.


class Dispatcher:
    """Hands each event to its handlers; `register_event_handlers` makes it."""

    def __init__(
        self,
        handlers: Mapping[int, Sequence[Handler]],
        orthanc: Any,
        sessions: tuple[Any, Any],
        executor: Executor,
        at_least_once: AtLeastOnce | None,
    ) -> None:
        self._handlers, self._sessions, self.executor = handlers, sessions, executor
        self._change_types, self._resource_types = names_of(orthanc.ChangeType), names_of(orthanc.ResourceType)
        self._started, self._stopped = orthanc.ChangeType.ORTHANC_STARTED, orthanc.ChangeType.ORTHANC_STOPPED
        self._none = orthanc.ResourceType.NONE
        promised = {key: several for key, several in handlers.items() if key not in (self._started, self._stopped)}
        self.ledger_name = at_least_once.name if at_least_once else None
        self.durable_queue = DurableQueue(at_least_once, promised, self._run_kept, orthanc) if at_least_once else None

    def on_change(self, change_type: int, resource_type: int, resource_id: str) -> list[concurrent.futures.Future[Any]]:
        """Hand an event over, and return at once, with what will be each handler's result: a test waits for these.

        While very many wait (`Executor.is_crowded`), there are none of these.
        """
        event = self._event(change_type, resource_type, resource_id)
        if change_type == self._started and self.durable_queue:
            self.durable_queue.start()
        if self.durable_queue and self.durable_queue.takes(event):
            return []
        calls = self._calls(event)
        futures = [] if self.executor.is_crowded else [call.want_future() for call in calls]
        self._run(calls)
        return futures

    def stop(self, begun: float) -> list[concurrent.futures.Future[Any]]:
        """Let handlers end, then those of ORTHANC_STOPPED; afterwards nothing of ours calls Orthanc any more.

        `begun` (`time.monotonic()`) is when the stop began: handlers of all registrations have their time together.
        """
        seconds = self.executor.stop_within
        if self.durable_queue:
            self.durable_queue.stop()
        self.executor.drain(begun + seconds * 2 / 3)
        calls = self._calls(self._event(self._stopped, self._none, ""))
        futures = [call.want_future() for call in calls]
        self._run(calls)
        self.executor.drain(max(begun + seconds, time.monotonic() + seconds / 3))
        self.executor.close()
        if self.durable_queue:
            self.durable_queue.close()
        return futures

    def register_status(self) -> None:
        """Register the routes that say how the ledger is, where there is one."""
        if self.durable_queue:
            self.durable_queue.register_status()

    def retry_dead(self) -> int:
        """Let events that were given up be handled again (with `at_least_once`); return how many there are."""
        return self.durable_queue.retry_dead() if self.durable_queue else 0

    def _event(self, change_type: int, resource_type: int, resource_id: str) -> ChangeEvent:
        return ChangeEvent(
            self._change_types.get(change_type, change_type),
            self._resource_types.get(resource_type, resource_type),
            resource_id or "",
        )

    def _calls(self, event: ChangeEvent) -> list[Call]:
        return [Call(handler, event, self._sessions) for handler in self._handlers.get(event.change_type, ())]

    def _run(self, calls: Sequence[Call]) -> None:
        if calls:
            self.executor.submit(calls)

    def _run_kept(self, handler: Handler, event: tuple[int, int, str]) -> concurrent.futures.Future[Any]:
        call = Call(handler, self._event(*event), self._sessions)
        future = call.want_future()
        self._run([call])
        return future


class OnChange:
    """Orthanc's one OnChange callback, for each `register_event_handlers` of a script."""

    def __init__(self, orthanc: Any) -> None:
        self.orthanc = orthanc
        self._stopped = orthanc.ChangeType.ORTHANC_STOPPED
        self._dispatchers: list[Dispatcher] = []

    def add(self, dispatcher: Dispatcher) -> None:
        """Let a dispatcher get events too, after the others.

        Raises
        ------
        ValueError : another one has its ledger.
        """
        if dispatcher.ledger_name in {each.ledger_name for each in self._dispatchers} - {None}:
            found = repr(dispatcher.ledger_name)
            raise ValueError(f"at_least_once: found {found} a second time, allowed: a name of its own for each")
        self._dispatchers = [*self._dispatchers, dispatcher]

    def look(self) -> Condition:
        """Return whether all ledgers can be used: the first one that can't, else what goes wrong with one."""
        unhealthy = [found for each in self._queues() if not (found := each.condition()).is_healthy]
        return next(iter(sorted(unhealthy, key=lambda each: each.state == RUNNING)), Condition(RUNNING))

    def measure(self) -> dict[str, float]:
        """Return the metrics: of all registrations together."""
        found = Counter(dead=0)
        for executor in {each.executor for each in self._dispatchers}:
            found.update(executor.counts())
        for queue in self._queues():
            totals = queue.totals()
            found.update(queued=totals["waiting"], dead=totals["dead"])
        return {**found}

    def _queues(self) -> list[DurableQueue]:
        return [each.durable_queue for each in self._dispatchers if each.durable_queue]

    def __call__(self, change_type: int, resource_type: int, resource_id: str) -> list[concurrent.futures.Future[Any]]:
        begun = time.monotonic()
        futures: list[concurrent.futures.Future[Any]] = []
        for each in self._dispatchers:
            try:
                if change_type == self._stopped:
                    futures += each.stop(begun)
                else:
                    futures += each.on_change(change_type, resource_type, resource_id)
            except Exception:  # noqa: BLE001 - one never keeps the others from hearing of it
                LOG.exception("an error in event_dispatcher, please report it")
        if change_type == self._stopped:
            SDK.close()
        return futures


# ---- src/event_dispatcher/helpers.py: Helpers: handlers themselves, hence steps of a pipeline. With the session of a coroutine, await them.


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


# ---- src/event_dispatcher/sessions.py: Sessions: Orthanc's own REST API, over HTTP.


SESSION_TIMEOUT = 60.0  # seconds, of each step of a request
Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)


class ClientType:
    """The two kinds of sessions, for those who know them by these names."""

    SYNC = httpx.Client
    ASYNC = httpx.AsyncClient


HttpxClientType = ClientType  # its name in orthanc-server-extensions


def create_client(
    base_url: str,
    token: str = "",
    cert: str | bool = True,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
) -> Client:
    """Return a client of the Orthanc at an address.

    Parameters
    ----------
    token : an `Authorization` for this address, and for no other.
    cert : path of the certificate to trust. Without one, those that Python trusts; TLS is verified in any case.
    """
    trusted = ssl.create_default_context(cafile=cert if isinstance(cert, str) else None)
    auth = Token(httpx.URL(base_url), token) if token else None
    return client_type(base_url=base_url, auth=auth, verify=trusted, timeout=SESSION_TIMEOUT)


def create_session(
    orthanc: Any,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
    *,
    timeout: float = SESSION_TIMEOUT,
) -> Client:
    """Return a client of this Orthanc's REST API over HTTP: `session.get("/system").json()`.

    Address, certificate and token are worked out from Orthanc's configuration. It can ask other servers too, by a whole
    URL; they get no token, and are trusted as httpx trusts.

    Parameters
    ----------
    client_type : `httpx.Client`, or `httpx.AsyncClient` for coroutines.
    timeout : seconds, of each step of a request.

    Raises
    ------
    ValueError : Orthanc's HTTP server is off: `create_internal_client` needs none. Or the section `Scripts` is wrong.
    LoopbackError : `SslCertificate` can't be read.
    """
    configuration = json.loads(orthanc.GetConfiguration())
    settings_of_all_scripts(configuration)
    loopback = Loopback(configuration)
    if not loopback.enabled:
        raise ValueError('create_session needs "HttpServerEnabled": true; create_internal_client does not')
    tls = loopback.tls()
    host = f"[{loopback.host}]" if ":" in loopback.host else loopback.host
    address = httpx.URL(f"{'http' if tls is None else 'https'}://{host}:{loopback.port}")
    # Each connection takes one of Orthanc's HTTP threads while it is open.
    most = max(1, int(configuration.get("HttpThreadsCount", 50)) // 2)
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE_SECONDS)
    ours = OwnAsyncTransport if issubclass(client_type, httpx.AsyncClient) else OwnTransport
    mounts: Any = {str(address): ours(verify=tls or True, limits=limits)}
    token = Token(address, orthanc.GenerateRestApiAuthorizationToken())
    return client_type(base_url=address, auth=token, mounts=mounts, timeout=timeout)


class Token(httpx.Auth):
    """The plugin's own authorization, for this Orthanc alone: it opens everything."""

    def __init__(self, address: httpx.URL, token: str) -> None:
        self._address, self._token = address, token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if (request.url.scheme, request.url.netloc) == (self._address.scheme, self._address.netloc):
            request.headers["Authorization"] = self._token
            report_request(request.method, request.url.raw_path.decode())
        yield request


# Orthanc may close a kept connection just now: what changes nothing is asked once more.
LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class OwnTransport(httpx.HTTPTransport):
    """To this Orthanc."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return super().handle_request(request)
        except LOST:
            if request.method != "GET":
                raise
            return super().handle_request(request)


class OwnAsyncTransport(httpx.AsyncHTTPTransport):
    """To this Orthanc, for coroutines."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except LOST:
            if request.method != "GET":
                raise
            return await super().handle_async_request(request)


# ---- src/event_dispatcher/internal_client.py: Sessions: Orthanc's own REST API, by the plugin's own functions.


@overload
def create_internal_client(
    base_url: str,
    token: str = "",
    cert: str | bool = True,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
) -> Client: ...


@overload
def create_internal_client(
    orthanc: Any,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
    *,
    after_plugins: bool = False,
) -> Client: ...


def create_internal_client(*arguments: Any, **options: Any) -> Any:
    """Return a session over the plugin's own `RestApiGet` and so on: no network, no HTTP server needed.

        client = create_internal_client(orthanc)
        client.get("/system").json()["Version"]

    Only for what Orthanc answers at once: such a call holds Python's lock, and with it every other script and store.
    Statuses are those that Orthanc's error codes mean; an answer has no headers.

    Parameters
    ----------
    orthanc : the module. With an address in its place, as in orthanc-server-extensions, it is `create_client`, over HTTP.
    client_type : `httpx.Client`, or `httpx.AsyncClient` for coroutines.
    after_plugins : reach the routes of plugins and scripts too (a handler that calls its own script may do so without end).
    """
    if "base_url" in options or isinstance(next(iter(arguments), None), str | httpx.URL):
        return create_client(*arguments, **options)
    return create_client_in_process(*arguments, **options)


def create_client_in_process(
    orthanc: Any,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
    *,
    after_plugins: bool = False,
) -> Client:
    """Return a client whose requests are answered by the plugin's functions."""
    return client_type(base_url="http://orthanc.internal", transport=InProcess(orthanc, after_plugins))


class InProcess(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers requests by `RestApiGet`, `RestApiPost`, `RestApiPut` and `RestApiDelete`."""

    # Orthanc's error codes that are no 500 (OrthancFramework/Resources/CodeGeneration/ErrorCodes.json).
    STATUS = {
        **dict.fromkeys((3, 5, 8, 12, 15, 28), 400),
        **dict.fromkeys((7, 13, 17, 21), 404),
        **{29: 401, 34: 406, 36: 503, 41: 416, 42: 503, 43: 409, 45: 403, 46: 409, 3000: 415},
        **dict.fromkeys(range(2019, 2026), 400),
    }

    def __init__(self, orthanc: Any, after_plugins: bool) -> None:
        self._orthanc, self._suffix = orthanc, "AfterPlugins" if after_plugins else ""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._answer(request, request.read())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self._answer(request, await request.aread())

    def _answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        if request.method not in ("GET", "POST", "PUT", "DELETE"):
            return httpx.Response(405)
        call = getattr(self._orthanc, f"RestApi{request.method.capitalize()}{self._suffix}")
        path = request.url.raw_path.decode()
        try:
            with SDK.calling():
                content = call(path, body) if request.method in ("POST", "PUT") else call(path)
        except StoppedError as error:
            raise httpx.ConnectError(str(error), request=request) from None
        except self._orthanc.OrthancException as error:
            code, reason = error.args if len(error.args) == 2 else (0, str(error))
            return httpx.Response(self.STATUS.get(code, 500), json={"OrthancError": reason, "OrthancStatus": code})
        return httpx.Response(200, content=content or b"")


# ---- src/event_dispatcher/__init__.py


__all__ = [
    "AtLeastOnce",
    "ChangeEvent",
    "ClientType",
    "Dispatcher",
    "Executor",
    "Handler",
    "HttpxClientType",
    "create_internal_client",
    "create_session",
    "first_instance",
    "first_instance_metadata",
    "first_instance_tags",
    "orthanc_logging",
    "parents",
    "pipeline",
    "python_logging",
    "register_event_handlers",
]

if HTTPX_PROBLEM := package_problem("httpx", "0.23", httpx.__version__, "python3-httpx"):
    raise ImportError(f"event_dispatcher.py stays idle: {HTTPX_PROBLEM}")

CHANGE_CALLBACKS: list[OnChange] = []
OTHER_NAMES = {
    "handlers": "event_handlers",
    "orthanc": "orthanc_module",
    "session": "sync_client",
    "requests_session": "sync_client",
    "async_session": "async_client",
}


def register_event_handlers(
    event_handlers: Mapping[int, Handler | Iterable[Handler]] | None = None,
    orthanc_module: Any = None,
    sync_client: Any = None,
    async_client: Any = None,
    *,
    executor: Executor | None = None,
    at_least_once: str | AtLeastOnce | None = None,
    logging_configuration: Callable[[Any], object] | None = None,
    **other_names: Any,
) -> Dispatcher:
    """Run handlers when something happens in Orthanc. A second call adds to the first.

    Parameters
    ----------
    event_handlers : of each `orthanc.ChangeType`, one handler or several. A handler gets `(event, session)`: a `ChangeEvent`,
        and the session that is given here, a coroutine the asynchronous one.
    orthanc_module : `orthanc`; in a test, the stand-in `OrthancApiHandler`, whose `on_change` gives back what they returned.
    sync_client, async_client : sessions, from `create_session` or `create_internal_client`, or whatever your handlers want.
        If there are coroutines and no asynchronous session, one is created.
    executor : how many run at a time, and in which order.
    at_least_once : a name of your own for the ledger in which events are kept until they are handled, or `AtLeastOnce`.
    logging_configuration : where Python's `logging` goes: `orthanc_logging` (the default) or `python_logging`.
    other_names : the first four are also taken by the names `handlers`, `orthanc`, `session` and `async_session`.

    Raises
    ------
    ValueError : a change type that Orthanc does not know; what is no handler; or `at_least_once` without Orthanc's HTTP
        server, or with the name of another call.
    """
    given = _by_our_names(
        {
            "event_handlers": event_handlers,
            "orthanc_module": orthanc_module,
            "sync_client": sync_client,
            "async_client": async_client,
        },
        other_names,
    )
    module, session, async_session = given["orthanc_module"], given["sync_client"], given["async_client"]
    (logging_configuration or orthanc_logging)(module)
    handlers = _listed(given["event_handlers"], names_of(module.ChangeType))
    if async_session is None and any(is_coroutine(each) for several in handlers.values() for each in several):
        async_session = create_session(module, httpx.AsyncClient)
    if isinstance(at_least_once, str):
        at_least_once = AtLeastOnce(at_least_once)
    SDK.open()
    dispatcher = Dispatcher(handlers, module, (session, async_session), executor or Executor(), at_least_once)
    _listen(module, dispatcher)
    if module is orthanc:
        dispatcher.register_status()
    return dispatcher


def _by_our_names(given: dict[str, Any], other_names: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in other_names.items():
        if name == "handler_executor":
            raise TypeError("register_event_handlers: found handler_executor, allowed: executor=Executor(…)")
        if name not in OTHER_NAMES:
            allowed = ", ".join([*given, *OTHER_NAMES, "executor", "at_least_once", "logging_configuration"])
            raise TypeError(f"register_event_handlers: found {name}, allowed: {allowed}")
        if given[OTHER_NAMES[name]] is not None:
            raise TypeError(f"register_event_handlers: found both {name} and {OTHER_NAMES[name]}, allowed: one of them")
        given[OTHER_NAMES[name]] = value
    for name in ("event_handlers", "orthanc_module"):
        if given[name] is None:
            raise TypeError(f"register_event_handlers: {name} is missing")
    return given


def _listed(handlers: Mapping[int, Handler | Iterable[Handler]], known: Mapping[int, int]) -> dict[int, list[Handler]]:
    """Return the handlers of each change type as a list; raise ValueError for what can't be one."""
    if unknown := [each for each in handlers if each not in known]:
        raise ValueError(f"handlers: found {unknown[0]!r}, allowed: one of orthanc.ChangeType")
    listed: dict[int, list[Handler]] = {}
    for key, value in handlers.items():
        listed[known[key]] = list(value) if isinstance(value, Iterable) and not callable(value) else [value]
        for handler in listed[known[key]]:
            check_handler(handler)
    return listed


def _listen(orthanc_module: Any, dispatcher: Dispatcher) -> None:
    """Let a dispatcher get changes: Orthanc grants one callback, which all dispatchers share."""
    on_change = OnChange(orthanc_module)
    on_change.add(dispatcher)
    try:
        listener = _with_metrics(on_change) if orthanc_module is orthanc else on_change
        orthanc_module.RegisterOnChangeCallback(kept_alive(listener))
    except RuntimeError:  # it has one
        ours = [each for each in CHANGE_CALLBACKS if each.orthanc is orthanc_module]
        if not ours:
            raise
        ours[-1].add(dispatcher)
    else:
        CHANGE_CALLBACKS.append(on_change)


def _with_metrics(on_change: OnChange) -> OnChangeCallback:
    return MetricsReporter("event_dispatcher", on_change.look, on_change.measure).around(on_change)
