# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py in a real browser: texts that want to be more than text, who may only look, and a server that goes away."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dashboard.helpers import ROOT, SECTIONS, Watched, combine

EVIL = "<script>window.ran=1</script>\"'&amp;<img src=x onerror=window.ran=1>"
TURNED = "A\u202eB"
READ_ONLY = """
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  return username == 'operator' or method == 'GET'
end
"""
PANELS = ["flow", "destinations", "deliveries", "jobs", "retention", "audit", "scripts"]


@pytest.fixture(scope="module")
def hostile(start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory) -> OrthancServer:
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
            "AutoForwardPeer": {"Destinations": ["away"]},
            "PurgeOldStudies": {"Rules": [{"Name": EVIL, "OlderThan": "7y", "At": "02:30"}]},
        },
    )
    server.store(make_study(patient_id="<b>evil", PatientName=EVIL[:60], StudyDescription=TURNED))
    server.wait_until(
        lambda: [each["State"] for each in server.get("/dashboard/summary")["Destinations"]] == ["away"],
        what="miss its destination",
        timeout=60,
    )
    return server


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
    for panel in PANELS:
        page = watched.open(hostile.url, panel)
        page.wait_for_timeout(500)
        found[panel] = page.inner_text("body")
        assert page.evaluate("window.ran") is None, panel
        assert page.locator("main script, main b:not(dt b), main img[src='x']").count() == 0, panel
    watched.page.context.close()
    assert watched.errors == []
    return found


@pytest.mark.parametrize("panel", PANELS)
def test_what_comes_from_outside_is_text_everywhere(looks: dict[str, str], panel: str) -> None:
    least = {"flow": 5, "destinations": 4, "scripts": 20, "retention": 3}
    assert looks[panel].count(EVIL) >= least.get(panel, 2)  # the name and the AE title of the server, at least


def test_what_can_not_be_seen_or_turns_the_line_is_named(looks: dict[str, str]) -> None:
    assert "<b>evil" in looks["deliveries"]
    assert "A\u2039U+202E\u203aB" in looks["deliveries"]
    assert all("\u202e" not in each for each in looks.values())


def test_a_dialog_shows_texts_as_texts_too(hostile: OrthancServer, browser: Browser) -> None:
    watched = as_user(browser, "operator")
    watched.page.route("**/dashboard/summary", make_hostile)
    page = watched.open(hostile.url, "destinations")
    page.locator("main").get_by_role("button", name="Pause").first.click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Pause {EVIL}?")
    assert page.evaluate("window.ran") is None
    watched.page.context.close()


def test_a_user_who_may_only_get_sees_no_buttons_that_act_and_is_refused(
    hostile: OrthancServer, browser: Browser
) -> None:
    watched = as_user(browser, "viewer")
    for panel in PANELS:
        page = watched.open(hostile.url, panel)
        page.wait_for_timeout(500)
        acting = page.locator("main .acts button, main button.danger").count()
        assert acting == 0, panel
    expect(page.locator("footer")).to_contain_text("you may not act here")
    assert page.evaluate("fetch('dashboard/may-act', {method: 'POST'}).then((answer) => answer.status)") == 403
    watched.page.context.close()
    for path in ("/auto-forward-peer/deliveries/1/retry", "/dashboard/may-act"):
        assert hostile.request("POST", path, json={}, auth=("viewer", "secret")).status_code == 403
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
