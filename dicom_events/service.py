# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/service.py: edit that, never this file.
"""What Orthanc calls: the callbacks, and the thread that opens the outbox."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import traceback
import types
from collections.abc import Iterator
from typing import Any

import orthanc

from ._common.backoff import Pauses
from ._common.http_threads import HttpTurns
from ._common.loopback import Loopback
from ._common.metrics import listen_to_changes
from ._common.quirks import kept_alive
from ._common.routes import Refused, one_line, register_route, warn_if_open
from ._common.settings import SettingsError, read_settings
from ._common.state import StateBusyError
from ._common.status import IDLE, RUNNING, WAITING, Condition, misconfigured, register_status
from ._common.worker import FIRST_RETRY, LONGEST_RETRY, STARTS_WITHIN, Trouble, first_line

from .changes import KNOWN_CHANGES
from .images import Tags
from .named import Named, read_brokers
from .outbox import new_id
from .own import json_of_event
from .pipeline import STOP_WITHIN_SECONDS, Pipeline
from .reports import EarlyReports, Reports
from .routes import HANDLERS, Routes
from .settings import SECTION, Settings

OPENS_WITHIN_SECONDS = (
    10.0  # that the end of Orthanc waits for an outbox that is just being opened, if events are in memory
)
EARLY_AT_ONCE = 20  # lines that are journaled while callbacks wait
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
        self._routes = Routes(self._running, HttpTurns(self._configuration))
        self._unavailable: str | None = None  # why the script is idle until Orthanc is restarted
        self._closed: str | None = None  # why the outbox can't be opened now
        self._opening, self._handing_over = threading.Lock(), threading.Lock()
        self._is_tried = False  # whether the outbox is open, or can't be opened now
        self._decision = threading.Condition()
        self._saying, self._stopped = threading.Lock(), False
        self._is_waiting = False  # for another process that has the outbox
        self._last_error: tuple[str, float] | None = None  # and when, in seconds since 1970
        self._pipeline: Pipeline | None = None
        self._trouble, self._ending = Trouble("dicom_events"), threading.Event()
        self._opener: threading.Thread | None = None
        self._early = EarlyReports(self._settings.events, self._tags)  # before the outbox is open
        self._has_started = self._is_running = False

    # Registering

    def register(self) -> None:
        """Read the settings, register the routes, and the callbacks if there is something to do."""
        try:
            self._settings = read_settings(Settings, SECTION, self._configuration)
            self._tags = {level: _read_tags(self._settings, key) for level, key in TAG_KEYS.items()}
            self._brokers = read_brokers(self._settings)
            self._early = EarlyReports(self._settings.events, self._tags)
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
                    yield self._early
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
        if pipeline := self._pipeline:
            return Condition(RUNNING, pipeline.problem, self._last_error)
        state = WAITING if self._is_waiting else IDLE
        return Condition(state, self._closed or "dicom_events has not started yet", self._last_error)

    def _running(self) -> Pipeline:
        if not (pipeline := self._open()):
            raise Refused(503, self._unavailable or self._closed or "dicom_events has not opened its outbox yet")
        return pipeline

    def _say(self, level: str, text: str) -> None:
        with self._saying:
            if level == "error":
                self._last_error = one_line(first_line(text)), time.time()
            if not self._stopped:
                (orthanc.LogError if level == "error" else orthanc.LogWarning)(text)

    # Opening

    def _start(self, *, has_started: bool = False) -> None:
        with self._opening:
            self._has_started = self._has_started or has_started
            if self._pipeline and self._has_started and not self._is_running and not self._ending.is_set():
                self._is_running = True
                self._pipeline.start()

    def _stop_opening(self) -> None:
        """End the thread that opens; give it the time that it needs, if what happened meanwhile is in memory only."""
        self._ending.set()
        if self._opener:
            self._opener.join(OPENS_WITHIN_SECONDS if len(self._early) else STOP_WITHIN_SECONDS)

    def _open(self) -> Pipeline | None:
        """Return the pipeline; begin to open it, if nobody has, and wait for the first try. No callback waits here."""
        if self._pipeline is None and self._unavailable is None:
            self._begin_to_open()
            with self._decision:
                self._decision.wait_for(lambda: self._is_tried, STARTS_WITHIN)
        return self._pipeline

    def _begin_to_open(self) -> None:
        """Open the outbox in a thread: a large one takes long, and a callback that waits for it holds up every store."""
        with self._opening:
            if self._opener is None:
                self._opener = threading.Thread(target=self._open_until_it_is, name="dicom_events opens", daemon=True)
                self._opener.start()

    def _open_until_it_is(self) -> None:
        """Open the outbox when it can be opened: what is reported until then is in memory."""
        pauses = Pauses(FIRST_RETRY, LONGEST_RETRY)
        while (pipeline := self._try_to_open()) is None:
            self._decide()
            if self._ending.wait(pauses.next()):
                return
        pipeline.intake.take_early(self._early, EARLY_AT_ONCE)
        with self._handing_over:  # the last few, while none is added
            pipeline.intake.take_early(self._early)
            self._pipeline = pipeline
        self._decide()
        self._start()

    def _decide(self) -> None:
        with self._decision:
            self._is_tried = True
            self._decision.notify_all()

    def _try_to_open(self) -> Pipeline | None:
        try:
            pipeline = Pipeline(
                *(self._settings, self._brokers, self._tags, self._configuration, self._loopback, self._say)
            )
        except (OSError, sqlite3.Error) as error:
            self._on_not_opened(one_line(error), is_busy=isinstance(error, StateBusyError))
            return None
        except Exception:  # noqa: BLE001 - whatever it is, it may be over the next time
            self._on_not_opened(f"an error, please report it:\n{traceback.format_exc()}")
            return None
        self._closed = None
        if not self._ending.is_set():
            self._trouble.is_over()
        return pipeline

    def _on_not_opened(self, why: str, *, is_busy: bool = False) -> None:
        text = f"dicom_events is idle until this is over: {why}"
        self._closed, self._is_waiting = first_line(text), is_busy
        if not self._ending.is_set():
            self._trouble.begins(text, why, orthanc.LogWarning if is_busy else orthanc.LogError)
            self._last_error = self._trouble.last


def _read_tags(settings: Settings, key: str) -> Tags:
    try:
        return Tags(getattr(settings.events, key))
    except ValueError as error:
        name = "".join(word.capitalize() for word in key.split("_"))
        raise SettingsError(
            f"{SECTION}.Events.{name}: found {json.dumps(str(error))}, allowed: keywords that Orthanc knows, or gggg,eeee"
        ) from None
