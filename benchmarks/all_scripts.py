# SPDX-License-Identifier: AGPL-3.0-or-later
"""What all scripts combined cost an Orthanc: at its start, while images come in, and in memory.

- start: at most 0.5 s later than with a script that does nothing;
- storing with four senders, beside callbacks that do nothing: at least 0.7 of the rate with 64x64 images, 0.95 with 512x512;
- memory: after --images images at most a tenth more than after a third of them.

Every script has something to do for each image: events go to a file, the audit log writes, the forwarders have a rule that
looks at the image and leaves it here.

    make bench-all-scripts    BENCH_ARGS="--rounds 12 --images 100000"
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.load import rate_of_each_once, request_bytes
from testing.demo import scripts
from testing.dicom import make_study
from testing.server import OrthancServer

ROOT = Path(__file__).parent.parent
NOTHING = """
import orthanc

def on_stored(dicom, instance):
    pass

def on_change(change, level, resource):
    pass

orthanc.RegisterOnStoredInstanceCallback(on_stored)
orthanc.RegisterOnChangeCallback(on_change)
"""
STAYS_HERE = {"Rules": [{"Query": {"Modality": "XA"}, "Destinations": ["DEST"]}]}
CONFIGURATION: dict[str, Any] = {
    "StableAge": 2,
    "DicomModalities": {"DEST": ["DEST", "127.0.0.1", 9]},
    "OrthancPeers": {"DEST": ["http://127.0.0.1:9/"]},
    "AutoForwardModality": STAYS_HERE,
    "AutoForwardPeer": STAYS_HERE,
    "AnonymizeSeries": {"Secret": "s" * 40, "Recipes": {"plain": {}}},
    "AuditLog": {"WatchRequests": True},
    "DicomEvents": {"Broker": {"Type": "file"}},
    "PurgeOldStudies": {"Rules": [{"Name": "old", "OlderThan": "120y", "At": "02:30"}]},
    "SeriesMainPrivateDicomTags": ["0029,1010"],
}
GOALS = {64: 0.7, 512: 0.95}  # of the rate, by rows and columns
SENDERS = 4


def combined(folder: Path) -> Path:
    """Combine all scripts; return the file."""
    target = folder / "all.py"
    command = [sys.executable, str(ROOT / "combine.py"), *map(str, scripts()), "-o", str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def start(servers: dict[str, OrthancServer], rounds: int) -> None:
    """Compare the starts, and leave the servers running."""
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            begin = time.perf_counter()
            server.start()
            seconds[name].append(time.perf_counter() - begin)
            server.stop()
    for name, server in servers.items():
        print(f"start with {name}: {statistics.median(seconds[name]):.2f} s", flush=True)
        server.start()
    nothing, everything = map(statistics.median, seconds.values())
    goals.most("all scripts: a start later than without by", everything - nothing, 0.5, "s")


def requests_of(seed: str, size: int, images: int) -> list[bytes]:
    """Return the requests that store so many images, in series of twenty."""
    studies = [
        make_study(patient_id=f"{seed}-{each}", instances=20, rows=size, columns=size) for each in range(images // 20)
    ]
    return [request_bytes("/instances", body=image) for study in studies for image in study]


def storing(servers: dict[str, OrthancServer], size: int, images: int, rounds: int) -> None:
    """Store on each in turn."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds + 1):
        requests = requests_of(f"{size}-{number}", size, images)
        for name in list(servers)[:: -1 if number % 2 else 1]:
            rates[name].append(rate_of_each_once(servers[name].http_port, requests, connections=SENDERS))
            time.sleep(2)  # what it still does in the background would be the other's time, and is not to be hidden
    nothing, everything = (found[1:] for found in rates.values())  # the first round warms up
    print(f"storing {size}x{size}: {statistics.median(nothing):.0f} images/s with callbacks that do nothing, "
          f"{statistics.median(everything):.0f} with all scripts", flush=True)  # fmt: skip
    ratio = statistics.median(ours / theirs for ours, theirs in zip(everything, nothing, strict=True))
    goals.least(f"all scripts: storing {size}x{size}, rate over callbacks that do nothing", ratio, GOALS[size])


def memory(server: OrthancServer, images: int) -> None:
    """Store many images, and look at the memory at each tenth."""
    assert server.process
    status = Path(f"/proc/{server.process.pid}/status")
    seen: list[float] = []
    for tenth in range(10):
        for part in range(10):
            rate_of_each_once(server.http_port, requests_of(f"m{tenth}-{part}", 8, images // 100), connections=SENDERS)
        seen.append(int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1024)
    print(f"memory at each tenth of {images:,} images, MB: {' '.join(f'{each:.0f}' for each in seen)}", flush=True)
    goals.most(f"all scripts: memory after {images:,} images, over that after a third of them", seen[9] / seen[2], 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--images", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = {
            "callbacks that do nothing": OrthancServer(folder / "nothing", NOTHING, CONFIGURATION),
            "all scripts": OrthancServer(folder / "all", combined(folder), CONFIGURATION),
        }
        try:
            start(servers, 5)
            print(f"Orthanc {servers['all scripts'].get('/system')['Version']}", flush=True)
            storing(servers, 64, 600, given.rounds)
            storing(servers, 512, 200, given.rounds)
            memory(servers["all scripts"], given.images)
        finally:
            for server in servers.values():
                server.kill()
                server.close()


if __name__ == "__main__":
    main()
