# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls of services: no redirects, bounded in time and size, and no secret in an error."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from common import outside as module
from common.outside import Outside, OutsideError, UnsendableError, requests_problem
from testing.nodes import HttpAnswer, HttpNode
from tests.common.unit.helpers import SECRET, SRC, ask, status_of

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def node() -> Iterator[HttpNode]:
    with HttpNode(lambda _: HttpAnswer(200, b"well")) as found:
        yield found


@pytest.fixture
def outside(node: HttpNode) -> Iterator[Outside]:
    found = Outside(node.url)
    yield found
    found.close()


@contextlib.contextmanager
def raw_service(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A service that reads a request, and does with the connection whatever it wants; its URL."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            answer(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def trickle(*first: bytes) -> Callable[[socket.socket], object]:
    """Send something, then a byte each twentieth of a second, for ever."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"".join(first))
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer


# What is sent


def test_a_request_has_the_headers_and_the_body_that_it_is_given_and_no_others(
    node: HttpNode, outside: Outside
) -> None:
    answer = outside.request(
        "POST", "/a?b=c", headers={"User-Agent": "we", "X": " y "}, body=b"{}", timeout=5, largest=9
    )
    assert (answer.status, answer.reason, answer.body, answer.problem) == (200, "OK", b"well", "")
    (asked,) = node.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/a?b=c", b"{}")
    expected = {"user-agent": "we", "x": "y", "content-length": "2", "accept-encoding": "identity"}
    assert asked.headers == {"host": f"127.0.0.1:{node.port}", **expected}


@pytest.mark.parametrize("target", ["/a/%2E%2E/b", "/a/%2e%2E", "/%41?x=%2F..%2F&y=%20", "/a;b=c/?d=%C3%A9"])
def test_a_target_arrives_as_it_was_given(node: HttpNode, outside: Outside, target: str) -> None:
    assert ask(outside, target).status == 200
    assert node.asked[0].path.replace("%2e", "%2E") == target.replace("%2e", "%2E")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "€"])
def test_what_no_header_can_be_is_the_request_s_own_fault(node: HttpNode, outside: Outside, value: str) -> None:
    with pytest.raises(UnsendableError) as raised:
        ask(outside, headers={"Authorization": f"{SECRET}{value}"})
    assert SECRET not in str(raised.value)
    assert node.asked == []
    assert ask(outside).status == 200


def test_connections_are_kept_for_a_while_and_cookies_never(node: HttpNode, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[object] = []
    connect = socket.socket.connect

    def counted(this: socket.socket, where: Any) -> None:
        connected.append(where)
        connect(this, where)

    monkeypatch.setattr(socket.socket, "connect", counted)
    node.respond = lambda _: HttpAnswer(200, b"", {"Set-Cookie": "session=1; Path=/"})
    outside = Outside(node.url)
    for _ in range(3):
        assert ask(outside).problem == ""
    assert len(connected) == 1
    monkeypatch.setattr(module, "IDLE_CONNECTION_SECONDS", -1)
    assert ask(outside).status == 200
    assert len(connected) == 2
    assert not any("cookie" in asked.headers for asked in node.asked)
    assert not list(outside._session.cookies)
    outside.close()


def test_several_threads_may_call_at_the_same_time(node: HttpNode, outside: Outside) -> None:
    together = threading.Barrier(3)
    node.respond = lambda _: HttpAnswer(200, str(together.wait(5)).encode())
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(ask(outside).body)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(bodies) == [b"0", b"1", b"2"]


# What is not followed, and what is not taken


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer(node: HttpNode, outside: Outside, status: int) -> None:
    with HttpNode(lambda _: HttpAnswer(200)) as elsewhere:
        node.respond = lambda _: HttpAnswer(status, b"", {"Location": f"{elsewhere.url}/x"})
        assert ask(outside).status == status
        assert (elsewhere.asked, len(node.asked)) == ([], 1)


def test_of_a_redirect_no_more_is_read_than_of_any_answer() -> None:
    sent = [0]

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n")
        while True:
            sent[0] += connection.send(b"x" * 65536)
            time.sleep(0.001)

    with raw_service(endless) as url:
        outside = Outside(url)
        assert ask(outside, total=1).problem == "it has more than 100 bytes"
        assert sent[0] < 10_000_000
        outside.close()


@pytest.mark.parametrize(
    "head", [b"Content-Length: 100000\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n186A0\r\n"]
)
def test_an_answer_that_is_too_large_is_cut_off(head: bytes) -> None:
    with raw_service(lambda connection: connection.sendall(OK + head + b"x" * 100_000 + b"\r\n0\r\n\r\n")) as url:
        outside = Outside(url)
        answer = ask(outside)
        assert (answer.status, answer.body, answer.problem) == (200, b"x" * 100, "it has more than 100 bytes")
        assert ask(outside).status == 200  # by another connection
        outside.close()


def test_an_answer_that_unpacks_itself_is_not_unpacked(node: HttpNode, outside: Outside) -> None:
    node.respond = lambda _: HttpAnswer(200, b"\x1f\x8b no gzip", {"Content-Encoding": "gzip"})
    assert ask(outside).body == b"\x1f\x8b no gzip"
    assert node.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("largest", [0, 100])
@pytest.mark.parametrize("head", [b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"])
def test_an_answer_that_breaks_off_is_not_whole_and_its_status_counts(head: bytes, largest: int) -> None:
    with raw_service(lambda connection: connection.sendall(OK + head)) as url:
        outside = Outside(url)
        answer = ask(outside, largest=largest)
        assert answer.status == 200
        assert answer.problem
        outside.close()


@pytest.mark.parametrize("answer", [b"", b"what?\r\n\r\n", b"HTTP/1.1 banana\r\n\r\n", OK + b"X: " + b"y" * 70_000])
def test_what_is_no_answer_is_said(answer: bytes) -> None:
    with raw_service(lambda connection: connection.sendall(answer)) as url:
        outside = Outside(url)
        with pytest.raises(OutsideError, match=r"RemoteDisconnected|BadStatusLine|LineTooLong"):
            ask(outside, f"/x?key={SECRET}")
        outside.close()


# Time


def test_a_service_that_says_nothing_is_given_up() -> None:
    with raw_service(lambda _: time.sleep(60)) as url:
        outside, begin = Outside(url), time.monotonic()
        with pytest.raises(OutsideError, match="timed out"):
            ask(outside, timeout=0.3)
        assert time.monotonic() - begin < 5
        outside.close()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200", OK + b"X: ", b"HTTP/1.1 100 Continue\r\n"])
def test_a_service_that_trickles_its_headers_is_given_up(first: bytes) -> None:
    with raw_service(trickle(first)) as url:
        outside, begin = Outside(url), time.monotonic()
        with pytest.raises(OutsideError, match=r"longer than 0\.5 s"):
            ask(outside, timeout=5, total=0.5)
        assert 0.4 < time.monotonic() - begin < 5
        outside.close()


@pytest.mark.parametrize(
    "head", [b"Content-Length: 100000\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n999\r\n"]
)
def test_a_service_that_trickles_its_body_is_given_up_and_its_status_counts(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[float] = []
    clocks: list[threading.Timer] = []
    read_answer, start = module.read_answer, threading.Timer.start

    class Clock(threading.Timer):
        """Counts from the moment at which the body is read: on a busy machine the headers may take longer than a short time."""

        def __init__(self, seconds: float, *more: Any) -> None:
            wanted.append(seconds)
            clocks.append(self)
            super().__init__(0.3, *more)

        def start(self) -> None:
            pass

    def read(*arguments: Any) -> tuple[bytes, str]:
        start(clocks[-1])
        return read_answer(*arguments)

    monkeypatch.setattr(threading, "Timer", Clock)
    monkeypatch.setattr(module, "read_answer", read)
    with raw_service(trickle(OK, head)) as url:
        outside, begin = Outside(url), time.monotonic()
        answer = ask(outside, timeout=30, largest=100_000)
        assert (answer.status, answer.problem) == (200, "it took longer than 60 s")
        assert wanted == [60]  # in all twice the time
        assert 0.3 <= time.monotonic() - begin < 20  # no byte came 30 s after the one before
        begin = time.monotonic()
        assert ask(outside, timeout=30, largest=0).status == 200  # who looks at the status only does not wait
        assert time.monotonic() - begin < 20
        outside.close()


def test_closing_ends_what_is_under_way_and_no_more_is_sent() -> None:
    with raw_service(lambda _: time.sleep(60)) as url:
        outside, errors = Outside(url), list[str]()

        def call() -> None:
            with pytest.raises(OutsideError) as raised:
                ask(outside, timeout=60)
            errors.append(str(raised.value))

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while sum(call._socket is not None for call in outside._under_way) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        begin = time.monotonic()
        outside.close()
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - begin < 5
        assert errors == ["it was ended here"] * 3
        with pytest.raises(OutsideError, match="ended here"):
            ask(outside)


def test_what_takes_too_long_is_told_so_also_where_the_clock_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = threading.Timer
    monkeypatch.setattr(threading, "Timer", lambda seconds, *more: timer(seconds + 0.3, *more))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outside = Outside(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(OutsideError, match=r"longer than 0\.2 s"):
            ask(outside, timeout=30, total=0.2)


# Errors


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "https://127.0.0.1:1",
        "http://service.invalid",
        f"http://{'a' * 70}.example",
        "http://127.0.0.1:99999",
        "http://*.example",
        "http://..",
    ],
)
def test_no_error_has_what_may_be_secret_in_its_text(url: str) -> None:
    with_user = url.replace("://", f"://me:{SECRET}@")
    outside = Outside(with_user, proxy=None if "1:1" in url else f"http://me:{SECRET}@127.0.0.1:1")
    for target in (f"/{SECRET}?key={SECRET}", f"/ {SECRET}", f"/\n{SECRET}"):
        with pytest.raises(OutsideError) as raised:
            ask(outside, target, headers={"Authorization": SECRET})
        assert str(raised.value)
        assert SECRET not in str(raised.value)
        assert raised.value.__suppress_context__  # nor in a traceback
    outside.close()


def test_an_error_says_what_has_happened() -> None:
    for url, said in (
        ("http://127.0.0.1:1", "ConnectionRefusedError: [Errno 111] Connection refused"),
        (f"http://{'a' * 70}.example", "UnicodeError: the host has a name that can't be looked up"),
        ("http://service.invalid", "gaierror: "),
    ):
        with pytest.raises(OutsideError) as raised:
            status_of(url)
        assert str(raised.value).startswith(said)


def test_an_error_that_quotes_what_was_sent_is_its_name_alone() -> None:
    for error in (http.client.InvalidURL(f"/x?key={SECRET}"), ValueError(f"Invalid header value b'{SECRET}'")):
        assert module.text_without_secrets(error) == type(error).__name__


def test_what_urllib3_logs_of_our_calls_is_kept_out_of_the_log(
    node: HttpNode, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(outside, f"/x?key={SECRET}")
        assert SECRET not in caplog.text
        requests.get(f"{node.url}/somebody-else-s", timeout=5)  # of others it is logged as ever
        assert "/somebody-else-s" in caplog.text


# The package


def test_importing_it_does_not_import_requests() -> None:
    text = "import sys; from common.outside import Outside; Outside('http://h'); print('requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], cwd=SRC, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("version", "said"), [(None, "found none"), ("2.27.1", "found 2.27.1"), ("2.28.1", None)])
def test_a_package_that_is_missing_or_too_old_is_named_before_and_when_it_is_imported(
    tmp_path: Path, version: str | None, said: str | None
) -> None:
    assert requests_problem() is None
    if version:
        (tmp_path / "requests.py").write_text(f"__version__ = {version!r}\n")
        (tmp_path / f"requests-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: requests\nVersion: {version}\n"
        (tmp_path / f"requests-{version}.dist-info/METADATA").write_text(metadata)
    text = (
        f"import sys; sys.path[:0] = [{str(SRC)!r}, {str(tmp_path)!r}]\nimport common.outside as o\n"
        "print(o.requests_problem())\ntry:\n    print(o.import_requests())\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=True)
    before, when = done.stdout.splitlines()
    if said is None:
        assert (before, when) == ("None", "None")
    else:
        assert before == when
        assert before.startswith(
            f"it needs the Python package requests, 2.28 or newer ({said}). Install it: apt install"
        )
