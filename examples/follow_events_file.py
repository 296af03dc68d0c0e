# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prints the events that dicom_events writes to a file, each once, and goes on when the file is rotated.

python3 follow_events_file.py /var/lib/orthanc/db-v6/dicom_events.jsonl

Needs nothing but Python's standard library.
"""

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REMEMBERED = 100_000


def work_on(event: dict[str, Any]) -> None:
    """What a program of your own does."""
    print(event["type"], event["subject"], flush=True)


def lines(path: Path) -> Iterator[str]:
    """Each line when it is complete; of a file that was renamed all that is left, then of the new one."""
    while not path.exists():
        time.sleep(0.2)
    with path.open() as file:
        inode, line = path.stat().st_ino, ""
        while True:
            line += file.readline()
            if line.endswith("\n"):
                yield line
                line = ""
            elif not path.exists() or path.stat().st_ino != inode:
                if not (rest := file.readline()):
                    return
                line += rest
            else:
                time.sleep(0.2)


def main(path: Path) -> None:
    seen: OrderedDict[str, None] = OrderedDict()  # a program that keeps a database remembers the identifiers there
    print("ready", flush=True)
    while True:
        for line in lines(path):
            event = json.loads(line)
            if event["id"] not in seen:
                work_on(event)
                seen[event["id"]] = None
                if len(seen) > REMEMBERED:
                    seen.popitem(last=False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
