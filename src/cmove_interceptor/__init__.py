# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notifies services of each C-MOVE that Orthanc receives, and does the move as Orthanc itself would have done.

Whoever listens to C-MOVE replaces Orthanc's own, so this script does both: notifications by HTTP (before or after the
move, waited for or delivered later, at least once), and the move, or none, or one of what is first fetched from elsewhere.

    "CMoveInterceptor": {"Notify": [{"Url": "https://ris.example/moves?study={StudyInstanceUID}&to={TargetAET}"}]}

Without the section each request is an entry in the log, and is moved. The routes:

    GET /cmove-interceptor/status
    GET /cmove-interceptor/requests                       recent ones, with what came of them
    DELETE /cmove-interceptor/services/{name}             what waits for a service that is not configured any more

To call services and peers it needs requests, 2.28 or newer: apt install python3-requests, or as docs/install.md says; else
nothing but Python's standard library. All keys: docs/cmove_interceptor.md.
"""

from __future__ import annotations

import json
import os

import orthanc

from common.metrics import listen_to_changes
from common.outside import requests_problem
from common.quirks import kept_alive
from common.routes import register_route, warn_if_open
from common.settings import SettingsError, is_nearly, read_settings
from common.status import register_status
from common.version import __version__  # noqa: F401 - the built file has it at its top

from .api import Routes
from .interceptor import Interceptor
from .settings import SECTION, Settings, calls_services, check_settings, holds_moves_back


def register() -> None:
    """Read the settings and register what Orthanc calls."""
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        check_settings(settings)
        if calls_services(settings) and (problem := requests_problem()):
            raise SettingsError(f"cmove_interceptor stays idle: {problem}")
        interceptor = Interceptor(settings, configuration, None)
    except (SettingsError, OSError) as error:  # OSError: a certificate can't be read (ssl.SSLError is one)
        holds = holds_moves_back([found for key, found in configuration.items() if is_nearly(key, SECTION)])
        does = "refuses every C-MOVE" if holds else "moves as Orthanc does and tells nobody"
        refusal = f"{error}. cmove_interceptor {does} until this is corrected."
        orthanc.LogError(refusal)
        return _listen(Interceptor(Settings(), configuration, refusal), Settings(), refuse=holds)
    os.environ.setdefault("TCP_NODELAY", "1")  # DCMTK reads it at each connection, in both directions
    warn_if_open("cmove_interceptor", configuration)
    if interceptor.refusal:
        orthanc.LogError(interceptor.refusal)
    return _listen(interceptor, settings, refuse=holds_moves_back(configuration.get(SECTION)))


def _listen(interceptor: Interceptor, settings: Settings, *, refuse: bool = False) -> None:
    """Register routes and callbacks; with `refuse`, those for C-MOVE too where the script is idle, which refuse it."""
    routes = Routes(interceptor, settings.mode)
    script = register_status("cmove_interceptor", interceptor.condition, routes.status, interceptor.unavailable)
    register_route("/cmove-interceptor/requests", {"GET": routes.requests}, interceptor.unavailable)
    register_route("/cmove-interceptor/services/(.+)", {"DELETE": routes.drop_service}, interceptor.unavailable)
    if interceptor.refusal:
        listen_to_changes(script)
    if interceptor.refusal and not refuse:
        return  # not registering leaves Orthanc's own C-MOVE in place
    if not interceptor.refusal:
        listen_to_changes(script, interceptor.on_change, interceptor.measure)
        orthanc.RegisterRestCallback("/jobs/([^/]+)/(pause|resume)", kept_alive(interceptor.slots.answer_person))
    # RegisterMoveCallback3 (plugin 7.0) also has the caller's address; statuses and counts are no truer with it.
    if hasattr(orthanc, "RegisterMoveCallback2"):
        orthanc.RegisterMoveCallback2(
            kept_alive(interceptor.create),
            kept_alive(interceptor.size),
            kept_alive(interceptor.apply),
            kept_alive(interceptor.free),
        )
    else:
        orthanc.RegisterMoveCallback(kept_alive(interceptor.move_synchronously))


register()
