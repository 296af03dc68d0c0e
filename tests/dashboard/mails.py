# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real mail server, and its certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.certificates import LEAF, Certificates

PASSWORD = "correct horse"  # noqa: S105


def make_certificate(folder: Path) -> Path:
    """Key and certificate of a server at 127.0.0.1, which is its own authority."""
    return Certificates(folder).make("mail", (*LEAF, "subjectAltName=IP:127.0.0.1"), subject="/CN=127.0.0.1")


class MailServer:
    """A real server: with TLS from the first byte or by STARTTLS, which wants a password and keeps what it gets."""

    def __init__(
        self, certificate: Path | None, *, security: str = "starttls", refuses: tuple[str, ...] = (), port: int = 0
    ) -> None:
        self.mails: list[Any] = []
        self.logins: list[tuple[str, str]] = []
        self._refuses = refuses
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        options: dict[str, Any] = {"hostname": "127.0.0.1", "port": port, "authenticator": self._log_in}
        if certificate:
            context.load_cert_chain(certificate)
            starttls = {"tls_context": context, "require_starttls": True, "auth_required": True}
            # To the server, TLS from the first byte is none.
            options |= starttls if security == "starttls" else {"ssl_context": context, "auth_require_tls": False}
        self._controller = Controller(self, ready_timeout=10, **options)
        vars(self._controller)["_trigger_server"] = self._knock  # its own knows neither the port nor TLS

    def start(self) -> MailServer:
        self._controller.start()
        return self

    def _knock(self) -> None:
        assert self._controller.server
        sockets: Any = vars(self._controller.server)["_sockets"]
        self.port = sockets[0].getsockname()[1]
        socket.create_connection(("127.0.0.1", self.port)).close()

    def stop(self) -> None:
        self._controller.stop()

    def _log_in(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password.decode() == PASSWORD, handled=False)

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address in self._refuses:
            return "550 nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"


@contextlib.contextmanager
def mail_server(certificate: Path | None, **options: Any) -> Iterator[MailServer]:
    server = MailServer(certificate, **options).start()
    yield server
    server.stop()
