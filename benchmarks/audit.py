# SPDX-License-Identifier: AGPL-3.0-or-later
"""What audit_log.py adds to a request whose route it does not write down: at most 50 microseconds in the mean.

20,000 `GET /system` each to an Orthanc with the script (watching requests), to one with the Python plugin whose script does
nothing, and to one whose filter only returns True (what the plugin itself takes for a filter), in turns of 50, over one kept
connection each.

    make bench-audit          BENCH_ARGS="--requests 20000"
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
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
            missed = "" if ours - nothing <= MOST else "   MISSED"
            print(f"Orthanc {servers[0].get('/system')['Version']}, {len(times[0])} GET /system each: "
                  f"{ours:.1f} µs with audit_log, {nothing:.1f} µs without: {ours - nothing:+.1f} µs "
                  f"(at most {MOST:g}), of which a filter that does nothing takes {bare - nothing:+.1f} µs{missed}")  # fmt: skip
        finally:
            for server in servers:
                server.close()


if __name__ == "__main__":
    main()
