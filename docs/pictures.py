# SPDX-License-Identifier: AGPL-3.0-or-later
"""Takes the pictures of docs/images/ from a real Orthanc Explorer with real images: `make docs-images`."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import sync_playwright

from testing.dicom import pydicom_files
from testing.server import OrthancServer

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs/images"
# Files of the package pydicom: public images of several kinds, and a report, which gets an icon.
SHOWN = ("MR_small.dcm", "examples_rgb_color.dcm", "test-SR.dcm", "waveform_ecg.dcm")
CHROMIUM = {"executable_path": "/usr/bin/chromium", "args": ["--no-sandbox", "--hide-scrollbars"]}
ALIKE = 2.0  # mean difference of pixels, of 255: fonts and versions of Chromium differ a little


def take_explorer() -> bytes:
    """Return a picture (PNG) of Orthanc Explorer's list of studies with their thumbnails."""
    with tempfile.TemporaryDirectory() as folder:
        server = OrthancServer(Path(folder), ROOT / "series_thumbnail.py", {"StableAge": 3600}).start()
        try:
            for name in SHOWN:
                server.store([path for path in pydicom_files() if path.name == name])
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(**CHROMIUM)  # type: ignore[arg-type]
                page = browser.new_page(viewport={"width": 900, "height": 760})
                page.goto(f"{server.url}/app/explorer.html#find-studies")
                loaded = "img => img.complete && img.naturalWidth > 0"
                images = "[...document.querySelectorAll('.ui-page-active img.series-thumbnail')]"
                page.wait_for_function(f"{images}.length == 4 && {images}.every({loaded})")
                page.wait_for_timeout(1000)
                taken = page.screenshot()
                browser.close()
        finally:
            server.kill()
            server.close()
    return taken


def difference(one: bytes, other: bytes) -> float:
    """Return by how much the pixels of two pictures differ on average, from 0 to 255; of different sizes by 255."""
    images = [Image.open(io.BytesIO(each)).convert("L") for each in (one, other)]
    if images[0].size != images[1].size:
        return 255.0
    return float(ImageStat.Stat(ImageChops.difference(*images)).mean[0])


def main() -> None:
    """Write each picture that differs from what is there."""
    path, taken = IMAGES / "explorer.png", take_explorer()
    if path.exists() and difference(path.read_bytes(), taken) < ALIKE:
        return
    path.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(taken)).quantize(128).save(path, optimize=True)
    sys.stdout.write(f"{path.relative_to(ROOT)} is new\n")


if __name__ == "__main__":
    main()
