# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs jobs again that failed and that others submitted: REST clients, Orthanc Explorer, other scripts.

A study that a person sends to a PACS that is down arrives when the PACS is back: the job's content is written down as long
as Orthanc knows it, and the job is run again, less and less often, also after restarts and `kill -9`, for three days. Then
it is `dead` until a person retries it. The jobs of the forward scripts, and those that somebody canceled, are left alone.

Needs no configuration. The types of jobs that it cares for, and for how long:

    "AutoRetries": {"Types": ["DicomModalityStore", "OrthancPeerStore"], "Retry": {"GiveUpHours": 24}}

To look at and to act on, with curl:

    GET  /auto-retries/status
    GET  /auto-retries/jobs?state=dead              also destination=, job=, since=, limit=
    POST /auto-retries/jobs/{id}/retry              and GET and DELETE /auto-retries/jobs/{id}
    POST /auto-retries/jobs/retry                   {"Destination": "PACS"}: all dead ones of it

Needs nothing but Python's standard library. All keys, and what a job does not show: docs/auto_retries.md.
"""

from __future__ import annotations

import json

import orthanc

from auto_retries.retrier import Retrier
from auto_retries.routes import Routes
from auto_retries.settings import SECTION, Settings
from common.metrics import listen_to_changes
from common.routes import warn_if_open
from common.settings import SettingsError, read_settings
from common.version import __version__  # noqa: F401 - of the built file


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
    except SettingsError as error:
        refusal = f"{error}. auto_retries is idle until this is corrected."
        orthanc.LogError(refusal)
    retrier = Retrier(settings, configuration)
    script = Routes(retrier).register(refusal)
    if refusal is None:
        warn_if_open("auto_retries", configuration)
        listen_to_changes(script, retrier.on_change, retrier.measure)
    else:
        listen_to_changes(script)


register()
