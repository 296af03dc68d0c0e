# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding: what comes again after Orthanc's index was restored from a backup, with lower numbers in its log of changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script
from tests.forwarding.unit.fake_forwarding import NAME, STUDY, Forwarding

OVERWRITES: tuple[dict[str, Any], dict[str, Any]] = ({"OverwriteInstances": True}, {})
EARLY: tuple[dict[str, Any], dict[str, Any]] = ({}, {"Trigger": "Stored"})


class Restoring(Forwarding):
    """The script for DICOM nodes, and an archive whose index is as it was before anything came."""

    def store(self, instance: str, content: bytes = b"") -> None:
        """One instance of `STUDY` arrives."""
        tags = json.dumps({"0010,0020": "P", "0020,000d": "1.2", "0020,000e": "1.2.3"})
        prepared = {"GetInstanceAdvancedJson": tags, "HasInstanceMetadata": 0, "GetInstanceData": content}
        dicom = self.standin.object("DicomInstance", **prepared)
        self.standin.callback("RegisterOnStoredInstanceCallback")(dicom, instance)
        self.rest.receive(STUDY, instance)

    def become_stable(self) -> None:
        self.rest.become_stable(STUDY)
        self.turn()

    def end_all(self) -> None:
        for job in self.rest.jobs:
            self.end(job)
        self.turn()

    def restore(self, configuration: dict[str, Any], section: dict[str, Any]) -> None:
        """Orthanc was stopped, and started on a backup of its index."""
        self.script.change("ORTHANC_STOPPED")
        self.rest.changes, self.rest.studies = [], {}
        self.start(configuration, **section)
        self.turn()
        self.standin.assert_logged("was the index restored from a backup?", "warning")


@pytest.fixture
def restoring(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn) -> Restoring:
    return Restoring(start, rest, clock, orthanc_standin)


@pytest.mark.parametrize(("content", "times"), [(b"one", 1), (b"two", 2)])
def test_where_instances_are_overwritten_what_comes_again_is_sent_if_its_content_is_another(
    restoring: Restoring, content: bytes, times: int
) -> None:
    restoring.start(*OVERWRITES[:1])
    for instance in ("i0", "i1"):
        restoring.store(instance, b"one")
    restoring.become_stable()
    restoring.end_all()
    restoring.restore(*OVERWRITES)
    restoring.store("i1", content)
    restoring.become_stable()
    assert restoring.sent() == [["i0", "i1"], ["i1"]][:times]


def test_what_was_given_early_and_comes_again_before_it_was_stable_is_sent_again(restoring: Restoring) -> None:
    restoring.start(*EARLY[:1], **EARLY[1])
    for instance in ("i0", "i1"):
        restoring.store(instance)
    restoring.turn()
    restoring.end_all()
    assert restoring.sent() == [["i0", "i1"]]
    restoring.restore(*EARLY)
    restoring.store("i1")
    restoring.turn()
    assert restoring.sent() == [["i0", "i1"], ["i1"]]  # at once: the place of what was taken early is set back too
    restoring.become_stable()
    restoring.end_all()
    assert [each for resources in restoring.sent() for each in resources].count("i1") == 2


def test_what_waited_to_be_routed_from_before_does_not_hide_what_comes_again(restoring: Restoring) -> None:
    """The number of a row from before is larger than any that comes: noted as given, it would hide all of them."""
    restoring.start(OVERWRITES[0])
    bulk = restoring.rest._content
    restoring.rest.answers["POST", "/tools/bulk-content"] = restoring.rest.error(500)
    restoring.rest.receive("a1", "i0", "i1")
    restoring.rest.become_stable("a1")
    restoring.turn()
    assert [row["Task"] for row in restoring.script.get(f"{NAME}/deliveries")["Items"]] == ["route"]
    studies = restoring.rest.studies
    restoring.restore(OVERWRITES[0], {})
    restoring.rest.studies = studies
    restoring.rest.answers["POST", "/tools/bulk-content"] = lambda _, body: bulk(body)
    restoring.turn(40)
    assert restoring.sent() == [["i0", "i1"]]
    restoring.end_all()
    restoring.rest.studies = {}
    restoring.receive("a1", "i1")
    assert restoring.sent() == [["i0", "i1"], ["i1"]]


def test_what_had_arrived_and_was_not_stable_is_still_sent(restoring: Restoring) -> None:
    restoring.start(*OVERWRITES[:1])
    for instance in ("i0", "i1"):
        restoring.store(instance)
    restoring.turn()
    studies = restoring.rest.studies
    restoring.restore(*OVERWRITES)
    restoring.rest.studies = studies
    restoring.become_stable()
    assert restoring.sent() == [["i0", "i1"]]
