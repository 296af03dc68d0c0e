# SPDX-License-Identifier: AGPL-3.0-or-later
"""Another Orthanc, asked over HTTP."""

from __future__ import annotations

import http
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from common.outside import OutsideError

from .move_request import MoveFailed
from .service_http import headers_for, outside_of
from .settings import Service

PEER_TIMEOUT_SECONDS = 30.0  # that it may be silent
LARGEST_PEER_ANSWER = 2 * 1024**3  # bytes: an image is held in memory until it is stored


class Peer:
    """Another Orthanc, as `OrthancPeers` of the configuration has it. Raises `MoveFailed`: it is not there."""

    def __init__(self, configuration: Mapping[str, Any], name: str) -> None:
        entry = configuration.get("OrthancPeers", {}).get(name)
        if entry is None:
            raise MoveFailed(f"{name} is not in OrthancPeers")
        if isinstance(entry, list):
            entry = dict(zip(("Url", "Username", "Password"), entry, strict=False))
        url = urllib.parse.urlsplit(entry["Url"])
        self._folder = url.path.rstrip("/")
        self._service = Service(
            url=entry["Url"],
            username=entry.get("Username", ""),
            password=entry.get("Password", ""),
            headers=entry.get("HttpHeaders", {}),
            verify_tls=bool(configuration.get("HttpsVerifyPeers", True)),
            ca_file=configuration.get("HttpsCACertificates") or None,
            certificate_file=entry.get("CertificateFile"),
            key_file=entry.get("CertificateKeyFile"),
            proxy=_proxy_to(url.hostname or "", configuration),
        )
        try:
            self._outside = outside_of(self._service)
        except OSError as error:
            raise MoveFailed(f"a certificate can't be read: {error}") from None

    def ask(self, method: str, path: str, deadline: float, body: Any = None) -> list[Any]:
        """Return the list that it answers with. Raises `MoveFailed`."""
        try:
            found = json.loads(self.request(method, path, deadline, body))
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise MoveFailed(f"{method} {path} was not answered as Orthanc does")
        return found

    def request(self, method: str, path: str, deadline: float, body: Any = None) -> bytes:
        """Return the bytes that it answers with before a time of the monotonic clock. Raises `MoveFailed`."""
        try:
            answer = self._outside.request(
                method,
                self._folder + path,
                headers=headers_for(self._service),
                body=None if body is None else json.dumps(body).encode(),
                timeout=PEER_TIMEOUT_SECONDS,
                total=max(0.1, deadline - time.monotonic()),
                largest=LARGEST_PEER_ANSWER,
            )
        except OutsideError as error:
            raise MoveFailed(f"it does not answer: {error}") from None
        if answer.status != http.HTTPStatus.OK:
            raise MoveFailed(f"{method} {path} was answered {answer.status}")
        if answer.problem:
            raise MoveFailed(f"{method} {path} was not answered whole: {answer.problem}")
        return answer.body

    def close(self) -> None:
        """End what is being asked, and ask no more."""
        self._outside.close()


def _proxy_to(host: str, configuration: Mapping[str, Any]) -> str | None:
    """Return the proxy by which Orthanc itself reaches a host: `HttpProxy`, unless the environment says not for this one."""
    proxy = str(configuration.get("HttpProxy") or "")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
