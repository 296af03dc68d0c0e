# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/aets.py: AE titles compared as Orthanc compares them."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("configuration", "same"),
    [({}, True), ({"StrictAetComparison": False}, True), ({"StrictAetComparison": True}, False)],
)
def test_case_counts_only_where_orthanc_is_strict(source: Any, configuration: dict[str, Any], same: bool) -> None:
    aets = source("common.aets").AeTitles(configuration)
    assert aets.same("Pacs", "PACS") is same
    assert aets.same("PACS", "PACS")
    assert not aets.same("PACS", "PACS2")
    assert aets.matches_any("ct7", ("MR*", "CT?")) is same
    assert aets.matches_any("CT7", ("ct?",)) is same
    assert aets.matches_any("CT7", ("MR*", "CT?"))
    assert not aets.matches_any("CT7", ("MR*",))


@pytest.mark.parametrize("strict", [False, True])
def test_spaces_around_a_title_mean_nothing(source: Any, strict: bool) -> None:
    """Orthanc keeps those of `DicomModalities`; a node sends its title without them."""
    aets = source("common.aets").AeTitles({"StrictAetComparison": strict})
    assert aets.same("PACS ", "PACS")
    assert aets.same(" PACS", "PACS")
    assert not aets.same("PA CS", "PACS")
    assert aets.matches_any("WARD7", ("WARD* ",))
