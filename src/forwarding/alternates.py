# SPDX-License-Identifier: AGPL-3.0-or-later
"""Another way when a destination is down: what waits for it goes to the first of its alternates that answers."""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import orthanc

from common.archive import instances_of
from common.ledger import SEND
from common.loopback import LoopbackError
from common.times import utc
from common.work import Which, Work
from forwarding.archive import metadata_of
from forwarding.context import Context
from forwarding.deletion import Deleter
from forwarding.destinations import Destinations
from forwarding.loops import LOOK_UP_IN_ROUTE_SECONDS, Loops
from forwarding.rows import HISTORY

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
