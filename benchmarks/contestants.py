# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench-contestants: the forwarders beside what people use instead, in one run, in turn, with the same images.

- OrthancForwarder of the package orthanc-tools, as its README starts it (`--trigger=StableStudy`; to peers `--mode=peering`), in
  a virtual environment of its own in build/. It takes studies before they are stable, and deletes what it has sent.
- A plain `RestApiPost` of each stable study in OnChange.

A backlog: instances a second, from the first to arrive at the destination to the last, of what was there when sending began.
Arriving: images come in one after the other; seconds from the last one until the destination has all. All Orthancs run with
TCP_NODELAY, which the contestants don't set themselves. Arguments: --rounds, --studies, --instances, --script (that one).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import goals
from benchmarks.forward import KINDS, wait_for
from testing.dicom import make_study
from testing.server import OrthancServer, start_process

ROOT = Path(__file__).parent.parent
TOOLS = "orthanc-tools==0.23.0"
MODES = {"modalities": "dicom", "peers": "peering"}
STABLE_AGE = 2  # seconds
PAUSE = 0.003  # seconds between two images that arrive
# The gate holds the first event, and with it Orthanc's queue of events, until the backlog is complete.
PLAIN = """
import json, os, time, orthanc

def on_change(change, level, resource):
    if change == orthanc.ChangeType.STABLE_STUDY:
        while not os.path.exists({gate!r}):
            time.sleep(0.01)
        orthanc.RestApiPost("/{route}/DEST/store", json.dumps({{"Resources": [resource]}}))

orthanc.RegisterOnChangeCallback(on_change)
"""
Release: TypeAlias = Callable[[], Any]  # lets a contestant begin
# Starts a contestant between a folder and a destination; gives the Orthanc that receives.
Contestant: TypeAlias = Callable[
    [Path, OrthancServer], contextlib.AbstractContextManager[tuple[OrthancServer, Release]]
]


def tools() -> Path:
    """Return the Python that has orthanc-tools; install it first if it is not there."""
    folder = ROOT / "build" / TOOLS
    if not (folder / "done").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", TOOLS], check=True)
        (folder / "done").touch()
    return folder / "bin/python"


def ours(script: str, **settings: Any) -> Contestant:
    """Return one of our forwarders as a contestant."""
    _, nodes, section, entry = KINDS[script]
    path = f"/{script.replace('_', '-')}/destinations/DEST"

    @contextlib.contextmanager
    def start(folder: Path, destination: OrthancServer) -> Iterator[tuple[OrthancServer, Release]]:
        known = {nodes: {"DEST": getattr(destination, entry)()}, section: settings, "StableAge": STABLE_AGE}
        with running(OrthancServer(folder, ROOT / f"{script}.py", known)) as source:
            source.post(f"{path}/pause")
            yield source, lambda: source.post(f"{path}/resume")

    return start


def plain(script: str) -> Contestant:
    """Return a script of a few lines as a contestant."""
    route, nodes, _, entry = KINDS[script]

    @contextlib.contextmanager
    def start(folder: Path, destination: OrthancServer) -> Iterator[tuple[OrthancServer, Release]]:
        gate = folder / "gate"
        known = {nodes: {"DEST": getattr(destination, entry)()}, "StableAge": STABLE_AGE}
        with running(OrthancServer(folder, PLAIN.format(gate=str(gate), route=route), known)) as source:
            yield source, gate.touch

    return start


def orthanc_forwarder(script: str) -> Contestant:
    """Return OrthancForwarder as a contestant."""
    route, nodes, _, entry = KINDS[script]

    @contextlib.contextmanager
    def start(folder: Path, destination: OrthancServer) -> Iterator[tuple[OrthancServer, Release]]:
        known = {nodes: {"DEST": getattr(destination, entry)()}, "StableAge": STABLE_AGE}
        with running(OrthancServer(folder, None, known)) as source, contextlib.ExitStack() as stack:
            command = [str(tools()), "-m", "orthanc_tools.orthanc_forwarder", f"--source_url={source.url}"]
            command += ["--destination=DEST", "--trigger=StableStudy", f"--mode={MODES[route]}"]

            def release() -> None:
                stack.callback(start_process(command, log=folder / "forwarder.log").kill)

            yield source, release

    return start


@contextlib.contextmanager
def running(server: OrthancServer) -> Iterator[OrthancServer]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


def backlog(contestant: Contestant, studies: list[list[bytes]]) -> float:
    """Return instances a second."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(OrthancServer(Path(folder) / "to", aet="DEST")) as destination,
        contestant(Path(folder) / "from", destination) as (source, release),
    ):
        for study in studies:
            source.store(study)
        source.wait_until_stable(600)
        release()
        wait_for(destination, 1)
        begin, first = time.perf_counter(), destination.get("/statistics")["CountInstances"]
        wait_for(destination, number := sum(map(len, studies)))
        return float((number - first) / (time.perf_counter() - begin))


def arriving(contestant: Contestant, studies: list[list[bytes]]) -> float:
    """Return seconds from the last image to arrive until all are there."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(OrthancServer(Path(folder) / "to", aet="DEST")) as destination,
        contestant(Path(folder) / "from", destination) as (source, release),
    ):
        release()
        source.store(make_study(patient_id="FIRST"))
        wait_for(destination, 1)
        for image in [image for study in studies for image in study]:
            source.store(image)
            time.sleep(PAUSE)
        last = time.perf_counter()
        wait_for(destination, 1 + sum(map(len, studies)))
        return time.perf_counter() - last


def compare(script: str, studies: list[list[bytes]], rounds: int) -> None:
    """Print how one of our forwarders does beside the contestants."""
    others = {f"OrthancForwarder ({TOOLS})": orthanc_forwarder(script), "RestApiPost in OnChange": plain(script)}
    size = f"{len(studies)} studies of {len(studies[0])} instances"
    print(f"{script}: a backlog of {size}", flush=True)
    rates = measure({script: ours(script), **others}, lambda each: backlog(each, studies), rounds, "instances/s")
    print_ratios(script, rates, lambda we, other: we / other, "times the rate of")
    few = studies[:20]
    print(f"{script}: {len(few)} studies arrive, one image after the other; whole after the last image", flush=True)
    chosen = {script: ours(script), f"{script}, Stored": ours(script, Trigger="Stored"), **others}
    times = measure(chosen, lambda each: arriving(each, few), rounds, "s")
    for name in (script, f"{script}, Stored"):
        print_ratios(name, times, lambda we, other: other / we, "times as soon as")


def measure(
    contestants: dict[str, Contestant], work: Callable[[Contestant], float], rounds: int, unit: str
) -> dict[str, list[float]]:
    """Return what each contestant reached, in each round; print the medians."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            found[name].append(work(contestant))
    for name, each in found.items():
        print(f"  {name:42s} {statistics.median(each):8.2f} {unit}", flush=True)
    return found


def print_ratios(we: str, found: dict[str, list[float]], ratio: Callable[[float, float], float], words: str) -> None:
    for other in [name for name in found if name not in KINDS and name.partition(",")[0] not in KINDS]:
        ratios = [ratio(*pair) for pair in zip(found[we], found[other], strict=True)]
        each = ", ".join(f"{one:.2f}" for one in ratios)
        print(f"  {we}: of {each}", flush=True)
        goals.least(f"{we}: {words} {other}", statistics.median(ratios), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--script", choices=KINDS, help="only this one")
    options = parser.parse_args()
    studies = [
        make_study(patient_id=f"P{number}", instances=options.instances, rows=64, columns=64)
        for number in range(options.studies)
    ]
    tools()
    for script in [options.script] if options.script else [*KINDS]:
        compare(script, studies, options.rounds)


if __name__ == "__main__":
    main()
