# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sessions over HTTPS: this Orthanc is trusted by its own certificate, whatever kind that is, and nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from event_dispatcher import create_session
from testing.standin import OrthancApiHandler
from tests.certificates import LEAF, SAN, Certificates
from tests.common.unit.test_loopback_certificates import tls_server


def both_sessions(port: int, file: Path) -> list[int]:
    """The status that a plain session gets, and one of coroutines."""
    orthanc = OrthancApiHandler(configuration={"HttpPort": port, "SslEnabled": True, "SslCertificate": str(file)})

    async def ask() -> int:
        async with create_session(orthanc, httpx.AsyncClient) as session:
            return (await session.get("/system")).status_code

    with create_session(orthanc) as session:
        return [session.get("/system").status_code, asyncio.run(ask())]


def test_sessions_trust_the_certificate_of_this_orthanc(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificates.make("root", ("basicConstraints=critical,CA:TRUE",), subject="/CN=Root")
    for file in (certificates.make("leaf", (*LEAF, SAN), issuer="root"), certificates.make("old", None, key="rsa")):
        with tls_server(file) as port:
            assert both_sessions(port, file) == [200, 200]


def test_sessions_trust_no_other_certificate_of_the_same_authority(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificates.make("root", ("basicConstraints=critical,CA:TRUE",), subject="/CN=Root")
    ours, other = (certificates.make(name, (*LEAF, SAN), issuer="root", also=("root",)) for name in ("ours", "other"))
    orthanc = OrthancApiHandler(configuration={"SslEnabled": True, "SslCertificate": str(ours)})
    with tls_server(other) as port:
        orthanc.configuration["HttpPort"] = port

        async def ask() -> None:
            async with create_session(orthanc, httpx.AsyncClient) as session:
                await session.get("/system")

        with create_session(orthanc) as session, pytest.raises(httpx.ConnectError, match="another certificate"):
            session.get("/system")
        with pytest.raises(httpx.ConnectError, match="another certificate"):
            asyncio.run(ask())
