# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard.py on a real Orthanc: its routes, and who may use them."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.dashboard.helpers import ROOT, SECTIONS, combine

SCRIPT = ROOT / "dashboard.py"
READ_ONLY = """
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  return username == 'operator' or method == 'GET'
end
"""


@pytest.fixture(scope="module")
def alone(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    users = {"operator": "secret", "viewer": "secret"}
    server = start_orthanc_for_module(
        SCRIPT, {"AuthenticationEnabled": True, "RegisteredUsers": users, "Name": "Alone"}, start=False
    )
    server.folder.mkdir(exist_ok=True)
    (server.folder / "filter.lua").write_text(READ_ONLY)
    server.configuration["LuaScripts"] = [str(server.folder / "filter.lua")]
    return server.start()


def test_the_page_and_its_files_come_from_memory_with_a_strict_policy(alone: OrthancServer) -> None:
    page = alone.request("GET", "/dashboard")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    addresses = re.findall(r'(?:src|href)="(dashboard/files/[^"]+)"', page.text)
    assert len(addresses) >= 5
    for address in addresses:
        file = alone.request("GET", f"/{address}")
        assert (file.status_code, len(file.content) > 100) == (200, True)
        assert "immutable" in file.headers["Cache-Control"]
    types = {
        address.rpartition(".")[2]: alone.request("GET", f"/{address}").headers["Content-Type"] for address in addresses
    }
    assert types == {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}


def test_alone_it_shows_itself_and_counts_what_comes_in(alone: OrthancServer) -> None:
    before = alone.get("/dashboard/summary")
    assert (before["Server"]["Name"], before["Destinations"], before["Alerts"]) == ("Alone", [], [])
    assert [each["Name"] for each in before["Scripts"]] == ["dashboard"]
    alone.store(make_study(instances=3))
    alone.wait_until(lambda: alone.get("/dashboard/summary")["Flow"]["Received"] == 3, what="count three images")
    assert alone.get("/dashboard/summary")["Server"]["Instances"] == 3


def test_authentication_and_filters_apply_to_each_route(alone: OrthancServer) -> None:
    for method, path in (
        ("GET", "/dashboard"),
        ("GET", "/dashboard/summary"),
        ("GET", "/dashboard/flow"),
        ("GET", "/dashboard/status"),
        ("GET", "/dashboard/files/a/app.js"),
        ("POST", "/dashboard/may-act"),
    ):
        body: dict[str, Any] | None = {} if method == "POST" else None
        assert alone.request(method, path, auth=("nobody", "wrong"), json=body).status_code == 401, path
    viewer = ("viewer", "secret")
    assert alone.request("GET", "/dashboard/summary", auth=viewer).status_code == 200
    assert alone.request("POST", "/dashboard/may-act", auth=viewer, json={}).status_code == 403
    assert alone.request("POST", "/dashboard/may-act", json={}).status_code == 200


def test_with_all_scripts_a_summary_is_quick_and_names_no_patient(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    node = {"DicomModalities": {"AWAY": ["AWAY", "127.0.0.1", 1]}, "StableAge": 1}
    server = start_orthanc(
        combine(tmp_path / "all.py"), {**SECTIONS, **node, "AutoForwardModality": {"Destinations": ["AWAY"]}}
    )
    server.store(make_study(patient_id="NOBODY^ELSE"))
    server.wait_until(
        lambda: [each["State"] for each in server.get("/dashboard/summary")["Destinations"]] == ["away"],
        what="see that a destination is away",
    )
    answer = server.request("GET", "/dashboard/summary")
    assert "NOBODY" not in answer.text
    [place] = answer.json()["Destinations"]
    assert answer.json()["Server"]["FreeBytes"] > 0
    assert (place["Name"], place["State"], place["Totals"]["waiting"]) == ("AWAY", "away", 1)
    assert len(answer.json()["Scripts"]) == len(server.get("/scripts"))
    began = time.monotonic()
    for _ in range(20):
        server.get("/dashboard/summary")
    assert (time.monotonic() - began) / 20 < 1  # one that has to look takes longer; all others are from memory
