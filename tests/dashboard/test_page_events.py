# SPDX-License-Identifier: AGPL-3.0-or-later
"""The panels of rules, events, moves and de-identification, in a real browser on a real Orthanc."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dashboard.helpers import ROOT, SECRET, Hook, Watched, c_move, combine, deidentify, letters

NASTY = "<script>window.ran = true</script>\"\u202e'&"
SCRIPTS = ("dashboard.py", "auto_forward_modality.py", "dicom_events", "cmove_interceptor.py", "anonymize_series.py")


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


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


def test_rules_are_said_in_words_and_a_study_that_is_not_here_is_no_error(server: OrthancServer, seen: Watched) -> None:
    page = seen.open(server.url, "rules")
    rules = page.locator("ol.rules li")
    expect(rules.first).to_contain_text("Studies whose ModalitiesInStudy is CT go to PACS.")
    expect(rules.nth(1)).to_contain_text("Studies that came from the AE title WARD go to VNA.")
    page.get_by_label("Patient or study").fill("nobody")
    page.get_by_role("button", name="Try").click()
    expect(page.get_by_text("No study here has this")).to_be_visible()
    assert not page.evaluate("window.ran")


def test_an_empty_list_of_moves_says_what_it_is_for(server: OrthancServer, seen: Watched) -> None:
    page = seen.open(server.url, "moves")
    expect(page.locator("main")).to_contain_text("No C-MOVE yet")


def test_a_move_is_shown_with_what_came_of_it(server: OrthancServer, seen: Watched) -> None:
    study = c_move(server, server.get("/studies")[0], "PACS")  # PACS is away
    page = seen.open(server.url, "moves")
    row = page.get_by_role("table", name="C-MOVE requests").get_by_role("row").nth(1)
    expect(row).to_contain_text("asked by MOVER")
    expect(row).to_contain_text("failed")
    row.get_by_role("link").first.click()
    expect(page.locator("main .card")).to_contain_text(study)
    for _ in range(2):
        deidentify(server, server.get("/studies")[0])
    for route, first in (("/cmove-interceptor/requests", 1), ("/anonymize-series/jobs", None)):
        items = server.get(route, before=2**53 - 1)["Items"]
        numbers = [each["ID"] for each in items]
        assert numbers == sorted(numbers, reverse=True)
        assert server.get(route, before=numbers[0])["Items"] == items[1:]
        assert first is None or numbers[-1] == first
