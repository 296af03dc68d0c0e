# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events: what draining and storing cost, side by side with other ways. `make bench-events` (BENCH_ARGS="drain ingest")."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]

from benchmarks import goals
from benchmarks.load import processor_seconds
from testing.dicom import make_study, orthanc_identifier
from testing.server import DCMTK_ENVIRONMENT, OrthancServer
from testing.standin import StandIn
from tests.brokers import RabbitServer, wait_until

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "dicom_events" / "__init__.py"
SERIES = 500
QUIET = {"StableAge": 3600}
ALL_EVENTS = {
    f"{what}{level}": True for what in ("New", "Stable", "Deleted") for level in ("Patient", "Study", "Series")
} | {
    "DeletedInstance": True,
    "StoredInstance": True,
}
NOTHING = """
import orthanc
def on_change(change, level, resource): pass
def on_stored_instance(dicom, instance): pass
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterOnStoredInstanceCallback(on_stored_instance)
"""
# The least that a script can do that has each image on disk before the callback returns: it asks for the identifiers, which
# no cheaper call gives of a large image, and commits one row. It publishes nothing.
LEAST = """
import orthanc, sqlite3
db = sqlite3.connect({path!r}, isolation_level=None, check_same_thread=False)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=NORMAL")
db.execute("CREATE TABLE IF NOT EXISTS image(row INTEGER PRIMARY KEY, id TEXT, tags TEXT)")
def on_change(change, level, resource): pass
def on_stored_instance(dicom, instance):
    tags = dicom.GetInstanceAdvancedJson(orthanc.DicomToJsonFormat.SHORT, orthanc.DicomToJsonFlags.NONE, 1024)
    db.execute("INSERT INTO image(id, tags) VALUES(?,?)", (instance, tags[:1000]))
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterOnStoredInstanceCallback(on_stored_instance)
"""


@contextmanager
def rabbit_server(folder: Path) -> Iterator[RabbitServer]:
    server = RabbitServer(folder / "rabbit")
    try:
        yield server.start()
    finally:
        server.close()


@contextmanager
def orthanc_server(folder: Path, script: Path | str, configuration: dict[str, Any]) -> Iterator[OrthancServer]:
    server = OrthancServer(folder, script, {**QUIET, **configuration})
    try:
        yield server
    finally:
        server.kill()
        server.close()


# -- draining -------------------------------------------------------------------------------------------------------


def fill(path: Path, number: int, series: int = SERIES) -> None:
    """Write an outbox as dicom_events would, with events of real size; in a process of its own, for `orthanc` is a stand-in."""
    process = multiprocessing.get_context("spawn").Process(target=_fill, args=(path, number, series))
    process.start()
    process.join()
    assert process.exitcode == 0


def _fill(path: Path, number: int, series: int) -> None:
    with StandIn().installed():
        outbox_module = importlib.import_module("dicom_events.outbox")
        events = importlib.import_module("dicom_events.events")
    outbox = outbox_module.Outbox(path, durability="normal", most=10**12, oldest=0, refuse=False)
    for start in range(0, number, 10_000):
        with outbox.transaction():
            for each in range(start, min(number, start + 10_000)):
                uids = ("PATIENT", f"2.25.1{each % series:038}", f"2.25.2{each % series:038}", f"2.25.3{each:038}")
                ids = tuple(orthanc_identifier(*uids[:n]) for n in (1, 2, 3, 4))
                origin = {"kind": "DICOM_PROTOCOL", "aet": "CT1", "ip": "192.168.1.10"}
                data = events.about("Instance", ids, uids, origin=origin, counts={"instances": each // series + 1})
                outbox.add(
                    f"{ids[3]}.20260101T000000",
                    "dicom.instance.stored",
                    ids[2],
                    f"instances/{ids[3]}",
                    json.dumps(data),
                )
    outbox.retention.tidy()
    outbox.close()


class Queue:
    """A durable queue that gets all of an exchange, and how fast it fills."""

    def __init__(self, rabbit: RabbitServer, exchange: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(rabbit.url))
        self._channel, self.name = self._connection.channel(), f"queue-{exchange}"
        self._channel.exchange_declare(exchange, "topic", durable=True)
        self._channel.queue_declare(self.name, durable=True)
        self._channel.queue_bind(self.name, exchange, "#")

    def count(self) -> int:
        return int(self._channel.queue_declare(self.name, durable=True, passive=True).method.message_count)

    def rate(self, number: int, timeout: float = 600) -> float:
        """Messages a second, from the first to the last of so many."""
        wait_until(lambda: self.count() > 0, timeout)
        started, first = time.perf_counter(), self.count()
        wait_until(lambda: self.count() >= number, timeout)
        rate = (number - first) / (time.perf_counter() - started)
        self._channel.queue_purge(self.name)
        self._connection.close()
        return rate


def bodies(path: Path) -> list[bytes]:
    with sqlite3.connect(path) as db:
        return [row[0].encode() for row in db.execute("SELECT data FROM event ORDER BY row")]


def raw(url: str, exchange: str, messages: list[bytes]) -> None:
    """pika as fast as it goes: one channel, 1,000 unconfirmed, no order to keep and nothing to remember."""
    state = {"next": 0}
    unconfirmed: set[int] = set()
    properties = pika.BasicProperties(delivery_mode=2, content_type="application/cloudevents+json")

    def publish() -> None:
        while len(unconfirmed) < 1000 and state["next"] < len(messages):
            state["next"] += 1
            unconfirmed.add(state["next"])
            channel.basic_publish(
                exchange, "dicom.instance.stored", messages[state["next"] - 1], properties, mandatory=True
            )

    channel: Any = None
    connection: Any = None

    def confirmed(frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            unconfirmed.difference_update([each for each in unconfirmed if each <= tag])
        else:
            unconfirmed.discard(tag)
        publish()
        if not unconfirmed:
            connection.close()

    def opened(new: Any) -> None:
        nonlocal channel
        channel = new
        channel.confirm_delivery(confirmed, callback=lambda _frame: publish())

    connection = pika.SelectConnection(
        pika.URLParameters(url),
        on_open_callback=lambda new: new.channel(on_open_callback=opened),
        on_close_callback=lambda *_: connection.ioloop.stop(),
    )
    connection.ioloop.start()


def a_confirm_each(url: str, exchange: str, messages: list[bytes]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for message in messages:
        channel.basic_publish(exchange, "dicom.instance.stored", message, pika.BasicProperties(delivery_mode=2))
    connection.close()


def a_connection_each(url: str, exchange: str, messages: list[bytes]) -> None:
    for message in messages:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        connection.channel().basic_publish(
            exchange, "dicom.instance.stored", message, pika.BasicProperties(delivery_mode=2)
        )
        connection.close()


def drain(folder: Path) -> None:
    number, rounds = 50_000, 3
    print(f"draining {number:,} events of {SERIES} series to RabbitMQ (best of {rounds}, interleaved)")
    fill(folder / "full.sqlite", number)
    messages = bodies(folder / "full.sqlite")
    rates: dict[str, list[float]] = {}

    def measure(name: str, rabbit: RabbitServer, count: int, start: Callable[[str], Any]) -> None:
        exchange = f"x{len(rates)}-{len(rates.get(name, []))}"
        queue = Queue(rabbit, exchange)
        running = start(exchange)
        rates.setdefault(name, []).append(queue.rate(count))
        if isinstance(running, ExitStack):
            running.close()
        else:
            running.join()

    with rabbit_server(folder) as rabbit:

        def in_process(function: Callable[..., None], count: int) -> Callable[[str], Any]:
            def start(exchange: str) -> Any:
                process = multiprocessing.get_context("fork").Process(
                    target=function, args=(rabbit.url, exchange, messages[:count])
                )
                process.start()
                return process

            return start

        def ours(exchange: str) -> ExitStack:
            stack, home = ExitStack(), Path(tempfile.mkdtemp(dir=folder))
            (home / "storage").mkdir()
            shutil.copy(folder / "full.sqlite", home / "storage" / "dicom_events.sqlite")
            broker = {"Type": "rabbitmq", "RabbitConfig": {"URL": rabbit.url, "Exchange": exchange}}
            server = stack.enter_context(orthanc_server(home, SCRIPT, {"DicomEvents": {"Broker": broker}}))
            server.start()
            return stack

        for _ in range(rounds):
            measure("raw pika, asynchronous confirms", rabbit, number, in_process(raw, number))
            measure("this outbox", rabbit, number, ours)
        measure("a confirm for each event", rabbit, 5_000, in_process(a_confirm_each, 5_000))
        measure("a connection for each event", rabbit, 1_000, in_process(a_connection_each, 1_000))
    best = max(rates["raw pika, asynchronous confirms"])
    for name, found in rates.items():
        each_round = ", ".join(f"{each:,.0f}" for each in found)
        print(f"  {name:34} {max(found):10,.0f} events/s  {max(found) / best:5.2f} of raw   ({each_round})")


# -- storing --------------------------------------------------------------------------------------------------------


def ingest(folder: Path) -> None:
    print("storing by C-STORE, two associations, all events on and written to a file, over a script that does nothing;")
    print("beside it the least that any script can do that has the image on disk before its callback returns")
    for size, number, rounds in ((64, 500, 18), (512, 100, 60)):  # short ones, many: the machine's own rate drifts
        scripts: dict[str, str | Path] = {
            "nothing": NOTHING,
            "least": LEAST.format(path=str(folder / f"least{size}.sqlite")),
            "events": SCRIPT,
        }
        with ExitStack() as stack:
            servers = {
                name: stack.enter_context(
                    orthanc_server(folder / f"{name}{size}", script, {"DicomEvents": {"Events": ALL_EVENTS}})
                )
                for name, script in scripts.items()
            }
            for server in servers.values():
                server.start()
            rates: dict[str, list[float]] = {name: [] for name in servers}
            used: dict[str, float] = {}
            orders = list(itertools.permutations(servers))
            for each in range(rounds + 1):
                files = write_files(folder / "files", size, number, each)
                for name in orders[each % len(orders)]:
                    if each == 1:
                        used[name] = -processor_seconds(servers[name])  # the first round warms up
                    os.sync()  # what the one before has left to write is not this one's
                    rates[name].append(send(servers[name], files))
                shutil.rmtree(folder / "files")
            status = "/dicom-events/status"
            wait_until(lambda: not servers["events"].get(status)["Brokers"]["file"]["Backlog"])  # noqa: B023
            images = 2 * number * rounds
            each_used = {name: (used[name] + processor_seconds(servers[name])) / images * 1e6 for name in servers}
            medians = {name: statistics.median(found[1:]) for name, found in rates.items()}
            print(
                f"  {size}x{size}: "
                + ", ".join(f"{name} {found:,.0f}" for name, found in medians.items())
                + " a second"
            )
            for name in ("events", "least"):
                pairs = list(zip(rates["nothing"][1:], rates[name][1:], strict=True))
                added = statistics.median(1e6 / b - 1e6 / a for a, b in pairs)
                if name == "events":
                    ratio = statistics.median(b / a for a, b in pairs)
                    what = f"events, storing {size}x{size}: rate over a script that does nothing"
                    goals.least(what, ratio, 0.9 if size == 64 else 0.95)
                print(
                    f"    {name}: ratio {statistics.median(b / a for a, b in pairs):.3f} (all: "
                    f"{' '.join(f'{b / a:.2f}' for a, b in pairs)})\n      added to each image: {added:.0f} µs of time, "
                    f"{each_used[name] - each_used['nothing']:.0f} µs of processors ({each_used['nothing']:.0f} without)"
                )
            published = servers["events"].get(status)["Brokers"]["file"]["Published"]
            assert published >= 2 * number * (rounds + 1), published


def write_files(folder: Path, size: int, number: int, seed: int) -> list[Path]:
    """Two folders, one for each association, of series of a hundred images."""
    for half in range(2):
        (folder / str(half)).mkdir(parents=True)
        study = make_study(seed=(seed, half), series=number // 100, instances=100, rows=size, columns=size)
        for each, content in enumerate(study):
            (folder / str(half) / f"{each:06}.dcm").write_bytes(content)
    return [folder / str(half) for half in range(2)]


def send(server: OrthancServer, folders: list[Path]) -> float:
    program = shutil.which("dcmsend")
    assert program
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [program, "-dn", "-nuc", "-aec", server.aet, "+sd", "127.0.0.1", str(server.dicom_port), str(folder)],
            env={**os.environ, **DCMTK_ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder in folders
    ]
    assert not any(each.wait() for each in running)
    return sum(len(list(folder.iterdir())) for folder in folders) / (time.perf_counter() - started)


# -- the archive ----------------------------------------------------------------------------------------------------

TIMED = """
import json, sys, time
import orthanc
spent = {{}}
def timed(name, function):
    def wrapped(*arguments):
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent.setdefault(name, []).append(time.perf_counter() - started)
    return wrapped
for kind in ("OnStoredInstance", "OnChange"):
    real = getattr(orthanc, f"Register{{kind}}Callback")
    setattr(orthanc, f"Register{{kind}}Callback", lambda function, real=real, kind=kind: real(timed(kind, function)))
sys.path.insert(0, {root!r})
import dicom_events.applier
import dicom_events.completion
completer = dicom_events.completion.Completer
completer._resource = timed("completing a stable event", completer._resource)
applier = dicom_events.applier.Applier
def apply(self, lines, real=applier._apply):
    started = time.perf_counter()
    real(self, lines)
    spent.setdefault("bringing a line into the outbox", []).extend([(time.perf_counter() - started) / len(lines)] * len(lines))
applier._apply = apply
def show(output, uri, **request):
    means = {{name: [sum(each) / len(each) * 1e6, len(each)] for name, each in spent.items()}}
    output.AnswerBuffer(json.dumps(means), "application/json")
    spent.clear()
orthanc.RegisterRestCallback("/spent", show)
"""


TIDIED = 15.0  # seconds


def archive(folder: Path) -> None:
    """Run it with ORTHANC and ORTHANC_PYTHON_PLUGIN set to 1.12.7, where reading one resource grows with the archive."""
    print("the cost of an event by the size of the archive")
    costs: dict[str, list[float]] = {}
    with orthanc_server(folder / "archive", TIMED.format(root=str(ROOT)), {"StableAge": 1}) as server:
        server.start()
        print(f"  Orthanc {server.get('/system')['Version']}")
        have = 0
        for studies in (300, 10_000):
            fill_archive(server, have, studies, folder)
            have = studies
            server.wait_until(lambda: not server.get("/dicom-events/status")["Brokers"]["file"]["Backlog"], 300)
            time.sleep(TIDIED)  # the rows of what filled it are deleted meanwhile, and are no cost of these events
            server.get("/spent")
            server.store_scu(
                [each for seed in range(50) for each in make_study(patient_id=f"N{studies}-{seed}", instances=10)]
            )
            server.wait_until(lambda: server.get("/dicom-events/status")["Brokers"]["file"]["Backlog"] == 0)
            time.sleep(6)
            for name, (mean, number) in server.get("/spent").items():
                print(f"  {studies:6,} studies: {name:31} {mean:8.0f} µs, mean of {number}")
                costs.setdefault(name, []).append(mean)
    for name, (small, large) in costs.items():
        goals.most(f"events, {name}, with 10,000 studies over 300", large / small, 1.5)


def fill_archive(server: OrthancServer, have: int, studies: int, folder: Path) -> None:
    """One image a study, small."""
    for half in range(2):
        (folder / "fill" / str(half)).mkdir(parents=True)
    for number in range(have, studies):
        content = make_study(patient_id=f"P{number}", rows=8, columns=8)[0]
        (folder / "fill" / str(number % 2) / f"{number:06}.dcm").write_bytes(content)
    send(server, [folder / "fill" / "0", folder / "fill" / "1"])
    shutil.rmtree(folder / "fill")


# -- memory ---------------------------------------------------------------------------------------------------------


def memory(folder: Path) -> None:
    number = 1_000_000
    print("memory of Orthanc while events wait for a broker that is away, and while a file takes them all")
    found = {}
    for waiting in (1_000, number):
        home = folder / f"memory{waiting}"
        (home / "storage").mkdir(parents=True)
        fill(home / "storage" / "dicom_events.sqlite", waiting)
        size = (home / "storage" / "dicom_events.sqlite").stat().st_size
        brokers = {
            "away": {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://127.0.0.1:1/"}},
            "file": {"Type": "file"},
        }
        with orthanc_server(home, SCRIPT, {"DicomEvents": {"Brokers": brokers}}) as server:
            samples = Samples(server)
            server.start()
            samples.start()
            server.store_scu(make_study(instances=500, rows=8, columns=8))
            started = time.perf_counter()
            server.wait_until(lambda: server.get("/dicom-events/status")["Brokers"]["file"]["Backlog"] == 0, 900)
            took = time.perf_counter() - started
            status = server.get("/dicom-events/status")["Brokers"]["away"]
            assert status["Backlog"] == waiting + 500, status
            found[waiting] = samples.stop()
        print(
            f"  {waiting:9,} wait ({size / 1e6:7,.1f} MB on disk): at most {found[waiting]:5.0f} MB resident; "
            f"the file took {waiting / max(took, 0.001):,.0f} a second"
        )
    print(f"  {found[number] - found[1_000]:+.0f} MB for {number:,} events")


class Samples(threading.Thread):
    """The most memory that a server was seen to have, in MB."""

    def __init__(self, server: OrthancServer) -> None:
        super().__init__(daemon=True)
        self._server, self._most, self._done = server, 0.0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.2):
            assert self._server.process
            status = Path(f"/proc/{self._server.process.pid}/status").read_text()
            if resident := re.search(r"VmRSS:\s+(\d+)", status):
                self._most = max(self._most, int(resident[1]) / 1024)

    def stop(self) -> float:
        self._done.set()
        self.join()
        return self._most


PARTS = {"drain": drain, "ingest": ingest, "archive": archive, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; all if none is named")
    chosen = parser.parse_args().parts or list(PARTS)
    for name in chosen:
        if name not in PARTS:
            sys.exit(f"{name}: one of {', '.join(PARTS)}")
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
