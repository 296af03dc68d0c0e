# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests to an Orthanc, as tests make them."""

from __future__ import annotations

import json
from typing import Any

import requests

from testing.dcmtk import send_by_cstore
from testing.dicom import Storable, part10_files


class RequestFailedError(RuntimeError):
    """A request that Orthanc answered with a status of 400 or more; `response` is its answer."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response
        request = response.request
        super().__init__(f"{request.method} {request.url} answered {response.status_code}: {response.text[:2000]}")


class OrthancClient:
    """What one asks of an Orthanc on this machine, by its `configuration`: ports, AE title, users."""

    configuration: dict[str, Any]
    aet: str

    @property
    def http_port(self) -> int:
        return int(self.configuration["HttpPort"])

    @property
    def dicom_port(self) -> int:
        return int(self.configuration["DicomPort"])

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end. No TLS: Debian's Orthancs (all three) crash on its first request."""
        return f"http://127.0.0.1:{self.http_port}"

    def as_modality(self) -> list[str | int]:
        """What another Orthanc writes in `DicomModalities` to send here."""
        return [self.aet, "127.0.0.1", self.dicom_port]

    def as_peer(self) -> list[str]:
        """What another Orthanc writes in `OrthancPeers` to send here."""
        return [f"{self.url}/", *self._credentials()]

    def _credentials(self) -> list[str]:
        return next(([user, password] for user, password in self.configuration.get("RegisteredUsers", {}).items()), [])

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """One HTTP request, `arguments` being those of `requests.request`; any status is an answer.

        Each goes over a connection of its own: Orthanc closes kept ones after a second, and 1.12.7 after a 304 or 401,
        without saying so; and with `Connection: close` each version loses one answer in a thousand.
        """
        credentials = self._credentials()
        defaults = {"timeout": 60, "auth": tuple(credentials) or None}
        with requests.Session() as session:
            session.trust_env = False  # no proxy, no .netrc
            return session.request(method, self.url + path, **{**defaults, **arguments})

    def get(self, path: str, **params: Any) -> Any:
        """GET, and what it answers: decoded JSON, else text, else bytes."""
        return self._answer("GET", path, params=params)

    def post(self, path: str, body: Any = b"") -> Any:
        """POST a body (bytes and str as they are, all else as JSON), and what it answers."""
        return self._answer("POST", path, data=_as_body(body))

    def put(self, path: str, body: Any = b"") -> Any:
        """PUT a body (bytes and str as they are, all else as JSON), and what it answers."""
        return self._answer("PUT", path, data=_as_body(body))

    def delete(self, path: str) -> Any:
        """DELETE, and what it answers."""
        return self._answer("DELETE", path)

    def _answer(self, method: str, path: str, **arguments: Any) -> Any:
        response = self.request(method, path, **arguments)
        if response.status_code >= 400:
            raise RequestFailedError(response)
        try:
            return response.json()
        except ValueError:
            kind = response.headers.get("Content-Type", "")
            return response.text if kind.startswith("text/") or not response.content else response.content

    def store(self, files: Storable) -> list[dict[str, Any]]:
        """Store files, bytes or datasets by `POST /instances`; what Orthanc answers to each (`ID`, `Status`, …)."""
        return [self.post("/instances", content) for content in part10_files(files)]

    def store_scu(self, files: Storable, *, aet: str = "STORESCU", called: str | None = None) -> str:
        """Store files, bytes or datasets by C-STORE, as they are, with dcmtk's `dcmsend`, and give its report.

        Raises
        ------
        RuntimeError
            If one was not sent or not stored, with what dcmsend says.
        """
        return send_by_cstore(files, port=self.dicom_port, aet=aet, called=called or self.aet)


def _as_body(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()
