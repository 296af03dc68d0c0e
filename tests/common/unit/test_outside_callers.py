# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who calls services of others: requests is needed by whom it is configured for only, and nothing hangs longer than it may."""

from __future__ import annotations

import base64
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from testing.nodes import HttpAnswer, HttpNode, answer_json
from testing.standin import StandIn
from tests.fakes import REAL_EVENT, FakeOrthanc, Script, eventually

NEEDS = "it needs the Python package requests, 2.28 or newer (found none). Install it: apt install python3-requests"
NOTIFY = {"Notify": [{"Url": "http://127.0.0.1:1/{PatientID}"}]}
MOVE_CALLBACKS = {"RegisterMoveCallback", "RegisterMoveCallback2"}
VALUES = {"RequestID": "r1", "PatientID": "P1"}


@pytest.fixture
def without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)  # can't be imported


@pytest.fixture
def hanging() -> Iterator[str]:
    """A service that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def errors(standin: StandIn) -> list[str]:
    return [text for level, text in standin.logs if level == "error"]


# cmove_interceptor: what needs the package


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"Mode": "fetch", "Fetch": {"From": ["modality:PACS"]}},
        {"Fetch": {"From": ["peer:far"]}},  # and nothing fetches
    ],
)
def test_who_calls_nobody_needs_no_package(
    start: Callable[..., Script], orthanc_standin: StandIn, without_requests: None, section: dict[str, Any]
) -> None:
    script = start("cmove_interceptor", {"CMoveInterceptor": section})
    assert script.get("/cmove-interceptor/status")["State"] == "running"
    assert errors(orthanc_standin) == []
    assert orthanc_standin.registered.keys() & MOVE_CALLBACKS


@pytest.mark.parametrize(
    ("section", "refuses"),
    [
        (NOTIFY, False),
        ({"Rules": [{"Mode": "fetch"}], "Fetch": {"From": ["modality:PACS", "peer:far"]}}, False),
        ({"Notify": [{**NOTIFY["Notify"][0], "Required": True}]}, True),
    ],
)
def test_without_its_package_the_script_is_idle_with_one_line(
    start: Callable[..., Script],
    orthanc_standin: StandIn,
    without_requests: None,
    section: dict[str, Any],
    refuses: bool,
) -> None:
    start("cmove_interceptor", {"CMoveInterceptor": section})
    (line,) = errors(orthanc_standin)
    assert NEEDS in line
    answer = orthanc_standin.http("GET", "/cmove-interceptor/status")
    assert (answer.status, answer.json()["Message"]) == (503, line)
    # Orthanc's own C-MOVE is in place, unless the section holds moves back.
    assert bool(orthanc_standin.registered.keys() & MOVE_CALLBACKS) is refuses
    assert line.endswith("until this is corrected.")


def test_the_package_is_imported_by_the_script_s_own_thread_when_it_is_needed(
    start: Callable[..., Script],
    source: Callable[[str], ModuleType],
    orthanc_standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported_in: list[str] = []
    outside = source("common.outside")
    monkeypatch.setattr(outside, "import_requests", lambda: imported_in.append(threading.current_thread().name))
    start("cmove_interceptor", {"CMoveInterceptor": {}}).get("/cmove-interceptor/status")
    assert imported_in == []
    start("cmove_interceptor", {"CMoveInterceptor": NOTIFY}).get("/cmove-interceptor/status")
    assert imported_in == ["cmove_interceptor"]


def test_a_package_that_is_there_and_broken_is_one_line(
    start: Callable[..., Script],
    source: Callable[[str], ModuleType],
    orthanc_standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise ImportError("No module named 'urllib3'")

    monkeypatch.setattr(source("common.outside"), "import_requests", broken)
    start("cmove_interceptor", {"CMoveInterceptor": NOTIFY})
    (line,) = eventually(lambda: errors(orthanc_standin))
    assert line == "cmove_interceptor stays idle: No module named 'urllib3'"
    assert orthanc_standin.http("GET", "/cmove-interceptor/status").status == 503


# cmove_interceptor: services that hang


@pytest.fixture
def real_time(source: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads wait as long as they say."""
    monkeypatch.setattr(threading, "Event", REAL_EVENT)


def test_the_end_of_orthanc_ends_a_notification_that_hangs_and_it_is_sent_at_the_next_start(
    start: Callable[..., Script],
    rest: FakeOrthanc,
    orthanc_standin: StandIn,
    source: Any,
    hanging: str,
    real_time: None,
) -> None:
    section = {"Mode": "notify", "Notify": [{"Url": f"{hanging}/{{PatientID}}", "Timeout": 60}]}
    script = start("cmove_interceptor", {"CMoveInterceptor": section})
    script.get("/cmove-interceptor/status")
    callbacks = source("common.quirks").KEPT_ALIVE
    interceptor = next(each.__self__ for each in callbacks if hasattr(getattr(each, "__self__", 0), "slots"))
    interceptor.notifier.queue("before", VALUES)
    eventually(lambda: script.get("/cmove-interceptor/status")["Notifications"]["sending"] == 1)
    time.sleep(0.2)
    begin = time.monotonic()
    script.change("ORTHANC_STOPPED")
    assert time.monotonic() - begin < 4
    (delivery,) = interceptor.notifier._deliveries.values()
    assert not delivery._thread.is_alive()
    assert [text for level, text in orthanc_standin.logs if level != "info"] == []
    with HttpNode(lambda _: HttpAnswer(200)) as node:
        section["Notify"] = [{"Url": f"{node.url}/{{PatientID}}", "Name": f"GET {hanging[7:]}"}]
        start("cmove_interceptor", {"CMoveInterceptor": section})
        eventually(lambda: node.asked)
        assert node.asked[0].path == "/P1"
        assert node.asked[0].headers["idempotency-key"] == "r1"


def test_required_services_that_trickle_hold_no_turn_for_longer_than_they_may(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, real_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [source(f"cmove_interceptor.{name}") for name in ("required", "caller", "settings")]
    required, caller, settings = modules
    monkeypatch.setattr(required, "LONGEST_ANSWER_SECONDS", 0.5)
    with trickling(b"HTTP/1.1 200 OK\r\nX: ") as url:
        services = required.RequiredServices([caller.Caller(settings.Service(url=url))])
        begin = time.monotonic()
        for _ in range(4):
            with pytest.raises(caller.NotDeliveredError, match=r"did not answer within 0\.5 s"):
                services.ask(VALUES)
        assert time.monotonic() - begin < 8


@contextlib.contextmanager
def trickling(first: bytes, *, breaks_off: bool = False) -> Iterator[str]:
    """A service that answers with this, then with a byte each twentieth of a second, for ever, unless it breaks off."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(first)
            while not breaks_off:
                connection.sendall(b"x")
                time.sleep(0.05)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_who_answers_200_has_been_told_however_long_the_rest_takes(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, real_time: None
) -> None:
    caller, settings = source("cmove_interceptor.caller"), source("cmove_interceptor.settings")
    with trickling(b"HTTP/1.1 200 OK\r\n\r\n") as url:
        begin, one = time.monotonic(), caller.Caller(settings.Service(url=url, timeout=30))
        one.send(one.prepared(VALUES), 30)
        assert time.monotonic() - begin < 5
        one.close()


# cmove_interceptor: peers


@pytest.fixture
def peer(source: Callable[[str], ModuleType], orthanc_standin: StandIn, real_time: None) -> ModuleType:
    return source("cmove_interceptor.peer")


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


def test_a_peer_is_asked_as_the_configuration_says(peer: ModuleType) -> None:
    with HttpNode(answer_json(["a"])) as node:
        entry = {"Url": f"{node.url}/orthanc/", "Username": "me", "Password": "pw", "HttpHeaders": {"X-Site": "here"}}
        far = peer.Peer({"OrthancPeers": {"far": entry}}, "far")
        assert far.ask("POST", "/tools/find", soon(), {"Level": "Study"}) == ["a"]
        far.close()
    (asked,) = node.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/orthanc/tools/find", b'{"Level": "Study"}')
    assert asked.headers["authorization"] == f"Basic {base64.b64encode(b'me:pw').decode()}"
    assert asked.headers["x-site"] == "here"


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_peer_is_reached_by_the_proxy_of_orthanc_unless_the_environment_says_not_this_one(
    peer: ModuleType, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "direct.invalid")
    with HttpNode(lambda _: HttpAnswer(200, b"[]")) as proxy:
        peers = {"far": ["http://far.invalid/"], "direct": ["http://direct.invalid/"]}
        configuration = {"OrthancPeers": peers, "HttpProxy": f"{scheme}127.0.0.1:{proxy.port}"}
        far = peer.Peer(configuration, "far")
        assert far.ask("GET", "/x", soon()) == []
        far.close()
        assert [asked.path for asked in proxy.asked] == ["http://far.invalid/x"]
        with pytest.raises(Exception, match="gaierror"):
            peer.Peer(configuration, "direct").ask("GET", "/x", soon())
        assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"Content-Length: 9\r\n\r\n[]", "it ended after"),
        (b"Content-Length: 2000\r\n\r\n" + b" " * 2000, "it has more than 1000 bytes"),
        (b"\r\n[", "it took longer than"),
    ],
)
def test_an_image_that_did_not_come_whole_is_none(
    peer: ModuleType, monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str
) -> None:
    monkeypatch.setattr(peer, "LARGEST_PEER_ANSWER", 1000)
    with trickling(b"HTTP/1.1 200 OK\r\n" + answer, breaks_off=said == "it ended after") as url:
        far, begin = peer.Peer({"OrthancPeers": {"far": [url]}}, "far"), time.monotonic()
        with pytest.raises(Exception, match=said):
            far.request("GET", "/instances/1/file", soon(1))
        assert time.monotonic() - begin < 5
        far.close()


def test_a_peer_whose_certificates_can_not_be_read_does_not_help(peer: ModuleType) -> None:
    entry = {"Url": "https://127.0.0.1:1/", "CertificateFile": "/nowhere.pem"}
    with pytest.raises(Exception, match="a certificate can't be read"):
        peer.Peer({"OrthancPeers": {"far": entry}}, "far")


def test_the_end_of_orthanc_ends_what_is_fetched_from_a_peer(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, hanging: str, real_time: None
) -> None:
    fetcher, settings = source("cmove_interceptor.fetcher"), source("cmove_interceptor.settings")
    archive: Any = SimpleNamespace(instances=lambda _: [])
    jobs: Any = SimpleNamespace(stopping=threading.Event())
    configuration = {"OrthancPeers": {"far": [hanging]}}
    one = fetcher.Fetcher(None, archive, jobs, SimpleNamespace(), settings.Fetch(sources=("peer:far",)), configuration)
    fields = {"Level": "STUDY", "PatientID": "", "AccessionNumber": "", "StudyInstanceUID": "1.2"}
    fetching = threading.Thread(target=one.complete, args=(fields,))
    fetching.start()
    eventually(lambda: one._peers and one._peers["far"]._outside._under_way)
    time.sleep(0.2)
    begin = time.monotonic()
    jobs.stopping.set()
    one.stop()
    fetching.join(10)
    assert time.monotonic() - begin < 5
    assert any("far did not help: it does not answer: it was ended here" in text for _, text in orthanc_standin.logs)


# dicom_events: webhooks


@pytest.fixture
def webhook(source: Callable[[str], ModuleType], orthanc_standin: StandIn, real_time: None) -> Callable[..., Any]:
    orthanc_standin.returns["GetConfigurationPath"] = "/"
    brokers = source("dicom_events.brokers.webhook")

    def make(url: str, **config: Any) -> Any:
        form: Any = SimpleNamespace()
        made = brokers.make(form, source("dicom_events.broker_settings").WebhookConfig(url=url, **config), None, None)
        made.open()
        return made

    return make


EVENT = SimpleNamespace(row=7)


def publish(broker: Any, headers: dict[str, str] | None = None) -> Any:
    broker.submit(EVENT, (b"{}", headers or {}))
    (outcome,) = eventually(lambda: broker.collect(1))
    return outcome


def test_a_webhook_that_answers_200_has_the_event_however_large_the_answer(webhook: Callable[..., Any]) -> None:
    with HttpNode(lambda _: HttpAnswer(200, b"x" * 200_000)) as node:
        broker = webhook(node.url)
        for _ in range(3):
            assert publish(broker).error is None
        broker.close()
    with trickling(b"HTTP/1.1 200 OK\r\n\r\n") as url:
        broker = webhook(url, timeout=0.3)
        assert publish(broker).error is None
        broker.close()


def test_a_webhook_gets_headers_that_have_blanks_around_them(webhook: Callable[..., Any]) -> None:
    with HttpNode(lambda _: HttpAnswer(204)) as node:
        broker = webhook(node.url)
        assert publish(broker, {"X-Site": " here "}).error is None
        assert node.asked[0].headers["x-site"] == "here"
        broker.close()


def test_a_webhook_is_reached_by_its_proxy_alone(webhook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpNode(lambda _: HttpAnswer(200)) as proxy, HttpNode(lambda _: HttpAnswer(500)) as other:
        monkeypatch.setenv("http_proxy", other.url)
        broker = webhook("http://hook.invalid/x?y", proxy=proxy.url)
        assert publish(broker).error is None
        assert ([each.path for each in proxy.asked], other.asked) == (["http://hook.invalid/x?y"], [])
        broker.close()


def test_an_event_that_no_header_can_hold_is_at_fault_alone(webhook: Callable[..., Any]) -> None:
    broker = webhook("http://127.0.0.1:1/")
    outcome = publish(broker, {"ce-type": "a\nb"})
    assert outcome.final
    assert outcome.error.startswith("it can't be sent: UnsendableError")
    broker.close()


def test_closing_a_webhook_ends_posts_that_hang(webhook: Callable[..., Any], hanging: str) -> None:
    before = set(threading.enumerate())
    broker = webhook(hanging, timeout=60)
    for _ in range(4):
        broker.submit(EVENT, (b"{}", {}))
    assert broker.collect(0.3) == []
    begin = time.monotonic()
    broker.close()
    eventually(lambda: not {each for each in set(threading.enumerate()) - before if each.name.startswith("dicom")}, 5)
    assert time.monotonic() - begin < 5
