# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gives each series a small picture, its middle image: GET /series/{id}/thumbnail, the same for studies and instances.

The picture is drawn once, when the series becomes stable, and kept with the series in Orthanc: an attachment, and the
instance that was chosen as the metadata `ThumbnailInstanceID`. What is no image gives the icon of its kind. Orthanc
Explorer shows the pictures in its lists and on its pages.

A smallest configuration is none at all. To name what is kept:

    "UserMetadata": {"ThumbnailInstanceID": 2001},
    "UserContentType": {"SeriesThumbnail": 4301}

To look at:

    GET /series/{id}/thumbnail       ?size=128&format=jpeg&quality=85&icon=false
    GET /studies/{id}/thumbnail      of its first series of images
    GET /instances/{id}/thumbnail    of several frames, the middle one
    GET /series-thumbnail/status

Icons, images whose pixels are no squares, and those of more than 16 bits need Pillow (apt install python3-pil, or see
docs/install.md). All keys: docs/series_thumbnail.md.
"""

from __future__ import annotations

import json

import orthanc

from common.loopback import Loopback
from common.metrics import listen_to_changes
from common.routes import register_route
from common.settings import SettingsError, read_settings
from common.status import Condition, misconfigured, register_status
from common.user_number import user_number

from .explorer import extend_explorer
from .settings import CHOSEN, CHOSEN_NUMBER, KEPT, KEPT_NUMBER, SECTION, Settings
from .thumbnails import Thumbnails


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings, chosen, kept = None, Settings(), "", ""
    try:
        settings = read_settings(Settings, SECTION, configuration)
        chosen, hint = user_number(configuration, "UserMetadata", CHOSEN, CHOSEN_NUMBER)
        kept, other_hint = user_number(configuration, "UserContentType", KEPT, KEPT_NUMBER)
        for text in filter(None, (hint, other_hint)):
            orthanc.LogWarning(f"series_thumbnail: {text}")
    except SettingsError as error:
        refusal = f"{error}. series_thumbnail is idle until this is corrected."
    loopback = Loopback(configuration)
    if refusal is None and not loopback.enabled:
        refusal = 'series_thumbnail stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)'
    if refusal is not None:
        orthanc.LogError(refusal)
    thumbnails = Thumbnails(settings, loopback, chosen, kept, configuration)
    routes = thumbnails.routes

    def unavailable() -> str | None:
        return refusal or thumbnails.why_not()

    def look() -> Condition:
        return misconfigured(refusal) if refusal else thumbnails.condition()

    handlers = {"series": routes.of_series, "studies": routes.of_study, "instances": routes.of_instance}
    for level, handler in handlers.items():
        register_route(f"/{level}/([^/]+)/thumbnail", {"GET": handler}, unavailable, routes.answer_from_cache)
    script = register_status("series_thumbnail", look, routes.status, unavailable)
    if refusal is not None:
        listen_to_changes(script)
        return
    if settings.explorer:
        extend_explorer()
    listen_to_changes(script, thumbnails.on_change, routes.measure)


register()
