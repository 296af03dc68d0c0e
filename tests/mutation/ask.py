# SPDX-License-Identifier: AGPL-3.0-or-later
"""Asks a warm pytest to run its tests once: `python ask.py SOCKET`; prints what it printed, and has its exit status."""

import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
status, _, output = answer.partition(b"\n")
sys.stdout.buffer.write(output)
sys.exit(abs(int(status)))
