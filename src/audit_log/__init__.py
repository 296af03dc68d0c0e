# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes down what happens to studies: received, sent, moved, modified, anonymized, deleted, asked for over REST.

One line of JSON each, in files that are only appended to. Each line carries an HMAC over itself and that of the line before, so
that a changed or a missing line shows; the newest one, kept elsewhere, shows a log that was cut. It decides nothing about access.

A smallest configuration (without the section, the key is made and kept in the folder of the index):

    "AuditLog": {"Key": "${AUDIT_LOG_KEY}", "Path": "/var/log/orthanc-audit"}

With curl, and to verify without Orthanc:

    GET /audit-log?patient=…&since=20240101       also study=, event=, until=, after=, limit=
    GET /audit-log/newest                         {"Number": …, "Mac": …}: to be kept elsewhere
    GET /audit-log/status
    AUDIT_LOG_KEY=… python3 audit_log.py --verify FOLDER [--newest NUMBER:MAC]

Needs nothing but Python's standard library. All keys, and what each line says: docs/audit_log.md.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types

if __name__ == "__main__":  # the built file as a program: to verify a log takes no Orthanc
    sys.modules.setdefault("orthanc", types.ModuleType("orthanc"))

import orthanc

from common.metrics import listen_to_changes
from common.own_requests import listen_to_requests
from common.quirks import kept_alive
from common.routes import register_route, warn_if_open
from common.settings import SettingsError, read_settings
from common.status import Condition, condition_of, register_status
from common.version import __version__  # noqa: F401 - the built file has it at its top
from common.worker import first_line

from .api import Routes
from .recorder import Recorder
from .settings import SECTION, Settings
from .verification import main


def register() -> None:
    """Read the settings and register what Orthanc calls; as a program, verify."""
    if __name__ == "__main__":
        sys.exit(main(sys.argv[1:]))
    configuration = json.loads(orthanc.GetConfiguration())
    refusal, settings = None, Settings()
    try:
        settings = read_settings(Settings, SECTION, configuration)
        settings.check()
    except SettingsError as error:
        refusal = f"{error}. audit_log is idle until this is corrected."
        orthanc.LogError(refusal)
    recorder = Recorder(settings, configuration)
    routes = Routes(recorder)

    def unavailable() -> str | None:
        return refusal or recorder.worker.why_not()

    def look() -> Condition:
        found = condition_of(recorder.worker, refusal)
        away = first_line(recorder.sender.trouble.text) if recorder.sender else ""
        return dataclasses.replace(found, reason=found.reason or away or None)

    for pattern, handler in {"": routes.page, "/newest": routes.newest}.items():
        register_route(f"/audit-log{pattern}", {"GET": handler}, unavailable)
    script = register_status("audit_log", look, routes.status, unavailable, routes="/audit-log/routes")
    if refusal is not None:
        listen_to_changes(script)
        return
    warn_if_open("audit_log", configuration)
    listen_to_changes(script, recorder.on_change, recorder.measure)
    orthanc.RegisterOnStoredInstanceCallback(kept_alive(recorder.on_stored))
    listen_to_requests(recorder.on_own_request)
    # The plugin's filter loses 820 bytes of memory a request before 5.0, which brought StartStreamAnswer.
    recorder.watches_requests = settings.watch_requests is True or (
        settings.watch_requests is None and hasattr(orthanc.RestOutput, "StartStreamAnswer")
    )
    if recorder.watches_requests:
        orthanc.RegisterIncomingHttpRequestFilter(kept_alive(recorder.on_request))


register()
