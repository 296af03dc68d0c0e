# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is done to a system, each for some seconds, and undone.

Each is a generator that does it, yields, and undoes it; the decorator says what it is done to. Two run at the same time only
if they have no such thing in common. What happens by chance, happens by `chance`, so that a seed repeats it.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from tests.disks import filled, locked
from tests.privileges import AS_ROOT
from tests.torture.line import MOODS
from tests.torture.system import System, copy_of

PAGE_BYTES = 4096  # of an SQLite file
EVERYTHING = ("source", "state", "archive", "clock", "destination", "broker")
# Whose lost ledger is replaced by reading Orthanc's log of changes once more, as their pages say.
CATCH_UP = ("auto-forward-modality", "auto-forward-peer", "auto-forward-dicomweb", "dicom-events")
SINCE_EVER = {"Since": "1970-01-01T00:00:00Z", "DryRun": False}

Happening = Callable[[System, random.Random], Iterator[None]]


class Disturbance(NamedTuple):
    """One of `DISTURBANCES`: its name, what it is done to, what it does, and a context manager that does and undoes it."""

    name: str
    things: tuple[str, ...]
    what: str
    happens: Callable[[System, random.Random], AbstractContextManager[None]]


DISTURBANCES: dict[str, Disturbance] = {}


def done_to(*things: str, name: str = "") -> Callable[[Happening], Happening]:
    """Add a generator to `DISTURBANCES`, under its own name with dashes."""

    def add(happening: Happening) -> Happening:
        own = name or happening.__name__.replace("_", "-")
        what = (happening.__doc__ or "").strip()
        DISTURBANCES[own] = Disturbance(own, things, what, contextlib.contextmanager(happening))
        return happening

    return add


# The process


@done_to("source")
def kill(system: System, chance: random.Random) -> Iterator[None]:
    """kill -9 of Orthanc, and a start soon afterwards."""
    system.kill()
    time.sleep(chance.uniform(0, 1))
    system.start()
    yield


@done_to("source")
def kill_while_starting(system: System, chance: random.Random) -> Iterator[None]:
    """kill -9 of Orthanc, and twice again just after it has started."""
    for _ in range(3):
        system.kill()
        system.start()
        time.sleep(chance.uniform(0, 0.5))
    yield


@done_to("source")
def away(system: System, _: random.Random) -> Iterator[None]:
    """Orthanc is killed, and is away for a while."""
    system.kill()
    yield
    system.start()


@done_to("source")
def terminate(system: System, _: random.Random) -> Iterator[None]:
    """SIGTERM of Orthanc, and a start."""
    system.terminate()
    system.start()
    yield


@done_to("source")
def stand_still(system: System, _: random.Random) -> Iterator[None]:
    """SIGSTOP of Orthanc, and SIGCONT."""
    system.stop_process()
    yield
    system.continue_process()


# The disks


@done_to("state")
def full_state(system: System, _: random.Random) -> Iterator[None]:
    """The disk of the scripts' state is full."""
    with system.state_is_unwritable(), filled(system.state_disk):
        yield


@done_to("archive")
def full_archive(system: System, _: random.Random) -> Iterator[None]:
    """The disk of Orthanc's own files is full: it refuses what is sent."""
    with filled(system.archive):
        yield


@done_to("state")
def locked_state(system: System, chance: random.Random) -> Iterator[None]:
    """Another program locks one of the ledgers."""
    with locked(chance.choice(ledgers(system))):
        yield


@done_to("source", "state")
def state_taken_away(system: System, _: random.Random) -> Iterator[None]:
    """The folder of the state is moved away while Orthanc runs, and comes back."""
    elsewhere = system.state_disk / "away"
    with system.state_is_unwritable():
        system.state.rename(elsewhere)
        yield
        elsewhere.rename(system.state)


@done_to("source", "state")
def read_only_state(system: System, _: random.Random) -> Iterator[None]:
    """Orthanc is killed, and starts while the state can't be written."""
    with system.state_is_unwritable():
        system.kill()
        subprocess.run([*AS_ROOT, "mount", "-o", "remount,ro", system.state_disk], check=True)
        try:
            system.start()
            yield
        finally:
            subprocess.run([*AS_ROOT, "mount", "-o", "remount,rw", system.state_disk], check=True)


@done_to("source", "state")
def torn_files(system: System, _: random.Random) -> Iterator[None]:
    """A crash leaves half a line at the end of each file that is appended to."""
    system.kill()
    for path in appended_to(system.state):
        with path.open("ab") as file:
            file.write(b'{"Number": 17, "At": "20')
    system.start()
    yield


@done_to(*EVERYTHING)
def older_state(system: System, _: random.Random) -> Iterator[None]:
    """The ledgers are put back as they were some seconds before, as after a restore."""
    copy = system.folder / f"copy-{time.monotonic_ns()}"
    system.kill()
    copy_of(system.state, copy)
    system.start()
    yield
    system.kill()
    for path in ledgers(system):
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
    for path in copy.iterdir():
        (system.state / path.name).write_bytes(path.read_bytes())
    system.start()


@done_to(*EVERYTHING)
def corrupt_state(system: System, chance: random.Random) -> Iterator[None]:
    """One ledger is damaged, and its script is told to catch up, as its page says. Meanwhile no rule deletes."""
    system.kill()
    system.start(purges=False)
    totals = "/dicom-events/status"
    system.wait_until_known(totals, lambda found: found["Totals"]["waiting"] == 0)  # what waits there would be lost
    system.kill()
    path = chance.choice(ledgers(system))
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES * chance.randrange(max(1, path.stat().st_size // PAGE_BYTES)))
        file.write(os.urandom(PAGE_BYTES))
    system.start(purges=False)
    yield
    script = path.stem.replace("_", "-")
    if script in CATCH_UP:
        route = f"/{script}/catch-up"
        system.source.wait_until(lambda: system.ask("POST", route, SINCE_EVER) is not None, 30, "catch up")
        system.wait_until_known(route, lambda found: not found["UnderWay"])
    system.kill()
    system.start()


def ledgers(system: System) -> list[Path]:
    """Return the ledgers of the scripts, in the order of their names."""
    return sorted(system.state.glob("*.sqlite"))


def appended_to(folder: Path) -> list[Path]:
    """Return the files of a folder to which lines are appended."""
    logs = sorted((folder / "audit-log").glob("*.jsonl"))
    return [*logs[-1:], *(path for path in sorted(folder.iterdir()) if path.suffix in (".jsonl", ".journal"))]


# The clock. It goes back only while Orthanc is not running: a thread that begins to wait just then, with a time of before, would
# wait until that time comes; with faketime also when the clock has been set right.


def clock_ahead(offset: str, what: str) -> None:
    def happening(system: System, _: random.Random) -> Iterator[None]:
        system.clock.set(offset)
        yield
        system.kill()
        system.clock.set("+0")
        system.start()

    happening.__doc__ = f"The clock jumps {what} ahead; Orthanc is killed, and starts when it is right."
    done_to("clock", "source", name=f"clock-{what.replace(' ', '-')}-ahead")(happening)


def clock_behind(offset: str, name: str, what: str) -> None:
    def happening(system: System, _: random.Random) -> Iterator[None]:
        system.kill()
        system.clock.set(offset)
        system.start()
        yield
        system.clock.set("+0")

    happening.__doc__ = f"Orthanc is killed, and starts with a clock that {what}; then it is set right."
    done_to("clock", "source", name=name)(happening)


clock_ahead("+1096d", "three years")
clock_ahead("+5h", "five hours")
clock_behind("-400d", "clock-behind", "is more than a year behind")
clock_behind("@1970-01-01 01:00:00", "clock-1970", "has fallen back to 1970")


# What is sent to


def mood(names: tuple[str, ...], which: str) -> Happening:
    def happening(system: System, chance: random.Random) -> Iterator[None]:
        lines = [system.lines[name] for name in chance.sample(names, chance.randint(1, len(names)))]
        for line in lines:
            line.mood = which
        yield
        for line in lines:
            line.mood = "well"

    return happening


for which, does in MOODS.items():
    for thing, names in {"destination": ("PACS", "PEER", "NODE", "CLOUD"), "broker": ("rabbit", "hook")}.items():
        happening = mood(names, which)
        happening.__doc__ = f"The line to some: {does}."
        done_to(thing, name=f"{thing}-{which}")(happening)


@done_to("destination")
def destination_killed(system: System, chance: random.Random) -> Iterator[None]:
    """A destination is killed, and is away for a while."""
    server = chance.choice((system.pacs, system.peer))
    server.kill()
    yield
    server.start()


@done_to("destination")
def destination_awkward(system: System, chance: random.Random) -> Iterator[None]:
    """A DICOM node is as some are: it takes one association, refuses, forgets, is slow, breaks off, or says nothing."""
    bad = chance.choice(
        (
            {"one_association": True},
            {"refuses": lambda _: True},
            {"duplicates_0111": True},
            {"seconds_per_image": 1.0},
            {"breaks_off_after": 1},
            {"never_answers": True},
            {"rejects_sop_classes": ("CTImageStorage",)},
        )
    )
    with changed(system.node, **bad):
        yield


@done_to("destination")
def destination_refuses(system: System, chance: random.Random) -> Iterator[None]:
    """A DICOMweb server refuses what it is sent, or takes no request of that size."""
    refuses = {"refuses": lambda _: True}
    with changed(system.cloud, **chance.choice((refuses, {"largest": 100}))):
        yield


@contextlib.contextmanager
def changed(node: object, **attributes: object) -> Iterator[None]:
    """Let a node have these attributes, and then those that it had."""
    before = {name: getattr(node, name) for name in attributes}
    for name, value in attributes.items():
        setattr(node, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(node, name, value)


@done_to("broker")
def broker_killed(system: System, _: random.Random) -> Iterator[None]:
    """RabbitMQ is killed, and is away for a while."""
    system.rabbit.stop()
    yield
    system.rabbit.start()


@done_to("broker")
def broker_stands_still(system: System, _: random.Random) -> Iterator[None]:
    """SIGSTOP of RabbitMQ, and SIGCONT."""
    system.rabbit.pause()
    yield
    system.rabbit.resume()


@done_to("broker")
def broker_refuses(system: System, chance: random.Random) -> Iterator[None]:
    """A webhook answers with errors that pass."""
    status = chance.choice((401, 404, 429, 500, 502, 503))
    with changed(system.hook, answers=lambda _: status):
        yield
