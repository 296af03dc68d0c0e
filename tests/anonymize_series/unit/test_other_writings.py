# SPDX-License-Identifier: AGPL-3.0-or-later
"""The second look finds names in writings that differ from that of the original, and in other character sets."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.anonymize_series.unit.test_guards import KEPT, original
from tests.anonymize_series.unit.test_written_forms import remains


@pytest.fixture
def checks(source: Callable[[str], ModuleType]) -> Any:
    return source("anonymize_series.checks")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Hidenberg, Quillon", "by Hidenberg"),
        ("Hidenberg, Quillon", b"by Quillon and Hidenberg "),
        ("Smythe-Hidenberg^Al", "Mrs Hidenberg"),
        ("Hidenberg.Quillon", "about Quillon"),
        ("Li, Kim", "seen by KIM LI"),
        ("Li, Kim", "for LI."),
        ("Weiß^Al", "Frau WEISS"),
        ("Mu\u0308llerstro\u0308m^Al", "by MÜLLERSTRÖM".encode()),
        ("Müllerström^Al", "Frau MUELLERSTROEM"),
        ("Müllerström^Al", b"FRAU MUELLERSTROEM"),
        ("MUELLERSTROEM^AL", "Frau Müllerström"),
        ("García^José", "by Garcia"),
        ("GARCIA^JOSE", "by García"),
        ("Wałęsa^Lech", "by WALESA"),
        ("Weiß^Al", b"FRAU WEISS"),
        ("Weiss^Al", "Frau Weiß"),
        ("Müllerström^Al", "Mu\u0308llerstro\u0308m"),
        ("Müllerström^Al", "by MU\u0308LLERSTRO\u0308M".encode()),
        ("Yamazaki^Tarou=ヤマザキ^タロウ", "ﾔﾏｻﾞｷ"),
        ("Yamazaki^Tarou=ヤマザキ^タロウ", "ﾔﾏｻﾞｷ ".encode("shift_jis")),
        ("Hidenberg^Al", "\1by Hidenberg".encode("utf-16-le")),
        ("Hidenberg^Al", "by Hidenberg".encode("utf-16-be")),
        ("Müllerström^Al", "by MÜLLERSTRÖM".encode("utf-16-le")),
        ("Wang^XiaoDong=王^小东", "王小东".encode("utf-16-le")),
        ("Müllerström^Al", bytes((1 << 18) - 6) + "MÜLLERSTRÖM".encode() + bytes(1 << 18)),
    ],
)
def test_a_name_is_found_in_other_writings(checks: Any, name: str, text: str | bytes) -> None:
    charset = "ISO_IR 13" if isinstance(text, bytes) and b"\xd4\xcf" in text else "ISO_IR 192"
    assert remains(checks, text, PatientName=name, SpecificCharacterSet=charset) is not None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Hidenberg, Al", "Al2O3 coated"),
        ("Weiß^Al", b"\1wei\2ss\3"),
        ("Smythe-Lee^Al", "sleeve"),
        ("Müll^Al", "Mull"),
        ("Mu\u0308l^Al", "Formüll"),
    ],
)
def test_what_only_looks_like_one_holds_nothing_back(checks: Any, name: str, text: str | bytes) -> None:
    assert remains(checks, text, PatientName=name) is None


def test_an_item_may_have_its_own_character_set(checks: Any) -> None:
    before, item, copy = original(), Dataset(), Dataset()
    item.SpecificCharacterSet, item.PatientName = "ISO_IR 144", "Люксембург^Иван"
    before.ReferencedPatientSequence = [item]
    copy.private_block(0x29, "ACME", create=True).add_new(0x10, "UN", "Люксембург".encode("iso8859_5"))
    assert checks.what_remains(copy, before, KEPT) is not None


def test_a_short_part_of_a_name_is_in_pixels_by_chance(checks: Any) -> None:
    before, copy = original(), Dataset()
    before.PatientName = "Abcd^Li"
    copy.add_new(0x7FE00010, "OB", b"\1\2abcd\3\4 Li ^ abcd")
    assert checks.what_remains(copy, before, KEPT) is None
