# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags without a server: what Explicit VR writes with the VR UN (DICOM PS3.5 6.2.2)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from testing.dicom import make_study
from testing.standin import StandIn
from tests.fakes import Clock


@pytest.fixture
def script(start: Any, clock: Clock, orthanc_standin: StandIn) -> Any:
    return start("series_private_tags").module


@pytest.mark.parametrize("tag", [b"\x10\x00\x20\x00LO", b"\x20\x00\x0d\x00UI", b"\x20\x00\x0e\x00UI"])
def test_a_file_whose_identifiers_are_of_vr_un_is_left_to_orthanc_which_names_its_series_otherwise(
    script: Any, tag: bytes
) -> None:
    [content] = make_study(rows=2, columns=2)
    at = content.index(tag)
    length = content[at + 6 : at + 8]
    unknown = content[:at] + tag[:4] + b"UN\0\0" + length + b"\0\0" + content[at + 8 :]
    scan = sys.modules["series_private_tags.dicom_file"].scan
    with pytest.raises(ValueError, match="VR UN"):
        scan(unknown, script.Wanted([script.parse_entry("0009,1001:ACME", {})]), lambda _: False)


def test_a_creator_of_vr_un_that_is_padded_with_nul_counts(script: Any) -> None:
    wanted = script.Wanted([script.parse_entry("0009,xx01:PADDED", {})])
    tags = {"0009,0010": {"Type": "Null", "Value": None}, "0009,1001": {"Type": "String", "Value": "hi"}}
    private_elements = sys.modules["series_private_tags.values"].private_elements
    assert private_elements(tags, wanted, lambda _: b"PADDED\0\0") == {"0009,xx01:PADDED": "0009,1001"}
