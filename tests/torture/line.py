# SPDX-License-Identifier: AGPL-3.0-or-later
"""A TCP line to a server, in the test's own process, that is as bad as networks and what answers on them can be.

line = Line(server.http_port)
...                      # who connects to line.port reaches the server
line.mood = "hangs"      # also for the connections that are open
line.mood = "well"       # those that hung go on
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

LOOK_SECONDS = 0.05  # between two looks at the mood
TRICKLED_BYTES = 8  # of each look
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: what is not sent is dropped, and the other end gets a RST

# What a line does to each connection while it is in this mood.
MOODS = {
    "hangs": "it takes connections, and passes nothing on",
    "resets": "each connection ends with a reset, at once",
    "cuts": "each connection ends with a reset, somewhere in the middle",
    "trickles": f"it passes on {TRICKLED_BYTES / LOOK_SECONDS:.0f} bytes a second",
    "garbles": "answers are bytes by chance",
}


class Line:
    """Passes on what comes to `port` to another port of this machine, in its `mood`: "well", or one of `MOODS`.

    Parameters
    ----------
    to
        Gives the port, at each connection: a server may change it when it starts again.
    """

    def __init__(self, to: Callable[[], int], chance: random.Random) -> None:
        self.mood = "well"
        self._to, self._chance, self._closing = to, chance, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections, and end those that are open."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            _Connection(self, near).begin()

    def connect(self) -> socket.socket:
        """Connect to the server behind. Raises OSError."""
        far = socket.create_connection(("127.0.0.1", self._to()), 5)
        far.settimeout(None)
        return far

    def ends_after(self) -> int:
        """Return the bytes after which a connection that is cut ends: in a request, in an image, or in an answer."""
        return int(10 ** self._chance.uniform(1.5, 5))

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()


class _Connection:
    """One connection through a line: a thread for each direction."""

    def __init__(self, line: Line, near: socket.socket) -> None:
        self._line, self._near = line, near
        self._far: socket.socket | None = None
        self._left = line.ends_after()

    def begin(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._far = far = self._line.connect()
        except OSError:
            self._reset()
            return
        back = threading.Thread(target=self._pass_on, args=(far, self._near, True), daemon=True)
        back.start()
        self._pass_on(self._near, far, False)
        back.join()
        self._near.close()
        far.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        try:
            while True:
                if self._line.is_closing or self._line.mood == "resets" or self._left < 0:
                    raise ConnectionResetError
                if self._line.mood == "hangs" or not select.select([source], [], [], LOOK_SECONDS)[0]:
                    time.sleep(LOOK_SECONDS if self._line.mood == "hangs" else 0)
                    continue
                mood = self._line.mood
                if not (content := source.recv(TRICKLED_BYTES if mood == "trickles" else 1 << 16)):
                    sink.shutdown(socket.SHUT_WR)
                    return
                if mood == "trickles":
                    time.sleep(LOOK_SECONDS)
                elif mood == "garbles" and is_answer:
                    content = os.urandom(len(content))
                elif mood == "cuts":
                    content, self._left = content[: self._left], self._left - len(content)
                sink.sendall(content)
        except (OSError, ValueError):  # a ValueError: the other direction has closed it
            self._reset()

    def _reset(self) -> None:
        for each in (self._near, self._far):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    each.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
                with contextlib.suppress(OSError):
                    each.close()
