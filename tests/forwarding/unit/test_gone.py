# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding: what was deleted here before it was delivered is counted once, and said."""

from __future__ import annotations

import pytest

from tests.forwarding.unit.fake_forwarding import NAME, Forwarding


def gone(forwarding: Forwarding) -> int:
    return int(forwarding.script.get(f"{NAME}/status")["InstancesGone"])


def refuse_deleted(forwarding: Forwarding, *instances: str) -> None:
    """Delete instances; a job that names one of them is refused, as by Orthanc."""
    rest, route = forwarding.rest, ("POST", "/modalities/PACS/store")

    def store(path: str, body: dict[str, list[str]]) -> object:
        if set(instances) & set(body["Resources"]):
            return rest.error(404, "unknown resource")
        del rest.answers[route]
        try:
            return rest._answer("POST", path, body)
        finally:
            rest.answers[route] = store

    rest.answers[route] = store
    rest.studies = {name: [each for each in all_ if each not in instances] for name, all_ in rest.studies.items()}


def test_a_row_of_which_all_was_deleted_is_a_warning_with_their_number(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    forwarding.receive("a1", "1", "2", "3")
    refuse_deleted(forwarding, "1", "2", "3")
    forwarding.script.post(f"{NAME}/destinations/PACS/resume")
    forwarding.turn()
    assert forwarding.states() == ["gone"]
    forwarding.standin.assert_logged("3 instances of study a1 were deleted here before PACS got them", "warning")
    assert gone(forwarding) == 3


def test_a_part_that_was_deleted_is_counted_once_however_often_the_rest_is_tried(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    forwarding.receive("a1", "1", "2", "3")
    refuse_deleted(forwarding, "2")
    forwarding.script.post(f"{NAME}/destinations/PACS/resume")
    forwarding.turn()
    assert forwarding.sent()[-1] == ["1", "3"]
    forwarding.end([*forwarding.rest.jobs][-1], why="DicomAssociation - connecting")
    forwarding.turn(120)
    forwarding.turn(120)
    assert len(forwarding.rest.jobs) >= 2
    assert gone(forwarding) == 1
    refuse_deleted(forwarding, "1", "2", "3")
    forwarding.end([*forwarding.rest.jobs][-1], why="DicomAssociation - connecting")
    forwarding.turn(300)
    forwarding.turn(300)
    assert forwarding.states() == ["gone"]
    assert gone(forwarding) == 3


def test_what_was_deleted_before_it_was_stable_is_counted(forwarding: Forwarding) -> None:
    forwarding.start({"StableAge": 1})
    forwarding.rest.receive("a1", "1", "2")
    forwarding.turn()
    forwarding.rest.studies = {}
    forwarding.turn(10)
    forwarding.turn(10)
    text = "2 instances were deleted here before they were stable: no rule was applied to them"
    forwarding.standin.assert_logged(text, "warning")
    assert gone(forwarding) == 2


def test_what_was_deleted_before_the_log_was_read_is_counted_and_what_is_there_or_was_read_is_not(
    forwarding: Forwarding,
) -> None:
    forwarding.start({"StableAge": 60})
    forwarding.rest.receive("a1", "read")
    forwarding.turn()
    forwarding.rest.studies["b2"] = ["there"]
    for instance in ("read", "there", "lost"):  # the log knows nothing of the last two
        forwarding.script.change("NEW_INSTANCE", instance)
    forwarding.rest.studies.pop("a1")  # it is counted when it should be stable
    forwarding.turn()
    assert gone(forwarding) == 1


@pytest.mark.parametrize(
    ("configuration", "warns"),
    [
        ({}, False),
        ({"MaximumStorageSize": 0, "MaximumPatientCount": 0}, False),
        ({"MaximumStorageSize": 100}, True),
        ({"MaximumPatientCount": 10, "MaximumStorageMode": "Recycle"}, True),
        ({"MaximumPatientCount": 10, "MaximumStorageMode": "Reject"}, False),
    ],
)
def test_one_warning_at_start_says_that_orthanc_recycles(
    forwarding: Forwarding, configuration: dict[str, object], *, warns: bool
) -> None:
    forwarding.standin.returns["CheckVersionAdvanced"] = 1
    forwarding.start(configuration)
    lines = [text for level, text in forwarding.standin.logs if level == "warning" and "recycles" in text]
    assert len(lines) == warns


def test_a_version_that_knows_no_other_mode_recycles_whatever_the_configuration_says(forwarding: Forwarding) -> None:
    forwarding.standin.returns["CheckVersionAdvanced"] = 0
    forwarding.start({"MaximumPatientCount": 10, "MaximumStorageMode": "Reject"})
    forwarding.standin.assert_logged("Orthanc recycles the oldest patients (MaximumPatientCount 10)", "warning")
