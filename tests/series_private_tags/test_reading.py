# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags.py: how it reads files, its list and answers of Orthanc, without a server."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import re
import sys
from types import ModuleType
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from testing.dicom import orthanc_identifier, pydicom_files
from testing.standin import StandIn
from tests.series_private_tags.helpers import DICTIONARY, ROOT, SYNTAXES, TAGS, study


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
@pytest.mark.parametrize("block", [0x11, 0x7F, 0xFF])
def test_a_file_gives_its_series_and_its_private_tags_in_whatever_block(
    script: ModuleType, syntax: str, block: int
) -> None:
    wanted = script.Wanted([script.parse_entry(text, DICTIONARY) for text in TAGS])
    content = study(syntax, block=block, patient_id="X")[0]
    scanned = script.scan(content, wanted, lambda series: False)
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert scanned.series == orthanc_identifier("X", dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
    assert {key: number for key, (number, _) in scanned.present.items()} == {
        "Factor": f"0029,{block:02x}10", "Label": f"0029,{block:02x}11", "0029,xx12:ACME": f"0029,{block:02x}12",
        "0029,xx15:ACME": f"0029,{block:02x}15", "0029,xx16:ACME": f"0029,{block:02x}16", "Ratio": "7053,1003",
        "Anonymous": "0033,1020", "0031,1001": "0031,1001",
    }  # fmt: skip
    assert scanned.present["Factor"][1] == b"1.50\\2"


def test_each_file_of_pydicom_is_read_as_pydicom_reads_it(script: ModuleType) -> None:
    read = 0
    for path in pydicom_files():
        dataset = pydicom.dcmread(path)
        creators = {(e.tag.group, e.tag.element): str(e.value) for e in dataset if e.tag.is_private_creator}
        texts = [
            f"{e.tag.group:04x},{e.tag.element:04x}"
            for e in dataset
            if e.tag.is_private and not e.tag.is_private_creator
        ]
        wanted = script.Wanted([script.parse_entry(text, {}) for text in texts])
        try:
            scanned = script.scan(path.read_bytes(), wanted, lambda series: False)
        except (ValueError, script.struct.error):
            syntax = str(dataset.file_meta.TransferSyntaxUID)
            assert (
                syntax in (SYNTAXES["big endian"], SYNTAXES["deflated"])
                or not str(dataset.get("PatientID", "")).isascii()
            )
            continue
        read += 1
        assert {number for number, _ in scanned.present.values()} == set(texts), (path, creators)
        uids = (str(dataset.get(name) or "") for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
        assert scanned.series == orthanc_identifier(*uids)
    assert read > 80


@given(st.data())
@settings(max_examples=300)
def test_a_broken_file_is_an_error_that_is_known_and_never_hangs(data: st.DataObject) -> None:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        module = importlib.import_module("series_private_tags")
        sys.path.remove(str(ROOT))
    content = bytearray(study(data.draw(st.sampled_from(["explicit", "implicit"])), rows=4, columns=4)[0])
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.sampled_from([0, 1, 0xFF, 0xFE, 0x53]))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    wanted = module.Wanted([module.parse_entry(text, DICTIONARY) for text in TAGS])
    with contextlib.suppress(ValueError, module.struct.error, RecursionError):  # those that `on_stored` expects
        module.scan(cut, wanted, lambda series: False)


@given(st.data())
@settings(max_examples=200)
def test_a_file_that_is_recognised_by_its_layout_has_the_series_that_a_whole_look_finds(data: st.DataObject) -> None:
    """Values of any length, a series named within a sequence before, a file that is changed anywhere."""
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        module = importlib.import_module("series_private_tags")
        sys.path.remove(str(ROOT))
    wanted = module.Wanted([module.parse_entry(text, DICTIONARY) for text in TAGS])
    digits, syntax = st.text("12", min_size=1, max_size=3), data.draw(st.sampled_from(["explicit", "implicit"]))

    def file() -> bytes:
        referenced, uid = Dataset(), data.draw(digits)
        referenced.StudyInstanceUID, referenced.SeriesInstanceUID = f"1.3.{data.draw(digits)}", f"1.3.{uid}"

        def change(dataset: Dataset) -> None:
            dataset.ReferencedSeriesSequence = [referenced] * data.draw(st.integers(0, 2))
            dataset["ReferencedSeriesSequence"].is_undefined_length = data.draw(st.booleans())

        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber")
        tags: dict[str, Any] = {name: f"1.2.{data.draw(digits)}" for name in names}
        return study(syntax, change=change, rows=4, columns=4, patient_id=data.draw(digits), **tags)[0]

    learned, other = file(), bytearray(file())
    layout = module.scan(learned, wanted, lambda series: False).layout
    assert layout.series_of(learned) == module.scan(learned, wanted, lambda series: False).series
    if data.draw(st.booleans()):
        other = bytearray(learned)
        at = data.draw(st.integers(128, layout.identifiers[-1].start - 1))
        other[at] ^= 1 << data.draw(st.integers(0, 7))
    if (recognised := layout.series_of(bytes(other))) is not None:
        with contextlib.suppress(UnicodeDecodeError):  # in SpecificCharacterSet, which names no series
            assert recognised == module.scan(bytes(other), wanted, lambda series: True).series


def test_images_of_a_series_are_recognised_by_their_layout(script: ModuleType) -> None:
    wanted = script.Wanted([script.parse_entry(text, DICTIONARY) for text in TAGS])
    first, *others = study("explicit", instances=9, patient_id="X")
    layout = script.scan(first, wanted, lambda series: False).layout
    series = script.scan(first, wanted, lambda series: False).series
    assert [layout.series_of(each) for each in others] == [series] * 8
    elsewhere = study("explicit", patient_id="Y")[0]
    assert layout.series_of(elsewhere) == script.scan(elsewhere, wanted, lambda series: False).series != series
    assert layout.series_of(study("explicit", patient_id="X", AccessionNumber="longer")[0]) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("Faktor", "did you mean 'Factor'?"), ("0028,0010", "private tags, whose group is odd"),
     ("29,1010", "allowed: a name from Dictionary"), ("", "allowed: a name"), ("0029,1010:", "allowed: a name"),
     ("Rows", "allowed: a name")],
)  # fmt: skip
def test_an_entry_that_names_no_private_tag_is_refused(script: ModuleType, text: str, complaint: str) -> None:
    with pytest.raises(script.SettingsError, match=re.escape(complaint)):
        script.parse_entry(text, DICTIONARY)


def test_bytes_are_text_where_they_are_text(script: ModuleType) -> None:
    read = script.from_bytes
    assert read(b"plain \0", "") == "plain"
    assert read("Grüße".encode(), "ISO_IR 192") == "Grüße"
    assert read("Grüße".encode("latin-1"), "ISO_IR 100") == "Grüße"
    assert read("Привет".encode("iso8859-5"), "ISO_IR 144") == "Привет"
    assert read(b"\xff\xfe", "", "Ascii") == f"2 bytes, SHA-256 {hashlib.sha256(bytes([255, 254])).hexdigest()}"
    assert read(b"a\x00b", "").startswith("3 bytes")
    assert read(b"", "") == ""


def test_the_answer_of_a_search_is_read_the_same_whether_it_is_indented_or_not(script: ModuleType) -> None:
    series = """[
   {
      "ID" : "a",
      "MainDicomTags" : 
      {
         "SeriesDescription" : "\\"Metadata\\" : {}, \\"ParentStudy\\""
      },
      "Metadata" : 
      {
         "ExpectedNumberOfInstances" : "7",
         "LastUpdate" : "20240101T000000",
         "Mine" : "{\\"A\\": \\"1\\\\\\\\2, \\\\\\"x\\\\\\"\\"}",
         "ModifiedFrom" : "b"
      },
      "ParentStudy" : "c",
      "Status" : "STATUS",
      "Type" : "Series"
   }
]
"""  # noqa: W291 (as Orthanc writes it)
    for status, expected in (("Complete", 7), ("Unknown", None)):
        text = series.replace("STATUS", status).encode()
        compact = json.dumps(json.loads(text)).encode()
        first, second = (json.loads(script.found_with_tags(each, "Mine")) for each in (text, compact))
        assert first == second
        assert first[0] == {
            "ID": "a", "MainDicomTags": json.loads(text)[0]["MainDicomTags"], "ExpectedNumberOfInstances": expected,
            "LastUpdate": "20240101T000000", "ModifiedFrom": "b", "MainPrivateDicomTags": {"A": '1\\2, "x"'},
            "ParentStudy": "c", "Status": status, "Type": "Series",
        }  # fmt: skip
        assert json.loads(script.found_with_tags(text, "Yours"))[0]["MainPrivateDicomTags"] == {}
