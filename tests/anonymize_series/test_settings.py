# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series.py: a configuration that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.standin import StandIn
from tests.anonymize_series.helpers import SCRIPT, section


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        ({"Secret": None}, "AnonymizeSeries.Secret: found none, allowed: at least 32 characters"),
        ({"Secret": "too short to be one"}, "AnonymizeSeries.Secret: found a value that is not shown here"),
        ({"Recipes": {"a": {"Modality": "A", "Peer": "B"}}}, "Recipes.a: found A and B"),
        ({"Recipes": {"a": {"DeleteCopy": True}}}, "Recipes.a.DeleteCopy"),
        ({"Recipes": {"a": {"Keep": ["PatientNaem"]}}}, 'Recipes.a.Keep: found "PatientNaem"'),
        ({"Recipes": {"a": {"Replace": {"PatientID": "X"}}}}, "Recipes.a: found PatientID"),
        ({"Recipes": {"a": {"Keep": ["StudyInstanceUID"]}}}, "Recipes.a: found StudyInstanceUID"),
        ({"Rules": [{"Name": "r", "Level": "Patient"}]}, "Rules[0].Level"),
        ({"Rules": [{"Name": "r", "Destinations": ["none"]}]}, 'Rules[0].Destinations: found "none"'),
        ({"Rules": [{"Name": "r", "Query": {"Modality": "MR"}}]}, "Rules[0].Query.Modality"),
        ({"Results": {"RemoteAET": ["AI"]}}, "ReIdentify: found false"),
    ],
)
def test_what_is_misconfigured_is_one_error_that_names_the_key(configuration: dict[str, Any], complaint: str) -> None:
    standin = StandIn("7.1", section(**configuration))
    with standin.installed():
        standin.load(SCRIPT)
    [error] = [text for level, text in standin.logs if level == "error"]
    assert complaint in error
    assert "allowed: " in error
    assert "too short" not in error
    assert "RegisterOnStoredInstanceCallback" not in standin.registered


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40)
JSON = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(st.text(max_size=4), SCALAR, max_size=2)
KEYS = [
    "Secret",
    "Recipes",
    "Rules",
    "RuleMode",
    "PseudonymPrefix",
    "ReIdentify",
    "Results",
    "Retry",
    "Durability",
    "Sercet",
]
RECIPE = st.dictionaries(st.sampled_from(["Keep", "Replace", "Remove", "Modality", "DeleteCopy", "DicomVersion"]), JSON)


@given(
    found=st.dictionaries(st.sampled_from(KEYS), JSON | st.dictionaries(st.text(max_size=3), RECIPE, max_size=2)) | JSON
)
@settings(max_examples=60)
def test_whatever_the_section_holds_the_script_runs_or_is_idle_with_one_error(found: Any) -> None:
    standin = StandIn("7.1", {"AnonymizeSeries": found})
    with standin.installed():
        standin.load(SCRIPT)
    errors = [text for level, text in standin.logs if level == "error"]
    assert len(errors) <= 1
    assert bool(errors) != ("RegisterOnStoredInstanceCallback" in standin.registered)
    says = ("allowed: ", " is not a known key (did you mean ")
    assert all(error.startswith("AnonymizeSeries") and any(each in error for each in says) for error in errors)
