# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a service is called with: its connection, and the headers of each request."""

from __future__ import annotations

import base64

from common.outside import Outside
from common.version import __version__

from .settings import Service


def outside_of(service: Service) -> Outside:
    """Return the connection to a service. Raises OSError: a file of certificates can't be read."""
    return Outside(
        service.url,
        verify_tls=service.verify_tls,
        ca_file=service.ca_file,
        certificate_file=service.certificate_file,
        key_file=service.key_file,
        proxy=service.proxy,
    )


def headers_for(service: Service) -> dict[str, str]:
    """Return the headers of each request to a service: who we are, and what is configured."""
    headers = {"User-Agent": f"cmove_interceptor/{__version__}"}
    if service.method == "POST":
        headers["Content-Type"] = "application/json"
    if service.username:
        pair = f"{service.username}:{service.password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif service.token:
        headers["Authorization"] = f"Bearer {service.token}"
    return {**headers, **service.headers}
