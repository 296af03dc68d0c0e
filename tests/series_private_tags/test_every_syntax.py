# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags.py: the same values in every transfer syntax, whether they arrive or were there before."""

from __future__ import annotations

import hashlib
import io
from types import ModuleType
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.series_private_tags.helpers import SCRIPT, SYNTAXES, encoded, values, wait_for, wait_until_caught_up

CONTROL = b"a\x01b\x02"
EXPECTED: dict[str, Any] = {
    "7fe1,xx10:ACME_LATE": "behind the pixels",
    "7fe1,xx12:ACME_LATE": "EXISTS",
    "7fe1,xx01:ACME_LATE": "a sequence; items: 2",
    "0031,xx01:PADDED": "of a padded creator",
    "0029,xx01:ACME": "Grüße",
    "0029,xx02:ACME": f"4 bytes, SHA-256 {hashlib.sha256(CONTROL).hexdigest()}",
    "0029,xx03:ACME": "two\r\nlines\tand a tab",
}


def image(syntax: str) -> bytes:
    """An image that declares no character set; in Implicit VR, Orthanc knows the VR of none of its private tags."""
    [content] = make_study(patient_id=syntax, rows=4, columns=4)
    dataset = pydicom.dcmread(io.BytesIO(content))
    del dataset.SpecificCharacterSet
    dataset.add_new(0x00310010, "UN", b"PADDED\0\0")
    dataset.add_new(0x00311001, "LO", "of a padded creator")
    acme = dataset.private_block(0x29, "ACME", create=True)
    acme.add_new(0x01, "LO", "Grüße".encode("latin-1"))
    acme.add_new(0x02, "LO", CONTROL)
    acme.add_new(0x03, "LT", "two\r\nlines\tand a tab")
    late = dataset.private_block(0x7FE1, "ACME_LATE", create=True)
    late.add_new(0x10, "LO", "behind the pixels")
    late.add_new(0x12, "US", 65)
    first, second = Dataset(), Dataset()
    first.PatientName, second.SeriesDescription = "A^B", "second"
    late.add_new(0x01, "SQ", [first, second])
    return encoded(dataset, syntax)


def configuration(*tags: str) -> dict[str, Any]:
    return {"SeriesMainPrivateDicomTags": list(tags), "StableAge": 3600}


LISTED = [f"!!{key}" if value == "EXISTS" else key for key, value in EXPECTED.items()]


@pytest.fixture(scope="module")
def arrivals(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    server = start_orthanc_for_module(SCRIPT, configuration(*LISTED))
    wait_until_caught_up(server)
    return server


def expected(syntax: str) -> dict[str, Any]:
    """In Implicit VR, nobody knows that it is a sequence."""
    if syntax != "implicit":
        return EXPECTED
    raw = pydicom.dcmread(io.BytesIO(image(syntax))).get_item(0x7FE11001)
    content = bytes(raw.value)
    return {**EXPECTED, "7fe1,xx01:ACME_LATE": f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_arrives_has_the_same_values_in_every_syntax(arrivals: OrthancServer, syntax: str) -> None:
    [stored] = arrivals.store([image(syntax)])
    wait_for(arrivals, stored["ParentSeries"], expected(syntax))


def test_what_was_there_before_has_the_same_values_in_every_syntax(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT, configuration("0001,1001"))
    wait_until_caught_up(server)
    series = {syntax: server.store([image(syntax)])[0]["ParentSeries"] for syntax in SYNTAXES}
    server.configuration["SeriesMainPrivateDicomTags"] = LISTED
    server.restart()
    wait_until_caught_up(server)
    found = {syntax: values(server, each) for syntax, each in series.items()}
    assert found == {syntax: expected(syntax) for syntax in SYNTAXES}


@pytest.mark.parametrize(("encoding", "shown"), [("Greek", "Grόίe"), ("Ascii", None)])
def test_text_without_a_character_set_is_in_the_default_encoding(
    script: ModuleType, encoding: str, shown: str | None
) -> None:
    content = "Grüße".encode("latin-1")
    hashed = f"5 bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"
    assert script.from_bytes(content, "", encoding) == (shown or hashed)


def test_values_of_a_sequence_have_no_control_characters(script: ModuleType) -> None:
    inner = {"0008,103e": {"Name": "SeriesDescription", "Type": "String", "Value": "a\x01b\x85"}}
    found = script.plain({"Name": "Private", "Type": "Sequence", "Value": [inner]})
    assert found == [{"SeriesDescription": "a\ufffdb\ufffd"}]
