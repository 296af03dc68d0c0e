# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script from its start to its stop: callbacks, and the one thread that writes what they took."""

from __future__ import annotations

import http
import time
from collections.abc import Mapping
from typing import Any

import orthanc

from common.ledger import Ledger
from common.loopback import Loopback, LoopbackError
from common.routes import one_line
from common.worker import Worker

from .archive import Archive
from .entries import Entry, Wanted
from .follower import Follower
from .known_series import KnownSeries
from .settings import Settings
from .stored import Report, StoredInstances
from .values import Reading
from .writer import Writer

REPORTS_PER_BATCH = 1000
MOST_COUNTED = 10_000  # series of the list, for the metric
PAUSE_SECONDS = 0.3  # between turns while instances arrive: what belongs together is written together
IDLE_SECONDS = 10.0  # between turns when nothing arrives
FOLLOW_SECONDS = 2.0  # between looks at the log of changes while instances arrive
# Of a series that has a file which Orthanc can't read (it is gone from the disk): the others go on. Of so many, the whole
# storage is away: all wait.
LATER_SECONDS, MAX_LATER = 3600.0, 100
LEVEL_OF_SERIES = 2  # as OnChange numbers them


class PrivateTags:
    """Keeps the tags of each series as its metadata, and what is known of it in the ledger.

    What the callback took is written by one thread, which then follows Orthanc's log of changes. In between, it catches
    up with what was there before.
    """

    def __init__(self, settings: Settings, wanted: Wanted, metadata: str, configuration: Mapping[str, Any]) -> None:
        self._settings, self._wanted = settings, wanted
        reading = Reading(settings.maximum_length, str(configuration.get("DefaultEncoding", "Latin1")))
        self.archive = Archive(Loopback(configuration), metadata, reading)
        self.known_series = KnownSeries(settings, wanted, configuration)
        self.stored = StoredInstances(wanted, reading)
        self._writer = Writer(wanted, self.known_series, self.archive)
        self._follower = Follower(wanted, self.known_series, self.archive, self._writer)
        self._has_begun, self._followed = False, 0.0
        # Series whose files can't be read, and when (monotonic) they are tried again.
        self._later: dict[str, float] = {}
        self.worker = Worker("series_private_tags", self._open, self._turn)
        self._wake, self._stopping = self.worker.wake, self.worker.stopping
        change = orthanc.ChangeType
        self._started, self._stopped, self._deleted = (
            int(change.ORTHANC_STARTED), int(change.ORTHANC_STOPPED), int(change.DELETED))  # fmt: skip

    # What Orthanc reports: return at once

    def on_stored(self, dicom: Any, instance: str) -> None:
        """Take the tags that are new to the series out of the instance."""
        if not self.worker.is_off and self.stored.add(dicom, instance) and not self._wake.is_set():
            self._wake.set()

    def on_change(self, change: int, level: int, resource: str) -> None:
        """Start, stop, or take that a series was deleted."""
        if change == self._deleted and level == LEVEL_OF_SERIES and not self.worker.is_off:
            self.stored.add_deleted(resource)
            self._wake.set()
        elif change == self._started:
            self.worker.start()
        elif change == self._stopped:
            self.worker.stop()

    def measure(self) -> dict[str, float]:
        """Return its metrics."""
        return {"waiting": len(self.stored), "to_look_at": self.known_series.count_todo(MOST_COUNTED)}

    # The one thread

    def _open(self) -> Ledger:
        if not self.archive.loopback.enabled:
            raise ValueError('it needs Orthanc\'s HTTP server ("HttpServerEnabled": true)')
        return self.known_series.open()

    def _turn(self) -> float:
        if not self._has_begun:
            self._begin()
            self._has_begun = True
        if self.stored:
            self._stopping.wait(PAUSE_SECONDS)
            self._wake.clear()
        self._write_and_follow()
        while not self._stopping.is_set() and not self._wake.is_set() and self._catch_up():
            pass
        return FOLLOW_SECONDS if self._follower.is_behind else IDLE_SECONDS

    def _begin(self) -> None:
        """Take the place in the log of changes; put all series on the list, but for those that were looked at for these tags."""
        self._follower.begin(self.archive.newest_change())
        if self._settings.catch_up and not self.known_series.is_listed():
            self.known_series.list_all(self.archive.all_series())

    def _write_and_follow(self) -> None:
        """Write what was taken; then follow the log of changes."""
        while self.stored and not self._stopping.is_set():
            self.stored.write_first(REPORTS_PER_BATCH, self._write)
        if self._settings.reconcile and time.monotonic() - self._followed > FOLLOW_SECONDS - PAUSE_SECONDS:
            self._followed = time.monotonic()
            while self._follower.follow() and not self._stopping.is_set():
                pass

    def _write(self, batch: list[Report]) -> None:
        found: dict[str, dict[str, Any]] = {}
        for instance, series, values in batch:
            if not instance:
                found.pop(series, None)  # values of what was deleted; `_forget` looks at what is here
                self._forget(series)
                continue
            if values is None:
                series, values = self._follower.read(instance)
            self._follower.add_taken(instance)
            if values:
                found[series] = {**values, **found.get(series, {})}  # what came first stays
        for series, values in found.items():
            self._writer.complete(series, values)

    def _forget(self, series: str) -> None:
        """Forget a deleted series; look at it if it is here again: what came before this event counts for nothing."""
        with self.known_series.ledger.transaction():
            self.known_series.forget(series)
            if self.archive.has("series", series):
                self.known_series.look_again(series)

    def _catch_up(self) -> bool:
        """Look at one series of the list; return whether there was one."""
        self._later = {series: at for series, at in self._later.items() if at > time.monotonic()}
        if not (waiting := self.known_series.next_to_look_at(self._later)):
            return False
        series, missing = waiting
        try:
            values = self._read_series(series, missing)
        except LoopbackError as error:
            if error.status < http.HTTPStatus.INTERNAL_SERVER_ERROR or len(self._later) >= MAX_LATER:
                raise
            self._later[series] = time.monotonic() + LATER_SECONDS
            orthanc.LogWarning(f"series_private_tags looks at series {series} again in an hour: {one_line(error)}")
            return True
        if self._stopping.is_set():
            return True
        with self.known_series.ledger.transaction():
            self._writer.complete(series, values, was_looked_at=True)
            self.known_series.was_looked_at(series)
        return True

    def _read_series(self, series: str, missing: Mapping[str, Entry]) -> dict[str, Any]:
        """Return what the instances of a series have of the entries that it lacks; not of all, if Orthanc stops."""
        values: dict[str, Any] = {}
        for instance in self.archive.instances_of(series) if missing else []:
            if self._stopping.is_set():
                break
            if self.stored:
                self._write_and_follow()
            wanted = Wanted([entry for key, entry in missing.items() if key not in values])
            values |= self.archive.read(instance, wanted)[1]
            if len(values) == len(missing):
                break
        return values
