# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs that open a ledger in a process of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

SRC = Path(__file__).parents[3] / "src"


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
