# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dashboard/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""One page that shows what flows, what is stuck, and what to do: GET /dashboard.

It reads what the other scripts of the same Orthanc say of themselves (combine.py puts them into one file), and acts by their
own routes: Orthanc's users and filters decide who may. The page comes from memory, and asks nobody but this Orthanc.

Needs no configuration. A page that only shows, for everybody:

    "Dashboard": {"Actions": false}

One that also writes a mail when something needs a person, and one when that is over:

    "Dashboard": {"Notify": {"Mail": {"Host": "mail.example", "User": "orthanc", "Password": "${SMTP_PASSWORD}",
                                      "From": "orthanc@hospital.example", "Recipients": ["radiology-it@hospital.example"]}}}

To look at:

    GET  /dashboard              in a browser; Orthanc Explorer has a link to it
    GET  /dashboard/summary      the first view as JSON
    GET  /dashboard/flow         each minute of the last day
    GET  /dashboard/status

Needs nothing but Python's standard library, and for `Webhook` requests, 2.28 or newer. All keys, and what each panel
shows: docs/dashboard.md.
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
import email.message
import email.utils
import errno
import functools
import hashlib
import hmac
import http
import http.client
import http.cookiejar
import importlib.metadata
import importlib.util
import ipaddress
import json
import logging
import os
import random
import re
import shutil
import smtplib
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
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

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


# ---- src/common/explorer.py: What scripts add to Orthanc Explorer.


def add_to_explorer(javascript: str) -> None:
    """Let each page of Orthanc Explorer run this."""
    if hasattr(orthanc, "ExtendOrthancExplorer2"):
        orthanc.ExtendOrthancExplorer2("python", javascript)  # how the plugin calls itself
    else:
        orthanc.ExtendOrthancExplorer(javascript)


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


# ---- src/common/file_system.py: How full a file system is, as `df` counts.


class FileSystem(NamedTuple):
    """Bytes that are used, bytes that there are without what only root may use, and what tells it from others."""

    used: int
    size: int
    identity: int

    @property
    def used_percent(self) -> float:
        """How full it is."""
        return 100 * self.used / max(self.size, 1)


def file_system_of(folder: Path) -> FileSystem:
    """Return the file system that a folder is on. Raises OSError: it can't be measured."""
    if not hasattr(os, "statvfs"):  # Windows
        usage = shutil.disk_usage(folder)
        return FileSystem(usage.total - usage.free, usage.total, folder.stat().st_dev)
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return FileSystem(used, used + found.f_bavail * found.f_frsize, found.f_fsid)


# ---- src/dashboard/explorer.py: The link in Orthanc Explorer.


LINK = (  # src/dashboard/explorer.js
    "// The link to the dashboard in the head of Orthanc Explorer's pages, beside Lookup and Plugins.\n"
    '(function () {\n'
    "  'use strict';\n"
    '\n'
    '  // Before jQuery Mobile makes a page of what is in the HTML: the link becomes a button like the others.\n'
    "  $(document).on('pagebeforecreate', function (event) {\n"
    "    var group = event.target.querySelector('[data-role=header] .ui-btn-left');\n"
    '    if (!group || group.querySelector(\'.orthanc-dashboard\') || !group.querySelector(\'a[href="#plugins"]\')) {\n'
    '      return;\n'
    '    }\n'
    "    var link = document.createElement('a');\n"
    "    link.href = '../dashboard';\n"
    "    link.className = 'orthanc-dashboard';\n"
    "    link.rel = 'external';\n"
    "    link.setAttribute('data-role', 'button');\n"
    "    link.setAttribute('data-icon', 'info');\n"
    "    link.textContent = 'Dashboard';\n"
    '    group.appendChild(link);\n'
    '  });\n'
    '})();\n'
)


def link_from_explorer() -> None:
    """Put a button into the head of Orthanc Explorer's first page."""
    add_to_explorer(LINK)


# ---- src/dashboard/files.py: The files of the page, all in memory.


JAVASCRIPT, CSS, SVG = "text/javascript; charset=utf-8", "text/css; charset=utf-8", "image/svg+xml"
INDEX = (  # src/dashboard/page/index.html
    '<!doctype html>\n'
    '<html lang="en">\n'
    '  <head>\n'
    '    <meta charset="utf-8">\n'
    '    <title>Dashboard</title>\n'
    '    <meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '    <meta name="color-scheme" content="light dark">\n'
    '    <meta name="robots" content="noindex">\n'
    '    <link rel="icon" href="{files}/icon.svg" type="image/svg+xml">\n'
    '    <link rel="stylesheet" href="{files}/vendor/uplot.css">\n'
    '    <link rel="stylesheet" href="{files}/style.css">\n'
    '    <link rel="stylesheet" href="{files}/parts.css">\n'
    '    <script src="{files}/vendor/uplot.js" defer></script>\n'
    '    <script src="{files}/app.js" type="module"></script>\n'
    '  </head>\n'
    '  <body>\n'
    '    <div id="app"><p>Loading … (If nothing comes, the address must end with <b>/dashboard</b>, without a slash behind it.)</p>\n'
    '      <noscript>This page needs JavaScript. The same figures are at <a href="dashboard/summary">dashboard/summary</a> as JSON.</noscript>\n'
    '    </div>\n'
    '  </body>\n'
    '</html>\n'
)
APP = (  # src/dashboard/page/app.js
    '// The page: its head, its panels, and what all of them share.\n'
    '\n'
    'import { html, render, useCallback, useEffect, useRef, useState } from "./vendor/preact.js";\n'
    'import { ActDialog } from "./lib/actions.js";\n'
    'import { address, post } from "./lib/api.js";\n'
    'import { ago, duration } from "./lib/format.js";\n'
    'import { useNow, useRoute } from "./lib/poll.js";\n'
    'import { link, useAddress } from "./lib/router.js";\n'
    'import { Problem, Shared, Text } from "./lib/ui.js";\n'
    'import { PANELS } from "./panels/index.js";\n'
    '\n'
    'const SUMMARY_SECONDS = 3;\n'
    'const ASK_AGAIN_MS = 60_000;\n'
    '\n'
    "/** Ask whether this user may act: Orthanc's users and filters decide. */\n"
    'function useMayAct() {\n'
    '  const [mayAct, setMayAct] = useState(false);\n'
    '  useEffect(() => {\n'
    '    const ask = () => document.hidden || post("/dashboard/may-act").then(() => setMayAct(true), (error) => error.status && setMayAct(false));\n'
    '    ask();\n'
    '    const timer = setInterval(ask, ASK_AGAIN_MS);\n'
    '    return () => clearInterval(timer);\n'
    '  }, []);\n'
    '  return mayAct;\n'
    '}\n'
    '\n'
    '/** Say something to screen readers. */\n'
    'function useAnnouncer() {\n'
    '  const [said, setSaid] = useState("");\n'
    '  const say = useCallback((text) => {\n'
    '    setSaid("");\n'
    '    setTimeout(() => setSaid(String(text)), 50);\n'
    '  }, []);\n'
    '  return [html`<div class="hidden" role="status" aria-live="polite"><${Text}>${said}<//></div>`, say];\n'
    '}\n'
    '\n'
    'function Health({ summary, error, since }) {\n'
    '  const now = useNow(1);\n'
    '  if (error) {\n'
    '    const lasts = since ? ` for ${duration((now - since) / 1000)}` : "";\n'
    '    return html`<p class="health bad" role="alert">${error.status ? html`<${Text}>${error.message}<//>` : `The server has not answered${lasts}`}</p>`;\n'
    '  }\n'
    '  if (!summary) {\n'
    '    return html`<p class="health">Looking …</p>`;\n'
    '  }\n'
    '  const acts = summary.Alerts.filter((each) => each.Level === "act").length;\n'
    '  const kind = acts ? "bad" : summary.Alerts.length ? "warn" : "good";\n'
    '  const text = acts ? `${acts} ${acts === 1 ? "thing needs" : "things need"} you` : summary.Alerts.length ? "Works, with a delay" : "All is well";\n'
    '  return html`<p class="health ${kind}"><span class="dot" aria-hidden="true"></span>${text}<span class="updated"> · ${ago(new Date(summary.At), now)}</span></p>`;\n'
    '}\n'
    '\n'
    'function Navigation({ panels, current, summary }) {\n'
    '  const list = useRef(null);\n'
    '  useEffect(() => {\n'
    '    const here = list.current?.querySelector("[aria-current]");\n'
    '    here?.scrollIntoView({ block: "nearest", inline: "center" });\n'
    '  }, [current]);\n'
    '  return html`<nav class="panels" aria-label="Panels" ref=${list}>\n'
    '    <ul>\n'
    '      ${panels.map((each) => {\n'
    '        const count = summary && each.badge ? each.badge(summary) : 0;\n'
    '        return html`<li key=${each.id}><a href=${link(each.id)} aria-current=${each.id === current ? "page" : undefined}>\n'
    '          ${each.title}${count ? html` <span class="badge">${count}<span class="hidden"> need attention</span></span>` : null}\n'
    '        </a></li>`;\n'
    '      })}\n'
    '    </ul>\n'
    '  </nav>`;\n'
    '}\n'
    '\n'
    'const fileOf = (name) => (name === "dicom_events" ? name : `${name}.py`); // the one that is a folder\n'
    '\n'
    '/** What a panel says whose scripts are not there: the command has what is there already, so that nothing is left out. */\n'
    'function Absent({ panel, names }) {\n'
    '  const [file, ...others] = panel.scripts.map(fileOf);\n'
    '  const files = [...(names.includes("dashboard") ? [] : ["dashboard"]), ...names].map(fileOf);\n'
    '  return html`<div class="empty">\n'
    '    <p class="empty-title">${panel.absent.title}</p>\n'
    '    <p>${panel.absent.gives}</p>\n'
    '    <p>Add <code>${file}</code>${others.length ? html` (or ${others.map((each, index) => html`${index ? ", " : ""}<code>${each}</code>`)})` : null} to\n'
    '      your combined script: <code><${Text}>${["python3 combine.py", ...files, file, "-o all.py"].join(" ")}<//></code></p>\n'
    '    ${file.startsWith("auto_forward") ? html`<p>Write its section first: without one, a forwarder sends each study to every destination that Orthanc knows.</p>` : null}\n'
    '    <p>Scripts of your own go into the same command. Let <code>PythonScript</code> name the new file, and restart Orthanc.</p>\n'
    '  </div>`;\n'
    '}\n'
    '\n'
    'function Panel({ panel, place, summary }) {\n'
    '  const heading = useRef(null);\n'
    '  useEffect(() => {\n'
    '    document.title = `${panel.title} · ${summary?.Server?.Name ?? "Orthanc"}`;\n'
    '  }, [panel, summary?.Server?.Name]);\n'
    '  useEffect(() => heading.current && window.location.hash && heading.current.focus({ preventScroll: true }), [panel.id]);\n'
    '  const names = (summary?.Scripts ?? []).map((each) => each.Name);\n'
    '  const isThere = !panel.scripts || panel.scripts.some((each) => names.includes(each));\n'
    '  const View = panel.view;\n'
    '  return html`<main id="main" class="panel" tabindex="-1">\n'
    '    <h1 ref=${heading} tabindex="-1">${panel.title}</h1>\n'
    '    ${!summary ? html`<p class="loading quiet">Loading …</p>` : isThere ? html`<${View} key=${panel.id} place=${place} summary=${summary} />` : html`<${Absent} panel=${panel} names=${names} />`}\n'
    '  </main>`;\n'
    '}\n'
    '\n'
    'function App() {\n'
    '  const { data: summary, error, since, refresh } = useRoute("/dashboard/summary", SUMMARY_SECONDS);\n'
    '  const mayAct = useMayAct();\n'
    '  const [live, say] = useAnnouncer();\n'
    '  const [asked, act] = useState(null);\n'
    '  const place = useAddress();\n'
    '  const panel = PANELS.find((each) => each.id === place.panel) ?? PANELS[0];\n'
    '  const server = summary?.Server;\n'
    '  const done = useCallback((asking) => act(asking && { ...asking, done: () => { asking.done?.(); refresh(); } }), [refresh]);\n'
    '  return html`<${Shared.Provider} value=${{ summary, mayAct, act: done, say }}>\n'
    '    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the panel</a>\n'
    '    <header class="top">\n'
    '      <a class="brand" href=${link(PANELS[0].id)}><img src=${new URL("icon.svg", import.meta.url).href} alt="" width="28" height="28" />\n'
    '        <span><${Text}>${server?.Name ?? "Orthanc"}<//>${server ? html`<small>Orthanc ${server.Version} · <${Text}>${server.DicomAet ?? ""}<//></small>` : null}</span></a>\n'
    '      <${Health} summary=${summary} error=${error} since=${since} />\n'
    '    </header>\n'
    '    <div class="body">\n'
    '      <${Navigation} panels=${PANELS} current=${panel.id} summary=${summary} />\n'
    '      ${!summary && error ? html`<main id="main" class="panel" tabindex="-1"><h1>${panel.title}</h1><${Problem} error=${error} /></main>` : html`<${Panel} panel=${panel} place=${place} summary=${summary} />`}\n'
    '    </div>\n'
    '    <footer class="bottom">\n'
    '      <span>${mayAct ? "" : "This page only shows: you may not act here. "}Dashboard ${server?.DashboardVersion ?? ""}</span>\n'
    '      <a href=${address("/app/explorer.html")}>Orthanc Explorer</a>\n'
    '      <a href=${address("/dashboard/summary")}>As JSON</a>\n'
    '      <a href=${new URL("vendor/LICENSES.txt", import.meta.url).href}>Licences</a>\n'
    '    </footer>\n'
    '    ${live}\n'
    '    <${ActDialog} asked=${asked} onClose=${() => act(null)} say=${say} />\n'
    '  <//>`;\n'
    '}\n'
    '\n'
    'const root = document.getElementById("app");\n'
    'root.replaceChildren();\n'
    'render(html`<${App} />`, root);\n'
)
STYLE = (  # src/dashboard/page/style.css
    '/* Colours, type, and the frame of the page. Parts that panels are made of: parts.css. */\n'
    '\n'
    ':root {\n'
    '  color-scheme: light dark;\n'
    '  --ground: #f5f6f8;\n'
    '  --paper: #ffffff;\n'
    '  --raised: #f0f2f5;\n'
    '  --ink: #18202b;\n'
    '  --quiet: #566072;\n'
    '  --line: #dde1e8;\n'
    '  --edge: #8a93a3;\n'
    '  --accent: #1a56b0;\n'
    '  --on-accent: #ffffff;\n'
    '  --good: #17703c;\n'
    '  --warn: #8a5200;\n'
    '  --bad: #b3261e;\n'
    '  --busy: #1a56b0;\n'
    '  --warn-ground: #fdf3e1;\n'
    '  --bad-ground: #fdeceb;\n'
    '  --good-ground: #e8f5ed;\n'
    '  --received: #1a56b0;\n'
    '  --forwarded: #17803f;\n'
    '  --shadow: 0 1px 2px rgb(20 30 50 / 6%), 0 1px 6px rgb(20 30 50 / 5%);\n'
    '}\n'
    '\n'
    '@media (prefers-color-scheme: dark) {\n'
    '  :root {\n'
    '    --ground: #12161c;\n'
    '    --paper: #1a2029;\n'
    '    --raised: #232b36;\n'
    '    --ink: #e7ebf1;\n'
    '    --quiet: #a2adbd;\n'
    '    --line: #2e3744;\n'
    '    --edge: #7b879a;\n'
    '    --accent: #8ab4f8;\n'
    '    --on-accent: #0c1626;\n'
    '    --good: #6fd195;\n'
    '    --warn: #f2b866;\n'
    '    --bad: #ff9a92;\n'
    '    --busy: #8ab4f8;\n'
    '    --warn-ground: #33281a;\n'
    '    --bad-ground: #3a2120;\n'
    '    --good-ground: #1b3325;\n'
    '    --received: #8ab4f8;\n'
    '    --forwarded: #6fd195;\n'
    '    --shadow: none;\n'
    '  }\n'
    '}\n'
    '\n'
    '*,\n'
    '*::before,\n'
    '*::after {\n'
    '  box-sizing: border-box;\n'
    '}\n'
    '\n'
    'html {\n'
    '  background: var(--ground);\n'
    '  color: var(--ink);\n'
    '  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif;\n'
    '  font-variant-numeric: tabular-nums;\n'
    '}\n'
    '\n'
    'body {\n'
    '  margin: 0;\n'
    '}\n'
    '\n'
    '#app {\n'
    '  display: flex;\n'
    '  flex-direction: column;\n'
    '  min-height: 100vh;\n'
    '}\n'
    '\n'
    'a {\n'
    '  color: var(--accent);\n'
    '  text-decoration: none;\n'
    '}\n'
    '\n'
    'a:hover {\n'
    '  text-decoration: underline;\n'
    '}\n'
    '\n'
    ':focus-visible {\n'
    '  border-radius: 4px;\n'
    '  outline: 2px solid var(--accent);\n'
    '  outline-offset: 2px;\n'
    '}\n'
    '\n'
    'h1:focus,\n'
    'main:focus {\n'
    '  outline: none;\n'
    '}\n'
    '\n'
    'h1 {\n'
    '  font-size: 1.45rem;\n'
    '  letter-spacing: -0.01em;\n'
    '  line-height: 1.2;\n'
    '  margin: 0 0 1rem;\n'
    '}\n'
    '\n'
    'h2 {\n'
    '  font-size: 1.05rem;\n'
    '  line-height: 1.3;\n'
    '  margin: 0;\n'
    '}\n'
    '\n'
    '.hidden {\n'
    '  clip-path: inset(50%);\n'
    '  height: 1px;\n'
    '  overflow: hidden;\n'
    '  position: absolute;\n'
    '  white-space: nowrap;\n'
    '  width: 1px;\n'
    '}\n'
    '\n'
    '.skip {\n'
    '  background: var(--paper);\n'
    '  left: 1rem;\n'
    '  padding: 0.5rem 1rem;\n'
    '  position: absolute;\n'
    '  top: -4rem;\n'
    '  z-index: 2;\n'
    '}\n'
    '\n'
    '.skip:focus {\n'
    '  top: 0.5rem;\n'
    '}\n'
    '\n'
    '.top {\n'
    '  align-items: center;\n'
    '  background: var(--paper);\n'
    '  border-bottom: 1px solid var(--line);\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  gap: 0.5rem 1.5rem;\n'
    '  justify-content: space-between;\n'
    '  padding: 0.65rem 1.5rem;\n'
    '}\n'
    '\n'
    '.brand {\n'
    '  align-items: center;\n'
    '  color: var(--ink);\n'
    '  display: flex;\n'
    '  font-size: 1.1rem;\n'
    '  font-weight: 650;\n'
    '  gap: 0.7rem;\n'
    '  line-height: 1.25;\n'
    '}\n'
    '\n'
    '.brand small {\n'
    '  color: var(--quiet);\n'
    '  display: block;\n'
    '  font-size: 0.8rem;\n'
    '  font-weight: 400;\n'
    '}\n'
    '\n'
    '.health {\n'
    '  align-items: center;\n'
    '  display: flex;\n'
    '  font-weight: 600;\n'
    '  gap: 0.5rem;\n'
    '  margin: 0;\n'
    '}\n'
    '\n'
    '.health .updated {\n'
    '  color: var(--quiet);\n'
    '  font-weight: 400;\n'
    '  min-width: 6.5em;\n'
    '}\n'
    '\n'
    '.health .dot {\n'
    '  background: currentcolor;\n'
    '  border-radius: 50%;\n'
    '  height: 0.65rem;\n'
    '  width: 0.65rem;\n'
    '}\n'
    '\n'
    '.good {\n'
    '  color: var(--good);\n'
    '}\n'
    '\n'
    '.warn {\n'
    '  color: var(--warn);\n'
    '}\n'
    '\n'
    '.bad {\n'
    '  color: var(--bad);\n'
    '}\n'
    '\n'
    '.quiet {\n'
    '  color: var(--quiet);\n'
    '}\n'
    '\n'
    '.body {\n'
    '  display: grid;\n'
    '  flex: 1;\n'
    '  gap: 0 2rem;\n'
    '  grid-template-columns: 11rem minmax(0, 1fr);\n'
    '  margin: 0 auto;\n'
    '  max-width: 84rem;\n'
    '  padding: 1.5rem;\n'
    '  width: 100%;\n'
    '}\n'
    '\n'
    'nav.panels ul {\n'
    '  display: grid;\n'
    '  gap: 2px;\n'
    '  list-style: none;\n'
    '  margin: 0;\n'
    '  padding: 0;\n'
    '  position: sticky;\n'
    '  top: 1rem;\n'
    '}\n'
    '\n'
    'nav.panels a {\n'
    '  border-radius: 7px;\n'
    '  color: var(--ink);\n'
    '  display: flex;\n'
    '  justify-content: space-between;\n'
    '  padding: 0.4rem 0.75rem;\n'
    '  position: relative; /* of the hidden text of a badge, which would widen a small screen */\n'
    '}\n'
    '\n'
    'nav.panels a:hover {\n'
    '  background: var(--raised);\n'
    '  text-decoration: none;\n'
    '}\n'
    '\n'
    'nav.panels a[aria-current] {\n'
    '  background: var(--accent);\n'
    '  color: var(--on-accent);\n'
    '  font-weight: 600;\n'
    '}\n'
    '\n'
    '.badge {\n'
    '  align-self: center;\n'
    '  background: var(--bad);\n'
    '  border-radius: 1em;\n'
    '  color: var(--paper);\n'
    '  font-size: 0.78rem;\n'
    '  font-weight: 650;\n'
    '  line-height: 1;\n'
    '  min-width: 1.5em;\n'
    '  padding: 0.25em 0.5em;\n'
    '  text-align: center;\n'
    '}\n'
    '\n'
    '.panel {\n'
    '  display: grid;\n'
    '  align-content: start;\n'
    '  gap: 1.5rem;\n'
    '  min-width: 0;\n'
    '}\n'
    '\n'
    '.panel > h1 {\n'
    '  margin: 0;\n'
    '}\n'
    '\n'
    '.panel > p,\n'
    '.panel > .part > p {\n'
    '  margin: 0;\n'
    '}\n'
    '\n'
    '.bottom {\n'
    '  border-top: 1px solid var(--line);\n'
    '  color: var(--quiet);\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  font-size: 0.87rem;\n'
    '  gap: 0.25rem 1.25rem;\n'
    '  padding: 0.75rem 1.5rem;\n'
    '}\n'
    '\n'
    '.bottom span {\n'
    '  margin-right: auto;\n'
    '}\n'
    '\n'
    '@media (max-width: 760px) {\n'
    '  .top {\n'
    '    padding: 0.6rem 1rem;\n'
    '  }\n'
    '\n'
    '  .body {\n'
    '    display: block;\n'
    '    padding: 0.75rem 1rem 1.5rem;\n'
    '  }\n'
    '\n'
    '  nav.panels {\n'
    '    margin: 0 -1rem 1rem;\n'
    '    overflow-x: auto;\n'
    '    padding: 0.25rem 1rem;\n'
    '  }\n'
    '\n'
    '  nav.panels ul {\n'
    '    display: flex;\n'
    '    position: static;\n'
    '    width: max-content;\n'
    '  }\n'
    '\n'
    '  nav.panels a {\n'
    '    gap: 0.5rem;\n'
    '  }\n'
    '}\n'
    '\n'
    '@media print {\n'
    '  nav.panels,\n'
    '  .bottom,\n'
    '  .buttons,\n'
    '  .filters,\n'
    '  .choice,\n'
    '  .skip,\n'
    '  .pages {\n'
    '    display: none !important;\n'
    '  }\n'
    '\n'
    '  .body {\n'
    '    display: block;\n'
    '    padding: 0;\n'
    '  }\n'
    '\n'
    '  html {\n'
    '    background: #fff;\n'
    '  }\n'
    '}\n'
    '\n'
    '@media (prefers-reduced-motion: no-preference) {\n'
    '  nav.panels a,\n'
    '  button,\n'
    '  .button,\n'
    '  .figure {\n'
    '    transition: background-color 0.12s, border-color 0.12s;\n'
    '  }\n'
    '}\n'
)
PARTS = (  # src/dashboard/page/parts.css
    '/* Parts that panels are made of. */\n'
    '\n'
    '.title-row {\n'
    '  align-items: center;\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  gap: 0.5rem 1rem;\n'
    '  justify-content: space-between;\n'
    '}\n'
    '\n'
    '.card,\n'
    '.empty,\n'
    '.panel > section:not(.plain),\n'
    '.panel > .part > section:not(.plain) {\n'
    '  background: var(--paper);\n'
    '  border: 1px solid var(--line);\n'
    '  border-radius: 10px;\n'
    '  box-shadow: var(--shadow);\n'
    '  padding: 1rem 1.25rem;\n'
    '}\n'
    '\n'
    '.panel section p {\n'
    '  margin: 0.35rem 0;\n'
    '}\n'
    '\n'
    '.figures {\n'
    '  display: grid;\n'
    '  gap: 0.75rem;\n'
    '  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));\n'
    '}\n'
    '\n'
    '.figure {\n'
    '  background: var(--paper);\n'
    '  border: 1px solid var(--line);\n'
    '  border-radius: 10px;\n'
    '  box-shadow: var(--shadow);\n'
    '  color: var(--ink);\n'
    '  display: grid;\n'
    '  padding: 0.8rem 1rem;\n'
    '}\n'
    '\n'
    'a.figure:hover {\n'
    '  border-color: var(--accent);\n'
    '  text-decoration: none;\n'
    '}\n'
    '\n'
    '.figure-title,\n'
    '.figure-note {\n'
    '  color: var(--quiet);\n'
    '  font-size: 0.87rem;\n'
    '}\n'
    '\n'
    '.figure-value {\n'
    '  font-size: 1.75rem;\n'
    '  font-weight: 650;\n'
    '  letter-spacing: -0.02em;\n'
    '  line-height: 1.3;\n'
    '}\n'
    '\n'
    '.figure-unit {\n'
    '  color: var(--quiet);\n'
    '  font-size: 0.87rem;\n'
    '  font-weight: 400;\n'
    '  letter-spacing: 0;\n'
    '}\n'
    '\n'
    '.alerts {\n'
    '  display: grid;\n'
    '  gap: 0.5rem;\n'
    '  list-style: none;\n'
    '  margin: 0;\n'
    '  padding: 0;\n'
    '}\n'
    '\n'
    '.alerts li {\n'
    '  background: var(--warn-ground);\n'
    '  border-left: 4px solid var(--warn);\n'
    '  border-radius: 6px;\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  gap: 0.1rem 1rem;\n'
    '  justify-content: space-between;\n'
    '  overflow-wrap: anywhere;\n'
    '  padding: 0.6rem 0.9rem;\n'
    '}\n'
    '\n'
    '.alerts li.act {\n'
    '  background: var(--bad-ground);\n'
    '  border-color: var(--bad);\n'
    '}\n'
    '\n'
    '.alerts a {\n'
    '  color: var(--ink);\n'
    '  font-weight: 550;\n'
    '  text-decoration: underline;\n'
    '  text-decoration-color: var(--edge);\n'
    '  text-underline-offset: 0.2em;\n'
    '}\n'
    '\n'
    '.alerts .why {\n'
    '  color: var(--quiet);\n'
    '  flex-basis: 100%;\n'
    '  font-size: 0.9rem;\n'
    '}\n'
    '\n'
    '.calm {\n'
    '  background: var(--good-ground);\n'
    '  border-left: 4px solid var(--good);\n'
    '  border-radius: 6px;\n'
    '  padding: 0.6rem 0.9rem;\n'
    '}\n'
    '\n'
    '.panel section p.calm {\n'
    '  margin: 0;\n'
    '}\n'
    '\n'
    '.places {\n'
    '  display: grid;\n'
    '  gap: 0 1.5rem;\n'
    '  grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr));\n'
    '  list-style: none;\n'
    '  margin: 0.5rem 0 0;\n'
    '  padding: 0;\n'
    '}\n'
    '\n'
    '.places a {\n'
    '  align-items: baseline;\n'
    '  border-radius: 6px;\n'
    '  color: var(--ink);\n'
    '  display: grid;\n'
    '  gap: 0.75rem;\n'
    '  grid-template-columns: minmax(0, 1fr) auto auto;\n'
    '  margin: 0 -0.5rem;\n'
    '  padding: 0.3rem 0.5rem;\n'
    '}\n'
    '\n'
    '.places a:hover {\n'
    '  background: var(--raised);\n'
    '  text-decoration: none;\n'
    '}\n'
    '\n'
    '.place-name {\n'
    '  font-weight: 550;\n'
    '  overflow: hidden;\n'
    '  text-overflow: ellipsis;\n'
    '  white-space: nowrap;\n'
    '}\n'
    '\n'
    '.state {\n'
    '  align-items: center;\n'
    '  display: inline-flex;\n'
    '  font-weight: 550;\n'
    '  gap: 0.4rem;\n'
    '  white-space: nowrap;\n'
    '}\n'
    '\n'
    '.state .dot {\n'
    '  background: currentcolor;\n'
    '  border-radius: 50%;\n'
    '  flex: none;\n'
    '  height: 0.55rem;\n'
    '  width: 0.55rem;\n'
    '}\n'
    '\n'
    '.state.warn .dot {\n'
    '  border-radius: 0;\n'
    '  clip-path: polygon(50% 0, 100% 100%, 0 100%);\n'
    '  height: 0.7rem;\n'
    '  width: 0.75rem;\n'
    '}\n'
    '\n'
    '.state.bad .dot {\n'
    '  border-radius: 1px;\n'
    '}\n'
    '\n'
    '.state.busy {\n'
    '  color: var(--busy);\n'
    '}\n'
    '\n'
    '.table {\n'
    '  background: var(--paper);\n'
    '  border: 1px solid var(--line);\n'
    '  border-radius: 10px;\n'
    '  box-shadow: var(--shadow);\n'
    '  overflow-x: auto;\n'
    '  position: relative;\n'
    '}\n'
    '\n'
    'table {\n'
    '  border-collapse: collapse;\n'
    '  width: 100%;\n'
    '}\n'
    '\n'
    'table.narrow {\n'
    '  margin-top: 0.5rem;\n'
    '  width: auto;\n'
    '}\n'
    '\n'
    'th,\n'
    'td {\n'
    '  border-top: 1px solid var(--line);\n'
    '  padding: 0.55rem 0.9rem;\n'
    '  text-align: left;\n'
    '  vertical-align: top;\n'
    '}\n'
    '\n'
    'thead th {\n'
    '  border-top: 0;\n'
    '  color: var(--quiet);\n'
    '  font-size: 0.85rem;\n'
    '  font-weight: 550;\n'
    '  white-space: nowrap;\n'
    '}\n'
    '\n'
    'tbody th {\n'
    '  font-weight: 550;\n'
    '  min-width: 9rem;\n'
    '}\n'
    '\n'
    'tbody th .quiet {\n'
    '  font-weight: 400;\n'
    '}\n'
    '\n'
    '.empty + .empty,\n'
    '.plain .empty {\n'
    '  padding: 1rem 1.25rem;\n'
    '}\n'
    '\n'
    'tbody tr[aria-current="true"] {\n'
    '  background: var(--raised);\n'
    '}\n'
    '\n'
    'td small,\n'
    'th small {\n'
    '  color: var(--quiet);\n'
    '  display: block;\n'
    '  font-size: 0.83rem;\n'
    '  font-weight: 400;\n'
    '  overflow-wrap: anywhere;\n'
    '}\n'
    '\n'
    'time,\n'
    '.progress {\n'
    '  white-space: nowrap;\n'
    '}\n'
    '\n'
    '.number {\n'
    '  text-align: right;\n'
    '  white-space: nowrap;\n'
    '}\n'
    '\n'
    '.long {\n'
    '  min-width: 11rem;\n'
    '  overflow-wrap: anywhere;\n'
    '}\n'
    '\n'
    '.acts {\n'
    '  white-space: nowrap;\n'
    '}\n'
    '\n'
    '.acts .buttons {\n'
    '  justify-content: flex-end;\n'
    '}\n'
    '\n'
    '.card p small {\n'
    '  color: var(--quiet);\n'
    '  display: block;\n'
    '}\n'
    '\n'
    '.buttons {\n'
    '  align-items: center;\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  gap: 0.5rem;\n'
    '}\n'
    '\n'
    'button,\n'
    '.button,\n'
    'select,\n'
    'input {\n'
    '  background: var(--paper);\n'
    '  border: 1px solid var(--edge);\n'
    '  border-radius: 7px;\n'
    '  color: var(--ink);\n'
    '  font: inherit;\n'
    '  padding: 0.35rem 0.8rem;\n'
    '}\n'
    '\n'
    'button,\n'
    '.button {\n'
    '  cursor: pointer;\n'
    '  font-weight: 550;\n'
    '}\n'
    '\n'
    'button:hover,\n'
    '.button:hover {\n'
    '  background: var(--raised);\n'
    '  text-decoration: none;\n'
    '}\n'
    '\n'
    'button.small {\n'
    '  font-size: 0.87rem;\n'
    '  padding: 0.15rem 0.6rem;\n'
    '}\n'
    '\n'
    'button.primary {\n'
    '  background: var(--accent);\n'
    '  border-color: var(--accent);\n'
    '  color: var(--on-accent);\n'
    '}\n'
    '\n'
    'button.danger {\n'
    '  border-color: var(--bad);\n'
    '  color: var(--bad);\n'
    '}\n'
    '\n'
    'button.danger.primary {\n'
    '  background: var(--bad);\n'
    '  color: var(--paper);\n'
    '}\n'
    '\n'
    'button:disabled {\n'
    '  cursor: progress;\n'
    '  opacity: 0.7;\n'
    '}\n'
    '\n'
    '.choice {\n'
    '  display: flex;\n'
    '}\n'
    '\n'
    '.choice button {\n'
    '  border-radius: 0;\n'
    '  font-size: 0.87rem;\n'
    '  margin-left: -1px;\n'
    '  padding: 0.2rem 0.7rem;\n'
    '}\n'
    '\n'
    '.choice button:first-child {\n'
    '  border-radius: 7px 0 0 7px;\n'
    '}\n'
    '\n'
    '.choice button:last-child {\n'
    '  border-radius: 0 7px 7px 0;\n'
    '}\n'
    '\n'
    '.choice button[aria-pressed="true"] {\n'
    '  background: var(--raised);\n'
    '  color: var(--accent);\n'
    '}\n'
    '\n'
    '.facts {\n'
    '  display: grid;\n'
    '  gap: 0.6rem 2rem;\n'
    '  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr));\n'
    '  margin: 0.75rem 0;\n'
    '}\n'
    '\n'
    '.facts dt {\n'
    '  color: var(--quiet);\n'
    '  font-size: 0.85rem;\n'
    '}\n'
    '\n'
    '.facts dd {\n'
    '  margin: 0;\n'
    '  overflow-wrap: anywhere;\n'
    '}\n'
    '\n'
    '.problem {\n'
    '  background: var(--bad-ground);\n'
    '  border-left: 4px solid var(--bad);\n'
    '  border-radius: 6px;\n'
    '  overflow-wrap: anywhere;\n'
    '  padding: 0.5rem 0.9rem;\n'
    '}\n'
    '\n'
    '.result {\n'
    '  background: var(--good-ground);\n'
    '  border-left: 4px solid var(--good);\n'
    '  border-radius: 6px;\n'
    '  overflow-wrap: anywhere;\n'
    '  padding: 0.5rem 0.9rem;\n'
    '}\n'
    '\n'
    '.empty {\n'
    '  padding: 1.75rem 1.25rem;\n'
    '}\n'
    '\n'
    '.empty p {\n'
    '  margin: 0.25rem 0;\n'
    '  max-width: 44rem;\n'
    '}\n'
    '\n'
    '.empty-title {\n'
    '  font-size: 1.1rem;\n'
    '  font-weight: 650;\n'
    '}\n'
    '\n'
    'code {\n'
    '  background: var(--raised);\n'
    '  border-radius: 4px;\n'
    '  font: 0.9em ui-monospace, "Liberation Mono", monospace;\n'
    '  overflow-wrap: anywhere;\n'
    '  padding: 0.1em 0.35em;\n'
    '}\n'
    '\n'
    'dialog.act {\n'
    '  background: var(--paper);\n'
    '  border: 1px solid var(--line);\n'
    '  border-radius: 12px;\n'
    '  box-shadow: 0 12px 40px rgb(0 0 0 / 30%);\n'
    '  color: var(--ink);\n'
    '  max-width: min(34rem, calc(100vw - 2rem));\n'
    '  overflow-wrap: anywhere;\n'
    '  padding: 1.25rem 1.5rem;\n'
    '  width: 34rem;\n'
    '}\n'
    '\n'
    'dialog.act::backdrop {\n'
    '  background: rgb(10 15 25 / 45%);\n'
    '}\n'
    '\n'
    'dialog .buttons {\n'
    '  justify-content: flex-end;\n'
    '  margin-top: 1.25rem;\n'
    '}\n'
    '\n'
    '.filters {\n'
    '  align-items: end;\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  gap: 0.6rem;\n'
    '}\n'
    '\n'
    '.filters label {\n'
    '  display: grid;\n'
    '  font-size: 0.85rem;\n'
    '}\n'
    '\n'
    '.filters label span {\n'
    '  color: var(--quiet);\n'
    '}\n'
    '\n'
    '.filters input,\n'
    '.filters select {\n'
    '  min-width: 9rem;\n'
    '}\n'
    '\n'
    '.filters input[type="search"] {\n'
    '  width: 17rem; /* so that its hint can be read whole */\n'
    '}\n'
    '\n'
    '.pages {\n'
    '  align-items: center;\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  gap: 0.75rem;\n'
    '}\n'
    '\n'
    '.progress progress {\n'
    '  accent-color: var(--accent);\n'
    '  vertical-align: middle;\n'
    '  width: 7rem;\n'
    '}\n'
    '\n'
    '.chart {\n'
    '  margin-top: 0.5rem;\n'
    '  min-height: 15rem;\n'
    '  overflow: hidden;\n'
    '}\n'
    '\n'
    '.chart .u-legend {\n'
    '  color: var(--quiet);\n'
    '  margin: 0;\n'
    '  text-align: left;\n'
    '}\n'
    '\n'
    '.chart .u-legend th,\n'
    '.chart .u-legend td {\n'
    '  border: 0;\n'
    '  padding: 0.1rem 0.25rem;\n'
    '}\n'
    '\n'
    '.card details {\n'
    '  margin-bottom: 0.75rem;\n'
    '}\n'
    '\n'
    'details summary {\n'
    '  color: var(--accent);\n'
    '  cursor: pointer;\n'
    '  width: max-content;\n'
    '}\n'
    '\n'
    'h3 {\n'
    '  font-size: 0.95rem;\n'
    '  margin: 0.75rem 0 0.25rem;\n'
    '}\n'
    '\n'
    '.history {\n'
    '  margin: 0 0 1rem;\n'
    '  overflow-wrap: anywhere;\n'
    '  padding-left: 1.5rem;\n'
    '}\n'
    '\n'
    '.history time {\n'
    '  color: var(--quiet);\n'
    '}\n'
    '\n'
    '.thumbnails {\n'
    '  display: flex;\n'
    '  flex-wrap: wrap;\n'
    '  gap: 0.5rem;\n'
    '  list-style: none;\n'
    '  margin: 0.5rem 0;\n'
    '  padding: 0;\n'
    '}\n'
    '\n'
    '.thumbnails img {\n'
    '  background: #000;\n'
    '  border-radius: 6px;\n'
    '  display: block;\n'
    '  object-fit: contain;\n'
    '}\n'
    '\n'
    '.two {\n'
    '  display: grid;\n'
    '  gap: 1rem 2.5rem;\n'
    '  grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr));\n'
    '}\n'
    '\n'
    '.bars th,\n'
    '.bars td {\n'
    '  border: 0;\n'
    '  padding: 0.15rem 0.5rem 0.15rem 0;\n'
    '}\n'
    '\n'
    '.bars meter {\n'
    '  height: 0.9rem;\n'
    '  width: 100%;\n'
    '}\n'
    '\n'
    '.bars td:nth-child(2) {\n'
    '  width: 60%;\n'
    '}\n'
    '\n'
    '.plain {\n'
    '  display: grid;\n'
    '  gap: 0.75rem;\n'
    '}\n'
    '\n'
    '.choice a.button {\n'
    '  border-radius: 7px;\n'
    '  font-size: 0.87rem;\n'
    '  margin-right: 0.4rem;\n'
    '}\n'
    '\n'
    '.choice a[aria-current] {\n'
    '  background: var(--raised);\n'
    '  color: var(--accent);\n'
    '}\n'
    '\n'
    '@media (max-width: 480px) {\n'
    '  .figures {\n'
    '    grid-template-columns: 1fr 1fr;\n'
    '  }\n'
    '\n'
    '  .filters label,\n'
    '  .filters input,\n'
    '  .filters input[type="search"],\n'
    '  .filters select {\n'
    '    width: 100%;\n'
    '  }\n'
    '}\n'
    '\n'
    '@media (max-width: 700px) {\n'
    '  .table table,\n'
    '  .table tbody,\n'
    '  .table tr,\n'
    '  .table th,\n'
    '  .table td {\n'
    '    display: block;\n'
    '    text-align: left;\n'
    '  }\n'
    '\n'
    '  .table thead {\n'
    '    clip-path: inset(50%);\n'
    '    height: 1px;\n'
    '    overflow: hidden;\n'
    '    position: absolute;\n'
    '  }\n'
    '\n'
    '  .table tr + tr {\n'
    '    border-top: 1px solid var(--line);\n'
    '  }\n'
    '\n'
    '  .table tr {\n'
    '    padding: 0.6rem 0.9rem;\n'
    '  }\n'
    '\n'
    '  .table tbody th,\n'
    '  .table td {\n'
    '    border: 0;\n'
    '    min-width: 0;\n'
    '    padding: 0.1rem 0;\n'
    '    white-space: normal;\n'
    '  }\n'
    '\n'
    '  .table td[data-title]:not([data-title=""])::before {\n'
    '    color: var(--quiet);\n'
    '    content: attr(data-title) ": ";\n'
    '  }\n'
    '\n'
    '  .table .acts .buttons {\n'
    '    justify-content: flex-start;\n'
    '    padding-top: 0.35rem;\n'
    '  }\n'
    '\n'
    '  .table td:has(> .none),\n'
    '  .table td.acts:not(:has(button)) {\n'
    '    display: none;\n'
    '  }\n'
    '\n'
    '  td small {\n'
    '    display: inline;\n'
    '    padding-left: 0.5rem;\n'
    '  }\n'
    '}\n'
    '\n'
    '/* Holds the place of what comes and goes: without an element of its own, the library may put it after what follows. */\n'
    '.part {\n'
    '  display: contents;\n'
    '}\n'
    '\n'
    '.rules li {\n'
    '  margin-bottom: 0.4rem;\n'
    '}\n'
)
ICON = (  # src/dashboard/page/icon.svg
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">\n'
    '  <rect width="32" height="32" rx="7" fill="#1f5fbf"/>\n'
    '  <path d="M6 21h5l3-10 4 14 3-8h5" fill="none" stroke="#fff" stroke-width="2.6" stroke-linecap="round" stroke-linejoin="round"/>\n'
    '</svg>\n'
)
LIB_ACTIONS = (  # src/dashboard/page/lib/actions.js
    '// What acts asks first, names what it will do, and shows what came of it.\n'
    '\n'
    'import { html, useEffect, useRef, useState } from "../vendor/preact.js";\n'
    'import { Problem, Text } from "./ui.js";\n'
    '\n'
    '/**\n'
    ' * The dialog. `asked` is { title, says, button, danger, run, done } or null: `run` does it and returns what came of it as a\n'
    ' * text, `done` is called then (to look again).\n'
    ' */\n'
    'export function ActDialog({ asked, onClose, say }) {\n'
    '  const dialog = useRef(null);\n'
    '  const [state, setState] = useState({ busy: false, result: null, error: null });\n'
    '\n'
    '  useEffect(() => {\n'
    '    if (asked && dialog.current) {\n'
    '      setState({ busy: false, result: null, error: null });\n'
    '      dialog.current.showModal();\n'
    '      dialog.current.querySelector("[data-first]")?.focus();\n'
    '    }\n'
    '  }, [asked]);\n'
    '\n'
    '  if (!asked) {\n'
    '    return null;\n'
    '  }\n'
    '\n'
    '  async function run() {\n'
    '    setState({ busy: true, result: null, error: null });\n'
    '    try {\n'
    '      const result = await asked.run();\n'
    '      setState({ busy: false, result, error: null });\n'
    '      say(result);\n'
    '      asked.done?.();\n'
    '    } catch (error) {\n'
    '      setState({ busy: false, result: null, error });\n'
    '    }\n'
    '  }\n'
    '\n'
    '  const close = () => dialog.current?.close();\n'
    '  return html`<dialog ref=${dialog} class="act" aria-labelledby="act-title" onClose=${onClose}>\n'
    '    <h2 id="act-title"><${Text}>${asked.title}<//></h2>\n'
    '    <p><${Text}>${asked.says}<//></p>\n'
    '    <div class="part"><${Problem} error=${state.error} /></div>\n'
    '    <div class="part">${state.result !== null ? html`<p class="result" role="status"><${Text}>${state.result}<//></p>` : null}</div>\n'
    '    <div class="buttons">\n'
    '      <button type="button" data-first onClick=${close}>${state.result !== null ? "Close" : "Cancel"}</button>\n'
    '      ${state.result === null\n'
    '        ? html`<button type="button" class=${asked.danger ? "danger primary" : "primary"} disabled=${state.busy} onClick=${run}>${state.busy ? "Working …" : asked.button}</button>`\n'
    '        : null}\n'
    '    </div>\n'
    '  </dialog>`;\n'
    '}\n'
)
LIB_API = (  # src/dashboard/page/lib/api.js
    '// Requests to this Orthanc, wherever a proxy puts it: all paths begin above `dashboard/files/HASH/lib/`.\n'
    '\n'
    'const BASE = new URL("../../../../", import.meta.url);\n'
    'const TIMEOUT_MS = 30_000;\n'
    '\n'
    'export class RequestError extends Error {\n'
    '  constructor(status, message) {\n'
    '    super(message);\n'
    '    this.name = "RequestError";\n'
    '    this.status = status; // 0: no answer\n'
    '  }\n'
    '}\n'
    '\n'
    '/** Return the address of a path of Orthanc, as `/scripts`. */\n'
    'export function address(path) {\n'
    '  return new URL(path.replace(/^\\/+/, ""), BASE).href;\n'
    '}\n'
    '\n'
    '/** Return a path with parameters; those that are null, undefined or empty are left out. */\n'
    'export function withQuery(path, parameters) {\n'
    '  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");\n'
    '  const query = given.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`).join("&");\n'
    '  return query ? `${path}?${query}` : path;\n'
    '}\n'
    '\n'
    'async function request(method, path, body, signal) {\n'
    '  const controller = new AbortController();\n'
    '  const abort = () => controller.abort();\n'
    '  const timer = setTimeout(abort, TIMEOUT_MS);\n'
    '  signal?.addEventListener("abort", abort);\n'
    '  try {\n'
    '    const options = { method, cache: "no-store", credentials: "same-origin", redirect: "error", signal: controller.signal };\n'
    '    if (body !== undefined) {\n'
    '      options.body = JSON.stringify(body);\n'
    '      options.headers = { "Content-Type": "application/json" };\n'
    '    }\n'
    '    const response = await fetch(address(path), options);\n'
    '    const text = await response.text();\n'
    '    let content = text;\n'
    '    try {\n'
    '      content = JSON.parse(text);\n'
    '    } catch {\n'
    '      // a plain text, or a page of a proxy\n'
    '    }\n'
    '    if (!response.ok) {\n'
    '      throw new RequestError(response.status, messageOf(response, content));\n'
    '    }\n'
    '    return content;\n'
    '  } catch (error) {\n'
    '    if (error instanceof RequestError || signal?.aborted) {\n'
    '      throw error;\n'
    '    }\n'
    '    throw new RequestError(0, "The server does not answer");\n'
    '  } finally {\n'
    '    clearTimeout(timer);\n'
    '    signal?.removeEventListener("abort", abort);\n'
    '  }\n'
    '}\n'
    '\n'
    'function messageOf(response, content) {\n'
    '  const said = content && typeof content === "object" && (content.Details || content.Message);\n'
    '  if (said) {\n'
    '    return String(said);\n'
    '  }\n'
    '  const known = {\n'
    '    401: "Orthanc does not know who you are: load the page again",\n'
    '    403: "You may not do this here",\n'
    '    404: "There is no such thing here (any more)",\n'
    '  };\n'
    '  return known[response.status] || `The server answered ${response.status} ${response.statusText}`;\n'
    '}\n'
    '\n'
    'export const get = (path, signal) => request("GET", path, undefined, signal);\n'
    'export const post = (path, body = {}) => request("POST", path, body);\n'
    'export const drop = (path) => request("DELETE", path);\n'
)
LIB_CHART = (  # src/dashboard/page/lib/chart.js
    "// A chart of columns over time, by uPlot; the same figures are in a table for who can't see it.\n"
    '\n'
    'import { html, useEffect, useRef } from "../vendor/preact.js";\n'
    '\n'
    'const dark = window.matchMedia("(prefers-color-scheme: dark)");\n'
    '\n'
    'function colour(name) {\n'
    '  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();\n'
    '}\n'
    '\n'
    'function options(series, width, height) {\n'
    '  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };\n'
    '  return {\n'
    '    width,\n'
    '    height,\n'
    '    padding: [8, 8, 0, 0],\n'
    '    cursor: { points: { size: 6 }, drag: { x: false, y: false } },\n'
    '    legend: { live: true },\n'
    '    scales: { y: { range: (_chart, _low, high) => [0, Math.max(high * 1.1, 4)] } },\n'
    '    axes: [\n'
    '      { ...axis, values: [[3600, "{HH}:{mm}", null, null, null, null, null, null, 1], [60, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}", null, null, null, null, null, null, 1]] },\n'
    '      { ...axis, size: 48, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000] },\n'
    '    ],\n'
    '    series: [\n'
    '      { label: "Time", value: (_chart, value) => (value === null ? "–" : new Date(value * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" })) },\n'
    '      ...series.map(({ label, colour: name, fill }) => ({\n'
    '        label,\n'
    '        stroke: colour(name),\n'
    '        fill: fill ? `${colour(name)}22` : undefined,\n'
    '        width: 1.75,\n'
    '        points: { show: false },\n'
    '        value: (_chart, value) => (value === null || value === undefined ? "–" : value.toLocaleString()),\n'
    '      })),\n'
    '    ],\n'
    '  };\n'
    '}\n'
    '\n'
    '/** `times` are seconds since 1970, `series` [{ label, colour, values, fill }]; `label` says what is seen. */\n'
    'export function Chart({ times, series, label, height = 220 }) {\n'
    '  const place = useRef(null);\n'
    '  const chart = useRef(null);\n'
    '  const data = [times, ...series.map((each) => each.values)];\n'
    '  const newest = useRef(data);\n'
    '  newest.current = data;\n'
    '\n'
    '  useEffect(() => {\n'
    '    const draw = () => {\n'
    '      chart.current?.destroy();\n'
    '      chart.current = new window.uPlot(options(series, place.current.clientWidth, height), newest.current, place.current);\n'
    '    };\n'
    '    draw();\n'
    '    const watcher = new ResizeObserver(() => chart.current?.setSize({ width: place.current.clientWidth, height }));\n'
    '    watcher.observe(place.current);\n'
    '    dark.addEventListener("change", draw);\n'
    '    return () => {\n'
    '      watcher.disconnect();\n'
    '      dark.removeEventListener("change", draw);\n'
    '      chart.current?.destroy();\n'
    '      chart.current = null;\n'
    '    };\n'
    '  }, [series.length]);\n'
    '\n'
    '  useEffect(() => chart.current?.setData(newest.current), [times]);\n'
    '\n'
    '  return html`<div class="chart" ref=${place} role="img" aria-label=${label}></div>`;\n'
    '}\n'
)
LIB_FORMAT = (  # src/dashboard/page/lib/format.js
    '// Texts, numbers and times as people read them. What comes from outside is only ever text, and never changes its surroundings.\n'
    '\n'
    'const NUMBER = new Intl.NumberFormat();\n'
    'const ONE_DIGIT = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });\n'
    'const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });\n'
    'const DAY = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });\n'
    '// Control characters, what turns the direction of a line, and what takes no room: they are shown by their names.\n'
    'const HIDDEN = /[\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff\\ufff9-\\ufffb]/g;\n'
    '\n'
    "/** Return a text with each character that can't be seen as `‹U+202E›`. */\n"
    'export function visible(text) {\n'
    '  const name = (character) => `‹U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;\n'
    '  return String(text ?? "").replace(HIDDEN, name);\n'
    '}\n'
    '\n'
    'export const number = (value) => (value === null || value === undefined ? "–" : NUMBER.format(value));\n'
    '\n'
    '/** Return a number with its noun: `1 study`, `2 studies`. */\n'
    'export const counted = (value, one, many) => `${number(value)} ${value === 1 ? one : many}`;\n'
    '\n'
    '/** Return bytes as `1.2 GB`. */\n'
    'export function bytes(value) {\n'
    '  const units = ["B", "kB", "MB", "GB", "TB", "PB"];\n'
    '  let left = Number(value) || 0;\n'
    '  let unit = 0;\n'
    '  while (left >= 999.5 && unit < units.length - 1) {\n'
    '    left /= 1000;\n'
    '    unit += 1;\n'
    '  }\n'
    '  return `${left < 100 && unit ? ONE_DIGIT.format(left) : NUMBER.format(Math.round(left))} ${units[unit]}`;\n'
    '}\n'
    '\n'
    '/** Return seconds as `12 s`, `5 min`, `3 h`, `2 days`: of what is long, the largest unit is enough. */\n'
    'export function duration(seconds) {\n'
    '  const left = Math.max(0, Math.round(Number(seconds) || 0));\n'
    '  if (left < 60) {\n'
    '    return `${left} s`;\n'
    '  }\n'
    '  if (left < 3600) {\n'
    '    return `${Math.floor(left / 60)} min`;\n'
    '  }\n'
    '  if (left < 86_400) {\n'
    '    const minutes = Math.floor((left % 3600) / 60);\n'
    '    return `${Math.floor(left / 3600)} h${minutes ? ` ${minutes} min` : ""}`;\n'
    '  }\n'
    '  const days = Math.floor(left / 86_400);\n'
    '  return `${days} ${days === 1 ? "day" : "days"}`;\n'
    '}\n'
    '\n'
    "/** Return the moment that a text of a script names (ISO 8601, or Orthanc's `20260131T130000`, in UTC), or null. */\n"
    'export function moment(text) {\n'
    '  const compact = /^(\\d{4})(\\d\\d)(\\d\\d)T(\\d\\d)(\\d\\d)(\\d\\d)/.exec(String(text ?? ""));\n'
    '  const found = new Date(compact ? `${compact.slice(1, 4).join("-")}T${compact.slice(4, 7).join(":")}Z` : text ?? NaN);\n'
    '  return Number.isNaN(found.getTime()) ? null : found;\n'
    '}\n'
    '\n'
    "/** Return the first moment of a day (`2026-01-31`) of the viewer's, or of one so many `days` later; what is no day as it is. */\n"
    'export function beginOf(day, days = 0) {\n'
    '  const [, year, month, date] = /^(\\d{4})-(\\d\\d)-(\\d\\d)$/.exec(day ?? "") ?? [];\n'
    '  return date ? new Date(Number(year), Number(month) - 1, Number(date) + days).toISOString() : day;\n'
    '}\n'
    '\n'
    "/** Return a moment in the viewer's zone; of today only its time. */\n"
    'export function local(when) {\n'
    '  const today = DAY.format(new Date()) === DAY.format(when);\n'
    '  return today ? TIME.format(when) : `${DAY.format(when)}, ${TIME.format(when)}`;\n'
    '}\n'
    '\n'
    "/** Return a moment as the server's clock shows it: `2026-01-31 14:00:00 (UTC+01:00)`. */\n"
    'export function atServer(when, offsetSeconds) {\n'
    '  const shifted = new Date(when.getTime() + offsetSeconds * 1000).toISOString().replace("T", " ").slice(0, 19);\n'
    '  const size = Math.abs(offsetSeconds);\n'
    '  const two = (value) => String(Math.floor(value)).padStart(2, "0");\n'
    '  return `${shifted} (UTC${offsetSeconds < 0 ? "−" : "+"}${two(size / 3600)}:${two((size % 3600) / 60)})`;\n'
    '}\n'
    '\n'
    '/** Return how long ago a moment is: `5 min ago`; of the future, `in 5 min`. */\n'
    'export function ago(when, now = Date.now()) {\n'
    '  const seconds = (now - when.getTime()) / 1000;\n'
    '  return seconds < -1 ? `in ${duration(-seconds)}` : seconds < 5 ? "just now" : `${duration(seconds)} ago`;\n'
    '}\n'
)
LIB_LIST = (  # src/dashboard/page/lib/list.js
    '// Long lists: their pages, and their filters, which are in the address so that they can be linked.\n'
    '\n'
    'import { html } from "../vendor/preact.js";\n'
    'import { number } from "./format.js";\n'
    'import { go, link } from "./router.js";\n'
    '\n'
    '/** Where a page is in its list, and links to the newest and to older ones (addresses, or null). */\n'
    'export function Pages({ total, shown, newer, older, what }) {\n'
    '  return html`<nav class="pages" aria-label="Pages">\n'
    '    <span class="quiet">${number(shown)} of ${number(total)} ${what}</span>\n'
    '    ${newer ? html`<a class="button" href=${newer}>Newest</a>` : null}\n'
    '    ${older ? html`<a class="button" href=${older}>Older</a>` : null}\n'
    '  </nav>`;\n'
    '}\n'
    '\n'
    '/** A form whose fields go into the address. `fields`: [{ name, title, type, options, hint }]. */\n'
    'export function Filters({ panel, parts = [], fields, query }) {\n'
    '  function submit(event) {\n'
    '    event.preventDefault();\n'
    '    const data = new FormData(event.target);\n'
    '    go(link(panel, parts, Object.fromEntries(fields.map(({ name }) => [name, String(data.get(name) ?? "").trim()]))));\n'
    '  }\n'
    '  return html`<div class="part"><form class="filters" role="search" onSubmit=${submit} key=${JSON.stringify(query)}>\n'
    '    ${fields.map((each) => html`<label key=${each.name}><span>${each.title}</span>${field(each, query[each.name] ?? "")}</label>`)}\n'
    '    <button type="submit">Show</button>\n'
    '    ${fields.some(({ name }) => query[name]) ? html`<a class="button" href=${link(panel, parts)}>Clear</a>` : null}\n'
    '  </form></div>`;\n'
    '}\n'
    '\n'
    'function field({ name, type = "search", options, hint }, value) {\n'
    '  return options\n'
    '    ? html`<select name=${name} onChange=${(event) => event.target.form.requestSubmit()}>\n'
    '        ${options.map(([key, title]) => html`<option value=${key} selected=${key === value}>${title}</option>`)}\n'
    '      </select>`\n'
    '    : html`<input name=${name} type=${type} defaultValue=${value} placeholder=${hint ?? ""} autocomplete="off" spellcheck=${false} />`;\n'
    '}\n'
)
LIB_POLL = (  # src/dashboard/page/lib/poll.js
    '// Asks again and again: rarely while it fails, not at all while nobody looks.\n'
    '\n'
    'import { useCallback, useEffect, useRef, useState } from "../vendor/preact.js";\n'
    'import { get } from "./api.js";\n'
    '\n'
    'const LONGEST_PAUSE_SECONDS = 60;\n'
    '\n'
    '/**\n'
    ' * Load something every `seconds`, as long as the page can be seen; again at once when `key` changes.\n'
    ' *\n'
    ' * Returns { data, error, since, refresh }: `data` stays while `error` lasts, `since` is when that began (ms).\n'
    ' */\n'
    'export function usePoll(load, seconds, key) {\n'
    '  const [state, setState] = useState({ data: undefined, error: null, since: null });\n'
    '  const loader = useRef(load);\n'
    '  const again = useRef(() => undefined);\n'
    '  loader.current = load;\n'
    '\n'
    '  useEffect(() => {\n'
    '    let timer = 0;\n'
    '    let failures = 0;\n'
    '    let controller = null;\n'
    '    let ended = false;\n'
    '    setState({ data: undefined, error: null, since: null });\n'
    '\n'
    '    async function once() {\n'
    '      clearTimeout(timer);\n'
    '      controller?.abort();\n'
    '      const mine = new AbortController();\n'
    '      controller = mine;\n'
    '      try {\n'
    '        const data = await loader.current(mine.signal);\n'
    '        if (ended || mine.signal.aborted) {\n'
    '          return;\n'
    '        }\n'
    '        failures = 0;\n'
    '        setState({ data, error: null, since: null });\n'
    '      } catch (error) {\n'
    '        if (ended || mine.signal.aborted) {\n'
    '          return;\n'
    '        }\n'
    '        failures += 1;\n'
    '        setState((before) => ({ ...before, error, since: before.since ?? Date.now() }));\n'
    '      }\n'
    '      const pause = Math.min(LONGEST_PAUSE_SECONDS, seconds * 2 ** Math.min(failures, 6));\n'
    '      timer = document.hidden ? 0 : setTimeout(once, pause * 1000);\n'
    '    }\n'
    '\n'
    '    function onVisibility() {\n'
    '      clearTimeout(timer);\n'
    '      if (!document.hidden) {\n'
    '        once();\n'
    '      }\n'
    '    }\n'
    '\n'
    '    again.current = once;\n'
    '    document.addEventListener("visibilitychange", onVisibility);\n'
    '    window.addEventListener("online", once);\n'
    '    once();\n'
    '    return () => {\n'
    '      ended = true;\n'
    '      clearTimeout(timer);\n'
    '      controller?.abort();\n'
    '      document.removeEventListener("visibilitychange", onVisibility);\n'
    '      window.removeEventListener("online", once);\n'
    '    };\n'
    '  }, [key, seconds]);\n'
    '\n'
    '  return { ...state, refresh: useCallback(() => again.current(), []) };\n'
    '}\n'
    '\n'
    '/** Load a path of Orthanc every `seconds`; null: nothing. */\n'
    'export function useRoute(path, seconds = 5) {\n'
    '  return usePoll((signal) => (path === null ? Promise.resolve(null) : get(path, signal)), seconds, path);\n'
    '}\n'
    '\n'
    '/** Return the time (ms), again every `seconds`: for what is told as `5 min ago`. */\n'
    'export function useNow(seconds = 5) {\n'
    '  const [now, setNow] = useState(Date.now());\n'
    '  useEffect(() => {\n'
    '    const timer = setInterval(() => document.hidden || setNow(Date.now()), seconds * 1000);\n'
    '    return () => clearInterval(timer);\n'
    '  }, [seconds]);\n'
    '  return now;\n'
    '}\n'
)
LIB_ROUTER = (  # src/dashboard/page/lib/router.js
    '// What the part of the address behind # means: `#/panel/part/part?name=value`. Each row that can be opened has such an address.\n'
    '\n'
    'import { useEffect, useState } from "../vendor/preact.js";\n'
    '\n'
    'function decoded(text) {\n'
    '  try {\n'
    '    return decodeURIComponent(text);\n'
    '  } catch {\n'
    '    return text;\n'
    '  }\n'
    '}\n'
    '\n'
    '/** Return { panel, parts, query } of an address. */\n'
    'export function parse(hash) {\n'
    '  const [path, query = ""] = hash.replace(/^#\\/?/, "").split("?", 2);\n'
    '  const [panel, ...parts] = path.split("/").map(decoded);\n'
    '  return { panel, parts: parts.filter(Boolean), query: Object.fromEntries(new URLSearchParams(query)) };\n'
    '}\n'
    '\n'
    '/** Return the address of a panel, or of a row of it. Parameters that are empty are left out. */\n'
    'export function link(panel, parts = [], query = {}) {\n'
    '  const path = ["#", panel, ...parts.map((each) => encodeURIComponent(each))].join("/");\n'
    '  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);\n'
    '  return given.length ? `${path}?${new URLSearchParams(given)}` : path;\n'
    '}\n'
    '\n'
    'export const go = (hash) => {\n'
    '  window.location.hash = hash;\n'
    '};\n'
    '\n'
    '/** Return what the address is now. */\n'
    'export function useAddress() {\n'
    '  const [place, setPlace] = useState(parse(window.location.hash));\n'
    '  useEffect(() => {\n'
    '    const change = () => setPlace(parse(window.location.hash));\n'
    '    window.addEventListener("hashchange", change);\n'
    '    return () => window.removeEventListener("hashchange", change);\n'
    '  }, []);\n'
    '  return place;\n'
    '}\n'
)
LIB_STUDIES = (  # src/dashboard/page/lib/studies.js
    "// What studies are called: lists of scripts have Orthanc's identifiers, people know patients and dates.\n"
    '\n'
    'import { html, useContext, useEffect, useState } from "../vendor/preact.js";\n'
    'import { address, get, post } from "./api.js";\n'
    'import { moment } from "./format.js";\n'
    'import { Shared, Text } from "./ui.js";\n'
    '\n'
    'const KEPT = 500; // studies that are remembered\n'
    'const FOUND = 20; // studies that a search looks at\n'
    'const known = new Map();\n'
    '\n'
    '/** Ask for a study once; null: it is not here. Other failures are asked again. */\n'
    'function study(id) {\n'
    '  if (!known.has(id)) {\n'
    '    if (known.size >= KEPT) {\n'
    '      known.delete(known.keys().next().value);\n'
    '    }\n'
    '    const asked = get(`/studies/${encodeURIComponent(id)}`).catch((error) => {\n'
    '      if (error.status !== 404) {\n'
    '        known.delete(id);\n'
    '      }\n'
    '      return null;\n'
    '    });\n'
    '    known.set(id, asked);\n'
    '  }\n'
    '  return known.get(id);\n'
    '}\n'
    '\n'
    '/** Return what is known of a study, or undefined as long as it is not. */\n'
    'export function useStudy(id) {\n'
    '  const [found, setFound] = useState(undefined);\n'
    '  useEffect(() => {\n'
    '    let ended = false;\n'
    '    setFound(undefined);\n'
    '    if (id) {\n'
    '      study(id).then((each) => ended || setFound(each));\n'
    '    }\n'
    '    return () => {\n'
    '      ended = true;\n'
    '    };\n'
    '  }, [id]);\n'
    '  return found;\n'
    '}\n'
    '\n'
    '/** Return the day of a DICOM date (YYYYMMDD) as `2026-01-31`; anything else as it is. */\n'
    'export const day = (text) => String(text ?? "").replace(/^(\\d{4})(\\d\\d)(\\d\\d)$/, "$1-$2-$3");\n'
    '\n'
    '/** A study in two lines: patient, then date and description; its identifier where it is not here. */\n'
    'export function StudyName({ id, level = "Study", resource }) {\n'
    '  const found = useStudy(id);\n'
    '  if (!found) {\n'
    '    return html`<span class="quiet"><${Text}>${level} ${(id ?? resource ?? "").slice(0, 17)}…<//>${found === null ? html`<small>not here any more</small>` : null}</span>`;\n'
    '  }\n'
    '  const patient = found.PatientMainDicomTags ?? {};\n'
    '  const tags = found.MainDicomTags ?? {};\n'
    '  const said = [day(tags.StudyDate), tags.StudyDescription].filter(Boolean).join(" · ");\n'
    '  return html`<${Text}>${patient.PatientID || "(no PatientID)"}<//>${patient.PatientName ? html` <span class="quiet"><${Text}>${patient.PatientName}<//></span>` : null}\n'
    '    <small><${Text}>${said || tags.StudyInstanceUID || ""}<//></small>`;\n'
    '}\n'
    '\n'
    "/** Find studies by PatientID, AccessionNumber, StudyInstanceUID, or Orthanc's identifier; return identifiers. */\n"
    'export async function findStudies(text) {\n'
    '  if (/^[0-9a-f]{8}(-[0-9a-f]{8}){4}$/.test(text)) {\n'
    '    return [text];\n'
    '  }\n'
    '  const escaped = text.replace(/[\\\\*?]/g, "?"); // no wildcards of a person\'s, and no list of values\n'
    '  const queries = ["PatientID", "AccessionNumber", "StudyInstanceUID"].map((tag) =>\n'
    '    post("/tools/find", { Level: "Study", Query: { [tag]: escaped }, Limit: FOUND }),\n'
    '  );\n'
    '  const found = await Promise.all(queries);\n'
    '  return [...new Set(found.flat())].slice(0, FOUND);\n'
    '}\n'
    '\n'
    '/** The series of a study as small pictures, where series_thumbnail draws them. */\n'
    'export function Thumbnails({ id }) {\n'
    '  const { summary } = useContext(Shared);\n'
    '  const [series, setSeries] = useState([]);\n'
    '  const draws = summary.Scripts.some((each) => each.Name === "series_thumbnail" && each.State === "running");\n'
    '  useEffect(() => {\n'
    '    let ended = false;\n'
    '    if (draws && id) {\n'
    '      get(`/studies/${encodeURIComponent(id)}`).then(\n'
    '        (found) => ended || setSeries((found.Series ?? []).slice(0, 12)),\n'
    '        () => undefined,\n'
    '      );\n'
    '    }\n'
    '    return () => {\n'
    '      ended = true;\n'
    '    };\n'
    '  }, [id, draws]);\n'
    '  return series.length\n'
    '    ? html`<ul class="thumbnails">${series.map((each) => html`<li key=${each}><img src=${address(`/series/${each}/thumbnail?size=96`)} alt="A series of the study" width="96" height="96" loading="lazy" /></li>`)}</ul>`\n'
    '    : null;\n'
    '}\n'
    '\n'
    'export const newestFirst = (one, other) => (moment(other)?.getTime() ?? 0) - (moment(one)?.getTime() ?? 0);\n'
)
LIB_UI = (  # src/dashboard/page/lib/ui.js
    '// What panels are made of. All that comes from outside goes through `Text`.\n'
    '\n'
    'import { createContext, html, useContext } from "../vendor/preact.js";\n'
    'import { ago, atServer, local, moment, visible } from "./format.js";\n'
    'import { useNow } from "./poll.js";\n'
    '\n'
    '/** What all panels know: { summary, mayAct, act, say }. */\n'
    'export const Shared = createContext({});\n'
    '\n'
    '/** A text from outside, isolated from what is around it; nothing of it is hidden. */\n'
    'export const Text = ({ children }) => html`<bdi>${visible([children].flat().join(""))}</bdi>`;\n'
    '\n'
    "/** A moment: in the viewer's zone, the server's on hover; with `relative`, how long ago. */\n"
    'export function Time({ at, relative = false }) {\n'
    '  const { summary } = useContext(Shared);\n'
    '  const now = useNow(5);\n'
    '  const when = moment(at);\n'
    '  if (!when) {\n'
    '    return html`<span class="quiet">–</span>`;\n'
    '  }\n'
    '  const title = `${atServer(when, summary?.Server?.UtcOffsetSeconds ?? 0)} at the server`;\n'
    '  const shown = relative ? ago(when, now) : local(when);\n'
    '  return html`<time datetime=${when.toISOString()} title=${relative ? `${local(when)} here, ${title}` : title}>${shown}</time>`;\n'
    '}\n'
    '\n'
    'const KINDS = {\n'
    '  up: "good", running: "good", done: "good", right: "good", Success: "good", configured: "good",\n'
    '  away: "warn", waiting: "warn", paused: "warn", closed: "quiet", idle: "quiet", gone: "quiet", Paused: "warn", Retry: "warn",\n'
    '  sending: "busy", Running: "busy", Pending: "quiet", dead: "bad", misconfigured: "bad", failed: "bad", Failure: "bad",\n'
    '  orphaned: "bad", refused: "bad",\n'
    '};\n'
    'const WORDS = { dead: "failed for good", gone: "deleted here", sending: "being sent", up: "up" };\n'
    '\n'
    '/** A state in one word, with a shape and a colour that say the same. */\n'
    'export function State({ of, label }) {\n'
    '  return html`<span class="state ${KINDS[of] ?? "quiet"}"><span class="dot" aria-hidden="true"></span>${visible(label ?? WORDS[of] ?? of)}</span>`;\n'
    '}\n'
    '\n'
    '/** One line for what went wrong, that a screen reader says at once. */\n'
    'export const Problem = ({ error }) =>\n'
    '  error ? html`<p class="problem" role="alert"><${Text}>${error.message ?? error}<//></p>` : null;\n'
    '\n'
    '/** What stands where nothing is (yet). */\n'
    'export const Empty = ({ title, children }) =>\n'
    '  html`<div class="empty"><p class="empty-title">${title}</p>${children ? html`<p>${children}</p>` : null}</div>`;\n'
    '\n'
    'export const Loading = ({ what = "" }) => html`<p class="loading quiet">Loading${what ? ` ${what}` : ""} …</p>`;\n'
    '\n'
    '/** A button that acts; it is there only for those who may. */\n'
    'export function ActButton({ onClick, danger = false, small = false, label, children }) {\n'
    '  const { mayAct } = useContext(Shared);\n'
    '  return mayAct\n'
    '    ? html`<button type="button" class="${danger ? "danger" : ""} ${small ? "small" : ""}" aria-label=${label} onClick=${onClick}>${children}</button>`\n'
    '    : null;\n'
    '}\n'
    '\n'
    '/** A figure with what it counts; `href` leads to where it comes from. */\n'
    'export function Figure({ title, value, unit, note, kind = "", href }) {\n'
    '  const content = html`<span class="figure-title">${title}</span>\n'
    '    <span class="figure-value ${kind}">${value}${unit ? html` <span class="figure-unit">${unit}</span>` : null}</span>\n'
    '    <span class="figure-note">${note ?? ""}</span>`;\n'
    '  return href ? html`<a class="figure" href=${href}>${content}</a>` : html`<div class="figure">${content}</div>`;\n'
    '}\n'
    '\n'
    '/**\n'
    ' * A table whose first column names the rows. `columns`: [{ title, of, kind }]. On a small screen each row is a block of its own;\n'
    ' * the roles say that it is a table nevertheless.\n'
    ' */\n'
    'export function Table({ caption, columns, rows, keyOf, current }) {\n'
    '  const cell = (column, row, index) =>\n'
    '    index === 0\n'
    '      ? html`<th scope="row" role="rowheader" class=${column.kind}>${column.of(row)}</th>`\n'
    '      : html`<td role="cell" class=${column.kind} data-title=${column.title}>${column.of(row)}</td>`;\n'
    '  return html`<div class="table">\n'
    '    <table role="table">\n'
    '      <caption class="hidden">${caption}</caption>\n'
    '      <thead role="rowgroup"><tr role="row">\n'
    '        ${columns.map((each) => html`<th scope="col" role="columnheader" class=${each.kind}>${each.title || html`<span class="hidden">Actions</span>`}</th>`)}\n'
    '      </tr></thead>\n'
    '      <tbody role="rowgroup">\n'
    '        ${rows.map((row) => html`<tr role="row" key=${keyOf(row)} aria-current=${current && current(row) ? "true" : undefined}>${columns.map((column, index) => cell(column, row, index))}</tr>`)}\n'
    '      </tbody>\n'
    '    </table>\n'
    '  </div>`;\n'
    '}\n'
    '\n'
    '/** A bar from 0 to 100 with its number. */\n'
    'export const Progress = ({ value, label }) =>\n'
    '  html`<span class="progress"><progress max="100" value=${value} aria-label=${label}></progress> <span class="quiet">${Math.round(value)} %</span></span>`;\n'
    '\n'
    '/** Terms and what is said of them; those without a value are left out. */\n'
    'export const Facts = ({ of }) =>\n'
    '  html`<dl class="facts">${of\n'
    '    .filter(([, value]) => value !== null && value !== undefined && value !== "")\n'
    '    .map(([term, value]) => html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}</dl>`;\n'
)
PANELS = (  # src/dashboard/page/panels/index.js
    '// The panels, in the order of the navigation. How one is made: docs/dashboard.md.\n'
    '\n'
    'import audit from "./audit.js";\n'
    'import deidentification from "./deidentification.js";\n'
    'import deliveries from "./deliveries.js";\n'
    'import destinations from "./destinations.js";\n'
    'import events from "./events.js";\n'
    'import flow from "./flow.js";\n'
    'import jobs from "./jobs.js";\n'
    'import moves from "./moves.js";\n'
    'import retention from "./retention.js";\n'
    'import rules from "./rules.js";\n'
    'import scripts from "./scripts.js";\n'
    '\n'
    'export const PANELS = [flow, destinations, deliveries, rules, events, moves, deidentification, retention, audit, jobs, scripts];\n'
)
PANEL_FLOW = (  # src/dashboard/page/panels/flow.js
    '// Whether images flow: what needs a person, the figures of now, the last day.\n'
    '\n'
    'import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";\n'
    'import { get } from "../lib/api.js";\n'
    'import { bytes, counted, duration, number } from "../lib/format.js";\n'
    'import { Chart } from "../lib/chart.js";\n'
    'import { usePoll } from "../lib/poll.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { Empty, Figure, Problem, State, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const DAY_MINUTES = 24 * 60;\n'
    'const RANGES = [[60, "1 hour"], [360, "6 hours"], [DAY_MINUTES, "24 hours"]];\n'
    'const COLUMNS = ["Minute", "Received", "Forwarded", "Waiting", "Failed", "LagSeconds"];\n'
    '\n'
    '/** Load the last day once, then what is new: a few rows a minute. */\n'
    'function useDay() {\n'
    '  const kept = useRef(null);\n'
    '  return usePoll(async (signal) => {\n'
    '    const before = kept.current;\n'
    '    const since = before?.Minute.length ? before.Minute[before.Minute.length - 1] : Math.floor(Date.now() / 60_000) - DAY_MINUTES - 60;\n'
    '    const found = await get(`/dashboard/flow?since=${since}`, signal);\n'
    '    if (before && found.Minute.length <= 1) {\n'
    '      return before;\n'
    '    }\n'
    '    const old = before ? before.Minute.filter((minute) => minute < since && minute >= found.Minute[0] - DAY_MINUTES - 60).length : 0;\n'
    '    const skip = before ? before.Minute.indexOf(since) - old : 0;\n'
    '    kept.current = Object.fromEntries(COLUMNS.map((name) => [name, [...(before ? before[name].slice(skip, skip + old) : []), ...found[name]]]));\n'
    '    return kept.current;\n'
    '  }, 20, "day");\n'
    '}\n'
    '\n'
    '/** Return the minutes of a range, none left out: what was not counted is null, and the chart shows a gap. */\n'
    'function columnsOf(day, minutes) {\n'
    '  const last = Math.floor(Date.now() / 60_000) - 1;\n'
    '  const first = last - minutes + 1;\n'
    '  const times = Array.from({ length: minutes }, (_, index) => (first + index) * 60);\n'
    '  const received = new Array(minutes).fill(null);\n'
    '  const forwarded = new Array(minutes).fill(null);\n'
    '  day.Minute.forEach((minute, index) => {\n'
    '    if (minute >= first && minute <= last) {\n'
    '      received[minute - first] = day.Received[index];\n'
    '      forwarded[minute - first] = day.Forwarded[index];\n'
    '    }\n'
    '  });\n'
    '  return { times, received, forwarded };\n'
    '}\n'
    '\n'
    'const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);\n'
    '\n'
    'function Day() {\n'
    '  const { data, error } = useDay();\n'
    '  const [minutes, setMinutes] = useState(DAY_MINUTES);\n'
    '  const columns = useMemo(() => data && columnsOf(data, minutes), [data, minutes]);\n'
    '  if (!data) {\n'
    '    return html`<${Problem} error=${error} />`;\n'
    '  }\n'
    '  const [, range] = RANGES.find(([each]) => each === minutes);\n'
    '  const received = sum(columns.received);\n'
    '  const forwarded = sum(columns.forwarded);\n'
    '  return html`<section aria-labelledby="day-title">\n'
    '    <div class="title-row">\n'
    '      <h2 id="day-title">The last ${range}</h2>\n'
    '      <div class="choice" role="group" aria-label="Range">\n'
    '        ${RANGES.map(([each, title]) => html`<button type="button" aria-pressed=${each === minutes} onClick=${() => setMinutes(each)}>${title}</button>`)}\n'
    '      </div>\n'
    '    </div>\n'
    '    <p class="quiet">${counted(received, "image", "images")} received, ${number(forwarded)} forwarded. Images a minute:</p>\n'
    '    <${Chart}\n'
    '      times=${columns.times}\n'
    '      label="Images a minute in the last ${range}: ${number(received)} received, ${number(forwarded)} forwarded"\n'
    '      series=${[\n'
    '        { label: "Received", colour: "--received", values: columns.received, fill: true },\n'
    '        { label: "Forwarded", colour: "--forwarded", values: columns.forwarded },\n'
    '      ]} />\n'
    '    <${Hours} columns=${columns} />\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    '/** The chart as a table, an hour a row. */\n'
    'function Hours({ columns }) {\n'
    '  const hours = new Map();\n'
    '  columns.times.forEach((time, index) => {\n'
    '    const begin = Math.floor(time / 3600) * 3600;\n'
    '    const [received, forwarded] = hours.get(begin) ?? [0, 0];\n'
    '    hours.set(begin, [received + (columns.received[index] ?? 0), forwarded + (columns.forwarded[index] ?? 0)]);\n'
    '  });\n'
    '  return html`<details><summary>As a table</summary>\n'
    '    <table class="narrow"><thead><tr><th scope="col">Hour</th><th scope="col" class="number">Received</th><th scope="col" class="number">Forwarded</th></tr></thead>\n'
    '      <tbody>${[...hours].reverse().map(([begin, [received, forwarded]]) => html`<tr key=${begin}>\n'
    '        <th scope="row"><${Time} at=${new Date(begin * 1000).toISOString()} /></th><td class="number">${number(received)}</td><td class="number">${number(forwarded)}</td></tr>`)}</tbody>\n'
    '    </table>\n'
    '  </details>`;\n'
    '}\n'
    '\n'
    'const Alerts = ({ alerts }) =>\n'
    '  alerts.length\n'
    '    ? html`<ul class="alerts">${alerts.map((each) => html`<li key=${each.ID} class=${each.Level}>\n'
    '        <a href=${link(each.Panel, each.Row, each.Query)}><${Text}>${each.Text}<//></a>\n'
    '        ${each.Since ? html`<span class="quiet">since <${Time} at=${each.Since} /></span>` : null}\n'
    '        ${each.Why ? html`<span class="why"><${Text}>${each.Why}<//></span>` : null}\n'
    '      </li>`)}</ul>`\n'
    '    : html`<p class="calm">Nothing needs you.</p>`;\n'
    '\n'
    'function Places({ destinations }) {\n'
    '  return destinations.length\n'
    '    ? html`<section aria-labelledby="places-title"><h2 id="places-title">Destinations</h2>\n'
    '        <ul class="places">${destinations.map((each) => html`<li key=${each.Script + each.Name}><a href=${link("destinations", [each.Script, each.Name])}>\n'
    '          <span class="place-name"><${Text}>${each.Name}<//></span><${State} of=${each.State} />\n'
    '          <span class="quiet">${each.Totals.waiting ? `${number(each.Totals.waiting)} waiting` : "nothing waits"}</span></a></li>`)}</ul></section>`\n'
    '    : null;\n'
    '}\n'
    '\n'
    'function View({ summary }) {\n'
    '  const { Flow: flow, Server: server, Alerts: alerts, Destinations: destinations } = summary;\n'
    '  const forwards = destinations.length > 0;\n'
    '  return html`\n'
    '    <section class="plain" aria-labelledby="needs-title"><h2 id="needs-title" class="hidden">What needs you</h2><${Alerts} alerts=${alerts} /></section>\n'
    '    <div class="part">${server.Instances === 0\n'
    '      ? html`<${Empty} title="Ready for the first study">Send one to the AE title <code><${Text}>${server.DicomAet ?? "ORTHANC"}<//></code>${server.DicomPort ? html` at port <code>${String(server.DicomPort)}</code>` : null}, or upload it in Orthanc Explorer: it shows up here within seconds.<//>`\n'
    '      : null}</div>\n'
    '    <div class="figures">\n'
    '      <${Figure} title="Received" value=${number(flow.Received)} unit="images" note="in the last minute" />\n'
    '      <div class="part">${forwards\n'
    '        ? html`<${Figure} title="Forwarded" value=${number(flow.Forwarded)} unit="images" note="in the last minute" />\n'
    '            <${Figure} title="Waiting" value=${number(flow.Waiting + flow.Sending)} unit=${flow.Waiting + flow.Sending === 1 ? "delivery" : "deliveries"} kind=${flow.LagSeconds > 900 ? "warn" : ""}\n'
    '              note=${flow.LagSeconds ? `the oldest for ${duration(flow.LagSeconds)}` : "nothing waits"} href=${link("deliveries", [], { state: "waiting" })} />\n'
    '            <${Figure} title="Failed" value=${number(flow.Failed)} unit=${flow.Failed === 1 ? "delivery" : "deliveries"} kind=${flow.Failed ? "bad" : ""}\n'
    '              note=${flow.Failed ? "given up: they need you" : "none is given up"} href=${link("deliveries", [], { state: "dead" })} />`\n'
    '        : null}</div>\n'
    '      <${Figure} title="Archive" value=${number(server.Studies)} unit=${server.Studies === 1 ? "study" : "studies"} note="${bytes(server.Bytes)}, ${counted(server.Instances, "image", "images")}" />\n'
    '    </div>\n'
    '    <div class="part"><${Places} destinations=${destinations} /></div>\n'
    '    <div class="part"><${Day} /></div>`;\n'
    '}\n'
    '\n'
    'export default { id: "flow", title: "Flow", view: View };\n'
)
PANEL_AUDIT = (  # src/dashboard/page/panels/audit.js
    '// Who did what to which study: the audit log, searched.\n'
    '\n'
    'import { html } from "../vendor/preact.js";\n'
    'import { get, withQuery } from "../lib/api.js";\n'
    'import { counted, number } from "../lib/format.js";\n'
    'import { Filters } from "../lib/list.js";\n'
    'import { usePoll } from "../lib/poll.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { day } from "../lib/studies.js";\n'
    'import { Empty, Facts, Loading, Problem, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const PER_PAGE = 50;\n'
    'const DAY_MS = 86_400_000;\n'
    'const TOLD = new Set(["Number", "At", "Event", "Study", "StudyInstanceUID", "Patient", "From", "User", "Script", "Mac"]);\n'
    '\n'
    'const isoDay = (value) => (/^\\d{4}-\\d\\d-\\d\\d$/.test(value ?? "") ? value.replaceAll("-", "") : value);\n'
    '\n'
    '/** Return the first moment of the day after one, in UTC: a search until a day has all of that day. */\n'
    'function dayAfter(value) {\n'
    '  const begin = Date.parse(`${day(value)}T00:00:00Z`);\n'
    '  return Number.isNaN(begin) ? value : new Date(begin + DAY_MS).toISOString();\n'
    '}\n'
    '\n'
    '/** Load what is asked for; without a search, the newest lines of today and yesterday, the newest first. */\n'
    'async function load(query, signal) {\n'
    '  const { patient, study, event, since, until, after } = query;\n'
    '  if (patient || study || event || since || until) {\n'
    '    const asked = { patient, study, event, since: isoDay(since), until: until ? dayAfter(until) : "", after, limit: PER_PAGE };\n'
    '    return { ...(await get(withQuery("/audit-log", asked), signal)), isSearch: true };\n'
    '  }\n'
    '  const { Number: newest } = await get("/audit-log/newest", signal);\n'
    '  const yesterday = new Date(Date.now() - DAY_MS).toISOString().slice(0, 10).replaceAll("-", "");\n'
    '  const page = await get(withQuery("/audit-log", { since: yesterday, after: Math.max(0, newest - PER_PAGE), limit: PER_PAGE }), signal);\n'
    '  return { ...page, Items: page.Items.reverse(), Next: null, isSearch: false };\n'
    '}\n'
    '\n'
    '/** Return who is behind a line: a user, an AE title, an address, a script. */\n'
    'function who({ From: from, User: asked, Script: script }) {\n'
    '  const { HttpUsername: user, User: other, RemoteAET: aet, RemoteIP: ip } = from ?? {};\n'
    '  const name = user || other || asked || aet || script;\n'
    '  return [name, ip].filter(Boolean).join(", ") || from?.Origin || "";\n'
    '}\n'
    '\n'
    'const shown = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));\n'
    '\n'
    'function One({ line }) {\n'
    '  return html`<section class="card" aria-labelledby="one-title">\n'
    '    <div class="title-row"><h2 id="one-title">Line ${number(line.Number)}: <${Text}>${line.Event}<//></h2><${Time} at=${line.At} /></div>\n'
    '    <${Facts} of=${Object.entries(line)\n'
    '      .filter(([name]) => name !== "Number" && name !== "Event" && name !== "At")\n'
    '      .map(([name, value]) => [html`<${Text}>${name}<//>`, value === null ? "" : html`<${Text}>${shown(value)}<//>`])} />\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'function View({ place }) {\n'
    '  const { query } = place;\n'
    '  const { data, error } = usePoll((signal) => load(query, signal), 60, JSON.stringify(query));\n'
    '  const chosen = data?.Items.find((line) => String(line.Number) === place.parts[0]);\n'
    '  const columns = [\n'
    '    { title: "When", of: (line) => html`<a href=${link("audit", [line.Number], query)}><${Time} at=${line.At} /></a><small>line ${number(line.Number)}</small>` },\n'
    '    { title: "What", of: (line) => html`<${Text}>${line.Event}<//>` },\n'
    '    { title: "Who", of: (line) => (who(line) ? html`<${Text}>${who(line)}<//>` : html`<span class="quiet none">–</span>`) },\n'
    '    { title: "Patient", of: (line) => (line.Patient ? html`<a href=${link("audit", [], { patient: line.Patient })}><${Text}>${line.Patient}<//></a>` : html`<span class="quiet none">–</span>`) },\n'
    '    { title: "More", kind: "long", of: (line) => {\n'
    '      const more = Object.entries(line).filter(([name, value]) => !TOLD.has(name) && value !== null).map(([name, value]) => `${name}: ${shown(value)}`).join(", ");\n'
    '      return more ? html`<${Text}>${more.slice(0, 300)}<//>` : html`<span class="quiet none">–</span>`;\n'
    '    } },\n'
    '  ];\n'
    '  return html`\n'
    '    <${Filters} panel="audit" query=${query} fields=${[\n'
    '      { name: "patient", title: "PatientID" },\n'
    '      { name: "study", title: "Study", hint: "UID, or Orthanc\'s identifier" },\n'
    '      { name: "event", title: "Event", hint: "received, deleted, …" },\n'
    '      { name: "since", title: "From (UTC)", type: "date" },\n'
    '      { name: "until", title: "Until (UTC)", type: "date" },\n'
    '    ]} />\n'
    '    <div class="part"><${Problem} error=${error} /></div>\n'
    '    <div class="part">${chosen ? html`<${One} line=${chosen} />` : null}</div>\n'
    '    <div class="part">${!data ? (error ? null : html`<${Loading} what="the log" />`) : data.Items.length\n'
    '      ? html`<p class="quiet">${data.isSearch ? `${counted(data.Total, "line fits", "lines fit")}, the oldest first.` : `The newest ${data.Items.length === 1 ? "line" : `${number(data.Items.length)} lines`} of today and yesterday, the newest first.`}</p>\n'
    '          <${Table} caption="Audit log" columns=${columns} rows=${data.Items} keyOf=${(line) => line.Number} current=${(line) => line === chosen} />\n'
    '          ${data.Next ? html`<p><a class="button" href=${link("audit", [], { ...query, after: data.Next })}>Next ${number(PER_PAGE)}</a></p>` : null}`\n'
    '      : html`<${Empty} title=${data.isSearch ? "No line fits this" : "Nothing happened since yesterday"}>${data.isSearch ? "PatientID and study must be written exactly as they are; events are single words." : "Search for earlier days above."}<//>`}</div>`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "audit",\n'
    '  title: "Audit log",\n'
    '  scripts: ["audit_log"],\n'
    '  absent: {\n'
    '    title: "There is no audit log here",\n'
    '    gives: "With audit_log, each line says who received, read, sent, changed or deleted which study, in files that show whether they were tampered with. This panel searches it by patient, study, event and day.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
PANEL_DELIVERIES = (  # src/dashboard/page/panels/deliveries.js
    '// What was sent where, and what came of it: filters, the history of one, retry, drop, send again.\n'
    '\n'
    'import { html, useContext } from "../vendor/preact.js";\n'
    'import { address, drop, get, post, withQuery } from "../lib/api.js";\n'
    'import { beginOf, counted, number } from "../lib/format.js";\n'
    'import { Filters, Pages } from "../lib/list.js";\n'
    'import { usePoll, useRoute } from "../lib/poll.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { findStudies, StudyName, Thumbnails } from "../lib/studies.js";\n'
    'import { ActButton, Empty, Facts, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const SCRIPTS = ["auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb"];\n'
    'const TITLES = { auto_forward_modality: "DICOM nodes", auto_forward_peer: "Orthanc peers", auto_forward_dicomweb: "DICOMweb servers" };\n'
    'const STATES = [["", "any"], ["waiting", "waiting"], ["sending", "being sent"], ["done", "delivered"], ["dead", "failed for good"], ["gone", "deleted here"]];\n'
    'const LABELS = { done: "delivered" };\n'
    'const PER_PAGE = 25;\n'
    'const NEWEST = 2 ** 53 - 1;\n'
    '\n'
    'const routeOf = (script) => `/${script.replaceAll("_", "-")}/deliveries`;\n'
    '\n'
    'function useDeliveryActs(script, refresh) {\n'
    '  const { act } = useContext(Shared);\n'
    '  const base = routeOf(script);\n'
    '  return {\n'
    '    retry: (row) =>\n'
    '      act({\n'
    '        title: `Retry delivery ${row.ID}?`,\n'
    '        says: `It is sent to ${row.Destination} now, with the whole time until it is given up.`,\n'
    '        button: "Retry",\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          await post(`${base}/${row.ID}/retry`);\n'
    '          return `Delivery ${row.ID} waits to be sent to ${row.Destination} now.`;\n'
    '        },\n'
    '      }),\n'
    '    forget: (row) =>\n'
    '      act({\n'
    '        title: `Drop delivery ${row.ID}?`,\n'
    '        says: row.State === "done" ? `It was delivered to ${row.Destination}; only this entry is removed. Nothing is deleted from the archive.` : `It is not sent to ${row.Destination} any more. Nothing is deleted from the archive.`,\n'
    '        button: "Drop",\n'
    '        danger: true,\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          await drop(`${base}/${row.ID}`);\n'
    '          return `Delivery ${row.ID} is dropped.`;\n'
    '        },\n'
    '      }),\n'
    '    again: (row) =>\n'
    '      act({\n'
    '        title: `Send this ${row.Level.toLowerCase()} to ${row.Destination} again?`,\n'
    '        says: `All of it that is here now is sent, as a new delivery. ${row.Destination} may have it already: that is harmless.`,\n'
    '        button: "Send again",\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          const { Deliveries: added } = await post(`/${script.replaceAll("_", "-")}/send`, { Resource: row.Resource, Level: row.Level, Destinations: [row.Destination] });\n'
    '          return `Delivery ${added.join(", ")} waits to be sent to ${row.Destination}.`;\n'
    '        },\n'
    '      }),\n'
    '  };\n'
    '}\n'
    '\n'
    'function Buttons({ row, script, refresh, small = true }) {\n'
    '  const acts = useDeliveryActs(script, refresh);\n'
    '  const isSend = row.Destination !== null;\n'
    '  return html`<span class="buttons">\n'
    '    <div class="part">${row.State === "dead" || row.State === "waiting" ? html`<${ActButton} small=${small} label="Retry delivery ${row.ID}" onClick=${() => acts.retry(row)}>Retry<//>` : null}</div>\n'
    '    <div class="part">${!small && isSend && row.State === "done" ? html`<${ActButton} label="Send delivery ${row.ID} again" onClick=${() => acts.again(row)}>Send again<//>` : null}</div>\n'
    '    ${!small && row.State !== "sending" ? html`<${ActButton} danger=${true} label="Drop delivery ${row.ID}" onClick=${() => acts.forget(row)}>Drop<//>` : null}\n'
    '  </span>`;\n'
    '}\n'
    '\n'
    'function One({ id, script, refresh }) {\n'
    '  const { data: row, error, refresh: again } = useRoute(`${routeOf(script)}/${encodeURIComponent(id)}`, 3);\n'
    '  if (!row) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="the delivery" />`;\n'
    '  }\n'
    '  const both = () => {\n'
    '    again();\n'
    '    refresh();\n'
    '  };\n'
    '  return html`<section class="card" aria-labelledby="one-title">\n'
    '    <div class="title-row"><h2 id="one-title">Delivery ${row.ID} to <${Text}>${row.Destination ?? row.Task}<//></h2><${State} of=${row.State} label=${LABELS[row.State]} /></div>\n'
    '    <div class="part">${row.State === "done" ? null : html`<${Problem} error=${row.Error} />`}</div>\n'
    '    <p><${StudyName} id=${row.Study} level=${row.Level} resource=${row.Resource} /></p>\n'
    '    <div class="part"><${Thumbnails} id=${row.Study} /></div>\n'
    '    <${Facts} of=${[\n'
    '      ["What", `${row.Level}${row.Instances === null ? ", all of it" : `, ${counted(row.Instances, "image", "images")}`}`],\n'
    '      ["Attempts", number(row.Attempts)],\n'
    '      ["Next attempt", row.NextAttempt && html`<${Time} at=${row.NextAttempt} /> (<${Time} at=${row.NextAttempt} relative=${true} />)`],\n'
    '      ["Added", html`<${Time} at=${row.Created} />`],\n'
    '      ["Last change", html`<${Time} at=${row.Updated} />`],\n'
    '      ["Orthanc\'s job", row.Job && html`<a href=${link("jobs", [row.Job])}><${Text}>${row.Job.slice(0, 8)}…<//></a>`],\n'
    '      ["In Orthanc Explorer", row.Study && html`<a href=${address(`/app/explorer.html#study?uuid=${row.Study}`)}>the study</a>`],\n'
    '    ]} />\n'
    '    <div class="part">${row.History.length\n'
    '      ? html`<h3>Failed attempts</h3><ol class="history">${row.History.map((each) => html`<li><${Time} at=${each.At} /> <${Text}>${each.Error}<//></li>`)}</ol>`\n'
    '      : null}</div>\n'
    '    <${Buttons} row=${row} script=${script} refresh=${both} small=${false} />\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    '/** Load a page: of all, or of the studies that a search has found, each with its newest deliveries. */\n'
    'async function load(script, query, signal) {\n'
    '  const range = { from: beginOf(query.from), to: beginOf(query.to, 1) };\n'
    '  const filters = { state: query.state, destination: query.destination, ...range, limit: PER_PAGE };\n'
    '  if (!query.study) {\n'
    '    return get(withQuery(routeOf(script), { ...filters, before: query.before ?? NEWEST }), signal);\n'
    '  }\n'
    '  const studies = await findStudies(query.study);\n'
    '  const pages = await Promise.all(studies.map((study) => get(withQuery(routeOf(script), { ...filters, study, before: NEWEST }), signal)));\n'
    '  const items = pages.flatMap((each) => each.Items).sort((one, other) => other.ID - one.ID);\n'
    '  return { Items: items, Total: pages.reduce((sum, each) => sum + each.Total, 0), Next: null, Studies: studies.length };\n'
    '}\n'
    '\n'
    'function View({ summary, place }) {\n'
    '  const there = SCRIPTS.filter((each) => summary.Scripts.some((one) => one.Name === each && one.State === "running"));\n'
    '  const used = there.filter((each) => summary.Destinations.some((one) => one.Script === each));\n'
    '  const [first, id] = place.parts;\n'
    '  const script = there.includes(first) ? first : used[0] ?? there[0];\n'
    '  const query = place.query;\n'
    '  const { data, error, refresh } = usePoll((signal) => (script ? load(script, query, signal) : Promise.resolve(null)), 4, `${script} ${JSON.stringify(query)}`);\n'
    '  if (!script) {\n'
    '    return html`<${Empty} title="The forwarders do not run">See <a href=${link("scripts")}>Scripts</a> for why.<//>`;\n'
    '  }\n'
    '  const names = [...new Set([...summary.Destinations.filter((each) => each.Script === script).map((each) => each.Name), query.destination].filter(Boolean))];\n'
    '  const at = (more) => link("deliveries", [script], { ...query, ...more });\n'
    '  const columns = [\n'
    '    { title: "Study", of: (row) => html`<a href=${link("deliveries", [script, row.ID], query)}><${StudyName} id=${row.Study} level=${row.Level} resource=${row.Resource} /></a>` },\n'
    '    { title: "To", of: (row) => html`<${Text}>${row.Destination ?? `(${row.Task})`}<//>` },\n'
    '    { title: "State", of: (row) => html`<${State} of=${row.State} label=${LABELS[row.State]} />${row.NextAttempt ? html`<small>again <${Time} at=${row.NextAttempt} relative=${true} /></small>` : null}` },\n'
    '    { title: "Last change", of: (row) => html`<${Time} at=${row.Updated} />` },\n'
    '    { title: "Error", kind: "long", of: (row) => (row.Error && row.State !== "done" ? html`<${Text}>${row.Error}<//><small>${counted(row.Attempts, "attempt", "attempts")}</small>` : html`<span class="quiet none">–</span>`) },\n'
    '    { title: "", kind: "acts", of: (row) => html`<${Buttons} row=${row} script=${script} refresh=${refresh} />` },\n'
    '  ];\n'
    '  return html`\n'
    '    <div class="part">${used.length > 1 ? html`<div class="choice" role="group" aria-label="Kind of destination">${used.map((each) => html`<a class="button" href=${link("deliveries", [each])} aria-current=${each === script ? "true" : undefined}>${TITLES[each]}</a>`)}</div>` : null}</div>\n'
    '    <${Filters} panel="deliveries" parts=${[script]} query=${query} fields=${[\n'
    '      { name: "state", title: "State", options: STATES },\n'
    '      { name: "destination", title: "Destination", options: [["", "any"], ...names.map((each) => [each, each])] },\n'
    '      { name: "study", title: "Patient or study", hint: "PatientID, accession number, UID" },\n'
    '      { name: "from", title: "Received from", type: "date" },\n'
    '      { name: "to", title: "Received until", type: "date" },\n'
    '    ]} />\n'
    '    <div class="part">${id ? html`<${One} key=${id} id=${id} script=${script} refresh=${refresh} />` : null}</div>\n'
    '    <div class="part"><${Problem} error=${error} /></div>\n'
    '    <div class="part">${!data ? (error ? null : html`<${Loading} what="deliveries" />`) : data.Items.length\n'
    '      ? html`<${Table} caption="Deliveries, newest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} current=${(row) => String(row.ID) === id} />\n'
    '          <${Pages} total=${data.Total} shown=${data.Items.length} what="deliveries" newer=${query.before ? at({ before: "" }) : null} older=${data.Next ? at({ before: data.Next }) : null} />`\n'
    '      : html`<${Empty} title=${Object.values(query).some(Boolean) ? "Nothing fits this" : "Nothing was sent yet"}>${query.study && data.Studies === 0 ? "No study here has this PatientID, accession number or UID." : "A delivery is there from the moment when a rule decides that a study is sent."}<//>`}</div>`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "deliveries",\n'
    '  title: "Deliveries",\n'
    '  scripts: SCRIPTS,\n'
    '  badge: (summary) => summary.Flow.Failed,\n'
    '  absent: {\n'
    '    title: "Nothing is forwarded here",\n'
    '    gives: "With a forwarder, this panel lists each study that was sent, waits, or failed: with its history, its pictures, and buttons to retry, drop and send again.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
PANEL_JOBS = (  # src/dashboard/page/panels/jobs.js
    "// Orthanc's own jobs: what runs, how far it is, what failed; pause, resume, cancel, run again.\n"
    '\n'
    'import { html, useContext } from "../vendor/preact.js";\n'
    'import { post } from "../lib/api.js";\n'
    'import { counted, duration, number } from "../lib/format.js";\n'
    'import { useRoute } from "../lib/poll.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { newestFirst } from "../lib/studies.js";\n'
    'import { ActButton, Empty, Facts, Loading, Problem, Progress, Shared, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const ORDER = ["Running", "Paused", "Retry", "Pending", "Failure", "Success"];\n'
    'const WORDS = { Running: "runs", Paused: "paused", Retry: "tries again", Pending: "waits", Failure: "failed", Success: "done" };\n'
    'const SHOWN = 100;\n'
    'const VERBS = {\n'
    '  pause: { title: "Pause", says: "It stops where it is, and goes on from there when somebody resumes it.", came: "is paused" },\n'
    '  resume: { title: "Resume", says: "It goes on from where it is.", came: "goes on" },\n'
    '  cancel: { title: "Cancel", says: "It ends. What it has done already stays done.", came: "is cancelled", danger: true },\n'
    '  resubmit: { title: "Run again", says: "It begins again from the start, with the same content.", came: "was submitted again" },\n'
    '};\n'
    'const MAY = { Running: ["pause", "cancel"], Pending: ["pause", "cancel"], Retry: ["cancel"], Paused: ["resume", "cancel"], Failure: ["resubmit"] };\n'
    '\n'
    'function Buttons({ job, refresh, small = true }) {\n'
    '  const { act } = useContext(Shared);\n'
    '  const ask = (verb) =>\n'
    '    act({\n'
    '      title: `${VERBS[verb].title} ${job.Type}?`,\n'
    '      says: `${VERBS[verb].says} (Job ${job.ID})`,\n'
    '      button: VERBS[verb].title === "Cancel" ? "Cancel the job" : VERBS[verb].title,\n'
    '      danger: VERBS[verb].danger,\n'
    '      done: refresh,\n'
    '      run: async () => {\n'
    '        await post(`/jobs/${encodeURIComponent(job.ID)}/${verb}`);\n'
    '        return `The job ${VERBS[verb].came}.`;\n'
    '      },\n'
    '    });\n'
    '  return html`<span class="buttons">${(MAY[job.State] ?? []).map((verb) => html`<${ActButton} key=${verb} small=${small} danger=${VERBS[verb].danger} label="${VERBS[verb].title} job ${job.ID}" onClick=${() => ask(verb)}>${VERBS[verb].title}<//>`)}</span>`;\n'
    '}\n'
    '\n'
    'const targetOf = ({ Content: content = {} }) => content.RemoteAet ?? content.Peer ?? content.Server ?? content.TargetAet ?? "";\n'
    '\n'
    'function One({ job, refresh }) {\n'
    '  const content = job.Content ?? {};\n'
    '  return html`<section class="card" aria-labelledby="one-title">\n'
    '    <div class="title-row"><h2 id="one-title"><${Text}>${job.Type}<//></h2><${State} of=${job.State} label=${WORDS[job.State]} /></div>\n'
    '    <div class="part">${job.State === "Failure" ? html`<${Problem} error=${[job.ErrorDescription, job.ErrorDetails].filter(Boolean).join(": ")} />` : null}</div>\n'
    '    <p><${Progress} value=${job.Progress} label="Progress of the job" /></p>\n'
    '    <${Facts} of=${[\n'
    '      ["To", targetOf(job) && html`<${Text}>${targetOf(job)}<//>`],\n'
    '      ["Description", content.Description && html`<${Text}>${content.Description}<//>`],\n'
    '      ["Images", content.InstancesCount !== undefined ? number(content.InstancesCount) : null],\n'
    '      ["Images that failed", content.FailedInstancesCount ? number(content.FailedInstancesCount) : null],\n'
    '      ["Priority", number(job.Priority)],\n'
    '      ["Submitted", html`<${Time} at=${job.CreationTime} />`],\n'
    '      ["Has run for", job.EffectiveRuntime !== undefined ? duration(job.EffectiveRuntime) : null],\n'
    '      ["Ends", job.EstimatedTimeOfArrival && html`<${Time} at=${job.EstimatedTimeOfArrival} />`],\n'
    '      ["Ended", job.CompletionTime && html`<${Time} at=${job.CompletionTime} />`],\n'
    '      ["Identifier", html`<${Text}>${job.ID}<//>`],\n'
    '    ]} />\n'
    '    <${Buttons} job=${job} refresh=${refresh} small=${false} />\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'function View({ place }) {\n'
    '  const { data, error, refresh } = useRoute("/jobs?expand", 2);\n'
    '  if (!data) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="jobs" />`;\n'
    '  }\n'
    '  const rank = (job) => ORDER.indexOf(job.State);\n'
    '  const every = [...data].sort((one, other) => rank(one) - rank(other) || newestFirst(one.CompletionTime ?? one.CreationTime, other.CompletionTime ?? other.CreationTime));\n'
    '  const chosen = every.find((job) => job.ID === place.parts[0]);\n'
    '  const columns = [\n'
    '    { title: "Job", of: (job) => html`<a href=${link("jobs", [job.ID])}><${Text}>${job.Type}<//></a>${targetOf(job) ? html`<small>to <${Text}>${targetOf(job)}<//></small>` : null}` },\n'
    '    { title: "State", of: (job) => html`<${State} of=${job.State} label=${WORDS[job.State]} />` },\n'
    '    { title: "Progress", of: (job) => html`<${Progress} value=${job.Progress} label="Progress of job ${job.ID}" />` },\n'
    '    { title: "Submitted", of: (job) => html`<${Time} at=${job.CreationTime} />` },\n'
    '    { title: "Error", kind: "long", of: (job) => (job.State === "Failure" ? html`<${Text}>${job.ErrorDetails || job.ErrorDescription}<//>` : html`<span class="quiet none">–</span>`) },\n'
    '    { title: "", kind: "acts", of: (job) => html`<${Buttons} job=${job} refresh=${refresh} />` },\n'
    '  ];\n'
    '  const unfinished = every.filter((job) => rank(job) < ORDER.indexOf("Failure")).length;\n'
    '  return html`<div class="part"><${Problem} error=${error} /></div>\n'
    '    <p class="quiet">${counted(unfinished, "job runs or waits", "jobs run or wait")}. Of those that ended, Orthanc remembers only the last ones (<code>JobsHistorySize</code>).</p>\n'
    '    <div class="part">${place.parts[0] && !chosen ? html`<p class="problem">Orthanc has forgotten this job: it ended a while ago.</p>` : null}</div>\n'
    '    <div class="part">${chosen ? html`<${One} job=${chosen} refresh=${refresh} />` : null}</div>\n'
    '    <div class="part">${every.length\n'
    '      ? html`<${Table} caption="Orthanc\'s jobs" columns=${columns} rows=${every.slice(0, SHOWN)} keyOf=${(job) => job.ID} current=${(job) => job === chosen} />\n'
    '          ${every.length > SHOWN ? html`<p class="quiet">The first ${number(SHOWN)} of ${number(every.length)} are shown.</p>` : null}`\n'
    '      : html`<${Empty} title="No jobs">Sending, moving and making archives are jobs: each shows up here with its progress.<//>`}</div>`;\n'
    '}\n'
    '\n'
    'export default { id: "jobs", title: "Jobs", view: View };\n'
)
PANEL_RETENTION = (  # src/dashboard/page/panels/retention.js
    '// What is kept and for how long: room left, rules, what the next run takes, what was deleted.\n'
    '\n'
    'import { html, useContext, useMemo, useState } from "../vendor/preact.js";\n'
    'import { get, post } from "../lib/api.js";\n'
    'import { bytes, counted, duration, number } from "../lib/format.js";\n'
    'import { useRoute } from "../lib/poll.js";\n'
    'import { day } from "../lib/studies.js";\n'
    'import { ActButton, Empty, Facts, Figure, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const DAY_SECONDS = 86_400;\n'
    'const LEAST_HOURS = 1; // of figures, to say how fast the archive grows\n'
    '\n'
    '/** Return by how many bytes a day the archive has grown, or null: not known yet. */\n'
    'function growth(day) {\n'
    '  const known = day.Bytes.findIndex((value) => value > 0);\n'
    '  const last = day.Minute.length - 1;\n'
    '  const minutes = known < 0 ? 0 : day.Minute[last] - day.Minute[known];\n'
    '  return minutes < LEAST_HOURS * 60 ? null : ((day.Bytes[last] - day.Bytes[known]) / minutes) * 60 * 24;\n'
    '}\n'
    '\n'
    'function Room({ server }) {\n'
    '  const { data } = useRoute("/dashboard/flow", 300);\n'
    '  const pace = useMemo(() => data && growth(data), [data]);\n'
    '  const left = pace > 0 && server.FreeBytes !== null ? (server.FreeBytes / pace) * DAY_SECONDS : null;\n'
    '  return html`<div class="figures">\n'
    '    <${Figure} title="Archive" value=${bytes(server.Bytes)} note="${counted(server.Studies, "study", "studies")}, ${counted(server.Instances, "image", "images")}" />\n'
    '    <div class="part">${server.FreeBytes !== null ? html`<${Figure} title="Room left" value=${bytes(server.FreeBytes)} kind=${server.FreeBytes / server.RoomBytes < 0.1 ? "bad" : ""} note="of ${bytes(server.RoomBytes)} (${Math.round((server.FreeBytes / server.RoomBytes) * 100)} %)" />` : null}</div>\n'
    '    <${Figure} title="Growth" value=${pace === null || pace === undefined ? "–" : `${pace < 0 ? "−" : ""}${bytes(Math.abs(pace))}`} unit=${pace === null || pace === undefined ? "" : "a day"} note=${pace === null || pace === undefined ? "known after an hour" : "at the pace of the last day"} />\n'
    '    <div class="part">${left !== null ? html`<${Figure} title="Full in" value=${duration(left)} kind=${left < 14 * DAY_SECONDS ? "warn" : ""} note="at this pace" />` : null}</div>\n'
    '  </div>`;\n'
    '}\n'
    '\n'
    '/** Numbers by name as bars. */\n'
    'function Bars({ title, of }) {\n'
    '  const rows = Object.entries(of);\n'
    '  const most = Math.max(1, ...rows.map(([, value]) => value));\n'
    '  return html`<div class="bars-of"><h3>${title}</h3><table class="bars"><tbody>\n'
    '    ${rows.map(([name, value]) => html`<tr key=${name}><th scope="row"><${Text}>${name}<//></th><td><meter min="0" max=${most} value=${value} aria-label="${number(value)} studies"></meter></td><td class="number">${number(value)}</td></tr>`)}\n'
    '  </tbody></table></div>`;\n'
    '}\n'
    '\n'
    'function Answer({ of: found }) {\n'
    '  return html`\n'
    '    <${Facts} of=${[\n'
    '      ["Studies", number(found.Studies)],\n'
    '      ["Size", bytes(found.Bytes)],\n'
    '      ["Dated until", found.Since && html`<${Text}>${day(found.Since)}<//>`],\n'
    '      ["Came in within 7 days", found.ReceivedWithin7Days ? number(found.ReceivedWithin7Days) : null],\n'
    '      ["Why", found.Why && html`<${Text}>${found.Why}<//>`],\n'
    '      ["Left out, for they are not delivered", found.Undelivered && html`<${Text}>${Object.entries(found.Undelivered).map(([why, count]) => `${count}: ${why}`).join("; ")}<//>`],\n'
    '    ]} />\n'
    '    <div class="part">${found.Refused ? html`<p class="problem">A guard refuses it: <${Text}>${found.Refused}<//></p>` : null}</div>\n'
    '    ${found.Studies ? html`<div class="two">${found.Years ? html`<${Bars} title="Studies by year" of=${found.Years} />` : null}${found.Modalities ? html`<${Bars} title="Studies by modality" of=${found.Modalities} />` : null}</div>` : null}`;\n'
    '}\n'
    '\n'
    '/** A dry run on demand: it reads the archive, so it is never made by itself. */\n'
    'function DryRun({ title, note, run }) {\n'
    '  const [state, setState] = useState({ busy: false, found: null, error: null });\n'
    '  async function start() {\n'
    '    setState({ busy: true, found: null, error: null });\n'
    '    try {\n'
    '      setState({ busy: false, found: await run(), error: null });\n'
    '    } catch (error) {\n'
    '      setState({ busy: false, found: null, error });\n'
    '    }\n'
    '  }\n'
    '  return html`<div>\n'
    '    <p class="buttons"><button type="button" disabled=${state.busy} onClick=${start}>${state.busy ? "Counting …" : title}</button> <span class="quiet">${note}</span></p>\n'
    '    <div aria-live="polite"><${Problem} error=${state.error} />${state.found ? html`<${Answer} of=${state.found} />` : null}</div>\n'
    '  </div>`;\n'
    '}\n'
    '\n'
    'const UNITS = { d: ["day", "days"], m: ["month", "months"], y: ["year", "years"] };\n'
    'const UNDATED = { received: "For one without a valid date, the day when it came in counts.", true: "Those without a valid date go too, whatever their age.", false: "Those without a valid date stay." };\n'
    '\n'
    '/** Return an age of a rule (`7y`) as `7 years`. */\n'
    'function age(text) {\n'
    '  const [, value, unit] = /^(\\d+)([dmy])$/.exec(text) ?? [];\n'
    '  return value ? counted(Number(value), ...UNITS[unit]) : text;\n'
    '}\n'
    '\n'
    'const list = (values, last) => (values.length < 2 ? values.join("") : `${values.slice(0, -1).join(", ")} ${last} ${values.at(-1)}`);\n'
    '\n'
    '/** Return the conditions of a rule that deletes, as sentences. */\n'
    'export function sentences(found) {\n'
    '  const by = found.WhenDiskAbove ? found.OldestBy : found.By;\n'
    '  const labels = { All: "with the label", Any: "with one of the labels", None: "without the label" }[found.LabelsConstraint];\n'
    '  const which = [\n'
    '    `${by === "received" ? "that last changed" : "dated"} ${age(found.OlderThan)} ago or earlier`,\n'
    '    ...Object.entries(found.Query ?? {}).map(([tag, value]) => `whose ${tag} is ${list(value.split("\\\\"), "or")}`),\n'
    '    found.Labels ? `${labels} ${list(found.Labels, found.LabelsConstraint === "All" ? "and" : "or")}` : "",\n'
    '    found.OnlyIfAt ? `that ${list(found.OnlyIfAt, "and")} can prove to have (DICOM nodes by ${found.Proof})` : "",\n'
    '  ].filter(Boolean);\n'
    '  const days = found.Days?.length === 7 ? "every day" : `on ${list(found.Days ?? [], "and")}`;\n'
    '  const when = found.WhenDiskAbove ? `while the disk is above ${found.WhenDiskAbove}, until it is down to ${found.DownTo}: the oldest first` : `${days} at ${found.At}`;\n'
    '  const most = found.WhenDiskAbove ? `At most ${counted(found.AtMost, "study", "studies")} each time.` : found.Limit ? `At most ${counted(found.Limit, "study", "studies")} a run, the oldest first.` : "";\n'
    '  return [`Deletes studies ${which.join(", ")}; ${when}.`, most, UNDATED[found.Undated] ?? ""].filter(Boolean).join(" ");\n'
    '}\n'
    '\n'
    'function Rule({ rule }) {\n'
    '  const last = rule.Last;\n'
    '  return html`<section class="card" aria-label="Rule ${rule.Name}">\n'
    '    <div class="title-row"><h2><${Text}>${rule.Name}<//></h2>${rule.Next ? html`<span class="quiet">next run <${Time} at=${rule.Next} /> (<${Time} at=${rule.Next} relative=${true} />)</span>` : null}</div>\n'
    '    ${rule.Conditions ? html`<p><${Text}>${sentences(rule.Conditions)}<//></p>` : null}\n'
    '    <p>${last ? html`Last run <${Time} at=${last.Time} />: <${State} of=${last.State} /> ${last.Deleted !== undefined ? `${counted(last.Deleted, "study", "studies")} deleted` : ""} <${Text}>${last.Reason ?? ""}<//>` : html`<span class="quiet">It has not run yet.</span>`}</p>\n'
    '    <${DryRun} title="What would it take now?" note="A dry run: nothing is deleted." run=${() => get(`/purge-old-studies/rules/${encodeURIComponent(rule.Name)}/dry-run`)} />\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'const Rules = ({ rules }) =>\n'
    '  rules.length\n'
    '    ? rules.map((rule) => html`<${Rule} key=${rule.Name} rule=${rule} />`)\n'
    '    : html`<${Empty} title="No rule deletes by itself">A rule in <code>PurgeOldStudies</code> deletes studies of an age at a time of day, or when the disk is full.<//>`;\n'
    '\n'
    'const today = () => new Date().toISOString().slice(0, 10).replaceAll("-", "");\n'
    '\n'
    'function Purges() {\n'
    '  const { act } = useContext(Shared);\n'
    '  const { data, error, refresh } = useRoute("/purge-old-studies/jobs?limit=1000", 5);\n'
    '  if (!data) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="purges" />`;\n'
    '  }\n'
    '  const rows = [...data.Items].reverse().slice(0, 20);\n'
    '  const cancel = (row) =>\n'
    '    act({\n'
    '      title: `Cancel purge ${row.ID}?`,\n'
    '      says: "It stops after what it is deleting at the moment. What is deleted stays deleted.",\n'
    '      button: "Cancel the purge",\n'
    '      danger: true,\n'
    '      done: refresh,\n'
    '      run: async () => {\n'
    '        await post(`/purge-old-studies/jobs/${row.ID}/cancel`);\n'
    '        return `Purge ${row.ID} is cancelled.`;\n'
    '      },\n'
    '    });\n'
    '  const columns = [\n'
    '    { title: "Purge", of: (row) => html`${row.ID}<small><${Text}>${row.Rule ? `rule ${row.Rule}` : row.User ? `by ${row.User}` : "asked for"}<//></small>` },\n'
    '    { title: "State", of: (row) => html`<${State} of=${row.State} />` },\n'
    '    { title: "Begun", of: (row) => html`<${Time} at=${row.Created} />` },\n'
    '    { title: "Deleted", kind: "number", of: (row) => number(row.Deleted) },\n'
    '    { title: "Kept", kind: "number", of: (row) => number(row.Kept) },\n'
    '    { title: "Failed", kind: "number", of: (row) => (row.Failed ? html`<strong class="bad">${number(row.Failed)}</strong>` : "0") },\n'
    '    { title: "", kind: "acts", of: (row) => (row.State === "running" ? html`<${ActButton} small=${true} danger=${true} label="Cancel purge ${row.ID}" onClick=${() => cancel(row)}>Cancel<//>` : null) },\n'
    '  ];\n'
    '  return rows.length ? html`<${Table} caption="Purges, newest first" columns=${columns} rows=${rows} keyOf=${(row) => row.ID} />` : html`<${Empty} title="Nothing was purged yet" />`;\n'
    '}\n'
    '\n'
    'function Clock({ clock, refresh }) {\n'
    '  const { act } = useContext(Shared);\n'
    '  if (!clock || clock.State === "right") {\n'
    '    return null;\n'
    '  }\n'
    '  const confirm = () =>\n'
    '    act({\n'
    '      title: "Is the server\'s clock right?",\n'
    '      says: `It shows ${clock.Now}; ${clock.Expected} was expected. If you confirm it, rules delete by this clock again. If it is wrong, set it right instead.`,\n'
    '      button: "The clock is right",\n'
    '      danger: true,\n'
    '      done: refresh,\n'
    '      run: async () => {\n'
    '        await post("/purge-old-studies/confirm-clock");\n'
    '        return "The clock is confirmed.";\n'
    '      },\n'
    '    });\n'
    '  return html`<div class="problem" role="alert"><${Text}>${clock.Message}<//> <${ActButton} small=${true} onClick=${confirm}>Confirm the clock<//></div>`;\n'
    '}\n'
    '\n'
    '/** What a POST counts: for who may act only, though it deletes nothing. */\n'
    'function Holds() {\n'
    '  const { mayAct } = useContext(Shared);\n'
    '  return mayAct\n'
    '    ? html`<section aria-labelledby="by-year"><h2 id="by-year">What the archive holds</h2>\n'
    '        <${DryRun} title="Count by year and modality" note="It reads the whole archive once: of 5,000 studies in about a second. Nothing is deleted." run=${() => post("/purge-old-studies", { since: today(), undated: true, "dry-run": true, force: true, format: "json" })} />\n'
    '      </section>`\n'
    '    : null;\n'
    '}\n'
    '\n'
    'function View({ summary }) {\n'
    '  const { data: status, error, refresh } = useRoute("/purge-old-studies/status", 5);\n'
    '  return html`\n'
    '    <${Room} server=${summary.Server} />\n'
    '    <div class="part"><${Problem} error=${error} /></div>\n'
    '    <div class="part">${status ? html`<${Clock} clock=${status.Clock} refresh=${refresh} />` : null}</div>\n'
    '    <div class="part">${status ? html`<${Rules} rules=${status.Rules} />` : error ? null : html`<${Loading} what="rules" />`}</div>\n'
    '    <div class="part"><${Holds} /></div>\n'
    '    <section class="plain" aria-labelledby="purges-title"><h2 id="purges-title">Purges</h2><${Purges} /></section>`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "retention",\n'
    '  title: "Retention",\n'
    '  scripts: ["purge_old_studies"],\n'
    '  absent: {\n'
    '    title: "Nothing is deleted by age here",\n'
    '    gives: "With purge_old_studies, this panel shows how much room is left, which rules delete what and when, what the next run would take, and what was deleted.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
PANEL_DESTINATIONS = (  # src/dashboard/page/panels/destinations.js
    '// Where studies are sent: up or away since when, what waits, what went wrong; pause, resume, retry all.\n'
    '\n'
    'import { html, useContext } from "../vendor/preact.js";\n'
    'import { post } from "../lib/api.js";\n'
    'import { counted, number } from "../lib/format.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { ActButton, Empty, Facts, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const SCRIPTS = ["auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb"];\n'
    'const KIND = { auto_forward_modality: "DICOM node", auto_forward_peer: "Orthanc peer", auto_forward_dicomweb: "DICOMweb server" };\n'
    '\n'
    'function usePauses() {\n'
    '  const { act } = useContext(Shared);\n'
    '  const path = (each, verb) => `${each.Route}/destinations/${encodeURIComponent(each.Name)}/${verb}`;\n'
    '  return {\n'
    '    pause: (each) =>\n'
    '      act({\n'
    '        title: `Pause ${each.Name}?`,\n'
    '        says: `Nothing more is sent to ${each.Name} until somebody resumes it, also after a restart. What arrives meanwhile waits. What is being sent now goes on.`,\n'
    '        button: "Pause",\n'
    '        run: async () => {\n'
    '          await post(path(each, "pause"));\n'
    '          return `${each.Name} is paused.`;\n'
    '        },\n'
    '      }),\n'
    '    resume: (each) =>\n'
    '      act({\n'
    '        title: `Resume ${each.Name}?`,\n'
    '        says: `${counted(each.Totals.waiting ?? 0, "delivery", "deliveries")} to ${each.Name} can be sent again, the oldest first.`,\n'
    '        button: "Resume",\n'
    '        run: async () => {\n'
    '          await post(path(each, "resume"));\n'
    '          return `${each.Name} is resumed.`;\n'
    '        },\n'
    '      }),\n'
    '    retry: (each) =>\n'
    '      act({\n'
    '        title: `Retry all that failed to ${each.Name}?`,\n'
    '        says: `${counted(each.Totals.dead, "delivery that was given up is", "deliveries that were given up are")} tried again now, with the whole time until they are given up.`,\n'
    '        button: "Retry all",\n'
    '        run: async () => {\n'
    '          const { Retried: retried } = await post(`${each.Route}/deliveries/retry`, { Destination: each.Name });\n'
    '          return `${counted(retried, "delivery waits", "deliveries wait")} to be sent to ${each.Name} again.`;\n'
    '        },\n'
    '      }),\n'
    '  };\n'
    '}\n'
    '\n'
    'function Buttons({ of: each, small = true }) {\n'
    '  const { pause, resume, retry } = usePauses();\n'
    '  return html`<span class="buttons">\n'
    '    <div class="part">${each.Totals.dead ? html`<${ActButton} small=${small} onClick=${() => retry(each)} label="Retry all that failed to ${each.Name}">Retry all<//>` : null}</div>\n'
    '    ${each.State === "paused"\n'
    '      ? html`<${ActButton} small=${small} onClick=${() => resume(each)} label="Resume ${each.Name}">Resume<//>`\n'
    '      : html`<${ActButton} small=${small} onClick=${() => pause(each)} label="Pause ${each.Name}">Pause<//>`}\n'
    '  </span>`;\n'
    '}\n'
    '\n'
    'const rateOf = (each) => (each.LastMinute ? counted(each.LastMinute, "delivery", "deliveries") : "none");\n'
    '\n'
    'function One({ each }) {\n'
    '  return html`<section class="card" aria-labelledby="one-title">\n'
    '    <div class="title-row"><h2 id="one-title"><${Text}>${each.Name}<//></h2><${State} of=${each.State} /></div>\n'
    '    <div class="part"><${Problem} error=${each.Error} /></div>\n'
    '    <${Facts} of=${[\n'
    '      ["Kind", KIND[each.Script] ?? each.Script],\n'
    '      ["Since", each.Since && html`<${Time} at=${each.Since} /> (<${Time} at=${each.Since} relative=${true} />)`],\n'
    '      ["Waiting", each.Totals.waiting ? html`<a href=${link("deliveries", [each.Script], { state: "waiting", destination: each.Name })}>${number(each.Totals.waiting)}</a>` : "0"],\n'
    '      ["Being sent", number(each.Totals.sending)],\n'
    '      ["Failed for good", each.Totals.dead ? html`<a href=${link("deliveries", [each.Script], { state: "dead", destination: each.Name })}>${number(each.Totals.dead)}</a>` : "0"],\n'
    '      ["Delivered", number(each.Totals.done)],\n'
    '      ["Delivered in the last minute", rateOf(each)],\n'
    '      ["Slow", each.Slow && html`<${Text}>${typeof each.Slow === "string" ? each.Slow : JSON.stringify(each.Slow)}<//>`],\n'
    '    ]} />\n'
    '    <${Buttons} of=${each} small=${false} />\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'function View({ summary, place }) {\n'
    '  const every = summary.Destinations;\n'
    '  if (!every.length) {\n'
    '    return html`<${Empty} title="No destination yet">Name one in <code>DicomModalities</code>, <code>OrthancPeers</code> or <code>DicomWeb</code> of Orthanc\'s configuration: what is sent there, and whether it arrives, shows up here.<//>`;\n'
    '  }\n'
    '  const [script, name] = place.parts;\n'
    '  const chosen = every.find((each) => each.Script === script && each.Name === name);\n'
    '  const columns = [\n'
    '    { title: "Destination", of: (each) => html`<a href=${link("destinations", [each.Script, each.Name])}><${Text}>${each.Name}<//></a><small>${KIND[each.Script] ?? each.Script}</small>` },\n'
    '    { title: "State", of: (each) => html`<${State} of=${each.State} />${each.Since ? html`<small>since <${Time} at=${each.Since} /></small>` : null}` },\n'
    '    { title: "Waiting", kind: "number", of: (each) => number((each.Totals.waiting ?? 0) + (each.Totals.sending ?? 0)) },\n'
    '    { title: "Failed", kind: "number", of: (each) => (each.Totals.dead ? html`<a class="bad" href=${link("deliveries", [each.Script], { state: "dead", destination: each.Name })}>${number(each.Totals.dead)}</a>` : "0") },\n'
    '    { title: "Last minute", kind: "number", of: (each) => number(each.LastMinute) },\n'
    '    { title: "Last error", kind: "long", of: (each) => (each.Error ? html`<${Text}>${each.Error}<//>` : html`<span class="quiet none">–</span>`) },\n'
    '    { title: "", kind: "acts", of: (each) => html`<${Buttons} of=${each} />` },\n'
    '  ];\n'
    '  return html`<div class="part">${script && !chosen ? html`<p class="problem">There is no destination <${Text}>${name ?? script}<//>.</p>` : null}</div>\n'
    '    <div class="part">${chosen ? html`<${One} each=${chosen} />` : null}</div>\n'
    '    <${Table} caption="Destinations" columns=${columns} rows=${every} keyOf=${(each) => `${each.Script}/${each.Name}`} current=${(each) => each === chosen} />`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "destinations",\n'
    '  title: "Destinations",\n'
    '  scripts: SCRIPTS,\n'
    '  badge: (summary) => summary.Destinations.filter((each) => each.State === "away" || each.State === "misconfigured" || each.Totals.dead).length,\n'
    '  absent: {\n'
    '    title: "Nothing is forwarded here",\n'
    '    gives: "A forwarder sends each study on by rules, writes down what waits, and tries again until it arrives. This panel then shows each destination: up or away, what waits, what failed, with pause, resume and retry.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
PANEL_SCRIPTS = (  # src/dashboard/page/panels/scripts.js
    '// The scripts of this Orthanc: whether each runs, in which version, and what Orthanc has called it for.\n'
    '\n'
    'import { html } from "../vendor/preact.js";\n'
    'import { address } from "../lib/api.js";\n'
    'import { counted, number } from "../lib/format.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { Facts, Problem, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const stateOf = (each) => (each.State === "running" && each.Reason ? "waiting" : each.State);\n'
    'const wordOf = (each) => (each.State === "running" && each.Reason ? "runs, with trouble" : each.State);\n'
    '\n'
    'function One({ each }) {\n'
    '  const calls = each.Callbacks;\n'
    '  return html`<section class="card" aria-labelledby="one-title">\n'
    '    <div class="title-row"><h2 id="one-title"><${Text}>${each.Name}<//></h2><${State} of=${stateOf(each)} label=${wordOf(each)} /></div>\n'
    '    <div class="part">${each.Healthy ? (each.Reason ? html`<p class="quiet"><${Text}>${each.Reason}<//></p>` : null) : html`<${Problem} error=${each.Reason} />`}</div>\n'
    '    <${Facts} of=${[\n'
    '      ["Version", each.Version && html`<${Text}>${each.Version}<//>`],\n'
    '      ["Since", each.Since && html`<${Time} at=${each.Since} />`],\n'
    '      ["Calls by Orthanc", calls && number(calls.Calls)],\n'
    '      ["Time in them", calls && `${number(calls.Seconds)} s`],\n'
    '      ["Errors in them", calls && number(calls.Errors)],\n'
    '      ["Last error", each.LastError && html`<${Text}>${each.LastError.Text}<//> (<${Time} at=${each.LastError.Time} />)`],\n'
    '      ...Object.entries(each.Totals).map(([name, value]) => [html`<${Text}>${name}<//>`, number(value)]),\n'
    '    ]} />\n'
    '    ${each.Status ? html`<p><a href=${address(each.Status)}>Its status as JSON</a>${each.Routes ? html` · <a href=${address(each.Routes)}>Its routes</a>` : null}</p>` : null}\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'function View({ summary, place }) {\n'
    '  const every = summary.Scripts;\n'
    '  const chosen = every.find((each) => each.Name === place.parts[0]);\n'
    '  const counts = every.some((each) => each.Callbacks);\n'
    '  const columns = [\n'
    '    { title: "Script", of: (each) => html`<a href=${link("scripts", [each.Name])}><${Text}>${each.Name}<//></a>` },\n'
    '    { title: "State", of: (each) => html`<${State} of=${stateOf(each)} label=${wordOf(each)} />${each.Since ? html`<small>since <${Time} at=${each.Since} /></small>` : null}` },\n'
    '    { title: "Version", of: (each) => (each.Version ? html`<${Text}>${each.Version}<//>` : html`<span class="quiet none">–</span>`) },\n'
    '    ...(counts\n'
    '      ? [\n'
    '          { title: "Calls", kind: "number", of: (each) => number(each.Callbacks?.Calls) },\n'
    '          { title: "Mean time", kind: "number", of: (each) => (each.Callbacks?.Calls ? `${((each.Callbacks.Seconds / each.Callbacks.Calls) * 1000).toFixed(2)} ms` : "–") },\n'
    '          { title: "Errors", kind: "number", of: (each) => number(each.Callbacks?.Errors) },\n'
    '        ]\n'
    '      : []),\n'
    '    { title: "What it says", kind: "long", of: (each) => (each.Reason ? html`<${Text}>${each.Reason}<//>` : html`<span class="quiet none">–</span>`) },\n'
    '  ];\n'
    '  const well = every.filter((each) => each.Healthy).length;\n'
    '  return html`<p class="quiet">${counted(every.length, "script", "scripts")}, ${well === every.length ? "all well" : `${number(well)} of them well`}.</p>\n'
    '    <div class="part">${chosen ? html`<${One} each=${chosen} />` : null}</div>\n'
    '    <${Table} caption="Scripts" columns=${columns} rows=${every} keyOf=${(each) => each.Name} current=${(each) => each === chosen} />`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "scripts",\n'
    '  title: "Scripts",\n'
    '  badge: (summary) => summary.Scripts.filter((each) => !each.Healthy).length,\n'
    '  view: View,\n'
    '};\n'
)
PANEL_EVENTS = (  # src/dashboard/page/panels/events.js
    '// What other software is told: the backlog of each broker, dead letters with their text, retry, and replay.\n'
    '\n'
    'import { html, useContext, useState } from "../vendor/preact.js";\n'
    'import { drop, post, withQuery } from "../lib/api.js";\n'
    'import { bytes, counted, duration, number } from "../lib/format.js";\n'
    'import { useRoute } from "../lib/poll.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { ActButton, Empty, Facts, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const LETTERS = "/dicom-events/dead-letters";\n'
    'const PER_PAGE = 25;\n'
    'const KINDS = { connected: "up" };\n'
    '\n'
    'function useLetterActs(refresh) {\n'
    '  const { act } = useContext(Shared);\n'
    '  return {\n'
    '    retry: (letter) =>\n'
    '      act({\n'
    '        title: `Retry dead letter ${letter.ID}?`,\n'
    '        says: `The event is published to ${letter.Broker} again now. If the broker refuses it again, it comes back here.`,\n'
    '        button: "Retry",\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          await post(`${LETTERS}/${letter.ID}/retry`);\n'
    '          return `Dead letter ${letter.ID} is being published to ${letter.Broker}.`;\n'
    '        },\n'
    '      }),\n'
    '    forget: (letter) =>\n'
    '      act({\n'
    '        title: `Drop dead letter ${letter.ID}?`,\n'
    '        says: `${letter.Broker} never gets this event. Nothing is deleted from the archive.`,\n'
    '        button: "Drop",\n'
    '        danger: true,\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          await drop(`${LETTERS}/${letter.ID}`);\n'
    '          return `Dead letter ${letter.ID} is dropped.`;\n'
    '        },\n'
    '      }),\n'
    '    retryAll: (name, count) =>\n'
    '      act({\n'
    '        title: `Retry all dead letters of ${name}?`,\n'
    '        says: `${counted(count, "event is", "events are")} published to ${name} again now.`,\n'
    '        button: "Retry all",\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          const { Retried: retried } = await post(`${LETTERS}/retry`, { Broker: name });\n'
    '          return `${counted(retried, "event is", "events are")} being published to ${name}.`;\n'
    '        },\n'
    '      }),\n'
    '    dropBroker: (name, broker) =>\n'
    '      act({\n'
    '        title: `Drop what waits for ${name}?`,\n'
    '        says: `${name} is not configured any more. ${counted(broker.Backlog, "event that waits", "events that wait")} and ${counted(broker.DeadLetters, "dead letter", "dead letters")} are dropped.`,\n'
    '        button: "Drop",\n'
    '        danger: true,\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          await drop(`/dicom-events/brokers/${encodeURIComponent(name)}`);\n'
    '          return `What waited for ${name} is dropped.`;\n'
    '        },\n'
    '      }),\n'
    '  };\n'
    '}\n'
    '\n'
    'function One({ id, refresh }) {\n'
    '  const { data: letter, error } = useRoute(`${LETTERS}/${encodeURIComponent(id)}`, 10);\n'
    '  const { retry, forget } = useLetterActs(refresh);\n'
    '  if (!letter) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="the dead letter" />`;\n'
    '  }\n'
    '  return html`<section class="card" aria-labelledby="one-title">\n'
    '    <div class="title-row"><h2 id="one-title">Dead letter ${letter.ID} of <${Text}>${letter.Broker}<//></h2><${State} of="dead" /></div>\n'
    '    <${Problem} error=${letter.Error} />\n'
    '    <${Facts} of=${[\n'
    '      ["Event", html`<${Text}>${letter.Type}<//>`],\n'
    '      ["About", html`<${Text}>${letter.Subject}<//>`],\n'
    '      ["Happened", html`<${Time} at=${letter.Time} />`],\n'
    '      ["Refused", html`<${Time} at=${letter.Since} /> (<${Time} at=${letter.Since} relative=${true} />)`],\n'
    '      ["Attempts", number(letter.Attempts)],\n'
    '      ["Identifier", html`<${Text}>${letter.Event}<//>`],\n'
    '    ]} />\n'
    '    ${letter.Data ? html`<details><summary>What it says</summary><pre tabindex="0">${JSON.stringify(letter.Data, null, 2).split("\\n").map((line) => html`<${Text}>${line}<//>${"\\n"}`)}</pre></details>` : null}\n'
    '    <span class="buttons">\n'
    '      <${ActButton} label="Retry dead letter ${letter.ID}" onClick=${() => retry(letter)}>Retry<//>\n'
    '      <${ActButton} danger=${true} label="Drop dead letter ${letter.ID}" onClick=${() => forget(letter)}>Drop<//>\n'
    '    </span>\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'function Brokers({ brokers, refresh }) {\n'
    '  const { retryAll, dropBroker } = useLetterActs(refresh);\n'
    '  const columns = [\n'
    '    { title: "Broker", of: ([name, each]) => html`<${Text}>${name}<//><small>${each.Type}</small>` },\n'
    '    { title: "State", of: ([, each]) => html`<${State} of=${KINDS[each.State] ?? each.State} label=${each.State} />` },\n'
    '    { title: "Waiting", kind: "number", of: ([, each]) => html`${number(each.Backlog)}${each.OldestSeconds ? html`<small>oldest ${duration(each.OldestSeconds)}</small>` : null}` },\n'
    '    { title: "Failed", kind: "number", of: ([name, each]) => (each.DeadLetters ? html`<a class="bad" href=${link("events", [], { broker: name })}>${number(each.DeadLetters)}</a>` : "0") },\n'
    '    { title: "Published", kind: "number", of: ([, each]) => html`${number(each.Published)}${each.Returned ? html`<small>${number(each.Returned)} for nobody</small>` : null}` },\n'
    '    { title: "Last error", kind: "long", of: ([, each]) => (each.LastError ? html`<${Text}>${each.LastError}<//>` : html`<span class="quiet none">–</span>`) },\n'
    '    {\n'
    '      title: "",\n'
    '      kind: "acts",\n'
    '      of: ([name, each]) => html`<span class="buttons">\n'
    '        <div class="part">${each.DeadLetters && each.State !== "orphaned" ? html`<${ActButton} small=${true} label="Retry all dead letters of ${name}" onClick=${() => retryAll(name, each.DeadLetters)}>Retry all<//>` : null}</div>\n'
    '        ${each.State === "orphaned" ? html`<${ActButton} small=${true} danger=${true} label="Drop what waits for ${name}" onClick=${() => dropBroker(name, each)}>Drop<//>` : null}\n'
    '      </span>`,\n'
    '    },\n'
    '  ];\n'
    '  return html`<${Table} caption="Brokers" columns=${columns} rows=${Object.entries(brokers)} keyOf=${([name]) => name} />`;\n'
    '}\n'
    '\n'
    'function Letters({ place, data, error, refresh }) {\n'
    '  const { retry } = useLetterActs(refresh);\n'
    '  const { broker, since } = place.query;\n'
    '  if (!data) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="dead letters" />`;\n'
    '  }\n'
    '  const columns = [\n'
    '    { title: "Event", of: (letter) => html`<a href=${link("events", [letter.ID], place.query)}><${Text}>${letter.Type}<//></a><small><${Text}>${letter.Subject}<//></small>` },\n'
    '    { title: "Broker", of: (letter) => html`<${Text}>${letter.Broker}<//>` },\n'
    '    { title: "Refused", of: (letter) => html`<${Time} at=${letter.Since} />` },\n'
    '    { title: "Error", kind: "long", of: (letter) => html`<${Text}>${letter.Error}<//><small>${counted(letter.Attempts, "attempt", "attempts")}</small>` },\n'
    '    { title: "", kind: "acts", of: (letter) => html`<${ActButton} small=${true} label="Retry dead letter ${letter.ID}" onClick=${() => retry(letter)}>Retry<//>` },\n'
    '  ];\n'
    '  return html`<div class="part">${data.Items.length\n'
    '      ? html`<${Table} caption="Dead letters, oldest first" columns=${columns} rows=${data.Items} keyOf=${(letter) => letter.ID} current=${(letter) => String(letter.ID) === place.parts[0]} />`\n'
    '      : html`<${Empty} title="No dead letter">An event that a broker refuses for good shows up here: you can retry or drop it.<//>`}</div>\n'
    '    <nav class="pages" aria-label="Pages"><span class="quiet">${number(data.Items.length)} of ${number(data.Total)} dead letters${broker ? html` of <${Text}>${broker}<//>` : null}</span>\n'
    '      ${broker || since ? html`<a class="button" href=${link("events")}>All</a>` : null}\n'
    '      ${data.Next ? html`<a class="button" href=${link("events", [], { broker, since: data.Next })}>Next</a>` : null}\n'
    '    </nav>`;\n'
    '}\n'
    '\n'
    'function Replay() {\n'
    '  const { act, mayAct } = useContext(Shared);\n'
    '  const [error, setError] = useState(null);\n'
    '  function submit(event) {\n'
    '    event.preventDefault();\n'
    '    const given = Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, String(value).trim()]).filter(([, value]) => value));\n'
    '    const isRange = given.From && given.To && !given.Study;\n'
    '    if (!isRange && !(given.Study && !given.From && !given.To)) {\n'
    '      setError(new Error("Give either a study, or both days."));\n'
    '      return;\n'
    '    }\n'
    '    setError(null);\n'
    '    act({\n'
    '      title: "Publish again?",\n'
    '      says: given.Study\n'
    '        ? `All events of the study ${given.Study} are published to all brokers again, from what Orthanc has of it now.`\n'
    '        : `The events of all studies that changed from ${given.From} up to, and not on, ${given.To} (UTC) are published to all brokers again. Who gets an event a second time knows it by its identifier.`,\n'
    '      button: "Publish again",\n'
    '      run: async () => {\n'
    '        const { Studies: studies } = await post("/dicom-events/replay", given);\n'
    '        return `${counted(studies, "study is", "studies are")} being published again.`;\n'
    '      },\n'
    '    });\n'
    '  }\n'
    '  return mayAct\n'
    '    ? html`<section aria-labelledby="replay-title"><h2 id="replay-title">Publish again</h2>\n'
    '        <form class="filters" onSubmit=${submit}>\n'
    '          <label><span>Study</span><input name="Study" type="search" placeholder="identifier or StudyInstanceUID" autocomplete="off" spellcheck=${false} /></label>\n'
    '          <label><span>or changed from</span><input name="From" type="date" /></label>\n'
    '          <label><span>to, not included</span><input name="To" type="date" /></label>\n'
    '          <button type="submit">Publish again …</button>\n'
    '        </form>\n'
    '        <${Problem} error=${error} />\n'
    '      </section>`\n'
    '    : null;\n'
    '}\n'
    '\n'
    'function View({ place }) {\n'
    '  const { data: status, error, refresh } = useRoute("/dicom-events/status", 4);\n'
    '  const { broker, since } = place.query;\n'
    '  const letters = useRoute(withQuery(LETTERS, { broker, since, limit: PER_PAGE }), 5);\n'
    '  const both = () => {\n'
    '    refresh();\n'
    '    letters.refresh();\n'
    '  };\n'
    '  const box = status?.Outbox ?? {};\n'
    '  return html`<div class="part"><${Problem} error=${error} /></div>\n'
    '    <div class="part">${place.parts[0] ? html`<${One} key=${place.parts[0]} id=${place.parts[0]} refresh=${both} />` : null}</div>\n'
    '    <div class="part">${status ? html`<${Brokers} brokers=${status.Brokers} refresh=${both} />` : error ? null : html`<${Loading} what="brokers" />`}</div>\n'
    '    <div class="part">${box.Bytes === undefined ? null : html`<p class="quiet">The outbox on disk has ${bytes(box.Bytes)}.</p>`}</div>\n'
    '    <section class="plain" aria-labelledby="letters-title"><h2 id="letters-title">Dead letters</h2>\n'
    '      <${Letters} place=${place} data=${letters.data} error=${letters.error} refresh=${both} /></section>\n'
    '    <${Replay} />`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "events",\n'
    '  title: "Events",\n'
    '  scripts: ["dicom_events"],\n'
    '  badge: (summary) => summary.Alerts.filter((each) => each.Panel === "events").length,\n'
    '  absent: {\n'
    '    title: "Nothing is published here",\n'
    '    gives: "dicom_events tells other software what happens here: by RabbitMQ, Kafka, NATS, SNS, a webhook or a file. This panel then shows what waits for each broker, what one refused and why, with retry and replay.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
PANEL_RULES = (  # src/dashboard/page/panels/rules.js
    '// What the rules of the forwarders say in words, and what they would do with a study, and why.\n'
    '\n'
    'import { html, useContext, useState } from "../vendor/preact.js";\n'
    'import { post } from "../lib/api.js";\n'
    'import { counted } from "../lib/format.js";\n'
    'import { useRoute } from "../lib/poll.js";\n'
    'import { go, link } from "../lib/router.js";\n'
    'import { findStudies, StudyName } from "../lib/studies.js";\n'
    'import { Empty, Loading, Problem, Shared, Table, Text } from "../lib/ui.js";\n'
    '\n'
    'const SCRIPTS = ["auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb"];\n'
    'const TITLES = { auto_forward_modality: "To DICOM nodes", auto_forward_peer: "To Orthanc peers", auto_forward_dicomweb: "To DICOMweb servers" };\n'
    'const PLURAL = { Patient: "patients", Study: "studies", Series: "series", Instance: "images" };\n'
    'const ORIGINS = { remote_aet: "AE title", called_aet: "called AE title", remote_ip: "address", user: "user", method: "way in" };\n'
    'const IN_WORDS = new Set(["Name", "Level", "Destinations", "Query", "Origin", "SOPClasses", "TransferSyntaxes", "Matcher", "Modify", "Priority"]);\n'
    '\n'
    'const routeOf = (script) => `/${script.replaceAll("_", "-")}`;\n'
    'const isEmpty = (value) => value === null || value === undefined || value === "" || (typeof value === "object" && !Object.keys(value).length);\n'
    '\n'
    '/** Return values as `CT or MR`. */\n'
    'const either = (values) => [values].flat().join(" or ");\n'
    '\n'
    '/** Return the conditions of a rule, each as a part of a sentence. */\n'
    'export function conditions(rule) {\n'
    '  const query = Object.entries(rule.Query ?? {}).map(([tag, value]) => `whose ${tag} is ${either(String(value).split("\\\\"))}`);\n'
    '  const origin = Object.entries(rule.Origin ?? {}).map(([key, values]) => `that came from the ${ORIGINS[key] ?? key} ${either(values)}`);\n'
    '  const more = [\n'
    '    rule.SOPClasses?.length ? `of the SOP class ${either(rule.SOPClasses)}` : "",\n'
    '    rule.TransferSyntaxes?.length ? `in the transfer syntax ${either(rule.TransferSyntaxes)}` : "",\n'
    '    rule.Matcher ? `that ${rule.Matcher} chooses` : "",\n'
    '  ];\n'
    '  return [...query, ...origin, ...more].filter(Boolean);\n'
    '}\n'
    '\n'
    '/** Return a rule as a sentence. */\n'
    'export function sentence(rule) {\n'
    '  const what = PLURAL[rule.Level] ?? rule.Level;\n'
    '  const which = conditions(rule);\n'
    '  const where = rule.Destinations === null ? (rule.Matcher ? "where it says" : "to every destination of the section") : rule.Destinations.length ? `to ${rule.Destinations.join(" and ")}` : "nowhere";\n'
    '  return `${which.length ? `${what[0].toUpperCase()}${what.slice(1)} ${which.join(", ")}` : `All ${what}`} go ${where}${isEmpty(rule.Modify) ? "" : ", changed on the way"}.`;\n'
    '}\n'
    '\n'
    'function Rules({ script }) {\n'
    '  const { data, error } = useRoute(`${routeOf(script)}/rules`, 30);\n'
    '  if (!data) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="rules" />`;\n'
    '  }\n'
    '  return html`<p class="quiet">${data.RuleMode === "first" ? "The first rule that fits decides." : "Every rule that fits counts."}</p>\n'
    '    ${data.Rules.length\n'
    '      ? html`<ol class="rules">${data.Rules.map((rule) => html`<li>\n'
    '          <strong><${Text}>${rule.Name}<//></strong>: <${Text}>${sentence(rule)}<//>\n'
    '          ${rule.Priority ? html` <span class="quiet">Priority ${rule.Priority}.</span>` : null}\n'
    '          ${Object.entries(rule).filter(([key, value]) => !IN_WORDS.has(key) && !isEmpty(value)).map(([key, value]) => html`<small><${Text}>${key}: ${JSON.stringify(value)}<//></small>`)}\n'
    '          ${isEmpty(rule.Modify) ? null : html`<details><summary>What is changed on the way</summary><pre tabindex="0"><${Text}>${JSON.stringify(rule.Modify)}<//></pre></details>`}\n'
    '        </li>`)}</ol>`\n'
    '      : html`<${Empty} title="No rule">Nothing is sent by itself.<//>`}`;\n'
    '}\n'
    '\n'
    'function Verdicts({ script, found }) {\n'
    '  const goes = (rule) => Object.entries(rule.Destinations);\n'
    '  const columns = [\n'
    '    { title: "Rule", of: (rule) => html`<${Text}>${rule.Name}<//>` },\n'
    '    { title: "Would send", of: (rule) => (goes(rule).length ? goes(rule).map(([name, count]) => html`<div>${counted(count, "image", "images")} to <${Text}>${name}<//></div>`) : html`<span class="quiet">nothing</span>`) },\n'
    '    { title: "Why", kind: "long", of: (rule) => html`<${Text}>${rule.Why || "it fits"}<//>${rule.Modify ? html`<small><${Text}>changed: ${JSON.stringify(rule.Modify.Replace ?? rule.Modify)}<//></small>` : null}` },\n'
    '  ];\n'
    '  return html`<h3>${TITLES[script]}</h3><${Table} caption="What the rules would do: ${TITLES[script]}" columns=${columns} rows=${found.Rules} keyOf=${(rule) => rule.Name} />`;\n'
    '}\n'
    '\n'
    'function Try({ scripts, place }) {\n'
    '  const { mayAct } = useContext(Shared);\n'
    '  const [state, setState] = useState({ busy: false, studies: null, results: null, error: null });\n'
    '  async function attempt(text) {\n'
    '    setState({ busy: true, studies: null, results: null, error: null });\n'
    '    try {\n'
    '      const studies = await findStudies(text);\n'
    '      const results = studies.length === 1 ? await Promise.all(scripts.map(async (script) => [script, await post(`${routeOf(script)}/rules/test`, { Resource: studies[0], Level: "Study" })])) : null;\n'
    '      setState({ busy: false, studies, results, error: null });\n'
    '    } catch (error) {\n'
    '      setState({ busy: false, studies: null, results: null, error });\n'
    '    }\n'
    '  }\n'
    '  function submit(event) {\n'
    '    event.preventDefault();\n'
    '    const text = String(new FormData(event.target).get("study") ?? "").trim();\n'
    '    if (text) {\n'
    '      go(link("rules", [], { study: text }));\n'
    '      attempt(text);\n'
    '    }\n'
    '  }\n'
    '  if (!mayAct) {\n'
    '    return null;\n'
    '  }\n'
    '  const { busy, studies, results, error } = state;\n'
    '  return html`<section aria-labelledby="try-title"><h2 id="try-title">Try the rules on a study</h2>\n'
    '    <p class="quiet">Nothing is sent.</p>\n'
    '    <form class="filters" role="search" onSubmit=${submit}>\n'
    '      <label><span>Patient or study</span><input name="study" type="search" required defaultValue=${place.query.study ?? ""} placeholder="PatientID, accession number, UID" autocomplete="off" spellcheck=${false} /></label>\n'
    '      <button type="submit" disabled=${busy}>${busy ? "Trying …" : "Try"}</button>\n'
    '    </form>\n'
    '    <div aria-live="polite">\n'
    '      <${Problem} error=${error} />\n'
    '      ${studies && !studies.length ? html`<p>No study here has this PatientID, accession number or UID.</p>` : null}\n'
    '      ${studies && studies.length > 1 ? html`<p>Which one?</p><ul class="choice-list">${studies.map((id) => html`<li key=${id}><button type="button" onClick=${() => attempt(id)}><${StudyName} id=${id} /></button></li>`)}</ul>` : null}\n'
    '      ${results ? html`<p><${StudyName} id=${studies[0]} /></p>${results.map(([script, found]) => html`<${Verdicts} key=${script} script=${script} found=${found} />`)}` : null}\n'
    '    </div>\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'function View({ summary, place }) {\n'
    '  const scripts = SCRIPTS.filter((each) => summary.Scripts.some((one) => one.Name === each && one.State === "running"));\n'
    '  if (!scripts.length) {\n'
    '    return html`<${Empty} title="The forwarders do not run">See <a href=${link("scripts")}>Scripts</a> for why.<//>`;\n'
    '  }\n'
    '  return html`<div class="part">${scripts.map((script) => html`<section key=${script} aria-labelledby="rules-${script}"><h2 id="rules-${script}">${TITLES[script]}</h2><${Rules} script=${script} /></section>`)}</div>\n'
    '    <${Try} scripts=${scripts} place=${place} />`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "rules",\n'
    '  title: "Rules",\n'
    '  scripts: SCRIPTS,\n'
    '  absent: {\n'
    '    title: "Nothing is forwarded here",\n'
    '    gives: "A forwarder sends studies on by rules. This panel then says in words what each rule does, and what they would do with one study, and why.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
PANEL_MOVES = (  # src/dashboard/page/panels/moves.js
    '// The C-MOVE requests that came in, and what came of each; who is notified of them.\n'
    '\n'
    'import { html, useContext } from "../vendor/preact.js";\n'
    'import { drop, withQuery } from "../lib/api.js";\n'
    'import { counted, number } from "../lib/format.js";\n'
    'import { Filters, Pages } from "../lib/list.js";\n'
    'import { useRoute } from "../lib/poll.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { ActButton, Empty, Facts, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const PER_PAGE = 25;\n'
    'const NEWEST = 2 ** 53 - 1;\n'
    'const STATES = [["", "any"], ["moving", "going on"], ["done", "done"], ["submitted", "handed to a job"], ["failed", "failed"], ["abandoned", "given up by the caller"], ["interrupted", "interrupted"]];\n'
    'const WORDS = Object.fromEntries(STATES);\n'
    'const KINDS = { abandoned: "failed", interrupted: "failed", submitted: "done", moving: "Running" };\n'
    '\n'
    'const whatOf = (request) => [request.PatientID, request.AccessionNumber, request.StudyInstanceUID, request.SeriesInstanceUID, request.SOPInstanceUID].filter(Boolean);\n'
    'const imagesOf = (row) => (row.Instances ? `${number(row.Completed ?? 0)} of ${number(row.Instances)}` : "–");\n'
    '\n'
    'function One({ row }) {\n'
    '  return html`<section class="card" aria-labelledby="one-title">\n'
    '    <div class="title-row"><h2 id="one-title">Request ${row.ID} to <${Text}>${row.Request.TargetAET}<//></h2><${State} of=${KINDS[row.State] ?? row.State} label=${WORDS[row.State]} /></div>\n'
    '    <${Problem} error=${row.Error} />\n'
    '    <${Facts} of=${[\n'
    '      ["Asked by", html`<${Text}>${row.Request.OriginatorAET || "–"}<//>`],\n'
    '      ["Level", row.Request.Level],\n'
    '      ...whatOf(row.Request).map((each, index) => [index ? "and" : "What", html`<${Text}>${each}<//>`]),\n'
    '      ["Images", imagesOf(row)],\n'
    '      ["Begun", html`<${Time} at=${row.Created} />`],\n'
    '      ["Ended", row.Ended && html`<${Time} at=${row.Ended} />`],\n'
    '    ]} />\n'
    '    ${row.Notifications.length ? html`<h3>Notified</h3><ul>${row.Notifications.map((each) => html`<li><${Text}>${each.Service}<//>: <${State} of=${each.State} /> <${Text}>${each.Error ?? ""}<//></li>`)}</ul>` : null}\n'
    '  </section>`;\n'
    '}\n'
    '\n'
    'function Services({ services, refresh }) {\n'
    '  const { act } = useContext(Shared);\n'
    '  const rows = Object.entries(services);\n'
    '  if (!rows.length) {\n'
    '    return null;\n'
    '  }\n'
    '  const forget = (name, each) =>\n'
    '    act({\n'
    '      title: `Drop what waits for ${name}?`,\n'
    '      says: `${name} is not configured any more. ${counted(each.Waiting + each.Dead, "notification is", "notifications are")} dropped.`,\n'
    '      button: "Drop",\n'
    '      danger: true,\n'
    '      done: refresh,\n'
    '      run: async () => {\n'
    '        await drop(`/cmove-interceptor/services/${encodeURIComponent(name)}`);\n'
    '        return `What waited for ${name} is dropped.`;\n'
    '      },\n'
    '    });\n'
    '  const columns = [\n'
    '    { title: "Service", of: ([name]) => html`<${Text}>${name}<//>` },\n'
    '    { title: "State", of: ([, each]) => html`<${State} of=${each.State} />` },\n'
    '    { title: "Waiting", kind: "number", of: ([, each]) => number(each.Waiting) },\n'
    '    { title: "Failed", kind: "number", of: ([, each]) => (each.Dead ? html`<strong class="bad">${number(each.Dead)}</strong>` : "0") },\n'
    '    { title: "", kind: "acts", of: ([name, each]) => (each.State === "orphaned" ? html`<${ActButton} small=${true} danger=${true} label="Drop what waits for ${name}" onClick=${() => forget(name, each)}>Drop<//>` : null) },\n'
    '  ];\n'
    '  return html`<section class="plain" aria-labelledby="services-title"><h2 id="services-title">Who is notified</h2><${Table} caption="Services" columns=${columns} rows=${rows} keyOf=${([name]) => name} /></section>`;\n'
    '}\n'
    '\n'
    'function View({ place }) {\n'
    '  const query = place.query;\n'
    '  const { data: status, error, refresh } = useRoute("/cmove-interceptor/status", 5);\n'
    '  const path = withQuery("/cmove-interceptor/requests", { state: query.state, limit: PER_PAGE, before: query.before ?? NEWEST });\n'
    '  const { data, error: failed } = useRoute(path, 4);\n'
    '  const chosen = data?.Items.find((row) => String(row.ID) === place.parts[0]);\n'
    '  const at = (more) => link("moves", [], { ...query, ...more });\n'
    '  const columns = [\n'
    '    { title: "To", of: (row) => html`<a href=${link("moves", [row.ID], query)}><${Text}>${row.Request.TargetAET}<//></a><small>asked by <${Text}>${row.Request.OriginatorAET || "–"}<//></small>` },\n'
    '    { title: "What", kind: "long", of: (row) => html`${row.Request.Level}<small><${Text}>${whatOf(row.Request).join(" ")}<//></small>` },\n'
    '    { title: "State", of: (row) => html`<${State} of=${KINDS[row.State] ?? row.State} label=${WORDS[row.State]} />` },\n'
    '    { title: "Images", kind: "number", of: imagesOf },\n'
    '    { title: "Begun", of: (row) => html`<${Time} at=${row.Created} />` },\n'
    '    { title: "Error", kind: "long", of: (row) => (row.Error ? html`<${Text}>${row.Error}<//>` : html`<span class="quiet none">–</span>`) },\n'
    '  ];\n'
    '  return html`<div class="part"><${Problem} error=${error ?? failed} /></div>\n'
    '    <${Filters} panel="moves" query=${query} fields=${[{ name: "state", title: "State", options: STATES }]} />\n'
    '    <div class="part">${place.parts[0] && data && !chosen ? html`<p class="quiet">Request <${Text}>${place.parts[0]}<//> is not on this page.</p>` : null}</div>\n'
    '    <div class="part">${chosen ? html`<${One} row=${chosen} />` : null}</div>\n'
    '    <div class="part">${!data ? (failed ? null : html`<${Loading} what="requests" />`) : data.Items.length\n'
    '      ? html`<${Table} caption="C-MOVE requests, newest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} current=${(row) => row === chosen} />\n'
    '          <${Pages} total=${data.Total} shown=${data.Items.length} what="requests" newer=${query.before ? at({ before: "" }) : null} older=${data.Next ? at({ before: data.Next }) : null} />`\n'
    '      : html`<${Empty} title=${query.state ? "Nothing fits this" : "No C-MOVE yet"}>Each request of a workstation to have studies sent is here, with what came of it.<//>`}</div>\n'
    '    ${status ? html`<${Services} services=${status.Services} refresh=${refresh} />` : null}`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "moves",\n'
    '  title: "Moves",\n'
    '  scripts: ["cmove_interceptor"],\n'
    '  badge: (summary) => summary.Alerts.filter((each) => each.Panel === "moves").length,\n'
    '  absent: {\n'
    '    title: "C-MOVE is Orthanc\'s own here",\n'
    '    gives: "cmove_interceptor writes each C-MOVE down, does it, and notifies services. This panel then shows each request: who asked, what was to go where, and what came of it.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
PANEL_DEIDENTIFICATION = (  # src/dashboard/page/panels/deidentification.js
    '// De-identified copies: what was made, what waits, what failed; images that were held back, each with the reason.\n'
    '\n'
    'import { html, useContext } from "../vendor/preact.js";\n'
    'import { address, drop, post, withQuery } from "../lib/api.js";\n'
    'import { counted, number } from "../lib/format.js";\n'
    'import { Filters, Pages } from "../lib/list.js";\n'
    'import { useRoute } from "../lib/poll.js";\n'
    'import { link } from "../lib/router.js";\n'
    'import { ActButton, Empty, Figure, Loading, Problem, Shared, State, Table, Text, Time } from "../lib/ui.js";\n'
    '\n'
    'const ROUTE = "/anonymize-series";\n'
    'const PER_PAGE = 25;\n'
    'const NEWEST = 2 ** 53 - 1;\n'
    'const STATES = [["", "any"], ["waiting", "waiting"], ["sending", "being done"], ["done", "done"], ["dead", "failed for good"], ["gone", "deleted here"]];\n'
    'const LABELS = { ...Object.fromEntries(STATES), partly: "done, but for what was held back" };\n'
    '\n'
    'function useJobActs(refresh) {\n'
    '  const { act } = useContext(Shared);\n'
    '  return {\n'
    '    retry: (row) =>\n'
    '      act({\n'
    '        title: `Retry ${row.ID}?`,\n'
    '        says: `The work (${row.What}, ${counted(row.Instances, "image", "images")}) is tried again now. Each copy gets the same identifiers as before.`,\n'
    '        button: "Retry",\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          await post(`${ROUTE}/jobs/${row.ID}/retry`);\n'
    '          return `${row.ID} is being tried again.`;\n'
    '        },\n'
    '      }),\n'
    '    forget: (row) =>\n'
    '      act({\n'
    '        title: `Drop ${row.ID}?`,\n'
    '        says: `This work (${row.What}) is not done any more. Nothing is deleted from the archive.`,\n'
    '        button: "Drop",\n'
    '        danger: true,\n'
    '        done: refresh,\n'
    '        run: async () => {\n'
    '          await drop(`${ROUTE}/jobs/${row.ID}`);\n'
    '          return `${row.ID} is dropped.`;\n'
    '        },\n'
    '      }),\n'
    '  };\n'
    '}\n'
    '\n'
    'function Jobs({ place, data, error, refresh }) {\n'
    '  const { retry, forget } = useJobActs(refresh);\n'
    '  const query = place.query;\n'
    '  if (!data) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="the work" />`;\n'
    '  }\n'
    '  const at = (more) => link("deidentification", [], { ...query, ...more });\n'
    '  const columns = [\n'
    '    { title: "What", of: (row) => html`<a href=${link("deidentification", [row.ID], query)}>${row.ID}</a> <${Text}>${row.What}<//><small><${Text}>${row.Resource}<//></small>` },\n'
    '    { title: "State", of: (row) => html`<${State} of=${row.State === "partly" ? "done" : row.State} label=${LABELS[row.State]} />` },\n'
    '    { title: "Images", kind: "number", of: (row) => html`${number(row.Instances)}${row.HeldBack ? html`<small>${number(row.HeldBack)} held back</small>` : null}` },\n'
    '    { title: "Last change", of: (row) => html`<${Time} at=${row.Updated} />` },\n'
    '    { title: "Error", kind: "long", of: (row) => (row.Error ? html`<${Text}>${row.Error}<//><small>${counted(row.Attempts, "attempt", "attempts")}</small>` : html`<span class="quiet none">–</span>`) },\n'
    '    {\n'
    '      title: "",\n'
    '      kind: "acts",\n'
    '      of: (row) => (row.State === "dead" || row.State === "waiting"\n'
    '        ? html`<span class="buttons"><${ActButton} small=${true} label="Retry ${row.ID}" onClick=${() => retry(row)}>Retry<//><${ActButton} small=${true} danger=${true} label="Drop ${row.ID}" onClick=${() => forget(row)}>Drop<//></span>`\n'
    '        : null),\n'
    '    },\n'
    '  ];\n'
    '  return data.Items.length\n'
    '    ? html`<${Table} caption="De-identification, newest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} current=${(row) => String(row.ID) === place.parts[0]} />\n'
    '        <${Pages} total=${data.Total} shown=${data.Items.length} what="pieces of work" newer=${query.before ? at({ before: "" }) : null} older=${data.Next ? at({ before: data.Next }) : null} />`\n'
    '    : html`<${Empty} title=${query.state ? "Nothing fits this" : "Nothing was de-identified yet"}>A rule or a request makes copies: each shows up here.<//>`;\n'
    '}\n'
    '\n'
    'function Held({ place }) {\n'
    '  const { held } = place.query;\n'
    '  const { data, error } = useRoute(withQuery(`${ROUTE}/held`, { since: held, limit: PER_PAGE }), 10);\n'
    '  if (!data) {\n'
    '    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="images that were held back" />`;\n'
    '  }\n'
    '  const columns = [\n'
    '    { title: "Image", of: (row) => html`<a href=${address(`/app/explorer.html#instance?uuid=${row.Instance}`)}><${Text}>${row.Instance.slice(0, 17)}…<//></a>` },\n'
    '    { title: "Recipe", of: (row) => html`<${Text}>${row.Recipe}<//>` },\n'
    '    { title: "Why", kind: "long", of: (row) => html`<${Text}>${row.Reason}<//>` },\n'
    '    { title: "When", of: (row) => html`<${Time} at=${row.At} />` },\n'
    '  ];\n'
    '  return data.Items.length || held\n'
    '    ? html`<${Table} caption="Images that were held back, oldest first" columns=${columns} rows=${data.Items} keyOf=${(row) => row.ID} />\n'
    '        <nav class="pages" aria-label="Pages of images that were held back"><span class="quiet">${number(data.Items.length)} of ${number(data.Total)} images</span>\n'
    '          ${held ? html`<a class="button" href=${link("deidentification", [], { ...place.query, held: "" })}>First</a>` : null}\n'
    '          ${data.Next ? html`<a class="button" href=${link("deidentification", [], { ...place.query, held: data.Next })}>Next</a>` : null}</nav>`\n'
    '    : html`<${Empty} title="No image was held back">An image that may show who the patient is gets no copy. It shows up here, with the reason.<//>`;\n'
    '}\n'
    '\n'
    'function View({ place }) {\n'
    '  const { data: status, error, refresh } = useRoute(`${ROUTE}/status`, 5);\n'
    '  const { state, before } = place.query;\n'
    '  const jobs = useRoute(withQuery(`${ROUTE}/jobs`, { state, limit: PER_PAGE, before: before ?? NEWEST }), 5);\n'
    '  const both = () => {\n'
    '    refresh();\n'
    '    jobs.refresh();\n'
    '  };\n'
    '  return html`<div class="part"><${Problem} error=${error} /></div>\n'
    '    <div class="part">${status\n'
    '      ? html`<div class="figures">\n'
    '          <${Figure} title="Copies" value=${number(status.Copies)} note="images" />\n'
    '          <${Figure} title="Waiting" value=${number((status.Totals.waiting ?? 0) + (status.Totals.sending ?? 0))} note="pieces of work" />\n'
    '          <${Figure} title="Failed for good" value=${number(status.Totals.dead)} kind=${status.Totals.dead ? "bad" : ""} note="a person has to act" href=${link("deidentification", [], { state: "dead" })} />\n'
    '          <${Figure} title="Held back" value=${number(status.Held)} kind=${status.Held ? "warn" : ""} note="images, with the reason below" />\n'
    '        </div>`\n'
    '      : null}</div>\n'
    '    <${Filters} panel="deidentification" query=${place.query} fields=${[{ name: "state", title: "State", options: STATES }]} />\n'
    '    <div class="part"><${Jobs} place=${place} data=${jobs.data} error=${jobs.error} refresh=${both} /></div>\n'
    '    <section class="plain" aria-labelledby="held-title"><h2 id="held-title">Held back</h2><${Held} place=${place} /></section>`;\n'
    '}\n'
    '\n'
    'export default {\n'
    '  id: "deidentification",\n'
    '  title: "De-identification",\n'
    '  scripts: ["anonymize_series"],\n'
    '  badge: (summary) => summary.Alerts.filter((each) => each.Panel === "deidentification" && each.Level === "act").length,\n'
    '  absent: {\n'
    '    title: "Nothing is de-identified here",\n'
    '    gives: "anonymize_series makes de-identified copies by rules and sends them on. This panel then shows the work, what failed, and each image that was held back with the reason.",\n'
    '  },\n'
    '  view: View,\n'
    '};\n'
)
VENDOR_PREACT = (  # src/dashboard/vendor/preact.js
    'var e,n,_,t,o,r,u,l={},i=[],c=/acit|ex(?:s|g|n|p|$)|rph|grid|ows|mnc|ntw|ine[ch]|zoo|^ord|itera/i;function s(e,n){for(var _ in n)e[_]=n[_];return e}function f(e){var n=e.parentNode;n&&n.removeChild(e)}function a(n,_,t){var o,r,u,l={};for(u in _)"key"==u?o=_[u]:"ref"==u?r=_[u]:l[u]=_[u];if(arguments.length>2&&(l.children=arguments.length>3?e.call(arguments,2):t),"function"==typeof n&&null!=n.defaultProps)for(u in n.defaultProps)void 0===l[u]&&(l[u]=n.defaultProps[u]);return p(n,l,o,r,null)}function p(e,t,o,r,u){var l={type:e,props:t,key:o,ref:r,__k:null,__:null,__b:0,__e:null,__d:void 0,__c:null,__h:null,constructor:void 0,__v:null==u?++_:u};return null!=n.vnode&&n.vnode(l),l}function h(e){return e.children}function d(e,n){this.props=e,this.context=n}function v(e,n){if(null==n)return e.__?v(e.__,e.__.__k.indexOf(e)+1):null;for(var _;n<e.__k.length;n++)if(null!=(_=e.__k[n])&&null!=_.__e)return _.__e;return"function"==typeof e.type?v(e):null}function y(e){var n,_;if(null!=(e=e.__)&&null!=e.__c){for(e.__e=e.__c.base=null,n=0;n<e.__k.length;n++)if(null!=(_=e.__k[n])&&null!=_.__e){e.__e=e.__c.base=_.__e;break}return y(e)}}function m(e){(!e.__d&&(e.__d=!0)&&t.push(e)&&!g.__r++||r!==n.debounceRendering)&&((r=n.debounceRendering)||o)(g)}function g(){for(var e;g.__r=t.length;)e=t.sort(function(e,n){return e.__v.__b-n.__v.__b}),t=[],e.some(function(e){var n,_,t,o,r,u;e.__d&&(r=(o=(n=e).__v).__e,(u=n.__P)&&(_=[],(t=s({},o)).__v=o.__v+1,P(u,o,t,n.__n,void 0!==u.ownerSVGElement,null!=o.__h?[r]:null,_,null==r?v(o):r,o.__h),D(_,o),o.__e!=r&&y(o)))})}function k(e,n,_,t,o,r,u,c,s,f){var a,d,y,m,g,k,x,H=t&&t.__k||i,E=H.length;for(_.__k=[],a=0;a<n.length;a++)if(null!=(m=_.__k[a]=null==(m=n[a])||"boolean"==typeof m?null:"string"==typeof m||"number"==typeof m||"bigint"==typeof m?p(null,m,null,null,m):Array.isArray(m)?p(h,{children:m},null,null,null):m.__b>0?p(m.type,m.props,m.key,null,m.__v):m)){if(m.__=_,m.__b=_.__b+1,null===(y=H[a])||y&&m.key==y.key&&m.type===y.type)H[a]=void 0;else for(d=0;d<E;d++){if((y=H[d])&&m.key==y.key&&m.type===y.type){H[d]=void 0;break}y=null}P(e,m,y=y||l,o,r,u,c,s,f),g=m.__e,(d=m.ref)&&y.ref!=d&&(x||(x=[]),y.ref&&x.push(y.ref,null,m),x.push(d,m.__c||g,m)),null!=g?(null==k&&(k=g),"function"==typeof m.type&&null!=m.__k&&m.__k===y.__k?m.__d=s=b(m,s,e):s=C(e,m,y,H,g,s),f||"option"!==_.type?"function"==typeof _.type&&(_.__d=s):e.value=""):s&&y.__e==s&&s.parentNode!=e&&(s=v(y))}for(_.__e=k,a=E;a--;)null!=H[a]&&("function"==typeof _.type&&null!=H[a].__e&&H[a].__e==_.__d&&(_.__d=v(t,a+1)),U(H[a],H[a]));if(x)for(a=0;a<x.length;a++)T(x[a],x[++a],x[++a])}function b(e,n,_){var t,o;for(t=0;t<e.__k.length;t++)(o=e.__k[t])&&(o.__=e,n="function"==typeof o.type?b(o,n,_):C(_,o,o,e.__k,o.__e,n));return n}function C(e,n,_,t,o,r){var u,l,i;if(void 0!==n.__d)u=n.__d,n.__d=void 0;else if(null==_||o!=r||null==o.parentNode)e:if(null==r||r.parentNode!==e)e.appendChild(o),u=null;else{for(l=r,i=0;(l=l.nextSibling)&&i<t.length;i+=2)if(l==o)break e;e.insertBefore(o,r),u=r}return void 0!==u?u:o.nextSibling}function x(e,n,_){"-"===n[0]?e.setProperty(n,_):e[n]=null==_?"":"number"!=typeof _||c.test(n)?_:_+"px"}function H(e,n,_,t,o){var r;e:if("style"===n)if("string"==typeof _)e.style.cssText=_;else{if("string"==typeof t&&(e.style.cssText=t=""),t)for(n in t)_&&n in _||x(e.style,n,"");if(_)for(n in _)t&&_[n]===t[n]||x(e.style,n,_[n])}else if("o"===n[0]&&"n"===n[1])r=n!==(n=n.replace(/Capture$/,"")),n=n.toLowerCase()in e?n.toLowerCase().slice(2):n.slice(2),e.l||(e.l={}),e.l[n+r]=_,_?t||e.addEventListener(n,r?S:E,r):e.removeEventListener(n,r?S:E,r);else if("dangerouslySetInnerHTML"!==n){if(o)n=n.replace(/xlink[H:h]/,"h").replace(/sName$/,"s");else if("href"!==n&&"list"!==n&&"form"!==n&&"tabIndex"!==n&&"download"!==n&&n in e)try{e[n]=null==_?"":_;break e}catch(e){}"function"==typeof _||(null!=_&&(!1!==_||"a"===n[0]&&"r"===n[1])?e.setAttribute(n,_):e.removeAttribute(n))}}function E(e){this.l[e.type+!1](n.event?n.event(e):e)}function S(e){this.l[e.type+!0](n.event?n.event(e):e)}function P(e,_,t,o,r,u,l,i,c){var f,a,p,v,y,m,g,b,C,x,H,E=_.type;if(void 0!==_.constructor)return null;null!=t.__h&&(c=t.__h,i=_.__e=t.__e,_.__h=null,u=[i]),(f=n.__b)&&f(_);try{e:if("function"==typeof E){if(b=_.props,C=(f=E.contextType)&&o[f.__c],x=f?C?C.props.value:f.__:o,t.__c?g=(a=_.__c=t.__c).__=a.__E:("prototype"in E&&E.prototype.render?_.__c=a=new E(b,x):(_.__c=a=new d(b,x),a.constructor=E,a.render=A),C&&C.sub(a),a.props=b,a.state||(a.state={}),a.context=x,a.__n=o,p=a.__d=!0,a.__h=[]),null==a.__s&&(a.__s=a.state),null!=E.getDerivedStateFromProps&&(a.__s==a.state&&(a.__s=s({},a.__s)),s(a.__s,E.getDerivedStateFromProps(b,a.__s))),v=a.props,y=a.state,p)null==E.getDerivedStateFromProps&&null!=a.componentWillMount&&a.componentWillMount(),null!=a.componentDidMount&&a.__h.push(a.componentDidMount);else{if(null==E.getDerivedStateFromProps&&b!==v&&null!=a.componentWillReceiveProps&&a.componentWillReceiveProps(b,x),!a.__e&&null!=a.shouldComponentUpdate&&!1===a.shouldComponentUpdate(b,a.__s,x)||_.__v===t.__v){a.props=b,a.state=a.__s,_.__v!==t.__v&&(a.__d=!1),a.__v=_,_.__e=t.__e,_.__k=t.__k,_.__k.forEach(function(e){e&&(e.__=_)}),a.__h.length&&l.push(a);break e}null!=a.componentWillUpdate&&a.componentWillUpdate(b,a.__s,x),null!=a.componentDidUpdate&&a.__h.push(function(){a.componentDidUpdate(v,y,m)})}a.context=x,a.props=b,a.state=a.__s,(f=n.__r)&&f(_),a.__d=!1,a.__v=_,a.__P=e,f=a.render(a.props,a.state,a.context),a.state=a.__s,null!=a.getChildContext&&(o=s(s({},o),a.getChildContext())),p||null==a.getSnapshotBeforeUpdate||(m=a.getSnapshotBeforeUpdate(v,y)),H=null!=f&&f.type===h&&null==f.key?f.props.children:f,k(e,Array.isArray(H)?H:[H],_,t,o,r,u,l,i,c),a.base=_.__e,_.__h=null,a.__h.length&&l.push(a),g&&(a.__E=a.__=null),a.__e=!1}else null==u&&_.__v===t.__v?(_.__k=t.__k,_.__e=t.__e):_.__e=w(t.__e,_,t,o,r,u,l,c);(f=n.diffed)&&f(_)}catch(e){_.__v=null,(c||null!=u)&&(_.__e=i,_.__h=!!c,u[u.indexOf(i)]=null),n.__e(e,_,t)}}function D(e,_){n.__c&&n.__c(_,e),e.some(function(_){try{e=_.__h,_.__h=[],e.some(function(e){e.call(_)})}catch(e){n.__e(e,_.__v)}})}function w(n,_,t,o,r,u,i,c){var s,a,p,h=t.props,d=_.props,y=_.type,m=0;if("svg"===y&&(r=!0),null!=u)for(;m<u.length;m++)if((s=u[m])&&(s===n||(y?s.localName==y:3==s.nodeType))){n=s,u[m]=null;break}if(null==n){if(null===y)return document.createTextNode(d);n=r?document.createElementNS("http://www.w3.org/2000/svg",y):document.createElement(y,d.is&&d),u=null,c=!1}if(null===y)h===d||c&&n.data===d||(n.data=d);else{if(u=u&&e.call(n.childNodes),a=(h=t.props||l).dangerouslySetInnerHTML,p=d.dangerouslySetInnerHTML,!c){if(null!=u)for(h={},m=0;m<n.attributes.length;m++)h[n.attributes[m].name]=n.attributes[m].value;(p||a)&&(p&&(a&&p.__html==a.__html||p.__html===n.innerHTML)||(n.innerHTML=p&&p.__html||""))}if(function(e,n,_,t,o){var r;for(r in _)"children"===r||"key"===r||r in n||H(e,r,null,_[r],t);for(r in n)o&&"function"!=typeof n[r]||"children"===r||"key"===r||"value"===r||"checked"===r||_[r]===n[r]||H(e,r,n[r],_[r],t)}(n,d,h,r,c),p)_.__k=[];else if(m=_.props.children,k(n,Array.isArray(m)?m:[m],_,t,o,r&&"foreignObject"!==y,u,i,u?u[0]:t.__k&&v(t,0),c),null!=u)for(m=u.length;m--;)null!=u[m]&&f(u[m]);c||("value"in d&&void 0!==(m=d.value)&&(m!==n.value||"progress"===y&&!m)&&H(n,"value",m,h.value,!1),"checked"in d&&void 0!==(m=d.checked)&&m!==n.checked&&H(n,"checked",m,h.checked,!1))}return n}function T(e,_,t){try{"function"==typeof e?e(_):e.current=_}catch(e){n.__e(e,t)}}function U(e,_,t){var o,r;if(n.unmount&&n.unmount(e),(o=e.ref)&&(o.current&&o.current!==e.__e||T(o,null,_)),null!=(o=e.__c)){if(o.componentWillUnmount)try{o.componentWillUnmount()}catch(e){n.__e(e,_)}o.base=o.__P=null}if(o=e.__k)for(r=0;r<o.length;r++)o[r]&&U(o[r],_,"function"!=typeof e.type);t||null==e.__e||f(e.__e),e.__e=e.__d=void 0}function A(e,n,_){return this.constructor(e,_)}function M(_,t,o){var r,u,i;n.__&&n.__(_,t),u=(r="function"==typeof o)?null:o&&o.__k||t.__k,i=[],P(t,_=(!r&&o||t).__k=a(h,null,[_]),u||l,l,void 0!==t.ownerSVGElement,!r&&o?[o]:u?null:t.firstChild?e.call(t.childNodes):null,i,!r&&o?o:u?u.__e:t.firstChild,r),D(i,_)}function F(e,n){var _={__c:n="__cC"+u++,__:e,Consumer:function(e,n){return e.children(n)},Provider:function(e){var _,t;return this.getChildContext||(_=[],(t={})[n]=this,this.getChildContext=function(){return t},this.shouldComponentUpdate=function(e){this.props.value!==e.value&&_.some(m)},this.sub=function(e){_.push(e);var n=e.componentWillUnmount;e.componentWillUnmount=function(){_.splice(_.indexOf(e),1),n&&n.call(e)}}),e.children}};return _.Provider.__=_.Consumer.contextType=_}e=i.slice,n={__e:function(e,n){for(var _,t,o;n=n.__;)if((_=n.__c)&&!_.__)try{if((t=_.constructor)&&null!=t.getDerivedStateFromError&&(_.setState(t.getDerivedStateFromError(e)),o=_.__d),null!=_.componentDidCatch&&(_.componentDidCatch(e),o=_.__d),o)return _.__E=_}catch(n){e=n}throw e}},_=0,d.prototype.setState=function(e,n){var _;_=null!=this.__s&&this.__s!==this.state?this.__s:this.__s=s({},this.state),"function"==typeof e&&(e=e(s({},_),this.props)),e&&s(_,e),null!=e&&this.__v&&(n&&this.__h.push(n),m(this))},d.prototype.forceUpdate=function(e){this.__v&&(this.__e=!0,e&&this.__h.push(e),m(this))},d.prototype.render=h,t=[],o="function"==typeof Promise?Promise.prototype.then.bind(Promise.resolve()):setTimeout,g.__r=0,u=0;var L,N,W,R=0,I=[],O=n.__b,V=n.__r,q=n.diffed,B=n.__c,$=n.unmount;function j(e,_){n.__h&&n.__h(N,e,R||_),R=0;var t=N.__H||(N.__H={__:[],__h:[]});return e>=t.__.length&&t.__.push({}),t.__[e]}function G(e){return R=1,z(ie,e)}function z(e,n,_){var t=j(L++,2);return t.t=e,t.__c||(t.__=[_?_(n):ie(void 0,n),function(e){var n=t.t(t.__[0],e);t.__[0]!==n&&(t.__=[n,t.__[1]],t.__c.setState({}))}],t.__c=N),t.__}function J(e,_){var t=j(L++,3);!n.__s&&le(t.__H,_)&&(t.__=e,t.__H=_,N.__H.__h.push(t))}function K(e,_){var t=j(L++,4);!n.__s&&le(t.__H,_)&&(t.__=e,t.__H=_,N.__h.push(t))}function Q(e){return R=5,Y(function(){return{current:e}},[])}function X(e,n,_){R=6,K(function(){"function"==typeof e?e(n()):e&&(e.current=n())},null==_?_:_.concat(e))}function Y(e,n){var _=j(L++,7);return le(_.__H,n)&&(_.__=e(),_.__H=n,_.__h=e),_.__}function Z(e,n){return R=8,Y(function(){return e},n)}function ee(e){var n=N.context[e.__c],_=j(L++,9);return _.c=e,n?(null==_.__&&(_.__=!0,n.sub(N)),n.props.value):e.__}function ne(e,_){n.useDebugValue&&n.useDebugValue(_?_(e):e)}function _e(e){var n=j(L++,10),_=G();return n.__=e,N.componentDidCatch||(N.componentDidCatch=function(e){n.__&&n.__(e),_[1](e)}),[_[0],function(){_[1](void 0)}]}function te(){I.forEach(function(e){if(e.__P)try{e.__H.__h.forEach(re),e.__H.__h.forEach(ue),e.__H.__h=[]}catch(_){e.__H.__h=[],n.__e(_,e.__v)}}),I=[]}n.__b=function(e){N=null,O&&O(e)},n.__r=function(e){V&&V(e),L=0;var n=(N=e.__c).__H;n&&(n.__h.forEach(re),n.__h.forEach(ue),n.__h=[])},n.diffed=function(e){q&&q(e);var _=e.__c;_&&_.__H&&_.__H.__h.length&&(1!==I.push(_)&&W===n.requestAnimationFrame||((W=n.requestAnimationFrame)||function(e){var n,_=function(){clearTimeout(t),oe&&cancelAnimationFrame(n),setTimeout(e)},t=setTimeout(_,100);oe&&(n=requestAnimationFrame(_))})(te)),N=void 0},n.__c=function(e,_){_.some(function(e){try{e.__h.forEach(re),e.__h=e.__h.filter(function(e){return!e.__||ue(e)})}catch(t){_.some(function(e){e.__h&&(e.__h=[])}),_=[],n.__e(t,e.__v)}}),B&&B(e,_)},n.unmount=function(e){$&&$(e);var _=e.__c;if(_&&_.__H)try{_.__H.__.forEach(re)}catch(e){n.__e(e,_.__v)}};var oe="function"==typeof requestAnimationFrame;function re(e){var n=N;"function"==typeof e.__c&&e.__c(),N=n}function ue(e){var n=N;e.__c=e.__(),N=n}function le(e,n){return!e||e.length!==n.length||n.some(function(n,_){return n!==e[_]})}function ie(e,n){return"function"==typeof n?n(e):n}var ce=function(e,n,_,t){var o;n[0]=0;for(var r=1;r<n.length;r++){var u=n[r++],l=n[r]?(n[0]|=u?1:2,_[n[r++]]):n[++r];3===u?t[0]=l:4===u?t[1]=Object.assign(t[1]||{},l):5===u?(t[1]=t[1]||{})[n[++r]]=l:6===u?t[1][n[++r]]+=l+"":u?(o=e.apply(l,ce(e,l,_,["",null])),t.push(o),l[0]?n[0]|=2:(n[r-2]=0,n[r]=o)):t.push(l)}return t},se=new Map,fe=function(e){var n=se.get(this);return n||(n=new Map,se.set(this,n)),(n=ce(this,n.get(e)||(n.set(e,n=function(e){for(var n,_,t=1,o="",r="",u=[0],l=function(e){1===t&&(e||(o=o.replace(/^\\s*\\n\\s*|\\s*\\n\\s*$/g,"")))?u.push(0,e,o):3===t&&(e||o)?(u.push(3,e,o),t=2):2===t&&"..."===o&&e?u.push(4,e,0):2===t&&o&&!e?u.push(5,0,!0,o):t>=5&&((o||!e&&5===t)&&(u.push(t,0,o,_),t=6),e&&(u.push(t,e,0,_),t=6)),o=""},i=0;i<e.length;i++){i&&(1===t&&l(),l(i));for(var c=0;c<e[i].length;c++)n=e[i][c],1===t?"<"===n?(l(),u=[u],t=3):o+=n:4===t?"--"===o&&">"===n?(t=1,o=""):o=n+o[0]:r?n===r?r="":o+=n:\'"\'===n||"\'"===n?r=n:">"===n?(l(),t=1):t&&("="===n?(t=5,_=o,o=""):"/"===n&&(t<5||">"===e[i][c+1])?(l(),3===t&&(u=u[0]),t=u,(u=u[0]).push(2,0,t),t=0):" "===n||"\\t"===n||"\\n"===n||"\\r"===n?(l(),t=2):o+=n),3===t&&"!--"===o&&(t=4,u=u[0])}return l(),u}(e)),n),arguments,[])).length>1?n:n[0]}.bind(a);export{a as h,fe as html,M as render,d as Component,F as createContext,G as useState,z as useReducer,J as useEffect,K as useLayoutEffect,Q as useRef,X as useImperativeHandle,Y as useMemo,Z as useCallback,ee as useContext,ne as useDebugValue,_e as useErrorBoundary};\n'
)
VENDOR_UPLOT = (  # src/dashboard/vendor/uplot.js
    '/*! https://github.com/leeoniya/uPlot (v1.6.32) */\n'
    'var uPlot=function(){"use strict";const l="u-off",e="u-label",t="width",n="height",i="top",o="bottom",s="left",r="right",u="#000",a=u+"0",f="mousemove",c="mousedown",h="mouseup",d="mouseenter",p="mouseleave",m="dblclick",g="change",x="dppxchange",w="--",_="undefined"!=typeof window,b=_?document:null,v=_?window:null,k=_?navigator:null;let y,M;function S(l,e){if(null!=e){let t=l.classList;!t.contains(e)&&t.add(e)}}function T(l,e){let t=l.classList;t.contains(e)&&t.remove(e)}function E(l,e,t){l.style[e]=t+"px"}function z(l,e,t,n){let i=b.createElement(l);return null!=e&&S(i,e),null!=t&&t.insertBefore(i,n),i}function D(l,e){return z("div",l,e)}const P=new WeakMap;function A(e,t,n,i,o){let s="translate("+t+"px,"+n+"px)";s!=P.get(e)&&(e.style.transform=s,P.set(e,s),0>t||0>n||t>i||n>o?S(e,l):T(e,l))}const W=new WeakMap;function Y(l,e,t){let n=e+t;n!=W.get(l)&&(W.set(l,n),l.style.background=e,l.style.borderColor=t)}const C=new WeakMap;function H(l,e,t,n){let i=e+""+t;i!=C.get(l)&&(C.set(l,i),l.style.height=t+"px",l.style.width=e+"px",l.style.marginLeft=n?-e/2+"px":0,l.style.marginTop=n?-t/2+"px":0)}const F={passive:!0},R={...F,capture:!0};function G(l,e,t,n){e.addEventListener(l,t,n?R:F)}function I(l,e,t){e.removeEventListener(l,t,F)}function L(l,e,t,n){let i;t=t||0;let o=2147483647>=(n=n||e.length-1);for(;n-t>1;)i=o?t+n>>1:sl((t+n)/2),l>e[i]?t=i:n=i;return l-e[t]>e[n]-l?n:t}function O(l){return(e,t,n)=>{let i=-1,o=-1;for(let o=t;n>=o;o++)if(l(e[o])){i=o;break}for(let i=n;i>=t;i--)if(l(e[i])){o=i;break}return[i,o]}}_&&function l(){let e=devicePixelRatio;y!=e&&(y=e,M&&I(g,M,l),M=matchMedia(`(min-resolution: ${y-.001}dppx) and (max-resolution: ${y+.001}dppx)`),G(g,M,l),v.dispatchEvent(new CustomEvent(x)))}();const N=l=>null!=l,j=l=>null!=l&&l>0,U=O(N),V=O(j);function B(l,e,t,n){let i=hl(l),o=hl(e);l==e&&(-1==i?(l*=t,e/=t):(l/=t,e*=t));let s=10==t?dl:pl,r=1==o?ul:sl,u=(1==i?sl:ul)(s(ol(l))),a=r(s(ol(e))),f=cl(t,u),c=cl(t,a);return 10==t&&(0>u&&(f=Al(f,-u)),0>a&&(c=Al(c,-a))),n||2==t?(l=f*i,e=c*o):(l=Pl(l,f),e=Dl(e,c)),[l,e]}function $(l,e,t,n){let i=B(l,e,t,n);return 0==l&&(i[0]=0),0==e&&(i[1]=0),i}const J=.1,q={mode:3,pad:J},K={pad:0,soft:null,mode:0},X={min:K,max:K};function Z(l,e,t,n){return Ol(t)?ll(l,e,t):(K.pad=t,K.soft=n?0:null,K.mode=n?3:0,ll(l,e,X))}function Q(l,e){return null==l?e:l}function ll(l,e,t){let n=t.min,i=t.max,o=Q(n.pad,0),s=Q(i.pad,0),r=Q(n.hard,-gl),u=Q(i.hard,gl),a=Q(n.soft,gl),f=Q(i.soft,-gl),c=Q(n.mode,0),h=Q(i.mode,0),d=e-l,p=dl(d),m=fl(ol(l),ol(e)),g=dl(m),x=ol(g-p);(1e-24>d||x>10)&&(d=0,0!=l&&0!=e||(d=1e-24,2==c&&a!=gl&&(o=0),2==h&&f!=-gl&&(s=0)));let w=d||m||1e3,_=dl(w),b=cl(10,sl(_)),v=Al(Pl(l-w*(0==d?0==l?.1:1:o),b/10),24),k=a>l||1!=c&&(3!=c||v>a)&&(2!=c||a>v)?gl:a,y=fl(r,k>v&&l>=k?k:al(k,v)),M=Al(Dl(e+w*(0==d?0==e?.1:1:s),b/10),24),S=e>f||1!=h&&(3!=h||f>M)&&(2!=h||M>f)?-gl:f,T=al(u,M>S&&S>=e?S:fl(S,M));return y==T&&0==y&&(T=100),[y,T]}const el=new Intl.NumberFormat(_?k.language:"en-US"),tl=l=>el.format(l),nl=Math,il=nl.PI,ol=nl.abs,sl=nl.floor,rl=nl.round,ul=nl.ceil,al=nl.min,fl=nl.max,cl=nl.pow,hl=nl.sign,dl=nl.log10,pl=nl.log2,ml=(l,e=1)=>nl.asinh(l/e),gl=1/0;function xl(l){return 1+(0|dl((l^l>>31)-(l>>31)))}function wl(l,e,t){return al(fl(l,e),t)}function _l(l){return"function"==typeof l}function bl(l){return _l(l)?l:()=>l}const vl=l=>l,kl=(l,e)=>e,yl=()=>null,Ml=()=>!0,Sl=(l,e)=>l==e,Tl=/\\.\\d*?(?=9{6,}|0{6,})/gm,El=l=>{if(Il(l)||Wl.has(l))return l;const e=""+l,t=e.match(Tl);if(null==t)return l;let n=t[0].length-1;if(-1!=e.indexOf("e-")){let[l,t]=e.split("e");return+`${El(l)}e${t}`}return Al(l,n)};function zl(l,e){return El(Al(El(l/e))*e)}function Dl(l,e){return El(ul(El(l/e))*e)}function Pl(l,e){return El(sl(El(l/e))*e)}function Al(l,e=0){if(Il(l))return l;let t=10**e;return rl(l*t*(1+Number.EPSILON))/t}const Wl=new Map;function Yl(l){return((""+l).split(".")[1]||"").length}function Cl(l,e,t,n){let i=[],o=n.map(Yl);for(let s=e;t>s;s++){let e=ol(s),t=Al(cl(l,s),e);for(let r=0;n.length>r;r++){let u=10==l?+`${n[r]}e${s}`:n[r]*t,a=(0>s?e:0)+(o[r]>s?o[r]:0),f=10==l?u:Al(u,a);i.push(f),Wl.set(f,a)}}return i}const Hl={},Fl=[],Rl=[null,null],Gl=Array.isArray,Il=Number.isInteger;function Ll(l){return"string"==typeof l}function Ol(l){let e=!1;if(null!=l){let t=l.constructor;e=null==t||t==Object}return e}function Nl(l){return null!=l&&"object"==typeof l}const jl=Object.getPrototypeOf(Uint8Array),Ul="__proto__";function Vl(l,e=Ol){let t;if(Gl(l)){let n=l.find((l=>null!=l));if(Gl(n)||e(n)){t=Array(l.length);for(let n=0;l.length>n;n++)t[n]=Vl(l[n],e)}else t=l.slice()}else if(l instanceof jl)t=l.slice();else if(e(l)){t={};for(let n in l)n!=Ul&&(t[n]=Vl(l[n],e))}else t=l;return t}function Bl(l){let e=arguments;for(let t=1;e.length>t;t++){let n=e[t];for(let e in n)e!=Ul&&(Ol(l[e])?Bl(l[e],Vl(n[e])):l[e]=Vl(n[e]))}return l}function $l(l,e,t){for(let n,i=0,o=-1;e.length>i;i++){let s=e[i];if(s>o){for(n=s-1;n>=0&&null==l[n];)l[n--]=null;for(n=s+1;t>n&&null==l[n];)l[o=n++]=null}}}const Jl="undefined"==typeof queueMicrotask?l=>Promise.resolve().then(l):queueMicrotask,ql=["January","February","March","April","May","June","July","August","September","October","November","December"],Kl=["Sunday","Monday","Tuesday","Wednesday","Thursday","Friday","Saturday"];function Xl(l){return l.slice(0,3)}const Zl=Kl.map(Xl),Ql=ql.map(Xl),le={MMMM:ql,MMM:Ql,WWWW:Kl,WWW:Zl};function ee(l){return(10>l?"0":"")+l}const te={YYYY:l=>l.getFullYear(),YY:l=>(l.getFullYear()+"").slice(2),MMMM:(l,e)=>e.MMMM[l.getMonth()],MMM:(l,e)=>e.MMM[l.getMonth()],MM:l=>ee(l.getMonth()+1),M:l=>l.getMonth()+1,DD:l=>ee(l.getDate()),D:l=>l.getDate(),WWWW:(l,e)=>e.WWWW[l.getDay()],WWW:(l,e)=>e.WWW[l.getDay()],HH:l=>ee(l.getHours()),H:l=>l.getHours(),h:l=>{let e=l.getHours();return 0==e?12:e>12?e-12:e},AA:l=>12>l.getHours()?"AM":"PM",aa:l=>12>l.getHours()?"am":"pm",a:l=>12>l.getHours()?"a":"p",mm:l=>ee(l.getMinutes()),m:l=>l.getMinutes(),ss:l=>ee(l.getSeconds()),s:l=>l.getSeconds(),fff:l=>function(l){return(10>l?"00":100>l?"0":"")+l}(l.getMilliseconds())};function ne(l,e){e=e||le;let t,n=[],i=/\\{([a-z]+)\\}|[^{]+/gi;for(;t=i.exec(l);)n.push("{"==t[0][0]?te[t[1]]:t[0]);return l=>{let t="";for(let i=0;n.length>i;i++)t+="string"==typeof n[i]?n[i]:n[i](l,e);return t}}const ie=(new Intl.DateTimeFormat).resolvedOptions().timeZone,oe=l=>l%1==0,se=[1,2,2.5,5],re=Cl(10,-32,0,se),ue=Cl(10,0,32,se),ae=ue.filter(oe),fe=re.concat(ue),ce="{YYYY}",he="\\n"+ce,de="{M}/{D}",pe="\\n"+de,me=pe+"/{YY}",ge="{aa}",xe="{h}:{mm}"+ge,we="\\n"+xe,_e=":{ss}",be=null;function ve(l){let e=1e3*l,t=60*e,n=60*t,i=24*n,o=30*i,s=365*i;return[(1==l?Cl(10,0,3,se).filter(oe):Cl(10,-3,0,se)).concat([e,5*e,10*e,15*e,30*e,t,5*t,10*t,15*t,30*t,n,2*n,3*n,4*n,6*n,8*n,12*n,i,2*i,3*i,4*i,5*i,6*i,7*i,8*i,9*i,10*i,15*i,o,2*o,3*o,4*o,6*o,s,2*s,5*s,10*s,25*s,50*s,100*s]),[[s,ce,be,be,be,be,be,be,1],[28*i,"{MMM}",he,be,be,be,be,be,1],[i,de,he,be,be,be,be,be,1],[n,"{h}"+ge,me,be,pe,be,be,be,1],[t,xe,me,be,pe,be,be,be,1],[e,_e,me+" "+xe,be,pe+" "+xe,be,we,be,1],[l,_e+".{fff}",me+" "+xe,be,pe+" "+xe,be,we,be,1]],function(e){return(r,u,a,f,c,h)=>{let d=[],p=c>=s,m=c>=o&&s>c,g=e(a),x=Al(g*l,3),w=Pe(g.getFullYear(),p?0:g.getMonth(),m||p?1:g.getDate()),_=Al(w*l,3);if(m||p){let t=m?c/o:0,n=p?c/s:0,i=x==_?x:Al(Pe(w.getFullYear()+n,w.getMonth()+t,1)*l,3),r=new Date(rl(i/l)),u=r.getFullYear(),a=r.getMonth();for(let o=0;f>=i;o++){let s=Pe(u+n*o,a+t*o,1),r=s-e(Al(s*l,3));i=Al((+s+r)*l,3),i>f||d.push(i)}}else{let o=i>c?c:i,s=_+(sl(a)-sl(x))+Dl(x-_,o);d.push(s);let p=e(s),m=p.getHours()+p.getMinutes()/t+p.getSeconds()/n,g=c/n,w=h/r.axes[u]._space;for(;s=Al(s+c,1==l?0:3),f>=s;)if(g>1){let l=sl(Al(m+g,6))%24,t=e(s).getHours()-l;t>1&&(t=-1),s-=t*n,m=(m+g)%24,.7>Al((s-d[d.length-1])/c,3)*w||d.push(s)}else d.push(s)}return d}}]}const[ke,ye,Me]=ve(1),[Se,Te,Ee]=ve(.001);function ze(l,e){return l.map((l=>l.map(((t,n)=>0==n||8==n||null==t?t:e(1==n||0==l[8]?t:l[1]+t)))))}function De(l,e){return(t,n,i,o,s)=>{let r,u,a,f,c,h,d=e.find((l=>s>=l[0]))||e[e.length-1];return n.map((e=>{let t=l(e),n=t.getFullYear(),i=t.getMonth(),o=t.getDate(),s=t.getHours(),p=t.getMinutes(),m=t.getSeconds(),g=n!=r&&d[2]||i!=u&&d[3]||o!=a&&d[4]||s!=f&&d[5]||p!=c&&d[6]||m!=h&&d[7]||d[1];return r=n,u=i,a=o,f=s,c=p,h=m,g(t)}))}}function Pe(l,e,t){return new Date(l,e,t)}function Ae(l,e){return e(l)}function We(l,e){return(t,n,i,o)=>null==o?w:e(l(n))}Cl(2,-53,53,[1]);const Ye={show:!0,live:!0,isolate:!1,mount:()=>{},markers:{show:!0,width:2,stroke:function(l,e){let t=l.series[e];return t.width?t.stroke(l,e):t.points.width?t.points.stroke(l,e):null},fill:function(l,e){return l.series[e].fill(l,e)},dash:"solid"},idx:null,idxs:null,values:[]},Ce=[0,0];function He(l,e,t,n=!0){return l=>{0==l.button&&(!n||l.target==e)&&t(l)}}function Fe(l,e,t,n=!0){return l=>{(!n||l.target==e)&&t(l)}}const Re={show:!0,x:!0,y:!0,lock:!1,move:function(l,e,t){return Ce[0]=e,Ce[1]=t,Ce},points:{one:!1,show:function(l,e){let i=l.cursor.points,o=D(),s=i.size(l,e);E(o,t,s),E(o,n,s);let r=s/-2;E(o,"marginLeft",r),E(o,"marginTop",r);let u=i.width(l,e,s);return u&&E(o,"borderWidth",u),o},size:function(l,e){return l.series[e].points.size},width:0,stroke:function(l,e){let t=l.series[e].points;return t._stroke||t._fill},fill:function(l,e){let t=l.series[e].points;return t._fill||t._stroke}},bind:{mousedown:He,mouseup:He,click:He,dblclick:He,mousemove:Fe,mouseleave:Fe,mouseenter:Fe},drag:{setScale:!0,x:!0,y:!1,dist:0,uni:null,click:(l,e)=>{e.stopPropagation(),e.stopImmediatePropagation()},_x:!1,_y:!1},focus:{dist:(l,e,t,n,i)=>n-i,prox:-1,bias:0},hover:{skip:[void 0],prox:null,bias:0},left:-10,top:-10,idx:null,dataIdx:null,idxs:null,event:null},Ge={show:!0,stroke:"rgba(0,0,0,0.07)",width:2},Ie=Bl({},Ge,{filter:kl}),Le=Bl({},Ie,{size:10}),Oe=Bl({},Ge,{show:!1}),Ne=\'12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", sans-serif, "Apple Color Emoji", "Segoe UI Emoji", "Segoe UI Symbol", "Noto Color Emoji"\',je="bold "+Ne,Ue={show:!0,scale:"x",stroke:u,space:50,gap:5,alignTo:1,size:50,labelGap:0,labelSize:30,labelFont:je,side:2,grid:Ie,ticks:Le,border:Oe,font:Ne,lineGap:1.5,rotate:0},Ve={show:!0,scale:"x",auto:!1,sorted:1,min:gl,max:-gl,idxs:[]};function Be(l,e){return e.map((l=>null==l?"":tl(l)))}function $e(l,e,t,n,i,o,s){let r=[],u=Wl.get(i)||0;for(let l=t=s?t:Al(Dl(t,i),u);n>=l;l=Al(l+i,u))r.push(Object.is(l,-0)?0:l);return r}function Je(l,e,t,n,i){const o=[],s=l.scales[l.axes[e].scale].log,r=sl((10==s?dl:pl)(t));i=cl(s,r),10==s&&(i=fe[L(i,fe)]);let u=t,a=i*s;10==s&&(a=fe[L(a,fe)]);do{o.push(u),u+=i,10!=s||Wl.has(u)||(u=Al(u,Wl.get(i))),a>u||(a=(i=u)*s,10==s&&(a=fe[L(a,fe)]))}while(n>=u);return o}function qe(l,e,t,n,i){let o=l.scales[l.axes[e].scale].asinh,s=n>o?Je(l,e,fl(o,t),n,i):[o],r=0>n||t>0?[]:[0];return(-o>t?Je(l,e,fl(o,-n),-t,i):[o]).reverse().map((l=>-l)).concat(r,s)}const Ke=/./,Xe=/[12357]/,Ze=/[125]/,Qe=/1/,lt=(l,e,t,n)=>l.map(((l,i)=>4==e&&0==l||i%n==0&&t.test(l.toExponential()[0>l?1:0])?l:null));function et(l,e,t){let n=l.axes[t],i=n.scale,o=l.scales[i],s=l.valToPos,r=n._space,u=s(10,i),a=s(9,i)-u<r?s(7,i)-u<r?s(5,i)-u<r?Qe:Ze:Xe:Ke;if(a==Qe){let l=ol(s(1,i)-u);if(r>l)return lt(e.slice().reverse(),o.distr,a,ul(r/l)).reverse()}return lt(e,o.distr,a,1)}function tt(l,e,t){let n=l.axes[t],i=n.scale,o=n._space,s=l.valToPos,r=ol(s(1,i)-s(2,i));return o>r?lt(e.slice().reverse(),3,Ke,ul(o/r)).reverse():e}function nt(l,e,t,n){return null==n?w:null==e?"":tl(e)}const it={show:!0,scale:"y",stroke:u,space:30,gap:5,alignTo:1,size:50,labelGap:0,labelSize:30,labelFont:je,side:3,grid:Ie,ticks:Le,border:Oe,font:Ne,lineGap:1.5,rotate:0},ot={scale:null,auto:!0,sorted:0,min:gl,max:-gl},st=(l,e,t,n,i)=>i,rt={show:!0,auto:!0,sorted:0,gaps:st,alpha:1,facets:[Bl({},ot,{scale:"x"}),Bl({},ot,{scale:"y"})]},ut={scale:"y",auto:!0,sorted:0,show:!0,spanGaps:!1,gaps:st,alpha:1,points:{show:function(l,e){let{scale:t,idxs:n}=l.series[0],i=l._data[0],o=l.valToPos(i[n[0]],t,!0),s=l.valToPos(i[n[1]],t,!0);return ol(s-o)/(l.series[e].points.space*y)>=n[1]-n[0]},filter:null},values:null,min:gl,max:-gl,idxs:[],path:null,clip:null};function at(l,e,t){return t/10}const ft={time:!0,auto:!0,distr:1,log:10,asinh:1,min:null,max:null,dir:1,ori:0},ct=Bl({},ft,{time:!1,ori:1}),ht={};function dt(l){let e=ht[l];return e||(e={key:l,plots:[],sub(l){e.plots.push(l)},unsub(l){e.plots=e.plots.filter((e=>e!=l))},pub(l,t,n,i,o,s,r){for(let u=0;e.plots.length>u;u++)e.plots[u]!=t&&e.plots[u].pub(l,t,n,i,o,s,r)}},null!=l&&(ht[l]=e)),e}function pt(l,e,t){const n=l.mode,i=l.series[e],o=2==n?l._data[e]:l._data,s=l.scales,r=l.bbox;let u=o[0],a=2==n?o[1]:o[e],f=2==n?s[i.facets[0].scale]:s[l.series[0].scale],c=2==n?s[i.facets[1].scale]:s[i.scale],h=r.left,d=r.top,p=r.width,m=r.height,g=l.valToPosH,x=l.valToPosV;return 0==f.ori?t(i,u,a,f,c,g,x,h,d,p,m,kt,Mt,Tt,zt,Pt):t(i,u,a,f,c,x,g,d,h,m,p,yt,St,Et,Dt,At)}function mt(l,e){let t=0,n=0,i=Q(l.bands,Fl);for(let l=0;i.length>l;l++){let o=i[l];o.series[0]==e?t=o.dir:o.series[1]==e&&(n|=1==o.dir?1:2)}return[t,1==n?-1:2==n?1:3==n?2:0]}function gt(l,e,t,n,i){let o=l.series[e],s=l.scales[2==l.mode?o.facets[1].scale:o.scale];return-1==i?s.min:1==i?s.max:3==s.distr?1==s.dir?s.min:s.max:0}function xt(l,e,t,n,i,o){return pt(l,e,((l,e,s,r,u,a,f,c,h,d,p)=>{let m=l.pxRound;const g=0==r.ori?Mt:St;let x,w;1==r.dir*(0==r.ori?1:-1)?(x=t,w=n):(x=n,w=t);let _=m(a(e[x],r,d,c)),b=m(f(s[x],u,p,h)),v=m(a(e[w],r,d,c)),k=m(f(1==o?u.max:u.min,u,p,h)),y=new Path2D(i);return g(y,v,k),g(y,_,k),g(y,_,b),y}))}function wt(l,e,t,n,i,o){let s=null;if(l.length>0){s=new Path2D;const r=0==e?Tt:Et;let u=t;for(let e=0;l.length>e;e++){let t=l[e];if(t[1]>t[0]){let l=t[0]-u;l>0&&r(s,u,n,l,n+o),u=t[1]}}let a=t+i-u,f=10;a>0&&r(s,u,n-f/2,a,n+o+f)}return s}function _t(l,e,t,n,i,o,s){let r=[],u=l.length;for(let a=1==i?t:n;a>=t&&n>=a;a+=i)if(null===e[a]){let f=a,c=a;if(1==i)for(;++a<=n&&null===e[a];)c=a;else for(;--a>=t&&null===e[a];)c=a;let h=o(l[f]),d=c==f?h:o(l[c]),p=f-i;h=s>0||0>p||p>=u?h:o(l[p]);let m=c+i;d=0>s||0>m||m>=u?d:o(l[m]),h>d||r.push([h,d])}return r}function bt(l){return 0==l?vl:1==l?rl:e=>zl(e,l)}function vt(l){let e=0==l?kt:yt,t=0==l?(l,e,t,n,i,o)=>{l.arcTo(e,t,n,i,o)}:(l,e,t,n,i,o)=>{l.arcTo(t,e,i,n,o)},n=0==l?(l,e,t,n,i)=>{l.rect(e,t,n,i)}:(l,e,t,n,i)=>{l.rect(t,e,i,n)};return(l,i,o,s,r,u=0,a=0)=>{0==u&&0==a?n(l,i,o,s,r):(u=al(u,s/2,r/2),a=al(a,s/2,r/2),e(l,i+u,o),t(l,i+s,o,i+s,o+r,u),t(l,i+s,o+r,i,o+r,a),t(l,i,o+r,i,o,a),t(l,i,o,i+s,o,u),l.closePath())}}const kt=(l,e,t)=>{l.moveTo(e,t)},yt=(l,e,t)=>{l.moveTo(t,e)},Mt=(l,e,t)=>{l.lineTo(e,t)},St=(l,e,t)=>{l.lineTo(t,e)},Tt=vt(0),Et=vt(1),zt=(l,e,t,n,i,o)=>{l.arc(e,t,n,i,o)},Dt=(l,e,t,n,i,o)=>{l.arc(t,e,n,i,o)},Pt=(l,e,t,n,i,o,s)=>{l.bezierCurveTo(e,t,n,i,o,s)},At=(l,e,t,n,i,o,s)=>{l.bezierCurveTo(t,e,i,n,s,o)};function Wt(){return(l,e,t,n,i)=>pt(l,e,((e,o,s,r,u,a,f,c,h,d,p)=>{let m,g,{pxRound:x,points:w}=e;0==r.ori?(m=kt,g=zt):(m=yt,g=Dt);const _=Al(w.width*y,3);let b=(w.size-w.width)/2*y,v=Al(2*b,3),k=new Path2D,M=new Path2D,{left:S,top:T,width:E,height:z}=l.bbox;Tt(M,S-v,T-v,E+2*v,z+2*v);const D=l=>{if(null!=s[l]){let e=x(a(o[l],r,d,c)),t=x(f(s[l],u,p,h));m(k,e+b,t),g(k,e,t,b,0,2*il)}};if(i)i.forEach(D);else for(let l=t;n>=l;l++)D(l);return{stroke:_>0?k:null,fill:k,clip:M,flags:3}}))}function Yt(l){return(e,t,n,i,o,s)=>{n!=i&&(o!=n&&s!=n&&l(e,t,n),o!=i&&s!=i&&l(e,t,i),l(e,t,s))}}const Ct=Yt(Mt),Ht=Yt(St);function Ft(l){const e=Q(l?.alignGaps,0);return(l,t,n,i)=>pt(l,t,((o,s,r,u,a,f,c,h,d,p,m)=>{[n,i]=U(r,n,i);let g,x,w=o.pxRound,_=l=>w(f(l,u,p,h)),b=l=>w(c(l,a,m,d));0==u.ori?(g=Mt,x=Ct):(g=St,x=Ht);const v=u.dir*(0==u.ori?1:-1),k={stroke:new Path2D,fill:null,clip:null,band:null,gaps:null,flags:1},y=k.stroke;let M=!1;if(i-n<4*p)for(let l=1==v?n:i;l>=n&&i>=l;l+=v){let e=r[l];null===e?M=!0:null!=e&&g(y,_(s[l]),b(e))}else{let e,t,o,a=e=>l.posToVal(e,u.key,!0),f=null,c=null,h=_(s[1==v?n:i]),d=_(s[n]),p=_(s[i]),m=a(1==v?d+1:p-1);for(let l=1==v?n:i;l>=n&&i>=l;l+=v){let n=s[l],i=(1==v?m>n:n>m)?h:_(n),o=r[l];i==h?null!=o?(t=o,null==f?(g(y,i,b(t)),e=f=c=t):f>t?f=t:t>c&&(c=t)):null===o&&(M=!0):(null!=f&&x(y,h,b(f),b(c),b(e),b(t)),null!=o?(t=o,g(y,i,b(t)),f=c=e=t):(f=c=null,null===o&&(M=!0)),h=i,m=a(h+v))}null!=f&&f!=c&&o!=h&&x(y,h,b(f),b(c),b(e),b(t))}let[S,T]=mt(l,t);if(null!=o.fill||0!=S){let e=k.fill=new Path2D(y),r=b(o.fillTo(l,t,o.min,o.max,S)),u=_(s[n]),a=_(s[i]);-1==v&&([a,u]=[u,a]),g(e,a,r),g(e,u,r)}if(!o.spanGaps){let a=[];M&&a.push(..._t(s,r,n,i,v,_,e)),k.gaps=a=o.gaps(l,t,n,i,a),k.clip=wt(a,u.ori,h,d,p,m)}return 0!=T&&(k.band=2==T?[xt(l,t,n,i,y,-1),xt(l,t,n,i,y,1)]:xt(l,t,n,i,y,T)),k}))}function Rt(l,e,t,n,i,o,s=gl){if(l.length>1){let r=null;for(let u=0,a=1/0;l.length>u;u++)if(void 0!==e[u]){if(null!=r){let e=ol(l[u]-l[r]);a>e&&(a=e,s=ol(t(l[u],n,i,o)-t(l[r],n,i,o)))}r=u}}return s}function Gt(l,e,t,n,i){const o=l.length;if(2>o)return null;const s=new Path2D;if(t(s,l[0],e[0]),2==o)n(s,l[1],e[1]);else{let t=Array(o),n=Array(o-1),r=Array(o-1),u=Array(o-1);for(let t=0;o-1>t;t++)r[t]=e[t+1]-e[t],u[t]=l[t+1]-l[t],n[t]=r[t]/u[t];t[0]=n[0];for(let l=1;o-1>l;l++)0===n[l]||0===n[l-1]||n[l-1]>0!=n[l]>0?t[l]=0:(t[l]=3*(u[l-1]+u[l])/((2*u[l]+u[l-1])/n[l-1]+(u[l]+2*u[l-1])/n[l]),isFinite(t[l])||(t[l]=0));t[o-1]=n[o-2];for(let n=0;o-1>n;n++)i(s,l[n]+u[n]/3,e[n]+t[n]*u[n]/3,l[n+1]-u[n]/3,e[n+1]-t[n+1]*u[n]/3,l[n+1],e[n+1])}return s}const It=new Set;function Lt(){for(let l of It)l.syncRect(!0)}_&&(G("resize",v,Lt),G("scroll",v,Lt,!0),G(x,v,(()=>{en.pxRatio=y})));const Ot=Ft(),Nt=Wt();function jt(l,e,t,n){return(n?[l[0],l[1]].concat(l.slice(2)):[l[0]].concat(l.slice(1))).map(((l,n)=>Ut(l,n,e,t)))}function Ut(l,e,t,n){return Bl({},0==e?t:n,l)}function Vt(l,e,t){return null==e?Rl:[e,t]}const Bt=Vt;function $t(l,e,t){return null==e?Rl:Z(e,t,J,!0)}function Jt(l,e,t,n){return null==e?Rl:B(e,t,l.scales[n].log,!1)}const qt=Jt;function Kt(l,e,t,n){return null==e?Rl:$(e,t,l.scales[n].log,!1)}const Xt=Kt;function Zt(l,e,t,n,i){let o=fl(xl(l),xl(e)),s=e-l,r=L(i/n*s,t);do{let l=t[r],e=n*l/s;if(e>=i&&17>=o+(5>l?Wl.get(l):0))return[l,e]}while(++r<t.length);return[0,0]}function Qt(l){let e,t;return[l=l.replace(/(\\d+)px/,((l,n)=>(e=rl((t=+n)*y))+"px")),e,t]}function ln(l){l.show&&[l.font,l.labelFont].forEach((l=>{let e=Al(l[2]*y,1);l[0]=l[0].replace(/[0-9.]+px/,e+"px"),l[1]=e}))}function en(u,g,_){const k={mode:Q(u.mode,1)},M=k.mode;function P(l,e,t,n){let i=e.valToPct(l);return n+t*(-1==e.dir?1-i:i)}function W(l,e,t,n){let i=e.valToPct(l);return n+t*(-1==e.dir?i:1-i)}function C(l,e,t,n){return 0==e.ori?P(l,e,t,n):W(l,e,t,n)}k.valToPosH=P,k.valToPosV=W;let F=!1;k.status=0;const R=k.root=D("uplot");null!=u.id&&(R.id=u.id),S(R,u.class),u.title&&(D("u-title",R).textContent=u.title);const O=z("canvas"),K=k.ctx=O.getContext("2d"),X=D("u-wrap",R);G("click",X,(l=>{l.target===el&&(Nn!=Gn||jn!=In)&&Zn.click(k,l)}),!0);const ll=k.under=D("u-under",X);X.appendChild(O);const el=k.over=D("u-over",X),tl=+Q((u=Vl(u)).pxAlign,1),sl=bt(tl);(u.plugins||[]).forEach((l=>{l.opts&&(u=l.opts(k,u)||u)}));const hl=u.ms||.001,pl=k.series=1==M?jt(u.series||[],Ve,ut,!1):function(l,e){return l.map(((l,t)=>0==t?{}:Bl({},e,l)))}(u.series||[null],rt),xl=k.axes=jt(u.axes||[],Ue,it,!0),vl=k.scales={},Tl=k.bands=u.bands||[];Tl.forEach((l=>{l.fill=bl(l.fill||null),l.dir=Q(l.dir,-1)}));const El=2==M?pl[1].facets[0].scale:pl[0].scale,Dl={axes:function(){for(let l=0;xl.length>l;l++){let e=xl[l];if(!e.show||!e._show)continue;let t,n,u=e.side,a=u%2,f=e.stroke(k,l),c=0==u||3==u?-1:1,[h,d]=e._found;if(null!=e.label){let s=rl((e._lpos+e.labelGap*c)*y);_n(e.labelFont[0],f,"center",2==u?i:o),K.save(),1==a?(t=n=0,K.translate(s,rl(lt+st/2)),K.rotate((3==u?-il:il)/2)):(t=rl(Qe+ot/2),n=s);let r=_l(e.label)?e.label(k,l,h,d):e.label;K.fillText(r,t,n),K.restore()}if(0==d)continue;let p=vl[e.scale],m=0==a?ot:st,g=0==a?Qe:lt,x=e._splits,w=2==p.distr?x.map((l=>pn[l])):x,_=2==p.distr?pn[x[1]]-pn[x[0]]:h,b=e.ticks,v=e.border,M=b.show?b.size:0,S=rl(M*y),T=rl((2==e.alignTo?e._size-M-e.gap:e.gap)*y),E=e._rotate*-il/180,z=sl(e._pos*y),D=z+(S+T)*c;n=0==a?D:0,t=1==a?D:0,_n(e.font[0],f,1==e.align?s:2==e.align?r:E>0?s:0>E?r:0==a?"center":3==u?r:s,E||1==a?"middle":2==u?i:o);let P=e.font[1]*e.lineGap,A=x.map((l=>sl(C(l,p,m,g)))),W=e._values;for(let l=0;W.length>l;l++){let e=W[l];if(null!=e){0==a?t=A[l]:n=A[l],e=""+e;let i=-1==e.indexOf("\\n")?[e]:e.split(/\\n/gm);for(let l=0;i.length>l;l++){let e=i[l];E?(K.save(),K.translate(t,n+l*P),K.rotate(E),K.fillText(e,0,0),K.restore()):K.fillText(e,t,n+l*P)}}}b.show&&zn(A,b.filter(k,w,l,d,_),a,u,z,S,Al(b.width*y,3),b.stroke(k,l),b.dash,b.cap);let Y=e.grid;Y.show&&zn(A,Y.filter(k,w,l,d,_),a,0==a?2:1,0==a?lt:Qe,0==a?st:ot,Al(Y.width*y,3),Y.stroke(k,l),Y.dash,Y.cap),v.show&&zn([z],[1],0==a?1:0,0==a?1:2,1==a?lt:Qe,1==a?st:ot,Al(v.width*y,3),v.stroke(k,l),v.dash,v.cap)}Ci("drawAxes")},series:function(){if(Gt>0){let l=pl.some((l=>l._focus))&&dn!=Tt.alpha;l&&(K.globalAlpha=dn=Tt.alpha),pl.forEach(((l,e)=>{if(e>0&&l.show&&(kn(e,!1),kn(e,!0),null==l._paths)){let t=dn;dn!=l.alpha&&(K.globalAlpha=dn=l.alpha);let n=2==M?[0,g[e][0].length-1]:function(l){let e=wl(Lt-1,0,Gt-1),t=wl(en+1,0,Gt-1);for(;null==l[e]&&e>0;)e--;for(;null==l[t]&&Gt-1>t;)t++;return[e,t]}(g[e]);l._paths=l.paths(k,e,n[0],n[1]),dn!=t&&(K.globalAlpha=dn=t)}})),pl.forEach(((l,e)=>{if(e>0&&l.show){let t=dn;dn!=l.alpha&&(K.globalAlpha=dn=l.alpha),null!=l._paths&&yn(e,!1);{let t=null!=l._paths?l._paths.gaps:null,n=l.points.show(k,e,Lt,en,t),i=l.points.filter(k,e,n,t);(n||i)&&(l.points._paths=l.points.paths(k,e,Lt,en,i),yn(e,!0))}dn!=t&&(K.globalAlpha=dn=t),Ci("drawSeries",e)}})),l&&(K.globalAlpha=dn=1)}}},Pl=(u.drawOrder||["axes","series"]).map((l=>Dl[l]));function Cl(l){const e=3==l.distr?e=>dl(e>0?e:l.clamp(k,e,l.min,l.max,l.key)):4==l.distr?e=>ml(e,l.asinh):100==l.distr?e=>l.fwd(e):l=>l;return t=>{let n=e(t),{_min:i,_max:o}=l;return(n-i)/(o-i)}}function Il(l){let e=vl[l];if(null==e){let t=(u.scales||Hl)[l]||Hl;if(null!=t.from){Il(t.from);let e=Bl({},vl[t.from],t,{key:l});e.valToPct=Cl(e),vl[l]=e}else{e=vl[l]=Bl({},l==El?ft:ct,t),e.key=l;let n=e.time,i=e.range,o=Gl(i);if((l!=El||2==M&&!n)&&(!o||null!=i[0]&&null!=i[1]||(i={min:null==i[0]?q:{mode:1,hard:i[0],soft:i[0]},max:null==i[1]?q:{mode:1,hard:i[1],soft:i[1]}},o=!1),!o&&Ol(i))){let l=i;i=(e,t,n)=>null==t?Rl:Z(t,n,l)}e.range=bl(i||(n?Bt:l==El?3==e.distr?qt:4==e.distr?Xt:Vt:3==e.distr?Jt:4==e.distr?Kt:$t)),e.auto=bl(!o&&e.auto),e.clamp=bl(e.clamp||at),e._min=e._max=null,e.valToPct=Cl(e)}}}Il("x"),Il("y"),1==M&&pl.forEach((l=>{Il(l.scale)})),xl.forEach((l=>{Il(l.scale)}));for(let l in u.scales)Il(l);const jl=vl[El],Ul=jl.distr;let $l,ql;0==jl.ori?(S(R,"u-hz"),$l=P,ql=W):(S(R,"u-vt"),$l=W,ql=P);const Kl={};for(let l in vl){let e=vl[l];null==e.min&&null==e.max||(Kl[l]={min:e.min,max:e.max},e.min=e.max=null)}const Xl=u.tzDate||(l=>new Date(rl(l/hl))),Zl=u.fmtDate||ne,Ql=1==hl?Me(Xl):Ee(Xl),le=De(Xl,ze(1==hl?ye:Te,Zl)),ee=We(Xl,Ae("{YYYY}-{MM}-{DD} {h}:{mm}{aa}",Zl)),te=[],ie=k.legend=Bl({},Ye,u.legend),oe=k.cursor=Bl({},Re,{drag:{y:2==M}},u.cursor),se=ie.show,re=oe.show,ue=ie.markers;let ce,he,de;ie.idxs=te,ue.width=bl(ue.width),ue.dash=bl(ue.dash),ue.stroke=bl(ue.stroke),ue.fill=bl(ue.fill);let pe,me=[],ge=[],xe=!1,we={};if(ie.live){const l=pl[1]?pl[1].values:null;xe=null!=l,pe=xe?l(k,1,0):{_:0};for(let l in pe)we[l]=w}if(se)if(ce=z("table","u-legend",R),de=z("tbody",null,ce),ie.mount(k,ce),xe){he=z("thead",null,ce,de);let l=z("tr",null,he);for(var _e in z("th",null,l),pe)z("th",e,l).textContent=_e}else S(ce,"u-inline"),ie.live&&S(ce,"u-live");const be={show:!0},ve={show:!1},Pe=new Map;function Ce(l,e,t,n=!0){const i=Pe.get(e)||{},o=oe.bind[l](k,e,t,n);o&&(G(l,e,i[l]=o),Pe.set(e,i))}function He(l,e){const t=Pe.get(e)||{};for(let n in t)null!=l&&n!=l||(I(n,e,t[n]),delete t[n]);null==l&&Pe.delete(e)}let Fe=0,Ge=0,Ie=0,Le=0,Oe=0,Ne=0,je=Oe,Ke=Ne,Xe=Ie,Ze=Le,Qe=0,lt=0,ot=0,st=0;k.bbox={};let ht=!1,pt=!1,mt=!1,xt=!1,wt=!1,_t=!1;function vt(l,e,t){(t||l!=k.width||e!=k.height)&&kt(l,e),An(!1),mt=!0,pt=!0,Jn()}function kt(l,e){k.width=Fe=Ie=l,k.height=Ge=Le=e,Oe=Ne=0,function(){let l=!1,e=!1,t=!1,n=!1;xl.forEach((i=>{if(i.show&&i._show){let{side:o,_size:s}=i,r=s+(null!=i.label?i.labelSize:0);r>0&&(o%2?(Ie-=r,3==o?(Oe+=r,n=!0):t=!0):(Le-=r,0==o?(Ne+=r,l=!0):e=!0))}})),Ct[0]=l,Ct[1]=t,Ct[2]=e,Ct[3]=n,Ie-=Rt[1]+Rt[3],Oe+=Rt[3],Le-=Rt[2]+Rt[0],Ne+=Rt[0]}(),function(){let l=Oe+Ie,e=Ne+Le,t=Oe,n=Ne;function i(i,o){switch(i){case 1:return l+=o,l-o;case 2:return e+=o,e-o;case 3:return t-=o,t+o;case 0:return n-=o,n+o}}xl.forEach((l=>{if(l.show&&l._show){let e=l.side;l._pos=i(e,l._size),null!=l.label&&(l._lpos=i(e,l.labelSize))}}))}();let t=k.bbox;Qe=t.left=zl(Oe*y,.5),lt=t.top=zl(Ne*y,.5),ot=t.width=zl(Ie*y,.5),st=t.height=zl(Le*y,.5)}const yt=3;if(k.setSize=function({width:l,height:e}){vt(l,e)},null==oe.dataIdx){let l=oe.hover,e=l.skip=new Set(l.skip??[]);e.add(void 0);let t=l.prox=bl(l.prox),n=l.bias??=0;oe.dataIdx=(l,i,o,s)=>{if(0==i)return o;let r=o,u=t(l,i,o,s)??gl,a=u>=0&&gl>u,f=0==jl.ori?Ie:Le,c=oe.left,h=g[0],d=g[i];if(e.has(d[o])){r=null;let l,t=null,i=null;if(0==n||-1==n)for(l=o;null==t&&l-- >0;)e.has(d[l])||(t=l);if(0==n||1==n)for(l=o;null==i&&l++<d.length;)e.has(d[l])||(i=l);if(null!=t||null!=i)if(a){let l=c-(null==t?-1/0:$l(h[t],jl,f,0)),e=(null==i?1/0:$l(h[i],jl,f,0))-c;l>e?e>u||(r=i):l>u||(r=t)}else r=null==i?t:null==t||o-t>i-o?i:t}else a&&ol(c-$l(h[o],jl,f,0))>u&&(r=null);return r}}const Mt=l=>{oe.event=l};oe.idxs=te,oe._lock=!1;let St=oe.points;St.show=bl(St.show),St.size=bl(St.size),St.stroke=bl(St.stroke),St.width=bl(St.width),St.fill=bl(St.fill);const Tt=k.focus=Bl({},u.focus||{alpha:.3},oe.focus),Et=Tt.prox>=0,zt=Et&&St.one;let Dt=[],Pt=[],At=[];function Wt(l,e){let t=St.show(k,e);if(t instanceof HTMLElement)return S(t,"u-cursor-pt"),S(t,l.class),A(t,-10,-10,Ie,Le),el.insertBefore(t,Dt[e]),t}function Yt(t,n){if(1==M||n>0){let l=1==M&&vl[t.scale].time,e=t.value;t.value=l?Ll(e)?We(Xl,Ae(e,Zl)):e||ee:e||nt,t.label=t.label||(l?"Time":"Value")}if(zt||n>0){t.width=null==t.width?1:t.width,t.paths=t.paths||Ot||yl,t.fillTo=bl(t.fillTo||gt),t.pxAlign=+Q(t.pxAlign,tl),t.pxRound=bt(t.pxAlign),t.stroke=bl(t.stroke||null),t.fill=bl(t.fill||null),t._stroke=t._fill=t._paths=t._focus=null;let l=function(l){return Al(1*(3+2*(l||1)),3)}(fl(1,t.width)),e=t.points=Bl({},{size:l,width:fl(1,.2*l),stroke:t.stroke,space:2*l,paths:Nt,_stroke:null,_fill:null},t.points);e.show=bl(e.show),e.filter=bl(e.filter),e.fill=bl(e.fill),e.stroke=bl(e.stroke),e.paths=bl(e.paths),e.pxAlign=t.pxAlign}if(se){let i=function(t,n){if(0==n&&(xe||!ie.live||2==M))return Rl;let i=[],o=z("tr","u-series",de,de.childNodes[n]);S(o,t.class),t.show||S(o,l);let s=z("th",null,o);if(ue.show){let l=D("u-marker",s);if(n>0){let e=ue.width(k,n);e&&(l.style.border=e+"px "+ue.dash(k,n)+" "+ue.stroke(k,n)),l.style.background=ue.fill(k,n)}}let r=D(e,s);for(var u in t.label instanceof HTMLElement?r.appendChild(t.label):r.textContent=t.label,n>0&&(ue.show||(r.style.color=t.width>0?ue.stroke(k,n):ue.fill(k,n)),Ce("click",s,(l=>{if(oe._lock)return;Mt(l);let e=pl.indexOf(t);if((l.ctrlKey||l.metaKey)!=ie.isolate){let l=pl.some(((l,t)=>t>0&&t!=e&&l.show));pl.forEach(((t,n)=>{n>0&&oi(n,l?n==e?be:ve:be,!0,Fi.setSeries)}))}else oi(e,{show:!t.show},!0,Fi.setSeries)}),!1),Et&&Ce(d,s,(l=>{oe._lock||(Mt(l),oi(pl.indexOf(t),ai,!0,Fi.setSeries))}),!1)),pe){let l=z("td","u-value",o);l.textContent="--",i.push(l)}return[o,i]}(t,n);me.splice(n,0,i[0]),ge.splice(n,0,i[1]),ie.values.push(null)}if(re){te.splice(n,0,null);let l=null;zt?0==n&&(l=Wt(t,n)):n>0&&(l=Wt(t,n)),Dt.splice(n,0,l),Pt.splice(n,0,0),At.splice(n,0,0)}Ci("addSeries",n)}k.addSeries=function(l,e){e=null==e?pl.length:e,l=1==M?Ut(l,e,Ve,ut):Ut(l,e,{},rt),pl.splice(e,0,l),Yt(pl[e],e)},k.delSeries=function(l){if(pl.splice(l,1),se){ie.values.splice(l,1),ge.splice(l,1);let e=me.splice(l,1)[0];He(null,e.firstChild),e.remove()}re&&(te.splice(l,1),Dt.splice(l,1)[0].remove(),Pt.splice(l,1),At.splice(l,1)),Ci("delSeries",l)};const Ct=[!1,!1,!1,!1];function Ht(l,e,t){let[n,i,o,s]=t,r=e%2,u=0;return 0==r&&(s||i)&&(u=0==e&&!n||2==e&&!o?rl(Ue.size/3):0),1==r&&(n||o)&&(u=1==e&&!i||3==e&&!s?rl(it.size/2):0),u}const Ft=k.padding=(u.padding||[Ht,Ht,Ht,Ht]).map((l=>bl(Q(l,Ht)))),Rt=k._padding=Ft.map(((l,e)=>l(k,e,Ct,0)));let Gt,Lt=null,en=null;const tn=1==M?pl[0].idxs:null;let nn,on,sn,rn,un,an,fn,cn,hn,dn,pn=null,mn=!1;function gn(l,e){if(k.data=k._data=g=null==l?[]:l,2==M){Gt=0;for(let l=1;pl.length>l;l++)Gt+=g[l][0].length}else{0==g.length&&(k.data=k._data=g=[[]]),pn=g[0],Gt=pn.length;let l=g;if(2==Ul){l=g.slice();let e=l[0]=Array(Gt);for(let l=0;Gt>l;l++)e[l]=l}k._data=g=l}if(An(!0),Ci("setData"),2==Ul&&(mt=!0),!1!==e){let l=jl;l.auto(k,mn)?xn():ii(El,l.min,l.max),xt=xt||oe.left>=0,_t=!0,Jn()}}function xn(){let l,e;mn=!0,1==M&&(Gt>0?(Lt=tn[0]=0,en=tn[1]=Gt-1,l=g[0][Lt],e=g[0][en],2==Ul?(l=Lt,e=en):l==e&&(3==Ul?[l,e]=B(l,l,jl.log,!1):4==Ul?[l,e]=$(l,l,jl.log,!1):jl.time?e=l+rl(86400/hl):[l,e]=Z(l,e,J,!0))):(Lt=tn[0]=l=null,en=tn[1]=e=null)),ii(El,l,e)}function wn(l,e,t,n,i,o){l??=a,t??=Fl,n??="butt",i??=a,o??="round",l!=nn&&(K.strokeStyle=nn=l),i!=on&&(K.fillStyle=on=i),e!=sn&&(K.lineWidth=sn=e),o!=un&&(K.lineJoin=un=o),n!=an&&(K.lineCap=an=n),t!=rn&&K.setLineDash(rn=t)}function _n(l,e,t,n){e!=on&&(K.fillStyle=on=e),l!=fn&&(K.font=fn=l),t!=cn&&(K.textAlign=cn=t),n!=hn&&(K.textBaseline=hn=n)}function bn(l,e,t,n,i=0){if(n.length>0&&l.auto(k,mn)&&(null==e||null==e.min)){let e=Q(Lt,0),o=Q(en,n.length-1),s=null==t.min?function(l,e,t,n=0,i=!1){let o=i?V:U,s=i?j:N;[e,t]=o(l,e,t);let r=l[e],u=l[e];if(e>-1)if(1==n)r=l[e],u=l[t];else if(-1==n)r=l[t],u=l[e];else for(let n=e;t>=n;n++){let e=l[n];s(e)&&(r>e?r=e:e>u&&(u=e))}return[r??gl,u??-gl]}(n,e,o,i,3==l.distr):[t.min,t.max];l.min=al(l.min,t.min=s[0]),l.max=fl(l.max,t.max=s[1])}}k.setData=gn;const vn={min:null,max:null};function kn(l,e){let t=e?pl[l].points:pl[l];t._stroke=t.stroke(k,l),t._fill=t.fill(k,l)}function yn(l,e){let t=e?pl[l].points:pl[l],{stroke:n,fill:i,clip:o,flags:s,_stroke:r=t._stroke,_fill:u=t._fill,_width:a=t.width}=t._paths;a=Al(a*y,3);let f=null,c=a%2/2;e&&null==u&&(u=a>0?"#fff":r);let h=1==t.pxAlign&&c>0;if(h&&K.translate(c,c),!e){let l=Qe-a/2,e=lt-a/2,t=ot+a,n=st+a;f=new Path2D,f.rect(l,e,t,n)}e?Sn(r,a,t.dash,t.cap,u,n,i,s,o):function(l,e,t,n,i,o,s,r,u,a,f){let c=!1;0!=u&&Tl.forEach(((h,d)=>{if(h.series[0]==l){let l,p=pl[h.series[1]],m=g[h.series[1]],x=(p._paths||Hl).band;Gl(x)&&(x=1==h.dir?x[0]:x[1]);let w=null;p.show&&x&&function(l,e,t){for(e=Q(e,0),t=Q(t,l.length-1);t>=e;){if(null!=l[e])return!0;e++}return!1}(m,Lt,en)?(w=h.fill(k,d)||o,l=p._paths.clip):x=null,Sn(e,t,n,i,w,s,r,u,a,f,l,x),c=!0}})),c||Sn(e,t,n,i,o,s,r,u,a,f)}(l,r,a,t.dash,t.cap,u,n,i,s,f,o),h&&K.translate(-c,-c)}const Mn=3;function Sn(l,e,t,n,i,o,s,r,u,a,f,c){wn(l,e,t,n,i),(u||a||c)&&(K.save(),u&&K.clip(u),a&&K.clip(a)),c?(r&Mn)==Mn?(K.clip(c),f&&K.clip(f),En(i,s),Tn(l,o,e)):2&r?(En(i,s),K.clip(c),Tn(l,o,e)):1&r&&(K.save(),K.clip(c),f&&K.clip(f),En(i,s),K.restore(),Tn(l,o,e)):(En(i,s),Tn(l,o,e)),(u||a||c)&&K.restore()}function Tn(l,e,t){t>0&&(e instanceof Map?e.forEach(((l,e)=>{K.strokeStyle=nn=e,K.stroke(l)})):null!=e&&l&&K.stroke(e))}function En(l,e){e instanceof Map?e.forEach(((l,e)=>{K.fillStyle=on=e,K.fill(l)})):null!=e&&l&&K.fill(e)}function zn(l,e,t,n,i,o,s,r,u,a){let f=s%2/2;1==tl&&K.translate(f,f),wn(r,s,u,a,r),K.beginPath();let c,h,d,p,m=i+(0==n||3==n?-o:o);0==t?(h=i,p=m):(c=i,d=m);for(let n=0;l.length>n;n++)null!=e[n]&&(0==t?c=d=l[n]:h=p=l[n],K.moveTo(c,h),K.lineTo(d,p));K.stroke(),1==tl&&K.translate(-f,-f)}function Dn(l){let e=!0;return xl.forEach(((t,n)=>{if(!t.show)return;let i=vl[t.scale];if(null==i.min)return void(t._show&&(e=!1,t._show=!1,An(!1)));t._show||(e=!1,t._show=!0,An(!1));let o=t.side,s=o%2,{min:r,max:u}=i,[a,f]=function(l,e,t,n){let i,o=xl[l];if(n>0){let s=o._space=o.space(k,l,e,t,n);i=Zt(e,t,o._incrs=o.incrs(k,l,e,t,n,s),n,s)}else i=[0,0];return o._found=i}(n,r,u,0==s?Ie:Le);if(0==f)return;let c=t._splits=t.splits(k,n,r,u,a,f,2==i.distr),h=2==i.distr?c.map((l=>pn[l])):c,d=2==i.distr?pn[c[1]]-pn[c[0]]:a,p=t._values=t.values(k,t.filter(k,h,n,f,d),n,f,d);t._rotate=2==o?t.rotate(k,p,n,f):0;let m=t._size;t._size=ul(t.size(k,p,n,l)),null!=m&&t._size!=m&&(e=!1)})),e}function Pn(l){let e=!0;return Ft.forEach(((t,n)=>{let i=t(k,n,Ct,l);i!=Rt[n]&&(e=!1),Rt[n]=i})),e}function An(l){pl.forEach(((e,t)=>{t>0&&(e._paths=null,l&&(1==M?(e.min=null,e.max=null):e.facets.forEach((l=>{l.min=null,l.max=null}))))}))}let Wn,Yn,Cn,Hn,Fn,Rn,Gn,In,Ln,On,Nn,jn,Un=!1,Vn=!1,Bn=[];function $n(){Vn=!1;for(let l=0;Bn.length>l;l++)Ci(...Bn[l]);Bn.length=0}function Jn(){Un||(Jl(qn),Un=!0)}function qn(){if(ht&&(function(){for(let l in vl){let e=vl[l];null==Kl[l]&&(null==e.min||null!=Kl[El]&&e.auto(k,mn))&&(Kl[l]=vn)}for(let l in vl){let e=vl[l];null==Kl[l]&&null!=e.from&&null!=Kl[e.from]&&(Kl[l]=vn)}null!=Kl[El]&&An(!0);let l={};for(let e in Kl){let t=Kl[e];if(null!=t){let n=l[e]=Vl(vl[e],Nl);if(null!=t.min)Bl(n,t);else if(e!=El||2==M)if(0==Gt&&null==n.from){let l=n.range(k,null,null,e);n.min=l[0],n.max=l[1]}else n.min=gl,n.max=-gl}}if(Gt>0){pl.forEach(((e,t)=>{if(1==M){let n=e.scale,i=Kl[n];if(null==i)return;let o=l[n];if(0==t){let l=o.range(k,o.min,o.max,n);o.min=l[0],o.max=l[1],Lt=L(o.min,g[0]),en=L(o.max,g[0]),en-Lt>1&&(o.min>g[0][Lt]&&Lt++,g[0][en]>o.max&&en--),e.min=pn[Lt],e.max=pn[en]}else e.show&&e.auto&&bn(o,i,e,g[t],e.sorted);e.idxs[0]=Lt,e.idxs[1]=en}else if(t>0&&e.show&&e.auto){let[n,i]=e.facets,o=n.scale,s=i.scale,[r,u]=g[t],a=l[o],f=l[s];null!=a&&bn(a,Kl[o],n,r,n.sorted),null!=f&&bn(f,Kl[s],i,u,i.sorted),e.min=i.min,e.max=i.max}}));for(let e in l){let t=l[e],n=Kl[e];if(null==t.from&&(null==n||null==n.min)){let l=t.range(k,t.min==gl?null:t.min,t.max==-gl?null:t.max,e);t.min=l[0],t.max=l[1]}}}for(let e in l){let t=l[e];if(null!=t.from){let n=l[t.from];if(null==n.min)t.min=t.max=null;else{let l=t.range(k,n.min,n.max,e);t.min=l[0],t.max=l[1]}}}let e={},t=!1;for(let n in l){let i=l[n],o=vl[n];if(o.min!=i.min||o.max!=i.max){o.min=i.min,o.max=i.max;let l=o.distr;o._min=3==l?dl(o.min):4==l?ml(o.min,o.asinh):100==l?o.fwd(o.min):o.min,o._max=3==l?dl(o.max):4==l?ml(o.max,o.asinh):100==l?o.fwd(o.max):o.max,e[n]=t=!0}}if(t){pl.forEach(((l,t)=>{2==M?t>0&&e.y&&(l._paths=null):e[l.scale]&&(l._paths=null)}));for(let l in e)mt=!0,Ci("setScale",l);re&&oe.left>=0&&(xt=_t=!0)}for(let l in Kl)Kl[l]=null}(),ht=!1),mt&&(function(){let l=!1,e=0;for(;!l;){e++;let t=Dn(e),n=Pn(e);l=e==yt||t&&n,l||(kt(k.width,k.height),pt=!0)}}(),mt=!1),pt){if(E(ll,s,Oe),E(ll,i,Ne),E(ll,t,Ie),E(ll,n,Le),E(el,s,Oe),E(el,i,Ne),E(el,t,Ie),E(el,n,Le),E(X,t,Fe),E(X,n,Ge),O.width=rl(Fe*y),O.height=rl(Ge*y),xl.forEach((({_el:e,_show:t,_size:n,_pos:i,side:o})=>{if(null!=e)if(t){let t=o%2==1;E(e,t?"left":"top",i-(3===o||0===o?n:0)),E(e,t?"width":"height",n),E(e,t?"top":"left",t?Ne:Oe),E(e,t?"height":"width",t?Le:Ie),T(e,l)}else S(e,l)})),nn=on=sn=un=an=fn=cn=hn=rn=null,dn=1,_i(!0),Oe!=je||Ne!=Ke||Ie!=Xe||Le!=Ze){An(!1);let l=Ie/Xe,e=Le/Ze;if(re&&!xt&&oe.left>=0){oe.left*=l,oe.top*=e,Cn&&A(Cn,rl(oe.left),0,Ie,Le),Hn&&A(Hn,0,rl(oe.top),Ie,Le);for(let t=0;Dt.length>t;t++){let n=Dt[t];null!=n&&(Pt[t]*=l,At[t]*=e,A(n,ul(Pt[t]),ul(At[t]),Ie,Le))}}if(ei.show&&!wt&&ei.left>=0&&ei.width>0){ei.left*=l,ei.width*=l,ei.top*=e,ei.height*=e;for(let l in ki)E(ti,l,ei[l])}je=Oe,Ke=Ne,Xe=Ie,Ze=Le}Ci("setSize"),pt=!1}Fe>0&&Ge>0&&(K.clearRect(0,0,O.width,O.height),Ci("drawClear"),Pl.forEach((l=>l())),Ci("draw")),ei.show&&wt&&(ni(ei),wt=!1),re&&xt&&(xi(null,!0,!1),xt=!1),ie.show&&ie.live&&_t&&(mi(),_t=!1),F||(F=!0,k.status=1,Ci("ready")),mn=!1,Un=!1}function Kn(l,e){let t=vl[l];if(null==t.from){if(0==Gt){let n=t.range(k,e.min,e.max,l);e.min=n[0],e.max=n[1]}if(e.min>e.max){let l=e.min;e.min=e.max,e.max=l}if(Gt>1&&null!=e.min&&null!=e.max&&1e-16>e.max-e.min)return;l==El&&2==t.distr&&Gt>0&&(e.min=L(e.min,g[0]),e.max=L(e.max,g[0]),e.min==e.max&&e.max++),Kl[l]=e,ht=!0,Jn()}}k.batch=function(l,e=!1){Un=!0,Vn=e,l(k),qn(),e&&Bn.length>0&&queueMicrotask($n)},k.redraw=(l,e)=>{mt=e||!1,!1!==l?ii(El,jl.min,jl.max):Jn()},k.setScale=Kn;let Xn=!1;const Zn=oe.drag;let Qn=Zn.x,li=Zn.y;re&&(oe.x&&(Wn=D("u-cursor-x",el)),oe.y&&(Yn=D("u-cursor-y",el)),0==jl.ori?(Cn=Wn,Hn=Yn):(Cn=Yn,Hn=Wn),Nn=oe.left,jn=oe.top);const ei=k.select=Bl({show:!0,over:!0,left:0,width:0,top:0,height:0},u.select),ti=ei.show?D("u-select",ei.over?el:ll):null;function ni(l,e){if(ei.show){for(let e in l)ei[e]=l[e],e in ki&&E(ti,e,l[e]);!1!==e&&Ci("setSelect")}}function ii(l,e,t){Kn(l,{min:e,max:t})}function oi(e,t,n,i){null!=t.focus&&function(l){if(l!=ui){let e=null==l,t=1!=Tt.alpha;pl.forEach(((n,i)=>{if(1==M||i>0){let o=e||0==i||i==l;n._focus=e?null:o,t&&function(l,e){pl[l].alpha=e,re&&null!=Dt[l]&&(Dt[l].style.opacity=e),se&&me[l]&&(me[l].style.opacity=e)}(i,o?1:Tt.alpha)}})),ui=l,t&&Jn()}}(e),null!=t.show&&pl.forEach(((n,i)=>{0>=i||e!=i&&null!=e||(n.show=t.show,function(e){if(pl[e].show)se&&T(me[e],l);else if(se&&S(me[e],l),re){let l=zt?Dt[0]:Dt[e];null!=l&&A(l,-10,-10,Ie,Le)}}(i),2==M?(ii(n.facets[0].scale,null,null),ii(n.facets[1].scale,null,null)):ii(n.scale,null,null),Jn())})),!1!==n&&Ci("setSeries",e,t),i&&Ii("setSeries",k,e,t)}let si,ri,ui;k.setSelect=ni,k.setSeries=oi,k.addBand=function(l,e){l.fill=bl(l.fill||null),l.dir=Q(l.dir,-1),Tl.splice(e=null==e?Tl.length:e,0,l)},k.setBand=function(l,e){Bl(Tl[l],e)},k.delBand=function(l){null==l?Tl.length=0:Tl.splice(l,1)};const ai={focus:!0};function fi(l,e,t){let n=vl[e];t&&(l=l/y-(1==n.ori?Ne:Oe));let i=Ie;1==n.ori&&(i=Le,l=i-l),-1==n.dir&&(l=i-l);let o=n._min,s=o+l/i*(n._max-o),r=n.distr;return 3==r?cl(10,s):4==r?((l,e=1)=>nl.sinh(l)*e)(s,n.asinh):100==r?n.bwd(s):s}function ci(l,e){E(ti,s,ei.left=l),E(ti,t,ei.width=e)}function hi(l,e){E(ti,i,ei.top=l),E(ti,n,ei.height=e)}se&&Et&&Ce(p,ce,(l=>{oe._lock||(Mt(l),null!=ui&&oi(null,ai,!0,Fi.setSeries))})),k.valToIdx=l=>L(l,g[0]),k.posToIdx=function(l,e){return L(fi(l,El,e),g[0],Lt,en)},k.posToVal=fi,k.valToPos=(l,e,t)=>0==vl[e].ori?P(l,vl[e],t?ot:Ie,t?Qe:0):W(l,vl[e],t?st:Le,t?lt:0),k.setCursor=(l,e,t)=>{Nn=l.left,jn=l.top,xi(null,e,t)};let di=0==jl.ori?ci:hi,pi=1==jl.ori?ci:hi;function mi(l,e){if(null!=l&&(l.idxs?l.idxs.forEach(((l,e)=>{te[e]=l})):(l=>void 0===l)(l.idx)||te.fill(l.idx),ie.idx=te[0]),se&&ie.live){for(let l=0;pl.length>l;l++)(l>0||1==M&&!xe)&&gi(l,te[l]);!function(){if(se&&ie.live)for(let l=2==M?1:0;pl.length>l;l++){if(0==l&&xe)continue;let e=ie.values[l],t=0;for(let n in e)ge[l][t++].firstChild.nodeValue=e[n]}}()}_t=!1,!1!==e&&Ci("setLegend")}function gi(l,e){let t,n=pl[l],i=0==l&&2==Ul?pn:g[l];xe?t=n.values(k,l,e)??we:(t=n.value(k,null==e?null:i[e],l,e),t=null==t?we:{_:t}),ie.values[l]=t}function xi(l,e,t){let n;Ln=Nn,On=jn,[Nn,jn]=oe.move(k,Nn,jn),oe.left=Nn,oe.top=jn,re&&(Cn&&A(Cn,rl(Nn),0,Ie,Le),Hn&&A(Hn,0,rl(jn),Ie,Le)),si=gl,ri=null;let i=0==jl.ori?Ie:Le,o=1==jl.ori?Ie:Le;if(0>Nn||0==Gt||Lt>en){n=oe.idx=null;for(let l=0;pl.length>l;l++){let e=Dt[l];null!=e&&A(e,-10,-10,Ie,Le)}Et&&oi(null,ai,!0,null==l&&Fi.setSeries),ie.live&&(te.fill(n),_t=!0)}else{let l,e,t;1==M&&(l=0==jl.ori?Nn:jn,e=fi(l,El),n=oe.idx=L(e,g[0],Lt,en),t=$l(g[0][n],jl,i,0));let s=-10,r=-10,u=0,a=0,f=!0,c="",h="";for(let l=2==M?1:0;pl.length>l;l++){let d=pl[l],p=te[l],m=null==p?null:1==M?g[l][p]:g[l][1][p],x=oe.dataIdx(k,l,n,e),w=null==x?null:1==M?g[l][x]:g[l][1][x];if(_t=_t||w!=m||x!=p,te[l]=x,l>0&&d.show){let e=null==x?-10:x==n?t:$l(1==M?g[0][x]:g[l][0][x],jl,i,0),p=null==w?-10:ql(w,1==M?vl[d.scale]:vl[d.facets[1].scale],o,0);if(Et&&null!=w){let e=1==jl.ori?Nn:jn,t=ol(Tt.dist(k,l,x,p,e));if(si>t){let n=Tt.bias;if(0!=n){let i=fi(e,d.scale),o=0>i?-1:1;o!=(0>w?-1:1)||(1==o?1==n?i>w:w>i:1==n?w>i:i>w)||(si=t,ri=l)}else si=t,ri=l}}if(_t||zt){let t,n;0==jl.ori?(t=e,n=p):(t=p,n=e);let i,o,d,m,g,x,w=!0,_=St.bbox;if(null!=_){w=!1;let e=_(k,l);d=e.left,m=e.top,i=e.width,o=e.height}else d=t,m=n,i=o=St.size(k,l);if(x=St.fill(k,l),g=St.stroke(k,l),zt)l!=ri||si>Tt.prox||(s=d,r=m,u=i,a=o,f=w,c=x,h=g);else{let e=Dt[l];null!=e&&(Pt[l]=d,At[l]=m,H(e,i,o,w),Y(e,x,g),A(e,ul(d),ul(m),Ie,Le))}}}}if(zt){let l=Tt.prox;if(_t||(null==ui?l>=si:si>l||ri!=ui)){let l=Dt[0];null!=l&&(Pt[0]=s,At[0]=r,H(l,u,a,f),Y(l,c,h),A(l,ul(s),ul(r),Ie,Le))}}}if(ei.show&&Xn)if(null!=l){let[e,t]=Fi.scales,[n,s]=Fi.match,[r,u]=l.cursor.sync.scales,a=l.cursor.drag;if(Qn=a._x,li=a._y,Qn||li){let a,f,c,h,d,{left:p,top:m,width:g,height:x}=l.select,w=l.scales[r].ori,_=l.posToVal,b=null!=e&&n(e,r),v=null!=t&&s(t,u);b&&Qn?(0==w?(a=p,f=g):(a=m,f=x),c=vl[e],h=$l(_(a,r),c,i,0),d=$l(_(a+f,r),c,i,0),di(al(h,d),ol(d-h))):di(0,i),v&&li?(1==w?(a=p,f=g):(a=m,f=x),c=vl[t],h=ql(_(a,u),c,o,0),d=ql(_(a+f,u),c,o,0),pi(al(h,d),ol(d-h))):pi(0,o)}else yi()}else{let l=ol(Ln-Fn),e=ol(On-Rn);if(1==jl.ori){let t=l;l=e,e=t}Qn=Zn.x&&l>=Zn.dist,li=Zn.y&&e>=Zn.dist;let t,n,s=Zn.uni;null!=s?Qn&&li&&(Qn=l>=s,li=e>=s,Qn||li||(e>l?li=!0:Qn=!0)):Zn.x&&Zn.y&&(Qn||li)&&(Qn=li=!0),Qn&&(0==jl.ori?(t=Gn,n=Nn):(t=In,n=jn),di(al(t,n),ol(n-t)),li||pi(0,o)),li&&(1==jl.ori?(t=Gn,n=Nn):(t=In,n=jn),pi(al(t,n),ol(n-t)),Qn||di(0,i)),Qn||li||(di(0,0),pi(0,0))}if(Zn._x=Qn,Zn._y=li,null==l){if(t){if(null!=Ri){let[l,e]=Fi.scales;Fi.values[0]=null!=l?fi(0==jl.ori?Nn:jn,l):null,Fi.values[1]=null!=e?fi(1==jl.ori?Nn:jn,e):null}Ii(f,k,Nn,jn,Ie,Le,n)}if(Et){let l=t&&Fi.setSeries,e=Tt.prox;null==ui?si>e||oi(ri,ai,!0,l):si>e?oi(null,ai,!0,l):ri!=ui&&oi(ri,ai,!0,l)}}_t&&(ie.idx=n,mi()),!1!==e&&Ci("setCursor")}k.setLegend=mi;let wi=null;function _i(l=!1){l?wi=null:(wi=el.getBoundingClientRect(),Ci("syncRect",wi))}function bi(l,e,t,n,i,o){oe._lock||Xn&&null!=l&&0==l.movementX&&0==l.movementY||(vi(l,e,t,n,i,o,0,!1,null!=l),null!=l?xi(null,!0,!0):xi(e,!0,!1))}function vi(l,e,t,n,i,o,s,r,u){if(null==wi&&_i(!1),Mt(l),null!=l)t=l.clientX-wi.left,n=l.clientY-wi.top;else{if(0>t||0>n)return Nn=-10,void(jn=-10);let[l,s]=Fi.scales,r=e.cursor.sync,[u,a]=r.values,[f,c]=r.scales,[h,d]=Fi.match,p=e.axes[0].side%2==1,m=0==jl.ori?Ie:Le,g=1==jl.ori?Ie:Le,x=p?o:i,w=p?i:o,_=p?n:t,b=p?t:n;if(t=null!=f?h(l,f)?C(u,vl[l],m,0):-10:m*(_/x),n=null!=c?d(s,c)?C(a,vl[s],g,0):-10:g*(b/w),1==jl.ori){let l=t;t=n,n=l}}!u||null!=e&&e.cursor.event.type!=f||(t>1&&Ie-1>t||(t=zl(t,Ie)),n>1&&Le-1>n||(n=zl(n,Le))),r?(Fn=t,Rn=n,[Gn,In]=oe.move(k,t,n)):(Nn=t,jn=n)}Object.defineProperty(k,"rect",{get:()=>(null==wi&&_i(!1),wi)});const ki={width:0,height:0,left:0,top:0};function yi(){ni(ki,!1)}let Mi,Si,Ti,Ei;function zi(l,e,t,n,i,o){Xn=!0,Qn=li=Zn._x=Zn._y=!1,vi(l,e,t,n,i,o,0,!0,!1),null!=l&&(Ce(h,b,Di,!1),Ii(c,k,Gn,In,Ie,Le,null));let{left:s,top:r,width:u,height:a}=ei;Mi=s,Si=r,Ti=u,Ei=a}function Di(l,e,t,n,i,o){Xn=Zn._x=Zn._y=!1,vi(l,e,t,n,i,o,0,!1,!0);let{left:s,top:r,width:u,height:a}=ei,f=u>0||a>0,c=Mi!=s||Si!=r||Ti!=u||Ei!=a;if(f&&c&&ni(ei),Zn.setScale&&f&&c){let l=s,e=u,t=r,n=a;if(1==jl.ori&&(l=r,e=a,t=s,n=u),Qn&&ii(El,fi(l,El),fi(l+e,El)),li)for(let l in vl){let e=vl[l];l!=El&&null==e.from&&e.min!=gl&&ii(l,fi(t+n,l),fi(t,l))}yi()}else oe.lock&&(oe._lock=!oe._lock,xi(e,!0,null!=l));null!=l&&(He(h,b),Ii(h,k,Nn,jn,Ie,Le,null))}function Pi(l){oe._lock||(Mt(l),xn(),yi(),null!=l&&Ii(m,k,Nn,jn,Ie,Le,null))}function Ai(){xl.forEach(ln),vt(k.width,k.height,!0)}G(x,v,Ai);const Wi={};Wi.mousedown=zi,Wi.mousemove=bi,Wi.mouseup=Di,Wi.dblclick=Pi,Wi.setSeries=(l,e,t,n)=>{-1!=(t=(0,Fi.match[2])(k,e,t))&&oi(t,n,!0,!1)},re&&(Ce(c,el,zi),Ce(f,el,bi),Ce(d,el,(l=>{Mt(l),_i(!1)})),Ce(p,el,(function(l){if(oe._lock)return;Mt(l);let e=Xn;if(Xn){let l,e,t=!0,n=!0,i=10;0==jl.ori?(l=Qn,e=li):(l=li,e=Qn),l&&e&&(t=i>=Nn||Nn>=Ie-i,n=i>=jn||jn>=Le-i),l&&t&&(Nn=Gn>Nn?0:Ie),e&&n&&(jn=In>jn?0:Le),xi(null,!0,!0),Xn=!1}Nn=-10,jn=-10,te.fill(null),xi(null,!0,!0),e&&(Xn=e)})),Ce(m,el,Pi),It.add(k),k.syncRect=_i);const Yi=k.hooks=u.hooks||{};function Ci(l,e,t){Vn?Bn.push([l,e,t]):l in Yi&&Yi[l].forEach((l=>{l.call(null,k,e,t)}))}(u.plugins||[]).forEach((l=>{for(let e in l.hooks)Yi[e]=(Yi[e]||[]).concat(l.hooks[e])}));const Hi=(l,e,t)=>t,Fi=Bl({key:null,setSeries:!1,filters:{pub:Ml,sub:Ml},scales:[El,pl[1]?pl[1].scale:null],match:[Sl,Sl,Hi],values:[null,null]},oe.sync);2==Fi.match.length&&Fi.match.push(Hi),oe.sync=Fi;const Ri=Fi.key,Gi=dt(Ri);function Ii(l,e,t,n,i,o,s){Fi.filters.pub(l,e,t,n,i,o,s)&&Gi.pub(l,e,t,n,i,o,s)}function Li(){Ci("init",u,g),gn(g||u.data,!1),Kl[El]?Kn(El,Kl[El]):xn(),wt=ei.show&&(ei.width>0||ei.height>0),xt=_t=!0,vt(u.width,u.height)}return Gi.sub(k),k.pub=function(l,e,t,n,i,o,s){Fi.filters.sub(l,e,t,n,i,o,s)&&Wi[l](null,e,t,n,i,o,s)},k.destroy=function(){Gi.unsub(k),It.delete(k),Pe.clear(),I(x,v,Ai),R.remove(),ce?.remove(),Ci("destroy")},pl.forEach(Yt),xl.forEach((function(l,e){if(l._show=l.show,l.show){let t=vl[l.scale];null==t&&(l.scale=l.side%2?pl[1].scale:El,t=vl[l.scale]);let n=t.time;l.size=bl(l.size),l.space=bl(l.space),l.rotate=bl(l.rotate),Gl(l.incrs)&&l.incrs.forEach((l=>{!Wl.has(l)&&Wl.set(l,Yl(l))})),l.incrs=bl(l.incrs||(2==t.distr?ae:n?1==hl?ke:Se:fe)),l.splits=bl(l.splits||(n&&1==t.distr?Ql:3==t.distr?Je:4==t.distr?qe:$e)),l.stroke=bl(l.stroke),l.grid.stroke=bl(l.grid.stroke),l.ticks.stroke=bl(l.ticks.stroke),l.border.stroke=bl(l.border.stroke);let i=l.values;l.values=Gl(i)&&!Gl(i[0])?bl(i):n?Gl(i)?De(Xl,ze(i,Zl)):Ll(i)?function(l,e){let t=ne(e);return(e,n)=>n.map((e=>t(l(e))))}(Xl,i):i||le:i||Be,l.filter=bl(l.filter||(3>t.distr||10!=t.log?3==t.distr&&2==t.log?tt:kl:et)),l.font=Qt(l.font),l.labelFont=Qt(l.labelFont),l._size=l.size(k,null,e,0),l._space=l._rotate=l._incrs=l._found=l._splits=l._values=null,l._size>0&&(Ct[e]=!0,l._el=D("u-axis",X))}})),_?_ instanceof HTMLElement?(_.appendChild(R),Li()):_(k,Li):Li(),k}en.assign=Bl,en.fmtNum=tl,en.rangeNum=Z,en.rangeLog=B,en.rangeAsinh=$,en.orient=pt,en.pxRatio=y,en.join=function(l,e){if(function(l){let e=l[0][0],t=e.length;for(let n=1;l.length>n;n++){let i=l[n][0];if(i.length!=t)return!1;if(i!=e)for(let l=0;t>l;l++)if(i[l]!=e[l])return!1}return!0}(l)){let e=l[0].slice();for(let t=1;l.length>t;t++)e.push(...l[t].slice(1));return function(l,e=100){const t=l.length;if(1>=t)return!0;let n=0,i=t-1;for(;i>=n&&null==l[n];)n++;for(;i>=n&&null==l[i];)i--;if(n>=i)return!0;const o=fl(1,sl((i-n+1)/e));for(let e=l[n],t=n+o;i>=t;t+=o){const n=l[t];if(null!=n){if(e>=n)return!1;e=n}}return!0}(e[0])||(e=function(l){let e=l[0],t=e.length,n=Array(t);for(let l=0;n.length>l;l++)n[l]=l;n.sort(((l,t)=>e[l]-e[t]));let i=[];for(let e=0;l.length>e;e++){let o=l[e],s=Array(t);for(let l=0;t>l;l++)s[l]=o[n[l]];i.push(s)}return i}(e)),e}let t=new Set;for(let e=0;l.length>e;e++){let n=l[e][0],i=n.length;for(let l=0;i>l;l++)t.add(n[l])}let n=[Array.from(t).sort(((l,e)=>l-e))],i=n[0].length,o=new Map;for(let l=0;i>l;l++)o.set(n[0][l],l);for(let t=0;l.length>t;t++){let s=l[t],r=s[0];for(let l=1;s.length>l;l++){let u=s[l],a=Array(i).fill(void 0),f=e?e[t][l]:1,c=[];for(let l=0;u.length>l;l++){let e=u[l],t=o.get(r[l]);null===e?0!=f&&(a[t]=e,2==f&&c.push(t)):a[t]=e}$l(a,c,i),n.push(a)}}return n},en.fmtDate=ne,en.tzDate=function(l,e){let t;return"UTC"==e||"Etc/UTC"==e?t=new Date(+l+6e4*l.getTimezoneOffset()):e==ie?t=l:(t=new Date(l.toLocaleString("en-US",{timeZone:e})),t.setMilliseconds(l.getMilliseconds())),t},en.sync=dt;{en.addGap=function(l,e,t){let n=l[l.length-1];n&&n[0]==e?n[1]=t:l.push([e,t])},en.clipGaps=wt;let l=en.paths={points:Wt};l.linear=Ft,l.stepped=function(l){const e=Q(l.align,1),t=Q(l.ascDesc,!1),n=Q(l.alignGaps,0),i=Q(l.extend,!1);return(l,o,s,r)=>pt(l,o,((u,a,f,c,h,d,p,m,g,x,w)=>{[s,r]=U(f,s,r);let _=u.pxRound,{left:b,width:v}=l.bbox,k=l=>_(d(l,c,x,m)),M=l=>_(p(l,h,w,g)),S=0==c.ori?Mt:St;const T={stroke:new Path2D,fill:null,clip:null,band:null,gaps:null,flags:1},E=T.stroke,z=c.dir*(0==c.ori?1:-1);let D=M(f[1==z?s:r]),P=k(a[1==z?s:r]),A=P,W=P;i&&-1==e&&(W=b,S(E,W,D)),S(E,P,D);for(let l=1==z?s:r;l>=s&&r>=l;l+=z){let t=f[l];if(null==t)continue;let n=k(a[l]),i=M(t);1==e?S(E,n,D):S(E,A,i),S(E,n,i),D=i,A=n}let Y=A;i&&1==e&&(Y=b+v,S(E,Y,D));let[C,H]=mt(l,o);if(null!=u.fill||0!=C){let e=T.fill=new Path2D(E),t=M(u.fillTo(l,o,u.min,u.max,C));S(e,Y,t),S(e,W,t)}if(!u.spanGaps){let i=[];i.push(..._t(a,f,s,r,z,k,n));let h=u.width*y/2,d=t||1==e?h:-h,p=t||-1==e?-h:h;i.forEach((l=>{l[0]+=d,l[1]+=p})),T.gaps=i=u.gaps(l,o,s,r,i),T.clip=wt(i,c.ori,m,g,x,w)}return 0!=H&&(T.band=2==H?[xt(l,o,s,r,E,-1),xt(l,o,s,r,E,1)]:xt(l,o,s,r,E,H)),T}))},l.bars=function(l){const e=Q((l=l||Hl).size,[.6,gl,1]),t=l.align||0,n=l.gap||0;let i=l.radius;i=null==i?[0,0]:"number"==typeof i?[i,0]:i;const o=bl(i),s=1-e[0],r=Q(e[1],gl),u=Q(e[2],1),a=Q(l.disp,Hl),f=Q(l.each,(()=>{})),{fill:c,stroke:h}=a;return(l,e,i,d)=>pt(l,e,((p,m,g,x,w,_,b,v,k,M,S)=>{let T,E,z=p.pxRound,D=t,P=n*y,A=r*y,W=u*y;0==x.ori?[T,E]=o(l,e):[E,T]=o(l,e);const Y=x.dir*(0==x.ori?1:-1);let C,H,F,R=0==x.ori?Tt:Et,G=0==x.ori?f:(l,e,t,n,i,o,s)=>{f(l,e,t,i,n,s,o)},I=Q(l.bands,Fl).find((l=>l.series[0]==e)),L=p.fillTo(l,e,p.min,p.max,null!=I?I.dir:0),O=z(b(L,w,S,k)),N=M,j=z(p.width*y),U=!1,V=null,B=null,$=null,J=null;null==c||0!=j&&null==h||(U=!0,V=c.values(l,e,i,d),B=new Map,new Set(V).forEach((l=>{null!=l&&B.set(l,new Path2D)})),j>0&&($=h.values(l,e,i,d),J=new Map,new Set($).forEach((l=>{null!=l&&J.set(l,new Path2D)}))));let{x0:q,size:K}=a;if(null!=q&&null!=K){D=1,m=q.values(l,e,i,d),2==q.unit&&(m=m.map((e=>l.posToVal(v+e*M,x.key,!0))));let t=K.values(l,e,i,d);H=2==K.unit?t[0]*M:_(t[0],x,M,v)-_(0,x,M,v),N=Rt(m,g,_,x,M,v,N),F=N-H+P}else N=Rt(m,g,_,x,M,v,N),F=N*s+P,H=N-F;1>F&&(F=0),H/2>j||(j=0),5>F&&(z=vl);let X=F>0;H=z(wl(N-F-(X?j:0),W,A)),C=(0==D?H/2:D==Y?0:H)-D*Y*((0==D?P/2:0)+(X?j/2:0));const Z={stroke:null,fill:null,clip:null,band:null,gaps:null,flags:0},ll=U?null:new Path2D;let el=null;if(null!=I)el=l.data[I.series[1]];else{let{y0:t,y1:n}=a;null!=t&&null!=n&&(g=n.values(l,e,i,d),el=t.values(l,e,i,d))}let tl=T*H,nl=E*H;for(let t=1==Y?i:d;t>=i&&d>=t;t+=Y){let n=g[t];if(null==n)continue;if(null!=el){let l=el[t]??0;if(n-l==0)continue;O=b(l,w,S,k)}let i=_(2!=x.distr||null!=a?m[t]:t,x,M,v),o=b(Q(n,L),w,S,k),s=z(i-C),r=z(fl(o,O)),u=z(al(o,O)),f=r-u;if(null!=n){let i=0>n?nl:tl,o=0>n?tl:nl;U?(j>0&&null!=$[t]&&R(J.get($[t]),s,u+sl(j/2),H,fl(0,f-j),i,o),null!=V[t]&&R(B.get(V[t]),s,u+sl(j/2),H,fl(0,f-j),i,o)):R(ll,s,u+sl(j/2),H,fl(0,f-j),i,o),G(l,e,t,s-j/2,u,H+j,f)}}return j>0?Z.stroke=U?J:ll:U||(Z._fill=0==p.width?p._fill:p._stroke??p._fill,Z.width=0),Z.fill=U?B:ll,Z}))},l.spline=function(l){return function(l,e){const t=Q(e?.alignGaps,0);return(e,n,i,o)=>pt(e,n,((s,r,u,a,f,c,h,d,p,m,g)=>{[i,o]=U(u,i,o);let x,w,_,b=s.pxRound,v=l=>b(c(l,a,m,d)),k=l=>b(h(l,f,g,p));0==a.ori?(x=kt,_=Mt,w=Pt):(x=yt,_=St,w=At);const y=a.dir*(0==a.ori?1:-1);let M=v(r[1==y?i:o]),S=M,T=[],E=[];for(let l=1==y?i:o;l>=i&&o>=l;l+=y)if(null!=u[l]){let e=v(r[l]);T.push(S=e),E.push(k(u[l]))}const z={stroke:l(T,E,x,_,w,b),fill:null,clip:null,band:null,gaps:null,flags:1},D=z.stroke;let[P,A]=mt(e,n);if(null!=s.fill||0!=P){let l=z.fill=new Path2D(D),t=k(s.fillTo(e,n,s.min,s.max,P));_(l,S,t),_(l,M,t)}if(!s.spanGaps){let l=[];l.push(..._t(r,u,i,o,y,v,t)),z.gaps=l=s.gaps(e,n,i,o,l),z.clip=wt(l,a.ori,d,p,m,g)}return 0!=A&&(z.band=2==A?[xt(e,n,i,o,D,-1),xt(e,n,i,o,D,1)]:xt(e,n,i,o,D,A)),z}))}(Gt,l)}}return en}();\n'
)
VENDOR_UPLOT_CSS = (  # src/dashboard/vendor/uplot.css
    '.uplot, .uplot *, .uplot *::before, .uplot *::after {box-sizing: border-box;}.uplot {font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", sans-serif, "Apple Color Emoji", "Segoe UI Emoji", "Segoe UI Symbol", "Noto Color Emoji";line-height: 1.5;width: min-content;}.u-title {text-align: center;font-size: 18px;font-weight: bold;}.u-wrap {position: relative;user-select: none;}.u-over, .u-under {position: absolute;}.u-under {overflow: hidden;}.uplot canvas {display: block;position: relative;width: 100%;height: 100%;}.u-axis {position: absolute;}.u-legend {font-size: 14px;margin: auto;text-align: center;}.u-inline {display: block;}.u-inline * {display: inline-block;}.u-inline tr {margin-right: 16px;}.u-legend th {font-weight: 600;}.u-legend th > * {vertical-align: middle;display: inline-block;}.u-legend .u-marker {width: 1em;height: 1em;margin-right: 4px;background-clip: padding-box !important;}.u-inline.u-live th::after {content: ":";vertical-align: middle;}.u-inline:not(.u-live) .u-value {display: none;}.u-series > * {padding: 4px;}.u-series th {cursor: pointer;}.u-legend .u-off > * {opacity: 0.3;}.u-select {background: rgba(0,0,0,0.07);position: absolute;pointer-events: none;}.u-cursor-x, .u-cursor-y {position: absolute;left: 0;top: 0;pointer-events: none;will-change: transform;}.u-hz .u-cursor-x, .u-vt .u-cursor-y {height: 100%;border-right: 1px dashed #607D8B;}.u-hz .u-cursor-y, .u-vt .u-cursor-x {width: 100%;border-bottom: 1px dashed #607D8B;}.u-cursor-pt {position: absolute;top: 0;left: 0;border-radius: 50%;border: 0 solid;pointer-events: none;will-change: transform;/*this has to be !important since we set inline "background" shorthand */background-clip: padding-box !important;}.u-axis.u-off, .u-select.u-off, .u-cursor-x.u-off, .u-cursor-y.u-off, .u-cursor-pt.u-off {display: none;}'
)
VENDOR_LICENSES = (  # src/dashboard/vendor/LICENSES.txt
    "The dashboard's page uses these libraries, each as it was published.\n"
    '\n'
    '======================================================================================================\n'
    'htm 3.1.1, with Preact in one file (htm is under the Apache License 2.0, Preact under the MIT License)\n'
    '======================================================================================================\n'
    '\n'
    '                                 Apache License\n'
    '                           Version 2.0, January 2004\n'
    '                        http://www.apache.org/licenses/\n'
    '\n'
    '   TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION\n'
    '\n'
    '   1. Definitions.\n'
    '\n'
    '      "License" shall mean the terms and conditions for use, reproduction,\n'
    '      and distribution as defined by Sections 1 through 9 of this document.\n'
    '\n'
    '      "Licensor" shall mean the copyright owner or entity authorized by\n'
    '      the copyright owner that is granting the License.\n'
    '\n'
    '      "Legal Entity" shall mean the union of the acting entity and all\n'
    '      other entities that control, are controlled by, or are under common\n'
    '      control with that entity. For the purposes of this definition,\n'
    '      "control" means (i) the power, direct or indirect, to cause the\n'
    '      direction or management of such entity, whether by contract or\n'
    '      otherwise, or (ii) ownership of fifty percent (50%) or more of the\n'
    '      outstanding shares, or (iii) beneficial ownership of such entity.\n'
    '\n'
    '      "You" (or "Your") shall mean an individual or Legal Entity\n'
    '      exercising permissions granted by this License.\n'
    '\n'
    '      "Source" form shall mean the preferred form for making modifications,\n'
    '      including but not limited to software source code, documentation\n'
    '      source, and configuration files.\n'
    '\n'
    '      "Object" form shall mean any form resulting from mechanical\n'
    '      transformation or translation of a Source form, including but\n'
    '      not limited to compiled object code, generated documentation,\n'
    '      and conversions to other media types.\n'
    '\n'
    '      "Work" shall mean the work of authorship, whether in Source or\n'
    '      Object form, made available under the License, as indicated by a\n'
    '      copyright notice that is included in or attached to the work\n'
    '      (an example is provided in the Appendix below).\n'
    '\n'
    '      "Derivative Works" shall mean any work, whether in Source or Object\n'
    '      form, that is based on (or derived from) the Work and for which the\n'
    '      editorial revisions, annotations, elaborations, or other modifications\n'
    '      represent, as a whole, an original work of authorship. For the purposes\n'
    '      of this License, Derivative Works shall not include works that remain\n'
    '      separable from, or merely link (or bind by name) to the interfaces of,\n'
    '      the Work and Derivative Works thereof.\n'
    '\n'
    '      "Contribution" shall mean any work of authorship, including\n'
    '      the original version of the Work and any modifications or additions\n'
    '      to that Work or Derivative Works thereof, that is intentionally\n'
    '      submitted to Licensor for inclusion in the Work by the copyright owner\n'
    '      or by an individual or Legal Entity authorized to submit on behalf of\n'
    '      the copyright owner. For the purposes of this definition, "submitted"\n'
    '      means any form of electronic, verbal, or written communication sent\n'
    '      to the Licensor or its representatives, including but not limited to\n'
    '      communication on electronic mailing lists, source code control systems,\n'
    '      and issue tracking systems that are managed by, or on behalf of, the\n'
    '      Licensor for the purpose of discussing and improving the Work, but\n'
    '      excluding communication that is conspicuously marked or otherwise\n'
    '      designated in writing by the copyright owner as "Not a Contribution."\n'
    '\n'
    '      "Contributor" shall mean Licensor and any individual or Legal Entity\n'
    '      on behalf of whom a Contribution has been received by Licensor and\n'
    '      subsequently incorporated within the Work.\n'
    '\n'
    '   2. Grant of Copyright License. Subject to the terms and conditions of\n'
    '      this License, each Contributor hereby grants to You a perpetual,\n'
    '      worldwide, non-exclusive, no-charge, royalty-free, irrevocable\n'
    '      copyright license to reproduce, prepare Derivative Works of,\n'
    '      publicly display, publicly perform, sublicense, and distribute the\n'
    '      Work and such Derivative Works in Source or Object form.\n'
    '\n'
    '   3. Grant of Patent License. Subject to the terms and conditions of\n'
    '      this License, each Contributor hereby grants to You a perpetual,\n'
    '      worldwide, non-exclusive, no-charge, royalty-free, irrevocable\n'
    '      (except as stated in this section) patent license to make, have made,\n'
    '      use, offer to sell, sell, import, and otherwise transfer the Work,\n'
    '      where such license applies only to those patent claims licensable\n'
    '      by such Contributor that are necessarily infringed by their\n'
    '      Contribution(s) alone or by combination of their Contribution(s)\n'
    '      with the Work to which such Contribution(s) was submitted. If You\n'
    '      institute patent litigation against any entity (including a\n'
    '      cross-claim or counterclaim in a lawsuit) alleging that the Work\n'
    '      or a Contribution incorporated within the Work constitutes direct\n'
    '      or contributory patent infringement, then any patent licenses\n'
    '      granted to You under this License for that Work shall terminate\n'
    '      as of the date such litigation is filed.\n'
    '\n'
    '   4. Redistribution. You may reproduce and distribute copies of the\n'
    '      Work or Derivative Works thereof in any medium, with or without\n'
    '      modifications, and in Source or Object form, provided that You\n'
    '      meet the following conditions:\n'
    '\n'
    '      (a) You must give any other recipients of the Work or\n'
    '          Derivative Works a copy of this License; and\n'
    '\n'
    '      (b) You must cause any modified files to carry prominent notices\n'
    '          stating that You changed the files; and\n'
    '\n'
    '      (c) You must retain, in the Source form of any Derivative Works\n'
    '          that You distribute, all copyright, patent, trademark, and\n'
    '          attribution notices from the Source form of the Work,\n'
    '          excluding those notices that do not pertain to any part of\n'
    '          the Derivative Works; and\n'
    '\n'
    '      (d) If the Work includes a "NOTICE" text file as part of its\n'
    '          distribution, then any Derivative Works that You distribute must\n'
    '          include a readable copy of the attribution notices contained\n'
    '          within such NOTICE file, excluding those notices that do not\n'
    '          pertain to any part of the Derivative Works, in at least one\n'
    '          of the following places: within a NOTICE text file distributed\n'
    '          as part of the Derivative Works; within the Source form or\n'
    '          documentation, if provided along with the Derivative Works; or,\n'
    '          within a display generated by the Derivative Works, if and\n'
    '          wherever such third-party notices normally appear. The contents\n'
    '          of the NOTICE file are for informational purposes only and\n'
    '          do not modify the License. You may add Your own attribution\n'
    '          notices within Derivative Works that You distribute, alongside\n'
    '          or as an addendum to the NOTICE text from the Work, provided\n'
    '          that such additional attribution notices cannot be construed\n'
    '          as modifying the License.\n'
    '\n'
    '      You may add Your own copyright statement to Your modifications and\n'
    '      may provide additional or different license terms and conditions\n'
    '      for use, reproduction, or distribution of Your modifications, or\n'
    '      for any such Derivative Works as a whole, provided Your use,\n'
    '      reproduction, and distribution of the Work otherwise complies with\n'
    '      the conditions stated in this License.\n'
    '\n'
    '   5. Submission of Contributions. Unless You explicitly state otherwise,\n'
    '      any Contribution intentionally submitted for inclusion in the Work\n'
    '      by You to the Licensor shall be under the terms and conditions of\n'
    '      this License, without any additional terms or conditions.\n'
    '      Notwithstanding the above, nothing herein shall supersede or modify\n'
    '      the terms of any separate license agreement you may have executed\n'
    '      with Licensor regarding such Contributions.\n'
    '\n'
    '   6. Trademarks. This License does not grant permission to use the trade\n'
    '      names, trademarks, service marks, or product names of the Licensor,\n'
    '      except as required for reasonable and customary use in describing the\n'
    '      origin of the Work and reproducing the content of the NOTICE file.\n'
    '\n'
    '   7. Disclaimer of Warranty. Unless required by applicable law or\n'
    '      agreed to in writing, Licensor provides the Work (and each\n'
    '      Contributor provides its Contributions) on an "AS IS" BASIS,\n'
    '      WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or\n'
    '      implied, including, without limitation, any warranties or conditions\n'
    '      of TITLE, NON-INFRINGEMENT, MERCHANTABILITY, or FITNESS FOR A\n'
    '      PARTICULAR PURPOSE. You are solely responsible for determining the\n'
    '      appropriateness of using or redistributing the Work and assume any\n'
    '      risks associated with Your exercise of permissions under this License.\n'
    '\n'
    '   8. Limitation of Liability. In no event and under no legal theory,\n'
    '      whether in tort (including negligence), contract, or otherwise,\n'
    '      unless required by applicable law (such as deliberate and grossly\n'
    '      negligent acts) or agreed to in writing, shall any Contributor be\n'
    '      liable to You for damages, including any direct, indirect, special,\n'
    '      incidental, or consequential damages of any character arising as a\n'
    '      result of this License or out of the use or inability to use the\n'
    '      Work (including but not limited to damages for loss of goodwill,\n'
    '      work stoppage, computer failure or malfunction, or any and all\n'
    '      other commercial damages or losses), even if such Contributor\n'
    '      has been advised of the possibility of such damages.\n'
    '\n'
    '   9. Accepting Warranty or Additional Liability. While redistributing\n'
    '      the Work or Derivative Works thereof, You may choose to offer,\n'
    '      and charge a fee for, acceptance of support, warranty, indemnity,\n'
    '      or other liability obligations and/or rights consistent with this\n'
    '      License. However, in accepting such obligations, You may act only\n'
    '      on Your own behalf and on Your sole responsibility, not on behalf\n'
    '      of any other Contributor, and only if You agree to indemnify,\n'
    '      defend, and hold each Contributor harmless for any liability\n'
    '      incurred by, or claims asserted against, such Contributor by reason\n'
    '      of your accepting any such warranty or additional liability.\n'
    '\n'
    '   END OF TERMS AND CONDITIONS\n'
    '\n'
    '   APPENDIX: How to apply the Apache License to your work.\n'
    '\n'
    '      To apply the Apache License to your work, attach the following\n'
    '      boilerplate notice, with the fields enclosed by brackets "[]"\n'
    "      replaced with your own identifying information. (Don't include\n"
    '      the brackets!)  The text should be enclosed in the appropriate\n'
    '      comment syntax for the file format. We also recommend that a\n'
    '      file or class name and description of purpose be included on the\n'
    '      same "printed page" as the copyright notice for easier\n'
    '      identification within third-party archives.\n'
    '\n'
    '   Copyright 2018 Google Inc.\n'
    '\n'
    '   Licensed under the Apache License, Version 2.0 (the "License");\n'
    '   you may not use this file except in compliance with the License.\n'
    '   You may obtain a copy of the License at\n'
    '\n'
    '       http://www.apache.org/licenses/LICENSE-2.0\n'
    '\n'
    '   Unless required by applicable law or agreed to in writing, software\n'
    '   distributed under the License is distributed on an "AS IS" BASIS,\n'
    '   WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.\n'
    '   See the License for the specific language governing permissions and\n'
    '   limitations under the License.\n'
    '\n'
    '======\n'
    'Preact\n'
    '======\n'
    '\n'
    'The MIT License (MIT)\n'
    '\n'
    'Copyright (c) 2015-present Jason Miller\n'
    '\n'
    'Permission is hereby granted, free of charge, to any person obtaining a copy\n'
    'of this software and associated documentation files (the "Software"), to deal\n'
    'in the Software without restriction, including without limitation the rights\n'
    'to use, copy, modify, merge, publish, distribute, sublicense, and/or sell\n'
    'copies of the Software, and to permit persons to whom the Software is\n'
    'furnished to do so, subject to the following conditions:\n'
    '\n'
    'The above copyright notice and this permission notice shall be included in all\n'
    'copies or substantial portions of the Software.\n'
    '\n'
    'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR\n'
    'IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,\n'
    'FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE\n'
    'AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER\n'
    'LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,\n'
    'OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE\n'
    'SOFTWARE.\n'
    '\n'
    '==========================\n'
    'uPlot 1.6.32 (MIT License)\n'
    '==========================\n'
    '\n'
    'The MIT License (MIT)\n'
    '\n'
    'Copyright (c) 2022 Leon Sorokin\n'
    '\n'
    'Permission is hereby granted, free of charge, to any person obtaining a copy\n'
    'of this software and associated documentation files (the "Software"), to deal\n'
    'in the Software without restriction, including without limitation the rights\n'
    'to use, copy, modify, merge, publish, distribute, sublicense, and/or sell\n'
    'copies of the Software, and to permit persons to whom the Software is\n'
    'furnished to do so, subject to the following conditions:\n'
    '\n'
    'The above copyright notice and this permission notice shall be included in\n'
    'all copies or substantial portions of the Software.\n'
    '\n'
    'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR\n'
    'IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,\n'
    'FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE\n'
    'AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER\n'
    'LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,\n'
    'OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN\n'
    'THE SOFTWARE.\n'
)
# By their paths below `/dashboard/files/{hash}/`, where modules find each other as they do in src/.
FILES: dict[str, tuple[str, str]] = {
    "app.js": (JAVASCRIPT, APP),
    "style.css": (CSS, STYLE),
    "parts.css": (CSS, PARTS),
    "icon.svg": (SVG, ICON),
    "lib/actions.js": (JAVASCRIPT, LIB_ACTIONS),
    "lib/api.js": (JAVASCRIPT, LIB_API),
    "lib/chart.js": (JAVASCRIPT, LIB_CHART),
    "lib/format.js": (JAVASCRIPT, LIB_FORMAT),
    "lib/list.js": (JAVASCRIPT, LIB_LIST),
    "lib/poll.js": (JAVASCRIPT, LIB_POLL),
    "lib/router.js": (JAVASCRIPT, LIB_ROUTER),
    "lib/studies.js": (JAVASCRIPT, LIB_STUDIES),
    "lib/ui.js": (JAVASCRIPT, LIB_UI),
    "panels/index.js": (JAVASCRIPT, PANELS),
    "panels/events.js": (JAVASCRIPT, PANEL_EVENTS),
    "panels/rules.js": (JAVASCRIPT, PANEL_RULES),
    "panels/moves.js": (JAVASCRIPT, PANEL_MOVES),
    "panels/deidentification.js": (JAVASCRIPT, PANEL_DEIDENTIFICATION),
    "panels/flow.js": (JAVASCRIPT, PANEL_FLOW),
    "panels/audit.js": (JAVASCRIPT, PANEL_AUDIT),
    "panels/deliveries.js": (JAVASCRIPT, PANEL_DELIVERIES),
    "panels/jobs.js": (JAVASCRIPT, PANEL_JOBS),
    "panels/retention.js": (JAVASCRIPT, PANEL_RETENTION),
    "panels/destinations.js": (JAVASCRIPT, PANEL_DESTINATIONS),
    "panels/scripts.js": (JAVASCRIPT, PANEL_SCRIPTS),
    "vendor/preact.js": (JAVASCRIPT, VENDOR_PREACT),
    "vendor/uplot.js": (JAVASCRIPT, VENDOR_UPLOT),
    "vendor/uplot.css": (CSS, VENDOR_UPLOT_CSS),
    "vendor/LICENSES.txt": ("text/plain; charset=utf-8", VENDOR_LICENSES),
}
# In the path of each file: a browser keeps files for ever, and another version of the script has another path.
FILES_HASH = hashlib.sha256("\0".join(f"{name}\0{text}" for name, (_, text) in FILES.items()).encode()).hexdigest()[:16]
PAGE = INDEX.replace("{files}", f"dashboard/files/{FILES_HASH}")
# Nothing inline, nothing from elsewhere, nothing in a frame of another site.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "private, max-age=31536000, immutable",
}


# ---- src/dashboard/gathering.py: Asks this Orthanc and its scripts how they are: a fixed number of small answers, whatever the archive holds.


FORWARDERS = ("auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb")


@dataclasses.dataclass
class Gathered:
    """What Orthanc and the scripts answered.

    Attributes
    ----------
    system, statistics : of Orthanc.
    scripts : the entries of `/scripts`.
    statuses : the status of each script that runs, by name.
    destinations : those of each forwarder that runs, by its name.
    held : the number of images that anonymize_series holds back.
    free, room : bytes of the file system of the storage, if it is one.
    callbacks : what the runtime of a combined file counts, by module.
    """

    system: Mapping[str, Any]
    statistics: Mapping[str, Any]
    scripts: list[dict[str, Any]]
    statuses: dict[str, dict[str, Any]]
    destinations: dict[str, dict[str, dict[str, Any]]]
    held: int
    callbacks: dict[str, dict[str, Any]]
    free: int | None = None
    room: int | None = None


class Gatherer:
    """Asks over loopback, from one thread. `storage` is the folder in which Orthanc keeps files, if it does."""

    def __init__(self, loopback: Loopback, own_name: str, storage: Path) -> None:
        self._loopback, self._own_name, self._storage = loopback, own_name, storage
        self._system: Mapping[str, Any] = {}

    def gather(self) -> Gathered:
        """Ask all. Raises `LoopbackError`: Orthanc itself does not answer."""
        self._system = self._system or self._loopback.get("/system")
        found = Gathered(self._system, self._loopback.get("/statistics"), [], {}, {}, 0, {})
        with contextlib.suppress(OSError):  # the archive is in a database, or elsewhere
            usage = shutil.disk_usage(self._storage)
            found.free, found.room = usage.free, usage.total
        found.scripts = [each for each in self._loopback.get("/scripts") if isinstance(each, dict)]
        for script in found.scripts:
            name, path = str(script.get("Name")), script.get("Status")
            if name == self._own_name or not path or script.get("State") != "running":
                continue
            if (status := self._ask(path)) is not None:
                found.statuses[name] = status
            if (
                name in FORWARDERS
                and (destinations := self._ask(f"/{name.replace('_', '-')}/destinations")) is not None
            ):
                found.destinations[name] = destinations
        if "anonymize_series" in found.statuses:
            found.held = int((self._ask("/anonymize-series/held?limit=1") or {}).get("Total", 0))
        for each in self._ask("/combined-scripts", default=[]) or []:
            found.callbacks[each["Name"]] = calls_of(each.get("Callbacks", []))
        return found

    def _ask(self, path: str, default: Any = None) -> Any:
        """Return an answer, or the default where a script does not give one just now: the others are shown."""
        try:
            return self._loopback.get(urllib.parse.quote(path, safe="/?=&"))
        except LoopbackError as error:
            if error.status == 0:  # Orthanc itself
                raise
            return default


def calls_of(callbacks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how often Orthanc has called a script, for how long, and how often that failed."""
    return {
        "Calls": sum(each["Calls"] for each in callbacks),
        "Errors": sum(each["Errors"] for each in callbacks),
        "Seconds": round(sum(each["Seconds"] for each in callbacks), 3),
    }


# ---- src/dashboard/minutes.py: What flowed in each minute of the last day, and since when things are as they are: the script's state.


KEEP_MINUTES = 1500  # a day, and an hour for who looks back a whole day
MINUTE_TABLES = """
CREATE TABLE IF NOT EXISTS minutes(
    minute INTEGER PRIMARY KEY, received INTEGER NOT NULL, forwarded INTEGER NOT NULL, waiting INTEGER NOT NULL,
    failed INTEGER NOT NULL, lag REAL NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS states(thing TEXT PRIMARY KEY, state TEXT NOT NULL, since REAL NOT NULL) WITHOUT ROWID;
"""


class Minute(NamedTuple):
    """What flowed in a minute: instances received and forwarded; at its end, deliveries that waited and that were given up.

    `minute` is its begin in minutes since 1970, `lag` the age in seconds of the oldest delivery that waited, `archive`
    the bytes that Orthanc held.
    """

    minute: int
    received: int
    forwarded: int
    waiting: int
    failed: int
    lag: float
    archive: int


class Minutes:
    """The rows of the last day."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, row: Minute) -> None:
        """Write a minute down, and forget what is older than a day. What was counted in it before a restart is added."""
        sql = (
            "INSERT INTO minutes VALUES(?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET received=received+excluded.received, "
            "forwarded=forwarded+excluded.forwarded, waiting=excluded.waiting, failed=excluded.failed, "
            "lag=excluded.lag, bytes=excluded.bytes"
        )
        with self._ledger.transaction():
            self._ledger.run(sql, *row)
            self._ledger.run("DELETE FROM minutes WHERE minute<=?", row.minute - KEEP_MINUTES)

    def since(self, minute: int) -> dict[str, list[Any]]:
        """Return the minutes from this one on, oldest first, as columns."""
        rows = self._ledger.rows("SELECT * FROM minutes WHERE minute>=? ORDER BY minute", minute)
        return {
            "Minute": [row["minute"] for row in rows],
            "Received": [row["received"] for row in rows],
            "Forwarded": [row["forwarded"] for row in rows],
            "Waiting": [row["waiting"] for row in rows],
            "Failed": [row["failed"] for row in rows],
            "LagSeconds": [row["lag"] for row in rows],
            "Bytes": [row["bytes"] for row in rows],
        }


class Sinces:
    """Since when each thing is in its state, as far as this script has looked; over restarts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        rows = ledger.rows("SELECT * FROM states")
        self._known: dict[str, tuple[str, float]] = {row["thing"]: (row["state"], row["since"]) for row in rows}

    def update(self, states: Mapping[str, str]) -> None:
        """Note the state of all things that there are now; what is not there any more is forgotten."""
        now = time.time()
        changed = {thing: state for thing, state in states.items() if self._known.get(thing, ("",))[0] != state}
        gone = self._known.keys() - states.keys()
        if changed or gone:
            self._write(changed, gone, now)
            for thing in gone:
                del self._known[thing]
            self._known |= {thing: (state, now) for thing, state in changed.items()}

    def _write(self, changed: Mapping[str, str], gone: Iterable[str], now: float) -> None:
        with self._ledger.transaction():
            for thing, state in changed.items():
                self._ledger.run("INSERT OR REPLACE INTO states VALUES(?,?,?)", thing, state, now)
            for thing in gone:
                self._ledger.run("DELETE FROM states WHERE thing=?", thing)

    def of(self, thing: str) -> str | None:
        """Return since when a thing is as it is, or None."""
        known = self._known.get(thing)
        return None if known is None else utc(known[1])


# ---- src/dashboard/flow.py: Counts what comes in and what goes out.


RATE_SECONDS = 60.0  # over which "now" is measured


class Counter:
    """How much came of something that only grows, since the last minute was written, and in the last 60 s."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._unwritten = 0.0
        self._recent: collections.deque[tuple[float, float]] = collections.deque()

    def read(self, value: float) -> None:
        """Take a new reading. One that is smaller than the last is no loss: finished rows are forgotten after a while."""
        more = 0.0 if self._last is None else max(0.0, value - self._last)
        self._last = value
        self._unwritten += more
        if more:
            self._recent.append((time.monotonic(), more))

    def take(self) -> int:
        """Return what came since the last call."""
        taken, self._unwritten = self._unwritten, 0.0
        return int(taken)

    def rate(self) -> int:
        """Return what came in the last 60 s."""
        begin = time.monotonic() - RATE_SECONDS
        while self._recent and self._recent[0][0] < begin:
            self._recent.popleft()
        return int(sum(more for _, more in self._recent))


class Flow:
    """Instances received and forwarded, and what waits: now, and minute by minute."""

    def __init__(self) -> None:
        self._arrived = 0
        self._received = Counter()
        self._received.read(0)
        # Of each script and of each destination: one that does not answer for a moment is not read, and nothing is counted twice.
        self._forwarded: collections.defaultdict[str, Counter] = collections.defaultdict(Counter)
        self._done: collections.defaultdict[str, Counter] = collections.defaultdict(Counter)
        self._now: dict[str, Any] = {"Waiting": 0, "Sending": 0, "Failed": 0, "LagSeconds": 0.0}
        self._archive = 0
        self._minute: int | None = None

    def on_instance(self) -> None:
        """Count an instance that came in: OnChange calls it, from one thread."""
        self._arrived += 1

    def look(self, found: Gathered) -> None:
        """Take new readings."""
        self._received.read(self._arrived)
        self._archive = int(found.statistics.get("TotalDiskSize", 0))
        for script, status in found.statuses.items():
            if "Delivered" in status:
                self._forwarded[script].read(status["Delivered"]["Instances"])
        for script, destinations in found.destinations.items():
            for name, entry in destinations.items():
                self._done[f"{script}:{name}"].read(entry.get("Totals", {}).get("done", 0))
        every = [entry["Totals"] for each in found.destinations.values() for entry in each.values()]
        waits = [parse_time(status.get("WaitingSince")) for status in found.statuses.values()]
        oldest = min((each.timestamp() for each in waits if each), default=None)
        self._now = {
            "Waiting": sum(each.get("waiting", 0) for each in every),
            "Sending": sum(each.get("sending", 0) for each in every),
            "Failed": sum(each.get("dead", 0) for each in every),
            "LagSeconds": 0.0 if oldest is None else round(max(0.0, time.time() - oldest), 1),
        }

    def delivered_to(self, script: str, name: str) -> int:
        """Return how many deliveries a destination has got in the last 60 s."""
        return self._done[f"{script}:{name}"].rate()

    def now(self) -> dict[str, Any]:
        """Return the figures of now; received and forwarded are instances of the last 60 s."""
        forwarded = sum(each.rate() for each in self._forwarded.values())
        return {"Received": self._received.rate(), "Forwarded": forwarded, **self._now}

    def ended_minute(self) -> Minute | None:
        """Return the minute that has ended since the last call, or None."""
        current = int(time.time() // 60)
        if self._minute is None:
            self._minute = current
        if current == self._minute:
            return None
        ended, self._minute, now = self._minute, current, self._now
        forwarded = sum(each.take() for each in self._forwarded.values())
        return Minute(
            ended, self._received.take(), forwarded, now["Waiting"], now["Failed"], now["LagSeconds"], self._archive
        )


# ---- src/dashboard/notify_settings.py: The keys of `Notify`: who is notified when something needs a person, and how.


ADDRESS = re.compile(r"[^@\s<>,;:\"\\()\[\]\x00-\x1f\x7f]+@[^@\s<>,;:\"\\()\x00-\x1f\x7f]+")
PORTS = {"starttls": 587, "tls": 465, "none": 25}


def wrong_url(url: str) -> str | None:
    """Return what is allowed as the address of a webhook, unless this is."""
    with contextlib.suppress(ValueError):  # the port, or brackets
        parts = urllib.parse.urlsplit(url)
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and url.isascii()
            and url.isprintable()
        ):
            return None if " " not in url and not parts.fragment else "a URL without spaces and #"
    return "https://HOST/PATH or http://HOST/PATH"


def wrong_mail_host(host: str | None) -> str | None:
    """Return what is allowed as the name of a mail server, unless this is."""
    fits = host is None or re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", host)
    return None if fits else "the name or the address of a mail server, alone"


def wrong_address(address: str | None) -> str | None:
    """Return what is allowed as an e-mail address, unless this is."""
    fits = address is None or (len(address) <= 254 and address.isascii() and ADDRESS.fullmatch(address))
    return None if fits else "an e-mail address as radiology@hospital.example"


def wrong_addresses(addresses: tuple[str, ...]) -> str | None:
    """Return what is allowed as a list of e-mail addresses, unless this is."""
    return not_empty(addresses) or next(filter(None, map(wrong_address, addresses)), None)


def _ca_certificate() -> str | None:
    text = "PEM file of whom to trust; null: the authorities of the system."
    found: str | None = dataclasses.field(default=None, metadata={"key": "CACertificate", "help": text})
    return found


def _timeout() -> float:
    text = "Seconds to connect, and for a silence."
    found: float = dataclasses.field(default=10, metadata={"minimum": 0.1, "maximum": 300, "help": text})
    return found


@dataclasses.dataclass(frozen=True)
class WebhookTarget:
    """A server that gets a POST."""

    url: str = dataclasses.field(
        default="",
        metadata={
            "key": "URL",
            "secret": True,
            "check": wrong_url,
            "help": "Where to post to; needed. No redirect is followed.",
        },
    )
    secret: str | None = dataclasses.field(
        default=None,
        metadata={"secret": True, "help": "Key that each POST is signed with (HMAC-SHA256); null: not signed."},
    )
    ca_certificate: str | None = _ca_certificate()
    proxy: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": proxy_or_null,
            "help": "`http://[USER:PASSWORD@]HOST:PORT`; null: none, whatever the environment says.",
        },
    )
    timeout: float = _timeout()


@dataclasses.dataclass(frozen=True)
class MailTarget:
    """People who get an e-mail."""

    host: str | None = dataclasses.field(
        default=None, metadata={"check": wrong_mail_host, "help": "Name of the mail server; needed."}
    )
    port: int | None = dataclasses.field(
        default=None,
        metadata={"minimum": 1, "maximum": 65535, "help": "Its port; null: 587, with `tls` 465, with `none` 25."},
    )
    security: str = dataclasses.field(
        default="starttls",
        metadata={
            "choices": ("starttls", "tls", "none"),
            "help": "`starttls`: TLS after the first words, or nothing is sent. `tls`: from the first byte. `none`: in clear.",
        },
    )
    user: str | None = dataclasses.field(default=None, metadata={"help": "Who logs in there; null: nobody."})
    password: str | None = dataclasses.field(
        default=None, metadata={"secret": True, "help": "The password, as `${SMTP_PASSWORD}`."}
    )
    sender: str | None = dataclasses.field(
        default=None, metadata={"key": "From", "check": wrong_address, "help": "Address of the sender; needed."}
    )
    recipients: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": wrong_addresses, "help": "Addresses of those who get the mail; needed."}
    )
    ca_certificate: str | None = _ca_certificate()
    timeout: float = _timeout()

    def port_number(self) -> int:
        """Return the port, or the one that the security has."""
        return self.port or PORTS[self.security]


@dataclasses.dataclass(frozen=True)
class NotifySettings:
    """Who is notified, and when."""

    after_minutes: float = dataclasses.field(
        default=15,
        metadata={"minimum": 0, "help": "Minutes that a destination has to be away before somebody is notified."},
    )
    disk_above: float | None = dataclasses.field(
        default=90,
        metadata={
            "minimum": 1,
            "maximum": 99.9,
            "help": "Percent of the file system of Orthanc's files above which somebody is notified; null: never.",
        },
    )
    webhook: WebhookTarget | None = dataclasses.field(
        default=None, metadata={"help": "A server that gets a POST (below)."}
    )
    mail: MailTarget | None = dataclasses.field(default=None, metadata={"help": "People who get an e-mail (below)."})

    def complaint(self) -> str | None:
        """Return which key is missing, or has no effect, or does harm; None: all is well."""
        mail = self.mail
        if mail is None and self.webhook is None:
            return "Mail or Notify.Webhook is needed: else nobody is notified"
        if self.webhook is not None and not self.webhook.url:
            return "Webhook.URL is needed, allowed: https://HOST/PATH"
        if mail is None:
            return None
        for key, value in (("Host", mail.host), ("From", mail.sender), ("Recipients", mail.recipients)):
            if not value:
                return f"Mail.{key} is needed"
        if (mail.user is None) != (mail.password is None):
            missing = "Password" if mail.password is None else "User"
            return f"Mail.{missing} is needed, allowed: both User and Password, or neither"
        if mail.password is not None and mail.security == "none":
            return 'Mail.Security: found "none" with a Password, allowed: "starttls" or "tls", which hide it'
        return None


# ---- src/dashboard/settings.py: The section `Dashboard` of the configuration.


SECTION = "Dashboard"
NAME = "dashboard"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `Dashboard`."""

    actions: bool = dataclasses.field(
        default=True,
        metadata={
            "help": "Show buttons to those who may use them (retry, drop, pause, send again, …). False: the page only shows."
        },
    )
    explorer: bool = dataclasses.field(default=True, metadata={"help": "Link the page from Orthanc Explorer."})
    notify: NotifySettings | None = dataclasses.field(
        default=None,
        metadata={"help": "Who is notified, by a mail or a POST, when something needs a person (below); null: nobody."},
    )
    durability: str = durability_field("what was counted each minute survives")
    state_path: str | None = state_path_field("the figures of the last day")


# ---- src/dashboard/notify.py: Which people have to know: what is new, what is over, and what was not sent yet. Nothing here is sent.


SETTLED_SECONDS = 60.0  # for which trouble of a script has to last, and for which something has to be away to be over
MORE_AFTER_SECONDS = 3600.0  # after which it is said again where there are more of the same by now
LINES_PER_MESSAGE = 100
LONGEST_LINE = 400  # characters
# One row for each alert that a channel has been told of, or will be. `told`: 1 once its begin was sent, at `told_at`; `number`:
# how many of the same there were then. `ended`: it is over, and is forgotten when that was sent. `changed`: the version.
NOTICE_TABLES = """
CREATE TABLE IF NOT EXISTS notices(
    channel TEXT NOT NULL, alert TEXT NOT NULL, text TEXT NOT NULL, number INTEGER NOT NULL, began REAL NOT NULL, ended REAL,
    told INTEGER NOT NULL, told_at REAL NOT NULL, changed INTEGER NOT NULL, PRIMARY KEY(channel, alert)) WITHOUT ROWID;
"""


class Need(NamedTuple):
    """Something that needs a person: text of one line, how many of the same there are, and since when (seconds since 1970)."""

    text: str
    number: int
    since: float


def needs_of(summary: Mapping[str, Any], after_minutes: float, known: Iterable[str]) -> dict[str, Need]:
    """Return what needs a person now, by alerts' IDs.

    A destination that is away heals by itself, and needs a person after some minutes. One of which people know by now is on
    as long as it is away at all: after a restart its minutes begin again.
    """
    known, now = set(known), _seconds(summary["At"])
    found = {}
    for alert in summary["Alerts"]:
        identifier, since = alert["ID"], _seconds(alert.get("Since") or summary["At"])
        kind = identifier.partition(":")[0]
        if identifier == f"script:{NAME}":
            is_due = False  # that people can't be notified is nothing to notify them of
        elif kind == "destination" and alert["Level"] != "act":
            is_due = identifier in known or now - since >= after_minutes * 60
        elif kind == "script":
            is_due = identifier in known or now - since >= SETTLED_SECONDS
        else:
            is_due = alert["Level"] == "act"
        if is_due:
            why = f": {alert['Why']}" if alert.get("Why") else ""
            found[identifier] = Need(
                printable(f"{alert['Text']}{why}")[:LONGEST_LINE], int(alert.get("Count", 1)), since
            )
    return found


def unknown_now(summary: Mapping[str, Any], alerts: Iterable[str]) -> set[str]:
    """Return those of some alerts of which it is not known whether they are over: their script can't be asked now.

    Of a destination also as long as something waits for it and nothing arrives: after a restart it is not away until it was
    tried.
    """
    scripts = {each["Name"]: each for each in summary["Scripts"]}
    places = {(each["Script"], each["Name"]): each for each in summary["Destinations"]}
    asked = {script for script, _ in places}
    found = set()
    for identifier in alerts:
        kind, _, rest = identifier.partition(":")
        script, _, name = rest.partition(":")
        if kind in ("script", "disk") or script not in scripts:
            continue  # it says of itself how it is, or was taken out
        entry = scripts[script]
        place = places.get((script, name))
        is_forwarder = script.startswith("auto_forward_")
        is_silent = entry.get("State") != "running" or not entry.get("Totals") or (is_forwarder and script not in asked)
        if is_silent or (kind == "destination" and place and place["State"] != "paused" and is_untried(place)):
            found.add(identifier)
    return found


def printable(text: str) -> str:
    """Return a text as one line without what changes how others of it look: directions of writing, for example."""
    return "".join(letter if letter.isprintable() else " " for letter in one_line(text))


def is_untried(place: Mapping[str, Any]) -> bool:
    """Return whether something waits for a destination, and nothing has arrived there lately."""
    return bool(place["Totals"].get("waiting")) and not place.get("LastMinute")


def _seconds(text: str) -> float:
    moment = parse_time(text)
    return moment.timestamp() if moment else time.time()


@dataclasses.dataclass(frozen=True)
class Message:
    """What is sent at a time: what has begun, and what is over."""

    begun: Sequence[Mapping[str, Any]]
    over: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]

    @property
    def subject(self) -> str:
        """One line."""
        parts = []
        if self.begun:
            parts.append(f"{len(self.begun)} {'needs' if len(self.begun) == 1 else 'need'} a person")
        if self.over:
            parts.append(f"{len(self.over)} {'is' if len(self.over) == 1 else 'are'} over")
        return ", ".join(parts)

    @property
    def lines(self) -> list[str]:
        """What each is, for a person."""
        begun = [f"{each['Text']} (since {each['Since']})" for each in self.begun]
        over = [f"Over: {each['Text']} (from {each['Since']} to {each['Until']})" for each in self.over]
        return [*begun, *over]

    @property
    def identifier(self) -> str:
        """The same if it is sent again, since nobody knows whether it arrived."""
        return f"{max(row['changed'] for row in self.rows):x}.{len(self.rows)}"


class Notices:
    """What each channel was told, and what it is to be told: at least once each, over restarts."""

    def __init__(self, ledger: Ledger, channels: Sequence[str]) -> None:
        self._ledger, self._channels = ledger, channels
        self._gone_since: dict[str, float] = {}  # monotonic: alerts that were on, and are not any more
        for row in ledger.rows("SELECT DISTINCT channel FROM notices"):
            if row["channel"] not in channels:
                ledger.run("DELETE FROM notices WHERE channel=?", row["channel"])

    def known(self) -> set[str]:
        """Return the alerts that are on, as far as some channel has them."""
        return {row["alert"] for row in self._ledger.rows("SELECT DISTINCT alert FROM notices WHERE ended IS NULL")}

    def look(self, needs: Mapping[str, Need], unknown: Iterable[str]) -> bool:
        """Take what needs a person now; return whether there is something to send."""
        now, steady, known, unknown = time.time(), time.monotonic(), self.known(), set(unknown)
        gone = known - needs.keys() - unknown
        self._gone_since = {alert: self._gone_since.get(alert, steady) for alert in gone}
        over = [alert for alert, since in self._gone_since.items() if steady - since >= SETTLED_SECONDS]
        with self._ledger.transaction():
            for channel in self._channels:
                rows = {
                    row["alert"]: row for row in self._ledger.rows("SELECT * FROM notices WHERE channel=?", channel)
                }
                for alert, need in needs.items():
                    self._take(channel, alert, need, rows.get(alert), now)
                for alert in over:
                    if alert in rows and rows[alert]["ended"] is None:
                        self._change(rows[alert], "ended=?", now)
        return any(self.has_pending(channel) for channel in self._channels)

    def _take(self, channel: str, alert: str, need: Need, row: Mapping[str, Any] | None, now: float) -> None:
        if row is None:
            sql = "INSERT INTO notices VALUES(?,?,?,?,?,NULL,0,0,?)"
            self._ledger.run(sql, channel, alert, need.text, need.number, need.since, time.time_ns())
        elif row["ended"] is not None:  # nobody has heard yet that it was over
            self._change(row, "ended=NULL")
        elif need.number > row["number"] and (not row["told"] or abs(now - row["told_at"]) >= MORE_AFTER_SECONDS):
            self._change(row, "told=0, text=?, number=?", need.text, need.number)
        elif need.number < row["number"]:  # more of them are news again
            sql = "UPDATE notices SET number=? WHERE channel=? AND alert=?"
            self._ledger.run(sql, need.number, channel, alert)

    def _change(self, row: Mapping[str, Any], columns: str, *values: Any) -> None:
        sql = f"UPDATE notices SET {columns}, changed=? WHERE channel=? AND alert=?"
        self._ledger.run(sql, *values, time.time_ns(), row["channel"], row["alert"])

    def has_pending(self, channel: str) -> bool:
        """Return whether there is something to send."""
        return bool(self._pending(channel, 1))

    def _pending(self, channel: str, limit: int) -> list[dict[str, Any]]:
        sql = "SELECT * FROM notices WHERE channel=? AND (told=0 OR ended IS NOT NULL) ORDER BY began, alert LIMIT ?"
        return self._ledger.rows(sql, channel, limit)

    def message(self, channel: str) -> Message | None:
        """Return what to send next, or None."""
        if not (rows := self._pending(channel, LINES_PER_MESSAGE)):
            return None
        begun = [_shown(row) for row in rows if row["ended"] is None]
        over = [{**_shown(row), "Until": utc(row["ended"])} for row in rows if row["ended"] is not None]
        return Message(begun, over, rows)

    def sent(self, channel: str, message: Message) -> None:
        """Note that a message was sent. What has changed meanwhile is sent as it is now."""
        with self._ledger.transaction():
            for row in message.rows:
                which = (channel, row["alert"], row["changed"])
                if row["ended"] is None:
                    sql = "UPDATE notices SET told=1, told_at=? WHERE channel=? AND alert=? AND changed=?"
                    self._ledger.run(sql, time.time(), *which)
                else:
                    self._ledger.run("DELETE FROM notices WHERE channel=? AND alert=? AND changed=?", *which)
            self._ledger.set_value(f"notified {channel}", int(time.time()))

    def last_sent(self, channel: str) -> float:
        """Return when something was sent last, in seconds since 1970; 0: never."""
        return float(self._ledger.get_value(f"notified {channel}", 0))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"Alert": row["alert"], "Text": row["text"], "Count": row["number"], "Since": utc(row["began"])}


# ---- src/dashboard/senders.py: How people are notified: a POST to a server, or an e-mail.


LARGEST_ANSWER = 65536  # bytes that are read, so that the connection ends well; only the status counts


class NotSentError(Exception):
    """A message was not sent, as far as is known; the text has no secret."""


class Sender(Protocol):
    """What sends a message."""

    def send(self, message: Message, server: str) -> None:
        """Send a message of an Orthanc with this name, or raise `NotSentError`."""

    def close(self) -> None:
        """End what is under way."""


class WebhookSender:
    """Posts to one address, at a fixed host, without redirects, with TLS verified. Raises OSError: a file can't be read."""

    def __init__(self, target: WebhookTarget, folder: Path) -> None:
        self._target, address = target, urllib.parse.urlsplit(target.url)
        ca_file = str(folder / target.ca_certificate) if target.ca_certificate else None
        self._outside = Outside(target.url, ca_file=ca_file, proxy=target.proxy, connections=1)
        self._path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._user = f"{address.username or ''}:{address.password or ''}" if "@" in address.netloc else ""

    def send(self, message: Message, server: str) -> None:
        text = "\n".join([f"Orthanc {server}: {message.subject}", *message.lines])
        content = {"Orthanc": server, "Begun": [*message.begun], "Over": [*message.over], "text": text}
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "orthanc-dashboard", **self._signature(body)}
        headers["Idempotency-Key"] = message.identifier
        if self._user:
            user = base64.b64encode(urllib.parse.unquote_to_bytes(self._user)).decode()
            headers["Authorization"] = f"Basic {user}"
        try:
            answer = self._outside.request(
                "POST", self._path, headers=headers, body=body, timeout=self._target.timeout, largest=LARGEST_ANSWER
            )
        except (OutsideError, UnsendableError) as error:
            raise NotSentError(one_line(error)) from None
        if not 200 <= answer.status < 300:
            raise NotSentError(f"HTTP {answer.status} {one_line(answer.reason)}")

    def _signature(self, body: bytes) -> Mapping[str, str]:
        """Return the signature over the time and the body, so that what was overheard can't be sent again later."""
        if not self._target.secret:
            return {}
        now = str(int(time.time()))
        digest = hmac.new(self._target.secret.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"X-Dashboard-Timestamp": now, "X-Dashboard-Signature": f"sha256={digest}"}

    def close(self) -> None:
        self._outside.close()


class MailSender:
    """Writes a mail to some people. Raises OSError: the certificates of the authorities can't be read."""

    def __init__(self, target: MailTarget, folder: Path) -> None:
        self._target = target
        ca_file = str(folder / target.ca_certificate) if target.ca_certificate else None
        self._context = ssl.create_default_context(cafile=ca_file) if target.security != "none" else None
        self._client: smtplib.SMTP | None = None

    def send(self, message: Message, server: str) -> None:
        content, target = self._mail(message, server), self._target
        try:
            with self._connected() as client:
                if target.security == "starttls":
                    # It raises where the server offers none: nothing is sent in clear.
                    client.starttls(context=self._context)
                if target.user and target.password:
                    client.login(target.user, target.password)
                refused = client.send_message(content, target.sender, list(target.recipients))
        except smtplib.SMTPAuthenticationError as error:  # its text may quote what was sent
            raise NotSentError(f"the mail server refuses User and Password (code {error.smtp_code})") from None
        except smtplib.SMTPResponseException as error:
            raise NotSentError(f"the mail server answers {error.smtp_code} {_text_of(error.smtp_error)}") from None
        except smtplib.SMTPRecipientsRefused as error:
            raise NotSentError(f"the mail server takes nothing for {_refusals(error.recipients)}") from None
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            where = f"{target.host}, port {target.port_number()}"
            raise NotSentError(one_line(f"{where}: {type(error).__name__}: {error}")[:300]) from None
        if refused:  # the others have it: to send it again would not help this one
            raise PartlySentError(f"the mail server takes nothing for {_refusals(refused)}")

    @contextlib.contextmanager
    def _connected(self) -> Any:
        target = self._target
        assert target.host
        if target.security == "tls":
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                target.host, target.port_number(), timeout=target.timeout, context=self._context
            )
        else:
            client = smtplib.SMTP(target.host, target.port_number(), timeout=target.timeout)
        self._client = client
        try:
            yield client
        finally:
            self._client = None
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()
            client.close()

    def _mail(self, message: Message, server: str) -> email.message.EmailMessage:
        found = email.message.EmailMessage()
        found["Subject"] = f"Orthanc {one_line(server)[:100]}: {message.subject}"
        found["From"], found["To"] = self._target.sender, ", ".join(self._target.recipients)
        found["Date"] = email.utils.localtime()
        assert self._target.sender
        found["Message-ID"] = f"<{message.identifier}.orthanc-dashboard@{self._target.sender.rpartition('@')[2]}>"
        found["Auto-Submitted"] = "auto-generated"  # no absence note answers it (RFC 3834)
        found.set_content("\n".join([*message.lines, "", f"Orthanc {one_line(server)}: /dashboard shows more.", ""]))
        return found

    def close(self) -> None:
        client = self._client
        if client is not None and client.sock is not None:
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)  # what waits for the server returns


def senders_of(settings: NotifySettings, folder: Path) -> dict[str, Sender]:
    """Return what sends, by its name. Raises OSError: certificates can't be read; its text names the key.

    `folder` is the one that paths of the configuration begin in.
    """
    found: dict[str, Sender] = {}
    if settings.webhook:
        with _named("Webhook", settings.webhook, folder):
            found["webhook"] = WebhookSender(settings.webhook, folder)
    if settings.mail:
        with _named("Mail", settings.mail, folder):
            found["mail"] = MailSender(settings.mail, folder)
    return found


@contextlib.contextmanager
def _named(key: str, target: MailTarget | WebhookTarget, folder: Path) -> Iterator[None]:
    """Name the key and the file where certificates can't be read: OpenSSL names neither."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        path = folder / target.ca_certificate if target.ca_certificate else "the authorities of the system"
        raise OSError(
            f"{SECTION}.Notify.{key}.CACertificate: {path} can't be read ({error}), allowed: a PEM file"
        ) from None


class PartlySentError(Exception):
    """A message was sent, and some of those whom it is for don't get it."""


def _text_of(error: bytes | str) -> str:
    return one_line(error.decode("utf-8", "replace") if isinstance(error, bytes) else error)[:200]


def _refusals(recipients: Mapping[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{one_line(address)}: {code} {_text_of(text)}" for address, (code, text) in recipients.items())[
        :300
    ]


# ---- src/dashboard/notifying.py: Notifies people, each channel in a thread of its own: a mail server that is away holds up nothing else.


BETWEEN_MESSAGES_SECONDS = 60.0  # of one channel
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 15.0, 1800.0  # until a server that is away is tried again
LOOK_SECONDS = 30.0  # between two looks, if nobody says that there is something
ENDS_WITHIN_SECONDS = 1.0
SERVER_DISK = "disk:server"


class Channel:
    """One way to people: a thread that sends what its notices have, at most one message a minute."""

    def __init__(self, name: str, sender: Sender, notices: Notices, server: str) -> None:
        self.name, self._sender, self._notices, self._server = name, sender, notices, server
        self.trouble = Trouble("dashboard")
        self._pauses = Pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"dashboard notifies by {name}", daemon=True)

    def start(self) -> None:
        """Begin; return at once."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to send."""
        self._wake.set()

    def stop(self) -> None:
        """End, within a second: what was not sent is sent after the next start."""
        self._stopping.set()
        self._wake.set()
        self._sender.close()
        if self._thread.is_alive():
            self._thread.join(ENDS_WITHIN_SECONDS)

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            wait = self._send()
            if wait:
                self._stopping.wait(wait)  # whatever is new, it is gathered
            else:
                self._wake.wait(LOOK_SECONDS)

    def _send(self) -> float:
        """Send what there is, if it is time; return the seconds until the next try, 0 if there is nothing to send."""
        try:
            early = self._notices.last_sent(self.name) + BETWEEN_MESSAGES_SECONDS - time.time()
            if 0 < early <= BETWEEN_MESSAGES_SECONDS:  # a clock that was set back is no reason to wait for long
                return early if self._notices.has_pending(self.name) else 0.0
            if (message := self._notices.message(self.name)) is None:
                return 0.0
            try:
                self._sender.send(message, self._server)
            except PartlySentError as error:
                self._log(str(error))
            else:
                self._is_over()
            self._notices.sent(self.name, message)
            self._pauses.reset()
            return BETWEEN_MESSAGES_SECONDS if self._notices.has_pending(self.name) else 0.0
        except (NotSentError, sqlite3.Error, OSError) as error:
            self._log(one_line(error))
        except Exception:  # noqa: BLE001 - one odd message never ends the thread
            self._log(f"an error, please report it:\n{traceback.format_exc()}")
        return self._pauses.next()

    def _log(self, why: str) -> None:
        if not self._stopping.is_set():
            self.trouble.begins(f"dashboard can't notify by {self.name}, and tries again: {why}", why)

    def _is_over(self) -> None:
        if not self._stopping.is_set():
            self.trouble.is_over()


class Notifier:
    """Decides who has to know what, and starts and stops the channels.

    Raises
    ------
    ValueError : the package requests is needed and missing.
    """

    def __init__(
        self, settings: NotifySettings, senders: Mapping[str, Sender], configuration: Mapping[str, Any], ledger: Ledger
    ) -> None:
        if settings.webhook:
            try:
                import_requests()  # here, where there is room for it
            except ImportError as error:
                raise ValueError(str(error)) from None
        self._settings, server = settings, str(configuration.get("Name") or configuration.get("DicomAet") or "ORTHANC")
        self._notices = Notices(ledger, [*senders])
        self._channels = [Channel(name, sender, self._notices, server) for name, sender in senders.items()]
        self._storage = storage_folder(configuration)

    def start(self) -> None:
        """Begin to send what is left from before."""
        for channel in self._channels:
            channel.start()

    def stop(self) -> None:
        """End."""
        for channel in self._channels:
            channel.stop()

    def look(self, summary: Mapping[str, Any]) -> None:
        """Take a summary: what is new, and what is over, is written down before it is sent."""
        if not self._channels:
            return
        known = self._notices.known()
        needs = needs_of(summary, self._settings.after_minutes, known)
        needs |= disk_need(used_percent(self._storage), self._settings.disk_above, known)
        if self._notices.look(needs, unknown_now(summary, known)):
            for channel in self._channels:
                channel.wake()

    def problem(self) -> str | None:
        """Return why people can't be notified just now, or None."""
        return "; ".join(filter(None, (first_line(channel.trouble.text) for channel in self._channels))) or None


def used_percent(storage: Path) -> float | None:
    """Return how full the file system of Orthanc's files is; None: that is not known."""
    try:
        return file_system_of(storage).used_percent
    except OSError:
        return None


def disk_need(used: float | None, above: float | None, known: set[str]) -> dict[str, Need]:
    """Return the need of more room, if there is one; it is over two percent below the level where it began."""
    if used is None or above is None:
        return {}
    level = above - 2 if SERVER_DISK in known else above
    text = f"The disk is {used:.0f}% full, above {above:g}%"
    return {SERVER_DISK: Need(text, 1, time.time())} if used > level else {}


# ---- src/dashboard/alerts.py: What needs a person, and what goes on by itself but should be known: one list, from what scripts say of themselves.


ACT, WATCH = "act", "watch"  # somebody must do something; it heals by itself, and nothing is lost meanwhile


def alert(
    identifier: str, level: str, text: str, panel: str, *row: str, why: object = "", count: int = 1, **query: str
) -> dict[str, Any]:
    """Return an alert.

    Parameters
    ----------
    identifier : the same as long as it lasts.
    panel, row, query : where the page shows more.
    why : what a script or a destination said.
    """
    return {
        **{"ID": identifier, "Level": level, "Text": text, "Why": str(why or ""), "Count": count},
        **{"Panel": panel, "Row": [*row], "Query": query},
    }


def alerts_of(found: Gathered) -> list[dict[str, Any]]:
    """Return all alerts, those that need a person first."""
    every = [*_of_scripts(found), *_of_destinations(found), *_of_others(found)]
    return sorted(every, key=lambda each: each["Level"] != ACT)  # stable


def _of_scripts(found: Gathered) -> Iterator[dict[str, Any]]:
    for script in found.scripts:
        if not script.get("Healthy"):
            name, reason = script["Name"], script.get("Reason") or script.get("State")
            text = f"{name} runs with trouble" if script.get("State") == "running" else f"{name} does not run"
            place = ("events",) if name == "dicom_events" and _has_wrong_broker(found) else ("scripts", name)
            yield alert(f"script:{name}", ACT, text, *place, why=reason)


def _has_wrong_broker(found: Gathered) -> bool:
    """Return whether a broker is off until its configuration is corrected: its panel says more than that of the scripts."""
    brokers = found.statuses.get("dicom_events", {}).get("Brokers") or {}
    return any(each.get("State") == "misconfigured" for each in brokers.values())


def state_of_destination(entry: dict[str, Any]) -> str:
    """Return the state of a destination in one word: what keeps it from being sent to comes first."""
    if entry.get("Paused"):
        return "paused"
    if entry.get("Misconfigured"):
        return "misconfigured"
    if entry.get("Away"):
        return "away"
    return "up" if entry.get("Open", True) else "closed"


def _of_destinations(found: Gathered) -> Iterator[dict[str, Any]]:
    for script, destinations in found.destinations.items():
        for name, entry in destinations.items():
            place, state, totals = ("destinations", script, name), state_of_destination(entry), entry.get("Totals", {})
            waiting, dead = totals.get("waiting", 0), totals.get("dead", 0)
            if dead:
                text = f"{counted(dead, 'delivery', 'deliveries')} to {name} failed for good"
                yield alert(f"dead:{script}:{name}", ACT, text, *place, count=dead)
            if state == "misconfigured":
                text = f"{name} is not as it is configured"
                yield alert(f"destination:{script}:{name}", ACT, text, *place, why=entry.get("Error"))
            elif state == "away":
                text = f"{name} is away, {counted(waiting, 'delivery waits', 'deliveries wait')}"
                yield alert(f"destination:{script}:{name}", WATCH, text, *place, why=entry.get("Error"), count=waiting)
            elif state == "paused":
                text = f"{name} is paused, {counted(waiting, 'delivery waits', 'deliveries wait')}"
                yield alert(f"paused:{script}:{name}", WATCH, text, *place, count=waiting)


def _of_others(found: Gathered) -> Iterator[dict[str, Any]]:
    for name, status in found.statuses.items():
        dead = status.get("Totals", {}).get("dead", 0)
        if name == "auto_retries" and dead:
            text = f"{counted(dead, 'job', 'jobs')} of others failed for good"
            yield alert("dead:auto_retries", ACT, text, "scripts", name, count=dead)
        if name == "anonymize_series" and dead:
            text = f"{counted(dead, 'de-identification', 'de-identifications')} failed for good"
            yield alert("dead:anonymize_series", ACT, text, "deidentification", count=dead, state="dead")
        if name not in FORWARDERS:
            yield from _of_places(name, status.get("Brokers") or status.get("Services") or {})
    if found.held:
        text = f"{counted(found.held, 'image was', 'images were')} held back from de-identified copies"
        yield alert("held:anonymize_series", WATCH, text, "deidentification", count=found.held)


def _of_places(script: str, places: Any) -> Iterator[dict[str, Any]]:
    """Yield alerts of brokers and of services that are notified."""
    if not isinstance(places, dict):
        return
    panel = "events" if script == "dicom_events" else "moves"
    for name, entry in places.items():
        if dead := entry.get("DeadLetters", entry.get("Dead", 0)):
            text = f"{counted(dead, 'message', 'messages')} to {name} failed for good"
            yield alert(
                f"dead:{script}:{name}", ACT, text, panel, count=dead, **({"broker": name} if panel == "events" else {})
            )
        if entry.get("State") == "orphaned":
            text = f"{name} is not configured any more, and something waits for it"
            yield alert(f"orphaned:{script}:{name}", ACT, text, panel)


def counted(number: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


# ---- src/dashboard/summary.py: The first view as one answer: what `GET /dashboard/summary` says.


def things_of(found: Gathered) -> dict[str, str]:
    """Return the state of each thing of which it is written down since when it is so: destinations, scripts, alerts."""
    return {
        **{f"script:{each['Name']}": str(each["State"]) for each in found.scripts},
        **{
            f"state:{script}:{name}": state_of_destination(entry)
            for script, destinations in found.destinations.items()
            for name, entry in destinations.items()
        },
        **{f"alert:{each['ID']}": "on" for each in alerts_of(found)},
    }


def summary_of(found: Gathered, flow: Flow, sinces: Sinces) -> dict[str, Any]:
    """Return the summary. It names scripts, destinations and brokers, and no patient."""
    system, statistics = found.system, found.statistics
    return {
        "At": utc(),
        "Server": {
            "Name": system.get("Name"),
            "Version": system.get("Version"),
            "DicomAet": system.get("DicomAet"),
            "DicomPort": system.get("DicomPort"),
            "DashboardVersion": __version__,
            "UtcOffsetSeconds": time.localtime().tm_gmtoff,
            "Patients": statistics.get("CountPatients"),
            "Studies": statistics.get("CountStudies"),
            "Series": statistics.get("CountSeries"),
            "Instances": statistics.get("CountInstances"),
            "Bytes": int(statistics.get("TotalDiskSize", 0)),
            "FreeBytes": found.free,
            "RoomBytes": found.room,
        },
        "Flow": flow.now(),
        "Alerts": [{**each, "Since": sinces.of(f"alert:{each['ID']}")} for each in alerts_of(found)],
        "Destinations": [
            {
                "Script": script,
                "Route": f"/{script.replace('_', '-')}",
                "Name": name,
                "State": state_of_destination(entry),
                "Since": sinces.of(f"state:{script}:{name}"),
                "Error": entry.get("Error") or "",
                "Slow": entry.get("Slow"),
                "Totals": entry.get("Totals", {}),
                "LastMinute": flow.delivered_to(script, name),
            }
            for script, destinations in found.destinations.items()
            for name, entry in destinations.items()
        ],
        "Scripts": [
            {
                **each,
                "Since": sinces.of(f"script:{each['Name']}"),
                "Totals": found.statuses.get(each["Name"], {}).get("Totals", {}),
                "LastError": found.statuses.get(each["Name"], {}).get("LastError"),
                "Callbacks": found.callbacks.get(each["Name"]),
            }
            for each in found.scripts
        ],
    }


# ---- src/dashboard/service.py: The thread that looks at this Orthanc: each minute for the chart, every other second while somebody has the page open.


FRESH_SECONDS = 2.0  # an answer may be so old
WATCHED_SECONDS = 15.0  # after a request, it is looked at again and again for so long
UNWATCHED_SECONDS = 30.0  # between two looks when nobody has the page open
ANSWER_WITHIN_SECONDS = 5.0  # that a request waits for a fresh answer


class Dashboard:
    """Looks at this Orthanc, keeps what it saw in memory, and each minute in its state.

    Attributes
    ----------
    minutes : the last day, once `worker.why_not()` is None.
    """

    minutes: Minutes

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], senders: Mapping[str, Sender]) -> None:
        self.settings, self._configuration = settings, configuration
        self._loopback, self._senders = Loopback(configuration), senders
        self._notifier: Notifier | None = None
        self._turns = HttpTurns(configuration, "summaries")
        self.worker = Worker(NAME, self._open, self._turn)
        self._flow = Flow()
        self._ended = collections.deque[Minute](maxlen=KEEP_MINUTES)  # that are to be written
        self._changed = threading.Condition()
        self._summary: dict[str, Any] | None = None
        self._seen_at = self._asked_at = -3600.0  # monotonic

    def on_change(self, change: int, _level: int, _resource: str) -> None:
        """Count what comes in; start and stop the thread."""
        if change == orthanc.ChangeType.NEW_INSTANCE:
            self._flow.on_instance()
        elif change == orthanc.ChangeType.ORTHANC_STARTED:
            self.worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            deadline = time.monotonic() + STOPS_WITHIN
            self.worker.end()
            if self._notifier:  # while the ledger is open: it keeps what was sent
                self._notifier.stop()
            self.worker.stop(deadline - time.monotonic())

    def condition(self, refusal: str | None) -> Condition:
        """Return whether the script works, and whether people can be notified."""
        found = condition_of(self.worker, refusal)
        if found.state != RUNNING or found.reason or self._notifier is None:
            return found
        return dataclasses.replace(found, reason=self._notifier.problem())

    def summary(self) -> dict[str, Any]:
        """Return the summary, at most 2 s old. All who ask at once get the same one.

        Raises
        ------
        Refused : too many ask at a time, or Orthanc and its scripts do not answer (503).
        """
        self._asked_at = time.monotonic()
        if self._is_fresh():
            assert self._summary is not None
            return self._summary
        with self._turns.turn():  # it waits for the thread, which needs HTTP threads of Orthanc
            self.worker.wake.set()
            with self._changed:
                self._changed.wait_for(self._is_fresh, ANSWER_WITHIN_SECONDS)
        if self._summary is None or time.monotonic() - self._seen_at > UNWATCHED_SECONDS:
            why = first_line(self.worker.trouble.text) or "it was not answered in time"
            raise Refused(503, f"Orthanc's scripts could not be looked at: {why}")
        return self._summary

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._seen_at < FRESH_SECONDS

    # The thread

    def _open(self) -> Ledger:
        if not self._loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        path = state_folder(self.settings.state_path, self._configuration, "dashboard") / "dashboard.sqlite"
        ledger = Ledger(path, MINUTE_TABLES + NOTICE_TABLES, durability=self.settings.durability)
        if ledger.quarantined_to:
            orthanc.LogWarning(
                f"{NAME}: {path} was corrupt and is kept as {ledger.quarantined_to}; the chart begins anew"
            )
        try:
            self.minutes, self._sinces = Minutes(ledger), Sinces(ledger)
            self._gatherer = Gatherer(self._loopback, NAME, storage_folder(self._configuration))
            if self.settings.notify:
                self._notifier = Notifier(self.settings.notify, self._senders, self._configuration, ledger)
                self._notifier.start()
        except BaseException:
            ledger.close()  # the next try opens it again
            raise
        return ledger

    def _turn(self) -> float:
        now = time.monotonic()
        is_watched = now - self._asked_at < WATCHED_SECONDS
        every = FRESH_SECONDS if is_watched else UNWATCHED_SECONDS
        if now - self._seen_at >= every:
            self._look()
        if minute := self._flow.ended_minute():
            self._ended.append(minute)
        while self._ended:
            self.minutes.add(self._ended[0])
            self._ended.popleft()
        return FRESH_SECONDS if is_watched else min(UNWATCHED_SECONDS, 60 - time.time() % 60)

    def _look(self) -> None:
        found = self._gatherer.gather()
        self._flow.look(found)
        self._sinces.update(things_of(found))
        with self._changed:
            self._summary, self._seen_at = summary_of(found, self._flow, self._sinces), time.monotonic()
            self._changed.notify_all()
        if self._notifier:
            self._notifier.look(self._summary)


# ---- src/dashboard/routes.py: The routes `/dashboard…`.


class Routes:
    """Handlers of `/dashboard…`."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    def register(self, refusal: str | None) -> ListedScript:
        """Register the routes, which answer 503 with a `refusal` (the configuration is wrong); return the script's entry."""
        worker = self._dashboard.worker

        def unavailable() -> str | None:
            return refusal or worker.why_not()

        def misconfigured_only() -> str | None:
            return refusal

        script = register_status(
            NAME, lambda: self._dashboard.condition(refusal), self.status, unavailable, routes=f"/{NAME}/routes"
        )
        register_route(f"/{NAME}", {"GET": self.page}, misconfigured_only)
        register_route(f"/{NAME}/files/([^/]+)/(.+)", {"GET": self.file}, misconfigured_only)
        register_route(f"/{NAME}/summary", {"GET": self.summary}, unavailable)
        register_route(f"/{NAME}/flow", {"GET": self.flow}, unavailable)
        register_route(f"/{NAME}/may-act", {"POST": self.may_act}, misconfigured_only)
        return script

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, whether it shows buttons, and how many minutes of the last day it has."""
        return {
            "Totals": {"minutes": len(self._dashboard.minutes.since(0)["Minute"])},
            "Actions": self._dashboard.settings.actions,
        }

    @answers(media=("text/html",))
    def page(self, _request: Request) -> Answer:
        """Return the page: open it in a browser."""
        return Answer(PAGE, mime="text/html; charset=utf-8", headers=PAGE_HEADERS)

    @answers(media=("text/javascript", "text/css", "image/svg+xml", "text/plain"))
    def file(self, request: Request) -> Answer:
        """Return a file of the page: its code, its style, a library."""
        version, name = request.groups
        if version != FILES_HASH or name not in FILES:
            raise Refused(404, "There is no such file of the page; load the page again")
        mime, text = FILES[name]
        return Answer(text, mime=mime, headers=FILE_HEADERS)

    def summary(self, _request: Request) -> dict[str, Any]:
        """Return the first view as JSON: what flows, what is stuck, destinations, scripts, and what needs a person."""
        return self._dashboard.summary()

    @takes({"since": WholeNumber()})
    def flow(self, request: Request) -> dict[str, Any]:
        """Return each minute of the last day, or those from `since` on (minutes since 1970), as columns."""
        return self._dashboard.minutes.since(request.parameters.get("since", 0))

    def may_act(self, _request: Request) -> dict[str, Any]:
        """Do nothing: 200 for who may act by the page's buttons, else 403."""
        if not self._dashboard.settings.actions:
            raise Refused(403, 'The page only shows ("Dashboard": {"Actions": false})')
        return {"Actions": True}


# ---- src/dashboard/__init__.py


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings, senders = None, Settings(), dict[str, Sender]()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if settings.notify is not None:
            if wrong := settings.notify.complaint():
                raise SettingsError(f"{SECTION}.Notify.{wrong}")
            if settings.notify.webhook and (problem := requests_problem()):
                raise SettingsError(f"dashboard stays idle: {problem}")
            senders = senders_of(settings.notify, configuration_folder())
    except (SettingsError, OSError) as error:  # OSError: a certificate can't be read (ssl.SSLError is one)
        refusal = f"{error}. dashboard is idle until this is corrected."
        orthanc.LogError(refusal)
    dashboard = Dashboard(settings, configuration, senders)
    script = Routes(dashboard).register(refusal)
    if refusal is not None:
        listen_to_changes(script)
        return
    warn_if_open("dashboard", configuration)
    if settings.explorer:
        link_from_explorer()
    listen_to_changes(script, dashboard.on_change)


register()
