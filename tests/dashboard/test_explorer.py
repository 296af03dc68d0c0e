# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py and Orthanc Explorer: a link to the page, beside what other scripts add there."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from testing.pytest_plugin import StartOrthanc
from tests.dashboard.helpers import ROOT, SHOTS, Watched, combine


def test_orthanc_explorer_has_a_link_to_the_page(start_orthanc: StartOrthanc, seen: Watched, tmp_path: Path) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    script = combine(tmp_path / "all.py", ROOT / "dashboard.py", ROOT / "series_thumbnail.py")
    server = start_orthanc(script)
    page = seen.page
    page.goto(f"{server.url}/app/explorer.html")
    link = page.locator(".ui-page-active").get_by_role("link", name="Dashboard")
    expect(link).to_have_count(1)
    page.screenshot(path=SHOTS / "explorer.png")
    link.click()
    expect(page).to_have_url(f"{server.url}/dashboard")
    expect(page.get_by_role("heading", name="Flow")).to_be_visible()
    without = start_orthanc(ROOT / "dashboard.py", {"Dashboard": {"Explorer": False}})
    page.goto(f"{without.url}/app/explorer.html")
    expect(page.locator(".ui-page-active")).to_be_visible()
    expect(page.get_by_role("link", name="Dashboard")).to_have_count(0)
