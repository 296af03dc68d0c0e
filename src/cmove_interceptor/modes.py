# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is done with a request: the mode of the first rule that fits, else the script's."""

from __future__ import annotations

from common.aets import ANY_CASE, AeTitles
from common.wildcards import matches_pattern

from .move_request import Fields
from .settings import Rule, Settings


def mode_of(fields: Fields, settings: Settings, aets: AeTitles = ANY_CASE) -> str:
    """Return what is done with a request."""
    return next((rule.mode for rule in settings.rules if _fits(rule, fields, aets)), settings.mode)


def _fits(rule: Rule, fields: Fields, aets: AeTitles) -> bool:
    return (
        (not rule.levels or fields["Level"] in rule.levels)
        and (not rule.target_aets or aets.matches_any(fields["TargetAET"], rule.target_aets))
        and (not rule.originator_aets or aets.matches_any(fields["OriginatorAET"], rule.originator_aets))
        and all(
            # Of a list each must fit: a request is not what one of its identifiers is.
            all(matches_pattern(value, pattern) for value in fields[name].split("\\"))
            for name, pattern in rule.identifiers.items()
        )
    )
