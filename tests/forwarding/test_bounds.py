# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many associations a destination gets at a time, counted at the node, and what a bad one leaves to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.waiting import wait_until
from tests.constants import QUICK, script_with

BUILT = Path(__file__).parents[2] / "auto_forward_modality.py"
SCRIPT = script_with(BUILT, QUICK)
ROUTE = "/auto-forward-modality"


@pytest.mark.parametrize(
    ("section", "bound"),
    [
        ({"MaxPerDestination": 1}, 1),
        ({"MaxPerDestination": 3, "DestinationOptions": {"NODE": {"MaxJobs": 2}}}, 2),
        ({}, 4),
    ],
)
def test_a_destination_gets_as_many_associations_at_a_time_as_its_bound_says(
    start_orthanc: StartOrthanc, section: dict[str, Any], bound: int
) -> None:
    with AwkwardNode("NODE", seconds_per_image=0.1) as node:
        nodes = {"DicomModalities": {"NODE": node.as_modality()}, "ConcurrentJobs": 4}
        source = start_orthanc(SCRIPT, {**nodes, "AutoForwardModality": section})
        for patient in range(12):
            source.store(make_study(patient_id=f"P{patient}", instances=2))
        source.wait_until(lambda: len(node.received) == 24, what="deliver all", timeout=30)
        assert node.most_at_once == bound


def test_a_bound_holds_over_kill_and_failures(start_orthanc: StartOrthanc) -> None:
    # So slow that Orthanc has noted the end of one job when the next is killed: else it runs both again, at once.
    with AwkwardNode("NODE", seconds_per_image=0.5, breaks_off_after=2) as node:
        nodes = {"DicomModalities": {"NODE": node.as_modality()}, "ConcurrentJobs": 4}
        source = start_orthanc(SCRIPT, {**nodes, "AutoForwardModality": {"MaxPerDestination": 1}})
        for patient in range(6):
            source.store(make_study(patient_id=f"P{patient}", instances=4))
        source.wait_until(lambda: len(node.received) > 4, what="fail", timeout=30)
        source.kill()
        wait_until(lambda: node.at_once == 0)  # it learns of that when its system does
        node.seconds_per_image = 0.1
        source.start()
        source.wait_until(lambda: len(node.received) > 12, what="fail again", timeout=30)
        node.breaks_off_after = None
        source.wait_until(lambda: len({image for image, _ in node.received}) == 24, what="deliver all", timeout=60)
        assert node.most_at_once == 1


@pytest.mark.parametrize("bad", [{"seconds_per_image": 3.0}, {"never_answers": True}])
def test_one_bad_destination_of_eight_does_not_starve_the_others(
    start_orthanc: StartOrthanc, bad: dict[str, Any]
) -> None:
    studies, names = 20, [f"GOOD{number}" for number in range(7)]
    at_once: list[int] = []  # at the bad one, when a good one gets an image
    with AwkwardNode("BAD", **bad) as node, AwkwardNode("GOOD") as good:
        good.filters = lambda _: at_once.append(node.most_at_once)
        nodes = {name: [name, *good.as_modality()[1:]] for name in names}
        source = start_orthanc(
            SCRIPT,
            {"ConcurrentJobs": 4, "DicomModalities": {"BAD": node.as_modality(), **nodes}, "AutoForwardModality": {}},
        )
        for name in (*names, "BAD"):
            source.post(f"{ROUTE}/destinations/{name}/pause")
        for patient in range(studies):
            source.store(make_study(patient_id=f"P{patient}"))
        source.wait_until(
            lambda: source.get(f"{ROUTE}/status")["Totals"]["waiting"] == 8 * studies, what="add all rows"
        )
        for name in (*names, "BAD"):
            source.post(f"{ROUTE}/destinations/{name}/resume")
        source.wait_until(lambda: len(good.received) == studies * len(names), what="serve the good ones", timeout=120)
        assert max(at_once) <= 2  # of four slots; one as long as more than three others have work
        source.kill()  # what it sends to the bad one hangs
