# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py and Orthanc Explorer: a link to the page, beside what other scripts add there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urljoin

from playwright.sync_api import expect

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.dashboard.helpers import ROOT, SHOTS, Watched, combine

PAGE = ROOT / "docs/dashboard.md"


def test_a_button_of_orthanc_explorer_2_leads_to_the_deliveries_of_the_study(
    start_orthanc: StartOrthanc, seen: Watched, tmp_path: Path
) -> None:
    """Debian does not have that plugin: the configuration of docs/dashboard.md is read as its sources do (1.8.0 and later)."""
    [block] = re.findall(r"```json\n(\{\n  \"OrthancExplorer2\".*?)```", PAGE.read_text(), re.DOTALL)
    [button] = json.loads(block)["OrthancExplorer2"]["UiOptions"]["CustomButtons"]["study"]
    assert button.keys() == {"Id", "HttpMethod", "Tooltip", "Icon", "Target", "Url"}
    assert (button["HttpMethod"], button["Icon"].split()[0]) == ("GET", "bi")
    script = combine(tmp_path / "all.py", ROOT / "dashboard.py", ROOT / "auto_forward_peer.py")
    section = {"AutoForwardPeer": {"Destinations": ["away"]}, "OrthancPeers": {"away": ["http://127.0.0.1:1/"]}}
    server = start_orthanc(script, {**section, "StableAge": 1})
    server.store([*make_study(patient_id="ONE"), *make_study(patient_id="OTHER")])
    server.wait_until(lambda: server.get("/auto-forward-peer/deliveries")["Total"] == 2, what="decide")
    [study] = server.post("/tools/find", {"Level": "Study", "Query": {"PatientID": "OTHER"}})
    url = button["Url"].replace("{UUID}", study)
    seen.page.goto(urljoin(f"{server.url}/ui/app/index.html", url))  # where Orthanc Explorer 2 is
    rows = seen.page.get_by_role("table", name="Deliveries").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("OTHER")


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
