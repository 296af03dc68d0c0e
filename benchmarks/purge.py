# SPDX-License-Identifier: AGPL-3.0-or-later
"""Deleting 5,000 studies of two instances: `/tools/bulk-delete` in one call, and purge_old_studies.py, side by side.

The script deletes once because it is asked to, and once by a rule by space (`WhenDiskAbove`); the same bars hold for both.

Meanwhile a client stores images, another asks `GET /system` and a third a Python route, each at a pace of its own, as modalities
and people do: who waited for an answer before asking again would ask less where answers take long, and what is asked less is
answered sooner. A request's time counts from when it was due. Both go on one server, with 5,000 studies each, in turns
(`--rounds`), since the machine's pace drifts. Ratios are what counts:

- rate: at least 0.85 of that of the one call;
- 99th percentile of `POST /instances`: at most a third of that during the one call.

Those of `GET /system` and of the Python route are shown, and have no bar.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

import requests

from benchmarks import goals
from benchmarks.load import FORK, Client, request_bytes
from testing.dicom import make_study
from testing.server import OrthancServer

SCRIPT = Path(__file__).parent.parent / "purge_old_studies.py"
PYTHON_ROUTE = """
def _hello(output, uri, **request):
    output.AnswerBuffer(b"hello", "text/plain")

KEPT_ALIVE.append(_hello)
orthanc.RegisterRestCallback("/hello", _hello)
"""
# The rule by space looks at the disk as soon as its turn comes: the seconds between its looks are no part of its rate.
WHEN_TOLD = """
def _told(look):
    def told(self, rule):
        while not (Path(orthanc.GetConfigurationPath()).parent / "look").exists():
            if self._runner.stopping.wait(0.02):
                return
        look(self, rule)

    return told

SpaceRules._look = _told(SpaceRules._look)
"""
BY_SPACE = {
    "Name": "space", "WhenDiskAbove": "0.002MB", "DownTo": "0.001MB", "OlderThan": "1y", "OldestBy": "StudyDate",
    "AtMost": 1_000_000, "Query": {"PatientID": "by space*"},
}  # fmt: skip
SIDES = ("POST /instances", "GET /system", "GET /hello (Python)")
PERIODS = dict(zip(SIDES, (0.03, 0.01, 0.01), strict=True))  # seconds from one request to the next
STORES = 1000  # that a client has ready for one measure: thirty seconds of them and more


@contextmanager
def asking(server: OrthancServer, images: Sequence[bytes]) -> Iterator[dict[str, list[float]]]:
    """Three clients, each a process of its own, that go on asking; afterwards the seconds that their requests took."""
    found: dict[str, list[float]] = {}
    requests_of: dict[str, Iterable[bytes]] = {side: itertools.repeat(request_bytes(side.split()[1])) for side in SIDES}
    requests_of[SIDES[0]] = [request_bytes("/instances", body=image) for image in images]
    stop, clients = FORK.Event(), []
    for side in SIDES:
        ours, theirs = FORK.Pipe()
        client = FORK.Process(
            target=_ask, args=(theirs, server.http_port, requests_of[side], PERIODS[side], stop), daemon=True
        )
        client.start()
        clients.append((side, client, ours))
    try:
        yield found
    finally:
        stop.set()
        for side, client, pipe in clients:
            answer = pipe.recv()
            client.join()
            if isinstance(answer, str):
                raise SystemExit(f"{side}: {answer}")
            found[side] = answer


def _ask(pipe: Connection, port: int, requests: Iterable[bytes], period: float, stop: EventType) -> None:
    """Sends the seconds of each request, or a line that tells what went wrong."""
    client, seconds, due = Client(port), list[float](), time.perf_counter()
    for request in requests:
        due += period
        if stop.wait(max(0.0, due - time.perf_counter())):
            return pipe.send(seconds)
        try:
            status = client.ask(request)
        except OSError as error:
            return pipe.send(repr(error))
        seconds.append(time.perf_counter() - due)
        if status != 200:
            return pipe.send(f"it was answered {status}")
    return pipe.send(f"all {len(seconds)} were asked before the end: STORES is too small")


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def measure(
    server: OrthancServer, name: str, date: str, studies: int, work: Callable[[], object], number: int
) -> tuple[float, dict[str, list[float]]]:
    with requests.Session() as session:  # a connection each would leave thousands of closed ones behind
        session.trust_env = False
        for index in range(studies):
            patient = f"{name}{number}-{index}"
            for image in make_study(patient_id=patient, instances=2, rows=16, columns=16, study_date=date):
                session.post(f"{server.url}/instances", image).raise_for_status()
    # Made before: what stores faster would else make more of them meanwhile, on the same cores.
    images = [make_study(patient_id=f"S{name}{number}-{index}", rows=16, columns=16)[0] for index in range(STORES)]
    before = server.get("/statistics")["CountStudies"]
    with asking(server, images) as sides:
        begin = time.perf_counter()
        work()
        seconds = time.perf_counter() - begin
    gone = before + len(sides[SIDES[0]]) - server.get("/statistics")["CountStudies"]
    if gone != studies:
        raise SystemExit(f"{name}: {gone} studies went, not {studies}")
    return seconds, sides


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=5000, help="that each way deletes in each round")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = OrthancServer(
            Path(folder),
            SCRIPT.read_text() + PYTHON_ROUTE + WHEN_TOLD,
            {
                "StableAge": 3600,
                "HttpThreadsCount": 50,
                "PurgeOldStudies": {"KeepReceivedDays": 0, "DiskLookSeconds": 1, "Rules": [BY_SPACE]},
            },
        )
        server.start()
        print(f"Orthanc {server.get('/system')['Version']}")
        try:
            compare(server, arguments.studies, arguments.rounds)
        finally:
            server.kill()
            server.close()


def compare(server: OrthancServer, studies: int, rounds: int) -> None:
    def one_call() -> None:
        found = server.post("/tools/find", {"Level": "Study", "Query": {"StudyDate": "20010101"}})
        server.post("/tools/bulk-delete", {"Resources": found})

    def by_space() -> None:
        look = server.folder / "look"
        before = server.get("/purge-old-studies/status")["Rules"][0]["Last"]
        look.touch()
        while (last := server.get("/purge-old-studies/status")["Rules"][0]["Last"]) == before or last[
            "State"
        ] == "running":
            time.sleep(0.05)
        look.unlink()

    ways: dict[str, tuple[str, Callable[[], object]]] = {
        "one call": ("20010101", one_call),
        "by space": ("20020101", by_space),
        "purge": ("20000101", lambda: server.get("/purge-old-studies", since="20000101")),
    }
    seconds = dict.fromkeys(ways, 0.0)
    sides: dict[str, dict[str, list[float]]] = {name: {side: [] for side in SIDES} for name in ways}
    for number in range(rounds):
        for name, (date, work) in list(ways.items())[:: -1 if number % 2 else 1]:
            took, found = measure(server, name, date, studies, work, number)
            seconds[name] += took
            for side in SIDES:
                sides[name][side] += found[side]
            print(f"{name:10} {studies / took:6.0f} studies/s")
    for way in ("purge", "by space"):
        goals.least(f"{way}: rate of deleting over one call", seconds["one call"] / seconds[way], 0.85)
        for side in SIDES:
            ours, theirs = (percentile(sides[name][side], 99) * 1e3 for name in (way, "one call"))
            print(f"p99 of {side}: {ours:.1f} ms with {way}, {theirs:.1f} ms with one call: ratio {ours / theirs:.2f}")
            if side == SIDES[0]:
                goals.most(f"{way}: 99th percentile of POST /instances meanwhile, over one call", ours / theirs, 1 / 3)


if __name__ == "__main__":
    main()
