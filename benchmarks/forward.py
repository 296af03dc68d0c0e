# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench-forward: how fast a backlog goes out, beside what the wire carries, and how soon a study is whole.

Everything in one run, in turn, on the same two Orthancs; ratios are medians over the rounds. Peers are sent to with Verify too.
Then a receiver as people have them, without TCP_NODELAY: as it is, and with a route to it that has `quickack 1` (as root).
Then what people use instead (benchmarks/contestants.py).
Arguments: --rounds, --studies, --instances, --large (few studies of 500 instances of 512x512), --script (that one), --no-lag,
--no-contestants, --only-untouched.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import goals
from testing.dicom import make_study
from testing.server import OrthancServer, send_by_cstore

ROOT = Path(__file__).parent.parent
KINDS = {
    "auto_forward_modality": ("modalities", "DicomModalities", "AutoForwardModality", "as_modality"),
    "auto_forward_peer": ("peers", "OrthancPeers", "AutoForwardPeer", "as_peer"),
}
PLAIN = """
import json, orthanc

def on_change(change, level, resource):
    if change == orthanc.ChangeType.STABLE_STUDY:
        orthanc.RestApiPost("/{route}/DEST/store", json.dumps({{"Resources": [resource]}}))

orthanc.RegisterOnChangeCallback(on_change)
"""


def wait_for(server: OrthancServer, number: int) -> None:
    while server.get("/statistics")["CountInstances"] < number:
        time.sleep(0.01)


def clear(server: OrthancServer) -> None:
    while patients := server.get("/patients"):
        server.post("/tools/bulk-delete", {"Resources": patients})


def timed(work: Callable[[], Any], destination: OrthancServer, number: int) -> float:
    """Instances a second from the first request until the destination has all."""
    clear(destination)
    begin = time.perf_counter()
    work()
    wait_for(destination, number)
    return number / (time.perf_counter() - begin)


def backlog(script: str, studies: list[list[bytes]], rounds: int) -> None:
    """A backlog by this script, by raw jobs, and by dcmsend straight from files."""
    route, nodes, section, entry = KINDS[script]
    number = sum(len(study) for study in studies)
    dashes = script.replace("_", "-")
    verifies = route == "peers"
    with tempfile.TemporaryDirectory() as folder:
        destination = OrthancServer(Path(folder) / "destination", aet="DEST").start()
        source = OrthancServer(
            Path(folder) / "source",
            ROOT / f"{script}.py",
            {
                nodes: {name: getattr(destination, entry)() for name in ("DEST", *["VERIFIED"] * verifies)},
                section: {
                    "Destinations": ["DEST"],
                    "DestinationOptions": {"VERIFIED": {"Verify": True}} if verifies else {},
                },
                "JobsHistorySize": 1000,
            },
        ).start()
        try:
            source.post(f"/{dashes}/destinations/DEST/pause")
            if verifies:
                source.post(f"/{dashes}/destinations/VERIFIED/pause")
            for study in studies:
                source.store(study)
            source.wait_until_stable(600)
            identifiers = source.get("/studies")
            for row in source.get(f"/{dashes}/deliveries", limit=1000)["Items"]:
                source.delete(f"/{dashes}/deliveries/{row['ID']}")

            def raw() -> None:
                for study in identifiers:
                    source.post(f"/{route}/DEST/store", {"Resources": [study], "Synchronous": False})

            def ours() -> None:
                source.post(f"/{dashes}/destinations/DEST/resume")

            def verified() -> None:
                source.post(f"/{dashes}/destinations/VERIFIED/resume")

            def two_associations() -> None:
                halves = [[image for study in studies[half::2] for image in study] for half in (0, 1)]
                threads = [
                    threading.Thread(target=send_by_cstore, args=(half,), kwargs={"port": destination.dicom_port})
                    for half in halves
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            ways = {"raw jobs": raw, script: ours, "dcmsend, two associations": two_associations}
            if verifies:
                ways[f"{script}, Verify"] = verified
            through = {ours: "DEST", verified: "VERIFIED"}
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, work in ways.items():
                    if chosen := through.get(work):
                        body = {"From": "20240101", "To": "20240101", "Destination": chosen}
                        source.post(f"/{dashes}/backfill", body)
                    rates[name].append(timed(work, destination, number))
                    source.wait_until(
                        lambda: (
                            not {"waiting", "sending"}
                            & {row["State"] for row in source.get(f"/{dashes}/deliveries", limit=1000)["Items"]}
                        ),
                        timeout=600,
                    )
                    if chosen:
                        source.post(f"/{dashes}/destinations/{chosen}/pause")
            for name, found in rates.items():
                print(f"  {name:28s} {statistics.median(found):7.0f} instances/s", flush=True)
            for name, beside in ((script, "raw jobs"), (f"{script}, Verify", script)):
                if name in rates:
                    ratios = [one / other for one, other in zip(rates[name], rates[beside], strict=True)]
                    each = ", ".join(f"{one:.2f}" for one in ratios)
                    print(f"  {name} / {beside}: median {statistics.median(ratios):.2f} (of {each})")
            against_raw = zip(rates[script], rates["raw jobs"], strict=True)
            ratio = statistics.median(one / other for one, other in against_raw)
            goals.least(f"{script}: rate of a backlog over that of raw jobs", ratio, 0.95)
            status = Path(f"/proc/{source.process.pid}/status").read_text() if source.process else ""
            print(f"  memory of the sending Orthanc: {status.partition('VmRSS:')[2].split()[0]} kB", flush=True)
        finally:
            source.close()
            destination.close()


ROUTED = "127.0.0.9"  # an address of this machine that nobody else uses
ROUTE = ("local", ROUTED, "dev", "lo", "table", "local")


@contextlib.contextmanager
def quick_acknowledgements() -> Iterator[bool]:
    """Give this machine a route to `ROUTED` on which it acknowledges at once; says whether it may."""
    added = subprocess.run(["ip", "route", "add", *ROUTE, "quickack", "1"], capture_output=True, check=False)
    try:
        yield added.returncode == 0
    finally:
        if added.returncode == 0:
            subprocess.run(["ip", "route", "del", *ROUTE], check=True)


def untouched(studies: list[list[bytes]], rounds: int) -> None:
    """A backlog to a receiver without TCP_NODELAY, without and with a route that has quickack."""
    number = sum(len(study) for study in studies)
    with tempfile.TemporaryDirectory() as folder, quick_acknowledgements() as is_routed:
        late = {"TCP_NODELAY": "0"}
        destination = OrthancServer(Path(folder) / "destination", aet="DEST", environment=late).start()
        nodes = {"DEST": destination.as_modality(), "ROUTED": ["DEST", ROUTED, destination.dicom_port]}
        section = {"Destinations": ["DEST"], "Rules": []}
        configuration = {"DicomModalities": nodes, "AutoForwardModality": section, "JobsHistorySize": 1000}
        source = OrthancServer(Path(folder) / "source", ROOT / "auto_forward_modality.py", configuration).start()
        try:
            for study in studies:
                source.store(study)
            ways = {"DEST": "as it is", **({"ROUTED": "with quickack on the route to it"} if is_routed else {})}
            rates: dict[str, list[float]] = {name: [] for name in ways}
            bodies = {name: {"From": "20240101", "To": "20240101", "Destination": name} for name in ways}
            for _ in range(rounds):
                for name, found in rates.items():
                    send = functools.partial(source.post, "/auto-forward-modality/backfill", bodies[name])
                    found.append(timed(send, destination, number))
            for name, text in ways.items():
                print(f"  untouched receiver, {text:32s} {statistics.median(rates[name]):5.0f} instances/s", flush=True)
            if not is_routed:
                print("  no right to change routes: the receiver with quickack is left out")
            print(f"  the script says: {source.get('/auto-forward-modality/destinations')['DEST']['Slow']}")
        finally:
            source.close()
            destination.close()


def lag(script: str, trigger: str, studies: list[list[bytes]], pause: float) -> None:
    """Studies arrive one image after the other; how long after its last image is the last study whole there?"""
    route, nodes, section, entry = KINDS[script]
    number = sum(len(study) for study in studies)
    with tempfile.TemporaryDirectory() as folder:
        destination = OrthancServer(Path(folder) / "destination", aet="DEST").start()
        text = PLAIN.format(route=route) if trigger == "plain" else ROOT / f"{script}.py"
        configuration = {nodes: {"DEST": getattr(destination, entry)()}, "StableAge": 2}
        if trigger != "plain":
            configuration[section] = {"Trigger": trigger}
        source = OrthancServer(Path(folder) / "source", text, configuration).start()
        try:
            begin = time.perf_counter()
            for study in studies:
                for image in study:
                    source.store(image)
                    time.sleep(pause)
            last = time.perf_counter()
            wait_for(destination, number)
            whole = time.perf_counter() - last
            rate = number / (last - begin)
            print(
                f"  {script}, {trigger:7s} arriving at {rate:4.0f}/s: whole {whole:5.2f} s after the last image",
                flush=True,
            )
        finally:
            source.close()
            destination.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--script", choices=KINDS, help="only this one")
    parser.add_argument("--no-lag", action="store_true", help="only the backlog")
    parser.add_argument("--no-contestants", action="store_true", help="without what people use instead")
    parser.add_argument("--only-untouched", action="store_true", help="only the receiver without TCP_NODELAY")
    parser.add_argument("--large", action="store_true", help="2 studies of 500 instances of 512x512 instead")
    options = parser.parse_args()
    size, studies, instances = (512, 2, 500) if options.large else (64, options.studies, options.instances)
    made = [
        make_study(patient_id=f"P{number}", instances=instances, rows=size, columns=size) for number in range(studies)
    ]
    scripts = [options.script] if options.script else [*KINDS]
    if options.only_untouched:
        untouched(made[:20], min(options.rounds, 3))
        return
    for script in scripts:
        print(f"{script}: a backlog of {studies} studies of {instances} instances of {size}x{size}", flush=True)
        backlog(script, made, options.rounds)
    if "auto_forward_modality" in scripts:
        untouched(made[:20], min(options.rounds, 3))
    for script in [] if options.no_lag else scripts:
        for trigger in ("plain", "Stable", "Stored"):
            lag(script, trigger, made[:20], 0.003)
    if not options.no_contestants:
        from benchmarks import contestants  # which needs this module

        contestants.tools()
        for script in scripts:
            contestants.compare(script, made, min(options.rounds, 3))


if __name__ == "__main__":
    main()
