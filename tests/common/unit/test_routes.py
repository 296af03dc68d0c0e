# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/routes.py: what routes answer, and who may act through them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from testing.standin import Answer, StandIn
from tests.fakes import FakeOrthanc

BROWSER = "Mozilla/5.0 (X11; Linux x86_64)"


@pytest.fixture
def routes(source: Callable[[str], ModuleType], rest: FakeOrthanc) -> Any:
    return source("common.routes")


@pytest.fixture
def ask(routes: Any, source: Callable[[str], ModuleType], orthanc_standin: StandIn) -> Callable[..., Answer]:
    """Send a request to a route that gives back what it was given."""

    parameters = source("common.parameters")

    def handler(request: Any) -> Any:
        return {"Query": dict(request.query), "Body": request.json() if request.body else None}

    echo = parameters.takes({"name": parameters.Text()})(handler)
    methods = dict.fromkeys(("GET", "POST", "PUT", "DELETE"), echo)
    routes.register_route("/echo/([a-z]*)", methods, lambda: None)

    def send(method: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        return orthanc_standin.http(method, "/echo/x", headers=headers, **more)

    return send


# Who may act


def test_a_program_that_is_no_browser_may_act(ask: Callable[..., Answer]) -> None:
    assert [ask(method).status for method in ("GET", "POST", "PUT", "DELETE")] == [200] * 4


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "http://localhost:8042", "host": "localhost:8042"},
        {"origin": "http://evil.example", "host": "localhost:8042"},
        {"origin": "http://localhost:8000", "host": "localhost:8042"},
        {"origin": "null", "host": "localhost:8042"},
        {"origin": "http://evil.example"},
        {"origin": "https://pacs.example", "host": "localhost:8042", "x-forwarded-host": "other.example"},
    ],
)
def test_the_page_of_another_site_changes_nothing(
    ask: Callable[..., Answer], method: str, headers: dict[str, str]
) -> None:
    answer = ask(method, headers)
    assert answer.status == 403
    assert "another site's page" in answer.json()["Message"]
    assert ask("GET", headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin", "origin": "http://elsewhere"},
        {"sec-fetch-site": "none"},
        {"origin": "http://localhost:8042", "host": "localhost:8042"},
    ],
)
def test_orthancs_own_page_may_act(ask: Callable[..., Answer], headers: dict[str, str]) -> None:
    assert ask("POST", headers).status == 200


def test_behind_a_proxy_the_forwarded_host_counts_as_the_host(ask: Callable[..., Answer]) -> None:
    headers = {"origin": "https://pacs.example", "host": "127.0.0.1:8042"}
    assert ask("POST", headers).status == 403
    assert ask("POST", {**headers, "x-forwarded-host": "pacs.example"}).status == 200


@pytest.mark.parametrize(
    "mime", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_what_a_form_of_any_page_can_send_is_refused(ask: Callable[..., Answer], mime: str) -> None:
    headers = {"user-agent": BROWSER, **({"content-type": mime} if mime else {})}
    assert ask("POST", headers, body="{}").status == 415
    # A form without fields has no body, and says what it is; what says nothing and has no body tells nothing.
    assert ask("POST", headers).status == (415 if mime else 200)
    assert ask("POST", {**headers, "content-type": "Application/JSON; charset=utf-8"}, body="{}").status == 200


def test_a_server_that_stands_open_is_told_once(routes: Any, orthanc_standin: StandIn) -> None:
    for configuration in ({}, {"RemoteAccessAllowed": True}, {"AuthenticationEnabled": False}):
        routes.warn_if_open("x", configuration)
    orthanc_standin.assert_not_logged()
    routes.warn_if_open("x", {"RemoteAccessAllowed": True, "AuthenticationEnabled": False})
    orthanc_standin.assert_logged("x: whoever reaches this server may use its routes", "warning")


# What is sent


def test_a_body_of_more_than_a_mebibyte_is_a_413(ask: Callable[..., Answer]) -> None:
    assert ask("POST", body=b"{}" + b" " * ((1 << 20) - 2)).status == 200
    assert ask("POST", body=b"{}" + b" " * ((1 << 20) - 1)).status == 413


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[]", "must be a JSON object"),
        (b"3", "must be a JSON object"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "twice"),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "nested more than 50 deep"),
        (b'{"a":' * 51 + b"1" + b"}" * 51, "nested more than 50 deep"),
    ],
)
def test_a_body_that_is_no_object_of_parameters_is_a_400(ask: Callable[..., Answer], body: bytes, why: str) -> None:
    answer = ask("POST", body=body)
    assert answer.status == 400
    assert why in answer.json()["Message"]


def test_what_stands_in_a_text_nests_nothing(routes: Any) -> None:
    assert routes.decoded('{"a": "' + "[" * 99 + '\\"{"}') == {"a": "[" * 99 + '"{'}
    assert routes.decoded(b"[" * 50 + b"]" * 50) is not None


def test_half_of_a_surrogate_pair_is_no_text(routes: Any) -> None:
    assert routes.decoded(r'{"a": "\ud83d\ude00"}')["a"] == "😀"
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        routes.decoded(r'{"a": "\ud800"}')


@pytest.mark.parametrize(("arrives", "found"), [(b"A", "a%20b"), (b"%41", "a b")])
def test_a_parameter_is_decoded_once(
    ask: Callable[..., Answer], rest: FakeOrthanc, arrives: bytes, found: str, orthanc_standin: StandIn
) -> None:
    """Whether the web server has decoded it is asked of this very route."""
    rest.answers["GET", "/echo/x?arrives-decoded=%41"] = arrives
    output = orthanc_standin.http("GET", "/echo/x?name=a%20b")  # plugin 4.0 hands it over as it came
    assert output.json()["Query"] == {"name": found}


def test_what_needs_no_decoding_asks_nothing(ask: Callable[..., Answer], rest: FakeOrthanc) -> None:
    assert ask("GET", get={"name": "plain"}).json()["Query"] == {"name": "plain"}
    assert rest.requests == []


def test_where_the_route_can_not_be_asked_it_is_decoded(ask: Callable[..., Answer], orthanc_standin: StandIn) -> None:
    assert orthanc_standin.http("GET", "/echo/x?name=a+b").json()["Query"] == {"name": "a b"}


def test_the_probe_of_how_parameters_arrive_is_answered_as_it_came(
    ask: Callable[..., Answer], orthanc_standin: StandIn
) -> None:
    assert orthanc_standin.http("GET", "/echo/x?arrives-decoded=%41").body == b"%41"


# What is answered


def route(routes: Any, answer: Any, **more: Any) -> None:
    def handler(_request: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    routes.register_route("/route", {"GET": handler}, more.pop("unavailable", lambda: None), **more)


@pytest.mark.parametrize(
    ("value", "body", "mime"),
    [
        ({"a": [1]}, b'{\n  "a": [\n    1\n  ]\n}\n', "application/json"),
        ("3\n", b"3\n", "text/plain; charset=utf-8"),
        (b"\x00", b"\x00", ""),
        (None, b"null\n", "application/json"),
    ],
)
def test_a_value_becomes_json_or_text_or_stays_bytes(
    routes: Any, orthanc_standin: StandIn, value: Any, body: bytes, mime: str
) -> None:
    route(routes, value)
    answer = orthanc_standin.http("GET", "/route")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, body, mime)


@pytest.mark.parametrize("version", ["4.0", "7.1"])
def test_status_and_headers_are_as_said_and_no_header_is_made_up(version: str, request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.plugin_version(version))
    source, standin = request.getfixturevalue("source"), request.getfixturevalue("orthanc_standin")
    routes = source("common.routes")
    route(routes, routes.Answer({"é": 1}, 202, headers={"X-What": "a\r\nSet-Cookie: b"}))
    answer = standin.http("GET", "/route")
    assert (answer.status, answer.json()) == (202, {"é": 1})
    assert answer.headers["X-What"] == "a Set-Cookie: b"
    assert ("Content-Type" in answer.headers) == (version == "4.0")  # from 1.12.7 on Orthanc adds one by itself


def test_a_refusal_has_the_shape_of_orthancs_own_errors(routes: Any, orthanc_standin: StandIn) -> None:
    route(routes, routes.Refused(409, "not\nnow", Purge=3))
    answer = orthanc_standin.http("GET", "/route")
    assert answer.status == 409
    assert answer.json() == {
        "Purge": 3,
        "HttpError": "Conflict",
        "HttpStatus": 409,
        "Message": "not now",
        "Method": "GET",
        "Uri": "/route",
    }


def test_a_bug_is_a_500_whose_reason_is_in_the_log_alone(routes: Any, orthanc_standin: StandIn) -> None:
    route(routes, RuntimeError("of patient Doe"))
    answer = orthanc_standin.http("GET", "/route")
    assert answer.status == 500
    assert "Doe" not in answer.text
    orthanc_standin.assert_logged("RuntimeError: of patient Doe", "error")


def test_while_it_is_unavailable_every_method_is_a_503_with_the_reason(routes: Any, orthanc_standin: StandIn) -> None:
    route(routes, {}, unavailable=lambda: "it has not started yet")
    answer = orthanc_standin.http("GET", "/route")
    assert (answer.status, answer.json()["Message"]) == (503, "it has not started yet")


def test_other_methods_are_405_and_name_the_right_ones(routes: Any, orthanc_standin: StandIn) -> None:
    route(routes, {})
    answer = orthanc_standin.http("DELETE", "/route")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_a_shortcut_answers_first_or_leaves_it(routes: Any, orthanc_standin: StandIn) -> None:
    taken = []

    def shortcut(output: Any, uri: str, raw: Any) -> bool:
        taken.append((uri, raw["method"]))
        if len(taken) == 1:
            output.AnswerBuffer(b"short", "text/plain")
        return len(taken) == 1

    route(routes, "long", shortcut=shortcut)
    assert [orthanc_standin.http("GET", "/route").text for _ in range(2)] == ["short", "long"]
    assert taken == [("/route", "GET")] * 2


def test_what_orthanc_calls_lives_as_long_as_the_process(routes: Any, source: Any, orthanc_standin: StandIn) -> None:
    route(routes, {})
    assert orthanc_standin.registered["RegisterRestCallback"][-1][1] in source("common.quirks").KEPT_ALIVE
    assert [*routes.ROUTES] == ["/route"]


def test_text_from_outside_is_one_line(routes: Any) -> None:
    assert routes.one_line("\ta\r\nb\x00\x1b[1mc\x7f ") == "a b [1mc"
    assert routes.one_line("a\x9b1mb\x85c\u2028d\u2029e\ud800f") == "a 1mb c d e f"
    assert routes.one_line("山田\u3000é\xa0") == "山田\u3000é"
