# SPDX-License-Identifier: AGPL-3.0-or-later
"""cmove_interceptor.py: at the level of patients an empty PatientID means what it means to Orthanc alone: those without one."""

from __future__ import annotations

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.cmove_interceptor.helpers import SCRIPT, SUCCESS, Destination, c_move, configuration, has_counts


@pytest.fixture(scope="module")
def pair(
    start_orthanc_for_module: StartOrthanc, shared_destination: Destination
) -> tuple[OrthancServer, OrthancServer]:
    """An Orthanc without the script and one with it; each has three images without a PatientID, and two of P1."""
    plain, ours = (start_orthanc_for_module(script, configuration(shared_destination)) for script in (None, SCRIPT))
    for server in (plain, ours):
        server.store(make_study(patient_id="", instances=2))
        server.store(make_study(patient_id="", change=lambda dataset: dataset.pop("PatientID"), seed=2))
        server.store(make_study(patient_id="P1", instances=2, seed=3))
    return plain, ours


@pytest.mark.parametrize(("asked", "count"), [("", 3), (" ", 3), ("P1", 2), ("\\P1", 5), ("P2", 0)])
def test_patients_without_a_patient_id_are_moved_as_by_orthanc(
    pair: tuple[OrthancServer, OrthancServer], shared_destination: Destination, asked: str, count: int
) -> None:
    answers, arrived = [], []
    for server in pair:
        answers.append(c_move(server, "PATIENT", PatientID=asked))
        arrived.append(shared_destination.take())
    assert arrived[1] == arrived[0]
    assert len(arrived[0]) == count
    assert (answers[1][-1].status == SUCCESS) == (answers[0][-1].status == SUCCESS) == bool(count)
    if has_counts(pair[1]):
        assert answers[1] == answers[0]
