# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/purge_old_studies/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Deletes studies by their age, when asked or by rules: nothing by a typo, a link, or a crash half-way.

GET /purge-old-studies?since=20000101 deletes every study dated on or before that day and answers how many they were.
A study whose StudyDate is missing or no valid day stays. What can't be right is refused, and nothing is deleted.

    curl -u USER 'http://127.0.0.1:8042/purge-old-studies?older-than=7y&dry-run=true'

The same by POST, as JSON, which deletes only with "dry-run": false; parameters are `since` or `older-than` (90d, 18m, 7y),
`by` (StudyDate, received), `Query`, `Labels`, `LabelsConstraint`, `limit`, `undated`, `keep-received-days`, `only-if-at`,
`proof`, `dry-run`, `force`, `async`, `format`. And to look at and to act on:

    GET  /purge-old-studies/status
    GET  /purge-old-studies/jobs, GET /purge-old-studies/jobs/{id}, POST /purge-old-studies/jobs/{id}/cancel
    GET  /purge-old-studies/rules/{name}/dry-run          what a rule would delete now, and why
    GET  /purge-old-studies/history                       every study that was deleted, who asked, when, by which rule
    POST /purge-old-studies/confirm-clock                 a clock that is not what was to be expected stops all rules

Needs no configuration. This one keeps some studies, and deletes the old ones of the others each night, but none of which
something came in within 7 days (`KeepReceivedDays`):

    "PurgeOldStudies": {"KeepLabels": ["teaching"],
                        "Rules": [{"Name": "seven years", "OlderThan": "7y", "At": "02:30"}]}

Needs nothing but Python's standard library. All keys: docs/purge_old_studies.md.
"""

from __future__ import annotations

if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)

import base64
import binascii
import contextlib
import dataclasses
import datetime
import difflib
import errno
import functools
import http
import http.client
import ipaddress
import itertools
import json
import math
import os
import random
import re
import shutil
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
import urllib.request
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

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


# ---- src/forwarding/patient_proof.py: Proof that a destination has instances, and of the same patient: by what it answers when it is searched (C-FIND, QIDO-RS).


# Of a level ("Instance", "Study") and a query, by keyword: the answers of a destination, by keyword too.
Find = Callable[[str, Mapping[str, str]], list[dict[str, str]]]


def proved_by_patient(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], find: Find, ours: str = ""
) -> set[str]:
    """Return which of these instances a destination says it has, in their series, their study and of their patient.

    Instances are as `/tools/bulk-content` gives them. Where one has a `Place` too, with the identifiers by keyword of patient,
    study and series as this server has them, these are not asked for.

    `ours` is the AE title of this server: what can be retrieved from here is no proof.

    Raises
    ------
    ValueError : it has some of another patient, or does not say of which; or it means those that this server has.
    """
    by_series: dict[str, dict[str, str]] = {}
    for key, one in instances.items():
        by_series.setdefault(one["ParentSeries"], {})[one["MainDicomTags"].get("SOPInstanceUID", "")] = key
    proved, strange = set[str](), set[str]()
    for series, here in _places(loopback, by_series, instances.values()):
        of_study = {"StudyInstanceUID": here["StudyInstanceUID"]}
        place = {**of_study, "SeriesInstanceUID": here["SeriesInstanceUID"]}
        answers = find("Instance", {"PatientID": "", **place, "SOPInstanceUID": ""})
        retrieved_from = (bare(aet) for each in answers for aet in str(each.get("RetrieveAETitle") or "").split("\\"))
        if ours and any(ANY_CASE.same(aet, ours) for aet in retrieved_from):
            raise ValueError(f"{name} says that what it has is to be retrieved from {ours}, as this server is called")
        at_study: list[dict[str, str]] | None = None
        for answer in answers:
            instance = by_series[series].get(bare(answer.get("SOPInstanceUID")))
            if instance is None or not is_part(place, answer):
                continue
            patients = {bare(answer.get("PatientID"))}
            if patients == {""}:  # PS3.4 C.6.2.1 does not oblige it to say so at this level, but at the study's
                if at_study is None:
                    at_study = find("Study", {"PatientID": "", **of_study})
                patients = {bare(one.get("PatientID")) for one in at_study if is_part(of_study, one)}
            patient = bare(here["PatientID"])
            (proved if patient and patients == {patient} else strange).add(instance)
    if strange - proved:
        raise ValueError(
            f"{name} has not proved to have {len(strange - proved)} of {len(instances)} instances: it has their UIDs, but of "
            "another patient, or does not say of which"
        )
    return proved


def _places(
    loopback: Loopback, wanted: Iterable[str], instances: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield each of these series, and the identifiers of patient, study and series that it has here."""
    known = {one["ParentSeries"]: one["Place"] for one in instances if "Place" in one}
    yield from known.items()
    if unknown := sorted({*wanted} - known.keys()):
        for series in loopback.post("/tools/bulk-content", {"Resources": unknown}):
            study = loopback.get(f"/studies/{series['ParentStudy']}")
            yield (
                series["ID"],
                {
                    "PatientID": study["PatientMainDicomTags"].get("PatientID", ""),
                    "StudyInstanceUID": study["MainDicomTags"]["StudyInstanceUID"],
                    "SeriesInstanceUID": series["MainDicomTags"]["SeriesInstanceUID"],
                },
            )


def bare(value: Any) -> str:
    """Return a value without what DICOM pads it with."""
    return value.strip(" \0") if isinstance(value, str) else ""


def is_part(place: Mapping[str, str], answer: Mapping[str, Any]) -> bool:
    """Return whether an answer is of this place: some destinations answer with more than they were asked for."""
    return all(bare(answer.get(tag, uid)) == uid for tag, uid in place.items())


def is_this_machine(host: str) -> bool:
    """Return whether a host is, by one of its addresses, the machine that this runs on: only its own can be bound."""
    for family, _, _, _, where in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind(where)
            return True
    return False


# ---- src/forwarding/node_proof.py: Proof that a DICOM node has instances: by Storage Commitment, by C-FIND, or by both.


# How a node proves what it has; the first one is the default.
NODE_PROOFS = ("StorageCommitment", "C-FIND", "StorageCommitmentOnly")
COMMITTED_WITHIN = 3600.0  # seconds in which a node has to report what it committed itself to


def proved_by_node(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], asked: dict[str, Any], proof: str
) -> set[str] | None:
    """Return which instances a node has, of these patients; None: it has not reported yet.

    Storage Commitment (DICOM PS3.4 J) names no patient: a node that has the same UIDs under another one, and has dropped what
    it was sent, commits itself all the same. So C-FIND is asked too, unless `proof` is "StorageCommitmentOnly".
    """
    ours = raise_if_here(loopback, name)
    if proof == "C-FIND":
        return found_by_patient(loopback, name, instances, ours)
    committed = committed_to(loopback, name, instances, asked)
    if committed is None or proof == "StorageCommitmentOnly":
        return committed
    try:
        return committed & found_by_patient(loopback, name, instances, ours)
    except LoopbackError as error:
        if error.status == 0:
            raise
        raise ValueError(
            f"{name} can't be asked by C-FIND of which patient it has what it committed to: {error}"
        ) from error


def raise_if_here(loopback: Loopback, name: str) -> str:
    """Return our own AE title. Raises ValueError if a node leads back to this server, which has all that it was sent."""
    system, node = loopback.get("/system"), loopback.get("/modalities?expand").get(name)
    if node is None:
        raise ValueError(f"Orthanc does not know {name}")
    if ANY_CASE.same(node["AET"], system["DicomAet"]):
        raise ValueError(
            f"{name} has the AE title of this server, {node['AET']}, so what it says may be said by this one"
        )
    if int(node["Port"]) == system["DicomPort"] and is_this_machine(node["Host"]):
        raise ValueError(f"{name} leads back to this server ({node['Host']}:{node['Port']})")
    return str(system["DicomAet"])


def committed_to(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], asked: dict[str, Any]
) -> set[str] | None:
    """Return the instances whose SOP Instance UIDs a node has committed itself to; None: it has not reported yet."""
    by_uid = {one["MainDicomTags"].get("SOPInstanceUID"): key for key, one in instances.items()}
    if name not in asked:
        path = f"/modalities/{urllib.parse.quote(name, safe='')}/storage-commitment"
        asked[name] = [loopback.post(path, {"Resources": [*instances]})["ID"], time.time()]
        return None
    transaction, since = asked[name]
    _raise_if_asked_here(loopback, name, transaction)
    try:
        report = loopback.get(f"/storage-commitment/{transaction}")
    except LoopbackError as error:
        if error.status != 404:
            raise
        del asked[name]  # Orthanc keeps them in memory, and a hundred at most: ask again
        return None
    if report["Status"] == "Pending" and abs(time.time() - since) < COMMITTED_WITHIN:
        return None
    if report["Status"] == "Pending":
        raise ValueError(f"{name} has sent no report of storage commitment within {COMMITTED_WITHIN:g} s")
    return {by_uid[one["SOPInstanceUID"]] for one in report["Success"] if one["SOPInstanceUID"] in by_uid}


def _raise_if_asked_here(loopback: Loopback, name: str, transaction: str) -> None:
    """Raise ValueError if it is this server that was asked to commit itself, as through a port forward: it has a job of it."""
    for job in loopback.get("/jobs?expand"):
        if job.get("Type") == "StorageCommitmentScp" and job["Content"].get("TransactionUid") == transaction:
            raise ValueError(f"{name} leads back to this server, which was asked itself to commit to what it has")


def found_by_patient(
    loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], ours: str = ""
) -> set[str]:
    """Return which of these instances a node says it has, in their series, their study and of their patient.

    `ours` is the AE title of this server: what can be retrieved from here is no proof.

    Raises
    ------
    ValueError : it has some of another patient, or does not say of which; or it means those that this server has.
    """
    return proved_by_patient(loopback, name, instances, functools.partial(find, loopback, name), ours)


def find(loopback: Loopback, name: str, level: str, query: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what a node answers to C-FIND."""
    path = f"/modalities/{urllib.parse.quote(name, safe='')}/query"
    number = loopback.post(path, {"Level": level, "Query": dict(query)})["ID"]
    try:
        answers: list[dict[str, str]] = loopback.get(f"/queries/{number}/answers?expand&simplify")
    finally:
        loopback.request("DELETE", f"/queries/{number}")
    return answers


# ---- src/common/dicomweb.py: Where Orthanc's DICOMweb plugin is.


def dicomweb_root(configuration: Mapping[str, Any]) -> str:
    """Return the path of the plugin's routes, without slashes at its ends: `dicom-web`."""
    section = configuration.get("DicomWeb")
    return str((section if isinstance(section, dict) else {}).get("Root", "/dicom-web/")).strip("/")


def dicomweb_servers_route(configuration: Mapping[str, Any]) -> str:
    """Return the path of the servers that the plugin can send to: `dicom-web/servers`."""
    return "/".join(filter(None, (dicomweb_root(configuration), "servers")))


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


# ---- src/forwarding/dicomweb.py: The servers of Orthanc's DICOMweb plugin (`DicomWeb.Servers`), asked through the plugin: it has their passwords.


# The plugin reads its servers at Orthanc's start, as the script does: a moment before or after it.
PLUGIN_LOOKS, PLUGIN_LOOK_SECONDS = 20, 0.1
ANSWERS_PER_PAGE = 1000  # of QIDO-RS
MOST_ANSWERS = 200_000  # of one search: who goes on for ever would fill the memory
INSTANCES_PER_LOOKUP = 500  # of this Orthanc
TAGS = {
    "00080018": "SOPInstanceUID",
    "00100020": "PatientID",
    "0020000D": "StudyInstanceUID",
    "0020000E": "SeriesInstanceUID",
}
PATIENT_ID = "00100020"
KNOWS_NO_ROUTE = (400, 401, 404)  # as Orthanc passes on what a server answers; of all other errors it makes a 500
JSON = {"Accept": "application/dicom+json"}


class DicomWebServers:
    """What is known of the servers, and what they say they have.

    Parameters
    ----------
    configuration : Orthanc's.
    loopback : to this Orthanc.
    is_wanted : somebody wants that something is sent: then it is an error that the plugin is not loaded.
    script : as its routes have it: it has a route of its own below the plugin's root.
    """

    def __init__(
        self,
        configuration: Mapping[str, Any],
        loopback: Loopback,
        *,
        is_wanted: bool,
        script: str = "auto-forward-dicomweb",
    ) -> None:
        section = configuration.get("DicomWeb")
        section = section if isinstance(section, dict) else {}
        self.route = dicomweb_servers_route(configuration)
        """Of the plugin, where its servers are."""
        self._files = f"{script}/files"
        self._files_route = "/".join(filter(None, (dicomweb_root(configuration), self._files)))
        servers = section.get("Servers")
        self.configured = frozenset(servers if isinstance(servers, dict) else ())
        """The servers that the configuration names: the plugin knows them a moment after its start."""
        self._is_wanted = is_wanted or bool(self.configured)
        self._port, self._loopback = configuration.get("HttpPort", 8042), loopback

    def missing(self, loopback: Loopback) -> str | None:
        """Return why what is to be sent can't be, or None.

        It waits until the plugin has read its servers. They start together.
        """
        try:
            for _ in range(PLUGIN_LOOKS):
                if self.configured <= {*loopback.get(f"/{self.route}")}:
                    break
                time.sleep(PLUGIN_LOOK_SECONDS)
        except LoopbackError as error:
            if error.status != 404:
                raise
            if not self._is_wanted:
                orthanc.LogWarning(
                    "auto-forward-dicomweb: Orthanc has no DICOMweb plugin, hence no destination: nothing is sent"
                )
                return None
            return (
                "Destinations: these are servers of Orthanc's DICOMweb plugin, which is not loaded, or is switched off. "
                'Allowed: a configuration whose "Plugins" name libOrthancDicomWeb.so (Debian\'s package orthanc-dicomweb)'
            )
        return None

    def probe(self, loopback: Loopback, name: str) -> None:
        """Ask a server for one study. Raises `LoopbackError` if it does not answer, or refuses us.

        One that takes images and can't be searched answers 404 or 400.
        """
        try:
            self._get(loopback, name, "/studies", {"limit": "1"})
        except LoopbackError as error:
            if error.status not in (400, 404):
                raise

    def prove(
        self, loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]], _asked: dict[str, Any]
    ) -> set[str]:
        """Return which instances a server has, of these patients, by QIDO-RS."""
        server = loopback.get(f"/{self.route}?expand").get(name)
        if server is None:
            raise ValueError(f"Orthanc does not know {name}")
        url = urllib.parse.urlsplit(server["Url"])
        host = url.hostname or ""
        if (url.port or {"https": 443}.get(url.scheme, 80)) == self._port and is_this_machine(host):
            raise ValueError(f"{name} leads back to this server")
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None)}
        # Two that forward to each other and both delete would be left with nothing. Orthanc does not say who sent what came
        # through a plugin, as by STOW-RS.
        for came in (one.get("Metadata", {}) for one in instances.values()):
            if came.get("Origin") == "Plugins" or (
                came.get("Origin") == "RestApi" and came.get("RemoteIP") in addresses
            ):
                why = "it came in by a plugin, as by DICOMweb, or over HTTP from the address of"
                raise ValueError(f"{why} {name}: who sent it may count on it being here")
        found = self._found(loopback, name, instances)
        for instance in sorted(found)[:1]:
            self._raise_if_same_file(loopback, name, instance, instances[instance].get("FileUuid"))
        return found

    def _raise_if_same_file(self, loopback: Loopback, name: str, instance: str, file: str | None) -> None:
        """Raise ValueError if a server leads back to this one, by whatever way, or shares its database: it names our file."""
        try:
            answer = self._ask(loopback, name, f"/{self._files}/{instance}", {})
        except LoopbackError as error:
            # One of another kind, or without this script, knows no such route; all else says nothing.
            if error.status not in KNOWS_NO_ROUTE:
                raise ValueError(f"{name} can't be asked whether it leads back to this server: {error}") from error
            return
        if isinstance(answer, dict) and file and answer.get("FileUuid") == file:
            raise ValueError(
                f"{name} leads back to this server, or shares its database: it names the file that is here"
            )

    def register_route(self, bound: Callable[[RouteHandler], RouteHandler], refusal: str | None) -> None:
        """Register the route that an Orthanc asks which wants to know whether a server leads back to it.

        `bound` lets few requests at a time ask Orthanc.
        """

        def file(request: Request) -> dict[str, Any]:
            """Return the name of an instance's file: an Orthanc asks for it to see whether it would send to itself."""
            try:
                found = self._loopback.get(f"/instances/{request.groups[0]}")
            except LoopbackError as error:
                if error.status != 404:
                    raise
                raise Refused(404, "There is no such instance") from None
            return {"FileUuid": found.get("FileUuid")}

        register_route(f"/{self._files_route}/([0-9a-f-]+)", {"GET": bound(file)}, lambda: refusal)

    def instances_of(self, name: str, instances: Collection[str], _within: Collection[str] = ()) -> set[str]:
        """Return which of these instances a server says it has, of their patients.

        Raises
        ------
        ValueError, LoopbackError : it can't be asked, does not answer as a DICOMweb server, or has some of another patient.
        """
        keys, here = [*instances], dict[str, Mapping[str, Any]]()
        for start in range(0, len(keys), INSTANCES_PER_LOOKUP):
            body = {"Resources": keys[start : start + INSTANCES_PER_LOOKUP], "Metadata": False}
            here |= {one["ID"]: one for one in self._loopback.post("/tools/bulk-content", body)}
        return self._found(self._loopback, name, here)

    def _found(self, loopback: Loopback, name: str, instances: Mapping[str, Mapping[str, Any]]) -> set[str]:
        def find(level: str, query: Mapping[str, str]) -> list[dict[str, str]]:
            return self._find(loopback, name, level, query)

        return proved_by_patient(loopback, name, instances, find)

    def _find(self, loopback: Loopback, name: str, level: str, query: Mapping[str, str]) -> list[dict[str, str]]:
        """Return all that a server answers to QIDO-RS, page by page: it may give fewer at a time than it is asked for."""
        study, arguments = query["StudyInstanceUID"], {"includefield": PATIENT_ID}
        if level == "Study":
            path, arguments = "/studies", {**arguments, "StudyInstanceUID": study}
        else:
            series = query["SeriesInstanceUID"]
            if not fits_in_path(study) or not fits_in_path(series):
                return []  # whoever made such a UID would choose with it what else is asked for: so nothing is proved
            path = f"/studies/{study}/series/{series}/instances"
        answers: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        number = 0
        while True:
            paged = {**arguments, "limit": str(ANSWERS_PER_PAGE), "offset": str(number)}
            try:
                page = self._get(loopback, name, path, paged)
            except LoopbackError as error:
                if error.status != 404:
                    raise
                page = []  # some say so of a study that they don't have
            number += len(page)
            before = len(answers)
            answers |= {tuple(sorted(found.items())): found for found in map(_by_keyword, page)}
            if len(answers) == before:  # the end, or it knows no offset
                return [*answers.values()]
            if len(answers) > MOST_ANSWERS:
                raise ValueError(f"{name} has more than {MOST_ANSWERS} answers when asked what it has of a series")

    def _get(self, loopback: Loopback, name: str, path: str, arguments: Mapping[str, str]) -> list[Mapping[str, Any]]:
        found = self._ask(loopback, name, path, arguments)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ValueError(f"{name} does not answer as a DICOMweb server when asked what it has")
        return found

    def _ask(self, loopback: Loopback, name: str, path: str, arguments: Mapping[str, str]) -> Any:
        """Return what a server answers to a GET, decoded; None if that is no JSON, and `[]` if it is nothing."""
        body = {"Uri": path, "Arguments": arguments, "HttpHeaders": JSON}
        found = loopback.post(f"/{self.route}/{urllib.parse.quote(name, safe='')}/get", body)
        try:
            return json.loads(found or b"[]") if isinstance(found, bytes) else found
        except (ValueError, RecursionError):
            return None


def _by_keyword(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of an answer of QIDO-RS, by keyword (DICOM JSON, PS3.18 F.2); what it leaves out is not among them."""
    found: dict[str, str] = {}
    for tag, keyword in TAGS.items():
        element = answer.get(tag)
        value = element.get("Value") if isinstance(element, dict) else None
        if isinstance(value, list) and value and value[0] is not None:
            found[keyword] = str(value[0])
    return found


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


# ---- src/purge_old_studies/clock.py: Whether the clock of this server can be believed: every age is counted from it.


DAY_SECONDS = 86400.0
MAX_AHEAD_SECONDS = DAY_SECONDS  # a clock further ahead of the time to be expected is doubted,
MAX_AHEAD_AT_START_SECONDS = 30 * DAY_SECONDS  # but at a start nobody knows how long the server was off
MAX_BEHIND_SECONDS = DAY_SECONDS
RECORD_SECONDS = 3600.0  # from one record of the time to the next
FIRST_POSSIBLE_TIME = 1704067200.0  # 2024-01-01: this script is younger
ORTHANC_TIME = "%Y%m%dT%H%M%S"  # of LastUpdate, in UTC
CLOCK_TABLES = """
CREATE TABLE IF NOT EXISTS behind(first TEXT NOT NULL, last TEXT NOT NULL, until TEXT NOT NULL, open INTEGER NOT NULL);
"""
SPANS = "SELECT rowid, * FROM behind"


@dataclasses.dataclass(frozen=True)
class Reading:
    """The clock at one moment: what it says and what is to be expected (POSIX times), and why it is doubted, or ""."""

    now: float
    expected: float
    doubt: str = ""

    @property
    def earliest(self) -> float:
        """The time by which nothing seems older than it is."""
        return min(self.now, self.expected) if self.doubt else self.now

    def as_json(self) -> dict[str, Any]:
        return {
            "State": "doubted" if self.doubt else "right",
            "Now": utc_time(self.now),
            "Expected": utc_time(self.expected),
            "Message": self.doubt or None,
        }


class Clock:
    """The clock of this server, compared with the newest time that the ledger has plus the time since.

    A time that is doubted is never recorded. So a clock that fell back to 1970 is believed again once it is set right. What
    comes in while the clock is behind bears a date of long ago; `arrival` knows better.

    Parameters
    ----------
    ledger : where the time is recorded; its tables hold `CLOCK_TABLES`.
    wall, steady : the clock, and the seconds that go by whatever the clock is set to.
    """

    def __init__(
        self, ledger: Ledger, wall: Callable[[], float] = time.time, steady: Callable[[], float] | None = None
    ) -> None:
        self._ledger, self._wall, self._steady = ledger, wall, steady or steady_seconds
        self._lock = threading.Lock()
        recorded = ledger.get_value("clock")
        self._time, self._since = float(recorded or FIRST_POSSIBLE_TIME), self._steady()
        self._max_ahead = MAX_AHEAD_AT_START_SECONDS if recorded else math.inf
        self._recorded = self._complained = -math.inf  # when, by the steady clock
        self._doubted = self._unrecorded = False
        self._behind: list[dict[str, Any]] = ledger.rows(SPANS)

    def read(self) -> Reading:
        """Return what the clock says now, and whether that can be; writes nothing, and so waits for nobody."""
        with self._lock:
            now, steady = self._wall(), self._steady()
            expected = self._time + steady - self._since
            if -MAX_BEHIND_SECONDS <= now - expected <= self._max_ahead:
                self._believe(now, steady)
                return Reading(now, expected)
            self._doubted = True
            doubt = _doubt(now, expected)
            if steady - self._complained >= DAY_SECONDS:
                self._complained = steady
                orthanc.LogError(f"purge_old_studies: {doubt}")
            return Reading(now, expected, doubt)

    def record(self) -> Reading:
        """Read the clock, and write down what must be known at the next start. For one thread, now and then.

        Where the ledger can't be written (a full disk), the next call tries again; said once.
        """
        reading = self.read()
        try:
            if not reading.doubt:
                self._record_time(reading.now)
            elif reading.now < reading.expected:
                self._record_behind(reading)
            self._unrecorded = False
        except (OSError, sqlite3.Error) as error:
            if not self._unrecorded:
                orthanc.LogError(f"purge_old_studies: the time can't be recorded: {one_line(error)}")
            self._unrecorded = True
        return reading

    def confirm(self) -> Reading:
        """Believe the clock as it is now, since a person says so.

        Raises
        ------
        sqlite3.Error : that can't be recorded; it is doubted as before.
        """
        now, steady = self._wall(), self._steady()
        with self._ledger.transaction():
            self._ledger.set_value("clock", int(now))
            self._ledger.run("DELETE FROM behind WHERE open=1")  # it was right all the time
        self._behind = self._ledger.rows(SPANS)
        with self._lock:
            self._believe(now, steady)
        return Reading(now, now)

    def arrival(self, received: str) -> str:
        """Return when something came in, as far as it is known: what came in while the clock was behind, came when that ended.

        `received` and the result are Orthanc's LastUpdate, "" if there is none that could be one.
        """
        if not re.fullmatch("[0-9]{8}T[0-9]{6}", received):
            return ""
        untils = [str(span["until"]) for span in self._behind if span["first"] <= received <= span["last"]]
        return max(received, *untils) if untils else received

    def _believe(self, now: float, steady: float) -> None:
        self._time, self._since, self._max_ahead = now, steady, MAX_AHEAD_SECONDS
        if self._doubted:
            self._doubted, self._complained = False, -math.inf
            orthanc.LogWarning(f"purge_old_studies: the clock is believed again: {utc_time(now)}")

    def _record_time(self, now: float) -> None:
        ended = any(span["open"] for span in self._behind)
        if not ended and self._steady() - self._recorded < RECORD_SECONDS:
            return
        with self._ledger.transaction():
            self._ledger.set_value("clock", int(now))
            self._ledger.run("UPDATE behind SET until=?, open=0 WHERE open=1", orthanc_time_of(now))
        self._behind, self._recorded = self._ledger.rows(SPANS), self._steady()

    def _record_behind(self, reading: Reading) -> None:
        """Write down what the clock says while it is behind, with a day before and after."""
        text, soon, last = (orthanc_time_of(reading.now + ahead) for ahead in (0, DAY_SECONDS / 2, DAY_SECONDS))
        known = next((span for span in self._behind if span["open"] and span["first"] <= text <= span["last"]), None)
        until = orthanc_time_of(reading.expected)
        if known is None:
            first = orthanc_time_of(reading.now - DAY_SECONDS)
            self._ledger.run("INSERT INTO behind VALUES(?,?,?,1)", first, last, until)
        elif soon > known["last"]:
            self._ledger.run("UPDATE behind SET last=?, until=? WHERE rowid=?", last, until, known["rowid"])
        else:
            return
        self._behind = self._ledger.rows(SPANS)


def _doubt(now: float, expected: float) -> str:
    days = abs(now - expected) / DAY_SECONDS
    return (
        f"The clock says {utc_time(now)}, {days:.0f} days {'ahead of' if now > expected else 'behind'} the time to be expected, "
        f"{utc_time(expected)}: no rule runs and nothing goes by its age until it is set right. If it is right, confirm it by "
        "POST /purge-old-studies/confirm-clock"
    )


def steady_seconds() -> float:
    """Return seconds that go on whatever the clock is set to, on Linux also while the machine sleeps."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


def utc_time(seconds: float | None) -> str | None:
    """Return a POSIX time as ISO 8601."""
    moment = None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)  # noqa: UP017
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def orthanc_time_of(seconds: float) -> str:
    """Return a POSIX time as Orthanc writes LastUpdate."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=max(0.0, seconds))  # noqa: DTZ001 - it is UTC
    return moment.strftime(ORTHANC_TIME)


def local_day(seconds: float) -> datetime.date:
    """Return the server's local day at a POSIX time."""
    return datetime.datetime.fromtimestamp(seconds).date()  # noqa: DTZ006 - days are the server's local ones


# ---- src/purge_old_studies/parameters.py: The parameters of requests.


MAX_DAYS = 99_999


@dataclasses.dataclass(frozen=True)
class Undated(Flag):
    """What is done with studies without a day."""

    allowed: str = "true, false or received"

    def from_body(self, value: Any) -> Any:
        return value if value == "received" else super().from_body(value)


PARAMETERS: dict[str, Text] = {
    "since": Text(),
    "older-than": Text(),
    "by": OneOf(choices=("StudyDate", "received")),
    "Query": TextsByName(allowed='an object of DICOM keywords and texts, e.g. {"ModalitiesInStudy": "CR"}'),
    "Labels": Texts(allowed="a list of labels, at least one"),
    "LabelsConstraint": OneOf(choices=("All", "Any", "None")),
    "limit": WholeNumber(least=1, most=10**9),
    "undated": Undated(),
    "keep-received-days": WholeNumber(most=MAX_DAYS),
    "only-if-at": Texts(allowed="a list of destinations, at least one"),
    "proof": OneOf(choices=NODE_PROOFS),
    "dry-run": Flag(),
    "force": Flag(),
    "async": Flag(),
    "format": OneOf(choices=("json", "text")),
}


def shown(value: object) -> str:
    text = one_line(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def wants_json(found: Mapping[str, Any], request: Request) -> bool:
    """Return whether `format`, else `Accept`, asks for JSON."""
    chosen = found.get("format")
    return chosen == "json" or (chosen is None and "application/json" in request.headers.get("accept", ""))


# ---- src/purge_old_studies/conditions.py: Which studies are to go, as it was asked for.


# What may narrow a purge: the tags that Orthanc keeps of each study in its index, on every version. Others it reads from
# the files, or silently never matches.
QUERY_TAGS = (
    "AccessionNumber", "InstitutionName", "ModalitiesInStudy", "PatientBirthDate", "PatientID",
    "PatientName", "PatientSex", "ReferringPhysicianName", "RequestedProcedureDescription", "RequestingPhysician",
    "StudyDescription", "StudyID", "StudyInstanceUID", "StudyTime",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Which studies go: those up to the day `last`, of these matching `query` and `labels`, the `limit` oldest.

    What of them is not proved to be at each destination of `only_if_at` stays; `proof` is how a DICOM node proves it.

    Where `received_until` is given (Orthanc's LastUpdate, UTC), what came in later stays, and what came in nobody knows when.
    """

    last: datetime.date
    by: str = "StudyDate"
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    labels_constraint: str = "All"
    limit: int | None = None
    undated: bool | str = False
    received_until: str = ""
    only_if_at: tuple[str, ...] = ()
    proof: str = NODE_PROOFS[0]

    def as_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        elsewhere = {"only_if_at": list(found.pop("only_if_at")), "proof": found.pop("proof")}
        found |= {"last": f"{self.last:%Y%m%d}", "labels": list(self.labels)}
        return {**found, **(elsewhere if self.only_if_at else {})}

    def in_words(self, number: int) -> str:
        """Return so many studies of these, as `12 studies dated on or before 20000101`."""
        studies = f"{number} {'study' if number == 1 else 'studies'}"
        text = f"{studies} {'dated' if self.by == 'StudyDate' else 'received'} on or before {self.last:%Y%m%d}"
        also = {True: ", or without a date", "received": ", or without a date and received by then"}
        return text + (also.get(self.undated, "") if self.by == "StudyDate" else "")

    @classmethod
    def from_json(cls, text: str) -> Conditions:
        found = json.loads(text)
        last = typing.cast("datetime.date", parse_day(found["last"]))
        lists = {name: tuple(found.get(name, ())) for name in ("labels", "only_if_at")}
        return cls(**{**found, "last": last, **lists})


def conditions(found: Mapping[str, Any], today: datetime.date, *, has_labels: bool = True) -> Conditions:
    """Return which studies are meant. Raises `Refused` (400), saying what is wrong and what is allowed."""
    by, constraint = found.get("by", "StudyDate"), found.get("LabelsConstraint", "All")
    if "LabelsConstraint" in found and "Labels" not in found:
        raise Refused(400, "LabelsConstraint needs Labels")
    if "proof" in found and "only-if-at" not in found:
        raise Refused(400, "proof needs only-if-at")
    if "Labels" in found and not has_labels:
        raise Refused(400, "Labels: this Orthanc has none, they came with 1.12.0")
    for label in found.get("Labels", ()):
        if not is_label(label):
            raise Refused(400, f"Labels: {shown(label)} can't be one, allowed: letters, digits, - and _")
    _check_query(found.get("Query", {}))
    return Conditions(
        _last_day(found, today),
        by,
        found.get("Query", {}),
        tuple(found.get("Labels", ())),
        constraint,
        found.get("limit"),
        found.get("undated", False),
        only_if_at=tuple(found.get("only-if-at", ())),
        proof=found.get("proof", NODE_PROOFS[0]),
    )


def received_until(days: float, now: float) -> str:
    """Return until when a study must have come in that is to go, as Orthanc writes LastUpdate; "" for 0 days: at any time."""
    return orthanc_time_of(now - days * DAY_SECONDS) if days else ""


def is_label(text: str) -> bool:
    """Return whether Orthanc can have such a label: a misspelt one would restrict nothing, or protect nothing."""
    return re.fullmatch("[A-Za-z0-9_-]{1,64}", text) is not None


def _last_day(found: Mapping[str, Any], today: datetime.date) -> datetime.date:
    if ("since" in found) == ("older-than" in found):
        which = "is missing" if "since" not in found else "and older-than stand both there"
        raise Refused(
            400, f"since {which}: give the last day (since=YYYYMMDD) or the age (older-than=7y) of what is to go"
        )
    if "older-than" in found:
        day = day_back(found["older-than"], today)
        if day is None:
            raise Refused(400, f"older-than is {shown(found['older-than'])}, allowed: an age such as 90d, 18m or 7y")
        return day
    day = parse_day(found["since"])
    if day is None:
        raise Refused(400, f"since is {shown(found['since'])}, allowed: a day of the calendar as YYYYMMDD")
    if day > today:
        raise Refused(400, f"since is {day:%Y%m%d}, a day yet to come; allowed: up to today, {today:%Y%m%d}")
    return day


def day_back(age: str, today: datetime.date) -> datetime.date | None:
    """Return the day that is so many days, calendar months or years before `today`; None if that is no age or no day.

    Where a month has no such day, its last one: a month before 31 March is 28 or 29 February.
    """
    if not (found := re.fullmatch(r"([1-9][0-9]{0,4})([dmy])", age, re.ASCII)):
        return None
    number, unit = int(found[1]), found[2]
    if unit == "d":
        return today - datetime.timedelta(number) if number < today.toordinal() else None
    months = today.year * 12 + today.month - 1 - number * (12 if unit == "y" else 1)
    year, month = months // 12, months % 12 + 1
    if year < 1:
        return None
    after = datetime.date(year + month // 12, month % 12 + 1, 1)
    return min(after - datetime.timedelta(1), datetime.date(year, month, 1) + datetime.timedelta(today.day - 1))


def _check_query(query: Mapping[str, str]) -> None:
    """Refuse what would match more than it says, and what can match nothing."""
    for tag, value in query.items():
        if tag in ("StudyDate", "0008,0020", "0008-0020"):
            raise Refused(400, "Query: days are given by since or older-than, not by StudyDate")
        if tag not in QUERY_TAGS:
            near = difflib.get_close_matches(tag, QUERY_TAGS, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(QUERY_TAGS)}"
            raise Refused(400, f"Query: {shown(tag)} is not kept of each study; {hint}")
        if any(not part.strip("* ") for part in value.split("\\")):
            raise Refused(400, f"Query: {tag} {shown(value)} would match every study; leave it out")
        if not value.isprintable():
            raise Refused(400, f"Query: {tag} has characters that no value of DICOM has here")
        if tag == "ModalitiesInStudy" and re.search(r"[*?]", value):
            raise Refused(400, "Query: ModalitiesInStudy takes no wildcards; several stand side by side: CT\\MR")
        if "\\" in value and re.search(r"[*?]", value):
            raise Refused(400, f"Query: {tag} is a list, which takes no wildcards")
        if tag in ("StudyTime", "PatientBirthDate") and "-" in value:
            raise Refused(400, f"Query: {tag} takes no range; to Orthanc an empty value would lie in it")


# ---- src/purge_old_studies/studies.py: A study as Orthanc's index has it, and whether the conditions name it.


IDENTIFIERS = ("PatientID", "StudyInstanceUID", "AccessionNumber", "StudyDate")


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as the index has it.

    `tags` are those of its patient too, `received` is its LastUpdate (UTC): Orthanc writes it when an instance comes in, and when
    metadata or labels change. `arrived` is that time put right (`Clock.arrival`), "" if it is not known.
    """

    id: str
    patient: str
    tags: Mapping[str, str]
    received: str
    arrived: str
    labels: frozenset[str]
    metadata: frozenset[str]
    instances: int = 0  # 0: not counted

    def day(self, by: str) -> datetime.date | None:
        """Return the day that counts; None if there is none that a calendar knows."""
        if by == "StudyDate":
            return _day(self.tags.get("StudyDate", ""))
        with contextlib.suppress(ValueError, OverflowError, OSError):
            moment = datetime.datetime.strptime(self.arrived, "%Y%m%dT%H%M%S").replace(tzinfo=datetime.timezone.utc)  # noqa: UP017
            return moment.astimezone().date()
        return None


@functools.lru_cache(10_000)
def _day(text: str) -> datetime.date | None:
    return parse_day(text)


def is_meant(study: Study, asked: Conditions) -> bool:
    """Return whether the conditions name this study, and it did not come in too lately for them."""
    return fits(study, asked) and not came_lately(study, asked)


def came_lately(study: Study, asked: Conditions) -> bool:
    """Return whether something of this study came in after `received_until`, or may have."""
    return bool(asked.received_until) and not "" < study.arrived <= asked.received_until


def fits(study: Study, asked: Conditions) -> bool:
    """Return whether the conditions name this study, whenever it came in.

    What Orthanc found is judged here once more: it compares dates as text (an empty one, `1999`, `1999.12.31` and `19991301` are
    before 20000101 to it) and names without regard to case.
    """
    day = study.day(asked.by)
    if day is None and asked.undated == "received":
        day = study.day("received")
    elif day is None and asked.undated:
        day = datetime.date.min
    if day is None or day > asked.last:
        return False
    held = [label in study.labels for label in asked.labels]
    by_labels = {"All": all(held), "Any": not held or any(held), "None": not any(held)}[asked.labels_constraint]
    return by_labels and all(
        tag == "ModalitiesInStudy" or matches(study.tags.get(tag, ""), value) for tag, value in asked.query.items()
    )


def matches(found: str, wanted: str) -> bool:
    """Single value, list and wild card matching (DICOM PS3.4 C.2.2.2), with regard to case."""
    return matches_any(found.strip(), map(str.strip, wanted.split("\\")))


def identifiers(study: Study) -> dict[str, str]:
    return {"ID": study.id, **{tag: study.tags.get(tag, "") for tag in IDENTIFIERS}}


def facts(study: Study) -> dict[str, Any]:
    """Return what is written down of a study that is to be deleted."""
    return {**identifiers(study), "LastUpdate": study.received, "Instances": study.instances}


# ---- src/purge_old_studies/index.py: Orthanc's index, read in lists by loopback HTTP: through the SDK what takes long would hold stores up.


STUDIES_PAGE = 500  # studies read at a time: each question reads through all that match
INSTANCES_PAGE = 2000  # instances read at a time: to decode an answer holds the interpreter, and with it every store
INSTANCES_BY_NAME = 200  # instances of one question before 1.12.5
FEW = 30  # studies of one question before 1.12.5: hardly anybody else gets at Orthanc's index before it is answered
UNKNOWN_RESOURCE = (17, 3)  # codes of OrthancException; 3 is what the protection of an unknown patient gives


class Index:
    """What Orthanc knows of its studies, asked as its version allows; `with_metadata`: all metadata of a study are needed."""

    def __init__(self, loopback: Loopback, *, with_metadata: bool) -> None:
        self._loopback, self._with_metadata = loopback, with_metadata

    @functools.cached_property
    def _system(self) -> dict[str, Any]:
        found: dict[str, Any] = self._loopback.get("/system")
        return found

    @property
    def is_extended(self) -> bool:
        """Whether one question gives all that is asked of a list, from Orthanc 1.12.5."""
        # Then a list is read in pages, with all that is asked of it; there, reading one study costs in proportion to the
        # archive. Before, a single one is quick, and a page costs in proportion to what precedes it.
        return bool(self._loopback.has_extended_find)

    @functools.cached_property
    def has_labels(self) -> bool:
        """Whether this Orthanc knows labels, from 1.12.0."""
        if "HasLabels" in self._system:  # from 1.12.0; some databases have none
            return bool(self._system["HasLabels"])
        found = re.match(r"(\d+)\.(\d+)", self._system["Version"])
        return self.is_extended or (found is not None and (int(found[1]), int(found[2])) >= (1, 12))

    @property
    def version(self) -> str:
        """The version of this Orthanc."""
        return str(self._system["Version"])

    @property
    def is_elsewhere(self) -> bool:
        """Whether a plugin keeps the files, so that the file system of `StorageDirectory` says nothing of them."""
        return bool(self._system.get("StorageAreaPlugin"))

    def matching(self, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the studies that match, as Orthanc gives them: at least all that do."""
        pages = self._pages(query) if self.is_extended else self._before_pages(query)
        return itertools.chain.from_iterable(pages)

    def _pages(self, query: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
        for since in itertools.count(0, STUDIES_PAGE):
            # Counted here, not when they are looked at again: each question that counts reads through the archive once more.
            page = self.search(
                self.find(query, Since=since, Limit=STUDIES_PAGE, RequestedTags=["NumberOfStudyRelatedInstances"])
            )
            yield page
            if len(page) < STUDIES_PAGE:
                return

    def _before_pages(self, query: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
        if self._loopback.find_is_unlimited:
            studies = self._loopback.post("/tools/find", self.find(query, Expand=False))
        else:
            studies = self._loopback.get("/studies")  # `is_meant` looks at each
        for start in range(0, len(studies), STUDIES_PAGE):
            page = self.content("Study", studies[start : start + STUDIES_PAGE])
            yield page if self._loopback.find_is_unlimited else self._of_modality(page, query.get("ModalitiesInStudy"))

    def _of_modality(self, studies: list[dict[str, Any]], wanted: str | None) -> list[dict[str, Any]]:
        """Return those with a series of a wanted modality: what `is_meant` can't see of a study."""
        if not wanted:
            return studies
        series = self.content("Series", [study["ID"] for study in studies])
        meant = {each["ParentStudy"] for each in series if matches(each["MainDicomTags"].get("Modality", ""), wanted)}
        return [study for study in studies if study["ID"] in meant]

    def find(self, query: Mapping[str, str], **more: Any) -> dict[str, Any]:
        """Return a question for studies."""
        # Without regard to case, since pages can't be had with it; `is_meant` has it.
        find = {"Level": "Study", "Query": dict(query), "Expand": True, **more}
        if self.is_extended:
            find["ResponseContent"] = ["MainDicomTags", "Metadata", "Parent", "Labels"]
        return find

    def search(self, find: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what Orthanc answers to a question."""
        found: list[dict[str, Any]] = self._loopback.post("/tools/find", find)
        return found

    def content(self, level: str, studies: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is there of some studies at a level, before 1.12.5."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(studies), FEW):
            some = {"Resources": studies[start : start + FEW], "Level": level}
            found += self._loopback.post("/tools/bulk-content", {**some, "Metadata": self._with_metadata})
        return found

    def children(
        self, level: str, studies: Iterable[Study], content: Sequence[str], **more: Any
    ) -> list[dict[str, Any]]:
        """Return what some studies hold at a level."""
        if not self.is_extended:
            return self.content(level, [study.id for study in studies])
        uids = "\\".join(study.tags["StudyInstanceUID"] for study in studies)
        find = {"Level": level, "Query": {"StudyInstanceUID": uids}, "Expand": True, "ResponseContent": content}
        return self.search({**find, **more})

    def sizes_of(self, studies: Collection[Study]) -> dict[str, int]:
        """Return the bytes on the disk of studies, 0 for one that is not there.

        From 1.12.5 the statistics of a single study cost in proportion to the archive, and so does each question for some.
        """
        if not self.is_extended:
            found = {study.id: if_there(f"/studies/{study.id}/statistics") or {} for study in studies}
            return {study: int(statistics.get("DiskSize", 0)) for study, statistics in found.items()}
        sizes = dict.fromkeys((study.id for study in studies), 0)
        if not sizes:
            return sizes
        study_of = {series["ID"]: series["ParentStudy"] for series in self.children("Series", studies, ["Parent"])}
        for instance in self._instances(studies, ["Attachments", "Parent"]):
            # Others may have the same StudyInstanceUID; a series may have come in between the two questions.
            if (study := study_of.get(instance["ParentSeries"])) in sizes:
                sizes[study] += sum(int(file["CompressedSize"]) for file in instance["Attachments"])
        return sizes

    def instances_of(self, studies: Collection[Study]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield study, identifier and content of each instance of some studies: what proofs of having it need, and no more.

        It is as `/tools/bulk-content` gives it, with the `Place` of its series.
        """
        of_study = {study.id: study for study in studies}
        if self.is_extended:
            every_series = self.children("Series", studies, ["MainDicomTags", "Parent"])
            found = self._instances(studies, ["MainDicomTags", "Metadata", "Parent", "Attachments"])
        else:
            every_series = self.content("Series", [*of_study])
            found = self._by_name([instance for series in every_series for instance in series["Instances"]])
        # Others may have the same StudyInstanceUID; what comes in between the two questions is not among them.
        here = {each["ID"]: each for each in every_series if each["ParentStudy"] in of_study}
        places = {key: _place(of_study[each["ParentStudy"]], each) for key, each in here.items()}
        for each in found:
            if series := here.get(each["ParentSeries"]):
                yield series["ParentStudy"], each["ID"], _for_proof(each, places[series["ID"]])

    def _by_name(self, instances: Sequence[str]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(instances), INSTANCES_BY_NAME):
            some = {"Resources": instances[start : start + INSTANCES_BY_NAME], "Metadata": True}
            yield from self._loopback.post("/tools/bulk-content", some)

    def _instances(self, studies: Collection[Study], content: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the instances of some studies, from 1.12.5: a page at a time, for they may be hundreds of thousands."""
        for since in itertools.count(0, INSTANCES_PAGE):
            page = self.children("Instance", studies, content, Since=since, Limit=INSTANCES_PAGE)
            yield from page
            if len(page) < INSTANCES_PAGE:
                return

    def count(self) -> int:
        """Return how many studies there are."""
        return int(self._loopback.get("/statistics")["CountStudies"])


def _place(study: Study, series: Mapping[str, Any]) -> dict[str, str]:
    """Return what the identifiers of a series, its study and its patient are."""
    uids = {tag: study.tags.get(tag, "") for tag in ("PatientID", "StudyInstanceUID")}
    return {**uids, "SeriesInstanceUID": series["MainDicomTags"].get("SeriesInstanceUID", "")}


def _file_of(instance: Mapping[str, Any]) -> str:
    """Return Orthanc's name of the DICOM file of an instance (an attachment of type 1), or ""."""
    files = [file["Uuid"] for file in instance.get("Attachments", ()) if file["ContentType"] == 1]
    return str(instance.get("FileUuid") or (files or [""])[0])


def _for_proof(instance: Mapping[str, Any], place: Mapping[str, str]) -> dict[str, Any]:
    """Return of an instance what proofs look at: there may be hundreds of thousands."""
    metadata = instance.get("Metadata", {})
    return {
        "ParentSeries": instance["ParentSeries"],
        "MainDicomTags": {"SOPInstanceUID": instance["MainDicomTags"].get("SOPInstanceUID", "")},
        "FileUuid": _file_of(instance),
        "Metadata": {key: sys.intern(str(metadata[key])) for key in ("Origin", "RemoteIP") if key in metadata},
        "Place": place,
    }


def if_there(path: str) -> Any:
    """Return what Orthanc says of one resource (through the SDK: microseconds); None if it is not there.

    Any other error is raised: who can't see whether a study is protected does not delete it.
    """
    try:
        return json.loads(orthanc.RestApiGet(path))
    except orthanc.OrthancException as error:
        if error.args[0] in UNKNOWN_RESOURCE:
            return None
        raise


# ---- src/purge_old_studies/elsewhere.py: `OnlyIfAt`: studies go only if destinations prove to have each of their instances.


REPORT_WITHIN_SECONDS = 300.0  # in which a node has to report what it committed itself to; forwarders wait longer
LOOK_FOR_REPORT_SECONDS = 0.1, 0.5  # the first and the longest pause: each look asks this Orthanc for its jobs, too
# Of one request: an Orthanc takes 1 s to commit itself to these, and for more the square of it (1.10.1: 31 s for 1,250).
INSTANCES_PER_COMMITMENT = 100
FAILURES_IN_A_ROW = 3  # after which a destination is not asked any more by a purge
LACKING_SECONDS = 6 * 3600.0  # in which rules by space leave out what a destination did not have
MOST_REMEMBERED = 200_000  # questions of which a destination lacked something: some 30 MB
NAMES_SHOWN = 20


class Destination(NamedTuple):
    """A DICOM node ("modality"), an Orthanc ("peer") or a DICOMweb server ("dicomweb"), by Orthanc's name of it."""

    kind: str
    name: str


class Elsewhere:
    """The destinations that this Orthanc knows, and what they prove to have, as the forwarders ask them."""

    def __init__(self, configuration: Mapping[str, Any], loopback: Loopback) -> None:
        self._configuration, self._loopback = configuration, loopback
        self._peers = Peers(configuration, loopback)
        self.servers = DicomWebServers(configuration, loopback, is_wanted=False, script="purge-old-studies")
        self._silent: dict[Destination, str] = {}  # that did not answer last
        self._lacking: dict[int, float] = {}  # by what was asked of a study: when a destination lacked some of it

    def destinations(self, names: Sequence[str], key: str = "OnlyIfAt") -> list[Destination]:
        """Return the destinations of these names; `key` is where somebody wrote them, for errors.

        Raises
        ------
        Refused : one is not known, or is the name of several; or an instance can come again with another content.
        LoopbackError : Orthanc does not answer.
        """
        if not names:
            return []
        if self._configuration.get("OverwriteInstances", False) not in (False, "Never"):
            why = "a new image of the same identifier could be deleted because an older one was proved"
            raise Refused(400, f'{key}: not allowed where "OverwriteInstances" is on: {why}')
        known = self._known()
        return [self._destination(name, known, key) for name in names]

    def check_asked(self, names: Sequence[str], turns: HttpTurns) -> None:
        """Raise `Refused` as `destinations`, with the name that requests have for it."""
        if names:
            with contextlib.suppress(LoopbackError), turns.turn():  # silence is answered where studies are looked for
                self.destinations(names, "only-if-at")

    def _known(self) -> list[Destination]:
        found = [Destination("modality", name) for name in self._loopback.get("/modalities")]
        found += [Destination("peer", name) for name in self._loopback.get("/peers")]
        try:
            servers = {*self._loopback.get(f"/{self.servers.route}")} | self.servers.configured
        except LoopbackError as error:
            if error.status != http.client.NOT_FOUND:
                raise
            servers = set()  # the plugin is not loaded
        return [*found, *(Destination("dicomweb", name) for name in sorted(servers))]

    def _destination(self, wanted: str, known: Sequence[Destination], key: str) -> Destination:
        fitting = [each for each in known if wanted in (each.name, ":".join(each))]
        if len(fitting) == 1:
            return fitting[0]
        number = Counter(each.name for each in known)
        allowed = [each.name if number[each.name] == 1 else ":".join(each) for each in fitting or known]
        what = f"{shown(wanted)} is the name of several destinations"
        if not fitting:
            near = difflib.get_close_matches(wanted, allowed, 1, 0.6)
            what = f"Orthanc knows no destination {shown(wanted)}" + (f" (did you mean {near[0]}?)" if near else "")
        listed = ", ".join(allowed[:NAMES_SHOWN]) + (", ..." if len(allowed) > NAMES_SHOWN else "")
        raise Refused(400, f"{key}: {what}, allowed: {one_line(listed) or 'none, for it knows none'}")

    def prove(
        self, destination: Destination, instances: Mapping[str, Mapping[str, Any]], asked: dict[str, Any], proof: str
    ) -> set[str] | None:
        """Return which of these instances a destination has, of their patients; None: it has not reported yet.

        Raises
        ------
        LoopbackError, OSError, HTTPException : it does not answer, or refuses.
        ValueError : what it answers is no proof.
        """
        if destination.kind == "modality":
            return proved_by_node(self._loopback, destination.name, instances, asked, proof)
        if destination.kind == "peer":
            return proved_by_peer(self._peers, destination.name, instances)
        return self.servers.prove(self._loopback, destination.name, instances, asked)

    def raise_if_orthanc_is_silent(self) -> None:
        """Raise `LoopbackError` if this Orthanc itself does not answer."""
        self._loopback.get("/system")

    def note_silent(self, destination: Destination, why: str) -> None:
        """Note that a destination did not answer."""
        self._silent[destination] = why

    def note_answer(self, destination: Destination) -> None:
        """Note that a destination answered."""
        self._silent.pop(destination, None)

    def why_silent(self, names: Sequence[str]) -> str:
        """Return why one of these can't be asked that did not answer last, and does not now; "" if all may be asked.

        Raises what `destinations` does.
        """
        for destination in self.destinations(names):
            if destination in self._silent:
                try:
                    self._probe(destination)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                    return f"{destination.name} does not answer: {one_line(error) or repr(error)}"
                self.note_answer(destination)
        return ""

    def _probe(self, destination: Destination) -> None:
        if destination.kind == "modality":
            self._loopback.post(f"/modalities/{quote(destination.name, safe='')}/echo", {"Timeout": 3})
        elif destination.kind == "peer":
            self._peers.check(destination.name)
        else:
            self.servers.probe(self._loopback, destination.name)

    def note_lacking(self, study: Study, names: Sequence[str], proof: str) -> None:
        """Note that one of these destinations does not have all of a study."""
        question = _question(study, names, proof)
        self._lacking.pop(question, None)  # the newest ones are last
        self._lacking[question] = time.monotonic()
        if len(self._lacking) > MOST_REMEMBERED:
            del self._lacking[next(iter(self._lacking))]

    def has_lacked(self, study: Study, asked: Conditions) -> bool:
        """Return whether a destination lacked some of a study lately: rules by space would choose it again and again."""
        at = self._lacking.get(_question(study, asked.only_if_at, asked.proof))
        return at is not None and time.monotonic() - at < LACKING_SECONDS

    def in_turn(self, studies: Sequence[Study], asked: Conditions) -> list[Study]:
        """Return studies in their order, but last those of which a destination lacked some, the one asked longest ago first.

        Else where few go at a time, the same oldest ones would be asked for ever, and no younger one.
        """
        if not (asked.only_if_at and self._lacking):
            return [*studies]
        at = {study.id: self._lacking.get(_question(study, asked.only_if_at, asked.proof), -1.0) for study in studies}
        return sorted(studies, key=lambda study: at[study.id])


def _question(study: Study, names: Sequence[str], proof: str) -> int:
    """Return a number that stands for what was asked of a study: many are remembered, and texts would take much room."""
    return hash((study.id, study.received, tuple(names), proof))


class Proving:
    """What one purge asks the destinations of its `OnlyIfAt`: one that does not answer is not asked again by it."""

    def __init__(self, elsewhere: Elsewhere, index: Index, asked: Conditions) -> None:
        self._elsewhere, self._index = elsewhere, index
        self._names, self._proof = asked.only_if_at, asked.proof
        self._silent: dict[Destination, str] = {}
        self._failures = Counter[Destination]()  # in a row
        self._lacking = set[str]()  # studies of the last question of which a destination answered that it has not all
        self.proved: dict[str, list[str]] = {}
        """The instances of each study of the last question that every destination has proved to have: all of it."""

    def why_kept(self, studies: Collection[Study], is_halted: Callable[[], bool]) -> dict[str, str]:
        """Return why some of these studies stay, by their identifiers: each that is not wholly proved.

        Where `is_halted` becomes true meanwhile, what is returned means nothing.

        Raises
        ------
        LoopbackError : Orthanc does not answer.
        """
        self.proved, self._lacking = {}, set()
        if not (self._names and studies):
            return {}
        try:
            destinations = self._elsewhere.destinations(self._names)
        except Refused as refused:  # since the purge began, or a restart
            return {study.id: refused.message for study in studies}
        if why := next((self._silent[each] for each in destinations if each in self._silent), ""):
            return {study.id: why for study in studies}
        content: dict[str, dict[str, Any]] = {study.id: {} for study in studies}
        for study_id, key, instance in self._index.instances_of(studies):
            content[study_id][key] = instance
        # Without its name, nobody could see that a destination names the very same file.
        unread = [
            study for study, some in content.items() if not some or not all(one["FileUuid"] for one in some.values())
        ]
        reasons = dict.fromkeys(unread, "its instances can't be read")
        for destination in destinations:
            left = {study: instances for study, instances in content.items() if study not in reasons}
            reasons |= self._missing_at(destination, left, is_halted) if left else {}
        for study in studies:
            if study.id in self._lacking and not is_halted():
                self._elsewhere.note_lacking(study, self._names, self._proof)
        self.proved = {study: [*instances] for study, instances in content.items() if study not in reasons}
        return reasons

    def _missing_at(
        self, destination: Destination, content: Mapping[str, Mapping[str, Any]], is_halted: Callable[[], bool]
    ) -> dict[str, str]:
        """Return why some studies, given with their instances, stay as far as one destination is asked."""
        if why := self._silent.get(destination):
            return dict.fromkeys(content, why)
        instances = {key: one for some in content.values() for key, one in some.items()}
        try:
            proved = self._asked(destination, instances, is_halted)
        except (LoopbackError, OSError, http.client.HTTPException, ValueError) as error:
            why = self._failed(destination, error)
            if len(content) == 1 or is_halted():
                self._lacking |= set() if self._failures[destination] else content.keys()
                return dict.fromkeys(content, why)
            # It may be about one of them: that keeps no other.
            return {
                study: why
                for one in content
                for study, why in self._missing_at(destination, {one: content[one]}, is_halted).items()
            }
        self._failures[destination] = 0
        self._elsewhere.note_answer(destination)
        missing = {study: number for study, some in content.items() if (number := len(some.keys() - proved))}
        self._lacking |= missing.keys()
        return {
            study: f"{destination.name} has not proved to have {number} of {len(content[study])} instances"
            for study, number in missing.items()
        }

    def _asked(self, destination: Destination, instances: Mapping[str, Any], is_halted: Callable[[], bool]) -> set[str]:
        """Return which instances a destination has."""
        if destination.kind != "modality" or self._proof == "C-FIND":
            return self._elsewhere.prove(destination, instances, {}, "C-FIND") or set()
        found = {*instances}
        if self._proof == "StorageCommitment":  # first, for it is the quicker one; a commitment names no patient
            found = self._elsewhere.prove(destination, instances, {}, "C-FIND") or set()
        committed, left = set[str](), sorted(found)
        while left and not is_halted():
            some, left = left[:INSTANCES_PER_COMMITMENT], left[INSTANCES_PER_COMMITMENT:]
            committed |= self._committed(destination, {key: instances[key] for key in some}, is_halted)
        return committed

    def _committed(
        self, destination: Destination, instances: Mapping[str, Any], is_halted: Callable[[], bool]
    ) -> set[str]:
        """Return to which instances a node commits itself: its report is waited for."""
        memory, begun, pauses = dict[str, Any](), time.monotonic(), Pauses(*LOOK_FOR_REPORT_SECONDS)
        while (found := self._elsewhere.prove(destination, instances, memory, "StorageCommitmentOnly")) is None:
            if is_halted():
                return set()
            if time.monotonic() - begun > REPORT_WITHIN_SECONDS:
                self._failures[destination] = FAILURES_IN_A_ROW  # to wait for each study would take weeks
                raise TimeoutError(f"it has sent no report of storage commitment within {REPORT_WITHIN_SECONDS:g} s")
            time.sleep(pauses.next())
        return found

    def _failed(self, destination: Destination, error: Exception) -> str:
        """Return why a study stays that could not be asked for; a destination that does not answer is left alone then."""
        if isinstance(error, LoopbackError) and error.status == 0:
            self._elsewhere.raise_if_orthanc_is_silent()
        why = f"{destination.name} has not proved to have it: {one_line(error) or repr(error)}"
        no_answer = (LoopbackError, OSError, http.client.HTTPException)
        if not isinstance(error, no_answer) and not isinstance(error.__cause__, no_answer):
            self._failures[destination] = 0
            return why
        self._failures[destination] += 1
        if self._failures[destination] >= FAILURES_IN_A_ROW:
            self._silent[destination] = f"{why} (this purge does not ask it again)"
            self._elsewhere.note_silent(destination, why)
        return self._silent.get(destination, why)


# ---- src/purge_old_studies/disk.py: How full it is: the file system of the storage in percent, or what the archive holds in bytes.


BYTES_OF = {
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1) if power > 1},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1) if power > 1},
}
# A file system that compresses shows less than Orthanc counts, but not less than this share of it.
LEAST_SHARE = 0.25
LITTLE = 64e6  # bytes that say nothing: logs and the index grow too
ALLOWED = 'a share of the file system such as "85%", or what the archive may hold: "900GB", "900GiB", "1.5TB"'


@dataclasses.dataclass(frozen=True)
class Level:
    """A level of the disk: a share of its file system in percent, or bytes of the archive."""

    amount: float
    is_percent: bool

    def __str__(self) -> str:
        return f"{self.amount:.4g}%" if self.is_percent else f"{self.amount / 1e9:.4g} GB"


def parse_level(text: str) -> Level | None:
    """Return what a text such as `85%`, `900GB`, `1.5TiB` means, or None."""
    if not (found := re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(%|[MGT]i?B)", text, re.ASCII)):
        return None
    number, unit = float(found[1]), found[2]
    if number <= 0 or (unit == "%" and number >= 100):
        return None
    return Level(number, is_percent=True) if unit == "%" else Level(number * BYTES_OF[unit], is_percent=False)


@dataclasses.dataclass(frozen=True)
class Fill:
    """How full it is, and how many bytes have to go until it is at another level."""

    level: Level
    size: float  # bytes of which the level is a share; of the archive: 1
    archive: float = 0  # bytes of Orthanc's files, as it counts them

    def above(self, level: Level) -> float:
        """Return how many bytes it is above a level of its kind; negative below it."""
        share = self.size / 100 if self.level.is_percent else 1
        return (self.level.amount - level.amount) * share

    @property
    def used(self) -> float:
        """The bytes that the file system holds, whoever wrote them; of the archive: those that it holds."""
        return self.level.amount * self.size / 100 if self.level.is_percent else self.level.amount

    def contradiction(self, before: Fill | None, gone: float) -> str:
        """Return why the file system does not show what Orthanc has and deletes, or "".

        Whoever deletes by such a percentage deletes all that is old, and never gets down to the level.

        Parameters
        ----------
        before, gone : how full it was before so many bytes of studies were deleted.
        """
        if not self.level.is_percent:
            return ""
        if self.used + LITTLE < self.archive * LEAST_SHARE:
            return f"the file system holds {_gb(self.used)}, and Orthanc's files have {_gb(self.archive)}: is it the right one?"
        if before and gone > LITTLE:
            by_others = (self.used - before.used) - (self.archive - before.archive)  # what came in since is in both
            if gone - by_others < gone * LEAST_SHARE:
                return (
                    f"{_gb(gone)} of studies went, and the file system has no more room by it: snapshots or a trash keep "
                    "them, or others fill it"
                )
        return ""


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


class Disk:
    """Measures the disk.

    Parameters
    ----------
    folder : Orthanc's storage; its file system counts, whoever else writes there.
    """

    def __init__(self, loopback: Loopback, folder: Path) -> None:
        self._loopback, self._folder = loopback, folder
        self._identity: int | None = None  # of its file system

    def fill(self, *, in_percent: bool) -> Fill:
        """Return how full it is: the file system as `df` counts, or the archive as Orthanc does (`TotalDiskSize`).

        Raises
        ------
        OSError : the file system can't be measured, or is not the one that was there first.
        LoopbackError : Orthanc does not answer.
        """
        archive = int(self._loopback.get("/statistics")["TotalDiskSize"])
        if not in_percent:
            return Fill(Level(archive, is_percent=False), 1, archive)
        found = file_system_of(self._folder)
        if self._identity is None:
            self._identity = found.identity
        if found.identity != self._identity:
            raise OSError(f"{self._folder} is on another file system than before: it was unmounted, or mounted late")
        return Fill(Level(found.used_percent, is_percent=True), found.size, archive)

    def room(self) -> tuple[int, float] | None:
        """Return the bytes that are left on the file system of the storage, and how full it is in percent; None: not known."""
        try:
            found = file_system_of(self._folder)
        except OSError:
            return None
        return found.size - found.used, found.used_percent


# ---- src/purge_old_studies/settings.py: The section PurgeOldStudies of the configuration.


SECTION = "PurgeOldStudies"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Metadata of a study that Orthanc gives by itself and that can mean something to a person; others are the user's.
KNOWN_METADATA = ("AnonymizedFrom", "ModifiedFrom", "RemoteAET")


def _age(text: str) -> str | None:
    return None if day_back(text, datetime.date(2000, 1, 1)) else "an age such as 90d, 18m or 7y"


def _time_of_day(text: str) -> str | None:
    return None if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?", text) else "a time of day as HH:MM"


def _days(texts: Sequence[str]) -> str | None:
    return None if texts and set(texts) <= set(DAYS) else ", ".join(DAYS)


def _level(text: str) -> str | None:
    return None if parse_level(text) else ALLOWED


def _oldest_by(text: str) -> str | None:
    if text == "LastAccess":
        return "received, StudyDate: Orthanc does not know when somebody last looked at a study"
    return None if text in ("received", "StudyDate") else "received, StudyDate"


def _destinations(names: Sequence[str]) -> str | None:
    return not_empty(names) or (None if all(name.strip() for name in names) else "names of destinations")


def _undated(value: object) -> str | None:
    return None if isinstance(value, bool) or value == "received" else 'true, false or "received"'


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of `Rules`: what is deleted by itself."""

    name: str = dataclasses.field(default="", metadata={"help": "Its name in logs and in the history; needed."})
    older_than: str = dataclasses.field(
        default="", metadata={"check": _age, "help": "Age from which studies are deleted: `90d`, `18m`, `7y`; needed."}
    )
    at: str = dataclasses.field(
        default="",
        metadata={
            "check": _time_of_day,
            "help": "When, in the server's local time: `02:30`; needed, unless `WhenDiskAbove` says when.",
        },
    )
    days: tuple[str, ...] = dataclasses.field(
        default=DAYS, metadata={"check": _days, "help": "The days of the week on which it runs."}
    )
    by: str = dataclasses.field(
        default="StudyDate",
        metadata={
            "choices": ("StudyDate", "received"),
            "help": "`StudyDate`, or `received` (the study's `LastUpdate`).",
        },
    )
    query: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"check": not_empty, "help": 'A further condition, as in DICOM: `{"ModalitiesInStudy": "CR"}`.'},
    )
    labels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"check": not_empty, "help": "Labels that a study must have; without the key: any study."}
    )
    labels_constraint: str = dataclasses.field(
        default="All",
        metadata={"choices": ("All", "Any", "None"), "help": "Whether a study must have all, any or none of `Labels`."},
    )
    limit: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "help": "The most studies of one run, the oldest first; null: no limit."}
    )
    undated: Any = dataclasses.field(
        default=False,
        metadata={
            "check": _undated,
            "texts": (),
            "allowed": '`false`, `true`, `"received"`',
            "help": (
                "Studies without a valid date. `false`: they stay. `true`: they are deleted, whatever their age. "
                '`"received"`: their `LastUpdate` counts.'
            ),
        },
    )

    only_if_at: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "check": _destinations,
            "help": (
                "Destinations that must prove to have each instance of a study ([more](#only-what-is-elsewhere-too)): names "
                "from `DicomModalities`, `OrthancPeers`, `DicomWeb.Servers`, or `modality:PACS`, `peer:PACS`, `dicomweb:PACS`."
            ),
        },
    )
    proof: str = dataclasses.field(
        default=NODE_PROOFS[0],
        metadata={"choices": NODE_PROOFS, "help": "How the DICOM nodes of `OnlyIfAt` prove it."},
    )
    when_disk_above: str | None = dataclasses.field(
        default=None,
        metadata={
            "check": _level,
            "help": (
                "Instead of `At`: it deletes while the disk is fuller than this (see [by space](#by-space)): `85%` of the "
                "storage's file system, or the archive holds more than `900GB`, `1.5TiB`."
            ),
        },
    )
    down_to: str | None = dataclasses.field(
        default=None,
        metadata={"check": _level, "help": "With `WhenDiskAbove`: until it is down to this; needed, in the same unit."},
    )
    oldest_by: str = dataclasses.field(
        default="received",
        metadata={
            "check": _oldest_by,
            "allowed": '`"received"`, `"StudyDate"`',
            "help": (
                "With `WhenDiskAbove`: which studies are the oldest, and for `OlderThan`. Orthanc does not know when "
                "somebody last looked at a study."
            ),
        },
    )
    at_most: int = dataclasses.field(
        default=500, metadata={"minimum": 1, "help": "With `WhenDiskAbove`: the most studies of one look at the disk."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `PurgeOldStudies`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "KeepDoneDays": "finished purges stay in the list for 30 days, and in the history for ever",
    }

    max_studies: int = dataclasses.field(
        default=0, metadata={"minimum": 0, "help": "More studies at once are refused without `force`; 0: no limit."}
    )
    max_percent: float = dataclasses.field(
        default=0,
        metadata={
            "minimum": 0,
            "maximum": 100,
            "help": "More percent of the archive's studies at once are refused without `force`; 0: no limit.",
        },
    )
    keep_labels: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "A study with one of these labels is never purged."}
    )
    keep_metadata: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "A study with one of these metadata is never purged, whatever the value."}
    )
    keep_received_days: float = dataclasses.field(
        default=7,
        metadata={
            "minimum": 0,
            "maximum": MAX_DAYS,
            "help": "A rule never takes a study of which something came in within so many days.",
        },
    )
    keep_undelivered: bool = dataclasses.field(
        default=True,
        metadata={
            "help": (
                "A study with which a forwarder, anonymize_series.py or auto_retries.py of this Orthanc is not done is "
                "never purged."
            )
        },
    )
    disk_look_seconds: float = dataclasses.field(
        default=600,
        metadata={
            "minimum": 1,
            "maximum": 86400,
            "help": "Seconds between two looks at the disk, for rules with `WhenDiskAbove`.",
        },
    )
    rules: tuple[Rule, ...] = dataclasses.field(
        default=(), metadata={"help": "What is deleted by itself, and when (below)."}
    )
    state_path: str | None = state_path_field("the ledger and the history")
    durability: str = durability_field("ledger and history survive")


def rule_conditions(rule: Rule, today: datetime.date, *, has_labels: bool = True) -> Conditions:
    """Return what a rule means on a day. Raises `Refused` as a request would."""
    by = rule.oldest_by if rule.when_disk_above else rule.by
    found: dict[str, Any] = {"older-than": rule.older_than, "by": by, "Query": rule.query, "undated": rule.undated}
    if rule.limit is not None:
        found["limit"] = rule.limit
    if rule.labels:
        found |= {"Labels": list(rule.labels), "LabelsConstraint": rule.labels_constraint}
    if rule.only_if_at:
        found |= {"only-if-at": list(rule.only_if_at), "proof": rule.proof}
    return conditions(found, today, has_labels=has_labels)


def disk_levels(rule: Rule) -> tuple[Level, Level]:
    """Return above which level a rule by space begins, and down to which it goes."""
    above, down_to = parse_level(rule.when_disk_above or ""), parse_level(rule.down_to or "")
    assert above is not None  # `check_settings` has seen to it
    assert down_to is not None
    return above, down_to


def _check_space(rule: Rule, path: str) -> None:
    """Check that a rule is either for a time of the day or for a level of the disk. Raises `SettingsError`."""
    if rule.when_disk_above is None:
        others = {"DownTo": "down_to", "OldestBy": "oldest_by", "AtMost": "at_most"}
        why = dict.fromkeys(others, "only a rule with WhenDiskAbove has it")
    else:
        others = {"At": "at", "Days": "days", "By": "by", "Limit": "limit"}
        none = "a rule with WhenDiskAbove has none,"
        why = dict.fromkeys(("At", "Days"), f"{none} the disk says when")
        why |= {"By": f"{none} its key is OldestBy", "Limit": f"{none} its key is AtMost"}
    for key, field in others.items():
        if getattr(rule, field) != getattr(Rule(), field):
            raise SettingsError(f"{path}.{key}: {why[key]}")
    if rule.when_disk_above is None:
        return
    if rule.down_to is None:
        raise SettingsError(f"{path}.DownTo is missing: a rule with WhenDiskAbove needs it")
    if rule.undated is True:
        raise SettingsError(
            f'{path}.Undated: found true, allowed: false, "received": a rule with WhenDiskAbove never takes what may be '
            "younger than OlderThan"
        )
    above, down_to = disk_levels(rule)
    if above.is_percent != down_to.is_percent or down_to.amount >= above.amount:
        raise SettingsError(
            f'{path}.DownTo: found "{rule.down_to}", allowed: less than WhenDiskAbove ("{rule.when_disk_above}"), in the '
            "same unit: both in %, or both in bytes"
        )


def _check_proof(rule: Rule, path: str) -> None:
    if rule.proof != Rule().proof and not rule.only_if_at:
        raise SettingsError(f"{path}.Proof: only a rule with OnlyIfAt has it")


def check_settings(settings: Settings, configuration: Mapping[str, Any]) -> None:
    """Check what the types don't say. Raises `SettingsError`."""
    known = {*(configuration.get("UserMetadata") or {}), *KNOWN_METADATA}
    for name in settings.keep_metadata:
        if name not in known and not re.fullmatch("[0-9]{4,5}", name):
            allowed = ", ".join(sorted(known))
            raise SettingsError(f'{SECTION}.KeepMetadata: found "{name}", allowed: names from UserMetadata, {allowed}')
    for label in settings.keep_labels:
        if not is_label(label):
            raise SettingsError(f"{SECTION}.KeepLabels: found {json.dumps(label)}, allowed: letters, digits, - and _")
    names = [rule.name for rule in settings.rules]
    for number, rule in enumerate(settings.rules):
        path = f"{SECTION}.Rules[{number}]"
        for key, value in (
            ("Name", rule.name.strip()),
            ("OlderThan", rule.older_than),
            ("At", rule.at or rule.when_disk_above),
        ):
            if not value:
                raise SettingsError(f"{path}.{key} is missing: a rule needs Name, OlderThan and At (or WhenDiskAbove)")
        if names.count(rule.name) > 1:
            raise SettingsError(f'{path}.Name: found "{rule.name}" twice, allowed: a name of its own')
        if not all(isinstance(value, str) for value in rule.query.values()):
            raise SettingsError(f"{path}.Query: found {json.dumps(rule.query)}, allowed: {PARAMETERS['Query'].allowed}")
        _check_proof(rule, path)
        _check_space(rule, path)
        today = datetime.date.today()  # noqa: DTZ011 - days are the server's local ones
        try:
            last = rule_conditions(rule, today).last
        except Refused as refused:
            raise SettingsError(f"{path}: {refused.message}") from None
        by = rule.oldest_by if rule.when_disk_above else rule.by
        if by == "received" and (today - last).days < settings.keep_received_days:
            raise SettingsError(
                f'{path}.OlderThan: found "{rule.older_than}" by received, allowed: at least KeepReceivedDays '
                f"({settings.keep_received_days:g} days); or set a lower {SECTION}.KeepReceivedDays"
            )


def read_configuration(configuration: Mapping[str, Any]) -> Settings:
    """Return the settings. Raises `SettingsError` for what is wrong anywhere."""
    settings = read_settings(Settings, SECTION, configuration)
    check_settings(settings, configuration)
    named = {number: name for name, number in (configuration.get("UserMetadata") or {}).items()}
    kept = tuple(_as_orthanc_calls(each, named) for each in settings.keep_metadata)
    return dataclasses.replace(settings, keep_metadata=kept)


def _as_orthanc_calls(metadata: str, named: Mapping[int, str]) -> str:
    """Return how Orthanc calls a kind of metadata that is given by its name or number.

    By the number only if it has no name: `5000`, where UserMetadata has `"Keep": 5000`, would keep nothing.
    """
    return named.get(int(metadata), str(int(metadata))) if re.fullmatch("[0-9]{4,5}", metadata) else metadata


# ---- src/purge_old_studies/archive.py: The studies of this Orthanc: chosen, looked at again, and deleted.


WINDOW = 120  # studies looked at once more before they go; as one search it costs in proportion to the archive
SIZED = 30  # studies whose sizes are asked for at once: few, for they may have thousands of instances
PIECE = 500  # instances a request of a study that is larger than twice this, which alone would hold stores up


@dataclasses.dataclass(frozen=True)
class Choice:
    """The studies that are to be deleted, and how many others stay although they are meant, by the reason."""

    studies: Sequence[Study]
    undelivered: Mapping[str, int]
    size: float = 0  # bytes of the studies, where it was asked for


def in_order(studies: Iterable[Study], asked: Conditions) -> list[Study]:
    """Return studies, the oldest first, undated ones last."""
    # Of one day those that arrived first go first: they lie side by side in Orthanc's index, and go faster.
    return sorted(studies, key=lambda study: (study.day(asked.by) or datetime.date.max, study.received, study.id))


class Archive:
    """The studies of this Orthanc, by loopback HTTP: through the SDK what takes long would hold stores up."""

    def __init__(self, loopback: Loopback, settings: Settings, clock: Clock, elsewhere: Elsewhere) -> None:
        self._loopback, self._settings, self._clock = loopback, settings, clock
        self.index = Index(loopback, with_metadata=bool(settings.keep_metadata))
        self.undelivered = Undelivered(loopback, SCRIPTS_THAT_OWE if settings.keep_undelivered else ())
        self.elsewhere = elsewhere
        self._tells_protection = True  # until it says that it does not

    def chosen(self, asked: Conditions) -> Choice:
        """Return the studies that are to be deleted, the oldest first, undated ones last."""
        meant = self._meant(asked)
        # Not while a page is read: who is protected may be a call of the SDK, and would wait for the page.
        found, reasons = dict[str, Study](), Counter[str]()
        for start in range(0, len(meant), WINDOW):
            found |= {study.id: study for study in self._that_may_go(meant[start : start + WINDOW], reasons)}
        ordered = in_order(found.values(), asked)
        if asked.limit:
            ordered = self.elsewhere.in_turn(ordered, asked)[: asked.limit]
        return Choice(ordered, reasons)

    def oldest(self, asked: Conditions, most: int, size: float) -> Choice:
        """Return the oldest studies that may go, at most so many, and no more than free so many bytes.

        Guards are asked about the oldest only, some at a time: of an archive, nearly all may be meant. What has no size frees
        nothing, and stays.
        """
        meant, found, reasons, total = in_order(self._meant(asked), asked), list[Study](), Counter[str](), 0
        if asked.only_if_at:
            left = [study for study in meant if not self.elsewhere.has_lacked(study, asked)]
            where = ", ".join(asked.only_if_at)
            reasons.update({f"{where} did not prove to have them within the last hours": len(meant) - len(left)})
            meant, reasons = self.elsewhere.in_turn(left, asked), +reasons
        for start in range(0, len(meant), SIZED):
            if len(found) == most or total >= size:
                break
            some = self._that_may_go(meant[start : start + SIZED], reasons)
            sizes = self.index.sizes_of(some)
            for study in some:
                if len(found) < most and total < size and sizes.get(study.id):
                    found.append(study)
                    total += sizes[study.id]
        return Choice(found, reasons, total)

    def _meant(self, asked: Conditions) -> list[Study]:
        """Return the studies that the conditions name, whatever keeps them. Raises `Refused`: `OnlyIfAt` can't be asked."""
        self.elsewhere.destinations(asked.only_if_at)
        # Orthanc's index leaves out what is not ASCII, so that `?` misses letters with accents there; `is_meant` has all.
        query = {tag: value for tag, value in asked.query.items() if "?" not in value}
        if asked.by == "StudyDate" and not asked.undated:
            query["StudyDate"] = f"-{asked.last:%Y%m%d}"
        fitting = [study for study in map(self._study, self.index.matching(query)) if fits(study, asked)]
        meant = [study for study in fitting if not came_lately(study, asked)]
        if asked.received_until and (unknown := sum(not study.arrived for study in fitting)):
            orthanc.LogWarning(
                f"purge_old_studies: {unknown} studies stay, since Orthanc does not know when they came in"
            )
        return meant

    def _that_may_go(self, studies: Sequence[Study], reasons: Counter[str]) -> list[Study]:
        """Return the studies that no guard keeps; count in `reasons` those that are not delivered."""
        protection = self.protection(studies)
        some = [study for study in studies if not self.why_kept(study, protection)]
        undelivered = self.why_undelivered(some)
        reasons.update(undelivered.values())
        return [study for study in some if study.id not in undelivered]

    def again(self, studies: Sequence[tuple[str, str]]) -> dict[str, Study]:
        """Return what some studies, given by identifier and StudyInstanceUID, are now; those that are not there are left out.

        Over HTTP alone: a call of the SDK would wait for what is being deleted, and hold the interpreter meanwhile.
        """
        wanted, counts = [study for study, _ in studies], Counter[str]()
        if self.index.is_extended:
            # With regard to case, that is a sixth faster; UIDs have none. It is refused along with Since.
            query = {"StudyInstanceUID": "\\".join(uid for _, uid in studies)}
            found = self.index.search(self.index.find(query, CaseSensitive=True))
        else:
            found = self.index.content("Study", wanted)
            for series in self.index.content("Series", wanted):
                counts[series["ParentStudy"]] += len(series["Instances"])
        there = {each["ID"]: each for each in found}
        return {
            study: dataclasses.replace(self._study(there[study]), instances=counts[study])
            for study in wanted
            if study in there
        }

    def _study(self, found: Mapping[str, Any]) -> Study:
        metadata = found.get("Metadata", {})
        received = str(metadata.get("LastUpdate") or found.get("LastUpdate") or "")
        return Study(
            found["ID"],
            found["ParentPatient"],
            {**found.get("PatientMainDicomTags", {}), **found.get("MainDicomTags", {})},
            received,
            self._clock.arrival(received),
            frozenset(found.get("Labels", ())),
            frozenset(metadata),
            int(found.get("RequestedTags", {}).get("NumberOfStudyRelatedInstances") or 0),
        )

    def protection(self, studies: Iterable[Study]) -> dict[str, bool]:
        """Return whether the patients of some studies are protected, as far as one question shows; `why_kept` asks for others.

        Orthanc 1.13.0 shows it; there, asking for one patient at a time takes time in proportion to the archive.
        """
        patients = {study.tags.get("PatientID", "") for study in studies} - {""}
        asked = [patient for patient in patients if not re.search(r"[*?\\]", patient)]  # no wildcards, no lists
        if not (asked and self._tells_protection and self.index.is_extended):
            return {}
        find = {"Level": "Patient", "Query": {"PatientID": "\\".join(asked)}, "Expand": True, "CaseSensitive": True}
        try:
            found = self.index.search({**find, "ResponseContent": ["IsProtected"]})
        except LoopbackError as error:
            if error.status != http.HTTPStatus.BAD_REQUEST:
                raise
            self._tells_protection = False
            return {}
        return {each["ID"]: each["IsProtected"] for each in found}

    def why_kept(self, study: Study, protection: Mapping[str, bool]) -> str | None:
        """Return why this study is never purged, or None; `protection` as `protection` returns it."""
        if held := study.labels.intersection(self._settings.keep_labels):
            return f"it has the label {', '.join(sorted(held))}"
        if held := study.metadata.intersection(self._settings.keep_metadata):
            return f"it has the metadata {', '.join(sorted(held))}"
        is_protected = protection.get(study.patient)
        if is_protected is None:
            is_protected = bool(if_there(f"/patients/{study.patient}/protected"))
        if is_protected:
            return "its patient is protected"
        return None

    def why_undelivered(self, studies: Iterable[Study]) -> dict[str, str]:
        """Return why some of these studies stay since another script is not done with them."""
        return self.undelivered.why_kept({study.id: study.patient for study in studies})

    def proving(self, asked: Conditions) -> Proving:
        """Return what asks the destinations of `OnlyIfAt`, for one purge."""
        return Proving(self.elsewhere, self.index, asked)

    def delete_instances(
        self, studies: Mapping[str, Sequence[str]], who: Mapping[str, Any], stopping: Callable[[], bool]
    ) -> str | None:
        """Delete these instances of studies, and no other; what Orthanc says if it can't, else ""; None if stopped."""
        instances = [instance for some in studies.values() for instance in some]
        # With its last instance a study goes: whoever keeps a record is told who asked for that.
        report_request("POST", "/tools/bulk-delete", {"Resources": [*studies]}, asked_by(who))
        try:
            for start in range(0, len(instances), PIECE):
                if stopping():
                    return None
                self._bulk_delete(instances[start : start + PIECE], who)
        except LoopbackError as error:
            return one_line(error) or repr(error)
        return ""

    def delete(self, studies: Sequence[str], who: Mapping[str, Any]) -> dict[str, str]:
        """Delete some studies; those that are still there, with what Orthanc says. `who` asked for it."""
        try:
            self._bulk_delete(studies, who)
            return {}
        except LoopbackError:
            reasons = {study: self._delete_one(study, who) for study in studies}
            return {study: reason for study, reason in reasons.items() if reason}

    def _bulk_delete(self, resources: Sequence[str], who: Mapping[str, Any]) -> None:
        self._loopback.request_raw("POST", "/tools/bulk-delete", {"Resources": resources}, asked_by(who))

    def _delete_one(self, study: str, who: Mapping[str, Any]) -> str:
        try:
            self._loopback.request_raw("DELETE", f"/studies/{study}", headers=asked_by(who))
        except LoopbackError as error:
            return "" if error.status == 404 else one_line(error)  # 404: the batch had deleted it before it failed
        return ""

    def delete_in_pieces(self, study: str, who: Mapping[str, Any], stopping: Callable[[], bool]) -> bool:
        """Delete instances of a large study, until so many are left that it can go as a whole; False if stopped."""
        try:
            for series in self._loopback.get(f"/studies/{study}")["Series"]:
                instances = self._loopback.get(f"/series/{series}")["Instances"]
                for start in range(0, len(instances), PIECE):
                    if stopping():
                        return False
                    self._bulk_delete(instances[start : start + PIECE], who)
        except LoopbackError:
            pass  # deleting the whole study shows it
        return True


# ---- src/purge_old_studies/guards.py: Guards and rules that can never apply on this Orthanc: a person who counts on them must know.


def never_apply(settings: Settings, *, has_labels: bool, is_elsewhere: bool, version: str) -> list[str]:
    """Return what is configured and can never apply here, a line each.

    Parameters
    ----------
    is_elsewhere : a plugin keeps the files.
    """
    found = []
    no_labels = f"this Orthanc ({version}) has no labels, they came with 1.12.0"
    if settings.keep_labels and not has_labels:
        found.append(f"{SECTION}.KeepLabels keeps nothing here: {no_labels}")
    for number, rule in enumerate(settings.rules):
        path = f"{SECTION}.Rules[{number}]"
        if rule.labels and not has_labels:
            found.append(f"{path}.Labels: rule {rule.name} never runs here: {no_labels}")
        if is_elsewhere and rule.when_disk_above and disk_levels(rule)[0].is_percent:
            why = "a plugin keeps Orthanc's files elsewhere, of which no percentage is known. Allowed: a size such as 900GB"
            found.append(
                f'{path}.WhenDiskAbove: found "{rule.when_disk_above}": rule {rule.name} never runs here: {why}'
            )
    return found


def wrong_destinations(settings: Settings, elsewhere: Elsewhere) -> list[str]:
    """Return which rules can't run as long as Orthanc does not know their destinations, a line each."""
    found = []
    for number, rule in enumerate(settings.rules):
        try:
            elsewhere.destinations(rule.only_if_at)
        except Refused as refused:
            found.append(f"{SECTION}.Rules[{number}].{refused.message}. Until then rule {rule.name} does not run")
    return found


def warn_of_guards(settings: Settings, archive: Archive) -> None:
    """Log an ERROR for each guard or rule that can never apply here."""
    if not (settings.keep_labels or settings.rules):
        return
    index = archive.index
    try:
        lines = wrong_destinations(settings, archive.elsewhere)
        lines += never_apply(
            settings, has_labels=index.has_labels, is_elsewhere=index.is_elsewhere, version=index.version
        )
    except LoopbackError as error:
        orthanc.LogError(f"purge_old_studies can't tell whether its guards apply here: {one_line(error)}")
        return
    for line in lines:
        orthanc.LogError(f"purge_old_studies: {line}")


# ---- src/purge_old_studies/history.py: The record of what was purged, and of who asked for it.


# A whole line, and its purge. What a disk has spoilt is none.
LINE = re.compile(rb'\{.*?"Purge": (\d+|null)[,}].*\n\Z')


class CountByPurge(Counter[bytes]):
    """How many lines of a block there are of each purge."""

    def add(self, line: bytes) -> None:
        """Count a line."""
        if found := LINE.match(line):
            self[found[1]] += 1


class History:
    """The record of what was purged: a file of JSON lines, to which is only ever added. A line is there whole, or not at all."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path, self._lock = path, threading.Lock()
        # What was being written when the power failed is cut off: the ledger knows it, and it is written again.
        self._file = AppendOnly(path, synced=durable)
        self._index = LineIndex(path, CountByPurge)

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines, all or none. Raises OSError: the disk is full, or the like."""
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with self._lock:
            try:
                self._file.append(text)
            except OSError:
                self._index.forget()  # it may have seen lines that were cut off again
                raise

    def read_ahead(self) -> None:
        """Read what is there, so that nobody waits for it who asks for a page."""
        self._index.update()

    def lines_of(self, purge: int) -> Iterator[dict[str, Any]]:
        """Yield the lines of a purge; not one that a disk has spoilt: what can be read is shown, and a purge can end."""
        self._index.update()
        return (line for _, line in self._lines(0, purge))

    def page(self, since: int, limit: int, purge: int | None) -> dict[str, Any]:
        """Return the lines after number `since`, of all purges or of one."""
        self._index.update()
        found = [{"Number": number, **line} for number, line in itertools.islice(self._lines(since, purge), limit + 1)]
        items, key = found[:limit], _key(purge)
        counts = [block.summary for block in self._index.blocks()]
        total = sum(count.total() if key is None else count[key] for count in counts)
        return {"Total": total, "Items": items, "Next": items[-1]["Number"] if len(found) > limit else None}

    def _lines(self, since: int, purge: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
        key = _key(purge)
        for block in self._index.blocks():
            if since >= block.first + block.length - 1 or (key is not None and key not in block.summary):
                continue
            for number, line in self._index.lines(block):
                of_it = LINE.match(line) if number > since else None
                if of_it and key in (None, of_it[1]):
                    with contextlib.suppress(ValueError):
                        if isinstance(found := json.loads(line), dict):
                            yield number, found

    def close(self) -> None:
        self._file.close()


def _key(purge: int | None) -> bytes | None:
    return None if purge is None else str(purge).encode()


def now_utc() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: UP017


def who_asks(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return who is behind a request: its user, and where a proxy says that it comes from.

    The plugin does not give a script the address of a caller.
    """
    found: dict[str, Any] = {"User": user_of(headers.get("authorization", "")) or None}
    if forwarded := headers.get("x-forwarded-for") or headers.get("x-real-ip"):
        found["ForwardedFor"] = one_line(forwarded)[:200]
    return found


# ---- src/purge_old_studies/last_runs.py: When each rule ran last, and how it went: purges are forgotten after a while, this is not.


LAST_RUNS_TABLE = """
CREATE TABLE IF NOT EXISTS last_runs(rule TEXT PRIMARY KEY, time REAL NOT NULL, purge INTEGER, outcome TEXT NOT NULL)
    WITHOUT ROWID;
"""


class LastRuns:
    """The last run of each rule."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def began(self, rule: str, purge: int) -> None:
        """Write down that a purge of a rule has begun: inside the transaction that adds it."""
        self._put(rule, purge, {"State": "running"})

    def ended(self, rule: str, purge: int, **outcome: Any) -> None:
        """Write down how a purge of a rule ended, if that is still its last one."""
        sql = "UPDATE last_runs SET outcome=? WHERE rule=? AND purge=?"
        self._ledger.run(sql, json.dumps(outcome), rule, purge)

    def not_run(self, rule: str, reason: str) -> None:
        """Write down why a rule did not run at its time; what can't be written down is in the log."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self._put(rule, None, {"State": "not run", "Reason": reason})

    def of(self, rule: str) -> dict[str, Any] | None:
        """Return the last run of a rule as the status shows it, or None."""
        for row in self._ledger.rows("SELECT * FROM last_runs WHERE rule=?", rule):
            return {"Time": utc_time(row["time"]), "Purge": row["purge"], **json.loads(row["outcome"])}
        return None

    def _put(self, rule: str, purge: int | None, outcome: Any) -> None:
        sql = "INSERT OR REPLACE INTO last_runs VALUES(?,?,?,?)"
        self._ledger.run(sql, rule, time.time(), purge, json.dumps(outcome))


# ---- src/purge_old_studies/purge.py: One purge that is going on.


STALE = 0.5  # seconds; what was looked at longer ago is looked at again
BATCH = 100  # instances of the first request that deletes
# Seconds that one should take: a store in between waits for it. The fewer there are, the faster a purge, and the less others
# notice, for at the end of each much happens at once.
BATCH_SECONDS = 0.25
# A study of a purge is `waiting`, then `deleting` or, where that takes several requests, `pieces`; in the end `deleted`,
# `gone` (somebody else was quicker), `kept` (it does not fit any more) or `failed`.
UNFINISHED = ("waiting", "deleting", "pieces")
# What came of a batch: for each state the rows that are in it now, and why.
Outcome = dict[str, list[tuple[dict[str, Any], str]]]


class Purge:
    """One purge under way: each study is in the ledger before it is deleted, in the history before it counts as deleted."""

    def __init__(
        self, number: int, asked: Conditions, ledger: Ledger, history: History, archive: Archive, who: Any
    ) -> None:
        self.number, self._asked, self._who = number, asked, who
        self._ledger, self._history, self._archive = ledger, history, archive
        self.stopping = self.cancelled = False
        self.left = 0  # studies that it still has to delete, while it runs
        self.done = threading.Event()
        self._proving = archive.proving(asked)
        self._began, self._settled = time.monotonic(), 0
        # Instances a request; never so many that a study deleted in pieces shares one with others, which then counted as begun.
        self._at_once = float(min(BATCH, PIECE))

    @property
    def rate(self) -> float:
        """Studies a second, since this started."""
        return self._settled / max(time.monotonic() - self._began, 0.001)

    def run(self) -> str:
        """Delete what is still to go; the state that the purge is in then.

        One thing after the other: to look ahead meanwhile makes it no faster, and others wait longer.
        """
        self.complete_record()
        self.left = self._count("waiting")
        for settled in itertools.chain.from_iterable(map(self._window, self._windows())):
            for state, of_it in settled.items():
                self._settle(of_it, state)
            self.left -= sum(map(len, settled.values()))
        if self._halted() and self._count(*UNFINISHED):
            return "cancelled" if self.cancelled else "interrupted"
        return "partly" if self._count("kept", "failed") else "done"

    def _halted(self) -> bool:
        return self.stopping or self.cancelled

    def _windows(self) -> Iterator[list[dict[str, Any]]]:
        """Yield what waits, in the order of deletion: a purge may be of a million studies."""
        last = -1
        while not self._halted() and (rows := self._rows("waiting", after=last, limit=WINDOW)):
            yield rows
            last = rows[-1]["number"]

    def _rows(self, *states: str, after: int = -1, limit: int = -1) -> list[dict[str, Any]]:
        marks = ",".join("?" * len(states))
        sql = f"SELECT * FROM studies WHERE purge=? AND state IN ({marks}) AND number>? ORDER BY number LIMIT ?"
        rows = self._ledger.rows(sql, self.number, *states, after, limit)
        return [{**row, "facts": json.loads(row["facts"])} for row in rows]

    def _count(self, *states: str) -> int:
        marks = ",".join("?" * len(states))
        sql = f"SELECT COUNT(*) n FROM studies WHERE purge=? AND state IN ({marks})"
        return int(self._ledger.rows(sql, self.number, *states)[0]["n"])

    def _look(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Study]:
        """Return what the studies of some rows are now."""
        return self._archive.again([(row["study"], row["facts"]["StudyInstanceUID"]) for row in rows])

    def _window(self, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
        """Delete what still fits: since it was chosen it may be gone, or have grown, another date or protection."""
        looked_at, found = -math.inf, dict[str, Study]()
        while rows and not self._halted():
            if time.monotonic() - looked_at > STALE:
                looked_at, found = time.monotonic(), self._look(rows)
            studies = [found.get(row["study"]) for row in rows]
            length = batch_length(map(_instances, rows, studies), self._at_once)
            yield self._batch(list(zip(rows[:length], studies, strict=False)), looked_at)
            rows = rows[length:]

    def _batch(self, looked: list[tuple[dict[str, Any], Study | None]], looked_at: float) -> Outcome:
        """Delete of some rows those whose study still fits; what came of each."""
        outcome: Outcome = {"gone": [], "kept": []}
        batch, sizes = list[dict[str, Any]](), list[int]()
        studies = [study for _, study in looked if study is not None]
        unproved = self._proving.why_kept(studies, self._halted)  # first: it may take minutes
        if self._halted():
            return {}
        protection, undelivered = self._archive.protection(studies), self._archive.why_undelivered(studies)
        if time.monotonic() - looked_at > STALE:  # the questions took long
            found = self._look([row for row, study in looked if study is not None])
            looked = [(row, found.get(row["study"])) for row, _ in looked]
        for row, study in looked:
            if why := self._why_not(row, study, protection, {**unproved, **undelivered}):
                outcome[why[0]].append((row, why[1]))
            else:
                batch.append(row)
                sizes.append(_instances(row, study))
        if batch:
            began, large = time.monotonic(), sizes[0] > 2 * PIECE
            for state, of_it in self._delete(batch, large=large).items():
                outcome.setdefault(state, []).extend(of_it)
            if not large:
                fitting = sum(sizes) * BATCH_SECONDS / max(time.monotonic() - began, 0.001)
                self._at_once = min(max(fitting, self._at_once / 2), self._at_once * 2, PIECE)
        return outcome

    def _why_not(
        self,
        row: Mapping[str, Any],
        study: Study | None,
        protection: Mapping[str, bool],
        others: Mapping[str, str],
    ) -> tuple[str, str] | None:
        if study is None:
            if if_there(f"/studies/{row['study']}") is None:
                return "gone", "somebody else deleted it"
            return "kept", "it can't be looked at once more"
        if study.received != row["facts"]["LastUpdate"]:
            return "kept", "it has received something since it was chosen"
        if not is_meant(study, self._asked):
            return "kept", "it does not fit the conditions any more"
        reason = self._archive.why_kept(study, protection) or others.get(study.id)
        return ("kept", reason) if reason else None

    def _delete(self, rows: list[dict[str, Any]], *, large: bool) -> Outcome:
        self._mark(rows, "pieces" if large else "deleting")
        who = {**self._who, "Purge": self.number}
        if self._asked.only_if_at:
            return self._delete_proved(rows, who)
        if large:
            if not self._archive.delete_in_pieces(rows[0]["study"], who, lambda: self.stopping):
                return {}
            # That took a while, and the study with what has come in meanwhile would go now.
            study = self._look(rows).get(rows[0]["study"])
            if study is not None and study.received != rows[0]["facts"]["LastUpdate"]:
                return {"kept": [(rows[0], "it has received something while it was being deleted")]}
        left = self._archive.delete([row["study"] for row in rows], who)
        return {
            "deleted": [(row, "") for row in rows if row["study"] not in left],
            "failed": [(row, left[row["study"]]) for row in rows if row["study"] in left],
        }

    def _delete_proved(self, rows: list[dict[str, Any]], who: Mapping[str, Any]) -> Outcome:
        """Delete the instances that are proved to be elsewhere, and no other: one that has come in meanwhile stays."""
        proved = {row["study"]: self._proving.proved[row["study"]] for row in rows}
        _write_counts(self._ledger, rows, proved)  # a kill may leave half of one
        error = self._archive.delete_instances(proved, who, lambda: self.stopping)
        if error is None:
            return {}
        there = self._look(rows)
        left = [(row, error or "something came in while it was being deleted, and stays") for row in rows]
        return {
            "deleted": [(row, "") for row in rows if row["study"] not in there],
            "failed" if error else "kept": [each for each in left if each[0]["study"] in there],
        }

    def _mark(self, rows: list[dict[str, Any]], state: str, reason: str = "") -> None:
        sql = "UPDATE studies SET state=?,reason=? WHERE purge=? AND number IN (SELECT value FROM json_each(?))"
        self._ledger.run(sql, state, reason, self.number, json.dumps([row["number"] for row in rows]))

    def _settle(
        self, rows: list[tuple[dict[str, Any], str]], state: str, *, written: frozenset[str] = frozenset()
    ) -> None:
        """Write what came of studies: first where it stays, then in the ledger."""
        if not rows:
            return
        common = {"Time": now_utc(), "Purge": self.number, "Event": state}
        self._history.add(
            {**common, **_known(row), **({"Reason": why} if why else {}), **self._who}
            for row, why in rows
            if row["study"] not in written
        )
        self._settled += len(rows)
        for reason in {why for _, why in rows}:
            self._mark([row for row, why in rows if why == reason], state, reason)

    def complete_record(self) -> None:
        """Record what was being deleted when Orthanc was killed: gone, and perhaps not in the history yet; or still there."""
        if not (rows := self._rows("deleting", "pieces")):
            return
        written = frozenset(line["ID"] for line in self._history.lines_of(self.number) if "ID" in line)
        there = {row["study"] for row in rows if if_there(f"/studies/{row['study']}") is not None}
        self._settle([(row, "") for row in rows if row["study"] not in there], "deleted", written=written)
        whole = []
        for row in [row for row in rows if row["study"] in there]:
            if row["state"] == "pieces" or (self._asked.only_if_at and _has_lost_some(row)):
                self._finish_pieces(row)
            else:
                whole.append(row)
        self._mark(whole, "waiting")

    def _finish_pieces(self, row: dict[str, Any]) -> None:
        """Delete the rest of a study that was begun, unless it was received again: half a study is worse than none."""
        study = self._look([row]).get(row["study"])
        unproved = self._proving.why_kept([study] if study else [], lambda: self.stopping)
        if self.stopping:
            return
        undelivered = self._archive.why_undelivered([study] if study else [])
        if study is not None:
            study = self._look([row]).get(row["study"])  # the question may have taken long
        why = self._why_not(row, study, {}, {**unproved, **undelivered})
        if why is None:
            for state, of_it in self._delete([row], large=True).items():
                self._settle(of_it, state)
        elif why[0] == "kept":
            self._settle([(row, why[1])], "kept")


def batch_length(instances: Iterable[int], most: float) -> int:
    """Return how many studies with so many instances, from the first on, fit a request of `most`; a larger one is alone."""
    together = list(itertools.takewhile(lambda total: total <= most, itertools.accumulate(instances)))
    return max(1, len(together))


def _instances(row: Mapping[str, Any], study: Study | None) -> int:
    """Return how many a study has, counted now or when it was chosen (none came since); else `PIECE`: it is alone."""
    return (study.instances if study else 0) or row["facts"].get("Instances") or PIECE


def _write_counts(ledger: Ledger, rows: Iterable[Mapping[str, Any]], instances: Mapping[str, Sequence[str]]) -> None:
    """Write down how many instances studies have whose deletion begins now."""
    sql = "UPDATE studies SET facts=json_set(facts,'$.Instances',?) WHERE purge=? AND number=?"
    with ledger.transaction() as db:
        db.executemany(sql, [(len(instances[row["study"]]), row["purge"], row["number"]) for row in rows])


def _has_lost_some(row: Mapping[str, Any]) -> bool:
    """Return whether a study has fewer instances than when its deletion began, one instance after the other."""
    before = row["facts"].get("Instances") or 0
    return before > 1 and int((if_there(f"/studies/{row['study']}/statistics") or {}).get("CountInstances", 0)) < before


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"ID": row["study"], **{name: value for name, value in row["facts"].items() if name in IDENTIFIERS}}


# ---- src/purge_old_studies/jobs.py: The purges in the ledger, to look at.


LISTED = 1000  # studies that an answer names at most
TABLES = f"""{CLOCK_TABLES}{LAST_RUNS_TABLE}
CREATE TABLE IF NOT EXISTS purges(id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, continues INTEGER NOT NULL,
    asked TEXT NOT NULL, conditions TEXT NOT NULL, created REAL NOT NULL, ended REAL);
CREATE TABLE IF NOT EXISTS studies(purge INTEGER NOT NULL, number INTEGER NOT NULL, study TEXT NOT NULL,
    facts TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY(purge, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS studies_by_state ON studies(purge, state);
CREATE TABLE IF NOT EXISTS runs(rule TEXT NOT NULL, day TEXT NOT NULL, PRIMARY KEY(rule, day));
CREATE INDEX IF NOT EXISTS purges_by_end ON purges(ended);
CREATE TABLE IF NOT EXISTS undelivered(purge INTEGER NOT NULL, reason TEXT NOT NULL, studies INTEGER NOT NULL,
    PRIMARY KEY(purge, reason)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS undelivered_goes AFTER DELETE ON purges BEGIN
    DELETE FROM undelivered WHERE purge=old.id;
END;
"""
# Of what ended before some time: first the studies of each purge, few at a time, then the purge.
FORGET_STUDIES = """
DELETE FROM studies WHERE (purge, number) IN (
    SELECT s.purge, s.number FROM purges p JOIN studies s ON s.purge=p.id WHERE p.ended<? LIMIT ?)
"""
FORGET_PURGES = """
DELETE FROM purges WHERE id IN (
    SELECT id FROM purges p WHERE ended<? AND NOT EXISTS (SELECT 1 FROM studies WHERE purge=p.id) ORDER BY ended LIMIT ?)
"""
FINISHED = ("deleted", "gone", "kept", "failed")


class Jobs:
    """What the ledger knows of each purge."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def row(self, number: int) -> dict[str, Any]:
        """Return the row of a purge. Raises `Refused` (404)."""
        rows = self._ledger.rows("SELECT * FROM purges WHERE id=?", number)
        if not rows:
            raise Refused(404, "There is no such purge; /purge-old-studies/jobs lists them")
        found: dict[str, Any] = rows[0]
        return found

    def as_json(self, row: Mapping[str, Any], rate: float = 0.0) -> dict[str, Any]:
        """Return a purge as the routes show it."""
        sql = "SELECT state, COUNT(*) n FROM studies WHERE purge=? GROUP BY state"
        counts = Counter({each["state"]: each["n"] for each in self._ledger.rows(sql, row["id"])})
        total, remaining = counts.total(), sum(counts[state] for state in UNFINISHED)
        return {
            "ID": row["id"],
            "State": row["state"],
            "Asynchronous": bool(row["continues"]),
            "Progress": 100 if not total else (total - remaining) * 100 // total,
            "Studies": total,
            **{state.capitalize(): counts[state] for state in FINISHED},
            "Remaining": remaining,
            "Undelivered": self.undelivered(row["id"]),
            "Rate": round(rate, 1),
            "Conditions": json.loads(row["conditions"]),
            "Created": utc_time(row["created"]),
            "Ended": utc_time(row["ended"]),
            **json.loads(row["asked"]),
        }

    def undelivered(self, number: int) -> dict[str, int]:
        """Return how many studies were not chosen for a purge because they are not delivered, by the reason."""
        rows = self._ledger.rows("SELECT reason, studies FROM undelivered WHERE purge=?", number)
        return {row["reason"]: row["studies"] for row in rows}

    def studies(self, number: int, *states: str) -> list[dict[str, Any]]:
        """Return the first studies of a purge in some states."""
        marks = ",".join("?" * len(states))
        sql = f"SELECT * FROM studies WHERE purge=? AND state IN ({marks}) ORDER BY number LIMIT {LISTED}"
        rows = self._ledger.rows(sql, number, *states)
        return [{"ID": row["study"], "State": row["state"], "Reason": row["reason"]} for row in rows]

    def page(self, since: int, limit: int) -> tuple[list[dict[str, Any]], int, bool]:
        """Return the rows after a number, how many purges there are in all, and whether more follow."""
        rows = self._ledger.rows("SELECT * FROM purges WHERE id>? ORDER BY id LIMIT ?", since, limit + 1)
        total = self._ledger.rows("SELECT COUNT(*) n FROM purges")[0]["n"]
        return rows[:limit], total, len(rows) > limit

    def unfinished(self) -> list[dict[str, Any]]:
        """Return the rows of purges that a stop or a kill left behind."""
        found: list[dict[str, Any]] = self._ledger.rows(
            "SELECT * FROM purges WHERE state IN ('running','cancelled') AND ended IS NULL"
        )
        return found

    def totals(self) -> dict[str, Any]:
        """Return how many purges there are in each state, and how many studies they deleted."""
        counts = self._ledger.rows("SELECT state, COUNT(*) n FROM purges GROUP BY state")
        deleted = self._ledger.rows("SELECT COUNT(*) n FROM studies WHERE state='deleted'")[0]["n"]
        return {"Purges": {row["state"]: row["n"] for row in counts}, "Deleted": deleted}

    def deleted_by_rules(self, rules: Sequence[str], since: float) -> int:
        """Return how many studies the purges of these rules have deleted that ended after a time."""
        found: int = self._ledger.rows(
            "SELECT COUNT(*) n FROM purges p JOIN studies s ON s.purge=p.id AND s.state='deleted' "
            "WHERE p.ended>? AND json_extract(p.asked, '$.Rule') IN (SELECT value FROM json_each(?))",
            since,
            json.dumps(rules),
        )[0]["n"]
        return found

    def forget_some(self, before: float) -> bool:
        """Forget some of what ended before a time; return whether there may be more of it."""
        some: int = self._ledger.run(FORGET_STUDIES, before, FORGOTTEN_AT_ONCE)
        if some < FORGOTTEN_AT_ONCE:
            some += self._ledger.run(FORGET_PURGES, before, FORGOTTEN_AT_ONCE)
        return some >= FORGOTTEN_AT_ONCE


# ---- src/purge_old_studies/runner.py: Purges from their choice to their end: one at a time, each in a thread of its own.


AFTER_ERROR = 2.0  # seconds until the next try when Orthanc does not answer


class Runner:
    """One purge at a time, remembered until it has ended. Whoever begins one holds `busy`, which its end releases."""

    def __init__(self, settings: Settings, ledger: Ledger, history: History, archive: Archive) -> None:
        self._settings, self._ledger, self._history, self._archive = settings, ledger, history, archive
        self._jobs, self.last_runs = Jobs(ledger), LastRuns(ledger)
        self.busy, self.stopping = threading.Lock(), threading.Event()
        self.current: Purge | None = None
        self.last_totals: dict[str, int] = {}  # of the purge that ended last, since the start
        self._threads: list[threading.Thread] = []

    # From start to stop

    def start(self) -> None:
        """Go on with what a stop or a kill left behind."""
        if unfinished := self._jobs.unfinished():
            self.busy.acquire()
            self.thread(lambda: self._go_on(unfinished), "purge-goes-on")

    def thread(self, target: Callable[[], object], name: str) -> None:
        """Start a thread that `stop` waits for."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()  # before `stop` can see it: one that has not begun can't be waited for
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]

    def stop(self) -> None:
        """End all threads, within two seconds."""
        self.stopping.set()
        if purge := self.current:
            purge.stopping = True
        deadline = time.monotonic() + 2
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def rate(self, number: int) -> float:
        """Return the studies a second of a purge that is going on; 0 for any other."""
        purge = self.current
        return purge.rate if purge and purge.number == number else 0.0

    # A purge, from choice to end

    def begin(
        self,
        asked: Conditions,
        who: Mapping[str, Any],
        *,
        force: bool,
        continues: bool,
        choice: Choice | None = None,
    ) -> Purge:
        """Choose, unless that is done, write down, and start; called with `busy`.

        `busy` is released when all is done or something raises.
        """
        try:
            if self.stopping.is_set():
                raise Refused(503, "Orthanc is stopping")
            choice = choice or self._archive.chosen(asked)
            for reason, count in choice.undelivered.items():
                orthanc.LogWarning(f"purge_old_studies: {in_words(count, reason)}")
            if not force and (refusal := self.too_many(len(choice.studies))):
                self.tell("refused", None, who, Reason=refusal, Conditions=asked.as_json())
                raise Refused(403, f"{refusal}; force=true does it nevertheless")
            number = self._write_down(asked, who, choice, continues=continues)
            purge = self.current = Purge(number, asked, self._ledger, self._history, self._archive, who)
            self.thread(lambda: self._run_one(purge), f"purge-{number}")
            return purge
        except LoopbackError as error:
            self.busy.release()
            raise Refused(503, f"Orthanc does not tell which studies these are: {error}") from None
        except BaseException:
            self.current = None
            self.busy.release()
            raise

    def tell(self, event: str, number: int | None, who: Mapping[str, Any], **more: Any) -> None:
        self._history.add([{"Time": now_utc(), "Purge": number, "Event": event, **more, **who}])

    def too_many(self, count: int) -> str | None:
        """Return why a purge of so many studies is refused without `force`, or None."""
        most, percent = self._settings.max_studies, self._settings.max_percent
        if most and count > most:
            return f"{count} studies would go, more than MaxStudies ({most})"
        if percent and count * 100 > percent * (total := self._archive.index.count()):
            return f"{count} of {total} studies would go, more than MaxPercent ({percent:g})"
        return None

    def _write_down(self, asked: Conditions, who: Any, choice: Choice, *, continues: bool) -> int:
        """Write down what is to go; the purge's number."""
        with self._ledger.transaction() as db:
            sql = "INSERT INTO purges VALUES(NULL,'running',?,?,?,?,NULL)"
            values = (continues, json.dumps(who), json.dumps(asked.as_json()), time.time())
            number = int(db.execute(sql, values).lastrowid or 0)
            rows = ((number, index, study.id, json.dumps(facts(study))) for index, study in enumerate(choice.studies))
            db.executemany("INSERT INTO studies VALUES(?,?,?,?,'waiting','')", rows)
            stay = [(number, reason, count) for reason, count in choice.undelivered.items()]
            db.executemany("INSERT INTO undelivered VALUES(?,?,?)", stay)
            if who["Rule"] is not None:
                self.last_runs.began(who["Rule"], number)
            more = {"Undelivered": dict(choice.undelivered)} if stay else {}
            # Before that is committed: a purge that is refused, for a full disk, must not go on at the next start.
            self.tell("started", number, who, Studies=len(choice.studies), **more, Conditions=asked.as_json())
        return number

    def _run_one(self, purge: Purge) -> None:
        try:
            self._run(purge)
        finally:
            self.current = None
            self.busy.release()
            purge.done.set()

    def _run(self, purge: Purge) -> None:
        try:
            state = self._patiently(purge)
        except Exception:  # noqa: BLE001 - whatever it was: nothing more is deleted, and it is logged
            state = "interrupted"
            orthanc.LogError(f"purge_old_studies: purge {purge.number} was interrupted:\n{traceback.format_exc()}")
        row = self._jobs.row(purge.number)
        if state == "interrupted" and self.stopping.is_set() and row["continues"]:
            return  # the next start continues it
        try:
            purge.complete_record()  # where something was raised: a batch that was deleted meanwhile
            self._end(purge.number, state)
        except (OSError, sqlite3.Error, LoopbackError, orthanc.OrthancException) as error:
            # It counts as going on: the next start completes its record.
            what = f"the end of purge {purge.number} can't be written down"
            orthanc.LogError(f"purge_old_studies: {what}: {one_line(error)}")

    def _patiently(self, purge: Purge) -> str:
        """Run a purge; where Orthanc did not answer, from where it stopped, ten times in all."""
        for _ in range(9):
            try:
                return purge.run()
            except LoopbackError as error:
                orthanc.LogError(f"purge_old_studies: purge {purge.number} waits: {one_line(error)}")
                if self.stopping.wait(AFTER_ERROR):
                    return "interrupted"
        return purge.run()

    def _end(self, number: int, state: str) -> None:
        found = self._jobs.as_json(self._jobs.row(number))
        totals = {name: found[name] for name in ("Deleted", "Gone", "Kept", "Failed", "Remaining")}
        who = json.loads(self._jobs.row(number)["asked"])
        self.last_totals = totals
        self.tell("ended", number, who, State=state, **totals)
        if who["Rule"] is not None:
            self.last_runs.ended(who["Rule"], number, State=state, **totals)
        self._ledger.run("UPDATE purges SET state=?,ended=? WHERE id=?", state, time.time(), number)
        orthanc.LogWarning(
            f"purge_old_studies: purge {number} is {state}: " + ", ".join(f"{k} {v}" for k, v in totals.items())
        )

    def _is_still_wanted(self, row: Mapping[str, Any], asked: Conditions) -> bool:
        """Return whether the rule that began a purge still says so: who took it out, or narrowed it, has stopped the purge."""
        if (name := json.loads(row["asked"]).get("Rule")) is None:
            return True
        rule = next((rule for rule in self._settings.rules if rule.name == name), None)
        if rule is not None and rule.when_disk_above:
            return False  # there may be room again: the next look at the disk chooses anew
        if rule is not None:
            now = rule_conditions(rule, datetime.date.today())  # noqa: DTZ011 - days are the server's local ones
            same = dataclasses.replace(now, last=asked.last, received_until=asked.received_until)
            if same == asked and asked.last <= now.last:
                return True
        orthanc.LogWarning(
            f"purge_old_studies: purge {row['id']} does not go on: its rule {one_line(name)} is not in the configuration "
            "any more, or says something else"
        )
        return False

    def _go_on(self, rows: list[dict[str, Any]]) -> None:
        """Continue, after a restart, what was asynchronous, or of a rule that still says so; complete the record of others."""
        try:
            self._archive.undelivered.wait_for_answers(self.stopping)
            for row in rows:
                asked = Conditions.from_json(row["conditions"])
                purge = Purge(row["id"], asked, self._ledger, self._history, self._archive, json.loads(row["asked"]))
                purge.cancelled = row["state"] == "cancelled"
                purge.stopping = self.stopping.is_set()
                self.current = purge
                if purge.cancelled or (row["continues"] and self._is_still_wanted(row, asked)):
                    self._run(purge)
                else:
                    purge.complete_record()
                    self._end(row["id"], "interrupted")
        except Exception:  # noqa: BLE001 - what is not ended now is looked at again at the next start
            orthanc.LogError(f"purge_old_studies can't go on now:\n{traceback.format_exc()}")
        finally:
            self.current = None
            self.busy.release()


# ---- src/purge_old_studies/summary.py: What a dry run answers.


LATELY_DAYS = 7  # what came in within these is named


def summary(index: Index, studies: Sequence[Study], asked: Conditions, now: float) -> dict[str, Any]:
    """Return what a dry run answers: what would go, and how much of that came in lately, before `now` (a POSIX time)."""
    lately = received_until(LATELY_DAYS, now)
    years = Counter(str(day.year) if (day := study.day(asked.by)) else "undated" for study in studies)
    modalities: Counter[str] = Counter()
    size = 0
    for start in range(0, len(studies), WINDOW):
        window = {study.id: study for study in studies[start : start + WINDOW]}
        of_each: dict[str, set[str]] = {}
        for series in index.children("Series", window.values(), ["MainDicomTags", "Parent"]):
            of_each.setdefault(series["ParentStudy"], set()).add(series["MainDicomTags"].get("Modality", "") or "none")
        modalities.update(modality for study, found in of_each.items() if study in window for modality in found)
        size += sum(index.sizes_of(window.values()).values())
    ends = [identifiers(study) for study in studies[:: max(1, len(studies) - 1)][:2]]
    return {
        "DryRun": True,
        "Since": f"{asked.last:%Y%m%d}",
        "Studies": len(studies),
        **({"OnlyIfAt": list(asked.only_if_at)} if asked.only_if_at else {}),
        f"ReceivedWithin{LATELY_DAYS}Days": sum(study.arrived > lately for study in studies),
        "Bytes": size,
        "Years": dict(sorted(years.items())),
        "Modalities": dict(sorted(modalities.items())),
        "First": ends[0] if ends else None,
        "Last": ends[-1] if ends else None,
    }


# ---- src/purge_old_studies/space.py: The rules by space: while the disk is too full, the oldest studies go.


HOUR_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a rule would do now: how full it is, what is to go, and why, or why nothing is."""

    fill: Fill
    need: float  # bytes to go until DownTo; 0: nothing has to
    asked: Conditions
    choice: Choice
    why: str


class SpaceRules:
    """Looks at the disk now and then, and frees room by the rules with `WhenDiskAbove`, one after the other.

    What has gone is measured before more is taken, at the next look.
    """

    def __init__(
        self, settings: Settings, jobs: Jobs, clock: Clock, archive: Archive, runner: Runner, disk: Disk
    ) -> None:
        self._settings, self._jobs, self._clock = settings, jobs, clock
        self._archive, self._runner, self._disk = archive, runner, disk
        self._rules = [rule for rule in settings.rules if rule.when_disk_above]
        self._next_look: float | None = None
        self._freeing = set[str]()  # rules that go on until DownTo
        self._before: dict[str, tuple[Fill, float]] = {}  # how full it was when they began, and bytes that went since
        self._stuck: dict[str, str] = {}  # rules that can't free what they should, and why
        self._seen: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Look again and again, until Orthanc stops."""
        if self._rules:
            self._archive.undelivered.wait_for_answers(self._runner.stopping)
        while self._rules and not self._runner.stopping.is_set():
            for rule in self._rules:
                if not self._runner.stopping.is_set():
                    self._look_unless_it_fails(rule)
            self._next_look = time.time() + self._settings.disk_look_seconds
            self._runner.stopping.wait(self._settings.disk_look_seconds)

    def status(self, rule: Rule) -> dict[str, Any]:
        """Return when the disk is looked at next, and what the last look found."""
        return {"Next": utc_time(self._next_look), "Disk": self._seen.get(rule.name)}

    @property
    def stuck(self) -> int:
        """How many rules can't free what they should."""
        return len(self._stuck)

    def dry_run(self, rule: Rule) -> dict[str, Any]:
        """Return what the rule would delete if it looked at the disk now, and why.

        Raises
        ------
        OSError, LoopbackError : that can't be known now.
        """
        reading = self._clock.read()
        plan = self._plan(rule, reading)
        content = summary(self._archive.index, plan.choice.studies, plan.asked, reading.earliest)
        if plan.choice.undelivered:
            content["Undelivered"] = dict(plan.choice.undelivered)
        return {**content, "Rule": rule.name, "Disk": self._shown(rule, plan), "Why": reading.doubt or plan.why}

    def _look_unless_it_fails(self, rule: Rule) -> None:
        try:
            self._look(rule)
        except (Refused, LoopbackError, OSError, sqlite3.Error, orthanc.OrthancException) as error:
            self._is_stuck(rule, one_line(error))
        except Exception:  # noqa: BLE001 - no fault of one look ends the thread that frees room
            orthanc.LogError(f"purge_old_studies: rule {rule.name} was not run:\n{traceback.format_exc()}")
            self._runner.last_runs.not_run(rule.name, "an error, please report it: see the log")

    def _look(self, rule: Rule) -> None:
        while not self._runner.busy.acquire(timeout=1):
            if self._runner.stopping.is_set():
                return
        try:
            reading = self._clock.read()
            plan = self._plan(rule, reading)
            self._seen[rule.name] = self._shown(rule, plan)
            if not plan.need:
                self._freeing.discard(rule.name)
                self._before.pop(rule.name, None)
                self._is_stuck(rule, "")
                self._runner.busy.release()
                return
            self._freeing.add(rule.name)
            if why := self._archive.elsewhere.why_silent(plan.asked.only_if_at):
                raise Refused(409, why)  # else each look would write down that it keeps the same studies
            if not plan.choice.studies:  # so it is while the clock is doubted
                raise Refused(409, reading.doubt or plan.why)
        except BaseException:
            self._runner.busy.release()
            raise
        who = {"User": None, "Rule": rule.name, "Because": plan.why}
        purge = self._runner.begin(plan.asked, who, force=False, continues=True, choice=plan.choice)
        purge.done.wait()
        self._note_what_went(rule, plan)
        left = self._disk.fill(in_percent=plan.fill.level.is_percent)
        self._seen[rule.name] = self._shown(rule, dataclasses.replace(plan, fill=left))
        if left.above(disk_levels(rule)[1]) <= 0:
            self._freeing.discard(rule.name)
        self._is_stuck(rule, "")

    def _note_what_went(self, rule: Rule, plan: Plan) -> None:
        before, gone = self._before.get(rule.name, (plan.fill, 0.0))
        deleted = (self._runner.last_runs.of(rule.name) or {}).get("Deleted", 0)
        self._before[rule.name] = before, gone + plan.choice.size * deleted / len(plan.choice.studies)

    def _plan(self, rule: Rule, reading: Reading) -> Plan:
        above, down_to = disk_levels(rule)
        if above.is_percent and self._archive.index.is_elsewhere:
            raise Refused(409, "a plugin keeps Orthanc's files elsewhere, of which no percentage is known")
        fill = self._disk.fill(in_percent=above.is_percent)
        if why := fill.contradiction(*self._before.get(rule.name, (None, 0.0))):
            raise Refused(409, why)
        asked = dataclasses.replace(
            rule_conditions(
                rule,
                local_day(reading.earliest),
                has_labels=not rule.labels or self._archive.index.has_labels,
            ),
            received_until=received_until(self._settings.keep_received_days, reading.earliest),
        )
        what = "the file system is full to" if above.is_percent else "the archive holds"
        if fill.above(above) <= 0 and not (rule.name in self._freeing and fill.above(down_to) > 0):
            return Plan(fill, 0, asked, Choice([], {}), f"{what} {fill.level}, not above {above}")
        need, why = fill.above(down_to), f"{what} {fill.level}, above {above}: down to {down_to}"
        most, limited = self._most(rule)
        choice = self._archive.oldest(asked, most, need) if most and not reading.doubt else Choice([], {})
        if not choice.studies:
            stay = "".join(f"; {count} stay: {reason}" for reason, count in choice.undelivered.items())
            why = f"{why}, but {limited or f'nothing older than {rule.older_than} may go'}{stay}"
        return Plan(fill, need, asked, choice, why)

    def _most(self, rule: Rule) -> tuple[int, str]:
        """Return how many studies may go now, and why none may, if so: MaxStudies and MaxPercent hold for an hour."""
        most, settings = rule.at_most, self._settings
        if not (settings.max_studies or settings.max_percent):
            return most, ""
        names = [each.name for each in self._rules]
        gone = self._jobs.deleted_by_rules(names, time.time() - HOUR_SECONDS)
        if settings.max_studies:
            most = min(most, settings.max_studies - gone)
        if settings.max_percent:
            there = self._archive.index.count()
            by_percent = int((there + gone) * settings.max_percent / 100) - gone
            most = min(most, by_percent, int(there * settings.max_percent / 100))
        return max(most, 0), "" if most > 0 else "MaxStudies or MaxPercent lets no more go within an hour"

    def _is_stuck(self, rule: Rule, why: str) -> None:
        """Say once when a rule can't free what it should, and once when that is over."""
        if why:
            self._runner.last_runs.not_run(rule.name, why)
            if rule.name not in self._stuck:
                orthanc.LogWarning(f"purge_old_studies: rule {rule.name} frees nothing: {why}")
            self._stuck[rule.name] = why
        elif self._stuck.pop(rule.name, None):
            orthanc.LogWarning(f"purge_old_studies: rule {rule.name} frees room again, or need not any more")

    def _shown(self, rule: Rule, plan: Plan) -> dict[str, Any]:
        above, down_to = disk_levels(rule)
        return {
            "Used": str(plan.fill.level),
            "Above": str(above),
            "DownTo": str(down_to),
            "BytesToGo": max(0, int(plan.fill.above(down_to))) if plan.need else 0,
            "Why": plan.why,
        }


# ---- src/purge_old_studies/measures.py: What the script adds to Orthanc's metrics.


class Measures:
    """Reads its numbers from memory, and asks the file system how much room there is."""

    def __init__(self, runner: Runner, clock: Clock, space: SpaceRules, disk: Disk, archive: Archive) -> None:
        self._runner, self._clock, self._space, self._disk = runner, clock, space, disk
        self._index = archive.index

    def measure(self) -> dict[str, float]:
        """Return the metrics; of the disk none where a plugin keeps Orthanc's files elsewhere."""
        current, ended = self._runner.current, self._runner.last_totals
        found: dict[str, float] = {
            "remaining": current.left if current else ended.get("Remaining", 0),
            **{state.lower(): ended.get(state, 0) for state in ("Deleted", "Gone", "Kept", "Failed")},
            "clock_doubted": bool(self._clock.read().doubt),
            "rules_stuck": self._space.stuck,
        }
        room = None if self._index.is_elsewhere else self._disk.room()
        return {**found, "room_bytes": room[0], "disk_used_percent": room[1]} if room else found


# ---- src/purge_old_studies/schedule.py: The rules: when each is due, and its run.


LOOK_SECONDS = 20.0  # between two looks at the clock
CLOCK_JUMP = 600.0  # seconds; a clock set further ahead than this starts no rule


def is_due(rule: Rule, before: datetime.datetime, now: datetime.datetime) -> bool:
    """Return whether the time of the rule passed after `before`, until `now` (local times without a zone, as clocks on walls)."""
    return any(before < moment <= now for moment in _moments(rule, before.date(), now.date()))


def seconds_until(rules: Iterable[Rule], now: datetime.datetime) -> float:
    """Return the seconds until the next time of any of the rules, by the clock on the wall."""
    moments = [moment for rule in rules for moment in _moments(rule, now.date(), now.date() + datetime.timedelta(7))]
    return min(((moment - now).total_seconds() for moment in moments if moment > now), default=86400.0)


def _moments(rule: Rule, first: datetime.date, last: datetime.date) -> list[datetime.datetime]:
    days = (first + datetime.timedelta(number) for number in range((last - first).days + 1))
    at = datetime.time.fromisoformat(rule.at)
    return [datetime.datetime.combine(day, at) for day in days if DAYS[day.weekday()] in rule.days]


class Schedule:
    """Runs each rule when its time passes while this runs: what was missed while down waits for its next time."""

    def __init__(self, settings: Settings, ledger: Ledger, clock: Clock, archive: Archive, runner: Runner) -> None:
        self._settings, self._rules = settings, [rule for rule in settings.rules if rule.at]
        self._ledger, self._clock, self._archive, self._runner = ledger, clock, archive, runner

    def run(self) -> None:
        """Look at the clock, and run the rules whose time has passed, until Orthanc stops."""
        reading, ticks = self._clock.record(), time.monotonic()
        before = _local(reading)
        while not self._runner.stopping.wait(min(LOOK_SECONDS, max(0.05, seconds_until(self._rules, before)))):
            last, reading = reading, self._clock.record()
            now, ahead = _local(reading), (reading.now - last.now) - (time.monotonic() - ticks)
            due = [rule for rule in self._rules if is_due(rule, before, now)]
            if due and ahead > CLOCK_JUMP:
                # Every age is counted from this clock; a machine that has slept is the same: the run was missed.
                names = ", ".join(rule.name for rule in due)
                orthanc.LogError(f"purge_old_studies: the clock went {ahead:.0f} s ahead; not run this time: {names}")
                for rule in due:
                    self._runner.last_runs.not_run(rule.name, f"the clock went {ahead:.0f} s ahead")
                due = []
            before, ticks = now, time.monotonic()
            for rule in due:
                try:
                    self._run_rule(rule, now.date())
                except Exception:  # noqa: BLE001 - no fault of one run ends the thread that serves all rules
                    orthanc.LogError(f"purge_old_studies: rule {rule.name} was not run:\n{traceback.format_exc()}")
                    self._runner.last_runs.not_run(rule.name, "an error, please report it: see the log")

    def next_run(self, rule: Rule) -> float | None:
        """Return when a rule runs next, in seconds since 1970; None: not while the clock is doubted."""
        reading = self._clock.read()
        return None if reading.doubt else reading.now + seconds_until([rule], _local(reading))

    def _run_rule(self, rule: Rule, today: datetime.date) -> None:
        while not self._runner.busy.acquire(timeout=1):
            if self._runner.stopping.is_set():
                return
            self._clock.record()
        reading = self._clock.read()  # now: another purge may have gone on for long
        try:
            if reading.doubt:
                raise Refused(409, reading.doubt)
            if not self._ledger.run("INSERT OR IGNORE INTO runs VALUES(?,?)", rule.name, f"{today:%Y%m%d}"):
                self._runner.busy.release()
                return  # it ran on this day already: the clock was set back, or the hour comes twice
            asked = self._conditions(rule, today, reading)
        except (Refused, LoopbackError, OSError, sqlite3.Error) as error:
            self._runner.busy.release()
            orthanc.LogError(f"purge_old_studies: rule {rule.name} does not run: {one_line(error)}")
            self._runner.last_runs.not_run(rule.name, one_line(error))
            return
        except BaseException:
            self._runner.busy.release()
            raise
        try:
            purge = self._runner.begin(asked, {"User": None, "Rule": rule.name}, force=False, continues=True)
        except (Refused, LoopbackError, OSError, sqlite3.Error, orthanc.OrthancException) as error:
            orthanc.LogError(f"purge_old_studies: rule {rule.name} does not run this time: {one_line(error)}")
            self._runner.last_runs.not_run(rule.name, one_line(error))
            return
        while not purge.done.wait(LOOK_SECONDS):
            self._clock.record()

    def _conditions(self, rule: Rule, today: datetime.date, reading: Reading) -> Conditions:
        asked = rule_conditions(rule, today, has_labels=not rule.labels or self._archive.index.has_labels)
        until = received_until(self._settings.keep_received_days, reading.now)
        return dataclasses.replace(asked, received_until=until)


def _local(reading: Reading) -> datetime.datetime:
    """Return what the clock on the wall says, without a zone."""
    return datetime.datetime.fromtimestamp(reading.now)  # noqa: DTZ006 - rules are written in local times


# ---- src/purge_old_studies/rules.py: What there is to see of the rules: the last run, the next one, and what that would delete.


BY_TIME, BY_SPACE = {"At", "Days", "By", "Limit"}, {"WhenDiskAbove", "DownTo", "OldestBy", "AtMost"}


def conditions_shown(rule: Rule) -> dict[str, Any]:
    """Return what a rule deletes, by the keys of the configuration: those that mean something for this rule."""
    found = {key_of(field): getattr(rule, field.name) for field in dataclasses.fields(rule)}
    others = {"Name", *(BY_TIME if rule.when_disk_above else BY_SPACE)}
    others |= {*(() if rule.labels else ["LabelsConstraint"]), *(() if rule.only_if_at else ["Proof"])}
    return {key: value for key, value in found.items() if key not in others and value not in (None, (), {})}


class RuleViews:
    """The rules, as the routes show them."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        archive: Archive,
        last_runs: LastRuns,
        schedule: Schedule,
        space: SpaceRules,
    ) -> None:
        self._settings, self._clock, self._archive = settings, clock, archive
        self._last_runs, self._schedule, self._space = last_runs, schedule, space

    def status(self) -> list[dict[str, Any]]:
        """Return of each rule what it deletes, when it runs next, when it ran last, and how that went."""
        return [self._status(rule) for rule in self._settings.rules]

    def _status(self, rule: Rule) -> dict[str, Any]:
        about, last = {"Name": rule.name, "Conditions": conditions_shown(rule)}, self._last_runs.of(rule.name)
        if rule.when_disk_above:
            return {**about, **self._space.status(rule), "Last": last}
        return {**about, "Next": utc_time(self._schedule.next_run(rule)), "Last": last}

    def dry_run(
        self, request: Request, turns: HttpTurns, dry_run: Callable[[Conditions, Reading], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what a rule would delete if it ran now. Raises `Refused` (404): there is no such rule."""
        name = urllib.parse.unquote(request.groups[0])
        rule = next((rule for rule in self._settings.rules if rule.name in (name, request.groups[0])), None)
        if rule is None:
            raise Refused(404, "There is no such rule; /purge-old-studies/status lists them")
        try:
            if rule.when_disk_above:
                with turns.turn():
                    return self._space.dry_run(rule)
            reading = self._clock.read()
            has_labels = not rule.labels or self._archive.index.has_labels
            asked = rule_conditions(rule, local_day(reading.earliest), has_labels=has_labels)
        except (LoopbackError, OSError) as error:
            raise Refused(503, f"Which studies these are can't be known now: {one_line(error)}") from None
        until = received_until(self._settings.keep_received_days, reading.earliest)
        content = dry_run(dataclasses.replace(asked, received_until=until), reading)
        return {**content, "Rule": rule.name, "Why": reading.doubt or f"they are older than {rule.older_than}"}


# ---- src/purge_old_studies/api.py: The routes of the script.


KEEP_FINISHED_DAYS = 30.0  # in the list
FORGET_EVERY = 60.0  # seconds


class Purges:
    """The script's routes, from its start to its stop."""

    def __init__(self, settings: Settings, configuration: Mapping[str, Any], refusal: str | None) -> None:
        self._settings, self._configuration, self._refusal = settings, configuration, refusal
        self._loopback = Loopback(configuration)
        if not refusal and not self._loopback.enabled:
            self._refusal = 'purge_old_studies stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
        self.turns = HttpTurns(configuration, "dry runs")
        self.elsewhere = Elsewhere(configuration, self._loopback)
        self._worker = Worker("purge_old_studies", self._open, self._forget_old)
        self._runner: Runner | None = None

    # From start to stop

    def on_change(self, change: int, _level: int, _resource: str) -> None:
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            if self._refusal:
                orthanc.LogError(self._refusal)
            else:
                self._worker.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            deadline = time.monotonic() + STOPS_WITHIN
            if self._runner:
                self._runner.stop()
            self._worker.stop(deadline - time.monotonic())

    def unavailable(self) -> str | None:
        """Return why nothing can be purged, or None."""
        return self._refusal or self._worker.why_not()

    def condition(self) -> Condition:
        """Return whether the script works; a clock that is doubted holds up its rules."""
        found = condition_of(self._worker, self._refusal)
        if found.state != RUNNING or found.reason:
            return found
        return dataclasses.replace(found, reason=self._clock.read().doubt or None)

    def _open(self) -> Ledger:
        folder = state_folder(self._settings.state_path, self._configuration, "purge_old_studies")
        ledger = Ledger(folder / "purge_old_studies.sqlite", TABLES, durability=self._settings.durability)
        try:
            self._ledger, self._clock, self._jobs = ledger, Clock(ledger), Jobs(ledger)
            self._history = History(folder / "purge_old_studies.jsonl", durable=self._settings.durability == "full")
            self._archive = Archive(self._loopback, self._settings, self._clock, self.elsewhere)
            runner = Runner(self._settings, ledger, self._history, self._archive)
            schedule = Schedule(self._settings, ledger, self._clock, self._archive, runner)
            disk = Disk(self._loopback, storage_folder(self._configuration))
            space = SpaceRules(self._settings, self._jobs, self._clock, self._archive, runner, disk)
            self._rules = RuleViews(self._settings, self._clock, self._archive, runner.last_runs, schedule, space)
            self.measures = Measures(runner, self._clock, space, disk, self._archive)
            runner.start()
        except BaseException:
            ledger.close()  # the next try opens it
            raise
        self._runner = runner
        runner.thread(schedule.run, "purge-schedule")
        runner.thread(self._history.read_ahead, "purge-history")
        runner.thread(space.run, "purge-space")
        runner.thread(lambda: warn_of_guards(self._settings, self._archive), "purge-guards")
        return ledger

    def _forget_old(self) -> float:
        """Forget some of what ended long ago; return the seconds until more of it may go."""
        before = self._clock.read().earliest - KEEP_FINISHED_DAYS * DAY_SECONDS
        return 0.1 if self._jobs.forget_some(before) else FORGET_EVERY

    # A purge, from request to end

    @takes(PARAMETERS, get_acts=True)
    @answers(200, 202, 403, 409, 500, media=("text/plain", "application/json"))
    def purge(self, request: Request) -> Any:
        """Delete the studies that the parameters name, or show which those are (`dry-run`)."""
        found = request.parameters
        as_json = wants_json(found, request)
        reading = self._clock.read()
        asked = self._conditions(found, reading)
        self.elsewhere.check_asked(asked.only_if_at, self.turns)
        if found.get("dry-run", request.method == "POST"):
            content = self._dry_run(asked, reading, force=bool(found.get("force")))
            if request.method == "POST":
                content["Note"] = 'Nothing was deleted. The same with "dry-run": false deletes'
            return content if as_json else "".join(f"{name}: {_shown(value)}\n" for name, value in content.items())
        runner = self._running()
        if not runner.busy.acquire(blocking=False):
            current = f"purge {purge.number}" if (purge := runner.current) else "another purge"
            raise Refused(409, f"One purge at a time, and {current} is going on: see /purge-old-studies/jobs")
        who = {**who_asks(request.headers), "Rule": None}
        purge = runner.begin(asked, who, force=bool(found.get("force")), continues=bool(found.get("async")))
        if found.get("async"):
            return Answer({"ID": purge.number, "Path": f"/purge-old-studies/jobs/{purge.number}"}, 202)
        purge.done.wait()
        return self._answer(purge.number, asked, as_json=as_json)

    def _running(self) -> Runner:
        assert self._runner  # `unavailable` has said so
        return self._runner

    def _conditions(self, found: Mapping[str, Any], reading: Reading) -> Conditions:
        """Return which studies are meant. What depends on a clock that is doubted is refused (409), also a dry run."""
        has_labels = "Labels" not in found or self._archive.index.has_labels
        keeps = found.get("keep-received-days", 0)
        try:
            asked = conditions(found, local_day(reading.earliest), has_labels=has_labels)
        except Refused as refused:
            doubt = f". {reading.doubt}" if reading.doubt else ""
            raise Refused(refused.status, f"{refused.message}{doubt}") from None
        if reading.doubt and ("older-than" in found or keeps):
            raise Refused(409, f"{reading.doubt}. A purge by since=YYYYMMDD alone needs no clock")
        return dataclasses.replace(asked, received_until=received_until(keeps, reading.now))

    def _dry_run(self, asked: Conditions, reading: Reading, *, force: bool) -> dict[str, Any]:
        try:
            with self.turns.turn():
                choice = self._archive.chosen(asked)
                content = summary(self._archive.index, choice.studies, asked, reading.earliest)
            if choice.undelivered:
                content["Undelivered"] = dict(choice.undelivered)
            if not force and (refusal := self._running().too_many(content["Studies"])):
                content["Refused"] = f"{refusal}; force=true does it nevertheless"
            return content
        except LoopbackError as error:
            raise Refused(503, f"Orthanc does not tell which studies these are: {error}") from None

    def _answer(self, number: int, asked: Conditions, *, as_json: bool) -> Any:
        row = self._jobs.row(number)
        found = self._job(row)
        if row["state"] == "done":
            content = {"Deleted": found["Deleted"], "Since": f"{asked.last:%Y%m%d}"}
            if undelivered := found["Undelivered"]:
                content["Undelivered"] = undelivered
            stay = "".join(f"; {in_words(count, reason)}" for reason, count in undelivered.items())
            return content if as_json else f"Purged {asked.in_words(found['Deleted'])}{stay}\n"
        left = found["Kept"] + found["Failed"] + found["Remaining"]
        text = f"{found['Deleted']} studies went, {left} did not ({row['state']}): see /purge-old-studies/jobs/{number}"
        states = {name: self._jobs.studies(number, *of) for name, of in (("Failed", ("failed",)), ("Kept", ("kept",)))}
        details = {name: [each["ID"] for each in studies] for name, studies in states.items()}
        raise Refused(500, text, Purge=number, Deleted=found["Deleted"], Remaining=found["Remaining"], **details)

    # What there is to look at

    @takes(PAGE_PARAMETERS)
    def jobs(self, request: Request) -> Any:
        """A page of purges, the first one first: `since` (the last one's id) and `limit`."""
        since, limit = request.parameters.get("since", 0), request.parameters.get("limit", 100)
        rows, total, more = self._jobs.page(since, limit)
        items = [self._job(row) for row in rows]
        return {"Total": total, "Items": items, "Next": items[-1]["ID"] if more else None}

    def _job(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self._jobs.as_json(row, self._running().rate(row["id"]))

    def job(self, request: Request) -> Any:
        """One purge: its state, what was deleted, what is left, the rate, and why studies were not deleted."""
        row = self._jobs.row(row_number(request.groups[0]))
        return {**self._job(row), "NotDeleted": self._jobs.studies(row["id"], "kept", "failed")}

    @answers(409)
    def cancel(self, request: Request) -> Any:
        """Let a purge that is going on stop after what it is deleting at the moment."""
        row = self._jobs.row(row_number(request.groups[0]))
        purge = self._running().current
        if purge is None or purge.number != row["id"]:
            raise Refused(409, f"Purge {row['id']} is not going on any more: it is {row['state']}")
        # Written down first: a kill in this moment must not let it go on at the next start.
        self._ledger.run("UPDATE purges SET state='cancelled' WHERE id=? AND ended IS NULL", row["id"])
        purge.cancelled = True
        return self._job(self._jobs.row(row["id"]))

    @takes({**PAGE_PARAMETERS, "purge": WholeNumber()})
    def history(self, request: Request) -> Any:
        """A page of the record, oldest line first: `since` (the last line's number), `limit`, and `purge` for one."""
        found = request.parameters
        return self._history.page(found.get("since", 0), found.get("limit", 100), found.get("purge"))

    def status(self, _request: Request) -> Any:
        """Whether it runs, what is going on, its totals, and of each rule the next run, the last one, and how that went."""
        current, totals = self._running().current, self._jobs.totals()
        return {
            "Totals": totals["Purges"],
            "Purge": current.number if current else None,
            "Deleted": totals["Deleted"],
            "Rules": self._rules.status(),
            "Clock": self._clock.read().as_json(),
        }

    @answers(409)
    def dry_run_of_rule(self, request: Request) -> Any:
        """What a rule would delete if it ran now, and why: a dry run."""
        return self._rules.dry_run(request, self.turns, functools.partial(self._dry_run, force=False))

    def confirm_clock(self, request: Request) -> Any:
        """Believe the clock as it is now, although it is not what was to be expected: rules run again."""
        line = {"Time": now_utc(), "Purge": None, "Event": "clock confirmed", **who_asks(request.headers)}
        try:
            self._history.add([{**line, "Expected": utc_time(self._clock.read().expected)}])
            return self._clock.confirm().as_json()
        except (OSError, sqlite3.Error) as error:
            raise Refused(503, f"That can't be recorded, so the clock is doubted as before: {error}") from None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {one_line(each)}" for name, each in value.items())
    return one_line("none" if value is None else value)


# ---- src/purge_old_studies/__init__.py


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_configuration(configuration)
    except SettingsError as error:
        refusal = f"{error}. purge_old_studies purges nothing until this is corrected."
        orthanc.LogError(refusal)
    else:
        warn_if_open("purge_old_studies", configuration)
    purges = Purges(settings, configuration, refusal)
    route = "/purge-old-studies"
    register_route(route, {"GET": purges.purge, "POST": purges.purge}, purges.unavailable)
    look = purges.condition
    script = register_status("purge_old_studies", look, purges.status, purges.unavailable, routes=f"{route}/routes")
    register_route(f"{route}/jobs", {"GET": purges.jobs}, purges.unavailable)
    register_route(f"{route}/jobs/([^/]+)", {"GET": purges.job}, purges.unavailable)
    register_route(f"{route}/jobs/([^/]+)/cancel", {"POST": purges.cancel}, purges.unavailable)
    register_route(f"{route}/rules/([^/]+)/dry-run", {"GET": purges.dry_run_of_rule}, purges.unavailable)
    register_route(f"{route}/confirm-clock", {"POST": purges.confirm_clock}, purges.unavailable)
    register_route(f"{route}/history", {"GET": purges.history}, purges.unavailable)
    # It tells a DICOMweb server of `OnlyIfAt` that leads back to this Orthanc from another one.
    purges.elsewhere.servers.register_route(purges.turns.bound, refusal)
    if refusal is None:
        listen_to_changes(script, purges.on_change, lambda: purges.measures.measure())
    else:
        listen_to_changes(script)


register()
