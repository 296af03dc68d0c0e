# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script from its start to its stop, and what Orthanc reports in between."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import orthanc

from common.loopback import Loopback
from common.status import IDLE, RUNNING, Condition, refused

from .archive import Archive
from .cache import Cache
from .chooser import Chooser
from .drawing import DrawingPool
from .options import RenderOptions
from .renderer import Renderer
from .routes import Routes
from .settings import DEFAULT_QUALITY, JPEG, Settings

STARTS_WITHIN_SECONDS = 5.0  # that a request waits for the script
LEVEL_OF_SERIES = 2  # as OnChange numbers them
MAX_CACHE_BYTES = 64e6  # of pictures that are asked for often
DRAWING_THREADS = 4  # for those who ask
SPARE_HTTP_THREADS = 3  # of Orthanc's, that neither wait for pictures nor serve what draws them


class Thumbnails:
    """Makes the parts of the script, starts and stops them, and hands on what Orthanc reports."""

    def __init__(
        self, settings: Settings, loopback: Loopback, chosen: str, kept: str, configuration: Mapping[str, Any]
    ) -> None:
        self.unavailable: str | None = "series_thumbnail has not started yet"
        self._settings = settings
        self._http_threads = int(configuration.get("HttpThreadsCount", 50))
        # Each picture that is waited for holds one of Orthanc's HTTP threads, and what draws it needs others.
        threads = min(DRAWING_THREADS, max(1, self._http_threads // 4))
        self._max_waiting = self._http_threads - threads - SPARE_HTTP_THREADS
        self._renderer = Renderer(loopback)
        kept_options = RenderOptions(settings.size, JPEG, DEFAULT_QUALITY)
        chooser = Chooser(loopback, self._renderer, chosen, kept, kept_options)
        cache, archive = Cache(MAX_CACHE_BYTES), Archive(loopback)
        self._pool = DrawingPool(chooser, cache, archive, threads, self._max_waiting)
        self.routes = Routes(settings, self._pool, cache, archive, self._renderer)
        self._is_decided, self._is_off = threading.Event(), False  # whether it has started or can't; whether it can't
        change = orthanc.ChangeType
        self._forgets = {int(change.NEW_INSTANCE), int(change.NEW_CHILD_INSTANCE), int(change.DELETED)}
        self._started, self._stopped = int(change.ORTHANC_STARTED), int(change.ORTHANC_STOPPED)
        self._grows, self._stable = int(change.NEW_CHILD_INSTANCE), int(change.STABLE_SERIES)

    def on_change(self, change: int, level: int, resource: str) -> None:
        """Take what Orthanc reports; return at once."""
        if change in self._forgets:
            self._renderer.forget(resource)
            self._pool.forget(resource, change == self._grows and level == LEVEL_OF_SERIES)
        elif change == self._stable and self.unavailable is None:
            if self._settings.make_ahead:
                self._pool.background.add(resource)
            else:
                self._pool.accept_kept(resource)
        elif change == self._started:
            try:
                self._start()
            finally:
                self._is_decided.set()
        elif change == self._stopped:
            self._stop()

    def why_not(self) -> str | None:
        """Return why the routes can't answer, or None; Orthanc answers requests a moment before it says that it has started."""
        self._is_decided.wait(STARTS_WITHIN_SECONDS)
        return self.unavailable

    def condition(self) -> Condition:
        """Return whether the script works."""
        if reason := self.unavailable:
            return refused(reason) if self._is_off else Condition(IDLE, reason)
        return Condition(RUNNING)

    def _start(self) -> None:
        if self._max_waiting < 1:
            self._is_off = True
            self.unavailable = (
                f"series_thumbnail stays idle: HttpThreadsCount is {self._http_threads}, allowed: at least 5"
            )
            orthanc.LogError(self.unavailable)
            return
        self._pool.start()
        self.unavailable = None

    def _stop(self) -> None:
        was_running = self.unavailable is None
        self.unavailable = "series_thumbnail has stopped"
        if was_running:
            self._pool.stop()
