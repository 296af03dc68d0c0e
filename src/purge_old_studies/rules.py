# SPDX-License-Identifier: AGPL-3.0-or-later
"""What there is to see of the rules: the last run, the next one, and what that would delete."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Callable
from typing import Any

from common.http_threads import HttpTurns
from common.loopback import LoopbackError
from common.routes import Refused, Request, one_line
from common.settings import key_of

from .archive import Archive
from .clock import Clock, Reading, local_day, utc_time
from .conditions import Conditions, received_until
from .last_runs import LastRuns
from .schedule import Schedule
from .settings import Rule, Settings, rule_conditions
from .space import SpaceRules

BY_TIME, BY_SPACE = {"At", "Days", "By", "Limit"}, {"WhenDiskAbove", "DownTo", "OldestBy", "AtMost"}


def conditions_shown(rule: Rule) -> dict[str, Any]:
    """Return what a rule deletes, by the keys of the configuration: those that mean something for this rule."""
    found = {key_of(field): getattr(rule, field.name) for field in dataclasses.fields(rule)}
    others = {"Name", *(BY_TIME if rule.when_disk_above else BY_SPACE)}
    others |= {*(() if rule.labels else ["LabelsConstraint"]), *(() if rule.only_if_at else ["Proof"])}
    return {key: value for key, value in found.items() if key not in others and value not in (None, (), {})}


class RuleViews:
    """The rules, as the routes show them."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        archive: Archive,
        last_runs: LastRuns,
        schedule: Schedule,
        space: SpaceRules,
    ) -> None:
        self._settings, self._clock, self._archive = settings, clock, archive
        self._last_runs, self._schedule, self._space = last_runs, schedule, space

    def status(self) -> list[dict[str, Any]]:
        """Return of each rule what it deletes, when it runs next, when it ran last, and how that went."""
        return [self._status(rule) for rule in self._settings.rules]

    def _status(self, rule: Rule) -> dict[str, Any]:
        about, last = {"Name": rule.name, "Conditions": conditions_shown(rule)}, self._last_runs.of(rule.name)
        if rule.when_disk_above:
            return {**about, **self._space.status(rule), "Last": last}
        return {**about, "Next": utc_time(self._schedule.next_run(rule)), "Last": last}

    def dry_run(
        self, request: Request, turns: HttpTurns, dry_run: Callable[[Conditions, Reading], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what a rule would delete if it ran now. Raises `Refused` (404): there is no such rule."""
        name = urllib.parse.unquote(request.groups[0])
        rule = next((rule for rule in self._settings.rules if rule.name in (name, request.groups[0])), None)
        if rule is None:
            raise Refused(404, "There is no such rule; /purge-old-studies/status lists them")
        try:
            if rule.when_disk_above:
                with turns.turn():
                    return self._space.dry_run(rule)
            reading = self._clock.read()
            has_labels = not rule.labels or self._archive.index.has_labels
            asked = rule_conditions(rule, local_day(reading.earliest), has_labels=has_labels)
        except (LoopbackError, OSError) as error:
            raise Refused(503, f"Which studies these are can't be known now: {one_line(error)}") from None
        until = received_until(self._settings.keep_received_days, reading.earliest)
        content = dry_run(dataclasses.replace(asked, received_until=until), reading)
        return {**content, "Rule": rule.name, "Why": reading.doubt or f"they are older than {rule.older_than}"}
