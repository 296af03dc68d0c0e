# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/series_thumbnail/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Gives each series a small picture, its middle image: GET /series/{id}/thumbnail, the same for studies and instances.

The picture is drawn once, when the series becomes stable, and kept with the series in Orthanc: an attachment, and the
instance that was chosen as the metadata `ThumbnailInstanceID`. What is no image gives the icon of its kind. Orthanc
Explorer shows the pictures in its lists and on its pages.

A smallest configuration is none at all. To name what is kept:

    "UserMetadata": {"ThumbnailInstanceID": 2001},
    "UserContentType": {"SeriesThumbnail": 4301}

To look at:

    GET /series/{id}/thumbnail       ?size=128&format=jpeg&quality=85&icon=false
    GET /studies/{id}/thumbnail      of its first series of images
    GET /instances/{id}/thumbnail    of several frames, the middle one
    GET /series-thumbnail/status

Icons, images whose pixels are no squares, and those of more than 16 bits need Pillow (apt install python3-pil, or see
docs/install.md). All keys: docs/series_thumbnail.md.
"""

from __future__ import annotations

if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)

import array
import ast
import base64
import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import difflib
import errno
import functools
import hashlib
import http
import http.client
import io
import ipaddress
import json
import math
import os
import queue
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
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar

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


# ---- src/common/user_number.py: The numbers of our own kinds of metadata and attachments, which a configuration may name, or give to somebody else.


def user_number(configuration: Mapping[str, Any], section: str, name: str, number: int) -> tuple[str, str | None]:
    """Return how Orthanc's routes and answers call our metadata (`UserMetadata`) or attachment (`UserContentType`).

    Returns
    -------
    The name if the configuration has it, with None; else the number, which Orthanc takes as it is, with the line to add.

    Raises
    ------
    SettingsError : the configuration gives that number to another name, or a number to a name that is nearly ours.
    """
    check_section_name(section, configuration)
    named = configuration.get(section) or {}
    if name in named:
        return name, None
    if near := [other for other in named if is_nearly(other, name)]:
        raise SettingsError(f"{section}: found {json.dumps(near[0])} (did you mean {json.dumps(name)}?)")
    numbers = {other: value[0] if isinstance(value, list) and value else value for other, value in named.items()}
    if taken := [other for other, value in numbers.items() if value == number]:
        raise SettingsError(
            f"{section}: {number} is {json.dumps(taken[0])} here, and would be {json.dumps(name)}; "
            f'allowed: another number for {json.dumps(name)}, as in "{section}": {{"{name}": 1024 to 65535}}'
        )
    return str(number), f'add "{section}": {{"{name}": {number}}} to the configuration: then {number} has its name'


# ---- src/common/explorer.py: What scripts add to Orthanc Explorer.


def add_to_explorer(javascript: str) -> None:
    """Let each page of Orthanc Explorer run this."""
    if hasattr(orthanc, "ExtendOrthancExplorer2"):
        orthanc.ExtendOrthancExplorer2("python", javascript)  # how the plugin calls itself
    else:
        orthanc.ExtendOrthancExplorer(javascript)


# ---- src/common/accept.py: Content negotiation by `Accept` (RFC 9110, 12.5.1).


def preferred_type(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the MIME type of `offered` that a client likes best, the first of equals; None if it takes none of them.

    No header, or an empty one, takes everything. The most specific range that names a type decides about it; a quality
    that can't be read is 0.
    """
    ranges: dict[str, float] = {}
    for part in (accept or "*/*").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        ranges[name] = float(quality) if re.fullmatch(r"[01](\.[0-9]{0,3})?", quality) else 0.0

    def quality_of(mime: str) -> float:
        candidates = (mime, f"{mime.partition('/')[0]}/*", "*/*")
        return next((ranges[each] for each in candidates if each in ranges), 0.0)

    best = max(offered, key=quality_of)
    return best if quality_of(best) > 0 else None


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


# ---- src/series_thumbnail/explorer.py: The pictures in Orthanc Explorer.


# Orthanc Explorer builds its lists again at each turn: what looks at what was added needs no function of it. The page of
# a study or series has no link to itself, so its picture is shown where the page describes it.
EXPLORER = (  # src/series_thumbnail/explorer.js
    '(function () {\n'
    "  'use strict';\n"
    "  var LEVELS = {study: 'studies', series: 'series', instance: 'instances'};\n"
    '\n'
    '  function addPicture(place, level, id, size) {\n'
    "    var image = document.createElement('img');\n"
    "    image.className = 'series-thumbnail';\n"
    "    image.alt = '';\n"
    "    image.loading = 'lazy';\n"
    '    image.width = image.height = size;\n'
    "    image.style.cssText = 'position: absolute; left: 15px; top: 12px; object-fit: contain';\n"
    "    place.style.position = 'relative';\n"
    '    image.onload = function () {\n'
    "      place.style.paddingLeft = size + 27 + 'px';\n"
    "      place.style.minHeight = size + 8 + 'px';\n"
    '    };\n'
    '    image.onerror = function () { image.remove(); };\n'
    "    image.src = '../' + LEVELS[level] + '/' + id + '/thumbnail?format=jpeg';\n"
    '    place.insertBefore(image, place.firstChild);\n'
    '  }\n'
    '\n'
    '  function addToLists() {\n'
    '    document.querySelectorAll(\'li a[href*="uuid="]:not([data-thumbnail])\').forEach(function (link) {\n'
    "      var found = /#(study|series|instance)\\?uuid=([0-9a-f-]{44})$/.exec(link.getAttribute('href'));\n"
    "      link.setAttribute('data-thumbnail', found ? found[1] : '');\n"
    "      if (found && link.querySelector('h3')) {\n"
    '        addPicture(link, found[1], found[2], 64);\n'
    '      }\n'
    '    });\n'
    '  }\n'
    '\n'
    '  function addToPages() {\n'
    "    ['study', 'series'].forEach(function (level) {\n"
    "      var found = new RegExp('#' + level + '\\\\?uuid=([0-9a-f-]{44})').exec(window.location.hash);\n"
    "      document.querySelectorAll('#' + level + '-info > li').forEach(function (item) {\n"
    "        if (found && item.querySelector('h3') && !item.querySelector('.series-thumbnail, a')) {\n"
    '          addPicture(item, level, found[1], 128);\n'
    '        }\n'
    '      });\n'
    '    });\n'
    '  }\n'
    '\n'
    '  new MutationObserver(function () { addToLists(); addToPages(); })\n'
    '    .observe(document.documentElement, {childList: true, subtree: true});\n'
    '})();\n'
)


def extend_explorer() -> None:
    """Let Orthanc Explorer show the pictures in its lists and on its pages."""
    add_to_explorer(EXPLORER)


# ---- src/series_thumbnail/settings.py: The section `SeriesThumbnail` of the configuration.


SECTION = "SeriesThumbnail"
CHOSEN, CHOSEN_NUMBER = "ThumbnailInstanceID", 2001  # of UserMetadata
KEPT, KEPT_NUMBER = "SeriesThumbnail", 4301  # of UserContentType
MIN_SIZE, MAX_SIZE = 16, 1024  # pixels of the longer side
JPEG, PNG = "image/jpeg", "image/png"
DEFAULT_QUALITY = 80  # of JPEG


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `SeriesThumbnail`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "Quality": "a picture has the quality 80, unless a request asks for another one by ?quality=",
        "CacheMegabytes": "the script decides that itself now (pictures that are asked for often take at most 64 MB of memory)",
        "Threads": "the script decides that itself now (it draws 4 pictures at a time)",
    }

    size: int = dataclasses.field(
        default=128,
        metadata={
            "minimum": MIN_SIZE,
            "maximum": MAX_SIZE,
            "help": "Pixels of the longer side of a picture, without `?size=`.",
        },
    )
    make_ahead: bool = dataclasses.field(
        default=True,
        metadata={
            "help": (
                "Draw each series when it becomes stable, so that the first answer is quick. False: when somebody asks."
            )
        },
    )
    explorer: bool = dataclasses.field(default=True, metadata={"help": "Show the pictures in Orthanc Explorer."})


# ---- src/series_thumbnail/options.py: What a request asks for: size, type and quality of the picture.


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """How a picture is to be: pixels of the longer side, MIME type, and quality (of JPEG)."""

    size: int
    mime: str
    quality: int


PARAMETERS = {
    "size": WholeNumber(least=MIN_SIZE, most=MAX_SIZE),
    "format": OneOf(choices=("jpeg", "png")),
    "quality": WholeNumber(least=1, most=100),
    "icon": Flag(),
}


@functools.lru_cache(maxsize=256)
def wanted(parameters: tuple[tuple[str, Any], ...], accept: str, settings: Settings) -> tuple[RenderOptions, bool]:
    """Return the picture that a request asks for, and whether an icon will do. Raises `Refused`: 406."""
    given = dict(parameters)
    size, quality = given.get("size", settings.size), given.get("quality", DEFAULT_QUALITY)
    mime = {"jpeg": JPEG, "png": PNG}[given["format"]] if "format" in given else preferred_type(accept, (JPEG, PNG))
    if mime is None:
        raise Refused(406, f"Accept is {one_line(accept)[:80]!r}, available: {JPEG}, {PNG}")
    return RenderOptions(size, mime, quality if mime == JPEG else 0), given.get("icon", True)


# ---- src/series_thumbnail/pictures.py: Pictures, and the comment in one that says what it was made of.


# How the same request is recognised: its address, `Accept`, and the parameters as they came.
RequestKey: TypeAlias = tuple[str, str | None, tuple[tuple[str, str], ...]]


@dataclasses.dataclass(slots=True)
class Picture:
    """One that is drawn of `instance`, when its resource had `count` instances and its series this LastUpdate.

    `checked`: when it was last known to be right; `archive`: the state of the archive in which it was;
    `is_kept`: it is an attachment of the series; `was_chosen`: the metadata name `instance`.
    """

    content: bytes
    mime: str
    etag: str
    instance: str
    is_icon: bool = False
    count: int | None = None
    last_update: str = ""
    is_kept: bool = False
    was_chosen: bool = False
    checked: float = 0.0
    archive: object = None
    request_keys: list[RequestKey] = dataclasses.field(default_factory=list)


def is_known(picture: Picture, if_none_match: str | None) -> bool:
    """Return whether the caller has it already (RFC 9110 13.1.2)."""
    return if_none_match is not None and (picture.etag in if_none_match or if_none_match.strip() == "*")


def make_picture(content: bytes, options: RenderOptions, instance: str, is_icon: bool = False) -> Picture:
    """Return a picture that is drawn of an instance."""
    return Picture(content, options.mime, f'"{hashlib.sha1(content).hexdigest()}"', instance, is_icon)


def with_note(jpeg: bytes, note: str) -> bytes:
    """Return the JPEG with a comment (COM, ITU T.81 B.2.4.5) after its first marker: what the picture was made of."""
    text = note.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + jpeg[2:]


def without_note(jpeg: bytes) -> tuple[bytes, str]:
    """Return what `with_note` was given; an empty note where there is none."""
    if jpeg[:4] != b"\xff\xd8\xff\xfe":
        return jpeg, ""
    end = 4 + int.from_bytes(jpeg[4:6])
    return jpeg[:2] + jpeg[end:], jpeg[6:end].decode(errors="replace")


# ---- src/series_thumbnail/archive.py: Whether the archive has changed since pictures were drawn.


BELIEVED_SECONDS = 1.0  # that a picture in memory is believed without asking Orthanc whether its series is as it was
QUICK_SECONDS = 0.005  # in which Orthanc gives the counts of the archive; it counts, so of millions of instances not
SLOW_FOR_SECONDS = 60.0  # for which it is not asked again when it was slower


class Archive:
    """Whether anything was stored or deleted since, asked once for all pictures.

    `state` is another object as soon as something was. Whatever is stored is a later change, and what is deleted without
    that leaves fewer instances: so equal counts between two equal changes are an archive as it was.
    """

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback
        self._last_answers: tuple[Any, Any] | None = None
        self._lock = threading.Lock()
        self._slow_until = -math.inf
        self.state, self.checked = object(), -math.inf

    def get_state(self) -> object:
        """Return the state, at most `BELIEVED_SECONDS` old; one that is equal to no other where asking would take long."""
        with self._lock:
            begun = time.monotonic()
            if begun - self.checked <= BELIEVED_SECONDS:
                return self.state
            if begun < self._slow_until:
                return object()
            try:
                counts, last = self._loopback.get("/statistics"), self._loopback.get("/changes?last")["Last"]
                if (last, counts) != self._last_answers:
                    self._last_answers, self.state = (last, self._loopback.get("/statistics")), object()
            except LoopbackError:
                return object()  # then each picture asks for itself, and the error reaches whoever waits for it
            if time.monotonic() - begun > QUICK_SECONDS:
                self._slow_until = begun + SLOW_FOR_SECONDS
            self.checked = begun
            return self.state

    def is_believed(self, picture: Picture) -> bool:
        """Return whether a picture may be given without asking Orthanc."""
        checked = self.checked  # before the state, which changes first
        if picture.archive is not self.state:
            checked = -math.inf
        return time.monotonic() - max(checked, picture.checked) <= BELIEVED_SECONDS


# ---- src/series_thumbnail/cache.py: Pictures in memory.


PICTURE_OVERHEAD_BYTES = 2000  # of memory that a picture takes besides its content
MAX_REQUEST_KEYS = 8  # ways to ask for one picture that are recognised at once


class Cache:
    """Pictures in memory, by resource and options, at most `max_bytes`; the least used are dropped first."""

    def __init__(self, max_bytes: float) -> None:
        self._max_bytes, self.bytes, self.pictures = max_bytes, 0, 0
        self._entries: collections.OrderedDict[str, dict[RenderOptions, Picture]] = collections.OrderedDict()
        self.answers: dict[RequestKey, Picture] = {}  # what was asked before, in the same words
        self._lock = threading.Lock()

    def get(self, resource: str, options: RenderOptions) -> Picture | None:
        """Return a picture, if it is in memory."""
        found = self._entries.get(resource)  # without the lock: one look-up of a dict is safe
        return found.get(options) if found else None

    def put(self, resource: str, options: RenderOptions, picture: Picture) -> None:
        """Add or replace it; or only mark it as used."""
        with self._lock:
            pictures = self._entries.setdefault(resource, {})
            self._entries.move_to_end(resource)
            if options in pictures and pictures[options] is not picture:
                self._retire(pictures[options])
            elif options in pictures:
                self._count(picture, -1)
            pictures[options] = picture
            self._count(picture, 1)
            while self.bytes > self._max_bytes and self._entries:
                self._forget(next(iter(self._entries)))

    def learn(self, request_key: RequestKey, resource: str, options: RenderOptions, picture: Picture) -> None:
        """Remember which picture answers this request, as long as it is here."""
        with self._lock:
            known = self._entries.get(resource, {}).get(options) is picture and request_key not in picture.request_keys
            if known and len(picture.request_keys) < MAX_REQUEST_KEYS:
                picture.request_keys.append(request_key)
                self.answers[request_key] = picture

    def drop(self, resource: str) -> None:
        """Forget the pictures of a resource."""
        with self._lock:
            self._forget(resource)

    def _forget(self, resource: str) -> None:
        for picture in self._entries.pop(resource, {}).values():
            self._retire(picture)

    def _retire(self, picture: Picture) -> None:
        self._count(picture, -1)
        picture.checked, picture.archive = -math.inf, None
        for request_key in picture.request_keys:
            self.answers.pop(request_key, None)

    def _count(self, picture: Picture, sign: int) -> None:
        self.bytes += sign * (len(picture.content) + PICTURE_OVERHEAD_BYTES)
        self.pictures += sign


# ---- src/series_thumbnail/icons.py: Icons of what is no image, in a square of 100; needs Pillow, as does what changes proportions.


def _circle(x: float, y: float, radius: float) -> Sequence[float]:
    turns = [math.tau * step / 32 for step in range(33)]
    return [value for turn in turns for value in (x + radius * math.cos(turn), y + radius * math.sin(turn))]


SHEET = [60, 14, 26, 14, 26, 86, 74, 86, 74, 28, 60, 14, 60, 28, 74, 28]
FRAME = [16, 22, 84, 22, 84, 78, 16, 78, 16, 20]
GLYPHS: dict[str, Sequence[Sequence[float]]] = {
    "document": [SHEET, *([36, y, 64, y] for y in (42, 54, 66))],
    "report": [SHEET, *([46, y, 64, y] for y in (44, 58, 72)), *([34, y, 39, y] for y in (44, 58, 72))],
    "waveform": [[8, 54, 28, 54, 34, 46, 40, 54, 46, 54, 51, 18, 58, 82, 63, 54, 72, 54, 78, 44, 84, 54, 92, 54]],
    "segmentation": [_circle(50, 50, 34), [38, 32, 58, 30, 68, 46, 60, 66, 42, 68, 32, 50, 39, 31]],
    "plan": [
        _circle(50, 50, 26),
        _circle(50, 50, 8),
        [50, 10, 50, 36],
        [50, 64, 50, 90],
        [10, 50, 36, 50],
        [64, 50, 90, 50],
    ],
    "presentation": [FRAME, [30, 66, 62, 38], [46, 37, 63, 37, 63, 54]],
    "image": [FRAME, _circle(36, 40, 6), [17, 72, 42, 52, 54, 62, 66, 46, 83, 64]],
    "other": [SHEET],
}


def draw_icon(kind: str, options: RenderOptions) -> bytes:
    """Return the icon of a kind as a square picture. Raises `ImportError` without Pillow."""
    from PIL import Image, ImageDraw

    side = 4 * options.size  # drawn large and made small: smooth lines
    image = Image.new("RGB", (side, side), (44, 52, 64))
    draw = ImageDraw.Draw(image)
    for line in GLYPHS[kind]:
        draw.line([value * side / 100 for value in line], (200, 210, 222), max(1, side // 28), "curve")
    return encoded(image.resize((options.size, options.size), Image.Resampling.LANCZOS), options)


def encoded(image: Any, options: RenderOptions) -> bytes:
    """Return an image of Pillow as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if options.mime == JPEG else "PNG", quality=options.quality or 85)
    return buffer.getvalue()


# ---- src/series_thumbnail/pixels.py: Pixels as Orthanc gives them, and pictures of those that it can't render. Without NumPy; pictures need Pillow.


CODES_OF_NPY = {"|u1": "B", "<u1": "B", "|i1": "b", "<i1": "b", "<u2": "H", "<i2": "h", "<f4": "f"}
RLE, BIG_ENDIAN = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2"
FLAT = 8  # standard deviation of the greys of a picture, of 255
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")


def values_of_npy(content: bytes) -> array.array[Any] | None:
    """Return the values of one frame as Orthanc's `/numpy` gives them (NPY, version 1); None if they are no greys."""
    start = 10 + int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10:start].decode("latin-1"))
    code = CODES_OF_NPY.get(header["descr"])
    return array.array(code, content[start:]) if code and header["shape"][-1] == 1 else None


def image_of_values(data: bytes, rows: int, columns: int, form: str) -> Any:
    """Return values as an image of Pillow, in floats; None if there are not enough. Raises `ImportError` without Pillow."""
    from PIL import Image

    size = rows * columns * int("".join(filter(str.isdigit, form))) // 8
    return Image.frombytes("F", (columns, rows), data[:size], "raw", form) if len(data) >= size else None


def native_frame(frame: bytes, syntax: str, form: str) -> tuple[bytes, str]:
    """Return the values of a frame of 32 bits, as Orthanc's `/raw` gives it, and how Pillow names them; empty if unreadable."""
    if syntax in NATIVE:
        return frame, form
    big_endian = f"F;32B{form[4:]}"
    if syntax == RLE:
        return unpacked_rle(frame, 4), big_endian
    if syntax == BIG_ENDIAN:  # Orthanc swaps it as words of 16 bits
        words = array.array("H", frame[: len(frame) // 2 * 2])
        words.byteswap()
        return words.tobytes(), big_endian
    return b"", form


def unpacked_rle(frame: bytes, bytes_per_value: int) -> bytes:
    """Return the values of an RLE frame, each in big endian (DICOM PS3.5 Annex G); of a broken one fewer, or none."""
    if int.from_bytes(frame[:4], "little") != bytes_per_value:
        return b""
    starts = [int.from_bytes(frame[at : at + 4], "little") for at in range(4, 4 * bytes_per_value + 4, 4)]
    planes = [_unpacked(frame[a:b]) for a, b in zip(starts, [*starts[1:], len(frame)], strict=True)]
    count = min(map(len, planes))
    values = bytearray(bytes_per_value * count)
    for index, plane in enumerate(planes):
        values[index::bytes_per_value] = plane[:count]
    return bytes(values)


def _unpacked(segment: bytes) -> bytes:
    plane, at = bytearray(), 0
    while at < len(segment) - 1:
        control = segment[at]
        if control < 128:
            plane += segment[at + 1 : at + 2 + control]
            at += 2 + control
        elif control > 128:
            plane += segment[at + 1 : at + 2] * (257 - control)
            at += 2
        else:
            at += 1
    return bytes(plane)


def samples(image: Any, most: int) -> array.array[Any]:
    """Return values of an image of floats, of both directions alike, at most about `most`."""
    step = max(1.0, (image.width * image.height / most) ** 0.5)
    few = image.resize((max(1, int(image.width / step)), max(1, int(image.height / step))), 0)
    return array.array("f", few.tobytes())


def shown(image: Any, low: float, high: float, is_inverted: bool) -> Any:
    """Return an image of floats in greys, `low` black and `high` white."""
    black, white = (255.0, 0.0) if is_inverted else (0.0, 255.0)
    scale = (white - black) / (high - low)
    offset = black - low * scale
    return image.point(lambda value: value * scale + offset).convert("L")


def image_of_pam(content: bytes) -> Any:
    """Return an image of 8 bits as Orthanc gives it (PAM) as one of Pillow. Raises `ImportError` without Pillow."""
    from PIL import Image

    head, _, data = content.partition(b"ENDHDR\n")
    fields = dict(line.split(None, 1) for line in head.splitlines() if b" " in line)
    mode = "L" if int(fields[b"DEPTH"]) == 1 else "RGB"
    return Image.frombytes(mode, (int(fields[b"WIDTH"]), int(fields[b"HEIGHT"])), data)


class Drawing(NamedTuple):
    """A picture as a file, and the standard deviation of its values if it is known."""

    content: bytes
    deviation: float | None = None


def resized(image: Any, width: int, height: int, options: RenderOptions) -> Drawing:
    """Return a picture of an image of Pillow; where it shrinks, each pixel is a mean."""
    from PIL import Image, ImageStat

    shrinks = width <= image.width and height <= image.height
    how = Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS
    image = image.resize((width, height), how, reducing_gap=1.0)  # by a whole number first: a quarter of the time
    return Drawing(encoded(image, options), max(ImageStat.Stat(image).stddev))


def is_flat(drawing: Drawing) -> bool:
    """Return whether next to nothing can be seen in a picture. Raises `ImportError` without Pillow."""
    from PIL import Image, ImageStat

    deviation = drawing.deviation
    if deviation is None:
        deviation = max(ImageStat.Stat(Image.open(io.BytesIO(drawing.content))).stddev)
    return deviation < FLAT


def has_pillow() -> bool:
    """Return whether pictures can be drawn here."""
    try:
        import PIL.Image  # noqa: F401 - one that is there may still be unusable
    except ImportError:
        return False
    return True


# ---- src/series_thumbnail/selection.py: Which instance of a series is shown: the middle one, by position, then Instance Number, then time of arrival.


def numbers(text: object, count: int) -> tuple[float, ...] | None:
    """Return the `count` numbers of a DS or IS value, or None if it holds others, or something else."""
    try:
        found = tuple(float(part) for part in str(text).split("\\"))
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def positions(instances: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return where each lies along the normal of its slice, in mm (DICOM PS3.3 C.7.6.2.1.1); None: not all are parallel."""
    tags = [instance["MainDicomTags"] for instance in instances]
    first_text = tags[0].get("ImageOrientationPatient") if tags else None
    first = numbers(first_text, 6)
    if first is None:
        return None
    a, b, c, d, e, f = first
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    if math.hypot(*normal) < 0.1:
        return None
    along = []
    for each in tags:
        text = each.get("ImageOrientationPatient")
        orientation = first if text == first_text else numbers(text, 6)
        position = numbers(each.get("ImagePositionPatient"), 3)
        if position is None or orientation is None or math.dist(first, orientation) > 0.01:
            return None
        along.append(round(sum(x * y for x, y in zip(position, normal, strict=True)), 3))
    return along


def in_order(instances: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the identifiers of the instances of a series by position, then Instance Number, then as given (by arrival)."""
    along = positions(instances) or [0.0] * len(instances)
    number = [numbers(instance["MainDicomTags"].get("InstanceNumber"), 1) or (math.inf,) for instance in instances]
    return [instances[i]["ID"] for i in sorted(range(len(instances)), key=lambda i: (along[i], number[i]))]


def is_ordered(instances: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether position or Instance Number say where each belongs; if not, the time of arrival must."""
    return all(numbers(each["MainDicomTags"].get("InstanceNumber"), 1) for each in instances) or (
        positions(instances) is not None
    )


def from_the_middle(items: Sequence[str]) -> Iterator[str]:
    """Yield the middle one, and then outwards: of seven, the fourth, fifth, third, sixth, …"""
    middle = len(items) // 2
    for distance in range(middle + 1):
        for index in {middle + distance: 0, middle - distance: 0}:
            if index < len(items):
                yield items[index]


# ---- src/series_thumbnail/windows.py: Which grey values of an image are black and white, where Orthanc's `/rendered` does not know it by itself.


FLOATS = {"FloatPixelData": "F;32F", "DoubleFloatPixelData": "F;64F"}  # DICOM PS3.3 C.7.6.24 and C.7.6.25
MAX_SAMPLES = 65_536  # values of an image that its range is taken from
DARKEST, BRIGHTEST = 0.01, 0.99  # of the values, in order: what is black and what is white


@dataclasses.dataclass(frozen=True)
class Greys:
    """What an image's grey values are, which Orthanc does not always know.

    `by_orthanc`: whether it has a window that Orthanc knows; `window`: another one, the stored values of black and white, None:
    those of the pixels themselves; `slope` and `intercept`: how Orthanc rescales stored values; `padding`: lowest and highest
    stored value that is no part of the image; `form`: how Pillow names values that Orthanc can't render (more than 16 bits),
    else empty.
    """

    by_orthanc: bool
    window: tuple[float, float] | None
    slope: float
    intercept: float
    padding: tuple[float, float] | None
    is_inverted: bool
    form: str

    def as_orthanc_counts(self, low: float, high: float) -> tuple[float, float]:
        """Return center and width of a window from stored values."""
        low, high = sorted((low * self.slope + self.intercept, high * self.slope + self.intercept))
        return (low + high) / 2, high - low


def greys_of(tags: Mapping[str, Any], frame: int) -> Greys | None:
    """Return what the grey values of a frame are; None for colours."""
    photometric = str(tags.get("PhotometricInterpretation", ""))
    if not photometric.startswith("MONOCHROME"):
        return None
    form = _form(tags)
    own = window_of(tags)
    shared = nth_item(tags, "SharedFunctionalGroupsSequence", 0)
    of_frame = nth_item(tags, "PerFrameFunctionalGroupsSequence", frame)
    orthanc_values = _rescaling(of_frame) or _plain_rescaling(tags)
    slope, intercept = _rescaling(shared) or orthanc_values
    window = own or _group_window(shared) or _group_window(of_frame)
    by_orthanc = own is not None and not form
    stored = ((window[0] - intercept) / slope, (window[1] - intercept) / slope) if window and not by_orthanc else None
    return Greys(by_orthanc, stored, *orthanc_values, _padding(tags), photometric == "MONOCHROME1", form)


def window_of(tags: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the lowest and the highest value of the first window; a width below 1 is none (DICOM PS3.3 C.11.2.1.2)."""
    center, width = first_number(tags, "WindowCenter"), first_number(tags, "WindowWidth")
    if center is None or width is None or width < 1:
        return None
    return center - width / 2, center + width / 2


def own_range(values: Sequence[float], padding: tuple[float, float] | None) -> tuple[float, float]:
    """Return the values of black and white: of all but the rarest, and without padding."""
    finite = sorted(filter(math.isfinite, values[:: max(1, len(values) // MAX_SAMPLES) | 1]))
    shown = [value for value in finite if not padding or not padding[0] <= value <= padding[1]] or finite or [0.0]
    low, high = shown[int(len(shown) * DARKEST)], shown[int(len(shown) * BRIGHTEST)]
    if low == high:
        low, high = shown[0], shown[-1]
    return (low, high) if low < high else (low - 128, low + 128)


def nth_item(tags: Mapping[str, Any], sequence: str, index: int) -> Mapping[str, Any]:
    """Return an item of a sequence; an empty one where there is none."""
    items = tags.get(sequence)
    item = items[index] if isinstance(items, list) and index < len(items) else None
    return item if isinstance(item, Mapping) else {}


def first_number(tags: Mapping[str, Any], name: str) -> float | None:
    """Return the first value of an attribute, if it is a number."""
    found = numbers(str(tags.get(name)).partition("\\")[0], 1)
    return found[0] if found else None


def _form(tags: Mapping[str, Any]) -> str:
    for name, form in FLOATS.items():
        if name in tags:
            return form
    bits = first_number(tags, "BitsAllocated") or 16
    if bits <= 16:
        return ""
    return f"F;{bits:.0f}{'S' if first_number(tags, 'PixelRepresentation') == 1 else ''}"


def _group_window(group: Mapping[str, Any]) -> tuple[float, float] | None:
    return window_of(nth_item(group, "FrameVOILUTSequence", 0))


def _rescaling(group: Mapping[str, Any]) -> tuple[float, float] | None:
    values = nth_item(group, "PixelValueTransformationSequence", 0)
    return _plain_rescaling(values) if "RescaleSlope" in values else None


def _plain_rescaling(tags: Mapping[str, Any]) -> tuple[float, float]:
    return first_number(tags, "RescaleSlope") or 1.0, first_number(tags, "RescaleIntercept") or 0.0


def _padding(tags: Mapping[str, Any]) -> tuple[float, float] | None:
    value, limit = first_number(tags, "PixelPaddingValue"), first_number(tags, "PixelPaddingRangeLimit")
    if value is None:
        return None
    limit = value if limit is None else limit
    return min(value, limit), max(value, limit)


# ---- src/series_thumbnail/source.py: What the tags of an instance say about drawing it.


# What is no image, by SOP Class UID (DICOM PS3.6 A): of the entries that a UID begins with, the longest counts.
NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.104.": "document",
    "1.2.840.10008.5.1.4.1.1.88.": "report",
    "1.2.840.10008.5.1.4.1.1.9.": "waveform",
    "1.2.840.10008.5.1.4.1.1.4.2": "waveform",  # MR spectroscopy
    "1.2.840.10008.5.1.4.1.1.66.": "segmentation",  # and registrations, fiducials, surfaces, tracts
    "1.2.840.10008.5.1.4.1.1.66": "other",  # raw data
    "1.2.840.10008.5.1.4.1.1.67": "other",  # real world value mapping
    "1.2.840.10008.5.1.4.1.1.11.": "presentation",
    "1.2.840.10008.5.1.4.1.1.481.": "plan",
    "1.2.840.10008.5.1.4.1.1.481.1": "",  # RT image
    "1.2.840.10008.5.1.4.1.1.481.2": "",  # RT dose
    "1.2.840.10008.5.1.4.1.1.481.3": "segmentation",  # RT structure set
    "1.2.840.10008.5.1.4.34.": "plan",
}


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of an image: `number`, None where there is but one; `aspect`, height of a pixel by its width; its greys."""

    number: int | None
    aspect: float
    greys: Greys | None

    @property
    def path(self) -> str:
        return "" if self.number is None else f"/frames/{self.number}"


@dataclasses.dataclass(frozen=True)
class Source:
    """What an instance's tags say about drawing it: `kind` is empty for an image; `frames`, which to try, in this order."""

    series: str  # Orthanc's identifier, if the PatientID is ASCII
    kind: str
    frames: tuple[Frame, ...]
    rows: int
    columns: int


# Of an instance that Orthanc can't read: its transfer syntax is unknown to it.
UNREADABLE = Source("", "image", (), 0, 0)


def source_of(tags: Mapping[str, Any]) -> Source:
    """Return what the tags of an instance say, as Orthanc's `simplified-tags` gives them."""
    uid = str(tags.get("SOPClassUID", ""))
    known = [prefix for prefix in NO_IMAGES if uid == prefix or (prefix.endswith(".") and uid.startswith(prefix))]
    rows, columns = ((numbers(tags.get(name), 1) or (0,))[0] for name in ("Rows", "Columns"))
    kind = NO_IMAGES[max(known, key=len)] if known else ""
    if not kind and (rows < 1 or columns < 1):
        kind = "other"
    uids = (str(tags.get(name) or "") for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    frames = () if kind else tuple(_frame(tags, number) for number in _frames_to_try(tags))
    return Source(orthanc_identifier(*uids), kind, frames, int(rows), int(columns))


def _frames_to_try(tags: Mapping[str, Any]) -> list[int | None]:
    """Return the middle frame, its neighbours, and two before them: a file that was cut short still has these."""
    frames = int(min((numbers(tags.get("NumberOfFrames"), 1) or (1,))[0], 1e9))
    if frames <= 1:
        return [None]
    middle = frames // 2
    return [number for number in dict.fromkeys((middle, middle + 1, middle - 1, middle // 2, 0)) if number < frames]


def _frame(tags: Mapping[str, Any], number: int | None) -> Frame:
    return Frame(number, pixel_aspect(tags, number or 0), greys_of(tags, number or 0))


def pixel_aspect(tags: Mapping[str, Any], frame: int = 0) -> float:
    """Return the height of a pixel by its width; 1 where the tags say nothing sensible."""
    for found in (
        tags.get("PixelSpacing"),
        _measures(tags, "SharedFunctionalGroupsSequence", 0),
        _measures(tags, "PerFrameFunctionalGroupsSequence", frame),
        tags.get("ImagerPixelSpacing"),
        tags.get("NominalScannedPixelSpacing"),
        tags.get("PixelAspectRatio"),
    ):
        pair = numbers(found, 2)
        if pair and min(pair) > 0 and 0.05 < pair[0] / pair[1] < 20:
            return pair[0] / pair[1]
    return 1.0


def _measures(tags: Mapping[str, Any], sequence: str, index: int) -> object:
    return nth_item(nth_item(tags, sequence, index), "PixelMeasuresSequence", 0).get("PixelSpacing")


def fitted(rows: int, columns: int, aspect: float, size: int) -> tuple[int, int, int]:
    """Return width and height of a picture whose longer side is `size`, and the longer side of square pixels to make it of."""
    height, width = rows * aspect, float(columns)
    scale = size / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    enough = max(target[0] / columns, target[1] / rows) * max(rows, columns)
    return *target, min(4 * MAX_SIZE, math.ceil(enough))


# ---- src/series_thumbnail/renderer.py: Draws instances, by Orthanc's own rendering.


MAX_TRIES = 8  # instances looked at, from the middle outwards, until one can be drawn
MAX_UNDECODABLE_TRIES = 2  # of these, images that Orthanc could not decode: such files may be large
AVERAGED = (
    4  # times the size of a picture is what Orthanc is asked for, at most: where it shrinks, it leaves pixels out
)
PAM = "image/x-portable-arbitrarymap"  # which Orthanc makes and Python reads quickest
MAX_SOURCES_IN_MEMORY = 20_000  # instances whose tags need not be read again for another picture
Drawn = TypeVar("Drawn", bytes, Drawing | None)


class Renderer:
    """Draws over loopback HTTP: through the SDK it would hold the GIL, and with it every store."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback, self._has_pillow = loopback, has_pillow()
        self._undecodable: set[str] = set()  # transfer syntaxes that were logged
        self._sources: dict[str, Source] = {}
        self.drawn = 0

    def draw_first(self, instances: Iterator[str], options: RenderOptions) -> Picture:
        """Return the picture of the first instance that can be drawn, else the icon of the very first."""
        icon, failures = None, 0
        for _, instance in zip(range(MAX_TRIES), instances, strict=False):
            source = self.source(instance)
            content = None if source.kind else self._render(instance, source, options)
            if content is not None:
                self.drawn += 1
                return make_picture(content, options, instance)
            icon = icon or (source.kind or "image", instance)
            failures += not source.kind
            if failures == MAX_UNDECODABLE_TRIES:
                break
        if icon is None:
            raise Refused(404, "There is no instance any more")
        return make_picture(self._with_pillow(draw_icon, icon[0], options), options, icon[1], is_icon=True)

    def forget(self, instance: str) -> None:
        """Forget the tags of an instance: it was deleted, or stored again."""
        self._sources.pop(instance, None)

    def source(self, instance: str) -> Source:
        """Return what the tags of an instance say about drawing it."""
        source = self._sources.get(instance)
        if source is None:
            source = self._read(instance)
            if len(self._sources) >= MAX_SOURCES_IN_MEMORY:
                self._sources.clear()
            self._sources[instance] = source
        return source

    def _read(self, instance: str) -> Source:
        try:
            return source_of(self._loopback.get(f"/instances/{instance}/simplified-tags"))
        except LoopbackError as error:
            if error.status == 0:
                raise
            self._loopback.get(f"/instances/{instance}")  # raises if there is none
        self._log_undecodable(instance)
        return UNREADABLE

    def _render(self, instance: str, source: Source, options: RenderOptions) -> bytes | None:
        """Return a picture of the first frame that can be drawn; None if there is none."""
        for frame in source.frames:
            try:
                if content := self._draw(instance, source, frame, options):
                    return content
            except LoopbackError as error:
                if error.status == 0:
                    raise
            except (KeyError, ValueError):  # what Orthanc gives is no image: too short, or of another kind
                continue
        self._log_undecodable(instance)
        return None

    def _draw(self, instance: str, source: Source, frame: Frame, options: RenderOptions) -> bytes | None:
        """Return a frame in its window, or in its own range if the window leaves nothing to be seen. Raises `LoopbackError`."""
        drawing, greys = self._draw_greys(instance, source, frame, frame.greys, options), frame.greys
        has_window = greys and (greys.window or greys.by_orthanc) and self._has_pillow
        if drawing and greys and has_window and is_flat(drawing):
            greys = dataclasses.replace(greys, window=None, by_orthanc=False)
            better = self._draw_greys(instance, source, frame, greys, options)
            drawing = better if better and not is_flat(better) else drawing
        return drawing.content if drawing else None

    def _draw_greys(
        self, instance: str, source: Source, frame: Frame, greys: Greys | None, options: RenderOptions
    ) -> Drawing | None:
        """Return a frame as Orthanc renders it; drawn here if Orthanc can't."""
        window = ""
        if greys and greys.form:
            return self._with_pillow(self._draw_values, instance, source, frame, greys, options)
        if greys and not greys.by_orthanc:
            low, high = greys.window or self._own_range(instance, frame, greys)
            center, width = greys.as_orthanc_counts(low, high)
            if width < 1:  # which Orthanc takes for 1
                return self._with_pillow(self._draw_values, instance, source, frame, greys, options)
            window = f"&window-center={center:.6f}&window-width={width:.6f}"
        return self._draw_rendered(instance, source, frame, options, window)

    def _draw_rendered(
        self, instance: str, source: Source, frame: Frame, options: RenderOptions, window: str
    ) -> Drawing | None:
        width, height, box = fitted(source.rows, source.columns, frame.aspect, options.size)
        path = f"/instances/{instance}{frame.path}/rendered"
        longest = max(source.rows, source.columns)
        is_strip = min(source.rows, source.columns) * options.size < longest  # of which Orthanc would leave nothing
        is_plain = abs(math.log(frame.aspect)) <= 0.01 and not is_strip
        if is_plain and (longest <= options.size or not self._has_pillow):
            side = options.size
            path = f"{path}?width={side}&height={side}&quality={options.quality or 85}{window}"
            _, content = self._loopback.request_raw("GET", path, headers={"Accept": options.mime})
            return Drawing(content) if content.startswith((b"\xff\xd8\xff", b"\x89PNG")) else None
        box = max(box, min(AVERAGED * options.size, longest))
        path = f"{path}?width={box}&height={box}{window}"
        _, content = self._loopback.request_raw("GET", path, headers={"Accept": PAM})
        return self._with_pillow(lambda: resized(image_of_pam(content), width, height, options))

    def _own_range(self, instance: str, frame: Frame, greys: Greys) -> tuple[float, float]:
        _, content = self._loopback.request_raw("GET", f"/instances/{instance}{frame.path}/numpy?rescale=false")
        return own_range(values_of_npy(content) or (), greys.padding)

    def _draw_values(
        self, instance: str, source: Source, frame: Frame, greys: Greys, options: RenderOptions
    ) -> Drawing | None:
        """Return a picture of what Orthanc can't render: values of more than 16 bits, and those in a range below 1."""
        data, form = self._values(instance, source, frame, greys)
        image = image_of_values(data, source.rows, source.columns, form)
        if image is None:
            return None
        low, high = greys.window or own_range(samples(image, MAX_SAMPLES), greys.padding)
        if greys.slope < 0:
            low, high = high, low
        width, height, _ = fitted(source.rows, source.columns, frame.aspect, options.size)
        return resized(shown(image, low, high, greys.is_inverted), width, height, options)

    def _values(self, instance: str, source: Source, frame: Frame, greys: Greys) -> tuple[bytes, str]:
        path = f"/instances/{instance}"
        if greys.form in FLOATS.values():
            values = source.rows * source.columns * (4 if greys.form == FLOATS["FloatPixelData"] else 8)
            tag = "7fe0-0008" if greys.form == FLOATS["FloatPixelData"] else "7fe0-0009"
            _, content = self._loopback.request_raw("GET", f"{path}/content/{tag}")
            start = (frame.number or 0) * values
            return content[start : start + values], greys.form
        if not greys.form:
            _, content = self._loopback.request_raw("GET", f"{path}{frame.path}/numpy?rescale=false")
            return array.array("f", values_of_npy(content) or ()).tobytes(), "F;32F"
        syntax = self._syntax(instance)
        _, content = self._loopback.request_raw("GET", f"{path}/frames/{frame.number or 0}/raw")
        return native_frame(content, syntax, greys.form)

    def _log_undecodable(self, instance: str) -> None:
        self.forget(instance)
        syntax = self._syntax(instance)
        if syntax not in self._undecodable:
            self._undecodable.add(syntax)
            orthanc.LogWarning(
                f"series_thumbnail: Orthanc can't decode instance {instance}, transfer syntax {syntax}: an icon is shown. "
                "This is said once for each transfer syntax; a plugin that decodes it (orthanc-gdcm) may help"
            )

    def _syntax(self, instance: str) -> str:
        """Return the transfer syntax; one that Orthanc does not know is in the header of the file only."""
        path = f"/instances/{instance}"
        try:
            return one_line(self._loopback.request("GET", f"{path}/metadata/TransferSyntax").decode())
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._loopback.get(path)  # raises if there is no such instance
        try:
            return one_line(self._loopback.get(f"{path}/header")["0002,0010"]["Value"])
        except (LoopbackError, KeyError):
            return "unknown"

    def _with_pillow(self, draw: Callable[..., Drawn], *arguments: Any) -> Drawn:
        try:
            return draw(*arguments)
        except ImportError as error:
            raise Refused(
                503,
                f"series_thumbnail can't draw this picture ({error}): {package_problem('pillow', '9.4', None, 'python3-pil')}",
            ) from None


# ---- src/series_thumbnail/chooser.py: What is shown of a series, a study or an instance, and what is kept of it with the series.


MAX_SERIES = 100  # of a study, that are looked at for one of images


class Chooser:
    """Chooses what is drawn, and keeps the choice and the picture with the series.

    Parameters
    ----------
    chosen, kept : how Orthanc calls the metadata and the attachment.
    kept_options : of the picture that is kept with a series.
    """

    def __init__(
        self, loopback: Loopback, renderer: Renderer, chosen: str, kept: str, kept_options: RenderOptions
    ) -> None:
        self._loopback, self._renderer = loopback, renderer
        self._chosen, self._kept, self.kept_options = chosen, kept, kept_options

    def series(self, series: str, options: RenderOptions, has_grown: bool) -> Picture:
        """Return the picture of a series: the kept one, else one of the instance chosen before, else of one chosen now.

        `has_grown`: something has arrived since; choose again.
        """
        metadata = self._loopback.get(f"/series/{series}/metadata?expand")
        chosen, last_update = metadata.get(self._chosen), metadata.get("LastUpdate", "")
        picture = None
        if chosen and not has_grown:
            picture = self._kept_picture(series, chosen, last_update) if options == self.kept_options else None
            picture = picture or self._of_chosen(chosen, series, options)
            if (
                picture is not None and options != self.kept_options
            ):  # for the others, `keep` counts, while nobody waits
                picture.count = self.count("series", series)
        if picture is None:
            instances = self._instances(series)
            picture = self._renderer.draw_first(from_the_middle(in_order(instances)), options)
            picture.count = len(instances)
        picture.last_update, picture.was_chosen = last_update, picture.instance == chosen
        return picture

    def study(
        self, study: str, options: RenderOptions, series_picture: Callable[[str, RenderOptions], Picture]
    ) -> Picture:
        """Return the picture of the first series that is no icon, else the icon of the first."""
        first, count = None, self.count("studies", study)
        for series in self._series_of(study)[:MAX_SERIES]:
            picture = series_picture(series, options)
            first = first or picture
            if not picture.is_icon:
                return dataclasses.replace(picture, count=count, request_keys=[])
        if first is None:
            raise Refused(404, f"There is no study {study!r}, or it has no series")
        return dataclasses.replace(first, count=count, request_keys=[])

    def instance(self, instance: str, options: RenderOptions) -> Picture:
        """Return the picture of one instance, of its middle frame."""
        picture = self._renderer.draw_first(iter([instance]), options)
        picture.count = 1
        return picture

    def count(self, level: str, resource: str) -> int:
        """Return how many instances it has now; this alone costs Orthanc the same in an archive of any size."""
        found = self._loopback.get(f"/{level}/{resource}/statistics")
        if found["DicomDiskSize"] == "0":
            return 0  # what is not there: only Orthanc 1.13.0 answers so, the others 404
        return int(found.get("CountInstances", 1))

    def keep(self, series: str, picture: Picture) -> None:
        """Write the choice and, unless it is an icon, the picture to the series."""
        if picture.count is None:
            picture.count = self.count("series", series)
        if not picture.is_icon:
            content = with_note(picture.content, self._note(picture.instance, picture.count, picture.last_update))
            path = f"/series/{series}/attachments/{self._kept}"
            self._put(path, f"{path}/data", content)
        if not picture.was_chosen:
            path = f"/series/{series}/metadata/{self._chosen}"
            self._put(path, path, picture.instance.encode())

    def _put(self, path: str, reading: str, content: bytes) -> None:
        try:
            self._loopback.request_raw("PUT", path, content)
        except LoopbackError as error:
            if error.status != 409:
                raise
            # With "CheckRevisions" what is there already is replaced only by who has seen it.
            headers, _ = self._loopback.request_raw("GET", reading)
            self._loopback.request_raw("PUT", path, content, {"If-Match": headers.get("ETag", "")})

    def _note(self, instance: str, count: int, last_update: str) -> str:
        return f"thumbnail 2 {self.kept_options.size} {self.kept_options.quality} {instance} {count} {last_update}"

    def _kept_picture(self, series: str, chosen: str, last_update: str) -> Picture | None:
        """Return the attachment, if it was made of the series as it is now."""
        try:
            _, attachment = self._loopback.request_raw("GET", f"/series/{series}/attachments/{self._kept}/data")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return None
        content, note = without_note(attachment)
        if not note:
            return None
        picture = make_picture(content, self.kept_options, chosen)
        picture.count, picture.is_kept = self.count("series", series), True
        return picture if note == self._note(chosen, picture.count, last_update) else None

    def _of_chosen(self, instance: str, series: str, options: RenderOptions) -> Picture | None:
        """Return the picture of the instance that the metadata names, if it is one of the series."""
        try:
            if self._renderer.source(instance).series != series:
                return None  # or a PatientID that Orthanc has in another encoding: then it is chosen again
            return self._renderer.draw_first(iter([instance]), options)
        except LoopbackError as error:
            if error.status not in (400, 404):
                raise
            return None

    def _instances(self, series: str) -> list[dict[str, Any]]:
        """Return the instances of a series with their main tags, as they arrived."""
        if not self._loopback.has_extended_find:
            return list(self._loopback.get(f"/series/{series}/instances?expand"))  # in the order of arrival on 1.10.1
        query = {"Level": "Instance", "Query": {}, "ParentSeries": series, "ResponseContent": ["MainDicomTags"]}
        found = list(self._loopback.post("/tools/find", query))
        if found and not is_ordered(found):
            query["ResponseContent"] = ["MainDicomTags", "Metadata"]
            found = sorted(
                self._loopback.post("/tools/find", query), key=lambda each: each["Metadata"].get("ReceptionDate", "")
            )
        return found

    def _series_of(self, study: str) -> list[str]:
        """Return the series of a study by their Series Number."""
        if self._loopback.has_extended_find:
            query = {"Level": "Series", "Query": {}, "ParentStudy": study, "ResponseContent": ["MainDicomTags"]}
            found = self._loopback.post("/tools/find", query)
        else:
            found = self._loopback.get(f"/studies/{study}/series?expand")
        number = {each["ID"]: numbers(each["MainDicomTags"].get("SeriesNumber"), 1) or (math.inf,) for each in found}
        return sorted(number, key=lambda series: (number[series], series))


# ---- src/series_thumbnail/background.py: What is done while nobody waits for a picture.


YIELD_SECONDS = 1.0  # that it waits for those who ask, at most, before each piece of work


class Background:
    """One thread that draws what became stable, and keeps what was drawn.

    Parameters
    ----------
    draw : draws the picture of a series.
    keep : writes a picture to its series.
    nobody_waits : set while no request waits for a picture.
    """

    def __init__(
        self, draw: Callable[[str], None], keep: Callable[[str, Picture], None], nobody_waits: threading.Event
    ) -> None:
        self._draw, self._keep, self._nobody_waits = draw, keep, nobody_waits
        self._queue: queue.SimpleQueue[tuple[str, Picture | None] | None] = queue.SimpleQueue()
        self._stopping = False
        self._last_error = ""
        self.thread = threading.Thread(target=self._work, name="series-thumbnail-aside", daemon=True)

    def __len__(self) -> int:
        return self._queue.qsize()

    def add(self, series: str, picture: Picture | None = None) -> None:
        """Keep this picture of a series; without one, draw it."""
        self._queue.put((series, picture))

    def end(self) -> None:
        """End after what is under way; return at once."""
        self._stopping = True
        self._queue.put(None)

    def _work(self) -> None:
        while item := self._queue.get():
            series, picture = item
            self._nobody_waits.wait(YIELD_SECONDS)  # who asks is first, yet not for ever
            if self._stopping:
                continue
            try:
                if picture is None:
                    self._draw(series)
                else:
                    self._keep(series, picture)
                self._last_error = ""
            except Refused:
                pass  # what can't be drawn now is reported to who asks for it
            except LoopbackError as error:
                if error.status != 404:  # 404: deleted meanwhile
                    self._log_once(f"series_thumbnail could not keep the picture of series {series}: {one_line(error)}")
            except Exception:  # noqa: BLE001 - one bad series never ends the thread that serves all
                self._log_once(f"series_thumbnail met an error, please report it:\n{traceback.format_exc()}")

    def _log_once(self, text: str) -> None:
        if text != self._last_error and not self._stopping:
            orthanc.LogError(text)
        self._last_error = text


# ---- src/series_thumbnail/drawing.py: Draws pictures with few threads, each picture once, however many ask for it.


PICTURE_TIMEOUT_SECONDS = 60.0  # that a request waits for its picture
STOPS_WITHIN_SECONDS = 2.0  # that the end of Orthanc waits for the threads
MAX_WAITING_TO_BE_KEPT = 10_000  # pictures that wait to be written, at most


@dataclasses.dataclass(eq=False)
class Task:
    """A picture that somebody waits for. `spoiled`: its resource has changed meanwhile."""

    level: str
    resource: str
    options: RenderOptions
    future: concurrent.futures.Future[Picture] = dataclasses.field(default_factory=concurrent.futures.Future)
    spoiled: bool = False


class DrawingPool:
    """Gives pictures from memory, lets its threads draw the others, and keeps those of series in the background.

    Parameters
    ----------
    threads : that draw at a time for those who ask.
    max_waiting : requests that may wait for a picture: each holds one of Orthanc's HTTP threads, and to draw takes others.
    """

    def __init__(self, chooser: Chooser, cache: Cache, archive: Archive, threads: int, max_waiting: int) -> None:
        self._chooser, self._cache, self._archive, self._max_waiting = chooser, cache, archive, max_waiting
        self._asked: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._tasks: dict[tuple[str, RenderOptions], Task] = {}
        self._changed: set[str] = set()  # series whose kept picture may be of another day
        self._lock = threading.Lock()
        self.waiting = 0
        self._nobody_waits = threading.Event()
        self._nobody_waits.set()
        self.background = Background(self._draw_ahead, chooser.keep, self._nobody_waits)
        self._threads = [
            threading.Thread(target=self._draw, name=f"series-thumbnail-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in (*self._threads, self.background.thread):
            thread.start()

    def stop(self) -> None:
        """End the threads after what is under way; leave those behind that take long."""
        for _ in self._threads:
            self._asked.put(None)
        self.background.end()
        deadline = time.monotonic() + STOPS_WITHIN_SECONDS
        for thread in (*self._threads, self.background.thread):
            thread.join(max(0, deadline - time.monotonic()))

    def forget(self, resource: str, has_grown: bool) -> None:
        """Forget the pictures of a resource that has changed or is gone; `has_grown`: the middle may be another now."""
        with self._lock:
            if has_grown:
                self._changed.add(resource)
            else:
                self._changed.discard(resource)
            for task in self._tasks.values():
                task.spoiled = task.spoiled or task.resource == resource
        self._cache.drop(resource)

    def accept_kept(self, series: str) -> None:
        """Take the kept picture of a series for right, although the series has grown: it is checked when it is used."""
        self._changed.discard(series)

    def get(self, level: str, resource: str, options: RenderOptions) -> Picture:
        """Return a picture, drawn if need be. Raises `Refused`, TimeoutError, and LoopbackError of whatever drew it."""
        with self._lock:
            if self.waiting >= self._max_waiting:
                raise Refused(503, "Too many pictures are waited for; try again in a second")
            self.waiting += 1
            self._nobody_waits.clear()
        try:
            task, is_new = self._task(level, resource, options)
            if is_new:
                self._asked.put(task)
            return task.future.result(PICTURE_TIMEOUT_SECONDS)
        finally:
            with self._lock:
                self.waiting -= 1
                if not self.waiting:
                    self._nobody_waits.set()

    # Threads

    def _draw(self) -> None:
        while task := self._asked.get():
            self._run(task)

    def _draw_ahead(self, series: str) -> None:
        task, is_new = self._task("series", series, self._chooser.kept_options)
        if is_new:  # else somebody has asked for it
            self._run(task)
            task.future.result()

    def _task(self, level: str, resource: str, options: RenderOptions) -> tuple[Task, bool]:
        """Return the task for a picture, and whether there was none: then it is the caller's to run it."""
        with self._lock:
            if (resource, options) in self._tasks:
                return self._tasks[resource, options], False
            task = self._tasks[resource, options] = Task(level, resource, options)
            return task, True

    def _run(self, task: Task) -> None:
        try:
            picture = self._obtain(task)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            with self._lock:
                del self._tasks[task.resource, task.options]
            task.future.set_exception(error)
        else:
            with self._lock:
                del self._tasks[task.resource, task.options]
                if not task.spoiled:
                    self._cache.put(task.resource, task.options, picture)
            task.future.set_result(picture)

    def _obtain(self, task: Task) -> Picture:
        """Return the picture in memory, if its resource is as it was; else draw one."""
        picture, begun = self._cache.get(task.resource, task.options), time.monotonic()
        # What is drawn now may name any earlier state: if that is still so then, nothing has changed since.
        state = self._archive.get_state() if picture else self._archive.state
        if picture is not None:
            if picture.archive is state:
                return picture
            count = self._chooser.count(task.level, task.resource)
            if picture.count in (None, count):
                picture.count, picture.checked, picture.archive = count, begun, state
                return picture
            self._cache.drop(task.resource)
            if task.level == "series":
                self._changed.add(task.resource)
        if task.level == "series":
            picture = self._series(task)
        elif task.level == "studies":
            picture = self._chooser.study(task.resource, task.options, self._series_of_study)
        else:
            picture = self._chooser.instance(task.resource, task.options)
        picture.checked, picture.archive = begun, state
        return picture

    def _series(self, task: Task) -> Picture:
        has_grown, is_kept_size = task.resource in self._changed, task.options == self._chooser.kept_options
        picture = self._chooser.series(task.resource, task.options, has_grown)
        if not task.spoiled and is_kept_size:
            if has_grown:
                self._changed.discard(task.resource)
            if not picture.is_kept and len(self.background) < MAX_WAITING_TO_BE_KEPT:
                self.background.add(task.resource, picture)
        return picture

    def _series_of_study(self, series: str, options: RenderOptions) -> Picture:
        task, is_new = self._task("series", series, options)
        if is_new:
            self._run(task)
            return task.future.result()
        # Another thread draws it, or will: never wait here for one that may wait for this.
        return self._obtain(Task("series", series, options, spoiled=True))


# ---- src/series_thumbnail/routes.py: The routes of the script.


class Routes:
    """Answers with pictures, most of them from memory."""

    def __init__(
        self, settings: Settings, pool: DrawingPool, cache: Cache, archive: Archive, renderer: Renderer
    ) -> None:
        self._settings, self._pool, self._cache = settings, pool, cache
        self._archive, self._renderer = archive, renderer
        self._answered = self._icons = 0  # since the start

    @takes(PARAMETERS)
    @answers(200, 304, 406, media=(JPEG, PNG))
    def of_series(self, request: Request) -> Answer:
        """The middle image of a series, else an icon; `?size=`, `?format=jpeg` or `png`, `?quality=`, `?icon=false`."""
        return self._answer("series", request)

    @takes(PARAMETERS)
    @answers(200, 304, 406, media=(JPEG, PNG))
    def of_study(self, request: Request) -> Answer:
        """The middle image of a study's first series of images, else an icon; parameters as for a series."""
        return self._answer("studies", request)

    @takes(PARAMETERS)
    @answers(200, 304, 406, media=(JPEG, PNG))
    def of_instance(self, request: Request) -> Answer:
        """One instance, of several frames the middle one, else an icon; parameters as for a series."""
        return self._answer("instances", request)

    def status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs, how many pictures are in memory, were drawn since the start, are waited for, and wait to be kept."""
        return {
            "InMemory": {"Pictures": self._cache.pictures, "Bytes": self._cache.bytes},
            "Drawn": self._renderer.drawn,
            "Waiting": self._pool.waiting,
            "Background": len(self._pool.background),
        }

    def measure(self) -> dict[str, float]:
        """Return its metrics."""
        return {
            "answered": self._answered,
            "icons": self._icons,
            "drawn": self._renderer.drawn,
            "waiting": self._pool.waiting,
            "background": len(self._pool.background),
            "memory_bytes": self._cache.bytes,
        }

    def _count(self, picture: Picture) -> None:
        self._answered += 1
        self._icons += picture.is_icon

    def answer_from_cache(self, output: Any, uri: str, raw: Mapping[str, Any]) -> bool:
        """Answer what was asked before, in the same words: most requests, in a fifth of the time; return whether it could."""
        if raw["method"] != "GET":
            return False
        headers = raw["headers"]
        picture = self._cache.answers.get((uri, headers.get("accept"), tuple(raw["get"].items())))
        if picture is None or not self._archive.is_believed(picture):
            return False
        self._count(picture)
        output.SetHttpHeader("ETag", picture.etag)
        output.SetHttpHeader("Cache-Control", "private, no-cache")
        if is_known(picture, headers.get("if-none-match")):
            output.SendHttpStatusCode(304)
        else:
            output.AnswerBuffer(picture.content, picture.mime)
        return True

    def _answer(self, level: str, request: Request) -> Answer:
        options, icon_will_do = wanted(
            tuple(request.parameters.items()), request.headers.get("accept", "*/*"), self._settings
        )
        picture = self._picture(level, request.groups[0], options)
        if picture.is_icon and not icon_will_do:
            raise Refused(404, "There is no image to draw, only an icon; icon=false refuses icons")
        self._count(picture)
        # What the same words get from now on; not where icon=false has decided.
        if icon_will_do:
            request_key = request.uri, request.headers.get("accept"), tuple(request.query.items())
            self._cache.learn(request_key, request.groups[0], options, picture)
        # Each use asks whether it is still right, and every format has an ETag of its own: Vary would add nothing.
        headers = {"ETag": picture.etag, "Cache-Control": "private, no-cache"}
        if is_known(picture, request.headers.get("if-none-match")):
            return Answer(b"", 304, headers=headers)
        return Answer(picture.content, mime=picture.mime, headers=headers)

    def _picture(self, level: str, resource: str, options: RenderOptions) -> Picture:
        picture = self._cache.get(resource, options)
        if picture is not None and self._archive.is_believed(picture):
            return picture
        if not is_orthanc_identifier(resource):
            raise Refused(404, f"There is no {one_line(resource)[:60]!r} among the {level}")
        try:
            return self._pool.get(level, resource, options)
        except LoopbackError as error:
            if error.status in (400, 404):  # 400 of 1.10.1: it is here at another level
                raise Refused(404, f"There is no {resource!r} among the {level}") from None
            raise Refused(503, f"Orthanc could not give what the picture is made of: {one_line(error)}") from None
        except TimeoutError:
            raise Refused(503, f"The picture took longer than {PICTURE_TIMEOUT_SECONDS:.0f} s; try again") from None


# ---- src/series_thumbnail/thumbnails.py: The script from its start to its stop, and what Orthanc reports in between.


STARTS_WITHIN_SECONDS = 5.0  # that a request waits for the script
LEVEL_OF_SERIES = 2  # as OnChange numbers them
MAX_CACHE_BYTES = 64e6  # of pictures that are asked for often
DRAWING_THREADS = 4  # for those who ask
SPARE_HTTP_THREADS = 3  # of Orthanc's, that neither wait for pictures nor serve what draws them


class Thumbnails:
    """Makes the parts of the script, starts and stops them, and hands on what Orthanc reports."""

    def __init__(
        self, settings: Settings, loopback: Loopback, chosen: str, kept: str, configuration: Mapping[str, Any]
    ) -> None:
        self.unavailable: str | None = "series_thumbnail has not started yet"
        self._settings = settings
        self._http_threads = int(configuration.get("HttpThreadsCount", 50))
        # Each picture that is waited for holds one of Orthanc's HTTP threads, and what draws it needs others.
        threads = min(DRAWING_THREADS, max(1, self._http_threads // 4))
        self._max_waiting = self._http_threads - threads - SPARE_HTTP_THREADS
        self._renderer = Renderer(loopback)
        kept_options = RenderOptions(settings.size, JPEG, DEFAULT_QUALITY)
        chooser = Chooser(loopback, self._renderer, chosen, kept, kept_options)
        cache, archive = Cache(MAX_CACHE_BYTES), Archive(loopback)
        self._pool = DrawingPool(chooser, cache, archive, threads, self._max_waiting)
        self.routes = Routes(settings, self._pool, cache, archive, self._renderer)
        self._is_decided, self._is_off = threading.Event(), False  # whether it has started or can't; whether it can't
        change = orthanc.ChangeType
        self._forgets = {int(change.NEW_INSTANCE), int(change.NEW_CHILD_INSTANCE), int(change.DELETED)}
        self._started, self._stopped = int(change.ORTHANC_STARTED), int(change.ORTHANC_STOPPED)
        self._grows, self._stable = int(change.NEW_CHILD_INSTANCE), int(change.STABLE_SERIES)

    def on_change(self, change: int, level: int, resource: str) -> None:
        """Take what Orthanc reports; return at once."""
        if change in self._forgets:
            self._renderer.forget(resource)
            self._pool.forget(resource, change == self._grows and level == LEVEL_OF_SERIES)
        elif change == self._stable and self.unavailable is None:
            if self._settings.make_ahead:
                self._pool.background.add(resource)
            else:
                self._pool.accept_kept(resource)
        elif change == self._started:
            try:
                self._start()
            finally:
                self._is_decided.set()
        elif change == self._stopped:
            self._stop()

    def why_not(self) -> str | None:
        """Return why the routes can't answer, or None; Orthanc answers requests a moment before it says that it has started."""
        self._is_decided.wait(STARTS_WITHIN_SECONDS)
        return self.unavailable

    def condition(self) -> Condition:
        """Return whether the script works."""
        if reason := self.unavailable:
            return misconfigured(reason) if self._is_off else Condition(IDLE, reason)
        return Condition(RUNNING)

    def _start(self) -> None:
        if self._max_waiting < 1:
            self._is_off = True
            self.unavailable = (
                f"series_thumbnail stays idle: HttpThreadsCount is {self._http_threads}, allowed: at least 5"
            )
            orthanc.LogError(self.unavailable)
            return
        self._pool.start()
        self.unavailable = None

    def _stop(self) -> None:
        was_running = self.unavailable is None
        self.unavailable = "series_thumbnail has stopped"
        if was_running:
            self._pool.stop()


# ---- src/series_thumbnail/__init__.py


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings, chosen, kept = None, Settings(), "", ""
    try:
        settings = read_settings(Settings, SECTION, configuration)
        chosen, hint = user_number(configuration, "UserMetadata", CHOSEN, CHOSEN_NUMBER)
        kept, other_hint = user_number(configuration, "UserContentType", KEPT, KEPT_NUMBER)
        for text in filter(None, (hint, other_hint)):
            orthanc.LogWarning(f"series_thumbnail: {text}")
    except SettingsError as error:
        refusal = f"{error}. series_thumbnail is idle until this is corrected."
    loopback = Loopback(configuration)
    if refusal is None and not loopback.enabled:
        refusal = 'series_thumbnail stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
    if refusal is not None:
        orthanc.LogError(refusal)
    thumbnails = Thumbnails(settings, loopback, chosen, kept, configuration)
    routes = thumbnails.routes

    def unavailable() -> str | None:
        return refusal or thumbnails.why_not()

    def look() -> Condition:
        return misconfigured(refusal) if refusal else thumbnails.condition()

    handlers = {"series": routes.of_series, "studies": routes.of_study, "instances": routes.of_instance}
    for level, handler in handlers.items():
        register_route(f"/{level}/([^/]+)/thumbnail", {"GET": handler}, unavailable, routes.answer_from_cache)
    script = register_status("series_thumbnail", look, routes.status, unavailable)
    if refusal is not None:
        listen_to_changes(script)
        return
    if settings.explorer:
        extend_explorer()
    listen_to_changes(script, thumbnails.on_change, routes.measure)


register()
