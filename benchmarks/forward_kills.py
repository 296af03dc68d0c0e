# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench-forward-kills: twenty kills of the sender and of the destination in turn, while a hundred studies come in.

Prints how many instances arrived, how often one was sent again, and what is left in the ledger. tests/test_forwarding.py
runs a shorter form. Arguments: --rounds, --studies (a round), --script (modality or peer).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from testing.dicom import make_study
from testing.server import OrthancFailedError, OrthancServer
from tests.constants import QUICK, script_with

ROOT = Path(__file__).parent.parent
INSTANCES = 5  # of a study
COUNTS = {"OverwriteInstances": True, "StableAge": 60}  # of the destination: what comes again is stored again
# What the destination runs: it writes down each instance that it stores, the same again too.
COUNTER = """\
import pathlib, orthanc
log = open(pathlib.Path(orthanc.GetConfigurationPath()).parent / "stored.txt", "a", buffering=1)
def stored(dicom, instance):
    log.write(instance + chr(10))
orthanc.RegisterOnStoredInstanceCallback(stored)
"""


class Outcome(NamedTuple):
    """What came of it: instances that the sender has, that the destination lacks, sent again, rows by state."""

    stored: int
    missing: int
    again: int
    states: dict[str, int]


def kill_in_turn(source: OrthancServer, destination: OrthancServer, rounds: int, studies: int, seed: int) -> Outcome:
    """Kill one after the other at random moments while studies come in; wait until all is delivered, two minutes at most."""
    chance = random.Random(seed)

    def send(patients: range) -> None:
        for image in [image for one in patients for image in make_study(patient_id=f"P{one}", instances=INSTANCES)]:
            while True:
                with contextlib.suppress(Exception):  # whoever sends to a PACS tries again too
                    source.store(image)
                    break
                time.sleep(0.1)

    for turn in range(rounds):
        sender = threading.Thread(target=send, args=(range(turn * studies, (turn + 1) * studies),))
        sender.start()
        time.sleep(chance.uniform(0.1, 1.5))
        victim = (source, destination)[turn % 2]
        victim.kill()
        victim.start()
        sender.join()
    with contextlib.suppress(OrthancFailedError):
        source.wait_until(lambda: is_settled(source, destination), timeout=120)
    return outcome(source, destination)


def is_settled(source: OrthancServer, destination: OrthancServer) -> bool:
    found = outcome(source, destination)
    return not found.missing and not found.states.keys() - {"done", "gone"}


def outcome(source: OrthancServer, destination: OrthancServer) -> Outcome:
    here, there = set(source.get("/instances")), set(destination.get("/instances"))
    arrivals = (destination.folder / "stored.txt").read_text().count("\n")
    totals = source.get(f"/{name_of(source)}/status")["Totals"]
    return Outcome(len(here), len(here - there), arrivals - len(there), {key: n for key, n in totals.items() if n})


def name_of(source: OrthancServer) -> str:
    return Path(source.configuration["PythonScript"]).stem.replace("_", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for script in ("auto_forward_modality", "auto_forward_peer"):
        with tempfile.TemporaryDirectory() as folder:
            counter = Path(folder) / "counter.py"
            counter.write_text(COUNTER)
            destination = OrthancServer(Path(folder) / "there", counter, COUNTS, aet="THERE").start()
            nodes = {"DicomModalities": {"THERE": destination.as_modality()}, "AutoForwardModality": {}}
            peers = {"OrthancPeers": {"THERE": destination.as_peer()}, "AutoForwardPeer": {}}
            quick = script_with(ROOT / f"{script}.py", QUICK)
            source = OrthancServer(Path(folder) / "here", quick, {**nodes, **peers}).start()
            begin = time.monotonic()
            found = kill_in_turn(source, destination, options.rounds, options.studies, options.seed)
            print(
                f"{script}: {options.rounds} kills in {time.monotonic() - begin:.0f} s: {found.stored} instances stored, "
                f"{found.missing} missing at the destination, {found.again} sent again; rows {found.states}",
                flush=True,
            )
            for server in (source, destination):
                server.kill()
                server.close()


if __name__ == "__main__":
    main()
