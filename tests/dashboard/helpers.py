# SPDX-License-Identifier: AGPL-3.0-or-later
"""All scripts in one file, and a browser, for the tests of dashboard.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove

from testing.demo import scripts
from testing.server import OrthancServer
from tests.brokers import RabbitServer

expect.set_options(timeout=30_000)  # a machine that runs other tests too may be slow
ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "dashboard"
AWAY_NAME = "RESEARCH"
PANELS = ["flow", "destinations", "deliveries", "jobs", "retention", "audit", "rules", "events", "moves", "deidentification",
          "scripts"]  # fmt: skip
SECRET = "0123456789abcdef" * 2
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
# Sections without which a script has nothing to do.
SECTIONS: dict[str, Any] = {
    "AuditLog": {"Key": SECRET},
    "PurgeOldStudies": {"KeepReceivedDays": 0, "Rules": [{"Name": "seven years", "OlderThan": "7y", "At": "02:30"}]},
    "SeriesMainPrivateDicomTags": ["0009,1001:MINE"],
    "AnonymizeSeries": {"Secret": SECRET, "Recipes": {"research": {}}},
}


class Hook:
    """A server that refuses all events for good, until it takes them."""

    def __init__(self) -> None:
        self.status, self.taken = 422, 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                hook.taken += hook.status < 300
                self.send_response(hook.status, "no" if hook.status > 299 else "OK")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def letters(server: OrthancServer) -> int:
    """The number of dead letters."""
    return int(server.get("/dicom-events/dead-letters")["Total"])


def c_move(server: OrthancServer, study: str, target: str) -> str:
    """Ask by C-MOVE that a study goes to a node, and wait for the end; return its StudyInstanceUID."""
    uid = str(server.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"])
    node = AE("MOVER")
    node.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    association = node.associate("127.0.0.1", server.dicom_port, ae_title=server.aet)
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", uid
    list(association.send_c_move(wanted, target, StudyRootQueryRetrieveInformationModelMove))
    association.release()
    return uid


def deidentify(server: OrthancServer, study: str) -> None:
    """Make a copy, and wait for it."""
    server.post(f"/anonymize-series/{study}", {"Recipe": "research"})
    server.wait_until(
        lambda: server.get("/anonymize-series/jobs")["Items"][-1]["State"] in ("done", "partly"),
        what="make a copy",
        timeout=60,
    )


class Pair(NamedTuple):
    """The Orthanc with all scripts, its destinations, one that works, one that is not started, and its broker."""

    main: OrthancServer
    works: OrthancServer
    dead: OrthancServer
    rabbit: RabbitServer


def combine(target: Path, *paths: Path) -> Path:
    """One script of these in a file; of all, if none is named."""
    chosen = map(str, paths or scripts())
    subprocess.run([sys.executable, str(ROOT / "combine.py"), *chosen, "-o", str(target)], check=True)
    return target


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield browser
        browser.close()


class Watched:
    """A page, and what went wrong in it: errors of its code, and what its policy blocked."""

    def __init__(self, browser: Browser, **context: Any) -> None:
        self.page: Page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}).new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self._note(line.type, line.text))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and "Failed to load resource" not in text:
            self.errors.append(text)

    def open(self, url: str, panel: str = "") -> Page:
        """Open a panel, and wait until it shows what the summary says."""
        self.page.goto(f"{url}/dashboard#/{panel}")
        self.page.wait_for_selector("main h1")
        self.page.wait_for_selector("main .loading", state="detached")
        return self.page

    def answer(self, button: str, came: str) -> None:
        """Press a button of the dialog, and close it when it says what came of it."""
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("button", name=button, exact=True).click()
        expect(dialog).to_contain_text(came)
        dialog.get_by_role("button", name="Close").click()
