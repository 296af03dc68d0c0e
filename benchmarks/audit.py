# SPDX-License-Identifier: AGPL-3.0-or-later
"""What audit_log.py adds to a request whose route it does not write down: at most 50 microseconds in the mean.

20,000 `GET /system` each to an Orthanc with the script (watching requests), to one with the Python plugin whose script does
nothing, and to one whose filter only returns True (what the plugin itself takes for a filter), in turns of 50, over one kept
connection each.

Then pages of a log of 500,000 lines, over a kept connection: at most 20 ms each, in the median of 20, once the lines were read
ahead after the start.

    make bench-audit          BENCH_ARGS="--requests 20000"
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.load import latencies, request_bytes
from testing.server import OrthancServer

SCRIPT = Path(__file__).parent.parent / "audit_log.py"
NOTHING = "import orthanc\northanc.LogInfo('does nothing')\n"
FILTER = """
import orthanc

def on_request(uri, **request):
    return True

orthanc.RegisterIncomingHttpRequestFilter(on_request)
"""
CONFIGURATION: dict[str, Any] = {"AuditLog": {"Key": "k" * 32, "WatchRequests": True}}
TURN = 50  # requests to one server before the other's
MOST = 50.0  # microseconds
PAGES = {
    "the first": "",
    "the last": "?after={last}",
    "of an event": "?event=sent",
    "of a study": "?study=s12345",
    "of a day": "?since=20240103&until=20240104",
    "of an event on a day": "?event=sent&since=20240103&until=20240104",
}
MOST_OF_PAGE = 20.0  # milliseconds
LINES_PER_FILE = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--lines", type=int, default=500_000, help="of the log whose pages are read")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        servers = [OrthancServer(Path(folder) / name, script, CONFIGURATION)
                   for name, script in (("ours", SCRIPT), ("nothing", NOTHING), ("filter", FILTER))]  # fmt: skip
        try:
            for server in servers:
                server.start()
            servers[0].wait_until(lambda: servers[0].get("/audit-log/status")["WatchesRequests"])
            times: list[list[float]] = [[], [], []]
            for turn in range(given.requests // TURN + 10):
                for server, column in zip(servers, times, strict=True):
                    found = latencies(server.http_port, [request_bytes("/system")] * (TURN + 1))
                    column += found[1:] if turn >= 10 else []  # the first connects, and the first turns warm up
            ours, nothing, bare = (1e6 * statistics.fmean(column) for column in times)
            print(f"Orthanc {servers[0].get('/system')['Version']}, {len(times[0])} GET /system each: "
                  f"{ours:.1f} µs with audit_log, {nothing:.1f} µs without: {ours - nothing:+.1f} µs, "
                  f"of which a filter that does nothing takes {bare - nothing:+.1f} µs")  # fmt: skip
            goals.most("audit log, what a request takes longer", ours - nothing, MOST, "µs")
        finally:
            for server in servers:
                server.close()
    pages(given.lines)


def write_log(folder: Path, lines: int) -> None:
    """Write a log as the script does (but for its MACs), of thirty lines a study, a hundred thousand a day."""
    folder.mkdir()
    for first in range(1, lines + 1, LINES_PER_FILE):
        with (folder / f"audit-{first:012}.jsonl").open("w") as file:
            for number in range(first, min(first + LINES_PER_FILE, lines + 1)):
                line = {
                    "Number": number,
                    "At": f"2024-01-{1 + number // 100_000:02}T{number % 100_000 // 5000:02}:00:00.000Z",
                    "Event": "sent" if number % 7 == 0 else "received",
                    "Patient": f"P{number // 60}",
                    "Study": f"s{number // 30}",
                    "StudyInstanceUID": f"1.2.826.0.1.{number // 30}",
                    "From": "MODALITY",
                    "Instances": 1,
                    "Mac": "0" * 64,
                }
                file.write(json.dumps(line) + "\n")


def pages(lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder) / "log", lines)
        section = {**CONFIGURATION["AuditLog"], "Path": str(Path(folder) / "log")}
        server = OrthancServer(Path(folder) / "server", SCRIPT, {"AuditLog": section})
        try:
            server.start()
            begin = time.perf_counter()
            total = server.get("/audit-log", limit=1)["Total"]
            print(
                f"a log of {total} lines: the first page right after the start took {time.perf_counter() - begin:.2f} s"
            )
            for name, query in PAGES.items():
                request = request_bytes(f"/audit-log{query.format(last=total - 100)}")
                took = 1000 * statistics.median(latencies(server.http_port, [request] * 21)[1:])
                goals.most(f"audit log of {total:,} lines, page: {name}", took, MOST_OF_PAGE, "ms")
        finally:
            server.close()


if __name__ == "__main__":
    main()
