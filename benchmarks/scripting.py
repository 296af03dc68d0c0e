# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a writer of scripts waits for: coroutines on a slow service, and `make dev` after a change.

- 50 coroutines that each wait 200 ms on a slow service: under 0.5 s together, beside the same as plain functions, one after
  the other and 8 at a time; meanwhile a plain function goes on, and counts;
- `make dev`: under 1 s from the change of the script to the first answer of what is new.

    make bench-scripting          BENCH_ARGS="--rounds 5"
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

from benchmarks import goals
from testing.dicom import make_study
from testing.server import OrthancServer, site_packages, start_process
from testing.waiting import wait_until

ROOT = Path(__file__).parent.parent
SLOW = 0.2  # seconds that the service takes
SCRIPT = """
import json, logging, time
import orthanc
from event_dispatcher import *

CONFIGURATION = json.loads(orthanc.GetConfiguration())
SERVICE, CHANGE = CONFIGURATION["Service"], orthanc.ChangeType
arrived, done, ticks = [], [], []

def note(event):
    done.append(time.monotonic())
    if len(done) == 50:
        logging.warning("RESULT %s", json.dumps([done[-1] - arrived[0], sum(each <= done[-1] for each in ticks)]))
        done.clear(), arrived.clear(), ticks.clear()

def begin(event):
    arrived.append(time.monotonic())

async def coroutine(event, session):
    begin(event)
    await session.get(SERVICE)
    note(event)

def function(event, session):
    begin(event)
    session.get(SERVICE)
    note(event)

def tick(event, session):
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        ticks.append(time.monotonic())
        time.sleep(0.005)

HANDLERS = [*[coroutine] * 50, tick] if CONFIGURATION["Coroutines"] else [function] * 50
EXECUTOR = Executor(threads=CONFIGURATION["Threads"])
register_event_handlers({CHANGE.NEW_PATIENT: HANDLERS}, orthanc, create_session(orthanc), executor=EXECUTOR)
"""
ROUTE = """
import orthanc

def answer(output, uri, **request):
    output.AnswerBuffer("VERSION", "text/plain")

orthanc.RegisterRestCallback("/version", answer)
"""


class Slow(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(SLOW)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class Server(ThreadingHTTPServer):
    request_queue_size = 128


@contextmanager
def slow_service() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def waiting_on_a_service(folder: Path, rounds: int) -> None:
    cases = {"50 coroutines": (True, 1), "50 functions, 8 at a time": (False, 8), "50 functions in order": (False, 1)}
    for number, (name, (coroutines, threads)) in enumerate(cases.items()):
        with slow_service() as url:
            configuration = {"Service": url, "Coroutines": coroutines, "Threads": threads}
            environment = {"PYTHONPATH": os.pathsep.join(filter(None, (site_packages(), str(ROOT))))}
            server = OrthancServer(folder / str(number), SCRIPT, configuration, environment=environment).start()
            try:
                for study in range(rounds if coroutines else 1):
                    server.store(make_study(patient_id=f"{number}-{study}"))
                    server.wait_until(functools.partial(has_results, server, study + 1))
                results = [json.loads(found) for found in re.findall(r"RESULT (\[.+\])", server.log)]
            finally:
                server.close()
        seconds = [each[0] for each in results]
        ticks = f", meanwhile a plain function went on {min(each[1] for each in results)} times" if coroutines else ""
        print(f"{name}: {statistics.median(seconds):.3f} s{ticks}", flush=True)
        if coroutines:
            goals.most(f"{name} that wait 0.2 s each, the slowest", max(seconds), 0.5, "s")


def has_results(server: OrthancServer, number: int) -> bool:
    return server.log.count("RESULT") == number


def restarting(folder: Path, rounds: int) -> None:
    script, log = folder / "mine.py", folder / "printed"
    script.write_text(ROUTE.replace("VERSION", "0"))
    command = [sys.executable, "-m", "testing.dev", str(script), "--http-port", "0", "--dicom-port", "0"]
    process = start_process(command, log=log, environment={"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)})
    try:
        wait_until(lambda: "Started in" in log.read_text())
        url = re.findall(r"http://127\.0\.0\.1:\d+", log.read_text())[0]
        seconds = []
        for version in map(str, range(1, rounds + 1)):
            began = time.monotonic()
            script.write_text(ROUTE.replace("VERSION", version))
            wait_until(answers(f"{url}/version", version), what=f"version {version}")
            seconds.append(time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(30)
    goals.most("make dev, from the change to the answer, the slowest", max(seconds), 1, "s")


def answers(url: str, expected: str) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return requests.get(url, timeout=5).text == expected
        except requests.ConnectionError:
            return False

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        waiting_on_a_service(Path(folder), given.rounds)
        restarting(Path(folder), given.rounds)


if __name__ == "__main__":
    main()
