# SPDX-License-Identifier: AGPL-3.0-or-later
"""One page that shows what flows, what is stuck, and what to do: GET /dashboard.

It reads what the other scripts of the same Orthanc say of themselves (combine.py puts them into one file), and acts by their
own routes: Orthanc's users and filters decide who may. The page comes from memory, and asks nobody but this Orthanc.

Needs no configuration. A page that only shows, for everybody:

    "Dashboard": {"Actions": false}

To look at:

    GET  /dashboard              in a browser; Orthanc Explorer has a link to it
    GET  /dashboard/summary      the first view as JSON
    GET  /dashboard/flow         each minute of the last day
    GET  /dashboard/status

Needs nothing but Python's standard library. All keys, and what each panel shows: docs/dashboard.md.
"""

from __future__ import annotations

import json

import orthanc

from common.quirks import KEPT_ALIVE
from common.routes import warn_if_open
from common.settings import SettingsError, read_settings

from .explorer import link_from_explorer
from .routes import Routes
from .service import Dashboard
from .settings import SECTION, Settings


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
    except SettingsError as error:
        refusal = f"{error}. dashboard is idle until this is corrected."
        orthanc.LogError(refusal)
    dashboard = Dashboard(settings, configuration)
    Routes(dashboard).register(refusal)
    if refusal is None:
        warn_if_open("dashboard", configuration)
        if settings.explorer:
            link_from_explorer()
        KEPT_ALIVE.append(dashboard.on_change)
        orthanc.RegisterOnChangeCallback(KEPT_ALIVE[-1])


register()
