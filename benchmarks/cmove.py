# SPDX-License-Identifier: AGPL-3.0-or-later
"""C-MOVE of studies of 500 instances with cmove_interceptor.py and without, side by side; and 20 moves past a hanging service.

What counts, each in one run:

- rate: at least 0.95 of that of Orthanc without the script, for a study of five series of 100 and for one of one series, to
  another Orthanc, to dcmtk's `storescp --fork`, which begins a process of its own for each association, and to `storescp`, which
  takes one after the other. (A bare job of Orthanc's stands beside them: it is slower than its own C-MOVE, for after each
  image it is written down anew with the names of all of its images.) That is why the bar is 0.75 for the study of one series to
  `storescp`, where no second association makes up for it; with `"Associations": 1`, as the page advises there.
- 20 moves at once, with a service that hangs: each ends at most 1 s later than without the service, and a C-ECHO
  meanwhile is answered at most 1 s later than by an Orthanc without the script.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from benchmarks import goals
from testing.dicom import make_study
from testing.pytest_plugin import StoreScp
from testing.server import DCMTK_ENVIRONMENT, OrthancServer, dcmtk_program

DESTINATIONS = {"OTHER": "another Orthanc", "SCP": "storescp --fork", "SERIAL": "storescp"}
STUDIES = {"FIVE": "five series", "ONE": "one series"}
BAR, BARS = 0.95, {("SERIAL", "ONE"): 0.75}  # of Orthanc's own rate
COUNTS = {("SERIAL", "ONE"): "with one association"}  # what the bar is for, where it is not "with the script"
SCRIPT = Path(__file__).parent.parent / "cmove_interceptor.py"


def move(server: OrthancServer, patient: str, destination: str = "SCP") -> float:
    """Seconds that dcmtk's `movescu` takes."""
    names = ["-aec", server.aet, "-aem", destination]
    command = [dcmtk_program("movescu"), "-P", *names, "-k", "QueryRetrieveLevel=PATIENT"]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "-k", f"PatientID={patient}", "127.0.0.1", str(server.dicom_port)],
        env={**os.environ, **DCMTK_ENVIRONMENT},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begin


def store(server: OrthancServer, patient: str, destination: str) -> float:
    """Seconds of a bare job that sends the same, without any C-MOVE."""
    study = server.post("/tools/find", {"Level": "Study", "Query": {"PatientID": patient}})
    begin = time.perf_counter()
    more = {"MoveOriginatorAet": "MOVESCU", "MoveOriginatorID": 1}
    server.post(f"/modalities/{destination}/store", {"Resources": study, **more})
    return time.perf_counter() - begin


def echo(server: OrthancServer) -> float:
    entity = AE("ECHO")
    entity.add_requested_context(Verification)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 120
    begin = time.perf_counter()
    association = entity.associate("127.0.0.1", server.dicom_port, ae_title=server.aet)
    status = association.send_c_echo() if association.is_established else None
    association.release()
    if status is None or status.get("Status") != 0:
        raise SystemExit("a C-ECHO failed")
    return time.perf_counter() - begin


def twenty(server: OrthancServer) -> tuple[list[float], float]:
    """Seconds of 20 moves at once, in order, and of a C-ECHO that starts after them."""
    with ThreadPoolExecutor(21) as pool:
        moves = [pool.submit(move, server, "SMALL") for _ in range(20)]
        time.sleep(0.2)
        took = pool.submit(echo, server).result()
        return sorted(each.result() for each in moves), took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--size", type=int, default=64, help="rows and columns of an image")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--to", choices=DESTINATIONS, nargs="*", default=list(DESTINATIONS), help="only to these")
    parser.add_argument("--archive", type=int, default=0, help="images besides: naming one reads all of them on 1.13.0")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, hanging_service() as url:
        folder = Path(name)
        scps = StoreScp(folder / "scp", "SCP"), StoreScp(folder / "serial", "SERIAL", fork=False)
        other = OrthancServer(folder / "other", None, {"StableAge": 3600})
        modalities: dict[str, list[str | int]] = {scp.aet: scp.as_modality() for scp in scps}
        modalities["OTHER"] = ["OTHER", "127.0.0.1", other.dicom_port]
        more = {"DicomModalities": modalities, "DicomAlwaysAllowMove": True, "StableAge": 3600}
        notify = {"CMoveInterceptor": {"Notify": [{"Url": url, "Timeout": 60}]}}
        servers = {
            "without the script": OrthancServer(folder / "a", None, more),
            "with the script": OrthancServer(folder / "b", SCRIPT, more),
            "with one association": OrthancServer(
                folder / "d", SCRIPT, {**more, "CMoveInterceptor": {"Associations": 1}}
            ),
            "with a service that hangs": OrthancServer(folder / "c", SCRIPT, {**more, **notify}),
        }
        try:
            other.start()
            for server in servers.values():
                server.start()
                images = {"rows": arguments.size, "columns": arguments.size}
                server.store(make_study(patient_id="FIVE", instances=arguments.instances // 5, series=5, **images))
                server.store(make_study(patient_id="ONE", instances=arguments.instances, **images))
                server.store(make_study(patient_id="SMALL", instances=20))
                for number in range(arguments.archive // 50):
                    server.store(make_study(patient_id=f"OTHER{number}", series=10, instances=5))
            print(f"Orthanc {server.get('/system')['Version']}")
            compare(servers, other, arguments)
            compare_twenty(servers)
        finally:
            for server in (*servers.values(), other):
                server.kill()
                server.close()
            for scp in scps:
                scp.close()


def measure(ways: dict[str, Callable[[], float]], other: OrthancServer, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; what another Orthanc has got is deleted before it gets it again."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            for patient in other.get("/patients"):
                other.delete(f"/patients/{patient}")
            seconds[name].append(ways[name]())
    return seconds


class hanging_service:  # noqa: N801 - used as a context
    """A service that accepts each connection and never answers; its URL."""

    def __enter__(self) -> str:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/?id={{PatientID}}"

    def _accept(self) -> None:
        while True:
            try:
                self._kept.append(self._listening.accept()[0])
            except OSError:
                return

    def __exit__(self, *_: object) -> None:
        for each in (self._listening, *self._kept):
            each.close()


def compare(servers: dict[str, OrthancServer], other: OrthancServer, arguments: argparse.Namespace) -> None:
    for destination in arguments.to:
        for patient, series in STUDIES.items():
            ways: dict[str, Callable[[], float]] = {
                name: partial(move, each, patient, destination) for name, each in servers.items()
            }
            ways["a bare job"] = partial(store, servers["without the script"], patient, destination)
            bar, to = BARS.get((destination, patient), BAR), DESTINATIONS[destination]
            print(f"a study of {arguments.instances} images of {series} to {to} (the bar is {bar}):")
            seconds = measure(ways, other, arguments.rounds)
            own = seconds["without the script"]
            for name, each in seconds.items():
                ratio = statistics.median(theirs / ours for theirs, ours in zip(own, each, strict=True))
                print(f"  {name:26} {arguments.instances / statistics.median(each):5.0f} instances/s  {ratio:.2f}")
                if name == COUNTS.get((destination, patient), "with the script"):
                    goals.least(f"C-MOVE of {series} to {to}, {name}: rate over Orthanc's own", ratio, bar)


def compare_twenty(servers: dict[str, OrthancServer]) -> None:
    results = {name: twenty(server) for name, server in servers.items()}
    for name, (moves, took) in results.items():
        print(f"20 moves at once, {name}: first {moves[0]:.2f} s, last {moves[-1]:.2f} s; C-ECHO {took:.2f} s")
    hangs, fine, alone = (
        results[name] for name in ("with a service that hangs", "with the script", "without the script")
    )
    later = max(ours - theirs for ours, theirs in zip(hangs[0], fine[0], strict=True))
    goals.most("20 moves past a service that hangs: the latest is later by", later, 1, "s")
    goals.most("20 moves past a service that hangs: a C-ECHO takes longer by", hangs[1] - alone[1], 1, "s")


if __name__ == "__main__":
    main()
