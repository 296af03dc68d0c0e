# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script for DICOM nodes on a stand-in, with a fake archive, nodes and clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testing.dicom import orthanc_identifier
from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

NAME = "/auto-forward-modality"
STUDY = orthanc_identifier("P", "1.2")  # of what OnStoredInstance hands over
OTHER_STUDY = orthanc_identifier("Q", "1.3")
NODES = {name: {"AET": name, "Host": name.lower(), "Port": 104} for name in ("PACS", "VNA")}


class Forwarding:
    """The script, and an archive with the nodes PACS and VNA; only PACS is a destination unless said otherwise."""

    def __init__(
        self,
        start: Callable[..., Script],
        rest: FakeOrthanc,
        clock: Clock,
        standin: StandIn,
        database: str | None = None,
    ) -> None:
        self._start, self.rest, self.clock, self.standin = start, rest, clock, standin
        rest.known = dict(NODES)
        self._shared = {"Scripts": {"Database": database, "Server": "A"}} if database else {}

    def start(self, configuration: dict[str, Any] | None = None, **section: Any) -> None:
        section = {"Destinations": ["PACS"], **section}
        self.script = self._start(
            "auto_forward_modality", {"AutoForwardModality": section, **self._shared, **(configuration or {})}
        )

    def turn(self, seconds: float = 1.0) -> None:
        """Let time pass until the script has looked at all and done what was due."""

        def polls() -> int:
            return sum(path.startswith("/changes?since") for _, path, _ in self.rest.requests)

        self.clock.advance(seconds)
        for _ in range(3):  # the first may be under way already; when the third begins, the second has ended
            before = polls()
            self.script.change("STABLE_STUDY", "another")  # wakes it
            eventually(lambda: polls() > before)  # noqa: B023 - it is called here

    def receive(self, study: str, *instances: str, **metadata: str) -> None:
        """A study arrives and becomes stable."""
        self.rest.receive(study, *instances, **metadata)
        self.rest.become_stable(study)
        self.turn()

    def sent(self, name: str = "PACS") -> list[list[str]]:
        """What each job was to send."""
        return [sorted(body["Resources"]) for body in self.rest.asked("POST", f"/modalities/{name}/store")]

    def end(self, job: str, *, why: str = "") -> None:
        """A job ends: well, or because of something."""
        self.rest.jobs[job] |= {"State": "Failure" if why else "Success", "ErrorDescription": why}
        self.script.change("JOB_FAILURE" if why else "JOB_SUCCESS", job)

    def deliveries(self, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.script.get(f"{NAME}/deliveries{query}")["Items"]
        return found

    def states(self) -> list[str]:
        return [row["State"] for row in self.deliveries()]
