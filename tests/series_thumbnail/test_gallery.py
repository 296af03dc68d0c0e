# SPDX-License-Identifier: AGPL-3.0-or-later
"""The thumbnail of each real file, stored as it is, is like what Orthanc shows; `make gallery` shows them to people."""

from __future__ import annotations

import pytest

from testing.pytest_plugin import StartOrthanc
from tests.series_thumbnail.gallery import CONFIGURATION, FOLDER, SIZE, Entry, colour, deviation, entries, write_page
from tests.series_thumbnail.helpers import SCRIPT

# Cut-outs of 16 x 16 pixels whose values are a small part of the window that the whole image had: dim, and still to be seen.
DIM = {
    f"pydicom/data/test_files/dicomdirtests/{name}"
    for name in (
        "77654033/CR1/6154",
        "77654033/CR3/6278",
        "98892003/MR2/15970",
        "98892003/MR2/4981",
        "98892003/MR700/4648",
        "98892003/MR700/4678",
    )
}
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"  # which gets an icon


@pytest.fixture(scope="module")
def found(start_orthanc_for_module: StartOrthanc) -> list[Entry]:
    return entries(start_orthanc_for_module(SCRIPT, CONFIGURATION))


def is_in_deep_colours(entry: Entry) -> bool:
    """Whether a colour has 16 bits: Orthanc 1.13.0 has a `/preview` of these, and no `/rendered`; older ones have neither."""
    return bool(entry.dataset.SamplesPerPixel == 3 and entry.dataset.BitsAllocated == 16)


@pytest.fixture(scope="module")
def drawn(found: list[Entry]) -> list[Entry]:
    """Those that have a thumbnail."""
    drawn = [entry for entry in found if not entry.is_icon]
    assert len(drawn) > 120
    return drawn


def test_each_stored_file_has_a_thumbnail_or_an_icon(found: list[Entry]) -> None:
    assert [entry.name for entry in found if not entry.refused and entry.thumbnail is None] == []


def test_what_orthanc_can_show_is_no_icon(found: list[Entry]) -> None:
    icons = [entry for entry in found if entry.is_icon and entry.preview and not is_in_deep_colours(entry)]
    assert [entry.name for entry in icons if entry.dataset.SOPClassUID != SEGMENTATION] == []


def test_no_thumbnail_is_flat_where_the_preview_is_not(drawn: list[Entry]) -> None:
    pairs = [(entry.name, entry.thumbnail, entry.preview) for entry in drawn]
    flat = {name for name, one, other in pairs if one and other and deviation(one) * 3 < deviation(other)}
    assert flat == DIM


def test_no_thumbnail_is_inverted(drawn: list[Entry]) -> None:
    likeness = {entry.name: entry.likeness for entry in drawn if entry.likeness is not None}
    assert len(likeness) > 100
    assert {name: figure for name, figure in likeness.items() if figure <= 0} == {}


def test_each_thumbnail_has_the_proportions_of_the_image(drawn: list[Entry]) -> None:
    wrong = {}
    for entry in drawn:
        assert entry.thumbnail
        size, tall = entry.thumbnail.size, entry.proportions
        right = (SIZE / max(1, tall), SIZE * min(1, tall))
        if any(abs(a - b) > 1 for a, b in zip(size, right, strict=True)):
            wrong[entry.name] = (size, right)
    assert wrong == {}


def test_colours_are_shown_where_there_are_colours(drawn: list[Entry]) -> None:
    pairs = [(entry.name, entry.thumbnail, entry.preview) for entry in drawn]
    grey = [name for name, one, other in pairs if one and other and colour(one) * 2 < colour(other)]
    assert grey == []
    assert sum(colour(one) > 5 for _, one, _ in pairs if one) > 20


def test_the_page_shows_each_stored_file(found: list[Entry]) -> None:
    write_page(found, FOLDER)  # where `make gallery` has it: to be looked at after a run of the tests
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert [entry.name for entry in found if entry.name not in page] == []
    pictures = [one for entry in found for one in (entry.thumbnail, entry.preview) if one]
    assert len(list(FOLDER.glob("*.png"))) == len(pictures)
    assert "MR, MONOCHROME2, Explicit VR Little Endian, likeness 0.9" in page
