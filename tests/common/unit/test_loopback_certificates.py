# SPDX-License-Identifier: AGPL-3.0-or-later
"""Loopback over HTTPS with each kind of certificate that an Orthanc may have, on the Python of the Orthanc that is tested.

Debian's Orthanc can't serve HTTPS (tests/every_script/test_https.py): a TLS server of Python's own stands for it.
`tests/all_versions` runs this with Python 3.11, 3.13 and 3.14.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn
from tests.certificates import LEAF, SAN, Certificates

SRC = Path(__file__).parents[3] / "src"
# What the Python of Orthanc does: it asks each server, and prints what came of it.
PROGRAM = """
import json, sys, types

src, folder, configurations = sys.argv[1:]
orthanc = types.ModuleType("orthanc")
orthanc.GenerateRestApiAuthorizationToken = lambda: "Bearer token"
orthanc.GetConfigurationPath = lambda: folder
sys.modules["orthanc"] = orthanc
sys.path.insert(0, src)
from common.loopback import Loopback, LoopbackError

found = {}
for name, configuration in json.loads(configurations).items():
    try:
        found[name] = Loopback(configuration).get("/system")["ApiVersion"]
    except LoopbackError as error:
        found[name] = f"{error.status} {error}"
print(json.dumps(found))
"""
API = 18  # what each server answers
OTHER = "the server has another certificate than the one in SslCertificate"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[int, str]] = []  # port and token of each request

    def do_GET(self) -> None:
        Handler.seen.append((self.connection.getsockname()[1], self.headers["Authorization"]))
        body = json.dumps({"ApiVersion": API}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: who does not trust us breaks off."""


@contextlib.contextmanager
def tls_server(certificate: Path, trusted: Path | None = None) -> Iterator[int]:
    """A server that shows this certificate, and wants `trusted` of who asks; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if trusted:
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def kinds(certificates: Certificates) -> dict[str, Path]:
    return certificates.make_each_kind()


def ask(configurations: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the Python of the tested Orthanc gets with each configuration; `path` is of Orthanc's configuration."""
    python = Path(os.environ.get("ORTHANC", "/usr/sbin/Orthanc")).with_name("start-python")  # of tests/orthanc_tree
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
        program.write(PROGRAM)
        program.flush()
        command = [str(python) if python.is_file() else sys.executable, program.name, str(SRC), str(path)]
        done = subprocess.run([*command, json.dumps(configurations)], check=True, capture_output=True, text=True)
    answered: dict[str, Any] = json.loads(done.stdout)
    return answered


def test_the_kinds_are_what_they_are_called(certificates: Certificates, kinds: dict[str, Path]) -> None:
    assert "Version: 1 " in certificates.text("version 1")
    bare = certificates.text("bare")
    assert not any(word in bare for word in ("Basic Constraints", "Key Usage", "Alternative Name"))
    assert " 2020 GMT" in certificates.text("expired").partition("Not After")[2]
    assert kinds["leaf and intermediate"].read_text().count("BEGIN CERTIFICATE") == 2


def test_orthanc_is_trusted_with_each_kind_of_certificate(kinds: dict[str, Path], tmp_path: Path) -> None:
    Handler.seen.clear()
    with contextlib.ExitStack() as stack:
        configurations = {
            name: {"HttpPort": stack.enter_context(tls_server(file)), "SslEnabled": True, "SslCertificate": str(file)}
            for name, file in kinds.items()
        }
        assert ask(configurations, tmp_path) == dict.fromkeys(kinds, API)
    assert Handler.seen == [(each["HttpPort"], "Bearer token") for each in configurations.values()]


def test_who_has_another_certificate_is_not_and_gets_no_token(
    certificates: Certificates, kinds: dict[str, Path], tmp_path: Path
) -> None:
    twin = certificates.make("twin", ("subjectKeyIdentifier=hash",), key="rsa")
    shown = {
        "leaf of an authority": kinds["leaf and intermediate"],
        "leaf and intermediate": certificates.folder / "other leaf.pem",
        "leaf, intermediate and root": kinds["leaf of an authority"],
        "self-signed without names, constraints and usage": twin,
        "self-signed of an authority's usage": certificates.make("below", (*LEAF, SAN), issuer="authority"),
    }
    Handler.seen.clear()
    with contextlib.ExitStack() as stack:
        configurations = {
            name: {
                "HttpPort": stack.enter_context(tls_server(file)),
                "SslEnabled": True,
                "SslCertificate": str(kinds[name]),
            }
            for name, file in shown.items()
        }
        found = ask(configurations, tmp_path)
    assert found.keys() == shown.keys()
    for answer in found.values():
        assert answer.startswith("0 Orthanc does not answer GET /system: ")
        assert OTHER in answer
    assert Handler.seen == []


def test_a_relative_path_begins_in_the_folder_of_the_configuration(kinds: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    file = kinds["leaf of an authority"]
    shutil.copy(file, tmp_path / "tls" / "server.pem")
    shutil.copy(file, tmp_path / "certificate.pem")
    (tmp_path / "orthanc.json").touch()
    with tls_server(file) as port:
        tls = {"HttpPort": port, "SslEnabled": True}
        configurations = {"named": {**tls, "SslCertificate": "tls/server.pem"}, "Orthanc's default": tls}
        for path in (tmp_path, tmp_path / "orthanc.json"):  # a folder of files, or one file
            assert ask(configurations, path) == dict.fromkeys(configurations, API)
        [found] = ask({"away": {**tls, "SslCertificate": "none.pem"}}, tmp_path).values()
    assert found.startswith("0 Orthanc's SslCertificate can't be used: ")
    assert str(tmp_path / "none.pem") in found


def test_the_same_certificate_is_shown_where_orthanc_wants_one(
    certificates: Certificates, kinds: dict[str, Path], tmp_path: Path
) -> None:
    both = certificates.make("both", (LEAF[0], "extendedKeyUsage=serverAuth,clientAuth"), issuer="root")
    found = {}
    for file in (both, kinds["leaf of an authority"]):  # the latter may be shown by servers only
        with tls_server(file, certificates.folder / "root.crt") as port:
            configuration = {"HttpPort": port, "SslEnabled": True, "SslCertificate": str(file)}
            asked = ask({"shown": {**configuration, "SslVerifyPeers": True}, "not shown": configuration}, tmp_path)
            found[file.name] = {how: answer == API for how, answer in asked.items()}
    assert found == {
        "both.pem": {"shown": True, "not shown": False},
        "leaf.pem": {"shown": False, "not shown": False},
    }


# In the Python of the tests


@pytest.fixture
def piece(orthanc_standin: StandIn) -> Iterator[ModuleType]:
    orthanc_standin.returns["GenerateRestApiAuthorizationToken"] = "Bearer token"
    yield importlib.import_module("common.loopback")
    for name in [name for name in sys.modules if name.startswith("common.")]:
        del sys.modules[name]


def test_a_certificate_that_is_renewed_while_orthanc_runs_is_taken_after_the_next_start(
    piece: ModuleType, kinds: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "server.pem"
    shutil.copy(kinds["leaf of an authority"], file)
    with tls_server(file) as port:
        configuration = {"HttpPort": port, "SslEnabled": True, "SslCertificate": str(file)}
        for each in (kinds["leaf of an authority"], kinds["self-signed leaf"]):
            shutil.copy(each, file)
            loopback = piece.Loopback(configuration)  # as of another thread
            assert loopback.get("/system") == {"ApiVersion": API}
            loopback.close()


def test_the_certificate_is_taken_from_its_file_at_the_start_and_not_at_the_first_request(
    piece: ModuleType, kinds: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "server.pem"
    shutil.copy(kinds["leaf of an authority"], file)
    with tls_server(file) as port:
        loopback = piece.Loopback({"HttpPort": port, "SslEnabled": True, "SslCertificate": str(file)})
        shutil.copy(kinds["self-signed leaf"], file)
        assert loopback.get("/system") == {"ApiVersion": API}
        loopback.close()


@pytest.mark.parametrize("text", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_a_certificate_is_named(piece: ModuleType, tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.pem"
    file.write_text(text)
    loopback = piece.Loopback({"SslEnabled": True, "SslCertificate": str(file)})
    with pytest.raises(piece.LoopbackError, match=r"server\.pem has no certificate") as caught:
        loopback.get("/system")
    assert caught.value.status == 0


def test_at_an_address_of_its_own_loopback_speaks_plain_http_whatever_orthanc_does(piece: ModuleType) -> None:
    orthancs = {"HttpPort": 443, "SslEnabled": True, "SslCertificate": "none.pem", "HttpBindAddresses": ["10.0.0.1"]}
    for url, host in (("http://127.0.0.1:8043", "127.0.0.1"), ("http://[::1]:8043/", "::1")):
        loopback = piece.Loopback({**orthancs, "Scripts": {"Loopback": {"Url": url}}})
        assert (loopback.host, loopback.port, loopback.tls()) == (host, 8043, None)
