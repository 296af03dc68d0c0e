# SPDX-License-Identifier: AGPL-3.0-or-later
"""What came of it: what each destination, each broker and the records have of what Orthanc has acknowledged."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.torture.studies import PROTECTED, Study
from tests.torture.system import ROOT, System

MOST_NAMED = 12  # of each number
PAGE = 1000
BUG = re.compile(r"please report.*|Traceback .*|terminate called.*|Segmentation fault.*")


class Number(NamedTuple):
    """A line of the account: what is counted, how many there are, and, of what must be 0, each by its name."""

    name: str
    number: int | str
    must_be_0: bool = False
    named: Sequence[str] = ()

    def __str__(self) -> str:
        more = [f"… and {len(self.named) - MOST_NAMED} more"] if len(self.named) > MOST_NAMED else []
        named = "".join(f"\n    {each}" for each in [*self.named[:MOST_NAMED], *more])
        return f"{self.name:22} {self.number}{named}"


class Account:
    """The numbers of a system, asked for now; what is deleted is asked for first, so that all else knows of it."""

    def __init__(self, system: System, studies: Sequence[Study]) -> None:
        self._system = system
        self._studies = [study for study in studies if study.acknowledged]
        self._sent = {each: study for study in self._studies for each in study.acknowledged}
        self._here = set(system.source.get("/instances"))
        self._history = list(pages(system, "/purge-old-studies/history"))
        self._deleted = [study for study in self._studies if self._missing_here(study)]
        self.numbers = list(self._numbers())

    @property
    def is_right(self) -> bool:
        """Whether each number that must be 0 is 0."""
        return not any(each.number for each in self.numbers if each.must_be_0)

    def __str__(self) -> str:
        return "\n".join(map(str, self.numbers))

    def _missing_here(self, study: Study) -> set[str]:
        return study.acknowledged.keys() - self._here

    def _numbers(self) -> Iterator[Number]:
        yield Number("sent", f"{len(self._sent)} instances acknowledged, of {len(self._studies)} studies")
        received = self._received()
        yield Number("received", ", ".join(f"{name} {len(self._sent.keys() & has)}" for name, has in received.items()))
        yield Number("repeated", ", ".join(f"{name} {count}" for name, count in self._repeated().items()))
        yield must_be_0(
            "lost",
            (f"{each} of {self._sent[each]}: not at {name}" for name, has in received.items()
             for each in sorted(self._sent.keys() - has)),
        )  # fmt: skip
        yield Number("deleted", f"{len(self._deleted)} studies")
        yield must_be_0("deleted wrongly", self._deleted_wrongly())
        events = {
            "rabbit": self._system.consumer.read(),
            "hook": [json.loads(body) for _, body in self._system.hook.taken],
        }
        yield Number("events", ", ".join(f"{name} {len(found)}" for name, found in events.items()))
        yield must_be_0("events lost", (each for name, found in events.items() for each in self._lost(name, found)))
        lines = list(self._audit_lines())
        yield Number("audit lines", len(lines))
        yield must_be_0("audit lines missing", self._missing_lines(lines))
        yield must_be_0("other faults", self._faults())

    def _received(self) -> dict[str, set[str]]:
        """Return what each destination has, by Orthanc's identifiers of the instances."""
        identifiers = {image.uid: image.identifier for study in self._studies for image in study.images}
        system = self._system
        nodes = {"NODE": [each.SOPInstanceUID for each in system.node.taken], "CLOUD": system.cloud.uids()}
        return {
            "PACS": set(system.pacs.get("/instances")),
            "PEER": set(system.peer.get("/instances")),
            **{name: {identifiers[uid] for uid in uids if uid in identifiers} for name, uids in nodes.items()},
        }

    def _repeated(self) -> dict[str, int]:
        system = self._system
        taken = {
            **{each.aet: (each.folder / "stored.txt").read_text().split() for each in (system.pacs, system.peer)},
            "NODE": [uid for uid, _ in system.node.received],
            "events to rabbit": [properties.message_id for _, properties, _ in system.consumer.messages],
            "events to hook": [json.loads(body)["id"] for _, body in system.hook.taken],
        }
        return {name: len(all_of_it) - len(set(all_of_it)) for name, all_of_it in taken.items()}

    def _deleted_wrongly(self) -> Iterator[str]:
        recorded = {line["ID"] for line in self._history if line["Event"] in ("deleted", "gone")}
        for study in self._deleted:
            missing = f"{study}: {len(self._missing_here(study))} of {len(study.acknowledged)} instances are gone"
            if not study.may_go:
                yield f"{missing}, and no rule allows that"
            elif study.identifier not in recorded:
                yield f"{missing}, and the record of the purge does not say so"
        if PROTECTED not in {
            each["MainDicomTags"]["PatientID"] for each in self._system.source.get("/patients?expand")
        }:
            yield f"patient {PROTECTED}"

    def _lost(self, broker: str, events: Sequence[dict[str, Any]]) -> Iterator[str]:
        told = {(event["type"], event["data"]["id"]) for event in events}
        expected = {("dicom.instance.stored", each): study for each, study in self._sent.items()}
        expected |= {("dicom.study.stable", study.identifier): study for study in self._studies}
        expected |= {("dicom.study.deleted", study.identifier): study for study in self._gone()}
        for (kind, resource), study in expected.items():
            if (kind, resource) not in told:
                yield f"{broker}: {kind} {resource} of {study}"

    def _gone(self) -> list[Study]:
        """Return the studies that were deleted, not images of theirs that came later."""
        return [study for study in self._deleted if study.may_go]

    def _audit_lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted((self._system.state / "audit-log").glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError):  # half a line, that a crash has left
                    yield json.loads(line)

    def _missing_lines(self, lines: Sequence[dict[str, Any]]) -> Iterator[str]:
        said = {(line["Event"], line.get("Study")) for line in lines if "Event" in line}
        for study in self._studies:
            if ("received", study.identifier) not in said:
                yield f"received: {study}, {self._last_moments(study)}"
        for study in self._gone():
            if ("deleted", study.identifier) not in said:
                yield f"deleted: {study}"
        yield from (f"lost: {line['Count']} lines" for line in lines if line.get("Event") == "lost")
        command = [sys.executable, str(ROOT / "audit_log.py"), "--verify", str(self._system.state / "audit-log")]
        verified = subprocess.run(command, env={"AUDIT_LOG_KEY": "k" * 40}, check=False, capture_output=True, text=True)
        if verified.returncode:
            yield f"--verify: {verified.stdout}{verified.stderr}".strip()

    def _last_moments(self, study: Study) -> str:
        """Say how long before a kill it was acknowledged."""
        first = min(study.acknowledged.values())
        after = [when - first for when in self._system.killed if when > first]
        return f"first acknowledged {min(after):.2f} s before a kill" if after else "and no kill followed"

    def _faults(self) -> Iterator[str]:
        system = self._system
        yield from system.faults
        yield from (f"the log says: {found[0]}" for found in BUG.finditer(system.source.log))
        health = system.source.request("GET", "/scripts/health")
        if not health.ok:
            yield f"/scripts/health: {health.text}"
        letters = system.source.get("/dicom-events/status")["Totals"]["dead"]
        if letters:
            yield f"{letters} dead letters"
        for script in ("modality", "peer", "dicomweb"):
            found = system.source.get(f"/auto-forward-{script}/status")["Totals"]
            if unfinished := {state: n for state, n in found.items() if n and state not in ("done", "gone")}:
                yield f"auto_forward_{script}: {unfinished}"
        for each in system.source.get("/patients?expand"):
            patient, path = each["MainDicomTags"]["PatientID"], f"/patients/{each['ID']}/protected"
            if patient != PROTECTED and system.source.request("GET", path).text.strip() == "1":
                yield f"patient {patient} is left protected"


def must_be_0(name: str, named: Iterable[str]) -> Number:
    """Return a number of things that are named."""
    found = list(named)
    return Number(name, len(found), must_be_0=True, named=found)


def pages(system: System, path: str) -> Iterator[dict[str, Any]]:
    """Yield what a list of a script has, page by page."""
    since: int | None = 0
    while since is not None:
        page = system.source.get(path, since=since, limit=PAGE)
        yield from page["Items"]
        since = page["Next"]
