# SPDX-License-Identifier: AGPL-3.0-or-later
"""The second look finds names and dates as people write them, and no words that only look like them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.anonymize_series.unit.test_guards import KEPT, original


@pytest.fixture
def checks(source: Callable[[str], ModuleType]) -> Any:
    return source("anonymize_series.checks")


def remains(checks: Any, text: str | bytes, **tags: Any) -> str | None:
    """What the second look finds in a copy with this text, or with these bytes in a private element."""
    before, copy = original(), Dataset()
    before.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in tags.items():
        setattr(before, keyword, value)
    if isinstance(text, bytes):
        copy.private_block(0x29, "ACME", create=True).add_new(0x10, "UN", text)
    else:
        copy.SeriesDescription = text
    found: str | None = checks.what_remains(copy, before, KEPT)
    return found


@pytest.mark.parametrize(
    "text",
    ["Kim Li", "kim li", "LI, KIM", "Li_Kim", "of Kim-Li here", "Kim", "kim", "seen by Kim", "for LI.", b"li^kim ", b"Kim\0",
     b"\x01\x02Kim  Li\x03"],
)  # fmt: skip
def test_short_names_are_found_as_words_and_as_whole_values(checks: Any, text: str | bytes) -> None:
    assert remains(checks, text, PatientName="Li^Kim") is not None


@pytest.mark.parametrize(
    "text", ["Kimono", "T2 li weighted", "Limb", "an do", "ALIKIM", b"\x00Li\x01\xfeKimb\x00", b"\x01Kim\x02 abc"]
)
def test_what_only_looks_like_a_short_name_holds_nothing_back(checks: Any, text: str | bytes) -> None:
    assert remains(checks, text, PatientName="Li^Kim^^Dr") is None


def test_an_operator_of_two_letters_holds_nothing_back_for_a_word(checks: Any) -> None:
    assert remains(checks, "CT head", OperatorsName="CT") is None
    assert remains(checks, "by Li Kim", OperatorsName="Kim^Li") is not None
    assert remains(checks, "Makim Li", OperatorsName="Kim^Li") is None


def test_prefixes_and_suffixes_are_no_names(checks: Any) -> None:
    assert remains(checks, "Dr MD", PatientName="Longname^Other^^Dr^MD") is None


@pytest.mark.parametrize(
    "text", ["王小东", "病人王小东的头", "小东王", "王 小东", "病人王小东".encode(), "王小东".encode("gb18030")]
)
def test_a_name_in_chinese_is_found_as_it_is_written(checks: Any, text: str | bytes) -> None:
    tags = {"PatientName": "Wang^XiaoDong=王^小东"}
    if isinstance(text, bytes) and text == "王小东".encode("gb18030"):
        tags["SpecificCharacterSet"] = "GB18030"
    assert remains(checks, text, **tags) is not None


@pytest.mark.parametrize(
    "text",
    ["1970-01-31", "31.01.1970", "31/01/1970", "01/31/1970", "1/31/1970", "31.1.1970", "31 Jan 1970", "Jan 31, 1970",
     "born 31-JAN-1970",
     b"dob 1970/01/31 "],
)  # fmt: skip
def test_a_date_is_found_as_people_write_it(checks: Any, text: str | bytes) -> None:
    assert remains(checks, text, PatientBirthDate="19700131") is not None


@pytest.mark.parametrize("text", ["1970", "31.01.1971", "version 1.31", "0131"])
def test_what_is_no_date_of_the_original_holds_nothing_back(checks: Any, text: str) -> None:
    assert remains(checks, text, PatientBirthDate="19700131") is None
