# SPDX-License-Identifier: AGPL-3.0-or-later
"""One torture: disturbances in an order and at moments that chance decides, then calm, then the account."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import requests

from testing.server import OrthancFailedError, RequestFailedError
from tests.torture.account import Account
from tests.torture.disturbances import DISTURBANCES, Disturbance
from tests.torture.studies import Senders
from tests.torture.system import System

PACE_SECONDS = 0.7  # from one study to the next
LASTS_SECONDS = (1.0, 6.0)  # each disturbance
PAUSE_SECONDS = (0.0, 2.0)  # between two
SECOND_ONE = 0.5  # the part of them during which another one happens
SENT_WITHIN_SECONDS = 60.0  # when it is calm
SETTLED_WITHIN_SECONDS = 300.0  # it took 29 with a load of 15 on two processors
ANSWERS_WITHIN_SECONDS = 60.0  # beyond that, if it does not answer
LOOK_SECONDS = 2.0


def torture(
    folder: Path,
    chance: random.Random,
    *,
    seconds: float,
    only: Sequence[str],
    on_postgres: bool = False,
    keep: Path | None = None,
    pace: float = PACE_SECONDS,
    say: Callable[[str], None] = lambda _: None,
) -> Account:
    """Let studies flow for so many seconds while the disturbances of these names happen; return the account."""
    disturbances = [DISTURBANCES[name] for name in only]
    fakes_clock = any(each.name.startswith("clock") for each in disturbances)
    with contextlib.closing(System(folder, chance, fakes_clock=fakes_clock, on_postgres=on_postgres)) as system:
        try:
            senders, began = Senders(system.source, pace), time.monotonic()
            for plan in plans(disturbances, chance):
                if time.monotonic() - began > seconds:
                    break
                say(f"{time.monotonic() - began:6.1f} s  {' during '.join(each.name for each in reversed(plan))}")
                happen(system, plan, chance)
                time.sleep(chance.uniform(*PAUSE_SECONDS))
                system.notes_death()
                if not system.start(within=60):
                    raise OrthancFailedError(system.did_not_start)
            say(f"{time.monotonic() - began:6.1f} s  calm")
            senders.stop(SENT_WITHIN_SECONDS)
            account = settled(system, senders)
            say(f"{time.monotonic() - began:6.1f} s  settled")
            return account
        finally:
            if keep:
                shutil.copytree(
                    folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock", "rabbit", "archive")
                )


def plans(disturbances: Sequence[Disturbance], chance: random.Random) -> Iterator[list[Disturbance]]:
    """Yield what happens next, without end: one disturbance, or two of different things; each once before any comes again."""
    waiting: list[Disturbance] = []
    while True:
        if not waiting:
            waiting = chance.sample(disturbances, len(disturbances))
        plan = [waiting.pop()]
        others = [each for each in waiting if not {*each.things} & {*plan[0].things}]
        if others and chance.random() < SECOND_ONE:
            plan.append(others[-1])
            waiting.remove(others[-1])
        yield plan


def happen(system: System, plan: Sequence[Disturbance], chance: random.Random) -> None:
    """Let one disturbance happen, and the next one of the plan meanwhile."""
    with contextlib.ExitStack() as stack:
        for each in plan:
            stack.enter_context(each.happens(system, chance))
            time.sleep(chance.uniform(*LASTS_SECONDS) / len(plan))


def settled(system: System, senders: Senders) -> Account:
    """Return the account when it is right, or when that takes too long.

    Raises
    ------
    OrthancFailedError : Orthanc does not answer any more.
    """
    deadline, account, why = time.monotonic() + SETTLED_WITHIN_SECONDS, None, ""
    while time.monotonic() < deadline + (0 if account else ANSWERS_WITHIN_SECONDS):
        try:
            account = Account(system, senders.studies)
        except (requests.RequestException, RequestFailedError) as error:
            why = str(error)
        if account and account.is_right:
            break
        if system.notes_death():
            system.start()
        time.sleep(LOOK_SECONDS)
    if account is None:
        raise OrthancFailedError(f"there is no account: {why or system.faults}")
    return account
