# SPDX-License-Identifier: AGPL-3.0-or-later
"""Deletes studies by their age, when asked or by rules: nothing by a typo, a link, or a crash half-way.

GET /purge-old-studies?since=20000101 deletes every study dated on or before that day and answers how many they were.
A study whose StudyDate is missing or no valid day stays. What can't be right is refused, and nothing is deleted.

    curl -u USER 'http://127.0.0.1:8042/purge-old-studies?older-than=7y&dry-run=true'

The same by POST, as JSON, which deletes only with "dry-run": false; parameters are `since` or `older-than` (90d, 18m, 7y),
`by` (StudyDate, received), `Query`, `Labels`, `LabelsConstraint`, `limit`, `undated`, `keep-received-days`, `only-if-at`,
`proof`, `dry-run`, `force`, `async`, `format`. And to look at and to act on:

    GET  /purge-old-studies/status
    GET  /purge-old-studies/jobs, GET /purge-old-studies/jobs/{id}, POST /purge-old-studies/jobs/{id}/cancel
    GET  /purge-old-studies/rules/{name}/dry-run          what a rule would delete now, and why
    GET  /purge-old-studies/history                       every study that was deleted, who asked, when, by which rule
    POST /purge-old-studies/confirm-clock                 a clock that is not what was to be expected stops all rules

Needs no configuration. This one keeps some studies, and deletes the old ones of the others each night, but none of which
something came in within 7 days (`KeepReceivedDays`):

    "PurgeOldStudies": {"KeepLabels": ["teaching"],
                        "Rules": [{"Name": "seven years", "OlderThan": "7y", "At": "02:30"}]}

Needs nothing but Python's standard library. All keys: docs/purge_old_studies.md.
"""

from __future__ import annotations

import json

import orthanc

from common.metrics import listen_to_changes
from common.routes import register_route, warn_if_open
from common.settings import SettingsError
from common.status import register_status
from common.version import __version__  # noqa: F401 - the built file has it at its top

from .api import Purges
from .settings import Settings, read_configuration


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_configuration(configuration)
    except SettingsError as error:
        refusal = f"{error}. purge_old_studies purges nothing until this is corrected."
        orthanc.LogError(refusal)
    else:
        warn_if_open("purge_old_studies", configuration)
    purges = Purges(settings, configuration, refusal)
    route = "/purge-old-studies"
    register_route(route, {"GET": purges.purge, "POST": purges.purge}, purges.unavailable)
    look = purges.condition
    script = register_status("purge_old_studies", look, purges.status, purges.unavailable, routes=f"{route}/routes")
    register_route(f"{route}/jobs", {"GET": purges.jobs}, purges.unavailable)
    register_route(f"{route}/jobs/([^/]+)", {"GET": purges.job}, purges.unavailable)
    register_route(f"{route}/jobs/([^/]+)/cancel", {"POST": purges.cancel}, purges.unavailable)
    register_route(f"{route}/rules/([^/]+)/dry-run", {"GET": purges.dry_run_of_rule}, purges.unavailable)
    register_route(f"{route}/confirm-clock", {"POST": purges.confirm_clock}, purges.unavailable)
    register_route(f"{route}/history", {"GET": purges.history}, purges.unavailable)
    # It tells a DICOMweb server of `OnlyIfAt` that leads back to this Orthanc from another one.
    purges.elsewhere.servers.register_route(purges.turns.bound, refusal)
    if refusal is None:
        listen_to_changes(script, purges.on_change, lambda: purges.measures.measure())
    else:
        listen_to_changes(script)


register()
