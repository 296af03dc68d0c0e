# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/audit_log/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Writes down what happens to studies: received, sent, moved, modified, anonymized, deleted, asked for over REST.

One line of JSON each, in files that are only appended to. Each line carries an HMAC over itself and that of the line before, so
that a changed or a missing line shows; the newest one, kept elsewhere, shows a log that was cut. It decides nothing about access.

A smallest configuration (without the section, the key is made and kept in the folder of the index):

    "AuditLog": {"Key": "${AUDIT_LOG_KEY}", "Path": "/var/log/orthanc-audit"}

With curl, and to verify without Orthanc:

    GET /audit-log?patient=…&since=20240101       also study=, event=, until=, after=, limit=
    GET /audit-log/newest                         {"Number": …, "Mac": …}: to be kept elsewhere
    GET /audit-log/status
    AUDIT_LOG_KEY=… python3 audit_log.py --verify FOLDER [--newest NUMBER:MAC]

Needs nothing but Python's standard library. All keys, and what each line says: docs/audit_log.md.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import collections
import contextlib
import dataclasses
import datetime
import difflib
import enum
import errno
import functools
import hashlib
import hmac
import http
import http.client
import ipaddress
import itertools
import json
import os
import random
import re
import secrets
import socket
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
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeAlias, TypeVar
from xml.etree import ElementTree as Xml

if __name__ == "__main__":  # the built file as a program: to verify a log takes no Orthanc
    sys.modules.setdefault("orthanc", types.ModuleType("orthanc"))

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


# ---- src/common/expiry.py: Whether what is kept for days may be deleted by what the clock says: a clock that is wrong deletes nothing.


DAY = 86400.0  # seconds
MOST_AHEAD = 30 * DAY  # of the time that is to be expected; nobody knows how long the server was off
DOUBTED_FOR = 7 * DAY  # of running, until a clock that nobody has set right is believed
RECORD_EVERY = 3600.0  # seconds


class Expiry:
    """Compares the clock with the newest time that the ledger has, plus the seconds that have passed since.

    A time that is doubted is not recorded, so that a restart does not make it right.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger, self._name = ledger, name
        self._time, self._since = float(ledger.get_value("believed") or time.time()), time.monotonic()
        if not ledger.get_value(
            "believed"
        ):  # a clock that is set before the first look must not be believed after a restart
            ledger.set_value("believed", int(self._time))
        self._recorded: float | None = None  # monotonic
        self._doubted: float | None = None  # monotonic, since when
        self._said = 0.0

    def may_delete(self) -> bool:
        """Return whether the clock is believed; an ERROR each day says that it is not."""
        now, steady = time.time(), time.monotonic()
        ahead = now - (self._time + steady - self._since)
        if ahead > MOST_AHEAD and (self._doubted is None or steady - self._doubted < DOUBTED_FOR):
            if self._doubted is None or steady - self._said >= DAY:
                self._said = steady
                orthanc.LogError(
                    f"{self._name}: the clock is {ahead / DAY:.0f} days ahead of the time to be expected: nothing is deleted for "
                    "its age until it is set right, or has been so for a week"
                )
            self._doubted = steady if self._doubted is None else self._doubted
            return False
        self._time, self._since, self._doubted = now, steady, None
        if self._recorded is None or steady - self._recorded >= RECORD_EVERY:
            self._ledger.set_value("believed", int(now))
            self._recorded = steady
        return True


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


# ---- src/common/requester.py: Who sends a request, as its headers say.


def user_of(authorization: str) -> str:
    """Return the name in an `Authorization` header (RFC 7617), else its kind in brackets; never what is secret in it.

    "" where there is none, or what can't be read.
    """
    kind, _, credentials = authorization.partition(" ")
    if kind.lower() != "basic":
        return f"({one_line(kind)[:20]})" if credentials else ""
    try:
        return one_line(base64.b64decode(credentials).decode("utf-8", "replace").partition(":")[0])
    except (ValueError, binascii.Error):
        return ""


# ---- src/common/append_only.py: Files of lines that are only appended to: what is appended is there whole, or not at all.


SYNC = getattr(os, "fdatasync", os.fsync)  # macOS and Windows have no fdatasync
CHUNK_BYTES = 65536  # of a last line that is looked for backwards


class AppendOnly:
    """A file to which one process appends lines, one thread at a time.

    What a crash or a full disk left of a last line is cut off when it is opened. Only its owner may read it, and it is never
    opened through a link.

    Parameters
    ----------
    synced : what is appended survives the loss of power too.
    keep_torn : end the last line instead of cutting it off, where it is evidence.
    empty : whatever it holds is of no use any more.
    is_ours : False, where a person may have set its mode, put a link in its place, or have other programs that rotate it.

    Raises
    ------
    OSError : it can't be made or opened.
    """

    def __init__(
        self, path: Path, *, synced: bool = False, keep_torn: bool = False, empty: bool = False, is_ours: bool = True
    ) -> None:
        self.path, self._synced, self._is_ours = path, synced, is_ours
        flags = os.O_TRUNC if empty else 0
        if is_ours:
            self._file = open_private(path, flags)
        else:
            binary = NO_LINK_NO_TEXT & ~getattr(os, "O_NOFOLLOW", 0)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | binary | flags, 0o600)
        try:
            self._end = os.lseek(self._file, 0, os.SEEK_END)
            if (whole := _end_of_whole_lines(self._file, self._end)) < self._end:
                if keep_torn:
                    self.append(b"\n")
                else:
                    os.ftruncate(self._file, whole)
                    self._end = whole
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The bytes of its whole lines."""
        return self._end if self._is_ours else os.fstat(self._file).st_size

    def check(self) -> None:
        """Raise StateGoneError if the file was deleted or replaced: what is written now would be lost."""
        must_be_same(self._file, self.path)

    def is_at_its_path(self) -> bool:
        """Return whether it is still what its path leads to, where other programs may rotate or delete it."""
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False

    def append(self, lines: bytes) -> None:
        """Append whole lines, all or none. Raises OSError: the disk is full, the file was deleted, or the like."""
        if self._is_ours:
            self.check()
        there = os.fstat(self._file).st_size
        place = there if not self._is_ours else min(self._end, there)
        if there > place:
            os.ftruncate(self._file, place)  # what a failure left that could not be cut off then
        try:
            if _write_at(self._file, lines, place) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            if self._synced:
                SYNC(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, place)
            raise
        self._end = place + len(lines)

    def read(self, size: int, place: int) -> bytes:
        """Return at most so many bytes from a place on."""
        return os.pread(self._file, size, place)

    def move(self, path: Path) -> None:
        """Put it in the place of another file, in one step."""
        self.path.replace(path)
        self.path = path

    def sync(self) -> None:
        """Wait until all of it survives the loss of power."""
        os.fsync(self._file)

    def close(self) -> None:
        """Write no more."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)


def _end_of_whole_lines(descriptor: int, size: int) -> int:
    """Return where the last whole line of a file of this size ends."""
    position = size
    while position > 0:
        start = max(0, position - CHUNK_BYTES)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _write_at(descriptor: int, data: bytes, place: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, place)
    os.lseek(descriptor, place, os.SEEK_SET)  # Windows
    return os.write(descriptor, data)


# ---- src/common/line_index.py: Where the lines of an append-only file are: a page of them is read without what is before it.


BLOCK_LINES = 200  # that are read to find one of them
READ_BYTES = 1 << 18  # at a time, of what was appended; others get the interpreter in between


class Summary(Protocol):
    """What is kept of the lines of a block, so that it need not be read."""

    def add(self, line: bytes) -> None:
        """Take in a whole line, with its end."""


SummaryT = TypeVar("SummaryT", bound=Summary)


class LineBlock(NamedTuple, Generic[SummaryT]):
    """Some lines that follow each other: the number of the first, how many, where they begin, and what is in them."""

    first: int
    length: int
    place: int
    summary: SummaryT


class LineIndex(Generic[SummaryT]):
    """An index of a file of lines, in memory: what was appended since the last look is read once.

    Parameters
    ----------
    summary : makes the summary of a block that begins.
    """

    def __init__(self, path: Path, summary: Callable[[], SummaryT]) -> None:
        self._path, self._summary, self._lock = path, summary, threading.Lock()
        self._file: tuple[int, int] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._blocks: list[tuple[int, SummaryT]] = []  # where each begins, and what is in it
        self._number = self._end = 0  # lines, and bytes, that are in the index

    def forget(self) -> None:
        """Read the file from its beginning at the next look: lines at its end were cut off."""
        with self._lock:
            self._file = None

    def update(self, most: float = float("inf")) -> bool:
        """Take in what was appended, at most so many bytes of it or a little more; return whether that was all.

        Raises
        ------
        OSError : the file can't be read.
        """
        with self._lock, self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if self._file != (found.st_dev, found.st_ino) or found.st_size < self._end:  # moved away, or cut
                self._file = found.st_dev, found.st_ino
                self._begin_anew()
            begun = file.seek(self._end)
            while lines := file.readlines(READ_BYTES):
                for line in lines:
                    if not line.endswith(b"\n"):
                        return True  # it is growing
                    self._add(line)
                if self._end - begun >= most:
                    return False
            return True

    def _add(self, line: bytes) -> None:
        if self._number % BLOCK_LINES == 0:
            self._blocks.append((self._end, self._summary()))
        self._blocks[-1][1].add(line)
        self._number += 1
        self._end += len(line)

    def blocks(self) -> list[LineBlock[SummaryT]]:
        """Return the blocks that are in the index. The summary of the last one grows with it."""
        with self._lock:
            size, last = BLOCK_LINES, self._number
            return [
                LineBlock(number * size + 1, min(size, last - number * size), place, summary)
                for number, (place, summary) in enumerate(self._blocks)
            ]

    def lines(self, block: LineBlock[SummaryT]) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of a block, with their numbers. Raises OSError: the file can't be read."""
        with self._path.open("rb") as file:
            file.seek(block.place)
            yield from enumerate(itertools.islice(file, block.length), block.first)


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


# ---- src/audit_log/dicom_audit.py: DICOM audit messages (PS3.15 A.5) of lines: what hospitals' audit repositories take (IHE ATNA).


LONGEST_TEXT = 500  # characters of a value: so that the longest message fits into a datagram
NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Of the routes that are watched: Orthanc's own lists are not.
SEARCH = {
    "post-attempt": re.compile(r"^/tools/find/?$"),
    "retrieve-attempt": re.compile(r"/(?:studies|series|instances)/?$"),
}
EXPORT = {
    "post-attempt": re.compile(r"/(?:archive|media|create-archive|create-media)/?$"),
    "retrieve-attempt": re.compile(
        r"/(?:archive|media|file|dicom|pdf|export|nifti|stl|attachments/[^/]+/(?:data|compressed-data))/?$"
        r"|^/tools/create-(?:archive|media)/?$"
    ),
}
READS_LOG = re.compile(r"^/audit-log/?$")
IMPORTS = ("RestApi", "WebDav")  # origins of what somebody uploads
DETAILS = (
    "Number",
    "Count",
    "Since",
    "Method",
    "Route",
    "ForwardedFor",
    "Job",
    "Made",
)  # of a line, on its first object
UNKNOWN = "<none>"  # instead of an identifier that the line has not, and the message must have

ACTIVITY = "110100", "Application Activity"
LOG_USED = "110101", "Audit Log Used"
ACCESSED = "110103", "DICOM Instances Accessed"
TRANSFERRED = "110104", "DICOM Instances Transferred"
STUDY_DELETED = "110105", "DICOM Study Deleted"
EXPORTED = "110106", "Export"
IMPORTED = "110107", "Import"
QUERIED = "110112", "Query"
ACTIVITY_TYPES = {"started": ("110120", "Application Start"), "stopped": ("110121", "Application Stop")}
APPLICATION = "110150", "Application"
DESTINATION = "110152", "Destination Role ID"
SOURCE = "110153", "Source Role ID"
TO_MEDIA = "110154", "Destination Media"
FROM_MEDIA = "110155", "Source Media"
URI_MEDIA = "110037", "URI"
STUDY_UID = "110180", "Study Instance UID", "DCM"
PATIENT_NUMBER = "2", "Patient Number", "RFC-3881"
SEARCH_CRITERIA = "10", "Search Criteria", "RFC-3881"
URI = "12", "URI", "RFC-3881"


class Party(NamedTuple):
    """Somebody or something that took part: an ActiveParticipant.

    Attributes
    ----------
    access : where on the network, and what that is: "1" a machine's name, "2" an IP address, "5" a URI.
    is_media : whether it stands for what data goes to or comes from.
    """

    user: str
    role: tuple[str, str] | None = None
    is_requestor: bool = False
    aet: str = ""
    access: tuple[str, str] = ("", "")
    is_media: bool = False


class Event(NamedTuple):
    """What a message says of a line besides its studies and patients."""

    kind: tuple[str, str]
    action: str
    parties: list[Party]
    has_study: bool = True


class AuditMessages:
    """Makes messages of lines, for one Orthanc.

    Parameters
    ----------
    source : the name under which the repository knows this Orthanc.
    aet : its AE title.
    host : the name of the machine.
    """

    def __init__(self, source: str, aet: str, host: str) -> None:
        self._source, self._aet, self._host = source, aet, host

    def of(self, line: Mapping[str, Any]) -> str | None:
        """Return the XML of a line, or None: no message fits it."""
        event = self._event(line)
        if event is None:
            return None
        root = Xml.Element("AuditMessage")
        found = _add(
            root,
            "EventIdentification",
            EventActionCode=event.action,
            EventDateTime=line["At"],
            EventOutcomeIndicator="8" if line.get("Result") == "failure" else "0",
        )
        _add_coded(found, "EventID", *event.kind)
        if line["Event"] in ACTIVITY_TYPES:
            _add_coded(found, "EventTypeCode", *ACTIVITY_TYPES[line["Event"]])
        if line.get("Error"):
            Xml.SubElement(found, "EventOutcomeDescription").text = _clean(line["Error"])
        for party in event.parties:
            _add_party(root, party)
        source = _add(root, "AuditSourceIdentification", AuditSourceID=self._source)
        _add(source, "AuditSourceTypeCode", **{"csd-code": "4"})  # an application server
        _add_objects(root, line, event)
        return Xml.tostring(root, encoding="unicode")

    def _us(self, role: tuple[str, str] | None, *, is_requestor: bool = False, aet: str = "") -> Party:
        return Party(self._source, role, is_requestor, aet or self._aet, (self._host, "1"))

    def _event(self, line: Mapping[str, Any]) -> Event | None:
        match line["Event"]:
            case "started" | "stopped":
                return Event(ACTIVITY, "E", [self._us(APPLICATION)], has_study=False)
            case "received":
                return self._received(line)
            case "sent":
                return self._sent(line)
            case "archived":
                place = (f"/jobs/{line.get('Job', '')}/archive", "5")
                media = Party(place[0], TO_MEDIA, access=place, is_media=True)
                return Event(EXPORTED, "R", [self._us(SOURCE, is_requestor=True), media])
            case "deleted":
                kinds = {"Study": STUDY_DELETED, "Series": ACCESSED}
                by = _requesters(line["By"]) if line.get("By") else [self._us(None)]
                kind = kinds.get(line.get("Level", "")) if line.get("StudyInstanceUID") else None
                return Event(kind, "D", by) if kind else None
            case "retrieve-attempt" | "post-attempt":
                return self._requested(line)
        return None

    def _received(self, line: Mapping[str, Any]) -> Event:
        origin = line.get("From", {})
        ip, aet, user = (origin.get(name, "") for name in ("RemoteIP", "RemoteAET", "HttpUsername"))
        if line.get("Made"):
            return Event(ACCESSED, "C", [self._us(None, is_requestor=True)])
        who = user or ip or origin.get("Origin") or UNKNOWN
        if origin.get("Origin") in IMPORTS:
            person = Party(who, DESTINATION, is_requestor=True, access=(ip, "2"))
            media = Party(ip or origin["Origin"], FROM_MEDIA, access=(ip, "2"), is_media=True)
            return Event(IMPORTED, "C", [person, self._us(DESTINATION), media])
        sender = Party(aet or who, SOURCE, is_requestor=True, aet=aet, access=(ip, "2"))
        return Event(TRANSFERRED, "C", [sender, self._us(DESTINATION, aet=origin.get("CalledAET", ""))])

    def _sent(self, line: Mapping[str, Any]) -> Event:
        to, mover = line.get("To") or UNKNOWN, line.get("MoveOriginator")
        is_url = "://" in to
        parties = [
            self._us(SOURCE, is_requestor=not mover),
            Party(to, DESTINATION, aet="" if is_url else to, access=(to, "5") if is_url else ("", "")),
        ]
        if mover:
            parties.append(Party(mover, is_requestor=True, aet=mover))
        return Event(TRANSFERRED, "C", parties)

    def _requested(self, line: Mapping[str, Any]) -> Event | None:
        route, ip = line.get("Route", ""), line.get("IP", "")
        who = _requesters(line)
        if SEARCH[line["Event"]].search(route):
            asking = [party._replace(role=SOURCE) if number == 0 else party for number, party in enumerate(who)]
            return Event(QUERIED, "E", [*asking, self._us(DESTINATION)])
        if EXPORT[line["Event"]].search(route) and "Script" not in line:  # a script's reading leaves nothing
            receiver = [party._replace(role=DESTINATION) for party in who]
            media = Party(ip or UNKNOWN, TO_MEDIA, access=(ip, "2"), is_media=True)
            return Event(EXPORTED, "R", [*receiver, self._us(SOURCE), media])
        if line["Event"] != "retrieve-attempt":
            return None
        return Event(LOG_USED, "R", who, has_study=False) if READS_LOG.match(route) else Event(ACCESSED, "R", who)


def _requesters(who: Mapping[str, Any]) -> list[Party]:
    """Return who asked: a person, or a script and the person who asked the script for it."""
    if "Script" not in who:
        user, ip = who.get("User", ""), who.get("IP", "")
        return [Party(user or ip or UNKNOWN, is_requestor=True, access=(ip, "2"))]
    asked_by = who.get("AskedBy")
    person = asked_by.get("User", "") if isinstance(asked_by, Mapping) else ""
    script = Party(who["Script"], is_requestor=not person)
    return [script, Party(person, is_requestor=True)] if person else [script]


def _clean(value: object) -> str:
    """Return a value as XML may hold it, and no longer than a message should."""
    return NOT_IN_XML.sub("\ufffd", str(value))[:LONGEST_TEXT]


def _add(parent: Xml.Element, name: str, **attributes: object) -> Xml.Element:
    return Xml.SubElement(parent, name, {key: _clean(value) for key, value in attributes.items()})


def _add_coded(parent: Xml.Element, name: str, code: str, text: str, system: str = "DCM") -> None:
    _add(parent, name, **{"csd-code": code, "codeSystemName": system, "originalText": text})


def _add_party(root: Xml.Element, party: Party) -> None:
    attributes = {"UserID": party.user, "UserIsRequestor": "true" if party.is_requestor else "false"}
    if party.aet:
        attributes["AlternativeUserID"] = f"AETITLES={party.aet}"
    if party.access[0]:
        attributes["NetworkAccessPointID"], attributes["NetworkAccessPointTypeCode"] = party.access
    found = _add(root, "ActiveParticipant", **attributes)
    if party.role:
        _add_coded(found, "RoleIDCode", *party.role)
    if party.is_media:
        _add_coded(_add(found, "MediaIdentifier"), "MediaType", *URI_MEDIA)


def _add_objects(root: Xml.Element, line: Mapping[str, Any], event: Event) -> None:
    """Add what a message is about; the first object has the details of the line."""
    details: Iterable[str] = DETAILS
    if event.kind in (LOG_USED, QUERIED):
        is_query = event.kind == QUERIED
        found = _add_object(root, "2", "24" if is_query else "13", SEARCH_CRITERIA if is_query else URI, line["Route"])
        if is_query:
            asked = _clean(f"{line.get('Method', '')} {line['Route']}")
            Xml.SubElement(found, "ParticipantObjectQuery").text = _base64(asked)
        else:
            Xml.SubElement(found, "ParticipantObjectName").text = "Security Audit Log"
        details = _add_details(found, line, details)
    if event.has_study and (event.kind != QUERIED or "StudyInstanceUID" in line):
        found = _add_object(root, "2", "3", STUDY_UID, line.get("StudyInstanceUID") or UNKNOWN)
        Xml.SubElement(found, "ParticipantObjectName").text = _clean(line.get("Study") or UNKNOWN)
        _add_details(found, line, details)
        patient = line.get("Patient") or UNKNOWN
        found = _add_object(root, "1", "1", PATIENT_NUMBER, patient)
        Xml.SubElement(found, "ParticipantObjectName").text = _clean(patient)


def _add_object(root: Xml.Element, kind: str, role: str, id_type: tuple[str, str, str], name: str) -> Xml.Element:
    codes = {"ParticipantObjectTypeCode": kind, "ParticipantObjectTypeCodeRole": role}
    found = _add(root, "ParticipantObjectIdentification", ParticipantObjectID=name, **codes)
    _add_coded(found, "ParticipantObjectIDTypeCode", *id_type)
    return found


def _add_details(found: Xml.Element, line: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    """Add what a line says besides; return what is left for the next object: nothing."""
    for name in names:
        if name in line:
            _add(found, "ParticipantObjectDetail", type=name, value=_base64(_clean(line[name])))
    return ()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# ---- src/audit_log/deleters.py: Who has asked for what is being deleted: Orthanc reports what is gone, and not whose request it was.


REMEMBERED_SECONDS = 300.0  # after the request; it may have been refused, and a large study takes its time
MOST_REMEMBERED = 50_000


class Deleters:
    """Remembers the latest request to delete each resource. For one thread."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def note(self, resources: Iterable[str], who: Mapping[str, Any]) -> None:
        """Remember that somebody asks to delete resources."""
        now = time.monotonic()
        for resource in resources:
            self._requests.pop(resource, None)  # the newest ones are last
            self._requests[resource] = now, who
        while self._requests:
            oldest = next(iter(self._requests))
            if len(self._requests) <= MOST_REMEMBERED and self._requests[oldest][0] > now - REMEMBERED_SECONDS:
                return
            del self._requests[oldest]

    def of(self, *identifiers: str) -> Mapping[str, Any]:
        """Return who asked to delete the first of these resources of which that is known; {} if nobody did."""
        for resource in identifiers:
            at, who = self._requests.get(resource, (0.0, {}))
            if who and at > time.monotonic() - REMEMBERED_SECONDS:
                return who
        return {}


# ---- src/audit_log/places.py: Which study and patient a resource belongs to, also after it was deleted: lines name both, events only an identifier.


STUDIES_PER_REQUEST = 500  # when the archive is looked through
INSTANCES_PER_REQUEST = 500  # that a job has sent
PLACES_IN_MEMORY = 50_000
PLACES_PER_READ = 1000
PLACE_TABLES = """
CREATE TABLE IF NOT EXISTS places(
    resource TEXT PRIMARY KEY, study TEXT NOT NULL, uid TEXT NOT NULL, patient TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places_by_uid ON places(uid);
"""

Place: TypeAlias = dict[
    str, str
]  # "Study" (Orthanc's identifier), "StudyInstanceUID", "Patient" (PatientID), as lines have them


def place_of_study(study: Mapping[str, Any]) -> Place:
    """Return the place of a study as Orthanc describes it."""
    return {
        "Study": study["ID"],
        "StudyInstanceUID": study["MainDicomTags"].get("StudyInstanceUID", ""),
        "Patient": study["PatientMainDicomTags"].get("PatientID", ""),
    }


class Places:
    """Remembers the places of resources in the ledger, which has `PLACE_TABLES`."""

    def __init__(self, ledger: Ledger, loopback: Loopback) -> None:
        self._ledger, self._loopback = ledger, loopback
        self._known: dict[str, Place] = {}
        self._deleted: dict[str, None] = {}
        self._has_all = False

    def keep(self, resource: str, place: Place) -> None:
        """Remember the place of a resource."""
        self._deleted.pop(resource, None)
        if resource not in self._known:
            values = (place["Study"], place["StudyInstanceUID"], place["Patient"])
            self._ledger.run("INSERT OR REPLACE INTO places VALUES(?,?,?,?)", resource, *values)
            if len(self._known) > PLACES_IN_MEMORY:
                self._known.clear()
            self._known[resource] = place

    def forget(self, resource: str) -> None:
        """Let a resource that was deleted be forgotten, by `forget_deleted`."""
        self._deleted[resource] = None
        self._known.pop(resource, None)

    def forget_deleted(self) -> None:
        """Forget what was deleted, once its lines are written: after a kill before that, the place says that they are missing."""
        if self._deleted:
            with self._ledger.transaction() as db:
                db.executemany("DELETE FROM places WHERE resource=?", [(each,) for each in self._deleted])
            self._deleted.clear()

    def is_kept(self, resource: str) -> bool:
        """Return whether a resource has a place, and was not deleted."""
        rows = self._ledger.rows("SELECT 1 FROM places WHERE resource=?", resource)
        return bool(rows) and resource not in self._deleted

    def studies(self) -> Iterator[Place]:
        """Yield the place of each study that has one."""
        last = ""
        sql = "SELECT * FROM places WHERE resource>? ORDER BY resource LIMIT ?"
        while rows := self._ledger.rows(sql, last, PLACES_PER_READ):
            for row in rows:
                if row["resource"] == row["study"]:
                    yield {"Study": row["study"], "StudyInstanceUID": row["uid"], "Patient": row["patient"]}
            last = rows[-1]["resource"]

    def of_study(self, place: Place) -> list[str]:
        """Return the resources that have the place of a study."""
        sql = "SELECT resource FROM places WHERE uid=? AND study=?"
        return [row["resource"] for row in self._ledger.rows(sql, place["StudyInstanceUID"], place["Study"])]

    def find(self, resource: str, levels: Sequence[str] = ("studies", "series", "instances")) -> Place:
        """Return the place of a resource, or of a StudyInstanceUID, as remembered, else as Orthanc says; {} if nobody knows.

        `levels` : those at which Orthanc is asked about it, none for what was deleted.
        """
        if resource in self._known:
            return self._known[resource]
        rows = self._ledger.rows(
            "SELECT study, uid, patient FROM places WHERE resource=? OR uid=? LIMIT 1", resource, resource
        )
        if rows:
            return {"Study": rows[0]["study"], "StudyInstanceUID": rows[0]["uid"], "Patient": rows[0]["patient"]}
        for level in levels:
            with contextlib.suppress(LoopbackError):
                found = self._loopback.get(f"/{level}/{resource}" + ("" if level == "studies" else "/study"))
                self._known[resource] = place_of_study(found)
                return self._known[resource]
        return {}

    def of_instances(self, instances: Sequence[str]) -> list[Place]:
        """Return the places of the studies that have these instances, as far as Orthanc knows them."""
        found: list[Place] = []
        for start in range(0, len(instances), INSTANCES_PER_REQUEST):
            body = {"Resources": instances[start : start + INSTANCES_PER_REQUEST], "Level": "Study", "Metadata": False}
            with contextlib.suppress(LoopbackError):
                found += map(place_of_study, self._loopback.post("/tools/bulk-content", body))
        return found

    def learn_some(self) -> bool:
        """Learn the places of some of the studies that were here before the script; return whether there may be more."""
        if self._has_all or not self._loopback.enabled:
            return False
        since = self._ledger.get_value("looked_through")
        studies = self._loopback.get(f"/studies?expand&since={since}&limit={STUDIES_PER_REQUEST}") if since >= 0 else []
        with self._ledger.transaction() as db:
            rows = []
            for study in studies:
                values = place_of_study(study)
                for resource in (study["ID"], study["ParentPatient"], *study["Series"]):
                    rows.append((resource, values["Study"], values["StudyInstanceUID"], values["Patient"]))
            db.executemany("INSERT OR IGNORE INTO places VALUES(?,?,?,?)", rows)
            self._ledger.set_value("looked_through", since + len(studies) if studies else -1)
        self._has_all = not studies
        return bool(studies)


# ---- src/audit_log/watching.py: Which requests are written down, and what of them: never what is secret.


# Orthanc takes tags in each of these writings: of pixels, waveforms and documents, in sequences too.
LARGE_TAGS = (
    r"(?i:7fe0[-,]?00(?:08|09|10)|5400[-,]?1010|0042[-,]?0011"
    r"|(?:Float|DoubleFloat)?PixelData|WaveformData|EncapsulatedDocument)"
)
# Routes that give images, or documents, or what they were made from, or whose they are.
CONTENT = (
    r"(?:patients|studies|series|instances)/[^/]+/(?:archive|media|file|preview|rendered|image-|frames|pdf|raw|matlab"
    r"|attachments/[^/]+/(?:data|compressed-data)|numpy|export|dicom|thumbnail|nifti|stl"
    rf"|content/(?:[^/]+/[0-9]+/)*{LARGE_TAGS}(?:/|$))"
    r"|pydicom/|tools/create-archive|tools/create-media|jobs/[^/]+/archive|audit-log/?$|anonymize-series/register/?$"
    # of viewers' plugins, and of Orthanc's transfers accelerator
    r"|(?:web-viewer|osimis-viewer)/(?:series|instances|images|studies)/|wsi/(?!app/)|transfers/chunks/"
)
ACTS_ON_GET = re.compile(r"^/purge-old-studies/?$")
WITH_QUERY = re.compile(
    r"^/(?:purge-old-studies|anonymize-series/register)/?$"
)  # what they are asked is no patient's name
# Parameters of these that are written down with their values: another one may be somebody's token.
KNOWN_PARAMETERS = {
    *("since", "older-than", "by", "Query", "Labels", "LabelsConstraint", "limit", "undated", "keep-received-days"),
    *("only-if-at", "proof", "dry-run", "force", "async", "format", "patient", "study", "pseudonym"),
}
# What scripts ask over and over, and what tells nobody else anything.
READ_BY_POST = re.compile(
    r"^/(?:tools/(?:find|bulk-content|count-resources|lookup)|[^/]+/(?:owed|protected|rules/test))/?$"
)
DOES_NOTHING = "/dashboard/may-act"  # the dashboard asks it each minute
METHODS = {1: "GET", 2: "POST", 3: "PUT", 4: "DELETE"}  # orthanc.HttpMethod
LONGEST_PARAMETER = 200  # characters of a parameter


class SeenRequest(NamedTuple):
    """A request, as it was seen before it was answered.

    Attributes
    ----------
    who : `User`, `IP` and `ForwardedFor`, or the `Script` that sends it, and who asked the script for it (`AskedBy`).
    acts : whether it may change something.
    study_uid : the StudyInstanceUID that it names, or "".
    deletes : the identifiers that a bulk-delete of a script names.
    """

    at: str
    method: str
    uri: str
    who: Mapping[str, Any]
    acts: bool
    study_uid: str = ""
    query: Mapping[str, str] = {}
    deletes: Sequence[str] = ()


def dicomweb_paths(configuration: Mapping[str, Any]) -> tuple[str, str]:
    """Return where the DICOMweb plugin answers, and where its WADO-URI, without a slash at the end."""
    section = configuration.get("DicomWeb")
    found = section if isinstance(section, Mapping) else {}
    root, wado = (str(found.get(key) or default) for key, default in (("Root", "dicom-web"), ("WadoRoot", "wado")))
    return f"/{root.strip('/')}".rstrip("/"), f"/{wado.strip('/')}"


class RequestWatcher:
    """Looks at each request. `own_token` returns the script's own authorization, or "" as long as it has none."""

    def __init__(self, configuration: Mapping[str, Any], own_token: Callable[[], str]) -> None:
        root, wado = map(re.escape, dicomweb_paths(configuration))
        self._content = re.compile(rf"^(?:/(?:{CONTENT})|{root}/(?:studies|series|instances)(?:/|$)|{wado}(?:/|$))")
        self._study_uid = re.compile(rf"^{root}/studies/([0-9.]+)")
        self._own_token = own_token

    def seen(self, uri: str, request: Mapping[str, Any]) -> SeenRequest | None:
        """Return what is written down of a request; None for most, which cost a look at their route, and for our own."""
        method = METHODS.get(request["method"], "?")
        if not self._is_watched(method, uri):
            return None
        headers = request["headers"]
        authorization = headers.get("authorization", "")
        if authorization and authorization == self._own_token():
            return None
        forwarded = headers.get("x-forwarded-for", "")
        who = {
            "User": user_of(authorization),
            "IP": request["ip"],
            **({"ForwardedFor": one_line(forwarded)} if forwarded else {}),
        }
        return self._described(method, uri, who, request.get("get") or {})

    def seen_of_script(self, script: str, request: OwnRequest) -> SeenRequest | None:
        """Return what is written down of what another script of a combined file asks Orthanc for."""
        uri, _, query = request.path.partition("?")
        if READ_BY_POST.match(uri) or not self._is_watched(request.method, uri):
            return None
        who = {"Script": script, **({"AskedBy": request.asked_by} if request.asked_by else {})}
        seen = self._described(request.method, uri, who, dict(urllib.parse.parse_qsl(query)))
        return seen._replace(deletes=request.resources) if uri == "/tools/bulk-delete" else seen

    def _is_watched(self, method: str, uri: str) -> bool:
        if method != "GET":
            return uri != DOES_NOTHING
        return self._content.match(uri) is not None or ACTS_ON_GET.match(uri) is not None

    def _described(self, method: str, uri: str, who: Mapping[str, Any], given: Mapping[str, str]) -> SeenRequest:
        named = self._study_uid.match(uri)
        query = given if WITH_QUERY.match(uri) else {}
        return SeenRequest(
            utc(),
            method,
            uri,
            who,
            method != "GET" or ACTS_ON_GET.match(uri) is not None,
            named[1] if named else given.get("studyUID") or given.get("StudyInstanceUID") or "",
            {
                one_line(name): one_line(value)[:LONGEST_PARAMETER] if name in KNOWN_PARAMETERS else "***"
                for name, value in query.items()
            },
        )


# ---- src/audit_log/coalescer.py: Many events of one kind become two lines: the first of them, and how many they were.


QUIET_SECONDS = 10.0  # without another event of its kind, until the count is written
LONGEST_COUNT_SECONDS = 600.0  # after which the count is written although more events come


class EventCoalescer:
    """Lets the first event of a kind through at once, and counts the others until there were none for a while."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], tuple[dict[str, Any], int, float, float]] = {}

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._open

    def note(self, key: tuple[Any, ...], entry: dict[str, Any]) -> dict[str, Any] | None:
        """Return the line to write now, or None: the event is counted."""
        first, count, began, _ = self._open.get(key, (entry, 0, time.monotonic(), 0.0))
        self._open[key] = first, count + 1, began, time.monotonic()
        return None if count else entry

    def ended(self, everything: bool = False) -> list[dict[str, Any]]:
        """Return the lines with the counts of what has become quiet, and begin to count that again."""
        found = []
        for key, (entry, count, began, last) in list(self._open.items()):
            if everything or time.monotonic() > min(last + QUIET_SECONDS, began + LONGEST_COUNT_SECONDS):
                del self._open[key]
                if count > 1:
                    found.append({**entry, "At": utc(), "Since": entry["At"], "Count": count})
        return found


# ---- src/audit_log/lines.py: The lines of a log, and the files that hold them.


MAC = re.compile(rb', "Mac": "([0-9a-f]{64})"\}$')


def mac_of(key: bytes, previous: str, text: bytes) -> str:
    """Return the HMAC-SHA256 of a line without its end, and of the MAC of the line before ("" for the first of all)."""
    return hmac.new(key, previous.encode() + b"\n" + text, hashlib.sha256).hexdigest()


def log_files(folder: Path) -> list[Path]:
    """Return the files of a log, oldest first: each is called by the number of its first line."""
    return sorted(folder.glob("audit-*.jsonl"))


class Line(NamedTuple):
    """One line of a file: its text without the MAC, its content, its MAC."""

    text: bytes
    content: dict[str, Any]
    mac: str


def parse_line(raw: bytes) -> Line | None:
    """Return a line, or None if it is none."""
    if not (found := MAC.search(raw)):
        return None
    try:
        content = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("Number"), int):
        return None
    return Line(raw[: found.start()], content, found[1].decode())


def entries_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        yield from (line.content for raw in file if raw.endswith(b"\n") and (line := parse_line(raw)))


# ---- src/audit_log/search.py: Finds lines of the log by an index in memory: what nobody asks for is not read.


NAMES = ("Patient", "Study", "StudyInstanceUID")
NAME_BITS = 8192  # of a block: one that doesn't have a name is read for it once in some fifty times
READ_AHEAD_BYTES = 1 << 20  # at a time


class BlockOfLines:
    """What is known of some lines: their events, their times, and by one bit each which patients and studies they name.

    Attributes
    ----------
    newest : the highest number of a line.
    events : how many lines there are of each event.
    earliest, latest : of their times; the clock may have been set back in between.
    """

    __slots__ = ("_names", "earliest", "events", "latest", "newest")

    def __init__(self) -> None:
        self.newest, self.events = 0, Counter[str]()
        self.earliest = self.latest = ""
        self._names = 0

    def add(self, line: bytes) -> None:
        """Take in a line; what is none counts as nothing."""
        if (entry := _entry_of(line)) is None:
            return
        at = entry["At"]
        self.earliest, self.latest = min(self.earliest or at, at), max(self.latest, at)
        self.newest = max(self.newest, entry["Number"])
        self.events[str(entry.get("Event", ""))] += 1
        for name in map(entry.get, NAMES):
            if isinstance(name, str):
                self._names |= _bit_of(name)

    def may_name(self, text: str) -> bool:
        """Return False if no line names this patient or study."""
        return bool(self._names & _bit_of(text))


def _bit_of(name: str) -> int:
    return 1 << zlib.crc32(name.encode(errors="surrogatepass")) % NAME_BITS


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None: it is none, or damaged. What is counted and what is shown are the same lines."""
    found = parse_line(line)
    return found.content if found and isinstance(found.content.get("At"), str) else None


@dataclasses.dataclass(frozen=True)
class LineFilter:
    """Which lines a request asks for; an empty text fits all."""

    patient: str
    study: str
    event: str
    since: str
    until: str

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> LineFilter:
        """Return the filter that parameters describe."""
        return cls(*(given.get(field.name, "") for field in dataclasses.fields(cls)))

    def needles(self) -> list[bytes]:
        """Return texts that each line holds."""
        return [_in_line(value) for value in (self.patient, self.study, self.event) if value]

    def includes(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a line is asked for."""
        return (
            self.patient in ("", entry.get("Patient"))
            and self.study in ("", entry.get("Study"), entry.get("StudyInstanceUID"))
            and self.event in ("", entry.get("Event"))
            and self.since <= entry["At"]
            and (not self.until or entry["At"] < self.until)
        )

    def may_be_in(self, block: BlockOfLines) -> bool:
        """Return False if no line of a block is asked for."""
        return (
            all(block.may_name(value) for value in (self.patient, self.study) if value)
            and (not self.event or self.event in block.events)
            and self.since <= block.latest
            and (not self.until or block.earliest < self.until)
        )

    def count_in(self, block: BlockOfLines) -> int | None:
        """Return how many lines of a block are asked for, or None: they have to be read."""
        in_span = self.since <= block.earliest and (not self.until or block.latest < self.until)
        if self.patient or self.study or not in_span:
            return None
        return block.events[self.event] if self.event else block.events.total()


def _in_line(value: str) -> bytes:
    return json.dumps(value).encode()


class LogIndex:
    """An index of the files of a log, in memory: each line is read once, of each block a kilobyte and some events are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._indexes = folder, dict[Path, LineIndex[BlockOfLines]]()

    def forget_newest(self) -> None:
        """Read the newest file anew at the next look: lines at its end were cut off."""
        for path in log_files(self._folder)[-1:]:
            self._of(path).forget()

    def read_ahead(self) -> bool:
        """Take in some lines, so that nobody waits for it who asks for a page; return whether there are more."""
        return not all(self._of(path).update(READ_AHEAD_BYTES) for path in log_files(self._folder))

    def page(self, asked: LineFilter, after: int, limit: int) -> dict[str, Any]:
        """Return at most so many of the lines that are asked for, oldest first, with a number above `after`."""
        total, items = 0, list[dict[str, Any]]()
        for index, block in self._blocks():
            if not asked.may_be_in(block.summary):
                continue
            is_shown = len(items) <= limit and block.summary.newest > after
            if not is_shown and (count := asked.count_in(block.summary)) is not None:
                total += count
                continue
            for entry in _entries(index, block, asked):
                total += 1
                if entry["Number"] > after and len(items) <= limit:
                    items.append(entry)
        more = len(items) > limit
        return {"Total": total, "Items": items[:limit], "Next": items[limit - 1]["Number"] if more else None}

    def _of(self, path: Path) -> LineIndex[BlockOfLines]:
        return self._indexes.setdefault(path, LineIndex(path, BlockOfLines))

    def _blocks(self) -> Iterator[tuple[LineIndex[BlockOfLines], LineBlock[BlockOfLines]]]:
        files = log_files(self._folder)
        for path in {*list(self._indexes)}.difference(files):  # too old, and deleted
            self._indexes.pop(path, None)
        for path in files:
            index = self._of(path)
            try:
                index.update()
            except FileNotFoundError:  # deleted meanwhile
                continue
            yield from ((index, block) for block in index.blocks())


def _entries(
    index: LineIndex[BlockOfLines], block: LineBlock[BlockOfLines], asked: LineFilter
) -> Iterator[dict[str, Any]]:
    """Yield the lines of a block that are asked for; none if its file was deleted meanwhile."""
    needles = asked.needles()
    try:
        for _, raw in index.lines(block):
            if all(needle in raw for needle in needles) and (entry := _entry_of(raw)) and asked.includes(entry):
                yield entry
    except FileNotFoundError:
        return


# ---- src/audit_log/log.py: The log: files that are only appended to, whose lines are chained by their MACs.


class Log:
    """The files of a folder, to append to: by one process only. `index` finds their lines.

    Raises
    ------
    OSError : the folder or its files can't be written, or another process has them.
    """

    def __init__(self, folder: Path, key: bytes, max_bytes: int, *, sync: bool, setting: str = "StatePath") -> None:
        self.folder, self._key, self._max_bytes, self._sync = folder, key, max_bytes, sync
        self.number, self.mac, self.index = 0, "", LogIndex(folder)
        self._file: AppendOnly | None = None
        self._lock = StateLock(folder, setting, folder / "lock")
        try:
            if files := log_files(folder):
                for path in files:
                    make_private(path)
                self._open(files[-1])
                self._continue_from(files)
            else:
                self._begin_file()
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        # Half a line stays: cut off, it would look as if somebody had changed the file.
        file = AppendOnly(path, synced=self._sync, keep_torn=True)
        if self._file:
            self._file.close()
        self._file = file

    def _begin_file(self) -> None:
        self._open(self.folder / f"audit-{self.number + 1:012}.jsonl")

    def _continue_from(self, files: Sequence[Path]) -> None:
        """Continue after the last whole line; if a crash has cut one, write a line that says so."""
        broken = b""
        for path in reversed(files):
            lines = path.read_bytes().split(b"\n")
            for raw in reversed(lines):
                if line := parse_line(raw):
                    self.number, self.mac = line.content["Number"], line.mac
                    break
                broken = broken or raw
            if self.number:
                break
        if broken:
            # `Previous`: the cut line may be the first of its file, and the files before may be dropped for their age.
            entry = {"Event": "recovered", "Broken": hashlib.sha256(broken).hexdigest(), "Previous": self.mac}
            self.append([{"At": utc(), **entry}])

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write lines; all of them, or none. Raises OSError: a full disk, or the file was deleted, for example."""
        assert self._file
        self._file.check()
        self._lock.check()
        if self._file.size >= self._max_bytes:
            self._begin_file()
        if self.number and not self._file.size:  # begun now, or before a full disk or a kill: nothing was written to it
            entries = [{"At": utc(), "Event": "continued", "Previous": self.mac}, *entries]
        number, mac, data = self.number, self.mac, []
        for number, entry in enumerate(entries, start=self.number + 1):
            text = json.dumps({"Number": number, **entry}).encode()[:-1]
            mac = mac_of(self._key, mac, text)
            data.append(b'%s, "Mac": "%s"}\n' % (text, mac.encode()))
        try:
            self._file.append(b"".join(data))
        except OSError:
            self.index.forget_newest()  # it may have seen lines that were cut off again
            raise
        self.number, self.mac = number, mac

    def drop_before(self, at: str) -> None:
        """Delete the files whose lines are all older; a line says up to which, so that `verify` misses none."""
        for path, following in list(zip(log_files(self.folder), log_files(self.folder)[1:], strict=False)):
            if (first := next(entries_of(following), None)) is None or first["At"] >= at:
                return
            if any(entry["At"] >= at for entry in entries_of(path)):
                return  # the clock was behind when the next file began
            self.append([{"At": utc(), "Event": "dropped", "File": path.name, "UpTo": first["Number"] - 1}])
            path.unlink()

    def close(self) -> None:
        """Write no more, and let another process write."""
        if self._file:
            self._file.close()
            self._file = None
        self._lock.close()


# ---- src/audit_log/writer.py: Gathers lines and writes them together.


DROP_EVERY_SECONDS = 3600.0  # between two looks for files older than `KeepDays`


class LineWriter:
    """Keeps lines in memory until the log has them. For one thread.

    Attributes
    ----------
    lines : what waits to be written.
    wrote_at : when (monotonic) lines were written last.
    """

    def __init__(self, log: Log, keep_days: float | None, expiry: Expiry) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self._log, self._keep_days, self._expiry = log, keep_days, expiry
        self._coalescer = EventCoalescer()
        self._next_drop, self.wrote_at = 0.0, time.monotonic()

    def add(self, at: str, event: str, place: Mapping[str, str] | None = None, **more: Any) -> None:
        """Add a line."""
        self.lines.append({"At": at, "Event": event, **(place or {}), **more})

    def add_or_count(self, key: tuple[Any, ...], entry: dict[str, Any]) -> bool:
        """Add a line unless one of its kind, `key`, was added just now; return whether it was added."""
        if line := self._coalescer.note(key, entry):
            self.lines.append(line)
        return line is not None

    def counts(self, key: tuple[Any, ...]) -> bool:
        """Return whether events of this kind are being counted: its first line has been added."""
        return key in self._coalescer

    def add_counts(self, everything: bool = False) -> None:
        """Add the lines of what was counted and has become quiet."""
        self.lines += self._coalescer.ended(everything)

    def write(self) -> None:
        """Write all lines, and delete files that are too old. Raises OSError, sqlite3.Error; nothing is lost then."""
        if self.lines:
            self._log.append(self.lines)
            self.lines, self.wrote_at = [], time.monotonic()
        if self._keep_days and time.monotonic() > self._next_drop:
            self._next_drop = time.monotonic() + DROP_EVERY_SECONDS
            if self._expiry.may_delete():
                self._log.drop_before(utc(max(0.0, time.time() - self._keep_days * 86400)))


# ---- src/audit_log/events.py: What the log says of each event.


# Viewers' plugins put something in front of an identifier or behind it: /web-viewer/instances/jpeg95-{id}_0
RESOURCE = re.compile(
    r"/(patients|studies|series|instances|images|tiles|pyramids|pydicom|anonymize-series)/(?:[a-z]+[0-9]*-)?"
    r"([0-9a-f]{8}(?:-[0-9a-f]{8}){4})(?:[/_]([a-z-]*))?"
)
ASKED_AT = {  # the level at which Orthanc is asked about an identifier in a route
    **{level: (level,) for level in ("studies", "series", "instances")},
    **dict.fromkeys(("images", "pydicom"), ("instances",)),
    **dict.fromkeys(("tiles", "pyramids"), ("series",)),
    "anonymize-series": ("series", "studies"),
}
LEVEL_NAMES = {0: "Patient", 1: "Study", 2: "Series"}  # orthanc.ResourceType
REQUEST_EVENTS = {"GET": "retrieve-attempt", "DELETE": "delete-attempt", "POST": "post-attempt", "PUT": "put-attempt"}
JOB_EVENTS = {
    "DicomModalityStore": "sent",
    "OrthancPeerStore": "sent",
    "DicomWebStowClient": "sent",
    "PushTransfer": "sent",
    "DicomMoveScu": "moved",
    "DicomGetScu": "moved",
    "Archive": "archived",
    "Media": "archived",
}


class EventLines:
    """Makes lines of events: finds out which study and patient each is about.

    Each method raises sqlite3.Error or OSError where the ledger can't be used now; called again later, nothing counts twice.
    """

    def __init__(self, places: Places, writer: LineWriter) -> None:
        self._places, self._writer, self._deleters = places, writer, Deleters()

    def on_stored(self, at: str, instance: str, arrival: Arrival) -> None:
        """Add that an instance was received, and the modification or anonymization that made it."""
        # First what may fail, then what is kept in memory: when this is done again, nothing counts twice.
        parents, uids = arrival.parents, arrival.uids
        origin = {name: value for name, value in arrival.origin.items() if name not in KIND}
        made_by = [name for name in ("ModifiedFrom", "AnonymizedFrom") if origin.pop(name, None)]
        place = {"Study": parents.get("Study", ""), "StudyInstanceUID": uids["Study"], "Patient": uids["Patient"]}
        if not parents:  # identifiers that are not ASCII
            place = self._places.find(instance, ("instances",)) or place
        for resource in parents.values():
            self._places.keep(resource, place)
        change_key = (made_by[0], place["Study"]) if made_by else ()
        # Before 1.12.5 a job of modification does not name its source; the instances that it made do.
        is_first = bool(made_by) and not self._writer.counts(change_key)
        source = self._places.find(arrival.origin[made_by[0]], ("instances",)) if is_first else {}
        entry = {"At": at, "Event": "received", **place, "From": origin}
        if made_by:
            entry["Made"] = made_by[0][:-4].lower()
        self._writer.add_or_count(("received", place["Study"], *origin.items(), *made_by), entry)
        if made_by:
            change = {"At": at, "Event": entry["Made"], **source, "Made": place["Study"]}
            self._writer.add_or_count(change_key, change)

    def on_deleted(self, at: str, level: int, resource: str) -> None:
        """Add that a resource was deleted, and who asked for it; of many instances, how many."""
        if level == orthanc.ResourceType.INSTANCE:
            by = self._by(resource)
            entry = {"At": at, "Event": "deleted", "Level": "Instance", "Resource": resource, **by}
            self._writer.add_or_count(("deleted", json.dumps(by)), entry)
            return
        place = self._places.find(resource, ())
        patient = orthanc_identifier(place["Patient"]) if place else ""
        by = self._by(*filter(None, (resource, place.get("Study"), patient)))
        if level == orthanc.ResourceType.PATIENT:
            place = {"Patient": place["Patient"]} if place else {}
        self._places.forget(resource)
        self._writer.add(at, "deleted", place, Level=LEVEL_NAMES[level], Resource=resource, **by)

    def _by(self, *resources: str) -> dict[str, Any]:
        who = self._deleters.of(*resources)
        return {"By": who} if who else {}

    def on_job_end(self, at: str, job: Mapping[str, Any], success: bool) -> None:
        """Add how a job ended, one line for each study that it was about."""
        content = job.get("Content", {})
        event = JOB_EVENTS.get(job["Type"], "job")
        # Of a DICOMweb push, if the plugin shows it: thousands of instances too.
        by_level = dict((content.get("Resources") or {}) if job["Type"] == "DicomWebStowClient" else {})
        of_instances = self._places.of_instances(by_level.pop("Instances", ()))
        resources = [
            *content.get("ParentResources", ()),
            content.get("SourceStudy"),
            *itertools.chain(*by_level.values()),
        ]
        found = [*map(self._places.find, dict.fromkeys(filter(None, resources))), *of_instances]
        places = {place.get("Study"): place for place in found}
        for place in places.values() or [{}]:
            self._writer.add(at, event, place, **_described_job(job, event, success))

    def on_request(self, seen: SeenRequest, *, is_written: bool = True) -> None:
        """Add who asked for what; of many requests of one kind, how many. All of those that delete are remembered."""
        resource = RESOURCE.search(seen.uri)
        self._deleters.note(seen.deletes, seen.who)
        if seen.method == "DELETE" and resource:
            self._deleters.note([resource[2]], seen.who)
        if not is_written:
            return
        place = self._place_of_request(seen, resource)
        event = REQUEST_EVENTS.get(seen.method, "attempt")
        more = {**place, **seen.who, "Method": seen.method, "Route": one_line(seen.uri)}
        if seen.query:
            more["Query"] = seen.query
        if seen.acts and "Script" not in seen.who:
            self._writer.add(seen.at, event if seen.method != "GET" else "delete-attempt", more)
            return
        kind = (resource[1], resource[3]) if resource else (seen.uri,)
        key = (seen.method, json.dumps(seen.who), *place.values(), *kind)
        self._writer.add_or_count(key, {"At": seen.at, "Event": event, **more})

    def _place_of_request(self, seen: SeenRequest, resource: re.Match[str] | None) -> Mapping[str, str]:
        if resource and resource[1] == "patients":
            return {"Patient": self._places.find(resource[2], ()).get("Patient", "")}
        if resource:
            return self._places.find(resource[2], ASKED_AT[resource[1]])
        return self._places.find(seen.study_uid, ()) if seen.study_uid else {}


def _described_job(job: Mapping[str, Any], event: str, success: bool) -> dict[str, Any]:
    """Return what a line says of a job besides study and patient."""
    content = job.get("Content", {})
    found = {"Job": job["ID"], "Type": job["Type"], "Result": "success" if success else "failure"}
    if not success:
        found["Error"] = one_line(job.get("ErrorDescription", ""))
    optional = {
        "To": sent_to(content) if event == "sent" else content.get("TargetAet"),
        "From": content.get("RemoteAet") if event == "moved" else None,
        "Made": content.get("ID") or content.get("TargetStudy"),
        "MoveOriginator": content.get("MoveOriginatorAET"),
        "Query": content.get("Query") if event == "moved" else None,
    }
    return found | {name: value for name, value in optional.items() if value}


def sent_to(content: Mapping[str, Any]) -> str:
    """Return where a job of sending sent to: an AET, the name of a DICOMweb server, or the URL of a peer.

    Nothing else of a peer: its headers may be secret.
    """
    return str(content.get("RemoteAet") or content.get("Server") or re.sub("//[^/@]*@", "//", url_of_peer(content)))


# ---- src/audit_log/missed.py: What no line says because Orthanc was killed, or nothing could be written, when it happened: found at the next start.


CHANGES_PER_REQUEST = 500
STUDIES_PER_LIST = 1000
SETTLE_SECONDS = 2.0  # after which a callback has reported what Orthanc has done
FOUND = "at start"
SENDER = ("Origin", "RemoteAET", "CalledAET", "RemoteIP", "HttpUsername")  # metadata of an instance


class MissedLines:
    """Adds lines about what the process before did not write down.

    What arrived is in Orthanc's log of changes, after the place up to which all was written (`note`). What was deleted is not
    in the archive any more, and has a place. Each line has `Found`; what came in the last seconds may have one already.
    """

    def __init__(self, ledger: Ledger, loopback: Loopback, places: Places, writer: LineWriter) -> None:
        self._ledger, self._loopback, self._places, self._writer = ledger, loopback, places, writer
        self._place = self._kept = self._end = -1
        self._compares = bool(ledger.get_value("is_running"))  # it has not ended: what was deleted may have no line
        self._gone: list[Place] = []
        self._settles_at = 0.0
        self._seen = -1, 0.0

    def _begin(self) -> None:
        self._kept = self._ledger.get_value("cursor", -1)
        newest = self._newest()
        place = newest if self._kept < 0 else place_in_log(self._kept, newest, "audit_log")
        with self._ledger.transaction():
            self._ledger.set_value("cursor", place)
            self._ledger.set_value("is_running", 1)
        self._place = self._kept = place
        self._end, self._seen = newest, (newest, time.monotonic())

    def _newest(self) -> int:
        return int(self._loopback.get("/changes?last")["Last"])

    def find_some(self) -> bool:
        """Add lines of some of what was missed; return whether there is more.

        Raises
        ------
        LoopbackError : Orthanc can't answer now; called again, it goes on.
        """
        if self._end < 0:
            self._begin()
        if self._place < self._end:
            self._add_arrivals()
            return True
        if self._compares:
            self._gone, self._settles_at = self._find_gone(), time.monotonic() + SETTLE_SECONDS
            self._compares = False
        if self._gone and time.monotonic() >= self._settles_at:
            for place in self._gone:
                self._add_deleted(place)
            self._gone = []
        return False

    def note(self, *, at_end: bool = False) -> None:
        """Remember up to which place all is written, once that is so.

        Raises
        ------
        LoopbackError : Orthanc can't answer now; not `at_end`, when nothing is asked.
        """
        if self._end < 0:
            return
        if self._place >= self._end:
            newest, at = self._seen
            if at_end or time.monotonic() > at + SETTLE_SECONDS:
                self._place = max(self._place, newest)
                self._seen = (newest if at_end else self._newest()), time.monotonic()
        if self._place != self._kept:
            self._ledger.set_value("cursor", self._place)
            self._kept = self._place
        if at_end and not self._compares and not self._gone:
            self._ledger.set_value("is_running", 0)

    # What arrived

    def _add_arrivals(self) -> None:
        page = self._loopback.get(f"/changes?since={self._place}&limit={CHANGES_PER_REQUEST}")
        changes = [each for each in page["Changes"] if each["Seq"] <= self._end]
        new = {each["ID"]: each["Date"] for each in changes if each["ChangeType"] == "NewInstance"}
        if new:
            self._add_received(new)
        self._place = self._end if page["Done"] else min(self._end, int(page["Last"]))

    def _add_received(self, dates: Mapping[str, str]) -> None:
        """Add a line for each study of some instances that are here; `dates` : when Orthanc noted each."""
        instances: dict[str, list[str]] = {}
        for series in self._content([*dates], Level="Series", Short=True, Metadata=False):
            instances.setdefault(series["ParentStudy"], []).extend(dates.keys() & {*series["Instances"]})
        firsts = {min(each, key=dates.__getitem__): study for study, each in instances.items() if each}
        senders = {firsts[each["ID"]]: each.get("Metadata", {}) for each in self._content([*firsts], Short=True)}
        for study in self._content([*senders], Metadata=False):
            place, metadata, mine = place_of_study(study), senders[study["ID"]], instances[study["ID"]]
            for resource in (study["ID"], study["ParentPatient"], *study["Series"]):
                self._places.keep(resource, place)
            sender = {name: metadata[name] for name in SENDER if metadata.get(name)}
            first = parse_orthanc_time(min(dates[each] for each in mine))
            since = utc(first.timestamp()) if first else utc()
            more: dict[str, Any] = {"From": sender, "Since": since, "Count": len(mine), "Found": FOUND}
            self._writer.add(utc(), "received", place, **more)

    def _content(self, resources: Sequence[str], **more: Any) -> list[dict[str, Any]]:
        """Return what Orthanc says of those of some resources that are here."""
        if not resources:
            return []
        found: list[dict[str, Any]] = self._loopback.post("/tools/bulk-content", {"Resources": resources, **more})
        return found

    # What was deleted

    def _find_gone(self) -> list[Place]:
        here, since = set[str](), 0
        while page := self._loopback.get(f"/studies?since={since}&limit={STUDIES_PER_LIST}"):
            here.update(page)
            since += len(page)
        return [place for place in self._places.studies() if place["Study"] not in here and self._is_gone(place)]

    def _is_gone(self, place: Place) -> bool:
        """Return whether a study is not here: the list may have skipped it, while others were deleted."""
        try:
            self._loopback.get(f"/studies/{place['Study']}")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return True
        return False

    def _add_deleted(self, place: Place) -> None:
        if not self._places.is_kept(place["Study"]):
            return  # its event came meanwhile
        self._writer.add(utc(), "deleted", place, Level="Study", Resource=place["Study"], Found=FOUND)
        for resource in self._places.of_study(place):
            if resource != orthanc_identifier(place["Patient"]):
                self._places.forget(resource)


# ---- src/audit_log/settings.py: The section AuditLog of the configuration, and the key of the HMACs.


SECTION = "AuditLog"
MIN_KEY_LENGTH = 32  # characters


def wrong_key(key: str | None) -> str | None:
    """Return what is allowed, if this is no key."""
    return None if key is None or len(key) >= MIN_KEY_LENGTH else f"at least {MIN_KEY_LENGTH} characters"


def wrong_host(host: str) -> str | None:
    """Return what is allowed, if this is no name or address."""
    return None if re.fullmatch(r"[A-Za-z0-9_.:%-]+", host) else "a name or an address alone, as atna.hospital.example"


def _file_field(text: str) -> Any:
    return dataclasses.field(default=None, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class SyslogSettings:
    """Where an audit repository is, and how it is reached."""

    host: str | None = dataclasses.field(
        default=None, metadata={"check": wrong_host, "help": "Name or address of the audit repository; needed."}
    )
    port: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "maximum": 65535, "help": "Its port; null: 6514, for UDP 514."}
    )
    protocol: str = dataclasses.field(
        default="tls",
        metadata={"choices": ("tls", "udp"), "help": "`tls` (RFC 5425), or `udp` (RFC 5426), which loses messages."},
    )
    ca_file: str | None = _file_field(
        "PEM file of those who may have issued the repository's certificate; null: whom the system trusts."
    )
    certificate_file: str | None = _file_field(
        "PEM file of this Orthanc's own certificate, where the repository wants one."
    )
    key_file: str | None = _file_field("PEM file of its private key; null: it is in `CertificateFile`.")
    key_password: str | None = dataclasses.field(
        default=None, metadata={"secret": True, "help": "Password of the private key, if it has one."}
    )
    audit_source: str | None = dataclasses.field(
        default=None, metadata={"help": "Name by which the repository knows this Orthanc; null: Orthanc's `Name`."}
    )

    def port_number(self) -> int:
        """Return the port, or the one that the protocol has."""
        return self.port or (514 if self.protocol == "udp" else 6514)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AuditLog`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "MaxFileSize": "the script decides that itself now (a new file begins after 64 MB)",
    }

    key: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": wrong_key,
            "help": (
                "Secret of the checksums (HMAC), at least 32 characters. null: one is made and kept in "
                "`audit_log.key` beside the index."
            ),
        },
    )
    path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the log; null: `audit-log` in that of the index."}
    )
    watch_requests: bool | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                "Also write down who asks for images over HTTP. null: from plugin 5.0 on; the filter of older "
                "ones leaks memory."
            )
        },
    )
    keep_days: float | None = dataclasses.field(
        default=None,
        metadata={"minimum": 1, "help": "Days after which files are deleted, and a line says so; null: never."},
    )
    to: str | None = dataclasses.field(
        default=None,
        metadata={
            "choices": ("syslog",),
            "help": "`syslog`: lines also go to an audit repository; null: to files alone.",
        },
    )
    syslog: SyslogSettings = dataclasses.field(
        default=SyslogSettings(), metadata={"help": 'The audit repository, with `"To": "syslog"`.'}
    )
    reconcile: bool = reconcile_field()
    durability: str = durability_field("what is written survives", "each write waits")
    state_path: str | None = state_path_field()

    def check(self) -> None:
        """Raise `SettingsError` if keys do not go together."""
        given, needs_tls = self.syslog, ("ca_file", "certificate_file", "key_file", "key_password")
        wrong = ""
        if self.to is None and given != SyslogSettings():
            wrong = f'{SECTION}.Syslog has no effect without {SECTION}.To, allowed: "To": "syslog"'
        elif self.to is not None and not given.host:
            wrong = f"{SECTION}.Syslog.Host is needed, allowed: the name or the address of the audit repository"
        elif given.protocol == "udp" and any(getattr(given, name) for name in needs_tls):
            wrong = f'{SECTION}.Syslog.Protocol: found "udp" with files of TLS, allowed: "tls", or none of these files'
        elif (given.key_file or given.key_password) and not given.certificate_file:
            wrong = f"{SECTION}.Syslog.CertificateFile is needed with KeyFile and KeyPassword, allowed: a PEM file"
        if wrong:
            raise SettingsError(wrong)


def read_or_make_key(path: Path) -> str:
    """Return the key in a file, which is made, whole or not at all, if it is not there. Raises OSError."""
    make_private(path)
    if not path.exists() or not path.stat().st_size:  # an older version left it empty where the disk was full
        growing = path.with_name(f"{path.name}.new")
        with os.fdopen(open_private(growing, os.O_TRUNC), "r+") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        growing.replace(path)
    if wrong_key(key := path.read_text().strip()):
        raise OSError(f"{path} holds no key of at least {MIN_KEY_LENGTH} characters")
    return key


# ---- src/audit_log/tls_delivery.py: Bytes over TLS, of which the other end says that it has read them all: by its close_notify, after ours (RFC 5425 4.4).


RECEIVED_BYTES = 65536  # at most, at a time
LONGEST_SECONDS = 120.0  # of one delivery, also where the other end says something all the time
T = TypeVar("T")


def deliver(connection: socket.socket, context: ssl.SSLContext, host: str, content: bytes) -> None:
    """Send bytes, end TLS, and wait until the other end has ended it too.

    `ssl.SSLSocket.unwrap` won't do: to OpenSSL an alert ends a connection as well as close_notify. With TLS 1.3 a receiver
    that wants another certificate says so by an alert when we have sent everything, and it would count as delivered.

    Raises
    ------
    OSError : the other end is not the one that is meant, refuses us, or has not said that it has read everything.
    """
    ends_at = time.monotonic() + LONGEST_SECONDS
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)

    def step(act: Callable[[], T]) -> T:
        """Do something with as many bytes from the other end as it needs."""
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                _flush(connection, outgoing)
                if time.monotonic() > ends_at:
                    raise TimeoutError(f"it takes longer than {LONGEST_SECONDS:g} s") from None
                if received := connection.recv(RECEIVED_BYTES):
                    incoming.write(received)
                else:
                    incoming.write_eof()

    step(secured.do_handshake)
    left = memoryview(content)
    while left:
        left = left[secured.write(left) :]
    with contextlib.suppress(ssl.SSLWantReadError):  # it sends our close_notify, and nothing has come in for it to read
        secured.unwrap()
        raise OSError("it ended the connection before it was sent anything")
    _flush(connection, outgoing)
    try:
        while True:
            step(lambda: secured.read(RECEIVED_BYTES))  # a receiver has nothing to say
    except ssl.SSLZeroReturnError:
        return  # close_notify
    except OSError as error:
        raise OSError(f"it did not end the connection as RFC 5425 has it (close_notify): {error}") from error


def _flush(connection: socket.socket, outgoing: ssl.MemoryBIO) -> None:
    if outgoing.pending:
        connection.sendall(outgoing.read())


# ---- src/audit_log/syslog.py: Messages of syslog (RFC 5424), and how they get to a receiver: over TLS (RFC 5425) or UDP (RFC 5426).


PRIORITY = 85  # facility 10 (security and authorization), severity 5 (notice), as PS3.15 A.6 has it
NETWORK_SECONDS = 10.0  # until a receiver that does not answer is away
REFUSED_SECONDS = 0.05  # in which a machine says that nobody takes its datagrams
BOM = "\ufeff"


def syslog_message(at: str, host: str, text: str) -> bytes:
    """Return a message of RFC 5424: of a time, from a machine, with XML of PS3.15 A.5."""
    name = re.sub("[^!-~]", "", host)[:255] or "-"
    header = f"<{PRIORITY}>1 {at} {name} Orthanc {os.getpid()} DICOM+RFC3881 - "
    return f'{header}{BOM}<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


class SyslogReceiver:
    """The other end: `send` returns when it has all messages, as far as the protocol can tell."""

    def __init__(self, settings: SyslogSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._context: ssl.SSLContext | None = None
        self._open: socket.socket | None = None
        self.url = f"{settings.protocol}://{settings.host}:{settings.port_number()}"

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages. Raises OSError, ValueError: none of them counts as sent."""
        try:
            if self._settings.protocol == "udp":
                self._send_datagrams(messages)
            else:
                self._send_over_tls(messages)
        except BaseException:
            self._context = None  # its files may be renewed by now
            raise

    def cut(self) -> None:
        """End what is being sent, from another thread."""
        if connection := self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _send_over_tls(self, messages: Sequence[bytes]) -> None:
        self._context = self._context or self._tls()
        address = (self._settings.host, self._settings.port_number())
        content = b"".join(b"%d %s" % (len(each), each) for each in messages)
        with socket.create_connection(address, NETWORK_SECONDS) as connection:
            self._open = connection
            deliver(connection, self._context, self._settings.host or "", content)

    def _send_datagrams(self, messages: Sequence[bytes]) -> None:
        found = socket.getaddrinfo(self._settings.host, self._settings.port_number(), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as sending:
            sending.settimeout(REFUSED_SECONDS)
            sending.connect(address)  # so that the other machine's refusal reaches us
            for each in messages:
                sending.send(each)
            with contextlib.suppress(TimeoutError):
                sending.recv(1)  # nobody answers, but for a machine that refuses
            _look_for_error(sending)

    def _tls(self) -> ssl.SSLContext:
        """Return what TLS needs. Raises OSError; the text names the key."""
        settings = self._settings
        with _naming("CaFile", settings.ca_file):
            context = ssl.create_default_context(cafile=self._folder / settings.ca_file if settings.ca_file else None)
        # The same on all versions of Python: an old authority, or a certificate itself, may be trusted.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Python's own: a connection that breaks off would look like one that was ended.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # OpenSSL 3
        if settings.certificate_file:
            key = self._folder / settings.key_file if settings.key_file else None
            with _naming("CertificateFile or KeyFile", settings.certificate_file):
                # Without a password, OpenSSL would ask a person on the terminal.
                own = self._folder / settings.certificate_file
                context.load_cert_chain(own, key, password=settings.key_password or "")
        return context


@contextlib.contextmanager
def _naming(key: str, value: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise OSError(f"AuditLog.Syslog.{key} ({value}) can't be used: {error}") from error


def _look_for_error(connection: socket.socket) -> None:
    """Raise OSError if the other end has reset the connection, or refused."""
    if code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, os.strerror(code))


# ---- src/audit_log/repository.py: The thread that sends lines to an audit repository: from the files, so that nothing else has to be kept.


SENT = "syslog_sent"  # of the ledger's numbers: the number of the last line that was sent
LINES_PER_BATCH = 50
LOOK_SECONDS = 60.0  # between two looks, where nobody says that there is something new
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds until a repository that is away is tried again
STOPS_WITHIN_SECONDS = 1.0  # in which the last lines go out when Orthanc ends
NUMBER = re.compile(rb'\{"Number": ([0-9]+),')


class LogReader:
    """Reads the lines of a log in their order, whole ones only, and remembers where it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._place = Path(), 0

    def after(self, number: int, newest: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return lines with numbers above `number`, up to `newest`, and how many before them are gone with their file."""
        files = [(int(path.stem.removeprefix("audit-")), path) for path in log_files(self._folder)]
        gone = max(0, files[0][0] - number - 1) if files else 0
        number += gone
        for position, (first, path) in enumerate(files):
            following = files[position + 1][0] if position + 1 < len(files) else newest + 1
            if following <= number + 1:
                continue
            try:
                found = self._read(path, number, newest, limit)
            except FileNotFoundError:
                return [], gone  # dropped for its age just now: the next look counts it
            if found:
                return found, gone
            gone += max(0, following - max(first, number + 1)) if following <= newest else 0
        return [], gone

    def _read(self, path: Path, number: int, newest: int, limit: int) -> list[dict[str, Any]]:
        if path != self._path:
            self._path, self._place = path, 0
        found: list[dict[str, Any]] = []
        with path.open("rb") as file:
            file.seek(self._place)
            place = self._place
            while len(found) < limit and (raw := file.readline()).endswith(b"\n"):
                head = NUMBER.match(raw)
                if head and int(head[1]) > newest:
                    break  # it is being written, and may yet be taken back
                if head and int(head[1]) <= number:
                    self._place = place + len(raw)  # that far it is sent
                elif head and (line := parse_line(raw[:-1])):
                    found.append(line.content)
                place += len(raw)
        return found


class RepositorySender:
    """Sends each line that a message fits, in order; those that were sent before a kill came, and not noted, go twice.

    Attributes
    ----------
    sent : the number of the last line that was sent, or that fits no message.
    trouble : why nothing can be sent now.
    """

    def __init__(self, receiver: SyslogReceiver, messages: AuditMessages, host: str, log: Log, ledger: Ledger) -> None:
        self._receiver, self._messages, self._host = receiver, messages, host
        self._log, self._ledger = log, ledger
        self._reader = LogReader(log.folder)
        self.trouble = Trouble("audit_log")
        self._odd = Trouble("audit_log")
        self._pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self._wake, self._stopping, self._is_cut = threading.Event(), threading.Event(), False
        self._noted = self.sent = self._first_place()
        self._thread = threading.Thread(target=self._work, name="audit_log to syslog", daemon=True)

    @property
    def url(self) -> str:
        """Where lines go."""
        return self._receiver.url

    def owed(self) -> int:
        """Return how many lines wait."""
        return max(0, self._log.number - self.sent)

    def _first_place(self) -> int:
        """Return the number to go on after: of a log that was never sent, or is another one now, only what comes is sent."""
        found, newest = self._ledger.get_value(SENT, -1), self._log.number
        if 0 <= found <= newest:
            return found
        if newest:
            orthanc.LogWarning(
                f"audit_log sends its lines to {self.url} from number {newest + 1} on; the older ones stay in the files"
            )
        self._ledger.set_value(SENT, newest)
        return newest

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def notify(self) -> None:
        """Say that there are new lines."""
        self._wake.set()

    def stop(self) -> None:
        """Send what there is, for a second at most, and end."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOPS_WITHIN_SECONDS)
        self._is_cut = True
        if self._thread.is_alive():
            self._receiver.cut()
            self._thread.join(STOPS_WITHIN_SECONDS / 4)

    # The thread

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.is_set()
            if is_last and self.trouble.text:
                return
            self._wake.clear()
            if self._sends_all():
                self._wake.wait(0 if self._stopping.is_set() else LOOK_SECONDS)
            else:
                self._stopping.wait(self._pauses.next())

    def _sends_all(self) -> bool:
        """Send all that there is; return whether that went well."""
        try:
            while not self._is_cut and self._sends_some():
                pass
            self._note()
            if not self._stopping.is_set():
                self.trouble.is_over()
        except (OSError, ValueError, sqlite3.Error) as error:
            why = one_line(error)
        except Exception:  # noqa: BLE001 - whatever it is, the next try may go well
            why = f"an error, please report it:\n{traceback.format_exc()}"
        else:
            return True
        if not self.trouble.text and not self._stopping.is_set():  # one line, however the reason changes
            self.trouble.begins(f"audit_log can't send to {self.url}, lines wait in the files: {why}", why)
        return False

    def _sends_some(self) -> bool:
        lines, gone = self._reader.after(self.sent, self._log.number, LINES_PER_BATCH)
        if gone:
            if not self._stopping.is_set():
                orthanc.LogWarning(
                    f"audit_log: {gone} lines were gone from the files before they were sent to {self.url}"
                )
            self.sent += gone
        if not lines:
            return False
        if messages := self._messages_of(lines):
            self._receiver.send(messages)
            if not self._stopping.is_set():
                self.trouble.is_over()
            self._pauses.reset()
        self.sent = lines[-1]["Number"]
        self._note()
        return True

    def _note(self) -> None:
        """Keep the place; if that fails, what was sent is at least not sent again as long as Orthanc runs."""
        if self._noted != self.sent:
            self._ledger.set_value(SENT, self.sent)
            self._noted = self.sent

    def _messages_of(self, lines: Sequence[dict[str, Any]]) -> list[bytes]:
        found = []
        for line in lines:
            try:
                text = self._messages.of(line)
            except Exception:  # noqa: BLE001 - one odd line never keeps the others back
                text = None
                if not self._stopping.is_set():
                    self._odd.begins(
                        f"audit_log met an error, please report it:\n{traceback.format_exc()}", "an odd line"
                    )
            if text is not None:
                found.append(syslog_message(line["At"], self._host, text))
        return found


# ---- src/audit_log/recorder.py: What Orthanc calls, and the one thread that writes down what it reported.


GATHERING_SECONDS = 0.2  # in which events are gathered, to be written together
TURN_SECONDS = 5.0  # between two looks for what has become quiet
READ_AHEAD_PAUSE_SECONDS = 0.05  # between two parts of what was written before the start: others get the interpreter
LINES_PER_WRITE = 500
MAX_FILE_BYTES = 64_000_000  # then a new file begins


class Recorder:
    """Takes what Orthanc reports into memory; the thread makes lines of it and writes them.

    Attributes
    ----------
    log : the log, once the worker has opened it.
    watches_requests : whether requests are written down.
    sender : sends lines to the audit repository, if there is one and the worker has opened the log.
    """

    log: Log
    sender: RepositorySender | None = None

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self._settings, self._configuration = settings, configuration
        self._loopback, self._arrivals = Loopback(configuration), Arrivals(digests=False)
        # Never opened: making a line may ask Orthanc, which no callback does.
        self._inbox = Inbox[Callable[[], None]](self._make_lines)
        self.worker = Worker("audit_log", self._open, self._turn, self._finish)
        self.watches_requests = False
        self._watcher = RequestWatcher(configuration, lambda: self._loopback._token)
        self._started_at, self._has_finished = "", False
        change = orthanc.ChangeType
        self._job_ends = {int(change.JOB_SUCCESS): True, int(change.JOB_FAILURE): False}

    # What Orthanc calls: return at once

    def on_request(self, uri: str, **request: Any) -> bool:
        """Let every request through: the filter of requests only looks."""
        if seen := self._watcher.seen(uri, request):
            self._add(lambda: self._events.on_request(seen))
        return True

    def on_own_request(self, script: str, request: OwnRequest) -> None:
        """Take what another script of a combined file asks Orthanc for."""
        if seen := self._watcher.seen_of_script(script, request):
            is_written = self._settings.watch_requests is not False
            self._add(lambda: self._events.on_request(seen, is_written=is_written))

    def on_stored(self, dicom: orthanc.DicomInstance, instance: str) -> None:
        self._arrivals.stored(dicom, instance)
        arrival = self._arrivals.get(instance)
        self._arrivals.forget(instance)  # it waits with the event, however many do
        if arrival:
            at = utc()
            self._add(lambda: self._events.on_stored(at, instance, arrival))

    def on_change(self, change: int, level: int, resource: str) -> None:
        at = utc()
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            self._started_at = at
            self.worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self.worker.end()
            if self.sender:  # while the ledger is open: it keeps how far lines were sent
                self.sender.stop()
            self.worker.stop()
            if not self._has_finished and self._inbox:  # the state never opened, or the thread takes too long
                orthanc.LogError(f"audit_log ends, and {len(self._inbox)} events are not written")
        elif change == orthanc.ChangeType.DELETED:
            self._add(lambda: self._events.on_deleted(at, level, resource))
        elif change in self._job_ends:
            success = self._job_ends[change]
            try:
                job = json.loads(orthanc.RestApiGet(f"/jobs/{resource}"))  # it may be forgotten soon
            except orthanc.OrthancException:
                job = {"ID": resource, "Type": "", "Content": {}}
            self._add(lambda: self._events.on_job_end(at, job, success))

    def _add(self, event: Callable[[], None]) -> None:
        self._inbox.add(event)
        if not self.worker.wake.is_set():
            self.worker.wake.set()

    # The thread

    def _open(self) -> Ledger:
        settings = self._settings
        folder = state_folder(settings.state_path, self._configuration, "audit_log")
        ledger = Ledger(folder / "audit_log.sqlite", PLACE_TABLES, durability=settings.durability)
        try:
            key = settings.key or read_or_make_key(folder / "audit_log.key")
            files = configuration_folder() / settings.path if settings.path else folder / "audit-log"
            self.log = Log(
                *(files, key.encode(), MAX_FILE_BYTES),
                sync=settings.durability == "full",
                setting="Path" if settings.path else "StatePath",
            )
            try:
                self.sender = self._make_sender(ledger) if settings.to else None
            except BaseException:
                self.log.close()
                raise
        except BaseException:
            ledger.close()
            raise
        if settings.key is None:
            orthanc.LogWarning(
                f"{SECTION}.Key is not set: whoever can read {folder / 'audit_log.key'} can write a log that looks right"
            )
        self._writer = LineWriter(self.log, settings.keep_days, Expiry(ledger, "audit_log"))
        self._places = Places(ledger, self._loopback)
        self._events = EventLines(self._places, self._writer)
        self._missed = self._make_missed(ledger)
        self._writer.add(self._started_at, "started")
        if self.sender:
            self.sender.start()
        return ledger

    def _make_missed(self, ledger: Ledger) -> MissedLines | None:
        if self._settings.reconcile and self._loopback.enabled:
            return MissedLines(ledger, self._loopback, self._places, self._writer)
        ledger.run("DELETE FROM state WHERE name='cursor'")  # whoever reads the log of changes later begins then
        return None

    def _make_sender(self, ledger: Ledger) -> RepositorySender:
        asked, configuration, host = self._settings.syslog, self._configuration, socket.gethostname()
        aet = str(configuration.get("DicomAet") or "ORTHANC")
        messages = AuditMessages(asked.audit_source or str(configuration.get("Name") or "") or aet, aet, host)
        return RepositorySender(SyslogReceiver(asked, configuration_folder()), messages, host, self.log, ledger)

    def _turn(self) -> float:
        if self._inbox:
            self.worker.stopping.wait(GATHERING_SECONDS)
        self._inbox.flush()
        self._writer.add_counts()
        self._write()
        if self._find_missed() or self._places.learn_some():
            return 0.0
        return READ_AHEAD_PAUSE_SECONDS if self.log.index.read_ahead() else TURN_SECONDS

    def _find_missed(self) -> bool:
        """Write some of what the process before has not written; return whether there is more."""
        if not self._missed:
            return False
        has_more = self._missed.find_some()
        self._write()
        self._missed.note()
        return has_more

    def _finish(self) -> None:
        """Write what there is when Orthanc ends."""
        self._has_finished = True  # whatever is left, this says so
        try:
            self._inbox.flush()
            self._writer.add_counts(everything=True)
            self._writer.add(utc(), "stopped")
            self._write()
            if self._missed:
                self._missed.note(at_end=True)
        except (sqlite3.Error, OSError) as error:
            orthanc.LogError(f"audit_log could not write its last {self.waiting()} lines: {error}")
        finally:
            self.log.close()

    def _make_lines(self, event: Callable[[], None]) -> None:
        """Make the lines of an event; one that can't be made now, for a full disk for example, is made later."""
        if len(self._writer.lines) >= LINES_PER_WRITE:
            self._write()
        try:
            event()
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # noqa: BLE001 - one odd event never keeps the others from the log
            text = f"audit_log met an error, please report it:\n{traceback.format_exc()}"
            self.worker.trouble.begins(text, "an odd event")

    def _write(self) -> None:
        if lost := self._inbox.lost:
            self._writer.add(utc(), "lost", Count=lost)
            self._inbox.lost -= lost
        self._writer.write()
        self._places.forget_deleted()
        if self.sender and self.sender.owed():
            self.sender.notify()

    def waiting(self) -> int:
        """Return how many events and lines are not written yet."""
        return len(self._inbox) + len(self._writer.lines)

    def measure(self) -> dict[str, float]:
        """Return its metrics."""
        return {
            "lines": self.log.number,
            "waiting": self.waiting(),
            "last_written_seconds": time.monotonic() - self._writer.wrote_at,
            "syslog_owed": self.sender.owed() if self.sender else 0,
        }


# ---- src/audit_log/api.py: The routes: the lines, the newest of them, and the status.


@dataclasses.dataclass(frozen=True)
class TimeOfLine(Text):
    """A day or a time; handlers get it in UTC, as lines have it."""

    allowed: str = "YYYYMMDD, or a time as 2024-01-31T12:00:00Z"

    def from_body(self, value: Any) -> Any:
        if (found := parse_time(value)) is None:
            raise ValueError(self.allowed)
        return utc(found.timestamp())


LINE_PARAMETERS: dict[str, Text] = {
    **dict.fromkeys(("patient", "study", "event"), Text()),
    **dict.fromkeys(("since", "until"), TimeOfLine()),
    "after": WholeNumber(),
    "limit": WholeNumber(least=1, most=1000),
}


class Routes:
    """Answers requests about the log."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs and watches requests, how many lines there are, and what waits to be written."""
        recorder = self._recorder
        found: dict[str, Any] = {
            "Lines": recorder.log.number,
            "WatchesRequests": recorder.watches_requests,
            "Waiting": recorder.waiting(),
        }
        if sender := recorder.sender:
            found["Syslog"] = {"To": sender.url, "Sent": sender.sent, "Owed": sender.owed()}
        return found

    def newest(self, _request: Request) -> dict[str, Any]:
        """Return the number and MAC of the newest line: kept elsewhere, it shows later whether the log was cut."""
        return {"Number": self._recorder.log.number, "Mac": self._recorder.log.mac}

    @takes(LINE_PARAMETERS)
    def page(self, request: Request) -> dict[str, Any]:
        """Return the lines, oldest first: `?patient=`, `?study=`, `?event=`, `?since=`, `?until=`, `?after=`, `?limit=`."""
        given = request.parameters
        return self._recorder.log.index.page(LineFilter.of(given), given.get("after", 0), given.get("limit", 100))


# ---- src/audit_log/verification.py: Verifies a log: each line must follow the one before, and carry the MAC of both. Runs without Orthanc.


class Verification:
    """Checks a log line by line, oldest first.

    Attributes
    ----------
    problems : what is wrong, each with the file and line.
    number, mac : those of the last line.
    """

    def __init__(self, key: bytes, newest: tuple[int, str] | None) -> None:
        self._key, self._newest = key, newest
        self.problems: list[str] = []
        self.number, self.mac = 0, ""
        self._first, self._dropped_up_to = 0, 0
        self._broken = b""  # the line before, if it was none

    def check_raw(self, where: str, raw: bytes) -> None:
        """Check the bytes of one line."""
        line = parse_line(raw)
        if line is not None:
            self._check(where, line)
            return
        if self._broken:
            self.problems.append(f"{where}: it is no line of the log")
        self._broken = raw

    def _check(self, where: str, line: Line) -> None:
        number = line.content["Number"]
        if self._broken and line.content.get("Broken") != hashlib.sha256(self._broken).hexdigest():
            self.problems.append(f"{where}: the line before it has been changed, or is none of the log")
        self._broken = b""
        self._first = self._first or number
        if not self.number and number > 1:  # files before were dropped: a line further on must say so
            self.number, self.mac = number - 1, str(line.content.get("Previous", ""))
        if number <= self.number:
            self.problems.append(f"{where}: number {number} comes after {self.number}")
        elif number > self.number + 1:
            self.problems.append(f"{where}: {_numbers(self.number + 1, number - 1)} missing")
        elif not hmac.compare_digest(mac_of(self._key, self.mac, line.text), line.mac):
            self.problems.append(f"{where}: number {number} has been changed (or the key is another)")
        if line.content.get("Event") == "dropped":
            self._dropped_up_to = max(self._dropped_up_to, line.content["UpTo"])
        if self._newest and number == self._newest[0] and line.mac != self._newest[1]:
            self.problems.append(f"{where}: number {number} is not the line that was the newest then")
        self.number, self.mac = number, line.mac

    def end(self, last_file: str) -> None:
        """Check what shows only at the end: a cut line, and lines that are missing at the beginning or the end."""
        if self._broken:
            self.problems.append(f"{last_file}: its last line is cut")
        if self._first > self._dropped_up_to + 1:
            self.problems.append(f"{_numbers(self._dropped_up_to + 1, self._first - 1)} missing at the beginning")
        if self._newest and self.number < self._newest[0]:
            self.problems.append(f"{_numbers(self.number + 1, self._newest[0])} missing at the end")


def verify(files: Sequence[Path], key: bytes, newest: tuple[int, str] | None = None) -> tuple[list[str], int, str]:
    """Return what is wrong with a log, and the number and MAC of its last line.

    `newest` is a line that was there, as `GET /audit-log/newest` gave it: without one, a cut end does not show.
    """
    verification = Verification(key, newest)
    for path in files:
        for position, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
            if raw:
                verification.check_raw(f"{path.name}, line {position}", raw)
    verification.end(files[-1].name if files else "")
    return verification.problems, verification.number, verification.mac


def _numbers(first: int, last: int) -> str:
    return f"number {first} is" if first == last else f"numbers {first} to {last} are"


def _parse_newest(text: str) -> tuple[int, str]:
    if not (found := re.fullmatch(r"([0-9]+):([0-9a-f]{64})", text)):
        raise argparse.ArgumentTypeError("it must be NUMBER:MAC, as 12:5f… with 64 digits")
    return int(found[1]), found[2]


def main(words: Sequence[str]) -> int:
    """Run `python3 audit_log.py --verify FOLDER`; return 0 if all is well, 1 if not, 2 if nothing can be verified."""
    parser = argparse.ArgumentParser(  # the built file has the docstring of the script
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verify", metavar="FOLDER", type=Path, required=True, help="the folder of the log")
    parser.add_argument(
        "--key-file", type=Path, help="the key, as audit_log.key; without: AUDIT_LOG_KEY of the environment"
    )
    parser.add_argument(
        "--newest", metavar="NUMBER:MAC", type=_parse_newest, help="what GET /audit-log/newest gave, once"
    )
    given = parser.parse_args(words)
    try:
        key = given.key_file.read_text().strip() if given.key_file else os.environ.get("AUDIT_LOG_KEY", "")
        files = log_files(given.verify)
        if wrong_key(key) or not files:
            sys.stderr.write(f"no log in {given.verify}\n" if not files else "no key: --key-file or AUDIT_LOG_KEY\n")
            return 2
        problems, number, mac = verify(files, key.encode(), given.newest)
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"can't be read: {error}\n")
        return 2
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    sys.stdout.write(f"{'WRONG' if problems else 'ok'}: {number} lines, the newest is {number}:{mac}\n")
    return 1 if problems else 0


# ---- src/audit_log/__init__.py


def register() -> None:
    """Read the settings and register what Orthanc calls; as a program, verify."""
    if __name__ == "__main__":
        sys.exit(main(sys.argv[1:]))
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        settings.check()
    except SettingsError as error:
        refusal = f"{error}. audit_log is idle until this is corrected."
        orthanc.LogError(refusal)
    recorder = Recorder(settings, configuration)
    routes = Routes(recorder)

    def unavailable() -> str | None:
        return refusal or recorder.worker.why_not()

    def look() -> Condition:
        found = condition_of(recorder.worker, refusal)
        away = first_line(recorder.sender.trouble.text) if recorder.sender else ""
        return dataclasses.replace(found, reason=found.reason or away or None)

    for pattern, handler in {"": routes.page, "/newest": routes.newest}.items():
        register_route(f"/audit-log{pattern}", {"GET": handler}, unavailable)
    script = register_status("audit_log", look, routes.status, unavailable, routes="/audit-log/routes")
    if refusal is not None:
        listen_to_changes(script)
        return
    warn_if_open("audit_log", configuration)
    listen_to_changes(script, recorder.on_change, recorder.measure)
    orthanc.RegisterOnStoredInstanceCallback(kept_alive(recorder.on_stored))
    listen_to_requests(recorder.on_own_request)
    # The plugin's filter loses 820 bytes of memory a request before 5.0, which brought StartStreamAnswer.
    recorder.watches_requests = settings.watch_requests is True or (
        settings.watch_requests is None and hasattr(orthanc.RestOutput, "StartStreamAnswer")
    )
    if recorder.watches_requests:
        orthanc.RegisterIncomingHttpRequestFilter(kept_alive(recorder.on_request))


register()
