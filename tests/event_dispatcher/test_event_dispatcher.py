# SPDX-License-Identifier: AGPL-3.0-or-later
"""event_dispatcher.py without a server: what handlers get and give, sessions, executors, logging."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

import event_dispatcher
from event_dispatcher import (
    ChangeEvent,
    ClientType,
    Executor,
    create_internal_client,
    create_session,
    first_instance,
    first_instance_metadata,
    first_instance_tags,
    orthanc_logging,
    parents,
    pipeline,
    python_logging,
    register_event_handlers,
)
from testing.standin import OrthancApiHandler, StandIn

orthanc = OrthancApiHandler()
STABLE = ChangeEvent(orthanc.ChangeType.STABLE_SERIES, orthanc.ResourceType.SERIES, "5e41e5")


@pytest.fixture(autouse=True)
def as_if_just_loaded() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    event_dispatcher.SDK.open()  # type: ignore[attr-defined]  # a test before this one has stopped its Orthanc
    yield
    root.handlers[:], root.level = handlers, level


def run(*handlers: Any, session: Any = None, async_session: Any = None, **options: Any) -> Any:
    """Register handlers of STABLE_SERIES, let it happen, and give their results."""
    register_event_handlers({orthanc.ChangeType.STABLE_SERIES: handlers}, orthanc, session, async_session, **options)
    return orthanc.on_change(STABLE)


# What its users know from elsewhere


def hello(event: Any, session: Any) -> Any:
    logging.info("%s", event)
    return session.get("/system").json()["ApiVersion"]


@respx.mock
def test_the_hello_handler_gives_its_result_to_the_test_without_a_server() -> None:
    respx.get("/system").mock(return_value=httpx.Response(200, json={"ApiVersion": 18}))
    register_event_handlers({orthanc.ChangeType.ORTHANC_STARTED: hello}, orthanc, create_session(orthanc))
    assert orthanc.on_change(ChangeEvent(orthanc.ChangeType.ORTHANC_STARTED)) == [18]
    assert orthanc.on_change(orthanc.ChangeType.ORTHANC_STARTED, orthanc.ResourceType.NONE, "") == [18]


def test_one_handler_or_several_get_event_and_session_and_results_keep_their_order() -> None:
    seen = []

    def one(event: Any, session: Any) -> int:
        seen.append((event, session))
        return 1

    async def two(event: Any, session: Any) -> int:
        seen.append((event, session))
        return 2

    assert run(one, two, functools.partial(lambda more, *_: more, 3), session="plain", async_session="async") == [
        1,
        2,
        3,
    ]
    assert sorted(seen, key=lambda each: str(each[1])) == [(STABLE, "async"), (STABLE, "plain")]
    register_event_handlers({orthanc.ChangeType.STABLE_SERIES: one}, orthanc, None)
    assert orthanc.on_change(STABLE) == [1]
    assert orthanc.on_change(orthanc.ChangeType.NEW_SERIES, orthanc.ResourceType.SERIES, "x") == []


def test_an_event_prints_names_and_compares_with_numbers() -> None:
    (event,) = run(lambda event, _: event)
    assert str(event) == "ChangeEvent(change_type=STABLE_SERIES, resource_type=SERIES, resource_id='5e41e5')"
    assert f"{event.change_type} {event.resource_type}" == "STABLE_SERIES SERIES"
    assert (event.change_type, event.resource_type) == (orthanc.ChangeType.STABLE_SERIES, orthanc.ResourceType.SERIES)


def test_a_change_type_that_orthanc_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"handlers: found 99, allowed: one of orthanc\.ChangeType"):
        register_event_handlers({99: hello}, orthanc, None)


def test_a_pipeline_passes_each_result_on_plain_and_with_coroutines() -> None:
    async def slowly(value: str, session: Any) -> str:
        await asyncio.sleep(0)
        return f"{value} {session}"

    plain = pipeline(lambda event, _: event.resource_id, lambda value, session: f"{value} {session}")
    mixed = pipeline(lambda event, _: event.resource_id, slowly, lambda value, _: value.upper())
    assert run(plain, mixed, session="plain", async_session="async") == ["5e41e5 plain", "5E41E5 ASYNC"]


def test_a_handler_that_fails_is_logged_with_its_name_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def plain(*_: Any) -> None:
        raise ValueError("one")

    async def coroutine(*_: Any) -> None:
        raise SystemExit("two")

    results = run(plain, coroutine, pipeline(plain, hello), lambda *_: 4, async_session="any")
    assert [str(each) for each in results] == ["one", "two", "one", "4"]
    failures = sorted(record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    names = [
        re.sub(r"test_\w+\.<locals>\.", "", each).partition(" failed on ChangeEvent(change_type=STABLE_SERIES")[0]
        for each in failures
    ]
    assert sorted(names) == ["coroutine", "pipeline(plain, hello)", "plain"]


def test_a_coroutine_that_cancels_itself_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def cancels(*_: Any) -> None:
        raise asyncio.CancelledError

    (error,) = run(cancels, async_session="any")
    assert str(error) == "canceled"
    assert "cancels failed on ChangeEvent" in caplog.text


def test_a_function_that_returns_a_coroutine_is_told_what_to_do() -> None:
    async def coroutine(*_: Any) -> None: ...

    (error,) = run(lambda event, session: coroutine(event, session))
    assert "register the coroutine function itself" in str(error)


def test_all_events_together_reach_no_thread_of_orthancs() -> None:
    async def where(*_: Any) -> str:
        return threading.current_thread().name

    names = run(lambda *_: threading.current_thread().name, where, async_session="any")
    assert names == ["event_dispatcher 1", "event_dispatcher loop"]


# Executors


def meeting(number: int) -> Any:
    """A handler that ends when `number` of it run at the same time."""
    barrier = threading.Barrier(number)
    return lambda *_: barrier.wait(10)


def test_blocking_handlers_run_in_the_order_of_events_by_default_and_so_many_at_a_time_by_choice() -> None:
    seen: list[str] = []
    release = threading.Event()

    def slow(event: Any, _: Any) -> None:
        if event.resource_id == "1":
            release.wait(10)
        seen.append(event.resource_id)

    dispatcher = register_event_handlers({orthanc.ChangeType.NEW_STUDY: slow}, orthanc, None)
    futures = [dispatcher.on_change(orthanc.ChangeType.NEW_STUDY, 1, name)[0] for name in "123"]
    release.set()
    assert [future.result(10) for future in futures] == [None] * 3
    assert seen == ["1", "2", "3"]
    assert sorted(run(*[meeting(4)] * 4, executor=Executor(threads=4))) == [0, 1, 2, 3]


@pytest.mark.parametrize(("bound", "number"), [(100, 50), (7, 49)])
def test_coroutines_run_at_the_same_time_up_to_their_bound(bound: int, number: int) -> None:
    begun, running, most = 0, 0, 0

    async def together(*_: Any) -> None:
        """Ends when as many have begun as may be here at the same time."""
        nonlocal begun, running, most
        begun, running = begun + 1, running + 1
        most, wanted = max(most, running), min(number, -(-begun // bound) * bound)
        async with asyncio.timeout(20):
            while begun < wanted:
                await asyncio.sleep(0)
        running -= 1

    assert run(*[together] * number, async_session="any", executor=Executor(coroutines=bound)) == [None] * number
    assert most == min(bound, number)


def test_in_order_the_next_event_waits_for_all_handlers_of_the_one_before() -> None:
    seen: list[str] = []

    def plain(event: Any, _: Any) -> None:
        seen.append(event.resource_id)

    async def coroutine(event: Any, _: Any) -> None:
        for _turn in range(20):
            await asyncio.sleep(0)
        seen.append(event.resource_id)

    handlers = {orthanc.ChangeType.NEW_STUDY: [coroutine, plain]}
    dispatcher = register_event_handlers(handlers, orthanc, None, "any", executor=Executor(in_order=True))
    for future in [dispatcher.on_change(orthanc.ChangeType.NEW_STUDY, 1, name) for name in "abc"][-1]:
        future.result(10)
    assert seen == list("aabbcc")


def test_when_many_wait_no_event_does_a_warning_names_what_runs_and_nothing_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []
    begun, release = threading.Event(), threading.Event()

    def slow(event: Any, _: Any) -> None:
        begun.set()
        release.wait(10)
        seen.append(event.resource_id)

    dispatcher = register_event_handlers(
        {orthanc.ChangeType.NEW_STUDY: slow}, orthanc, None, executor=Executor(waiting=2)
    )
    names = [str(number) for number in range(12)]
    for name in names:  # returns although the handler does not
        dispatcher.on_change(orthanc.ChangeType.NEW_STUDY, 1, name)
        begun.wait(10)
    release.set()
    orthanc.on_change(orthanc.ChangeType.ORTHANC_STOPPED)
    assert seen == names
    said = [each.partition(" handlers wait for their turn, in memory, behind ") for each in caplog.messages]
    assert [each[0] for each in said if each[2].endswith("slow (for 0 s)")] == ["2", "4", "8"]
    assert sum("handlers have caught up: 1 wait for their turn" in each for each in caplog.messages) == 1


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"coroutines": 0}, {"waiting": 0}])
def test_a_bound_below_one_is_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: found 0, allowed: at least 1"):
        Executor(**wrong)  # type: ignore[arg-type]


def test_when_orthanc_stops_what_runs_may_end_and_what_waits_is_named(caplog: pytest.LogCaptureFixture) -> None:
    canceled = []
    hanging = threading.Event()

    async def endless(*_: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            canceled.append(True)
            raise

    def hang(*_: Any) -> None:
        hanging.wait(60)

    handlers = {
        orthanc.ChangeType.NEW_STUDY: [hang, hello, endless],
        orthanc.ChangeType.ORTHANC_STOPPED: [lambda *_: "closed", pipeline(lambda *_: "later", asyncio_upper)],
    }
    executor = Executor(stop_within=0.6)
    dispatcher = register_event_handlers(handlers, orthanc, None, "any", executor=executor)
    futures = dispatcher.on_change(orthanc.ChangeType.NEW_STUDY, 1, "x")
    assert orthanc.on_change(orthanc.ChangeType.ORTHANC_STOPPED) == ["closed", "LATER"]
    assert futures[1].cancelled()
    assert canceled == [True]
    (said,) = [each for each in caplog.messages if each.startswith("Orthanc stops")]
    assert said.startswith("Orthanc stops: 1 handlers had no turn, 2 are still running: hello, test_")
    hanging.set()


async def asyncio_upper(value: str, _session: Any) -> str:
    await asyncio.sleep(0)
    return value.upper()


# Sessions


@respx.mock
def test_the_token_goes_to_this_orthanc_and_to_nobody_else() -> None:
    routes = [
        respx.get("http://127.0.0.1:8042/system"),
        respx.get("http://127.0.0.1:8043/"),
        respx.get("https://else/"),
    ]
    session = create_session(orthanc)
    for route, url in zip(routes, ("/system", "http://127.0.0.1:8043/", "https://else/"), strict=True):
        session.get(url)
        assert route.called
    assert [route.calls[0].request.headers.get("Authorization") for route in routes] == ["token", None, None]


@pytest.mark.parametrize("client_type", [httpx.AsyncClient, ClientType.ASYNC])
def test_a_session_for_coroutines_is_asynchronous_and_made_when_none_is_given(client_type: Any) -> None:
    async def version(_event: Any, session: httpx.AsyncClient) -> Any:
        return (await session.get("/system")).json()["ApiVersion"]

    with respx.mock:
        respx.get("http://127.0.0.1:8042/system").respond(json={"ApiVersion": 18})
        assert run(version) == [18]
        assert run(version, async_session=create_session(orthanc, client_type)) == [18]


def test_port_addresses_and_threads_come_from_the_configuration() -> None:
    standin = OrthancApiHandler(configuration={"HttpPort": 9042, "HttpBindAddresses": ["::1"]})
    assert create_session(standin).base_url == "http://[::1]:9042"
    with pytest.raises(ValueError, match=r"create_session needs .*HttpServerEnabled.*create_internal_client"):
        create_session(OrthancApiHandler(configuration={"HttpServerEnabled": False}))


class Secure(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write((self.headers.get("Authorization") or "").encode())

    def log_message(self, *_: Any) -> None: ...


def test_a_tls_server_is_trusted_by_its_own_certificate(certificate: Path) -> None:
    """A server of Python's own: Debian's Orthanc crashes at the first HTTPS request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Secure)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    configuration = {"SslEnabled": True, "SslCertificate": str(certificate), "SslVerifyPeers": True}
    try:
        standin = OrthancApiHandler(configuration={**configuration, "HttpPort": server.server_port})
        with create_session(standin) as session:
            assert session.get("/system").text == "token"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_internal_client_has_the_same_face_over_the_plugins_own_functions() -> None:
    standin = OrthancApiHandler()
    standin.answers = {
        ("GET", "/studies?expand"): [{"ID": "1"}],
        ("POST", "/tools/find"): lambda body: body.upper(),
        ("PUT", "/studies/1/metadata/1024"): b"",
        ("DELETE", "/studies/1"): b"",
        ("GET", "/studies/2"): standin.OrthancException(17, "Unknown resource"),
        ("GET", "/broken"): standin.OrthancException(1, "Internal error"),
    }
    client = create_internal_client(standin)
    assert client.get("/studies?expand").json() == [{"ID": "1"}]
    assert client.post("/tools/find", content=b"query").text == "QUERY"
    assert client.put("/studies/1/metadata/1024", content="x").status_code == 200
    assert client.delete("/studies/1").content == b""
    assert client.head("/studies").status_code == 405
    missing = client.get("/studies/2")
    assert (missing.status_code, missing.json()["OrthancError"]) == (404, "Unknown resource")
    with pytest.raises(httpx.HTTPStatusError):
        client.get("/broken").raise_for_status()
    assert asyncio.run(create_internal_client(standin, httpx.AsyncClient).get("/studies?expand")).json() == [
        {"ID": "1"}
    ]


def test_the_internal_client_reaches_routes_of_scripts_where_it_is_asked_to() -> None:
    standin = OrthancApiHandler()
    standin.module.RegisterRestCallback("/mine", lambda output, *_, **__: output.AnswerBuffer("yes", "text/plain"))
    assert create_internal_client(standin, after_plugins=True).get("/mine").text == "yes"


def test_after_orthanc_has_stopped_nothing_calls_it_any_more(capsys: pytest.CaptureFixture[str]) -> None:
    client = create_internal_client(orthanc)
    run(lambda *_: None)
    orthanc.on_change(orthanc.ChangeType.ORTHANC_STOPPED)
    before = len(orthanc.logs)
    logging.getLogger().warning("late")
    with pytest.raises(httpx.ConnectError, match="Orthanc has stopped"):
        client.get("/system")
    assert len(orthanc.logs) == before
    assert "late" in capsys.readouterr().err


# Helpers


def test_helpers_are_handlers_for_both_sessions_and_steps_of_pipelines() -> None:
    standin = OrthancApiHandler()
    standin.answers = {
        ("GET", "/series/5e41e5"): {"Instances": ["i1", "i2"], "ParentStudy": "st"},
        ("GET", "/studies/st"): {"ParentPatient": "pa"},
        ("GET", "/instances/i1/metadata/RemoteAET"): b"CT1",
        ("GET", "/instances/i1/metadata/Absent"): standin.OrthancException(17, "Unknown resource"),
        ("GET", "/instances/i1/simplified-tags"): {"Modality": "CT"},
    }
    sessions = create_internal_client(standin), create_internal_client(standin, httpx.AsyncClient)

    async def its_parents(event: Any, session: Any) -> Any:
        return await parents(event, session)

    results = run(
        first_instance,
        first_instance_tags,
        functools.partial(lambda name, event, session: first_instance_metadata(event, session, name), "RemoteAET"),
        lambda _event, session: first_instance_metadata("5e41e5", session, "Absent"),
        parents,
        its_parents,
        pipeline(first_instance_tags, asyncio_modality),
        session=sessions[0],
        async_session=sessions[1],
    )
    family = {"Series": "5e41e5", "Study": "st", "Patient": "pa"}
    assert results == ["i1", {"Modality": "CT"}, "CT1", None, family, family, "CT"]


async def asyncio_modality(tags: Any, _session: Any) -> Any:
    return tags["Modality"]


# Logging


def test_pythons_logging_goes_to_orthancs_log_with_levels_and_nothing_of_it_looks_like_another_line() -> None:
    standin = StandIn()
    orthanc_logging(standin.module)
    orthanc_logging(standin.module)  # once all the same
    log = logging.getLogger("mine")
    log.debug("not shown")
    log.info("begin\nE1121 13:50:00.000000 forged")
    log.warning("careful")
    try:
        raise ValueError("first\nE1121 second")
    except ValueError:
        log.exception("failed")
    logging.getLogger("httpx").info("HTTP Request: GET /patients?PatientID=1")
    levels, texts = zip(*standin.logs, strict=True)
    assert levels == ("info", "warning", "error")
    assert re.fullmatch(r"\[test_event_dispatcher\.py:\d+\] begin E1121 13:50:00\.000000 forged", texts[0])
    assert texts[2].splitlines()[-1] == "  E1121 second"
    assert all(line.startswith("  ") for line in texts[2].splitlines()[1:])


def test_pythons_logging_goes_to_standard_error_with_a_date_by_choice(capsys: pytest.CaptureFixture[str]) -> None:
    run(
        hello,
        session=httpx.Client(
            transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"ApiVersion": 1})), base_url="http://x"
        ),
        logging_configuration=python_logging,
    )
    assert re.search(
        r"^20\d\d-\d\d-\d\d \S+ INFO \[test_event_dispatcher\.py:\d+\] ChangeEvent\(", capsys.readouterr().err
    )


def test_a_handler_whose_turn_was_canceled_does_not_run() -> None:
    ran = list[Any]()
    make_call: Any = vars(event_dispatcher)["Call"]  # not for users
    call = make_call(lambda *_: ran.append(1), STABLE, (None, None))
    assert call.want_future().cancel()
    call.run()
    assert ran == []
