# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding/dicom_header.py: it reads what pydicom reads, in each encoding, and takes no file that is cut."""

from __future__ import annotations

import warnings
from pathlib import Path

import pydicom
import pytest

from forwarding.dicom_header import read_header
from testing.dicom import make_study, pydicom_files

TAGS = (0x00080018, 0x00100010, 0x00100020, 0x0020000D, 0x0020000E)
ENCODINGS = ("ExplVR_BigEnd.dcm", "image_dfl.dcm", "CT_small.dcm", "JPEG2000.dcm", "rtplan.dcm", "nested_priv_SQ.dcm")


@pytest.mark.parametrize("path", pydicom_files(), ids=lambda path: path.name)
def test_it_reads_what_pydicom_reads(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        header = read_header(path.read_bytes(), TAGS)
        assert header.syntax == dataset.file_meta.TransferSyntaxUID
        for tag in TAGS:
            element = dataset.get(tag)
            if header.values.get(tag, b"").isascii():
                assert (header.text(tag) or "") == ("" if element is None else str(element.value or "")).strip(), hex(
                    tag
                )


@pytest.mark.parametrize("name", [*ENCODINGS, "generated"])
def test_a_file_that_is_cut_anywhere_is_refused_or_lacks_what_is_behind(name: str) -> None:
    found = [path.read_bytes() for path in pydicom_files(cstore=False) if path.name == name]
    content = found[0] if found else make_study(rows=4, columns=4)[0]
    whole = read_header(content, TAGS)
    assert whole.values
    for end in [*range(1, min(2000, len(content)), 7), len(content) // 2, len(content) - 1]:
        try:
            header = read_header(content[:-end], TAGS)
        except ValueError:
            continue
        assert header.values.items() <= whole.values.items()  # cut between two elements: what is there is right


@pytest.mark.parametrize(
    ("charset", "encoding", "text"),
    [
        ("ISO_IR 192", "utf-8", "Jürgen 日本"),
        ("ISO_IR 100", "latin-1", "Jürgen"),
        ("ISO_IR 144", "iso8859_5", "ЖЩЮЯ"),
    ],
)
def test_text_is_read_in_its_character_set(charset: str, encoding: str, text: str) -> None:
    value = text.encode(encoding)
    content = make_study(SpecificCharacterSet=charset, PatientName="N", rows=4, columns=4)[0]
    old = b"\x10\x00\x10\x00PN\x02\x00N "
    assert content.count(old) == 1
    value += b" " * (len(value) % 2)
    content = content.replace(old, b"\x10\x00\x10\x00PN" + len(value).to_bytes(2, "little") + value)
    assert read_header(content, TAGS).text(0x00100010) == text


def test_text_that_can_not_be_decoded_raises() -> None:
    content = make_study(SpecificCharacterSet="\\ISO 2022 IR 87", PatientName="Jü", rows=4, columns=4)[0]
    with pytest.raises(UnicodeDecodeError):
        read_header(content, TAGS).text(0x00100010)


def test_a_sequence_of_vr_un_is_read_as_what_it_is_in_implicit_vr() -> None:
    """PS3.5 6.2.2 note 2: its length is not known, and in it no element names its VR."""
    inner = (
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        + b"\x10\x00\x20\x00\x02\x00\x00\x00LO"
        + b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
    )
    element = b"\x09\x00\x01\x10UN\x00\x00\xff\xff\xff\xff" + inner + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    content = make_study(rows=4, columns=4)[0]
    place = content.index(b"\x10\x00\x10\x00PN")
    assert read_header(content[:place] + element + content[place:], TAGS).text(0x00100020) == "PATIENT"


def test_sequences_without_end_are_refused() -> None:
    deep = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    head = make_study(rows=4, columns=4)[0][:400]
    head = head[: head.index(b"\x08\x00\x05\x00CS")]
    with pytest.raises(ValueError, match="nested too deep"):
        read_header(head + deep * 1000, TAGS)
