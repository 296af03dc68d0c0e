# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes down what happens to studies: received, sent, moved, modified, anonymized, deleted, asked for over REST.

One line of JSON each, in files that are only appended to. Each line carries an HMAC over itself and that of the line before, so
that a changed or a missing line shows; the newest one, kept elsewhere, shows a log that was cut. It decides nothing about access.

A smallest configuration (without the section, the key is made and kept in the folder of the index):

    "AuditLog": {"Key": "${AUDIT_LOG_KEY}", "Path": "/var/log/orthanc-audit"}

To look at, with curl, and to verify without Orthanc:

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
import encodings.idna  # noqa: F401
import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # to verify a log takes no Orthanc
    sys.modules.setdefault("orthanc", types.ModuleType("orthanc"))

import orthanc

from common.answers import KEPT_ALIVE, Request, one_line, serve, warn_if_open
from common.arrivals import Arrival, Arrivals
from common.days import parse_day
from common.expiry import Expiry
from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.parameters import Text, WholeNumber, takes
from common.settings import SettingsError, read_settings
from common.state import StateLock, configuration_folder, make_private, must_be_same, open_private, state_folder
from common.worker import Worker

__version__ = "0.1.0"

SECTION = "AuditLog"
SHORTEST_KEY = 32  # characters
PAUSE = 0.2  # seconds in which lines are gathered, to be written together
QUIET = 10.0  # seconds without another of its kind until what was counted is written
LONGEST = 600.0  # seconds after which it is written although more comes
MOST_WAITING = 200_000  # events in memory while nothing can be written; what comes then is counted
PAGE = 500  # studies a request, when the archive is looked through
BLOCK = 1 << 22  # bytes that are searched at a time
MAC = re.compile(rb', "Mac": "([0-9a-f]{64})"\}$')

# Routes that give images, or documents, or what they were made from.
CONTENT = re.compile(
    r"^/(?:(?:patients|studies|series|instances)/[^/]+/(?:archive|media|file|preview|rendered|image-|frames|pdf|raw|matlab"
    r"|attachments/[^/]+/(?:data|compressed-data)|content/7fe0-0010|numpy|export|dicom)|dicom-web/studies/|wado"
    r"|tools/create-archive|tools/create-media|jobs/[^/]+/archive|audit-log$)"
)
RESOURCE = re.compile(r"^/(patients|studies|series|instances)/([0-9a-f]{8}(?:-[0-9a-f]{8}){4})(?:/([a-z-]*))?")
DICOMWEB = re.compile(r"^/dicom-web/studies/([0-9.]+)")
GET = 1  # of orthanc.HttpMethod
METHODS = {1: "GET", 2: "POST", 3: "PUT", 4: "DELETE"}
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
# Whose is which: the lines tell of studies and patients, events of identifiers only.
TABLES = """
CREATE TABLE IF NOT EXISTS places(
    resource TEXT PRIMARY KEY, study TEXT NOT NULL, uid TEXT NOT NULL, patient TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places_by_uid ON places(uid);
"""


def wrong_key(key: str | None) -> str | None:
    """What is allowed, if this is no key."""
    return None if key is None or len(key) >= SHORTEST_KEY else f"at least {SHORTEST_KEY} characters"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AuditLog`."""

    key: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": wrong_key,
            "help": "Of the HMACs, at least 32 characters; null: made, and kept in `audit_log.key` beside the index.",
        },
    )
    path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the log; null: `audit-log` in that of the index."}
    )
    watch_requests: bool | None = dataclasses.field(
        default=None,
        metadata={"help": "Whether requests are written down; null: from plugin 5.0 on, whose filter leaks no memory."},
    )
    max_file_size: float = dataclasses.field(
        default=64, metadata={"minimum": 0.001, "help": "Megabytes after which a new file begins."}
    )
    keep_days: float | None = dataclasses.field(
        default=None,
        metadata={"minimum": 1, "help": "Days after which files are deleted, and a line says so; null: never."},
    )
    durability: str = dataclasses.field(
        default="normal",
        metadata={"choices": ("normal", "full"), "help": "`full`: what is written also survives the loss of power."},
    )
    state_path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the ledger; null: `IndexDirectory`, else `StorageDirectory`."}
    )


# The log


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def mac_of(key: bytes, previous: str, text: bytes) -> str:
    """The HMAC-SHA256 of a line without its end, and of the MAC of the line before ("" for the first of all)."""
    return hmac.new(key, previous.encode() + b"\n" + text, hashlib.sha256).hexdigest()


def log_files(folder: Path) -> list[Path]:
    """The files of a log, oldest first: each is called by the number of its first line."""
    return sorted(folder.glob("audit-*.jsonl"))


class Line(NamedTuple):
    """One line of a file: its text without the MAC, its content, its MAC."""

    text: bytes
    content: dict[str, Any]
    mac: str


def parse_line(raw: bytes) -> Line | None:
    """A line, or None if it is none."""
    if not (found := MAC.search(raw)):
        return None
    try:
        content = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("Number"), int):
        return None
    return Line(raw[: found.start()], content, found[1].decode())


class Log:
    """The files of a folder, to append to: by one process only.

    Raises
    ------
    OSError : the folder or its files can't be written, or another process has them.
    """

    def __init__(self, folder: Path, key: bytes, max_bytes: int, *, sync: bool, setting: str = "StatePath") -> None:
        self._folder, self._key, self._max_bytes, self._sync = folder, key, max_bytes, sync
        self.number, self.mac, self._file = 0, "", -1
        self._lock = StateLock(folder, setting, folder / "lock")
        try:
            if files := log_files(folder):
                for path in files:
                    make_private(path)
                self._open(files[-1])
                self._take_up(files)
            else:
                self._begin_file()
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        file = open_private(path, os.O_APPEND)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._path = file, path
        self._size = os.fstat(self._file).st_size

    def _begin_file(self) -> None:
        self._open(self._folder / f"audit-{self.number + 1:012}.jsonl")

    def _take_up(self, files: Sequence[Path]) -> None:
        """Go on behind the last whole line; of one that was cut by a crash, a line tells."""
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
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._write(b"\n")
        if broken:
            self.append([{"At": now(), "Event": "recovered", "Broken": hashlib.sha256(broken).hexdigest()}])

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write lines; all of them, or none. Raises OSError: a full disk, or the file was deleted, for example."""
        must_be_same(self._file, self._path)
        self._lock.check()
        if self._size >= self._max_bytes:
            self._begin_file()
            entries = [{"At": now(), "Event": "continued", "Previous": self.mac}, *entries]
        number, mac, data = self.number, self.mac, []
        for number, entry in enumerate(entries, start=self.number + 1):
            text = json.dumps({"Number": number, **entry}).encode()[:-1]
            mac = mac_of(self._key, mac, text)
            data.append(b'%s, "Mac": "%s"}\n' % (text, mac.encode()))
        self._write(b"".join(data))
        self.number, self.mac = number, mac

    def _write(self, data: bytes) -> None:
        try:
            if os.write(self._file, data) < len(data):
                raise OSError("the disk is full")
            if self._sync:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)  # half a line would look as if somebody had changed it
            raise
        self._size += len(data)

    def drop_before(self, at: str) -> None:
        """Delete the files whose lines are all older; a line says up to which, so that `verify` misses none."""
        for path, following in list(zip(log_files(self._folder), log_files(self._folder)[1:], strict=False)):
            if (first := next(entries_of(following), None)) is None or first["At"] >= at:
                return
            self.append([{"At": now(), "Event": "dropped", "File": path.name, "UpTo": first["Number"] - 1}])
            path.unlink()

    def close(self) -> None:
        """Write no more, and let another process write."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.close()


def entries_of(path: Path, needles: Sequence[bytes] = ()) -> Iterator[dict[str, Any]]:
    """The lines of a file that hold all of these texts."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        rest = b""
        while block := file.read(BLOCK):
            whole, mark, rest = (rest + block).rpartition(b"\n")
            if mark and all(needle in whole for needle in needles):
                for raw in whole.split(b"\n"):
                    if all(needle in raw for needle in needles) and (line := parse_line(raw)):
                        yield line.content


def entries_since(folder: Path, since: str, needles: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a log from a time on; files that end before it are not read."""
    files = log_files(folder)
    for path, following in zip(files, [*files[1:], None], strict=True):
        if since and following and (first := next(entries_of(following), None)) and first["At"] < since:
            continue
        yield from entries_of(path, needles)


def verify(files: Sequence[Path], key: bytes, newest: tuple[int, str] | None = None) -> tuple[list[str], int, str]:
    """What is wrong with a log, and the number and MAC of its last line.

    Each line must follow the one before, and carry the MAC of both. `newest` is a line that was there, as `GET
    /audit-log/newest` gave it: without one, nothing can tell whether the end was cut off.
    """
    problems: list[str] = []
    number, mac, dropped, first, broken = 0, "", 0, 0, b""
    for path in files:
        for position, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
            if not raw:
                continue
            where = f"{path.name}, line {position}"
            if (line := parse_line(raw)) is None:
                problems += [f"{where}: it is no line of the log"] if broken else []
                broken = raw
                continue
            found = line.content["Number"]
            if broken and line.content.get("Broken") != hashlib.sha256(broken).hexdigest():
                problems.append(f"{where}: the line before it has been changed, or is none of the log")
            broken = b""
            first = first or found
            if not number and found > 1:  # files before were dropped: a line further on must say so
                number, mac = found - 1, str(line.content.get("Previous", ""))
            if found <= number:
                problems.append(f"{where}: number {found} comes after {number}")
            elif found > number + 1:
                problems.append(f"{where}: {_lines(number + 1, found - 1)} missing")
            elif not hmac.compare_digest(mac_of(key, mac, line.text), line.mac):
                problems.append(f"{where}: number {found} has been changed (or the key is another)")
            if line.content.get("Event") == "dropped":
                dropped = max(dropped, line.content["UpTo"])
            if newest and found == newest[0] and line.mac != newest[1]:
                problems.append(f"{where}: number {found} is not the line that was the newest then")
            number, mac = found, line.mac
    if broken:
        problems.append(f"{path.name}: its last line is cut")
    if first > dropped + 1:
        problems.append(f"{_lines(dropped + 1, first - 1)} missing at the beginning")
    if newest and number < newest[0]:
        problems.append(f"{_lines(number + 1, newest[0])} missing at the end")
    return problems, number, mac


def _lines(first: int, last: int) -> str:
    return f"number {first} is" if first == last else f"numbers {first} to {last} are"


def main(words: Sequence[str]) -> int:
    """`python3 audit_log.py --verify FOLDER`: 0 if all is well, 1 if not, 2 if it can't be told."""
    parser = argparse.ArgumentParser(description="Verifies a log of audit_log.py.")
    parser.add_argument("--verify", metavar="FOLDER", type=Path, required=True, help="the folder of the log")
    parser.add_argument(
        "--key-file", type=Path, help="the key, as audit_log.key; without: AUDIT_LOG_KEY of the environment"
    )
    parser.add_argument("--newest", metavar="NUMBER:MAC", help="what GET /audit-log/newest gave, once")
    given = parser.parse_args(words)
    key = given.key_file.read_text().strip() if given.key_file else os.environ.get("AUDIT_LOG_KEY", "")
    files = log_files(given.verify)
    if wrong_key(key) or not files:
        sys.stderr.write(f"no log in {given.verify}\n" if not files else "no key: --key-file or AUDIT_LOG_KEY\n")
        return 2
    newest = None
    if given.newest:
        number, _, mac = given.newest.partition(":")
        newest = int(number), mac
    problems, number, mac = verify(files, key.encode(), newest)
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    sys.stdout.write(f"{'WRONG' if problems else 'ok'}: {number} lines, the newest is {number}:{mac}\n")
    return 1 if problems else 0


# What happens


class Seen(NamedTuple):
    """A request, as the filter saw it."""

    at: str
    method: str
    uri: str
    ip: str
    user: str
    forwarded: str
    study_uid: str


def user_of(authorization: str) -> str:
    """The name in an Authorization header (RFC 7617), else its kind; never what is secret in it."""
    kind, _, credentials = authorization.partition(" ")
    if kind.lower() != "basic":
        return f"({one_line(kind)[:20]})" if credentials else ""
    try:
        return one_line(base64.b64decode(credentials).decode("utf-8", "replace").partition(":")[0])
    except (ValueError, binascii.Error):
        return ""


class Counter:
    """Lines of one kind: the first is written at once, how many there were when it has been quiet for a while."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], tuple[dict[str, Any], int, float, float]] = {}

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._open

    def note(self, key: tuple[Any, ...], entry: dict[str, Any]) -> dict[str, Any] | None:
        """The line to write now, or None: it is counted."""
        first, count, began, _ = self._open.get(key, (entry, 0, time.monotonic(), 0.0))
        self._open[key] = first, count + 1, began, time.monotonic()
        return None if count else entry

    def ended(self, everything: bool = False) -> list[dict[str, Any]]:
        """The lines of what has become quiet; the counting of that begins anew."""
        found = []
        for key, (entry, count, began, last) in list(self._open.items()):
            if everything or time.monotonic() > min(last + QUIET, began + LONGEST):
                del self._open[key]
                if count > 1:
                    found.append({**entry, "At": now(), "Since": entry["At"], "Count": count})
        return found


def sent_to(content: Mapping[str, Any]) -> str:
    """Where a job of sending went: an AET, or the URL of a peer."""
    peer = content.get("Peer")
    return str(content.get("RemoteAet") or (peer[0] if isinstance(peer, list) and peer else peer) or "")


@dataclasses.dataclass(frozen=True)
class TimeOfLine(Text):
    """A day or a time; handlers get it in UTC, as lines have it."""

    allowed: str = "YYYYMMDD, or a time as 2024-01-31T12:00:00Z"

    def from_body(self, value: Any) -> Any:
        if day := parse_day(value):
            return f"{day.isoformat()}T00:00:00.000Z"
        try:
            found = datetime.datetime.fromisoformat(value.replace(" ", "+"))
            found = (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
        except (AttributeError, ValueError, OverflowError):
            raise ValueError(self.allowed) from None
        return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


OF_PAGES: dict[str, Text] = {
    **dict.fromkeys(("patient", "study", "event"), Text()),
    **dict.fromkeys(("since", "until"), TimeOfLine()),
    "after": WholeNumber(),
    "limit": WholeNumber(least=1, most=1000),
}


class Recorder:
    """Takes what Orthanc tells into memory; one thread finds out whose it is, and writes."""

    def __init__(self, settings: Settings, configuration: Mapping[str, Any]) -> None:
        self._settings, self._configuration = settings, configuration
        self._loopback, self._arrivals = Loopback(configuration), Arrivals(digests=False)
        self._heard: collections.deque[tuple[Callable[..., Any], tuple[Any, ...]]] = collections.deque()
        self._lines: list[dict[str, Any]] = []
        self._counter, self._lost = Counter(), 0
        self._known: dict[str, dict[str, str]] = {}
        self.worker = Worker("audit_log", self._open, self._turn, self._finish)
        self._caught_up, self._next_drop = False, 0.0
        self.watching = False
        change = orthanc.ChangeType
        self._events = {int(getattr(change, name)): name for name in
                        ("ORTHANC_STARTED", "ORTHANC_STOPPED", "DELETED", "JOB_SUCCESS", "JOB_FAILURE")}  # fmt: skip

    # What Orthanc tells: return at once

    def on_request(self, uri: str, **request: Any) -> bool:
        """The filter of requests: always true. Most are not written down, and cost a look at their route."""
        method = request["method"]
        if method == GET and not CONTENT.match(uri):
            return True
        headers = request["headers"]
        if headers.get("authorization", "") != self._loopback._token or not self._loopback._token:
            seen = Seen(
                now(),
                METHODS.get(method, "?"),
                uri,
                request["ip"],
                user_of(headers.get("authorization", "")),
                headers.get("x-forwarded-for", ""),
                request.get("get", {}).get("studyUID", ""),
            )
            self._hear(self._take_request, seen)
        return True

    def on_stored(self, dicom: Any, instance: str) -> None:
        self._arrivals.stored(dicom, instance)
        arrival = self._arrivals.get(instance)
        self._arrivals.forget(instance)  # it waits with the event, however many do
        if arrival:
            self._hear(self._take_stored, now(), instance, arrival)

    def on_change(self, change: int, level: int, resource: str) -> None:
        event = self._events.get(change)
        if event == "ORTHANC_STARTED":
            self._heard.appendleft((self._line, (now(), "started")))
            self.worker.start()
        elif event == "ORTHANC_STOPPED":
            self.worker.stop()
        elif event == "DELETED":
            self._hear(self._take_deleted, now(), level, resource)
        elif event:
            try:
                job = json.loads(orthanc.RestApiGet(f"/jobs/{resource}"))  # it may be forgotten soon
            except orthanc.OrthancException:
                job = {"ID": resource, "Type": "", "Content": {}}
            self._hear(self._take_job, now(), job, event == "JOB_SUCCESS")

    def _hear(self, what: Callable[..., Any], *arguments: Any) -> None:
        if len(self._heard) >= MOST_WAITING:
            self._lost += 1
            return
        self._heard.append((what, arguments))
        if not self.worker.wake.is_set():
            self.worker.wake.set()

    def _open(self) -> Ledger:
        settings = self._settings
        folder = state_folder(settings.state_path, self._configuration)
        self._ledger = Ledger(folder / "audit_log.sqlite", TABLES, durability=settings.durability)
        try:
            self._expiry = Expiry(self._ledger, "audit_log")
            key = settings.key or kept_key(folder / "audit_log.key")
            self.folder = configuration_folder() / settings.path if settings.path else folder / "audit-log"
            self.log = Log(
                *(self.folder, key.encode(), int(settings.max_file_size * 1e6)),
                sync=settings.durability == "full",
                setting="Path" if settings.path else "StatePath",
            )
        except BaseException:
            self._ledger.close()
            raise
        if settings.key is None:
            orthanc.LogWarning(
                f"{SECTION}.Key is not set: whoever can read {folder / 'audit_log.key'} can write a log that looks right"
            )
        return self._ledger

    # The one thread

    def _turn(self) -> float:
        if self._heard:
            self.worker.stopping.wait(PAUSE)
        self._take_all()
        self._lines += self._counter.ended()
        self._write()
        return 0.0 if self._catch_up() else QUIET / 2

    def _finish(self) -> None:
        """Write what there is when Orthanc ends."""
        try:
            self._take_all()
            self._lines += self._counter.ended(everything=True)
            self._line(now(), "stopped")
            self._write()
        except (sqlite3.Error, OSError) as error:
            orthanc.LogError(f"audit_log could not write its last {len(self._heard) + len(self._lines)} lines: {error}")
        finally:
            self.log.close()

    def _line(self, at: str, event: str, place: Mapping[str, str] | None = None, **more: Any) -> None:
        self._lines.append({"At": at, "Event": event, **(place or {}), **more})

    def _take_all(self) -> None:
        """Make lines of what was heard. It is forgotten when its line is there; one that can't be made now is made later."""
        while self._heard:
            if len(self._lines) >= PAGE:
                self._write()
            take, arguments = self._heard[0]
            try:
                take(*arguments)
            except (sqlite3.Error, OSError):
                raise  # a full disk: it is taken later
            except Exception:  # noqa: BLE001 - one odd event never keeps the others from the log
                text = f"audit_log met an error, please report it:\n{traceback.format_exc()}"
                self.worker.trouble.begins(text, "an odd event")
            self._heard.popleft()

    def _write(self) -> None:
        if self._lost:
            self._line(now(), "lost", Count=self._lost)
            self._lost = 0
        if self._lines:
            self.log.append(self._lines)
            self._lines = []
        if self._settings.keep_days and time.monotonic() > self._next_drop:
            self._next_drop = time.monotonic() + 3600
            if not self._expiry.may_delete():
                return
            oldest = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=self._settings.keep_days)
            self.log.drop_before(oldest.isoformat(timespec="milliseconds").replace("+00:00", "Z"))

    def _take_stored(self, at: str, instance: str, arrival: Arrival) -> None:
        # First what may fail, then what is kept in memory: when this is done again, nothing counts twice.
        parents, uids, origin = arrival.parents, arrival.uids, dict(arrival.origin)
        made = [name for name in ("ModifiedFrom", "AnonymizedFrom") if origin.pop(name, None)]
        place = {"Study": parents.get("Study", ""), "StudyInstanceUID": uids["Study"], "Patient": uids["Patient"]}
        if not parents:  # identifiers that are not ASCII
            place = self._place(instance, ("instances",)) or place
        for resource in parents.values():
            self._keep(resource, place)
        change_key = (made[0], place["Study"]) if made else ()
        # A job of modification does not tell, before 1.12.5, what it was made from; its instances do.
        is_first = bool(made) and change_key not in self._counter
        source = self._place(arrival.origin[made[0]], ("instances",)) if is_first else {}
        event = {"At": at, "Event": "received", **place, "From": origin}
        if made:
            event["Made"] = made[0][:-4].lower()
        if line := self._counter.note(("received", place["Study"], *origin.items(), *made), event):
            self._lines.append(line)
        if made:
            change = {"At": at, "Event": event["Made"]}
            if self._counter.note(change_key, change):
                change |= {**source, "Made": place["Study"]}
                self._lines.append(change)

    def _keep(self, resource: str, place: dict[str, str]) -> None:
        if resource not in self._known:
            values = (place["Study"], place["StudyInstanceUID"], place["Patient"])
            self._ledger.run("INSERT OR REPLACE INTO places VALUES(?,?,?,?)", resource, *values)
            if len(self._known) > PAGE * 100:
                self._known.clear()
            self._known[resource] = place

    def _place(self, resource: str, levels: Sequence[str] = ("studies", "series", "instances")) -> dict[str, str]:
        """The study and patient of a resource: as known, else as Orthanc says, if it is still there."""
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
                self._known[resource] = place_of(found)
                return self._known[resource]
        return {}

    def _take_deleted(self, at: str, level: int, resource: str) -> None:
        if level == orthanc.ResourceType.INSTANCE:
            entry = {"At": at, "Event": "deleted", "Level": "Instance"}
            if line := self._counter.note(("deleted",), {**entry, "Resource": resource}):
                self._lines.append(line)
            return
        name = {0: "Patient", 1: "Study", 2: "Series"}[level]
        place = dict(self._place(resource, ()))
        if name == "Patient":
            place = {"Patient": place["Patient"]} if place else {}
        self._ledger.run("DELETE FROM places WHERE resource=?", resource)
        self._known.pop(resource, None)
        self._line(at, "deleted", place, Level=name, Resource=resource)

    def _take_job(self, at: str, job: Mapping[str, Any], success: bool) -> None:
        content = job.get("Content", {})
        event = JOB_EVENTS.get(job["Type"], "job")
        more = {"Job": job["ID"], "Type": job["Type"], "Result": "success" if success else "failure"}
        if not success:
            more["Error"] = one_line(job.get("ErrorDescription", ""))
        optional = {
            "To": sent_to(content) if event == "sent" else content.get("TargetAet"),
            "From": content.get("RemoteAet") if event == "moved" else None,
            "Result": more["Result"],
            "Made": content.get("ID") or content.get("TargetStudy"),
            "MoveOriginator": content.get("MoveOriginatorAET"),
            "Query": content.get("Query") if event == "moved" else None,
        }
        more |= {name: value for name, value in optional.items() if value}
        resources = [
            *content.get("ParentResources", ()),
            *([content["SourceStudy"]] if content.get("SourceStudy") else ()),
        ]
        places = {tuple(place.items()): place for place in map(self._place, resources)}
        for place in places.values() or [{}]:
            self._line(at, event, place, **more)

    def _take_request(self, seen: Seen) -> None:
        found, dicomweb = RESOURCE.match(seen.uri), DICOMWEB.match(seen.uri)
        place: dict[str, str] = {}
        if found and found[1] != "patients":
            place = self._place(found[2], (found[1],))
        elif found:
            place = {"Patient": self._place(found[2], ()).get("Patient", "")}
        elif dicomweb or seen.study_uid:
            place = self._place(dicomweb[1] if dicomweb else seen.study_uid, ())
        who = {
            "User": seen.user,
            "IP": seen.ip,
            **({"ForwardedFor": one_line(seen.forwarded)} if seen.forwarded else {}),
        }
        event = REQUEST_EVENTS.get(seen.method, "attempt")
        entry = {"At": seen.at, "Event": event, **place, **who, "Method": seen.method, "Route": one_line(seen.uri)}
        if seen.method != "GET":
            self._lines.append(entry)
            return
        kind = (found[1], found[3]) if found else (seen.uri,)
        if line := self._counter.note((*who.values(), *place.values(), *kind), entry):
            self._lines.append(line)

    def _catch_up(self) -> bool:
        """Learn whose the studies are that were here before; whether there is more."""
        if self._caught_up or not self._loopback.enabled:
            return False
        since = self._ledger.number("looked_through")
        studies = self._loopback.get(f"/studies?expand&since={since}&limit={PAGE}") if since >= 0 else []
        with self._ledger.transaction() as db:
            rows = []
            for study in studies:
                values = place_of(study)
                for resource in (study["ID"], study["ParentPatient"], *study["Series"]):
                    rows.append((resource, values["Study"], values["StudyInstanceUID"], values["Patient"]))
            db.executemany("INSERT OR IGNORE INTO places VALUES(?,?,?,?)", rows)
            self._ledger.set_number("looked_through", since + len(studies) if studies else -1)
        self._caught_up = not studies
        return bool(studies)

    # Routes

    def status(self, _request: Request) -> dict[str, Any]:
        """Whether it runs and watches requests, how many lines there are, and what waits to be written."""
        return {
            "State": "running",
            "Lines": self.log.number,
            "WatchesRequests": self.watching,
            "Waiting": len(self._heard) + len(self._lines),
            "Error": self.worker.trouble.text,
        }

    def newest(self, _request: Request) -> dict[str, Any]:
        """The number and MAC of the newest line: kept elsewhere, it shows later whether the log was cut."""
        return {"Number": self.log.number, "Mac": self.log.mac}

    @takes(OF_PAGES)
    def page(self, request: Request) -> dict[str, Any]:
        """The lines, oldest first: `?patient=`, `?study=`, `?event=`, `?since=`, `?until=`, `?after=`, `?limit=`."""
        asked = Asked.of(request.parameters)
        needles = [json.dumps(value).encode() for value in (asked.patient, asked.study, asked.event) if value]
        total = 0
        items: list[dict[str, Any]] = []
        for entry in entries_since(self.folder, asked.since, needles):
            if asked.includes(entry):
                total += 1
                if entry["Number"] > asked.after and len(items) <= asked.limit:
                    items.append(entry)
        more = len(items) > asked.limit
        return {
            "Total": total,
            "Items": items[: asked.limit],
            "Next": items[asked.limit - 1]["Number"] if more else None,
        }


def place_of(study: Mapping[str, Any]) -> dict[str, str]:
    """Of a study as Orthanc gives it, what lines say."""
    return {
        "Study": study["ID"],
        "StudyInstanceUID": study["MainDicomTags"].get("StudyInstanceUID", ""),
        "Patient": study["PatientMainDicomTags"].get("PatientID", ""),
    }


@dataclasses.dataclass(frozen=True)
class Asked:
    """What lines are asked for."""

    patient: str
    study: str
    event: str
    since: str
    until: str
    after: int
    limit: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Asked:
        """Read it off the parameters."""
        patient, study, event = (given.get(name, "") for name in ("patient", "study", "event"))
        since, until, after = given.get("since", ""), given.get("until", ""), given.get("after", 0)
        return cls(patient, study, event, since, until, after, given.get("limit", 100))

    def includes(self, entry: Mapping[str, Any]) -> bool:
        return (
            self.patient in ("", entry.get("Patient"))
            and self.study in ("", entry.get("Study"), entry.get("StudyInstanceUID"))
            and self.event in ("", entry["Event"])
            and self.since <= entry["At"]
            and (not self.until or entry["At"] < self.until)
        )


def kept_key(path: Path) -> str:
    """The key of a file, which is made if it is not there. Raises OSError."""
    make_private(path)
    if not path.exists() or not path.stat().st_size:  # or a full disk has kept it empty
        with os.fdopen(open_private(path), "r+") as file:
            file.write(secrets.token_hex(32) + "\n")
    if wrong_key(key := path.read_text().strip()):
        raise OSError(f"{path} holds no key of at least {SHORTEST_KEY} characters")
    return key


def register() -> None:
    """Read the settings and register what Orthanc calls; as a program, verify."""
    if __name__ == "__main__":
        sys.exit(main(sys.argv[1:]))
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
    except SettingsError as error:
        refusal = f"{error}. audit_log is idle until this is corrected."
        orthanc.LogError(refusal)
    recorder = Recorder(settings, configuration)
    for pattern, handler in {"": recorder.page, "/newest": recorder.newest, "/status": recorder.status}.items():
        serve(f"/audit-log{pattern}", {"GET": handler}, lambda: refusal or recorder.worker.why_not())
    if refusal is not None:
        return
    warn_if_open("audit_log", configuration)
    KEPT_ALIVE.extend((recorder.on_change, recorder.on_stored, recorder.on_request))
    orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-3])
    orthanc.RegisterOnStoredInstanceCallback(KEPT_ALIVE[-2])
    # The plugin's filter loses 820 bytes of memory a request before 5.0, which brought StartStreamAnswer.
    recorder.watching = settings.watch_requests is True or (
        settings.watch_requests is None and hasattr(orthanc.RestOutput, "StartStreamAnswer")
    )
    if recorder.watching:
        orthanc.RegisterIncomingHttpRequestFilter(KEPT_ALIVE[-1])


register()
