# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags without a server: what is asked for reaches Orthanc as an identifier of one resource, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import Clock, FakeOrthanc, Script

NAME = "/series-private-tags"
SERIES = "-".join(["0123abcd"] * 5)


@pytest.fixture
def tags(start: Callable[..., Script], rest: FakeOrthanc, clock: Clock) -> Script:
    script = start("series_private_tags", {"SeriesMainPrivateDicomTags": ["0009,1001:ACME"], "UserMetadata": {}})
    script.get(f"{NAME}/status")
    return script


@pytest.mark.parametrize("resource", ["x", "..", "a/../b", SERIES.upper(), f"{SERIES}0", ""])
def test_what_is_no_identifier_reaches_no_route_of_orthanc(tags: Script, rest: FakeOrthanc, resource: str) -> None:
    rest.requests.clear()
    answer = tags.post("/with-private-tags/reconstruct", {"Series": resource})
    assert answer.status in (400, 404)
    assert [path for _, path, _ in rest.requests if "series/" in path] == []


def test_one_resource_is_looked_at_again_and_not_several_at_once(tags: Script) -> None:
    answer = tags.post("/with-private-tags/reconstruct", {"Series": SERIES, "Study": SERIES})
    assert (answer.status, "Give one of Patient, Study and Series" in answer.text) == (400, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0008,1001", "allowed: private tags, whose group is odd"),
        ("Manufacturer", "allowed: a name from Dictionary"),
        ("0009,10011", "allowed: a name from Dictionary"),
    ],
)
def test_an_entry_that_is_no_private_tag_is_named(source: Any, tags: Any, text: str, why: str) -> None:
    entries = source("series_private_tags.entries")
    with pytest.raises(entries.SettingsError, match=why):
        entries.parse_entry(text, {})


def test_of_a_file_that_can_not_be_judged_at_once_nothing_is_ruled_out(source: Any, tags: Any) -> None:
    """A large one, one that is deflated, one with its bytes the other way round: each is read."""
    entries = source("series_private_tags.entries")
    wanted = entries.Wanted([entries.parse_entry("0009,1001:ACME", {}), entries.parse_entry("0011,1002", {})])
    head = bytes(132) + b"DICM"
    assert wanted.perhaps_in(head + b"nothing", set()) == set()
    assert wanted.perhaps_in(head + b"ACME", set()) == {"0009,1001:ACME"}
    assert wanted.perhaps_in(head + b"\x11\x00\x02\x10", set()) == {"0011,1002"}
    both = {"0009,1001:ACME", "0011,1002"}
    for content in (bytes(70_000), head + b"1.2.840.10008.1.2.2\0", head + b"1.2.840.10008.1.2.1.99"):
        assert wanted.perhaps_in(content, set()) == both
        assert wanted.perhaps_in(content, {"0011,1002"}) == {"0009,1001:ACME"}
        assert wanted.perhaps_in(content, both) == set()
