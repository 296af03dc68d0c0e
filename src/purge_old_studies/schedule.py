# SPDX-License-Identifier: AGPL-3.0-or-later
"""When a rule is due."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from .settings import DAYS, Rule


def is_due(rule: Rule, before: datetime.datetime, now: datetime.datetime) -> bool:
    """Whether the time of the rule passed after `before`, until `now` (local times without a zone, as clocks on walls)."""
    return any(before < moment <= now for moment in _moments(rule, before.date(), now.date()))


def seconds_until(rules: Iterable[Rule], now: datetime.datetime) -> float:
    """Seconds until the next time of any of the rules, by the clock on the wall."""
    moments = [moment for rule in rules for moment in _moments(rule, now.date(), now.date() + datetime.timedelta(7))]
    return min(((moment - now).total_seconds() for moment in moments if moment > now), default=86400.0)


def _moments(rule: Rule, first: datetime.date, last: datetime.date) -> list[datetime.datetime]:
    days = (first + datetime.timedelta(number) for number in range((last - first).days + 1))
    at = datetime.time.fromisoformat(rule.at)
    return [datetime.datetime.combine(day, at) for day in days if DAYS[day.weekday()] in rule.days]
