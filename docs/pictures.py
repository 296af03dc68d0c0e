# SPDX-License-Identifier: AGPL-3.0-or-later
"""Takes the pictures of docs/images/ from real Orthancs with real images: `make docs-images`."""

import contextlib
import io
import math
import sqlite3
import subprocess
import sys
import tempfile
import time
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
COMBINED = (
    "dashboard.py",
    "auto_forward_modality.py",
    "auto_retries.py",
    "purge_old_studies.py",
    "series_thumbnail.py",
    "audit_log.py",
)
DAY_MINUTES = 24 * 60
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


def fill_the_day(folder: Path) -> None:
    """Write a day of figures into the dashboard's state: more by day than by night, and an hour in which nothing was sent."""
    now = int(time.time() // 60)
    with contextlib.closing(sqlite3.connect(folder / "storage" / "dashboard.sqlite")) as db, db:
        for minute in range(now - DAY_MINUTES, now):
            busy = max(0.0, math.sin((minute - now + DAY_MINUTES) / DAY_MINUTES * math.pi)) ** 2
            received = int(180 * busy * (0.6 + 0.4 * math.sin(minute / 7.0)) + 4)
            away = now - 420 < minute < now - 360
            row = (minute, received, 0 if away else received, received * away, 0, 0.0, 400_000_000_000 + minute)
            db.execute("INSERT OR REPLACE INTO minutes VALUES(?,?,?,?,?,?,?)", row)


def take_dashboard() -> bytes:
    """Return a picture (PNG) of the dashboard: one destination works, another one is away."""
    with tempfile.TemporaryDirectory() as folder:
        combined = Path(folder) / "all.py"
        scripts = [str(ROOT / name) for name in COMBINED]
        subprocess.run([sys.executable, str(ROOT / "combine.py"), *scripts, "-o", str(combined)], check=True)
        works = OrthancServer(Path(folder) / "works", None, {"StableAge": 3600}, aet="PACS").start()
        nodes = {"PACS": works.as_modality(), "RESEARCH": ["RESEARCH", "127.0.0.1", 1]}
        configuration = {"Name": "Radiology", "StableAge": 1, "DicomModalities": nodes}
        forwards = {"AutoForwardModality": {"Destinations": [*nodes]}}
        server = OrthancServer(Path(folder) / "server", combined, {**configuration, **forwards}).start()
        try:
            server.wait_until(lambda: server.request("GET", "/dashboard/flow").ok, what="start")
            server.kill()
            fill_the_day(server.folder)
            server.start()
            for name in SHOWN[:3]:
                server.store([path for path in pydicom_files() if path.name == name])
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(**CHROMIUM)  # type: ignore[arg-type]
                page = browser.new_page(viewport={"width": 1180, "height": 800})
                page.goto(f"{server.url}/dashboard")
                page.get_by_text("RESEARCH is away, 3 deliveries wait").wait_for(timeout=60_000)
                page.wait_for_timeout(1000)
                taken = page.screenshot(full_page=True)
                browser.close()
        finally:
            for each in (server, works):
                each.kill()
                each.close()
    return taken


def difference(one: bytes, other: bytes) -> float:
    """Return by how much the pixels of two pictures differ on average, from 0 to 255; of different sizes by 255."""
    images = [Image.open(io.BytesIO(each)).convert("L") for each in (one, other)]
    if images[0].size != images[1].size:
        return 255.0
    return float(ImageStat.Stat(ImageChops.difference(*images)).mean[0])


def main() -> None:
    """Write each picture that differs from what is there."""
    for name, take in (("explorer.png", take_explorer), ("dashboard.png", take_dashboard)):
        path, taken = IMAGES / name, take()
        if path.exists() and difference(path.read_bytes(), taken) < ALIKE:
            continue
        path.parent.mkdir(exist_ok=True)
        Image.open(io.BytesIO(taken)).quantize(128).save(path, optimize=True)
        sys.stdout.write(f"{path.relative_to(ROOT)} is new\n")


if __name__ == "__main__":
    main()
