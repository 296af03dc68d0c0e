# SPDX-License-Identifier: AGPL-3.0-or-later
"""The panels of rules, events, moves and de-identification, in a real browser on a real Orthanc."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dashboard.helpers import ROOT, SECRET, SHOTS, Watched, chromium, combine

PANELS = ["rules", "events", "moves", "deidentification"]
NASTY = "<script>window.ran = true</script>\"\u202e'&"
SCRIPTS = ("dashboard.py", "auto_forward_modality.py", "dicom_events", "cmove_interceptor.py", "anonymize_series.py")


class Hook:
    """A server that refuses all events for good, until it takes them."""

    def __init__(self) -> None:
        self.status, self.taken = 422, 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                hook.taken += hook.status < 300
                self.send_response(hook.status, "no" if hook.status > 299 else "OK")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


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
def server(
    start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory, hook: Hook
) -> OrthancServer:
    """A broker that refuses, rules for CT and MR, a recipe, and studies of patients with odd names."""
    webhook = {"Type": "webhook", "WebhookConfig": {"URL": hook.url}}
    found = start_orthanc_for_module(
        combine(tmp_path_factory.mktemp("combined") / "all.py", *(ROOT / name for name in SCRIPTS)),
        {
            **{"StableAge": 1, "Name": "Radiology", "DicomAlwaysAllowMove": True},
            "DicomModalities": {"PACS": ["PACS", "127.0.0.1", 1], "VNA": ["VNA", "127.0.0.1", 1]},
            "AutoForwardModality": {
                "RuleMode": "all",
                "Rules": [
                    {"Name": NASTY, "Query": {"ModalitiesInStudy": "CT"}, "Destinations": ["PACS"]},
                    {"Name": "from the ward", "Origin": {"RemoteAET": ["WARD"]}, "Destinations": ["VNA"]},
                ],
            },
            "DicomEvents": {"Brokers": {"file": {"Type": "file"}, "hook": webhook}},
            "AnonymizeSeries": {"Secret": SECRET, "Recipes": {"research": {}}},
        },
    )
    found.store(make_study(instances=2, patient_id="P1", PatientName=NASTY, StudyDescription=NASTY))
    found.wait_until(lambda: letters(found) > 2, what="have dead letters", timeout=60)
    return found


def letters(server: OrthancServer) -> int:
    return int(server.get("/dicom-events/dead-letters")["Total"])


def test_a_dead_letter_is_read_and_retried(server: OrthancServer, seen: Watched, hook: Hook) -> None:
    page = seen.open(server.url)
    page.get_by_role("link", name="to hook failed for good").click()
    row = page.get_by_role("table", name="Dead letters").get_by_role("row").nth(1)
    expect(row).to_contain_text("dicom.")
    expect(row).to_contain_text("HTTP 422")
    row.get_by_role("link").first.click()
    card = page.locator("main .card")
    expect(card).to_contain_text("HTTP 422")
    page.get_by_text("What it says").click()
    expect(card.locator("pre")).to_be_visible()
    before = letters(server)
    hook.status = 204
    card.get_by_role("button", name="Retry").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("published to hook again now")
    dialog.get_by_role("button", name="Retry").click()
    expect(dialog).to_contain_text("is being published to hook")
    dialog.get_by_role("button", name="Close").click()
    server.wait_until(lambda: letters(server) == before - 1, what="publish it")
    page.goto(f"{server.url}/dashboard#/events")
    page.get_by_role("button", name="Retry all dead letters of hook").click()
    dialog.get_by_role("button", name="Retry all").click()
    expect(dialog).to_contain_text(f"{before - 1} events are being published")
    dialog.get_by_role("button", name="Close").click()
    server.wait_until(lambda: letters(server) == 0, what="publish all")
    expect(page.get_by_text("No dead letter").first).to_be_visible()


def test_a_study_is_published_again(server: OrthancServer, seen: Watched, hook: Hook) -> None:
    hook.status = 204
    page = seen.open(server.url, "events")
    page.get_by_role("button", name="Publish again").click()
    expect(page.get_by_role("alert")).to_contain_text("either a study, or both days")
    page.get_by_label("Study").fill(server.get("/studies")[0])
    taken = hook.taken
    page.get_by_role("button", name="Publish again").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("published to all brokers again")
    dialog.get_by_role("button", name="Publish again").click()
    expect(dialog).to_contain_text("1 study is being published again")
    server.wait_until(lambda: hook.taken > taken, what="publish it")


def test_rules_are_said_in_words_and_tried_on_a_study(server: OrthancServer, seen: Watched) -> None:
    page = seen.open(server.url, "rules")
    rules = page.locator("ol.rules li")
    expect(rules.first).to_contain_text("Studies whose ModalitiesInStudy is CT go to PACS.")
    expect(rules.nth(1)).to_contain_text("Studies that came from the AE title WARD go to VNA.")
    deliveries = server.get("/auto-forward-modality/deliveries")["Total"]
    page.get_by_label("Patient or study").fill("P1")
    page.get_by_role("button", name="Try").click()
    verdicts = page.get_by_role("table", name="What the rules would do")
    expect(verdicts).to_contain_text("2 images to PACS")
    expect(verdicts.get_by_role("row").nth(2)).to_contain_text("nothing")
    page.get_by_label("Patient or study").fill("nobody")
    page.get_by_role("button", name="Try").click()
    expect(page.get_by_text("No study here has this")).to_be_visible()
    assert server.get("/auto-forward-modality/deliveries")["Total"] == deliveries
    assert not page.evaluate("window.ran")


def test_work_of_de_identification_and_what_was_held_back(server: OrthancServer, seen: Watched) -> None:
    study = server.get("/studies")[0]
    server.post(f"/anonymize-series/{study}", {"Recipe": "research"})
    server.wait_until(
        lambda: server.get("/anonymize-series/jobs")["Items"][0]["State"] in ("done", "partly"), what="do it"
    )
    page = seen.open(server.url, "deidentification")
    expect(page.get_by_role("table", name="De-identification")).to_contain_text("research")
    expect(page.locator(".figures")).to_contain_text("Copies")
    for panel in PANELS * 2:  # whatever is answered first, all is in its place
        page.goto(f"{server.url}/dashboard#/{panel}")
        page.reload()
        page.wait_for_selector("main h1")
        page.wait_for_timeout(400)
        if panel == "deidentification":
            tops = [page.locator(each).bounding_box() for each in (".figures", ".filters", "#held-title")]
            assert [box["y"] for box in tops if box] == sorted(box["y"] for box in tops if box)


def test_an_empty_list_of_moves_says_what_it_is_for(server: OrthancServer, seen: Watched) -> None:
    page = seen.open(server.url, "moves")
    expect(page.locator("main")).to_contain_text("No C-MOVE yet")


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_each_panel_is_shown_without_an_error_and_axe_finds_nothing_serious(
    server: OrthancServer, browser: Browser, hook: Hook, look: str
) -> None:
    """The pictures are for people: build/dashboard/."""
    hook.status = 422
    server.post("/dicom-events/replay", {"Study": server.get("/studies")[0]})
    server.wait_until(lambda: letters(server), what="refuse some")
    [letter, *_] = server.get("/dicom-events/dead-letters")["Items"]
    size = {"width": 360, "height": 740} if look == "phone" else {"width": 1280, "height": 800}
    watched = Watched(browser, viewport=size, color_scheme="dark" if look == "dark" else "light", bypass_csp=True)
    SHOTS.mkdir(parents=True, exist_ok=True)
    for panel in [*PANELS, f"events/{letter['ID']}"]:
        page = watched.open(server.url, panel)
        page.wait_for_timeout(300)
        name = panel.partition("/")[0]
        page.screenshot(path=Path(SHOTS / f"{name}-{look}.png"), full_page=True)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0, f"{panel} is wider than the screen"
        found = Axe().run(page).response["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert serious == [], f"{panel}: {[(each['id'], [node['html'] for node in each['nodes']]) for each in serious]}"
    watched.page.context.close()
    assert watched.errors == []


def test_a_move_is_shown_with_what_came_of_it(server: OrthancServer, seen: Watched) -> None:
    study = server.get(f"/studies/{server.get('/studies')[0]}")["MainDicomTags"]["StudyInstanceUID"]
    node = AE("MOVER")
    node.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    association = node.associate("127.0.0.1", server.dicom_port, ae_title=server.aet)
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study
    list(association.send_c_move(wanted, "PACS", StudyRootQueryRetrieveInformationModelMove))  # PACS is away
    association.release()
    page = seen.open(server.url, "moves")
    row = page.get_by_role("table", name="C-MOVE requests").get_by_role("row").nth(1)
    expect(row).to_contain_text("asked by MOVER")
    expect(row).to_contain_text("failed")
    row.get_by_role("link").first.click()
    expect(page.locator("main .card")).to_contain_text(study)
    server.post(f"/anonymize-series/{server.get('/studies')[0]}", {"Recipe": "research"})
    for route, first in (("/cmove-interceptor/requests", 1), ("/anonymize-series/jobs", None)):
        items = server.get(route, before=2**53 - 1)["Items"]
        numbers = [each["ID"] for each in items]
        assert numbers == sorted(numbers, reverse=True)
        assert server.get(route, before=numbers[0])["Items"] == items[1:]
        assert first is None or numbers[-1] == first
