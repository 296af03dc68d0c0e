# SPDX-License-Identifier: AGPL-3.0-or-later
"""A defined term or a counter is one where the standard says so, not where a file does."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from testing.standin import StandIn
from tests.anonymize_series.helpers import SCRIPT, section
from tests.anonymize_series.unit.test_guards import KEPT, original

STUDY_DESCRIPTION, UNKNOWN, BODY_PART, OVERLAY_POINTER = 0x00081030, 0x00080FFF, 0x00180015, 0x00280106


@pytest.fixture(scope="module")
def script() -> Any:
    standin = StandIn("7.1", section())
    with standin.installed():
        return standin.load(SCRIPT)


@pytest.mark.parametrize("value", ["KEPTNAME", "ABOUT KEPTNAME"])
@pytest.mark.parametrize("tag", [STUDY_DESCRIPTION, UNKNOWN])
def test_a_name_in_what_only_the_file_calls_a_defined_term_is_found(script: Any, tag: int, value: str) -> None:
    copy = Dataset()
    copy.add_new(tag, "CS", value)
    assert "of the original" in str(script.what_remains(copy, original(PatientName="Keptname^A"), KEPT))


@pytest.mark.parametrize("value", ["KEPTNAME ANNA", "ANNA_KEPTNAME", "FOR ANNA MARIA", "X HOSP4711", "20010203"])
def test_a_whole_name_or_an_identifier_is_no_defined_term(script: Any, value: str) -> None:
    """Some modalities let people type the body part."""
    copy = Dataset()
    copy.add_new(BODY_PART, "CS", value)
    about = original(PatientName="Keptname^Anna^Maria", patient_id="HOSP4711", PatientBirthDate="20010203")
    assert "of the original" in str(script.what_remains(copy, about, KEPT))


def test_a_term_and_a_number_of_the_standard_are_no_identity(script: Any) -> None:
    copy = Dataset()
    copy.add_new(BODY_PART, "CS", "KEPTNAME")
    copy.add_new(OVERLAY_POINTER, "US", 4711)  # US or SS
    assert script.what_remains(copy, original(PatientName="Keptname^A", AccessionNumber="4711"), KEPT) is None
