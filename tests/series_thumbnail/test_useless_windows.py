# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: an image whose own window leaves nothing to be seen is shown in its pixels' own range."""

from __future__ import annotations

import struct

import pytest
from PIL import Image, ImageStat
from pydicom.dataset import Dataset

from testing.dicom import make_study
from testing.server import OrthancServer
from tests.series_thumbnail.helpers import thumbnail

SIDE = 64


@pytest.fixture(scope="module")
def server(gallery: OrthancServer) -> OrthancServer:
    return gallery


def shown(server: OrthancServer, values: list[int], center: int, width: int, *, in_groups: bool = False) -> Image.Image:
    """The thumbnail of an image of columns of these values, with a window of its own, or of its functional groups."""

    def change(dataset: Dataset) -> None:
        window = Dataset()
        for each in (dataset, window):
            each.WindowCenter, each.WindowWidth = str(center), str(width)
        if in_groups:
            del dataset.WindowCenter, dataset.WindowWidth
            group = Dataset()
            group.FrameVOILUTSequence = [window]
            dataset.SharedFunctionalGroupsSequence = [group]
        dataset.PixelData = struct.pack(f"<{SIDE}H", *values) * SIDE

    name = f"USELESS {values[0]} {values[-1]} {center} {in_groups}"
    stored = server.store(make_study(patient_id=name, rows=SIDE, columns=SIDE, change=change))[0]
    return thumbnail(server, "series", stored["ParentSeries"], format="png").convert("L")


@pytest.mark.parametrize("in_groups", [False, True])
@pytest.mark.parametrize(("center", "width"), [(30000, 100), (10, 20), (2000, 60000)])
def test_a_window_beyond_all_values_is_not_used(
    server: OrthancServer, center: int, width: int, in_groups: bool
) -> None:
    image = shown(server, [1000 + 10 * x for x in range(SIDE)], center, width, in_groups=in_groups)
    row = image.tobytes()[: image.width]
    assert row[2] < 20
    assert abs(row[64] - 128) < 10
    assert row[125] > 235


def test_pixels_that_are_all_the_same_stay_as_the_window_shows_them(server: OrthancServer) -> None:
    image = shown(server, [1000] * SIDE, 1100, 400)
    darkest, brightest = ImageStat.Stat(image).extrema[0]
    assert 60 < darkest == brightest < 68


def test_a_dim_image_stays_dim(server: OrthancServer) -> None:
    image = shown(server, list(range(SIDE)), 128, 256)
    assert ImageStat.Stat(image).extrema[0][1] < 66
