# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sends notifications to one service."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from common.routes import one_line

from .service_http import headers_for, open_connection, tls_context
from .settings import Service, name_of
from .templates import filled_body, filled_url


class NotDeliveredError(Exception):
    """The service refused, or did not answer."""


class Caller:
    """Sends the requests to one service."""

    def __init__(self, service: Service) -> None:
        self.service, self.name = service, name_of(service)
        self._context = tls_context(service) if service.url.startswith("https:") else None

    @property
    def target(self) -> str:
        """The service as logs call it: method and URL, without what might be secret in it."""
        parts = urllib.parse.urlsplit(self.service.url)
        return f"{self.service.method} {parts.scheme}://{parts.netloc}{parts.path}"

    def prepared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what will be sent of a request, without what is secret."""
        body = None
        if self.service.method == "POST":
            body = dict(values) if self.service.body is None else filled_body(self.service.body, values)
        return {"Url": filled_url(self.service.url, values), "Body": body, "RequestID": values["RequestID"]}

    def send(self, prepared: Mapping[str, Any], timeout: float) -> None:
        """Send it. Redirects are not followed: the configuration says where to. Raises `NotDeliveredError`."""
        url = urllib.parse.urlsplit(prepared["Url"])
        body = None if self.service.method == "GET" else json.dumps(prepared["Body"]).encode()
        connection = open_connection(url.hostname or "", url.port, timeout, self._context)
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            headers = {"Idempotency-Key": prepared["RequestID"], **headers_for(self.service)}
            connection.request(self.service.method, target, body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise NotDeliveredError(f"{type(error).__name__}: {one_line(error)}") from None
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise NotDeliveredError(f"it answered {status}")


def origin_of(target: str) -> str:
    """Return the method, scheme, host and port of a `Caller.target`."""
    return "/".join(target.split("/")[:3])
