# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs that open a ledger in a process of their own, and calls of services."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from common.outside import Outside, OutsideAnswer

SRC = Path(__file__).parents[3] / "src"
SECRET = "pa55Word"  # noqa: S105 - of nothing


def program(text: str, *arguments: object, **more: Any) -> subprocess.Popen[str]:
    """Start a program that has the ledger."""
    head = (
        "import sys, os, time, types\nsys.modules['orthanc'] = types.ModuleType('orthanc')\nfrom pathlib import Path\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(text), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=SRC,
        **more,
    )


HOLDS = """
    from common.ledger import Ledger
    ledger = Ledger(Path(sys.argv[1]))
    print("open", flush=True)
    time.sleep(60)
"""


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()


def ask(outside: Outside, target: str = "/", **more: Any) -> OutsideAnswer:
    """Send a GET to a service."""
    return outside.request("GET", target, **{"headers": {"User-Agent": "test"}, "timeout": 5, "largest": 100, **more})


def status_of(url: str, **how: Any) -> int:
    """Return the status of a GET that is sent as configured."""
    with contextlib.closing(Outside(url, **how)) as outside:
        return ask(outside).status
