# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a receiver has not read, or refuses, never counts as sent, however the bytes of the two ends meet."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.audit_log.atna import certificates
from tests.audit_log.unit.test_guards import KEY, part
from tests.fakes import Script

MESSAGES = [b"x" * 20_000, b"y" * 300]  # more than a record of TLS
TIMES = 100  # of what hangs on which bytes come first


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def listening(
    files: Mapping[str, Path], read: Callable[[ssl.SSLSocket], Any], version: ssl.TLSVersion
) -> Iterator[int]:
    """A receiver that wants a certificate, on a port; `read` is what it does with each connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["repository"])
    context.load_verify_locations(files["authority"])
    context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, version
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                read(secured)
            connection.close()  # which a handshake that has failed leaves open

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def read_all(connection: ssl.SSLSocket) -> bytes:
    found = b""
    while len(found) < sum(len(b"%d " % len(each) + each) for each in MESSAGES):
        found += connection.recv(65536)
    return found


def receiver(start: Callable[..., Script], port: int, files: Mapping[str, Path], **more: Any) -> Any:
    start("audit_log", {"AuditLog": {"Key": KEY}})
    given = {"host": "127.0.0.1", "port": port, "protocol": "tls", "ca_file": str(files["authority"])}
    settings = part("settings").SyslogSettings(**{**given, "certificate_file": str(files["client"]), **more})
    return part("syslog").SyslogReceiver(settings, Path("/"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_was_read_and_ended_in_order_is_sent(
    start: Callable[..., Script], files: Mapping[str, Path], version: ssl.TLSVersion
) -> None:
    came = []

    def read(connection: ssl.SSLSocket) -> None:
        came.append(read_all(connection))
        assert connection.recv(1) == b""
        connection.unwrap().close()

    with listening(files, read, version) as port:
        sending = receiver(start, port, files)
        for _ in range(3):
            sending.send(MESSAGES)
    assert came == [b"".join(b"%d %s" % (len(each), each) for each in MESSAGES)] * 3


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_receiver_that_breaks_off_after_it_has_read_has_nothing(
    start: Callable[..., Script], files: Mapping[str, Path], version: ssl.TLSVersion
) -> None:
    def read(connection: ssl.SSLSocket) -> None:
        read_all(connection)
        socket.socket.shutdown(connection, socket.SHUT_WR)  # no close_notify
        socket.socket.recv(connection, 1000)

    with listening(files, read, version) as port:
        sending = receiver(start, port, files)
        for _ in range(5):
            with pytest.raises(OSError, match="close_notify"):
                sending.send(MESSAGES)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_receiver_that_wants_another_certificate_has_nothing(
    start: Callable[..., Script], files: Mapping[str, Path], version: ssl.TLSVersion
) -> None:
    with listening(files, read_all, version) as port:
        sending = receiver(start, port, files, certificate_file=None)
        for _ in range(TIMES):
            with pytest.raises(OSError, match=r".") as raised:
                sending.send(MESSAGES[1:])
            assert raised.value.args


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_receiver_that_talks_all_the_time_has_nothing_and_is_left(
    start: Callable[..., Script], files: Mapping[str, Path], version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(connection: ssl.SSLSocket) -> None:
        read_all(connection)
        while True:
            connection.sendall(b"heartbeat")
            time.sleep(0.01)

    with listening(files, read, version) as port:
        sending = receiver(start, port, files)
        monkeypatch.setattr(part("tls_delivery"), "LONGEST_SECONDS", 0.5)
        with pytest.raises(OSError, match=r"close_notify.*it takes longer than 0\.5 s"):
            sending.send(MESSAGES)
