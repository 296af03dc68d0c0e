# SPDX-License-Identifier: AGPL-3.0-or-later
"""An operator's day on the dashboard: every panel, in a real browser, on a real Orthanc with all scripts and a real broker."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from tests.dashboard.helpers import AWAY_NAME, SHOTS, Pair, Watched, letters
from tests.dicom_events.brokers.helpers import RabbitConsumer

FORWARDER = "/auto-forward-modality"


class Operator:
    """Somebody who has never seen a log, and goes where the page leads."""

    def __init__(self, pair: Pair, seen: Watched) -> None:
        self.pair, self.main, self.seen, self.page = pair, pair.main, seen, seen.page

    def go(self, panel: str) -> None:
        self.page.get_by_role("navigation", name="Panels").get_by_role("link", name=panel).click()
        expect(self.page.get_by_role("heading", level=1, name=panel)).to_be_visible()

    def card(self) -> Locator:
        return self.page.locator("main .card")

    def sees_what_failed(self) -> None:
        page = self.seen.open(self.main.url)
        failed = page.get_by_role("link", name=re.compile(rf"\d deliver(y|ies) to {AWAY_NAME} failed for good"))
        expect(failed).to_be_visible()
        expect(page.get_by_role("link", name=re.compile("to rabbit failed for good"))).to_be_visible()
        expect(page.locator("header .health")).to_contain_text("things need you")
        failed.click()
        expect(page.get_by_role("heading", name=AWAY_NAME)).to_be_visible()
        expect(self.card()).to_contain_text("Failed for good")
        page.get_by_role("table", name="Destinations").get_by_role("row", name=AWAY_NAME).locator("a.bad").click()
        page.get_by_role("table", name="Deliveries").locator("tbody th a").first.click()
        expect(page.get_by_role("heading", name="Failed attempts")).to_be_visible()
        expect(self.card().locator("img").first).to_be_visible()  # the series of the study

    def retries_it(self) -> None:
        page = self.page
        page.screenshot(path=SHOTS / "deliveries-failed.png")
        self.pair.dead.start()
        self.card().get_by_role("button", name="Retry").click()
        self.seen.answer("Retry", "waits to be sent")
        # It is probed once a minute.
        expect(self.card().locator(".title-row")).to_contain_text("delivered", timeout=90_000)
        self.go("Destinations")
        if self.main.get(f"{FORWARDER}/destinations")[AWAY_NAME]["Totals"]["dead"]:
            page.get_by_role("button", name=f"Retry all that failed to {AWAY_NAME}").click()
            self.seen.answer("Retry all", f"to be sent to {AWAY_NAME} again")
        studies = len(self.main.get("/studies"))
        self.pair.dead.wait_until(
            lambda: len(self.pair.dead.get("/studies")) == studies, what="get all studies", timeout=90
        )

    def sends_one_again_and_drops_it(self) -> None:
        page = self.page
        self.go("Deliveries")
        page.get_by_label("Destination").select_option(AWAY_NAME)
        page.get_by_label("Patient or study").fill("1CT1")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("table", name="Deliveries").locator("tbody tr")).to_have_count(1)
        page.get_by_role("table", name="Deliveries").locator("tbody th a").click()
        self.card().get_by_role("button", name="again").click()
        self.seen.answer("Send again", "waits to be sent")
        row = page.url.partition("?")[0].rpartition("/")[2]
        page.get_by_role("button", name=f"Drop delivery {row}").click()
        self.seen.answer("Drop", "is dropped")
        assert self.main.request("GET", f"{FORWARDER}/deliveries/{row}").status_code == 404

    def pauses_and_resumes(self) -> None:
        def is_paused() -> bool:
            return bool(self.main.get(f"{FORWARDER}/destinations")["PACS"]["Paused"])

        self.go("Destinations")
        self.page.get_by_role("button", name="Pause PACS").click()
        self.seen.answer("Pause", "PACS is paused")
        assert is_paused()
        self.page.get_by_role("button", name="Resume PACS").click()
        self.seen.answer("Resume", "PACS is resumed")
        assert not is_paused()

    def tries_a_rule(self) -> None:
        page, before = self.page, self.main.get(f"{FORWARDER}/deliveries")["Total"]
        self.go("Rules")
        page.get_by_label("Patient or study").fill("1CT1")
        page.get_by_role("button", name="Try").click()
        verdicts = page.get_by_role("table", name="What the rules would do: To DICOM nodes")
        expect(verdicts).to_contain_text(f"1 image to {AWAY_NAME}")
        expect(verdicts.get_by_role("row", name="the ward's CT")).to_contain_text("nothing")
        assert self.main.get(f"{FORWARDER}/deliveries")["Total"] == before

    def asks_what_would_be_deleted(self) -> None:
        page, studies = self.page, self.main.get("/statistics")["CountStudies"]
        self.go("Retention")
        page.get_by_role("button", name="What would it take now?").click()
        expect(page.get_by_label("Rule seven years")).to_contain_text("Studies by year")
        page.get_by_role("button", name="Count by year and modality").click()
        counted = page.get_by_role("region", name="What the archive holds")
        expect(counted).to_contain_text("2004")
        expect(counted).to_contain_text("MR")
        page.screenshot(path=SHOTS / "retention-dry-run.png", full_page=True)
        assert self.main.get("/statistics")["CountStudies"] == studies

    def reads_and_retries_a_dead_letter(self) -> None:
        page, queue = self.page, RabbitConsumer(self.pair.rabbit, "orthanc")
        self.go("Flow")
        page.get_by_role("link", name="to rabbit failed for good").click()
        row = page.get_by_role("table", name="Dead letters").get_by_role("row").nth(1)
        expect(row).to_contain_text("RabbitMQ could not keep it (basic.nack)")
        row.get_by_role("link").first.click()
        expect(self.card()).to_contain_text("basic.nack")
        page.get_by_text("What it says").click()
        expect(self.card().locator("pre")).to_contain_text('"id"')
        queue.read(3)
        self.pair.rabbit.control("clear_policy", "full")
        before = letters(self.main)
        self.card().get_by_role("button", name="Retry").click()
        self.seen.answer("Retry", "is being published to rabbit")
        self.main.wait_until(lambda: letters(self.main) == before - 1, what="publish it", timeout=60)
        queue.read(4)
        self.go("Events")
        page.get_by_role("button", name="Retry all dead letters of rabbit").click()
        self.seen.answer("Retry all", "being published to rabbit")
        expect(page.get_by_text("No dead letter").first).to_be_visible(timeout=60_000)
        assert letters(self.main) == 0

    def looks_at_moves_copies_and_jobs(self) -> None:
        page = self.page
        self.go("Moves")
        moves = page.get_by_role("table", name="C-MOVE requests")
        expect(moves).to_contain_text("asked by MOVER")
        expect(moves).to_contain_text("failed")
        self.go("De-identification")
        expect(page.get_by_role("table", name="De-identification")).to_contain_text("research")
        expect(page.locator(".figures")).to_contain_text("Copies")
        self.go("Jobs")
        page.get_by_role("table", name="Orthanc's jobs").locator("tbody th a").first.click()
        expect(self.card()).to_contain_text("Identifier")

    def searches_the_audit_log(self) -> None:
        page = self.page
        self.go("Audit log")
        expect(page.get_by_role("table")).to_contain_text("received")
        page.get_by_label("PatientID").fill("1CT1")
        page.get_by_label("Event").fill("received")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("main")).to_contain_text("1 line fits")
        expect(page.locator("main tbody tr")).to_have_count(1)
        assert "patient=1CT1" in page.url
        page.get_by_role("link", name="Clear").click()
        expect(page.locator("main")).to_contain_text("newest")

    def sees_that_all_is_well(self) -> None:
        self.go("Scripts")
        expect(self.page.locator("main")).to_contain_text("all well")
        self.page.get_by_role("link", name="audit_log").click()
        expect(self.card()).to_contain_text("audit_log")
        self.go("Flow")
        expect(self.page.locator(".calm")).to_have_text("Nothing needs you.", timeout=60_000)
        expect(self.page.locator("header .health")).to_contain_text("All is well")


@pytest.mark.timeout(600)
def test_an_operator_finds_what_failed_and_mends_it_and_walks_every_panel(pair: Pair, seen: Watched) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    operator = Operator(pair, seen)
    operator.sees_what_failed()
    operator.retries_it()
    operator.sends_one_again_and_drops_it()
    operator.pauses_and_resumes()
    operator.tries_a_rule()
    operator.asks_what_would_be_deleted()
    operator.reads_and_retries_a_dead_letter()
    operator.looks_at_moves_copies_and_jobs()
    operator.searches_the_audit_log()
    operator.sees_that_all_is_well()
