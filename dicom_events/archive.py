# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/archive.py: edit that, never this file.
"""What Orthanc has, over loopback."""

from __future__ import annotations

import threading
from typing import Any

from ._common.archive import identifiers_in
from ._common.identifiers import PLURAL, UID_TAG_OF
from ._common.loopback import Loopback, LoopbackError

from .events import LEVELS
from .resources import Kept

COUNTS = {"CountInstances": "instances", "CountSeries": "series", "CountStudies": "studies"}
ORIGIN_KINDS = {
    "DicomProtocol": "DICOM_PROTOCOL",
    "RestApi": "REST_API",
    "Plugins": "PLUGIN",
    "Lua": "LUA",
    "WebDav": "WEB_DAV",
}


class StoppedError(Exception):
    """Orthanc ends: nothing is asked any more."""


class Archive:
    """Asks Orthanc about its resources, until `stopping` is set: then each method raises `StoppedError`.

    Each method but `get_or_none` and what is built on it raises `LoopbackError` where Orthanc refuses.
    """

    def __init__(self, loopback: Loopback, stopping: threading.Event) -> None:
        self._loopback, self._stopping = loopback, stopping

    def get(self, path: str) -> Any:
        """Return the JSON of a route."""
        if self._stopping.is_set():
            raise StoppedError
        return self._loopback.get(path)

    def pause(self, seconds: float) -> None:
        """Wait so long."""
        if self._stopping.wait(seconds):
            raise StoppedError

    def get_or_none(self, path: str) -> Any:
        """Return what Orthanc answers, or None: the resource is deleted, or broken, and its event must not hold up all others."""
        try:
            return self.get(path)
        except LoopbackError as error:
            if error.status == 0:
                raise
            return None

    def exists(self, level: str, resource: str) -> bool:
        """Return whether a resource is here; only 404, or nothing in it, is taken for a no."""
        path = f"/{PLURAL[level]}/{resource}" + ("" if level == "Instance" else "/statistics")
        try:
            return bool(self.get(path).get("CountInstances", level == "Instance"))
        except LoopbackError as error:
            if error.status != 404:
                raise  # only what is certain is published
            return False

    def counts(self, level: str, resource: str) -> dict[str, int] | None:
        """Return how much a series, study or patient has; None: it is gone, to which 1.13.0 answers with zeros and 200."""
        found = self.get_or_none(f"/{PLURAL[level]}/{resource}/statistics") or {}
        if not found.get("CountInstances"):
            return None
        return {name: int(found[key]) for key, name in COUNTS.items() if key in found}

    def metadata(self, instance: str) -> dict[str, str]:
        """Return the metadata of an instance, none if it is deleted."""
        return dict(self.get_or_none(f"/instances/{instance}/metadata?expand") or {})

    def tags(self, instance: str) -> dict[str, Any] | None:
        """Return the tags of an instance as `gggg,eeee`, None if it is deleted."""
        found: dict[str, Any] | None = self.get_or_none(f"/instances/{instance}/tags?short")
        return found

    def tags_of_first(self, level: str, resource: str) -> dict[str, Any]:
        """Return the tags of the first instance of a series, study or patient, none if it is deleted."""
        instances = identifiers_in(self.get_or_none(f"/{PLURAL[level]}/{resource}/instances?expand=false") or [])
        return (self.tags(instances[0]) or {}) if instances else {}

    def look_up(self, level: str, resource: str) -> Kept | None:
        """Return the identifiers of what was here before this script, None if it is deleted meanwhile."""
        found: dict[str, str] = {}
        above, names = resource, [resource]
        for depth in range(LEVELS.index(level), -1, -1):
            answer = self.get_or_none(f"/{PLURAL[LEVELS[depth]]}/{above}")
            if answer is None:
                return None
            found |= answer.get("MainDicomTags", {})
            if depth:
                above = answer[f"Parent{LEVELS[depth - 1]}"]
                names.insert(0, above)
        tags = [UID_TAG_OF[each] for each in LEVELS[: LEVELS.index(level) + 1]]
        return Kept(tuple(found.get(tag, "") for tag in tags), tuple(names))


def origin_in(metadata: dict[str, str]) -> dict[str, str]:
    """Return where an instance came from, of its metadata."""
    return {
        "kind": ORIGIN_KINDS.get(metadata.get("Origin", ""), "UNKNOWN"),
        "aet": metadata.get("RemoteAET", ""),
        "ip": metadata.get("RemoteIP", ""),
    }
