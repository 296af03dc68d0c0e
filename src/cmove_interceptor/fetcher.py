# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gets what a request means and is not here, or only in part, from other modalities and peers."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import orthanc

from common.aets import AeTitles
from common.identifiers import PLURAL
from common.loopback import Loopback, LoopbackError
from common.routes import one_line

from .archive import Archive
from .comparison import COUNT_TAGS, Comparison, is_about
from .jobs import StoreJobs
from .move_request import LEVELS, Fields, MoveFailed, identifying_tag, parent_identifiers
from .peer import Peer
from .settings import Fetch
from .slots import PRIORITY, JobSlots

FETCHES_AT_A_TIME = 2


@dataclasses.dataclass(frozen=True)
class Fetched:
    """The instances of a request that came while it was fetched, and those of them that were copied from a peer."""

    came: list[str]
    copied: set[str]


class Fetcher:
    """Asks the sources of `Fetch.From` one after the other."""

    def __init__(
        self,
        loopback: Loopback,
        archive: Archive,
        jobs: StoreJobs,
        slots: JobSlots,
        settings: Fetch,
        configuration: Mapping[str, Any],
    ) -> None:
        self._loopback, self._archive, self._jobs, self._slots = loopback, archive, jobs, slots
        self._settings, self._configuration = settings, configuration
        self._aet, self._aets = str(configuration.get("DicomAet", "ORTHANC")), AeTitles(configuration)
        self._turns = threading.BoundedSemaphore(FETCHES_AT_A_TIME)
        self._peers: dict[str, Peer] = {}
        self._peers_lock = threading.Lock()
        self._said: set[str] = set()

    def stop(self) -> None:
        """End what is being fetched from peers."""
        with self._peers_lock:
            for peer in self._peers.values():
                peer.close()

    def complete(self, fields: Fields) -> Fetched:
        """Fetch what is missing; return what came. Raises `MoveFailed` when too many fetch already."""
        tag, text = identifying_tag(fields)
        if re.search(r"[*?]", text) or not text.strip():
            what = "has a wildcard" if text.strip() else "is empty"
            raise MoveFailed(f"{tag} {what}: elsewhere it would mean more than the request does")
        if not self._turns.acquire(blocking=False):
            # Who waits here holds one of Orthanc's few DICOM threads, too.
            raise MoveFailed(f"{FETCHES_AT_A_TIME} other requests are being fetched already")
        try:
            deadline = time.monotonic() + self._settings.seconds
            before, copied = set(self._archive.instances(fields)), set[str]()
            for token in filter(str.strip, text.split("\\")):
                self._fetch({**fields, tag: token}, tag, deadline, copied)
            return Fetched(sorted(set(self._archive.instances(fields)) - before), copied)
        finally:
            self._turns.release()

    def remove(self, fetched: Fetched) -> None:
        """Delete what was fetched. What somebody else has sent meanwhile stays: it may be the only copy."""
        if not fetched.came:
            return
        sources = (source.partition(":") for source in self._settings.sources)
        names = {name for kind, _, name in sources if kind == "modality"}
        known = self._loopback.get("/modalities?expand") if names else {}
        aets = {self._aets.key(known[name]["AET"].strip()) for name in names & known.keys()}
        senders = self._archive.senders([each for each in fetched.came if each not in fetched.copied])
        mine = [
            each for each in fetched.came if each in fetched.copied or self._aets.key(senders.get(each, "")) in aets
        ]
        if mine:
            self._archive.remove(mine)

    def _fetch(self, fields: Fields, tag: str, deadline: float, copied: set[str]) -> None:
        """Ask one source after the other until as much is here as the fullest of them has."""
        for source in self._settings.sources:
            kind, _, name = source.partition(":")
            try:
                if kind == "modality":
                    had_some = self._from_modality(name, fields, tag, deadline)
                else:
                    had_some = self._from_peer(name, fields, tag, deadline, copied)
                if had_some:
                    return
            except (LoopbackError, MoveFailed) as error:
                orthanc.LogWarning(f"cmove_interceptor: {one_line(source)} did not help: {one_line(error)}")

    def _from_modality(self, name: str, fields: Fields, tag: str, deadline: float) -> bool:
        """Retrieve from a modality what it has more of than we have; return whether it had anything."""
        comparison = Comparison(self._loopback, self._archive, name, lambda: self._check_time(deadline), self._said)
        level, name = LEVELS[fields["Level"]], urllib.parse.quote(name, safe="")
        count = COUNT_TAGS.get(level)
        query = {**parent_identifiers(fields), tag: fields[tag], **({count: ""} if count else {})}
        found = self._loopback.post(f"/modalities/{name}/query", {"Level": level, "Query": query})
        answers = self._loopback.get(f"/queries/{found['ID']}/answers?expand&simplify")
        # One that does not look at a key answers with all that it has.
        meant = {number: each for number, each in enumerate(answers) if is_about(each, tag, fields[tag])}
        try:
            for number, answer in meant.items():
                if comparison.has_more(fields_of(answer, fields, tag), answer):
                    job = self._loopback.post(
                        f"/queries/{found['ID']}/answers/{number}/retrieve",
                        {"TargetAet": self._aet, "Synchronous": False, "Priority": PRIORITY},
                    )["ID"]
                    self._wait_for(job, deadline)
        finally:
            self._loopback.request("DELETE", f"/queries/{found['ID']}")
        return bool(meant)

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
            _, ended, error, waits = self._jobs.look(job)
            if waits:
                self._slots.make_room(job)
        if not ended:
            raise MoveFailed(error)

    def _from_peer(self, name: str, fields: Fields, tag: str, deadline: float, copied: set[str]) -> bool:
        """Copy from a peer the instances that it has and we have not into `copied`; return whether it had anything."""
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
                if self._archive.store(peer.request("GET", f"/instances/{instance}/file", deadline)):
                    copied.add(instance)
        return bool(found)

    def _check_time(self, deadline: float) -> None:
        if time.monotonic() > deadline or self._jobs.stopping.is_set():
            raise MoveFailed(f"it was not fetched within {self._settings.seconds:g} s")


def fields_of(answer: Mapping[str, Any], fields: Fields, tag: str) -> Fields:
    """Return a request for what an answer to C-FIND means: several studies may have one AccessionNumber."""
    uid = answer.get("StudyInstanceUID")
    return {**fields, "AccessionNumber": "", "StudyInstanceUID": uid} if tag == "AccessionNumber" and uid else fields
