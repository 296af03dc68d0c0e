# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench-forward-growth: does forwarding a study cost more in a large archive, and do 100,000 rows of the ledger?

The cost of a study beside the sending is the processor time of the Orthanc that forwards it, less that of an Orthanc that
gets the same studies and sends them by raw jobs. Set ORTHANC and ORTHANC_PYTHON_PLUGIN to 1.12.7, where reading a resource
gets slower with the archive. A job that names its instances is slower with the archive from 1.12.11 on (1.13.0 shows it): a
row of a whole series is sent beside raw jobs that name the series, and its instances.
Arguments: --small, --large (studies in the archive), --forwarded, --rows, --images (of that series), --only-series.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import goals
from benchmarks.forward import clear, wait_for
from testing.dicom import make_study
from testing.server import OrthancServer

ROOT = Path(__file__).parent.parent


def cpu(server: OrthancServer) -> float:
    """Seconds of processor time that it has used."""
    assert server.process
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def store_and_send(source: OrthancServer, destination: OrthancServer, first: int, number: int, raw: bool) -> float:
    """Processor seconds to receive so many studies and to send them."""
    files = [make_study(patient_id=f"F{first + one}", instances=1, rows=16, columns=16)[0] for one in range(number)]
    clear(destination)
    before = cpu(source)
    stored = [source.store(file)[0]["ID"] for file in files]
    if raw:
        time.sleep(3)  # as long as our script waits for stability
        for instance in stored:  # what a job costs that names a study grows by itself with the archive of 1.12.7
            source.post("/modalities/DEST/store", {"Resources": [instance], "Synchronous": False})
    wait_for(destination, number)
    return cpu(source) - before


def growth(sizes: list[int], number: int) -> None:
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        destination = OrthancServer(Path(folder) / "destination", aet="DEST").start()
        nodes = {"DicomModalities": {"DEST": destination.as_modality()}, "JobsHistorySize": 1}
        ours = OrthancServer(Path(folder) / "ours", ROOT / "auto_forward_modality.py", nodes).start()
        raw = OrthancServer(Path(folder) / "raw", None, nodes).start()
        ours.post("/auto-forward-modality/destinations/DEST/pause")
        have = 0
        for size in sizes:
            for server in (ours, raw):
                for one in range(have, size):
                    server.store(make_study(patient_id=f"A{one}", instances=1, rows=16, columns=16))
            have = size
            time.sleep(5)  # all is stable, and noted: what waits is dropped, it is not what is measured
            while rows := ours.get("/auto-forward-modality/deliveries", state="waiting", limit=1000)["Items"]:
                for row in rows:
                    ours.delete(f"/auto-forward-modality/deliveries/{row['ID']}")
            ours.post("/auto-forward-modality/destinations/DEST/resume")
            turns = []
            for turn in range(5):
                first = size * 1000 + turn * number
                with_us = store_and_send(ours, destination, first, number, raw=False)
                turns.append((with_us, store_and_send(raw, destination, first, number, raw=True)))
            ours.post("/auto-forward-modality/destinations/DEST/pause")
            with_us, without = (statistics.median(column) / number * 1000 for column in zip(*turns, strict=True))
            costs.append((with_us, with_us - without))
            print(
                f"  {size:6d} studies in the archive: {with_us:.2f} ms of processor to receive, route and send a study, "
                f"{without:.2f} ms to receive and send it by a raw job: {with_us - without:+.2f} ms",
                flush=True,
            )
        print(f"  whole {costs[-1][0] / costs[0][0]:.2f}, difference {costs[-1][1] / costs[0][1]:.2f}", flush=True)
        for server in (ours, raw, destination):
            server.close()


def one_series(sizes: list[int], images: int) -> None:
    """How long one series takes to its destination: by us, and by raw jobs that name it, or each of its instances."""
    with tempfile.TemporaryDirectory() as folder:
        destination = OrthancServer(Path(folder) / "destination", aet="DEST").start()
        nodes = {"DicomModalities": {"DEST": destination.as_modality()}, "AutoForwardModality": {"Rules": []}}
        source = OrthancServer(Path(folder) / "source", ROOT / "auto_forward_modality.py", nodes).start()
        source.store(make_study(patient_id="SERIES", study_date="20240101", instances=images, rows=16, columns=16))
        [study], [series] = source.get("/studies"), source.get("/series")
        instances = source.get(f"/series/{series}")["Instances"]

        def ours() -> None:
            source.post("/auto-forward-modality/destinations/DEST/pause")
            source.post("/auto-forward-modality/destinations/DEST/resume")

        def raw(resources: list[str]) -> None:
            source.post("/modalities/DEST/store", {"Resources": resources, "Synchronous": False})

        have, ours_by_size = 1, list[float]()
        for size in sizes:
            for one in range(have, size):
                source.store(make_study(patient_id=f"A{one}", study_date="20230101", instances=1, rows=16, columns=16))
            have = size
            seconds: dict[str, list[float]] = {"by us": [], "named": [], "each instance named": []}
            for _ in range(5):
                for name, found in seconds.items():
                    clear(destination)
                    if name == "by us":
                        add_row(source, study, instances)
                    begin = time.perf_counter()
                    ours() if name == "by us" else raw([series] if name == "named" else instances)
                    wait_for(destination, images)
                    found.append(time.perf_counter() - begin)
            shown = ", ".join(f"{name} {statistics.median(found):.2f} s" for name, found in seconds.items())
            print(f"  {size:6d} studies in the archive, a series of {images}: {shown}", flush=True)
            ours_by_size.append(statistics.median(seconds["by us"]))
        what = f"a series of {images} to its destination, with {sizes[-1]} studies over {sizes[0]}"
        goals.most(what, ours_by_size[-1] / ours_by_size[0], 1.5)
        for server in (source, destination):
            server.close()


def add_row(source: OrthancServer, study: str, instances: list[str]) -> None:
    """A row as that of a rule: with its instances. (`send` and `backfill` add rows of whatever a resource has then.)"""
    [ledger] = source.folder.rglob("auto_forward_modality.sqlite")
    now, data = time.time(), json.dumps({"Level": "Study", "Instances": sorted(instances)})
    with sqlite3.connect(ledger, timeout=30) as database:
        values = ("DEST", study, "waiting", 0, 0, "", None, data, now, now, 0, "send", now)
        database.execute("INSERT INTO work VALUES(NULL,?,?,?,?,?,?,?,?,?,?,?,?,?)", values)
    database.close()


def rows(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = OrthancServer(Path(folder) / "source", ROOT / "auto_forward_modality.py").start()
        source.stop()
        [ledger] = source.folder.rglob("auto_forward_modality.sqlite")
        before = memory(source.start())
        source.stop()
        fill(ledger, number)
        begin = time.perf_counter()
        source.start()
        while source.request("GET", "/auto-forward-modality/status").status_code != 200:
            time.sleep(0.01)
        print(f"  {number} rows: start {time.perf_counter() - begin:.2f} s", end="")
        times = []
        for state in ("", "&state=dead", "&study=study77777", "&destination=DEST"):
            begin = time.perf_counter()
            source.request("GET", f"/auto-forward-modality/deliveries?since={number // 2}&limit=100{state}")
            times.append((time.perf_counter() - begin) * 1000)
        print(
            f", pages in {', '.join(f'{one:.0f}' for one in times)} ms, memory {before} kB without, {memory(source)} kB with"
        )
        source.close()


def fill(ledger: Path, number: int) -> None:
    """So many rows, one in ten of them dead."""
    data, now = json.dumps({"Level": "Study", "Instances": ["instance"]}), time.time()
    states = ["dead", *["done"] * 9]
    made = [
        ("DEST", f"study{one}", states[one % 10], 1, now, "", None, data, now, now, 0, "send", now)
        for one in range(number)
    ]
    with sqlite3.connect(ledger) as database:
        database.executemany("INSERT INTO work VALUES(NULL,?,?,?,?,?,?,?,?,?,?,?,?,?)", made)
    database.close()


def memory(server: OrthancServer) -> int:
    assert server.process
    return int(Path(f"/proc/{server.process.pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=300)
    parser.add_argument("--large", type=int, default=10_000)
    parser.add_argument("--forwarded", type=int, default=200)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--only-series", action="store_true")
    options = parser.parse_args()
    one_series([options.small, options.large], options.images)
    if options.only_series:
        return
    rows(options.rows)
    growth([options.small, options.large], options.forwarded)


if __name__ == "__main__":
    main()
