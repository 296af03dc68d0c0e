# SPDX-License-Identifier: AGPL-3.0-or-later
"""Once at start: what was deleted while Orthanc was down is published, what was here before this script is kept."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable

from common.identifiers import PLURAL, UID_TAG_OF
from common.loopback import LoopbackError
from common.routes import one_line

from .applier import Applier
from .archive import Archive, StoppedError
from .events import LEVELS
from .resources import Unseen

RESOURCES_PER_PAGE = 1000
RETRY_SECONDS = 10.0
LOOK_SECONDS = 1.0  # between two looks at whether Orthanc ends
PAUSE_SECONDS = 0.01  # after a page: others use Orthanc too


class Comparison:
    """Compares the resources of the archive with those that are kept, the instances first.

    `caught_up` is set when all is published that was missed: here it would be taken for what was there before this script.
    """

    def __init__(
        self,
        applier: Applier,
        archive: Archive,
        caught_up: threading.Event,
        stopping: threading.Event,
        complain: Callable[[str], None],
    ) -> None:
        self._applier, self._recorder, self._outbox = applier, applier.recorder, applier.outbox
        self._archive, self._caught_up, self._stopping, self._complain = archive, caught_up, stopping, complain

    def run(self) -> None:
        """Compare level by level; what fails is tried again, until `stopping`."""
        events = self._recorder.events
        levels = [level for level in reversed(LEVELS) if getattr(events, f"deleted_{level.lower()}")]
        faults = 0
        while not self._caught_up.wait(LOOK_SECONDS) and not self._stopping.is_set():
            pass
        while levels and not self._stopping.is_set():
            try:
                self._compare(levels[0])
                levels.pop(0)
            except StoppedError:
                return
            except (LoopbackError, sqlite3.Error, OSError) as error:
                faults += 1
                if faults == 1:
                    self._complain(f"dicom_events compares again what is here with what it keeps: {one_line(error)}")
                self._stopping.wait(RETRY_SECONDS)
            except Exception:  # noqa: BLE001 - the others are compared all the same
                self._complain(f"dicom_events met an error, please report it:\n{traceback.format_exc()}")
                levels.pop(0)

    def _compare(self, level: str) -> None:
        with contextlib.closing(self._outbox.reader()) as reader:
            self._compare_with(Unseen(reader, level), level)

    def _compare_with(self, unseen: Unseen, level: str) -> None:
        since = 0
        while here := self._archive.get(f"/{PLURAL[level]}?since={since}&limit={RESOURCES_PER_PAGE}"):
            self._applier.apply()
            if unknown := unseen.see(here):
                self._keep(level, since, unknown)
            since += len(here)
            self._stopping.wait(PAUSE_SECONDS)
        for resource in unseen.left():
            # It may have been skipped while others were deleted, or have been deleted and stored since: ask for it alone.
            if not self._archive.exists(level, resource):
                with self._applier.up_to_date() as recorder:
                    if recorder.resources.is_kept(level, resource):
                        recorder.deleted(level, resource, time.time())

    def _keep(self, level: str, since: int, wanted: set[str]) -> None:
        depth = LEVELS.index(level)
        for each in self._archive.get(f"/{PLURAL[level]}?since={since}&limit={RESOURCES_PER_PAGE}&expand"):
            if each["ID"] in wanted:
                parent = each.get(f"Parent{LEVELS[depth - 1]}") if depth else None
                uid = each.get("MainDicomTags", {}).get(UID_TAG_OF[level], "")
                self._recorder.resources.keep_former(level, each["ID"], uid, parent)
