# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls of services: TLS and proxies as they are configured, whatever the environment says."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from common.outside import Outside, OutsideError, proxy_or_null
from testing.nodes import HttpAnswer, HttpNode
from tests.common.unit.helpers import SECRET, ask, status_of

# TLS


class Encrypted:
    """A service that speaks TLS, and wants a certificate of who asks if it has somebody to trust."""

    def __init__(self, certificate: Path, clients: Path | None = None) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if clients:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_port
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def make_certificate(path: Path, address: str) -> Path:
    """Make a certificate that is its own authority, and its key, in one file."""
    names = ["-subj", "/CN=other", "-addext", f"subjectAltName=IP:{address}", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", str(path), "-out", "-"]
    certificate = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    path.write_text(path.read_text() + certificate)
    return path


@pytest.fixture
def other_certificate(tmp_path: Path) -> Path:
    """One for the same address, of somebody else."""
    return make_certificate(tmp_path / "other.pem", "127.0.0.1")


def test_a_certificate_is_verified_against_the_authority_that_is_configured_or_those_of_the_system(
    certificate: Path, other_certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Encrypted(certificate)
    assert status_of(service.url, ca_file=str(certificate)) == 200
    assert status_of(service.url, verify_tls=False) == 200
    for wrong in (None, str(other_certificate)):
        with pytest.raises(OutsideError, match="certificate verify failed"):
            status_of(service.url, ca_file=wrong)
    # Neither the authorities of a package nor those of the environment are added to the one that is configured.
    monkeypatch.setattr("requests.certs.where", lambda: str(certificate))
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(certificate))
    for wrong in (None, str(other_certificate)):
        with pytest.raises(OutsideError, match="certificate verify failed"):
            status_of(service.url, ca_file=wrong)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # where OpenSSL has the authorities of the system
    assert status_of(service.url) == 200
    service.close()


def test_a_certificate_of_another_address_is_none(tmp_path: Path) -> None:
    elsewhere = make_certificate(tmp_path / "elsewhere.pem", "127.0.0.9")
    service = Encrypted(elsewhere)
    with pytest.raises(OutsideError, match=r"mismatch|doesn't match"):
        status_of(service.url, ca_file=str(elsewhere))
    assert status_of(service.url, ca_file=str(elsewhere), verify_tls=False) == 200
    service.close()


def test_a_client_certificate_is_shown(certificate: Path, other_certificate: Path) -> None:
    service = Encrypted(certificate, clients=certificate)
    assert status_of(service.url, ca_file=str(certificate), certificate_file=str(certificate)) == 200
    for wrong in (None, str(other_certificate)):
        with pytest.raises(OutsideError):
            status_of(service.url, ca_file=str(certificate), certificate_file=wrong)
    service.close()


def test_a_file_of_certificates_that_can_not_be_read_is_known_at_once(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "empty.pem").touch()
    wrong: list[dict[str, Any]] = [{"ca_file": "/nowhere.pem"}, {"certificate_file": str(tmp_path / "empty.pem")}]
    for how in wrong:
        with pytest.raises(OSError):  # noqa: PT011 - ssl.SSLError is one
            Outside("https://127.0.0.1:1", **how)
    locked = tmp_path / "locked.pem"
    command = ["openssl", "rsa", "-aes256", "-passout", f"pass:{SECRET}", "-in", str(certificate), "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ssl.SSLError):  # and nobody is asked for its password
        Outside("https://127.0.0.1:1", certificate_file=str(certificate), key_file=str(locked))
    Outside("https://127.0.0.1:1", certificate_file=str(certificate), key_file=str(locked), key_password=SECRET)


def test_closing_ends_a_call_over_tls(certificate: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        kept: list[socket.socket] = []

        def serve() -> None:
            kept.append(context.wrap_socket(listening.accept()[0], server_side=True))

        threading.Thread(target=serve, daemon=True).start()
        outside = Outside(f"https://127.0.0.1:{listening.getsockname()[1]}", ca_file=str(certificate))
        begin = time.monotonic()
        with pytest.raises(OutsideError, match=r"longer than 0\.5 s"):
            ask(outside, timeout=30, total=0.5)
        assert time.monotonic() - begin < 5
        for each in kept:
            each.close()


# Proxies and what else an environment has


def test_a_proxy_is_used_if_it_is_configured(certificate: Path) -> None:
    with HttpNode(lambda _: HttpAnswer(200, b"by proxy")) as proxy:
        with_user = proxy.url.replace("://", f"://me:{SECRET}%40@")
        with contextlib.closing(Outside("http://service.invalid:81", proxy=with_user)) as outside:
            assert ask(outside, "/x/%2E%2E?y").body == b"by proxy"
        (asked,) = proxy.asked
        assert (asked.path, asked.headers["host"]) == ("http://service.invalid:81/x/%2E%2E?y", "service.invalid:81")
        assert asked.headers["proxy-authorization"] == f"Basic {requests.auth._basic_auth_str('me', SECRET + '@')[6:]}"
        proxy.respond = lambda _: HttpAnswer(407)
    service = Encrypted(certificate)
    with tunnel(service.port) as (url, asked_for):
        assert status_of("https://127.0.0.1:1", proxy=url, ca_file=str(certificate)) == 200
        assert [line[:-1] for line in asked_for] == [b"CONNECT 127.0.0.1:1 HTTP/1."]
        with pytest.raises(OutsideError, match="certificate verify failed"):
            status_of("https://127.0.0.1:1", proxy=url)
    service.close()


@contextlib.contextmanager
def tunnel(port: int) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that leads each CONNECT to the same port; its URL, and the first lines that it was sent."""
    asked: list[bytes] = []

    def copy(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while found := source.recv(65536):
                to.sendall(found)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with listening.accept()[0] as here, socket.create_connection(("127.0.0.1", port)) as there:
                    asked.append(here.recv(65536).partition(b"\r\n")[0])
                    here.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    back = threading.Thread(target=copy, args=(there, here))
                    back.start()
                    copy(here, there)
                    back.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        listening.shutdown(socket.SHUT_RDWR)


def test_what_the_environment_says_of_proxies_and_passwords_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\ndefault login x password y\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    answering, refusing = HttpNode(lambda _: HttpAnswer(200)), HttpNode(lambda _: HttpAnswer(502))
    with answering as node, refusing as proxy, contextlib.closing(Outside(node.url)) as outside:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert ask(outside).status == 200
        assert proxy.asked == []
        assert "authorization" not in node.asked[0].headers


@pytest.mark.parametrize("proxy", [None, "http://proxy:3128", "http://me:pass@10.0.0.1:3128/", "http://[::1]:80"])
def test_a_proxy_has_a_host_and_a_port(proxy: str | None) -> None:
    assert proxy_or_null(proxy) is None


@pytest.mark.parametrize("proxy", ["", "proxy:3128", "https://x:1", "socks5://x:1", "http://x", "http://x:0", "http://x:y",
                                   "http://:1", "http://x:1/y", "http://[x:1"])  # fmt: skip
def test_what_is_no_proxy_is_said(proxy: str) -> None:
    assert "http://HOST:PORT" in str(proxy_or_null(proxy))
