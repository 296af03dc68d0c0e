# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sends notifications to one service."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from common.outside import OutsideError

from .service_http import headers_for, outside_of
from .settings import Service, name_of
from .templates import filled_body, filled_url


class NotDeliveredError(Exception):
    """The service refused, or did not answer."""


class Caller:
    """Sends the requests to one service."""

    def __init__(self, service: Service) -> None:
        self.service, self.name = service, name_of(service)
        self._outside = outside_of(service)

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

    def send(self, prepared: Mapping[str, Any], timeout: float, total: float | None = None) -> None:
        """Send it. Redirects are not followed: the configuration says where to. Raises `NotDeliveredError`.

        `timeout`, `total` : seconds, as `Outside.request` takes them.
        """
        url = urllib.parse.urlsplit(prepared["Url"])
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        body = None if self.service.method == "GET" else json.dumps(prepared["Body"]).encode()
        headers = {"Idempotency-Key": prepared["RequestID"], **headers_for(self.service)}
        try:
            answer = self._outside.request(
                self.service.method, target, headers=headers, body=body, timeout=timeout, total=total
            )
        except OutsideError as error:
            raise NotDeliveredError(str(error)) from None
        if not 200 <= answer.status < 300:
            raise NotDeliveredError(f"it answered {answer.status}")

    def close(self) -> None:
        """End what is being sent, and send no more."""
        self._outside.close()


def origin_of(target: str) -> str:
    """Return the method, scheme, host and port of a `Caller.target`."""
    return "/".join(target.split("/")[:3])
