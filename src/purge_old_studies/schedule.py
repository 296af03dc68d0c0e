# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rules: when each is due, and its run."""

from __future__ import annotations

import dataclasses
import datetime
import sqlite3
import time
import traceback
from collections.abc import Iterable

import orthanc

from common.ledger import Ledger
from common.loopback import LoopbackError
from common.routes import Refused, one_line

from .archive import Archive
from .clock import Clock, Reading
from .conditions import Conditions, received_until
from .runner import Runner
from .settings import DAYS, Rule, Settings, rule_conditions

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
