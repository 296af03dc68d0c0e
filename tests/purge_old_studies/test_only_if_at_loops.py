# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies.py by `OnlyIfAt`: this server under another name and port, as behind a port forward, proves nothing."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.purge_old_studies.helpers import SCRIPT, ended


class _Forward(socketserver.BaseRequestHandler):
    """Passes what comes on to another port, and back what that answers."""

    def handle(self) -> None:
        port = self.server.to_port  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", port)) as other:
            back = threading.Thread(target=_pump, args=(other, self.request))
            back.start()
            _pump(self.request, other)
            back.join()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def forwarded(port: int) -> Iterator[int]:
    """A port of this machine whose connections go to another one."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Forward) as server:
        server.to_port = port  # type: ignore[attr-defined]
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield int(server.server_address[1])
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def here(start_orthanc_for_module: StartOrthanc) -> Iterator[OrthancServer]:
    server = start_orthanc_for_module(SCRIPT, {"DicomAlwaysAllowFind": True}, aet="HERE", start=False)
    with forwarded(server.dicom_port) as port:
        # It has itself by its own name, too: else it would report to nobody.
        server.configuration["DicomModalities"] = {
            "ME": server.as_modality(),
            "OUTSIDE": ["OUTSIDE", "127.0.0.1", port],
        }
        server.start()
        yield server
        server.kill()


@pytest.mark.parametrize("proof", ["StorageCommitment", "C-FIND", "StorageCommitmentOnly"])
def test_this_server_behind_a_port_forward_proves_nothing(here: OrthancServer, proof: str) -> None:
    here.store_scu(make_study(patient_id="A", study_date="20010101", instances=3))
    asked = {"since": "20200101", "dry-run": False, "async": True, "only-if-at": ["OUTSIDE"], "proof": proof}
    found = ended(here, here.post("/purge-old-studies", asked)["ID"])
    [kept] = found["NotDeleted"]
    assert "HERE" in kept["Reason"] or "leads back to this server" in kept["Reason"]
    assert len(here.get("/instances")) == 3
