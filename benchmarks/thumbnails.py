# SPDX-License-Identifier: AGPL-3.0-or-later
"""How fast series_thumbnail.py answers, beside what Orthanc and a trivial route do on the same server, in the same minute.

Series of 200 images of 512x512x16 bit; only the five around the middle are stored in that size (the others are 16x16): no
measured path reads the others' pixels, and a laptop can run this. Each pair is measured in turns; medians are compared.

    make bench-thumbnails            BENCH_ARGS="--series 40 --rounds 5"
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import goals
from benchmarks.load import latencies, rate, rate_of_each_once, request_bytes
from testing.dicom import make_study
from testing.server import OrthancServer
from tests.constants import script_with

BUILT = Path(__file__).parent.parent / "series_thumbnail.py"
SCRIPT = """
import sys
sys.path.insert(0, FOLDER)
import orthanc
import series_thumbnail

def trivial(output, uri, **request):
    output.AnswerBuffer(b"ok", "text/plain")

def plain_way(output, uri, **request):
    output.AnswerBuffer(orthanc.RestApiGet(f"/instances/{request['groups'][0]}/preview"), "image/png")

orthanc.RegisterRestCallback("/trivial", trivial)
orthanc.RegisterRestCallback("/plain/(.*)", plain_way)
"""
INSTANCES, MIDDLE = 200, 100
KEPT, CHOSEN = 4301, 2001


def phantom() -> bytes:
    """512x512 pixels of 16 bits that look like a slice: a bright disc, a dark one in it, and noise."""
    noise = random.Random(0)
    pixels = bytearray()
    for row in range(512):
        for column in range(512):
            x, y = (column - 256) / 200, (row - 256) / 230
            value = 8000 if x * x + y * y > 1 else 42000 if (x - 0.3) ** 2 + y * y > 0.1 else 20000
            pixels += struct.pack("<H", value + noise.randrange(3000))
    return bytes(pixels)


PIXELS = phantom()


def fill(server: OrthancServer, number: int) -> tuple[str, str]:
    """Store one series, and give the Orthanc identifiers of it and of its middle image."""
    small = make_study(patient_id=f"P{number}", instances=INSTANCES, rows=16, columns=16)
    large = make_study(patient_id=f"P{number}", instances=MIDDLE + 3, rows=512, columns=512, PixelData=PIXELS)
    stored = server.store([*small[: MIDDLE - 2], *large[MIDDLE - 2 :], *small[MIDDLE + 3 :]])
    return stored[MIDDLE]["ParentSeries"], stored[MIDDLE]["ID"]


def wait_until_kept(server: OrthancServer) -> None:
    """Wait until the pictures that were drawn are written, which goes on beside what is measured."""
    server.wait_until(lambda: server.get("/series-thumbnail/status")["Background"] == 0)


def forget(server: OrthancServer, series: list[str], *, choice: bool) -> None:
    wait_until_kept(server)
    for each in series:
        server.request("DELETE", f"/series/{each}/attachments/{KEPT}")
        if choice:
            server.request("DELETE", f"/series/{each}/metadata/{CHOSEN}")


def in_turns(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure, over rounds in which each has its turn, in one order and in the other."""
    found = []
    for number in range(rounds):
        order = list(enumerate(measures))[:: -1 if number % 2 else 1]
        taken = {place: measure() for place, measure in order}
        found.append([taken[place] for place in range(len(measures))])
    return [statistics.median(column) for column in zip(*found, strict=True)]


def show(what: str, ours: float, theirs: str, other: float, unit: str, least: float) -> None:
    print(f"{what:42} {ours:9.0f} {unit}   {theirs:34} {other:9.0f} {unit}", flush=True)
    goals.least(f"thumbnails, {what}: rate over {theirs}", ours / other, least)


def first_answers(server: OrthancServer, series: dict[str, str], rounds: int) -> None:
    paths = [request_bytes(f"/series/{each}/thumbnail") for each in series]
    rendered = [
        request_bytes(f"/instances/{each}/rendered?width=128&height=128", {"Accept": "image/jpeg"})
        for each in series.values()
    ]

    def with_choice() -> float:
        forget(server, list(series), choice=True)
        return 1000 * statistics.median(latencies(server.http_port, paths))

    def chosen_before() -> float:
        forget(server, list(series), choice=False)
        return 1000 * statistics.median(latencies(server.http_port, paths))

    def first() -> float:
        forget(server, list(series), choice=False)
        return rate_of_each_once(server.http_port, paths)

    def plain() -> float:
        wait_until_kept(server)
        return rate_of_each_once(server.http_port, rendered)

    with_choice()  # so that the metadata is there
    ours, theirs = in_turns(2 * rounds, first, plain)
    show("first answer, the middle chosen before", ours, "/instances/{id}/rendered", theirs, "/s", 0.5)
    choosing, without = in_turns(rounds, with_choice, chosen_before)
    adds = choosing - without
    goals.most(f"thumbnails, choosing among {INSTANCES} images adds", adds, 10, "ms")


def later_answers(server: OrthancServer, series: dict[str, str], rounds: int) -> None:
    port, paths = server.http_port, [f"/series/{each}/thumbnail" for each in series]
    requests = [request_bytes(path) for path in paths]
    etags = [server.request("GET", path).headers["ETag"] for path in paths]
    conditional = [request_bytes(path, {"If-None-Match": etag}) for path, etag in zip(paths, etags, strict=True)]
    plain = [request_bytes(f"/plain/{each}") for each in series.values()]
    preview = [request_bytes(f"/instances/{each}/preview") for each in series.values()]
    # Short and many: what the machine gives changes from one second to the next.
    ours, trivial, unchanged = in_turns(
        6 * rounds,
        lambda: rate(port, requests, 0.4),
        lambda: rate(port, [request_bytes("/trivial")], 0.4),
        lambda: rate(port, conditional, 0.4, expected=304),
    )
    plain_way, alone, preview_alone = in_turns(
        rounds,
        lambda: rate(port, plain, 1),
        lambda: rate(port, requests, 1, connections=1),
        lambda: rate(port, preview, 1, connections=1),
    )
    show("later answer", ours, "a trivial Python route", trivial, "/s", 0.8)
    show("later answer, If-None-Match (304)", unchanged, "later answer", ours, "/s", 1.0)
    show("later answer", ours, "/instances/{id}/preview in a route", plain_way, "/s", 100)
    show("later answer, by one connection", alone, "/instances/{id}/preview", preview_alone, "/s", 100)


def memory(server: OrthancServer, series: dict[str, str], megabytes: float) -> None:
    assert server.process
    status = Path(f"/proc/{server.process.pid}/status")

    def resident() -> float:
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    before = resident()
    asked = 0
    for size in range(600, 640):
        rate_of_each_once(
            server.http_port, [request_bytes(f"/series/{each}/thumbnail?size={size}&format=png") for each in series]
        )
        asked += len(series)
    held = server.get("/series-thumbnail/status")["InMemory"]
    goals.most(f"thumbnails, {asked} pictures more: pictures held", held["Bytes"] / 1e6, megabytes, "MB")
    print(f"resident memory of Orthanc: {before:.0f} MB before, {resident():.0f} MB after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Without memory each answer is a first one as soon as the picture that was kept is deleted.
        without_memory = script_with(BUILT, {"MAX_CACHE_BYTES": 0})
        script = SCRIPT.replace("FOLDER", repr(str(without_memory.parent)))
        server = OrthancServer(Path(folder), script, {"StableAge": 3600, "SeriesThumbnail": {"MakeAhead": False}})
        try:
            server.start()
            version = server.get("/system")["Version"]
            begun = time.monotonic()
            series = dict(fill(server, number) for number in range(given.series))
            print(
                f"Orthanc {version}: {len(series)} series of {INSTANCES} stored in {time.monotonic() - begun:.0f} s",
                flush=True,
            )
            first_answers(server, series, given.rounds)
            server.stop()
            shutil.copyfile(script_with(BUILT, {"MAX_CACHE_BYTES": 16e6}), without_memory)
            server.start()
            later_answers(server, series, given.rounds)
            memory(server, series, 16)
        finally:
            server.close()


if __name__ == "__main__":
    main()
