# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/service.py: edit that, never this file.
"""What Orthanc calls: the callbacks, and the thread that opens the outbox."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import types
from collections.abc import Iterator
from typing import Any

import orthanc

from ._common.database import shared_database_of
from ._common.http_threads import HttpTurns
from ._common.metrics import listen_to_changes
from ._common.quirks import kept_alive
from ._common.routes import Refused, register_route, warn_if_open
from ._common.settings import SettingsError, read_settings
from ._common.status import IDLE, RUNNING, STANDBY, WAITING, Condition, misconfigured, register_status

from .changes import KNOWN_CHANGES
from .images import Tags
from .named import read_brokers
from .opening import Opener
from .outbox import new_id
from .own import json_of_event
from .pipeline import Pipeline
from .reports import EarlyReports, Reports
from .routes import HANDLERS, Routes
from .settings import SECTION, Settings

TAG_KEYS = {
    "Instance": "stored_instance_publish_tags",
    "Series": "stable_series_publish_tags",
    "Study": "stable_study_publish_tags",
    "Patient": "stable_patient_publish_tags",
}


class Service(Opener):
    """The script: it registers callbacks and routes, and the pipeline is opened behind them."""

    def __init__(self) -> None:
        super().__init__()
        self._routes = Routes(self._running, HttpTurns(self._configuration))

    # Registering

    def register(self) -> None:
        """Read the settings, register the routes, and the callbacks if there is something to do."""
        try:
            self._settings = read_settings(Settings, SECTION, self._configuration)
            self._tags = {level: _read_tags(self._settings, key) for level, key in TAG_KEYS.items()}
            self._brokers = read_brokers(self._settings)
            self._early = EarlyReports(self._settings.events, self._tags)
            self._database = shared_database_of(
                self._configuration,
                self._settings.state_path,
                reconcile=self._settings.reconcile,
                section=SECTION,
            )
            if self._database:
                self._settings = dataclasses.replace(self._settings, reconcile=True)
        except SettingsError as error:
            self._be_idle(f"{error}. dicom_events is idle until this is corrected.")
        if self._unavailable is None and not self._loopback.enabled:
            self._be_idle('dicom_events stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        script = register_status("dicom_events", self.condition, self._routes.get_status, self._open)
        for path, handlers in HANDLERS.items():
            bound = {method: types.MethodType(handler, self._routes) for method, handler in handlers.items()}
            register_route(path, bound, lambda: self._unavailable or self._closed)
        if self._unavailable is None:
            warn_if_open("dicom_events", self._configuration)
            for named in self._brokers:
                if named.complaint:
                    orthanc.LogError(f"{named.complaint}. This broker is off until this is corrected.")
            orthanc.RegisterOnStoredInstanceCallback(kept_alive(self.on_stored_instance))
            listen_to_changes(script, self.on_change, lambda: self._running().measure())
        else:
            listen_to_changes(script)

    def _be_idle(self, reason: str) -> None:
        orthanc.LogError(reason)
        self._unavailable = reason

    # What Orthanc calls

    def on_change(self, change: int, level: int, resource: str) -> None:
        if change not in KNOWN_CHANGES:  # three in four that come with an image
            return
        name = KNOWN_CHANGES[change]
        if name == "ORTHANC_STARTED":
            self._begin_to_open()
            self._start(has_started=True)
        elif name == "ORTHANC_STOPPED":
            self._stop_opening()
        with self._reports() as reports:
            reports.on_change(name, level, resource)
        if name == "ORTHANC_STOPPED":
            if self._pipeline and self._is_running:
                self._pipeline.stop()
            with contextlib.suppress(OSError):
                self._end_relay()
            with self._saying:
                self._stopped = True  # an SDK call after ORTHANC_STOPPED would crash Orthanc

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        with self._reports() as reports:
            reports.on_stored_instance(dicom, instance)

    @contextlib.contextmanager
    def _reports(self) -> Iterator[Reports]:
        """Give what takes a report: the intake, or, until there is one, the memory, which nobody empties meanwhile."""
        if self._pipeline is None:
            with self._handing_over:
                if self._pipeline is None:
                    yield self._shared.relay or self._early
                    return
        yield self._pipeline.intake

    def publish(self, kind: str, data: Any, subject: str) -> str:
        """Write an event of a user's own down; it is on disk when this returns. Return its `id`.

        Raises
        ------
        ValueError : the type, the subject or the data is something that no broker takes (`own.py`).
        RuntimeError : this script is idle, or the outbox can't be written, or is full and takes nothing.
        """
        text, uid = json_of_event(kind, data, subject), new_id()
        if not (pipeline := self._open()):
            raise RuntimeError(self._unavailable or self._closed or "the outbox is not open yet")
        try:
            with pipeline.outbox.transaction():
                is_taken = pipeline.outbox.add(uid, kind, subject, subject, text)
        except (sqlite3.Error, OSError) as error:
            raise RuntimeError(f"the event could not be written down: {error}") from error
        if not is_taken:
            raise RuntimeError("the event was refused: the outbox is full (DicomEvents.Outbox)")
        return uid

    def condition(self) -> Condition:
        """Return whether the script works; waits for nothing."""
        if self._unavailable:
            return misconfigured(self._unavailable)
        server = self._database.server if self._database else None
        if pipeline := self._pipeline:
            return Condition(RUNNING, pipeline.problem, self._last_error, server=server, worked_by=server)
        if worked_by := self._shared.worked_by:
            return Condition(STANDBY, self._closed, server=server, worked_by=worked_by)
        state = WAITING if self._is_waiting else IDLE
        return Condition(state, self._closed or "dicom_events has not started yet", self._last_error, server=server)

    def _running(self) -> Pipeline:
        if not (pipeline := self._open()):
            raise Refused(503, self._unavailable or self._closed or "dicom_events has not opened its outbox yet")
        return pipeline


def _read_tags(settings: Settings, key: str) -> Tags:
    try:
        return Tags(getattr(settings.events, key))
    except ValueError as error:
        name = "".join(word.capitalize() for word in key.split("_"))
        raise SettingsError(
            f"{SECTION}.Events.{name}: found {json.dumps(str(error))}, allowed: keywords that Orthanc knows, or gggg,eeee"
        ) from None
