# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py in a real browser: how each panel looks, and that each part is in its place whenever it arrives."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from testing.server import OrthancServer
from tests.dashboard.helpers import AWAY_NAME, PANELS, SHOTS, Pair, Watched

WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# What a panel shows, from top to bottom, by what it is called: headings, tables, figures, forms, lists, cards.
ORDER = """() => [...document.querySelectorAll("main *")]
    .filter((each) => each.matches("h1,h2,h3,caption,.figure-title,form,ol,dl,.alerts,.card,.calm,.pages,.choice"))
    .map((each) => `${each.tagName} ${each.className} ${each.matches("h1,h2,h3,caption,span") ? each.textContent : ""}`)"""
# The routes of each panel, as patterns.
ASKED = {
    "flow": ["/dashboard/flow"],
    "destinations/auto_forward_modality/PACS": [],
    "deliveries": [r"/deliveries\?", "/studies/"],
    "deliveries/{delivery}": [r"/deliveries\?", r"/deliveries/\d+", "/studies/"],
    "jobs/{job}": ["/jobs"],
    "retention": ["/purge-old-studies/status", "/purge-old-studies/jobs", "/dashboard/flow", "/dashboard/may-act"],
    "audit/{line}?event=received": ["/audit-log"],
    "rules": ["/rules", "/dashboard/may-act"],
    "events/{letter}": ["/dicom-events/status", r"/dead-letters\?", r"/dead-letters/\d+", "/dashboard/may-act"],
    "moves/1": ["/cmove-interceptor/status", "/cmove-interceptor/requests"],
    "deidentification": ["/anonymize-series/status", "/anonymize-series/jobs", "/anonymize-series/held"],
    "scripts/audit_log": ["/dashboard/may-act"],
}


def rows(server: OrthancServer) -> dict[str, Any]:
    """What a row of each panel is called in its address."""
    [dead, *_] = server.get("/auto-forward-modality/deliveries", state="dead")["Items"]
    [letter, *_] = server.get("/dicom-events/dead-letters")["Items"]
    return {
        "delivery": f"auto_forward_modality/{dead['ID']}",
        "letter": letter["ID"],
        "job": server.get("/jobs")[0],
        "line": server.get("/audit-log", event="received", limit=1)["Items"][0]["Number"],
    }


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_each_panel_is_shown_without_an_error_and_axe_finds_nothing_serious(
    pair: Pair, browser: Browser, look: str
) -> None:
    """The pictures are for people: build/dashboard/."""
    size = {"width": 360, "height": 740} if look == "phone" else {"width": 1280, "height": 800}
    watched = Watched(browser, viewport=size, color_scheme="dark" if look == "dark" else "light", bypass_csp=True)
    SHOTS.mkdir(parents=True, exist_ok=True)
    named = rows(pair.main)
    for panel in [*PANELS, *(panel.format(**named) for panel in ASKED if "/" in panel)]:
        page = watched.open(pair.main.url, panel)
        page.wait_for_timeout(300)
        name, *row = re.split("[/?]", panel)
        page.screenshot(path=SHOTS / f"{name}{'-one' if row else ''}-{look}.png", full_page=True)
        assert page.evaluate(WIDER) <= 0, f"{panel} is wider than the screen"
        found = Axe().run(page).response["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert serious == [], f"{panel}: {[(each['id'], [node['html'] for node in each['nodes']]) for each in serious]}"
    watched.page.context.close()
    assert watched.errors == []


class Late:
    """Answers to one route come when everything else is there."""

    def __init__(self, page: Page, route: str) -> None:
        self._page, self._pattern, self._held = page, re.compile(route), list[Route]()
        page.route(self._pattern, self._hold)

    def _hold(self, route: Route) -> None:
        if route.request.resource_type == "fetch":
            self._held.append(route)
        else:
            route.continue_()

    def answer(self) -> int:
        """Let the answers come, as they would have; return how many waited."""
        for route in self._held:
            route.continue_()
        self._page.unroute(self._pattern)
        return len(self._held)


@pytest.mark.parametrize("panel", ASKED)
def test_a_part_that_arrives_late_is_in_its_place(pair: Pair, seen: Watched, panel: str) -> None:
    address = f"{pair.main.url}/dashboard#/{panel.format(**rows(pair.main))}"
    page = seen.page

    def load() -> None:
        page.goto("about:blank")
        page.goto(address)
        page.wait_for_selector("main h1")

    load()
    page.wait_for_selector("main .loading", state="detached")
    page.wait_for_timeout(700)
    usual = page.evaluate(ORDER)
    for route in ["/dashboard/summary", *ASKED[panel]]:
        late = Late(page, route)
        load()
        page.wait_for_timeout(700)
        assert late.answer(), f"{panel} does not ask {route}"
        expect_order(page, usual, f"{panel}, {route} late")


def expect_order(page: Page, usual: list[str], when: str) -> None:
    for _ in range(50):
        if (found := page.evaluate(ORDER)) == usual:
            return
        page.wait_for_timeout(100)
    assert found == usual, when


def test_the_chart_of_a_server_that_gets_its_first_destination_stays_below_it(pair: Pair, seen: Watched) -> None:
    """What the summary has only later takes its place too."""

    def without(route: Route) -> None:
        found: dict[str, Any] = route.fetch().json()
        route.fulfill(json={**found, "Destinations": [], "Alerts": [], "Server": {**found["Server"], "Instances": 0}})

    page = seen.open(pair.main.url)
    page.wait_for_selector(".chart")
    page.wait_for_timeout(500)
    usual = page.evaluate(ORDER)
    page.route("**/dashboard/summary", without)
    page.reload()
    expect(page.get_by_text("Ready for the first study")).to_be_visible()
    expect(page.locator("main .empty")).to_contain_text(f"at port {pair.main.dicom_port}")
    page.wait_for_selector(".chart")
    page.unroute("**/dashboard/summary")
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect_order(page, usual, "when the first destination is there")


def test_a_dialog_can_be_left_by_a_key_and_nothing_is_done(pair: Pair, seen: Watched) -> None:
    page = seen.open(pair.main.url, "destinations")
    page.get_by_role("button", name="Pause PACS").click()
    expect(page.get_by_role("dialog")).to_contain_text("Nothing more is sent to PACS")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert not pair.main.get("/auto-forward-modality/destinations")["PACS"]["Paused"]


def test_deliveries_are_filtered_by_the_day_when_they_were_received(pair: Pair, seen: Watched) -> None:
    """Days are those of the viewer's zone; the last one counts whole."""
    today = datetime.datetime.now().astimezone().date()
    page = seen.open(pair.main.url, "deliveries")
    table = page.get_by_role("table", name="Deliveries, newest first")
    number = page.locator(".pages").first.inner_text()
    for first, last, fits in ((today, today, True), (today + datetime.timedelta(2), None, False)):
        page.get_by_label("Received from").fill(str(first))
        page.get_by_label("Received until").fill(str(last or ""))
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_text("Nothing fits this")).to_have_count(0 if fits else 1)
        expect(table).to_have_count(1 if fits else 0)
        if fits:
            assert page.locator(".pages").first.inner_text() == number
        assert f"from={first}" in page.url
    page.get_by_role("link", name="Clear").click()
    expect(table).to_have_count(1)
    page.get_by_label("Destination").select_option(AWAY_NAME)
    expect(page.get_by_label("Received from")).to_have_value("")


def test_a_rule_that_deletes_says_what_and_when(pair: Pair, seen: Watched) -> None:
    page = seen.open(pair.main.url, "retention")
    rule = page.get_by_label("Rule seven years")
    said = "Deletes studies dated 7 years ago or earlier; every day at 02:30. Those without a valid date stay."
    expect(rule).to_contain_text(said)


def test_a_rule_that_deletes_says_each_of_its_conditions(pair: Pair, seen: Watched) -> None:
    full = {
        **{"OlderThan": "1y", "At": "23:00", "Days": ["Monday", "Friday"], "By": "received", "Undated": "received"},
        **{"Query": {"ModalitiesInStudy": "CR\\DX"}, "Labels": ["a", "b"], "LabelsConstraint": "Any", "Limit": 1},
        **{"OnlyIfAt": ["PACS", "VNA"], "Proof": "C-FIND"},
    }
    space = {"WhenDiskAbove": "85%", "DownTo": "80%", "OldestBy": "StudyDate", "AtMost": 500, "OlderThan": "30d"}

    def with_rules(route: Route) -> None:
        found: dict[str, Any] = route.fetch().json()
        rules = [
            {**found["Rules"][0], "Name": name, "Conditions": each} for name, each in (("full", full), ("space", space))
        ]
        route.fulfill(json={**found, "Rules": rules})

    seen.page.route("**/purge-old-studies/status", with_rules)
    page = seen.open(pair.main.url, "retention")
    expect(page.get_by_label("Rule full")).to_contain_text(
        "Deletes studies that last changed 1 year ago or earlier, whose ModalitiesInStudy is CR or DX, "
        "with one of the labels a or b, that PACS and VNA can prove to have (DICOM nodes by C-FIND); "
        "on Monday and Friday at 23:00. "
        "At most 1 study a run, the oldest first. For one without a valid date, the day when it came in counts."
    )
    expect(page.get_by_label("Rule space")).to_contain_text(
        "Deletes studies dated 30 days ago or earlier; while the disk is above 85%, until it is down to 80%: the oldest first. "
        "At most 500 studies each time."
    )
