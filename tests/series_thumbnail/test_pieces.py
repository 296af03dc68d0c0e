# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: which image it chooses, what it draws and keeps, without a server."""

from __future__ import annotations

import importlib
import io
import math
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from testing.standin import StandIn
from tests.series_thumbnail.helpers import ROOT


def slices(*tags: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ID": str(number), "MainDicomTags": each} for number, each in enumerate(tags)]


def test_the_order_is_that_of_positions_along_the_normal_whatever_the_numbers_say(script: ModuleType) -> None:
    oblique = "0.8\\0.6\\0\\0\\0\\-1"  # the normal is (-0.6, 0.8, 0)
    found = slices(
        *(
            {
                "ImageOrientationPatient": oblique,
                "ImagePositionPatient": f"{-0.6 * at + 5}\\{0.8 * at}\\{7 * at}",
                "InstanceNumber": str(number),
            }
            for number, at in enumerate((3, -10, 2.5, 100, 0))
        )
    )
    assert script.in_order(found) == ["1", "4", "2", "0", "3"]


@pytest.mark.parametrize(
    ("tags", "order"),
    [
        ([{"InstanceNumber": "9"}, {"InstanceNumber": "10"}, {"InstanceNumber": "-1"}], "201"),
        ([{}, {"InstanceNumber": ""}, {"InstanceNumber": "one"}], "012"),
        ([{"InstanceNumber": "2"}, {}, {"InstanceNumber": "1"}], "201"),
        # Not parallel, not all with a position, not numbers, a normal of nothing: then no position counts.
        ([{"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\9", "InstanceNumber": "1"},
          {"ImageOrientationPatient": "0\\1\\0\\0\\0\\1", "ImagePositionPatient": "0\\0\\1", "InstanceNumber": "2"}], "01"),
        ([{"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\9", "InstanceNumber": "1"},
          {"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "InstanceNumber": "2"}], "01"),
        ([{"ImageOrientationPatient": "1\\0\\0\\1\\0\\0", "ImagePositionPatient": "0\\0\\9", "InstanceNumber": "1"},
          {"ImageOrientationPatient": "1\\0\\0\\1\\0\\0", "ImagePositionPatient": "0\\0\\1", "InstanceNumber": "2"}], "01"),
        ([{"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\nan", "InstanceNumber": "2"},
          {"ImageOrientationPatient": "1\\0\\0\\0\\1\\0", "ImagePositionPatient": "0\\0\\1e999", "InstanceNumber": "1"}], "10"),
    ],
)  # fmt: skip
def test_without_positions_instance_numbers_order_and_then_arrival(
    script: ModuleType, tags: list[dict[str, str]], order: str
) -> None:
    assert "".join(script.in_order(slices(*tags))) == order


@given(st.integers(0, 60))
def test_each_instance_is_tried_once_from_the_middle_outwards(count: int) -> None:
    with StandIn("4.0").installed():
        sys.path.insert(0, str(ROOT))
        from_the_middle = importlib.import_module("series_thumbnail").from_the_middle
        sys.path.remove(str(ROOT))
    items = [str(number) for number in range(count)]
    found = list(from_the_middle(items))
    assert sorted(found) == sorted(items)
    assert not items or found[0] == items[count // 2]
    distances = [abs(int(each) - count // 2) for each in found]
    assert distances == sorted(distances)


@pytest.mark.parametrize(
    ("accept", "mime"),
    [("*/*", "image/jpeg"), ("image/png", "image/png"), ("image/*", "image/jpeg"), ("text/html, image/png;q=0.2", "image/png"),
     ("image/jpeg;q=0.1,image/png;q=0.9", "image/png"), ("image/jpeg;q=0, */*", "image/png"), ("text/html", None),
     ("image/jpeg;q=0,image/png;q=0", None), ("", "image/jpeg"), ("image/PNG ; Q=1", "image/png"), ("*/*;q=much", None)],
)  # fmt: skip
def test_accept_chooses_between_jpeg_and_png(script: ModuleType, accept: str, mime: str | None) -> None:
    assert script.preferred_type(accept, (script.JPEG, script.PNG)) == mime


def test_pixels_that_are_no_squares_are_shown_in_their_true_proportions(script: ModuleType) -> None:
    aspect = script.pixel_aspect
    assert aspect({"PixelSpacing": "2\\1"}) == 2
    assert aspect({"PixelAspectRatio": "1\\4"}) == 0.25
    measures = [{"PixelMeasuresSequence": [{"PixelSpacing": "3\\1"}]}]
    assert aspect({"SharedFunctionalGroupsSequence": measures, "PixelAspectRatio": "1\\1"}) == 3
    assert [
        aspect({"PixelSpacing": text}) for text in ("", "0\\1", "1", "a\\b", "1\\1\\1", "-1\\1", "1000\\1", "nan\\1")
    ] == [1] * 8
    assert script.fitted(64, 64, 2.0, 128) == (64, 128, 128)
    assert script.fitted(10000, 1, 1.0, 128)[:2] == (1, 128)


def test_a_note_goes_into_a_picture_and_out_again_and_the_picture_stays_one(script: ModuleType) -> None:
    look = script.RenderOptions(64, "image/jpeg", 80)
    icon = script.draw_icon("plan", look)
    noted = script.with_note(icon, "made of this")
    assert script.without_note(noted) == (icon, "made of this")
    assert script.without_note(icon) == (icon, "")
    assert Image.open(io.BytesIO(noted)).size == (64, 64)


def test_memory_holds_no_more_than_it_may_and_the_least_used_goes_first(script: ModuleType) -> None:
    cache = script.Cache(10 * (script.PICTURE_OVERHEAD_BYTES + 1000))
    look = script.RenderOptions(128, "image/jpeg", 80)
    pictures = {str(number): script.make_picture(bytes(1000), look, str(number)) for number in range(30)}
    for name, picture in pictures.items():
        cache.put(name, look, picture)
        cache.learn((f"/{name}", None, ()), name, look, picture)
        cache.put("0", look, cache.get("0", look))
    assert (cache.pictures, cache.bytes) == (10, 10 * (script.PICTURE_OVERHEAD_BYTES + 1000))
    assert [name for name in pictures if cache.get(name, look)] == ["0", *map(str, range(21, 30))]
    assert {picture.instance for picture in cache.answers.values()} == {"0", *map(str, range(21, 30))}
    for name in pictures:
        cache.drop(name)
    assert (cache.pictures, cache.bytes, cache.answers) == (0, 0, {})
    assert all(picture.checked == -math.inf for picture in pictures.values())
