# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lists series with private tags that Orthanc does not index: GET /with-private-tags/series.

Each series keeps the values of the tags that the configuration names as the metadata `SeriesPrivateTags`, taken from its
first instance that has them while it is stored. What the archive held before is caught up in the background.

A smallest configuration (a tag by its name in `Dictionary`, or by its number and private creator; `!!` stores only "EXISTS"):

    "SeriesMainPrivateDicomTags": ["SUVFactor", "!!0029,1010:SIEMENS CSA HEADER", "0019,100c:SIEMENS MR HEADER"],
    "Dictionary": {"7053,1000": ["DS", "SUVFactor", 1, 1, "Philips PET Private Group"]},
    "UserMetadata": {"SeriesPrivateTags": 2000}

To look at and to act on, with curl:

    GET  /with-private-tags/series                    ?limit=100&since=0&short&instances=true
    GET  /with-private-tags/series/{id}
    GET  /with-private-tags/studies/{id}/series       and /with-private-tags/patients/{id}/series
    GET  /with-private-tags/status
    POST /with-private-tags/reconstruct               {"Study": id}, {"Patient": id}, {"Series": id}, or {} for all

Needs nothing but Python's standard library. All keys: docs/series_private_tags.md.
"""

from __future__ import annotations

import json

import orthanc

from common.metrics import listen_to_changes
from common.quirks import kept_alive
from common.routes import register_route
from common.settings import SettingsError, read_settings
from common.status import Condition, condition_of, register_status, unused
from common.user_number import user_number

from .entries import Wanted, parse_entry
from .private_tags import PrivateTags
from .routes import Routes
from .settings import METADATA, METADATA_NUMBER, SECTION, Settings


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings, wanted, metadata = None, Settings(), Wanted([]), ""
    section, is_unused = configuration.get(SECTION), False
    try:
        section = {"Tags": section} if isinstance(section, list) else section
        settings = read_settings(Settings, SECTION, {**configuration, SECTION: section})
        wanted = Wanted([parse_entry(text, configuration.get("Dictionary") or {}) for text in settings.tags])
        metadata, hint = user_number(configuration, "UserMetadata", METADATA, METADATA_NUMBER)
        if hint:
            orthanc.LogWarning(f"series_private_tags: {hint}")
        if is_unused := not wanted.entries:
            refusal = f'series_private_tags stays idle: "{SECTION}" names no tags'
            orthanc.LogWarning(refusal)
    except SettingsError as error:
        refusal = f"{error}. series_private_tags is idle until this is corrected."
        orthanc.LogError(refusal)
    private_tags = PrivateTags(settings, wanted, metadata, configuration)
    routes = Routes(settings, wanted, private_tags, configuration)

    def unavailable() -> str | None:
        return refusal or private_tags.worker.why_not()

    def look() -> Condition:
        return unused(refusal) if refusal and is_unused else condition_of(private_tags.worker, refusal)

    script = register_status("series_private_tags", look, routes.status, unavailable, also="/with-private-tags/status")
    register_route("/with-private-tags/series", {"GET": routes.series}, unavailable)
    register_route("/with-private-tags/series/([^/]+)", {"GET": routes.one_series}, unavailable)
    register_route("/with-private-tags/studies/([^/]+)/series", {"GET": routes.series_of_study}, unavailable)
    register_route("/with-private-tags/patients/([^/]+)/series", {"GET": routes.series_of_patient}, unavailable)
    register_route("/with-private-tags/reconstruct", {"POST": routes.reconstruct}, unavailable)
    if refusal is not None:
        listen_to_changes(script)
    else:
        orthanc.RegisterOnStoredInstanceCallback(kept_alive(private_tags.on_stored))
        listen_to_changes(script, private_tags.on_change, private_tags.measure)


register()
