# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py in a real browser: what an operator sees and does, on a real Orthanc with all scripts combined."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.dashboard.helpers import AWAY_NAME, SHOTS, Pair, Watched

PANELS = ["flow", "destinations", "deliveries", "jobs", "retention", "audit", "scripts"]
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_each_panel_is_shown_without_an_error_and_axe_finds_nothing_serious(
    pair: Pair, browser: Browser, look: str
) -> None:
    """The pictures are for people: build/dashboard/."""
    size = {"width": 360, "height": 740} if look == "phone" else {"width": 1280, "height": 800}
    watched = Watched(browser, viewport=size, color_scheme="dark" if look == "dark" else "light", bypass_csp=True)
    SHOTS.mkdir(parents=True, exist_ok=True)
    for panel in PANELS:
        page = watched.open(pair.main.url, panel)
        page.wait_for_timeout(300)
        page.screenshot(path=SHOTS / f"{panel}-{look}.png", full_page=True)
        assert page.evaluate(WIDER) <= 0, f"{panel} is wider than the screen"
        found = Axe().run(page).response["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert serious == [], f"{panel}: {[(each['id'], [node['html'] for node in each['nodes']]) for each in serious]}"
    watched.page.context.close()
    assert watched.errors == []


def test_the_first_view_says_what_failed_and_leads_there(pair: Pair, seen: Watched) -> None:
    page = seen.open(pair.main.url)
    failed = page.get_by_role("link", name=re.compile(f"[1-3] deliver(y|ies) to {AWAY_NAME} failed for good"))
    expect(failed).to_be_visible()
    expect(page.locator("header .health")).to_contain_text("1 thing needs you")
    failed.click()
    expect(page.get_by_role("heading", name=AWAY_NAME)).to_be_visible()
    expect(page.locator("main .card")).to_contain_text("Failed for good")


def test_a_destination_is_paused_and_resumed_and_a_dialog_can_be_cancelled(pair: Pair, seen: Watched) -> None:
    def is_paused() -> bool:
        return bool(pair.main.get("/auto-forward-modality/destinations")["PACS"]["Paused"])

    page = seen.open(pair.main.url, "destinations")
    page.get_by_role("button", name="Pause PACS").click()
    expect(page.get_by_role("dialog")).to_contain_text("Nothing more is sent to PACS")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert not is_paused()
    page.get_by_role("button", name="Pause PACS").click()
    seen.answer("Pause", "PACS is paused")
    assert is_paused()
    page.get_by_role("button", name="Resume PACS").click()
    seen.answer("Resume", "PACS is resumed")
    assert not is_paused()


def test_the_audit_log_is_searched(pair: Pair, seen: Watched) -> None:
    page = seen.open(pair.main.url, "audit")
    expect(page.locator("main table")).to_contain_text("received")
    page.get_by_label("PatientID").fill("1CT1")
    page.get_by_label("Event").fill("received")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("main")).to_contain_text("1 line fits")
    expect(page.locator("main tbody tr")).to_have_count(1)
    assert "patient=1CT1" in page.url
    page.get_by_role("link", name="Clear").click()
    expect(page.locator("main")).to_contain_text("newest")


def test_a_script_and_a_job_have_an_address(pair: Pair, seen: Watched) -> None:
    page = seen.open(pair.main.url, "scripts/audit_log")
    expect(page.locator("main .card")).to_contain_text("audit_log")
    job = pair.main.get("/jobs")[0]
    seen.open(pair.main.url, f"jobs/{job}")
    expect(page.locator("main .card")).to_contain_text(job)


def test_what_failed_is_retried_and_seen_delivered(pair: Pair, seen: Watched) -> None:
    """It starts the destination that was away: after this, nothing fails."""
    page = seen.open(pair.main.url, "deliveries?state=dead")
    page.locator("main tbody th a").first.click()
    expect(page.get_by_role("heading", name="Failed attempts")).to_be_visible()
    expect(page.locator("main .card img").first).to_be_visible()
    page.screenshot(path=SHOTS / "deliveries-one.png")
    pair.dead.start()
    page.locator("main .card").get_by_role("button", name="Retry").click()
    seen.answer("Retry", "waits to be sent")
    expect(page.locator("main .card .title-row")).to_contain_text(
        "delivered", timeout=90_000
    )  # it is probed once a minute
    page.get_by_role("navigation", name="Panels").get_by_role("link", name="Destinations").click()
    if pair.main.get("/auto-forward-modality/destinations")[AWAY_NAME]["Totals"]["dead"]:
        page.get_by_role("button", name=f"Retry all that failed to {AWAY_NAME}").click()
        seen.answer("Retry all", f"to be sent to {AWAY_NAME} again")
    page.get_by_role("navigation", name="Panels").get_by_role("link", name="Flow").click()
    expect(page.locator(".calm")).to_have_text("Nothing needs you.", timeout=60_000)
    pair.dead.wait_until(lambda: len(pair.dead.get("/studies")) == 3, what="get all studies")
    row = pair.main.get("/auto-forward-modality/deliveries", destination=AWAY_NAME)["Items"][0]["ID"]
    seen.open(pair.main.url, f"deliveries/auto_forward_modality/{row}")
    page.get_by_role("button", name=f"Send delivery {row} again").click()
    seen.answer("Send again", "waits to be sent")
    page.get_by_role("button", name=f"Drop delivery {row}").click()
    seen.answer("Drop", "is dropped")
    assert pair.main.request("GET", f"/auto-forward-modality/deliveries/{row}").status_code == 404


def test_a_dry_run_shows_what_a_rule_would_take_and_deletes_nothing(pair: Pair, seen: Watched) -> None:
    """After all is delivered: what is owed to a destination is left out."""
    studies = pair.main.get("/statistics")["CountStudies"]
    page = seen.open(pair.main.url, "retention")
    page.get_by_role("button", name="What would it take now?").click()
    expect(page.get_by_label("Rule seven years")).to_contain_text("Studies by year")
    page.get_by_role("button", name="Count by year and modality").click()
    counted = page.get_by_role("region", name="What the archive holds")
    expect(counted).to_contain_text("2004")
    expect(counted).to_contain_text("MR")
    page.screenshot(path=SHOTS / "retention-dry-run.png", full_page=True)
    assert pair.main.get("/statistics")["CountStudies"] == studies
