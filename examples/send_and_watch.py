# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sends pydicom's real test files to one Orthanc, and shows how many instances each of several Orthancs has.

python3 send_and_watch.py http://user:password@HERE:8042 http://user:password@THERE:8042 [...]

It ends with 0 when all have the same number, with 1 if they don't within a minute. Needs requests and pydicom.
"""

import sys
import time
from pathlib import Path

import pydicom.data
import requests

PATIENCE = 60  # seconds


def instances(url: str) -> int | None:
    """How many instances an Orthanc has; None while it does not answer."""
    try:
        answer = requests.get(f"{url}/statistics", timeout=10)
    except requests.ConnectionError:
        return None
    answer.raise_for_status()
    return int(answer.json()["CountInstances"])


def main(here: str, *elsewhere: str) -> int:
    names = [url.rpartition("@")[2].rpartition("//")[2] for url in (here, *elsewhere)]
    end = time.monotonic() + PATIENCE
    while None in [instances(url) for url in (here, *elsewhere)] and time.monotonic() < end:
        time.sleep(0.5)
    sent = 0
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests").rglob("*")):
        if path.is_file():
            sent += requests.post(f"{here}/instances", data=path.read_bytes(), timeout=60).ok
    print(f"Sent {sent} files to {names[0]}.", flush=True)
    counts: list[int | None] = []
    while time.monotonic() < end:
        found = [instances(url) for url in (here, *elsewhere)]
        if found != counts:
            counts = found
            print(", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True)), flush=True)
        if len(set(counts)) == 1 and sent and counts[0]:
            print("Everything arrived.")
            return 0
        time.sleep(0.5)
    print("Not everything arrived.")
    return 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
