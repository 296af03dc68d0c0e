# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests as fast as a server answers them, from processes of their own, so that the client is not what is measured."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from testing.server import OrthancServer

FORK = multiprocessing.get_context("fork")


def request_bytes(path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> bytes:
    """A GET, or with a body a POST, as it goes over the wire."""
    length = {} if body is None else {"Content-Length": str(len(body))}
    fields = {"Host": "127.0.0.1", **(headers or {}), **length}
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def processor_seconds(server: OrthancServer) -> float:
    """What the server's process has used so far: steadier than a rate on a machine that others share."""
    assert server.process
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    """One kept connection that sends prepared requests and reads each answer whole."""

    def __init__(self, port: int) -> None:
        self._port, self._buffer = port, memoryview(bytearray(1 << 20))
        # Of each request, the last answer that came whole, with its status: the same bytes need not be read through again.
        self._known: dict[bytes, tuple[bytes, int]] = {}
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> int:
        """Send one request and give the status of its answer."""
        for _attempt in range(2):
            try:
                self._socket.sendall(request)
                if status := self._answer(request):
                    return status
            except ConnectionError:
                pass
            self._connect()  # Orthanc closes a kept connection after a second without a request
        raise ConnectionError("Orthanc closed two connections without an answer")

    def _answer(self, request: bytes) -> int:
        known, status = self._known.get(request, (b"", 0))
        received = self._socket.recv(16384)
        if received == known:
            return status
        while (end := received.find(b"\r\n\r\n")) < 0:
            if not (more := self._socket.recv(65536)):
                return 0
            received += more
        head = received[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        missing = int(head[at + 17 :].split(b"\r\n", 1)[0]) - (len(received) - end - 4) if at >= 0 else 0
        status = int(head[9:12])
        if not missing:
            self._known[request] = received, status
        while missing > 0:
            if not (count := self._socket.recv_into(self._buffer)):
                return 0
            missing -= count
        return status


def latencies(port: int, requests: Sequence[bytes], expected: int = 200) -> list[float]:
    """Seconds that each request took, one after the other over one connection."""
    client, found = Client(port), []
    for request in requests:
        begun = time.perf_counter()
        status = client.ask(request)
        found.append(time.perf_counter() - begun)
        if status != expected:
            raise RuntimeError(f"status {status}, not {expected}, for {request.splitlines()[0].decode()}")
    return found


def rate(port: int, requests: Sequence[bytes], seconds: float, *, connections: int = 4, expected: int = 200) -> float:
    """Answers a second with `connections` kept connections that ask for the requests in turn, each starting elsewhere."""
    return _together(
        port, [[*requests[start:], *requests[:start]] for start in _starts(requests, connections)], seconds, expected
    )


def rate_of_each_once(port: int, requests: Sequence[bytes], *, connections: int = 4, expected: int = 200) -> float:
    """Answers a second when each request is asked once, by one of `connections` kept connections."""
    return _together(port, [requests[start::connections] for start in range(connections)], None, expected)


def _starts(requests: Sequence[bytes], connections: int) -> list[int]:
    return [len(requests) * number // connections for number in range(connections)]


def _together(port: int, shares: Sequence[Sequence[bytes]], seconds: float | None, expected: int) -> float:
    pipes = []
    for share in shares:
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=_work, args=(theirs, port, share, seconds, expected), daemon=True)
        process.start()
        pipes.append((process, ours))
    for _, pipe in pipes:
        pipe.recv()  # connected
    begun = time.perf_counter()
    for _, pipe in pipes:
        pipe.send(None)
    answers: list[int | str] = [pipe.recv() for _, pipe in pipes]
    elapsed = time.perf_counter() - begun
    for process, _ in pipes:
        process.join()
    if wrong := [answer for answer in answers if isinstance(answer, str)]:
        raise RuntimeError(wrong[0])
    return sum(int(answer) for answer in answers) / elapsed


def _work(pipe: Connection, port: int, requests: Sequence[bytes], seconds: float | None, expected: int) -> None:
    client, count = Client(port), 0
    pipe.send("connected")
    pipe.recv()
    end = time.perf_counter() + (seconds or 0)
    try:
        while True:
            for request in requests:
                if (status := client.ask(request)) != expected:
                    pipe.send(f"status {status}, not {expected}, for {request.splitlines()[0].decode()}")
                    return
                count += 1
                if seconds and time.perf_counter() > end:
                    pipe.send(count)
                    return
            if not seconds:
                pipe.send(count)
                return
    except OSError as error:
        pipe.send(repr(error))
