# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connections to services of others, by the standard library alone: they work in the stock container."""

from __future__ import annotations

import base64
import http.client
import ssl

from common.version import __version__

from .settings import Service


def open_connection(
    host: str, port: int | None, timeout: float, context: ssl.SSLContext | None
) -> http.client.HTTPConnection:
    """Return a connection, by TLS with a context; `timeout` in seconds is that of each read and write."""
    if context is None:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


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


def tls_context(service: Service) -> ssl.SSLContext:
    """Return what to trust of a service, and what to show it. Raises OSError: a file can't be read."""
    context = ssl.create_default_context(cafile=service.ca_file)
    if not service.verify_tls:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if service.certificate_file:
        context.load_cert_chain(service.certificate_file, service.key_file)
    return context
