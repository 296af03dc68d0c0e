# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/completion.py: edit that, never this file.
"""Gives events their data: what a callback did not know of a resource or a job is read from Orthanc."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ._common.identifiers import PLURAL

from .archive import Archive, origin_in
from .events import about
from .outbox import Outbox
from .recorder import Recorder
from .resources import Kept

PARENTS_WITHIN_SECONDS = 2.0  # that a New… event waits for the instance that it came with
EVENTS_PER_TURN = 200


class Completer:
    """Completes the events of the outbox, the oldest first."""

    def __init__(self, outbox: Outbox, recorder: Recorder, archive: Archive) -> None:
        self._outbox, self._recorder, self._archive = outbox, recorder, archive

    def complete(self) -> bool:
        """Complete some events; return whether there may be more that can be completed now."""
        rows = self._outbox.incomplete(EVENTS_PER_TURN)
        for row in rows:
            route, _, resource = row["subject"].partition("/")
            if route == "jobs":
                key, data = row["key"], self._job(resource)
            else:
                level = next(level for level, name in PLURAL.items() if name == route)
                found = self._resource(row, level, resource)
                if found is None:
                    return False
                key, data = found
            self._outbox.complete(row["row"], key, json.dumps(data))
        return len(rows) == EVENTS_PER_TURN

    def _job(self, job: str) -> dict[str, Any]:
        found = self._archive.get_or_none(f"/jobs/{job}") or {}  # it may be forgotten already (JobsHistorySize)
        names = {"Type": "type", "State": "state", "ErrorCode": "errorCode", "ErrorDescription": "error"}
        return {"job": job, **{name: found[key] for key, name in names.items() if key in found}}

    def _resource(self, row: Mapping[str, Any], level: str, resource: str) -> tuple[str, dict[str, Any]] | None:
        """Return key and data of an event about a resource; None: its first instance is being written down, ask again."""
        what = row["type"].rpartition(".")[2]
        if what == "stored":
            return self._stored(row["key"], resource)
        kept = self._recorder.resources.kept(level, resource)
        if not kept.complete:
            if what == "new" and time.time() - row["created"] < PARENTS_WITHIN_SECONDS:
                return None
            kept = self._archive.look_up(level, resource) or kept
        if what != "stable":
            return kept.key, about(level, kept.orthanc_ids, kept.dicom_ids, origin=kept.origin)
        wanted, tags = self._recorder.tags[level], kept.tags
        if wanted and tags is None:
            tags = wanted.of(self._archive.tags_of_first(level, resource))
        data = about(
            *(level, kept.orthanc_ids, kept.dicom_ids),
            origin=kept.origin,
            counts=self._archive.counts(level, resource),
            tags=tags if wanted else None,
        )
        return kept.key, data

    def _stored(self, series: str, instance: str) -> tuple[str, dict[str, Any]]:
        """Return key and data of the event of an image that is published from what Orthanc has."""
        kept = self._recorder.resources.kept("Series", series)
        if kept.complete:
            found = self._archive.get_or_none(f"/instances/{instance}") or {}
            uid = found.get("MainDicomTags", {}).get("SOPInstanceUID")
            kept = Kept((*kept.dicom_ids, uid), (*kept.orthanc_ids, instance))
        else:
            kept = self._archive.look_up("Instance", instance) or Kept((None,) * 4, (instance,))
        wanted = self._recorder.tags["Instance"]
        data = about(
            *("Instance", kept.orthanc_ids, kept.dicom_ids),
            origin=origin_in(self._archive.metadata(instance)),
            counts=self._archive.counts("Series", kept.key),
            tags=wanted.of(self._archive.tags(instance) or {}) if wanted else None,
        )
        return kept.key, data
