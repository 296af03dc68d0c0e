# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py in a real browser: texts that want to be more than text, who may only look, and a server that goes away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dashboard.helpers import PANELS, ROOT, SECTIONS, Hook, Watched, c_move, combine, deidentify, letters

EVIL = "<script>window.ran=1</script>\"'&amp;<img src=x onerror=window.ran=1>"
TURNED = "A\u202eB"
READ_ONLY = """
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  return username == 'operator' or method == 'GET'
end
"""
# What each text of an answer may be at worst, but for what is a name of the page's own code.
KEPT = {"ID", "Number", "State", "Level", "Panel", "Script", "Route", "Status", "Routes"}
# Objects whose keys are names.
NAMES = {*("Brokers", "Services", "Query", "Origin", "Years", "Modalities", "Destinations", "Totals")}
OF_SCRIPTS = re.compile(
    "/(auto-forward-|purge-old-studies|audit-log|dicom-events|cmove-interceptor|anonymize-series|jobs[?]|studies/)"
)
LEAST = {"flow": 5, "destinations": 4, "scripts": 20, "retention": 6, "deliveries": 4, "jobs": 4, "audit": 6, "rules": 6,
         "events": 9, "moves": 8, "deidentification": 5}  # fmt: skip
DRY_RUN = {
    **{"Studies": 1, "Bytes": 1, "Since": EVIL, "Why": EVIL, "Refused": EVIL},
    **{"Undelivered": {EVIL: 1}, "Years": {EVIL: 1}, "Modalities": {EVIL: 1}},
}
# Buttons that change nothing: filters, a range, and what a GET counts.
ONLY_LOOK = {"Show", "1 hour", "6 hours", "24 hours", "What would it take now?"}
# What the others ask for.
ACTING = [
    "/dashboard/may-act",
    *(f"/auto-forward-peer/{path}" for path in ("deliveries/1/retry", "deliveries/retry", "send", "rules/test")),
    *(f"/auto-forward-peer/destinations/away/{verb}" for verb in ("pause", "resume")),
    *("/purge-old-studies", "/purge-old-studies/jobs/1/cancel", "/purge-old-studies/confirm-clock"),
    *("/dicom-events/dead-letters/1/retry", "/dicom-events/dead-letters/retry", "/dicom-events/replay"),
    *("/anonymize-series/jobs/1/retry", "/jobs/1/cancel"),
]


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


@pytest.fixture(scope="module")
def hostile(
    start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory, hook: Hook
) -> OrthancServer:
    """All scripts, names and texts that want to be HTML, and two users, of whom one may only GET."""
    folder = tmp_path_factory.mktemp("combined")
    (folder / "filter.lua").write_text(READ_ONLY)
    server = start_orthanc_for_module(
        combine(folder / "all.py"),
        {
            **SECTIONS,
            "StableAge": 1,
            "Name": EVIL,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"operator": "secret", "viewer": "secret"},
            "LuaScripts": [str(folder / "filter.lua")],
            "OrthancPeers": {"away": ["http://127.0.0.1:1/"]},
            "AutoForwardPeer": {"Rules": [{"Name": EVIL, "Destinations": ["away"]}]},
            "AutoForwardModality": {"Destinations": []},
            "DicomModalities": {"PACS": ["PACS", "127.0.0.1", 1]},
            "DicomAlwaysAllowMove": True,
            "DicomEvents": {"Brokers": {"hook": {"Type": "webhook", "WebhookConfig": {"URL": hook.url}}}},
            "PurgeOldStudies": {"Rules": [{"Name": EVIL, "OlderThan": "7y", "At": "02:30"}]},
        },
    )
    server.store(make_study(patient_id="<b>evil", PatientName=EVIL[:60], StudyDescription=TURNED))
    server.wait_until(
        lambda: "away" in [each["State"] for each in server.get("/dashboard/summary")["Destinations"]],
        what="miss its destination",
        timeout=60,
    )
    deidentify(server, server.get("/studies")[0])
    c_move(server, server.get("/studies")[0], "PACS")
    server.wait_until(lambda: letters(server), what="have a dead letter", timeout=60)
    return server


def spoiled(value: Any, name: str = "") -> Any:
    """An answer in which each text is hostile; with it, one row more of each list."""
    if isinstance(value, dict):
        return {
            EVIL if name in NAMES else key: each if key in KEPT else spoiled(each, key) for key, each in value.items()
        }
    if isinstance(value, list):
        return [spoiled(each) for each in value]
    return EVIL if isinstance(value, str) else value


def spoil(route: Route) -> None:
    """Answer what a script says with hostile texts, whatever it is."""
    answer = route.fetch()
    route.fulfill(json=spoiled(answer.json())) if answer.ok else route.fulfill(response=answer)


def make_hostile(route: Route) -> None:
    """Answer the summary with what a script, a broker or a destination may say at worst."""
    found = route.fetch().json()
    for place in found["Destinations"]:
        place |= {"Name": EVIL, "Error": EVIL, "Slow": EVIL, "State": "away"}
    for each in found["Scripts"]:
        each |= {"Reason": EVIL, "Version": EVIL, "LastError": {"Text": EVIL, "Time": EVIL}, "Totals": {EVIL: 1}}
    found["Alerts"] = [
        {"ID": EVIL, "Level": EVIL, "Text": EVIL, "Why": EVIL, "Panel": EVIL, "Row": [EVIL], "Query": {}}
    ]
    found["Server"]["DicomAet"] = EVIL
    route.fulfill(json=found)


def as_user(browser: Browser, name: str) -> Watched:
    return Watched(browser, http_credentials={"username": name, "password": "secret"})


@pytest.fixture(scope="module")
def looks(hostile: OrthancServer, browser: Browser) -> dict[str, str]:
    """What each panel shows, with all that wants to be more than text in it."""
    watched, found = as_user(browser, "operator"), {}
    watched.page.route("**/dashboard/summary", make_hostile)
    watched.page.route(
        OF_SCRIPTS, lambda route: spoil(route) if route.request.resource_type == "fetch" else route.continue_()
    )
    [letter, *_] = hostile.get("/dicom-events/dead-letters")["Items"]
    rows = {"events": letter["ID"], "moves": 1, "deliveries": "auto_forward_peer/1", "scripts": "audit_log"}
    for panel in PANELS:
        page = watched.open(hostile.url, f"{panel}/{rows[panel]}" if panel in rows else panel)
        page.wait_for_timeout(500)
        for each in page.locator("main summary").all():
            each.click()
        if panel == "retention":
            page.route("**/dry-run", lambda route: route.fulfill(json=DRY_RUN))
            page.get_by_role("button", name="What would it take now?").click()
            expect(page.get_by_text("Studies by year")).to_be_visible()
        found[panel] = page.inner_text("body")
        assert page.evaluate("window.ran") is None, panel
        assert page.locator("main script, main b:not(dt b), main img[src='x']").count() == 0, panel
    page.unroute_all(behavior="ignoreErrors")  # an update may be under way
    watched.page.context.close()
    assert watched.errors == []
    return found


@pytest.mark.parametrize("panel", PANELS)
def test_what_comes_from_outside_is_text_everywhere(looks: dict[str, str], panel: str) -> None:
    assert looks[panel].count(EVIL) >= LEAST[panel]  # two are the name and the AE title of the server


def test_what_can_not_be_seen_or_turns_the_line_is_named(hostile: OrthancServer, browser: Browser) -> None:
    watched = as_user(browser, "operator")
    text = (
        watched.open(hostile.url, "deliveries/auto_forward_peer")
        .locator("main tbody tr", has_text="<b>evil")
        .first.inner_text()
    )
    assert "A\u2039U+202E\u203aB" in text
    assert "\u202e" not in watched.page.inner_text("body")
    watched.page.context.close()


def test_a_dialog_shows_texts_as_texts_too(hostile: OrthancServer, browser: Browser) -> None:
    watched = as_user(browser, "operator")
    watched.page.route("**/dashboard/summary", make_hostile)
    page = watched.open(hostile.url, "destinations")
    page.locator("main").get_by_role("button", name="Pause").first.click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Pause {EVIL}?")
    assert page.evaluate("window.ran") is None
    page.unroute_all(behavior="ignoreErrors")
    watched.page.context.close()


def test_a_user_who_may_only_get_sees_no_buttons_that_act_and_is_refused(
    hostile: OrthancServer, browser: Browser
) -> None:
    watched = as_user(browser, "viewer")
    for panel in PANELS:
        page = watched.open(hostile.url, panel)
        page.wait_for_timeout(500)
        assert {*page.locator("main button").all_inner_texts()} <= ONLY_LOOK, panel
    expect(page.locator("footer")).to_contain_text("you may not act here")
    assert page.evaluate("fetch('dashboard/may-act', {method: 'POST'}).then((answer) => answer.status)") == 403
    watched.page.context.close()
    for path in ACTING:
        assert hostile.request("POST", path, json={}, auth=("viewer", "secret")).status_code == 403, path
    watched = as_user(browser, "operator")
    page = watched.open(hostile.url, "destinations")
    expect(page.locator("main .acts button")).not_to_have_count(0)
    watched.page.context.close()


def test_no_inline_script_and_no_handler_runs(hostile: OrthancServer, browser: Browser) -> None:
    watched = as_user(browser, "operator")
    page = watched.open(hostile.url)
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
    assert len(watched.errors) >= 2
    assert all("Content Security Policy" in each for each in watched.errors)
    watched.page.context.close()


def test_alone_each_panel_says_what_it_would_give_and_the_page_says_that_the_server_is_away(
    start_orthanc: StartOrthanc, browser: Browser, tmp_path: Path
) -> None:
    server = start_orthanc(ROOT / "dashboard.py", {"Dashboard": {"Actions": False}})
    watched = Watched(browser)
    page = watched.open(server.url)
    expect(page.locator(".empty")).to_contain_text("Ready for the first study")
    for panel, script in (
        ("destinations", "auto_forward_modality"),
        ("retention", "purge_old_studies"),
        ("audit", "audit_log"),
    ):
        watched.open(server.url, panel)
        expect(page.locator(".empty")).to_contain_text(f"Add {script}.py")
        expect(page.locator(".empty")).to_contain_text(f"python3 combine.py dashboard.py {script}.py -o all.py")
    expect(page.locator("footer")).to_contain_text("you may not act here")
    assert page.context.cookies() == []
    server.kill()
    expect(page.locator("header .health")).to_contain_text("The server has not answered for", timeout=15_000)
    server.start()
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.locator("header .health")).to_contain_text("All is well", timeout=30_000)
    watched.page.context.close()
