# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever is sent to any route of any script: no 500, no dropped connection, no signal, and nothing deleted or sent."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.parameters import ParameterError, Text, parameters_of, read_parameters
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer
from testing.standin import StandIn
from tests.route_table import ACT_ON_GET, NOBODY, ROUTES

ROOT = Path(__file__).parent.parent
SCRIPTS = [path for path in sorted(ROOT.glob("*.py")) if path.name not in {"combine.py", "event_dispatcher.py"}]
SCRIPTS += sorted(path for path in ROOT.glob("*/__init__.py") if (path.parent / "_common").is_dir())
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
AT_LEAST = 5000  # requests
SEED = 21

# As they stand in a body: every type of JSON, and what is hardly JSON.
JSON_VALUES = [
    *("null", "true", "false", "0", "-1", "1", "1.5", "-0.0", "1e999", "1e400000", "9" * 30, "9" * 5000, "NaN"),
    *("Infinity", '""', '"x"', '"\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"', '"é\\n"', '"*"', '"true"', '"18991231"'),
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


def registered() -> dict[str, Any]:
    """The handlers that the scripts register, by method and pattern."""
    found: dict[str, Any] = {}
    for script in SCRIPTS:
        standin = StandIn("7.1")
        with standin.installed():
            for pattern, handlers in standin.load(script).ROUTES.items():
                found |= {f"{method} {pattern}": handler for method, handler in handlers.items()}
        for name in [each for each in sys.modules if each.partition(".")[0] == script.parent.name]:
            del sys.modules[name]  # the modules of a package hold the stand-in
    return found


HANDLERS = registered()


# Without a server


def test_the_table_names_every_route_of_every_script_with_every_parameter() -> None:
    found = {route: sorted(getattr(handler, "parameters", {})) for route, handler in HANDLERS.items()}
    assert found == {route: sorted(parameters) for route, parameters in ROUTES.items()}
    assert {route for route, handler in HANDLERS.items() if getattr(handler, "get_acts", False)} >= ACT_ON_GET


@pytest.mark.parametrize("route", [route for route, parameters in ROUTES.items() if parameters])
def test_the_values_of_the_table_are_allowed(route: str) -> None:
    read_parameters(parameters_of(HANDLERS[route]), ROUTES[route], from_query=False)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
EVERY_PARAMETER = {(route, name) for route, parameters in ROUTES.items() for name in parameters}


@given(st.sampled_from(sorted(EVERY_PARAMETER)), ANY_JSON)
@example(("POST /auto-forward-modality/send", "Level"), {})
@example(("POST /auto-forward-modality/send", "Destinations"), [])
def test_a_parameter_of_any_type_is_what_the_handler_expects_or_refused_with_what_is_allowed(
    which: tuple[str, str], value: Any
) -> None:
    route, name = which
    declared: Text = parameters_of(HANDLERS[route])[name]
    for from_query in (True, False) if isinstance(value, str) else (False,):
        try:
            found, complaint = read_parameters({name: declared}, {name: value}, from_query=from_query)[name], ""
        except ParameterError as error:
            found, complaint = None, str(error)
        assert found not in ("", [], {}, None) or (complaint.startswith(f"{name} is ") and ", allowed: " in complaint)
        assert complaint.isprintable()


# On a real Orthanc


class Client:
    """Sends bytes over connections that are kept, and reads whole answers; counts them."""

    def __init__(self, server: OrthancServer) -> None:
        self._server = server
        self._socket: socket.socket | None = None
        self.statuses: Counter[int] = Counter()

    def send(self, content: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises ConnectionError: there was none."""
        for fresh in (False, True):  # a kept connection may have been closed meanwhile
            fresh = fresh or self._socket is None
            if fresh:
                self.close()
                self._socket = socket.create_connection(("127.0.0.1", self._server.http_port), 30)
            try:
                assert self._socket
                self._socket.sendall(content)
                return self._answer(content.startswith(b"HEAD"))
            except OSError:
                self.close()
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def _answer(self, without_body: bool) -> tuple[int, bytes]:
        assert self._socket
        found = b""
        while b"\r\n\r\n" not in found:
            found += self._received()
        head, _, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: *(\d+)", head, re.IGNORECASE)
        while length and not without_body and len(body) < int(length[1]):
            body += self._received()
        status = int(head.split()[1])
        self.statuses[status] += 1
        if not length or re.search(rb"\r\nConnection: *close", head, re.IGNORECASE) or head.startswith(b"HTTP/1.0"):
            self.close()
        return status, body

    def _received(self) -> bytes:
        assert self._socket
        if not (found := self._socket.recv(1 << 16)):
            raise ConnectionResetError("the connection was dropped without an answer")
        return found

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None


def request(method: str, target: str, headers: list[tuple[bytes, bytes]] = [], body: bytes | None = None) -> bytes:  # noqa: B006
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: 127.0.0.1", *(b"%s: %s" % header for header in headers)]
    lines += [b"Content-Length: %d" % len(body)] if body is not None else []
    return b"\r\n".join([*lines, b"", body or b""])


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


def of_strangers(study: str) -> Iterator[bytes]:
    """What would delete and send, from where nobody may."""
    day, json_body = "20200101", (b"Content-Type", b"application/json")
    for sign in SIGNS:
        yield request("GET", f"/purge-old-studies?since={day}&force=true", sign)
        for body in ({"since": day, "dry-run": False}, {"since": day, "async": True, "dry-run": False}):
            yield request("POST", "/purge-old-studies", [*sign, json_body], json.dumps(body).encode())
        for name in ("auto-forward-modality", "auto-forward-peer"):
            yield request("POST", f"/{name}/send", [*sign, json_body], json.dumps({"Resource": study}).encode())
            yield request(
                "POST", f"/{name}/backfill", [*sign, json_body], json.dumps({"From": day, "To": day}).encode()
            )
        yield request("POST", f"/anonymize-series/{study}", [*sign, json_body], b"{}")
        yield request("POST", "/dicom-events/replay", [*sign, json_body], json.dumps({"Study": study}).encode())


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
    combined = tmp_path_factory.mktemp("fuzz") / "combined.py"
    paths = [path.parent if path.name == "__init__.py" else path for path in SCRIPTS]
    subprocess.run([sys.executable, ROOT / "combine.py", *paths, "-o", combined], check=True)
    server = start_orthanc_for_module(
        combined,
        {
            "StableAge": 3600,
            "DicomModalities": {"NODE": scp.as_modality()},
            "OrthancPeers": {"PEER": ["http://127.0.0.1:9/"]},
            "AutoForwardModality": {"Destinations": ["NODE"], "Rules": []},
            "AutoForwardPeer": {"Destinations": ["PEER"], "Rules": []},
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
    requests = [*strangers, *with_every_value_of_every_parameter(), *with_every_method_and_odd_paths()]
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
        elif status >= 500:
            wrong.append((number, status, content[:300], body[:300]))
        if len(wrong) > 20:
            break
    client.close()
    assert wrong == [], f"after {number + 1} requests, answered {dict(sorted(client.statuses.items()))}"
    assert fuzzed.log.count(PLUGIN_ALONE) >= errors_of_the_plugin
    assert client.statuses[200] > 100
    assert client.statuses[400] > 1000
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
