# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bytes over TLS, of which the other end says that it has read them all: by its close_notify, after ours (RFC 5425 4.4)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import TypeVar

RECEIVED_BYTES = 65536  # at most, at a time
LONGEST_SECONDS = 120.0  # of one delivery, also where the other end says something all the time
T = TypeVar("T")


def deliver(connection: socket.socket, context: ssl.SSLContext, host: str, content: bytes) -> None:
    """Send bytes, end TLS, and wait until the other end has ended it too.

    `ssl.SSLSocket.unwrap` won't do: to OpenSSL an alert ends a connection as well as close_notify. With TLS 1.3 a receiver
    that wants another certificate says so by an alert when we have sent everything, and it would count as delivered.

    Raises
    ------
    OSError : the other end is not the one that is meant, refuses us, or has not said that it has read everything.
    """
    ends_at = time.monotonic() + LONGEST_SECONDS
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)

    def step(act: Callable[[], T]) -> T:
        """Do something with as many bytes from the other end as it needs."""
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                _flush(connection, outgoing)
                if time.monotonic() > ends_at:
                    raise TimeoutError(f"it takes longer than {LONGEST_SECONDS:g} s") from None
                if received := connection.recv(RECEIVED_BYTES):
                    incoming.write(received)
                else:
                    incoming.write_eof()

    step(secured.do_handshake)
    left = memoryview(content)
    while left:
        left = left[secured.write(left) :]
    with contextlib.suppress(ssl.SSLWantReadError):  # it sends our close_notify, and nothing has come in for it to read
        secured.unwrap()
        raise OSError("it ended the connection before it was sent anything")
    _flush(connection, outgoing)
    try:
        while True:
            step(lambda: secured.read(RECEIVED_BYTES))  # a receiver has nothing to say
    except ssl.SSLZeroReturnError:
        return  # close_notify
    except OSError as error:
        raise OSError(f"it did not end the connection as RFC 5425 has it (close_notify): {error}") from error


def _flush(connection: socket.socket, outgoing: ssl.MemoryBIO) -> None:
    if outgoing.pending:
        connection.sendall(outgoing.read())
