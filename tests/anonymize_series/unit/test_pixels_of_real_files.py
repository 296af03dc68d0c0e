# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real files: their pixels stay as they are, and what is no pixel is removed in them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_fragments, generate_frames

from tests.corpus import corpus_files

LARGEST_DECODED_BYTES = 200_000  # JPEG 2000 takes a second for a megabyte
UNCLEAR = {"badVR.dcm", "nested_priv_SQ.dcm"}  # NumberOfFrames is 1A; there are no Rows


def with_pixels(path: Path) -> Any:
    """Return a data set with pixel data and a transfer syntax; None for another one."""
    try:
        dataset = pydicom.dcmread(path, force=True)
        return dataset if dataset.get("PixelData") and "TransferSyntaxUID" in dataset.file_meta else None
    except Exception:  # noqa: BLE001 - broken on purpose
        return None


def pictures(value: bytes, count: int) -> list[bytes | None]:
    """Return the pixels of each frame; None where Pillow can't decode it (lossless JPEG, JPEG-LS, 12 bits)."""
    found: list[bytes | None] = []
    for frame in generate_frames(value, number_of_frames=count):
        try:
            found.append(Image.open(io.BytesIO(frame)).tobytes())
        except (OSError, Image.DecompressionBombError):
            found.append(None)
    return found


@pytest.mark.filterwarnings("ignore")
def test_pixels_of_real_files_stay_as_they_are(source: Callable[[str], ModuleType]) -> None:
    clean_pixels = source("anonymize_series.pixel_data").clean_pixels
    unclear, changed, decoded = set(), 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, path in corpus_files():
            if (dataset := with_pixels(path)) is None:
                continue
            before = dataset.PixelData
            if clean_pixels(dataset, dataset, frozenset()):
                unclear.add(path.name)
            elif (after := dataset.PixelData) != before:
                assert dataset["PixelData"].is_undefined_length, name  # native pixels stay
                lengths = [[len(each) for each in generate_fragments(one)] for one in (after, before)]
                assert lengths[0] == lengths[1], name
                changed += 1
                if len(before) <= LARGEST_DECODED_BYTES:
                    count = int(dataset.get("NumberOfFrames") or 1)
                    frames = pictures(before, count)
                    assert pictures(after, count) == frames, name
                    decoded += any(frames)
    assert unclear <= UNCLEAR
    assert decoded > 10, changed
