# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench: runs the benchmarks, one after the other, and writes what came of them into benchmarks/RESULTS.md.

    make bench                                 all of them: about an hour, on a machine that does nothing else
    make bench BENCH_ARGS="purge thumbnails"   only these; the others keep the results that they have

Each has a date, a machine and versions of its own: they are kept, with all that was printed, in benchmarks/results.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.goals import KEPT_IN, Figure
from testing.server import OrthancServer, embedded_python

ROOT = Path(__file__).parents[1]
KEPT, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "benchmarks" / "RESULTS.md"
# In this order, with what `make bench-NAME` gives them besides.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "all-scripts": (),
    "forward": (),
    "forward-kills": (),
    "forward-growth": (),
    "cmove": (),
    "events": (),
    "purge": ("--studies", "3000"),
    "thumbnails": (),
    "private-tags": (),
    "audit": (),
    "dashboard": (),
    "combine": (),
    "scripting": (),
    "ledger": (),
}
NO_NEWS = re.compile(r"^WARNING: Location .*\n", re.MULTILINE)  # of pip, about the packages of one machine


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    return {
        "Processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "Memory": f"{memory / 2**20:.0f} GiB",
        "System": f"{system.get('PRETTY_NAME', 'Linux')}, Linux {'.'.join(platform.release().split('.')[:2])}",
    }


def versions() -> dict[str, str]:
    """Return the versions of what was measured: of Orthanc as it says itself, and of the collection."""
    with tempfile.TemporaryDirectory() as folder:
        server = OrthancServer(Path(folder), "import orthanc\n").start()
        try:
            orthanc = str(server.get("/system")["Version"])
            plugin = str(server.get("/plugins/python")["Version"])
        finally:
            server.kill()
            server.close()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    python = ".".join(map(str, embedded_python()))
    return {"Orthanc": f"{orthanc}, Python plugin {plugin}, Python {python}", "Commit": commit.stdout.strip()}


def run(name: str) -> dict[str, Any]:
    """Run one benchmark; return its figures and all that it printed."""
    program, given = f"benchmarks.{name.replace('-', '_')}", BENCHMARKS[name]
    with tempfile.TemporaryDirectory() as folder:
        kept, begin = Path(folder) / "goals", time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", program, *given],
            cwd=ROOT,
            env={**os.environ, KEPT_IN: str(kept)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        figures = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    return {
        "Command": f"make bench-{name}" + (f' BENCH_ARGS="{" ".join(given)}"' if given else ""),
        "Date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "Seconds": round(time.monotonic() - begin),
        "Status": done.returncode,
        "Figures": figures,
        "Printed": NO_NEWS.sub("", done.stdout).strip("\n"),
    }


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page: the figures that have a goal first, then what each benchmark printed."""
    lines = [
        "# Results of the benchmarks",
        "",
        "Written by `make bench`: no figure here is typed. Ratios come from one run, side by side, on one machine; they say more",
        "than the absolute figures beside them. [docs/performance.md](../docs/performance.md) says what they mean.",
        "",
        "| What | Measured | Goal | Short by | Command |",
        "|---|---|---|---|---|",
    ]
    for result in results.values():
        figures = [Figure(**each) for each in result["Figures"]]
        lines += [
            f"| {each.what} | {each.measured} | {each.goal} | {f'{each.short_by:.0%}' if each.short_by else ''} | "
            f"`{result['Command']}` |"
            for each in figures
        ]
        if result["Status"]:
            lines.append(f"| the benchmark itself | ended with {result['Status']} | 0 | | `{result['Command']}` |")
    for name, result in results.items():
        measured_on = [f"{key}: {value}" for key, value in result["On"].items()]
        lines += ["", f"## {name}", "", f"`{result['Command']}`, {result['Date']}, {result['Seconds']} s.", ""]
        lines += ["; ".join(measured_on) + ".", "", "```", result["Printed"], "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Return 1 if a benchmark broke off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"unknown: {', '.join(unknown)}; allowed: {', '.join(BENCHMARKS)}")
    on = {**machine(), **versions()}
    results: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in names:
        print(f"{name} …", flush=True)
        results[name] = {**run(name), "On": on}
        figures = [Figure(**each) for each in results[name]["Figures"]]
        missed = sum(each.short_by > 0 for each in figures)
        print(f"{name}: {len(figures)} figures, {missed} short of their goal, {results[name]['Seconds']} s", flush=True)
        results = {each: results[each] for each in BENCHMARKS if each in results}
        KEPT.write_text(json.dumps(results, indent=1) + "\n")
        PAGE.write_text(page(results))
    broken = [name for name in names if results[name]["Status"]]
    for name in broken:
        print(f"{name} broke off: {results[name]['Printed'].splitlines()[-1:]}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
