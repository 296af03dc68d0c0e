# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events that stand on disk until their handlers have ended without an error."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.feed import FEED_TABLES, Feed
from common.ledger import Ledger
from common.loopback import Loopback
from common.state import state_folder
from common.worker import Worker, repr_of
from event_dispatcher.events import ChangeEvent, Handler, name_of
from event_dispatcher.logs import LOG

LOOK_EVERY = 1.0  # seconds between looks at /changes, unless something is told
LINGER = 0.05  # seconds between them while much is told
RETRY_SECONDS = 2.0  # until what could not be written down is written again
CLOSE_SECONDS = 1.0  # for what is written down when Orthanc stops
EVENTS_PER_COMMIT = 500


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
        # What is not written down yet. A disk or a lock may take seconds, so OnChange leaves it to a thread.
        self._unheard: collections.deque[ChangeEvent] = collections.deque()
        self._ended: collections.deque[tuple[int, concurrent.futures.Future[Any]]] = collections.deque()
        self._settling = threading.Lock()
        self._under_way: collections.Counter[str] = collections.Counter()
        self._worker = Worker(kept.name, self._open, self._turn)
        self._wake, self._stopping = self._worker.wake, self._worker.stopping
        self._heard, self._closing = threading.Event(), threading.Event()
        self._looked_at, self._look_at = 0.0, 0.0  # time.monotonic() of the last and the next look at /changes
        self._begun = False
        self._writer = threading.Thread(target=self._write, name="event_dispatcher writer", daemon=True)

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
        in_changes = self.IN_CHANGES.fullmatch(change) is not None
        if in_changes and self._kept.reconcile:
            if change not in self._queues:
                return False  # it is read within a second, which is soon enough for what becomes stable later
            self._look_at = min(self._look_at, self._looked_at + LINGER)
        elif change.startswith("STABLE_") or change == "NEW_INSTANCE" or change in self._queues:
            self._unheard.append(event)
            self._heard.set()
        self._wake.set()
        return change in self._queues

    # The thread that writes down

    def _write(self) -> None:
        complaint = ""
        while not self._closing.is_set() or self._unheard:
            self._heard.wait()
            self._heard.clear()
            try:
                self._write_down()
                complaint = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it never ends the thread that serves all
                if str(error) != complaint:
                    complaint = str(error)
                    LOG.error("%s: events can't be written down, and are kept in memory: %s", self._kept.name, error)
                if self._closing.wait(RETRY_SECONDS):
                    break
                self._heard.set()
        self._worker.end(CLOSE_SECONDS / 2)
        with contextlib.suppress(sqlite3.Error):
            self._settle()
        if self._ledger:
            self._ledger.close()

    def _write_down(self) -> None:
        assert self._ledger
        while self._unheard:
            # By index: a deque to which OnChange adds meanwhile can't be walked through.
            some = [self._unheard[index] for index in range(min(len(self._unheard), EVENTS_PER_COMMIT))]
            with self._ledger.transaction():
                for event in some:
                    self._hear(event)
            for _ in some:
                self._unheard.popleft()
            self._wake.set()

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
        self._worker.start()

    def _open(self) -> Ledger:
        path = state_folder(self._kept.folder, self._configuration) / f"{self._kept.name}.sqlite"
        ledger = Ledger(path, FEED_TABLES, durability=self._kept.durability, key="AtLeastOnce.folder")
        try:
            ledger.run("UPDATE work SET state='waiting', next_attempt=0 WHERE state='sending'")
        except BaseException:
            ledger.close()
            raise
        if ledger.moved:
            LOG.warning(
                "the ledger %s was corrupt and is kept as %s; what waited there is not handled", path, ledger.moved
            )
        unknown = [row["queue"] for row in ledger.rows("SELECT DISTINCT queue FROM work_counts WHERE n>0")]
        if unknown := sorted(set(unknown) - self._handlers.keys()):
            LOG.warning("events in %s wait for handlers that are not registered any more: %s", path, ", ".join(unknown))
        levels = [name.removeprefix("STABLE_").capitalize() for name in self._queues if name.startswith("STABLE_")]
        stable_age = float(self._configuration.get("StableAge", 60))
        reconcile = self._kept.reconcile
        self._ledger = ledger
        self._feed = Feed(ledger, self._loopback, self._settled, levels, stable_age, reconcile, told=self._told)
        self._writer.start()
        return ledger

    def stop(self) -> None:
        """Hand over nothing more."""
        if self._unheard:  # stopped as soon as started: it is to be written down all the same
            self._worker.wait_for_first_try(CLOSE_SECONDS)
        self._worker.end(0.0)

    def close(self) -> None:
        """After the handlers have ended: what they did is written down; the rest is handed over after the next start.

        A disk that hangs is left behind after a second.
        """
        self._closing.set()
        self._heard.set()
        if self._writer.is_alive():
            self._writer.join(CLOSE_SECONDS)
        if self._unheard:
            LOG.error("%s: %d events could not be written down, and are lost", self._kept.name, len(self._unheard))

    def retry_dead(self) -> int:
        if not self._ledger:
            return 0
        now = time.time()
        number = self._ledger.run("UPDATE work SET state='waiting', next_attempt=0, created=? WHERE state='dead'", now)
        self._wake.set()
        return number

    # The one thread

    def _turn(self) -> float:
        if not self._begun:
            self._feed_now().begin()
            self._begun = True
        self._pass()
        return max(0.0, self._look_at - time.monotonic())

    def _feed_now(self) -> Feed:
        assert self._feed
        return self._feed

    def _pass(self) -> None:
        self._settle()
        if self._stopping.is_set():
            self._look_at = time.monotonic() + LOOK_EVERY
            return
        if time.monotonic() >= self._look_at:
            self._looked_at = time.monotonic()
            self._look_at = self._looked_at + LOOK_EVERY
            self._feed_now().poll()
        for queue_name in self._handlers:
            self._hand_over(queue_name)

    def _settle(self) -> None:
        """Write down how handlers ended."""
        with self._settling:
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
            if self._ledger.fail(row, repr_of(error), **pace) == "dead":
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
