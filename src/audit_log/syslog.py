# SPDX-License-Identifier: AGPL-3.0-or-later
"""Messages of syslog (RFC 5424), and how they get to a receiver: over TLS (RFC 5425) or UDP (RFC 5426)."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

from .settings import SyslogSettings
from .tls_delivery import deliver

PRIORITY = 85  # facility 10 (security and authorization), severity 5 (notice), as PS3.15 A.6 has it
NETWORK_SECONDS = 10.0  # until a receiver that does not answer is away
REFUSED_SECONDS = 0.05  # in which a machine says that nobody takes its datagrams
BOM = "\ufeff"


def syslog_message(at: str, host: str, text: str) -> bytes:
    """Return a message of RFC 5424: of a time, from a machine, with XML of PS3.15 A.5."""
    name = re.sub("[^!-~]", "", host)[:255] or "-"
    header = f"<{PRIORITY}>1 {at} {name} Orthanc {os.getpid()} DICOM+RFC3881 - "
    return f'{header}{BOM}<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


class SyslogReceiver:
    """The other end: `send` returns when it has all messages, as far as the protocol can tell."""

    def __init__(self, settings: SyslogSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._context: ssl.SSLContext | None = None
        self._open: socket.socket | None = None
        self.url = f"{settings.protocol}://{settings.host}:{settings.port_number()}"

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages. Raises OSError, ValueError: none of them counts as sent."""
        try:
            if self._settings.protocol == "udp":
                self._send_datagrams(messages)
            else:
                self._send_over_tls(messages)
        except BaseException:
            self._context = None  # its files may be renewed by now
            raise

    def cut(self) -> None:
        """End what is being sent, from another thread."""
        if connection := self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _send_over_tls(self, messages: Sequence[bytes]) -> None:
        self._context = self._context or self._tls()
        address = (self._settings.host, self._settings.port_number())
        content = b"".join(b"%d %s" % (len(each), each) for each in messages)
        with socket.create_connection(address, NETWORK_SECONDS) as connection:
            self._open = connection
            deliver(connection, self._context, self._settings.host or "", content)

    def _send_datagrams(self, messages: Sequence[bytes]) -> None:
        found = socket.getaddrinfo(self._settings.host, self._settings.port_number(), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as sending:
            sending.settimeout(REFUSED_SECONDS)
            sending.connect(address)  # so that the other machine's refusal reaches us
            for each in messages:
                sending.send(each)
            with contextlib.suppress(TimeoutError):
                sending.recv(1)  # nobody answers, but for a machine that refuses
            _look_for_error(sending)

    def _tls(self) -> ssl.SSLContext:
        """Return what TLS needs. Raises OSError; the text names the key."""
        settings = self._settings
        with _naming("CaFile", settings.ca_file):
            context = ssl.create_default_context(cafile=self._folder / settings.ca_file if settings.ca_file else None)
        # The same on all versions of Python: an old authority, or a certificate itself, may be trusted.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Python's own: a connection that breaks off would look like one that was ended.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # OpenSSL 3
        if settings.certificate_file:
            key = self._folder / settings.key_file if settings.key_file else None
            with _naming("CertificateFile or KeyFile", settings.certificate_file):
                # Without a password, OpenSSL would ask a person on the terminal.
                own = self._folder / settings.certificate_file
                context.load_cert_chain(own, key, password=settings.key_password or "")
        return context


@contextlib.contextmanager
def _naming(key: str, value: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise OSError(f"AuditLog.Syslog.{key} ({value}) can't be used: {error}") from error


def _look_for_error(connection: socket.socket) -> None:
    """Raise OSError if the other end has reset the connection, or refused."""
    if code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, os.strerror(code))
