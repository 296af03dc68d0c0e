# SPDX-License-Identifier: AGPL-3.0-or-later
"""auto_forward_peer.py between real Orthancs; what it shares with auto_forward_modality.py is tested there."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.constants import QUICK, script_with
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
SCRIPT = script_with(ROOT / "auto_forward_peer.py", QUICK)


def to(*peers: OrthancServer, **section: Any) -> dict[str, Any]:
    return {"OrthancPeers": {peer.aet: peer.as_peer() for peer in peers}, "AutoForwardPeer": section}


def states(server: OrthancServer) -> list[str]:
    return [item["State"] for item in server.get("/auto-forward-peer/deliveries")["Items"]]


def instances(server: OrthancServer) -> set[str]:
    return set(server.get("/instances"))


def arrivals(server: OrthancServer) -> int:
    """How often an instance was stored there, again included."""
    changes = server.get("/changes", limit=100000)["Changes"]
    return sum(change["ChangeType"] == "NewInstance" for change in changes)


def test_a_stable_study_reaches_the_peer_with_its_user_and_password(start_orthanc: StartOrthanc) -> None:
    secured = {"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "opensesame"}}
    peer = start_orthanc(aet="PEER", configuration=secured)
    source = start_orthanc(SCRIPT, to(peer))
    source.store(make_study(instances=3))
    source.wait_until(lambda: states(source) == ["done"], what="deliver")
    assert instances(peer) == instances(source)
    assert "opensesame" not in source.log


@contextlib.contextmanager
def tls_in_front_of(server: OrthancServer, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS, asks for a client certificate, and passes on: Debian's Orthanc itself crashes over HTTPS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate)

    def serve(client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(client, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", server.http_port)) as inside,
        ):
            back = threading.Thread(target=copy, args=(inside, outside))
            back.start()
            copy(outside, inside)
            back.join()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_a_peer_over_https_with_its_own_authority_gets_our_certificate_and_proves_what_it_has(
    start_orthanc: StartOrthanc, certificate: Path, tmp_path: Path
) -> None:
    peer = start_orthanc(aet="PEER")
    files = {name: tmp_path / f"{name}.pem" for name in ("client", "key", "authority")}
    for file in files.values():
        shutil.copy(certificate, file)
    with tls_in_front_of(peer, certificate) as port:
        known = {
            "Url": f"https://localhost:{port}/",
            "CertificateFile": str(files["client"]),
            "CertificateKeyFile": str(files["key"]),
        }
        configuration = {
            "OrthancPeers": {"PEER": known},
            "HttpsCACertificates": str(files["authority"]),
            "AutoForwardPeer": {"DeleteAfterForward": True},
        }
        source = start_orthanc(SCRIPT, configuration)
        source.store_scu(make_study(instances=3))
        source.wait_until(lambda: len(instances(peer)) == 3, what="deliver")
        source.wait_until(lambda: not instances(source), what="delete what the peer proved to have")
    with tls_in_front_of(peer, certificate) as port:
        without = {**configuration, "OrthancPeers": {"PEER": [f"https://localhost:{port}/"]}}
        stranger = start_orthanc(SCRIPT, without, aet="STRANGER")
        stranger.store_scu(make_study(patient_id="OTHER"))
        stranger.wait_for_log("did not reach PEER")
    assert len(instances(peer)) == 3


def test_every_study_arrives_although_the_peer_was_away_and_orthanc_was_killed(start_orthanc: StartOrthanc) -> None:
    peer = start_orthanc(aet="PEER")
    peer.stop()
    source = start_orthanc(SCRIPT, to(peer))
    for number in range(4):
        source.store(make_study(patient_id=f"P{number}", instances=2))
    source.wait_until(lambda: len(states(source)) == 4, what="note all")
    source.kill()
    source.start()
    peer.start()
    source.wait_until(lambda: len(instances(peer)) == 8 and set(states(source)) == {"done"}, what="deliver all")
    assert instances(peer) == instances(source)


@pytest.mark.parametrize("overwrite", [False, True], ids=["keeps", "overwrites"])
def test_between_two_that_forward_to_each_other_there_is_at_most_one_return_trip(
    start_orthanc: StartOrthanc, overwrite: bool
) -> None:
    left = start_orthanc(SCRIPT, aet="LEFT", start=False, configuration={"OverwriteInstances": overwrite})
    right = start_orthanc(SCRIPT, {**to(left), "OverwriteInstances": overwrite}, aet="RIGHT")
    left.configuration |= to(right)
    left.start()
    left.store(make_study(instances=5))
    left.wait_until(lambda: states(left)[:1] == ["done"], what="go there")
    left.wait_until(lambda: states(right)[:1] == ["done"], what="come back")
    # Two more rounds of StableAge (1 s): enough for a third trip to show.
    for server in (left, right, left, right):
        server.wait_until_stable()
        time.sleep(1)
    assert "waiting" not in states(left) + states(right)
    assert len(states(left)) == len(states(right)) == 1
    assert arrivals(right) == 5
    assert arrivals(left) <= 10


def test_both_forwarders_combined_do_what_each_does_alone(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    scripts = [script_with(ROOT / "auto_forward_modality.py", QUICK), SCRIPT]
    combined = combine_scripts(*scripts, to=tmp_path / "combined.py")
    node, peer = start_orthanc(aet="NODE"), start_orthanc(aet="PEER")
    section = {"DicomModalities": {"NODE": node.as_modality()}, "AutoForwardModality": {}}
    source = start_orthanc(combined, {**to(peer), **section})
    source.store(make_study(instances=3))
    source.wait_until(lambda: states(source) == ["done"], what="deliver to the peer")
    source.wait_until(lambda: len(instances(node)) == 3, what="deliver to the node")
    assert instances(node) == instances(peer) == instances(source)
