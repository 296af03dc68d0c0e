# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/auto_retries/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Runs jobs again that failed and that others submitted: REST clients, Orthanc Explorer, other scripts.

A study that a person sends to a PACS that is down arrives when the PACS is back: the job's content is written down as long
as Orthanc knows it, and the job is run again, less and less often, also after restarts and `kill -9`, for three days. Then
it is `dead` until a person retries it. The jobs of the forward scripts, and those that somebody canceled, are left alone.

Needs no configuration. The types of jobs that it cares for, and for how long:

    "AutoRetries": {"Types": ["DicomModalityStore", "OrthancPeerStore"], "Retry": {"GiveUpHours": 24}}

To look at and to act on, with curl:

    GET  /auto-retries/status
    GET  /auto-retries/jobs?state=dead              also destination=, job=, since=, limit=
    POST /auto-retries/jobs/{id}/retry              and GET and DELETE /auto-retries/jobs/{id}
    POST /auto-retries/jobs/retry                   {"Destination": "PACS"}: all dead ones of it

Needs nothing but Python's standard library. All keys, and what a job does not show: docs/auto_retries.md.
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
import ipaddress
import itertools
import json
import os
import random
import re
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
import weakref
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


# ---- src/forwarding/misconfigured.py: The error of a destination that is not what it should be.


class MisconfiguredError(Exception):
    """What answers is not what it should be: nothing may be sent there until somebody has corrected it."""


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


# ---- src/common/dicomweb.py: Where Orthanc's DICOMweb plugin is.


def dicomweb_root(configuration: Mapping[str, Any]) -> str:
    """Return the path of the plugin's routes, without slashes at its ends: `dicom-web`."""
    section = configuration.get("DicomWeb")
    return str((section if isinstance(section, dict) else {}).get("Root", "/dicom-web/")).strip("/")


def dicomweb_servers_route(configuration: Mapping[str, Any]) -> str:
    """Return the path of the servers that the plugin can send to: `dicom-web/servers`."""
    return "/".join(filter(None, (dicomweb_root(configuration), "servers")))


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


# ---- src/common/version.py: The version of the collection, the same for all scripts; it is written here and nowhere else.


__version__ = "0.2.0"


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


# ---- src/auto_retries/recipes.py: What a job says of itself: all that submitting it again takes. Decisions, without Orthanc.


Destinations = Mapping[str, Mapping[str, Any]]  # /modalities?expand or /peers?expand: names and their settings


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a job of one type is submitted again, from what it showed."""

    route: str  # of its destination: "modalities", "peers", or "servers" of the DICOMweb plugin
    command: str
    target: Callable[[Mapping[str, Any]], str]  # of a job's content: what it says of its destination
    body: Callable[[Mapping[str, Any]], dict[str, Any] | None]  # of a job's content; None if that does not suffice


def _aet(content: Mapping[str, Any]) -> str:
    return str(content.get("RemoteAet", ""))


def _url(content: Mapping[str, Any]) -> str:
    return url_of_peer(content)


def _modality_store(content: Mapping[str, Any]) -> dict[str, Any] | None:
    resources = content.get("ParentResources")
    options = {"LocalAet": "LocalAet", "MoveOriginatorAET": "MoveOriginatorAet", "MoveOriginatorID": "MoveOriginatorID"}
    body = {"Resources": resources, **{theirs: content[key] for key, theirs in options.items() if key in content}}
    if content.get("StorageCommitmentTransactionUID"):
        body["StorageCommitment"] = True
    return body if resources else None


def _peer_store(content: Mapping[str, Any]) -> dict[str, Any] | None:
    resources = content.get("ParentResources")
    options = {key: content[key] for key in ("Compress", "Transcode") if key in content}
    return {"Resources": resources, **options} if resources else None


def _retrieve(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the body for a DicomMoveScu or DicomGetScu: a job may hold queries of several levels, a request can't."""
    level_tag, queries = "0008,0052", content.get("Query") or []
    levels = {query.get(level_tag) for query in queries}
    if len(levels) != 1 or None in levels:
        return None
    resources = [{tag: value for tag, value in query.items() if tag != level_tag and value} for query in queries]
    options = {key: content[key] for key in ("TargetAet", "LocalAet") if key in content}
    return {"Level": levels.pop(), "Resources": resources, **options}


def _move(content: Mapping[str, Any]) -> dict[str, Any] | None:
    # Orthanc 1.10.1 does not show where to, and its /modalities/{id}/move would wait for the end.
    return _retrieve(content) if content.get("TargetAet") else None


def _stow(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the body for a DicomWebStowClient: its content has resources by level, with all instances since plugin 1.20."""
    by_level: Mapping[str, list[str]] = content.get("Resources") or {}
    instances = by_level.get("Instances", [])
    is_whole = bool(instances) and int(content.get("InstancesCount", len(instances))) == len(instances)
    resources = instances if is_whole else [each for level in by_level.values() for each in level]
    return {"Resources": list(dict.fromkeys(resources))} if resources else None


def _server(content: Mapping[str, Any]) -> str:
    return str(content.get("Server", ""))


STOW = "DicomWebStowClient"
RECIPES = {
    "DicomModalityStore": Recipe("modalities", "store", _aet, _modality_store),
    "OrthancPeerStore": Recipe("peers", "store", _url, _peer_store),
    "DicomMoveScu": Recipe("modalities", "move", _aet, _move),
    "DicomGetScu": Recipe("modalities", "get", _aet, _retrieve),
    STOW: Recipe("servers", "stow", _server, _stow),
}


def address(entry: Mapping[str, Any]) -> str:
    """Return where an entry of /modalities?expand or /peers?expand leads to."""
    if "Url" in entry:
        return f"{entry['Url']} {entry.get('Username') or ''}"
    return f"{entry['AET']} {entry['Host']}:{entry['Port']}"


def description(job: Mapping[str, Any], known: Callable[[str], Destinations]) -> dict[str, Any]:
    """Return what is kept of a job: all that submitting it again takes.

    `known` gives the destinations of a route. `Names` are the destinations that the job can mean now, for its content names
    an AET or a URL, and `Addresses` where they lead to, so that a later correction of the configuration shows. `Digest` is the
    same for two jobs that would do the same.
    """
    recipe = RECIPES.get(job["Type"])
    kept = {"Type": job["Type"], "Priority": job.get("Priority", 0), "Target": "", "Names": [], "Addresses": []}
    if recipe is None:
        return {**kept, "Body": None, "Digest": job["ID"]}
    target, body = recipe.target(job["Content"]), recipe.body(job["Content"])
    fitting = {name: entry for name, entry in known(recipe.route).items() if is_target(name, entry, target, recipe)}
    same = job["ID"] if body is None else json.dumps([job["Type"], target, body], sort_keys=True)
    kept |= {"Names": sorted(fitting), "Addresses": sorted(map(address, fitting.values()))}
    return {**kept, "Target": target, "Body": body, "Digest": hashlib.sha256(same.encode()).hexdigest()}


def may_lie(data: Mapping[str, Any]) -> bool:
    """Return whether a success of this job, resubmitted, says nothing: one of the plugin leaves out what it has read before."""
    return bool(data["Type"] == STOW)


def has_read(job: Mapping[str, Any]) -> bool:
    """Return whether a job of the DICOMweb plugin has begun to read what it sends; resubmitted, it would leave that out."""
    return bool(job.get("Progress")) or "NetworkSizeMB" in (job.get("Content") or {})


def resources_sent(row: Mapping[str, Any]) -> list[str]:
    """Return the resources of this Orthanc that the job of a row sends; none if it sends none, or does not say which."""
    body = json.loads(row["data"])["Body"] or {}
    return [each for each in body.get("Resources") or () if isinstance(each, str)]


def is_target(name: str, entry: Mapping[str, Any], target: str, recipe: Recipe) -> bool:
    """Return whether a job means this destination: it says the AET of a node, the URL of a peer, the name of a server."""
    if recipe.route == "servers":
        return name == target
    return str(entry.get("Url", entry.get("AET"))).rstrip("/") == target.rstrip("/")


def destination_of(data: Mapping[str, Any]) -> str:
    """Return the name of a job's destination, as lists and logs have it."""
    return one_line(" or ".join(data["Names"]) or data["Target"] or data["Type"])


class Unclear(Exception):  # noqa: N818 - it is a finding
    """A job can't be submitted again: `for_ever`, or until the configuration changes."""

    def __init__(self, text: str, *, for_ever: bool = False) -> None:
        super().__init__(text)
        self.for_ever = for_ever


def name_of(data: Mapping[str, Any], known: Destinations) -> str:
    """Return the name of the destination to submit to. Raises `Unclear`: better late than to another node."""
    names = [name for name in data["Names"] if name in known]
    recipe = RECIPES[data["Type"]]
    names = names or [name for name, entry in known.items() if is_target(name, entry, data["Target"], recipe)]
    if not names:
        raise Unclear(f"Orthanc does not know {destination_of(data)}; known are: {', '.join(known) or 'none'}")
    if len({address(known[name]) for name in names}) > 1:
        raise Unclear(f"{' and '.join(names)} lead to different places, and the job does not tell which was meant")
    return str(names[0])


# ---- src/auto_retries/settings.py: The section `AutoRetries` of the configuration.


SECTION = "AutoRetries"
NAME = "auto-retries"


@dataclasses.dataclass(frozen=True)
class JobRetry(Retry):
    """When a job that failed is run again."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "MaxAttempts": "the script decides that itself now (a job is run again until GiveUpHours have passed)",
    }


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AutoRetries`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "MaxConcurrent": "the script decides that itself now (ConcurrentJobs less one run at a time)",
        "KeepDoneDays": "jobs that were run again with success stay in the list for 30 days",
    }

    types: tuple[str, ...] = dataclasses.field(
        default=("DicomModalityStore", "OrthancPeerStore", "DicomMoveScu", "DicomWebStowClient"),
        metadata={"help": "Types of jobs that are run again, as `/jobs/{id}` names them."},
    )
    retry: JobRetry = dataclasses.field(
        default=JobRetry(), metadata={"help": "For how long a failed job is run again."}
    )
    durability: str = durability_field()
    state_path: str | None = state_path_field()


# ---- src/auto_retries/failures.py: The rows of jobs that failed: how they begin, and how their attempts end.


ATTEMPTS_REMEMBERED = 20  # in the history of a row


class Failures:
    """Writes down and logs what became of jobs and of the attempts to run them again.

    Attributes
    ----------
    missed : the number of jobs that failed and could not be read.
    """

    def __init__(self, ledger: Ledger, retry: JobRetry, trouble: Trouble) -> None:
        self._ledger, self._work, self._retry, self._trouble = ledger, Work(ledger), retry, trouble
        self.missed = 0

    def unanswered(self) -> list[dict[str, Any]]:
        """Return the rows whose submission was not answered: what the job is called may still be on its way."""
        return [row for row in self._work.find(Which(states=("sending",))) if row["job"] is None]

    def may_own(self, job: str) -> bool:
        """Return whether this job is, or may turn out to be, an attempt of a row."""
        return self._work.has(Which(job=job)) or bool(self.unanswered())

    def row_of(self, ended: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row that a watched job is an attempt of, also one whose submission was not answered."""
        if found := self._work.find(Which(job=ended["job"])):
            return found[0]
        digest = (json.loads(ended["data"]) or {}).get("Digest")
        same = [row for row in self.unanswered() if digest and json.loads(row["data"])["Digest"] == digest]
        return {**same[0], "job": ended["job"]} if same else None

    def add(self, ended: Mapping[str, Any]) -> None:
        """Add a row for the job of somebody else that failed, unless one waits that does the same."""
        data = json.loads(ended["data"])
        if data is None:
            self.missed += 1
            orthanc.LogWarning(
                f"{NAME}: job {ended['job']} failed and was forgotten by Orthanc before it could be read, so that it "
                "can't be run again; a larger JobsHistorySize helps"
            )
            return
        if same := self._work.unfinished_with("Digest", data["Digest"]):
            orthanc.LogInfo(f"{NAME}: job {ended['job']} failed, and would do the same as {same['id']}, which waits")
            return
        number = self._ledger.add(destination_of(data), ended["job"], data)
        self._work.change(number, job=ended["job"], attempts=1, created=ended["ended"])
        if row := self._work.get(number):
            self.fail(row, ended["error"])

    def end(self, row: Mapping[str, Any], ended: Mapping[str, Any]) -> None:
        """Write down how an attempt has ended: its job, which was watched."""
        if ended["state"] == "Success" and row["state"] == "waiting" and may_lie(json.loads(row["data"])):
            orthanc.LogInfo(
                f"{label_of(row)} was resubmitted by somebody, which may have sent nothing: it is sent again"
            )
        elif ended["state"] == "Success":
            self._ledger.end(row["id"], "done")
            orthanc.LogInfo(f"{label_of(row)} has succeeded (attempt {row['attempts']})")
        elif ended["state"] == "canceled":
            self._work.give_up(row["id"], ended["error"])
            orthanc.LogInfo(f"{label_of(row)}: {ended['error']}; it is not run again")
        elif row["state"] == "sending":
            self.fail(row, ended["error"])

    def fail(self, row: Mapping[str, Any], error: str, *, for_ever: bool = False) -> None:
        """Write down that an attempt has failed: it waits for the next one, or is dead."""
        data = json.loads(row["data"])
        entry = {"Time": utc(), "Job": row["job"], "Error": one_line(error)}
        data["History"] = [*data.get("History", []), entry][-ATTEMPTS_REMEMBERED:]
        with self._ledger.transaction():
            self._work.change(row["id"], data=data)
            state = self._ledger.fail(row["id"], one_line(error), self._retry, give_up=for_ever)
        text = f"{label_of(row)} failed (attempt {row['attempts']}): {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            orthanc.LogError(f"{text}. Given up; POST /{NAME}/jobs/{row['id']}/retry runs it again")
        elif row["attempts"] == 1:
            orthanc.LogWarning(f"{text}. It will be run again: GET /{NAME}/jobs/{row['id']}")
        else:
            orthanc.LogInfo(text)


def label_of(row: Mapping[str, Any]) -> str:
    """Return what the log calls a row."""
    return f"{NAME}: {json.loads(row['data'])['Type']} to {row['queue']} (job {row['subject']})"


# ---- src/auto_retries/jobs.py: Jobs as Orthanc shows them in a callback, and how they ended.


INTERNAL_ERROR = -1  # Orthanc's error code that a store job gives which misses an instance


def read_job(job: str) -> dict[str, Any] | None:
    """Return a job, in a callback; None if Orthanc has forgotten it."""
    try:
        found: dict[str, Any] = json.loads(orthanc.RestApiGet(f"/jobs/{job}"))
    except orthanc.OrthancException:
        return None
    return found


def ending_of_failed(job: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return state and error of a job that did not succeed; None is one that Orthanc has forgotten."""
    ending, why = ending_of(job, reported=False)
    return ending, "it was canceled" if ending is Ending.CANCELED else why


# ---- src/auto_retries/known_destinations.py: The nodes, peers and DICOMweb servers that Orthanc knows.


class KnownDestinations:
    """The nodes and peers that Orthanc knows now, read once until one of them is changed, and the DICOMweb plugin's servers.

    Parameters
    ----------
    servers_route : path of the DICOMweb plugin's servers.
    """

    def __init__(self, servers_route: str = "dicom-web/servers") -> None:
        self._servers_route = servers_route
        self._known: dict[str, Destinations] = {}

    def path(self, route: str) -> str:
        """Return the path of a route, which is below the plugin's root for "servers"."""
        return self._servers_route if route == "servers" else route

    def of(self, route: str) -> Destinations:
        """Return those of a route, "modalities", "peers" or "servers", by name, with their settings."""
        if route == "servers":
            return self._servers()
        known = self._known  # what was read before a change, and comes after it, ends in what is read no more
        if route not in known:
            known[route] = json.loads(orthanc.RestApiGet(f"/{route}?expand"))
        return known[route]

    def _servers(self) -> Destinations:
        """Return the servers of the DICOMweb plugin, none without it: there is no event when they change."""
        try:
            found: Destinations = json.loads(orthanc.RestApiGetAfterPlugins(f"/{self._servers_route}?expand"))
        except orthanc.OrthancException:
            return {}
        return found

    def on_updated(self) -> None:
        """Read them again when they are needed."""
        self._known = {}


# ---- src/auto_retries/freshness.py: Whether a job as Orthanc knows it would still do what is wanted.


RESOURCES_PER_LOOKUP = 500


class Freshness:
    """Compares what a job was made for with what is here, and with where its destination is now.

    Parameters
    ----------
    overwrites : whether an instance may be replaced by another one with the same identifier (OverwriteInstances).
    """

    def __init__(self, loopback: Loopback, destinations: KnownDestinations, *, overwrites: bool) -> None:
        self._loopback, self._destinations, self._overwrites = loopback, destinations, overwrites

    def still_here(self, resources: Sequence[str]) -> list[dict[str, Any]]:
        """Return what Orthanc shows of those resources that were not deleted, in their order."""
        here: dict[str, dict[str, Any]] = {}
        for start in range(0, len(resources), RESOURCES_PER_LOOKUP):
            body = {"Resources": resources[start : start + RESOURCES_PER_LOOKUP]}
            here |= {found["ID"]: found for found in self._loopback.post("/tools/bulk-content", body)}
        return [here[resource] for resource in resources if resource in here]

    def may_resubmit(
        self, job: Mapping[str, Any], data: Mapping[str, Any], here: Sequence[Mapping[str, Any]] | None
    ) -> bool:
        """Return whether the job is still what is wanted: it sends the same instances to the same address."""
        recipe = RECIPES.get(data["Type"])
        if recipe is None:
            return True
        if data["Type"] == STOW:  # on 1.10.1 there is no other way; where nothing was read yet, all is sent
            return data["Body"] is None and not has_read(job)
        known = self._destinations.of(recipe.route)
        addresses = sorted(address(known[name]) for name in data["Names"] if name in known)
        is_unchanged = here is None or self._is_unchanged(job, here)
        return is_unchanged and addresses == data["Addresses"] and job["ErrorCode"] != INTERNAL_ERROR

    def _is_unchanged(self, job: Mapping[str, Any], here: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether a store job would send what is here: 1.13.0 sends, from its cache, also what was deleted since.

        Nothing came since the job was made, and there are as many instances: then nothing was deleted either.
        """
        count = 0
        for resource in here:
            if resource["Type"] == "Instance":
                if self._overwrites:
                    return False  # nothing shows whether it is another one now
                count += 1
            elif resource.get("LastUpdate", "9") < job["CreationTime"][:15]:  # both are UTC, the first in whole seconds
                path = f"/{PLURAL[resource['Type']]}/{resource['ID']}/statistics"
                count += int(self._loopback.get(path)["CountInstances"])
            else:
                return False
        return bool(count == job["Content"].get("InstancesCount"))


# ---- src/auto_retries/watched.py: The jobs that are watched: a table of the ledger.


# A job is watched from its submission to its end: `running`, `Success`, `Failure` or `canceled`.
WATCHED_TABLE = """
CREATE TABLE IF NOT EXISTS watched(job TEXT PRIMARY KEY, state TEXT NOT NULL, error TEXT NOT NULL, data TEXT NOT NULL,
    seen REAL NOT NULL, ended REAL);
CREATE INDEX IF NOT EXISTS watched_ended ON watched(ended) WHERE ended IS NOT NULL;
"""
MAX_IGNORED_JOBS = 1000


class Watched:
    """The jobs that are watched, from their submission until somebody has dealt with their end."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ignored: deque[str] = deque(maxlen=MAX_IGNORED_JOBS)

    def add(self, job: str, data: Mapping[str, Any] | None) -> None:
        """Watch a job, with its `description`, or None if it could not be read; does nothing if it is watched."""
        sql = "INSERT OR IGNORE INTO watched VALUES(?,'running','',?,?,NULL)"
        self._ledger.run(sql, job, json.dumps(data), time.time())

    def describe(self, job: str, data: Mapping[str, Any]) -> None:
        """Keep the description of a watched job that showed too little of itself before it ran, as the DICOMweb plugin's do."""
        if data["Body"] is not None:
            sql = "UPDATE watched SET data=? WHERE job=? AND json_extract(data, '$.Body') IS NULL"
            self._ledger.run(sql, json.dumps(data), job)

    def end(self, job: str, state: str, error: str) -> bool:
        """Write down how a job has ended; return False if it is not watched, or had ended."""
        sql = "UPDATE watched SET state=?, error=?, ended=? WHERE job=? AND ended IS NULL"
        return bool(self._ledger.run(sql, state, error, time.time(), job))

    def forget(self, job: str) -> None:
        """Watch a job no longer: its end was dealt with."""
        self._ledger.run("DELETE FROM watched WHERE job=?", job)

    def ignore(self, job: str) -> None:
        """Remember a job that is not ours: of a type that is not watched."""
        self._ignored.append(job)

    def leave(self, job: str) -> None:
        """Watch a job no longer that still runs: somebody else cares for it."""
        self.ignore(job)
        self._ledger.run("DELETE FROM watched WHERE job=? AND ended IS NULL", job)

    def is_ignored(self, job: str) -> bool:
        """Return whether a job is not ours."""
        return job in self._ignored

    def running(self) -> set[str]:
        """Return the jobs that have not ended."""
        return {row["job"] for row in self._ledger.rows("SELECT job FROM watched WHERE ended IS NULL")}

    def running_of(self, job_type: str, seconds: float) -> set[str]:
        """Return the jobs of a type that have not ended, and were submitted at least so many seconds ago."""
        sql = "SELECT job FROM watched WHERE ended IS NULL AND seen<? AND json_extract(data, '$.Type')=?"
        return {row["job"] for row in self._ledger.rows(sql, time.time() - seconds, job_type)}

    def ended(self) -> list[dict[str, Any]]:
        """Return the jobs that have ended, the first first."""
        return self._ledger.rows("SELECT * FROM watched WHERE ended IS NOT NULL ORDER BY ended")

    def doing(self, digest: str) -> list[str]:
        """Return the jobs that do this (`Digest` of a description)."""
        sql = "SELECT job FROM watched WHERE json_extract(data, '$.Digest')=?"
        return [row["job"] for row in self._ledger.rows(sql, digest)]

    def resources(self) -> set[str]:
        """Return the resources that the watched jobs name, as far as they name some."""
        sql = "SELECT value FROM watched, json_each(data, '$.Body.Resources') WHERE json_each.type='text'"
        return {row["value"] for row in self._ledger.rows(sql)}

    def count(self) -> int:
        """Return how many jobs are watched."""
        return int(self._ledger.rows("SELECT COUNT(*) n FROM watched")[0]["n"])


# ---- src/auto_retries/attempts.py: Attempts: jobs that failed are run again.


class Attempts:
    """Runs jobs again: by Orthanc's own resubmission, which keeps all of the job, else from what the job showed."""

    def __init__(
        self,
        ledger: Ledger,
        watched: Watched,
        failures: Failures,
        loopback: Loopback,
        destinations: KnownDestinations,
        peers: Peers,
        freshness: Freshness,
        stopping: threading.Event,
    ) -> None:
        self._ledger, self._work, self._watched, self._failures = ledger, Work(ledger), watched, failures
        self._loopback, self._destinations, self._peers = loopback, destinations, peers
        self._freshness, self._stopping = freshness, stopping
        self._last_attempt: dict[str, float] = {}  # by destination, on the monotonic clock

    def run_due(self, max_concurrent: int, longest_delay: float) -> None:
        """Begin the attempts that are due, as long as no more than so many run at a time."""
        free = max_concurrent - sum(self._ledger.queues("sending").values())
        for row in self._due(free, longest_delay) if free > 0 else ():
            if self._stopping.is_set():
                return
            self._last_attempt[row["queue"]] = time.monotonic()
            self._attempt(row)

    def _due(self, limit: int, longest_delay: float) -> list[dict[str, Any]]:
        """Return the next rows, of each destination in turn, so that a dead one does not hold the others up."""
        queues = sorted(self._ledger.queues("waiting"), key=lambda queue: self._last_attempt.get(queue, 0.0))
        rows = [self._work.next_of(queue, limit, longest_delay) for queue in queues]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*rows))
        return [row for row in turns if row is not None][:limit]

    def _attempt(self, row: dict[str, Any]) -> None:
        data = json.loads(row["data"])
        job = get_job(self._loopback, row["job"]) if row["job"] else None
        ending, _ = ending_of(job)
        if ending is Ending.RUNNING and not may_lie(data):  # a person was quicker
            self._begin(row, row["job"])
            self._watched.add(row["job"], data)
            return
        if ending is Ending.SUCCESS and not may_lie(data):
            self._ledger.end(row["id"], "done")
            return
        body, recipe = data["Body"], RECIPES.get(data["Type"])
        is_store = body and recipe and recipe.command in ("store", "stow")
        here = self._freshness.still_here(body["Resources"]) if is_store else None
        if here == []:
            self._ledger.end(row["id"], "gone")
            orthanc.LogInfo(f"{label_of(row)}: what it was to send was deleted")
            return
        if data["Type"] == "OrthancPeerStore" and not self._is_for_orthanc(row, data):
            return
        if job and self._freshness.may_resubmit(job, data, here):
            self._resubmit(row, data)
        else:
            self._submit(row, data, recipe, here)

    def _begin(self, row: dict[str, Any], job: str | None) -> bool:
        """Write down that an attempt begins, before it does; return False if a person has just removed the row."""
        row["attempts"] += 1
        return self._work.claim(row["id"], job)

    def _is_for_orthanc(self, row: dict[str, Any], data: Mapping[str, Any]) -> bool:
        """Return whether the peer is an Orthanc; if not, the attempt has failed: to Orthanc any answer would be a success."""
        try:
            why = self._peers.why_not(name_of(data, self._destinations.of("peers")))
        except Unclear:
            return True  # `_submit` reports it
        if self._stopping.is_set():  # it took its time: no job may begin now
            return False
        if why and self._begin(row, row["job"]):
            self._failures.fail(row, why)
        return not why

    def _resubmit(self, row: dict[str, Any], data: Mapping[str, Any]) -> None:
        # Orthanc refuses to resubmit what is no failed job: whatever happens in between, it never runs twice.
        with self._ledger.transaction():
            self._watched.forget(row["job"])
            self._watched.add(row["job"], data)
            if not self._begin(row, row["job"]):
                return
        try:
            self._loopback.post(f"/jobs/{row['job']}/resubmit", {})
        except LoopbackError as error:
            if error.status == 0:
                raise  # `Watcher.look` finds what became of it
            with self._ledger.transaction():
                self._watched.forget(row["job"])
                self._failures.fail(row, str(error))

    def _submit(
        self, row: dict[str, Any], data: Mapping[str, Any], recipe: Recipe | None, here: list[dict[str, Any]] | None
    ) -> None:
        if not self._begin(row, None):
            return
        try:
            path, body = self._request(data, recipe, here)
            job = str(self._loopback.post(path, body)["ID"])
        except Unclear as error:
            self._failures.fail(row, str(error), for_ever=error.for_ever)
            return
        except LoopbackError as error:
            if error.status == 0:
                raise  # whether there is a job now, only Orthanc knows: `Watcher.look` finds it
            self._failures.fail(row, str(error))
            return
        with self._ledger.transaction():
            self._work.change(row["id"], job=job)
            self._watched.add(job, data)

    def _request(
        self, data: Mapping[str, Any], recipe: Recipe | None, here: list[dict[str, Any]] | None
    ) -> tuple[str, dict[str, Any]]:
        """Return the path and the body that submit a job again. Raises `Unclear`."""
        if recipe is None or data["Body"] is None:
            why = "Orthanc has forgotten the job (JobsHistorySize), and what it showed of it is not enough to submit it anew"
            if data["Type"] == STOW:
                why = (
                    "the DICOMweb plugin has not shown what the job sends (the one of Orthanc 1.10.1 never does), and "
                    "resubmitted it would leave out what it has read before: send it again"
                )
            raise Unclear(why, for_ever=True)
        name = name_of(data, self._destinations.of(recipe.route))
        body = {**data["Body"], "Synchronous": False, "Priority": data["Priority"]}
        if here is not None:
            body["Resources"] = [resource["ID"] for resource in here]
        return f"/{self._destinations.path(recipe.route)}/{urllib.parse.quote(name, safe='')}/{recipe.command}", body


# ---- src/auto_retries/forward_scripts.py: The forward scripts, which retry their own jobs: they are asked whether a job is theirs.


# A forwarder knows its job from the answer to its POST on, which can come after the end of the job, and forgets it when it
# sends again, half a second later at the earliest. So it is asked often, for a while.
ASK_EVERY_SECONDS, ASK_FOR_SECONDS = 0.4, 3.0
ASK_IDLE_ONE_FOR_SECONDS = 60.0  # it answers 503 while it starts, and for ever if its configuration is wrong
ASK_FROM_SECONDS = 1.0  # after its submission
JOB_TYPES = {
    "auto-forward-modality": "DicomModalityStore",
    "auto-forward-peer": "OrthancPeerStore",
    "auto-forward-dicomweb": "DicomWebStowClient",
}  # by script
NOT_INSTALLED = "not installed"


class ForwardScripts:
    """Asks the forward scripts that are installed whether a job is theirs."""

    def __init__(self, loopback: Loopback, watched: Watched) -> None:
        self._loopback, self._watched = loopback, watched
        self._not_installed: set[str] = set()
        self._asked: dict[str, set[str]] = {}  # the running jobs that each was asked for

    def own(self, ended: Mapping[str, Any]) -> bool | None:
        """Return whether a job that failed belongs to one of them; None if they are to be asked again soon."""
        data = json.loads(ended["data"])
        answers = [
            self._ask(script, ended["job"])
            for script, job_type in JOB_TYPES.items()
            if data is None or job_type == data["Type"]
        ]
        if True in answers:
            return True
        patience = ASK_IDLE_ONE_FOR_SECONDS if None in answers else ASK_FOR_SECONDS
        is_early = abs(time.time() - ended["ended"]) < patience
        return None if set(answers) - {NOT_INSTALLED} and is_early else False

    def leave_theirs(self) -> None:
        """Leave their jobs alone while they run: after a kill, a script may not know its own any more."""
        for script, job_type in JOB_TYPES.items():
            running = self._watched.running_of(job_type, ASK_FROM_SECONDS)
            if script not in self._not_installed:
                for job in running - self._asked.get(script, set()):
                    if self._ask(script, job) is True:
                        self._watched.leave(job)
            self._asked[script] = running

    def _ask(self, script: str, job: str) -> bool | str | None:
        """Return whether a script knows a job, or `NOT_INSTALLED`; None if it can't answer now."""
        if script in self._not_installed:
            return NOT_INSTALLED
        try:
            return bool(self._loopback.get(f"/{script}/deliveries?job={job}&limit=1")["Total"])
        except LoopbackError as error:
            if error.status == 0:
                raise
            if error.status == 404:
                self._not_installed.add(script)
            return NOT_INSTALLED if error.status == 404 else None


# ---- src/auto_retries/watcher.py: Watching jobs: what events report, and what is found where there was no event.


ABSENT_SECONDS = 300.0  # that a job is unknown to Orthanc, without an event, until it counts as canceled
UNANSWERED_SECONDS = 10.0  # until an attempt whose submission was not answered counts as failed


class Watcher:
    """Finds out which jobs begin and end, and what is to be done about those that ended.

    Attributes
    ----------
    has_begun : whether it has looked at all jobs since Orthanc started.
    """

    def __init__(
        self,
        types: Sequence[str],
        ledger: Ledger,
        watched: Watched,
        failures: Failures,
        loopback: Loopback,
        destinations: KnownDestinations,
    ) -> None:
        self._types, self._ledger, self._work = types, ledger, Work(ledger)
        self._watched, self._failures = watched, failures
        self._loopback, self._destinations = loopback, destinations
        self._scripts = ForwardScripts(loopback, watched)
        self._absent: dict[str, float] = {}  # since when a job is unknown to Orthanc
        self.has_begun = False

    # What events report

    def on_event(self, event: str, job: str, found: Mapping[str, Any] | None) -> None:
        """Write an event down: `JOB_SUBMITTED`, `JOB_SUCCESS` or `JOB_FAILURE`, and what Orthanc showed of the job then."""
        if event == "JOB_SUBMITTED":
            self._on_submitted(job, found)
            return
        state, error = ending_of_failed(found) if event == "JOB_FAILURE" else ("Success", "")
        with self._ledger.transaction():
            self._describe(found)
            if self._watched.end(job, state, error) or self._watched.is_ignored(job):
                return
            if found and found["Type"] in self._types:
                # Submitted before this script came, or resubmitted by a person.
                self._watched.add(job, description(found, self._destinations.of))
            elif found or (event == "JOB_SUCCESS" and not self._failures.may_own(job)):
                return
            else:
                self._watched.add(job, None)
            self._watched.end(job, state, error)

    def _on_submitted(self, job: str, found: Mapping[str, Any] | None) -> None:
        if found and found["Type"] in self._types:
            self._watched.add(job, description(found, self._destinations.of))
        elif found:
            self._watched.ignore(job)

    def _describe(self, found: Mapping[str, Any] | None) -> None:
        if found and found["Type"] == STOW and STOW in self._types:
            self._watched.describe(found["ID"], description(found, self._destinations.of))

    # What gave no event

    def look(self) -> None:
        """Find the ends that gave no event: during a restart, or canceled before they began."""
        sending = self._work.find(Which(states=("sending",)))
        for row in sending:
            if row["job"]:
                self._watched.add(row["job"], json.loads(row["data"]))
        running = self._watched.running()
        found = self._loopback.get("/jobs?expand") if running or not self.has_begun else []
        jobs = {job["ID"]: job for job in found}
        if not self.has_begun:
            for job in jobs.values():
                if job["State"] in UNFINISHED_JOBS and job["Type"] in self._types:
                    self._watched.add(job["ID"], description(job, self._destinations.of))
        for name in running:
            self._look_at(name, jobs.get(name))
        self._absent = {name: since for name, since in self._absent.items() if name in running and name not in jobs}
        for row in sending:
            self._look_at_unanswered(row)
        self.has_begun = True

    def _look_at(self, name: str, job: Mapping[str, Any] | None) -> None:
        if job is not None:
            self._describe(job)
            ending, _ = ending_of(job)
            if ending is Ending.SUCCESS:
                self._watched.end(name, ending, "")
            elif ending is not Ending.RUNNING:
                self._watched.end(name, *ending_of_failed(job))
        elif not self.has_begun:
            # Run again what may have arrived: once more is harmless, lost is not.
            self._watched.end(name, "Failure", "its end was missed while Orthanc was down")
        elif time.monotonic() - self._absent.setdefault(name, time.monotonic()) > ABSENT_SECONDS:
            self._watched.end(name, "canceled", "it is gone without having failed: canceled before it began")

    def _look_at_unanswered(self, row: Mapping[str, Any]) -> None:
        """Find by its content what an attempt submitted that Orthanc was killed in, or did not answer."""
        if row["job"] or (self.has_begun and abs(time.time() - row["updated"]) < UNANSWERED_SECONDS):
            return
        jobs = self._watched.doing(json.loads(row["data"])["Digest"])
        if unknown := [job for job in jobs if not self._work.has(Which(job=job))]:
            self._work.change(row["id"], job=unknown[0])
        elif not self.has_begun:
            self._work.wait_again(row["id"])
        else:
            self._failures.fail(row, "Orthanc did not answer when it was submitted")

    # What ended

    def settle_ended(self, stopping: threading.Event) -> bool:
        """Deal with the jobs that ended; return whether a forward script is to be asked again soon."""
        self._scripts.leave_theirs()
        is_asking = False
        for ended in self._watched.ended():
            if stopping.is_set():
                break
            if row := self._failures.row_of(ended):
                with self._ledger.transaction():
                    self._failures.end(row, ended)
                    self._watched.forget(ended["job"])
            elif ended["state"] != "Failure" or (is_theirs := self._scripts.own(ended)):
                self._watched.forget(ended["job"])
            elif is_theirs is None:
                is_asking = True
            else:
                with self._ledger.transaction():
                    self._failures.add(ended)
                    self._watched.forget(ended["job"])
        return is_asking


# ---- src/auto_retries/retrier.py: The callback and the thread that run jobs again.


# Between two turns of the thread, which an event cuts short: while a row waits, and when nothing does.
BUSY_TURN_SECONDS, IDLE_TURN_SECONDS = 1.0, 5.0
KEEP_FINISHED_DAYS = 30.0  # in the list
LOOK_EVERY_SECONDS = 30.0  # at all jobs: one that is canceled before it began gives no event
EVENTS = (
    *("ORTHANC_STARTED", "ORTHANC_STOPPED", "JOB_SUBMITTED", "JOB_SUCCESS", "JOB_FAILURE"),
    *("UPDATED_MODALITIES", "UPDATED_PEERS"),
)


class Retrier:
    """Watches the jobs of others, and runs those again that fail.

    OnChange writes events down while Orthanc still knows the job; one thread, woken by it, does the rest.

    Parameters
    ----------
    configuration : Orthanc's.

    Attributes
    ----------
    ledger, work, watched, failures : the state, from when it is open: once `worker.why_not()` is None.
    """

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self.settings, self._configuration = settings, configuration
        self._loopback = Loopback(configuration)
        self._destinations = KnownDestinations(dicomweb_servers_route(configuration))
        self._turns = HttpTurns(configuration)
        self._peers = Peers(configuration, self._loopback)
        self.worker = Worker(NAME, self._open, self._turn)
        self._inbox: Inbox[tuple[str, str, dict[str, Any] | None]] = Inbox(lambda event: self._watcher.on_event(*event))
        self._next_look = 0.0
        self._events = {int(getattr(orthanc.ChangeType, event)): event for event in EVENTS}

    def on_change(self, change: int, _level: int, resource: str) -> None:
        """Write down what happens to a job, and wake the thread; returns at once."""
        event = self._events.get(change, "")
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self.worker.stop()
        elif event.startswith("UPDATED"):
            self._destinations.on_updated()
        elif event and not self.worker.is_off:
            # A job that fails at once is soon gone (JobsHistorySize): this is the only time to read it. It can also be
            # submitted before ORTHANC_STARTED.
            self._inbox.add((event, resource, None if event == "JOB_SUCCESS" else read_job(resource)))
            self.worker.wake.set()

    def _open(self) -> Ledger:
        if not self._loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        path = state_folder(self.settings.state_path, self._configuration, "auto_retries") / "auto_retries.sqlite"
        tables = owed_tables() + WATCHED_TABLE + data_index("Digest") + NEXT_ATTEMPT_INDEX
        self.ledger = Ledger(path, tables, durability=self.settings.durability)
        if self.ledger.quarantined_to:
            orthanc.LogWarning(
                f"{NAME}: the ledger {path} was corrupt and is kept as {self.ledger.quarantined_to}; "
                "what waited there is not run again"
            )
        if self._configuration.get("JobsHistorySize", 10) == 0:
            orthanc.LogWarning(
                f"{NAME}: with JobsHistorySize 0 a job that fails within a millisecond can't be read any more, "
                "and one that was canceled looks as if it had failed"
            )
        self.work, self.watched = Work(self.ledger), Watched(self.ledger)
        self._owing = Owing(self.ledger, self._loopback, resources_sent)
        self.failures = Failures(self.ledger, self.settings.retry, self.worker.trouble)
        self._watcher = Watcher(
            *(self.settings.types, self.ledger, self.watched, self.failures, self._loopback, self._destinations)
        )
        overwrites = bool(self._configuration.get("OverwriteInstances"))
        freshness = Freshness(self._loopback, self._destinations, overwrites=overwrites)
        self._attempts = Attempts(
            *(self.ledger, self.watched, self.failures, self._loopback, self._destinations, self._peers),
            *(freshness, self.worker.stopping),
        )
        self._inbox.open()
        return self.ledger

    def owed(self, resources: set[str]) -> set[str]:
        """Return which of these studies and patients a job sends that failed and waits, or was given up, or that may fail yet."""
        if not self._watcher.has_begun:
            raise Refused(503, f"{NAME} has not looked yet at what happened to jobs while Orthanc was down")
        with self._turns.turn():  # it may ask Orthanc
            # First, for a watched job that fails becomes a row.
            watched = self.watched.resources()
            places = places_of(self._loopback, watched - resources).values()
            return watched | {study or patient for study, patient in places} | self._owing.of(resources)

    def measure(self) -> dict[str, float]:
        """Return its metrics: the number of rows in each state."""
        return {**self.ledger.totals()}

    def _turn(self) -> float:
        self._inbox.flush()
        if lost := self._inbox.lost:
            self._inbox.lost -= lost
            orthanc.LogError(
                f"{NAME}: {lost} events of jobs came while the ledger could not be written, and there was no room for more: "
                "what failed then is not run again"
            )
        if not self._watcher.has_begun or time.monotonic() >= self._next_look:
            self._watcher.look()
            self.ledger.forget_finished(KEEP_FINISHED_DAYS)
            self._next_look = time.monotonic() + LOOK_EVERY_SECONDS
        is_asking = self._watcher.settle_ended(self.worker.stopping)
        self._attempts.run_due(self._max_concurrent(), self.settings.retry.longest)
        if is_asking:
            return ASK_EVERY_SECONDS
        return BUSY_TURN_SECONDS if self.ledger.queues("waiting") else IDLE_TURN_SECONDS

    def _max_concurrent(self) -> int:
        """Return how many attempts may run at a time: a slot is left to the jobs of others."""
        slots = int(self._configuration.get("ConcurrentJobs", 2)) or os.cpu_count() or 1
        return max(1, slots - 1)


# ---- src/auto_retries/routes.py: The routes `/auto-retries/…`.


NOT_UNDER_WAY = tuple(state for state in STATES if state != "sending")


class Routes:
    """Handlers of `/auto-retries/…`."""

    def __init__(self, retrier: Retrier) -> None:
        self._retrier = retrier

    def register(self, refusal: str | None) -> ListedScript:
        """Register the routes, which answer 503 with a `refusal` (the configuration is wrong); return the script's entry."""
        worker = self._retrier.worker

        def unavailable() -> str | None:
            return refusal or worker.why_not()

        name = NAME.replace("-", "_")
        script = register_status(name, lambda: condition_of(worker, refusal), self.status, unavailable)
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "jobs": {"GET": self.list_jobs},
            "jobs/([0-9]+)": {"GET": self.get_job, "DELETE": self.drop_job},
            "jobs/([0-9]+)/retry": {"POST": self.retry_job},
            "jobs/retry": {"POST": self.retry_jobs},
        }
        for path, handlers in routes.items():
            register_route(f"/{NAME}/{path}", handlers, unavailable)
        register_owed(NAME, self._retrier.owed, unavailable)
        return script

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, how many jobs are in each state, watched, missed, and the types it watches."""
        return {
            "Totals": self._retrier.ledger.totals(),
            "Types": list(self._retrier.settings.types),
            "Watched": self._retrier.watched.count(),
            "Missed": self._retrier.failures.missed,
        }

    @takes({**PAGE_PARAMETERS, "state": OneOf(choices=STATES), "destination": Text(), "job": Text()})
    def list_jobs(self, request: Request) -> dict[str, Any]:
        """Return a page of the jobs that failed, oldest first: `since`, `limit`, and filters."""
        filters, work = request.parameters, self._retrier.work
        states = (filters["state"],) if "state" in filters else None
        which = Which(states=states, queue=filters.get("destination"), job_or_resource=filters.get("job"))
        return page_answer(filters, work.count(which), lambda since, limit: work.page(which, since, limit), _shown)

    def get_job(self, request: Request) -> dict[str, Any]:
        """Return one job: what is submitted, and its last attempts."""
        row = self._row(request)
        data = json.loads(row["data"])
        return {**_shown(row), "Body": data["Body"], "History": data.get("History", [])}

    @answers(409)
    def drop_job(self, request: Request) -> dict[str, Any]:
        """Don't run it again; what is running now is Orthanc's (`/jobs/{id}/cancel`)."""
        row = self._row(request)
        if not self._retrier.work.remove(row["id"], NOT_UNDER_WAY):
            raise Refused(409, f"Job {row['id']} is running as {row['job']}; cancel that, then drop this")
        return _shown(row)

    @answers(409)
    def retry_job(self, request: Request) -> dict[str, Any]:
        """Run one that is dead, or waits, again now, with the whole time until it is given up."""
        row = self._row(request)
        if not self._retry(Which(ids=[row["id"]])):
            raise Refused(409, f"Job {row['id']} is {row['state']}; only what is dead or waiting can be retried")
        return _shown(self._row(request))

    @takes({"Destination": Text()})
    def retry_jobs(self, request: Request) -> dict[str, Any]:
        """Run all dead ones of a `Destination` again now; without one, all."""
        return {"Retried": self._retry(Which(states=("dead",), queue=request.parameters.get("Destination")))}

    def _retry(self, which: Which) -> int:
        retried = self._retrier.work.retry(which)
        self._retrier.worker.wake.set()
        return retried

    def _row(self, request: Request) -> dict[str, Any]:
        row = self._retrier.work.get(row_number(request.groups[0]))
        if row is None:
            raise Refused(404, f"There is no job {request.groups[0][:20]} here")
        return row


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": row["id"],
        "Type": json.loads(row["data"])["Type"],
        "Destination": row["queue"],
        "State": row["state"],
        "Attempts": row["attempts"],
        "NextAttempt": next_attempt_of(row),
        "Error": row["error"],
        "Job": row["job"],
        "FirstJob": row["subject"],
        "Created": utc(row["created"]),
        "Updated": utc(row["updated"]),
    }


# ---- src/auto_retries/__init__.py


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
    except SettingsError as error:
        refusal = f"{error}. auto_retries is idle until this is corrected."
        orthanc.LogError(refusal)
    retrier = Retrier(settings, configuration)
    script = Routes(retrier).register(refusal)
    if refusal is None:
        warn_if_open("auto_retries", configuration)
        listen_to_changes(script, retrier.on_change, retrier.measure)
    else:
        listen_to_changes(script)


register()
