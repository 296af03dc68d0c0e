# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench-dashboard: the first view, an update, and the memory of the page, with many deliveries and many studies.

All scripts combined on one Orthanc; its archive holds --studies, the ledger of a forwarder --deliveries. In Chromium: the time
from the address to the first figures; the processor time of the server for an update, with the page open and without; the
memory of the page over an hour whose clock is Playwright's: all timers run, 1,200 updates are answered, and in each tenth of
it every panel is opened.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, Request, sync_playwright

from benchmarks import goals
from benchmarks.load import processor_seconds
from testing.demo import scripts
from testing.dicom import make_study
from testing.server import OrthancServer

ROOT = Path(__file__).parent.parent
ROWS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?)
INSERT INTO work SELECT NULL,'PACS',printf('%08x-%08x-%08x-%08x-%08x',i,i,i,i,i),
    CASE WHEN i%100=0 THEN 'dead' ELSE 'done' END,1,0,'',NULL,'{"Level":"Study","Instances":null}',?,?,0,'send',?-(?-i)*60 FROM n
"""
NEWEST = "before=9007199254740991&limit=25"
PANELS = (
    "destinations",
    "deliveries",
    "jobs",
    "retention",
    "audit",
    "rules",
    "events",
    "moves",
    "deidentification",
    "scripts",
    "flow",
)
SUMMARY_SECONDS = 3  # between two updates (src/dashboard/page/app.js)
UNWATCHED_AFTER = 17.0  # seconds after the last request
BOUNDS = {"first view": 1.0, "update": 0.1}  # seconds


def prepared(folder: Path, studies: int, deliveries: int) -> OrthancServer:
    """Start an Orthanc with so many studies, and so many rows in a ledger."""
    combined = folder / "all.py"
    subprocess.run(
        [sys.executable, str(ROOT / "combine.py"), *map(str, scripts()), "-o", str(combined)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    configuration = {
        "StableAge": 3600,
        "DicomModalities": {"PACS": ["PACS", "127.0.0.1", 1]},
        "AutoForwardModality": {"Destinations": ["PACS"]},
    }
    server = OrthancServer(folder / "server", combined, configuration).start()
    for number in range(studies):
        server.store(make_study(seed=number, patient_id=f"P{number}", rows=16, columns=16))
    server.wait_until(lambda: server.request("GET", "/auto-forward-modality/status").ok, what="start")
    server.kill()
    with contextlib.closing(sqlite3.connect(folder / "server/storage/auto_forward_modality.sqlite")) as db, db:
        now = time.time()
        db.execute(ROWS, (deliveries, now, now, now, deliveries))  # one a minute
    return server.start()


def first_view(page: Page, url: str, panel: str = "") -> float:
    """Return the seconds from the address to the first figures."""
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(f"{url}/dashboard#/{panel}")
    page.wait_for_selector(".figures, main table")
    return time.perf_counter() - began


def update_cost(server: OrthancServer, path: str, times: int, pause: float) -> float:
    """Return the processor seconds that the server uses for one answer, beyond what it uses anyway."""
    begin = processor_seconds(server)
    time.sleep(times * pause)
    idle = processor_seconds(server) - begin
    begin = processor_seconds(server)
    for _ in range(times):
        server.get(path)
        time.sleep(pause)
    return (processor_seconds(server) - begin - idle) / times


def a_day(ago: int) -> str:
    """Return the parameters of a filter for the day so many days ago."""
    first = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(ago)
    return f"from={first}&to={first + datetime.timedelta(1)}"


def memory_of(page: Page) -> float:
    """Return the megabytes that the page's objects take, without what can be collected."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return float(used) / 1e6


def run_an_hour(page: Page, url: str, updates: int) -> list[float]:
    """Let the page update itself as often as in an hour, each panel in turn; return its memory at each tenth."""
    answered = [0]

    def count(request: Request) -> None:
        answered[0] += request.url.endswith("/dashboard/summary")

    page.on("requestfinished", count)
    page.clock.install()
    first_view(page, url)
    page.clock.pause_at(datetime.datetime.now().astimezone() + datetime.timedelta(seconds=1))
    seen = [memory_of(page)]
    for tenth in range(10):
        for number, panel in enumerate(PANELS):
            page.evaluate("(hash) => { window.location.hash = hash; }", f"#/{panel}")
            wanted = updates * (tenth * len(PANELS) + number + 1) // (10 * len(PANELS))
            while answered[0] < wanted:
                page.clock.run_for(SUMMARY_SECONDS * 1000)
        seen.append(memory_of(page))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=5000)
    parser.add_argument("--deliveries", type=int, default=100_000)
    parser.add_argument("--updates", type=int, default=3600 // SUMMARY_SECONDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = prepared(Path(folder), given.studies, given.deliveries)
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page()
            server.wait_until(lambda: server.request("GET", "/dashboard/summary").ok, what="look")
            views = {
                panel: statistics.median(first_view(page, server.url, panel) for _ in range(5))
                for panel in ("", "deliveries")
            }
            for panel, seconds in views.items():
                goals.most(f"dashboard, first view of {panel or 'flow'}", seconds, BOUNDS["first view"], "s")
            page.goto("about:blank")
            time.sleep(UNWATCHED_AFTER)  # from then on, the script looks every half minute only
            costs = {
                "summary": update_cost(server, "/dashboard/summary", 15, 2.1),  # each is looked at anew
                "deliveries": update_cost(server, f"/auto-forward-modality/deliveries?{NEWEST}", 20, 0.1),
                "those of a day": update_cost(
                    server, f"/auto-forward-modality/deliveries?{NEWEST}&{a_day(30)}", 20, 0.1
                ),
            }
            for name, seconds in costs.items():
                what = f"dashboard, an update of {name}: the server's processor"
                goals.most(what, seconds * 1000, BOUNDS["update"] * 1000, "ms")
            memory = run_an_hour(page, server.url, given.updates)
            print("memory of the page, MB, ", " ".join(f"{each:.1f}" for each in memory))
            browser.close()
        finally:
            server.kill()
            server.close()
    goals.most(
        "dashboard, memory of the page after an hour, over that after a fifth of it", memory[-1] / memory[2], 1.1
    )


if __name__ == "__main__":
    main()
