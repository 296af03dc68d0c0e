# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags without a server: what its own reader makes of a file (DICOM PS3.5 6.2.2, 7.5, 7.8)."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest

from testing.dicom import make_study, orthanc_identifier
from testing.standin import StandIn
from tests.fakes import Clock, FakeOrthanc, Script, eventually

UNDEFINED = 0xFFFFFFFF
UIDS: dict[str, Any] = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
SERIES = orthanc_identifier("P1", "1.2", "1.2.3")
ITEM, END_OF_ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)


@pytest.fixture
def script(start: Callable[..., Script], clock: Clock) -> Any:
    return start("series_private_tags").module


def explicit(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    long = vr in (b"UN", b"SQ", b"OB", b"UT")
    return head + (struct.pack("<HI", 0, size) if long else struct.pack("<H", size)) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(*elements: bytes, length: int | None = UNDEFINED) -> bytes:
    content = b"".join(elements)
    if length is None:
        return ITEM + struct.pack("<I", len(content)) + content
    return ITEM + struct.pack("<I", length) + content + END_OF_ITEM


def file_with(*elements: bytes) -> bytes:
    """A CT image in Explicit VR with these elements behind its (0009,0010), before its PatientID."""
    [content] = make_study(patient_id="P1", rows=2, columns=2, **UIDS)
    at = content.index(b"\x10\x00\x10\x00PN")
    return content[:at] + explicit(0x00090010, b"LO", b"ACME") + b"".join(elements) + content[at:]


def scanned(script: Any, content: bytes, entry: str = "0009,1001:ACME") -> Any:
    wanted = script.Wanted([script.parse_entry(entry, {})])
    return sys.modules["series_private_tags.dicom_file"].scan(content, wanted, lambda _: False)


WANTED = explicit(0x00091001, b"LO", b"value ")
# In Explicit VR, the two bytes behind this tag would be a VR with a long length: an element of the wrong size.
LIKE_EXPLICIT = implicit(0x00091099, b"x" * int.from_bytes(b"UT", "little"))


@pytest.mark.parametrize("length", [UNDEFINED, None])
@pytest.mark.parametrize("inner", [implicit(0x00091099, b"abcd"), LIKE_EXPLICIT, implicit(0x00091099, b"")])
def test_a_un_sequence_of_undefined_length_is_read_as_implicit_vr(
    script: Any, inner: bytes, length: int | None
) -> None:
    sequence = explicit(0x00091000, b"UN", item(inner, inner, length=length) + END, UNDEFINED)
    found = scanned(script, file_with(sequence, WANTED))
    assert found.series == SERIES
    assert found.present["0009,1001:ACME"][1] == b"value "


def test_a_un_sequence_within_an_explicit_one_is_read_as_implicit_vr(script: Any) -> None:
    inner = explicit(0x00091002, b"UN", item(LIKE_EXPLICIT) + END, UNDEFINED)
    after = explicit(0x00091003, b"UT", b"text")
    sequence = explicit(0x00091000, b"SQ", item(inner, after) + END, UNDEFINED)
    found = scanned(script, file_with(sequence, WANTED))
    assert (found.series, found.present["0009,1001:ACME"][1]) == (SERIES, b"value ")


def test_an_explicit_sequence_of_undefined_length_is_read_as_explicit_vr(script: Any) -> None:
    inner = explicit(0x00091002, b"SQ", item(explicit(0x00091003, b"UT", b"text")) + END, UNDEFINED)
    sequence = explicit(0x00091000, b"SQ", item(inner, explicit(0x00091004, b"OB", b"ab")) + END, UNDEFINED)
    found = scanned(script, file_with(sequence, WANTED))
    assert (found.series, found.present["0009,1001:ACME"][1]) == (SERIES, b"value ")


def test_what_stands_in_a_sequence_is_not_the_instances(script: Any) -> None:
    sequence = explicit(0x00091000, b"SQ", item(explicit(0x00091001, b"LO", b"inner ")) + END, UNDEFINED)
    assert scanned(script, file_with(sequence)).present == {}


@pytest.mark.parametrize(
    "broken",
    [
        explicit(0x00091000, b"SQ", b"no item!" + END, UNDEFINED),
        explicit(0x00091000, b"SQ", item(WANTED)[:-8], UNDEFINED),
        explicit(0x00091000, b"UT", b"text", 10**6),
    ],
)
def test_a_broken_file_is_an_error_that_is_known(script: Any, broken: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        scanned(script, file_with(broken, WANTED))


def test_sequences_that_are_nested_without_end_are_refused(script: Any) -> None:
    content = b""
    for _ in range(40):
        content = explicit(0x00091002, b"SQ", item(content) + END, UNDEFINED)
    with pytest.raises(ValueError, match="nested too deep"):
        scanned(script, file_with(content, WANTED))


@pytest.mark.parametrize(
    ("entry", "found"),
    [("0009,1001:ACME", True), ("0009,xx01:ACME", True), ("0009,1001:OTHER", False), ("0009,1001", True)],
)
def test_a_private_tag_belongs_to_its_creator(script: Any, entry: str, found: bool) -> None:
    assert bool(scanned(script, file_with(WANTED), entry).present) is found


def test_a_block_that_lies_elsewhere_is_found_by_its_creator(script: Any) -> None:
    content = file_with(explicit(0x00090042, b"LO", b"OURS"), explicit(0x00094201, b"LO", b"there "))
    assert scanned(script, content, "0009,1001:OURS").present == {"0009,1001:OURS": ("0009,4201", b"there ")}


@pytest.mark.parametrize("text", ["0008,0060", "No such name", "0009,10", "0009,100g"])
def test_an_entry_that_names_no_private_tag_is_refused(script: Any, source: Any, text: str) -> None:
    with pytest.raises(source("common.settings").SettingsError, match="SeriesMainPrivateDicomTags: found"):
        script.parse_entry(text, {})


def test_a_place_beyond_the_newest_change_is_set_back(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn
) -> None:
    """The index was restored from a backup: what comes from now on is looked at all the same."""
    configuration = {"SeriesMainPrivateDicomTags": ["0009,1001:ACME"]}
    rest.answers["GET", "/series"] = []
    rest.receive("a1", *(f"i{number}" for number in range(10)))

    def last_read() -> int:
        asked = [path for _, path, _ in rest.requests if path.startswith("/changes?since=")]
        return int(asked[-1].partition("since=")[2].partition("&")[0]) if asked else -1

    start("series_private_tags", configuration)
    eventually(lambda: last_read() == 10)
    orthanc_standin.assert_not_logged(level="error")
    rest.changes = rest.changes[:4]
    rest.requests.clear()
    start("series_private_tags", configuration)
    eventually(lambda: last_read() == 4)
    orthanc_standin.assert_logged("log of changes ends at 4", "warning")


def test_values_of_a_series_that_was_deleted_are_not_those_of_what_came_again(source: Any) -> None:
    source("series_private_tags")
    entries, settings, stored, private_tags = (
        source(f"series_private_tags.{name}") for name in ("entries", "settings", "stored", "private_tags")
    )
    wanted = entries.Wanted([entries.parse_entry("0009,1001:ACME", {})])
    tags = private_tags.PrivateTags(settings.Settings(), wanted, "2000", {})
    completed: list[tuple[str, Any]] = []
    tags._writer.complete = lambda series, values: completed.append((series, values))
    tags._forget = lambda _: None
    reports = (("i1", "s", {"0009,1001:ACME": "before"}), ("", "s", None), ("i2", "s", {"0009,1001:ACME": "after"}))
    tags._write([stored.Report(*each) for each in reports])
    assert completed == [("s", {"0009,1001:ACME": "after"})]


def test_a_series_with_a_file_that_orthanc_can_not_read_holds_no_other_up(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock, orthanc_standin: StandIn
) -> None:
    """Its file is gone from the disk: 500, for ever, or until it was restored."""
    rest.answers["GET", "/series"] = ["s1", "s2", "s3"]
    for number in (1, 2, 3):
        rest.answers["GET", f"/series/s{number}"] = {"Instances": [f"i{number}"]}
        rest.answers["GET", f"/instances/i{number}/tags"] = {}
    rest.answers["GET", "/instances/i1/tags"] = rest.error(500)
    script = start("series_private_tags", {"SeriesMainPrivateDicomTags": ["0009,1001:ACME"]})

    def caught_up() -> Any:
        return script.get("/with-private-tags/status")["CatchUp"]

    eventually(lambda: caught_up()["Done"] == 2)
    orthanc_standin.assert_logged("looks at series s1 again in an hour", "warning")
    orthanc_standin.assert_not_logged(level="error")
    rest.answers["GET", "/instances/i1/tags"] = {}
    clock.advance(3700)
    eventually(lambda: not caught_up()["Running"])


def test_an_instance_that_orthanc_can_not_read_does_not_stop_what_follows_it(
    start: Callable[..., Script], rest: FakeOrthanc, clock: Clock
) -> None:
    rest.answers["GET", "/series"] = []
    script = start("series_private_tags", {"SeriesMainPrivateDicomTags": ["0009,1001:ACME"]})
    eventually(lambda: any(path.startswith("/changes?since=0") for _, path, _ in rest.requests))
    rest.answers["GET", "/instances/i1/tags"] = rest.error(500)
    rest.answers["GET", "/series/a1-5e"] = {"Instances": ["i1"]}
    rest.receive("a1", "i1")
    rest.receive("b2", "i2")
    rest.answers["GET", "/instances/i2/tags"] = {}

    def last_read() -> int:
        asked = [path for _, path, _ in rest.requests if path.startswith("/changes?since=")]
        return int(asked[-1].partition("since=")[2].partition("&")[0])

    def goes_on() -> bool:
        clock.advance(3)
        script.change("DELETED", "none", "SERIES")
        return last_read() == 2

    eventually(goes_on)
    assert script.get("/with-private-tags/status")["CatchUp"]["Running"]
