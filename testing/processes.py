# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs that end with the tests that started them, and ports that are nobody else's."""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Process = subprocess.Popen[bytes]

# The kernel ends a child with PR_SET_PDEATHSIG when the *thread* that started it ends: this one lives as long as we do.
_starter = ThreadPoolExecutor(1, thread_name_prefix="starts-servers")


def start_process(command: list[str], *, log: Path, environment: dict[str, str] | None = None) -> Process:
    """Start a program that can't outlive this process, in a process group of its own, its output appended to `log`."""

    def start() -> Process:
        with log.open("ab") as output:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                process_group=0,  # Ctrl-C reaches the tests, and they end the server
            )

    return _starter.submit(start).result()


def reserve_port() -> socket.socket:
    """A bound socket whose port is nobody else's until it is closed, yet the server that we start may listen on it."""
    reserved = socket.socket()
    reserved.bind(("0.0.0.0", 0))  # noqa: S104 (bound, never listening)
    # Set after the bind: it lets a later socket with the same option in, and kept us from sharing somebody's port.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return reserved
