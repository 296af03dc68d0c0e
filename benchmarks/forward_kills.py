# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench-forward-kills: twenty kills of the sender and of the destination in turn, while a hundred studies come in.

Prints how many instances arrived, how often one was sent again, and what is left in the ledger. Each forwarder runs alone, and
then with `Alternates` (a second destination, which is killed too) and `ProtectUndelivered`: no patient may be left protected and
no job paused. tests/forwarding/test_forwarding.py runs a shorter form.
Arguments: --rounds, --studies (a round), --seed, --script (that one).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import goals
from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
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


# By script: its section, and how Orthanc's configuration names destinations for it.
KINDS: dict[str, tuple[str, Callable[[dict[str, OrthancServer]], dict[str, Any]]]] = {
    "auto_forward_modality": (
        "AutoForwardModality",
        lambda those: {"DicomModalities": {name: one.as_modality() for name, one in those.items()}},
    ),
    "auto_forward_peer": (
        "AutoForwardPeer",
        lambda those: {"OrthancPeers": {name: one.as_peer() for name, one in those.items()}},
    ),
    "auto_forward_dicomweb": (
        "AutoForwardDicomweb",
        lambda those: {"DicomWeb": {"Servers": {name: [f"{one.url}/dicom-web/"] for name, one in those.items()}}},
    ),
}
WITH_ALL = {"Alternates": {"THERE": ["OTHER"]}, "AlternatesAfterMinutes": 0.01, "ProtectUndelivered": True}
# So that an alternate is taken between two kills.
SOON = {**QUICK, "ALTERNATES_LOOK_SECONDS": 0.2, "ANSWER_COUNTS_SECONDS": 1.0}


class Outcome(NamedTuple):
    """What came of it: instances that the sender has, that no destination has, sent again, rows by state, and what is left."""

    stored: int
    missing: int
    again: int
    states: dict[str, int]
    protected: int
    paused: int


def kill_in_turn(
    source: OrthancServer, destinations: Sequence[OrthancServer], rounds: int, studies: int, seed: int
) -> Outcome:
    """Kill one after the other at random moments while studies come in; wait until all is delivered, two minutes at most."""
    chance = random.Random(seed)

    def send(patients: range) -> None:
        for image in [image for one in patients for image in make_study(patient_id=f"P{one}", instances=INSTANCES)]:
            while True:
                with contextlib.suppress(Exception):  # whoever sends to a PACS tries again too
                    source.store(image)
                    break
                time.sleep(0.1)

    servers = (source, *destinations)
    for turn in range(rounds):
        sender = threading.Thread(target=send, args=(range(turn * studies, (turn + 1) * studies),))
        sender.start()
        time.sleep(chance.uniform(0.1, 1.5))
        victim = servers[turn % len(servers)]
        victim.kill()
        if victim is not source and len(destinations) > 1:
            time.sleep(chance.uniform(0.0, 3.0))  # away for long enough, now and then
        victim.start()
        sender.join()
    with contextlib.suppress(OrthancFailedError):
        source.wait_until(lambda: is_settled(source, destinations), timeout=120)
    return outcome(source, destinations)


def is_settled(source: OrthancServer, destinations: Sequence[OrthancServer]) -> bool:
    found = outcome(source, destinations)
    return not (found.missing or found.protected or found.paused) and not found.states.keys() - {"done", "gone"}


def outcome(source: OrthancServer, destinations: Sequence[OrthancServer]) -> Outcome:
    here = set(source.get("/instances"))
    there = [set(one.get("/instances")) for one in destinations]
    arrivals = sum((one.folder / "stored.txt").read_text().count("\n") for one in destinations)
    totals = source.get(f"/{name_of(source)}/status")["Totals"]
    return Outcome(
        len(here),
        len(here.difference(*there)),
        arrivals - sum(map(len, there)),
        {key: n for key, n in totals.items() if n},
        sum(source.get(f"/patients/{each}/protected") == 1 for each in source.get("/patients")),
        sum(job["State"] == "Paused" for job in source.get("/jobs?expand")),
    )


def name_of(source: OrthancServer) -> str:
    return Path(source.configuration["PythonScript"]).stem.replace("_", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--script", choices=KINDS, help="only this one")
    options = parser.parse_args()
    for script in [options.script] if options.script else [*KINDS]:
        for with_all in (False, True):
            run(script, with_all, options)


def run(script: str, with_all: bool, options: argparse.Namespace) -> None:
    """Print what came of one script, alone or with all that guards what waits."""
    section, known = KINDS[script]
    plugins = {"Plugins": [str(python_plugin()), str(dicomweb_plugin())]} if "dicomweb" in script else {}
    with tempfile.TemporaryDirectory() as folder:
        counter = Path(folder) / "counter.py"
        counter.write_text(COUNTER)
        names = ("THERE", "OTHER") if with_all else ("THERE",)
        those = {
            name: OrthancServer(Path(folder) / name, counter, {**COUNTS, **plugins}, aet=name).start() for name in names
        }
        settings: dict[str, Any] = {section: {"Destinations": ["THERE"], **(WITH_ALL if with_all else {})}}
        configuration = {**known(those), **plugins, **settings}
        source = OrthancServer(Path(folder) / "here", script_with(ROOT / f"{script}.py", SOON), configuration).start()
        begin = time.monotonic()
        found = kill_in_turn(source, [*those.values()], options.rounds, options.studies, options.seed)
        elsewhere = f", {len(those['OTHER'].get('/instances'))} of them by the alternate" if with_all else ""
        print(
            f"{script}{', with all' if with_all else ''}: {options.rounds} kills in {time.monotonic() - begin:.0f} s: "
            f"{found.stored} instances stored{elsewhere}, {found.missing} missing, {found.again} sent again; "
            f"rows {found.states}; {found.protected} patients left protected, {found.paused} jobs paused",
            flush=True,
        )
        name = f"{script}{', with all' if with_all else ''}, {options.rounds} kills"
        goals.most(f"{name}: instances missing", found.missing, 0)
        goals.most(f"{name}: patients left protected, jobs left paused", found.protected + found.paused, 0)
        for server in (source, *those.values()):
            server.kill()
            server.close()


if __name__ == "__main__":
    main()
