# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/routes.py: in which order a request is checked, with a script that has a route that deletes; and on a real Orthanc."""

from __future__ import annotations

import json
import socket
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.common.unit.test_cross_site import NOT_ON_PURPOSE, ON_PURPOSE
from tests.common.unit.test_json_text import MEBIBYTE, NASTY

ROOT = Path(__file__).parents[2]
PURGE = ROOT / "purge_old_studies.py"
ROUTE = "/purge-old-studies"
EVIL = {"Origin": "https://evil.example", "User-Agent": "curl/7.88.1"}


@pytest.fixture
def script(orthanc_standin: StandIn) -> types.ModuleType:
    orthanc_standin.configuration = {"PurgeOldStudies": {"Typo": 1}}  # it stays idle: its routes are 503
    return orthanc_standin.load(PURGE)


def test_nothing_of_a_stranger_is_decoded(
    orthanc_standin: StandIn, script: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("decoded", "read_parameters", "_decoded_query"):
        monkeypatch.setattr(script, name, lambda *_, **__: pytest.fail("it was decoded"))
    query = {"Query": '{"PatientID": "' + '\\"' * 9000, "since": "20200101"}
    answers = [orthanc_standin.http("GET", ROUTE, get=query, headers=EVIL)]
    answers.append(orthanc_standin.http("POST", ROUTE, body=b"{", headers=EVIL))
    assert [answer.status for answer in answers] == [403, 403]
    assert "curl -u USER 'http://" in answers[0].json()["Message"]


def test_whether_the_script_works_is_asked_after_where_it_comes_from_and_before_the_body(
    orthanc_standin: StandIn, script: types.ModuleType
) -> None:
    assert orthanc_standin.http("POST", ROUTE, body=b"{}", headers=EVIL).status == 403
    assert orthanc_standin.http("POST", ROUTE, body=b"{").status == 503
    assert orthanc_standin.http("PUT", ROUTE, body=b"{}", headers=EVIL).status == 405
    assert script.ROUTES


def test_a_get_that_changes_nothing_is_answered_to_everybody(orthanc_standin: StandIn) -> None:
    orthanc_standin.load(ROOT / "audit_log.py")
    assert orthanc_standin.http("GET", "/audit-log/status", headers=EVIL).status == 503  # it has not started


SMALL = """
from common.routes import register_route
from common.parameters import Flag, takes

@takes({"yes": Flag()})
def handler(request):
    return {"found": request.parameters}

def shortcut(output, uri, raw):
    output.AnswerBuffer(b"short", "text/plain")
    return True

@takes({}, get_acts=True)
def acting(request):
    return "acted"

register_route("/plain", {"GET": handler, "POST": handler}, lambda: None)
register_route("/short", {"GET": handler, "POST": handler}, lambda: None, shortcut)
register_route("/acting", {"GET": acting}, lambda: None, shortcut)
"""


@pytest.fixture
def small(orthanc_standin: StandIn) -> Iterator[StandIn]:
    before = {*sys.modules}
    orthanc_standin.load(SMALL)
    yield orthanc_standin
    for name in {*sys.modules} - before:
        if name.startswith("common."):
            del sys.modules[name]  # they hold the stand-in


def test_a_shortcut_is_only_for_a_get_that_changes_nothing(small: StandIn) -> None:
    assert small.http("GET", "/short").body == b"short"
    assert small.http("POST", "/short", body=b'{"yes": true}').json() == {"found": {"yes": True}}
    assert small.http("GET", "/acting").body == b"acted"
    assert small.http("GET", "/acting", headers=EVIL).status == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b'{"yes": false}', 200),
        (b'{"yes": null}', 400),
        (b'{"no": true}', 400),
        (b"[]", 400),
        (b" " * (MEBIBYTE - 2) + b"{}", 200),
        (b" " * (MEBIBYTE - 1) + b"{}", 413),
    ],
)
def test_a_body_is_an_object_of_the_parameters_that_the_handler_takes(small: StandIn, body: bytes, status: int) -> None:
    assert small.http("POST", "/plain", body=body).status == status


def test_what_is_too_large_is_not_looked_at(small: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["common.routes"], "decoded", lambda _: pytest.fail("it was decoded"))
    assert small.http("POST", "/plain", body=b"[" * (MEBIBYTE + 1)).status == 413


# On a real Orthanc


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    server = start_orthanc_for_module(PURGE, {"StableAge": 3600})
    server.store(make_study(study_date="20200101"))
    return server


def test_a_mebibyte_of_anything_is_answered_at_once_and_more_is_413(server: OrthancServer) -> None:
    studies, slowest = server.get("/studies"), 0.0
    for content in NASTY.values():
        begin = time.monotonic()
        answer = server.request("POST", ROUTE, data=content)
        slowest = max(slowest, time.monotonic() - begin)
        assert answer.status_code == 400
        assert answer.json()["Message"]
    assert slowest < 5  # on a shared machine; 0.1 was measured, and a minute and more before the scan was linear
    answer = server.request("POST", ROUTE, data=b" " * MEBIBYTE + b"{}")
    assert (answer.status_code, str(MEBIBYTE) in answer.json()["Message"]) == (413, True)
    assert server.get("/studies") == studies


def test_a_link_deletes_nothing_whoever_follows_it_and_who_means_it_gets_an_answer(server: OrthancServer) -> None:
    studies = server.get("/studies")
    for name, headers in NOT_ON_PURPOSE.items():
        status, body = send(server, f"{ROUTE}?since=20200101", headers)
        assert (name, status) == (name, 403)
        assert f"curl -u USER 'http://pacs.hospital.example:8042{ROUTE}?since=20200101'" in json.loads(body)["Message"]
    assert server.get("/studies") == studies
    for name, headers in ON_PURPOSE.items():
        assert (name, send(server, f"{ROUTE}?since=19000101&format=text", headers)) == (
            name,
            (200, b"Purged 0 studies dated on or before 19000101\n"),
        )


def send(server: OrthancServer, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Exactly these headers, but for those of the connection: a client would add some of its own."""
    lines = [f"GET {target} HTTP/1.1", "Host: pacs.hospital.example:8042"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name not in ("Connection", "Accept-Encoding")]
    with socket.create_connection(("127.0.0.1", server.http_port), 30) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        found = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_malformed_origin_is_403(server: OrthancServer) -> None:
    for origin in ("http://[::1", "http://[", "null", "http://a:b", "//", "x" * 5000):
        arguments: dict[str, Any] = {"json": {"since": "20200101", "dry-run": False}, "headers": {"Origin": origin}}
        assert server.request("POST", ROUTE, **arguments).status_code == 403
    assert len(server.get("/studies")) == 1
