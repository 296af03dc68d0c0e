# SPDX-License-Identifier: AGPL-3.0-or-later
"""Asks this Orthanc and its scripts how they are: a fixed number of small answers, whatever the archive holds."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.loopback import Loopback, LoopbackError

FORWARDERS = ("auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb")


@dataclasses.dataclass
class Gathered:
    """What Orthanc and the scripts answered.

    Attributes
    ----------
    system, statistics : of Orthanc.
    scripts : the entries of `/scripts`.
    statuses : the status of each script that runs, by name.
    destinations : those of each forwarder that runs, by its name.
    held : the number of images that anonymize_series holds back.
    free, room : bytes of the file system of the storage, if it is one.
    callbacks : what the runtime of a combined file counts, by module.
    """

    system: Mapping[str, Any]
    statistics: Mapping[str, Any]
    scripts: list[dict[str, Any]]
    statuses: dict[str, dict[str, Any]]
    destinations: dict[str, dict[str, dict[str, Any]]]
    held: int
    callbacks: dict[str, dict[str, Any]]
    free: int | None = None
    room: int | None = None


class Gatherer:
    """Asks over loopback, from one thread. `storage` is the folder in which Orthanc keeps files, if it does."""

    def __init__(self, loopback: Loopback, own_name: str, storage: Path) -> None:
        self._loopback, self._own_name, self._storage = loopback, own_name, storage
        self._system: Mapping[str, Any] = {}

    def gather(self) -> Gathered:
        """Ask all. Raises `LoopbackError`: Orthanc itself does not answer."""
        self._system = self._system or self._loopback.get("/system")
        found = Gathered(self._system, self._loopback.get("/statistics"), [], {}, {}, 0, {})
        with contextlib.suppress(OSError):  # the archive is in a database, or elsewhere
            usage = shutil.disk_usage(self._storage)
            found.free, found.room = usage.free, usage.total
        found.scripts = [each for each in self._loopback.get("/scripts") if isinstance(each, dict)]
        for script in found.scripts:
            name, path = str(script.get("Name")), script.get("Status")
            if name == self._own_name or not path or script.get("State") != "running":
                continue
            if (status := self._ask(path)) is not None:
                found.statuses[name] = status
            if (
                name in FORWARDERS
                and (destinations := self._ask(f"/{name.replace('_', '-')}/destinations")) is not None
            ):
                found.destinations[name] = destinations
        if "anonymize_series" in found.statuses:
            found.held = int((self._ask("/anonymize-series/held?limit=1") or {}).get("Total", 0))
        for each in self._ask("/combined-scripts", default=[]) or []:
            found.callbacks[each["Name"]] = calls_of(each.get("Callbacks", []))
        return found

    def _ask(self, path: str, default: Any = None) -> Any:
        """Return an answer, or the default where a script does not give one just now: the others are shown."""
        try:
            return self._loopback.get(urllib.parse.quote(path, safe="/?=&"))
        except LoopbackError as error:
            if error.status == 0:  # Orthanc itself
                raise
            return default


def calls_of(callbacks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how often Orthanc has called a script, for how long, and how often that failed."""
    return {
        "Calls": sum(each["Calls"] for each in callbacks),
        "Errors": sum(each["Errors"] for each in callbacks),
        "Seconds": round(sum(each["Seconds"] for each in callbacks), 3),
    }
