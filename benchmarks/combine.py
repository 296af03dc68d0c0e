# SPDX-License-Identifier: AGPL-3.0-or-later
"""What combining costs: an event, a call of a route, and the load, each beside what it is without (make bench-combine).

An event and a route are timed inside a real Orthanc, by a script that calls what the runtime registered as the plugin
does; a whole request is timed from outside. The load is timed with the stand-in, in a fresh process each time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).parent.parent))
from testing.server import OrthancServer

ROOT = Path(__file__).parent.parent
SCRIPTS = 10
EVENTS = 20_000
LINES = 10_000

SCRIPT = """\
import orthanc
seen = 0
def on_change(change, level, resource):
    global seen
    seen += 1
def answer(output, uri, **request):
    output.AnswerBuffer(b"x", "text/plain")
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/plain{n}", answer)
"""

# As many routes as the combined file has: Orthanc tries one after the other.
ROUTES = """\
for number in range(2, 14):
    orthanc.RegisterRestCallback(f"/other{number}", answer)
"""

# Runs inside Orthanc: the same handlers, called straight and through the runtime, on a thread that Python did not start.
METER = """\
import _thread, json, statistics, sys, threading, time
import orthanc
def meter(output, uri, **request):
    runtime = sys.modules["combined"].RUNTIME
    callbacks = runtime.changes.callbacks
    plain = [callback.function for callback in callbacks]
    route = next(one for script in runtime.scripts for one in script.callbacks if one.kind.endswith("/plain1"))
    class Output:
        def AnswerBuffer(self, body, mime):
            pass
    result = {}
    def timed(function, times):
        begin = time.perf_counter()
        for _ in range(times):
            function()
        return (time.perf_counter() - begin) / times * 1e6
    def measure():
        event = (orthanc.ChangeType.NEW_INSTANCE, 3, "d5604121-7d613ce6-c315a5-a77b3cf3-9c253b23")
        def straight():
            for function in plain:
                function(*event)
        def combined():
            runtime.changes(*event)
        def until_all_ran(times):
            calls = callbacks[-1].calls + times
            begin = time.perf_counter()
            for _ in range(times):
                combined()
            while callbacks[-1].calls < calls:
                time.sleep(0.0005)
            return (time.perf_counter() - begin) / times * 1e6
        request = {"method": "GET", "groups": (), "headers": {"host": "x"}, "get": {}}
        rounds = range(5)
        result["straight"] = min(timed(straight, EVENTS) for _ in rounds)
        result["combined"] = min(until_all_ran(EVENTS) for _ in rounds)
        result["route"] = min(timed(lambda: route.function(Output(), "/x", **request), EVENTS) for _ in rounds)
        result["combined route"] = min(timed(lambda: route(Output(), "/x", **request), EVENTS) for _ in rounds)
        def processor(function):
            begin = time.process_time()
            for _ in range(1000):
                function()
                time.sleep(0.001)
            return (time.process_time() - begin) / 1000 * 1e6
        nothing = lambda: None
        result["one by one"] = statistics.median(processor(combined) - processor(nothing) for _ in range(7))
        done.release()
    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(measure, ())
    done.acquire()
    output.AnswerBuffer(json.dumps(result), "application/json")
orthanc.RegisterRestCallback("/meter", meter)
"""


def combine(folder: Path, texts: list[str]) -> Path:
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"script_{number}.py")
        paths[-1].write_text(text)
    (folder / "out").mkdir(exist_ok=True)
    subprocess.run([sys.executable, ROOT / "combine.py", *paths, "-o", folder / "out" / "combined.py"], check=True)
    return folder / "out" / "combined.py"


def request_times(urls: list[str]) -> list[float]:
    """Microseconds of a whole request over one kept connection, the median of many, the servers taking turns."""
    session = requests.Session()
    times: list[list[float]] = [[] for _ in urls]
    for _ in range(3000):
        for url, found in zip(urls, times, strict=True):
            begin = time.perf_counter()
            session.get(url)
            found.append(time.perf_counter() - begin)
    return [statistics.median(found) * 1e6 for found in times]


def measure_callbacks(folder: Path, scripts: int) -> None:
    folder.mkdir()
    texts = [SCRIPT.replace("{n}", str(number)) for number in range(scripts)]
    texts.append(METER.replace("EVENTS", str(EVENTS)))
    (folder / "alone.py").write_text(SCRIPT.replace("{n}", "1") + ROUTES)
    together = OrthancServer(folder / "together", combine(folder, texts)).start()
    alone = OrthancServer(folder / "alone", folder / "alone.py").start()
    try:
        result = together.get("/meter")
        whole = request_times([f"{alone.url}/plain1", f"{together.url}/plain1"])
    finally:
        for server in (together, alone):
            server.stop()
            server.close()
    per_script = {name: result[name] / scripts for name in ("straight", "combined", "one by one")}
    print(f"{scripts} scripts")
    row("an event and script, in a burst", per_script["straight"], per_script["combined"])
    row("an event and script, each awaited (CPU)", per_script["straight"], per_script["one by one"])
    row("a call of a route", result["route"], result["combined route"])
    row("a whole request of that route", whole[0], whole[1])


def row(what: str, without: float, combined: float, unit: str = "us") -> None:
    print(f"{what:<42} {without:10.2f} {unit}  {combined:10.2f} {unit}  {combined - without:+10.2f} {unit}")


def module_text(number: int) -> str:
    """A tenth of ten thousand lines, as scripts are: functions, classes, comments."""
    block = (
        "# Why the next one is there, in a line of the usual length.\n"
        "def function_{n}(first, second=None, *rest, **named):\n"
        '    """What it does: one line."""\n'
        "    if second is None and named.get('key') != first:\n"
        "        second = [item * 2 for item in rest if item % 3 == {n}]\n"
        "    try:\n"
        "        return {{'first': first, 'second': second, 'sum': sum(rest)}}\n"
        "    except TypeError as error:\n"
        "        raise ValueError(f'function_{n} can not add {{rest}}') from error\n\n"
    )
    blocks = [block.format(n=n) for n in range(LINES // SCRIPTS // 10)]
    return f"import orthanc\nimport json, threading, sqlite3, http.client\nnumber = {number}\n" + "".join(blocks)


def measure_load(folder: Path) -> None:
    folder.mkdir()
    texts = [module_text(number) for number in range(SCRIPTS)]
    file = combine(folder, texts)
    program = (
        "import sys, time; sys.path[:0] = sys.argv[1:3]\n"
        "from testing.standin import StandIn\n"
        "standin = StandIn('5.0'); sys.modules['orthanc'] = standin.module\n"
        "import importlib\n"
        "begin = time.perf_counter()\n"
        "for name in sys.argv[3:]: importlib.import_module(name)\n"
        "print(time.perf_counter() - begin)\n"
    )

    def load(where: Path, *names: str) -> float:
        command = [sys.executable, "-c", program, str(ROOT), str(where), *names]
        times = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(7)]
        return min(times) * 1000

    names = [f"script_{number}" for number in range(SCRIPTS)]
    row(
        f"load of {file.read_text().count(chr(10)):,} combined lines",
        load(folder, *names),
        load(file.parent, "combined"),
        "ms",
    )


def main() -> None:
    print(f"{'':<42} {'without':>13}  {'combined':>13}  {'more':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for scripts in (2, SCRIPTS):
            measure_callbacks(Path(folder) / f"{scripts}", scripts)
        measure_load(Path(folder) / "load")
    print(json.dumps({"scripts": SCRIPTS, "events": EVENTS, "python": sys.version.split()[0]}))


if __name__ == "__main__":
    main()
