# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prints the events that dicom_events writes to a file, each once, and goes on when the file is rotated.

python3 follow_events_file.py /var/lib/orthanc/db-v6/dicom_events.jsonl

Needs nothing but Python's standard library.
"""

import itertools
import json
import os
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
    """Each line when it is complete, over all rotations."""
    while not path.exists():
        time.sleep(0.2)
    file = path.open()
    line = ""
    while True:
        line += file.readline()
        if line.endswith("\n"):
            yield line
            line = ""
        elif (following := next_file(path, os.fstat(file.fileno()).st_ino)) is None:
            time.sleep(0.2)
        elif not (rest := file.readline()):  # nothing was written between the last look and the rotation
            file.close()
            file = following.open()
        else:
            line += rest


def next_file(path: Path, inode: int) -> Path | None:
    """The file that came after this one: itself it is `….1` by now, or `….2`, when there were several rotations."""
    newer = path
    for number in itertools.count(1):
        if newer.exists() and newer.stat().st_ino == inode:
            return None if newer == path else path.with_name(f"{path.name}.{number - 2}" if number > 2 else path.name)
        newer = path.with_name(f"{path.name}.{number}")
        if not newer.exists():
            return path if path.exists() else None  # it was so long ago that it is deleted
    return None


def main(path: Path) -> None:
    seen: OrderedDict[str, None] = OrderedDict()  # a program that keeps a database remembers the identifiers there
    print("ready", flush=True)
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
