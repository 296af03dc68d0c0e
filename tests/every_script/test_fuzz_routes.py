# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever is sent to any route of any script: no 500, no dropped connection, no signal, and nothing deleted or sent."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer
from tests.raw_http import Client, request
from tests.route_table import NOBODY, ROUTES
from tests.scripts import PACKAGES, SCRIPTS, combine_scripts

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
AT_LEAST = 5000  # requests
SEED = 21

# As they stand in a body: every type of JSON, and what is hardly JSON.
JSON_VALUES = [
    *("null", "true", "false", "0", "-1", "1", "1.5", "-0.0", "1e999", "1e400000", "9" * 30, "9" * 5000, "NaN"),
    *("Infinity", '""', '"x"', '"\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"', '"é\\n"', '"*"', '"true"', '"20200101"'),
    *("[]", "[[]]", "[null]", '["x"]', "[{}]", '["\\ud800"]', "[1, [2, [3]]]", "[" * 60 + "]" * 60),
    *("{}", '{"a": {}}', '{"": null}', '{"\\ud800": "x"}', '{"a": 1, "a": 2}', '{"a":' * 60 + "1" + "}" * 60),
    *('"' + "x" * 2000 + '"', "{", '"', "tru", ""),
]
# As they stand in a query.
TEXTS = [
    *("", "x", "-1", "0", "1.5", "9" * 30, "9" * 5000, "true", "null", "[]", "{}", "[" * 3000, '{"a":' * 500),
    *(
        "%00",
        "%FF",
        "%C3%28",
        "%ED%A0%80",
        "%F0%9F%98%80",
        "%E2%80%AE",
        "%",
        "%%",
        "%zz",
        "+",
        "a%0D%0Ab",
        "..%2F..%2F",
    ),
    *("%22%5C%22%5C%22", "%D9%A3", "*", "'%22;--", "x" * 2000, ",,", "a,b", "%7B%22PatientID%22%3A%22%5Cud800%22%7D"),
]
GROUPS = [
    "0",
    "1",
    "9" * 18,
    "9" * 19,
    "9" * 5000,
    "-",
    "a-f",
    NOBODY,
    "x",
    "%20",
    "%00",
    "..",
    "%2e%2e%2f",
    "%C3%A9",
    "'",
]
STRANGE_TEXT = [b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xc0\x80", b"caf\xe9", b"\x80" * 100]
NAMES_OF_HEADERS = [
    b"X-Odd",
    b"User-Agent",
    b"Accept",
    b"Origin",
    b"Referer",
    b"If-None-Match",
    b"Content-Type",
    b"Cookie",
]
NAMES_OF_HEADERS += [b"Sec-Fetch-Site", b"X-Forwarded-Host", b"X-Forwarded-For", b"Authorization", b"Range", b"Purpose"]
ODD_ORIGINS = [
    b"http://[::1",
    b"http://[",
    b"null",
    b"",
    b"//",
    b"http://",
    b"http://a:b:c",
    b"http://%zz",
    b"[",
    b"\x01",
    b"http:",
]
LINES = [
    b"",
    b"*/*",
    b"q=;,;",
    b"text/plain;q=nan",
    b"image/png;q=1e999",
    b"," * 500,
    b"Basic !!!",
    b'W/"x"',
    b"bytes=0-1",
]
SIGNS = [
    [(b"Origin", b"https://evil.example")],
    [(b"Origin", b"null")],
    [(b"Origin", b"http://[::1")],
    [(b"Referer", b"https://evil.example/page")],
    [(b"Sec-Fetch-Site", b"cross-site")],
    [(b"Sec-Fetch-Site", b"same-site"), (b"Origin", b"http://127.0.0.1")],
]
# What the plugin says of a header, a path or (1.13.0) a query that is not UTF-8; it answers 500 before any script is asked.
PLUGIN_ALONE = "Cannot create a Python string"


def path_of(pattern: str, groups: Iterator[str]) -> str:
    """A path that a pattern of a route may match."""
    return re.sub(r"\([^()]*\)", lambda found: "pause" if "|" in found[0] else next(groups), pattern)


def in_query(value: Any) -> str:
    if isinstance(value, list):
        return urllib.parse.quote(",".join(value))
    return urllib.parse.quote(value if isinstance(value, str) else json.dumps(value))


def with_every_value_of_every_parameter() -> Iterator[bytes]:
    """Each parameter with each type, beside the others as they are allowed, and alone."""
    for route, parameters in ROUTES.items():
        method, pattern = route.split(" ", 1)
        path = path_of(pattern, iter([NOBODY if "9" not in pattern or "a-f" in pattern else "0"] * 9))
        one_of_two = {"older-than"} if "since" in parameters and "older-than" in parameters else set()
        for name in [*parameters, "unknown"]:
            others = {each: value for each, value in parameters.items() if each != name and each not in one_of_two}
            if method == "GET":
                query = "&".join(f"{urllib.parse.quote(each)}={in_query(value)}" for each, value in others.items())
                yield from (request("GET", f"{path}?{query}&{name}={text}") for text in TEXTS)
            else:
                start = "".join(f"{json.dumps(each)}: {json.dumps(value)}, " for each, value in others.items())
                yield from (
                    request(method, path, body=f"{{{beside}{json.dumps(name)}: {text}}}".encode())
                    for text in JSON_VALUES
                    for beside in (start, "")
                )


def with_every_method_and_odd_paths() -> Iterator[bytes]:
    for route in ROUTES:
        pattern = route.split(" ", 1)[1]
        for group in GROUPS if "(" in pattern else [""]:
            for method in METHODS:
                body = b"{}" if method in ("POST", "PUT", "PATCH") else None
                yield request(method, path_of(pattern, iter([group] * 9)), body=body)


def at_random(chance: random.Random) -> Iterator[bytes]:
    """Odd bytes in headers and bodies, wherever; without end."""
    while True:
        method, pattern = chance.choice(sorted(ROUTES)).split(" ", 1)
        path = path_of(pattern, iter(chance.choices(GROUPS, k=9)))
        kind = chance.randrange(4)
        name = chance.choice(NAMES_OF_HEADERS)
        if kind == 0:
            headers = [(name, chance.choice(STRANGE_TEXT))]
        elif kind == 1:
            headers = [(name, chance.choice(LINES + ODD_ORIGINS)), (b"Origin", chance.choice(ODD_ORIGINS))]
        else:
            headers = []
        body = None
        if method != "GET" and method != "DELETE":
            body = chance.choice(
                [
                    *(chance.randbytes(chance.randrange(200)), b'"\\' * 1000, b"[" * 9000, b'{"a":' * 9000, b'"' * 999),
                    *(
                        '{"Resource": "[[["}'.encode("utf-16"),
                        b"\xef\xbb\xbf{}",
                        b"[]",
                        b"1",
                        b"null",
                        b'"x"',
                        b" ",
                        b"\0",
                    ),
                ]
            )
        yield request(method, path, headers, body)


FORWARDERS = ("auto-forward-dicomweb", "auto-forward-modality", "auto-forward-peer")


def of_strangers(study: str) -> Iterator[bytes]:
    """What would delete and send, from where nobody may."""
    day, json_body = "20200101", (b"Content-Type", b"application/json")
    for sign in SIGNS:
        yield request("GET", f"/purge-old-studies?since={day}&force=true", sign)
        for body in ({"since": day, "dry-run": False}, {"since": day, "async": True, "dry-run": False}):
            yield request("POST", "/purge-old-studies", [*sign, json_body], json.dumps(body).encode())
        for name in FORWARDERS:
            yield request("POST", f"/{name}/send", [*sign, json_body], json.dumps({"Resource": study}).encode())
            yield request(
                "POST", f"/{name}/backfill", [*sign, json_body], json.dumps({"From": day, "To": day}).encode()
            )
        yield request("POST", f"/anonymize-series/{study}", [*sign, json_body], b"{}")
        yield request("POST", "/dicom-events/replay", [*sign, json_body], json.dumps({"Study": study}).encode())


def of_what_is_here(resources: list[str]) -> Iterator[bytes]:
    """Patients, studies, series and instances that are here, at all levels; by what changes nothing."""
    for resource in resources:
        for method, pattern in (route.split(" ", 1) for route in ROUTES if "(" in route):
            if method == "GET":
                yield request("GET", path_of(pattern, iter([resource] * 9)))
        for name in FORWARDERS:
            for level in ("Patient", "Study", "Series"):
                body = json.dumps({"Resource": resource, "Level": level}).encode()
                yield request("POST", f"/{name}/rules/test", body=body)


@pytest.fixture(scope="module")
def scp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreScp]:
    node = StoreScp(tmp_path_factory.mktemp("fuzzed") / "storescp")
    yield node
    node.close()


@pytest.fixture(scope="module")
def fuzzed(
    start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory, scp: StoreScp
) -> OrthancServer:
    """All scripts combined, each with something to do, and some studies."""
    combined = combine_scripts(*SCRIPTS, *PACKAGES, to=tmp_path_factory.mktemp("fuzz") / "combined.py")
    server = start_orthanc_for_module(
        combined,
        {
            "StableAge": 3600,
            "DicomModalities": {"NODE": scp.as_modality()},
            "OrthancPeers": {"PEER": ["http://127.0.0.1:9/"]},
            "AutoForwardModality": {"Destinations": ["NODE"], "Rules": []},
            "AutoForwardPeer": {"Destinations": ["PEER"], "Rules": []},
            "Plugins": [str(python_plugin()), str(dicomweb_plugin())],
            "DicomWeb": {"Servers": {"CLOUD": ["http://127.0.0.1:9/"]}},
            "AutoForwardDicomweb": {"Destinations": ["CLOUD"], "Rules": []},
            "AnonymizeSeries": {"Secret": "s" * 40, "Recipes": {"plain": {}}, "ReIdentify": True},
            "AuditLog": {"WatchRequests": True},
            "SeriesMainPrivateDicomTags": ["0029,1010"],
        },
    )
    for number in range(3):
        server.store(make_study(patient_id=f"P{number}", study_date="20200101", instances=2))
    return server


def contents(server: OrthancServer) -> list[Any]:
    return [sorted(server.get(f"/{level}")) for level in ("patients", "studies", "series", "instances")]


def assert_nothing_happened(server: OrthancServer, scp: StoreScp, before: list[Any]) -> None:
    assert contents(server) == before
    assert scp.files() == []
    assert [job for job in server.get("/jobs?expand") if job["Type"] != "ResourceModification"] == []
    assert "please report" not in server.log
    assert "Traceback" not in server.log
    assert server.running


def test_five_thousand_requests_get_no_500_drop_no_connection_and_delete_and_send_nothing(
    fuzzed: OrthancServer, scp: StoreScp
) -> None:
    before, client, chance = contents(fuzzed), Client(fuzzed), random.Random(SEED)
    wrong: list[tuple[Any, ...]] = []
    errors_of_the_plugin, number = 0, 0
    strangers = [*of_strangers(before[1][0])]
    some = [each for level in before for each in level[:2]]
    requests = [*strangers, *of_what_is_here(some)]
    requests += [*with_every_value_of_every_parameter(), *with_every_method_and_odd_paths()]
    rest = at_random(chance)
    requests += [next(rest) for _ in range(max(1500, AT_LEAST - len(requests)))]
    assert len(requests) >= AT_LEAST
    for number, content in enumerate(requests):
        try:
            status, body = client.send(content)
        except OSError as error:
            wrong.append((number, repr(error), content[:300]))
            continue
        if number < len(strangers) and status != 403:
            wrong.append((number, status, content[:300], body[:300]))
        if status >= 500 and b"OrthancStatus" in body:  # not of a script: theirs have none
            errors_of_the_plugin += 1
            if is_utf8(content):
                wrong.append((number, status, content[:300], body[:300]))
        elif status >= 500 or (status == 200 and content.startswith((b"HEAD", b"OPTIONS", b"PATCH"))):
            wrong.append((number, status, content[:300], body[:300]))
        if len(wrong) > 20:
            break
    client.close()
    assert wrong == [], f"after {number + 1} requests, answered {dict(sorted(client.statuses.items()))}"
    assert fuzzed.log.count(PLUGIN_ALONE) >= errors_of_the_plugin
    assert client.statuses[200] > 100
    assert client.statuses[400] > 1000
    assert_nothing_happened(fuzzed, scp, before)


MALFORMED = [
    *(
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 100,
        b"\xff" * 1000 + b"\r\n\r\n",
    ),
    b"GET /purge-old-studies?since=19000101 HTTP/0.9\r\n\r\n",
    b"GET /purge-old-studies/status HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /purge-old-studies/status HTTP/1.1\r\n: no name\r\n\r\n",
    b"GET /purge-old-studies/status HTTP/1.1\r\nX-Odd: \0\r\n\r\n",
    b"GET /purge-old-studies/status HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /purge-old-studies/status HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /purge-old-studies?" + b"since=19000101&" * 3000 + b" HTTP/1.1\r\n\r\n",
    b"GET /purge-old-studies/\xff\xfe HTTP/1.1\r\n\r\n",
    *(
        b"POST /purge-old-studies HTTP/1.1\r\nContent-Length: %s\r\n\r\n{}" % length
        for length in (b"-1", b"x", b"9" * 30, b"3", b"")
    ),
    b"POST /purge-old-studies HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST /purge-old-studies HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{}",
    b"POST /purge-old-studies HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
    b"POST /purge-old-studies HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    b"POST /purge-old-studies HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
]


def test_what_is_no_http_leaves_the_server_as_it_was(fuzzed: OrthancServer, scp: StoreScp) -> None:
    before = contents(fuzzed)
    for content in MALFORMED:
        with socket.create_connection(("127.0.0.1", fuzzed.http_port), 5) as connection, contextlib.suppress(OSError):
            connection.settimeout(0.2)
            connection.sendall(content)
            connection.recv(1 << 16)
        assert fuzzed.request("GET", "/purge-old-studies/status").status_code == 200
    assert_nothing_happened(fuzzed, scp, before)


def is_utf8(content: bytes) -> bool:
    """Whether path, query and headers are, also when they are decoded."""
    head = content.partition(b"\r\n\r\n")[0]
    try:
        head.decode()
        urllib.parse.unquote_to_bytes(head.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        return False
    return True
