# SPDX-License-Identifier: AGPL-3.0-or-later
"""anonymize_series: AE titles in `Rules` and `Results` compare as Orthanc compares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn
from tests.fakes import FakeOrthanc, Script, eventually

SECTION: dict[str, Any] = {"Secret": "0123456789abcdef" * 2, "Recipes": {"all": {}}, "ReIdentify": True}


@pytest.mark.parametrize("strict", [False, True])
def test_a_rule_and_results_name_ae_titles(
    start: Callable[..., Script], rest: FakeOrthanc, orthanc_standin: StandIn, source: Any, strict: bool
) -> None:
    section = {**SECTION, "Results": {"RemoteAET": ["AI"]}, "Rules": [{"Name": "ct", "Origin": {"RemoteAET": ["CT*"]}}]}
    start("anonymize_series", {"AnonymizeSeries": section, "StrictAetComparison": strict})
    eventually(lambda: orthanc_standin.http("GET", "/anonymize-series/status").status == 200)
    anonymizer = next(each.__self__ for each in source("common.quirks").KEPT_ALIVE if hasattr(each, "__self__"))
    intake = anonymizer._steps["route", ""].__self__
    origins = {"i1": {"RemoteAET": "ct7"}, "i2": {"RemoteAET": "ai"}}
    assert [found[:2] for found in intake._recipes("Study", "a1", "1.2", origins)] == (
        [] if strict else [("all", ["i1"])]
    )
    rest.studies["a1"] = ["i2"]
    intake._register.study_of_copy = intake._archive.study_uid = lambda _: "a1"
    assert intake._results("Series", origins) == ([] if strict else ["i2"])
