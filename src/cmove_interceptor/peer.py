# SPDX-License-Identifier: AGPL-3.0-or-later
"""Another Orthanc, asked over HTTP."""

from __future__ import annotations

import http
import http.client
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from .move_request import MoveFailed
from .service_http import headers_for, open_connection, tls_context
from .settings import Service

PEER_TIMEOUT_SECONDS = 30.0  # of one request


class Peer:
    """Another Orthanc, as `OrthancPeers` of the configuration has it. Raises `MoveFailed`: it is not there."""

    def __init__(self, configuration: Mapping[str, Any], name: str) -> None:
        entry = configuration.get("OrthancPeers", {}).get(name)
        if entry is None:
            raise MoveFailed(f"{name} is not in OrthancPeers")
        if isinstance(entry, list):
            entry = dict(zip(("Url", "Username", "Password"), entry, strict=False))
        self._url = urllib.parse.urlsplit(entry["Url"])
        self._service = Service(
            username=entry.get("Username", ""),
            password=entry.get("Password", ""),
            headers=entry.get("HttpHeaders", {}),
            verify_tls=bool(configuration.get("HttpsVerifyPeers", True)),
            ca_file=configuration.get("HttpsCACertificates") or None,
            certificate_file=entry.get("CertificateFile"),
            key_file=entry.get("CertificateKeyFile"),
        )

    def ask(self, method: str, path: str, body: Any = None) -> list[Any]:
        """Return the list that it answers with. Raises `MoveFailed`."""
        try:
            found = json.loads(self.request(method, path, body))
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise MoveFailed(f"{method} {path} was not answered as Orthanc does")
        return found

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """Return the bytes that it answers with. Raises `MoveFailed`."""
        url, data = self._url, None if body is None else json.dumps(body).encode()
        context = tls_context(self._service) if url.scheme == "https" else None
        connection = open_connection(url.hostname or "", url.port, PEER_TIMEOUT_SECONDS, context)
        try:
            connection.request(method, url.path.rstrip("/") + path, data, headers_for(self._service))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise MoveFailed(f"it does not answer: {type(error).__name__}") from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise MoveFailed(f"{method} {path} was answered {response.status}")
        return content
