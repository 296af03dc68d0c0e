# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc calls: the callbacks, and how the outbox is opened when the first event comes."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import types
from collections import deque
from typing import Any

import orthanc

from common.backoff import Pauses
from common.loopback import Loopback
from common.quirks import KEPT_ALIVE
from common.routes import Refused, one_line, register_route, warn_if_open
from common.settings import SettingsError, read_settings
from common.state import StateBusyError
from common.status import IDLE, RUNNING, WAITING, Condition, misconfigured, register_status
from common.worker import FIRST_RETRY, LONGEST_RETRY, Trouble

from .changes import KNOWN_CHANGES
from .images import Tags
from .intake import KEPT_CHANGES
from .named import Named, read_brokers
from .outbox import new_id
from .own import json_of_event
from .pipeline import STOP_WITHIN_SECONDS, Pipeline
from .routes import HANDLERS, Routes
from .settings import SECTION, Settings

TAG_KEYS = {
    "Instance": "stored_instance_publish_tags",
    "Series": "stable_series_publish_tags",
    "Study": "stable_study_publish_tags",
    "Patient": "stable_patient_publish_tags",
}


class Service:
    """The script: it registers callbacks and routes, and opens the pipeline behind them."""

    def __init__(self) -> None:
        self._configuration: dict[str, Any] = json.loads(orthanc.GetConfiguration())
        self._settings, self._brokers = Settings(), list[Named]()
        self._tags: dict[str, Tags] = {}
        self._loopback = Loopback(self._configuration)
        self._routes = Routes(self._running)
        self._unavailable: str | None = None  # why the script is idle until Orthanc is restarted
        self._closed: str | None = None  # why the outbox can't be opened now
        self._opening, self._saying, self._stopped = threading.RLock(), threading.Lock(), False
        self._is_waiting = False  # for another process that has the outbox
        self._last_error: tuple[str, float] | None = None  # and when, in seconds since 1970
        self._pipeline: Pipeline | None = None
        self._trouble, self._ending = Trouble("dicom_events"), threading.Event()
        self._opener: threading.Thread | None = None
        self._early: deque[tuple[str, int, str]] = deque(maxlen=KEPT_CHANGES)  # changes before the outbox is open
        self._has_started = False

    # Registering

    def register(self) -> None:
        """Read the settings, register the routes, and the callbacks if there is something to do."""
        try:
            self._settings = read_settings(Settings, SECTION, self._configuration)
            self._tags = {level: self._read_tags(key) for level, key in TAG_KEYS.items()}
            self._brokers = read_brokers(self._settings)
        except SettingsError as error:
            self._be_idle(f"{error}. dicom_events is idle until this is corrected.")
        if self._unavailable is None and not self._loopback.enabled:
            self._be_idle('dicom_events stays idle: it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        register_status("dicom_events", self.condition, self._routes.get_status, self._open)
        for path, handlers in HANDLERS.items():
            bound = {method: types.MethodType(handler, self._routes) for method, handler in handlers.items()}
            register_route(path, bound, lambda: self._unavailable or self._closed)
        if self._unavailable is None:
            warn_if_open("dicom_events", self._configuration)
            for named in self._brokers:
                if named.complaint:
                    orthanc.LogError(f"{named.complaint}. This broker is off until this is corrected.")
            KEPT_ALIVE.extend((self.on_change, self.on_stored_instance))
            orthanc.RegisterOnChangeCallback(self.on_change)
            orthanc.RegisterOnStoredInstanceCallback(self.on_stored_instance)

    def _read_tags(self, key: str) -> Tags:
        try:
            return Tags(getattr(self._settings.events, key))
        except ValueError as error:
            name = "".join(word.capitalize() for word in key.split("_"))
            raise SettingsError(
                f"{SECTION}.Events.{name}: found {json.dumps(str(error))}, allowed: keywords that Orthanc knows, or gggg,eeee"
            ) from None

    def _be_idle(self, reason: str) -> None:
        orthanc.LogError(reason)
        self._unavailable = reason

    # What Orthanc calls

    def on_change(self, change: int, level: int, resource: str) -> None:
        if change not in KNOWN_CHANGES:  # three in four that come with an image
            return
        name = KNOWN_CHANGES[change]
        if name == "ORTHANC_STOPPED":
            self._ending.set()
            if self._opener:
                self._opener.join(STOP_WITHIN_SECONDS)
        pipeline = self._open()
        if pipeline is None:
            with self._opening:  # it may be opened just now
                if (pipeline := self._pipeline) is None:
                    self._early.append((name, level, resource))
                    self._has_started = self._has_started or name == "ORTHANC_STARTED"
        if pipeline is not None:
            if name == "ORTHANC_STARTED":
                pipeline.start()
            pipeline.intake.on_change(name, level, resource)
            if name == "ORTHANC_STOPPED":
                pipeline.stop()
                with self._saying:
                    self._stopped = True  # an SDK call after ORTHANC_STOPPED would crash Orthanc

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        if pipeline := self._open():
            pipeline.intake.on_stored_instance(dicom, instance)

    def publish(self, kind: str, data: Any, subject: str) -> str:
        """Write an event of a user's own down; it is on disk when this returns. Return its `id`.

        Raises
        ------
        ValueError : the type, the subject or the data is something that no broker takes (`own.py`).
        RuntimeError : this script is idle, or the outbox can't be written, or is full and takes nothing.
        """
        text, uid = json_of_event(kind, data, subject), new_id()
        if not (pipeline := self._open()):
            raise RuntimeError(self._unavailable or self._closed)
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
        if pipeline := self._pipeline:
            return Condition(RUNNING, pipeline.problem, self._last_error)
        state = WAITING if self._is_waiting else IDLE
        return Condition(state, self._closed or "dicom_events has not started yet", self._last_error)

    def _running(self) -> Pipeline:
        if not (pipeline := self._open()):
            raise Refused(503, self._unavailable or self._closed or "dicom_events has not started")
        return pipeline

    def _say(self, level: str, text: str) -> None:
        with self._saying:
            if level == "error":
                self._last_error = one_line(text.partition("\n")[0]), time.time()
            if not self._stopped:
                (orthanc.LogError if level == "error" else orthanc.LogWarning)(text)

    # Opening

    def _open(self) -> Pipeline | None:
        """Return the pipeline; its file is opened when the first event comes, which may be before ORTHANC_STARTED."""
        if self._pipeline is None and self._unavailable is None and self._opener is None:
            with self._opening:
                if self._pipeline is None and self._opener is None and not self._try_to_open():
                    self._opener = threading.Thread(target=self._open_later, name="dicom_events opens", daemon=True)
                    self._opener.start()
        return self._pipeline

    def _open_later(self) -> None:
        """Open the outbox when it can be opened: instances that were missed are found in /changes, changes were kept."""
        pauses = Pauses(FIRST_RETRY, LONGEST_RETRY)
        while not self._ending.wait(pauses.next()):
            with self._opening:
                if not self._try_to_open():
                    continue
                assert self._pipeline
                if self._has_started:
                    self._pipeline.start()
                while self._early:
                    self._pipeline.intake.on_change(*self._early.popleft())
                return

    def _try_to_open(self) -> bool:
        try:
            self._pipeline = Pipeline(
                *(self._settings, self._brokers, self._tags, self._configuration, self._loopback, self._say)
            )
        except (OSError, sqlite3.Error) as error:
            why = one_line(error)
            self._closed = f"dicom_events is idle until this is over: {why}"
            self._is_waiting = isinstance(error, StateBusyError)
            if not self._ending.is_set():
                log = orthanc.LogWarning if isinstance(error, StateBusyError) else orthanc.LogError
                self._trouble.begins(self._closed, why, log)
                self._last_error = self._trouble.last
            return False
        self._closed = None
        self._trouble.is_over()
        return True
