# SPDX-License-Identifier: AGPL-3.0-or-later
"""One page that shows what flows, what is stuck, and what to do: GET /dashboard.

It reads what the other scripts of the same Orthanc say of themselves (combine.py puts them into one file), and acts by their
own routes: Orthanc's users and filters decide who may. The page comes from memory, and asks nobody but this Orthanc.

Needs no configuration. A page that only shows, for everybody:

    "Dashboard": {"Actions": false}

One that also writes a mail when something needs a person, and one when that is over:

    "Dashboard": {"Notify": {"Mail": {"Host": "mail.example", "User": "orthanc", "Password": "${SMTP_PASSWORD}",
                                      "From": "orthanc@hospital.example", "Recipients": ["radiology-it@hospital.example"]}}}

To look at:

    GET  /dashboard              in a browser; Orthanc Explorer has a link to it
    GET  /dashboard/summary      the first view as JSON
    GET  /dashboard/flow         each minute of the last day
    GET  /dashboard/status

Needs nothing but Python's standard library, and for `Webhook` requests, 2.28 or newer. All keys, and what each panel
shows: docs/dashboard.md.
"""

from __future__ import annotations

import json

import orthanc

from common.metrics import listen_to_changes
from common.outside import requests_problem
from common.routes import warn_if_open
from common.settings import SettingsError, read_settings
from common.state import configuration_folder

from .explorer import link_from_explorer
from .routes import Routes
from .senders import Sender, senders_of
from .service import Dashboard
from .settings import SECTION, Settings


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings, senders = None, Settings(), dict[str, Sender]()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        if settings.notify is not None:
            if wrong := settings.notify.complaint():
                raise SettingsError(f"{SECTION}.Notify.{wrong}")
            if settings.notify.webhook and (problem := requests_problem()):
                raise SettingsError(f"dashboard stays idle: {problem}")
            senders = senders_of(settings.notify, configuration_folder())
    except (SettingsError, OSError) as error:  # OSError: a certificate can't be read (ssl.SSLError is one)
        refusal = f"{error}. dashboard is idle until this is corrected."
        orthanc.LogError(refusal)
    dashboard = Dashboard(settings, configuration, senders)
    script = Routes(dashboard).register(refusal)
    if refusal is not None:
        listen_to_changes(script)
        return
    warn_if_open("dashboard", configuration)
    if settings.explorer:
        link_from_explorer()
    listen_to_changes(script, dashboard.on_change)


register()
