# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/replay.py: edit that, never this file.
"""Publishes studies again, from what Orthanc has."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable

from ._common.archive import identifiers_in
from ._common.identifiers import PLURAL
from ._common.loopback import Loopback, LoopbackError
from ._common.routes import one_line
from ._common.times import orthanc_time

from .applier import Applier
from .archive import Archive
from .outbox import new_id

STUDIES_PER_PAGE = 500
MOST_INCOMPLETE = 100  # events: what happens meanwhile waits behind them
LOOK_SECONDS = 0.05  # between two looks at how many there are


class Replay:
    """Finds the studies, and publishes each in a thread of its own: its images, then its series, itself and its patient."""

    def __init__(self, applier: Applier, archive: Archive, loopback: Loopback, complain: Callable[[str], None]) -> None:
        self._applier, self._outbox, self._events = applier, applier.outbox, applier.recorder.events
        self._archive, self._loopback, self._complain = archive, loopback, complain
        self._threads: list[threading.Thread] = []

    def with_identifier(self, study: str) -> list[str]:
        """Return the study with this Orthanc identifier. Raises `LoopbackError`, with the status 404 if there is none."""
        return [self._loopback.get(f"/studies/{study}")["ID"]]

    def with_uid(self, uid: str) -> list[str]:
        """Return the studies with this StudyInstanceUID."""
        return list(self._loopback.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": uid}}))

    def changed_between(self, first: datetime.datetime, last: datetime.datetime) -> list[str]:
        """Return the studies that last changed from `first` on and before `last`, the oldest first."""
        # LastUpdate is the server's local time or UTC, as Orthanc was built; it writes UTC since 1.4, without saying so.
        low, high = orthanc_time(first), orthanc_time(last)
        chosen, since = [], 0
        while page := self._loopback.get(f"/studies?expand&since={since}&limit={STUDIES_PER_PAGE}"):
            chosen += [(each["LastUpdate"], each["ID"]) for each in page if low <= each.get("LastUpdate", "") < high]
            since += len(page)
        return [study for _, study in sorted(chosen)]

    def start(self, studies: list[str]) -> None:
        """Publish studies again; return at once."""
        thread = threading.Thread(target=self._run, args=(studies,), name="dicom_events replay", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def join(self, until: float) -> None:
        """Wait for the threads, until that time (`time.monotonic()`)."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, studies: list[str]) -> None:
        for study in studies:
            try:
                self._publish(study)
            except LoopbackError as error:
                if error.status != 404:
                    self._complain(f"dicom_events: the replay ended at study {study}: {one_line(error)}")
                    return
            except Exception as error:  # noqa: BLE001 - the end of the server, or a full disk
                self._complain(f"dicom_events: the replay ended at study {study}: {one_line(repr(error))}")
                return

    def _publish(self, study: str) -> None:
        self._applier.apply()
        series = identifiers_in(self._archive.get(f"/studies/{study}/series?expand=false"))
        for each in series:
            self._publish_instances(each)
        parent = self._archive.get(f"/studies/{study}")["ParentPatient"]
        with self._outbox.transaction():
            for level, resource in (*(("Series", each) for each in series), ("Study", study), ("Patient", parent)):
                if getattr(self._events, f"stable_{level.lower()}"):
                    kind, subject = f"dicom.{level.lower()}.stable", f"{PLURAL[level]}/{resource}"
                    self._outbox.add(new_id(), kind, resource, subject, None)

    def _publish_instances(self, series: str) -> None:
        if not self._events.stored_instance:
            return
        for instance in identifiers_in(self._archive.get(f"/series/{series}/instances?expand=false")):
            while len(self._outbox.incomplete(MOST_INCOMPLETE)) >= MOST_INCOMPLETE:
                self._archive.pause(LOOK_SECONDS)
            received = self._archive.metadata(instance).get("ReceptionDate", "")
            with self._outbox.transaction():
                uid, subject = f"{instance}.{received}", f"instances/{instance}"
                self._outbox.add(uid, "dicom.instance.stored", series, subject, None)
