# SPDX-License-Identifier: AGPL-3.0-or-later
"""HTTPS of Debian's Orthanc, as docs/security.md describes it, and the address of their own that scripts can be given."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, orthanc_executable, python_plugin, reserve_port, start_process

ROOT = Path(__file__).parents[2]
NO_HTTPS = 255  # Orthanc's exit status where it does not start: libcivetweb finds no `libssl.so`, which libssl-dev has


@pytest.mark.parametrize("script", [None, "import orthanc\n"])
def test_debians_orthanc_ends_at_its_first_https_request_with_or_without_a_script(
    script: str | None, certificate: Path, tmp_path: Path
) -> None:
    """If this fails, Debian has mended it: say so in docs/security.md, and test HTTPS on Orthanc itself."""
    reserved = reserve_port()
    port = reserved.getsockname()[1]
    configuration = {
        "HttpPort": port,
        "DicomServerEnabled": False,
        "SslEnabled": True,
        "SslCertificate": str(certificate),
        "StorageDirectory": str(tmp_path / "db"),
    }
    if script:
        (tmp_path / "script.py").write_text(script)
        configuration |= {"Plugins": [str(python_plugin())], "PythonScript": str(tmp_path / "script.py")}
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    log = tmp_path / "orthanc.log"
    orthanc = start_process([orthanc_executable(), str(tmp_path / "orthanc.json")], log=log)
    try:
        end = time.monotonic() + 60
        while orthanc.poll() is None and "Orthanc has started" not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        if orthanc.poll() is None:
            subprocess.run(
                ["curl", "-sk", "-m", "30", f"https://127.0.0.1:{port}/system"], check=False, capture_output=True
            )
        assert orthanc.wait(30) in (-signal.SIGSEGV, NO_HTTPS), log.read_text()
    finally:
        orthanc.kill()
        reserved.close()


class SecondListener:
    """A listener on this machine that passes everything on to Orthanc's own."""

    def __init__(self) -> None:
        self.server: OrthancServer | None = None
        self.seen: list[bytes] = []  # the first bytes of each request
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listening.accept()[0],), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            assert self.server
            with socket.create_connection(("127.0.0.1", self.server.http_port)) as orthanc:
                back = threading.Thread(target=self._copy, args=(orthanc, client))
                back.start()
                self._copy(client, orthanc, self.seen)
                back.join()

    def _copy(self, source: socket.socket, target: socket.socket, seen: list[bytes] | None = None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if seen is not None:
                    seen.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def second_listener() -> Iterator[SecondListener]:
    listener = SecondListener()
    threading.Thread(target=listener.accept, daemon=True).start()
    yield listener
    listener.close()


def test_a_script_asks_at_the_address_that_it_is_given(
    start_orthanc: StartOrthanc, second_listener: SecondListener, tmp_path: Path
) -> None:
    peer = start_orthanc(aet="PEER")
    configuration = {
        "OrthancPeers": {"PEER": peer.as_peer()},
        "Scripts": {"Loopback": {"Url": second_listener.url}},
        "StableAge": 1,
    }
    source = second_listener.server = OrthancServer(tmp_path, ROOT / "auto_forward_peer.py", configuration)
    try:
        source.start()
        source.store(make_study(instances=3))
        source.wait_until(lambda: len(peer.get("/instances")) == 3, what="deliver")
        asked = {data.partition(b" HTTP")[0] for data in second_listener.seen}
        assert b"POST /peers/PEER/store" in asked
        assert any(data.startswith(b"GET /changes") for data in asked)
        assert source.stop() == 0
    finally:
        source.close()


def test_where_nobody_listens_at_that_address_nothing_is_asked_elsewhere(
    start_orthanc: StartOrthanc, second_listener: SecondListener
) -> None:
    peer = start_orthanc(aet="PEER")
    second_listener.close()
    configuration = {"OrthancPeers": {"PEER": peer.as_peer()}, "Scripts": {"Loopback": {"Url": second_listener.url}}}
    source = start_orthanc(ROOT / "auto_forward_peer.py", {**configuration, "StableAge": 1})
    source.store(make_study())
    source.wait_for_log("Orthanc does not answer GET /changes")
    assert peer.get("/instances") == []
