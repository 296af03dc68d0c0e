# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/anonymize_series/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""De-identifies stable series or studies by rules, sends the copies on, and takes what comes back to its patient.

UIDs and pseudonyms are made from a secret: the next series of a patient gets the same. What may show a face or a name in
its pixels, and what is no image, is held back; each copy is read again, and held back if it still says who the patient is.

A smallest configuration (the secret has at least 32 characters; without one the script stays idle):

    "AnonymizeSeries": {
      "Secret": "${ANONYMIZE_SECRET}",
      "Recipes": {"ai": {"Modality": "AI", "DeleteCopy": true}},
      "Rules": [{"Level": "Series", "Query": {"Modality": "MR"}, "Destinations": ["ai"]}]
    }

To look at and to act on, with curl:

    POST /anonymize-series/{id}                   {"Recipe": "ai"}: a study or a series, whatever the rules say
    POST /anonymize-series/{id}/re-identify       what came back for a copy (with "ReIdentify": true)
    GET  /anonymize-series/status                 and /jobs?state=dead  /jobs/{id}  /held  /register?patient=
    POST /anonymize-series/jobs/{id}/retry        and DELETE /anonymize-series/jobs/{id}

Needs pydicom, 2.3 or newer: apt install python3-pydicom, or as docs/install.md says. All keys: docs/anonymize_series.md.
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
import hmac
import http
import http.client
import importlib.util
import inspect
import io
import ipaddress
import itertools
import json
import os
import random
import re
import sqlite3
import ssl
import stat
import struct
import sys
import threading
import time
import traceback
import types
import typing
import unicodedata
import urllib.parse
import urllib.request
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, TypedDict, Unpack

try:
    import pydicom
    import pydicom.charset
    import pydicom.datadict
except ImportError:
    pydicom = None

import orthanc


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


# ---- src/anonymize_series/archive.py: What is asked of this Orthanc, where anything may have been deleted meanwhile.


class Archive:
    """The resources of this Orthanc. Each call raises `LoopbackError` if Orthanc can't answer now."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback

    def file(self, instance: str) -> bytes | None:
        """Return the file of an instance, or None if it was deleted."""
        try:
            return self._loopback.request_raw("GET", f"/instances/{instance}/file")[1]
        except LoopbackError as error:
            if error.status != 404:
                raise
            return None

    def level_of(self, resource: str) -> str | None:
        """Return whether this is a Study, a Series or an Instance; None if there is no such one."""
        for level in ("Study", "Series", "Instance"):
            try:
                self._loopback.get(f"/{PLURAL[level]}/{resource}")  # 1.10.1 answers 400 to …/instances of another level
            except LoopbackError as error:
                if error.status != 404:
                    raise
            else:
                return level
        return None

    def instances(self, level: str, resource: str) -> list[str]:
        """Return the instances of a resource, none if it was deleted."""
        return instances_of(self._loopback, level, resource)

    def tag(self, level: str, resource: str, keyword: str) -> str:
        """Return a main DICOM tag of a resource, "" if it has none."""
        return str(self._loopback.get(f"/{PLURAL[level]}/{resource}")["MainDicomTags"].get(keyword, ""))

    def study_uid(self, instance: str) -> str:
        """Return the StudyInstanceUID of an instance, "" if it has none."""
        return str(self._loopback.get(f"/instances/{instance}/study")["MainDicomTags"].get("StudyInstanceUID", ""))

    def metadata(self, instances: list[str]) -> dict[str, dict[str, str]]:
        """Return the metadata of those instances that are there."""
        found = self._loopback.post("/tools/bulk-content", {"Resources": instances, "Metadata": True})
        return {each["ID"]: each.get("Metadata", {}) for each in found}

    def delete(self, instance: str) -> None:
        """Delete an instance, if it is there."""
        try:
            self._loopback.request("DELETE", f"/instances/{instance}")
        except LoopbackError as error:
            if error.status != 404:
                raise


# ---- src/anonymize_series/settings.py: The section `AnonymizeSeries` of the configuration.


SECTION = "AnonymizeSeries"
NAME = "anonymize-series"
MIN_SECRET_CHARACTERS = 32
RE_IDENTIFY_NAME = "(re-identify)"  # where a recipe would be named: no recipe can be called so


def wrong_secret(secret: str | None) -> str | None:
    """Return what is allowed, if this is no secret."""
    allowed = f"at least {MIN_SECRET_CHARACTERS} characters"
    return None if secret is None or len(secret) >= MIN_SECRET_CHARACTERS else allowed


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How something is de-identified, and where the copy is sent."""

    keep: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "Tags that stay, by keyword or `gggg,eeee`; they are not looked at afterwards."}
    )
    replace: dict[str, str] = dataclasses.field(default_factory=dict, metadata={"help": "Tags that get another value."})
    remove: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "Tags that are removed, besides those of the profile."}
    )
    keep_private_tags: bool = dataclasses.field(
        default=False, metadata={"help": "Private tags stay, where the analysis needs them. They may hold names."}
    )
    dicom_version: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                "Edition of DICOM PS3.15 whose profile Orthanc applies (`2021b`, …), if a protocol names one; "
                "null: its newest."
            )
        },
    )
    allow_burned_in: bool = dataclasses.field(
        default=False, metadata={"help": "Also images that may show names or faces in their pixels."}
    )
    allow_non_images: bool = dataclasses.field(
        default=False,
        metadata={"help": "Also what has no pixels: reports, documents, plans. It may hold names as text."},
    )
    modality: str | None = dataclasses.field(default=None, metadata={"help": "The copy is sent to this DICOM node."})
    peer: str | None = dataclasses.field(default=None, metadata={"help": "The copy is sent to this Orthanc."})
    stow: str | None = dataclasses.field(
        default=None, metadata={"help": "The copy is sent to this server of the DICOMweb plugin."}
    )
    whole: bool = dataclasses.field(
        default=False,
        metadata={"help": "Where one image of a series (or study) is held back, make no copy of the others either."},
    )
    delete_copy: bool = dataclasses.field(
        default=False, metadata={"help": "Delete the copy when it has arrived there."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AnonymizeSeries`."""

    secret: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": wrong_secret,
            "help": (
                "Text of at least 32 characters, from which UIDs and pseudonyms are made. Keep it: another one "
                "makes others."
            ),
        },
    )
    recipes: dict[str, Recipe] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "How something is de-identified and where the copy is sent, by name (below)."},
    )
    rules: tuple[Rule, ...] = dataclasses.field(
        default=(), metadata={"help": "What is de-identified by itself; `Destinations` are names of recipes."}
    )
    rule_mode: str = dataclasses.field(
        default="first",
        metadata={
            "choices": ("first", "all"),
            "help": "`first`: the first rule that matches decides. `all`: each rule that matches makes its copies.",
        },
    )
    pseudonym_prefix: str = dataclasses.field(
        default="ANON-", metadata={"help": "What PatientID and PatientName of copies begin with."}
    )
    re_identify: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "Allow results to be taken back into the original study, and the register to be read over HTTP."
        },
    )
    results: Origin | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                'Where results come from that are taken back by themselves: `{"RemoteAET": ["AI"]}`; null: from '
                "nowhere."
            )
        },
    )
    delete_results: bool = dataclasses.field(
        default=False, metadata={"help": "Delete a result as it came in, when it has been put into the original study."}
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "For how long what failed is tried again."})
    reconcile: bool = reconcile_field()
    durability: str = durability_field("the register survives")
    state_path: str | None = state_path_field("the register")
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that finished work stays in the list."}
    )


def wrong_with_settings(settings: Settings, configuration: Mapping[str, Any]) -> str | None:
    """Return what is wrong beyond types, by its key; None if all is well."""
    extra = [tag for tags in (configuration.get("ExtraMainDicomTags") or {}).values() for tag in tags]
    for number, rule in enumerate(settings.rules):
        if complaint := _wrong_with_rule(f"Rules[{number}]", rule, extra, settings.recipes):
            return complaint
    for name, recipe in settings.recipes.items():
        if complaint := _wrong_with_recipe(name, recipe):
            return complaint
    if settings.results == Origin():
        return "Results: found no condition, allowed: at least one (RemoteAET, CalledAET, RemoteIP, Method, User)"
    if settings.results is not None and not settings.re_identify:
        return 'ReIdentify: found false, allowed: true, with "Results"'
    return None


def _wrong_with_rule(path: str, rule: Rule, extra_tags: Iterable[str], recipes: Mapping[str, Recipe]) -> str | None:
    if complaint := wrong_with(rule, extra_tags):
        return f"{path}.{complaint}"
    if rule.level == "Patient":
        return f'{path}.Level: found "Patient", allowed: "Study", "Series"'
    if unknown := [name for name in rule.destinations or () if name not in recipes]:
        return f"{path}.Destinations: found {json.dumps(unknown[0])}, allowed: {names_of(recipes)}"
    return None if recipes else f"Recipes: found none, allowed: at least one, for {path}"


def _wrong_with_recipe(name: str, recipe: Recipe) -> str | None:
    if not name or name == RE_IDENTIFY_NAME:
        return f"Recipes: found {json.dumps(name)}, allowed: another name"
    if len(places := [each for each in (recipe.modality, recipe.peer, recipe.stow) if each is not None]) > 1:
        return f"Recipes.{name}: found {' and '.join(places)}, allowed: one of Modality, Peer, Stow"
    if recipe.delete_copy and not places:
        return f"Recipes.{name}.DeleteCopy: found true, allowed: only with Modality, Peer or Stow"
    return _wrong_with_tags(f"Recipes.{name}", recipe)


def _wrong_with_tags(path: str, recipe: Recipe) -> str | None:
    for key, tags in (("Keep", recipe.keep), ("Remove", recipe.remove), ("Replace", recipe.replace)):
        if wrong := [tag for tag in tags if tag_number(tag) is None]:
            return f"{path}.{key}: found {json.dumps(wrong[0])}, allowed: DICOM keywords, or gggg,eeee"
    if wrong := [tag for tag, value in recipe.replace.items() if not isinstance(value, str)]:
        return f"{path}.Replace.{wrong[0]}: found {json.dumps(recipe.replace[wrong[0]])}, allowed: a text"
    tags = (*recipe.keep, *recipe.replace)
    if made_here := [tag for tag in tags if tag in ("PatientID", "PatientName") or _is_uid(tag)]:
        return f"{path}: found {made_here[0]}, allowed: no UID, no PatientID, no PatientName: the script makes them"
    return None


def names_of(recipes: Iterable[str]) -> str:
    """Return the names of recipes, as an error lists them."""
    return ", ".join(map(json.dumps, recipes)) or "none, for there are no Recipes"


def tag_number(text: str) -> int | None:
    """Return the number of a tag by its keyword, or as gggg,eeee; None if it is none."""
    if found := re.fullmatch("([0-9A-Fa-f]{4})[,-]?([0-9A-Fa-f]{4})", text):
        return int(found[1] + found[2], 16)
    number = pydicom.datadict.tag_for_keyword(text) if pydicom else 0
    return None if number is None else int(number)


def _is_uid(tag: str) -> bool:
    number = tag_number(tag)
    with contextlib.suppress(KeyError):
        return bool(pydicom and number and pydicom.datadict.dictionary_VR(number) == "UI")
    return False


# ---- src/anonymize_series/tasks.py: What is to be done with a row of the ledger, and what a person sees of that.


# The queue of a row to be anonymized has the name of its recipe; the others have none.
ROUTE, ANONYMIZE, RE_IDENTIFY = "route", "anonymize", "re-identify"
NO_RECIPE = ""
FIRST_TASKS = f"""
UPDATE work SET task=CASE queue WHEN '' THEN '{ROUTE}' WHEN '{RE_IDENTIFY_NAME}' THEN '{RE_IDENTIFY}' ELSE '{ANONYMIZE}' END,
    queue=CASE queue WHEN '{RE_IDENTIFY_NAME}' THEN '{NO_RECIPE}' ELSE queue END;
"""  # of a ledger whose rows had no task, but a queue that no recipe was called


def recipe_or_task(row: Mapping[str, Any]) -> str:
    """Return what the routes and the log call it: the recipe, or what is done instead; "" while the rules are applied."""
    return str({ROUTE: "", RE_IDENTIFY: RE_IDENTIFY_NAME}.get(row["task"], row["queue"]))


# ---- src/anonymize_series/attempts.py: Attempts at rows of work: each is done, fails and is tried again, or is given up.


ROWS_PER_LOOK = 10
Step = Callable[[Mapping[str, Any], dict[str, Any]], None]  # does a row, which it gets with its data


class Stopping(Exception):  # noqa: N818 - it is no fault
    """Orthanc ends: what is under way is done again from its beginning, which changes nothing."""


class NotNow(Exception):  # noqa: N818 - it is no fault
    """It has to wait for something else, with the reason."""


class Impossible(Exception):  # noqa: N818 - it is an answer
    """Trying again changes nothing, with the reason."""


class Attempts:
    """Makes attempts at rows of work until Orthanc ends (`stopping`)."""

    def __init__(self, ledger: Ledger, work: Work, retry: Retry, stopping: threading.Event, trouble: Trouble) -> None:
        self._ledger, self._work, self._retry, self._stopping, self._trouble = ledger, work, retry, stopping, trouble

    def work_off(self, task: str, recipe: str, step: Step) -> None:
        """Do the rows of a task and recipe that are due, one after the other.

        Raises
        ------
        Stopping, sqlite3.Error, OSError, LoopbackError : what was under way is done again later.
        """
        while rows := self._ledger.due(recipe, ROWS_PER_LOOK, self._retry.longest, task):
            for row in rows:
                self.go_on()
                if not self._work.claim(row["id"]):
                    continue  # a person has dropped it while those before it were worked off
                row["attempts"] += 1
                self._attempt(row, step)

    def _attempt(self, row: Mapping[str, Any], step: Step) -> None:
        try:
            step(row, json.loads(row["data"]))
        except Impossible as reason:
            self.fail(row, str(reason), give_up=True)
        except NotNow as reason:
            self.fail(row, str(reason))
        except LoopbackError as error:
            if error.status == 0:
                self._work.wait_again(row["id"])
                raise
            self.fail(row, str(error))
        except (Stopping, sqlite3.Error, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a file that pydicom can't read, a user's matcher
            self.fail(row, f"{type(error).__name__} at {where_raised(error)}")

    def go_on(self) -> None:
        """Raise `Stopping` if Orthanc ends."""
        if self._stopping.is_set():
            raise Stopping

    def fail(self, row: Mapping[str, Any], error: str, *, give_up: bool = False) -> None:
        """Write down that an attempt has failed, and log it the first and the last time."""
        state = self._ledger.fail(row["id"], one_line(error), self._retry, give_up=give_up)
        text = f"{NAME}: {recipe_or_task(row) or 'applying the rules'} failed for {row['subject']}: {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            orthanc.LogError(f"{text}. Given up; POST /{NAME}/jobs/{row['id']}/retry tries again")
        elif row["attempts"] <= 1:
            orthanc.LogWarning(f"{text}. It will be tried again")


def where_raised(error: BaseException) -> str:
    """Return where an error was raised: its text may hold a patient's data."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


# ---- src/anonymize_series/profile_table.py: DICOM PS3.15 Table E.1-1 as data: what the Basic Profile asks for each attribute.


PROFILE_EDITION = "2026c"  # of the standard
# The action of the Basic Profile, the group, and the elements. D: a dummy; Z: empty; X: removed; U: another UID. Of several,
# the first that the IOD allows.
PROFILE = """
D 0008 0106 0107
D 0012 0010 0020 0040 0042 0081
D 0018 11BB 9074 9151 9367 9369 936A 9371 9623 9701 9804
D 0034 0001 0002 0005 0007
D 003A 0314
D 0040 0512 0551 1101 A027 A030 A073 A075 A120 A121 A122 A123 A13A A730
D 0042 0011
D 0044 0104
D 0068 6226 6270
D 006A 0003 0005
D 0070 0001 0006
D 0072 000A 005E 005F 0061 0063 0065 0066 0068 006A 006B 006C 006D 006E 0070 0071
D 0400 0105 0115 0562 0563 0565
D 2100 0140
D 3006 0002
D 3008 0024 0025 0162 0164 0166 0168
D 300A 0002 022C 022E 0608 0619 0623 062A 067C 0734 0736 073A 0741 0742 0760 0783
D 300C 0127
D 3010 002D 0033 0034 0035 0038 0054
Z 0008 0020 0030 0050 0090 009C
Z 0010 0010 0030 0040
Z 0012 0021 0030 0031 0050 0060
Z 0018 1203
Z 0020 0010
Z 0040 0513 0562 0610 2016 2017 A082 A088
Z 0400 0564
Z 3006 0008 0009 0026 00A6
Z 300A 0611 0615 067D
Z 300E 0004 0005
Z 3010 000F 0017 001B 0043 005A 005C 007A 007B 007F 0081
X 0000 1000
X 0008 0015 0024 0025 0034 0035 0054 0055 0081 0092 0094 0096 009D 0201 1000 1030 103E 1040 1041 1048 1049 1050 1052
X 0008 1060 1062 1080 1084 1088 1120 1301 1302 1303 1304 2111 4000
X 0010 0011 0012 0013 0014 0015 0016 0021 0032 0041 0042 0043 0044 0045 0046 0047 0050 0101 0102 1000 1001 1002 1005
X 0010 1010 1020 1030 1040 1050 1060 1080 1081 1090 1100 2000 2110 2150 2152 2154 2155 2160 2161 2162 2180 21A0 21B0
X 0010 21C0 21D0 21F0 2297 2299 4000
X 0012 0022 0023 0032 0041 0043 0051 0055 0071 0072 0073 0082 0086 0087
X 0014 407C 407E
X 0016 002B 004B 004D 004E 004F 0050 0051 0070 0071 0072 0073 0074 0075 0076 0077 0078 0079 007A 007B 007C 007D 007E
X 0016 007F 0080 0081 0082 0083 0084 0085 0086 0087 0088 0089 008A 008B 008C 008D 008E
X 0018 0027 0035 1004 1005 1007 1008 1009 100A 1010 1011 1012 1014 1042 1043 1072 1073 1078 1079 1200 1201 1202 1204
X 0018 1205 4000 5011 9185 9373 937B 937F 9424 9937 A002 A003
X 0020 0027 3401 3403 3405 3406 4000 9158
X 0028 4000
X 0032 0012 0032 0033 0034 0035 1000 1001 1010 1011 1020 1021 1030 1032 1033 1040 1041 1050 1051 1066 1067 1070 4000
X 0038 0004 0010 0011 0014 001A 001B 001C 001D 001E 0020 0021 0030 0032 0040 0050 0060 0061 0062 0064 0300 0400 0500
X 0038 4000
X 003A 0020 0203 020C 0329 032B
X 0040 0001 0002 0003 0004 0005 0006 0007 0009 000B 0010 0011 0012 0241 0242 0243 0244 0245 0250 0251 0253 0254 0275
X 0040 0280 0310 050A 051A 0556 0600 0602 06FA 1001 1002 1004 1005 100A 1010 1011 1102 1103 1104 1400 2001 2004 2005
X 0040 2008 2009 2010 2011 2400 3001 4005 4008 4010 4011 4025 4027 4028 4030 4034 4035 4036 4037 4050 4051 4052 A023
X 0040 A024 A033 A034 A035 A078 A07A A07C A110 A112 A192 A193 A307 A352 A353 A354 A358 B034 B036 B03B B03F DB06 DB07
X 0040 E004 E012
X 0044 0004 000B 0010 0105
X 0050 001B 0020 0021
X 006A 0006
X 0070 0082 0083 0086
X 0074 1234 1236
X 0088 0200 0904 0906 0910 0912
X 0100 0420
X 0400 0310 0402 0403 0404 0550 0551 0552 0561 0600
X 2030 0020
X 2100 0040 0050 0070
X 3002 0121 0123
X 3006 0004 0006 0028 002D 002E 0038 004D 004E 0085 0088
X 300A 0003 0004 000B 000E 0016 0072 00C3 00DD 0196 01A6 01B2 0216 02EB 0676 078E 0792 0794 079A
X 300C 0113
X 3010 0036 0037 0061 0085
X 4000 0010 4000
X 4008 0040 0042 0100 0101 0102 0108 0109 010A 010B 010C 0111 0112 0113 0114 0115 0118 0119 011A 0200 0202 0300 4000
X FFFA FFFA
X FFFC FFFC
U 0000 1001
U 0002 0003
U 0004 1511
U 0008 0014 0017 0018 0019 0058 1155 1195 3010
U 0018 1002 100B 2042
U 0020 000D 000E 0052 0200 9161 9164
U 0028 1199 1214
U 003A 0310
U 0040 0554 4023 A124 A171 A172 A402 DB0C DB0D
U 0062 0021
U 0064 0003
U 0070 031A 1101 1102
U 0088 0140
U 0400 0100
U 3006 0024 00C2
U 300A 0013 0054 0083 0609 0650 0700 0785
U 3010 0006 000B 0013 0015 0031 003B 006E 006F
Z/D 0008 0023 0033
Z/D 0010 0020
Z/D 0018 0010 9919
Z/D 0070 0084
X/Z 0008 0022 0032 1110
X/Z 0010 2203
X/Z 0032 1060
X/Z 0040 0555
X/Z 2200 0002 0005
X/Z 3008 0105
X/Z 300A 00B2
X/Z 300E 0008
X/D 0008 0012 0021 0031 1072
X/D 0018 1030 1400 700A 700C 700E 9516 9517
X/D 0040 A032 B020
X/D 3008 0054 0056 0250 0251
X/D 300A 0006 0007
X/D 3010 004C 004D 0056 0077
X/Z/D 0008 0013 002A 0080 0082 1010 1070 1111
X/Z/D 0018 1000
X/Z/U* 0008 1140 2112
"""
# By SOP class (after 1.2.840.10008.5.1.4.1.1.): of attributes with several actions, which ones its IOD requires with a value, and
# which ones it requires but allows to be empty, in the data set itself (PS3.3; types 1 and 2, also conditional).
REQUIRED = (
    ("1 2 4 7 7.1 12.1 12.2", "", ""),
    ("1.1 1.1.1 1.2 1.2.1 1.3 1.3.1", "ReferencedPerformedProcedureStepSequence", "AcquisitionContextSequence"),
    ("3.1 6.1", "AcquisitionDateTime", ""),
    ("20", "", "AcquisitionContextSequence"),
    ("128", "SeriesDate SeriesTime", "AcquisitionContextSequence AcquisitionDate AcquisitionTime"),
    ("77.1.1 77.1.1.1 77.1.2 77.1.2.1 77.1.3 77.1.4 77.1.4.1", "ContentTime", "AcquisitionContextSequence"),
    ("104.1 104.2", "", "AcquisitionDateTime"),
    ("481.1 481.3", "", "OperatorsName ReviewerName"),
    ("481.2", "", "OperatorsName"),
    ("481.5 481.8", "", "OperatorsName ReviewerName RTPlanDate RTPlanTime"),
    (
        "481.4 481.6 481.7 481.9",
        "",
        "OperatorsName FirstTreatmentDate MostRecentTreatmentDate TreatmentDate TreatmentTime",
    ),
)


# ---- src/anonymize_series/basic_profile.py: The Basic Application Level Confidentiality Profile (PS3.15 E): what Orthanc's own anonymization leaves is done here.


METHOD = f"anonymize_series, DICOM PS3.15 {PROFILE_EDITION} Table E.1-1"  # DeidentificationMethod, besides Orthanc's
ROOT_OF_STORAGE = "1.2.840.10008.5.1.4.1.1."
ACTIONS = {
    int(group + element, 16): action
    for action, group, *elements in map(str.split, PROFILE.split("\n")[1:-1])
    for element in elements
}
# What an attribute with several actions gets in the data set of an image of this SOP class; others of them the first action.
REQUIRED_BY_CLASS = {
    ROOT_OF_STORAGE + sop_class: {
        **dict.fromkeys(dummies.split(), "D"),
        **dict.fromkeys([*emptied.split(), "PatientSexNeutered"], "Z"),
    }
    for classes, dummies, emptied in REQUIRED
    for sop_class in classes.split()
}
PATIENT = frozenset((0x00100010, 0x00100020))  # of the data set itself: it gets the pseudonym
# Valid values of each VR that say nothing (PS3.5 6.2), so short that they hold no part of a name.
DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), "-"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), bytes(8)),
    **{"AS": "000Y", "AT": 0, "CS": "OTHER", "DA": "19000101", "DT": "19000101000000", "TM": "000000"},
}


def action_of(tag: int) -> str | None:
    """Return the action of the Basic Profile for an attribute, as the table has it; None if it has none."""
    group, element = tag >> 16, tag & 0xFFFF
    is_graphic = group & 0xFF01 == 0x5000 or (group & 0xFF01 == 0x6000 and element in (0x3000, 0x4000))
    return "X" if is_graphic else ACTIONS.get(tag)


def one_action(tag: int, sop_class: str | None) -> str | None:
    """Return the one of several actions that leaves a file valid, by the SOP class; None of that: in an item of a sequence.

    Where it is not known what the IOD requires: the one that any IOD allows.
    """
    action = action_of(tag)
    if action is None or "/" not in action:
        return action
    if action == "X/Z/U*":
        return "U"  # what it refers to stays, under other UIDs
    required = REQUIRED_BY_CLASS.get(sop_class or "")
    if required is None:
        return "D" if "D" in action else "Z"
    return required.get(pydicom.datadict.keyword_for_tag(tag), action[0])


def is_dummy(element: Any) -> bool:
    """Return whether an element has the value that the profile's dummies have: the same in every copy."""
    return bool(element.value == DUMMIES.get(element.VR))


def apply_profile(copy: Any, original: Any, recipe: Recipe) -> None:
    """Do with each attribute of a copy what the profile asks, except what the recipe keeps, replaces or removes.

    What Orthanc has removed or emptied but an IOD requires comes back, as a dummy or empty.
    """
    kept, replaced, removed = (
        frozenset(map(tag_number, tags)) for tags in (recipe.keep, recipe.replace, recipe.remove)
    )
    protection = Protection(kept, removed)
    protection.protect(copy, original, str(original.get("SOPClassUID", "")), replaced | PATIENT)
    methods = copy.get("DeidentificationMethod") or []
    if pydicom.datadict.tag_for_keyword("DeidentificationMethod") not in kept | replaced | removed:
        copy.DeidentificationMethod = [*([methods] if isinstance(methods, str) else methods), METHOD]


class Protection:
    """Protects data sets and the items of their sequences, but for what is `kept`; what is `removed` does not come back."""

    def __init__(self, kept: frozenset[int | None], removed: frozenset[int | None]) -> None:
        self._kept, self._removed = kept, removed

    def protect(
        self, copy: Any, original: Any, sop_class: str | None = None, others: frozenset[int | None] = frozenset()
    ) -> None:
        """Protect a data set, of which that is the original; the attributes `others` are left as they are."""
        for tag in {*copy.keys(), *original.keys()}:
            action = None if int(tag) in self._kept | others else one_action(int(tag), sop_class)
            if action == "X":
                copy.pop(tag, None)
            elif action in ("D", "Z"):
                if int(tag) not in self._removed:
                    source = (original if tag in original else copy)[tag]
                    copy.add_new(tag, source.VR, self._dummy(source) if action == "D" else empty(source.VR))
            elif tag in copy and copy[tag].VR == "SQ":
                before = list(original[tag].value or ()) if tag in original else []
                for number, item in enumerate(copy[tag].value or ()):
                    self.protect(item, before[number] if number < len(before) else pydicom.Dataset())

    def _dummy(self, source: Any) -> Any:
        """Return the value that takes the place of another; what was empty stays empty."""
        if source.is_empty:
            return empty(source.VR)
        if source.VR == "SQ":
            return [self._dummy_item(source.value[0])]
        return source.value if source.VR == "UI" else DUMMIES.get(source.VR)  # UIDs are replaced afterwards

    def _dummy_item(self, item: Any) -> Any:
        """Return an item of the same form; defined terms are as they were."""
        made = pydicom.Dataset()
        for element in item:
            if not element.tag.is_private and (element.VR in DUMMIES or element.VR in ("SQ", "UI")):
                made.add_new(element.tag, element.VR, element.value if element.VR == "CS" else self._dummy(element))
        self.protect(made, item)
        return made


def empty(vr: str) -> Any:
    """Return the empty value of a VR."""
    return [] if vr == "SQ" else None


# ---- src/anonymize_series/elements.py: The elements of a data set: their values as texts, their UIDs, and the file that they become.


UID_ROOT_OF_THE_STANDARD = "1.2.840.10008."  # UIDs of SOP classes, transfer syntaxes, …: the same everywhere
KEYWORDS_OF_KINDS = re.compile("(SOPClass|TransferSyntax|ContextGroup|Mapping|CodingScheme|ImplementationClass).*UID")
KEPT_META_ELEMENTS = (0x0000, 0x0001, 0x0002, 0x0003, 0x0010, 0x0012, 0x0013)  # others name a sender (PS3.10 7.1)


def text_of(dataset: Any, keyword: str) -> str:
    """Return a value as text, "" if it is not there."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def names_an_instance(element: Any, value: str) -> bool:
    """Return whether a UID names an instance of something, and not what the standard or a maker calls a kind of things."""
    return (
        bool(value) and not value.startswith(UID_ROOT_OF_THE_STANDARD) and not KEYWORDS_OF_KINDS.search(element.keyword)
    )


def elements_of(dataset: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield each element, in sequences too: its path, the data set that holds it, itself."""
    for element in dataset:
        yield (*path, int(element.tag)), dataset, element
        if element.VR == "SQ":
            for number, item in enumerate(element.value or ()):
                yield from elements_of(item, (*path, int(element.tag), number))


def values_of(element: Any) -> list[str]:
    """Return the values of an element as texts."""
    value = element.value
    if value is None or element.VR == "SQ" or isinstance(value, bytes):
        return []
    if isinstance(value, str) or not hasattr(value, "__iter__") or (element.VR == "PN" and element.VM <= 1):
        return [str(value)]
    return [str(each) for each in value]


def map_uids(dataset: Any, change: Callable[[Any, str], str], original: Any = None) -> None:
    """Replace the UIDs that name instances: by what `change` makes of each, or of the one at its path in the original."""
    before = {path: element for path, _, element in elements_of(original)} if original is not None else None
    for path, holder, element in list(elements_of(dataset)):
        source = element if before is None else before.get(path)
        if element.VR != "UI" or source is None:
            continue
        new = [change(source, value) if names_an_instance(source, value) else value for value in values_of(source)]
        if len(values_of(element)) or before is None:
            holder[element.tag].value = new if len(new) != 1 else new[0]


def written(dataset: Any) -> bytes:
    """Return the file of a data set; its preamble is empty, for that can hold anything (PS3.10 7.1)."""
    dataset.preamble = b"\0" * 128
    for tag in [tag for tag in dataset.file_meta.keys() if tag.element not in KEPT_META_ELEMENTS]:  # noqa: SIM118
        del dataset.file_meta[tag]
    buffer = io.BytesIO()
    whole_file = "enforce_file_format" in inspect.signature(dataset.save_as).parameters  # from pydicom 3 on
    dataset.save_as(buffer, **({"enforce_file_format": True} if whole_file else {"write_like_original": False}))
    return buffer.getvalue()


# ---- src/anonymize_series/codestreams.py: Frames of encapsulated pixel data: what a decoder does not need is overwritten with zeros; each length and offset stays.


JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", 0xDA, 0xD9
# Frame headers, tables, scans, restart intervals, heights (ITU-T T.81 Table B.1) and parameters of JPEG-LS (T.87 C.1.1).
JPEG_DECODED = frozenset((*range(0xC0, 0xD0), *range(0xDA, 0xE0), 0xF7, 0xF8))
JPEG_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))  # TEM, RST0 to RST7
# Of application segments: what decides how the image is decoded, with so many bytes of it. JFIF's thumbnail is behind those;
# Adobe's, that of JPEG-LS (mrfx) and SPIFF's (T.84 F.2) tell the colours.
JPEG_KEPT = ((0xE0, b"JFIF\0", 12), (0xEE, b"Adobe", 12), (0xE8, b"mrfx", 5), (0xE8, b"SPIFF\0", 30))
JPEG_MARKER_IN_SCAN = re.compile(
    rb"\xff[\x80-\xcf\xd8-\xfe]"
)  # no stuffed byte, fill byte or restart (T.81 F.1.2.3, T.87 A.1)

JPEG_2000_START = b"\xff\x4f\xff\x51"
JPEG_2000_COMMENT, JPEG_2000_TILE, JPEG_2000_DATA, JPEG_2000_END = 0xFF64, 0xFF90, 0xFF93, 0xFFD9  # ITU-T T.800 A.2
JPEG_2000_FIRST_END = re.compile(
    rb"(?<!\xff\x91\x00\x04)\xff\xd9"
)  # not the number of a packet; packets hold no other (B.10.1)
JP2_START = b"\0\0\0\x0cjP  "
JP2_DECODED = (b"jP  ", b"ftyp", b"jp2h")  # T.800 I.5; others hold XML, UUIDs, rights

RLE_HEADER_BYTES, RLE_MOST_SEGMENTS = 64, 15  # DICOM PS3.5 G.5


class PixelsError(Exception):
    """Pixel data is not as it says, so that nobody can tell what of it is a pixel. The text has nothing of the file."""


def blank(frame: bytearray, start: int, end: int) -> None:
    """Overwrite a part of a frame with zeros."""
    if end > start:
        frame[start:end] = bytes(end - start)


def blank_jpeg(frame: bytearray) -> None:
    """Blank comments, application segments, thumbnails, and what is behind the end (ITU-T T.81 B.1.1; JPEG-LS as well)."""
    at = 2
    while True:
        if frame[at] != 0xFF:
            raise PixelsError("a JPEG frame has no marker where one should be")
        while frame[at + 1] == 0xFF:  # fill bytes
            at += 1
        code, start = frame[at + 1], at + 4
        if code == JPEG_END:
            return blank(frame, at + 2, len(frame))
        if code in JPEG_WITHOUT_LENGTH:
            at += 2
            continue
        at += 2 + _length_at(frame, at + 2)
        blank(frame, start + _kept_of_jpeg(code, bytes(frame[start : start + 16]), at - start), at)
        if code == JPEG_SCAN:
            if not (marker := JPEG_MARKER_IN_SCAN.search(frame, at)):
                return None  # it is cut
            at = marker.start()


def _kept_of_jpeg(code: int, content: bytes, length: int) -> int:
    """Return how many bytes of a segment stay."""
    if code in JPEG_DECODED:
        return length
    return next((kept for one, name, kept in JPEG_KEPT if code == one and content.startswith(name)), 0)


def blank_jpeg_2000(frame: bytearray) -> None:
    """Blank comments, boxes that say nothing of the image, and what is behind the end."""
    if not frame.startswith(JP2_START):
        return _blank_codestream(frame, 0, len(frame))
    at = 0
    while at + 8 <= len(frame):
        (length, kind), header = struct.unpack_from(">I4s", frame, at), 8
        if length == 1:
            (length,), header = struct.unpack_from(">Q", frame, at + 8), 16
        end = at + length if length else len(frame)  # the last box may go to the end
        if not at + header <= end <= len(frame):
            raise PixelsError("a box of a JPEG 2000 frame is longer than the frame")
        if kind == b"jp2c":  # what it needs is in front of it (T.800 I.2.2)
            _blank_codestream(frame, at + header, end)
            return blank(frame, end, len(frame))
        if kind not in JP2_DECODED:
            frame[at + 4 : at + 8] = b"free"
            blank(frame, at + header, end)
        at = end
    raise PixelsError("a JP2 file has no codestream")


def _blank_codestream(frame: bytearray, at: int, end: int) -> None:
    """Blank the comments of a codestream, in the headers of its tiles too, and what is behind it."""
    tile_end, at = end, at + 2
    while at + 2 <= end:
        (code,) = struct.unpack_from(">H", frame, at)
        if code == JPEG_2000_END:
            return blank(frame, at + 2, end)
        if code == JPEG_2000_DATA:
            if tile_end < at + 2:
                raise PixelsError("a tile of a JPEG 2000 frame is shorter than its header")
            at = tile_end
            continue
        if not 0xFF4F < code < 0xFF93:
            if not any(frame[at:end]):
                return None  # it has no end, but padding
            raise PixelsError("a JPEG 2000 frame has no marker where one should be")
        start, length = at, 2 + _length_at(frame, at + 2)
        if code == JPEG_2000_TILE:
            (tile_length,) = struct.unpack_from(">I", frame, at + 6)
            if tile_length:
                tile_end = at + tile_length
            else:  # it goes to the end
                found = JPEG_2000_FIRST_END.search(frame, at + length, end)
                tile_end = found.start() if found else end
        at += length
        if code == JPEG_2000_COMMENT:
            blank(frame, start + 4, at)
    return None  # it is cut


def blank_rle(frame: bytearray, segment_bytes: int, allowed: Sequence[bytes]) -> None:
    """Blank what is behind the pixels of each segment, and between segments (PS3.5 G.3 to G.5).

    Parameters
    ----------
    segment_bytes : of a segment when it is unpacked, one byte of each pixel.
    allowed : of each byte of a sample, the highest first: the values that it may have.
    """
    count, *offsets = struct.unpack_from(f"<{1 + RLE_MOST_SEGMENTS}I", frame)
    offsets = [*offsets[:count], len(frame)]
    if not 1 <= count <= RLE_MOST_SEGMENTS or offsets != sorted(offsets) or offsets[0] < RLE_HEADER_BYTES:
        raise PixelsError("the segments of an RLE frame are not where its header says")
    blank(frame, 4 * (1 + count), offsets[0])
    for number, (start, end) in enumerate(itertools.pairwise(offsets)):
        blank(frame, _end_of_packed(frame, (start, end), segment_bytes, allowed[number % len(allowed)]), end)


def _end_of_packed(frame: bytearray, segment: tuple[int, int], unpacked: int, allowed: bytes) -> int:
    """Return where the bytes end that give so many when they are unpacked (PackBits); each must be an allowed one."""
    at, end = segment
    while unpacked > 0 and at < end:
        code, start = frame[at], at + 1
        if code < 128:
            at, unpacked = start + code + 1, unpacked - 1 - code
        elif code > 128:
            at, unpacked = start + 1, unpacked - 257 + code
        else:
            at = start
        if frame[start:at].translate(None, allowed):
            raise PixelsError("unused bits of compressed pixels hold something")
    return min(at, end)


def _length_at(frame: bytearray, at: int) -> int:
    """Return the length of a segment of JPEG or JPEG 2000, that of the length itself included."""
    (length,) = struct.unpack_from(">H", frame, at)
    if length < 2 or at + length > len(frame):
        raise PixelsError("a segment of a frame is longer than the frame")
    return int(length)


# ---- src/anonymize_series/unused_bits.py: The bits of pixels that BitsStored and HighBit leave unused (PS3.5 8.1.1).


# Of the data set: where one of these needs the bits that are said to be unused, they are used.
VALUES_OF_PIXELS = ("PixelPaddingValue", "PixelPaddingRangeLimit", "SmallestImagePixelValue", "LargestImagePixelValue")


class UnusedBits:
    """Bits above the highest that is stored, and below the lowest: 0, or above a negative pixel copies of its sign.

    Attributes
    ----------
    mask : these bits of a pixel.
    """

    def __init__(self, holder: Any, order: Any = "little", overlays: Sequence[int] = ()) -> None:
        self._bits = number_of(holder, "BitsAllocated")
        stored = number_of(holder, "BitsStored", self._bits)
        self._high = number_of(holder, "HighBit", stored - 1)
        if not 0 < stored <= self._high + 1 <= self._bits:
            raise PixelsError(f"{stored} bits up to bit {self._high} are stored of {self._bits}")
        self._below = (1 << (self._high + 1 - stored)) - 1
        self._above = (1 << self._bits) - (1 << (self._high + 1))
        self.mask = self._above | self._below
        if self.mask and (self._bits not in (8, 16, 32) or (order == "big" and self._bits > 16)):
            raise PixelsError(f"of {self._bits} bits some are unused")
        if any(not self.mask >> bit & 1 for bit in overlays):
            raise PixelsError("an overlay is in bits of its pixels")
        self._has_overlays, self._order = bool(overlays), order
        self._is_signed = bool(number_of(holder, "PixelRepresentation", 0))
        lowest, highest = (-(1 << stored - 1), (1 << stored - 1) - 1) if self._is_signed else (0, (1 << stored) - 1)
        values = [value for keyword in VALUES_OF_PIXELS if isinstance(value := holder.get(keyword), int)]
        self._are_used = not self._below and not all(lowest <= value <= highest for value in values)

    def blanked(self, block: bytes) -> bytes:
        """Return native pixels without what is in their unused bits; each pixel has the value that it had."""
        count = len(block) * 8 // self._bits
        size = count * self._bits // 8
        pixels = int.from_bytes(block[:size], self._order)
        found = pixels & self._of_each(self.mask, count)
        if not found:
            return block
        extended = 0
        if self._is_signed:
            sign = pixels & self._of_each(1 << self._high, count)
            extended = sign * ((1 << (self._bits - self._high)) - 2)  # all bits above it
            if found == extended or self._is_half_extended(found, extended, count):
                return block
        if self._are_used:
            raise PixelsError("other elements say that pixels use the bits that are unused")
        return (pixels ^ found | extended).to_bytes(size, self._order) + block[size:]

    def _is_half_extended(self, found: int, extended: int, count: int) -> bool:
        """Return whether the bits above are either 0 or the sign in each pixel: some files mix that."""
        missing = extended ^ (found & extended)
        uneven = (missing ^ missing >> 1) & self._of_each(self._above & self._above >> 1, count)
        return not self._has_overlays and found | extended == extended and not uneven

    def allowed_bytes(self) -> list[bytes]:
        """Return the values that each byte of a pixel may have, the highest byte first."""
        return [self._allowed(shift) for shift in reversed(range(0, self._bits, 8))]

    def _allowed(self, shift: int) -> bytes:
        above, below, sign = (bits >> shift & 0xFF for bits in (self._above, self._below, 1 << self._high))
        return bytes(
            value
            for value in range(256)
            if not value & below
            and (not value & above or (self._is_signed and value & above == above and value & sign == sign))
        )

    def _of_each(self, bits: int, count: int) -> int:
        """Return these bits of so many pixels."""
        return int.from_bytes(bits.to_bytes(self._bits // 8, self._order) * count, self._order)


def number_of(holder: Any, keyword: str, otherwise: int | None = None) -> int:
    """Return a number that says how pixels are written, or another one where it is missing or empty."""
    value = holder.get(keyword)
    if value is None or value == "":
        value = otherwise
    if not isinstance(value, int):
        raise PixelsError(f"its {keyword} is missing or no number")
    return int(value)


# ---- src/anonymize_series/pixel_data.py: Pixel data holds pixels only: what else it can hold is blanked, as far as the image stays as it is.


PIXEL_DATA = 0x7FE00010
PIXELS = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))  # floats and doubles are pixels too
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.([56]\d|70|80|81)")  # JPEG-LS too
JPEG_2000 = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(9[0-3]|20[1-3])")  # with its second part, and High-Throughput
# Video and JPEG XL have too many places for texts: the second look searches their bytes.
ONLY_SEARCHED = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(10\d(\.1)?|11[0-2])")
ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)  # of encapsulated pixel data, always little endian (PS3.5 A.4)
BLOCK_BYTES = 1 << 20  # a multiple of each size of pixel; so few, because such an operation holds the interpreter


def clean_pixels(copy: Any, original: Any, kept: frozenset[int]) -> str | None:
    """Blank in a copy what is no pixel, in its pixel data and in that of its sequences; return why it can't be done.

    What is `kept` stays as it is.
    """
    syntax = str(copy.file_meta.TransferSyntaxUID)
    for path, holder, element in list(elements_of(copy)):
        if element.tag not in PIXELS or int(element.tag) in kept or not element.value:
            continue
        overlays = overlays_in_pixels(original) if path == (PIXEL_DATA,) else []
        try:
            if element.is_undefined_length:
                content = _clean_frames(holder, element.value, syntax, overlays)
            elif len(path) == 1 and _is_compressed(syntax):  # an icon need not be
                raise PixelsError("it is not in frames, as its transfer syntax says")
            else:
                content = _clean_native(holder, element, syntax, overlays)
        except PixelsError as error:
            return f"{element.keyword} may hold something that is no pixel: {error}"
        except (ArithmeticError, IndexError, TypeError, ValueError, struct.error) as error:  # its text may have a value
            return f"{element.keyword} may hold something that is no pixel: {type(error).__name__}"
        if content != element.value:
            holder[element.tag].value = content
    return None


def overlays_in_pixels(dataset: Any) -> list[int]:
    """Return the bits of pixels that hold overlays, as it was done once (PS3.3 C.9.2 of 2001)."""
    groups = [group for group in range(0x6000, 0x6020, 2) if (group, 0x3000) not in dataset]
    elements = [(dataset.get((group, 0x0102)), dataset.get((group, 0x0100))) for group in groups]
    positions = [(int(at.value or 0), bits and bits.value) for at, bits in elements if at is not None]
    return [at for at, bits in positions if at or (bits or 1) != 1]  # others have bit 0 of 1, and no data


def _is_compressed(syntax: str) -> bool:
    return syntax == RLE or any(kind.fullmatch(syntax) for kind in (JPEG, JPEG_2000, ONLY_SEARCHED))


# Encapsulated


def _clean_frames(holder: Any, value: bytes, syntax: str, overlays: list[int]) -> bytes:
    if overlays:
        raise PixelsError("it has overlays in unused bits, and is compressed")
    if ONLY_SEARCHED.fullmatch(syntax):
        return value
    starts_frame, blank_frame = _codec_of(holder, syntax)
    table, *fragments = _fragments(value)
    cleaned, offsets = bytearray(value), list[int]()
    for parts in _frames(value, fragments, _frames_of(holder), starts_frame):
        offsets.append(parts[0].start - 8 - table.stop)
        before = b"".join(value[part] for part in parts)
        frame = bytearray(before)
        blank_frame(frame)
        if frame == before:
            continue
        at = 0
        for part in parts:
            length = part.stop - part.start
            cleaned[part] = frame[at : at + length]
            at += length
    if table.stop > table.start and value[table] != struct.pack(f"<{len(offsets)}I", *offsets):
        return struct.pack("<HHI", *ITEM, 0) + cleaned[table.stop :]  # no table, rather than one that may hold anything
    return bytes(cleaned)


def _frames(
    value: bytes, fragments: list[slice], expected: int, starts_frame: Callable[[bytes], bool]
) -> list[list[slice]]:
    """Return the fragments of each frame."""
    if expected == 1:
        frames = [fragments] if fragments else []
    elif len(fragments) == expected:
        frames = [[fragment] for fragment in fragments]
    else:
        frames = []
        for fragment in fragments:
            if not frames or starts_frame(value[fragment.start : fragment.start + 8]):
                frames.append([])
            frames[-1].append(fragment)
    if len(frames) != expected:
        raise PixelsError(f"it has {len(frames)} frames instead of {expected}")
    if not all(starts_frame(value[first.start : first.start + 8]) for first, *_ in frames):
        raise PixelsError("a frame does not begin as its transfer syntax says")
    return frames


def _codec_of(holder: Any, syntax: str) -> tuple[Callable[[bytes], bool], Callable[[bytearray], None]]:
    """Return what tells the first fragment of a frame, and what blanks a frame."""
    if JPEG.fullmatch(syntax):
        return lambda start: start.startswith(JPEG_START), blank_jpeg
    if JPEG_2000.fullmatch(syntax):
        return lambda start: start.startswith((JPEG_2000_START, JP2_START)), blank_jpeg_2000
    if syntax == RLE:  # a frame is one fragment (PS3.5 A.4.2)
        pixels, allowed = number_of(holder, "Rows") * number_of(holder, "Columns"), UnusedBits(holder).allowed_bytes()
        return lambda start: True, functools.partial(blank_rle, segment_bytes=pixels, allowed=allowed)
    raise PixelsError(f"its transfer syntax is {syntax}")


def _fragments(value: bytes) -> Iterator[slice]:
    """Yield where the content of each item is; the first is the table of offsets."""
    at = 0
    while at < len(value):
        *tag, length = struct.unpack_from("<HHI", value, at)
        if tuple(tag) != ITEM or at + 8 + length > len(value):
            raise PixelsError("it does not consist of items")
        yield slice(at + 8, at + 8 + length)
        at += 8 + length


# Native


def _clean_native(holder: Any, element: Any, syntax: str, overlays: list[int]) -> bytes:
    value: bytes = element.value
    allocated, samples = number_of(holder, "BitsAllocated"), number_of(holder, "SamplesPerPixel", 1)
    bits = number_of(holder, "Rows") * number_of(holder, "Columns") * samples * allocated
    if text_of(holder, "PhotometricInterpretation") == "YBR_FULL_422" and len(value) < bits * _frames_of(holder) // 8:
        bits = bits // 3 * 2  # two pixels share their colour (PS3.3 C.7.6.3.1.2); some files say so and don't
    size = (bits * _frames_of(holder) + 7) // 8
    tail = value[size:]
    if any(tail):
        if len(tail) * 8 >= bits:
            raise PixelsError("it is longer than its frames, by a frame or more")
        value = value[: size + size % 2]
    unused = UnusedBits(holder, "big" if syntax == BIG_ENDIAN else "little", overlays)
    if element.tag != PIXEL_DATA or not unused.mask:
        return value
    blocks = [value[start : start + BLOCK_BYTES] for start in range(0, len(value), BLOCK_BYTES)]
    return b"".join(map(unused.blanked, blocks))


def _frames_of(holder: Any) -> int:
    return number_of(holder, "NumberOfFrames", 1)


# ---- src/anonymize_series/written_forms.py: How names and dates are written in texts: what a second look for them must know.


MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()  # noqa: SIM905
NAME_COMPONENTS = 3  # family, given and middle name (DICOM PS3.5 6.2.1.1); prefix and suffix are no names
# "Doe, Jane" and "Smith-Jones" are two names each, and "Smith-Jones" is one as well.
BETWEEN_NAMES = (re.compile(r"[\^=\s]+"), re.compile(r"[\^=\s,;._/()-]+"))
LATIN_MARKS = re.compile("[\u0300-\u036f]")  # accents and the like, decomposed
# Letters that have another spelling in ASCII, where others only lose their accent.
IN_ASCII = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae", "ł": "l", "đ": "d"})
BETWEEN_WORDS = re.compile(r"[\W_]+")
SHORTEST_FOREIGN = 2  # characters of a name that is written without spaces, in other than Latin letters


class ShortNames:
    """Finds the names that are too short to be looked for anywhere, as words and as whole values.

    Parameters
    ----------
    names : of the patient (VR PN).
    others : of others, as of an operator, who is often called by two letters: only whole names, as `CT` is a word too.
    shortest : parts with so many characters are looked for elsewhere.
    """

    def __init__(self, names: Sequence[str], others: Sequence[str], shortest: int) -> None:
        self._values, pairs, words = set[str](), set[str](), set[str]()
        for part in itertools.chain.from_iterable(itertools.chain.from_iterable(map(_groups, names))):
            if 1 < len(part) < shortest:
                self._values.add(part.lower())
                words.update((part, part.upper(), part.capitalize()))
        for parts in itertools.chain.from_iterable(map(_groups, (*names, *others))):
            if not "".join(parts).isascii():
                joined = {"".join(parts), "".join(reversed(parts))}
                pairs.update(re.escape(each) for each in joined if SHORTEST_FOREIGN <= len(each) < shortest)
            pairs.update(
                rf"\b{re.escape(one)}[\W_]+{re.escape(other)}\b" for one, other in itertools.permutations(parts, 2)
            )
        self._pairs = re.compile("|".join(sorted(pairs)), re.IGNORECASE) if pairs else None
        self._words = (
            re.compile(rf"(?<![^\W_])({'|'.join(sorted(map(re.escape, words)))})(?![^\W_])") if words else None
        )

    def in_values(self, values: Sequence[str]) -> bool:
        """Return whether a name is in texts: a short one in the case of a name, since a word may look like it."""
        return any(
            value.lower() in self._values or self.in_bytes(value) or bool(self._words and self._words.search(value))
            for value in values
        )

    def in_bytes(self, text: str) -> bool:
        """Return whether a name of several parts is in what bytes may say: a short one is there by chance."""
        return bool(self._pairs and self._pairs.search(text)) or text.strip("\0 ").lower() in self._values


def _groups(name: str) -> Iterator[list[str]]:
    """Yield the parts of a name in each of its writings: family, given and middle name."""
    for group in name.split("="):
        components = group.split("^")[:NAME_COMPONENTS]
        if parts := [part for component in components for part in component.replace(",", " ").split()]:
            yield parts


def parts_of_name(name: str) -> list[str]:
    """Return a name (VR PN) and its parts."""
    return [name, *(part for between in BETWEEN_NAMES for part in between.split(name))]


def folded(text: str) -> str:
    """Return a text so that its other writings are equal: "ß" and "SS", composed and decomposed umlauts, half-width kana."""
    return unicodedata.normalize("NFKC", text).casefold()


def plain(text: str) -> str:
    """Return a text as it is written where there are no accents: "müller" as "mueller", "josé" as "jose"."""
    decomposed = unicodedata.normalize("NFD", folded(text).translate(IN_ASCII))
    return unicodedata.normalize("NFC", LATIN_MARKS.sub("", decomposed))


def words_of(text: str) -> set[str]:
    """Return the words of a text, without single letters, so that their other writings are equal."""
    return {word for word in BETWEEN_WORDS.split(plain(text)) if len(word) > 1}


def forms_of_date(date: str) -> Iterator[str]:
    """Yield how a date (VR DA, YYYYMMDD) is written elsewhere, in small letters."""
    if not re.fullmatch(r"[0-9]{4}(0[1-9]|1[0-2])[0-9]{2}", date[:8]):
        return
    year, month, day = date[:4], date[4:6], date[6:8]
    name = MONTHS[int(month) - 1]
    for m, d in ((month, day), (month.lstrip("0"), day.lstrip("0"))):
        for mark in "-./":
            yield from (f"{year}{mark}{m}{mark}{d}", f"{d}{mark}{m}{mark}{year}", f"{m}{mark}{d}{mark}{year}")
        yield from (
            f"{d} {name} {year}",
            f"{d}-{name}-{year}",
            f"{name} {d}, {year}",
            f"{name} {d} {year}",
            f"{d}. {name} {year}",
        )


# ---- src/anonymize_series/checks.py: What must not leave: what an image may show before a copy is made, and what a copy still says afterwards.


MIN_SEARCHED_CHARACTERS = 4  # of a value that is looked for everywhere in a copy
# Of an identifier or a date in a defined term. By chance, a short one is there, and one word of a name.
MIN_CHARACTERS_IN_TERM, MIN_WORDS_IN_TERM = 6, 2
# The same in pixel data, in bytes. Compressed pixels are like random bytes: of 100 values, one of 4 bytes is by chance in each
# 40 MB (256**4 / 100), one of 8 bytes nowhere; and 4 pixels of 8 bits look like a word more often than 8.
MIN_SEARCHED_PIXEL_BYTES = 8
READ_BYTES = 1 << 18  # that are read as texts at a time
OVERLAP_BYTES = 1 << 10  # of two such blocks; a name is shorter
YEAR = re.compile("(?:19|20)[0-9]{2}")
COUNTERS = ("IS", "US", "UL", "SS", "SL")  # numbers; in an element of the standard they count, and identify nobody
# Secondary capture and ultrasound write names into pixels; where BurnedInAnnotation does not say NO, that must be assumed.
# Photographs and endoscopy show faces.
PRONE_TO_BURN_IN = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(7(\.\d)?|[36](\.\d)?|77\.1\.[14](\.1)?)")
# Values of the same tag must differ; those of IDENTIFIERS are nowhere else either. Of VR PN, UI, DA and DT: all (PS3.15 E.1).
IDENTIFIERS = frozenset(
    """PatientID OtherPatientIDs AccessionNumber StudyID AdmissionID IssuerOfPatientID DeviceSerialNumber PlateID CassetteID
    GantryID DetectorID GeneratorID RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest MedicalRecordLocator
    PatientTelephoneNumbers PatientTelecomInformation PersonTelephoneNumbers ServiceEpisodeID DeviceUID SpecimenIdentifier
    ContainerIdentifier IssuerOfServiceEpisodeID ClinicalTrialSubjectID ClinicalTrialSubjectReadingID RegionOfResidence
    MilitaryRank""".split()  # noqa: SIM905
)
PATIENT_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson")
IDENTIFYING = IDENTIFIERS | frozenset(
    """PatientAddress PatientComments AdditionalPatientHistory EthnicGroup Occupation PatientReligiousPreference
    InstitutionName InstitutionAddress InstitutionalDepartmentName StationName CountryOfResidence PatientMotherBirthName
    ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers PersonAddress RequestAttributesComments StudyComments
    ImageComments VisitComments CurrentPatientLocation PatientInstitutionResidence AdmittingDiagnosesDescription
    PerformedStationName ScheduledStationName PerformedLocation ScheduledStationAETitle PerformedStationAETitle
    ResponsibleOrganization""".split()  # noqa: SIM905
)


def why_held(dataset: Any, recipe: Recipe) -> str | None:
    """Return why an image is not for this recipe, before anything is made of it; None if it is."""
    is_image = "Rows" in dataset and any(tag in dataset for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010))
    if not is_image and not recipe.allow_non_images:
        return "it is no image, and may hold names as text"
    if recipe.allow_burned_in or not is_image:
        return None
    burned, sop_class = text_of(dataset, "BurnedInAnnotation").upper(), text_of(dataset, "SOPClassUID")
    if burned == "YES":
        return "BurnedInAnnotation is YES"
    if text_of(dataset, "RecognizableVisualFeatures").upper() == "YES":
        return "RecognizableVisualFeatures is YES"
    if burned != "NO" and PRONE_TO_BURN_IN.fullmatch(sop_class):
        return "BurnedInAnnotation does not say NO, and images of this kind often show names, or faces"
    return None


def identifying(dataset: Any, kept: frozenset[int]) -> tuple[dict[int, set[str]], dict[str, str]]:
    """Return what must not stay: values by tag, and values that must not be anywhere, each with what it is."""
    by_tag: dict[int, set[str]] = {}
    anywhere: dict[str, str] = {}
    for _, _, element in elements_of(dataset):
        if int(element.tag) in kept:
            continue
        names_somebody = element.VR in ("PN", "DA", "DT") or element.keyword in IDENTIFIERS
        for value in map(str.strip, values_of(element)):
            is_uid = element.VR == "UI" and names_an_instance(element, value)
            if value and (names_somebody or is_uid or element.keyword in IDENTIFYING):
                by_tag.setdefault(int(element.tag), set()).add(value)
            if names_somebody or is_uid:
                parts = parts_of_name(value) if element.VR == "PN" else [value]
                parts += [value[:8]] if element.VR == "DT" else []
                parts += [*forms_of_date(value)] if element.VR in ("DA", "DT") else []
                forms = {form for part in parts for form in (part.lower(), folded(part))}
                forms |= {plain(part) for part in parts if len(folded(part)) >= MIN_SEARCHED_CHARACTERS}
                anywhere |= {form: element.keyword for form in forms if len(form) >= MIN_SEARCHED_CHARACTERS}
    return by_tag, anywhere


def what_remains(copy: Any, original: Any, kept: frozenset[int]) -> str | None:
    """Return the first tag of a copy that still says who it is, by its keyword, never its value; None if there is none."""
    by_tag, anywhere = identifying(original, kept)
    searched = Searched(original, anywhere, kept)
    for _, _, element in elements_of(copy):
        if int(element.tag) in kept:
            continue
        if is_dummy(element) or _is_our_method(element, original):
            continue  # a patient's birthday, or an identifier, is it or a part of it by chance
        name = element.keyword or f"{element.tag}"
        if element.tag in PIXELS:
            if what := searched.find_in_pixels(element.value or b""):
                return f"{name} holds {what} of the original"
            continue
        values = [value.strip() for value in values_of(element)]
        if set(values) & by_tag.get(int(element.tag), set()):
            return f"{name} has the value of the original"
        if element.VR in ("CS", *COUNTERS) and _is_of_its_vr(element):
            # StudyID 1234 and InstanceNumber 1234, PatientName Brain^Ann and BodyPartExamined BRAIN: but not BRAIN ANN
            if element.VR == "CS" and (what := searched.find_in_terms(values)):
                return f"{name} holds {what} of the original"
            continue
        if element.VR in (*COUNTERS, "DS", "TM", "AS", "UI") or element.keyword in ("PatientID", "PatientName"):
            if found := anywhere.keys() & {value.lower() for value in values}:
                return f"{name} has the value of {anywhere[found.pop()]} of the original"
            continue  # numbers, and what we have made: they hold parts of others by chance
        if what := searched.find(values, element.value if isinstance(element.value, bytes) else b""):
            return f"{name} holds {what} of the original"
    return None


class Searched:
    """What must not be anywhere in a copy: texts, each with what it is; and short names."""

    def __init__(self, original: Any, anywhere: Mapping[str, str], kept: frozenset[int]) -> None:
        self._needles = {text: (keyword, text.encode()) for text, keyword in anywhere.items()}
        self._foreign = {text: keyword for text, keyword in anywhere.items() if not text.isascii()}
        names = [*_names_in(original, kept)]
        of_patient = [name for keyword, name in names if keyword in PATIENT_NAMES]
        self._names = [(keyword, words_of(name)) for keyword, name in names]
        self._short = ShortNames(of_patient, [name for _, name in names], MIN_SEARCHED_CHARACTERS)
        self._codecs = codecs_of(original)
        self._in_pixels = self._by_common_part()

    def _by_common_part(self) -> dict[bytes, dict[bytes, str]]:
        """Return what is looked for in pixels: by a part that many have, so that they are looked for once."""
        found: dict[bytes, dict[bytes, str]] = {}
        for needle, (keyword, encoded) in self._needles.items():
            writings = {encoded}
            if needle in self._foreign:  # bytes.lower() knows letters of ASCII only
                cases = (needle, needle.upper(), needle.title())
                writings |= {text.encode(codec, "ignore").lower() for text in cases for codec in self._codecs}
            for each in writings:
                if len(each) >= MIN_SEARCHED_PIXEL_BYTES:
                    year = YEAR.search(needle)
                    part = year[0].encode() if year else each[:MIN_SEARCHED_PIXEL_BYTES]
                    found.setdefault(part, {})[each] = keyword
        return found

    def find_in_pixels(self, data: bytes) -> str | None:
        """Return what of it is in pixel data, of what is long enough not to be there by chance."""
        small = data.lower()
        for part, needles in self._in_pixels.items():
            if part in small:
                for needle, keyword in needles.items():
                    if needle in small:
                        return f"the {keyword}"
        return None

    def find_in_terms(self, values: Sequence[str]) -> str | None:
        """Return what of it is in defined terms, where a part of it may be by chance."""
        for value in values:
            for needle, (keyword, _) in self._needles.items():
                if len(needle) >= MIN_CHARACTERS_IN_TERM and re.search("[0-9]", needle) and needle in value.lower():
                    return f"the {keyword}"
            words = words_of(value)
            for keyword, name in self._names:
                if len(words & name) >= MIN_WORDS_IN_TERM:
                    return f"the {keyword}"
        return None

    def find(self, values: Sequence[str], data: bytes) -> str | None:
        """Return what of it is in the values of an element, or in its bytes; None if there is nothing."""
        text, small = "\\".join(values), data.lower()
        text = f"{_in_both_forms(text)}\\{'' if text.isascii() else plain(text)}"
        wide = small.replace(b"\0", b"")  # texts of Windows have a NUL with each letter (UTF-16)
        for needle, (keyword, encoded) in self._needles.items():
            if needle in text or encoded in small or encoded in wide:
                return f"the {keyword}"
        for reading in self._readings(data):
            for needle, keyword in self._foreign.items():
                if needle in reading:
                    return f"the {keyword}"
            if self._short.in_bytes(reading):
                return "a short name"
        return "a short name" if self._short.in_values(values) else None

    def _readings(self, data: bytes) -> Iterator[str]:
        """Yield what bytes may say, in blocks: one call on many holds the interpreter."""
        for start in range(0, len(data), READ_BYTES):
            block = data[max(0, start - OVERLAP_BYTES) : start + READ_BYTES]
            yield from (_in_both_forms(block.decode(codec, "ignore")) for codec in self._codecs)


def _in_both_forms(text: str) -> str:
    """Return a text in small letters, and as it is compared with others, if that is not the same."""
    small = text.lower()
    return small if small.isascii() else f"{small}\\{folded(text)}"


def _names_in(dataset: Any, kept: frozenset[int]) -> Iterator[tuple[str, str]]:
    """Yield the keyword and the value of each name."""
    for _, _, element in elements_of(dataset):
        if element.VR == "PN" and int(element.tag) not in kept:
            yield from ((element.keyword, value) for value in values_of(element))


def _is_of_its_vr(element: Any) -> bool:
    """Return whether an element has a VR that the standard gives it: a file may call any text a defined term."""
    return (
        pydicom.datadict.dictionary_has_tag(element.tag)
        and element.VR in pydicom.datadict.dictionary_VR(element.tag).split()
    )


def _is_our_method(element: Any, original: Any) -> bool:
    """Return whether an element says how the copy was made, by Orthanc and here, and nothing that the original said."""
    if element.keyword != "DeidentificationMethod":
        return False
    before = values_of(original[element.tag]) if element.tag in original else []
    return not any(value and value in str(element.value) for value in before)


def codecs_of(dataset: Any) -> set[str]:
    """Return how bytes of a data set may be read, that say nothing of their characters: as its texts, or as most are."""
    found = {"utf-8", "latin-1", "utf-16-le", "utf-16-be"}
    for _, _, element in elements_of(dataset):  # an item may have its own (PS3.3 C.12.1.1.2)
        if element.keyword == "SpecificCharacterSet":
            found |= set(pydicom.charset.convert_encodings(element.value))
    return found


# ---- src/anonymize_series/pseudonyms.py: UIDs and patients' identifiers that a secret makes.


LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # of pseudonyms: no word is made of these, and no number


class Pseudonyms:
    """Makes UIDs and patients' identifiers that only the secret can make, the same each time (HMAC-SHA256)."""

    def __init__(self, secret: str, prefix: str) -> None:
        self._secret, self._prefix = secret.encode(), prefix

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self._secret, f"{kind}\0{value}".encode(), hashlib.sha256).digest()

    def uid(self, original: str, kind: str = "uid") -> str:
        """Return a UID of 2.25 and a UUID of version 8 as a decimal number (PS3.5 B.2)."""
        number = int.from_bytes(self._digest(kind, original)[:16])
        number = number & ~(0xF << 76) | 0x8 << 76
        return f"2.25.{number & ~(0x3 << 62) | 0x2 << 62}"

    def patient(self, patient: str, study_uid: str) -> str:
        """Return the pseudonym of a PatientID; a patient without one is another in each study."""
        digest = self._digest("patient", patient) if patient else self._digest("no patient", study_uid)
        return self._prefix + "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:16])


# ---- src/anonymize_series/copies.py: A copy of an instance, with the UIDs and the patient that it shall have.


class Copy(NamedTuple):
    """A de-identified instance: its file, Orthanc identifier and patient, and its UIDs by those of the original."""

    content: bytes
    instance: str
    patient: str
    uids: dict[str, str]


def de_identified(made: bytes, original: Any, recipe: Recipe, pseudonyms: Pseudonyms) -> Copy | str:
    """Return what Orthanc's anonymization made, with the UIDs and the patient that it shall have; or why it is held back."""
    copy = pydicom.dcmread(io.BytesIO(made), force=True)
    apply_profile(copy, original, recipe)
    uids: dict[str, str] = {}

    def change(_element: Any, value: str) -> str:
        return uids.setdefault(value, pseudonyms.uid(value))

    map_uids(copy, change, original)
    for tag in [tag for tag in copy.keys() if tag.group & 0xFF00 == 0x6000]:  # noqa: SIM118 - pydicom's is another
        del copy[tag]  # overlays may show names
    kept = frozenset(number for tag in (*recipe.keep, *recipe.replace) if (number := tag_number(tag)))
    if why := clean_pixels(copy, original, kept):
        return why
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):  # a private root may look like a kind's
        value = text_of(original, keyword)
        setattr(copy, keyword, uids.setdefault(value, pseudonyms.uid(value)))
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    by_tag, _ = identifying(original, kept)
    for _, holder, element in list(elements_of(copy)):
        # What the profile leaves: Orthanc's 1.10.1 leaves InstanceCreationDate, for one.
        if element.VR != "UI" and set(map(str.strip, values_of(element))) & by_tag.get(int(element.tag), set()):
            holder[element.tag].value = ""
    patient = pseudonyms.patient(text_of(original, "PatientID"), text_of(original, "StudyInstanceUID"))
    copy.PatientID = copy.PatientName = patient
    content = written(copy)
    if remains := what_remains(pydicom.dcmread(io.BytesIO(content)), original, kept):
        return remains
    identifiers = (patient, copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.SOPInstanceUID)
    return Copy(content, orthanc_identifier(*map(str, identifiers)), patient, uids)


# ---- src/anonymize_series/results.py: A result that came back for a copy, put into the original study.


# What a result takes from the original study (PS3.3 C.7.1.1, C.7.2.1).
STUDY_TAGS = (
    *(
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
    ),
    *("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "SpecificCharacterSet"),
)
ANONYMIZATION_TAGS = ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence")


def re_identified(
    content: bytes, study: Mapping[str, Any], original_of: Callable[[str], str | None], pseudonyms: Pseudonyms
) -> Any:
    """Return what came back as a part of the study that it is about.

    UIDs of copies become those of the originals, its own become others.

    `study` are the tags of the original study, as DICOM JSON; `original_of` is the register of UIDs.
    """
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    map_uids(dataset, lambda _, value: original_of(value) or pseudonyms.uid(value, "result"))
    original = pydicom.Dataset.from_json(dict(study))
    dataset.SpecificCharacterSet = "ISO_IR 192"  # of both: pydicom writes all texts again
    for keyword in STUDY_TAGS[:-1]:
        if keyword in original:
            dataset[keyword] = original[keyword]
        elif keyword in dataset:
            del dataset[keyword]
    for keyword in ANONYMIZATION_TAGS:
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


# ---- src/anonymize_series/patient_register.py: The register: which copy is whose, both ways, and what was held back.


# Both ways: of what was de-identified, and of the results that were taken back (so that no rule takes them again).
REGISTER_TABLES = """
CREATE TABLE IF NOT EXISTS uids(pseudonym TEXT PRIMARY KEY, original TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS studies(
    pseudonym TEXT PRIMARY KEY, original TEXT NOT NULL, patient TEXT NOT NULL, patient_pseudonym TEXT NOT NULL,
    tags TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS studies_by_patient ON studies(patient);
CREATE INDEX IF NOT EXISTS studies_by_original ON studies(original);
CREATE TABLE IF NOT EXISTS copies(
    instance TEXT NOT NULL, original TEXT NOT NULL, recipe TEXT NOT NULL, PRIMARY KEY(instance, original)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results(uid TEXT PRIMARY KEY, came_as TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held(
    number INTEGER PRIMARY KEY, instance TEXT NOT NULL, recipe TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE(instance, recipe));
"""
MAX_STUDIES_PER_ANSWER = 1000
# What a study is looked up by, and the condition: `pseudonym` is of either, the study or the patient.
STUDY_CONDITIONS = {
    "patient": "patient=?1",
    "study": "original=?1",
    "pseudonym": "pseudonym=?1 OR patient_pseudonym=?1",
}


class Register:
    """The tables of the ledger that say which copy is whose."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def study_of_copy(self, uid: str) -> dict[str, Any] | None:
        """Return the study of which one with this UID is the copy, or None."""
        return next(iter(self._ledger.rows("SELECT * FROM studies WHERE pseudonym=?", uid)), None)

    def original_uid(self, uid: str) -> str | None:
        """Return the UID of which this one is the pseudonym, or None."""
        rows = self._ledger.rows("SELECT original FROM uids WHERE pseudonym=?", uid)
        return str(rows[0]["original"]) if rows else None

    def is_copy(self, instance: str) -> bool:
        """Return whether this is the Orthanc identifier of a copy."""
        return bool(self._ledger.rows("SELECT 1 FROM copies WHERE instance=?", instance))

    def other_recipes(self, instance: str, recipe: str) -> list[str]:
        """Return the other recipes by which copies were made that have this Orthanc identifier."""
        sql = "SELECT DISTINCT recipe FROM copies WHERE instance=? AND recipe<>?"
        return [row["recipe"] for row in self._ledger.rows(sql, instance, recipe)]

    def is_result(self, uid: str) -> bool:
        """Return whether a result that was taken back has this SOPInstanceUID."""
        return bool(self._ledger.rows("SELECT 1 FROM results WHERE uid=?", uid))

    def add_copy(self, copy: Copy, original: Any, instance: str, recipe: str) -> None:
        """Write down what belongs together, before the copy is stored: a data set of pydicom, and what was made of it."""
        study = pydicom.Dataset()
        for keyword in STUDY_TAGS:
            if keyword in original:
                study[keyword] = original[keyword]
        study_uid, patient = text_of(original, "StudyInstanceUID"), text_of(original, "PatientID")
        tags = study.to_json(suppress_invalid_tags=True)
        with self._ledger.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO uids VALUES(?,?)", ((new, old) for old, new in copy.uids.items()))
            values = (copy.uids[study_uid], study_uid, patient, copy.patient, tags)
            db.execute("INSERT OR IGNORE INTO studies VALUES(?,?,?,?,?)", values)
            db.execute("INSERT OR REPLACE INTO copies VALUES(?,?,?)", (copy.instance, instance, recipe))
            db.execute("DELETE FROM held WHERE instance=? AND recipe=?", (instance, recipe))

    def add_result(self, uid: str, instance: str) -> None:
        """Write down the SOPInstanceUID that a result will have, before it is stored, and the instance that it came as."""
        self._ledger.run("INSERT OR REPLACE INTO results VALUES(?,?)", uid, instance)

    def hold_back(self, instance: str, recipe: str, reason: str) -> None:
        """Write down that no copy was made of an instance, and why."""
        sql = "INSERT OR REPLACE INTO held(instance, recipe, reason, at) VALUES(?,?,?,?)"
        self._ledger.run(sql, instance, recipe, reason, time.time())

    def held(self, since: int, limit: int) -> list[dict[str, Any]]:
        """Return at most `limit` instances that were held back, after the one with the number `since`, oldest first."""
        return self._ledger.rows("SELECT * FROM held WHERE number>? ORDER BY number LIMIT ?", since, limit)

    def count_held(self, most: int) -> int:
        """Return how many instances were held back; of more than `most`, that number."""
        sql = "SELECT COUNT(*) n FROM (SELECT 1 FROM held LIMIT ?)"
        return int(self._ledger.rows(sql, most)[0]["n"])

    def studies(self, name: str, value: str) -> list[dict[str, Any]]:
        """Return the studies, at most 1000, that have this value of one of `STUDY_CONDITIONS`."""
        sql = f"SELECT * FROM studies WHERE {STUDY_CONDITIONS[name]} LIMIT {MAX_STUDIES_PER_ANSWER}"
        return self._ledger.rows(sql, value)

    def counts(self) -> dict[str, int]:
        """Return how many rows each list has."""
        names = ("held", "copies", "studies", "results")
        return {name: self._ledger.rows(f"SELECT COUNT(*) n FROM {name}")[0]["n"] for name in names}


# ---- src/anonymize_series/sending.py: Sending copies to where a recipe says: as jobs of Orthanc's, which are looked at until they end.


# Where the destinations are listed, what tells them apart in a job, and the type of the job.
PEER_JOBS, MODALITY_JOBS = ("peers", "Url", "OrthancPeerStore"), ("modalities", "AET", "DicomModalityStore")


class Sending:
    """Submits copies, and ends the rows whose job has ended.

    Parameters
    ----------
    servers : the route of the servers of Orthanc's DICOMweb plugin.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        loopback: Loopback,
        peers: Peers,
        ledger: Ledger,
        register: Register,
        attempts: Attempts,
        ends: JobEnds,
        servers: str,
    ) -> None:
        self._recipes, self._loopback, self._peers = recipes, loopback, peers
        self._ledger, self._register, self._attempts, self._ends = ledger, register, attempts, ends
        self._servers = servers
        self._work, self._archive = Work(ledger), Archive(loopback)
        self._forgotten: dict[str, float] = {}  # since when (monotonic) Orthanc does not know a job any more

    def submit(self, row: Mapping[str, Any], data: Mapping[str, Any], recipe: Recipe) -> None:
        """Submit the copies of a row to where the recipe says; a row without any, or a recipe that says nothing, is done."""
        route = store_route(recipe, self._servers)
        if not data["Copies"] or route is None:
            self._ledger.end(row["id"], "done")
            return
        if recipe.peer is not None:
            why = self._peers.why_not(recipe.peer)
            self._attempts.go_on()
            if why:  # to Orthanc, any answer would be a success
                self._attempts.fail(row, why)
                return
        if row["attempts"] > 1 and (lost := self._lost_job(recipe, data["Copies"])):
            self._work.change(row["id"], job=lost)
            return
        try:
            job = self._loopback.post(route, {"Resources": data["Copies"], "Synchronous": False})
        except LoopbackError as error:
            if error.status == 404:
                # A copy was deleted, or there is no such destination: make the copies again.
                self._work.change(row["id"], data={key: value for key, value in data.items() if key != "Copies"})
            raise
        self._work.change(row["id"], job=job.get("ID") or Path(job["Path"]).name)

    def _lost_job(self, recipe: Recipe, copies: Sequence[str]) -> str | None:
        """Return the unfinished job that sends these copies there, and whose row does not know it.

        Orthanc was killed, or did not answer, before the row was written; it goes on with such jobs after a restart. A job does
        not name its destination: it has the AE title or the URL, which only this one may have. Jobs of the DICOMweb plugin end
        with the process.
        """
        if recipe.stow is not None:
            return None
        kind, key, job_type = PEER_JOBS if recipe.peer is not None else MODALITY_JOBS
        known = self._loopback.get(f"/{kind}?expand")
        taken = {row["job"] for row in self._work.find(Which(states=("sending",)))}
        for job in self._loopback.get("/jobs?expand"):
            content = job.get("Content") or {}
            address = url_of_peer(content) if recipe.peer is not None else content.get("RemoteAet")
            if (
                job["Type"] == job_type
                and job["State"] in UNFINISHED_JOBS
                and job["ID"] not in taken
                and sorted(content.get("ParentResources", ())) == sorted(copies)
                and [name for name, entry in known.items() if entry[key] == address] == [recipe.peer or recipe.modality]
            ):
                return str(job["ID"])
        return None

    def look_at_jobs(self) -> None:
        """End the rows whose job has ended."""
        for row in self._work.find(Which(states=("sending",))):
            if row["job"] is None:
                continue
            data, reported = json.loads(row["data"]), self._ends.get(row["job"])
            job = get_job(self._loopback, row["job"])  # after that: what has ended is shown as it ended
            ending, why = ending_of(job, reported)
            if ending is Ending.RUNNING:
                continue
            if ending is Ending.FORGOTTEN:
                self._on_forgotten(row, data)
                continue
            if job and job["State"] not in UNFINISHED_JOBS:
                why = why_not_all(job, data["Copies"])
            if why:
                self._attempts.fail(row, f"the job of sending failed: {why}")
            else:
                self._on_arrived(row, data)

    def _on_forgotten(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Look for what a job should have sent that ended somehow; send it again if it is not known to be there.

        Twice is harmless: it has the same identifiers.
        """
        since = self._forgotten.setdefault(row["job"], time.monotonic())
        if time.monotonic() - since < END_EVENT_SECONDS:
            return  # its end may still be reported
        self._forgotten.pop(row["job"])
        label = f"{NAME}: Orthanc has forgotten how job {row['job']} ended (JobsHistorySize)"
        if self._all_there(self._recipes.get(row["queue"], Recipe()), data["Copies"]):
            orthanc.LogInfo(f"{label}; {row['queue']} has what it was to send")
            self._on_arrived(row, data)
        else:
            orthanc.LogInfo(f"{label}; what it was to send is sent again")
            self._work.wait_again(row["id"])

    def _all_there(self, recipe: Recipe, copies: Sequence[str]) -> bool:
        """Return whether the destination says that it has these copies, in files of its own; only a peer can be asked."""
        if recipe.peer is None:
            return False
        found = self._loopback.post("/tools/bulk-content", {"Resources": list(copies), "Metadata": True})
        here = {each["ID"]: each for each in found}
        try:
            return here.keys() == set(copies) == self._peers.copies_of(recipe.peer, here)
        except (LoopbackError, ValueError, OSError, http.client.HTTPException) as error:
            if isinstance(error, LoopbackError) and error.status == 0:
                raise
            return False

    def _on_arrived(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        if self._recipes.get(row["queue"], Recipe()).delete_copy:
            for instance in data["Copies"]:
                # Never anything but a copy that the register knows.
                if self._register.is_copy(instance):
                    self._ledger.check()  # what can't be recorded is not done
                    self._archive.delete(instance)
        self._ledger.end(row["id"], "done")


def why_not_all(job: Mapping[str, Any], copies: Sequence[str]) -> str:
    """Return why a job that has ended has not delivered all copies, or "" if it has.

    The DICOMweb plugin reads what a STOW-RS answer lists (PS3.18 10.5.3): unless ReferencedSOPSequence has as many items as
    were sent and FailedSOPSequence none, its job fails, and only its content says why.
    """
    content = job.get("Content") or {}
    if job["State"] != "Success":
        reasons = (content.get("FunctionErrorDetails"), job.get("ErrorDetails"), job.get("ErrorDescription"))
        return without_secrets(str(next((reason for reason in reasons if reason), job["State"])))
    sent, failed = int(content.get("InstancesCount", len(copies))), int(content.get("FailedInstancesCount", 0))
    if sent - failed < len(set(copies)):
        return f"it sent {sent - failed} of {len(set(copies))} copies"
    return ""


def store_route(recipe: Recipe, servers: str) -> str | None:
    """Return the route that sends copies to where a recipe says; None if they stay here."""
    for route, name, verb in (
        ("modalities", recipe.modality, "store"),
        ("peers", recipe.peer, "store"),
        (servers, recipe.stow, "stow"),
    ):
        if name is not None:
            return f"/{route}/{urllib.parse.quote(name, safe='')}/{verb}"
    return None


# ---- src/anonymize_series/anonymizing.py: De-identifying: the copies of the instances of a row are made, registered and stored.


MOST_ATTEMPTS = 3  # at an instance for which Orthanc has an error of its own (500), until it is held back
# Of its codes of errors (`OrthancStatus`): NotImplemented, BadFileFormat, CorruptedFile, IncompatibleImageFormat, …Size.
OF_THE_FILE = (2, 15, 20, 23, 24)
# NotEnoughMemory, Database, CannotWriteFile, Timeout, FullStorage, DatabasePlugin, StorageAreaPlugin, RegularFileExpected.
OF_THE_SERVER = (4, 11, 14, 16, 19, 31, 32, 2006)


class Anonymizing:
    """Makes the copies of a row, then has them sent: two steps, so that a destination that is away costs nothing."""

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        loopback: Loopback,
        work: Work,
        register: Register,
        attempts: Attempts,
        pseudonyms: Pseudonyms,
        sending: Sending,
    ) -> None:
        self._recipes, self._loopback, self._archive = recipes, loopback, Archive(loopback)
        self._work, self._register, self._attempts = work, register, attempts
        self._pseudonyms, self._sending = pseudonyms, sending

    def anonymize(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Do a row: make its copies unless that is done, and submit them."""
        recipe = self._recipes[row["queue"]]
        if "Copies" not in data:
            data |= self._make_copies(data["Instances"], row, recipe)
            self._work.change(row["id"], data=data)
        self._sending.submit(row, data, recipe)

    def _make_copies(self, instances: list[str], row: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
        """Return the Orthanc identifiers of the copies, and how many instances were held back."""
        name, copies, held, is_ours = str(row["queue"]), list[str](), 0, False
        makes = True
        if recipe.whole:  # first it is only looked: what is held back last would leave the copies of the others
            makes = not any(isinstance(copy, str) for _, _, copy in self._each(instances, row, recipe))
        for instance, original, copy in self._each(instances, row, recipe):
            if isinstance(copy, Copy):
                if not makes:
                    continue
                if not is_ours and (others := self._register.other_recipes(copy.instance, name)):
                    self._take_from(others, instances)
                    is_ours = True
                self._register.add_copy(copy, original, instance, name)
                self._store(copy, is_first=copy.instance not in copies)
                copies.append(copy.instance)
            elif recipe.whole and makes:
                raise NotNow(f"it is held back since a moment: {copy}")  # it is looked at again from the beginning
            else:
                held += 1
                self._register.hold_back(instance, name, copy)
                orthanc.LogWarning(f"{NAME}: instance {instance} is held back from {name}: {copy}")
        if not makes:
            orthanc.LogWarning(f"{NAME}: all of {row['subject']} is held back from {name}, whose Whole is true")
        return {"Copies": copies, "HeldBack": held}

    def _each(
        self, instances: Sequence[str], row: Mapping[str, Any], recipe: Recipe
    ) -> Iterator[tuple[str, Any, Copy | str]]:
        """Yield each instance that is no copy itself, its data set, and its copy or why it is held back."""
        for instance in instances:
            self._attempts.go_on()
            try:
                content = self._archive.file(instance)
                if content is None:
                    if self._archive.level_of(instance) is None:
                        continue  # it was deleted
                    raise LoopbackError(404, f"the file of instance {instance} is missing")
            except LoopbackError as error:
                # With its disk away, Orthanc can read none: that may pass.
                is_lasting = error.code in OF_THE_FILE or row["attempts"] >= MOST_ATTEMPTS
                if error.status not in (404, 500) or not is_lasting or not self._reads_any(instances):
                    raise
                yield instance, None, f"Orthanc can't read it: {one_line(error)}"
                continue
            try:
                original = pydicom.dcmread(io.BytesIO(content), force=True)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever pydicom meets in a file
                yield instance, None, _unreadable(error)
                continue
            if not self._is_made_here(original):
                yield instance, original, self._copy_of(instance, original, recipe, row["attempts"])

    def _reads_any(self, instances: Sequence[str]) -> bool:
        """Return whether Orthanc can read the file of one of them."""
        for instance in instances:
            with contextlib.suppress(LoopbackError):
                if self._archive.file(instance) is not None:
                    return True
        return False

    def _take_from(self, recipes: Sequence[str], instances: Sequence[str]) -> None:
        """Let other recipes make their copies of these instances again, if they are still to be sent.

        Copies of one instance have the same identifiers, whatever the recipe: only those of one can be here.

        Raises
        ------
        NotNow : they are being sent.
        """
        for recipe in recipes:
            for row in self._work.find(Which(task=ANONYMIZE, queue=recipe, states=("waiting", "sending", "dead"))):
                data = json.loads(row["data"])
                if "Copies" not in data or set(instances).isdisjoint(data["Instances"]):
                    continue
                if row["state"] == "sending":
                    raise NotNow(f"recipe {recipe} is sending its copies of the same images, with the same UIDs")
                self._work.change(row["id"], data={key: value for key, value in data.items() if key != "Copies"})

    def _store(self, copy: Copy, *, is_first: bool) -> None:
        """Store a copy, in the place of one that another recipe, or this one with other settings, has left here.

        `is_first` : of those of this row, some of which may have the same UIDs.
        """
        stored = self._loopback.post("/instances", copy.content)
        if is_first and stored.get("Status") == "AlreadyStored" and self._archive.file(copy.instance) != copy.content:
            self._archive.delete(copy.instance)
            self._loopback.post("/instances", copy.content)

    def _is_made_here(self, dataset: Any) -> bool:
        """Return whether this is a copy, or a result that was taken back."""
        study_uid, uid = text_of(dataset, "StudyInstanceUID"), text_of(dataset, "SOPInstanceUID")
        return self._register.study_of_copy(study_uid) is not None or self._register.is_result(uid)

    def _copy_of(self, instance: str, original: Any, recipe: Recipe, attempt: int) -> Copy | str:
        """Return the copy of an instance, or why it is held back; one that can't be made does not hold up the others.

        Raises
        ------
        LoopbackError : Orthanc does not answer, or can't do it now.
        """
        try:
            if why := why_held(original, recipe):
                return why
            made = self._anonymized(instance, recipe)
            return de_identified(made, original, recipe, self._pseudonyms)
        except LoopbackError as error:
            if not _is_lasting(error, attempt) or self._is_fault_of(recipe, instance, attempt):
                raise
            return f"Orthanc can't anonymize it: {one_line(error)}"
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever pydicom meets in a file
            return _unreadable(error)

    def _is_fault_of(self, recipe: Recipe, instance: str, attempt: int) -> bool:
        """Return whether Orthanc can anonymize the instance otherwise: to a DicomVersion or a value it answers 400, too."""
        try:
            self._anonymized(instance, dataclasses.replace(recipe, replace={}, dicom_version=None))
        except LoopbackError as error:
            if not _is_lasting(error, attempt):
                raise
            return False
        return True

    def _anonymized(self, instance: str, recipe: Recipe) -> bytes:
        """Return what Orthanc's own anonymization makes of an instance."""
        body = {
            "Keep": list(recipe.keep),
            "Replace": recipe.replace,
            "Remove": list(recipe.remove),
            "Force": True,
            "KeepPrivateTags": recipe.keep_private_tags,
        }
        if recipe.dicom_version:
            body["DicomVersion"] = recipe.dicom_version
        return self._loopback.request_raw("POST", f"/instances/{instance}/anonymize", body)[1]


def _is_lasting(error: LoopbackError, attempt: int) -> bool:
    """Return whether Orthanc will say that again about this file. 500 may pass, or not."""
    if error.status in (400, 415, 501) or error.code in OF_THE_FILE:
        return True
    return error.status == 500 and attempt >= MOST_ATTEMPTS and error.code not in OF_THE_SERVER


def _unreadable(error: Exception) -> str:
    return f"pydicom can't read or write it: {type(error).__name__} at {where_raised(error)}"


# ---- src/anonymize_series/intake.py: What has become stable: a row of work for each recipe that the rules name, or one to take it back.


Origins = Mapping[str, Mapping[str, str]]  # of instances: Orthanc's metadata by name


class Intake:
    """Applies the rules to what has become stable. Never takes a copy, or a result that was taken back, for an original."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        register: Register,
        archive: Archive,
        router: Router,
        aets: AeTitles,
        arrivals: Arrivals,
    ) -> None:
        self._settings, self._ledger, self._register = settings, ledger, register
        self._archive, self._router, self._aets, self._arrivals = archive, router, aets, arrivals
        self._work = Work(ledger)

    def on_stable(self, level: str, resource: str, instances: Mapping[str, int]) -> None:
        """Write down, in the feed's transaction, what is to be looked at."""
        arrivals = {each: arrival for each in instances if (arrival := self._arrivals.get(each))}
        parents = next((arrival.parents for arrival in arrivals.values() if arrival.parents), {})
        data = {
            "Level": level,
            **place_of(level, resource, parents),
            "Instances": list(instances),
            # Of a patient it is asked for later: Orthanc finds a PatientID by the spaces too that it was sent with.
            "UID": "" if level == "Patient" else next((arrival.uids[level] for arrival in arrivals.values()), ""),
            "Origins": {each: dict(arrival.origin) for each, arrival in arrivals.items()},
        }
        self._ledger.add(NO_RECIPE, resource, data, task=ROUTE)

    def route(self, row: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Find out what is to be done with what has become stable, and put rows for that in the place of this one."""
        resource, level = row["subject"], data["Level"]
        origins = self._origins_of(level, resource, data)
        results = self._results(level, origins)
        task = RE_IDENTIFY if results else ANONYMIZE
        new = [(NO_RECIPE, results, 0)] if results else self._recipes(level, resource, data["UID"], origins)
        place = {key: data[key] for key in ("Study", "Patient") if key in data}
        with self._ledger.transaction():
            for recipe, instances, priority in new:
                about = {"Level": level, **place, "Instances": instances}
                self._ledger.add(recipe, resource, about, priority, task)
            self._work.remove(row["id"])
        for each in data["Instances"]:
            self._arrivals.forget(each)

    def _origins_of(self, level: str, resource: str, data: Mapping[str, Any]) -> Origins:
        """Return the instances that are still there, in their order, each with its origin."""
        origins = dict(data["Origins"])
        still = set(self._archive.instances(level, resource))
        # A row of an older version has no SOP class in its origins.
        if unknown := [
            each for each in data["Instances"] if each in still and "SopClassUid" not in origins.get(each, ())
        ]:
            origins |= self._archive.metadata(unknown)
        return {each: origins[each] for each in data["Instances"] if each in still and each in origins}

    def _recipes(self, level: str, resource: str, uid: str, origins: Origins) -> list[tuple[str, list[str], int]]:
        """Return the recipes that the rules name, each with its instances and the rule's priority."""
        originals = tuple(each for each in origins if not self._register.is_copy(each))
        if not originals:
            return []
        if not uid and any(rule.query for rule in self._settings.rules):
            uid = self._archive.tag(level, resource, UID_TAG_OF[level])
        batch = Batch(level, resource, uid, originals, {each: origins[each] for each in originals})
        new: list[tuple[str, list[str], int]] = []
        for verdict in self._router.verdicts(batch, list(self._settings.recipes), list(self._settings.recipes)):
            instances = list(originals if verdict.instances is None else verdict.instances)
            new += [(recipe, instances, verdict.rule.priority) for recipe in verdict.destinations if instances]
        return new

    def _results(self, level: str, origins: Origins) -> list[str]:
        """Return those that came back for a copy, from where results come from."""
        if self._settings.results is None or level != "Series":
            return []
        found = [each for each, origin in origins.items() if has_origin(self._settings.results, origin, self._aets)]
        if not found:
            return []
        return found if self._register.study_of_copy(self._archive.study_uid(found[0])) else []


# ---- src/anonymize_series/re_identifying.py: The way back: results are put into the original study.


class ReIdentifying:
    """Takes results back to their patient; with `delete_results` it deletes them as they came."""

    def __init__(
        self,
        loopback: Loopback,
        ledger: Ledger,
        register: Register,
        attempts: Attempts,
        pseudonyms: Pseudonyms,
        *,
        delete_results: bool,
    ) -> None:
        self._loopback, self._archive, self._ledger = loopback, Archive(loopback), ledger
        self._work, self._register, self._attempts = Work(ledger), register, attempts
        self._pseudonyms, self._delete_results = pseudonyms, delete_results

    def re_identify(self, row: Mapping[str, Any], data: dict[str, Any]) -> None:
        """Do a row: put each result into the original study, with the original's identity."""
        made: dict[str, str] = {}
        for instance in data["Instances"]:
            self._attempts.go_on()
            if (content := self._archive.file(instance)) is None:
                continue
            if (result := self._take_back(instance, content)) is not None:
                made[instance] = result
        data["Copies"] = list(made.values())
        self._work.change(row["id"], data=data)
        for instance, result in made.items():
            if self._delete_results and instance != result:
                self._loopback.get(f"/instances/{result}")  # raises, if a filter has refused it
                self._ledger.check()  # what can't be recorded is not done
                self._archive.delete(instance)
        self._ledger.end(row["id"], "done")

    def _take_back(self, instance: str, content: bytes) -> str | None:
        """Return the identifier of the result in the original study; None for what is a copy itself.

        Raises
        ------
        Impossible : the register does not know its study.
        """
        came = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
        if self._register.original_uid(text_of(came, "SOPInstanceUID")):
            return None  # a copy, maybe sent back: with its original's UID it might overwrite that
        if (study := self._register.study_of_copy(text_of(came, "StudyInstanceUID"))) is None:
            raise Impossible(f"the register has no study of which instance {instance} would be a result")
        dataset = re_identified(content, json.loads(study["tags"]), self._register.original_uid, self._pseudonyms)
        self._register.add_result(str(dataset.SOPInstanceUID), instance)
        return str(self._loopback.post("/instances", written(dataset))["ID"])


# ---- src/anonymize_series/anonymizer.py: The callbacks and the thread of the anonymizer.


# Between two turns of the thread, which an event cuts short: while something waits, and when nothing does.
BUSY_TURN_SECONDS, IDLE_TURN_SECONDS = 1.0, 5.0
MOST_COUNTED = 10_000  # instances that were held back, for the metric
EVENTS = (
    "ORTHANC_STARTED",
    "ORTHANC_STOPPED",
    "NEW_INSTANCE",
    "STABLE_SERIES",
    "STABLE_STUDY",
    "JOB_SUCCESS",
    "JOB_FAILURE",
)


class Anonymizer:
    """Takes what is stable, and works its rows off one after the other, in one thread.

    Each step leaves the same behind if it is done twice: identifiers are the same each time.

    Attributes
    ----------
    ledger, work, register : the state, from when it is open: once `worker.why_not()` is None.
    """

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self.settings, self._configuration = settings, configuration
        self.turns = HttpTurns(configuration)  # of routes that ask Orthanc
        self.loopback, self._arrivals = Loopback(configuration), Arrivals(digests=False)
        self._peers = Peers(configuration, self.loopback)
        self.worker = Worker(NAME, self._open, self._turn, self.loopback.close)
        self._changed, self._job_ends = threading.Event(), JobEnds()
        self._inbox: Inbox[tuple[str, str]] = Inbox(lambda report: self._feed.on_event(*report))
        self._begun, self._next_poll = False, 0.0
        self._unread, self._has_read = Unread(), False
        self._events = {int(getattr(orthanc.ChangeType, name)): name for name in EVENTS}

    # Callbacks: they return at once

    def on_stored(self, dicom: Any, instance: str) -> None:
        """Remember where an instance came from."""
        self._arrivals.stored(dicom, instance)

    def on_change(self, change: int, _level: int, resource: str) -> None:
        """Write down what has arrived or become stable, and wake the thread."""
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self.worker.stop()
        elif event is None or self.worker.is_off:
            return
        elif event.startswith("JOB_"):
            self._job_ends.end(resource, well=event == "JOB_SUCCESS")
            self.worker.wake.set()
        elif event == "NEW_INSTANCE":
            if self.settings.reconcile:
                self._unread.add(resource)
            self._inbox.add(("NewInstance", resource))
        else:
            self._inbox.add((f"Stable{event.removeprefix('STABLE_').capitalize()}", resource))
            self._changed.set()
            self.worker.wake.set()

    # The thread

    def _open(self) -> Ledger:
        if not self.loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        folder, rules = configuration_folder(), self.settings.rules
        matchers = {rule.matcher: load_matcher(rule.matcher, folder) for rule in rules if rule.matcher}
        path = (
            state_folder(self.settings.state_path, self._configuration, "anonymize_series") / "anonymize_series.sqlite"
        )
        tables = FEED_TABLES + REGISTER_TABLES + owed_tables()
        self.ledger = Ledger(path, tables, durability=self.settings.durability, first_tasks=FIRST_TASKS)
        if self.ledger.quarantined_to:
            orthanc.LogError(
                f"{NAME}: the register {path} was corrupt and is kept as {self.ledger.quarantined_to}; "
                "what comes back for copies that were made before can't be taken back"
            )
        self.work, self.register = Work(self.ledger), Register(self.ledger)
        self._aets = AeTitles(self._configuration)
        self._router = Router(self.loopback, rules, self.settings.rule_mode == "first", matchers, self._aets)
        self._owing = Owing(self.ledger, self.loopback)
        self._create_steps()
        self._inbox.open()
        return self.ledger

    def _create_steps(self) -> None:
        """Create what does the rows of each task, and the feed that the rows come from."""
        settings, ledger, register = self.settings, self.ledger, self.register
        self._attempts = Attempts(ledger, self.work, settings.retry, self.worker.stopping, self.worker.trouble)
        pseudonyms = Pseudonyms(settings.secret or "", settings.pseudonym_prefix)
        intake = Intake(settings, ledger, register, Archive(self.loopback), self._router, self._aets, self._arrivals)
        self._sending = Sending(
            *(settings.recipes, self.loopback, self._peers, ledger, register, self._attempts, self._job_ends),
            dicomweb_servers_route(self._configuration),
        )
        back = ReIdentifying(
            *(self.loopback, ledger, register, self._attempts, pseudonyms), delete_results=settings.delete_results
        )
        anonymizing = Anonymizing(
            *(settings.recipes, self.loopback, self.work, register, self._attempts, pseudonyms, self._sending)
        )
        self._steps = {
            (ROUTE, NO_RECIPE): intake.route,
            (RE_IDENTIFY, NO_RECIPE): back.re_identify,
            **{(ANONYMIZE, name): anonymizing.anonymize for name in settings.recipes},
        }
        levels = self._levels = {rule.level for rule in settings.rules} | ({"Series"} if settings.results else set())
        self._feed = Feed(
            *(ledger, self.loopback, intake.on_stable, sorted(levels)),
            *(
                float(self._configuration.get("StableAge", 60)),
                settings.reconcile,
                self._arrivals.parents,
                self._unread.on_change_entry,
            ),
        )

    def owed(self, resources: set[str]) -> set[str]:
        """Return the studies, of these or any, with which it is not done."""
        if not self._has_read:
            raise Refused(503, f"{NAME} has not read yet what arrived before Orthanc started")
        self._inbox.flush()
        with self.turns.turn():  # it asks Orthanc
            found = set[str]()
            if self._levels:
                found = arriving(self.ledger, self.loopback, self._arrivals.parents, self._unread.now())
            return found | self._owing.of(resources)

    def measure(self) -> dict[str, float]:
        """Return its metrics."""
        return {**self.ledger.totals(), "held": self.register.count_held(MOST_COUNTED)}

    def _turn(self) -> float:
        try:
            if not self._begun:
                self._begin()
                self._begun = True
            if self.worker.is_off:
                return IDLE_TURN_SECONDS
            self._inbox.flush()
            if self._changed.is_set() or time.monotonic() >= self._next_poll:
                self._changed.clear()
                self._unread.begin_reading()
                self._feed.poll()
                self._unread.never_read()
                self._has_read = True
                self._next_poll = time.monotonic() + BUSY_TURN_SECONDS
            for (task, recipe), step in self._steps.items():
                self._attempts.work_off(task, recipe, step)
            self._sending.look_at_jobs()
            self.ledger.forget_finished(self.settings.keep_done_days)
        except Stopping:
            return 0.0
        except BaseException:
            # What was under way begins again, and the feed may still have something to hand over.
            self._begun, self._next_poll = False, 0.0
            raise
        totals = self.ledger.totals()
        return BUSY_TURN_SECONDS if totals["waiting"] or totals["sending"] else IDLE_TURN_SECONDS

    def _begin(self) -> None:
        self._feed.begin()
        # What was under way when Orthanc ended, and is no job of Orthanc's, begins again.
        for row in self.work.find(Which(states=("sending",))):
            if row["job"] is None:
                self.work.wait_again(row["id"])
        self._feed.take_back(ROUTE)
        if refused := self._router.check():
            self.worker.turn_off(f"{SECTION}.{refused}. {NAME} is idle until this is corrected.")


# ---- src/anonymize_series/routes.py: The routes `/anonymize-series/…`.


NOT_UNDER_WAY = tuple(state for state in STATES if state != "sending")


class Routes:
    """Handlers of `/anonymize-series/…`."""

    def __init__(self, anonymizer: Anonymizer) -> None:
        self._anonymizer, self._archive = anonymizer, Archive(anonymizer.loopback)

    def register(self, refusal: str | None, *, is_unused: bool) -> ListedScript:
        """Register the routes, and return the script's entry.

        With a `refusal` (the configuration is wrong, or `is_unused`) they answer 503 with it.
        """
        worker = self._anonymizer.worker

        def unavailable() -> str | None:
            return refusal or worker.why_not()

        def look() -> Condition:
            return unused(refusal) if refusal and is_unused else condition_of(worker, refusal)

        script = register_status(NAME.replace("-", "_"), look, self.status, unavailable)
        identifier = "([0-9a-f-]+)"
        routes: dict[str, dict[str, Callable[[Request], Any]]] = {
            "jobs": {"GET": self.list_work},
            "jobs/([0-9]+)": {"GET": self.get_work, "DELETE": self.drop},
            "jobs/([0-9]+)/retry": {"POST": self.retry},
            "held": {"GET": self.held},
            "register": {"GET": self.studies},
            identifier: {"POST": self.anonymize},
            f"{identifier}/re-identify": {"POST": self.re_identify},
        }
        for pattern, handlers in routes.items():
            register_route(f"/{NAME}/{pattern}", handlers, unavailable)
        register_owed(NAME, self._anonymizer.owed, unavailable, is_unused=bool(refusal) and is_unused)
        return script

    def status(self, _request: Request) -> dict[str, Any]:
        """Return whether it runs, and how much work is in which state, held back, and in the register."""
        counts = self._anonymizer.register.counts()
        return {
            "Totals": self._anonymizer.ledger.totals(),
            **{name.capitalize(): number for name, number in counts.items()},
            "Recipes": list(self._anonymizer.settings.recipes),
        }

    @takes({**PAGE_PARAMETERS, "before": WholeNumber(), "state": OneOf(choices=STATES)})
    def list_work(self, request: Request) -> dict[str, Any]:
        """Return what was, is or will be done, oldest first after the id `since`, newest first `before` one: `limit`, `state`."""
        work, state, before = self._anonymizer.work, request.parameters.get("state"), request.parameters.get("before")
        which = Which(states=(state,)) if state else Which(not_task=ROUTE)
        return page_answer(
            request.parameters, work.count(which), lambda since, limit: work.page(which, since, limit, before), _shown
        )

    def get_work(self, request: Request) -> dict[str, Any]:
        """Return one piece of work: its state, what was made, its last error."""
        return _shown(self._row(request))

    @answers(409)
    def drop(self, request: Request) -> dict[str, Any]:
        """Give a piece of work up that waits or is dead."""
        row = self._row(request)
        if not self._anonymizer.work.remove(row["id"], NOT_UNDER_WAY):
            raise Refused(409, "It is being done just now")
        return {}

    @answers(409)
    def retry(self, request: Request) -> dict[str, Any]:
        """Try a piece of work again that is dead or waits."""
        row, work = self._row(request), self._anonymizer.work
        with self._anonymizer.ledger.transaction():
            if not work.retry(Which(ids=[row["id"]])):
                raise Refused(409, f"It is {row['state']}")
            work.change(row["id"], attempts=row["attempts"])  # if it fails again, it waits as long as before
        self._anonymizer.worker.wake.set()
        return {}

    @takes(PAGE_PARAMETERS)
    def held(self, request: Request) -> dict[str, Any]:
        """Return the instances that were held back, each with the reason: `?since=`, `?limit=`."""
        register = self._anonymizer.register
        return page_answer(request.parameters, register.counts()["held"], register.held, _shown_held)

    @takes(dict.fromkeys(STUDY_CONDITIONS, Text()))
    @answers(403)
    def studies(self, request: Request) -> dict[str, Any]:
        """Return which copy is whose, both ways (with `ReIdentify`): `?patient=`, `?study=`, `?pseudonym=` of either."""
        self._must_re_identify()
        if len(request.parameters) != 1:
            raise Refused(400, "allowed: one of patient, study, pseudonym")
        [(name, value)] = request.parameters.items()
        items = [
            {
                "PatientID": row["patient"],
                "Pseudonym": row["patient_pseudonym"],
                "StudyInstanceUID": row["original"],
                "PseudonymStudyInstanceUID": row["pseudonym"],
            }
            for row in self._anonymizer.register.studies(name, value)
        ]
        return {"Total": len(items), "Items": items, "Next": None}

    @takes({"Recipe": Text()})
    def anonymize(self, request: Request) -> dict[str, Any]:
        """De-identify a study or a series by a `Recipe`, whatever the rules say; return the work."""
        recipes = self._anonymizer.settings.recipes
        recipe = request.parameters.get("Recipe", next(iter(recipes)) if len(recipes) == 1 else None)
        if recipe not in recipes:
            raise Refused(400, f"Recipe is {json.dumps(recipe)[:60]}, allowed: {names_of(recipes)}")
        with self._anonymizer.turns.turn():
            found = self._found(request)
        return self._add(ANONYMIZE, recipe, *found)

    @answers(403, 409)
    def re_identify(self, request: Request) -> dict[str, Any]:
        """Take a result (a study, series or instance) back to the original study; return the work."""
        self._must_re_identify()
        with self._anonymizer.turns.turn():
            resource, level, instances = self._found(request)
            study_uid = self._archive.study_uid(instances[0])
        if self._anonymizer.register.study_of_copy(study_uid) is None:
            raise Refused(409, "The register knows no original of its study")
        return self._add(RE_IDENTIFY, NO_RECIPE, resource, level, instances)

    def _must_re_identify(self) -> None:
        if not self._anonymizer.settings.re_identify:
            raise Refused(403, f"{SECTION}.ReIdentify is false: nobody is told whose a copy is")

    def _found(self, request: Request) -> tuple[str, str, list[str]]:
        """Return the resource of a request, its level and its instances. Raises `Refused`: there is no such one."""
        resource = request.groups[0]
        try:
            level = self._archive.level_of(resource)
            instances = self._archive.instances(level, resource) if level else []
        except LoopbackError as error:
            raise Refused(503, f"Orthanc does not answer: {error}") from None
        if not level or not instances:
            raise Refused(404, f"There is no study, series or instance {resource}")
        return resource, level, instances

    def _add(self, task: str, recipe: str, resource: str, level: str, instances: list[str]) -> dict[str, Any]:
        row = self._anonymizer.ledger.add(recipe, resource, {"Level": level, "Instances": instances}, 1, task)
        self._anonymizer.worker.wake.set()
        return {"ID": row, "Path": f"/{NAME}/jobs/{row}", "Instances": len(instances)}

    def _row(self, request: Request) -> dict[str, Any]:
        row = self._anonymizer.work.get(row_number(request.groups[0]))
        if row is None:
            raise Refused(404, f"There is no work {request.groups[0][:20]}")
        return row


def _shown_held(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ID": row["number"],
        "Instance": row["instance"],
        "Recipe": row["recipe"],
        "Reason": row["reason"],
        "At": utc(row["at"]),
    }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    data = json.loads(row["data"])
    return {
        "ID": row["id"],
        "What": recipe_or_task(row),
        "Resource": row["subject"],
        "State": "partly" if row["state"] == "done" and data.get("HeldBack") else row["state"],
        "Attempts": row["attempts"],
        "Instances": len(data["Instances"]),
        "Copies": data.get("Copies"),
        "HeldBack": data.get("HeldBack", 0),
        "Error": row["error"],
        "Created": utc(row["created"]),
        "Updated": utc(row["updated"]),
    }


# ---- src/anonymize_series/__init__.py


PROBLEM = package_problem("pydicom", "2.3", pydicom and pydicom.__version__, "python3-pydicom")


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if wrong := wrong_with_settings(settings, configuration):
            raise SettingsError(f"{SECTION}.{wrong}")
        if settings.secret is None and SECTION in configuration:
            raise SettingsError(f"{SECTION}.Secret: found none, allowed: at least {MIN_SECRET_CHARACTERS} characters")
        if PROBLEM:
            raise SettingsError(f"{NAME} stays idle: {PROBLEM}")
    except SettingsError as error:
        refusal = f"{error}. anonymize_series is idle until this is corrected."
        orthanc.LogError(refusal)
    is_unused = refusal is None and settings.secret is None
    if is_unused:
        refusal = f"anonymize_series stays idle: there is no section {SECTION}, and no Secret in it"
        orthanc.LogWarning(refusal)
    anonymizer = Anonymizer(settings, configuration)
    script = Routes(anonymizer).register(refusal, is_unused=is_unused)
    if refusal is not None:
        listen_to_changes(script)
    else:
        warn_if_open("anonymize_series", configuration)
        listen_to_changes(script, anonymizer.on_change, anonymizer.measure)
        orthanc.RegisterOnStoredInstanceCallback(kept_alive(anonymizer.on_stored))


register()
