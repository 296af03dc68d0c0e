# SPDX-License-Identifier: AGPL-3.0-or-later
"""What series_private_tags.py costs: lists beside Orthanc's own, and storing beside a script whose callbacks do nothing.

- 5,000 series with tags: at most 1.3 times the time of `/series?expand`, of the fastest of the rounds each: whatever else the
  machine does only ever adds;
- storing 64x64 images in series of 20: at least 0.9 of the rate with the script that does nothing. Each round stores the same
  number of studies on both servers, in turns; the ratio is that of the rounds' medians, since the machine's pace drifts.

    make bench-private-tags          BENCH_ARGS="--series 5000 --rounds 25"
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from benchmarks import goals
from benchmarks.load import latencies, processor_seconds, rate_of_each_once, request_bytes
from testing.dicom import make_study
from testing.server import OrthancServer

SCRIPT = Path(__file__).parent.parent / "series_private_tags.py"
NOTHING = """
import orthanc

def on_stored(dicom, instance):
    pass

def on_change(change, level, resource):
    pass

orthanc.RegisterOnStoredInstanceCallback(on_stored)
orthanc.RegisterOnChangeCallback(on_change)
"""
CONFIGURATION: dict[str, Any] = {
    "StableAge": 3600,
    "UserMetadata": {"SeriesPrivateTags": 2000},
    "SeriesMainPrivateDicomTags": ["0029,xx10:ACME", "!!0029,xx11:ACME", "0019,xx0c:NOT IN THESE FILES"],
}
CONNECTIONS, STUDIES = 4, 30  # kept connections, and studies of 20 images in a round


def private(dataset: Dataset) -> None:
    block = dataset.private_block(0x29, "ACME", create=True)
    block.add_new(0x10, "DS", ["1.5", "2.5"])
    block.add_new(0x11, "LO", "a text that is not stored")


def lists(server: OrthancServer, series: int, rounds: int) -> None:
    template = make_study(rows=4, columns=4, change=private)[0]
    dataset = pydicom.dcmread(io.BytesIO(template))
    for number in range(series):
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.{number // 10}", f"1.2.{number // 10}.{number}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number // 10}.{number}.1"
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        server.post("/instances", buffer.getvalue())
    server.wait_until(lambda: server.get("/with-private-tags/status")["Series"] == series)
    found = server.get("/with-private-tags/series")
    assert len(found) == series
    assert all(each["MainPrivateDicomTags"] for each in found)
    requests_ = [request_bytes("/with-private-tags/series"), request_bytes("/series?expand")]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for request, column in zip(requests_, times, strict=True):
            column += latencies(server.http_port, [request])
    ours, own = (1000 * min(column) for column in times)
    median = statistics.median(a / b for a, b in zip(*times, strict=True))
    print(
        f"list of {series} series: {ours:.0f} ms   /series?expand {own:.0f} ms   median of the pairs {median:.2f}",
        flush=True,
    )
    goals.most(f"private tags, a list of {series} series: time over /series?expand", ours / own, 1.3)


def storing(ours: OrthancServer, theirs: OrthancServer, rounds: int) -> None:
    rates: list[list[float]] = [[], []]
    used = [0.0, 0.0]
    for number in range(rounds + 2):
        files = [
            each
            for study in range(STUDIES)
            for each in make_study(patient_id=f"{number}-{study}", instances=20, change=private)
        ]
        requests = [request_bytes("/instances", body=content) for content in files]
        if number == 2:
            used = [-processor_seconds(server) for server in (ours, theirs)]
        sides = [(ours, rates[0]), (theirs, rates[1])]
        for server, column in sides if number % 2 else reversed(sides):
            column.append(rate_of_each_once(server.http_port, requests, connections=CONNECTIONS))
    # The first two rounds are for warming up.
    medians = [statistics.median(column[2:]) for column in rates]
    ratio = statistics.median(a / b for a, b in zip(rates[0][2:], rates[1][2:], strict=True))
    print(f"storing: {medians[0]:.0f} images/s   with callbacks that do nothing {medians[1]:.0f} images/s", flush=True)
    goals.least("private tags, storing 64x64: rate over callbacks that do nothing", ratio, 0.9)
    # What goes on in the background is part of it.
    ours.wait_until(lambda: not ours.get("/with-private-tags/status")["Arriving"])
    each = [(before + processor_seconds(server)) / (rounds * STUDIES * 20) * 1e6
            for before, server in zip(used, (ours, theirs), strict=True)]  # fmt: skip
    print(f"processor time of a store: {each[0]:.0f} us, {each[1]:.0f} us", flush=True)
    status = ours.get("/with-private-tags/status")
    print(f"afterwards: {json.dumps(status)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        servers = [OrthancServer(Path(folder) / name, script, CONFIGURATION)
                   for name, script in (("ours", SCRIPT), ("nothing", NOTHING), ("lists", SCRIPT))]  # fmt: skip
        try:
            for server in servers:
                server.start()
            print(f"Orthanc {servers[0].get('/system')['Version']}", flush=True)
            storing(servers[0], servers[1], given.rounds)
            for server in servers[:2]:
                server.stop()
            lists(servers[2], given.series, given.rounds)
        finally:
            for server in servers:
                server.close()


if __name__ == "__main__":
    main()
