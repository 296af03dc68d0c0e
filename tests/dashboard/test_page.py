# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py in a real browser: what an operator sees and does, on a real Orthanc with all scripts combined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dashboard.helpers import SECTIONS, SHOTS, Watched, chromium, combine

PANELS = ["flow", "destinations", "scripts"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def seen(browser: Browser) -> Iterator[Watched]:
    watched = Watched(browser)
    yield watched
    watched.page.context.close()
    assert watched.errors == []


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory) -> OrthancServer:
    """All scripts, one destination that works, and one that is away."""
    works = start_orthanc_for_module(None, {"StableAge": 3600}, aet="PACS")
    found = start_orthanc_for_module(
        combine(tmp_path_factory.mktemp("combined") / "all.py"),
        {
            **SECTIONS,
            "StableAge": 1,
            "Name": "Radiology",
            "DicomModalities": {"PACS": works.as_modality(), "RESEARCH": ["RESEARCH", "127.0.0.1", 1]},
            "AutoForwardModality": {"Destinations": ["PACS", "RESEARCH"]},
        },
    )
    found.store(make_study(instances=3))
    found.wait_until(
        lambda: {each["State"] for each in found.get("/dashboard/summary")["Destinations"]} == {"up", "away"},
        what="forward to one destination and miss the other",
        timeout=60,
    )
    return found


def test_the_first_view_says_what_is_away(server: OrthancServer, seen: Watched) -> None:
    page = seen.open(server.url)
    expect(page.locator(".alerts")).to_contain_text("RESEARCH is away, 1 delivery waits")
    expect(page.locator("header .health")).to_contain_text("Works, with a delay")
    page.get_by_role("link", name="RESEARCH is away").click()
    expect(page.get_by_role("heading", name="RESEARCH")).to_be_visible()
    expect(page.locator("main .card")).to_contain_text("Connection refused")


def test_a_destination_is_paused_and_resumed(server: OrthancServer, seen: Watched) -> None:
    page = seen.open(server.url, "destinations")
    page.get_by_role("button", name="Pause PACS").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nothing more is sent to PACS")
    dialog.get_by_role("button", name="Cancel").click()
    assert not server.get("/auto-forward-modality/destinations")["PACS"]["Paused"]
    page.get_by_role("button", name="Pause PACS").click()
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_contain_text("PACS is paused")
    dialog.get_by_role("button", name="Close").click()
    assert server.get("/auto-forward-modality/destinations")["PACS"]["Paused"]
    page.get_by_role("button", name="Resume PACS").click()
    dialog.get_by_role("button", name="Resume").click()
    expect(dialog).to_contain_text("PACS is resumed")
    assert not server.get("/auto-forward-modality/destinations")["PACS"]["Paused"]


def test_no_inline_script_or_style_runs(server: OrthancServer, seen: Watched) -> None:
    page = seen.open(server.url)
    ran = page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            const image = document.createElement("img");
            image.setAttribute("onerror", "window.ran = true");
            image.src = "data:,";
            document.body.append(image);
            return new Promise((done) => setTimeout(() => done(window.ran === true), 500));
        }"""
    )
    assert ran is False
    assert len(seen.errors) >= 2
    assert all("Content Security Policy" in each for each in seen.errors)
    seen.errors.clear()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_each_panel_is_shown_without_an_error(server: OrthancServer, browser: Browser, look: str) -> None:
    """The pictures are for people: build/dashboard/."""
    size = {"width": 360, "height": 740} if look == "phone" else {"width": 1280, "height": 800}
    watched = Watched(browser, viewport=size, color_scheme="dark" if look == "dark" else "light")
    SHOTS.mkdir(parents=True, exist_ok=True)
    for panel in PANELS:
        page = watched.open(server.url, panel)
        page.wait_for_timeout(300)
        page.screenshot(path=Path(SHOTS / f"{panel}-{look}.png"), full_page=True)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, f"{panel} is wider than the screen"
    watched.page.context.close()
    assert watched.errors == []
