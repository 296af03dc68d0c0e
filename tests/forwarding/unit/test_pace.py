# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/pace.py, in the script for DICOM nodes: what makes a destination slow is noticed, and said once."""

from __future__ import annotations

from typing import Any

from tests.fakes import REAL_SLEEP, eventually
from tests.forwarding.unit.fake_forwarding import NAME, Forwarding


class Paced:
    """A script that sends; its node takes so long for a C-ECHO, and for each image."""

    def __init__(self, forwarding: Forwarding, echo: float) -> None:
        self.forwarding, self.echo, self.number = forwarding, echo, 0
        forwarding.rest.answers["POST", "/modalities/PACS/echo"] = self._echo
        forwarding.start()

    def _echo(self, _path: str, _body: Any) -> Any:
        REAL_SLEEP(self.echo)
        return {}

    def send(self, studies: int, seconds: float, images: int = 20) -> None:
        """So many studies go out, each image in so many seconds."""
        for _ in range(studies):
            self.number += 1
            self.forwarding.receive(f"a{self.number}", *(f"i{self.number}-{one}" for one in range(images)))
            job = self.forwarding.rest.jobs[f"PACS-{self.number}"]
            job |= {"EffectiveRuntime": seconds * images}
            job["Content"]["InstancesCount"] = images
            self.forwarding.clock.advance(seconds * images)
            self.forwarding.end(job["ID"])
            eventually(lambda: self.forwarding.states()[-1] == "done")

    def echoes(self) -> int:
        return len(self.forwarding.rest.asked("POST", "/modalities/PACS/echo"))

    def slow(self) -> Any:
        return self.forwarding.script.get(f"{NAME}/destinations")["PACS"]["Slow"]

    def warnings(self) -> list[str]:
        return [text for level, text in self.forwarding.standin.logs if level == "warning" and "40 ms" in text]


def test_answers_that_are_all_late_by_a_delayed_acknowledgement_are_said_once_with_the_remedies(
    forwarding: Forwarding,
) -> None:
    paced = Paced(forwarding, echo=0.044)
    paced.send(2, 0.044)
    assert (paced.echoes(), paced.slow()) == (0, None)
    paced.send(1, 0.05)
    eventually(lambda: paced.slow() is not None)
    [line] = paced.warnings()
    assert line == f"auto-forward-modality: {paced.slow()}"
    for remedy in ("TCP_NODELAY=1", "quickack 1", "ConcurrentJobs", "docs/slow_sending.md"):
        assert remedy in line
    paced.send(1, 0.001)  # somebody has set it
    assert paced.slow() is None
    paced.send(8, 0.044)
    eventually(lambda: paced.slow() is not None)
    assert len(paced.warnings()) == 1


def test_a_node_that_needs_the_time_itself_answers_an_echo_sooner_and_is_asked_ever_more_rarely(
    forwarding: Forwarding,
) -> None:
    paced = Paced(forwarding, echo=0.0)
    paced.send(3, 0.044)
    eventually(lambda: paced.echoes() == 10)
    paced.send(5, 0.044)
    assert (paced.echoes(), paced.slow(), paced.warnings()) == (10, None, [])
    paced.send(2, 0.044)
    eventually(lambda: paced.echoes() == 20)


def test_a_slow_or_quick_link_and_small_jobs_say_nothing(forwarding: Forwarding) -> None:
    paced = Paced(forwarding, echo=0.044)
    paced.send(3, 0.02)
    paced.send(3, 0.25)
    paced.send(2, 0.044)
    paced.send(3, 0.044, images=2)
    paced.send(1, 0.001)
    for _ in range(2):
        paced.send(2, 0.044)
        paced.send(1, 0.001)
    assert (paced.echoes(), paced.slow()) == (0, None)


def test_of_quick_jobs_orthanc_is_not_asked(forwarding: Forwarding) -> None:
    paced = Paced(forwarding, echo=0.0)
    paced.send(3, 0.001)
    assert not [
        path for method, path, _ in forwarding.rest.requests if method == "GET" and path.startswith("/jobs/PACS")
    ]
