# SPDX-License-Identifier: AGPL-3.0-or-later
"""A pytest that has imported what tests need, and forks for each run: `python warm_pytest.py SOCKET SECONDS ARGUMENTS…`.

Of the second and a half that a run of few unit tests takes, most is imports. It runs the tests once, with what Python
compiles kept; then once for each connection to SOCKET, at most SECONDS. Each is answered with the exit status as a line, and
what pytest printed. Nothing of src/ is imported here, so that each run has the sources as they are then.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path

PRELOADED = "pytest hypothesis hypothesis.strategies httpx requests pydicom pydicom.data PIL.Image"
TIMED_OUT = 124  # as timeout(1) says it
SHOWN_BYTES = 4000  # of what pytest printed: its end
# Of the processor, for a run: so many times what the first took, and some more. Then a change has made it run for ever.
LONGEST_FACTOR, LONGEST_SECONDS = 10, 5


def main() -> int:
    path, seconds, arguments = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "1"}  # hypothesis: the same examples each time
    for name in PRELOADED.split():
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        status, output = run(arguments, seconds)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{status}\n{output if status else ''}", flush=True)
        limit = LONGEST_FACTOR * math.ceil(used.ru_utime + used.ru_stime) + LONGEST_SECONDS
        # A change within a second, of the same length, would be taken for the file that was compiled before.
        sys.dont_write_bytecode = True
        while not status:
            connection, _ = server.accept()
            with connection:
                ended, output = run(arguments, seconds, limit)
                connection.sendall(f"{ended}\n{output}".encode())
    return status


def run(arguments: list[str], seconds: float, processor_seconds: int = 0) -> tuple[int, str]:
    """Run pytest in a process of its own; return its exit status and the end of what it printed."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            _be_pytest(arguments, output.fileno(), processor_seconds)
        ended = os.pidfd_open(child)
        has_ended = bool(select.select([ended], [], [], seconds)[0])
        os.close(ended)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # with what a test may have left
        _, waited = os.waitpid(child, 0)
        output.seek(max(0, output.seek(0, os.SEEK_END) - SHOWN_BYTES))
        text = output.read().decode(errors="replace")
    return (os.waitstatus_to_exitcode(waited) if has_ended else TIMED_OUT), text


def _be_pytest(arguments: list[str], output: int, processor_seconds: int) -> None:
    status = 70
    try:
        os.setpgid(0, 0)
        if processor_seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (processor_seconds, processor_seconds))
        os.dup2(output, 1)
        os.dup2(output, 2)
        import pytest

        sys.path.insert(0, str(Path.cwd()))
        status = int(pytest.main(arguments))
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - a fork must never go on as its parent
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
