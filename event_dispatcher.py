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
name. With `at_least_once="my_script"` an event stands on disk until its handlers have ended without an error.

It registers nothing by itself, and needs the package httpx (pip install httpx; the Dockerfile has it). All of it, and how to
test your handlers without a server: docs/event_dispatcher.md.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import encodings.idna  # noqa: F401 - http.client needs it in threads whose stack is too small to import it (Python 3.14)
import functools
import http.client
import inspect
import json
import logging
import os
import queue
import random
import re
import sqlite3
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

try:
    import orthanc
except ImportError:  # a test without a server, which gives `register_event_handlers` a stand-in
    orthanc = None  # type: ignore[assignment]

try:
    import httpx
except ImportError:
    raise ImportError("event_dispatcher.py needs the package httpx: pip install httpx; the Dockerfile has it") from None


# ---- src/common/ledger.py: Work that must not be lost: one SQLite file a script, written before anything is done.


WORK_TABLES = """
CREATE TABLE IF NOT EXISTS state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS work(
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, data TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS work_by_state ON work(state, queue, id);
CREATE INDEX IF NOT EXISTS work_by_subject ON work(subject, queue, state, id);
CREATE INDEX IF NOT EXISTS work_by_job ON work(job) WHERE job IS NOT NULL;
"""
# Finished and unfinished states: `waiting` for its next attempt, `sending`; `done`, `gone` (what it was about was deleted),
# `dead` (given up, until a person retries or drops it).
STATES = ("waiting", "sending", "done", "gone", "dead")


def configuration_folder() -> Path:
    """The folder in which Orthanc's relative paths begin.

    Where the configuration is given as a folder without a slash at its end, `GetConfigurationPath()` names its parent, so
    the command line has to tell.
    """
    base = Path(orthanc.GetConfigurationPath()).absolute()
    if base.is_file():
        base = base.parent
    else:
        words = [Path(os.fsdecode(word)) for word in Path("/proc/self/cmdline").read_bytes().split(b"\0") if word]
        base = next((word.absolute() for word in words if word.is_dir() and word.absolute().parent == base), base)
    return base


def state_folder(state_path: str | None, configuration: Mapping[str, Any]) -> Path:
    """Where a script keeps its ledger: `StatePath`, else `IndexDirectory`, else `StorageDirectory`."""
    default = configuration.get("IndexDirectory") or configuration.get("StorageDirectory") or "OrthancStorage"
    return configuration_folder() / (state_path or default)


class Ledger:
    """One SQLite file of rows of work, for any number of threads.

    A committed row survives the death of the process; with `durability` "full" that of the power too. `fresh` tells that
    the file was made now, `moved` where a corrupt one was moved to.

    Raises
    ------
    OSError, sqlite3.Error : the file can't be made or opened (the folder, its rights, a version that is newer than ours).
    """

    def __init__(self, path: Path, tables: str = "", *, durability: str = "normal", version: int = 1) -> None:
        self.path, self._lock = path, threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.moved: Path | None = None
        self.fresh = False
        try:
            self._open(tables, durability, version)
        except sqlite3.DatabaseError as error:
            if isinstance(
                error, sqlite3.OperationalError
            ):  # locked, full, not allowed: nothing is wrong with the content
                raise
            self._move_aside()
            self._open(tables, durability, version)

    def _open(self, tables: str, durability: str, version: int) -> None:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its -wal and -shm the same mode
        self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        try:
            self._db.row_factory = sqlite3.Row
            # To its end: on Python 3.14 a cursor can outlive its line in an HTTP thread of Orthanc (a stack of 100 KB), and as
            # long as this one is under way, nothing can be committed.
            self._db.execute("PRAGMA journal_mode=WAL").fetchall()
            self._db.execute(f"PRAGMA synchronous={durability}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            self.fresh = found == 0
            if found > version:
                raise sqlite3.OperationalError(
                    f"{self.path} is of version {found}, made by a newer script than this one"
                )
            if complaint := [row[0] for row in self._db.execute("PRAGMA quick_check(1)") if row[0] != "ok"]:
                raise sqlite3.DatabaseError(complaint[0])
            self._db.executescript(f"BEGIN; {WORK_TABLES} {tables} PRAGMA user_version={version}; COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def _move_aside(self) -> None:
        self.moved = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
        self.path.replace(self.moved)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside is there after it, or nothing of it. May be nested."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.rollback()
                raise
            self._db.execute("COMMIT")

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, parameters)]

    def run(self, sql: str, *parameters: Any) -> int:
        """Execute one statement, committed on return; gives the number of rows changed."""
        with self.transaction() as db:
            return db.execute(sql, parameters).rowcount

    def number(self, name: str, default: int = 0) -> int:
        return next((int(row["value"]) for row in self.rows("SELECT value FROM state WHERE name=?", name)), default)

    def set_number(self, name: str, value: int) -> None:
        self.run("INSERT INTO state VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value", name, value)

    def add(self, queue: str, subject: str, data: Mapping[str, Any], priority: int = 0) -> int:
        """A new row, `waiting` and due now, before those of a lower priority; gives its id."""
        with self.transaction() as db:
            now = time.time()
            values = (queue, subject, json.dumps(data), now, now, priority)
            sql = "INSERT INTO work VALUES(NULL,?,?,'waiting',0,0,'',NULL,?,?,?,?)"
            return int(db.execute(sql, values).lastrowid or 0)

    def due(self, queue: str, limit: int, longest: float) -> list[dict[str, Any]]:
        """The next rows of a queue, of each subject only the oldest unfinished one, so that order holds.

        A next attempt further away than the `longest` delay comes from a clock that has jumped back: it is due.
        """
        return self.rows(
            "SELECT * FROM work w WHERE queue=? AND state='waiting' AND (next_attempt<=? OR next_attempt>?) AND NOT EXISTS "
            "(SELECT 1 FROM work o WHERE o.subject=w.subject AND o.queue=w.queue AND o.state IN ('waiting','sending') "
            "AND o.id<w.id) ORDER BY priority DESC, id LIMIT ?",
            *(queue, time.time(), time.time() + longest, limit),
        )

    def start(self, row: int) -> None:
        """Say that this attempt begins: before it does."""
        self.run("UPDATE work SET state='sending',attempts=attempts+1,job=NULL,updated=? WHERE id=?", time.time(), row)

    def end(self, row: int, state: str) -> None:
        self.run("UPDATE work SET state=?,error='',updated=? WHERE id=?", state, time.time(), row)

    def fail(self, row: int, error: str, *, first: float, longest: float, give_up_after: float) -> str:
        """Wait for the next attempt, twice as long as the last time and up to half of it less; or `dead`, if it took too long."""
        with self.transaction():
            found = self.rows("SELECT attempts, created FROM work WHERE id=?", row)[0]
            now, delay = (
                time.time(),
                min(longest, first * 2.0 ** min(found["attempts"] - 1, 40)) * random.uniform(0.5, 1),
            )
            state = "dead" if now - found["created"] > give_up_after else "waiting"
            sql = "UPDATE work SET state=?,error=?,next_attempt=?,updated=? WHERE id=?"
            self.run(sql, state, error, now + delay, now, row)
            return state

    def totals(self) -> dict[str, int]:
        found = {row["state"]: row["n"] for row in self.rows("SELECT state, COUNT(*) n FROM work GROUP BY state")}
        return {state: found.get(state, 0) for state in STATES}

    def forget_finished(self, days: float) -> None:
        self.run("DELETE FROM work WHERE state IN ('done','gone') AND updated<?", time.time() - days * 86400)


# ---- src/common/loopback.py: This Orthanc's own REST API over HTTP: unlike a call through the SDK it does not hold the GIL, and with it every store.


TIMEOUT = 60.0  # seconds; of one request
# Orthanc closes a kept connection after a second without a request ("KeepAliveTimeout").
KEEP = 0.5
HERE = threading.local()  # of this thread: `connections`, a set of those that it keeps open
HARMLESS_TWICE = ("/tools/find", "/tools/bulk-content", "/tools/bulk-delete")


class LoopbackError(Exception):
    """Orthanc answered with an error (`status`), or did not answer (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Loopback:
    """A client of this Orthanc: one kept connection a thread, authorized by the plugin's own token."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self.enabled = bool(configuration.get("HttpServerEnabled", True))
        addresses = configuration.get("HttpBindAddresses") or ["127.0.0.1"]
        self.host = "127.0.0.1" if {"127.0.0.1", "0.0.0.0"} & set(addresses) else str(addresses[0])  # noqa: S104
        self.port = int(configuration.get("HttpPort", 8042))
        self._certificate = configuration.get("SslCertificate", "") if configuration.get("SslEnabled") else None
        # These cut each answer of /tools/find too, whatever its Limit (measured on 1.10.1, 1.12.7 and 1.13.0); no list.
        self.finds_all = not (configuration.get("LimitFindResults") or configuration.get("LimitFindInstances"))
        self._mutual = bool(configuration.get("SslVerifyPeers"))
        self._local = threading.local()
        self._token = ""

    @functools.cached_property
    def finds_more(self) -> bool:
        """Whether /tools/find gives all of what `ResponseContent` names, from Orthanc 1.12.5. Raises `LoopbackError`."""
        return self.finds_all and bool(self.get("/system").get("Capabilities", {}).get("HasExtendedFind"))

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
        headers, content = self.exchange(method, path, body)
        return json.loads(content) if _is_json(headers) and content else content

    def exchange(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """As `request`, with headers of one's own; return those of the answer, and its bytes as they came."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._token = self._token or orthanc.GenerateRestApiAuthorizationToken()
        # A kept connection may be closed by Orthanc just now: what is the same twice is asked once more.
        attempts = 2 if method != "POST" or path in HARMLESS_TWICE else 1
        while True:
            connection = self._connection()
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
            found = json.loads(content) if _is_json(response.headers) and content else {}
            reason = found.get("Details") or found.get("Message") or response.reason
            raise LoopbackError(response.status, f"{method} {path.partition('?')[0]}: {reason}")
        return response.headers, content

    def close(self) -> None:
        """Close the connection of this thread."""
        if connection := getattr(self._local, "connection", None):
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        elif time.monotonic() - self._local.used > KEEP:
            connection.close()
        if connection.sock is None:  # it is opened now
            HERE.connections = {*getattr(HERE, "connections", ()), connection}
        self._local.used = time.monotonic()
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        context = self.tls()
        if context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=context)

    def tls(self) -> ssl.SSLContext | None:
        """What to trust here, and to show; None: plain HTTP."""
        if self._certificate is None:
            return None
        # The server's own certificate is the one to trust here, whatever name it is made out to.
        context = ssl.create_default_context(cafile=self._certificate)
        context.check_hostname = False
        if self._mutual:
            context.load_cert_chain(self._certificate)
        return context


def close_connections() -> None:
    """Close what this thread keeps open; if it is one of Orthanc's HTTP threads, it would keep another one waiting."""
    for connection in getattr(HERE, "connections", ()):
        connection.close()
    HERE.connections = set()


def _is_json(headers: http.client.HTTPMessage) -> bool:
    return headers.get_content_type() == "application/json"


# ---- src/common/feed.py: What became stable, once each, also when a restart swallowed it: Orthanc's log of changes, read from a kept place.


FEED_TABLES = """
CREATE TABLE IF NOT EXISTS arrived(
    level TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, seen REAL NOT NULL, resource TEXT,
    PRIMARY KEY(level, instance)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS arrived_by_resource ON arrived(level, resource, seen);
CREATE TABLE IF NOT EXISTS heard(level TEXT NOT NULL, resource TEXT NOT NULL, PRIMARY KEY(level, resource)) WITHOUT ROWID;
"""
PAGE = 500  # changes a request
GRACE = 2.0  # seconds beyond StableAge after which Orthanc's own Stable… event is not waited for any more
LOADED = time.time()  # when the script was loaded: before Orthanc received anything
PLURALS = {"Patient": "patients", "Study": "studies", "Series": "series"}

# level, Orthanc identifier of what is stable, and its instances that arrived since it was last handed over, each with
# the Seq of its last NewInstance.
Settled = Callable[[str, str, dict[str, int]], None]
# Of an instance: the Orthanc identifiers of its parents by level, if they are known without asking Orthanc.
Parents = Callable[[str], Mapping[str, str] | None]


class Feed:
    """Hands over what became stable at the levels asked for, with the instances that are new since the last time.

    Each NewInstance is kept in the ledger until the Stable… entry of its parent; one whose parent has been quiet for
    `stable_age` and got none (Orthanc keeps stability in memory: a restart loses it) is handed over all the same.
    With `reconcile` false the log of changes, which Orthancs on one database share, is left alone: only what this
    process was told through `hear` counts. `told` gets each entry of the log, once, in the transaction that remembers it.
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
        told: Callable[[Mapping[str, Any]], None] = lambda _change: None,
    ) -> None:
        self._ledger, self._loopback, self._settled, self._levels = ledger, loopback, settled, tuple(levels)
        self._quiet_after, self._reconcile, self._parents = stable_age + GRACE, reconcile, parents
        self._told = told
        self._look_again: dict[tuple[str, str], float] = {}
        if ledger.number("cursor", -1) < 0 and not ledger.number("began"):
            ledger.set_number("began", int(LOADED))

    def begin(self) -> None:
        """Take the place in the log; of a ledger without one, where this process began: what was there before is not new."""
        if self._reconcile:
            newest = self._loopback.get("/changes?last")["Last"]
            # A place beyond the newest entry belongs to another archive, to a log that was emptied, or to an index that was
            # restored from a backup.
            kept = self._ledger.number("cursor", -1)
            if kept > newest:
                text = f"Orthanc's log of changes ends at {newest}, and {self._ledger.path} has read it up to {kept}"
                orthanc.LogWarning(f"{text}: was the index restored from a backup? It is read on from {newest}")
            self._ledger.set_number("cursor", min(newest, kept) if kept >= 0 else self._last_before_us(newest))
        # A clock that was ahead when these were seen must not make them wait for it.
        self._ledger.run("UPDATE arrived SET seen=? WHERE seen>?", time.time(), time.time())

    def _last_before_us(self, newest: int) -> int:
        """The last change from before the ledger began: Orthanc receives, and may be killed, before we come to ask."""
        began = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._ledger.number("began", int(LOADED))))
        while newest > 0:
            since = max(0, newest - PAGE)
            changes = self._loopback.get(f"/changes?since={since}&limit={PAGE}")["Changes"]
            if older := [change["Seq"] for change in changes if change["Date"] < began]:
                return int(max(older))
            newest = since
        return 0

    def hear(self, change: str, resource: str) -> None:
        """What OnChange tells, where the log of changes is not read: NewInstance and the Stable… of our levels."""
        if not self._reconcile and change == "NewInstance":
            self._arrive([(resource, 0)])
        elif not self._reconcile and change.removeprefix("Stable") in self._levels:
            self._ledger.run("INSERT OR IGNORE INTO heard VALUES(?,?)", change.removeprefix("Stable"), resource)

    def poll(self) -> None:
        """Hand over all that has become stable since the last time, each in one transaction with what remembers it.

        Raises
        ------
        LoopbackError, sqlite3.Error : nothing is lost; poll again later.
        """
        while self._reconcile and self._read_page():
            pass
        for row in self._ledger.rows("SELECT * FROM heard"):
            instances = self._instances_of(row["level"], row["resource"])
            with self._ledger.transaction():
                self._hand_over(row["level"], row["resource"], instances, None)
                self._ledger.run("DELETE FROM heard WHERE level=? AND resource=?", row["level"], row["resource"])
        for level in self._levels:
            self._hand_over_what_is_overdue(level)

    def _read_page(self) -> bool:
        since = self._ledger.number("cursor")
        page = self._loopback.get(f"/changes?since={since}&limit={PAGE}")
        changes: list[Mapping[str, Any]] = page["Changes"]
        self._arrive([(change["ID"], change["Seq"]) for change in changes if change["ChangeType"] == "NewInstance"])
        stable = [change for change in changes if change["ChangeType"].removeprefix("Stable") in self._levels]
        instances = {change["ID"]: self._new_instances_of(change["ResourceType"], change["ID"]) for change in stable}
        with self._ledger.transaction():
            for change in changes:
                self._told(change)
            for change in stable:
                self._hand_over(change["ResourceType"], change["ID"], instances[change["ID"]], change["Seq"])
            self._ledger.set_number("cursor", max(since, page["Last"]))
        return not page["Done"]

    def _arrive(self, instances: list[tuple[str, int]]) -> None:
        now, rows = time.time(), []
        for instance, seq in instances:
            parents = self._parents(instance) or {}
            rows += [(level, instance, seq, now, parents.get(level)) for level in self._levels]
        # The same instance again (OverwriteInstances) has arrived anew; a page that is read again changes nothing.
        sql = (
            "INSERT INTO arrived VALUES(?,?,?,?,?) ON CONFLICT DO UPDATE SET seq=excluded.seq, seen=excluded.seen,"
            " resource=COALESCE(excluded.resource, resource)"
        )
        with self._ledger.transaction() as db:
            db.executemany(sql, rows)

    def _new_instances_of(self, level: str, resource: str) -> list[str]:
        """Its instances that arrived; asks Orthanc only if there are some whose parents we don't know."""
        if self._ledger.rows("SELECT 1 FROM arrived WHERE level=? AND resource IS NULL LIMIT 1", level):
            return self._instances_of(level, resource)
        sql = "SELECT instance FROM arrived WHERE level=? AND resource=?"
        return [row["instance"] for row in self._ledger.rows(sql, level, resource)]

    def _instances_of(self, level: str, resource: str) -> list[str]:
        try:
            found = self._loopback.get(f"/{PLURALS[level]}/{resource}/instances?expand=false")
        except LoopbackError as error:
            if error.status != 404:
                raise
            return []  # deleted meanwhile
        return [each if isinstance(each, str) else each["ID"] for each in found]  # 1.10.1 knows no expand=false

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
        orphan = "SELECT instance FROM arrived WHERE level=? AND resource IS NULL AND seen<? LIMIT 1"
        while rows := self._ledger.rows(orphan, level, time.time() - self._quiet_after):
            self._find_parent(level, rows[0]["instance"])

    def _hand_over_if_quiet(self, level: str, resource: str) -> None:
        if time.time() < self._look_again.get((level, resource), 0):
            return
        instances = self._instances_of(level, resource)
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

    def _find_parent(self, level: str, instance: str) -> None:
        try:
            parent = self._loopback.get(f"/instances/{instance}/{level.lower()}")["ID"]
        except LoopbackError as error:
            if error.status != 404:
                raise
            self._ledger.run("DELETE FROM arrived WHERE instance=?", instance)  # deleted before it was stable
        else:
            self._label(level, parent, [instance, *self._instances_of(level, parent)])

    def _label(self, level: str, resource: str, instances: Sequence[str]) -> None:
        with self._ledger.transaction() as db:
            rows = [(resource, level, each) for each in instances]
            db.executemany("UPDATE arrived SET resource=? WHERE level=? AND instance=?", rows)


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


@dataclasses.dataclass(frozen=True)
class ChangeEvent:
    """What happened (`orthanc.ChangeType`), to what (`orthanc.ResourceType`, Orthanc's identifier; empty where to none)."""

    change_type: int
    resource_type: int = 4  # orthanc.ResourceType.NONE
    resource_id: str = ""


def pipeline(*steps: Handler) -> Handler:
    """One handler of several: each gets what the one before returned, the first the event; all get the session.

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

    whole: Handler = run_on_loop if any(map(is_coroutine, steps)) else run
    whole.__qualname__ = f"pipeline({', '.join(map(name_of, steps))})"
    return whole


def is_coroutine(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def name_of(handler: Handler) -> str:
    """How logs, and the rows of `at_least_once`, call a handler."""
    if isinstance(handler, functools.partial):
        return name_of(handler.func)
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))


def names_of(enumeration: Any) -> dict[int, Name]:
    """The names of `orthanc.ChangeType` or `orthanc.ResourceType`, by value."""
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
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(filename)s:%(lineno)d] %(message)s"))
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


class OrthancLog(logging.Handler):
    """Writes records to Orthanc's log, each message as one line, and tracebacks indented: nothing of it looks like a line."""

    def __init__(self, orthanc: Any) -> None:
        super().__init__()
        self._orthanc = orthanc

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

    def format(self, record: logging.LogRecord) -> str:
        message = re.sub(r"[\x00-\x1f\x7f]+", " ", record.getMessage())
        lines = [f"[{record.filename}:{record.lineno}] {message}"]
        if record.exc_info:
            lines += "".join(traceback.format_exception(*record.exc_info)).splitlines()
        return "\n  ".join(lines)


# ---- src/event_dispatcher/at_least_once.py: Events that stand on disk until their handlers have ended without an error.


LOOK_EVERY = 1.0  # seconds between looks at /changes, unless something is told
LINGER = 0.05  # seconds between them while much is told


@dataclasses.dataclass(frozen=True)
class AtLeastOnce:
    """How events are kept until each of their handlers has ended without an error.

    What Orthanc lists in /changes (new, stable, updated) is read from there, so that a killed server misses nothing; jobs
    and deletions are kept from the moment they reach the script. Events of one resource stay in order, for each handler.

    Parameters
    ----------
    name : of the ledger, NAME.sqlite in the folder of Orthanc's index; each script has one of its own.
    first, longest : seconds until a handler that failed is tried again, and most seconds between two tries.
    give_up_hours : after which its event is given up (`Dispatcher.retry_dead`).
    under_way : events of one handler that are handed to the executor at a time.
    reconcile : False: /changes is not read, as with several Orthancs on one database it tells of all of them.
    folder : of the ledger, instead of that of the index.
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


class Keeper:
    """Keeps events in a ledger, one row for each handler, and hands them over until they are handled."""

    IN_CHANGES = re.compile("(NEW|STABLE|UPDATED)_(PATIENT|STUDY|SERIES|INSTANCE|ATTACHMENT|METADATA)")

    def __init__(
        self,
        kept: AtLeastOnce,
        handlers: Mapping[int, Sequence[Handler]],
        run: Callable[[Handler, tuple[int, int, str]], concurrent.futures.Future[Any]],
        orthanc: Any,
    ) -> None:
        self._kept, self._run = kept, run
        self._configuration = json.loads(orthanc.GetConfiguration())
        self._loopback = Loopback(self._configuration)
        if kept.durability not in ("normal", "full"):
            raise ValueError(f"AtLeastOnce.durability: found {kept.durability!r}, allowed: normal, full")
        if not re.fullmatch(r"[\w-]+", kept.name):
            raise ValueError(f"at_least_once: found {kept.name!r}, allowed: letters, digits, _ and -")
        if not self._loopback.enabled:
            raise ValueError('at_least_once needs "HttpServerEnabled": true: it reads /changes')
        self._levels = {
            name.capitalize(): int(value) for name, value in vars(orthanc.ResourceType).items() if name.isupper()
        }
        self._handlers: dict[str, Handler] = {}
        self._queues: dict[str, tuple[int, list[str]]] = {}  # of each change type by name: its number, and whose rows
        for change, several in handlers.items():
            self._queues[str(change)] = int(change), [self._queue_of(handler) for handler in several]
        self._ledger: Ledger | None = None
        self._feed: Feed | None = None
        self._unheard: collections.deque[ChangeEvent] = (
            collections.deque()
        )  # before the start, or while the disk is full
        self._writing = threading.Lock()
        self._ended: collections.deque[tuple[int, concurrent.futures.Future[Any]]] = collections.deque()
        self._under_way: collections.Counter[str] = collections.Counter()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._looked_at, self._look_at = 0.0, 0.0  # time.monotonic() of the last and the next look at /changes
        self._complaint, self._is_off = "", False
        self._thread = threading.Thread(target=self._work, name="event_dispatcher keeper", daemon=True)

    def _queue_of(self, handler: Handler) -> str:
        """The queue of a handler bears its name, for a restart must find it; of several of one name, the second is `name#2`."""
        name = name_of(handler)
        for number in range(1, len(self._handlers) + 2):
            queue_name = name if number == 1 else f"{name}#{number}"
            if self._handlers.setdefault(queue_name, handler) is handler:
                return queue_name
        raise AssertionError

    # What OnChange tells: return at once

    def takes(self, event: ChangeEvent) -> bool:
        """Whether this event is kept; it is handled from the ledger then."""
        change = str(event.change_type)
        if self._is_off:
            return False
        in_changes = self.IN_CHANGES.fullmatch(change) is not None
        if in_changes and self._kept.reconcile:
            if change not in self._queues:
                return False  # it is read within a second, which is soon enough for what becomes stable later
            self._look_at = min(self._look_at, self._looked_at + LINGER)
        elif change.startswith("STABLE_") or change == "NEW_INSTANCE" or change in self._queues:
            self._unheard.append(event)
            if self._feed:
                self._write_down()
        self._wake.set()
        return change in self._queues

    def _write_down(self) -> None:
        try:
            with self._writing:
                while self._unheard:
                    self._hear(self._unheard[0])
                    self._unheard.popleft()
        except sqlite3.Error as error:
            self._complain(f"events can't be written down, and are kept in memory: {error}")

    def _hear(self, event: ChangeEvent) -> None:
        change, level = str(event.change_type), str(event.resource_type).capitalize()
        if self._feed and (change.startswith("STABLE_") or change == "NEW_INSTANCE"):
            self._feed.hear(_in_camel_case(change), event.resource_id)
        if not change.startswith("STABLE_"):
            self._add(change, level, event.resource_id)

    def _told(self, change: Mapping[str, Any]) -> None:
        """An entry of /changes."""
        for name in self._queues:
            if _in_camel_case(name) == change["ChangeType"] and not name.startswith("STABLE_"):
                self._add(name, change["ResourceType"], change["ID"])

    def _settled(self, level: str, resource: str, _instances: Mapping[str, int]) -> None:
        self._add(f"STABLE_{level.upper()}", level, resource)

    def _add(self, change: str, level: str, resource: str) -> None:
        assert self._ledger
        for queue_name in self._queues.get(change, (0, []))[1]:
            self._ledger.add(queue_name, resource or change, {"Change": change, "Level": level, "Resource": resource})

    # From ORTHANC_STARTED to ORTHANC_STOPPED

    def start(self) -> None:
        path = state_folder(self._kept.folder, self._configuration) / f"{self._kept.name}.sqlite"
        try:
            ledger = Ledger(path, FEED_TABLES, durability=self._kept.durability)
            ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE state='sending'")
        except (OSError, sqlite3.Error) as error:
            self._is_off = True
            self._complain(f"events are handled once, not at least once: the ledger {path} can't be opened: {error}")
            return
        if ledger.moved:
            LOG.warning(
                "the ledger %s was corrupt and is kept as %s; what waited there is not handled", path, ledger.moved
            )
        unknown = [row["queue"] for row in ledger.rows("SELECT DISTINCT queue FROM work")]
        if unknown := sorted(set(unknown) - self._handlers.keys()):
            LOG.warning("events in %s wait for handlers that are not registered any more: %s", path, ", ".join(unknown))
        levels = [name.removeprefix("STABLE_").capitalize() for name in self._queues if name.startswith("STABLE_")]
        stable_age = float(self._configuration.get("StableAge", 60))
        reconcile = self._kept.reconcile
        self._ledger = ledger
        self._feed = Feed(ledger, self._loopback, self._settled, levels, stable_age, reconcile, told=self._told)
        self._thread.start()

    def stop(self) -> None:
        """Hand over nothing more."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def close(self) -> None:
        """After the handlers have ended: what they did is written down; the rest is handed over after the next start."""
        if self._ledger:
            with contextlib.suppress(sqlite3.Error):
                self._write_down()
                self._settle()
            self._ledger.close()

    def retry_dead(self) -> int:
        if not self._ledger:
            return 0
        now = time.time()
        number = self._ledger.run("UPDATE work SET state='waiting', next_attempt=0, created=? WHERE state='dead'", now)
        self._wake.set()
        return number

    # The one thread

    def _work(self) -> None:
        begun = False
        while not self._stopping.is_set():
            try:
                if not begun:
                    self._feed_now().begin()
                    begun = True
                self._pass()
                self._complaint, wait = "", max(0.0, self._look_at - time.monotonic())
            except (LoopbackError, sqlite3.Error, OSError) as error:
                self._complain(f"events wait until this is over: {error}")
                wait = 2.0
            except Exception:  # noqa: BLE001 - one odd event never ends the thread that serves all
                self._complain(f"an error in event_dispatcher, please report it: {traceback.format_exc()}")
                wait = 5.0
            self._wake.wait(wait)
            self._wake.clear()

    def _feed_now(self) -> Feed:
        assert self._feed
        return self._feed

    def _complain(self, text: str) -> None:
        if text != self._complaint and not self._stopping.is_set():
            LOG.error("%s: %s", self._kept.name, text)
        self._complaint = text

    def _pass(self) -> None:
        self._write_down()
        self._settle()
        if time.monotonic() >= self._look_at:
            self._looked_at = time.monotonic()
            self._look_at = self._looked_at + LOOK_EVERY
            self._feed_now().poll()
        for queue_name in self._handlers:
            self._hand_over(queue_name)

    def _settle(self) -> None:
        """Write down how handlers ended."""
        assert self._ledger
        while self._ended:
            row, future = self._ended[0]
            if not future.cancelled() and not isinstance(future.exception(), asyncio.CancelledError):
                self._settle_one(row, future.exception())
            self._ended.popleft()

    def _settle_one(self, row: int, error: BaseException | None) -> None:
        assert self._ledger
        found = self._ledger.rows("SELECT queue, data FROM work WHERE id=?", row)[0]
        if error is None:
            self._ledger.run("DELETE FROM work WHERE id=?", row)
        else:
            kept, give_up_after = self._kept, self._kept.give_up_hours * 3600
            pace = {"first": kept.first, "longest": kept.longest, "give_up_after": give_up_after}
            if self._ledger.fail(row, repr(error), **pace) == "dead":
                LOG.error("%s is given up on %s after %g h", found["queue"], found["data"], kept.give_up_hours)
        self._under_way[found["queue"]] -= 1

    def _hand_over(self, queue_name: str) -> None:
        assert self._ledger
        room = self._kept.under_way - self._under_way[queue_name]
        # Not for each that ended: of many that wait, finding the next ones takes time.
        if room < max(1, self._kept.under_way // 2):
            return
        rows = self._ledger.due(queue_name, room, self._kept.longest)
        with self._ledger.transaction():
            for row in rows:
                self._ledger.start(row["id"])
        for row in rows:
            if self._stopping.is_set():
                return
            event = json.loads(row["data"])
            number = self._queues[event["Change"]][0] if event["Change"] in self._queues else -1
            level = self._levels.get(event["Level"], self._levels["None"])
            self._under_way[queue_name] += 1
            future = self._run(self._handlers[queue_name], (number, level, event["Resource"]))
            future.add_done_callback(functools.partial(self._note_end, row["id"]))

    def _note_end(self, row: int, future: concurrent.futures.Future[Any]) -> None:
        self._ended.append((row, future))
        self._wake.set()


def _in_camel_case(name: str) -> str:
    """How /changes calls it: `STABLE_STUDY` is `StableStudy`."""
    return "".join(word.capitalize() for word in name.split("_"))


# ---- src/event_dispatcher/calls.py: One handler's turn with one event.


class Call:
    """One handler's turn with one event; `future` gets its result or its error, which is logged."""

    def __init__(self, handler: Handler, event: ChangeEvent, sessions: tuple[Any, Any]) -> None:
        self.handler, self.event = handler, event
        self.is_coroutine = is_coroutine(handler)
        self.session = sessions[self.is_coroutine]
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.task: asyncio.Task[Any] | None = None
        self.is_canceled = False  # by us, for Orthanc stops

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.handler(self.event, self.session)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(f"{name_of(self.handler)} returned a coroutine: register the coroutine function itself")
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a handler's end is not the thread's
            self._fail(error)
        else:
            self.future.set_result(result)

    async def run_on_loop(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        self.task = asyncio.current_task()
        try:
            result = await self.handler(self.event, self.session)
        except BaseException as error:  # noqa: BLE001 - as above; canceled when Orthanc stops
            self._fail(error)
        else:
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if self.is_canceled:  # which is said once for all
            self.future.set_exception(asyncio.CancelledError())
            return
        more = error if SDK.is_open else None  # after Orthanc has stopped, whatever it does fails
        LOG.error("%s failed on %s: %r", name_of(self.handler), self.event, error, exc_info=more)
        own = isinstance(error, asyncio.CancelledError)  # it canceled itself
        self.future.set_exception(RuntimeError("canceled") if own else error)


# ---- src/event_dispatcher/executor.py: Runs handlers away from Orthanc's own threads.


class Executor:
    """Runs handlers away from Orthanc's own threads: blocking ones on threads, coroutines together on one event loop.

    Parameters
    ----------
    threads : blocking handlers at a time. With one, the default, they run in the order of the events.
    coroutines : at a time.
    in_order : one event after the other: the next begins when all handlers of the one before have ended.
    waiting : handlers that may run or wait for their turn. When there are as many, Orthanc keeps its next events itself until
        there is room (they wait in its memory, and when it stops, it hands them over first).
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
        self._most_threads, self._most_coroutines, self._most_waiting = threads, coroutines, waiting
        self._in_order = in_order
        self._calls: set[Call] = set()  # under way, or waiting for their turn
        self._changed = threading.Condition()
        self._crowded, self._is_closed = False, False
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None

    def submit(self, calls: Sequence[Call]) -> None:
        """Give the handlers of one event their turn; waits while too many wait already."""
        with self._changed:
            if len(self._calls) >= self._most_waiting:
                self._say_that_it_is_crowded()
                self._changed.wait_for(lambda: len(self._calls) < self._most_waiting)
            if not self._is_closed:
                self._calls.update(calls)
        if self._is_closed:
            for call in calls:
                call.future.cancel()
            return
        for call in calls:
            call.future.add_done_callback(functools.partial(self._ended, call))
        if self._in_order:
            self._on_thread(lambda: self._run_together(calls))
        else:
            for call in calls:
                if call.is_coroutine:
                    self._on_loop(call)
                else:
                    self._on_thread(call.run)

    def _say_that_it_is_crowded(self) -> None:
        if not self._crowded:
            self._crowded = True
            LOG.warning("%d handlers wait for their turn: Orthanc's next events wait too", len(self._calls))

    def _ended(self, call: Call, _future: concurrent.futures.Future[Any]) -> None:
        with self._changed:
            self._calls.discard(call)
            self._crowded = self._crowded and len(self._calls) > self._most_waiting // 2
            self._changed.notify_all()

    def _run_together(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.is_coroutine:
                self._on_loop(call)
        for call in calls:
            if not call.is_coroutine:
                call.run()
        concurrent.futures.wait([call.future for call in calls])

    def _on_thread(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        with self._changed:
            if self._threads < (1 if self._in_order else self._most_threads):
                self._threads += 1
                # Daemons: those of concurrent.futures keep a process from ending while one hangs.
                threading.Thread(
                    target=_run_all, args=(self._work,), name=f"event_dispatcher {self._threads}", daemon=True
                ).start()

    def _on_loop(self, call: Call) -> None:
        with self._changed:
            if self._loop is None:
                ready = threading.Event()
                self._loop_thread = threading.Thread(
                    target=lambda: asyncio.run(self._keep_loop(ready)), name="event_dispatcher loop", daemon=True
                )
                self._loop_thread.start()
                ready.wait()
        assert self._loop
        asyncio.run_coroutine_threadsafe(self._take_turn(call), self._loop)

    async def _keep_loop(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns, self._closing = asyncio.Semaphore(self._most_coroutines), asyncio.Event()
        ready.set()
        await self._closing.wait()  # asyncio.run then cancels what is left

    async def _take_turn(self, call: Call) -> None:
        async with self._turns:
            await call.run_on_loop()

    def drain(self, until: float) -> None:
        """Wait for all handlers, until that time (`time.monotonic()`); those that have not begun then never do."""
        with self._changed:
            self._changed.wait_for(lambda: not self._calls, max(0.0, until - time.monotonic()))
            left = list(self._calls)
        if not left:
            return
        dropped = sum(call.future.cancel() for call in left)
        running = [call for call in left if not call.future.done()]
        names = ", ".join(sorted({name_of(call.handler) for call in left}))
        LOG.warning("Orthanc stops: %d handlers had no turn, %d are still running: %s", dropped, len(running), names)
        canceled = [call for call in running if call.task]
        for call in canceled:
            call.is_canceled = True
            if call.task and self._loop:
                self._loop.call_soon_threadsafe(call.task.cancel)
        concurrent.futures.wait([call.future for call in canceled], self.stop_within / 6)  # they may clean up
        with self._changed:
            self._calls.clear()
            self._work, self._threads = queue.SimpleQueue(), 0  # a thread that hangs keeps nobody else from running

    def close(self) -> None:
        """End the threads; what is submitted from now on has no turn."""
        self._is_closed = True
        for _ in range(self._threads):
            self._work.put(None)
        if self._loop and self._loop_thread:
            self._loop.call_soon_threadsafe(self._closing.set)
            self._loop_thread.join(0.2)


def _run_all(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (each := work.get()) is not None:
        each()


# ---- src/event_dispatcher/dispatcher.py: Orthanc's OnChange: each event goes to its handlers.


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
        self._handlers, self._sessions, self._executor = handlers, sessions, executor
        self._change_types, self._resource_types = names_of(orthanc.ChangeType), names_of(orthanc.ResourceType)
        self._started, self._stopped = orthanc.ChangeType.ORTHANC_STARTED, orthanc.ChangeType.ORTHANC_STOPPED
        promised = {key: several for key, several in handlers.items() if key not in (self._started, self._stopped)}
        self._keeper = Keeper(at_least_once, promised, self._run_kept, orthanc) if at_least_once else None

    def on_change(self, change_type: int, resource_type: int, resource_id: str) -> list[concurrent.futures.Future[Any]]:
        """Orthanc's callback. It returns at once, with what will be each handler's result: a test waits for these."""
        event = self._event(change_type, resource_type, resource_id)
        if change_type == self._stopped:
            return self._stop(event)
        if change_type == self._started and self._keeper:
            self._keeper.start()
        if self._keeper and self._keeper.takes(event):
            return []
        return self._run(
            [Call(handler, event, self._sessions) for handler in self._handlers.get(event.change_type, ())]
        )

    def retry_dead(self) -> int:
        """With `at_least_once`: let events that were given up be handled again; how many there are."""
        return self._keeper.retry_dead() if self._keeper else 0

    def _event(self, change_type: int, resource_type: int, resource_id: str) -> ChangeEvent:
        return ChangeEvent(
            self._change_types.get(change_type, change_type),
            self._resource_types.get(resource_type, resource_type),
            resource_id or "",
        )

    def _run(self, calls: Sequence[Call]) -> list[concurrent.futures.Future[Any]]:
        if calls:
            self._executor.submit(calls)
        return [call.future for call in calls]

    def _run_kept(self, handler: Handler, event: tuple[int, int, str]) -> concurrent.futures.Future[Any]:
        return self._run([Call(handler, self._event(*event), self._sessions)])[0]

    def _stop(self, event: ChangeEvent) -> list[concurrent.futures.Future[Any]]:
        """Let handlers end, then those of ORTHANC_STOPPED; afterwards nothing of ours calls Orthanc any more."""
        seconds = self._executor.stop_within
        until = time.monotonic() + seconds
        if self._keeper:
            self._keeper.stop()
        self._executor.drain(until - seconds / 3)
        futures = self._run([Call(each, event, self._sessions) for each in self._handlers.get(event.change_type, ())])
        self._executor.drain(until)
        self._executor.close()
        if self._keeper:
            self._keeper.close()
        SDK.close()
        return futures


# ---- src/event_dispatcher/helpers.py: Helpers: handlers themselves, hence steps of a pipeline. With the session of a coroutine, await them.


Asking: TypeAlias = Generator[str, httpx.Response, Any]  # yields paths, is sent the answers, returns its result


def for_both_sessions(ask: Callable[..., Asking]) -> Callable[..., Any]:
    """Make a helper of a generator: a plain function with a plain session, a coroutine with an asynchronous one."""

    @functools.wraps(ask)
    def helper(event: Any, session: Any, *arguments: Any) -> Any:
        asking = ask(event, *arguments)
        return _answer_later(asking, session) if isinstance(session, httpx.AsyncClient) else _answer(asking, session)

    return helper


def _answer(asking: Asking, session: Any) -> Any:
    try:
        path = next(asking)
        while True:
            path = asking.send(session.get(path))
    except StopIteration as end:
        return end.value


async def _answer_later(asking: Asking, session: Any) -> Any:
    try:
        path = next(asking)
        while True:
            path = asking.send(await session.get(path))
    except StopIteration as end:
        return end.value


@for_both_sessions
def first_instance(event: Any) -> Asking:
    """Orthanc's identifier of the first instance (as Orthanc lists them) of the series of an event, or of an identifier."""
    series = (yield f"/series/{_identifier(event)}").raise_for_status().json()
    return series["Instances"][0]


@for_both_sessions
def first_instance_metadata(event: Any, name: str) -> Asking:
    """A metadata, as `RemoteAET`, of the first instance of a series; None if it has none."""
    series = (yield f"/series/{_identifier(event)}").raise_for_status().json()
    found = yield f"/instances/{series['Instances'][0]}/metadata/{name}"
    return None if found.status_code == http.HTTPStatus.NOT_FOUND else found.raise_for_status().text


@for_both_sessions
def first_instance_tags(event: Any) -> Asking:
    """The tags of the first instance of a series, by keyword, as Orthanc's `simplified-tags`."""
    series = (yield f"/series/{_identifier(event)}").raise_for_status().json()
    tags = yield f"/instances/{series['Instances'][0]}/simplified-tags"
    return tags.raise_for_status().json()


@for_both_sessions
def parents(event: ChangeEvent) -> Asking:
    """Orthanc's identifiers of what an event is about and of all above it: `{"Series": …, "Study": …, "Patient": …}`."""
    levels = ("Patient", "Study", "Series", "Instance")
    found, identifier = {}, event.resource_id
    for level in reversed(levels[: event.resource_type + 1]):
        found[level] = identifier
        if level != "Patient":
            above = levels[levels.index(level) - 1]
            resource = (yield f"/{PLURALS.get(level, 'instances')}/{identifier}").raise_for_status().json()
            identifier = resource[f"Parent{above}"]
    return found


def _identifier(event: Any) -> str:
    return str(getattr(event, "resource_id", event))


# ---- src/event_dispatcher/sessions.py: Sessions: Orthanc's own REST API, over HTTP.


Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)


class ClientType:
    """The two kinds of sessions, for those who know them by these names."""

    SYNC = httpx.Client
    ASYNC = httpx.AsyncClient


def create_session(orthanc: Any, client_type: type[Client] = httpx.Client, *, timeout: float = 60.0) -> Client:  # type: ignore[assignment]
    """A client of this Orthanc's REST API over HTTP: `session.get("/system").json()`.

    Address, certificate and token are worked out from Orthanc's configuration. It can ask other servers too, by a whole
    URL; they get no token, and are trusted as httpx trusts.

    Parameters
    ----------
    client_type : `httpx.Client`, or `httpx.AsyncClient` for coroutines.
    timeout : seconds, of each step of a request.

    Raises
    ------
    ValueError : Orthanc's HTTP server is off: `create_internal_client` needs none.
    """
    configuration = json.loads(orthanc.GetConfiguration())
    loopback = Loopback(configuration)
    if not loopback.enabled:
        raise ValueError('create_session needs "HttpServerEnabled": true; create_internal_client does not')
    tls = loopback.tls()
    host = f"[{loopback.host}]" if ":" in loopback.host else loopback.host
    address = httpx.URL(f"{'http' if tls is None else 'https'}://{host}:{loopback.port}")
    # Each connection takes one of Orthanc's HTTP threads while it is open.
    most = max(1, int(configuration.get("HttpThreadsCount", 50)) // 2)
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP)
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


def create_internal_client(
    orthanc: Any,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
    *,
    after_plugins: bool = False,
) -> Client:
    """As `create_session`, but by the plugin's own `RestApiGet` and so on: no network, no HTTP server needed.

    Only for what Orthanc answers at once: such a call holds Python's lock, and with it every other script and store.
    Statuses are those that Orthanc's error codes stand for; an answer has no headers.

    Parameters
    ----------
    after_plugins : reach the routes of plugins and scripts too (a handler that calls its own script may do so without end).
    """
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


__version__ = "0.1.0"

__all__ = [
    "AtLeastOnce",
    "ChangeEvent",
    "ClientType",
    "Dispatcher",
    "Executor",
    "Handler",
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


def register_event_handlers(
    handlers: Mapping[int, Handler | Iterable[Handler]],
    orthanc: Any,
    session: Any,
    async_session: Any = None,
    *,
    executor: Executor | None = None,
    at_least_once: str | AtLeastOnce | None = None,
    logging_configuration: Callable[[Any], object] | None = None,
) -> Dispatcher:
    """Run handlers when something happens in Orthanc. Once in a script, for Orthanc grants one OnChange callback.

    Parameters
    ----------
    handlers : of each `orthanc.ChangeType`, one handler or several. A handler gets `(event, session)`: a `ChangeEvent`, and
        the session that is given here, a coroutine the asynchronous one.
    orthanc : the module; in a test, the stand-in `OrthancApiHandler`, whose `on_change` gives back what they returned.
    session, async_session : from `create_session` or `create_internal_client`, or whatever your handlers want. If there are
        coroutines and no asynchronous session, one is created.
    executor : how many run at a time, and in which order.
    at_least_once : a name of your own for the ledger in which events stand until they are handled, or `AtLeastOnce`.
    logging_configuration : where Python's `logging` goes: `orthanc_logging` (the default) or `python_logging`.

    Raises
    ------
    ValueError : a change type that Orthanc does not know; or `at_least_once` without Orthanc's HTTP server.
    """
    (logging_configuration or orthanc_logging)(orthanc)
    known = names_of(orthanc.ChangeType)
    if unknown := [each for each in handlers if each not in known]:
        raise ValueError(f"handlers: found {unknown[0]!r}, allowed: one of orthanc.ChangeType")
    listed: dict[int, list[Handler]] = {
        known[key]: [value] if callable(value) else list(value) for key, value in handlers.items()
    }
    if async_session is None and any(is_coroutine(each) for several in listed.values() for each in several):
        async_session = create_session(orthanc, httpx.AsyncClient)
    if isinstance(at_least_once, str):
        at_least_once = AtLeastOnce(at_least_once)
    SDK.open()
    dispatcher = Dispatcher(listed, orthanc, (session, async_session), executor or Executor(), at_least_once)
    KEPT_ALIVE.append(dispatcher.on_change)
    orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-1])
    return dispatcher


# What Orthanc calls must live as long as the process: 1.12.7 and later crash at shutdown otherwise.
KEPT_ALIVE: list[Any] = []
