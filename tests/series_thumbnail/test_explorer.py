# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_thumbnail.py: Orthanc Explorer in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from testing.dicom import make_study, pydicom_files
from testing.pytest_plugin import StartOrthanc
from tests.series_thumbnail.helpers import ROOT, SCRIPT

SHOTS = ROOT / "build" / "screenshots"
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
LOADED = "[...document.querySelectorAll('.ui-page-active img.series-thumbnail')].filter(each => each.naturalWidth > 0).length"


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened
        browser.close()
    assert errors == []


def text_of(page: Page, address: str, expected: str) -> str:
    """What a person can read on a page of Orthanc Explorer, once it says what is expected; without Orthanc's own button
    for the attachment, which is there when the picture has been kept."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_function(
        "text => (document.querySelector('.ui-page-active')?.innerText || '').includes(text)", arg=expected
    )
    lines = page.inner_text(".ui-page-active").splitlines()
    return "\n".join(line for line in lines if line.strip() and "4301" not in line)


def test_orthanc_explorer_shows_the_pictures_on_pages_and_in_lists(
    start_orthanc: StartOrthanc, page: Page, orthanc_version: tuple[int, ...]
) -> None:
    configurations: list[tuple[Path | None, dict[str, Any]]] = [
        (SCRIPT, {}), (SCRIPT, {"SeriesThumbnail": {"Explorer": False}}), (None, {})]  # fmt: skip
    servers = [start_orthanc(script, {**more, "StableAge": 3600}) for script, more in configurations]
    report = next(path for path in pydicom_files() if path.name == "test-SR.dcm")
    for server in servers:
        stored = server.store(make_study(patient_id="EXPLORED", series=3, instances=2))
        server.store(report)
    study, series = stored[0]["ParentStudy"], stored[0]["ParentSeries"]
    SHOTS.mkdir(parents=True, exist_ok=True)
    for name, hash_, expected, pictures in (
        ("studies", "find-studies", "Generated study", 2),
        ("study", f"study?uuid={study}", "Series 3", 1 + 3),
        ("series", f"series?uuid={series}", "Instance: 2", 1 + 1 + 2),
    ):
        texts = []
        for server in servers:
            texts.append(text_of(page, f"{server.url}/app/explorer.html#{hash_}", expected))
            shown = pictures if server is servers[0] else 0
            page.wait_for_function(f"{LOADED} == {shown}")
            assert page.locator(".ui-page-active img.series-thumbnail").count() == shown
            if server is servers[0]:
                page.screenshot(path=SHOTS / f"{name}-{'.'.join(map(str, orthanc_version))}.png")
        assert texts[0] == texts[1] == texts[2]  # nothing else has changed
    page.click("#list-instances a")  # pictures stand in no link's way
    page.wait_for_function("location.hash.startsWith('#instance?uuid=')")
