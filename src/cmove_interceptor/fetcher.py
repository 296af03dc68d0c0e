# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gets what a request means and is not here, or only in part, from other modalities and peers."""

from __future__ import annotations

import re
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import orthanc

from common.identifiers import PLURAL
from common.loopback import Loopback, LoopbackError
from common.routes import one_line

from .archive import Archive
from .jobs import StoreJobs
from .move_request import LEVELS, Fields, MoveFailed, identifying_tag, parent_identifiers
from .peer import Peer
from .settings import Fetch

FETCHES_AT_A_TIME = 2
COUNT_TAGS = {
    "Patient": "NumberOfPatientRelatedInstances",
    "Study": "NumberOfStudyRelatedInstances",
    "Series": "NumberOfSeriesRelatedInstances",
}


class Fetcher:
    """Asks the sources of `Fetch.From` one after the other."""

    def __init__(
        self,
        loopback: Loopback,
        archive: Archive,
        jobs: StoreJobs,
        settings: Fetch,
        configuration: Mapping[str, Any],
    ) -> None:
        self._loopback, self._archive, self._jobs, self._settings = loopback, archive, jobs, settings
        self._configuration = configuration
        self._aet = str(configuration.get("DicomAet", "ORTHANC"))
        self._turns = threading.BoundedSemaphore(FETCHES_AT_A_TIME)
        self._peers: dict[str, Peer] = {}
        self._peers_lock = threading.Lock()

    def stop(self) -> None:
        """End what is being fetched from peers."""
        with self._peers_lock:
            for peer in self._peers.values():
                peer.close()

    def complete(self, fields: Fields) -> list[str]:
        """Fetch what is missing; return the instances that came. Raises `MoveFailed` when too many fetch already."""
        tag, text = identifying_tag(fields)
        if re.search(r"[*?]", text):
            raise MoveFailed(f"{tag} has a wildcard: elsewhere it would mean more than the request does")
        if not self._turns.acquire(blocking=False):
            # Who waits here holds one of Orthanc's few DICOM threads, too.
            raise MoveFailed(f"{FETCHES_AT_A_TIME} other requests are being fetched already")
        try:
            deadline = time.monotonic() + self._settings.seconds
            before = set(self._archive.instances(fields))
            for token in text.split("\\"):
                self._fetch({**fields, tag: token}, tag, deadline)
            return sorted(set(self._archive.instances(fields)) - before)
        finally:
            self._turns.release()

    def _fetch(self, fields: Fields, tag: str, deadline: float) -> None:
        """Ask one source after the other until as much is here as the fullest of them has."""
        for source in self._settings.sources:
            kind, _, name = source.partition(":")
            try:
                ask = self._from_modality if kind == "modality" else self._from_peer
                if ask(name, fields, tag, deadline):
                    return
            except (LoopbackError, MoveFailed) as error:
                orthanc.LogWarning(f"cmove_interceptor: {one_line(source)} did not help: {one_line(error)}")

    def _from_modality(self, name: str, fields: Fields, tag: str, deadline: float) -> bool:
        """Retrieve from a modality what it has more of than we have; return whether it had anything."""
        level, name = LEVELS[fields["Level"]], urllib.parse.quote(name, safe="")
        count = COUNT_TAGS.get(level)
        query = {**parent_identifiers(fields), tag: fields[tag], **({count: ""} if count else {})}
        found = self._loopback.post(f"/modalities/{name}/query", {"Level": level, "Query": query})
        answers = self._loopback.get(f"/queries/{found['ID']}/answers?expand&simplify")
        try:
            for number, answer in enumerate(answers):
                there = answer.get(count, "") if count else "1"
                here = len(self._archive.instances(fields))
                if not here or (str(there).isdigit() and int(there) > here):
                    job = self._loopback.post(
                        f"/queries/{found['ID']}/answers/{number}/retrieve",
                        {"TargetAet": self._aet, "Synchronous": False},
                    )["ID"]
                    self._wait_for(job, deadline)
        finally:
            self._loopback.request("DELETE", f"/queries/{found['ID']}")
        return bool(answers)

    def _wait_for(self, job: str, deadline: float) -> None:
        """Wait for the end of a job. Raises `MoveFailed` if it failed, or took too long."""
        ended: bool | None = None
        while ended is None:
            try:
                self._check_time(deadline)
            except MoveFailed:
                self._jobs.cancel(job)
                raise
            self._jobs.wait([job])
            _, ended, error = self._jobs.look(job)
        if not ended:
            raise MoveFailed(error)

    def _from_peer(self, name: str, fields: Fields, tag: str, deadline: float) -> bool:
        """Copy from a peer the instances that it has and we have not; return whether it had anything."""
        with self._peers_lock:
            if name not in self._peers:
                self._peers[name] = Peer(self._configuration, name)
            peer = self._peers[name]
        level = LEVELS[fields["Level"]]
        found = peer.ask("POST", "/tools/find", deadline, {"Level": level, "Query": {tag: fields[tag]}})
        here = set(self._archive.instances(fields)) if found else set()
        if level == "Instance":
            there = found
        else:
            lists = (peer.ask("GET", f"/{PLURAL[level]}/{each}/instances", deadline) for each in found)
            there = [instance["ID"] for instances in lists for instance in instances]
        for instance in there:
            if instance not in here:  # the same image has the same identifier everywhere
                self._check_time(deadline)
                self._archive.store(peer.request("GET", f"/instances/{instance}/file", deadline))
        return bool(found)

    def _check_time(self, deadline: float) -> None:
        if time.monotonic() > deadline or self._jobs.stopping.is_set():
            raise MoveFailed(f"it was not fetched within {self._settings.seconds:g} s")
