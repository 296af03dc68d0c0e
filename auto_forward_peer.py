# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/auto_forward_peer.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Forwards studies to other Orthancs (HTTP or HTTPS), by rules, so that they arrive.

What is sent is written down first: a restart, `kill -9`, or a peer that is away for days loses nothing. Failed
deliveries are sent again, less and less often, for three days. What the archive held before this script came is never sent by
itself.

A smallest configuration (without the section, every peer in `OrthancPeers` gets every study when it is stable):

    "OrthancPeers": {"research": ["https://192.168.1.20:8042/", "user", "password"]},
    "AutoForwardPeer": {"Destinations": ["research"]}

To look at and to act on, with curl:

    GET  /auto-forward-peer/status              and  /destinations  /rules
    GET  /auto-forward-peer/deliveries?state=dead        also destination=, study=, job=, since=, limit=
    POST /auto-forward-peer/deliveries/{id}/retry        and DELETE /auto-forward-peer/deliveries/{id}
    POST /auto-forward-peer/destinations/{name}/pause    and /resume
    POST /auto-forward-peer/rules/test                   {"Resource": "…"}: what would happen, and why
    POST /auto-forward-peer/backfill                     {"From": "20240101", "To": "20240131", "DryRun": true}

Needs nothing but Python's standard library. All keys: docs/auto_forward_peer.md.
"""

from __future__ import annotations

if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)

import base64
import calendar
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
import importlib.metadata
import importlib.util
import ipaddress
import json
import math
import os
import platform
import random
import re
import socket
import sqlite3
import ssl
import stat
import string
import struct
import sys
import threading
import time
import traceback
import types
import typing
import urllib.parse
import urllib.request
import weakref
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, TypedDict, Unpack

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


# ---- src/common/catch_up.py: Orthanc's log of changes read once more, from a time on: what a new or an older ledger has not seen.


CATCH_UP_PARAMETERS: Mapping[str, Any] = {"Since": Moment(), "DryRun": Flag()}
CATCH_UP_PAGE = 500  # changes a request
COUNTED_CHANGES = 50_000  # by a dry run, which a person waits for


class Span(NamedTuple):
    """A part of the log: after the change with the number `place`, up to the one with the number `end`."""

    place: int
    end: int

    @property
    def changes(self) -> int:
        """Return how many numbers there are in it; deleted resources have left the log."""
        return max(0, self.end - self.place)


class ChangesPage(NamedTuple):
    """Some changes of a span, in their order, and the rest of the span."""

    changes: list[Mapping[str, Any]]
    rest: Span

    @property
    def instances(self) -> list[str]:
        """Return the instances that were new."""
        return list(dict.fromkeys(each["ID"] for each in self.changes if each["ChangeType"] == "NewInstance"))


class ChangeLogReader:
    """Reads a span of the log of changes. What is left of it is in the ledger: a restart goes on.

    Parameters
    ----------
    get : asks Orthanc.
    """

    def __init__(self, ledger: Ledger, get: Callable[[str], Any]) -> None:
        self._ledger, self._get = ledger, get

    def find(self, since: datetime.datetime) -> Span:
        """Return what the log has since a time, up to now: by the time at which Orthanc noted each change.

        Raises
        ------
        LoopbackError : Orthanc can't answer now.
        """
        newest = int(self._get("/changes?last")["Last"])
        return Span(self._last_before(orthanc_time(since), newest), newest)

    def _last_before(self, date: str, newest: int) -> int:
        low, high = 0, newest
        while low < high:
            middle = (low + high) // 2
            first = self._get(f"/changes?since={middle}&limit=1")["Changes"]
            if first and first[0]["Date"] < date:
                low = int(first[0]["Seq"])
            else:
                high = middle
        return low

    def read(self, span: Span) -> ChangesPage:
        """Return the first changes of a span."""
        page = self._get(f"/changes?since={span.place}&limit={CATCH_UP_PAGE}")
        changes = [each for each in page["Changes"] if each["Seq"] <= span.end]
        is_last = page["Done"] or page["Last"] >= span.end
        return ChangesPage(changes, Span(span.end if is_last else int(page["Last"]), span.end))

    @property
    def left(self) -> Span | None:
        """What is left to read, or None: nobody has asked, or it is done."""
        span = Span(self._ledger.get_value("catch_up_place"), self._ledger.get_value("catch_up_end"))
        return span if span.changes else None

    def state(self) -> dict[str, Any]:
        """Return whether a catch-up is under way, and how many changes are left to read."""
        left = self.left
        return {"UnderWay": left is not None, "ChangesLeft": left.changes if left else 0}

    def begin(self, span: Span) -> None:
        """Let a span be read. Raises `Refused` (409): another one is not done yet."""
        with self._ledger.transaction():
            if self.left:
                raise Refused(409, "A catch-up is under way; ask for another one when it is done")
            self.note(span)

    def note(self, span: Span) -> None:
        """Note what is left to read, in the transaction that notes what was read."""
        with self._ledger.transaction():
            self._ledger.set_value("catch_up_place", span.place)
            self._ledger.set_value("catch_up_end", span.end)


def since_of(parameters: Mapping[str, Any]) -> datetime.datetime:
    """Return from when on to catch up. Raises `Refused` (400): nobody said so, or it is yet to come."""
    if "Since" not in parameters:
        raise Refused(400, f"Since is missing, allowed: {Moment().allowed}")
    found: datetime.datetime = parameters["Since"]
    if found.timestamp() > time.time():
        raise Refused(400, f"Since is {utc(found.timestamp())}, a time yet to come; allowed: up to now, {utc()}")
    return found


def series_of(loopback: Loopback, instances: list[str]) -> list[dict[str, Any]]:
    """Return the series of some instances that are here: `ID`, `ParentStudy`, `Instances`."""
    body = {"Resources": instances, "Level": "Series", "Short": True, "Metadata": False}
    found: list[dict[str, Any]] = loopback.post("/tools/bulk-content", body) if instances else []
    return found


# ---- src/common/http_threads.py: Handlers of routes and Orthanc's HTTP threads: there are few of them, and their stack is small.


T = TypeVar("T")


class HttpTurns:
    """Lets at most a third of Orthanc's HTTP threads ask Orthanc: if all of them did, no thread were left to answer them.

    Parameters
    ----------
    configuration : Orthanc's, which has the number of threads.
    what : of what there are too many when one more is refused.
    """

    def __init__(self, configuration: Mapping[str, Any], what: str = "requests") -> None:
        self._turns = threading.BoundedSemaphore(max(1, int(configuration.get("HttpThreadsCount", 50)) // 3))
        self._what = what

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Ask Orthanc inside. Raises `Refused` (503) at once if too many do already."""
        if not self._turns.acquire(blocking=False):
            raise Refused(503, f"Too many {self._what} at a time; try again")
        try:
            yield
        finally:
            self._turns.release()

    def bound(self, handler: RouteHandler) -> RouteHandler:
        """Return a handler that has a turn while it answers."""

        @functools.wraps(handler)  # with what it takes
        def bounded(request: Any) -> Any:
            with self.turn():
                return handler(request)

        return bounded


def in_a_thread(work: Callable[[], T], name: str) -> T:
    """Return what `work` returns in a thread of this name, whose stack is larger than the 100 KB of an HTTP thread.

    Raises
    ------
    Exception : what `work` raises.
    """
    outcome: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            close_connections()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


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


# ---- src/common/owed.py: What a script still has to do with studies, for `POST /NAME/owed`: a purge leaves them alone until then.


PLACES_PER_LOOKUP = 100
OVERWRITTEN_SECONDS = 0.2  # after which one that was overwritten is here again: Orthanc deletes it for a moment
PARENT_OF = {"Instance": "ParentSeries", "Series": "ParentStudy", "Study": "ParentPatient"}
# Of the rows that are not finished: a row's resource may be a series or an instance, and named are studies. `study` is "" for
# a row about a whole patient, and both are "" until somebody asks (`Owing.find_out`) where `data` does not say it.
# `patients_waited_for` has those of rows that wait or are sent.
_OWED = """
CREATE TABLE IF NOT EXISTS owed(
    row INTEGER NOT NULL, study TEXT NOT NULL, patient TEXT NOT NULL, PRIMARY KEY(row, study)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS owed_by_study ON owed(study);
CREATE INDEX IF NOT EXISTS owed_by_patient ON owed(patient, study);
CREATE TRIGGER IF NOT EXISTS owed_from_the_first AFTER INSERT ON work WHEN {condition} BEGIN
    INSERT INTO owed VALUES(new.id,
        COALESCE(json_extract(new.data, '$.Study'), ''), COALESCE(json_extract(new.data, '$.Patient'), ''))
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER IF NOT EXISTS owed_until_the_end AFTER UPDATE OF state ON work WHEN new.state IN ('done','gone') BEGIN
    DELETE FROM owed WHERE row=new.id;
END;
CREATE TRIGGER IF NOT EXISTS owed_once_more AFTER UPDATE OF state ON work
WHEN old.state IN ('done','gone') AND new.state NOT IN ('done','gone') AND {condition} BEGIN
    INSERT INTO owed VALUES(new.id,
        COALESCE(json_extract(new.data, '$.Study'), ''), COALESCE(json_extract(new.data, '$.Patient'), ''))
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER IF NOT EXISTS owed_no_more AFTER DELETE ON work BEGIN
    DELETE FROM owed WHERE row=old.id;
END;
CREATE VIEW IF NOT EXISTS patients_waited_for AS
    SELECT owed.patient FROM owed JOIN work ON work.id=owed.row WHERE work.state IN ('waiting','sending');
INSERT INTO owed SELECT id, CASE json_extract(data, '$.Level') WHEN 'Study' THEN subject ELSE '' END,
    CASE json_extract(data, '$.Level') WHEN 'Patient' THEN subject ELSE '' END FROM work new
WHERE state IN ('waiting','sending','dead') AND {condition} AND id NOT IN (SELECT row FROM owed);
"""


def owed_tables(but: str = "") -> str:
    """Return the SQL of the table `owed`, for all tasks of a ledger but one."""
    return _OWED.replace("{condition}", f"new.task<>'{but}'")


def place_of(level: str, resource: str, parents: Mapping[str, str]) -> dict[str, str]:
    """Return what the data of a row says of its place: `Study` and `Patient`, as far as they are known."""
    known = {**parents, level: resource}
    return {
        key: known[key] for key in ("Study", "Patient") if key in known and (key == "Patient" or level != "Patient")
    }


def places_of(loopback: Loopback, resources: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return study ("" for a patient) and patient of each resource that is here.

    Raises
    ------
    LoopbackError : Orthanc can't answer now.
    """
    places: dict[str, tuple[str, str]] = {}
    above = {resource: resource for resource in resources}
    for _ in PARENT_OF:
        wanted, found = sorted({*above.values()}), dict[str, Mapping[str, Any]]()
        for start in range(0, len(wanted), PLACES_PER_LOOKUP):
            body = {"Resources": wanted[start : start + PLACES_PER_LOOKUP], "Short": True}
            found |= {each["ID"]: each for each in loopback.post("/tools/bulk-content", body)}
        higher: dict[str, str] = {}
        for resource, name in above.items():
            content = found.get(name, {})
            if content.get("Type") == "Patient":
                places[resource] = "", name
            elif content.get("Type") == "Study":
                places[resource] = name, str(content[PARENT_OF["Study"]])
            elif content:
                higher[resource] = str(content[PARENT_OF[content["Type"]]])
        above = higher
    return places


class Owing:
    """What the unfinished rows of a ledger are about.

    Parameters
    ----------
    resources_of : returns the resources that a row is about.
    """

    def __init__(
        self,
        ledger: Ledger,
        loopback: Loopback,
        resources_of: Callable[[Mapping[str, Any]], Collection[str]] = lambda row: [row["subject"]],
    ) -> None:
        self._ledger, self._work, self._loopback = ledger, WorkView(ledger), loopback
        self._resources_of = resources_of

    def of(self, resources: Collection[str]) -> set[str]:
        """Return which of these studies, and patients as a whole, an unfinished row is about.

        Raises
        ------
        LoopbackError : Orthanc can't answer now what a row is about.
        """
        self.find_out()
        sql = (
            "SELECT study found FROM owed WHERE study IN (SELECT value FROM json_each(?)) "
            "UNION SELECT patient FROM owed WHERE study='' AND patient IN (SELECT value FROM json_each(?))"
        )
        return {row["found"] for row in self._ledger.rows(sql, *[json.dumps([*resources])] * 2)}

    def find_out(self, *, patients: bool = False, at_once: bool = False) -> bool:
        """Ask Orthanc whose the rows are of which that is not known; `patients`: the patient has to be known, too.

        With `at_once` it asks for some of them only. Return whether there are more.
        """
        unknown = "patient=''" if patients else "patient='' AND study=''"
        sql = f"SELECT DISTINCT row FROM owed WHERE {unknown} LIMIT ?"
        while found := [each["row"] for each in self._ledger.rows(sql, PLACES_PER_LOOKUP)]:
            self._find_out(found)
            if at_once:
                return len(found) == PLACES_PER_LOOKUP
        return False

    def _find_out(self, rows: Collection[int]) -> None:
        of_each = {row["id"]: self._resources_of(row) for row in self._work.find(Which(ids=rows))}
        wanted = {each for some in of_each.values() for each in some}
        places = places_of(self._loopback, wanted)
        if missing := wanted - places.keys():
            time.sleep(OVERWRITTEN_SECONDS)
            places |= places_of(self._loopback, missing)
        with self._ledger.transaction() as db:
            # It may have ended meanwhile.
            unfinished = self._work.find(Which(ids=rows, states=("waiting", "sending", "dead")))
            found = {(row["id"], *places[each]) for row in unfinished for each in of_each[row["id"]] if each in places}
            db.executemany("DELETE FROM owed WHERE row=?", [(row,) for row in rows])
            db.executemany("INSERT INTO owed VALUES(?,?,?) ON CONFLICT DO NOTHING", found)


def arriving(ledger: Ledger, loopback: Loopback, parents: Parents, reported: Iterable[str]) -> set[str]:
    """Return the studies, and patients as a whole, of which something has arrived and is not handed over yet.

    `reported` are instances of which OnChange has said that they are new, and that are not read in the log of changes yet.

    Raises
    ------
    Refused : (503) much is still to be read there.
    LoopbackError : Orthanc can't answer now.
    """
    unread = still_to_read(ledger, loopback)  # before what was read: it may be read meanwhile
    if unread is None:
        raise Refused(503, f"{ledger.name} has still to read what arrived")
    found, unknown = set[str](), set[str]()
    new = (("", None, each) for each in unread.union(reported))
    for level, resource, instance in (*arriving_resources(ledger), *new):
        if resource and level in ("Patient", "Study"):
            found.add(resource)
        elif known := parents(instance):
            found.add(known["Study"])
        else:
            unknown.add(resource or instance)
    places = places_of(loopback, unknown) if unknown else {}
    return found | {study or patient for study, patient in places.values()}


def register_owed(
    name: str, owed: Callable[[set[str]], set[str]], unavailable: Callable[[], str | None], *, is_unused: bool = False
) -> None:
    """Register `POST /NAME/owed`, of a script (its name with dashes); one that is unused owes nothing.

    `owed` returns the studies and patients, of those given or any, with which it is not done.
    """

    @takes({"Resources": Texts(allowed="a list of identifiers of Orthanc, at least one")})
    def handler(request: Request) -> dict[str, list[str]]:
        """Return which of these studies it is not done with, and of which patients as a whole: `{"Resources": […]}`."""
        wanted = set(request.parameters.get("Resources", ()))
        if not wanted:
            raise Refused(400, "Resources is missing, allowed: a list of identifiers of Orthanc")
        return {"Owed": [] if is_unused else sorted(wanted & owed(wanted))}

    register_route(f"/{name}/owed", {"POST": handler}, (lambda: None) if is_unused else unavailable)


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


# ---- src/forwarding/uids.py: Keywords of DICOM's storage SOP classes and transfer syntaxes (PS3.6 Table A-1), by which people name them.


# fmt: off
SOP_CLASSES = {
    "ComputedRadiographyImageStorage": "1.2.840.10008.5.1.4.1.1.1",
    "DigitalXRayImageStorageForPresentation": "1.2.840.10008.5.1.4.1.1.1.1",
    "DigitalXRayImageStorageForProcessing": "1.2.840.10008.5.1.4.1.1.1.1.1",
    "DigitalMammographyXRayImageStorageForPresentation": "1.2.840.10008.5.1.4.1.1.1.2",
    "DigitalMammographyXRayImageStorageForProcessing": "1.2.840.10008.5.1.4.1.1.1.2.1",
    "DigitalIntraOralXRayImageStorageForPresentation": "1.2.840.10008.5.1.4.1.1.1.3",
    "DigitalIntraOralXRayImageStorageForProcessing": "1.2.840.10008.5.1.4.1.1.1.3.1",
    "CTImageStorage": "1.2.840.10008.5.1.4.1.1.2",
    "EnhancedCTImageStorage": "1.2.840.10008.5.1.4.1.1.2.1",
    "LegacyConvertedEnhancedCTImageStorage": "1.2.840.10008.5.1.4.1.1.2.2",
    "UltrasoundMultiFrameImageStorageRetired": "1.2.840.10008.5.1.4.1.1.3",
    "UltrasoundMultiFrameImageStorage": "1.2.840.10008.5.1.4.1.1.3.1",
    "MRImageStorage": "1.2.840.10008.5.1.4.1.1.4",
    "EnhancedMRImageStorage": "1.2.840.10008.5.1.4.1.1.4.1",
    "MRSpectroscopyStorage": "1.2.840.10008.5.1.4.1.1.4.2",
    "EnhancedMRColorImageStorage": "1.2.840.10008.5.1.4.1.1.4.3",
    "LegacyConvertedEnhancedMRImageStorage": "1.2.840.10008.5.1.4.1.1.4.4",
    "NuclearMedicineImageStorageRetired": "1.2.840.10008.5.1.4.1.1.5",
    "UltrasoundImageStorageRetired": "1.2.840.10008.5.1.4.1.1.6",
    "UltrasoundImageStorage": "1.2.840.10008.5.1.4.1.1.6.1",
    "EnhancedUSVolumeStorage": "1.2.840.10008.5.1.4.1.1.6.2",
    "PhotoacousticImageStorage": "1.2.840.10008.5.1.4.1.1.6.3",
    "SecondaryCaptureImageStorage": "1.2.840.10008.5.1.4.1.1.7",
    "MultiFrameSingleBitSecondaryCaptureImageStorage": "1.2.840.10008.5.1.4.1.1.7.1",
    "MultiFrameGrayscaleByteSecondaryCaptureImageStorage": "1.2.840.10008.5.1.4.1.1.7.2",
    "MultiFrameGrayscaleWordSecondaryCaptureImageStorage": "1.2.840.10008.5.1.4.1.1.7.3",
    "MultiFrameTrueColorSecondaryCaptureImageStorage": "1.2.840.10008.5.1.4.1.1.7.4",
    "StandaloneOverlayStorage": "1.2.840.10008.5.1.4.1.1.8",
    "StandaloneCurveStorage": "1.2.840.10008.5.1.4.1.1.9",
    "WaveformStorageTrial": "1.2.840.10008.5.1.4.1.1.9.1",
    "TwelveLeadECGWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.1.1",
    "GeneralECGWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.1.2",
    "AmbulatoryECGWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.1.3",
    "General32bitECGWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.1.4",
    "HemodynamicWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.2.1",
    "CardiacElectrophysiologyWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.3.1",
    "BasicVoiceAudioWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.4.1",
    "GeneralAudioWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.4.2",
    "ArterialPulseWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.5.1",
    "RespiratoryWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.6.1",
    "MultichannelRespiratoryWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.6.2",
    "RoutineScalpElectroencephalogramWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.7.1",
    "ElectromyogramWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.7.2",
    "ElectrooculogramWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.7.3",
    "SleepElectroencephalogramWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.7.4",
    "BodyPositionWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.8.1",
    "StandaloneModalityLUTStorage": "1.2.840.10008.5.1.4.1.1.10",
    "StandaloneVOILUTStorage": "1.2.840.10008.5.1.4.1.1.11",
    "GrayscaleSoftcopyPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.1",
    "ColorSoftcopyPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.2",
    "PseudoColorSoftcopyPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.3",
    "BlendingSoftcopyPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.4",
    "XAXRFGrayscaleSoftcopyPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.5",
    "GrayscalePlanarMPRVolumetricPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.6",
    "CompositingPlanarMPRVolumetricPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.7",
    "AdvancedBlendingPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.8",
    "VolumeRenderingVolumetricPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.9",
    "SegmentedVolumeRenderingVolumetricPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.10",
    "MultipleVolumeRenderingVolumetricPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.11",
    "VariableModalityLUTSoftcopyPresentationStateStorage": "1.2.840.10008.5.1.4.1.1.11.12",
    "XRayAngiographicImageStorage": "1.2.840.10008.5.1.4.1.1.12.1",
    "EnhancedXAImageStorage": "1.2.840.10008.5.1.4.1.1.12.1.1",
    "XRayRadiofluoroscopicImageStorage": "1.2.840.10008.5.1.4.1.1.12.2",
    "EnhancedXRFImageStorage": "1.2.840.10008.5.1.4.1.1.12.2.1",
    "XRayAngiographicBiPlaneImageStorage": "1.2.840.10008.5.1.4.1.1.12.3",
    "XRay3DAngiographicImageStorage": "1.2.840.10008.5.1.4.1.1.13.1.1",
    "XRay3DCraniofacialImageStorage": "1.2.840.10008.5.1.4.1.1.13.1.2",
    "BreastTomosynthesisImageStorage": "1.2.840.10008.5.1.4.1.1.13.1.3",
    "BreastProjectionXRayImageStorageForPresentation": "1.2.840.10008.5.1.4.1.1.13.1.4",
    "BreastProjectionXRayImageStorageForProcessing": "1.2.840.10008.5.1.4.1.1.13.1.5",
    "IntravascularOpticalCoherenceTomographyImageStorageForPresentation": "1.2.840.10008.5.1.4.1.1.14.1",
    "IntravascularOpticalCoherenceTomographyImageStorageForProcessing": "1.2.840.10008.5.1.4.1.1.14.2",
    "NuclearMedicineImageStorage": "1.2.840.10008.5.1.4.1.1.20",
    "ParametricMapStorage": "1.2.840.10008.5.1.4.1.1.30",
    "RawDataStorage": "1.2.840.10008.5.1.4.1.1.66",
    "SpatialRegistrationStorage": "1.2.840.10008.5.1.4.1.1.66.1",
    "SpatialFiducialsStorage": "1.2.840.10008.5.1.4.1.1.66.2",
    "DeformableSpatialRegistrationStorage": "1.2.840.10008.5.1.4.1.1.66.3",
    "SegmentationStorage": "1.2.840.10008.5.1.4.1.1.66.4",
    "SurfaceSegmentationStorage": "1.2.840.10008.5.1.4.1.1.66.5",
    "TractographyResultsStorage": "1.2.840.10008.5.1.4.1.1.66.6",
    "RealWorldValueMappingStorage": "1.2.840.10008.5.1.4.1.1.67",
    "SurfaceScanMeshStorage": "1.2.840.10008.5.1.4.1.1.68.1",
    "SurfaceScanPointCloudStorage": "1.2.840.10008.5.1.4.1.1.68.2",
    "VLImageStorageTrial": "1.2.840.10008.5.1.4.1.1.77.1",
    "VLEndoscopicImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.1",
    "VideoEndoscopicImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.1.1",
    "VLMicroscopicImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.2",
    "VideoMicroscopicImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.2.1",
    "VLSlideCoordinatesMicroscopicImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.3",
    "VLPhotographicImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.4",
    "VideoPhotographicImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.4.1",
    "OphthalmicPhotography8BitImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.1",
    "OphthalmicPhotography16BitImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.2",
    "StereometricRelationshipStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.3",
    "OphthalmicTomographyImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.4",
    "WideFieldOphthalmicPhotographyStereographicProjectionImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.5",
    "WideFieldOphthalmicPhotography3DCoordinatesImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.6",
    "OphthalmicOpticalCoherenceTomographyEnFaceImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.7",
    "OphthalmicOpticalCoherenceTomographyBscanVolumeAnalysisStorage": "1.2.840.10008.5.1.4.1.1.77.1.5.8",
    "VLWholeSlideMicroscopyImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.6",
    "DermoscopicPhotographyImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.7",
    "ConfocalMicroscopyImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.8",
    "ConfocalMicroscopyTiledPyramidalImageStorage": "1.2.840.10008.5.1.4.1.1.77.1.9",
    "VLMultiFrameImageStorageTrial": "1.2.840.10008.5.1.4.1.1.77.2",
    "LensometryMeasurementsStorage": "1.2.840.10008.5.1.4.1.1.78.1",
    "AutorefractionMeasurementsStorage": "1.2.840.10008.5.1.4.1.1.78.2",
    "KeratometryMeasurementsStorage": "1.2.840.10008.5.1.4.1.1.78.3",
    "SubjectiveRefractionMeasurementsStorage": "1.2.840.10008.5.1.4.1.1.78.4",
    "VisualAcuityMeasurementsStorage": "1.2.840.10008.5.1.4.1.1.78.5",
    "SpectaclePrescriptionReportStorage": "1.2.840.10008.5.1.4.1.1.78.6",
    "OphthalmicAxialMeasurementsStorage": "1.2.840.10008.5.1.4.1.1.78.7",
    "IntraocularLensCalculationsStorage": "1.2.840.10008.5.1.4.1.1.78.8",
    "MacularGridThicknessAndVolumeReportStorage": "1.2.840.10008.5.1.4.1.1.79.1",
    "OphthalmicVisualFieldStaticPerimetryMeasurementsStorage": "1.2.840.10008.5.1.4.1.1.80.1",
    "OphthalmicThicknessMapStorage": "1.2.840.10008.5.1.4.1.1.81.1",
    "CornealTopographyMapStorage": "1.2.840.10008.5.1.4.1.1.82.1",
    "TextSRStorageTrial": "1.2.840.10008.5.1.4.1.1.88.1",
    "AudioSRStorageTrial": "1.2.840.10008.5.1.4.1.1.88.2",
    "DetailSRStorageTrial": "1.2.840.10008.5.1.4.1.1.88.3",
    "ComprehensiveSRStorageTrial": "1.2.840.10008.5.1.4.1.1.88.4",
    "BasicTextSRStorage": "1.2.840.10008.5.1.4.1.1.88.11",
    "EnhancedSRStorage": "1.2.840.10008.5.1.4.1.1.88.22",
    "ComprehensiveSRStorage": "1.2.840.10008.5.1.4.1.1.88.33",
    "Comprehensive3DSRStorage": "1.2.840.10008.5.1.4.1.1.88.34",
    "ExtensibleSRStorage": "1.2.840.10008.5.1.4.1.1.88.35",
    "ProcedureLogStorage": "1.2.840.10008.5.1.4.1.1.88.40",
    "MammographyCADSRStorage": "1.2.840.10008.5.1.4.1.1.88.50",
    "KeyObjectSelectionDocumentStorage": "1.2.840.10008.5.1.4.1.1.88.59",
    "ChestCADSRStorage": "1.2.840.10008.5.1.4.1.1.88.65",
    "XRayRadiationDoseSRStorage": "1.2.840.10008.5.1.4.1.1.88.67",
    "RadiopharmaceuticalRadiationDoseSRStorage": "1.2.840.10008.5.1.4.1.1.88.68",
    "ColonCADSRStorage": "1.2.840.10008.5.1.4.1.1.88.69",
    "ImplantationPlanSRStorage": "1.2.840.10008.5.1.4.1.1.88.70",
    "AcquisitionContextSRStorage": "1.2.840.10008.5.1.4.1.1.88.71",
    "SimplifiedAdultEchoSRStorage": "1.2.840.10008.5.1.4.1.1.88.72",
    "PatientRadiationDoseSRStorage": "1.2.840.10008.5.1.4.1.1.88.73",
    "PlannedImagingAgentAdministrationSRStorage": "1.2.840.10008.5.1.4.1.1.88.74",
    "PerformedImagingAgentAdministrationSRStorage": "1.2.840.10008.5.1.4.1.1.88.75",
    "EnhancedXRayRadiationDoseSRStorage": "1.2.840.10008.5.1.4.1.1.88.76",
    "WaveformAnnotationSRStorage": "1.2.840.10008.5.1.4.1.1.88.77",
    "ContentAssessmentResultsStorage": "1.2.840.10008.5.1.4.1.1.90.1",
    "MicroscopyBulkSimpleAnnotationsStorage": "1.2.840.10008.5.1.4.1.1.91.1",
    "EncapsulatedPDFStorage": "1.2.840.10008.5.1.4.1.1.104.1",
    "EncapsulatedCDAStorage": "1.2.840.10008.5.1.4.1.1.104.2",
    "EncapsulatedSTLStorage": "1.2.840.10008.5.1.4.1.1.104.3",
    "EncapsulatedOBJStorage": "1.2.840.10008.5.1.4.1.1.104.4",
    "EncapsulatedMTLStorage": "1.2.840.10008.5.1.4.1.1.104.5",
    "PositronEmissionTomographyImageStorage": "1.2.840.10008.5.1.4.1.1.128",
    "LegacyConvertedEnhancedPETImageStorage": "1.2.840.10008.5.1.4.1.1.128.1",
    "StandalonePETCurveStorage": "1.2.840.10008.5.1.4.1.1.129",
    "EnhancedPETImageStorage": "1.2.840.10008.5.1.4.1.1.130",
    "BasicStructuredDisplayStorage": "1.2.840.10008.5.1.4.1.1.131",
    "CTDefinedProcedureProtocolStorage": "1.2.840.10008.5.1.4.1.1.200.1",
    "CTPerformedProcedureProtocolStorage": "1.2.840.10008.5.1.4.1.1.200.2",
    "ProtocolApprovalStorage": "1.2.840.10008.5.1.4.1.1.200.3",
    "XADefinedProcedureProtocolStorage": "1.2.840.10008.5.1.4.1.1.200.7",
    "XAPerformedProcedureProtocolStorage": "1.2.840.10008.5.1.4.1.1.200.8",
    "InventoryStorage": "1.2.840.10008.5.1.4.1.1.201.1",
    "RTImageStorage": "1.2.840.10008.5.1.4.1.1.481.1",
    "RTDoseStorage": "1.2.840.10008.5.1.4.1.1.481.2",
    "RTStructureSetStorage": "1.2.840.10008.5.1.4.1.1.481.3",
    "RTBeamsTreatmentRecordStorage": "1.2.840.10008.5.1.4.1.1.481.4",
    "RTPlanStorage": "1.2.840.10008.5.1.4.1.1.481.5",
    "RTBrachyTreatmentRecordStorage": "1.2.840.10008.5.1.4.1.1.481.6",
    "RTTreatmentSummaryRecordStorage": "1.2.840.10008.5.1.4.1.1.481.7",
    "RTIonPlanStorage": "1.2.840.10008.5.1.4.1.1.481.8",
    "RTIonBeamsTreatmentRecordStorage": "1.2.840.10008.5.1.4.1.1.481.9",
    "RTPhysicianIntentStorage": "1.2.840.10008.5.1.4.1.1.481.10",
    "RTSegmentAnnotationStorage": "1.2.840.10008.5.1.4.1.1.481.11",
    "RTRadiationSetStorage": "1.2.840.10008.5.1.4.1.1.481.12",
    "CArmPhotonElectronRadiationStorage": "1.2.840.10008.5.1.4.1.1.481.13",
    "TomotherapeuticRadiationStorage": "1.2.840.10008.5.1.4.1.1.481.14",
    "RoboticArmRadiationStorage": "1.2.840.10008.5.1.4.1.1.481.15",
    "RTRadiationRecordSetStorage": "1.2.840.10008.5.1.4.1.1.481.16",
    "RTRadiationSalvageRecordStorage": "1.2.840.10008.5.1.4.1.1.481.17",
    "TomotherapeuticRadiationRecordStorage": "1.2.840.10008.5.1.4.1.1.481.18",
    "CArmPhotonElectronRadiationRecordStorage": "1.2.840.10008.5.1.4.1.1.481.19",
    "RoboticRadiationRecordStorage": "1.2.840.10008.5.1.4.1.1.481.20",
    "RTRadiationSetDeliveryInstructionStorage": "1.2.840.10008.5.1.4.1.1.481.21",
    "RTTreatmentPreparationStorage": "1.2.840.10008.5.1.4.1.1.481.22",
    "EnhancedRTImageStorage": "1.2.840.10008.5.1.4.1.1.481.23",
    "EnhancedContinuousRTImageStorage": "1.2.840.10008.5.1.4.1.1.481.24",
    "RTPatientPositionAcquisitionInstructionStorage": "1.2.840.10008.5.1.4.1.1.481.25",
    "DICOSCTImageStorage": "1.2.840.10008.5.1.4.1.1.501.1",
    "DICOSDigitalXRayImageStorageForPresentation": "1.2.840.10008.5.1.4.1.1.501.2.1",
    "DICOSDigitalXRayImageStorageForProcessing": "1.2.840.10008.5.1.4.1.1.501.2.2",
    "DICOSThreatDetectionReportStorage": "1.2.840.10008.5.1.4.1.1.501.3",
    "DICOS2DAITStorage": "1.2.840.10008.5.1.4.1.1.501.4",
    "DICOS3DAITStorage": "1.2.840.10008.5.1.4.1.1.501.5",
    "DICOSQuadrupoleResonanceStorage": "1.2.840.10008.5.1.4.1.1.501.6",
    "EddyCurrentImageStorage": "1.2.840.10008.5.1.4.1.1.601.1",
    "EddyCurrentMultiFrameImageStorage": "1.2.840.10008.5.1.4.1.1.601.2",
    "RTBeamsDeliveryInstructionStorageTrial": "1.2.840.10008.5.1.4.34.1",
    "RTBeamsDeliveryInstructionStorage": "1.2.840.10008.5.1.4.34.7",
    "RTBrachyApplicationSetupDeliveryInstructionStorage": "1.2.840.10008.5.1.4.34.10",
    "HangingProtocolStorage": "1.2.840.10008.5.1.4.38.1",
    "ColorPaletteStorage": "1.2.840.10008.5.1.4.39.1",
    "GenericImplantTemplateStorage": "1.2.840.10008.5.1.4.43.1",
    "ImplantAssemblyTemplateStorage": "1.2.840.10008.5.1.4.44.1",
    "ImplantTemplateGroupStorage": "1.2.840.10008.5.1.4.45.1",
}
TRANSFER_SYNTAXES = {
    "ImplicitVRLittleEndian": "1.2.840.10008.1.2",
    "ExplicitVRLittleEndian": "1.2.840.10008.1.2.1",
    "EncapsulatedUncompressedExplicitVRLittleEndian": "1.2.840.10008.1.2.1.98",
    "DeflatedExplicitVRLittleEndian": "1.2.840.10008.1.2.1.99",
    "ExplicitVRBigEndian": "1.2.840.10008.1.2.2",
    "JPEGBaseline8Bit": "1.2.840.10008.1.2.4.50",
    "JPEGExtended12Bit": "1.2.840.10008.1.2.4.51",
    "JPEGExtended35": "1.2.840.10008.1.2.4.52",
    "JPEGSpectralSelectionNonHierarchical68": "1.2.840.10008.1.2.4.53",
    "JPEGSpectralSelectionNonHierarchical79": "1.2.840.10008.1.2.4.54",
    "JPEGFullProgressionNonHierarchical1012": "1.2.840.10008.1.2.4.55",
    "JPEGFullProgressionNonHierarchical1113": "1.2.840.10008.1.2.4.56",
    "JPEGLossless": "1.2.840.10008.1.2.4.57",
    "JPEGLosslessNonHierarchical15": "1.2.840.10008.1.2.4.58",
    "JPEGExtendedHierarchical1618": "1.2.840.10008.1.2.4.59",
    "JPEGExtendedHierarchical1719": "1.2.840.10008.1.2.4.60",
    "JPEGSpectralSelectionHierarchical2022": "1.2.840.10008.1.2.4.61",
    "JPEGSpectralSelectionHierarchical2123": "1.2.840.10008.1.2.4.62",
    "JPEGFullProgressionHierarchical2426": "1.2.840.10008.1.2.4.63",
    "JPEGFullProgressionHierarchical2527": "1.2.840.10008.1.2.4.64",
    "JPEGLosslessHierarchical28": "1.2.840.10008.1.2.4.65",
    "JPEGLosslessHierarchical29": "1.2.840.10008.1.2.4.66",
    "JPEGLosslessSV1": "1.2.840.10008.1.2.4.70",
    "JPEGLSLossless": "1.2.840.10008.1.2.4.80",
    "JPEGLSNearLossless": "1.2.840.10008.1.2.4.81",
    "JPEG2000Lossless": "1.2.840.10008.1.2.4.90",
    "JPEG2000": "1.2.840.10008.1.2.4.91",
    "JPEG2000MCLossless": "1.2.840.10008.1.2.4.92",
    "JPEG2000MC": "1.2.840.10008.1.2.4.93",
    "JPIPReferenced": "1.2.840.10008.1.2.4.94",
    "JPIPReferencedDeflate": "1.2.840.10008.1.2.4.95",
    "MPEG2MPML": "1.2.840.10008.1.2.4.100",
    "MPEG2MPMLF": "1.2.840.10008.1.2.4.100.1",
    "MPEG2MPHL": "1.2.840.10008.1.2.4.101",
    "MPEG2MPHLF": "1.2.840.10008.1.2.4.101.1",
    "MPEG4HP41": "1.2.840.10008.1.2.4.102",
    "MPEG4HP41F": "1.2.840.10008.1.2.4.102.1",
    "MPEG4HP41BD": "1.2.840.10008.1.2.4.103",
    "MPEG4HP41BDF": "1.2.840.10008.1.2.4.103.1",
    "MPEG4HP422D": "1.2.840.10008.1.2.4.104",
    "MPEG4HP422DF": "1.2.840.10008.1.2.4.104.1",
    "MPEG4HP423D": "1.2.840.10008.1.2.4.105",
    "MPEG4HP423DF": "1.2.840.10008.1.2.4.105.1",
    "MPEG4HP42STEREO": "1.2.840.10008.1.2.4.106",
    "MPEG4HP42STEREOF": "1.2.840.10008.1.2.4.106.1",
    "HEVCMP51": "1.2.840.10008.1.2.4.107",
    "HEVCM10P51": "1.2.840.10008.1.2.4.108",
    "HTJ2KLossless": "1.2.840.10008.1.2.4.201",
    "HTJ2KLosslessRPCL": "1.2.840.10008.1.2.4.202",
    "HTJ2K": "1.2.840.10008.1.2.4.203",
    "JPIPHTJ2KReferenced": "1.2.840.10008.1.2.4.204",
    "JPIPHTJ2KReferencedDeflate": "1.2.840.10008.1.2.4.205",
    "RLELossless": "1.2.840.10008.1.2.5",
    "RFC2557MIMEEncapsulation": "1.2.840.10008.1.2.6.1",
    "XMLEncoding": "1.2.840.10008.1.2.6.2",
    "SMPTEST211020UncompressedProgressiveActiveVideo": "1.2.840.10008.1.2.7.1",
    "SMPTEST211020UncompressedInterlacedActiveVideo": "1.2.840.10008.1.2.7.2",
    "SMPTEST211030PCMDigitalAudio": "1.2.840.10008.1.2.7.3",
    "Papyrus3ImplicitVRLittleEndian": "1.2.840.10008.1.20",
}
# fmt: on
KEYWORDS = {uid: keyword for keyword, uid in (SOP_CLASSES | TRANSFER_SYNTAXES).items()}
UID = re.compile(r"[0-9]+(\.[0-9]+)+")


def shown_uid(uid: str) -> str:
    """Return a UID for people: `CTImageStorage (1.2.840.10008.5.1.4.1.1.2)`, or itself where it has no keyword."""
    return f"{KEYWORDS[uid]} ({uid})" if uid in KEYWORDS else uid


def check_names(keywords: Mapping[str, str]) -> Callable[[Sequence[str]], str | None]:
    """Return a `check` of a setting: it refuses an empty list, and what is neither one of these keywords nor a UID."""

    def check(wanted: Sequence[str]) -> str | None:
        for text in wanted:
            name = text.removeprefix("!")
            if name not in keywords and not UID.fullmatch(name):
                near = difflib.get_close_matches(name, keywords, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                return f"a list of DICOM's keywords (as {next(iter(keywords))}) or UIDs, with a ! before them for not{meant}"
        return not_empty(wanted)

    return check


def is_wanted(uid: str, wanted: Sequence[str], keywords: Mapping[str, str]) -> bool:
    """Return whether a UID meets conditions: it is one of those that are named, if any are, and none of those with a `!`."""
    uids = [keywords.get(text, text) for text in wanted if not text.startswith("!")]
    unwanted = [keywords.get(text[1:], text[1:]) for text in wanted if text.startswith("!")]
    return (not uids or uid in uids) and uid not in unwanted


# ---- src/forwarding/modify.py: The key `Modify` of a rule: what is changed in an image on its way to a destination.


# Those that lose nothing: of an image that is compressed with loss, Orthanc makes another one, with a new UID each time. JPEG-LS
# is not among them: of images that don't shrink, Orthanc 1.10.1 and 1.12.7 make damaged ones, or end with signal 11 (measured).
LOSSLESS = (
    *("ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian"),
    *("JPEGLossless", "JPEGLosslessSV1"),
)


def uid_of_syntax(text: str) -> str:
    """Return the UID of a transfer syntax by its keyword, or itself."""
    return TRANSFER_SYNTAXES.get(text, text)


def check_transcode(text: str) -> str | None:
    """Refuse a transfer syntax that loses something, or that is none (a `check`)."""
    known = {uid_of_syntax(keyword) for keyword in LOSSLESS}
    return None if uid_of_syntax(text) in known else f"{', '.join(LOSSLESS)}, or their UIDs"


@dataclasses.dataclass(frozen=True)
class Modify:
    """What is changed in each image on its way; the archive keeps it as it is."""

    replace: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": 'New values of tags, as `{"PatientID": "SITE-{PatientID}"}`; in braces: what the image has.'},
    )
    remove: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": not_empty, "help": "Tags that are taken out, by DICOM's keyword or `gggg,eeee`."}
    )
    transcode: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": check_transcode,
            "allowed": ", ".join(f"`{keyword}`" for keyword in LOSSLESS) + ", or their UIDs",
            "help": "The transfer syntax in which it is sent, one that loses nothing; null: the one it has.",
        },
    )

    def as_json(self) -> dict[str, Any]:
        """Return it as a row keeps it."""
        return {
            "Replace": self.replace,
            "Remove": [*self.remove],
            "Transcode": self.transcode and uid_of_syntax(self.transcode),
        }


# ---- src/forwarding/rules.py: Which destinations get a resource, and when a destination may be sent to: decisions, without Orthanc.


# The tags that `/tools/find` answers at a level besides those of the levels above (Orthanc's main DICOM tags).
# A tag of a lower level would silently match nothing: such a rule is refused.
ANSWERED = {
    "Patient": {"PatientID", "PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs"},
    "Study": {
        *(
            "StudyInstanceUID",
            "StudyDate",
            "StudyTime",
            "StudyID",
            "StudyDescription",
            "AccessionNumber",
            "InstitutionName",
        ),
        *("ReferringPhysicianName", "RequestingPhysician", "RequestedProcedureDescription", "ModalitiesInStudy"),
    },
    "Series": {
        *(
            "SeriesInstanceUID",
            "SeriesDate",
            "SeriesTime",
            "SeriesNumber",
            "SeriesDescription",
            "Modality",
            "Manufacturer",
        ),
        *(
            "StationName",
            "BodyPartExamined",
            "SequenceName",
            "ProtocolName",
            "ImagesInAcquisition",
            "ImageOrientationPatient",
        ),
        *("NumberOfSlices", "NumberOfTemporalPositions", "NumberOfTimeSlots", "CardiacNumberOfImages", "SeriesType"),
        *(
            "PerformedProcedureStepDescription",
            "AcquisitionDeviceProcessingDescription",
            "ContrastBolusAgent",
            "OperatorsName",
        ),
    },
}
LEVELS = ("Patient", "Study", "Series")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
METHODS = ("DicomProtocol", "RestApi", "Plugins", "Lua", "WebDav", "Unknown")


def check_patterns(values: Sequence[str]) -> str | None:
    """Refuse an empty list (a `check`), and an empty text in one, which would match whatever says nothing of itself."""
    if complaint := not_empty(values):
        return complaint
    return None if all(values) else "texts that are not empty (is the environment variable set?)"


def check_alternates(alternates: Mapping[str, Any]) -> str | None:
    """Refuse what names no other destination (a `check`)."""
    for name, names in alternates.items():
        if not (
            isinstance(names, list)
            and names
            and all(isinstance(one, str) and one for one in names)
            and name not in names
        ):
            return 'a list of other destinations for each, as {"PACS": ["PACS-B"]}'
    return None


def clock_time(text: str) -> datetime.time | None:
    """Return the time of `HH:MM`, or None; `24:00` is the end of the day."""
    try:
        return datetime.time.max if text == "24:00" else datetime.datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where instances came from; each list of wildcard patterns (`*`, `?`) that is there must hold the value."""

    remote_aet: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"key": "RemoteAET", "check": check_patterns, "help": "AE titles of the sender (C-STORE)."}
    )
    called_aet: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "CalledAET",
            "check": check_patterns,
            "help": "AE titles under which the sender called Orthanc.",
        },
    )
    remote_ip: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"key": "RemoteIP", "check": check_patterns, "help": "Addresses of the sender."}
    )
    method: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": check_patterns,
            "help": "How it came in: DicomProtocol, RestApi, Plugins, Lua, WebDav, Unknown.",
        },
    )
    user: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": check_patterns, "help": "Names of the user that uploaded it (HTTP)."}
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is sent where."""

    name: str = dataclasses.field(
        default="", metadata={"check": lambda text: None if text else "a name", "help": "Shown in logs and routes."}
    )
    level: str = dataclasses.field(
        default="Study", metadata={"choices": LEVELS, "help": "What is looked at when it is stable, and sent."}
    )
    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None,
        metadata={"help": "Names of destinations; null: all of the section; `[]`: what it matches is sent nowhere."},
    )
    query: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "DICOM matching as in C-FIND, answered by Orthanc: wildcards, ranges, lists."},
    )
    origin: Origin = dataclasses.field(
        default=Origin(), metadata={"help": "Only what came from there (RemoteAET, CalledAET, RemoteIP, Method, User)."}
    )
    sop_classes: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "key": "SOPClasses",
            "check": check_names(SOP_CLASSES),
            "help": "Only instances of these SOP classes (keywords or UIDs); with a `!`: only those of others.",
        },
    )
    transfer_syntaxes: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": check_names(TRANSFER_SYNTAXES),
            "help": "Only instances in these transfer syntaxes (keywords or UIDs); with a `!`: only those in others.",
        },
    )
    matcher: str = dataclasses.field(
        default="",
        metadata={
            "help": (
                "`module.py:function`: a Python function of yours that chooses the destinations, where no `Query` can."
            )
        },
    )
    priority: int = dataclasses.field(default=0, metadata={"help": "Higher is sent first."})


@dataclasses.dataclass(frozen=True)
class ForwardingRule(Rule):
    """What is sent where by a forwarder."""

    alternates: dict[str, list[str]] = dataclasses.field(
        default_factory=dict,
        metadata={
            "check": check_alternates,
            "help": "As `Alternates` of the section, and instead of them, for what it matches.",
        },
    )
    modify: Modify | None = dataclasses.field(
        default=None,
        metadata={"help": "What is changed in each image on its way (DICOM nodes and peers); null: nothing."},
    )

    @property
    def changes(self) -> dict[str, Any] | None:
        """Return what it changes on the way, as a row keeps it; None: nothing."""
        return None if self.modify is None else self.modify.as_json()


@dataclasses.dataclass(frozen=True)
class Window:
    """Hours of a destination, in the server's local time; one that ends before it begins spans midnight."""

    days: tuple[str, ...] = dataclasses.field(
        default=DAYS,
        metadata={
            "check": lambda days: None if days and set(days) <= set(DAYS) else "a list of " + ", ".join(DAYS),
            "help": "Days of the week on which it begins.",
        },
    )
    start: str = dataclasses.field(
        default="00:00",
        metadata={
            "key": "From",
            "check": lambda text: None if clock_time(text) else "a time as HH:MM",
            "help": "When it begins, in the server's local time.",
        },
    )
    end: str = dataclasses.field(
        default="24:00",
        metadata={
            "key": "To",
            "check": lambda text: None if clock_time(text) else "a time as HH:MM",
            "help": "When it ends. A time before `From` is on the next day.",
        },
    )


def is_open(windows: Sequence[Window], now: datetime.datetime) -> bool:
    """Return whether a destination may be sent to now; without windows it always may."""
    return not windows or any(_is_in(window, now) for window in windows)


def _is_in(window: Window, now: datetime.datetime) -> bool:
    start, end = clock_time(window.start), clock_time(window.end)
    assert start is not None and end is not None  # noqa: PT018 - checked when the settings were read
    today, yesterday = DAYS[now.weekday()] in window.days, DAYS[now.weekday() - 1] in window.days
    if start < end:
        return today and start <= now.time() < end
    return (today and now.time() >= start) or (yesterday and now.time() < end)


def wrong_with(rule: Rule, extra_tags: Iterable[str] = ()) -> str | None:
    """Return what a rule can't be, by its key: conditions that its level can't answer; None if all is well."""
    above = LEVELS[: LEVELS.index(rule.level) + 1]
    answered = set().union(*(ANSWERED[level] for level in above))
    below = set().union(*(ANSWERED[level] for level in LEVELS)) - answered
    for tag, wanted in rule.query.items():
        if tag in below or (tag == "ModalitiesInStudy" and rule.level != "Study"):
            return f"Query.{tag}: a {rule.level} can't be asked for it, allowed: {', '.join(sorted(answered | set(extra_tags)))}"
        if complaint := _wrong_with_value(tag, wanted):
            return f"Query.{tag}: {complaint}"
    if wrong := [method for method in rule.origin.method if method not in METHODS]:
        return f"Origin.Method: found {wrong[0]!r}, allowed: {', '.join(METHODS)}"
    path, _, function = rule.matcher.rpartition(":")
    if rule.matcher and not (path.endswith(".py") and function.isidentifier()):
        return f"Matcher: found {rule.matcher!r}, allowed: module.py:function"
    return None


def _wrong_with_value(tag: str, wanted: Any) -> str | None:
    """Return why a condition of a `Query` can't be meant so, and what is allowed; None if it can."""
    if not isinstance(wanted, str):
        return f"found {wanted!r}, allowed: a text (several values by a backslash)"
    # DICOM finds all by what names no value: only a `*` that a person wrote may.
    if wanted != "*" and any(not part.strip(" *-") for part in wanted.split("\\")):
        return (
            f"found {wanted!r}, which everything matches (is the environment variable set?), allowed: a text; "
            "to set no condition, leave the key out"
        )
    if tag == "ModalitiesInStudy" and ("*" in wanted or "?" in wanted):
        return "wildcards are not answered by every Orthanc, allowed: a list as CT\\MR"
    if tag.endswith("Date") and any(part.count("-") > 1 for part in wanted.split("\\")):  # to DICOM a range of nothing
        return f"found {wanted!r}, allowed: a day as 20240131, or a range as 20240101-20240131"
    return None


def has_origin(wanted: Origin, origin: Mapping[str, str], aets: AeTitles = ANY_CASE) -> bool:
    """Return whether one instance's origin (Orthanc's metadata by name) meets the conditions."""
    conditions = (
        (wanted.remote_aet, "RemoteAET", aets.matches_any),
        (wanted.called_aet, "CalledAET", aets.matches_any),
        (wanted.remote_ip, "RemoteIP", matches_any),
        (wanted.method, "Origin", matches_any),
        (wanted.user, "HttpUsername", matches_any),
    )
    return all(matches(origin.get(name, ""), patterns) for patterns, name, matches in conditions if patterns)


def has_kind(rule: Rule, origin: Mapping[str, str]) -> bool:
    """Return whether one instance (Orthanc's metadata by name) has a SOP class and a transfer syntax that a rule takes."""
    return is_wanted(origin.get("SopClassUid", ""), rule.sop_classes, SOP_CLASSES) and is_wanted(
        origin.get("TransferSyntax", ""), rule.transfer_syntaxes, TRANSFER_SYNTAXES
    )


# ---- src/forwarding/archive.py: What this Orthanc has, asked over loopback.


def still_here(loopback: Loopback, resources: Sequence[str]) -> list[str]:
    """Return those of these resources that were not deleted, in their order."""
    here: set[str] = set()
    for start in range(0, len(resources), PAGE):
        body = {"Resources": resources[start : start + PAGE], "Short": True}
        here |= {found["ID"] for found in loopback.post("/tools/bulk-content", body)}
    return [resource for resource in resources if resource in here]


def metadata_of(loopback: Loopback, instances: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Return the metadata of those of these instances that were not deleted."""
    return {
        found["ID"]: found.get("Metadata", {})
        for start in range(0, len(instances), PAGE)
        for found in loopback.post(
            "/tools/bulk-content", {"Resources": instances[start : start + PAGE], "Metadata": True}
        )
    }


def family_of(loopback: Loopback, resource: str) -> set[str]:
    """Return the patients, studies and series that a resource is, belongs to, or holds."""
    found = {resource}
    for level in LEVELS:
        body = {"Resources": [resource], "Level": level, "Short": True, "Metadata": False}
        found |= {each["ID"] for each in loopback.post("/tools/bulk-content", body)}
    return found


# ---- src/forwarding/dicom_header.py: What a DICOM file says at its top level, and whether it is whole: read to its end, without any package.


IMPLICIT, DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
META_LENGTH, META_SYNTAX = 0x00020000, 0x00020010
SPECIFIC_CHARACTER_SET = 0x00080005
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)  # PS3.5 7.1.2
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DEEPEST = 30  # sequences in sequences
# Defined terms of SpecificCharacterSet (PS3.3 C.12.1.1.2) that need no escapes, and Python's names of them.
ENCODINGS = {
    **{"": "ascii", "ISO_IR 6": "ascii", "ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk"},
    **{"ISO_IR 100": "latin_1", "ISO_IR 101": "iso8859_2", "ISO_IR 109": "iso8859_3", "ISO_IR 110": "iso8859_4"},
    **{"ISO_IR 144": "iso8859_5", "ISO_IR 127": "iso8859_6", "ISO_IR 126": "iso8859_7", "ISO_IR 138": "iso8859_8"},
    **{"ISO_IR 148": "iso8859_9", "ISO_IR 203": "iso8859_15", "ISO_IR 166": "iso8859_11"},
}


@dataclasses.dataclass(frozen=True)
class Header:
    """The transfer syntax of a file, and the bytes of those of its elements that were asked for, by tag."""

    syntax: str
    values: dict[int, bytes]

    def text(self, tag: int) -> str | None:
        """Return a value as text, without its padding; None: it is not there. Raises ValueError: it can't be decoded here."""
        if (value := self.values.get(tag)) is None:
            return None
        if value.isascii():
            return value.decode("ascii").strip(" \0")
        charset = self.values.get(SPECIFIC_CHARACTER_SET, b"").decode("ascii", "replace").strip(" \0")
        return value.decode(ENCODINGS.get(charset, "ascii")).strip(" \0")


@dataclasses.dataclass(frozen=True)
class _Encoding:
    order: str  # of the bytes, as `struct` names it
    is_implicit: bool

    def head(self, data: bytes, position: int) -> tuple[int, int, int, bool]:
        """Return tag, start and length of the value of an element, and whether what is in it has implicit VRs."""
        group, element = struct.unpack_from(f"{self.order}HH", data, position)
        tag, position = group << 16 | element, position + 4
        if self.is_implicit or group == 0xFFFE:
            (length,) = struct.unpack_from(f"{self.order}I", data, position)
            return tag, position + 4, length, self.is_implicit
        vr = data[position : position + 2]
        if vr in LONG_VRS:
            (length,) = struct.unpack_from(f"{self.order}I", data, position + 4)
            return tag, position + 8, length, vr == b"UN"
        (length,) = struct.unpack_from(f"{self.order}H", data, position + 2)
        return tag, position + 4, length, False


def read_header(data: bytes, wanted: Collection[int]) -> Header:
    """Return what a Part 10 file says (PS3.10 7.1), with the elements of its top level that are wanted.

    Raises
    ------
    ValueError : it is no such file, or it is cut.
    """
    if data[128:132] != b"DICM":
        raise ValueError("it is no DICOM file")
    try:
        return _read(data, wanted)
    except (struct.error, zlib.error):
        raise ValueError("it is cut, or no DICOM") from None


def _read(data: bytes, wanted: Collection[int]) -> Header:
    explicit = _Encoding("<", is_implicit=False)
    tag, start, length, _ = explicit.head(data, 132)
    if tag != META_LENGTH or length != 4:
        raise ValueError("it has no file meta information")
    begin = start + length + struct.unpack_from("<I", data, start)[0]
    meta = dict[int, bytes]()
    for each, first, last in _elements(data[:begin], 132, explicit):
        meta[each] = data[first:last]
    syntax = meta.get(META_SYNTAX, b"").decode("ascii", "replace").strip(" \0")
    if not syntax:
        raise ValueError("it does not say in which transfer syntax it is")
    encoding = _Encoding(">" if syntax == BIG_ENDIAN else "<", is_implicit=syntax == IMPLICIT)
    if syntax == DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data, begin = inflater.decompress(data[begin:]), 0
        if not inflater.eof:
            raise ValueError("it is cut")
    values = {
        each: data[first:last]
        for each, first, last in _elements(data, begin, encoding)
        if each in wanted or each == SPECIFIC_CHARACTER_SET
    }
    return Header(syntax, values)


def _elements(data: bytes, position: int, encoding: _Encoding) -> Iterator[tuple[int, int, int]]:
    """Yield tag, start and end of each element, up to the end of the data. Raises ValueError, struct.error: they are cut."""
    while position < len(data):
        tag, start, length, is_implicit = encoding.head(data, position)
        position = start + length if length != UNDEFINED else _end_of_sequence(data, start, encoding, is_implicit)
        if position > len(data):
            raise ValueError("it is cut")
        yield tag, start, position


def _end_of_sequence(data: bytes, position: int, outer: _Encoding, is_implicit: bool, depth: int = 0) -> int:
    """Return where a sequence of undefined length, or of fragments, ends, its delimiter included (PS3.5 7.5, A.4)."""
    if depth > DEEPEST:
        raise ValueError("its sequences are nested too deep")
    encoding = _Encoding("<" if is_implicit else outer.order, is_implicit)
    while True:
        tag, position, length, _ = encoding.head(data, position)
        if tag == SEQUENCE_END:
            return position
        if tag != ITEM:
            raise ValueError("one of its sequences holds what is no item")
        position = position + length if length != UNDEFINED else _end_of_item(data, position, encoding, depth)
        if position > len(data):
            raise ValueError("it is cut")


def _end_of_item(data: bytes, position: int, encoding: _Encoding, depth: int) -> int:
    """Return where an item of undefined length ends, its delimiter included."""
    while True:
        tag, position, length, is_implicit = encoding.head(data, position)
        if tag == ITEM_END:
            return position
        if length != UNDEFINED:
            position += length
        else:
            position = _end_of_sequence(data, position, encoding, is_implicit, depth + 1)


# ---- src/forwarding/image_changes.py: Changes on the way (`Modify` of a rule), applied: what is replaced and removed in an image, and in which syntax it is sent.


# Numbers of the SDK (OrthancPluginValueRepresentation). Only text can be replaced.
TEXT_VRS = {
    **{1: "AE", 2: "AS", 4: "CS", 5: "DA", 6: "DS", 7: "DT", 10: "IS", 11: "LO", 12: "LT", 16: "PN", 17: "SH"},
    **{21: "ST", 22: "TM", 27: "UT"},
}
UI = 23
MOST_CHARACTERS = {"AE": 16, "CS": 16, "LO": 64, "PN": 64, "SH": 16}  # of one value (PS3.5 6.2)
PATIENT_ID_TAG = 0x00100020
KEPT_UIDS = {"SOPInstanceUID": 0x00080018, "StudyInstanceUID": 0x0020000D, "SeriesInstanceUID": 0x0020000E}
SOP_CLASS_UID = 0x00080016


class UnchangedError(ValueError):
    """An image can't be changed as a rule says. It is not sent."""


@dataclasses.dataclass(frozen=True)
class Tag:
    """A tag as a person names it, its number, and its VR as the SDK numbers it."""

    name: str
    number: int
    vr: int

    @property
    def text(self) -> str:
        """Return its number as Orthanc writes it: `0010,0020`."""
        return f"{self.number >> 16:04x},{self.number & 0xFFFF:04x}"

    @property
    def is_fixed(self) -> bool:
        """Return whether it may not be changed: what the image is called, how it is written, and what only its vendor knows."""
        group = self.number >> 16
        fixed = {*KEPT_UIDS.values(), SOP_CLASS_UID, SPECIFIC_CHARACTER_SET}
        return self.number in fixed or group % 2 == 1 or group <= 0x0002


def find_tag(name: str) -> Tag | None:
    """Return a tag by DICOM's keyword or its number; None: Orthanc does not know it."""
    try:
        found: Mapping[str, int] = orthanc.LookupDictionary(name)
    except Exception:  # noqa: BLE001 - TypeError or OrthancException, by the version of the plugin
        return None
    return Tag(name, found["Group"] << 16 | found["Element"], found.get("ValueRepresentation", 0))


def parts_of(template: str) -> Iterator[tuple[str, Tag | None]]:
    """Yield the texts of a template, each with the tag whose value comes after it. Raises ValueError: it is none."""
    for text, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            yield text, None
            continue
        tag = find_tag(name)
        if tag is None or form or conversion or tag.vr not in (*TEXT_VRS, UI):
            raise ValueError("in braces the keyword or number of a tag that holds text")
        yield text, tag


def wrong_with_modify(modify: Modify) -> str | None:
    """Return what is wrong with a rule's `Modify` beyond its types, by its key; None if all is well."""
    if not (modify.replace or modify.remove or modify.transcode):
        return "Modify: found nothing in it, allowed: at least one of Replace, Remove, Transcode"
    seen = set[int]()
    for key, names in (("Replace", [*modify.replace]), ("Remove", modify.remove)):
        for name in names:
            tag = find_tag(name)
            if tag is None:
                allowed = "public tags that Orthanc knows, by DICOM's keyword or gggg,eeee"
                return f"Modify.{key}: found {json.dumps(name)}, allowed: {allowed}"
            if tag.is_fixed or (key == "Remove" and tag.number == PATIENT_ID_TAG):
                allowed = "public tags that neither identify an image nor say how it is written"
                return f"Modify.{key}: found {name}, allowed: {allowed}"
            if tag.number in seen:
                return (
                    f"Modify.{key}: found {name}, which is there twice, allowed: each tag once, in Replace or in Remove"
                )
            seen.add(tag.number)
            if key == "Replace" and (complaint := _wrong_with_replacement(tag, modify.replace[name])):
                return f"Modify.Replace.{name}: found {json.dumps(modify.replace[name])}, allowed: {complaint}"
    return None


def _wrong_with_replacement(tag: Tag, value: Any) -> str | None:
    """Return what is allowed for a tag, or None if this is."""
    if tag.vr not in TEXT_VRS:
        return "nothing, this tag holds no text"
    if not isinstance(value, str) or not value.strip():
        return "a text that is not empty (is the environment variable set?); Remove takes a tag out"
    if not value.isprintable() or value.startswith("data:"):
        return "a text of one line"
    try:
        parts = [*parts_of(value)]
    except ValueError as error:
        return (
            f"a text, {error}"
            if "in braces" in str(error)
            else "a text; a brace that means itself is doubled: {{ or }}"
        )
    return _too_long(tag, "".join(text for text, _ in parts))


def _too_long(tag: Tag, value: str) -> str | None:
    most = MOST_CHARACTERS.get(TEXT_VRS[tag.vr])
    parts = value.split("=" if TEXT_VRS[tag.vr] == "PN" else "\\")
    return f"at most {most} characters, as DICOM has it" if most and any(len(part) > most for part in parts) else None


@dataclasses.dataclass(frozen=True)
class Changes:
    """What a row keeps of its rule's `Modify`, ready to be applied."""

    replace: tuple[tuple[Tag, tuple[tuple[str, Tag | None], ...]], ...]
    remove: tuple[Tag, ...]
    transcode: str | None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Changes":
        """Return them by what a row keeps. Raises UnchangedError: Orthanc does not know a tag any more."""

        def tag_of(name: str) -> Tag:
            if (tag := find_tag(name)) is None:
                raise UnchangedError(f"Orthanc does not know the tag {name} of Modify")
            return tag

        try:
            replace = tuple((tag_of(name), tuple(parts_of(value))) for name, value in kept["Replace"].items())
        except ValueError as error:
            raise UnchangedError(str(error)) from error
        return cls(replace, tuple(map(tag_of, kept["Remove"])), kept["Transcode"])

    def values(self, tags: Mapping[str, Any]) -> dict[Tag, str]:
        """Return the new values for an image, whose own are given by number. Raises UnchangedError."""
        found = {}
        for tag, parts in self.replace:
            value = ""
            for text, source in parts:
                value += text
                if source:
                    value += self._value_of(tags, source, tag)
            if complaint := _too_long(tag, value):
                raise UnchangedError(f"{tag.name} would become too long: {complaint}")
            found[tag] = value
        return found

    def _value_of(self, tags: Mapping[str, Any], source: Tag, tag: Tag) -> str:
        value = tags.get(source.text)
        if not isinstance(value, str) or not value.strip(" \0"):
            raise UnchangedError(f"the image has no {source.name}, of which {tag.name} is to be made")
        return value.strip(" \0")

    def apply(self, loopback: Loopback, instance: str) -> bytes:
        """Return the changed file of an instance.

        Raises
        ------
        UnchangedError : it can't be changed, or is not what was asked for.
        LoopbackError : Orthanc refuses it, or does not answer.
        """
        tags = loopback.get(f"/instances/{instance}/tags?short")
        values = self.values(tags)
        body = {
            "Replace": {tag.text: value for tag, value in values.items()},
            "Remove": [tag.text for tag in self.remove],
            "Keep": [*KEPT_UIDS],
            "Force": True,  # Orthanc asks for it where UIDs are kept
            **({"Transcode": self.transcode} if self.transcode else {}),
        }
        _, content = loopback.request_raw("POST", f"/instances/{instance}/modify", body)
        self._check(content, tags, values)
        return content

    def _check(self, content: bytes, tags: Mapping[str, Any], values: Mapping[Tag, str]) -> None:
        """Raise UnchangedError unless a file is what was asked for."""
        wanted = {*KEPT_UIDS.values(), *(tag.number for tag in (*values, *self.remove))}
        try:
            header = read_header(content, wanted)
            for name, number in KEPT_UIDS.items():
                if header.text(number) != str(tags.get(Tag(name, number, UI).text)).strip(" \0"):
                    raise UnchangedError(f"Orthanc has changed its {name}")
            for tag, value in values.items():
                if header.text(tag.number) != value.strip(" \0"):
                    raise UnchangedError(f"Orthanc has not made its {tag.name} what was asked for")
        except UnicodeDecodeError:
            raise UnchangedError(
                "its character set can't be read here, so what Orthanc made of it can't be checked"
            ) from None
        except UnchangedError:
            raise
        except ValueError as error:
            raise UnchangedError(f"what Orthanc made of it can't be read: {error}") from None
        if left := [tag.name for tag in self.remove if tag.number in header.values]:
            raise UnchangedError(f"Orthanc has not removed its {left[0]}")
        if self.transcode and header.syntax != self.transcode:
            raise UnchangedError(f"Orthanc has made {header.syntax} of it instead of {self.transcode}")


# ---- src/forwarding/settings.py: The settings of the forwarders, and what can be wrong with them beyond their types.


# Keys of a store call that the script sets itself.
RESERVED_STORE_OPTIONS = ("Resources", "Synchronous", "Asynchronous", "Permissive")
# Before this version Orthanc ignores them without a word; all others are older than 1.10.1.
STORE_OPTIONS_FROM = {"CalledAet": (1, 11, 3), "Host": (1, 11, 3), "Port": (1, 11, 3)}
# True in the `all.py` of a release: who takes all scripts has not said that anything is to be sent.
NEEDS_SECTION = False


@dataclasses.dataclass(frozen=True)
class SendOptions:
    """What is particular to one destination."""

    max_jobs: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "help": "Jobs at a time for this destination; null: `MaxPerDestination`."}
    )
    windows: tuple[Window, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": not_empty,
            "help": (
                'Times in which it may be sent to: `{"Days": ["Mon"], "From": "22:00", "To": "06:00"}`; without '
                "the key: always."
            ),
        },
    )
    options: dict[str, Any] = dataclasses.field(default_factory=dict, metadata={"help": "Of Orthanc's store call."})

    @property
    def is_verified(self) -> bool:
        """Return whether the destination is asked what it has of what it took."""
        return False


@dataclasses.dataclass(frozen=True)
class ForwardingSettings:
    """What the sections of all forwarders have."""

    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None, metadata={"help": "Names of destinations; null: all that Orthanc knows, also later; `[]`: none."}
    )
    rules: tuple[ForwardingRule, ...] | None = dataclasses.field(
        default=None, metadata={"help": "What is sent where; null: all studies to all; `[]`: nothing by itself."}
    )
    rule_mode: str = dataclasses.field(
        default="first",
        metadata={
            "choices": ("first", "all"),
            "help": "`first`: the first rule that matches decides. `all`: each rule that matches adds its destinations.",
        },
    )
    trigger: str = dataclasses.field(
        default="Stable",
        metadata={
            "choices": ("Stable", "Stored"),
            "help": (
                "`Stable`: sent when nothing more has come for `StableAge`. `Stored`: sent in batches while it "
                "arrives, so it is there sooner."
            ),
        },
    )
    skip_modified: bool = dataclasses.field(
        default=False, metadata={"help": "Leave out instances that Orthanc made by modification or anonymization."}
    )
    delete_after_forward: bool = dataclasses.field(
        default=False, metadata={"help": "Delete here what every destination has proved to have."}
    )
    protect_undelivered: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "Protect patients against recycling (`MaximumStorageSize`, `MaximumPatientCount`) while something of "
            "theirs waits or is sent."
        },
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "For how long what failed is sent again."})
    max_per_destination: int | None = dataclasses.field(
        default=None,
        metadata={
            "minimum": 1,
            "help": (
                "Jobs at a time for one destination, and so associations: fewer for a node that takes few at once. null: "
                "its share of `ConcurrentJobs`."
            ),
        },
    )
    destination_options: Mapping[str, SendOptions] = dataclasses.field(
        default_factory=dict, metadata={"help": "Settings of single destinations, by name (below)."}
    )
    alternates: dict[str, list[str]] = dataclasses.field(
        default_factory=dict,
        metadata={
            "check": check_alternates,
            "help": (
                "Where what waits for a destination goes when that does not answer any more: the first of a list that "
                'answers. `{"PACS": ["PACS-B", "ARCHIVE"]}`.'
            ),
        },
    )
    alternates_after_minutes: float = dataclasses.field(
        default=15,
        metadata={
            "minimum": 0,
            "help": "For how long a destination must have been silent until its `Alternates` are used.",
        },
    )
    reconcile: bool = reconcile_field("each of several Orthancs on one database without `Scripts.Database`")
    durability: str = durability_field()
    state_path: str | None = state_path_field()
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that finished deliveries stay in the list."}
    )


def section_of(name: str) -> str:
    """Return the section of a script, from its name with dashes."""
    return "".join(map(str.capitalize, name.split("-")))


def may_overwrite(configuration: Mapping[str, Any]) -> bool:
    """Return whether the same instance can come again with another content."""
    return configuration.get("OverwriteInstances", False) not in (False, "Never")


def may_repeat(configuration: Mapping[str, Any]) -> bool:
    """Return whether the same instance can come again with the content that it has."""
    return may_overwrite(configuration) and configuration["OverwriteInstances"] != "IfChanged"


def wrong_with_settings(
    settings: ForwardingSettings,
    configuration: Mapping[str, Any],
    store_options: Sequence[str],
    *,
    can_modify: bool = True,
) -> str | None:
    """Return what is wrong with the settings beyond their types, by its key; `store_options` are those that Orthanc knows.

    `can_modify`: images can be changed on this way.
    """
    extra = [tag for tags in configuration.get("ExtraMainDicomTags", {}).values() for tag in tags]
    for number, rule in enumerate(settings.rules or ()):
        if complaint := wrong_with(rule, extra):
            return f"Rules[{number}].{complaint}"
        if complaint := _wrong_with_changes(rule, settings, can_modify=can_modify):
            return f"Rules[{number}].{complaint}"
    if settings.delete_after_forward and may_overwrite(configuration):
        return (
            'DeleteAfterForward: found true, allowed is false where "OverwriteInstances" is on: a new image of the '
            "same identifier could be deleted because an older one was proved"
        )
    for name, options in settings.destination_options.items():
        if reserved := [key for key in options.options if key in RESERVED_STORE_OPTIONS]:
            why = (
                "with it Orthanc calls a job to a dead port a success"
                if reserved == ["Permissive"]
                else "it is the script's"
            )
            return f"DestinationOptions.{name}.Options: found {reserved[0]}, which is not allowed: {why}"
        elsewhere = [key for key in STORE_OPTIONS_FROM if key in options.options]
        if elsewhere and settings.delete_after_forward:
            return (
                f"DestinationOptions.{one_line(name)}.Options: found {', '.join(elsewhere)}, which is not allowed with "
                "DeleteAfterForward: the images go there, and the proof is asked of the destination as Orthanc knows it"
            )
        # Orthanc itself ignores what it does not know.
        path = f"DestinationOptions.{one_line(name)}.Options"
        if complaint := wrong_keys(path, options.options, store_options) or _ignored_options(path, options.options):
            return complaint
    return None


def _wrong_with_changes(rule: ForwardingRule, settings: ForwardingSettings, *, can_modify: bool) -> str | None:
    """Return what is wrong with what a rule changes on the way, by its key."""
    if rule.modify is None:
        return None
    if not can_modify:
        return "Modify: found an object, allowed: null (on the way to DICOMweb servers nothing can be changed)"
    if settings.delete_after_forward:
        return (
            "Modify: found an object, allowed with DeleteAfterForward: null (what no destination has as it is here is not to be "
            "deleted here)"
        )
    for name, options in settings.destination_options.items():
        if options.options and may_get_changed(rule, name, settings):
            return (
                f"Modify: found an object, allowed: a rule for other destinations than {one_line(name)}, as Orthanc has no "
                "Options for images that are sent alone (a node or peer can have a second name)"
            )
    return wrong_with_modify(rule.modify)


def may_get_changed(rule: ForwardingRule, destination: str, settings: ForwardingSettings) -> bool:
    """Return whether a destination may get something by a rule that changes it."""
    listed = settings.destinations if rule.destinations is None else rule.destinations
    if rule.modify is None:
        return False
    if rule.matcher or listed is None or destination in listed:
        return True
    alternates = settings.alternates | rule.alternates
    return any(destination in alternates.get(name, ()) for name in listed)


def store_options_help(options: Sequence[str]) -> str:
    """Return the names of the options of a store call for a table, those that not every Orthanc has with their version."""
    return ", ".join(f"`{each}`{_since(each)}" for each in options)


def _ignored_options(path: str, options: Mapping[str, Any]) -> str | None:
    """Return what is wrong with options that this Orthanc does not know yet: it would send to where they don't say."""
    ignored = [
        f"{key}{_since(key)}"
        for key, version in STORE_OPTIONS_FROM.items()
        if key in options and not orthanc.CheckVersionAdvanced(*version)
    ]
    return f"{path}: found {', '.join(ignored)}, which this Orthanc ignores" if ignored else None


def _since(option: str) -> str:
    version = STORE_OPTIONS_FROM.get(option)
    return f" (from Orthanc {'.'.join(map(str, version))})" if version else ""


# ---- src/forwarding/transports.py: What differs between the ways to send: to DICOM nodes, to peers, and to DICOMweb servers.


# Of a destination, and instances as `/tools/bulk-content` gives them, by identifier: which of them it has now; None: not
# known yet. What was asked may be noted in the dictionary. Raises ValueError, OSError or LoopbackError where it can't know.
Prove = Callable[[str, Mapping[str, Mapping[str, Any]], dict[str, Any]], set[str] | None]
# Of a destination, identifiers of instances, and of series and studies that are wholly among them: which instances it has.
# Raises anything where it can't know.
Has = Callable[[str, Collection[str], Collection[str]], set[str]]


@dataclasses.dataclass(frozen=True)
class Transport:
    """What differs between DICOM nodes, peers and DICOMweb servers."""

    route: str
    """Orthanc's: "modalities", "peers", or the one of the DICOMweb plugin."""
    changed: str | None
    """The name of the event that says that they changed; None: no event does, and they are asked for now and then."""
    job_type: str
    is_for: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    """Return whether a job's content names this destination."""
    came_from: Callable[[Mapping[str, str], Mapping[str, Any]], bool]
    """Return whether an instance came from this destination."""
    probe: Callable[[Loopback, str], Any]
    """Raise unless the destination answers."""
    prove: Callable[[Loopback, str, Mapping[str, Mapping[str, Any]], dict[str, Any]], set[str] | None]
    """Return which instances a destination has, as `Prove`."""
    check: Callable[[str], None] | None = None
    """Raise MisconfiguredError if what answers there is something else."""
    has: Has | None = None
    """For the option Verify: return which instances it has."""
    if_delayed: str = ""
    """What is said of a destination whose answers TCP delays (`Pace`); empty: that is not looked at."""
    asks_after_failure: bool = False
    """A job that failed does not say what has arrived all the same: `has` does."""
    verb: str = "store"
    """Of Orthanc's call that submits a job: `/{route}/{name}/{verb}`."""
    largest_request: int | None = None
    """Bytes of instances in one job, unless one alone has more; None: any number."""
    deliver: Callable[[Loopback, str, bytes], Any] | None = None
    """Send one image, given as its file, to a destination: what is changed on the way. Raise LoopbackError, OSError or ValueError
    unless it has it. None: nothing can be changed on the way."""
    missing: Callable[[Loopback], str | None] | None = None
    """Return why nothing can be sent in this way from here at all, or None."""


# ---- src/forwarding/context.py: What all parts of one forwarder share.


@dataclasses.dataclass(frozen=True)
class Context:
    """What all parts of one forwarder share.

    Attributes
    ----------
    name : of the script, with dashes: of its routes, and in the log.
    configuration : Orthanc's.
    wake : wakes the forwarder's thread for another turn.
    stopping : the thread is to end.
    trouble : what went wrong last, for the status.
    """

    name: str
    transport: Transport
    settings: ForwardingSettings
    configuration: Mapping[str, Any]
    rules: tuple[ForwardingRule, ...]
    loopback: Loopback
    ledger: Ledger
    wake: threading.Event
    stopping: threading.Event
    trouble: Trouble


# ---- src/common/undelivered.py: Studies with which another script of this Orthanc is not done: they stay.


SCRIPTS_THAT_OWE = (
    "auto-forward-modality", "auto-forward-peer", "auto-forward-dicomweb", "anonymize-series", "auto-retries",
)  # fmt: skip
# After a start of Orthanc: how long they get, and between two questions.
SCRIPTS_ANSWER_WITHIN_SECONDS, ASK_SCRIPTS_AGAIN_SECONDS = 60.0, 2.0
NO_STUDY = "00000000-00000000-00000000-00000000-00000000"


class Undelivered:
    """Asks the scripts that send studies which of some they still have to send.

    One that is not there owes nothing. One that is there and can't answer may owe all.

    Parameters
    ----------
    scripts : who is asked, with dashes; `()`: nobody.
    """

    def __init__(self, loopback: Loopback, scripts: Collection[str] = SCRIPTS_THAT_OWE) -> None:
        self._loopback, self._scripts = loopback, tuple(scripts)
        self._unavailable = set[str]()  # that could not say twice, and are not waited for until they can

    def why_kept(self, patients: Mapping[str, str]) -> dict[str, str]:
        """Return why some of these studies stay, by their identifiers.

        Parameters
        ----------
        patients : the patient of each study, by Orthanc's identifiers.

        Raises
        ------
        LoopbackError : Orthanc does not answer.
        """
        reasons: dict[str, str] = {}
        if resources := sorted({*patients, *patients.values()}):
            for script in self._scripts:
                owed, why = self._ask(script, resources, patiently=True)
                for study, patient in patients.items():
                    if owed is None or not owed.isdisjoint((study, patient)):
                        reasons.setdefault(study, why)
        return reasons

    def wait_for_answers(self, stopping: threading.Event) -> None:
        """Wait a minute at most, until each script that is there answers: after a start of Orthanc they begin, too."""
        for _ in range(int(SCRIPTS_ANSWER_WITHIN_SECONDS / ASK_SCRIPTS_AGAIN_SECONDS)):
            if self._all_answer() or stopping.wait(ASK_SCRIPTS_AGAIN_SECONDS):
                return

    def _all_answer(self) -> bool:
        try:
            return all(self._ask(script, [NO_STUDY])[0] is not None for script in self._scripts)
        except LoopbackError:
            return False

    def _ask(self, script: str, resources: list[str], *, patiently: bool = False) -> tuple[set[str] | None, str]:
        """Return which of these a script owes (None: it can't say), and what that is called.

        `patiently`: it is asked once more where it can't say just now.
        """
        name = script.replace("-", "_")
        try:
            answer = self._loopback.post(f"/{script}/owed", {"Resources": resources})
            self._unavailable.discard(script)
            return set(answer["Owed"]), f"{name} has not delivered it"
        except LoopbackError as error:
            if error.status == 0:
                raise
            if error.status == http.HTTPStatus.NOT_FOUND and name not in self._loaded():
                # Scripts are loaded before Orthanc answers anybody.
                self._scripts = tuple(each for each in self._scripts if each != script)
                return set(), ""
            if error.status == http.HTTPStatus.SERVICE_UNAVAILABLE and patiently and script not in self._unavailable:
                self._unavailable.add(script)
                time.sleep(ASK_SCRIPTS_AGAIN_SECONDS)
                return self._ask(script, resources)
            return None, f"{name} can't say whether it has delivered it: {one_line(error)}"

    def _loaded(self) -> set[str]:
        """Return the names of the scripts that are there: one that failed to load, or is older, has no such route."""
        return {str(each["Name"]) for each in self._loopback.get("/scripts")}


def in_words(number: int, reason: str) -> str:
    """Return how many studies stay, and why, as `3 studies stay: auto_forward_peer is not done with it`."""
    return f"{number} {'study stays' if number == 1 else 'studies stay'}: {reason}"


# ---- src/forwarding/others.py: What other scripts of this Orthanc are not done with: a forwarder deletes nothing of it.


class OtherScripts:
    """Asks the other scripts that send studies which of some they still have to send.

    Parameters
    ----------
    name : of the script that asks, with dashes.
    content : gives what a resource has, or belongs to, at a level.
    """

    def __init__(
        self, name: str, loopback: Loopback, content: Callable[[str, str], Mapping[str, Mapping[str, Any]]]
    ) -> None:
        self._undelivered = Undelivered(loopback, [each for each in SCRIPTS_THAT_OWE if each != name])
        self._content = content

    def owed_of(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Return the studies of rows that are owed, and why: one question, as there may be thousands.

        Whose they are is not known here: `why_owed` asks for patients too.
        """
        studies = [row["subject"] for row in rows if json.loads(row["data"])["Level"] == "Study"]
        return self._undelivered.why_kept(dict(zip(studies, studies, strict=True)))

    def why_owed(self, resource: str) -> str:
        """Return why something of a resource is owed; "" if nothing is."""
        studies = self._content(resource, "Study")
        reasons = self._undelivered.why_kept({study: str(found["ParentPatient"]) for study, found in studies.items()})
        return next(iter(reasons.values()), "")


# ---- src/forwarding/tasks.py: What is to be done with a row of a forwarder's ledger, and how a row is named in the log.


# Tasks beside SEND, whose rows have the name of their destination as queue. These are for no one destination.
ROUTE = "route"  # what no rule has been applied to yet
DELETE = "delete"  # what is to be deleted here when every destination has proved to have it
NO_DESTINATION = ""
BACKFILL_PRIORITY = -1  # of what a person asks for: what arrives is sent first
# Of a ledger whose rows had no task, but a queue that no destination was called. The data say what is none of ours.
FIRST_TASKS = f"""
UPDATE work SET task='{ROUTE}' WHERE queue='' AND json_type(data, '$.Instances')='object';
UPDATE work SET task='{DELETE}', queue='{NO_DESTINATION}'
WHERE queue='/delete' AND json_type(data, '$.Destinations')='array';
"""


def is_changed(row: Mapping[str, Any]) -> bool:
    """Return whether the images of a row are changed on the way (`Modify` of its rule)."""
    return "Modify" in json.loads(row["data"])


def name_of(row: Mapping[str, Any]) -> str:
    """Return a row's level and resource, for the log."""
    data = json.loads(row["data"])
    if data["Level"] == "Instance" and len(data["Instances"] or ()) > 1:
        return f"{len(data['Instances'])} instances of {data['OfLevel'].lower()} {data['Of']}"
    return f"{data['Level'].lower()} {row['subject']}"


# ---- src/forwarding/proofs.py: Whether destinations have proved to have what is to be deleted here.


Content = Mapping[str, Mapping[str, Any]]  # instances as `/tools/bulk-content` gives them, by identifier


class Proofs:
    """Asks destinations for proofs.

    Parameters
    ----------
    prove : asks one destination.
    content : gives what a resource has at a level.
    """

    def __init__(self, prove: Prove, work: Work, content: Callable[[str, str], Content]) -> None:
        self._prove, self._work, self._content = prove, work, content

    def all_have(self, data: dict[str, Any], instances: Content) -> bool:
        """Return whether each destination, or what it went to instead, has proved to have each; False: it is not known yet."""
        pending = False
        for destination in data["Destinations"]:
            missing = self._missing_at(destination, data, instances)
            pending = pending or missing is None
            if missing:
                raise ValueError(f"{destination} has not proved to have {len(missing)} of {len(instances)} instances")
        return not pending

    def _missing_at(self, destination: str, data: dict[str, Any], instances: Content) -> Content | None:
        """Return the instances that neither a destination nor what it went to instead has proved to have; None: not known yet."""
        missing, asked = instances, data.setdefault("Asked", {})
        for name in (*data.get("Instead", {}).get(destination, ()), destination):
            if missing:
                proved = self._prove(name, missing, asked)
                if proved is None:
                    return None
                missing = {key: one for key, one in missing.items() if key not in proved}
        return missing

    def others_have(self, row: Mapping[str, Any], data: dict[str, Any], family: list[str], instances: Content) -> bool:
        """Return whether what rules of other levels have sent of it is proved, too; False: it is not known yet."""
        pending = False
        for other in self._work.find(Which(task=DELETE, resources=family, states=("waiting", "dead"))):
            if other["id"] != row["id"]:
                asked = data.setdefault("AskedOf", {}).setdefault(other["subject"], {})
                part = self._content(other["subject"], "Instance").keys() & instances.keys()
                about = {**json.loads(other["data"]), "Asked": asked}
                pending = not self.all_have(about, {one: instances[one] for one in part}) or pending
        return not pending


# ---- src/forwarding/deletion.py: DeleteAfterForward: what was forwarded is deleted here, once every destination has proved to have every instance.


PROVE_AGAIN_SECONDS = 2.0  # between looks at a proof under way
BLOCKED_SECONDS = 20.0  # until the next look at what is not delivered yet, if no delivery of ours ends before
INSTANCES_PER_DELETION = 100  # a request: others want Orthanc too


class Deleter:
    """Rows of the ledger with a task of their own, and one thread that asks for proofs, which may take long.

    Only instances that were proved are deleted, one by one, never a study with what came meanwhile. Nothing is deleted while
    any of it still arrives, is routed, waits, is sent, or was given up for some destination, by a rule of any level or by
    another script.

    Parameters
    ----------
    is_by_scripts : returns whether a forwarder protects a patient, not a person.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        loopback: Loopback,
        prove: Prove,
        retry: Retry,
        trouble: Trouble,
        is_by_scripts: Callable[[str], bool] = lambda _patient: False,
    ) -> None:
        self._name, self._ledger, self._work, self._loopback = name, ledger, Work(ledger), loopback
        self._retry, self._trouble, self._is_by_scripts = retry, trouble, is_by_scripts
        self._others = OtherScripts(name, loopback, self._content)
        self._proofs = Proofs(prove, self._work, self._content)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name} deletes", daemon=True)
        self._thread.start()

    def note(self, level: str, resource: str, destinations: Iterable[str]) -> None:
        """Note that it is sent to these: inside the transaction that adds the rows for them."""
        kept = self._work.find(Which(task=DELETE, resource=resource, states=("waiting", "dead")))
        before = json.loads(kept[0]["data"]) if kept else {}
        names = sorted({*destinations, *before.get("Destinations", ())})
        data = {"Level": level, "Instances": None, "Destinations": names}
        data |= {"Instead": before["Instead"]} if "Instead" in before else {}
        if not kept:
            self._ledger.add(NO_DESTINATION, resource, data, task=DELETE)
            return
        with self._ledger.transaction():
            self._work.change(kept[0]["id"], data=data)
            self._work.retry(Which(ids=[kept[0]["id"]]))

    def note_instead(self, resource: str, destination: str, alternate: str) -> None:
        """Note that some of it goes to an alternate: inside the transaction that moves its row. Either may prove to have it."""
        for row in self._work.find(Which(task=DELETE, resource=resource, states=("waiting", "dead"))):
            data = json.loads(row["data"])
            instead = data.setdefault("Instead", {}).setdefault(destination, [])
            if alternate not in instead:
                instead.append(alternate)
                self._work.change(row["id"], data=data)

    def delivered(self, resource: str) -> None:
        """Look at it now: a delivery of it has ended, or all that arrived of it has been routed."""
        if self._work.make_due(Which(task=DELETE, resource=resource, tried=False)):
            self._wake.set()

    def stop(self, seconds: float) -> bool:
        """End; return whether it has ended within this time."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _run(self) -> None:
        trouble = Trouble(f"{self._name} (deletion)")
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                longest = max(self._retry.longest, BLOCKED_SECONDS)
                rows = self._ledger.due(NO_DESTINATION, PAGE, longest, DELETE)
                owed = self._others.owed_of(rows)
                for row in rows:
                    if self._stopping.is_set():
                        break
                    if why := owed.get(row["subject"]):
                        self._later(row, json.loads(row["data"]), BLOCKED_SECONDS, why)
                    else:
                        self._look_unless_refused(row)
                if not self._stopping.is_set():
                    trouble.is_over()
                wait = 1.0
            except Exception as error:  # noqa: BLE001 - nothing is deleted, and looked at again
                expected = isinstance(error, (LoopbackError, sqlite3.Error, OSError))
                why = one_line(error) if expected else "an error, please report it"
                text = f"{self._name} deletes nothing now: {why}"
                if not self._stopping.is_set():
                    trouble.begins(text if expected else f"{text}:\n{traceback.format_exc()}", why)
                wait = 5.0
            self._wake.wait(wait)

    def _look_unless_refused(self, row: Mapping[str, Any]) -> None:
        """Look at a row; one of which something can't be asked now holds up no other."""
        try:
            self._look_at(row)
        except LoopbackError as error:
            if error.status == 0:
                raise
            self._later(row, json.loads(row["data"]), BLOCKED_SECONDS, one_line(error))

    def _look_at(self, row: Mapping[str, Any]) -> None:
        data, resource = json.loads(row["data"]), row["subject"]
        if self._is_unfinished([resource]):  # without a question to Orthanc: there may be thousands
            self._later(row, data, BLOCKED_SECONDS)
            return
        instances = self._content(resource, "Instance")
        if not instances:
            self._end(row, "gone")
        elif self._is_under_way(family := self._family(resource, instances), instances):
            self._later(row, data, BLOCKED_SECONDS)
        elif protected := [patient for patient in self._content(resource, "Patient") if self._is_protected(patient)]:
            if any(map(self._is_by_scripts, protected)):
                self._later(row, data, BLOCKED_SECONDS)  # until something else of it is delivered
                return
            self._end(row, "done")
            orthanc.LogWarning(f"{self._name}: {data['Level'].lower()} {resource} stays, its patient is protected")
        elif why := self._others.why_owed(resource):
            self._later(row, data, BLOCKED_SECONDS, why)
        else:
            try:
                if self._proofs.all_have(data, instances) and self._proofs.others_have(row, data, family, instances):
                    self._delete(row, data, list(instances), family)
                else:
                    self._later(row, data, PROVE_AGAIN_SECONDS)
            except (LoopbackError, ValueError, OSError, http.client.HTTPException) as error:
                if isinstance(error, LoopbackError) and error.status == 0:
                    raise
                self._fail(row, data, str(error))

    def _content(self, resource: str, level: str) -> dict[str, Mapping[str, Any]]:
        body = {"Resources": [resource], "Level": level, "Metadata": level == "Instance"}
        return {found["ID"]: found for found in self._loopback.post("/tools/bulk-content", body)}

    def _is_protected(self, patient: str) -> bool:
        return bool(int(self._loopback.get(f"/patients/{patient}/protected")))

    def _family(self, resource: str, instances: Iterable[str]) -> list[str]:
        """Return what any of it belongs to, of whatever level, with itself."""
        return sorted({resource, *instances, *(key for level in LEVELS for key in self._content(resource, level))})

    def _is_under_way(self, family: list[str], instances: Iterable[str]) -> bool:
        """Return whether a rule, or a person, has still to do with any of it."""
        return self._is_unfinished(family) or is_arriving(self._ledger, self._loopback, instances)

    def _is_unfinished(self, resources: list[str]) -> bool:
        states = ("waiting", "sending", "dead")
        return self._work.has(Which(resources=resources, not_task=DELETE, states=states))

    def _delete(self, row: Mapping[str, Any], data: Mapping[str, Any], instances: list[str], family: list[str]) -> None:
        for start in range(0, len(instances), INSTANCES_PER_DELETION):
            some = instances[start : start + INSTANCES_PER_DELETION]
            # Proofs take their time: meanwhile a person may have sent it, or a rule, here or by another script.
            is_needed = self._is_under_way(family, some) or self._others.why_owed(row["subject"])
            if self._stopping.is_set() or is_needed:
                self._later(row, data, PROVE_AGAIN_SECONDS)  # what is left is proved again
                return
            # What can't be recorded, since the disk is full or the ledger was taken away, is not done.
            self._work.touch(row["id"])
            self._loopback.post("/tools/bulk-delete", {"Resources": some})
        self._end(row, "done")
        what = f"{data['Level'].lower()} {row['subject']}, {len(instances)} instances"
        orthanc.LogWarning(f"{self._name}: deleted {what}, which {', '.join(data['Destinations'])} proved to have")

    def _end(self, row: Mapping[str, Any], state: str) -> None:
        """End a row, unless it has been noted again meanwhile (`created` says so where the data are the same)."""
        with self._ledger.transaction():
            now = self._work.get(row["id"])
            if now and (now["data"], now["created"]) == (row["data"], row["created"]):
                self._ledger.end(row["id"], state)

    def _later(self, row: Mapping[str, Any], data: Mapping[str, Any], seconds: float, why: str = "") -> None:
        """Put a row off, which says why; what a destination said last stays there."""
        error = why or (row["error"] if row["attempts"] else "")
        with self._ledger.transaction():
            if self._work.replace_data(row, data):  # else it has been noted again meanwhile
                self._work.change(row["id"], next_attempt=time.time() + seconds, error=error)

    def _fail(self, row: Mapping[str, Any], data: dict[str, Any], error: str) -> None:
        with self._ledger.transaction():
            kept = {key: value for key, value in data.items() if key not in ("Asked", "AskedOf")}
            if not self._work.replace_data(row, kept):
                return  # noted again meanwhile, or dropped
            self._work.add_attempt(row["id"])
            state = self._ledger.fail(row["id"], one_line(error), self._retry)
        text = f"{self._name}: {data['Level'].lower()} {row['subject']} stays here: {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            again = f"POST /{self._name}/deliveries/{row['id']}/retry asks again"
            orthanc.LogError(f"{text}. Given up after {self._retry.give_up_hours:g} hours; {again}")
        elif row["attempts"] == 0:
            orthanc.LogWarning(f"{text}. It will be asked again")


# ---- src/forwarding/misconfigured.py: The error of a destination that is not what it should be.


class MisconfiguredError(Exception):
    """What answers is not what it should be: nothing may be sent there until somebody has corrected it."""


# ---- src/forwarding/identity.py: Whether what answers at a destination is what it should be: what takes everything and keeps nothing looks well otherwise.


CHECK_SECONDS = 60.0  # between two checks, while it is sent to
CHECK_WRONG_SECONDS = 10.0  # between two checks, while it is not what it should be
CHECK_COUNTS_SECONDS = 2 * CHECK_SECONDS  # after which a check says nothing any more
KEPT_UNTIL_CHECKED_DAYS = (
    1 / 24
)  # at least, so that what was delivered can be sent again if the next check finds it wrong


class Identity:
    """What is known of one destination. `wrong` says why nothing may be sent there, `silent` why it could not be asked.

    It is checked before anything is sent, every minute while something is, and once more after that. The check runs in a
    thread of its own and wakes the worker. Without a `check` it is always right.
    """

    def __init__(self, name: str, check: Callable[[str], None] | None, wake: threading.Event) -> None:
        self.wrong = self.silent = ""
        self.right_at = 0.0  # Unix time at which the last check that found it right began
        self._name, self._check, self._wake = name, check, wake
        self._thread = threading.Thread()
        self._counts_until = self._next = self._doubted = 0.0  # monotonic
        self._pauses = Pauses(1.0, CHECK_SECONDS)  # while it can't be asked
        self._used = False  # since the last check began

    def is_right(self) -> bool:
        """Return whether a check of late has found it right; start one if that is due."""
        if self._check is None:
            return True
        self._start_if_due()
        return not self.wrong and time.monotonic() < self._counts_until

    def used(self) -> None:
        """Say that something has arrived there, which another check has to confirm."""
        self._used = True

    def doubt(self) -> None:
        """Forget what is known: its settings have changed, or it has failed."""
        self._doubted = time.monotonic()
        self._counts_until = self._next = 0.0
        self.silent = ""

    def look(self) -> None:
        """Start a check, if one is due and there is a reason for it."""
        if self._used or self.wrong:
            self._start_if_due()

    def _start_if_due(self) -> None:
        if self._check and not self._thread.is_alive() and time.monotonic() >= self._next:
            self._thread = threading.Thread(
                target=self._ask, args=(self._check,), name=f"checks {self._name}", daemon=True
            )
            self._thread.start()

    def _ask(self, check: Callable[[str], None]) -> None:
        begun, at = time.monotonic(), time.time()
        used, self._used = self._used, False
        wait = CHECK_SECONDS
        try:
            check(self._name)
        except MisconfiguredError as error:
            self.wrong, self.silent, wait = one_line(error), "", CHECK_WRONG_SECONDS
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say what is there
            self.silent, self._used = one_line(error) or repr(error), used or self._used
            wait = self._pauses.next()
        else:
            self.wrong = self.silent = ""
            self.right_at, self._counts_until = at, begun + CHECK_COUNTS_SECONDS
        if not self.silent:
            self._pauses.reset()
        self._next = time.monotonic() + wait
        if begun < self._doubted:  # it was about what it was before
            self._counts_until = self._next = 0.0
        self._wake.set()


class Misconfigured:
    """What the ledger has to do with destinations that are not what they should be: their rows wait, and say why."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._work = ledger, Work(ledger)
        self._noted: dict[str, tuple[str, float, int]] = {}  # by name: wrong, right at, the last row that says why

    def note(self, name: str, identity: Identity) -> bool | None:
        """Write down what a check has found; return True: it is wrong now, False: it is right again, None: it is as it was.

        What counts as delivered since the last check that found it right may be lost, and waits again.
        """
        was, right_at, marked = self._noted.get(name, ("", 0.0, 0))
        wrong = identity.wrong
        if not wrong and not was and identity.right_at <= right_at:
            return None
        with self._ledger.transaction():
            if identity.right_at > right_at:
                self._ledger.set_value(f"right {name}", int(identity.right_at))
            if wrong and not was:
                self._take_back(name)
            if wrong:
                marked = self._work.explain_waiting(name, wrong, 0 if wrong != was else marked)
        self._noted[name] = wrong, identity.right_at, marked
        return bool(wrong) if bool(wrong) != bool(was) else None

    def names(self) -> list[str]:
        """Return the destinations that were found right once: what was delivered after that has still to be confirmed."""
        return [
            row["name"].removeprefix("right ")
            for row in self._ledger.rows("SELECT name FROM state WHERE name LIKE 'right %'")
        ]

    def _take_back(self, name: str) -> None:
        since = self._ledger.get_value(f"right {name}", -1)
        if since >= 0:
            self._work.reopen_done(name, since)


# ---- src/forwarding/destinations.py: The destinations there are, and whether one can be sent to now: paused, outside its hours, away and probed, or well.


WIDER_AGAIN_SECONDS = 3600  # after which a node that took one association at a time is sent to by more again
ASK_AGAIN_SECONDS = 10.0  # between two questions for the destinations, where no event says that they have changed
PROBE_LONGEST_SECONDS = 60.0  # between two probes of a destination that does not answer
# Jobs that fail one after the other although probes are answered, until only trials are sent: to bisect a study takes some.
FAILURES_UNTIL_TRIALS = 40


class Destination:
    """One destination's health. After a failure nothing is sent until a probe answers.

    The probe runs in a thread of its own, outside Orthanc's job slots, which a node that never answers would hold. As
    some nodes know no C-ECHO, one job is tried all the same each time `trial_pauses` says, ever more rarely.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[str], None],
        wake: threading.Event,
        first: float,
        longest: float,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.away, self.error = name, False, ""
        self.identity = Identity(name, check, wake)
        self.answered = False  # since the last failure
        self.was_silent = False  # a probe since then had no answer
        self._silent_since: float | None = None  # monotonic; None: it answers, as far as is known
        self._away_since = 0.0  # monotonic
        self.seconds_of_job = math.inf  # how long its last job took; inf: that failed, or there was none yet
        self._takes_nothing = False  # it answers probes, and many jobs in a row have failed
        self._failures = 0  # jobs that have failed since the last one that succeeded, or since it was silent
        self._probe, self._wake = probe, wake
        self._probing: threading.Thread | None = None
        self._probe_pauses, self._next_probe = Pauses(1.0, PROBE_LONGEST_SECONDS), 0.0
        self._trial_pauses, self._next_trial = Pauses(first, longest), 0.0

    def failed(self, error: str) -> None:
        """Hold all jobs back, since one has failed, and ask whether it is there."""
        if not self.away:
            self._probe_pauses.reset()
            self._trial_pauses.reset()
            self._next_probe, self._next_trial = 0.0, time.monotonic() + self._trial_pauses.next()
            self.was_silent, self._silent_since = False, None  # a probe that ends late is of the time before
            self._away_since = time.monotonic()
        self.away, self.error, self.answered = True, error, False
        self.seconds_of_job = math.inf
        self._failures += 1
        self.identity.doubt()

    def succeeded(self) -> None:
        """Hold nothing back: a job to it has succeeded."""
        self.away, self.error, self._failures, self._takes_nothing = False, "", 0, False
        self._silent_since = None

    def probe_answered(self) -> None:
        """Hold nothing back, unless many jobs in a row have failed although it answers probes: then it is tried rarely."""
        self.answered = False
        if self.was_silent:
            self._failures = 0
        self._takes_nothing = self._failures >= FAILURES_UNTIL_TRIALS
        if not self._takes_nothing:
            self.away, self.error = False, ""

    @property
    def is_doubtful(self) -> bool:
        """Return whether the last job has failed, although it answers probes, or it does not answer them."""
        return self.away or self._failures > 0

    def may_send(self) -> bool:
        """Return whether a job may be submitted; where it is away, one as a trial when it is time for it."""
        return not self.away or time.monotonic() >= self._next_trial

    def sent(self) -> None:
        """Note that a job was submitted; if that was the trial, the next one is later."""
        if self.away:
            pause = self._trial_pauses.next()
            # What answers probes and takes nothing is tried each minute: a person may be at work on it.
            self._next_trial = time.monotonic() + (min(pause, PROBE_LONGEST_SECONDS) if self._takes_nothing else pause)

    def look(self) -> None:
        """Start a probe if one is due. The answer wakes the worker."""
        self.identity.look()
        running = self._probing is not None and self._probing.is_alive()
        if self.away and not running and time.monotonic() >= self._next_probe:
            self._probing = threading.Thread(target=self._ask, name=f"probes {self.name}", daemon=True)
            self._probing.start()

    def _ask(self) -> None:
        try:
            self._probe(self.name)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            self.error, self.was_silent = one_line(error), True
            if self._silent_since is None:
                self._silent_since = time.monotonic()
        else:
            self.answered, self._silent_since = True, None
        self._next_probe = time.monotonic() + self._probe_pauses.next()
        self._wake.set()

    def silent_seconds(self) -> float:
        """Return for how long it has not answered, a probe or a job; -1 where it answers, as far as is known."""
        since = self._silent_since
        return -1.0 if since is None or not self.away else time.monotonic() - since

    def away_seconds(self) -> float:
        """Return for how long nothing could be sent there, trials apart; 0 where something can."""
        return time.monotonic() - self._away_since if self.away else 0.0

    def settings_changed(self) -> None:
        """Probe it at once, and try a job: it is another one, or Orthanc knows it again."""
        self._probe_pauses.reset()
        self._next_probe = self._next_trial = 0.0

    def shown(self) -> dict[str, Any]:
        """Return its health, for a person."""
        wrong = self.identity.wrong
        return {"Away": self.away, "Misconfigured": bool(wrong), "Error": wrong or self.error or self.identity.silent}


class Destinations:
    """The destinations that Orthanc knows, from its configuration and its database, and what is known of each.

    Parameters
    ----------
    changed : is set when Orthanc's destinations have changed.
    """

    def __init__(self, context: Context, changed: threading.Event) -> None:
        self._name, self._transport, self._settings = context.name, context.transport, context.settings
        self._rules, self._loopback = context.rules, context.loopback
        self._all_alternates = (context.settings.alternates, *(rule.alternates for rule in context.rules))
        section = section_of(context.name)
        self._missing_section = "" if section in context.configuration else section
        self._ledger, self._wake = context.ledger, context.wake
        self._known: dict[str, Mapping[str, Any]] = {}
        self._last: dict[str, Mapping[str, Any]] = {}  # also of those that Orthanc knows no more
        self._changed, self._asking = changed, threading.Lock()
        self._changed.set()
        self.missing: list[str] = []
        """The destinations that the configuration names and Orthanc does not know."""
        self._next_ask = 0.0  # monotonic
        self.unknown = ""
        """The line of the log about them."""
        self._health: dict[str, Destination] = {}
        self._held: set[str] = set()  # those that no rule names any more, for which something waits since one did

    def known(self) -> dict[str, Mapping[str, Any]]:
        """Return the destinations that Orthanc knows now, with their settings."""
        with self._asking:  # who asks meanwhile waits: that none is known would mean that nothing is to be sent
            polled, before = self._transport.changed is None, self._known
            if self._changed.is_set() or (polled and time.monotonic() >= self._next_ask):
                is_changed = self._changed.is_set()
                self._changed.clear()  # first: what changes during the question is asked again
                before = self._known
                try:
                    self._known = self._loopback.get(f"/{self._transport.route}?expand")
                except LoopbackError as error:
                    if error.status != 404:
                        self._changed.set()
                        raise
                    self._known = {}  # the route is of a plugin that is not loaded
                self._last |= self._known
                self._next_ask = time.monotonic() + ASK_AGAIN_SECONDS
                if self._known == before and not is_changed:
                    return self._known
                for health in self.all_health():
                    health.identity.doubt()
                    if self._known.get(health.name) != before.get(health.name):
                        health.settings_changed()
                self._log_unknown()
            return self._known

    def last_entry(self, name: str) -> Mapping[str, Any] | None:
        """Return the settings of a destination, the last ones if Orthanc does not know it now; None: it never did."""
        self.known()
        return self._last.get(name)

    def must_know(self, name: str) -> None:
        """Raise ValueError if Orthanc does not know a destination now."""
        if name not in (known := self.known()):
            raise ValueError(f"Orthanc does not know {name} now; known are: {', '.join(known) or 'none'}")

    def listed(self) -> list[str]:
        """Return those of a rule without a list: those of the section's list that Orthanc knows; without one, all."""
        known, listed = self.known(), self._settings.destinations
        return list(known) if listed is None else [name for name in listed if name in known]

    def may_get(self) -> set[str]:
        """Return the destinations that rules may send to; a `Matcher` may choose others."""
        return {*self.listed(), *(name for rule in self._rules for name in rule.destinations or ())}

    def wanted(self) -> list[str]:
        """Return the same, with those that Orthanc does not know: what arrives waits for them."""
        listed = self._settings.destinations
        return list(self.known()) if listed is None else list(listed)

    def is_any_wanted(self) -> bool:
        """Return whether what arrives may be sent anywhere."""
        wanted = [self.wanted() if rule.destinations is None else rule.destinations for rule in self._rules]
        return any(wanted) or any(rule.matcher for rule in self._rules)

    def health_of(self, name: str) -> Destination:
        """Return the health of a destination."""
        if name not in self._health:
            retry = self._settings.retry

            def probe(name: str) -> None:
                self.must_know(name)
                self._transport.probe(self._loopback, name)

            check = self._transport.check
            self._health[name] = Destination(name, probe, self._wake, retry.first, retry.longest, check)
        return self._health[name]

    def shown(self, name: str) -> dict[str, Any]:
        """Return the health of a destination, for a person."""
        found = self.health_of(name).shown()
        return found if name in self.known() else {**found, "Away": True, "Error": f"Orthanc does not know {name} now"}

    def all_health(self) -> list[Destination]:
        """Return the health of all that were looked at once."""
        return [*self._health.values()]

    def is_paused(self, name: str) -> bool:
        """Return whether what waits for it is held back: by a person, or because the configuration names it no more."""
        return name in self._held or bool(self._ledger.get_value(f"paused {name}"))

    def pause(self, name: str, paused: bool) -> None:
        """Hold back what waits for a destination, or send it again; also over restarts."""
        self._ledger.set_value(f"paused {name}", int(paused))
        if not paused:
            self._held.discard(name)

    def narrow(self, name: str) -> None:
        """Send to a destination by one job at a time, for an hour from now: it has rejected a second association."""
        if not self.narrow_until(name):
            log = orthanc.LogInfo if self._ledger.get_value(f"narrow {name}") else orthanc.LogWarning
            log(
                f"{self._name}: {name} rejected an association while it had another one: it gets one at a time from now on "
                f"(more are tried again in {WIDER_AGAIN_SECONDS // 60} minutes)"
            )
        self._ledger.set_value(f"narrow {name}", int(time.time()))

    def narrow_until(self, name: str) -> float | None:
        """Return until when a destination gets one job at a time, as Unix time; None: it gets as many as are configured."""
        since = self._ledger.get_value(f"narrow {name}")
        return since + WIDER_AGAIN_SECONDS if since - 1 < time.time() < since + WIDER_AGAIN_SECONDS else None

    def hold_unnamed(self) -> None:
        """Hold what waits for destinations that no rule names any more: nothing is sent there, and nothing is dropped.

        A person who takes a destination out of the configuration wants that. What a person sent by a route is sent.
        """
        listed = self._settings.destinations
        if any(rule.matcher or (rule.destinations is None and listed is None) for rule in self._rules):
            return  # any destination may be meant
        named = {
            name for rule in self._rules for name in (listed if rule.destinations is None else rule.destinations) or ()
        } | self._alternates()
        for name, number in WorkView(self._ledger).unfinished_listing("Instances").items():
            if name in named:
                continue
            self._held.add(name)
            orthanc.LogWarning(
                f"{self._name}: {number} deliveries wait for {name}, which the configuration names no more, and are held; "
                f"POST /{self._name}/destinations/{name}/resume sends them, DELETE /{self._name}/deliveries/{{id}} drops one"
            )

    def is_open(self, name: str) -> bool:
        """Return whether this is an hour at which it may be sent to."""
        options = self._settings.destination_options.get(name)
        return options is None or is_open(options.windows, datetime.datetime.now())  # noqa: DTZ005 - local, as written

    def _alternates(self) -> set[str]:
        return {name for alternates in self._all_alternates for names in alternates.values() for name in names}

    def _replaced(self) -> set[str]:
        return {name for alternates in self._all_alternates for name in alternates}

    def _log_unknown(self) -> None:
        of_rules = (name for rule in self._rules for name in rule.destinations or ())
        wanted = {*(self._settings.destinations or ()), *of_rules}
        if self._missing_section and self._known:
            orthanc.LogWarning(
                f"{self._name}: the configuration has no section {self._missing_section}, so every study is sent to every "
                f"destination that Orthanc knows: {', '.join(self._known)}"
            )
        self.unknown, self.missing = "", sorted(wanted - self._known.keys())
        if self.missing:
            missing = ", ".join(_hinted(each, self._known) for each in self.missing)
            self.unknown = (
                f"Destinations names {missing}, which Orthanc does not know; "
                f"known are: {', '.join(self._known) or 'none'}. The others are served, and what arrives for it waits."
            )
            orthanc.LogError(f"{self._name}: {self.unknown}")
        if unknown := sorted(self._alternates() - self._known.keys() - wanted):
            orthanc.LogWarning(
                f"{self._name}: Alternates names {one_line(', '.join(unknown))}, which Orthanc does not know (yet); "
                f"known are: {', '.join(self._known) or 'none'}. Nothing goes there."
            )
        if unknown := sorted(self._replaced() - self._known.keys() - wanted):
            orthanc.LogWarning(
                f"{self._name}: Alternates are for {one_line(', '.join(unknown))}, which Orthanc does not know (yet); "
                f"known are: {', '.join(self._known) or 'none'}. These alternates have no effect."
            )
        if unknown := sorted(self._settings.destination_options.keys() - self._known.keys() - wanted):
            orthanc.LogWarning(
                f"{self._name}: DestinationOptions names {one_line(', '.join(unknown))}, which Orthanc does not know (yet); "
                f"known are: {', '.join(self._known) or 'none'}. These options have no effect."
            )


def _hinted(name: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a name that Orthanc does not know, with the one that was meant where it is an AE title, or in the wrong case."""
    shown = one_line(name) if name == name.strip() else json.dumps(name)
    for each, entry in known.items():
        if entry.get("AET") == name:
            return f"{shown} (the AE title of {each}: write {each})"
        if each.lower() == name.strip().lower():
            return f"{shown} (did you mean {each}?)"
    return shown


# ---- src/forwarding/addresses.py: The addresses of hosts: looked up in threads of their own, since DNS may take long, and remembered for a while.


ADDRESSES_COUNT_SECONDS = 300.0  # until a host is looked up again
LOOK_UP_AGAIN_SECONDS = 60.0  # after a look-up that found nothing
ADDRESS_LOOK_SECONDS = 0.1  # between looks whether it has ended


class Host:
    """The addresses of one host. If it can't be looked up any more, the last ones count.

    Parameters
    ----------
    stopping : nobody waits for a look-up any more.
    """

    def __init__(self, name: str, stopping: threading.Event) -> None:
        self.name, self._stopping = name, stopping
        self._addresses: frozenset[str] = frozenset()
        self._starting, self._thread, self._next = threading.Lock(), threading.Thread(), 0.0

    def addresses(self, wait: float) -> frozenset[str]:
        """Return its addresses, after at most so many seconds; none: they are not known."""
        with self._starting:
            if not self._thread.is_alive() and time.monotonic() >= self._next:
                self._thread = threading.Thread(target=self._look_up, name=f"looks up {self.name}", daemon=True)
                self._thread.start()
            looking_up = self._thread
        for _ in range(0 if self._addresses else round(wait / ADDRESS_LOOK_SECONDS)):  # else the last ones do meanwhile
            if not looking_up.is_alive() or self._stopping.is_set():
                break
            looking_up.join(ADDRESS_LOOK_SECONDS)
        return self._addresses

    def _look_up(self) -> None:
        try:
            found = socket.getaddrinfo(self.name, None)
        except (OSError, UnicodeError):  # UnicodeError: it can't be the name of a host
            self._next = time.monotonic() + LOOK_UP_AGAIN_SECONDS
            return
        self._addresses = frozenset(plain_address(str(each[4][0])) for each in found)
        self._next = time.monotonic() + ADDRESSES_COUNT_SECONDS


def plain_address(address: str) -> str:
    """Return an address in the form in which it is compared: of IPv4 where it is one, without the name of an interface."""
    return address.lower().removeprefix("::ffff:").partition("%")[0]


# ---- src/forwarding/loops.py: What came from a destination itself: it is not sent back there.


LOOK_UP_SECONDS = 10.0  # for which the forwarder's thread waits for DNS, before the sender's AE title alone decides
LOOK_UP_IN_ROUTE_SECONDS = 1.0
NOT_SENT_BACK = "not sent back to "  # in the ledger's numbers, before the name of a destination


class Loops:
    """Finds what came from a destination itself: its sender had the destination's AE title, and an address of its host.

    The AE title alone says little: many Orthancs are called ORTHANC. It decides where no address is known.
    """

    def __init__(self, context: Context, destinations: Destinations) -> None:
        self._name, self._ledger, self._transport = context.name, context.ledger, context.transport
        self._options, self._destinations = context.settings.destination_options, destinations
        self._stopping = context.stopping
        self._hosts: dict[str, Host] = {}
        self._warned = set[tuple[str, str]]()

    def came_from(self, name: str, origins: Mapping[str, Mapping[str, str]], wait: float) -> set[str]:
        """Return which of these instances came from a destination; waits so many seconds for the addresses of its host."""
        entry = self._destinations.last_entry(name)
        if entry is None:
            return set()
        titled = {
            instance: plain_address(origin.get("RemoteIP", ""))
            for instance, origin in origins.items()
            if self._transport.came_from(origin, entry)
        }
        addresses = self._addresses(name, entry, wait) if any(titled.values()) else frozenset[str]()
        own = {instance for instance, ip in titled.items() if not ip or not addresses or ip in addresses}
        if others := sorted({ip for instance, ip in titled.items() if instance not in own}):
            host = f"{one_line(str(entry['Host']))} ({', '.join(sorted(addresses))})"
            text = f"what has the AE title of {name}, but comes from {others[0]} and not from {host}, is sent to {name}"
            self._warn_once(name, "elsewhere", text)
        return own

    def count(self, instances: Mapping[str, Collection[str]]) -> None:
        """Count what is not sent back, by destination: inside the transaction in which that is decided."""
        for name, number in ((name, len(some)) for name, some in instances.items() if some):
            key = f"{NOT_SENT_BACK}{name}"
            self._ledger.set_value(key, self._ledger.get_value(key) + number)
            text = f"what came from {name} itself is not sent back to it; the status counts it (NotSentBack)"
            self._warn_once(name, "itself", text)

    def totals(self) -> dict[str, int]:
        """Return how many instances were not sent back, by destination."""
        rows = self._ledger.rows("SELECT name, value FROM state WHERE name LIKE ? ORDER BY name", f"{NOT_SENT_BACK}%")
        return {row["name"].removeprefix(NOT_SENT_BACK): row["value"] for row in rows}

    def _addresses(self, name: str, entry: Mapping[str, Any], wait: float) -> frozenset[str]:
        """Return the addresses of a destination; an option may send to another host than its entry names."""
        options = self._options.get(name)
        hosts = sorted({str(entry["Host"]), str((options.options if options else {}).get("Host", entry["Host"]))})
        known = [self._hosts.setdefault(host, Host(host, self._stopping)).addresses(wait) for host in hosts]
        found = frozenset[str]().union(*known)
        if not found:
            text = f"no address of {one_line(', '.join(hosts))} is known: what has the AE title of {name} counts as from there"
            self._warn_once(name, "unknown", text)
        return found

    def _warn_once(self, name: str, what: str, text: str) -> None:
        if (name, what) not in self._warned and not self._stopping.is_set():
            self._warned.add((name, what))
            orthanc.LogWarning(f"{self._name}: {text}")


# ---- src/forwarding/gone.py: What was deleted here before it was delivered: a WARNING each time, and a count.


COUNT = "instances gone"  # in the table `state`


class Gone:
    """Counts the instances that were deleted here before a destination got them, over restarts too."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self._name, self._ledger = name, ledger

    @property
    def instances(self) -> int:
        """Return how many it were since the ledger began; an instance counts for each destination that did not get it."""
        return self._ledger.get_value(COUNT)

    def note(self, number: int, text: str) -> None:
        """Count instances, in the transaction that writes down what they were of, and say so."""
        with self._ledger.transaction():
            self._ledger.set_value(COUNT, self.instances + number)
        orthanc.LogWarning(f"{self._name}: {text}")


def recycling_of(configuration: Mapping[str, Any]) -> str:
    """Return the limits by which Orthanc deletes the oldest patients, or "" where it never does."""
    if configuration.get("MaximumStorageMode") == "Reject" and orthanc.CheckVersionAdvanced(1, 11, 2):
        return ""  # older ones ignore it without a word
    limits = {key: configuration.get(key) for key in ("MaximumStorageSize", "MaximumPatientCount")}
    return " and ".join(f"{key} {limit}" for key, limit in limits.items() if limit)


def about_recycling(limits: str, settings: ForwardingSettings) -> str:
    """Return what recycling means for what is not delivered."""
    if settings.protect_undelivered:
        return (
            f"Orthanc recycles the oldest patients ({limits}), except those of whom something is not delivered "
            "(ProtectUndelivered); if all are protected, it takes no more images"
        )
    return (
        f"Orthanc recycles the oldest patients ({limits}), also those of whom something is not delivered; "
        '"ProtectUndelivered": true protects them until it is'
    )


# ---- src/forwarding/metrics.py: What a forwarder adds to Orthanc's metrics (`/tools/metrics-prometheus`).


class Metrics:
    """Rows by state, age of the oldest unfinished one, instances a second, and destinations that are away.

    Of a resource that a person sent whole, how many instances it had is not known here: it counts as one.
    """

    def __init__(self, ledger: Ledger, destinations: Destinations) -> None:
        self._ledger, self._work, self._destinations = ledger, Work(ledger), destinations
        self._delivered = {"Deliveries": 0, "Instances": 0}
        self._counted, self._since = 0, time.monotonic()  # of the measurement before

    def add_delivered(self, instances: int) -> None:
        """Count a delivery and the instances in it, that a destination has got."""
        self._delivered["Deliveries"] += 1
        self._delivered["Instances"] += instances

    def flow(self) -> dict[str, Any]:
        """Return what was delivered since the start, and since when the oldest waits that is neither delivered nor given up."""
        return {"Delivered": {**self._delivered}, "WaitingSince": utc_or_none(self._work.oldest_unfinished(DELETE))}

    def measure(self) -> dict[str, float]:
        """Return all metrics; the rate is since the call before."""
        oldest = self._work.oldest_unfinished(DELETE)
        delivered, now = self._delivered["Instances"], time.monotonic()
        rate = (delivered - self._counted) / max(0.001, now - self._since)
        self._counted, self._since = delivered, now
        # One that is away, and for which nothing waits, may be gone for good.
        waited_for, missing = self._ledger.queues("waiting"), self._destinations.missing
        away = {each.name: each.away_seconds() for each in self._destinations.all_health() if each.away}
        away = {name: away.get(name, 0.0) for name in waited_for if name in away or name in missing}
        return {
            **self._ledger.totals(),
            "lag_seconds": 0.0 if oldest is None else max(0.0, time.time() - oldest),
            "instances_per_second": rate,
            "destinations_away": len(away),
            "destinations_away_seconds": max(away.values(), default=0.0),
        }


# ---- src/forwarding/rows.py: The rows that say what is sent where: how they are added, and how they end.


LONGEST_WAIT_SECONDS = 86400.0  # between two attempts: of what a destination can't take
HISTORY = 10  # failed attempts that a row remembers


class Rows:
    """Adds rows of deliveries, and writes down and logs what became of them."""

    def __init__(self, context: Context, destinations: Destinations, metrics: Metrics, deleter: Deleter | None) -> None:
        self._name, self._retry = context.name, context.settings.retry
        self._ledger, self._work, self._trouble = context.ledger, Work(context.ledger), context.trouble
        self._destinations, self._metrics, self._deleter = destinations, metrics, deleter
        self.gone = Gone(context.name, context.ledger)

    def add(
        self,
        level: str,
        resource: str,
        destination: str,
        instances: Sequence[str] | None,
        priority: int = 0,
        parents: Mapping[str, str] = types.MappingProxyType({}),
        alternates: Sequence[str] = (),
        modify: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a row for a destination, or join one that waits for the same; return its id.

        `None` means all instances that the resource holds when it is sent. `parents` are those that are known, by level,
        `alternates` those of the rule, if it has some, and `modify` what it changes: it is kept as it is now.
        """
        same = Which(task=SEND, resource=resource, queue=destination, states=("waiting",), data={"Level": level})
        waiting = [row for row in self._work.find(same) if _may_join(row, priority, alternates, modify)]
        if not waiting:
            place = place_of(level, resource, parents)
            data: dict[str, Any] = {
                "Level": level,
                **place,
                "Instances": None if instances is None else sorted(instances),
            }
            data |= {"Alternates": [*alternates]} if alternates else {}
            data |= {"Modify": modify} if modify else {}
            return self._ledger.add(destination, resource, data, priority)
        data = json.loads(waiting[-1]["data"])
        data.pop("Sent", None)  # not all of it was
        data.pop("Gone", None)
        both = None if data["Instances"] is None or instances is None else sorted({*data["Instances"], *instances})
        self._work.change(waiting[-1]["id"], data={**data, "Instances": both})
        return int(waiting[-1]["id"])

    def divide(self, row: Mapping[str, Any], *parts: Sequence[str]) -> list[dict[str, Any]]:
        """Leave the first of these instances in a row, give each of the others a row of its own; return all these rows."""
        data = {key: value for key, value in json.loads(row["data"]).items() if key != "Gone"}
        with self._ledger.transaction():
            self._work.change(row["id"], data={**data, "Instances": [*parts[0]]})
            others = [
                self._ledger.add(row["queue"], row["subject"], {**data, "Instances": [*part]}, row["priority"])
                for part in parts[1:]
            ]
        return self._work.find(Which(ids=[row["id"], *others]))

    def end_delivered(self, row: Mapping[str, Any]) -> None:
        """End a row whose destination has it."""
        self._ledger.end(row["id"], "done")
        self._destinations.health_of(row["queue"]).succeeded()
        self._metrics.add_delivered(len(json.loads(row["data"])["Instances"] or (row["subject"],)))
        orthanc.LogInfo(f"{self._name}: {row['queue']} has {name_of(row)} (attempt {row['attempts']})")
        if self._deleter:
            self._deleter.delivered(json.loads(row["data"]).get("Of", row["subject"]))

    def flow(self) -> dict[str, Any]:
        """Return what was delivered since the start, and since when the oldest waits."""
        return self._metrics.flow()

    def end_gone(self, row: Mapping[str, Any]) -> None:
        """End a row that was deleted before it could be sent; one of a whole resource counts as one instance."""
        data = json.loads((self._work.get(row["id"]) or row)["data"])
        with self._ledger.transaction():
            self._ledger.end(row["id"], "gone")
            self.note_gone(row, len(data["Instances"] or (row["subject"],)) - data.get("Gone", 0))

    def leave_out_deleted(self, row: Mapping[str, Any], here: int) -> None:
        """Say that an attempt is without what was deleted: only so many instances of the row are here.

        The row keeps all of them: one that is being overwritten is away for a moment.
        """
        data = json.loads(row["data"])
        gone = len(data["Instances"] or ()) - here
        if (number := gone - data.get("Gone", 0)) <= 0:
            return  # it was said already
        with self._ledger.transaction():
            self._work.change(row["id"], data={**data, "Gone": gone})
            self.note_gone(row, number)

    def note_gone(self, row: Mapping[str, Any], number: int) -> None:
        """Count instances of a row that were deleted before they could be sent, and say so."""
        if number > 0:
            self.gone.note(
                number, f"{number} instances of {name_of(row)} were deleted here before {row['queue']} got them"
            )

    def fail(self, row: Mapping[str, Any], error: str) -> None:
        """Let a row whose attempt has failed wait for the next one, or give it up."""
        data, hours = json.loads(row["data"]), self._retry.give_up_hours
        history = data.get("History", [])
        # What is cut out of a row takes its history along: that failure was logged for the whole.
        is_known = data.get("HistoryOf", row["id"]) != row["id"] and history[-1]["Error"] == one_line(error)
        history = [*history, {"At": utc(), "Error": one_line(error)}][-HISTORY:]
        with self._ledger.transaction():
            self._work.change(row["id"], data={**data, "History": history, "HistoryOf": row["id"]})
            state = self._ledger.fail(row["id"], one_line(error), self._retry)
        where = row["queue"] if row["task"] == SEND else "any destination"
        text = f"{self._name}: {name_of(row)} did not reach {where} (attempt {row['attempts']}): {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            again = f"POST /{self._name}/deliveries/{row['id']}/retry tries again"
            orthanc.LogError(f"{text}. Given up after {hours:g} hours; {again}")
        elif row["attempts"] <= 1 and not is_known:
            orthanc.LogWarning(f"{text}. It will be tried again")
        else:
            orthanc.LogInfo(text)

    def fail_rarely(self, row: Mapping[str, Any], instances: Sequence[str], error: str) -> None:
        """Let a row wait for a day whose destination can't take any of its instances; what comes after it does not wait."""
        with self._ledger.transaction():
            self.set_aside(row, instances, error)
            self._work.change(row["id"], next_attempt=time.time() + LONGEST_WAIT_SECONDS)

    def set_aside(self, row: Mapping[str, Any], instances: Sequence[str], error: str) -> None:
        """Let a row fail that holds what can't be sent of a resource: the rest of that does not wait for it."""
        data = json.loads(row["data"])
        whole = {"Of": data.get("Of", row["subject"]), "OfLevel": data.get("OfLevel", data["Level"])}
        alone = {**data, **whole, "Refused": True, "Level": "Instance", "Instances": [*instances]}
        with self._ledger.transaction():
            self._work.change(row["id"], subject=instances[0])
            self.fail({**row, "subject": instances[0], "data": json.dumps(alone)}, error)


def _may_join(
    row: Mapping[str, Any], priority: int, alternates: Sequence[str], modify: Mapping[str, Any] | None
) -> bool:
    """Return whether what is sent with these may join a row; nothing joins one that was moved."""
    data = json.loads(row["data"])
    same_way = (row["priority"], data.get("Alternates", [])) == (priority, [*alternates])
    return same_way and data.get("Modify") == modify and "MovedFrom" not in data


# ---- src/forwarding/alternates.py: Another way when a destination is down: what waits for it goes to the first of its alternates that answers.


ALTERNATES_LOOK_SECONDS = 10.0  # between two looks at what could be moved, and between two probes of an alternate
ANSWER_COUNTS_SECONDS = 30.0  # after which an answer of an alternate says nothing any more
ROWS_AT_ONCE = 50  # of which is asked where their instances came from
MOST_REMEMBERED_ROWS = 100_000
LONGEST_MOVE_SECONDS = 1.0  # of one look: what is left is moved at the next turn, for other destinations wait


class AlternateProbe:
    """Whether an alternate answers now. It is asked in a thread of its own, which wakes the worker."""

    def __init__(self, name: str, probe: Callable[[str], None], wake: threading.Event) -> None:
        self._name, self._probe, self._wake = name, probe, wake
        self._thread = threading.Thread()
        self._asked = self._answered = float("-inf")  # monotonic

    def has_answered(self) -> bool:
        """Return whether it has answered of late; ask it if that is due."""
        now = time.monotonic()
        if not self._thread.is_alive() and now - self._asked >= ALTERNATES_LOOK_SECONDS:
            self._asked = now
            self._thread = threading.Thread(target=self._ask, name=f"probes {self._name}", daemon=True)
            self._thread.start()
        return now - self._answered < ANSWER_COUNTS_SECONDS

    def _ask(self) -> None:
        begun = time.monotonic()
        try:
            self._probe(self._name)
        except Exception:  # noqa: BLE001 - whatever it is, it is no answer
            self._answered = float("-inf")
        else:
            self._answered = begun
            self._wake.set()


class Alternates:
    """Moves rows from a destination that has not answered for long to another one, each row as a whole and to one only.

    From an alternate that is silent too it goes on, or back. A row that is being sent stays, and so does one that the
    destination took and could only not be asked about. What came from an alternate is not sent back to it: it would count
    as delivered, and be where it was.
    """

    def __init__(self, context: Context, destinations: Destinations, deleter: Deleter | None, loops: Loops) -> None:
        self._name, self._ledger, self._work = context.name, context.ledger, Work(context.ledger)
        self._destinations, self._deleter, self._wake, self._loops = destinations, deleter, context.wake, loops
        self._of_section = context.settings.alternates
        self._after_seconds = context.settings.alternates_after_minutes * 60
        self._names = ways_by_name(self._of_section, *(rule.alternates for rule in context.rules))
        self._transport, self._loopback = context.transport, context.loopback
        self._probes: dict[str, AlternateProbe] = {}
        self._next_look: dict[str, float] = {}  # by destination, monotonic
        self._since: dict[str, int] = {}  # the last row that was looked at, where a look is not at its end
        # By row: what it held when it was asked for, and the alternates that some of it came from.
        self._senders: dict[int, tuple[int, frozenset[str]]] = {}
        self._said = set[tuple[str, str]]()

    def look(self) -> None:
        """Move what waits for destinations that have been silent for too long, if an alternate answers."""
        for name, alternates in self._names.items():
            health = self._destinations.health_of(name)
            if health.silent_seconds() < self._after_seconds or not self._may_be_sent_to(name):
                continue
            answering = {alternate for alternate in alternates if self._answers(alternate)}
            is_due = time.monotonic() >= self._next_look.get(name, 0.0)
            if answering and is_due and self._ledger.queues("waiting").get(name):
                is_at_end = self._move(name, answering)
                self._next_look[name] = time.monotonic() + (ALTERNATES_LOOK_SECONDS if is_at_end else 0.0)

    def _may_be_sent_to(self, name: str) -> bool:
        """Return whether neither a person nor its hours hold back what waits for it."""
        return not self._destinations.is_paused(name) and self._destinations.is_open(name)

    def _answers(self, name: str) -> bool:
        if name not in self._destinations.known() or not self._may_be_sent_to(name):
            return False
        if name not in self._probes:

            def probe(name: str) -> None:
                self._transport.probe(self._loopback, name)

            self._probes[name] = AlternateProbe(name, probe, self._wake)
        health = self._destinations.health_of(name)
        answered, is_right = self._probes[name].has_answered(), health.identity.is_right()  # each starts what is due
        return answered and is_right and not health.away

    def _move(self, name: str, answering: set[str]) -> bool:
        """Move rows; return whether all were looked at."""
        moved: dict[str, int] = {}
        begun, which = time.monotonic(), Which(task=SEND, queue=name, states=("waiting",))
        while rows := self._work.page(which, self._since.get(name, 0), ROWS_AT_ONCE):
            targets = [self._target_of(row, answering) for row in rows]  # it asks Orthanc
            with self._ledger.transaction():
                for row, to in zip(rows, targets, strict=True):
                    if to and self._move_one(row, to):
                        moved[to] = moved.get(to, 0) + 1
            self._since[name] = rows[-1]["id"]
            if time.monotonic() - begun > LONGEST_MOVE_SECONDS:
                break
        for to, number in moved.items():
            orthanc.LogWarning(f"{self._name}: {self._reason(name)}: {number} deliveries go to {to} instead")
        if not rows:
            self._since.pop(name, None)
        return not rows

    def _target_of(self, row: Mapping[str, Any], answering: set[str]) -> str | None:
        """Return where a row goes; None: it stays."""
        to = target_of(row, self._of_section, answering)
        if to is None or not (senders := self._senders_of(row, answering)):
            return to
        if to in senders and (row["queue"], to) not in self._said:
            self._said.add((row["queue"], to))
            what = f"what waits for {row['queue']} and came from {to} is not sent back to {to} instead"
            orthanc.LogWarning(f"{self._name}: {what}: it waits, or goes to another alternate")
        return target_of(row, self._of_section, answering - senders)

    def _senders_of(self, row: Mapping[str, Any], names: Collection[str]) -> frozenset[str]:
        """Return from which of these alternates some of a row came; whom it was for at first may have it back."""
        data = json.loads(row["data"])
        names, asked = {*names} - {*data.get("MovedFrom", [])[:1]}, hash((row["data"], *sorted(names)))
        if self._senders.get(row["id"], (None,))[0] != asked:
            try:
                instances = data["Instances"]
                if instances is None:
                    instances = instances_of(self._loopback, data["Level"], row["subject"])
                origins = metadata_of(self._loopback, instances)
            except LoopbackError as error:
                if error.status == 0:
                    raise
                origins = {}  # it was deleted, which its job finds out
            came = {name for name in names if self._loops.came_from(name, origins, LOOK_UP_IN_ROUTE_SECONDS)}
            if len(self._senders) > MOST_REMEMBERED_ROWS:
                self._senders.clear()
            self._senders[row["id"]] = asked, frozenset(came)
        return self._senders[row["id"]][1]

    def _move_one(self, seen: Mapping[str, Any], to: str) -> bool:
        number = seen["id"]
        row = self._work.get(number)
        if row is None or (row["state"], row["data"]) != ("waiting", seen["data"]):
            return False  # a person has just dropped it, or sent more
        data = json.loads(row["data"])
        data.pop("Suspect", None)  # what the other refused, this one may take
        entry = {"At": utc(), "Error": f"{self._reason(row['queue'])}: it goes to {to} instead"}
        data["MovedFrom"] = list(dict.fromkeys([*data.get("MovedFrom", []), row["queue"]]))
        data["History"] = [*data.get("History", []), entry][-HISTORY:]
        self._work.change(number, queue=to, data=data, attempts=0, next_attempt=0, created=time.time())
        if self._deleter:
            for name in data["MovedFrom"]:
                if name != to:
                    self._deleter.note_instead(data.get("Of", row["subject"]), name, to)
        return True

    def _reason(self, name: str) -> str:
        return f"{name} has not answered for {self._destinations.health_of(name).silent_seconds() / 60:.0f} minutes"


def ways_by_name(*several: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return where what waits for a destination may go, of the section and of rules: alternates, and from there on, and back."""
    found: dict[str, list[str]] = {}
    for alternates in several:
        for name, names in alternates.items():
            together = (name, *names)
            for one in together:
                others = (other for other in together if other != one)
                found[one] = list(dict.fromkeys([*found.get(one, ()), *others]))
    return found


def target_of(
    row: Mapping[str, Any], of_section: Mapping[str, Iterable[str]], answering: Collection[str]
) -> str | None:
    """Return where a row that waits goes: to an alternate, those of its rule before those of the section; None: it stays.

    What was moved to an alternate, which is silent now too, goes to its own destination, or to another alternate of that.
    What the destination took and could only not be asked about stays: it is there, as far as is known.
    """
    data = json.loads(row["data"])
    if data.get("Sent"):
        return None
    moved_from: list[str] = data.get("MovedFrom", [])
    own = moved_from[0] if moved_from else row["queue"]
    wanted = [*(data.get("Alternates") or of_section.get(own, ()))]
    if moved_from:
        wanted = [own, *of_section.get(row["queue"], ()), *wanted]
    return next((name for name in wanted if name in answering and name != row["queue"]), None)


# ---- src/common/arrivals.py: What OnStoredInstance reports of an instance, kept in memory: reading it later gets slower with the archive.


REMEMBERED = 50_000  # instances; what is forgotten, or lost by a restart, is read from Orthanc
UID_TAGS = ("0010,0020", "0020,000d", "0020,000e")  # PatientID, StudyInstanceUID, SeriesInstanceUID
LONGEST_VALUE = 1024  # characters of a value
KIND = ("SopClassUid", "TransferSyntax")  # what an instance is, beside where it came from
ORIGIN = ("Origin", "RemoteAET", "CalledAET", "RemoteIP", "HttpUsername", "ModifiedFrom", "AnonymizedFrom", *KIND)


class Arrival(NamedTuple):
    """One instance: Orthanc identifiers and UIDs (PatientID for the patient) by level, origin (metadata), digest of its file."""

    parents: Mapping[str, str]
    uids: Mapping[str, str]
    origin: Mapping[str, str]
    digest: str


class Arrivals:
    """The last instances that were stored. `stored` is Orthanc's callback; it takes about 0.1 ms.

    `digests` also remembers the content (BLAKE2), where the same instance may come again (OverwriteInstances).
    """

    def __init__(self, digests: bool) -> None:
        self._digests, self._known = digests, dict[str, Arrival]()
        self._changing = threading.Lock()  # several instances are stored at a time; held for microseconds
        self._shared: dict[tuple[Any, ...], tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]] = {}

    def stored(self, dicom: Any, instance: str) -> None:
        # Half the time of GetInstanceSimplifiedJson.
        short, plain = orthanc.DicomToJsonFormat.SHORT, orthanc.DicomToJsonFlags.NONE
        tags = json.loads(dicom.GetInstanceAdvancedJson(short, plain, LONGEST_VALUE))
        # As they are here, with leading spaces: Orthanc's identifiers are made of that.
        uids = tuple(str(tags.get(tag) or "") for tag in UID_TAGS)
        values = (dicom.GetInstanceMetadata(name) if dicom.HasInstanceMetadata(name) else None for name in ORIGIN)
        origin = tuple((name, value) for name, value in zip(ORIGIN, values, strict=True) if value)
        key = (uids, origin)
        shared = self._shared.get(key)
        if shared is None:
            if len(self._shared) > REMEMBERED // 10:
                self._shared.clear()
            names = dict(zip(("Patient", "Study", "Series"), uids, strict=True))
            shared = self._shared[key] = (_parents(uids), names, dict(origin))
        digest = hashlib.blake2b(dicom.GetInstanceData(), digest_size=16).hexdigest() if self._digests else ""
        with self._changing:
            self._known.pop(instance, None)
            self._known[instance] = Arrival(*shared, digest)
            while len(self._known) > REMEMBERED:
                self._known.pop(next(iter(self._known)))

    def parents(self, instance: str) -> Mapping[str, str] | None:
        """Return the Orthanc identifiers of its patient, study and series, by level; None if they are not known."""
        arrival = self._known.get(instance)
        return arrival.parents if arrival and arrival.parents else None

    def get(self, instance: str) -> Arrival | None:
        return self._known.get(instance)

    def forget(self, instance: str) -> None:
        with self._changing:
            self._known.pop(instance, None)


def _parents(uids: tuple[str, ...]) -> Mapping[str, str]:
    """Return identifiers by Orthanc's own rule, checked for plain ASCII; of other values we know nothing."""
    if not all(uid.isascii() for uid in uids):
        return {}
    found = {}
    for count, level in enumerate(("Patient", "Study", "Series"), start=1):
        digest = hashlib.sha1("|".join(uids[:count]).encode()).hexdigest()
        found[level] = sys.intern("-".join(digest[start : start + 8] for start in range(0, 40, 8)))
    return found


# ---- src/forwarding/routing.py: Rules applied to what arrived: which instances go to which destination, and why.


Matcher = Callable[[dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """What is to be routed: instances of one resource, `None` for all of it, each with its origin."""

    level: str
    resource: str
    uid: str
    instances: tuple[str, ...] | None
    origins: Mapping[str, Mapping[str, str]]


@dataclasses.dataclass
class Verdict:
    """What a rule makes of a batch: the instances that meet its conditions, where they go, or why not.

    A destination that is listed counts, known or not: it may be known again in a moment. `unknown` are those that a matcher chose
    and nobody has listed.
    """

    rule: Rule
    destinations: tuple[str, ...] = ()
    instances: tuple[str, ...] | None = ()
    why: str = ""
    matched: bool = False
    unknown: tuple[str, ...] = ()


class Share(NamedTuple):
    """What goes to a destination by a rule, and what does not, since it came from there."""

    destination: str
    rule: ForwardingRule
    instances: set[str]
    own: set[str]


def _of_kind(rule: Rule, batch: Batch, instances: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return which of these instances of a batch (None: all) have a SOP class and a transfer syntax that a rule takes."""
    if not (rule.sop_classes or rule.transfer_syntaxes):
        return instances
    taken = batch.origins if instances is None else instances
    return tuple(one for one in taken if has_kind(rule, batch.origins.get(one, {})))


def _without(batch: Batch, taken: Sequence[str] | None) -> Batch:
    """Return what is left of a batch; None stands for all of it."""
    gone = set(taken or ())
    left = () if taken is None else tuple(one for one in batch.instances or batch.origins if one not in gone)
    origins = {one: batch.origins[one] for one in left if one in batch.origins}
    return dataclasses.replace(batch, instances=left, origins=origins)


def _is_wanted(value: str, wanted: str) -> bool:
    """Return whether a PatientID or UID is one of those that a `Query` names: as Orthanc does, without regard to case.

    Spaces in front, which Orthanc keeps and DICOM lets pass, may be named or not.
    """
    value, wanted = value.lower(), wanted.lower()
    return any(matches_any(each, (*wanted.split("\\"), wanted)) for each in (value, value.strip()))


def load_matcher(spec: str, folder: Path) -> Matcher:
    """Return the function of `module.py:function`, the path relative to the script's folder, or to the configuration's.

    The latter is `/tmp` in images that generate their configuration.

    Raises
    ------
    ValueError : it can't be loaded, with the reason.
    """
    text, _, name = spec.rpartition(":")
    own = Path(__file__).absolute().parent / text
    path = own if own.exists() else folder / text
    if path == own and (folder / text).exists() and not own.samefile(folder / text):
        raise ValueError(f"there are {own} and {folder / text}: give the whole path of the one that is meant")
    try:
        found = importlib.util.spec_from_file_location(f"matcher_{path.stem}", path)
        assert found and found.loader  # noqa: PT018 - the name ends with .py
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        matcher: Matcher = getattr(module, name)
    except Exception as error:
        raise ValueError(f"{path} can't be loaded: {error!r}") from error
    return matcher


class Router:
    """Applies rules in order. Questions go to Orthanc over loopback, `Query` to `/tools/find` itself."""

    def __init__(
        self,
        loopback: Loopback,
        rules: Sequence[Rule],
        first_only: bool,
        matchers: Mapping[str, Matcher],
        aets: AeTitles = ANY_CASE,
    ) -> None:
        self._loopback, self._rules, self._first_only, self._matchers = loopback, rules, first_only, matchers
        self._aets = aets

    def check(self) -> str | None:
        """Ask Orthanc whether it can answer each tag of each `Query`; return what it refuses, by its key.

        Raises
        ------
        LoopbackError : it can't answer anything now (its database is away), which is nothing against a rule.
        """
        for number, rule in enumerate(self._rules):
            for tag, wanted in rule.query.items():
                of_none = {UID_TAG_OF[rule.level]: "0"}
                plain: dict[str, Any] = {"Level": rule.level, "Query": of_none, "Limit": 1}
                try:
                    self._loopback.post("/tools/find", {**plain, "Query": {**of_none, tag: wanted}})
                except LoopbackError as error:
                    if error.status == 0:
                        raise
                    self._loopback.post("/tools/find", plain)
                    near = difflib.get_close_matches(tag, set().union(*ANSWERED.values()), 1)
                    meant = f" (did you mean {near[0]}?)" if near else ""
                    return f"Rules[{number}].Query.{one_line(tag)} (rule {rule.name!r}) is refused by Orthanc{meant}: {error}"
        return None

    def verdicts(self, batch: Batch, known: Sequence[str], every: Sequence[str]) -> list[Verdict]:
        """Return what each rule says, where only the first counts up to that.

        A rule that wants an origin takes only the instances that have it. The next rules are asked for the others, as they are
        where those arrive alone.

        `known` are the destinations there are, `every` those of a rule without a list of them, known or not.

        Raises
        ------
        LoopbackError : Orthanc can't answer now. What a matcher raises is raised as it is.
        """
        found = []
        for rule in self._rules:
            found.append(self._verdict(rule, batch, known, every))
            if found[-1].matched and self._first_only:  # also if its destinations are unknown: no other rule gets it
                batch = _without(batch, found[-1].instances)
                if not batch.instances:
                    break
        return found

    def possible(self, batch: Batch, known: Sequence[str], every: Sequence[str]) -> dict[str, set[str]]:
        """Return which instances each destination may get of a batch, now or when more has come that makes a rule match."""
        found: dict[str, set[str]] = {}
        for rule in self._rules:
            if rule.level == batch.level:
                names = known if rule.matcher else every if rule.destinations is None else rule.destinations
                for name in names:
                    found.setdefault(name, set()).update(_of_kind(rule, batch, self._from_origin(rule, batch)) or ())
        return found

    def _verdict(self, rule: Rule, batch: Batch, known: Sequence[str], every: Sequence[str]) -> Verdict:
        if rule.level != batch.level:
            return Verdict(rule, why=f"is for a {rule.level}, this is a {batch.level}")
        instances = self._from_origin(rule, batch)
        if any(vars(rule.origin).values()) and not instances:
            return Verdict(rule, why="no instance has this Origin")
        instances = _of_kind(rule, batch, instances)
        if (rule.sop_classes or rule.transfer_syntaxes) and not instances:
            return Verdict(rule, why="no instance has these SOPClasses and TransferSyntaxes")
        if rule.query and not self._answers(rule, batch):
            return Verdict(rule, why="Query does not match")
        names: Sequence[str] = every if rule.destinations is None else rule.destinations
        if rule.matcher:
            chosen = self._ask_matcher(rule.matcher, batch)
            names = [chosen] if chosen and isinstance(chosen, str) else list(chosen or ())
            if not names:
                return Verdict(rule, why="Matcher chose no destination")
        missing = [name for name in names if name not in known]
        unknown = [name for name in missing if name not in every and name not in (rule.destinations or ())]
        why = "matches" if names else "there is no destination"
        if unknown:
            why = f"unknown destinations are left out: {', '.join(unknown)}"
        elif missing:
            why = f"matches; what is for {', '.join(missing)} waits until Orthanc knows it"
        names = [name for name in names if name not in unknown]
        return Verdict(rule, tuple(names), instances, why, True, tuple(unknown))

    def _from_origin(self, rule: Rule, batch: Batch) -> tuple[str, ...] | None:
        """Return the instances of a batch with the origin that a rule wants."""
        if not any(vars(rule.origin).values()):
            return batch.instances
        return tuple(one for one in batch.origins if has_origin(rule.origin, batch.origins[one], self._aets))

    def _ask_matcher(self, name: str, batch: Batch) -> Any:
        described = self._describe(batch)
        try:
            return self._matchers[name](described)
        except Exception:
            raise
        except BaseException as error:  # its exit is not that of the thread that serves all
            raise RuntimeError(f"it ended with {type(error).__name__}") from error

    def _answers(self, rule: Rule, batch: Batch) -> bool:
        tag = UID_TAG_OF[batch.level]
        if (wanted := rule.query.get(tag)) and not _is_wanted(batch.uid, wanted):
            return False
        # To Orthanc a backslash would mean several. What else it finds by this does not matter: one StudyInstanceUID, too,
        # may belong to two patients, which are two studies of Orthanc.
        find = {"Level": batch.level, "Query": {**rule.query, tag: batch.uid.replace("\\", "?")}}
        return batch.resource in self._loopback.post("/tools/find", find)

    def _describe(self, batch: Batch) -> dict[str, Any]:
        content = self._loopback.get(f"/{PLURAL[batch.level]}/{batch.resource}")
        tags = {**content.get("PatientMainDicomTags", {}), **content["MainDicomTags"]}
        origins = [dict(origin) for origin in batch.origins.values()]
        return {
            "Level": batch.level,
            "ID": batch.resource,
            "Tags": tags,
            "Instances": None if batch.instances is None else len(batch.instances),
            "Origins": [origin for number, origin in enumerate(origins) if origin not in origins[:number]],
        }


# ---- src/forwarding/sent_instances.py: Which instance was given to which destination already, so that nothing is sent twice for nothing.


# Which instance, at which Seq and with which content, was given to a destination: until it is routed for the last time at
# every level (trigger Stored, rules of several levels), and as long as it is here where the same instance can come again
# (OverwriteInstances).
GIVEN_TABLE = """
CREATE TABLE IF NOT EXISTS given(
    destination TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY(instance, destination)) WITHOUT ROWID;
"""
GIVE = """
INSERT INTO given VALUES(?,?,?,?) ON CONFLICT(instance, destination) DO UPDATE SET seq=excluded.seq, digest=excluded.digest
"""
FORGET_ROUTED = (
    f"DELETE FROM given WHERE NOT {still_arrives('given.instance')} "
    f"AND instance NOT IN ({unfinished_keys('Instances', ROUTE)})"
)


class SentInstances:
    """The instances that destinations were given.

    Parameters
    ----------
    remembers : something may come to a destination twice; else nothing is written down.
    overwrites : the same instance can come again with the content that it has: it is remembered as long as it is here.
    """

    def __init__(self, ledger: Ledger, *, remembers: bool, overwrites: bool) -> None:
        self._ledger, self._remembers, self._overwrites = ledger, remembers, overwrites

    def add(self, destination: str, instance: str, seq: int, digest: str) -> bool:
        """Note that a destination gets an instance; return False if it was given the same already.

        Numbers of the log of changes rise. A negative one is of one arrival (Reconcile is false), 0 says nothing.
        """
        if not self._remembers:
            return True
        sql = "SELECT * FROM given WHERE instance=? AND destination=?"
        for given in self._ledger.rows(sql, instance, destination):
            if given["seq"] >= seq > 0 or given["seq"] == seq < 0 or (digest and given["digest"] == digest):
                return False
        self._ledger.run(GIVE, destination, instance, seq, digest)
        return True

    def given(self, destination: str, resources: Collection[str], instances: Collection[str]) -> set[str]:
        """Return which of these instances, of these resources, a destination was given, as far as that is remembered.

        A delivery that has ended is remembered for `KeepDoneDays`.
        """
        states = ("waiting", "sending", "done", "dead")
        rows = WorkView(self._ledger).find(Which(task=SEND, resources=[*resources, *instances], states=states))
        # What went to an alternate instead does not go to the destination too.
        about = [(row["queue"], json.loads(row["data"])) for row in rows]
        mine = [data for queue, data in about if destination in (queue, *data.get("MovedFrom", ()))]
        found = {one for data in mine for one in data["Instances"] or ()}
        sql = "SELECT instance FROM given WHERE destination=? AND instance IN (SELECT value FROM json_each(?))"
        found |= {row["instance"] for row in self._ledger.rows(sql, destination, json.dumps([*instances]))}
        return found.intersection(instances)

    def forget_routed(self) -> None:
        """Forget what no level has still to route, unless the same instance can come again."""
        if self._remembers and not self._overwrites:
            self._ledger.run(FORGET_ROUTED)

    def forget_deleted(self, instances: Iterable[str]) -> None:
        """Forget instances that were deleted."""
        with self._ledger.transaction() as db:
            db.executemany("DELETE FROM given WHERE instance=?", [(each,) for each in instances])

    def forget_numbers(self, place: int) -> None:
        """Forget the numbers beyond a place in the log of changes, which what comes from now on gets again."""
        self._ledger.run("UPDATE given SET seq=? WHERE seq>?", place, place)


# ---- src/forwarding/not_in_ledger.py: What of a catch-up a destination was not given yet, as far as the ledger remembers.


class NotInLedger:
    """Leaves out of a catch-up what the ledger knows of."""

    def __init__(self, context: Context, sent: SentInstances) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._sent = sent

    def of(self, batch: Batch, shares: Iterable[Share], received: float) -> list[Share]:
        """Return what goes where, without what a destination was given, and without what comes by itself.

        `received` (Unix time) is when the last of it came: what was sent whole after that had it.
        """
        family, some = family_of(self._loopback, batch.resource), set(batch.instances or ())
        routing = [json.loads(row["data"]) for row in self._work.find(Which(task=ROUTE, resource=batch.resource))]
        to_come = not_handed_over(self._ledger, batch.level, some)
        to_come |= {one for data in routing if "CatchUp" not in data for one in data["Instances"]}
        whole = {
            row["queue"]
            for row in self._work.find(Which(task=SEND, resources=family))
            if row["state"] != "gone" and row["created"] > received and json.loads(row["data"])["Instances"] is None
        }

        def left(destination: str, instances: set[str]) -> set[str]:
            if destination in whole:
                return set()
            return instances - to_come - self._sent.given(destination, family, instances)

        return [share._replace(instances=left(share.destination, share.instances)) for share in shares]


# ---- src/forwarding/passed_over.py: Which destinations did not get all of what came before, since no rule chose them: one may do so when more of it comes.


PASSED_OVER_TABLE = """
CREATE TABLE IF NOT EXISTS passed_over(resource TEXT PRIMARY KEY, destinations TEXT NOT NULL) WITHOUT ROWID;
"""
UPSERT_PASSED_OVER = """
INSERT INTO passed_over VALUES(?,?) ON CONFLICT(resource) DO UPDATE SET destinations=excluded.destinations
"""


def changing_levels(rules: Iterable[Rule]) -> set[str]:
    """Return the levels at which what a rule says of a resource may be another when more of it has come."""
    return {rule.level for rule in rules if rule.query or rule.matcher}


class PassedOver:
    """The destinations that were passed over, by resource: as long as it is here."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def of(self, resource: str) -> set[str]:
        """Return the destinations that have not been given all of a resource."""
        rows = self._ledger.rows("SELECT destinations FROM passed_over WHERE resource=?", resource)
        return set(json.loads(rows[0]["destinations"])) if rows else set()

    def note(self, resource: str, destinations: Collection[str]) -> None:
        """Write down which they are now."""
        if destinations:
            names = json.dumps(sorted(destinations))
            self._ledger.run(UPSERT_PASSED_OVER, resource, names)
        else:
            self._ledger.run("DELETE FROM passed_over WHERE resource=?", resource)

    def forget_deleted(self, resources: Iterable[str]) -> None:
        """Forget resources that were deleted."""
        with self._ledger.transaction() as db:
            db.executemany("DELETE FROM passed_over WHERE resource=?", [(each,) for each in resources])


# ---- src/forwarding/assignment.py: The rules applied to what arrived: a row for each destination that gets something of it.


ROUTE_AGAIN_SECONDS = 30.0  # after a failure, which is this server's or a matcher's own: nobody outside is bothered


class Assignment:
    """Takes the rows that are to be routed, asks the rules, and adds the rows that are to be sent."""

    def __init__(
        self,
        context: Context,
        router: Router,
        rows: Rows,
        destinations: Destinations,
        sent: SentInstances,
        passed_over: PassedOver,
        arrivals: Arrivals,
        deleter: Deleter | None,
    ) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._settings, self._stopping = context.settings, context.stopping
        self._router, self._rows, self._destinations = router, rows, destinations
        self._sent, self._passed_over, self._arrivals, self._deleter = sent, passed_over, arrivals, deleter
        self.loops, self._not_in_ledger = Loops(context, destinations), NotInLedger(context, sent)
        self._changing_levels = changing_levels(context.rules)
        self._has_queries = any(rule.query for rule in context.rules)
        self._has_kinds = any(rule.sop_classes or rule.transfer_syntaxes for rule in context.rules)

    def route(self) -> None:
        """Route all that is due.

        Raises
        ------
        LoopbackError : Orthanc does not answer; what is left is routed the next time.
        """
        while rows := self._ledger.due(NO_DESTINATION, PAGE, self._settings.retry.longest, ROUTE):
            for row in rows:
                if self._stopping.is_set():
                    return
                try:
                    self._route_one(row)
                except LoopbackError as error:
                    if error.status == 0:
                        raise
                    self._fail(row, str(error))
                except Exception as error:  # noqa: BLE001 - a matcher is a user's code
                    self._fail(row, repr_of(error))

    def _fail(self, row: Mapping[str, Any], why: str) -> None:
        with self._ledger.transaction():
            if not self._work.has(Which(ids=[row["id"]])):
                return  # a person has just dropped it
            self._work.add_attempt(row["id"])
            self._rows.fail({**row, "attempts": row["attempts"] + 1}, f"the rules can't be applied: {why}")
            self._work.change(row["id"], next_attempt=time.time() + ROUTE_AGAIN_SECONDS)

    def _route_one(self, row: Mapping[str, Any]) -> None:
        data = json.loads(row["data"])
        try:
            batch = self.batch_of(data, row["subject"])
            verdicts = self.verdicts(batch)
            shares = self.shares(batch, verdicts)
            wanted = {share.destination for share in shares if share.instances}
            if "CatchUp" in data:
                shares = self._not_in_ledger.of(batch, shares, data["CatchUp"])
            earlier, passed_over = self._earlier(batch, verdicts) if data["Last"] else ([], None)
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._end_gone(row, len(data["Instances"]))
            return
        with self._ledger.transaction():
            if self._stopping.is_set() or not self._work.remove(row["id"]):
                return  # nobody waited for DNS; or a person has just dropped it
            sent_to = wanted | self._add_rows(batch, shares, data, earlier)
            if passed_over is not None:
                self._passed_over.note(batch.resource, passed_over)
            if self._deleter and sent_to:
                left_out = {name for verdict in verdicts for name in verdict.unknown}
                self._deleter.note(batch.level, batch.resource, sent_to | left_out)
            if data["Last"]:
                self.loops.count(_own_in(shares))
        if data["Last"]:
            for instance in data["Instances"]:
                self._arrivals.forget(instance)
            if self._deleter:
                self._deleter.delivered(batch.resource)

    def shares(self, batch: Batch, verdicts: Iterable[Verdict]) -> list[Share]:
        """Return what goes where: each instance once to a destination, by the rule with the highest priority."""
        had: dict[str, set[str]] = {}
        found = []
        for verdict in sorted(verdicts, key=lambda each: -each.rule.priority):
            rule = typing.cast("ForwardingRule", verdict.rule)  # the router gives back those it was given
            for name in verdict.destinations:
                own = self.own_of(name, verdict.instances or (), batch.origins)
                some = self.may_go(verdict, own, batch.origins)
                found.append(Share(name, rule, some - had.setdefault(name, set()), own))
                had[name] |= some
        return found

    def _add_rows(
        self,
        batch: Batch,
        shares: Collection[Share],
        data: Mapping[str, Any],
        earlier: Collection[Share],
    ) -> set[str]:
        """Add the rows of what is sent; return the destinations that get some of it, or were given it already."""
        add, about, parents = self._sent.add, data["Instances"], _parents_in(data)
        below = BACKFILL_PRIORITY if "CatchUp" in data else 0  # what arrives is sent first
        new = [
            share._replace(instances={one for one in share.instances if add(share.destination, one, *about[one][::2])})
            for share in shares
        ]
        # What came earlier goes by its own rule, which may change it or not; it joins what goes by the same.
        for name, rule, instances, _ in (*new, *earlier):
            if instances:
                more = (rule.priority + below, parents, rule.alternates.get(name, ()), rule.changes)
                self._rows.add(batch.level, batch.resource, name, sorted(instances), *more)
        return {share.destination for share in (*shares, *earlier) if share.instances}

    def _end_gone(self, row: Mapping[str, Any], number: int) -> None:
        """Remove a row of what was deleted before a rule was applied to it."""
        with self._ledger.transaction():
            if self._work.remove(row["id"]):
                text = f"{number} instances of {name_of(row)} were deleted here before a rule was applied to them"
                self._rows.gone.note(number, text)

    def batch_of(self, data: Mapping[str, Any], resource: str) -> Batch:
        """Return what is to be routed, as rules see it; what a restart made us forget is read from Orthanc."""
        level, instances = data["Level"], tuple(data["Instances"])
        uid = data["UID"]
        if not uid and self._has_queries:
            content = self._loopback.get(f"/{PLURAL[level]}/{resource}")
            uid = content["MainDicomTags"].get(UID_TAG_OF[level], "")
        origins = {one: data["Origins"][number] for one, (_, number, _) in data["Instances"].items() if number >= 0}
        unknown = [
            one for one in instances if one not in origins or (self._has_kinds and "SopClassUid" not in origins[one])
        ]
        origins |= metadata_of(self._loopback, unknown)
        return Batch(level, resource, uid, instances, origins)

    def verdicts(self, batch: Batch) -> list[Verdict]:
        """Return what each rule says of a batch."""
        return self._router.verdicts(batch, list(self._destinations.known()), self._destinations.wanted())

    def own_of(
        self,
        destination: str,
        instances: Iterable[str],
        origins: Mapping[str, Mapping[str, str]],
        wait: float = LOOK_UP_SECONDS,
    ) -> set[str]:
        """Return which of these instances came from a destination; waits so many seconds for the addresses of its host."""
        return self.loops.came_from(destination, origins, wait).intersection(instances)

    def may_go(self, verdict: Verdict, own: Collection[str], origins: Mapping[str, Mapping[str, str]]) -> set[str]:
        """Return what a rule sends to a destination, from which `own` came: with SkipModified no copies."""
        instances = set(verdict.instances or ()).difference(own)
        if not self._settings.skip_modified:
            return instances
        return {one for one in instances if not {"ModifiedFrom", "AnonymizedFrom"} & origins.get(one, {}).keys()}

    def _earlier(self, batch: Batch, verdicts: list[Verdict]) -> tuple[list[Share], set[str] | None]:
        """Return what came before a batch for destinations that are chosen now and were passed over then; and who is now.

        None: nobody can be, as the rules of this level always say the same of a resource.
        """
        if batch.level not in self._changing_levels:
            return [], None
        before, left_out = self._passed_over.of(batch.resource), self._left_out(batch, verdicts)
        again = before.intersection(name for verdict in verdicts for name in verdict.destinations)
        here = set(instances_of(self._loopback, batch.level, batch.resource)) if again else set[str]()
        old = here and here - self._to_come(batch, here)
        if not old:
            return [], before | left_out
        data = {"Level": batch.level, "UID": batch.uid, "Origins": [], "Instances": {one: [0, -1, ""] for one in here}}
        whole = self.batch_of(data, batch.resource)
        verdicts, family = self.verdicts(whole), family_of(self._loopback, batch.resource)
        found = []
        for share in self.shares(whole, verdicts):
            if share.destination in again and (some := old & share.instances):
                left = some - self._sent.given(share.destination, family, some)
                found.append(share._replace(instances=left))
        return found, (before | left_out) - again | (self._left_out(whole, verdicts) & again)

    def _to_come(self, batch: Batch, instances: Iterable[str]) -> set[str]:
        """Return what is still to be routed of a resource, this batch too: it comes by itself."""
        rows = self._work.find(Which(task=ROUTE, resource=batch.resource))
        waiting = {one for row in rows for one in json.loads(row["data"])["Instances"]}
        return waiting | not_handed_over(self._ledger, batch.level, instances)

    def _left_out(self, batch: Batch, verdicts: list[Verdict]) -> set[str]:
        """Return the destinations that don't get all that they may want of a batch when more of the resource has come."""
        got: dict[str, set[str]] = {}
        for verdict in verdicts:
            for name in (*verdict.destinations, *verdict.unknown):
                got.setdefault(name, set()).update(verdict.instances or ())
        possible = self._router.possible(batch, list(self._destinations.known()), self._destinations.wanted())
        return {name for name, instances in possible.items() if not instances <= got.get(name, set())}


def _parents_in(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the study and the patient of what is to be routed, as far as they are known."""
    return {level: data[level] for level in ("Study", "Patient") if level in data}


def _own_in(shares: Iterable[Share]) -> dict[str, set[str]]:
    """Return what came from each destination itself."""
    own: dict[str, set[str]] = {}
    for share in shares:
        own.setdefault(share.destination, set()).update(share.own)
    return own


# ---- src/forwarding/bisection.py: A failed job does not name the instances that were refused: it is bisected until those are in rows of their own.


MANY_REFUSED = 16  # instances of a study that a destination refused one by one, until the rest is left together


class Bisection:
    """Parts the rows that failed although their destination answers."""

    def __init__(self, ledger: Ledger, loopback: Loopback) -> None:
        self._ledger, self._work, self._loopback = ledger, Work(ledger), loopback

    def retry_failed(self, destination: str, was_silent: bool) -> None:
        """Let all be due that failed at a destination that answers again, in halves what failed although it was there.

        What failed more than once although it was there waits for its time: else it would be sent again and again.

        Parameters
        ----------
        was_silent : it did not answer a probe since it failed: then that was the reason.
        """
        due: list[int] = []
        for row in self._work.find(Which(task=SEND, queue=destination, states=("waiting",), tried=True)):
            data = json.loads(row["data"])
            # What failed although the destination is there: it refuses the content.
            if data.pop("Suspect", None) and not was_silent and self._is_worth_halving(row, data):
                self._halve(row, data)
            elif not data.get("Refused") and (was_silent or row["attempts"] <= 1):
                due.append(row["id"])
        self._work.make_due(Which(ids=due))

    def _is_worth_halving(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        """Return False for what is alone in its row, and where many are and none was accepted: then it refuses all."""
        if data.get("Refused"):
            return False
        parts = Which(task=SEND, queue=row["queue"], states=("waiting", "dead"), data={"Of": row["subject"]})
        arrived = Which(task=SEND, queue=row["queue"], resource=row["subject"], states=("done",))
        return self._work.count(parts) < MANY_REFUSED or self._work.has(arrived)

    def _halve(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        instances = data["Instances"]
        if instances is None:  # asked before the transaction, for which callbacks and routes wait
            instances = instances_of(self._loopback, data["Level"], row["subject"])
        with self._ledger.transaction():
            if not self._work.replace_data(row, data):
                return  # a person has dropped it, or more of the study has joined it
            data.pop("Gone", None)
            if len(instances) > 1:
                middle = len(instances) // 2
                self._work.change(row["id"], data={**data, "Instances": instances[:middle]}, next_attempt=0)
                rest = {**data, "Instances": instances[middle:]}
                self._ledger.add(row["queue"], row["subject"], rest, row["priority"])
            elif instances:
                # Its own subject: the rest of the study does not wait for it.
                alone = {**data, "Refused": True, "Of": row["subject"], "OfLevel": data["Level"], "Level": "Instance"}
                self._work.change(row["id"], data={**alone, "Instances": instances}, subject=instances[0])


# ---- src/forwarding/catch_up.py: Catching up: what was received since a time, and is not in the ledger, goes where the rules say.


class CatchUp:
    """Reads the log of changes once more, a page a turn, and adds a row for each resource that is to be routed.

    Parameters
    ----------
    assignment : says what the rules would send where.
    """

    def __init__(self, context: Context, assignment: Assignment, not_in_ledger: NotInLedger) -> None:
        self._name, self._ledger, self._loopback = context.name, context.ledger, context.loopback
        self._wake, self._stopping = context.wake, context.stopping
        self._assignment, self._not_in_ledger = assignment, not_in_ledger
        self._levels = [level for level in LEVELS if any(rule.level == level for rule in context.rules)]
        self._log = ChangeLogReader(context.ledger, context.loopback.get)
        self.is_under_way = self._log.left is not None
        """Whether there is more to read."""

    def read(self) -> None:
        """Read a page, if somebody has asked for it; the rows and the place are written together."""
        if (span := self._log.left) is None:
            self.is_under_way = False
            return
        page = self._log.read(span)
        rows = self._rows_for(page.changes, page.instances)
        with self._ledger.transaction():
            for resource, data in rows:
                self._ledger.add(NO_DESTINATION, resource, data, BACKFILL_PRIORITY, task=ROUTE)
            self._log.note(page.rest)
        self.is_under_way = bool(page.rest.changes)
        if not self.is_under_way:
            orthanc.LogWarning(f"{self._name}: the catch-up has read all that was received up to when it was asked for")

    def _rows_for(self, changes: Iterable[Mapping[str, Any]], instances: list[str]) -> list[tuple[str, dict[str, Any]]]:
        """Return resource and data of a row for each resource of some instances that are here still."""
        wanted, dates = set(instances), [parse_orthanc_time(each["Date"]) for each in changes]
        received = max((date.timestamp() for date in dates if date), default=time.time())
        found: dict[tuple[str, str], tuple[dict[str, str], list[str]]] = {}
        series = series_of(self._loopback, instances)
        patients = _patients_of(self._loopback, {each["ParentStudy"] for each in series})
        for each in series:
            study = each["ParentStudy"]
            above = {"Series": each["ID"], "Study": study, "Patient": patients.get(study, "")}
            for level in self._levels:
                if above[level]:
                    some = found.setdefault((level, above[level]), (above, []))[1]
                    some += sorted(wanted.intersection(each["Instances"]))
        return [
            (
                resource,
                {
                    **{"Level": level, **place_of(level, resource, above), "UID": "", "Last": True},
                    **{"Instances": {one: [0, -1, ""] for one in some}, "Origins": [], "CatchUp": received},
                },
            )
            for (level, resource), (above, some) in found.items()
        ]

    # Routes

    def ask(self, request: Request) -> Answer:
        """Begin, or count, what a person asks for."""
        since = since_of(request.parameters)
        span, is_dry = self._log.find(since), request.parameters.get("DryRun", True)
        about = {"Since": utc(since.timestamp()), "Changes": span.changes, "DryRun": is_dry}
        if is_dry:
            # A matcher is a user's code, and may need any stack.
            return Answer({**about, **in_a_thread(lambda: self._count(span), f"{self._name} catch-up")})
        self._log.begin(span)
        self.is_under_way = True
        orthanc.LogWarning(f"{self._name}: somebody asked to catch up since {utc(since.timestamp())}")
        self._wake.set()
        return Answer(about, 202)

    def state(self) -> dict[str, Any]:
        """Return whether one is under way, and how many changes are left to read."""
        return self._log.state()

    def _count(self, span: Span) -> dict[str, Any]:
        studies, seen, by_destination = set[str](), set[str](), dict[str, int]()
        last = span.place + COUNTED_CHANGES
        while span.changes and span.place < last and not self._stopping.is_set():
            page = self._log.read(span)
            for resource, data in self._rows_for(page.changes, [one for one in page.instances if one not in seen]):
                studies.update([data.get("Study", resource)])
                seen.update(data["Instances"])
                for share in self._shares(data, resource):
                    before = by_destination.get(share.destination, 0)
                    by_destination[share.destination] = before + len(share.instances)
            span = page.rest
        counted = {"Studies": len(studies), "Instances": len(seen), "Destinations": by_destination}
        return {**counted, "Complete": not span.changes}

    def _shares(self, data: Mapping[str, Any], resource: str) -> list[Share]:
        batch = self._assignment.batch_of(data, resource)
        shares = self._assignment.shares(batch, self._assignment.verdicts(batch))
        return self._not_in_ledger.of(batch, shares, data["CatchUp"])


def _patients_of(loopback: Loopback, studies: set[str]) -> dict[str, str]:
    body = {"Resources": sorted(studies), "Level": "Study", "Short": True, "Metadata": False}
    found = loopback.post("/tools/bulk-content", body) if studies else []
    return {each["ID"]: each["ParentPatient"] for each in found}


# ---- src/forwarding/failures.py: What a failed job of Orthanc says of what it has sent, and of why it failed.


# "Duplicate SOP Instance" (PS3.7 C.5.7). 1.12.7 and later count it as success themselves.
DUPLICATE = "DIMSE status 0x0111"
REJECTED = "Association Rejected"
NOT_SUPPORTED = "DIMSE status 0x0122"  # "SOP class not supported" (PS3.7 C.5.6)
NOT_NEGOTIATED = (
    "No valid presentation context was negotiated"  # for an image that is sent alone, in its own syntax only
)
# What Orthanc says where a node accepts no presentation context for an image: 1.10.1 says "to one of [ ]" of a SOP class, too.
NOT_ACCEPTED = re.compile(
    rf"Cannot transcode .*to one of \[(.*?)\]|has not accepted any TransferSyntax|{NOT_SUPPORTED}|{NOT_NEGOTIATED}"
)
TOLD_EXACTLY = 100  # instances of a job up to which its progress, in whole per cent, says which one failed


def was_out_of_reach(why: str) -> bool:
    """Return whether a job failed before anything was sent: then the destination has nothing against the content.

    DCMTK says "Peer aborted Association (or never connected)" of a peer that breaks off in the middle, too. Of a password that
    is wrong Orthanc says "Bad credentials".
    """
    return any(word in why.lower().replace("(or never connected)", "") for word in ("connect", "bad credentials"))


def is_duplicate(why: str) -> bool:
    """Return whether a node refused an instance because it has it already."""
    return DUPLICATE in why


def is_rejected(why: str) -> bool:
    """Return whether a node rejected the association of a job (A-ASSOCIATE-RJ; Orthanc does not say for which reason)."""
    return REJECTED in why


def is_not_accepted(why: str) -> bool:
    """Return whether a node can't take an image: it accepts neither its SOP class nor a transfer syntax that Orthanc can make."""
    return NOT_ACCEPTED.search(why) is not None


def explain_not_accepted(name: str, sop_class: str, syntax: str, why: str) -> str:
    """Return what a node can't take, in DICOM's words, from what was asked for and what Orthanc says."""
    asked = f"{shown_uid(sop_class)} in {shown_uid(syntax) or 'an unknown transfer syntax'}"
    if NOT_SUPPORTED in why:
        return f"{name} does not support the SOP class of {asked} (0x0122)"
    if NOT_NEGOTIATED in why:
        return (
            f"{name} accepts no presentation context for {asked}; an image that is changed on the way is sent in this transfer "
            "syntax only (Transcode of the rule's Modify chooses another)"
        )
    found = NOT_ACCEPTED.search(why)
    if found and (accepted := (found[1] or "").split()):
        only = ", ".join(map(shown_uid, accepted))
        return f"{name} accepts no presentation context for {asked}, only for {only}, which Orthanc can't make of it"
    return f"{name} accepts no presentation context for the SOP class of {asked}"


def sent_before_failure(job: Mapping[str, Any] | None, number: int) -> tuple[int, int]:
    """Return how many instances a failed job has sent well, at least and at most, of `number`, in the order it was given.

    Orthanc rounds its progress to the nearest per cent. Nothing is known of a job that Orthanc has forgotten, nor of one that
    was not given all (some were deleted).
    """
    if job is None or job.get("Content", {}).get("InstancesCount") != number:
        return 0, number
    twice = 2 * int(job.get("Progress", 0))
    return max(0, -(-number * (twice - 1) // 200)), min(number - 1, number * (twice + 1) // 200)


# ---- src/forwarding/verification.py: Whether what a destination took is there: asked of it, beside the work of sending.


ROWS_PER_QUESTION = 100
NAMED_PER_QUESTION = 1000  # instances by name, from which on no further row joins
LARGEST_WHOLE = (
    2000  # instances of a resource that is asked for by its series; more would hold up the peer's other work
)
SHARE_SECONDS = 0.25  # between two questions: rows that end meanwhile share one, for each takes a connection of its own


class Asked(NamedTuple):
    """What a row asks for: instances by name, or all that a resource of this level has here (`whole`)."""

    instances: tuple[str, ...]
    whole: str = ""
    level: str = ""


class Verified(NamedTuple):
    """What came of a row: the instances that are missing there, or why it could not be asked."""

    row: int
    asked: tuple[str, ...]
    missing: tuple[str, ...]
    error: str


class Verifier:
    """Asks each destination in a thread of its own, as long as there is something to ask; `answers` wait for the worker."""

    def __init__(self, has: Has, loopback: Loopback, wake: threading.Event) -> None:
        self.answers: deque[Verified] = deque()
        self._has, self._loopback, self._wake, self._lock = has, loopback, wake, threading.Lock()
        self._rows: dict[int, str] = {}  # that were added and not taken out, with their destinations
        self._waiting: dict[str, dict[int, Asked]] = {}
        self._alone: set[int] = set()  # rows that share no question any more
        self._asking: set[str] = set()  # destinations that have a thread

    def add(self, destination: str, row: int, asked: Asked) -> None:
        """Ask for a row; one that is being asked for is not asked for again."""
        with self._lock:
            if row in self._rows:
                return
            self._rows[row] = destination
            self._waiting.setdefault(destination, {})[row] = asked
            if destination not in self._asking:
                threading.Thread(target=self._ask, args=(destination,), name=f"asks {destination}", daemon=True).start()
                self._asking.add(destination)

    def is_under_way(self, row: int) -> bool:
        """Return whether a row is being asked for."""
        return row in self._rows

    def number(self, destination: str) -> int:
        """Return the number of rows of a destination that are being asked for: their jobs have ended."""
        with self._lock:
            return sum(each == destination for each in self._rows.values())

    def first(self) -> Verified | None:
        """Return the next answer, which stays until it is taken: what it means is written down first."""
        return self.answers[0] if self.answers else None

    def take(self) -> Verified | None:
        """Return the next answer, or None."""
        if not self.answers:
            return None
        answer = self.answers.popleft()
        with self._lock:
            self._rows.pop(answer.row, None)
        return answer

    def _ask(self, destination: str) -> None:
        time.sleep(SHARE_SECONDS)
        while rows := self._next(destination):
            wanted, there, error = dict[int, tuple[str, ...]](), set[str](), ""
            try:
                wanted = self._instances_of(rows)
                whole = [one.whole for row, one in rows.items() if one.whole and len(wanted[row]) <= LARGEST_WHOLE]
                there = self._has(destination, sorted({one for some in wanted.values() for one in some}), whole)
            except Exception as found:  # noqa: BLE001 - whatever it is, it is no proof
                if isinstance(found, ValueError) and len(rows) > 1:  # it may be about one of them alone
                    self._ask_one_by_one(destination, rows)
                    continue
                error = one_line(found) or repr(found)
            for row in rows:
                some = wanted.get(row, ())
                missing = () if error else tuple(one for one in some if one not in there)
                self.answers.append(Verified(row, some, missing, error))
            self._wake.set()
            time.sleep(SHARE_SECONDS)

    def _instances_of(self, rows: Mapping[int, Asked]) -> dict[int, tuple[str, ...]]:
        """Return the instances of each row, by the lists of the series that are here."""
        listed: dict[str, list[str]] = {asked.whole: [] for asked in rows.values() if asked.whole}
        patients = {asked.whole for asked in rows.values() if asked.level == "Patient"}
        # A series names itself and its study, and no patient.
        for resources in filter(None, (listed.keys() - patients, *({patient} for patient in patients))):
            # A series lists its instances: their own content would cost as much as what is asked of the destination.
            body = {"Resources": list(resources), "Level": "Series", "Short": True, "Metadata": False}
            for series in self._loopback.post("/tools/bulk-content", body):
                for parent in resources & ({series["ID"], series["ParentStudy"]} | patients):
                    listed[parent] += series["Instances"]
        return {row: tuple(listed[asked.whole]) if asked.whole else asked.instances for row, asked in rows.items()}

    def _next(self, destination: str) -> dict[int, Asked]:
        """Return rows for one question; without any, the thread ends."""
        with self._lock:
            waiting, rows, number = self._waiting[destination], dict[int, Asked](), 0
            while waiting and number < NAMED_PER_QUESTION and len(rows) < ROWS_PER_QUESTION:
                row = next(iter(waiting))
                if rows and row in self._alone:
                    break
                rows[row] = waiting.pop(row)
                number += len(rows[row].instances)
                if row in self._alone:
                    self._alone.discard(row)
                    break
            if not rows:
                self._asking.discard(destination)
            return rows

    def _ask_one_by_one(self, destination: str, rows: Mapping[int, Asked]) -> None:
        """Put rows back, each for a question of its own."""
        with self._lock:
            self._alone.update(rows)
            self._waiting[destination] = {**rows, **self._waiting[destination]}


class Verification:
    """What a row has to do with the question whether its destination has what it took (`Verify`)."""

    def __init__(self, context: Context, destinations: Destinations, rows: Rows, verifier: Verifier | None) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._settings, self._destinations, self._rows, self._verifier = context.settings, destinations, rows, verifier
        # Where an image may come again with another content, that it is there does not say which.
        self._asks_after_failure = context.transport.asks_after_failure and not may_overwrite(context.configuration)
        # Rows whose job has failed and that are being asked for: the destination, and why.
        self._failed: dict[int, tuple[str, str]] = {}

    def begin(self, row: Mapping[str, Any], failed: str = "") -> bool:
        """Ask the destination of a row, if that is wanted of it; return whether it is. The row stays `sending` meanwhile.

        Parameters
        ----------
        failed : why its job has failed, if it has: some of it may have arrived all the same.
        """
        if is_changed(row):  # it may have another identifier there; who took it has said of each image that it has it
            return False
        options = self._settings.destination_options.get(row["queue"])
        is_wanted = self._asks_after_failure if failed else options and options.is_verified
        if self._verifier is None or not is_wanted:
            return False
        if failed:
            self._failed[row["id"]] = row["queue"], failed
        data = json.loads(row["data"])
        if data["Instances"] is not None:
            asked = Asked(tuple(data["Instances"]))
        elif data["Level"] == "Instance":
            asked = Asked((row["subject"],))
        else:
            asked = Asked((), row["subject"], data["Level"])
        self._verifier.add(row["queue"], row["id"], asked)
        return True

    def is_under_way(self, row: int) -> bool:
        """Return whether a row is being asked for: its job has ended."""
        return self._verifier is not None and self._verifier.is_under_way(row)

    def number(self, destination: str) -> int:
        """Return the number of rows of a destination that are being asked for, and whose job has succeeded."""
        if self._verifier is None:
            return 0
        failed = sum(
            name == destination for name, _ in self._failed.values()
        )  # what else waits is held back until then
        return self._verifier.number(destination) - failed

    def settle(self, fail: Callable[[Mapping[str, Any], str], None]) -> None:
        """Write down the answers that have come.

        Parameters
        ----------
        fail : lets a row fail whose job has failed, for a reason.
        """
        while self._verifier and (answer := self._verifier.first()):
            row = self._work.get(answer.row)
            if row and row["state"] == "sending":  # else a person has dropped it
                if answer.row in self._failed:
                    self._settle_failed(row, answer, fail)
                else:
                    self._settle_one(row, answer)
            self._verifier.take()
            self._failed.pop(answer.row, None)

    def _settle_one(self, row: Mapping[str, Any], answer: Verified) -> None:
        if answer.error:
            data = {**json.loads(row["data"]), "Sent": True}
            why = f"{row['queue']} took it, and can't be asked whether it has it: {answer.error}"
            self._rows.fail({**row, "data": json.dumps(data)}, why)
        elif answer.missing:
            self._send_missing(row, answer)
        else:
            self._rows.end_delivered(row)

    def _settle_failed(
        self, row: Mapping[str, Any], answer: Verified, fail: Callable[[Mapping[str, Any], str], None]
    ) -> None:
        """End what has arrived although the job has failed; let only the rest fail."""
        arrived = sorted({*answer.asked} - {*answer.missing}) if not answer.error else []
        if arrived and not answer.missing:
            self._rows.end_delivered(row)
            return
        if arrived:
            data = json.loads(row["data"])
            delivered, rest = ({**data, "Instances": some} for some in (arrived, [*answer.missing]))
            with self._ledger.transaction():
                self._work.change(row["id"], data=delivered)
                self._rows.end_delivered({**row, "data": json.dumps(delivered)})
                row = {**row, "data": json.dumps(rest)}
                row["id"] = self._ledger.add(row["queue"], row["subject"], rest, row["priority"])
                self._work.claim(row["id"])  # what a person sends now gets a row of its own
                self._work.change(row["id"], attempts=row["attempts"])
        fail(row, self._failed[answer.row][1])

    def _send_missing(self, row: Mapping[str, Any], answer: Verified) -> None:
        """Send what the destination took and does not have again, in a row of its own, for which the rest does not wait."""
        found = json.loads(row["data"])
        data = {key: value for key, value in found.items() if key not in ("Sent", "Gone")}
        here = still_here(self._loopback, answer.missing)
        why = f"{row['queue']} took {len(answer.asked)} instances and does not have {len(answer.missing)} of them (Verify)"
        with self._ledger.transaction():
            gone = len(answer.missing) - len(here) - found.get("Gone", 0)
            if gone > 0 and (here or len(answer.missing) < len(answer.asked)):
                self._rows.note_gone(row, gone)
            if len(answer.missing) < len(answer.asked):
                arrived = {**data, "Instances": sorted({*answer.asked} - {*answer.missing})}
                self._work.change(row["id"], data=arrived)
                self._rows.end_delivered({**row, "data": json.dumps(arrived)})
                if not here:
                    return
                row = {**row, "id": self._ledger.add(row["queue"], here[0], data, row["priority"])}
                self._work.change(row["id"], attempts=row["attempts"])
            elif not here:
                self._rows.end_gone(row)
                return
            whole = {"Of": data.get("Of", row["subject"]), "OfLevel": data.get("OfLevel", data["Level"])}
            alone = {**data, **whole, "Refused": True, "Level": "Instance", "Instances": here}
            self._work.change(row["id"], subject=here[0])
            self._rows.fail({**row, "subject": here[0], "data": json.dumps(alone)}, why)
            self._destinations.health_of(row["queue"]).succeeded()


# ---- src/forwarding/outcomes.py: What becomes of a row whose job has ended: all of it was delivered, a part of it, or nothing.


class Outcomes:
    """Settles rows by how their jobs have ended."""

    def __init__(self, context: Context, destinations: Destinations, rows: Rows, verification: Verification) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._destinations, self._rows, self._verification = destinations, rows, verification

    def settle_delivered(self, row: Mapping[str, Any]) -> None:
        """Settle a row whose destination took all of it."""
        health = self._destinations.health_of(row["queue"])
        health.identity.used()
        if health.identity.wrong:
            self._work.take_back(row["id"])
        elif not self._verification.begin(row):
            self._rows.end_delivered(row)

    def settle_failed(self, row: Mapping[str, Any]) -> bool:
        """Settle a row whose job has failed; return whether what waits in Orthanc for the destination is to be called back."""
        job = get_job(self._loopback, row["job"])
        _, why = ending_of(job, reported=False)
        if self._is_turned_away(row, why):
            return True
        left, has_advanced = self._settle_part(row, job, why)
        if left is None:
            return False
        if has_advanced and is_duplicate(why):  # nothing is wrong there, and what comes behind it was not tried yet
            self._work.take_back(left["id"])
            self._destinations.health_of(row["queue"]).succeeded()
            return False
        return self._fail_left(left, why, has_advanced=has_advanced)

    def settle_left(self, row: Mapping[str, Any], why: str, *, has_advanced: bool) -> bool:
        """Settle a row that holds what its destination has not acknowledged; return as `settle_failed`."""
        if self._is_turned_away(row, why):
            return True
        return self._fail_left(row, why, has_advanced=has_advanced)

    def _is_turned_away(self, row: Mapping[str, Any], why: str) -> bool:
        """Return whether a node took nothing because it has another association; then it gets one at a time from now on."""
        if is_rejected(why) and self._is_another_under_way(row):
            self._destinations.narrow(row["queue"])
            self._work.take_back(row["id"])
            return True
        return False

    def _fail_left(self, row: Mapping[str, Any], why: str, *, has_advanced: bool) -> bool:
        if is_not_accepted(why):
            self._settle_not_accepted(row, why)
            return False
        if has_advanced:  # whatever stopped it, each attempt leaves less: it need not wait ever longer
            self._work.change(row["id"], attempts=1)
        self.fail(row, why, has_advanced=has_advanced)
        return True

    def is_asked_for(self, row: Mapping[str, Any]) -> bool:
        """Ask the destination of a row whose job has failed what has arrived all the same; return whether it can be asked."""
        _, why = ending_of(get_job(self._loopback, row["job"]), reported=False)
        return self._verification.begin(row, failed=why)

    def fail(self, row: Mapping[str, Any], why: str, *, has_advanced: bool = False) -> None:
        """Let a row fail whose job has failed, and hold back what else is to be sent there until the destination answers."""
        data = {**json.loads(row["data"]), "Suspect": not (has_advanced or was_out_of_reach(why))}
        self._rows.fail({**row, "data": json.dumps(data)}, why)
        self._destinations.health_of(row["queue"]).failed(one_line(why))

    def _settle_not_accepted(self, row: Mapping[str, Any], why: str) -> None:
        """Try what a node can't take rarely, apart from what it can: by SOP class and transfer syntax."""
        data, kinds = json.loads(row["data"]), dict[tuple[str, str], list[str]]()
        instances = data["Instances"] or instances_of(self._loopback, data["Level"], row["subject"])
        for instance, about in metadata_of(self._loopback, instances).items():
            kinds.setdefault((about.get("SopClassUid", ""), about.get("TransferSyntax", "")), []).append(instance)
        self._destinations.health_of(row["queue"]).succeeded()  # it is there
        if not kinds:
            self._rows.end_gone(row)
        elif len(kinds) > 1:  # which of them it is, each of them shows when it is sent alone
            self._rows.divide(row, *kinds.values())
            self._work.take_back(row["id"])
        else:
            [((sop_class, syntax), same)] = kinds.items()
            syntax = (data.get("Modify") or {}).get("Transcode") or syntax
            self._rows.fail_rarely(row, same, explain_not_accepted(row["queue"], sop_class, syntax, why))

    def _is_another_under_way(self, row: Mapping[str, Any]) -> bool:
        """Return whether something else is sent to the same destination, or has just been: then the node is there, and busy."""
        for other in self._work.find(Which(task=SEND, queue=row["queue"], states=("sending",))):
            if other["id"] != row["id"] and is_changed(other):
                return True
            if other["id"] != row["id"] and other["job"]:
                job = get_job(self._loopback, other["job"])
                if job and job["State"] in ("Running", "Success"):
                    return True
        return False

    def _settle_part(
        self, row: Mapping[str, Any], job: Mapping[str, Any] | None, why: str
    ) -> tuple[Mapping[str, Any] | None, bool]:
        """Settle the part of a row that its failed job has delivered; return the row with what is left, if anything is.

        The second value says whether that is less than before, or named instance by instance for the first time: the job of a
        whole resource does not say which instances it has sent.
        """
        data, duplicate = json.loads(row["data"]), is_duplicate(why)
        if not duplicate and not (job and job.get("Progress")):
            return row, False
        instances = data["Instances"] or instances_of(self._loopback, data["Level"], row["subject"])
        named = set((job or {}).get("Content", {}).get("ParentResources", ()))
        is_told = named == {*instances} or len(instances) == 1
        least, most = sent_before_failure(job, len(instances)) if is_told else (0, len(instances))
        number = min(len(instances), least + 1 if duplicate and least == most else least)
        left = instances[number:]
        if number and not left:
            self.settle_delivered(row)
            return None, True
        if number:
            with self._ledger.transaction():  # what a person sends in between would join the part that is there
                row, part = self._rows.divide(row, left, instances[:number])
                self._work.claim(part["id"], row["job"])
            self.settle_delivered(part)
        if duplicate and least < most and len(left) > TOLD_EXACTLY:
            return self._rows.divide(row, left[:TOLD_EXACTLY], left[TOLD_EXACTLY:])[0], True
        if left and not is_told and not named <= {*instances}:
            return self._rows.divide(row, left)[0], True
        return row, number > 0


# ---- src/forwarding/changed.py: Deliveries whose images are changed on the way: each image is changed and sent alone, by no job, in a thread for each row.


IMAGES_PER_TURN = 50  # of a row, until others may come: what a person holds back ends here, and a kill repeats no more
# Until Orthanc has changed an image, or a node has taken it: the largest, over a slow line. Orthanc's own timeouts end it before.
LONGEST_STEP_SECONDS = 900.0


@dataclasses.dataclass
class Progress:
    """What became of the instances of a row.

    Attributes
    ----------
    instances : what it holds, in the order in which they are sent.
    finished : what the destination has acknowledged.
    gone : what was deleted here.
    unchanged : what can't be changed, and so was not sent; `why_unchanged` of the first.
    why : what stopped it; "": nothing.
    is_own_fault : this Orthanc did, not the destination.
    """

    row: int
    instances: list[str] = dataclasses.field(default_factory=list)
    finished: list[str] = dataclasses.field(default_factory=list)
    gone: list[str] = dataclasses.field(default_factory=list)
    unchanged: list[str] = dataclasses.field(default_factory=list)
    why_unchanged: str = ""
    why: str = ""
    is_own_fault: bool = False
    seconds: float = 0.0


class ChangedDeliveries:
    """Sends rows with a `Modify`, each in a thread; what has come of them waits for the worker.

    No such row ever becomes a job: that would send its images as they are in the archive.
    """

    def __init__(self, context: Context, destinations: Destinations, rows: Rows, verification: Verification) -> None:
        self._work, self._ledger, self._loopback = Work(context.ledger), context.ledger, context.loopback
        self._deliver, self._wake, self._stopping = context.transport.deliver, context.wake, context.stopping
        self._destinations, self._rows = destinations, rows
        self._outcomes = Outcomes(context, destinations, rows, verification)
        self._ended: deque[Progress] = deque()
        self._under_way: dict[
            int, str
        ] = {}  # rows that have a thread, or whose end was not settled, and their destinations

    def is_under_way(self, row: int) -> bool:
        """Return whether a row is being sent."""
        return row in self._under_way

    def number(self, destination: str) -> int:
        """Return the number of rows of a destination that are being sent."""
        return sum(each == destination for each in self._under_way.values())

    def submit(self, row: Mapping[str, Any]) -> None:
        """Begin to send a row that is `sending`; return at once."""
        data = json.loads(row["data"])
        try:
            changes = Changes.of(data["Modify"])
        except UnchangedError as error:
            self._rows.fail(row, str(error))
            return
        self._under_way[row["id"]] = row["queue"]
        arguments = (row["id"], row["queue"], data["Level"], row["subject"], data["Instances"], changes)
        threading.Thread(target=self._run, args=arguments, name=f"changes for {row['queue']}", daemon=True).start()

    # The thread of a row

    def _run(
        self, row: int, destination: str, level: str, resource: str, instances: list[str] | None, changes: Changes
    ) -> None:
        begun, progress = time.monotonic(), Progress(row)
        try:
            self._loopback.wait_longer(LONGEST_STEP_SECONDS)
            progress.instances = instances_of(self._loopback, level, resource) if instances is None else instances
            self._send_all(progress, destination, changes)
        except LoopbackError as error:
            progress.why, progress.is_own_fault = str(error), True
        except Exception as error:  # noqa: BLE001 - whatever it is, the row is not to wait for ever
            progress.why, progress.is_own_fault = repr_of(error), True
        finally:
            self._loopback.close()
        progress.seconds = time.monotonic() - begun
        self._ended.append(progress)
        self._wake.set()

    def _send_all(self, progress: Progress, destination: str, changes: Changes) -> None:
        for instance in progress.instances[:IMAGES_PER_TURN]:
            if self._stopping.is_set():
                return
            content = self._changed(progress, instance, changes)
            if content is None:
                continue
            progress.why = self._why_not_taken(destination, content)
            del content  # before the next one is there: of large ones, two are too many
            if progress.why:
                return
            progress.finished.append(instance)

    def _changed(self, progress: Progress, instance: str, changes: Changes) -> bytes | None:
        """Return the changed file of an instance; None: there is none, and it is noted why."""
        try:
            return changes.apply(self._loopback, instance)
        except LoopbackError as error:
            if error.status == 0:
                raise
            if error.status == 404 and not still_here(self._loopback, [instance]):
                progress.gone.append(instance)
                return None
            why = str(error)
        except UnchangedError as error:
            why = str(error)
        progress.unchanged.append(instance)
        progress.why_unchanged = progress.why_unchanged or f"it can't be changed on the way, and is not sent: {why}"
        return None

    def _why_not_taken(self, destination: str, content: bytes) -> str:
        """Send a changed file; return why its destination has not taken it, or ""."""
        try:
            if self._deliver is None:
                raise ValueError("nothing can be changed on the way to it")
            self._deliver(self._loopback, destination, content)
        except LoopbackError as error:
            # Without the route, in which a destination's name may look like a reason.
            why = str(error).partition(": ")[2] if error.status else f"Orthanc does not answer for {destination}"
            return "" if is_duplicate(why) else why
        except (OSError, http.client.HTTPException) as error:
            return f"can't connect to {destination}, or it broke off: {error}"
        except ValueError as error:
            return str(error)
        return ""

    # The worker

    def settle(self, cancel_pending: Callable[[str], None]) -> None:
        """Settle the rows whose threads have ended.

        Parameters
        ----------
        cancel_pending : calls back what else waits in Orthanc for a destination that has failed.
        """
        while self._ended:
            progress = self._ended[0]
            row = self._work.get(progress.row)
            if row and row["state"] == "sending":
                self._settle(row, progress, cancel_pending)
            self._ended.popleft()
            self._under_way.pop(progress.row, None)

    def _settle(self, row: Mapping[str, Any], progress: Progress, cancel_pending: Callable[[str], None]) -> None:
        named = json.loads(row["data"])["Instances"]
        held = progress.instances if named is None else named
        what_became = dict.fromkeys(progress.finished, "finished")
        what_became |= dict.fromkeys(progress.gone, "gone") | dict.fromkeys(progress.unchanged, "unchanged")
        groups: dict[str, list[str]] = {"left": [], "finished": [], "unchanged": [], "gone": []}
        for one in held:
            groups[what_became.get(one, "left")].append(one)
        gone = groups.pop("gone")
        if not any(groups.values()):
            if progress.why:  # it could not even be asked what the row holds
                self._rows.fail(row, progress.why)
            else:
                self._rows.end_gone(row)
            return
        parts = self._divide(row, {kind: some for kind, some in groups.items() if some}, len(gone))
        if delivered := parts.get("finished"):
            self._outcomes.settle_delivered(delivered)
            self._destinations.health_of(row["queue"]).seconds_of_job = progress.seconds
        if aside := parts.get("unchanged"):
            self._rows.set_aside(aside, groups["unchanged"], progress.why_unchanged)
        if left := parts.get("left"):
            self._settle_left(left, progress, cancel_pending)

    def _divide(
        self, row: Mapping[str, Any], groups: Mapping[str, Sequence[str]], gone: int
    ) -> dict[str, Mapping[str, Any]]:
        """Give each group of instances a row that is `sending`, the first of them this one; return the rows by group."""
        with self._ledger.transaction():
            rows = self._rows.divide(row, *groups.values())
            for other in rows[1:]:
                self._work.claim(other["id"])
            self._rows.note_gone(row, gone)
            found = [self._work.get(each["id"]) for each in rows]
        return {kind: each for kind, each in zip(groups, found, strict=True) if each}

    def _settle_left(self, row: Mapping[str, Any], progress: Progress, cancel_pending: Callable[[str], None]) -> None:
        if not progress.why:  # its turn is over
            self._work.take_back(row["id"])
        elif progress.is_own_fault:
            self._rows.fail(row, progress.why)
        elif self._outcomes.settle_left(row, progress.why, has_advanced=bool(progress.finished)):
            cancel_pending(row["queue"])


# ---- src/forwarding/whole_series.py: What a job names: whole series instead of each of their instances, where a row holds all that they have.


# A row with fewer instances names them. From 1.12.11 on, Orthanc reads its whole index for each instance that a job names (1.6 ms
# with 3,000 studies, so 315 ms for 200 instances instead of 9); to ask and to name series costs it twice. Before, a job is
# only written down after each image with all that it names: 6 µs for each, 15 ms for 50 images.
INSTANCES_UNTIL_SERIES = 50
INSTANCES_UNTIL_SERIES_1_12_11 = 10
# Of a rule: these say the same of all instances of a series. What else a rule has may leave out some.
SAME_FOR_A_SERIES = {"name", "level", "destinations", "query", "priority"}


class WholeSeries:
    """Finds the series that a row holds wholly.

    A job that names a series sends what is there when it is submitted, also what came a moment ago. So nothing is named wholly
    where single instances may be left out, and a job that has got more than its row is not let run.
    """

    def __init__(self, loopback: Loopback, settings: ForwardingSettings) -> None:
        self._loopback = loopback
        self._leaves_out = settings.skip_modified or not all(map(_takes_whole_series, settings.rules or ()))
        is_slow = orthanc.CheckVersionAdvanced(1, 12, 11)
        self._fewest = INSTANCES_UNTIL_SERIES_1_12_11 if is_slow else INSTANCES_UNTIL_SERIES

    def is_worth_it(self, instances: Collection[str]) -> bool:
        """Return whether series may be named, and so many instances are worth the question which."""
        return not self._leaves_out and len(instances) >= self._fewest

    def name_for(self, resource: str, instances: Collection[str]) -> list[str]:
        """Return what a job has to name to send these instances of a resource: series that they are all of, and the others."""
        if not self.is_worth_it(instances):
            return [*instances]
        left, whole = dict.fromkeys(instances), list[str]()
        body = {"Resources": [resource], "Level": "Series", "Short": True, "Metadata": False}
        for series in self._loopback.post("/tools/bulk-content", body):
            if left.keys() >= {*series["Instances"]}:
                whole.append(series["ID"])
                for instance in series["Instances"]:
                    del left[instance]
        return [*whole, *left]

    def has_more(self, job: str, instances: Collection[str]) -> bool:
        """Return whether a job sends more than these instances: some came since its series were looked at."""
        found = get_job(self._loopback, job)
        return found is not None and count_of(found) > len(instances)


def count_of(job: Mapping[str, Any]) -> int:
    """Return how many instances a job sends."""
    return int(job.get("Content", {}).get("InstancesCount", 0))


def _takes_whole_series(rule: Rule) -> bool:
    default = Rule()
    names = {field.name for field in dataclasses.fields(Rule)} - SAME_FOR_A_SERIES
    return all(getattr(rule, name) == getattr(default, name) for name in names)


# ---- src/forwarding/pace.py: Notices a destination whose answers come 40 ms late, each one: TCP's delayed acknowledgement, which a setting ends.


DELAYED_ECHO_SECONDS = (0.038, 0.050)  # measured: 0.044; with TCP_NODELAY 0.002
# Measured: 0.044, and up to 0.14 for the job that has waited for others (Orthanc counts that); then a C-ECHO decides.
DELAYED_IMAGE_SECONDS = (0.038, 0.200)
FEWEST_IMAGES = 10  # of a job that says something: its association takes time too
JOBS_UNTIL_ECHO = 3  # with that pace, and none that was quicker
ECHOES = 10  # the fastest counts: a busy node answers one of them soon, a delayed acknowledgement none


class Pace:
    """The pace of one destination's jobs. `slow` says what is wrong with it, as long as it is."""

    def __init__(self, context: Context, name: str) -> None:
        self.slow: str | None = None
        self._context, self._name = context, name
        self._number, self._needed, self._is_said = 0, JOBS_UNTIL_ECHO, False
        self._thread = threading.Thread()

    def note_job(self, job: str, seconds: float) -> None:
        """Take a job that has succeeded so long after it was submitted; it may have waited for others first."""
        is_quick = seconds < FEWEST_IMAGES * DELAYED_IMAGE_SECONDS[0]
        if is_quick and not self._number and not self.slow:
            return  # without a question to Orthanc
        found = get_job(self._context.loopback, job)
        if found is None or count_of(found) < FEWEST_IMAGES:
            return
        for_each = float(found.get("EffectiveRuntime", 0)) / count_of(found)
        if for_each < DELAYED_IMAGE_SECONDS[0]:
            self._number, self.slow = 0, None
        elif for_each <= DELAYED_IMAGE_SECONDS[1]:
            self._number += 1
        if self._number >= self._needed and not self.slow and not self._thread.is_alive():
            self._thread = threading.Thread(target=self._ask, name=f"times {self._name}", daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        self._number, self._needed = 0, 2 * self._needed  # if it is not that, it is asked ever more rarely
        try:
            fastest = min(self._time_echo() for _ in range(ECHOES))
        except Exception:  # noqa: BLE001 - it knows no C-ECHO, or is away: then nothing is said
            return
        if DELAYED_ECHO_SECONDS[0] <= fastest <= DELAYED_ECHO_SECONDS[1]:
            self.slow = (
                f"{self._name} answers each image 40 ms late, and a C-ECHO too: {self._context.transport.if_delayed}"
            )
            if not self._is_said and not self._context.stopping.is_set():
                self._is_said = True
                orthanc.LogWarning(f"{self._context.name}: {self.slow}")

    def _time_echo(self) -> float:
        begin = time.perf_counter()
        self._context.transport.probe(self._context.loopback, self._name)
        return time.perf_counter() - begin


class Paces:
    """The paces of all destinations."""

    def __init__(self, context: Context) -> None:
        self._context, self._by_name = context, dict[str, Pace]()

    def note_job(self, destination: str, job: str, seconds: float) -> None:
        """Take a job that has succeeded so long after it was submitted."""
        if self._context.transport.if_delayed:
            self._by_name.setdefault(destination, Pace(self._context, destination)).note_job(job, seconds)

    def slow_of(self, destination: str) -> str | None:
        """Return what is wrong with the pace of a destination, and what to do; None: nothing."""
        pace = self._by_name.get(destination)
        return pace.slow if pace else None


# ---- src/forwarding/portions.py: Rows that hold more than fits into one request are cut: each part is sent, and sent again, alone.


class Portions:
    """Cuts rows by the size of their files.

    Parameters
    ----------
    largest : bytes that one request may have; a larger instance is sent alone.
    """

    def __init__(self, ledger: Ledger, loopback: Loopback, largest: int) -> None:
        self._ledger, self._work, self._loopback, self._largest = ledger, Work(ledger), loopback, largest

    def cut(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row that is `sending` with no more than fits; the rest waits in a row of its own until this one has ended.

        Raises
        ------
        LoopbackError : Orthanc does not say how large it is.
        """
        data = json.loads(row["data"])
        if self._fits_whole(data, row["subject"]):
            return row
        instances = data["Instances"]
        if instances is None:
            instances = instances_of(self._loopback, data["Level"], row["subject"])
        number = self._number_that_fit(instances)
        if number >= len(instances):
            return row
        data.pop("Gone", None)
        first, rest = ({**data, "Instances": some} for some in (instances[:number], instances[number:]))
        with self._ledger.transaction():
            self._work.change(row["id"], data=first)
            self._ledger.add(row["queue"], row["subject"], rest, row["priority"])
        return {**row, "data": json.dumps(first)}

    def _fits_whole(self, data: Mapping[str, Any], resource: str) -> bool:
        """Return whether all of a resource fits: one question, whatever it holds, and most do."""
        if data["Level"] == "Instance":  # with what was sent and was not there, several instances are under one
            return len(data["Instances"] or (resource,)) == 1
        try:
            found = self._loopback.get(f"/{PLURAL[data['Level']]}/{resource}/statistics")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return True  # it was deleted, which the job finds out
        return int(found["UncompressedSize"]) <= self._largest

    def _number_that_fit(self, instances: Sequence[str]) -> int:
        """Return how many of them, one at least, fit into one request."""
        size = 0
        for start in range(0, len(instances), PAGE):
            some = instances[start : start + PAGE]
            body = {"Resources": some, "Metadata": False}
            sizes: dict[str, int] = {
                one["ID"]: int(one["FileSize"]) for one in self._loopback.post("/tools/bulk-content", body)
            }
            for number, instance in enumerate(some, start):
                size += sizes.get(instance, 0)
                if size > self._largest and number:
                    return number
        return len(instances)


# ---- src/forwarding/jobs.py: The jobs of Orthanc that carry out deliveries: submitted, tracked, cancelled, and found again after a restart.


# Which jobs a row has had. The trigger's name is on the disk of everybody who has such a ledger.
JOBS_TABLE = """
CREATE TABLE IF NOT EXISTS jobs(job TEXT PRIMARY KEY, delivery INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_delivery ON jobs(delivery);
CREATE TRIGGER IF NOT EXISTS jobs_go_with_their_row AFTER DELETE ON work BEGIN
    DELETE FROM jobs WHERE delivery=old.id;
END;
"""


class Jobs:
    """Submits a row as a job, and settles the row when the job has ended.

    Parameters
    ----------
    ended : jobs that have ended, and whether well, as callbacks report them.
    """

    def __init__(
        self,
        context: Context,
        destinations: Destinations,
        rows: Rows,
        verification: Verification,
        changed: ChangedDeliveries,
        ended: deque[tuple[str, bool]],
    ) -> None:
        self._ledger, self._work, self._loopback = context.ledger, Work(context.ledger), context.loopback
        self._transport, self._whole_series = context.transport, WholeSeries(context.loopback, context.settings)
        largest = context.transport.largest_request
        self._portions = Portions(context.ledger, context.loopback, largest) if largest else None
        self._destinations, self._rows, self._ended = destinations, rows, ended
        self._verification, self._changed = verification, changed
        self._outcomes = Outcomes(context, destinations, rows, verification)
        self.paces = Paces(context)
        self.is_one_in_doubt = False
        """Orthanc did not answer when a job was submitted: `reconcile` finds out whether there is one."""

    def rows_of(self, job: str) -> list[int]:
        """Return the ids of the rows that a job was for; it may have been cancelled since."""
        return [row["delivery"] for row in self._ledger.rows("SELECT delivery FROM jobs WHERE job=?", job)]

    def submit(self, row: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Submit the job of a row that is `sending`.

        Raises
        ------
        LoopbackError : whether there is a job now, only Orthanc knows.
        """
        try:
            if self._portions:
                row = self._portions.cut(row)
            job = self._post_row(row, options)
        except LoopbackError as error:
            if error.status == 0:
                self.is_one_in_doubt = True
                raise
            self._rows.fail(row, str(error))
            return
        if job is None:
            self._rows.end_gone(row)
        else:
            self._note(row["id"], job)

    def _note(self, row: int, job: str) -> None:
        with self._ledger.transaction():
            self._work.change(row, job=job)
            self._ledger.run("INSERT INTO jobs VALUES(?,?) ON CONFLICT DO NOTHING", job, row)

    def _post_row(self, row: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """Submit the job of a row, as `_post`: never one that sends what the row does not hold."""
        resources, instances = self._named(row)
        job = self._post(row, resources, options)
        if job and instances and resources != instances and self._whole_series.has_more(job, instances):
            self._loopback.post(f"/jobs/{job}/cancel", b"")
            job = self._post(row, instances, options)
        return job

    def _named(self, row: Mapping[str, Any]) -> tuple[list[str], list[str] | None]:
        """Return what the job of a row names, and the instances that the row holds; None: whatever is there when it is sent."""
        data = json.loads(row["data"])
        instances: list[str] | None = data["Instances"]
        if instances is None:
            return [row["subject"]], None
        if data.get("NameEach") or self._portions:
            return instances, instances
        return self._whole_series.name_for(row["subject"], instances), instances

    def _post(self, row: Mapping[str, Any], resources: list[str], options: Mapping[str, Any]) -> str | None:
        """Submit the job and return its identifier; without what was deleted meanwhile, and None if that was all."""
        body = {**options, "Resources": resources, "Synchronous": False}
        name = urllib.parse.quote(row["queue"], safe="")
        try:
            return str(self._loopback.post(f"/{self._transport.route}/{name}/{self._transport.verb}", body)["ID"])
        except LoopbackError as error:
            if error.status not in (404, 500):  # 1.13.0 answers 500 if it is the first of them that is gone
                raise
            here = still_here(self._loopback, resources)
            if len(here) == len(resources):
                raise  # then it is not the resources that were not found
        if not here:
            return None
        wanted = json.loads(row["data"])["Instances"]
        named_each = not wanted or resources == wanted
        self._rows.leave_out_deleted(row, len(here if named_each else still_here(self._loopback, wanted)))
        return self._post(row, here, options)

    def settle_ended(self) -> None:
        """Settle the rows whose job has ended, well or not; jobs without a row are others'.

        The end of a job can come before the answer to the POST that submitted it (1 in 200 with AllowThreads). It waits in
        `_ended` then: the thread that submits is this one, which has noted the job when it comes here.
        """
        while self._ended:
            job, success = self._ended[0]
            for row in self._work.find(Which(job=job, states=("sending",))):
                if success:
                    self._note_pace(row)
                self._settle(row, success)
            self._ended.popleft()

    def _note_pace(self, row: Mapping[str, Any]) -> None:
        seconds = time.time() - row["updated"]
        self._destinations.health_of(row["queue"]).seconds_of_job = seconds
        self.paces.note_job(row["queue"], row["job"], seconds)

    def _settle(self, row: Mapping[str, Any], success: bool) -> None:
        if success:
            self._outcomes.settle_delivered(row)
            return
        row = self._name_each_from_now_on(row)
        if not self._outcomes.is_asked_for(row) and self._outcomes.settle_failed(row):
            self.cancel_pending(row["queue"])

    def fail(self, row: Mapping[str, Any], why: str) -> None:
        """Let a row fail whose job has failed, and call back what else waits in Orthanc for its destination."""
        self._outcomes.fail(row, why)
        self.cancel_pending(row["queue"])

    def _name_each_from_now_on(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Let the next jobs of a row name its instances: the job of a series does not tell which of them it has sent."""
        data = json.loads(row["data"])
        if not data["Instances"] or not self._whole_series.is_worth_it(data["Instances"]):
            return row
        job = get_job(self._loopback, row["job"])
        if job and not job.get("Progress") and was_out_of_reach(ending_of(job, reported=False)[1]):
            return row  # it has sent nothing
        self._work.change(row["id"], data={**data, "NameEach": True})
        return {**row, "data": json.dumps({**data, "NameEach": True})}

    def cancel_pending(self, destination: str) -> None:
        """Cancel what waits in Orthanc for a destination that has failed: each might hold a job slot until its timeout."""
        for row in self._work.find(Which(task=SEND, queue=destination, states=("sending",))):
            if row["job"] is None:
                continue
            try:
                if self._loopback.get(f"/jobs/{row['job']}")["State"] == "Pending":
                    self._work.take_back(row["id"])
                    self._loopback.post(f"/jobs/{row['job']}/cancel", b"")
            except LoopbackError as error:
                if error.status == 0:
                    raise  # else it has ended by itself

    def reconcile(self) -> None:
        """Settle the rows whose job ended unseen, and find the job of those that were interrupted while submitting it.

        Orthanc continues unfinished jobs after a restart: not to know them would send everything twice.
        """
        rows = self._work.find(Which(states=("sending",)))
        jobs = self._loopback.get("/jobs?expand") if rows else []
        by_id, taken = {job["ID"]: job for job in jobs}, {row["job"] for row in rows}
        for row in rows:
            if self._verification.is_under_way(row["id"]) or self._changed.is_under_way(row["id"]):
                continue
            others = [each for each in jobs if each["ID"] not in taken and not is_changed(row)]
            job = by_id.get(row["job"]) if row["job"] else self._job_of(row, others)
            if job is None:
                # Its end was missed while Orthanc was down, or it was never submitted: twice is harmless, lost is not.
                self._work.wait_again(row["id"])
                continue
            taken.add(job["ID"])
            self._note(row["id"], job["ID"])
            ending, _ = ending_of(job)
            if ending is not Ending.RUNNING:
                self._settle({**row, "job": job["ID"]}, ending is Ending.SUCCESS)
        self.is_one_in_doubt = False

    def _job_of(self, row: Mapping[str, Any], jobs: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Return the unfinished job that sends what is in a row to its destination, or None."""
        known = self._destinations.known()
        resources, instances = self._named(row)
        possible = [set(resources), set(instances or resources)]
        for job in jobs:
            content = job.get("Content", {})
            # Of two nodes with one AE title, a job does not say which of them it is for.
            is_ours = job["Type"] == self._transport.job_type and [row["queue"]] == [
                name for name, entry in known.items() if self._transport.is_for(content, entry)
            ]
            if (
                not is_ours
                or job["State"] not in UNFINISHED_JOBS
                or set(content.get("ParentResources", ())) not in possible
            ):
                continue
            if instances is None or count_of(job) <= len(instances):
                return job
        return None


# ---- src/forwarding/slots.py: How many jobs a destination may have in Orthanc: no more than its bound lets run, and a slot is left for the others.


# Jobs more than run at a time, for all destinations together: no slot is empty until the end of a short job is known here.
# Orthanc starts all that `ConcurrentJobs` lets run, whatever their destination.
JOBS_SUBMITTED_AHEAD = 3
SHORT_JOB_SECONDS = 1.0  # up to which a destination gets jobs ahead; after a longer job an empty slot is no loss
LONG_JOB_SECONDS = 10.0  # from which on a destination may not have all slots: what comes for another would wait so long


@dataclasses.dataclass(frozen=True)
class Slots:
    """Orthanc's job slots.

    Attributes
    ----------
    concurrent : how many there are (`ConcurrentJobs`).
    sharing : the number of destinations for which something is sent, or could be.
    is_shared : there is more than one destination, also if only one has work now.
    """

    concurrent: int
    sharing: int
    is_shared: bool

    def jobs_of(self, health: Destination, bound: int | None) -> int:
        """Return how many jobs a destination may have in Orthanc at a time, at most `bound` (`MaxJobs`, `MaxPerDestination`)."""
        if health.is_doubtful:
            return 1  # it may hold its slot until a timeout, again and again
        if self.is_shared and health.seconds_of_job >= LONG_JOB_SECONDS:
            jobs = max(1, min(self.concurrent // self.sharing, self.concurrent - 1))
        else:
            is_short = not self.is_shared or health.seconds_of_job < SHORT_JOB_SECONDS
            ahead = JOBS_SUBMITTED_AHEAD if is_short else 0
            jobs = -(-(self.concurrent + ahead) // self.sharing)  # rounded up
        return jobs if bound is None or bound >= self.concurrent else min(bound, jobs)


# ---- src/forwarding/dispatcher.py: What is sent when: to destinations that are well, in their hours, a few jobs at a time.


class Dispatcher:
    """Looks at each destination, and submits as many of its rows as it may get now."""

    def __init__(
        self,
        context: Context,
        destinations: Destinations,
        misconfigured: Misconfigured,
        rows: Rows,
        jobs: Jobs,
        changed: ChangedDeliveries,
        verification: Verification,
        bisection: Bisection,
    ) -> None:
        self._name, self._ledger, self._settings = context.name, context.ledger, context.settings
        self._stopping, self._trouble, self._work = context.stopping, context.trouble, Work(context.ledger)
        # Nothing was to be sent there, by their hours or a person's word, at the last look.
        self._closed = {name for name, each in context.settings.destination_options.items() if each.windows}
        self._destinations, self._misconfigured, self._rows, self._jobs = destinations, misconfigured, rows, jobs
        self._changed, self._verification, self._bisection = changed, verification, bisection
        self._concurrent = int(context.configuration.get("ConcurrentJobs", 2)) or 1

    def look_at_destinations(self) -> None:
        """Take what probes and checks have found, and start those that are due."""
        for health in self._destinations.all_health():
            self._look_who_it_is(health)
            if health.away and health.answered and health.identity.is_right():
                health.probe_answered()
                self._bisection.retry_failed(health.name, health.was_silent)
            health.look()

    def _look_who_it_is(self, health: Destination) -> None:
        changed = self._misconfigured.note(health.name, health.identity)
        if changed:
            text = f"{self._name} sends nothing to {health.name}, until this is corrected: {health.identity.wrong}"
            orthanc.LogError(text)
            self._trouble.note(text)
            self._jobs.cancel_pending(health.name)
        elif changed is False:
            self._work.give_whole_time(health.name)
            orthanc.LogWarning(f"{self._name}: {health.name} is what it should be again, and what waits for it is sent")

    def submit(self) -> None:
        """Submit what is due to each destination that may be sent to now."""
        busy, waiting = self._ledger.queues("sending"), self._ledger.queues("waiting")
        slots = self._slots_for(busy, waiting)
        for name in waiting:
            health = self._destinations.health_of(name)
            if self._is_held_back(name):
                self._closed.add(name)
                continue
            if name in self._closed:  # what waited for that was not tried in vain
                self._work.give_whole_time(name)
                self._closed.discard(name)
            if not health.may_send():
                continue
            if not health.identity.is_right():
                self._fail_silent(health)
                continue
            options = self._settings.destination_options.get(name)
            bound = (options and options.max_jobs) or self._settings.max_per_destination
            sending = busy.get(name, 0) - self._verification.number(name)
            free = slots.jobs_of(health, bound) - sending
            if self._destinations.narrow_until(name):
                free = min(free, 1 - sending)
            # What is changed on the way goes by no job, which would wait for a slot: nothing is submitted ahead beside it.
            at_once = (bound or self._concurrent) - sending
            for row in self._ledger.due(name, max(0, free), LONGEST_WAIT_SECONDS):
                if self._stopping.is_set():
                    return
                if at_once <= 0 and (is_changed(row) or self._changed.number(name)):
                    break
                at_once -= 1
                health.sent()
                self._attempt(row, options.options if options else {})

    def _slots_for(self, busy: Collection[str], waiting: Collection[str]) -> Slots:
        """Return Orthanc's job slots, and how many destinations share them now."""
        sharing = {
            name for name in waiting if not self._is_held_back(name) and not self._destinations.health_of(name).away
        }
        others = {*self._destinations.may_get(), *busy, *waiting}
        return Slots(self._concurrent, max(1, len(sharing.union(busy))), is_shared=len(others) > 1)

    def _is_held_back(self, name: str) -> bool:
        return self._destinations.is_paused(name) or not self._destinations.is_open(name)

    def _fail_silent(self, health: Destination) -> None:
        """Count an attempt that has failed, without a job, where it could not be asked who it is."""
        silent = health.identity.silent
        if health.identity.wrong or not silent:
            return  # it waits until that is corrected, or is being asked
        health.sent()
        for due in self._ledger.due(health.name, 1, LONGEST_WAIT_SECONDS):
            if row := self._begin(due["id"]):
                self._rows.fail(row, f"{health.name} can't be asked who it is: {silent}")
        health.failed(silent)

    def _begin(self, row: int) -> dict[str, Any] | None:
        """Write down that an attempt begins, and return the row as it is now; None if a person has just dropped it.

        More may have joined it since it was read, while the jobs before it were submitted.
        """
        with self._ledger.transaction():
            return self._work.get(row) if self._work.claim(row) else None

    def _attempt(self, due: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        row = self._begin(due["id"])
        if row is None:
            return
        try:
            self._destinations.must_know(row["queue"])
        except ValueError as error:
            self._rows.fail(row, str(error))
            self._destinations.health_of(row["queue"]).failed(str(error))
            return
        if json.loads(row["data"]).get("Sent") and self._verification.begin(row):
            return  # it was sent, and could only not be asked
        if is_changed(row):
            self._changed.submit(row)
        else:
            self._jobs.submit(row, options)


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


# ---- src/common/unread.py: Instances that Orthanc has reported as new, and that were not read in its log of changes yet.


class Unread:
    """What arrived since the log of changes was read last: a deletion takes an instance out of the log before it is read."""

    def __init__(self) -> None:
        self._new, self._before = set[str](), set[str]()

    def add(self, instance: str) -> None:
        """Note a new instance, in a callback; so many at most, while the log of changes can't be read."""
        if len(self._new) < MOST_REPORTS:
            self._new.add(instance)

    def begin_reading(self) -> None:
        """Say that the log is read from now on, up to its end."""
        # In this order, so that `now` sees each of them all the time.
        new = set(self._new)
        self._before |= new
        self._new -= new

    def on_change_entry(self, change: Mapping[str, Any]) -> None:
        """Take an entry of the log of changes."""
        if change["ChangeType"] == "NewInstance":
            self._before.discard(change["ID"])
            self._new.discard(change["ID"])

    def never_read(self) -> set[str]:
        """Return what is not in the log that was read to its end, and forget it; or its event came after its entry."""
        before, self._before = self._before, set()
        return before

    def now(self) -> list[str]:
        """Return what arrived and was not read yet."""
        return [*{*self._new, *self._before}]  # in this order, for they go from the former to the latter


# ---- src/forwarding/intake.py: What arrived and is to be routed: rows of the ledger, from the feed and, with trigger Stored, before it is stable.


GATHER_SECONDS = 0.2  # in which what arrives becomes one batch (trigger Stored)


class Reports:
    """What Orthanc's callbacks report, until the thread reads it: also before the ledger is open.

    Parameters
    ----------
    overwrites : the same instance can come again with the content that it has, or another.
    at_once : what arrives is read at once (trigger Stored, ProtectUndelivered), not when it is stable.
    reconcile : it is read in the log of changes.
    remembered : the levels of what is remembered until it is deleted.
    """

    def __init__(
        self,
        wake: threading.Event,
        *,
        overwrites: bool,
        at_once: bool,
        reconcile: bool,
        remembered: Collection[str] = (),
    ) -> None:
        self.arrivals = Arrivals(digests=overwrites)
        self.has_changes = threading.Event()
        """Something is to be read in the log of changes."""
        self.forget()
        self._write: Callable[[str, str], None] = lambda _change, _resource: None
        self._wake, self._at_once, self._reconcile = wake, at_once, reconcile
        levels = {*remembered, "Instance"} if overwrites else remembered
        self._remembered = {int(getattr(orthanc.ResourceType, level.upper())) for level in levels}

    def forget(self) -> None:
        """Forget what was reported: another server has done it, or the log of changes and Orthanc's jobs have it."""
        self.unread = Unread()
        self.ended_jobs: deque[tuple[str, bool]] = deque()
        self.deleted: deque[str] = deque()
        self.inbox: Inbox[tuple[str, str]] = Inbox(lambda report: self._write(*report))

    def open(self, write: Callable[[str, str], None]) -> None:
        """Write what is reported of instances and stable resources, from now on."""
        self._write = write
        self.inbox.open()

    def on_event(self, event: str, level: int, resource: str) -> None:
        """Take an event of Orthanc's."""
        if event.startswith("JOB_"):
            self.ended_jobs.append((resource, event == "JOB_SUCCESS"))
            self._wake.set()
        elif event == "DELETED":
            if level in self._remembered:
                self.deleted.append(resource)
        elif event == "NEW_INSTANCE":
            if self._reconcile:
                self.unread.add(resource)
            self.inbox.add(("NewInstance", resource))
            if self._at_once:
                self._read_soon()
        else:
            self.inbox.add((f"Stable{event.removeprefix('STABLE_').capitalize()}", resource))
            self._read_soon()

    def _read_soon(self) -> None:
        self.has_changes.set()
        self._wake.set()


class Intake:
    """Adds a row, which says what is to be routed, for each resource of which something has arrived."""

    def __init__(self, context: Context, reports: Reports, sent: SentInstances, gone: Gone) -> None:
        self._ledger, self._work, self._stopping = context.ledger, Work(context.ledger), context.stopping
        self._loopback, self._gone = context.loopback, gone
        arrivals, self._unread = reports.arrivals, reports.unread
        self._arrivals, self._sent = arrivals, sent
        self.patients: set[str] = set()
        """Of whom something has arrived, for ProtectUndelivered."""
        self._protects, self._reconcile = context.settings.protect_undelivered, context.settings.reconcile
        self.has_read = False
        """Whether it has read what arrived before Orthanc started."""
        self._deleted_early = 0  # instances, since the last time that this was said
        self._at_once = context.settings.trigger == "Stored"
        self._levels = [level for level in LEVELS if any(rule.level == level for rule in context.rules)]
        stable_age = float(context.configuration.get("StableAge", 60))
        self.feed = Feed(
            *(context.ledger, context.loopback, self._on_stable, self._levels, stable_age, context.settings.reconcile),
            *(arrivals.parents, self._on_change_entry, self._forget_numbers, self._count_deleted),
        )

    def begin(self) -> None:
        """Take the place in the log of changes; let what is to be routed at a level that no rule has any more arrive again."""
        self.feed.begin()
        self.feed.take_back(ROUTE)

    def read(self) -> None:
        """Add the rows for what has come since the last time."""
        if self._at_once or self._protects:
            self._stopping.wait(GATHER_SECONDS)
        self._unread.begin_reading()
        self.feed.poll()
        self._count_never_read()
        if self._at_once:
            self._add_unstable()
        self.has_read = True

    def arriving(self) -> set[str]:
        """Return the studies, and patients as a whole, of which something has arrived and is not routed yet."""
        if not self._levels:
            return set()
        return arriving(self._ledger, self._loopback, self._arrivals.parents, self._unread.now())

    def _on_change_entry(self, change: Mapping[str, Any]) -> None:
        self._unread.on_change_entry(change)
        self._note_patient(change["ChangeType"], change["ID"])

    def on_event(self, change: str, resource: str) -> None:
        """Take what OnChange reports, also where the log of changes is not read."""
        self.feed.on_event(change, resource)
        if not self._reconcile:
            self._note_patient(change, resource)

    def _note_patient(self, change: str, instance: str) -> None:
        if self._protects and change == "NewInstance" and (found := self._arrivals.parents(instance)):
            self.patients.add(found["Patient"])

    def _count_deleted(self, _instance: str, seq: int) -> None:
        """Count, in the feed's transaction, what was deleted before it was stable, unless it was routed before that."""
        if not (self._at_once and 0 < seq <= self._ledger.get_value("taken")):
            self._deleted_early += 1

    def _count_never_read(self) -> None:
        """Count what was deleted before the log of changes was read: it is not there any more."""
        left = self._unread.never_read()
        if left and self._levels:
            left -= not_handed_over(self._ledger, self._levels[0], left)  # the event came after its entry was read
            self._deleted_early += len(left.difference(still_here(self._loopback, [*left])))
        if number := self._deleted_early:
            self._gone.note(
                number, f"{number} instances were deleted here before they were stable: no rule was applied to them"
            )
            self._deleted_early = 0

    def _on_stable(self, level: str, resource: str, instances: Mapping[str, int]) -> None:
        """Add a row in the feed's transaction."""
        self._add_to_route(level, resource, instances, last=True)

    def _add_unstable(self) -> None:
        """Add a row for each resource of which something arrived since the last time, before it is stable."""
        since = self._ledger.get_value("taken")
        groups: dict[tuple[str, str], dict[str, int]] = {}
        for row in arrived_since(self._ledger, since):
            groups.setdefault((row["level"], row["resource"]), {})[row["instance"]] = row["seq"]
            since = row["seq"]
        if groups:
            with self._ledger.transaction():
                for (level, resource), instances in groups.items():
                    self._add_to_route(level, resource, instances, last=False)
                self._ledger.set_value("taken", since)

    def _add_to_route(self, level: str, resource: str, instances: Mapping[str, int], last: bool) -> None:
        origins: list[Mapping[str, str]] = []
        parents = next(filter(None, map(self._arrivals.parents, instances)), {})
        place = place_of(level, resource, parents)
        data: dict[str, Any] = {"Level": level, **place, "UID": "", "Last": last, "Instances": {}}
        for instance, seq in instances.items():
            arrival = self._arrivals.get(instance)
            number = -1
            if arrival:
                # Of a patient it is asked for later: Orthanc finds a PatientID by the spaces too that it was sent with.
                data["UID"] = "" if level == "Patient" else arrival.uids[level]
                if arrival.origin not in origins:
                    origins.append(arrival.origin)
                number = origins.index(arrival.origin)
            data["Instances"][instance] = [seq, number, arrival.digest if arrival else ""]
        self._ledger.add(NO_DESTINATION, resource, {**data, "Origins": origins}, task=ROUTE)

    def _forget_numbers(self, place: int) -> None:
        """Forget numbers from before Orthanc's log of changes was set back: what comes from now on must not look like known.

        What is still to be routed loses its number, and is sent even if it was given already: twice is harmless, lost is not.
        """
        self._sent.forget_numbers(place)
        self._ledger.set_value("taken", min(place, self._ledger.get_value("taken")))
        for row in self._work.find(Which(task=ROUTE, states=("waiting", "dead"))):
            data = json.loads(row["data"])
            about = {one: [0 if seq > place else seq, *more] for one, (seq, *more) in data["Instances"].items()}
            self._work.change(row["id"], data={**data, "Instances": about})


# ---- src/forwarding/protection.py: ProtectUndelivered: patients are protected against recycling while something of theirs is not delivered.


FORWARDERS = ("auto-forward-modality", "auto-forward-peer", "auto-forward-dicomweb")
ROUTING_SECONDS = 6.0  # beyond StableAge, in which what arrived gets its rows
PATIENTS_AT_ONCE = 100  # in one turn, so that others need not wait
# A patient is `planned` before it is protected, then `ours`; one that was protected already is `theirs`: a person's.
PROTECTED_TABLE = """
CREATE TABLE IF NOT EXISTS protected(patient TEXT PRIMARY KEY, state TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
"""
PROTECT = """
INSERT INTO protected VALUES(?,?,?) ON CONFLICT(patient) DO UPDATE SET state=excluded.state, until=excluded.until
"""
WAITS = """
EXISTS (SELECT 1 FROM patients_waited_for waited WHERE waited.patient=protected.patient)
"""
NEW = """
SELECT DISTINCT patient FROM patients_waited_for
WHERE patient<>'' AND patient NOT IN (SELECT patient FROM protected) LIMIT ?
"""


class Protection:
    """Protects patients, by Orthanc's own flag, and gives back the state that they had, also after a kill.

    A patient whom a person has protected is left so. One whom a person unprotects meanwhile is not protected again.
    Without the setting, what is still protected is given back.
    """

    def __init__(self, context: Context, owing: Owing) -> None:
        self._name, self._ledger, self._loopback = context.name, context.ledger, context.loopback
        self._owing, self._is_on = owing, context.settings.protect_undelivered
        self._quiet = float(context.configuration.get("StableAge", 60)) + GRACE + ROUTING_SECONDS
        self._others = tuple(name for name in FORWARDERS if name != context.name)
        self._trouble = Trouble(context.name)  # of giving back
        self._leaving = ""  # a patient who is left to another forwarder, just now

    def held(self, patients: Collection[str]) -> set[str]:
        """Return which of these patients this script protects."""
        sql = "SELECT patient FROM protected WHERE state<>'theirs' AND patient IN (SELECT value FROM json_each(?))"
        return {row["patient"] for row in self._ledger.rows(sql, json.dumps([*patients]))} - {self._leaving}

    def is_by_scripts(self, patient: str) -> bool:
        """Return whether this script, or another forwarder, protects a patient. Raises `LoopbackError`: one can't say."""
        return bool(self.held([patient]) or self._held_by_others(patient))

    def protect(self, arrived: Iterable[str]) -> None:
        """Protect the patients of whom something has arrived: it gets its rows soon."""
        if not self._is_on:
            return
        until = time.time() + self._quiet
        for patient in arrived:
            if not self._ledger.run("UPDATE protected SET until=? WHERE patient=?", until, patient):
                self._begin(patient, until)

    def look(self) -> bool:
        """Protect the patients of rows that are not protected yet, and give back those for whom nothing waits any more.

        Return whether there may be more of them.
        """
        unknown, new = False, list[dict[str, str]]()
        if self._is_on:
            unknown = self._owing.find_out(patients=True, at_once=True)
            new = self._ledger.rows(NEW, PATIENTS_AT_ONCE)
            for row in new:
                self._begin(row["patient"], 0.0)
            for row in self._ledger.rows("SELECT patient FROM protected WHERE state='planned'"):
                self._set(row["patient"])  # a kill, or an error, came in between
        now = time.time()
        # Not by rows of which it is not known whose they are.
        waits = f"(?=1 OR until BETWEEN ? AND ? OR {WAITS})" if self._is_on else "(1=0 AND 0 IN (?,?,?))"
        sql = f"SELECT patient, state FROM protected WHERE NOT {waits} LIMIT ?"
        over = self._ledger.rows(sql, unknown, now, now + self._quiet, PATIENTS_AT_ONCE)
        ended = sum(self._end(row["patient"], row["state"]) for row in over)
        if ended == len(over):
            self._trouble.is_over()
        return unknown or len(new) == PATIENTS_AT_ONCE or bool(ended and len(over) == PATIENTS_AT_ONCE)

    def _end(self, patient: str, state: str) -> bool:
        """Forget a patient, who is given back unless protected by a person; return whether that is done."""
        try:
            if is_over := state == "theirs" or self._give_back(patient):
                self._ledger.run("DELETE FROM protected WHERE patient=?", patient)
            return is_over
        finally:
            self._leaving = ""

    def _begin(self, patient: str, until: float) -> None:
        try:
            # Before as well: it may give it back between these.
            is_by_another = self._held_by_others(patient)
            is_protected = self._is_protected(patient)
            is_by_another = is_by_another or self._held_by_others(patient)
            state = "theirs" if is_protected and not is_by_another else "planned"
        except LoopbackError as error:
            if error.status == 0:
                raise
            is_protected, state = self._is_protected(patient), "planned"
            if is_protected:
                return  # by whom, another forwarder can't say now
        if is_protected is None:
            return  # deleted
        # Before it is done: a kill in between leaves no patient protected.
        self._ledger.run(PROTECT, patient, state, until)
        if state == "planned":
            self._set(patient)

    def _set(self, patient: str) -> None:
        self._put(patient, is_protected=True)
        self._ledger.run("UPDATE protected SET state='ours' WHERE patient=?", patient)

    def _give_back(self, patient: str) -> bool:
        """Unprotect a patient, unless a person has done that, or another forwarder needs it; return whether that is done."""
        try:
            if self._held_by_others(patient):
                # Of two that leave it to each other in the same moment, the one that asks last hears that it is alone.
                self._leaving = patient
                if self._held_by_others(patient):
                    return True  # it gives it back
            if self._is_protected(patient):
                self._put(patient, is_protected=False)
                if self._held_by_others(patient):  # since a moment ago
                    self._put(patient, is_protected=True)
        except LoopbackError as error:
            if error.status == 0:
                raise
            why = f"no protection of a patient is given back while another forwarder can't say what it needs: {one_line(error)}"
            self._trouble.begins(f"{self._name}: {why}", why, orthanc.LogWarning)
            return False
        return True

    def _held_by_others(self, patient: str) -> bool:
        for name in self._others:
            try:
                if self._loopback.post(f"/{name}/protected", {"Patients": [patient]})["Protected"]:
                    return True
            except LoopbackError as error:
                if error.status != http.HTTPStatus.NOT_FOUND:
                    raise
                self._others = tuple(each for each in self._others if each != name)  # it is not there
        return False

    def _is_protected(self, patient: str) -> bool | None:
        """Return whether a patient is protected; None: it was deleted."""
        try:
            return bool(int(self._loopback.get(f"/patients/{patient}/protected")))
        except LoopbackError as error:
            if error.status == 0:
                raise
            return None

    def _put(self, patient: str, *, is_protected: bool) -> None:
        try:
            self._loopback.request("PUT", f"/patients/{patient}/protected", str(int(is_protected)).encode())
        except LoopbackError as error:
            if error.status == 0:
                raise  # else it was deleted


# ---- src/forwarding/engine.py: The parts of a forwarder put together on an open ledger, and the order in which its thread uses them.


IDLE_SECONDS = 5.0  # between looks at changes and jobs when no event wakes the thread
BUSY_LOOK_SECONDS = 1.0  # between looks while something waits for its time
TABLES_OF_ROWS = owed_tables(but=DELETE) + ADDED_INDEX
ENGINE_TABLES = FEED_TABLES + GIVEN_TABLE + PASSED_OVER_TABLE + JOBS_TABLE + TABLES_OF_ROWS + PROTECTED_TABLE


class Engine:
    """Routes what arrives, and sends what is routed, turn by turn.

    Parameters
    ----------
    reports : what callbacks report.
    destinations_changed : is set when Orthanc's destinations have changed.
    """

    def __init__(
        self,
        context: Context,
        matchers: Mapping[str, Matcher],
        reports: Reports,
        destinations_changed: threading.Event,
    ) -> None:
        name, ledger, loopback, settings = context.name, context.ledger, context.loopback, context.settings
        missing = context.transport.missing
        self._name, self._missing = name, missing and functools.partial(missing, loopback)
        self.ledger, self.work, self._settings, self._reports = ledger, Work(ledger), settings, reports
        self._loopback, aets = loopback, AeTitles(context.configuration)
        self.router = Router(loopback, context.rules, settings.rule_mode == "first", matchers, aets)
        overwrites = may_repeat(context.configuration)
        several_levels = len({rule.level for rule in context.rules}) > 1
        remembers = overwrites or settings.trigger == "Stored" or several_levels
        self._sent = SentInstances(ledger, remembers=remembers, overwrites=overwrites)
        self._passed_over = PassedOver(ledger)
        self.destinations = Destinations(context, destinations_changed)
        self._owing = Owing(ledger, loopback)
        self.protection = Protection(context, self._owing)
        self._misconfigured, self.metrics = Misconfigured(ledger), Metrics(ledger, self.destinations)
        self._deleter: Deleter | None = None
        if settings.delete_after_forward:
            prove = functools.partial(context.transport.prove, loopback)
            is_ours = self.protection.is_by_scripts
            self._deleter = Deleter(name, ledger, loopback, prove, settings.retry, context.trouble, is_ours)
        self.rows = Rows(context, self.destinations, self.metrics, self._deleter)
        self._intake = Intake(context, reports, self._sent, self.rows.gone)
        self.assignment = Assignment(
            *(context, self.router, self.rows, self.destinations, self._sent, self._passed_over),
            *(reports.arrivals, self._deleter),
        )
        self.catch_up = CatchUp(context, self.assignment, NotInLedger(context, self._sent))
        self._alternates = Alternates(context, self.destinations, self._deleter, self.assignment.loops)
        has = context.transport.has
        verifier = Verifier(has, loopback, context.wake) if has else None
        self._verification = Verification(context, self.destinations, self.rows, verifier)
        self._changed = ChangedDeliveries(context, self.destinations, self.rows, self._verification)
        self.jobs = Jobs(context, self.destinations, self.rows, self._verification, self._changed, reports.ended_jobs)
        self._dispatcher = Dispatcher(
            *(context, self.destinations, self._misconfigured, self.rows, self.jobs, self._changed, self._verification),
            Bisection(ledger, loopback),
        )
        self._keep_done_days = max(settings.keep_done_days, KEPT_UNTIL_CHECKED_DAYS if context.transport.check else 0.0)
        self._next_read = self._next_look = 0.0  # monotonic
        reports.open(self._intake.on_event)

    def begin(self) -> str | None:
        """Take the place in the log of changes; return why nothing can be sent, as what Orthanc refuses of the rules, or None."""
        self._intake.begin()
        if self._missing and (why := self._missing()):
            return why
        for name in self._misconfigured.names():
            if name in self.destinations.known():
                self.destinations.health_of(name).identity.used()
        refused = self.router.check()
        self.destinations.hold_unnamed()
        return refused

    def owed(self, resources: set[str]) -> set[str]:
        """Return which studies, of these or any, and patients as a whole, are not delivered."""
        if not self._intake.has_read:
            raise Refused(503, f"{self._name} has not read yet what arrived before Orthanc started")
        self._reports.inbox.flush()
        arriving = self._intake.arriving() if self.destinations.is_any_wanted() else set[str]()
        return self._owing.of(resources) | arriving

    def turn(self) -> float:
        """Do what there is to do, and return the seconds until the next turn."""
        try:
            self._reports.inbox.flush()
            self._say_what_was_lost()
            # A job that has ended is no reason to read the log of changes: only settle it and submit the next.
            is_due = self.catch_up.is_under_way or time.monotonic() >= self._next_read
            if self._reports.has_changes.is_set() or is_due:
                self._reports.has_changes.clear()
                self._intake.read()
                self._protect_arrived()
                self.catch_up.read()
                self.assignment.route()
                self._next_read = time.monotonic() + BUSY_LOOK_SECONDS
            self.jobs.settle_ended()
            self._verification.settle(self.jobs.fail)
            self._changed.settle(self.jobs.cancel_pending)
            self._dispatcher.look_at_destinations()
            self._alternates.look()
            self._dispatcher.submit()
            self._look_around()
        except BaseException:
            self._next_read = 0.0  # what was to be read may be left
            raise
        if self.catch_up.is_under_way:
            return 0.0
        return BUSY_LOOK_SECONDS if self.ledger.totals()["waiting"] else IDLE_SECONDS

    def _say_what_was_lost(self) -> None:
        """Say how much came while the ledger could not be written, beyond what the memory holds; the log of changes has it."""
        if (lost := self._reports.inbox.lost) and not self._settings.reconcile:
            self._reports.inbox.lost -= lost
            orthanc.LogError(
                f"{self._name}: {lost} events came while the ledger could not be written, and there was no room for more: "
                f"what arrived then is not sent by itself (POST /{self._name}/backfill sends it)"
            )

    def _protect_arrived(self) -> None:
        if patients := [*self._intake.patients]:
            if self.destinations.is_any_wanted():
                self.protection.protect(patients)
            self._intake.patients.difference_update(patients)

    def _look_around(self) -> None:
        """Find what no event reported, and tidy up."""
        if time.monotonic() < self._next_look and not self.jobs.is_one_in_doubt:
            return
        self.jobs.reconcile()
        self.ledger.forget_finished(self._keep_done_days)
        self._sent.forget_routed()
        self._forget_deleted()
        has_more = self.protection.look()
        self._next_look = time.monotonic() + (0.0 if has_more else IDLE_SECONDS)

    def _forget_deleted(self) -> None:
        """Forget what was deleted; to overwrite an instance, Orthanc deletes it for a moment."""
        deleted = list(self._reports.deleted)
        here = set(still_here(self._loopback, deleted))
        gone = [each for each in deleted if each not in here]
        self._sent.forget_deleted(gone)
        self._passed_over.forget_deleted(gone)
        for _ in deleted:
            self._reports.deleted.popleft()

    def stop_deleting(self, seconds: float) -> None:
        """End the thread that deletes, and wait for it so long."""
        if self._deleter:
            self._deleter.stop(seconds)


# ---- src/forwarding/backfill.py: Sends what the archive holds already, when a person asks for it: whole studies by StudyDate.


STUDIES_PER_PAGE = 500
MANY_STUDIES = range(1900, 2100)  # years that are asked for month by month: who asks for all says 00010101 to 99991231


def studies_between(loopback: Loopback, first: datetime.date, last: datetime.date) -> list[str]:
    """Return the studies whose StudyDate is from `first` to `last`, both included."""
    windows = _months(first, last) if loopback.find_is_unlimited else [(first, last)]
    return [study for window in windows for study in _studies_of(loopback, *window)]


def send_studies(
    engine: Engine, studies: Sequence[str], destinations: Sequence[str], modify: Mapping[str, Any] | None = None
) -> None:
    """Add a row for each study and destination; `modify` is what is changed on the way."""
    for study in studies:
        with engine.ledger.transaction():
            for destination in destinations:
                engine.rows.add("Study", study, destination, None, BACKFILL_PRIORITY, modify=modify)


def _studies_of(loopback: Loopback, first: datetime.date, last: datetime.date) -> list[str]:
    query = {"Level": "Study", "Expand": True, "Query": {"StudyDate": f"{_as_dicom(first)}-{_as_dicom(last)}"}}
    found = loopback.post("/tools/find", query) if loopback.find_is_unlimited else _all_studies(loopback)
    # Orthanc compares dates as text: look at each.
    days = ((study["ID"], parse_day(study["MainDicomTags"].get("StudyDate"))) for study in found)
    return [study for study, day in days if day and first <= day <= last]


def _all_studies(loopback: Loopback) -> Iterator[dict[str, Any]]:
    since = 0
    while page := loopback.get(f"/studies?expand&since={since}&limit={STUDIES_PER_PAGE}"):
        yield from page
        since += len(page)


def _months(first: datetime.date, last: datetime.date) -> Iterator[tuple[datetime.date, datetime.date]]:
    """Yield the parts of a range that lie in one month: what one question asks of the archive stays small."""
    while True:
        if first.year < MANY_STUDIES.start:
            end = datetime.date(MANY_STUDIES.start - 1, 12, 31)
        elif first.year >= MANY_STUDIES.stop:
            end = datetime.date.max
        else:
            end = first.replace(day=calendar.monthrange(first.year, first.month)[1])
        yield first, min(end, last)
        if end >= last:  # there is no day after the last one of the calendar
            return
        first = end + datetime.timedelta(days=1)


def _as_dicom(day: datetime.date) -> str:
    """Return a day as YYYYMMDD: `strftime` does not pad a year before 1000 everywhere."""
    return day.isoformat().replace("-", "")


# ---- src/common/database.py: Where the state of scripts is kept that several servers share: `Scripts.Database`.


@dataclasses.dataclass(frozen=True)
class Database:
    """A PostgreSQL, and the name of this server among those that share it.

    Attributes
    ----------
    url : has a password in it: it is in no line of the log, and in no answer.
    """

    url: str = dataclasses.field(repr=False)
    server: str


def shared_database_of(
    configuration: Mapping[str, Any], state_path: str | None, *, reconcile: bool, section: str
) -> Database | None:
    """Return where a script's state is kept, as `database_of`; None also for a wrong section `Scripts`: it is never opened.

    A `Reconcile` of false has no effect there, and a line of the log says so.
    """
    try:
        database = database_of(configuration, state_path)
    except SettingsError:
        return None
    if database and not reconcile:
        orthanc.LogWarning(
            f"{section}.Reconcile is false, and has no effect with Scripts.Database: one server at a time works, and does it for "
            "all, so that nothing is done twice"
        )
    return database


def database_of(configuration: Mapping[str, Any], state_path: str | None) -> Database | None:
    """Return where a script's state is kept if not in a file; its own `StatePath` wins.

    Raises
    ------
    SettingsError : the section `Scripts` is wrong.
    """
    found = settings_of_all_scripts(configuration)
    if state_path or not found.database:
        return None
    return Database(found.database, found.server or platform.node() or "unnamed")


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


# ---- src/common/postgres_sql.py: The SQL of the ledgers as PostgreSQL takes it.


# As SQLite has them, for what a row's `data` holds. PostgreSQL may use them in an index.
JSON_FUNCTIONS = [
    "CREATE OR REPLACE FUNCTION json_extract(data TEXT, path TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS "
    "$$SELECT data::json #>> string_to_array(substr(path, 3), '.')$$",
    "CREATE OR REPLACE FUNCTION json_type(data TEXT, path TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS "
    "$$SELECT json_typeof(data::json #> string_to_array(substr(path, 3), '.'))$$",
]
REWRITTEN = [
    # Of each (key, value) in an object of a row's data, and of each text in a list that is given as one value.
    (re.compile(r"json_each\(([\w.]+), '\$\.(\w+)'\)"), r"json_each_text((\1::json)->'\2') AS each_of(key, value)"),
    (re.compile(r"json_each\(\?\)"), "json_array_elements_text((?)::json) AS listed(value)"),
    (re.compile(r" INDEXED BY \w+"), ""),
]
COLUMN_TYPES = [
    (re.compile(r"\bINTEGER PRIMARY KEY( AUTOINCREMENT)?"), "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bREAL\b"), "DOUBLE PRECISION"),
    (re.compile(r"\bTEXT\b"), 'TEXT COLLATE "C"'),  # compared and ordered byte by byte, as SQLite does
    (re.compile(r"\s+WITHOUT ROWID"), ""),
]
QUOTED_TEXT = re.compile(r"('(?:[^']|'')*')")
SQLITE_TRIGGER = re.compile(
    r"CREATE TRIGGER IF NOT EXISTS (?P<name>\w+) (?P<event>AFTER .*?) ON (?P<table>\w+)\s"
    r"(?:\s*WHEN (?P<condition>.*?))?\s*BEGIN(?P<body>.*)END;",
    re.DOTALL,
)


@functools.lru_cache(maxsize=2000)
def for_postgres(sql: str) -> str:
    """Return one statement of a ledger for psycopg, with the same parameters.

    >>> for_postgres("SELECT n FROM t WHERE a=? AND b LIKE '50%?'")
    "SELECT n FROM t WHERE a=%s AND b LIKE '50%%?'"
    """
    for pattern, text in REWRITTEN:
        sql = pattern.sub(text, sql)
    parts = QUOTED_TEXT.split(sql.replace("%", "%%"))
    return "".join(part if part.startswith("'") else part.replace("?", "%s") for part in parts)


def tables_for_postgres(script: str) -> list[str]:
    """Return the statements that make what a script of SQLite's makes: tables, indices, triggers, views, first rows."""
    return [each for statement in _statements(script) for each in _made(statement)]


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for part in re.split(r"(?<=;)", script):
        statement += part
        if sqlite3.complete_statement(statement):  # not in the middle of a trigger
            yield statement.strip()
            statement = ""


def _made(statement: str) -> Iterator[str]:
    if found := SQLITE_TRIGGER.fullmatch(statement):
        name, event, table = found["name"], found["event"], found["table"]
        condition = f"WHEN ({found['condition']}) " if found["condition"] else ""
        yield (
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {for_postgres(found['body'])} RETURN NULL; END $$"
        )
        yield f"DROP TRIGGER IF EXISTS {name} ON {table}"
        yield f"CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW {condition}EXECUTE FUNCTION {name}()"
        return
    sql = statement.replace("CREATE VIEW IF NOT EXISTS", "CREATE OR REPLACE VIEW")
    if sql.startswith("CREATE TABLE"):
        for pattern, text in COLUMN_TYPES:
            sql = pattern.sub(text, sql)
    yield for_postgres(sql)


# ---- src/common/postgres.py: One connection to PostgreSQL that has the right to a script's state as long as it lasts.


LEAST_PSYCOPG = "3.1"
BEATS_SECONDS = 5.0  # between two signs of life of who has the right
# Without one for so long, PostgreSQL ends the connection: of a server that hangs, and of one that it can't reach.
SILENT_MILLISECONDS, UNREACHABLE_MILLISECONDS = 20_000, 10_000
CONNECTS_AGAIN_SECONDS = 1.0  # after a failure, in which nobody else waits for the next one
# What may stand in the URL, and else is this. The client's side of a connection that was cut.
CONNECTION_OPTIONS = {
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": str(UNREACHABLE_MILLISECONDS),
    "client_encoding": "UTF8",
}
# The server's side. Where it is older than 14, a server that hangs keeps the right until it ends.
SESSION_SETTINGS = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": str(UNREACHABLE_MILLISECONDS),
    "idle_session_timeout": str(SILENT_MILLISECONDS),
    "idle_in_transaction_session_timeout": str(SILENT_MILLISECONDS),
    "lock_timeout": "5000",
}
KEEP_WHAT_IS_WRITTEN = """
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name='synchronous_commit' AND setting='off'
"""
HOLDER_TABLE = """
CREATE TABLE IF NOT EXISTS holder(
    one INTEGER PRIMARY KEY CHECK (one=1), server TEXT NOT NULL, process TEXT NOT NULL, since DOUBLE PRECISION NOT NULL)
"""
TAKE_RIGHT = """
INSERT INTO holder VALUES(1,?,?,?) ON CONFLICT(one) DO UPDATE SET server=excluded.server, process=excluded.process,
since=excluded.since
"""


class NamedRow(tuple[Any, ...]):
    """A row with its columns by place and by name, as `sqlite3.NamedRow`."""

    _names: dict[str, int]

    def keys(self) -> list[str]:
        return list(self._names)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._names[key] if isinstance(key, str) else key)


@functools.lru_cache(maxsize=1000)
def _row_with(columns: tuple[str, ...]) -> type[NamedRow]:
    """Return the class of the rows with these columns."""
    return type("NamedRow", (NamedRow,), {"_names": {name: place for place, name in enumerate(columns)}})


class QueryResult:
    """What a statement gives: its rows, and how many it has changed."""

    def __init__(self, cursor: Any) -> None:
        self.rowcount: int = cursor.rowcount
        self.status: str = cursor.statusmessage or ""
        self._rows: list[NamedRow] = []
        if cursor.description:
            make = _row_with(tuple(column.name for column in cursor.description))
            self._rows = [make(row) for row in cursor.fetchall()]

    def fetchall(self) -> list[NamedRow]:
        return self._rows

    def close(self) -> None:
        """Do nothing: all is read."""

    def __iter__(self) -> Iterator[NamedRow]:
        return iter(self._rows)


class Session:
    """A connection, and the statements that are executed in it; one thread at a time.

    Parameters
    ----------
    name : of the script, with underscores: of its lock, and of the schema of its tables.
    process : the name of this process, another one after each start.

    Raises
    ------
    ValueError : the package for PostgreSQL is missing, or the URL is none.
    sqlite3.OperationalError : it can't be reached, or refuses.
    """

    def __init__(self, database: Database, name: str, process: str) -> None:
        self._name, self._process, self._server = name, process, database.server
        self.schema = f"orthanc_scripts_{name}"
        self._psycopg = _psycopg()
        with self._errors():
            self._connection = self._psycopg.connect(**self._options(database), autocommit=True)
        self.where = f"{self._connection.info.host}/{self._connection.info.dbname}"
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _options(self, database: Database) -> dict[str, Any]:
        try:
            given = self._psycopg.conninfo.conninfo_to_dict(database.url)
        except self._psycopg.Error:  # its text has the URL, with the password
            raise ValueError(
                "Scripts.Database: found a value that is not shown here, allowed: "
                "postgresql://USER:PASSWORD@HOST/DATABASE (%XX for each character of a password that a URL can't hold)"
            ) from None
        return {"application_name": f"orthanc-scripts {self._process}", **CONNECTION_OPTIONS, **given}

    def _prepare(self) -> None:
        adapters = self._connection.adapters
        adapters.register_dumper(str, self._psycopg.types.string.StrDumper)
        adapters.register_loader("numeric", _number_loader(self._psycopg))
        version = self._connection.info.server_version
        for name, value in SESSION_SETTINGS.items():
            if name == "idle_session_timeout" and version < 140000:
                continue
            self.execute("SELECT set_config(?,?,false)", (name, value))
        # Where it is off for all, what counts as written is lost if PostgreSQL crashes a moment later.
        self.execute(KEEP_WHAT_IS_WRITTEN)
        self.execute("SELECT set_config('search_path',?,false)", (f"{self.schema}, pg_catalog",))

    # Statements

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> QueryResult:
        """Execute one statement of a ledger."""
        with self._errors():
            return QueryResult(self._connection.execute(for_postgres(sql), _adapted(parameters)))

    def execute_as_it_is(self, sql: str) -> None:
        """Execute one statement that is PostgreSQL's already."""
        with self._errors():
            self._connection.execute(sql, ())

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Execute one statement for each of these rows."""
        if many := [_adapted(row) for row in rows]:
            with self._errors(), self._connection.cursor() as cursor:
                cursor.executemany(for_postgres(sql), many)

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Session"]:
        """Write all that is written inside, or nothing of it."""
        self.execute("BEGIN")
        with self.rest_of_transaction():
            yield self

    @contextlib.contextmanager
    def rest_of_transaction(self) -> Iterator[None]:
        """End the transaction that was begun."""
        try:
            yield
            # Where a statement has failed, and somebody went on nevertheless, a COMMIT takes all back without an error.
            if (done := self.execute("COMMIT").status) != "COMMIT":
                raise sqlite3.OperationalError(f"PostgreSQL has not written it: {done}")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.execute("ROLLBACK")
            raise

    @property
    def is_broken(self) -> bool:
        """Whether the connection is of no use any more."""
        return bool(self._connection.closed or self._connection.broken)

    def close(self) -> None:
        """End the connection, and with it the right."""
        with contextlib.suppress(self._psycopg.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what went wrong as what callers know: errors of sqlite3. Their texts have no URL."""
        try:
            yield
        except (self._psycopg.IntegrityError, self._psycopg.DataError) as error:
            raise sqlite3.IntegrityError(f"PostgreSQL: {_first_line_of(error)}") from None
        except self._psycopg.Error as error:
            raise sqlite3.OperationalError(f"PostgreSQL: {_first_line_of(error)}") from None

    # The right

    def take(self, *, again: bool = False) -> None:
        """Take the right to the state.

        Parameters
        ----------
        again : this process had it, in a connection that was cut.

        Raises
        ------
        StandsByError : another server has it.
        StateLostError : another server has it, or has had it, since this one lost it.
        """
        key = int.from_bytes(hashlib.blake2b(self.schema.encode(), digest_size=8).digest(), "big", signed=True)
        if again:  # PostgreSQL may not know yet that the connection was cut
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name=? AND pid<>pg_backend_pid()",
                (f"orthanc-scripts {self._process}",),
            )
        has_it = self.execute("SELECT pg_try_advisory_lock(?)", (key,)).fetchall()[0][0]
        holder, process = self._holder()
        if again and process != self._process:
            raise StateLostError(f"server {holder} has taken over the work of {self._name}: this one stands by", holder)
        if not has_it and process == self._process:
            raise sqlite3.OperationalError("PostgreSQL: it still holds the lock of the connection that was cut")
        if not has_it:
            text = f"server {holder} has the work of {self._name}: this one stands by, and goes on when that one ends"
            raise StandsByError(text, holder)
        if not again:
            self._make_schema()
            self.execute(TAKE_RIGHT, (self._server, self._process, time.time()))

    def _holder(self) -> tuple[str, str]:
        """Return the name and the process of who took the right last."""
        if not self.execute("SELECT to_regclass(?)", (f"{self.schema}.holder",)).fetchall()[0][0]:
            return "unknown", ""
        rows = self.execute("SELECT server, process FROM holder").fetchall()
        return (rows[0][0], rows[0][1]) if rows else ("unknown", "")

    def _make_schema(self) -> None:
        if not self.execute("SELECT to_regnamespace(?)", (self.schema,)).fetchall()[0][0]:
            self.execute_as_it_is(f"CREATE SCHEMA {self.schema}")
        self.execute_as_it_is(HOLDER_TABLE)


def new_process() -> str:
    """Return a name that no other process has."""
    return os.urandom(8).hex()


def _psycopg() -> Any:
    """Import psycopg, in a thread of the script's own."""
    try:
        found: str | None = importlib.metadata.version("psycopg")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if problem := package_problem("psycopg[binary]", LEAST_PSYCOPG, found, "python3-psycopg"):
        raise ValueError(f"Scripts.Database is set: {problem}")
    try:
        import psycopg
        import psycopg.conninfo
        import psycopg.types.numeric
        import psycopg.types.string
    except ImportError as error:  # its own library of PostgreSQL is missing
        raise StateError(f"Scripts.Database is set, and psycopg can't be loaded: {_first_line_of(error)}") from None
    return psycopg


def _number_loader(psycopg: Any) -> Any:
    """Return what makes Python's numbers of sums: whole ones of whole ones."""

    class NumberLoader(psycopg.adapt.Loader):  # type: ignore[misc]
        def load(self, data: Any) -> float:
            text = bytes(data).decode()
            return float(text) if "." in text else int(text)

    return NumberLoader


def _adapted(values: Iterable[Any]) -> list[Any]:
    """Return values as SQLite would take them: true and false are numbers. PostgreSQL's texts can't hold a NUL."""
    return [
        int(value) if isinstance(value, bool) else value.replace("\0", "�") if isinstance(value, str) else value
        for value in values
    ]


def _first_line_of(error: object) -> str:
    return str(error).strip().partition("\n")[0]


# ---- src/common/postgres_ledger.py: A ledger in PostgreSQL, which several servers share: one at a time works with it, the others stand by.


VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS ledger_version(one INTEGER PRIMARY KEY CHECK (one=1), version INTEGER NOT NULL)"
)
CLOSES_WITHIN_SECONDS = 1.0
NOTE_VERSION = "INSERT INTO ledger_version VALUES(1,?) ON CONFLICT(one) DO UPDATE SET version=excluded.version"


class ReadThrough:
    """Reads by the one connection that a ledger has, for which other threads wait meanwhile."""

    def __init__(self, ledger: "PostgresLedger") -> None:
        self._ledger = ledger

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> Any:
        """Execute one statement; its rows are all read."""
        return self._ledger.execute(sql, *parameters)

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Execute one statement for each of these rows."""
        with self._ledger.transaction() as db:
            db.executemany(sql, rows)

    def close(self) -> None:
        """Do nothing: the connection is the ledger's."""


class PostgresLedger(Ledger):
    """The rows of a script in PostgreSQL, with the verbs of a `Ledger`, for any number of threads of the one server that works.

    A connection that was cut is made again by whoever needs it next. If another server has worked meanwhile, every verb
    raises `StateLostError` from then on.

    Parameters
    ----------
    name : of the script, with underscores.
    tables : as a `Ledger` takes them: SQLite's, and translated.

    Raises
    ------
    StandsByError : another server works.
    ValueError : psycopg is missing or too old.
    sqlite3.Error : the database can't be reached or refuses, or its tables were made by a newer script.
    """

    is_shared = True

    def __init__(self, database: Database, name: str, tables: str = "", *, version: int = VERSION) -> None:
        self._database, self._name, self._process = database, name, new_process()
        self._lock, self.quarantined_to = threading.RLock(), None
        self.path = Path(f"{name}.postgresql")  # of no file: its stem is the script's name
        self._clock_ahead = time.time() - time.monotonic()
        self._closed = threading.Event()
        self._lost: StateLostError | None = None
        self._next_connection, self._last_error = 0.0, ""
        self._transaction: Session | None = None
        self._changes = 0
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, in whichever thread finds out, when another server has taken over."""
        self._session = Session(database, name, self._process)
        try:
            self._session.take()
            with self.transaction():
                self.is_new = self._make_tables(tables, version)
        except BaseException:
            self._session.close()
            raise
        threading.Thread(target=self._give_signs_of_life, name=f"{name} database", daemon=True).start()

    @property
    def where(self) -> str:
        """What a line of the log calls it."""
        return f"{self._session.schema} in PostgreSQL ({self._session.where})"

    @property
    def changes(self) -> int:
        """A number that rises with each transaction."""
        return self._changes

    def reader(self) -> Any:
        """Return what reads by this connection."""
        return ReadThrough(self)

    def _make_tables(self, tables: str, version: int) -> bool:
        """Make what is not there, and return whether all of it is new."""
        session = self._session
        session.execute_as_it_is(VERSION_TABLE)
        found = session.execute("SELECT version FROM ledger_version").fetchall()
        if found and found[0][0] > version:
            raise sqlite3.OperationalError(
                f"{self.where} is of version {found[0][0]}, made by a newer script than this one"
            )
        for statement in (*JSON_FUNCTIONS, *tables_for_postgres(f"{WORK_TABLES} {tables}")):
            session.execute_as_it_is(statement)
        session.execute(NOTE_VERSION, (version,))
        return not found

    def close(self) -> None:
        self._closed.set()
        has_it = self._lock.acquire(timeout=CLOSES_WITHIN_SECONDS)  # another thread may wait for PostgreSQL
        self._session.close()
        if has_it:
            self._lock.release()

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self.close()

    # The connection

    def _give_signs_of_life(self) -> None:
        """Show PostgreSQL that this process is there, and find out soon that the connection was cut."""
        while not self._closed.wait(BEATS_SECONDS):
            with contextlib.suppress(sqlite3.Error, OSError):
                self.check()

    def check(self) -> None:
        """Raise where nothing can be written down now; `StateLostError`: another server works."""
        self.rows("SELECT 1")

    def tidy(self) -> None:
        """Do what the ledger needs now and then."""
        self._follow_clock()

    def checkpoint(self) -> None:
        """Do nothing: PostgreSQL does that itself."""

    def _must_be_open(self) -> None:
        if self._lost:
            raise StateLostError(str(self._lost), self._lost.worked_by)
        if self._closed.is_set():
            raise sqlite3.OperationalError(f"{self.where} is closed")

    def _connect_again(self) -> None:
        """Make a new connection in the place of one that was cut, and take the right again."""
        if time.monotonic() < self._next_connection:
            raise sqlite3.OperationalError(self._last_error)
        self._session.close()
        session: Session | None = None
        try:
            session = Session(self._database, self._name, self._process)
            session.take(again=True)
        except BaseException as error:
            if session:
                session.close()
            self._next_connection, self._last_error = time.monotonic() + CONNECTS_AGAIN_SECONDS, str(error)
            if isinstance(error, StateLostError):
                self._lost = error
                self.on_lost()
            raise
        self._session = session
        if self._closed.is_set():
            session.close()

    def _begin(self, sql: str, *parameters: Any) -> Any:
        """Execute the first statement of something: once more, in a new connection, if the one that there was is cut."""
        self._must_be_open()
        if not self._session.is_broken:
            try:
                return self._session.execute(sql, parameters)
            except sqlite3.OperationalError:
                if not self._session.is_broken:
                    raise
        self._connect_again()
        return self._session.execute(sql, parameters)

    # Statements

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Statements]:
        """Write all that is written inside, or nothing of it. May be nested."""
        with self._lock:
            if self._transaction:
                yield self._transaction
                return
            self._begin("BEGIN")
            session = self._transaction = self._session
            try:
                with session.rest_of_transaction():
                    yield session
                self._changes += 1
            finally:
                self._transaction = None

    def execute(self, sql: str, *parameters: Any) -> Any:
        """Execute one statement that changes nothing: it may be executed twice."""
        with self._lock:
            return self._transaction.execute(sql, parameters) if self._transaction else self._begin(sql, *parameters)

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        return [dict(zip(row.keys(), row, strict=True)) for row in self.execute(sql, *parameters)]


# ---- src/common/open_ledger.py: Opens the ledger of a script where the configuration says: in a file, or in the PostgreSQL that several servers share.


def open_ledger(
    name: str,
    configuration: Mapping[str, Any],
    state_path: str | None,
    tables: str,
    *,
    durability: str,
    version: int = VERSION,
    first_tasks: str = "",
) -> Ledger:
    """Open the ledger of a script (its name with underscores), and make it if it is not there.

    Raises
    ------
    StateBusyError : another process, or server, has it.
    ValueError : the configuration asks for what is not there.
    OSError, sqlite3.Error : it can't be opened now.
    """
    if database := database_of(configuration, state_path):
        return PostgresLedger(database, name, tables, version=version)
    path = state_folder(state_path, configuration) / f"{name}.sqlite"
    return Ledger(path, tables, durability=durability, version=version, first_tasks=first_tasks)


# ---- src/forwarding/forwarder.py: A forwarder as Orthanc sees it: its callbacks, its thread, and its state. What it does is in `Engine`.


EVENTS = ("ORTHANC_STARTED", "ORTHANC_STOPPED", "NEW_INSTANCE", "DELETED", "JOB_SUCCESS", "JOB_FAILURE")


class Forwarder:
    """Sends what arrives, so that it arrives although Orthanc is killed and destinations are away.

    Each (resource, destination) is a row of the ledger before anything is sent. An attempt is an asynchronous job, whose
    end settles the row; a failed one is sent again with back-off. One thread does all that, woken by `on_change`.

    Parameters
    ----------
    name : of the script, with dashes: of its routes, its thread and its ledger.
    settings : the script's.
    configuration : Orthanc's.
    """

    engine: Engine
    """As soon as the ledger is open."""

    def __init__(
        self, name: str, transport: Transport, settings: ForwardingSettings, configuration: Mapping[str, Any]
    ) -> None:
        self.name, self.transport, self._configuration = name, transport, configuration
        database = shared_database_of(
            configuration, settings.state_path, reconcile=settings.reconcile, section=section_of(name)
        )
        self.server = database.server if database else None
        """The name of this one, where several servers share the state."""
        self.settings = settings = dataclasses.replace(settings, reconcile=True) if database else settings
        self.loopback, self.turns = Loopback(configuration), HttpTurns(configuration)
        self.rules: tuple[ForwardingRule, ...] = (
            (ForwardingRule(name="all"),) if settings.rules is None else settings.rules
        )
        self.worker = Worker(name, self._open, self._turn, lose=self._lose)
        self.wake = self.worker.wake
        at_once, overwrites = settings.trigger == "Stored", may_repeat(configuration)
        soon = at_once or settings.protect_undelivered
        self._reports = Reports(
            self.wake,
            overwrites=overwrites,
            at_once=soon,
            reconcile=settings.reconcile,
            remembered=changing_levels(self.rules),
        )
        self._destinations_changed = threading.Event()
        self._has_begun = False
        stable = {f"STABLE_{rule.level.upper()}" for rule in self.rules}
        names = {*EVENTS, *stable, *((transport.changed,) if transport.changed else ())}
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in names}

    def register(self, script: ListedScript) -> None:
        """Register what Orthanc calls; `script` is the entry of this one."""
        if limits := recycling_of(self._configuration):
            orthanc.LogWarning(f"{self.name}: {about_recycling(limits, self.settings)}")
        listen_to_changes(script, self.on_change, lambda: self.engine.metrics.measure())
        orthanc.RegisterOnStoredInstanceCallback(kept_alive(self._reports.arrivals.stored))

    def on_change(self, change: int, level: int, resource: str) -> None:
        """Take an event of Orthanc's; return at once."""
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self._stop()
        elif event is None:
            return
        elif event == self.transport.changed:
            self._destinations_changed.set()
            self.wake.set()
        elif not self.worker.is_off and not self.worker.worked_by:
            self._reports.on_event(event, level, resource)

    def _open(self) -> Ledger:
        if not self.loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        matchers = {
            rule.matcher: load_matcher(rule.matcher, configuration_folder()) for rule in self.rules if rule.matcher
        }
        ledger = open_ledger(
            *(self.name.replace("-", "_"), self._configuration, self.settings.state_path, ENGINE_TABLES),
            durability=self.settings.durability,
            first_tasks=FIRST_TASKS,
        )
        if self.server:
            self._reports.forget()
        if ledger.is_new:
            orthanc.LogWarning(_about_new_ledger(self.name, ledger))
        try:
            context = Context(
                *(self.name, self.transport, self.settings, self._configuration, self.rules),
                *(self.loopback, ledger, self.wake, self.worker.stopping, self.worker.trouble),
            )
            self.engine = Engine(context, matchers, self._reports, self._destinations_changed)
        except BaseException:
            ledger.close()  # the next try opens it again
            raise
        return ledger

    def _lose(self) -> None:
        self._has_begun = False
        self.engine.stop_deleting(STOPS_WITHIN)

    def _stop(self) -> None:
        self.worker.stopping.set()
        self.wake.set()
        until = time.monotonic() + STOPS_WITHIN
        if hasattr(self, "engine"):
            self.engine.stop_deleting(STOPS_WITHIN)
        self.worker.stop(until - time.monotonic())

    def _turn(self) -> float:
        if not self._has_begun:
            self._begin()
            self._has_begun = True
        return IDLE_SECONDS if self.worker.is_off else self.engine.turn()

    def _begin(self) -> None:
        if refused := self.engine.begin():
            self.worker.turn_off(f"{section_of(self.name)}.{refused}. {self.name} is idle until this is corrected.")
            self.engine.stop_deleting(0)


def _about_new_ledger(name: str, ledger: Ledger) -> str:
    why = f"was corrupt and is kept as {ledger.quarantined_to}" if ledger.quarantined_to else "is new"
    return (
        f"{name}: the ledger {ledger.where} {why}; what arrives from now on is forwarded, "
        f"nothing that the archive holds already (POST /{name}/backfill does that)"
    )


# ---- src/forwarding/shown.py: How routes of the forwarders show rules, and rows of the ledger.


def shown_rule(rule: ForwardingRule) -> dict[str, Any]:
    """Return a rule, as routes show it."""
    return {
        "Name": rule.name,
        "Level": rule.level,
        "Destinations": None if rule.destinations is None else [*rule.destinations],
        "Query": rule.query,
        "Origin": {key: [*value] for key, value in vars(rule.origin).items() if value},
        "SOPClasses": [*rule.sop_classes],
        "TransferSyntaxes": [*rule.transfer_syntaxes],
        "Matcher": rule.matcher,
        "Modify": rule.changes,
        "Priority": rule.priority,
    }


def shown_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row, as routes show it: `Created` is when it was added, whatever became of it."""
    data = json.loads(row["data"])
    level, instances = data["Level"], data["Instances"]
    study = row["subject"] if level == "Study" else data.get("Of") if data.get("OfLevel") == "Study" else None
    return {
        "ID": row["id"],
        "Level": level,
        "Resource": row["subject"],
        "Study": study,
        "Task": row["task"],
        "Destination": row["queue"] if row["task"] == SEND else None,
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": next_attempt_of(row),
        "Error": row["error"],
        "Job": row["job"],
        "Instances": None if instances is None else len(instances),
        "Created": utc(row["added"]),
        "Updated": utc(row["updated"]),
    }


# ---- src/forwarding/api.py: The routes of the forwarders: what was sent where and what came of it, and what a person may do about it.


FILTERS = ("state", "destination", "job", "resource", "study")
RESOURCE = {"Resource": IDENTIFIER, "Level": OneOf(choices=LEVELS)}


def register_routes(forwarder: Forwarder, refusal: str | None, *, is_unused: bool = False) -> ListedScript:
    """Register the routes, and return the script's entry.

    With a `refusal` (the configuration is wrong, or there is none) they all answer 503 with it.
    """
    named, worker = Named(forwarder), forwarder.worker
    rows, places = DeliveryRoutes(forwarder, named), DestinationRoutes(forwarder, named)

    def unavailable() -> str | None:
        return refusal or worker.why_not()

    name = forwarder.name.replace("-", "_")

    def look() -> Condition:
        found = unused(refusal) if refusal and is_unused else condition_of(worker, refusal, forwarder.server)
        if found.state == RUNNING and found.reason is None and (unknown := forwarder.engine.destinations.unknown):
            found = dataclasses.replace(found, reason=unknown)  # nothing is sent there
        return found

    script = register_status(name, look, rows.status, unavailable)
    bounded = forwarder.turns.bound  # those that ask Orthanc each time
    routes: dict[str, dict[str, Callable[[Request], Any]]] = {
        "deliveries": {"GET": rows.page},
        "deliveries/retry": {"POST": rows.retry_all},
        "deliveries/([0-9]+)": {"GET": rows.one, "DELETE": rows.drop},
        "deliveries/([0-9]+)/retry": {"POST": rows.retry},
        "destinations": {"GET": places.destinations},
        "destinations/([^/]+)/(pause|resume)": {"POST": places.pause},
        "rules": {"GET": places.rules},
        "rules/test": {"POST": bounded(places.test)},
        "send": {"POST": bounded(rows.send)},
        "backfill": {"POST": bounded(rows.backfill)},
        "catch-up": {"GET": rows.catch_up_state, "POST": bounded(rows.catch_up)},
    }
    for path, handlers in routes.items():
        register_route(f"/{forwarder.name}/{path}", handlers, unavailable)

    def owed(resources: set[str]) -> set[str]:
        with forwarder.turns.turn():  # it may ask Orthanc
            return forwarder.engine.owed(resources)

    @takes({"Patients": Texts()})
    def protected(request: Request) -> dict[str, list[str]]:
        """Return which of these patients it protects (`ProtectUndelivered`): `{"Patients": […]}`."""
        patients = request.parameters.get("Patients", [])
        return {"Protected": [] if refusal else sorted(forwarder.engine.protection.held(patients))}

    idle = bool(refusal) and is_unused
    register_route(f"/{forwarder.name}/protected", {"POST": protected}, (lambda: None) if idle else unavailable)
    register_owed(forwarder.name, owed, unavailable, is_unused=idle)
    return script


class Named:
    """What callers name: rows, destinations, resources."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def row(self, request: Request) -> dict[str, Any]:
        """Return the row whose id is in the path."""
        number = request.groups[0]
        row = self._forwarder.engine.work.get(row_number(number))
        if row is None:
            raise Refused(404, f"There is no delivery {number[:20]}")
        return row

    def destination(self, name: str | None) -> str:
        """Return the name of a destination that Orthanc knows."""
        known = self._forwarder.engine.destinations.known()
        if name is None or name not in known:
            raise Refused(400, f"Destination is {one_line(name)!r}, allowed: {', '.join(known) or 'none'}")
        return str(name)

    def resource(self, wanted: Mapping[str, Any]) -> tuple[str, str]:
        """Return level and identifier of a resource that is here."""
        level, resource = wanted.get("Level", "Study"), wanted.get("Resource")
        if resource is None:
            raise Refused(400, f"Resource is missing, allowed: {IDENTIFIER.allowed}")
        try:
            self._forwarder.loopback.get(f"/{PLURAL[level]}/{resource}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            raise Refused(404, f"There is no {level} {resource}") from None
        return level, resource

    def modify(self, rule: str | None, destinations: Iterable[str]) -> dict[str, Any] | None:
        """Return what is changed on the way of what a person sends: what the rule changes that is named.

        Where a rule changes what goes to a destination, nothing goes there as it is because somebody has forgotten that.
        """
        rules = self._forwarder.rules
        if rule is not None:
            found = [each.changes for each in rules if each.name == rule]
            if not found or any(each != found[0] for each in found):
                raise Refused(
                    400, f"Rule is {one_line(rule)!r}, allowed: {', '.join(one.name for one in rules)} (each name once)"
                )
            return found[0]
        for name in destinations:
            for each in rules:
                if may_get_changed(each, name, self._forwarder.settings):
                    why = f"Rule is missing: {one_line(each.name)!r} changes what goes to {one_line(name)}"
                    raise Refused(400, f"{why}; allowed: the name of the rule whose Modify applies, or of one without")
        return None


class DeliveryRoutes:
    """Handlers of what is about rows of the ledger: to look at them, and to add, retry and drop them."""

    def __init__(self, forwarder: Forwarder, named: Named) -> None:
        self._forwarder, self._named = forwarder, named

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, the rows in each state, what was delivered, not sent back to whom, and deleted undelivered."""
        engine = self._forwarder.engine
        gone, own = engine.rows.gone.instances, engine.assignment.loops.totals()
        return {"Totals": engine.ledger.totals(), **engine.rows.flow(), "NotSentBack": own, "InstancesGone": gone}

    @takes(
        {
            **{**PAGE_PARAMETERS, "before": WholeNumber(), **dict.fromkeys(FILTERS, Text())},
            **{"state": OneOf(choices=STATES), "from": Moment(), "to": Moment()},
        }
    )
    def page(self, request: Request) -> dict[str, Any]:
        """Return a page of rows, oldest first after the id `since`, newest first `before` one: `limit`, and filters by column.

        `from` and `to` are days or times, `to` not included, between which a row was `Created`.
        """
        query, engine = request.parameters, self._forwarder.engine
        first, end = (query[name].timestamp() if name in query else None for name in ("from", "to"))
        if first is not None and end is not None and first >= end:
            raise Refused(400, "from must be before to")
        which = Which(
            states=[query["state"]] if "state" in query else None,
            task=SEND if "destination" in query else None,
            queue=query.get("destination"),
            ids=engine.jobs.rows_of(query["job"]) if "job" in query else None,
            resource=query.get("resource"),
            about=query.get("study"),
            added_since=first,
            added_before=end,
        )
        total, totals = engine.work.count(which), engine.ledger.totals()
        before = query.get("before")
        page = page_answer(query, total, lambda since, limit: engine.work.page(which, since, limit, before), shown_row)
        return {"Total": total, "Totals": totals, **page}

    def one(self, request: Request) -> dict[str, Any]:
        """Return one row, with its failed attempts, its instances, and what is changed in them on the way."""
        row = self._named.row(request)
        data = json.loads(row["data"])
        instances = data["Instances"]
        return {
            **shown_row(row),
            "History": data.get("History", []),
            "InstanceIDs": None if instances is None else [*instances],
            "Modify": data.get("Modify"),
        }

    @answers(409)
    def drop(self, request: Request) -> dict[str, Any]:
        """Forget a row that is dead or waits; one that is being sent can't be called back."""
        row = self._named.row(request)
        if not self._forwarder.engine.work.remove(row["id"], [state for state in STATES if state != "sending"]):
            raise Refused(409, f"Delivery {row['id']} is being sent; drop it when its job has ended")
        return shown_row(row)

    @answers(409)
    def retry(self, request: Request) -> dict[str, Any]:
        """Try a row that is dead, or waits, again now, with the whole time until it is given up."""
        row = self._named.row(request)
        if not self._retry(Which(ids=[row["id"]])):
            raise Refused(409, f"Delivery {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        return shown_row(self._named.row(request))

    @takes({"Destination": Text()})
    def retry_all(self, request: Request) -> dict[str, Any]:
        """Try all dead rows of a destination again: `{"Destination": …}`."""
        name = self._named.destination(request.parameters.get("Destination"))
        return {"Retried": self._retry(Which(task=SEND, queue=name, states=("dead",)))}

    def _retry(self, which: Which) -> int:
        count = self._forwarder.engine.work.retry(which)
        self._forwarder.wake.set()
        return count

    @takes({**RESOURCE, "Destinations": Texts(), "Rule": Text()})
    @answers(202, 404)
    def send(self, request: Request) -> Answer:
        """Send a resource now, rules or not: `{"Resource": …, "Level": "Study", "Destinations": […]}`; 202 with the rows.

        Without `Destinations`, to those of the section. `Rule` names the one whose `Modify` applies.
        """
        engine = self._forwarder.engine
        level, resource = self._named.resource(request.parameters)
        given = request.parameters.get("Destinations")
        names = engine.destinations.listed() if given is None else [self._named.destination(name) for name in given]
        if not names:
            raise Refused(400, "Destinations is missing, and there is none that everything goes to")
        modify = self._named.modify(request.parameters.get("Rule"), names)
        with engine.ledger.transaction():
            rows = [engine.rows.add(level, resource, name, None, modify=modify) for name in names]
        self._forwarder.wake.set()
        return Answer({"Deliveries": rows}, 202)

    @takes({"From": Day(), "To": Day(), "Destination": Text(), "Rule": Text(), "DryRun": Flag()})
    @answers(200, 202)
    def backfill(self, request: Request) -> Answer:
        """Send what the archive holds already: whole studies by StudyDate, `From` to `To`, both included; 202 with how many.

        `Destination` (one name, else all), `Rule` (the one whose `Modify` applies), `DryRun` (only count).
        """
        wanted, engine = request.parameters, self._forwarder.engine
        first, last, dry = wanted.get("From"), wanted.get("To"), wanted.get("DryRun", False)
        if first is None or last is None or first > last:
            raise Refused(400, "From and To must be days as YYYYMMDD, From not after To")
        named = "Destination" in wanted
        targets = [self._named.destination(wanted["Destination"])] if named else engine.destinations.listed()
        modify = self._named.modify(wanted.get("Rule"), targets)
        studies = studies_between(self._forwarder.loopback, first, last)
        if not dry:
            send_studies(engine, studies, targets, modify)
            self._forwarder.wake.set()
        number = len(studies) * len(targets)
        content = {"Studies": len(studies), "Destinations": targets, "Deliveries": number, "DryRun": dry}
        return Answer(content, 200 if dry else 202)

    @takes(CATCH_UP_PARAMETERS)
    def catch_up(self, request: Request) -> Answer:
        """Send what was received since a time, and is not in the ledger, where the rules say: `{"Since": …}`; a dry run first.

        `Since` is a day or a time with its zone. With `"DryRun": false` it begins, 202; else it is counted only.
        """
        return self._forwarder.engine.catch_up.ask(request)

    def catch_up_state(self, _request: Request) -> dict[str, Any]:
        """Return whether a catch-up is under way, and how many changes are left to read."""
        return self._forwarder.engine.catch_up.state()


class DestinationRoutes:
    """Handlers of what is about destinations, and about the rules that choose them."""

    def __init__(self, forwarder: Forwarder, named: Named) -> None:
        self._forwarder, self._named = forwarder, named

    def destinations(self, _request: Request) -> dict[str, Any]:
        """Return the destinations that rules may name, whether each is away, paused, closed, slow, and what waits for it."""
        engine = self._forwarder.engine
        destinations, totals = engine.destinations, engine.work.totals_by_queue()
        return {
            name: {
                **destinations.shown(name),
                "Paused": destinations.is_paused(name),
                "Open": destinations.is_open(name),
                "OneAtATimeUntil": utc_or_none(destinations.narrow_until(name)),
                "Slow": engine.jobs.paces.slow_of(name),
                "Totals": totals.get(name) or dict.fromkeys(STATES, 0),
            }
            for name in [*destinations.known(), *destinations.missing]
        }

    def pause(self, request: Request) -> dict[str, Any]:
        """Hold back, or go on with, all that waits for a destination; also over restarts."""
        name, action = self._named.destination(request.groups[0]), request.groups[1]
        self._forwarder.engine.destinations.pause(name, action == "pause")
        self._forwarder.wake.set()
        return {"Destination": name, "Paused": action == "pause"}

    def rules(self, _request: Request) -> dict[str, Any]:
        """Return the rules in their order, and whether the first that matches decides or all count."""
        return {
            "RuleMode": self._forwarder.settings.rule_mode,
            "Rules": [shown_rule(rule) for rule in self._forwarder.rules],
        }

    @takes(RESOURCE)
    @answers(404, 422)
    def test(self, request: Request) -> dict[str, Any]:
        """Return what would happen to a resource and why, sending nothing: `{"Resource": …, "Level": "Study"}`."""
        engine = self._forwarder.engine
        level, resource = self._named.resource(request.parameters)
        found = instances_of(self._forwarder.loopback, level, resource)
        data = {"Level": level, "UID": "", "Instances": {one: [0, -1, ""] for one in found}, "Origins": []}
        batch = engine.assignment.batch_of(data, resource)
        try:
            # A matcher is a user's code, and may need any stack.
            verdicts = in_a_thread(functools.partial(engine.assignment.verdicts, batch), "rules/test")
        except LoopbackError:
            raise
        except Exception as error:
            raise Refused(422, f"A Matcher failed: {repr_of(error)}") from error
        rules = [self._tested(verdict, batch) for verdict in verdicts]
        return {"Level": level, "Resource": resource, "Instances": len(found), "Rules": rules}

    def _tested(self, verdict: Verdict, batch: Batch) -> dict[str, Any]:
        """Return how many instances a rule would send where: not those that came from there."""
        assignment, wanted = self._forwarder.engine.assignment, verdict.instances or ()
        own = {
            name: assignment.own_of(name, wanted, batch.origins, LOOK_UP_IN_ROUTE_SECONDS)
            for name in verdict.destinations
        }
        itself = [f"{len(found)} of {len(wanted)} came from {name} itself" for name, found in own.items() if found]
        return {
            "Name": verdict.rule.name,
            "Destinations": {
                name: len(assignment.may_go(verdict, found, batch.origins)) for name, found in own.items()
            },
            **self._changes(verdict),
            "Why": "; ".join([verdict.why, *itself]),
        }

    def _changes(self, verdict: Verdict) -> dict[str, Any]:
        """Return what a rule changes on the way, if it does, with the new values of one instance, or why it can't."""
        found = typing.cast("ForwardingRule", verdict.rule).changes
        if found is None or not verdict.destinations or not verdict.instances:
            return {}
        try:
            tags = self._forwarder.loopback.get(f"/instances/{verdict.instances[0]}/tags?short")
            found["Replace"] = {tag.name: value for tag, value in Changes.of(found).values(tags).items()}
        except UnchangedError as error:
            found["Error"] = str(error)
        return {"Modify": found}


# ---- src/forwarding/peer_http.py: HTTP to a peer as Orthanc's own client would send it: proxy, authority, client certificate, user and headers.


LARGEST_ANSWER = 4 * 1024 * 1024  # bytes; of a hundred instances in short form, 100 times what Orthanc needs


class OnlyOrthancCanAskError(ValueError):
    """Only Orthanc itself can speak to this peer, with what we don't have: a password, a PKCS#11 key, a proxy of another kind."""


class PeerHttp:
    """Sends requests to peers.

    Parameters
    ----------
    configuration : Orthanc's, which names proxy and authorities.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._configuration = configuration

    def request(
        self, peer: Mapping[str, Any], method: str, path: str, body: bytes | None, timeout: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send one request, and return status, headers and content of its answer. No redirect is followed.

        No error has a header in its text, nor a part of the URL: they may be secret.
        """
        try:
            return self._exchange(peer, method, path, body, timeout)
        except (OnlyOrthancCanAskError, OSError):  # one of TLS is both an OSError and a ValueError
            raise
        except (ValueError, http.client.InvalidURL) as error:
            raise ValueError(
                f"its address or one of its HttpHeaders can't be sent as it is written ({type(error).__name__})"
            ) from None

    def _exchange(
        self, peer: Mapping[str, Any], method: str, path: str, body: bytes | None, timeout: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        url = urllib.parse.urlsplit(peer["Url"])
        headers = dict(peer.get("HttpHeaders") or {})
        user, password = peer.get("Username") or url.username, peer.get("Password") or url.password
        if user:
            headers["Authorization"] = _basic(user, password or "")
        target = f"{url.path.rstrip('/')}{path}"
        connection = self._connect(peer, url, timeout)
        if isinstance(connection, _Proxied):
            headers |= connection.credentials
            target = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{target}"
        with contextlib.closing(connection):
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read(LARGEST_ANSWER)

    def _connect(
        self, peer: Mapping[str, Any], url: urllib.parse.SplitResult, timeout: float
    ) -> http.client.HTTPConnection:
        """Return a connection with the proxy, the authority and the client certificate that Orthanc itself would use."""
        proxy = self._proxy(url)
        encrypted, host = url.scheme == "https", url.hostname or ""
        if not encrypted and proxy is None:
            return http.client.HTTPConnection(host, url.port, timeout=timeout)
        if not encrypted and proxy is not None:
            plain = _Proxied(proxy.hostname or "", proxy.port or 1080, timeout=timeout)
            plain.credentials = _proxy_credentials(proxy)
            return plain
        context = self._tls(peer)
        if proxy is None:
            return http.client.HTTPSConnection(host, url.port, timeout=timeout, context=context)
        tunnel = http.client.HTTPSConnection(proxy.hostname or "", proxy.port or 1080, timeout=timeout, context=context)
        tunnel.set_tunnel(host, url.port or 443, _proxy_credentials(proxy))
        return tunnel

    def _proxy(self, url: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
        """Return the proxy that Orthanc uses: `HttpProxy`, else what the environment says, as curl reads it."""
        if urllib.request.proxy_bypass(url.hostname or ""):
            return None
        inherited = urllib.request.getproxies()
        proxy = self._configuration.get("HttpProxy") or inherited.get(url.scheme) or inherited.get("all")
        if not proxy:
            return None
        found = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if found.scheme != "http":
            raise OnlyOrthancCanAskError(f"only Orthanc can speak to a proxy by {found.scheme}")
        return found

    def _tls(self, peer: Mapping[str, Any]) -> ssl.SSLContext:
        configuration = self._configuration
        try:
            context = ssl.create_default_context(cafile=configuration.get("HttpsCACertificates") or None)
            if certificate := peer.get("CertificateFile"):
                key, password = peer.get("CertificateKeyFile"), peer.get("CertificateKeyPassword")
                context.load_cert_chain(certificate, key or None, password or "")
        except OSError as error:
            raise OnlyOrthancCanAskError(f"a certificate of Orthanc's can't be used here: {error}") from error
        # As curl does: a certificate that is trusted itself needs no authority, and an old one is no worse.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        if not configuration.get("HttpsVerifyPeers", True):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


class _Proxied(http.client.HTTPConnection):
    """A connection to a proxy, which is asked for whole URLs."""

    credentials: Mapping[str, str] = {}


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _proxy_credentials(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    user, password = urllib.parse.unquote(proxy.username), urllib.parse.unquote(proxy.password or "")
    return {"Proxy-Authorization": _basic(user, password)}


# ---- src/forwarding/peers.py: Peers, asked directly as Orthanc's own HTTP client would ask: whether one is an Orthanc, and which instances it has.


INSTANCES_PER_QUESTION = 100  # to `/tools/bulk-content`: more would hold up the peer's other work
CHECK_TIMEOUT_SECONDS = 10.0  # until a peer has answered who it is
PEER_TIMEOUT_SECONDS = 30.0  # until it has answered which of a hundred instances it has
DELIVER_TIMEOUT_SECONDS = 300.0  # until a part of an image is taken, and until it is stored
SYSTEM_KEYS = ("ApiVersion", "DicomAet", "Version")  # of each Orthanc's /system
NOT_NOW = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)  # of a proxy; and all from 500 up
CONFIRMED_SECONDS = 60.0  # that a peer that was found to be an Orthanc counts as one
REFUSED_SECONDS = 10.0  # that a peer that was not one counts as none
ASK_OPENLY_SECONDS = (
    3600.0  # between two questions without a password; a server may bar who asks often without a password
)


class Peers:
    """The peers that Orthanc knows.

    Parameters
    ----------
    configuration : Orthanc's, which has the passwords; Orthanc shows only what it knows of a peer besides.
    loopback : to this Orthanc.
    """

    def __init__(self, configuration: Mapping[str, Any], loopback: Loopback) -> None:
        self._configuration, self._loopback, self._http = configuration, loopback, PeerHttp(configuration)
        # By name: until when it counts, why nothing may be sent there, and what Orthanc showed of it before it was asked.
        self._found: dict[str, tuple[float, str, dict[str, Any] | None]] = {}
        self._asked_openly: dict[
            str, float
        ] = {}  # by URL: when it was asked without a password last, and did not redirect

    def why_not(self, name: str) -> str:
        """Return why nothing may be sent to a peer now, or nothing; it is asked once a minute at most.

        Raises
        ------
        LoopbackError : this Orthanc does not answer.
        """
        until, why, was = self._found.get(name, (0.0, "", None))
        public: dict[str, Any] | None = None
        try:
            public = self._public(name)
            if time.monotonic() < until and public == was:
                return why
            self.check(name)
            why = ""
        except MisconfiguredError as error:
            why = str(error)
        except (OSError, http.client.HTTPException, ValueError, LoopbackError) as error:
            if isinstance(error, LoopbackError) and error.status == 0:
                raise
            why = f"{name} can't be asked who it is: {error}"
        until = time.monotonic() + (REFUSED_SECONDS if why else CONFIRMED_SECONDS)
        self._found[name] = until, one_line(why), public
        return one_line(why)

    def check(self, name: str) -> None:
        """Ask a peer for its `/system`, with its credentials and without following a redirect.

        Raises
        ------
        MisconfiguredError : it answers, but is no Orthanc (the address it redirects to is in the text), or refuses us.
        OSError, HTTPException, LoopbackError, ValueError : it can't be reached now.
        """
        try:
            status, headers, content = self._http.request(
                self.settings(name), "GET", "/system", None, CHECK_TIMEOUT_SECONDS
            )
        except (OnlyOrthancCanAskError, ssl.SSLError):
            self._check_over_orthanc(name)
            return
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status in NOT_NOW:
            raise OSError(f"it answers {status} to GET /system")
        if http.HTTPStatus.MULTIPLE_CHOICES <= status < http.HTTPStatus.BAD_REQUEST:
            raise MisconfiguredError(redirected(name, self.settings(name)["Url"], headers.get("Location", "")))
        if status != http.HTTPStatus.OK:
            is_denied = status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
            why = (
                ", which its user in OrthancPeers must be allowed to see"
                if is_denied
                else ": is its URL in OrthancPeers right?"
            )
            raise MisconfiguredError(f"{name} answers {status} to GET /system{why}")
        _raise_unless_orthanc(name, content)

    def _check_over_orthanc(self, name: str) -> None:
        """Check over Orthanc's own connection, which follows redirects: whether there are any is asked without credentials."""
        url = str(self._public(name)["Url"])
        if time.monotonic() - self._asked_openly.get(url, -ASK_OPENLY_SECONDS) >= ASK_OPENLY_SECONDS:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                status, headers, _ = self._http.request({"Url": url}, "GET", "/system", None, CHECK_TIMEOUT_SECONDS)
                if http.HTTPStatus.MULTIPLE_CHOICES <= status < http.HTTPStatus.BAD_REQUEST:
                    raise MisconfiguredError(redirected(name, url, headers.get("Location", "")))
            self._asked_openly[url] = time.monotonic()
        content = self._loopback.request_raw("GET", f"/peers/{urllib.parse.quote(name, safe='')}/system")[1]
        _raise_unless_orthanc(name, content)

    def instances_of(self, name: str, instances: Collection[str], within: Collection[str] = ()) -> set[str]:
        """Return which of these instances a peer says it has.

        Orthanc's identifier of an instance is made of PatientID, Study, Series and SOP Instance UID: the same UIDs under another
        patient have another one.

        Parameters
        ----------
        within : series and studies, whose lists are asked for first: an instance in the list of its series takes the peer a third
            of the time that its own content takes. What they don't show is asked for one by one.

        Raises
        ------
        ValueError, OSError, HTTPException, LoopbackError : it can't be asked, or does not answer as an Orthanc.
        """
        there = self._listed_in(name, within) if within else set[str]()
        there |= {one["ID"] for one in self._content(name, {*instances} - there, short=True)}
        return there.intersection(instances)

    def _listed_in(self, name: str, resources: Collection[str]) -> set[str]:
        body = {"Resources": list(resources), "Level": "Series", "Short": True, "Metadata": False}
        with contextlib.suppress(ValueError):  # it has none of them, or so much that not all of it is read
            return {str(one) for series in self._ask(name, body) for one in series.get("Instances", ())}
        return set()

    def deliver(self, _loopback: Loopback, name: str, content: bytes) -> None:
        """Send one image, given as its file, to a peer, which says of it that it has it.

        Raises
        ------
        ValueError : it refuses it, drops it, is no Orthanc, or only Orthanc could speak to it.
        OSError, HTTPException, LoopbackError : it can't be reached, or breaks off.
        """
        try:
            peer = self.settings(name)
        except OnlyOrthancCanAskError as error:
            raise ValueError(f"the script can't connect to {name} itself, as changed images need: {error}") from error
        status, headers, said = self._http.request(peer, "POST", "/instances", content, DELIVER_TIMEOUT_SECONDS)
        if http.HTTPStatus.MULTIPLE_CHOICES <= status < http.HTTPStatus.BAD_REQUEST:
            raise ValueError(redirected(name, peer["Url"], headers.get("Location", "")))
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            raise ValueError(f"{name} answers {status} to POST /instances: bad credentials")
        answer = _decoded(said)
        if status != http.HTTPStatus.OK:
            why = one_line(answer.get("Details") or answer.get("Message") or "") if isinstance(answer, dict) else ""
            raise ValueError(f"{name} answers {status} to POST /instances{': ' if why else ''}{why}")
        found = answer.get("Status") if isinstance(answer, dict) else None
        if found not in ("Success", "AlreadyStored"):
            what = f"has not kept it ({one_line(found)})" if isinstance(found, str) else "does not answer as an Orthanc"
            raise ValueError(f"{name} {what} after POST /instances")

    def copies_of(self, name: str, instances: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Return of which instances, given as our `/tools/bulk-content` has them, a peer has a file of its own.

        A peer that leads back to this server, or shares its database, names the very file (`FileUuid`) that we have.

        Raises
        ------
        ValueError, OSError, HTTPException, LoopbackError : it has ours, can't be asked, or does not answer as an Orthanc.
        """
        there = {one["ID"]: one.get("FileUuid") for one in self._content(name, instances.keys(), short=False)}
        if ours := sum(bool(uuid) and uuid == instances[key].get("FileUuid") for key, uuid in there.items()):
            raise ValueError(
                f"{name} leads back to this server, or shares its database: {ours} of {len(instances)} files are the same"
            )
        return {key for key, uuid in there.items() if uuid}

    def _content(self, name: str, instances: Collection[str], *, short: bool) -> list[dict[str, Any]]:
        keys, found = list(instances), list[dict[str, Any]]()
        for start in range(0, len(keys), INSTANCES_PER_QUESTION):
            some = keys[start : start + INSTANCES_PER_QUESTION]
            # Metadata is not needed here, and takes a quarter of the time.
            found += self._ask(name, {"Resources": some, "Short": short, "Metadata": False})
        return [one for one in found if one["ID"] in instances]

    def _ask(self, name: str, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the content of resources in a peer, by its `/tools/bulk-content`."""
        body, path = json.dumps(question).encode(), "/tools/bulk-content"
        status, _, content = self._http.request(self.settings(name), "POST", path, body, PEER_TIMEOUT_SECONDS)
        if status != http.HTTPStatus.OK:
            raise ValueError(f"{name} answers {status} when asked which instances it has")
        listed = _decoded(content)
        if not isinstance(listed, list) or not all(map(_is_content, listed)):
            raise ValueError(f"{name} does not answer as an Orthanc when asked which instances it has")
        return listed

    def settings(self, name: str) -> dict[str, Any]:
        """Return the URL, user, password and so on of a peer: those of the configuration, if Orthanc uses them.

        Raises
        ------
        OnlyOrthancCanAskError : Orthanc knows more than it shows, or than we can do.
        ValueError : Orthanc does not know it.
        """
        public, peer = self._public(name), self._configuration.get("OrthancPeers", {}).get(name)
        if isinstance(peer, list):
            peer = dict(zip(("Url", "Username", "Password"), peer, strict=False))
        if public.get("Pkcs11"):
            raise OnlyOrthancCanAskError(f"the key of {name} is in a PKCS#11 module, which only Orthanc can use")
        # A peer that was changed by PUT /peers/{id}, or lives in the database, is not what the configuration says.
        if peer is not None and _public_part({**peer, "Url": peer.get("Url") or peer.get("URL")}) == _public_part(
            public
        ):
            return {**peer, "Url": public["Url"]}
        if any(public.get(key) for key in ("Username", "HttpHeaders", "CertificateFile")):
            raise OnlyOrthancCanAskError(
                f"Orthanc does not tell the password of {name}: only of peers in its configuration it can be used"
            )
        return {"Url": public["Url"]}

    def _public(self, name: str) -> dict[str, Any]:
        public: dict[str, Any] = self._loopback.get("/peers?expand")
        if name not in public:
            raise ValueError(f"Orthanc does not know {name}")
        return dict(public[name])


def redirected(name: str, url: str, location: str) -> str:
    """Return what to say of a redirect: where to, without user, password or query, which may be secrets."""
    where = "no address"
    with contextlib.suppress(ValueError):
        there = urllib.parse.urlsplit(urllib.parse.urljoin(url, location))
        if location and there.netloc:
            where = one_line(f"{there.scheme}://{there.netloc.rpartition('@')[2]}{there.path.removesuffix('/system')}/")
    return (
        f"{name} redirects to {where}: what is sent there would be lost, for a POST that is redirected becomes a GET. "
        "Write the address that it leads to into OrthancPeers"
    )


def _raise_unless_orthanc(name: str, content: bytes) -> None:
    found = _decoded(content)
    if not isinstance(found, dict) or any(key not in found for key in SYSTEM_KEYS):
        html = content.lstrip()[:1] == b"<"
        what = "with a page of HTML (a login?)" if html else "with something that no Orthanc says"
        raise MisconfiguredError(f"{name} is no Orthanc: it answers GET /system {what}")


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _is_content(found: Any) -> bool:
    """Return whether this describes a resource, with the name of its file if it is an instance."""
    return isinstance(found, dict) and isinstance(found.get("ID"), str) and isinstance(found.get("FileUuid", ""), str)


def _public_part(peer: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what Orthanc shows of a peer too."""
    certificate, url = peer.get("CertificateFile") or "", str(peer.get("Url") or "")
    return url.rstrip("/"), peer.get("Username") or "", sorted(peer.get("HttpHeaders") or ()), certificate


# ---- src/forwarding/peer_proof.py: Proof that a peer has instances: by its REST API.


def proved_by_peer(peers: Peers, name: str, instances: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return which instances a peer has, by Orthanc's identifiers, hence of the same patients.

    Raises
    ------
    ValueError : one came from there; or what `Peers.copies_of` raises, as OSError and others do.
    """
    url = urllib.parse.urlsplit(peers.settings(name)["Url"])
    addresses = {found[4][0] for found in socket.getaddrinfo(url.hostname, None)}
    came = [one.get("Metadata", {}) for one in instances.values()]
    # Two that forward to each other and both delete would be left with nothing.
    if any(one.get("Origin") == "RestApi" and one.get("RemoteIP") in addresses for one in came):
        raise ValueError(f"it came in over HTTP from the address of {name}, which may count on it being here")
    return peers.copies_of(name, instances)


# ---- src/auto_forward_peer.py


SECTION = "AutoForwardPeer"
STORE_OPTIONS = ("Compress", "Transcode", "Priority")  # of `/peers/{id}/store`


@dataclasses.dataclass(frozen=True)
class DestinationOptions(SendOptions):
    """What is particular to one peer."""

    verify: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "It counts as delivered when the peer says that it has each instance; not for one that passes on."
        },
    )
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={
            "texts": ("Transcode",),
            "help": f"Options of Orthanc's `/peers/{{id}}/store`: `{'`, `'.join(STORE_OPTIONS)}`.",
        },
    )

    @property
    def is_verified(self) -> bool:
        """Return whether the peer is asked what it has of what it took."""
        return self.verify


@dataclasses.dataclass(frozen=True)
class Settings(ForwardingSettings):
    """The section `AutoForwardPeer`."""

    destinations: tuple[str, ...] | None = dataclasses.field(
        default=None,
        metadata={"help": "Names from `OrthancPeers`; null: every peer that Orthanc knows, also later; `[]`: none."},
    )
    delete_after_forward: bool = dataclasses.field(
        default=False,
        metadata={"help": "Delete here what every destination has proved to have: by its REST API."},
    )
    destination_options: dict[str, DestinationOptions] = dataclasses.field(
        default_factory=dict, metadata={"help": "Settings of single destinations, by name (below)."}
    )


def is_for(content: Mapping[str, Any], destination: Mapping[str, Any]) -> bool:
    """Return whether the content of an OrthancPeerStore job names this entry of `OrthancPeers`."""
    return bool(url_of_peer(content).rstrip("/") == destination["Url"].rstrip("/"))


def came_from(_origin: Mapping[str, str], _destination: Mapping[str, Any]) -> bool:
    """Return False, as peers can't be distinguished by origin; what comes back is known by its content or is no news."""
    return False


def probe(loopback: Loopback, name: str) -> None:
    """Ask a peer for its `/system`; raises `LoopbackError` if it does not answer."""
    loopback.get(f"/peers/{urllib.parse.quote(name, safe='')}/system")


def check(settings: Settings, peers: Peers, name: str) -> None:
    """Raise `MisconfiguredError` unless a peer is an Orthanc that can be asked what its options want it to be asked."""
    options = settings.destination_options.get(name)
    if options and options.verify:
        try:
            peers.settings(name)
        except OnlyOrthancCanAskError as error:
            raise MisconfiguredError(f"{error}, and Verify can't be done without") from error
    peers.check(name)


def prove(
    peers: Peers,
    _loopback: Loopback,
    name: str,
    instances: Mapping[str, Mapping[str, Any]],
    _asked: dict[str, Any],
) -> set[str]:
    """Return which instances a peer has, by its REST API: by Orthanc's identifiers, hence of the same patients."""
    return proved_by_peer(peers, name, instances)


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_settings(settings, configuration, STORE_OPTIONS):
            raise SettingsError(f"{SECTION}.{wrong}")
    except SettingsError as error:
        refusal = one_line(f"{error}. auto_forward_peer is idle until this is corrected.")
        orthanc.LogError(refusal)
    peers = Peers(configuration, Loopback(configuration))
    transport = Transport(
        *("peers", "UPDATED_PEERS", "OrthancPeerStore", is_for, came_from, probe, functools.partial(prove, peers)),
        check=functools.partial(check, settings, peers),
        has=peers.instances_of,
        deliver=peers.deliver,
    )
    is_unused = refusal is None and NEEDS_SECTION and SECTION not in configuration
    if is_unused:
        refusal = f"Nothing is sent without a section {SECTION} in the configuration"
    forwarder = Forwarder("auto-forward-peer", transport, Settings() if refusal else settings, configuration)
    script = register_routes(forwarder, refusal, is_unused=is_unused)
    if refusal is None:
        warn_if_open("auto_forward_peer", configuration)
        forwarder.register(script)
    else:
        listen_to_changes(script)


register()
