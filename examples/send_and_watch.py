# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sends the real studies of `make demo` to one Orthanc, and shows how many instances each of several Orthancs has.

python3 send_and_watch.py http://user:password@HERE:8042 http://user:password@THERE:8042 [...]

It ends with 0 when all have the same number, with 1 if they don't within a minute. Needs requests, pydicom, and this
collection's folder `testing`, which chooses the studies among pydicom's test files.
"""

import sys
import time
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from testing.demo_studies import real_studies

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
    studies = real_studies()
    for file in (file for study in studies for file in study.files.values()):
        requests.post(f"{here}/instances", data=file, timeout=60).raise_for_status()
    sent = sum(len(study.files) for study in studies)
    print(f"Sent {len(studies)} studies of {sent} images to {names[0]}.", flush=True)
    counts: list[int | None] = []
    while time.monotonic() < end:
        found = [instances(url) for url in (here, *elsewhere)]
        if found != counts:
            counts = found
            print(", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True)), flush=True)
        if set(counts) == {sent}:
            print("Everything arrived.")
            return 0
        time.sleep(0.5)
    print("Not everything arrived.")
    return 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
