# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests byte by byte, over connections that are kept: what no client would send."""

from __future__ import annotations

import re
import socket
from collections import Counter

from testing.server import OrthancServer


class Client:
    """Sends bytes over connections that are kept, and reads whole answers; counts them."""

    def __init__(self, server: OrthancServer) -> None:
        self._server = server
        self._socket: socket.socket | None = None
        self.statuses: Counter[int] = Counter()

    def send(self, content: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises ConnectionError: there was none."""
        for fresh in (False, True):  # a kept connection may have been closed meanwhile
            fresh = fresh or self._socket is None
            if fresh:
                self.close()
                self._socket = socket.create_connection(("127.0.0.1", self._server.http_port), 30)
            try:
                assert self._socket
                self._socket.sendall(content)
                return self._answer(content.startswith(b"HEAD"))
            except OSError:
                self.close()
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def _answer(self, without_body: bool) -> tuple[int, bytes]:
        assert self._socket
        found = b""
        while b"\r\n\r\n" not in found:
            found += self._received()
        head, _, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: *(\d+)", head, re.IGNORECASE)
        while length and not without_body and len(body) < int(length[1]):
            body += self._received()
        status = int(head.split()[1])
        self.statuses[status] += 1
        if not length or re.search(rb"\r\nConnection: *close", head, re.IGNORECASE) or head.startswith(b"HTTP/1.0"):
            self.close()
        return status, body

    def _received(self) -> bytes:
        assert self._socket
        if not (found := self._socket.recv(1 << 16)):
            raise ConnectionResetError("the connection was dropped without an answer")
        return found

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None


def request(method: str, target: str, headers: list[tuple[bytes, bytes]] = [], body: bytes | None = None) -> bytes:  # noqa: B006
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: 127.0.0.1", *(b"%s: %s" % header for header in headers)]
    lines += [b"Content-Length: %d" % len(body)] if body is not None else []
    return b"\r\n".join([*lines, b"", body or b""])
