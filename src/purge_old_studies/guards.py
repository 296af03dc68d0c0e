# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards and rules that can never apply on this Orthanc: a person who counts on them must know."""

from __future__ import annotations

import orthanc

from common.loopback import LoopbackError
from common.routes import Refused, one_line

from .archive import Archive
from .elsewhere import Elsewhere
from .settings import SECTION, Settings, disk_levels


def never_apply(settings: Settings, *, has_labels: bool, is_elsewhere: bool, version: str) -> list[str]:
    """Return what is configured and can never apply here, a line each.

    Parameters
    ----------
    is_elsewhere : a plugin keeps the files.
    """
    found = []
    no_labels = f"this Orthanc ({version}) has no labels, they came with 1.12.0"
    if settings.keep_labels and not has_labels:
        found.append(f"{SECTION}.KeepLabels keeps nothing here: {no_labels}")
    for number, rule in enumerate(settings.rules):
        path = f"{SECTION}.Rules[{number}]"
        if rule.labels and not has_labels:
            found.append(f"{path}.Labels: rule {rule.name} never runs here: {no_labels}")
        if is_elsewhere and rule.when_disk_above and disk_levels(rule)[0].is_percent:
            why = "a plugin keeps Orthanc's files elsewhere, of which no percentage is known. Allowed: a size such as 900GB"
            found.append(
                f'{path}.WhenDiskAbove: found "{rule.when_disk_above}": rule {rule.name} never runs here: {why}'
            )
    return found


def wrong_destinations(settings: Settings, elsewhere: Elsewhere) -> list[str]:
    """Return which rules can't run as long as Orthanc does not know their destinations, a line each."""
    found = []
    for number, rule in enumerate(settings.rules):
        try:
            elsewhere.destinations(rule.only_if_at)
        except Refused as refused:
            found.append(f"{SECTION}.Rules[{number}].{refused.message}. Until then rule {rule.name} does not run")
    return found


def warn_of_guards(settings: Settings, archive: Archive) -> None:
    """Log an ERROR for each guard or rule that can never apply here."""
    if not (settings.keep_labels or settings.rules):
        return
    index = archive.index
    try:
        lines = wrong_destinations(settings, archive.elsewhere)
        lines += never_apply(
            settings, has_labels=index.has_labels, is_elsewhere=index.is_elsewhere, version=index.version
        )
    except LoopbackError as error:
        orthanc.LogError(f"purge_old_studies can't tell whether its guards apply here: {one_line(error)}")
        return
    for line in lines:
        orthanc.LogError(f"purge_old_studies: {line}")
