# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sessions: Orthanc's own REST API, over HTTP."""

from __future__ import annotations

import json
import ssl
from collections.abc import Generator
from typing import Any, TypeVar

import httpx

from common.loopback import KEEP_ALIVE_SECONDS, Loopback
from common.own_requests import report_request
from common.settings import settings_of_all_scripts

SESSION_TIMEOUT = 60.0  # seconds, of each step of a request
Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)


class ClientType:
    """The two kinds of sessions, for those who know them by these names."""

    SYNC = httpx.Client
    ASYNC = httpx.AsyncClient


HttpxClientType = ClientType  # its name in orthanc-server-extensions


def create_client(
    base_url: str,
    token: str = "",
    cert: str | bool = True,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
) -> Client:
    """Return a client of the Orthanc at an address.

    Parameters
    ----------
    token : an `Authorization` for this address, and for no other.
    cert : path of the certificate to trust. Without one, those that Python trusts; TLS is verified in any case.
    """
    trusted = ssl.create_default_context(cafile=cert if isinstance(cert, str) else None)
    auth = Token(httpx.URL(base_url), token) if token else None
    return client_type(base_url=base_url, auth=auth, verify=trusted, timeout=SESSION_TIMEOUT)


def create_session(
    orthanc: Any,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
    *,
    timeout: float = SESSION_TIMEOUT,
) -> Client:
    """Return a client of this Orthanc's REST API over HTTP: `session.get("/system").json()`.

    Address, certificate and token are worked out from Orthanc's configuration. It can ask other servers too, by a whole
    URL; they get no token, and are trusted as httpx trusts.

    Parameters
    ----------
    client_type : `httpx.Client`, or `httpx.AsyncClient` for coroutines.
    timeout : seconds, of each step of a request.

    Raises
    ------
    ValueError : Orthanc's HTTP server is off: `create_internal_client` needs none. Or the section `Scripts` is wrong.
    LoopbackError : `SslCertificate` can't be read.
    """
    configuration = json.loads(orthanc.GetConfiguration())
    settings_of_all_scripts(configuration)
    loopback = Loopback(configuration)
    if not loopback.enabled:
        raise ValueError('create_session needs "HttpServerEnabled": true; create_internal_client does not')
    tls = loopback.tls()
    host = f"[{loopback.host}]" if ":" in loopback.host else loopback.host
    address = httpx.URL(f"{'http' if tls is None else 'https'}://{host}:{loopback.port}")
    # Each connection takes one of Orthanc's HTTP threads while it is open.
    most = max(1, int(configuration.get("HttpThreadsCount", 50)) // 2)
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE_SECONDS)
    ours = OwnAsyncTransport if issubclass(client_type, httpx.AsyncClient) else OwnTransport
    mounts: Any = {str(address): ours(verify=tls or True, limits=limits)}
    token = Token(address, orthanc.GenerateRestApiAuthorizationToken())
    return client_type(base_url=address, auth=token, mounts=mounts, timeout=timeout)


class Token(httpx.Auth):
    """The plugin's own authorization, for this Orthanc alone: it opens everything."""

    def __init__(self, address: httpx.URL, token: str) -> None:
        self._address, self._token = address, token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if (request.url.scheme, request.url.netloc) == (self._address.scheme, self._address.netloc):
            request.headers["Authorization"] = self._token
            report_request(request.method, request.url.raw_path.decode())
        yield request


# Orthanc may close a kept connection just now: what changes nothing is asked once more.
LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class OwnTransport(httpx.HTTPTransport):
    """To this Orthanc."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return super().handle_request(request)
        except LOST:
            if request.method != "GET":
                raise
            return super().handle_request(request)


class OwnAsyncTransport(httpx.AsyncHTTPTransport):
    """To this Orthanc, for coroutines."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except LOST:
            if request.method != "GET":
                raise
            return await super().handle_async_request(request)
