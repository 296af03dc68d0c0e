# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rules by space: while the disk is too full, the oldest studies go."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
import traceback
from typing import Any

import orthanc

from common.loopback import LoopbackError
from common.routes import Refused, one_line

from .archive import Archive, Choice
from .clock import Clock, Reading, local_day, utc_time
from .conditions import Conditions, received_until
from .disk import Disk, Fill
from .jobs import Jobs
from .runner import Runner
from .settings import Rule, Settings, disk_levels, rule_conditions
from .summary import summary

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
