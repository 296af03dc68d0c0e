# SPDX-License-Identifier: AGPL-3.0-or-later
"""`OnlyIfAt`: studies go only if destinations prove to have each of their instances."""

from __future__ import annotations

import contextlib
import difflib
import http.client
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from common.backoff import Pauses
from common.http_threads import HttpTurns
from common.loopback import Loopback, LoopbackError
from common.routes import Refused, one_line
from forwarding.dicomweb import DicomWebServers
from forwarding.node_proof import proved_by_node
from forwarding.peer_proof import proved_by_peer
from forwarding.peers import Peers

from .conditions import Conditions
from .index import Index
from .parameters import shown
from .studies import Study

REPORT_WITHIN_SECONDS = 300.0  # in which a node has to report what it committed itself to; forwarders wait longer
LOOK_FOR_REPORT_SECONDS = 0.1, 0.5  # the first and the longest pause: each look asks this Orthanc for its jobs, too
# Of one request: an Orthanc takes 1 s to commit itself to these, and for more the square of it (1.10.1: 31 s for 1,250).
INSTANCES_PER_COMMITMENT = 100
FAILURES_IN_A_ROW = 3  # after which a destination is not asked any more by a purge
LACKING_SECONDS = 6 * 3600.0  # in which rules by space leave out what a destination did not have
MOST_REMEMBERED = 200_000  # questions of which a destination lacked something: some 30 MB
NAMES_SHOWN = 20


class Destination(NamedTuple):
    """A DICOM node ("modality"), an Orthanc ("peer") or a DICOMweb server ("dicomweb"), by Orthanc's name of it."""

    kind: str
    name: str


class Elsewhere:
    """The destinations that this Orthanc knows, and what they prove to have, as the forwarders ask them."""

    def __init__(self, configuration: Mapping[str, Any], loopback: Loopback) -> None:
        self._configuration, self._loopback = configuration, loopback
        self._peers = Peers(configuration, loopback)
        self.servers = DicomWebServers(configuration, loopback, is_wanted=False, script="purge-old-studies")
        self._silent: dict[Destination, str] = {}  # that did not answer last
        self._lacking: dict[int, float] = {}  # by what was asked of a study: when a destination lacked some of it

    def destinations(self, names: Sequence[str], key: str = "OnlyIfAt") -> list[Destination]:
        """Return the destinations of these names; `key` is where somebody wrote them, for errors.

        Raises
        ------
        Refused : one is not known, or is the name of several; or an instance can come again with another content.
        LoopbackError : Orthanc does not answer.
        """
        if not names:
            return []
        if self._configuration.get("OverwriteInstances", False) not in (False, "Never"):
            why = "a new image of the same identifier could be deleted because an older one was proved"
            raise Refused(400, f'{key}: not allowed where "OverwriteInstances" is on: {why}')
        known = self._known()
        return [self._destination(name, known, key) for name in names]

    def check_asked(self, names: Sequence[str], turns: HttpTurns) -> None:
        """Raise `Refused` as `destinations`, with the name that requests have for it."""
        if names:
            with contextlib.suppress(LoopbackError), turns.turn():  # silence is answered where studies are looked for
                self.destinations(names, "only-if-at")

    def _known(self) -> list[Destination]:
        found = [Destination("modality", name) for name in self._loopback.get("/modalities")]
        found += [Destination("peer", name) for name in self._loopback.get("/peers")]
        try:
            servers = {*self._loopback.get(f"/{self.servers.route}")} | self.servers.configured
        except LoopbackError as error:
            if error.status != http.client.NOT_FOUND:
                raise
            servers = set()  # the plugin is not loaded
        return [*found, *(Destination("dicomweb", name) for name in sorted(servers))]

    def _destination(self, wanted: str, known: Sequence[Destination], key: str) -> Destination:
        fitting = [each for each in known if wanted in (each.name, ":".join(each))]
        if len(fitting) == 1:
            return fitting[0]
        number = Counter(each.name for each in known)
        allowed = [each.name if number[each.name] == 1 else ":".join(each) for each in fitting or known]
        what = f"{shown(wanted)} is the name of several destinations"
        if not fitting:
            near = difflib.get_close_matches(wanted, allowed, 1, 0.6)
            what = f"Orthanc knows no destination {shown(wanted)}" + (f" (did you mean {near[0]}?)" if near else "")
        listed = ", ".join(allowed[:NAMES_SHOWN]) + (", ..." if len(allowed) > NAMES_SHOWN else "")
        raise Refused(400, f"{key}: {what}, allowed: {one_line(listed) or 'none, for it knows none'}")

    def prove(
        self, destination: Destination, instances: Mapping[str, Mapping[str, Any]], asked: dict[str, Any], proof: str
    ) -> set[str] | None:
        """Return which of these instances a destination has, of their patients; None: it has not reported yet.

        Raises
        ------
        LoopbackError, OSError, HTTPException : it does not answer, or refuses.
        ValueError : what it answers is no proof.
        """
        if destination.kind == "modality":
            return proved_by_node(self._loopback, destination.name, instances, asked, proof)
        if destination.kind == "peer":
            return proved_by_peer(self._peers, destination.name, instances)
        return self.servers.prove(self._loopback, destination.name, instances, asked)

    def raise_if_orthanc_is_silent(self) -> None:
        """Raise `LoopbackError` if this Orthanc itself does not answer."""
        self._loopback.get("/system")

    def note_silent(self, destination: Destination, why: str) -> None:
        """Note that a destination did not answer."""
        self._silent[destination] = why

    def note_answer(self, destination: Destination) -> None:
        """Note that a destination answered."""
        self._silent.pop(destination, None)

    def why_silent(self, names: Sequence[str]) -> str:
        """Return why one of these can't be asked that did not answer last, and does not now; "" if all may be asked.

        Raises what `destinations` does.
        """
        for destination in self.destinations(names):
            if destination in self._silent:
                try:
                    self._probe(destination)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                    return f"{destination.name} does not answer: {one_line(error) or repr(error)}"
                self.note_answer(destination)
        return ""

    def _probe(self, destination: Destination) -> None:
        if destination.kind == "modality":
            self._loopback.post(f"/modalities/{quote(destination.name, safe='')}/echo", {"Timeout": 3})
        elif destination.kind == "peer":
            self._peers.check(destination.name)
        else:
            self.servers.probe(self._loopback, destination.name)

    def note_lacking(self, study: Study, names: Sequence[str], proof: str) -> None:
        """Note that one of these destinations does not have all of a study."""
        question = _question(study, names, proof)
        self._lacking.pop(question, None)  # the newest ones are last
        self._lacking[question] = time.monotonic()
        if len(self._lacking) > MOST_REMEMBERED:
            del self._lacking[next(iter(self._lacking))]

    def has_lacked(self, study: Study, asked: Conditions) -> bool:
        """Return whether a destination lacked some of a study lately: rules by space would choose it again and again."""
        at = self._lacking.get(_question(study, asked.only_if_at, asked.proof))
        return at is not None and time.monotonic() - at < LACKING_SECONDS

    def in_turn(self, studies: Sequence[Study], asked: Conditions) -> list[Study]:
        """Return studies in their order, but last those of which a destination lacked some, the one asked longest ago first.

        Else where few go at a time, the same oldest ones would be asked for ever, and no younger one.
        """
        if not (asked.only_if_at and self._lacking):
            return [*studies]
        at = {study.id: self._lacking.get(_question(study, asked.only_if_at, asked.proof), -1.0) for study in studies}
        return sorted(studies, key=lambda study: at[study.id])


def _question(study: Study, names: Sequence[str], proof: str) -> int:
    """Return a number that stands for what was asked of a study: many are remembered, and texts would take much room."""
    return hash((study.id, study.received, tuple(names), proof))


class Proving:
    """What one purge asks the destinations of its `OnlyIfAt`: one that does not answer is not asked again by it."""

    def __init__(self, elsewhere: Elsewhere, index: Index, asked: Conditions) -> None:
        self._elsewhere, self._index = elsewhere, index
        self._names, self._proof = asked.only_if_at, asked.proof
        self._silent: dict[Destination, str] = {}
        self._failures = Counter[Destination]()  # in a row
        self._lacking = set[str]()  # studies of the last question of which a destination answered that it has not all
        self.proved: dict[str, list[str]] = {}
        """The instances of each study of the last question that every destination has proved to have: all of it."""

    def why_kept(self, studies: Collection[Study], is_halted: Callable[[], bool]) -> dict[str, str]:
        """Return why some of these studies stay, by their identifiers: each that is not wholly proved.

        Where `is_halted` becomes true meanwhile, what is returned means nothing.

        Raises
        ------
        LoopbackError : Orthanc does not answer.
        """
        self.proved, self._lacking = {}, set()
        if not (self._names and studies):
            return {}
        try:
            destinations = self._elsewhere.destinations(self._names)
        except Refused as refused:  # since the purge began, or a restart
            return {study.id: refused.message for study in studies}
        if why := next((self._silent[each] for each in destinations if each in self._silent), ""):
            return {study.id: why for study in studies}
        content: dict[str, dict[str, Any]] = {study.id: {} for study in studies}
        for study_id, key, instance in self._index.instances_of(studies):
            content[study_id][key] = instance
        # Without its name, nobody could see that a destination names the very same file.
        unread = [
            study for study, some in content.items() if not some or not all(one["FileUuid"] for one in some.values())
        ]
        reasons = dict.fromkeys(unread, "its instances can't be read")
        for destination in destinations:
            left = {study: instances for study, instances in content.items() if study not in reasons}
            reasons |= self._missing_at(destination, left, is_halted) if left else {}
        for study in studies:
            if study.id in self._lacking and not is_halted():
                self._elsewhere.note_lacking(study, self._names, self._proof)
        self.proved = {study: [*instances] for study, instances in content.items() if study not in reasons}
        return reasons

    def _missing_at(
        self, destination: Destination, content: Mapping[str, Mapping[str, Any]], is_halted: Callable[[], bool]
    ) -> dict[str, str]:
        """Return why some studies, given with their instances, stay as far as one destination is asked."""
        if why := self._silent.get(destination):
            return dict.fromkeys(content, why)
        instances = {key: one for some in content.values() for key, one in some.items()}
        try:
            proved = self._asked(destination, instances, is_halted)
        except (LoopbackError, OSError, http.client.HTTPException, ValueError) as error:
            why = self._failed(destination, error)
            if len(content) == 1 or is_halted():
                self._lacking |= set() if self._failures[destination] else content.keys()
                return dict.fromkeys(content, why)
            # It may be about one of them: that keeps no other.
            return {
                study: why
                for one in content
                for study, why in self._missing_at(destination, {one: content[one]}, is_halted).items()
            }
        self._failures[destination] = 0
        self._elsewhere.note_answer(destination)
        missing = {study: number for study, some in content.items() if (number := len(some.keys() - proved))}
        self._lacking |= missing.keys()
        return {
            study: f"{destination.name} has not proved to have {number} of {len(content[study])} instances"
            for study, number in missing.items()
        }

    def _asked(self, destination: Destination, instances: Mapping[str, Any], is_halted: Callable[[], bool]) -> set[str]:
        """Return which instances a destination has."""
        if destination.kind != "modality" or self._proof == "C-FIND":
            return self._elsewhere.prove(destination, instances, {}, "C-FIND") or set()
        found = {*instances}
        if self._proof == "StorageCommitment":  # first, for it is the quicker one; a commitment names no patient
            found = self._elsewhere.prove(destination, instances, {}, "C-FIND") or set()
        committed, left = set[str](), sorted(found)
        while left and not is_halted():
            some, left = left[:INSTANCES_PER_COMMITMENT], left[INSTANCES_PER_COMMITMENT:]
            committed |= self._committed(destination, {key: instances[key] for key in some}, is_halted)
        return committed

    def _committed(
        self, destination: Destination, instances: Mapping[str, Any], is_halted: Callable[[], bool]
    ) -> set[str]:
        """Return to which instances a node commits itself: its report is waited for."""
        memory, begun, pauses = dict[str, Any](), time.monotonic(), Pauses(*LOOK_FOR_REPORT_SECONDS)
        while (found := self._elsewhere.prove(destination, instances, memory, "StorageCommitmentOnly")) is None:
            if is_halted():
                return set()
            if time.monotonic() - begun > REPORT_WITHIN_SECONDS:
                self._failures[destination] = FAILURES_IN_A_ROW  # to wait for each study would take weeks
                raise TimeoutError(f"it has sent no report of storage commitment within {REPORT_WITHIN_SECONDS:g} s")
            time.sleep(pauses.next())
        return found

    def _failed(self, destination: Destination, error: Exception) -> str:
        """Return why a study stays that could not be asked for; a destination that does not answer is left alone then."""
        if isinstance(error, LoopbackError) and error.status == 0:
            self._elsewhere.raise_if_orthanc_is_silent()
        why = f"{destination.name} has not proved to have it: {one_line(error) or repr(error)}"
        no_answer = (LoopbackError, OSError, http.client.HTTPException)
        if not isinstance(error, no_answer) and not isinstance(error.__cause__, no_answer):
            self._failures[destination] = 0
            return why
        self._failures[destination] += 1
        if self._failures[destination] >= FAILURES_IN_A_ROW:
            self._silent[destination] = f"{why} (this purge does not ask it again)"
            self._elsewhere.note_silent(destination, why)
        return self._silent.get(destination, why)
