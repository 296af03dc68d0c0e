# SPDX-License-Identifier: AGPL-3.0-or-later
"""The main journey, to watch: real studies arrive in one Orthanc and come out of another, by a combined script.

`make demo` runs it. All it writes lies in .demo/, all it starts ends with it.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import requests

from testing import demo_pace, demo_tour
from testing.demo_studies import Study, real_studies
from testing.server import OrthancFailedError, OrthancServer, RequestFailedError, send_by_cstore

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".demo"
SENDER = "MODALITY"  # the AE title under which the studies are sent
PATIENCE = 60.0  # seconds until what has not arrived counts as lost
NO_SCRIPTS = {"combine.py", "event_dispatcher.py"}


def scripts() -> list[Path]:
    """All scripts of the collection, the package too."""
    packages = [path.parent for path in ROOT.glob("*_events/__init__.py")]
    return sorted(path for path in ROOT.glob("*.py") if path.name not in NO_SCRIPTS) + packages


def combine() -> Path:
    """One script of all, in .demo/."""
    combined = FOLDER / "combined.py"
    command = [sys.executable, str(ROOT / "combine.py"), *map(str, scripts()), "-o", str(combined)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OrthancFailedError(f"combine.py failed: {(done.stderr or done.stdout).strip()}")
    return combined


def free_port(wanted: int, taken: set[int], what: str) -> int:
    """The port, or the next one that nobody uses."""
    for port in range(wanted, wanted + 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - as Orthanc will
            except OSError:
                continue
        if port not in taken:
            taken.add(port)
            if port != wanted:
                print(f"Port {wanted} is in use by another program, which is left alone: {what} takes {port}.")
            return port
    raise OrthancFailedError(f"no free port from {wanted} on for {what}: choose another by --http-port or --dicom-port")


def servers(http_port: int, dicom_port: int) -> tuple[OrthancServer, OrthancServer]:
    """The destination and the main Orthanc, not started yet."""
    taken: set[int] = set()
    main_http, main_dicom = free_port(http_port, taken, "HTTP"), free_port(dicom_port, taken, "DICOM")
    other_http = free_port(http_port + 1, taken, "the destination's HTTP")
    other_dicom = free_port(dicom_port + 1, taken, "the destination's DICOM")
    careful = {"DicomCheckModalityHost": True, "DicomAlwaysAllowStore": False, "RemoteAccessAllowed": False}
    destination = OrthancServer(
        FOLDER / "destination",
        None,
        {
            **careful,
            "HttpPort": other_http,
            "DicomPort": other_dicom,
            "DicomModalities": {"ORTHANC": ["ORTHANC", "127.0.0.1", main_dicom]},
        },
        aet="DESTINATION",
        environment={"TCP_NODELAY": "0"},  # as a package starts it; what testing/ starts is quick otherwise
    )
    main = OrthancServer(
        FOLDER / "orthanc",
        combine(),
        {
            **careful,
            "HttpPort": main_http,
            "DicomPort": main_dicom,
            "DicomModalities": {
                "DESTINATION": ["DESTINATION", "127.0.0.1", other_dicom],
                SENDER: [SENDER, "127.0.0.1", 104],
            },
            "AutoForwardModality": {"Destinations": ["DESTINATION"]},
            "AnonymizeSeries": {"Secret": secrets.token_hex(32), "Recipes": {"research": {}}},
        },
    )
    return destination, main


def send(studies: list[Study], main: OrthancServer, destination: OrthancServer) -> None:
    """Send each by C-STORE, and watch it arrive at the destination."""
    for study in studies:
        send_by_cstore(list(study.files.values()), port=main.dicom_port, aet=SENDER, called=main.aet)
        study.sent = time.monotonic()
        watch(studies, main, destination)
    give_up = time.monotonic() + PATIENCE
    while any(study.delivered is None for study in studies) and time.monotonic() < give_up:
        watch(studies, main, destination)
        time.sleep(0.05)
    print()


def watch(studies: list[Study], main: OrthancServer, destination: OrthancServer) -> None:
    for study in studies:
        if study.sent and study.delivered is None:
            study.here, study.there = count(main, study), count(destination, study)
            if study.there >= len(study.files) > 0:
                study.delivered = time.monotonic()
    arrived, delivered = sum(study.here for study in studies), sum(study.there for study in studies)
    total = sum(len(study.files) for study in studies)
    if sys.stdout.isatty() or delivered == total:
        print(f"\r{arrived} of {total} instances arrived at ORTHANC, {delivered} at DESTINATION", end="", flush=True)


def count(server: OrthancServer, study: Study) -> int:
    answer = server.request("GET", f"/studies/{study.identifier}/statistics")
    return int(answer.json()["CountInstances"]) if answer.ok else 0


def table(studies: list[Study]) -> Iterator[str]:
    """What came of each study, a line each, under a heading."""
    heading = ("Patient", "Study", "Modality", "Here", "There", "Seconds")
    rows = [
        (
            study.patient[:20] or "(none)",
            study.uid if len(study.uid) <= 30 else f"…{study.uid[-29:]}",
            ",".join(sorted(study.modalities)),
            str(study.here),
            str(study.there),
            f"{study.delivered - study.sent:.1f}" if study.delivered is not None else "not delivered",
        )
        for study in studies
    ]
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    for row in [heading, tuple("─" * width for width in widths), *rows]:
        cells = [f"{cell:{'<' if column < 3 else '>'}{widths[column]}}" for column, cell in enumerate(row)]
        yield "  ".join(cells).rstrip()


def pictured_study(studies: list[Study]) -> Study:
    """Return one with images of a CT that an anonymized copy may be made of."""
    return next(study for study in studies if study.modalities == {"CT"} and len(study.files) > 1)


def addresses(main: OrthancServer, destination: OrthancServer) -> str:
    return "\n".join(
        [
            "",
            "To try, in a browser or with curl:",
            f"  {main.url}/dashboard                               what flows, what is stuck, and what to do",
            f"  {main.url}/app/explorer.html                       the main Orthanc",
            f"  {destination.url}/app/explorer.html                       the destination",
            f"  {main.url}/auto-forward-modality/deliveries        what was sent where, and what came of it",
            f"  curl '{main.url}/purge-old-studies?since={demo_tour.BEFORE}'   delete the studies dated until then",
            f"  dcmsend -aet {SENDER} -aec {main.aet} 127.0.0.1 {main.dicom_port} FILE...   send your own",
            f"The combined script: {FOLDER.name}/combined.py; its log: {FOLDER.name}/orthanc/orthanc.log",
        ]
    )


def journey(options: argparse.Namespace) -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    tempfile.tempdir = str(FOLDER)
    print(f"Combining {', '.join(path.name for path in scripts())} into one script ...")
    destination, main = servers(options.http_port, options.dicom_port)
    try:
        destination.start()
        main.start()
        studies = real_studies()
        print(f"Sending {len(studies)} real studies by C-STORE to ORTHANC, which forwards each when it is stable:")
        send(studies, main, destination)
        print(
            "\nHere and There: instances at ORTHANC and at DESTINATION. Seconds: from the last arrival to delivered.\n"
        )
        print("\n".join(table(studies)))
        everything = all(study.delivered is not None and study.here == study.there for study in studies)
        print("\nEverything arrived." if everything else f"\nNot everything arrived; see {main.folder}/orthanc.log")
        if everything:
            print("\n" + "\n".join(demo_pace.lines(main, destination, max(studies, key=lambda each: len(each.files)))))
            print("\nWhat else there is:\n" + "\n".join(demo_tour.lines(main, pictured_study(studies).identifier)))
        if not options.exit:
            print(f"{addresses(main, destination)}\n\nPress Ctrl-C to stop both.", flush=True)
            while main.running and destination.running:
                time.sleep(0.5)
            print("An Orthanc has ended by itself; see the logs in .demo/", file=sys.stderr)
            return 1
        return 0 if everything else 1
    finally:
        print("Stopping both Orthancs ...", flush=True)
        stopping = [server for server in (main, destination) if server.terminate()]
        for server in stopping:
            server.finish()


def stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo DEMO_ARGS=…", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end after the table: 0 when everything arrived, else 1")
    parser.add_argument(
        "--http-port", type=int, default=8042, help="of the main Orthanc; the destination takes the next"
    )
    parser.add_argument("--dicom-port", type=int, default=4242, help="likewise")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: what a shell starts in the background ignores it
        signal.signal(number, stop)
    try:
        return journey(options)
    except KeyboardInterrupt:
        return 0 if not options.exit else 1
    except (OrthancFailedError, RequestFailedError, requests.RequestException, RuntimeError, OSError) as error:
        print(f"The demo can't go on: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
